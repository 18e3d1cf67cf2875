//! The files of a selection by name: what tells which of them changed since another build read them.
//!
//! A list (version 1) is a byte 1 and then for each file, in the order of paths: the length of its path (u32, little-endian),
//! the path below the tree, and eight bytes that stand for all of the file that counts.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use wharf_cache::ContentDigest;
use wharf_cache::state::FileStamp;
use wharf_cache::walk::{FileKind, Stat};

use super::digest::{Item, first_names, is_further_name, stamp};
use super::select::Selected;

const VERSION: u8 = 1;

/// What stands for a file. Only told apart from what was there under the same name, so eight bytes are enough.
type Fingerprint = [u8; 8];

/// The files that were read for a digest.
#[derive(Debug, Default)]
pub struct Files(Vec<SelectedFiles>);

/// A selected thing and all in it.
#[derive(Debug)]
struct SelectedFiles {
    named: PathBuf,
    items: Vec<Item>,
    /// Of the regular files, further names left out.
    contents: Vec<ContentDigest>,
}

impl Files {
    pub(super) fn add(&mut self, selected: Selected, items: Vec<Item>, contents: Vec<ContentDigest>) {
        self.0.push(SelectedFiles { named: selected.named, items, contents });
    }

    /// How many there are, directories and the like among them.
    pub fn count(&self) -> usize {
        self.0.iter().map(|selected| selected.items.len()).sum()
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a list to keep.
    pub fn list(&self) -> Vec<u8> {
        let all: BTreeMap<PathBuf, Fingerprint> = self.0.iter().flat_map(SelectedFiles::entries).collect();
        let mut bytes = vec![VERSION];
        for (path, fingerprint) in all {
            let path = path.as_os_str().as_bytes();
            // The kernel takes no path of more than 4096 bytes.
            bytes.extend(u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend(path);
            bytes.extend(fingerprint);
        }
        bytes
    }
}

/// Files of which it is known what they hold are remembered up to this number.
const KNOWN_MAX: usize = 1 << 18;

/// What the files of local directories hold, by device and inode.
#[derive(Debug, Default)]
pub struct KnownFiles(Mutex<HashMap<(u64, u64), (FileStamp, ContentDigest)>>);

impl KnownFiles {
    /// Remembers what was read.
    pub fn add(&self, files: &Files) {
        let mut known = self.lock();
        for selected in &files.0 {
            let first_names = first_names(&selected.items);
            let is_read =
                |item: &&Item| item.stat.kind == FileKind::File && !is_further_name(item, &first_names);
            for (item, content) in selected.items.iter().filter(is_read).zip(&selected.contents) {
                if known.len() < KNOWN_MAX {
                    known.insert((item.stat.dev, item.stat.ino), (stamp(&item.stat), *content));
                }
            }
        }
    }

    /// Digest of the bytes and extended attributes of a file; `None` if it is not the one that was read.
    pub fn content(&self, stat: &Stat) -> Option<ContentDigest> {
        let known = self.lock().get(&(stat.dev, stat.ino)).copied();
        known.filter(|(of, _)| *of == stamp(stat)).map(|(_, content)| content)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, u64), (FileStamp, ContentDigest)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SelectedFiles {
    fn entries(&self) -> impl Iterator<Item = (PathBuf, Fingerprint)> {
        let first_names = first_names(&self.items);
        let mut contents = self.contents.iter();
        self.items.iter().map(move |item| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&[kind(item.stat.kind)]).update(&item.stat.mode.to_le_bytes());
            if matches!(item.stat.kind, FileKind::CharDevice | FileKind::BlockDevice) {
                hasher.update(&item.stat.rdev.0.to_le_bytes()).update(&item.stat.rdev.1.to_le_bytes());
            }
            for (name, value) in &item.xattrs {
                frame(&mut hasher, name.as_bytes());
                frame(&mut hasher, value);
            }
            if item.stat.kind == FileKind::File && is_further_name(item, &first_names) {
                let first = first_names[&(item.stat.dev, item.stat.ino)];
                frame(&mut hasher, first.as_os_str().as_bytes());
            } else if item.stat.kind == FileKind::File {
                hasher.update(&contents.next().map_or([0; 32], |content| content.0));
            }
            if let Some(target) = &item.link {
                frame(&mut hasher, target.as_bytes());
            }
            let path = if item.path.as_os_str().is_empty() {
                self.named.clone()
            } else {
                self.named.join(&item.path)
            };
            let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
            (path, [a, b, c, d, e, f, g, h])
        })
    }
}

fn kind(kind: FileKind) -> u8 {
    match kind {
        FileKind::File => 0,
        FileKind::Dir => 1,
        FileKind::Symlink => 2,
        FileKind::CharDevice => 3,
        FileKind::BlockDevice => 4,
        FileKind::Fifo => 5,
        FileKind::Socket => 6,
    }
}

fn frame(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}

/// What happened to a file between two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is only in the second.
    Added,
    /// It is only in the first.
    Removed,
    /// It is another one.
    Changed,
}

/// How the second list differs from the first, by path. `None` if one of them is not a list.
pub fn differences(before: &[u8], now: &[u8]) -> Option<Vec<(PathBuf, Change)>> {
    let (mut before, mut now) = (Entries::of(before)?.peekable(), Entries::of(now)?.peekable());
    let mut found = Vec::new();
    loop {
        // A list that was cut off or written by somebody else is none.
        let old = before.peek().copied().map_or(Some(None), |entry| entry.map(Some))?;
        let new = now.peek().copied().map_or(Some(None), |entry| entry.map(Some))?;
        let change = match (old, new) {
            (None, None) => return Some(found),
            (Some((path, old)), Some((same, new))) if path == same => {
                before.next();
                now.next();
                if old != new {
                    found.push((path_of(path), Change::Changed));
                }
                continue;
            }
            (Some((path, _)), other) if other.is_none_or(|(later, _)| is_before(path, later)) => {
                before.next();
                (path_of(path), Change::Removed)
            }
            (_, Some((path, _))) => {
                now.next();
                (path_of(path), Change::Added)
            }
            (Some(_), None) => unreachable!("the arm before takes what has nothing beside it"),
        };
        found.push(change);
    }
}

/// The order of the list: that of `Path`, which is by component.
fn is_before(path: &[u8], other: &[u8]) -> bool {
    Path::new(OsStr::from_bytes(path)) < Path::new(OsStr::from_bytes(other))
}

fn path_of(path: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()))
}

type ListEntry<'a> = (&'a [u8], Fingerprint);

/// Reads a list; an entry that is none is `None`, and the last.
struct Entries<'a>(Option<&'a [u8]>);

impl<'a> Entries<'a> {
    fn of(list: &'a [u8]) -> Option<Self> {
        list.strip_prefix(&[VERSION]).map(|rest| Self(Some(rest)))
    }

    fn split(bytes: &'a [u8]) -> Option<(ListEntry<'a>, &'a [u8])> {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (path, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
        let (fingerprint, rest) = rest.split_first_chunk::<8>()?;
        Some(((path, *fingerprint), rest))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Option<ListEntry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.0.take().filter(|bytes| !bytes.is_empty())?;
        let split = Self::split(bytes);
        self.0 = split.map(|(_, rest)| rest);
        Some(split.map(|(entry, _)| entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(&str, u8)]) -> Vec<u8> {
        let sorted: BTreeMap<PathBuf, u8> = entries.iter().map(|(path, mark)| (path.into(), *mark)).collect();
        let mut bytes = vec![VERSION];
        for (path, mark) in sorted {
            let path = path.as_os_str().as_bytes();
            bytes.extend(u32::try_from(path.len()).unwrap().to_le_bytes());
            bytes.extend(path);
            bytes.extend([mark; 8]);
        }
        bytes
    }

    #[test]
    fn lists_are_compared_by_name() {
        let check = |before: &[(&str, u8)], now: &[(&str, u8)], expected: &[(&str, Change)]| {
            let expected: Vec<_> =
                expected.iter().map(|(path, change)| (PathBuf::from(path), *change)).collect();
            assert_eq!(differences(&list(before), &list(now)), Some(expected));
        };
        check(&[], &[], &[]);
        check(&[("a", 1), ("b", 1)], &[("a", 1), ("b", 2)], &[("b", Change::Changed)]);
        check(&[("a", 1), ("c", 1)], &[("b", 1), ("c", 1)], &[("a", Change::Removed), ("b", Change::Added)]);
        check(&[], &[("", 1), ("x", 1)], &[("", Change::Added), ("x", Change::Added)]);
        // By component: `a/b` comes before `a-b`, which bytes would have otherwise.
        check(&[("a", 1), ("a/b", 1)], &[("a", 1), ("a-b", 1), ("a/b", 1)], &[("a-b", Change::Added)]);
        check(&[("z", 1)], &[], &[("z", Change::Removed)]);
    }

    #[test]
    fn what_is_no_list_is_not_compared() {
        let good = list(&[("a", 1)]);
        for bad in [
            &b""[..],
            &[2],
            &good[..good.len() - 1],
            &[&good[..], &[1]].concat(),
            &[VERSION, 255, 255, 255, 255],
        ] {
            assert_eq!(differences(bad, &good), None, "{bad:?}");
            assert_eq!(differences(&good, bad), None, "{bad:?}");
        }
    }
}
