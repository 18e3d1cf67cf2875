//! What can go wrong with a repository.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use wharf_cache::StoreError;
use wharf_cache::snapshot::SnapshotError;

use crate::source::OFFLINE_HINT;

/// Why a repository, or something of it, could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GitError {
    /// There is no git.
    #[error("there is no program `git` on this machine")]
    NoProgram,
    /// Nobody was asked: the build is offline.
    #[error("cannot {operation}: the build is offline")]
    Offline {
        /// What was to be done.
        operation: String,
    },
    /// Git could not be started.
    #[error("cannot start git to {operation}")]
    Start {
        /// What it was for.
        operation: String,
        /// Why not.
        source: io::Error,
    },
    /// Git failed.
    #[error("cannot {operation}: git ended with {status}{}", said(tail))]
    Failed {
        /// What it was to do.
        operation: String,
        /// How it ended.
        status: String,
        /// The last lines that it said.
        tail: Vec<String>,
    },
    /// Git's answer is not what it should be, or is too long.
    #[error("cannot {operation}: {reason}")]
    Answer {
        /// What it was to do.
        operation: String,
        /// What is wrong.
        reason: String,
    },
    /// The build was stopped.
    #[error("cancelled")]
    Cancelled,
    /// The address is none of a repository.
    #[error("`{url}` is not the address of a git repository: {reason}")]
    Url {
        /// The address, without credentials.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The source is described wrongly.
    #[error("git source `{url}`: {reason}")]
    Source {
        /// The address, without credentials.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The repository has nothing of that name.
    #[error("the repository `{url}` has no branch, tag or commit `{reference}`")]
    NoReference {
        /// The repository.
        url: String,
        /// What was looked for.
        reference: String,
    },
    /// The repository has no commit.
    #[error("the repository `{url}` is empty")]
    Empty {
        /// The repository.
        url: String,
    },
    /// The commit is another one than the checksum says.
    #[error("expected checksum to match {expected}, but {reference} of `{url}` is commit {actual}")]
    Checksum {
        /// The repository.
        url: String,
        /// What was looked up.
        reference: String,
        /// What it should be, or begin with.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The sub-directory is not there, or is no directory.
    #[error("commit {commit} of `{url}` has no directory `{directory}`")]
    NoDirectory {
        /// The repository.
        url: String,
        /// The commit.
        commit: String,
        /// What was looked for.
        directory: String,
    },
    /// A commit has more files than anybody has.
    #[error("commit {commit} of `{url}` has more than {max} {what}")]
    TooLarge {
        /// The repository.
        url: String,
        /// The commit.
        commit: String,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: u64,
    },
    /// A submodule could not be had.
    #[error("submodule `{path}` of `{url}`")]
    Submodule {
        /// The repository that has it.
        url: String,
        /// Where in that.
        path: String,
        /// Why not.
        source: Box<GitError>,
    },
    /// A submodule is described wrongly.
    #[error("{0}")]
    SubmoduleEntry(String),
    /// A secret cannot be read or used.
    #[error("cannot use the secret `{name}`")]
    Secret {
        /// Its id.
        name: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The file system refused.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The store's snapshots.
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    /// The store's database.
    #[error("{0}")]
    Store(#[from] StoreError),
}

fn said(tail: &[String]) -> String {
    if tail.is_empty() { String::new() } else { format!(": {}", tail.join("; ")) }
}

impl GitError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Offline { .. } => Some(OFFLINE_HINT),
            Self::NoProgram => Some("install it: the package is called `git` everywhere"),
            Self::Submodule { source, .. } => source.hint(),
            Self::Failed { tail, .. } => hint_of(&tail.join("\n")),
            Self::Checksum { .. } => Some("a checksum is a commit, or how one begins"),
            Self::SubmoduleEntry(_) => Some("`?submodules=false` leaves submodules out"),
            _ => None,
        }
    }

    /// Whether this may come of a repository of the store that is broken.
    pub(super) fn may_be_damage(&self) -> bool {
        match self {
            Self::Failed { .. } | Self::Answer { .. } | Self::Source { .. } => true,
            Self::NoReference { .. } | Self::Io { .. } => true,
            Self::NoProgram
            | Self::Offline { .. }
            | Self::Start { .. }
            | Self::Cancelled
            | Self::Url { .. }
            | Self::Empty { .. } => false,
            Self::Checksum { .. } | Self::NoDirectory { .. } | Self::TooLarge { .. } => false,
            Self::Submodule { .. } | Self::SubmoduleEntry(_) | Self::Secret { .. } => false,
            Self::Snapshot(_) | Self::Store(_) => false,
        }
    }

    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io { operation, path: path.into(), source: source.into() }
    }
}

/// What helps against the failures that happen every day, told by what git says (in English: it is asked to).
fn hint_of(said: &str) -> Option<&'static str> {
    const HINTS: [(&[&str], &str); 5] = [
        (
            &["terminal prompts disabled", "Authentication failed", "error: 401", "error: 403"],
            "for a private repository give a token: --secret id=GIT_AUTH_TOKEN,env=NAME",
        ),
        (&["Permission denied (publickey"], "give the build an SSH agent that has the key: --ssh default"),
        (
            &["Host key verification failed", "HOST IDENTIFICATION HAS CHANGED"],
            "the server has another key than ~/.ssh/known_hosts says",
        ),
        (&["ssh: not found", "cannot run ssh"], "install an SSH client: Debian's package is openssh-client"),
        (
            &[
                "unable to update url base from redirection",
                "error: 301",
                "error: 302",
                "error: 307",
                "error: 308",
            ],
            "credentials are not sent where a server redirects to: write the address that it redirects to",
        ),
    ];
    HINTS.iter().find(|(words, _)| words.iter().any(|word| said.contains(word))).map(|(_, hint)| *hint)
}
