//! Cache mounts: directories that stay between builds (`RUN --mount=type=cache`).
//!
//! On disk a cache is `mounts/<name>.<n>/`: `fs/` is what steps see, `id` what the user calls it. Usually there is one
//! instance, number 0; more come to be when a step must not share it with another. Whoever uses an instance holds a
//! `flock` on its directory, shared or exclusive, which dies with the process. An instance is made below `tmp/` and
//! renamed into place, so one that can be seen is whole.
//!
//! An instance can travel as an [`Archive`]. Which archive it was made from, or packed as, is in its file `packed` together
//! with a fingerprint of all its stats: as long as that is the same, so is the archive.

mod archive;
mod chunks;
mod fingerprint;
mod links;
mod pack;
#[cfg(test)]
mod round_trip;
#[cfg(test)]
pub(crate) mod tests;
mod unpack;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW,
};
use rustix::io::Errno;

pub use archive::{Archive, ArchiveError, CHUNKS_MAX, Chunk};
pub use fingerprint::{Fingerprint, Packed};
pub use pack::{Known, Put};
pub use unpack::Fetch;

use crate::store::Damage;
use crate::{ContentDigest, Store, StoreError};

/// Instances that one cache may have; only as many as there are steps at once come to be.
const INSTANCES_MAX: u32 = 4096;

/// Which cache: what the user calls it and what it began with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountName {
    hex: String,
    id: String,
    seed: Option<ContentDigest>,
    owner: [Option<u32>; 3],
}

impl MountName {
    /// The cache `id` that began with the files of `seed`, or empty, and whose root was given this mode, user and group.
    ///
    /// The owner is part of the name: a step that asks for a directory of user 1000 cannot use one that another step
    /// made for root.
    pub fn new(id: &str, seed: Option<&ContentDigest>, owner: [Option<u32>; 3]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("wharf cache mount, version 1");
        hasher.update(&(id.len() as u64).to_le_bytes()).update(id.as_bytes());
        hasher.update(&[u8::from(seed.is_some())]);
        if let Some(seed) = seed {
            hasher.update(&seed.0);
        }
        for number in owner {
            hasher.update(&[u8::from(number.is_some())]).update(&number.unwrap_or(0).to_le_bytes());
        }
        let hex = hasher.finalize().to_hex().to_string();
        Self { hex, id: id.to_owned(), seed: seed.copied(), owner }
    }

    /// What the user calls it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it began with, if it did not begin empty.
    pub fn seed(&self) -> Option<&ContentDigest> {
        self.seed.as_ref()
    }

    /// Mode, user and group that were asked for.
    pub fn owner(&self) -> [Option<u32>; 3] {
        self.owner
    }
}

/// Name of what steps see in an instance's directory.
const FILES: &str = "fs";

/// How steps that run at once use a cache; later ones are stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// All the same instance.
    Shared,
    /// Each an instance of its own.
    Private,
    /// One after the other.
    Locked,
}

/// What instance of a cache is wanted.
#[derive(Debug, Clone, Copy)]
pub struct MountRequest<'a> {
    /// Of which cache.
    pub name: &'a MountName,
    /// How it is used.
    pub sharing: Sharing,
    /// Number of the first instance that will do.
    pub first: u32,
    /// Whether what it holds is thrown away first.
    pub fresh: bool,
}

/// An instance of a cache, in use until this is dropped.
#[derive(Debug)]
pub struct CacheMount {
    number: u32,
    root: OwnedFd,
    /// The instance's directory; its open file description holds the lock.
    dir: OwnedFd,
    /// Whether somebody uses it; else it is only read.
    is_used: bool,
}

impl Drop for CacheMount {
    fn drop(&mut self) {
        if self.is_used {
            // Whoever measured it meanwhile has to do so again. A size that is wrong until the next use is no harm.
            let _ = note_use(&self.dir);
        }
    }
}

impl CacheMount {
    /// The directory that steps see.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The entry that this directory is, for who moves it elsewhere for a while: where, and its name there. An instance
    /// that is found without it begins anew.
    pub fn place(&self) -> (BorrowedFd<'_>, &'static str) {
        (self.dir.as_fd(), FILES)
    }

    /// Makes sure that no file in it is at the same time one elsewhere: those that are get copies in their places.
    pub fn part(&self) -> io::Result<()> {
        links::part(self.dir.as_fd(), FILES, links::NAMES_MAX)
    }

    /// Which instance it is.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What was remembered last by [`Self::remember_packed`]; `None` if that is nothing, or nothing that can be read.
    pub fn packed(&self) -> Option<Packed> {
        fingerprint::read(self.dir.as_fd())
    }

    /// Remembers which archive holds what this instance holds. What cannot be remembered is packed again.
    pub fn remember_packed(&self, packed: &Packed) {
        fingerprint::write(self.dir.as_fd(), packed);
    }
}

/// An instance that is wanted for its holder alone.
#[derive(Debug)]
pub enum Exclusive {
    /// Here it is.
    Taken(CacheMount),
    /// Somebody uses it.
    InUse,
    /// There is none of this number.
    Gone,
}

impl Store {
    /// Deletes the instance whose directory has this name, unless somebody has it. Says whether it is gone.
    pub(crate) fn remove_mount(&self, name: &CStr) -> Result<bool, StoreError> {
        let failed = |errno: Errno| {
            StoreError::io("delete", self.root().join("mounts").join(name.to_string_lossy().as_ref()), errno)
        };
        let dir = match rustix::fs::openat(self.mounts_dir(), name, DIRECTORY, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(true),
            Err(errno) => return Err(failed(errno)),
        };
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(errno) => return Err(failed(errno)),
        }
        if !crate::state::is_in_place(self.mounts_dir(), name, &dir).map_err(failed)? {
            return Ok(false);
        }
        let aside = self.process().unique_name();
        rustix::fs::renameat(self.mounts_dir(), name, self.process().fd(), &aside).map_err(failed)?;
        self.discard(&aside);
        Ok(true)
    }

    /// Takes an instance of a cache, without waiting: `None` when another step has the only one that will do. A new one
    /// begins as an empty directory of root, and is what `fill` makes of that.
    pub fn try_mount<E: From<StoreError>>(
        &self,
        request: &MountRequest<'_>,
        fill: &dyn Fn(BorrowedFd<'_>) -> Result<(), E>,
    ) -> Result<Option<CacheMount>, E> {
        let exclusive = request.fresh || request.sharing != Sharing::Shared;
        let lock = if exclusive {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        let mut number = request.first;
        while number < INSTANCES_MAX {
            let instance = Instance::new(self, request.name, number);
            let Some(dir) = instance.open()? else {
                match instance.make(request.sharing, fill, RenameFlags::NOREPLACE)? {
                    Some(mount) => return Ok(Some(mount)),
                    // Somebody else made it meanwhile.
                    None => continue,
                }
            };
            match rustix::fs::flock(&dir, lock) {
                Ok(()) if !instance.is(&dir)? => continue,
                Ok(()) if request.fresh => {
                    return instance.make(request.sharing, fill, RenameFlags::EXCHANGE);
                }
                Ok(()) if !instance.is_whole(&dir) => instance.begin_anew(&dir)?,
                Ok(()) => return Ok(Some(instance.used(dir)?)),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if request.sharing == Sharing::Locked => return Ok(None),
                Err(Errno::WOULDBLOCK) => number += 1,
                Err(errno) => return Err(instance.error("lock", errno).into()),
            }
        }
        let source = io::Error::other(format!("{INSTANCES_MAX} instances are in use"));
        Err(StoreError::io("use another instance of the cache", request.name.id(), source).into())
    }

    /// Takes an instance to read it while nobody changes it, without waiting. That is no use of the cache.
    pub fn try_exclusive_mount(&self, name: &MountName, number: u32) -> Result<Exclusive, StoreError> {
        let instance = Instance::new(self, name, number);
        let Some(dir) = instance.open()? else { return Ok(Exclusive::Gone) };
        match rustix::io::retry_on_intr(|| rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive))
        {
            Ok(()) if instance.is(&dir)? => {
                let mut taken = instance.mount(dir)?;
                taken.is_used = false;
                Ok(Exclusive::Taken(taken))
            }
            // Another one has been put in its place just now: somebody begins to use that.
            Ok(()) | Err(Errno::WOULDBLOCK) => Ok(Exclusive::InUse),
            Err(errno) => Err(instance.error("lock", errno)),
        }
    }
}

/// The time of an instance's directory says when it was used last.
fn note_use(dir: &OwnedFd) -> rustix::io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    rustix::fs::futimens(dir, &Timestamps { last_access: now, last_modification: now })
}

/// A place for an instance, whether there is one or not.
struct Instance<'a> {
    store: &'a Store,
    id: &'a str,
    name: CString,
    number: u32,
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl<'a> Instance<'a> {
    fn new(store: &'a Store, name: &'a MountName, number: u32) -> Self {
        let file = CString::new(format!("{}.{number}", name.hex)).expect("digits hold no NUL byte");
        Self { store, id: &name.id, name: file, number }
    }

    fn open(&self) -> Result<Option<OwnedFd>, StoreError> {
        match rustix::fs::openat(self.store.mounts_dir(), &self.name, DIRECTORY, Mode::empty()) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error("open", errno)),
        }
    }

    /// Whether `dir` is still the one: it may have been replaced before its lock was taken.
    fn is(&self, dir: &OwnedFd) -> Result<bool, StoreError> {
        crate::state::is_in_place(self.store.mounts_dir(), &self.name, dir)
            .map_err(|errno| self.error("lock", errno))
    }

    /// Whether there is what a step is given.
    fn is_whole(&self, dir: &OwnedFd) -> bool {
        let found = rustix::fs::statat(dir, FILES, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// Takes away one that is not whole, so that it is made anew. Others may share its lock and find the same, so they take
    /// turns: the second must not take away what has been made meanwhile.
    fn begin_anew(&self, dir: &OwnedFd) -> Result<(), StoreError> {
        let aside = self.store.process().unique_name();
        self.store.write("begin a cache anew", |_| {
            if self.is(dir)? {
                let (mounts, process) = (self.store.mounts_dir(), self.store.process().fd());
                rustix::fs::renameat(mounts, &self.name, process, &aside)
                    .map_err(|errno| self.error("take away", errno))?;
            }
            Ok::<_, StoreError>(())
        })?;
        self.store.discard(&aside);
        self.store.damages().note(Damage::CacheMounts(vec![self.id.to_owned()]));
        Ok(())
    }

    /// Makes a new one and puts it in place, or in the place of the present one, whose lock the caller holds. `None` when
    /// there is one although there should be none.
    fn make<E: From<StoreError>>(
        &self,
        sharing: Sharing,
        fill: &dyn Fn(BorrowedFd<'_>) -> Result<(), E>,
        placing: RenameFlags,
    ) -> Result<Option<CacheMount>, E> {
        let temporary = self.store.process().unique_name();
        let made = self.make_at(&temporary, sharing, fill).and_then(|mount| {
            let (process, mounts) = (self.store.process().fd(), self.store.mounts_dir());
            match rustix::fs::renameat_with(process, &temporary, mounts, &self.name, placing) {
                Ok(()) => Ok(Some(mount)),
                Err(Errno::EXIST) => Ok(None),
                Err(errno) => Err(self.error("put into place", errno).into()),
            }
        });
        // What is there now is the one before, or one that nobody needs.
        if !matches!(made, Ok(Some(_))) || placing == RenameFlags::EXCHANGE {
            self.store.discard(&temporary);
        }
        made
    }

    fn make_at<E: From<StoreError>>(
        &self,
        temporary: &str,
        sharing: Sharing,
        fill: &dyn Fn(BorrowedFd<'_>) -> Result<(), E>,
    ) -> Result<CacheMount, E> {
        let failed = |errno| self.error("make", errno);
        let process = self.store.process().fd();
        rustix::fs::mkdirat(process, temporary, Mode::RWXU).map_err(failed)?;
        let dir = rustix::fs::openat(process, temporary, DIRECTORY, Mode::empty()).map_err(failed)?;
        let lock = if sharing == Sharing::Shared {
            FlockOperation::LockShared
        } else {
            FlockOperation::LockExclusive
        };
        rustix::fs::flock(&dir, lock).map_err(failed)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let id = rustix::fs::openat(&dir, "id", flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        io::Write::write_all(&mut std::fs::File::from(id), self.id.as_bytes())
            .map_err(|source| self.error("make", source))?;
        rustix::fs::mkdirat(&dir, FILES, Mode::RWXU).map_err(failed)?;
        // The caller's umask is not the cache's.
        rustix::fs::chmodat(&dir, FILES, Mode::from_raw_mode(0o755), AtFlags::empty()).map_err(failed)?;
        let mount = self.mount(dir)?;
        fill(mount.root())?;
        Ok(mount)
    }

    /// The instance whose lock has been taken; remembers that it is used now.
    fn used(&self, dir: OwnedFd) -> Result<CacheMount, StoreError> {
        note_use(&dir).map_err(|errno| self.error("use", errno))?;
        self.mount(dir)
    }

    fn mount(&self, dir: OwnedFd) -> Result<CacheMount, StoreError> {
        self.store.process().leases().note_growth();
        let root = rustix::fs::openat(&dir, FILES, DIRECTORY, Mode::empty())
            .map_err(|errno| self.error("open", errno))?;
        Ok(CacheMount { number: self.number, root, dir, is_used: true })
    }

    fn error(&self, operation: &'static str, source: impl Into<io::Error>) -> StoreError {
        let path = self.store.root().join("mounts").join(self.name.to_string_lossy().as_ref());
        StoreError::io(operation, path, source)
    }
}
