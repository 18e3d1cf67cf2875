//! Repositories that are kept between builds: `git/<key>`, one directory for each.
//!
//! What is in them is its user's business; whoever reads or changes one holds the lock of its key
//! ([`Store::lock_key_unless`]).

use std::path::PathBuf;

use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::{Key, Store, StoreError};

impl Store {
    /// Where the repository of `key` is, if there is one; its user makes it. It counts as used now.
    pub fn repository_path(&self, key: &Key) -> PathBuf {
        let path = self.root().join("git").join(key.hex());
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        // One that is not there yet is made now.
        let _ = rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW);
        self.process().leases().note_growth();
        path
    }

    /// Throws the repository of `key` away.
    pub fn discard_repository(&self, key: &Key) -> Result<(), StoreError> {
        let path = self.root().join("git").join(key.hex());
        let aside = self.process().unique_name();
        match rustix::fs::renameat(rustix::fs::CWD, &path, self.process().fd(), &aside) {
            Ok(()) => {
                self.discard(&aside);
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(StoreError::io("delete", path, errno)),
        }
    }
}
