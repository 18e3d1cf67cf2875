//! The image of a new container: found in the store, and unpacked.

use std::sync::Arc;

use wharf_cache::Store;
use wharf_frontend::image::ImageConfig;
use wharf_solver::llb::Platform;

use super::config::ImageUse;
use super::create::Base;
use crate::build::host_platform;
use crate::error::{Failure, Kind, is_of_machine};
use crate::images::find::find_leased;
use crate::registry::{OciRegistry, RegistryOptions};
use crate::source::{ImageSources, manifest_in_store};

/// Finds `name` in the store, and unpacks it. It is kept as long as this process lives; then the container keeps it.
pub(super) fn base(store: &Store, name: &str, platform: Option<&Platform>) -> Result<Base, Failure> {
    let image = find_leased(store, name)?;
    // What an image is wrong in is not the machine's fault.
    let unusable = |doing: &str, error: &(dyn std::error::Error + 'static)| {
        let kind = if is_of_machine(error) { Kind::Environment } else { Kind::Source };
        Failure::from_error(kind, &format!("{doing} of `{name}`"), error)
    };
    let images = ImageSources::new(store.clone(), Arc::new(OciRegistry::new(RegistryOptions::default())));
    let is_asked = platform.is_some();
    let platform = platform.cloned().unwrap_or_else(host_platform);
    let manifest = manifest_in_store(store, image.digest, &platform)
        .map_err(|error| unusable("cannot read the manifest", &error))?;
    let Some((manifest, _)) = manifest else {
        return Err(Failure::new(Kind::Usage, format!("`{name}` has no image for {platform} in the store")));
    };
    let full_name = image.name.clone().unwrap_or_else(|| image.digest.to_string());
    let identifier = format!("docker-image://{full_name}@{manifest}");
    let config = images.config(&identifier).map_err(|error| unusable("cannot read the config", &error))?;
    let config =
        ImageConfig::from_json(&config).map_err(|error| unusable("cannot read the config", &error))?;
    let chain =
        images.pull(&identifier, &|_| {}).map_err(|error| unusable("cannot unpack the layers", &error))?;
    store.part_shared(&chain).map_err(|error| unusable("cannot make the root file system", &error))?;
    let of_image = Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        ..Platform::default()
    };
    // An image without an index is of one platform, whatever was asked for.
    if is_asked && (of_image.os != platform.os || of_image.architecture != platform.architecture) {
        let message = format!("`{name}` is an image for {of_image}, not for {platform}");
        return Err(Failure::new(Kind::Usage, message)
            .hint("`--pull always` brings the one for that platform, if there is one"));
    }
    Ok(Base {
        image: ImageUse {
            name: name.to_owned(),
            digest: image.digest.to_string(),
            manifest: manifest.to_string(),
            platform: of_image.to_string(),
        },
        chain: chain.0.iter().map(|id| id.0).collect(),
        defaults: config.config,
    })
}
