//! The way of a layer's bytes from tar chunks to a committed blob.
//!
//! ```text
//! caller: tar chunk ─▶ sha256 (diffID) ─▶ workers: gzip member or zstd frame a chunk ─▶ writer: in order ─▶ sha256, blob file
//! ```
//!
//! Each chunk becomes one gzip member (RFC 1952 allows any number of them), so the blob does not depend on the number
//! of workers. A member that a blob of the store has is copied from there, and one that this layer has already from what was
//! written of it. A fixed set of buffers goes round: when all are under way the caller waits, and memory stays bounded. A layer
//! of one chunk, as most are, is made without any thread.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use libdeflater::{CompressionLvl, Compressor};
use sha2::{Digest as _, Sha256};

use super::estargz::{self, Table};
use super::members::{self, CheckSum, MemberKey, Members, Remembered};
use super::tar_writer::{PIECE_BYTES_MAX, Sink};
use super::{Compression, DiffError};
use crate::content::BlobWriter;
use crate::{DiffId, Digest};

/// Level of the gzip members: docs/decisions/0002-gzip-members.md has the measurements.
pub(super) const GZIP_LEVEL: i32 = 4;

/// Level of the zstd frames: the library's own default, which is about as fast as [`GZIP_LEVEL`] and smaller.
pub(super) const ZSTD_LEVEL: i32 = 3;

/// The version of libdeflate, which its crate does not tell. Another one may make other bytes of the same files.
pub(super) const LIBDEFLATE_VERSION: &str = "1.26";

/// More workers than this are faster than the diffID can be computed.
const WORKERS_MAX: usize = 12;
/// Chunks under way besides one for each worker: one being filled, one being written, two waiting.
const CHUNKS_SPARE: usize = 4;

/// What came of a layer.
#[derive(Debug)]
pub(super) struct Compressed {
    pub(super) diff_id: DiffId,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Of the descriptor.
    pub(super) annotations: BTreeMap<String, String>,
    /// What can be copied from it. Nothing of a layer of one chunk: most layers are such, and quickly made.
    pub(super) members: Vec<Remembered>,
}

/// Hashes, compresses and stores the chunks of a layer.
pub(super) struct LayerSink {
    compression: Compression,
    /// Those of other layers.
    members: Members,
    /// `None` where the blob's own digest is the diffID.
    diff_hasher: Option<Sha256>,
    /// Of an estargz layer.
    table: Option<Table>,
    /// Bytes of tar so far.
    tar_size: u64,
    threads: usize,
    state: State,
}

enum State {
    /// Nothing was handed over yet.
    Single(BlobWriter),
    Running(Pipeline),
    /// The pipeline failed; its error has been returned.
    Failed,
}

impl LayerSink {
    /// `threads` is how many compress at the same time; `object` is what the layer is of, for messages.
    pub(super) fn new(
        blob: BlobWriter,
        compression: Compression,
        members: Members,
        threads: usize,
        object: String,
    ) -> Self {
        let diff_hasher = match compression {
            Compression::None => None,
            _ => Some(Sha256::new()),
        };
        let table = match compression {
            Compression::Estargz { .. } => Some(Table::new(object)),
            _ => None,
        };
        Self { compression, members, diff_hasher, table, tar_size: 0, threads, state: State::Single(blob) }
    }

    /// Takes the last chunk and commits the blob.
    pub(super) fn finish(mut self, last: Vec<u8>) -> Result<Compressed, DiffError> {
        self.count(&last);
        let mut written = match std::mem::replace(&mut self.state, State::Failed) {
            State::Single(blob) => {
                let mut written = Written::new(blob);
                written.compressed(self.compression, &last).map_err(cannot_write)?;
                written
            }
            State::Running(pipeline) => pipeline.finish(last)?,
            State::Failed => return Err(cannot_write(io::Error::other("an earlier write failed"))),
        };
        let annotations = match self.table.take() {
            Some(table) => {
                let start = written.size;
                let (tar, table) = table.finish(&written.starts);
                self.count(&tar);
                written.compressed(self.compression, &tar).map_err(cannot_write)?;
                written.blob.write_all(&estargz::footer(start)).map_err(cannot_write)?;
                estargz::annotations(table, self.tar_size)
            }
            None => BTreeMap::new(),
        };
        let members = written.named.into_values().collect();
        let (digest, size) = written.blob.commit()?;
        let diff_id = match self.diff_hasher {
            Some(hasher) => DiffId(Digest::from_bytes(hasher.finalize().into())),
            None => DiffId(digest),
        };
        Ok(Compressed { diff_id, digest, size, annotations, members })
    }

    /// Takes notice of a part of the tar.
    fn count(&mut self, tar: &[u8]) {
        if let Some(hasher) = &mut self.diff_hasher {
            hasher.update(tar);
        }
        self.tar_size += tar.len() as u64;
    }
}

impl Sink for LayerSink {
    fn put(&mut self, chunk: Vec<u8>) -> Result<Vec<u8>, DiffError> {
        self.count(&chunk);
        let mut pipeline = match std::mem::replace(&mut self.state, State::Failed) {
            State::Single(blob) => Pipeline::start(blob, self.compression, &self.members, self.threads)?,
            State::Running(pipeline) => pipeline,
            State::Failed => return Err(cannot_write(io::Error::other("an earlier write failed"))),
        };
        match pipeline.put(chunk) {
            Some(next) => {
                self.state = State::Running(pipeline);
                Ok(next)
            }
            None => Err(pipeline.failure()),
        }
    }

    fn table(&mut self) -> Option<&mut Table> {
        self.table.as_mut()
    }
}

/// A blob so far.
struct Written {
    blob: BlobWriter,
    /// Bytes of members so far.
    size: u64,
    /// Where its members begin.
    starts: Vec<u64>,
    /// One of each kind of member.
    named: HashMap<MemberKey, Remembered>,
}

impl Written {
    fn new(blob: BlobWriter) -> Self {
        Self { blob, size: 0, starts: Vec::new(), named: HashMap::new() }
    }

    /// Writes a chunk as one member, or as it is where nothing is compressed.
    fn compressed(&mut self, compression: Compression, tar: &[u8]) -> io::Result<()> {
        match Member::new(compression)? {
            Some(mut compressor) => {
                let mut member = Vec::new();
                compressor.compress(tar, &mut member)?;
                self.member(&member)
            }
            None => self.blob.write_all(tar),
        }
    }

    fn chunk(&mut self, chunk: &mut Chunk) -> io::Result<()> {
        match chunk.made {
            Made::Anew { key, sum } => {
                let (start, size) = (self.size, chunk.member.len() as u64);
                self.named.insert(key, Remembered { key, start, size, sum });
            }
            Made::Before { key } => self.read_back(&key, &mut chunk.member)?,
            Made::Not => return Err(io::Error::other("a chunk came back as it was")),
        }
        self.member(&chunk.member)
    }

    fn read_back(&mut self, key: &MemberKey, member: &mut Vec<u8>) -> io::Result<()> {
        let missing = || io::Error::other("a member that was written is not there");
        let Remembered { start, size, sum, .. } = *self.named.get(key).ok_or_else(missing)?;
        member.resize(usize::try_from(size).map_err(io::Error::other)?, 0);
        self.blob.read_back(start, member)?;
        if members::sum_of(member) == sum {
            Ok(())
        } else {
            Err(io::Error::other("what was written reads otherwise"))
        }
    }

    fn member(&mut self, member: &[u8]) -> io::Result<()> {
        self.blob.write_all(member)?;
        self.starts.push(self.size);
        self.size += member.len() as u64;
        Ok(())
    }
}

/// A chunk under way, with its place in the order.
struct Chunk {
    index: u64,
    tar: Vec<u8>,
    member: Vec<u8>,
    made: Made,
}

impl Chunk {
    fn new(index: u64, tar: Vec<u8>, member: Vec<u8>) -> Self {
        Self { index, tar, member, made: Made::Not }
    }
}

/// Where the member of a chunk is.
#[derive(Debug, Clone, Copy)]
enum Made {
    /// Nowhere yet.
    Not,
    /// In the chunk.
    Anew { key: MemberKey, sum: CheckSum },
    /// In the blob, by the time when this chunk comes to be written: an earlier one holds the same.
    Before { key: MemberKey },
}

/// Which chunk of a layer was the first to hold something.
#[derive(Debug, Default)]
struct Claims(Mutex<HashMap<MemberKey, u64>>);

impl Claims {
    /// Whether a chunk before the one with this index holds the same. Two that are under way at once may both not.
    fn has_before(&self, key: &MemberKey, index: u64) -> bool {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(*key) {
            Entry::Occupied(first) if *first.get() < index => true,
            Entry::Occupied(mut first) => {
                first.insert(index);
                false
            }
            Entry::Vacant(vacant) => {
                vacant.insert(index);
                false
            }
        }
    }
}

struct Pipeline {
    /// To the workers, or straight to the writer where nothing is compressed.
    jobs: SyncSender<Chunk>,
    /// Buffers that come back from the writer.
    free: Receiver<Chunk>,
    sent: u64,
    chunks_max: u64,
    writer: JoinHandle<io::Result<Written>>,
    workers: Vec<JoinHandle<()>>,
}

impl Pipeline {
    fn start(
        blob: BlobWriter,
        compression: Compression,
        members: &Members,
        threads: usize,
    ) -> Result<Self, DiffError> {
        let workers_wanted = match compression {
            Compression::None => 0,
            _ => threads.clamp(1, WORKERS_MAX),
        };
        let chunks_max = workers_wanted + CHUNKS_SPARE;
        let (free_sender, free) = channel();
        let (jobs, job_receiver) = sync_channel(chunks_max);
        let blob = Written::new(blob);
        let Some(first) = Member::new(compression).map_err(cannot_write)? else {
            let writer = spawn("layer-writer", move || write_plain(blob, job_receiver, free_sender))?;
            let chunks_max = chunks_max as u64;
            return Ok(Self { jobs, free, sent: 0, chunks_max, writer, workers: Vec::new() });
        };
        let mut first = Some(first);
        let (done_sender, done) = channel();
        let writer = spawn("layer-writer", move || write_in_order(blob, done, free_sender))?;
        let job_receiver = Arc::new(Mutex::new(job_receiver));
        let claims = Arc::new(Claims::default());
        let mut workers = Vec::new();
        for _ in 0..workers_wanted {
            let (jobs, done) = (Arc::clone(&job_receiver), done_sender.clone());
            let Some(compressor) = first
                .take()
                .map_or_else(|| Member::new(compression), |it| Ok(Some(it)))
                .map_err(cannot_write)?
            else {
                break;
            };
            let (members, claims) = (members.again(), Arc::clone(&claims));
            match spawn("layer-compress", move || compress_jobs(&jobs, &done, compressor, members, &claims)) {
                Ok(worker) => workers.push(worker),
                // Fewer workers than wished for are slower, no more.
                Err(_) if !workers.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Self { jobs, free, sent: 0, chunks_max: chunks_max as u64, writer, workers })
    }

    /// Hands a chunk over and waits for an empty buffer; `None` when a thread has failed.
    fn put(&mut self, tar: Vec<u8>) -> Option<Vec<u8>> {
        let mut spare = None;
        if self.sent + 1 >= self.chunks_max {
            spare = Some(self.free.recv().ok()?);
        }
        let (mut next, member) = match spare {
            Some(chunk) => (chunk.tar, chunk.member),
            None => (Vec::with_capacity(PIECE_BYTES_MAX), Vec::new()),
        };
        self.jobs.send(Chunk::new(self.sent, tar, member)).ok()?;
        self.sent += 1;
        next.clear();
        Some(next)
    }

    fn finish(self, last: Vec<u8>) -> Result<Written, DiffError> {
        let sent = self.jobs.send(Chunk::new(self.sent, last, Vec::new()));
        match (sent, self.join()) {
            (Ok(()), Ok(blob)) => Ok(blob),
            (_, Err(source)) => Err(cannot_write(source)),
            (Err(_), Ok(_)) => Err(cannot_write(io::Error::other("a compressor ended early"))),
        }
    }

    /// What made a thread end early.
    fn failure(self) -> DiffError {
        let ended = self.join().err();
        cannot_write(ended.unwrap_or_else(|| io::Error::other("a compressor ended early")))
    }

    fn join(self) -> io::Result<Written> {
        drop(self.jobs);
        let result = joined(self.writer);
        for worker in self.workers {
            joined(worker);
        }
        result
    }
}

/// A worker's life. Its failure goes to the writer, which then ends and so wakes the waiting caller.
fn compress_jobs(
    jobs: &Mutex<Receiver<Chunk>>,
    done: &Sender<io::Result<Chunk>>,
    mut compressor: Member,
    mut members: Members,
    claims: &Claims,
) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut chunk) = job else { return };
        let made = make_member(&mut chunk, &mut compressor, &mut members, claims);
        let result = made.map(|made| Chunk { made, ..chunk });
        if done.send(result).is_err() {
            return;
        }
    }
}

fn make_member(
    chunk: &mut Chunk,
    compressor: &mut Member,
    members: &mut Members,
    claims: &Claims,
) -> io::Result<Made> {
    let key = members.key_of(&chunk.tar);
    if claims.has_before(&key, chunk.index) {
        return Ok(Made::Before { key });
    }
    if let Some(sum) = members.find(&key, &mut chunk.member) {
        return Ok(Made::Anew { key, sum });
    }
    compressor.compress(&chunk.tar, &mut chunk.member)?;
    Ok(Made::Anew { key, sum: members::sum_of(&chunk.member) })
}

fn write_in_order(
    mut blob: Written,
    done: Receiver<io::Result<Chunk>>,
    free: Sender<Chunk>,
) -> io::Result<Written> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    for chunk in done {
        let chunk = chunk?;
        waiting.insert(chunk.index, chunk);
        while let Some(mut chunk) = waiting.remove(&next) {
            blob.chunk(&mut chunk)?;
            next += 1;
            // The caller may be through with sending and wait for no buffer.
            let _ = free.send(chunk);
        }
    }
    Ok(blob)
}

fn write_plain(mut blob: Written, jobs: Receiver<Chunk>, free: Sender<Chunk>) -> io::Result<Written> {
    for chunk in jobs {
        blob.blob.write_all(&chunk.tar)?;
        let _ = free.send(chunk);
    }
    Ok(blob)
}

/// Compresses chunks, each into a member or frame that stands alone.
enum Member {
    Gzip(Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Member {
    /// `None` where nothing is compressed.
    fn new(compression: Compression) -> io::Result<Option<Self>> {
        match compression {
            Compression::None => Ok(None),
            Compression::Gzip { level } | Compression::Estargz { level } => {
                let level = level.map_or(GZIP_LEVEL, i32::from);
                let failed = |error| io::Error::other(format!("gzip level {level}: {error:?}"));
                Ok(Some(Self::Gzip(Compressor::new(CompressionLvl::new(level).map_err(failed)?))))
            }
            Compression::Zstd { level } => {
                let level = level.map_or(ZSTD_LEVEL, i32::from);
                Ok(Some(Self::Zstd(zstd::bulk::Compressor::new(level)?)))
            }
        }
    }

    fn compress(&mut self, tar: &[u8], member: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Gzip(compressor) => {
                member.resize(compressor.gzip_compress_bound(tar.len()), 0);
                let len = compressor
                    .gzip_compress(tar, member)
                    .map_err(|error| io::Error::other(format!("gzip of {} bytes: {error}", tar.len())))?;
                member.truncate(len);
            }
            Self::Zstd(compressor) => {
                member.clear();
                member.reserve(zstd::zstd_safe::compress_bound(tar.len()));
                compressor.compress_to_buffer(tar, member)?;
            }
        }
        Ok(())
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, DiffError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(|source| DiffError::Write {
        operation: "start a thread",
        path: name.to_owned(),
        object: "the layer".to_owned(),
        source,
    })
}

fn joined<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn cannot_write(source: io::Error) -> DiffError {
    DiffError::Write { operation: "write", path: "blob".to_owned(), object: "the layer".to_owned(), source }
}
