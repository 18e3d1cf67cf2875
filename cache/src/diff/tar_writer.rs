//! Writing files as a tar, in pieces that are handed on whole.
//!
//! Where a piece ends depends on the tar near by, and not on what comes before it: two tars that differ in a few entries have
//! all other pieces in common. Pieces end between two entries, chosen by their paths; a large file begins a piece of its own.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::DiffError;
use super::estargz::Table;
use super::tar_header::{BLOCK_BYTES, Header, TypeFlag, padding};
use crate::contenthash::{HardLinks, is_content_xattr};
use crate::walk::{self, FileKind, Stat, Visited, Xattrs};

/// How pieces are cut: they are what gzip members hold, so whatever is changed here changes the digests of layers and must
/// change this number.
pub(super) const PIECES_VERSION: u32 = 2;

/// The most of a tar that is handed on at a time.
pub(super) const PIECE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The same where there is a table: who wants a file reads all of the pieces that it is in.
pub(super) const TABLE_PIECE_BYTES_MAX: usize = 1024 * 1024;

/// A piece that ends where an entry does is not smaller.
const PIECE_BYTES_MIN: usize = 1024 * 1024;

/// After so many bytes more a piece ends, on average.
const PIECE_BYTES_MORE: u64 = 256 * 1024;

/// The bytes of a file larger than this begin a piece. A smaller one has room after what is too small for a piece.
const SHARED_FILE_BYTES_MAX: u64 = 768 * 1024;

/// Where the chunks of a tar go.
pub(super) trait Sink {
    /// Takes a chunk of at most [`PIECE_BYTES_MAX`], and gives back an empty buffer for the next.
    fn put(&mut self, chunk: Vec<u8>) -> Result<Vec<u8>, DiffError>;

    /// What is told of all entries, if something is. The bytes of every file begin a chunk of their own then.
    fn table(&mut self) -> Option<&mut Table> {
        None
    }
}

/// Writes the entries of one tree as a tar.
#[derive(Debug)]
pub(super) struct TarWriter<S> {
    sink: S,
    /// The piece that is being filled; a full one is handed on when more comes, so the last is never empty.
    chunk: Vec<u8>,
    /// It is full with so many.
    chunk_bytes_max: usize,
    /// How many were handed on.
    handed_on: usize,
    /// The encoding of one header, kept for its capacity.
    header: Vec<u8>,
    links: HardLinks,
    /// What all paths are below: empty, or a directory with its `/`.
    below: Vec<u8>,
    /// Later times are set to this one.
    clamp_time_s: Option<u64>,
    /// What the tree is called in errors.
    object: String,
}

impl<S: Sink> TarWriter<S> {
    pub(super) fn new(mut sink: S, clamp_time_s: Option<u64>, object: String) -> Self {
        let chunk_bytes_max = if sink.table().is_some() { TABLE_PIECE_BYTES_MAX } else { PIECE_BYTES_MAX };
        Self {
            sink,
            chunk: Vec::new(),
            chunk_bytes_max,
            handed_on: 0,
            header: Vec::new(),
            links: HardLinks::default(),
            below: Vec::new(),
            clamp_time_s,
            object,
        }
    }

    /// From here on another tree is written, below `directory` with its `/` (nothing for the root).
    pub(super) fn begin_tree(&mut self, directory: &[u8]) {
        self.links = HardLinks::default();
        self.below = directory.to_vec();
    }

    /// Writes what the walk visited: its headers and, for a regular file, its bytes. A further name of a file that
    /// was written before becomes a hard link to it. Sockets, which a tar cannot hold, are left out.
    pub(super) fn visited(&mut self, visited: &Visited) -> Result<(), DiffError> {
        let Visited { path, entry, .. } = visited;
        let stat = &entry.stat;
        if stat.kind == FileKind::Socket {
            return Ok(());
        }
        if let Some(first) = self.links.first_path(visited) {
            return self.headers(path.as_bytes(), stat, TypeFlag::HardLink, first.as_bytes(), &[]);
        }
        let opened = Opened::new(visited).map_err(|source| self.cannot_read(path, source))?;
        match opened.file {
            Some(file) => {
                self.headers(path.as_bytes(), stat, TypeFlag::File, b"", &opened.xattrs)?;
                self.contents(path, file, stat.size)
            }
            None if stat.kind == FileKind::Dir => self.dir(path, stat, &opened.xattrs),
            None => {
                let target = opened.target.as_bytes();
                self.headers(path.as_bytes(), stat, opened.kind, target, &opened.xattrs)
            }
        }
    }

    /// Writes a directory; the empty path is the root.
    pub(super) fn dir(&mut self, path: &OsStr, stat: &Stat, xattrs: &Xattrs) -> Result<(), DiffError> {
        let mut name = path.as_bytes().to_vec();
        match (path.is_empty(), self.below.is_empty()) {
            (true, true) => name.extend(b"./"),
            (true, false) => {}
            (false, _) => name.push(b'/'),
        }
        self.headers(&name, stat, TypeFlag::Dir, b"", xattrs)
    }

    /// Writes an empty regular file with the owner and time of `stat`: a whiteout.
    pub(super) fn marker(&mut self, path: &OsStr, stat: &Stat) -> Result<(), DiffError> {
        let stat = Stat { size: 0, mode: 0, ..*stat };
        self.headers(path.as_bytes(), &stat, TypeFlag::File, b"", &[])
    }

    /// Writes a file of a few bytes that no file system has.
    pub(super) fn made_up(&mut self, path: &[u8], content: &[u8]) -> Result<(), DiffError> {
        let header = Header {
            path,
            kind: TypeFlag::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: content.len() as u64,
            mtime: (0, 0),
            link: b"",
            rdev: (0, 0),
            xattrs: &[],
        };
        self.header(&header)?;
        self.begin_contents(header.size)?;
        self.bytes(content)?;
        self.tell_contents(self.chunk.len() - content.len());
        self.bytes(&[0; BLOCK_BYTES][..padding(header.size)])
    }

    /// Writes the end mark, unless a table comes before it; returns the sink and the last chunk.
    pub(super) fn finish(mut self) -> Result<(S, Vec<u8>), DiffError> {
        if self.sink.table().is_none() {
            self.bytes(&[0; 2 * BLOCK_BYTES])?;
        }
        Ok((self.sink, self.chunk))
    }

    fn headers(
        &mut self,
        path: &[u8],
        stat: &Stat,
        kind: TypeFlag,
        link: &[u8],
        xattrs: &[(OsString, Vec<u8>)],
    ) -> Result<(), DiffError> {
        let kept: Xattrs = xattrs.iter().filter(|(name, _)| is_content_xattr(name)).cloned().collect();
        let mtime = match self.clamp_time_s.map(|clamp| i64::try_from(clamp).unwrap_or(i64::MAX)) {
            Some(clamp_s) if stat.mtime > (clamp_s, 0) => (clamp_s, 0),
            _ => stat.mtime,
        };
        let path = &[&*self.below, path].concat();
        let link = match kind {
            TypeFlag::HardLink => &*[&*self.below, link].concat(),
            _ => link,
        };
        let header = Header {
            path,
            kind,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            size: if kind == TypeFlag::File { stat.size } else { 0 },
            mtime,
            link,
            rdev: stat.rdev,
            xattrs: &kept,
        };
        self.header(&header)
    }

    fn header(&mut self, header: &Header<'_>) -> Result<(), DiffError> {
        if let Some(table) = self.sink.table() {
            table.entry(header)?;
        }
        let mut encoded = std::mem::take(&mut self.header);
        encoded.clear();
        header.encode(&mut encoded);
        let shared = if header.size > SHARED_FILE_BYTES_MAX { 0 } else { header.size };
        let result = self.begin_entry(header.path, encoded.len() as u64 + shared);
        let result = result.and_then(|()| self.bytes(&encoded));
        self.header = encoded;
        result
    }

    /// Exactly `size` bytes of `file`, read straight into the chunk.
    fn contents(&mut self, path: &OsStr, mut file: File, size: u64) -> Result<(), DiffError> {
        if size > 0 {
            self.begin_contents(size)?;
        }
        let mut left = size;
        while left > 0 {
            let start = self.make_room()?;
            let room = (self.chunk_bytes_max - start) as u64;
            let len = room.min(left) as usize;
            self.chunk.resize(start + len, 0);
            // Fails with `UnexpectedEof` if the file is shorter than it was: the header has gone out.
            if let Err(source) = file.read_exact(&mut self.chunk[start..]) {
                return Err(self.cannot_read(path, source));
            }
            self.tell_contents(start);
            left -= len as u64;
        }
        self.bytes(&[0; BLOCK_BYTES][..padding(size)])
    }

    /// Hands on what comes before an entry of `size` bytes, if the piece is to end there.
    fn begin_entry(&mut self, path: &[u8], size: u64) -> Result<(), DiffError> {
        if self.chunk.len() < PIECE_BYTES_MIN || self.sink.table().is_some() {
            return Ok(());
        }
        let has_no_room = size > (PIECE_BYTES_MAX - self.chunk.len()) as u64;
        if has_no_room || is_cut(path, size) { self.hand_on() } else { Ok(()) }
    }

    /// Hands on what comes before the `size` bytes of a file, where they are to begin a chunk.
    fn begin_contents(&mut self, size: u64) -> Result<(), DiffError> {
        let begins = size > SHARED_FILE_BYTES_MAX || self.sink.table().is_some();
        if begins && !self.chunk.is_empty() {
            self.hand_on()?;
        }
        Ok(())
    }

    /// Tells the table of the bytes of a file that the chunk holds from `start` on.
    fn tell_contents(&mut self, start: usize) {
        if let Some(table) = self.sink.table() {
            table.piece(self.handed_on, &self.chunk[start..]);
        }
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), DiffError> {
        while !bytes.is_empty() {
            let start = self.make_room()?;
            let (now, later) = bytes.split_at(bytes.len().min(self.chunk_bytes_max - start));
            self.chunk.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Hands the chunk on if it is full. Returns its length.
    fn make_room(&mut self) -> Result<usize, DiffError> {
        if self.chunk.len() == self.chunk_bytes_max {
            self.hand_on()?;
        }
        Ok(self.chunk.len())
    }

    fn hand_on(&mut self) -> Result<(), DiffError> {
        self.chunk = self.sink.put(std::mem::take(&mut self.chunk))?;
        self.handed_on += 1;
        Ok(())
    }

    fn cannot_read(&self, path: &OsStr, source: io::Error) -> DiffError {
        DiffError::Read { object: format!("`{}` of {}", path.display(), self.object), source }
    }
}

/// Whether a piece may end before an entry: as likely as one of all the places in [`PIECE_BYTES_MORE`] is among its bytes.
fn is_cut(path: &[u8], size: u64) -> bool {
    let hash = blake3::hash(path);
    let [a, b, c, d, ..] = *hash.as_bytes();
    let place = (u64::from(u32::from_le_bytes([a, b, c, d])) * PIECE_BYTES_MORE) >> u32::BITS;
    place < size
}

/// What of an entry has to be read besides its stat.
struct Opened {
    kind: TypeFlag,
    xattrs: Xattrs,
    /// The open regular file.
    file: Option<File>,
    /// The symlink's target.
    target: OsString,
}

impl Opened {
    fn new(visited: &Visited) -> io::Result<Self> {
        let (dir, name) = (visited.dir.as_fd(), &visited.entry.name);
        let kind = match visited.entry.stat.kind {
            FileKind::File => {
                let file = walk::open_file_at(dir, name)?;
                let xattrs = walk::xattrs_of(file.as_fd())?;
                return Ok(Self { kind: TypeFlag::File, xattrs, file: Some(file), target: OsString::new() });
            }
            FileKind::Dir => TypeFlag::Dir,
            FileKind::Symlink => TypeFlag::Symlink,
            FileKind::CharDevice => TypeFlag::CharDevice,
            FileKind::BlockDevice => TypeFlag::BlockDevice,
            FileKind::Fifo | FileKind::Socket => TypeFlag::Fifo,
        };
        let target = match kind {
            TypeFlag::Symlink => walk::readlink_at(dir, name)?,
            _ => OsString::new(),
        };
        Ok(Self { kind, xattrs: walk::xattrs_at(dir, name)?, file: None, target })
    }
}

/// A sink that passes chunks on to a writer.
pub(super) struct WriteSink<'a>(pub(super) &'a mut dyn io::Write);

impl std::fmt::Debug for WriteSink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteSink").finish_non_exhaustive()
    }
}

impl WriteSink<'_> {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), DiffError> {
        self.0.write_all(bytes).map_err(|source| DiffError::Write {
            operation: "write",
            path: "tar".to_owned(),
            object: "the archive".to_owned(),
            source,
        })
    }
}

impl Sink for WriteSink<'_> {
    fn put(&mut self, mut chunk: Vec<u8>) -> Result<Vec<u8>, DiffError> {
        self.write(&chunk)?;
        chunk.clear();
        Ok(chunk)
    }
}
