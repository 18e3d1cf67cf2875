//! Layers that go to registries while later steps still run.
//!
//! Where an image goes and in what form is known before the first step. So each layer of it is sent as soon as it is made,
//! those of the base too, and the push in the end waits for what is under way and sends what is left: config and manifest.
//! Nothing that goes wrong here is told: the push does it again, and says so. Blobs without a manifest are nobody's image.

use std::collections::{HashMap, HashSet, VecDeque};
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

struct Job {
    repository: usize,
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
        let mut known: HashMap<(String, String), usize> = HashMap::new();
        let (mut repositories, mut wanted) = (Vec::new(), Vec::new());
        for (form, reference) in places {
            let name = (reference.registry().to_owned(), reference.repository().to_owned());
            let number = *known.entry(name).or_insert_with(|| {
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
        for (_, repository) in self.wanted.iter().filter(|(wanted, _)| *wanted == form) {
            for layer in layers {
                if state.offered.insert((*repository, layer.digest)) {
                    let (repository, digest, size) = (*repository, layer.digest, layer.size);
                    state.waiting.push_back(Job { repository, digest, size });
                }
            }
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
        let is_it = |other: &Reference| {
            other.registry() == name.registry() && other.repository() == name.repository()
        };
        let number = self.repositories.iter().position(is_it);
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
            let done = self.send_one(&job);
            let mut state = self.state();
            state.under_way -= 1;
            match done {
                Some(true) => drop(state.there.insert((job.repository, job.digest))),
                Some(false) => {}
                None => {
                    state.failed.insert(job.repository);
                    state.waiting.retain(|other| other.repository != job.repository);
                }
            }
            drop(state);
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
                // One that could not be reached is not asked again for every layer.
                if state.failed.contains(&job.repository) {
                    continue;
                }
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
    fn send_one(&self, job: &Job) -> Option<bool> {
        let Job { repository, digest, size } = job;
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
        let to = &self.repositories[*repository];
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
