//! Repositories that are kept between builds: `git/<key>`, one directory for each.
//!
//! What is in them is its user's business; whoever reads or changes one holds the lock of its key
//! ([`Store::lock_key_unless`]).

use std::path::PathBuf;

use rustix::io::Errno;

use crate::{Key, Store, StoreError};

impl Store {
    /// Where the repository of `key` is, if there is one; its user makes it.
    pub fn repository_path(&self, key: &Key) -> PathBuf {
        self.root().join("git").join(key.hex())
    }

    /// Throws the repository of `key` away.
    pub fn discard_repository(&self, key: &Key) -> Result<(), StoreError> {
        let path = self.repository_path(key);
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
