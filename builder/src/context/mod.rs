//! Build contexts and other trees that steps read from: what a copy selects, its content digest, its files.

pub mod digest;
pub mod open;
pub mod resolve;
pub mod select;
pub mod spec;
pub mod walk;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use wharf_cache::walk::FileKind;
use wharf_frontend::dockerignore::Matcher;

pub use spec::{ContextSpec, DockerfileSpec};

/// A directory given to the build by name, read in place.
#[derive(Debug)]
pub struct LocalContext {
    path: PathBuf,
    root: OwnedFd,
    ignore: Matcher,
    is_private: bool,
}

/// A file that was looked for in a context.
#[derive(Debug)]
pub enum Found {
    /// There it is.
    File(File),
    /// There is nothing of that name.
    Nothing,
    /// There is a symlink of that name, and nothing where it leads to inside the context.
    Dangling,
    /// There is something else, a directory for example.
    NoFile,
}

impl LocalContext {
    /// Opens the directory `path` of the user; files that `ignore` matches are not part of the context.
    pub fn open(path: &Path, ignore: Matcher) -> io::Result<Self> {
        let root = File::open(path)?;
        if !root.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        }
        Ok(Self { path: path.to_owned(), root: root.into(), ignore, is_private: false })
    }

    /// A tree that wharf made (an unpacked archive, an image) and that nobody changes while the build runs.
    pub fn private(path: &Path, root: OwnedFd) -> Self {
        Self { path: path.to_owned(), root, ignore: Matcher::default(), is_private: true }
    }

    /// The same without the files that `ignore` matches.
    #[must_use]
    pub fn ignoring(self, ignore: Matcher) -> Self {
        Self { ignore, ..self }
    }

    /// The directory as the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nobody else can change the files.
    pub fn is_private(&self) -> bool {
        self.is_private
    }

    /// The tree that copies read from.
    pub fn tree(&self) -> Tree<'_> {
        Tree { root: self.root.as_fd(), ignore: (!self.ignore.is_empty()).then_some(&self.ignore) }
    }

    /// Looks for a file, ignored or not. Symlinks are followed inside the context.
    pub fn find(&self, path: &Path) -> io::Result<Found> {
        let root = self.root.as_fd();
        let resolved = resolve::resolve(root, path, true)?;
        match resolved.stat.map(|stat| stat.kind) {
            Some(FileKind::File) => {
                let parent = resolve::open_dir(root, resolve::parent(&resolved.path))?;
                let name = resolved.path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
                Ok(Found::File(wharf_cache::walk::open_file_at(parent.as_fd(), name)?))
            }
            Some(_) => Ok(Found::NoFile),
            None => {
                let itself = resolve::resolve(root, path, false)?;
                let is_link = itself.stat.is_some_and(|stat| stat.kind == FileKind::Symlink);
                Ok(if is_link { Found::Dangling } else { Found::Nothing })
            }
        }
    }
}

/// Reads a text of at most `bytes_max` bytes.
pub fn read_text(reader: impl io::Read, bytes_max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"))
    })
}

/// A file tree below an open directory, without the files an ignore file takes out.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'a> {
    /// Its root; nothing outside it is ever reached.
    pub root: BorrowedFd<'a>,
    /// What is not part of it.
    pub ignore: Option<&'a Matcher>,
}
