//! `--cache-from`: what is not in the store is looked for elsewhere.
//!
//! A place is asked for its manifest once, when the first key is missed. A hit makes rows of lazy snapshots; their layers
//! are brought when a step reads the files or an image is made of them. A place whose layers cannot be had, or are not
//! what it said, is not used any further: what it gave is forgotten and the build is solved again.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write as _};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};
use wharf_cache::content::{BlobWriter, ContentError};
use wharf_cache::diff::{self, DiffError, LayerSource, check_layer};
use wharf_cache::mounts::{ArchiveError, MountName, Packed};
use wharf_cache::snapshot::{Layer, LazyLayer, SnapshotError};
use wharf_cache::state::Record;
use wharf_cache::{
    Chain, ContentDigest, DiffId, Digest, Ids, Key, SnapshotId, Store, StoreError, from_nanos,
};
use wharf_runtime::Cancel;

use super::manifest::{CacheConfig, CacheLayer, CacheRecord};
use super::mounts::{self, MountError, MountLimit};
use super::{Backend, BackendError, Loaded, load};
use crate::error::{causes, chain, is_disk_full};
use crate::progress::Progress;
use crate::registry::RegistryError;
use crate::registry::transfer::{Meter, each_at_once};
use crate::source::{Cancellable, transfer_events};

/// The caches that a build may look into.
#[derive(Debug)]
pub struct Imports<'a> {
    store: Store,
    progress: &'a Progress,
    places: Vec<Place>,
    /// Set when the manifests have been read, or it was tried.
    loaded: OnceLock<()>,
    /// Held while layers are brought: what several steps want comes once.
    bringing: Mutex<()>,
    answers: Mutex<Vec<Answer>>,
    unused: Mutex<Vec<Unused>>,
    /// Whether the store gets no records of what is found.
    only_looks: bool,
    /// Layers and chunks of cache mounts that could not be had, or were not what they should be.
    damaged: Mutex<HashSet<Digest>>,
}

/// What was asked of a place, for who wants to know why a step ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The place.
    pub place: String,
    /// The key it was asked for.
    pub key: Key,
    /// Whether it had a record.
    pub found: bool,
}

/// A place that is not asked, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unused {
    /// The place.
    pub place: String,
    /// Why not.
    pub reason: String,
}

#[derive(Debug)]
struct Place {
    backend: Arc<dyn Backend>,
    mounts: MountLimit,
    cache: OnceLock<Index>,
    /// It has failed, or lied.
    dropped: AtomicBool,
}

/// A cache, to be looked into.
#[derive(Debug)]
struct Index {
    config: CacheConfig,
    records: HashMap<Key, usize>,
    ops: HashSet<Key>,
    blobs: HashMap<Digest, u64>,
    mounts: HashMap<MountName, usize>,
}

/// Why what a cache promised is not here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// It has been forgotten; the build can be solved again without it.
    #[error("a layer of the cache cannot be had")]
    Lost(#[source] StoreError),
    /// This machine could not take it.
    #[error("{0}")]
    Unpack(#[from] DiffError),
    /// The store's blobs.
    #[error("{0}")]
    Content(#[from] ContentError),
    /// The store's database.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The build was stopped.
    #[error("cancelled")]
    Cancelled,
}

impl From<ImportError> for DiffError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Unpack(error) => error,
            ImportError::Content(error) => error.into(),
            ImportError::Lost(error) | ImportError::Store(error) => error.into(),
            ImportError::Cancelled => {
                Self::Read { object: "the layers of the cache".to_owned(), source: io::Error::other(error) }
            }
        }
    }
}

impl<'a> Imports<'a> {
    /// Will look into these places, in this order, and bring of each the cache mounts that are said.
    pub fn new(store: Store, progress: &'a Progress, backends: Vec<(Arc<dyn Backend>, MountLimit)>) -> Self {
        let place = |(backend, mounts)| Place {
            backend,
            mounts,
            cache: OnceLock::new(),
            dropped: AtomicBool::new(false),
        };
        Self {
            store,
            progress,
            places: backends.into_iter().map(place).collect(),
            loaded: OnceLock::new(),
            bringing: Mutex::default(),
            answers: Mutex::default(),
            unused: Mutex::default(),
            only_looks: false,
            damaged: Mutex::default(),
        }
    }

    /// The same; `places` are those that are not looked into, and why.
    pub fn leaving_out(self, places: Vec<Unused>) -> Self {
        Self { unused: Mutex::new(places), ..self }
    }

    /// From now on for who does not build: the store gets no record of what is found.
    pub fn only_look(&mut self) {
        self.only_looks = true;
    }

    /// The outputs that a place has recorded under `key`, as lazy snapshots of the store, which has the record then.
    pub fn lookup(&self, key: &Key) -> Result<Option<Vec<Chain>>, StoreError> {
        for (place, index) in self.usable() {
            let found = index.records.contains_key(key);
            let answer = Answer { place: place.backend.name(), key: *key, found };
            self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
            if found {
                break;
            }
        }
        Ok(self.find(key)?.map(|record| record.outputs))
    }

    /// The same for who does not build: nobody is to be told that it was asked.
    pub fn find(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        for (_, index) in self.usable() {
            if let Some(number) = index.records.get(key) {
                return self.adopt(&index.config.layers, &index.config.records[*number]).map(Some);
            }
        }
        Ok(None)
    }

    /// Whether a place has a record of operation `op`.
    pub fn knows_op(&self, op: &Key) -> bool {
        self.usable().any(|(_, index)| index.ops.contains(op))
    }

    /// Whether a place says that it has a blob.
    pub fn offers(&self, digest: &Digest, size: u64) -> bool {
        self.usable().any(|(_, index)| index.blobs.get(digest) == Some(&size))
    }

    /// What was asked of which place so far.
    pub fn answers(&self) -> Vec<Answer> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The places that were not asked so far, or are not any more.
    pub fn unused(&self) -> Vec<Unused> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is recorded in the places whose manifests have been read. Reads none: who has found all needs none.
    pub fn loaded(&self) -> impl Iterator<Item = (String, &[CacheRecord])> {
        self.read_places().map(|(place, index)| (place.backend.name(), &*index.config.records))
    }

    /// Opens a blob that some place offers.
    pub fn open(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, BackendError> {
        self.open_at(digest, size).map(|(_, reader)| reader)
    }

    /// Unpacks a cache mount into the empty directory `root`, from the first place that has it; `None`, and `root` is empty
    /// still, when none has it or it cannot be had. That is no failure: the mount is cold, which costs time. Fails only
    /// when the build is stopped: then it is not known whether the mount can be had.
    pub fn bring_mount(
        &self,
        name: &MountName,
        root: BorrowedFd<'_>,
        ids: Ids,
        cancel: &Cancel,
    ) -> Result<Option<Packed>, ImportError> {
        for (place, index) in self.usable().filter(|(place, _)| place.mounts.wanted.includes(name.id())) {
            let Some(entry) = index.mounts.get(name).map(|number| &index.config.mounts[*number]) else {
                continue;
            };
            let (id, from) = (name.id(), place.backend.name());
            let brought = self.progress.internal(&format!("importing cache mount {id} from {from}"), || {
                let is_cancelled = || cancel.is_cancelled();
                let limit = place.mounts.size_bytes_max;
                mounts::import(entry, &*place.backend, (root, ids), limit, &is_cancelled)
            });
            match brought {
                Ok(packed) => return Ok(Some(packed)),
                Err(_) if cancel.is_cancelled() => return Err(ImportError::Cancelled),
                Err(error) => {
                    if let MountError::Archive(ArchiveError::Chunk { digest, .. }) = &error {
                        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest);
                    }
                    let why = causes(&error);
                    let message =
                        format!("warning: the cache mount {id} of the cache in {from} was not used: {why}");
                    self.progress.warn(message);
                }
            }
        }
        Ok(None)
    }

    /// Whether no place must be believed to have this blob.
    pub fn is_damaged(&self, digest: &Digest) -> bool {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    /// All such blobs.
    pub fn damaged(&self) -> HashSet<Digest> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Brings the files of the lazy snapshots of `chain`.
    pub fn bring_files(&self, chain: &Chain, cancel: &Cancel) -> Result<(), ImportError> {
        if self.store.lazy_layers(chain)?.is_empty() {
            return Ok(());
        }
        let _alone = self.bringing.lock().unwrap_or_else(PoisonError::into_inner);
        let lazy = self.store.lazy_layers(chain)?;
        if lazy.is_empty() {
            return Ok(());
        }
        let used = Mutex::new(HashSet::new());
        let filled = self.transferring(|meter| {
            let open = |layer: &LayerSource| -> io::Result<Box<dyn Read + Send>> {
                let LayerSource { digest, size, .. } = layer;
                let (place, reader) = self.open_at(digest, *size).map_err(io::Error::other)?;
                used.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
                let reader = meter.wrap(reader, *digest, *size).ending();
                Ok(Box::new(Cancellable::new(Box::new(reader), cancel.clone())))
            };
            diff::fill(&self.store, chain, &open)
        });
        match filled {
            Ok(()) => Ok(()),
            Err(_) if cancel.is_cancelled() => Err(ImportError::Cancelled),
            Err(error) if is_their_fault(&error) => {
                let used = used.into_inner().unwrap_or_else(PoisonError::into_inner);
                self.blame(lazy.iter().map(|(_, layer)| layer.digest).collect(), used, &error);
                // Some may have been filled before it failed.
                self.forget(&self.store.lazy_layers(chain)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Brings the blobs of `layers`, those of `chain`, that are not in the store and that a place offers.
    pub fn bring_blobs(&self, chain: &Chain, layers: &[Layer], cancel: &Cancel) -> Result<(), ImportError> {
        let blobs = self.store.blobs();
        let mut missing: Vec<&Layer> = Vec::new();
        for layer in layers {
            let is_new = missing.iter().all(|other| other.digest != layer.digest);
            if is_new
                && blobs.size(&layer.digest)? != Some(layer.size)
                && self.offers(&layer.digest, layer.size)
            {
                missing.push(layer);
            }
        }
        if !missing.is_empty() {
            let used = Mutex::new(HashSet::new());
            let brought = self.transferring(|meter| {
                each_at_once(&missing, |layer| self.bring_blob(layer, &meter, cancel, &used))
            });
            match brought {
                Err(_) if cancel.is_cancelled() => return Err(ImportError::Cancelled),
                Err(error) if is_their_fault(&error) => {
                    let used = used.into_inner().unwrap_or_else(PoisonError::into_inner);
                    self.blame(missing.iter().map(|layer| layer.digest).collect(), used, &error);
                }
                done => done?,
            }
        }
        // Without its blob a lazy snapshot is nothing.
        let mut lost = Vec::new();
        for (id, layer) in self.store.lazy_layers(chain)? {
            if blobs.size(&layer.digest)? != Some(layer.size) {
                lost.push((id, layer));
            }
        }
        if lost.is_empty() { Ok(()) } else { self.forget(&lost) }
    }

    fn bring_blob(
        &self,
        layer: &Layer,
        meter: &Meter,
        cancel: &Cancel,
        used: &Mutex<HashSet<usize>>,
    ) -> Result<(), DiffError> {
        let failed = |source| DiffError::Read { object: format!("layer {}", layer.digest), source };
        let (place, reader) =
            self.open_at(&layer.digest, layer.size).map_err(|error| failed(io::Error::other(error)))?;
        used.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
        let reader = meter.wrap(reader, layer.digest, layer.size).ending();
        let reader = Cancellable::new(Box::new(reader), cancel.clone());
        let mut writer = self.store.blobs().writer()?;
        // An image is made of the blob as it is: nobody else looks whether it is the layer that it is said to be.
        let said = LayerSource {
            digest: layer.digest,
            size: layer.size,
            media_type: layer.media_type.clone(),
            diff_id: layer.diff_id,
        };
        check_layer(&said, Kept { reader, writer: &mut writer })?;
        Ok(writer.commit_expecting(&layer.digest, layer.size)?)
    }

    /// Shows a transfer as a step of the build.
    fn transferring<T>(&self, work: impl FnOnce(Meter) -> Result<T, DiffError>) -> Result<T, DiffError> {
        self.progress.internal_with("importing layers from the cache", |digest| {
            let report = transfer_events(digest, self.progress);
            Meter::run(&report, work)
        })
    }

    /// The places that can be asked, their manifests read.
    fn usable(&self) -> impl Iterator<Item = (&Place, &Index)> {
        self.loaded.get_or_init(|| self.load());
        self.read_places()
    }

    /// The places that can be asked as far as their manifests have been read.
    fn read_places(&self) -> impl Iterator<Item = (&Place, &Index)> {
        self.places.iter().filter_map(|place| {
            let index = place.cache.get()?;
            (!place.dropped.load(Ordering::Relaxed)).then_some((place, index))
        })
    }

    /// Reads the manifests of all places at once.
    fn load(&self) {
        thread::scope(|scope| {
            for place in &self.places {
                let load = || self.load_place(place);
                let spawned = thread::Builder::new().name("cache-from".to_owned()).spawn_scoped(scope, load);
                if spawned.is_err() {
                    load();
                }
            }
        });
    }

    fn load_place(&self, place: &Place) {
        let name = place.backend.name();
        let step = format!("importing cache manifest from {name}");
        let loaded = self.progress.internal(&step, || Ok::<_, BackendError>(load(&*place.backend)));
        match loaded.and_then(|loaded| loaded) {
            Ok(Some(Loaded { cache, .. })) => {
                if cache.refused > 0 {
                    let refused = cache.refused;
                    self.progress.warn(format!(
                        "warning: {refused} records of the cache in {name} were refused: their keys are not those of \
                         what they say they are made of"
                    ));
                }
                // Set once: places are loaded once.
                let _ = place.cache.set(Index::new(cache.config));
            }
            Ok(None) => {
                self.progress.warn(format!("warning: there is no cache in {name} yet"));
                self.leave_out(name, "there is none yet".to_owned());
            }
            Err(error) => {
                let why = causes(&error);
                // Where the build itself ends there is nothing to be warned of.
                if !is_interrupted(&error) {
                    self.progress.warn(format!("warning: the cache in {name} was not used: {why}"));
                }
                self.leave_out(name, why);
            }
        }
    }

    fn leave_out(&self, place: String, reason: String) {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner).push(Unused { place, reason });
    }

    /// Makes what a record describes a record of the store.
    fn adopt(&self, layers: &[CacheLayer], record: &CacheRecord) -> Result<Record, StoreError> {
        let describe = |chain: &Vec<u32>| {
            // Every index leads to a layer: the cache was checked.
            let layers = chain.iter().filter_map(|index| layers.get(usize::try_from(*index).ok()?));
            self.store.describe_chain(&layers.map(lazy_layer).collect::<Vec<_>>())
        };
        let outputs = record.outputs.iter().map(describe).collect::<Result<Vec<_>, _>>()?;
        let mut keys = Vec::new();
        for key in &record.keys {
            // A result of this machine's own stays.
            if self.store.record(&key.key)?.is_none() {
                keys.push((key.key, serde_json::to_vec(&key.inputs).ok()));
            }
        }
        let adopted = Record { outputs };
        if !self.only_looks {
            self.store.put_record_made_of(&keys, &record.op, &adopted)?;
        }
        Ok(adopted)
    }

    /// Opens a blob at the first place that gives it.
    fn open_at(&self, digest: &Digest, size: u64) -> Result<(usize, Box<dyn Read + Send>), BackendError> {
        let mut failure = None;
        for (place, index) in self.usable() {
            if index.blobs.get(digest) != Some(&size) {
                continue;
            }
            let number = self.places.iter().position(|other| std::ptr::eq(other, place)).unwrap_or_default();
            match place.backend.blob(digest, size) {
                Ok(reader) => return Ok((number, reader)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| {
            BackendError::of("find", format!("blob {digest}"))("no cache of this build has it any more")
        }))
    }

    /// The places that gave what was wrong are not used any more; if none got so far, all that promised one of `layers`.
    fn blame(&self, layers: HashSet<Digest>, used: HashSet<usize>, error: &DiffError) {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).extend(&layers);
        for (number, place) in self.places.iter().enumerate() {
            let promised = |index: &Index| layers.iter().any(|layer| index.blobs.contains_key(layer));
            let to_blame = match used.is_empty() {
                true => place.cache.get().is_some_and(promised),
                false => used.contains(&number),
            };
            if to_blame && !place.dropped.swap(true, Ordering::Relaxed) {
                let (name, why) = (place.backend.name(), causes(error));
                self.progress.warn(format!("warning: the cache in {name} is not used any further: {why}"));
                let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.retain(|answer| answer.place != name);
                self.leave_out(name, why);
            }
        }
    }

    /// Forgets what cannot be had.
    fn forget(&self, lazy: &[(SnapshotId, LayerSource)]) -> Result<(), ImportError> {
        let Some((first, _)) = lazy.first() else { return Ok(()) };
        for (id, _) in lazy {
            self.store.drop_lazy_snapshot(*id)?;
        }
        Err(ImportError::Lost(StoreError::Lost { id: *first }))
    }
}

impl Index {
    fn new(config: CacheConfig) -> Self {
        let mut records = HashMap::new();
        for (number, record) in config.records.iter().enumerate() {
            for key in &record.keys {
                // The first record of a key counts.
                records.entry(key.key).or_insert(number);
            }
        }
        Self {
            ops: config.records.iter().map(|record| record.op).collect(),
            mounts: config.mounts.iter().enumerate().map(|(number, mount)| (mount.name(), number)).collect(),
            blobs: config.layers.iter().map(|layer| (layer.digest, layer.size)).collect(),
            records,
            config,
        }
    }
}

/// Keeps what is read.
struct Kept<'w, R> {
    reader: R,
    writer: &'w mut BlobWriter,
}

impl<R: Read> Read for Kept<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.writer.write_all(&buffer[..count])?;
        Ok(count)
    }
}

fn lazy_layer(layer: &CacheLayer) -> LazyLayer {
    let CacheLayer {
        digest,
        size,
        media_type,
        diff_id,
        content,
        unpacked_size,
        created_ns,
        variant,
        annotations,
    } = layer;
    LazyLayer {
        layer: Layer {
            diff_id: DiffId(*diff_id),
            digest: *digest,
            size: *size,
            media_type: media_type.clone(),
            annotations: annotations.clone(),
        },
        variant: variant.clone(),
        content: ContentDigest(content.0),
        size: *unpacked_size,
        created: from_nanos(*created_ns),
    }
}

/// Whether nobody waited for an answer any more.
fn is_interrupted(error: &BackendError) -> bool {
    let mut registry = chain(error).filter_map(|error| error.downcast_ref());
    registry.any(|error| matches!(error, RegistryError::Interrupted { .. }))
}

/// Whether a layer is not what it was said to be, or could not be read where it is kept; not so when this machine's disk
/// is full or its store fails.
fn is_their_fault(error: &DiffError) -> bool {
    match error {
        _ if is_disk_full(error) => false,
        DiffError::Mismatch { .. } | DiffError::Entry { .. } => true,
        DiffError::Content(ContentError::Mismatch { .. }) => true,
        DiffError::Snapshot(SnapshotError::Described { .. }) => true,
        DiffError::Read { source, .. } => !is_of_this_store(source),
        _ => false,
    }
}

/// Whether what could not be read or written is a blob of this machine's store.
fn is_of_this_store(error: &io::Error) -> bool {
    use ContentError::{Damaged, Io, NotFound};
    chain(error)
        .any(|error| matches!(error.downcast_ref(), Some(Damaged { .. } | NotFound { .. } | Io { .. })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_fault(source: io::Error, expected: bool) {
        let error = DiffError::Read { object: "layer".to_owned(), source };
        assert_eq!(is_their_fault(&error), expected, "{error:?}");
    }

    #[test]
    fn what_this_machine_cannot_take_is_nobody_elses_fault() {
        check_fault(io::ErrorKind::UnexpectedEof.into(), true);
        check_fault(io::ErrorKind::StorageFull.into(), false);
        check_fault(io::Error::other(io::Error::from(io::ErrorKind::QuotaExceeded)), false);
        let written = |source| ContentError::Io { operation: "write", object: "x".to_owned(), source };
        check_fault(io::Error::other(written(io::Error::from_raw_os_error(5))), false);
        check_fault(io::Error::other(ContentError::Damaged { digest: Digest::of(b"x") }), false);
        check_fault(io::Error::other(BackendError::of("read", "x")("refused")), true);
    }
}
