//! The content digest of what a COPY or ADD reads: the part of its key that stands for files.
//!
//! Hashed per matched source: for a file the last component of its name and the file, for a directory everything in it
//! that is copied, by paths relative to it. So renaming a source directory, or changing a file that is not copied,
//! changes nothing.

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use wharf_cache::contenthash::{Payload, TreeHasher, hash_file};
use wharf_cache::state::FileStamp;
use wharf_cache::walk::{self as cwalk, FileKind, Stat};
use wharf_cache::{ContentDigest, Store, StoreError};
use wharf_frontend::dockerignore::Matcher;
use wharf_solver::llb::CopyAction;

use super::Tree;
use super::select::{SelectError, Selected};
use super::walk::{Filter, Visit, walk};

/// A file whose change time is this close to now may change again without its stamp showing it: its digest is not
/// remembered. Some file systems stamp in steps of a few milliseconds.
const STAMP_GRANULARITY: Duration = Duration::from_millis(20);

/// Files hashed on the calling thread alone; more are worth a second one.
const HASH_INLINE_MAX: usize = 32;

/// Why a selection has no digest.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// The source names nothing readable.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// `--exclude` is not a pattern.
    #[error("bad exclude pattern")]
    Pattern(#[from] wharf_frontend::dockerignore::PatternError),
    /// The file system refused.
    #[error("cannot read \"/{}\"", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The stat cache could not be used.
    #[error(transparent)]
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

/// Content digest of what `copy` reads from `tree`.
pub fn content_digest(
    tree: &Tree<'_>,
    kind: TreeKind<'_>,
    copy: &CopyAction,
) -> Result<ContentDigest, DigestError> {
    let exclude = Matcher::new(&copy.exclude)?;
    let mut digest = blake3::Hasher::new();
    digest.update(b"wharf copy 1\0");
    for selected in tree.select(copy)? {
        if selected.is_excluded(&exclude) {
            continue;
        }
        let name: &OsStr = match selected.stat.kind {
            FileKind::Dir => OsStr::new(""),
            _ => selected.named.file_name().unwrap_or_default(),
        };
        digest.update(&(name.len() as u64).to_le_bytes());
        digest.update(name.as_bytes());
        if copy.parents {
            let named = selected.named.as_os_str().as_bytes();
            digest.update(&(named.len() as u64).to_le_bytes());
            digest.update(named);
        }
        let items = collect(tree, &selected, &exclude)?;
        digest.update(&hash_items(tree, kind, &selected, &items)?.0);
    }
    Ok(digest.finalize().into())
}

/// An entry of a selection; its path is relative to the selected directory, empty for the selected thing itself.
struct Item {
    path: PathBuf,
    stat: Stat,
    link: Option<OsString>,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

fn collect(tree: &Tree<'_>, selected: &Selected, exclude: &Matcher) -> Result<Vec<Item>, DigestError> {
    let io = |source| DigestError::Io { path: selected.path.clone(), source };
    let parent = tree.open_dir(selected.path.parent().unwrap_or(Path::new(""))).map_err(io)?;
    let name = selected.path.file_name().unwrap_or(OsStr::new("."));
    let mut items = vec![item(parent.as_fd(), name, PathBuf::new(), &selected.stat).map_err(io)?];
    if selected.stat.kind == FileKind::Dir {
        let dir = tree.open_dir(&selected.path).map_err(io)?;
        let filters = Filter::of_copy(exclude, tree, &selected.path);
        let mut visit = |seen: Visit<'_>| {
            items.push(item(seen.parent, seen.name, seen.path.to_owned(), seen.stat)?);
            Ok(ControlFlow::Continue(()))
        };
        walk(dir.as_fd(), &filters, &mut visit).map_err(io)?;
        items.sort_unstable_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    }
    Ok(items)
}

fn item(parent: BorrowedFd<'_>, name: &OsStr, path: PathBuf, stat: &Stat) -> io::Result<Item> {
    let link = (stat.kind == FileKind::Symlink).then(|| cwalk::readlink_at(parent, name)).transpose()?;
    // A file's attributes are looked at together with its bytes, which the stat cache spares.
    let xattrs = if stat.kind == FileKind::Dir { cwalk::xattrs_at(parent, name)? } else { Vec::new() };
    Ok(Item { path, stat: *stat, link, xattrs })
}

fn hash_items(
    tree: &Tree<'_>,
    kind: TreeKind<'_>,
    selected: &Selected,
    items: &[Item],
) -> Result<ContentDigest, DigestError> {
    let files: Vec<&Item> = items.iter().filter(|item| item.stat.kind == FileKind::File).collect();
    let digests = match kind {
        TreeKind::Local(store) => remembered_digests(store, tree, selected, &files)?,
        TreeKind::Snapshot => hash_files(tree, selected, &files)?,
    };
    let owner = matches!(kind, TreeKind::Local(_)).then_some((0, 0));
    let mut hasher = TreeHasher::new();
    let mut digests = digests.iter();
    for item in items {
        let payload = match (item.stat.kind, &item.link) {
            (FileKind::File, _) => Payload::File(digests.next().expect("one digest for each file")),
            (_, Some(target)) => Payload::Link(target),
            _ => Payload::None,
        };
        hasher.entry(item.path.as_os_str(), &item.stat, owner, &item.xattrs, payload);
    }
    Ok(hasher.finish())
}

/// Digests of `files` from the stat cache, the others hashed and remembered.
fn remembered_digests(
    store: &Store,
    tree: &Tree<'_>,
    selected: &Selected,
    files: &[&Item],
) -> Result<Vec<ContentDigest>, DigestError> {
    let stamps: Vec<FileStamp> = files.iter().map(|file| stamp(&file.stat)).collect();
    let known = store.stat_cache_get(&stamps)?;
    let missing: Vec<usize> = (0..files.len()).filter(|index| known[*index].is_none()).collect();
    let unknown: Vec<&Item> = missing.iter().map(|index| files[*index]).collect();
    let started = SystemTime::now();
    let hashed = hash_files(tree, selected, &unknown)?;
    let settled_ns = started
        .checked_sub(STAMP_GRANULARITY)
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
    let fresh: Vec<(FileStamp, ContentDigest)> = missing
        .iter()
        .zip(&hashed)
        .map(|(index, digest)| (stamps[*index], *digest))
        .filter(|(stamp, _)| stamp.ctime_ns < settled_ns && stamp.mtime_ns < settled_ns)
        .collect();
    if !fresh.is_empty() {
        store.stat_cache_put(&fresh)?;
    }
    let mut hashed = hashed.into_iter();
    Ok(known
        .into_iter()
        .map(|digest| digest.unwrap_or_else(|| hashed.next().expect("one digest for each unknown file")))
        .collect())
}

fn stamp(stat: &Stat) -> FileStamp {
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
    let path = path.components().as_path();
    let parent = tree.open_dir(path.parent().unwrap_or(Path::new("")))?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let bytes = hash_file(&mut cwalk::open_file_at(parent.as_fd(), name)?)?;
    let xattrs = cwalk::xattrs_at(parent.as_fd(), name)?;
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
