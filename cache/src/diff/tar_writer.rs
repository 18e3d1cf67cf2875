//! Writing files as a tar, in fixed blocks that are handed on whole.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::DiffError;
use super::tar_header::{BLOCK_BYTES, Header, TypeFlag, padding};
use crate::contenthash::{HardLinks, is_content_xattr};
use crate::walk::{self, FileKind, Stat, Visited, Xattrs};

/// How much of a tar is handed on at a time. It is also what one gzip member holds, so it is part of the format of
/// layers: changing it changes their digests.
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;

/// Where the chunks of a tar go.
pub(super) trait Sink {
    /// Takes a chunk of exactly [`CHUNK_BYTES`] and gives back an empty buffer for the next.
    fn put(&mut self, chunk: Vec<u8>) -> Result<Vec<u8>, DiffError>;
}

/// Writes the entries of one tree as a tar.
#[derive(Debug)]
pub(super) struct TarWriter<S> {
    sink: S,
    /// Less than or exactly a chunk; a full one is handed on when more comes, so the last is never empty.
    chunk: Vec<u8>,
    /// The encoding of one header, kept for its capacity.
    header: Vec<u8>,
    links: HardLinks,
    /// Later times are set to this one.
    clamp_time_s: Option<u64>,
    /// What the tree is called in errors.
    object: String,
}

impl<S: Sink> TarWriter<S> {
    pub(super) fn new(sink: S, clamp_time_s: Option<u64>, object: String) -> Self {
        let chunk = Vec::with_capacity(CHUNK_BYTES);
        Self { sink, chunk, header: Vec::new(), links: HardLinks::default(), clamp_time_s, object }
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
        let mut name = if path.is_empty() { b".".to_vec() } else { path.as_bytes().to_vec() };
        name.push(b'/');
        self.headers(&name, stat, TypeFlag::Dir, b"", xattrs)
    }

    /// Writes an empty regular file with the owner and time of `stat`: a whiteout.
    pub(super) fn marker(&mut self, path: &OsStr, stat: &Stat) -> Result<(), DiffError> {
        let stat = Stat { size: 0, mode: 0, ..*stat };
        self.headers(path.as_bytes(), &stat, TypeFlag::File, b"", &[])
    }

    /// Writes the end mark; returns the sink and the last chunk.
    pub(super) fn finish(mut self) -> Result<(S, Vec<u8>), DiffError> {
        self.bytes(&[0; 2 * BLOCK_BYTES])?;
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
        let mut encoded = std::mem::take(&mut self.header);
        encoded.clear();
        header.encode(&mut encoded);
        let result = self.bytes(&encoded);
        self.header = encoded;
        result
    }

    /// Exactly `size` bytes of `file`, read straight into the chunk.
    fn contents(&mut self, path: &OsStr, mut file: File, size: u64) -> Result<(), DiffError> {
        let mut left = size;
        while left > 0 {
            let start = self.make_room()?;
            let room = (CHUNK_BYTES - start) as u64;
            let len = room.min(left) as usize;
            self.chunk.resize(start + len, 0);
            // Fails with `UnexpectedEof` if the file is shorter than it was: the header has gone out.
            if let Err(source) = file.read_exact(&mut self.chunk[start..]) {
                return Err(self.cannot_read(path, source));
            }
            left -= len as u64;
        }
        self.bytes(&[0; BLOCK_BYTES][..padding(size)])
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), DiffError> {
        while !bytes.is_empty() {
            let start = self.make_room()?;
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - start));
            self.chunk.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Hands the chunk on if it is full. Returns its length.
    fn make_room(&mut self) -> Result<usize, DiffError> {
        if self.chunk.len() == CHUNK_BYTES {
            self.chunk = self.sink.put(std::mem::take(&mut self.chunk))?;
        }
        Ok(self.chunk.len())
    }

    fn cannot_read(&self, path: &OsStr, source: io::Error) -> DiffError {
        DiffError::Read { object: format!("`{}` of {}", path.display(), self.object), source }
    }
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
