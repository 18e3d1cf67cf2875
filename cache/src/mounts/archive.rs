//! A cache mount as it travels: one deterministic tar, cut into chunks, each compressed and named by its digest.
//!
//! Whoever packs gives chunks away as they are made, several at once, and keeps nothing; whoever unpacks asks for some
//! chunks ahead. Memory is that of a few chunks either way.

use std::io;
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope};

use super::chunks::CHUNK_BYTES_MAX;
use crate::Digest;
use crate::diff::DiffError;

/// Chunks that are compressed, sent, fetched or unpacked at the same time: threads mostly wait for the network.
pub(super) const CHUNKS_AT_ONCE: usize = 6;
/// What compression may add to a chunk that cannot be made smaller.
const CHUNK_GROWTH_BYTES_MAX: u64 = 64 * 1024;
/// The most chunks of an archive: with chunks of the usual size 100 GB, and a description that can still be sent.
pub const CHUNKS_MAX: usize = 100_000;

/// A piece of an archive.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// Digest of the blob, which is compressed with zstd.
    pub digest: Digest,
    /// Size of the blob.
    pub size: u64,
    /// Digest of what it unpacks to: who has made these bytes before need not compress them again to know the blob.
    pub plain: Digest,
    /// Size of what it unpacks to.
    pub plain_size: u64,
}

/// A packed mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Archive {
    /// Its pieces in order.
    pub chunks: Vec<Chunk>,
}

/// Why a mount could not be packed or unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The description breaks a limit.
    #[error("the archive of a cache mount {0}")]
    Refused(String),
    /// A chunk could not be had, or given away.
    #[error("cannot {operation} chunk {digest} of a cache mount")]
    Chunk {
        /// What was being done.
        operation: &'static str,
        /// Digest of the chunk: of its blob where that is known.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread to {operation} a cache mount")]
    Thread {
        /// What for.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The tree could not be read, or not written, or the tar is none.
    #[error(transparent)]
    Tree(#[from] DiffError),
}

impl Archive {
    /// Bytes that its blobs have together.
    pub fn size(&self) -> u64 {
        self.chunks.iter().fold(0, |sum, chunk| sum.saturating_add(chunk.size))
    }

    /// Bytes that it unpacks to.
    pub fn plain_size(&self) -> u64 {
        self.chunks.iter().fold(0, |sum, chunk| sum.saturating_add(chunk.plain_size))
    }

    /// What two archives of the same files have in common, however they are compressed.
    pub fn identity(&self) -> Digest {
        let digests: Vec<u8> = self.chunks.iter().flat_map(|chunk| *chunk.plain.as_bytes()).collect();
        Digest::of(&digests)
    }

    /// Refuses what nobody here would have made.
    pub fn check(&self) -> Result<(), ArchiveError> {
        let refused = |reason: String| Err(ArchiveError::Refused(reason));
        if self.chunks.is_empty() || self.chunks.len() > CHUNKS_MAX {
            return refused(format!("has {} chunks, not 1 to {CHUNKS_MAX}", self.chunks.len()));
        }
        for chunk in &self.chunks {
            if chunk.plain_size == 0 || chunk.plain_size > CHUNK_BYTES_MAX as u64 {
                return refused(format!("has a chunk of {} bytes", chunk.plain_size));
            }
            if chunk.size == 0 || chunk.size > chunk.plain_size + CHUNK_GROWTH_BYTES_MAX {
                return refused(format!("has a blob of {} bytes", chunk.size));
            }
        }
        Ok(())
    }
}

/// Runs `work` in a few threads; fewer than wished for are slower, no more.
pub(super) fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    operation: &'static str,
    work: &'scope (dyn Fn() + Sync),
) -> Result<(), ArchiveError> {
    for number in 0..CHUNKS_AT_ONCE {
        let started = Builder::new().name(format!("mount-{operation}")).spawn_scoped(scope, work);
        match started {
            Err(source) if number == 0 => return Err(ArchiveError::Thread { operation, source }),
            Err(_) => break,
            Ok(_) => {}
        }
    }
    Ok(())
}

/// The next job of a queue that several threads take from; `None` when no more will come.
pub(super) fn next<T>(queue: &Mutex<Receiver<T>>) -> Option<T> {
    lock(queue).recv().ok()
}

/// A lock whose data stays usable after a panic elsewhere: every change under it is a single step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_here_would_have_made_is_refused() {
        let check = |chunks: &[(u64, u64)], fine: bool| {
            let digest = Digest::of(b"");
            let chunk = |&(size, plain_size): &(u64, u64)| Chunk { digest, size, plain: digest, plain_size };
            let archive = Archive { chunks: chunks.iter().map(chunk).collect() };
            assert_eq!(archive.check().is_ok(), fine, "{chunks:?}");
        };
        let max = CHUNK_BYTES_MAX as u64;
        check(&[(10, 20)], true);
        check(&[(10, 20), (max + CHUNK_GROWTH_BYTES_MAX, max)], true);
        check(&[], false);
        check(&[(10, 0)], false);
        check(&[(0, 10)], false);
        check(&[(10, max + 1)], false);
        check(&[(10, u64::MAX)], false);
        check(&[(CHUNK_GROWTH_BYTES_MAX + 2, 1)], false);
        check(&vec![(1, 1); CHUNKS_MAX + 1], false);
    }
}
