//! The directories of containers: who is there, under which name, what it is made of and how it stands.
//!
//! Everything that makes or removes a container, and everything that changes names or a `config.json`, is done under
//! [`Containers::change`], a lock of the whole place that is held for moments. A state is written by whoever holds the
//! container's own lock ([`Held`]): its monitor for as long as that lives, else whoever has it. So nobody changes a
//! container while it is started or removed, and a lock that nobody holds says that nothing runs.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wharf_cache::Store;
use wharf_runtime::cgroup::StepGroups;

use super::config::{ContainerConfig, ContainerId};
use super::names;
use super::state::{ContainerState, Status};
use crate::error::{Failure, Kind};

/// Bytes of a configuration or a state at most.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

/// Digits of an identifier.
const ID_DIGITS: usize = 64;

/// How often, and with which pause, a container's lock is tried before somebody is said to hold it: who only looks whether
/// it is held holds it for a moment.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// How often, and with which pause, a state is read again that is just being written.
const READ_ATTEMPTS: u32 = 5;
const READ_PAUSE: Duration = Duration::from_millis(2);

/// The exit status that a container is said to have when its monitor was killed: it was killed with it.
pub const KILLED: u8 = 137;
/// The exit status that it is said to have when the machine was restarted, and nobody knows.
pub const UNKNOWN: u8 = 255;

/// All containers of a store.
#[derive(Debug, Clone)]
pub struct Containers {
    path: PathBuf,
}

/// That this process alone changes which containers there are, what they are called and what they are made of.
#[derive(Debug)]
pub struct Change<'a> {
    containers: &'a Containers,
    _lock: OwnedFd,
}

/// The directory of one container.
#[derive(Debug, Clone)]
pub struct Directory {
    id: ContainerId,
    path: PathBuf,
}

/// The directory of one container, whose lock this process holds.
#[derive(Debug)]
pub struct Held {
    directory: Directory,
    _lock: OwnedFd,
}

impl Containers {
    /// Those of the store at `root`.
    pub fn of(root: &Path) -> Self {
        Self { path: root.join("containers") }
    }

    /// The identifiers of all of them, sorted.
    pub fn ids(&self) -> Result<Vec<ContainerId>, Failure> {
        let failed = |error: io::Error| self.failed("list the containers in", &self.path, &error);
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            ids.extend(name.to_str().filter(|name| is_id(name)).map(|name| ContainerId(name.to_owned())));
        }
        ids.sort();
        Ok(ids)
    }

    /// The directory of the container with this identifier, if there is one.
    pub fn get(&self, id: &ContainerId) -> Option<Directory> {
        let directory = self.directory(id);
        (is_id(&id.0) && directory.path.is_dir()).then_some(directory)
    }

    /// The container that is called so, or whose identifier begins so.
    pub fn find(&self, name_or_digits: &str) -> Result<Directory, Failure> {
        let asked = name_or_digits.strip_prefix('/').unwrap_or(name_or_digits);
        let whole = ContainerId(asked.to_owned());
        if let Some(directory) = self.get(&whole).or_else(|| self.named(asked)) {
            return Ok(directory);
        }
        let is_prefix = !asked.is_empty() && asked.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut found = if is_prefix { self.ids()? } else { Vec::new() };
        found.retain(|id| id.0.starts_with(asked));
        match found.as_slice() {
            [id] => Ok(self.directory(id)),
            [] => Err(Failure::new(Kind::Usage, format!("there is no container `{name_or_digits}`"))
                .hint("`wharf ps -a` lists all containers")),
            several => {
                let some: Vec<&str> = several.iter().take(4).map(ContainerId::short).collect();
                let more = if several.len() > some.len() { " and others" } else { "" };
                let message = format!("`{name_or_digits}` may be the container {}{more}", some.join(" or "));
                Err(Failure::new(Kind::Usage, message).hint("give more digits, or the name"))
            }
        }
    }

    /// The container that is called so.
    pub fn named(&self, name: &str) -> Option<Directory> {
        if !names::is_name(name) {
            return None;
        }
        let id = fs::read_to_string(self.entry(name)).ok()?;
        // An entry may have been left by who was killed while a container was made or removed.
        self.get(&ContainerId(id.trim().to_owned()))
    }

    /// Waits until nobody else changes anything here.
    pub fn change(&self) -> Result<Change<'_>, Failure> {
        let lock = self.path.join("lock");
        let take = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(self.path.join("names"))?;
            let file = open_lock(&lock)?;
            loop {
                match flock(&file, FlockOperation::LockExclusive) {
                    Ok(()) => return Ok(file),
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(io::Error::from(errno)),
                }
            }
        };
        let lock = take().map_err(|error| self.failed("lock", &self.path, &error))?;
        Ok(Change { containers: self, _lock: lock })
    }

    /// Removes a container that this process holds: for whoever looks all of it at once. What of it was mounted has to be
    /// unmounted by now.
    pub fn remove(&self, held: Held, store: &Store) -> Result<(), Failure> {
        let directory = &held.directory;
        let doing = format!("cannot remove the container {}", directory.id.short());
        let failed = |error: &io::Error| Failure::from_error(Kind::Environment, &doing, error);
        let rubbish =
            store.temp_dir().map_err(|error| Failure::from_error(Kind::Environment, &doing, &error))?;
        let moved = {
            let change = self.change()?;
            change.names_of(&directory.id).and_then(|names| {
                // Whoever is killed in between leaves a name that stands for nobody, which is free.
                fs::rename(&directory.path, rubbish.join("container"))?;
                names.iter().try_for_each(|name| remove_file(&self.entry(name)))
            })
        };
        // This may take its time.
        store.remove_temp_dir(&rubbish);
        moved.map_err(|error| failed(&error))
    }

    fn directory(&self, id: &ContainerId) -> Directory {
        Directory { id: id.clone(), path: self.path.join(&id.0) }
    }

    fn entry(&self, name: &str) -> PathBuf {
        self.path.join("names").join(name)
    }

    fn failed(&self, doing: &str, path: &Path, error: &io::Error) -> Failure {
        Failure::from_error(Kind::Environment, &format!("cannot {doing} `{}`", path.display()), error)
    }
}

impl Change<'_> {
    /// A name that nobody has.
    pub fn free_name(&self) -> Result<String, Failure> {
        /// Names that are tried; the last ones have a number.
        const ATTEMPTS: u32 = 64;
        for attempt in 0..ATTEMPTS {
            let name = names::invent(attempt).map_err(|error| {
                self.containers.failed("make up a name of a container in", &self.containers.path, &error)
            })?;
            if self.containers.named(&name).is_none() {
                return Ok(name);
            }
        }
        Err(Failure::new(
            Kind::Environment,
            "no name for the container could be made up: too many are in use",
        )
        .hint("give it one: `--name NAME`"))
    }

    /// Makes a container of `config`, which is held by this process then. Nobody sees it before it is whole.
    pub fn create(&self, config: &ContainerConfig) -> Result<Held, Failure> {
        self.require_free(&config.name)?;
        let containers = self.containers;
        let directory = containers.directory(&config.id);
        let unfinished =
            Directory { path: containers.path.join(format!(".new-{}", config.id)), ..directory.clone() };
        let failed = |error: io::Error| containers.failed("make the container", &directory.path, &error);
        if !is_id(&config.id.0) || directory.path.exists() {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        }
        let make = || {
            self.clear_leftovers()?;
            fs::DirBuilder::new().mode(0o700).create(&unfinished.path)?;
            let lock = open_lock(&unfinished.lock_path())?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            unfinished.write("config.json", config, true)?;
            unfinished.write("state.json", &ContainerState::default(), false)?;
            self.enter_name(&config.name, &config.id)?;
            fs::rename(&unfinished.path, &directory.path)?;
            Ok(lock)
        };
        match make() {
            Ok(lock) => Ok(Held { directory: directory.clone(), _lock: lock }),
            Err(error) => {
                // Whatever cannot be removed now is when the next container is made.
                let _ = fs::remove_file(containers.entry(&config.name));
                let _ = fs::remove_dir_all(&unfinished.path);
                Err(failed(error))
            }
        }
    }

    /// Gives a container another name.
    pub fn rename(&self, directory: &Directory, name: &str) -> Result<(), Failure> {
        self.require_free(name)?;
        let mut config = directory.config()?;
        let before = std::mem::replace(&mut config.name, name.to_owned());
        let rename = || {
            self.enter_name(name, &directory.id)?;
            directory.write("config.json", &config, true).inspect_err(|_| {
                // Whatever cannot be removed now goes with the container.
                let _ = remove_file(&self.containers.entry(name));
            })?;
            remove_file(&self.containers.entry(&before))
        };
        rename().map_err(|error| self.containers.failed("rename the container", &directory.path, &error))
    }

    /// Changes what a container is made of; its name stays.
    pub fn change_config(
        &self,
        directory: &Directory,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Result<(), Failure> {
        let mut config = directory.config()?;
        let name = config.name.clone();
        change(&mut config);
        config.name = name;
        directory
            .write("config.json", &config, true)
            .map_err(|error| self.containers.failed("change the container", &directory.path, &error))
    }

    /// The names that stand for `id`: one, or two of a container whose renaming was interrupted.
    fn names_of(&self, id: &ContainerId) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.containers.path.join("names"))? {
            let entry = entry?;
            if fs::read_to_string(entry.path()).is_ok_and(|text| text.trim() == id.0) {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn require_free(&self, name: &str) -> Result<(), Failure> {
        if !names::is_name(name) {
            return Err(Failure::new(Kind::Usage, format!("`{name}` is no name for a container"))
                .hint("a name is letters, digits, `_`, `.` and `-`, at least two, a letter or digit first"));
        }
        match self.containers.named(name) {
            None => Ok(()),
            Some(other) => Err(Failure::new(
                Kind::Usage,
                format!("the name `{name}` is in use by the container {}", other.id.short()),
            )
            .hint(format!("remove that one (`wharf rm {name}`), rename it, or give another name"))),
        }
    }

    fn enter_name(&self, name: &str, id: &ContainerId) -> io::Result<()> {
        let entry = self.containers.entry(name);
        // One that stands for nobody is in the way.
        remove_file(&entry)?;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&entry)?;
        file.write_all(id.0.as_bytes()).inspect_err(|_| {
            // On a full disk it would stay empty. One that cannot be removed is free.
            let _ = fs::remove_file(&entry);
        })
    }

    /// Removes what somebody who was killed had begun to make.
    fn clear_leftovers(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.containers.path)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with(".new-") {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }
}

impl Directory {
    /// Whose it is.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its log is.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// What the container is made of.
    pub fn config(&self) -> Result<ContainerConfig, Failure> {
        self.read("config.json").map_err(|error| {
            let doing = format!("cannot read what the container {} is made of", self.id.short());
            Failure::from_error(Kind::Environment, &doing, &error)
                .hint(format!("if it is lost, remove the container: `wharf rm -f {}`", self.id.short()))
        })
    }

    /// The state as it was written last; who holds the lock knows it to be true.
    pub fn written_state(&self) -> ContainerState {
        let mut read = self.read("state.json");
        for _ in 0..READ_ATTEMPTS {
            if read.is_ok() {
                break;
            }
            // On a full disk it is written in place.
            thread::sleep(READ_PAUSE);
            read = self.read("state.json");
        }
        // A machine that lost its power may have lost the last words.
        read.unwrap_or_else(|error| ContainerState {
            status: Status::Exited,
            exit_code: UNKNOWN,
            error: Some(format!("what became of it is not known: its state cannot be read: {error}")),
            ..ContainerState::default()
        })
    }

    /// How it stands with the container: what was written, unless it says that something runs and nobody watches over it.
    pub fn state(&self) -> ContainerState {
        let state = self.written_state();
        if !state.status.is_watched() || self.is_held() {
            return state;
        }
        // It may have ended in good order since.
        let state = self.written_state();
        if state.status.is_watched() { self.abandoned(state) } else { state }
    }

    /// Whether somebody holds the lock: a monitor, or who changes it.
    pub fn is_held(&self) -> bool {
        open_lock(&self.lock_path())
            .is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK))
    }

    /// Takes the lock; none if somebody holds it. A state that is not true any more is put right.
    pub fn hold(&self) -> Result<Option<Held>, Failure> {
        let failed = |error: io::Error| {
            let doing = format!("cannot lock the container {}", self.id.short());
            Failure::from_error(Kind::Environment, &doing, &error)
        };
        let lock = match open_lock(&self.lock_path()) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.gone()),
            Err(error) => return Err(failed(error)),
        };
        for attempt in 0..LOCK_ATTEMPTS {
            if attempt > 0 {
                thread::sleep(LOCK_PAUSE);
            }
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return self.held(lock).map(Some),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
        Ok(None)
    }

    fn held(&self, lock: OwnedFd) -> Result<Held, Failure> {
        // It may have been removed before it was locked.
        let is_there = fs::symlink_metadata(self.lock_path()).is_ok_and(|there| {
            rustix::fs::fstat(&lock).is_ok_and(|own| (own.st_dev, own.st_ino) == (there.dev(), there.ino()))
        });
        if !is_there {
            return Err(self.gone());
        }
        let held = Held { directory: self.clone(), _lock: lock };
        let state = self.written_state();
        if state.status.is_watched() {
            held.write_state(&self.abandoned(state))?;
            // Its files went with it; its control groups stay.
            let parent = self.config().ok().and_then(|config| config.resources.cgroup_parent);
            StepGroups::clear(parent.as_deref());
        }
        Ok(held)
    }

    fn gone(&self) -> Failure {
        Failure::new(Kind::Usage, format!("there is no container {} any more", self.id.short()))
    }

    /// What is true of a container whose monitor has gone without a word.
    fn abandoned(&self, state: ContainerState) -> ContainerState {
        let same_boot = boot_id().is_some_and(|boot| state.boot.as_deref() == Some(boot.as_str()));
        let (exit_code, error) = match same_boot {
            true => (KILLED, "its monitor was killed, and it with it"),
            false => (UNKNOWN, "the machine was restarted while it ran"),
        };
        // Nobody has written when it ended: it was alive when the last word was written.
        let written = [self.path.join("state.json"), self.log().join(super::log::FILE)];
        let last = written.iter().filter_map(|path| fs::metadata(path).ok()?.modified().ok()).max();
        ContainerState {
            status: Status::Exited,
            pid: None,
            finished: last.map(wharf_cache::to_nanos).max(state.started),
            exit_code,
            error: Some(error.to_owned()),
            endpoints: Vec::new(),
            ports: Vec::new(),
            ..state
        }
    }

    fn lock_path(&self) -> PathBuf {
        self.path.join("lock")
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<T> {
        let mut text = Vec::new();
        let read = File::open(self.path.join(name))?.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut text)?;
        if read as u64 > DOCUMENT_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("`{name}` is too long")));
        }
        serde_json::from_slice(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("`{name}`: {error}")))
    }

    /// Writes a document over the one that is there.
    fn overwrite(&self, name: &str, document: &impl Serialize) -> io::Result<()> {
        // What was begun beside it is in the way.
        remove_file(&self.path.join(format!(".{name}")))?;
        let text = serde_json::to_vec(document)?;
        let mut file = File::options().write(true).open(self.path.join(name))?;
        file.write_all(&text)?;
        file.set_len(text.len() as u64)
    }

    /// Writes a document whole: who reads it sees the old one or the new one.
    fn write(&self, name: &str, document: &impl Serialize, lasts: bool) -> io::Result<()> {
        let temporary = self.path.join(format!(".{name}"));
        let text = serde_json::to_vec(document)?;
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&text)?;
        if lasts {
            file.sync_data()?;
        }
        fs::rename(&temporary, self.path.join(name))
    }
}

impl Held {
    /// The directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Writes how it stands with the container.
    pub fn write_state(&self, state: &ContainerState) -> Result<(), Failure> {
        let written = match self.directory.write("state.json", state, false) {
            // What it takes now is the state's already.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                self.directory.overwrite("state.json", state)
            }
            written => written,
        };
        written.map_err(|error| {
            let doing = format!("cannot write the state of the container {}", self.directory.id.short());
            Failure::from_error(Kind::Environment, &doing, &error)
        })
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id.short())
    }
}

/// A new identifier.
pub fn new_id() -> io::Result<ContainerId> {
    let mut bytes = [0; ID_DIGITS / 2];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(ContainerId(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// Which run of the machine this is.
pub fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

fn is_id(name: &str) -> bool {
    name.len() == ID_DIGITS && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Opens a file to lock. One that was lost is made anew: without it nobody could remove what it is in.
fn open_lock(path: &Path) -> io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(file.into())
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::containers::config::{ImageUse, LogConfig, NetworkUse, ProcessConfig, RestartPolicy};

    /// An empty store and its containers.
    struct Place {
        root: PathBuf,
        containers: Containers,
    }

    impl Place {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("wharf-containers-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            drop(Store::open(&root).unwrap());
            let containers = Containers::of(&root);
            Self { root, containers }
        }

        fn create(&self, id: char, name: &str) -> Result<Held, Failure> {
            self.containers.change()?.create(&config(&id.to_string().repeat(ID_DIGITS), name))
        }

        fn store(&self) -> Store {
            Store::open(&self.root).unwrap()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    pub(crate) fn config(id: &str, name: &str) -> ContainerConfig {
        ContainerConfig {
            id: ContainerId(id.to_owned()),
            name: name.to_owned(),
            created: 1,
            image: ImageUse {
                name: "image".to_owned(),
                digest: String::new(),
                manifest: String::new(),
                platform: "linux/amd64".to_owned(),
            },
            chain: vec![1, u64::MAX],
            process: ProcessConfig::default(),
            hostname: None,
            domainname: None,
            labels: Default::default(),
            annotations: Default::default(),
            stop_signal: 15,
            stop_timeout: None,
            restart: RestartPolicy::OnFailure { times: Some(2) },
            auto_remove: false,
            health: None,
            log: LogConfig::default(),
            rights: Default::default(),
            resources: Default::default(),
            mounts: Vec::new(),
            network: NetworkUse::None,
            ports: Vec::new(),
            exposed: Vec::new(),
            pid: Default::default(),
            ipc: Default::default(),
            uts: Default::default(),
            extra_hosts: Vec::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
        }
    }

    #[test]
    fn a_container_is_found_by_name_and_by_digits() {
        let place = Place::new("find");
        assert!(place.containers.ids().unwrap().is_empty());
        for (id, name) in [('a', "one"), ('b', "two"), ('c', "bbb")] {
            drop(place.create(id, name).unwrap());
        }
        let mixed = format!("b{}", "c".repeat(ID_DIGITS - 1));
        drop(place.containers.change().unwrap().create(&config(&mixed, "four")).unwrap());
        let check = |asked: &str, expected: Result<char, &str>| {
            let found = place.containers.find(asked).map(|found| found.id().0.clone());
            match expected {
                Ok(digit) => assert_eq!(found.unwrap(), digit.to_string().repeat(ID_DIGITS), "{asked}"),
                Err(words) => {
                    let message = found.unwrap_err().message;
                    assert!(message.contains(words), "{asked}: {message}");
                }
            }
        };
        check("one", Ok('a'));
        check("/one", Ok('a'));
        check("a", Ok('a'));
        check(&"a".repeat(ID_DIGITS), Ok('a'));
        check("bbb", Ok('c'));
        check("bbbb", Ok('b'));
        check("b", Err("may be the container"));
        check("", Err("there is no container"));
        check("..", Err("there is no container"));
        check("../names", Err("there is no container"));
        check(&"a".repeat(ID_DIGITS + 1), Err("there is no container"));
        assert_eq!(place.containers.ids().unwrap().len(), 4);
        let config_of = place.containers.find("one").unwrap().config().unwrap();
        assert_eq!(config_of, config(&"a".repeat(ID_DIGITS), "one"));
    }

    #[test]
    fn names_are_unique_and_change() {
        let place = Place::new("names");
        drop(place.create('a', "one").unwrap());
        let refused = place.create('b', "one").unwrap_err();
        assert!(refused.message.contains("in use by the container aaaaaaaaaaaa"), "{refused}");
        assert!(place.create('b', "-x").is_err() && place.create('b', "x/y").is_err());
        assert_eq!(place.containers.ids().unwrap().len(), 1);
        let one = place.containers.find("one").unwrap();
        place.containers.change().unwrap().rename(&one, "other").unwrap();
        assert_eq!(one.config().unwrap().name, "other");
        assert!(place.containers.named("one").is_none() && place.containers.named("other").is_some());
        drop(place.create('b', "one").unwrap());
        let made_up = place.containers.change().unwrap().free_name().unwrap();
        assert!(names::is_name(&made_up) && made_up.contains('_'), "{made_up}");
    }

    #[test]
    fn what_a_killed_process_leaves_is_in_nobodys_way() {
        let place = Place::new("killed");
        drop(place.create('a', "one").unwrap());
        let containers = place.root.join("containers");
        // Killed before it was whole, with its name entered already; and killed while it was removed.
        fs::create_dir(containers.join(format!(".new-{}", "b".repeat(ID_DIGITS)))).unwrap();
        fs::write(containers.join("names/two"), "b".repeat(ID_DIGITS)).unwrap();
        fs::write(containers.join("names/three"), "").unwrap();
        fs::write(containers.join(".new-file"), "").unwrap();
        assert!(place.containers.named("two").is_none());
        assert_eq!(place.containers.ids().unwrap().len(), 1);
        drop(place.create('b', "two").unwrap());
        drop(place.create('c', "three").unwrap());
        assert_eq!(place.containers.ids().unwrap().len(), 3);
        let names: Vec<_> =
            fs::read_dir(&containers).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 5, "{names:?}");
    }

    #[test]
    fn one_whose_lock_is_lost_can_be_removed() {
        let place = Place::new("lockless");
        let directory = place.create('a', "one").unwrap().directory().clone();
        fs::remove_file(directory.lock_path()).unwrap();
        let held = directory.hold().unwrap().unwrap();
        assert!(directory.is_held());
        place.containers.remove(held, &place.store()).unwrap();
        assert_eq!(place.containers.ids().unwrap(), []);
        assert!(!directory.is_held());
    }

    #[test]
    fn a_removed_container_leaves_nothing() {
        let place = Place::new("remove");
        let held = place.create('a', "one").unwrap();
        let directory = held.directory().clone();
        assert!(directory.hold().unwrap().is_none(), "it is held");
        fs::create_dir(directory.path().join("upper")).unwrap();
        fs::write(directory.path().join("upper/file"), "x").unwrap();
        let store = place.store();
        place.containers.remove(held, &store).unwrap();
        assert!(place.containers.find("one").is_err());
        assert!(directory.hold().unwrap_err().message.contains("no container"));
        assert_eq!(fs::read_dir(place.root.join("containers/names")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(place.root.join("containers")).unwrap().count(), 2, "names and lock");
        drop(place.create('a', "one").unwrap());
    }

    #[test]
    fn a_state_is_only_believed_while_somebody_holds_the_lock() {
        let place = Place::new("state");
        let held = place.create('a', "one").unwrap();
        let directory = held.directory().clone();
        let check = |held: Option<Held>, boot: Option<String>, status, expected: (Status, u8)| {
            let held = held.unwrap_or_else(|| directory.hold().unwrap().unwrap());
            let state = ContainerState { status, boot, pid: Some(1), ..ContainerState::default() };
            held.write_state(&state).unwrap();
            assert_eq!(directory.state(), state, "while it is held");
            drop(held);
            let now = directory.state();
            assert_eq!((now.status, now.exit_code), expected);
            assert_eq!(now.error.is_some(), status != now.status, "{now:?}");
            assert_eq!(directory.written_state(), state, "looking changes nothing");
            drop(directory.hold().unwrap().unwrap());
            assert_eq!(directory.written_state(), now, "taking the lock puts it right");
        };
        check(Some(held), boot_id(), Status::Running, (Status::Exited, KILLED));
        check(None, Some("another".to_owned()), Status::Paused, (Status::Exited, UNKNOWN));
        check(None, None, Status::Restarting, (Status::Exited, UNKNOWN));
        check(None, boot_id(), Status::Created, (Status::Created, 0));
        check(None, boot_id(), Status::Exited, (Status::Exited, 0));
        fs::write(directory.path().join("state.json"), "").unwrap();
        assert_eq!((directory.state().status, directory.state().exit_code), (Status::Exited, UNKNOWN));
    }

    #[test]
    fn a_damaged_config_is_told_and_does_not_keep_the_container() {
        let place = Place::new("damaged");
        drop(place.create('a', "one").unwrap());
        let directory = place.containers.find("one").unwrap();
        fs::write(directory.path().join("config.json"), "{").unwrap();
        assert!(directory.config().unwrap_err().message.contains("cannot read what the container"));
        let held = directory.hold().unwrap().unwrap();
        place.containers.remove(held, &place.store()).unwrap();
        assert!(place.containers.find("one").is_err());
    }
}
