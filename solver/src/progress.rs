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
    Started {
        /// Which.
        vertex: VertexDigest,
        /// Display name.
        name: String,
    },
    /// A line or chunk of output.
    Log {
        /// Whose.
        vertex: VertexDigest,
        /// Which of its streams.
        stream: LogStream,
        /// The bytes as they came, cut anywhere.
        data: Vec<u8>,
    },
    /// How far a transfer within a vertex is.
    Status {
        /// Whose.
        vertex: VertexDigest,
        /// Names the transfer (a layer digest).
        id: String,
        /// Bytes so far.
        current: u64,
        /// All bytes, if that is known.
        total: Option<u64>,
        /// Whether it is over.
        done: bool,
    },
    /// Work on a vertex ended. Comes once per vertex, without `Started` before it when it was cached.
    Completed {
        /// Which.
        vertex: VertexDigest,
        /// Display name.
        name: String,
        /// How it ended.
        outcome: Outcome,
    },
    /// Something the user should know, shown once at the end.
    Warning {
        /// What.
        message: String,
    },
}

/// Where events go. Called from many threads; must not block for long.
pub trait Sink: Sync {
    /// Takes an event.
    fn send(&self, event: Event);
}
