//! Volumes, and everything else that a container has mounted: how it is asked for, where it is kept, how it gets there.
//!
//! A volume is a directory `volumes/NAME` of the store: `volume.json` says what it is, `data` holds its files as containers see
//! them. It is there whole or not at all: it is made elsewhere and moved to its name, and moved away before it is deleted. Who
//! uses it is read from the containers. [`spec`] reads what is asked; [`prepare`] is for whoever starts a container.

mod local;
pub mod prepare;
pub mod spec;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_cache::{Store, to_nanos};

use crate::containers::config::{ContainerId, MountConfig, MountKind};
use crate::error::{Failure, Kind};

/// The only driver there is: a directory of this machine, or what the kernel can mount.
pub const DRIVER: &str = "local";

/// Marks a volume that was made for one container, for tools that know Docker's.
const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// Descriptions of volumes and containers are read up to this size.
const DESCRIPTION_BYTES_MAX: u64 = 16 << 20;

const PLACE: &str = "volumes";
const DESCRIPTION: &str = "volume.json";
const DATA: &str = "data";

/// What a volume is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// What keeps it: `local`.
    #[serde(default)]
    pub driver: String,
    /// What the driver was told: `type`, `device` and `o` are those of mount(8).
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it was made: nanoseconds since 1970.
    #[serde(default)]
    pub created: i64,
    /// Whether it was made for one container.
    #[serde(default)]
    pub anonymous: bool,
}

/// Who uses a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The container.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
}

/// The volumes of a store.
#[derive(Debug, Clone, Copy)]
pub struct Volumes<'s> {
    store: &'s Store,
}

impl<'s> Volumes<'s> {
    /// Those of `store`.
    pub fn new(store: &'s Store) -> Self {
        Self { store }
    }

    /// Where the files of a volume are.
    pub fn data(&self, name: &str) -> PathBuf {
        self.dir(name).join(DATA)
    }

    fn place(&self) -> PathBuf {
        self.store.root().join(PLACE)
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.place().join(name)
    }

    /// Makes a volume unless it is there; says whether it was made. Without a name it gets 64 digits.
    pub fn create(&self, ask: &Volume) -> Result<(Volume, bool), Failure> {
        let name = if ask.name.is_empty() { random_name()? } else { ask.name.clone() };
        spec::check_name(&name).map_err(|why| Failure::new(Kind::Usage, why))?;
        let driver = if ask.driver.is_empty() { DRIVER } else { &ask.driver };
        if driver != DRIVER {
            let message = format!("there is no volume driver `{driver}`; there is `{DRIVER}`");
            return Err(Failure::new(Kind::Usage, message));
        }
        local::check(&ask.options)
            .map_err(|why| Failure::new(Kind::Usage, format!("volume `{name}`: {why}")))?;
        if let Some(there) = self.read(&name)? {
            return Ok((there, false));
        }
        let mut volume =
            Volume { name, driver: driver.to_owned(), created: to_nanos(SystemTime::now()), ..ask.clone() };
        volume.anonymous |= ask.name.is_empty();
        if volume.anonymous {
            volume.labels.entry(ANONYMOUS_LABEL.to_owned()).or_default();
        }
        let made = self.make(&volume);
        let made = made.map_err(|error| self.failed("cannot make the volume", &volume.name, &error))?;
        match (made, self.read(&volume.name)?) {
            (true, _) => {
                self.store.note_growth();
                Ok((volume, true))
            }
            (false, Some(there)) => Ok((there, false)),
            (false, None) => Err(self.not_there(&volume.name)),
        }
    }

    /// Whether it was made; else somebody was quicker.
    fn make(&self, volume: &Volume) -> io::Result<bool> {
        let temporary = self.store.temp_dir().map_err(io::Error::other)?;
        let make = || {
            fs::write(temporary.join(DESCRIPTION), serde_json::to_vec(volume)?)?;
            fs::create_dir(temporary.join(DATA))?;
            // Whatever the umask: who runs in a container is often not root.
            rustix::fs::chmod(temporary.join(DATA), Mode::from_raw_mode(0o755))?;
            let cwd = rustix::fs::CWD;
            match rustix::fs::renameat_with(
                cwd,
                &temporary,
                cwd,
                self.dir(&volume.name),
                RenameFlags::NOREPLACE,
            ) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) => Ok(false),
                Err(errno) => Err(errno.into()),
            }
        };
        let made = make();
        if !matches!(made, Ok(true)) {
            self.store.remove_temp_dir(&temporary);
        }
        made
    }

    /// The volume of a container that is started, made again if somebody has removed it meanwhile.
    fn again(&self, name: &str, anonymous: bool) -> Result<Volume, Failure> {
        let ask = Volume { name: name.to_owned(), anonymous, ..Volume::default() };
        Ok(self.create(&ask)?.0)
    }

    /// All of them, by name.
    pub fn list(&self) -> Result<Vec<Volume>, Failure> {
        let failed = |error: io::Error| {
            Failure::from_error(
                Kind::Environment,
                &format!("cannot list `{}`", self.place().display()),
                &error,
            )
        };
        let mut volumes = Vec::new();
        for entry in fs::read_dir(self.place()).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            // What has no volume's name was not put here by wharf.
            let Some(name) = name.to_str().filter(|name| spec::check_name(name).is_ok()) else { continue };
            volumes.extend(self.read(name)?);
        }
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    /// The volume with this name.
    pub fn find(&self, name: &str) -> Result<Volume, Failure> {
        let found = if spec::check_name(name).is_ok() { self.read(name)? } else { None };
        found.ok_or_else(|| self.not_there(name))
    }

    /// One whose description is damaged is a plain one: its files are what counts.
    fn read(&self, name: &str) -> Result<Option<Volume>, Failure> {
        let dir = self.dir(name);
        match fs::symlink_metadata(dir.join(DATA)) {
            Ok(data) if data.is_dir() => {}
            Ok(_) => return Ok(None),
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(self.failed("cannot look at the volume", name, &error)),
        }
        let text = read_file(&dir.join(DESCRIPTION))
            .map_err(|error| self.failed("cannot read what is said of the volume", name, &error))?;
        let mut volume: Volume = serde_json::from_slice(&text).unwrap_or_default();
        volume.name = name.to_owned();
        if volume.driver.is_empty() {
            volume.driver = DRIVER.to_owned();
        }
        Ok(Some(volume))
    }

    /// Removes a volume that no container has.
    pub fn remove(&self, name: &str) -> Result<(), Failure> {
        self.find(name)?;
        let users = self.users(name)?;
        if !users.is_empty() {
            let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
            let message = format!("the volume `{name}` is in use by {}", names.join(", "));
            return Err(
                Failure::new(Kind::Usage, message).hint("remove these containers first: `wharf rm NAME`")
            );
        }
        self.take_away(name)
    }

    /// Removes those of `mounts` that were made for their container alone, and that no other container has. What fails is told
    /// at the end.
    pub fn remove_anonymous(&self, of: &ContainerId, mounts: &[MountConfig]) -> Result<(), Failure> {
        let anonymous = mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Volume { name, anonymous: true, .. } => Some(name.as_str()),
            _ => None,
        });
        self.remove_unused(anonymous, Some(of))
    }

    /// Removes volumes that no container has but this one. What fails is told at the end.
    pub fn remove_unused<'n>(
        &self,
        names: impl IntoIterator<Item = &'n str>,
        but: Option<&ContainerId>,
    ) -> Result<(), Failure> {
        let mut failure = None;
        for name in names {
            let removed = self.users(name).and_then(|users| {
                let is_used = users.iter().any(|user| Some(&user.id) != but);
                if is_used || self.read(name)?.is_none() { Ok(()) } else { self.take_away(name) }
            });
            failure = failure.or(removed.err());
        }
        failure.map_or(Ok(()), Err)
    }

    fn take_away(&self, name: &str) -> Result<(), Failure> {
        let failed = |error: &io::Error| self.failed("cannot remove the volume", name, error);
        let aside = self.store.temp_dir().map_err(|error| failed(&io::Error::other(error)))?;
        let moved = rustix::fs::rename(self.dir(name), aside.join(DATA));
        // Deleting takes its time; from here on the volume is gone.
        self.store.remove_temp_dir(&aside);
        match moved {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed(&errno.into())),
        }
    }

    /// The containers that have a volume, as their directories say.
    pub fn users(&self, name: &str) -> Result<Vec<User>, Failure> {
        Ok(self.all_users()?.remove(name).unwrap_or_default())
    }

    /// By the names of volumes, the containers that have them. A container whose description cannot be read has none.
    pub fn all_users(&self) -> Result<BTreeMap<String, Vec<User>>, Failure> {
        let place = self.store.root().join("containers");
        let failed = |error: io::Error| {
            Failure::from_error(Kind::Environment, &format!("cannot read `{}`", place.display()), &error)
        };
        let mut users: BTreeMap<String, Vec<User>> = BTreeMap::new();
        for entry in fs::read_dir(&place).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let text = read_file(&entry.path().join("config.json")).map_err(failed)?;
            let config: Value = serde_json::from_slice(&text).unwrap_or(Value::Null);
            let (Some(id), Some(name)) = (config["id"].as_str(), config["name"].as_str()) else { continue };
            for mount in config["mounts"].as_array().into_iter().flatten() {
                if mount["kind"]["type"] == "volume"
                    && let Some(volume) = mount["kind"]["name"].as_str()
                {
                    let user = User { id: ContainerId(id.to_owned()), name: name.to_owned() };
                    let all = users.entry(volume.to_owned()).or_default();
                    if !all.contains(&user) {
                        all.push(user);
                    }
                }
            }
        }
        Ok(users)
    }

    /// Bytes that each volume takes of the disk, by its name.
    pub fn sizes(&self) -> Result<BTreeMap<String, u64>, Failure> {
        let items = self.store.items();
        let items = items.map_err(|error| {
            Failure::from_error(Kind::Environment, "cannot look through the store", &error)
        })?;
        let volumes = items.into_iter().filter(|item| item.kind == wharf_cache::gc::Kind::Volume);
        Ok(volumes.map(|item| (item.name, item.bytes)).collect())
    }

    fn not_there(&self, name: &str) -> Failure {
        Failure::new(Kind::Usage, format!("there is no volume `{name}`")).hint("`wharf volume ls` lists them")
    }

    fn failed(&self, doing: &str, name: &str, error: &io::Error) -> Failure {
        Failure::from_error(Kind::Environment, &format!("{doing} `{name}`"), error)
    }
}

/// 64 hexadecimal digits that nobody has had.
fn random_name() -> Result<String, Failure> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(Kind::Environment, format!("cannot name a volume: {}", error)))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A file's bytes; none if there is no such file.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match fs::File::open(path) {
        Ok(file) if file.metadata()?.is_file() => {
            file.take(DESCRIPTION_BYTES_MAX).read_to_end(&mut bytes)?;
        }
        Ok(_) => {}
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(bytes)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests;
