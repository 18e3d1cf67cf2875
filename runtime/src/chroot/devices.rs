//! A `/dev` without mounts: real nodes where this place lets them be made and opened, else placeholders.
//!
//! Making the placeholders takes longer than running a short command, so a directory that a process has left as it was can
//! be the next one's.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat, makedev};

use super::opens::Served;
use crate::rootfs::identity;

/// Directories that can be the `/dev` of processes, one after the other.
#[derive(Debug)]
pub struct Devices {
    place: OwnedFd,
    spare: Mutex<Spare>,
}

#[derive(Debug, Default)]
struct Spare {
    made: usize,
    left: Vec<Made>,
}

/// A directory for `/dev`, and how it looked when it was new.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) name: OsString,
    directory: OwnedFd,
    served: Answers,
    new: Vec<Look>,
}

/// What is answered for which file, by device and inode.
type Answers = Vec<((u64, u64), Served)>;

/// What is seen of an entry: its path, its stat, and its target if it is a link.
type Look = (CString, [u64; 9], Vec<u8>);

impl Devices {
    /// Keeps them in the empty directory `place`, which is on the file system of the roots.
    pub fn new(place: OwnedFd) -> Self {
        Self { place, spare: Mutex::default() }
    }

    pub(super) fn place(&self) -> BorrowedFd<'_> {
        self.place.as_fd()
    }

    /// One that is like new.
    pub(super) fn take(&self) -> io::Result<Made> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = spare.left.pop() {
            return Ok(left);
        }
        spare.made += 1;
        let name = OsString::from(format!("{NAME}-{}", spare.made));
        drop(spare);
        Made::new(self.place.as_fd(), &name)
    }

    /// Takes back one that is in its place again. What is not as it was goes to `aside`.
    pub(super) fn give_back(&self, made: Made, aside: BorrowedFd<'_>) -> io::Result<()> {
        let there = rustix::fs::statat(&self.place, &made.name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_it = identity(&there) == identity(&rustix::fs::fstat(&made.directory)?);
        if is_it && looks(&made.directory).is_ok_and(|looks| looks == made.new) {
            self.spare.lock().unwrap_or_else(PoisonError::into_inner).left.push(made);
            return Ok(());
        }
        Ok(rustix::fs::renameat(&self.place, &made.name, aside, &made.name)?)
    }
}

impl Made {
    pub(super) fn new(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Self> {
        let (directory, served) = make(parent, name)?;
        Ok(Self { name: name.to_owned(), new: looks(&directory)?, directory, served })
    }

    /// What is answered when something in it is opened, by device and inode.
    pub(super) fn served(&self) -> impl Iterator<Item = ((u64, u64), Served)> {
        self.served.iter().filter_map(|(file, served)| {
            let served = match served {
                Served::Device(path) => Served::Device(path),
                Served::Terminal => Served::Terminal,
                Served::Descriptor(number) => Served::Descriptor(*number),
                Served::Secret(..) => return None,
            };
            Some((*file, served))
        })
    }
}

/// What can be seen of the directory and of all that is in it and in the directories there, in order. The change time says
/// whether anything has been done to an entry, but for the directory itself: that it is moved is seen there.
fn looks(directory: &OwnedFd) -> io::Result<Vec<Look>> {
    let own = rustix::fs::fstat(directory)?;
    let attributes = rustix::fs::flistxattr(directory, &mut [0_u8; 0]).unwrap_or(0);
    let seen = [own.st_mode.into(), own.st_uid.into(), own.st_gid.into(), attributes as u64, 0, 0, 0, 0, 0];
    let mut looks = vec![(CString::default(), seen, Vec::new())];
    for name in names(directory)? {
        let stat = look(directory, name, &mut looks)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let name = looks.last().map(|(name, _, _)| name.clone()).unwrap_or_default();
            let inside = rustix::fs::openat(directory, &name, DIRECTORY, Mode::empty())?;
            for name in names(&inside)? {
                look(&inside, name, &mut looks)?;
            }
        }
    }
    Ok(looks)
}

fn look(directory: &OwnedFd, name: CString, looks: &mut Vec<Look>) -> io::Result<Stat> {
    let stat = rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
    let target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => rustix::fs::readlinkat(directory, &name, Vec::new())?.into_bytes(),
        _ => Vec::new(),
    };
    let seen = [
        stat.st_ino,
        stat.st_mode.into(),
        stat.st_uid.into(),
        stat.st_gid.into(),
        stat.st_nlink as u64,
        stat.st_size.cast_unsigned(),
        stat.st_rdev,
        stat.st_ctime.cast_unsigned(),
        stat.st_ctime_nsec as u64,
    ];
    looks.push((name, seen, target));
    Ok(stat)
}

/// The names in a directory, sorted. One that holds many more than were made is not as it was.
fn names(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let directory = rustix::fs::openat(directory, c".", DIRECTORY, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); 8 * 1024];
    let mut entries = RawDir::new(&directory, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
        if names.len() > 2 * DESCRIPTORS as usize {
            return Err(io::Error::other("more than were made"));
        }
    }
    names.sort_unstable();
    Ok(names)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What the name under which one is made begins with.
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

/// Makes the directory `name` in `parent`. Returns with it what is answered when something in it is opened.
fn make(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<(OwnedFd, Answers)> {
    let directory = make_directory(parent, name, 0o755)?;
    let mut served = Vec::new();
    for (name, major, minor, path) in DEVICES {
        if !make_node(&directory, name, major, minor)? {
            let answer = if name == "tty" { Served::Terminal } else { Served::Device(path) };
            served.push((make_placeholder(&directory, name)?, answer));
        }
    }
    let descriptors = make_directory(directory.as_fd(), "fd".as_ref(), 0o555)?;
    for number in 0..DESCRIPTORS {
        served.push((make_placeholder(&descriptors, &number.to_string())?, Served::Descriptor(number)));
    }
    for (name, target) in STREAMS {
        rustix::fs::symlinkat(target, &directory, name)?;
    }
    make_directory(directory.as_fd(), "shm".as_ref(), 0o1777)?;
    make_directory(directory.as_fd(), "pts".as_ref(), 0o755)?;
    Ok((directory, served))
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

/// Makes an empty directory.
pub(super) fn make_directory(parent: BorrowedFd<'_>, name: &OsStr, mode: u32) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    let directory = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))?;
    Ok(directory)
}

fn make_placeholder(directory: &OwnedFd, name: &str) -> io::Result<(u64, u64)> {
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(directory, name, FileType::RegularFile, mode, 0)?;
    rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
    Ok(identity(&rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?))
}
