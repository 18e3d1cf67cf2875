//! Builds that did nothing new, until they get their rows.
//!
//! The first write to the database after its opening, and its closing after a write, wait for the disk. A build that is
//! done in a few milliseconds does not: it appends its row to the file `history/pending`, which costs one `write`. Whoever
//! reads the history, or records a build that writes to the database anyway, moves these rows there.
//!
//! Appenders hold a shared lock on the file and who moves the rows an exclusive one, so that no row comes between reading
//! and emptying it. A kill in between leaves rows that have been moved: they are known by their ids. A row is framed by a
//! mark, its length and a digest; what is torn is passed over.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{BuildId, BuildRow, BuildStatus};
use crate::store::{from_nanos, to_nanos};
use crate::{Key, Store, StoreError};

const NAME: &str = "pending";

const MARK: [u8; 4] = *b"\xB1ld\n";

/// Mark, length, digest.
const HEADER_BYTES: usize = 4 + 4 + 8;

/// More is moved by who would append to it.
const PENDING_BYTES_MAX: u64 = 256 * 1024;

/// A larger file was not written by wharf, or by one that could never move its rows: the rest of it is forgotten.
const PENDING_READ_MAX: u64 = 64 * PENDING_BYTES_MAX;

/// Rows that are being moved; nobody appends meanwhile.
#[derive(Debug)]
pub(super) struct Pending {
    /// Holds the lock.
    file: File,
    pub(super) rows: Vec<BuildRow>,
}

impl Pending {
    /// The rows are in the database.
    pub(super) fn moved(self, store: &Store) -> Result<(), StoreError> {
        rustix::fs::ftruncate(&self.file, 0).map_err(|errno| failed(store, "empty", errno))
    }
}

impl Store {
    /// Appends a row. Says whether it did: not if the file is being emptied, or has become long.
    pub(super) fn append_pending(&self, row: &BuildRow) -> Result<bool, StoreError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let append = || -> io::Result<bool> {
            let file = rustix::fs::openat(self.history_dir(), NAME, flags, Mode::RUSR | Mode::WUSR)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
            let mut file = File::from(file);
            if file.metadata()?.len() > PENDING_BYTES_MAX {
                return Ok(false);
            }
            file.write_all(&frame(&encode(row)))?;
            Ok(true)
        };
        append().map_err(|source| failed(self, "append to", source))
    }

    /// The rows that wait, if there are any.
    pub(super) fn take_pending(&self) -> Result<Option<Pending>, StoreError> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(self.history_dir(), NAME, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed(self, "open", errno)),
        };
        let read = || -> io::Result<Option<Pending>> {
            let mut file = File::from(file);
            if file.metadata()?.len() == 0 {
                return Ok(None);
            }
            rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
            let mut bytes = Vec::new();
            Read::by_ref(&mut file).take(PENDING_READ_MAX).read_to_end(&mut bytes)?;
            Ok(Some(Pending { rows: rows(&bytes), file }))
        };
        read().map_err(|source| failed(self, "read", source))
    }
}

fn failed(store: &Store, operation: &'static str, source: impl Into<io::Error>) -> StoreError {
    StoreError::io(operation, store.root().join("history").join(NAME), source)
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend(MARK);
    bytes.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(checksum(body));
    bytes.extend(body);
    bytes
}

fn checksum(body: &[u8]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(body).as_bytes();
    [a, b, c, d, e, f, g, h]
}

/// The whole rows of the file.
fn rows(mut bytes: &[u8]) -> Vec<BuildRow> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        match unframe(bytes) {
            Some((row, rest)) => {
                rows.push(row);
                bytes = rest;
            }
            // Up to the next mark: a full disk may have torn a row.
            None => {
                let next = bytes.windows(MARK.len()).skip(1).position(|window| window == MARK);
                bytes = next.map_or(&[], |at| &bytes[at + 1..]);
            }
        }
    }
    rows
}

fn unframe(bytes: &[u8]) -> Option<(BuildRow, &[u8])> {
    let rest = bytes.strip_prefix(&MARK)?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<8>()?;
    let (body, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    (checksum(body) == *sum).then(|| decode(body)).flatten().map(|row| (row, rest))
}

fn encode(row: &BuildRow) -> Vec<u8> {
    let status = row.status.code();
    let duration_ns = u64::try_from(row.duration.as_nanos()).unwrap_or(u64::MAX);
    let mut bytes = Vec::with_capacity(128 + row.outcome.len());
    bytes.extend(row.id.0.to_le_bytes());
    bytes.extend(row.project.0);
    bytes.extend(to_nanos(row.started).to_le_bytes());
    bytes.extend(duration_ns.to_le_bytes());
    bytes.push(status);
    bytes.extend(row.graph.0);
    bytes.extend(&row.outcome);
    bytes
}

fn decode(bytes: &[u8]) -> Option<BuildRow> {
    let (id, rest) = bytes.split_first_chunk::<8>()?;
    let (project, rest) = rest.split_first_chunk::<32>()?;
    let (started, rest) = rest.split_first_chunk::<8>()?;
    let (duration, rest) = rest.split_first_chunk::<8>()?;
    let (&status, rest) = rest.split_first()?;
    let (graph, outcome) = rest.split_first_chunk::<32>()?;
    Some(BuildRow {
        id: BuildId(u64::from_le_bytes(*id)),
        project: Key(*project),
        started: from_nanos(i64::from_le_bytes(*started)),
        duration: Duration::from_nanos(u64::from_le_bytes(*duration)),
        status: BuildStatus::from_code(status),
        graph: Key(*graph),
        outcome: outcome.to_vec(),
        log_bytes: 0,
    })
}
