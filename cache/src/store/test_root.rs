//! A store root for tests.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::{Setup, Stacking, Store};

/// A directory of its own, deleted when dropped.
#[derive(Debug)]
pub(crate) struct TestRoot(PathBuf, Setup);

impl TestRoot {
    pub(crate) fn new() -> Self {
        Self::with(Stacking::Overlay)
    }

    /// Opened with this way of stacking.
    pub(crate) fn with(stacking: Stacking) -> Self {
        let name = format!("wharf-cache-{:016x}", super::random_u64().unwrap());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path, Setup { stacking, ..Setup::default() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn open(&self) -> Store {
        Store::open_with(&self.0, self.1).unwrap()
    }

    pub(crate) fn setup(&self) -> Setup {
        self.1
    }

    /// Names of the entries of a directory below the root, sorted.
    pub(crate) fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(dir)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for TestRoot {
    fn drop(&mut self) {
        let parent = fs::File::open(self.0.parent().unwrap()).unwrap();
        let name = CString::new(self.0.file_name().unwrap().as_encoded_bytes()).unwrap();
        let removed = super::remove_tree(&parent.into(), &name);
        assert!(std::thread::panicking() || removed.is_ok(), "{removed:?}");
    }
}

/// Writes a file below a directory descriptor.
pub(crate) fn write_at(dir: impl AsFd, path: &str, text: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, path, flags, Mode::from_raw_mode(0o644)).unwrap();
    assert_eq!(rustix::io::write(fd, text.as_bytes()).unwrap(), text.len());
}
