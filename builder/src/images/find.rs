//! Images of the store by what users call them.

use wharf_cache::state::Image;
use wharf_cache::{Digest, Store};

use crate::error::{Failure, Kind};
use crate::registry::Reference;
use crate::registry::manifest::{MANIFEST_BYTES_MAX, Manifest};

/// The image a user means: by name, or by its digest or id or some first digits of one.
pub(crate) fn find(store: &Store, name: &str) -> Result<Image, Failure> {
    Ok(find_all(store, name)?.swap_remove(0))
}

/// [`find`], kept from being collected as long as the process lives.
pub(crate) fn find_leased(store: &Store, name: &str) -> Result<Image, Failure> {
    let image = find(store, name)?;
    let is_here = store.lease_image(&image).map_err(|error| {
        Failure::from_error(Kind::Environment, &format!("cannot use the image `{name}`"), &error)
    })?;
    if is_here {
        return Ok(image);
    }
    let message = format!("the image `{name}` has just been removed by somebody else");
    Err(Failure::new(Kind::Environment, message))
}

/// [`find`] with all the names that it has, if it was not asked for by one of them. Never empty.
pub(crate) fn find_all(store: &Store, name: &str) -> Result<Vec<Image>, Failure> {
    let images = all(store)?;
    let full = name.parse::<Reference>().ok().map(|reference| reference.to_string());
    if let Some(image) = images.iter().find(|image| image.name.is_some() && image.name == full) {
        return Ok(vec![image.clone()]);
    }
    let digits = name.rsplit_once('@').map_or(name, |(_, digest)| digest);
    let digits = digits.strip_prefix("sha256:").unwrap_or(digits);
    let named_by = |image: &&Image| {
        image.digest.hex().starts_with(digits)
            || image_id(store, image).is_some_and(|id| id.hex().starts_with(digits))
    };
    let hits: Vec<&Image> =
        if digits.len() < 4 { Vec::new() } else { images.iter().filter(named_by).collect() };
    match hits.as_slice() {
        [first, rest @ ..] if rest.iter().all(|image| image.digest == first.digest) => {
            Ok(hits.into_iter().cloned().collect())
        }
        [] => Err(Failure::new(Kind::Usage, format!("there is no image `{name}` in the store"))
            .hint("`wharf images` lists them; `wharf build -t NAME .` builds one")),
        _ => Err(Failure::new(Kind::Usage, format!("`{name}` is the beginning of several digests"))
            .hint("give more digits")),
    }
}

/// The digest of an image's config: what `--iidfile` and `--quiet` tell. Of an index they tell its own.
fn image_id(store: &Store, image: &Image) -> Option<Digest> {
    id_of_document(store, &image.digest, &image.media_type)
}

/// The same by the digest of a manifest.
pub(crate) fn id_of(store: &Store, manifest: &Digest) -> Option<Digest> {
    id_of_document(store, manifest, "")
}

fn id_of_document(store: &Store, digest: &Digest, media_type: &str) -> Option<Digest> {
    let manifest = store.blobs().read(digest, MANIFEST_BYTES_MAX).ok()?;
    match Manifest::parse(&manifest, media_type) {
        Ok(Manifest::Image { config, .. }) => Some(config.digest),
        _ => None,
    }
}

pub(crate) fn all(store: &Store) -> Result<Vec<Image>, Failure> {
    store.images().map_err(|error| Failure::from_error(Kind::Environment, "cannot list the images", &error))
}
