//! Volumes, and everything else that a container has mounted: how it is asked for, where it is kept, how it gets there.

pub mod spec;
