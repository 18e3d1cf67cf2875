//! What of an upper directory is no change: overlayfs leaves copies of directories and files behind that nobody changed,
//! and marks new directories opaque though there is nothing below that they could hide.
//!
//! The content digest of a snapshot leaves these out, as its layer does. So a step that touches a file and puts it back
//! has changed nothing, and a layer that is unpacked again gives the very content that it was made of.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};

use super::DiffError;
use super::compare::{Lower, cannot_read, parent_of};
use crate::contenthash::is_opaque;
use crate::walk::{self, FileKind, Walk};
use crate::{Chain, Store};

/// Paths that do not count as they are.
#[derive(Debug, Default)]
pub(crate) struct NoChange {
    /// Entries that are as they were below.
    pub(crate) copies: HashSet<OsString>,
    /// Directories whose opaque mark hides nothing.
    pub(crate) nothing_hidden: HashSet<OsString>,
}

/// What in `upper`, which lies on top of `chain`, is no change.
pub(crate) fn no_change(
    store: &Store,
    upper: BorrowedFd<'_>,
    chain: &Chain,
    object: &str,
) -> Result<NoChange, DiffError> {
    let mut found = NoChange::default();
    if chain.0.is_empty() {
        return Ok(found);
    }
    let failed = |path: &OsStr, source| cannot_read(object, path, source);
    let mut lower = Lower::new(store, chain.clone(), object.to_owned(), upper);
    for visited in Walk::new(upper).map_err(|source| failed(OsStr::new(""), source))? {
        let visited = visited.map_err(|source| failed(OsStr::new(""), source))?;
        let (path, stat) = (&visited.path, &visited.entry.stat);
        let is_copy = match stat.kind {
            FileKind::Dir => {
                let xattrs = walk::xattrs_at(visited.dir.as_fd(), &visited.entry.name);
                let xattrs = xattrs.map_err(|source| failed(path, source))?;
                if is_opaque(&xattrs) {
                    if !lower.has_dir(&visited)? {
                        found.nothing_hidden.insert(path.clone());
                    }
                    lower.hide(path);
                    false
                } else {
                    lower.has_same_dir(&visited, &xattrs)?
                }
            }
            _ if stat.is_socket() => true,
            _ => lower.has_copy_of(&visited)?,
        };
        if is_copy {
            found.copies.insert(path.clone());
        } else {
            found.keep_above(path);
        }
    }
    Ok(found)
}

impl NoChange {
    /// Something in them is a change, so the directories above `path` count.
    fn keep_above(&mut self, path: &OsStr) {
        let mut below = path;
        while let Some(parent) = parent_of(below) {
            if !self.copies.remove(parent) {
                return;
            }
            below = parent;
        }
    }
}
