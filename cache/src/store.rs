//! Opening a store root: layout, version, recovery after a killed process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::content::Blobs;

/// A store root that is open. Cheap to clone; safe to use from several threads, and several processes may have
/// the same root open.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    blobs: Blobs,
}

impl Store {
    /// Opens (creating it where needed) the store at `root`, and removes what a killed process left behind.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let _ = root;
        todo!()
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// The blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// A fresh private directory below `tmp/` for this process; gone when the process is (at the next open).
    pub fn temp_dir(&self) -> Result<PathBuf, StoreError> {
        todo!()
    }
}

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The root was written by a newer wharf.
    #[error("store `{}` has format version {found}; this wharf reads up to {supported}", root.display())]
    NewerVersion { root: PathBuf, found: u32, supported: u32 },
    /// A row or directory that must be there is not.
    #[error("{kind} {name} is not in the store")]
    Missing { kind: &'static str, name: String },
    /// The operating system refused.
    #[error("cannot {operation} `{}`", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    /// SQLite refused.
    #[error("cannot {operation} in the store's database")]
    Database { operation: &'static str, source: rusqlite::Error },
}
