//! The files of a checkout, once git has made them: modes, times, and their way into a snapshot.
//!
//! They are in a directory of this process's own, where nobody else changes anything.

use std::fs::{self, Permissions};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::GitError;
use crate::context::resolve;

/// Gives all files below `tree` the modes 0644 or 0755 whatever the umask was, and the time `time_s` if there is one.
pub(super) fn normalize(tree: &Path, time_s: Option<i64>) -> Result<(), GitError> {
    let mut unread = vec![tree.to_owned()];
    let mut directories = Vec::new();
    while let Some(directory) = unread.pop() {
        for entry in read_dir(&directory)? {
            let path = directory.join(entry);
            let metadata =
                fs::symlink_metadata(&path).map_err(|error| GitError::io("look at", &path, error))?;
            if metadata.is_dir() {
                unread.push(path);
                continue;
            }
            if metadata.is_file() {
                let mode = metadata.permissions().mode();
                // The objects of a repository are read-only.
                let writable = if mode & 0o200 == 0 { 0 } else { 0o200 };
                let executable = if mode & 0o100 == 0 { 0 } else { 0o111 };
                set_mode(&path, mode, 0o444 | writable | executable)?;
            }
            set_time(&path, time_s)?;
        }
        let mode =
            fs::symlink_metadata(&directory).map_err(|error| GitError::io("look at", &directory, error))?;
        set_mode(&directory, mode.permissions().mode(), 0o755)?;
        directories.push(directory);
    }
    // What is in a directory was touched before the directory itself.
    directories.iter().rev().try_for_each(|directory| set_time(directory, time_s))
}

fn set_mode(path: &Path, is: u32, should_be: u32) -> Result<(), GitError> {
    if is & 0o7777 == should_be {
        return Ok(());
    }
    let permissions = Permissions::from_mode(should_be);
    fs::set_permissions(path, permissions).map_err(|error| GitError::io("set the mode of", path, error))
}

fn set_time(path: &Path, time_s: Option<i64>) -> Result<(), GitError> {
    let Some(tv_sec) = time_s else { return Ok(()) };
    let time = Timespec { tv_sec, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| GitError::io("set the time of", path, errno))
}

/// Empties a directory.
pub(super) fn clear(directory: &Path) -> Result<(), GitError> {
    for name in read_dir(directory)? {
        let path = directory.join(name);
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|error| GitError::io("delete", &path, error))?;
    }
    Ok(())
}

/// Moves what is in the sub-directory `below` of `tree` into the directory `target`; `false` if there is no such
/// directory. Symlinks on the way to it stay inside the tree.
pub(super) fn move_into(tree: &Path, below: &str, target: BorrowedFd<'_>) -> Result<bool, GitError> {
    let failed = |error| GitError::io("open", tree.join(below), error);
    let root = fs::File::open(tree).map_err(failed)?;
    let found = resolve::resolve(root.as_fd(), below.as_ref(), true).map_err(failed)?;
    let directory = match resolve::open_dir(root.as_fd(), &found.path) {
        Ok(directory) => directory,
        Err(error) if resolve::is_missing(&error) => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    for entry in wharf_cache::walk::read_dir(directory.as_fd()).map_err(failed)? {
        rustix::fs::renameat(&directory, &entry.name, target, &entry.name)
            .map_err(|errno| GitError::io("move", tree.join(&found.path).join(&entry.name), errno))?;
    }
    Ok(true)
}

fn read_dir(directory: &Path) -> Result<Vec<std::ffi::OsString>, GitError> {
    let failed = |error| GitError::io("read", directory, error);
    let entries = fs::read_dir(directory).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.file_name())).collect()
}

/// The time of the directory that everything was moved into.
pub(super) fn set_root_time(root: BorrowedFd<'_>, time_s: Option<i64>) -> Result<(), GitError> {
    let Some(tv_sec) = time_s else { return Ok(()) };
    let time = Timespec { tv_sec, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::futimens(root, &times).map_err(|errno| GitError::io("set the time of", "/", errno))
}
