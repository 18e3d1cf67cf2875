//! A tree that is being written, entry by entry, parents first.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, XattrFlags};

use crate::Ids;
use crate::diff::{self, OPAQUE_XATTR};
use crate::walk::{self, Stat, Xattrs};

/// Writes below a root. Nobody else does, and no directory of it is a symlink.
#[derive(Debug)]
pub(super) struct Writer {
    root: OwnedFd,
    ids: Ids,
    /// The directory written to last, which mostly is the next one too.
    last: Option<(OsString, OwnedFd)>,
    /// The directories, which get their times when all is in them.
    dirs: Vec<(OsString, Stat)>,
}

impl Writer {
    pub(super) fn new(root: BorrowedFd<'_>, ids: Ids) -> io::Result<Self> {
        Ok(Self { root: walk::open_dir_at(root, OsStr::new("."))?, ids, last: None, dirs: Vec::new() })
    }

    /// Makes the root look like this.
    pub(super) fn root(&mut self, stat: &Stat, xattrs: &Xattrs) -> io::Result<()> {
        self.dirs.push((OsString::new(), *stat));
        diff::set_dir(self.root.as_fd(), stat, xattrs, self.ids)
    }

    pub(super) fn dir(&mut self, path: &OsStr, stat: &Stat, xattrs: &Xattrs) -> io::Result<()> {
        let ids = self.ids;
        let (parent, name) = self.place(path)?;
        rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
        let dir = walk::open_dir_at(parent, name)?;
        self.dirs.push((path.to_owned(), *stat));
        diff::set_dir(dir.as_fd(), stat, xattrs, ids)
    }

    /// Marks a directory: nothing below it shines through.
    pub(super) fn opaque(&mut self, path: &OsStr) -> io::Result<()> {
        let dir = diff::open_dir_below(self.root.as_fd(), path.as_bytes())?.ok_or(io::ErrorKind::NotFound)?;
        Ok(rustix::fs::fsetxattr(&dir, OPAQUE_XATTR, b"y", XattrFlags::empty())?)
    }

    pub(super) fn whiteout(&mut self, path: &OsStr) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        diff::make_whiteout(parent, name)
    }

    /// Sets the time of what is no directory.
    pub(super) fn time(&mut self, path: &OsStr, stat: &Stat) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        diff::set_time_at(parent, name, stat)
    }

    /// Copies the file `name` of `from`.
    pub(super) fn copy(
        &mut self,
        path: &OsStr,
        from: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
    ) -> io::Result<()> {
        let ids = self.ids;
        let (parent, new) = self.place(path)?;
        diff::copy_file(from, name, stat, parent, new, ids)
    }

    /// Makes the very file `name` of `from` one of this tree.
    pub(super) fn share(
        &mut self,
        path: &OsStr,
        from: BorrowedFd<'_>,
        name: &OsStr,
    ) -> rustix::io::Result<()> {
        let (parent, new) = self
            .place(path)
            .map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))?;
        rustix::fs::linkat(from, name, parent, new, AtFlags::empty())
    }

    /// Gives the file `first` of this tree another name.
    pub(super) fn link(&mut self, first: &OsStr, path: &OsStr) -> io::Result<()> {
        let (dir, name) = split(first);
        let from = diff::open_dir_below(self.root.as_fd(), dir.as_bytes())?.ok_or(io::ErrorKind::NotFound)?;
        let (parent, new) = self.place(path)?;
        Ok(rustix::fs::linkat(&from, name, parent, new, AtFlags::empty())?)
    }

    /// Sets the times that were put off.
    pub(super) fn finish(self) -> io::Result<()> {
        for (path, stat) in &self.dirs {
            let dir =
                diff::open_dir_below(self.root.as_fd(), path.as_bytes())?.ok_or(io::ErrorKind::NotFound)?;
            diff::set_dir_time(dir.as_fd(), stat)?;
        }
        Ok(())
    }

    /// The directory in which `path` is, and its name there.
    fn place<'p>(&mut self, path: &'p OsStr) -> io::Result<(BorrowedFd<'_>, &'p OsStr)> {
        let (dir, name) = split(path);
        if self.last.as_ref().is_none_or(|(open, _)| open != dir) {
            let opened =
                diff::open_dir_below(self.root.as_fd(), dir.as_bytes())?.ok_or(io::ErrorKind::NotFound)?;
            self.last = Some((dir.to_owned(), opened));
        }
        let (_, parent) = self.last.as_ref().expect("it has just been put there");
        Ok((parent.as_fd(), name))
    }
}

/// The directory of a path, empty for the root, and the name in it.
pub(super) fn split(path: &OsStr) -> (&OsStr, &OsStr) {
    let bytes = path.as_bytes();
    match bytes.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (OsStr::from_bytes(&bytes[..slash]), OsStr::from_bytes(&bytes[slash + 1..])),
        None => (OsStr::new(""), path),
    }
}
