//! Snapshots: one directory a committed diff, stacked by kernel overlayfs.
//!
//! Words. A *snapshot* is a committed diff: an immutable directory `snapshots/<id>/` in overlayfs form (whiteout =
//! character device 0/0, opaque directory = xattr `trusted.overlay.opaque`). A *chain* is an ordered list of
//! snapshots, lowest first; it stands for the file system they give when stacked. An *active* snapshot is a diff
//! being written on top of a chain; it becomes a snapshot by `commit` or vanishes when dropped.
//!
//! Overlay mounts are *detached* (`fsmount` without `move_mount`): they have no place in any mount namespace, live
//! as long as their descriptor, and so disappear with the process however it dies.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::SystemTime;

use crate::{ChainId, ContentDigest, DiffId, Digest, Store, StoreError};

/// Name of a committed diff: 16 hex digits, random, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u64);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Snapshots from the lowest to the topmost; empty is `scratch`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Chain(pub Vec<SnapshotId>);

impl Chain {
    /// This chain with `top` put on it.
    pub fn with(&self, top: SnapshotId) -> Self {
        let mut ids = self.0.clone();
        ids.push(top);
        Self(ids)
    }
}

/// What the store knows of a committed diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// Content digest of the diff alone (not of what it is stacked on).
    pub content: ContentDigest,
    /// Sum of the regular files' sizes in bytes.
    pub size: u64,
    /// When it was committed; the `created` of its history entry.
    pub created: SystemTime,
}

/// A layer blob made from, or unpacked into, a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Digest of the (compressed) blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// OCI media type of the blob.
    pub media_type: String,
}

/// A diff being written on top of a chain. Dropped without commit it leaves nothing.
#[derive(Debug)]
pub struct Active {}

impl Active {
    /// The merged file system, read-write: root of a detached overlay mount over the chain (of the bare upper
    /// directory when the chain is empty). Mounted at the first call.
    pub fn root(&mut self) -> Result<BorrowedFd<'_>, SnapshotError> {
        todo!()
    }

    /// The bare upper directory, for writers that know nothing below is in the way (layer unpacking).
    pub fn upper(&self) -> BorrowedFd<'_> {
        todo!()
    }

    /// Ends the mount, hashes the diff, moves it under its final name and records it, atomically.
    /// `created` is the time kept for the history entry.
    pub fn commit(self, created: SystemTime) -> Result<Snapshot, SnapshotError> {
        let _ = created;
        todo!()
    }
}

impl Store {
    /// Starts a diff on top of `chain`.
    pub fn prepare(&self, chain: &Chain) -> Result<Active, SnapshotError> {
        let _ = chain;
        todo!()
    }

    /// The merged file system of `chain`, read-only, as the root of a detached mount (an empty directory for the
    /// empty chain, the snapshot's own directory when there is only one).
    pub fn view(&self, chain: &Chain) -> Result<OwnedFd, SnapshotError> {
        let _ = chain;
        todo!()
    }

    /// Content digest of the whole file system `chain` stands for: the diffs' content digests, folded. Needs no
    /// file access.
    pub fn chain_content(&self, chain: &Chain) -> Result<ContentDigest, SnapshotError> {
        let _ = chain;
        todo!()
    }

    /// The rows of a chain's snapshots in order; an error if one is missing.
    pub fn snapshots(&self, chain: &Chain) -> Result<Vec<Snapshot>, StoreError> {
        let _ = chain;
        todo!()
    }

    /// The layer that was made of (or unpacked into) snapshot `id` in `variant` (see [`crate::diff::Variant`]).
    pub fn layer(&self, id: SnapshotId, variant: &str) -> Result<Option<Layer>, StoreError> {
        let _ = (id, variant);
        todo!()
    }

    /// Remembers a layer of snapshot `id`; `chain_id` names the whole stack up to it.
    pub fn set_layer(
        &self,
        id: SnapshotId,
        variant: &str,
        chain_id: ChainId,
        layer: &Layer,
    ) -> Result<(), StoreError> {
        let _ = (id, variant, chain_id, layer);
        todo!()
    }

    /// A snapshot whose layer completes the stack `chain_id`, if one is here.
    pub fn snapshot_by_chain_id(&self, chain_id: &ChainId) -> Result<Option<SnapshotId>, StoreError> {
        let _ = chain_id;
        todo!()
    }
}

/// Why a snapshot could not be made, mounted or committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The kernel or file system refused an operation.
    #[error("cannot {operation} snapshot {object}")]
    Io { operation: &'static str, object: String, source: io::Error },
    /// More layers than overlayfs stacks (the kernel's limit is 500).
    #[error("{layers} layers are more than the {max} that overlayfs can stack")]
    TooManyLayers { layers: usize, max: usize },
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}
