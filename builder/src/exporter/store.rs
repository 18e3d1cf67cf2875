//! The `image` exporter: the image, or the index of several, in wharf's own store, ready to be run.

use std::time::SystemTime;

use wharf_cache::Store;
use wharf_cache::state::Image;

use super::{Artifact, ExportError};

/// Puts the documents into the store, without a name: they are there to be read as long as this process lives.
pub fn put_documents(store: &Store, artifact: &Artifact) -> Result<(), ExportError> {
    for (_, bytes) in artifact.documents() {
        store.blobs().put(bytes)?;
    }
    Ok(())
}

/// Puts the documents into the store and names what they are by each of `names` (full names with tag or digest); without a
/// name it is there as a dangling one. `now` is the time the store remembers.
pub fn put(store: &Store, artifact: &Artifact, names: &[String], now: SystemTime) -> Result<(), ExportError> {
    put_documents(store, artifact)?;
    let descriptor = artifact.descriptor();
    let entry = |name: Option<String>| Image {
        name,
        digest: descriptor.digest,
        size: descriptor.size,
        media_type: descriptor.media_type.clone(),
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
