//! What has changed in a working tree → an upper directory in overlayfs form.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::super::{Chain, SnapshotError};
use super::failed;
use super::table::{Change, Changes, Names, Now};
use super::writer::{Writer, split};
use crate::Store;
use crate::diff::{self, Lower};
use crate::walk::{self, Entry, Stat, Visited};

/// What is written, in messages.
const OBJECT: &str = "the changes of a step";

/// Copies what has changed in the working tree `tree` on top of `chain` into `upper`.
pub(super) fn write_changes(
    store: &Store,
    chain: &Chain,
    tree: BorrowedFd<'_>,
    changes: &Changes<'_>,
    upper: BorrowedFd<'_>,
) -> Result<(), SnapshotError> {
    let mut writing = Writing {
        tree,
        lower: Lower::new(store, chain.clone(), OBJECT.to_owned(), tree),
        writer: Writer::new(upper).map_err(failed("open", OBJECT))?,
        made: HashSet::new(),
        source: None,
    };
    writing.root().map_err(failed("copy the root of", OBJECT))?;
    for change in &changes.list {
        writing.change(change).map_err(|source| SnapshotError::Io {
            operation: "copy",
            object: format!("`{}` of {OBJECT}", change.path.display()),
            source,
        })?;
    }
    writing.writer.finish().map_err(failed("set the times of", OBJECT))
}

struct Writing<'a> {
    tree: BorrowedFd<'a>,
    lower: Lower<'a>,
    writer: Writer,
    /// The directories that are in the upper one.
    made: HashSet<OsString>,
    /// The directory of the tree that was read last.
    source: Option<(OsString, Arc<OwnedFd>)>,
}

impl Writing<'_> {
    fn root(&mut self) -> io::Result<()> {
        let root = walk::open_dir_at(self.tree, OsStr::new("."))?;
        self.writer.root(&walk::stat_of(root.as_fd())?, &walk::xattrs_of(root.as_fd())?)
    }

    fn change(&mut self, change: &Change<'_>) -> io::Result<()> {
        let path = change.path;
        match change.now {
            Now::Gone => {
                self.parents(path)?;
                self.writer.whiteout(path)
            }
            Now::Dir { opaque } => {
                self.parents(path)?;
                self.dir(path)?;
                if opaque {
                    self.writer.opaque(path)?;
                    self.lower.hide(path);
                }
                Ok(())
            }
            Now::File { names: Names::Of(first), .. } => {
                self.parents(path)?;
                self.writer.link(first, path)
            }
            Now::File { stat, names } => {
                let (_, name) = split(path);
                let dir = self.source(path)?;
                if names == Names::One && self.is_copy(path, &dir, stat)? {
                    return Ok(());
                }
                self.parents(path)?;
                self.writer.copy(path, dir.as_fd(), name, stat)
            }
        }
    }

    /// Whether a file is what it was, though something has been done to it.
    fn is_copy(&mut self, path: &OsStr, dir: &Arc<OwnedFd>, stat: &Stat) -> io::Result<bool> {
        let visited = Visited {
            path: path.to_owned(),
            dir: Arc::clone(dir),
            depth: path.as_bytes().iter().filter(|&&byte| byte == b'/').count(),
            // Whatever it is called here, it has one name in the changes.
            entry: Entry { name: split(path).1.to_owned(), stat: Stat { nlink: 1, ..*stat } },
        };
        self.lower.has_copy_of(&visited).map_err(io::Error::other)
    }

    /// Makes the directories above `path` that are not there yet.
    fn parents(&mut self, path: &OsStr) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut dir = split(path).0;
        while !dir.is_empty() && !self.made.contains(dir) {
            missing.push(dir);
            dir = split(dir).0;
        }
        missing.into_iter().rev().try_for_each(|dir| self.dir(dir))
    }

    /// Copies a directory without what is in it.
    fn dir(&mut self, path: &OsStr) -> io::Result<()> {
        let parent = self.source(path)?;
        let name = split(path).1;
        let (stat, xattrs) = (walk::stat_at(parent.as_fd(), name)?, walk::xattrs_at(parent.as_fd(), name)?);
        self.writer.dir(path, &stat, &xattrs)?;
        self.made.insert(path.to_owned());
        Ok(())
    }

    /// The directory of the tree that holds `path`.
    fn source(&mut self, path: &OsStr) -> io::Result<Arc<OwnedFd>> {
        let dir = split(path).0;
        if let Some((open, fd)) = &self.source
            && open == dir
        {
            return Ok(Arc::clone(fd));
        }
        let opened = diff::open_dir_below(self.tree, dir.as_bytes())?.ok_or(io::ErrorKind::NotFound)?;
        let opened = Arc::new(opened);
        self.source = Some((dir.to_owned(), Arc::clone(&opened)));
        Ok(opened)
    }
}
