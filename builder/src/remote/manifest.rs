//! What a cache says of itself: an OCI image manifest whose config is [`CacheConfig`]. `docs/formats/cache.md`.
//!
//! It comes from a place that others may write to, so nothing of it is believed before [`CacheConfig::parse`] has looked
//! at it: counts have limits, a key has to follow from what it is said to be made of, indexes lead to something.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use wharf_cache::diff::Variant;
use wharf_cache::{ContentDigest, Digest, Key};
use wharf_solver::cache_map::{self, RecordKey};
use wharf_solver::llb::encode;

use super::mounts::{MOUNT_CHUNKS_MAX, MountEntry};
use crate::exporter::Descriptor;
use crate::exporter::image::MANIFEST_TYPE;
use crate::registry::manifest as registry;

/// Media type of a [`CacheConfig`].
pub const CONFIG_TYPE: &str = "application/vnd.wharf.cache.config.v1+json";

/// Media type of a blob of a cache mount.
pub const MOUNT_TYPE: &str = "application/vnd.wharf.cache.mount.v1";

/// The field of an image's config that holds the cache of an image that carries its own.
pub const INLINE_FIELD: &str = "wharf.cache.v1";

/// Version of the format.
pub const VERSION: u32 = 1;

/// Largest config that is read.
pub const CONFIG_BYTES_MAX: u64 = 64 << 20;
/// Largest document that an image carries: more would not fit into what is read of an image's config.
pub const INLINE_BYTES_MAX: usize = 2 << 20;
/// Most layers: an OCI manifest that names more is larger than registries take.
pub const LAYERS_MAX: usize = 16_384;
/// Most records.
pub const RECORDS_MAX: usize = 100_000;
/// Most keys of one record.
pub const RECORD_KEYS_MAX: usize = 64;
/// Most inputs of one operation.
pub const INPUTS_MAX: usize = 4096;
/// Most outputs of one operation.
pub const OUTPUTS_MAX: usize = 256;
/// Most layers of one output: as many as can be stacked.
pub const CHAIN_LAYERS_MAX: usize = 999;
/// Most cache mounts.
pub const MOUNTS_MAX: usize = 1024;

/// What a cache holds. Equal caches have equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheConfig {
    /// [`VERSION`].
    pub version: u32,
    /// Version of the encoding that keys are made with.
    pub encoding: u32,
    /// All layers, each once.
    pub layers: Vec<CacheLayer>,
    /// What was built, steps before those that read them.
    pub records: Vec<CacheRecord>,
    /// Cache mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountEntry>,
}

/// A layer: a blob, and the snapshot it becomes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheLayer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its OCI media type.
    pub media_type: String,
    /// Digest of the tar in it.
    pub diff_id: Digest,
    /// Content digest of the snapshot.
    pub content: ContentDigest,
    /// Bytes of the snapshot's files.
    pub unpacked_size: u64,
    /// When the snapshot was made: nanoseconds since 1970.
    pub created_ns: i64,
    /// What its bytes depend on besides the files ([`Variant::key`]).
    pub variant: String,
    /// What its descriptor says besides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A result under its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheRecord {
    /// Digest of the operation without its inputs.
    pub op: Key,
    /// The keys that led to the result, with what they are made of.
    pub keys: Vec<RecordKey>,
    /// For each output its layers, lowest first, as indexes.
    pub outputs: Vec<Vec<u32>>,
    /// How long the step took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// What the keys are made of in words, for who wants to know why they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<serde_json::Value>,
}

/// Why bytes are not a cache that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON of this form.
    #[error("it is not valid")]
    Json(#[source] serde_json::Error),
    /// The manifest above it is not one.
    #[error(transparent)]
    Manifest(#[from] registry::ManifestError),
    /// Something else that is kept where a cache could be.
    #[error("it is no cache: its config has media type `{media_type}`")]
    NotACache {
        /// What it is.
        media_type: String,
    },
    /// Of a later version.
    #[error("it has version {found}; this wharf reads version {VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// Its keys are made in another way.
    #[error("its keys were made by another version of wharf")]
    Encoding,
    /// More of something than is read.
    #[error("it has {count} {what}, more than {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        max: usize,
    },
}

/// A cache that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What of it can be used.
    pub config: CacheConfig,
    /// How many records were refused: their keys do not follow from what they are said to be made of, or they
    /// contradict themselves.
    pub refused: usize,
}

impl CacheConfig {
    /// A cache of this version.
    pub fn new(layers: Vec<CacheLayer>, records: Vec<CacheRecord>) -> Self {
        Self { version: VERSION, encoding: u32::from(encode::VERSION), layers, records, mounts: Vec::new() }
    }

    /// Its bytes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a cache has string keys only")
    }

    /// Reads a cache that anybody may have written.
    pub fn parse(bytes: &[u8]) -> Result<Checked, ManifestError> {
        /// Looked at before the rest is believed to have this form.
        #[derive(Deserialize)]
        struct Head {
            version: u32,
            encoding: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if head.version != VERSION {
            return Err(ManifestError::Version { found: head.version });
        }
        if head.encoding != u32::from(encode::VERSION) {
            return Err(ManifestError::Encoding);
        }
        let config: Self = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        config.check()
    }

    fn check(mut self) -> Result<Checked, ManifestError> {
        limit("layers", self.layers.len(), LAYERS_MAX)?;
        limit("records", self.records.len(), RECORDS_MAX)?;
        limit("cache mounts", self.mounts.len(), MOUNTS_MAX)?;
        let chunks = self.mounts.iter().map(|mount| mount.chunks.chunks.len()).sum();
        limit("chunks of cache mounts", chunks, MOUNT_CHUNKS_MAX)?;
        self.layers.iter().try_for_each(CacheLayer::check)?;
        let all = self.records.len();
        let layers = &self.layers;
        self.records.retain(|record| record.is_sound(layers));
        // One that cannot be unpacked is as good as none.
        self.mounts.retain(|mount| mount.check().is_ok());
        Ok(Checked { refused: all - self.records.len(), config: self })
    }

    /// The blobs that it needs, each once.
    pub fn blobs(&self) -> Vec<Descriptor> {
        let blob = |media_type: &str, digest, size, annotations: &BTreeMap<String, String>| Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            annotations: annotations.clone(),
            platform: None,
        };
        let layers = self.layers.iter();
        let layers =
            layers.map(|layer| blob(&layer.media_type, layer.digest, layer.size, &layer.annotations));
        let mounts = self.mounts.iter().flat_map(|mount| &mount.chunks.chunks);
        let mounts = mounts.map(|chunk| blob(MOUNT_TYPE, chunk.digest, chunk.size, &BTreeMap::new()));
        let mut seen = HashSet::new();
        layers.chain(mounts).filter(|blob| seen.insert(blob.digest)).collect()
    }
}

impl CacheLayer {
    /// Refuses what could not be unpacked.
    fn check(&self) -> Result<(), ManifestError> {
        let descriptor = registry::Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest,
            size: self.size,
            platform: None,
            annotations: None,
        };
        Ok(descriptor.check_layer()?)
    }
}

impl CacheRecord {
    /// Whether its keys follow from what they are made of, and its outputs are layers that there are.
    fn is_sound(&self, layers: &[CacheLayer]) -> bool {
        let counts = (1..=RECORD_KEYS_MAX).contains(&self.keys.len())
            && (1..=OUTPUTS_MAX).contains(&self.outputs.len())
            && self.keys.iter().all(|key| key.inputs.len() <= INPUTS_MAX)
            && self.outputs.iter().all(|chain| chain.len() <= CHAIN_LAYERS_MAX);
        let layer = |index: &u32| {
            let layer = usize::try_from(*index).ok().and_then(|index| layers.get(index));
            layer.is_some_and(|layer| Variant::is_key(&layer.variant))
        };
        counts
            && self.outputs.iter().flatten().all(layer)
            && self.keys.iter().all(|key| cache_map::key(&self.op, &key.inputs) == key.key)
    }
}

fn limit(what: &'static str, count: usize, max: usize) -> Result<(), ManifestError> {
    if count > max { Err(ManifestError::TooMany { what, count, max }) } else { Ok(()) }
}

/// The documents of a cache: what is written to a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// The manifest, an OCI image manifest.
    pub manifest: Vec<u8>,
    /// The config, a [`CacheConfig`].
    pub config: Vec<u8>,
}

impl Documents {
    /// The documents of a cache.
    pub fn of(config: &CacheConfig) -> Self {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Manifest<'a> {
            schema_version: u8,
            media_type: &'a str,
            config: &'a Descriptor,
            layers: &'a [Descriptor],
        }
        let bytes = config.to_json();
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE,
            config: &Descriptor::of(CONFIG_TYPE, &bytes),
            layers: &config.blobs(),
        };
        let manifest = serde_json::to_vec(&manifest).expect("a manifest has string keys only");
        Self { manifest, config: bytes }
    }

    /// Descriptor of the config.
    pub fn config_descriptor(&self) -> Descriptor {
        Descriptor::of(CONFIG_TYPE, &self.config)
    }

    /// Descriptor of the manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(MANIFEST_TYPE, &self.manifest)
    }
}

#[cfg(test)]
mod tests {
    use wharf_solver::cache_map::InputKey;

    use super::*;

    fn layer(seed: u8) -> CacheLayer {
        CacheLayer {
            digest: Digest::of(&[seed]),
            size: 1,
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            diff_id: Digest::of(&[seed, 1]),
            content: ContentDigest([seed; 32]),
            unpacked_size: 7,
            created_ns: 1,
            variant: "gzip".to_owned(),
            annotations: BTreeMap::new(),
        }
    }

    fn record(outputs: Vec<Vec<u32>>) -> CacheRecord {
        let op = Key([1; 32]);
        let inputs = [
            vec![InputKey::Definition { key: Key([2; 32]), output: 0, reads: Key([3; 32]) }],
            vec![InputKey::Content(vec![ContentDigest([4; 32])])],
        ];
        let keys = inputs.map(|inputs| RecordKey::new(&op, inputs));
        CacheRecord { op, keys: keys.into(), outputs, duration_ms: None, provenance: None }
    }

    fn config() -> CacheConfig {
        CacheConfig::new(vec![layer(1), layer(2)], vec![record(vec![vec![0, 1]])])
    }

    #[test]
    fn what_is_written_is_read_again() {
        let config = config();
        let documents = Documents::of(&config);
        assert_eq!(CacheConfig::parse(&documents.config).unwrap(), Checked { config, refused: 0 });
        assert_eq!(documents, Documents::of(&self::config()));
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut CacheConfig)) {
        let mut config = config();
        change(&mut config);
        let Checked { config, refused } = CacheConfig::parse(&config.to_json()).unwrap();
        assert_eq!((config.records.len(), refused), (0, 1));
    }

    #[test]
    fn a_record_that_contradicts_itself_is_refused() {
        refused(|config| config.records[0].keys[0].key = Key([9; 32]));
        refused(|config| config.records[0].op = Key([9; 32]));
        refused(|config| {
            config.records[0].keys[1].inputs = vec![InputKey::Content(vec![ContentDigest([5; 32])])];
        });
        refused(|config| config.records[0].keys.clear());
        refused(|config| config.records[0].outputs.clear());
        refused(|config| config.records[0].outputs = vec![vec![2]]);
        refused(|config| config.records[0].outputs = vec![vec![0; CHAIN_LAYERS_MAX + 1]]);
        refused(|config| config.layers[0].variant = "../x".to_owned());
    }

    #[track_caller]
    fn fails(json: &str, message: &str) {
        let error = CacheConfig::parse(json.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, message, "{json}");
    }

    #[test]
    fn what_is_no_cache_is_refused() {
        fails("", "it is not valid");
        fails("{}", "it is not valid");
        fails(r#"{"version":2,"encoding":1}"#, "it has version 2; this wharf reads version 1");
        fails(r#"{"version":1,"encoding":99}"#, "its keys were made by another version of wharf");
        fails(r#"{"version":1,"encoding":1,"layers":{}}"#, "it is not valid");
        let mut many = config();
        many.layers = vec![layer(1); LAYERS_MAX + 1];
        let error = CacheConfig::parse(&many.to_json()).unwrap_err().to_string();
        assert_eq!(error, "it has 16385 layers, more than 16384");
        many.layers = vec![CacheLayer { media_type: "text/plain".to_owned(), ..layer(1) }];
        let error = CacheConfig::parse(&many.to_json()).unwrap_err().to_string();
        assert!(error.ends_with("has media type `text/plain`, which cannot be unpacked"), "{error}");
    }
}
