//! The `oci` exporter: an OCI image layout (OCI image-spec, image-layout.md) as a tar or as a directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use serde_json::Value;
use wharf_cache::content::ContentError;
use wharf_cache::{Digest, Store};

use super::archive::Archive;
use super::artifact::Index;
use super::docker::Item;
use super::image::INDEX_TYPE;
use super::output::{OutputFile, create_directory};
use super::{Artifact, Descriptor, ExportError};

/// The bytes of the file `oci-layout`.
pub(crate) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Most bytes of an `index.json` that is added to.
const INDEX_BYTES_MAX: u64 = 16 << 20;

pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Writes the image or index as a layout in a tar, once under each of `names` (full names with tag). Layers are streamed from
/// the store and verified on the way.
pub fn write_archive(
    store: &Store,
    artifact: &Artifact,
    names: &[String],
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    write_archive_with(store, artifact, names, None, out)
}

/// [`write_archive`] with `manifest.json` beside the layout.
pub(super) fn write_archive_with(
    store: &Store,
    artifact: &Artifact,
    names: &[String],
    docker: Option<&[Item]>,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let mut archive = begin_archive(out)?;
    for (digest, content) in contents(artifact) {
        let mut reader = content.open(store, &digest)?;
        archive.file(&blob_path(&digest), 0o444, content.size(), &mut *reader)?;
    }
    finish_archive(archive, descriptors(artifact, names), docker)
}

/// Begins a layout in a tar.
pub(crate) fn begin_archive(out: &mut dyn Write) -> Result<Archive<'_>, ExportError> {
    let mut archive = Archive::new(out);
    archive.directory("blobs/")?;
    archive.directory("blobs/sha256/")?;
    Ok(archive)
}

/// Ends it: what names its images comes last, and `docker` beside that, for those who read nothing else.
pub(crate) fn finish_archive(
    mut archive: Archive<'_>,
    manifests: Vec<Descriptor>,
    docker: Option<&[Item]>,
) -> Result<(), ExportError> {
    let index = Index { schema_version: 2, media_type: INDEX_TYPE, manifests, annotations: &BTreeMap::new() };
    archive.bytes("index.json", &serde_json::to_vec(&index).expect("an index has string keys only"))?;
    if let Some(items) = docker {
        let items = serde_json::to_vec(items).expect("docker's manifest has string keys only");
        archive.bytes("manifest.json", &items)?;
    }
    archive.bytes("oci-layout", LAYOUT)?;
    archive.finish()
}

/// Writes the image or index as a layout into the directory `dest`. In a layout that is there, the other images stay, and the
/// image takes the place of one with the same name. The index comes last: what it names is there.
pub fn write_directory(
    store: &Store,
    artifact: &Artifact,
    names: &[String],
    dest: &Path,
) -> Result<(), ExportError> {
    let write = || {
        create_directory(&dest.join("blobs/sha256"))?;
        for (digest, content) in contents(artifact) {
            if !has_blob(dest, &digest, content.size()) {
                write_blob(dest, &digest, &mut *content.open(store, &digest)?)?;
            }
        }
        write_index(dest, descriptors(artifact, names))
    };
    write().map_err(|error: ExportError| error.name_full_disk(dest))
}

/// Whether a layout has a blob of `size` bytes.
pub(crate) fn has_blob(layout: &Path, digest: &Digest, size: u64) -> bool {
    fs::metadata(layout.join(blob_path(digest))).is_ok_and(|there| there.is_file() && there.len() == size)
}

/// Writes a blob of a layout.
pub(crate) fn write_blob(layout: &Path, digest: &Digest, reader: &mut dyn Read) -> Result<(), ExportError> {
    let path = layout.join(blob_path(digest));
    let mut file = OutputFile::create(&path)?;
    std::io::copy(reader, &mut file).map_err(ExportError::io("write", path.display()))?;
    file.commit()
}

/// Writes what makes a directory a layout, or adds to one that is there. What `manifests` name is there.
pub(crate) fn write_index(layout: &Path, manifests: Vec<Descriptor>) -> Result<(), ExportError> {
    let index = merged_index(&layout.join("index.json"), manifests)?;
    for (name, bytes) in [("oci-layout", LAYOUT), ("index.json", &index)] {
        let path = layout.join(name);
        let mut file = OutputFile::create(&path)?;
        file.write_all(bytes).map_err(ExportError::io("write", path.display()))?;
        file.commit()?;
    }
    Ok(())
}

/// A blob's path in a layout.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Where the bytes of a blob are.
enum Content<'a> {
    Here(&'a [u8]),
    Stored(u64),
}

impl<'a> Content<'a> {
    fn size(&self) -> u64 {
        match self {
            Self::Here(bytes) => bytes.len() as u64,
            Self::Stored(size) => *size,
        }
    }

    fn open(&self, store: &Store, digest: &Digest) -> Result<Box<dyn Read + 'a>, ExportError> {
        match *self {
            Self::Here(bytes) => Ok(Box::new(bytes)),
            Self::Stored(expected) => {
                let reader = store.blobs().open_expecting(digest, expected).map_err(|error| match error {
                    ContentError::Mismatch { actual_size: actual, .. } => {
                        ExportError::BlobSize { digest: *digest, actual, expected }
                    }
                    error => error.into(),
                })?;
                Ok(Box::new(reader))
            }
        }
    }
}

/// Every blob once, sorted by digest.
fn contents(artifact: &Artifact) -> BTreeMap<Digest, Content<'_>> {
    let layers = artifact.layers().map(|layer| (layer.digest, Content::Stored(layer.size)));
    let documents = artifact.documents().map(|(descriptor, bytes)| (descriptor.digest, Content::Here(bytes)));
    layers.chain(documents).collect()
}

/// The descriptor of the whole under each name: containerd finds an image by the full name, other tools by the tag.
fn descriptors(artifact: &Artifact, names: &[String]) -> Vec<Descriptor> {
    let unnamed = || {
        let mut descriptor = artifact.descriptor().clone();
        let created = ("org.opencontainers.image.created".to_owned(), artifact.created().to_owned());
        descriptor.annotations.extend([created]);
        descriptor
    };
    let named = |name: &String| {
        let mut descriptor = unnamed();
        descriptor.annotations.extend(name_annotations(name));
        descriptor
    };
    if names.is_empty() { vec![unnamed()] } else { names.iter().map(named).collect() }
}

/// What says the full name of an image in a layout.
pub(crate) fn name_annotations(name: &str) -> [(String, String); 2] {
    [("io.containerd.image.name", name), (REF_NAME, tag(name))]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
}

/// The tag of a full name, or the whole name when it has none.
fn tag(name: &str) -> &str {
    let without_digest = name.split_once('@').map_or(name, |(name, _)| name);
    let last = without_digest.rsplit_once('/').map_or(without_digest, |(_, last)| last);
    last.split_once(':').map_or(name, |(_, tag)| tag)
}

/// The index at `path` with `manifests` in it, in place of those with the same tag (of the same image where there is
/// none). What else it holds stays as it is.
fn merged_index(path: &Path, manifests: Vec<Descriptor>) -> Result<Vec<u8>, ExportError> {
    let new: Vec<Value> = manifests
        .iter()
        .map(|it| serde_json::to_value(it).expect("a descriptor has string keys only"))
        .collect();
    let mut index = match fs::File::open(path) {
        Ok(file) => read_index(path, file)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [] })
        }
        Err(error) => return Err(ExportError::io("open", path.display())(error)),
    };
    let identity = |manifest: &Value| match &manifest["annotations"][REF_NAME] {
        Value::Null => manifest["digest"].clone(),
        name => name.clone(),
    };
    let Some(entries) = index["manifests"].as_array_mut() else {
        let reason = "it has no list `manifests`".to_owned();
        return Err(ExportError::Index { path: path.to_owned(), reason });
    };
    entries.retain(|old| !new.iter().any(|new| identity(new) == identity(old)));
    entries.extend(new);
    Ok(serde_json::to_vec(&index).expect("an index has string keys only"))
}

fn read_index(path: &Path, file: fs::File) -> Result<Value, ExportError> {
    let invalid = |reason: String| ExportError::Index { path: path.to_owned(), reason };
    let mut bytes = Vec::new();
    file.take(INDEX_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(ExportError::io("read", path.display()))?;
    if bytes.len() as u64 > INDEX_BYTES_MAX {
        return Err(invalid(format!("it has more than {INDEX_BYTES_MAX} bytes")));
    }
    let index: Value = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    if index.is_object() { Ok(index) } else { Err(invalid("it is not an object".to_owned())) }
}
