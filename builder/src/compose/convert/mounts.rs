//! What a service has mounted.

use wharf_frontend::compose::model::{Mount, MountKind, Service};

use super::{Origin, wrong};
use crate::containers::ask::{MountAsk, MountKindAsk};
use crate::error::Failure;
use crate::volumes::spec::parse_tmpfs;

/// The mounts of a service, but for secrets and configs that are copied.
pub(super) fn mounts(origin: &Origin, name: &str, service: &Service) -> Result<Vec<MountAsk>, Failure> {
    let mut mounts = Vec::new();
    for mount in &service.volumes {
        if let Some(kind) = kind(origin, mount) {
            mounts.push(MountAsk { kind, target: (&mount.target).into(), read_only: mount.read_only });
        }
    }
    for text in &service.tmpfs {
        let mount = parse_tmpfs(text);
        mounts.push(mount.map_err(|failure| wrong(format!("services.{name}.tmpfs: {failure}")))?);
    }
    mounts.extend(super::files::bound(origin, name, service)?);
    Ok(mounts)
}

/// None of what is not acted on.
fn kind(origin: &Origin, mount: &Mount) -> Option<MountKindAsk> {
    match mount.kind {
        MountKind::Bind => {
            let options = mount.bind.clone().unwrap_or_default();
            Some(MountKindAsk::Bind {
                source: mount.source.as_ref()?.into(),
                create: options.create_host_path.unwrap_or(false),
                propagation: options.propagation,
                non_recursive: options.recursive.as_deref() == Some("disabled"),
            })
        }
        MountKind::Volume => {
            let options = mount.volume.clone().unwrap_or_default();
            let volume = mount.source.as_ref().and_then(|key| origin.project.volumes.get(key));
            let name = volume.and_then(|volume| volume.name.clone()).or_else(|| mount.source.clone());
            Some(MountKindAsk::Volume {
                name,
                subpath: options.subpath.map(Into::into),
                no_copy: options.nocopy,
                driver: None,
                options: std::collections::BTreeMap::new(),
                labels: options.labels,
            })
        }
        MountKind::Tmpfs => {
            let options = mount.tmpfs.clone().unwrap_or_default();
            Some(MountKindAsk::Tmpfs {
                size: options.size.and_then(|size| u64::try_from(size.0).ok()).filter(|size| *size > 0),
                mode: options.mode.map(|mode| mode.0),
                options: Vec::new(),
            })
        }
        MountKind::Cluster | MountKind::Npipe | MountKind::Image => None,
    }
}

/// `SERVICE[:ro]` and `container:NAME[:ro]`: names of containers, and whether only to read.
pub(super) fn volumes_from(
    service: &Service,
    of_service: &dyn Fn(&str) -> Result<String, Failure>,
) -> Result<Vec<(String, bool)>, Failure> {
    let one = |text: &String| {
        let (from, mode) = match text.rsplit_once(':') {
            Some((from, mode @ ("ro" | "rw"))) => (from, mode),
            _ => (text.as_str(), "rw"),
        };
        let name = match from.strip_prefix("container:") {
            Some(name) => name.to_owned(),
            None => of_service(from)?,
        };
        Ok((name, mode == "ro"))
    };
    service.volumes_from.iter().map(one).collect()
}
