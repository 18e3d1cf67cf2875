//! `type=cache`: directories of the store that stay between builds.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::PoisonError;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use wharf_cache::Ids;
use wharf_cache::mounts::{CacheMount, MountName, MountRequest, Sharing};
use wharf_runtime::Sandbox;
use wharf_solver::llb::{ActionInput, CacheSharing, CopyAction, FileChange, Mount, MountKind};
use wharf_solver::op::ResultRef;

use super::files::subtree;
use super::{MountError, Part, Worker, at};
use crate::worker::{WorkerError, file, whole};

/// The caches of a step: which of its ordered mounts is the first of each, and how it is used.
type Wanted = BTreeMap<MountName, (usize, Sharing)>;

/// Pause between two looks at a cache that another step has for itself.
const LOCK_POLL: Duration = Duration::from_millis(10);

impl Worker<'_> {
    /// What caches the mounts name. A step that names one twice has it once, as the stricter mount says.
    pub(super) fn caches(
        &self,
        mounts: &[(usize, &Mount)],
        inputs: &[ResultRef],
    ) -> Result<Wanted, WorkerError> {
        let mut wanted = Wanted::new();
        for (index, (number, mount)) in mounts.iter().enumerate() {
            let MountKind::Cache { sharing, .. } = &mount.kind else { continue };
            let name = self.cache_name(mount, mount.input.map(|input| &inputs[input]));
            let name = name.map_err(at(Part::Mount(*number)))?;
            let sharing = match sharing {
                // It is in one place at a time.
                CacheSharing::Shared if self.sandbox == Sandbox::Chroot => Sharing::Locked,
                CacheSharing::Shared => Sharing::Shared,
                CacheSharing::Private => Sharing::Private,
                CacheSharing::Locked => Sharing::Locked,
            };
            let (_, strictest) = wanted.entry(name).or_insert((index, sharing));
            *strictest = (*strictest).max(sharing);
        }
        Ok(wanted)
    }

    pub(super) fn cache_name(
        &self,
        mount: &Mount,
        input: Option<&ResultRef>,
    ) -> Result<MountName, MountError> {
        let MountKind::Cache { id, mode, uid, gid, .. } = &mount.kind else {
            return Ok(MountName::new("", None, [None; 3]));
        };
        Ok(MountName::new(id, self.seed_digest(input)?.as_ref(), [*mode, *uid, *gid]))
    }

    /// Takes a cache, and waits for it if it must. `fresh`: the first step of the build that wants it finds it empty.
    pub(super) fn take_cache(
        &self,
        name: &MountName,
        sharing: Sharing,
        mount: &Mount,
        inputs: &[ResultRef],
        fresh: bool,
    ) -> Result<CacheMount, MountError> {
        let imported = Cell::new(None);
        loop {
            // Of steps that are to find it empty, the first ones take turns; the others wait for nobody.
            let mut emptied =
                fresh.then(|| self.emptied_caches.lock().unwrap_or_else(PoisonError::into_inner));
            let instance = emptied.as_ref().and_then(|emptied| emptied.get(name).copied());
            let request = MountRequest {
                name,
                sharing,
                first: instance.unwrap_or(0),
                fresh: fresh && instance.is_none(),
            };
            let fill = |root: BorrowedFd<'_>| {
                // No mount is made of a transfer that was stopped: it would stay cold for good.
                let packed = match fresh {
                    true => None,
                    false => self
                        .imports
                        .bring_mount(name, root, self.store.setup().ids, &self.cancel)
                        .map_err(|_| MountError::Cancelled)?,
                };
                imported.set(packed);
                if packed.is_some() { Ok(()) } else { self.fill(root, mount, inputs) }
            };
            if let Some(cache) = self.store.try_mount(&request, &fill)? {
                if let Some(emptied) = emptied.as_mut().filter(|_| request.fresh) {
                    emptied.insert(name.clone(), cache.number());
                }
                if let Some(packed) = imported.take() {
                    cache.remember_packed(&packed);
                }
                self.used_mounts.add(name, cache.number());
                return Ok(cache);
            }
            drop(emptied);
            if self.cancel.is_cancelled() {
                return Err(MountError::Cancelled);
            }
            std::thread::sleep(LOCK_POLL);
        }
    }

    /// What a new cache begins with: the files of `from`, and the owner that was asked for.
    fn fill(&self, root: BorrowedFd<'_>, mount: &Mount, inputs: &[ResultRef]) -> Result<(), MountError> {
        let ids = self.store.setup().ids;
        if let Some(input) = mount.input {
            let seed = self.open(&inputs[input])?;
            let copy = CopyAction { from: Some(ActionInput::Input(0)), dest: "/".to_owned(), ..whole("/") };
            file::execute(&FileChange::Copy(copy), root, ids, Some(seed.source()), None)
                .map_err(MountError::Copy)?;
            if !seed.is_local() {
                look_like(root, ids, seed.tree().root).map_err(MountError::io("make a cache"))?;
            }
        }
        let MountKind::Cache { mode, uid, gid, .. } = &mount.kind else { return Ok(()) };
        if mode.is_none() && uid.is_none() && gid.is_none() {
            return Ok(());
        }
        own(root, ids, (uid.unwrap_or(0), gid.unwrap_or(0)), mode.unwrap_or(0o755))
            .map_err(MountError::io("make a cache"))
    }
}

/// The part of a cache that a mount shows.
pub(super) fn part(cache: &CacheMount, name: &MountName, mount: &Mount) -> Result<OwnedFd, MountError> {
    subtree(cache.root(), &mount.selector, "the cache").map_err(|error| match error {
        MountError::NotFound { path, .. } => MountError::NotInCache { id: name.id().to_owned(), path },
        error => error,
    })
}

/// Gives the directory `root` mode and owner of the directory `model`.
pub(super) fn look_like(root: BorrowedFd<'_>, ids: Ids, model: BorrowedFd<'_>) -> io::Result<()> {
    let model = ids.stat_of(model)?;
    own(root, ids, (model.uid, model.gid), model.mode)
}

pub(super) fn own(root: BorrowedFd<'_>, ids: Ids, owner: (u32, u32), mode: u32) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    ids.set_owner_of(&dir, owner)?;
    Ok(rustix::fs::fchmod(dir.as_fd(), Mode::from_raw_mode(mode))?)
}
