//! From the plan to the container's steps: everything that can be done, opened or allocated beforehand.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::child::{Command, Container, Init, Rest};
use super::descendants::Descendants;
use super::launch;
use super::step::{Step, Target};
use super::streams::{Streams, stream_steps};
use crate::capability::CapabilitySet;
use crate::cgroup::Group;
use crate::rootfs::{MountPoints, TargetKind};
use crate::sandbox::UserNamespace;
use crate::seccomp::Filter;
use crate::spec::devices::{self, Device};
use crate::spec::plan::{CgroupVersion, Host, Mount, MountKind, Plan, ProcessPlan, path_string};
use crate::sys::{Arguments, StringArray};
use crate::{Bind, RuntimeError, sys};

/// Enough for the steps of the launch, which call nothing deep.
pub(super) const COMMAND_STACK_BYTES: usize = 256 << 10;

/// What the container is to be made of, besides the plan.
pub(super) struct Parts<'a> {
    pub(super) root: BorrowedFd<'a>,
    /// Trees to bind after the plan's mounts.
    pub(super) binds: Vec<Bind>,
    /// The control group that it runs in, if it is not the caller's.
    pub(super) group: Option<&'a Group>,
    /// The user namespace that the command enters.
    pub(super) user_namespace: Option<BorrowedFd<'a>>,
    pub(super) filter: Option<Arc<Filter>>,
    pub(super) supervised: Option<Supervised>,
    pub(super) streams: Streams,
    /// Where the child reports to.
    pub(super) report: OwnedFd,
    /// Where the child sends its namespaces and its root.
    pub(super) view: Option<OwnedFd>,
    /// What [`new_devpts`] made.
    pub(super) devpts: Option<&'a OwnedFd>,
    pub(super) host: Host,
}

/// What makes a supervisor answer for the kernel.
pub(crate) struct Supervised {
    pub(crate) filter: Arc<Filter>,
    /// The step's end of the supervisor's channel.
    pub(crate) socket: OwnedFd,
}

/// The container as the child takes it, and the descriptors that it refers to by number.
pub(super) struct Prepared {
    pub(super) container: Container,
    /// `CLONE_NEW*`.
    pub(super) namespaces: u64,
    /// The pid namespace that it is made in, if it is not a new one or the caller's.
    pub(super) pid_namespace: Option<OwnedFd>,
    /// The v2 control group that it is made in.
    pub(super) group: Option<RawFd>,
    pub(super) descriptors: Descriptors,
}

impl Prepared {
    /// Closes the parent's copies of the child's descriptors.
    pub(super) fn release(&mut self) {
        self.descriptors.0.clear();
    }
}

/// What is mounted at `/sys/fs/cgroup`.
pub(crate) fn cgroup_version() -> CgroupVersion {
    const CGROUP2_MAGIC: i64 = 0x6367_7270;
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    match rustix::fs::statfs(c"/sys/fs/cgroup").map(|filesystem| filesystem.f_type) {
        Ok(CGROUP2_MAGIC) => CgroupVersion::V2,
        Ok(TMPFS_MAGIC) => CgroupVersion::V1,
        _ => CgroupVersion::None,
    }
}

/// What of the host plans depend on.
pub(super) fn host() -> Result<Host, RuntimeError> {
    let permitted = sys::permitted_capabilities().map_err(failed("read the own capabilities"))?;
    static USER_NAMESPACE: OnceLock<Option<UserNamespace>> = OnceLock::new();
    let user_namespace = USER_NAMESPACE.get_or_init(UserNamespace::of_this_process).clone();
    Ok(Host { cgroup: cgroup_version(), capabilities: CapabilitySet(permitted), user_namespace })
}

/// Makes mount points, opens trees and writes down the steps.
pub(super) fn prepare(
    plan: Plan,
    parts: Parts<'_>,
    points: &mut MountPoints,
) -> Result<Prepared, RuntimeError> {
    let Parts { root, binds, group, user_namespace, filter, supervised, streams, report, view, devpts, host } =
        parts;
    let mut builder = Builder {
        early: Vec::new(),
        setup: Vec::new(),
        trees: Vec::new(),
        descriptors: Descriptors::default(),
        user_namespace: host.user_namespace,
        pids: Pids::Own,
    };
    let report = builder.descriptors.keep(report)?;
    let caller = builder.descriptors.keep(own_pidfd()?)?;

    if let Some(group) = group {
        builder.group(&plan, group)?;
    }
    builder.namespaces(&plan)?;
    let socket = view.map(|view| builder.descriptors.keep(view)).transpose()?;
    builder.setup.extend(socket.map(|socket| Step::SendNamespaces { socket }));
    let before_root = builder.setup.len();
    builder.root(root, &plan)?;
    let console = match streams {
        Streams::Terminal { number, .. } => Some(number),
        _ => None,
    };
    builder.mounts(&plan, root, binds, Terminals { devpts, console }, points)?;
    // These need the old root, and nothing of the new one may be looked up while that is there: in the new root `..` leads
    // up into it.
    let early = std::mem::take(&mut builder.early);
    builder.setup.splice(before_root..before_root, early);
    builder.protect(&plan);
    builder.setup.push(Step::MakeDirectory(target(&plan.process.cwd)?));
    builder.setup.extend(socket.map(|socket| Step::SendRoot { socket }));

    let new_session = !matches!(streams, Streams::Inherited { terminal: true });
    let mut launch = Vec::new();
    stream_steps(streams, &plan.process, &mut builder.descriptors, &mut launch)?;
    let filters = launch::filters(supervised, filter, &mut builder.descriptors)?;
    let enter = launch::enter_user_namespace(user_namespace, &mut builder.descriptors)?;
    launch::launch_steps(&plan.process, filters, enter, builder.user_namespace.as_ref(), &mut launch)?;

    let init = Init {
        report,
        caller,
        first: caller,
        foreign: builder.descriptors.gaps(),
        caller_arguments: own_arguments(),
        new_session,
        trees: builder.trees,
        setup: builder.setup,
        rest: match builder.pids {
            Pids::Own => Rest::Namespace,
            // What is left ends with that namespace, at the latest.
            Pids::Of(_) => Rest::Session,
            Pids::Callers => Rest::Descendants(Descendants::new(false)),
        },
    };
    let command = command(plan.process, launch, report);
    Ok(Prepared {
        container: Container { init, command, stack: command_stack() },
        // Made in the parent's name, a namespace of control groups would begin at the parent's group.
        namespaces: plan.namespaces & if group.is_some() { !GROUP_NAMESPACE } else { !0 },
        pid_namespace: match builder.pids {
            Pids::Of(namespace) => Some(namespace),
            Pids::Own | Pids::Callers => None,
        },
        group: group.and_then(Group::v2_entry),
        descriptors: builder.descriptors,
    })
}

/// Makes the devpts that the plan has at `/dev/pts`, so that the parent, too, can make terminals in it.
pub(super) fn new_devpts(plan: &Plan) -> Result<Option<OwnedFd>, RuntimeError> {
    let Some(Mount { kind: MountKind::New { data, flags, .. }, .. }) =
        plan.mounts.iter().find(|it| is_devpts(it))
    else {
        return Ok(None);
    };
    sys::new_mount(c"devpts", &new_mount_options(data)?, *flags & NEW_MOUNT_FLAGS)
        .map(|mount| Some(sys::own(mount)))
        .map_err(failed("make a file system devpts for /dev/pts"))
}

fn is_devpts(mount: &Mount) -> bool {
    mount.target == Path::new("/dev/pts")
        && matches!(&mount.kind, MountKind::New { filesystem, .. } if filesystem.as_c_str() == c"devpts")
}

/// What the container's terminals are made of.
#[derive(Clone, Copy)]
struct Terminals<'a> {
    devpts: Option<&'a OwnedFd>,
    /// The number of the one that is the console.
    console: Option<u32>,
}

/// The process that becomes the program of `process` after `launch`.
pub(super) fn command(process: ProcessPlan, launch: Vec<Step>, report: RawFd) -> Command {
    let ProcessPlan { candidates, arguments, environment, .. } = process;
    let (arguments, environment) = (StringArray::new(arguments), StringArray::new(environment));
    Command { report, launch, candidates, arguments, environment }
}

/// What puts the process into the v1 groups; into a v2 group it is born.
pub(super) fn enter_group(group: &Group, descriptors: &mut Descriptors) -> Result<Vec<Step>, RuntimeError> {
    let enter = |entry: &fs::File| {
        let entry = entry.try_clone().map_err(failed("open the control group"))?;
        Ok(Step::EnterGroup { tasks: descriptors.keep(entry.into())? })
    };
    group.v1_entries().map(enter).collect()
}

/// What the command's process runs on until it executes its program.
pub(super) fn command_stack() -> Vec<u8> {
    vec![0; COMMAND_STACK_BYTES]
}

/// A pidfd of this process, by which the container sees it end.
pub(super) fn own_pidfd() -> Result<OwnedFd, RuntimeError> {
    rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
        .map_err(failed("open a pidfd of the own process"))
}

struct Builder {
    /// What is done before the root is changed.
    early: Vec<Step>,
    setup: Vec<Step>,
    trees: Vec<RawFd>,
    descriptors: Descriptors,
    /// The one that the container is made in, unless it is the machine's first one.
    user_namespace: Option<UserNamespace>,
    pids: Pids,
}

/// The pid namespace of a container.
enum Pids {
    /// A new one.
    Own,
    /// Another container's.
    Of(OwnedFd),
    /// That of this process.
    Callers,
}

const GROUP_NAMESPACE: u64 = libc::CLONE_NEWCGROUP as u64;

impl Builder {
    fn group(&mut self, plan: &Plan, group: &Group) -> Result<(), RuntimeError> {
        self.setup.extend(enter_group(group, &mut self.descriptors)?);
        if plan.namespaces & GROUP_NAMESPACE != 0 {
            self.setup.push(Step::NewGroupNamespace);
        }
        Ok(())
    }

    fn namespaces(&mut self, plan: &Plan) -> Result<(), RuntimeError> {
        for (kind, path) in &plan.joined {
            let step = || format!("open the namespace {}", path.display());
            let namespace = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|source| RuntimeError::Step { step: step(), source: source.into() })?;
            if *kind == LinuxNamespaceType::Pid as u64 {
                // Only who is made there is in it; and this process need not join its own, which it may have no right to.
                let own = rustix::fs::stat(c"/proc/self/ns/pid")
                    .map_err(failed("look at the own pid namespace"))?;
                let other =
                    rustix::fs::fstat(&namespace).map_err(failed("look at the pid namespace to join"))?;
                let is_own = crate::rootfs::identity(&own) == crate::rootfs::identity(&other);
                self.pids = if is_own { Pids::Callers } else { Pids::Of(namespace) };
                continue;
            }
            let fd = self.descriptors.keep(namespace)?;
            self.setup.push(Step::EnterNamespace { fd, kind: *kind });
        }
        if plan.namespaces & LinuxNamespaceType::Network as u64 != 0 {
            self.setup.push(Step::LoopbackUp);
        }
        self.setup.extend(plan.hostname.as_ref().map(|name| Step::HostName(name.clone().into_bytes())));
        self.setup.extend(plan.domainname.as_ref().map(|name| Step::DomainName(name.clone().into_bytes())));
        Ok(())
    }

    fn root(&mut self, root: BorrowedFd<'_>, plan: &Plan) -> Result<(), RuntimeError> {
        let set =
            attributes(plan.all_devices) | if plan.root_read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
        let tree = own_tree(root, set).map_err(failed("prepare the root file system"))?;
        let tree = self.descriptors.keep(tree)?;
        self.setup.extend([Step::PrivateMounts, Step::AttachRoot { tree }, Step::PivotRoot, Step::Umask(0)]);
        Ok(())
    }

    fn mounts(
        &mut self,
        plan: &Plan,
        root: BorrowedFd<'_>,
        binds: Vec<Bind>,
        terminals: Terminals<'_>,
        points: &mut MountPoints,
    ) -> Result<(), RuntimeError> {
        let mut covered: Vec<PathBuf> = Vec::new();
        let mut read_only = Vec::new();
        let mut devpts = terminals.devpts;
        for mount @ Mount { target, kind } in &plan.mounts {
            if is_devpts(mount)
                && let Some(devpts) = devpts.take()
            {
                let devpts = devpts.try_clone().map_err(failed("open the container's devpts"))?;
                self.bind(root, target, devpts, &mut covered, points)?;
                self.console(plan, terminals.console)?;
                continue;
            }
            match kind {
                MountKind::New { filesystem, source, flags, data, read_only: later, instead } => {
                    self.target(root, target, TargetKind::Directory, &mut covered, points)?;
                    let devices = plan.devices.as_deref().filter(|_| target == Path::new("/dev"));
                    let nodes = self.device_nodes(devices.unwrap_or_default(), plan.all_devices)?;
                    let target = path_string(target)?;
                    // What processes it shows are the container's own to set; the kernel lets it set no others.
                    let is_writable = filesystem.as_c_str() == c"proc" && matches!(self.pids, Pids::Callers);
                    let stand_in = instead.as_deref().map(|tree| self.stand_in(tree, is_writable));
                    let stand_in = stand_in.transpose()?.flatten();
                    self.setup.push(match stand_in {
                        Some(tree) => {
                            // A user namespace gets a procfs or sysfs of its own only while it can see one.
                            self.early.push(Step::NewTree {
                                filesystem: filesystem.clone(),
                                options: new_mount_options(data)?,
                                attributes: *flags & NEW_MOUNT_FLAGS,
                                tree,
                            });
                            Step::Attach { tree, target: target.clone() }
                        }
                        None => Step::Mount {
                            filesystem: filesystem.clone(),
                            source: source.clone(),
                            target: target.clone(),
                            flags: *flags,
                            data: data.clone(),
                        },
                    });
                    if devices.is_some() {
                        self.setup.extend(nodes);
                        self.setup.extend(DEV_LINKS.map(|(path, target)| Step::Symlink { target, path }));
                    }
                    if *later {
                        read_only.push(Step::ReadOnlyMount(target));
                    }
                }
                MountKind::Bind { source, recursive, set, clear, propagation } => {
                    let tree = host_tree(source, *recursive).and_then(|tree| {
                        sys::mount_setattr(tree.as_raw_fd(), *recursive, *set, *clear, *propagation)?;
                        Ok(tree)
                    });
                    let tree = tree.map_err(failed(format!("bind {}", source.display())))?;
                    self.bind(root, target, tree, &mut covered, points)?;
                }
            }
        }
        for Bind { target, tree, read_only, no_exec } in binds {
            let target = crate::spec::plan::absolute(&target);
            let set = attributes(plan.all_devices)
                | if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 }
                | if no_exec { libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOSUID } else { 0 };
            let tree = own_tree(tree.as_fd(), set)
                .map_err(failed(format!("prepare the bind at {}", target.display())))?;
            self.bind(root, &target, tree, &mut covered, points)?;
        }
        self.setup.append(&mut read_only);
        Ok(())
    }

    /// Binds the terminal with this number of `/dev/pts` at `/dev/console`, where there is a `/dev` for it.
    fn console(&mut self, plan: &Plan, number: Option<u32>) -> Result<(), RuntimeError> {
        if let (Some(number), Some(_)) = (number, &plan.devices) {
            let (path, target) =
                (path_string(format!("/dev/pts/{number}").as_ref())?, target(Path::new("/dev/console"))?);
            let (tree, console) = (self.tree(None)?, target.path.clone());
            let steps = [
                Step::CloneTree { path, tree },
                Step::MakeFile(target),
                Step::Attach { tree, target: console },
            ];
            self.setup.extend(steps);
        }
        Ok(())
    }

    /// A tree of the host to be bound, read-only unless it is the container's own too, where a new file system is refused;
    /// none where the host has no such tree. What lies beneath comes along: what the host hides there stays hidden.
    fn stand_in(&mut self, source: &Path, is_writable: bool) -> Result<Option<usize>, RuntimeError> {
        let Ok(tree) = host_tree(source, true) else { return Ok(None) };
        let set = libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC
            | if is_writable { 0 } else { libc::MOUNT_ATTR_RDONLY };
        sys::mount_setattr(tree.as_raw_fd(), true, set, 0, libc::MS_PRIVATE)
            .map_err(failed(format!("prepare {} of this machine", source.display())))?;
        self.tree(Some(tree)).map(Some)
    }

    fn bind(
        &mut self,
        root: BorrowedFd<'_>,
        target: &Path,
        tree: OwnedFd,
        covered: &mut Vec<PathBuf>,
        points: &mut MountPoints,
    ) -> Result<(), RuntimeError> {
        let stat =
            rustix::fs::fstat(&tree).map_err(failed(format!("look at the bind at {}", target.display())))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => TargetKind::Directory,
            _ => TargetKind::File,
        };
        self.target(root, target, kind, covered, points)?;
        let tree = self.tree(Some(tree))?;
        self.setup.push(Step::Attach { tree, target: path_string(target)? });
        Ok(())
    }

    /// Sees to it that there is something to mount over: what lies in the root is made here, so that it can be taken
    /// away again; what lies in another mount is made by the child.
    fn target(
        &mut self,
        root: BorrowedFd<'_>,
        path: &Path,
        kind: TargetKind,
        covered: &mut Vec<PathBuf>,
        points: &mut MountPoints,
    ) -> Result<(), RuntimeError> {
        if !covered.iter().any(|mount| path.starts_with(mount)) {
            points.ensure(root, path, kind)?;
        }
        covered.push(path.to_owned());
        // A link may lead from the root into another mount, so the child looks again.
        self.setup.push(match kind {
            TargetKind::Directory => Step::MakeDirectory(target(path)?),
            TargetKind::File => Step::MakeFile(target(path)?),
        });
        Ok(())
    }

    /// Returns the steps that put `devices` into the new `/dev`.
    ///
    /// Device nodes cannot be opened on any mount of the container, or it could make itself one for the host's disk.
    /// So the real nodes are made on a mount that allows it, taken from there one by one, and bound into the final
    /// `/dev`, which then hides the mount that they came from.
    fn device_nodes(&mut self, devices: &[Device], all_devices: bool) -> Result<Vec<Step>, RuntimeError> {
        if self.user_namespace.is_some() {
            return self.hosts_devices(devices);
        }
        let mut steps = Vec::new();
        if !devices.is_empty() && !all_devices {
            self.setup.push(Step::Mount {
                filesystem: c"tmpfs".to_owned(),
                source: c"devices".to_owned(),
                target: c"/dev".to_owned(),
                flags: libc::MS_NOSUID | libc::MS_NOEXEC,
                data: c"mode=700,size=64k".to_owned(),
            });
        }
        for (index, device) in devices.iter().enumerate() {
            let node = |path: CString| Step::Node {
                path,
                mode: device.mode,
                device: device.device,
                uid: device.uid,
                gid: device.gid,
            };
            let place = target(&device.path)?;
            if all_devices {
                steps.extend(
                    place
                        .parents
                        .into_iter()
                        .map(|path| Step::MakeDirectory(Target { path, parents: vec![] })),
                );
                steps.push(node(place.path));
                continue;
            }
            let source = path_string(Path::new(&format!("/dev/{index}")))?;
            let tree = self.tree(None)?;
            self.setup.extend([node(source.clone()), Step::CloneTree { path: source, tree }]);
            let target = place.path.clone();
            steps.extend([Step::MakeFile(place), Step::Attach { tree, target }]);
        }
        Ok(steps)
    }

    /// Returns the steps that bind `devices` of the host into the new `/dev`: in a user namespace no node can be made that
    /// could be opened.
    fn hosts_devices(&mut self, devices: &[Device]) -> Result<Vec<Step>, RuntimeError> {
        let mut steps = Vec::new();
        for device in devices {
            let tree = match host_device(device) {
                Ok(tree) => tree,
                // Not everything that a machine has is in every container of it.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !device.is_asked => continue,
                Err(error) => {
                    return Err(failed(format!("bind {} of this machine", device.path.display()))(error));
                }
            };
            let place = target(&device.path)?;
            let target = place.path.clone();
            let tree = self.tree(Some(tree))?;
            steps.extend([Step::MakeFile(place), Step::Attach { tree, target }]);
        }
        Ok(steps)
    }

    /// What is forbidden in the end, and sysctls, which have to be set before.
    fn protect(&mut self, plan: &Plan) {
        let sysctls = plan.sysctls.iter();
        self.setup.extend(
            sysctls.map(|(path, value)| Step::WriteFile {
                path: path.clone(),
                value: value.clone().into_bytes(),
            }),
        );
        self.setup.extend(plan.read_only.iter().cloned().map(Step::ReadOnlyPath));
        self.setup.extend(plan.masked.iter().cloned().map(Step::Mask));
    }

    /// A place for a detached mount: `tree`, or one that the child opens.
    fn tree(&mut self, tree: Option<OwnedFd>) -> Result<usize, RuntimeError> {
        let fd = tree.map_or(Ok(-1), |tree| self.descriptors.keep(tree))?;
        self.trees.push(fd);
        Ok(self.trees.len() - 1)
    }
}

/// The usual links in `/dev`.
const DEV_LINKS: [(&CStr, &CStr); 6] = [
    (c"/dev/ptmx", c"pts/ptmx"),
    (c"/dev/fd", c"/proc/self/fd"),
    (c"/dev/stdin", c"/proc/self/fd/0"),
    (c"/dev/stdout", c"/proc/self/fd/1"),
    (c"/dev/stderr", c"/proc/self/fd/2"),
    (c"/dev/core", c"/proc/kcore"),
];

/// The `MS_*` that are `MOUNT_ATTR_*` of the same numbers.
const NEW_MOUNT_FLAGS: u64 = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// Options with a comma between them, one by one.
fn new_mount_options(data: &CStr) -> Result<Vec<(CString, Option<CString>)>, RuntimeError> {
    let options = data.to_bytes().split(|byte| *byte == b',').filter(|option| !option.is_empty());
    let pair = |option: &[u8]| {
        let string = |bytes: &[u8]| CString::new(bytes).map_err(failed("read the options of a mount"));
        match option.iter().position(|byte| *byte == b'=') {
            Some(at) => Ok((string(&option[..at])?, Some(string(&option[at + 1..])?))),
            None => Ok((string(option)?, None)),
        }
    };
    options.map(pair).collect()
}

fn attributes(all_devices: bool) -> u64 {
    if all_devices { 0 } else { libc::MOUNT_ATTR_NODEV }
}

/// A mount of the tree that `fd` leads to which nobody else has: a copy, or, where the kernel cannot copy a detached
/// mount (before 6.15), that mount itself.
fn own_tree(fd: BorrowedFd<'_>, set: u64) -> io::Result<OwnedFd> {
    let tree = match sys::open_tree(fd, c"", true) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => fd.try_clone_to_owned()?,
        result => result?,
    };
    sys::mount_setattr(tree.as_raw_fd(), true, set, 0, libc::MS_PRIVATE)?;
    Ok(tree)
}

/// A detached copy of a tree of the host.
fn host_tree(source: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let source = CString::new(source.as_os_str().as_encoded_bytes())?;
    sys::open_tree(CWD, &source, recursive)
}

/// A detached mount of a device of the host. What lies at its place and is not that device counts as not there.
fn host_device(device: &Device) -> io::Result<OwnedFd> {
    match host_device_at(device, &device.path) {
        // The container may know it by another name.
        Err(error) if error.kind() == io::ErrorKind::NotFound && device.is_asked => {
            let place = devices::place_of(device).ok_or(error)?;
            host_device_at(device, &place)
        }
        result => result,
    }
}

fn host_device_at(device: &Device, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let found = rustix::fs::fstat(&node)?;
    let same_kind = found.st_mode & libc::S_IFMT == device.mode & libc::S_IFMT;
    if !same_kind || found.st_rdev != device.device {
        return Err(io::ErrorKind::NotFound.into());
    }
    let tree = sys::open_tree(node.as_fd(), c"", false)?;
    // Read-only is the node, not the device: its mode, owner and times are the machine's, also where a masked file is bound
    // from it.
    let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    sys::mount_setattr(tree.as_raw_fd(), false, set, 0, libc::MS_PRIVATE)?;
    Ok(tree)
}

/// `path` with its parents, without the root.
pub(super) fn target(path: &Path) -> Result<Target, RuntimeError> {
    let parents: Vec<&Path> = path.ancestors().skip(1).filter(|parent| parent.parent().is_some()).collect();
    Ok(Target {
        path: path_string(path)?,
        parents: parents.into_iter().rev().map(path_string).collect::<Result<_, _>>()?,
    })
}

/// The descriptors that the child keeps, none of which is a standard stream.
#[derive(Default)]
pub(super) struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    pub(super) fn keep(&mut self, fd: OwnedFd) -> Result<RawFd, RuntimeError> {
        let fd = match fd.as_raw_fd() {
            0..=2 => rustix::io::fcntl_dupfd_cloexec(&fd, 3).map_err(failed("move a descriptor"))?,
            _ => fd,
        };
        let number = fd.as_raw_fd();
        self.0.push(fd);
        Ok(number)
    }

    /// The ranges above the standard streams without any of these.
    pub(super) fn gaps(&self) -> Vec<(RawFd, RawFd)> {
        let mut kept: Vec<RawFd> = self.0.iter().map(AsRawFd::as_raw_fd).collect();
        kept.sort_unstable();
        let mut gaps = Vec::new();
        let mut first = 3;
        for fd in kept {
            if fd > first {
                gaps.push((first, fd - 1));
            }
            first = fd + 1;
        }
        gaps.push((first, RawFd::MAX));
        gaps
    }
}

/// Where the kernel says that this process's command line and environment are; unknown where it does not say.
pub(super) fn own_arguments() -> Arguments {
    static ARGUMENTS: OnceLock<Arguments> = OnceLock::new();
    *ARGUMENTS.get_or_init(|| {
        fs::read_to_string("/proc/self/stat").ok().and_then(|stat| parse_arguments(&stat)).unwrap_or_default()
    })
}

/// Fields 48 to 51 of `/proc/<pid>/stat`. The second one, the name, may contain anything but ends with the last `)`.
fn parse_arguments(stat: &str) -> Option<Arguments> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(45).map(|field| field.parse::<usize>().ok());
    let mut range = || Some((fields.next()??, fields.next()??));
    Some(Arguments { arguments: range()?, environment: range()? })
}

fn failed<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> RuntimeError {
    move |source| RuntimeError::Step { step: step.into(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_list_their_parents_downwards() {
        let target = target(Path::new("/a/b/c")).unwrap();
        assert_eq!(target.path.as_c_str(), c"/a/b/c");
        assert_eq!(target.parents, [c"/a".to_owned(), c"/a/b".to_owned()]);
    }

    #[test]
    fn descriptors_know_the_gaps_between_them() {
        let mut descriptors = Descriptors::default();
        for at in [20, 21, 25] {
            let null = fs::File::open("/dev/null").unwrap();
            let fd = rustix::io::fcntl_dupfd_cloexec(&null, at + 100).unwrap();
            descriptors.keep(fd).unwrap();
        }
        let kept: Vec<RawFd> = descriptors.0.iter().map(AsRawFd::as_raw_fd).collect();
        let gaps = descriptors.gaps();
        for fd in 3..300 {
            let closed = gaps.iter().any(|&(first, last)| (first..=last).contains(&fd));
            assert_eq!(closed, !kept.contains(&fd), "{fd}");
        }
    }

    #[test]
    fn the_places_of_the_arguments_are_read() {
        let fields: Vec<String> =
            (3..=52).map(|field| if field == 3 { "S".into() } else { field.to_string() }).collect();
        let stat = format!("1 (a) b) c) {}", fields.join(" "));
        let expected = Arguments { arguments: (48, 49), environment: (50, 51) };
        assert_eq!(parse_arguments(&stat), Some(expected));
        assert_eq!(parse_arguments("1 (a) S 1 2"), None);
        assert_ne!(own_arguments(), Arguments::default());
    }
}
