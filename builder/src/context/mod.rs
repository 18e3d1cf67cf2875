//! Build contexts and other trees that steps read from: what a copy selects, its content digest, its files.

pub mod digest;
pub mod files;
pub mod open;
mod read_ahead;
pub mod resolve;
pub mod select;
pub mod spec;
pub mod walk;

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use wharf_cache::Ids;
use wharf_cache::walk::{FileKind, Stat};
use wharf_frontend::dockerignore::Matcher;

pub use spec::{ContextSpec, DockerfileSpec};

/// A directory given to the build by name, read in place.
#[derive(Debug)]
pub struct LocalContext {
    path: PathBuf,
    root: OwnedFd,
    ignore: Matcher,
    store: Option<LeftOut>,
    is_private: bool,
    ids: Ids,
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
        let (root, metadata) = open_at_once(path)?;
        if !metadata.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        }
        let path = path.to_owned();
        Ok(Self { path, root: root.into(), ignore, store: None, is_private: false, ids: Ids::Kernel })
    }

    /// A tree that wharf made (an unpacked archive, an image) and that nobody changes while the build runs. It lies in the
    /// store, where files belong to users by `ids`.
    pub fn private(path: &Path, root: OwnedFd, ids: Ids) -> Self {
        Self { path: path.to_owned(), root, ignore: Matcher::default(), store: None, is_private: true, ids }
    }

    /// The same without the files that `ignore` matches.
    #[must_use]
    pub fn ignoring(self, ignore: Matcher) -> Self {
        Self { ignore, ..self }
    }

    /// The same without the directory `store`, wherever in it that lies.
    #[must_use]
    pub fn without_store(self, store: DirectoryId) -> Self {
        Self { store: Some(LeftOut { id: store, met: AtomicBool::new(false) }), ..self }
    }

    /// Whether something of the store would have been read.
    pub fn has_met_store(&self) -> bool {
        self.store.as_ref().is_some_and(|store| store.met.load(Ordering::Relaxed))
    }

    /// Whether its root is this directory.
    pub fn is_at(&self, directory: DirectoryId) -> io::Result<bool> {
        let stat = wharf_cache::walk::stat_at(self.root.as_fd(), OsStr::new("."))?;
        Ok(DirectoryId { dev: stat.dev, ino: stat.ino } == directory)
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
        let ignore = (!self.ignore.is_empty()).then_some(&self.ignore);
        Tree { root: self.root.as_fd(), ids: self.ids, ignore, without: self.store.as_ref() }
    }

    /// Looks for a file, ignored or not. Symlinks are followed inside the context.
    pub fn find(&self, path: &Path) -> io::Result<Found> {
        let root = self.root.as_fd();
        let resolved = resolve::resolve(root, path, true)?;
        match resolved.stat.map(|stat| stat.kind) {
            Some(FileKind::File) => {
                let parent = resolve::dir(root, resolve::parent(&resolved.path))?;
                let name = resolved.path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
                Ok(Found::File(wharf_cache::walk::open_file_at(parent.as_fd(), name)?))
            }
            Some(_) => Ok(Found::NoFile),
            None if !resolved.followed => Ok(Found::Nothing),
            None => {
                let itself = resolve::resolve(root, path, false)?;
                let is_link = itself.stat.is_some_and(|stat| stat.kind == FileKind::Symlink);
                Ok(if is_link { Found::Dangling } else { Found::Nothing })
            }
        }
    }
}

/// Which directory it is, however it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryId {
    dev: u64,
    ino: u64,
}

impl DirectoryId {
    /// Of a directory that was looked at.
    pub fn of(metadata: &Metadata) -> Self {
        Self { dev: metadata.dev(), ino: metadata.ino() }
    }
}

/// A directory that is no part of a tree although it lies in it.
#[derive(Debug)]
pub struct LeftOut {
    id: DirectoryId,
    /// Whether it was come across.
    met: AtomicBool,
}

impl LeftOut {
    /// Whether this is it; it is remembered that it was met.
    pub fn is(&self, stat: &Stat) -> bool {
        let is = stat.kind == FileKind::Dir && DirectoryId { dev: stat.dev, ino: stat.ino } == self.id;
        if is {
            self.met.store(true, Ordering::Relaxed);
        }
        is
    }
}

/// Opens what is at a path without waiting: a pipe that nobody writes to would keep us for ever.
pub fn open_at_once(path: &Path) -> io::Result<(File, Metadata)> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

/// Dockerfiles, ignore files and manifests have no more as a rule.
const USUAL_BYTES: usize = 16 * 1024;

/// Reads at most `bytes_max` bytes.
pub fn read_bytes(reader: impl io::Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    // Most texts then take one read, and one more for their end.
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    reader.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Reads a text of at most `bytes_max` bytes.
pub fn read_text(reader: impl io::Read, bytes_max: u64) -> io::Result<String> {
    String::from_utf8(read_bytes(reader, bytes_max)?).map_err(|error| {
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
    /// How its files belong to users.
    pub ids: Ids,
    /// What is not part of it.
    pub ignore: Option<&'a Matcher>,
    /// A directory that is not part of it either.
    pub without: Option<&'a LeftOut>,
}
