//! From the mounts that were asked for to those that a container has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Volume, Volumes, spec};
use crate::containers::ask::{MountAsk, MountKindAsk};
use crate::containers::config::{ContainerId, MountConfig, MountKind};
use crate::error::{Failure, Kind};

impl Volumes<'_> {
    /// The mounts of a container: those that were asked for, those of other containers (`--volumes-from`, with whether they are
    /// to be read alone), and a volume of its own for each further path that its image says is one. What was asked for wins
    /// over the others', and these over the image's. Volumes that are not there are made; of a failure no anonymous one stays.
    pub fn decide<'i>(
        &self,
        asked: &[MountAsk],
        image: impl IntoIterator<Item = &'i str>,
        from: &[(Vec<MountConfig>, bool)],
    ) -> Result<Vec<MountConfig>, Failure> {
        let mut mounts = Vec::new();
        let decided = self.decide_into(asked, image, from, &mut mounts);
        if let Err(failure) = decided {
            // It has no container yet.
            let _ = self.remove_anonymous(&ContainerId(String::new()), &mounts);
            return Err(failure);
        }
        // What lies in another mount comes after it.
        mounts.sort_by_key(|mount| mount.target.components().count());
        Ok(mounts)
    }

    fn decide_into<'i>(
        &self,
        asked: &[MountAsk],
        image: impl IntoIterator<Item = &'i str>,
        from: &[(Vec<MountConfig>, bool)],
        mounts: &mut Vec<MountConfig>,
    ) -> Result<(), Failure> {
        let is_taken =
            |mounts: &[MountConfig], target: &Path| mounts.iter().any(|mount| mount.target == target);
        for ask in asked {
            if is_taken(mounts, &ask.target) {
                let message = format!("two mounts at `{}`", ask.target.display());
                return Err(Failure::new(Kind::Usage, message).hint("give each place in the container once"));
            }
            let kind = self.decide_kind(&ask.kind)?;
            mounts.push(MountConfig { kind, target: ask.target.clone(), read_only: ask.read_only });
        }
        for (others, read_only) in from {
            for mount in others {
                if !is_taken(mounts, &mount.target) {
                    mounts.push(MountConfig { read_only: mount.read_only || *read_only, ..mount.clone() });
                }
            }
        }
        for path in image {
            let target = spec::target_of(path)
                .map_err(|why| Failure::new(Kind::Source, format!("the image's volume `{path}`: {why}")))?;
            if !is_taken(mounts, &target) {
                let (volume, _) = self.create(&Volume { anonymous: true, ..Volume::default() })?;
                mounts.push(anonymous_at(volume.name, target));
            }
        }
        Ok(())
    }

    fn decide_kind(&self, ask: &MountKindAsk) -> Result<MountKind, Failure> {
        Ok(match ask.clone() {
            MountKindAsk::Bind { source, create, propagation, non_recursive } => {
                MountKind::Bind { source, create, propagation, non_recursive }
            }
            MountKindAsk::Tmpfs { size, mode, options } => MountKind::Tmpfs { size, mode, options },
            MountKindAsk::Volume { name, subpath, no_copy, driver, options, labels } => {
                let anonymous = name.is_none();
                let ask = Volume {
                    name: name.unwrap_or_default(),
                    driver: driver.unwrap_or_default(),
                    options,
                    labels,
                    anonymous,
                    created: 0,
                };
                let (volume, _) = self.create(&ask)?;
                MountKind::Volume { name: volume.name, subpath, anonymous, no_copy }
            }
        })
    }

    /// The volume of a container that is started, made again if somebody has removed it meanwhile.
    pub(super) fn again(&self, name: &str, anonymous: bool) -> Result<Volume, Failure> {
        let ask = Volume { name: name.to_owned(), anonymous, options: BTreeMap::new(), ..Volume::default() };
        Ok(self.create(&ask)?.0)
    }
}

fn anonymous_at(name: String, target: PathBuf) -> MountConfig {
    let kind = MountKind::Volume { name, subpath: None, anonymous: true, no_copy: false };
    MountConfig { kind, target, read_only: false }
}
