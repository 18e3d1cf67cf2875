//! Opening a store root: layout, version, recovery after a killed process.
//!
//! `docs/formats/store.md` describes what is on disk and what a kill at any instant leaves there.

mod damage;
mod database;
mod owners;
mod process_dir;
mod remove_tree;
mod schema;

use std::collections::HashSet;
use std::error::Error;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use rustix::fs::{AtFlags, FlockOperation, IFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::Setup;
use crate::content::{Blobs, ContentError};
use crate::snapshot::snapshotter::Snapshotter;
use crate::snapshot::{self, SnapshotId};
pub use damage::Damage;
pub(crate) use damage::Damages;
use database::Database;
pub use owners::IdMap;
pub(crate) use process_dir::{OpenLock, ProcessDir, random_u64};
pub(crate) use remove_tree::remove_tree;
use schema::Found;

/// A log of the database that is longer than this is written into it by who closes it last.
const LOG_BYTES_MAX: i64 = 256 * 1024;

/// The directories of a store and their modes. The root, if it has to be made, is private; who opens it to others
/// lets them read the OCI layout but no unpacked file, because there may be setuid programs among these.
const DIRECTORIES: [(&str, u32); 11] = [
    ("blobs", 0o755),
    ("blobs/sha256", 0o755),
    ("snapshots", 0o700),
    ("mounts", 0o700),
    ("git", 0o700),
    ("containers", 0o700),
    ("volumes", 0o700),
    ("networks", 0o700),
    ("locks", 0o700),
    ("history", 0o700),
    ("tmp", 0o700),
];

/// Marks the root as an OCI image layout (OCI image-spec, image-layout.md#oci-layout-file).
const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// A store root that is open. Cheap to clone; safe to use from several threads, and several processes may have
/// the same root open.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    setup: Setup,
    root: PathBuf,
    root_fd: OwnedFd,
    database: Mutex<Database>,
    /// `snapshots/`, last the one that the database knows: of those before something may still be mounted.
    snapshots: Mutex<Vec<Arc<OwnedFd>>>,
    snapshotter: Box<dyn Snapshotter>,
    /// The snapshots that were committed by this process: nobody has had a chance to change them.
    committed: Mutex<HashSet<SnapshotId>>,
    damages: Arc<Damages>,
    mounts: OwnedFd,
    locks: Arc<OwnedFd>,
    history: OwnedFd,
    blobs: Blobs,
    /// Whether something was written that has to be on the disk in the end: see [`Store::write`].
    settles: AtomicBool,
    process: Arc<ProcessDir>,
    /// See [`Store::empty_dir`].
    empty_dirs: [OnceLock<PathBuf>; 2],
}

/// Everything that stands directly below a root.
const ENTRIES: [&str; 21] = [
    "blobs",
    "snapshots",
    "mounts",
    "git",
    "containers",
    "volumes",
    "networks",
    "locks",
    "history",
    "tmp",
    "oci-layout",
    "index.json",
    owners::NAME,
    "state.db",
    "state.db-journal",
    "state.db-wal",
    "state.db-shm",
    "state.db.damaged",
    "state.db.damaged-journal",
    "state.db.damaged-wal",
    "state.db.damaged-shm",
];

/// Refuses a directory that holds somebody else's files: opening a store deletes what is left in `tmp/` and
/// `snapshots/`. A store has its marks; one whose making was interrupted has nothing else in it; an OCI layout becomes
/// one if it has no `tmp` or `snapshots` of its own.
fn require_store(root: &Path, root_fd: &OwnedFd) -> Result<(), StoreError> {
    let failed = |errno| StoreError::io("read", root, errno);
    let there = |name: &str| match rustix::fs::statat(root_fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed(errno)),
    };
    if there("state.db")? && (there("oci-layout")? || there("snapshots")?) {
        return Ok(());
    }
    let ours_to_delete = there("tmp")? || there("snapshots")?;
    if there("oci-layout")? && !ours_to_delete {
        return Ok(());
    }
    for entry in rustix::fs::Dir::read_from(root_fd).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        // A file system of its own has this directory from the start.
        let known = ENTRIES.iter().any(|known| known.as_bytes() == name) || name == b"lost+found";
        if !known && !matches!(name, b"." | b"..") {
            return Err(StoreError::NotAStore { root: root.to_owned() });
        }
    }
    Ok(())
}

impl Store {
    /// Opens the store at `root` as [`Self::open_with`] does where everything is allowed.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_with(root, Setup::default())
    }

    /// Opens the store at `root` as [`Self::open_mapped`] does outside of any user namespace of wharf's own.
    pub fn open_with(root: &Path, setup: Setup) -> Result<Self, StoreError> {
        Self::open_mapped(root, setup, &IdMap::identity())
    }

    /// Opens (creating it where needed) the store at `root`, and removes what a killed process left behind. `map` says who
    /// the ids of this process are outside of the namespace that it has entered.
    pub fn open_mapped(root: &Path, setup: Setup, map: &IdMap) -> Result<Self, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|source| StoreError::io("create", root, source))?;
        let root = fs::canonicalize(root).map_err(|source| StoreError::io("resolve", root, source))?;
        let root_fd = open_dir(&root)?;
        require_store(&root, &root_fd)?;
        for (name, mode) in DIRECTORIES {
            match rustix::fs::mkdirat(&root_fd, name, Mode::from_raw_mode(mode)) {
                Ok(()) if name == "tmp" => spread_directories(&root_fd, name),
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(StoreError::io("create", root.join(name), errno)),
            }
        }
        let tmp = root.join("tmp");
        let tmp_error = |source| StoreError::io("prepare", &tmp, source);
        let opening = OpenLock::acquire(&tmp).map_err(tmp_error)?;
        owners::claim(&root, &root_fd, setup.ids, map, &opening)?;
        let mut database = Database::open(&root, &root_fd, &opening)?;
        let (found, damages) = (database.found, Arc::new(Damages::default()));
        if let Some(damage) = database.damage.take() {
            damages.note(damage);
        }
        let process =
            Arc::new(ProcessDir::create(&tmp, open_dir(&root.join("locks"))?, &opening).map_err(tmp_error)?);
        let leftovers = process.adopt_leftovers(&opening).map_err(tmp_error)?;
        let store = Self {
            inner: Arc::new(Inner {
                setup,
                snapshots: Mutex::new(vec![Arc::clone(&database.snapshots)]),
                snapshotter: snapshot::snapshotter(setup.stacking),
                committed: Mutex::default(),
                database: Mutex::new(database),
                mounts: open_dir(&root.join("mounts"))?,
                locks: Arc::new(open_dir(&root.join("locks"))?),
                history: open_dir(&root.join("history"))?,
                blobs: Blobs::new(
                    open_dir(&root.join("blobs/sha256"))?,
                    Arc::clone(&process),
                    Arc::clone(&damages),
                ),
                damages,
                settles: AtomicBool::new(false),
                process,
                root,
                root_fd,
                empty_dirs: Default::default(),
            }),
        };
        drop(opening);
        // Written last: where it is, everything else is too.
        let is_complete = store.has_file("oci-layout")? && store.has_file("index.json")?;
        if leftovers || found != Found::Current || !is_complete {
            match store.recover() {
                Ok(()) => {}
                Err(error) => {
                    store.process().leave_to_next_opener();
                    // Who comes to free some of a full disk is not kept out: nothing of this is in the way.
                    if !(is_complete && error.is_disk_full()) {
                        return Err(error);
                    }
                }
            }
        }
        if !is_complete {
            store.write_file("oci-layout", OCI_LAYOUT)?;
        }
        Ok(store)
    }

    /// How this process works with the store.
    pub fn setup(&self) -> Setup {
        self.inner.setup
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// The blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// What this process has found damaged or missing since it was asked last. It has been dropped.
    pub fn take_damages(&self) -> Vec<Damage> {
        self.inner.damages.take()
    }

    /// Where finds are noted.
    pub(crate) fn damages(&self) -> &Damages {
        &self.inner.damages
    }

    /// A fresh private directory below `tmp/` for this process; gone when the process is (at the next open).
    pub fn temp_dir(&self) -> Result<PathBuf, StoreError> {
        let name = self.process().unique_name();
        let path = self.process().path().join(&name);
        rustix::fs::mkdirat(self.process().fd(), &name, Mode::RWXU)
            .map_err(|errno| StoreError::io("create", &path, errno))?;
        Ok(path)
    }

    /// Deletes a directory of [`Self::temp_dir`] before the process ends. What cannot be deleted is when it ends.
    pub fn remove_temp_dir(&self, path: &Path) {
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            self.discard(name);
        }
    }

    /// One of two directories that are and stay empty, to mount as lower layers.
    pub(crate) fn empty_dir(&self, number: usize) -> Result<PathBuf, StoreError> {
        let place = &self.inner.empty_dirs[number];
        if let Some(path) = place.get() {
            return Ok(path.clone());
        }
        let path = self.temp_dir()?;
        rustix::fs::chmod(&path, Mode::from_raw_mode(0o755))
            .map_err(|errno| StoreError::io("chmod", &path, errno))?;
        // Another thread may have been quicker; then this one stays unused.
        Ok(place.get_or_init(|| path).clone())
    }

    /// This process's directory below `tmp/`.
    pub(crate) fn process(&self) -> &ProcessDir {
        &self.inner.process
    }

    /// `snapshots/`.
    pub(crate) fn snapshots_dir(&self) -> Arc<OwnedFd> {
        let all = self.inner.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.last().expect("a store has been opened with one, and none is taken away"))
    }

    /// What makes file systems of chains.
    pub(crate) fn snapshotter(&self) -> &dyn Snapshotter {
        &*self.inner.snapshotter
    }

    /// The snapshots that this process has committed.
    pub(crate) fn committed(&self) -> MutexGuard<'_, HashSet<SnapshotId>> {
        self.inner.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `mounts/`.
    pub(crate) fn mounts_dir(&self) -> &OwnedFd {
        &self.inner.mounts
    }

    /// `locks/`.
    pub(crate) fn locks_dir(&self) -> &Arc<OwnedFd> {
        &self.inner.locks
    }

    /// `history/`.
    pub(crate) fn history_dir(&self) -> &OwnedFd {
        &self.inner.history
    }

    /// The root directory, open.
    pub(crate) fn root_fd(&self) -> &OwnedFd {
        &self.inner.root_fd
    }

    /// Runs `query` on one consistent state of the database.
    pub(crate) fn read<T>(
        &self,
        operation: &'static str,
        query: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut database = self.database();
        let run = || query(&database.connection.transaction()?);
        let done = run().map_err(|source| StoreError::Database { operation, source });
        let generation = database.generation;
        drop(database);
        done.inspect_err(|error| self.replace_if_damaged(error, generation))
    }

    /// Runs `change` while nobody else writes, and commits what it did unless it fails. When the store is closed
    /// the change is on the disk, and no power cut takes it any more.
    pub(crate) fn write<T, E: From<StoreError> + Error + 'static>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let (value, changed) = self.write_soon::<_, E>(operation, |transaction| {
            let before = transaction.total_changes();
            let value = change(transaction)?;
            Ok::<_, E>((value, transaction.total_changes() != before))
        })?;
        if changed {
            self.inner.settles.store(true, Ordering::Relaxed);
        }
        Ok(value)
    }

    /// The same for what may be lost in a power cut, though not when the process is killed: nobody waits for the disk.
    pub(crate) fn write_soon<T, E: From<StoreError> + Error + 'static>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let failed = |source| StoreError::Database { operation, source };
        let mut database = self.database();
        let run = || {
            let transaction = database
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(failed)?;
            let value = change(&transaction)?;
            transaction.commit().map_err(failed)?;
            Ok(value)
        };
        let done = run();
        let generation = database.generation;
        drop(database);
        match done {
            Err(error) => {
                self.replace_if_damaged(&error, generation);
                Err(error)
            }
            // What was written to a database that nobody opens any more was not written.
            Ok(_) if self.is_replaced()? => Err(StoreError::Replaced.into()),
            Ok(value) => Ok(value),
        }
    }

    /// Does something that is no transaction.
    pub(crate) fn with_connection<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        work(&self.database().connection).map_err(|source| StoreError::Database { operation, source })
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        // A panic while it was held has rolled its transaction back.
        self.inner.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new database when an error says that the one in use is damaged: who tries again then has that.
    fn replace_if_damaged(&self, error: &(dyn Error + 'static), generation: u64) {
        let mut causes = std::iter::successors(Some(error), |&error| error.source());
        if causes.any(|error| error.downcast_ref().is_some_and(StoreError::is_corrupt)) {
            // When that fails too, the next who uses the database meets the same error and tries again.
            let _ = self.replace_database(generation);
        }
    }

    /// Looks whether another process has begun a new database since this one was opened, and goes over to that.
    pub(crate) fn is_replaced(&self) -> Result<bool, StoreError> {
        let database = self.database();
        let (is_in_place, generation) = (database.is_in_place(&self.inner.root_fd), database.generation);
        drop(database);
        if !is_in_place {
            self.replace_database(generation)?;
        }
        Ok(!is_in_place)
    }

    /// Goes over to another database than the one of that generation: to the one that another process has begun, else to a
    /// new one.
    fn replace_database(&self, generation: u64) -> Result<(), StoreError> {
        let (root, root_fd) = (self.root(), &self.inner.root_fd);
        let tmp = root.join("tmp");
        let opening = OpenLock::acquire(&tmp).map_err(|source| StoreError::io("prepare", &tmp, source))?;
        let mut database = self.database();
        if database.generation != generation {
            return Ok(());
        }
        if database.is_in_place(root_fd) {
            let set_aside = database::set_aside(root, root_fd)?;
            self.damages().note(Damage::Database { set_aside });
        }
        let mut reopened = Database::open(root, root_fd, &opening)?;
        reopened.generation = generation + 1;
        if let Some(damage) = reopened.damage.take() {
            self.damages().note(damage);
        }
        let mut snapshots = self.inner.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        snapshots.push(Arc::clone(&reopened.snapshots));
        *database = reopened;
        Ok(())
    }

    /// Replaces the file `name` of the root by one with these bytes.
    pub(crate) fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let failed = |operation| move |source| StoreError::io(operation, self.root().join(name), source);
        let temporary = self.process().unique_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let write = || {
            let fd = rustix::fs::openat(self.process().fd(), &temporary, flags, Mode::from_raw_mode(0o644))?;
            let mut file = fs::File::from(fd);
            io::Write::write_all(&mut file, bytes)?;
            file.sync_data()
        };
        let written = write().map_err(failed("write")).and_then(|()| {
            rustix::fs::renameat(self.process().fd(), &temporary, &self.inner.root_fd, name)
                .map_err(|errno| failed("replace")(errno.into()))
        });
        if written.is_err() {
            // What stays behind goes with the process's directory.
            let _ = rustix::fs::unlinkat(self.process().fd(), &temporary, AtFlags::empty());
        }
        written
    }

    fn has_file(&self, name: &str) -> Result<bool, StoreError> {
        match rustix::fs::statat(&self.inner.root_fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(StoreError::io("look up", self.root().join(name), errno)),
        }
    }

    /// Puts right what a process that died in the middle of something may have left outside its own directory, then
    /// deletes what was in that. A committer moves its directory in the transaction that inserts the row, so in a
    /// write transaction a directory without a row is nobody's.
    fn recover(&self) -> Result<(), StoreError> {
        let put_right = || {
            self.write("collect leftovers", |transaction| {
                self.adopt_orphans(transaction)?;
                self.adopt_orphan_logs(transaction)?;
                self.write_index(transaction)
            })
        };
        let first = put_right();
        self.remove_stale_locks()?;
        self.process().clear().map_err(|source| StoreError::io("empty", self.process().path(), source))?;
        match first {
            // What was cleared may have been what filled the disk.
            Err(error) if error.is_disk_full() => put_right(),
            done => done,
        }
    }

    fn adopt_orphans(&self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let failed = |errno| StoreError::io("collect", self.root().join("snapshots"), errno);
        for entry in rustix::fs::Dir::read_from(self.snapshots_dir()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            // What has no snapshot's name was not put here by wharf.
            let Some(id) = SnapshotId::from_name(name.to_bytes()) else { continue };
            let row = transaction
                .prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1")
                .and_then(|mut query| query.query_row([id.row_id()], |_| Ok(())).optional())
                .map_err(StoreError::database("collect leftovers"))?;
            if row.is_none() {
                rustix::fs::renameat(
                    self.snapshots_dir(),
                    name,
                    self.process().fd(),
                    self.process().unique_name(),
                )
                .map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Lock files are removed by their holders; these are the ones of holders that were killed.
    fn remove_stale_locks(&self) -> Result<(), StoreError> {
        let failed = |errno| StoreError::io("collect", self.root().join("locks"), errno);
        let locks = self.locks_dir();
        for entry in rustix::fs::Dir::read_from(&**locks).map_err(failed)? {
            let name: CString = entry.map_err(failed)?.file_name().to_owned();
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            // A directory (`.`, `..`) cannot be opened for writing.
            let Ok(file) = rustix::fs::openat(&**locks, &name, flags, Mode::empty()) else { continue };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
                && crate::state::is_in_place(locks, &name, &file).map_err(failed)?
            {
                rustix::fs::unlinkat(&**locks, &name, AtFlags::empty()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Deletes `name` of the process's directory; what cannot be deleted now goes with the directory.
    pub(crate) fn discard(&self, name: &str) {
        if let Ok(name) = CString::new(name) {
            let _ = remove_tree(self.process().fd(), &name);
        }
    }
}

impl Drop for Inner {
    /// Writes the log of the database into it and deletes it, which takes several waits for the disk: not after a build
    /// that changed nothing. Who opens the database next reads the log that was left, so it stays short.
    fn drop(&mut self) {
        let log = rustix::fs::statat(&self.root_fd, "state.db-wal", AtFlags::SYMLINK_NOFOLLOW);
        let is_long = log.is_ok_and(|log| log.st_size > LOG_BYTES_MAX);
        if *self.settles.get_mut() || is_long {
            let connection = &self.database.get_mut().unwrap_or_else(PoisonError::into_inner).connection;
            // While others have it open, closing it would do nothing. What fails is done by the next who writes.
            let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
        }
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, StoreError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| StoreError::io("open", path, errno))
}

/// Whether there was no room on the file system, or none for this user.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Has ext4 put each directory that is made in `name` into a block group of its own choice (`chattr +T`), where it can.
/// A group in which many inodes were deleted within the last minutes gives out new ones slowly, since ext4 steps over
/// each of these: beside a deleted tree a step takes three times as long. Only speed depends on it.
fn spread_directories(root_fd: &OwnedFd, name: &str) {
    let Ok(dir) = rustix::fs::openat(
        root_fd,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) else {
        return;
    };
    if let Ok(flags) = rustix::fs::ioctl_getflags(&dir) {
        let _ = rustix::fs::ioctl_setflags(&dir, flags | IFlags::TOPDIR);
    }
}

/// Nanoseconds since the epoch, as the database keeps times: good from 1677 to 2262, clamped outside.
pub fn to_nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

/// The inverse of [`to_nanos`].
pub fn from_nanos(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    if nanos < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The root was written by a newer wharf.
    #[error("store `{}` has format version {found}; this wharf reads up to {supported}", root.display())]
    NewerVersion {
        /// Root of the store.
        root: PathBuf,
        /// Version it has.
        found: u32,
        /// Newest version this program knows.
        supported: u32,
    },
    /// The directory is not empty and no store.
    #[error("`{}` is not a wharf store and is not empty", root.display())]
    NotAStore {
        /// The directory.
        root: PathBuf,
    },
    /// The files of the store belong to users in another way than this process would see and make them.
    #[error(
        "the owners of files in store `{}` are {found}, and this process would have them {wanted}: give another --root, or \
         the sandbox that the store was made in",
        root.display()
    )]
    OtherOwners {
        /// Root of the store.
        root: PathBuf,
        /// How they are.
        found: String,
        /// How they would be.
        wanted: String,
    },
    /// Owners are to be recorded where that is not possible.
    #[error(
        "the file system of store `{}` cannot record the owners of files, because it has no user attributes or no times after \
         2106: give a --root on ext4, XFS, btrfs or a tmpfs of Linux 6.6, or a sandbox that has more than one id",
        root.display()
    )]
    NoRecords {
        /// Root of the store.
        root: PathBuf,
    },
    /// A snapshot that was used is no longer there, or no longer what it was. What named it has been forgotten.
    #[error("snapshot {id} is not in the store")]
    Lost {
        /// Which.
        id: SnapshotId,
    },
    /// Another process found the database damaged and has begun a new one. This one uses it too from now on.
    #[error("the database of the store was damaged, and has been replaced by a new one meanwhile")]
    Replaced,
    /// A row or directory that must be there is not.
    #[error("{kind} {name} is not in the store")]
    Missing {
        /// What kind of thing.
        kind: &'static str,
        /// Its name or digest.
        name: String,
    },
    /// The operating system refused.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// SQLite refused.
    #[error("cannot {operation} in the store's database")]
    Database {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        source: rusqlite::Error,
    },
    /// A blob could not be read, listed or deleted.
    #[error("{0}")]
    Content(#[from] ContentError),
}

impl StoreError {
    /// Whether something that was in the store no longer is. It has been forgotten: who tries again finds the store
    /// without it.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Replaced) || self.is_corrupt()
    }

    /// Whether the database is damaged: it is no database, its pages contradict each other, or it holds other tables or
    /// values than it was given.
    pub fn is_corrupt(&self) -> bool {
        use rusqlite::Error::{
            FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, SqlInputError,
        };
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let Self::Database { source, .. } = self else { return false };
        matches!(source.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
            // All statements are right for the tables of this version.
            || source.sqlite_extended_error_code() == Some(rusqlite::ffi::SQLITE_ERROR)
            || matches!(
                source,
                FromSqlConversionFailure(..)
                    | IntegralValueOutOfRange(..)
                    | InvalidColumnType(..)
                    | SqlInputError { .. }
            )
    }

    /// Whether there was no room for what had to be written.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Database { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            Self::Io { source, .. } => is_disk_full(source),
            _ => false,
        }
    }

    /// Whether the database could not write: the disk is full, or fails.
    pub fn is_disk(&self) -> bool {
        use rusqlite::ErrorCode::{DiskFull, SystemIoFailure};
        match self {
            Self::Database { source, .. } => {
                matches!(source.sqlite_error_code(), Some(DiskFull | SystemIoFailure))
            }
            _ => false,
        }
    }

    /// Whether the store could not be written at all: its file system is read-only, or rights are missing.
    pub fn is_read_only(&self) -> bool {
        use rusqlite::ErrorCode::{CannotOpen, PermissionDenied, ReadOnly};
        match self {
            Self::Database { source, .. } => {
                matches!(source.sqlite_error_code(), Some(CannotOpen | PermissionDenied | ReadOnly))
            }
            Self::Io { source, .. } => source.kind() == io::ErrorKind::ReadOnlyFilesystem,
            _ => false,
        }
    }
}

impl StoreError {
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io { operation, path: path.into(), source: source.into() }
    }

    /// For `map_err` of what SQLite returns.
    pub(crate) fn database(operation: &'static str) -> impl Fn(rusqlite::Error) -> Self {
        move |source| Self::Database { operation, source }
    }
}

#[cfg(test)]
pub(crate) mod test_root;
#[cfg(test)]
mod tests;
