//! Calls that confine a process without namespaces: chroot, Landlock, the rule over its descendants.

use std::ffi::{CStr, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{null, null_mut};

use super::{Errno, Result, SIGNAL_SET_SIZE, check, prctl};

/// The directory `fd` becomes the root, and the current directory.
pub(crate) fn chroot(fd: RawFd) -> Result<()> {
    super::fchdir(fd)?;
    // SAFETY: a string that outlives the call.
    unsafe { syscall!(libc::SYS_chroot, c".".as_ptr()) }.map(drop)
}

/// Orphaned descendants of this process become its children.
pub(crate) fn adopt_orphans() -> Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map(drop)
}

/// Sends `signal` to every process that this one may signal, but for itself and PID 1: at one instant, so that no fork
/// slips through. ESRCH when there is none.
pub(crate) fn kill_all(signal: i32) -> Result<()> {
    super::kill(-1, signal)
}

/// The process id of the caller.
pub(crate) fn process_id() -> i32 {
    // SAFETY: takes no pointer and cannot fail.
    unsafe { libc::syscall(libc::SYS_getpid) as i32 }
}

/// The process that made the caller; 0 for one of another pid namespace.
pub(crate) fn parent_process_id() -> i32 {
    // SAFETY: takes no pointer and cannot fail.
    unsafe { libc::syscall(libc::SYS_getppid) as i32 }
}

/// A descriptor of a process.
pub(crate) fn open_process(process: i32) -> Result<RawFd> {
    // SAFETY: takes no pointer.
    Ok(unsafe { syscall!(libc::SYS_pidfd_open, process, 0) }? as RawFd)
}

/// Signals the process that `fd` stands for.
pub(crate) fn signal_process(fd: RawFd, signal: i32) -> Result<()> {
    // SAFETY: NULL is the information that `kill` would give.
    unsafe { syscall!(libc::SYS_pidfd_send_signal, fd, signal, null::<u8>(), 0) }.map(drop)
}

/// Reaps a child of this process if it has ended; nothing otherwise.
pub(crate) fn reap(process: i32) {
    // SAFETY: neither a status nor usage is asked for. An error is that it is no child.
    let _ = unsafe { syscall!(libc::SYS_wait4, process, null_mut::<u8>(), libc::WNOHANG, null_mut::<u8>()) };
}

/// Seconds on a clock that nobody sets.
pub(crate) fn seconds() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a structure that outlives the call, which cannot fail.
    let _ = unsafe { syscall!(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec
}

/// Sleeps about so long.
pub(crate) fn pause(nanoseconds: i64) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds };
    // SAFETY: polls nothing; the time outlives the call. What interrupts it makes it shorter.
    let _ = unsafe {
        syscall!(
            libc::SYS_ppoll,
            null_mut::<libc::pollfd>(),
            0usize,
            &raw const time,
            null::<u64>(),
            SIGNAL_SET_SIZE
        )
    };
}

/// Moves the calling process into the v2 control group whose directory `group` is.
pub(crate) fn enter_group(group: RawFd) -> Result<()> {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: a string that outlives the call.
    let fd = unsafe { syscall!(libc::SYS_openat, group, c"cgroup.procs".as_ptr(), flags, 0) }? as RawFd;
    // 0 is the process itself.
    let entered = super::write(fd, b"0");
    super::close_range(fd, fd)?;
    entered.map(drop)
}

/// Opens an existing file for reading.
pub(crate) fn open_to_read(path: &CStr) -> Result<RawFd> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: a string that outlives the call.
    Ok(unsafe { syscall!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) }? as RawFd)
}

/// Opens a directory as a place.
pub(crate) fn open_place(path: &CStr) -> Result<RawFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: a string that outlives the call.
    Ok(unsafe { syscall!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) }? as RawFd)
}

pub(crate) fn read(fd: RawFd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: pointer and length of one slice that nobody else looks at.
    Ok(unsafe { syscall!(libc::SYS_read, fd, buffer.as_mut_ptr(), buffer.len()) }? as usize)
}

/// Entries of a directory as `struct linux_dirent64`.
pub(crate) fn read_directory(fd: RawFd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: pointer and length of one slice that nobody else looks at.
    Ok(unsafe { syscall!(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len()) }? as usize)
}

/// Goes back to the first entry of a directory.
pub(crate) fn rewind(fd: RawFd) -> Result<()> {
    // SAFETY: takes no pointer.
    unsafe { syscall!(libc::SYS_lseek, fd, 0, libc::SEEK_SET) }.map(drop)
}

// ---- Landlock -----------------------------------------------------------------------------------------------------

/// `struct landlock_ruleset_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LandlockRights {
    /// Operations on files that are refused unless a rule allows them.
    pub(crate) files: u64,
    /// The same for TCP ports.
    pub(crate) network: u64,
    /// What of other domains cannot be reached.
    pub(crate) scoped: u64,
}

/// The version of Landlock; an error where there is none. Only for the parent.
pub(crate) fn landlock_version() -> Result<u32> {
    const VERSION: u32 = 1;
    // SAFETY: asks for a number alone.
    let version = unsafe { syscall!(libc::SYS_landlock_create_ruleset, null::<u8>(), 0usize, VERSION) }?;
    Ok(version as u32)
}

/// A set of rules. Only for the parent.
pub(crate) fn landlock_ruleset(rights: &LandlockRights) -> io::Result<OwnedFd> {
    // A kernel takes a longer structure than it knows when the rest is zero.
    // SAFETY: a structure that outlives the call, and its size; a descriptor that nobody else knows of.
    unsafe {
        let fd = syscall!(
            libc::SYS_landlock_create_ruleset,
            std::ptr::from_ref(rights),
            size_of::<LandlockRights>(),
            0u32
        )?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: RawFd,
}

/// Allows `rights` at and below `directory`. Only for the parent.
pub(crate) fn landlock_allow_beneath(
    ruleset: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    rights: u64,
) -> io::Result<()> {
    const PATH_BENEATH: u32 = 1;
    let rule = PathBeneath { allowed: rights, parent: directory.as_raw_fd() };
    // SAFETY: a structure that outlives the call.
    unsafe {
        syscall!(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), PATH_BENEATH, &raw const rule, 0u32)?;
    }
    Ok(())
}

/// Puts the calling process, which may gain no privileges any more, under a set of rules.
pub(crate) fn landlock_restrict(ruleset: RawFd) -> Result<()> {
    // SAFETY: takes no pointer.
    unsafe { syscall!(libc::SYS_landlock_restrict_self, ruleset, 0u32) }.map(drop)
}

/// [`super::clone_container`] where the call that it uses is not to be had, as below engines' seccomp profiles: `clone`,
/// whose flags a filter can see.
pub(super) fn clone_with_pidfd(flags: u64, pidfd: &mut libc::c_int) -> Result<libc::c_long> {
    let flags = flags | libc::CLONE_PIDFD as u64 | libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM a NULL stack means a copy of this one; the third argument is where the pidfd goes, and it
    // outlives the call.
    check(unsafe {
        libc::syscall(libc::SYS_clone, flags, null_mut::<u8>(), std::ptr::from_mut(pidfd), 0usize, 0usize)
    })
}

/// Starts a program in the directory `root` as its root, in the user namespace `namespace` if one is given. Who may not
/// change its root does it in a user namespace of the program's own. An open `interpreter` is executed in place of the program,
/// which it finds at `path`, with two arguments for it. Only for the parent.
pub(crate) fn spawn_in(
    command: &mut std::process::Command,
    namespace: Option<RawFd>,
    root: RawFd,
    interpreter: Option<(RawFd, &'static CStr)>,
) -> io::Result<std::process::Child> {
    use std::os::unix::process::CommandExt as _;
    let prepare = move || {
        if let Some(namespace) = namespace {
            super::setns(namespace, libc::CLONE_NEWUSER as u64)?;
        }
        if chroot(root) == Err(Errno(libc::EPERM)) {
            super::unshare(libc::CLONE_NEWUSER)?;
            chroot(root)?;
        }
        match interpreter {
            Some((interpreter, path)) => Err(interpret(interpreter, path).into()),
            None => Ok(()),
        }
    };
    // SAFETY: `prepare` makes system calls on numbers alone, and touches no memory that the parent shares.
    unsafe { command.pre_exec(prepare) }.spawn()
}

/// Executes an open program in place of this one, with `path` and two more arguments.
fn interpret(program: RawFd, path: &CStr) -> Errno {
    let arguments = [c"interpreter".as_ptr(), path.as_ptr(), c"1".as_ptr(), c"2".as_ptr(), null()];
    let environment = [null::<c_char>()];
    // SAFETY: a string and two NULL-terminated arrays of strings, all of which outlive the call.
    let result = unsafe {
        syscall!(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH
        )
    };
    result.err().unwrap_or(Errno(libc::EINVAL))
}

/// Takes over a descriptor that a call of this module has just made and nobody else knows of. Only for the parent.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: as above.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
