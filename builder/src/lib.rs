//! The `wharf` binary's library: wiring, and all talk with the outside.
//!
//! In: a command line. Out: an image, an archive, a directory, a running container; and words on the terminal.

pub mod context;
pub mod exporter;
pub mod progress;
pub mod registry;
pub mod source;
