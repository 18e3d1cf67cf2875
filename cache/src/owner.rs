//! Owners of files where one id is all there is.
//!
//! In a user namespace with a single id every file belongs to that id, and nobody can make a device. Who a file should
//! belong to is then *recorded* with it, and a device is a *stand-in*, a regular file that says which device it is:
//!
//! | file | where its owner is recorded |
//! |---|---|
//! | regular file, directory | attribute `user.wharf.owner` = `UID:GID`; none is 0:0 |
//! | stand-in of a device | the same, always there, and `user.wharf.node` = `c:MAJOR:MINOR` or `b:MAJOR:MINOR` |
//! | symlink, named pipe, socket | its access time, because the kernel gives them no `user.` attributes; see [`LINK_EPOCH_S`] |
//!
//! A record is part of the inode: a rename, a hard link and overlayfs's copy-up keep it, and it is gone with the file. Modes are
//! the files' own. What is no valid record counts as none, because whoever may write to a file can write this too.
//!
//! In a user namespace with many ids owners are the kernel's, and only devices have stand-ins ([`Ids::Kernel`]): made where the
//! kernel refuses the device, and told from other files by being empty and having the attribute. Where no mount keeps a step from
//! opening devices none are made at all ([`Ids::KernelWithoutDevices`]).
//!
//! Who gives a symlink, pipe or socket another access time takes its record away. Reading it does not: the kernel renews
//! access times only when they are old, unless the file system is mounted with `strictatime` ([`keeps_records`]).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Statx, StatxFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::walk::{self, Entry, FileKind, Stat};
use crate::{Ids, walk::proc_path};

/// The attributes that belong to wharf: no step sees them, no layer has them.
pub const XATTR_PREFIX: &str = "user.wharf.";

const OWNER: &str = "user.wharf.owner";
const NODE: &str = "user.wharf.node";

/// A link's access time from this second on (it is in 2106) is a record: seconds after it are `UID << 2 | GID >> 29`,
/// nanoseconds the other 29 bits of the group. So ids have 31 bits, and the last second is in 2378: ext4 (with inodes of 256
/// bytes), XFS (with `bigtime`), btrfs and tmpfs go further.
const LINK_EPOCH_S: i64 = 1 << 32;
/// How many bits of the group are in the nanoseconds: as many as always fit.
const LINK_NANOS_BITS: u32 = 29;
/// The largest id that a symlink, pipe or socket can be given.
const LINK_ID_MAX: u32 = (1 << 31) - 1;

/// Linux has 12 bits for the major number of a device and 20 for the minor one.
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;

/// User and group.
pub type Owner = (u32, u32);

/// What is recorded of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// Who it belongs to.
    pub owner: Owner,
    /// The device that it stands for.
    pub node: Option<Node>,
}

/// A device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Block or character device.
    pub is_block: bool,
    /// Major and minor number.
    pub rdev: (u32, u32),
}

/// The record of the entry `name` of `dir`, a symlink not followed. `dir` may be an `O_PATH` descriptor.
pub fn get(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Record> {
    read(&Place::Entry(dir, name))
}

/// The record of what `fd` names, which may be an `O_PATH` descriptor, also of a symlink.
pub fn get_of(fd: BorrowedFd<'_>) -> io::Result<Record> {
    read(&Place::Open(fd))
}

/// Gives the entry `name` of `dir` an owner; a symlink is not followed. It is a change of owner in every other way too:
/// setuid bits and capabilities go, the time of change is now, and a file of an overlay's lower layer is copied up.
pub fn set(dir: BorrowedFd<'_>, name: &OsStr, owner: Owner) -> io::Result<()> {
    write(&Place::Entry(dir, name), owner)
}

/// The same for what `fd` names, which may be an `O_PATH` descriptor.
pub fn set_of(fd: BorrowedFd<'_>, owner: Owner) -> io::Result<()> {
    write(&Place::Open(fd), owner)
}

/// Makes the stand-in of a device as a new entry `name` of `dir`; it is root's. The process's umask has no say in its mode.
pub fn make_node(dir: BorrowedFd<'_>, name: &OsStr, node: Node, mode: u32) -> io::Result<()> {
    let (major, minor) = node.rdev;
    if parse_node(node_text(node).as_bytes()) != Some(node) {
        return Err(invalid(format!("the device {major}:{minor} cannot be recorded")));
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    let record = || -> io::Result<()> {
        rustix::fs::fsetxattr(&file, NODE, node_text(node).as_bytes(), XattrFlags::empty())?;
        rustix::fs::fsetxattr(&file, OWNER, owner_text((0, 0)).as_bytes(), XattrFlags::empty())?;
        Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777))?)
    };
    record().inspect_err(|_| {
        // Half a stand-in would be taken for a file.
        let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
    })
}

/// Whether the file system of `dir`, in which files are made for that, keeps records.
pub(crate) fn keeps_records(dir: BorrowedFd<'_>) -> io::Result<bool> {
    const OWNER: Owner = (LINK_ID_MAX, LINK_ID_MAX);
    const NAMES: [&str; 2] = ["records-file", "records-link"];
    let clear = || {
        for name in NAMES {
            let _ = rustix::fs::unlinkat(dir, name, AtFlags::empty());
        }
    };
    let keeps = || -> io::Result<bool> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        drop(rustix::fs::openat(dir, NAMES[0], flags, Mode::RUSR | Mode::WUSR)?);
        rustix::fs::symlinkat("x", dir, NAMES[1])?;
        for name in NAMES.map(OsStr::new) {
            match set(dir, name, OWNER) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => return Ok(false),
                done => done?,
            }
        }
        walk::readlink_at(dir, OsStr::new(NAMES[1]))?;
        for name in NAMES.map(OsStr::new) {
            if get(dir, name)?.owner != OWNER {
                return Ok(false);
            }
        }
        Ok(true)
    };
    // A process that was killed may have left them.
    clear();
    let kept = keeps();
    clear();
    kept
}

impl Ids {
    /// Stat of `name` in `dir`, symlinks not followed, with the owner that it should have.
    pub fn stat_at(self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Stat> {
        self.stat(&Place::Entry(dir, name))
    }

    /// The same of what `fd` names.
    pub fn stat_of(self, fd: BorrowedFd<'_>) -> io::Result<Stat> {
        self.stat(&Place::Open(fd))
    }

    /// The entries of an open directory sorted by name (bytes), without `.` and `..`.
    pub fn read_dir(self, dir: BorrowedFd<'_>) -> io::Result<Vec<Entry>> {
        walk::read_dir_with(dir, |name| self.stat_at(dir, name))
    }

    /// Gives the entry `name` of `dir` an owner; a symlink is not followed.
    pub fn set_owner(self, dir: BorrowedFd<'_>, name: &OsStr, owner: Owner) -> io::Result<()> {
        match self {
            Self::Kernel | Self::KernelWithoutDevices => Place::Entry(dir, name).chown(owner),
            Self::Recorded => set(dir, name, owner),
        }
    }

    /// Gives what `fd` names an owner.
    pub fn set_owner_of(self, fd: impl AsFd, owner: Owner) -> io::Result<()> {
        match self {
            Self::Kernel | Self::KernelWithoutDevices => {
                let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                Ok(rustix::fs::fchown(fd, Some(uid), Some(gid))?)
            }
            Self::Recorded => set_of(fd.as_fd(), owner),
        }
    }

    /// Makes a device, a named pipe or a socket as a new entry `name` of `dir`; it is root's, and nobody has rights to it.
    pub fn make_node(
        self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        kind: FileKind,
        rdev: (u32, u32),
    ) -> io::Result<()> {
        use rustix::fs::FileType;
        let file_type = match kind {
            FileKind::CharDevice => FileType::CharacterDevice,
            FileKind::BlockDevice => FileType::BlockDevice,
            FileKind::Socket => FileType::Socket,
            FileKind::File | FileKind::Dir | FileKind::Symlink | FileKind::Fifo => FileType::Fifo,
        };
        let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        // Anybody may make the character device 0:0: it is a whiteout.
        let needs_right = is_device && (kind, rdev) != (FileKind::CharDevice, (0, 0));
        let stand_in = || make_node(dir, name, Node { is_block: kind == FileKind::BlockDevice, rdev }, 0);
        if self != Self::Kernel && needs_right {
            return stand_in();
        }
        let device = rustix::fs::makedev(rdev.0, rdev.1);
        match rustix::fs::mknodat(dir, name, file_type, Mode::empty(), device) {
            // A user namespace may have any owners, and no devices.
            Err(Errno::PERM) if needs_right => stand_in(),
            done => Ok(done?),
        }
    }

    fn stat(self, place: &Place<'_>) -> io::Result<Stat> {
        let raw = place.statx()?;
        let mut stat = walk::stat_from(&raw)?;
        let node = match self {
            Self::Recorded => {
                let record = record_of(place, &raw, stat.kind)?;
                (stat.uid, stat.gid) = record.owner;
                record.node
            }
            // Files with something in them are not asked: they are nearly all.
            Self::Kernel | Self::KernelWithoutDevices if stat.kind == FileKind::File && stat.size == 0 => {
                node_of(place)?
            }
            Self::Kernel | Self::KernelWithoutDevices => None,
        };
        if let Some(node) = node {
            stat.kind = if node.is_block { FileKind::BlockDevice } else { FileKind::CharDevice };
            stat.rdev = node.rdev;
        }
        Ok(stat)
    }
}

fn read(place: &Place<'_>) -> io::Result<Record> {
    let raw = place.statx()?;
    record_of(place, &raw, walk::stat_from(&raw)?.kind)
}

/// The record of a file that was looked at.
fn record_of(place: &Place<'_>, raw: &Statx, kind: FileKind) -> io::Result<Record> {
    match kind {
        FileKind::File | FileKind::Dir => {
            let Some(text) = place.attribute(OWNER)? else { return Ok(Record::default()) };
            let node = if kind == FileKind::File { node_of(place)? } else { None };
            Ok(Record { owner: parse_owner(&text).unwrap_or_default(), node })
        }
        // The machine's own, bound into a step: those of images have stand-ins.
        FileKind::CharDevice | FileKind::BlockDevice => Ok(Record::default()),
        FileKind::Symlink | FileKind::Fifo | FileKind::Socket => {
            let owner = owner_of_time(raw.stx_atime.tv_sec, raw.stx_atime.tv_nsec).unwrap_or_default();
            Ok(Record { owner, node: None })
        }
    }
}

/// The device that a regular file stands for.
fn node_of(place: &Place<'_>) -> io::Result<Option<Node>> {
    Ok(place.attribute(NODE)?.and_then(|text| parse_node(&text)))
}

fn write(place: &Place<'_>, owner: Owner) -> io::Result<()> {
    if owner.0 == u32::MAX || owner.1 == u32::MAX {
        return Err(Errno::INVAL.into());
    }
    let raw = place.statx()?;
    match walk::stat_from(&raw)?.kind {
        FileKind::File | FileKind::Dir => {
            place.chown((0, 0))?;
            if owner != (0, 0) || place.attribute(NODE)?.is_some() {
                return place.set_attribute(OWNER, owner_text(owner).as_bytes());
            }
            place.remove_attribute(OWNER)
        }
        FileKind::CharDevice | FileKind::BlockDevice => Err(Errno::PERM.into()),
        FileKind::Symlink | FileKind::Fifo | FileKind::Socket => {
            let is_recorded = owner_of_time(raw.stx_atime.tv_sec, raw.stx_atime.tv_nsec).is_some();
            let time = match owner {
                (0, 0) if !is_recorded => None,
                (0, 0) => Some((raw.stx_mtime.tv_sec, raw.stx_mtime.tv_nsec)),
                owner => Some(time_of_owner(owner)?),
            };
            place.chown((0, 0))?;
            time.map_or(Ok(()), |time| place.set_access_time(time))
        }
    }
}

/// A file that is looked at, by its name in a directory or by a descriptor of its own.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Entry(BorrowedFd<'a>, &'a OsStr),
    Open(BorrowedFd<'a>),
}

impl Place<'_> {
    /// What names it in system calls that have an `*at` form.
    fn at(&self) -> (BorrowedFd<'_>, &OsStr, AtFlags) {
        match *self {
            Self::Entry(dir, name) => (dir, name, AtFlags::SYMLINK_NOFOLLOW),
            Self::Open(fd) => (fd, OsStr::new(""), AtFlags::EMPTY_PATH),
        }
    }

    fn statx(&self) -> io::Result<Statx> {
        let (dir, name, flags) = self.at();
        Ok(rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)?)
    }

    fn chown(&self, (uid, gid): Owner) -> io::Result<()> {
        let (dir, name, flags) = self.at();
        Ok(rustix::fs::chownat(dir, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)?)
    }

    fn set_access_time(&self, (seconds, nanoseconds): (i64, u32)) -> io::Result<()> {
        let (dir, name, flags) = self.at();
        let times = Timestamps {
            last_access: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
            last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        };
        Ok(rustix::fs::utimensat(dir, name, &times, flags)?)
    }

    /// An attribute of a regular file or directory; `None` if there is none, or one that is too long to be a record.
    fn attribute(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut value = [0; VALUE_BYTES_MAX];
        let length = match *self {
            Self::Entry(dir, entry) => rustix::fs::lgetxattr(proc_path(dir, entry), name, &mut value),
            Self::Open(fd) => match rustix::fs::fgetxattr(fd, name, &mut value) {
                Err(Errno::BADF) => rustix::fs::getxattr(own_path(fd), name, &mut value),
                done => done,
            },
        };
        match length {
            Ok(length) => Ok(value.get(..length).map(<[u8]>::to_vec)),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn set_attribute(&self, name: &str, value: &[u8]) -> io::Result<()> {
        let none = XattrFlags::empty();
        Ok(match *self {
            Self::Entry(dir, entry) => rustix::fs::lsetxattr(proc_path(dir, entry), name, value, none),
            Self::Open(fd) => match rustix::fs::fsetxattr(fd, name, value, none) {
                Err(Errno::BADF) => rustix::fs::setxattr(own_path(fd), name, value, none),
                done => done,
            },
        }?)
    }

    /// Makes sure that there is no attribute of this name.
    fn remove_attribute(&self, name: &str) -> io::Result<()> {
        let removed = match *self {
            Self::Entry(dir, entry) => rustix::fs::lremovexattr(proc_path(dir, entry), name),
            Self::Open(fd) => match rustix::fs::fremovexattr(fd, name) {
                Err(Errno::BADF) => rustix::fs::removexattr(own_path(fd), name),
                done => done,
            },
        };
        match removed {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The longest record is two numbers of ten digits.
const VALUE_BYTES_MAX: usize = 32;

/// A path that leads to what `fd` names, however that was opened.
fn own_path(fd: BorrowedFd<'_>) -> OsString {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn owner_text((uid, gid): Owner) -> String {
    format!("{uid}:{gid}")
}

fn parse_owner(text: &[u8]) -> Option<Owner> {
    let (uid, gid) = std::str::from_utf8(text).ok()?.split_once(':')?;
    // The kernel takes the largest number for "leave it as it is".
    let id = |text| number(text).filter(|id| *id != u32::MAX);
    Some((id(uid)?, id(gid)?))
}

fn node_text(node: Node) -> String {
    format!("{}:{}:{}", if node.is_block { 'b' } else { 'c' }, node.rdev.0, node.rdev.1)
}

fn parse_node(text: &[u8]) -> Option<Node> {
    let (kind, numbers) = std::str::from_utf8(text).ok()?.split_once(':')?;
    let (major, minor) = numbers.split_once(':')?;
    let is_block = match kind {
        "b" => true,
        "c" => false,
        _ => return None,
    };
    let rdev = (number(major)?, number(minor)?);
    // A file that claims to be a whiteout would hide another.
    let is_whiteout = !is_block && rdev == (0, 0);
    (rdev.0 <= MAJOR_MAX && rdev.1 <= MINOR_MAX && !is_whiteout).then_some(Node { is_block, rdev })
}

/// A number written in the one way that wharf writes it.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

fn time_of_owner((uid, gid): Owner) -> io::Result<(i64, u32)> {
    if uid > LINK_ID_MAX || gid > LINK_ID_MAX {
        return Err(invalid(format!(
            "the owner {uid}:{gid} of a symlink, pipe or socket cannot be recorded: ids above {LINK_ID_MAX} need a sandbox \
             that has them (`root` or `rootless`)"
        )));
    }
    let seconds = i64::from(uid) << 2 | i64::from(gid >> LINK_NANOS_BITS);
    Ok((LINK_EPOCH_S + seconds, gid & ((1 << LINK_NANOS_BITS) - 1)))
}

fn owner_of_time(seconds: i64, nanoseconds: u32) -> Option<Owner> {
    let recorded = u64::try_from(seconds.checked_sub(LINK_EPOCH_S)?).ok()?;
    let uid = u32::try_from(recorded >> 2).ok().filter(|uid| *uid <= LINK_ID_MAX)?;
    let high = u32::try_from(recorded & 3).ok()?;
    (nanoseconds < 1 << LINK_NANOS_BITS).then_some((uid, high << LINK_NANOS_BITS | nanoseconds))
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

#[cfg(test)]
mod tests;
