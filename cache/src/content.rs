//! The blob store: `blobs/sha256/<hex>` under the store root.
//!
//! Contract: `commit` returning `Ok` means the content is there and durable, not that this call put it there.
//! A blob becomes visible only by `commit` (temporary file, fsync, rename); readers verify while they read.

use std::fs::File;
use std::io;

use crate::Digest;

/// Why a blob could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// There is no such blob.
    #[error("blob {digest} is not in the store")]
    NotFound { digest: Digest },
    /// The bytes that were written are not the ones that were announced.
    #[error(
        "content has digest {actual} and {actual_size} bytes, expected {expected} and {expected_size} bytes"
    )]
    Mismatch { expected: Digest, expected_size: u64, actual: Digest, actual_size: u64 },
    /// The blob is larger than the caller is ready to hold.
    #[error("blob {digest} has {size} bytes, more than the limit of {max}")]
    TooLarge { digest: Digest, size: u64, max: u64 },
    /// The operating system refused.
    #[error("cannot {operation} blob {object}")]
    Io { operation: &'static str, object: String, source: io::Error },
}

/// The blobs of one store.
#[derive(Debug)]
pub struct Blobs {}

impl Blobs {
    /// Size in bytes of a committed blob, `None` if it is not there.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, ContentError> {
        let _ = digest;
        todo!()
    }

    /// Opens a blob; the reader fails with `InvalidData` at the end if the bytes do not have this digest.
    pub fn open(&self, digest: &Digest) -> Result<VerifyingReader<File>, ContentError> {
        let _ = digest;
        todo!()
    }

    /// A whole blob of at most `size_bytes_max` bytes, verified.
    pub fn read(&self, digest: &Digest, size_bytes_max: u64) -> Result<Vec<u8>, ContentError> {
        let _ = (digest, size_bytes_max);
        todo!()
    }

    /// Starts a new blob.
    pub fn writer(&self) -> Result<BlobWriter, ContentError> {
        todo!()
    }

    /// Stores `bytes` (a no-op when they are already there).
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, ContentError> {
        let _ = bytes;
        todo!()
    }
}

/// A blob being written; dropped without commit it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {}

impl io::Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let _ = buf;
        todo!()
    }

    fn flush(&mut self) -> io::Result<()> {
        todo!()
    }
}

impl BlobWriter {
    /// Makes the blob visible and durable; returns its digest and size.
    pub fn commit(self) -> Result<(Digest, u64), ContentError> {
        todo!()
    }

    /// As [`Self::commit`], but nothing becomes visible unless digest and size are the expected ones.
    pub fn commit_expecting(self, digest: &Digest, size: u64) -> Result<(), ContentError> {
        let _ = (digest, size);
        todo!()
    }
}

/// Hashes what passes through and fails at end of file when the digest or size is not the expected one, and as
/// soon as more than `size` bytes arrive.
#[derive(Debug)]
pub struct VerifyingReader<R> {
    inner: R,
}

impl<R: io::Read> VerifyingReader<R> {
    /// Wraps `inner`, of which exactly `size` bytes with digest `expected` are wanted.
    pub fn new(inner: R, expected: Digest, size: u64) -> Self {
        let _ = (expected, size);
        Self { inner }
    }
}

impl<R: io::Read> io::Read for VerifyingReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}
