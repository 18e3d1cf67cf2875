//! Limits as what is written into the files of a group.

use std::fs;

use super::hierarchy::Version;
use super::place::Place;
use super::{Controller, Limits, Swap};

/// What is written into one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) file: &'static str,
    pub(super) text: String,
    /// What it limits.
    pub(super) what: &'static str,
    /// Nobody asked for it, so a kernel without that file does.
    pub(super) optional: bool,
}

/// The period that the kernel counts the processor's time in.
const PERIOD_MICROSECONDS: u64 = 100_000;

/// What `limits` come to in a group at `place`, in the order in which it is written.
pub(super) fn values(limits: &Limits, place: &Place) -> Vec<Value> {
    let mut values = Vec::new();
    for controller in &place.controllers {
        match (controller, place.version) {
            (Controller::Memory, version) => memory(limits, version, &mut values),
            (Controller::Cpu, version) => cpu(limits, version, &mut values),
            (Controller::Cpuset, Version::V1) => {
                // A new group has neither processors nor memory, and what is not asked for is what is above it.
                let above =
                    |file| fs::read_to_string(place.path.join(file)).unwrap_or_default().trim().to_owned();
                let cpus = limits.cpuset_cpus.clone().unwrap_or_else(|| above("cpuset.cpus"));
                let mems = limits.cpuset_mems.clone().unwrap_or_else(|| above("cpuset.mems"));
                values.push(value("cpuset.cpus", cpus, "processors"));
                values.push(value("cpuset.mems", mems, "memory nodes"));
            }
            (Controller::Cpuset, Version::V2) => {
                let cpus = limits.cpuset_cpus.clone().map(|cpus| value("cpuset.cpus", cpus, "processors"));
                let mems = limits.cpuset_mems.clone().map(|mems| value("cpuset.mems", mems, "memory nodes"));
                values.extend(cpus.into_iter().chain(mems));
            }
            (Controller::Freezer | Controller::CpuTime | Controller::BlockIo, _) => {}
            (Controller::Pids, _) => {
                values.extend(limits.pids.map(|count| value("pids.max", count.to_string(), "processes")));
            }
        }
    }
    values
}

fn value(file: &'static str, text: String, what: &'static str) -> Value {
    Value { file, text, what, optional: false }
}

fn memory(limits: &Limits, version: Version, values: &mut Vec<Value>) {
    let Some(memory) = limits.memory else { return };
    let (file, swap_file) = match version {
        Version::V1 => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        Version::V2 => ("memory.max", "memory.swap.max"),
    };
    values.push(value(file, memory.to_string(), "memory"));
    let both = limits.memory_swap.unwrap_or(Swap::Bytes(memory.saturating_mul(2)));
    let swap = match (both, version) {
        (Swap::Unlimited, Version::V1) => "-1".to_owned(),
        (Swap::Unlimited, Version::V2) => "max".to_owned(),
        (Swap::Bytes(both), Version::V1) => both.to_string(),
        (Swap::Bytes(both), Version::V2) => both.saturating_sub(memory).to_string(),
    };
    // Kernels that do not count swap do not have the file.
    let optional = limits.memory_swap.is_none();
    values.push(Value { optional, ..value(swap_file, swap, "swap") });
}

fn cpu(limits: &Limits, version: Version, values: &mut Vec<Value>) {
    let time = "processor time";
    match version {
        Version::V1 => {
            let period = limits.cpu_period.map(|period| value("cpu.cfs_period_us", period.to_string(), time));
            let quota = limits.cpu_quota.map(|quota| value("cpu.cfs_quota_us", quota.to_string(), time));
            let shares =
                limits.cpu_shares.map(|shares| value("cpu.shares", shares.to_string(), "processor shares"));
            values.extend(period.into_iter().chain(quota).chain(shares));
        }
        Version::V2 => {
            if limits.cpu_period.is_some() || limits.cpu_quota.is_some() {
                let quota = limits.cpu_quota.map_or("max".to_owned(), |quota| quota.to_string());
                let period = limits.cpu_period.unwrap_or(PERIOD_MICROSECONDS);
                values.push(value("cpu.max", format!("{quota} {period}"), time));
            }
            let weight = limits.cpu_shares.map(|shares| weight(shares).to_string());
            values.extend(weight.map(|weight| value("cpu.weight", weight, "processor shares")));
        }
    }
}

/// Shares of v1 (2 to 262144, usually 1024) as a weight of v2 (1 to 10000, usually 100): the curve of second degree in the
/// logarithm that takes the least, the usual and the most of the one to those of the other, as other runtimes do.
fn weight(shares: u64) -> u64 {
    let logarithm = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (logarithm * logarithm + 125.0 * logarithm) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(limits: Limits, version: Version, expected: &str) {
        let place = Place { path: "/no/such/group".into(), version, controllers: limits.controllers() };
        let written: Vec<String> = values(&limits, &place)
            .iter()
            .map(|it| format!("{}={}{}", it.file, it.text, if it.optional { "?" } else { "" }))
            .collect();
        assert_eq!(written.join(" "), expected, "{limits:?}");
    }

    fn limits() -> Limits {
        Limits::default()
    }

    #[test]
    fn limits_become_values() {
        use Version::{V1, V2};
        check(limits(), V1, "");
        check(Limits { pids: Some(9), ..limits() }, V1, "pids.max=9");
        check(Limits { pids: Some(9), ..limits() }, V2, "pids.max=9");
        let memory = Limits { memory: Some(1000), ..limits() };
        check(memory.clone(), V1, "memory.limit_in_bytes=1000 memory.memsw.limit_in_bytes=2000?");
        check(memory.clone(), V2, "memory.max=1000 memory.swap.max=1000?");
        let same = Limits { memory_swap: Some(Swap::Bytes(1000)), ..memory.clone() };
        check(same.clone(), V1, "memory.limit_in_bytes=1000 memory.memsw.limit_in_bytes=1000");
        check(same, V2, "memory.max=1000 memory.swap.max=0");
        let unlimited = Limits { memory_swap: Some(Swap::Unlimited), ..memory };
        check(unlimited.clone(), V1, "memory.limit_in_bytes=1000 memory.memsw.limit_in_bytes=-1");
        check(unlimited, V2, "memory.max=1000 memory.swap.max=max");
        let cpu =
            Limits { cpu_period: Some(50_000), cpu_quota: Some(25_000), cpu_shares: Some(1024), ..limits() };
        check(cpu.clone(), V1, "cpu.cfs_period_us=50000 cpu.cfs_quota_us=25000 cpu.shares=1024");
        check(cpu, V2, "cpu.max=25000 50000 cpu.weight=100");
        check(Limits { cpu_quota: Some(7000), ..limits() }, V2, "cpu.max=7000 100000");
        check(Limits { cpu_period: Some(7000), ..limits() }, V2, "cpu.max=max 7000");
        let set = Limits { cpuset_cpus: Some("0-1".to_owned()), ..limits() };
        check(set.clone(), V2, "cpuset.cpus=0-1");
        check(set, V1, "cpuset.cpus=0-1 cpuset.mems=");
    }

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        assert!((2..262_144).step_by(97).is_sorted_by_key(weight));
    }
}
