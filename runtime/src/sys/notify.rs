//! System calls of a supervisor: seccomp notifications, and looking into the processes that wait for an answer.
//!
//! [`install_listening`] and [`send_descriptor`] are for the child, everything else is for the parent.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};

use super::{Errno, Result, check};

/// A call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notification {
    /// Names the call as long as it waits.
    pub(crate) id: u64,
    /// The thread that made it, as this process's pid namespace numbers it.
    pub(crate) thread: i32,
    /// `AUDIT_ARCH_*`.
    pub(crate) architecture: u32,
    pub(crate) number: u32,
    pub(crate) arguments: [u64; 6],
}

/// What the kernel may come to write beyond the structure that is known.
const ROOM: usize = 256;

#[repr(C)]
struct Received {
    known: libc::seccomp_notif,
    more: [u8; ROOM],
}

#[repr(C)]
struct Response {
    known: libc::seccomp_notif_resp,
    more: [u8; ROOM],
}

/// Installs a filter and returns the descriptor that its notifications arrive at.
pub(crate) fn install_listening(filter: &[libc::sock_filter]) -> Result<RawFd> {
    const NEW_LISTENER: u64 = 1 << 3;
    const WAIT_KILLABLE: u64 = 1 << 5;
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let install = |flags: u64| {
        let flags = flags | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        // SAFETY: the program points to a slice of the length it says, which the kernel copies and does not change.
        unsafe { syscall!(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) }
    };
    // Without the second flag, which Linux 5.19 brought, a signal makes a call come twice.
    match install(NEW_LISTENER | WAIT_KILLABLE) {
        Err(Errno(libc::EINVAL)) => Ok(install(NEW_LISTENER)? as RawFd),
        result => Ok(result? as RawFd),
    }
}

/// A filter that refuses nothing and asks about nothing.
pub(crate) const ALLOW_ALL: [libc::sock_filter; 1] = [libc::sock_filter {
    code: (libc::BPF_RET | libc::BPF_K) as u16,
    jt: 0,
    jf: 0,
    k: libc::SECCOMP_RET_ALLOW,
}];

/// Whether calls that arrive at `listener` could be answered with a descriptor and at once, which Linux 5.14 brought.
pub(crate) fn try_to_answer(listener: RawFd) -> Result<()> {
    let srcfd = listener.cast_unsigned();
    let request = libc::seccomp_notif_addfd { id: 0, flags: ADDFD_SEND, srcfd, newfd: 0, newfd_flags: 0 };
    // SAFETY: the request carries the size of the structure, which outlives the call and is not written to.
    match unsafe { syscall!(libc::SYS_ioctl, listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const request) }
    {
        // Everything was right but that no call waits.
        Err(Errno(libc::ENOENT)) => Ok(()),
        result => result.map(drop),
    }
}

/// `SECCOMP_ADDFD_FLAG_SEND`.
const ADDFD_SEND: u32 = 1 << 1;

/// Sends a descriptor over a socket, and a byte that says what it is.
pub(crate) fn send_descriptor(socket: RawFd, fd: RawFd, mut byte: u8) -> Result<()> {
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        fd: c_int,
        padding: c_int,
    }
    // SAFETY: plain old data, for which zero is valid.
    let (mut message, mut control): (libc::msghdr, Control) = unsafe { std::mem::zeroed() };
    control.header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<c_int>()) as _;
    control.header.cmsg_level = libc::SOL_SOCKET;
    control.header.cmsg_type = libc::SCM_RIGHTS;
    control.fd = fd;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: the message and what it points to outlive the call, and the lengths are theirs.
    unsafe { syscall!(libc::SYS_sendmsg, socket, &raw const message, libc::MSG_NOSIGNAL) }.map(drop)
}

/// The next call that waits; none when the one that was announced has gone.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> io::Result<Option<Notification>> {
    // SAFETY: plain old data, for which zero is valid; the kernel wants it to be zero.
    let mut received: Received = unsafe { std::mem::zeroed() };
    // SAFETY: there is room for the structure of this kernel and of those to come.
    let result = unsafe { ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, (&raw mut received) as usize) };
    match result {
        Ok(()) => {}
        Err(Errno(libc::ENOENT | libc::EINTR)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let libc::seccomp_notif { id, pid, data, .. } = received.known;
    Ok(Some(Notification {
        id,
        thread: pid.cast_signed(),
        architecture: data.arch,
        number: data.nr.cast_unsigned(),
        arguments: data.args,
    }))
}

/// Answers a call with a value, or with an error number that is not 0.
pub(crate) fn respond(listener: BorrowedFd<'_>, id: u64, value: i64, errno: i32) -> io::Result<()> {
    send(listener, libc::seccomp_notif_resp { id, val: value, error: -errno, flags: 0 })
}

/// Lets the kernel do the call as if nobody had asked.
pub(crate) fn let_continue(listener: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    send(listener, libc::seccomp_notif_resp { id, val: 0, error: 0, flags })
}

fn send(listener: BorrowedFd<'_>, response: libc::seccomp_notif_resp) -> io::Result<()> {
    let mut response = Response { known: response, more: [0; ROOM] };
    // SAFETY: the structure is at least as large as any kernel's, and outlives the call.
    let result = unsafe { ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, (&raw mut response) as usize) };
    Ok(result?)
}

/// Answers a call with a descriptor of its own for what `fd` leads to.
pub(crate) fn respond_with_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    close_on_exec: bool,
) -> io::Result<()> {
    let newfd_flags = if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 };
    let srcfd = fd.as_raw_fd().cast_unsigned();
    let mut request = libc::seccomp_notif_addfd { id, flags: ADDFD_SEND, srcfd, newfd: 0, newfd_flags };
    // SAFETY: the request carries the size of the structure, which outlives the call.
    let result = unsafe { ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, (&raw mut request) as usize) };
    Ok(result?)
}

/// Whether the call still waits, so that its thread is still the one that it was.
pub(crate) fn is_waiting(listener: BorrowedFd<'_>, mut id: u64) -> bool {
    // SAFETY: the kernel reads one 64-bit word, which outlives the call.
    unsafe { ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, (&raw mut id) as usize) }.is_ok()
}

/// Asks the kernel to switch between a caller and its supervisor without a scheduler's detour (since Linux 6.6).
pub(crate) fn wake_synchronously(listener: BorrowedFd<'_>) -> io::Result<()> {
    const SYNC_WAKE_UP: usize = 1;
    // SAFETY: takes a number.
    let result = unsafe { ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
    Ok(result?)
}

/// # Safety
///
/// `argument` is what `request` takes.
unsafe fn ioctl(fd: BorrowedFd<'_>, request: libc::Ioctl, argument: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { syscall!(libc::SYS_ioctl, fd.as_raw_fd(), request, argument) }.map(drop)
}

/// Copies memory of another process; returns how much could be.
pub(crate) fn read_memory(thread: i32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: buffer.len() };
    // SAFETY: the local part is one exclusively borrowed slice; the remote one is checked by the kernel.
    let count = unsafe {
        syscall!(
            libc::SYS_process_vm_readv,
            thread,
            &raw const local,
            1usize,
            &raw const remote,
            1usize,
            0usize
        )
    }?;
    Ok(count as usize)
}

/// Gives the calling thread a umask, a working directory and a root of its own, and lets it make files with any mode.
pub(crate) fn own_umask() -> io::Result<()> {
    // SAFETY: takes a number; nobody else shares what it changes after it.
    unsafe { syscall!(libc::SYS_unshare, libc::CLONE_FS) }?;
    super::umask(0);
    Ok(())
}

/// What `fstat` says of `file`, changed by `change`, as it lies in memory.
pub(crate) fn status(file: BorrowedFd<'_>, change: impl FnOnce(&mut libc::stat)) -> io::Result<Vec<u8>> {
    // SAFETY: plain old data, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the structure that the call fills, which outlives it.
    unsafe { syscall!(libc::SYS_fstat, file.as_raw_fd(), &raw mut stat) }?;
    change(&mut stat);
    Ok(bytes_of(&stat))
}

/// What `statx` says of `file`, changed by `change`, as it lies in memory.
pub(crate) fn extended_status(
    file: BorrowedFd<'_>,
    flags: u32,
    mask: u32,
    change: impl FnOnce(&mut libc::statx),
) -> io::Result<Vec<u8>> {
    let flags = flags & libc::AT_STATX_SYNC_TYPE as u32 | libc::AT_EMPTY_PATH as u32;
    // SAFETY: plain old data, for which zero is valid.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: a string and the structure that the call fills, which outlive it.
    unsafe { syscall!(libc::SYS_statx, file.as_raw_fd(), c"".as_ptr(), flags, mask, &raw mut stat) }?;
    change(&mut stat);
    Ok(bytes_of(&stat))
}

/// A structure of the kernel's as it lies in memory. Its padding was zero from the start, and is part of the kernel's interface.
fn bytes_of<T: Copy>(value: &T) -> Vec<u8> {
    // SAFETY: the value is plain old data that was made by zeroing all of it and written to field by field.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) }.to_vec()
}
