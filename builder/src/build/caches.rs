//! The caches of a build that are kept elsewhere: where they are, and what is written there.

use std::sync::Arc;

use wharf_cache::diff::{Compression, Variant};
use wharf_cache::{Chain, Store};
use wharf_solver::llb::Platform;
use wharf_solver::op::ResultRef;
use wharf_solver::scheduler::StepReport;

use super::targets::Targets;
use super::{Build, BuildRequest, interrupted};
use crate::error::{Failure, Kind, causes, is_lost};
use crate::layers::{Form, Layers};
use crate::progress::Progress;
use crate::registry::OciRegistry;
use crate::remote::Backend;
use crate::remote::exports::{Exports, Finished, Place, Uploads};
use crate::remote::imports::{Imports, Unused};
use crate::remote::local::LocalBackend;
use crate::remote::manifest::{CacheConfig, INLINE_BYTES_MAX};
use crate::remote::records::{Collector, of_images, recorded};
use crate::remote::registry::RegistryBackend;
use crate::remote::s3::{S3, S3Place};
use crate::remote::spec::{self, LayerForm, Origin, Target};

/// What a build gave.
#[derive(Debug)]
pub(super) struct Solution {
    /// The target's result on each platform; `None` is an empty file system.
    pub(super) results: Vec<Option<ResultRef>>,
    /// What happened to its steps.
    pub(super) steps: Vec<StepReport>,
}

/// The snapshots of a result; none of an image that no step changed.
pub(super) fn chain_of(result: Option<&ResultRef>) -> Chain {
    match result {
        Some(ResultRef::Snapshots(chain)) => chain.clone(),
        _ => Chain::default(),
    }
}

/// The caches that `--cache-from` names. Offline nobody is asked over the network, and this is said once.
pub(super) fn imports<'a>(
    store: &Store,
    request: &BuildRequest,
    registry: &Arc<OciRegistry>,
    platform: &Platform,
    progress: &'a Progress,
) -> Imports<'a> {
    let backend = |from: &spec::CacheFrom| {
        let backend: Arc<dyn Backend> = match &from.origin {
            Origin::Registry(reference) => {
                Arc::new(RegistryBackend::new(registry.clone(), reference.clone(), platform.clone()))
            }
            Origin::Local { src, tag, digest } => {
                Arc::new(LocalBackend::new(src.clone(), tag.clone(), *digest, false))
            }
            Origin::S3(place) => Arc::new(S3::new(S3Place::clone(place))),
        };
        (backend, from.mounts.clone())
    };
    let is_here = |from: &&spec::CacheFrom| !request.offline || !from.origin.is_network();
    let (here, away): (Vec<_>, Vec<_>) = request.cache_from.iter().partition(is_here);
    let left_out = |from| {
        let (backend, _) = backend(from);
        Unused { place: backend.name(), reason: "the build is offline".to_owned() }
    };
    let away: Vec<Unused> = away.into_iter().map(left_out).collect();
    if !away.is_empty() {
        let names: Vec<&str> = away.iter().map(|cache| &*cache.place).collect();
        progress.warn(format!(
            "warning: the build is offline, so these caches are not asked: {}",
            names.join(", ")
        ));
    }
    Imports::new(store.clone(), progress, here.into_iter().map(backend).collect()).leaving_out(away)
}

/// The form of the layers that each of `--cache-to` gets; `None` for those that get the image's.
pub(super) fn forms(request: &BuildRequest, clamp_time_s: Option<u64>) -> Vec<Option<Form>> {
    let form = |LayerForm { compression, level, force }: LayerForm| {
        if compression.is_none() && level.is_none() && !force {
            return None;
        }
        let compression = match compression {
            None | Some(spec::Compression::Gzip) => Compression::Gzip { level },
            Some(spec::Compression::Estargz) => Compression::Estargz { level },
            Some(spec::Compression::Zstd) => Compression::Zstd { level },
            Some(spec::Compression::Uncompressed) => Compression::None,
        };
        Some(Form { variant: Variant { compression, clamp_time_s }, force })
    };
    request.cache_to.iter().map(|to| form(to.layers)).collect()
}

impl Build<'_> {
    /// The places that `--cache-to` names, with the layers that each of them gets.
    pub(super) fn exports<'b>(&'b self, layers: &[&'b Layers<'b>]) -> Exports<'b> {
        let place = |(to, layers): (&'b spec::CacheTo, &&'b Layers<'b>)| {
            let backend: Arc<dyn Backend> = match &to.target {
                Target::Inline => return None,
                Target::Registry(reference) => Arc::new(RegistryBackend::new(
                    self.sources.registry.clone(),
                    reference.clone(),
                    self.platform.clone(),
                )),
                Target::Local { dest, tag, reset } => {
                    Arc::new(LocalBackend::new(dest.clone(), tag.clone(), None, *reset))
                }
                Target::S3(place) => {
                    Arc::new(S3::new(S3Place::clone(place)).cancelled_by(self.cancel.clone()))
                }
            };
            Some(Place::new(to, backend, layers))
        };
        let places = self.request.cache_to.iter().zip(layers).filter_map(place).collect();
        let (store, cancel) = (&self.sources.store, self.cancel.clone());
        Exports::new(store, &self.imports, self.progress, &self.used_mounts, places, cancel)
    }

    /// Writes what `--cache-to` asks for.
    pub(super) fn export_caches(
        &self,
        targets: &Targets,
        solution: &Solution,
        uploads: Uploads<'_, '_>,
    ) -> Result<(), Failure> {
        if uploads.is_empty() {
            return Ok(());
        }
        let store = &self.sources.store;
        let recorded = match recorded(store, &self.imports, targets.definition(), &solution.steps) {
            Ok(recorded) => recorded,
            Err(error) => {
                let required = self.request.cache_to.iter().any(|to| to.required);
                let why = causes(&error);
                return self.without_cache(
                    required,
                    format!("no cache was written: cannot read what was built: {why}"),
                );
            }
        };
        let images: Vec<Chain> = solution.results.iter().map(|result| chain_of(result.as_ref())).collect();
        let epoch = targets.source_date_epoch();
        let failures = uploads.finish(&Finished { recorded: &recorded, images: &images, epoch });
        if self.signals.interrupted() {
            return Err(interrupted());
        }
        failures.into_iter().next().map_or(Ok(()), |message| self.without_cache(true, message))
    }

    /// Goes on although a cache was not written; not if that was `required`. The outputs are done by then or do not depend
    /// on it, so nothing is begun again.
    fn without_cache(&self, required: bool, message: String) -> Result<(), Failure> {
        match required {
            true => Err(Failure::new(Kind::Source, message)
                .hint("without `ignore-error=false` this is only a warning")),
            false => {
                self.progress.warn(format!("warning: {message}"));
                Ok(())
            }
        }
    }

    /// Says that no output can carry the cache that the image is to carry.
    pub(super) fn note_idle_inline_cache(&self) -> Result<(), Failure> {
        let Some(to) = self.inline() else { return Ok(()) };
        self.without_cache(to.required, "the inline cache was not written: no output is an image".to_owned())
    }

    /// Whether the image is to carry a cache.
    fn inline(&self) -> Option<&spec::CacheTo> {
        self.request.cache_to.iter().find(|to| to.target == Target::Inline)
    }

    /// The cache that the image of `result` is to carry, if it is to. `steps` are those of the whole build.
    pub(super) fn inline_cache(
        &self,
        targets: &Targets,
        (result, steps): (Option<&ResultRef>, &[StepReport]),
        layers: &Layers<'_>,
    ) -> Result<Option<CacheConfig>, Failure> {
        let Some(to) = self.inline() else { return Ok(None) };
        let store = &self.sources.store;
        let collect = || {
            let recorded = recorded(store, &self.imports, targets.definition(), steps)?;
            let mut recorded = of_images(store, &recorded, &[chain_of(result)])?;
            // An image is the same whether its steps ran or not.
            for step in &mut recorded {
                (step.took, step.provenance) = (None, None);
            }
            Collector::new(store, layers, targets.source_date_epoch()).collect(&recorded)
        };
        let (config, skipped) = match collect() {
            Ok(collected) => collected,
            // It is begun again.
            Err(error) if is_lost(&error) => {
                return Err(Failure::from_error(Kind::Environment, "cannot read what was built", &error));
            }
            Err(error) => {
                let why = causes(&error);
                self.without_cache(to.required, format!("the image carries no cache: {why}"))?;
                return Ok(None);
            }
        };
        if let Some(error) = skipped {
            let why = causes(&error);
            self.progress.warn(format!("warning: a step is not in the cache of the image: {why}"));
        }
        let size = config.to_json().len();
        if size > INLINE_BYTES_MAX {
            let message = format!(
                "the image carries no cache: {size} bytes are more than the {INLINE_BYTES_MAX} that fit into its \
                 config\nhelp: write it to a place of its own, for example with --cache-to type=registry"
            );
            self.without_cache(to.required, message)?;
            return Ok(None);
        }
        Ok(Some(config))
    }
}
