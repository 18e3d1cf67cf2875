//! What becomes of the result: image, archive, directory, registry.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::error::Error;
use std::os::fd::OwnedFd;
use std::sync::{LazyLock, PoisonError};
use std::time::SystemTime;

use wharf_cache::diff::DiffError;
use wharf_cache::snapshot::Layer;
use wharf_cache::{Chain, Digest};
use wharf_frontend::Diagnostic;
use wharf_frontend::dockerfile2llb::Converted;
use wharf_solver::llb::{Op, Platform, VertexDigest};
use wharf_solver::op::ResultRef;

use super::ahead::Ahead;
use super::caches::Solution;
use super::targets::{Target, Targets};
use super::{Build, Outcome, interrupted};
use crate::csv;
use crate::error::{Failure, Kind, causes};
use crate::exporter::form::ImageForm;
use crate::exporter::metadata::About;
use crate::exporter::spec::{ImageOutput, Output, Push};
use crate::exporter::{
    Artifact, Built, ExportError, Tree, assemble, docker, local, metadata, oci, store, tar,
};
use crate::layers::{Form, LayerError, LayerForms, Layers};
use crate::registry::{Reference, push};
use crate::remote::manifest::CacheConfig;
use crate::source::{SourceError, transfer_events};

/// What outputs get that say nothing.
static DEFAULT_FORM: LazyLock<ImageForm> = LazyLock::new(ImageForm::default);

impl Build<'_> {
    /// The forms that outputs want images in, each once; the first is the one that is told of. Without an image there is one
    /// for what else needs layers.
    pub(super) fn image_forms(&self) -> Vec<&ImageForm> {
        let mut forms: Vec<&ImageForm> = Vec::new();
        for image in self.request.outputs.iter().filter_map(Output::image) {
            if !forms.contains(&&image.form) {
                forms.push(&image.form);
            }
        }
        if forms.is_empty() {
            forms.push(&DEFAULT_FORM);
        }
        forms
    }

    /// Refuses what outputs ask for and cannot be, as far as only the Dockerfile tells.
    pub(super) fn refuse_senseless_outputs(&self, targets: &Targets) -> Result<(), Failure> {
        let usage = |message: String| Failure::new(Kind::Usage, message);
        let wants_times = |output: &Output| {
            let times = output.times();
            times.rewrite == Some(true) && times.epoch(targets.source_date_epoch()).is_none()
        };
        if self.request.outputs.iter().any(wants_times) {
            let message = "`rewrite-timestamp=true` has no time to set";
            return Err(usage(message.to_owned()).hint(
                "give one: `--source-date-epoch SECONDS` (or `git`), or SOURCE_DATE_EPOCH in the environment",
            ));
        }
        let has_index = self.has_index(targets);
        for annotation in self.image_forms().iter().flat_map(|form| &form.annotations.0) {
            let annotation_target = &annotation.target;
            if annotation_target.level.needs_index() && !has_index {
                let message = format!(
                    "annotation `{}` of the {annotation_target}: there is none above a single image",
                    annotation.key
                );
                return Err(
                    usage(message).hint("an image for one platform is a plain manifest: annotate `manifest`")
                );
            }
            let Some(platform) = &annotation_target.platform else { continue };
            if !targets.iter().any(|target| target.platform == *platform) {
                let message = format!(
                    "annotation `{}` of the {annotation_target}: no image is built for {platform}",
                    annotation.key
                );
                return Err(usage(message));
            }
        }
        Ok(())
    }

    /// Does every output, then writes the files that tell scripts about it.
    pub(super) fn export(
        &self,
        targets: &Targets,
        solution: &Solution,
        layers: &LayerForms<'_>,
        ahead: &Ahead<'_>,
    ) -> Result<Outcome, Failure> {
        let needs_image = self.request.outputs.iter().any(Output::needs_image);
        let artifacts = match needs_image || self.request.iidfile.is_some() {
            true => self
                .progress
                .internal("exporting layers", || self.assemble_forms(targets, solution, layers))?,
            false => {
                self.note_idle_inline_cache()?;
                Vec::new()
            }
        };
        // What was written to standard output cannot be taken back; nor does what follows begin again.
        let is_final = self.request.outputs.iter().any(Output::takes_stdout);
        self.export_all(targets, solution, &artifacts, ahead)
            .map_err(|failure| Failure { lost: failure.lost && !is_final, ..failure })?;
        let artifact = artifacts.into_iter().next().map(|(_, artifact)| artifact);
        let written = |what: &str, done: Result<(), ExportError>| {
            done.map_err(|error| export_failure(&format!("cannot write the {what}"), &error))
        };
        if let (Some(path), Some(artifact)) = (&self.request.iidfile, &artifact) {
            written("image id file", metadata::write_iidfile(path, artifact))?;
        }
        if let Some(path) = &self.request.metadata_file {
            let warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
            let about = About {
                names: &self.image_names(),
                build: self.recorder.id().to_string(),
                warnings: self.request.metadata_warnings.then_some(&warnings),
                compressor: self.image_forms()[0].layers(targets.source_date_epoch()).variant.compressor(),
            };
            written("metadata file", metadata::write_metadata_file(path, artifact.as_ref(), &about))?;
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
        artifacts: &[(&ImageForm, Artifact)],
        ahead: &Ahead<'_>,
    ) -> Result<(), Failure> {
        for output in &self.request.outputs {
            if self.signals.interrupted() {
                return Err(interrupted());
            }
            match output.image() {
                Some(image) => {
                    let of_form = artifacts.iter().find(|(form, _)| **form == image.form);
                    let (_, artifact) = of_form.expect("there is an image in each form that an output wants");
                    self.export_image((targets, solution), artifact, output, ahead)?;
                }
                None => self.export_files(targets, solution, output)?,
            }
        }
        Ok(())
    }

    fn export_image(
        &self,
        of: (&Targets, &Solution),
        artifact: &Artifact,
        output: &Output,
        ahead: &Ahead<'_>,
    ) -> Result<(), Failure> {
        let store = &self.sources.store;
        match output {
            Output::Image(image) => self.export_to_store(of, artifact, image, ahead),
            Output::OciArchive(image, dest) => {
                let names = texts(&full_names(&image.names)?);
                self.exporting("oci image format", || {
                    dest.write(&self.cancel, |out| oci::write_archive(store, artifact, &names, out))
                })
            }
            Output::OciDirectory(image, dest) => {
                let names = texts(&full_names(&image.names)?);
                self.exporting("oci image layout", || oci::write_directory(store, artifact, &names, dest))
            }
            Output::DockerArchive(image, dest) => {
                let names = texts(&full_names(&image.names)?);
                self.exporting("docker image format", || {
                    dest.write(&self.cancel, |out| docker::write_archive(store, artifact, &names, out))
                })
            }
            Output::Load(image, engine) => {
                let names = texts(&full_names(&image.names)?);
                self.progress.internal(&format!("loading into {engine}"), || {
                    let loaded =
                        engine.load(&self.cancel, |out| docker::write_archive(store, artifact, &names, out));
                    loaded.map_err(|error| {
                        let failure = Failure::from_error(Kind::Environment, "cannot load the image", &error);
                        error.hint().into_iter().fold(failure, |failure, hint| failure.hint(hint))
                    })
                })
            }
            Output::Tar(..) | Output::Local(..) | Output::CacheOnly => unreachable!("these are no images"),
        }
    }

    fn export_to_store(
        &self,
        (targets, solution): (&Targets, &Solution),
        artifact: &Artifact,
        output: &ImageOutput,
        ahead: &Ahead<'_>,
    ) -> Result<(), Failure> {
        let digest = artifact.descriptor().digest;
        let mut names = full_names(&output.image.names)?;
        if output.push == Push::ByDigest {
            names.iter_mut().for_each(|name| *name = name.by_digest(digest));
        }
        let mut stored = names.clone();
        if output.canonical_names {
            stored.extend(
                names.iter().filter(|name| name.digest().is_none()).map(|name| name.with_digest(digest)),
            );
        }
        if let (Some(prefix), true) = (&output.dangling_prefix, names.is_empty()) {
            let prefixes = full_names(std::slice::from_ref(prefix))?;
            stored.extend(prefixes.iter().map(|prefix| prefix.by_digest(digest)));
        }
        self.progress.internal("exporting to image", || {
            let store = &self.sources.store;
            let put = match output.store {
                true => store::put(store, artifact, &texts(&stored), SystemTime::now()),
                false => store::put_documents(store, artifact),
            };
            put.map_err(|error| export_failure("cannot put the image into the store", &error))
        })?;
        if output.unpack {
            for (target, result) in targets.iter().zip(&solution.results) {
                self.view(target, result.as_ref())?;
            }
        }
        match output.push {
            Push::No => Ok(()),
            Push::ByName | Push::ByDigest => {
                names.iter().try_for_each(|name| self.push(artifact, name, ahead))
            }
        }
    }

    fn export_files(&self, targets: &Targets, solution: &Solution, output: &Output) -> Result<(), Failure> {
        let (Output::Tar(files, _) | Output::Local(files, ..)) = output else { return Ok(()) };
        let split = files.split.unwrap_or(targets.iter().count() > 1);
        let tree = |(target, result): (&Target, &Option<ResultRef>)| {
            Ok(Tree {
                root: self.view(target, result.as_ref())?,
                platform: target.platform.to_string(),
                below: split.then(|| directory_name(&target.platform)),
            })
        };
        let trees = targets.iter().zip(&solution.results).map(tree).collect::<Result<Vec<_>, Failure>>()?;
        let ids = self.sources.store.setup().ids;
        let epoch = match files.times.rewrite {
            Some(false) => None,
            _ => files.times.epoch(targets.source_date_epoch()),
        };
        match output {
            Output::Local(_, dest, mode) => self.progress.internal("exporting to client directory", || {
                let written = local::write(&trees, ids, epoch, dest, *mode).map_err(|error| {
                    export_failure(&format!("cannot export to `{}`", dest.display()), &error)
                })?;
                for note in written.notes {
                    self.progress.warn(note);
                }
                Ok(())
            }),
            Output::Tar(_, dest) => {
                self.exporting("tar", || dest.write(&self.cancel, |out| tar::write(&trees, ids, epoch, out)))
            }
            _ => Ok(()),
        }
    }

    fn exporting(&self, what: &str, export: impl FnOnce() -> Result<(), ExportError>) -> Result<(), Failure> {
        self.progress.internal(&format!("exporting to {what}"), || {
            export().map_err(|error| export_failure(&format!("cannot export as {what}"), &error))
        })
    }

    /// Where images are pushed to, and the form that their layers have there.
    fn pushed(&self, targets: &Targets) -> Result<Vec<(Form, Reference)>, Failure> {
        let mut places = Vec::new();
        for output in self.request.outputs.iter().filter(|output| output.is_pushed()) {
            let Some(image) = output.image() else { continue };
            let form = image.form.layers(targets.source_date_epoch());
            places.extend(full_names(&image.names)?.into_iter().map(|name| (form, name)));
        }
        Ok(places)
    }

    /// What sends layers while steps run, if images are pushed. The registry client learns where the bases are: from there
    /// their layers are taken over.
    pub(super) fn ahead(&self, targets: &Targets) -> Result<Ahead<'_>, Failure> {
        let places = self.pushed(targets)?;
        let registry = &*self.sources.registry;
        let bases = targets.iter().filter_map(|target| base_identifier(&target.converted));
        for base in bases.filter(|_| !places.is_empty()) {
            let name = base.strip_prefix("docker-image://").and_then(|name| name.parse::<Reference>().ok());
            // What cannot be read now is told of when it is needed.
            if let (Some(name), Ok(layers)) = (name, self.sources.images.layers(base)) {
                layers.iter().for_each(|layer| registry.remember(&name, &layer.digest));
            }
        }
        Ok(Ahead::new(&self.sources.store, registry, self.progress, self.cancel.clone(), places))
    }

    fn push(&self, artifact: &Artifact, name: &Reference, ahead: &Ahead<'_>) -> Result<(), Failure> {
        let step = format!("pushing {name}");
        ahead.settle();
        self.progress.internal_with(&step, |digest: VertexDigest| {
            let report = transfer_events(digest, self.progress);
            let push = |there: &HashSet<Digest>| {
                push::push_image(
                    &self.sources.store,
                    &*self.sources.registry,
                    name,
                    &artifact.descriptor().digest,
                    there,
                    &self.cancel,
                    &report,
                )
            };
            let there = ahead.there(name);
            let pushed = match push(&there) {
                // It may have lost since what it was sent ahead.
                Err(error) if error.may_lack_blobs() && !there.is_empty() => push(&HashSet::new()),
                pushed => pushed,
            };
            pushed.map_err(|error| {
                if self.signals.interrupted() {
                    return interrupted();
                }
                let mut failure = Failure::from_error(Kind::Source, &format!("cannot push `{name}`"), &error);
                failure.hints.extend(error.hint());
                failure
            })
        })
    }

    /// What was built, in each form that an output wants, the first one first.
    fn assemble_forms(
        &self,
        targets: &Targets,
        solution: &Solution,
        layers: &LayerForms<'_>,
    ) -> Result<Vec<(&ImageForm, Artifact)>, Failure> {
        // One time for what has no other, so that the same image is the same in every form.
        let now = SystemTime::now();
        let epoch = targets.source_date_epoch();
        let artifact = |form| {
            let layers = layers.get(ImageForm::layers(form, epoch));
            Ok((form, self.assemble_all(targets, solution, layers, form, now)?))
        };
        self.image_forms().into_iter().map(artifact).collect()
    }

    /// The image of every platform, and the index above them where there is to be one.
    fn assemble_all(
        &self,
        targets: &Targets,
        solution: &Solution,
        layers: &Layers<'_>,
        form: &ImageForm,
        now: SystemTime,
    ) -> Result<Artifact, Failure> {
        let mut images = Vec::new();
        for (target, result) in targets.iter().zip(&solution.results) {
            let inline = self.inline_cache(targets, (result.as_ref(), &solution.steps), layers)?;
            let built = self.built(target, result.as_ref(), layers, form, inline)?;
            images.push(assemble(&built, now));
        }
        Ok(match self.has_index(targets) {
            false => Artifact::image(images.remove(0)),
            true => Artifact::index(images, form),
        })
    }

    /// Whether there is an index: above several images, or where one is asked for.
    fn has_index(&self, targets: &Targets) -> bool {
        let asks_for_index = self.request.build_args.get("BUILDKIT_MULTI_PLATFORM");
        targets.iter().count() > 1 || asks_for_index.and_then(|value| csv::boolean(value)).unwrap_or(false)
    }

    /// Layers and config of an image; all its layers are blobs of the store afterwards.
    fn built(
        &self,
        target: &Target,
        result: Option<&ResultRef>,
        layers: &Layers<'_>,
        form: &ImageForm,
        inline_cache: Option<CacheConfig>,
    ) -> Result<Built, Failure> {
        let converted = &target.converted;
        let failed = |error: &(dyn Error + 'static)| {
            Failure::from_error(Kind::Environment, "cannot make the layers", error)
        };
        let chain = match result {
            Some(ResultRef::Snapshots(chain)) => Some(Cow::Borrowed(chain)),
            // Its layers are to have another form, and are made of its files.
            Some(_) if layers.form().force => Some(Cow::Owned(self.chain(converted, result)?)),
            _ => None,
        };
        let (base_layers, new_layers) = match (result, chain) {
            (None, _) => (Vec::new(), Vec::new()),
            (Some(_), Some(chain)) => {
                let mut all = layers.of(&chain).map_err(|error| self.layer_failure(converted, &error))?;
                let brought = self.imports.bring_blobs(&chain, &all, &self.cancel);
                brought.map_err(|error| failed(&error))?;
                let base = match result {
                    Some(ResultRef::Snapshots(_)) => converted.base_layers.min(all.len()),
                    _ => all.len(),
                };
                let new = all.split_off(base);
                let snapshots = self.sources.store.snapshots(&chain).map_err(|error| failed(&error))?;
                let created = snapshots[all.len()..].iter().map(|snapshot| snapshot.created);
                let base = self.inherited(converted, layers, &chain, all)?;
                (base, new.into_iter().zip(created).collect())
            }
            (Some(_), None) => (self.base_layers(converted)?, Vec::new()),
        };
        self.bring_missing_blobs(converted, &base_layers)?;
        Ok(Built {
            config: converted.config.clone(),
            base_history: converted.base_history,
            base_layers,
            layers: new_layers,
            source_date_epoch: form.times.epoch(converted.source_date_epoch),
            platform: target.platform.clone(),
            inline_cache,
            form: form.clone(),
        })
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

    /// The layers of the base image, as it has them.
    fn base_layers(&self, converted: &Converted) -> Result<Vec<Layer>, Failure> {
        let Some(identifier) = base_identifier(converted) else { return Ok(Vec::new()) };
        self.sources.images.described_layers(identifier).map_err(|error| self.source_failure(&error))
    }

    /// The layers of a base image, of which the store has `found`. The image itself says what they are: the store may have
    /// other bytes of the same files, which were built here. Where they are to be compressed anew, their files keep their times.
    fn inherited(
        &self,
        converted: &Converted,
        layers: &Layers<'_>,
        chain: &Chain,
        found: Vec<Layer>,
    ) -> Result<Vec<Layer>, Failure> {
        if layers.form().force {
            let below = Chain(chain.0[..found.len()].to_vec());
            return layers.unclamped().of(&below).map_err(|error| self.layer_failure(converted, &error));
        }
        let told = self.base_layers(converted)?;
        Ok(if told.len() == found.len() { told } else { found })
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

    /// The snapshots of the result.
    fn chain(&self, converted: &Converted, result: Option<&ResultRef>) -> Result<Chain, Failure> {
        match (result, base_identifier(converted)) {
            (Some(ResultRef::Snapshots(chain)), _) => Ok(chain.clone()),
            (Some(_), Some(identifier)) => {
                self.progress.internal_with("unpacking the base image", |digest| {
                    let report = transfer_events(digest, self.progress);
                    self.sources.images.pull(identifier, &report).map_err(|error| self.source_failure(&error))
                })
            }
            _ => Ok(Chain::default()),
        }
    }

    /// The result's file system for reading.
    fn view(&self, converted: &Converted, result: Option<&ResultRef>) -> Result<OwnedFd, Failure> {
        let chain = self.chain(converted, result)?;
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
