//! What runs away from the owner: tasks, and the threads that perform them.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::Scope;
use std::time::Duration;

use wharf_cache::{Chain, ContentDigest, Key};

use super::digests::Request;
use super::graph::{Graph, Index, Lookup};
use super::queue::Resource;
use super::{Solve, VertexOutcome};
use crate::cache_map::{self, InputKey, Reads, RecordKey};
use crate::op::{OpError, ResultRef};

/// Something that may take long. Holds all it needs, so that it shares nothing with the owner.
pub(super) enum Task {
    /// Digests what `selection` selects.
    Digest { request: Request, selection: Selection },
    /// Finds out what a source from the network stands for now.
    Pin { vertex: Index },
    /// Finds out what an image is.
    Resolve { vertex: Index },
    /// Brings an image's files in.
    Materialize { vertex: Index, image: ResultRef },
    /// Runs a step.
    Execute(Execution),
}

/// Files of a result.
pub(super) struct Selection {
    /// Whose result.
    pub(super) producer: Index,
    pub(super) result: ResultRef,
    pub(super) reads: Reads,
}

/// A step that has to run.
pub(super) struct Execution {
    pub(super) vertex: Index,
    pub(super) definition: RecordKey,
    /// What running it uses: a source from the network is a transfer.
    pub(super) resource: Resource,
    /// Its inputs, images already as snapshots.
    pub(super) inputs: Vec<ResultRef>,
    /// What its content key is made of: for each input, for each selection; of a pinned source the pin.
    pub(super) content: Vec<Vec<Content>>,
}

/// Part of a content key.
pub(super) enum Content {
    /// Known.
    Digest(ContentDigest),
    /// To be digested when the step has run.
    Of(Selection),
}

/// What came of a task.
pub(super) enum Finished {
    Digested {
        request: Request,
        producer: Index,
        digest: ContentDigest,
    },
    Pinned {
        vertex: Index,
        pin: ContentDigest,
    },
    Resolved {
        vertex: Index,
        result: ResultRef,
    },
    Materialized {
        vertex: Index,
        files: Chain,
    },
    Executed {
        vertex: Index,
        outcome: VertexOutcome,
        outputs: Vec<ResultRef>,
        /// What it read, as far as it was found out.
        read: Option<Read>,
    },
    Failed {
        task: TaskId,
        error: OpError,
    },
    /// It ended after the solve was stopped: whatever it gave is not to be trusted.
    Stopped {
        task: TaskId,
    },
    Panicked {
        payload: Box<dyn Any + Send>,
    },
}

/// What a step read: its content key and what that is made of.
pub(super) struct Read {
    pub(super) content_key: Key,
    /// For each input, for each selection; of a pinned source the pin.
    pub(super) content: Vec<Vec<ContentDigest>>,
}

/// A task that has ended.
pub(super) struct Ended {
    pub(super) finished: Finished,
    pub(super) task: TaskId,
    pub(super) resource: Resource,
    /// When, by the clock of the solve.
    pub(super) begun: Duration,
    pub(super) ended: Duration,
}

/// Which task it was.
#[derive(Debug, Clone, Copy)]
pub(super) enum TaskId {
    Digest { request: Request, producer: Index },
    Vertex(Index),
}

impl Task {
    pub(super) fn id(&self) -> TaskId {
        match self {
            Self::Digest { request, selection } => {
                TaskId::Digest { request: *request, producer: selection.producer }
            }
            Self::Pin { vertex } | Self::Resolve { vertex } | Self::Materialize { vertex, .. } => {
                TaskId::Vertex(*vertex)
            }
            Self::Execute(execution) => TaskId::Vertex(execution.vertex),
        }
    }

    pub(super) fn resource(&self) -> Resource {
        match self {
            Self::Digest { .. } => Resource::Hashing,
            Self::Pin { .. } | Self::Resolve { .. } | Self::Materialize { .. } => Resource::Transfers,
            Self::Execute(execution) => execution.resource,
        }
    }
}

/// Performs tasks; shared by all threads.
pub(super) struct Worker<'a> {
    pub(super) solve: &'a Solve<'a>,
    pub(super) graph: &'a Graph<'a>,
    /// Set when something failed: what ends from then on may have been cut short.
    pub(super) stopping: AtomicBool,
    /// Held from the look at what is recorded until what ran is, too: of two steps with one content key only one records it.
    recording: Mutex<()>,
}

impl<'a> Worker<'a> {
    /// A worker on what is reachable.
    pub(super) fn new(solve: &'a Solve<'a>, graph: &'a Graph<'a>) -> Self {
        Self { solve, graph, stopping: AtomicBool::new(false), recording: Mutex::default() }
    }

    /// Performs a task; a panic of the outside becomes an event, so that the owner does not wait for ever.
    pub(super) fn perform(&self, task: Task) -> Ended {
        let (id, resource) = (task.id(), task.resource());
        let begun = (self.solve.clock)();
        let finished = match panic::catch_unwind(AssertUnwindSafe(|| self.try_perform(task))) {
            Err(payload) => Finished::Panicked { payload },
            Ok(Err(error)) => Finished::Failed { task: id, error },
            Ok(Ok(finished)) => finished,
        };
        Ended { finished, task: id, resource, begun, ended: (self.solve.clock)() }
    }

    fn try_perform(&self, task: Task) -> Result<Finished, OpError> {
        let resolver = self.solve.resolver;
        match task {
            Task::Digest { request, selection } => {
                let digest = self.digest(&selection)?;
                Ok(Finished::Digested { request, producer: selection.producer, digest })
            }
            Task::Pin { vertex } => {
                let node = &self.graph.nodes[vertex];
                let pin = resolver.pin_source(&node.digest, node.vertex)?;
                Ok(Finished::Pinned { vertex, pin })
            }
            Task::Resolve { vertex } => {
                let node = &self.graph.nodes[vertex];
                let result = resolver.resolve_source(&node.digest, node.vertex)?;
                Ok(Finished::Resolved { vertex, result })
            }
            Task::Materialize { vertex, image } => {
                let node = &self.graph.nodes[vertex];
                let files = resolver.materialize(&node.digest, node.vertex, &image)?;
                Ok(Finished::Materialized { vertex, files })
            }
            Task::Execute(execution) => self.execute(execution),
        }
    }

    pub(super) fn digest(&self, selection: &Selection) -> Result<ContentDigest, OpError> {
        let vertex = self.graph.nodes[selection.producer].vertex;
        self.solve.resolver.content_digest(vertex, &selection.result, &selection.reads)
    }

    /// Runs a step under the lock of its definition key and records what it gave.
    fn execute(&self, execution: Execution) -> Result<Finished, OpError> {
        let Execution { vertex, definition, resource: _, inputs, content } = execution;
        let node = &self.graph.nodes[vertex];
        let cache = self.solve.cache;
        let _lock = cache.lock(&definition.key)?;
        // Another process may have run the same step while this one waited for the lock.
        if node.lookup == Lookup::Both
            && let Some(chains) = self.recorded(&definition.key, node.outputs)?
        {
            let (outcome, outputs) = (VertexOutcome::DefinitionHit, snapshots(chains));
            return Ok(Finished::Executed { vertex, outcome, outputs, read: None });
        }
        let chains = self.solve.resolver.execute(&node.digest, node.vertex, &inputs)?;
        // A process that was told to stop may still have ended as if all were well.
        if self.stopping.load(Ordering::Relaxed) || (self.solve.cancelled)() {
            return Ok(Finished::Stopped { task: TaskId::Vertex(vertex) });
        }
        node.check_outputs(chains.len()).map_err(OpError::new)?;
        let read = self.read(&node.op_key, content)?;
        let _recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        // A step that turned out to read the same may have run meanwhile, on its way since before that was known. What it gave
        // is what the next solve finds for it: it stays.
        let is_recorded = node.lookup != Lookup::Neither
            && definition.key != read.content_key
            && self.recorded(&read.content_key, node.outputs)?.is_some();
        let mut keys = vec![definition];
        if keys[0].key != read.content_key && !is_recorded {
            let inputs = read.content.iter().cloned().map(InputKey::Content).collect();
            keys.push(RecordKey { key: read.content_key, inputs });
        }
        cache.store(&keys, &node.op_key, &chains)?;
        let (outcome, outputs) = (VertexOutcome::Executed, snapshots(chains));
        Ok(Finished::Executed { vertex, outcome, outputs, read: Some(read) })
    }

    /// What is recorded under a key, if it has that many outputs.
    fn recorded(&self, key: &Key, outputs: usize) -> Result<Option<Vec<Chain>>, OpError> {
        Ok(self.solve.cache.lookup(key)?.filter(|chains| chains.len() >= outputs))
    }

    fn read(&self, op_key: &Key, content: Vec<Vec<Content>>) -> Result<Read, OpError> {
        let content = content
            .into_iter()
            .map(|input| self.digest_input(&input))
            .collect::<Result<Vec<Vec<ContentDigest>>, OpError>>()?;
        let inputs: Vec<InputKey> = content.iter().cloned().map(InputKey::Content).collect();
        Ok(Read { content_key: cache_map::key(op_key, &inputs), content })
    }

    /// Digests what is not known yet, equal selections once.
    fn digest_input(&self, content: &[Content]) -> Result<Vec<ContentDigest>, OpError> {
        let mut digests: Vec<ContentDigest> = Vec::with_capacity(content.len());
        for (index, part) in content.iter().enumerate() {
            let digest = match part {
                Content::Digest(digest) => *digest,
                Content::Of(selection) => {
                    let equal = |other: &Content| matches!(other, Content::Of(other) if other.reads == selection.reads);
                    match content[..index].iter().position(equal) {
                        Some(earlier) => digests[earlier],
                        None => self.digest(selection)?,
                    }
                }
            };
            digests.push(digest);
        }
        Ok(digests)
    }
}

/// Chains as results.
pub(super) fn snapshots(chains: Vec<Chain>) -> Vec<ResultRef> {
    chains.into_iter().map(ResultRef::Snapshots).collect()
}

/// Threads that perform tasks; one is started only when a task finds all others busy.
pub(super) struct Pool<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    worker: &'env Worker<'env>,
    tasks: mpsc::Sender<Task>,
    queue: &'env Mutex<mpsc::Receiver<Task>>,
    ended: mpsc::Receiver<Ended>,
    ended_sender: mpsc::Sender<Ended>,
    threads: usize,
    running: usize,
}

impl<'scope, 'env> Pool<'scope, 'env> {
    /// A pool without threads. `queue` is the other end of `tasks`.
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        worker: &'env Worker<'env>,
        tasks: mpsc::Sender<Task>,
        queue: &'env Mutex<mpsc::Receiver<Task>>,
    ) -> Self {
        let (ended_sender, ended) = mpsc::channel();
        Self { scope, worker, tasks, queue, ended, ended_sender, threads: 0, running: 0 }
    }

    /// How many tasks are with the threads.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// Hands a task to a thread.
    pub(super) fn spawn(&mut self, task: Task) {
        self.running += 1;
        if self.running > self.threads {
            self.threads += 1;
            let (worker, queue, ended) = (self.worker, self.queue, self.ended_sender.clone());
            self.scope.spawn(move || work(worker, queue, &ended));
        }
        self.tasks.send(task).expect("the queue lives longer than the pool");
    }

    /// Waits for a task to end.
    pub(super) fn wait(&mut self) -> Ended {
        let ended = self.ended.recv().expect("the pool holds a sender");
        self.running -= 1;
        ended
    }
}

/// A thread's life: ends when the pool is dropped.
fn work(worker: &Worker<'_>, queue: &Mutex<mpsc::Receiver<Task>>, ended: &mpsc::Sender<Ended>) {
    loop {
        let task = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = task else { return };
        if ended.send(worker.perform(task)).is_err() {
            return;
        }
    }
}
