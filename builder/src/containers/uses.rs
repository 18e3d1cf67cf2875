//! Which containers are made of an image.

use wharf_cache::Store;
use wharf_cache::state::Image;

use super::config::ContainerConfig;
use super::directory::Containers;
use crate::error::Failure;

/// What the containers of a store are made of. One whose directory cannot be read is left out.
pub fn configs(store: &Store) -> Result<Vec<ContainerConfig>, Failure> {
    let containers = Containers::of(store.root());
    let all = containers.ids()?;
    Ok(all.iter().filter_map(|id| containers.get(id)?.config().ok()).collect())
}

/// Whether a container is made of an image, whatever that is called.
pub fn is_of(config: &ContainerConfig, image: &Image) -> bool {
    let digest = image.digest.to_string();
    config.image.digest == digest || config.image.manifest == digest
}
