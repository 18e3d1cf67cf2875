//! Where a RUN may have something mounted. What cannot be is said of the mount, in words; the kernel has only numbers.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::MountError;

/// Files of `/proc` that something may stand in for, as runc has it.
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// What every `/dev` has that is no directory.
const DEVICES: [&str; 7] =
    ["/dev/full", "/dev/null", "/dev/ptmx", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"];

/// What every `/dev` has that is a link into `/proc`.
const PROC_LINKS: [&str; 5] = ["/dev/core", "/dev/fd", "/dev/stderr", "/dev/stdin", "/dev/stdout"];

/// Refuses a directory or file at `target` in `root` where it cannot be. `before` is mounted when it is.
pub(super) fn check(
    root: BorrowedFd<'_>,
    target: &Path,
    is_directory: bool,
    before: &[&Path],
) -> Result<(), MountError> {
    let refused = |why: &'static str| MountError::Target { target: target.to_owned(), why };
    let is_proc_file = PROC_FILES.iter().any(|file| target == Path::new(file));
    if target.starts_with("/proc") && !is_proc_file {
        return Err(refused("`/proc` is the kernel's, and steps are confined by what it has there"));
    }
    // What stands in another mount is that one's affair.
    if before.iter().any(|before| target != *before && target.starts_with(before)) {
        return Ok(());
    }
    if PROC_LINKS.iter().any(|link| target.starts_with(link)) {
        return Err(refused("it is a link into `/proc`"));
    }
    if target.starts_with("/sys") && !target.exists() {
        return Err(refused("nothing can be made in `/sys`"));
    }
    let there = if is_proc_file || DEVICES.iter().any(|file| target == Path::new(file)) {
        Some(false)
    } else {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        // What cannot be looked at is the runtime's to make, or to refuse.
        rustix::fs::openat2(root, target, flags, Mode::empty(), resolve)
            .ok()
            .map(|found| is_a_directory(found.as_fd()))
            .transpose()?
    };
    match (is_directory, there) {
        (true, Some(false)) => Err(refused("it is a file, and a directory is to be mounted")),
        (false, Some(true)) => Err(refused("it is a directory, and a file is to be mounted")),
        _ => Ok(()),
    }
}

/// Whether an open file is a directory.
pub(super) fn is_a_directory(fd: BorrowedFd<'_>) -> Result<bool, MountError> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| MountError::io("look at a mount")(errno.into()))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}
