//! Reading a directory tree through descriptors: `getdents64` and `statx` by directory fd, entries sorted by name,
//! no path ever resolved through a symlink.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, Statx, StatxFlags};
use rustix::io::Errno;

use crate::Ids;

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

/// The mode of a socket that marks a deleted name in a store on overlayfs, which lets nobody make the device: sticky, and
/// no permissions.
pub(crate) const WHITEOUT_SOCKET_MODE: u32 = 0o1000;

impl Stat {
    /// Whether this is the mark for a deleted name: overlayfs's, a character device 0/0, or the one used on overlayfs.
    pub(crate) fn is_whiteout(&self) -> bool {
        match self.kind {
            FileKind::CharDevice => self.rdev == (0, 0),
            FileKind::Socket => self.mode == WHITEOUT_SOCKET_MODE,
            _ => false,
        }
    }

    /// Whether this is a socket that is a file. No layer can hold one.
    pub(crate) fn is_socket(&self) -> bool {
        self.kind == FileKind::Socket && !self.is_whiteout()
    }
}

/// A directory entry with its stat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// File name.
    pub name: OsString,
    /// Its stat.
    pub stat: Stat,
}

/// Extended attributes with their values, sorted by name.
pub(crate) type Xattrs = Vec<(OsString, Vec<u8>)>;

/// The entries of an open directory sorted by name (bytes), without `.` and `..`. For directories of the store there is
/// [`Ids::read_dir`].
pub fn read_dir(dir: BorrowedFd<'_>) -> io::Result<Vec<Entry>> {
    read_dir_with(dir, |name| stat_at(dir, name))
}

/// The same with stats from somewhere.
pub(crate) fn read_dir_with(
    dir: BorrowedFd<'_>,
    stat: impl Fn(&OsStr) -> io::Result<Stat>,
) -> io::Result<Vec<Entry>> {
    let with_stat = |name: OsString| Ok(Entry { stat: stat(&name)?, name });
    let mut entries = names_in(dir)?.into_iter().map(with_stat).collect::<io::Result<Vec<_>>>()?;
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// The names in an open directory, without `.` and `..`, as they come.
pub(crate) fn names_in(dir: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    /// Large enough that few directories need a second `getdents64`, small enough for any stack.
    const BUFFER_BYTES: usize = 32 * 1024;
    let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
    // The offset belongs to the open file, which an earlier reader may have moved.
    rustix::fs::seek(dir, SeekFrom::Start(0))?;
    let mut raw = RawDir::new(dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(OsString::from_vec(name.to_bytes().to_vec()));
        }
    }
    Ok(names)
}

/// Stat of `name` in `dir` as the kernel gives it, symlinks not followed. For files of the store there is
/// [`Ids::stat_at`].
pub fn stat_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Stat> {
    statx(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// Stat of what `fd` has open.
pub(crate) fn stat_of(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    statx(fd, c"", AtFlags::EMPTY_PATH)
}

/// Opens the sub-directory `name` of `dir` for reading (`O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC`).
pub fn open_dir_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Opens the regular file `name` of `dir` for reading (`O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK`).
pub fn open_file_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    // Without O_NONBLOCK a fifo put in the file's place would block the open for ever.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?.into())
}

/// Extended attributes of `name` in `dir`, sorted by name; empty where the file system has none.
pub fn xattrs_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let path = proc_path(dir, name);
    collect_xattrs(
        |list| rustix::fs::llistxattr(path.as_os_str(), list),
        |attribute, value| rustix::fs::lgetxattr(path.as_os_str(), attribute, value),
    )
}

/// Extended attributes of the file or directory `fd` has open (not merely as `O_PATH`), sorted by name.
pub fn xattrs_of(fd: BorrowedFd<'_>) -> io::Result<Xattrs> {
    collect_xattrs(
        |list| rustix::fs::flistxattr(fd, list),
        |attribute, value| rustix::fs::fgetxattr(fd, attribute, value),
    )
}

/// Target of the symlink `name` in `dir`.
pub fn readlink_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OsString> {
    let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
    Ok(OsString::from_vec(target.into_bytes()))
}

/// A path that names `name` in `dir` for system calls that have no `*at` form: the magic link leads to the very
/// directory, wherever it is mounted or moved to, so nothing is resolved but the last component.
pub(crate) fn proc_path(dir: BorrowedFd<'_>, name: &OsStr) -> OsString {
    let mut path = OsString::from(format!("/proc/self/fd/{}/", dir.as_raw_fd()));
    path.push(name);
    path
}

/// A path that names what `fd` names, for system calls that take no descriptor of a path alone.
pub(crate) fn fd_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Everything below a directory, each parent before its children, sorted by the bytes of the whole path.
#[derive(Debug)]
pub(crate) struct Walk {
    ids: Ids,
    frames: Vec<Frame>,
}

/// One step of a [`Walk`].
#[derive(Debug)]
pub(crate) struct Visited {
    /// Path relative to the walk's root.
    pub(crate) path: OsString,
    /// The directory that holds the entry.
    pub(crate) dir: Arc<OwnedFd>,
    /// How many directories lie between the root and `dir`, `dir` included.
    pub(crate) depth: usize,
    /// Name and stat.
    pub(crate) entry: Entry,
}

/// A directory that is being walked: what is left of it, in order.
#[derive(Debug)]
struct Frame {
    dir: Arc<OwnedFd>,
    /// Path of the directory with a final `/`; empty for the root.
    prefix: OsString,
    steps: std::vec::IntoIter<Step>,
}

#[derive(Debug)]
enum Step {
    Visit(Entry),
    /// Go into this sub-directory; the name has a final `/`.
    Enter(OsString),
}

impl Step {
    fn name(&self) -> &OsStr {
        match self {
            Self::Visit(entry) => &entry.name,
            Self::Enter(name) => name,
        }
    }
}

impl Walk {
    /// Starts below `root`; the root itself is not visited.
    pub(crate) fn new(root: BorrowedFd<'_>, ids: Ids) -> io::Result<Self> {
        // A descriptor of our own: `root` may be O_PATH, and its offset may be in use elsewhere.
        let dir = open_dir_at(root, OsStr::new("."))?;
        Ok(Self { ids, frames: vec![Frame::new(dir, OsString::new(), ids)?] })
    }

    fn step(&mut self) -> io::Result<Option<Visited>> {
        loop {
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            match frame.steps.next() {
                None => {
                    self.frames.pop();
                }
                Some(Step::Enter(name)) => {
                    let dir = open_dir_at(frame.dir.as_fd(), &name)?;
                    let prefix = joined(&frame.prefix, &name);
                    self.frames.push(Frame::new(dir, prefix, self.ids)?);
                }
                Some(Step::Visit(entry)) => {
                    let path = joined(&frame.prefix, &entry.name);
                    let dir = Arc::clone(&frame.dir);
                    return Ok(Some(Visited { path, dir, depth: self.frames.len() - 1, entry }));
                }
            }
        }
    }
}

impl Iterator for Walk {
    type Item = io::Result<Visited>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.frames.clear();
        }
        step.transpose()
    }
}

impl Frame {
    fn new(dir: OwnedFd, prefix: OsString, ids: Ids) -> io::Result<Self> {
        let entries = ids.read_dir(dir.as_fd())?;
        let mut steps = Vec::with_capacity(entries.len());
        for entry in entries {
            // What is in `a` sorts as `a/…`: after `a` itself, but also after a neighbour such as `a-b`.
            if entry.stat.kind == FileKind::Dir {
                steps.push(Step::Enter(joined(&entry.name, OsStr::new("/"))));
            }
            steps.push(Step::Visit(entry));
        }
        steps.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        Ok(Self { dir: Arc::new(dir), prefix, steps: steps.into_iter() })
    }
}

fn joined(prefix: &OsStr, name: &OsStr) -> OsString {
    let mut path = OsString::with_capacity(prefix.len() + name.len());
    path.push(prefix);
    path.push(name);
    path
}

fn statx<P: rustix::path::Arg>(dir: BorrowedFd<'_>, name: P, flags: AtFlags) -> io::Result<Stat> {
    stat_from(&rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)?)
}

pub(crate) fn stat_from(stat: &Statx) -> io::Result<Stat> {
    let kind = match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Symlink,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::Unknown => return Err(io::Error::new(io::ErrorKind::InvalidData, "unknown file type")),
    };
    Ok(Stat {
        kind,
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        size: stat.stx_size,
        dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        nlink: stat.stx_nlink,
        rdev: (stat.stx_rdev_major, stat.stx_rdev_minor),
        mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
    })
}

fn collect_xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Xattrs> {
    let Some(names) = read_growing(list)? else { return Ok(Vec::new()) };
    let mut xattrs = Vec::new();
    for name in names.split_inclusive(|&byte| byte == 0) {
        let Ok(c_name) = CStr::from_bytes_with_nul(name) else { continue };
        if let Some(value) = read_growing(|buffer| get(c_name, buffer))? {
            xattrs.push((OsStr::from_bytes(c_name.to_bytes()).to_owned(), value));
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// Calls `read` with a buffer that is large enough. `None` where the file system has no attributes, or where the
/// attribute vanished or may not be read after it was listed.
fn read_growing(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Option<Vec<u8>>> {
    /// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of the kernel.
    const XATTR_BYTES_MAX: usize = 64 * 1024;
    let mut small = [0; 256];
    match read(&mut small) {
        Ok(len) => return Ok(Some(small[..len].to_vec())),
        Err(Errno::RANGE) => {}
        Err(Errno::OPNOTSUPP | Errno::NODATA) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut large = vec![0; XATTR_BYTES_MAX];
    match read(&mut large) {
        Ok(len) => {
            large.truncate(len);
            Ok(Some(large))
        }
        Err(Errno::OPNOTSUPP | Errno::NODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn read_dir_sorts_and_does_not_follow() {
        let scratch = Scratch::new();
        std::fs::write(scratch.path("b"), "four").unwrap();
        std::fs::create_dir(scratch.path("a")).unwrap();
        symlink("b", scratch.path("c")).unwrap();
        let dir = File::open(scratch.path("")).unwrap();
        for _ in 0..2 {
            let entries = read_dir(dir.as_fd()).unwrap();
            let seen: Vec<_> = entries.iter().map(|e| (e.name.to_str().unwrap(), e.stat.kind)).collect();
            assert_eq!(seen, [("a", FileKind::Dir), ("b", FileKind::File), ("c", FileKind::Symlink)]);
            assert_eq!(entries[1].stat.size, 4);
        }
        assert_eq!(readlink_at(dir.as_fd(), OsStr::new("c")).unwrap(), "b");
        assert!(open_file_at(dir.as_fd(), OsStr::new("c")).is_err());
        assert!(open_dir_at(dir.as_fd(), OsStr::new("b")).is_err());
    }

    #[test]
    fn walk_is_sorted_by_whole_path() {
        let scratch = Scratch::new();
        for dir in ["a/b", "a-b/c", "a0"] {
            std::fs::create_dir_all(scratch.path(dir)).unwrap();
        }
        for file in ["a/b/x", "a.txt", "a-b/c/y", "a/b.x"] {
            std::fs::write(scratch.path(file), "").unwrap();
        }
        let dir = File::open(scratch.path("")).unwrap();
        let paths: Vec<_> = Walk::new(dir.as_fd(), Ids::Kernel)
            .unwrap()
            .map(|visited| visited.unwrap().path.into_string().unwrap())
            .collect();
        let mut sorted = paths.clone();
        sorted.sort();
        assert_eq!(paths, sorted);
        assert_eq!(paths.len(), 9);
    }

    #[test]
    fn xattrs_by_name_and_by_descriptor_agree() {
        let scratch = Scratch::new();
        std::fs::write(scratch.path("f"), "").unwrap();
        let file = File::open(scratch.path("f")).unwrap();
        let big = vec![7; 2000];
        let set = |name: &str, value: &[u8]| {
            rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty())
        };
        if set("user.b", &big) == Err(Errno::OPNOTSUPP) {
            println!("SKIP: no user xattrs here");
            return;
        }
        set("user.a", b"1").unwrap();
        let dir = File::open(scratch.path("")).unwrap();
        let by_name = xattrs_at(dir.as_fd(), OsStr::new("f")).unwrap();
        assert_eq!(by_name, [("user.a".into(), b"1".to_vec()), ("user.b".into(), big)]);
        assert_eq!(xattrs_of(file.as_fd()).unwrap(), by_name);
    }
}
