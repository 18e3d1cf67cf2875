//! What enters a key, and what does not (the table comes here).

use wharf_cache::{ContentDigest, Key};

use crate::llb::{CopyAction, Vertex};

/// What a vertex reads from one of its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// The whole file system (the base of RUN and COPY).
    Whole,
    /// What these copies select (COPY's sources).
    Copies(Vec<CopyAction>),
    /// One path and all below it (a bind mount's source).
    Path(String),
}

/// Digest of the operation as far as it belongs in a key, inputs not included.
pub fn op_key(vertex: &Vertex) -> Key {
    let _ = vertex;
    todo!()
}

/// What `vertex` reads from each of its inputs, in the order of its inputs. Input 0 of a COPY that only contributes
/// the base is `Whole`.
pub fn reads(vertex: &Vertex) -> Vec<Vec<Reads>> {
    let _ = vertex;
    todo!()
}

/// The part of a key that stands for one input.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum InputKey {
    /// By definition: the input's own definition key and which output.
    Definition(Key, u32),
    /// By content: digests of what is read, in the order of [`reads`].
    Content(Vec<ContentDigest>),
}

/// A definition or content key.
pub fn key(op: &Key, inputs: &[InputKey]) -> Key {
    let _ = (op, inputs);
    todo!()
}
