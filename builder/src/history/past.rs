//! Builds of the past, read back.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use wharf_cache::history::{BuildId, BuildRow, BuildStatus};
use wharf_cache::{ContentDigest, Key, Store, StoreError};
use wharf_solver::explain::InputProvenance;

use super::{End, Graph, Outcome, VERSION, Work};

/// Rows of a project that are looked at: for how long its steps took.
const ROWS_MAX: usize = 100;

/// Different graphs of a project that steps are compared with.
const GRAPHS_MAX: usize = 8;

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
    /// The newest build of each graph.
    pub(super) builds: Vec<Past>,
    /// How long steps took when they last ran, by build of `builds` and step.
    took: HashMap<(usize, usize), Duration>,
}

impl Pasts {
    /// Reads them. What cannot be read is no past.
    pub(super) fn load(store: &Store, project: &Key) -> Self {
        let mut pasts = Self::default();
        let mut index_of: HashMap<Key, Option<usize>> = HashMap::new();
        for row in store.builds(Some(project), ROWS_MAX).unwrap_or_default() {
            let outcome = outcome(&row);
            let read = || {
                if pasts.builds.len() == GRAPHS_MAX {
                    return None;
                }
                // A build that did not get as far as to have steps says nothing.
                let graph =
                    graph(store, &row.graph).ok().flatten().filter(|graph| !graph.steps.is_empty())?;
                pasts.builds.push(Past::new(&row, graph, outcome.clone()));
                Some(pasts.builds.len() - 1)
            };
            let Some(index) = *index_of.entry(row.graph).or_insert_with(read) else { continue };
            for work in &outcome.work {
                if outcome.ends.chars().nth(work.step) == Some(End::Ran.code()) {
                    pasts.took.entry((index, work.step)).or_insert(Duration::from_micros(work.took_us));
                }
            }
        }
        pasts.complete();
        pasts
    }

    /// These builds.
    pub(super) fn of(builds: Vec<Past>) -> Self {
        let mut pasts = Self { builds, took: HashMap::new() };
        pasts.complete();
        pasts
    }

    /// How long a step took when it last ran.
    pub(super) fn took(&self, build: usize, step: usize) -> Option<Duration> {
        self.took.get(&(build, step)).copied()
    }

    /// A build that was all cached knows no contents of what its steps made; another one, of the same steps, may.
    fn complete(&mut self) {
        let mut known: HashMap<(Key, u32, String), ContentDigest> = HashMap::new();
        let place = |input: &InputProvenance, reads: &str| {
            Some((input.definition_key?, input.output, reads.to_owned()))
        };
        for input in
            self.builds.iter().flat_map(|build| &build.graph.steps).flat_map(|step| &step.provenance.inputs)
        {
            for selection in &input.selections {
                if let (Some(place), Some(content)) = (place(input, &selection.reads), selection.content) {
                    known.entry(place).or_insert(content);
                }
            }
        }
        let steps = self.builds.iter_mut().flat_map(|build| &mut build.graph.steps);
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
