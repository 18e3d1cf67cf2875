//! One user namespace for several processes.
//!
//! Each process that enters a sandbox makes itself a user namespace, and what belongs to one cannot be joined from another:
//! neither networks nor the namespaces of a container. Processes whose containers share something are in one, whose
//! descriptor the first of them hands on over a socket: looked up in `/proc` it cannot be, for none of them may be looked into.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use crate::sys;

/// The user namespace of this process.
pub fn user_namespace() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/self/ns/user")?.into())
}

/// Enters a user namespace that another process of this user has made ([`super::enter`]), and makes a mount namespace there:
/// from then on this process is what the other one is. Only before this process has threads, and in place of `enter`.
pub fn join(user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    sys::setns(user_namespace.as_raw_fd(), libc::CLONE_NEWUSER as u64)?;
    sys::unshare(libc::CLONE_NEWNS)?;
    sys::forbid_inspection()?;
    Ok(())
}
