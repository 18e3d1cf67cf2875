//! `wharf executor`: kaniko's flags → those of `wharf build`, so that who changes from one to the other changes the
//! name of an image and nothing else. Every flag does what it does there, or it is said why there is nothing to do.

mod context;
mod idle;
mod registries;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use rustix::fs::{Access, AtFlags, CWD};
use wharf_cache::Digest;
use wharf_cache::diff::Compression;

use super::build::{BuildArgs, build_changed};
use super::config::Config;
use super::place::Wanted;
use super::registries::credential_files;
use super::variable;
use crate::build::BuildRequest;
use crate::context::ContextSpec;
use crate::csv;
use crate::error::{Failure, Kind};
use crate::exporter::Destination;
use crate::exporter::annotations::{Annotation, Annotations, Level, Target};
use crate::exporter::form::ImageForm;
use crate::exporter::spec::{ImageOutput, ImageSpec, Output, Push};
use crate::progress::print_note;
use crate::registry::{Credentials, Reference};
use context::{Context, GitAccess, GitOptions};
use idle::IdleArgs;
use registries::RegistryArgs;

/// The command, and the name that a link to wharf has to be it.
pub(super) const NAME: &str = "executor";

/// Where kaniko keeps its things, credentials among them.
const KANIKO_DIR: &str = "/kaniko";

#[derive(Debug, Args)]
pub(super) struct ExecutorArgs {
    /// Dockerfile: a path here, else in the context, or a URL [default: Dockerfile]
    #[arg(short = 'f', long, value_name = "FILE")]
    dockerfile: Option<PathBuf>,
    /// Context: dir://PATH, tar://PATH, tar://stdin, git://HOST/PATH[#REF[#COMMIT]] or https://…
    #[arg(short, long, value_name = "CONTEXT", default_value = "/workspace/")]
    context: String,
    /// A directory in the context that is the context
    #[arg(long, value_name = "DIR")]
    context_sub_path: Option<PathBuf>,
    /// Another way to name a context in a bucket
    #[arg(short, long, value_name = "BUCKET", hide = true)]
    bucket: Option<String>,
    /// Of a repository: branch=NAME,recurse-submodules=BOOL
    #[arg(long, value_name = "KEY=VALUE,…", default_value = "", hide_default_value = true)]
    git: String,
    /// Push the image under this name; may be given several times
    #[arg(short, long, value_name = "NAME")]
    destination: Vec<String>,
    /// Whether the image is pushed
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch)]
    push: Option<bool>,
    /// Build nothing, and say what would be built
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    dryrun: bool,
    /// Push nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    no_push: bool,
    /// Write the image to a tar for `docker load`
    #[arg(long, value_name = "FILE", alias = "tarPath")]
    tar_path: Option<PathBuf>,
    /// Write the image to a directory, as an OCI layout
    #[arg(long, value_name = "DIR")]
    oci_layout_path: Option<PathBuf>,
    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Build this stage; of several the last one given [default: the last one of the Dockerfile]
    #[arg(long, value_name = "STAGE")]
    target: Vec<String>,
    /// Set a label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Set an annotation of the image's manifest
    #[arg(long, value_name = "NAME=VALUE")]
    annotation: Vec<String>,
    /// A secret for RUN --mount=type=secret: id=ID[,src=PATH|env=NAME]
    #[arg(long, value_name = "SPEC")]
    secret: Vec<String>,
    /// Take steps from the cache, and put them there
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    cache: bool,
    /// Where the cache is: an image name without a tag, or oci:DIR [default: the destination and /cache]
    #[arg(long, value_name = "NAME")]
    cache_repo: Option<String>,
    /// A directory of this machine that is kept from build to build: with --cache, base images and steps are kept in it
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Put nothing into the cache
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    no_push_cache: bool,
    /// Whether layers in the cache are compressed
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = switch)]
    compressed_caching: bool,
    /// How layers are compressed: gzip or zstd
    #[arg(long, value_name = "NAME")]
    compression: Option<CompressionName>,
    /// How much: 0 to 9 of gzip, 1 to 22 of zstd
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = -1, hide_default_value = true)]
    compression_level: i32,
    /// Set all times that the build makes to the first second of 1970, or to SOURCE_DATE_EPOCH
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = switch)]
    reproducible: bool,
    /// The platform of the image [default: this machine's]
    #[arg(long, value_name = "OS/ARCHITECTURE", alias = "customPlatform")]
    custom_platform: Option<String>,
    /// Write the digest of the image to a file
    #[arg(long, value_name = "FILE")]
    digest_file: Option<PathBuf>,
    /// Write the names of the image to a file, NAME@DIGEST a line
    #[arg(long, value_name = "FILE")]
    image_name_with_digest_file: Option<PathBuf>,
    /// Write the names of the image to a file, NAME:TAG@DIGEST a line
    #[arg(long, value_name = "FILE")]
    image_name_tag_with_digest_file: Option<PathBuf>,
    /// Where kaniko's directory is, of which `.docker/config.json` is read [default: /kaniko]
    #[arg(long, value_name = "DIR")]
    kaniko_dir: Option<PathBuf>,
    /// How much is said: with error, fatal or panic nothing but errors
    #[arg(short, long, value_name = "LEVEL", default_value = "info",
        value_parser = ["trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"])]
    verbosity: String,
    #[command(flatten)]
    registries: RegistryArgs,
    #[command(flatten)]
    idle: IdleArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum CompressionName {
    Gzip,
    Zstd,
}

/// A Boolean as kaniko reads it.
fn switch(text: &str) -> Result<bool, String> {
    csv::boolean(text).filter(|_| !text.is_empty()).ok_or_else(|| "it is neither true nor false".to_owned())
}

/// Builds what `args` say.
pub(super) fn executor(args: ExecutorArgs, wanted: Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
    let plan = Plan::of(&args, &text)?;
    for note in args.idle.notes().into_iter().chain(plan.notes(&args)) {
        print_note(&note);
    }
    let flags = plan.flags(&args)?;
    let store = plan.store.as_ref().and_then(|store| store.as_ref().ok());
    let wanted = Wanted { root: wanted.root.or_else(|| store.cloned()), ..wanted };
    let change = |request| plan.complete(request, &args, &text);
    let (code, outcome) = build_changed(BuildArgs::from_flags(flags)?, &wanted, config, change)?;
    if let Some(digest) = outcome.and_then(|outcome| outcome.manifest) {
        plan.write_digests(&args, &digest)?;
    }
    Ok(code)
}

/// What the flags mean together.
#[derive(Debug)]
struct Plan {
    destinations: Vec<Reference>,
    push: bool,
    context: Context,
    /// Whether submodules are brought although nobody asked for them.
    brings_submodules: bool,
    dockerfile: Option<PathBuf>,
    cache: Option<CachePlace>,
    /// Where the store is, if the flags say it, or why it is not there.
    store: Option<Result<PathBuf, String>>,
}

/// Where the cache is.
#[derive(Debug, PartialEq, Eq)]
enum CachePlace {
    Registry(Reference),
    Directory(String),
}

impl Plan {
    fn of(args: &ExecutorArgs, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let usage = |message: String| Failure::new(Kind::Usage, message);
        let no_push = match variable("KANIKO_NO_PUSH") {
            Some(text) => switch(&text).map_err(|error| usage(format!("KANIKO_NO_PUSH={text}: {error}")))?,
            None => args.no_push,
        };
        let no_push = match args.push {
            Some(true) if no_push => {
                return Err(usage("--push and --no-push contradict each other".to_owned()));
            }
            Some(push) => !push,
            None => no_push,
        };
        let read = |name: &String| match name.parse::<Reference>() {
            Ok(reference) if reference.digest().is_none() => Ok(reference),
            Ok(_) => Err(usage(format!("--destination {name}: a name cannot have a digest"))),
            Err(error) => Err(usage(format!("--destination {name}: {error}"))),
        };
        let destinations = args.destination.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        if destinations.is_empty() && !no_push && !args.dryrun {
            return Err(usage("the image is to be pushed and has no name".to_owned())
                .hint("give `--destination NAME`, or `--no-push`"));
        }
        if let Some(file) = args.named_digest_files().next().filter(|_| destinations.is_empty()) {
            let file = file.display();
            return Err(usage(format!("`{file}` is to have the name of the image, and it has none"))
                .hint("give `--destination NAME`"));
        }
        if let Some(file) = args.digest_files().find(|file| file.to_string_lossy().contains("://")) {
            return Err(usage(format!("`{}`: digests are written to files", file.display())));
        }
        let cache = match (args.cache, &args.cache_repo, destinations.first()) {
            (false, ..) => None,
            (true, Some(repository), _) => Some(CachePlace::parse(repository)?),
            (true, None, Some(destination)) if !no_push => {
                let repository = format!("{}/{}/cache", destination.registry(), destination.repository());
                Some(CachePlace::parse(&repository)?)
            }
            (true, None, _) => {
                return Err(usage(
                    "--cache: nothing says where the cache is, because nothing is pushed".to_owned(),
                )
                .hint("give `--cache-repo NAME`, or `--cache-repo oci:DIR`"));
            }
        };
        args.require_one_platform()?;
        let git = GitOptions::parse(&args.git).map_err(|error| usage(format!("--git: {error}")))?;
        let bucket = args.bucket.as_deref().map(|bucket| match bucket.contains("://") {
            true => bucket.to_owned(),
            false => format!("gs://{bucket}"),
        });
        let given = bucket.as_deref().unwrap_or(&args.context);
        let access = GitAccess::from_variables(variable);
        let context = context::translate(given, args.context_sub_path.as_deref(), &git, &access)?;
        let dockerfile =
            args.dockerfile.as_deref().map(|file| dockerfile(file, &context.name)).transpose()?;
        Ok(Self {
            push: !no_push,
            brings_submodules: !git.submodules && context.is_repository,
            store: args.cache_dir.as_deref().filter(|_| args.cache).map(store_in),
            destinations,
            context,
            dockerfile,
            cache,
        })
    }

    fn notes(&self, args: &ExecutorArgs) -> Vec<String> {
        let notes = [
            (
                args.cache_repo.is_some() && !args.cache,
                "--cache-repo has no effect without --cache".to_owned(),
            ),
            (args.cache_dir.is_some() && !args.cache, "--cache-dir has no effect without --cache".to_owned()),
            (
                self.brings_submodules && !args.git.is_empty(),
                "--git: submodules come with their repository, asked for or not".to_owned(),
            ),
            (
                !args.git.is_empty() && !self.context.is_repository,
                "--git has no effect: the context is no repository".to_owned(),
            ),
            (
                args.target.len() > 1,
                format!(
                    "--target: one image is built, of the last of these stages: {}",
                    args.target.join(", ")
                ),
            ),
        ];
        let no_store = self.store.as_ref().and_then(|store| store.as_ref().err());
        let no_store = no_store.map(|why| format!("--cache-dir is not used: {why}"));
        let said = notes.into_iter().filter(|(is_said, _)| *is_said).map(|(_, note)| note);
        said.chain(no_store).collect()
    }

    /// What is said to `wharf build`.
    fn flags(&self, args: &ExecutorArgs) -> Result<Vec<OsString>, Failure> {
        let mut flags: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            // In one word: a value may begin with a dash.
            let mut flag = OsString::from(format!("--{name}="));
            flag.push(value);
            flags.push(flag);
        };
        let is_quiet = matches!(args.verbosity.as_str(), "error" | "fatal" | "panic");
        add("progress", &if is_quiet { "quiet" } else { "plain" });
        self.destinations.iter().for_each(|name| add("tag", &name.to_string()));
        args.build_arg.iter().for_each(|text| add("build-arg", text));
        args.label.iter().for_each(|text| add("label", text));
        args.secret.iter().for_each(|text| add("secret", text));
        if let Some(platform) = args.custom_platform.as_deref().filter(|platform| !platform.is_empty()) {
            add("platform", &platform);
        }
        add("target", &args.target.last().map_or("", String::as_str));
        if let Some(file) = &self.dockerfile {
            add("file", file);
        }
        if let Some(cache) = &self.cache {
            add("cache-from", &cache.spec("src"));
            if !args.no_push_cache {
                let form = if args.compressed_caching { "" } else { ",compression=uncompressed" };
                add("cache-to", &format!("{},mode=max{form}", cache.spec("dest")));
            }
        }
        if !args.cache {
            flags.push("--no-cache".into());
        }
        if args.dryrun {
            flags.push("--plan".into());
        }
        flags.push("--".into());
        flags.push(self.context.name.clone().into());
        Ok(flags)
    }

    /// What no flag of `wharf build` says.
    fn complete(
        &self,
        mut request: BuildRequest,
        args: &ExecutorArgs,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<BuildRequest, Failure> {
        if let ContextSpec::Http(url) = &request.context
            && self.context.is_repository
        {
            request.context = ContextSpec::Git(url.clone());
        }
        let names: Vec<String> = self.destinations.iter().map(Reference::to_string).collect();
        let form = ImageForm {
            compression: args.compression()?,
            annotations: args.annotations()?,
            ..ImageForm::default()
        };
        let image = ImageSpec { names, form };
        let mut outputs = Vec::new();
        if let Some(path) = &args.tar_path {
            outputs.push(Output::DockerArchive(image.clone(), Destination::File(path.clone())));
        }
        if let Some(dest) = &args.oci_layout_path {
            outputs.push(Output::OciDirectory(image.clone(), dest.clone()));
        }
        let push = if self.push { Push::ByName } else { Push::No };
        outputs.push(Output::Image(ImageOutput { push, ..ImageOutput::stored(image) }));
        request.outputs = outputs;
        if args.reproducible {
            request.build_args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert_with(|| "0".to_owned());
        }
        let mut pushed = self.destinations.clone();
        if let Some(CachePlace::Registry(reference)) = &self.cache {
            pushed.push(reference.clone());
        }
        request.registries = args.registries.rules(&pushed, variable)?.over(request.registries);
        if variable("DOCKER_CONFIG").is_none() {
            let dir = args.kaniko_dir.clone().or_else(|| variable("KANIKO_DIR").map(PathBuf::from));
            let file = dir.unwrap_or_else(|| KANIKO_DIR.into()).join(".docker/config.json");
            // The user's own are what is left where kaniko's is not, or says nothing.
            if file.is_file() {
                let files = std::iter::once(file).chain(credential_files()).collect();
                request.credentials = Credentials::of_files(files);
            }
        }
        Ok(request)
    }

    fn write_digests(&self, args: &ExecutorArgs, digest: &Digest) -> Result<(), Failure> {
        let lines = |with_tag: bool| {
            let line = |name: &Reference| {
                let tag = name.tag().filter(|_| with_tag).map(|tag| format!(":{tag}")).unwrap_or_default();
                format!("{}/{}{tag}@{digest}\n", name.registry(), name.repository())
            };
            self.destinations.iter().map(line).collect::<String>()
        };
        let files = [
            (&args.digest_file, digest.to_string()),
            (&args.image_name_with_digest_file, lines(false)),
            (&args.image_name_tag_with_digest_file, lines(true)),
        ];
        for (path, text) in files {
            let Some(path) = path else { continue };
            let written = match path.parent() {
                Some(parent) => fs::create_dir_all(parent),
                None => Ok(()),
            };
            // Not by renaming: it may be a mount, as a pod's termination log is.
            written.and_then(|()| fs::write(path, text)).map_err(|error| {
                let doing =
                    format!("the image was built, but its digest cannot be written to `{}`", path.display());
                Failure::from_error(Kind::Environment, &doing, &error)
            })?;
        }
        Ok(())
    }
}

impl ExecutorArgs {
    fn digest_files(&self) -> impl Iterator<Item = &Path> {
        self.digest_file.as_deref().into_iter().chain(self.named_digest_files())
    }

    fn named_digest_files(&self) -> impl Iterator<Item = &Path> {
        [&self.image_name_with_digest_file, &self.image_name_tag_with_digest_file]
            .into_iter()
            .filter_map(|file| file.as_deref())
    }

    /// As kaniko has it, there is one.
    fn require_one_platform(&self) -> Result<(), Failure> {
        match self.custom_platform.as_deref() {
            Some(platform) if platform.contains(',') => Err(Failure::new(
                Kind::Usage,
                format!("--custom-platform {platform}: one image is built, for one platform"),
            )
            .hint("`wharf build --platform` builds for several")),
            _ => Ok(()),
        }
    }

    fn annotations(&self) -> Result<Annotations, Failure> {
        let target = Target { level: Level::Manifest, platform: None };
        let parse = |text: &String| match text.split_once('=').filter(|(name, _)| !name.is_empty()) {
            Some((key, value)) => {
                Ok(Annotation { target: target.clone(), key: key.to_owned(), value: value.to_owned() })
            }
            None => Err(Failure::new(Kind::Usage, format!("--annotation `{text}` is not NAME=VALUE"))),
        };
        Ok(Annotations(self.annotation.iter().map(parse).collect::<Result<_, _>>()?))
    }

    fn compression(&self) -> Result<Compression, Failure> {
        let (name, levels) = match self.compression {
            None | Some(CompressionName::Gzip) => ("gzip", 0..=9),
            Some(CompressionName::Zstd) => ("zstd", 1..=22),
        };
        let level = match self.compression_level {
            -1 => None,
            level => {
                Some(u8::try_from(level).ok().filter(|level| levels.contains(level)).ok_or_else(|| {
                    let (first, last) = (levels.start(), levels.end());
                    let message =
                        format!("--compression-level {level}: the levels of {name} are {first} to {last}");
                    Failure::new(Kind::Usage, message)
                })?)
            }
        };
        Ok(match self.compression {
            None | Some(CompressionName::Gzip) => Compression::Gzip { level },
            Some(CompressionName::Zstd) => Compression::Zstd { level },
        })
    }
}

impl CachePlace {
    fn parse(text: &str) -> Result<Self, Failure> {
        if let Some(dir) = text.strip_prefix("oci:") {
            return Ok(Self::Directory(dir.to_owned()));
        }
        let name = text.parse::<Reference>();
        let name = name.map_err(|error| Failure::new(Kind::Usage, format!("--cache-repo: {error}")))?;
        Ok(Self::Registry(name))
    }

    /// As `--cache-from` and `--cache-to` have it.
    fn spec(&self, path_key: &str) -> String {
        match self {
            Self::Registry(reference) => format!("type=registry,ref={reference}"),
            Self::Directory(dir) => format!("type=local,\"{path_key}={}\"", dir.replace('"', "\"\"")),
        }
    }
}

/// The store in a directory that is kept from build to build; or why it cannot be there. kaniko only reads such a
/// directory, so that it may be mounted read-only, or from another machine.
fn store_in(dir: &Path) -> Result<PathBuf, String> {
    // 9p, AFS, Ceph, CIFS, FUSE, Lustre, NFS, SMB, SMB 2: of `linux/magic.h`.
    const REMOTE: [u32; 9] = [
        0x0102_1997,
        0x5346_414f,
        0x00c3_6400,
        0xff53_4d42,
        0x6573_5546,
        0x0bd0_0bd0,
        0x6969,
        0x517b,
        0xfe53_4d42,
    ];
    let refused = |why: &dyn std::fmt::Display| {
        format!("`{}` {why}; base images and steps are kept in the usual store", dir.display())
    };
    fs::create_dir_all(dir).map_err(|error| refused(&format_args!("cannot be made: {error}")))?;
    let is_remote = |kind: u32| REMOTE.contains(&kind);
    match rustix::fs::statfs(dir) {
        Ok(on) if is_remote(on.f_type as u32) => return Err(refused(&"is not on a disk of this machine")),
        Ok(_) => {}
        Err(error) => return Err(refused(&format_args!("cannot be looked at: {error}"))),
    }
    let rights = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(CWD, dir, rights, AtFlags::EACCESS)
        .map_err(|error| refused(&format_args!("cannot be written: {error}")))?;
    Ok(dir.join("wharf"))
}

/// A Dockerfile as `wharf build` finds it: it stands here, else in the context.
fn dockerfile(file: &Path, context: &Path) -> Result<PathBuf, Failure> {
    let is_url =
        file.to_str().is_some_and(|text| text.starts_with("http://") || text.starts_with("https://"));
    if is_url || !context.is_dir() || file.exists() {
        return Ok(file.to_path_buf());
    }
    let inside = context.join(file);
    if inside.exists() {
        return Ok(inside);
    }
    let inside = inside.display();
    let missing = match file.is_absolute() {
        true => format!("is no `{inside}`"),
        false => format!("is neither `{}` nor `{inside}`", file.display()),
    };
    Err(Failure::new(Kind::Usage, format!("--dockerfile: there {missing}")))
}
