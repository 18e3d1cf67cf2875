//! YAML in and out. Reading keeps the place of every node, resolves anchors, aliases and `<<`, and counts what these
//! make of the text; writing is for `compose config`.

mod merge_keys;
mod read;
mod scalar;
mod write;

pub(super) use read::read;
pub(super) use write::write;
