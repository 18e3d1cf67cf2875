//! Manifests and indexes: what is read of them, from bytes nobody has checked.

use std::collections::BTreeMap;

use serde::Deserialize;
use wharf_cache::Digest;

/// Largest manifest or index that is taken: what registries themselves allow (OCI distribution-spec asks for 4 MiB).
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Largest image config that is taken.
pub const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// Most layers of an image. No kernel stacks as many.
pub const LAYERS_MAX: usize = 1000;

/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker's manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Layer media types that can be unpacked. Foreign (non-distributable) layers are not among them.
const LAYERS: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// Why bytes are not a manifest we can use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or a field is missing or of another type.
    #[error("the manifest is not valid")]
    Json(#[source] serde_json::Error),
    /// A manifest of 2016 and before.
    #[error("the manifest has Docker's old format (schema 1), which carries no layer digests to verify")]
    Schema1,
    /// Something else that a registry can hold (an artifact, a chart).
    #[error("the manifest has media type `{media_type}`, which is not an image")]
    NotAnImage {
        /// What it is.
        media_type: String,
    },
    /// It could be read as a manifest and as an index.
    #[error("the manifest has both layers and manifests")]
    Ambiguous,
    /// A layer that we cannot unpack.
    #[error("layer {digest} has media type `{media_type}`, which cannot be unpacked")]
    Layer {
        /// The layer.
        digest: Digest,
        /// What it is.
        media_type: String,
    },
    /// JSON of another kind, or no JSON.
    #[error("the manifest is not valid: it is no JSON object")]
    NotAnObject,
    /// More layers than any image has.
    #[error("the manifest has {layers} layers, which is more than {LAYERS_MAX} layers")]
    TooManyLayers {
        /// Layers of the manifest.
        layers: usize,
    },
    /// The config does not name one diffID a layer.
    #[error("the manifest has {layers} layers but its config names {diff_ids}")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// DiffIDs of the config.
        diff_ids: usize,
    },
}

impl ManifestError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Schema1 => Some(
                "pull it with an old Docker and push it again, or use a newer tag of the image".to_owned(),
            ),
            Self::Layer { media_type, .. }
                if media_type.contains("foreign") || media_type.contains("nondistributable") =>
            {
                Some(
                    "such layers (Windows base images) are not in the registry; wharf builds Linux images"
                        .to_owned(),
                )
            }
            _ => None,
        }
    }
}

/// A pointer to a blob (OCI image-spec, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a descriptor, an object")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it runs on; in an index.
    #[serde(default)]
    pub platform: Option<DescriptorPlatform>,
    /// Notes, the name among them.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// The platform of an index entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a platform, an object")]
#[expect(missing_docs, reason = "the names are the specification's")]
pub struct DescriptorPlatform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub variant: String,
    #[serde(default, rename = "os.version")]
    pub os_version: String,
}

/// A manifest that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// Manifests by platform.
    Index(Vec<Descriptor>),
    /// One image.
    Image {
        /// Its config.
        config: Descriptor,
        /// Its layers, lowest first.
        layers: Vec<Descriptor>,
    },
}

#[derive(Deserialize)]
struct Raw {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// What kind of document it is, before its fields are believed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
}

impl Manifest {
    /// Reads a manifest; `media_type` is the one it was served or described with (may be empty). The document's own
    /// `mediaType`, where it has one, counts more: it is what the digest covers.
    pub fn parse(bytes: &[u8], media_type: &str) -> Result<Self, ManifestError> {
        if bytes.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
            return Err(ManifestError::NotAnObject);
        }
        let kind: Kind = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        let stated = if kind.media_type.is_empty() { media_type } else { &kind.media_type };
        if kind.schema_version == 1 || stated.starts_with("application/vnd.docker.distribution.manifest.v1") {
            return Err(ManifestError::Schema1);
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        match (raw.manifests, raw.config, raw.layers) {
            (Some(_), _, Some(_)) | (Some(_), Some(_), _) => Err(ManifestError::Ambiguous),
            (Some(manifests), None, None) => Ok(Self::Index(manifests)),
            (None, Some(_), Some(layers)) if layers.len() > LAYERS_MAX => {
                Err(ManifestError::TooManyLayers { layers: layers.len() })
            }
            (None, Some(config), Some(layers)) => Ok(Self::Image { config, layers }),
            (None, _, _) => Err(ManifestError::NotAnImage { media_type: stated.chars().take(200).collect() }),
        }
    }
}

impl Descriptor {
    /// Whether it points to an index.
    pub fn is_index(&self) -> bool {
        matches!(&*self.media_type, OCI_INDEX | DOCKER_INDEX)
    }

    /// Whether it is an attestation (provenance, SBOM) beside an image rather than an image.
    pub fn is_attestation(&self) -> bool {
        self.annotations.as_ref().is_some_and(|notes| notes.contains_key("vnd.docker.reference.type"))
    }

    /// Refuses a layer that cannot be unpacked.
    pub fn check_layer(&self) -> Result<(), ManifestError> {
        if LAYERS.contains(&&*self.media_type) {
            return Ok(());
        }
        let media_type = self.media_type.chars().take(200).collect();
        Err(ManifestError::Layer { digest: self.digest, media_type })
    }
}

/// The media type to push or describe `manifest` with: its own, else the OCI one for its kind.
pub(crate) fn media_type_of(bytes: &[u8], manifest: &Manifest) -> String {
    let own = serde_json::from_slice::<Kind>(bytes).map(|kind| kind.media_type).unwrap_or_default();
    match (own.is_empty(), manifest) {
        (false, _) => own,
        (true, Manifest::Index(_)) => OCI_INDEX.to_owned(),
        (true, Manifest::Image { .. }) => OCI_MANIFEST.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check(json: &str, media_type: &str, expected: &str) {
        let json = json.replace('D', &format!(r#"{{"mediaType":"x","digest":"{DIGEST}","size":3}}"#));
        let actual = match Manifest::parse(json.as_bytes(), media_type) {
            Ok(Manifest::Index(entries)) => format!("index of {}", entries.len()),
            Ok(Manifest::Image { layers, .. }) => format!("image of {}", layers.len()),
            Err(error) => error.to_string(),
        };
        assert_eq!(actual, expected);
    }

    #[test]
    fn kinds_are_told_apart() {
        check(r#"{"schemaVersion":2,"manifests":[D,D]}"#, "", "index of 2");
        check(r#"{"schemaVersion":2,"config":D,"layers":[D]}"#, OCI_MANIFEST, "image of 1");
        check(r#"{"schemaVersion":2,"config":D,"layers":[]}"#, "text/plain", "image of 0");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let schema1 =
            "the manifest has Docker's old format (schema 1), which carries no layer digests to verify";
        check(r#"{"schemaVersion":1,"fsLayers":[]}"#, "", schema1);
        check("{}", "application/vnd.docker.distribution.manifest.v1+prettyjws", schema1);
        check("", "", "the manifest is not valid");
        for text in ["[]", "[1,\"x\"]", "3", "\"text\"", " null", "<html>"] {
            check(text, "", "the manifest is not valid: it is no JSON object");
        }
        check(r#"{"manifests":[D],"layers":[D]}"#, "", "the manifest has both layers and manifests");
        check(r#"{"manifests":[D],"config":D}"#, "", "the manifest has both layers and manifests");
        check(r#"{"mediaType":"a/b"}"#, "c/d", "the manifest has media type `a/b`, which is not an image");
        check(r#"{"config":{"digest":"md5:1","size":1},"layers":[]}"#, "", "the manifest is not valid");
        check(r#"{"config":D,"layers":[{"digest":"sha256:","size":1}]}"#, "", "the manifest is not valid");
        check(r#"{"config":D,"layers":[{"size":-1}]}"#, "", "the manifest is not valid");
    }
}
