//! What `state.db` (SQLite, WAL) holds besides snapshots and layers: records, images, pins, the stat cache; and
//! the per-key locks.

mod garbage;
mod git_refs;
mod images;
mod lock;
mod pins;
mod records;
pub(crate) mod stat_cache;
mod urls;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use crate::snapshot::SnapshotId;
use crate::{Chain, Digest};
pub(crate) use garbage::{digests, leased_blobs};
pub(crate) use images::import_index;
pub(crate) use lock::is_in_place;
pub(crate) use records::delete_records_naming;

/// A cache record: what a key led to. Failures are never recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// One chain for each output of the vertex.
    pub outputs: Vec<Chain>,
}

/// A named image of the store (one entry of `index.json`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Full name with tag, `docker.io/library/app:latest`; `None` for an untagged (dangling) image.
    pub name: Option<String>,
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// When it was put here.
    pub created: SystemTime,
}

/// What an image name was last resolved to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// What the name itself names: an index or a manifest. Used in `name@digest`.
    pub target: Digest,
    /// The manifest for the wanted platform; its blob is in the store.
    pub manifest: Digest,
    /// The image config; its blob is in the store.
    pub config: Digest,
}

/// What a URL gave when it was last downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlRecord {
    /// Its entity tag, without `W/`; empty if there was none.
    pub etag: String,
    /// `Last-Modified` as the server wrote it, where it tells versions apart; empty otherwise.
    pub last_modified: String,
    /// Digest of the bytes.
    pub digest: Digest,
    /// Name of the file in the snapshot.
    pub file_name: String,
    /// `Last-Modified` in seconds since 1970.
    pub modified_s: Option<i64>,
    /// The snapshot with the file.
    pub snapshot: SnapshotId,
}

/// What a branch, a tag or the beginning of a number stood for when its repository was asked last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitRef {
    /// Number of the commit or annotated tag, in hexadecimal.
    pub object: String,
    /// The full name of the ref, if it is one.
    pub reference: Option<String>,
}

/// Identity and stamp of a file, for the stat cache. A file whose stamp is equal has not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Change time, nanoseconds since the epoch.
    pub ctime_ns: i64,
}

/// Held while one process runs the step of a key; released by dropping, or by the holder's death.
#[derive(Debug)]
pub struct KeyLock {
    dir: Arc<OwnedFd>,
    name: String,
    file: OwnedFd,
}

#[cfg(test)]
mod tests;
