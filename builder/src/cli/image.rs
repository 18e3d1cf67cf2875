//! `wharf images` and `wharf rmi`.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use wharf_cache::state::Image;
use wharf_cache::{Digest, Store};

use super::place::{Place, Wanted};
use super::with_store;
use crate::build::call::table;
use crate::error::{Failure, Kind};
use crate::progress::print_result;
use crate::registry::Reference;
use crate::registry::manifest::{MANIFEST_BYTES_MAX, Manifest};

/// Digits of a digest that are shown and that are enough to name an image.
const SHORT_DIGITS: usize = 12;

#[derive(Debug, Args)]
pub(super) struct RmiArgs {
    /// Names, digests, or at least four digits of a digest
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(super) fn images(wanted: &Wanted) -> Result<ExitCode, Failure> {
    let images = with_store(&Place::enter(wanted)?, list)?;
    let mut rows = vec![["NAME", "DIGEST", "CREATED"].map(str::to_owned)];
    for image in &images {
        let name = image.name.as_deref().map_or("<none>".to_owned(), familiar);
        rows.push([name, image.digest.hex()[..SHORT_DIGITS].to_owned(), age(image.created)]);
    }
    let rows: Vec<Vec<&str>> = rows.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
    print_result(table(&rows, 3).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn rmi(args: &RmiArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    with_store(&Place::enter(wanted)?, |store| remove(args, store)).map(|()| ExitCode::SUCCESS)
}

fn remove(args: &RmiArgs, store: &Store) -> Result<(), Failure> {
    // All are removed, whoever reads of it.
    let mut printed = Ok(());
    for name in &args.images {
        let image = find(store, name)?;
        let deleted = store.remove_image(&image).map_err(|error| {
            Failure::from_error(Kind::Environment, &format!("cannot remove image `{name}`"), &error)
        })?;
        let named = image.name.as_deref().map_or_else(|| image.digest.to_string(), familiar);
        let deleted = deleted.iter().map(|digest| format!("\ndeleted: {digest}"));
        let done = print_result(&format!("untagged: {named}{}", deleted.collect::<String>()));
        printed = printed.and(done);
    }
    printed
}

/// The image a user means: by name, or by its digest or id or some first digits of one.
pub(super) fn find(store: &Store, name: &str) -> Result<Image, Failure> {
    let images = list(store)?;
    let full = name.parse::<Reference>().ok().map(|reference| reference.to_string());
    if let Some(image) = images.iter().find(|image| image.name.is_some() && image.name == full) {
        return Ok(image.clone());
    }
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    let named_by = |image: &&Image| {
        image.digest.hex().starts_with(digits)
            || image_id(store, image).is_some_and(|id| id.hex().starts_with(digits))
    };
    let hits: Vec<&Image> =
        if digits.len() < 4 { Vec::new() } else { images.iter().filter(named_by).collect() };
    match hits.as_slice() {
        [image] => Ok((*image).clone()),
        [first, rest @ ..] if rest.iter().all(|image| image.digest == first.digest) => Ok((*first).clone()),
        [] => Err(Failure::new(Kind::Usage, format!("there is no image `{name}` in the store"))
            .hint("`wharf images` lists them; `wharf build -t NAME .` builds one")),
        _ => Err(Failure::new(Kind::Usage, format!("`{name}` is the beginning of several digests"))
            .hint("give more digits")),
    }
}

/// The digest of an image's config: what `--iidfile` and `--quiet` tell. Of an index they tell its own.
fn image_id(store: &Store, image: &Image) -> Option<Digest> {
    let manifest = store.blobs().read(&image.digest, MANIFEST_BYTES_MAX).ok()?;
    match Manifest::parse(&manifest, &image.media_type) {
        Ok(Manifest::Image { config, .. }) => Some(config.digest),
        _ => None,
    }
}

fn list(store: &Store) -> Result<Vec<Image>, Failure> {
    store.images().map_err(|error| Failure::from_error(Kind::Environment, "cannot list the images", &error))
}

pub(super) fn familiar(name: &str) -> String {
    name.parse::<Reference>().map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// How long ago something was, in one unit.
pub(super) fn age(created: SystemTime) -> String {
    let seconds = created.elapsed().map_or(0, |age| age.as_secs());
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}
