//! Room on a full disk.
//!
//! Rows are deleted before files, and deleting a row needs room in the database's log. Cache mounts have no row that
//! counts, so they can go first when there is none.

use std::time::Duration;

use rustix::fs::{Mode, fstatvfs, openat};

use super::measure::{DIRECTORY, disk_usage, for_each, mount_title};
use super::{Item, Kind, State};
use crate::{Store, StoreError};

/// So much is enough for every change of the database that a collection makes.
const ROOM_BYTES: u64 = 4 << 20;

impl Store {
    /// Takes the largest cache mounts that nobody uses until there is room for the rest of a collection. Gives what went.
    pub(super) fn make_room(&self) -> Result<Vec<Item>, StoreError> {
        let failed = |errno| StoreError::io("make room in", self.root().join("mounts"), errno);
        let mut mounts = Vec::new();
        for_each(self.mounts_dir(), |name, _| mounts.push(name.to_owned())).map_err(failed)?;
        let mut found = Vec::with_capacity(mounts.len());
        for name in mounts {
            found.push((disk_usage(self.mounts_dir(), &name).map_err(failed)?, name));
        }
        found.sort_unstable_by(|one, other| other.cmp(one));
        let mut removed = Vec::new();
        for (bytes, name) in found {
            // What is no directory was not put here by wharf.
            let Ok(dir) = openat(self.mounts_dir(), &name, DIRECTORY, Mode::empty()) else { continue };
            let title = mount_title(&dir);
            if !self.remove_mount(&name)? {
                continue;
            }
            removed.push(Item {
                kind: Kind::CacheMount,
                name: name.to_string_lossy().into_owned(),
                title,
                bytes,
                used: None,
                cost: Duration::ZERO,
                images: Vec::new(),
                state: State::Cached,
            });
            let free = fstatvfs(self.root_fd()).map_err(failed)?;
            if free.f_bavail.saturating_mul(free.f_frsize) >= ROOM_BYTES {
                break;
            }
        }
        Ok(removed)
    }
}
