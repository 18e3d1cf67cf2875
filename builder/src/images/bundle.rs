//! Layouts and archives as sources of images: an OCI layout in a directory or a tar, or what `docker save` writes, in its
//! old form and its new one.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wharf_cache::content::VerifyingReader;
use wharf_cache::diff::{COMPRESSION_START_BYTES, StreamCompression, compression_of};
use wharf_cache::{Digest, Store};
use wharf_runtime::Cancel;

use super::archive::{Archive, Place};
use super::places::Source;
use super::{INDEX_ENTRIES_MAX, ImagesError};
use crate::context::open_at_once;
use crate::exporter::image::{CONFIG_TYPE, MANIFEST_TYPE};
use crate::exporter::oci::{REF_NAME, blob_path};
use crate::exporter::{self};
use crate::registry::manifest::{CONFIG_BYTES_MAX, Descriptor, LAYERS_MAX, MANIFEST_BYTES_MAX, Manifest};
use crate::registry::{FetchedManifest, Reference};

/// Where containerd and Docker put an image's whole name.
const FULL_NAME: &str = "io.containerd.image.name";

/// The file that says that something is a layout.
const LAYOUT_BYTES_MAX: u64 = 4 << 10;

/// Names that one image may have.
const NAMES_MAX: usize = 1000;

/// What layers of an old archive are read in pieces of, to know their digests.
const BUFFER_BYTES: usize = 256 * 1024;

/// Images that somebody else has written.
#[derive(Debug)]
pub(crate) struct Bundle {
    files: Files,
    images: Vec<BundledImage>,
    /// Of an archive of Docker's: the documents made for it, and where its blobs are.
    made: HashMap<Digest, Vec<u8>>,
    placed: HashMap<Digest, Place>,
}

#[derive(Debug)]
enum Files {
    Directory(PathBuf),
    Archive(Archive),
}

/// One image of a bundle.
#[derive(Debug, Clone)]
pub(crate) struct BundledImage {
    /// Its full names.
    pub(crate) names: Vec<Reference>,
    /// What it is called there: a tag, or a name in full.
    labels: Vec<String>,
    /// Its manifest or index.
    pub(crate) digest: Digest,
    size: u64,
    media_type: String,
}

/// A content and its size.
type Opened = (Box<dyn Read + Send>, u64);

/// An item of Docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutVersion {
    image_layout_version: String,
}

/// A manifest made for an image that has none.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewManifest {
    schema_version: u8,
    media_type: &'static str,
    config: exporter::Descriptor,
    layers: Vec<exporter::Descriptor>,
}

impl Bundle {
    /// Opens a layout (a directory) or an archive; standard input without a path.
    pub(crate) fn open(path: Option<&Path>, store: &Store, cancel: &Cancel) -> Result<Self, ImagesError> {
        match path {
            Some(path) if path.is_dir() => Self::directory(path),
            path => Self::archive(Archive::open(path, store, cancel)?, cancel),
        }
    }

    fn directory(path: &Path) -> Result<Self, ImagesError> {
        let mut this = Self::of(Files::Directory(path.to_owned()));
        let index = this.document("index.json", MANIFEST_BYTES_MAX)?;
        let index = index.ok_or_else(|| this.wrong("is not an OCI layout: it has no index.json"))?;
        this.read_index(&index)?;
        Ok(this)
    }

    fn archive(archive: Archive, cancel: &Cancel) -> Result<Self, ImagesError> {
        let is_docker = archive.find(b"manifest.json").is_some();
        let mut this = Self::of(Files::Archive(archive));
        if this.document("oci-layout", LAYOUT_BYTES_MAX)?.is_some()
            && let Some(index) = this.document("index.json", MANIFEST_BYTES_MAX)?
        {
            this.read_index(&index)?;
        } else if is_docker {
            this.read_docker(cancel)?;
        } else if this.has("repositories") {
            return Err(
                this.wrong("was saved by a Docker of before 2016, without the digests of what it holds")
            );
        } else {
            return Err(
                this.wrong("is not an archive of images: it has neither index.json nor manifest.json")
            );
        }
        Ok(this)
    }

    fn of(files: Files) -> Self {
        Self { files, images: Vec::new(), made: HashMap::new(), placed: HashMap::new() }
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> String {
        match &self.files {
            Files::Directory(path) => path.display().to_string(),
            Files::Archive(archive) => archive.name().to_owned(),
        }
    }

    /// Its images, in its order.
    pub(crate) fn images(&self) -> &[BundledImage] {
        &self.images
    }

    /// The image with this label: a tag, a name, or a digest; without one, the only image there is.
    pub(crate) fn find(&self, label: Option<&str>) -> Result<&BundledImage, ImagesError> {
        let full = label.and_then(|label| label.parse::<Reference>().ok());
        let found = match (label, &*self.images) {
            (None, [only]) => Some(only),
            (None, images) => images.iter().find(|image| image.labels.iter().any(|it| it == "latest")),
            (Some(label), images) => images.iter().find(|image| {
                image.labels.iter().any(|it| it == label)
                    || image.digest.to_string() == label
                    || full.as_ref().is_some_and(|full| image.names.contains(full))
            }),
        };
        found.ok_or_else(|| {
            let there: Vec<&str> =
                self.images.iter().flat_map(|image| &image.labels).map(String::as_str).take(20).collect();
            let there = if there.is_empty() { "no named ones".to_owned() } else { there.join(", ") };
            self.wrong(match label {
                Some(label) => format!("has no image `{label}`; it has {there}"),
                None => format!("has {} images: say which one; it has {there}", self.images.len()),
            })
        })
    }

    fn wrong(&self, reason: impl Into<String>) -> ImagesError {
        ImagesError::Bundle { bundle: self.name(), reason: reason.into() }
    }

    fn has(&self, name: &str) -> bool {
        matches!(&self.files, Files::Archive(archive) if archive.find(name.as_bytes()).is_some())
    }

    /// A document beside the blobs.
    fn document(&self, name: &'static str, bytes_max: u64) -> Result<Option<Vec<u8>>, ImagesError> {
        match &self.files {
            Files::Archive(archive) => {
                archive.find(name.as_bytes()).map(|place| archive.bytes(name, place, bytes_max)).transpose()
            }
            Files::Directory(path) => {
                let path = path.join(name);
                let failed = |source| ImagesError::io("read", path.display())(source);
                match open_regular(&path) {
                    Ok((_, size)) if size > bytes_max => {
                        Err(self.wrong(format!("has a file `{name}` of more than {bytes_max} bytes")))
                    }
                    Ok((file, _)) => {
                        let mut bytes = Vec::new();
                        file.take(bytes_max).read_to_end(&mut bytes).map_err(failed)?;
                        Ok(Some(bytes))
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(failed(error)),
                }
            }
        }
    }

    fn read_index(&mut self, index: &[u8]) -> Result<(), ImagesError> {
        if let Some(version) = self.document("oci-layout", LAYOUT_BYTES_MAX)? {
            let version: Result<LayoutVersion, _> = serde_json::from_slice(&version);
            if !version.is_ok_and(|version| version.image_layout_version.starts_with("1.")) {
                return Err(self.wrong("has an oci-layout that is not of version 1"));
            }
        }
        let invalid =
            |source| ImagesError::Manifest { object: format!("index.json of {}", self.name()), source };
        let Manifest::Index(entries) = Manifest::parse(index, "").map_err(invalid)? else {
            return Err(self.wrong("has an index.json that is not an index"));
        };
        if entries.len() > INDEX_ENTRIES_MAX {
            let object = format!("index.json of {}", self.name());
            return Err(ImagesError::TooMany { object, what: "entries", max: INDEX_ENTRIES_MAX });
        }
        for entry in entries {
            let labels = [FULL_NAME, REF_NAME].map(|key| entry.annotations.as_ref()?.get(key).cloned());
            let names = self.names_of(&labels)?;
            let labels = labels.into_iter().flatten();
            // An image with several names is there several times.
            match self.images.iter_mut().find(|image| image.digest == entry.digest) {
                Some(image) => {
                    image.labels.extend(labels);
                    image.names.extend(names);
                }
                None => self.images.push(BundledImage {
                    names: names.into_iter().collect(),
                    labels: labels.collect(),
                    digest: entry.digest,
                    size: entry.size,
                    media_type: entry.media_type,
                }),
            }
        }
        Ok(())
    }

    /// The name of an entry of an index. A tag alone says no name.
    fn names_of(&self, labels: &[Option<String>; 2]) -> Result<Option<Reference>, ImagesError> {
        let text = match labels {
            [Some(full), _] => full,
            [None, Some(label)] if label.contains([':', '/']) => label,
            _ => return Ok(None),
        };
        let name = text.parse::<Reference>();
        let name =
            name.map_err(|error| self.wrong(format!("has an image with a name that is none: {error}")))?;
        // What has a digest alone names no place in the store.
        Ok(name.tag().is_some().then_some(name))
    }

    fn read_docker(&mut self, cancel: &Cancel) -> Result<(), ImagesError> {
        let Files::Archive(archive) = &self.files else { return Ok(()) };
        let Some(bytes) = self.document("manifest.json", MANIFEST_BYTES_MAX)? else { return Ok(()) };
        let items: Vec<Item> = serde_json::from_slice(&bytes)
            .map_err(|error| archive.wrong(format!("has a manifest.json that cannot be read: {error}")))?;
        if items.len() > INDEX_ENTRIES_MAX {
            let object = format!("manifest.json of {}", archive.name());
            return Err(ImagesError::TooMany { object, what: "images", max: INDEX_ENTRIES_MAX });
        }
        let mut seen = HashMap::new();
        let mut images: Vec<BundledImage> = Vec::new();
        let (mut made, mut placed) = (HashMap::new(), HashMap::new());
        for item in items {
            let find = |name: &str| {
                let missing = || archive.wrong(format!("has no `{}`", shown(name)));
                archive.find(name.as_bytes()).ok_or_else(missing)
            };
            let config = archive.bytes(&shown(&item.config), find(&item.config)?, CONFIG_BYTES_MAX)?;
            let names = item.layers.unwrap_or_default();
            if names.len() > LAYERS_MAX {
                let object = format!("an image of {}", archive.name());
                return Err(ImagesError::TooMany { object, what: "layers", max: LAYERS_MAX });
            }
            let mut layers = Vec::new();
            for name in &names {
                let place = find(name)?;
                let layer = match seen.get(&place) {
                    Some(layer) => exporter::Descriptor::clone(layer),
                    None => describe_layer(archive, name, place, cancel)?,
                };
                placed.insert(layer.digest, place);
                seen.insert(place, layer.clone());
                layers.push(layer);
            }
            let config_descriptor = exporter::Descriptor::of(CONFIG_TYPE, &config);
            made.insert(config_descriptor.digest, config);
            let manifest = NewManifest {
                schema_version: 2,
                media_type: MANIFEST_TYPE,
                config: config_descriptor,
                layers,
            };
            let manifest = serde_json::to_vec_pretty(&manifest).expect("a manifest has string keys only");
            let descriptor = exporter::Descriptor::of(MANIFEST_TYPE, &manifest);
            made.insert(descriptor.digest, manifest);
            let labels = item.repo_tags.unwrap_or_default();
            if labels.len() > NAMES_MAX {
                let object = format!("an image of {}", archive.name());
                return Err(ImagesError::TooMany { object, what: "names", max: NAMES_MAX });
            }
            let names = labels.iter().map(|label| label.parse()).collect::<Result<Vec<Reference>, _>>();
            let names = names
                .map_err(|error| archive.wrong(format!("has an image with a name that is none: {error}")))?;
            images.push(BundledImage {
                names,
                labels,
                digest: descriptor.digest,
                size: descriptor.size,
                media_type: descriptor.media_type,
            });
        }
        (self.images, self.made, self.placed) = (images, made, placed);
        Ok(())
    }

    /// A blob of a layout, with its size; none if it is not there.
    fn open_blob(&self, digest: &Digest) -> Result<Option<Opened>, ImagesError> {
        if let Some(bytes) = self.made.get(digest) {
            return Ok(Some((Box::new(io::Cursor::new(bytes.clone())), bytes.len() as u64)));
        }
        let path = blob_path(digest);
        match &self.files {
            Files::Archive(archive) => {
                let place = self.placed.get(digest).copied().or_else(|| archive.find(path.as_bytes()));
                Ok(place.map(|place| (Box::new(archive.reader(place)) as Box<dyn Read + Send>, place.size)))
            }
            Files::Directory(layout) => match open_regular(&layout.join(path)) {
                Ok((file, size)) => Ok(Some((Box::new(file), size))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(ImagesError::io("open", format!("{digest} of {}", self.name()))(error)),
            },
        }
    }

    fn read_manifest(&self, digest: &Digest) -> Result<FetchedManifest, ImagesError> {
        let object = || self.name();
        let missing = || ImagesError::Missing { what: "manifest", digest: *digest, object: object() };
        let (reader, size) = self.open_blob(digest)?.ok_or_else(missing)?;
        if size > MANIFEST_BYTES_MAX {
            let reason = format!("has a manifest {digest} of more than {MANIFEST_BYTES_MAX} bytes");
            return Err(self.wrong(reason));
        }
        let mut bytes = Vec::new();
        VerifyingReader::new(reader, *digest, size)
            .read_to_end(&mut bytes)
            .map_err(ImagesError::io("read", format!("manifest {digest} of {}", object())))?;
        Ok(FetchedManifest { bytes, media_type: String::new(), digest: *digest })
    }
}

/// One image of a bundle, to be copied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InBundle<'a> {
    pub(crate) bundle: &'a Bundle,
    pub(crate) image: &'a BundledImage,
}

impl Source for InBundle<'_> {
    fn name(&self) -> String {
        match self.image.labels.first() {
            Some(label) => format!("{} of {}", shown(label), self.bundle.name()),
            None => self.bundle.name(),
        }
    }

    fn root(&self) -> Result<FetchedManifest, ImagesError> {
        let mut root = self.bundle.read_manifest(&self.image.digest)?;
        if root.bytes.len() as u64 != self.image.size {
            let reason =
                format!("says that {} has {} bytes, and it has not", self.image.digest, self.image.size);
            return Err(self.bundle.wrong(reason));
        }
        root.media_type.clone_from(&self.image.media_type);
        Ok(root)
    }

    fn manifest(&self, digest: &Digest) -> Result<FetchedManifest, ImagesError> {
        self.bundle.read_manifest(digest)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImagesError> {
        let Descriptor { digest, size, .. } = descriptor;
        let object = self.bundle.name();
        let found = self.bundle.open_blob(digest)?;
        let (reader, _) = found.ok_or(ImagesError::Missing { what: "blob", digest: *digest, object })?;
        Ok(Box::new(VerifyingReader::new(reader, *digest, *size)))
    }

    fn is_foreign(&self) -> bool {
        true
    }
}

/// A layer of an old archive: what its digest is, and how it is compressed.
fn describe_layer(
    archive: &Archive,
    name: &str,
    place: Place,
    cancel: &Cancel,
) -> Result<exporter::Descriptor, ImagesError> {
    let failed = |error| ImagesError::io("read", format!("{} of {}", shown(name), archive.name()))(error);
    let mut reader = archive.reader(place);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut start = Vec::new();
    loop {
        if cancel.is_cancelled() {
            return Err(ImagesError::Interrupted);
        }
        let count = reader.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            break;
        }
        if start.len() < COMPRESSION_START_BYTES {
            start.extend_from_slice(&buffer[..count.min(COMPRESSION_START_BYTES)]);
        }
        hasher.update(&buffer[..count]);
    }
    let suffix = match compression_of(&start) {
        StreamCompression::Gzip => "+gzip",
        StreamCompression::Zstd => "+zstd",
        _ => "",
    };
    Ok(exporter::Descriptor {
        media_type: format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
        digest: Digest::from_bytes(hasher.finalize().into()),
        size: place.size,
        annotations: BTreeMap::new(),
        platform: None,
    })
}

/// A name out of an archive, as far as it is shown.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Opens a regular file. A pipe or device must not hang us.
fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let (file, metadata) = open_at_once(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, metadata.len()))
}
