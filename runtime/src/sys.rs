//! System calls: the only `unsafe` of this crate.
//!
//! Each function is one call, named after it, and a thin one. What the child of [`clone_container`] uses neither
//! allocates nor locks nor calls into the C library beyond `syscall(2)` itself; the functions that only the parent
//! uses say so.

#![expect(
    unsafe_code,
    reason = "no safe wrapper may be used between clone3 and exec, and some calls have none"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};

/// An error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        io::Error::from_raw_os_error(errno.0)
    }
}

pub(crate) type Result<T> = std::result::Result<T, Errno>;

/// A NULL-terminated array of strings, as `execve` takes it.
pub(crate) struct StringArray {
    /// Owns what `pointers` points to.
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

// SAFETY: the pointers lead to what this owns and never changes.
unsafe impl Send for StringArray {}

impl StringArray {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([null()]).collect();
        Self { _strings: strings, pointers }
    }
}

/// Turns the result of a system call into a value or its error.
fn check(result: c_long) -> Result<c_long> {
    if result == -1 {
        // SAFETY: returns the address of this thread's error number, which is always valid.
        return Err(Errno(unsafe { *libc::__errno_location() }));
    }
    Ok(result)
}

macro_rules! syscall {
    ($($argument:expr),+ $(,)?) => { check(libc::syscall($($argument),+)) };
}

mod confine;
pub(crate) mod notify;
pub(crate) mod packet;
pub(crate) mod terminal;

pub(crate) use confine::*;

fn pointer(string: Option<&CStr>) -> *const c_char {
    string.map_or(null(), CStr::as_ptr)
}

// ---- Before `main` ------------------------------------------------------------------------------------------------

/// See [`crate::stdout_was_closed`].
static STDOUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

// SAFETY: the C library calls each function of this section once, when it is ready itself and before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STDOUT: extern "C" fn() = look_at_stdout;

extern "C" fn look_at_stdout() {
    // SAFETY: takes no pointer.
    let found = unsafe { syscall!(libc::SYS_fcntl, libc::STDOUT_FILENO, libc::F_GETFD) };
    STDOUT_WAS_CLOSED.store(found.is_err(), Ordering::Relaxed);
}

pub(crate) fn stdout_was_closed() -> bool {
    STDOUT_WAS_CLOSED.load(Ordering::Relaxed)
}

// ---- Processes ----------------------------------------------------------------------------------------------------

/// Clones the calling process with a copy of its memory and `flags`, and runs `child` in the copy, with every signal
/// blocked. Returns the pidfd and the process id. Only for the parent.
///
/// Where other threads exist, the child has their locks in whatever state they were: `child` must make only the calls
/// of this module, on `data`. Breaking that can hang the child, but cannot touch the parent's memory.
///
/// With `group`, the directory of a v2 control group, the copy is made in that group. Where the kernel's call for that is
/// not to be had, `child` is told that it has to enter it by itself.
pub(crate) fn clone_container<T>(
    flags: u64,
    group: Option<RawFd>,
    data: &mut T,
    child: fn(&mut T, Option<RawFd>) -> !,
) -> io::Result<(OwnedFd, i32)> {
    /// `CLONE_INTO_CGROUP`.
    const INTO_GROUP: u64 = 0x2_0000_0000;
    let mut pidfd: c_int = -1;
    // SAFETY: plain old data, for which zero is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags | libc::CLONE_PIDFD as u64;
    if let Some(group) = group {
        arguments.flags |= INTO_GROUP;
        arguments.cgroup = group as u64;
    }
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    let mut previous: u64 = 0;
    let all: u64 = !0;
    // SAFETY: both sets are as long as the size says. The kernel's call is used because the C library's leaves two of
    // its own signals unblocked.
    unsafe {
        syscall!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const all,
            &raw mut previous,
            SIGNAL_SET_SIZE
        )?;
    }
    // SAFETY: `arguments` and `pidfd` outlive the call and the size is that of the structure. Without CLONE_VM the
    // child works on its own copy of this stack and never returns from `child`.
    let mut result =
        unsafe { syscall!(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    let mut to_enter = None;
    if result == Err(Errno(libc::ENOSYS)) {
        to_enter = group;
        result = confine::clone_with_pidfd(flags, &mut pidfd);
    }
    if let Ok(0) = result {
        child(data, to_enter);
    }
    // SAFETY: as above.
    let restored = unsafe {
        syscall!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const previous,
            null_mut::<u64>(),
            SIGNAL_SET_SIZE
        )
    };
    let pid = result? as i32;
    debug_assert!(restored.is_ok(), "a mask that the kernel gave is valid");
    // SAFETY: the kernel has just made this descriptor and nobody else knows of it.
    Ok((unsafe { OwnedFd::from_raw_fd(pidfd) }, pid))
}

/// Forks. The copy runs `child`, whatever that does, and ends with the status that it returns; the original gets its
/// process id. Only while the process has one thread, or the copy may hang.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: takes no pointer. The copy has its own memory, and never returns from here.
    match unsafe { libc::fork() } {
        0 => exit(child()),
        pid => Ok(check(c_long::from(pid))? as i32),
    }
}

/// Waits until the child `pid` has ended. Returns the status that it ended with, if it did so itself.
pub(crate) fn wait_for(pid: i32) -> Option<i32> {
    loop {
        let mut status: c_int = 0;
        // SAFETY: `status` outlives the call; no usage is asked for.
        let ended = unsafe { syscall!(libc::SYS_wait4, pid, &raw mut status, 0, null::<c_void>()) };
        if ended != Err(Errno(libc::EINTR)) {
            return (ended.is_ok() && libc::WIFEXITED(status)).then(|| libc::WEXITSTATUS(status));
        }
    }
}

/// Moves the process into new namespaces (`CLONE_NEW*`).
pub(crate) fn unshare(flags: c_int) -> Result<()> {
    // SAFETY: takes no pointer; no flag that is used here takes descriptors or memory away from other threads.
    unsafe { syscall!(libc::SYS_unshare, flags) }.map(drop)
}

/// What the kernel says to attaching a mount that does not exist: EBADF to who may mount, EPERM to others.
pub(crate) fn try_to_mount() -> Errno {
    match move_mount(-1, c"/") {
        Err(errno) => errno,
        Ok(()) => Errno(libc::EBADF),
    }
}

/// Runs `child` as a new process that shares this one's memory and runs on `stack`; this one sleeps until the child
/// executes a program or exits.
///
/// Saves copying the page tables a second time. The caller is single-threaded with every signal blocked, so nothing
/// else can look at the shared memory meanwhile.
pub(crate) fn vfork<T>(stack: &mut [u8], data: &mut T, child: fn(&mut T) -> !) -> Result<i32> {
    struct Call<'a, T>(&'a mut T, fn(&mut T) -> !);

    extern "C" fn start<T>(call: *mut c_void) -> c_int {
        // SAFETY: `call` is the structure below, which outlives the child: its owner sleeps.
        let call = unsafe { &mut *call.cast::<Call<'_, T>>() };
        (call.1)(call.0)
    }

    let mut call = Call(data, child);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is exclusively borrowed until the child is done with it, its top is aligned, and `start::<T>`
    // takes what it is given. The wrapper only moves to the new stack; it takes no lock.
    let pid = unsafe {
        let top = stack.as_mut_ptr_range().end;
        let top = top.sub(top as usize % 16);
        libc::clone(start::<T>, top.cast(), flags, (&raw mut call).cast())
    };
    Ok(check(c_long::from(pid))? as i32)
}

/// Ends the process.
pub(crate) fn exit(status: i32) -> ! {
    loop {
        // SAFETY: takes no pointer.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}

/// Replaces the program. Returns only when that failed.
pub(crate) fn execve(path: &CStr, arguments: &StringArray, environment: &StringArray) -> Errno {
    // SAFETY: a string and two NULL-terminated arrays of strings, all of which outlive the call.
    let result = unsafe {
        syscall!(libc::SYS_execve, path.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr())
    };
    result.err().unwrap_or(Errno(libc::EINVAL))
}

/// A child that has ended, if any: its process id and raw wait status. ECHILD when there is no child at all.
pub(crate) fn wait_any() -> Result<Option<(i32, i32)>> {
    let mut status: c_int = 0;
    // SAFETY: `status` outlives the call; no usage is asked for.
    let pid = unsafe { syscall!(libc::SYS_wait4, -1, &raw mut status, libc::WNOHANG, null::<c_void>()) }?;
    Ok((pid != 0).then_some((pid as i32, status)))
}

pub(crate) fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: takes no pointer.
    unsafe { syscall!(libc::SYS_kill, pid, signal) }.map(drop)
}

pub(crate) fn setsid() -> Result<()> {
    // SAFETY: takes no pointer.
    unsafe { syscall!(libc::SYS_setsid) }.map(drop)
}

// ---- Signals ------------------------------------------------------------------------------------------------------

/// Size of the kernel's signal sets.
const SIGNAL_SET_SIZE: usize = 8;

/// The highest signal number.
const SIGNAL_MAX: c_int = 64;

/// The kernel's `struct sigaction`; big enough for every architecture.
type KernelSigaction = [u64; 4];

/// Gives every signal its default action. The two that cannot be changed refuse; they have it anyway.
pub(crate) fn reset_signal_actions() {
    let default: KernelSigaction = [0; 4];
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: all zero is SIG_DFL, without flags, with an empty mask.
        let _ = unsafe {
            syscall!(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                null_mut::<KernelSigaction>(),
                SIGNAL_SET_SIZE
            )
        };
    }
}

/// Unblocks every signal.
pub(crate) fn unblock_signals() -> Result<()> {
    let none: u64 = 0;
    // SAFETY: the set is as long as the size says.
    unsafe {
        syscall!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            null_mut::<u64>(),
            SIGNAL_SET_SIZE
        )
    }
    .map(drop)
}

/// A descriptor that tells of every signal that is blocked.
pub(crate) fn signalfd() -> Result<RawFd> {
    let all: u64 = !0;
    // SAFETY: the set is as long as the size says.
    let fd = unsafe {
        syscall!(
            libc::SYS_signalfd4,
            -1,
            &raw const all,
            SIGNAL_SET_SIZE,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK
        )
    }?;
    Ok(fd as RawFd)
}

/// A signal that arrived: its number, and whether a process sent it (and not the kernel).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) signal: i32,
    pub(crate) sent: bool,
}

/// The next signal at a [`signalfd`]; EAGAIN when there is none.
pub(crate) fn read_signal(fd: RawFd) -> Result<Arrived> {
    // SAFETY: plain old data, for which zero is valid.
    let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is as long as the size says.
    unsafe { syscall!(libc::SYS_read, fd, &raw mut info, size_of::<libc::signalfd_siginfo>()) }?;
    Ok(Arrived { signal: info.ssi_signo as i32, sent: info.ssi_code <= 0 })
}

/// Sets what `signal` does in the whole process, and returns what it did. Only for the parent.
pub(crate) fn ignore_signal(signal: c_int) -> io::Result<SignalAction> {
    // SAFETY: plain old data, for which zero is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let mut previous = action;
    action.sa_sigaction = libc::SIG_IGN;
    // SAFETY: two valid structures; the new action runs no code.
    check(unsafe { libc::sigaction(signal, &raw const action, &raw mut previous) }.into())?;
    Ok(SignalAction(previous))
}

/// Undoes [`ignore_signal`].
pub(crate) fn restore_signal(signal: c_int, action: &SignalAction) -> io::Result<()> {
    // SAFETY: the action was in force before.
    check(unsafe { libc::sigaction(signal, &raw const action.0, null_mut()) }.into())?;
    Ok(())
}

/// What a signal does.
pub(crate) struct SignalAction(libc::sigaction);

// ---- This process -------------------------------------------------------------------------------------------------

fn prctl(option: c_int, argument: usize, second: usize) -> Result<c_long> {
    // SAFETY: none of the options used here takes a pointer.
    unsafe { syscall!(libc::SYS_prctl, option, argument, second, 0usize, 0usize) }
}

/// SIGKILL when the thread that made this process ends.
pub(crate) fn die_with_parent() -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as usize, 0).map(drop)
}

/// Starts a program of the host in a process group of its own. The whole group gets SIGKILL when the descriptor that is
/// returned is closed, which the end of this process does too, however it comes.
pub(crate) fn spawn_group_with_lifeline(
    command: &mut std::process::Command,
) -> io::Result<(std::process::Child, OwnedFd)> {
    use std::os::unix::process::CommandExt as _;
    let (read_end, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (read, write) = (read_end.as_raw_fd(), write_end.as_raw_fd());
    let prepare = move || {
        // SAFETY: closes this process' copy, which nobody here uses.
        unsafe { libc::close(write) };
        // Where the kernel (or what stands for it) has no such signals, the program itself ends at least.
        kill_group_at_hangup(read).or_else(|_| die_with_parent().map_err(io::Error::from))?;
        let mut poll = libc::pollfd { fd: read, events: 0, revents: 0 };
        // SAFETY: one entry, which is on this stack.
        let is_gone = unsafe { libc::poll(&mut poll, 1, 0) } != 0;
        // The parent may have died before the signal was ordered.
        if is_gone { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(()) }
    };
    // SAFETY: `prepare` does system calls alone and touches no memory that the parent shares.
    let child = unsafe { command.process_group(0).pre_exec(prepare) }.spawn()?;
    Ok((child, write_end))
}

/// Orders SIGKILL for the process group of the caller, who leads it, as soon as nobody can write into the pipe any more. The
/// order is good as long as one program has this descriptor, so it is handed down.
fn kill_group_at_hangup(pipe: RawFd) -> io::Result<()> {
    // SAFETY: takes and gives numbers.
    let group = unsafe { libc::getpid() };
    let settings = [
        (libc::F_SETOWN, -group),
        (F_SETSIG, libc::SIGKILL),
        (libc::F_SETFL, libc::O_RDONLY | libc::O_ASYNC),
        (libc::F_SETFD, 0),
    ];
    for (setting, value) in settings {
        // SAFETY: none of the settings takes a pointer.
        if unsafe { libc::fcntl(pipe, setting, value) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The first descriptor after the standard streams.
const FIRST: RawFd = 3;

/// Starts a program of the host in a session of its own, with these descriptors from 3 on, and no others of this process's
/// but the standard streams that `command` says. Only for the parent.
pub(crate) fn spawn_apart(
    command: &mut std::process::Command,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<std::process::Child> {
    use std::os::unix::process::CommandExt as _;
    let end = FIRST + descriptors.len() as RawFd;
    // The numbers are taken from here on, so that nothing of the standard library's own has one of them in the child.
    let mut taken: Vec<OwnedFd> = Vec::new();
    while !descriptors.is_empty() && taken.last().is_none_or(|fd| fd.as_raw_fd() < end) {
        taken.push(rustix::io::fcntl_dupfd_cloexec(descriptors[0], FIRST)?);
    }
    // Copies whose numbers are not among them.
    let copies = descriptors.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, end));
    let copies: Vec<OwnedFd> = copies.collect::<std::result::Result<_, _>>()?;
    let numbers: Vec<RawFd> = copies.iter().map(|fd| fd.as_raw_fd()).collect();
    let prepare = move || {
        setsid()?;
        for (at, number) in numbers.iter().enumerate() {
            dup2(*number, FIRST + at as RawFd)?;
        }
        // Where the kernel has no such call, only what others have left open for everybody stays open.
        let _ = close_on_exec_from(end);
        Ok(())
    };
    // SAFETY: `prepare` does system calls alone and touches no memory that the parent shares.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// The first descriptor that this process was started with beside the standard streams; the second call fails.
pub(crate) fn take_given_descriptor() -> io::Result<OwnedFd> {
    static TAKEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    if TAKEN.swap(true, std::sync::atomic::Ordering::SeqCst) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    // SAFETY: `fcntl` only looks at the number, and fails where it is nobody's.
    check(unsafe { libc::fcntl(FIRST, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: it is open, and whoever started this process has given it to nobody else in it; it is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(FIRST) })
}

/// `fcntl(2)`: which signal tells of a descriptor; the C library's header has it for GNU programs alone.
const F_SETSIG: libc::c_int = 10;

/// Other processes without CAP_SYS_PTRACE may not look into this one.
pub(crate) fn forbid_inspection() -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0).map(drop)
}

pub(crate) fn set_name(name: &CStr) -> Result<()> {
    // SAFETY: the kernel copies at most 16 bytes up to the NUL.
    unsafe { syscall!(libc::SYS_prctl, libc::PR_SET_NAME, name.as_ptr(), 0usize, 0usize, 0usize) }.map(drop)
}

pub(crate) fn set_no_new_privileges() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// The permitted capabilities survive a change of user.
pub(crate) fn keep_capabilities() -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, 0).map(drop)
}

/// Removes a capability from the bounding set; EINVAL for one that the kernel does not know.
pub(crate) fn drop_bounding(capability: u32) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, capability as usize, 0).map(drop)
}

pub(crate) fn clear_ambient() -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as usize, 0).map(drop)
}

pub(crate) fn raise_ambient(capability: u32) -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as usize, capability as usize).map(drop)
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: two words.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let word = |shift: u32| CapabilityWord {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let words = [word(0), word(32)];
    // SAFETY: a header and the two words that its version calls for.
    unsafe { syscall!(libc::SYS_capset, &raw const header, words.as_ptr()) }.map(drop)
}

/// The capabilities that this thread may use.
pub(crate) fn permitted_capabilities() -> Result<u64> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut words = [CapabilityWord::default(); 2];
    // SAFETY: a header and room for the two words that its version calls for.
    unsafe { syscall!(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) }?;
    Ok(u64::from(words[0].permitted) | u64::from(words[1].permitted) << 32)
}

pub(crate) fn setgroups(groups: &[u32]) -> Result<()> {
    // SAFETY: pointer and length of one slice.
    unsafe { syscall!(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }.map(drop)
}

pub(crate) fn setresgid(gid: u32) -> Result<()> {
    // SAFETY: takes no pointer.
    unsafe { syscall!(libc::SYS_setresgid, gid, gid, gid) }.map(drop)
}

pub(crate) fn setresuid(uid: u32) -> Result<()> {
    // SAFETY: takes no pointer.
    unsafe { syscall!(libc::SYS_setresuid, uid, uid, uid) }.map(drop)
}

/// The soft and the hard limit of a process; 0 is this one.
pub(crate) fn limit_of(thread: i32, resource: u32) -> Result<(u64, u64)> {
    let mut limit = [0u64; 2];
    // SAFETY: the kernel writes one `struct rlimit64`, which is two 64-bit words.
    unsafe { syscall!(libc::SYS_prlimit64, thread, resource, null::<u64>(), limit.as_mut_ptr()) }?;
    Ok((limit[0], limit[1]))
}

/// Sets the limits of a process; 0 is this one.
pub(crate) fn set_limit_of(thread: i32, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    // SAFETY: the kernel reads one `struct rlimit64`, which is two 64-bit words.
    unsafe { syscall!(libc::SYS_prlimit64, thread, resource, limit.as_ptr(), null_mut::<u64>()) }.map(drop)
}

pub(crate) fn umask(mask: u32) {
    // SAFETY: takes no pointer and cannot fail.
    unsafe { libc::syscall(libc::SYS_umask, mask) };
}

pub(crate) fn chdir(path: &CStr) -> Result<()> {
    // SAFETY: a string that outlives the call.
    unsafe { syscall!(libc::SYS_chdir, path.as_ptr()) }.map(drop)
}

pub(crate) fn fchdir(fd: RawFd) -> Result<()> {
    // SAFETY: takes no pointer.
    unsafe { syscall!(libc::SYS_fchdir, fd) }.map(drop)
}

pub(crate) fn sethostname(name: &[u8]) -> Result<()> {
    // SAFETY: pointer and length of one slice.
    unsafe { syscall!(libc::SYS_sethostname, name.as_ptr(), name.len()) }.map(drop)
}

pub(crate) fn setdomainname(name: &[u8]) -> Result<()> {
    // SAFETY: pointer and length of one slice.
    unsafe { syscall!(libc::SYS_setdomainname, name.as_ptr(), name.len()) }.map(drop)
}

pub(crate) fn setns(fd: RawFd, kind: u64) -> Result<()> {
    // SAFETY: takes no pointer.
    unsafe { syscall!(libc::SYS_setns, fd, kind) }.map(drop)
}

/// A session keyring of its own, so that the caller's keys cannot be reached.
pub(crate) fn join_session_keyring() -> Result<()> {
    // SAFETY: NULL asks for an anonymous keyring.
    unsafe { syscall!(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, null::<c_char>()) }.map(drop)
}

/// Installs a seccomp filter.
pub(crate) fn seccomp(filter: &[libc::sock_filter], flags: u32) -> Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program points to a slice of the length it says, which the kernel copies and does not change.
    unsafe { syscall!(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) }.map(drop)
}

/// Where the process's command line and environment lie, as `/proc/self/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Arguments {
    pub(crate) arguments: (usize, usize),
    pub(crate) environment: (usize, usize),
}

/// Overwrites the command line and the environment of the calling process, so that `/proc/<pid>/cmdline` and
/// `/proc/<pid>/environ` tell nothing of the program that it is a copy of. Only for the child of [`clone_container`],
/// which has its own copy of them and never reads it.
pub(crate) fn erase_arguments(place: Arguments, name: &[u8]) {
    for (start, end) in [place.arguments, place.environment] {
        if start != 0 && start < end {
            // SAFETY: the kernel says that this range of the stack holds the strings; it is writable, private to this
            // process, and nothing in the child holds a reference into it.
            unsafe { std::ptr::write_bytes(start as *mut u8, 0, end - start) };
        }
    }
    let (start, end) = place.arguments;
    if start != 0 && end.saturating_sub(start) > name.len() {
        // SAFETY: as above, and the name is shorter than the range.
        unsafe { std::ptr::copy_nonoverlapping(name.as_ptr(), start as *mut u8, name.len()) };
    }
}

// ---- Descriptors --------------------------------------------------------------------------------------------------

pub(crate) fn dup2(from: RawFd, to: RawFd) -> Result<()> {
    // SAFETY: takes no pointer.
    unsafe { syscall!(libc::SYS_dup3, from, to, 0) }.map(drop)
}

/// Closes the descriptors from `first` to `last`.
pub(crate) fn close_range(first: RawFd, last: RawFd) -> Result<()> {
    // SAFETY: takes no pointer; only a child without owners of descriptors calls this.
    unsafe { syscall!(libc::SYS_close_range, first, last, 0) }.map(drop)
}

/// Lets `exec` close every descriptor from `first` on.
pub(crate) fn close_on_exec_from(first: RawFd) -> Result<()> {
    // SAFETY: takes no pointer.
    unsafe { syscall!(libc::SYS_close_range, first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC) }.map(drop)
}

pub(crate) fn fchown(fd: RawFd, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: takes no pointer.
    unsafe { syscall!(libc::SYS_fchown, fd, uid, gid) }.map(drop)
}

pub(crate) fn write(fd: RawFd, bytes: &[u8]) -> Result<usize> {
    // SAFETY: pointer and length of one slice.
    let written = unsafe { syscall!(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) }?;
    Ok(written as usize)
}

/// Writes `bytes` to the existing file `path` in one call.
pub(crate) fn write_file(path: &CStr, bytes: &[u8]) -> Result<()> {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: a string that outlives the call.
    let fd = unsafe { syscall!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) }? as RawFd;
    let written = write(fd, bytes);
    close_range(fd, fd)?;
    written.map(drop)
}

/// Waits until one of the descriptors is readable, without limit. Says which are.
pub(crate) fn wait_readable<const N: usize>(fds: [RawFd; N]) -> Result<[bool; N]> {
    poll(fds, null())
}

/// Which of the descriptors are readable now.
pub(crate) fn readable<const N: usize>(fds: [RawFd; N]) -> Result<[bool; N]> {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    poll(fds, &raw const now)
}

fn poll<const N: usize>(fds: [RawFd; N], timeout: *const libc::timespec) -> Result<[bool; N]> {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    // SAFETY: pointer and length of one array; the time-out is NULL or outlives the call; no signal mask.
    unsafe { syscall!(libc::SYS_ppoll, polled.as_mut_ptr(), N, timeout, null::<u64>(), SIGNAL_SET_SIZE) }?;
    Ok(polled.map(|polled| polled.revents != 0))
}

// ---- Files and mounts ---------------------------------------------------------------------------------------------

pub(crate) fn mkdir(path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: a string that outlives the call.
    unsafe { syscall!(libc::SYS_mkdirat, libc::AT_FDCWD, path.as_ptr(), mode) }.map(drop)
}

pub(crate) fn mknod(path: &CStr, mode: u32, device: u64) -> Result<()> {
    // SAFETY: a string that outlives the call.
    unsafe { syscall!(libc::SYS_mknodat, libc::AT_FDCWD, path.as_ptr(), mode, device) }.map(drop)
}

/// Whether `path` leads to a directory.
pub(crate) fn is_directory(path: &CStr) -> Result<bool> {
    // SAFETY: plain old data, for which zero is valid.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: a string and a structure that outlive the call.
    unsafe { syscall!(libc::SYS_statx, libc::AT_FDCWD, path.as_ptr(), 0, libc::STATX_TYPE, &raw mut found) }?;
    Ok(u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFDIR)
}

pub(crate) fn chown(path: &CStr, uid: u32, gid: u32) -> Result<()> {
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: a string that outlives the call.
    unsafe { syscall!(libc::SYS_fchownat, libc::AT_FDCWD, path.as_ptr(), uid, gid, flags) }.map(drop)
}

pub(crate) fn symlink(target: &CStr, path: &CStr) -> Result<()> {
    // SAFETY: two strings that outlive the call.
    unsafe { syscall!(libc::SYS_symlinkat, target.as_ptr(), libc::AT_FDCWD, path.as_ptr()) }.map(drop)
}

pub(crate) fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: u64,
    data: Option<&CStr>,
) -> Result<()> {
    // SAFETY: strings that outlive the call, or NULL where the call takes it.
    unsafe {
        syscall!(libc::SYS_mount, pointer(source), target.as_ptr(), pointer(kind), flags, pointer(data))
    }
    .map(drop)
}

pub(crate) fn detach_mount(path: &CStr) -> Result<()> {
    // SAFETY: a string that outlives the call.
    unsafe { syscall!(libc::SYS_umount2, path.as_ptr(), libc::MNT_DETACH) }.map(drop)
}

pub(crate) fn pivot_root(new_root: &CStr, put_old: &CStr) -> Result<()> {
    // SAFETY: two strings that outlive the call.
    unsafe { syscall!(libc::SYS_pivot_root, new_root.as_ptr(), put_old.as_ptr()) }.map(drop)
}

/// `OPEN_TREE_CLONE`, `OPEN_TREE_CLOEXEC` and `AT_RECURSIVE`.
const TREE_CLONE: u32 = 1;
const TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const TREE_RECURSIVE: u32 = 0x8000;

/// A detached copy of the mount at `path`, with the mounts below it if `recursive`.
pub(crate) fn clone_tree(path: &CStr, recursive: bool) -> Result<RawFd> {
    let flags = TREE_CLONE | TREE_CLOEXEC | if recursive { TREE_RECURSIVE } else { 0 };
    // SAFETY: a string that outlives the call.
    Ok(unsafe { syscall!(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) }? as RawFd)
}

/// A detached copy of the mount at `path` below `fd`, or at `fd` itself when `path` is empty. Only for the parent.
pub(crate) fn open_tree(fd: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = TREE_CLONE | TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= TREE_RECURSIVE;
    }
    // SAFETY: a string that outlives the call, and a descriptor that nobody else knows of.
    unsafe {
        let tree = syscall!(libc::SYS_open_tree, fd.as_raw_fd(), path.as_ptr(), flags)?;
        Ok(OwnedFd::from_raw_fd(tree as RawFd))
    }
}

/// A new file system as a detached mount with `attributes` (`MOUNT_ATTR_*`); an option without a value is a flag.
pub(crate) fn new_mount(
    filesystem: &CStr,
    options: &[(CString, Option<CString>)],
    attributes: u64,
) -> Result<RawFd> {
    const CLOEXEC: u32 = 1;
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const CREATE: u32 = 6;
    // SAFETY: a string that outlives the call.
    let context = unsafe { syscall!(libc::SYS_fsopen, filesystem.as_ptr(), CLOEXEC) }? as RawFd;
    let configure = |command: u32, key: *const c_char, value: *const c_char| {
        // SAFETY: each is NULL where the command takes none, or a string that outlives the call.
        unsafe { syscall!(libc::SYS_fsconfig, context, command, key, value, 0) }.map(drop)
    };
    let make = || {
        for (key, value) in options {
            let command = if value.is_some() { SET_STRING } else { SET_FLAG };
            configure(command, key.as_ptr(), pointer(value.as_deref()))?;
        }
        configure(CREATE, null(), null())?;
        // SAFETY: takes no pointer.
        unsafe { syscall!(libc::SYS_fsmount, context, CLOEXEC, attributes) }
    };
    let mount = make();
    close_range(context, context)?;
    Ok(mount? as RawFd)
}

/// Attaches the detached mount `tree` at `target`.
pub(crate) fn move_mount(tree: RawFd, target: &CStr) -> Result<()> {
    const FROM_EMPTY_PATH: u32 = 0x4;
    const TO_SYMLINKS: u32 = 0x10;
    let flags = FROM_EMPTY_PATH | TO_SYMLINKS;
    // SAFETY: two strings that outlive the call.
    unsafe { syscall!(libc::SYS_move_mount, tree, c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), flags) }
        .map(drop)
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets and clears attributes (`MOUNT_ATTR_*`) of the mount that `fd` is the root of, and its propagation (`MS_*`)
/// unless that is 0.
pub(crate) fn mount_setattr(
    fd: RawFd,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> Result<()> {
    let attributes = MountAttributes { set, clear, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH as u32 | if recursive { TREE_RECURSIVE } else { 0 };
    // SAFETY: a string and a structure that outlive the call, and the size of the structure.
    unsafe {
        syscall!(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>()
        )
    }
    .map(drop)
}

/// Makes the mount at `path` read-only.
pub(crate) fn make_read_only(path: &CStr) -> Result<()> {
    let attributes = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: as above.
    unsafe {
        syscall!(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            0,
            &raw const attributes,
            size_of::<MountAttributes>()
        )
    }
    .map(drop)
}

// ---- Network ------------------------------------------------------------------------------------------------------

/// Gives the calling thread alone a network namespace of its own. Only for the parent.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: takes no pointer, and what a thread may do with its descriptors and memory stays the same.
    unsafe { syscall!(libc::SYS_unshare, libc::CLONE_NEWNET) }?;
    Ok(())
}

/// Brings up the loopback interface of the thread's network namespace.
pub(crate) fn loopback_up() -> Result<()> {
    // SAFETY: plain old data, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    // SAFETY: takes no pointer.
    let socket =
        unsafe { syscall!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }?
            as RawFd;
    // SAFETY: the structure that this request takes, which outlives the call.
    let result = unsafe { syscall!(libc::SYS_ioctl, socket, libc::SIOCSIFFLAGS, &raw const request) };
    close_range(socket, socket)?;
    result.map(drop)
}
