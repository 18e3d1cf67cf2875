//! A cache in a registry: beside images, under a name of its own, or in the config of an image.

use std::io::Read;
use std::sync::Arc;

use wharf_cache::Digest;
use wharf_solver::llb::Platform;

use super::manifest::Documents;
use super::{Backend, BackendError};
use crate::exporter::image::MANIFEST_TYPE;
use crate::registry::manifest::Manifest;
use crate::registry::{OpenBlob, Reference, Registry, RegistryError};
use crate::source::platform::choose;

/// The cache that a reference names.
#[derive(Debug)]
pub struct RegistryBackend {
    registry: Arc<dyn Registry>,
    reference: Reference,
    /// Which image of an index is meant.
    platform: Platform,
}

impl RegistryBackend {
    /// The cache of `reference`.
    pub fn new(registry: Arc<dyn Registry>, reference: Reference, platform: Platform) -> Self {
        Self { registry, reference, platform }
    }

    fn blob_name(&self, digest: &Digest) -> String {
        format!("blob {digest} of {}", self.name())
    }
}

impl Backend for RegistryBackend {
    fn name(&self) -> String {
        format!("registry {}", self.reference)
    }

    fn manifest(&self) -> Result<Option<Vec<u8>>, BackendError> {
        let failed = |error: RegistryError| BackendError::of("read the cache of", self.name())(error);
        let fetched = match self.registry.manifest(&self.reference) {
            Ok(fetched) => fetched,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let parsed = Manifest::parse(&fetched.bytes, &fetched.media_type);
        match parsed.map_err(BackendError::of("use the cache of", self.name()))? {
            Manifest::Image { .. } => Ok(Some(fetched.bytes)),
            Manifest::Index(entries) => {
                let Some(entry) = choose(&entries, &self.platform) else { return Ok(None) };
                let fetched =
                    self.registry.manifest(&self.reference.by_digest(entry.digest)).map_err(failed)?;
                Ok(Some(fetched.bytes))
            }
        }
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, BackendError> {
        let blob = self.registry.blob(&self.reference, digest, size);
        blob.map_err(BackendError::of("read", self.blob_name(digest)))
    }

    fn has(&self, digest: &Digest, _size: u64) -> Result<bool, BackendError> {
        let has = self.registry.has_blob(&self.reference, digest);
        has.map_err(BackendError::of("look for", self.blob_name(digest)))
    }

    fn put(&self, digest: &Digest, size: u64, open: &OpenBlob<'_>) -> Result<(), BackendError> {
        let pushed = self.registry.push_blob(&self.reference, digest, size, open, None);
        pushed.map_err(BackendError::of("push", self.blob_name(digest)))
    }

    fn commit(&self, documents: &Documents) -> Result<(), BackendError> {
        let config = documents.config_descriptor();
        if !self.has(&config.digest, config.size)? {
            let open = || -> std::io::Result<Box<dyn Read + Send>> {
                Ok(Box::new(std::io::Cursor::new(documents.config.clone())))
            };
            self.put(&config.digest, config.size, &open)?;
        }
        let pushed = self.registry.push_manifest(&self.reference, MANIFEST_TYPE, &documents.manifest);
        pushed.map_err(BackendError::of("write the cache of", self.name()))
    }
}
