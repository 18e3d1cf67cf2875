//! Extracting a local archive, as `ADD` does.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::BorrowedFd;

use super::DiffError;
use super::decompress::{Format, peek};
use super::tar_header::{BLOCK_BYTES, TypeFlag};
use super::tar_reader::{Entry, TarReader};
use super::unpack::{Rules, Unpacker};
use crate::Ids;

const OBJECT: &str = "the archive";

/// The most bytes that may follow an archive's end mark: they are decoded for nothing. Tapes are padded with far less.
const TRAILING_BYTES_MAX: u64 = 4 << 30;

pub(super) fn is_archive(archive: &mut File) -> Result<bool, DiffError> {
    Ok(open(archive)?.is_some())
}

pub(super) fn may_begin_with(start: &[u8]) -> bool {
    Format::detect(start) != Format::Plain || is_header(start)
}

fn is_header(start: &[u8]) -> bool {
    matches!(TarReader::new(start).header(), Ok(Some(_)))
}

pub(super) fn extract(
    archive: &mut File,
    dest: BorrowedFd<'_>,
    ids: Ids,
    owner: (u32, u32),
) -> Result<bool, DiffError> {
    let Some((first, mut tar)) = open(archive)? else { return Ok(false) };
    let mut unpacker = Unpacker::new(dest, ids, Rules::Archive { owner }, OBJECT.to_owned())?;
    unpacker.unpack(Some(first), &mut tar)?;
    // What a compressed stream ends with says whether all before it was right.
    tar.finish(TRAILING_BYTES_MAX).map_err(|source| DiffError::Read { object: OBJECT.to_owned(), source })?;
    unpacker.set_dir_times()?;
    Ok(true)
}

pub(super) fn newest(archive: &mut File) -> Result<Option<i64>, DiffError> {
    let Some((first, mut tar)) = open(archive)? else { return Ok(None) };
    let failed = |source| DiffError::Read { object: OBJECT.to_owned(), source };
    let mut newest = None;
    let mut next = Some(first);
    while let Some(entry) = next {
        if entry.kind == TypeFlag::File {
            newest = newest.max(Some(entry.mtime.0));
        }
        let Some(following) = unless_malformed(tar.next()).map_err(failed)? else { return Ok(None) };
        next = following;
    }
    Ok(newest)
}

/// Reads an archive up to its first entry; `None` if it is none, which is so when it does not begin with a header.
fn open(archive: &mut File) -> Result<Option<(Entry, TarReader<impl Read>)>, DiffError> {
    const BUFFER_BYTES: usize = 128 * 1024;
    let failed = |source| DiffError::Read { object: OBJECT.to_owned(), source };
    archive.rewind().map_err(failed)?;
    let (start, stream) = peek(archive).map_err(failed)?;
    let Some(mut decoder) = unless_malformed(Format::detect(&start).decoder(stream)).map_err(failed)? else {
        return Ok(None);
    };
    // No more is asked for than the header: a decoder that finds something wrong gives nothing of what came before it.
    let mut header = [0; BLOCK_BYTES];
    if unless_malformed(decoder.read_exact(&mut header)).map_err(failed)?.is_none() || !is_header(&header) {
        return Ok(None);
    }
    let stream = io::Cursor::new(header).chain(decoder);
    let mut tar = TarReader::new(BufReader::with_capacity(BUFFER_BYTES, stream));
    Ok(tar.next().map_err(failed)?.map(|first| (first, tar)))
}

/// Bytes that cannot be decoded are an answer; that they cannot be read is an error.
fn unless_malformed<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error().is_some() => Err(error),
        Err(_) => Ok(None),
    }
}
