//! `wharf build`: flags as typed → [`BuildRequest`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{existing_store, open_store, variable};
use crate::build::call::{Call, Images, Question};
use crate::build::{self, BuildRequest, ContextSpec};
use crate::error::{Failure, Kind};
use crate::exporter::spec::Output;
use crate::progress::Mode;
use crate::registry::Reference;

/// What `--check` ends with when there are warnings and nothing worse, as with buildx.
const WARNINGS_EXIT_CODE: u8 = 1;

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// Dockerfile (`-` is standard input) [default: Dockerfile or Containerfile in the context]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name the image, `name[:tag]`; may be given several times
    #[arg(short, long, value_name = "NAME")]
    tag: Vec<String>,
    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// A further context: NAME=DIR, NAME=oci-layout://PATH[:TAG] or NAME=docker-image://IMAGE
    #[arg(long, value_name = "NAME=CONTEXT")]
    build_context: Vec<String>,
    /// Build this stage [default: the last one]
    #[arg(long, value_name = "STAGE", default_value = "", hide_default_value = true)]
    target: String,
    /// Run every step again
    #[arg(long)]
    no_cache: bool,
    /// Ask the registry for the base images even if they are in the store
    #[arg(long)]
    pull: bool,
    /// Where the result goes: type=image|oci|docker|tar|local|registry[,dest=PATH][,name=NAME][,push=true]; DIR is
    /// type=local,dest=DIR and `-` is a tar on standard output
    #[arg(short, long, value_name = "SPEC")]
    output: Vec<String>,
    /// Push the image to the registry of its name
    #[arg(long)]
    push: bool,
    /// Show what the checks say of the Dockerfile and build nothing: short for --call=check
    #[arg(long, conflicts_with = "call")]
    check: bool,
    /// What to do: build, check, outline (arguments, secrets, …), targets or subrequests.describe; `,format=json` for JSON
    #[arg(long, value_name = "WHAT[,format=json]")]
    call: Option<Call>,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto, env = "BUILDKIT_PROGRESS", hide_env = true)]
    progress: ProgressMode,
    /// Show nothing but errors, and print the image id
    #[arg(short, long)]
    quiet: bool,
    /// Write the image id to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write digests and descriptor of the result to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// How many steps may run at once
    #[arg(long, value_name = "N", default_value_t = build::JOBS_DEFAULT, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// Speak plain HTTP to this registry (`host[:port]`); loopback needs no asking
    #[arg(long, value_name = "HOST")]
    insecure_registry: Vec<String>,
    /// The build context: a directory
    context: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProgressMode {
    Auto,
    Tty,
    Plain,
    Quiet,
}

pub(super) fn build(args: BuildArgs, root: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let quiet = args.quiet;
    let call = if args.check { Some(Call::check()) } else { args.call.clone() };
    let request = request(args)?;
    let stdout_is_taken = request.outputs.iter().any(Output::takes_stdout);
    if let Some(call) = call.filter(|call| call.question != Question::Build) {
        return ask(&request, &call, root);
    }
    let store = open_store(root)?;
    let outcome = build::build(&store, request)?;
    if quiet
        && !stdout_is_taken
        && let Some(id) = outcome.image_id
    {
        crate::progress::print_result(&id.to_string());
    }
    Ok(ExitCode::SUCCESS)
}

/// Answers a question about the Dockerfile. That there are warnings is told by the exit status.
fn ask(request: &BuildRequest, call: &Call, root: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let is_clean = if request.pull {
        let store = open_store(root)?;
        build::call::call(request, call, &Images::Pull(&store))?
    } else {
        build::call::call(request, call, &Images::Here(&|| existing_store(root.clone())))?
    };
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::from(WARNINGS_EXIT_CODE) })
}

fn request(args: BuildArgs) -> Result<BuildRequest, Failure> {
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
    if outputs.is_empty() {
        outputs.push(Output::Image { names: tags, push: false });
    }
    if args.push {
        push_all(&mut outputs)?;
    }
    let mut build_args = args.build_arg.iter().filter_map(|arg| build_arg(arg)).collect::<BTreeMap<_, _>>();
    if let Some(epoch) = variable("SOURCE_DATE_EPOCH").and_then(|value| value.into_string().ok()) {
        build_args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert(epoch);
    }
    let contexts = args.build_context.iter().map(|spec| named_context(spec)).collect::<Result<_, _>>()?;
    let progress = match args.progress {
        _ if args.quiet => Mode::Quiet,
        ProgressMode::Auto => Mode::Auto,
        ProgressMode::Tty => Mode::Tty,
        ProgressMode::Plain => Mode::Plain,
        ProgressMode::Quiet => Mode::Quiet,
    };
    let docker_config = variable("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".docker")))
        .map(|dir| dir.join("config.json"));
    Ok(BuildRequest {
        context: args.context,
        dockerfile: args.file,
        build_args,
        contexts,
        target: args.target,
        no_cache: args.no_cache,
        pull: args.pull,
        outputs,
        progress,
        iidfile: args.iidfile,
        metadata_file: args.metadata_file,
        jobs: args.jobs.into(),
        insecure_registries: args.insecure_registry,
        docker_config,
    })
}

/// `--push`: what is an image is pushed.
fn push_all(outputs: &mut [Output]) -> Result<(), Failure> {
    let mut pushed = false;
    for output in outputs {
        if let Output::Image { names, push } = output {
            if names.is_empty() {
                return Err(Failure::new(Kind::Usage, "--push: the image has no name")
                    .hint("give one with `-t NAME`"));
            }
            *push = true;
            pushed = true;
        }
    }
    if pushed {
        return Ok(());
    }
    Err(Failure::new(Kind::Usage, "--push: none of the outputs is an image")
        .hint("leave `-o` out, or use type=image"))
}

/// `NAME=VALUE`, or `NAME` with the value of the environment; nothing where that has none.
fn build_arg(text: &str) -> Option<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => Some((text.to_owned(), variable(text)?.into_string().ok()?)),
    }
}

fn named_context(text: &str) -> Result<(String, ContextSpec), Failure> {
    let usage = |message: &str| Failure::new(Kind::Usage, format!("--build-context {text}: {message}"));
    let (name, value) = text.split_once('=').ok_or_else(|| usage("want NAME=CONTEXT"))?;
    if name.is_empty() || value.is_empty() {
        return Err(usage("want NAME=CONTEXT"));
    }
    let spec = if value.starts_with("oci-layout://") {
        ContextSpec::Image(value.to_owned())
    } else if let Some(image) = value.strip_prefix("docker-image://") {
        ContextSpec::Image(image.to_owned())
    } else if value.contains("://") {
        return Err(usage(
            "contexts of this kind are not supported; give a directory, oci-layout:// or docker-image://",
        ));
    } else {
        ContextSpec::Directory(PathBuf::from(value))
    };
    Ok((name.to_lowercase(), spec))
}
