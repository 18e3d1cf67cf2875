//! One thing that the child does, prepared by the parent: a few system calls on memory that is already there.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::seccomp::Filter;
use crate::sys::{self, Errno};

/// A step of the child. Its `Display` says what it is for, after "cannot".
#[derive(Debug)]
pub(super) enum Step {
    // Before anything else, in PID 1.
    EnterGroup {
        tasks: RawFd,
    },
    NewGroupNamespace,
    EnterNamespace {
        fd: RawFd,
        kind: u64,
    },
    /// Sends the namespaces that the process is in to the caller.
    SendNamespaces {
        socket: RawFd,
    },
    /// Sends the root.
    SendRoot {
        socket: RawFd,
    },
    LoopbackUp,
    HostName(Vec<u8>),
    DomainName(Vec<u8>),
    // The file system, in PID 1.
    PrivateMounts,
    /// A new file system in place of a tree, unless the kernel refuses it.
    NewTree {
        filesystem: CString,
        options: Vec<(CString, Option<CString>)>,
        attributes: u64,
        tree: usize,
    },
    AttachRoot {
        tree: RawFd,
    },
    PivotRoot,
    Umask(u32),
    MakeDirectory(Target),
    MakeFile(Target),
    Mount {
        filesystem: CString,
        source: CString,
        target: CString,
        flags: u64,
        data: CString,
    },
    Node {
        path: CString,
        mode: u32,
        device: u64,
        uid: u32,
        gid: u32,
    },
    CloneTree {
        path: CString,
        tree: usize,
    },
    Attach {
        tree: usize,
        target: CString,
    },
    Symlink {
        target: &'static CStr,
        path: &'static CStr,
    },
    ReadOnlyMount(CString),
    ReadOnlyPath(CString),
    Mask(CString),
    WriteFile {
        path: CString,
        value: Vec<u8>,
    },
    // Without namespaces.
    Chroot {
        root: RawFd,
    },
    Landlock {
        rules: RawFd,
    },
    // The command's own process.
    DieWithParent,
    NewSession,
    /// A terminal becomes that of the session.
    ControllingTerminal(RawFd),
    OwnStream {
        fd: RawFd,
        uid: u32,
        gid: u32,
    },
    Stream {
        from: RawFd,
        to: RawFd,
    },
    Limit {
        resource: u32,
        soft: u64,
        hard: u64,
    },
    Bounding {
        keep: u64,
    },
    NoNewPrivileges,
    KeepCapabilities,
    Groups(Vec<u32>),
    Group(u32),
    User(u32),
    WorkingDirectory(CString),
    UnblockSignals,
    CloseOnExec,
    Capabilities {
        effective: u64,
        permitted: u64,
        inheritable: u64,
    },
    Filter(Arc<Filter>),
    Listen {
        filter: Arc<Filter>,
        socket: RawFd,
    },
    Ambient(u64),
}

/// The names of the resource limits at the positions of their numbers.
const LIMITS: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// What `ulimit` calls the limit `resource`.
pub(super) fn limit_name(resource: u32) -> &'static str {
    LIMITS.get(resource as usize).copied().unwrap_or("?")
}

/// A path and the directories above it, from the root downwards.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: CString,
    pub(super) parents: Vec<CString>,
}

impl Step {
    /// Does it. `trees` are the descriptors of detached mounts that steps refer to by index.
    pub(super) fn run(&self, trees: &mut [RawFd]) -> Result<(), Errno> {
        match self {
            // 0 is the process itself; it has one thread.
            Self::EnterGroup { tasks } => sys::write(*tasks, b"0").map(drop),
            Self::NewGroupNamespace => sys::unshare(libc::CLONE_NEWCGROUP),
            Self::EnterNamespace { fd, kind } => sys::setns(*fd, *kind),
            Self::SendNamespaces { socket } => send_namespaces(*socket),
            Self::SendRoot { socket } => send_and_close(*socket, sys::open_place(c"/")?, ROOT),
            Self::LoopbackUp => sys::loopback_up(),
            Self::HostName(name) => sys::sethostname(name),
            Self::DomainName(name) => sys::setdomainname(name),
            Self::PrivateMounts => sys::mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None),
            Self::NewTree { filesystem, options, attributes, tree } => {
                match sys::new_mount(filesystem, options, *attributes) {
                    Ok(fd) => trees.get_mut(*tree).map(|slot| *slot = fd).ok_or(Errno(libc::EBADF)),
                    Err(Errno(libc::EPERM | libc::EACCES | libc::EBUSY)) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            Self::AttachRoot { tree } => {
                sys::move_mount(*tree, c"/")?;
                sys::fchdir(*tree)
            }
            Self::PivotRoot => pivot_root(),
            Self::Umask(mask) => {
                sys::umask(*mask);
                Ok(())
            }
            Self::MakeDirectory(target) => target.make(make_directory),
            Self::MakeFile(target) => target.make(make_file),
            Self::Mount { filesystem, source, target, flags, data } => {
                sys::mount(Some(source), target, Some(filesystem), *flags, Some(data))
            }
            Self::Node { path, mode, device, uid, gid } => {
                accept(sys::mknod(path, *mode, *device), libc::EEXIST)?;
                if (*uid, *gid) == (0, 0) { Ok(()) } else { sys::chown(path, *uid, *gid) }
            }
            Self::CloneTree { path, tree } => {
                let fd = sys::clone_tree(path, false)?;
                trees.get_mut(*tree).map(|slot| *slot = fd).ok_or(Errno(libc::EBADF))
            }
            Self::Attach { tree, target } => attach(*tree, target, trees),
            Self::Symlink { target, path } => accept(sys::symlink(target, path), libc::EEXIST),
            Self::ReadOnlyMount(path) => sys::make_read_only(path),
            Self::ReadOnlyPath(path) => accept(make_path_read_only(path), libc::ENOENT),
            Self::Mask(path) => accept(mask(path), libc::ENOENT),
            Self::WriteFile { path, value } => sys::write_file(path, value),
            Self::Chroot { root } => sys::chroot(*root),
            Self::Landlock { rules } => sys::landlock_restrict(*rules),
            Self::DieWithParent => sys::die_with_parent(),
            Self::NewSession => sys::setsid(),
            Self::ControllingTerminal(fd) => sys::terminal::control(*fd),
            Self::OwnStream { fd, uid, gid } => sys::fchown(*fd, *uid, *gid),
            Self::Stream { from, to } => sys::dup2(*from, *to),
            Self::Limit { resource, soft, hard } => sys::set_limit_of(0, *resource, *soft, *hard),
            Self::Bounding { keep } => drop_bounding(*keep),
            Self::NoNewPrivileges => sys::set_no_new_privileges(),
            Self::KeepCapabilities => sys::keep_capabilities(),
            Self::Groups(groups) => sys::setgroups(groups),
            Self::Group(gid) => sys::setresgid(*gid),
            Self::User(uid) => sys::setresuid(*uid),
            Self::WorkingDirectory(path) => sys::chdir(path),
            Self::UnblockSignals => sys::unblock_signals(),
            Self::CloseOnExec => sys::close_on_exec_from(3),
            Self::Capabilities { effective, permitted, inheritable } => {
                sys::capset(*effective, *permitted, *inheritable)
            }
            Self::Filter(filter) => sys::seccomp(&filter.program, filter.flags),
            Self::Listen { filter, socket } => listen(filter, *socket),
            Self::Ambient(ambient) => raise_ambient(*ambient),
        }
    }
}

impl Target {
    /// Makes it with `make`, and the directories above it if that is what is missing.
    fn make(&self, make: fn(&CStr) -> Result<(), Errno>) -> Result<(), Errno> {
        match make(&self.path) {
            Err(Errno(libc::ENOENT)) => {
                for parent in &self.parents {
                    make_directory(parent)?;
                }
                make(&self.path)
            }
            result => result,
        }
    }
}

fn attach(tree: usize, target: &CStr, trees: &[RawFd]) -> Result<(), Errno> {
    let tree = trees.get(tree).ok_or(Errno(libc::EBADF))?;
    sys::move_mount(*tree, target)
}

fn make_directory(path: &CStr) -> Result<(), Errno> {
    accept(sys::mkdir(path, 0o755), libc::EEXIST)
}

fn make_file(path: &CStr) -> Result<(), Errno> {
    accept(sys::mknod(path, libc::S_IFREG | 0o644, 0), libc::EEXIST)
}

/// The mount at the current directory becomes the root. The old root comes to lie over it, where paths do not lead: they
/// begin below. The current directory stays the new root, so that the old one is what `.` has mounted on it.
fn pivot_root() -> Result<(), Errno> {
    // The old root ends up over the new one at the same place, and goes before anything of the new one is looked up.
    sys::pivot_root(c".", c".")?;
    sys::detach_mount(c".")?;
    sys::chdir(c"/")
}

fn make_path_read_only(path: &CStr) -> Result<(), Errno> {
    let tree = sys::clone_tree(path, true)?;
    sys::mount_setattr(tree, true, libc::MOUNT_ATTR_RDONLY, 0, 0)?;
    sys::move_mount(tree, path)?;
    sys::close_range(tree, tree)
}

/// A file looks empty, and so does a directory.
fn mask(path: &CStr) -> Result<(), Errno> {
    // Asking first: a bind that the kernel refuses costs it more than all other steps of this kind.
    if sys::is_directory(path)? {
        let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        return sys::mount(Some(c"tmpfs"), path, Some(c"tmpfs"), flags, None);
    }
    sys::mount(Some(c"/dev/null"), path, None, libc::MS_BIND, None)
}

fn drop_bounding(keep: u64) -> Result<(), Errno> {
    for capability in (0..u64::BITS).filter(|number| keep >> number & 1 == 0) {
        match sys::drop_bounding(capability) {
            // The kernel knows no capability of this number or above.
            Err(Errno(libc::EINVAL)) => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}

fn raise_ambient(ambient: u64) -> Result<(), Errno> {
    sys::clear_ambient()?;
    for capability in (0..u64::BITS).filter(|number| ambient >> number & 1 == 1) {
        sys::raise_ambient(capability)?;
    }
    Ok(())
}

/// Lets the supervisor answer the calls that `filter` names.
fn listen(filter: &Filter, socket: RawFd) -> Result<(), Errno> {
    let listener = sys::notify::install_listening(&filter.program)?;
    // Held by nobody else, so that calls fail when the supervisor is gone.
    send_and_close(socket, listener, 0)
}

/// The namespaces that a container can have of its own, in the order in which they are entered: the file system last, with
/// which the names of the others go.
pub(super) const NAMESPACES: [(&CStr, u64); 6] = [
    (c"/proc/self/ns/cgroup", libc::CLONE_NEWCGROUP as u64),
    (c"/proc/self/ns/ipc", libc::CLONE_NEWIPC as u64),
    (c"/proc/self/ns/uts", libc::CLONE_NEWUTS as u64),
    (c"/proc/self/ns/net", libc::CLONE_NEWNET as u64),
    (c"/proc/self/ns/pid", libc::CLONE_NEWPID as u64),
    (c"/proc/self/ns/mnt", libc::CLONE_NEWNS as u64),
];

/// What the root is sent as; a namespace is sent as its place in [`NAMESPACES`].
pub(super) const ROOT: u8 = NAMESPACES.len() as u8;

fn send_namespaces(socket: RawFd) -> Result<(), Errno> {
    for (index, (path, _)) in (0..).zip(NAMESPACES) {
        match sys::open_to_read(path) {
            Ok(fd) => send_and_close(socket, fd, index)?,
            // A kernel without that kind.
            Err(Errno(libc::ENOENT)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn send_and_close(socket: RawFd, fd: RawFd, what: u8) -> Result<(), Errno> {
    sys::notify::send_descriptor(socket, fd, what)?;
    sys::close_range(fd, fd)
}

/// `result`, where the error number `fine` is none.
fn accept(result: Result<(), Errno>, fine: i32) -> Result<(), Errno> {
    match result {
        Err(Errno(number)) if number == fine => Ok(()),
        result => result,
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |path: &CString| path.to_string_lossy().into_owned();
        match self {
            Self::EnterGroup { .. } => f.write_str("enter the control group"),
            Self::NewGroupNamespace => f.write_str("make a namespace of control groups"),
            Self::EnterNamespace { .. } => f.write_str("enter a namespace"),
            Self::SendNamespaces { .. } => f.write_str("open the container's namespaces"),
            Self::SendRoot { .. } => f.write_str("open the container's root"),
            Self::LoopbackUp => f.write_str("bring up the loopback interface"),
            Self::HostName(_) => f.write_str("set the host name"),
            Self::DomainName(_) => f.write_str("set the domain name"),
            Self::PrivateMounts => f.write_str("make the mounts private"),
            Self::AttachRoot { .. } => f.write_str("mount the root file system"),
            Self::PivotRoot => f.write_str("change the root"),
            Self::Umask(_) => f.write_str("set the umask"),
            Self::MakeDirectory(target) => write!(f, "make the directory {}", path(&target.path)),
            Self::MakeFile(target) => write!(f, "make the mount point {}", path(&target.path)),
            Self::Mount { filesystem, target, .. } => {
                write!(f, "mount {} at {}", path(filesystem), path(target))
            }
            Self::NewTree { filesystem, .. } => write!(f, "make a file system {}", path(filesystem)),
            Self::Node { path: node, .. } => write!(f, "make the device {}", path(node)),
            Self::CloneTree { path: tree, .. } => write!(f, "prepare the mount {}", path(tree)),
            Self::Attach { target, .. } => write!(f, "bind at {}", path(target)),
            Self::Symlink { path, .. } => write!(f, "make the link {}", path.to_string_lossy()),
            Self::ReadOnlyMount(tree) | Self::ReadOnlyPath(tree) => {
                write!(f, "make {} read-only", path(tree))
            }
            Self::Mask(masked) => write!(f, "mask {}", path(masked)),
            Self::WriteFile { path: file, .. } => write!(f, "write {}", path(file)),
            Self::Chroot { .. } => f.write_str("change the root to the step's directory (chroot)"),
            Self::Landlock { .. } => f.write_str("confine the step with Landlock"),
            Self::DieWithParent => f.write_str("tie the command's life to its parent's"),
            Self::NewSession => f.write_str("start a session"),
            Self::ControllingTerminal(_) => f.write_str("take the terminal"),
            Self::OwnStream { .. } | Self::Stream { .. } => f.write_str("set up the standard streams"),
            Self::Limit { resource, soft, hard } => {
                let name = limit_name(*resource);
                write!(f, "set the limit `{name}` to {soft}:{hard}")
            }
            Self::Bounding { .. } => f.write_str("limit the capabilities"),
            Self::NoNewPrivileges => f.write_str("forbid new privileges"),
            Self::KeepCapabilities => f.write_str("keep the capabilities"),
            Self::Groups(_) => f.write_str("set the supplementary groups"),
            Self::Group(gid) => write!(f, "become group {gid}"),
            Self::User(uid) => write!(f, "become user {uid}"),
            Self::WorkingDirectory(directory) => write!(f, "enter the working directory {}", path(directory)),
            Self::UnblockSignals => f.write_str("unblock signals"),
            Self::CloseOnExec => f.write_str("mark descriptors for closing"),
            Self::Capabilities { .. } => f.write_str("set the capabilities"),
            Self::Filter(_) => f.write_str("install the seccomp filter"),
            Self::Listen { .. } => f.write_str("install the seccomp filter of the supervisor"),
            Self::Ambient(_) => f.write_str("set the ambient capabilities"),
        }
    }
}
