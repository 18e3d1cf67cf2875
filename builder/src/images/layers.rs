//! The layers of an image: how large they are, which other images have them, and what made each.

use std::collections::HashMap;

use serde::Serialize;
use wharf_cache::{Digest, Store};

use super::ImagesError;
use super::stored::{Stored, StoredImage};

/// An image as a list of its layers.
#[derive(Debug, Serialize)]
pub(crate) struct Tree {
    /// Its manifest.
    pub(crate) digest: Digest,
    /// What it is for.
    pub(crate) platform: String,
    /// Bytes of manifest, config and layers.
    pub(crate) size: u64,
    /// Bytes of the layers that no other image has.
    pub(crate) unique_size: u64,
    /// Lowest first.
    pub(crate) layers: Vec<TreeLayer>,
}

/// One layer.
#[derive(Debug, Serialize)]
pub(crate) struct TreeLayer {
    /// Of the blob.
    pub(crate) digest: Digest,
    /// Of what it unpacks to.
    pub(crate) diff_id: String,
    /// Bytes of the blob.
    pub(crate) size: u64,
    /// What made it, as the history has it.
    pub(crate) created_by: String,
    /// Instructions after it that made no layer.
    pub(crate) metadata: Vec<String>,
    /// Names (or digests) of other images that have it.
    pub(crate) shared_with: Vec<String>,
}

/// The images of `store` by the layers that they have. What cannot be read has none.
pub(crate) fn users(store: &Store) -> Result<HashMap<Digest, Vec<(Digest, String)>>, ImagesError> {
    let mut users: HashMap<Digest, Vec<(Digest, String)>> = HashMap::new();
    for image in store.images()? {
        let Ok(stored) = Stored::look(store, image.digest) else { continue };
        let name = image.name.unwrap_or_else(|| image.digest.to_string());
        for layer in stored.images.iter().flat_map(|image| &image.layers) {
            let of_layer = users.entry(layer.digest).or_default();
            if !of_layer.iter().any(|(_, other)| *other == name) {
                of_layer.push((image.digest, name.clone()));
            }
        }
    }
    Ok(users)
}

/// The layers of `image`, which is (in) what has the digest `own`.
pub(crate) fn tree(
    image: &StoredImage,
    own: &Digest,
    users: &HashMap<Digest, Vec<(Digest, String)>>,
) -> Tree {
    let mut layers: Vec<TreeLayer> = Vec::new();
    for (entry, layer) in image.history() {
        let created_by = entry.map_or_else(String::new, |entry| entry.created_by.clone());
        match layer {
            Some(layer) => {
                let others = users.get(&layer.digest).into_iter().flatten();
                layers.push(TreeLayer {
                    digest: layer.digest,
                    diff_id: image.config.rootfs.diff_ids.get(layers.len()).cloned().unwrap_or_default(),
                    size: layer.size,
                    created_by,
                    metadata: Vec::new(),
                    shared_with: others
                        .filter(|(digest, _)| digest != own)
                        .map(|(_, name)| name.clone())
                        .collect(),
                });
            }
            None => {
                if let Some(last) = layers.last_mut() {
                    last.metadata.push(created_by);
                }
            }
        }
    }
    let unique = layers.iter().filter(|layer| layer.shared_with.is_empty()).map(|layer| layer.size);
    Tree {
        digest: image.descriptor.digest,
        platform: image.platform().to_string(),
        size: image.size(),
        unique_size: unique.sum(),
        layers,
    }
}
