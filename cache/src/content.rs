//! The blob store: `blobs/sha256/<hex>` under the store root.
//!
//! Contract: `commit` returning `Ok` means the content is there and durable, not that this call put it there.
//! A blob becomes visible only by `commit` (temporary file, fsync, rename); readers verify while they read.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::Digest;
use crate::gc::lease::Leased;
use crate::store::{Damage, Damages, ProcessDir};
use crate::write_back::WrittenBack;

/// Small writes (tar headers) are gathered up to this size before they reach the file.
const WRITE_BUFFER_BYTES: usize = 64 * 1024;

/// Why a blob could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// There is no such blob.
    #[error("blob {digest} is not in the store")]
    NotFound {
        /// The blob's digest.
        digest: Digest,
    },
    /// The bytes that were written are not the ones that were announced.
    #[error(
        "content has digest {actual} and {actual_size} bytes, expected {expected} and {expected_size} bytes"
    )]
    Mismatch {
        /// Digest that was announced.
        expected: Digest,
        /// Size that was announced.
        expected_size: u64,
        /// Digest of what came.
        actual: Digest,
        /// Size of what came.
        actual_size: u64,
    },
    /// A committed blob no longer has its bytes. It has been deleted, so that it can be brought or made again.
    #[error("blob {digest} of the store was damaged and has been deleted")]
    Damaged {
        /// The blob's digest.
        digest: Digest,
    },
    /// The blob is larger than the caller is ready to hold.
    #[error("blob {digest} has {size} bytes, more than the limit of {max}")]
    TooLarge {
        /// The blob's digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The caller's limit.
        max: u64,
    },
    /// The operating system refused.
    #[error("cannot {operation} blob {object}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which blob.
        object: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl ContentError {
    /// Whether the blob is not in the store, or no longer because it was damaged.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::NotFound { .. } | Self::Damaged { .. } => true,
            Self::Io { source, .. } => {
                let inner = source.get_ref().and_then(|inner| inner.downcast_ref());
                inner.is_some_and(Self::is_lost)
            }
            _ => false,
        }
    }
}

/// The blobs of one store.
#[derive(Debug)]
pub struct Blobs {
    /// `blobs/sha256`.
    dir: Arc<OwnedFd>,
    process: Arc<ProcessDir>,
    damages: Arc<Damages>,
    /// The blobs that this process has written: nobody has had a chance to change them.
    written: Arc<Mutex<HashSet<Digest>>>,
}

impl Blobs {
    pub(crate) fn new(dir: OwnedFd, process: Arc<ProcessDir>, damages: Arc<Damages>) -> Self {
        Self { dir: Arc::new(dir), process, damages, written: Arc::default() }
    }

    /// Size in bytes of a committed blob, `None` if it is not there.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, ContentError> {
        match rustix::fs::statat(&*self.dir, digest.hex(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.st_size.unsigned_abs())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(io_error("look up", digest, errno)),
        }
    }

    /// Opens a blob; the reader fails with `InvalidData` at the end if the bytes do not have this digest, and deletes the
    /// blob then ([`ContentError::Damaged`]). One that this process has written was hashed then.
    pub fn open(&self, digest: &Digest) -> Result<VerifyingReader<File>, ContentError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::openat(&*self.dir, digest.hex(), flags, Mode::empty()) {
            Ok(fd) => {
                let file = File::from(fd);
                let size = file.metadata().map_err(|error| io_error("open", digest, error))?.len();
                let stored = Stored { dir: Arc::clone(&self.dir), damages: Arc::clone(&self.damages) };
                let is_known = lock(&self.written).contains(digest);
                let hasher = (!is_known).then(Sha256::new);
                Ok(VerifyingReader {
                    stored: Some(stored),
                    hasher,
                    ..VerifyingReader::new(file, *digest, size)
                })
            }
            Err(Errno::NOENT) => Err(ContentError::NotFound { digest: *digest }),
            Err(errno) => Err(io_error("open", digest, errno)),
        }
    }

    /// Opens a blob to read parts of it, of which the caller knows what they must be.
    pub(crate) fn open_part(&self, digest: &Digest) -> Result<File, ContentError> {
        Ok(self.open(digest)?.inner)
    }

    /// Opens a blob that has `size` bytes according to its descriptor. One of another size is read to its end, which tells
    /// whether the blob is damaged or the descriptor is wrong ([`ContentError::Mismatch`]).
    pub fn open_expecting(&self, digest: &Digest, size: u64) -> Result<VerifyingReader<File>, ContentError> {
        let mut reader = self.open(digest)?;
        if reader.size == size {
            return Ok(reader);
        }
        reader.read_to_end_of(digest)?;
        Err(ContentError::Mismatch {
            expected: *digest,
            expected_size: size,
            actual: *digest,
            actual_size: reader.size,
        })
    }

    /// A whole blob of at most `size_bytes_max` bytes, verified.
    pub fn read(&self, digest: &Digest, size_bytes_max: u64) -> Result<Vec<u8>, ContentError> {
        let mut reader = self.open(digest)?;
        let size = reader.remaining;
        if size > size_bytes_max {
            reader.read_to_end_of(digest)?;
            return Err(ContentError::TooLarge { digest: *digest, size, max: size_bytes_max });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        reader.read_to_end(&mut bytes).map_err(|error| io_error("read", digest, error))?;
        Ok(bytes)
    }

    /// Starts a new blob.
    pub fn writer(&self) -> Result<BlobWriter, ContentError> {
        let name = self.process.unique_name();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.process.fd(), &name, flags, Mode::from_raw_mode(0o644))
            .map_err(|errno| io_error("create", "(new)", errno))?;
        let file = WrittenBack::new(File::from(fd));
        Ok(BlobWriter {
            file: io::BufWriter::with_capacity(WRITE_BUFFER_BYTES, file),
            hasher: Sha256::new(),
            size: 0,
            temporary: Some(name),
            dir: Arc::clone(&self.dir),
            process: Arc::clone(&self.process),
            written: Arc::clone(&self.written),
        })
    }

    /// Stores `bytes` (a no-op when they are already there).
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, ContentError> {
        let digest = Digest::of(bytes);
        self.process.lease([Leased::Blob(digest)]).map_err(|error| io_error("lease", digest, error))?;
        // What is put is small enough to look whether the blob still has these bytes.
        if self.touch(&digest, bytes.len() as u64)? && self.read(&digest, bytes.len() as u64).is_ok() {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        writer.write_all(bytes).map_err(|error| io_error("write", digest, error))?;
        writer.commit().map(|(digest, _)| digest)
    }

    /// Keeps a blob that is there with this size from being collected until something names it, as long as this process
    /// lives. Says whether it is there.
    pub fn keep(&self, digest: &Digest, size: u64) -> Result<bool, ContentError> {
        if self.size(digest)? != Some(size) {
            return Ok(false);
        }
        self.process.lease([Leased::Blob(*digest)]).map_err(|error| io_error("lease", digest, error))?;
        self.touch(digest, size)
    }

    /// Marks a blob that is there with this size as written now, so that garbage collection sees that somebody wants
    /// it. Says whether it is there.
    fn touch(&self, digest: &Digest, size: u64) -> Result<bool, ContentError> {
        if self.size(digest)? != Some(size) {
            return Ok(false);
        }
        match rustix::fs::utimensat(&*self.dir, digest.hex(), &written_now(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(io_error("touch", digest, errno)),
        }
    }

    /// The digests of all blobs.
    pub(crate) fn list(&self) -> Result<Vec<Digest>, ContentError> {
        let list = || {
            let mut digests = Vec::new();
            for entry in rustix::fs::Dir::read_from(&*self.dir)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                digests.extend(format!("sha256:{name}").parse::<Digest>());
            }
            Ok(digests)
        };
        list().map_err(|errno: Errno| io_error("list", "directory", errno))
    }

    /// Moves a blob into the process's directory unless `keep` says otherwise, given the time when it was last written
    /// or put. Gives its name there, to be discarded when nobody waits for it.
    ///
    /// The time is looked at once more when the blob has already left its place: a `put` either touched it before
    /// that, and it goes back, or finds nothing and writes it anew.
    pub(crate) fn set_aside_unless(
        &self,
        digest: &Digest,
        keep: impl Fn(SystemTime) -> bool,
    ) -> Result<Option<String>, ContentError> {
        let failed = |errno| io_error("delete", digest, errno);
        let name = digest.hex();
        let written = |dir: &OwnedFd, name: &str| {
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| {
                let nanos = Duration::from_nanos(stat.st_mtime_nsec);
                UNIX_EPOCH + Duration::from_secs(stat.st_mtime.unsigned_abs()) + nanos
            })
        };
        let aside = self.process.unique_name();
        match written(&self.dir, &name) {
            Ok(time) if keep(time) => return Ok(None),
            Ok(_) => {}
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        }
        match rustix::fs::renameat(&*self.dir, &name, self.process.fd(), &aside) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        }
        if keep(written(self.process.fd(), &aside).map_err(failed)?) {
            let back = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(self.process.fd(), &aside, &*self.dir, &name, back) {
                Ok(()) => return Ok(None),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
            rustix::fs::unlinkat(self.process.fd(), &aside, AtFlags::empty()).map_err(failed)?;
            return Ok(None);
        }
        Ok(Some(aside))
    }
}

/// A blob being written; dropped without commit it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    file: io::BufWriter<WrittenBack>,
    hasher: Sha256,
    size: u64,
    /// Name in the process's directory, until the rename.
    temporary: Option<String>,
    dir: Arc<OwnedFd>,
    process: Arc<ProcessDir>,
    written: Arc<Mutex<HashSet<Digest>>>,
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buf).map_err(|source| {
            // Who copies what somebody else sends must be able to tell whose fault it is.
            let kind = source.kind();
            let object = "that is new".to_owned();
            io::Error::new(kind, ContentError::Io { operation: "write", object, source })
        })?;
        self.hasher.update(&buf[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter {
    /// Makes the blob visible and durable; returns its digest and size.
    pub fn commit(mut self) -> Result<(Digest, u64), ContentError> {
        let digest = self.digest();
        self.publish(&digest)?;
        Ok((digest, self.size))
    }

    /// As [`Self::commit`], but nothing becomes visible unless digest and size are the expected ones.
    pub fn commit_expecting(mut self, digest: &Digest, size: u64) -> Result<(), ContentError> {
        let actual = self.digest();
        if actual != *digest || self.size != size {
            return Err(ContentError::Mismatch {
                expected: *digest,
                expected_size: size,
                actual,
                actual_size: self.size,
            });
        }
        self.publish(digest)
    }

    /// Reads what was written from `start` on.
    pub(crate) fn read_back(&mut self, start: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().file().read_exact_at(bytes, start)
    }

    /// Digest and size of what was written so far.
    pub(crate) fn so_far(&self) -> (Digest, u64) {
        (self.digest(), self.size)
    }

    fn digest(&self) -> Digest {
        Digest::from_bytes(self.hasher.clone().finalize().into())
    }

    /// The time is set by hand because the kernel's own lags by up to a tick, and garbage collection compares it
    /// with when an image was recorded.
    fn publish(&mut self, digest: &Digest) -> Result<(), ContentError> {
        self.file.flush().map_err(|error| io_error("write", digest, error))?;
        self.process.leases().note_growth();
        self.process.lease([Leased::Blob(*digest)]).map_err(|error| io_error("lease", digest, error))?;
        let file = self.file.get_ref().file();
        rustix::fs::futimens(file, &written_now()).map_err(|errno| io_error("touch", digest, errno))?;
        rustix::fs::fsync(file).map_err(|errno| io_error("sync", digest, errno))?;
        if let Some(name) = &self.temporary {
            rustix::fs::renameat(self.process.fd(), name, &*self.dir, digest.hex())
                .map_err(|errno| io_error("rename", digest, errno))?;
            self.temporary = None;
        }
        lock(&self.written).insert(*digest);
        rustix::fs::fsync(&*self.dir).map_err(|errno| io_error("sync the directory of", digest, errno))
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if let Some(name) = self.temporary.take() {
            // What stays behind here goes with the process's directory.
            let _ = rustix::fs::unlinkat(self.process.fd(), name, AtFlags::empty());
        }
    }
}

/// Hashes what passes through and fails when the last byte arrives if the digest is not the expected one, at end of
/// file when bytes are missing, and as soon as more than `size` bytes arrive.
#[derive(Debug)]
pub struct VerifyingReader<R> {
    inner: R,
    /// None where only the size is in doubt.
    hasher: Option<Sha256>,
    expected: Digest,
    size: u64,
    remaining: u64,
    verified: bool,
    /// Where the blob is committed, if it is.
    stored: Option<Stored>,
}

/// What becomes of a committed blob that is damaged.
#[derive(Debug)]
struct Stored {
    dir: Arc<OwnedFd>,
    damages: Arc<Damages>,
}

impl VerifyingReader<File> {
    /// Reads what nobody wants, to know whether the blob is damaged.
    fn read_to_end_of(&mut self, digest: &Digest) -> Result<(), ContentError> {
        io::copy(self, &mut io::sink()).map(drop).map_err(|error| io_error("read", digest, error))
    }
}

impl<R: Read> VerifyingReader<R> {
    /// Wraps `inner`, of which exactly `size` bytes with digest `expected` are wanted.
    pub fn new(inner: R, expected: Digest, size: u64) -> Self {
        Self {
            inner,
            hasher: Some(Sha256::new()),
            expected,
            size,
            remaining: size,
            verified: false,
            stored: None,
        }
    }

    fn verify(&mut self) -> io::Result<()> {
        let actual = match &self.hasher {
            Some(hasher) => Digest::from_bytes(hasher.clone().finalize().into()),
            None => self.expected,
        };
        if self.remaining != 0 || actual != self.expected {
            if let Some(Stored { dir, damages }) = &self.stored {
                damages.note(Damage::Blobs(vec![self.expected]));
                // What cannot be deleted is found damaged again.
                let _ = rustix::fs::unlinkat(&**dir, self.expected.hex(), AtFlags::empty());
                let damaged = ContentError::Damaged { digest: self.expected };
                return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
            }
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                ContentError::Mismatch {
                    expected: self.expected,
                    expected_size: self.size,
                    actual,
                    actual_size: self.size - self.remaining,
                },
            ));
        }
        self.verified = true;
        Ok(())
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let read = self.inner.read(buf)?;
        self.remaining = self.remaining.checked_sub(read as u64).ok_or_else(|| {
            let text = format!("content of {} is longer than {} bytes", self.expected, self.size);
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buf[..read]);
        }
        if !self.verified && (read == 0 || self.remaining == 0) {
            self.verify()?;
        }
        Ok(read)
    }
}

fn written_now() -> Timestamps {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Timespec {
        tv_sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: now.subsec_nanos().into(),
    };
    Timestamps { last_access: now, last_modification: now }
}

/// A set is whole between any two statements.
fn lock(digests: &Mutex<HashSet<Digest>>) -> MutexGuard<'_, HashSet<Digest>> {
    digests.lock().unwrap_or_else(PoisonError::into_inner)
}

fn io_error(operation: &'static str, object: impl ToString, source: impl Into<io::Error>) -> ContentError {
    ContentError::Io { operation, object: object.to_string(), source: source.into() }
}

#[cfg(test)]
mod tests;
