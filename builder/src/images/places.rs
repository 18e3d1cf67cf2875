//! Where images are copied from and to.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::SystemTime;

use wharf_cache::diff::{LayerSource, check_layer};
use wharf_cache::state::Image;
use wharf_cache::{Digest, Store};

use super::ImagesError;
use crate::exporter::oci::{has_blob, write_blob, write_index};
use crate::exporter::output::create_directory;
use crate::exporter::{self, ExportError};
use crate::registry::manifest::{Descriptor, MANIFEST_BYTES_MAX};
use crate::registry::{FetchedManifest, OpenBlob, Reference, Registry};

/// A blob is copied in pieces of this size.
const BUFFER_BYTES: usize = 256 * 1024;

/// An image, or an index, that can be read.
pub(crate) trait Source: Sync {
    /// What messages call it.
    fn name(&self) -> String;

    /// What the name itself stands for, verified.
    fn root(&self) -> Result<FetchedManifest, ImagesError>;

    /// A manifest or index below it, verified.
    fn manifest(&self, digest: &Digest) -> Result<FetchedManifest, ImagesError>;

    /// A config or layer. Reading fails if it has not the digest and size of its descriptor.
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImagesError>;

    /// Whether nobody has looked yet at what the layers unpack to.
    fn is_foreign(&self) -> bool {
        false
    }

    /// What came is not what it should be: if it may have come from a mirror, no mirror is asked any more.
    fn distrust_mirrors(&self, _why: &ImagesError) -> bool {
        false
    }

    /// The repository it is in, if it is in a registry: another one of the same registry can take over blobs.
    fn repository(&self) -> Option<&Reference> {
        None
    }
}

/// A manifest, an index or a config that is being copied.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// Media type, digest and size.
    pub(crate) descriptor: Descriptor,
}

/// A blob that is being copied.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    /// `config` or `layer`.
    pub(crate) what: &'static str,
    /// Digest and size.
    pub(crate) descriptor: Descriptor,
    /// What a layer is said to unpack to, where that is to be looked at.
    pub(crate) check: Option<LayerSource>,
}

/// Where an image can be written. What is there already stays.
pub(crate) trait Target: Sync {
    /// Whether a blob is there.
    fn has(&self, blob: &Blob) -> Result<bool, ImagesError>;

    /// Writes a blob. It is not there, or not under its name, before all of it is.
    fn put(&self, blob: &Blob, open: &OpenBlob<'_>, source: &dyn Source) -> Result<(), ImagesError>;

    /// Writes a manifest or index. What it names is there.
    fn put_manifest(&self, document: &Document) -> Result<(), ImagesError>;

    /// Names what has been written: the last thing that happens.
    fn name_root(&self, root: &Document) -> Result<(), ImagesError>;
}

/// An image of the store.
#[derive(Debug)]
pub(crate) struct InStore<'a> {
    pub(crate) store: &'a Store,
    pub(crate) name: String,
    pub(crate) digest: Digest,
}

impl Source for InStore<'_> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn root(&self) -> Result<FetchedManifest, ImagesError> {
        self.manifest(&self.digest)
    }

    fn manifest(&self, digest: &Digest) -> Result<FetchedManifest, ImagesError> {
        if self.store.blobs().size(digest)?.is_none() {
            let object = self.name.clone();
            return Err(ImagesError::Missing { what: "manifest", digest: *digest, object });
        }
        let bytes = self.store.blobs().read(digest, MANIFEST_BYTES_MAX)?;
        Ok(FetchedManifest { bytes, media_type: String::new(), digest: *digest })
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImagesError> {
        let Descriptor { digest, size, .. } = descriptor;
        if self.store.blobs().size(digest)?.is_none() {
            let object = self.name.clone();
            return Err(ImagesError::Missing { what: "blob", digest: *digest, object });
        }
        Ok(Box::new(self.store.blobs().open_expecting(digest, *size)?))
    }
}

/// An image of a registry.
#[derive(Debug, Clone)]
pub(crate) struct InRegistry {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) reference: Reference,
}

impl Source for InRegistry {
    fn name(&self) -> String {
        self.reference.to_string()
    }

    fn root(&self) -> Result<FetchedManifest, ImagesError> {
        Ok(self.registry.manifest(&self.reference)?)
    }

    fn manifest(&self, digest: &Digest) -> Result<FetchedManifest, ImagesError> {
        Ok(self.registry.manifest(&self.reference.by_digest(*digest))?)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImagesError> {
        Ok(self.registry.blob(&self.reference, &descriptor.digest, descriptor.size)?)
    }

    fn distrust_mirrors(&self, why: &ImagesError) -> bool {
        self.registry.distrust_mirrors(&self.reference, why)
    }

    fn repository(&self) -> Option<&Reference> {
        Some(&self.reference)
    }
}

impl Target for InRegistry {
    fn has(&self, blob: &Blob) -> Result<bool, ImagesError> {
        Ok(self.registry.has_blob(&self.reference, &blob.descriptor.digest)?)
    }

    fn put(&self, blob: &Blob, open: &OpenBlob<'_>, source: &dyn Source) -> Result<(), ImagesError> {
        let Descriptor { digest, size, .. } = &blob.descriptor;
        let mount_from = source
            .repository()
            .filter(|other| other.registry() == self.reference.registry())
            .map(Reference::repository)
            .filter(|other| *other != self.reference.repository());
        Ok(self.registry.push_blob(&self.reference, digest, *size, open, mount_from)?)
    }

    fn put_manifest(&self, document: &Document) -> Result<(), ImagesError> {
        let Descriptor { digest, media_type, .. } = &document.descriptor;
        Ok(self.registry.push_manifest(&self.reference.by_digest(*digest), media_type, &document.bytes)?)
    }

    fn name_root(&self, root: &Document) -> Result<(), ImagesError> {
        let Descriptor { digest, media_type, .. } = &root.descriptor;
        if self.reference.digest().is_some_and(|pinned| pinned != *digest) {
            let message = format!("cannot put {digest} at {}, which is another digest", self.reference);
            return Err(ImagesError::Usage(message));
        }
        Ok(self.registry.push_manifest(&self.reference, media_type, &root.bytes)?)
    }
}

/// Names in the store; without one, an image there that has none.
#[derive(Debug)]
pub(crate) struct IntoStore<'a> {
    pub(crate) store: &'a Store,
    pub(crate) names: &'a [Reference],
}

impl Target for IntoStore<'_> {
    fn has(&self, blob: &Blob) -> Result<bool, ImagesError> {
        Ok(self.store.blobs().keep(&blob.descriptor.digest, blob.descriptor.size)?)
    }

    fn put(&self, blob: &Blob, open: &OpenBlob<'_>, source: &dyn Source) -> Result<(), ImagesError> {
        let Descriptor { digest, size, .. } = &blob.descriptor;
        let failed = |error| {
            let object = source.name();
            ImagesError::Blob { what: blob.what, digest: *digest, object, source: error }
        };
        let reader = open().map_err(|error| failed(error.into()))?;
        let mut writer = self.store.blobs().writer()?;
        match &blob.check {
            None => copy(reader, &mut writer).map_err(|error| failed(error.into()))?,
            Some(layer) => {
                let tee = Tee { reader, writer: &mut writer };
                check_layer(layer, tee).map_err(|error| failed(error.into()))?;
            }
        }
        Ok(writer.commit_expecting(digest, *size)?)
    }

    fn put_manifest(&self, document: &Document) -> Result<(), ImagesError> {
        self.store.blobs().put(&document.bytes)?;
        Ok(())
    }

    fn name_root(&self, root: &Document) -> Result<(), ImagesError> {
        let entry = |name: Option<String>| Image {
            name,
            digest: root.descriptor.digest,
            size: root.descriptor.size,
            media_type: root.descriptor.media_type.clone(),
            created: SystemTime::now(),
        };
        if self.names.is_empty() {
            self.store.put_image(&entry(None))?;
        }
        for name in self.names {
            self.store.put_image(&entry(Some(name.to_string())))?;
        }
        Ok(())
    }
}

/// A tag of a layout in a directory.
#[derive(Debug)]
pub(crate) struct IntoLayout {
    pub(crate) path: std::path::PathBuf,
    pub(crate) tag: Option<String>,
}

impl Target for IntoLayout {
    fn has(&self, blob: &Blob) -> Result<bool, ImagesError> {
        create_directory(&self.path.join("blobs/sha256"))?;
        Ok(has_blob(&self.path, &blob.descriptor.digest, blob.descriptor.size))
    }

    fn put(&self, blob: &Blob, open: &OpenBlob<'_>, source: &dyn Source) -> Result<(), ImagesError> {
        let digest = blob.descriptor.digest;
        let failed = |error| {
            let object = source.name();
            ImagesError::Blob { what: blob.what, digest, object, source: error }
        };
        let reader = open().map_err(|error| failed(error.into()))?;
        let mut reader = Noting { reader, failed: false };
        match write_blob(&self.path, &digest, &mut reader) {
            Err(ExportError::Io { source, .. }) if reader.failed => Err(failed(source.into())),
            written => Ok(written?),
        }
    }

    fn put_manifest(&self, document: &Document) -> Result<(), ImagesError> {
        create_directory(&self.path.join("blobs/sha256"))?;
        Ok(write_blob(&self.path, &document.descriptor.digest, &mut &*document.bytes)?)
    }

    fn name_root(&self, root: &Document) -> Result<(), ImagesError> {
        let mut descriptor = entry_of(&root.descriptor);
        let tag = self.tag.clone().map(|tag| (exporter::oci::REF_NAME.to_owned(), tag));
        descriptor.annotations = tag.into_iter().collect();
        Ok(write_index(&self.path, vec![descriptor])?)
    }
}

/// A descriptor to be written.
pub(crate) fn entry_of(descriptor: &Descriptor) -> exporter::Descriptor {
    exporter::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest,
        size: descriptor.size,
        annotations: descriptor.annotations.clone().unwrap_or_default(),
        platform: descriptor.platform.as_ref().map(|platform| exporter::image::Platform {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            variant: platform.variant.clone(),
        }),
    }
}

/// Reads, and knows afterwards whether it was this that failed, rather than writing.
struct Noting<R> {
    reader: R,
    failed: bool,
}

impl<R: Read> Read for Noting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer);
        self.failed |= read.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::Interrupted);
        read
    }
}

/// Reads, and writes the same.
struct Tee<'a, R, W> {
    reader: R,
    writer: &'a mut W,
}

impl<R: Read, W: Write> Read for Tee<'_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.writer.write_all(&buffer[..count])?;
        Ok(count)
    }
}

fn copy(mut reader: impl Read, writer: &mut impl Write) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => writer.write_all(&buffer[..count])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
