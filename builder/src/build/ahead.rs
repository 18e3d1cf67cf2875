//! Layers that go to registries while later steps still run.
//!
//! Where an image goes and in what form is known before the first step. So each layer of it is sent as soon as it is made,
//! those of the base too, and the push in the end waits for what is under way and sends what is left: config and manifest.
//! Nothing that goes wrong here is told: the push does it again, and says so. Blobs without a manifest are nobody's image.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope};

use wharf_cache::snapshot::Layer;
use wharf_cache::{Digest, Store};
use wharf_runtime::Cancel;
use wharf_solver::llb::VertexDigest;
use wharf_solver::progress::{Event, Outcome, Sink as _};

use crate::layers::Form;
use crate::progress::Progress;
use crate::registry::push::push_layer;
use crate::registry::transfer::TRANSFERS_AT_ONCE;
use crate::registry::{Reference, Registry, Transfer};
use crate::source::transfer_events;

/// How it is called in the progress.
const STEP: &str = "pushing layers";

/// What is sent ahead, and to where.
pub(super) struct Ahead<'a> {
    store: &'a Store,
    registry: &'a dyn Registry,
    progress: &'a Progress,
    cancel: Cancel,
    /// Each repository once.
    repositories: Vec<Reference>,
    /// Which of them get the layers of a form.
    wanted: Vec<(Form, usize)>,
    state: Mutex<State>,
    changed: Condvar,
    /// Whether the progress was told of it.
    is_shown: AtomicBool,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// By repository.
    offered: HashSet<(usize, Digest)>,
    there: HashSet<(usize, Digest)>,
    /// The repositories that something could not be sent to: the push tries again.
    failed: HashSet<usize>,
    under_way: usize,
    senders: usize,
    is_over: bool,
}

/// A blob for repositories of one registry. They get it one after the other: what the first has, the others take over.
struct Job {
    repositories: Vec<usize>,
    digest: Digest,
    size: u64,
}

/// Ends it when dropped: what is under way is stopped, and what waits is forgotten.
pub(super) struct Ending<'s, 'a>(&'s Ahead<'a>);

impl Drop for Ending<'_, '_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<'a> Ahead<'a> {
    /// Nothing yet; `places` are where images go, and the form of their layers.
    pub(super) fn new(
        store: &'a Store,
        registry: &'a dyn Registry,
        progress: &'a Progress,
        cancel: Cancel,
        places: impl IntoIterator<Item = (Form, Reference)>,
    ) -> Self {
        let (mut repositories, mut wanted) = (Vec::new(), Vec::new());
        for (form, reference) in places {
            let known = repositories.iter().position(|other| is_same(other, &reference));
            let number = known.unwrap_or_else(|| {
                repositories.push(reference);
                repositories.len() - 1
            });
            if !wanted.contains(&(form, number)) {
                wanted.push((form, number));
            }
        }
        let (state, changed, is_shown) = Default::default();
        Self { store, registry, progress, cancel, repositories, wanted, state, changed, is_shown }
    }

    /// Begins to send what is offered; until the returned value is dropped.
    pub(super) fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Ending<'scope, 'a> {
        let senders = if self.repositories.is_empty() { 0 } else { TRANSFERS_AT_ONCE };
        for _ in 0..senders {
            let thread = Builder::new().name("push-ahead".to_owned());
            // Where there is no thread to be had, the push sends everything.
            let sender = Sender::new(self);
            let _ = thread.spawn_scoped(scope, move || sender.send());
        }
        Ending(self)
    }

    /// Layers in `form` of something that will be in an image. Does not block.
    pub(super) fn offer(&self, form: Form, layers: &[Layer]) {
        let mut state = self.state();
        if state.is_over {
            return;
        }
        for layer in layers {
            let (digest, size) = (layer.digest, layer.size);
            let mut by_registry: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for (_, repository) in self.wanted.iter().filter(|(wanted, _)| *wanted == form) {
                if state.offered.insert((*repository, digest)) {
                    by_registry
                        .entry(self.repositories[*repository].registry())
                        .or_default()
                        .push(*repository);
                }
            }
            let jobs = by_registry.into_values().map(|repositories| Job { repositories, digest, size });
            state.waiting.extend(jobs);
        }
        self.changed.notify_all();
    }

    /// Waits until all that was offered has been sent or has failed; nothing more is taken.
    pub(super) fn settle(&self) {
        let mut state = self.state();
        state.is_over = true;
        self.changed.notify_all();
        while state.under_way > 0 || (state.senders > 0 && !state.waiting.is_empty()) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let outcome = if state.failed.is_empty() { Outcome::Done } else { Outcome::Cancelled };
        drop(state);
        self.tell_end(outcome);
    }

    /// The blobs that are known to be in the repository of `name`.
    pub(super) fn there(&self, name: &Reference) -> HashSet<Digest> {
        let number = self.repositories.iter().position(|other| is_same(other, name));
        let state = self.state();
        state.there.iter().filter(|(of, _)| Some(*of) == number).map(|(_, digest)| *digest).collect()
    }

    fn end(&self) {
        let mut state = self.state();
        state.is_over = true;
        state.waiting.clear();
        // Whoever settled it has nothing under way any more.
        let is_idle = state.under_way == 0;
        drop(state);
        self.changed.notify_all();
        if !is_idle {
            self.cancel.cancel();
        }
        self.tell_end(Outcome::Cancelled);
    }

    /// Sends a blob to all that want it.
    fn send_to_all(&self, job: &Job) {
        for repository in &job.repositories {
            // One that could not be reached is not asked again for every layer.
            if self.state().failed.contains(repository) {
                continue;
            }
            let done = self.send_one(*repository, job);
            let mut state = self.state();
            match done {
                Some(true) => drop(state.there.insert((*repository, job.digest))),
                Some(false) => {}
                None => drop(state.failed.insert(*repository)),
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if self.cancel.is_cancelled() {
                state.waiting.clear();
                self.changed.notify_all();
            }
            if let Some(job) = state.waiting.pop_front() {
                state.under_way += 1;
                return Some(job);
            }
            if state.is_over {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether it is there now; `None` if that could not be brought about. A blob that is not here is not sent.
    fn send_one(&self, repository: usize, job: &Job) -> Option<bool> {
        let Job { digest, size, .. } = job;
        if !matches!(self.store.blobs().size(digest), Ok(Some(here)) if here == *size) {
            return Some(false);
        }
        let vertex = VertexDigest(*blake3::hash(STEP.as_bytes()).as_bytes());
        let events = transfer_events(vertex, self.progress);
        let report = |transfer: Transfer| {
            // What the registry has already is no work to be shown.
            if !transfer.done && !self.is_shown.swap(true, Ordering::Relaxed) {
                self.progress.send(Event::Started { vertex, name: STEP.to_owned() });
            }
            if self.is_shown.load(Ordering::Relaxed) {
                events(transfer);
            }
        };
        let to = &self.repositories[repository];
        let sent = push_layer(self.store, self.registry, to, (digest, *size), &self.cancel, &report);
        sent.ok().map(|()| true)
    }

    fn tell_end(&self, outcome: Outcome) {
        if self.is_shown.swap(false, Ordering::Relaxed) {
            let vertex = VertexDigest(*blake3::hash(STEP.as_bytes()).as_bytes());
            self.progress.send(Event::Completed { vertex, name: STEP.to_owned(), outcome });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that sends. It is counted as long as it lives, and what it has taken is under way as long as it is at it,
/// however either ends: somebody waits for both.
struct Sender<'s, 'a>(&'s Ahead<'a>);

impl<'s, 'a> Sender<'s, 'a> {
    fn new(ahead: &'s Ahead<'a>) -> Self {
        ahead.state().senders += 1;
        Self(ahead)
    }

    fn send(self) {
        while let Some(job) = self.0.next() {
            let _under_way = UnderWay(self.0);
            self.0.send_to_all(&job);
        }
    }
}

impl Drop for Sender<'_, '_> {
    fn drop(&mut self) {
        self.0.state().senders -= 1;
        self.0.changed.notify_all();
    }
}

/// What [`Ahead::next`] has counted.
struct UnderWay<'s, 'a>(&'s Ahead<'a>);

impl Drop for UnderWay<'_, '_> {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
        self.0.changed.notify_all();
    }
}

/// Whether two names are of one repository.
fn is_same(one: &Reference, other: &Reference) -> bool {
    one.registry() == other.registry() && one.repository() == other.repository()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use wharf_cache::diff::Compression;

    use super::*;
    use crate::exporter::form::ImageForm;
    use crate::progress::Mode;
    use crate::registry::{FetchedManifest, OpenBlob, Referrer, RegistryError};

    /// Panics when it is asked for a blob, and for anything else.
    #[derive(Debug)]
    struct Panicking;

    impl Registry for Panicking {
        fn manifest(&self, _: &Reference) -> Result<FetchedManifest, RegistryError> {
            unreachable!()
        }
        fn blob(&self, _: &Reference, _: &Digest, _: u64) -> Result<Box<dyn Read + Send>, RegistryError> {
            unreachable!()
        }
        fn has_blob(&self, _: &Reference, _: &Digest) -> Result<bool, RegistryError> {
            panic!("it was asked")
        }
        fn push_blob(
            &self,
            _: &Reference,
            _: &Digest,
            _: u64,
            _: &OpenBlob<'_>,
            _: Option<&str>,
        ) -> Result<(), RegistryError> {
            unreachable!()
        }
        fn push_manifest(&self, _: &Reference, _: &str, _: &[u8]) -> Result<(), RegistryError> {
            unreachable!()
        }
        fn tags(&self, _: &Reference) -> Result<Vec<String>, RegistryError> {
            unreachable!()
        }
        fn delete(&self, _: &Reference) -> Result<(), RegistryError> {
            unreachable!()
        }
        fn referrers(&self, _: &Reference, _: &Digest) -> Result<Vec<Referrer>, RegistryError> {
            unreachable!()
        }
    }

    #[test]
    fn whoever_waits_for_a_sender_that_panics_goes_on() {
        let root = std::env::temp_dir().join(format!("wharf-ahead-{}", std::process::id()));
        let store = Store::open(&root).unwrap();
        let layer = |bytes: &[u8]| Layer {
            digest: store.blobs().put(bytes).unwrap(),
            size: bytes.len() as u64,
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
            diff_id: wharf_cache::DiffId(Digest::of(bytes)),
            annotations: BTreeMap::new(),
        };
        // More than there are senders: nobody is left to take the last ones.
        let layers: Vec<Layer> = (0..3 * TRANSFERS_AT_ONCE).map(|number| layer(&[number as u8])).collect();
        let form = ImageForm { compression: Compression::None, ..ImageForm::default() }.layers(None);
        let progress = Progress::start(Mode::Quiet, std::io::stderr());
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let name = "localhost/app:v1".parse().unwrap();
            let ahead = Ahead::new(&store, &Panicking, &progress, Cancel::new().unwrap(), [(form, name)]);
            std::thread::scope(|scope| {
                let _ending = ahead.start(scope);
                ahead.offer(form, &layers);
                ahead.settle();
                assert_eq!(ahead.state().under_way, 0);
            });
        }));
        // The scope tells of the panic.
        assert!(ended.is_err());
        std::fs::remove_dir_all(root).unwrap();
    }
}
