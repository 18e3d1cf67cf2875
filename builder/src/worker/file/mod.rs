//! Executes a `FileOp`: COPY, ADD, WORKDIR and heredoc files, without a process.

mod copy;
pub mod mode;
mod owner;
mod target;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use wharf_cache::Ids;
use wharf_cache::snapshot::Sharing;
use wharf_solver::llb::FileChange;

use crate::context::Tree;
use crate::context::files::KnownFiles;
use crate::context::select::SelectError;
use owner::resolve_owner;
pub(crate) use target::Target;

/// Why a file operation failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The source names nothing readable.
    #[error("{0}")]
    Select(#[from] SelectError),
    /// `--chmod` is not a mode.
    #[error("{0}")]
    Mode(#[from] mode::ModeError),
    /// `--chown` names nobody.
    #[error("cannot find the owner")]
    Owner(#[source] wharf_runtime::RuntimeError),
    /// `--chown` has a name, and there is nothing to look names up in.
    #[error("cannot find the owner: there is no /{file} to look {name:?} up in; a number needs none")]
    NoAccounts {
        /// `etc/passwd` or `etc/group`.
        file: &'static str,
        /// The name.
        name: String,
    },
    /// A directory would replace something else.
    #[error("cannot copy to non-directory \"/{}\"", .0.display())]
    NotADirectory(PathBuf),
    /// Something else would replace a directory.
    #[error("cannot replace to directory \"/{}\" with file", .0.display())]
    IsADirectory(PathBuf),
    /// The source of a copy became something else before it was read.
    #[error("\"/{}\" of the source was replaced while it was copied", .0.display())]
    Replaced(PathBuf),
    /// The file system refused.
    #[error("cannot {operation} \"/{}\"", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// Where, in the file system being changed.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The archive could not be unpacked.
    #[error("cannot unpack \"/{}\"", archive.display())]
    Archive {
        /// The archive in its context.
        archive: PathBuf,
        /// Why.
        source: wharf_cache::diff::DiffError,
    },
    /// An operation this version does not do.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

/// Where the copies of an operation read from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The tree.
    pub tree: Tree<'a>,
    /// Whether it is a directory of the host: its owners do not count.
    pub local: bool,
}

/// What saves a copy the writing of files that an earlier one has made.
#[derive(Debug)]
pub struct Shared<'a> {
    /// The earlier files.
    pub sharing: &'a mut Sharing,
    /// What the files hold that are copied.
    pub known: &'a KnownFiles,
}

/// Makes one change to the file system `root`, where files belong to users by `ids`. `source` is what a copy reads from.
/// With `shared` it is the last one, and nobody looks at the files any more.
pub(super) fn execute(
    change: &FileChange,
    root: BorrowedFd<'_>,
    ids: Ids,
    source: Option<Source<'_>>,
    shared: Option<Shared<'_>>,
) -> Result<(), FileError> {
    let target = Target::new(root, ids);
    match change {
        FileChange::Copy(copy) => match source {
            Some(source) => copy::copy(&target, copy, &source, shared),
            None => Err(FileError::Unsupported("a copy without a source")),
        },
        FileChange::MkDir { path, mode, make_parents, owner } => {
            let owner = resolve_owner(root, owner.as_ref())?.unwrap_or((0, 0));
            let resolved = target.resolve(path)?;
            if !make_parents && resolved.stat.is_none() {
                target.require_parent(&resolved.path)?;
            }
            target.make_dirs(&resolved.path, *mode, owner)
        }
        FileChange::MkFile { path, mode, data, owner } => {
            let owner = resolve_owner(root, owner.as_ref())?.unwrap_or((0, 0));
            target.write_file(path, *mode, owner, data)
        }
        FileChange::Rm { allow_wildcard: true, .. } => Err(FileError::Unsupported("removing by wildcard")),
        FileChange::Rm { path, allow_not_found, .. } => target.remove(path, *allow_not_found),
        FileChange::Symlink { path, target: to, owner } => {
            let owner = resolve_owner(root, owner.as_ref())?.unwrap_or((0, 0));
            target.symlink(path, Path::new(to), owner)
        }
    }
}
