//! The `image` exporter: the image in wharf's own store, ready to be run.

use std::time::SystemTime;

use wharf_cache::Store;
use wharf_cache::state::Image;

use super::{BuiltImage, ExportError};

/// Puts config and manifest into the store and names the image by each of `names` (full names with tag); without a
/// name it is there as a dangling one. `now` is the time the store remembers.
pub fn put(store: &Store, image: &BuiltImage, names: &[String], now: SystemTime) -> Result<(), ExportError> {
    store.blobs().put(&image.config)?;
    store.blobs().put(&image.manifest)?;
    let entry = |name: Option<String>| Image {
        name,
        digest: image.descriptor.digest,
        size: image.descriptor.size,
        media_type: image.descriptor.media_type.clone(),
        created: now,
    };
    if names.is_empty() {
        store.put_image(&entry(None))?;
    }
    for name in names {
        store.put_image(&entry(Some(name.clone())))?;
    }
    Ok(())
}
