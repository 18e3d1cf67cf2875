//! From the mounts that a build used into a cache.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, Read};
use std::time::{Duration, Instant};

use wharf_cache::mounts::{Archive, CacheMount, Chunk, Exclusive, Fingerprint, MountName, Packed};
use wharf_cache::{Digest, Ids, Store};
use wharf_runtime::Cancel;

use super::{MOUNT_CHUNKS_MAX, MountEntry, MountError, MountLimit, UsedMounts};
use crate::remote::Backend;

/// How long an export waits for a mount that another build uses.
const WAIT: Duration = Duration::from_secs(10);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(20);

/// What a cache will hold.
#[derive(Debug, Default)]
pub struct MountExport {
    /// The mounts, in the order of their names.
    pub entries: Vec<MountEntry>,
    /// What could not be taken along, and why: the id of a mount, and the reason.
    pub left_out: Vec<(String, MountError)>,
}

/// A cache that mounts go into.
#[derive(Debug)]
pub struct Target<'a> {
    /// Where it is.
    pub backend: &'a dyn Backend,
    /// Which mounts it wants.
    pub limit: &'a MountLimit,
    /// The mounts that it has.
    pub before: &'a [MountEntry],
    /// Chunks that are stored again although it may say that it has them.
    pub damaged: HashSet<Digest>,
    /// Ends it before its time.
    pub cancel: &'a Cancel,
}

/// Packs the mounts that are `used` and wanted, and stores their chunks. Those that the cache had before and that did not
/// change, or were not used, stay as they are; so does one whose successor cannot be packed.
pub fn export(store: &Store, used: &UsedMounts, target: &Target<'_>) -> MountExport {
    let Target { limit, before, damaged, .. } = target;
    let mut entries: BTreeMap<MountName, MountEntry> =
        before.iter().map(|entry| (entry.name(), entry.clone())).collect();
    let chunks = before.iter().flat_map(|entry| &entry.chunks.chunks);
    let chunks = chunks.filter(|chunk| !damaged.contains(&chunk.digest));
    let known: HashMap<Digest, Chunk> = chunks.map(|chunk| (chunk.plain, chunk.clone())).collect();
    let (mut present, mut left_out) = (BTreeSet::new(), Vec::new());
    for (name, number) in used.all() {
        if target.cancel.is_cancelled() {
            break;
        }
        if !limit.wanted.includes(name.id()) {
            continue;
        }
        let packed = take(store, &name, number, target.cancel).and_then(|mount| match mount {
            Some(mount) => {
                pack(&mount, store.setup().ids, &name, entries.get(&name), &known, target).map(Some)
            }
            None => Ok(None),
        });
        match packed {
            Ok(Some(entry)) => {
                entries.insert(name.clone(), entry);
                present.insert(name);
            }
            Ok(None) => {}
            Err(error) => left_out.push((name.id().to_owned(), error)),
        }
    }
    shrink(&mut entries, &present, limit, &mut left_out);
    MountExport { entries: entries.into_values().collect(), left_out }
}

/// Takes an instance alone; `None` if it has gone.
fn take(
    store: &Store,
    name: &MountName,
    number: u32,
    cancel: &Cancel,
) -> Result<Option<CacheMount>, MountError> {
    let begun = Instant::now();
    loop {
        match store.try_exclusive_mount(name, number)? {
            Exclusive::Taken(mount) => return Ok(Some(mount)),
            Exclusive::Gone => return Ok(None),
            Exclusive::InUse if begun.elapsed() >= WAIT || cancel.is_cancelled() => {
                return Err(MountError::InUse);
            }
            Exclusive::InUse => std::thread::sleep(POLL),
        }
    }
}

/// The entry of a mount: the one `before` if it is the same.
fn pack(
    mount: &CacheMount,
    ids: Ids,
    name: &MountName,
    before: Option<&MountEntry>,
    known: &HashMap<Digest, Chunk>,
    Target { backend, limit, damaged, cancel, .. }: &Target<'_>,
) -> Result<MountEntry, MountError> {
    let fingerprint = Fingerprint::of(mount.root()).map_err(MountError::Look)?;
    let packed = mount.packed().filter(|packed| packed.fingerprint == fingerprint.digest());
    if let (Some(packed), Some(before)) = (packed, before)
        && packed.archive == before.chunks.identity()
    {
        return Ok(before.clone());
    }
    let (size, max) = (fingerprint.size_bytes(), limit.size_bytes_max);
    if size > max {
        return Err(MountError::TooLarge { size, max });
    }
    let known = |plain: &Digest| {
        // A cache may have lost what it once had.
        let chunk = known.get(plain)?;
        backend.has(&chunk.digest, chunk.size).ok().filter(|has| *has).map(|_| chunk.clone())
    };
    let put = |chunk: &Chunk, blob: Vec<u8>| {
        if cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        if !damaged.contains(&chunk.digest)
            && backend.has(&chunk.digest, chunk.size).map_err(io::Error::other)?
        {
            return Ok(());
        }
        let open = || Ok(Box::new(io::Cursor::new(blob.clone())) as Box<dyn Read + Send>);
        backend.put(&chunk.digest, chunk.size, &open).map_err(io::Error::other)
    };
    let archive = Archive::pack(mount.root(), ids, &known, &put)?;
    mount.remember_packed(&Packed { fingerprint: fingerprint.digest(), archive: archive.identity() });
    Ok(MountEntry::new(name, size, archive))
}

/// Leaves out what is too much: first what this build did not use, and of these the largest.
fn shrink(
    entries: &mut BTreeMap<MountName, MountEntry>,
    present: &BTreeSet<MountName>,
    limit: &MountLimit,
    left_out: &mut Vec<(String, MountError)>,
) {
    loop {
        let size: u64 = entries.values().fold(0, |sum, entry| sum.saturating_add(entry.size));
        let chunks: usize = entries.values().map(|entry| entry.chunks.chunks.len()).sum();
        if size <= limit.size_bytes_max && chunks <= MOUNT_CHUNKS_MAX {
            return;
        }
        let order = |(name, entry): &(&MountName, &MountEntry)| (!present.contains(*name), entry.size);
        let Some((name, _)) = entries.iter().max_by_key(order) else { return };
        let name = name.clone();
        entries.remove(&name);
        let error = MountError::TooLarge { size, max: limit.size_bytes_max };
        left_out.push((name.id().to_owned(), error));
    }
}
