//! Directory → archive.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use super::archive::{Archive, ArchiveError, CHUNKS_MAX, Chunk, lock, next, spawn};
use super::chunks::Cutter;
use crate::diff::write_mount;
use crate::{Digest, Ids};

/// Chunks that wait for a thread.
const CHUNKS_WAITING: usize = 2;
const ZSTD_LEVEL: i32 = 3;

/// The chunk that unpacks to what has this digest, if its blob is known and need not be made.
pub type Known<'a> = dyn Fn(&Digest) -> Option<Chunk> + Sync + 'a;

/// Where the blob of a chunk goes.
pub type Put<'a> = dyn Fn(&Chunk, Vec<u8>) -> io::Result<()> + Sync + 'a;

impl Archive {
    /// Packs the directory `root`, which nobody may be changing. `put` gets each blob that is not `known`. Both are called
    /// from several threads, in any order.
    pub fn pack(
        root: BorrowedFd<'_>,
        ids: Ids,
        known: &Known<'_>,
        put: &Put<'_>,
    ) -> Result<Self, ArchiveError> {
        let done = Mutex::new(Done::default());
        let (sender, waiting) = sync_channel::<(usize, Vec<u8>)>(CHUNKS_WAITING);
        let waiting = Mutex::new(waiting);
        let work = || {
            while let Some((index, plain)) = next(&waiting) {
                // After a failure the rest of the queue goes by.
                if lock(&done).failure.is_none() {
                    let chunk = pack_chunk(&plain, known, put);
                    lock(&done).add(index, chunk);
                }
            }
        };
        let written = std::thread::scope(|scope| {
            spawn(scope, "pack", &work)?;
            let mut splitter =
                Splitter { sender, cutter: Cutter::new(), chunk: Vec::new(), count: 0, done: &done };
            write_mount(root, ids, &mut splitter)?;
            // The threads end with the splitter's sender.
            splitter.finish().map_err(|source| ArchiveError::Refused(source.to_string()))
        });
        let Done { chunks, failure } = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        match failure {
            // It has stopped the reading, too.
            Some(cause) => Err(cause),
            None => written.map(|()| Self { chunks: chunks.into_values().collect() }),
        }
    }
}

/// What the threads have done.
#[derive(Default)]
struct Done {
    chunks: BTreeMap<usize, Chunk>,
    /// The first failure.
    failure: Option<ArchiveError>,
}

impl Done {
    fn add(&mut self, index: usize, chunk: Result<Chunk, ArchiveError>) {
        match chunk {
            Ok(chunk) => {
                self.chunks.insert(index, chunk);
            }
            Err(error) => {
                self.failure.get_or_insert(error);
            }
        }
    }
}

fn pack_chunk(plain: &[u8], known: &Known<'_>, put: &Put<'_>) -> Result<Chunk, ArchiveError> {
    let (digest, plain_size) = (Digest::of(plain), plain.len() as u64);
    if let Some(chunk) = known(&digest).filter(|chunk| chunk.plain_size == plain_size) {
        return Ok(chunk);
    }
    let blob = zstd::bulk::compress(plain, ZSTD_LEVEL).map_err(|source| ArchiveError::Chunk {
        operation: "compress",
        digest,
        source,
    })?;
    let chunk = Chunk { digest: Digest::of(&blob), size: blob.len() as u64, plain: digest, plain_size };
    put(&chunk, blob).map_err(|source| {
        let digest = chunk.digest;
        ArchiveError::Chunk { operation: "store", digest, source }
    })?;
    Ok(chunk)
}

/// Cuts what is written to it, and hands the chunks on.
struct Splitter<'a> {
    sender: SyncSender<(usize, Vec<u8>)>,
    cutter: Cutter,
    chunk: Vec<u8>,
    count: usize,
    done: &'a Mutex<Done>,
}

impl Splitter<'_> {
    fn send(&mut self) -> io::Result<()> {
        if lock(self.done).failure.is_some() {
            return Err(io::Error::other("a chunk could not be stored"));
        }
        if self.count == CHUNKS_MAX {
            return Err(io::Error::other(format!("would have more than {CHUNKS_MAX} chunks")));
        }
        let chunk = std::mem::take(&mut self.chunk);
        // The threads live as long as the sender.
        self.sender.send((self.count, chunk)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.count += 1;
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        if self.chunk.is_empty() { Ok(()) } else { self.send() }
    }
}

impl Write for Splitter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while let Some(end) = self.cutter.cut(rest) {
            self.chunk.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
            self.send()?;
        }
        self.chunk.extend_from_slice(rest);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
