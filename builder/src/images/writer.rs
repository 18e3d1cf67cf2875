//! Archives of images: an OCI layout in a tar, with Docker's `manifest.json` beside it where Docker is to read it. Several
//! images share their blobs. Everything is written as it comes, so that nothing of it is kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use wharf_cache::Digest;
use wharf_solver::llb::Platform;

use super::ImagesError;
use super::places::{Blob, Document, Source, Target, entry_of};
use crate::exporter::archive::Archive;
use crate::exporter::docker::Item;
use crate::exporter::oci::{REF_NAME, begin_archive, blob_path, finish_archive, name_annotations};
use crate::exporter::{Descriptor, ExportError};
use crate::registry::OpenBlob;
use crate::registry::manifest::Manifest;
use crate::source::platform::choose;

/// A name that an image gets in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Label {
    /// A full name with tag.
    Name(String),
    /// A tag alone.
    Tag(String),
}

/// An archive that is being written.
pub(crate) struct ArchiveWriter<'a> {
    state: Mutex<State<'a>>,
    /// Which image of an index readers get that know nothing of platforms; none if there is to be no `manifest.json`.
    docker: Option<Platform>,
}

struct State<'a> {
    out: &'a mut (dyn Write + Send),
    written: HashSet<Digest>,
    manifests: HashMap<Digest, Manifest>,
    index: Vec<Descriptor>,
    items: Vec<Item>,
}

impl<'a> ArchiveWriter<'a> {
    /// Begins an archive.
    pub(crate) fn begin(
        out: &'a mut (dyn Write + Send),
        docker: Option<Platform>,
    ) -> Result<Self, ExportError> {
        begin_archive(out)?;
        let state = State {
            out,
            written: HashSet::new(),
            manifests: HashMap::new(),
            index: Vec::new(),
            items: Vec::new(),
        };
        Ok(Self { state: Mutex::new(state), docker })
    }

    /// What an image with these names is written to.
    pub(crate) fn target(&self, labels: Vec<Label>) -> IntoArchive<'_, 'a> {
        IntoArchive { writer: self, labels }
    }

    /// Ends the archive: its lists of images come last.
    pub(crate) fn finish(self) -> Result<(), ExportError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let docker = self.docker.is_some().then_some(state.items.as_slice());
        finish_archive(Archive::new(state.out), state.index, docker)
    }
}

/// Names in an archive.
pub(crate) struct IntoArchive<'w, 'a> {
    writer: &'w ArchiveWriter<'a>,
    labels: Vec<Label>,
}

impl<'a> IntoArchive<'_, 'a> {
    fn state(&self) -> std::sync::MutexGuard<'_, State<'a>> {
        self.writer.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target for IntoArchive<'_, '_> {
    fn has(&self, blob: &Blob) -> Result<bool, ImagesError> {
        Ok(self.state().written.contains(&blob.descriptor.digest))
    }

    fn put(&self, blob: &Blob, open: &OpenBlob<'_>, source: &dyn Source) -> Result<(), ImagesError> {
        let (digest, size) = (blob.descriptor.digest, blob.descriptor.size);
        // Only one can write at a time.
        let mut state = self.state();
        let mut reader = open().map_err(|error| {
            let object = source.name();
            ImagesError::Blob { what: blob.what, digest, object, source: error.into() }
        })?;
        Archive::new(state.out).file(&blob_path(&digest), 0o444, size, &mut *reader).map_err(|error| {
            match error {
                ExportError::Io { operation: "read", source: cause, .. } => {
                    let object = source.name();
                    ImagesError::Blob { what: blob.what, digest, object, source: cause.into() }
                }
                error => error.into(),
            }
        })?;
        state.written.insert(digest);
        Ok(())
    }

    fn put_manifest(&self, document: &Document) -> Result<(), ImagesError> {
        let mut state = self.state();
        let digest = document.descriptor.digest;
        if state.written.insert(digest) {
            let size = document.bytes.len() as u64;
            Archive::new(state.out).file(&blob_path(&digest), 0o444, size, &mut &*document.bytes)?;
        }
        if let Ok(manifest) = Manifest::parse(&document.bytes, &document.descriptor.media_type) {
            state.manifests.insert(digest, manifest);
        }
        Ok(())
    }

    fn name_root(&self, root: &Document) -> Result<(), ImagesError> {
        let mut state = self.state();
        let unnamed = Descriptor { annotations: BTreeMap::new(), ..entry_of(&root.descriptor) };
        let labelled = |label: &Label| {
            let annotations = match label {
                Label::Tag(tag) => BTreeMap::from([(REF_NAME.to_owned(), tag.clone())]),
                Label::Name(name) => BTreeMap::from(name_annotations(name)),
            };
            Descriptor { annotations, ..unnamed.clone() }
        };
        let entries: Vec<Descriptor> = match self.labels.as_slice() {
            [] => vec![unnamed.clone()],
            labels => labels.iter().map(labelled).collect(),
        };
        state.index.extend(entries);
        if let Some(platform) = &self.writer.docker
            && let Some((config, layers)) = image_of(&state.manifests, root.descriptor.digest, platform)
        {
            let names = self.labels.iter().filter_map(|label| match label {
                Label::Name(name) => Some(name.as_str()),
                Label::Tag(_) => None,
            });
            let item = Item::new(&config, layers.iter(), names);
            state.items.push(item);
        }
        Ok(())
    }
}

/// Config and layers of the image that suits `platform`, else of the first there is.
fn image_of(
    manifests: &HashMap<Digest, Manifest>,
    root: Digest,
    platform: &Platform,
) -> Option<(Digest, Vec<Digest>)> {
    match manifests.get(&root)? {
        Manifest::Image { config, layers } => {
            Some((config.digest, layers.iter().map(|layer| layer.digest).collect()))
        }
        Manifest::Index(entries) => {
            let first = || entries.iter().find(|entry| !entry.is_attestation());
            image_of(manifests, choose(entries, platform).or_else(first)?.digest, platform)
        }
    }
}
