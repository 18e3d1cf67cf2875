//! What a new container's mounts need before there is a container: sources that are there, and volumes.

use super::ask::{Ask, MountKindAsk};
use super::config::{ContainerConfig, MountKind};
use super::engine::Engine;
use crate::error::{Failure, Kind};
use crate::volumes::{Volume, Volumes};

impl Engine {
    /// Refuses binds of what is not there, and makes the volumes that are not there yet. Of a failure nothing stays that was
    /// made for this container alone.
    pub(super) fn prepare_mounts(&self, ask: &Ask, config: &ContainerConfig) -> Result<(), Failure> {
        for mount in &config.mounts {
            if let MountKind::Bind { source, create: false, .. } = &mount.kind
                && let Err(error) = source.symlink_metadata()
            {
                let doing = format!("cannot bind `{}` into the container", source.display());
                return Err(Failure::from_error(Kind::Usage, &doing, &error)
                    .hint("`-v` makes a directory where nothing is; `--mount` does not"));
            }
        }
        let made = self.make_volumes(ask, config);
        if made.is_err() {
            // Why they could not be made says more.
            let _ = Volumes::new(&self.store).remove_anonymous(&config.id, &config.mounts);
        }
        made
    }

    fn make_volumes(&self, ask: &Ask, config: &ContainerConfig) -> Result<(), Failure> {
        let volumes = Volumes::new(&self.store);
        for mount in &config.mounts {
            let MountKind::Volume { name, anonymous, .. } = &mount.kind else { continue };
            let mut volume = Volume { name: name.clone(), anonymous: *anonymous, ..Volume::default() };
            let asked = ask.mounts.iter().find(|asked| asked.target == mount.target);
            if let Some(MountKindAsk::Volume { driver, options, labels, .. }) = asked.map(|asked| &asked.kind)
            {
                volume.driver = driver.clone().unwrap_or_default();
                volume.options.clone_from(options);
                volume.labels.clone_from(labels);
            }
            volumes.create(&volume)?;
        }
        Ok(())
    }

    /// Removes volumes that no other container has.
    pub(super) fn remove_volumes(&self, names: &[String]) -> Result<(), Failure> {
        Volumes::new(&self.store).remove_unused(names.iter().map(String::as_str), None)
    }
}
