//! Layer blobs → snapshots.
//!
//! ```text
//! thread 1 of a layer: download or blob ─▶ sha256 (digest), new blob ─▶ decompress ─▶ blocks
//! thread 2 of a layer: blocks ─▶ sha256 (diffID) ─▶ tar entries ─▶ files in the layer's own upper directory
//! caller, in order:    complete with what lies below ─▶ commit ─▶ remember
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use super::complete::complete;
use super::decompress::{Format, peek};
use super::tar_reader::TarReader;
use super::unpack::{Rules, Unpacker};
use super::{DiffError, LayerSource, Variant};
use crate::content::{BlobWriter, ContentError, VerifyingReader};
use crate::snapshot::{Active, Layer, SnapshotError};
use crate::{Chain, ChainId, DiffId, Digest, Store};

/// How much decompressed tar goes from one thread to the other at a time, and how often.
const BLOCK_BYTES: usize = 256 * 1024;
const BLOCKS_MAX: usize = 16;

type OpenLayer<'a> = &'a (dyn Fn(&LayerSource) -> io::Result<Box<dyn Read + Send>> + Sync);
type Open<'a> = &'a (dyn Fn(usize) -> io::Result<Box<dyn Read + Send>> + Sync);

pub(super) fn apply_layers(
    store: &Store,
    layers: &[LayerSource],
    created: SystemTime,
    open: Open<'_>,
) -> Result<Chain, DiffError> {
    let mut parent = None;
    let mut missing = Vec::new();
    let mut plan = Vec::new();
    for (index, source) in layers.iter().enumerate() {
        let chain_id = ChainId::extend(parent, source.diff_id);
        parent = Some(chain_id);
        let known = store.snapshot_by_chain_id(&chain_id)?;
        if known.is_none() {
            missing.push(index);
        }
        plan.push((chain_id, known));
    }
    let work = Work { store, layers, missing, open, next: AtomicUsize::new(0), stop: AtomicBool::new(false) };
    work.spread(|receiver| {
        let mut finish = Finish { store, created, receiver, unpacked: BTreeMap::new() };
        let mut chain = Chain::default();
        for (index, (source, (chain_id, known))) in layers.iter().zip(plan).enumerate() {
            let id = match known {
                Some(id) => id,
                None => finish.layer(index, source, chain_id, &chain)?,
            };
            chain.0.push(id);
        }
        Ok(chain)
    })
}

/// Brings the files of the lazy snapshots of a chain.
pub(super) fn fill(store: &Store, chain: &Chain, open: OpenLayer<'_>) -> Result<(), DiffError> {
    let missing = store.missing(chain)?;
    if missing.is_empty() {
        return Ok(());
    }
    let layers: Vec<LayerSource> = missing.iter().map(|missing| missing.source.clone()).collect();
    let work = Work {
        store,
        layers: &layers,
        missing: (0..layers.len()).collect(),
        open: &|index| open(&layers[index]),
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    };
    work.spread(|receiver| {
        let mut finish =
            Finish { store, created: SystemTime::UNIX_EPOCH, receiver, unpacked: BTreeMap::new() };
        for (index, missing) in missing.iter().enumerate() {
            let below = Chain(chain.0[..missing.position].to_vec());
            let active = finish.completed(index, &below)?;
            if active.content()? != missing.content {
                return Err(SnapshotError::Described { id: missing.id }.into());
            }
            active.commit_as(missing.id)?;
        }
        Ok(())
    })
}

/// The layers to unpack, taken one by one by the unpacking threads.
struct Work<'a> {
    store: &'a Store,
    layers: &'a [LayerSource],
    missing: Vec<usize>,
    open: Open<'a>,
    next: AtomicUsize,
    /// Another layer failed: nothing that is unpacked now will be used.
    stop: AtomicBool,
}

impl Work<'_> {
    /// Unpacks on several threads, while `finish` takes what they give. A failure of it stops them.
    fn spread<T>(
        &self,
        finish: impl FnOnce(Receiver<(usize, Result<Unpacked, DiffError>)>) -> Result<T, DiffError>,
    ) -> Result<T, DiffError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(self.missing.len());
        std::thread::scope(|scope| {
            let (sender, receiver) = channel();
            for started in 0..threads {
                let sender = sender.clone();
                let spawned = std::thread::Builder::new()
                    .name("layer-unpack".to_owned())
                    .spawn_scoped(scope, move || self.run(&sender));
                match spawned {
                    Ok(_) => {}
                    // Fewer threads are slower, no more.
                    Err(_) if started > 0 => break,
                    Err(source) => return Err(no_thread(source)),
                }
            }
            drop(sender);
            let finished = finish(receiver);
            if finished.is_err() {
                self.stop.store(true, Ordering::Relaxed);
            }
            finished
        })
    }

    fn run(&self, done: &Sender<(usize, Result<Unpacked, DiffError>)>) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some(&index) = self.missing.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            if done.send((index, self.unpack(index))).is_err() {
                return;
            }
        }
    }

    fn unpack(&self, index: usize) -> Result<Unpacked, DiffError> {
        let source = &self.layers[index];
        let object = format!("layer {}", source.digest);
        let active = self.store.prepare(&Chain::default())?;
        let mut unpacker =
            Unpacker::new(active.upper(), self.store.setup().ids, Rules::Layer, object.clone())?;
        let input = Input::new(self.store, source, || (self.open)(index))?;
        let (sender, receiver) = sync_channel(BLOCKS_MAX);
        let input = std::thread::scope(|scope| {
            let decoder = std::thread::Builder::new()
                .name("layer-decode".to_owned())
                .spawn_scoped(scope, move || decode(source, input, sender, &self.stop))
                .map_err(no_thread)?;
            let mut blocks = Blocks { receiver, block: Vec::new(), position: 0, hasher: Sha256::new() };
            let unpacked = unpacker.unpack(None, &mut TarReader::new(&mut blocks)).and_then(|()| {
                // What follows the end mark counts for the diffID.
                io::copy(&mut blocks, &mut io::sink()).map_err(|error| cannot_read(source, error))
            });
            let diff_id = blocks.finish();
            // When the stream broke, that is why the tar did.
            let input = decoder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            unpacked?;
            if diff_id != source.diff_id {
                let (expected, actual) = (source.diff_id.0.to_string(), diff_id.0.to_string());
                return Err(mismatch(source, "diffID", expected, actual));
            }
            Ok(input)
        })?;
        input.commit(source)?;
        Ok(Unpacked { active, unpacker })
    }
}

/// A layer in its upper directory, not looked at together with what lies below.
struct Unpacked {
    active: Active,
    unpacker: Unpacker,
}

/// Completes and commits the unpacked layers in order.
struct Finish<'a> {
    store: &'a Store,
    created: SystemTime,
    receiver: Receiver<(usize, Result<Unpacked, DiffError>)>,
    /// Those that were ready before their turn.
    unpacked: BTreeMap<usize, Unpacked>,
}

impl Finish<'_> {
    fn layer(
        &mut self,
        index: usize,
        source: &LayerSource,
        chain_id: ChainId,
        below: &Chain,
    ) -> Result<crate::SnapshotId, DiffError> {
        let active = self.completed(index, below)?;
        // What is described already gets its files, if it is these.
        let id = match self.store.lazy_by_chain_id(&chain_id)? {
            Some((id, content)) if active.content()? == content => {
                active.commit_as(id)?;
                id
            }
            _ => active.commit_unpacked(self.created)?.id,
        };
        let layer = Layer {
            diff_id: source.diff_id,
            digest: source.digest,
            size: source.size,
            media_type: source.media_type.clone(),
            annotations: BTreeMap::new(),
        };
        self.store.set_layer(id, Variant::PULLED, chain_id, &layer)?;
        Ok(id)
    }

    /// A layer as it is on top of `below`.
    fn completed(&mut self, index: usize, below: &Chain) -> Result<Active, DiffError> {
        let Unpacked { active, mut unpacker } = self.wait(index)?;
        complete(&mut unpacker, self.store, below)?;
        Ok(active)
    }

    /// Waits for a layer. The failure of any layer ends it.
    fn wait(&mut self, index: usize) -> Result<Unpacked, DiffError> {
        loop {
            if let Some(unpacked) = self.unpacked.remove(&index) {
                return Ok(unpacked);
            }
            let (ready, result) = self
                .receiver
                .recv()
                .map_err(|_| no_thread(io::Error::other("the threads that unpack layers have ended")))?;
            self.unpacked.insert(ready, result?);
        }
    }
}

/// Decodes a layer into blocks. Gives the input back, all of it read and verified unless the layer is not wanted any
/// more.
fn decode(
    source: &LayerSource,
    mut input: Input,
    blocks: SyncSender<Vec<u8>>,
    stop: &AtomicBool,
) -> Result<Input, DiffError> {
    let decoded = decoded(source, &mut input, &blocks, stop);
    drop(blocks);
    if stop.load(Ordering::Relaxed) {
        return Ok(input);
    }
    match (decoded, input.drain(source)) {
        (Ok(()), Ok(())) => Ok(input),
        // Wrong bytes are the better explanation of what could not be unpacked or decoded.
        (_, Err(mismatch @ DiffError::Mismatch { .. })) => Err(mismatch),
        (Err(error), _) => Err(cannot_read(source, error)),
        (Ok(()), Err(error)) => Err(error),
    }
}

/// Sends the decoded blocks until the end or until they are not wanted any more.
fn decoded(
    source: &LayerSource,
    input: &mut Input,
    blocks: &SyncSender<Vec<u8>>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let (start, stream) = peek(input)?;
    let mut stream = Format::announced(&source.media_type, &start)?.decoder(stream)?;
    loop {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        (&mut stream).take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if block.is_empty() || stop.load(Ordering::Relaxed) || blocks.send(block).is_err() {
            return Ok(());
        }
    }
}

/// The compressed bytes of a layer.
enum Input {
    /// A blob of the store, which its reader verifies.
    Stored(VerifyingReader<File>),
    /// A download, which becomes a blob.
    Fetched { reader: io::Take<Box<dyn Read + Send>>, blob: BlobWriter },
}

impl Input {
    fn new(
        store: &Store,
        source: &LayerSource,
        open: impl FnOnce() -> io::Result<Box<dyn Read + Send>>,
    ) -> Result<Self, DiffError> {
        match store.blobs().open_expecting(&source.digest, source.size) {
            Ok(blob) => Ok(Self::Stored(blob)),
            Err(ContentError::Mismatch { actual_size, .. }) => {
                Err(mismatch(source, "size", source.size.to_string(), actual_size.to_string()))
            }
            Err(error) if !error.is_lost() => Err(error.into()),
            Err(_) => {
                let reader = open().map_err(|error| cannot_read(source, error))?;
                // One byte more than promised is enough to know that there are too many.
                let reader = reader.take(source.size.saturating_add(1));
                Ok(Self::Fetched { reader, blob: store.blobs().writer()? })
            }
        }
    }

    /// Reads what the decoder had no use for, and checks that all bytes were the right ones.
    fn drain(&mut self, source: &LayerSource) -> Result<(), DiffError> {
        io::copy(self, &mut io::sink()).map_err(|error| cannot_read(source, error))?;
        let Self::Fetched { blob, .. } = self else { return Ok(()) };
        let (digest, size) = blob.so_far();
        if size != source.size {
            let size =
                if size > source.size { format!("more than {}", source.size) } else { size.to_string() };
            return Err(mismatch(source, "size", source.size.to_string(), size));
        }
        if digest != source.digest {
            return Err(mismatch(source, "digest", source.digest.to_string(), digest.to_string()));
        }
        Ok(())
    }

    fn commit(self, source: &LayerSource) -> Result<(), DiffError> {
        match self {
            Self::Stored(_) => Ok(()),
            Self::Fetched { blob, .. } => Ok(blob.commit_expecting(&source.digest, source.size)?),
        }
    }
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stored(reader) => reader.read(buf),
            Self::Fetched { reader, blob } => {
                let read = reader.read(buf)?;
                blob.write_all(&buf[..read])?;
                Ok(read)
            }
        }
    }
}

/// The decoded blocks as one stream; it ends where the decoder ended, for whatever reason.
struct Blocks {
    receiver: Receiver<Vec<u8>>,
    block: Vec<u8>,
    position: usize,
    hasher: Sha256,
}

impl Blocks {
    /// The digest of the blocks read; the decoder is told that no more are wanted.
    fn finish(self) -> DiffId {
        DiffId(Digest::from_bytes(self.hasher.finalize().into()))
    }
}

impl Read for Blocks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.position == self.block.len() {
            let Ok(block) = self.receiver.recv() else { return Ok(0) };
            self.hasher.update(&block);
            self.block = block;
            self.position = 0;
        }
        let len = buf.len().min(self.block.len() - self.position);
        buf[..len].copy_from_slice(&self.block[self.position..self.position + len]);
        self.position += len;
        Ok(len)
    }
}

fn mismatch(source: &LayerSource, what: &'static str, expected: String, actual: String) -> DiffError {
    DiffError::Mismatch { layer: source.digest, what, expected, actual }
}

fn cannot_read(source: &LayerSource, error: io::Error) -> DiffError {
    DiffError::Read { object: format!("layer {}", source.digest), source: error }
}

fn no_thread(source: io::Error) -> DiffError {
    DiffError::Write {
        operation: "start a thread",
        path: "layer-unpack".to_owned(),
        object: "the layers".to_owned(),
        source,
    }
}
