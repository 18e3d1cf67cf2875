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
            if thread.spawn_scoped(scope, || self.send()).is_ok() {
                self.state().senders += 1;
            }
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

    /// A sender's life.
    fn send(&self) {
        while let Some(job) = self.next() {
            for repository in &job.repositories {
                // One that could not be reached is not asked again for every layer.
                if self.state().failed.contains(repository) {
                    continue;
                }
                let done = self.send_one(*repository, &job);
                let mut state = self.state();
                match done {
                    Some(true) => drop(state.there.insert((*repository, job.digest))),
                    Some(false) => {}
                    None => drop(state.failed.insert(*repository)),
                }
            }
            self.state().under_way -= 1;
            self.changed.notify_all();
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

/// Whether two names are of one repository.
fn is_same(one: &Reference, other: &Reference) -> bool {
    one.registry() == other.registry() && one.repository() == other.repository()
}
