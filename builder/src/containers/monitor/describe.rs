//! What the runtime is told of a container: its process, its rights, its namespaces, what of the place it is in.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Mount,
    MountBuilder, Process, Spec,
};
use wharf_runtime::cgroup::{Limits, Swap};
use wharf_runtime::{RuntimeError, User, resolve_user};

use crate::containers::config::{ContainerConfig, NamespaceUse, ProcessConfig, Resources, Rights};
use crate::error::{Failure, Kind};
use crate::worker::spec;

/// Environment of a process whose image has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Microseconds of the period in which processor time is counted where nobody says.
const CPU_PERIOD: u64 = 100_000;

/// A namespace that is another container's, by kind.
pub(super) type Joined = Vec<(LinuxNamespaceType, OwnedFd)>;

/// What of the world around it a container shares.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Namespaces of other containers, and its own network.
    pub(super) joined: Joined,
    /// Whether its network is the host's.
    pub(super) host_network: bool,
    /// The `/dev/shm` of another container.
    pub(super) memory: Option<OwnedFd>,
}

/// Describes the container. What a spec cannot say of mounts is the caller's.
pub(super) fn spec(
    config: &ContainerConfig,
    root: BorrowedFd<'_>,
    hostname: &str,
    shared: &Shared,
) -> Result<Spec, Failure> {
    let cannot = |error: OciSpecError| {
        Failure::from_error(Kind::Environment, "cannot describe the container to the runtime", &error)
    };
    let user = user(root, &config.process.user, &config.process.group_add)?;
    let process = &config.process;
    let env = environment(process, &process.env, hostname, &user, process.tty);
    let args: Vec<String> = process.entrypoint.iter().chain(&process.command).cloned().collect();
    let mut all = base(&config.rights).map_err(cannot)?;
    spec::set_process(&mut all, &args, &env, working_dir(process), &user).map_err(cannot)?;
    set_rights(&mut all, config, &user)?;
    set_namespaces(&mut all, config, shared).map_err(cannot)?;
    if config.uts == NamespaceUse::Private {
        all.set_hostname(Some(hostname.to_owned())).set_domainname(config.domainname.clone());
    } else {
        all.set_hostname(None);
    }
    spec::limit_core(&mut all, false).map_err(cannot)?;
    spec::set_limits(&mut all, &config.resources.ulimits).map_err(cannot)?;
    if let Some(bytes) = config.resources.shm_size {
        spec::set_shm_size(&mut all, bytes);
    }
    if config.ipc == NamespaceUse::Host {
        for place in ["/dev/shm", "/dev/mqueue"] {
            all.mounts_mut().get_or_insert_default().retain(|mount| mount.destination() != Path::new(place));
            if Path::new(place).is_dir() {
                let bound = bind(Path::new(place), place, &["rbind", "nosuid", "noexec", "nodev"]);
                all.mounts_mut().get_or_insert_default().push(bound.map_err(cannot)?);
            }
        }
    }
    if let Some(process) = all.process_mut() {
        process
            .set_terminal(Some(config.process.tty))
            .set_no_new_privileges(Some(config.rights.no_new_privileges))
            .set_oom_score_adj(config.resources.oom_score_adj);
    }
    if let Some(root) = all.root_mut() {
        root.set_readonly(Some(config.rights.read_only));
    }
    Ok(all)
}

/// A further process of a container, of which `first` is the first one.
pub(super) fn further(
    first: &Process,
    user: &User,
    env: Vec<String>,
    args: Vec<String>,
    working_dir: Option<&str>,
    tty: bool,
) -> Result<Process, OciSpecError> {
    let mut process = first.clone();
    let ids = oci_spec::runtime::UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.additional_gids.clone())
        .build()?;
    process.set_args(Some(args)).set_env(Some(env)).set_user(ids).set_terminal(Some(tty));
    if let Some(dir) = working_dir {
        process.set_cwd(dir.into());
    }
    Ok(process)
}

/// Gives a process every right.
pub(super) fn privilege(process: &mut Process) {
    let all = wharf_runtime::insecure_spec();
    process.set_capabilities(all.process().as_ref().and_then(|process| process.capabilities().clone()));
    process.set_no_new_privileges(Some(false));
}

/// The user, and further groups by name or number.
pub(super) fn user(root: BorrowedFd<'_>, name: &str, groups: &[String]) -> Result<User, Failure> {
    let failed = |error: RuntimeError| {
        let kind = match error {
            RuntimeError::UnknownUser { .. } | RuntimeError::UnknownGroup { .. } => Kind::Usage,
            _ => Kind::Environment,
        };
        Failure::from_error(kind, "cannot find the user of the container", &error)
    };
    let mut user = resolve_user(root, name).map_err(failed)?;
    for group in groups {
        let gid = resolve_user(root, &format!("0:{group}")).map_err(failed)?.gid;
        if !user.additional_gids.contains(&gid) {
            user.additional_gids.push(gid);
        }
    }
    Ok(user)
}

/// The environment of a process: what is said, and what every process has.
pub(super) fn environment(
    config: &ProcessConfig,
    said: &[String],
    hostname: &str,
    user: &User,
    tty: bool,
) -> Vec<String> {
    let home = format!("HOME={}", user.home);
    let name = format!("HOSTNAME={hostname}");
    let own = [Some(DEFAULT_PATH), Some(name.as_str()), tty.then_some("TERM=xterm"), Some(home.as_str())];
    let mut env: Vec<String> = Vec::new();
    for variable in own.into_iter().flatten() {
        let key = &variable[..=variable.find('=').unwrap_or(0)];
        if !said.iter().chain(&config.env).any(|said| said.starts_with(key)) {
            env.push(variable.to_owned());
        }
    }
    for variable in said {
        let key = variable.split('=').next().unwrap_or_default();
        env.retain(|other| other.split('=').next() != Some(key));
        env.push(variable.clone());
    }
    env
}

fn working_dir(process: &ProcessConfig) -> &str {
    if process.working_dir.is_empty() { "/" } else { &process.working_dir }
}

fn base(rights: &Rights) -> Result<Spec, OciSpecError> {
    if !rights.privileged {
        return Ok(wharf_runtime::default_spec());
    }
    let mut spec = wharf_runtime::insecure_spec();
    if let Some(linux) = spec.linux_mut() {
        // Devices that cannot be listed are not there.
        linux.set_devices(Some(wharf_runtime::host_devices().unwrap_or_default()));
    }
    Ok(spec)
}

fn set_rights(spec: &mut Spec, config: &ContainerConfig, user: &User) -> Result<(), Failure> {
    let rights = &config.rights;
    let mut devices = Vec::new();
    for (path, target, _) in &rights.devices {
        let device = wharf_runtime::host_device(path, target).map_err(|error| {
            let doing = format!("cannot give the container the device `{}`", path.display());
            Failure::from_error(Kind::Usage, &doing, &error)
        })?;
        devices.push(device);
    }
    let capabilities = capabilities(rights)?;
    let cannot = |error: OciSpecError| {
        Failure::from_error(Kind::Environment, "cannot describe the container's rights", &error)
    };
    if !rights.privileged {
        let mut sets = LinuxCapabilitiesBuilder::default()
            .bounding(capabilities.clone())
            .permitted(capabilities.clone())
            .effective(capabilities.clone())
            .build()
            .map_err(cannot)?;
        sets.set_inheritable(None).set_ambient(None);
        if let Some(process) = spec.process_mut() {
            process.set_capabilities(Some(sets));
        }
    } else if user.uid != 0
        && let Some(process) = spec.process_mut()
    {
        // A user who is not root has them in reserve, as with Docker.
        let mut sets = process.capabilities().clone().unwrap_or_default();
        sets.set_inheritable(None).set_ambient(None);
        process.set_capabilities(Some(sets));
    }
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    if rights.seccomp_unconfined || rights.privileged {
        linux.set_seccomp(None);
    } else {
        linux.set_seccomp(Some(wharf_runtime::default_seccomp(&capabilities)));
    }
    if rights.paths_unconfined {
        linux.set_masked_paths(None).set_readonly_paths(None);
    }
    linux.devices_mut().get_or_insert_default().extend(devices);
    if !rights.sysctls.is_empty() {
        let sysctls = rights.sysctls.iter().map(|(key, value)| (key.clone(), value.clone()));
        linux.set_sysctl(Some(sysctls.collect()));
    }
    Ok(())
}

/// The usual capabilities, changed as was asked.
fn capabilities(rights: &Rights) -> Result<Capabilities, Failure> {
    let named = |name: &String| {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        short.parse::<Capability>().map_err(|_| {
            Failure::new(Kind::Usage, format!("`{name}` is no capability"))
                .hint("capabilities are called `NET_ADMIN` and the like; `ALL` is all of them")
        })
    };
    let is_all = |name: &String| name.eq_ignore_ascii_case("all");
    let bounding = |spec: Spec| -> Capabilities {
        let process = spec.process().clone().unwrap_or_default();
        process.capabilities().as_ref().and_then(|sets| sets.bounding().clone()).unwrap_or_default()
    };
    let mut set = match (rights.cap_drop.iter().any(is_all), rights.cap_add.iter().any(is_all)) {
        (_, true) => bounding(wharf_runtime::insecure_spec()),
        (true, false) => Capabilities::new(),
        (false, false) => bounding(wharf_runtime::default_spec()),
    };
    for name in rights.cap_drop.iter().filter(|name| !is_all(name)) {
        set.remove(&named(name)?);
    }
    for name in rights.cap_add.iter().filter(|name| !is_all(name)) {
        set.insert(named(name)?);
    }
    Ok(set)
}

fn set_namespaces(spec: &mut Spec, config: &ContainerConfig, shared: &Shared) -> Result<(), OciSpecError> {
    let mut linux = spec.linux().clone().unwrap_or_default();
    let namespaces = linux.namespaces_mut().get_or_insert_default();
    let uses = [
        (LinuxNamespaceType::Pid, &config.pid),
        (LinuxNamespaceType::Ipc, &config.ipc),
        (LinuxNamespaceType::Uts, &config.uts),
    ];
    for (kind, usage) in uses {
        if *usage != NamespaceUse::Private {
            namespaces.retain(|namespace| namespace.typ() != kind);
        }
    }
    for (kind, fd) in &shared.joined {
        namespaces.retain(|namespace| namespace.typ() != *kind);
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        namespaces.push(LinuxNamespaceBuilder::default().typ(*kind).path(path).build()?);
    }
    let has_network = namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    if !shared.host_network && !has_network {
        namespaces.push(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network).build()?);
    }
    spec.set_linux(Some(linux));
    Ok(())
}

/// A bind mount of something of the host.
pub(super) fn bind(source: &Path, target: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    MountBuilder::default().typ("bind").source(source).destination(target).options(options).build()
}

/// What the container's control group limits.
pub(super) fn limits(resources: &Resources) -> Limits {
    let period = resources.cpu_period;
    let of_cpus = resources.nano_cpus.map(|nanos| {
        let quota = u128::from(nanos) * u128::from(period.unwrap_or(CPU_PERIOD)) / 1_000_000_000;
        u64::try_from(quota).unwrap_or(u64::MAX)
    });
    let quota = resources.cpu_quota.and_then(|quota| u64::try_from(quota).ok()).or(of_cpus);
    Limits {
        memory: resources.memory,
        memory_swap: resources
            .memory_swap
            .filter(|swap| *swap != 0)
            .map(|swap| u64::try_from(swap).map_or(Swap::Unlimited, Swap::Bytes)),
        cpu_period: period.or(of_cpus.map(|_| CPU_PERIOD)),
        cpu_quota: quota.filter(|quota| *quota > 0),
        cpu_shares: resources.cpu_shares.filter(|shares| *shares > 0),
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        pids: resources.pids.and_then(|pids| u64::try_from(pids).ok()).filter(|pids| *pids > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_what_is_said_and_what_is_missing() {
        let user = User { uid: 0, gid: 0, additional_gids: Vec::new(), home: "/root".to_owned() };
        let check = |said: &[&str], tty, expected: &[&str]| {
            let said: Vec<String> = said.iter().map(|text| (*text).to_owned()).collect();
            let found = environment(&ProcessConfig::default(), &said, "name", &user, tty);
            assert_eq!(found, expected);
        };
        check(&[], false, &[DEFAULT_PATH, "HOSTNAME=name", "HOME=/root"]);
        check(
            &["PATH=/x", "A=1", "A=2"],
            true,
            &["HOSTNAME=name", "TERM=xterm", "HOME=/root", "PATH=/x", "A=2"],
        );
        check(
            &["HOME=/h", "TERM=dumb", "HOSTNAME="],
            true,
            &[DEFAULT_PATH, "HOME=/h", "TERM=dumb", "HOSTNAME="],
        );
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let check = |drop: &[&str], add: &[&str], has: &[Capability], has_not: &[Capability]| {
            let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let rights = Rights { cap_drop: list(drop), cap_add: list(add), ..Rights::default() };
            let found = capabilities(&rights).unwrap();
            assert!(has.iter().all(|one| found.contains(one)), "{drop:?} {add:?}: {found:?}");
            assert!(!has_not.iter().any(|one| found.contains(one)), "{drop:?} {add:?}: {found:?}");
        };
        use Capability::{Chown, Kill, NetAdmin, SysAdmin};
        check(&[], &[], &[Chown, Kill], &[NetAdmin, SysAdmin]);
        check(&["KILL"], &["CAP_NET_ADMIN"], &[Chown, NetAdmin], &[Kill]);
        check(&["all"], &["chown"], &[Chown], &[Kill]);
        check(&["CHOWN"], &["ALL"], &[Kill, NetAdmin, SysAdmin], &[Chown]);
        assert!(capabilities(&Rights { cap_add: vec!["FLY".to_owned()], ..Rights::default() }).is_err());
    }

    #[test]
    fn processors_become_a_quota() {
        let check = |resources: Resources, expected: (Option<u64>, Option<u64>)| {
            let limits = limits(&resources);
            assert_eq!((limits.cpu_period, limits.cpu_quota), expected);
        };
        check(Resources::default(), (None, None));
        check(
            Resources { nano_cpus: Some(1_500_000_000), ..Resources::default() },
            (Some(CPU_PERIOD), Some(150_000)),
        );
        check(
            Resources { cpu_period: Some(50_000), cpu_quota: Some(-1), ..Resources::default() },
            (Some(50_000), None),
        );
        let swap = |swap| limits(&Resources { memory_swap: Some(swap), ..Resources::default() }).memory_swap;
        assert_eq!((swap(-1), swap(0), swap(5)), (Some(Swap::Unlimited), None, Some(Swap::Bytes(5))));
    }
}
