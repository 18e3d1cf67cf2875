//! End-to-end and repository tests, one binary.
