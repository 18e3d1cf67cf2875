//! Images as sources: names resolved to digests, layers brought into the store.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use wharf_cache::diff::{BLOB_ANNOTATIONS, LayerSource, apply_layers};
use wharf_cache::snapshot::Layer;
use wharf_cache::state::Pin;
use wharf_cache::{Chain, ChainId, ContentDigest, DiffId, Digest, Store};
use wharf_runtime::Cancel;
use wharf_solver::llb::Platform;

use super::SourceError;
use super::layout::LayoutReference;
use super::platform::{available, choose, normalize};
use crate::error::{chain, is_lost};
use crate::registry::manifest::{CONFIG_BYTES_MAX, Descriptor, MANIFEST_BYTES_MAX, Manifest, ManifestError};
use crate::registry::transfer::{Meter, each_at_once};
use crate::registry::{FetchedManifest, Progress, Reference, Registry, RegistryError};

/// Indexes within indexes that are followed.
const INDEX_DEPTH_MAX: usize = 3;
/// A layer is copied in pieces of this size.
const COPY_BUFFER_BYTES: usize = 128 * 1024;

/// Media types of image configs. The last is what old versions of Docker pushed.
const CONFIGS: [&str; 3] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
];

/// Images of registries and of OCI layouts, brought into one store.
#[derive(Debug, Clone)]
pub struct ImageSources {
    store: Store,
    registry: Arc<dyn Registry>,
    cancel: Option<Cancel>,
}

/// What a name stands for on one platform. Manifest and config are in the store, the layers need not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// `docker-image://docker.io/library/busybox:latest@sha256:…` or `oci-layout://PATH@sha256:…`. The digest is the
    /// platform's manifest, not the index above it: equal images have equal identifiers.
    pub identifier: String,
    /// The digests.
    pub pin: Pin,
    /// The image config, as it is.
    pub config: Vec<u8>,
    /// What the config says it runs on, which for an image without an index need not be what was asked for.
    pub platform: Platform,
}

/// What this module reads of an image config.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    #[serde(default, rename = "os.version")]
    os_version: String,
    #[serde(default)]
    rootfs: RootFs,
}

#[derive(Deserialize, Default)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

impl ImageSources {
    /// Sources that keep what they fetch in `store`.
    pub fn new(store: Store, registry: Arc<dyn Registry>) -> Self {
        Self { store, registry, cancel: None }
    }

    /// The same; transfers end with an error soon after `cancel` is triggered.
    #[must_use]
    pub fn cancelled_by(self, cancel: Cancel) -> Self {
        Self { cancel: Some(cancel), ..self }
    }

    /// Finds out what `name` stands for on `platform`: an image reference (`busybox`, with or without
    /// `docker-image://`) or `oci-layout://PATH[:TAG][@DIGEST]`. A reference that was resolved before and whose
    /// manifest and config are still here is not asked for again unless `pull`; one pinned to a digest never is. An image
    /// of that name that was built here comes before either.
    pub fn resolve(&self, name: &str, platform: &Platform, pull: bool) -> Result<ResolvedImage, SourceError> {
        let origin = Origin::parse(name)?;
        let platform = normalize(platform);
        if let Origin::Registry(reference) = &origin
            && (!pull || reference.digest().is_some())
        {
            match in_store(&self.store, &origin, reference, &platform) {
                Ok(Some(image)) => return Ok(image),
                Ok(None) => {}
                // What the store has lost may still be where it came from.
                Err(error) if is_lost(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let (pin, config_bytes) = self.with_and_without_mirrors(&origin, || {
            let root = self.root(&origin)?;
            let target = root.digest;
            let (manifest, config) = self.descend(&origin, root, &platform)?;
            let config_bytes = self.fetch_config(&origin, &config)?;
            Ok((Pin { target, manifest, config: config.digest }, config_bytes))
        })?;
        let image = resolved(&origin, pin.clone(), config_bytes)?;
        // Layers and the config's diffIDs must fit together before anything is built on them.
        self.layers(&image.identifier)?;
        if let Origin::Registry(reference) = &origin {
            self.store.set_pin(&reference.to_string(), &platform.to_string(), &pin)?;
        }
        Ok(image)
    }

    /// The layers of a resolved image, lowest first. Needs no network.
    pub fn layers(&self, identifier: &str) -> Result<Vec<LayerSource>, SourceError> {
        let source = |Layer { diff_id, digest, size, media_type, .. }| LayerSource {
            digest,
            size,
            media_type,
            diff_id,
        };
        Ok(self.described_layers(identifier)?.into_iter().map(source).collect())
    }

    /// The same as the image has them: with the annotations that belong to their bytes.
    pub fn described_layers(&self, identifier: &str) -> Result<Vec<Layer>, SourceError> {
        let (_, digest) = Origin::parse_pinned(identifier)?;
        let manifest = self.store.blobs().read(&digest, MANIFEST_BYTES_MAX)?;
        let unusable = |source| SourceError::Manifest { object: identifier.to_owned(), source };
        let (config, layers) = match Manifest::parse(&manifest, "").map_err(unusable)? {
            Manifest::Image { config, layers } => (config, layers),
            Manifest::Index(_) => return Err(SourceError::NotPinned { identifier: identifier.to_owned() }),
        };
        let config = parse_config(identifier, &self.store.blobs().read(&config.digest, CONFIG_BYTES_MAX)?)?;
        let diff_ids = config.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() != layers.len() {
            let (layers, diff_ids) = (layers.len(), diff_ids.len());
            return Err(unusable(ManifestError::LayerCount { layers, diff_ids }));
        }
        let described = |(layer, diff_id): (Descriptor, Digest)| {
            layer.check_layer()?;
            let Descriptor { digest, size, media_type, annotations, .. } = layer;
            let mut annotations = annotations.unwrap_or_default();
            annotations.retain(|key, _| BLOB_ANNOTATIONS.contains(&key.as_str()));
            Ok(Layer { diff_id: DiffId(diff_id), digest, size, media_type, annotations })
        };
        layers.into_iter().zip(diff_ids).map(described).collect::<Result<_, _>>().map_err(unusable)
    }

    /// Brings a resolved image's files into the store: layers that are not here are downloaded and unpacked, several
    /// at once.
    pub fn pull(&self, identifier: &str, progress: Progress<'_>) -> Result<Chain, SourceError> {
        let (origin, _) = Origin::parse_pinned(identifier)?;
        let layers = self.layers(identifier)?;
        self.with_and_without_mirrors(&origin, || self.apply(identifier, &origin, &layers, progress))
    }

    fn apply(
        &self,
        identifier: &str,
        origin: &Origin,
        layers: &[LayerSource],
        progress: Progress<'_>,
    ) -> Result<Chain, SourceError> {
        let applied = Meter::run(progress, |meter| {
            let open = |index: usize| -> io::Result<Box<dyn Read + Send>> {
                let LayerSource { digest, size, .. } = &layers[index];
                let reader = self.blob(origin, digest, *size).map_err(io::Error::other)?;
                Ok(Box::new(meter.wrap(reader, *digest, *size).ending()))
            };
            apply_layers(&self.store, layers, SystemTime::now(), &open)
        });
        applied
            .map_err(|source| SourceError::Unpack { object: identifier.to_owned(), source: Box::new(source) })
    }

    /// Whether the files of a resolved image are in the store: [`Self::pull`] would have nothing to do.
    pub fn is_here(&self, identifier: &str) -> Result<bool, SourceError> {
        let layers = self.layers(identifier)?;
        let chain_id = layers.iter().fold(None, |below, layer| Some(ChainId::extend(below, layer.diff_id)));
        Ok(match chain_id {
            Some(chain_id) => self.store.snapshot_by_chain_id(&chain_id)?.is_some(),
            None => true,
        })
    }

    /// Brings a resolved image's layer blobs into the store without unpacking them: all that an export needs of a base
    /// whose files no step has read.
    pub fn ensure_blobs(&self, identifier: &str, progress: Progress<'_>) -> Result<(), SourceError> {
        let (origin, _) = Origin::parse_pinned(identifier)?;
        self.with_and_without_mirrors(&origin, || self.bring_blobs(identifier, &origin, progress))
    }

    fn bring_blobs(
        &self,
        identifier: &str,
        origin: &Origin,
        progress: Progress<'_>,
    ) -> Result<(), SourceError> {
        let mut missing: Vec<LayerSource> = Vec::new();
        for layer in self.layers(identifier)? {
            let known = missing.iter().any(|other| other.digest == layer.digest);
            if !known && self.store.blobs().size(&layer.digest)? != Some(layer.size) {
                missing.push(layer);
            }
        }
        Meter::run(progress, |meter| {
            each_at_once(&missing, |LayerSource { digest, size, .. }| {
                let reader = self.blob(origin, digest, *size)?;
                let mut reader = meter.wrap(reader, *digest, *size).ending();
                let mut writer = self.store.blobs().writer()?;
                copy(&mut reader, &mut writer).map_err(|source| SourceError::Download {
                    object: identifier.to_owned(),
                    digest: *digest,
                    source,
                })?;
                Ok(writer.commit_expecting(digest, *size)?)
            })
        })
    }

    /// The image config of a resolved image, or of an image of the store. Needs no network.
    pub fn config(&self, identifier: &str) -> Result<Vec<u8>, SourceError> {
        let (_, digest) = Origin::parse_pinned(identifier)?;
        let manifest = self.store.blobs().read(&digest, MANIFEST_BYTES_MAX)?;
        let unusable = |source| SourceError::Manifest { object: identifier.to_owned(), source };
        match Manifest::parse(&manifest, "").map_err(unusable)? {
            Manifest::Image { config, .. } => {
                Ok(self.store.blobs().read(&config.digest, CONFIG_BYTES_MAX)?)
            }
            Manifest::Index(_) => Err(SourceError::NotPinned { identifier: identifier.to_owned() }),
        }
    }

    /// Stands for a resolved image's file system in keys: equal for images with the same layers. Needs no network.
    pub fn content(&self, identifier: &str) -> Result<ContentDigest, SourceError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"wharf image 1\0");
        for layer in self.layers(identifier)? {
            hasher.update(layer.diff_id.0.as_bytes());
        }
        Ok(hasher.finalize().into())
    }

    /// Does `work`; again without mirrors, if what came was wrong and may have come from one.
    fn with_and_without_mirrors<T>(
        &self,
        origin: &Origin,
        work: impl Fn() -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let is_stopped = || self.cancel.as_ref().is_some_and(Cancel::is_cancelled);
        match (work(), origin) {
            // An error of a registry's is one of all places.
            (Err(error), Origin::Registry(name))
                if !is_stopped()
                    && chain(&error).all(|error| !error.is::<RegistryError>())
                    && self.registry.distrust_mirrors(name, &error) =>
            {
                work()
            }
            (outcome, _) => outcome,
        }
    }

    /// What the name itself names: a manifest or an index.
    fn root(&self, origin: &Origin) -> Result<FetchedManifest, SourceError> {
        match origin {
            Origin::Registry(reference) => Ok(self.registry.manifest(reference)?),
            Origin::Layout(layout) => layout.root(),
        }
    }

    /// From an index down to the manifest for `platform`; all that is passed goes into the store. Gives the manifest's
    /// digest and its config.
    fn descend(
        &self,
        origin: &Origin,
        root: FetchedManifest,
        platform: &Platform,
    ) -> Result<(Digest, Descriptor), SourceError> {
        let mut current = root;
        for _ in 0..=INDEX_DEPTH_MAX {
            let parsed = Manifest::parse(&current.bytes, &current.media_type);
            let parsed = parsed.map_err(|source| SourceError::Manifest { object: origin.name(), source })?;
            self.store.blobs().put(&current.bytes)?;
            let entries = match parsed {
                Manifest::Image { config, .. } => return Ok((current.digest, config)),
                Manifest::Index(entries) => entries,
            };
            let entry = choose(&entries, platform).ok_or_else(|| SourceError::NoPlatform {
                object: origin.name(),
                wanted: platform.to_string(),
                available: available(&entries),
            })?;
            current = match origin {
                Origin::Registry(reference) => self.registry.manifest(&reference.by_digest(entry.digest))?,
                Origin::Layout(layout) => layout.manifest(&entry.digest)?,
            };
            let actual = current.bytes.len() as u64;
            if actual != entry.size {
                let object = format!("manifest {} of {}", entry.digest, origin.name());
                return Err(SourceError::Size { object, expected: entry.size, actual });
            }
        }
        let source = ManifestError::NotAnImage { media_type: "an index within indexes".to_owned() };
        Err(SourceError::Manifest { object: origin.name(), source })
    }

    /// The config, from the store or else from where the image is.
    fn fetch_config(&self, origin: &Origin, config: &Descriptor) -> Result<Vec<u8>, SourceError> {
        if !config.media_type.is_empty() && !CONFIGS.contains(&&*config.media_type) {
            let media_type = config.media_type.chars().take(200).collect();
            let source = ManifestError::NotAnImage { media_type };
            return Err(SourceError::Manifest { object: origin.name(), source });
        }
        match self.store.blobs().read(&config.digest, CONFIG_BYTES_MAX) {
            Ok(bytes) => return Ok(bytes),
            Err(error) if is_lost(&error) => {}
            Err(error) => return Err(error.into()),
        }
        if config.size > CONFIG_BYTES_MAX {
            let (registry, object) = (origin.name(), format!("config {}", config.digest));
            return Err(RegistryError::TooLarge { registry, object, max: CONFIG_BYTES_MAX }.into());
        }
        let mut bytes = Vec::new();
        self.blob(origin, &config.digest, config.size)?.read_to_end(&mut bytes).map_err(|source| {
            SourceError::Download { object: origin.name(), digest: config.digest, source }
        })?;
        self.store.blobs().put(&bytes)?;
        Ok(bytes)
    }

    /// The bytes of a blob, verified while they are read.
    fn blob(&self, origin: &Origin, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, SourceError> {
        let reader = match origin {
            Origin::Registry(reference) => self.registry.blob(reference, digest, size)?,
            Origin::Layout(layout) => layout.blob(digest, size)?,
        };
        Ok(match &self.cancel {
            None => reader,
            Some(cancel) => Box::new(Cancellable::new(reader, cancel.clone())),
        })
    }
}

/// A transfer that somebody may stop.
pub(crate) struct Cancellable {
    reader: Box<dyn Read + Send>,
    cancel: Cancel,
}

impl Cancellable {
    /// `reader`, until `cancel` is triggered.
    pub(crate) fn new(reader: Box<dyn Read + Send>, cancel: Cancel) -> Self {
        Self { reader, cancel }
    }
}

impl Read for Cancellable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("the transfer was stopped"));
        }
        self.reader.read(buffer)
    }
}

/// Where an image is.
#[derive(Debug)]
enum Origin {
    Registry(Reference),
    Layout(LayoutReference),
}

impl Origin {
    fn parse(name: &str) -> Result<Self, SourceError> {
        match name.strip_prefix("oci-layout://") {
            Some(layout) => Ok(Self::Layout(LayoutReference::parse(layout)?)),
            None => Ok(Self::Registry(name.strip_prefix("docker-image://").unwrap_or(name).parse()?)),
        }
    }

    /// An identifier that `resolve` gave, and its digest.
    fn parse_pinned(identifier: &str) -> Result<(Self, Digest), SourceError> {
        let origin = Self::parse(identifier)?;
        let digest = match &origin {
            Self::Registry(reference) => reference.digest(),
            Self::Layout(layout) => layout.digest,
        };
        let digest = digest.ok_or_else(|| SourceError::NotPinned { identifier: identifier.to_owned() })?;
        Ok((origin, digest))
    }

    fn identifier(&self, manifest: &Digest) -> String {
        match self {
            Self::Registry(reference) => format!("docker-image://{}", reference.with_digest(*manifest)),
            Self::Layout(layout) => layout.identifier(manifest),
        }
    }

    /// For messages.
    fn name(&self) -> String {
        match self {
            Self::Registry(reference) => reference.to_string(),
            Self::Layout(layout) => layout.to_string(),
        }
    }
}

/// What is known of an image without asking a registry: from the store, if there is one, or from a layout on disk.
/// Nothing is written.
pub fn known<'s>(
    store: impl FnOnce() -> Option<&'s Store>,
    name: &str,
    platform: &Platform,
) -> Result<Option<ResolvedImage>, SourceError> {
    let origin = Origin::parse(name)?;
    let platform = normalize(platform);
    match &origin {
        Origin::Registry(reference) => match store() {
            Some(store) => in_store(store, &origin, reference, &platform),
            None => Ok(None),
        },
        Origin::Layout(layout) => in_layout(layout, &origin, &platform),
    }
}

fn in_layout(
    layout: &LayoutReference,
    origin: &Origin,
    platform: &Platform,
) -> Result<Option<ResolvedImage>, SourceError> {
    let root = layout.root()?;
    let target = root.digest;
    let mut current = root;
    for _ in 0..=INDEX_DEPTH_MAX {
        let parsed = Manifest::parse(&current.bytes, &current.media_type);
        match parsed.map_err(|source| SourceError::Manifest { object: origin.name(), source })? {
            Manifest::Image { config, .. } if config.size > CONFIG_BYTES_MAX => return Ok(None),
            Manifest::Image { config, .. } => {
                let mut bytes = Vec::new();
                layout.blob(&config.digest, config.size)?.read_to_end(&mut bytes).map_err(|source| {
                    SourceError::Download { object: origin.name(), digest: config.digest, source }
                })?;
                let pin = Pin { target, manifest: current.digest, config: config.digest };
                return resolved(origin, pin, bytes).map(Some);
            }
            Manifest::Index(entries) => match choose(&entries, platform) {
                Some(entry) => current = layout.manifest(&entry.digest)?,
                None => return Ok(None),
            },
        }
    }
    Ok(None)
}

/// What the store has under that name: an image that was built here comes before one that was pulled.
fn in_store(
    store: &Store,
    origin: &Origin,
    reference: &Reference,
    platform: &Platform,
) -> Result<Option<ResolvedImage>, SourceError> {
    match built_here(store, origin, reference, platform)? {
        Some(image) => Ok(Some(image)),
        None => pinned(store, origin, reference, platform),
    }
}

/// An image of the store with that name: what was built here is a base without any registry.
fn built_here(
    store: &Store,
    origin: &Origin,
    reference: &Reference,
    platform: &Platform,
) -> Result<Option<ResolvedImage>, SourceError> {
    let name = reference.to_string();
    let images = store.images()?;
    let Some(image) = images.iter().find(|image| image.name.as_deref() == Some(&*name)) else {
        return Ok(None);
    };
    if !store.lease_image(image)? {
        return Ok(None);
    }
    let Some((manifest, config)) = manifest_in_store(store, image.digest, platform)? else { return Ok(None) };
    let pin = Pin { target: image.digest, manifest, config: config.digest };
    let config = store.blobs().read(&config.digest, CONFIG_BYTES_MAX)?;
    let found = resolved(origin, pin, config)?;
    // An index says itself what suits the platform; an image alone may be for any.
    Ok((manifest != image.digest || found.platform == *platform).then_some(found))
}

/// The manifest for `platform` of what has this digest in the store, an image or an index, and its config. None if the
/// index has none, or the store has not all of it.
pub fn manifest_in_store(
    store: &Store,
    digest: Digest,
    platform: &Platform,
) -> Result<Option<(Digest, Descriptor)>, SourceError> {
    let mut current = digest;
    for _ in 0..=INDEX_DEPTH_MAX {
        if store.blobs().size(&current)?.is_none() {
            return Ok(None);
        }
        let bytes = store.blobs().read(&current, MANIFEST_BYTES_MAX)?;
        match Manifest::parse(&bytes, "") {
            Ok(Manifest::Image { config, .. }) => return Ok(Some((current, config))),
            Ok(Manifest::Index(entries)) => match choose(&entries, platform) {
                Some(entry) => current = entry.digest,
                None => return Ok(None),
            },
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

/// What the store knows of a reference, if that is enough to go on without the registry.
fn pinned(
    store: &Store,
    origin: &Origin,
    reference: &Reference,
    platform: &Platform,
) -> Result<Option<ResolvedImage>, SourceError> {
    let Some(pin) = store.pin(&reference.to_string(), &platform.to_string())? else {
        return Ok(None);
    };
    let blobs = store.blobs();
    if blobs.size(&pin.manifest)?.is_none() || blobs.size(&pin.config)?.is_none() {
        return Ok(None);
    }
    let config = blobs.read(&pin.config, CONFIG_BYTES_MAX)?;
    resolved(origin, pin, config).map(Some)
}

fn resolved(origin: &Origin, pin: Pin, config: Vec<u8>) -> Result<ResolvedImage, SourceError> {
    let Config { os, architecture, variant, os_version, .. } = parse_config(&origin.name(), &config)?;
    let platform = normalize(&Platform { os, architecture, variant, os_version });
    Ok(ResolvedImage { identifier: origin.identifier(&pin.manifest), pin, config, platform })
}

fn parse_config(object: &str, bytes: &[u8]) -> Result<Config, SourceError> {
    let invalid = |source| SourceError::Config { object: object.to_owned(), source };
    // A list would do for the reader, as the fields in their order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(invalid(serde::de::Error::custom("it is no object")));
    }
    serde_json::from_slice(bytes).map_err(invalid)
}

fn copy(reader: &mut dyn Read, writer: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => writer.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
