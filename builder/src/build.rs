//! One build, from the request to its outputs.

pub mod call;
mod dockerfile;
mod load;
mod meta;
mod output;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, mpsc};

use wharf_cache::diff::{Compression, Variant};
use wharf_cache::{Chain, Digest, Store};
use wharf_frontend::Diagnostic;
use wharf_frontend::dockerfile2llb::Converted;
use wharf_runtime::Cancel;
use wharf_solver::llb::{Definition, FileChange, MountKind, Op, Platform, Vertex, VertexDigest};
use wharf_solver::op::{OpError, ResultRef};
use wharf_solver::scheduler::{Solve, SolveError, solve};

use crate::context::LocalContext;
use crate::error::{Evidence, Failure, Kind, SourceText, causes, is_disk_full, render_warnings};
use crate::exporter::spec::Output;
use crate::layers::Layers;
use crate::progress::{Mode, Progress};
use crate::registry::{OciRegistry, RegistryOptions};
use crate::signals::{self, Listening};
use crate::source::ImageSources;
use crate::worker::{StoreCache, Worker, WorkerError};
use dockerfile::Parsed;

/// Steps that run at once by default. Steps wait more than they compute, so it is not the number of processors.
pub const JOBS_DEFAULT: u16 = 32;

/// What is to be built, all text parsed.
#[derive(Debug)]
pub struct BuildRequest {
    /// The directory of the main context.
    pub context: PathBuf,
    /// The Dockerfile if it is not the default one; `-` is standard input.
    pub dockerfile: Option<PathBuf>,
    /// Build arguments.
    pub build_args: BTreeMap<String, String>,
    /// Further contexts by lower-cased name.
    pub contexts: BTreeMap<String, ContextSpec>,
    /// The stage; empty is the last.
    pub target: String,
    /// Whether steps are run even if the cache has them.
    pub no_cache: bool,
    /// Whether registries are asked for images that are here.
    pub pull: bool,
    /// What becomes of the result.
    pub outputs: Vec<Output>,
    /// How progress is shown.
    pub progress: Mode,
    /// Where the image id goes.
    pub iidfile: Option<PathBuf>,
    /// Where digests and descriptor go.
    pub metadata_file: Option<PathBuf>,
    /// Steps at once.
    pub jobs: usize,
    /// Registries spoken to in plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Docker's config.json, for credentials.
    pub docker_config: Option<PathBuf>,
}

/// What a named context is.
#[derive(Debug, Clone)]
pub enum ContextSpec {
    /// A directory of the host.
    Directory(PathBuf),
    /// An image reference or `oci-layout://PATH[:TAG]`.
    Image(String),
}

/// What a build gave.
#[derive(Debug)]
pub struct Outcome {
    /// The image id (digest of the config), if an image was made.
    pub image_id: Option<Digest>,
}

/// Builds.
pub fn build(store: &Store, request: BuildRequest) -> Result<Outcome, Failure> {
    let progress = Progress::start(request.progress, std::io::stderr());
    let built = Build::prepare(store, request, &progress).and_then(|build| build.run());
    progress.finish();
    built
}

/// The name of the main context in the graph.
const MAIN_CONTEXT: &str = "context";

struct Build<'a> {
    store: &'a Store,
    request: BuildRequest,
    progress: &'a Progress,
    registry: Arc<OciRegistry>,
    images: ImageSources,
    source: SourceText,
    contexts: HashMap<String, LocalContext>,
    ignore: Vec<String>,
    cancel: Cancel,
    signals: Listening,
}

impl<'a> Build<'a> {
    fn prepare(store: &'a Store, request: BuildRequest, progress: &'a Progress) -> Result<Self, Failure> {
        let failed =
            |error: &(dyn Error + 'static)| Failure::from_error(Kind::Environment, "cannot start", error);
        let cancel = Cancel::new().map_err(|error| failed(&error))?;
        let signals = signals::cancel_on_termination(&cancel).map_err(|error| failed(&error))?;
        let loaded = load::load(&request, progress)?;
        let registry = Arc::new(OciRegistry::new(RegistryOptions {
            insecure: request.insecure_registries.clone(),
            docker_config: request.docker_config.clone(),
            ..RegistryOptions::default()
        }));
        let images = ImageSources::new(store.clone(), registry.clone()).cancelled_by(cancel.clone());
        Ok(Self {
            store,
            request,
            progress,
            registry,
            images,
            source: loaded.source,
            contexts: loaded.contexts,
            ignore: loaded.ignore,
            cancel,
            signals,
        })
    }

    fn run(self) -> Result<Outcome, Failure> {
        let platform = host_platform();
        let converted = self.convert(&platform)?;
        self.refuse_unsupported(&converted.definition)?;
        let variant = Variant { compression: Compression::Gzip, clamp_time_s: self.epoch()? };
        let layers = &Layers::new(self.store, variant);
        let cancelled = &|| self.cancel.is_cancelled();
        let outcome = std::thread::scope(|scope| {
            let (made, chains) = mpsc::channel();
            let maker = std::thread::Builder::new().name("layers".to_owned());
            // Where there is no thread to be had, the export makes the layers.
            let _ = maker.spawn_scoped(scope, move || layers.make_as_they_come(&chains, cancelled));
            let result = self.solve(&converted, made)?;
            self.export(&converted, result, layers, platform)
        })?;
        Ok(outcome)
    }

    /// Text → graph. What is only a warning is said at the end, whatever becomes of the build.
    fn convert(&self, platform: &Platform) -> Result<Converted, Failure> {
        let mut parsed = Parsed::read(&self.source.text, &self.request.build_args);
        let options = dockerfile::options(&self.request, &self.ignore, platform);
        let mut resolver = meta::Resolver::new(&self.images, self.request.pull, self.progress);
        let converted = parsed.convert(&options, &mut resolver);
        let report = parsed.report();
        for warning in render_warnings(&report.warnings, &self.source, false) {
            self.progress.warn(warning);
        }
        if let Some(violation) = report.violation.filter(|_| report.errors.is_empty()) {
            let hint = "the Dockerfile says `check=error=true`; `check=skip=RULE` leaves a rule out";
            return Err(Failure::new(Kind::Dockerfile, violation).hint(hint));
        }
        converted.ok_or_else(|| {
            let mut failure = dockerfile_failure(&self.source, report.errors);
            if resolver.failed() {
                failure.kind = Kind::Source;
            }
            failure
        })
    }

    fn evidence(&self, places: Vec<Diagnostic>, log_tail: Vec<String>) -> Box<Evidence> {
        Box::new(Evidence { source: self.source.clone(), places, log_tail })
    }

    /// Tells before anything runs what this version cannot do.
    fn refuse_unsupported(&self, definition: &Definition) -> Result<(), Failure> {
        let problems: Vec<Diagnostic> = definition
            .iter()
            .filter_map(|(_, vertex)| {
                let what = unsupported(definition, vertex)?;
                let span = vertex.metadata.location.clone().unwrap_or(0..0);
                Some(Diagnostic::error(span, format!("{what} is not supported yet")))
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(dockerfile_failure(&self.source, problems)) }
    }

    /// `SOURCE_DATE_EPOCH` as a number of seconds.
    fn epoch(&self) -> Result<Option<u64>, Failure> {
        let text = match self.request.build_args.get("SOURCE_DATE_EPOCH") {
            Some(text) if !text.is_empty() => text,
            _ => return Ok(None),
        };
        text.parse().map(Some).map_err(|_| {
            Failure::new(Kind::Usage, format!("SOURCE_DATE_EPOCH is `{text}`"))
                .hint("it must be a whole number of seconds since 1970-01-01")
        })
    }

    /// Graph → the target's result. The chains whose layers some output needs are sent to `made` as they come.
    fn solve(&self, converted: &Converted, made: mpsc::Sender<Chain>) -> Result<Option<ResultRef>, Failure> {
        let Some(head) = converted.head else { return Ok(None) };
        let stale = AtomicBool::new(false);
        let worker = Worker {
            definition: &converted.definition,
            store: self.store,
            images: &self.images,
            contexts: &self.contexts,
            progress: self.progress,
            cancel: self.cancel.clone(),
            local_digests: Mutex::default(),
            stale: &stale,
            sandbox_dir: self.store.temp_dir().map_err(|error| {
                Failure::from_error(Kind::Environment, "cannot prepare the build", &error)
            })?,
        };
        let exported: HashSet<VertexDigest> = converted.layers.iter().map(|edge| edge.vertex).collect();
        let wants_layers = self.request.outputs.iter().any(Output::needs_image);
        let completed = |vertex: &VertexDigest, results: &[ResultRef]| {
            if let (true, Some(ResultRef::Snapshots(chain))) =
                (wants_layers && exported.contains(vertex), results.first())
            {
                // The receiver is gone only after a failure that the export finds again.
                let _ = made.send(chain.clone());
            }
        };
        let solved = solve(&Solve {
            definition: &converted.definition,
            goals: &[head],
            resolver: &worker,
            cache: &StoreCache { store: self.store, cancel: &self.cancel, stale: &stale },
            progress: self.progress,
            completed: &completed,
            cancelled: &|| self.cancel.is_cancelled(),
            cancel: &|| self.cancel.cancel(),
            jobs: self.request.jobs,
        });
        let mut solved = solved.map_err(|error| self.solve_failure(&converted.definition, error))?;
        Ok(Some(solved.results.remove(0)))
    }

    fn solve_failure(&self, definition: &Definition, error: SolveError) -> Failure {
        let (vertex, error) = match error {
            SolveError::Vertex { vertex, error } if !self.signals.interrupted() => (vertex, error),
            _ => return Failure::new(Kind::Cancelled, "the build was interrupted"),
        };
        let OpError(error) = &error;
        let kind = match error.downcast_ref::<WorkerError>() {
            _ if is_disk_full(error.as_ref()) => Kind::Environment,
            Some(WorkerError::Process { .. } | WorkerError::Run { .. }) => Kind::Step,
            Some(WorkerError::File(_) | WorkerError::Digest(_) | WorkerError::Unsupported(_)) => Kind::Step,
            Some(WorkerError::Source(_)) => Kind::Source,
            _ => Kind::Environment,
        };
        let metadata = &definition.vertex(&vertex).metadata;
        let mut failure = Failure::from_error(kind, &metadata.name, error.as_ref());
        let place = |span: &Range<usize>| Diagnostic::error(span.clone(), causes(error.as_ref()));
        let places = metadata.location.iter().map(place).collect();
        failure.evidence = Some(self.evidence(places, self.progress.tail(&vertex)));
        failure
    }
}

/// Says that a Dockerfile cannot be built, and shows why.
fn dockerfile_failure(source: &SourceText, errors: Vec<Diagnostic>) -> Failure {
    let message = match errors.len() {
        1 => format!("cannot build from `{}`", source.name),
        count => format!("cannot build from `{}`: {count} errors", source.name),
    };
    let mut failure = Failure::new(Kind::Dockerfile, message);
    failure.evidence =
        Some(Box::new(Evidence { source: source.clone(), places: errors, log_tail: Vec::new() }));
    failure
}

/// What a vertex asks for that is not done yet.
fn unsupported(definition: &Definition, vertex: &Vertex) -> Option<&'static str> {
    let is_local = |input: usize| match &definition.vertex(&vertex.inputs[input].vertex).op {
        Op::Source(source) => source.is_local(),
        _ => false,
    };
    match &vertex.op {
        Op::Source(source) => match source.scheme() {
            "git" => Some("ADD from a git repository"),
            "http" | "https" => Some("ADD from a URL"),
            _ => None,
        },
        Op::File(file) => file.actions.iter().find_map(|action| match &action.change {
            FileChange::Copy(copy) if copy.parents => Some("COPY --parents"),
            _ => None,
        }),
        Op::Exec(exec) if exec.security == wharf_solver::llb::SecurityMode::Insecure => {
            Some("RUN --security=insecure")
        }
        Op::Exec(exec) if !exec.secret_env.is_empty() => Some("RUN --mount=type=secret"),
        Op::Exec(exec) => exec.mounts.iter().find_map(|mount| match mount.kind {
            MountKind::Cache { .. } => Some("RUN --mount=type=cache"),
            MountKind::Secret { .. } => Some("RUN --mount=type=secret"),
            MountKind::Ssh { .. } => Some("RUN --mount=type=ssh"),
            MountKind::Bind if mount.input.is_some_and(is_local) => {
                Some("RUN --mount=type=bind from a build context")
            }
            MountKind::Bind if mount.target != "/" && !mount.readonly => {
                Some("a writable RUN --mount=type=bind")
            }
            MountKind::Bind | MountKind::Tmpfs { .. } => None,
        }),
        Op::Merge(_) | Op::Diff(_) => None,
    }
}

/// The platform of the machine.
fn host_platform() -> Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", ""),
        "aarch64" => ("arm64", ""),
        "x86" => ("386", ""),
        "arm" => ("arm", "v7"),
        "powerpc64" => ("ppc64le", ""),
        other => (other, ""),
    };
    Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
        os_version: String::new(),
    }
}
