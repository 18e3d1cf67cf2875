//! The directory of one process below `tmp/`: everything that is not committed yet lives there.
//!
//! Its owner holds an exclusive `flock` on it, which the kernel drops however the owner ends. Who opens the store
//! later takes the directories whose lock is free for its own and deletes them.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::remove_tree::remove_tree;
use crate::gc::lease::{Leased, Leases, read_leases};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// This process's directory; removed when dropped.
#[derive(Debug)]
pub(crate) struct ProcessDir {
    /// `tmp/`.
    tmp: OwnedFd,
    name: String,
    path: PathBuf,
    /// The directory itself; its open file description holds the lock.
    dir: OwnedFd,
    next: AtomicU64,
    leases: Leases,
}

/// Holds the other openers of the store off while the directories below `tmp/` are looked at and made: only under
/// this lock can one exist that its living owner has not locked yet.
#[derive(Debug)]
pub(crate) struct OpenLock(OwnedFd);

impl OpenLock {
    /// Waits for its turn.
    pub(super) fn acquire(tmp: &Path) -> io::Result<Self> {
        let dir = rustix::fs::open(tmp, DIRECTORY, Mode::empty())?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&dir, FlockOperation::LockExclusive))?;
        Ok(Self(dir))
    }
}

impl ProcessDir {
    /// Makes a directory for this process in `tmp`. `locks` is an open file that nobody else has.
    pub(super) fn create(tmp: &Path, locks: OwnedFd, _opening: &OpenLock) -> io::Result<Self> {
        let name = format!("{:016x}", random_u64()?);
        let path = tmp.join(&name);
        let tmp = rustix::fs::open(tmp, DIRECTORY, Mode::empty())?;
        rustix::fs::mkdirat(&tmp, &name, Mode::RWXU)?;
        let dir = rustix::fs::openat(&tmp, &name, DIRECTORY, Mode::empty())?;
        rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { tmp, name, path, dir, next: AtomicU64::new(0), leases: Leases::new(locks) })
    }

    /// Moves what dead processes left in `tmp` into this directory. Says whether there was something.
    pub(super) fn adopt_leftovers(&self, opening: &OpenLock) -> io::Result<bool> {
        let mut found = false;
        for entry in rustix::fs::Dir::read_from(&opening.0)? {
            let entry = entry?;
            let name = entry.file_name();
            if !is_process_name(name.to_bytes()) || name.to_bytes() == self.name.as_bytes() {
                continue;
            }
            // What cannot be opened as a directory is no live process's; what has vanished, its owner has removed.
            let lock = match rustix::fs::openat(&self.tmp, name, DIRECTORY, Mode::empty()) {
                Ok(dir) => match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => Some(dir),
                    Err(Errno::WOULDBLOCK) => continue,
                    Err(errno) => return Err(errno.into()),
                },
                Err(Errno::NOENT) => continue,
                Err(_) => None,
            };
            match rustix::fs::renameat(&self.tmp, name, &self.dir, self.unique_name()) {
                Ok(()) => found = true,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
            drop(lock);
        }
        Ok(found)
    }

    /// Deletes everything in this directory; goes on after a failure and reports the first. Not for a time when
    /// somebody may be using it.
    pub(super) fn clear(&self) -> io::Result<()> {
        let mut first_error = Ok(());
        for entry in rustix::fs::Dir::read_from(&self.dir)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                first_error = first_error.and(remove_tree(&self.dir, entry.file_name()));
            }
        }
        first_error
    }

    /// The leases of this process.
    pub(crate) fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Leases `wanted` for as long as this process lives.
    pub(crate) fn lease(&self, wanted: impl IntoIterator<Item = Leased>) -> io::Result<()> {
        self.leases.lease(&self.dir, wanted)
    }

    /// Waits until nobody is opening the store, and keeps everybody from it.
    pub(crate) fn keep_openers_off(&self) -> io::Result<OpenLock> {
        OpenLock::acquire(self.path.parent().unwrap_or(&self.path))
    }

    /// What other living processes have leased.
    pub(crate) fn leased_by_others(&self, opening: &OpenLock) -> io::Result<HashSet<Leased>> {
        let mut leased = HashSet::new();
        for entry in rustix::fs::Dir::read_from(&opening.0)? {
            let entry = entry?;
            let name = entry.file_name();
            if !is_process_name(name.to_bytes()) || name.to_bytes() == self.name.as_bytes() {
                continue;
            }
            let Ok(dir) = rustix::fs::openat(&self.tmp, name, DIRECTORY, Mode::empty()) else { continue };
            match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => read_leases(&dir, &mut leased)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(leased)
    }

    /// A name not used before in this directory.
    pub(crate) fn unique_name(&self) -> String {
        self.next.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// The directory.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.dir
    }

    /// Its name below `tmp/`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ProcessDir {
    fn drop(&mut self) {
        // The next opener deletes what stays behind.
        let _ = self.clear();
        let _ = rustix::fs::unlinkat(&self.tmp, &self.name, AtFlags::REMOVEDIR);
    }
}

/// Whether `name` is one that [`ProcessDir::create`] gives: nothing else below `tmp/` is ever deleted.
fn is_process_name(name: &[u8]) -> bool {
    name.len() == 16 && name.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// 64 random bits from the kernel.
pub(crate) fn random_u64() -> io::Result<u64> {
    getrandom::u64().map_err(|error| io::Error::other(error.to_string()))
}
