//! Listens to a build and records it when it is over.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use wharf_cache::history::{self as store, BuildId, BuildLogs, BuildRow, BuildStatus, NewGraph};
use wharf_cache::{ContentDigest, Key, Store};
use wharf_solver::explain::provenance;
use wharf_solver::llb::{Definition, Op, VertexDigest};
use wharf_solver::progress::{Event, LogStream, Sink};
use wharf_solver::scheduler::StepReport;

use super::asked::{Answers, StepAsked};
use super::explain::{Explained, ExplainedBuild, Explainer, missed};
use super::past::Pasts;
use super::{End, Graph, GraphStep, Outcome, Request, SelectedFiles, VERSION, Work};
use crate::build::BuildRequest;
use crate::context::spec::redacted;
use crate::context::{ContextSpec, DockerfileSpec};
use crate::error::{Failure, Kind};
use crate::exporter::spec::Output;
use crate::progress::Progress;
use crate::remote::imports::{Imports, Unused};

/// What a build is of, and what it was asked for.
#[derive(Debug, Clone)]
pub struct RequestSummary {
    /// Equal for builds of one context and Dockerfile.
    pub project: Key,
    /// In words.
    pub request: Request,
}

impl RequestSummary {
    /// Of a request for `platform`.
    pub fn of(request: &BuildRequest, platform: &impl fmt::Display) -> Self {
        let project = project(&request.context, request.dockerfile.as_ref());
        let context = match &request.context {
            ContextSpec::Path(path) => place(path).display().to_string(),
            other => other.to_string(),
        };
        let dockerfile = request.dockerfile.as_ref().map(|dockerfile| match dockerfile {
            DockerfileSpec::Stdin => "-".to_owned(),
            DockerfileSpec::Http(url) => redacted(url),
            DockerfileSpec::Path(path) => path.display().to_string(),
        });
        let names = request.outputs.iter().flat_map(Output::names).cloned();
        let args = request.build_args.iter().map(|(name, value)| (name.clone(), redacted(value)));
        let contexts = request.contexts.iter().map(|(name, spec)| (name.clone(), spec.to_string()));
        let request = Request {
            context,
            dockerfile,
            target: request.target.clone(),
            platform: platform.to_string(),
            build_args: args.collect(),
            contexts: contexts.collect::<BTreeMap<_, _>>(),
            names: names.collect(),
            no_cache: request.no_cache,
            no_cache_stages: request.no_cache_stages.clone(),
        };
        Self { project, request }
    }
}

/// What tells projects apart: context and Dockerfile. Who asks for them is no part of that, and nothing is kept of it.
fn project(context: &ContextSpec, dockerfile: Option<&DockerfileSpec>) -> Key {
    let mut project = blake3::Hasher::new_derive_key("wharf project, version 1");
    let mut part = |kind: u8, text: &OsStr| {
        project.update(&[kind]).update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    match context {
        ContextSpec::Path(path) => part(0, place(path).as_os_str()),
        ContextSpec::Stdin => part(1, OsStr::new("")),
        ContextSpec::Http(text) | ContextSpec::Git(text) => part(2, OsStr::new(&place_of(text))),
        ContextSpec::Image(text) | ContextSpec::Stage(text) => part(3, OsStr::new(text)),
    }
    match dockerfile {
        None => part(4, OsStr::new("")),
        Some(DockerfileSpec::Stdin) => part(5, OsStr::new("")),
        Some(DockerfileSpec::Http(url)) => part(6, OsStr::new(&place_of(url))),
        Some(DockerfileSpec::Path(path)) => part(7, place(path).as_os_str()),
    }
    Key(*project.finalize().as_bytes())
}

/// A URL without anything that says who asks.
fn place_of(url: &str) -> String {
    let shown = redacted(url);
    let Some((scheme, rest)) = shown.split_once("://") else { return shown };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// Where a path leads; itself if it leads nowhere.
fn place(path: &Path) -> std::path::PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Hears all that a build does.
#[derive(Debug)]
pub struct Recorder<'a> {
    store: &'a Store,
    progress: &'a Progress,
    id: BuildId,
    summary: RequestSummary,
    started: SystemTime,
    clock: Instant,
    /// The files that are read.
    pub files: SelectedFiles,
    logs: BuildLogs,
    begun: Mutex<HashMap<VertexDigest, Instant>>,
    /// Sources of which something was transferred or unpacked.
    brought: Mutex<HashSet<VertexDigest>>,
    solved: Mutex<Option<Solved>>,
}

/// What is known when the graph was solved.
#[derive(Debug)]
struct Solved {
    graph: Key,
    new_graph: Option<NewGraph>,
    ends: String,
    work: Vec<Work>,
    asked: Vec<StepAsked>,
    caches_not_used: Vec<Unused>,
    explained: Vec<Explained>,
}

impl Sink for Recorder<'_> {
    fn send(&self, event: Event) {
        match &event {
            Event::Started { vertex, .. } => {
                self.begun().entry(*vertex).or_insert_with(Instant::now);
            }
            Event::Log { vertex, stream, data } => {
                let begun = *self.begun().entry(*vertex).or_insert_with(Instant::now);
                let stream = match stream {
                    LogStream::Stdout => store::LogStream::Stdout,
                    LogStream::Stderr => store::LogStream::Stderr,
                };
                self.logs.append(&Key(vertex.0), begun.elapsed(), stream, data);
            }
            Event::Completed { vertex, .. } => self.logs.close(&Key(vertex.0)),
            Event::Status { vertex, .. } => {
                self.brought().insert(*vertex);
            }
            Event::Warning { .. } => {}
        }
        self.progress.send(event);
    }
}

impl<'a> Recorder<'a> {
    /// A build begins.
    pub fn start(store: &'a Store, progress: &'a Progress, summary: RequestSummary) -> std::io::Result<Self> {
        Ok(Self {
            store,
            progress,
            id: BuildId::random()?,
            summary,
            started: SystemTime::now(),
            clock: Instant::now(),
            files: SelectedFiles::default(),
            logs: BuildLogs::new(store),
            begun: Mutex::default(),
            brought: Mutex::default(),
            solved: Mutex::default(),
        })
    }

    /// What the build is called.
    pub fn id(&self) -> BuildId {
        self.id
    }

    fn begun(&self) -> std::sync::MutexGuard<'_, HashMap<VertexDigest, Instant>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The build begins again: what a step does from now on is what it did.
    pub fn begin_again(&self) {
        self.begun().clear();
        self.brought().clear();
        self.logs.begin_again();
    }

    fn brought(&self) -> std::sync::MutexGuard<'_, HashSet<VertexDigest>> {
        self.brought.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a step ended. There was nothing to do for an image of which nothing was brought in.
    fn end(&self, definition: &Definition, report: &StepReport) -> End {
        let is_image = || match &definition.vertex(&report.vertex).op {
            Op::Source(source) => matches!(source.scheme(), "docker-image" | "oci-layout"),
            _ => false,
        };
        match End::of(report.outcome) {
            End::Ran if is_image() && !self.brought().contains(&report.vertex) => End::Here,
            end => end,
        }
    }

    /// The graph was solved, or not; a later solve of the same build counts instead. Compares every step that missed with
    /// what was built before, and notes what was asked of remote caches.
    pub fn solved(&self, definition: &Definition, steps: &[StepReport], imports: &Imports<'_>) {
        let graph = graph_digest(&self.summary, definition, steps);
        // What cannot be looked up is described again.
        let is_known = self.store.has_build_graph(&graph).unwrap_or(false);
        let ends: Vec<End> = steps.iter().map(|report| self.end(definition, report)).collect();
        let is_miss = |(report, end): (&StepReport, &End)| *end != End::Here && missed(report);
        let misses: Vec<bool> = steps.iter().zip(&ends).map(is_miss).collect();
        let described = (!is_known || misses.contains(&true)).then(|| Graph {
            version: VERSION,
            request: self.summary.request.clone(),
            steps: describe(definition, steps),
        });
        let mut whys = BTreeMap::new();
        if let Some(described) = described.as_ref().filter(|_| misses.contains(&true)) {
            let pasts = Pasts::load(self.store, &self.summary.project, imports);
            let explainer = Explainer::new(self.store, &self.files, &pasts, described);
            for (index, report) in steps.iter().enumerate().filter(|(index, _)| misses[*index]) {
                whys.insert(index, explainer.why(index, report));
            }
        }
        let answers = Answers::of(imports);
        let asked = steps
            .iter()
            .enumerate()
            .map(|(step, report)| StepAsked { step, places: answers.of_step(report) });
        let asked: Vec<StepAsked> = asked.collect();
        let explained = steps.iter().zip(&asked).enumerate().map(|(index, (report, asked))| {
            let name = definition.vertex(&report.vertex).metadata.name.clone();
            let why = whys.get(&index).cloned().unwrap_or_default();
            Explained::of_report(index, name, ends[index], report, why, asked.places.clone())
        });
        let explained: Vec<Explained> = explained.collect();
        let work = steps.iter().enumerate().filter_map(|(index, report)| {
            let why = whys.remove(&index).unwrap_or_default();
            (report.started.is_some() || why != Default::default()).then(|| Work {
                step: index,
                started_us: micros(report.started.unwrap_or_default()),
                took_us: micros(report.took),
                why,
            })
        });
        let solved = Solved {
            graph,
            ends: ends.iter().map(|end| end.code()).collect(),
            work: work.collect(),
            new_graph: described.filter(|_| !is_known).and_then(|graph| self.new_graph(&graph)),
            asked: asked.into_iter().filter(|asked| !asked.places.is_empty()).collect(),
            caches_not_used: imports.unused(),
            explained,
        };
        *self.solved.lock().unwrap_or_else(PoisonError::into_inner) = Some(solved);
    }

    /// The description with the file lists that are not kept yet.
    fn new_graph(&self, graph: &Graph) -> Option<NewGraph> {
        let bytes = serde_json::to_vec(graph).ok()?;
        let contents = graph.steps.iter().flat_map(|step| &step.provenance.inputs);
        let contents = contents.flat_map(|input| &input.selections).filter_map(|selection| selection.content);
        let lists: Vec<ContentDigest> = contents.filter(|content| self.files.have(content)).collect();
        let mut new_lists = BTreeMap::new();
        for content in &lists {
            if !new_lists.contains_key(&content.0)
                && !self.store.has_file_list(content).unwrap_or(false)
                && let Some(list) = self.files.list(content)
            {
                new_lists.insert(content.0, (*content, list));
            }
        }
        Some(NewGraph { bytes, lists, new_lists: new_lists.into_values().collect() })
    }

    /// The build is over: records it. What goes wrong with that is a warning. Gives back what there is to say about the
    /// steps.
    pub fn finish(self, image: Option<String>, failure: Option<&Failure>) -> ExplainedBuild {
        let solved = self.solved.into_inner().unwrap_or_else(PoisonError::into_inner);
        let solved = solved.unwrap_or_else(|| {
            // It did not get that far: there is what was asked for.
            let graph = graph_digest(&self.summary, &Definition::default(), &[]);
            let described =
                Graph { version: VERSION, request: self.summary.request.clone(), steps: Vec::new() };
            let is_known = self.store.has_build_graph(&graph).unwrap_or(false);
            let new_graph = serde_json::to_vec(&described).ok().filter(|_| !is_known);
            let new_graph =
                new_graph.map(|bytes| NewGraph { bytes, lists: Vec::new(), new_lists: Vec::new() });
            Solved {
                graph,
                new_graph,
                ends: String::new(),
                work: Vec::new(),
                asked: Vec::new(),
                caches_not_used: Vec::new(),
                explained: Vec::new(),
            }
        });
        let status = match failure {
            None => BuildStatus::Succeeded,
            Some(failure) if failure.kind == Kind::Cancelled => BuildStatus::Cancelled,
            Some(_) => BuildStatus::Failed,
        };
        let outcome = Outcome {
            version: VERSION,
            image,
            error: failure.map(|failure| failure.message.clone()),
            ends: solved.ends,
            work: solved.work,
            asked: solved.asked,
            caches_not_used: solved.caches_not_used,
        };
        let row = BuildRow {
            id: self.id,
            project: self.summary.project,
            started: self.started,
            duration: self.clock.elapsed(),
            status,
            graph: solved.graph,
            outcome: serde_json::to_vec(&outcome).unwrap_or_default(),
            log_bytes: 0,
        };
        let recorded = self.store.record_build(&row, solved.new_graph.as_ref(), self.logs);
        let (doing, error) = match recorded {
            Ok(None) => ("", None),
            Ok(Some(error)) => ("logs of this build are incomplete in its record", Some(error)),
            Err(error) => ("this build is not in the history", Some(error)),
        };
        if let Some(error) = error {
            self.progress.warn(format!("warning: {doing}: {}", crate::error::causes(&error)));
        }
        ExplainedBuild::new(&row, outcome, solved.explained)
    }
}

/// What a graph is known by: the request, and of each step its name, what it is and what it reads. All that
/// [`describe`] makes follows from these.
fn graph_digest(summary: &RequestSummary, definition: &Definition, steps: &[StepReport]) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key("wharf graph of a build, version 1");
    let request = serde_json::to_vec(&summary.request).unwrap_or_default();
    frame(&mut hasher, &request);
    for step in steps {
        hasher.update(&step.vertex.0).update(&step.op_key.0);
        frame(&mut hasher, definition.vertex(&step.vertex).metadata.name.as_bytes());
        option(&mut hasher, step.definition_key.as_ref().map(|key| &key.0));
        option(&mut hasher, step.content_key.as_ref().map(|key| &key.0));
        option(&mut hasher, step.pin.as_ref().map(|pin| &pin.0));
        for content in step.inputs.iter().flat_map(|input| &input.content) {
            option(&mut hasher, content.as_ref().map(|content| &content.0));
        }
    }
    Key(*hasher.finalize().as_bytes())
}

fn option(hasher: &mut blake3::Hasher, bytes: Option<&[u8; 32]>) {
    match bytes {
        None => hasher.update(&[0]),
        Some(bytes) => hasher.update(&[1]).update(bytes),
    };
}

fn frame(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}

/// What the keys of every step are made of.
pub(super) fn describe<O>(definition: &Definition, steps: &[StepReport<O>]) -> Vec<GraphStep> {
    let step = |(index, report): (usize, &StepReport<O>)| GraphStep {
        vertex: Key(report.vertex.0),
        provenance: provenance(definition, steps, index),
    };
    steps.iter().enumerate().map(step).collect()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_the_same_whoever_builds_it() {
        let git = |text: &str| project(&ContextSpec::Git(text.to_owned()), None);
        let http = |text: &str| {
            let dockerfile = DockerfileSpec::Http(format!("{text}/Dockerfile"));
            project(&ContextSpec::Http(text.to_owned()), Some(&dockerfile))
        };
        let one = git("https://user:secret@a.io/b.git#main");
        for other in [
            "https://token:other@a.io/b.git#main",
            "https://token@a.io/b.git#main",
            "https://a.io/b.git#main",
        ] {
            assert_eq!(one, git(other), "{other}");
        }
        assert_ne!(one, git("https://user:secret@a.io/b.git#next"));
        assert_eq!(http("https://u:p@a.io/x?signature=1"), http("https://u:q@a.io/x?signature=2"));
        assert_ne!(http("https://a.io/x"), http("https://a.io/y"));
    }
}
