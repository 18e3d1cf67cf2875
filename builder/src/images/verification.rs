//! Whether an image is what a build of its context gives, and if not, in what: the layers entry by entry, the config and the
//! manifests field by field.

use std::io::{self, Read};

use serde::Serialize;
use serde_json::{Value, json};
use wharf_cache::diff::{Compression, EntryChange, LayerSource, ReadableLayer, Variant, layer_differences};
use wharf_cache::{DiffId, Digest, Store};
use wharf_solver::llb::Platform;

use super::ImagesError;
use super::alignment::align;
use super::difference::{Sides, json_differences};
use super::stored::{Stored, StoredImage};
use crate::exporter::form::{ImageForm, MediaTypes};
use crate::exporter::rfc3339;
use crate::registry::manifest::{
    CONFIG_BYTES_MAX, DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, MANIFEST_BYTES_MAX,
};
use crate::remote::manifest::INLINE_FIELD;

/// Differences that are told one by one; of more only the number is.
const TOLD_MAX: usize = 1000;

/// The annotation that layers in the form of estargz have.
const ESTARGZ_ANNOTATION: &str = "containerd.io/snapshot/stargz/toc.digest";

/// What a rebuild has to know of an image to give the same bytes.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// Compression and media types, as far as the image shows them.
    pub(crate) form: ImageForm,
    /// What compressed the topmost layer, with its version, if it was made in this store.
    pub(crate) compressor: Option<String>,
    /// What it is for; several images are in an index.
    pub(crate) platforms: Vec<Platform>,
    /// Whether there is an index above it.
    pub(crate) has_index: bool,
    /// When it says that it was made, in seconds since 1970.
    pub(crate) created_s: Option<u64>,
    /// Whether that is a time that no `SOURCE_DATE_EPOCH` gives.
    pub(crate) is_made_by_clock: bool,
    /// Whether it carries a cache.
    pub(crate) has_inline_cache: bool,
}

impl Recipe {
    /// Reads it off an image, whose new layers are in the form of its topmost.
    pub(crate) fn of(store: &Store, image: &Stored) -> Result<Self, ImagesError> {
        let layers = || image.images.iter().flat_map(|image| &image.layers);
        let top = image.images.iter().find_map(|image| image.layers.last());
        // The same bytes come of several variants where nothing is later than a time.
        let recorded: Vec<String> = match top {
            Some(top) => store.variants_of(&top.digest)?,
            None => Vec::new(),
        };
        let mut form = ImageForm::default();
        let of_record = recorded.iter().find_map(|key| Variant::compression_of_key(key));
        form.compression = match (of_record, top) {
            (Some(compression), _) => compression,
            (None, Some(top)) => shown_compression(top),
            (None, None) => Compression::default(),
        };
        if !recorded.is_empty() && recorded.iter().all(|key| !key.contains('@')) {
            form.times.rewrite = Some(false);
        }
        let is_made_here =
            |layer: &Descriptor| Ok::<_, ImagesError>(!store.variants_of(&layer.digest)?.is_empty());
        form.force_compression =
            layers().map(is_made_here).collect::<Result<Vec<_>, _>>()?.iter().all(|it| *it);
        if [DOCKER_MANIFEST, DOCKER_INDEX].contains(&&*image.descriptor.media_type) {
            form.types = MediaTypes::Docker;
        }
        let created =
            image.images.iter().filter_map(|image| rfc3339::parse(image.config.created.as_deref()?)).max();
        let since = created.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let configs =
            image.images.iter().map(|image| raw(store, &image.config_descriptor.digest, CONFIG_BYTES_MAX));
        let configs = configs.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            form,
            compressor: recorded.first().map(|key| key.split('@').next().unwrap_or(key).to_owned()),
            platforms: image.images.iter().map(StoredImage::platform).collect(),
            has_index: image.entries.is_some(),
            created_s: since.map(|since| since.as_secs()),
            is_made_by_clock: since.is_some_and(|since| since.subsec_nanos() != 0),
            has_inline_cache: configs.iter().any(|config| json_of(config).get(INLINE_FIELD).is_some()),
        })
    }
}

fn shown_compression(layer: &Descriptor) -> Compression {
    let is_estargz = layer.annotations.as_ref().is_some_and(|all| all.contains_key(ESTARGZ_ANNOTATION));
    match layer.media_type.rsplit(['+', '.']).next() {
        Some("gzip") if is_estargz => Compression::Estargz { level: None },
        Some("gzip") => Compression::Gzip { level: None },
        Some("zstd") => Compression::Zstd { level: None },
        _ => Compression::None,
    }
}

/// What came of a comparison.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Verdict {
    /// The first ones, from the lowest layer to the manifest.
    pub(crate) differences: Vec<Finding>,
    /// How many there are besides.
    pub(crate) untold: usize,
}

/// Where two images differ.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    /// Of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<String>,
    /// What has the difference.
    #[serde(flatten)]
    pub(crate) part: Part,
    /// What differs there: `mode`, `mtime`, `content`, `presence`, `order`, `encoding`, `compressor`, `value`.
    pub(crate) what: String,
    /// The first byte that differs, in the file, the tar or the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<u64>,
    /// What the image has; null where it has nothing.
    pub(crate) image: Value,
    /// What the rebuild has.
    pub(crate) rebuilt: Value,
}

/// A part of an image.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase", tag = "part")]
pub(crate) enum Part {
    /// A layer, counted from the lowest (1), and an entry of it.
    Layer {
        layer: usize,
        instruction: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// A field of the config.
    Config { pointer: String },
    /// A field of the manifest.
    Manifest { pointer: String },
    /// A field of the index.
    Index { pointer: String },
}

impl Verdict {
    /// Compares what is in `store`: the images of both sides, platform by platform, and what is above them if `whole`.
    pub(crate) fn of(
        store: &Store,
        image: &Stored,
        rebuilt: &Stored,
        platforms: &[Platform],
        whole: bool,
    ) -> Result<Self, ImagesError> {
        let mut verdict = Self::default();
        for platform in platforms {
            let side = |stored: &Stored| match stored.entries {
                None => stored.images.first().cloned(),
                Some(_) => stored.images.iter().find(|image| image.platform() == *platform).cloned(),
            };
            let name: Option<String> = (platforms.len() > 1).then(|| platform.to_string());
            match (side(image), side(rebuilt)) {
                (Some(image), Some(rebuilt)) => verdict.images(store, &image, &rebuilt, name)?,
                (image, rebuilt) => {
                    let digest = |it: Option<StoredImage>| it.map(|it| it.descriptor.digest.to_string());
                    let sides = Sides { first: json!(digest(image)), second: json!(digest(rebuilt)) };
                    let part = Part::Index { pointer: "/manifests".to_owned() };
                    verdict.add(finding(name, part, "presence", sides));
                }
            }
        }
        if whole && image.descriptor.digest != rebuilt.descriptor.digest {
            let told = verdict.count();
            match (&image.entries, &rebuilt.entries) {
                (Some(_), Some(_)) => verdict.indexes(store, image, rebuilt)?,
                (None, None) => {}
                _ => {
                    let [first, second] = [image, rebuilt].map(|it| json!(it.descriptor.media_type));
                    let part = Part::Index { pointer: "/mediaType".to_owned() };
                    verdict.add(finding(None, part, "value", Sides { first, second }));
                }
            }
            if told == 0 && verdict.is_same() {
                verdict.add(other_bytes(None, Part::Index { pointer: String::new() }));
            }
        }
        Ok(verdict)
    }

    /// Whether nothing differs.
    pub(crate) fn is_same(&self) -> bool {
        self.differences.is_empty()
    }

    /// How many differences there are.
    pub(crate) fn count(&self) -> usize {
        self.differences.len() + self.untold
    }

    fn add(&mut self, finding: Finding) {
        match self.differences.len() < TOLD_MAX {
            true => self.differences.push(finding),
            false => self.untold += 1,
        }
    }

    fn images(
        &mut self,
        store: &Store,
        image: &StoredImage,
        rebuilt: &StoredImage,
        platform: Option<String>,
    ) -> Result<(), ImagesError> {
        if image.descriptor.digest == rebuilt.descriptor.digest {
            return Ok(());
        }
        let told = self.count();
        self.layers(store, image, rebuilt, &platform)?;
        let config = |image: &StoredImage| raw(store, &image.config_descriptor.digest, CONFIG_BYTES_MAX);
        self.documents([config(image)?, config(rebuilt)?], &platform, without_layers, &|pointer| {
            Part::Config { pointer }
        });
        let manifest = |image: &StoredImage| raw(store, &image.descriptor.digest, MANIFEST_BYTES_MAX);
        self.documents([manifest(image)?, manifest(rebuilt)?], &platform, without_digests, &|pointer| {
            Part::Manifest { pointer }
        });
        if self.count() == told {
            self.add(other_bytes(platform, Part::Manifest { pointer: String::new() }));
        }
        Ok(())
    }

    fn layers(
        &mut self,
        store: &Store,
        image: &StoredImage,
        rebuilt: &StoredImage,
        platform: &Option<String>,
    ) -> Result<(), ImagesError> {
        let (ours, theirs) = (instructions(image), instructions(rebuilt));
        let is_same = |a: usize, b: usize| {
            let made_alike = ours.get(a).filter(|it| !it.is_empty()) == theirs.get(b);
            made_alike || image.layers[a].digest == rebuilt.layers[b].digest
        };
        for (one, other) in align(image.layers.len(), rebuilt.layers.len(), is_same) {
            let instruction = one.and_then(|at| ours.get(at)).or(other.and_then(|at| theirs.get(at)));
            let instruction = instruction.cloned().unwrap_or_default();
            let number = one.or(other).unwrap_or_default() + 1;
            let part = |path| Part::Layer { layer: number, instruction: instruction.clone(), path };
            let (one, other) = (one.map(|at| &image.layers[at]), other.map(|at| &rebuilt.layers[at]));
            let (Some(one), Some(other)) = (one, other) else {
                let digest = |layer: Option<&Descriptor>| json!(layer.map(|it| it.digest.to_string()));
                let sides = Sides { first: digest(one), second: digest(other) };
                self.add(finding(platform.clone(), part(None), "presence", sides));
                continue;
            };
            if one.digest == other.digest {
                continue;
            }
            // What the configs say of the files is not asked: they may lie.
            let differences = entries(store, one, other)?;
            if differences.is_empty() {
                let blob = |it: &Descriptor| json!({ "digest": it.digest, "size": it.size });
                let sides = Sides { first: blob(one), second: blob(other) };
                self.add(finding(platform.clone(), part(None), "compressor", sides));
            }
            for difference in differences {
                let path = Some(difference.path.to_string_lossy().into_owned());
                self.add(of_entry(platform.clone(), part(path), difference.what));
            }
        }
        Ok(())
    }

    /// Compares two documents but for what `reduced` takes away, which follows from something else.
    fn documents(
        &mut self,
        [image, rebuilt]: [Vec<u8>; 2],
        platform: &Option<String>,
        reduced: fn(Value) -> Value,
        part: &dyn Fn(String) -> Part,
    ) {
        if image == rebuilt {
            return;
        }
        let (first, second) = (json_of(&image), json_of(&rebuilt));
        let into = |value: &Value, _| value.is_object() || value.is_array();
        let told = self.count();
        let [mut one, mut other] = [reduced(first.clone()), reduced(second.clone())];
        let histories = [&mut one, &mut other].map(history_of);
        for (path, values) in json_differences(&one, &other, &into) {
            self.add(finding(platform.clone(), part(pointer(&path)), "value", values));
        }
        self.histories(&histories, platform, part);
        let is_same = self.count() == told && first == second;
        if is_same {
            let same = image.iter().zip(&rebuilt).take_while(|(a, b)| a == b).count();
            let encoding = other_bytes(platform.clone(), part(String::new()));
            self.add(Finding { offset: Some(same as u64), ..encoding });
        }
    }

    /// Compares two histories: an entry that one has not moves the others along.
    fn histories(
        &mut self,
        [first, second]: &[Vec<Value>; 2],
        platform: &Option<String>,
        part: &dyn Fn(String) -> Part,
    ) {
        let into = |value: &Value, _| value.is_object() || value.is_array();
        let is_same = |a: usize, b: usize| {
            let made_by = |entry: &Value| entry.get("created_by").cloned();
            first[a] == second[b] || made_by(&first[a]).is_some_and(|it| Some(it) == made_by(&second[b]))
        };
        for (one, other) in align(first.len(), second.len(), is_same) {
            let place = format!("/history/{}", one.or(other).unwrap_or_default());
            let (one, other) = (one.map(|at| &first[at]), other.map(|at| &second[at]));
            let (Some(one), Some(other)) = (one, other) else {
                let sides = Sides { first: json!(one), second: json!(other) };
                self.add(finding(platform.clone(), part(place), "presence", sides));
                continue;
            };
            for (path, values) in json_differences(one, other, &into) {
                let place = format!("{place}{}", pointer(&path));
                self.add(finding(platform.clone(), part(place), "value", values));
            }
        }
    }

    fn indexes(&mut self, store: &Store, image: &Stored, rebuilt: &Stored) -> Result<(), ImagesError> {
        let read = |stored: &Stored| raw(store, &stored.descriptor.digest, MANIFEST_BYTES_MAX);
        self.documents([read(image)?, read(rebuilt)?], &None, without_digests, &|pointer| Part::Index {
            pointer,
        });
        Ok(())
    }
}

fn finding(platform: Option<String>, part: Part, what: &str, values: Sides<Value>) -> Finding {
    let Sides { first: image, second: rebuilt } = values;
    Finding { platform, part, what: what.to_owned(), offset: None, image, rebuilt }
}

/// The same in other bytes.
fn other_bytes(platform: Option<String>, part: Part) -> Finding {
    finding(platform, part, "encoding", Sides { first: Value::Null, second: Value::Null })
}

fn of_entry(platform: Option<String>, part: Part, what: EntryChange) -> Finding {
    let new = |what: &str, first, second| finding(platform, part, what, Sides { first, second });
    match what {
        EntryChange::Removed => new("presence", json!(true), json!(false)),
        EntryChange::Added => new("presence", json!(false), json!(true)),
        EntryChange::Field { name, first, second } => new(&name, json!(first), json!(second)),
        EntryChange::Content { offset, first, second } => {
            Finding { offset, ..new("content", json!(first), json!(second)) }
        }
        EntryChange::Order { second } => new("order", Value::Null, json!(second.to_string_lossy())),
        EntryChange::Encoding { offset } => {
            Finding { offset: Some(offset), ..new("encoding", Value::Null, Value::Null) }
        }
    }
}

/// What made each layer, lowest first.
fn instructions(image: &StoredImage) -> Vec<String> {
    let made = image.history().into_iter().filter(|(_, layer)| layer.is_some());
    made.map(|(entry, _)| entry.map_or_else(String::new, |entry| entry.created_by.clone())).collect()
}

fn entries(
    store: &Store,
    image: &Descriptor,
    rebuilt: &Descriptor,
) -> Result<Vec<wharf_cache::diff::EntryDifference>, ImagesError> {
    let source = |layer: &Descriptor| LayerSource {
        digest: layer.digest,
        size: layer.size,
        media_type: layer.media_type.clone(),
        // It is not looked at: that the two are different is known.
        diff_id: DiffId(layer.digest),
    };
    let open = |layer: &Descriptor| -> io::Result<Box<dyn Read>> {
        let blob = store.blobs().open_expecting(&layer.digest, layer.size).map_err(io::Error::other)?;
        Ok(Box::new(blob))
    };
    Ok(layer_differences(
        &ReadableLayer { source: &source(image), open: &|| open(image) },
        &ReadableLayer { source: &source(rebuilt), open: &|| open(rebuilt) },
    )?)
}

fn raw(store: &Store, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>, ImagesError> {
    Ok(store.blobs().read(digest, bytes_max)?)
}

/// What was parsed before is JSON.
fn json_of(document: &[u8]) -> Value {
    serde_json::from_slice(document).unwrap_or_default()
}

/// Takes the history out of a config.
fn history_of(config: &mut Value) -> Vec<Value> {
    match config.as_object_mut().and_then(|config| config.remove("history")) {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    }
}

/// A config without the diffIDs: layers are told by themselves.
fn without_layers(mut config: Value) -> Value {
    if let Some(rootfs) = config.get_mut("rootfs").and_then(Value::as_object_mut) {
        rootfs.remove("diff_ids");
    }
    config
}

/// A manifest or index without the digests and sizes of what it names, which is told by itself.
fn without_digests(mut manifest: Value) -> Value {
    let descriptors = ["config", "layers", "manifests"];
    for name in descriptors {
        let of_name = match manifest.get_mut(name) {
            Some(Value::Array(all)) => all.iter_mut().collect(),
            Some(one) => vec![one],
            None => Vec::new(),
        };
        for descriptor in of_name.into_iter().filter_map(Value::as_object_mut) {
            descriptor.remove("digest");
            descriptor.remove("size");
            // These are digests and sizes of what is in the layer.
            if let Some(annotations) = descriptor.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.retain(|key, _| key != ESTARGZ_ANNOTATION && key != UNCOMPRESSED_SIZE);
            }
        }
    }
    manifest
}

/// The annotation of an estargz layer that has the size of its tar.
const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// RFC 6901.
fn pointer(path: &[String]) -> String {
    path.iter().map(|key| format!("/{}", key.replace('~', "~0").replace('/', "~1"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_by_pointers() {
        let check = |first: Value, second: Value, expected: &[&str]| {
            let mut verdict = Verdict::default();
            let bytes = |value: &Value| value.to_string().into_bytes();
            let part = |pointer| Part::Config { pointer };
            verdict.documents([bytes(&first), bytes(&second)], &None, without_layers, &part);
            let told = verdict.differences.iter().map(|it| match &it.part {
                Part::Config { pointer } if it.what == "presence" => {
                    format!("{pointer} {}", if it.image.is_null() { "put in" } else { "missing" })
                }
                Part::Config { pointer } => format!("{pointer} {} {}", it.image, it.rebuilt),
                other => panic!("{other:?}"),
            });
            assert_eq!(told.collect::<Vec<_>>(), expected);
        };
        check(json!({"a": 1}), json!({"a": 1}), &[]);
        check(json!({"a": {"b/c": [1, 2]}}), json!({"a": {"b/c": [1, 3]}}), &["/a/b~1c/1 2 3"]);
        check(json!({"a": [1]}), json!({"a": [1, {"b": 2}]}), &["/a/1/b null 2"]);
        check(json!({"a": {"b": 1}}), json!({"a": "c"}), &["/a {\"b\":1} \"c\""]);
        check(json!({"rootfs": {"diff_ids": [1]}}), json!({"rootfs": {"diff_ids": [2]}}), &[]);
        let step = |name: &str, time: u8| json!({"created_by": name, "created": time});
        let history = |steps: &[Value]| json!({ "history": steps });
        let (a, b, c) = (step("A", 1), step("B", 1), step("C", 1));
        let whole = history(&[a.clone(), b.clone(), c.clone()]);
        check(whole.clone(), history(&[a.clone(), c.clone()]), &["/history/1 missing"]);
        check(history(&[a.clone(), c.clone()]), whole.clone(), &["/history/1 put in"]);
        check(whole.clone(), history(&[a.clone(), b.clone()]), &["/history/2 missing"]);
        check(whole.clone(), history(&[a.clone(), step("B", 2), c]), &["/history/1/created 1 2"]);
        check(whole, history(&[a, b, step("D", 1)]), &["/history/2/created_by \"C\" \"D\""]);
    }
}
