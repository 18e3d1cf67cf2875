//! A build's record, and what is said about its steps.
//!
//! ```text
//! solve ──▶ reports of steps ──▶ Recorder ──▶ the store: graph (once by digest), outcome, logs, file lists
//!                                    │ misses
//!                     Pasts ──▶ explain ──▶ why each step ran: --explain, `wharf history`
//! plan  ──▶ reports of steps ────────┘      and what would run: --plan
//! ```
//! A machine that has not built a project yet has no past of it: its place is taken by what remote caches say of their
//! records.
//!
//! A build that did nothing new pays for one small row: what a build consists of is known by a digest of what the solve
//! reports, and only a new one is described. Nothing here can fail a build.

pub mod asked;
pub mod compare;
pub mod explain;
mod matching;
mod past;
pub mod plan;
mod recorder;
pub mod text;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use wharf_cache::history::DOCUMENT_BYTES_MAX;
use wharf_cache::{ContentDigest, Key, Store};
use wharf_solver::explain::{Provenance, Reason};
use wharf_solver::scheduler::{StepOutcome, VertexOutcome};

use crate::context::files::Files;
use crate::remote::imports::Unused;
use asked::StepAsked;

pub use past::{Past, read_past};
pub use recorder::{Recorder, RequestSummary};

/// Version of the JSON of [`Graph`] and [`Outcome`].
const VERSION: u32 = 1;

/// What a build consists of, and what it was asked for: the same for all builds of the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// Version of this form.
    pub version: u32,
    /// What was asked for.
    pub request: Request,
    /// Every vertex that the result can depend on, inputs first. None if the build did not get that far.
    pub steps: Vec<GraphStep>,
}

/// What was asked for, in words. Credentials in URLs are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Request {
    /// The main context.
    pub context: String,
    /// The Dockerfile, if it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<String>,
    /// The stage, if it was named.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// The platform.
    pub platform: String,
    /// Build arguments.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub build_args: BTreeMap<String, String>,
    /// Further contexts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contexts: BTreeMap<String, String>,
    /// Names of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Whether all steps were to be run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_cache: bool,
    /// The stages whose steps were to be run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_cache_stages: Vec<String>,
}

/// A vertex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphStep {
    /// Its digest: what its log is called.
    pub vertex: Key,
    /// What its keys are made of.
    #[serde(flatten)]
    pub provenance: Provenance,
}

/// What came of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Version of this form.
    pub version: u32,
    /// The image id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Why there is no result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How each step of the graph ended: [`End::code`].
    #[serde(default)]
    pub ends: String,
    /// The steps that something was done for.
    #[serde(default)]
    pub work: Vec<Work>,
    /// The steps that remote caches were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<StepAsked>,
    /// Remote caches that were not asked, or not any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches_not_used: Vec<Unused>,
}

/// What was done for a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Index of the step in its graph.
    pub step: usize,
    /// Microseconds from the begin of the solve.
    pub started_us: u64,
    /// Microseconds that it took.
    pub took_us: u64,
    /// Why it was not taken from the cache.
    #[serde(default, skip_serializing_if = "Why::is_nothing")]
    pub why: Why,
}

/// Why a step was not taken from the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// Everything that differs from an earlier build.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// Files that differ beyond those that `reasons` name.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_files: usize,
    /// What it was compared with.
    #[serde(flatten)]
    pub compared_with: Option<ComparedWith>,
}

/// What a step was compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ComparedWith {
    /// An earlier build, by its id.
    #[serde(rename = "compared_with")]
    Build(String),
    /// A remote cache, by its place: there is no earlier build.
    #[serde(rename = "compared_with_cache")]
    Cache(String),
}

impl fmt::Display for ComparedWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build(id) => write!(f, "build {id}"),
            Self::Cache(place) => write!(f, "the cache in {place}"),
        }
    }
}

impl Why {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The cache had it by its definition, or a hit above it stands for it too.
    Cached,
    /// The cache had it by the content of what it reads.
    CachedByContent,
    /// It ran; files of an image were brought in.
    Ran,
    /// An image whose files were in the store already.
    Here,
    /// A source of which no more than metadata was wanted, or a directory that is read in place.
    Used,
    /// It failed.
    Failed,
    /// It was stopped.
    Cancelled,
    /// The build ended before its turn.
    NotReached,
}

impl End {
    fn of(outcome: StepOutcome) -> Self {
        match outcome {
            StepOutcome::NotNeeded | StepOutcome::Done(VertexOutcome::DefinitionHit) => Self::Cached,
            StepOutcome::Done(VertexOutcome::ContentHit) => Self::CachedByContent,
            StepOutcome::Done(VertexOutcome::Executed) => Self::Ran,
            StepOutcome::Done(VertexOutcome::Lazy) => Self::Used,
            StepOutcome::Failed => Self::Failed,
            StepOutcome::Cancelled => Self::Cancelled,
            StepOutcome::NotReached => Self::NotReached,
        }
    }

    fn code(self) -> char {
        match self {
            Self::Cached => 'h',
            Self::CachedByContent => 'c',
            Self::Ran => 'r',
            Self::Here => 'i',
            Self::Used => 'u',
            Self::Failed => 'f',
            Self::Cancelled => 'x',
            Self::NotReached => 'n',
        }
    }

    fn from_code(code: char) -> Self {
        match code {
            'h' => Self::Cached,
            'c' => Self::CachedByContent,
            'r' => Self::Ran,
            'i' => Self::Here,
            'u' => Self::Used,
            'f' => Self::Failed,
            'x' => Self::Cancelled,
            _ => Self::NotReached,
        }
    }

    /// Whether the step had its result in the end.
    fn has_result(self) -> bool {
        matches!(self, Self::Cached | Self::CachedByContent | Self::Ran | Self::Here | Self::Used)
    }

    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cached => "CACHED",
            Self::CachedByContent => "CACHED (same files)",
            Self::Ran => "RAN",
            Self::Here => "HERE",
            Self::Used => "READ",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELED",
            Self::NotReached => "NOT REACHED",
        }
    }
}

/// Whether a step is an image.
fn is_image(step: &GraphStep) -> bool {
    step.provenance.parts.iter().any(|part| part.name == "image")
}

/// So few files are listed sooner than the store is asked whether it has their list.
const LISTED_AT_ONCE_MAX: usize = 32;

/// Lists of the files that a build has read, by the digest that they count as. What the store has already, as after every
/// build of something unchanged, is not listed again.
#[derive(Debug, Default)]
pub struct SelectedFiles(Mutex<HashMap<ContentDigest, Listed>>);

#[derive(Debug)]
enum Listed {
    InStore,
    Here(Vec<u8>),
}

impl SelectedFiles {
    /// Keeps what is known of them until the build is recorded. A list that the store would not take is left out.
    pub fn keep(&self, store: &Store, content: ContentDigest, files: &Files) {
        if files.is_empty() || self.have(&content) {
            return;
        }
        // What cannot be looked up is listed again.
        let is_in_store =
            files.count() > LISTED_AT_ONCE_MAX && store.has_file_list(&content).unwrap_or(false);
        let listed = if is_in_store { Listed::InStore } else { Listed::Here(files.list()) };
        if !matches!(&listed, Listed::Here(list) if list.len() > DOCUMENT_BYTES_MAX) {
            self.lock().insert(content, listed);
        }
    }

    fn have(&self, content: &ContentDigest) -> bool {
        self.lock().contains_key(content)
    }

    /// One that was made by this build.
    fn list(&self, content: &ContentDigest) -> Option<Vec<u8>> {
        match self.lock().get(content)? {
            Listed::Here(list) => Some(list.clone()),
            Listed::InStore => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContentDigest, Listed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
