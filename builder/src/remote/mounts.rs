//! Cache mounts that travel.
//!
//! At the end of a build the mounts that its steps used are packed ([`Archive`]) and their chunks stored beside the layers of
//! a cache; the manifest has a [`MountEntry`] for each. A step that wants a mount that is not here gets it unpacked from
//! the first cache that has it. What a mount holds is part of no key: a mount that cannot be had is an empty one.

mod export;
mod import;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use wharf_cache::ContentDigest;
use wharf_cache::mounts::{Archive, ArchiveError, CHUNKS_MAX, Chunk, MountName};

use super::Backend;
use crate::registry::transfer::each_at_once;

pub use export::{MountExport, Target, export};
pub use import::{MountError, import};

/// A mount as a cache holds it. Its name follows from what it is made of, so that no cache can say that it has another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountEntry {
    /// What the Dockerfile calls it.
    pub id: String,
    /// What it began with, if it did not begin empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<ContentDigest>,
    /// Mode, user and group that were asked for.
    pub owner: [Option<u32>; 3],
    /// Bytes of its files.
    pub size: u64,
    /// What it is put together from.
    pub chunks: Archive,
}

/// The longest id.
const ID_BYTES_MAX: usize = 4096;

impl MountEntry {
    /// The mount `name`, packed.
    pub fn new(name: &MountName, size: u64, chunks: Archive) -> Self {
        let (id, seed, owner) = (name.id().to_owned(), name.seed().copied(), name.owner());
        Self { id, seed, owner, size, chunks }
    }

    /// Which mount it is.
    pub fn name(&self) -> MountName {
        MountName::new(&self.id, self.seed.as_ref(), self.owner)
    }

    /// Whether a place has all that it is put together from.
    pub fn is_in(&self, backend: &dyn Backend) -> bool {
        let there = |chunk: &Chunk| match backend.has(&chunk.digest, chunk.size) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(()),
        };
        each_at_once(&self.chunks.chunks, there).is_ok()
    }

    /// Refuses what nobody here would have made.
    pub fn check(&self) -> Result<(), ArchiveError> {
        let refused = |why: &str| Err(ArchiveError::Refused(why.to_owned()));
        if self.id.len() > ID_BYTES_MAX {
            return refused("has too long a name");
        }
        // Headers, and times that need more than one block.
        if self.size > self.chunks.plain_size() {
            return refused("is smaller than its files");
        }
        self.chunks.check()
    }
}

/// The most chunks of all mounts of one cache: the manifest names each, and registries take no larger ones.
pub const MOUNT_CHUNKS_MAX: usize = 12_000;
const _: () = assert!(MOUNT_CHUNKS_MAX <= CHUNKS_MAX);

/// The mounts that steps of a build used, and which instance of each.
#[derive(Debug, Default)]
pub struct UsedMounts(Mutex<BTreeMap<MountName, u32>>);

impl UsedMounts {
    /// A step has used an instance. Of several the first one travels.
    pub fn add(&self, name: &MountName, number: u32) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = used.entry(name.clone()).or_insert(number);
        *first = number.min(*first);
    }

    /// All so far.
    fn all(&self) -> BTreeMap<MountName, u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Which cache mounts travel, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLimit {
    /// Which ones.
    pub wanted: Wanted,
    /// Bytes that their files may have together.
    pub size_bytes_max: u64,
}

impl MountLimit {
    /// The limit if none was given.
    pub const SIZE_BYTES_MAX: u64 = 10 << 30;
}

/// Which cache mounts travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// None.
    None,
    /// All that steps use.
    All,
    /// Those with these ids.
    Ids(Vec<String>),
}

impl Wanted {
    /// `none`, `all`, or ids with `,` or `;` between them.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => return Ok(Self::None),
            "all" => return Ok(Self::All),
            _ => {}
        }
        let ids: Vec<String> = text.split([',', ';']).map(str::to_owned).collect();
        if ids.iter().any(String::is_empty) {
            return Err(format!("`mounts={text}` is neither none nor all nor ids of cache mounts"));
        }
        Ok(Self::Ids(ids))
    }

    /// Whether a mount with this id travels.
    pub fn includes(&self, id: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Ids(ids) => ids.iter().any(|wanted| wanted == id),
        }
    }
}
