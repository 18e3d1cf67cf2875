//! End-to-end and repository tests, one binary.

mod registry;
mod registry_fixture;
