//! Stages, build arguments and platform → graph and image config.
//!
//! First every stage that the target needs is looked through from the last to the first (`stages`): bases are found,
//! images asked for, triggers parsed. Then they are converted from the first to the last (`from` and one file for each
//! group of instructions): each instruction takes the stage one step further.

mod checks;
mod contexts;
mod copy;
mod env;
mod epoch;
mod expose;
mod from;
mod go_format;
mod history;
mod images;
mod inputs;
mod metadata;
mod mounts;
mod outline;
mod owner;
mod path;
pub mod platform;
#[cfg(test)]
mod properties;
mod remote;
mod run;
mod scope;
mod stage;
mod stages;
#[cfg(test)]
mod tests;
mod words;
mod workdir;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use wharf_solver::llb::{Definition, Edge, NetworkMode, Platform, VertexDigest};

use crate::Diagnostic;
use crate::dockerignore::Matcher;
use crate::image::ImageConfig;
use crate::instructions::{Dockerfile, InstructionKind};
use contexts::Contexts;
use env::Env;
pub use epoch::TimeOf;
use images::Images;
pub use mounts::parse_size;
pub use outline::{Outline, OutlineArg, Resource, Target, outline, targets};
pub use remote::{authority_without_credentials, git_context};
use stage::{Stage, Step};
use stages::Plan;

/// How much the steps of all stages and their history may take, about. Each RUN holds every variable that it sees, and its
/// history every argument, so that a file of a few thousand of both would fill the memory; real files are a thousandth of
/// this.
const STEPS_BYTES_MAX: usize = 128 << 20;

/// What the conversion depends on besides the file.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--target`; empty: the last stage.
    pub target: String,
    /// Platform the image is for.
    pub platform: Platform,
    /// `platform` is a default that nobody asked for: a base image that exists for another platform only decides.
    pub implicit_platform: bool,
    /// Several platforms are built at once: step names say which one.
    pub multi_platform: bool,
    /// Platform the builder runs on.
    pub build_platform: Platform,
    /// Convert every stage, whether or not the target needs it: for what is wrong with them.
    pub every_stage: bool,
    /// Named contexts (`--build-context`): name, perhaps with `::PLATFORM`, and what it is.
    pub contexts: BTreeMap<String, NamedContext>,
    /// `--label`: they win over those of the file.
    pub labels: BTreeMap<String, String>,
    /// Patterns of the main context's ignore file.
    pub ignore: Vec<String>,
    /// Nothing is taken from the cache (`--no-cache`).
    pub no_cache: bool,
    /// Stages that take nothing from the cache (`--no-cache-filter`).
    pub no_cache_stages: Vec<String>,
    /// What the command line says of every RUN.
    pub run: RunOptions,
}

/// Flags of the build that are about its RUN steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// `--network`, for steps that do not say.
    pub network: NetworkMode,
    /// `--add-host`: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// `--ulimit`: name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
    /// `--shm-size`; 0 is the default.
    pub shm_size_bytes: u64,
    /// `--cgroup-parent`.
    pub cgroup_parent: String,
}

/// What a named context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A local directory: source `local://NAME`, the name as it was given.
    Local,
    /// An image or a layout: looked up by the resolver under this reference (`oci-layout://PATH[:TAG]` or an image
    /// reference). `scratch` is no files.
    Image(String),
    /// A stage of the same file (`target:NAME`).
    Stage(String),
}

/// Asked for base images. Filled by `builder`.
pub trait ImageMetaResolver {
    /// Config of an image. `reference` is as written (`debian`, `oci-layout://…`); the answer says what source to use.
    /// Each reference and platform is asked for once.
    fn resolve(&mut self, reference: &str, platform: &Platform) -> Result<ResolvedImage, String>;

    /// Time of a source in seconds since 1970, for `SOURCE_DATE_EPOCH`: that of a commit, `Last-Modified` of a file, of
    /// an archive without one that of its newest file. `None` is a source without a time, such as a local directory.
    fn time(&mut self, of: &TimeOf) -> Result<Option<u64>, String>;
    /// Whether a base image that cannot be had is one that nothing is known of, rather than an error: checks do
    /// without.
    fn is_optional(&self) -> bool {
        false
    }
}

/// A base image that was looked up.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// Source identifier pinned by digest: `docker-image://docker.io/library/debian:12@sha256:…`.
    pub identifier: String,
    /// Raw image config (JSON).
    pub config: Vec<u8>,
}

/// What a Dockerfile becomes.
#[derive(Debug, Clone)]
pub struct Converted {
    /// The graph.
    pub definition: Definition,
    /// The target's file system; `None` is scratch without any layer.
    pub head: Option<Edge>,
    /// The target's image config: history complete but for `created`; `rootfs` is still the base image's and left to the
    /// exporter.
    pub config: ImageConfig,
    /// How many entries of `config.history` came with the base image (they are left as they are).
    pub base_history: usize,
    /// Vertices that each add one layer on top of the base image, lowest first: they match the new history entries
    /// that are not `empty_layer`. Each is the whole file system after that layer (for `--link` the merge).
    pub layers: Vec<Edge>,
    /// The base image's source edge, if there is one.
    pub base: Option<Edge>,
    /// Number of layers the base image has, from its config.
    pub base_layers: usize,
    /// Platform of the target stage.
    pub platform: Platform,
    /// `SOURCE_DATE_EPOCH` in seconds.
    pub source_date_epoch: Option<u64>,
    /// For each RUN, where its parts stand.
    pub run_places: HashMap<VertexDigest, RunPlaces>,
    /// Build arguments of the stages that were converted.
    pub args: Args,
    /// Warnings.
    pub warnings: Vec<Diagnostic>,
}

/// Where the parts of a RUN stand in the Dockerfile, for errors that come up only when it runs. Those of a trigger stand
/// at the FROM that pulled it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunPlaces {
    /// The mounts of the operation, by their number there; those that no `--mount` asked for are missing at the end.
    pub mounts: Vec<Range<usize>>,
    /// The secrets that are variables.
    pub secret_env: Vec<Range<usize>>,
    /// `--network`.
    pub network: Option<Range<usize>>,
    /// `--security`.
    pub security: Option<Range<usize>>,
    /// `--device`.
    pub devices: Vec<Range<usize>>,
}

/// Build arguments and their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    /// Those of the global scope, predefined ones too.
    pub global: Vec<(String, String)>,
    /// Those of each stage that was converted, in order.
    pub stages: Vec<StageArgs>,
}

/// What a stage declares or inherits from the stages below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageArgs {
    /// Number of the stage.
    pub stage: usize,
    /// Names and values, as declared.
    pub values: Vec<(String, Option<String>)>,
}

/// Why there is no graph: problems with places in the Dockerfile. Those that come from no place in it (`--target`,
/// `--build-arg`) have the span `0..0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertError {
    /// All of them, warnings too, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// Converts. Only the stages that the target needs are converted, and only their images asked for.
pub fn convert(
    dockerfile: &Dockerfile,
    options: &Options,
    resolver: &mut dyn ImageMetaResolver,
) -> Result<Converted, ConvertError> {
    let mut options = options.clone();
    options.platform = platform::normalise(&options.platform);
    options.build_platform = platform::normalise(&options.build_platform);
    let mut problems = Vec::new();
    let mut globals = scope::globals(dockerfile, &options, &mut problems);
    let source_date_epoch = epoch::resolve(dockerfile, &mut options, &mut globals, resolver);
    let source_date_epoch = source_date_epoch.unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    let contexts = Contexts::new(&options.contexts, &options.build_platform);
    problems.extend(contexts.warn_reserved());
    Converter {
        dockerfile,
        stage_numbers: stages::numbers(dockerfile),
        options: &options,
        globals,
        source_date_epoch,
        contexts,
        images: Images::new(resolver),
        definition: Definition::default(),
        ignore: ignore_matcher(&options.ignore),
        main_context: None,
        bases_left: Vec::new(),
        done: Vec::new(),
        run_places: HashMap::new(),
        bytes: 0,
        problems,
    }
    .convert()
}

/// With `!` patterns it is the walk that says what is left of a directory; patterns that are wrong are for it to report.
fn ignore_matcher(patterns: &[String]) -> Option<Matcher> {
    let is_final = !patterns.iter().any(|pattern| pattern.starts_with('!'));
    if is_final { Matcher::new(patterns).ok() } else { None }
}

/// One conversion.
struct Converter<'a> {
    dockerfile: &'a Dockerfile,
    stage_numbers: HashMap<&'a str, Vec<usize>>,
    options: &'a Options,
    /// Arguments of the global scope.
    globals: Env,
    source_date_epoch: Option<u64>,
    contexts: Contexts<'a>,
    images: Images<'a>,
    definition: Definition,
    /// The main context's ignore patterns, if nothing they match comes back (`!`).
    ignore: Option<Matcher>,
    /// The main context, once something is taken from it.
    main_context: Option<Edge>,
    /// Of each stage, how many that are still to be converted start from it.
    bases_left: Vec<usize>,
    /// The stages converted so far, by number; `None` for those nobody needs.
    done: Vec<Option<Stage>>,
    /// Where the parts of the RUNs stand.
    run_places: HashMap<VertexDigest, RunPlaces>,
    /// About how many bytes the steps so far take.
    bytes: usize,
    /// What was wrong so far. The conversion goes on after an error, with what is left, to find the others.
    problems: Vec<Diagnostic>,
}

impl<'a> Converter<'a> {
    fn convert(mut self) -> Result<Converted, ConvertError> {
        let target = match self.target() {
            Ok(target) => target,
            Err(problem) => {
                self.problems.push(problem);
                return Err(self.failed());
            }
        };
        self.check_bases();
        let plans = self.plan(target);
        let triggers = plans.iter().flatten().flat_map(|plan| &plan.steps).filter(|step| step.is_trigger);
        let trigger_args = triggers.filter_map(|step| match &step.instruction.kind {
            InstructionKind::Arg(args) => Some(args),
            _ => None,
        });
        let unused = scope::unused_build_args(self.dockerfile, trigger_args.flatten(), self.options);
        // An image that nothing is known of may have triggers that use them.
        if plans.iter().flatten().all(|plan| plan.base.is_known()) {
            self.problems.extend(unused);
        }
        self.bases_left = stages::uses_as_base(&plans);
        for plan in &plans {
            let Some(plan) = plan else {
                self.done.push(None);
                continue;
            };
            let Some(stage) = self.stage(plan) else { return Err(self.failed()) };
            self.done.push(Some(stage));
        }
        let args = self.args();
        match self.done.pop().flatten() {
            Some(stage) if !self.problems.iter().any(Diagnostic::is_error) => Ok(self.finish(stage, args)),
            _ => Err(self.failed()),
        }
    }

    /// Converts a stage, if there is still room for it.
    fn stage(&mut self, plan: &Plan<'a>) -> Option<Stage> {
        let from = &self.dockerfile.stages[plan.index];
        let mut stage = self.start(plan);
        self.grow(stage.bytes, &from.span)?;
        for step in &plan.steps {
            let (problems, bytes) = (self.problems.len(), stage.bytes);
            if let Err(problem) = self.step(&mut stage, step) {
                self.problems.push(problem);
            }
            if step.is_trigger {
                for problem in &mut self.problems[problems..] {
                    *problem = stages::at_trigger(problem.clone(), &from.base.span);
                }
            }
            self.grow(stage.bytes - bytes, &step.place(&step.instruction.name))?;
        }
        Some(stage)
    }

    /// Counts what an instruction has added. `None` once there is too much, which is told.
    fn grow(&mut self, bytes: usize, place: &Range<usize>) -> Option<()> {
        self.bytes += bytes;
        if self.bytes <= STEPS_BYTES_MAX {
            return Some(());
        }
        let message =
            format!("the steps up to here and their history take more than {STEPS_BYTES_MAX} bytes");
        let hint = "each RUN repeats all variables, and its history all arguments: use fewer of them";
        self.problems.push(Diagnostic::error(place.clone(), message).with_hint(hint));
        None
    }

    fn step(&mut self, stage: &mut Stage, step: &Step<'_>) -> Result<(), Diagnostic> {
        use InstructionKind as K;
        self.check_step(stage, step);
        match &step.instruction.kind {
            K::Run(run) => return self.run(stage, step, run),
            K::Copy(copy) => return self.copy(stage, step, copy),
            K::Add(add) => return self.add(stage, step, add),
            K::Env(pairs) => return self.env(stage, step, pairs),
            K::Arg(args) => return self.arg(stage, step, args),
            K::Label(pairs) => return self.label(stage, step, pairs),
            K::Workdir(token) => return self.workdir(stage, step, token),
            K::User(token) => return self.user(stage, step, token),
            K::Expose(tokens) => return self.expose(stage, tokens),
            K::Volume(tokens) => return self.volume(stage, step, tokens),
            K::StopSignal(token) => return self.stop_signal(stage, step, token),
            K::Cmd(command) => stage.cmd(command),
            K::Entrypoint(command) => stage.entrypoint(command),
            K::Shell(shell) => stage.shell(shell),
            K::Healthcheck(healthcheck) => stage.healthcheck(healthcheck),
            K::OnBuild(trigger) => stage.on_build(&trigger.text),
            K::Maintainer(name) => stage.maintainer(&name.text),
        }
        Ok(())
    }

    fn args(&self) -> Args {
        let stages = self.done.iter().enumerate().filter_map(|(index, stage)| {
            Some(StageArgs { stage: index, values: stage.as_ref()?.args.clone() })
        });
        Args {
            global: self.globals.pairs().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            stages: stages.collect(),
        }
    }

    fn finish(mut self, stage: Stage, args: Args) -> Converted {
        let mut config = stage.config;
        if !self.options.labels.is_empty() {
            let labels = self.options.labels.iter().map(|(name, value)| (name.clone(), value.clone()));
            config.config.labels.get_or_insert_default().extend(labels);
        }
        let asked = Some(&self.options.platform).filter(|_| !self.options.implicit_platform);
        from::settle_platform(&mut config, asked);
        self.problems.sort_by_key(|problem| problem.span.start);
        Converted {
            definition: self.definition,
            head: stage.head,
            config,
            base_history: stage.base_history,
            layers: stage.layers,
            base: stage.base,
            base_layers: stage.base_layers,
            platform: stage.platform,
            source_date_epoch: self.source_date_epoch,
            run_places: self.run_places,
            args,
            warnings: self.problems,
        }
    }

    fn failed(mut self) -> ConvertError {
        self.problems.sort_by_key(|problem| problem.span.start);
        ConvertError { diagnostics: self.problems }
    }
}
