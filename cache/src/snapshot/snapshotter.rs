//! The seam between snapshots and the way in which they are stacked.
//!
//! # Contract
//!
//! A snapshot is a directory in overlayfs form, whoever wrote it: every snapshotter reads the snapshots of every other, and
//! the same changes made through any of them give snapshots with the same content digest and layer.
//!
//! - *Working trees* are private: what is done in one is seen in no view, no snapshot and no other working tree, before
//!   and after [`Working::finish`]. A tree that is dropped unfinished leaves nothing.
//! - `finish` is called when nobody writes to the tree any more. It may write more than changed (what overlayfs copies up
//!   without need), never less: the content digest and the layer leave out what is no change.
//! - *Views* are what the chain is, for as long as the process lives. Nobody writes to a view. Overlayfs holds everybody to
//!   that; a view without mounts is made of the very files of the snapshots, and who shows it to a step sees to it.
//! - Device, inode and link count of a file tell which names in one tree are names of one file, and nothing else: the count
//!   may be larger than the names that can be found.
//! - Nothing survives the process, however it ends, but leftovers in its directory.
//!
//! - One difference is allowed. When a file of the chain has several names and is changed through one of them, overlayfs
//!   changes that name alone; a plain directory changes all. They become files of their own in both.
//!
//! The suite in `snapshot/conformance.rs` holds every snapshotter to it, against a plain directory in which all is done one
//! after the other.

use std::collections::HashSet;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::copy::Tree;
use super::{Chain, SnapshotError, SnapshotId};
use crate::Store;

/// Makes file systems of chains.
pub(crate) trait Snapshotter: fmt::Debug + Send + Sync {
    /// The files of `chain`, to be changed.
    fn begin(
        &self,
        store: &Store,
        chain: &Chain,
        place: Place<'_>,
    ) -> Result<Box<dyn Working>, SnapshotError>;

    /// The files of `chain`, to be read: a descriptor of the root that is only a path.
    fn view(&self, store: &Store, chain: &Chain) -> Result<OwnedFd, SnapshotError>;

    /// The same for who looks up single files: directories in overlayfs form that lie on top of each other, topmost first.
    fn layers(&self, store: &Store, chain: &Chain) -> Result<Vec<OwnedFd>, SnapshotError>;

    /// Takes over the working tree of a step that has been committed as `chain`.
    fn keep(&self, store: &Store, chain: Chain, tree: Tree);

    /// Lets go of everything that only saves time. Says whether there was something.
    fn make_room(&self, store: &Store) -> bool;
}

/// Where an active snapshot lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Its name in the directory of the process.
    pub(crate) name: &'a str,
    /// Its upper directory: that of the snapshot which it may become.
    pub(crate) upper: BorrowedFd<'a>,
}

/// The files of a chain while they are changed.
pub(crate) trait Working: fmt::Debug + Send + Sync {
    /// Their root.
    fn root(&self) -> BorrowedFd<'_>;

    /// Ends the changing: from now on the upper directory holds what differs from the chain. Gives the tree if the next
    /// step can go on in it.
    fn finish(self: Box<Self>) -> Result<Option<Tree>, SnapshotError>;
}

/// A directory in which all changes are in the upper one from the start: the root of a mount, which ends when it is dropped, or
/// the upper directory itself, on top of nothing.
#[derive(Debug)]
pub(super) struct InPlace(pub(super) OwnedFd);

impl Working for InPlace {
    fn root(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn finish(self: Box<Self>) -> Result<Option<Tree>, SnapshotError> {
        Ok(None)
    }
}

/// The snapshots of a chain from the topmost to the lowest, each once. One that is there twice counts where it is topmost:
/// all that the lower one adds or hides is hidden or added again above.
pub(super) fn topmost_first(chain: &Chain) -> Vec<SnapshotId> {
    let mut seen = HashSet::new();
    chain.0.iter().rev().copied().filter(|id| seen.insert(*id)).collect()
}
