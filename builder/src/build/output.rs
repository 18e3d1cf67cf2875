//! What becomes of the result: image, archive, directory, registry.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use wharf_cache::Chain;
use wharf_cache::diff::DiffError;
use wharf_cache::snapshot::Layer;
use wharf_frontend::Diagnostic;
use wharf_frontend::dockerfile2llb::Converted;
use wharf_solver::llb::{Op, Platform, VertexDigest};
use wharf_solver::op::ResultRef;

use super::caches::Solution;
use super::targets::{Target, Targets};
use super::{Build, Outcome};
use crate::csv;
use crate::error::{Failure, Kind, causes};
use crate::exporter::spec::Output;
use crate::exporter::{
    Artifact, Built, BuiltImage, ExportError, assemble, docker, local, metadata, oci, store, tar,
};
use crate::layers::{LayerError, Layers};
use crate::registry::{Reference, push};
use crate::remote::manifest::CacheConfig;
use crate::source::{SourceError, transfer_events};

impl Build<'_> {
    /// Does every output, then writes the files that tell scripts about it.
    pub(super) fn export(
        &self,
        targets: &Targets,
        solution: &Solution,
        layers: &Layers<'_>,
    ) -> Result<Outcome, Failure> {
        let needs_image = self.request.outputs.iter().any(Output::needs_image);
        let artifact = match needs_image || self.request.iidfile.is_some() {
            true => Some(
                self.progress
                    .internal("exporting layers", || self.assemble_all(targets, solution, layers))?,
            ),
            false => {
                self.note_idle_inline_cache()?;
                None
            }
        };
        // What was written to standard output cannot be taken back; nor does what follows begin again.
        let is_final = self.request.outputs.iter().any(Output::takes_stdout);
        self.export_all(targets, solution, artifact.as_ref())
            .map_err(|failure| Failure { lost: failure.lost && !is_final, ..failure })?;
        let written = |what: &str, done: Result<(), ExportError>| {
            done.map_err(|error| export_failure(&format!("cannot write the {what}"), &error))
        };
        if let (Some(path), Some(artifact)) = (&self.request.iidfile, &artifact) {
            written("image id file", metadata::write_iidfile(path, artifact))?;
        }
        if let Some(path) = &self.request.metadata_file {
            let names = self.image_names();
            written("metadata file", metadata::write_metadata_file(path, artifact.as_ref(), &names))?;
        }
        Ok(Outcome {
            image_id: artifact.as_ref().map(Artifact::id),
            manifest: artifact.map(|artifact| artifact.descriptor().digest),
        })
    }

    fn export_all(
        &self,
        targets: &Targets,
        solution: &Solution,
        artifact: Option<&Artifact>,
    ) -> Result<(), Failure> {
        for output in &self.request.outputs {
            if self.signals.interrupted() {
                return Err(Failure::new(Kind::Cancelled, "the build was interrupted"));
            }
            match (output, artifact) {
                (Output::Tar { .. } | Output::Local { .. }, _) => {
                    self.export_files(targets, solution, output)?
                }
                (_, Some(artifact)) => self.export_image(artifact, output)?,
                (_, None) => unreachable!("an image was assembled because an output needs it"),
            }
        }
        Ok(())
    }

    fn export_image(&self, artifact: &Artifact, output: &Output) -> Result<(), Failure> {
        match output {
            Output::Image { names, push } => {
                let names = full_names(names)?;
                self.progress.internal("exporting to image", || {
                    store::put(&self.sources.store, artifact, &texts(&names), SystemTime::now())
                        .map_err(|error| export_failure("cannot put the image into the store", &error))
                })?;
                if *push {
                    names.iter().try_for_each(|name| self.push(artifact, name))?;
                }
                Ok(())
            }
            Output::OciArchive { names, dest } => {
                let names = texts(&full_names(names)?);
                self.exporting("oci image format", || {
                    dest.write(|out| oci::write_archive(&self.sources.store, artifact, &names, out))
                })
            }
            Output::OciDirectory { names, dest } => {
                let names = texts(&full_names(names)?);
                self.exporting("oci image layout", || {
                    oci::write_directory(&self.sources.store, artifact, &names, dest)
                })
            }
            Output::DockerArchive { names, dest } => {
                let names = texts(&full_names(names)?);
                self.exporting("docker image format", || {
                    dest.write(|out| docker::write_archive(&self.sources.store, artifact, &names, out))
                })
            }
            Output::Tar { .. } | Output::Local { .. } => unreachable!("these are no images"),
        }
    }

    fn export_files(&self, targets: &Targets, solution: &Solution, output: &Output) -> Result<(), Failure> {
        let several = targets.iter().count() > 1;
        for (target, result) in targets.iter().zip(&solution.results) {
            let below = several.then(|| directory_name(&target.platform));
            self.export_files_of(target, result.as_ref(), output, below.as_deref())?;
        }
        Ok(())
    }

    /// Exports the files of one platform, into the directory `below` where there are several.
    fn export_files_of(
        &self,
        converted: &Converted,
        result: Option<&ResultRef>,
        output: &Output,
        below: Option<&str>,
    ) -> Result<(), Failure> {
        let view = self.view(converted, result)?;
        let ids = self.sources.store.setup().ids;
        let epoch = converted.source_date_epoch;
        match output {
            Output::Tar { dest } => {
                self.exporting("tar", || dest.write(|out| tar::write(view.as_fd(), ids, epoch, out)))
            }
            Output::Local { dest } => self.progress.internal("exporting to client directory", || {
                let dest = &below.map_or_else(|| dest.clone(), |below| dest.join(below));
                let written = local::write(view.as_fd(), ids, epoch, dest).map_err(|error| {
                    export_failure(&format!("cannot export to `{}`", dest.display()), &error)
                })?;
                for note in written.notes {
                    self.progress.warn(note);
                }
                Ok(())
            }),
            _ => unreachable!("images are exported by export_image"),
        }
    }

    fn exporting(&self, what: &str, export: impl FnOnce() -> Result<(), ExportError>) -> Result<(), Failure> {
        self.progress.internal(&format!("exporting to {what}"), || {
            export().map_err(|error| export_failure(&format!("cannot export as {what}"), &error))
        })
    }

    fn push(&self, artifact: &Artifact, name: &Reference) -> Result<(), Failure> {
        let step = format!("pushing {name}");
        self.progress.internal_with(&step, |digest: VertexDigest| {
            let report = transfer_events(digest, self.progress);
            push::push_image(
                &self.sources.store,
                &*self.sources.registry,
                name,
                &artifact.descriptor().digest,
                None,
                &report,
            )
            .map_err(|error| {
                let mut failure = Failure::from_error(Kind::Source, &format!("cannot push `{name}`"), &error);
                failure.hints.extend(error.hint());
                failure
            })
        })
    }

    /// The image of every platform, and the index above them where there are several or one is asked for.
    fn assemble_all(
        &self,
        targets: &Targets,
        solution: &Solution,
        layers: &Layers<'_>,
    ) -> Result<Artifact, Failure> {
        let mut images = Vec::new();
        for (target, result) in targets.iter().zip(&solution.results) {
            let inline = self.inline_cache(targets, (result.as_ref(), &solution.steps), layers)?;
            images.push(self.assemble(target, result.as_ref(), layers, inline)?);
        }
        let asks_for_index = self.request.build_args.get("BUILDKIT_MULTI_PLATFORM");
        let wants_index = asks_for_index.and_then(|value| csv::boolean(value)).unwrap_or(false);
        if let ([_], false) = (images.as_slice(), wants_index) {
            return Ok(Artifact::image(images.remove(0)));
        }
        Ok(Artifact::index(images, &BTreeMap::new()))
    }

    /// Layers and config → an image's documents; all its layers are blobs of the store afterwards.
    fn assemble(
        &self,
        target: &Target,
        result: Option<&ResultRef>,
        layers: &Layers<'_>,
        inline_cache: Option<CacheConfig>,
    ) -> Result<BuiltImage, Failure> {
        let converted = &target.converted;
        let failed = |error: &(dyn Error + 'static)| {
            Failure::from_error(Kind::Environment, "cannot make the layers", error)
        };
        let (base_layers, new_layers) = match result {
            None => (Vec::new(), Vec::new()),
            Some(ResultRef::Snapshots(chain)) => {
                let mut all = layers.of(chain).map_err(|error| self.layer_failure(converted, &error))?;
                let brought = self.imports.bring_blobs(chain, &all, &self.cancel);
                brought.map_err(|error| failed(&error))?;
                let new = all.split_off(converted.base_layers.min(all.len()));
                let snapshots = self.sources.store.snapshots(chain).map_err(|error| failed(&error))?;
                let created = snapshots[all.len()..].iter().map(|snapshot| snapshot.created);
                (all, new.into_iter().zip(created).collect())
            }
            Some(_) => (self.base_layers(converted)?, Vec::new()),
        };
        self.bring_missing_blobs(converted, &base_layers)?;
        let built = Built {
            config: converted.config.clone(),
            base_history: converted.base_history,
            base_layers,
            layers: new_layers,
            source_date_epoch: converted.source_date_epoch,
            platform: target.platform.clone(),
            inline_cache,
            annotations: self.request.annotations.clone(),
        };
        Ok(assemble(&built, SystemTime::now()))
    }

    /// A layer that cannot be is the fault of the step that made its files.
    fn layer_failure(&self, converted: &Converted, error: &LayerError) -> Failure {
        let kind = match error.source {
            DiffError::Entry { .. } => Kind::Step,
            _ => Kind::Environment,
        };
        let mut failure = Failure::from_error(kind, "cannot make the layers", error);
        let step =
            error.number.checked_sub(converted.base_layers).and_then(|step| converted.layers.get(step));
        let location =
            step.and_then(|step| converted.definition.vertex(&step.vertex).metadata.location.clone());
        failure.evidence =
            location.map(|span| self.evidence(vec![Diagnostic::error(span, causes(error))], Vec::new()));
        failure
    }

    /// The layers of a base image that no step needed.
    fn base_layers(&self, converted: &Converted) -> Result<Vec<Layer>, Failure> {
        let Some(identifier) = base_identifier(converted) else { return Ok(Vec::new()) };
        let layers = self.sources.images.layers(identifier).map_err(|error| self.source_failure(&error))?;
        Ok(layers
            .into_iter()
            .map(|layer| Layer {
                diff_id: layer.diff_id,
                digest: layer.digest,
                size: layer.size,
                media_type: layer.media_type,
            })
            .collect())
    }

    fn bring_missing_blobs(&self, converted: &Converted, layers: &[Layer]) -> Result<(), Failure> {
        let blobs = self.sources.store.blobs();
        let here = layers.iter().all(|layer| matches!(blobs.size(&layer.digest), Ok(Some(_))));
        match (here, base_identifier(converted)) {
            (false, Some(identifier)) => {
                self.progress.internal_with("pulling layers of the base image", |digest| {
                    let report = transfer_events(digest, self.progress);
                    self.sources
                        .images
                        .ensure_blobs(identifier, &report)
                        .map_err(|error| self.source_failure(&error))
                })
            }
            _ => Ok(()),
        }
    }

    /// The result's file system for reading.
    fn view(&self, converted: &Converted, result: Option<&ResultRef>) -> Result<OwnedFd, Failure> {
        let chain = match (result, base_identifier(converted)) {
            (Some(ResultRef::Snapshots(chain)), _) => chain.clone(),
            (Some(_), Some(identifier)) => {
                self.progress.internal_with("unpacking the base image", |digest| {
                    let report = transfer_events(digest, self.progress);
                    self.sources.images.pull(identifier, &report).map_err(|error| self.source_failure(&error))
                })?
            }
            _ => Chain::default(),
        };
        self.imports.bring_files(&chain, &self.cancel).map_err(|error| {
            Failure::from_error(Kind::Environment, "cannot bring the result's files", &error)
        })?;
        self.sources.store.view(&chain).map_err(|error| {
            Failure::from_error(Kind::Environment, "cannot open the result's file system", &error)
        })
    }

    fn source_failure(&self, error: &SourceError) -> Failure {
        let mut failure = Failure::from_error(Kind::Source, "cannot bring the base image", error);
        failure.hints.extend(error.hint());
        failure
    }

    /// All names the image gets, each once.
    fn image_names(&self) -> Vec<String> {
        let outputs = self.request.outputs.iter().flat_map(Output::names);
        let full = outputs
            .map(|name| name.parse::<Reference>().map_or_else(|_| name.clone(), |name| name.to_string()));
        full.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// `linux_arm_v7`: where the files of one platform go when there are several.
fn directory_name(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

fn base_identifier(converted: &Converted) -> Option<&str> {
    match &converted.definition.vertex(&converted.base?.vertex).op {
        Op::Source(source) => Some(&source.identifier),
        _ => None,
    }
}

fn full_names(names: &[String]) -> Result<Vec<Reference>, Failure> {
    let parse = |name: &String| {
        name.parse()
            .map_err(|error| Failure::new(Kind::Usage, format!("`{name}` is not an image name: {error}")))
    };
    names.iter().map(parse).collect()
}

fn texts(names: &[Reference]) -> Vec<String> {
    names.iter().map(Reference::to_string).collect()
}

fn export_failure(doing: &str, error: &ExportError) -> Failure {
    if matches!(error, ExportError::ReaderGone) {
        return Failure::reader_gone();
    }
    Failure::from_error(Kind::Environment, doing, error)
}
