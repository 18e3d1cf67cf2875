//! `wharf build`: flags as typed → [`BuildRequest`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, ValueEnum};
use wharf_frontend::dockerfile2llb::platform;
use wharf_runtime::Cancel;
use wharf_solver::llb::Platform;

use super::config::Config;
use super::place::{Place, Wanted};
use super::prune::settle;
use super::registries::{credentials, require_host, rules};
use super::steps::StepArgs;
use super::{qemu_places, variable, with_store};
use crate::build::call::{Call, Question, Stores};
use crate::build::{self, Allowed, BuildRequest, ExplainFormat, Outcome, host_platform};
use crate::context::spec::{ContextError, ContextSpec, DockerfileSpec, redacted};
use crate::csv;
use crate::error::{Failure, Kind, causes};
use crate::exporter::annotations;
use crate::exporter::form::ImageForm;
use crate::exporter::load::Engine;
use crate::exporter::output::open_stdout;
use crate::exporter::spec::{ImageOutput, ImageSpec, LocalMode, Output, Push};
use crate::limits::OpenFiles;
use crate::progress::{Mode, print_note, print_result};
use crate::registry::Reference;
use crate::remote::spec::{CacheFrom, CacheTo};
use crate::signals;
use crate::source::git;

/// The build argument that says that no time is later.
pub(super) const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Platforms of one build: more are a mistake.
const PLATFORMS_MAX: usize = 64;

/// What `--check` ends with when there are warnings and nothing worse, as with buildx.
const WARNINGS_EXIT_CODE: u8 = 1;

/// What an image is made from, and how: all that a build needs to be done once more.
#[derive(Debug, Args)]
pub(super) struct InputArgs {
    /// Dockerfile: a path, a URL, or `-` for standard input [default: Dockerfile or Containerfile in the context]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Set a label of the image; it wins over the Dockerfile's
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Annotate the image: TYPE is manifest (the default), index, manifest-descriptor or index-descriptor, with [PLATFORM] for one
    /// platform alone; may be given several times
    #[arg(long, value_name = "[TYPE[,TYPE]:]NAME=VALUE")]
    annotation: Vec<String>,
    /// A further context: NAME=DIR, URL, docker-image://IMAGE, oci-layout://PATH[:TAG] or target:STAGE
    #[arg(long, value_name = "NAME=CONTEXT")]
    build_context: Vec<String>,
    /// Build this stage [default: the last one]
    #[arg(long, value_name = "STAGE", default_value = "", hide_default_value = true)]
    target: String,
    /// What the image is for, `os/arch[/variant]` or `local`; several by commas or by giving the flag again make an index with
    /// an image for each [default: this machine's]
    #[arg(long, value_name = "PLATFORM[,PLATFORM]", value_delimiter = ',')]
    pub(super) platform: Vec<String>,
    /// No time of the image is later: seconds since 1970, `git` for the last commit of the repository that the context is in,
    /// or anything else that the build argument SOURCE_DATE_EPOCH takes
    #[arg(long, value_name = "SECONDS|git|NAME", value_parser = NonEmptyStringValueParser::new())]
    source_date_epoch: Option<String>,
    /// Whether that holds for the times of files, too; it does if there is such a time, unless =false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rewrite_timestamp: Option<bool>,
    /// Ask the registry for the base images even if they are in the store
    #[arg(long)]
    pull: bool,
    /// Ask no registry, server or repository: images, URLs and branches are what they were when last looked up. Steps keep
    /// the network that they have
    #[arg(long, conflicts_with = "pull")]
    offline: bool,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto, env = "BUILDKIT_PROGRESS", hide_env = true)]
    progress: ProgressMode,
    /// How many steps may run at once
    #[arg(long, value_name = "N", default_value_t = build::JOBS_DEFAULT, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// Speak plain HTTP to this registry (`host[:port]`); loopback needs no asking
    #[arg(long, value_name = "HOST")]
    insecure_registry: Vec<String>,
    /// Name and password for the registry of the image; HOST=USER:PASSWORD for another one. May be given several times
    #[arg(long, value_name = "[HOST=]USER:PASSWORD")]
    creds: Vec<String>,
    #[command(flatten)]
    steps: StepArgs,
    /// What COPY reads from: a directory, a tar archive, `-` (an archive or a Dockerfile on standard input), the URL of an
    /// archive, Dockerfile or git repository, docker-image://IMAGE or oci-layout://PATH[:TAG]
    #[arg(value_name = "CONTEXT")]
    pub(super) context: OsString,
}

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    #[command(flatten)]
    pub(super) inputs: InputArgs,
    /// Name the image, `name[:tag]`; may be given several times
    #[arg(short, long, value_name = "NAME")]
    tag: Vec<String>,
    /// Run every step again
    #[arg(long)]
    no_cache: bool,
    /// Look for steps that were built elsewhere: an image, or type=registry|local|s3 with ref=NAME, src=DIR or bucket=NAME,
    /// and mounts=all|none|ID;ID for cache mounts; may be given several times
    #[arg(long, value_name = "SPEC")]
    cache_from: Vec<String>,
    /// Keep what was built for other machines: type=inline|registry|local|s3 with ref=NAME, dest=DIR or bucket=NAME, and
    /// mode=min|max, compression=gzip|zstd|estargz|uncompressed, mounts=all|none|ID;ID, ignore-error=false; may be given several
    /// times
    #[arg(long, value_name = "SPEC")]
    cache_to: Vec<String>,
    /// Run every step of these stages again
    #[arg(long, value_name = "STAGE[,STAGE]", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    no_cache_filter: Vec<String>,
    /// Where the result goes: type=image|registry|oci|docker|tar|local|cacheonly[,dest=PATH][,name=NAME][,push=true]
    /// [,compression=gzip|zstd|estargz|uncompressed]…; DIR is type=local,dest=DIR and `-` is a tar on standard output; may be
    /// given several times
    #[arg(short, long, value_name = "SPEC")]
    output: Vec<String>,
    /// Push the image to the registry of its name
    #[arg(long, conflicts_with = "offline")]
    push: bool,
    /// Load the image into the Docker or containerd that runs here
    #[arg(long)]
    load: bool,
    /// Show what the checks say of the Dockerfile and build nothing: short for --call=check
    #[arg(long, conflicts_with = "call")]
    check: bool,
    /// What to do: build, check, outline (arguments, secrets, …), targets or subrequests.describe; `,format=json` for JSON
    #[arg(long, value_name = "WHAT[,format=json]")]
    call: Option<Call>,
    /// Say at the end what became of each step and why it ran: text on standard error, or =json on standard output
    #[arg(long, value_enum, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    explain: Option<Explain>,
    /// Say what would run, why, and how long it took before, and build nothing; =json for JSON
    #[arg(long, value_enum, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "text",
        conflicts_with_all = ["check", "call", "explain"])]
    plan: Option<Explain>,
    /// Show nothing but errors, and print the image id
    #[arg(short, long)]
    quiet: bool,
    /// Write the image id to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write digests and descriptor of the result to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProgressMode {
    Auto,
    Tty,
    Plain,
    Quiet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Explain {
    Text,
    Json,
}

impl From<Explain> for ExplainFormat {
    fn from(format: Explain) -> Self {
        match format {
            Explain::Text => Self::Text,
            Explain::Json => Self::Json,
        }
    }
}

/// `wharf build` by itself, to read its flags from something else than the command line.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct Flags {
    #[command(flatten)]
    args: BuildArgs,
}

impl BuildArgs {
    /// Reads flags that are given in the place of the command line's.
    pub(super) fn from_flags(flags: Vec<OsString>) -> Result<Self, Failure> {
        let read = Flags::try_parse_from(flags);
        read.map(|flags| flags.args).map_err(|error| Failure::new(Kind::Usage, error.to_string()))
    }
}

impl BuildArgs {
    /// A build of `inputs` about which nothing else is said.
    pub(super) fn of_inputs(inputs: InputArgs, quiet: bool) -> Result<Self, Failure> {
        Ok(Self { inputs, quiet, ..Self::from_flags(vec![".".into()])? })
    }
}

pub(super) fn build(args: BuildArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let unchanged = |request| Ok(request);
    build_changed(args, wanted, config, unchanged).map(|(code, _)| code)
}

/// Builds what the flags say with the changes that `change` makes, which has what no flag says.
pub(super) fn build_changed(
    args: BuildArgs,
    wanted: &Wanted,
    config: &Config,
    change: impl FnOnce(BuildRequest) -> Result<BuildRequest, Failure>,
) -> Result<(ExitCode, Option<Outcome>), Failure> {
    let quiet = args.quiet;
    let call = if args.check { Some(Call::check()) } else { args.call.clone() };
    let idle = idle_flags(&args);
    let plan = args.plan;
    let request = change(request(args, config, &[])?)?;
    if !idle.is_empty() && plan.is_some() {
        note_idle(&idle);
    }
    if let Some(call) = call.filter(|call| call.question != Question::Build) {
        if !idle.is_empty() {
            note_idle(&idle);
        }
        return Ok((ask(&request, &call, wanted)?, None));
    }
    let place = Place::enter(wanted)?;
    let stdout_is_taken = request.outputs.iter().any(Output::takes_stdout);
    if request.explain == Some(ExplainFormat::Json) && (stdout_is_taken || quiet) {
        let other = if quiet { "the image id (--quiet)" } else { "the result" };
        let message = format!("--explain=json and {other} would both go to standard output");
        return Err(
            Failure::new(Kind::Usage, message).hint("leave one of them out; the JSON has the image id")
        );
    }
    if stdout_is_taken && plan.is_none() {
        // Better said now than when all is built.
        open_stdout().map_err(|error| Failure::new(Kind::Environment, causes(&error)))?;
    }
    // Before there is anything to leave behind.
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::from_error(Kind::Environment, "cannot start", error)
    };
    let cancel = Cancel::new().map_err(|error| failed(&error))?;
    let signals = signals::cancel_on_termination(&cancel).map_err(|error| failed(&error))?;
    if let Some(format) = plan {
        with_store(&place, |store| {
            build::plan(store, place.sandbox, request, format.into(), cancel, signals)
        })?;
        return Ok((ExitCode::SUCCESS, None));
    }
    place.tell();
    let outcome = with_store(&place, |store| {
        let built = build::build(store, place.sandbox, request, cancel, signals);
        // A build that failed has written things too.
        settle(store, config);
        built
    })?;
    if quiet
        && !stdout_is_taken
        && let Some(id) = &outcome.image_id
    {
        print_result(&id.to_string())?;
    }
    Ok((ExitCode::SUCCESS, Some(outcome)))
}

fn note_idle(flags: &[&str]) {
    print_note(&format!("nothing is built, so there is no effect of {}", flags.join(", ")));
}

/// The flags that only a build takes notice of.
fn idle_flags(args: &BuildArgs) -> Vec<&'static str> {
    let flags = [
        ("--cache-to", !args.cache_to.is_empty()),
        ("--annotation", !args.inputs.annotation.is_empty()),
        ("--iidfile", args.iidfile.is_some()),
        ("--load", args.load),
        ("--metadata-file", args.metadata_file.is_some()),
        ("--output", !args.output.is_empty()),
        ("--push", args.push),
        ("--tag", !args.tag.is_empty()),
    ];
    flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
}

/// Answers a question about the Dockerfile. That there are warnings is told by the exit status.
fn ask(request: &BuildRequest, call: &Call, wanted: &Wanted) -> Result<ExitCode, Failure> {
    // Many questions need no store, and can be answered where nothing can be built.
    let place = Place::enter(wanted);
    let stores = Stores {
        existing: &|| place.as_ref().ok()?.existing_store(),
        open: &|| place.as_ref().map_err(Failure::clone)?.open_store(),
    };
    let is_clean = build::call::call(request, call, &stores)?;
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::from(WARNINGS_EXIT_CODE) })
}

/// What the flags mean. `named` are images that the command is about, besides those that are pushed.
pub(super) fn request(
    args: BuildArgs,
    config: &Config,
    named: &[Reference],
) -> Result<BuildRequest, Failure> {
    let usage = |message: String| Failure::new(Kind::Usage, message);
    let tags = args
        .tag
        .iter()
        .map(|tag| match tag.parse::<Reference>() {
            Ok(reference) if reference.digest().is_none() => Ok(reference.to_string()),
            Ok(_) => Err(usage(format!("--tag {tag}: a name cannot have a digest"))),
            Err(error) => Err(usage(format!("--tag {tag}: {error}"))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut outputs = args
        .output
        .iter()
        .map(|spec| Output::parse(spec, &tags).map_err(|error| usage(error.to_string())))
        .collect::<Result<Vec<_>, _>>()?;
    require_own_places(&args, &outputs)?;
    let platforms = platforms(&args.inputs.platform)?;
    if outputs.is_empty() {
        let image = ImageSpec { names: tags.clone(), form: ImageForm::default() };
        outputs.push(Output::Image(ImageOutput::stored(image)));
    }
    if args.push {
        push_all(&mut outputs)?;
    }
    let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
    if args.load && is_built(&args) {
        outputs.push(load(tags, &outputs, &text)?);
    }
    let inputs = args.inputs;
    require_one_platform(&platforms, &outputs)?;
    annotate_all(&inputs.annotation, &mut outputs)?;
    if let Some(rewrite) = inputs.rewrite_timestamp {
        rewrite_all(rewrite, &mut outputs)?;
    }
    let cache_from = args.cache_from.iter().map(|spec| CacheFrom::parse(spec)?.with_environment(&text));
    let cache_from = cache_from.collect::<Result<Vec<_>, _>>();
    let cache_from = cache_from.map_err(|error| usage(error.to_string()))?;
    let cache_to = args.cache_to.iter().map(|spec| CacheTo::parse(spec)?.with_environment(&text));
    let cache_to = cache_to.collect::<Result<Vec<_>, _>>();
    let cache_to = cache_to.map_err(|error| usage(error.to_string()))?;
    if inputs.offline && outputs.iter().any(Output::is_pushed) {
        return Err(usage("--offline: an image is to be pushed, which needs its registry".to_owned())
            .hint("leave one of them out"));
    }
    if let Some(to) = cache_to.iter().find(|to| inputs.offline && to.target.is_network()) {
        let message = format!("--offline: --cache-to {} is written over the network", to.spec);
        return Err(usage(message).hint("leave one of them out"));
    }
    require_names("--build-arg", &inputs.build_arg)?;
    require_names("--label", &inputs.label)?;
    inputs.insecure_registry.iter().try_for_each(|host| require_host(host))?;
    let mut registries = rules(config)?;
    registries.allow_insecure(outputs.iter().flat_map(insecure_hosts));
    let mut build_args = inputs.build_arg.iter().filter_map(|arg| build_arg(arg)).collect::<BTreeMap<_, _>>();
    let of_environment = || variable(EPOCH).and_then(|value| value.into_string().ok());
    match inputs.source_date_epoch {
        Some(epoch) if build_args.get(EPOCH).is_some_and(|other| *other != epoch) => {
            return Err(usage(format!(
                "--source-date-epoch {epoch} and --build-arg {EPOCH} say different times"
            ))
            .hint("leave one of them out"));
        }
        Some(epoch) => {
            build_args.insert(EPOCH.to_owned(), epoch);
        }
        None => {
            if let Some(epoch) = of_environment() {
                build_args.entry(EPOCH.to_owned()).or_insert(epoch);
            }
        }
    }
    let labels = inputs.label.iter().map(|label| {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        (name.to_owned(), value.to_owned())
    });
    let is_dir = |path: &Path| path.is_dir();
    let context = match inputs.context.to_str() {
        Some(text) => {
            ContextSpec::main(text, &is_dir).map_err(|error| context_failure("context ", text, &error))?
        }
        // What is no text can only be a path.
        None => ContextSpec::Path(inputs.context.into()),
    };
    let named_context = |text: &String| {
        ContextSpec::named(text, &is_dir).map_err(|error| context_failure("--build-context ", text, &error))
    };
    let contexts = inputs.build_context.iter().map(named_context).collect::<Result<BTreeMap<_, _>, _>>()?;
    let progress = match inputs.progress {
        _ if args.quiet => Mode::Quiet,
        ProgressMode::Auto => Mode::Auto,
        ProgressMode::Tty => Mode::Tty,
        ProgressMode::Plain => Mode::Plain,
        ProgressMode::Quiet => Mode::Quiet,
    };
    let pushed = outputs.iter().filter(|output| output.is_pushed());
    let pushed: Vec<Reference> = pushed
        .flat_map(Output::names)
        .filter_map(|name| name.parse().ok())
        .chain(named.iter().cloned())
        .collect();
    let credentials = credentials(&inputs.creds, &pushed)?;
    let is_ssh = |spec: &ContextSpec| matches!(spec, ContextSpec::Git(url) if git::is_ssh(url));
    let mut steps = inputs.steps;
    if is_ssh(&context) || contexts.values().any(is_ssh) {
        steps.give_own_agent();
    }
    let steps = steps.parse()?;
    require_leave_to_delete(&outputs, steps.allowed)?;
    Ok(BuildRequest {
        context,
        dockerfile: inputs.file.map(DockerfileSpec::parse),
        build_args,
        labels: labels.collect(),
        contexts,
        target: inputs.target,
        platforms,
        no_cache: args.no_cache,
        cache_from,
        cache_to,
        no_cache_stages: args.no_cache_filter.iter().map(|stage| stage.trim().to_owned()).collect(),
        pull: inputs.pull,
        offline: inputs.offline,
        outputs,
        progress,
        explain: args.explain.map(ExplainFormat::from),
        iidfile: args.iidfile,
        metadata_file: args.metadata_file,
        metadata_warnings: text("BUILDX_METADATA_WARNINGS").is_some_and(|it| csv::boolean(&it) == Some(true)),
        jobs: inputs.jobs.into(),
        insecure_registries: inputs.insecure_registry,
        registries,
        credentials,
        open_files: OpenFiles::raise(),
        home: variable("HOME").map(PathBuf::from),
        run: steps.run,
        qemu_places: qemu_places(config),
        limits: steps.limits,
        allowed: steps.allowed,
        secrets: Arc::new(steps.secrets),
        ssh: steps.ssh,
    })
}

/// Refuses results that would be written over each other, and a whole root file system over the machine's own.
fn require_own_places(args: &BuildArgs, outputs: &[Output]) -> Result<(), Failure> {
    let mut places: Vec<(String, Option<PathBuf>)> = Vec::new();
    let files = [("--iidfile", &args.iidfile), ("--metadata-file", &args.metadata_file)];
    let files = files.into_iter().filter_map(|(flag, path)| {
        let path = path.as_ref()?;
        Some((format!("{flag} {}", path.display()), Some(path.as_path())))
    });
    let outputs = args.output.iter().zip(outputs).filter_map(|(spec, output)| {
        let place = if output.takes_stdout() { None } else { Some(output.path()?) };
        if let (Output::Local(..), Some(path)) = (output, place)
            && place_of(path).is_some_and(|path| path == Path::new("/"))
        {
            return Some(Err(Failure::new(
                Kind::Usage,
                format!("--output {spec}: the files would be written over this machine's own root directory"),
            )));
        }
        Some(Ok((format!("--output {spec}"), place)))
    });
    for given in files.map(Ok).chain(outputs) {
        let (name, path) = given?;
        let place = match path {
            // What is no file or directory (`/dev/null`) takes everything.
            Some(path) => match place_of(path) {
                Some(place) => Some(place),
                None => continue,
            },
            None => None,
        };
        if let Some((other, _)) = places.iter().find(|(_, it)| *it == place) {
            let message = format!("`{other}` and `{name}` would be written over each other");
            return Err(Failure::new(Kind::Usage, message).hint("give each a place of its own"));
        }
        places.push((name, place));
    }
    Ok(())
}

/// A path without links and dots, as far as it is there; nothing for what is neither file nor directory.
fn place_of(path: &Path) -> Option<PathBuf> {
    if let Ok(found) = path.canonicalize() {
        return (found.is_file() || found.is_dir()).then_some(found);
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let above = above.canonicalize().or_else(|_| std::path::absolute(above)).ok()?;
    Some(path.file_name().map_or(above.clone(), |name| above.join(name)))
}

/// `--platform`: each platform once, in the order in which they come.
pub(super) fn platforms(texts: &[String]) -> Result<Vec<Platform>, Failure> {
    let machine = host_platform();
    let mut platforms = Vec::new();
    for text in texts {
        let platform = match text.trim() {
            "local" => machine.clone(),
            text => platform::parse(text, &machine)
                .map_err(|error| Failure::new(Kind::Usage, format!("--platform: {error}")))?,
        };
        if platform.os != "linux" {
            let message = format!("--platform {text}: images are built for Linux only");
            return Err(Failure::new(Kind::Usage, message));
        }
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    if platforms.len() > PLATFORMS_MAX {
        let message = format!("--platform: {} platforms are more than {PLATFORMS_MAX}", platforms.len());
        return Err(Failure::new(Kind::Usage, message));
    }
    Ok(platforms)
}

/// Refuses outputs that hold one platform only.
fn require_one_platform(platforms: &[Platform], outputs: &[Output]) -> Result<(), Failure> {
    let what = outputs.iter().find_map(|output| match output {
        Output::DockerArchive(..) => Some("`type=docker` holds"),
        Output::Load(..) => Some("`--load` takes"),
        _ => None,
    });
    match what {
        Some(what) if platforms.len() > 1 => {
            let message = format!("{what} one platform, and --platform names {}", platforms.len());
            Err(Failure::new(Kind::Usage, message).hint("`type=oci` holds several"))
        }
        _ => Ok(()),
    }
}

/// `NAME[=VALUE]` has a name.
fn require_names(flag: &str, texts: &[String]) -> Result<(), Failure> {
    match texts.iter().find(|text| text.is_empty() || text.starts_with('=')) {
        Some(text) => {
            Err(Failure::new(Kind::Usage, format!("{flag} `{text}` has no name: it is NAME[=VALUE]")))
        }
        None => Ok(()),
    }
}

/// `--push`: what is an image is pushed.
fn push_all(outputs: &mut [Output]) -> Result<(), Failure> {
    let mut pushed = false;
    for output in outputs {
        if let Output::Image(ImageOutput { image, push, .. }) = output {
            if image.names.is_empty() {
                return Err(Failure::new(Kind::Usage, "--push: the image has no name")
                    .hint("give one with `-t NAME`"));
            }
            if *push == Push::No {
                *push = Push::ByName;
            }
            pushed = true;
        }
    }
    if pushed {
        return Ok(());
    }
    Err(Failure::new(Kind::Usage, "--push: none of the outputs is an image")
        .hint("leave `-o` out, or use type=image"))
}

/// Whether flags ask for a build, and not for answers about it.
fn is_built(args: &BuildArgs) -> bool {
    let asks = args.call.as_ref().is_some_and(|call| call.question != Question::Build);
    !asks && !args.check && args.plan.is_none()
}

/// `--load`: the image in the form of the first one that is exported otherwise.
fn load(
    tags: Vec<String>,
    outputs: &[Output],
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Output, Failure> {
    let engine = Engine::find(variable).map_err(|error| {
        let failure = Failure::new(Kind::Environment, format!("--load: {error}"));
        error.hint().into_iter().fold(failure, |failure, hint| failure.hint(hint))
    })?;
    let other = outputs.iter().find_map(Output::image);
    let form = other.map(|image| image.form.clone()).unwrap_or_default();
    let names = match (tags.is_empty(), other) {
        (true, Some(other)) => other.names.clone(),
        _ => tags,
    };
    Ok(Output::Load(ImageSpec { names, form }, engine))
}

/// `--annotation`: of every image. What an output says itself counts more.
fn annotate_all(texts: &[String], outputs: &mut [Output]) -> Result<(), Failure> {
    let mut given = Vec::new();
    for text in texts {
        let parsed = annotations::parse_flag(text);
        given.extend(
            parsed.map_err(|error| Failure::new(Kind::Usage, format!("--annotation {text}: {error}")))?,
        );
    }
    let mut images: Vec<_> = outputs.iter_mut().filter_map(Output::image_mut).collect();
    if images.is_empty() && !given.is_empty() {
        return Err(Failure::new(Kind::Usage, "--annotation: none of the outputs is an image"));
    }
    for image in &mut images {
        image.form.annotations.0.splice(0..0, given.iter().cloned());
        if let Some(reason) = image.form.contradiction() {
            return Err(Failure::new(Kind::Usage, format!("--annotation: {reason}")));
        }
    }
    Ok(())
}

/// `--rewrite-timestamp`: of every output that has times. What an output says itself counts more.
fn rewrite_all(rewrite: bool, outputs: &mut [Output]) -> Result<(), Failure> {
    let mut is_idle = true;
    for times in outputs.iter_mut().filter_map(Output::times_mut) {
        times.rewrite.get_or_insert(rewrite);
        is_idle = false;
    }
    match is_idle {
        false => Ok(()),
        true => Err(Failure::new(Kind::Usage, "--rewrite-timestamp: none of the outputs has times")),
    }
}

/// The registries of an output that says that they need not show a certificate, or have TLS at all.
fn insecure_hosts(output: &Output) -> Vec<String> {
    let Output::Image(ImageOutput { image, insecure: true, .. }) = output else { return Vec::new() };
    let names = image.names.iter().filter_map(|name| name.parse::<Reference>().ok());
    names.map(|name| name.registry().to_owned()).collect()
}

/// Refuses to delete what is outside the working directory, or all of it, unless that was allowed.
fn require_leave_to_delete(outputs: &[Output], allowed: Allowed) -> Result<(), Failure> {
    if allowed.local_delete {
        return Ok(());
    }
    let here = std::env::current_dir().ok().and_then(|here| here.canonicalize().ok());
    for output in outputs {
        let Output::Local(_, dest, LocalMode::Delete) = output else { continue };
        let place = place_of(dest);
        let is_inside =
            place.zip(here.as_ref()).is_some_and(|(place, here)| place != *here && place.starts_with(here));
        if !is_inside {
            let message = format!(
                "`mode=delete` would delete files in `{}`, which is not below the working directory",
                dest.display()
            );
            return Err(
                Failure::new(Kind::Usage, message).hint("allow it with `--allow buildx.local.delete`")
            );
        }
    }
    Ok(())
}

/// `NAME=VALUE`, or `NAME` with the value of the environment; nothing where that has none.
fn build_arg(text: &str) -> Option<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => Some((text.to_owned(), variable(text)?.into_string().ok()?)),
    }
}

/// A context that cannot be understood, in the words of the flag it was given with.
fn context_failure(flag: &str, text: &str, error: &ContextError) -> Failure {
    let failure = Failure::new(Kind::Usage, format!("{flag}{}: {error}", redacted(text)));
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
