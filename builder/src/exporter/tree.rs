//! The files of a result on one platform, and what becomes of those of several in one place.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::ExportError;

/// The file system of one platform.
#[derive(Debug)]
pub struct Tree {
    /// A view of it.
    pub root: OwnedFd,
    /// The platform, for messages.
    pub platform: String,
    /// The directory that it is written into; `None` is the place itself.
    pub below: Option<String>,
}

impl Tree {
    /// The view.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Several trees in one directory: a directory may be in all of them, anything else in one.
#[derive(Debug)]
pub(super) struct Merged<'a> {
    /// Whether there is anything that could meet.
    is_needed: bool,
    /// What was written: by which platform, and whether it is a directory.
    written: HashMap<PathBuf, (&'a str, bool)>,
}

impl<'a> Merged<'a> {
    /// Of `trees`.
    pub(super) fn of(trees: &[Tree]) -> Self {
        let is_needed = trees.iter().filter(|tree| tree.below.is_none()).count() > 1;
        Self { is_needed, written: HashMap::new() }
    }

    /// Whether `path` of `tree` is to be written: a directory that is there already is not.
    pub(super) fn add(&mut self, tree: &'a Tree, path: &Path, is_dir: bool) -> Result<bool, ExportError> {
        if !self.is_needed {
            return Ok(true);
        }
        match self.written.get(path) {
            Some((_, true)) if is_dir => Ok(false),
            Some((other, _)) => Err(ExportError::BothHave {
                path: path.to_owned(),
                platforms: [(*other).to_owned(), tree.platform.clone()],
            }),
            None => {
                self.written.insert(path.to_owned(), (&tree.platform, is_dir));
                Ok(true)
            }
        }
    }
}
