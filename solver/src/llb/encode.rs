//! The canonical encoding: version, type tag, length-framed fields in a fixed order, sorted maps. Digests and keys are
//! made from nothing else.

use super::{Op, Vertex, VertexDigest};

/// Digest of a vertex: its operation, platform and inputs; not its metadata.
pub fn vertex_digest(vertex: &Vertex) -> VertexDigest {
    let _ = vertex;
    todo!()
}

/// Canonical bytes of an operation, everything included.
pub fn op_bytes(op: &Op) -> Vec<u8> {
    let _ = op;
    todo!()
}
