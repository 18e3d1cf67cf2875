//! What was built before: a row for each build, its description, lists of the files it read, logs of its steps.
//!
//! What a build consists of (its *graph*: steps and what their keys are made of) is kept once by digest, so that a build
//! of something unchanged adds one small row, which waits in a file for the next change of the database. Descriptions and lists are opaque here and belong to the builds that name
//! them: they go with the last one. Logs are files below `history/`.

mod logs;
mod pending;
mod rows;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use crate::{ContentDigest, Key};

pub use logs::{BuildLogs, LogChunk, LogError, LogStream, StepLog};

/// Builds that are kept.
pub const BUILDS_MAX: usize = 500;

/// Bytes of logs, descriptions and file lists that are kept; the last build stays in any case.
pub const HISTORY_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// The logs of one build; what its steps print beyond that is not kept.
pub const LOG_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A longer description or list is not kept, and one on disk is not unpacked.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Names a build; random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId(pub(crate) u64);

impl BuildId {
    /// A new one.
    pub fn random() -> std::io::Result<Self> {
        crate::store::random_u64().map(Self)
    }

    fn row_id(self) -> i64 {
        self.0.cast_signed()
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Why a text names no build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no id of a build: want 16 hex digits")]
pub struct ParseBuildIdError(String);

impl FromStr for BuildId {
    type Err = ParseBuildIdError;

    fn from_str(text: &str) -> Result<Self, ParseBuildIdError> {
        let is_id = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = if is_id { u64::from_str_radix(text, 16).ok() } else { None };
        number.map(Self).ok_or_else(|| ParseBuildIdError(text.chars().take(100).collect()))
    }
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BuildStatus {
    /// With a result.
    Succeeded,
    /// With an error.
    Failed,
    /// It was stopped.
    Cancelled,
}

impl BuildStatus {
    fn code(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::Failed => 1,
            Self::Cancelled => 2,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Succeeded,
            1 => Self::Failed,
            _ => Self::Cancelled,
        }
    }
}

/// A build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRow {
    /// Its name.
    pub id: BuildId,
    /// What it was a build of: equal for builds of one context and Dockerfile.
    pub project: Key,
    /// When it began.
    pub started: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// How it ended.
    pub status: BuildStatus,
    /// Digest of its graph's description.
    pub graph: Key,
    /// What came of it: opaque here.
    pub outcome: Vec<u8>,
    /// Bytes of its logs. Filled by the store.
    pub log_bytes: u64,
}

/// The description of a graph, as it is handed over to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGraph {
    /// The description.
    pub bytes: Vec<u8>,
    /// The file lists that go with it.
    pub lists: Vec<ContentDigest>,
    /// Those of them that were not kept yet.
    pub new_lists: Vec<(ContentDigest, Vec<u8>)>,
}

/// How much history there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Builds.
    pub builds_max: usize,
    /// Bytes of logs, descriptions and lists.
    pub bytes_max: u64,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { builds_max: BUILDS_MAX, bytes_max: HISTORY_BYTES_MAX }
    }
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct HistorySize {
    builds: usize,
    /// Of logs.
    log_bytes: u64,
    /// Of descriptions and lists.
    document_bytes: u64,
}

#[cfg(test)]
mod tests;
