//! Snapshots: one directory a committed diff, stacked by kernel overlayfs or by copying.
//!
//! Words. A *snapshot* is a committed diff: an immutable directory `snapshots/<id>/` in overlayfs form (whiteout =
//! character device 0/0, opaque directory = xattr `user.overlay.opaque`). A *chain* is an ordered list of
//! snapshots, lowest first; it stands for the file system they give when stacked. An *active* snapshot is a diff
//! being written on top of a chain; it becomes a snapshot by `commit` or vanishes when dropped.
//!
//! On disk an active snapshot is `tmp/<process>/<n>/snapshot/fs`, with what the snapshotter needs beside it; committing
//! renames `snapshot` to `snapshots/<id>` in the transaction that inserts the row. So a row lacks its directory only if it
//! says so (a *lazy* snapshot, which a cache of another place has), and a directory without such a row is a leftover.
//!
//! How chains become file systems is the business of a [`snapshotter`]: [`overlay`] mounts them, [`copy`] needs no mounts.

mod copy;
mod kept;
mod lazy;
mod overlay;
pub(crate) mod rows;
mod share;
pub(crate) mod snapshotter;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};

use crate::diff::normal;
use crate::gc::lease::Leased;
use crate::store::Damage;
use crate::{ContentDigest, DiffId, Digest, Stacking, Store, StoreError, contenthash, store};
use copy::Tree;
pub use kept::{Form, Kept, Lasting};
pub use lazy::LazyLayer;
pub use overlay::explain_mount;
pub(crate) use share::List;
pub use share::{Sharing, Wanted};
use snapshotter::{Place, Snapshotter, Working};

/// Name of a committed diff: 16 hex digits, random, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u64);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl SnapshotId {
    /// As the database keeps it: its integers are signed.
    pub(crate) fn row_id(self) -> i64 {
        self.0.cast_signed()
    }

    /// The id whose directory has this name.
    pub(crate) fn from_name(name: &[u8]) -> Option<Self> {
        let id = Self(u64::from_str_radix(std::str::from_utf8(name).ok()?, 16).ok()?);
        (id.to_string().as_bytes() == name).then_some(id)
    }
}

/// Snapshots from the lowest to the topmost; empty is `scratch`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Chain(pub Vec<SnapshotId>);

impl Chain {
    /// This chain with `top` put on it.
    pub fn with(&self, top: SnapshotId) -> Self {
        let mut ids = self.0.clone();
        ids.push(top);
        Self(ids)
    }
}

/// What the store knows of a committed diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// Content digest of the diff alone (not of what it is stacked on).
    pub content: ContentDigest,
    /// Sum of the regular files' sizes in bytes.
    pub size: u64,
    /// When it was committed; the `created` of its history entry.
    pub created: SystemTime,
}

/// A layer blob made from, or unpacked into, a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Digest of the (compressed) blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// OCI media type of the blob.
    pub media_type: String,
    /// What its descriptor says besides (the table of contents of an estargz layer).
    pub annotations: BTreeMap<String, String>,
}

/// A diff being written on top of a chain. Dropped without commit it leaves nothing.
#[derive(Debug)]
pub struct Active {
    store: Store,
    chain: Chain,
    /// Name in the process's directory.
    name: String,
    upper: OwnedFd,
    working: Option<Box<dyn Working>>,
    is_built_on: bool,
    sharing: Option<Sharing>,
}

impl Active {
    /// The merged file system, read-write; made at the first call. The root of a detached overlay mount (with an `O_PATH`
    /// descriptor: open `.` at it to list it), or a plain directory where snapshots are stacked by copying.
    pub fn root(&mut self) -> Result<BorrowedFd<'_>, SnapshotError> {
        if self.working.is_none() {
            let place = Place { name: &self.name, upper: self.upper.as_fd() };
            self.working = Some(self.store.snapshotter().begin(&self.store, &self.chain, place)?);
        }
        Ok(self.working.as_ref().map_or(self.upper.as_fd(), |working| working.root()))
    }

    /// The bare upper directory, for writers that know nothing below is in the way (layer unpacking). Who has asked for
    /// [`Self::root`] on top of a chain must not write here.
    pub fn upper(&self) -> BorrowedFd<'_> {
        self.upper.as_fd()
    }

    /// Says that nothing is going to be prepared on top of what this becomes, so that nothing is kept for that.
    pub fn ends_here(&mut self) {
        self.is_built_on = false;
    }

    /// Ends the changing, hashes the diff, moves it under its final name and records it, atomically. What is no change
    /// against the chain below has no part in the content digest.
    /// `created` is the time kept for the history entry.
    pub fn commit(mut self, created: SystemTime) -> Result<Snapshot, SnapshotError> {
        let mut tree = match self.working.take() {
            Some(working) => working.finish()?,
            None => None,
        };
        let store = &self.store.clone();
        let discard = |tree: &mut Option<Tree>| tree.take().map(|tree| tree.discard(store)).is_some();
        if !self.is_built_on {
            discard(&mut tree);
        }
        let mut committed = self.commit_changes(created);
        if committed.as_ref().is_err_and(SnapshotError::is_disk_full)
            && (store.snapshotter().make_room(store) | discard(&mut tree))
        {
            committed = self.commit_changes(created);
        }
        match (&committed, tree) {
            (Ok(snapshot), Some(tree)) => store.snapshotter().keep(store, self.chain.with(snapshot.id), tree),
            (Err(_), Some(tree)) => tree.discard(store),
            (_, None) => {}
        }
        committed
    }

    fn commit_changes(&mut self, created: SystemTime) -> Result<Snapshot, SnapshotError> {
        self.place_shared()?;
        let no_change =
            normal::no_change(&self.store, self.upper.as_fd(), &self.chain, "the changes of a step")
                .map_err(|error| self.error("compare", io::Error::other(error)))?;
        let (upper, ids) = (self.upper.as_fd(), self.store.setup().ids);
        let Some(sharing) = &self.sharing else {
            return self.commit_hashed(created, contenthash::hash_changes(upper, ids, &no_change));
        };
        let mut list = sharing.list();
        let hashed = contenthash::hash_and_list(upper, ids, &no_change, sharing.shared(), &mut list);
        self.write_list(list, !sharing.shared().is_empty())?;
        self.commit_hashed(created, hashed)
    }

    /// As [`Self::commit`] for what was unpacked from a layer, all of which counts.
    pub(crate) fn commit_unpacked(self, created: SystemTime) -> Result<Snapshot, SnapshotError> {
        let hashed = contenthash::hash_tree(self.upper.as_fd(), self.store.setup().ids);
        self.commit_hashed(created, hashed)
    }

    fn commit_hashed(
        &self,
        created: SystemTime,
        hashed: io::Result<(ContentDigest, u64)>,
    ) -> Result<Snapshot, SnapshotError> {
        let (content, size) = hashed.map_err(|source| self.error("hash", source))?;
        let id = store::random_u64().map_err(|source| self.error("name", source))?;
        let snapshot = Snapshot { id: SnapshotId(id), content, size, created };
        self.store.process().leases().note_growth();
        self.store
            .process()
            .lease([Leased::Snapshot(snapshot.id)])
            .map_err(|source| self.error("lease", source))?;
        let committed = self.store.write("commit a snapshot", |transaction| {
            self.publish(snapshot.id)?;
            rows::insert(transaction, &snapshot).map_err(StoreError::database("commit a snapshot"))?;
            Ok::<_, SnapshotError>(())
        });
        if let Err(error) = committed {
            // Without a row the directory is a leftover; taken back, it is deleted at once.
            self.retract(snapshot.id);
            return Err(error);
        }
        self.store.committed().insert(snapshot.id);
        Ok(snapshot)
    }

    /// Moves the diff under its final name; part of the transaction that inserts the row.
    pub(crate) fn publish(&self, id: SnapshotId) -> Result<(), SnapshotError> {
        let from = format!("{}/snapshot", self.name);
        rustix::fs::renameat(self.store.process().fd(), from, self.store.snapshots_dir(), id.to_string())
            .map_err(|errno| self.error("commit", errno.into()))
    }

    /// Undoes [`Self::publish`].
    fn retract(&self, id: SnapshotId) {
        let to = format!("{}/snapshot", self.name);
        match rustix::fs::renameat(self.store.snapshots_dir(), id.to_string(), self.store.process().fd(), to)
        {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(_) => self.store.process().leave_to_next_opener(),
        }
    }

    fn error(&self, operation: &'static str, source: io::Error) -> SnapshotError {
        SnapshotError::Io {
            operation,
            object: self.store.process().path().join(&self.name).display().to_string(),
            source,
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.working = None;
        self.store.discard(&self.name);
    }
}

impl Store {
    /// Starts a diff on top of `chain`.
    pub fn prepare(&self, chain: &Chain) -> Result<Active, SnapshotError> {
        self.snapshots(chain)?;
        let name = self.process().unique_name();
        let failed = |operation, object: &str| {
            let object = self.process().path().join(object).display().to_string();
            move |errno: rustix::io::Errno| SnapshotError::Io { operation, object, source: errno.into() }
        };
        for dir in [name.clone(), format!("{name}/snapshot"), format!("{name}/snapshot/fs")] {
            rustix::fs::mkdirat(self.process().fd(), &dir, Mode::RWXU).map_err(failed("create", &dir))?;
        }
        let upper =
            rustix::fs::openat(self.process().fd(), format!("{name}/snapshot/fs"), DIRECTORY, Mode::empty())
                .map_err(failed("open", &name))?;
        let active = Active {
            store: self.clone(),
            chain: chain.clone(),
            name,
            upper,
            working: None,
            is_built_on: true,
            sharing: None,
        };
        // The merged root is the upper one's: it has to look as it did below.
        let below = chain.0.last().map(|top| self.open_snapshot(*top)).transpose()?;
        self.imitate(below.as_ref(), &active.upper)
            .map_err(|source| active.error("copy the root of", source))?;
        Ok(active)
    }

    /// The merged file system of `chain` (an empty directory for the empty chain), to be read and never to be written to. The
    /// descriptor is an `O_PATH` one: open `.` at it to list it. It is the root of a detached mount that is read-only;
    /// where snapshots are stacked by copying it is a plain directory that holds *the very files of the snapshots*.
    pub fn view(&self, chain: &Chain) -> Result<OwnedFd, SnapshotError> {
        self.snapshots(chain)?;
        self.snapshotter().view(self, chain)
    }

    /// Content digest of the whole file system `chain` stands for: the diffs' content digests, folded from the lowest
    /// to the topmost. Needs no file access.
    ///
    /// The fold knows only the list: chains that end in the same files by different diffs have different digests, which
    /// costs a hit and never gives a wrong one.
    pub fn chain_content(&self, chain: &Chain) -> Result<ContentDigest, SnapshotError> {
        const CONTEXT: &str = "wharf chain content, version 1";
        let empty = blake3::Hasher::new_derive_key(CONTEXT).finalize();
        let fold = |below: blake3::Hash, snapshot: Snapshot| {
            let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
            hasher.update(below.as_bytes()).update(&snapshot.content.0).finalize()
        };
        Ok(self.snapshots(chain)?.into_iter().fold(empty, fold).into())
    }

    /// Forgets a snapshot that turned out damaged, with its layers and the records that name it, so that it is made
    /// anew; then deletes its directory.
    pub fn drop_snapshot(&self, id: SnapshotId) -> Result<(), SnapshotError> {
        self.write("drop a snapshot", |transaction| {
            rows::delete(transaction, id).map_err(StoreError::database("drop a snapshot"))
        })?;
        let aside = self.process().unique_name();
        match rustix::fs::renameat(self.snapshots_dir(), id.to_string(), self.process().fd(), &aside) {
            Ok(()) => self.discard(&aside),
            Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => {
                self.process().leave_to_next_opener();
                return Err(SnapshotError::Io {
                    operation: "delete",
                    object: id.to_string(),
                    source: errno.into(),
                });
            }
        }
        Ok(())
    }

    /// Makes sure that the files of snapshot `id`, which lies on top of `below`, are what was committed, before something
    /// lasting is made of them. A changed one is dropped, and is lost. What this process has committed itself was hashed a
    /// moment ago.
    pub(crate) fn verify_snapshot(&self, id: SnapshotId, below: &Chain) -> Result<(), SnapshotError> {
        if self.committed().contains(&id) {
            return Ok(());
        }
        let failed = |source| SnapshotError::Io { operation: "hash", object: id.to_string(), source };
        let expected: Vec<_> =
            self.snapshots(&Chain(vec![id]))?.into_iter().map(|snapshot| snapshot.content).collect();
        let dir = self.open_snapshot(id)?;
        let no_change = normal::no_change(self, dir.as_fd(), below, "a snapshot")
            .map_err(|error| failed(io::Error::other(error)))?;
        let (content, _) =
            contenthash::hash_changes(dir.as_fd(), self.setup().ids, &no_change).map_err(failed)?;
        // What was put on top of `below` later was committed alone.
        if expected.contains(&content)
            || expected.contains(&contenthash::hash_tree(dir.as_fd(), self.setup().ids).map_err(failed)?.0)
        {
            return Ok(());
        }
        self.damages().note(Damage::Snapshots(vec![id]));
        self.drop_snapshot(id)?;
        Err(missing(id).into())
    }

    /// The bare directory of a snapshot, in overlayfs form.
    pub(crate) fn open_snapshot(&self, id: SnapshotId) -> Result<OwnedFd, SnapshotError> {
        match rustix::fs::openat(self.snapshots_dir(), format!("{id}/fs"), DIRECTORY, Mode::empty()) {
            Ok(dir) => Ok(dir),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                self.has_snapshot_files(id)?;
                Err(missing(id).into())
            }
            Err(errno) => {
                Err(SnapshotError::Io { operation: "open", object: id.to_string(), source: errno.into() })
            }
        }
    }

    fn snapshot_path(&self, id: SnapshotId) -> PathBuf {
        self.root().join(format!("snapshots/{id}/fs"))
    }
}

/// The snapshotter for a way of stacking.
pub(crate) fn snapshotter(stacking: Stacking) -> Box<dyn Snapshotter> {
    match stacking {
        Stacking::Overlay => Box::new(overlay::Overlay),
        Stacking::Copy => Box::new(copy::Copying::default()),
    }
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn missing(id: SnapshotId) -> StoreError {
    StoreError::Lost { id }
}

/// Why a snapshot could not be made, mounted or committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The kernel or file system refused an operation.
    #[error("cannot {operation} snapshot {object}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which snapshot.
        object: String,
        /// Why it failed.
        source: io::Error,
    },
    /// More layers than can be stacked: 500 in one overlay (the kernel's limit) and 499 above it in another.
    #[error("{layers} layers are more than the {max} that overlayfs can stack")]
    TooManyLayers {
        /// Layers of the chain.
        layers: usize,
        /// The limit.
        max: usize,
    },
    /// A snapshot that was described has other files than it was said to have.
    #[error("the files of snapshot {id} are not those that it was described with")]
    Described {
        /// Which.
        id: SnapshotId,
    },
    /// The database refused.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl SnapshotError {
    /// Whether there was no room for what had to be written.
    pub(crate) fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => store::is_disk_full(source),
            Self::Store(error) => error.is_disk_full(),
            Self::TooManyLayers { .. } | Self::Described { .. } => false,
        }
    }
}

#[cfg(test)]
mod conformance;
// The same tests for each way of stacking: they look at the name of their module.
#[cfg(test)]
#[path = "snapshot/tests.rs"]
#[expect(clippy::duplicate_mod, reason = "the same tests for each way of stacking")]
mod copy_tests;
#[cfg(test)]
#[path = "snapshot/tests.rs"]
mod overlay_tests;
