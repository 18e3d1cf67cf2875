//! Builds of the past, read back.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use wharf_cache::history::{BuildId, BuildRow, BuildStatus};
use wharf_cache::{ContentDigest, Key, Store, StoreError};
use wharf_solver::explain::{InputProvenance, Provenance};

use super::asked::Asked;
use super::{ComparedWith, End, Graph, GraphStep, Outcome, VERSION, Work};
use crate::remote::imports::Imports;
use crate::remote::manifest::CacheRecord;

/// Rows of a project that are looked at: for how long its steps took.
const ROWS_MAX: usize = 100;

/// Different graphs of a project that steps are compared with.
const GRAPHS_MAX: usize = 8;

/// Records of a remote cache that steps are compared with.
const CACHE_STEPS_MAX: usize = 4096;

/// Bytes that one of them may say of itself, as JSON; one that says more is left out.
const CACHE_STEP_BYTES_MAX: usize = 256 << 10;

/// Bytes that they may say of themselves together: as much may get into the record of a build.
const CACHE_STEPS_BYTES_MAX: usize = 4 << 20;

/// A build that was recorded. What of it cannot be read is left empty.
#[derive(Debug, Clone)]
pub struct Past {
    /// Its id.
    pub id: BuildId,
    /// When it began.
    pub started: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// How it ended.
    pub status: BuildStatus,
    /// What it consisted of.
    pub graph: Graph,
    /// What came of it.
    pub outcome: Outcome,
}

impl Past {
    fn new(row: &BuildRow, graph: Graph, outcome: Outcome) -> Self {
        let BuildRow { id, started, duration, status, .. } = *row;
        Self { id, started, duration, status, graph, outcome }
    }

    /// How a step ended.
    pub fn end(&self, step: usize) -> End {
        self.outcome.ends.chars().nth(step).map_or(End::NotReached, End::from_code)
    }

    /// What remote caches answered when they were asked for a step.
    pub fn asked(&self, step: usize) -> &[Asked] {
        let asked = self.outcome.asked.iter().find(|asked| asked.step == step);
        asked.map_or(&[], |asked| &asked.places)
    }

    /// What was done for a step.
    pub fn work(&self, step: usize) -> Option<&Work> {
        self.outcome.work.iter().find(|work| work.step == step)
    }
}

/// Reads a build with its graph.
pub fn read_past(store: &Store, row: &BuildRow) -> Result<Past, StoreError> {
    Ok(Past::new(row, graph(store, &row.graph)?.unwrap_or_else(no_graph), outcome(row)))
}

/// What came of a build, without its graph; nothing if another version wrote it.
fn outcome(row: &BuildRow) -> Outcome {
    let outcome: Option<Outcome> = serde_json::from_slice(&row.outcome).ok();
    outcome.filter(|outcome| outcome.version == VERSION).unwrap_or_default()
}

fn graph(store: &Store, digest: &Key) -> Result<Option<Graph>, StoreError> {
    let bytes = store.build_graph(digest)?;
    let graph: Option<Graph> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(graph.filter(|graph| graph.version == VERSION))
}

fn no_graph() -> Graph {
    Graph { version: VERSION, request: super::Request::default(), steps: Vec::new() }
}

/// What a project's new build is compared with, the newest first.
#[derive(Debug, Default)]
pub(super) struct Pasts {
    /// The newest build of each graph; where there is none, remote caches.
    pub(super) earlier: Vec<Earlier>,
    /// How long steps took when they last ran, by index in `earlier` and step.
    took: HashMap<(usize, usize), Duration>,
}

/// Steps that were there before.
#[derive(Debug)]
pub(super) enum Earlier {
    /// Those of a build.
    Build(Box<Past>),
    /// Those of a remote cache: anybody may have written them, so they are good for words alone.
    Cache { place: String, steps: Vec<GraphStep> },
}

impl Earlier {
    /// What it is called.
    pub(super) fn name(&self) -> ComparedWith {
        match self {
            Self::Build(past) => ComparedWith::Build(past.id.to_string()),
            Self::Cache { place, .. } => ComparedWith::Cache(place.clone()),
        }
    }

    /// Its steps.
    pub(super) fn steps(&self) -> &[GraphStep] {
        match self {
            Self::Build(past) => &past.graph.steps,
            Self::Cache { steps, .. } => steps,
        }
    }

    fn steps_mut(&mut self) -> &mut [GraphStep] {
        match self {
            Self::Build(past) => &mut past.graph.steps,
            Self::Cache { steps, .. } => steps,
        }
    }

    /// Whether a step had its result in the end.
    pub(super) fn has_result(&self, step: usize) -> bool {
        match self {
            Self::Build(past) => past.end(step).has_result(),
            Self::Cache { .. } => true,
        }
    }

    /// Of the records of a remote cache; `None` if they do not say what they are made of.
    fn of_cache(place: String, records: &[CacheRecord]) -> Option<Self> {
        let mut steps = Vec::new();
        let mut left = CACHE_STEPS_BYTES_MAX;
        for record in records {
            let Some(said) = &record.provenance else { continue };
            let size = serde_json::to_vec(said).map_or(usize::MAX, |json| json.len());
            if size > CACHE_STEP_BYTES_MAX {
                continue;
            }
            if steps.len() == CACHE_STEPS_MAX || size > left {
                break;
            }
            left -= size;
            // What another version wrote says nothing.
            let provenance: Option<Provenance> = serde_json::from_value(said.clone()).ok();
            if let Some(provenance) = provenance.filter(|provenance| provenance.op == record.op) {
                steps.push(GraphStep { vertex: record.op, provenance });
            }
        }
        (!steps.is_empty()).then_some(Self::Cache { place, steps })
    }
}

impl Pasts {
    /// Reads them. What cannot be read is no past. Where nothing was built yet, the remote caches that were asked tell what
    /// was built elsewhere.
    pub(super) fn load(store: &Store, project: &Key, imports: &Imports<'_>) -> Self {
        let mut pasts = Self::default();
        let mut index_of: HashMap<Key, Option<usize>> = HashMap::new();
        for row in store.builds(Some(project), ROWS_MAX).unwrap_or_default() {
            let outcome = outcome(&row);
            let read = || {
                if pasts.earlier.len() == GRAPHS_MAX {
                    return None;
                }
                // A build that did not get as far as to have steps says nothing.
                let graph =
                    graph(store, &row.graph).ok().flatten().filter(|graph| !graph.steps.is_empty())?;
                pasts.earlier.push(Earlier::Build(Box::new(Past::new(&row, graph, outcome.clone()))));
                Some(pasts.earlier.len() - 1)
            };
            let Some(index) = *index_of.entry(row.graph).or_insert_with(read) else { continue };
            for work in &outcome.work {
                if outcome.ends.chars().nth(work.step) == Some(End::Ran.code()) {
                    pasts.took.entry((index, work.step)).or_insert(Duration::from_micros(work.took_us));
                }
            }
        }
        if pasts.earlier.is_empty() {
            let caches = imports.loaded().filter_map(|(place, records)| Earlier::of_cache(place, records));
            pasts.earlier.extend(caches.take(GRAPHS_MAX));
        }
        pasts.complete();
        pasts
    }

    /// These builds.
    pub(super) fn of(builds: Vec<Past>) -> Self {
        let earlier = builds.into_iter().map(|past| Earlier::Build(Box::new(past))).collect();
        let mut pasts = Self { earlier, took: HashMap::new() };
        pasts.complete();
        pasts
    }

    /// How long a step took when it last ran.
    pub(super) fn took(&self, earlier: usize, step: usize) -> Option<Duration> {
        self.took.get(&(earlier, step)).copied()
    }

    /// A build that was all cached knows no contents of what its steps made; another one, of the same steps, may.
    fn complete(&mut self) {
        let mut known: HashMap<(Key, u32, String), ContentDigest> = HashMap::new();
        let place = |input: &InputProvenance, reads: &str| {
            Some((input.definition_key?, input.output, reads.to_owned()))
        };
        for input in self.earlier.iter().flat_map(Earlier::steps).flat_map(|step| &step.provenance.inputs) {
            for selection in &input.selections {
                if let (Some(place), Some(content)) = (place(input, &selection.reads), selection.content) {
                    known.entry(place).or_insert(content);
                }
            }
        }
        let steps = self.earlier.iter_mut().flat_map(Earlier::steps_mut);
        for input in steps.flat_map(|step| &mut step.provenance.inputs) {
            let (key, output) = (input.definition_key, input.output);
            for selection in &mut input.selections {
                if let (None, Some(key)) = (selection.content, key) {
                    selection.content = known.get(&(key, output, selection.reads.clone())).copied();
                }
            }
        }
    }
}
