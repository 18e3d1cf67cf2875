//! Where the files of a build's sources come from.

pub mod git;
pub mod http;
mod image;
pub(crate) mod layout;
pub mod platform;

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use wharf_cache::content::ContentError;
use wharf_cache::diff::DiffError;
use wharf_cache::{Digest, Store, StoreError};

use wharf_solver::llb::VertexDigest;
use wharf_solver::progress::{Event, Sink};

use crate::registry::manifest::ManifestError;
use crate::registry::{OciRegistry, ParseReferenceError, RegistryError, Transfer};

pub use git::{GitError, GitSources};
pub use http::{HttpError, HttpSources};
pub(crate) use image::Cancellable;
pub use image::{ImageSources, ResolvedImage, known, manifest_in_store};

/// What helps when something that a build needs is not here, and nobody may be asked.
pub(crate) const OFFLINE_HINT: &str = "build it once without `--offline`: what that brings here stays";

/// Looks a secret of the build up by its id; `None` was not given, an error is why one that was cannot be had.
pub type SecretLookup =
    Arc<dyn Fn(&str) -> Result<Option<Vec<u8>>, Box<dyn Error + Send + Sync>> + Send + Sync>;

/// All that the files of a build come from, over one store.
#[derive(Debug)]
pub struct Sources {
    /// Where what is brought here is kept.
    pub store: Store,
    /// Registries.
    pub registry: Arc<OciRegistry>,
    /// Images and layouts.
    pub images: ImageSources,
    /// URLs.
    pub http: HttpSources,
    /// Repositories.
    pub repositories: GitSources,
}

/// Why a source could not be resolved or brought here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The name is no image reference.
    #[error("{0}")]
    Reference(#[from] ParseReferenceError),
    /// The name is no layout reference.
    #[error("`oci-layout://{text}` does not name an image of a layout: {reason}")]
    LayoutName {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An identifier is not one that `resolve` gave.
    #[error("source `{identifier}` is not pinned to a digest")]
    NotPinned {
        /// The identifier.
        identifier: String,
    },
    /// The registry.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// A repository.
    #[error("{0}")]
    Git(#[source] Box<GitError>),
    /// A file behind a URL.
    #[error("{0}")]
    Http(#[from] HttpError),
    /// A layout could not be read.
    #[error("cannot {operation} `{}` of the OCI layout", path.display())]
    Layout {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A layout has no image of that name.
    #[error("the OCI layout `{}` has no image with tag `{tag}`; it has: {}", path.display(), listed(available))]
    LayoutTag {
        /// The layout.
        path: PathBuf,
        /// What was looked for.
        tag: String,
        /// Names that are there.
        available: Vec<String>,
    },
    /// A manifest is not what it should be.
    #[error("cannot use {object}")]
    Manifest {
        /// The image.
        object: String,
        /// What is wrong.
        source: ManifestError,
    },
    /// A descriptor tells another size than its blob has.
    #[error("{object} has {actual} bytes, but its descriptor says {expected}")]
    Size {
        /// What it is.
        object: String,
        /// What the descriptor says.
        expected: u64,
        /// What it has.
        actual: u64,
    },
    /// The config is not an image config.
    #[error("the config of {object} is not valid")]
    Config {
        /// The image.
        object: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The image is not there for the wanted platform.
    #[error("{object} has no image for {wanted}; it has: {}", listed(available))]
    NoPlatform {
        /// The index.
        object: String,
        /// What was looked for.
        wanted: String,
        /// What is there.
        available: Vec<String>,
    },
    /// A blob could not be downloaded.
    #[error("cannot download layer {digest} of {object}")]
    Download {
        /// The image.
        object: String,
        /// The layer.
        digest: Digest,
        /// Why not.
        source: io::Error,
    },
    /// The layers could not be unpacked.
    #[error("cannot unpack {object}")]
    Unpack {
        /// The image.
        object: String,
        /// Why not.
        source: Box<DiffError>,
    },
    /// The store's blobs.
    #[error("{0}")]
    Content(#[from] ContentError),
    /// The store's database.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Reports transfers as progress of a vertex.
pub fn transfer_events(vertex: VertexDigest, sink: &dyn Sink) -> impl Fn(Transfer) + Sync {
    move |transfer| {
        sink.send(Event::Status {
            vertex,
            id: transfer.digest.to_string(),
            current: transfer.current,
            total: Some(transfer.total),
            done: transfer.done,
        });
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl From<GitError> for SourceError {
    fn from(error: GitError) -> Self {
        Self::Git(Box::new(error))
    }
}

impl SourceError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Reference(error) => error.hint(),
            Self::Registry(error) => error.hint(),
            Self::Git(error) => error.hint().map(str::to_owned),
            Self::Http(error) => error.hint(),
            Self::Manifest { source, .. } => source.hint(),
            Self::NoPlatform { available, .. } if !available.is_empty() => {
                Some(format!("choose one with --platform, for example --platform={}", available[0]))
            }
            Self::Layout { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("an OCI layout is a directory with `index.json` and `blobs/sha256/`".to_owned())
            }
            Self::Unpack { .. } | Self::Download { .. } => carried(self)?.hint(),
            _ => None,
        }
    }
}

/// The registry's error that travelled through readers inside an `io::Error`.
fn carried(error: &SourceError) -> Option<&RegistryError> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(inner) = inner {
            if let Some(found) = inner.downcast_ref::<RegistryError>() {
                return Some(found);
            }
            if let Some(SourceError::Registry(found)) = inner.downcast_ref::<SourceError>() {
                return Some(found);
            }
        }
        next = error.source();
    }
    None
}
