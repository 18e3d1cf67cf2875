//! A world to solve in: file systems are maps, operations are functions of them, the store is a few tables.
//! [`apply`] gives operations their meaning, for the scheduler's resolver and for the naive evaluator alike.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use wharf_cache::{Chain, ContentDigest, Key, SnapshotId};

use crate::cache_map::{Reads, RecordKey};
use crate::llb::{ActionInput, CopyAction, Definition, Edge, FileChange, Op, Vertex, VertexDigest};
use crate::op::{CacheManager, OpError, OpResolver, ResultRef, local_name};
use crate::progress::{Event, Outcome, Sink};
use crate::scheduler::{Limits, Solve, SolveError, Solved, StepReport, solve};

/// A file system: paths and contents.
pub(super) type Files = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct WorldError(pub(super) String);

type OnExecute = Box<dyn Fn(&str) -> Result<(), WorldError> + Sync>;
type OnDigest = Box<dyn Fn(&str) + Sync>;

#[derive(Default)]
pub(super) struct World {
    pub(super) locals: BTreeMap<String, Files>,
    pub(super) images: BTreeMap<String, Files>,
    /// Sources from the network that change, by identifier.
    pub(super) remotes: BTreeMap<String, Files>,
    local_names: Mutex<HashMap<VertexDigest, String>>,
    snapshots: Mutex<Vec<Files>>,
    pub(super) records: Mutex<HashMap<Key, Vec<Chain>>>,
    ops: Mutex<HashSet<Key>>,
    pub(super) journal: Mutex<Journal>,
    /// Called before a step runs, with its name.
    pub(super) on_execute: Option<OnExecute>,
    /// Called before a content digest is made, with the producer's name.
    pub(super) on_digest: Option<OnDigest>,
    pub(super) cancelled: AtomicBool,
    pub(super) jobs: usize,
    pub(super) limits: Limits,
    /// Goes on by one millisecond whenever it is asked.
    pub(super) clock: AtomicU64,
}

/// A solve that went well.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) results: Vec<ResultRef>,
    pub(super) steps: Vec<StepReport>,
}

/// What happened, in order.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) executed: Vec<VertexDigest>,
    pub(super) materialized: Vec<VertexDigest>,
    pub(super) resolved: usize,
    pub(super) digests: usize,
    pub(super) lookups: usize,
    pub(super) locked: Vec<Key>,
    pub(super) cancels: usize,
    pub(super) completed: Vec<VertexDigest>,
    pub(super) events: Vec<Event>,
}

impl World {
    /// Solves in this world; what happened is in the journal, which starts empty.
    pub(super) fn solve(&self, definition: &Definition, goals: &[Edge]) -> Result<Done, SolveError> {
        let Solved { results, steps } = self.solve_reporting(definition, goals);
        Ok(Done { results: results?, steps })
    }

    /// As [`Self::solve`], with the reports of a failure.
    pub(super) fn solve_reporting(&self, definition: &Definition, goals: &[Edge]) -> Solved {
        *self.journal.lock().unwrap() = Journal::default();
        let locals = definition.iter().filter_map(|(digest, vertex)| match &vertex.op {
            Op::Source(source) => Some((*digest, local_name(source)?.to_owned())),
            _ => None,
        });
        *self.local_names.lock().unwrap() = locals.collect();
        solve(&Solve {
            definition,
            goals,
            resolver: self,
            cache: self,
            progress: self,
            completed: &|vertex, _| self.journal.lock().unwrap().completed.push(*vertex),
            cancelled: &|| self.cancelled.load(Ordering::SeqCst),
            cancel: &|| self.journal.lock().unwrap().cancels += 1,
            jobs: self.jobs,
            limits: self.limits,
            clock: &|| Duration::from_millis(self.clock.fetch_add(1, Ordering::SeqCst)),
        })
    }

    /// The files a result stands for.
    pub(super) fn files(&self, definition: &Definition, result: &ResultRef) -> Files {
        match result {
            ResultRef::Local(vertex) | ResultRef::Image { vertex, .. } => {
                self.source(definition.vertex(vertex)).unwrap()
            }
            ResultRef::Snapshots(chain) => self.snapshot(chain),
        }
    }

    fn snapshot(&self, chain: &Chain) -> Files {
        let snapshots = self.snapshots.lock().unwrap();
        chain.0.last().map(|id| snapshots[usize::try_from(id.0).unwrap()].clone()).unwrap_or_default()
    }

    fn commit(&self, files: Files) -> Chain {
        let mut snapshots = self.snapshots.lock().unwrap();
        snapshots.push(files);
        Chain(vec![SnapshotId(snapshots.len() as u64 - 1)])
    }

    /// The files of a local directory, an image, or a source from the network that changes.
    pub(super) fn source(&self, vertex: &Vertex) -> Option<Files> {
        let Op::Source(source) = &vertex.op else { return None };
        if let Some(files) = self.remotes.get(&source.identifier) {
            return Some(files.clone());
        }
        match source.is_local() {
            true => self.locals.get(source.name()).cloned(),
            false => self.images.get(source.pinned_digest()?).cloned(),
        }
    }

    /// Each vertex that ran in the last solve, by name.
    pub(super) fn executed(&self, definition: &Definition) -> Vec<String> {
        let journal = self.journal.lock().unwrap();
        journal.executed.iter().map(|digest| definition.vertex(digest).metadata.name.clone()).collect()
    }

    /// The events of the last solve as lines.
    pub(super) fn story(&self) -> String {
        let line = |event: &Event| match event {
            Event::Started { name, .. } => format!("{name}: started\n"),
            Event::Completed { name, outcome, .. } => match outcome {
                Outcome::Failed(why) => format!("{name}: failed: {why}\n"),
                outcome => format!("{name}: {}\n", format!("{outcome:?}").to_lowercase()),
            },
            other => format!("{other:?}\n"),
        };
        self.journal.lock().unwrap().events.iter().map(line).collect()
    }
}

/// Content digest of files.
pub(super) fn digest_of(files: &Files) -> ContentDigest {
    blake3::hash(format!("{files:?}").as_bytes()).into()
}

/// What a selection holds, under names that do not depend on where it is.
pub(super) fn select(files: &Files, reads: &Reads) -> Result<Files, WorldError> {
    match reads {
        Reads::Whole => Ok(files.clone()),
        Reads::Path(path) => Ok(below(files, path)),
        Reads::Copies(copies) => {
            let mut selected = Files::new();
            for (index, copy) in copies.iter().enumerate() {
                for (path, content) in copied(files, copy)? {
                    selected.insert(format!("{index}{path}"), content);
                }
            }
            Ok(selected)
        }
    }
}

/// A file under its name, or a directory's files by their paths in it.
fn copied(files: &Files, copy: &CopyAction) -> Result<Files, WorldError> {
    if let Some(content) = files.get(&copy.src) {
        let name = copy.src.rsplit('/').next().unwrap_or_default();
        return Ok(Files::from([(format!("/{name}"), content.clone())]));
    }
    let found = below(files, &copy.src);
    if found.is_empty() && !copy.allow_empty_wildcard {
        return Err(WorldError(format!("`{}` not found", copy.src)));
    }
    Ok(found)
}

fn below(files: &Files, dir: &str) -> Files {
    let relative = |(path, content): (&String, &String)| {
        Some((path.strip_prefix(dir)?.to_owned(), content.clone())).filter(|(path, _)| path.starts_with('/'))
    };
    files.iter().filter_map(relative).collect()
}

/// What an operation makes of its inputs.
///
/// An exec writes a digest of everything it reads to the file that its first argument names, modulo what its second
/// argument says: a small number makes it give the same result for different inputs.
pub(super) fn apply(vertex: &Vertex, inputs: &[Files]) -> Result<Vec<Files>, WorldError> {
    match &vertex.op {
        Op::Source(source) => Ok(vec![Files::from([("/fetched".into(), source.identifier.clone())])]),
        Op::Exec(exec) => {
            let mut root = Files::new();
            let mut seen = format!("{:?}", exec.meta.args);
            for mount in &exec.mounts {
                let files = mount.input.map(|input| inputs[input].clone()).unwrap_or_default();
                if mount.target == "/" {
                    root = files;
                    seen.push_str(&format!("{root:?}"));
                } else {
                    seen.push_str(&format!("{}{:?}", mount.target, below(&files, &mount.selector)));
                }
            }
            let hash = blake3::hash(seen.as_bytes());
            let modulus: u64 = exec.meta.args[1].parse().unwrap();
            let number = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()) % modulus;
            root.insert(exec.meta.args[0].clone(), number.to_string());
            Ok(vec![root])
        }
        Op::File(file) => {
            let mut results: Vec<Files> = Vec::new();
            for action in &file.actions {
                let at = |input: ActionInput| match input {
                    ActionInput::Scratch => Files::new(),
                    ActionInput::Input(input) => inputs[input].clone(),
                    ActionInput::Action(action) => results[action].clone(),
                };
                let mut files = at(action.base);
                match &action.change {
                    FileChange::Copy(copy) => {
                        let from = at(copy.from.unwrap());
                        let placed = copied(&from, copy)?;
                        files.extend(
                            placed.into_iter().map(|(path, file)| (format!("{}{path}", copy.dest), file)),
                        );
                    }
                    FileChange::MkFile { path, data, .. } => {
                        files.insert(path.clone(), String::from_utf8(data.clone()).unwrap());
                    }
                    change => panic!("{change:?} is not part of this world"),
                }
                results.push(files);
            }
            Ok(vec![results.pop().unwrap_or_default()])
        }
        Op::Merge(_) => Ok(vec![inputs.iter().flatten().map(|(a, b)| (a.clone(), b.clone())).collect()]),
        Op::Diff(_) => {
            let (lower, upper) = (&inputs[0], &inputs[1]);
            let new = upper.iter().filter(|(path, content)| lower.get(*path) != Some(*content));
            Ok(vec![new.map(|(path, content)| (path.clone(), content.clone())).collect()])
        }
    }
}

impl OpResolver for World {
    fn resolve_source(&self, digest: &VertexDigest, vertex: &Vertex) -> Result<ResultRef, OpError> {
        self.journal.lock().unwrap().resolved += 1;
        let files = self.source(vertex).ok_or_else(|| OpError::new(WorldError("no such image".into())))?;
        Ok(ResultRef::Image { vertex: *digest, content: digest_of(&files) })
    }

    fn pin_source(&self, _: &VertexDigest, vertex: &Vertex) -> Result<ContentDigest, OpError> {
        let made = || apply(vertex, &[]).map(|mut files| files.remove(0));
        let files = self.source(vertex).map_or_else(made, Ok).map_err(OpError::new)?;
        match files.contains_key("/gone") {
            true => Err(OpError::new(WorldError("the source is gone".into()))),
            false => Ok(digest_of(&files)),
        }
    }

    fn content_digest(
        &self,
        vertex: &Vertex,
        result: &ResultRef,
        reads: &Reads,
    ) -> Result<ContentDigest, OpError> {
        self.journal.lock().unwrap().digests += 1;
        if let Some(on_digest) = &self.on_digest {
            on_digest(&vertex.metadata.name);
        }
        let files = match result {
            ResultRef::Image { .. } => panic!("images are never digested"),
            ResultRef::Local(_) => self.source(vertex).unwrap(),
            ResultRef::Snapshots(chain) => self.snapshot(chain),
        };
        Ok(digest_of(&select(&files, reads).map_err(OpError::new)?))
    }

    fn materialize(&self, digest: &VertexDigest, vertex: &Vertex, _: &ResultRef) -> Result<Chain, OpError> {
        self.journal.lock().unwrap().materialized.push(*digest);
        if let Some(on_execute) = &self.on_execute {
            on_execute(&vertex.metadata.name).map_err(OpError::new)?;
        }
        Ok(self.commit(self.source(vertex).unwrap()))
    }

    fn execute(
        &self,
        digest: &VertexDigest,
        vertex: &Vertex,
        inputs: &[ResultRef],
    ) -> Result<Vec<Chain>, OpError> {
        self.journal.lock().unwrap().executed.push(*digest);
        if let Some(on_execute) = &self.on_execute {
            on_execute(&vertex.metadata.name).map_err(OpError::new)?;
        }
        let inputs: Vec<Files> = inputs
            .iter()
            .map(|input| match input {
                ResultRef::Local(vertex) => {
                    let names = self.local_names.lock().unwrap();
                    self.locals[&names[vertex]].clone()
                }
                ResultRef::Image { .. } => panic!("a step got an image that was not brought in"),
                ResultRef::Snapshots(chain) => self.snapshot(chain),
            })
            .collect();
        if let Some(files) = self.source(vertex) {
            return Ok(vec![self.commit(files)]);
        }
        let outputs = apply(vertex, &inputs).map_err(OpError::new)?;
        Ok(outputs.into_iter().map(|files| self.commit(files)).collect())
    }
}

impl CacheManager for World {
    fn lookup(&self, key: &Key) -> Result<Option<Vec<Chain>>, OpError> {
        self.journal.lock().unwrap().lookups += 1;
        Ok(self.records.lock().unwrap().get(key).cloned())
    }

    fn knows_op(&self, op: &Key) -> Result<bool, OpError> {
        Ok(self.ops.lock().unwrap().contains(op))
    }

    fn store(&self, keys: &[RecordKey], op: &Key, outputs: &[Chain]) -> Result<(), OpError> {
        let mut records = self.records.lock().unwrap();
        records.extend(keys.iter().map(|key| (key.key, outputs.to_vec())));
        self.ops.lock().unwrap().insert(*op);
        Ok(())
    }

    fn lock(&self, key: &Key) -> Result<Box<dyn Send>, OpError> {
        self.journal.lock().unwrap().locked.push(*key);
        Ok(Box::new(()))
    }
}

impl Sink for World {
    fn send(&self, event: Event) {
        self.journal.lock().unwrap().events.push(event);
    }
}

/// The twin: no cache, no order, no threads.
pub(super) fn naive(world: &World, definition: &Definition, edge: Edge) -> Files {
    let vertex = definition.vertex(&edge.vertex);
    if let Some(files) = world.source(vertex) {
        return files;
    }
    let inputs: Vec<Files> = vertex.inputs.iter().map(|input| naive(world, definition, *input)).collect();
    apply(vertex, &inputs).unwrap()[usize::try_from(edge.output).unwrap()].clone()
}

/// The vertices that the goals need.
pub(super) fn reachable(definition: &Definition, goals: &[Edge]) -> BTreeSet<VertexDigest> {
    let mut found = BTreeSet::new();
    let mut left: Vec<VertexDigest> = goals.iter().map(|goal| goal.vertex).collect();
    while let Some(digest) = left.pop() {
        if found.insert(digest) {
            left.extend(definition.vertex(&digest).inputs.iter().map(|input| input.vertex));
        }
    }
    found
}
