//! What steps print, in full: a file a step in a directory a build.
//!
//! A file is a sequence of chunks: microseconds since the step's start (u64), stream (u8: 1 standard output, 2 standard
//! error, 3 nothing more was kept), length (u32), bytes; little-endian. A build that is killed leaves no logs: until it is
//! recorded they are in the directory of its process.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{BuildId, LOG_BYTES_MAX};
use crate::{Key, Store, StoreError};

/// Bytes of one chunk: a longer one is written as several, and one on disk is not read.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// The header of a chunk.
const HEADER_BYTES: usize = 8 + 1 + 4;

/// Which stream of a step a chunk is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of a step's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogChunk {
    /// Bytes as they came, cut anywhere.
    Data {
        /// Time since the start of the step.
        at: Duration,
        /// From where.
        stream: LogStream,
        /// What.
        data: Vec<u8>,
    },
    /// What came after this was not kept: the build's logs had reached [`LOG_BYTES_MAX`].
    Cut,
}

/// Why a log could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The operating system refused.
    #[error("cannot read the log `{}`", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("the log `{}` is damaged", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
    },
}

/// The logs of a build that is going on. A log that cannot be written is given up; the build goes on.
#[derive(Debug)]
pub struct BuildLogs {
    store: Store,
    state: Mutex<State>,
    bytes: AtomicU64,
    bytes_max: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Below the process's directory; made when there is something to write.
    dir: Option<(String, OwnedFd)>,
    open: HashMap<Key, Arc<Mutex<File>>>,
    /// Those that have printed something since the build began, or began again.
    begun: HashSet<Key>,
    /// Those of which something was left out.
    cut: HashSet<Key>,
    error: Option<StoreError>,
}

impl BuildLogs {
    /// No logs yet, and nothing on disk.
    pub fn new(store: &Store) -> Self {
        Self::up_to(store, LOG_BYTES_MAX)
    }

    /// The same for no more than so many bytes.
    pub(super) fn up_to(store: &Store, bytes_max: u64) -> Self {
        Self { store: store.clone(), state: Mutex::default(), bytes: AtomicU64::new(0), bytes_max }
    }

    /// Appends what a step printed, `at` after its start.
    pub fn append(&self, step: &Key, at: Duration, stream: LogStream, data: &[u8]) {
        for data in data.chunks(CHUNK_BYTES_MAX) {
            let bytes = (HEADER_BYTES + data.len()) as u64;
            let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
            let (code, data) = match stream {
                _ if before.saturating_add(bytes) > self.bytes_max => (CUT, &[][..]),
                LogStream::Stdout => (STDOUT, data),
                LogStream::Stderr => (STDERR, data),
            };
            // Each step's log tells once that it is not whole.
            if code == CUT && !self.state().cut.insert(*step) {
                return;
            }
            let written = self.file(step).and_then(|file| {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.write_all(&chunk(at, code, data)).map_err(|source| self.failed("write", source))
            });
            if let Err(error) = written {
                self.give_up(error);
                return;
            }
        }
    }

    /// A step prints nothing more.
    pub fn close(&self, step: &Key) {
        self.state().open.remove(step);
    }

    /// The build begins again: a step that runs once more has a new log. Those of others stay.
    pub fn begin_again(&self) {
        let mut state = self.state();
        state.open.clear();
        state.begun.clear();
        state.cut.clear();
    }

    /// The directory with the logs if there are any, how many bytes they have, and what went wrong first.
    pub(super) fn finish(self) -> (Option<String>, u64, Option<StoreError>) {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        (state.dir.map(|(name, _)| name), self.bytes.into_inner().min(self.bytes_max), state.error)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, step: &Key) -> Result<Arc<Mutex<File>>, StoreError> {
        let mut state = self.state();
        if let Some(file) = state.open.get(step) {
            return Ok(Arc::clone(file));
        }
        if state.dir.is_none() {
            state.dir = Some(self.make_dir()?);
        }
        let State { dir: Some((_, dir)), open, begun, .. } = &mut *state else {
            unreachable!("the directory was made above")
        };
        let mut flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if !begun.contains(step) {
            flags |= OFlags::TRUNC;
        }
        let file = rustix::fs::openat(&*dir, file_name(step), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| self.failed("create", errno))?;
        let file = Arc::new(Mutex::new(File::from(file)));
        begun.insert(*step);
        open.insert(*step, Arc::clone(&file));
        Ok(file)
    }

    fn make_dir(&self) -> Result<(String, OwnedFd), StoreError> {
        let process = self.store.process();
        let name = process.unique_name();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::mkdirat(process.fd(), &name, Mode::RWXU)
            .and_then(|()| rustix::fs::openat(process.fd(), &name, flags, Mode::empty()))
            .map(|dir| (name, dir))
            .map_err(|errno| self.failed("create", errno))
    }

    fn failed(&self, operation: &'static str, source: impl Into<io::Error>) -> StoreError {
        StoreError::io(operation, self.store.process().path().join("history"), source)
    }

    fn give_up(&self, error: StoreError) {
        self.bytes.store(self.bytes_max, Ordering::Relaxed);
        self.state().error.get_or_insert(error);
    }
}

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const CUT: u8 = 3;

fn chunk(at: Duration, code: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + data.len());
    bytes.extend(u64::try_from(at.as_micros()).unwrap_or(u64::MAX).to_le_bytes());
    bytes.push(code);
    bytes.extend(u32::try_from(data.len()).expect("chunks are cut to size").to_le_bytes());
    bytes.extend(data);
    bytes
}

fn file_name(step: &Key) -> String {
    step.to_string()
}

/// A step's log, chunk by chunk. What a crash of the machine cut off at its end is left out.
#[derive(Debug)]
pub struct StepLog {
    path: PathBuf,
    file: BufReader<File>,
    ended: bool,
}

impl StepLog {
    fn read_chunk(&mut self) -> Result<Option<LogChunk>, LogError> {
        let mut header = [0; HEADER_BYTES];
        if !self.fill(&mut header)? {
            return Ok(None);
        }
        let [at @ .., code, a, b, c, d] = header;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        let damaged = || LogError::Damaged { path: self.path.clone() };
        if len > CHUNK_BYTES_MAX {
            return Err(damaged());
        }
        let stream = match code {
            STDOUT => LogStream::Stdout,
            STDERR => LogStream::Stderr,
            CUT => return Ok(Some(LogChunk::Cut)),
            _ => return Err(damaged()),
        };
        let mut data = vec![0; len];
        let at = Duration::from_micros(u64::from_le_bytes(at));
        Ok(self.fill(&mut data)?.then_some(LogChunk::Data { at, stream, data }))
    }

    /// Whether there were as many bytes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, LogError> {
        match self.file.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(source) => Err(LogError::Io { path: self.path.clone(), source }),
        }
    }
}

impl Iterator for StepLog {
    type Item = Result<LogChunk, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read_chunk().transpose();
        self.ended = !matches!(next, Some(Ok(LogChunk::Data { .. })));
        next
    }
}

impl Store {
    /// The log of a step; nothing if it printed nothing, or did not run.
    pub fn step_log(&self, build: BuildId, step: &Key) -> Result<Option<StepLog>, StoreError> {
        let path = self.root().join("history").join(build.to_string()).join(file_name(step));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => Ok(Some(StepLog { path, file: BufReader::new(File::from(file)), ended: false })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(StoreError::io("open", path, errno)),
        }
    }
}
