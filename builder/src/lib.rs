//! The `wharf` binary's library: wiring, and all talk with the outside.
//!
//! In: a command line. Out: an image, an archive, a directory, a running container; and words on the terminal.

mod awaited;
pub mod build;
mod certificates;
pub mod cli;
pub mod compose;
pub mod containers;
pub mod context;
pub mod csv;
pub mod error;
pub mod exporter;
pub mod history;
pub mod images;
pub mod layers;
pub mod limits;
pub mod networks;
pub mod progress;
pub mod registry;
pub mod remote;
pub mod secrets;
pub mod signals;
pub mod source;
pub mod ssh;
mod subsequence;
pub mod volumes;
pub mod worker;
