//! Exporters: what was built, as an image in the store, an archive, a directory, or in a registry.
//!
//! ```text
//! Built ──image::assemble──▶ BuiltImage ──▶ Artifact ──▶ store::put · oci::write_archive · docker::write_archive ──▶ Destination · load::Engine
//! views of file systems ──────────────────▶ Tree ──────▶ tar::write · local::write
//! ```
//! `-o` is parsed by [`spec`]; an archive reaches its place through [`output::Destination`], whole or not at all.

pub mod annotations;
pub(crate) mod archive;
mod artifact;
pub mod docker;
pub mod form;
pub mod image;
pub mod load;
pub mod local;
pub mod metadata;
pub mod oci;
pub mod output;
pub mod rfc3339;
pub mod spec;
pub mod store;
pub mod tar;
mod tree;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::path::PathBuf;

use wharf_cache::content::ContentError;
use wharf_cache::diff::DiffError;
use wharf_cache::snapshot::SnapshotError;
use wharf_cache::{Digest, StoreError};

pub use artifact::{Artifact, Document};
pub use image::{Built, BuiltImage, Descriptor, assemble};
pub use output::Destination;
pub use tree::Tree;

/// Why something could not be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ExportError {
    /// The operating system refused.
    #[error("cannot {operation} `{object}`")]
    Io { operation: &'static str, object: String, source: io::Error },
    /// The file system, or the user's share of it, is full.
    #[error("no space left where `{}` is being written", path.display())]
    NoSpace { path: PathBuf, source: Box<ExportError> },
    /// An archive would have gone to a terminal.
    #[error("refusing to write an archive to the terminal: give `dest=FILE`, or redirect standard output")]
    Terminal,
    /// Nobody reads standard output any more.
    #[error("nobody reads standard output any more")]
    ReaderGone,
    /// Something that cannot be replaced stands where a file is to be written.
    #[error("cannot write `{}`: {obstacle} is in the way", path.display())]
    InTheWay { path: PathBuf, obstacle: &'static str },
    /// Two platforms have something at the same path, where both are written into one place.
    #[error("{} and {} both have `/{}`, and `platform-split=false` puts them into one place", platforms[0], platforms[1], path.display())]
    BothHave { path: PathBuf, platforms: [String; 2] },
    /// The tree nests deeper than is supported.
    #[error("cannot export `{}`: directories nest deeper than {max}", path.display())]
    TooDeep { path: PathBuf, max: usize },
    /// The store holds another amount of bytes than the manifest says.
    #[error("blob {digest} has {actual} bytes in the store, its descriptor says {expected}")]
    BlobSize { digest: Digest, actual: u64, expected: u64 },
    /// The directory has an `index.json` of its own that is not an image index.
    #[error("`{}` is not an image index: {reason}", path.display())]
    Index { path: PathBuf, reason: String },
    /// A blob could not be read or stored.
    #[error("{0}")]
    Content(#[from] ContentError),
    /// The file system could not be written as a tar.
    #[error("{0}")]
    Diff(#[from] DiffError),
    /// The file system could not be viewed.
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    /// The store refused.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl ExportError {
    /// An [`Self::Io`] in the making: `.map_err(ExportError::io("create", path.display()))`.
    pub(crate) fn io(operation: &'static str, object: impl ToString) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, object: object.to_string(), source }
    }

    /// Says plainly, where some cause of `self` is a full disk, that writing `path` failed for that reason.
    fn name_full_disk(self, path: &std::path::Path) -> Self {
        let is_full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            Self::NoSpace { .. } => self,
            error if error.has_cause(is_full) => {
                Self::NoSpace { path: path.to_owned(), source: Box::new(error) }
            }
            error => error,
        }
    }

    /// Says plainly that the reader of what was written has gone.
    fn name_reader_gone(self) -> Self {
        if self.has_cause(|kind| kind == io::ErrorKind::BrokenPipe) { Self::ReaderGone } else { self }
    }

    /// Whether the operating system said such a thing.
    fn has_cause(&self, is_it: impl Fn(io::ErrorKind) -> bool) -> bool {
        let chain = std::iter::successors(Some(self as &(dyn Error + 'static)), |&error| error.source());
        chain.filter_map(|error| error.downcast_ref::<io::Error>()).any(|error| is_it(error.kind()))
    }
}
