//! What a step changes in the runtime's default spec.

use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType, LinuxNamespaceBuilder, LinuxNamespaceType,
    MountBuilder, PosixRlimitBuilder, PosixRlimitType, Spec, UserBuilder,
};
use rustix::process::{Resource, getrlimit};
use wharf_runtime::{Bind, User};

use super::network::Reach;

/// Sets program, environment, working directory and ids.
pub(crate) fn set_process(
    spec: &mut Spec,
    args: &[String],
    env: &[String],
    cwd: &str,
    user: &User,
) -> Result<(), OciSpecError> {
    let ids = UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.additional_gids.clone())
        .build()?;
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(args.to_vec())).set_env(Some(env.to_vec())).set_cwd(cwd.into()).set_user(ids);
    spec.set_process(Some(process));
    Ok(())
}

/// Binds a file or directory of the host, read-only and without what could run or open devices.
pub(crate) fn bind_read_only(spec: &mut Spec, source: &Path, target: &str) -> Result<(), OciSpecError> {
    let options = ["rbind", "ro", "nosuid", "noexec", "nodev"].map(str::to_owned).to_vec();
    let mount =
        MountBuilder::default().typ("bind").source(source).destination(target).options(options).build()?;
    spec.mounts_mut().get_or_insert_default().push(mount);
    Ok(())
}

/// Takes out the mounts that `binds` stand in for.
pub(crate) fn make_room(spec: &mut Spec, binds: &[Bind]) {
    let mounts = spec.mounts_mut().get_or_insert_default();
    mounts.retain(|mount| {
        let place = mount.destination();
        // `/proc` has to be there while the process is made. In a `/sys` of its own nothing else is mounted.
        !binds.iter().any(|Bind { target, .. }| {
            place == target && place != "/proc" && place != "/dev"
                || place.starts_with("/sys") && place.starts_with(target)
        })
    });
}

/// Puts the process where it reaches `reach`.
pub(crate) fn set_network(spec: &mut Spec, reach: &Reach) -> Result<(), OciSpecError> {
    let namespace = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network);
    let network = match reach {
        Reach::Host => return Ok(()),
        // A new one, with loopback alone.
        Reach::Nobody => namespace.build()?,
        Reach::Own(network) => namespace.path(network.path()).build()?,
    };
    let mut linux = spec.linux().clone().unwrap_or_default();
    linux.namespaces_mut().get_or_insert_default().push(network);
    spec.set_linux(Some(linux));
    Ok(())
}

/// The spec of a process with every right: nothing is masked or filtered, and devices work.
pub(crate) fn insecure() -> Result<Spec, OciSpecError> {
    let mut spec = wharf_runtime::insecure_spec();
    let mut devices = vec![device("/dev/loop-control", LinuxDeviceType::C, 10, 237)?];
    let loops = if wharf_runtime::sandbox::in_user_namespace() { 0 } else { loop_devices() };
    for number in 0..loops {
        devices.push(device(&format!("/dev/loop{number}"), LinuxDeviceType::B, 7, number)?);
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_devices(Some(devices));
    }
    Ok(spec)
}

/// Loop devices that a process with every right is given beyond those the host has.
const LOOP_DEVICES_MORE: i64 = 8;

/// Loop devices at most: each costs a descriptor.
const LOOP_DEVICES_MAX: i64 = 40;

/// How many loop devices are to be there.
fn loop_devices() -> i64 {
    let numbers = std::fs::read_dir("/sys/block").into_iter().flatten().flatten().filter_map(|entry| {
        entry.file_name().to_str()?.strip_prefix("loop")?.parse::<u16>().ok().map(i64::from)
    });
    (numbers.max().map_or(0, |number| number + 1) + LOOP_DEVICES_MORE).min(LOOP_DEVICES_MAX)
}

fn device(path: &str, kind: LinuxDeviceType, major: i64, minor: i64) -> Result<LinuxDevice, OciSpecError> {
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(major)
        .minor(minor)
        .file_mode(0o660_u32)
        .uid(0_u32)
        .gid(0_u32)
        .build()
}

/// The resource limits that have a name, as `ulimit` and `--ulimit` spell it.
pub(crate) const LIMITS: [(&str, PosixRlimitType); 15] = [
    ("core", PosixRlimitType::RlimitCore),
    ("cpu", PosixRlimitType::RlimitCpu),
    ("data", PosixRlimitType::RlimitData),
    ("fsize", PosixRlimitType::RlimitFsize),
    ("locks", PosixRlimitType::RlimitLocks),
    ("memlock", PosixRlimitType::RlimitMemlock),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue),
    ("nice", PosixRlimitType::RlimitNice),
    ("nofile", PosixRlimitType::RlimitNofile),
    ("nproc", PosixRlimitType::RlimitNproc),
    ("rss", PosixRlimitType::RlimitRss),
    ("rtprio", PosixRlimitType::RlimitRtprio),
    ("rttime", PosixRlimitType::RlimitRttime),
    ("sigpending", PosixRlimitType::RlimitSigpending),
    ("stack", PosixRlimitType::RlimitStack),
];

/// Decides what becomes of the memory of a process that crashes. A file `core` would get into the layer, depending on how
/// wharf was started, so there is none unless one was asked for (`--ulimit core=`). What a step with secrets holds goes
/// nowhere whatever was asked for, to no program of the host either: the kernel takes a limit of one byte for that wish.
pub(crate) fn limit_core(spec: &mut Spec, holds_secrets: bool) -> Result<(), OciSpecError> {
    let Some(process) = spec.process_mut() else { return Ok(()) };
    let inherited = getrlimit(Resource::Core).maximum.unwrap_or(u64::MAX);
    let mut all = process.rlimits().clone().unwrap_or_default();
    let asked = all.iter().position(|limit| limit.typ() == PosixRlimitType::RlimitCore);
    let (soft, hard) = match asked.map(|at| all.swap_remove(at)) {
        _ if holds_secrets => (inherited.min(1), inherited.min(1)),
        Some(asked) => (asked.soft(), asked.hard()),
        None => (0, inherited),
    };
    all.push(PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitCore).soft(soft).hard(hard).build()?);
    process.set_rlimits(Some(all));
    Ok(())
}

/// Sets resource limits: name, soft, hard; -1 is no limit.
pub(crate) fn set_limits(spec: &mut Spec, limits: &[(String, i64, i64)]) -> Result<(), OciSpecError> {
    let Some(process) = spec.process_mut() else { return Ok(()) };
    let mut all = process.rlimits().clone().unwrap_or_default();
    for (name, soft, hard) in limits {
        // Names were checked where they were parsed.
        let Some((_, kind)) = LIMITS.iter().find(|(known, _)| known == name) else { continue };
        let number = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
        all.retain(|limit| limit.typ() != *kind);
        all.push(PosixRlimitBuilder::default().typ(*kind).soft(number(*soft)).hard(number(*hard)).build()?);
    }
    process.set_rlimits(Some(all));
    Ok(())
}

/// Sets the size of `/dev/shm`.
pub(crate) fn set_shm_size(spec: &mut Spec, bytes: u64) {
    let mounts = spec.mounts_mut().iter_mut().flatten();
    for mount in mounts.filter(|mount| mount.destination() == Path::new("/dev/shm")) {
        if let Some(options) = mount.options_mut() {
            options.retain(|option| !option.starts_with("size="));
            options.push(format!("size={bytes}"));
        }
    }
}
