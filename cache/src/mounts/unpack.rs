//! Archive → directory.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::archive::{Archive, ArchiveError, CHUNKS_AT_ONCE, Chunk, next, spawn};
use crate::content::VerifyingReader;
use crate::diff::{empty_dir, extract_mount};
use crate::{Digest, Ids};

/// Where the blob of a chunk comes from: its bytes, unchecked.
pub type Fetch<'a> = dyn Fn(&Chunk) -> io::Result<Box<dyn Read + Send>> + Sync + 'a;

impl Archive {
    /// Unpacks into the empty directory `root`, which is empty again when it fails. Nothing that the chunks hold can reach
    /// out of it, and nothing is believed that a digest does not prove. Some chunks are fetched ahead.
    pub fn unpack(&self, root: BorrowedFd<'_>, ids: Ids, fetch: &Fetch<'_>) -> Result<(), ArchiveError> {
        self.check()?;
        let unpacked = self.unpack_into(root, ids, fetch);
        if unpacked.is_err() {
            empty_dir(root, ids)?;
        }
        unpacked
    }

    fn unpack_into(&self, root: BorrowedFd<'_>, ids: Ids, fetch: &Fetch<'_>) -> Result<(), ArchiveError> {
        let (jobs, wanted) = sync_channel::<Job<'_>>(CHUNKS_AT_ONCE);
        let wanted = Mutex::new(wanted);
        let work = || {
            while let Some(job) = next(&wanted) {
                // Nobody listens any more after a failure.
                let _ = job.answer.send(unpack_chunk(job.chunk, fetch));
            }
        };
        std::thread::scope(|scope| {
            spawn(scope, "unpack", &work)?;
            let mut joined = Joined {
                ahead: self.chunks.iter(),
                jobs,
                coming: VecDeque::new(),
                present: io::Cursor::default(),
                failure: None,
            };
            let extracted = extract_mount(&mut joined, root, ids);
            // A chunk that could not be had is the cause of a tar that ends early.
            match joined.failure {
                Some(cause) => Err(cause),
                None => Ok(extracted?),
            }
        })
    }
}

/// A chunk that is to be fetched.
struct Job<'a> {
    chunk: &'a Chunk,
    answer: SyncSender<Result<Vec<u8>, ArchiveError>>,
}

fn unpack_chunk(chunk: &Chunk, fetch: &Fetch<'_>) -> Result<Vec<u8>, ArchiveError> {
    let digest = chunk.digest;
    let failed = |operation| move |source| ArchiveError::Chunk { operation, digest, source };
    let too_large = |_| ArchiveError::Refused("does not fit into memory".to_owned());
    let (size, plain_size) = (
        usize::try_from(chunk.size).map_err(too_large)?,
        usize::try_from(chunk.plain_size).map_err(too_large)?,
    );
    let mut blob = Vec::with_capacity(size);
    let bytes = fetch(chunk).map_err(failed("fetch"))?;
    VerifyingReader::new(bytes, digest, chunk.size).read_to_end(&mut blob).map_err(failed("fetch"))?;
    // Never writes more than it may, whatever the blob says of itself.
    let plain = zstd::bulk::decompress(&blob, plain_size).map_err(failed("decompress"))?;
    if plain.len() != plain_size || Digest::of(&plain) != chunk.plain {
        let source = io::Error::new(io::ErrorKind::InvalidData, "it holds other bytes than were announced");
        return Err(failed("decompress")(source));
    }
    Ok(plain)
}

/// The chunks as one stream.
struct Joined<'a> {
    /// Those that nobody fetches yet.
    ahead: std::slice::Iter<'a, Chunk>,
    jobs: SyncSender<Job<'a>>,
    /// Those that are being fetched, in order.
    coming: VecDeque<Receiver<Result<Vec<u8>, ArchiveError>>>,
    present: io::Cursor<Vec<u8>>,
    failure: Option<ArchiveError>,
}

impl Joined<'_> {
    /// Goes on to the next chunk; `false` after the last.
    fn advance(&mut self) -> io::Result<bool> {
        while self.coming.len() < CHUNKS_AT_ONCE
            && let Some(chunk) = self.ahead.next()
        {
            let (answer, answered) = sync_channel(1);
            self.jobs.send(Job { chunk, answer }).map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.coming.push_back(answered);
        }
        let Some(answered) = self.coming.pop_front() else { return Ok(false) };
        match answered.recv().map_err(|_| io::ErrorKind::BrokenPipe)? {
            Ok(plain) => {
                self.present = io::Cursor::new(plain);
                Ok(true)
            }
            Err(cause) => {
                self.failure = Some(cause);
                // Nothing more is fetched.
                self.ahead = [].iter();
                Err(io::Error::other("a chunk is missing"))
            }
        }
    }
}

impl Read for Joined<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.present.read(buf)?;
            if read > 0 || buf.is_empty() || !self.advance()? {
                return Ok(read);
            }
        }
    }
}
