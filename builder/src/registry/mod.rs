//! Registries: what is asked of them, and the client that asks.
//!
//! A registry holds *blobs*, named by digest within a repository, and *manifests*, named by digest or tag. Everything
//! here blocks; the one thread that drives the network starts with the first request.

mod answer;
mod auth;
mod client;
mod clients;
pub mod credentials;
mod download;
mod error;
mod listing;
mod loopback;
pub mod manifest;
pub mod push;
pub mod reference;
mod referrers;
mod rules;
pub(crate) mod transfer;
mod transport;
mod upload;

use std::fmt;
use std::io::{self, Read};

use wharf_cache::Digest;

pub use client::OciRegistry;
pub use credentials::Credentials;
pub use error::RegistryError;
pub use reference::{ParseReferenceError, Reference};
pub use rules::{Hosts, Mirror, NoMirror, Rules};
pub use transfer::{Progress, Transfer};
pub use transport::RegistryOptions;

/// Opens a blob that is to be uploaded, from its start; called again when the upload has to begin again.
pub type OpenBlob<'a> = dyn Fn() -> io::Result<Box<dyn Read + Send>> + Sync + 'a;

/// A manifest as a registry served it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedManifest {
    /// Its bytes, as the digest covers them.
    pub bytes: Vec<u8>,
    /// The media type it was served with; may be empty.
    pub media_type: String,
    /// Digest of `bytes`.
    pub digest: Digest,
}

/// A manifest that refers to another: a signature, an SBOM, an attestation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// The manifest, with its annotations.
    #[serde(flatten)]
    pub descriptor: manifest::Descriptor,
    /// What it is; may be empty.
    #[serde(default)]
    pub artifact_type: String,
}

/// What became of a try to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// The registry took the credentials.
    Accepted,
    /// The registry asked for none.
    NotAsked,
}

/// A registry. Of the `name` given with a blob only registry and repository count.
///
/// Every method may be repeated: pushing what is there already changes nothing. What comes back is verified, or is
/// verified while it is read; what is sent, the registry verifies.
pub trait Registry: fmt::Debug + Send + Sync {
    /// The manifest or index that `reference` names (by digest if it has one, else by tag), at most
    /// [`manifest::MANIFEST_BYTES_MAX`] bytes.
    fn manifest(&self, reference: &Reference) -> Result<FetchedManifest, RegistryError>;

    /// The bytes of a blob of `size` bytes. Reading fails if they have not this digest and size.
    fn blob(
        &self,
        name: &Reference,
        digest: &Digest,
        size: u64,
    ) -> Result<Box<dyn Read + Send>, RegistryError>;

    /// What came for `name` is not what it should be, as `why` says. If it may have come from a mirror, the mirrors of its
    /// registry are not asked any more, and a second try may do better.
    fn distrust_mirrors(&self, _name: &Reference, _why: &dyn std::error::Error) -> bool {
        false
    }

    /// Whether the repository has a blob.
    fn has_blob(&self, name: &Reference, digest: &Digest) -> Result<bool, RegistryError>;

    /// Uploads a blob of `size` bytes, or lets the registry take it over from its repository `mount_from` if it is there.
    fn push_blob(
        &self,
        name: &Reference,
        digest: &Digest,
        size: u64,
        open: &OpenBlob<'_>,
        mount_from: Option<&str>,
    ) -> Result<(), RegistryError>;

    /// Stores a manifest under the reference's tag, or under its digest alone if it has no tag. The blobs it names must
    /// be there.
    fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError>;

    /// The tags of a repository, sorted.
    fn tags(&self, name: &Reference) -> Result<Vec<String>, RegistryError>;

    /// Removes the manifest of the reference's digest with all its tags, or, if it has no digest, its tag alone (which
    /// some registries cannot).
    fn delete(&self, reference: &Reference) -> Result<(), RegistryError>;

    /// The manifests that refer to the manifest `subject` of the repository; where the registry has no list of its own,
    /// those of the index under the tag that stands for it.
    fn referrers(&self, name: &Reference, subject: &Digest) -> Result<Vec<Referrer>, RegistryError>;
}
