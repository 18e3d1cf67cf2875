//! The files of containers, running or not, for who looks at them, copies or commits them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use wharf_cache::diff::{Change, container_changes};
use wharf_cache::snapshot::{Kept, Lasting};
use wharf_cache::{Chain, Ids, SnapshotId};

use super::config::{ContainerConfig, MountConfig, MountKind};
use super::directory::Held;
use super::engine::{Container, Engine};
use crate::error::{Failure, Kind};
use crate::volumes::Volumes;

/// What is made in a container's root to be mounted over, besides the places of its own mounts.
const STUBS: [&str; 7] = ["dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"];

/// The files of a container, open.
#[derive(Debug)]
pub struct Files {
    root: Root,
    config: ContainerConfig,
    ids: Ids,
    data: BTreeMap<String, PathBuf>,
}

#[derive(Debug)]
enum Root {
    /// Of one that runs, with all that is mounted in it.
    Mounted(OwnedFd),
    /// Of one that does not, which nobody starts meanwhile.
    Kept { kept: Kept, _held: Held },
}

/// A directory in which a path of a container is looked up, and that path.
#[derive(Debug)]
pub struct Place {
    /// The directory.
    pub root: OwnedFd,
    /// The path below it; nothing leads out of it.
    pub path: PathBuf,
    /// Why it cannot be written, if it cannot.
    pub read_only: Option<&'static str>,
}

impl Engine {
    /// Opens the files of a container. One that does not run is kept from being started as long as they are open.
    pub fn open_files(&self, container: &Container) -> Result<Files, Failure> {
        let id = &container.config.id;
        let root = match self.root(id)? {
            Some(root) => Root::Mounted(root),
            None => {
                let directory = self.directory(id)?;
                let held = self.hold(&directory, "look into")?;
                let chain = chain_of(&container.config);
                let kept = self.store.keep_in(&chain, directory.path(), Lasting::Yes).map_err(|error| {
                    let doing = format!("cannot open the files of the container {}", id.short());
                    Failure::from_error(Kind::Environment, &doing, &error)
                })?;
                Root::Kept { kept, _held: held }
            }
        };
        let volumes = Volumes::new(&self.store);
        let names = container.config.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Volume { name, .. } => Some((name.clone(), volumes.data(name))),
            _ => None,
        });
        let ids = self.store.setup().ids;
        Ok(Files { root, config: container.config.clone(), ids, data: names.collect() })
    }

    /// The files of a container without what is mounted in it, to be read. What it changes meanwhile is seen or not.
    pub fn view(&self, container: &Container) -> Result<OwnedFd, Failure> {
        let config = &container.config;
        let directory = self.directory(&config.id)?;
        self.store.view_kept(&chain_of(config), directory.path()).map_err(|error| {
            let doing = format!("cannot open the files of the container {}", config.id.short());
            Failure::from_error(Kind::Environment, &doing, &error)
        })
    }

    /// What differs in a container from its image, by path without the first slash.
    pub fn changes(&self, container: &Container) -> Result<BTreeMap<PathBuf, Change>, Failure> {
        let config = &container.config;
        let directory = self.directory(&config.id)?;
        let hidden = hidden_in(config);
        container_changes(&self.store, &chain_of(config), directory.path(), &|path| hidden.is(path)).map_err(
            |error| {
                let doing = format!("cannot compare the container {} with its image", config.id.short());
                Failure::from_error(Kind::Environment, &doing, &error)
            },
        )
    }
}

impl Files {
    /// How owners are kept in it.
    pub fn ids(&self) -> Ids {
        self.ids
    }

    /// The root itself.
    pub fn root(&self) -> BorrowedFd<'_> {
        match &self.root {
            Root::Mounted(root) => root.as_fd(),
            Root::Kept { kept, .. } => kept.root(),
        }
    }

    /// Where a path of the container is to be looked up: its root; of one that does not run, what would be mounted there.
    pub fn place(&self, path: &Path) -> Result<Place, Failure> {
        let own = |read_only| -> Result<Place, Failure> {
            let root = self.root().try_clone_to_owned().map_err(|error| cannot_open(path, &error))?;
            Ok(Place { root, path: path.to_owned(), read_only })
        };
        let Root::Kept { .. } = &self.root else { return own(None) };
        let covering = self.config.mounts.iter().filter(|mount| path.starts_with(&mount.target));
        let Some(mount) = covering.max_by_key(|mount| mount.target.components().count()) else {
            return own(self.config.rights.read_only.then_some("the root of the container is read-only"));
        };
        let below = path.strip_prefix(&mount.target).unwrap_or(path);
        let source = self.source(mount, path)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, &source, flags, Mode::empty())
            .map_err(|errno| cannot_open(&source, &errno.into()))?;
        let is_file = rustix::fs::fstat(&root)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Directory);
        let (root, path) = if is_file {
            // Its directory, then: a file cannot hold what is looked up.
            let name = source.file_name().map(PathBuf::from).unwrap_or_default();
            let parent = source.parent().unwrap_or(Path::new("/"));
            let root = rustix::fs::openat(CWD, parent, flags, Mode::empty());
            (root.map_err(|errno| cannot_open(parent, &errno.into()))?, name.join(below))
        } else {
            (root, below.to_owned())
        };
        Ok(Place { root, path, read_only: mount.read_only.then_some("the mount there is read-only") })
    }

    fn source(&self, mount: &MountConfig, path: &Path) -> Result<PathBuf, Failure> {
        match &mount.kind {
            MountKind::Bind { source, .. } => Ok(source.clone()),
            MountKind::Volume { name, subpath, .. } => {
                let data = self.data.get(name).cloned().unwrap_or_default();
                Ok(subpath.as_ref().map_or(data.clone(), |subpath| data.join(subpath)))
            }
            MountKind::Tmpfs { .. } => {
                let message = format!("`{}` is in memory, and the container does not run", path.display());
                Err(Failure::new(Kind::Usage, message))
            }
        }
    }
}

impl Place {
    /// Opens what the path leads to; links lead no further than the root.
    pub fn open(&self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        open_in(self.root.as_fd(), &self.path, flags)
    }
}

/// Opens a path below `root` as if that were the root of everything.
pub fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
}

/// What a container stands on.
pub fn chain_of(config: &ContainerConfig) -> Chain {
    Chain(config.chain.iter().copied().map(SnapshotId).collect())
}

/// The paths of a container that are there to be mounted over, if its image has none there.
#[derive(Debug)]
pub struct Hidden(Vec<PathBuf>);

/// Those of this container.
pub fn hidden_in(config: &ContainerConfig) -> Hidden {
    let targets = config.mounts.iter().filter_map(|mount| mount.target.strip_prefix("/").ok());
    Hidden(STUBS.iter().map(PathBuf::from).chain(targets.map(Path::to_owned)).collect())
}

impl Hidden {
    /// Whether a path, without its first slash, is one of them.
    pub fn is(&self, path: &Path) -> bool {
        self.0.iter().any(|hidden| path == hidden)
            || ["dev", "proc", "sys"].iter().any(|place| path.starts_with(place))
    }
}

fn cannot_open(path: &Path, error: &std::io::Error) -> Failure {
    Failure::from_error(Kind::Environment, &format!("cannot open `{}`", path.display()), error)
}
