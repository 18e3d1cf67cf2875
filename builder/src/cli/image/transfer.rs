//! `wharf save`, `load`, `pull`, `push` and `copy`.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use wharf_cache::state::Image;
use wharf_cache::{Digest, Store};
use wharf_runtime::Sandbox;

use super::session::Session;
use super::{Config, Wanted, all, failed, familiar, find_leased, name_with_tag, one_platform, tagged};
use crate::build::host_platform;
use crate::cli::registries::{RegistryArgs, credentials, options};
use crate::error::{Failure, Kind, causes};
use crate::exporter::output::open_stdout;
use crate::exporter::{Destination, ExportError};
use crate::images::ImagesError;
use crate::images::bundle::{Bundle, InBundle};
use crate::images::places::{Blob, Document, InRegistry, InStore, IntoLayout, IntoStore, Source, Target};
use crate::images::transfer::{Choice, Transfer};
use crate::images::writer::{ArchiveWriter, Label};
use crate::progress::print_result;
use crate::registry::reference::is_referrers_tag;
use crate::registry::{OpenBlob, Reference};

#[derive(Debug, Args)]
pub(in crate::cli) struct SaveArgs {
    /// Names, digests, or at least four digits of a digest
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The archive [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What reads it: Docker (and everything that reads OCI layouts), or only the latter
    #[arg(long, value_enum, default_value_t = ArchiveFormat::Docker)]
    format: ArchiveFormat,
    /// Only the image for this platform of each index
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ArchiveFormat {
    Docker,
    #[value(alias = "oci-archive")]
    Oci,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LoadArgs {
    /// The archive, or the directory of an OCI layout [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Only the image for this platform of each index
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PullArgs {
    /// The image
    image: String,
    /// For this platform [default: this machine's]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    platform: Option<String>,
    /// For all platforms, with their index
    #[arg(long)]
    all_platforms: bool,
    /// All images of the repository
    #[arg(short, long)]
    all_tags: bool,
    #[command(flatten)]
    registries: RegistryArgs,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PushArgs {
    /// The name that the image has in the store
    name: String,
    /// All tags of the repository that are in the store
    #[arg(short, long)]
    all_tags: bool,
    /// Only the image for this platform of an index
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    #[command(flatten)]
    registries: RegistryArgs,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CopyArgs {
    /// docker://NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME], or an image of the store
    source: String,
    /// The same; a name without a prefix is one in the store
    dest: String,
    /// All platforms of an index
    #[arg(short, long, conflicts_with = "platform")]
    all: bool,
    /// Only this platform of an index [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    #[command(flatten)]
    registries: RegistryArgs,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// A place that was named on the command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spec {
    Registry(String),
    Layout { path: PathBuf, tag: Option<String> },
    OciArchive { path: PathBuf, tag: Option<String> },
    DockerArchive { path: PathBuf, name: Option<String> },
    Store(String),
}

pub(super) fn save(args: &SaveArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let choice = all_or(args.platform.as_deref())?;
    let dest = destination(args.output.as_deref())?;
    Session::run(wanted, config, args.quiet, |session| {
        // What is asked for by its name is saved under it, an image that is asked for by its digest has no name there.
        let mut sources: Vec<(InStore<'_>, Vec<Label>)> = Vec::new();
        for text in &args.images {
            let image = find_leased(session.store, text)?;
            let is_by_name = text.parse::<Reference>().ok().map(|name| name.to_string()) == image.name;
            let label = image.name.clone().filter(|_| is_by_name).map(Label::Name);
            match sources.iter_mut().find(|(source, _)| source.digest == image.digest) {
                Some((_, labels)) => {
                    labels.extend(label.filter(|label| !labels.contains(label)));
                }
                None => sources.push((in_store(session, image), label.into_iter().collect())),
            }
        }
        let docker = (args.format == ArchiveFormat::Docker).then(host_platform);
        session.step("writing the archive", |progress| {
            write_archive(session, &dest, docker, |writer| {
                for (source, labels) in &sources {
                    let target = writer.target(labels.clone());
                    let (choice, cancel) = (&choice, &session.cancel);
                    Transfer { source, target: &target, choice, cancel, progress, strict: false }.run()?;
                }
                Ok(())
            })
        })
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn load(args: &LoadArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let choice = all_or(args.platform.as_deref())?;
    let path = args.input.as_deref().filter(|path| *path != Path::new("-"));
    require_input(path)?;
    Session::run(wanted, config, args.quiet, |session| {
        let bundle =
            session.step("reading the archive", |_| Bundle::open(path, session.store, &session.cancel))?;
        if bundle.images().is_empty() {
            return Err(failed("cannot load", no_images(&bundle)));
        }
        // First all of them come, then they are named: a broken archive leaves none of its images.
        let mut loaded = Vec::new();
        for image in bundle.images() {
            let source = InBundle { bundle: &bundle, image };
            let target = Unnamed(IntoStore { store: session.store, names: &[] });
            let step = format!("loading {}", source.name());
            loaded.push((session.transfer(&step, &source, &target, &choice, true)?, image));
        }
        for (root, image) in loaded {
            let target = IntoStore { store: session.store, names: &image.names };
            name_root(&target, &root)?;
            for name in &image.names {
                print_result(&format!("Loaded image: {}", name.familiar()))?;
            }
            if image.names.is_empty() {
                print_result(&format!("Loaded image ID: {}", id_of(session, &root)?))?;
            }
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn pull(args: &PullArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let reference = parse_name(&args.image)?;
    let choice = match args.all_platforms {
        true => Choice::All,
        false => one_or_usual(args.platform.as_deref())?,
    };
    let repository = args.image.rsplit('/').next().unwrap_or_default();
    if args.all_tags && repository.contains([':', '@']) {
        let message = format!("`{}` has a tag or digest, and `--all-tags` is for all of them", args.image);
        return Err(Failure::new(Kind::Usage, message).hint("name the repository alone"));
    }
    let registries = args.registries.options(config, std::slice::from_ref(&reference))?;
    Session::run_with(wanted, config, args.quiet, registries, |session| {
        let references = match args.all_tags {
            false => vec![reference],
            true => tags(session, &reference)?,
        };
        for reference in references {
            let names: Vec<Reference> = tagged(&reference).into_iter().collect();
            let source = InRegistry { registry: session.registry.clone(), reference: reference.clone() };
            let target = IntoStore { store: session.store, names: &names };
            session.transfer(&format!("pulling {reference}"), &source, &target, &choice, true)?;
            print_result(&reference.to_string())?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Brings an image that a container is to be made of into a store that is open.
pub(in crate::cli) fn bring(
    store: &Store,
    sandbox: Sandbox,
    name: &str,
    platform: Option<&str>,
    quiet: bool,
    config: &Config,
) -> Result<(), Failure> {
    let reference = parse_name(name)?;
    let choice = one_or_usual(platform)?;
    let credentials = credentials(&[], std::slice::from_ref(&reference))?;
    let registries = options(config, credentials, Vec::new())?;
    Session::run_in(store, sandbox, quiet, registries, |session| {
        let names: Vec<Reference> = tagged(&reference).into_iter().collect();
        let source = InRegistry { registry: session.registry.clone(), reference: reference.clone() };
        let target = IntoStore { store: session.store, names: &names };
        session.transfer(&format!("pulling {reference}"), &source, &target, &choice, true).map(drop)
    })
}

/// The images of a repository in its registry, without the indexes that stand for lists of what refers to them.
fn tags(session: &Session<'_>, name: &Reference) -> Result<Vec<Reference>, Failure> {
    let step = format!("listing the tags of {}/{}", name.registry(), name.repository());
    let tags = session.step(&step, |_| Ok(session.registry.tags(name)?))?;
    let tags: Vec<_> = tags.into_iter().filter(|tag| !is_referrers_tag(tag)).collect();
    if tags.is_empty() {
        let message = format!("the repository {}/{} has no tags", name.registry(), name.repository());
        return Err(Failure::new(Kind::Source, message));
    }
    tags.iter().map(|tag| parse_name(&format!("{}/{}:{tag}", name.registry(), name.repository()))).collect()
}

pub(super) fn push(args: &PushArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let choice = all_or(args.platform.as_deref())?;
    let name = parse_name(&args.name)?;
    let registries = args.registries.options(config, std::slice::from_ref(&name))?;
    Session::run_with(wanted, config, args.quiet, registries, |session| {
        let references = match args.all_tags {
            false => vec![name],
            true => {
                let of_repository = |image: Image| {
                    let other: Reference = image.name?.parse().ok()?;
                    let is_same =
                        other.registry() == name.registry() && other.repository() == name.repository();
                    is_same.then_some(other)
                };
                all(session.store)?.into_iter().filter_map(of_repository).collect()
            }
        };
        if references.is_empty() {
            let message = format!("there is no image of the repository `{}` in the store", args.name);
            return Err(Failure::new(Kind::Usage, message));
        }
        for reference in references {
            let image = find_leased(session.store, &reference.to_string())?;
            let source = in_store(session, image);
            let target = InRegistry { registry: session.registry.clone(), reference: reference.clone() };
            let pushed =
                session.transfer(&format!("pushing {reference}"), &source, &target, &choice, false)?;
            print_result(&format!("{reference}@{}", pushed.descriptor.digest))?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn copy(args: &CopyArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let (from, to) = (Spec::parse(&args.source)?, Spec::parse(&args.dest)?);
    let choice = match args.all {
        true => Choice::All,
        false => one_or_usual(args.platform.as_deref())?,
    };
    let from_name = match &from {
        Spec::Registry(text) | Spec::Store(text) => Some(parse_name(text)),
        _ => None,
    };
    let mut named = Vec::new();
    for place in [&from, &to] {
        if let Spec::Registry(text) = place {
            named.push(parse_name(text)?);
        }
    }
    // From one registry to another, a password must say whose it is.
    if named.windows(2).any(|pair| pair[0].registry() != pair[1].registry()) {
        named.clear();
    }
    let registries = args.registries.options(config, &named)?;
    Session::run_with(wanted, config, args.quiet, registries, |session| {
        let step = format!("copying {} to {}", args.source, args.dest);
        let send = |source: &dyn Source| send(session, &step, source, &to, &choice);
        let copied = match &from {
            Spec::Registry(_) => {
                let reference = from_name.expect("it has a name")?;
                send(&InRegistry { registry: session.registry.clone(), reference })
            }
            Spec::Store(text) => send(&in_store(session, find_leased(session.store, text)?)),
            Spec::Layout { path, tag: label }
            | Spec::OciArchive { path, tag: label }
            | Spec::DockerArchive { path, name: label } => {
                let path = Some(path.as_path()).filter(|path| *path != Path::new("-"));
                require_input(path)?;
                let bundle = session
                    .step("reading the archive", |_| Bundle::open(path, session.store, &session.cancel))?;
                let image = bundle.find(label.as_deref()).map_err(|error| failed("cannot copy", error))?;
                send(&InBundle { bundle: &bundle, image })
            }
        }?;
        print_result(&copied.descriptor.digest.to_string())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Copies `source` to a place that was named.
fn send(
    session: &Session<'_>,
    step: &str,
    source: &dyn Source,
    to: &Spec,
    choice: &Choice,
) -> Result<Document, Failure> {
    match to {
        Spec::Registry(text) => {
            let target = InRegistry { registry: session.registry.clone(), reference: parse_name(text)? };
            session.transfer(step, source, &target, choice, false)
        }
        Spec::Store(text) => {
            let names = [name_with_tag(text)?];
            session.transfer(step, source, &IntoStore { store: session.store, names: &names }, choice, true)
        }
        Spec::Layout { path, tag } => {
            let target = IntoLayout { path: path.clone(), tag: tag.clone() };
            session.transfer(step, source, &target, choice, false)
        }
        Spec::OciArchive { path, tag } => {
            let labels = tag.clone().map(Label::Tag).into_iter().collect();
            send_to_archive(session, step, source, (path, None, labels), choice)
        }
        Spec::DockerArchive { path, name } => {
            let name = name.as_deref().map(name_with_tag).transpose()?;
            let labels = name.map(|name| Label::Name(name.to_string())).into_iter().collect();
            send_to_archive(session, step, source, (path, Some(host_platform()), labels), choice)
        }
    }
}

fn send_to_archive(
    session: &Session<'_>,
    step: &str,
    source: &dyn Source,
    (path, docker, labels): (&Path, Option<wharf_solver::llb::Platform>, Vec<Label>),
    choice: &Choice,
) -> Result<Document, Failure> {
    let dest = destination(Some(path))?;
    session.step(step, |progress| {
        write_archive(session, &dest, docker, |writer| {
            let target = writer.target(labels);
            let cancel = &session.cancel;
            Transfer { source, target: &target, choice, cancel, progress, strict: false }.run()
        })
    })
}

/// Writes an archive, which is there whole or not at all.
fn write_archive<T>(
    session: &Session<'_>,
    dest: &Destination,
    docker: Option<wharf_solver::llb::Platform>,
    fill: impl FnOnce(&ArchiveWriter<'_>) -> Result<T, ImagesError>,
) -> Result<T, ImagesError> {
    let mut filled = None;
    let written = dest.write(&session.cancel, |out| {
        let writer = ArchiveWriter::begin(out, docker)?;
        match fill(&writer) {
            Ok(value) => {
                filled = Some(Ok(value));
                writer.finish()
            }
            Err(ImagesError::Export(error)) => Err(error),
            Err(error) => {
                filled = Some(Err(error));
                let source = io::Error::other("what should go into it cannot be had");
                Err(ExportError::io("write", "the archive")(source))
            }
        }
    });
    match (filled, written) {
        (Some(Err(error)), _) => Err(error),
        (Some(Ok(value)), Ok(())) => Ok(value),
        (_, Err(error)) => Err(error.into()),
        (None, Ok(())) => unreachable!("an archive is written by filling it"),
    }
}

/// A file, or standard output, which must not be a terminal.
pub(in crate::cli) fn destination(path: Option<&Path>) -> Result<Destination, Failure> {
    match path.filter(|path| *path != Path::new("-")) {
        Some(path) => Ok(Destination::File(path.to_owned())),
        None => match open_stdout() {
            Ok(_) => Ok(Destination::Stdout),
            Err(ExportError::Terminal) => {
                Err(Failure::new(Kind::Usage, "refusing to write an archive to the terminal")
                    .hint("give `--output FILE`, or redirect standard output"))
            }
            Err(error) => Err(Failure::new(Kind::Environment, causes(&error))),
        },
    }
}

pub(super) fn require_input(path: Option<&Path>) -> Result<(), Failure> {
    match path {
        None if io::stdin().is_terminal() => {
            Err(Failure::new(Kind::Usage, "refusing to read an archive from the terminal")
                .hint("give `--input FILE`, or redirect standard input"))
        }
        _ => Ok(()),
    }
}

fn no_images(bundle: &Bundle) -> ImagesError {
    ImagesError::Bundle { bundle: bundle.name(), reason: "has no images".to_owned() }
}

/// Brings what an image consists of and names nothing.
struct Unnamed<'a>(IntoStore<'a>);

impl Target for Unnamed<'_> {
    fn has(&self, blob: &Blob) -> Result<bool, ImagesError> {
        self.0.has(blob)
    }

    fn put(&self, blob: &Blob, open: &OpenBlob<'_>, source: &dyn Source) -> Result<(), ImagesError> {
        self.0.put(blob, open, source)
    }

    fn put_manifest(&self, document: &Document) -> Result<(), ImagesError> {
        self.0.put_manifest(document)
    }

    fn name_root(&self, _: &Document) -> Result<(), ImagesError> {
        Ok(())
    }
}

fn name_root(target: &IntoStore<'_>, root: &Document) -> Result<(), Failure> {
    target.name_root(root).map_err(|error| failed("cannot name the image", error))
}

/// What an image that came has as its id.
fn id_of(session: &Session<'_>, root: &Document) -> Result<Digest, Failure> {
    let stored = crate::images::stored::Stored::look(session.store, root.descriptor.digest);
    Ok(stored.map_err(|error| failed("cannot read the image", error))?.id())
}

fn in_store<'a>(session: &Session<'a>, image: Image) -> InStore<'a> {
    in_store_of(session.store, image)
}

pub(super) fn in_store_of(store: &Store, image: Image) -> InStore<'_> {
    let name = image.name.as_deref().map_or_else(|| image.digest.to_string(), familiar);
    InStore { store, name, digest: image.digest }
}

pub(super) fn parse_name(text: &str) -> Result<Reference, Failure> {
    text.parse().map_err(|error| failed("cannot use the name", ImagesError::Reference(error)))
}

/// All platforms, unless one was asked for.
pub(super) fn all_or(platform: Option<&str>) -> Result<Choice, Failure> {
    Ok(one_platform(platform)?.map_or(Choice::All, Choice::Only))
}

/// This machine's platform, unless another one was asked for.
pub(super) fn one_or_usual(platform: Option<&str>) -> Result<Choice, Failure> {
    Ok(one_platform(platform)?.map_or_else(|| Choice::Usual(host_platform()), Choice::Only))
}

impl Spec {
    /// Has the whole image in the store, without a name, until the process ends. A name that the store does not know is
    /// looked for in its registry, unless `offline`.
    pub(super) fn take(&self, session: &Session<'_>, offline: bool) -> Result<Digest, Failure> {
        let bring = |source: &dyn Source| {
            let target = Unnamed(IntoStore { store: session.store, names: &[] });
            let step = format!("taking {}", source.name());
            let taken = session.transfer(&step, source, &target, &Choice::All, true)?;
            Ok(taken.descriptor.digest)
        };
        match self {
            Self::Registry(text) => {
                bring(&InRegistry { registry: session.registry.clone(), reference: parse_name(text)? })
            }
            Self::Store(text) => match (find_leased(session.store, text), text.parse()) {
                (Ok(image), _) => Ok(image.digest),
                (Err(failure), Ok(reference)) if failure.kind == Kind::Usage && !offline => {
                    let in_registry = InRegistry { registry: session.registry.clone(), reference };
                    bring(&in_registry)
                        .map_err(|error| error.hint(format!("it is not in the store either: {failure}")))
                }
                (Err(failure), _) => Err(failure),
            },
            Self::Layout { path, tag: label }
            | Self::OciArchive { path, tag: label }
            | Self::DockerArchive { path, name: label } => {
                let path = Some(path.as_path()).filter(|path| *path != Path::new("-"));
                require_input(path)?;
                let bundle = session
                    .step("reading the archive", |_| Bundle::open(path, session.store, &session.cancel))?;
                let image =
                    bundle.find(label.as_deref()).map_err(|error| failed("cannot take the image", error))?;
                bring(&InBundle { bundle: &bundle, image })
            }
        }
    }

    /// The name that it has in a registry, or could have.
    pub(super) fn reference(&self) -> Option<Reference> {
        match self {
            Self::Registry(text) | Self::Store(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let wrong =
            |why: &str| Failure::new(Kind::Usage, format!("`{text}` names no place of an image: {why}"));
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(name.to_owned()));
        }
        // As build contexts and `FROM` name layouts.
        let layout = text.strip_prefix("oci-layout://").map(|rest| format!("oci:{rest}"));
        let text = layout.as_deref().unwrap_or(text);
        let Some((kind, rest)) = text.split_once(':').filter(|(kind, _)| KINDS.contains(kind)) else {
            if text.contains("://") {
                return Err(wrong(
                    "there are docker://, oci:, oci-archive:, docker-archive: and names of the store",
                ));
            }
            return Ok(Self::Store(text.to_owned()));
        };
        let (path, label) = match rest.split_once(':') {
            Some((_, "")) => return Err(wrong("nothing follows the last `:`")),
            Some((path, label)) => (path, Some(label.to_owned())),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(wrong("the path is missing"));
        }
        let path = PathBuf::from(path);
        Ok(match kind {
            "oci" => Self::Layout { path, tag: label },
            "oci-archive" => Self::OciArchive { path, tag: label },
            "docker-archive" => Self::DockerArchive { path, name: label },
            _ => Self::Store(rest.to_owned()),
        })
    }
}

const KINDS: [&str; 4] = ["oci", "oci-archive", "docker-archive", "store"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let layout =
            |path: &str, tag: Option<&str>| Spec::Layout { path: path.into(), tag: tag.map(str::to_owned) };
        let check = |text: &str, expected: Spec| assert_eq!(Spec::parse(text).unwrap(), expected, "{text}");
        check("docker://r.io/a:1", Spec::Registry("r.io/a:1".to_owned()));
        check("oci:/a/b", layout("/a/b", None));
        check("oci:a:r.io/b:1", layout("a", Some("r.io/b:1")));
        check("oci-layout:///a/b:1", layout("/a/b", Some("1")));
        check("docker-archive:-", Spec::DockerArchive { path: "-".into(), name: None });
        check("app:1", Spec::Store("app:1".to_owned()));
        check("store:oci:1", Spec::Store("oci:1".to_owned()));
        for text in ["oci:", "oci:a:", "docker-archive:", "https://x", "dir://x"] {
            assert!(Spec::parse(text).is_err(), "{text}");
        }
    }
}
