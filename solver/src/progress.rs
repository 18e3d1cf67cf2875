//! Events that leave the solver (and everything else that takes time) while a build runs.

use crate::llb::VertexDigest;

/// Which stream of a process a log chunk came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a vertex ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ran.
    Done,
    /// The cache had it.
    Cached,
    /// It was stopped because something else failed or the build was cancelled.
    Cancelled,
    /// It failed, for this reason.
    Failed(String),
}

/// Something that happened. Times are stamped by the receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Work on a vertex (or an internal step, which has a digest made from its name) began.
    Started { vertex: VertexDigest, name: String },
    /// A line or chunk of output.
    Log { vertex: VertexDigest, stream: LogStream, data: Vec<u8> },
    /// How far a transfer within a vertex is: `id` names it (a layer digest), amounts are bytes.
    Status { vertex: VertexDigest, id: String, current: u64, total: Option<u64>, done: bool },
    /// Work on a vertex ended. Comes once per vertex, without `Started` before it when it was cached.
    Completed { vertex: VertexDigest, name: String, outcome: Outcome },
    /// Something the user should know, shown once at the end.
    Warning { message: String },
}

/// Where events go. Called from many threads; must not block for long.
pub trait Sink: Sync {
    /// Takes an event.
    fn send(&self, event: Event);
}
