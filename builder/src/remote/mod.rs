//! Caches that are kept elsewhere: what one machine has built, another need not build.
//!
//! ```text
//! --cache-from ──▶ Backend ──▶ CacheConfig ──▶ Imports ──▶ rows of snapshots whose files are brought when they are read
//! --cache-to   ◀── Backend ◀── CacheConfig ◀── Exporter ◀── records and layers of the store, as steps end
//! ```
//! A [`Backend`] keeps blobs by digest and one manifest ([`manifest`]). It is asked only when the store has no answer, and
//! whatever is wrong with it costs time: it never fails a build.

pub mod exports;
pub mod imports;
pub mod local;
pub mod manifest;
pub mod mounts;
pub mod records;
pub mod registry;
pub mod s3;
pub mod spec;

use std::error::Error;
use std::fmt;
use std::io::Read;

use wharf_cache::Digest;

use crate::registry::OpenBlob;
use manifest::{CONFIG_BYTES_MAX, CONFIG_TYPE, CacheConfig, Checked, Documents, INLINE_FIELD, ManifestError};

/// A place that holds one cache: blobs by digest, and the manifest that names them.
///
/// Every method may be repeated. What is read is verified while it is read.
pub trait Backend: fmt::Debug + Send + Sync {
    /// What it is called in messages: `registry 127.0.0.1:5000/app:cache`.
    fn name(&self) -> String;

    /// The manifest that was committed last (at most [`crate::registry::manifest::MANIFEST_BYTES_MAX`] bytes); `None`
    /// if there is none yet.
    fn manifest(&self) -> Result<Option<Vec<u8>>, BackendError>;

    /// The bytes of a blob of `size` bytes. Reading fails if they have not this digest and size.
    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, BackendError>;

    /// Whether a blob is there.
    fn has(&self, digest: &Digest, size: u64) -> Result<bool, BackendError>;

    /// Stores a blob of `size` bytes.
    fn put(&self, digest: &Digest, size: u64, open: &OpenBlob<'_>) -> Result<(), BackendError>;

    /// Makes the documents the cache of this place. The blobs that they name are there.
    fn commit(&self, documents: &Documents) -> Result<(), BackendError>;

    /// Whether the manifest that was read is so old that it should be written again, and all its blobs asked for, although
    /// nothing changed: places that delete what is old find it young then.
    fn is_old(&self) -> bool {
        false
    }
}

/// Why a place did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {object}")]
pub struct BackendError {
    /// What was being done.
    pub operation: &'static str,
    /// To what.
    pub object: String,
    /// Why not.
    pub source: Box<dyn Error + Send + Sync>,
}

impl BackendError {
    /// For `map_err`.
    pub fn of<E: Into<Box<dyn Error + Send + Sync>>>(
        operation: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self { operation, object: object.into(), source: source.into() }
    }
}

/// A cache as a place holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Digest of the manifest.
    pub manifest: Digest,
    /// What of it can be used.
    pub cache: Checked,
}

/// Reads the cache of a place: its own document, or the one that an image carries. `None` if there is nothing there, or an
/// image that carries none.
pub fn load(backend: &dyn Backend) -> Result<Option<Loaded>, BackendError> {
    let Some(bytes) = backend.manifest()? else { return Ok(None) };
    let unusable = |source: ManifestError| BackendError::of("use the cache of", backend.name())(source);
    let documents = match crate::registry::manifest::Manifest::parse(&bytes, "") {
        Ok(crate::registry::manifest::Manifest::Image { config, .. }) => config,
        Ok(crate::registry::manifest::Manifest::Index(_)) => {
            return Err(unusable(ManifestError::NotACache { media_type: "an index".to_owned() }));
        }
        Err(error) => return Err(unusable(error.into())),
    };
    let is_cache = documents.media_type == CONFIG_TYPE;
    let is_image = documents.media_type.ends_with(".image.config.v1+json")
        || documents.media_type == "application/vnd.docker.container.image.v1+json";
    if !is_cache && !is_image {
        let media_type = documents.media_type.chars().take(200).collect();
        return Err(unusable(ManifestError::NotACache { media_type }));
    }
    if documents.size > CONFIG_BYTES_MAX {
        let max = usize::try_from(CONFIG_BYTES_MAX).unwrap_or(usize::MAX);
        let count = usize::try_from(documents.size).unwrap_or(usize::MAX);
        return Err(unusable(ManifestError::TooMany { what: "bytes", count, max }));
    }
    let mut config = Vec::new();
    let mut reader = backend.blob(&documents.digest, documents.size)?;
    reader.read_to_end(&mut config).map_err(BackendError::of("read the cache of", backend.name()))?;
    let cache = match is_cache {
        true => CacheConfig::parse(&config).map_err(unusable)?,
        false => match inline(&config).map_err(|error| unusable(ManifestError::Json(error)))? {
            Some(config) => CacheConfig::parse(&config).map_err(unusable)?,
            None => return Ok(None),
        },
    };
    Ok(Some(Loaded { manifest: Digest::of(&bytes), cache }))
}

/// The cache that an image's config carries.
fn inline(config: &[u8]) -> Result<Option<Vec<u8>>, serde_json::Error> {
    let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(config)?;
    config.remove(INLINE_FIELD).map(|cache| serde_json::to_vec(&cache)).transpose()
}
