//! Image commands: `wharf image …`, and their short forms `wharf images`, `rmi`, `tag`, `save` and so on.

mod files;
pub(super) mod inspect;
pub(super) mod list;
mod manifest;
mod remove;
mod session;
mod together;
mod transfer;
mod verify;

use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde_json::Value;
use wharf_cache::state::Image;
use wharf_cache::{Digest, Store};
use wharf_frontend::dockerfile2llb::platform;
use wharf_solver::llb::Platform;

use super::config::Config;
use super::place::{Place, Wanted};
use super::with_store;
use crate::build::host_platform;
use crate::error::{Failure, Kind};
use crate::images::ImagesError;
use crate::images::find::{all, find_leased};
pub(super) use crate::images::find::{find, find_all};
use crate::images::stored::Stored;
use crate::progress::print_error;
use crate::registry::Reference;

pub(super) use list::{ListArgs, until};
pub(super) use manifest::{ManifestCommand, manifest};
pub(super) use remove::RmiArgs;
pub(super) use together::{bring_all, push_all};
pub(super) use transfer::{bring, destination};

/// Digits of a digest that are shown and that are enough to name an image.
const SHORT_DIGITS: usize = 12;

/// `wharf image …`.
#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// List the images in the store
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Remove images from the store
    #[command(visible_alias = "remove")]
    Rm(RmiArgs),
    /// Remove images that have no name, or all that are given
    Prune(remove::PruneArgs),
    /// Show what each instruction added to an image
    History(inspect::HistoryArgs),
    /// Show everything about images
    Inspect(inspect::InspectArgs),
    #[command(flatten)]
    Both(Both),
}

/// What is a command by itself too.
#[derive(Debug, Subcommand)]
pub(super) enum Both {
    /// Give an image of the store another name
    Tag(TagArgs),
    /// Write images to an archive
    Save(transfer::SaveArgs),
    /// Take the images of an archive or layout into the store
    Load(transfer::LoadArgs),
    /// Bring an image from a registry into the store
    Pull(transfer::PullArgs),
    /// Send an image of the store to its registry
    Push(transfer::PushArgs),
    /// Copy an image between registries, layouts, archives and the store, without unpacking it
    Copy(transfer::CopyArgs),
    /// Make an image of a tar of a root file system
    Import(files::ImportArgs),
    /// Write the files of a container or image as a tar
    Export(files::ExportArgs),
    /// Show what differs in a container from its image, or in what two images differ: layers, config, files
    Diff(files::DiffArgs),
    /// Build an image's context once more and say in what the two differ
    Verify(Box<verify::VerifyArgs>),
    /// Show the layers of an image, what made them and who shares them
    Tree(files::TreeArgs),
}

#[derive(Debug, Args)]
pub(super) struct TagArgs {
    /// The image: a name, a digest, or at least four digits of a digest
    image: String,
    /// Its new name
    name: String,
}

pub(super) fn image(command: ImageCommand, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    match command {
        ImageCommand::Ls(args) => list::images(&args, wanted),
        ImageCommand::Rm(args) => remove::rmi(&args, wanted),
        ImageCommand::Prune(args) => remove::prune(&args, wanted),
        ImageCommand::History(args) => inspect::history(&args, wanted),
        ImageCommand::Inspect(args) => inspect::inspect(&args, wanted),
        ImageCommand::Both(command) => both(command, wanted, config),
    }
}

pub(super) fn both(command: Both, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    match command {
        Both::Tag(args) => tag(&args, wanted),
        Both::Save(args) => transfer::save(&args, wanted, config),
        Both::Load(args) => transfer::load(&args, wanted, config),
        Both::Pull(args) => transfer::pull(&args, wanted, config),
        Both::Push(args) => transfer::push(&args, wanted, config),
        Both::Copy(args) => transfer::copy(&args, wanted, config),
        Both::Import(args) => files::import(&args, wanted, config),
        Both::Export(args) => files::export(&args, wanted, config),
        Both::Diff(args) => files::diff(&args, wanted, config),
        Both::Verify(args) => verify::verify(*args, wanted, config),
        Both::Tree(args) => files::tree(&args, wanted),
    }
}

pub(super) fn images(args: &ListArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    list::images(args, wanted)
}

pub(super) fn rmi(args: &RmiArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    remove::rmi(args, wanted)
}

fn tag(args: &TagArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let name = name_with_tag(&args.name)?;
    with_store(&Place::enter(wanted)?, |store| {
        let image = find_leased(store, &args.image)?;
        let tagged = Image { name: Some(name.to_string()), created: SystemTime::now(), ..image };
        store.put_image(&tagged).map_err(|error| {
            Failure::from_error(Kind::Environment, &format!("cannot name the image `{name}`"), &error)
        })
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A name that an image can have in the store.
pub(super) fn name_with_tag(text: &str) -> Result<Reference, Failure> {
    let name: Reference =
        text.parse().map_err(|error| failed("cannot use the name", ImagesError::Reference(error)))?;
    match (name.tag(), name.digest()) {
        (Some(_), None) => Ok(name),
        _ => {
            Err(Failure::new(Kind::Usage, format!("`{text}` has a digest: a new name has a tag or nothing")))
        }
    }
}

/// The name of the same tag without a digest, if there is a tag.
fn tagged(reference: &Reference) -> Option<Reference> {
    let tag = reference.tag()?;
    format!("{}/{}:{tag}", reference.registry(), reference.repository()).parse().ok()
}

/// What an image command says when it fails.
fn failed(doing: &str, error: ImagesError) -> Failure {
    let hint = error.hint();
    let mut failure = Failure::from_error(error.kind(), doing, &error);
    failure.hints.extend(hint);
    failure
}

/// Several things have failed: all of them are told, the last one as the failure.
pub(super) fn told(mut failures: Vec<Failure>) -> Result<(), Failure> {
    let last = failures.pop();
    failures.iter().filter(|failure| failure.kind != Kind::ReaderGone).for_each(print_error);
    last.map_or(Ok(()), Err)
}

/// `--platform` of a command that takes one.
pub(super) fn one_platform(text: Option<&str>) -> Result<Option<Platform>, Failure> {
    let parse = |text: &str| match text.trim() {
        "local" => Ok(host_platform()),
        text => platform::parse(text, &host_platform())
            .map_err(|error| Failure::new(Kind::Usage, format!("--platform: {error}"))),
    };
    text.map(parse).transpose()
}

/// As JSON, with two blanks a level.
pub(super) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// The first digits of a digest.
fn short(digest: &Digest) -> String {
    digest.hex()[..SHORT_DIGITS].to_owned()
}

/// Looks at an image of the store.
fn look(store: &Store, image: &Image) -> Result<Stored, Failure> {
    let name = image.name.as_deref().map_or_else(|| image.digest.to_string(), familiar);
    Stored::look(store, image.digest)
        .map_err(|error| failed(&format!("cannot read the image `{name}`"), error))
}

pub(super) fn familiar(name: &str) -> String {
    name.parse::<Reference>().map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// How long ago something was, in one unit.
pub(super) fn age(created: SystemTime) -> String {
    const DAY_S: u64 = 86_400;
    let seconds = created.elapsed().map_or(0, |age| age.as_secs());
    let days = seconds / DAY_S;
    let (count, unit) = match days {
        0 => match seconds {
            0..60 => (seconds, "second"),
            60..3600 => (seconds / 60, "minute"),
            _ => (seconds / 3600, "hour"),
        },
        1..14 => (days, "day"),
        14..60 => (days / 7, "week"),
        60..730 => (days / 30, "month"),
        _ => (days / 365, "year"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}
