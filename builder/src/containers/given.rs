//! Files that are made for a container alone (secrets and configs): in its directory, and bound so that it cannot write to
//! them.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::ask::Ask;
use super::config::{ContainerConfig, MountConfig, MountKind};
use crate::error::{Failure, Kind};

/// Where they are in the container's directory.
const DIRECTORY: &str = "files";

fn name(place: usize) -> PathBuf {
    Path::new(DIRECTORY).join(format!("given-{place}"))
}

/// Adds their mounts. One that something else is mounted at is left out.
pub(super) fn add(ask: &Ask, config: &mut ContainerConfig, store: &Path) {
    let directory = store.join("containers").join(&config.id.0);
    for (place, file) in ask.files.iter().enumerate() {
        let source = directory.join(name(place));
        let kind = MountKind::Bind { source, create: false, propagation: None, non_recursive: false };
        config.mounts.retain(|mount| mount.target != file.target);
        config.mounts.push(MountConfig { kind, target: file.target.clone(), read_only: true });
    }
}

/// Writes them into the directory of the container.
pub(super) fn write(ask: &Ask, directory: &Path) -> Result<(), Failure> {
    for (place, file) in ask.files.iter().enumerate() {
        let path = directory.join(name(place));
        let written = || -> io::Result<()> {
            match DirBuilder::new().mode(0o700).create(directory.join(DIRECTORY)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            made.write_all(&file.bytes)?;
            // Where there is one user alone, it belongs to whoever reads it.
            match fchown(&made, Some(file.owner.0), Some(file.owner.1)) {
                Err(error) if file.owner != (0, 0) => return Err(error),
                _ => {}
            }
            made.set_permissions(fs::Permissions::from_mode(file.mode))
        };
        written().map_err(|error| {
            let doing = format!("cannot make the file `{}` of the container", file.target.display());
            Failure::from_error(Kind::Environment, &doing, &error)
        })?;
    }
    Ok(())
}
