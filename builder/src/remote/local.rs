//! A cache in a directory: an OCI layout, in which other things may be too.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use wharf_cache::Digest;

use super::manifest::{CacheConfig, Documents};
use super::{Backend, BackendError};
use crate::exporter::oci::{REF_NAME, blob_path, has_blob, write_blob, write_index};
use crate::exporter::output::create_directory;
use crate::exporter::{Descriptor, ExportError};
use crate::registry::OpenBlob;
use crate::registry::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::source::SourceError;
use crate::source::layout::{LayoutReference, read_limited};

/// Indexes within indexes that are followed when blobs are deleted.
const INDEX_DEPTH_MAX: usize = 4;

/// The cache that an entry of a layout names.
#[derive(Debug)]
pub struct LocalBackend {
    path: PathBuf,
    tag: String,
    layout: LayoutReference,
    /// Whether blobs that nothing names are deleted when a cache is written.
    reset: bool,
}

impl LocalBackend {
    /// The cache with this tag, or this digest, of the layout at `path`.
    pub fn new(path: PathBuf, tag: String, digest: Option<Digest>, reset: bool) -> Self {
        let layout = LayoutReference::new(path.clone(), tag.clone(), digest);
        Self { path, tag, layout, reset }
    }

    fn write(&self, documents: &Documents) -> Result<(), ExportError> {
        create_directory(&self.path.join("blobs/sha256"))?;
        let (config, manifest) = (documents.config_descriptor(), documents.descriptor());
        for (descriptor, bytes) in [(&config, &documents.config), (&manifest, &documents.manifest)] {
            if !has_blob(&self.path, &descriptor.digest, descriptor.size) {
                write_blob(&self.path, &descriptor.digest, &mut &bytes[..])?;
            }
        }
        let named = Descriptor { annotations: [(REF_NAME.to_owned(), self.tag.clone())].into(), ..manifest };
        write_index(&self.path, vec![named])
    }

    /// Deletes the blobs that no entry of the index reaches; none if it cannot be told which these are.
    fn delete_unnamed(&self) -> Result<(), SourceError> {
        let entry = |digest| LayoutReference::new(self.path.clone(), String::new(), Some(digest));
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| SourceError::Layout { operation, path, source }
        };
        let index = self.path.join("index.json");
        let bytes = read_limited(&index, MANIFEST_BYTES_MAX).map_err(failed("read", &index))?;
        let mut named = HashSet::new();
        let mut unread = vec![(bytes, 0)];
        while let Some((bytes, depth)) = unread.pop() {
            let manifest = Manifest::parse(&bytes, "");
            let object = self.path.display().to_string();
            match manifest.map_err(|source| SourceError::Manifest { object, source })? {
                Manifest::Image { config, layers } => {
                    named.insert(config.digest);
                    named.extend(layers.into_iter().map(|layer| layer.digest));
                }
                Manifest::Index(entries) if depth < INDEX_DEPTH_MAX => {
                    for digest in entries.into_iter().map(|entry| entry.digest) {
                        if named.insert(digest) {
                            unread.push((entry(digest).manifest(&digest)?.bytes, depth + 1));
                        }
                    }
                }
                Manifest::Index(_) => return Ok(()),
            }
        }
        let blobs = self.path.join("blobs/sha256");
        for file in fs::read_dir(&blobs).map_err(failed("list", &blobs))? {
            let file = file.map_err(failed("list", &blobs))?;
            let digest = format!("sha256:{}", file.file_name().to_string_lossy()).parse::<Digest>();
            if digest.is_ok_and(|digest| !named.contains(&digest)) {
                fs::remove_file(file.path()).map_err(failed("delete", &file.path()))?;
            }
        }
        Ok(())
    }
}

impl Backend for LocalBackend {
    fn name(&self) -> String {
        format!("directory {}:{}", self.path.display(), self.tag)
    }

    fn manifest(&self) -> Result<Option<Vec<u8>>, BackendError> {
        match self.layout.root() {
            Ok(fetched) => Ok(Some(fetched.bytes)),
            Err(SourceError::LayoutTag { .. }) => Ok(None),
            Err(SourceError::Layout { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BackendError::of("read the cache of", self.name())(error)),
        }
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, BackendError> {
        let blob = self.layout.blob(digest, size);
        blob.map_err(BackendError::of("read", format!("blob {digest} of {}", self.name())))
    }

    fn has(&self, digest: &Digest, size: u64) -> Result<bool, BackendError> {
        Ok(has_blob(&self.path, digest, size))
    }

    fn put(&self, digest: &Digest, _size: u64, open: &OpenBlob<'_>) -> Result<(), BackendError> {
        let write = || -> Result<(), ExportError> {
            create_directory(&self.path.join("blobs/sha256"))?;
            let failed = ExportError::io("read", digest);
            write_blob(&self.path, digest, &mut *open().map_err(failed)?)
        };
        write().map_err(BackendError::of("write", format!("blob {digest} of {}", self.name())))
    }

    fn commit(&self, documents: &Documents) -> Result<(), BackendError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            BackendError::of("write the cache of", self.name())(source)
        };
        let cache = CacheConfig::parse(&documents.config).map_err(|error| failed(error.into()))?;
        for blob in cache.config.blobs() {
            if !has_blob(&self.path, &blob.digest, blob.size) {
                return Err(failed(format!("`{}` is not there", blob_path(&blob.digest)).into()));
            }
        }
        self.write(documents).map_err(|error| failed(error.into()))?;
        if self.reset {
            let deleted = self.delete_unnamed();
            deleted.map_err(BackendError::of("delete what is not needed any more of", self.name()))?;
        }
        Ok(())
    }
}
