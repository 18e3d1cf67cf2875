//! The scheduler: one owner of all vertex states, workers that send events.
//!
//! First the local directories are digested and sources from the network pinned, because nothing has a key before that,
//! and every reachable vertex gets its definition key. Then the goals are demanded. A demanded vertex is looked up by its definition key; on a hit
//! nothing below it is looked at. On a miss its inputs are demanded, and when they are there it is looked up by content:
//! so a step whose inputs were rebuilt but came out the same stops the rebuild. Only then are images that it reads
//! brought in, and it runs.
//!
//! The caller's thread owns every state and also performs a task itself when it is the only one there is: a build
//! that has nothing to do in parallel starts no thread.

mod digests;
mod graph;
mod owner;
mod queue;
mod report;
mod state;
mod worker;

use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::llb::{Definition, Edge, VertexDigest};
use crate::op::{CacheManager, OpError, OpResolver, ResultRef};
use crate::progress::Sink;

use graph::Graph;
use owner::Owner;
pub use queue::Limits;
pub use report::{Ignored, InputReport, KeyKind, KeyLookup, StepOutcome, StepReport, Verdict};
use worker::{Pool, Worker};

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
    /// Told of each operation's chains as soon as it is complete (hit or run), so that later work on it can start
    /// while other vertices still run. Not told of images and local directories. Called on the solving thread:
    /// must not block.
    pub completed: &'a (dyn Fn(&VertexDigest, &[ResultRef]) + Sync),
    /// Says whether the build was cancelled; polled between tasks.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Called once when a vertex fails or the build was cancelled, to stop the running ones.
    pub cancel: &'a (dyn Fn() + Sync),
    /// How many tasks may run at once, whatever they do; 0 means 1.
    pub jobs: usize,
    /// How many of one kind may.
    pub limits: Limits,
    /// Time since some moment before the solve, for the reports.
    pub clock: &'a (dyn Fn() -> Duration + Sync),
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Solved {
    /// Result of each goal, in order, or the first failure.
    pub results: Result<Vec<ResultRef>, SolveError>,
    /// One report for each vertex that the goals can reach, inputs before the vertices that read them.
    pub steps: Vec<StepReport>,
}

/// What a solve would do.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Whether it could be found out.
    pub result: Result<(), SolveError>,
    /// One report for each vertex that the goals can reach, inputs before the vertices that read them.
    pub steps: Vec<StepReport<Verdict>>,
}

/// How a vertex got its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VertexOutcome {
    /// Its definition key was recorded, or an equal vertex of the graph gave the result.
    DefinitionHit,
    /// Its content key was recorded.
    ContentHit,
    /// It ran; an image's files were brought in.
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

/// What is wrong with a graph; comes as the [`OpError`] of a vertex.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Something reads an output that a vertex does not have.
    #[error("output {wanted} of `{name}` is wanted, but it has {outputs}")]
    MissingOutput {
        /// Display name of the vertex.
        name: String,
        /// How many outputs it has.
        outputs: usize,
        /// Number of the output that is read.
        wanted: usize,
    },
}

/// Solves: for every goal its result, or the first failure after all running work has stopped; and in either case what
/// happened to every vertex.
///
/// # Panics
/// If a goal is not in the definition, or when the resolver, cache or sink panics.
pub fn solve(solve: &Solve<'_>) -> Solved {
    with_owner(solve, |owner| owner.solve())
}

/// Says what [`solve`] would do, from the goals down. Nothing is executed, brought in or locked; directories are digested,
/// sources from the network pinned and images resolved, because keys are made of that. What the cache is asked for it may
/// take over from elsewhere by that: records of remote caches, without their files.
///
/// # Panics
/// If a goal is not in the definition, or when the resolver, cache or sink panics.
pub fn plan(solve: &Solve<'_>) -> Planned {
    with_owner(solve, |owner| owner.plan())
}

fn with_owner<T>(solve: &Solve<'_>, work: impl FnOnce(Owner<'_, '_>) -> T) -> T {
    let graph = Graph::reachable(solve.definition, solve.goals);
    let worker = Worker::new(solve, &graph);
    let (tasks, queue) = mpsc::channel();
    let queue = Mutex::new(queue);
    thread::scope(|scope| work(Owner::new(&worker, Pool::new(scope, &worker, tasks, &queue))))
}

#[cfg(test)]
mod tests;
