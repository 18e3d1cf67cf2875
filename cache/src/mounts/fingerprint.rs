//! Whether a mount is as it was: all its stats in one digest, so that an unchanged one need not be read.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::walk::{self, FileKind, Stat, Walk};
use crate::{Digest, Ids};

/// The file in the instance's directory.
const NAME: &str = "packed";
/// A packed file is two digests in hexadecimal and some marks.
const FILE_BYTES_MAX: u64 = 1024;
/// Kernels stamp files with a clock that ticks; two changes within one tick may look like one.
const TICK: Duration = Duration::from_millis(20);

/// All stats of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    digest: Digest,
    size_bytes: u64,
}

/// Which archive an instance was the last time that somebody looked, and how its files were then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// How the files were.
    pub fingerprint: Digest,
    /// Identity of the archive.
    pub archive: Digest,
}

impl Fingerprint {
    /// Looks at everything in `root`, as the kernel gives it: a file whose recorded owner changes has another time of change.
    /// Returns when a change that comes later is sure to be seen: who changes a file gives it
    /// another time of change, unless that happens within one tick of the clock.
    pub fn of(root: BorrowedFd<'_>) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new_derive_key("wharf cache mount stats, version 1");
        let (mut size_bytes, mut newest) = (0_u64, (0, 0));
        let mut linked = HashSet::new();
        let mut add = |path: &OsStr, stat: &Stat| {
            hasher.update(&(path.len() as u64).to_le_bytes()).update(path.as_bytes());
            let numbers = [
                stat.kind as u64,
                u64::from(stat.mode),
                u64::from(stat.uid),
                u64::from(stat.gid),
                stat.size,
                stat.ino,
                u64::from(stat.nlink),
                stat.mtime.0.cast_unsigned(),
                u64::from(stat.mtime.1),
                stat.ctime.0.cast_unsigned(),
                u64::from(stat.ctime.1),
            ];
            for number in numbers {
                hasher.update(&number.to_le_bytes());
            }
            // A file with several names is in the archive once.
            if stat.kind == FileKind::File && (stat.nlink < 2 || linked.insert((stat.dev, stat.ino))) {
                size_bytes = size_bytes.saturating_add(stat.size);
            }
            newest = newest.max(stat.ctime);
        };
        let dir = walk::open_dir_at(root, OsStr::new("."))?;
        add(OsStr::new(""), &walk::stat_of(dir.as_fd())?);
        for visited in Walk::new(root, Ids::Kernel)? {
            let visited = visited?;
            add(&visited.path, &visited.entry.stat);
        }
        settle(newest);
        Ok(Self { digest: Digest::from_bytes(*hasher.finalize().as_bytes()), size_bytes })
    }

    /// Bytes of all its files, each once.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The digest, to be kept with the archive.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Waits until the clock has left the tick of the newest change. A clock that was set back costs one tick.
fn settle((seconds, nanoseconds): (i64, u32)) {
    let newest = Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds.min(999_999_999));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = now.saturating_sub(newest);
    std::thread::sleep(TICK.saturating_sub(since));
}

/// Reads what [`write`] wrote.
pub(super) fn read(instance: BorrowedFd<'_>) -> Option<Packed> {
    let mut text = String::new();
    let file = walk::open_file_at(instance, OsStr::new(NAME)).ok()?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let (fingerprint, archive) = text.trim_end().split_once(' ')?;
    Some(Packed { fingerprint: fingerprint.parse().ok()?, archive: archive.parse().ok()? })
}

/// Keeps `packed` in the instance's directory. The caller holds the instance's lock. The directory's own times, which say
/// when the mount was used, stay.
pub(super) fn write(instance: BorrowedFd<'_>, packed: &Packed) {
    const NEW: &str = "packed.new";
    let times = rustix::fs::fstat(instance).map(|stat| Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() },
    });
    let write = || -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(instance, NEW, flags, Mode::RUSR | Mode::WUSR)?;
        writeln!(std::fs::File::from(fd), "{} {}", packed.fingerprint, packed.archive)?;
        Ok(rustix::fs::renameat(instance, NEW, instance, NAME)?)
    };
    if write().is_err() {
        // What is there may be about other files.
        for name in [NEW, NAME] {
            let _ = rustix::fs::unlinkat(instance, name, AtFlags::empty());
        }
    }
    // A mount that seems younger than it is stays longer, no more.
    let _ = times.and_then(|times| rustix::fs::futimens(instance, &times));
}
