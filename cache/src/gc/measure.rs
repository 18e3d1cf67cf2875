//! How much of the disk everything below the root takes.
//!
//! What is measured is blocks, as `du` does, and a file with several names counts once. The sizes of snapshots, which never
//! change, and of cache mounts, which change only when somebody takes them, are kept. Repositories, the history and places
//! that are not known here are walked each time.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::OptionalExtension;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use super::Kind;
use crate::{Digest, Key, SnapshotId, Store, StoreError};

/// What stands directly below a root. What is not named here counts as [`Kind::Other`].
const PLACES: [(&str, Kind); 16] = [
    ("blobs", Kind::Blob),
    ("snapshots", Kind::Snapshot),
    ("mounts", Kind::CacheMount),
    ("git", Kind::Repository),
    ("containers", Kind::Container),
    ("volumes", Kind::Volume),
    ("networks", Kind::Other),
    ("history", Kind::History),
    ("state.db", Kind::Database),
    ("state.db-wal", Kind::Database),
    ("state.db-shm", Kind::Database),
    ("state.db.damaged", Kind::Database),
    ("state.db.damaged-wal", Kind::Database),
    ("state.db.damaged-shm", Kind::Database),
    ("state.db.damaged-journal", Kind::Database),
    ("tmp", Kind::Running),
];

/// What a user calls a cache mount is read up to this size.
const MOUNT_ID_BYTES_MAX: u64 = 4096;

const BLOCK_BYTES: u64 = 512;

pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The sizes of everything below a root, in bytes on disk.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) blobs: HashMap<Digest, Blob>,
    pub(super) snapshots: HashMap<SnapshotId, u64>,
    pub(super) trees: Vec<Tree>,
    /// All the rest: nothing of it is collected here.
    pub(super) rest: Vec<(Kind, String, u64)>,
}

/// A blob, as it was when it was measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blob {
    pub(super) bytes: u64,
    pub(super) written: SystemTime,
}

/// A cache mount or a repository.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) kind: Kind,
    /// Of its directory.
    pub(super) name: CString,
    /// What the user calls it.
    pub(super) title: String,
    pub(super) bytes: u64,
    pub(super) used: SystemTime,
}

impl Measured {
    /// All of it.
    pub(super) fn total(&self) -> u64 {
        self.blobs.values().map(|blob| blob.bytes).sum::<u64>()
            + self.snapshots.values().sum::<u64>()
            + self.trees.iter().map(|tree| tree.bytes).sum::<u64>()
            + self.rest.iter().map(|(_, _, bytes)| bytes).sum::<u64>()
    }
}

impl Store {
    /// Measures everything but what goes with this process anyway.
    pub(super) fn measure(&self) -> Result<Measured, StoreError> {
        let mut measured = Measured::default();
        let root = self.root_fd();
        let mut rest = |kind, name: &CStr, bytes| {
            if bytes > 0 {
                measured.rest.push((kind, name.to_string_lossy().into_owned(), bytes));
            }
        };
        // What is below has entries of its own; of these there are the directories left.
        for name in [c".", c"blobs/sha256"] {
            let stat = rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW);
            rest(Kind::Other, name, blocks(&stat.map_err(|errno| self.failed("", errno))?));
        }
        let mut entries = Vec::new();
        for_each(root, |name, stat| entries.push((name.to_owned(), *stat)))
            .map_err(|errno| self.failed("", errno))?;
        for (name, stat) in entries {
            let place = PLACES.iter().find(|(place, _)| place.as_bytes() == name.to_bytes());
            let kind = place.map_or(Kind::Other, |(_, kind)| *kind);
            match kind {
                Kind::Blob | Kind::Snapshot | Kind::CacheMount | Kind::Repository => {
                    rest(Kind::Other, &name, blocks(&stat));
                }
                Kind::Running => {
                    rest(Kind::Other, &name, blocks(&stat));
                    rest(kind, &name, self.running().map_err(|errno| self.failed("tmp", errno))?)
                }
                Kind::Container | Kind::Volume => {
                    rest(Kind::Other, &name, blocks(&stat));
                    let failed = |errno| self.failed(&name.to_string_lossy(), errno);
                    let place = rustix::fs::openat(root, &name, DIRECTORY, Mode::empty());
                    let place = place.map_err(failed)?;
                    let mut names = Vec::new();
                    for_each(&place, |name, _| names.push(name.to_owned())).map_err(failed)?;
                    for name in names {
                        rest(kind, &name, disk_usage(&place, &name).map_err(failed)?);
                    }
                }
                Kind::History | Kind::Database | Kind::Other => {
                    let bytes = disk_usage(root, &name)
                        .map_err(|errno| self.failed(&name.to_string_lossy(), errno))?;
                    rest(kind, &name, bytes);
                }
            }
        }
        self.measure_blobs(&mut measured)?;
        self.measure_snapshots(&mut measured)?;
        self.measure_mounts(&mut measured)?;
        self.measure_repositories(&mut measured)?;
        Ok(measured)
    }

    fn measure_blobs(&self, measured: &mut Measured) -> Result<(), StoreError> {
        let dir = self.open_place("blobs/sha256")?;
        for_each(&dir, |name, stat| match format!("sha256:{}", name.to_string_lossy()).parse() {
            Ok(digest) => {
                let blob = Blob { bytes: blocks(stat), written: modified(stat) };
                measured.blobs.insert(digest, blob);
            }
            Err(_) => measured.rest.push((Kind::Other, name.to_string_lossy().into_owned(), blocks(stat))),
        })
        .map_err(|errno| self.failed("blobs", errno))
    }

    /// A snapshot's size is kept with its row.
    fn measure_snapshots(&self, measured: &mut Measured) -> Result<(), StoreError> {
        const OPERATION: &str = "store the size of snapshots";
        let known: HashMap<SnapshotId, u64> = self.read("look up the size of snapshots", |transaction| {
            transaction
                .prepare_cached("SELECT snapshot, disk FROM uses WHERE disk IS NOT NULL")?
                .query_map([], |row| {
                    Ok((
                        SnapshotId(row.get::<_, i64>(0)?.cast_unsigned()),
                        row.get::<_, i64>(1)?.cast_unsigned(),
                    ))
                })?
                .collect()
        })?;
        let mut new = Vec::new();
        let failed = |errno| self.failed("snapshots", errno);
        for entry in rustix::fs::Dir::read_from(self.snapshots_dir()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            match SnapshotId::from_name(name.to_bytes()) {
                Some(id) => {
                    let bytes = match known.get(&id) {
                        Some(bytes) => *bytes,
                        None => {
                            let bytes = disk_usage(&self.snapshots_dir(), name).map_err(failed)?;
                            new.push((id, bytes));
                            bytes
                        }
                    };
                    measured.snapshots.insert(id, bytes);
                }
                None if matches!(name.to_bytes(), b"." | b"..") => {}
                None => {
                    let bytes = disk_usage(&self.snapshots_dir(), name).map_err(failed)?;
                    measured.rest.push((Kind::Other, name.to_string_lossy().into_owned(), bytes));
                }
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        self.write(OPERATION, |transaction| {
            let put = || {
                let mut upsert = transaction.prepare_cached(
                    "INSERT INTO uses (snapshot, used_ns, disk) SELECT id, created_ns, ?2 FROM snapshots WHERE id = ?1
                     ON CONFLICT (snapshot) DO UPDATE SET disk = excluded.disk",
                )?;
                new.iter().try_for_each(|(id, bytes)| {
                    upsert.execute((id.row_id(), bytes.cast_signed())).map(drop)
                })
            };
            put().map_err(StoreError::database(OPERATION))
        })
    }

    /// Has the size of a snapshot that has grown be measured again.
    pub(crate) fn forget_snapshot_size(&self, id: SnapshotId) -> Result<(), StoreError> {
        const OPERATION: &str = "forget the size of a snapshot";
        self.write_soon(OPERATION, |transaction| {
            transaction
                .prepare_cached("UPDATE uses SET disk = NULL WHERE snapshot = ?1")
                .and_then(|mut update| update.execute([id.row_id()]))
                .map(drop)
                .map_err(StoreError::database(OPERATION))
        })
    }

    /// A cache mount's size is kept with the time when somebody last took it or gave it back.
    fn measure_mounts(&self, measured: &mut Measured) -> Result<(), StoreError> {
        let failed = |errno| self.failed("mounts", errno);
        let mut found = Vec::new();
        for_each(self.mounts_dir(), |name, stat| found.push((name.to_owned(), modified(stat))))
            .map_err(failed)?;
        for (name, used) in found {
            let dir = match rustix::fs::openat(self.mounts_dir(), &name, DIRECTORY, Mode::empty()) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => continue,
                // Not put here by wharf.
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let bytes = disk_usage(self.mounts_dir(), &name).map_err(failed)?;
                    measured.rest.push((Kind::Other, name.to_string_lossy().into_owned(), bytes));
                    continue;
                }
                Err(errno) => return Err(failed(errno)),
            };
            // Nobody is kept from it meanwhile: who has it renews the time once more at the end.
            let used_ns = crate::store::to_nanos(used);
            let text = name.to_string_lossy();
            let bytes = match self.mount_size(&text, used_ns)? {
                Some(bytes) => bytes,
                None => {
                    let bytes = disk_usage(self.mounts_dir(), &name).map_err(failed)?;
                    self.set_mount_size(&text, used_ns, bytes)?;
                    bytes
                }
            };
            let title = mount_title(&dir);
            measured.trees.push(Tree { kind: Kind::CacheMount, name, title, bytes, used });
        }
        Ok(())
    }

    fn mount_size(&self, name: &str, used_ns: i64) -> Result<Option<u64>, StoreError> {
        self.read("look up the size of a cache", |transaction| {
            transaction
                .prepare_cached("SELECT disk FROM mount_sizes WHERE name = ?1 AND used_ns = ?2")?
                .query_row((name, used_ns), |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
                .optional()
        })
    }

    fn set_mount_size(&self, name: &str, used_ns: i64, bytes: u64) -> Result<(), StoreError> {
        const OPERATION: &str = "store the size of a cache";
        self.write(OPERATION, |transaction| {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO mount_sizes (name, used_ns, disk) VALUES (?1, ?2, ?3)",
                )
                .and_then(|mut insert| insert.execute((name, used_ns, bytes.cast_signed())))
                .map(drop)
                .map_err(StoreError::database(OPERATION))
        })
    }

    pub(super) fn forget_mount_size(&self, name: &CStr) -> Result<(), StoreError> {
        const OPERATION: &str = "forget the size of a cache";
        self.write(OPERATION, |transaction| {
            transaction
                .prepare_cached("DELETE FROM mount_sizes WHERE name = ?1")
                .and_then(|mut delete| delete.execute([name.to_string_lossy()]))
                .map(drop)
                .map_err(StoreError::database(OPERATION))
        })
    }

    fn measure_repositories(&self, measured: &mut Measured) -> Result<(), StoreError> {
        let failed = |errno| self.failed("git", errno);
        let dir = self.open_place("git")?;
        let mut found = Vec::new();
        for_each(&dir, |name, stat| found.push((name.to_owned(), modified(stat)))).map_err(failed)?;
        for (name, used) in found {
            let bytes = disk_usage(&dir, &name).map_err(failed)?;
            // They do not say where they came from: the address may hold a secret.
            let title = name.to_string_lossy().into_owned();
            measured.trees.push(Tree { kind: Kind::Repository, name, title, bytes, used });
        }
        Ok(())
    }

    /// What other processes have not committed yet, or have left.
    fn running(&self) -> rustix::io::Result<u64> {
        let tmp = rustix::fs::openat(self.root_fd(), "tmp", DIRECTORY, Mode::empty())?;
        let mut names = Vec::new();
        for_each(&tmp, |name, _| names.push(name.to_owned()))?;
        let own = self.process().name().as_bytes();
        names.iter().filter(|name| name.to_bytes() != own).map(|name| disk_usage(&tmp, name)).sum()
    }

    fn open_place(&self, name: &str) -> Result<OwnedFd, StoreError> {
        rustix::fs::openat(self.root_fd(), name, DIRECTORY, Mode::empty())
            .map_err(|errno| self.failed(name, errno))
    }

    fn failed(&self, name: &str, errno: Errno) -> StoreError {
        StoreError::io("measure", self.root().join(name), errno)
    }
}

/// The key of a repository's directory.
pub(super) fn repository_key(name: &CStr) -> Option<Key> {
    name.to_str().ok()?.parse().ok()
}

/// What the user calls a cache mount.
pub(super) fn mount_title(dir: &OwnedFd) -> String {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut text = Vec::new();
    if let Ok(fd) = rustix::fs::openat(dir, "id", flags, Mode::empty()) {
        // A name that cannot be read is not worth a failure.
        let _ = File::from(fd).take(MOUNT_ID_BYTES_MAX).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Bytes on disk of `name` in `dir` with all that is below it. What vanishes meanwhile counts nothing.
pub(super) fn disk_usage(dir: &OwnedFd, name: &CStr) -> rustix::io::Result<u64> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(0),
        Err(errno) => return Err(errno),
    };
    let mut total = blocks(&stat);
    if !is_dir(&stat) {
        return Ok(total);
    }
    let mut linked = HashSet::new();
    let mut unread = Vec::new();
    unread.push((None::<Rc<OwnedFd>>, name.to_owned()));
    while let Some((parent, name)) = unread.pop() {
        let parent = parent.as_ref().map_or(dir.as_fd(), |parent| parent.as_fd());
        let opened = match rustix::fs::openat(parent, &name, DIRECTORY, Mode::empty()) {
            Ok(opened) => Rc::new(opened),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(errno) => return Err(errno),
        };
        for_each(&opened, |name, stat| {
            if is_dir(stat) {
                unread.push((Some(Rc::clone(&opened)), name.to_owned()));
            }
            if is_dir(stat) || stat.st_nlink < 2 || linked.insert((stat.st_dev, stat.st_ino)) {
                total += blocks(stat);
            }
        })?;
    }
    Ok(total)
}

/// Calls `see` with each entry of a directory. What vanishes meanwhile is left out.
pub(super) fn for_each(dir: &OwnedFd, mut see: impl FnMut(&CStr, &Stat)) -> rustix::io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            // The directory itself has been removed.
            Err(Errno::NOENT) => break,
            entry => entry?,
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => see(name, &stat),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn blocks(stat: &Stat) -> u64 {
    stat.st_blocks.unsigned_abs() * BLOCK_BYTES
}

fn modified(stat: &Stat) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(stat.st_mtime.unsigned_abs()) + Duration::from_nanos(stat.st_mtime_nsec)
}
