//! A repository of the user's own, around a directory: only when its last commit was made is of interest.

use std::ffi::OsStr;
use std::path::Path;

use wharf_runtime::Cancel;

use super::GitError;
use super::command::{Call, Runner};

/// A time and a digest.
const ANSWER_BYTES_MAX: usize = 1024;

/// When the last commit of the repository was made that `directory` is in (`SOURCE_DATE_EPOCH=git`), seconds since 1970.
pub fn last_commit_time(directory: &Path, cancel: &Cancel) -> Result<i64, GitError> {
    let operation = format!("find the last commit of the repository around `{}`", directory.display());
    // A relative path is the caller's, and git is started elsewhere.
    let directory = std::path::absolute(directory)
        .map_err(|source| GitError::Start { operation: operation.clone(), source })?;
    // Plumbing: what the repository's own config says of pagers, signatures and formats is not looked at.
    let arguments = ["rev-list", "--max-count=1", "--timestamp", "HEAD", "--"].map(OsStr::new);
    let arguments = [OsStr::new("-C"), directory.as_os_str()].into_iter().chain(arguments);
    let runner = Runner { cancel, log: &|_| {}, scratch: Path::new("/"), offline: true };
    let answer = runner.output(&Call::new(operation.clone(), arguments), ANSWER_BYTES_MAX);
    let answer = answer.map_err(|error| match error {
        GitError::Failed { tail, .. } if says(&tail, "not a git repository") => {
            GitError::Answer { operation: operation.clone(), reason: "there is no repository".to_owned() }
        }
        GitError::Failed { tail, .. } if says(&tail, "HEAD") => {
            GitError::Answer { operation: operation.clone(), reason: "it has no commit yet".to_owned() }
        }
        error => error,
    })?;
    let text = String::from_utf8_lossy(&answer);
    let seconds = text.split_whitespace().next().and_then(|seconds| seconds.parse().ok());
    seconds.ok_or_else(|| GitError::Answer { operation, reason: "git's answer has no time".to_owned() })
}

fn says(tail: &[String], words: &str) -> bool {
    tail.iter().any(|line| line.contains(words))
}
