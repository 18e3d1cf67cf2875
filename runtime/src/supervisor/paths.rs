//! Paths as the process that gave them would resolve them.
//!
//! Everything is opened below the process's own root, and the kernel sees to it that no `..` and no link leads out of
//! there (`openat2`), whoever renames what meanwhile. What is opened is opened as a place (`O_PATH`): no pipe is waited
//! for, no device wakes up.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::call::Call;

/// What to do when the last name is a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// Take what it leads to.
    Follow,
    /// Take the link itself.
    Keep,
}

impl Links {
    /// For a call with `AT_SYMLINK_NOFOLLOW`.
    pub(crate) fn unless_kept(flags: u32) -> Self {
        if AtFlags::from_bits_retain(flags).contains(AtFlags::SYMLINK_NOFOLLOW) {
            Self::Keep
        } else {
            Self::Follow
        }
    }
}

/// A name in a directory, where something is or is to be made.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) directory: OwnedFd,
    pub(crate) name: CString,
}

impl Entry {
    /// What is there now.
    pub(crate) fn stat(&self) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Opens what is there now, as a place.
    pub(crate) fn open(&self) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(&self.directory, &self.name, PLACE | OFlags::NOFOLLOW, Mode::empty())
    }
}

const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Times that the kernel is asked again because something was renamed meanwhile. A step that renames for ever makes its
/// own calls fail.
const ATTEMPTS_MAX: usize = 64;

/// Links that are looked through one by one, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// Ways that keep a path below the descriptor that it begins at.
const SCOPED: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::IN_ROOT);

/// The root directory of the caller.
pub(crate) fn root(call: &Call<'_>) -> Result<OwnedFd, Errno> {
    call.open(c"root", PLACE)
}

/// What the caller's descriptor `fd` leads to; `AT_FDCWD` is its working directory.
pub(crate) fn descriptor(call: &Call<'_>, fd: i32) -> Result<OwnedFd, Errno> {
    if fd == libc::AT_FDCWD {
        return call.open(c"cwd", PLACE);
    }
    if fd < 0 {
        return Err(Errno::BADF);
    }
    let name = CString::new(format!("fd/{fd}")).map_err(|_| Errno::INVAL)?;
    call.open(&name, PLACE).map_err(|error| if error == Errno::NOENT { Errno::BADF } else { error })
}

/// What `path` leads to for the caller, from `fd` on when it is relative. An empty path is `fd` itself if `flags` have
/// `AT_EMPTY_PATH`.
pub(crate) fn resolve(
    call: &Call<'_>,
    fd: i32,
    path: &CStr,
    links: Links,
    flags: u32,
) -> Result<OwnedFd, Errno> {
    if path.is_empty() {
        let allowed = AtFlags::from_bits_retain(flags).contains(AtFlags::EMPTY_PATH);
        return if allowed { descriptor(call, fd) } else { Err(Errno::NOENT) };
    }
    if links == Links::Keep {
        return open(call, fd, path, PLACE | OFlags::NOFOLLOW, ResolveFlags::empty());
    }
    followed(call, fd, path, ResolveFlags::empty())
}

/// What `path` leads to by these `ways`.
pub(crate) fn followed(call: &Call<'_>, fd: i32, path: &CStr, ways: ResolveFlags) -> Result<OwnedFd, Errno> {
    match open(call, fd, path, PLACE, ways) {
        // It may lead through `/proc/self`, which for this process is another place or none.
        Err(error @ (Errno::NOENT | Errno::LOOP)) if ways.is_empty() => {
            through_own_descriptor(call, fd, path).unwrap_or(Err(error))
        }
        result => result,
    }
}

/// The descriptor of its own that a path of the caller leads to, by links such as `/dev/stdout`.
fn through_own_descriptor(call: &Call<'_>, fd: i32, path: &CStr) -> Option<Result<OwnedFd, Errno>> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        if let Some(own) = own_descriptor(&path) {
            return Some(i32::try_from(own).map_err(|_| Errno::BADF).and_then(|own| descriptor(call, own)));
        }
        let link = open(call, fd, &path, PLACE | OFlags::NOFOLLOW, ResolveFlags::empty()).ok()?;
        path = rustix::fs::readlinkat(&link, c"", Vec::new()).ok()?;
        if !path.to_bytes().starts_with(b"/") {
            return None;
        }
    }
    None
}

/// The directory and the name that `path` ends in: where something is made, renamed or removed. A path that ends in no
/// name has none.
pub(crate) fn entry(call: &Call<'_>, fd: i32, path: &CStr, ways: ResolveFlags) -> Result<Entry, Errno> {
    let (directory, name) = split(path.to_bytes())?;
    let directory = open(call, fd, &directory, PLACE | OFlags::DIRECTORY, ways)?;
    Ok(Entry { directory, name })
}

/// Where a file is made through `link`, which leads to nothing yet. `fd` and `ways` are those that led to it.
pub(crate) fn entry_behind(
    call: &Call<'_>,
    fd: i32,
    link: Entry,
    ways: ResolveFlags,
) -> Result<Entry, Errno> {
    if ways.contains(ResolveFlags::NO_SYMLINKS) {
        return Err(Errno::LOOP);
    }
    let (top, scope) = if ways.intersects(SCOPED) {
        (descriptor(call, fd)?, ResolveFlags::empty())
    } else {
        (root(call)?, ResolveFlags::IN_ROOT)
    };
    let ways = ways | scope | ResolveFlags::NO_MAGICLINKS;
    let mut entry = link;
    for _ in 0..LINKS_MAX {
        let target = rustix::fs::readlinkat(&entry.directory, &entry.name, Vec::new())?;
        if own_descriptor(&target).is_some() {
            return Err(Errno::NOENT);
        }
        let (directory, name) = split(target.to_bytes())?;
        let directory = if directory.to_bytes().starts_with(b"/") {
            directory
        } else {
            below(relative(top.as_fd(), entry.directory.as_fd())?, &directory)?
        };
        let directory = openat2(top.as_fd(), &directory, PLACE | OFlags::DIRECTORY, ways)?;
        entry = Entry { directory, name };
        match entry.stat() {
            Ok(stat) if kind(&stat) == FileType::Symlink => {}
            _ => return Ok(entry),
        }
    }
    Err(Errno::LOOP)
}

/// The path of the directory and the name that a path ends in.
fn split(path: &[u8]) -> Result<(CString, CString), Errno> {
    let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (&b"/"[..], &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b"."[..], path),
    };
    if matches!(name, b"" | b"." | b"..") {
        return Err(Errno::INVAL);
    }
    let string = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::INVAL);
    Ok((string(directory)?, string(name)?))
}

/// A path that works for the file that a place is, as long as the place is open.
pub(crate) fn reopen_path(place: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", place.as_raw_fd())
}

/// Opens the file that a place is.
pub(crate) fn reopen(place: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, reopen_path(place), flags | OFlags::CLOEXEC, Mode::empty())
}

/// The type of what `stat` is about.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn open(call: &Call<'_>, fd: i32, path: &CStr, flags: OFlags, ways: ResolveFlags) -> Result<OwnedFd, Errno> {
    let ways = ways | ResolveFlags::NO_MAGICLINKS;
    if ways.intersects(SCOPED) {
        return openat2(descriptor(call, fd)?.as_fd(), path, flags, ways);
    }
    if path.to_bytes().starts_with(b"/") {
        return openat2(root(call)?.as_fd(), path, flags, ResolveFlags::IN_ROOT | ways);
    }
    let start = descriptor(call, fd)?;
    match openat2(start.as_fd(), path, flags, ResolveFlags::BENEATH | ways) {
        // It leads up, or to the root by a link: from the root once more, the long way.
        Err(Errno::XDEV) => {}
        result => return result,
    }
    let root = root(call)?;
    let whole = below(relative(root.as_fd(), start.as_fd())?, path)?;
    openat2(root.as_fd(), &whole, flags, ResolveFlags::IN_ROOT | ways)
}

/// `path`, below the directory `start`.
fn below(mut start: Vec<u8>, path: &CStr) -> Result<CString, Errno> {
    start.push(b'/');
    start.extend_from_slice(path.to_bytes());
    CString::new(start).map_err(|_| Errno::INVAL)
}

fn openat2(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    for _ in 0..ATTEMPTS_MAX {
        match rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// The path of `fd` from `root` on. Both are seen from the same place, so that one is the beginning of the other.
fn relative(root: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let name = |fd: BorrowedFd<'_>| rustix::fs::readlinkat(CWD, reopen_path(fd), Vec::new());
    let (root, path) = (name(root)?.into_bytes(), name(fd)?.into_bytes());
    let rest = match root.as_slice() {
        b"/" => path.strip_prefix(b"/"),
        root => path
            .strip_prefix(root)
            .and_then(|rest| rest.strip_prefix(b"/").or(rest.is_empty().then_some(rest))),
    };
    let rest = rest.ok_or(Errno::XDEV)?;
    Ok(if rest.is_empty() { b".".to_vec() } else { rest.to_vec() })
}

/// The descriptor of its own that a process names by `/proc/self/fd/N` or `/dev/fd/N`: this process's own `/proc/self`
/// is another one.
pub(crate) fn own_descriptor(path: &CStr) -> Option<u32> {
    const PLACES: [&str; 3] = ["/proc/self/fd/", "/proc/thread-self/fd/", "/dev/fd/"];
    let path = path.to_str().ok()?;
    if let Some(stream) = ["/dev/stdin", "/dev/stdout", "/dev/stderr"].iter().position(|name| *name == path) {
        return u32::try_from(stream).ok();
    }
    let number = PLACES.iter().find_map(|place| path.strip_prefix(place))?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs::File;

    #[test]
    fn own_descriptors_are_recognized() {
        for (path, expected) in [
            (c"/proc/self/fd/7", Some(7)),
            (c"/dev/fd/0", Some(0)),
            (c"/dev/stderr", Some(2)),
            (c"/proc/thread-self/fd/12", Some(12)),
            (c"/proc/self/fd/", None),
            (c"/proc/self/fd/7/x", None),
            (c"/proc/self/fd/-1", None),
            (c"/proc/self/fd/99999999999", None),
            (c"/proc/1/fd/7", None),
        ] {
            assert_eq!(own_descriptor(path), expected, "{path:?}");
        }
    }

    #[test]
    fn paths_are_told_from_a_root_on() {
        let directory = TempDir::new();
        std::fs::create_dir(directory.path().join("a")).unwrap();
        let root = OwnedFd::from(File::open(directory.path()).unwrap());
        let inside = rustix::fs::openat(&root, c"a", PLACE, Mode::empty()).unwrap();
        assert_eq!(relative(root.as_fd(), root.as_fd()).unwrap(), b".");
        assert_eq!(relative(root.as_fd(), inside.as_fd()).unwrap(), b"a");
        assert_eq!(relative(inside.as_fd(), root.as_fd()).unwrap_err(), Errno::XDEV);
    }
}
