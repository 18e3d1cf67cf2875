//! Flags of `wharf build` that say what a step may take of the machine: text → [`StepLimits`].

use clap::Args;
use wharf_frontend::dockerfile2llb::parse_size;
use wharf_runtime::cgroup::{Limits, Swap};

use crate::worker::groups::StepLimits;

#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// Memory that the processes of a step may take together: 512m, 2g
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Memory and swap together, -1 for as much swap as there is [default: twice the memory]
    #[arg(long, value_name = "SIZE", requires = "memory", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Microseconds in which the processor time of a step is counted
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// Microseconds of processor time that a step gets in each period; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Share of the processor time when others want it too, where 1024 is usual
    #[arg(short, long, value_name = "SHARES")]
    cpu_shares: Option<u64>,
    /// Processors that a step may run on: 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that a step may take memory from: 0-1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Processes and threads that a step may have at once, -1 for no limit [default: 8192 where control groups can be made]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// The control group to make those of the steps in: a path from the top, or the name of a slice
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
}

/// The least memory that a step can be made in.
const MEMORY_MIN: u64 = 6 << 20;

/// What the kernel takes for a period and for a quota, in microseconds.
const PERIOD_RANGE: std::ops::RangeInclusive<u64> = 1000..=1_000_000;
const QUOTA_MIN: u64 = 1000;

impl LimitArgs {
    pub(super) fn parse(self) -> Result<StepLimits, String> {
        let memory = self.memory.as_deref().map(memory).transpose()?;
        let swap = self.memory_swap.as_deref().map(|text| swap(text, memory.unwrap_or(0))).transpose()?;
        if let Some(period) = self.cpu_period.filter(|period| !PERIOD_RANGE.contains(period)) {
            return Err(format!("--cpu-period {period}: want 1000 to 1000000 microseconds"));
        }
        let quota = match self.cpu_quota {
            None | Some(-1 | 0) => None,
            Some(quota) => match u64::try_from(quota) {
                Ok(quota) if quota >= QUOTA_MIN => Some(quota),
                _ => {
                    return Err(format!(
                        "--cpu-quota {quota}: want 1000 microseconds at least, or -1 for no limit"
                    ));
                }
            },
        };
        let pids = match self.pids_limit {
            None | Some(-1 | 0) => None,
            Some(count) => match u64::try_from(count) {
                Ok(count) => Some(count),
                Err(_) => return Err(format!("--pids-limit {count}: want a number, or -1 for no limit")),
            },
        };
        let set = |flag: &str, text: Option<String>| match text {
            Some(text) if !is_list(&text) => {
                Err(format!("{flag} {text}: want numbers and ranges such as 0-3,7"))
            }
            text => Ok(text),
        };
        Ok(StepLimits {
            asked: Limits {
                memory,
                memory_swap: swap,
                cpu_period: self.cpu_period,
                cpu_quota: quota,
                cpu_shares: self.cpu_shares.filter(|shares| *shares > 0),
                cpuset_cpus: set("--cpuset-cpus", self.cpuset_cpus)?,
                cpuset_mems: set("--cpuset-mems", self.cpuset_mems)?,
                pids,
            },
            unlimited_pids: pids.is_none() && self.pids_limit.is_some(),
            parent: self.cgroup_parent,
        })
    }
}

fn memory(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Some(bytes) if bytes >= MEMORY_MIN => Ok(bytes),
        Some(_) => Err(format!("--memory {text}: a step takes 6m at least")),
        None => Err(format!("--memory {text}: want a size such as 512m or 2g")),
    }
}

fn swap(text: &str, memory: u64) -> Result<Swap, String> {
    if text == "-1" {
        return Ok(Swap::Unlimited);
    }
    match parse_size(text) {
        Some(bytes) if bytes >= memory => Ok(Swap::Bytes(bytes)),
        Some(_) => {
            Err(format!("--memory-swap {text}: it is memory and swap together, so no less than --memory"))
        }
        None => Err(format!("--memory-swap {text}: want a size such as 1g, or -1 for no limit")),
    }
}

/// Numbers and ranges, `0-3,7`, as the kernel writes them.
fn is_list(text: &str) -> bool {
    let number = |text: &str| text.parse::<u16>().ok();
    text.split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
        None => number(part).is_some(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        limits: LimitArgs,
    }

    fn parse(flags: &str) -> Result<StepLimits, String> {
        let arguments = std::iter::once("x").chain(flags.split_ascii_whitespace());
        Command::try_parse_from(arguments).map_err(|error| error.to_string())?.limits.parse()
    }

    #[track_caller]
    fn check(flags: &str, expected: Limits) {
        assert_eq!(parse(flags).map(|limits| limits.asked), Ok(expected), "{flags}");
    }

    #[test]
    fn flags_become_limits() {
        let none = Limits::default();
        check("", none.clone());
        check("-m 64m", Limits { memory: Some(64 << 20), ..none.clone() });
        let memory = Limits { memory: Some(1 << 30), ..none.clone() };
        check(
            "--memory 1g --memory-swap -1",
            Limits { memory_swap: Some(Swap::Unlimited), ..memory.clone() },
        );
        check("--memory 1g --memory-swap 2g", Limits { memory_swap: Some(Swap::Bytes(2 << 30)), ..memory });
        check(
            "--cpu-period 50000 --cpu-quota 25000",
            Limits { cpu_period: Some(50_000), cpu_quota: Some(25_000), ..none.clone() },
        );
        check("--cpu-quota -1 --cpu-shares 0 --pids-limit 0", none.clone());
        check(
            "--cpuset-cpus 0-1,3 -c 512",
            Limits { cpuset_cpus: Some("0-1,3".to_owned()), cpu_shares: Some(512), ..none.clone() },
        );
        check("--pids-limit 20", Limits { pids: Some(20), ..none });
        for (flags, unlimited) in [("", false), ("--pids-limit 5", false), ("--pids-limit -1", true)] {
            assert_eq!(parse(flags).map(|limits| limits.unlimited_pids), Ok(unlimited), "{flags}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (flags, word) in [
            ("--memory x", "--memory x: want a size"),
            ("--memory 1m", "6m at least"),
            ("--memory-swap 1g", "--memory"),
            ("--memory 1g --memory-swap 1m", "no less than --memory"),
            ("--cpu-period 1", "1000 to 1000000"),
            ("--cpu-quota -2", "no limit"),
            ("--cpu-quota 1", "1000 microseconds at least"),
            ("--pids-limit -2", "no limit"),
            ("--cpuset-cpus 3-1", "such as 0-3,7"),
            ("--cpuset-mems a", "such as 0-3,7"),
            ("--cpuset-cpus 0,", "such as 0-3,7"),
        ] {
            let error = parse(flags).expect_err(flags);
            assert!(error.contains(word), "{flags}: {error}");
        }
    }
}
