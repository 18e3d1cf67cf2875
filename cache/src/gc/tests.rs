//! Tests of collection.
