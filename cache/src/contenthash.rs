//! Content digests of trees: what a step reads, reduced to one BLAKE3 digest that never depends on times.
//!
//! The encoding, version 1. The digest covers [`FORMAT`] and then, for every entry in order:
//!
//! ```text
//! kind u8 · path · mode u32 · uid u32 · gid u32 · opaque u8 · major u32 · minor u32 · size u64
//! number of xattrs u32 · (name · value) for each · payload tag u8 · payload
//! ```
//!
//! Integers are little-endian; paths, names, values and payloads are framed by a u64 length. A field that means
//! nothing for its kind (the size of a directory, say) is zero.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::diff::normal::NoChange;
use crate::owner;
use crate::snapshot::List;
use crate::walk::{self, FileKind, Stat, Visited, Walk};
use crate::{ContentDigest, Ids, diff};

/// What the encoding begins with; the number changes whenever the encoding does.
const FORMAT: &[u8] = b"wharf content 1\n";

/// Builds the digest of a tree or selection from its entries, which must come sorted by path bytes, each path
/// once. The encoding is length-framed and versioned: no two different lists of entries give the same digest.
#[derive(Debug)]
pub struct TreeHasher {
    hasher: blake3::Hasher,
    /// The encoding of one entry, kept for its capacity.
    encoded: Vec<u8>,
}

/// The bytes of an entry as far as they are content: for a regular file its [`ContentDigest`], for a symlink its
/// target.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// Directory, device, fifo: nothing.
    None,
    /// Digest of a regular file's bytes, from [`hash_file`].
    File(&'a ContentDigest),
    /// A symlink's target.
    Link(&'a OsStr),
    /// The file is a hard link: another name of the file whose first path in the tree is this.
    HardLink(&'a OsStr),
}

impl TreeHasher {
    /// An empty list of entries.
    pub fn new() -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(FORMAT);
        Self { hasher, encoded: Vec::with_capacity(HASHED_BYTES + 512) }
    }

    /// Adds an entry. `owner` replaces uid and gid of the stat where they do not count as they are (`(0, 0)` for a
    /// build context).
    pub fn entry(
        &mut self,
        path: &OsStr,
        stat: &Stat,
        owner: Option<(u32, u32)>,
        xattrs: &[(OsString, Vec<u8>)],
        payload: Payload<'_>,
    ) {
        if self.encoded.len() >= HASHED_BYTES {
            self.hasher.update(&self.encoded);
            self.encoded.clear();
        }
        let out = &mut self.encoded;
        if stat.is_whiteout() {
            // Only that the name is gone counts: the kernel and the layer reader make the mark with other modes.
            out.push(KIND_WHITEOUT);
            frame(out, path.as_bytes());
            return;
        }
        out.push(kind_code(stat.kind));
        frame(out, path.as_bytes());
        let (uid, gid) = owner.unwrap_or((stat.uid, stat.gid));
        // A symlink's mode is never looked at, and differs between file systems.
        let mode = if stat.kind == FileKind::Symlink { 0o777 } else { stat.mode };
        for number in [mode, uid, gid] {
            out.extend(number.to_le_bytes());
        }
        out.push(u8::from(is_opaque(xattrs)));
        let is_device = matches!(stat.kind, FileKind::CharDevice | FileKind::BlockDevice);
        let (major, minor) = if is_device { stat.rdev } else { (0, 0) };
        out.extend(major.to_le_bytes());
        out.extend(minor.to_le_bytes());
        let size = if stat.kind == FileKind::File { stat.size } else { 0 };
        out.extend(size.to_le_bytes());
        let counted = || xattrs.iter().filter(|(name, _)| is_content_xattr(name));
        // The kernel's limit on an attribute list (64 KiB) keeps the count far below u32::MAX.
        out.extend(u32::try_from(counted().count()).unwrap_or(u32::MAX).to_le_bytes());
        for (name, value) in counted() {
            frame(out, name.as_bytes());
            frame(out, value);
        }
        match payload {
            Payload::None => out.push(0),
            Payload::File(digest) => {
                out.push(1);
                frame(out, &digest.0);
            }
            Payload::Link(target) => {
                out.push(2);
                frame(out, target.as_bytes());
            }
            Payload::HardLink(first) => {
                out.push(3);
                frame(out, first.as_bytes());
            }
        }
    }

    /// The digest of what was added.
    pub fn finish(&self) -> ContentDigest {
        self.hasher.clone().update(&self.encoded).finalize().into()
    }
}

impl Default for TreeHasher {
    fn default() -> Self {
        Self::new()
    }
}

/// Digest of a file's bytes, read to its end.
pub fn hash_file(file: &mut File) -> io::Result<ContentDigest> {
    /// One read takes in most files whole; the buffer still fits the second-level cache.
    const BUFFER_BYTES: usize = 1024 * 1024;
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(BUFFER_BYTES, 0);
        let mut hasher = blake3::Hasher::new();
        loop {
            match file.read(buffer) {
                Ok(0) => return Ok(hasher.finalize().into()),
                Ok(len) => hasher.update(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
        }
    })
}

/// Digest of everything below `dir` (its own metadata included under the empty path): paths, type, mode, owner,
/// size, link target, xattrs, device numbers, bytes, and which paths are hard links of one file. Overlay's own
/// whiteouts and opaque marks count as what they mean. Also returns the sum of the regular files' sizes.
///
/// Sockets are left out: no layer can hold one.
pub fn hash_tree(dir: BorrowedFd<'_>, ids: Ids) -> io::Result<(ContentDigest, u64)> {
    hash_changes(dir, ids, &NoChange::default())
}

/// The same of an upper directory, without what is no change.
pub(crate) fn hash_changes(
    dir: BorrowedFd<'_>,
    ids: Ids,
    without: &NoChange,
) -> io::Result<(ContentDigest, u64)> {
    hash(dir, ids, &Hashing { without, known: &HashMap::new() }, None)
}

/// The same, with files of which it is `known` by inode that they have these bytes and no extended attributes. Regular files
/// without such attributes are added to `list`.
pub(crate) fn hash_and_list(
    dir: BorrowedFd<'_>,
    ids: Ids,
    without: &NoChange,
    known: &HashMap<u64, ContentDigest>,
    list: &mut List,
) -> io::Result<(ContentDigest, u64)> {
    hash(dir, ids, &Hashing { without, known }, Some(list))
}

/// What need not be read.
struct Hashing<'a> {
    without: &'a NoChange,
    known: &'a HashMap<u64, ContentDigest>,
}

impl Hashing<'_> {
    fn known(&self, stat: &Stat) -> Option<&ContentDigest> {
        if stat.kind == FileKind::File { self.known.get(&stat.ino) } else { None }
    }
}

fn hash(
    dir: BorrowedFd<'_>,
    ids: Ids,
    hashing: &Hashing<'_>,
    mut list: Option<&mut List>,
) -> io::Result<(ContentDigest, u64)> {
    let mut tree = TreeHasher::new();
    let root = walk::open_dir_at(dir, OsStr::new("."))?;
    let stat = ids.stat_of(root.as_fd())?;
    tree.entry(OsStr::new(""), &stat, None, &walk::xattrs_of(root.as_fd())?, Payload::None);

    let mut links = HardLinks::default();
    let mut size = 0;
    let mut batch = Vec::new();
    let mut batch_bytes = 0;
    let mut batch_dirs = 0;
    for visited in Walk::new(dir, ids)? {
        let visited = visited?;
        let first = links.first_path(&visited);
        let is_change = !visited.entry.stat.is_socket() && !hashing.without.copies.contains(&visited.path);
        if visited.entry.stat.kind == FileKind::File && first.is_none() {
            size += visited.entry.stat.size;
            let is_read = is_change && hashing.known(&visited.entry.stat).is_none();
            batch_bytes += if is_read { visited.entry.stat.size } else { 0 };
        }
        if !is_change {
            continue;
        }
        let same_dir =
            batch.last().is_some_and(|(last, _): &(Visited, _)| Arc::ptr_eq(&last.dir, &visited.dir));
        batch_dirs += usize::from(!same_dir);
        batch.push((visited, first));
        if batch.len() == BATCH_ENTRIES_MAX || batch_dirs == BATCH_DIRS_MAX || batch_bytes >= BATCH_BYTES_MAX
        {
            add_batch(&mut tree, &batch, batch_bytes, hashing, list.as_deref_mut())?;
            batch.clear();
            (batch_bytes, batch_dirs) = (0, 0);
        }
    }
    add_batch(&mut tree, &batch, batch_bytes, hashing, list)?;
    Ok((tree.finish(), size))
}

/// Entries are hashed in batches, each by two threads and then added in order.
const BATCH_ENTRIES_MAX: usize = 1024;
/// An entry keeps its directory open, and a process may often have no more than 1024 descriptors.
const BATCH_DIRS_MAX: usize = 64;
/// More would only let one thread idle for longer at the end of a batch.
const BATCH_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Below this a second thread costs more (about 50 µs) than it saves.
const PARALLEL_BYTES_MIN: u64 = 1024 * 1024;

/// What the inodes with several names were called first.
#[derive(Debug, Default)]
pub(crate) struct HardLinks(HashMap<(u64, u64), OsString>);

impl HardLinks {
    /// The first path of this file when it was visited before under another one. Directories have several links
    /// without being hard links.
    pub(crate) fn first_path(&mut self, visited: &Visited) -> Option<OsString> {
        let stat = &visited.entry.stat;
        // Overlayfs may share one inode among all its whiteouts; each is a mark of its own.
        if stat.nlink < 2 || stat.kind == FileKind::Dir || stat.is_whiteout() {
            return None;
        }
        match self.0.entry((stat.dev, stat.ino)) {
            std::collections::hash_map::Entry::Occupied(first) => Some(first.get().clone()),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(visited.path.clone());
                None
            }
        }
    }
}

/// An entry's content as read by a hashing thread.
enum Content {
    None,
    File(ContentDigest),
    Link(OsString),
}

type ContentRead = io::Result<(walk::Xattrs, Content)>;

fn add_batch(
    tree: &mut TreeHasher,
    batch: &[(Visited, Option<OsString>)],
    bytes: u64,
    hashing: &Hashing<'_>,
    mut list: Option<&mut List>,
) -> io::Result<()> {
    let contents = if bytes < PARALLEL_BYTES_MIN {
        batch.iter().map(|item| read_content(item, hashing)).collect()
    } else {
        read_contents_parallel(batch, hashing)
    };
    for ((visited, first), content) in batch.iter().zip(contents) {
        let (mut xattrs, content) = content?;
        if hashing.without.nothing_hidden.contains(&visited.path) {
            xattrs.retain(|attribute| !is_opaque(std::slice::from_ref(attribute)));
        }
        if let (Content::File(digest), Some(list)) = (&content, &mut list)
            && !xattrs.iter().any(|(name, _)| is_content_xattr(name))
        {
            list.add(&visited.path, &visited.entry.stat, digest);
        }
        if let (Some(_), Some(list)) = (first, &mut list) {
            list.add_name(&visited.path, &visited.entry.stat);
        }
        let payload = match (first, &content) {
            (Some(first), _) => Payload::HardLink(first),
            (None, Content::None) => Payload::None,
            (None, Content::File(digest)) => Payload::File(digest),
            (None, Content::Link(target)) => Payload::Link(target),
        };
        tree.entry(&visited.path, &visited.entry.stat, None, &xattrs, payload);
    }
    Ok(())
}

/// Two threads take turns at the batch's entries; results come back in order.
fn read_contents_parallel(batch: &[(Visited, Option<OsString>)], hashing: &Hashing<'_>) -> Vec<ContentRead> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(item) = batch.get(index) else { return done };
            done.push((index, read_content(item, hashing)));
        }
    };
    let mut done = std::thread::scope(|scope| {
        let other = std::thread::Builder::new().spawn_scoped(scope, work);
        let mut done = work();
        // Where no thread can be had, this one has done everything.
        if let Ok(other) = other {
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, read)| read).collect()
}

fn read_content((visited, first): &(Visited, Option<OsString>), hashing: &Hashing<'_>) -> ContentRead {
    if let (None, Some(digest)) = (first, hashing.known(&visited.entry.stat)) {
        return Ok((Vec::new(), Content::File(*digest)));
    }
    let dir = visited.dir.as_fd();
    let name = &visited.entry.name;
    match visited.entry.stat.kind {
        FileKind::File if first.is_none() => {
            let mut file = walk::open_file_at(dir, name)?;
            let xattrs = walk::xattrs_of(file.as_fd())?;
            Ok((xattrs, Content::File(hash_file(&mut file)?)))
        }
        FileKind::Symlink => Ok((walk::xattrs_at(dir, name)?, Content::Link(walk::readlink_at(dir, name)?))),
        _ => Ok((walk::xattrs_at(dir, name)?, Content::None)),
    }
}

/// Entries are hashed in pieces of about this many bytes: a short one takes as long as several chunks side by side.
const HASHED_BYTES: usize = 16 * 1024;

const KIND_WHITEOUT: u8 = 0;

fn kind_code(kind: FileKind) -> u8 {
    match kind {
        FileKind::File => 1,
        FileKind::Dir => 2,
        FileKind::Symlink => 3,
        FileKind::CharDevice => 4,
        FileKind::BlockDevice => 5,
        FileKind::Fifo => 6,
        FileKind::Socket => 7,
    }
}

fn frame(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

/// Whether a directory hides what lies below it.
pub(crate) fn is_opaque(xattrs: &[(OsString, Vec<u8>)]) -> bool {
    xattrs.iter().any(|(name, value)| name == diff::OPAQUE_XATTR && value == b"y")
}

/// Whether an attribute is content of the file: overlayfs's own book-keeping, wharf's ([`owner`]) and the label that the
/// host's security policy puts on every file are not.
pub fn is_content_xattr(name: &OsStr) -> bool {
    let name = name.as_bytes();
    !name.starts_with(b"trusted.overlay.")
        && !name.starts_with(b"user.overlay.")
        && !name.starts_with(owner::XATTR_PREFIX.as_bytes())
        && name != b"security.selinux"
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::scratch::Scratch;

    fn digest(dir: &Path) -> (ContentDigest, u64) {
        hash_tree(File::open(dir).unwrap().as_fd(), Ids::Kernel).unwrap()
    }

    fn sample(dir: &Path) {
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        std::fs::write(dir.join("sub/file"), "hello").unwrap();
        std::fs::write(dir.join("other"), "there").unwrap();
        symlink("other", dir.join("link")).unwrap();
    }

    /// Builds the sample twice, changes one, and says whether the digest saw it.
    #[track_caller]
    fn check(counts: bool, change: impl FnOnce(&Path)) {
        let scratch = Scratch::new();
        let (a, b) = (scratch.path("a"), scratch.path("b"));
        sample(&a);
        sample(&b);
        assert_eq!(digest(&a), digest(&b));
        change(&b);
        assert_eq!(digest(&a).0 != digest(&b).0, counts);
    }

    #[test]
    fn what_counts() {
        check(true, |dir| std::fs::write(dir.join("other"), "THERE").unwrap());
        check(true, |dir| std::fs::rename(dir.join("other"), dir.join("another")).unwrap());
        check(true, |dir| {
            std::fs::set_permissions(dir.join("other"), std::fs::Permissions::from_mode(0o4755)).unwrap();
        });
        check(true, |dir| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap());
        check(true, |dir| std::os::unix::fs::chown(dir.join("other"), Some(7), Some(8)).unwrap());
        check(true, |dir| {
            std::fs::remove_file(dir.join("link")).unwrap();
            symlink("sub", dir.join("link")).unwrap();
        });
        check(true, |dir| std::fs::create_dir(dir.join("empty")).unwrap());
        check(true, |dir| {
            let file = File::open(dir.join("other")).unwrap();
            rustix::fs::fsetxattr(&file, "user.x", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        });
    }

    #[test]
    fn what_does_not_count() {
        check(false, |dir| {
            let file = File::open(dir.join("other")).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        });
        check(false, |dir| {
            let file = File::open(dir.join("sub")).unwrap();
            let none = rustix::fs::XattrFlags::empty();
            rustix::fs::fsetxattr(&file, "trusted.overlay.origin", b"1", none).unwrap();
        });
        check(false, |dir| {
            let file = File::open(dir.join("sub/file")).unwrap();
            let none = rustix::fs::XattrFlags::empty();
            rustix::fs::fsetxattr(&file, "user.wharf.owner", b"1:1", none).unwrap();
        });
    }

    #[test]
    fn opaque_counts_and_whiteouts_are_alike() {
        check(true, |dir| {
            let file = File::open(dir.join("sub")).unwrap();
            let none = rustix::fs::XattrFlags::empty();
            rustix::fs::fsetxattr(&file, diff::OPAQUE_XATTR, b"y", none).unwrap();
        });
        let whiteout = |dir: &Path, mode: u32| {
            let kind = rustix::fs::FileType::CharacterDevice;
            rustix::fs::mknodat(rustix::fs::CWD, dir.join("w"), kind, mode.into(), 0).unwrap();
        };
        check(true, |dir| whiteout(dir, 0));
        let scratch = Scratch::new();
        for (name, mode) in [("a", 0), ("b", 0o600)] {
            sample(&scratch.path(name));
            whiteout(&scratch.path(name), mode);
        }
        assert_eq!(digest(&scratch.path("a")), digest(&scratch.path("b")));
    }

    #[test]
    fn hard_links_differ_from_copies_and_count_once() {
        let scratch = Scratch::new();
        let (linked, copied) = (scratch.path("linked"), scratch.path("copied"));
        for dir in [&linked, &copied] {
            sample(dir);
        }
        std::fs::hard_link(linked.join("other"), linked.join("z")).unwrap();
        std::fs::copy(copied.join("other"), copied.join("z")).unwrap();
        assert_ne!(digest(&linked).0, digest(&copied).0);
        assert_eq!((digest(&linked).1, digest(&copied).1), (10, 15));
    }

    #[test]
    fn threads_do_not_change_the_digest() {
        let scratch = Scratch::new();
        let dir = scratch.path("");
        for index in 0..300 {
            std::fs::write(dir.join(format!("{index}")), vec![index as u8; 5000]).unwrap();
        }
        let mut tree = TreeHasher::new();
        let fd = File::open(&dir).unwrap();
        tree.entry(OsStr::new(""), &walk::stat_of(fd.as_fd()).unwrap(), None, &[], Payload::None);
        for visited in Walk::new(fd.as_fd(), Ids::Kernel).unwrap() {
            let visited = visited.unwrap();
            let content = hash_file(&mut File::open(dir.join(&visited.path)).unwrap()).unwrap();
            tree.entry(&visited.path, &visited.entry.stat, None, &[], Payload::File(&content));
        }
        assert_eq!(digest(&dir), (tree.finish(), 1_500_000));
    }
}
