//! A `/dev` without mounts: real nodes where this place lets them be made and opened, else placeholders.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, makedev};

use super::opens::Served;
use crate::rootfs::identity;

/// The name under which it is made.
pub(super) const NAME: &str = "dev";

/// Name, number, and where this place has it.
const DEVICES: [(&str, u32, u32, &CStr); 6] = [
    ("null", 1, 3, c"/dev/null"),
    ("zero", 1, 5, c"/dev/zero"),
    ("full", 1, 7, c"/dev/full"),
    ("random", 1, 8, c"/dev/random"),
    ("urandom", 1, 9, c"/dev/urandom"),
    ("tty", 5, 0, c"/dev/tty"),
];

/// The descriptors that have a name in `/dev/fd`. Shells count down from the last one.
const DESCRIPTORS: u32 = 64;

/// The links to the standard streams.
const STREAMS: [(&str, &str); 3] = [("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")];

/// Makes the directory in `aside`. Returns what is answered when something in it is opened.
pub(super) fn make(aside: BorrowedFd<'_>) -> io::Result<Vec<((u64, u64), Served)>> {
    let directory = make_directory(aside, NAME, 0o755)?;
    let mut served = Vec::new();
    for (name, major, minor, path) in DEVICES {
        if !make_node(&directory, name, major, minor)? {
            let answer = if name == "tty" { Served::Terminal } else { Served::Device(path) };
            served.push((make_placeholder(&directory, name)?, answer));
        }
    }
    let descriptors = make_directory(directory.as_fd(), "fd", 0o555)?;
    for number in 0..DESCRIPTORS {
        served.push((make_placeholder(&descriptors, &number.to_string())?, Served::Descriptor(number)));
    }
    for (name, target) in STREAMS {
        rustix::fs::symlinkat(target, &directory, name)?;
    }
    make_directory(directory.as_fd(), "shm", 0o1777)?;
    make_directory(directory.as_fd(), "pts", 0o755)?;
    Ok(served)
}

/// Makes a device that can be opened. Says whether it could.
fn make_node(directory: &OwnedFd, name: &str, major: u32, minor: u32) -> io::Result<bool> {
    let device = makedev(major, minor);
    let mode = Mode::from_raw_mode(0o666);
    if rustix::fs::mknodat(directory, name, FileType::CharacterDevice, mode, device).is_err() {
        return Ok(false);
    }
    rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
    // On a file system that takes no devices a node is made and cannot be opened. A terminal there need not be.
    let probe = if name == "tty" { "null" } else { name };
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    if rustix::fs::openat(directory, probe, flags, Mode::empty()).is_ok_and(|node| is_device(&node)) {
        return Ok(true);
    }
    rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
    Ok(false)
}

fn is_device(fd: &OwnedFd) -> bool {
    let is_character = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    rustix::fs::fstat(fd).is_ok_and(is_character)
}

fn make_directory(parent: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))?;
    Ok(directory)
}

fn make_placeholder(directory: &OwnedFd, name: &str) -> io::Result<(u64, u64)> {
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(directory, name, FileType::RegularFile, mode, 0)?;
    rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
    Ok(identity(&rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?))
}
