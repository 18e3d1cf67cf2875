//! Everything wharf keeps on disk, by content: blobs, snapshots, layers, records.
//!
//! In: bytes, directory trees and layer tars. Out: digests, snapshots (a directory per committed diff) and
//! layer blobs. **Invariants:** the root is a valid OCI image layout at all times; a blob or snapshot is visible
//! only when it is whole; this crate never opens a network connection and never starts a process.

pub mod content;
pub mod contenthash;
pub mod diff;
pub mod digest;
pub mod gc;
pub mod history;
pub mod mounts;
pub mod owner;
mod repositories;
#[cfg(test)]
mod scratch;
mod setup;
pub mod snapshot;
pub mod state;
mod store;
pub mod walk;
mod write_back;

pub use digest::{ChainId, ContentDigest, DiffId, Digest, Key};
pub use setup::{Ids, Setup, Stacking};
pub use snapshot::{Chain, SnapshotId};
pub use store::{Damage, IdMap, Store, StoreError, from_nanos, to_nanos};
pub use write_back::WrittenBack;
