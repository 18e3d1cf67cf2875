//! `commit`: a container's files and settings become an image.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use wharf_cache::diff::{Variant, commit_container, make_layer};
use wharf_cache::snapshot::Layer;
use wharf_cache::{ChainId, DiffId, Digest};
use wharf_frontend::image::{ContainerConfig as ImageSettings, Empty, HealthConfig, History, ImageConfig};
use wharf_solver::llb::Platform;

use super::config::{ContainerConfig, HealthCheck, MountKind};
use super::engine::{Container, Engine};
use super::files::{chain_of, hidden_in};
use super::signal;
use super::state::Status;
use crate::error::{Failure, Kind};
use crate::exporter::{Artifact, Built, assemble, form::ImageForm, store as store_exporter};
use crate::images::changes;
use crate::images::stored::{Stored, StoredImage};
use crate::registry::Reference;

/// How an image is made of a container.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Its name, if it is to have one.
    pub name: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// What its history says.
    pub message: String,
    /// Instructions that set something of it.
    pub changes: Vec<String>,
    /// Whether the container stands still meanwhile.
    pub pause: bool,
}

impl Engine {
    /// Makes an image of a container. Gives its id.
    pub fn commit(&self, container: &Container, commit: &Commit) -> Result<Digest, Failure> {
        let config = &container.config;
        let base = self.image_of(config)?;
        let platform = platform_of(&base.config);
        let changed = changes::apply(&commit.changes, &platform)
            .map_err(|error| Failure::from_error(error.kind(), "cannot commit", &error))?;
        let pauses = commit.pause && container.state.status == Status::Running;
        if pauses {
            self.pause(&config.id)?;
        }
        let committed = self.commit_files(config);
        // It goes on whatever came of it.
        let unpaused = if pauses { self.unpause(&config.id) } else { Ok(()) };
        let (layer, now) = committed?;
        unpaused?;
        let mut image = base.config.clone();
        settings_of(&mut image.config, config);
        merge(&mut image.config, changed);
        image.author.clone_from(&commit.author);
        let base_history = image.history.len();
        let created_by = [&*config.process.entrypoint, &*config.process.command].concat().join(" ");
        image.history.push(History {
            created_by,
            author: commit.author.clone(),
            comment: commit.message.clone(),
            ..History::default()
        });
        let built = Built {
            config: image,
            base_history,
            base_layers: layers_of(&base)?,
            layers: vec![(layer, now)],
            source_date_epoch: None,
            platform,
            inline_cache: None,
            form: ImageForm::default(),
        };
        let image = assemble(&built, now);
        let id = image.config_descriptor.digest;
        let names: Vec<String> = commit.name.iter().map(ToString::to_string).collect();
        store_exporter::put(&self.store, &Artifact::image(image), &names, now)
            .map_err(|error| Failure::from_error(Kind::Environment, "cannot store the image", &error))?;
        Ok(id)
    }

    fn commit_files(&self, config: &ContainerConfig) -> Result<(Layer, SystemTime), Failure> {
        let now = SystemTime::now();
        let directory = self.directory(&config.id)?;
        let hidden = hidden_in(config);
        let make = || {
            let chain = commit_container(
                &self.store,
                &chain_of(config),
                directory.path(),
                &|path| hidden.is(path),
                now,
            )?;
            let below = self.image_of(config).ok();
            let parent = below.as_ref().and_then(|base| {
                base.config.rootfs.diff_ids.iter().try_fold(None, |parent, diff_id| {
                    let diff_id = DiffId(diff_id.parse::<Digest>().ok()?);
                    Some(Some(ChainId::extend(parent, diff_id)))
                })?
            });
            make_layer(&self.store, &chain, parent, Variant::default())
        };
        let layer = make().map_err(|error| {
            let doing = format!("cannot make a layer of the container {}", config.id.short());
            Failure::from_error(Kind::Environment, &doing, &error)
        })?;
        Ok((layer, now))
    }

    /// The image that a container was made of.
    fn image_of(&self, config: &ContainerConfig) -> Result<StoredImage, Failure> {
        let name = &config.image.name;
        let lost = || Failure::new(Kind::Environment, format!("the image `{name}` of the container is lost"));
        let digest: Digest = config.image.manifest.parse().map_err(|_| lost())?;
        let stored = Stored::look(&self.store, digest).map_err(|error| {
            Failure::from_error(error.kind(), &format!("cannot read the image `{name}`"), &error)
        })?;
        stored.images.into_iter().next().ok_or_else(lost)
    }
}

fn platform_of(config: &ImageConfig) -> Platform {
    Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        ..Platform::default()
    }
}

/// The layers of an image, as their descriptors and its config have them.
fn layers_of(image: &StoredImage) -> Result<Vec<Layer>, Failure> {
    let diff_ids = &image.config.rootfs.diff_ids;
    if diff_ids.len() != image.layers.len() {
        let message = "the image of the container has other layers than its config says";
        return Err(Failure::new(Kind::Source, message));
    }
    let layer = |(descriptor, diff_id): (&crate::registry::manifest::Descriptor, &String)| {
        let diff_id = diff_id.parse::<Digest>().map_err(|error| {
            Failure::from_error(Kind::Source, "the image of the container has an invalid diffID", &error)
        })?;
        Ok(Layer {
            diff_id: DiffId(diff_id),
            digest: descriptor.digest,
            size: descriptor.size,
            media_type: descriptor.media_type.clone(),
            annotations: descriptor.annotations.clone().unwrap_or_default(),
        })
    };
    image.layers.iter().zip(diff_ids).map(layer).collect()
}

/// What the container was started with is what the image starts with.
fn settings_of(image: &mut ImageSettings, config: &ContainerConfig) {
    let process = &config.process;
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    image.env = some(&process.env);
    image.entrypoint = some(&process.entrypoint);
    image.cmd = some(&process.command);
    image.user.clone_from(&process.user);
    image.working_dir = if process.working_dir == "/" { String::new() } else { process.working_dir.clone() };
    image.labels = Some(config.labels.clone());
    let ports: BTreeMap<String, Empty> =
        config.exposed.iter().map(|port| (port.clone(), Empty::default())).collect();
    image.exposed_ports = Some(ports);
    let volumes = config.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Volume { anonymous: true, .. } => {
            Some((mount.target.to_string_lossy().into_owned(), Empty::default()))
        }
        _ => None,
    });
    image.volumes.get_or_insert_default().extend(volumes);
    if !image.stop_signal.is_empty() || config.stop_signal != libc::SIGTERM {
        image.stop_signal = signal::name(config.stop_signal);
    }
    image.healthcheck = match &config.health {
        Some(check) => Some(health_of(check)),
        // What the container does without, its image does, too.
        None => image
            .healthcheck
            .take()
            .map(|_| HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() }),
    };
}

fn health_of(check: &HealthCheck) -> HealthConfig {
    let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    HealthConfig {
        test: check.as_image_has_it(),
        interval: nanos(check.interval),
        timeout: nanos(check.timeout),
        start_period: nanos(check.start_period),
        start_interval: nanos(check.start_interval),
        retries: check.retries.into(),
    }
}

/// What `--change` says wins; variables, labels, ports and volumes come to those that are there.
fn merge(image: &mut ImageSettings, changed: ImageSettings) {
    for variable in changed.env.into_iter().flatten() {
        let env = image.env.get_or_insert_default();
        let name = variable.split('=').next().unwrap_or_default().to_owned();
        env.retain(|other| other.split('=').next() != Some(&name));
        env.push(variable);
    }
    let extend = |map: &mut Option<BTreeMap<String, Empty>>, more: Option<BTreeMap<String, Empty>>| {
        map.get_or_insert_default().extend(more.into_iter().flatten());
    };
    extend(&mut image.exposed_ports, changed.exposed_ports);
    extend(&mut image.volumes, changed.volumes);
    image.labels.get_or_insert_default().extend(changed.labels.into_iter().flatten());
    image.on_build.get_or_insert_default().extend(changed.on_build.into_iter().flatten());
    for (ours, theirs) in [
        (&mut image.user, changed.user),
        (&mut image.working_dir, changed.working_dir),
        (&mut image.stop_signal, changed.stop_signal),
    ] {
        if !theirs.is_empty() {
            *ours = theirs;
        }
    }
    image.entrypoint = changed.entrypoint.or(image.entrypoint.take());
    image.cmd = changed.cmd.or(image.cmd.take());
    image.shell = changed.shell.or(image.shell.take());
    image.healthcheck = changed.healthcheck.or(image.healthcheck.take());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_win_and_come_to_what_is_there() {
        let list = |texts: &[&str]| Some(texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        let mut image = ImageSettings {
            env: list(&["A=1", "B=2"]),
            cmd: list(&["old"]),
            user: "me".to_owned(),
            ..ImageSettings::default()
        };
        let changed = ImageSettings {
            env: list(&["B=3", "C=4"]),
            cmd: list(&["new"]),
            volumes: Some(BTreeMap::from([("/v".to_owned(), Empty::default())])),
            ..ImageSettings::default()
        };
        merge(&mut image, changed);
        assert_eq!(
            (image.env, image.cmd, &*image.user),
            (list(&["A=1", "B=3", "C=4"]), list(&["new"]), "me")
        );
        assert_eq!(image.volumes.unwrap().keys().collect::<Vec<_>>(), ["/v"]);
    }
}
