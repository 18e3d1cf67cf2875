//! Cache mounts: directories that stay between builds (`RUN --mount=type=cache`).
//!
//! On disk a cache is `mounts/<name>.<n>/`: `fs/` is what steps see, `id` what the user calls it. Usually there is one
//! instance, number 0; more come to be when a step must not share it with another. Whoever uses an instance holds a
//! `flock` on its directory, shared or exclusive, which dies with the process. An instance is made below `tmp/` and
//! renamed into place, so one that can be seen is whole.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::{ContentDigest, Store, StoreError};

/// Instances that one cache may have; only as many as there are steps at once come to be.
const INSTANCES_MAX: u32 = 4096;

/// Which cache: what the user calls it and what it began with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountName {
    hex: String,
    id: String,
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
        Self { hex: hasher.finalize().to_hex().to_string(), id: id.to_owned() }
    }

    /// What the user calls it.
    pub fn id(&self) -> &str {
        &self.id
    }
}

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
    /// Its open file description holds the lock.
    lock: OwnedFd,
}

impl Drop for CacheMount {
    fn drop(&mut self) {
        // Whoever measured it meanwhile has to do so again. A size that is wrong until the next use is no harm.
        let _ = note_use(&self.lock);
    }
}

impl CacheMount {
    /// The directory that steps see.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Which instance it is.
    pub fn number(&self) -> u32 {
        self.number
    }
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
        rustix::fs::mkdirat(&dir, "fs", Mode::RWXU).map_err(failed)?;
        // The caller's umask is not the cache's.
        rustix::fs::chmodat(&dir, "fs", Mode::from_raw_mode(0o755), AtFlags::empty()).map_err(failed)?;
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
        let root = rustix::fs::openat(&dir, "fs", DIRECTORY, Mode::empty())
            .map_err(|errno| self.error("open", errno))?;
        Ok(CacheMount { number: self.number, root, lock: dir })
    }

    fn error(&self, operation: &'static str, source: impl Into<io::Error>) -> StoreError {
        let path = self.store.root().join("mounts").join(self.name.to_string_lossy().as_ref());
        StoreError::io(operation, path, source)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::path::PathBuf;

    use super::*;
    use crate::scratch::Scratch;

    fn store(scratch: &Scratch) -> Store {
        Store::open(&scratch.path("store")).unwrap()
    }

    fn take(store: &Store, name: &MountName, sharing: Sharing, fresh: bool) -> Option<CacheMount> {
        let request = MountRequest { name, sharing, first: 0, fresh };
        store.try_mount::<StoreError>(&request, &|_| Ok(())).unwrap()
    }

    fn write(mount: &CacheMount, name: &str) {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = rustix::fs::openat(mount.root(), name, flags, Mode::RUSR).unwrap();
        File::from(file).write_all(b"x").unwrap();
    }

    fn has(mount: &CacheMount, name: &str) -> bool {
        rustix::fs::statat(mount.root(), name, AtFlags::empty()).is_ok()
    }

    fn instances(scratch: &Scratch) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(scratch.path("store/mounts")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Takes a cache with `held` while others are taken, and says which instance the next one with `wanted` gets.
    #[track_caller]
    fn check(held: &[Sharing], wanted: Sharing, number: Option<u32>) {
        let scratch = Scratch::new();
        let (one, other) = (store(&scratch), store(&scratch));
        let name = MountName::new("id", None, [None; 3]);
        let held: Vec<_> = held.iter().map(|sharing| take(&one, &name, *sharing, false).unwrap()).collect();
        for store in [&one, &other] {
            let taken = take(store, &name, wanted, false);
            assert_eq!(taken.map(|mount| mount.number()), number, "{held:?} {wanted:?}");
        }
        drop(held);
        assert_eq!(take(&other, &name, wanted, false).unwrap().number(), 0);
    }

    #[test]
    fn sharing_says_who_gets_which_instance() {
        use Sharing::{Locked, Private, Shared};
        for wanted in [Shared, Private, Locked] {
            check(&[], wanted, Some(0));
        }
        check(&[Shared, Shared], Shared, Some(0));
        check(&[Shared], Private, Some(1));
        check(&[Shared], Locked, None);
        check(&[Private], Shared, Some(1));
        check(&[Private], Private, Some(1));
        check(&[Private, Private], Private, Some(2));
        check(&[Private], Locked, None);
        check(&[Locked], Shared, Some(1));
        check(&[Locked], Private, Some(1));
        check(&[Locked], Locked, None);
    }

    #[test]
    fn names_tell_caches_apart() {
        let digest = ContentDigest([7; 32]);
        let names = [
            MountName::new("a", None, [None; 3]),
            MountName::new("b", None, [None; 3]),
            MountName::new("a", Some(&digest), [None; 3]),
            MountName::new("a", None, [Some(0o755), None, None]),
            MountName::new("a", None, [None, Some(0), None]),
            MountName::new("a", None, [None, None, Some(0)]),
        ];
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
    }

    #[test]
    fn what_is_written_stays_until_it_is_wanted_fresh() {
        let scratch = Scratch::new();
        let store = store(&scratch);
        let name = MountName::new("../id\n", None, [None; 3]);
        write(&take(&store, &name, Sharing::Shared, false).unwrap(), "old");
        let again = take(&store, &name, Sharing::Locked, false).unwrap();
        assert!(has(&again, "old"));
        assert_eq!(std::fs::read(instances(&scratch)[0].join("id")).unwrap(), b"../id\n");
        drop(again);
        let fresh = take(&store, &name, Sharing::Shared, true).unwrap();
        assert!(!has(&fresh, "old"));
        write(&fresh, "new");
        // It is in use: who wants another fresh one gets another instance.
        assert_eq!(take(&store, &name, Sharing::Shared, true).unwrap().number(), 1);
        drop(fresh);
        assert!(has(&take(&store, &name, Sharing::Shared, false).unwrap(), "new"));
        assert_eq!(instances(&scratch).len(), 2);
        drop(store);
        assert_eq!(std::fs::read_dir(scratch.path("store/tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_cache_that_cannot_be_filled_is_not_there() {
        let scratch = Scratch::new();
        let store = store(&scratch);
        let name = MountName::new("id", None, [None; 3]);
        let request = MountRequest { name: &name, sharing: Sharing::Shared, first: 0, fresh: false };
        let fail = |_: BorrowedFd<'_>| Err(StoreError::io("fill", "x", io::ErrorKind::Other));
        assert!(store.try_mount(&request, &fail).is_err());
        assert!(instances(&scratch).is_empty());
        let fill = |root: BorrowedFd<'_>| {
            rustix::fs::mkdirat(root, "seed", Mode::RWXU).map_err(|errno| StoreError::io("fill", "x", errno))
        };
        assert!(has(&store.try_mount(&request, &fill).unwrap().unwrap(), "seed"));
    }

    #[test]
    fn many_threads_make_one_instance() {
        let scratch = Scratch::new();
        let store = store(&scratch);
        let name = MountName::new("id", None, [None; 3]);
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| take(&store, &name, Sharing::Shared, false))).collect();
            for thread in threads {
                assert_eq!(thread.join().unwrap().unwrap().number(), 0);
            }
        });
        assert_eq!(instances(&scratch).len(), 1);
    }
}
