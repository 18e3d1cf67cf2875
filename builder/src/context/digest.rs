//! The content digest of what a COPY or ADD reads: the part of its key that stands for files.
//!
//! Hashed per matched source: for a file the last component of its name and the file, for a directory everything in it
//! that is copied, by paths relative to it. So renaming a source directory, or changing a file that is not copied,
//! changes nothing.
//!
//! Reading a directory's files takes long enough for them to change meanwhile. So beside the digest there are *stamps*:
//! what the kernel says of every entry, its inode and the time of its last change. Equal stamps before a copy and after
//! it prove that what was hashed is what was copied, without reading anything twice.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use wharf_cache::contenthash::{Payload, TreeHasher, hash_file, is_content_xattr};
use wharf_cache::state::FileStamp;
use wharf_cache::walk::{self as cwalk, FileKind, Stat};
use wharf_cache::{ContentDigest, Store, StoreError};
use wharf_solver::llb::CopyAction;

use super::Tree;
use super::files::Files;
use super::resolve;
use super::select::{Patterns, SelectError, Selected};
use super::walk::{Visit, walk};

/// A file whose change time is this close to now may change again without its stamp showing it: its digest is not
/// remembered. Most file systems stamp in steps of a few milliseconds.
const STAMP_GRANULARITY: Duration = Duration::from_millis(20);

/// The same for times of whole seconds: there are file systems that know no others, or only every second one.
const STAMP_GRANULARITY_OF_SECONDS: Duration = Duration::from_secs(2);

/// Entries whose digests are looked up at once, by another thread than the one that walks.
const LOOK_UP_ITEMS: usize = 4096;

/// Stamps are hashed in pieces of about this many bytes: a short one takes as long as several chunks side by side.
const HASHED_BYTES: usize = 16 * 1024;

/// Files hashed on the calling thread alone; more are worth a second one.
const HASH_INLINE_MAX: usize = 32;

/// Why a selection has no digest.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// The source names nothing readable.
    #[error("{0}")]
    Select(#[from] SelectError),
    /// The file system refused.
    #[error("cannot read \"/{}\"", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The stat cache could not be used.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// How the files of a tree count.
#[derive(Debug, Clone, Copy)]
pub enum TreeKind<'a> {
    /// A directory of the host: owners count as root, file digests are remembered by stamp in this store.
    Local(&'a Store),
    /// A file system wharf made: owners count.
    Snapshot,
}

/// What was read, by content and by stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Content digest.
    pub content: ContentDigest,
    /// Digest of the stamps; `None` when something had just changed, and could have changed again unnoticed.
    pub stamps: Option<ContentDigest>,
}

/// What `copy` reads from `tree`; it is added to `files`.
pub fn content_digest(
    tree: &Tree<'_>,
    kind: TreeKind<'_>,
    copy: &CopyAction,
    files: &mut Files,
) -> Result<Seen, DigestError> {
    let patterns = Patterns::of(copy)?;
    let mut stamps = Stamps::new();
    let mut digest = blake3::Hasher::new();
    digest.update(b"wharf copy 2\0");
    for selected in tree.select(copy)? {
        if patterns.exclude_named(&selected) {
            continue;
        }
        let name: &OsStr = match selected.stat.kind {
            FileKind::Dir => OsStr::new(""),
            _ => selected.named.file_name().unwrap_or_default(),
        };
        digest.update(&(name.len() as u64).to_le_bytes());
        digest.update(name.as_bytes());
        let mut items = read_items(tree, kind, &selected, &patterns, &mut stamps)?;
        items.sort_unstable_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
        let (content, of_files) = hash_items(tree, kind, &selected, &items)?;
        digest.update(&content.0);
        files.add(selected, items, of_files);
    }
    Ok(Seen { content: digest.finalize().into(), stamps: stamps.finish() })
}

/// The stamps of what `copy` reads from `tree`, as [`Seen`] has them.
pub fn stamps(tree: &Tree<'_>, copy: &CopyAction) -> Result<Option<ContentDigest>, DigestError> {
    let patterns = Patterns::of(copy)?;
    let mut stamps = Stamps::new();
    for selected in tree.select(copy)? {
        if !patterns.exclude_named(&selected) {
            visit(tree, &selected, &patterns, &mut |seen| {
                stamps.add(&seen);
                Ok(())
            })?;
        }
    }
    Ok(stamps.finish())
}

/// All that a copy takes of a selected thing. What is remembered of the files is looked up while the walk goes on.
fn read_items(
    tree: &Tree<'_>,
    kind: TreeKind<'_>,
    selected: &Selected,
    patterns: &Patterns,
    stamps: &mut Stamps,
) -> Result<Vec<Item>, DigestError> {
    let mut items: Vec<Item> = Vec::new();
    let mut known = Vec::new();
    let stamps_of = |items: &[Item]| items.iter().map(|item| stamp(&item.stat)).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let mut asked = 0;
        let mut lookups = Vec::new();
        visit(tree, selected, patterns, &mut |seen| {
            stamps.add(&seen);
            items.push(item(&seen)?);
            if let TreeKind::Local(store) = kind
                && items.len() - asked == LOOK_UP_ITEMS
            {
                let batch = stamps_of(&items[asked..]);
                asked = items.len();
                lookups.push(scope.spawn(move || store.stat_cache_get(&batch)));
            }
            Ok(())
        })?;
        for lookup in lookups {
            known.extend(lookup.join().expect("a look-up does not panic")?);
        }
        if let TreeKind::Local(store) = kind {
            known.extend(store.stat_cache_get(&stamps_of(&items[asked..]))?);
        }
        Ok::<_, DigestError>(())
    })?;
    for (item, known) in items.iter_mut().zip(known) {
        item.known = known;
    }
    Ok(items)
}

/// Shows all that a copy takes of a selected thing; the thing itself comes first, under the empty path.
fn visit(
    tree: &Tree<'_>,
    selected: &Selected,
    patterns: &Patterns,
    show: &mut dyn FnMut(Visit<'_>) -> io::Result<()>,
) -> Result<(), DigestError> {
    let io = |source| DigestError::Io { path: selected.path.clone(), source };
    let parent = resolve::dir(tree.root, resolve::parent(&selected.path)).map_err(io)?;
    let name = selected.path.file_name().unwrap_or(OsStr::new("."));
    show(Visit { parent: parent.as_fd(), name, path: Path::new(""), stat: &selected.stat }).map_err(io)?;
    if selected.stat.kind != FileKind::Dir {
        return Ok(());
    }
    let dir = tree.open_dir(&selected.path).map_err(io)?;
    let mut each = |seen: Visit<'_>| show(seen).map(ControlFlow::Continue);
    walk(dir.as_fd(), &patterns.filters(tree, &selected.path), &mut each).map_err(io)
}

/// Stamps being put together.
struct Stamps {
    hasher: blake3::Hasher,
    /// What is not in the hasher yet.
    encoded: Vec<u8>,
    settled: Settled,
    are_settled: bool,
}

/// Tells which times of files can no longer be those of two different changes.
struct Settled {
    before: (i64, u32),
    seconds_before: (i64, u32),
}

impl Settled {
    /// For files that are looked at, or read, from now on.
    fn now() -> Self {
        let now = SystemTime::now();
        let before = |granularity| {
            let time = now.checked_sub(granularity);
            let time = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
            let time = time.unwrap_or_default();
            (i64::try_from(time.as_secs()).unwrap_or(i64::MAX), time.subsec_nanos())
        };
        Self { before: before(STAMP_GRANULARITY), seconds_before: before(STAMP_GRANULARITY_OF_SECONDS) }
    }

    fn is(&self, time: (i64, u32)) -> bool {
        time < if time.1 == 0 { self.seconds_before } else { self.before }
    }
}

impl Stamps {
    fn new() -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            encoded: Vec::new(),
            settled: Settled::now(),
            are_settled: true,
        }
    }

    fn add(&mut self, seen: &Visit<'_>) {
        let Stat { dev, ino, size, ctime, .. } = *seen.stat;
        self.are_settled &= self.settled.is(ctime);
        let path = seen.path.as_os_str().as_bytes();
        let out = &mut self.encoded;
        out.extend((path.len() as u64).to_le_bytes());
        out.extend(path);
        for number in [dev, ino, size] {
            out.extend(number.to_le_bytes());
        }
        out.extend(ctime.0.to_le_bytes());
        out.extend(ctime.1.to_le_bytes());
        if out.len() >= HASHED_BYTES {
            self.hasher.update(out);
            out.clear();
        }
    }

    fn finish(&self) -> Option<ContentDigest> {
        self.are_settled.then(|| self.hasher.clone().update(&self.encoded).finalize().into())
    }
}

/// An entry of a selection; its path is relative to the selected directory, empty for the selected thing itself.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) path: PathBuf,
    pub(super) stat: Stat,
    pub(super) link: Option<OsString>,
    pub(super) xattrs: Vec<(OsString, Vec<u8>)>,
    /// What the stat cache knows of a file.
    known: Option<ContentDigest>,
}

fn item(seen: &Visit<'_>) -> io::Result<Item> {
    let Visit { parent, name, path, stat } = *seen;
    let link = (stat.kind == FileKind::Symlink).then(|| cwalk::readlink_at(parent, name)).transpose()?;
    // A file's attributes are looked at together with its bytes, which the stat cache spares.
    let xattrs = if stat.kind == FileKind::Dir { cwalk::xattrs_at(parent, name)? } else { Vec::new() };
    Ok(Item { path: path.to_owned(), stat: *stat, link, xattrs, known: None })
}

/// The digest of a selected thing, and those of the files in it that are not further names of others.
fn hash_items(
    tree: &Tree<'_>,
    kind: TreeKind<'_>,
    selected: &Selected,
    items: &[Item],
) -> Result<(ContentDigest, Vec<ContentDigest>), DigestError> {
    let first_names = first_names(items);
    let is_read = |item: &&Item| item.stat.kind == FileKind::File && !is_further_name(item, &first_names);
    let files: Vec<&Item> = items.iter().filter(is_read).collect();
    let digests = match kind {
        TreeKind::Local(store) => remembered_digests(store, tree, selected, &files)?,
        TreeKind::Snapshot => hash_files(tree, selected, &files)?,
    };
    let owner = matches!(kind, TreeKind::Local(_)).then_some((0, 0));
    let mut hasher = TreeHasher::new();
    let mut of_files = digests.iter();
    for item in items {
        let payload = match (item.stat.kind, &item.link) {
            (FileKind::File, _) if is_further_name(item, &first_names) => {
                Payload::HardLink(first_names[&(item.stat.dev, item.stat.ino)].as_os_str())
            }
            (FileKind::File, _) => Payload::File(of_files.next().expect("one digest for each file")),
            (_, Some(target)) => Payload::Link(target),
            _ => Payload::None,
        };
        hasher.entry(item.path.as_os_str(), &item.stat, owner, &item.xattrs, payload);
    }
    Ok((hasher.finish(), digests))
}

/// The first names of the files that may have several: they stay names of one file in the copy.
pub(super) fn first_names(items: &[Item]) -> HashMap<(u64, u64), &Path> {
    let mut first = HashMap::new();
    for item in items.iter().filter(|item| item.stat.kind == FileKind::File && item.stat.nlink > 1) {
        first.entry((item.stat.dev, item.stat.ino)).or_insert(&*item.path);
    }
    first
}

pub(super) fn is_further_name(item: &Item, first_names: &HashMap<(u64, u64), &Path>) -> bool {
    item.stat.nlink > 1
        && first_names.get(&(item.stat.dev, item.stat.ino)).is_some_and(|first| *first != item.path)
}

/// Digests of `files` from the stat cache, the others hashed and remembered.
fn remembered_digests(
    store: &Store,
    tree: &Tree<'_>,
    selected: &Selected,
    files: &[&Item],
) -> Result<Vec<ContentDigest>, DigestError> {
    let unknown: Vec<&Item> = files.iter().filter(|file| file.known.is_none()).copied().collect();
    let settled = Settled::now();
    let hashed = hash_files(tree, selected, &unknown)?;
    let fresh: Vec<(FileStamp, ContentDigest)> = unknown
        .iter()
        .zip(&hashed)
        .filter(|(file, _)| settled.is(file.stat.ctime) && settled.is(file.stat.mtime))
        .map(|(file, digest)| (stamp(&file.stat), *digest))
        .collect();
    if !fresh.is_empty() {
        store.stat_cache_put(&fresh)?;
    }
    let mut hashed = hashed.into_iter();
    Ok(files
        .iter()
        .map(|file| file.known.unwrap_or_else(|| hashed.next().expect("one digest for each unknown file")))
        .collect())
}

pub(super) fn stamp(stat: &Stat) -> FileStamp {
    let ns =
        |(seconds, nanoseconds): (i64, u32)| seconds.saturating_mul(1_000_000_000) + i64::from(nanoseconds);
    FileStamp {
        dev: stat.dev,
        ino: stat.ino,
        size: stat.size,
        mtime_ns: ns(stat.mtime),
        ctime_ns: ns(stat.ctime),
    }
}

/// Hashes files, on all processors when there are many.
fn hash_files(
    tree: &Tree<'_>,
    selected: &Selected,
    files: &[&Item],
) -> Result<Vec<ContentDigest>, DigestError> {
    let hash = |file: &Item| {
        hash_one(tree, selected, file)
            .map_err(|source| DigestError::Io { path: selected.path.join(&file.path), source })
    };
    if files.len() <= HASH_INLINE_MAX {
        return files.iter().map(|file| hash(file)).collect();
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![None; files.len()]);
    let work = || -> Result<(), DigestError> {
        loop {
            let from = next.fetch_add(HASH_INLINE_MAX, Ordering::Relaxed);
            let Some(batch) = files.get(from..files.len().min(from + HASH_INLINE_MAX)) else { return Ok(()) };
            if batch.is_empty() {
                return Ok(());
            }
            let digests = batch.iter().map(|file| hash(file)).collect::<Result<Vec<_>, _>>()?;
            let mut results = results.lock().expect("no thread panics while it holds the lock");
            for (offset, digest) in digests.into_iter().enumerate() {
                results[from + offset] = Some(digest);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("hashing does not panic"))
    })?;
    let results = results.into_inner().expect("no thread panicked");
    Ok(results.into_iter().map(|digest| digest.expect("every file was hashed")).collect())
}

/// Digest of a file's bytes and extended attributes.
fn hash_one(tree: &Tree<'_>, selected: &Selected, file: &Item) -> io::Result<ContentDigest> {
    let path = selected.path.join(&file.path);
    let mut opened = resolve::open_file(tree.root, path.components().as_path())?;
    let bytes = hash_file(&mut opened)?;
    let mut xattrs = cwalk::xattrs_of(opened.as_fd())?;
    xattrs.retain(|(name, _)| is_content_xattr(name));
    if xattrs.is_empty() {
        return Ok(bytes);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes.0);
    for (key, value) in &xattrs {
        hasher.update(&(key.len() as u64).to_le_bytes()).update(key.as_bytes());
        hasher.update(&(value.len() as u64).to_le_bytes()).update(value);
    }
    Ok(hasher.finalize().into())
}
