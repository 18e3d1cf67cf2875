//! What `state.db` (SQLite, WAL) holds besides snapshots and layers: records, images, pins, the stat cache; and
//! the per-key locks.

use std::time::SystemTime;

use crate::{Chain, ContentDigest, Digest, Key, Store, StoreError};

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
pub struct KeyLock {}

impl Store {
    /// The record of `key`, if there is one and all its snapshots are here.
    pub fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let _ = key;
        todo!()
    }

    /// Stores the record under each of `keys` (definition and content key). `op` is the digest of the operation
    /// without its inputs.
    pub fn put_record(&self, keys: &[Key], op: &Key, record: &Record) -> Result<(), StoreError> {
        let _ = (keys, op, record);
        todo!()
    }

    /// Whether any record of operation `op` exists: without one a content key cannot hit.
    pub fn has_record_of(&self, op: &Key) -> Result<bool, StoreError> {
        let _ = op;
        todo!()
    }

    /// Waits until no other process or thread holds `key`'s lock, then takes it.
    pub fn lock_key(&self, key: &Key) -> Result<KeyLock, StoreError> {
        let _ = key;
        todo!()
    }

    /// Names an image (or records an untagged one), replacing what had the name; rewrites `index.json` atomically.
    pub fn put_image(&self, image: &Image) -> Result<(), StoreError> {
        let _ = image;
        todo!()
    }

    /// All images, newest first.
    pub fn images(&self) -> Result<Vec<Image>, StoreError> {
        todo!()
    }

    /// Takes an image's entry away, then deletes the blobs that no other image, pin or layer row needs.
    /// Returns the digests of deleted blobs.
    pub fn remove_image(&self, image: &Image) -> Result<Vec<Digest>, StoreError> {
        let _ = image;
        todo!()
    }

    /// What `reference` was last resolved to for `platform`.
    pub fn pin(&self, reference: &str, platform: &str) -> Result<Option<Pin>, StoreError> {
        let _ = (reference, platform);
        todo!()
    }

    /// Remembers a resolution.
    pub fn set_pin(&self, reference: &str, platform: &str, pin: &Pin) -> Result<(), StoreError> {
        let _ = (reference, platform, pin);
        todo!()
    }

    /// Content digests of the files among `stamps` that are known under exactly that stamp, in the same order.
    pub fn stat_cache_get(&self, stamps: &[FileStamp]) -> Result<Vec<Option<ContentDigest>>, StoreError> {
        let _ = stamps;
        todo!()
    }

    /// Remembers file digests. The caller must leave out files changed so recently that a later edit could keep
    /// the same stamp.
    pub fn stat_cache_put(&self, entries: &[(FileStamp, ContentDigest)]) -> Result<(), StoreError> {
        let _ = entries;
        todo!()
    }
}
