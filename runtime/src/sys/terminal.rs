//! Calls on pseudo-terminals.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use super::{Result, check};

/// Lets the peer of the pseudo-terminal `master` be opened. Only for the parent.
pub(crate) fn unlock(master: BorrowedFd<'_>) -> io::Result<()> {
    let locked: libc::c_int = 0;
    // SAFETY: the kernel reads one number, which outlives the call.
    unsafe { syscall!(libc::SYS_ioctl, master.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) }?;
    Ok(())
}

/// The number of the pseudo-terminal `master` among those of its devpts. Only for the parent.
pub(crate) fn number(master: BorrowedFd<'_>) -> io::Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: the kernel writes one number, which outlives the call.
    unsafe { syscall!(libc::SYS_ioctl, master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) }?;
    Ok(number)
}

/// The peer of the pseudo-terminal `master`, without looking for it by a path. Only for the parent.
pub(crate) fn peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes a number, and makes a descriptor that nobody else knows of.
    unsafe {
        let peer = syscall!(libc::SYS_ioctl, master.as_raw_fd(), libc::TIOCGPTPEER, flags)?;
        Ok(OwnedFd::from_raw_fd(peer as RawFd))
    }
}

/// Makes `terminal` the one that controls the caller's session, which has none.
pub(crate) fn control(terminal: RawFd) -> Result<()> {
    // SAFETY: takes a number.
    unsafe { syscall!(libc::SYS_ioctl, terminal, libc::TIOCSCTTY, 0) }.map(drop)
}
