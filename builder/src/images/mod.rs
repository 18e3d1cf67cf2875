//! What the image commands do with images that are there already: between the store, registries, layouts and archives.
//!
//! ```text
//! Source (store · registry · Bundle) ──transfer::Transfer──▶ Target (store · registry · layout · archive)
//! ```
//! A [`bundle::Bundle`] is a layout or an archive that somebody else has written. Everything in it is hostile: its names
//! are looked up and never used as paths, its sizes and counts have limits, its bytes are digested while they are read.
//! A target is told the name of an image last, when all that the image needs is there.

pub(crate) mod alignment;
pub(crate) mod archive;
pub(crate) mod bundle;
pub(crate) mod changes;
pub(crate) mod difference;
pub(crate) mod find;
pub(crate) mod import;
pub(crate) mod index;
pub(crate) mod layers;
pub(crate) mod places;
pub(crate) mod stored;
pub(crate) mod transfer;
pub(crate) mod verification;
pub(crate) mod writer;

use std::error::Error;
use std::io;

use wharf_cache::content::ContentError;
use wharf_cache::diff::DiffError;
use wharf_cache::snapshot::SnapshotError;
use wharf_cache::{Digest, StoreError};
use wharf_frontend::image::ImageConfigError;

use crate::error::{Kind, chain};
use crate::exporter::ExportError;
use crate::registry::manifest::ManifestError;
use crate::registry::push::PushError;
use crate::registry::{ParseReferenceError, RegistryError};
use crate::source::SourceError;

/// Indexes within indexes that are followed.
pub(crate) const INDEX_DEPTH_MAX: usize = 3;

/// Entries of one index, and of the list of an archive.
pub(crate) const INDEX_ENTRIES_MAX: usize = 1000;

/// Why an image command could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ImagesError {
    /// An archive or layout is not one, or is not what it says.
    #[error("`{bundle}` {reason}")]
    Bundle { bundle: String, reason: String },
    /// A file or stream could not be read.
    #[error("cannot {operation} `{object}`")]
    Io { operation: &'static str, object: String, source: io::Error },
    /// A manifest or index cannot be used.
    #[error("cannot use {object}")]
    Manifest { object: String, source: ManifestError },
    /// A config cannot be used.
    #[error("the config of {object} is not valid")]
    Config { object: String, source: ImageConfigError },
    /// Something that an image needs is not where the image is.
    #[error("{what} {digest} of {object} is missing")]
    Missing { what: &'static str, digest: Digest, object: String },
    /// A blob could not be brought.
    #[error("cannot copy {what} {digest} of {object}")]
    Blob { what: &'static str, digest: Digest, object: String, source: Box<dyn Error + Send + Sync> },
    /// More than any image has.
    #[error("{object} has more than {max} {what}")]
    TooMany { object: String, what: &'static str, max: usize },
    /// An index has nothing for the platform.
    #[error("{object} has no image for {wanted}; it has: {available}")]
    NoPlatform { object: String, wanted: String, available: String },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A name is no reference.
    #[error("{0}")]
    Reference(#[from] ParseReferenceError),
    /// Somebody wants it to end.
    #[error("interrupted")]
    Interrupted,
    /// A registry.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// A push.
    #[error("{0}")]
    Push(#[from] PushError),
    /// A source of images.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// An output.
    #[error("{0}")]
    Export(#[from] ExportError),
    /// The store's blobs.
    #[error("{0}")]
    Content(#[from] ContentError),
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Layers and trees.
    #[error("{0}")]
    Diff(#[from] DiffError),
    /// A file system could not be viewed.
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
}

impl ImagesError {
    /// What the exit status says of it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Usage(_) | Self::Reference(_) => Kind::Usage,
            Self::Interrupted | Self::Registry(RegistryError::Interrupted { .. }) => Kind::Cancelled,
            Self::Io { operation: "write" | "create", .. } => Kind::Environment,
            Self::Export(ExportError::ReaderGone) => Kind::ReaderGone,
            Self::Content(ContentError::Mismatch { .. }) => Kind::Source,
            Self::Export(_) | Self::Store(_) | Self::Snapshot(_) | Self::Content(_) => Kind::Environment,
            // What comes from elsewhere is at fault, unless it could not be kept here.
            Self::Blob { .. } | Self::Diff(_) | Self::Push(_) if self.is_ours() => Kind::Environment,
            _ => Kind::Source,
        }
    }

    /// Whether the store or an output refused, rather than what is brought into it.
    fn is_ours(&self) -> bool {
        chain(self).any(|error| match error.downcast_ref::<ContentError>() {
            Some(error) => !matches!(error, ContentError::Mismatch { .. }),
            None => error.is::<ExportError>() || error.is::<StoreError>() || error.is::<SnapshotError>(),
        })
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Push(error) => error.hint(),
            Self::Source(error) => error.hint(),
            Self::Manifest { source, .. } => source.hint(),
            Self::Reference(error) => error.hint(),
            Self::Missing { what: "manifest", .. } => {
                Some("the image is here for some platforms only: name one with `--platform`".to_owned())
            }
            Self::NoPlatform { .. } => Some("choose one with `--platform`".to_owned()),
            Self::Blob { .. } => chain(self).find_map(|error| error.downcast_ref::<RegistryError>())?.hint(),
            _ => None,
        }
    }

    /// An [`Self::Io`] in the making.
    pub(crate) fn io(operation: &'static str, object: impl ToString) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, object: object.to_string(), source }
    }
}
