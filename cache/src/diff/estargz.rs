//! The table of contents that makes a gzip layer an estargz layer (stargz-snapshotter, docs/estargz.md): where in the blob
//! each file's bytes are, and what they must be, so that a file can be read without the rest.
//!
//! ```text
//! gzip member:  headers │ bytes of a file, then the headers of what follows │ … │ stargz.index.json, end of tar │ footer
//! ```
//! For everybody else it is an ordinary layer. The bytes of a file begin a member of their own, at most [`CHUNK_BYTES`] in
//! each. The table grows with the number of files, and is kept in memory as the JSON that it becomes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::DiffError;
use super::tar_header::{BLOCK_BYTES, Header, TypeFlag, pad};
use super::tar_writer::CHUNK_BYTES;
use crate::Digest;

/// The file that holds the table; the last entry of the tar.
pub(super) const TABLE_NAME: &[u8] = b"stargz.index.json";
/// The first entry: no file of the layer is to be fetched before it is asked for.
pub(super) const LANDMARK_NAME: &[u8] = b".no.prefetch.landmark";
/// What is in it.
pub(super) const LANDMARK: &[u8] = &[0xf];
/// The landmark of layers whose first files are to be fetched ahead.
const OTHER_LANDMARK_NAME: &[u8] = b".prefetch.landmark";

/// Annotations of the layer's descriptor: digest of the table, size of the whole tar.
const TABLE_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
const TAR_SIZE: &str = "io.containers.estargz.uncompressed-size";
/// Annotations of a layer's descriptor that belong to its bytes, and stay with them in every image.
pub const BLOB_ANNOTATIONS: [&str; 2] = [TABLE_DIGEST, TAR_SIZE];

/// The table of a layer that is being written.
#[derive(Debug)]
pub(super) struct Table {
    /// The entries so far, without brackets around them.
    json: Vec<u8>,
    /// Where in `json` the offset of which member is missing.
    holes: Vec<(usize, usize)>,
    /// The regular file whose bytes are being written.
    file: Option<OpenFile>,
    /// What is being written, for messages.
    object: String,
}

#[derive(Debug)]
struct OpenFile {
    entry: Entry,
    written: u64,
    hasher: Sha256,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    member: usize,
    offset: u64,
    size: u64,
    digest: Digest,
}

/// An entry of the table, in the order of the specification.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(rename = "modtime", skip_serializing_if = "String::is_empty")]
    modified: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    chunk_digest: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Table {
    pub(super) fn new(object: String) -> Self {
        Self { json: Vec::new(), holes: Vec::new(), file: None, object }
    }

    /// An entry begins. The bytes of a file follow in [`Self::piece`]s.
    pub(super) fn entry(&mut self, header: &Header<'_>) -> Result<(), DiffError> {
        self.end_file();
        let reserved = [TABLE_NAME, LANDMARK_NAME, OTHER_LANDMARK_NAME];
        if reserved.contains(&header.path) && !(self.json.is_empty() && header.path == LANDMARK_NAME) {
            return Err(self.refused(header.path, "an estargz layer has a file of this name of its own"));
        }
        let entry = self.describe(header)?;
        if header.kind == TypeFlag::File {
            self.file = Some(OpenFile { entry, written: 0, hasher: Sha256::new(), pieces: Vec::new() });
        } else {
            self.add(&entry, None);
        }
        Ok(())
    }

    /// Some bytes of the current file: all that is in the member number `member` of them.
    pub(super) fn piece(&mut self, member: usize, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let size = bytes.len() as u64;
        file.pieces.push(Piece { member, offset: file.written, size, digest: Digest::of(bytes) });
        // A file of one piece has its digest already.
        if file.entry.size > size {
            file.hasher.update(bytes);
        }
        file.written += size;
    }

    /// The last entry of the tar, and the end of it, where the members have the sizes `members`; with the digest of the
    /// table.
    pub(super) fn finish(mut self, members: &[u64]) -> (Vec<u8>, Digest) {
        self.end_file();
        let mut starts = vec![0];
        starts.extend(members.iter().scan(0, |end, size| {
            *end += size;
            Some(*end)
        }));
        let mut table = br#"{"version":1,"entries":["#.to_vec();
        let mut copied = 0;
        for (place, member) in &self.holes {
            table.extend(&self.json[copied..*place]);
            table.extend(starts[*member].to_string().bytes());
            copied = *place;
        }
        table.extend(&self.json[copied..]);
        table.extend(b"]}");
        let digest = Digest::of(&table);

        let size = table.len() as u64;
        let header = Header {
            path: TABLE_NAME,
            kind: TypeFlag::File,
            mode: 0o444,
            uid: 0,
            gid: 0,
            size,
            mtime: (0, 0),
            link: b"",
            rdev: (0, 0),
            xattrs: &[],
        };
        let mut tar = Vec::with_capacity(table.len() + 4 * BLOCK_BYTES);
        header.encode(&mut tar);
        tar.append(&mut table);
        pad(&mut tar, size);
        tar.extend([0; 2 * BLOCK_BYTES]);
        (tar, digest)
    }

    fn end_file(&mut self) {
        let Some(OpenFile { mut entry, hasher, pieces, .. }) = self.file.take() else { return };
        entry.digest = match pieces.as_slice() {
            [only] => only.digest.to_string(),
            _ => Digest::from_bytes(hasher.finalize().into()).to_string(),
        };
        let name = entry.name.clone();
        let mut entry = Some(entry);
        for piece in &pieces {
            let further = || Entry { name: name.clone(), kind: "chunk", ..Entry::default() };
            let mut entry = entry.take().unwrap_or_else(further);
            entry.chunk_offset = piece.offset;
            entry.chunk_size = piece.size;
            entry.chunk_digest = piece.digest.to_string();
            self.add(&entry, Some(piece.member));
        }
        // An empty file.
        if let Some(entry) = entry {
            self.add(&entry, None);
        }
    }

    /// Adds an entry, and its `offset` if its bytes are in a member.
    fn add(&mut self, entry: &Entry, member: Option<usize>) {
        if !self.json.is_empty() {
            self.json.push(b',');
        }
        serde_json::to_writer(&mut self.json, entry).expect("an entry has string keys only");
        if let Some(member) = member {
            let end = self.json.pop();
            debug_assert_eq!(end, Some(b'}'), "an entry is an object");
            self.json.extend(br#","offset":"#);
            self.holes.push((self.json.len(), member));
            self.json.push(b'}');
        }
    }

    fn describe(&self, header: &Header<'_>) -> Result<Entry, DiffError> {
        let text = |bytes: &[u8]| -> Result<String, DiffError> {
            let named = str::from_utf8(bytes).map(str::to_owned);
            let reason = "the table of contents of an estargz layer can only have names in UTF-8";
            named.map_err(|_| self.refused(header.path, reason))
        };
        let kind = match header.kind {
            TypeFlag::File => "reg",
            TypeFlag::HardLink => "hardlink",
            TypeFlag::Symlink => "symlink",
            TypeFlag::CharDevice => "char",
            TypeFlag::BlockDevice => "block",
            TypeFlag::Dir => "dir",
            TypeFlag::Fifo => "fifo",
        };
        let is_device = matches!(header.kind, TypeFlag::CharDevice | TypeFlag::BlockDevice);
        let (major, minor) = if is_device { header.rdev } else { (0, 0) };
        let xattr = |(name, value): &(OsString, Vec<u8>)| {
            Ok::<_, DiffError>((text(name.as_bytes())?, STANDARD.encode(value)))
        };
        Ok(Entry {
            name: text(header.path)?,
            kind,
            size: header.size,
            modified: rfc3339(header.mtime.0),
            link_name: text(header.link)?,
            mode: header.mode.into(),
            uid: header.uid.into(),
            gid: header.gid.into(),
            dev_major: major.into(),
            dev_minor: minor.into(),
            xattrs: header.xattrs.iter().map(xattr).collect::<Result<_, _>>()?,
            ..Entry::default()
        })
    }

    fn refused(&self, path: &[u8], reason: &str) -> DiffError {
        let path = String::from_utf8_lossy(path).into_owned();
        DiffError::Entry { object: self.object.clone(), path, reason: reason.to_owned() }
    }
}

/// The annotations of a layer whose table has this digest and whose tar has `size` bytes.
pub(super) fn annotations(table: Digest, size: u64) -> BTreeMap<String, String> {
    [(TABLE_DIGEST, table.to_string()), (TAR_SIZE, size.to_string())]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

/// The last bytes of the blob: an empty gzip member whose extra field says where the member with the table begins.
pub(super) fn footer(table_offset: u64) -> Vec<u8> {
    let field = format!("{table_offset:016x}STARGZ");
    // Deflate, with an extra field, no time, no level, of no operating system (RFC 1952).
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    footer.extend((field.len() as u16 + 4).to_le_bytes());
    footer.extend(b"SG");
    footer.extend((field.len() as u16).to_le_bytes());
    footer.extend(field.bytes());
    // The last block, stored and empty; the checksum and the size of nothing.
    footer.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    footer
}

/// Whole seconds since 1970 as the table has them; nothing for 1970 itself and for what has no four-digit year.
fn rfc3339(seconds: i64) -> String {
    const DAY_S: i64 = 86_400;
    const LAST_S: i64 = 253_402_300_799;
    if !(1..=LAST_S).contains(&seconds) {
        return String::new();
    }
    // Eras of 400 years that begin in March: the day that leap years add is the last of its year.
    let days = seconds / DAY_S + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (year, second) = (era * 400 + year + next_year, seconds % DAY_S);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

// A piece is what one member has of a file.
const _: () = assert!(CHUNK_BYTES.is_multiple_of(BLOCK_BYTES));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (-1, ""),
            (0, ""),
            (1, "1970-01-01T00:00:01Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (253_402_300_800, ""),
        ] {
            assert_eq!(rfc3339(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn the_footer_is_what_the_specification_shows() {
        let footer = footer(0xabc);
        assert_eq!(footer.len(), 51);
        assert_eq!(&footer[12..38], b"SG\x16\x000000000000000abcSTARGZ");
        let mut nothing = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&footer[..]), &mut nothing).unwrap();
        assert_eq!(nothing, b"");
    }
}
