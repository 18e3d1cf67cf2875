//! `--cache-to`: what was built is written where other machines find it.
//!
//! Layers go out while later steps still run; the manifest that names them comes last, when the build has succeeded. A
//! cache that would be what it was is not written at all.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use wharf_cache::{Chain, Digest, Key, Store, StoreError};
use wharf_runtime::Cancel;

use super::imports::Imports;
use super::manifest::{CacheConfig, CacheRecord, Documents};
use super::mounts::{self, MountEntry, MountExport, UsedMounts};
use super::records::{Collector, Recorded, of_images};
use super::spec::{CacheTo, Mode};
use super::{Backend, BackendError, Loaded, load};
use crate::error::causes;
use crate::layers::Layers;
use crate::progress::Progress;
use crate::registry::transfer::each_at_once;
use crate::source::Cancellable;

/// The places that get a cache of one build.
#[derive(Debug)]
pub struct Exports<'a> {
    store: &'a Store,
    imports: &'a Imports<'a>,
    progress: &'a Progress,
    mounts: &'a UsedMounts,
    places: Vec<Place<'a>>,
    /// Ends all transfers.
    cancel: Cancel,
    /// Nothing more is wanted: the build has failed.
    abandoned: AtomicBool,
}

/// A place that gets a cache.
#[derive(Debug)]
pub struct Place<'a> {
    to: &'a CacheTo,
    backend: Arc<dyn Backend>,
    layers: &'a Layers<'a>,
    /// The cache that is there now, if it could be read.
    before: OnceLock<Option<Loaded>>,
    sent: Mutex<HashSet<Digest>>,
    failure: Mutex<Option<BackendError>>,
}

/// What becomes of a build that has ended well.
#[derive(Debug)]
pub struct Finished<'b> {
    /// Its steps.
    pub recorded: &'b [Recorded],
    /// The file systems of the images.
    pub images: &'b [Chain],
    /// No time is later: `SOURCE_DATE_EPOCH`.
    pub epoch: Option<u64>,
}

/// The uploads of a build that still runs.
#[derive(Debug)]
pub struct Uploads<'scope, 'a> {
    exports: &'scope Exports<'a>,
    queues: Vec<(Mode, Sender<Chain>)>,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
}

impl<'a> Exports<'a> {
    /// Will write to `places`, with what of the cache mounts each wants, until `cancel`.
    pub fn new(
        store: &'a Store,
        imports: &'a Imports<'a>,
        progress: &'a Progress,
        mounts: &'a UsedMounts,
        places: Vec<Place<'a>>,
        cancel: Cancel,
    ) -> Self {
        Self { store, imports, progress, mounts, places, cancel, abandoned: AtomicBool::new(false) }
    }

    /// Begins to take what is built.
    pub fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Uploads<'scope, 'a> {
        let mut uploads = Uploads { exports: self, queues: Vec::new(), threads: Vec::new() };
        for place in &self.places {
            let (sender, chains) = channel();
            let work = move || self.upload(place, &chains);
            // Where there is no thread to be had, everything is sent at the end.
            if let Ok(thread) = Builder::new().name("cache-to".to_owned()).spawn_scoped(scope, work) {
                uploads.threads.push(thread);
                uploads.queues.push((place.to.mode, sender));
            }
        }
        uploads
    }

    fn upload(&self, place: &Place<'_>, chains: &Receiver<Chain>) {
        for chain in chains {
            let is_over = || self.abandoned.load(Ordering::Relaxed) || self.cancel.is_cancelled();
            // A layer that cannot be made is found again at the end.
            let Ok(layers) = place.layers.of(&chain) else { continue };
            for layer in layers {
                if is_over() || place.has_failed() {
                    return;
                }
                if let Err(error) = self.send(place, &layer.digest, layer.size, true) {
                    place.fail(error);
                }
            }
        }
    }

    /// Sends a blob unless it is there; `trusting`, what the cache that is there names is.
    fn send(
        &self,
        place: &Place<'_>,
        digest: &Digest,
        size: u64,
        trusting: bool,
    ) -> Result<(), BackendError> {
        self.unless_stopped(place)?;
        let is_damaged = self.imports.is_damaged(digest);
        if trusting && !is_damaged && place.names(digest, size) {
            return Ok(());
        }
        if !place.sent.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest)
            || (!is_damaged && place.backend.has(digest, size)?)
        {
            return Ok(());
        }
        let open = || -> io::Result<Box<dyn Read + Send>> {
            let reader: Box<dyn Read + Send> = match self.store.blobs().size(digest) {
                Ok(Some(here)) if here == size => {
                    Box::new(self.store.blobs().open(digest).map_err(io::Error::other)?)
                }
                _ => self.imports.open(digest, size).map_err(io::Error::other)?,
            };
            Ok(Box::new(Cancellable::new(reader, self.cancel.clone())))
        };
        place.backend.put(digest, size, &open)
    }

    /// Fails when the build has been stopped.
    fn unless_stopped(&self, place: &Place<'_>) -> Result<(), BackendError> {
        match self.cancel.is_cancelled() {
            true => Err(BackendError::of("write the cache in", place.backend.name())("cancelled")),
            false => Ok(()),
        }
    }

    /// Writes the caches, unless the build is stopped. What goes wrong is a warning; the texts of what must not go wrong are
    /// returned.
    fn finish(&self, finished: &Finished<'_>) -> Vec<String> {
        let mut failures = Vec::new();
        for place in &self.places {
            let name = place.backend.name();
            let written = self.progress.internal(&format!("exporting cache to {name}"), || {
                Ok::<_, BackendError>(self.write(place, finished))
            });
            if self.cancel.is_cancelled() {
                break;
            }
            if let Err(error) = written.and_then(|written| written) {
                let text = format!("the cache in {name} was not written: {}", causes(&error));
                match place.to.required {
                    true => failures.push(text),
                    false => self.progress.warn(format!("warning: {text}")),
                }
            }
        }
        failures
    }

    fn write(&self, place: &Place<'_>, finished: &Finished<'_>) -> Result<(), BackendError> {
        if let Some(failure) = place.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(failure);
        }
        let failed =
            |error: StoreError| BackendError::of("read what was built for", place.backend.name())(error);
        let of_image = match place.to.mode {
            Mode::Min => Some(of_images(self.store, finished.recorded, finished.images).map_err(failed)?),
            Mode::Max => None,
        };
        let recorded = of_image.as_deref().unwrap_or(finished.recorded);
        let collector = Collector::new(self.store, place.layers, finished.epoch);
        let (mut config, skipped) = collector.collect(recorded).map_err(failed)?;
        if let Some(error) = skipped {
            let name = place.backend.name();
            self.progress.warn(format!("warning: a step is not in the cache in {name}: {}", causes(&error)));
        }
        if let Some(before) = place.before() {
            keep_what_is_known(&mut config, &before.cache.config);
        }
        config.mounts = self.mounts(place);
        self.unless_stopped(place)?;
        let documents = Documents::of(&config);
        let is_whole = !config.layers.iter().any(|layer| self.imports.is_damaged(&layer.digest));
        let is_old = place.backend.is_old();
        if !is_old
            && is_whole
            && place.before().is_some_and(|before| before.manifest == documents.descriptor().digest)
        {
            return Ok(());
        }
        if !is_old {
            self.send_all(place, &config, true)?;
            match place.backend.commit(&documents) {
                // A blob that the last cache named may be gone.
                Err(_) if place.before().is_some() => {}
                done => return done,
            }
        }
        self.send_all(place, &config, false)?;
        config.mounts.retain(|mount| mount.is_in(&*place.backend));
        place.backend.commit(&Documents::of(&config))
    }

    /// The cache mounts of a place. One that cannot be taken along is only missing there.
    fn mounts(&self, place: &Place<'_>) -> Vec<MountEntry> {
        let before = place.before().map_or(&[][..], |before| &before.cache.config.mounts);
        let damaged = self.imports.damaged();
        let (backend, limit) = (&*place.backend, &place.to.mounts);
        let target = mounts::Target { backend, limit, before, damaged, cancel: &self.cancel };
        let MountExport { entries, left_out } = mounts::export(self.store, self.mounts, &target);
        for (id, error) in left_out.into_iter().filter(|_| !self.cancel.is_cancelled()) {
            let (name, why) = (place.backend.name(), causes(&error));
            self.progress.warn(format!("warning: the cache mount {id} is not in the cache in {name}: {why}"));
        }
        entries
    }

    fn send_all(&self, place: &Place<'_>, config: &CacheConfig, trusting: bool) -> Result<(), BackendError> {
        each_at_once(&config.layers, |layer| self.send(place, &layer.digest, layer.size, trusting))
    }
}

impl<'a> Place<'a> {
    /// A place; `layers` makes the layers that it gets.
    pub fn new(to: &'a CacheTo, backend: Arc<dyn Backend>, layers: &'a Layers<'a>) -> Self {
        let (sent, failure) = Default::default();
        Self { to, backend, layers, before: OnceLock::new(), sent, failure }
    }

    /// The cache that is there. One that cannot be read is written anew.
    fn before(&self) -> Option<&Loaded> {
        self.before.get_or_init(|| load(&*self.backend).ok().flatten()).as_ref()
    }

    /// Whether the cache that is there names a blob.
    fn names(&self, digest: &Digest, size: u64) -> bool {
        self.before().is_some_and(|before| {
            before.cache.config.layers.iter().any(|layer| layer.digest == *digest && layer.size == size)
        })
    }

    fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn fail(&self, error: BackendError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

impl Uploads<'_, '_> {
    /// Whether anybody wants what is built.
    pub fn is_empty(&self) -> bool {
        self.exports.places.is_empty()
    }

    /// A step has its result, whose layers may be the image's. Does not block.
    pub fn completed(&self, chain: &Chain, is_of_image: bool) {
        for (mode, queue) in &self.queues {
            if *mode == Mode::Max || is_of_image {
                // Who has hung up has failed, and says so at the end.
                let _ = queue.send(chain.clone());
            }
        }
    }

    /// The build has ended well: writes the caches. Gives what was to fail the build if it failed.
    pub fn finish(mut self, finished: &Finished<'_>) -> Vec<String> {
        self.queues.clear();
        for thread in self.threads.drain(..) {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        self.exports.finish(finished)
    }
}

impl Drop for Uploads<'_, '_> {
    fn drop(&mut self) {
        self.exports.abandoned.store(true, Ordering::Relaxed);
    }
}

/// Takes over from the cache that is there what this build cannot know because the steps did not run.
fn keep_what_is_known(config: &mut CacheConfig, before: &CacheConfig) {
    let by_key: HashMap<Key, &CacheRecord> = before
        .records
        .iter()
        .flat_map(|record| record.keys.iter().map(move |key| (key.key, record)))
        .collect();
    for record in &mut config.records {
        let Some(known) = record.keys.first().and_then(|key| by_key.get(&key.key)) else { continue };
        record.duration_ms = record.duration_ms.or(known.duration_ms);
        record.provenance = known.provenance.clone().or(record.provenance.take());
    }
}
