//! Reading a directory tree through descriptors: `getdents64` and `statx` by directory fd, entries sorted by name,
//! no path ever resolved through a symlink.

use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};

/// What kind of file an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
}

/// `statx` of one entry, without following a symlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Kind of file.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Device of the file system.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Number of hard links.
    pub nlink: u32,
    /// Device number of a device node.
    pub rdev: (u32, u32),
    /// Modification time: seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    /// Change time: seconds and nanoseconds since the epoch.
    pub ctime: (i64, u32),
}

/// A directory entry with its stat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// File name.
    pub name: OsString,
    /// Its stat.
    pub stat: Stat,
}

/// The entries of an open directory sorted by name (bytes), without `.` and `..`.
pub fn read_dir(dir: BorrowedFd<'_>) -> std::io::Result<Vec<Entry>> {
    let _ = dir;
    todo!()
}

/// Stat of `name` in `dir`, symlinks not followed.
pub fn stat_at(dir: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<Stat> {
    let _ = (dir, name);
    todo!()
}

/// Opens the sub-directory `name` of `dir` for reading (`O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC`).
pub fn open_dir_at(dir: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<OwnedFd> {
    let _ = (dir, name);
    todo!()
}

/// Opens the regular file `name` of `dir` for reading (`O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK`).
pub fn open_file_at(dir: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<std::fs::File> {
    let _ = (dir, name);
    todo!()
}

/// Extended attributes of `name` in `dir`, sorted by name; empty where the file system has none.
pub fn xattrs_at(dir: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<Vec<(OsString, Vec<u8>)>> {
    let _ = (dir, name);
    todo!()
}

/// Target of the symlink `name` in `dir`.
pub fn readlink_at(dir: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<OsString> {
    let _ = (dir, name);
    todo!()
}
