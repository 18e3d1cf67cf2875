//! End-to-end and repository tests, one binary.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and says what it skips")]

mod add_url;
mod build;
mod cache;
mod check;
mod conformance;
mod contexts;
mod copy;
mod copy_matrix;
mod copy_rows;
mod damage;
mod errors;
mod export;
mod full_hit;
mod gc;
mod git;
mod git_fixture;
mod harness;
mod history;
mod hostile;
mod interrupt;
mod killed;
mod layers;
mod machine;
mod mounts;
mod offline;
mod registry;
mod registry_fixture;
mod remote;
mod s3;
mod s3_fixture;
mod standard_output;
mod tidy;
mod together;
mod travel;
mod tree;
