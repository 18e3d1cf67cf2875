//! The scheduler: one owner of all vertex states, workers that send events.

use std::collections::HashMap;

use crate::llb::{Definition, Edge, VertexDigest};
use crate::op::{CacheManager, OpError, OpResolver, ResultRef};
use crate::progress::Sink;

/// What to solve and within which limits.
#[expect(missing_debug_implementations, reason = "holds trait objects")]
pub struct Solve<'a> {
    /// The graph.
    pub definition: &'a Definition,
    /// The outputs that are wanted. Only what they need is looked at.
    pub goals: &'a [Edge],
    /// Does the work.
    pub resolver: &'a dyn OpResolver,
    /// Remembers.
    pub cache: &'a dyn CacheManager,
    /// Hears what happens.
    pub progress: &'a dyn Sink,
    /// Told of each vertex's chains as soon as it is complete (hit or run), so that later work on it can start
    /// while other vertices still run.
    pub completed: &'a (dyn Fn(&VertexDigest, &[ResultRef]) + Sync),
    /// Says whether the build was cancelled; polled between tasks.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Called once when a vertex fails, to stop the running ones.
    pub cancel: &'a (dyn Fn() + Sync),
    /// How many operations may run at once.
    pub jobs: usize,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Solved {
    /// Result of each goal, in order.
    pub results: Vec<ResultRef>,
    /// Vertices that were executed, and those that were hits, for tests and reports.
    pub outcomes: HashMap<VertexDigest, VertexOutcome>,
}

/// How a vertex got its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VertexOutcome {
    /// Its definition key was recorded.
    DefinitionHit,
    /// Its content key was recorded.
    ContentHit,
    /// It ran.
    Executed,
    /// Metadata only (a source that was never brought in).
    Lazy,
}

/// Why there is no result: the first vertex that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// A vertex failed.
    #[error("{error}")]
    Vertex {
        /// Which.
        vertex: VertexDigest,
        /// Why.
        #[source]
        error: OpError,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// Solves: for every goal its result, or the first failure after all running work has stopped.
pub fn solve(solve: &Solve<'_>) -> Result<Solved, SolveError> {
    let _ = solve;
    todo!()
}
