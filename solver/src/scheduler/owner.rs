//! The owner of all states: decides what happens next, and says so to the progress sink.

use std::collections::HashMap;
use std::error::Error;
use std::panic;
use std::sync::atomic::Ordering;

use wharf_cache::{Chain, ContentDigest, Key};

use super::digests::{Asked, Digests};
use super::graph::{Graph, Index, Input, Lookup, NodeKind};
use super::queue::{Queue, Resource};
use super::report::{Ignored, InputReport, KeyKind, KeyLookup, StepOutcome, StepReport, Work};
use super::state::{Event, VertexState};
use super::worker::{
    Content, Ended, Execution, Finished, Pool, Read, Selection, Task, TaskId, Worker, snapshots,
};
use super::{Solve, SolveError, Solved, VertexOutcome};
use crate::cache_map::{self, InputKey, Reads, RecordKey};
use crate::op::{OpError, ResultRef};
use crate::progress::{self, Outcome};

pub(super) struct Owner<'scope, 'env> {
    solve: &'env Solve<'env>,
    graph: &'env Graph<'env>,
    worker: &'env Worker<'env>,
    pool: Pool<'scope, 'env>,
    /// Tasks that wait for a free job.
    queue: Queue,
    /// Events that have not been dealt with; last in, first out.
    pending: Vec<(Index, Event)>,
    vertices: Vec<Vertex>,
    digests: Digests,
    /// For each definition key that is being worked on without a record, the vertex that does so.
    leaders: HashMap<(Key, Lookup), Leader>,
    /// Why the solve was stopped.
    cause: Option<SolveError>,
}

/// What changes about a vertex.
struct Vertex {
    state: VertexState,
    told: Told,
    /// `None` before the keys are made, and for a local directory.
    definition_key: Option<Key>,
    /// What a source from the network stands for.
    pin: Option<ContentDigest>,
    /// How many may still want its result: readers that have neither a result nor been passed over, and the caller.
    undecided: usize,
    /// Digest tasks of a local directory that have not ended.
    digest_tasks: usize,
    work: Work,
    lookups: Vec<KeyLookup>,
    /// What it read, if it ran.
    read: Option<Read>,
}

/// What the progress sink was told about a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Started,
    Completed,
}

struct Leader {
    vertex: Index,
    followers: Vec<Index>,
}

impl<'scope, 'env> Owner<'scope, 'env> {
    pub(super) fn new(worker: &'env Worker<'env>, pool: Pool<'scope, 'env>) -> Self {
        let graph = worker.graph;
        let vertices = graph
            .nodes
            .iter()
            .map(|node| Vertex {
                state: VertexState::Idle,
                told: Told::Nothing,
                definition_key: None,
                pin: None,
                undecided: node.consumers.len() + usize::from(node.is_goal),
                digest_tasks: 0,
                work: Work::default(),
                lookups: Vec::new(),
                read: None,
            })
            .collect();
        Self {
            solve: worker.solve,
            graph,
            worker,
            pool,
            queue: Queue::new(worker.solve.limits),
            pending: Vec::new(),
            vertices,
            digests: Digests::default(),
            leaders: HashMap::new(),
            cause: None,
        }
    }

    pub(super) fn solve(mut self) -> Solved {
        self.ask_for_local_digests();
        self.ask_for_pins();
        self.run();
        if self.cause.is_none() {
            self.make_definition_keys();
            // Last in, first out: the first goal comes first.
            self.pending.extend(self.graph.goals.iter().rev().map(|&(goal, _)| (goal, Event::Demanded)));
            self.run();
        }
        self.finish()
    }

    /// Asks for what is read of local directories, everywhere in the graph.
    fn ask_for_local_digests(&mut self) {
        for (index, node) in self.graph.nodes.iter().enumerate() {
            for input in &node.inputs {
                let producer = &self.graph.nodes[input.vertex];
                if producer.kind != NodeKind::Local {
                    continue;
                }
                let result = ResultRef::Local(producer.digest);
                for (read, key) in input.selections() {
                    if let Asked::New(request) = self.digests.ask(index, input.vertex, input.output, key) {
                        let selection =
                            Selection { producer: input.vertex, result: result.clone(), reads: read.clone() };
                        self.queue.push(Task::Digest { request, selection });
                        self.vertices[input.vertex].digest_tasks += 1;
                    }
                }
            }
        }
    }

    /// Asks for what sources from the network stand for now.
    fn ask_for_pins(&mut self) {
        let nodes = self.graph.nodes.iter().enumerate();
        for (vertex, _) in nodes.filter(|(_, node)| node.kind == NodeKind::Pinned) {
            self.queue.push(Task::Pin { vertex });
        }
    }

    /// From the sources up; what is read of local directories, and what other sources stand for, is known by now.
    fn make_definition_keys(&mut self) {
        for (index, node) in self.graph.nodes.iter().enumerate() {
            if node.kind == NodeKind::Local {
                continue;
            }
            self.vertices[index].definition_key =
                Some(cache_map::key(&node.op_key, &self.definition_inputs(index)));
        }
    }

    /// What the definition key of a vertex is made of; the keys of its inputs are known.
    fn definition_inputs(&self, index: Index) -> Vec<InputKey> {
        let pin = self.vertices[index].pin.map(|pin| InputKey::Content(vec![pin]));
        let inputs = self.graph.nodes[index].inputs.iter().map(|input| self.definition_part(input));
        pin.into_iter().chain(inputs).collect()
    }

    fn definition(&self, index: Index) -> RecordKey {
        RecordKey { key: self.definition_key(index), inputs: self.definition_inputs(index) }
    }

    fn definition_part(&self, input: &Input) -> InputKey {
        match self.vertices[input.vertex].definition_key {
            Some(key) => InputKey::Definition { key, output: input.output, reads: input.reads_key },
            None => InputKey::Content(
                input
                    .read_keys
                    .iter()
                    .map(|read| {
                        self.digests
                            .known(input.vertex, input.output, *read)
                            .expect("local directories are digested before keys are made")
                    })
                    .collect(),
            ),
        }
    }

    /// Deals with events and tasks until there are none, or until everything that runs has ended after a failure.
    fn run(&mut self) {
        loop {
            self.deliver();
            if self.cause.is_none() && (self.solve.cancelled)() {
                self.stop(SolveError::Cancelled);
            }
            if self.queue.len() == 0 && self.pool.running() == 0 {
                return;
            }
            let jobs = self.solve.jobs.max(1);
            let alone = self.pool.running() == 0 && (self.queue.len() == 1 || jobs == 1);
            let ended = if alone {
                let task = self.queue.pop().expect("where nothing runs, every resource is free");
                self.tell_started(&task);
                self.worker.perform(task)
            } else {
                while self.pool.running() < jobs
                    && let Some(task) = self.queue.pop()
                {
                    self.tell_started(&task);
                    self.pool.spawn(task);
                }
                self.pool.wait()
            };
            self.note_work(&ended);
            self.take(ended.finished);
        }
    }

    /// Leads vertices through their states until no event is left.
    fn deliver(&mut self) {
        while let Some((index, event)) = self.pending.pop() {
            let mut next = Some(event);
            while let Some(event) = next {
                let state = &mut self.vertices[index].state;
                if state.has_heard(&event) {
                    break;
                }
                *state = std::mem::replace(state, VertexState::Idle).on(event);
                next = match self.enter(index) {
                    Ok(next) => next,
                    Err(error) => {
                        self.fail(index, error);
                        return;
                    }
                };
            }
        }
    }

    /// Does what the new state of a vertex asks for. An event of the vertex itself is returned rather than queued, so
    /// that nothing comes between counting what it waits for and waiting for it.
    fn enter(&mut self, index: Index) -> Result<Option<Event>, OpError> {
        match &self.vertices[index].state {
            VertexState::Probing => self.probe(index),
            VertexState::Waiting { left: 0, .. } => self.compare(index),
            VertexState::Comparing { left: 0 } => self.look_up_content(index),
            VertexState::Running => {
                let execution = self.execution(index);
                self.queue.push(Task::Execute(execution));
                Ok(None)
            }
            VertexState::Lazy { .. } => Ok(self.image_resolved(index)),
            VertexState::Materializing { image } => {
                let image = image.clone();
                self.queue.push(Task::Materialize { vertex: index, image });
                Ok(None)
            }
            VertexState::Done(_) => {
                self.done(index);
                Ok(None)
            }
            VertexState::Idle
            | VertexState::Following
            | VertexState::Waiting { .. }
            | VertexState::Comparing { .. }
            | VertexState::Fetching { .. }
            | VertexState::Stopped => Ok(None),
        }
    }

    /// A vertex was demanded: sources are resolved, steps looked up by their definition key.
    fn probe(&mut self, index: Index) -> Result<Option<Event>, OpError> {
        let node = &self.graph.nodes[index];
        match node.kind {
            NodeKind::Local => {
                node.check_outputs(1).map_err(OpError::new)?;
                let outputs = vec![ResultRef::Local(node.digest)];
                return Ok(Some(Event::Found { outcome: VertexOutcome::Lazy, outputs }));
            }
            NodeKind::Image => {
                node.check_outputs(1).map_err(OpError::new)?;
                self.queue.push(Task::Resolve { vertex: index });
                return Ok(None);
            }
            NodeKind::Step | NodeKind::Pinned => {}
        }
        let key = self.definition_key(index);
        if node.lookup == Lookup::Both
            && let Some(chains) = self.look_up(index, key, KeyKind::Definition)?
        {
            let outputs = snapshots(chains);
            return Ok(Some(Event::Found { outcome: VertexOutcome::DefinitionHit, outputs }));
        }
        // Equal vertices with different digests (one image under two names, say) run once.
        if let Some(leader) = self.leaders.get_mut(&(key, node.lookup)) {
            if let VertexState::Done(finished) = &self.vertices[leader.vertex].state
                && finished.outputs.len() >= node.outputs
            {
                let outputs = finished.outputs.clone();
                return Ok(Some(Event::Found { outcome: VertexOutcome::DefinitionHit, outputs }));
            }
            leader.followers.push(index);
            return Ok(Some(Event::Equal));
        }
        self.leaders.insert((key, node.lookup), Leader { vertex: index, followers: Vec::new() });
        let certain = !self.may_hit_by_content(index)?;
        self.demand_inputs(index, certain);
        let producers = node.producers.iter();
        let left = producers.filter(|&&producer| self.vertices[producer].state.outputs().is_none()).count();
        Ok(Some(Event::Miss { left, certain }))
    }

    /// What is recorded under `key`, if it has all outputs that are read.
    fn look_up(&mut self, index: Index, key: Key, kind: KeyKind) -> Result<Option<Vec<Chain>>, OpError> {
        let wanted = self.graph.nodes[index].outputs;
        let chains = self.solve.cache.lookup(&key)?.filter(|chains| chains.len() >= wanted);
        self.vertices[index].lookups.push(KeyLookup { key, kind, found: chains.is_some() });
        Ok(chains)
    }

    /// Demands what is not there yet. If the vertex is `certain` to run, images whose metadata is already known are
    /// brought in while the other inputs are still being made.
    fn demand_inputs(&mut self, index: Index, certain: bool) {
        for &producer in self.graph.nodes[index].producers.iter().rev() {
            match &self.vertices[producer].state {
                VertexState::Idle => self.pending.push((producer, Event::Demanded)),
                VertexState::Lazy { .. } if certain => self.pending.push((producer, Event::FilesWanted)),
                _ => {}
            }
        }
    }

    fn may_hit_by_content(&self, index: Index) -> Result<bool, OpError> {
        let node = &self.graph.nodes[index];
        Ok(node.lookup != Lookup::Neither && self.solve.cache.knows_op(&node.op_key)?)
    }

    /// All inputs are there: asks for their content digests if a record could have the content key.
    fn compare(&mut self, index: Index) -> Result<Option<Event>, OpError> {
        // Asked again, because an equal operation may have run since.
        if !self.may_hit_by_content(index)? {
            return Ok(Some(self.run_when_images_are_here(index)));
        }
        let mut left = 0;
        for input in &self.graph.nodes[index].inputs {
            let result = self.result(input).clone();
            for (read, key) in input.selections() {
                if matches!(result, ResultRef::Image { .. }) {
                    continue;
                }
                match self.digests.ask(index, input.vertex, input.output, key) {
                    Asked::Known => {}
                    Asked::Pending => left += 1,
                    Asked::New(request) => {
                        left += 1;
                        let selection =
                            Selection { producer: input.vertex, result: result.clone(), reads: read.clone() };
                        self.queue.push(Task::Digest { request, selection });
                    }
                }
            }
        }
        Ok(Some(Event::Compare { left }))
    }

    /// All content digests are known.
    fn look_up_content(&mut self, index: Index) -> Result<Option<Event>, OpError> {
        let node = &self.graph.nodes[index];
        let part = |input: &Input| {
            let digests = input.selections().map(|(read, key)| match self.content(input, read, key) {
                Content::Digest(digest) => digest,
                Content::Of(_) => unreachable!("`compare` asked for every digest"),
            });
            InputKey::Content(digests.collect())
        };
        let inputs: Vec<InputKey> = node.inputs.iter().map(part).collect();
        let definition_key = self.definition_key(index);
        let content_key = match node.kind {
            NodeKind::Pinned => definition_key,
            _ => cache_map::key(&node.op_key, &inputs),
        };
        // With local inputs only the two keys are one, and it was looked up before.
        let looked_up = node.lookup == Lookup::Both && content_key == definition_key;
        if !looked_up && let Some(chains) = self.look_up(index, content_key, KeyKind::Content)? {
            self.solve.cache.store(&[self.definition(index)], &node.op_key, &chains)?;
            let outputs = snapshots(chains);
            return Ok(Some(Event::Found { outcome: VertexOutcome::ContentHit, outputs }));
        }
        Ok(Some(self.run_when_images_are_here(index)))
    }

    /// Wants the files of every image the vertex reads.
    fn run_when_images_are_here(&mut self, index: Index) -> Event {
        let mut left = 0;
        for &producer in &self.graph.nodes[index].producers {
            match &self.vertices[producer].state {
                VertexState::Lazy { .. } => {
                    left += 1;
                    self.pending.push((producer, Event::FilesWanted));
                }
                VertexState::Materializing { .. } => left += 1,
                _ => {}
            }
        }
        Event::Run { left }
    }

    fn execution(&self, index: Index) -> Execution {
        let node = &self.graph.nodes[index];
        let files = |input: &Input| match &self.vertices[input.vertex].state {
            VertexState::Done(finished) => match &finished.files {
                Some(files) => ResultRef::Snapshots(files.clone()),
                None => self.result(input).clone(),
            },
            state => unreachable!("a vertex runs while its input is {state:?}"),
        };
        let contents = |input: &Input| {
            let contents = input.selections().map(|(read, key)| self.content(input, read, key));
            contents.collect::<Vec<_>>()
        };
        Execution {
            vertex: index,
            definition: self.definition(index),
            resource: if node.kind == NodeKind::Pinned { Resource::Transfers } else { Resource::Steps },
            inputs: node.inputs.iter().map(files).collect(),
            content: match self.vertices[index].pin {
                Some(pin) => vec![vec![Content::Digest(pin)]],
                None => node.inputs.iter().map(contents).collect(),
            },
        }
    }

    /// What stands for a selection in a content key.
    fn content(&self, input: &Input, read: &Reads, key: Key) -> Content {
        match self.result(input) {
            ResultRef::Image { content, .. } => Content::Digest(cache_map::image_selection(content, read)),
            result => match self.digests.known(input.vertex, input.output, key) {
                Some(digest) => Content::Digest(digest),
                None => Content::Of(Selection {
                    producer: input.vertex,
                    result: result.clone(),
                    reads: read.clone(),
                }),
            },
        }
    }

    /// The result that an input reads.
    fn result(&self, input: &Input) -> &ResultRef {
        let outputs = self.vertices[input.vertex].state.outputs().expect("the input is there");
        let output = usize::try_from(input.output).expect("outputs were counted");
        outputs.get(output).expect("every result has the outputs that are read")
    }

    fn definition_key(&self, index: Index) -> Key {
        self.vertices[index].definition_key.expect("steps have definition keys before they are demanded")
    }

    /// An image's metadata is known: its readers can go on, and if one is certain to run, its files are wanted.
    fn image_resolved(&mut self, index: Index) -> Option<Event> {
        let mut files_wanted = None;
        for &consumer in &self.graph.nodes[index].consumers {
            if let VertexState::Waiting { certain, .. } = self.vertices[consumer].state {
                self.pending.push((consumer, Event::InputDone));
                if certain {
                    files_wanted = Some(Event::FilesWanted);
                }
            }
        }
        files_wanted
    }

    /// A vertex has its result: tells everyone who cares.
    fn done(&mut self, index: Index) {
        let node = &self.graph.nodes[index];
        let VertexState::Done(finished) = &self.vertices[index].state else {
            unreachable!("called on entering Done")
        };
        let (outcome, outputs) = (finished.outcome, finished.outputs.clone());
        let event = if finished.files.is_some() { Event::FilesDone } else { Event::InputDone };
        for &consumer in &node.consumers {
            match (&self.vertices[consumer].state, &event) {
                (VertexState::Waiting { .. }, Event::InputDone)
                | (VertexState::Fetching { .. }, Event::FilesDone) => {
                    self.pending.push((consumer, event.clone()));
                }
                _ => {}
            }
        }
        self.pass_over_unneeded(index);
        match outcome {
            VertexOutcome::Executed => self.tell_completed(index, Outcome::Done),
            VertexOutcome::DefinitionHit | VertexOutcome::ContentHit => {
                self.tell_completed(index, Outcome::Cached);
            }
            VertexOutcome::Lazy => {}
        }
        if matches!(node.kind, NodeKind::Local | NodeKind::Image) {
            return;
        }
        (self.solve.completed)(&node.digest, &outputs);
        if let Some(key) = self.vertices[index].definition_key
            && let Some(leader) = self.leaders.get_mut(&(key, node.lookup))
            && leader.vertex == index
        {
            for follower in std::mem::take(&mut leader.followers) {
                let found = Event::Found { outcome: VertexOutcome::DefinitionHit, outputs: outputs.clone() };
                self.pending.push((follower, found));
            }
        }
    }

    /// Vertex `index` wants nothing more of its inputs. Those that nobody else can come to want are passed over:
    /// a hit above them says that they are cached too.
    fn pass_over_unneeded(&mut self, index: Index) {
        let mut decided = vec![index];
        let mut cached = Vec::new();
        while let Some(consumer) = decided.pop() {
            for &producer in &self.graph.nodes[consumer].producers {
                let vertex = &mut self.vertices[producer];
                vertex.undecided -= 1;
                if vertex.undecided > 0 {
                    continue;
                }
                match vertex.state {
                    VertexState::Idle => {
                        cached.push(producer);
                        decided.push(producer);
                    }
                    VertexState::Lazy { .. } => cached.push(producer),
                    _ => {}
                }
            }
        }
        cached.sort_unstable();
        for vertex in cached {
            if self.vertices[vertex].told != Told::Completed {
                self.tell_completed(vertex, Outcome::Cached);
            }
        }
    }

    /// Counts the time of a task. To digest what a step made is nobody's work; a directory is digested by several tasks.
    fn note_work(&mut self, ended: &Ended) {
        self.queue.ended(ended.resource);
        match ended.task {
            TaskId::Vertex(vertex) => self.vertices[vertex].work.add(ended.begun, ended.ended),
            TaskId::Digest { producer, .. } if self.graph.nodes[producer].kind == NodeKind::Local => {
                self.vertices[producer].work.cover(ended.begun, ended.ended);
            }
            TaskId::Digest { .. } => {}
        }
    }

    /// Takes what a task gave.
    fn take(&mut self, finished: Finished) {
        if let Finished::Panicked { payload } = finished {
            self.worker.stopping.store(true, Ordering::Relaxed);
            (self.solve.cancel)();
            panic::resume_unwind(payload);
        }
        if self.cause.is_some() {
            self.take_after_stop(&finished);
            return;
        }
        match finished {
            Finished::Digested { request, producer, digest } => {
                self.digest_task_ended(producer);
                for waiting in self.digests.learn(request, digest) {
                    // Nothing waits yet while local directories are digested.
                    if matches!(self.vertices[waiting].state, VertexState::Comparing { .. }) {
                        self.pending.push((waiting, Event::DigestDone));
                    }
                }
            }
            Finished::Pinned { vertex, pin } => self.vertices[vertex].pin = Some(pin),
            Finished::Resolved { vertex, result } => {
                let event = match result {
                    ResultRef::Image { .. } => Event::Resolved { image: result },
                    other => Event::Found { outcome: VertexOutcome::Lazy, outputs: vec![other] },
                };
                self.pending.push((vertex, event));
            }
            Finished::Materialized { vertex, files } => {
                self.pending.push((vertex, Event::Materialized { files }));
            }
            Finished::Executed { vertex, outcome, outputs, read } => {
                self.vertices[vertex].read = read;
                self.pending.push((vertex, Event::Found { outcome, outputs }));
            }
            Finished::Failed { task: TaskId::Vertex(vertex), error } => self.fail(vertex, error),
            Finished::Failed { task: TaskId::Digest { request, producer }, error } => {
                // What cannot be read is a mistake of the step that reads it, a COPY of a missing file for example.
                let blamed = self.digests.first_asking(request).unwrap_or(producer);
                self.fail(blamed, error);
                self.digest_task_ended(producer);
            }
            Finished::Stopped { .. } => self.stop(SolveError::Cancelled),
            Finished::Panicked { .. } => unreachable!("dealt with above"),
        }
    }

    /// Whatever a task gave after the solve was stopped, its vertex was cut short.
    fn take_after_stop(&mut self, finished: &Finished) {
        match finished {
            Finished::Digested { producer, .. }
            | Finished::Failed { task: TaskId::Digest { producer, .. }, .. }
            | Finished::Stopped { task: TaskId::Digest { producer, .. } } => {
                self.digest_task_ended(*producer)
            }
            Finished::Pinned { vertex, .. }
            | Finished::Resolved { vertex, .. }
            | Finished::Materialized { vertex, .. }
            | Finished::Executed { vertex, .. }
            | Finished::Failed { task: TaskId::Vertex(vertex), .. }
            | Finished::Stopped { task: TaskId::Vertex(vertex) } => {
                self.mark_stopped(*vertex);
                if self.vertices[*vertex].told == Told::Started {
                    self.tell_completed(*vertex, Outcome::Cancelled);
                }
            }
            Finished::Panicked { .. } => unreachable!("a panic is resumed at once"),
        }
    }

    /// A vertex failed; if it did so because the build was cancelled, that is the cause.
    fn fail(&mut self, index: Index, error: OpError) {
        if (self.solve.cancelled)() {
            self.stop(SolveError::Cancelled);
            return;
        }
        let node = &self.graph.nodes[index];
        self.mark_stopped(index);
        if self.vertices[index].told == Told::Nothing {
            self.tell(progress::Event::Started { vertex: node.digest, name: node.name().to_owned() });
        }
        self.tell_completed(index, Outcome::Failed(with_causes(&error)));
        self.stop(SolveError::Vertex { vertex: node.digest, error });
    }

    /// Nothing new begins; what runs is told to stop.
    fn stop(&mut self, cause: SolveError) {
        self.cause = Some(cause);
        self.worker.stopping.store(true, Ordering::Relaxed);
        self.queue.clear();
        self.pending.clear();
        (self.solve.cancel)();
    }

    fn mark_stopped(&mut self, index: Index) {
        let state = &mut self.vertices[index].state;
        *state = std::mem::replace(state, VertexState::Idle).on(Event::Stopped);
    }

    fn digest_task_ended(&mut self, producer: Index) {
        let vertex = &mut self.vertices[producer];
        if self.graph.nodes[producer].kind == NodeKind::Local {
            vertex.digest_tasks -= 1;
            if vertex.digest_tasks == 0 {
                self.tell_completed(producer, Outcome::Done);
            }
        }
    }

    /// Says that the work of a task begins, once for each vertex. Resolving an image and digesting what a step made
    /// are not worth a word.
    fn tell_started(&mut self, task: &Task) {
        let index = match task {
            Task::Execute(execution) => execution.vertex,
            Task::Pin { vertex } | Task::Materialize { vertex, .. } => *vertex,
            Task::Digest { selection, .. }
                if self.graph.nodes[selection.producer].kind == NodeKind::Local =>
            {
                selection.producer
            }
            Task::Digest { .. } | Task::Resolve { .. } => return,
        };
        if self.vertices[index].told == Told::Nothing {
            self.vertices[index].told = Told::Started;
            let node = &self.graph.nodes[index];
            self.tell(progress::Event::Started { vertex: node.digest, name: node.name().to_owned() });
        }
    }

    fn tell_completed(&mut self, index: Index, outcome: Outcome) {
        let node = &self.graph.nodes[index];
        self.vertices[index].told = Told::Completed;
        self.tell(progress::Event::Completed { vertex: node.digest, name: node.name().to_owned(), outcome });
    }

    fn tell(&self, event: progress::Event) {
        self.solve.progress.send(event);
    }

    /// Collects results and reports, and completes the story for the progress sink.
    fn finish(mut self) -> Solved {
        let steps = (0..self.vertices.len()).map(|index| self.report(index)).collect();
        for index in 0..self.vertices.len() {
            match (self.vertices[index].told, &self.cause) {
                (Told::Started | Told::Nothing, None) => self.tell_completed(index, Outcome::Cached),
                (Told::Started, Some(_)) => self.tell_completed(index, Outcome::Cancelled),
                _ => {}
            }
        }
        let result = |&(goal, output): &(Index, u32)| {
            let state = &self.vertices[goal].state;
            let outputs = state.outputs().unwrap_or_else(|| unreachable!("stuck: a goal is {state:?}"));
            outputs[usize::try_from(output).expect("outputs were counted")].clone()
        };
        let results = match self.cause.take() {
            Some(cause) => Err(cause),
            None => Ok(self.graph.goals.iter().map(result).collect()),
        };
        Solved { results, steps }
    }

    /// Everything that is known of a vertex.
    fn report(&self, index: Index) -> StepReport {
        let (node, vertex) = (&self.graph.nodes[index], &self.vertices[index]);
        let inputs: Vec<InputReport> = node
            .inputs
            .iter()
            .enumerate()
            .map(|(number, input)| InputReport {
                step: input.vertex,
                output: input.output,
                content: match &vertex.read {
                    // Of a pinned source only the pin is read; it has no inputs.
                    Some(read) => read.content[number].iter().copied().map(Some).collect(),
                    None => self.known_content(input),
                },
            })
            .collect();
        StepReport {
            vertex: node.digest,
            outcome: self.outcome(index),
            outputs: vertex.state.outputs().map(<[ResultRef]>::to_vec).unwrap_or_default(),
            ignored: node
                .ignored_by
                .map(|by| if by == index { Ignored::Itself } else { Ignored::Upstream(by) }),
            lookups: vertex.lookups.clone(),
            op_key: node.op_key,
            definition_key: vertex.definition_key,
            content_key: match node.kind {
                NodeKind::Local | NodeKind::Image => None,
                NodeKind::Pinned => vertex.definition_key,
                NodeKind::Step => vertex
                    .read
                    .as_ref()
                    .map_or_else(|| content_key(&node.op_key, &inputs), |read| Some(read.content_key)),
            },
            pin: vertex.pin,
            inputs,
            started: vertex.work.started,
            took: vertex.work.took,
        }
    }

    fn outcome(&self, index: Index) -> StepOutcome {
        let (node, vertex) = (&self.graph.nodes[index], &self.vertices[index]);
        match (&vertex.state, &self.cause) {
            (VertexState::Done(finished), _) => StepOutcome::Done(finished.outcome),
            (VertexState::Lazy { .. }, _) => StepOutcome::Done(VertexOutcome::Lazy),
            (_, Some(SolveError::Vertex { vertex, .. })) if *vertex == node.digest => StepOutcome::Failed,
            (VertexState::Stopped, _) => StepOutcome::Cancelled,
            (_, Some(_)) if vertex.told == Told::Started => StepOutcome::Cancelled,
            (_, Some(_)) if vertex.undecided > 0 => StepOutcome::NotReached,
            _ => StepOutcome::NotNeeded,
        }
    }

    /// For each selection its content digest, if it is known.
    fn known_content(&self, input: &Input) -> Vec<Option<ContentDigest>> {
        let image = match self.vertices[input.vertex].state.outputs() {
            Some([ResultRef::Image { content, .. }, ..]) => Some(content),
            _ => None,
        };
        let known = |(read, key)| match image {
            Some(content) => Some(cache_map::image_selection(content, read)),
            None => self.digests.known(input.vertex, input.output, key),
        };
        input.selections().map(known).collect()
    }
}

/// The content key, if the content of every input is known.
fn content_key(op_key: &Key, inputs: &[InputReport]) -> Option<Key> {
    let part =
        |input: &InputReport| input.content.iter().copied().collect::<Option<_>>().map(InputKey::Content);
    let parts: Option<Vec<InputKey>> = inputs.iter().map(part).collect();
    Some(cache_map::key(op_key, &parts?))
}

/// An error and what caused it, in one line.
fn with_causes(error: &OpError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // An error that only passes on its source says the same again.
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
