//! Copies an image from a source to a target: documents are read first, then blobs are brought, several at once, then
//! manifests are written from the innermost to the outermost, and in the end the image is named.

use std::collections::HashSet;
use std::io::{self, Read};

use wharf_cache::DiffId;
use wharf_cache::diff::LayerSource;
use wharf_frontend::image::ImageConfig;
use wharf_runtime::Cancel;
use wharf_solver::llb::Platform;

use super::places::{Blob, Document, Source, Target};
use super::{INDEX_DEPTH_MAX, INDEX_ENTRIES_MAX, ImagesError};
use crate::error::{Kind, chain};
use crate::registry::manifest::{CONFIG_BYTES_MAX, Descriptor, Manifest, ManifestError, media_type_of};
use crate::registry::transfer::{Meter, Progress, each_at_once};
use crate::registry::{FetchedManifest, OpenBlob, RegistryError};
use crate::source::Cancellable;
use crate::source::platform::{available, choose, normalize, suits};

/// All manifests and indexes of one image, together.
const DOCUMENTS_BYTES_MAX: usize = 64 << 20;

/// Blobs of one image with all its platforms.
const BLOBS_MAX: usize = 20_000;

/// Which images of an index are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// All of them, and the index.
    All,
    /// The one for this machine's platform, by itself. An image that is in no index is taken as it is.
    Usual(Platform),
    /// The one for this platform, which somebody has asked for, by itself.
    Only(Platform),
}

/// One image on its way.
pub(crate) struct Transfer<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) target: &'a dyn Target,
    pub(crate) choice: &'a Choice,
    pub(crate) cancel: &'a Cancel,
    pub(crate) progress: Progress<'a>,
    /// Whether it has to be an image that can be unpacked, rather than anything that registries hold.
    pub(crate) strict: bool,
}

/// What is to be copied, inputs first.
#[derive(Default)]
struct Plan {
    documents: Vec<Document>,
    blobs: Vec<Blob>,
    seen: HashSet<wharf_cache::Digest>,
    bytes: usize,
}

impl Transfer<'_> {
    /// Copies it; the manifest or index that has been named.
    pub(crate) fn run(&self) -> Result<Document, ImagesError> {
        let plan = match self.planned() {
            Err(error) if self.may_be_a_mirrors(&error) => self.planned(),
            outcome => outcome,
        }?;
        let root = plan.documents.last().cloned().expect("the root was planned");
        Meter::run(self.progress, |meter| {
            each_at_once(&plan.blobs, |blob| {
                if self.cancel.is_cancelled() {
                    return Err(ImagesError::Interrupted);
                }
                if !self.target.has(blob)? {
                    self.bring(blob, &meter)?;
                }
                meter.done(blob.descriptor.digest, blob.descriptor.size);
                Ok(())
            })
        })
        .map_err(|error| if self.cancel.is_cancelled() { ImagesError::Interrupted } else { error })?;
        plan.documents.iter().try_for_each(|document| self.target.put_manifest(document))?;
        self.target.name_root(&root)?;
        Ok(root)
    }

    fn planned(&self) -> Result<Plan, ImagesError> {
        let root = self.chosen(self.source.root()?)?;
        let mut plan = Plan::default();
        self.plan(&mut plan, root, 0, false)?;
        Ok(plan)
    }

    /// From an index down to the image that is meant.
    fn chosen(&self, root: FetchedManifest) -> Result<FetchedManifest, ImagesError> {
        let (Choice::Usual(platform) | Choice::Only(platform)) = self.choice else { return Ok(root) };
        let mut current = root;
        for depth in 0..=INDEX_DEPTH_MAX {
            let entries = match self.parse(&current)? {
                Manifest::Index(entries) => entries,
                Manifest::Image { config, .. } => {
                    // What an index says of it is believed.
                    if depth == 0 && matches!(self.choice, Choice::Only(_)) {
                        self.require(platform, &config)?;
                    }
                    return Ok(current);
                }
            };
            let entry = choose(&entries, platform).ok_or_else(|| ImagesError::NoPlatform {
                object: self.source.name(),
                wanted: platform.to_string(),
                available: match available(&entries).as_slice() {
                    [] => "none that says what it is for".to_owned(),
                    names => names.join(", "),
                },
            })?;
            current = self.entry(entry)?;
        }
        Err(self.too_deep())
    }

    /// Refuses an image whose `config` says that it is for another platform.
    fn require(&self, platform: &Platform, config: &Descriptor) -> Result<(), ImagesError> {
        let config = self.config(config)?;
        let own = normalize(&Platform {
            os: config.os,
            architecture: config.architecture,
            variant: config.variant,
            os_version: config.os_version,
        });
        match suits(&own, platform) {
            true => Ok(()),
            false => Err(ImagesError::NoPlatform {
                object: self.source.name(),
                wanted: platform.to_string(),
                available: own.to_string(),
            }),
        }
    }

    fn plan(
        &self,
        plan: &mut Plan,
        fetched: FetchedManifest,
        depth: usize,
        is_attestation: bool,
    ) -> Result<(), ImagesError> {
        if depth > INDEX_DEPTH_MAX {
            return Err(self.too_deep());
        }
        if self.cancel.is_cancelled() {
            return Err(ImagesError::Interrupted);
        }
        if !plan.seen.insert(fetched.digest) {
            return Ok(());
        }
        plan.bytes += fetched.bytes.len();
        if plan.bytes > DOCUMENTS_BYTES_MAX {
            let object = self.source.name();
            return Err(ImagesError::TooMany {
                object,
                what: "bytes of manifests",
                max: DOCUMENTS_BYTES_MAX,
            });
        }
        let parsed = self.parse(&fetched)?;
        match &parsed {
            Manifest::Index(entries) => {
                if entries.len() > INDEX_ENTRIES_MAX {
                    let object = self.source.name();
                    return Err(ImagesError::TooMany { object, what: "entries", max: INDEX_ENTRIES_MAX });
                }
                for entry in entries {
                    self.plan(plan, self.entry(entry)?, depth + 1, entry.is_attestation())?;
                }
            }
            Manifest::Image { config, layers } => {
                self.plan_image(plan, config, layers, self.strict && !is_attestation)?;
            }
        }
        let descriptor = Descriptor {
            media_type: media_type_of(&fetched.bytes, &parsed),
            digest: fetched.digest,
            size: fetched.bytes.len() as u64,
            platform: None,
            annotations: None,
        };
        plan.documents.push(Document { bytes: fetched.bytes, descriptor });
        Ok(())
    }

    fn plan_image(
        &self,
        plan: &mut Plan,
        config: &Descriptor,
        layers: &[Descriptor],
        strict: bool,
    ) -> Result<(), ImagesError> {
        let diff_ids = if strict { Some(self.diff_ids(config, layers)?) } else { None };
        let mut add = |what, descriptor: &Descriptor, check| {
            if plan.seen.insert(descriptor.digest) {
                plan.blobs.push(Blob { what, descriptor: descriptor.clone(), check });
            }
        };
        add("config", config, None);
        for (number, layer) in layers.iter().enumerate() {
            let check = diff_ids.as_ref().filter(|_| self.source.is_foreign()).map(|ids| LayerSource {
                digest: layer.digest,
                size: layer.size,
                media_type: layer.media_type.clone(),
                diff_id: ids[number],
            });
            add("layer", layer, check);
        }
        if plan.blobs.len() > BLOBS_MAX {
            let object = self.source.name();
            return Err(ImagesError::TooMany { object, what: "blobs", max: BLOBS_MAX });
        }
        Ok(())
    }

    /// What the config says of the layers, which must be as many as there are, and of kinds that can be unpacked.
    fn diff_ids(&self, config: &Descriptor, layers: &[Descriptor]) -> Result<Vec<DiffId>, ImagesError> {
        let unusable = |source| ImagesError::Manifest { object: self.source.name(), source };
        layers.iter().try_for_each(Descriptor::check_layer).map_err(unusable)?;
        let config = self.config(config)?;
        let ids: Vec<DiffId> =
            config.rootfs.diff_ids.iter().filter_map(|id| id.parse().ok()).map(DiffId).collect();
        match ids.len() == layers.len() && ids.len() == config.rootfs.diff_ids.len() {
            true => Ok(ids),
            false => {
                let (layers, diff_ids) = (layers.len(), config.rootfs.diff_ids.len());
                Err(unusable(ManifestError::LayerCount { layers, diff_ids }))
            }
        }
    }

    fn config(&self, config: &Descriptor) -> Result<ImageConfig, ImagesError> {
        if config.size > CONFIG_BYTES_MAX {
            let object = format!("the config of {}", self.source.name());
            return Err(ImagesError::TooMany { object, what: "bytes", max: CONFIG_BYTES_MAX as usize });
        }
        let mut bytes = Vec::new();
        self.source.blob(config)?.read_to_end(&mut bytes).map_err(|error| ImagesError::Blob {
            what: "config",
            digest: config.digest,
            object: self.source.name(),
            source: error.into(),
        })?;
        ImageConfig::from_json(&bytes)
            .map_err(|source| ImagesError::Config { object: self.source.name(), source })
    }

    fn bring(&self, blob: &Blob, meter: &Meter) -> Result<(), ImagesError> {
        let Descriptor { digest, size, .. } = blob.descriptor;
        let open = || -> io::Result<Box<dyn Read + Send>> {
            let reader = self.source.blob(&blob.descriptor).map_err(io::Error::other)?;
            Ok(Box::new(meter.wrap(Cancellable::new(reader, self.cancel.clone()), digest, size)))
        };
        let open: &OpenBlob<'_> = &open;
        match self.target.put(blob, open, self.source) {
            Err(error) if self.may_be_a_mirrors(&error) => self.target.put(blob, open, self.source),
            outcome => outcome,
        }
    }

    /// Whether a mirror may be why the bytes are wrong, which is not asked any more then.
    fn may_be_a_mirrors(&self, error: &ImagesError) -> bool {
        error.kind() == Kind::Source
            && !self.cancel.is_cancelled()
            && chain(error).all(|error| !error.is::<RegistryError>())
            && self.source.distrust_mirrors(error)
    }

    /// A manifest or index that an index names.
    fn entry(&self, entry: &Descriptor) -> Result<FetchedManifest, ImagesError> {
        let fetched = self.source.manifest(&entry.digest)?;
        let actual = fetched.bytes.len() as u64;
        if actual != entry.size {
            let object = format!("manifest {} of {}", entry.digest, self.source.name());
            let error = crate::source::SourceError::Size { object, expected: entry.size, actual };
            return Err(error.into());
        }
        Ok(fetched)
    }

    fn parse(&self, fetched: &FetchedManifest) -> Result<Manifest, ImagesError> {
        let parsed = Manifest::parse(&fetched.bytes, &fetched.media_type);
        parsed.map_err(|source| ImagesError::Manifest { object: self.source.name(), source })
    }

    fn too_deep(&self) -> ImagesError {
        let object = self.source.name();
        ImagesError::TooMany { object, what: "indexes within indexes", max: INDEX_DEPTH_MAX }
    }
}
