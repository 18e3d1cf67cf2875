//! Flags of `wharf run` and `create`: as they are typed → [`Ask`].

use std::path::Path;
use std::time::Duration;

use super::flags::CreateFlags;
use super::values::{
    cpus, device, duration, exposed, extra_host, file_lines, log, namespace, networks, pair, ports, restart,
    security_option, size, ulimit, wrong,
};
use crate::cli::image::one_platform;
use crate::containers::ask::{Ask, HealthAsk, StopTimeout};
use crate::containers::config::{Resources, Rights};
use crate::containers::signal;
use crate::error::{Failure, Kind};
use crate::volumes::spec::{parse_mount, parse_tmpfs, parse_volume};

/// The least memory that a container can be made in.
const MEMORY_MIN: u64 = 6 << 20;

impl CreateFlags {
    /// What is meant. Relative paths are relative to `base`.
    pub(super) fn ask(&self, base: &Path) -> Result<Ask, Failure> {
        let (image, command) =
            self.image.split_first().ok_or_else(|| Failure::new(Kind::Usage, "no image is given"))?;
        let mut env = Vec::new();
        for file in &self.env_file {
            env.extend(file_lines("--env-file", file)?);
        }
        for text in &self.env {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text.as_str(), None),
            };
            if name.is_empty() {
                return Err(wrong("--env", text, "it is NAME[=VALUE]"));
            }
            env.push((name.to_owned(), value));
        }
        let mut labels = std::collections::BTreeMap::new();
        for file in &self.label_file {
            let lines = file_lines("--label-file", file)?;
            labels.extend(lines.into_iter().map(|(name, value)| (name, value.unwrap_or_default())));
        }
        for text in &self.label {
            labels.extend([pair("--label", text, Some(""))?]);
        }
        let annotations = self.annotation.iter().map(|text| pair("--annotation", text, None));
        let mounts = (self.volume.iter().map(|text| parse_volume(text, base)))
            .chain(self.mount.iter().map(|text| parse_mount(text, base)))
            .chain(self.tmpfs.iter().map(|text| parse_tmpfs(text)));
        let volumes_from = self.volumes_from.iter().map(|text| volumes_from(text));
        let published = self.publish.iter().map(|text| ports(text)).collect::<Result<Vec<_>, _>>()?;
        let expose = self.expose.iter().map(|text| exposed(text)).collect::<Result<Vec<_>, _>>()?;
        let options = self.log_opt.iter().map(|text| pair("--log-opt", text, None));
        if let Some(signal) = self.stop_signal.as_deref().filter(|text| signal::number(text).is_none()) {
            return Err(wrong("--stop-signal", signal, "there is no such signal"));
        }
        let entrypoint = self.entrypoint.as_ref().map(|text| match text.as_str() {
            "" => Vec::new(),
            text => vec![text.to_owned()],
        });
        Ok(Ask {
            image: image.clone(),
            platform: one_platform(self.platform.as_deref())?,
            name: self.name.clone(),
            entrypoint,
            command: (!command.is_empty()).then(|| command.to_vec()),
            env,
            working_dir: self.workdir.clone(),
            user: self.user.clone(),
            group_add: self.group_add.clone(),
            tty: self.tty,
            open_stdin: self.interactive,
            stdin_once: self.interactive,
            init: self.init,
            hostname: self.hostname.clone(),
            domainname: self.domainname.clone(),
            labels,
            annotations: annotations.collect::<Result<_, _>>()?,
            stop_signal: self.stop_signal.clone(),
            stop_timeout: self.stop_timeout.map(|seconds| match u64::try_from(seconds) {
                Ok(seconds) => StopTimeout::After(Duration::from_secs(seconds)),
                Err(_) => StopTimeout::Never,
            }),
            restart: restart(self.restart.as_deref())?,
            auto_remove: self.rm,
            health: self.health()?,
            log: log(self.log_driver.as_deref(), &options.collect::<Result<Vec<_>, _>>()?)?,
            rights: self.rights()?,
            resources: self.resources()?,
            files: Vec::new(),
            mounts: mounts.collect::<Result<_, _>>()?,
            volumes_from: volumes_from.collect::<Result<_, _>>()?,
            network: networks(
                &self.network,
                &self.network_alias,
                self.ip.as_deref(),
                self.ip6.as_deref(),
                self.mac_address.as_deref(),
            )?,
            ports: published.concat(),
            publish_all: self.publish_all,
            expose: expose.concat(),
            pid: namespace("--pid", self.pid.as_deref())?,
            ipc: namespace("--ipc", self.ipc.as_deref())?,
            uts: namespace("--uts", self.uts.as_deref())?,
            extra_hosts: self.add_host.iter().map(|text| extra_host(text)).collect::<Result<_, _>>()?,
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            dns_options: self.dns_option.clone(),
        })
    }

    fn health(&self) -> Result<HealthAsk, Failure> {
        let time =
            |flag: &str, text: &Option<String>| text.as_deref().map(|text| duration(flag, text)).transpose();
        let given = HealthAsk::Given {
            test: self.health_cmd.as_ref().map(|command| match command.as_str() {
                "" => Vec::new(),
                command => vec!["CMD-SHELL".to_owned(), command.to_owned()],
            }),
            interval: time("--health-interval", &self.health_interval)?,
            timeout: time("--health-timeout", &self.health_timeout)?,
            start_period: time("--health-start-period", &self.health_start_period)?,
            start_interval: time("--health-start-interval", &self.health_start_interval)?,
            retries: self.health_retries,
        };
        let is_said = self.health_cmd.is_some()
            || self.health_interval.is_some()
            || self.health_timeout.is_some()
            || self.health_start_period.is_some()
            || self.health_start_interval.is_some()
            || self.health_retries.is_some();
        match (self.no_healthcheck, is_said) {
            (true, true) => Err(Failure::new(
                Kind::Usage,
                "--no-healthcheck and --health-… contradict each other: checks are made or not",
            )),
            (true, false) => Ok(HealthAsk::Disabled),
            (false, false) => Ok(HealthAsk::AsImage),
            (false, true) => Ok(given),
        }
    }

    fn rights(&self) -> Result<Rights, Failure> {
        let capability = |name: &String| match name.to_uppercase() {
            all if all == "ALL" => all,
            name if name.starts_with("CAP_") => name,
            name => format!("CAP_{name}"),
        };
        let mut rights = Rights {
            privileged: self.privileged,
            cap_add: self.cap_add.iter().map(capability).collect(),
            cap_drop: self.cap_drop.iter().map(capability).collect(),
            read_only: self.read_only,
            devices: self.device.iter().map(|text| device(text)).collect::<Result<_, _>>()?,
            ..Rights::default()
        };
        for text in &self.sysctl {
            rights.sysctls.extend([pair("--sysctl", text, None)?]);
        }
        self.security_opt.iter().try_for_each(|text| security_option(text, &mut rights))?;
        Ok(rights)
    }

    fn resources(&self) -> Result<Resources, Failure> {
        let memory = self.memory.as_deref().map(|text| size("--memory", text)).transpose()?;
        if let (Some(text), Some(..MEMORY_MIN)) = (&self.memory, memory) {
            return Err(wrong("--memory", text, "a container takes 6m at least"));
        }
        let swap = self.memory_swap.as_deref().map(|text| match (text, memory) {
            (_, None) => Err(wrong("--memory-swap", text, "it needs --memory")),
            ("-1", _) => Ok(-1),
            (text, Some(memory)) => match i64::try_from(size("--memory-swap", text)?) {
                Ok(swap) if swap.unsigned_abs() >= memory => Ok(swap),
                _ => Err(wrong(
                    "--memory-swap",
                    text,
                    "it is memory and swap together, so no less than --memory",
                )),
            },
        });
        if self.cpus.is_some() && (self.cpu_period.is_some() || self.cpu_quota.is_some()) {
            return Err(Failure::new(
                Kind::Usage,
                "--cpus says the same as --cpu-period and --cpu-quota: give one",
            ));
        }
        Ok(Resources {
            memory,
            memory_swap: swap.transpose()?,
            nano_cpus: self.cpus.as_deref().map(cpus).transpose()?,
            cpu_period: self.cpu_period,
            cpu_quota: self.cpu_quota,
            cpu_shares: self.cpu_shares.filter(|shares| *shares > 0),
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            pids: self.pids_limit.map(|count| if count <= 0 { -1 } else { count }),
            cgroup_parent: self.cgroup_parent.clone(),
            shm_size: self.shm_size.as_deref().map(|text| size("--shm-size", text)).transpose()?,
            ulimits: self.ulimit.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?,
            oom_score_adj: self.oom_score_adj,
        })
    }
}

/// `CONTAINER[:ro|rw]`.
fn volumes_from(text: &str) -> Result<(String, bool), Failure> {
    let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
    match mode {
        "ro" | "rw" if !name.is_empty() => Ok((name.to_owned(), mode == "ro")),
        _ => Err(wrong("--volumes-from", text, "it is CONTAINER[:ro]")),
    }
}
