//! Stacking by copying: for stores where nothing can be mounted, or no overlay.
//!
//! A *working tree* is a directory below the process's own with copies of all files of the chain (the file system shares
//! their blocks where it can), and a table of their stats. What a step has changed is what has another stat afterwards; it
//! is copied into the upper directory in overlayfs form, and the tree is kept for the next step on the same chain. So a
//! chain of steps copies its base once.
//!
//! A *view* is the directory of the snapshot, where the chain is a single one that hides nothing, else a directory of hard
//! links to the files of the snapshots. It stays as long as the process.

mod changes;
mod exact;
mod merge;
mod table;
mod writer;

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use super::snapshotter::{InPlace, Place, Snapshotter, Working, topmost_first};
use super::{Chain, SnapshotError, SnapshotId};
use crate::store::remove_tree;
use crate::walk::{self, Walk};
use crate::{Store, diff};
use changes::write_changes;
pub(super) use exact::copy_exactly;
use merge::{Files, merge};
use table::{Table, Time, changes};
use writer::split;

/// Working trees that wait for a next step. Each takes the space of its file system; together they never take more than
/// is free.
const KEPT_MAX: usize = 4;

/// Snapshots stacked by copying.
#[derive(Debug, Default)]
pub(super) struct Copying {
    /// Working trees of steps that have been committed, the oldest first.
    kept: Mutex<Vec<(Chain, Tree)>>,
    views: Mutex<HashMap<Chain, Arc<Mutex<Option<OwnedFd>>>>>,
}

/// All files of a chain in a directory of their own.
#[derive(Debug)]
pub(crate) struct Tree {
    /// In the directory of the process.
    name: String,
    root: OwnedFd,
    table: Table,
}

impl Snapshotter for Copying {
    fn begin(
        &self,
        store: &Store,
        chain: &Chain,
        place: Place<'_>,
    ) -> Result<Box<dyn Working>, SnapshotError> {
        let upper = place.upper.try_clone_to_owned().map_err(failed("open", place.name))?;
        if chain.0.is_empty() {
            return Ok(Box::new(InPlace(upper)));
        }
        let tree = match self.take(chain) {
            Some(tree) => tree,
            None => match Tree::new(store, chain) {
                Err(error) if error.is_disk_full() && self.make_room(store) => Tree::new(store, chain)?,
                made => made?,
            },
        };
        self.leave_space(store);
        let mut working =
            Copied { store: store.clone(), chain: chain.clone(), upper, settled: (0, 0), tree: Some(tree) };
        working.settle().map_err(failed("look at the clock of", place.name))?;
        Ok(Box::new(working))
    }

    fn view(&self, store: &Store, chain: &Chain) -> Result<OwnedFd, SnapshotError> {
        let place = Arc::clone(lock(&self.views).entry(chain.clone()).or_default());
        // Who wants the same meanwhile waits for it.
        let mut place = lock(&place);
        let view = match &mut *place {
            Some(view) => view,
            none => none.insert(make_view(store, chain)?),
        };
        view.try_clone().map_err(failed("open", "a view"))
    }

    fn layers(&self, store: &Store, chain: &Chain) -> Result<Vec<OwnedFd>, SnapshotError> {
        topmost_first(chain).into_iter().map(|id| store.open_snapshot(id)).collect()
    }

    fn keep(&self, store: &Store, chain: Chain, tree: Tree) {
        let mut kept = lock(&self.kept);
        let replaced = kept.iter().position(|(of, _)| *of == chain);
        let oldest = replaced.or_else(|| (kept.len() >= KEPT_MAX).then_some(0));
        let removed = oldest.map(|position| kept.remove(position));
        kept.push((chain, tree));
        drop(kept);
        if let Some((_, tree)) = removed {
            tree.discard(store);
        }
        self.leave_space(store);
    }

    fn make_room(&self, store: &Store) -> bool {
        let all = std::mem::take(&mut *lock(&self.kept));
        let is_some = !all.is_empty();
        all.into_iter().for_each(|(_, tree)| tree.discard(store));
        is_some
    }
}

impl Copying {
    fn take(&self, chain: &Chain) -> Option<Tree> {
        let mut kept = lock(&self.kept);
        let position = kept.iter().position(|(of, _)| of == chain)?;
        Some(kept.remove(position).1)
    }

    /// Lets go of kept trees, the oldest first, until they take no more than is free: a step should not find the disk full
    /// because of what only saves time.
    fn leave_space(&self, store: &Store) {
        loop {
            let mut kept = lock(&self.kept);
            let taken: u64 = kept.iter().map(|(_, tree)| tree.table.size()).sum();
            let Ok(free) = rustix::fs::fstatvfs(store.process().fd()) else { return };
            if taken <= free.f_bavail.saturating_mul(free.f_frsize) {
                return;
            }
            let (_, oldest) = kept.remove(0);
            drop(kept);
            oldest.discard(store);
        }
    }
}

impl Tree {
    fn new(store: &Store, chain: &Chain) -> Result<Self, SnapshotError> {
        let (name, root) = new_directory(store)?;
        let made = merged(store, chain, &root, Files::Copied).and_then(|()| {
            Table::read(root.as_fd(), store.setup().ids).map_err(failed("read the copy of", &name))
        });
        match made {
            Ok(table) => Ok(Self { name, root, table }),
            Err(error) => {
                store.discard(&name);
                Err(error)
            }
        }
    }

    /// Deletes it.
    pub(crate) fn discard(self, store: &Store) {
        store.discard(&self.name);
    }
}

/// A tree that somebody changes.
#[derive(Debug)]
struct Copied {
    store: Store,
    chain: Chain,
    upper: OwnedFd,
    /// What is changed has a change time that is not before this one.
    settled: Time,
    /// Until it is finished.
    tree: Option<Tree>,
}

impl Copied {
    fn settle(&mut self) -> io::Result<()> {
        if let Some(tree) = &self.tree {
            self.settled = tree.table.settle(self.upper.as_fd())?;
        }
        Ok(())
    }
}

impl Working for Copied {
    fn root(&self) -> BorrowedFd<'_> {
        self.tree.as_ref().map_or(self.upper.as_fd(), |tree| tree.root.as_fd())
    }

    fn finish(mut self: Box<Self>) -> Result<Option<Tree>, SnapshotError> {
        let Some(tree) = &mut self.tree else { return Ok(None) };
        let settled = self.settled;
        let now = tree.table.again(tree.root.as_fd(), settled).map_err(failed("look through", &tree.name))?;
        let is_made_since =
            |path: &OsStr| Ok(made_at(tree.root.as_fd(), path)?.is_some_and(|time| time >= settled));
        let changes = changes(&tree.table, &now, settled, &is_made_since)
            .map_err(failed("look through", &tree.name))?;
        let write =
            || write_changes(&self.store, &self.chain, tree.root.as_fd(), &changes, self.upper.as_fd());
        match write() {
            Err(error) if error.is_disk_full() && self.store.snapshotter().make_room(&self.store) => {
                empty(&self.upper).map_err(failed("empty", "the changes of a step"))?;
                write()?;
            }
            written => written?,
        }
        // The next step would see another tree than the snapshot gives.
        if !changes.exact {
            return Ok(None);
        }
        tree.table = now;
        Ok(self.tree.take())
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        if let Some(tree) = &self.tree {
            self.store.discard(&tree.name);
        }
    }
}

/// When the file at `path` was made, where the file system knows.
fn made_at(root: BorrowedFd<'_>, path: &OsStr) -> io::Result<Option<Time>> {
    let (dir, name) = split(path);
    let dir = diff::open_dir_below(root, dir.as_bytes())?.ok_or(io::ErrorKind::NotFound)?;
    let stat = rustix::fs::statx(&dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME)?;
    let is_known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    Ok(is_known.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)))
}

fn make_view(store: &Store, chain: &Chain) -> Result<OwnedFd, SnapshotError> {
    match *topmost_first(chain) {
        [] => Ok(rustix::fs::open(store.empty_dir(0)?, PATH, Mode::empty())
            .map_err(|errno| failed("open", "the empty directory")(errno.into()))?),
        [id] if !hides_something(store, id)? => {
            rustix::fs::openat(store.open_snapshot(id)?, ".", PATH, Mode::empty())
                .map_err(|errno| failed("open", &id.to_string())(errno.into()))
        }
        _ => {
            let (name, root) = new_directory(store)?;
            merged(store, chain, &root, Files::Shared).inspect_err(|_| store.discard(&name))?;
            Ok(root)
        }
    }
}

/// Whether there is a mark in a snapshot that would be seen.
fn hides_something(store: &Store, id: SnapshotId) -> Result<bool, SnapshotError> {
    let look = |dir: OwnedFd| -> io::Result<bool> {
        for visited in Walk::new(dir.as_fd(), store.setup().ids)? {
            if visited?.entry.stat.is_whiteout() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    look(store.open_snapshot(id)?).map_err(failed("look through", &id.to_string()))
}

/// Copies the files of `chain` into the empty directory `root`.
pub(super) fn copy_into(store: &Store, chain: &Chain, root: &OwnedFd) -> Result<(), SnapshotError> {
    if chain.0.is_empty() {
        return rustix::fs::fchmod(root, Mode::from_raw_mode(0o755))
            .map_err(|errno| failed("make", "an empty directory")(errno.into()));
    }
    merged(store, chain, root, Files::Copied)
}

/// Writes the files of `chain` into the empty directory `root`.
fn merged(store: &Store, chain: &Chain, root: &OwnedFd, files: Files) -> Result<(), SnapshotError> {
    merge(&topmost_first(chain), &|id| store.open_snapshot(id), root.as_fd(), files, store.setup().ids)
}

/// An empty directory of the process: its name and a descriptor that is only a path.
fn new_directory(store: &Store) -> Result<(String, OwnedFd), SnapshotError> {
    let name = store.process().unique_name();
    let make = || {
        rustix::fs::mkdirat(store.process().fd(), &name, Mode::RWXU)?;
        rustix::fs::openat(store.process().fd(), &name, PATH, Mode::empty())
    };
    let root = make().map_err(|errno| failed("create a directory for", &name)(errno.into()))?;
    Ok((name, root))
}

const PATH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn failed(operation: &'static str, object: &str) -> impl FnOnce(io::Error) -> SnapshotError {
    let object = object.to_owned();
    move |source| SnapshotError::Io { operation, object, source }
}

fn empty(dir: &OwnedFd) -> io::Result<()> {
    for entry in walk::read_dir(dir.as_fd())? {
        remove_tree(dir, &CString::new(entry.name.into_encoded_bytes())?)?;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept here is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
