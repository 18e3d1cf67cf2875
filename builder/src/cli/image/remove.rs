//! `wharf rmi` and `wharf image prune`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use wharf_cache::Store;
use wharf_cache::state::Image;

use super::list::{created, has_label, until};
use super::{Place, Wanted, all, familiar, find_all, look, told};
use crate::cli::with_store;
use crate::containers::uses::{configs, is_of};
use crate::error::{Failure, Kind};
use crate::progress::{ask, bytes, print_note, print_result};

#[derive(Debug, Args)]
pub(in crate::cli) struct RmiArgs {
    /// Names, digests, or at least four digits of a digest
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove an image that has several names by its digest, and say nothing of what is not there
    #[arg(short, long)]
    force: bool,
    /// Keep unnamed images that it was made of, which wharf has none of: for scripts written for docker
    #[arg(long)]
    no_prune: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PruneArgs {
    /// Remove images with names too
    #[arg(short, long)]
    all: bool,
    /// Only what is so: until=24h or TIME (made before), label=KEY[=VALUE], label!=KEY[=VALUE]; may be given several times
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(super) fn rmi(args: &RmiArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    with_store(&Place::enter(wanted)?, |store| remove(args, store)).map(|()| ExitCode::SUCCESS)
}

/// Removes all that can be; what cannot is told, and the last of it is the failure.
fn remove(args: &RmiArgs, store: &Store) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for name in &args.images {
        let removed = match find_all(store, name) {
            Err(failure)
                if args.force && failure.kind == Kind::Usage && !failure.message.contains("several") =>
            {
                print_note(&failure.message);
                continue;
            }
            Err(failure) => Err(failure),
            Ok(images) if images.len() > 1 && !args.force => {
                let names: Vec<String> =
                    images.iter().filter_map(|image| image.name.as_deref()).map(familiar).collect();
                let message = format!("`{name}` is the image of several names: {}", names.join(", "));
                Err(Failure::new(Kind::Usage, message)
                    .hint("remove it by its names, or all of them at once with `--force`"))
            }
            Ok(images) => refuse_used(store, &images, args.force)
                .and_then(|()| images.iter().try_for_each(|image| remove_one(store, image))),
        };
        // All are removed, whoever reads of it.
        failures.extend(removed.err());
    }
    told(failures)
}

/// Refuses to take the last names of an image that containers are made of, unless `force`: then they keep it without a name.
fn refuse_used(store: &Store, images: &[Image], force: bool) -> Result<(), Failure> {
    let Some(image) = images.first().filter(|_| !force) else { return Ok(()) };
    let others = all(store)?.into_iter().filter(|other| other.digest == image.digest && other.name.is_some());
    if others.count() > images.len() {
        return Ok(());
    }
    let users: Vec<String> =
        configs(store)?.into_iter().filter(|config| is_of(config, image)).map(|config| config.name).collect();
    if users.is_empty() {
        return Ok(());
    }
    let named = image.name.as_deref().map_or_else(|| image.digest.to_string(), familiar);
    let message = format!("the image `{named}` is used by containers: {}", users.join(", "));
    Err(Failure::new(Kind::Usage, message)
        .hint("remove them first (`wharf rm NAME`), or take its name alone with `--force`"))
}

fn remove_one(store: &Store, image: &Image) -> Result<(), Failure> {
    let named = image.name.as_deref().map_or_else(|| image.digest.to_string(), familiar);
    let deleted = store.remove_image(image).map_err(|error| {
        Failure::from_error(Kind::Environment, &format!("cannot remove image `{named}`"), &error)
    })?;
    let deleted = deleted.iter().map(|digest| format!("\nDeleted: {digest}"));
    print_result(&format!("Untagged: {named}{}", deleted.collect::<String>()))
}

/// One `--filter`.
enum Filter {
    Until(SystemTime),
    Label { key: String, value: Option<String>, wanted: bool },
}

impl Filter {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::new(Kind::Usage, format!("--filter `{text}`: {why}"));
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("it is not KEY=VALUE"))?;
        let label = |wanted| match value.split_once('=') {
            Some((key, value)) => Self::Label { key: key.to_owned(), value: Some(value.to_owned()), wanted },
            None => Self::Label { key: value.to_owned(), value: None, wanted },
        };
        match key {
            "until" => until(value).map(Self::Until).ok_or_else(|| wrong("it is a duration (24h) or a time")),
            "label" => Ok(label(true)),
            "label!" => Ok(label(false)),
            _ => Err(wrong("there are until, label and label!")),
        }
    }
}

pub(super) fn prune(args: &PruneArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let filters = args.filter.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    with_store(&Place::enter(wanted)?, |store| {
        if !args.force {
            confirm(args)?;
        }
        let mut freed = 0;
        let mut printed = Ok(());
        let used = configs(store)?;
        let is_free = |image: &&Image| !used.iter().any(|config| is_of(config, image));
        for image in all(store)?.iter().filter(|image| args.all || image.name.is_none()).filter(is_free) {
            let Ok(stored) = look(store, image) else { continue };
            let admits = filters.iter().all(|filter| match filter {
                Filter::Until(time) => created(&stored).unwrap_or(image.created) < *time,
                Filter::Label { key, value, wanted } => has_label(&stored, key, value.as_deref()) == *wanted,
            });
            if admits {
                let before = stored.size();
                printed = printed.and(remove_one(store, image));
                freed +=
                    if store.blobs().size(&image.digest).is_ok_and(|it| it.is_none()) { before } else { 0 };
            }
        }
        printed.and(print_result(&format!(
            "at most {} freed; `wharf prune` removes what nothing needs any more",
            bytes(freed)
        )))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Asks whoever sits at the terminal.
fn confirm(args: &PruneArgs) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        let message = "removing needs a yes, and standard input is no terminal";
        return Err(Failure::new(Kind::Usage, message).hint("`--force` removes without asking"));
    }
    let what = if args.all { "all images" } else { "the images without a name" };
    match ask(&format!("This removes {what}.\nGo on? [y/N] ")) {
        true => Ok(()),
        false => Err(Failure::new(Kind::Cancelled, "nothing was removed")),
    }
}
