//! Turns an [`llb::Definition`] into results: the graph, the cache keys, the scheduling, and why a step
//! had to run.
//!
//! In: a definition and an edge of it. Out: a result per output, and a report of every step. **Invariant:** this crate does no IO; the outside
//! enters only through [`op::OpResolver`] and [`op::CacheManager`], and events leave through [`progress::Sink`].

pub mod cache_map;
pub mod explain;
pub mod llb;
pub mod op;
pub mod progress;
pub mod scheduler;
