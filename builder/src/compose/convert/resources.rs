//! What a service may do and take.

use wharf_frontend::compose::model::{Bytes, Service};

use super::wrong;
use crate::containers::config::{Resources, Rights};
use crate::error::Failure;

pub(super) fn rights(service: &Service, key: &dyn Fn(&str) -> String) -> Result<Rights, Failure> {
    let mut rights = Rights {
        privileged: service.privileged,
        cap_add: service.cap_add.iter().map(|name| capability(name)).collect(),
        cap_drop: service.cap_drop.iter().map(|name| capability(name)).collect(),
        read_only: service.read_only,
        devices: service
            .devices
            .iter()
            .map(|it| ((&it.source).into(), (&it.target).into(), it.permissions.clone()))
            .collect(),
        sysctls: service.sysctls.clone(),
        ..Rights::default()
    };
    for option in &service.security_opt {
        let (name, value) = match option.split_once(['=', ':']) {
            Some((name, value)) => (name, value),
            None => (option.as_str(), "true"),
        };
        match (name, value) {
            ("no-new-privileges", value) => rights.no_new_privileges = value != "false",
            ("seccomp", "unconfined") => rights.seccomp_unconfined = true,
            ("systempaths", "unconfined") => rights.paths_unconfined = true,
            // Said to be without effect in the warnings.
            ("apparmor" | "label", _) => {}
            ("seccomp", _) => {
                return Err(wrong(format!(
                    "{}: profiles of one's own are not supported",
                    key("security_opt")
                ))
                .hint("seccomp=unconfined is, and without it there is a filter like Docker's"));
            }
            _ => return Err(wrong(format!("{}: {option} is not known", key("security_opt")))),
        }
    }
    Ok(rights)
}

/// `net_admin` → `CAP_NET_ADMIN`.
fn capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
}

pub(super) fn resources(service: &Service) -> Resources {
    let limits = service.deploy.as_ref().and_then(|it| it.resources.as_ref()?.limits.as_ref());
    let memory = service.mem_limit.or(limits.and_then(|limits| limits.memory));
    let cpus = service.cpus.or(limits.and_then(|limits| limits.cpus));
    let positive = |bytes: Bytes| u64::try_from(bytes.0).ok().filter(|bytes| *bytes > 0);
    let number = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    Resources {
        memory: memory.and_then(positive),
        memory_swap: service.memswap_limit.map(|bytes| bytes.0).filter(|bytes| *bytes != 0),
        nano_cpus: cpus.filter(|cpus| *cpus > 0.0).map(nano),
        cpu_period: service.cpu_period.and_then(number),
        cpu_quota: service.cpu_quota.filter(|quota| *quota != 0),
        cpu_shares: service.cpu_shares.and_then(number),
        cpuset_cpus: service.cpuset.clone(),
        cpuset_mems: None,
        pids: service.pids_limit.or(limits.and_then(|limits| limits.pids)).filter(|pids| *pids != 0),
        cgroup_parent: service.cgroup_parent.clone(),
        shm_size: service.shm_size.and_then(positive),
        ulimits: service
            .ulimits
            .iter()
            .filter_map(|(name, limit)| {
                let soft = limit.soft.or(limit.hard)?;
                Some((name.clone(), soft, limit.hard.unwrap_or(soft)))
            })
            .collect(),
        oom_score_adj: service.oom_score_adj.and_then(|it| i32::try_from(it).ok()),
    }
}

/// Billionths: what is too much for them is everything.
fn nano(cpus: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturates")]
    let nano = (cpus * 1e9).round() as u64;
    nano
}
