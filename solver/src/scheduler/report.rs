//! What is said about every step when a solve is over, also when it failed.

use std::time::Duration;

use wharf_cache::{ContentDigest, Key};

use super::VertexOutcome;
use crate::llb::VertexDigest;
use crate::op::ResultRef;

/// What happened to one vertex, or in a plan ([`super::plan`]) what would.
///
/// Of [`crate::explain::Provenance`] it has what only the scheduler knows; [`crate::explain::provenance`] adds the rest, so
/// that a build nobody asks about pays nothing for it.
#[derive(Debug, Clone)]
pub struct StepReport<O = StepOutcome> {
    /// Which.
    pub vertex: VertexDigest,
    /// What became of it.
    pub outcome: O,
    /// Its outputs, if it has them.
    pub outputs: Vec<ResultRef>,
    /// Why not all records may stand for it, if so.
    pub ignored: Option<Ignored>,
    /// Which keys were asked for, in order.
    pub lookups: Vec<KeyLookup>,
    /// Key of its operation.
    pub op_key: Key,
    /// `None` for a local directory, and where the solve ended before keys were made.
    pub definition_key: Option<Key>,
    /// `None` where the content of some input is not known, and for what is its own content: directories and images.
    pub content_key: Option<Key>,
    /// What a source from the network that is no image stands for.
    pub pin: Option<ContentDigest>,
    /// Its inputs, in the order of the vertex's.
    pub inputs: Vec<InputReport>,
    /// When work on it began, by the clock of the solve; `None` if there was none.
    pub started: Option<Duration>,
    /// How long work on it took, the wait for another process that ran the same included.
    pub took: Duration,
}

/// One input of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputReport {
    /// Index of its report.
    pub step: usize,
    /// Which of its outputs.
    pub output: u32,
    /// For each selection ([`crate::cache_map::reads`]) its content digest, where somebody had to know it.
    pub content: Vec<Option<ContentDigest>>,
}

/// What became of a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepOutcome {
    /// Nobody had to look at it: a hit above it stands for it too.
    NotNeeded,
    /// The solve ended before its turn.
    NotReached,
    /// It has its result.
    Done(VertexOutcome),
    /// It failed; the error is the solve's.
    Failed,
    /// It was cut short because something else failed or the build was cancelled.
    Cancelled,
}

/// Why not all records may stand for a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// It ignores the cache.
    Itself,
    /// The step with this report does, and it depends on that one: only its content key was asked for.
    Upstream(usize),
}

/// A question to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyLookup {
    /// Which key.
    pub key: Key,
    /// What it is made of.
    pub kind: KeyKind,
    /// Whether there was a record.
    pub found: bool,
}

/// Which key of a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// The definition key.
    Definition,
    /// The content key.
    Content,
}

/// When work on a vertex was done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Work {
    pub(super) started: Option<Duration>,
    pub(super) took: Duration,
}

impl Work {
    /// Adds a task that ran alone.
    pub(super) fn add(&mut self, begun: Duration, ended: Duration) {
        self.started = Some(self.started.map_or(begun, |started| started.min(begun)));
        self.took += ended.saturating_sub(begun);
    }

    /// Adds one of several tasks that run side by side: what counts is from the first beginning to the last end.
    pub(super) fn cover(&mut self, begun: Duration, ended: Duration) {
        let started = self.started.map_or(begun, |started| started.min(begun));
        let end = self.started.map_or(ended, |started| (started + self.took).max(ended));
        *self = Self { started: Some(started), took: end.saturating_sub(started) };
    }
}
