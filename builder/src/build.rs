//! One build, from the request to its outputs.

mod ahead;
mod attempts;
mod caches;
pub mod call;
mod dockerfile;
mod independent;
mod load;
mod meta;
mod output;
mod plan;
mod targets;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use serde::Serialize;
use wharf_cache::snapshot::Layer;
use wharf_cache::{Chain, Digest, Store};
use wharf_frontend::Diagnostic;
use wharf_frontend::dockerfile2llb::{Converted, RunOptions, RunPlaces};
use wharf_runtime::chroot::Devices;
use wharf_runtime::{Cancel, RuntimeError, Sandbox};
use wharf_solver::llb::{Definition, ExecOp, Mount, NetworkMode, Op, Platform, SecurityMode, VertexDigest};
use wharf_solver::op::{OpError, ResultRef};
use wharf_solver::scheduler::{Limits, Solve, SolveError, solve};

use crate::context::digest::DigestError;
use crate::context::files::KnownFiles;
use crate::context::open::{Opener, Reach};
use crate::context::select::SelectError;
use crate::context::{ContextSpec, DirectoryId, DockerfileSpec, LocalContext};
use crate::error::{Evidence, Failure, Kind, SourceText, causes, is_of_machine, render_warnings};
use crate::exporter::metadata;
use crate::exporter::spec::Output;
use crate::history::{Recorder, RequestSummary, text};
use crate::layers::{Form, LayerForms, Layers, make_as_they_come};
use crate::limits::OpenFiles;
use crate::progress::{Mode, Progress, print_result, print_talk};
use crate::registry::{Credentials, OciRegistry, RegistryOptions, Rules};
use crate::remote::exports::Uploads;
use crate::remote::imports::Imports;
use crate::remote::mounts::UsedMounts;
use crate::remote::spec::{CacheFrom, CacheTo};
use crate::secrets::Secrets;
use crate::signals::Listening;
use crate::source::git::Access;
use crate::source::http::HttpOptions;
use crate::source::{GitError, GitSources, HttpSources, ImageSources, SecretLookup, SourceError, Sources};
use crate::ssh::{self, SshAgents};
use crate::worker::foreign::ForeignSteps;
use crate::worker::groups::{Groups, StepLimits};
use crate::worker::mounts::Part;
use crate::worker::network::StepNetwork;
use crate::worker::{StoreCache, Worker, WorkerError};
use caches::Solution;
use dockerfile::Parsed;
use targets::{Target, Targets};

/// Steps that run at once by default. Steps wait more than they compute, so it is not the number of processors.
pub const JOBS_DEFAULT: u16 = 32;

/// Images and other things of the network that are asked for at once: more share the same line, and registries refuse
/// who asks too much.
const TRANSFERS_MAX: usize = 16;

/// Digests that are made at once on a machine with fewer processors: they also wait for the disk.
const HASHING_MIN: usize = 4;

/// What is to be built, all text parsed.
#[derive(Debug)]
pub struct BuildRequest {
    /// The main context.
    pub context: ContextSpec,
    /// The Dockerfile if it is not the default one.
    pub dockerfile: Option<DockerfileSpec>,
    /// Build arguments.
    pub build_args: BTreeMap<String, String>,
    /// Labels of the image that win over the file's.
    pub labels: BTreeMap<String, String>,
    /// Further contexts by lower-cased name.
    pub contexts: BTreeMap<String, ContextSpec>,
    /// The stage; empty is the last.
    pub target: String,
    /// What images are for; none is the platform of the machine, or of the base image.
    pub platforms: Vec<Platform>,
    /// Whether steps are run even if the cache has them.
    pub no_cache: bool,
    /// Caches of other places that are asked for what is not here.
    pub cache_from: Vec<CacheFrom>,
    /// Places that get a cache of this build.
    pub cache_to: Vec<CacheTo>,
    /// Whether registries are asked for images that are here.
    pub pull: bool,
    /// Stages whose steps are run even if the cache has them.
    pub no_cache_stages: Vec<String>,
    /// Whether nobody is asked over the network: what names stood for last, they stand for.
    pub offline: bool,
    /// What becomes of the result.
    pub outputs: Vec<Output>,
    /// How progress is shown.
    pub progress: Mode,
    /// Whether it is said at the end what became of each step and why, and how.
    pub explain: Option<ExplainFormat>,
    /// Where the image id goes.
    pub iidfile: Option<PathBuf>,
    /// Where digests and descriptor go.
    pub metadata_file: Option<PathBuf>,
    /// Whether what there is to say of the Dockerfile goes there, too.
    pub metadata_warnings: bool,
    /// Steps at once.
    pub jobs: usize,
    /// Registries spoken to in plain HTTP.
    pub insecure_registries: Vec<String>,
    /// What else is said of single registries.
    pub registries: Rules,
    /// Who we are to registries.
    pub credentials: Credentials,
    /// The limit of open files that steps get.
    pub open_files: OpenFiles,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// What is said of every RUN.
    pub run: RunOptions,
    /// Directories where QEMU may be, for steps of other platforms.
    pub qemu_places: Vec<PathBuf>,
    /// What steps may take of the machine.
    pub limits: StepLimits,
    /// What steps may ask for.
    pub allowed: Allowed,
    /// What `--secret` gives.
    pub secrets: Arc<Secrets>,
    /// What `--ssh` gives.
    pub ssh: SshAgents,
}

/// `--allow`: rights that a Dockerfile cannot take by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowed {
    /// `network.host`, for `RUN --network=host`.
    pub host_network: bool,
    /// `security.insecure`, for `RUN --security=insecure`.
    pub insecure: bool,
    /// `buildx.local.delete`, for `type=local,mode=delete` outside the working directory.
    pub local_delete: bool,
}

/// What a build gave.
#[derive(Debug)]
pub struct Outcome {
    /// The image id (digest of the config, or of the index above several images), if an image was made.
    pub image_id: Option<Digest>,
    /// The digest of its manifest or index, which registries know it by.
    pub manifest: Option<Digest>,
}

/// Builds, until `cancel`, which `signals` trigger.
pub fn build(
    store: &Store,
    sandbox: Sandbox,
    request: BuildRequest,
    cancel: Cancel,
    signals: Listening,
) -> Result<Outcome, Failure> {
    let progress = Progress::start(request.progress, std::io::stderr());
    build_with(store, sandbox, request, &progress, cancel, signals)
}

/// The same, shown by a progress that others have a part of, too.
pub fn build_with(
    store: &Store,
    sandbox: Sandbox,
    request: BuildRequest,
    progress: &Progress,
    cancel: Cancel,
    signals: Listening,
) -> Result<Outcome, Failure> {
    let explain = request.explain;
    let summary = RequestSummary::of(&request, &platform_names(&request));
    let recorder = Recorder::start(store, progress, summary)
        .map_err(|error| Failure::from_error(Kind::Environment, "cannot start", &error))?;
    let built = Build::new(store, sandbox, request, progress, &recorder, cancel, signals).run();
    let image = built.as_ref().ok().and_then(|outcome| outcome.image_id);
    let explained = recorder.finish(image.map(|image| image.to_string()), built.as_ref().err());
    progress.finish();
    let told = match explain {
        None => Ok(()),
        Some(ExplainFormat::Text) => {
            print_talk(&text::build(&explained));
            Ok(())
        }
        Some(ExplainFormat::Json) => print_json(&explained),
    };
    // What the build failed for comes first.
    built.and_then(|outcome| told.map(|()| outcome))
}

/// Says what a build would do, and does nothing of it but to find out what its keys are made of.
pub fn plan(
    store: &Store,
    sandbox: Sandbox,
    request: BuildRequest,
    format: ExplainFormat,
    cancel: Cancel,
    signals: Listening,
) -> Result<(), Failure> {
    let progress = Progress::start(request.progress, std::io::stderr());
    let summary = RequestSummary::of(&request, &platform_names(&request));
    let recorder = Recorder::start(store, &progress, summary.clone())
        .map_err(|error| Failure::from_error(Kind::Environment, "cannot start", &error))?;
    let planned = Build::new(store, sandbox, request, &progress, &recorder, cancel, signals).plan(&summary);
    progress.finish();
    let plan = planned?;
    match format {
        ExplainFormat::Text => print_result(text::plan(&plan).trim_end_matches('\n')),
        ExplainFormat::Json => print_json(&plan),
    }
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let json = text::json(value)
        .map_err(|error| Failure::from_error(Kind::Environment, "cannot write JSON", &error))?;
    print_result(&json)
}

/// How steps are explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExplainFormat {
    /// For people.
    Text,
    /// For programs, on standard output.
    Json,
}

/// The name of the main context in the graph.
const MAIN_CONTEXT: &str = "context";

struct Build<'a> {
    sandbox: Sandbox,
    request: BuildRequest,
    progress: &'a Progress,
    recorder: &'a Recorder<'a>,
    sources: Sources,
    /// Lasts longer than one attempt: what was found wrong is not tried again.
    imports: Imports<'a>,
    /// The cache mounts that steps used, in all attempts.
    used_mounts: UsedMounts,
    /// The network of the steps, in all attempts.
    network: StepNetwork,
    /// What runs the steps of other platforms, in all attempts.
    foreign: ForeignSteps,
    to_load: ToLoad,
    /// What is to be loaded when something of the store was lost.
    to_load_again: ToLoad,
    source: SourceText,
    contexts: HashMap<String, LocalContext>,
    ignore: Vec<String>,
    /// What there is to say of the Dockerfile.
    warnings: Mutex<Vec<metadata::Warning>>,
    /// The time that the main context stands for, in seconds since 1970.
    main_time_s: Option<i64>,
    /// The machine's.
    platform: Platform,
    cancel: Cancel,
    signals: Listening,
}

/// What of the main context and the Dockerfile is not here yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToLoad {
    /// Both.
    All,
    /// The context; the Dockerfile is not of it, and may have come through a pipe.
    Context,
    Nothing,
}

impl<'a> Build<'a> {
    fn new(
        store: &Store,
        sandbox: Sandbox,
        request: BuildRequest,
        progress: &'a Progress,
        recorder: &'a Recorder<'a>,
        cancel: Cancel,
        signals: Listening,
    ) -> Self {
        let sources = sources(store, &request, &cancel);
        let platform = host_platform();
        let imports = caches::imports(store, &request, &sources.registry, &platform, progress);
        let foreign = ForeignSteps::new(sandbox, &request.qemu_places);
        Self {
            sandbox,
            request,
            progress,
            recorder,
            sources,
            imports,
            used_mounts: UsedMounts::default(),
            network: StepNetwork::new(store, sandbox),
            foreign,
            to_load: ToLoad::All,
            to_load_again: ToLoad::All,
            source: SourceText::new("", ""),
            contexts: HashMap::new(),
            ignore: Vec::new(),
            warnings: Mutex::default(),
            main_time_s: None,
            platform,
            cancel,
            signals,
        }
    }

    /// Reads what is not here yet of the main context and the Dockerfile.
    fn load(&mut self) -> Result<(), Failure> {
        let main = match self.to_load {
            ToLoad::Nothing => return Ok(()),
            ToLoad::Context => self.opener().main(&self.request.context)?,
            ToLoad::All => {
                let loaded = load::load(&self.request, &self.opener())?;
                self.source = loaded.source;
                self.ignore = loaded.ignore;
                self.to_load_again = match self.request.context {
                    ContextSpec::Git(_) | ContextSpec::Image(_) if loaded.is_in_context => ToLoad::All,
                    ContextSpec::Git(_) | ContextSpec::Image(_) => ToLoad::Context,
                    // Not in the store.
                    _ => ToLoad::Nothing,
                };
                loaded.main
            }
        };
        self.main_time_s = main.modified_s;
        let main = without_store(main.context, &self.sources.store)?;
        self.contexts.insert(MAIN_CONTEXT.to_owned(), main);
        self.to_load = ToLoad::Nothing;
        Ok(())
    }

    /// Opens the further contexts that the graph reads.
    fn load_named(&mut self, definition: &Definition) -> Result<(), Failure> {
        for (name, context) in load::named(&self.request, definition, &self.opener())? {
            self.contexts.insert(name, without_store(context, &self.sources.store)?);
        }
        Ok(())
    }

    /// What contexts are brought here with.
    fn opener(&self) -> Opener<'_> {
        Opener {
            sources: Reach::Open(&self.sources),
            platform: &self.platform,
            pull: self.request.pull,
            keep_git_dir: keeps_git_dir(&self.request),
            progress: self.progress,
            cancel: &self.cancel,
        }
    }

    fn run(mut self) -> Result<Outcome, Failure> {
        let outcome = self.until_nothing_is_lost(Self::attempt);
        self.tell_damages();
        if let Some(note) = self.foreign.note() {
            self.progress.warn(note);
        }
        if self.contexts.values().any(LocalContext::has_met_store) {
            let root = self.sources.store.root().display();
            self.progress.warn(format!(
                "warning: the store `{root}` lies in the build context and was left out of it\n\
                 help: put it elsewhere with `--root`, or name it in `.dockerignore`"
            ));
        }
        outcome
    }

    /// Text → outputs, once.
    fn attempt(&mut self) -> Result<Outcome, Failure> {
        self.load()?;
        let targets = &self.convert()?;
        let definition = targets.definition();
        self.refuse_forbidden(targets)?;
        self.refuse_senseless_outputs(targets)?;
        self.load_named(definition)?;
        let epoch = targets.source_date_epoch();
        let of_images: Vec<Form> = self.image_forms().iter().map(|form| form.layers(epoch)).collect();
        let of_caches = caches::forms(&self.request, epoch).into_iter();
        let of_caches: Vec<Form> = of_caches.map(|form| form.unwrap_or(of_images[0])).collect();
        let layers = &LayerForms::new(of_images.iter().chain(&of_caches).copied(), |form| {
            Layers::new(&self.sources.store, &self.imports, self.cancel.clone(), form)
        });
        let all =
            |forms: &[Form]| -> Vec<&Layers<'_>> { forms.iter().map(|form| layers.get(*form)).collect() };
        let exports = &self.exports(&all(&of_caches));
        let made_early = all(&of_images);
        let cancelled = &|| self.cancel.is_cancelled();
        let ahead = &self.ahead(targets)?;
        std::thread::scope(|scope| {
            let (made, chains) = mpsc::channel();
            let maker = std::thread::Builder::new().name("layers".to_owned());
            let offer = |form: Form, layers: &[Layer]| ahead.offer(form, layers);
            // Where there is no thread to be had, the export makes the layers.
            let _ =
                maker.spawn_scoped(scope, move || make_as_they_come(&made_early, &chains, cancelled, &offer));
            let _ending = ahead.start(scope);
            let uploads = exports.start(scope);
            let built = self.solve(targets, definition, made, &uploads).and_then(|solution| {
                let outcome = self.export(targets, &solution, layers, ahead)?;
                self.export_caches(targets, &solution, uploads)?;
                Ok(outcome)
            });
            // What is under way to a registry is of no use any more.
            built.inspect_err(|_| self.cancel.cancel())
        })
    }

    /// Text → graph, for every platform. What is only a warning is said at the end, whatever becomes of the build.
    fn convert(&self) -> Result<Targets, Failure> {
        let mut said = HashSet::new();
        let wanted: Vec<Platform> = match self.request.platforms.as_slice() {
            [] => vec![self.platform.clone()],
            platforms => platforms.to_vec(),
        };
        let convert = |platform: Platform| {
            let converted = self.convert_for(&platform, &mut said)?;
            Ok(Target { platform, converted })
        };
        Ok(Targets::new(wanted.into_iter().map(convert).collect::<Result<_, Failure>>()?))
    }

    /// Text → graph. Warnings that were `said` of another platform are not said again.
    fn convert_for(&self, platform: &Platform, said: &mut HashSet<String>) -> Result<Converted, Failure> {
        let mut parsed = Parsed::read(&self.source, &self.request.build_args);
        let options = dockerfile::options(&self.request, &self.ignore, platform, &self.platform);
        let mut resolver = meta::Resolver::new(self.opener(), &self.request, self.main_time_s);
        let converted = parsed.convert(&options, &mut resolver);
        let idle = parsed.without_stage(&self.request.no_cache_stages).map(|stage| {
            format!(
                "warning: `--no-cache-filter {stage}` has no effect: the Dockerfile has no stage of that name"
            )
        });
        let report = parsed.report();
        for warning in idle.chain(render_warnings(&report.warnings, &self.source, false)) {
            if said.insert(warning.clone()) {
                self.progress.warn(warning);
            }
        }
        let told =
            report.warnings.iter().map(|it| metadata::Warning::of(it, &self.source.name, &self.source.text));
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in told {
            // Those of another platform, or of an earlier attempt, are the same.
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        drop(warnings);
        if let Some(violation) = report.violation.filter(|_| report.errors.is_empty()) {
            let hint = "the Dockerfile says `check=error=true`; `check=skip=RULE` leaves a rule out";
            return Err(Failure::new(Kind::Dockerfile, violation).hint(hint));
        }
        converted.ok_or_else(|| {
            let mut failure = dockerfile_failure(report.kind, &self.source, report.errors);
            if resolver.failed() {
                failure.kind = Kind::Source;
            }
            failure
        })
    }

    fn evidence(&self, places: Vec<Diagnostic>, log_tail: Vec<String>) -> Box<Evidence> {
        Box::new(Evidence { source: self.source.clone(), places, log_tail })
    }

    /// Tells before anything runs what steps ask for and was not allowed, or cannot be had.
    fn refuse_forbidden(&self, targets: &Targets) -> Result<(), Failure> {
        let (nowhere, no_places) = (0..0, RunPlaces::default());
        let mut problems = Vec::new();
        for target in targets.iter() {
            for (digest, vertex) in target.definition.iter() {
                if let Op::Exec(exec) = &vertex.op {
                    let run = vertex.metadata.location.as_ref().unwrap_or(&nowhere);
                    let places = target.run_places.get(digest).unwrap_or(&no_places);
                    problems.extend(forbidden(exec, self.request.allowed, places, run));
                }
            }
            // Those of the next platform are the same.
            if !problems.is_empty() {
                break;
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(dockerfile_failure(Kind::Dockerfile, &self.source, problems))
        }
    }

    /// Graph → the results of the targets. The chains whose layers some output needs are sent to `made` as they come.
    fn solve(
        &self,
        targets: &Targets,
        definition: &Definition,
        made: mpsc::Sender<Chain>,
        uploads: &Uploads<'_, '_>,
    ) -> Result<Solution, Failure> {
        let heads = targets.heads();
        if heads.is_empty() {
            return Ok(Solution { results: targets.iter().map(|_| None).collect(), steps: Vec::new() });
        }
        let stale = AtomicBool::new(false);
        let exported = targets.layers();
        let bases = targets.bases();
        let wants_layers = self.request.outputs.iter().any(Output::needs_image);
        let brought = |vertex: &VertexDigest, chain: &Chain| {
            if wants_layers && bases.contains(vertex) {
                let _ = made.send(chain.clone());
            }
        };
        let worker = self.worker(definition, &stale, &brought)?;
        let completed = |vertex: &VertexDigest, results: &[ResultRef]| {
            let is_of_image = exported.contains(vertex);
            for (output, result) in results.iter().enumerate() {
                let ResultRef::Snapshots(chain) = result else { continue };
                if wants_layers && is_of_image && output == 0 {
                    // The receiver is gone only after a failure that the export finds again.
                    let _ = made.send(chain.clone());
                }
                uploads.completed(chain, is_of_image);
            }
        };
        let begun = Instant::now();
        let solved = solve(&Solve {
            definition,
            goals: &heads,
            resolver: &worker,
            cache: &StoreCache {
                store: &self.sources.store,
                imports: &self.imports,
                cancel: &self.cancel,
                stale: &stale,
            },
            progress: self.recorder,
            completed: &completed,
            cancelled: &|| self.cancel.is_cancelled(),
            cancel: &|| self.cancel.cancel(),
            jobs: self.request.jobs,
            limits: limits(),
            clock: &|| begun.elapsed(),
        });
        self.network.end();
        self.recorder.solved(definition, &solved.steps, &self.imports);
        let mut results = solved.results.map_err(|error| self.solve_failure(targets, error))?.into_iter();
        let results = targets.iter().map(|target| target.head.and_then(|_| results.next())).collect();
        Ok(Solution { results, steps: solved.steps })
    }

    /// What does the work of a graph. `stale` is set when it is no longer what its keys say; `brought` is told of images that
    /// steps read.
    fn worker<'b>(
        &'b self,
        definition: &'b Definition,
        stale: &'b AtomicBool,
        brought: &'b (dyn Fn(&VertexDigest, &Chain) + Sync),
    ) -> Result<Worker<'b>, Failure> {
        let cannot_prepare = |error: &(dyn std::error::Error + 'static)| {
            Failure::from_error(Kind::Environment, "cannot prepare the build", error)
        };
        Ok(Worker {
            definition,
            store: &self.sources.store,
            sandbox: self.sandbox,
            imports: &self.imports,
            images: &self.sources.images,
            http: &self.sources.http,
            repositories: &self.sources.repositories,
            contexts: &self.contexts,
            progress: self.recorder,
            cancel: self.cancel.clone(),
            local_digests: Mutex::default(),
            known_files: KnownFiles::default(),
            files: &self.recorder.files,
            stale,
            brought,
            open_files: self.request.open_files,
            network: &self.network,
            foreign: &self.foreign,
            platform: &self.platform,
            groups: Groups::new(&self.request.limits).map_err(|error| {
                let failure =
                    Failure::from_error(Kind::Environment, "steps cannot be limited as asked", &error);
                error.hint().into_iter().fold(failure, Failure::hint)
            })?,
            sandbox_dir: self.sources.store.temp_dir().map_err(|error| cannot_prepare(&error))?,
            devices: self.devices().map_err(|error| cannot_prepare(error.as_ref()))?,
            secrets: &self.request.secrets,
            ssh: &self.request.ssh,
            used_mounts: &self.used_mounts,
            emptied_caches: Mutex::default(),
            said: Mutex::default(),
        })
    }

    fn devices(&self) -> Result<Devices, Box<dyn std::error::Error>> {
        Ok(Devices::new(std::fs::File::open(self.sources.store.temp_dir()?)?.into()))
    }

    fn solve_failure(&self, targets: &Targets, error: SolveError) -> Failure {
        let (vertex, error) = match error {
            SolveError::Vertex { vertex, error } if !self.signals.interrupted() => (vertex, error),
            _ => return interrupted(),
        };
        let converted = &targets.of(&vertex).converted;
        let OpError(error) = &error;
        let kind = match error.downcast_ref::<WorkerError>() {
            _ if is_of_machine(error.as_ref()) => Kind::Environment,
            Some(WorkerError::Mount { error, .. }) if error.is_environment() => Kind::Environment,
            Some(WorkerError::Run { source: RuntimeError::NoDevice { .. }, .. }) => Kind::Environment,
            Some(WorkerError::Process { .. } | WorkerError::Run { .. } | WorkerError::Mount { .. }) => {
                Kind::Step
            }
            Some(
                WorkerError::File(_)
                | WorkerError::Digest(_)
                | WorkerError::Unsupported(_)
                | WorkerError::NotHere(_),
            ) => Kind::Step,
            Some(WorkerError::Source(SourceError::Git(error))) if matches!(**error, GitError::NoProgram) => {
                Kind::Environment
            }
            Some(WorkerError::Foreign { .. }) => Kind::Environment,
            Some(WorkerError::Source(_)) => Kind::Source,
            _ => Kind::Environment,
        };
        let metadata = &converted.definition.vertex(&vertex).metadata;
        let mut failure = Failure::from_error(kind, &metadata.name, error.as_ref());
        let (part, hint) = match error.downcast_ref::<WorkerError>() {
            Some(WorkerError::Mount { part, error }) => (Some(*part), error.hint()),
            Some(WorkerError::Process { hint, .. }) => (None, hint.clone()),
            Some(WorkerError::Foreign { source, .. }) => (None, Some(source.help())),
            _ => (None, None),
        };
        let part = part.or_else(|| unread_mount(&converted.definition.vertex(&vertex).op, error.as_ref()));
        let places = converted.run_places.get(&vertex);
        let place = part.zip(places).and_then(|(part, places)| match part {
            Part::Mount(number) => places.mounts.get(number),
            Part::SecretEnv(number) => places.secret_env.get(number),
        });
        let place = place.or(metadata.location.as_ref()).map(|span| {
            let mut place = Diagnostic::error(span.clone(), causes(error.as_ref()));
            place.hint = hint;
            place
        });
        if let Some(WorkerError::Source(source)) = error.downcast_ref() {
            failure.hints.extend(source.hint());
        }
        failure.evidence = Some(self.evidence(place.into_iter().collect(), self.progress.tail(&vertex)));
        failure
    }
}

/// The context without the store, which changes while it is read.
fn without_store(context: LocalContext, store: &Store) -> Result<LocalContext, Failure> {
    if context.is_private() {
        return Ok(context);
    }
    let failed = |error| Failure::from_error(Kind::Environment, "cannot look at the store", &error);
    let place = DirectoryId::of(&std::fs::metadata(store.root()).map_err(failed)?);
    if context.is_at(place).map_err(failed)? {
        let message = format!("the context `{}` is the store of images", context.path().display());
        return Err(Failure::new(Kind::Usage, message).hint("name another directory with `--root`"));
    }
    Ok(context.without_store(place))
}

/// How much of one kind is done at once, whatever `--jobs` allows. Steps have no limit of their own: `--jobs` is theirs.
fn limits() -> Limits {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Limits { steps: 0, transfers: TRANSFERS_MAX, hashing: processors.max(HASHING_MIN) }
}

/// Somebody wants the build to end.
fn interrupted() -> Failure {
    Failure::new(Kind::Cancelled, "the build was interrupted")
}

/// What the files of a build come from.
fn sources(store: &Store, request: &BuildRequest, cancel: &Cancel) -> Sources {
    let registry = Arc::new(OciRegistry::new(RegistryOptions {
        insecure: request.insecure_registries.clone(),
        credentials: request.credentials.clone(),
        offline: request.offline,
        rules: request.registries.clone(),
        cancel: Some(cancel.clone()),
        ..RegistryOptions::default()
    }));
    sources_with(registry, store, request, cancel)
}

/// The same, with what registries are asked through.
fn sources_with(
    registry: Arc<OciRegistry>,
    store: &Store,
    request: &BuildRequest,
    cancel: &Cancel,
) -> Sources {
    let given = Arc::clone(&request.secrets);
    let secrets: SecretLookup = Arc::new(move |id| Ok(given.get(id)?));
    let access = Access {
        secrets: Arc::clone(&secrets),
        ssh_agent: request.ssh.get(ssh::DEFAULT_ID).cloned(),
        home: request.home.clone(),
    };
    Sources {
        store: store.clone(),
        images: ImageSources::new(store.clone(), registry.clone()).cancelled_by(cancel.clone()),
        registry,
        http: HttpSources::new(
            store.clone(),
            cancel.clone(),
            secrets,
            HttpOptions {
                offline: request.offline,
                fresh: request.no_cache || request.pull,
                ..HttpOptions::default()
            },
        ),
        repositories: GitSources::new(store.clone(), access, cancel.clone()).offline(request.offline),
    }
}

/// Whether `.git` stays in contexts that are repositories.
fn keeps_git_dir(request: &BuildRequest) -> bool {
    let keep = request.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
    keep.is_some_and(|keep| matches!(&*keep.to_lowercase(), "1" | "t" | "true"))
}

/// Says that a Dockerfile cannot be built, and shows why.
fn dockerfile_failure(kind: Kind, source: &SourceText, errors: Vec<Diagnostic>) -> Failure {
    let message = match errors.len() {
        1 => format!("cannot build from `{}`", source.name),
        count => format!("cannot build from `{}`: {count} errors", source.name),
    };
    let mut failure = Failure::new(kind, message);
    failure.evidence =
        Some(Box::new(Evidence { source: source.clone(), places: errors, log_tail: Vec::new() }));
    failure
}

/// The mount whose files could not be read when the key of its RUN was made.
fn unread_mount(op: &Op, error: &(dyn Error + 'static)) -> Option<Part> {
    let Op::Exec(exec) = op else { return None };
    let Some(WorkerError::Digest(DigestError::Select(SelectError::NotFound { path, .. }))) =
        error.downcast_ref()
    else {
        return None;
    };
    let is_it = |mount: &Mount| Path::new(mount.selector.trim_start_matches('/')) == path;
    exec.mounts.iter().position(is_it).map(Part::Mount)
}

/// What a RUN asks for that nobody allowed, or that cannot be had.
fn forbidden(exec: &ExecOp, allowed: Allowed, places: &RunPlaces, run: &Range<usize>) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let place = |of: Option<&Range<usize>>| of.unwrap_or(run).clone();
    if exec.network == NetworkMode::Host && !allowed.host_network {
        let message = "network.host is not allowed";
        let hint = "allow it with `--allow network.host`";
        problems.push(Diagnostic::error(place(places.network.as_ref()), message).with_hint(hint));
    }
    if exec.security == SecurityMode::Insecure && !allowed.insecure {
        let message = "security.insecure is not allowed";
        let hint = "allow it with `--allow security.insecure`: the step then has every right that wharf has";
        problems.push(Diagnostic::error(place(places.security.as_ref()), message).with_hint(hint));
    }
    for number in 0..exec.devices.len() {
        let message = "RUN --device (CDI devices) is not supported";
        let hint = "`--security=insecure` gives a step the right to make and use any device";
        problems.push(Diagnostic::error(place(places.devices.get(number)), message).with_hint(hint));
    }
    problems
}

/// What a build is for, in words.
fn platform_names(request: &BuildRequest) -> String {
    match request.platforms.as_slice() {
        [] => host_platform().to_string(),
        platforms => platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(","),
    }
}

/// The platform of the machine.
pub(crate) fn host_platform() -> Platform {
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
