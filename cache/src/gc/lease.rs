//! Leases: what a process uses and no other may collect.
//!
//! A lease is a line in the file `lease` of the process's directory below `tmp/`: `s` and the id of a snapshot, or `b` and
//! the digest of a blob. It counts as long as the directory is locked, so it ends however its holder ends.
//!
//! Who finds something that is there already leases it under the *collection lock* (a `flock` on `locks/`), shared; who
//! collects has that lock to itself from reading the leases until all that goes has gone. Who describes snapshots, finding
//! some and making rows for others, does so under that lock too. What else is new is leased before others can see it and
//! needs no lock: a collector reads the leases in its write transaction, so it knows those of all rows that it sees, and
//! deletes no blob that was written after it was measured.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::{Digest, SnapshotId};

/// The file of a process's directory that has its leases.
const FILE: &CStr = c"lease";

/// Leases of another process are read up to this size; a line has less than 70 bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What can be leased. Below a leased manifest or index everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Leased {
    Snapshot(SnapshotId),
    Blob(Digest),
}

/// The leases of this process, and what else collecting wants to know of it.
#[derive(Debug)]
pub(crate) struct Leases {
    held: Mutex<Held>,
    /// An open file of its own for `locks/`, which carries the collection lock.
    lock: Mutex<OwnedFd>,
    grew: AtomicBool,
}

#[derive(Debug, Default)]
struct Held {
    file: Option<File>,
    all: HashSet<Leased>,
    /// Tops of the chains that were found; see `uses`.
    used: HashSet<SnapshotId>,
}

impl Leases {
    pub(crate) fn new(locks: OwnedFd) -> Self {
        Self { held: Mutex::default(), lock: Mutex::new(locks), grew: AtomicBool::new(false) }
    }

    /// Remembers that something was written that counts for the size of the store.
    pub(crate) fn note_growth(&self) {
        self.grew.store(true, Ordering::Relaxed);
    }

    /// Whether something was, since this was asked last.
    pub(crate) fn take_growth(&self) -> bool {
        self.grew.swap(false, Ordering::Relaxed)
    }

    /// Leases `wanted`; `dir` is this process's directory.
    pub(crate) fn lease(&self, dir: &OwnedFd, wanted: impl IntoIterator<Item = Leased>) -> io::Result<()> {
        let held = &mut *self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = String::new();
        let mut new = Vec::new();
        for lease in wanted {
            if !held.all.contains(&lease) {
                lines.push_str(&lease.line());
                new.push(lease);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let file = match &mut held.file {
            Some(file) => file,
            none => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(dir, FILE, flags, Mode::RUSR | Mode::WUSR)?;
                none.insert(File::from(fd))
            }
        };
        file.write_all(lines.as_bytes())?;
        held.all.extend(new);
        Ok(())
    }

    /// Whether all of `wanted` are leased.
    pub(crate) fn has_all(&self, wanted: &[Leased]) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().all(|lease| held.all.contains(lease))
    }

    /// Remembers that these were found, to be written down at the end.
    pub(crate) fn note_use(&self, snapshots: impl IntoIterator<Item = SnapshotId>) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).used.extend(snapshots);
    }

    /// What was found since this was asked last.
    pub(crate) fn take_used(&self) -> HashSet<SnapshotId> {
        std::mem::take(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner).used)
    }

    /// Keeps collectors off until the guard is dropped.
    pub(crate) fn keep_collectors_off(&self) -> io::Result<CollectionLock<'_>> {
        self.lock(FlockOperation::LockShared)
    }

    /// Waits until nobody is leasing what is there, and keeps everybody from it until the guard is dropped.
    pub(crate) fn collect_alone(&self) -> io::Result<CollectionLock<'_>> {
        self.lock(FlockOperation::LockExclusive)
    }

    fn lock(&self, operation: FlockOperation) -> io::Result<CollectionLock<'_>> {
        // The lock belongs to the open file, which the threads of this process share: they take turns.
        let locks = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::io::retry_on_intr(|| rustix::fs::flock(&*locks, operation))?;
        Ok(CollectionLock(locks))
    }
}

/// The collection lock, held.
#[derive(Debug)]
pub(crate) struct CollectionLock<'a>(MutexGuard<'a, OwnedFd>);

impl Drop for CollectionLock<'_> {
    fn drop(&mut self) {
        // It cannot fail for a lock that is held, and ends with the process in any case.
        let _ = rustix::fs::flock(&*self.0, FlockOperation::Unlock);
    }
}

impl Leased {
    fn line(&self) -> String {
        match self {
            Self::Snapshot(id) => format!("s {id}\n"),
            Self::Blob(digest) => format!("b {}\n", digest.hex()),
        }
    }

    /// A line without its end. What is none was not finished: then it was not relied on.
    fn parse(line: &str) -> Option<Self> {
        match line.split_once(' ')? {
            ("s", id) => SnapshotId::from_name(id.as_bytes()).map(Self::Snapshot),
            ("b", hex) => format!("sha256:{hex}").parse().ok().map(Self::Blob),
            _ => None,
        }
    }
}

/// Adds the leases in a process's directory to `all`.
pub(crate) fn read_leases(dir: &OwnedFd, all: &mut HashSet<Leased>) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, FILE, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        // It has none, or has just ended.
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    all.extend(String::from_utf8_lossy(&bytes).lines().filter_map(Leased::parse));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let leases = [
            Leased::Snapshot(SnapshotId(0)),
            Leased::Snapshot(SnapshotId(u64::MAX)),
            Leased::Blob(Digest::of(b"x")),
        ];
        for lease in leases {
            let line = lease.line();
            assert_eq!(Leased::parse(line.trim_end()), Some(lease));
        }
        for odd in ["", "s", "s 12", "s zzzzzzzzzzzzzzzz", "b", "b 00", "x 0000000000000000"] {
            assert_eq!(Leased::parse(odd), None, "{odd:?}");
        }
    }
}
