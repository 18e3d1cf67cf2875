//! A runtime spec as the list of things to do: checked, normalized, independent of the host but for [`Host`].

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Mount as SpecMount, PosixRlimit, Process};

use super::devices::{self, Device};
use super::options::{MountOptions, Recursion};
use crate::capability::CapabilitySet;
use crate::sandbox::UserNamespace;
use crate::supervisor::emulation::{Credentials, FIRST, LIMIT};
use crate::{RuntimeError, Spec};

/// What of the host a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// What is mounted at `/sys/fs/cgroup`.
    pub(crate) cgroup: CgroupVersion,
    /// The capabilities that the caller has itself and can give on.
    pub(crate) capabilities: CapabilitySet,
    /// The user namespace that the caller is in, unless it is the machine's first one.
    pub(crate) user_namespace: Option<UserNamespace>,
}

/// The control group interface of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CgroupVersion {
    /// One hierarchy.
    V2,
    /// A directory of hierarchies, which cannot be shown apart from the host's own.
    V1,
    /// Not mounted.
    None,
}

/// What is to be done for one container.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// `CLONE_NEW*` of the namespaces to make.
    pub(crate) namespaces: u64,
    /// Namespaces to enter: type and where.
    pub(crate) joined: Vec<(u64, PathBuf)>,
    pub(crate) mounts: Vec<Mount>,
    /// Device nodes to put into a new `/dev`, or none when `/dev` is not new.
    pub(crate) devices: Option<Vec<Device>>,
    /// Whether every device node works, wherever it lies.
    pub(crate) all_devices: bool,
    pub(crate) masked: Vec<CString>,
    pub(crate) read_only: Vec<CString>,
    pub(crate) root_read_only: bool,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    /// Files below `/proc/sys` and what to write into them.
    pub(crate) sysctls: Vec<(CString, String)>,
    pub(crate) process: ProcessPlan,
}

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Absolute, without `.` and `..`.
    pub(crate) target: PathBuf,
    pub(crate) kind: MountKind,
}

/// What is mounted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// A new file system.
    New {
        filesystem: CString,
        source: CString,
        flags: u64,
        data: CString,
        /// Whether it is made read-only in the end.
        read_only: bool,
        /// The tree of the host that is bound, read-only, where the kernel refuses the file system: in a user namespace
        /// it does so when part of the caller's own one is covered, or shows what is not the namespace's.
        instead: Option<PathBuf>,
    },
    /// A tree of the host.
    Bind { source: PathBuf, recursive: bool, set: u64, clear: u64, propagation: u64 },
}

/// The command and what it runs as.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProcessPlan {
    /// The command as the spec names it.
    pub(crate) command: String,
    /// Where it may be, in the order to try.
    pub(crate) candidates: Vec<CString>,
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    pub(crate) cwd: PathBuf,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) umask: u32,
    /// Resource, soft and hard limit.
    pub(crate) rlimits: Vec<(u32, u64, u64)>,
    pub(crate) bounding: CapabilitySet,
    pub(crate) permitted: CapabilitySet,
    pub(crate) effective: CapabilitySet,
    pub(crate) inheritable: CapabilitySet,
    pub(crate) ambient: CapabilitySet,
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score_adj: Option<i32>,
}

impl ProcessPlan {
    /// Leaves the process the ids that it has, and keeps what its own are to be in a limit; returns those.
    pub(crate) fn emulate_ids(&mut self) -> Credentials {
        let groups = std::mem::take(&mut self.additional_gids);
        let credentials = Credentials::new(self.uid, self.gid, groups);
        (self.uid, self.gid) = (0, 0);
        self.rlimits.retain(|(resource, ..)| *resource != LIMIT);
        let hard = rustix::process::getrlimit(rustix::process::Resource::Locks).maximum;
        self.rlimits.push((LIMIT, FIRST, hard.unwrap_or(libc::RLIM_INFINITY)));
        credentials
    }
}

/// Where commands are looked for when the environment has no `PATH`.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Plan {
    /// What `spec` asks for on `host`.
    pub(crate) fn new(spec: &Spec, host: &Host) -> Result<Self, RuntimeError> {
        let linux = spec.linux().as_ref().ok_or_else(|| unsupported("no `linux` section"))?;
        let process = spec.process().as_ref().ok_or_else(|| unsupported("no `process` section"))?;
        refuse_what_is_not_done(spec, linux, process)?;
        let (namespaces, joined) = namespaces(linux)?;
        let all_devices = devices::allows_all(linux.resources().as_ref());
        let mut mounts = Vec::new();
        for mount in spec.mounts().iter().flatten() {
            mounts.extend(plan_mount(mount, host, all_devices)?);
        }
        let has = |kind: LinuxNamespaceType| {
            namespaces & kind as u64 != 0 || joined.iter().any(|(joined, _)| *joined == kind as u64)
        };
        let hostname = spec.hostname().clone().filter(|name| !name.is_empty());
        let domainname = spec.domainname().clone().filter(|name| !name.is_empty());
        let names_own = namespaces & LinuxNamespaceType::Uts as u64 != 0;
        if (hostname.is_some() || domainname.is_some()) && !names_own {
            return Err(unsupported("a host name without a new namespace of type `uts`"));
        }
        Ok(Self {
            namespaces,
            devices: devices::plan(linux, &mounts, host, all_devices)?,
            mounts,
            all_devices,
            masked: paths(linux.masked_paths().as_deref())?,
            read_only: paths(linux.readonly_paths().as_deref())?,
            root_read_only: spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true)),
            hostname,
            domainname,
            sysctls: sysctls(linux, has)?,
            joined,
            process: plan_process(process, host)?,
        })
    }
}

/// An ignored wish is worse than an error: the container would run with less than it was promised.
fn refuse_what_is_not_done(spec: &Spec, linux: &Linux, process: &Process) -> Result<(), RuntimeError> {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let limits = linux.resources().as_ref().is_some_and(|resources| {
        resources.memory().is_some()
            || resources.cpu().is_some()
            || resources.pids().is_some()
            || resources.block_io().is_some()
            || resources.network().is_some()
            || resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty())
            || resources.rdma().as_ref().is_some_and(|limits| !limits.is_empty())
            || resources.unified().as_ref().is_some_and(|limits| !limits.is_empty())
    });
    let propagation = linux.rootfs_propagation().as_deref().unwrap_or("private");
    let refused = [
        (spec.hooks().is_some(), "hooks"),
        (limits, "cgroup limits"),
        (linux.cgroups_path().is_some(), "a cgroup path"),
        (linux.uid_mappings().as_ref().is_some_and(|map| !map.is_empty()), "user id mappings"),
        (linux.gid_mappings().as_ref().is_some_and(|map| !map.is_empty()), "group id mappings"),
        (given(linux.mount_label()), "a mount label"),
        (linux.intel_rdt().is_some(), "Intel RDT"),
        (linux.memory_policy().is_some(), "a memory policy"),
        (linux.personality().is_some(), "a personality"),
        (linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()), "network devices"),
        (linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty()), "time offsets"),
        (!matches!(propagation, "" | "private" | "rprivate"), "a root that is not private"),
        (given(process.apparmor_profile()), "an AppArmor profile"),
        (given(process.selinux_label()), "an SELinux label"),
        (process.io_priority().is_some(), "an I/O priority"),
        (process.scheduler().is_some(), "a scheduler"),
        (process.exec_cpu_affinity().is_some(), "a CPU affinity"),
    ];
    match refused.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(unsupported(*what)),
        None => Ok(()),
    }
}

fn namespaces(linux: &Linux) -> Result<(u64, Vec<(u64, PathBuf)>), RuntimeError> {
    let (mut new, mut joined) = (0, Vec::new());
    for namespace in linux.namespaces().iter().flatten() {
        let kind = namespace.typ();
        match (kind, namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty())) {
            (LinuxNamespaceType::User | LinuxNamespaceType::Time, _) => {
                return Err(unsupported(format!("a namespace of type `{kind}`")));
            }
            (_, None) => new |= kind as u64,
            (LinuxNamespaceType::Mount, Some(_)) => {
                return Err(unsupported(format!("entering a namespace of type `{kind}`")));
            }
            (_, Some(path)) => joined.push((kind as u64, path.clone())),
        }
    }
    for kind in [LinuxNamespaceType::Mount, LinuxNamespaceType::Pid] {
        if new & kind as u64 == 0 && !joined.iter().any(|(joined, _)| *joined == kind as u64) {
            return Err(unsupported(format!("sharing the host's namespace of type `{kind}`")));
        }
    }
    Ok((new, joined))
}

fn plan_mount(mount: &SpecMount, host: &Host, all_devices: bool) -> Result<Option<Mount>, RuntimeError> {
    if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
        return Err(unsupported("a mount with id mappings"));
    }
    let target = absolute(mount.destination());
    if target.parent().is_none() {
        return Err(unsupported("a mount at `/`"));
    }
    let kind = mount.typ().as_deref().unwrap_or("none");
    let mut options = MountOptions::parse(mount.options().as_deref().unwrap_or_default())?;
    if !all_devices && kind != "devpts" {
        options.forbid_devices();
    }
    if kind == "bind" || options.bind.is_some() {
        if let Some(option) = options.data.first() {
            return Err(unsupported(format!("the option `{option}` of a bind mount")));
        }
        let source = mount.source().clone().ok_or_else(|| unsupported("a bind mount without a source"))?;
        let recursive = options.bind == Some(Recursion::All);
        let MountOptions { set, clear, propagation, .. } = options;
        return Ok(Some(Mount {
            target,
            kind: MountKind::Bind { source, recursive, set, clear, propagation },
        }));
    }
    let filesystem = match (kind, host.cgroup) {
        ("cgroup" | "cgroup2", CgroupVersion::None) => return Ok(None),
        ("cgroup" | "cgroup2", CgroupVersion::V2) => "cgroup2",
        // The hierarchies would show the host's groups; programs find none instead.
        ("cgroup", CgroupVersion::V1) => "tmpfs",
        ("none", _) => return Err(unsupported("a mount without a type")),
        (other, _) => other,
    };
    let source = mount.source().as_ref().map_or(kind.as_bytes(), |source| source.as_os_str().as_bytes());
    // Mount points for what comes later are made in it first.
    let read_only = filesystem == "tmpfs" && options.flags & libc::MS_RDONLY != 0;
    if read_only {
        options.flags &= !libc::MS_RDONLY;
    }
    let instead = match filesystem {
        "proc" => Some("/proc"),
        "sysfs" => Some("/sys"),
        "cgroup2" => Some("/sys/fs/cgroup"),
        _ => None,
    };
    if let Some(namespace) = &host.user_namespace {
        options.data.retain(|option| names_own_group(option, namespace));
    }
    Ok(Some(Mount {
        target,
        kind: MountKind::New {
            filesystem: string(filesystem)?,
            source: string(source)?,
            flags: options.flags,
            data: string(options.data.join(","))?,
            read_only,
            instead: instead.filter(|_| host.user_namespace.is_some()).map(PathBuf::from),
        },
    }))
}

/// Whether an option is anything but `gid=` with a group that does not exist here. Without the group of terminals
/// (devpts) these belong to that of the process.
fn names_own_group(option: &str, namespace: &UserNamespace) -> bool {
    let gid = option.strip_prefix("gid=").and_then(|gid| gid.parse().ok());
    gid.is_none_or(|gid| namespace.has_group(gid))
}

fn sysctls(
    linux: &Linux,
    has: impl Fn(LinuxNamespaceType) -> bool,
) -> Result<Vec<(CString, String)>, RuntimeError> {
    let mut sysctls = Vec::new();
    for (key, value) in linux.sysctl().iter().flatten() {
        let key = key.replace('.', "/");
        let mut parts = key.split('/');
        let namespace = match (parts.next(), parts.next()) {
            (Some("net"), Some(_)) => Some(LinuxNamespaceType::Network),
            (Some("fs"), Some("mqueue")) => Some(LinuxNamespaceType::Ipc),
            (Some("kernel"), Some(name))
                if name == "sem" || name.starts_with("shm") || name.starts_with("msg") =>
            {
                Some(LinuxNamespaceType::Ipc)
            }
            _ => None,
        };
        let clean = key.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !clean || !namespace.is_some_and(&has) {
            return Err(unsupported(format!("the sysctl `{key}`, which is not the container's own")));
        }
        sysctls.push((string(format!("/proc/sys/{key}"))?, value.clone()));
    }
    sysctls.sort();
    Ok(sysctls)
}

/// What `process` amounts to on `host`.
pub(crate) fn plan_process(process: &Process, host: &Host) -> Result<ProcessPlan, RuntimeError> {
    let arguments = process.args().as_deref().unwrap_or_default();
    let command = arguments.first().ok_or_else(|| unsupported("a process without arguments"))?;
    let environment = process.env().as_deref().unwrap_or_default();
    if !process.cwd().is_absolute() {
        return Err(unsupported(format!("the relative working directory `{}`", process.cwd().display())));
    }
    let set =
        |pick: fn(&oci_spec::runtime::LinuxCapabilities) -> &Option<oci_spec::runtime::Capabilities>| {
            let named = CapabilitySet::from_spec(
                process.capabilities().as_ref().and_then(|sets| pick(sets).as_ref()),
            );
            named.intersection(host.capabilities)
        };
    let user = process.user();
    Ok(ProcessPlan {
        command: command.clone(),
        candidates: candidates(command, environment)?,
        arguments: arguments.iter().map(|argument| string(argument.as_str())).collect::<Result<_, _>>()?,
        environment: environment.iter().map(|entry| string(entry.as_str())).collect::<Result<_, _>>()?,
        cwd: absolute(process.cwd()),
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask().unwrap_or(0o022),
        rlimits: process.rlimits().iter().flatten().map(rlimit).collect(),
        bounding: set(|sets| sets.bounding()),
        permitted: set(|sets| sets.permitted()),
        effective: set(|sets| sets.effective()),
        inheritable: set(|sets| sets.inheritable()),
        ambient: set(|sets| sets.ambient()),
        no_new_privileges: process.no_new_privileges() == Some(true),
        oom_score_adj: process.oom_score_adj(),
    })
}

/// The spec lists the resources in the order of their numbers.
fn rlimit(limit: &PosixRlimit) -> (u32, u64, u64) {
    (limit.typ() as u32, limit.soft(), limit.hard())
}

/// A name with a slash is a path; any other one is looked up in each directory of `PATH`, as `execvp` does.
fn candidates(command: &str, environment: &[String]) -> Result<Vec<CString>, RuntimeError> {
    if command.is_empty() {
        return Err(unsupported("an empty command"));
    }
    if command.contains('/') {
        return Ok(vec![string(command)?]);
    }
    let path = environment.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|directory| match directory {
            "" => string(format!("./{command}")),
            directory => string(format!("{}/{command}", directory.trim_end_matches('/'))),
        })
        .collect()
}

fn paths(paths: Option<&[String]>) -> Result<Vec<CString>, RuntimeError> {
    paths.unwrap_or_default().iter().map(|path| path_string(&absolute(Path::new(path)))).collect()
}

/// `path` from the root, without `.`; `..` undoes what is before it.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let mut absolute = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => absolute.push(name),
            Component::ParentDir => {
                absolute.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    absolute
}

/// `path` as a string for the kernel.
pub(crate) fn path_string(path: &Path) -> Result<CString, RuntimeError> {
    string(path.as_os_str().as_bytes())
}

/// `text` as a string for the kernel.
pub(crate) fn string(text: impl Into<Vec<u8>>) -> Result<CString, RuntimeError> {
    CString::new(text).map_err(|error| {
        unsupported(format!("a NUL byte in `{}`", String::from_utf8_lossy(&error.into_vec())))
    })
}

pub(super) fn unsupported(what: impl Into<String>) -> RuntimeError {
    RuntimeError::Unsupported { what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use std::fmt::Write as _;

    const HOST: Host =
        Host { cgroup: CgroupVersion::V2, capabilities: CapabilitySet(!0), user_namespace: None };

    fn spec_with(change: impl FnOnce(&mut serde_json::Value)) -> Spec {
        let mut value = serde_json::to_value(crate::default_spec()).unwrap();
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn dump(plan: &Plan) -> String {
        let mut text = String::new();
        for mount in &plan.mounts {
            let target = mount.target.display();
            match &mount.kind {
                MountKind::New { filesystem, source, flags, data, read_only, instead } => {
                    let instead = instead.as_ref().map(|tree| format!(" or {}", tree.display()));
                    let instead = instead.unwrap_or_default();
                    writeln!(
                        text,
                        "{target}: {filesystem:?} {source:?} {flags:#x} {data:?} {read_only}{instead}"
                    )
                }
                MountKind::Bind { source, recursive, set, clear, .. } => {
                    writeln!(text, "{target}: bind {} {recursive} +{set:#x} -{clear:#x}", source.display())
                }
            }
            .unwrap();
        }
        text
    }

    #[track_caller]
    fn check_mounts(cgroup: CgroupVersion, mounts: serde_json::Value, expected: Expect) {
        let spec = spec_with(|spec| spec["mounts"] = mounts);
        expected.assert_eq(&dump(&Plan::new(&spec, &Host { cgroup, ..HOST }).unwrap()));
    }

    #[test]
    fn default_mounts_allow_no_devices() {
        let mounts = serde_json::to_value(crate::default_spec().mounts()).unwrap();
        check_mounts(
            CgroupVersion::V2,
            mounts,
            expect![[r#"
                /proc: "proc" "proc" 0xe "" false
                /dev: "tmpfs" "tmpfs" 0x1000006 "mode=755,size=65536k" false
                /dev/pts: "devpts" "devpts" 0xa "newinstance,ptmxmode=0666,mode=0620,gid=5" false
                /dev/shm: "tmpfs" "tmpfs" 0xe "mode=1777,size=65536k" false
                /dev/mqueue: "mqueue" "mqueue" 0xe "" false
                /sys: "sysfs" "sysfs" 0xf "" false
                /sys/fs/cgroup: "cgroup2" "cgroup" 0x20000f "" false
            "#]],
        );
    }

    #[test]
    fn in_a_user_namespace_the_hosts_own_trees_stand_in() {
        let namespace = |groups| Some(UserNamespace::with(1, groups, true));
        let host = Host { user_namespace: namespace(1), ..HOST };
        expect![[r#"
            /proc: "proc" "proc" 0xe "" false or /proc
            /dev: "tmpfs" "tmpfs" 0x1000006 "mode=755,size=65536k" false
            /dev/pts: "devpts" "devpts" 0xa "newinstance,ptmxmode=0666,mode=0620" false
            /dev/shm: "tmpfs" "tmpfs" 0xe "mode=1777,size=65536k" false
            /dev/mqueue: "mqueue" "mqueue" 0xe "" false
            /sys: "sysfs" "sysfs" 0xf "" false or /sys
            /sys/fs/cgroup: "cgroup2" "cgroup" 0x20000f "" false or /sys/fs/cgroup
        "#]]
        .assert_eq(&dump(&Plan::new(&crate::default_spec(), &host).unwrap()));
        let host = Host { user_namespace: namespace(6), ..HOST };
        assert!(dump(&Plan::new(&crate::default_spec(), &host).unwrap()).contains("gid=5"));
    }

    #[test]
    fn cgroup_mounts_follow_the_host() {
        let cgroup = serde_json::json!([
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
        ]);
        check_mounts(
            CgroupVersion::V1,
            cgroup.clone(),
            expect![[r#"
            /sys/fs/cgroup: "tmpfs" "cgroup" 0x4 "" true
        "#]],
        );
        check_mounts(CgroupVersion::None, cgroup, expect![[""]]);
    }

    #[test]
    fn binds_are_normalized() {
        check_mounts(
            CgroupVersion::V2,
            serde_json::json!([
                {"destination": "etc/../etc//hosts", "type": "bind", "source": "/tmp/h", "options": ["ro"]},
                {"destination": "/cache", "source": "/c", "options": ["rbind", "nosuid"]},
            ]),
            expect![[r#"
                /etc/hosts: bind /tmp/h false +0x5 -0x0
                /cache: bind /c true +0x6 -0x0
            "#]],
        );
    }

    #[test]
    fn a_privileged_container_has_every_device() {
        let spec = spec_with(|spec| {
            spec["linux"]["resources"]["devices"] = serde_json::json!([{"allow": true, "access": "rwm"}]);
        });
        let plan = Plan::new(&spec, &HOST).unwrap();
        assert!(plan.all_devices);
        assert!(!Plan::new(&crate::default_spec(), &HOST).unwrap().all_devices);
    }

    #[test]
    fn commands_are_looked_up_in_path() {
        let check = |args: &str, env: &[&str], expected: &[&str]| {
            let spec = spec_with(|spec| {
                spec["process"]["args"] = serde_json::json!([args]);
                spec["process"]["env"] = serde_json::json!(env);
            });
            let candidates = Plan::new(&spec, &HOST).unwrap().process.candidates;
            let candidates: Vec<&str> = candidates.iter().map(|path| path.to_str().unwrap()).collect();
            assert_eq!(candidates, expected);
        };
        check("sh", &["PATH=/bin:/usr/bin/::x", "A=b"], &["/bin/sh", "/usr/bin/sh", "./sh", "x/sh"]);
        check("/bin/sh", &["PATH=/usr/bin"], &["/bin/sh"]);
        check("./sh", &[], &["./sh"]);
        check("sh", &["PATH=/a", "PATH=/b"], &["/b/sh"]);
        check(
            "sh",
            &[],
            &[
                "/usr/local/sbin/sh",
                "/usr/local/bin/sh",
                "/usr/sbin/sh",
                "/usr/bin/sh",
                "/sbin/sh",
                "/bin/sh",
            ],
        );
    }

    #[test]
    fn limits_keep_their_numbers() {
        let spec = spec_with(|spec| {
            spec["process"]["rlimits"] = serde_json::json!([
                {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2},
                {"type": "RLIMIT_RTTIME", "soft": 3, "hard": 4},
            ]);
        });
        let plan = Plan::new(&spec, &HOST).unwrap();
        assert_eq!(plan.process.rlimits, [(libc::RLIMIT_NOFILE, 1, 2), (libc::RLIMIT_RTTIME, 3, 4)]);
    }

    #[test]
    fn capabilities_are_at_most_the_callers() {
        let host = Host { capabilities: CapabilitySet(0b11), ..HOST };
        let plan = Plan::new(&crate::default_spec(), &host).unwrap();
        assert_eq!(plan.process.bounding, CapabilitySet(0b11));
        assert_eq!(plan.process.inheritable, CapabilitySet(0));
    }

    #[test]
    fn what_is_not_done_is_refused() {
        let check = |pointer: &str, value: serde_json::Value| {
            let spec = spec_with(|spec| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                spec.pointer_mut(parent).unwrap()[key] = value;
            });
            let error = Plan::new(&spec, &HOST).unwrap_err();
            assert!(matches!(error, RuntimeError::Unsupported { .. }), "{pointer}: {error}");
        };
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        check("/process/args", json("[]"));
        check("/process/args", json(r#"[""]"#));
        check("/process/args", json(r#"["a\u0000b"]"#));
        check("/process/cwd", json(r#""relative""#));
        check("/process/apparmorProfile", json(r#""docker-default""#));
        check("/linux/namespaces", json(r#"[{"type": "mount"}]"#));
        check("/linux/namespaces", json(r#"[{"type": "mount"}, {"type": "pid"}, {"type": "user"}]"#));
        check("/linux/namespaces", json(r#"[{"type": "mount", "path": "/proc/1/ns/mnt"}, {"type": "pid"}]"#));
        let joined = r#"[{"type": "mount"}, {"type": "pid"}, {"type": "uts", "path": "/proc/1/ns/uts"}]"#;
        check("/linux/namespaces", json(joined)); // the host name is another one's
        check("/linux/namespaces", json(r#"[{"type": "mount"}, {"type": "pid"}]"#)); // no uts for the host name
        check("/linux/resources/memory", json(r#"{"limit": 1}"#));
        check("/linux/sysctl", json(r#"{"kernel.panic": "1"}"#));
        check("/linux/sysctl", json(r#"{"net.ipv4.ip_forward": "1"}"#)); // the host's network
        check("/linux/sysctl", json(r#"{"kernel.shm/../../x": "1"}"#));
        check("/linux/rootfsPropagation", json(r#""shared""#));
        check("/linux/devices", json(r#"[{"path": "/x", "type": "c", "major": 1, "minor": 3}]"#));
        check("/mounts", json(r#"[{"destination": "/", "type": "tmpfs"}]"#));
        check("/mounts", json(r#"[{"destination": "/a", "type": "bind"}]"#));
        check(
            "/mounts",
            json(r#"[{"destination": "/a", "type": "bind", "source": "/", "options": ["size=1"]}]"#),
        );
    }

    #[test]
    fn own_sysctls_are_files_below_proc_sys() {
        let spec = spec_with(|spec| {
            spec["linux"]["sysctl"] = serde_json::json!({"kernel.shmmax": "1", "fs.mqueue.msg_max": "2"});
        });
        let sysctls = Plan::new(&spec, &HOST).unwrap().sysctls;
        let names: Vec<&str> = sysctls.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(names, ["/proc/sys/fs/mqueue/msg_max", "/proc/sys/kernel/shmmax"]);
    }
}
