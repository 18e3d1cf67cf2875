//! A context that is a git repository.

use std::path::{Path, PathBuf};

use wharf_runtime::Cancel;

use super::spec::redacted;
use crate::error::{Failure, Kind};

/// A repository that is to be a context.
#[derive(Debug)]
pub struct GitContext<'a> {
    /// As written, with its fragment or query: see [`super::ContextSpec::Git`].
    pub url: &'a str,
    /// Whether `.git` stays (`BUILDKIT_CONTEXT_KEEP_GIT_DIR`).
    pub keep_git_dir: bool,
    /// An empty directory of this process, gone with it; what is brought here goes into it.
    pub scratch: &'a Path,
    /// Ends the transfer.
    pub cancel: &'a Cancel,
}

/// What became of it.
#[derive(Debug)]
pub struct Checkout {
    /// The directory that is the context: the sub-directory, if one was asked for.
    pub directory: PathBuf,
    /// Time of the commit, seconds since 1970 (`SOURCE_DATE_EPOCH=context`).
    pub committed_s: Option<i64>,
}

/// Brings the repository here.
pub fn checkout(context: &GitContext<'_>) -> Result<Checkout, Failure> {
    let message = format!("the context `{}` is a git repository", redacted(context.url));
    Err(Failure::new(Kind::Usage, message)
        .hint("contexts from git are not supported yet; clone it and give the directory"))
}
