//! Build contexts and other trees that steps read from: what a copy selects, its content digest, its files.

pub mod digest;
pub mod git;
pub mod resolve;
pub mod select;
pub mod spec;
pub mod walk;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use wharf_frontend::dockerignore::Matcher;

pub use spec::{ContextSpec, DockerfileSpec};

/// A directory given to the build by name, read in place.
#[derive(Debug)]
pub struct LocalContext {
    path: PathBuf,
    root: OwnedFd,
    ignore: Matcher,
}

impl LocalContext {
    /// Opens the directory `path`; files that `ignore` matches are not part of the context.
    pub fn open(path: &Path, ignore: Matcher) -> io::Result<Self> {
        let root = File::open(path)?;
        if !root.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        }
        Ok(Self { path: path.to_owned(), root: root.into(), ignore })
    }

    /// The directory as the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tree that copies read from.
    pub fn tree(&self) -> Tree<'_> {
        Tree { root: self.root.as_fd(), ignore: (!self.ignore.is_empty()).then_some(&self.ignore) }
    }
}

/// A file tree below an open directory, without the files an ignore file takes out.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'a> {
    /// Its root; nothing outside it is ever reached.
    pub root: BorrowedFd<'a>,
    /// What is not part of it.
    pub ignore: Option<&'a Matcher>,
}
