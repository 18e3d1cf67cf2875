//! What the store has of an image.

use std::collections::BTreeMap;

use wharf_cache::{Digest, Store};
use wharf_frontend::image::ImageConfig;
use wharf_solver::llb::Platform;

use super::{INDEX_DEPTH_MAX, ImagesError};
use crate::registry::manifest::{CONFIG_BYTES_MAX, Descriptor, MANIFEST_BYTES_MAX, Manifest, media_type_of};
use crate::source::platform::{choose, normalize, suits};

/// An image, or an index with the images of it that are here.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// Of the manifest or index itself.
    pub(crate) descriptor: Descriptor,
    /// The entries of the index, if it is one.
    pub(crate) entries: Option<Vec<Descriptor>>,
    /// The images that are here, in the order of the index. Attestations are not among them.
    pub(crate) images: Vec<StoredImage>,
    /// Every blob, with its size.
    blobs: BTreeMap<Digest, u64>,
}

/// An image for one platform.
#[derive(Debug, Clone)]
pub(crate) struct StoredImage {
    /// Of its manifest.
    pub(crate) descriptor: Descriptor,
    /// Of its config: the image id.
    pub(crate) config_descriptor: Descriptor,
    /// The config.
    pub(crate) config: ImageConfig,
    /// Its layers, lowest first.
    pub(crate) layers: Vec<Descriptor>,
}

impl Stored {
    /// Looks at what has this digest.
    pub(crate) fn look(store: &Store, digest: Digest) -> Result<Self, ImagesError> {
        let bytes = store.blobs().read(&digest, MANIFEST_BYTES_MAX)?;
        let manifest = parse(&bytes, &digest)?;
        let descriptor = Descriptor {
            media_type: media_type_of(&bytes, &manifest),
            digest,
            size: bytes.len() as u64,
            platform: None,
            annotations: None,
        };
        let entries = match &manifest {
            Manifest::Index(entries) => Some(entries.clone()),
            Manifest::Image { .. } => None,
        };
        let mut this =
            Self { descriptor: descriptor.clone(), entries, images: Vec::new(), blobs: BTreeMap::new() };
        this.add(store, descriptor, manifest, 0)?;
        Ok(this)
    }

    fn add(
        &mut self,
        store: &Store,
        descriptor: Descriptor,
        manifest: Manifest,
        depth: usize,
    ) -> Result<(), ImagesError> {
        self.blobs.insert(descriptor.digest, descriptor.size);
        match manifest {
            Manifest::Index(_) if depth > INDEX_DEPTH_MAX => {}
            Manifest::Index(entries) => {
                for entry in entries {
                    // The other platforms of an index need not be here.
                    if self.blobs.contains_key(&entry.digest) || store.blobs().size(&entry.digest)?.is_none()
                    {
                        continue;
                    }
                    let bytes = store.blobs().read(&entry.digest, MANIFEST_BYTES_MAX)?;
                    let manifest = parse(&bytes, &entry.digest)?;
                    if let (Manifest::Image { config, layers }, true) = (&manifest, entry.is_attestation()) {
                        self.blobs.insert(entry.digest, entry.size);
                        self.blobs.extend([config].into_iter().chain(layers).map(|it| (it.digest, it.size)));
                        continue;
                    }
                    self.add(store, entry, manifest, depth + 1)?;
                }
            }
            Manifest::Image { config, layers } => {
                let bytes = store.blobs().read(&config.digest, CONFIG_BYTES_MAX)?;
                let object = descriptor.digest.to_string();
                let parsed = ImageConfig::from_json(&bytes)
                    .map_err(|source| ImagesError::Config { object, source })?;
                self.blobs.extend([&config].into_iter().chain(&layers).map(|it| (it.digest, it.size)));
                self.images.push(StoredImage {
                    descriptor,
                    config_descriptor: config,
                    config: parsed,
                    layers,
                });
            }
        }
        Ok(())
    }

    /// What scripts know it by: the digest of the only config, or of the index.
    pub(crate) fn id(&self) -> Digest {
        match (&self.entries, self.images.first()) {
            (None, Some(image)) => image.config_descriptor.digest,
            _ => self.descriptor.digest,
        }
    }

    /// Bytes of everything that it consists of here, each blob once.
    pub(crate) fn size(&self) -> u64 {
        total(&self.blobs)
    }

    /// The image for `platform`. One that is in no index is taken as it is, and so is the only one there is, unless
    /// somebody has asked for another platform.
    pub(crate) fn image_for(&self, platform: Option<&Platform>, host: &Platform) -> Option<&StoredImage> {
        let Some(entries) = &self.entries else {
            let suits = |image: &&StoredImage| platform.is_none_or(|wanted| suits(&image.platform(), wanted));
            return self.images.first().filter(suits);
        };
        let here: Vec<Descriptor> = entries
            .iter()
            .filter(|entry| self.images.iter().any(|image| image.descriptor.digest == entry.digest))
            .cloned()
            .collect();
        let chosen = choose(&here, platform.unwrap_or(host));
        let found =
            chosen.and_then(|entry| self.images.iter().find(|it| it.descriptor.digest == entry.digest));
        found.or(match (platform, self.images.as_slice()) {
            (None, [only]) => Some(only),
            _ => None,
        })
    }

    /// The platforms that it has here.
    pub(crate) fn platforms(&self) -> Vec<String> {
        self.images.iter().map(|image| image.platform().to_string()).collect()
    }
}

impl StoredImage {
    /// What it is for.
    pub(crate) fn platform(&self) -> Platform {
        let config = &self.config;
        normalize(&Platform {
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
            os_version: config.os_version.clone(),
        })
    }

    /// Bytes of manifest, config and layers.
    pub(crate) fn size(&self) -> u64 {
        let blobs = [&self.descriptor, &self.config_descriptor].into_iter().chain(&self.layers);
        total(&blobs.map(|blob| (blob.digest, blob.size)).collect())
    }

    /// Each entry of the history with the layer that it made, lowest first. A history that speaks of other layers than
    /// there are is left out for them.
    pub(crate) fn history(&self) -> Vec<(Option<&wharf_frontend::image::History>, Option<&Descriptor>)> {
        let mut layers = self.layers.iter();
        let mut rows: Vec<_> = self
            .config
            .history
            .iter()
            .map(|entry| (Some(entry), if entry.empty_layer { None } else { layers.next() }))
            .collect();
        rows.extend(layers.map(|layer| (None, Some(layer))));
        rows
    }
}

/// Bytes of all blobs. Sizes are what descriptors say.
fn total(blobs: &BTreeMap<Digest, u64>) -> u64 {
    blobs.values().fold(0, |sum, size| sum.saturating_add(*size))
}

fn parse(bytes: &[u8], digest: &Digest) -> Result<Manifest, ImagesError> {
    Manifest::parse(bytes, "")
        .map_err(|source| ImagesError::Manifest { object: format!("manifest {digest}"), source })
}
