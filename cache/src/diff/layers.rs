//! How two layers differ: entry by entry of their tars, headers and bytes, times and order as well.
//!
//! The first reading of both makes a list of what each entry says and the digest of its bytes; the second finds the offsets
//! of what is other. Only lists are held, and these have a limit.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::rc::Rc;

use super::decompress::{Format, peek};
use super::tar_header::TypeFlag;
use super::tar_reader::{Entry, TarReader, invalid};
use super::trees::fill;
use super::{DiffError, LayerSource};

/// Streams are compared in pieces of this size.
const BUFFER_BYTES: usize = 256 * 1024;

/// What the list of one layer's entries may take: names, targets and attributes.
const LIST_BYTES_MAX: usize = 512 << 20;

/// What an entry of a list takes besides.
const ENTRY_BYTES: usize = 256;

/// A layer that can be read as often as it is wanted.
pub struct ReadableLayer<'a> {
    /// What it is.
    pub source: &'a LayerSource,
    /// Its blob.
    pub open: &'a dyn Fn() -> io::Result<Box<dyn Read>>,
}

impl std::fmt::Debug for ReadableLayer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadableLayer").field("source", self.source).finish_non_exhaustive()
    }
}

/// An entry in which two layers differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryDifference {
    /// As the tar has it.
    pub path: OsString,
    /// In what.
    pub what: EntryChange,
}

/// In what two layers differ at an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryChange {
    /// Only the first layer has it.
    Removed,
    /// Only the second layer has it.
    Added,
    /// A field of its header.
    Field {
        /// `type`, `mode`, `uid`, `gid`, `size`, `mtime`, `link`, `device` or `xattr NAME`.
        name: String,
        /// In the first layer; nothing where it is not set.
        first: Option<String>,
        /// In the second layer.
        second: Option<String>,
    },
    /// Its bytes.
    Content {
        /// The first byte that is other, if it was looked for.
        offset: Option<u64>,
        /// That byte in the first layer; nothing where the file has ended.
        first: Option<u8>,
        /// That byte in the second layer.
        second: Option<u8>,
    },
    /// The first entry that is not where it is in the other layer.
    Order {
        /// What the second layer has in its place.
        second: OsString,
    },
    /// The layers say the same of every entry, in other bytes of the tar.
    Encoding {
        /// The first byte that is other.
        offset: u64,
    },
}

/// What a layer says of one entry.
struct Listed {
    entry: Entry,
    content: blake3::Hash,
    /// Where its headers begin in the tar.
    begin: u64,
}

/// All differences of two layers, in the order of their entries. There is none if, and only if, the tars are the same.
pub fn layer_differences(
    first: &ReadableLayer<'_>,
    second: &ReadableLayer<'_>,
) -> Result<Vec<EntryDifference>, DiffError> {
    let (ours, theirs) = (list(first)?, list(second)?);
    let pairs = pair(&ours, &theirs);
    let mut found = unordered(&ours, &theirs, &pairs);
    let differing: Vec<(usize, usize)> = pairs
        .iter()
        .enumerate()
        .filter_map(|(number, pair)| Some((number, (*pair)?)))
        .filter(|(a, b)| ours[*a].content != theirs[*b].content)
        .collect();
    let offsets = offsets(first, second, &differing)?;
    found.extend(differing.iter().map(|pair| {
        let (offset, first, second) = match offsets.get(pair) {
            Some((offset, first, second)) => (Some(*offset), *first, *second),
            None => (None, None, None),
        };
        // After what the header says of the same entry.
        (2 * pair.0 + 1, difference(&ours[pair.0], EntryChange::Content { offset, first, second }))
    }));
    found.sort_by_key(|(position, _)| *position);
    let mut found: Vec<EntryDifference> = found.into_iter().map(|(_, difference)| difference).collect();
    found.extend(first_out_of_order(&ours, &theirs, &pairs));
    if found.is_empty()
        && let Some(offset) = first_other_byte(first, second)?
    {
        let at = ours.iter().rev().find(|listed| listed.begin <= offset);
        let path = at.map_or_else(OsString::new, |listed| OsString::from_vec(listed.entry.path.clone()));
        found.push(EntryDifference { path, what: EntryChange::Encoding { offset } });
    }
    Ok(found)
}

fn failed(layer: &LayerSource) -> impl Fn(io::Error) -> DiffError {
    let object = format!("layer {}", layer.digest);
    move |source| DiffError::Read { object: object.clone(), source }
}

/// The tar of a layer.
fn tar_of(layer: &ReadableLayer<'_>) -> io::Result<Box<dyn Read>> {
    let (start, stream) = peek((layer.open)()?)?;
    Format::announced(&layer.source.media_type, &start)?.decoder(stream)
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

fn list(layer: &ReadableLayer<'_>) -> Result<Vec<Listed>, DiffError> {
    let read = || {
        let count = Rc::new(Cell::new(0));
        let mut tar = TarReader::new(Counted { inner: tar_of(layer)?, count: Rc::clone(&count) });
        let (mut listed, mut bytes) = (Vec::new(), 0);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let begin = count.get();
            let Some(entry) = tar.next()? else { return Ok(listed) };
            let attributes: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
            bytes += ENTRY_BYTES + entry.path.len() + entry.link.len() + attributes;
            if bytes > LIST_BYTES_MAX {
                return Err(invalid("it has more entries than can be compared"));
            }
            let mut hasher = blake3::Hasher::new();
            for range in entry.sparse.iter().flatten() {
                hasher.update(&range.start.to_le_bytes()).update(&range.end.to_le_bytes());
            }
            loop {
                match fill(&mut tar, &mut buffer)? {
                    0 => break,
                    count => hasher.update(&buffer[..count]),
                };
            }
            listed.push(Listed { entry, content: hasher.finalize(), begin });
        }
    };
    read().map_err(failed(layer.source))
}

/// Which entry of the second list each of the first corresponds to: the one of the same path, and of several the one of the
/// same turn.
fn pair(ours: &[Listed], theirs: &[Listed]) -> Vec<Option<usize>> {
    let mut by_path: HashMap<&[u8], VecDeque<usize>> = HashMap::new();
    for (number, listed) in theirs.iter().enumerate() {
        by_path.entry(&listed.entry.path).or_default().push_back(number);
    }
    ours.iter().map(|listed| by_path.get_mut(&*listed.entry.path)?.pop_front()).collect()
}

/// What is there on one side only, and what headers say, each with the position that it is told at.
fn unordered(ours: &[Listed], theirs: &[Listed], pairs: &[Option<usize>]) -> Vec<(usize, EntryDifference)> {
    let mut found = Vec::new();
    let mut counterparts: Vec<Option<usize>> = vec![None; theirs.len()];
    for (number, pair) in pairs.iter().enumerate() {
        match pair {
            None => found.push((2 * number, difference(&ours[number], EntryChange::Removed))),
            Some(other) => {
                counterparts[*other] = Some(number);
                let fields = fields(&ours[number].entry, &theirs[*other].entry);
                found.extend(fields.into_iter().map(|field| (2 * number, difference(&ours[number], field))));
            }
        }
    }
    // What only the second has is told after what both have before it.
    let mut position = 0;
    for (listed, counterpart) in theirs.iter().zip(counterparts) {
        match counterpart {
            Some(number) => position = 2 * number + 1,
            None => found.push((position, difference(listed, EntryChange::Added))),
        }
    }
    found
}

fn difference(listed: &Listed, what: EntryChange) -> EntryDifference {
    EntryDifference { path: OsString::from_vec(listed.entry.path.clone()), what }
}

fn fields(a: &Entry, b: &Entry) -> Vec<EntryChange> {
    let mut found = Vec::new();
    let mut field = |name: &str, first: Option<String>, second: Option<String>| {
        if first != second {
            found.push(EntryChange::Field { name: name.to_owned(), first, second });
        }
    };
    let octal = |mode: u32| Some(format!("{mode:04o}"));
    let number = |number: u32| Some(number.to_string());
    let time = |(seconds, nanoseconds): (i64, u32)| match nanoseconds {
        0 => Some(seconds.to_string()),
        nanoseconds => Some(format!("{seconds}.{nanoseconds:09}")),
    };
    let device = |(major, minor): (u32, u32)| Some(format!("{major}:{minor}"));
    let link = |link: &[u8]| Some(String::from_utf8_lossy(link).into_owned());
    field("type", Some(kind_name(a.kind).to_owned()), Some(kind_name(b.kind).to_owned()));
    field("mode", octal(a.mode), octal(b.mode));
    field("uid", number(a.uid), number(b.uid));
    field("gid", number(a.gid), number(b.gid));
    field("size", Some(a.size.to_string()), Some(b.size.to_string()));
    field("mtime", time(a.mtime), time(b.mtime));
    if a.link != b.link {
        field("link", link(&a.link), link(&b.link));
    }
    field("device", device(a.rdev), device(b.rdev));
    let value = |entry: &Entry, wanted: &OsString| {
        entry
            .xattrs
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.escape_ascii().to_string())
    };
    let only_second = b.xattrs.iter().filter(|(name, _)| a.xattrs.iter().all(|(other, _)| other != name));
    for (name, _) in a.xattrs.iter().chain(only_second) {
        field(&format!("xattr {}", name.to_string_lossy()), value(a, name), value(b, name));
    }
    found
}

fn kind_name(kind: TypeFlag) -> &'static str {
    match kind {
        TypeFlag::File => "file",
        TypeFlag::HardLink => "hard link",
        TypeFlag::Symlink => "symbolic link",
        TypeFlag::CharDevice => "character device",
        TypeFlag::BlockDevice => "block device",
        TypeFlag::Dir => "directory",
        TypeFlag::Fifo => "fifo",
    }
}

/// Among the entries that both have, the first that stands elsewhere.
fn first_out_of_order(
    ours: &[Listed],
    theirs: &[Listed],
    pairs: &[Option<usize>],
) -> Option<EntryDifference> {
    let common: Vec<(usize, usize)> =
        pairs.iter().enumerate().filter_map(|(number, pair)| Some((number, (*pair)?))).collect();
    let mut in_second: Vec<usize> = common.iter().map(|(_, other)| *other).collect();
    in_second.sort_unstable();
    let ((number, _), instead) =
        common.into_iter().zip(in_second).find(|((_, other), expected)| other != expected)?;
    let second = OsString::from_vec(theirs[instead].entry.path.clone());
    Some(difference(&ours[number], EntryChange::Order { second }))
}

/// A byte that is other: its offset in the file, and what the first and the second layer have there.
type OtherByte = (u64, Option<u8>, Option<u8>);

/// Reads both layers once more, for the pairs of entries whose bytes differ. What is not in the same order in both is left
/// out: it would take more readings.
fn offsets(
    first: &ReadableLayer<'_>,
    second: &ReadableLayer<'_>,
    differing: &[(usize, usize)],
) -> Result<HashMap<(usize, usize), OtherByte>, DiffError> {
    let mut found = HashMap::new();
    if differing.is_empty() {
        return Ok(found);
    }
    let open = |layer: &ReadableLayer<'_>| {
        let tar = tar_of(layer).map_err(failed(layer.source))?;
        Ok::<_, DiffError>((TarReader::new(tar), 0))
    };
    let (mut ours, mut theirs) = (open(first)?, open(second)?);
    let advance = |at: &mut (TarReader<_>, usize), number: usize, layer: &ReadableLayer<'_>| {
        while at.1 <= number {
            at.0.next().map_err(failed(layer.source))?;
            at.1 += 1;
        }
        Ok::<_, DiffError>(())
    };
    for &(number, other) in differing {
        if other < theirs.1 {
            continue;
        }
        advance(&mut ours, number, first)?;
        advance(&mut theirs, other, second)?;
        if let Some(byte) = other_byte((&mut ours.0, first), (&mut theirs.0, second))? {
            found.insert((number, other), byte);
        }
    }
    Ok(found)
}

fn first_other_byte(first: &ReadableLayer<'_>, second: &ReadableLayer<'_>) -> Result<Option<u64>, DiffError> {
    let open = |layer: &ReadableLayer<'_>| tar_of(layer).map_err(failed(layer.source));
    let found = other_byte((&mut open(first)?, first), (&mut open(second)?, second))?;
    Ok(found.map(|(offset, ..)| offset))
}

/// Where two streams part.
fn other_byte(
    (ours, first): (&mut impl Read, &ReadableLayer<'_>),
    (theirs, second): (&mut impl Read, &ReadableLayer<'_>),
) -> Result<Option<OtherByte>, DiffError> {
    let (mut a, mut b) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut offset = 0;
    loop {
        let one = fill(ours, &mut a).map_err(failed(first.source))?;
        let other = fill(theirs, &mut b).map_err(failed(second.source))?;
        let same = a[..one].iter().zip(&b[..other]).take_while(|(a, b)| a == b).count();
        if same < one.max(other) {
            return Ok(Some((
                offset + same as u64,
                a[..one].get(same).copied(),
                b[..other].get(same).copied(),
            )));
        }
        if one == 0 {
            return Ok(None);
        }
        offset += one as u64;
    }
}

/// What a plain tar is as a layer.
#[cfg(test)]
fn source_of(tar: &[u8]) -> LayerSource {
    LayerSource {
        digest: crate::Digest::of(tar),
        size: tar.len() as u64,
        media_type: super::MEDIA_TYPE_TAR.to_owned(),
        diff_id: crate::DiffId(crate::Digest::of(tar)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::tar_header::Header;

    fn header(path: &str) -> Header<'_> {
        Header {
            path: path.as_bytes(),
            kind: TypeFlag::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: (7, 0),
            link: b"",
            rdev: (0, 0),
            xattrs: &[],
        }
    }

    fn tar(entries: &[(Header<'_>, &[u8])]) -> Vec<u8> {
        let mut tar = Vec::new();
        for (header, data) in entries {
            Header { size: data.len() as u64, ..*header }.encode(&mut tar);
            tar.extend_from_slice(data);
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        tar.extend([0; 1024]);
        tar
    }

    /// The difference of two layers, one a line.
    fn told(first: &[u8], second: &[u8]) -> Vec<String> {
        let (a, b) = (source_of(first), source_of(second));
        let (first, second) = (first.to_vec(), second.to_vec());
        let open =
            |tar: &Vec<u8>| -> io::Result<Box<dyn Read>> { Ok(Box::new(io::Cursor::new(tar.clone()))) };
        let found = layer_differences(
            &ReadableLayer { source: &a, open: &|| open(&first) },
            &ReadableLayer { source: &b, open: &|| open(&second) },
        );
        found.unwrap().into_iter().map(|it| format!("{}: {:?}", it.path.display(), it.what)).collect()
    }

    #[test]
    fn each_difference_is_named() {
        let a = (header("a"), &b"text"[..]);
        let b = (header("b"), &b"b"[..]);
        let first = tar(&[a, b]);
        let check = |second: &[(Header<'_>, &[u8])], expected: &[&str]| {
            assert_eq!(told(&first, &tar(second)), expected);
        };
        let field = |path, name, first, second| {
            format!("{path}: Field {{ name: {name:?}, first: Some({first:?}), second: Some({second:?}) }}")
        };
        check(&[a, b], &[]);
        check(&[a], &["b: Removed"]);
        check(&[a, b, (header("c"), b"")], &["c: Added"]);
        check(&[(header("0"), b""), a, b], &["0: Added"]);
        check(&[b, a], &["a: Order { second: \"b\" }"]);
        let content = "a: Content { offset: Some(2), first: Some(120), second: Some(88) }";
        check(&[(a.0, b"teXt"), b], &[content]);
        check(
            &[(a.0, b"text!"), b],
            &[&field("a", "size", "4", "5"), "a: Content { offset: Some(4), first: None, second: Some(33) }"],
        );
        check(&[a, (Header { mode: 0o600, ..b.0 }, b.1)], &[&field("b", "mode", "0644", "0600")]);
        check(&[a, (Header { mtime: (7, 5), ..b.0 }, b.1)], &[&field("b", "mtime", "7", "7.000000005")]);
        check(&[a, (Header { uid: 5, ..b.0 }, b.1)], &[&field("b", "uid", "0", "5")]);
        let xattrs = [("user.a".into(), b"\x01".to_vec())];
        check(
            &[a, (Header { xattrs: &xattrs, ..b.0 }, b.1)],
            &["b: Field { name: \"xattr user.a\", first: None, second: Some(\"\\\\x01\") }"],
        );
    }

    #[test]
    fn the_same_in_other_bytes_is_named_too() {
        let first = tar(&[(header("a"), b"text")]);
        let mut longer = first.clone();
        longer.extend([0; 512]);
        assert_eq!(told(&first, &longer), ["a: Encoding { offset: 2048 }"]);
    }
}
