//! Pushing an image from the store: blobs first, several at once, then the manifest that names them.

use std::collections::HashSet;
use std::io::{self, Read};

use wharf_cache::content::ContentError;
use wharf_cache::{Digest, Store};
use wharf_runtime::Cancel;

use super::manifest::{Descriptor, MANIFEST_BYTES_MAX, Manifest, ManifestError, media_type_of};
use super::transfer::{Meter, Progress, each_at_once};
use super::{Reference, Registry, RegistryError};
use crate::source::Cancellable;

/// Indexes within indexes: one level is what images use, a second is for signatures and the like.
const INDEX_DEPTH_MAX: usize = 3;

/// Why an image could not be pushed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The registry.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// The store.
    #[error("cannot read what is to be pushed to {reference}")]
    Store {
        /// Where it should have gone.
        reference: String,
        /// Why not.
        source: ContentError,
    },
    /// A manifest of the store that is none.
    #[error("cannot push {digest} to {reference}")]
    Manifest {
        /// Where it should have gone.
        reference: String,
        /// The manifest.
        digest: Digest,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A blob has another size than its manifest says.
    #[error("blob {digest} has {actual} bytes in the store, but its manifest says {expected}")]
    Size {
        /// The blob.
        digest: Digest,
        /// What the manifest says.
        expected: u64,
        /// What it has.
        actual: u64,
    },
    /// Something the image needs is not in the store.
    #[error("{what} {digest} of {reference} is not in the store")]
    Incomplete {
        /// Where it should have gone.
        reference: String,
        /// Manifest, layer or config.
        what: &'static str,
        /// Its digest.
        digest: Digest,
    },
    /// The name is pinned to something else.
    #[error("cannot push {manifest} to {reference}, which is pinned to another digest")]
    Pinned {
        /// Where it should have gone.
        reference: String,
        /// What should have gone there.
        manifest: Digest,
    },
    /// Indexes nested too deeply.
    #[error("index {digest} is nested more than {INDEX_DEPTH_MAX} deep")]
    TooDeep {
        /// The innermost.
        digest: Digest,
    },
}

impl PushError {
    /// Whether it may be that the registry lost a blob that it had when it was asked.
    pub fn may_lack_blobs(&self) -> bool {
        matches!(self, Self::Registry(RegistryError::Refused { status: 400 | 404, .. }))
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Incomplete { what: "manifest", .. } => {
                Some("the image was pulled for one platform only; push that platform's manifest".to_owned())
            }
            Self::Incomplete { .. } => Some("pull the base image's layers first".to_owned()),
            _ => None,
        }
    }
}

/// Pushes the image (or index, with all it names) `manifest` of the store to `reference`: what the registry has
/// already is not sent again, and is not even asked for what is `there` for certain. The manifest goes last, so nobody sees an
/// image that is not whole. `cancel` ends it with an error.
pub fn push_image(
    store: &Store,
    registry: &dyn Registry,
    reference: &Reference,
    manifest: &Digest,
    there: &HashSet<Digest>,
    cancel: &Cancel,
    progress: Progress<'_>,
) -> Result<(), PushError> {
    if reference.digest().is_some_and(|pinned| pinned != *manifest) {
        return Err(PushError::Pinned { reference: reference.to_string(), manifest: *manifest });
    }
    Meter::run(progress, |meter| {
        let push = Push { store, registry, reference, there, cancel, meter };
        push.manifest(reference, manifest, 0)
    })
}

/// Pushes a layer of the store, given by digest and size, to the repository of `reference`, before there is a manifest that
/// names it.
pub fn push_layer(
    store: &Store,
    registry: &dyn Registry,
    reference: &Reference,
    (digest, size): (&Digest, u64),
    cancel: &Cancel,
    progress: Progress<'_>,
) -> Result<(), PushError> {
    Meter::run(progress, |meter| {
        let push = Push { store, registry, reference, there: &HashSet::new(), cancel, meter };
        push.blob("layer", digest, size)
    })
}

struct Push<'a> {
    store: &'a Store,
    registry: &'a dyn Registry,
    reference: &'a Reference,
    there: &'a HashSet<Digest>,
    cancel: &'a Cancel,
    meter: Meter,
}

impl Push<'_> {
    fn manifest(&self, target: &Reference, digest: &Digest, depth: usize) -> Result<(), PushError> {
        if depth > INDEX_DEPTH_MAX {
            return Err(PushError::TooDeep { digest: *digest });
        }
        self.size("manifest", digest)?;
        let bytes =
            self.store.blobs().read(digest, MANIFEST_BYTES_MAX).map_err(|error| self.store_error(error))?;
        let parsed = Manifest::parse(&bytes, "").map_err(|source| PushError::Manifest {
            reference: self.reference.to_string(),
            digest: *digest,
            source,
        })?;
        match &parsed {
            Manifest::Index(entries) => {
                for entry in entries {
                    self.manifest(&self.reference.by_digest(entry.digest), &entry.digest, depth + 1)?;
                }
            }
            Manifest::Image { config, layers } => self.blobs(config, layers)?,
        }
        self.registry.push_manifest(target, &media_type_of(&bytes, &parsed), &bytes)?;
        Ok(())
    }

    fn blobs(&self, config: &Descriptor, layers: &[Descriptor]) -> Result<(), PushError> {
        let mut blobs = vec![("config", config)];
        for layer in layers {
            // The same layer twice (two empty ones, say) is one blob.
            if !blobs.iter().any(|(_, other)| other.digest == layer.digest) {
                blobs.push(("layer", layer));
            }
        }
        each_at_once(&blobs, |(what, blob)| self.blob(what, &blob.digest, blob.size))
    }

    fn blob(&self, what: &'static str, digest: &Digest, size: u64) -> Result<(), PushError> {
        if !self.there.contains(digest) && !self.registry.has_blob(self.reference, digest)? {
            let actual = self.size(what, digest)?;
            if actual != size {
                // It is damaged, or the descriptor is wrong.
                let opened = self.store.blobs().open_expecting(digest, size);
                return Err(match opened {
                    Err(error) if error.is_lost() => self.store_error(error),
                    _ => PushError::Size { digest: *digest, expected: size, actual },
                });
            }
            let open = || -> io::Result<Box<dyn Read + Send>> {
                let reader = self.store.blobs().open(digest).map_err(io::Error::other)?;
                let reader = Box::new(self.meter.wrap(reader, *digest, size));
                Ok(Box::new(Cancellable::new(reader, self.cancel.clone())))
            };
            self.registry.push_blob(self.reference, digest, size, &open, None)?;
        }
        self.meter.done(*digest, size);
        Ok(())
    }

    fn size(&self, what: &'static str, digest: &Digest) -> Result<u64, PushError> {
        let size = self.store.blobs().size(digest).map_err(|error| self.store_error(error))?;
        size.ok_or_else(|| PushError::Incomplete {
            reference: self.reference.to_string(),
            what,
            digest: *digest,
        })
    }

    fn store_error(&self, source: ContentError) -> PushError {
        PushError::Store { reference: self.reference.to_string(), source }
    }
}
