//! The two doors through which the outside enters the solver.

use std::fmt;
use std::sync::Arc;

use wharf_cache::{Chain, ContentDigest, Key};

use crate::cache_map::{Reads, RecordKey};
use crate::llb::{SourceOp, Vertex, VertexDigest};

/// What an output of a vertex is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultRef {
    /// A local directory, read in place.
    Local(VertexDigest),
    /// An image (or layout) whose layers need not be here yet; `content` stands for its whole file system.
    Image {
        /// The source vertex.
        vertex: VertexDigest,
        /// Content digest of the image's file system.
        content: ContentDigest,
    },
    /// Snapshots in the store.
    Snapshots(Chain),
}

/// Does the work. Filled by `builder::worker`. Called from worker threads, several at once.
pub trait OpResolver: Sync {
    /// What an image source (`docker-image://`, `oci-layout://`) stands for, from metadata alone: nothing is
    /// transferred. Git and HTTP sources are pinned, and executed like any operation.
    fn resolve_source(&self, digest: &VertexDigest, vertex: &Vertex) -> Result<ResultRef, OpError>;

    /// What a source from the network that is no image (git, HTTP) stands for now: equal for equal files. Asked once for
    /// each, before any key is known, and part of the source's key; [`Self::execute`] then gives what was pinned.
    fn pin_source(&self, digest: &VertexDigest, vertex: &Vertex) -> Result<ContentDigest, OpError>;

    /// Content digest of what `reads` selects from `result`, an output of `vertex`. For a local source this walks the
    /// directory and is asked for before any key is known; a literal path that does not exist is an error.
    ///
    /// Never asked of a [`ResultRef::Image`]: its `content` stands for it
    /// ([`crate::cache_map::image_selection`]), so that no image is brought in only to learn a key.
    fn content_digest(
        &self,
        vertex: &Vertex,
        result: &ResultRef,
        reads: &Reads,
    ) -> Result<ContentDigest, OpError>;

    /// Brings an image's files into the store (pull and unpack) because a step needs them.
    fn materialize(
        &self,
        digest: &VertexDigest,
        vertex: &Vertex,
        result: &ResultRef,
    ) -> Result<Chain, OpError>;

    /// Executes the operation on its inputs (never `ResultRef::Image`): one chain for each output.
    fn execute(
        &self,
        digest: &VertexDigest,
        vertex: &Vertex,
        inputs: &[ResultRef],
    ) -> Result<Vec<Chain>, OpError>;
}

/// Remembers what keys led to. Filled by `builder` over [`wharf_cache::Store`]; a map in tests.
pub trait CacheManager: Sync {
    /// Outputs recorded under `key`.
    fn lookup(&self, key: &Key) -> Result<Option<Vec<Chain>>, OpError>;

    /// Whether any record of operation `op` exists at all: else no content key can hit and none is computed before
    /// running.
    fn knows_op(&self, op: &Key) -> Result<bool, OpError>;

    /// Records the outputs under every one of `keys`, with what these are made of.
    fn store(&self, keys: &[RecordKey], op: &Key, outputs: &[Chain]) -> Result<(), OpError>;

    /// Taken while the step of `key` runs; another process that wants the same waits here, then looks again.
    fn lock(&self, key: &Key) -> Result<Box<dyn Send>, OpError>;
}

/// Why a vertex failed: any error of the outside, shared because several goals may see it.
#[derive(Clone)]
pub struct OpError(pub Arc<dyn std::error::Error + Send + Sync>);

impl OpError {
    /// Wraps an error.
    pub fn new(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }
}

impl fmt::Debug for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for OpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Convenience for resolvers: the local name of a source.
pub fn local_name(source: &SourceOp) -> Option<&str> {
    source.is_local().then(|| source.name())
}
