//! What is renamed, linked, removed or cut off: the kernel does it, if the modes of the directory and the file let the
//! process.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{FileType, ResolveFlags};
use rustix::io::Errno;

use super::create::WRITE_AND_SEARCH;
use super::credentials::Credentials;
use super::{Emulation, path};
use crate::supervisor::Answer;
use crate::supervisor::call::Call;
use crate::supervisor::paths::{self, Entry, Links};

/// To write to something.
const WRITE: u32 = 2;

impl Emulation<'_> {
    /// `truncate`.
    pub(super) fn truncate(&self, call: &Call<'_>) -> Result<Answer, Errno> {
        let credentials = self.identities.of(call)?;
        if !credentials.owns_all_files()
            && let Ok(file) = path(call, 0, Links::Follow).open(call)
        {
            self.require(&credentials, file.as_fd(), WRITE)?;
        }
        Ok(Answer::Continue)
    }

    /// `unlink` and `rmdir` of the path that argument `index` points to.
    pub(super) fn remove(&self, call: &Call<'_>, fd: i32, index: usize) -> Result<Answer, Errno> {
        let credentials = self.identities.of(call)?;
        if !credentials.owns_all_files()
            && let Ok(entry) = entry(call, fd, index)
            && entry.stat().is_ok()
        {
            self.require_removal(&credentials, &entry)?;
        }
        Ok(Answer::Continue)
    }

    /// `link`, to the path that argument `index` points to.
    pub(super) fn link(&self, call: &Call<'_>, fd: i32, index: usize) -> Result<Answer, Errno> {
        let credentials = self.identities.of(call)?;
        if !credentials.owns_all_files()
            && let Ok(entry) = entry(call, fd, index)
            && entry.stat().is_err()
        {
            self.require(&credentials, entry.directory.as_fd(), WRITE_AND_SEARCH)?;
        }
        Ok(Answer::Continue)
    }

    /// `rename` of one path to another; each a descriptor and the argument that points to the path.
    pub(super) fn rename(
        &self,
        call: &Call<'_>,
        old: (i32, usize),
        new: (i32, usize),
    ) -> Result<Answer, Errno> {
        let credentials = self.identities.of(call)?;
        if credentials.owns_all_files() {
            return Ok(Answer::Continue);
        }
        let (Ok(old), Ok(new)) = (entry(call, old.0, old.1), entry(call, new.0, new.1)) else {
            return Ok(Answer::Continue);
        };
        // What is not there is the kernel's to say.
        let Ok(moved) = old.open() else { return Ok(Answer::Continue) };
        self.require_removal(&credentials, &old)?;
        self.require_removal(&credentials, &new)?;
        // It gets another parent, which is written down in it.
        let is_directory = paths::kind(&rustix::fs::fstat(&moved)?) == FileType::Directory;
        if is_directory && !is_same(old.directory.as_fd(), new.directory.as_fd())? {
            self.require(&credentials, moved.as_fd(), WRITE)?;
        }
        Ok(Answer::Continue)
    }

    /// Fails unless the process may take `entry`, if there is one, out of its directory.
    fn require_removal(&self, credentials: &Credentials, entry: &Entry) -> Result<(), Errno> {
        let directory = entry.directory.as_fd();
        self.require(credentials, directory, WRITE_AND_SEARCH)?;
        let stat = rustix::fs::fstat(directory)?;
        let user = credentials.user.files;
        if stat.st_mode & libc::S_ISVTX == 0 || self.owner(directory)?.0 == user {
            return Ok(());
        }
        match entry.open() {
            Ok(file) if self.owner(file.as_fd())?.0 != user => Err(Errno::PERM),
            _ => Ok(()),
        }
    }
}

/// The entry that argument `index` points to; it may be a directory.
fn entry(call: &Call<'_>, fd: i32, index: usize) -> Result<Entry, Errno> {
    let path = without_slashes(call.string(call.argument(index))?)?;
    paths::entry(call, fd, &path, ResolveFlags::empty())
}

/// The path of a directory without the slashes that it may end in.
pub(super) fn without_slashes(path: CString) -> Result<CString, Errno> {
    let mut path = path.into_bytes();
    while path.len() > 1 && path.last() == Some(&b'/') {
        path.pop();
    }
    CString::new(path).map_err(|_| Errno::INVAL)
}

fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<bool, Errno> {
    let (one, other) = (rustix::fs::fstat(one)?, rustix::fs::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}
