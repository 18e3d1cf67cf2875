//! A tar that somebody else has written, as a set of named contents that can be read in any order.
//!
//! Only headers are gone through; nothing is unpacked. Names are keys of a map and never paths. What is compressed or comes
//! through a pipe is first written to a file of the store that has no name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tar::{EntryType, Header};
use wharf_cache::Store;
use wharf_cache::diff::{COMPRESSION_START_BYTES, StreamCompression, compression_of, decoded};
use wharf_runtime::Cancel;

use super::ImagesError;
use crate::context::open_at_once;
use crate::source::Cancellable;

const BLOCK_BYTES: u64 = 512;

/// Entries of an archive.
const ENTRIES_MAX: usize = 100_000;

/// A long name, or the extended header of one entry.
const EXTENDED_BYTES_MAX: u64 = 64 << 10;

/// Links that are followed from one name to another.
const LINKS_MAX: usize = 8;

/// A compressed archive may unpack to this much in any case, and beyond that to so many times its own size. The layers in
/// it are compressed themselves, or hold files: nothing real comes near.
const UNPACKED_BYTES_FREE: u64 = 256 << 20;
const EXPANSION_MAX: u64 = 1000;

/// A tar without entries is at most as long: tar programs fill it up to a block of theirs.
const EMPTY_BYTES_MAX: u64 = 1 << 20;

/// An archive of at least this size may not leave less than this on the disk of the store: one that comes through a pipe
/// and does not end stops here, before everybody else's writing does.
const DISK_RESERVE_BYTES: u64 = 256 << 20;

/// Pieces in which it is unpacked.
const BUFFER_BYTES: usize = 256 * 1024;

/// An archive and where its contents lie.
#[derive(Debug)]
pub(crate) struct Archive {
    name: String,
    file: Arc<File>,
    entries: HashMap<Vec<u8>, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    Content(Place),
    /// The name of another entry.
    Link(Vec<u8>),
}

/// Where a content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    at: u64,
    /// In bytes.
    pub(crate) size: u64,
}

/// What one entry says of itself in the headers before its own.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Archive {
    /// Opens the archive at `path`, or on standard input.
    pub(crate) fn open(path: Option<&Path>, store: &Store, cancel: &Cancel) -> Result<Self, ImagesError> {
        let name = path.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
        let opened = match path {
            Some(path) => open_at_once(path).map(|(file, _)| file),
            None => rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 0)
                .map(File::from)
                .map_err(io::Error::from),
        };
        let mut file = opened.map_err(ImagesError::io("open", &name))?;
        let metadata = file.metadata().map_err(ImagesError::io("open", &name))?;
        if metadata.is_dir() {
            return Err(ImagesError::Bundle { bundle: name, reason: "is a directory".to_owned() });
        }
        // A pipe that was opened without waiting would give nothing before somebody writes.
        if let (false, Some(path)) = (metadata.is_file(), path) {
            file = File::open(path).map_err(ImagesError::io("open", &name))?;
        }
        let is_random = metadata.is_file() && file.stream_position().is_ok_and(|position| position == 0);
        let is_plain = is_random && {
            let mut start = [0; COMPRESSION_START_BYTES];
            let count = file.read_at(&mut start, 0).map_err(ImagesError::io("read", &name))?;
            compression_of(&start[..count]) == StreamCompression::Plain
        };
        if !is_plain {
            file = unpacked(file, &name, store, cancel)?;
        }
        let mut this = Self { name, file: Arc::new(file), entries: HashMap::new() };
        this.read_headers(cancel)?;
        Ok(this)
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the content called `name` is; a link is followed.
    pub(crate) fn find(&self, name: &[u8]) -> Option<Place> {
        let mut name = normal(b"", name)?;
        for _ in 0..LINKS_MAX {
            match self.entries.get(&name)? {
                Entry::Content(place) => return Some(*place),
                Entry::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    /// Reads a content from its start.
    pub(crate) fn reader(&self, place: Place) -> impl Read + Send + 'static {
        Section { file: Arc::clone(&self.file), at: place.at, left: place.size }
    }

    /// All of a content of at most `bytes_max` bytes.
    pub(crate) fn bytes(&self, name: &str, place: Place, bytes_max: u64) -> Result<Vec<u8>, ImagesError> {
        if place.size > bytes_max {
            return Err(self.wrong(format!("has a file `{name}` of more than {bytes_max} bytes")));
        }
        let mut bytes = Vec::new();
        let read = self.reader(place).read_to_end(&mut bytes);
        read.map_err(ImagesError::io("read", format!("{name} of {}", self.name)))?;
        Ok(bytes)
    }

    /// It is not what it should be.
    pub(crate) fn wrong(&self, reason: impl Into<String>) -> ImagesError {
        ImagesError::Bundle { bundle: self.name.clone(), reason: reason.into() }
    }

    fn read_headers(&mut self, cancel: &Cancel) -> Result<(), ImagesError> {
        let end = self.file.metadata().map_err(ImagesError::io("read", &self.name))?.len();
        let mut at = 0;
        let mut extended = Extended::default();
        let mut count = 0;
        while at < end {
            if cancel.is_cancelled() {
                return Err(ImagesError::Interrupted);
            }
            let Some(header) = self.header(at, end)? else { break };
            count += 1;
            if count > ENTRIES_MAX {
                return Err(self.wrong(format!("has more than {ENTRIES_MAX} entries")));
            }
            at += BLOCK_BYTES;
            let stated =
                header.entry_size().map_err(|_| self.wrong("has an entry with a size that is none"))?;
            let kind = header.entry_type();
            let about_next = matches!(
                kind,
                EntryType::XHeader
                    | EntryType::XGlobalHeader
                    | EntryType::GNULongName
                    | EntryType::GNULongLink
            );
            let size = if about_next { stated } else { extended.size.unwrap_or(stated) };
            let next = at.checked_add(size).and_then(|end| end.checked_next_multiple_of(BLOCK_BYTES));
            let next = next.filter(|_| at + size <= end);
            let next = next.ok_or_else(|| self.wrong("is cut off, or lies about the size of an entry"))?;
            let place = Place { at, size };
            if about_next {
                self.read_extended(kind, place, &mut extended)?;
            } else {
                self.take(&header, place, std::mem::take(&mut extended))?;
            }
            at = next;
        }
        if count == 0 {
            return Err(self.wrong("is not an archive of images: it has no entries"));
        }
        Ok(())
    }

    /// The header at `at`; none at the end mark.
    fn header(&self, at: u64, end: u64) -> Result<Option<Header>, ImagesError> {
        if end - at < BLOCK_BYTES {
            return Err(self.wrong(if at == 0 { "is not a tar" } else { "is cut off" }));
        }
        let mut header = Header::new_old();
        self.file.read_exact_at(header.as_mut_bytes(), at).map_err(ImagesError::io("read", &self.name))?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !is_header(bytes) {
            let reason = if at == 0 { "is not a tar" } else { "has a damaged tar header" };
            return Err(self.wrong(reason));
        }
        Ok(Some(header))
    }

    fn read_extended(
        &self,
        kind: EntryType,
        place: Place,
        extended: &mut Extended,
    ) -> Result<(), ImagesError> {
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let bytes = self.bytes("(a long name)", place, EXTENDED_BYTES_MAX)?;
        let text = || bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        match kind {
            EntryType::GNULongName => extended.path = Some(text()),
            EntryType::GNULongLink => extended.link = Some(text()),
            _ => {
                for record in tar::PaxExtensions::new(&bytes) {
                    let record = record.map_err(|_| self.wrong("has a damaged extended header"))?;
                    let value = record.value_bytes();
                    match record.key_bytes() {
                        b"path" => extended.path = Some(value.to_vec()),
                        b"linkpath" => extended.link = Some(value.to_vec()),
                        b"size" => {
                            let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                            let size = size.ok_or_else(|| self.wrong("has a size that is none"))?;
                            extended.size = Some(size);
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Remembers an entry. What has no content of its own, or a name that leads out, is nothing that could be asked for.
    fn take(&mut self, header: &Header, place: Place, extended: Extended) -> Result<(), ImagesError> {
        let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let Some(name) = normal(b"", &path) else { return Ok(()) };
        let link = || extended.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let entry = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => Entry::Content(place),
            EntryType::Symlink => {
                let parent = name.iter().rposition(|byte| *byte == b'/').map_or(&name[..0], |at| &name[..at]);
                match link().and_then(|link| normal(parent, &link)) {
                    Some(target) => Entry::Link(target),
                    None => return Ok(()),
                }
            }
            EntryType::Link => match link().and_then(|link| normal(b"", &link)) {
                Some(target) => Entry::Link(target),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        let is_document = [&b"manifest.json"[..], b"index.json", b"oci-layout"].contains(&&*name);
        let before = self.entries.insert(name.clone(), entry);
        if before.is_some() && is_document {
            let name = String::from_utf8_lossy(&name).into_owned();
            return Err(self.wrong(format!("has `{name}` twice")));
        }
        Ok(())
    }
}

/// `path` without `.`, `..` and empty components, as seen from the directory `parent`; none if it leads out.
fn normal(parent: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let parent = if path.starts_with(b"/") { b"" } else { parent };
    let mut components: Vec<&[u8]> = Vec::new();
    for component in parent.split(|byte| *byte == b'/').chain(path.split(|byte| *byte == b'/')) {
        match component {
            b"" | b"." => {}
            b".." => drop(components.pop()?),
            component => components.push(component),
        }
    }
    (!components.is_empty()).then(|| components.join(&b'/'))
}

/// A part of a file, read without moving anybody's position in it.
struct Section {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// The unpacked stream, in a file of the store that has no name.
fn unpacked(input: File, name: &str, store: &Store, cancel: &Cancel) -> Result<File, ImagesError> {
    let dir = store.temp_dir()?;
    let made = || {
        let path = dir.join("archive");
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        std::fs::remove_file(path)?;
        Ok(file)
    };
    let made = made().map_err(ImagesError::io("create", "a temporary file of the store"));
    store.remove_temp_dir(&dir);
    let mut file = made?;
    let (mut stream, mut growth) = Growth::of(input, name, store, cancel)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = growth.read(&mut stream, &mut buffer)?;
        if count == 0 {
            return Ok(file);
        }
        file.write_all(&buffer[..count])
            .map_err(ImagesError::io("write", "a temporary file of the store"))?;
    }
}

/// What is known of a tar that is being written into the store, so that one without an end is noticed.
pub(crate) struct Growth<'a> {
    name: &'a str,
    store: &'a Store,
    cancel: &'a Cancel,
    /// What came of it, compressed as it may be.
    taken: Arc<AtomicU64>,
    written: u64,
    start: Vec<u8>,
}

impl<'a> Growth<'a> {
    /// Reads `input`, unpacked if it is compressed.
    pub(crate) fn of(
        input: File,
        name: &'a str,
        store: &'a Store,
        cancel: &'a Cancel,
    ) -> Result<(impl Read + use<>, Self), ImagesError> {
        let taken = Arc::new(AtomicU64::new(0));
        let input =
            Counted { input: Cancellable::new(Box::new(input), cancel.clone()), count: Arc::clone(&taken) };
        let this = Self { name, store, cancel, taken, written: 0, start: Vec::new() };
        Ok((decoded(input).map_err(|error| this.failed(error))?, this))
    }

    /// The next bytes; none at the end.
    pub(crate) fn read(&mut self, stream: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ImagesError> {
        let count = loop {
            match stream.read(buffer) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        };
        self.written += count as u64;
        let wrong = |reason: String| Err(ImagesError::Bundle { bundle: self.name.to_owned(), reason });
        let usual = self.taken.load(Ordering::Relaxed).saturating_mul(EXPANSION_MAX).max(UNPACKED_BYTES_FREE);
        if self.written > usual {
            return wrong(format!(
                "unpacks to more than {EXPANSION_MAX} times its size: this is no real archive"
            ));
        }
        // What is no tar from the beginning may go on for ever.
        if self.start.len() < BLOCK_BYTES as usize {
            let more = count.min(BLOCK_BYTES as usize - self.start.len());
            self.start.extend_from_slice(&buffer[..more]);
            if let Ok(block) = <[u8; BLOCK_BYTES as usize]>::try_from(&*self.start)
                && !is_header(&block)
            {
                return wrong("is not a tar".to_owned());
            }
        }
        if self.written > EMPTY_BYTES_MAX && self.start.iter().all(|byte| *byte == 0) {
            return wrong("is not an archive of images: it has no entries".to_owned());
        }
        let space = rustix::fs::statvfs(self.store.root())
            .map_err(|error| ImagesError::io("ask for the free space of", "the store")(error.into()))?;
        let left = space.f_bavail.saturating_mul(space.f_frsize);
        if self.written > DISK_RESERVE_BYTES && left < DISK_RESERVE_BYTES {
            let written = self.written;
            return wrong(format!(
                "has more than {written} bytes, and the store's disk has less than {DISK_RESERVE_BYTES} left"
            ));
        }
        Ok(count)
    }

    fn failed(&self, error: io::Error) -> ImagesError {
        match self.cancel.is_cancelled() {
            true => ImagesError::Interrupted,
            false => ImagesError::io("read", self.name)(error),
        }
    }
}

/// Whether a block is a header of a tar, or its end.
fn is_header(block: &[u8; BLOCK_BYTES as usize]) -> bool {
    // The field of the sum counts as blanks.
    let sum = block.iter().enumerate().map(|(at, byte)| match at {
        148..156 => u32::from(b' '),
        _ => u32::from(*byte),
    });
    let mut header = Header::new_old();
    header.as_mut_bytes().copy_from_slice(block);
    block.iter().all(|byte| *byte == 0) || header.cksum().ok() == Some(sum.sum())
}

struct Counted<R> {
    input: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_normal_and_do_not_lead_out() {
        let check = |parent: &str, path: &str, expected: Option<&str>| {
            let found = normal(parent.as_bytes(), path.as_bytes());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{parent} {path}");
        };
        check("", "./a//b/", Some("a/b"));
        check("", "/etc/passwd", Some("etc/passwd"));
        check("a", "../b/layer.tar", Some("b/layer.tar"));
        check("a", "/b", Some("b"));
        check("a", "../../b", None);
        check("", "..", None);
        check("", "a/..", None);
        check("", "", None);
    }
}
