//! `wharf manifest`: indexes put together of images of the store or of registries.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde_json::Value;
use wharf_cache::Digest;
use wharf_cache::state::Image;

use super::session::Session;
use super::{Config, Wanted, failed, find, find_leased, look, name_with_tag, pretty};
use crate::error::{Failure, Kind};
use crate::images::ImagesError;
use crate::images::index::{Annotation, Index};
use crate::images::places::{InRegistry, InStore, IntoStore};
use crate::images::transfer::Choice;
use crate::progress::print_result;
use crate::registry::Reference;
use crate::registry::manifest::MANIFEST_BYTES_MAX;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ManifestCommand {
    /// Make an index of images
    Create(CreateArgs),
    /// Add images to an index of the store
    Add(AddArgs),
    /// Say what an image of an index is for
    Annotate(Box<AnnotateArgs>),
    /// Show a manifest or index, of the store or else of a registry
    Inspect(InspectArgs),
    /// Send an index with all its images to its registry
    Push(PushArgs),
    /// Remove an index from the store, or an image from an index
    Rm(RmArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateArgs {
    /// Name of the index
    name: String,
    /// Images of the store, or else of registries; of an index all images
    images: Vec<String>,
    /// Add to the index if there is one with the name
    #[arg(short, long)]
    amend: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AddArgs {
    /// Name of the index
    name: String,
    /// Images of the store, or else of registries
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AnnotateArgs {
    /// Name of the index
    name: String,
    /// The image in it: its digest, or its name in the store
    image: String,
    /// Operating system
    #[arg(long)]
    os: Option<String>,
    /// Architecture
    #[arg(long)]
    arch: Option<String>,
    /// Variant of the architecture
    #[arg(long)]
    variant: Option<String>,
    /// Version of the operating system
    #[arg(long)]
    os_version: Option<String>,
    /// A feature of the operating system; may be given several times
    #[arg(long, value_name = "FEATURE", value_delimiter = ',')]
    os_features: Vec<String>,
    /// An annotation; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct InspectArgs {
    /// The image
    image: String,
    /// Ask the registry even if the store has it
    #[arg(long)]
    remote: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PushArgs {
    /// Name of the index
    name: String,
    /// Where to, if not where its name says
    destination: Option<String>,
    /// Remove the index from the store afterwards
    #[arg(short, long, visible_alias = "rm")]
    purge: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RmArgs {
    /// Name of the index
    name: String,
    /// Digests of the images to take out of it; without any, the index goes
    digests: Vec<Digest>,
}

pub(in crate::cli) fn manifest(
    command: ManifestCommand,
    wanted: &Wanted,
    config: &Config,
) -> Result<ExitCode, Failure> {
    let quiet = match &command {
        ManifestCommand::Push(args) => args.quiet,
        ManifestCommand::Inspect(_) => true,
        _ => false,
    };
    Session::run(wanted, config, quiet, |session| match command {
        ManifestCommand::Create(args) => create(session, &args),
        ManifestCommand::Add(args) => add(session, &args),
        ManifestCommand::Annotate(args) => annotate(session, &args),
        ManifestCommand::Inspect(args) => inspect(session, &args),
        ManifestCommand::Push(args) => push(session, &args),
        ManifestCommand::Rm(args) => remove(session, &args),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn create(session: &Session<'_>, args: &CreateArgs) -> Result<(), Failure> {
    let name = name_with_tag(&args.name)?;
    let index = match named(session, &name)? {
        Some(image) if args.amend => read(session, &args.name, &image)?,
        Some(_) => {
            let message = format!("there is an image `{}` in the store already", args.name);
            return Err(Failure::new(Kind::Usage, message)
                .hint("`--amend` adds to it, `wharf manifest rm` removes it"));
        }
        None => Index::new(&args.name),
    };
    extend(session, &name, index, &args.images)
}

fn add(session: &Session<'_>, args: &AddArgs) -> Result<(), Failure> {
    let name = name_with_tag(&args.name)?;
    let image = find_leased(session.store, &args.name)?;
    extend(session, &name, read(session, &args.name, &image)?, &args.images)
}

/// Adds images to an index, and puts that into the store.
fn extend(
    session: &Session<'_>,
    name: &Reference,
    mut index: Index,
    images: &[String],
) -> Result<(), Failure> {
    for text in images {
        let image = match find_leased(session.store, text) {
            Ok(image) => image,
            Err(missing) => bring(session, text, missing)?,
        };
        let stored = look(session.store, &image)?;
        index.add(&stored).map_err(|error| failed("cannot make the index", error))?;
    }
    put(session, name, &index)
}

/// Brings an image that is not in the store, whole, without naming it.
fn bring(session: &Session<'_>, text: &str, missing: Failure) -> Result<Image, Failure> {
    // Digits of a digest are no name of a registry's.
    let Ok(reference) = text.parse::<Reference>() else { return Err(missing) };
    let source = InRegistry { registry: session.registry.clone(), reference: reference.clone() };
    let target = IntoStore { store: session.store, names: &[] };
    let root = session.transfer(&format!("pulling {reference}"), &source, &target, &Choice::All, true)?;
    find(session.store, &root.descriptor.digest.to_string())
}

fn annotate(session: &Session<'_>, args: &AnnotateArgs) -> Result<(), Failure> {
    let name = name_with_tag(&args.name)?;
    let image = find_leased(session.store, &args.name)?;
    let mut index = read(session, &args.name, &image)?;
    let digest = match args.image.rsplit('@').next().map(str::parse::<Digest>) {
        Some(Ok(digest)) => digest,
        _ => find(session.store, &args.image)?.digest,
    };
    let annotations = args.annotation.iter().map(|text| {
        let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
        let pair = pair.map(|(key, value)| (key.to_owned(), value.to_owned()));
        pair.ok_or_else(|| Failure::new(Kind::Usage, format!("--annotation `{text}` is not KEY=VALUE")))
    });
    let annotation = Annotation {
        os: args.os.clone(),
        architecture: args.arch.clone(),
        variant: args.variant.clone(),
        os_version: args.os_version.clone(),
        os_features: args.os_features.clone(),
        annotations: annotations.collect::<Result<_, _>>()?,
    };
    index.annotate(&digest, &annotation).map_err(|error| failed("cannot annotate", error))?;
    put(session, &name, &index)
}

fn inspect(session: &Session<'_>, args: &InspectArgs) -> Result<(), Failure> {
    let here = if args.remote { None } else { find_leased(session.store, &args.image).ok() };
    let bytes = match here {
        Some(image) => session.store.blobs().read(&image.digest, MANIFEST_BYTES_MAX).map_err(|error| {
            failed(&format!("cannot read the image `{}`", args.image), ImagesError::Content(error))
        })?,
        None => {
            let reference = args.image.parse::<Reference>();
            let reference =
                reference.map_err(|error| failed("cannot use the name", ImagesError::Reference(error)))?;
            let fetched = session.registry.manifest(&reference);
            fetched
                .map_err(|error| {
                    failed(&format!("cannot fetch `{reference}`"), ImagesError::Registry(error))
                })?
                .bytes
        }
    };
    // As it is: a digest of what is printed is the digest of the manifest, if it was laid out like this.
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) if !bytes.contains(&b'\n') => print_result(&pretty(&value)),
        _ => print_result(String::from_utf8_lossy(&bytes).trim_end()),
    }
}

fn push(session: &Session<'_>, args: &PushArgs) -> Result<(), Failure> {
    let image = find_leased(session.store, &args.name)?;
    // What is one image is not meant to be pushed like this.
    read(session, &args.name, &image)?;
    let to = args.destination.as_deref().unwrap_or(&args.name);
    let to = to.strip_prefix("docker://").unwrap_or(to);
    let reference: Reference =
        to.parse().map_err(|error| failed("cannot use the name", ImagesError::Reference(error)))?;
    let source = InStore { store: session.store, name: args.name.clone(), digest: image.digest };
    let target = InRegistry { registry: session.registry.clone(), reference: reference.clone() };
    let pushed = session.transfer(&format!("pushing {reference}"), &source, &target, &Choice::All, false)?;
    if args.purge {
        session.store.remove_image(&image).map_err(|error| {
            Failure::from_error(Kind::Environment, &format!("cannot remove image `{}`", args.name), &error)
        })?;
    }
    print_result(&pushed.descriptor.digest.to_string())
}

fn remove(session: &Session<'_>, args: &RmArgs) -> Result<(), Failure> {
    let name = name_with_tag(&args.name)?;
    let image = find_leased(session.store, &args.name)?;
    let mut index = read(session, &args.name, &image)?;
    if args.digests.is_empty() {
        session.store.remove_image(&image).map_err(|error| {
            Failure::from_error(Kind::Environment, &format!("cannot remove image `{}`", args.name), &error)
        })?;
        return print_result(&format!("Untagged: {}", name.familiar()));
    }
    let removed = args.digests.iter().try_for_each(|digest| index.remove(digest));
    removed.map_err(|error| failed("cannot remove", error))?;
    put(session, &name, &index)
}

/// The image of the store with just this name.
fn named(session: &Session<'_>, name: &Reference) -> Result<Option<Image>, Failure> {
    let name = name.to_string();
    Ok(super::all(session.store)?.into_iter().find(|image| image.name.as_deref() == Some(&*name)))
}

fn read(session: &Session<'_>, name: &str, image: &Image) -> Result<Index, Failure> {
    Index::read(session.store, name, &image.digest).map_err(|error| failed("cannot use the index", error))
}

/// Puts an index into the store under its name; prints its digest. What it was before goes, unless it has another name.
fn put(session: &Session<'_>, name: &Reference, index: &Index) -> Result<(), Failure> {
    let cannot = |error: ImagesError| failed("cannot store the index", error);
    let before = named(session, name)?;
    let bytes = index.to_bytes().map_err(cannot)?;
    let digest = session.store.blobs().put(&bytes).map_err(|error| cannot(error.into()))?;
    let image = Image {
        name: Some(name.to_string()),
        digest,
        size: bytes.len() as u64,
        media_type: index.media_type().to_owned(),
        created: SystemTime::now(),
    };
    session.store.put_image(&image).map_err(|error| cannot(error.into()))?;
    // The index that it was made of has no name now, and nobody wants it.
    let stale = Image { name: None, ..before.unwrap_or_else(|| image.clone()) };
    if stale.digest != digest && super::all(session.store)?.contains(&stale) {
        session.store.remove_image(&stale).map_err(|error| cannot(error.into()))?;
    }
    print_result(&digest.to_string())
}
