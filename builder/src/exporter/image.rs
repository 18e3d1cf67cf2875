//! Layers and an image config → config, manifest and descriptors, as bytes. Pure: equal input, equal bytes.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use wharf_cache::Digest;
use wharf_cache::snapshot::Layer;
use wharf_frontend::image::{History, ImageConfig};
use wharf_solver::llb;

use super::annotations::Level;
use super::form::{ImageForm, MediaTypes};
use super::rfc3339;
use crate::remote::manifest::{CacheConfig, INLINE_FIELD};

/// Media type of an image manifest (OCI image-spec, media-types.md).
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image config.
pub const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an image index.
pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// Comment of a history entry made for a layer that nothing in the history speaks of.
const SYNTHESIZED: &str = "buildkit.exporter.image.v0";

/// What a build ends with: everything an image is made of.
#[derive(Debug, Clone)]
pub struct Built {
    /// The config; of its history the new entries have no `created` yet, and its `rootfs` is empty.
    pub config: ImageConfig,
    /// How many entries of the history, counted from the first, are the base image's.
    pub base_history: usize,
    /// Layers of the base image, lowest first, with the descriptors they came with.
    pub base_layers: Vec<Layer>,
    /// New layers on top, lowest first, each with the time its snapshot was made.
    pub layers: Vec<(Layer, SystemTime)>,
    /// `SOURCE_DATE_EPOCH`: no new time is later.
    pub source_date_epoch: Option<u64>,
    /// What the image is for.
    pub platform: llb::Platform,
    /// The cache that the image carries.
    pub inline_cache: Option<CacheConfig>,
    /// What it is to be like. Its layers have that form already.
    pub form: ImageForm,
}

/// An image ready to be exported: its documents as bytes, its layers as blobs of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    /// The image config.
    pub config: Vec<u8>,
    /// Descriptor of the config; its digest is the image id.
    pub config_descriptor: Descriptor,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Descriptor of the manifest, with the platform; its digest is what a registry names the image by.
    pub descriptor: Descriptor,
    /// Descriptors of all layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// When it was made (RFC 3339).
    pub created: String,
}

/// A descriptor (OCI image-spec, descriptor.md). Fields are in the order Go writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Annotations, sorted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What a manifest's image is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// The `platform` object of a descriptor (OCI image-spec, image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u8,
    media_type: &'a str,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

/// Puts the documents of an image together. `now` is its time when nothing in it has one.
pub fn assemble(built: &Built, now: SystemTime) -> BuiltImage {
    let (history, created) = dated_history(built, now);
    let all_layers = || built.base_layers.iter().chain(built.layers.iter().map(|(layer, _)| layer));

    let mut config = built.config.clone();
    config.rootfs.diff_ids = all_layers().map(|layer| layer.diff_id.0.to_string()).collect();
    config.history = history;
    config.created = Some(created.clone());
    if config.os.is_empty() {
        config.os.clone_from(&built.platform.os);
    }
    if config.architecture.is_empty() {
        config.architecture.clone_from(&built.platform.architecture);
        config.variant.clone_from(&built.platform.variant);
    }
    let config = match &built.inline_cache {
        Some(cache) => with_field(config.to_json(), INLINE_FIELD, &cache.to_json()),
        None => config.to_json(),
    };
    let ImageForm { types, annotations, .. } = &built.form;
    let config_descriptor = Descriptor::of(types.config(), &config);

    let layers: Vec<_> = all_layers()
        .map(|layer| Descriptor {
            media_type: types.layer(&layer.media_type).to_owned(),
            digest: layer.digest,
            size: layer.size,
            // Docker's descriptors have none.
            annotations: match types {
                MediaTypes::Oci => layer.annotations.clone(),
                MediaTypes::Docker => BTreeMap::new(),
            },
            platform: None,
        })
        .collect();
    let manifest = Manifest {
        schema_version: 2,
        media_type: types.manifest(),
        config: &config_descriptor,
        layers: &layers,
        annotations: &annotations.of(Level::Manifest, &built.platform),
    };
    let manifest = serde_json::to_vec_pretty(&manifest).expect("a manifest has string keys only");
    let descriptor = Descriptor {
        annotations: annotations.of(Level::ManifestDescriptor, &built.platform),
        platform: Some(Platform::from(&built.platform)),
        ..Descriptor::of(types.manifest(), &manifest)
    };
    BuiltImage { config, config_descriptor, manifest, descriptor, layers, created }
}

/// A JSON object with one field more, the last.
fn with_field(mut object: Vec<u8>, name: &str, value: &[u8]) -> Vec<u8> {
    let end = object.pop();
    debug_assert_eq!(end, Some(b'}'), "a config is an object");
    object.extend(format!(",\"{name}\":").bytes());
    object.extend(value);
    object.push(b'}');
    object
}

impl Descriptor {
    /// The descriptor of `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
            platform: None,
        }
    }
}

impl From<&llb::Platform> for Platform {
    fn from(platform: &llb::Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            variant: platform.variant.clone(),
        }
    }
}

/// The history with a time in every new entry, and the image's own time.
///
/// An entry that made a layer has the layer's time. One that made none has the time of the layer before it, or the
/// first layer's when it comes before all; with no new layer the base image's last time, so that an image of
/// metadata alone is the same bytes every time. `now` is left for an image without any layer.
fn dated_history(built: &Built, now: SystemTime) -> (Vec<History>, String) {
    let epoch = built.source_date_epoch.map(rfc3339::from_epoch);
    let clamp = |time: SystemTime| epoch.map_or(time, |epoch| time.min(epoch));

    let (base, new) = built.config.history.split_at(built.base_history.min(built.config.history.len()));
    let mut history = match_layers(base, built.base_layers.len());
    let base_time = history.iter().rev().find_map(|entry| rfc3339::parse(entry.created.as_deref()?));
    for entry in history.iter_mut().filter(|entry| entry.comment == SYNTHESIZED && entry.created.is_none()) {
        entry.created = base_time.map(rfc3339::format);
    }

    let new = match_layers(new, built.layers.len());
    if let (true, Some(base_time)) = (new.is_empty(), base_time) {
        return (history, rfc3339::format(base_time));
    }
    let first_layer = built.layers.first().map(|(_, created)| *created);
    let mut time = clamp(first_layer.or(base_time).or(epoch).unwrap_or(now));
    let mut times = built.layers.iter().map(|(_, created)| clamp(*created));
    for mut entry in new {
        if !entry.empty_layer {
            time = times.next().unwrap_or(time);
        }
        entry.created = Some(rfc3339::format(time));
        history.push(entry);
    }
    (history, rfc3339::format(time))
}

/// `entries` with exactly `layers` of them that made a layer: what is missing is added at the end, and a layer that
/// an entry claims but that is not there is taken from it.
fn match_layers(entries: &[History], layers: usize) -> Vec<History> {
    let mut left = layers;
    let mut matched = entries.to_vec();
    for entry in matched.iter_mut().filter(|entry| !entry.empty_layer) {
        if left == 0 {
            entry.empty_layer = true;
        } else {
            left -= 1;
        }
    }
    let missing = History { comment: SYNTHESIZED.to_owned(), ..History::default() };
    matched.extend(std::iter::repeat_n(missing, left));
    matched
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use expect_test::{Expect, expect};
    use wharf_cache::DiffId;

    use super::*;

    pub(in super::super) fn linux() -> llb::Platform {
        llb::Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), ..llb::Platform::default() }
    }

    fn layer(name: &str, media_type: &str) -> Layer {
        Layer {
            diff_id: DiffId(Digest::of(format!("tar of {name}").as_bytes())),
            digest: Digest::of(name.as_bytes()),
            size: 100,
            media_type: media_type.to_owned(),
            annotations: BTreeMap::new(),
        }
    }

    const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn entry(created_by: &str, empty_layer: bool) -> History {
        History { created_by: created_by.to_owned(), empty_layer, ..History::default() }
    }

    /// A build of `base` history entries (`+` before those with a layer, `@time` after) and `new` ones, whose layers
    /// were made 100 s, 200 s … after the epoch.
    fn built(base: &[&str], base_layers: usize, new: &[&str], layers: usize, epoch: Option<u64>) -> Built {
        let parse = |text: &&str| {
            let (text, created) =
                text.split_once('@').map_or((*text, None), |(text, time)| (text, Some(time)));
            let name = text.trim_start_matches('+');
            History { created: created.map(str::to_owned), ..entry(name, name == text) }
        };
        let history = base.iter().chain(new).map(parse).collect();
        let new_layer =
            |n| (layer(&format!("new {n}"), GZIP), UNIX_EPOCH + Duration::from_secs(100 * (n as u64 + 1)));
        Built {
            config: ImageConfig { history, ..ImageConfig::default() },
            base_history: base.len(),
            base_layers: (0..base_layers).map(|n| layer(&format!("base {n}"), GZIP)).collect(),
            layers: (0..layers).map(new_layer).collect(),
            source_date_epoch: epoch,
            platform: linux(),
            inline_cache: None,
            form: ImageForm::default(),
        }
    }

    #[track_caller]
    fn check_history(built: &Built, expected: Expect) {
        let image = assemble(built, UNIX_EPOCH + Duration::from_secs(3600));
        let config: ImageConfig = serde_json::from_slice(&image.config).unwrap();
        assert_eq!(config.created.as_ref(), Some(&image.created));
        assert_eq!(config.rootfs.diff_ids.len(), image.layers.len());
        let mut dump = format!("image {}\n", image.created);
        for entry in &config.history {
            let mark = if entry.empty_layer { ' ' } else { '+' };
            let created = entry.created.as_deref().unwrap_or("never");
            dump += format!("{mark} {created} {}{}", entry.created_by, entry.comment).trim_end();
            dump.push('\n');
        }
        expected.assert_eq(&dump);
    }

    #[test]
    fn metadata_entries_take_the_time_of_the_nearest_new_layer() {
        check_history(
            &built(
                &["+ADD@2020-01-01T00:00:00Z", "CMD@2020-01-01T00:00:01Z"],
                1,
                &["ENV", "+RUN", "ARG", "+COPY", "CMD"],
                2,
                None,
            ),
            expect![[r#"
                image 1970-01-01T00:03:20Z
                + 2020-01-01T00:00:00Z ADD
                  2020-01-01T00:00:01Z CMD
                  1970-01-01T00:01:40Z ENV
                + 1970-01-01T00:01:40Z RUN
                  1970-01-01T00:01:40Z ARG
                + 1970-01-01T00:03:20Z COPY
                  1970-01-01T00:03:20Z CMD
            "#]],
        );
    }

    #[test]
    fn new_times_are_clamped_to_the_epoch_and_old_ones_are_left_alone() {
        check_history(
            &built(&["+ADD@2020-01-01T00:00:00Z"], 1, &["ENV", "+RUN", "+COPY"], 2, Some(150)),
            expect![[r#"
                image 1970-01-01T00:02:30Z
                + 2020-01-01T00:00:00Z ADD
                  1970-01-01T00:01:40Z ENV
                + 1970-01-01T00:01:40Z RUN
                + 1970-01-01T00:02:30Z COPY
            "#]],
        );
    }

    #[test]
    fn metadata_on_a_base_takes_the_base_images_last_time() {
        check_history(
            &built(&["+ADD@2020-01-01T02:00:00+02:00"], 1, &["ENV"], 0, None),
            expect![[r#"
                image 2020-01-01T00:00:00Z
                + 2020-01-01T02:00:00+02:00 ADD
                  2020-01-01T00:00:00Z ENV
            "#]],
        );
        check_history(
            &built(&["+ADD@2020-01-01T00:00:00Z"], 1, &[], 0, Some(5)),
            expect![[r#"
                image 2020-01-01T00:00:00Z
                + 2020-01-01T00:00:00Z ADD
            "#]],
        );
    }

    #[test]
    fn without_any_layer_the_time_is_now_or_the_epoch() {
        check_history(
            &built(&[], 0, &["ENV"], 0, None),
            expect![[r#"
                image 1970-01-01T01:00:00Z
                  1970-01-01T01:00:00Z ENV
            "#]],
        );
        check_history(
            &built(&[], 0, &[], 0, Some(7)),
            expect![[r#"
                image 1970-01-01T00:00:07Z
            "#]],
        );
    }

    #[test]
    fn history_and_layers_are_made_to_agree() {
        check_history(
            &built(&["+ADD@2020-01-01T00:00:00Z"], 3, &["+RUN"], 2, None),
            expect![[r#"
                image 1970-01-01T00:03:20Z
                + 2020-01-01T00:00:00Z ADD
                + 2020-01-01T00:00:00Z buildkit.exporter.image.v0
                + 2020-01-01T00:00:00Z buildkit.exporter.image.v0
                + 1970-01-01T00:01:40Z RUN
                + 1970-01-01T00:03:20Z buildkit.exporter.image.v0
            "#]],
        );
        check_history(
            &built(&["+ADD@yesterday", "+LIE"], 1, &["+RUN"], 1, None),
            expect![[r#"
                image 1970-01-01T00:01:40Z
                + yesterday ADD
                  never LIE
                + 1970-01-01T00:01:40Z RUN
            "#]],
        );
    }

    #[test]
    fn base_history_longer_than_the_history_is_no_panic() {
        let mut built = built(&[], 0, &["ENV"], 0, Some(7));
        built.base_history = 5;
        assert_eq!(assemble(&built, UNIX_EPOCH).created, "1970-01-01T00:00:07Z");
    }

    #[test]
    fn documents_have_these_bytes() {
        let mut built = built(&[], 0, &["+RUN true"], 1, None);
        built.base_layers = vec![layer("base", "application/vnd.docker.image.rootfs.diff.tar.gzip")];
        built.config.config.env = Some(vec!["PATH=/bin".to_owned()]);
        let image = assemble(&built, UNIX_EPOCH);
        assert_eq!(image.descriptor.digest, Digest::of(&image.manifest));
        assert_eq!(image, assemble(&built, UNIX_EPOCH));
        let text =
            [image.config.as_slice(), image.manifest.as_slice()].map(String::from_utf8_lossy).join("\n");
        expect![[r#"
            {"architecture":"amd64","config":{"Env":["PATH=/bin"]},"created":"1970-01-01T00:01:40Z","history":[{"comment":"buildkit.exporter.image.v0"},{"created":"1970-01-01T00:01:40Z","created_by":"RUN true"}],"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:65fa8927b84454de540542ea6c4492899cbecd99e8c09a7812c2fc4350df5ec7","sha256:e523ccad05f47a708c65452541dd9c424867df6f333cc16876e11844da1a21a4"]}}
            {
              "schemaVersion": 2,
              "mediaType": "application/vnd.oci.image.manifest.v1+json",
              "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": "sha256:f9455f9d0d98a05232f5fc5497f279aa9765e22a93cc0ee5f49ddf763ef63e6c",
                "size": 401
              },
              "layers": [
                {
                  "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                  "digest": "sha256:cae662172fd450bb0cd710a769079c05bfc5d8e35efa6576edc7d0377afdd4a2",
                  "size": 100
                },
                {
                  "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                  "digest": "sha256:00fca2fa75431260551ddb5512ac3ba9073a41c72d74118d2306165d1b736c15",
                  "size": 100
                }
              ]
            }"#]].assert_eq(&text);
    }

    #[test]
    fn docker_layer_types_become_ocis() {
        for (docker, oci) in [
            ("application/vnd.docker.image.rootfs.diff.tar", "application/vnd.oci.image.layer.v1.tar"),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", GZIP),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            ),
            (GZIP, GZIP),
            ("application/x-other", "application/x-other"),
        ] {
            assert_eq!(MediaTypes::Oci.layer(docker), oci);
        }
    }
}
