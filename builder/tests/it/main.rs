//! End-to-end and repository tests, one binary.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and says what it skips")]

mod build;
mod cache;
mod check;
mod copy;
mod damage;
mod errors;
mod export;
mod harness;
mod hostile;
mod interrupt;
mod layers;
mod registry;
mod registry_fixture;
mod tidy;
mod together;
mod tree;
