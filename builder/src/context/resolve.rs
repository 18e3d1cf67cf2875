//! Resolving a path inside a root, symlinks followed as if the root were `/`, by descriptors and one component at a time.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use wharf_cache::walk::{self as cwalk, FileKind, Stat};

use super::walk::join;

/// Symlinks followed for one path, as in the kernel.
const SYMLINK_FOLLOW_MAX: usize = 40;

/// Where a path leads.
#[derive(Debug)]
pub struct Resolved {
    /// The path below the root without symlinks, `.` and `..`. Components after one that does not exist are as given.
    pub path: PathBuf,
    /// What is there; `None` if nothing is.
    pub stat: Option<Stat>,
    /// Whether a symlink led there.
    pub followed: bool,
}

/// A directory below a root, which is open already if it is the root itself.
#[derive(Debug)]
pub enum Dir<'a> {
    /// The root.
    Root(BorrowedFd<'a>),
    /// Another one.
    Below(OwnedFd),
}

impl AsFd for Dir<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(root) => *root,
            Self::Below(dir) => dir.as_fd(),
        }
    }
}

/// Resolves `path` below `root`; the last component's symlink is followed if `follow_last`.
pub fn resolve(root: BorrowedFd<'_>, path: &Path, follow_last: bool) -> io::Result<Resolved> {
    let mut todo: Vec<OsString> = path.iter().rev().map(OsStr::to_owned).collect();
    let mut done: Vec<OsString> = Vec::new();
    // Of each of `done`; what is below something that is missing has none.
    let mut stats: Vec<Option<Stat>> = Vec::new();
    let mut missing = false;
    let mut followed = 0;
    while let Some(name) = todo.pop() {
        match name.as_encoded_bytes() {
            b"." => continue,
            b"/" => {
                done.clear();
                stats.clear();
                missing = false;
                continue;
            }
            b".." => {
                done.pop();
                stats.pop();
                missing = false;
                continue;
            }
            _ => {}
        }
        let mut stat = None;
        if !missing {
            let target = match dir(root, &join(&done)) {
                Ok(parent) => link_target(parent.as_fd(), &name, follow_last || !todo.is_empty())?,
                Err(error) if is_missing(&error) => Found::Missing,
                Err(error) => return Err(error),
            };
            match target {
                Found::Link(target) => {
                    followed += 1;
                    if followed > SYMLINK_FOLLOW_MAX {
                        return Err(rustix::io::Errno::LOOP.into());
                    }
                    todo.extend(Path::new(&target).iter().rev().map(OsStr::to_owned));
                    continue;
                }
                Found::Missing => missing = true,
                Found::Other(found) => stat = Some(found),
            }
        }
        done.push(name);
        stats.push(stat);
    }
    let stat = match stats.pop() {
        Some(stat) => stat,
        None => Some(cwalk::stat_at(root, OsStr::new("."))?),
    };
    Ok(Resolved { path: join(&done), stat, followed: followed > 0 })
}

/// The directory at a path that was resolved, to look names up in (not to list it: the root may be read by others).
pub fn dir<'a>(root: BorrowedFd<'a>, path: &Path) -> io::Result<Dir<'a>> {
    if path.as_os_str().is_empty() {
        return Ok(Dir::Root(root));
    }
    open_dir(root, path).map(Dir::Below)
}

/// Opens a directory whose path was resolved; fails rather than follow a symlink put there meanwhile.
pub fn open_dir(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )?)
}

/// Opens a regular file whose path was resolved, without waiting for anything that was put in its place; fails rather than
/// follow a symlink put there meanwhile.
pub fn open_file(root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?.into())
}

/// Stat of a resolved path.
pub fn stat(root: BorrowedFd<'_>, path: &Path) -> io::Result<Stat> {
    match path.file_name() {
        None => cwalk::stat_at(root, OsStr::new(".")),
        Some(name) => cwalk::stat_at(dir(root, parent(path))?.as_fd(), name),
    }
}

/// The directory part of a relative path, empty at the root.
pub fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Whether an error says that a path is not there.
pub fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

enum Found {
    Missing,
    Link(OsString),
    Other(Stat),
}

fn link_target(dir: BorrowedFd<'_>, name: &OsStr, follow: bool) -> io::Result<Found> {
    match cwalk::stat_at(dir, name) {
        Ok(stat) if stat.kind == FileKind::Symlink && follow => {
            Ok(Found::Link(cwalk::readlink_at(dir, name)?))
        }
        Ok(stat) => Ok(Found::Other(stat)),
        Err(error) if is_missing(&error) => Ok(Found::Missing),
        Err(error) => Err(error),
    }
}
