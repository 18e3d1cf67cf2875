//! The file system a `FileOp` changes: every path resolved inside its root, every write through a descriptor.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use wharf_cache::Ids;
use wharf_cache::walk::{self as cwalk, FileKind, Stat};

use super::FileError;
use crate::context::resolve::{self, Resolved};

/// A root file system that is being changed.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    root: BorrowedFd<'a>,
    ids: Ids,
    /// The directory used last: a sorted walk stays in one for long.
    open: RefCell<Option<(PathBuf, Rc<OwnedFd>)>>,
}

impl<'a> Target<'a> {
    /// Changes will be made below `root`.
    pub(crate) fn new(root: BorrowedFd<'a>, ids: Ids) -> Self {
        Self { root, ids, open: RefCell::new(None) }
    }

    /// The root's descriptor.
    pub(crate) fn root(&self) -> BorrowedFd<'a> {
        self.root
    }

    /// How files belong to users.
    pub(crate) fn ids(&self) -> Ids {
        self.ids
    }

    /// Where an absolute path leads, symlinks followed, the last one too.
    pub(crate) fn resolve(&self, path: &str) -> Result<Resolved, FileError> {
        resolve::resolve(self.root, Path::new(path), true)
            .map_err(|source| io_error("resolve", Path::new(path), source))
    }

    /// Opens a directory by its resolved path.
    pub(crate) fn dir(&self, path: &Path) -> Result<Rc<OwnedFd>, FileError> {
        if let Some((open, fd)) = &*self.open.borrow()
            && open == path
        {
            return Ok(Rc::clone(fd));
        }
        let fd =
            resolve::open_dir(self.root, path).map_err(|source| io_error("open directory", path, source))?;
        let fd = Rc::new(fd);
        *self.open.borrow_mut() = Some((path.to_owned(), Rc::clone(&fd)));
        Ok(fd)
    }

    /// Fails when the directory above `path` does not exist.
    pub(crate) fn require_parent(&self, path: &Path) -> Result<(), FileError> {
        self.dir(resolve::parent(path)).map(drop)
    }

    /// Makes the directory `path` and all that are missing above it; those that exist stay as they are.
    pub(crate) fn make_dirs(&self, path: &Path, mode: u32, owner: (u32, u32)) -> Result<(), FileError> {
        // Mostly all of it is there, and asking once is faster than trying every component.
        if self.dir(path).is_ok() {
            return Ok(());
        }
        let mut made = PathBuf::new();
        for name in path.iter() {
            let parent = self.dir(&made)?;
            made.push(name);
            let failed = |source| io_error("make directory", &made, source);
            match rustix::fs::mkdirat(&*parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => {
                    self.ids.set_owner(parent.as_fd(), name, owner).map_err(failed)?;
                    set_mode(parent.as_fd(), name, mode).map_err(failed)?;
                }
                Err(rustix::io::Errno::EXIST) => match cwalk::stat_at(parent.as_fd(), name) {
                    Ok(stat) if stat.kind == FileKind::Dir => {}
                    Ok(_) => return Err(FileError::NotADirectory(made)),
                    Err(error) => return Err(failed(error)),
                },
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(())
    }

    /// Makes a file with the given bytes where `path` leads; missing directories above it are made.
    pub(crate) fn write_file(
        &self,
        path: &str,
        mode: u32,
        owner: (u32, u32),
        data: &[u8],
    ) -> Result<(), FileError> {
        let resolved = self.resolve(path)?;
        self.make_dirs(resolve::parent(&resolved.path), 0o755, owner)?;
        let mut file = self.create(&resolved.path)?;
        let failed = |source| io_error("write", &resolved.path, source);
        file.write_all(data).map_err(failed)?;
        self.set_file_owner(&file, owner, mode).map_err(failed)
    }

    /// A new empty file at a resolved path, in place of any file or link there.
    pub(crate) fn create(&self, path: &Path) -> Result<File, FileError> {
        let parent = self.dir(resolve::parent(path))?;
        let name = name_of(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&*parent, name, flags, Mode::from_raw_mode(0o600));
        let created = match open() {
            Err(rustix::io::Errno::EXIST) => {
                self.make_room(path)?;
                open()
            }
            other => other,
        };
        Ok(created.map_err(|error| io_error("create", path, error.into()))?.into())
    }

    /// Whether nothing is at a resolved path.
    pub(crate) fn is_free(&self, path: &Path) -> Result<bool, FileError> {
        match cwalk::stat_at(self.dir(resolve::parent(path))?.as_fd(), name_of(path)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            other => other.map(|_| false).map_err(|source| io_error("look at", path, source)),
        }
    }

    /// Takes away whatever is at a resolved path, unless it is a directory.
    pub(crate) fn make_room(&self, path: &Path) -> Result<(), FileError> {
        let parent = self.dir(resolve::parent(path))?;
        match rustix::fs::unlinkat(&*parent, name_of(path)?, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(rustix::io::Errno::ISDIR) => Err(FileError::IsADirectory(path.to_owned())),
            Err(error) => Err(io_error("replace", path, error.into())),
        }
    }

    /// Makes a symlink where `path` leads (its own last component not followed).
    pub(crate) fn symlink(&self, path: &str, to: &Path, owner: (u32, u32)) -> Result<(), FileError> {
        let resolved = resolve::resolve(self.root, Path::new(path), false)
            .map_err(|source| io_error("resolve", Path::new(path), source))?;
        self.make_room(&resolved.path)?;
        self.symlink_at(&resolved.path, to.as_os_str(), owner)
    }

    /// Makes a symlink at a resolved path where nothing is.
    pub(crate) fn symlink_at(&self, path: &Path, to: &OsStr, owner: (u32, u32)) -> Result<(), FileError> {
        let parent = self.dir(resolve::parent(path))?;
        let name = name_of(path)?;
        rustix::fs::symlinkat(to, &*parent, name)
            .map_err(io::Error::from)
            .and_then(|()| self.ids.set_owner(parent.as_fd(), name, owner))
            .map_err(|source| io_error("make symlink", path, source))
    }

    /// Makes a device node or named pipe at a resolved path where nothing is.
    pub(crate) fn make_node(
        &self,
        path: &Path,
        stat: &Stat,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<(), FileError> {
        let parent = self.dir(resolve::parent(path))?;
        let name = name_of(path)?;
        self.ids
            .make_node(parent.as_fd(), name, stat.kind, stat.rdev)
            .and_then(|()| self.ids.set_owner(parent.as_fd(), name, owner))
            .and_then(|()| set_mode(parent.as_fd(), name, mode))
            .map_err(|source| io_error("make device node", path, source))
    }

    /// Owner and mode of a file; the owner first: changing it takes setuid and setgid bits away.
    pub(crate) fn set_file_owner(&self, file: &File, owner: (u32, u32), mode: u32) -> io::Result<()> {
        self.ids.set_owner_of(file, owner)?;
        Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
    }

    /// A second name for the file at `from`, both resolved paths.
    pub(crate) fn hard_link(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        self.make_room(to)?;
        let failed = |source| io_error("link", to, source);
        let source = resolve::open_dir(self.root, resolve::parent(from)).map_err(failed)?;
        let dest = self.dir(resolve::parent(to))?;
        rustix::fs::linkat(source, name_of(from)?, &*dest, name_of(to)?, AtFlags::empty())
            .map_err(|error| failed(error.into()))
    }

    /// Removes a file or a whole directory.
    pub(crate) fn remove(&self, path: &str, allow_not_found: bool) -> Result<(), FileError> {
        let resolved = resolve::resolve(self.root, Path::new(path), false)
            .map_err(|source| io_error("resolve", Path::new(path), source))?;
        let failed = |source| io_error("remove", &resolved.path, source);
        match resolved.stat {
            None if allow_not_found => Ok(()),
            None => Err(failed(io::ErrorKind::NotFound.into())),
            Some(stat) => {
                let parent = self.dir(resolve::parent(&resolved.path))?;
                remove_tree(parent.as_fd(), name_of(&resolved.path)?, stat.kind).map_err(failed)
            }
        }
    }

    /// Sets the modification time of a resolved path.
    pub(crate) fn set_times(&self, path: &Path, mtime: (i64, u32)) -> Result<(), FileError> {
        let (parent, name) = match path.file_name() {
            None => (self.dir(Path::new(""))?, OsStr::new(".")),
            Some(name) => (self.dir(resolve::parent(path))?, name),
        };
        set_times(parent.as_fd(), name, mtime).map_err(|source| io_error("set times of", path, source))
    }
}

/// Sets the mode of something that is not a symlink.
pub(crate) fn set_mode(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

/// Sets the modification time, symlinks not followed. The access time, which no layer has, may be a record
/// ([`wharf_cache::owner`]).
pub(crate) fn set_times(dir: BorrowedFd<'_>, name: &OsStr, mtime: (i64, u32)) -> io::Result<()> {
    let times = modified_at(mtime);
    Ok(rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A modification time; the access time stays.
pub(crate) fn modified_at((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    }
}

pub(crate) fn io_error(operation: &'static str, path: &Path, source: io::Error) -> FileError {
    FileError::Io { operation, path: path.to_owned(), source }
}

fn name_of(path: &Path) -> Result<&OsStr, FileError> {
    path.file_name().ok_or_else(|| FileError::IsADirectory(path.to_owned()))
}

fn remove_tree(dir: BorrowedFd<'_>, name: &OsStr, kind: FileKind) -> io::Result<()> {
    if kind != FileKind::Dir {
        return Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?);
    }
    let inner = cwalk::open_dir_at(dir, name)?;
    for entry in cwalk::read_dir(inner.as_fd())? {
        remove_tree(inner.as_fd(), &entry.name, entry.stat.kind)?;
    }
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}
