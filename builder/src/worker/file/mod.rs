//! Executes a `FileOp`: COPY, ADD, WORKDIR and heredoc files, without a process.

mod copy;
pub mod mode;
mod target;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use wharf_runtime::resolve_user;
use wharf_solver::llb::{FileChange, Owner, UserRef};

use crate::context::Tree;
use crate::context::select::SelectError;
pub(crate) use target::Target;

/// Why a file operation failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The source names nothing readable.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// `--exclude` is not a pattern.
    #[error("bad exclude pattern")]
    Pattern(#[from] wharf_frontend::dockerignore::PatternError),
    /// `--chmod` is not a mode.
    #[error(transparent)]
    Mode(#[from] mode::ModeError),
    /// `--chown` names nobody.
    #[error("cannot find the owner")]
    Owner(#[source] wharf_runtime::RuntimeError),
    /// A directory would replace something else, or the other way round.
    #[error("cannot {operation} \"/{}\"", path.display())]
    Conflict {
        /// What was refused.
        operation: &'static str,
        /// Where.
        path: PathBuf,
    },
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

/// Makes one change to the file system `root`. `source` is what a copy reads from.
pub(super) fn execute(
    change: &FileChange,
    root: BorrowedFd<'_>,
    source: Option<Source<'_>>,
) -> Result<(), FileError> {
    let target = Target::new(root);
    match change {
        FileChange::Copy(copy) => match source {
            Some(source) => copy::copy(&target, copy, &source),
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

/// Owner ids of `--chown`: names from the root's passwd and group; a number alone is also the group.
fn resolve_owner(root: BorrowedFd<'_>, owner: Option<&Owner>) -> Result<Option<(u32, u32)>, FileError> {
    let Some(owner) = owner else { return Ok(None) };
    let (uid, primary) = match &owner.user {
        UserRef::Id(uid) => (*uid, *uid),
        UserRef::Name(name) => {
            let user = resolve_user(root, name).map_err(FileError::Owner)?;
            (user.uid, user.gid)
        }
    };
    let gid = match &owner.group {
        None => primary,
        Some(UserRef::Id(gid)) => *gid,
        Some(UserRef::Name(name)) => resolve_user(root, &format!("0:{name}")).map_err(FileError::Owner)?.gid,
    };
    // The kernel takes this number for "leave it as it is".
    if uid == u32::MAX || gid == u32::MAX {
        return Err(FileError::Unsupported("an owner with the number 4294967295"));
    }
    Ok(Some((uid, gid)))
}
