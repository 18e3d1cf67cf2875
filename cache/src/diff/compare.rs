//! Snapshot → layer tar: what of an upper directory is a change against what lies below it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::DiffError;
use super::tar_writer::{Sink, TarWriter};
use super::whiteout;
use crate::contenthash::{is_content_xattr, is_opaque};
use crate::walk::{self, FileKind, Stat, Visited, Walk, Xattrs};
use crate::{Chain, SnapshotId, Store};

/// Writes the changes of the topmost snapshot of a chain to a tar.
///
/// Parents come before what they hold. A directory that overlayfs only made to hold a change is written like any other
/// builder writes it, but not when nothing below it turns out to be a change.
pub(super) fn write_changes<S: Sink>(
    store: &Store,
    top: SnapshotId,
    below: Chain,
    tar: TarWriter<S>,
) -> Result<TarWriter<S>, DiffError> {
    let upper = store.open_snapshot(top)?;
    let mut changes = Changes {
        tar,
        lower: Lower::new(store, below, format!("snapshot {top}"), upper.as_fd()),
        unchanged: BTreeMap::new(),
        object: format!("snapshot {top}"),
    };
    changes.root(upper.as_fd())?;
    let walk = Walk::new(upper.as_fd(), store.setup().ids)
        .map_err(|source| changes.cannot_read(OsStr::new(""), source))?;
    for visited in walk {
        let visited = visited.map_err(|source| changes.cannot_read(OsStr::new(""), source))?;
        changes.visit(&visited)?;
    }
    Ok(changes.tar)
}

struct Changes<'a, S> {
    tar: TarWriter<S>,
    lower: Lower<'a>,
    /// Directories that are as they were below, by path: written when something in them is.
    unchanged: BTreeMap<OsString, (Stat, Xattrs)>,
    object: String,
}

impl<S: Sink> Changes<'_, S> {
    /// The root itself is written when its metadata changed, or when it hides what lies below.
    fn root(&mut self, upper: BorrowedFd<'_>) -> Result<(), DiffError> {
        let failed = |source| self.cannot_read(OsStr::new(""), source);
        let ids = self.lower.store.setup().ids;
        let stat = ids.stat_of(upper).map_err(failed)?;
        let xattrs = walk::xattrs_of(upper).map_err(failed)?;
        let changed = match self.lower.chain.0.last() {
            // A merged root looks like its topmost layer's, so no mount is needed to know how it looked.
            Some(top) => {
                let lower = self.lower.store.open_snapshot(*top)?;
                let below = ids.stat_of(lower.as_fd()).map_err(failed)?;
                let below_xattrs = walk::xattrs_of(lower.as_fd()).map_err(failed)?;
                !same_owner_and_mode(&stat, &below) || !same_xattrs(&xattrs, &below_xattrs)
            }
            None => stat.mode != 0o755 || (stat.uid, stat.gid) != (0, 0) || !same_xattrs(&xattrs, &[]),
        };
        if changed {
            self.tar.dir(OsStr::new(""), &stat, &xattrs)?;
        }
        if is_opaque(&xattrs) {
            self.tar.marker(OsStr::from_bytes(whiteout::OPAQUE), &stat)?;
            self.lower.hide_all();
        }
        Ok(())
    }

    fn visit(&mut self, visited: &Visited) -> Result<(), DiffError> {
        let Visited { path, entry, .. } = visited;
        if entry.stat.is_socket() {
            return Ok(());
        }
        if entry.name.as_bytes().starts_with(whiteout::PREFIX) {
            return Err(DiffError::Entry {
                object: self.object.clone(),
                path: path.display().to_string(),
                reason: "a layer cannot hold names that begin with `.wh.`, they mark deleted files"
                    .to_owned(),
            });
        }
        if entry.stat.is_whiteout() {
            self.write_parents(path)?;
            return self.tar.marker(&beside(path, &[whiteout::PREFIX, entry.name.as_bytes()]), &entry.stat);
        }
        if entry.stat.kind == FileKind::Dir {
            return self.visit_dir(visited);
        }
        if self.lower.has_copy_of(visited)? {
            return Ok(());
        }
        self.write_parents(path)?;
        self.tar.visited(visited)
    }

    fn visit_dir(&mut self, visited: &Visited) -> Result<(), DiffError> {
        let Visited { path, dir, entry, .. } = visited;
        let stat = entry.stat;
        let xattrs = walk::xattrs_at(dir.as_fd(), &entry.name).map_err(|e| self.cannot_read(path, e))?;
        if is_opaque(&xattrs) {
            // Overlayfs marks new directories too, where there was nothing or a file that the directory replaces.
            let hides = self.lower.has_dir(visited)?;
            self.write_parents(path)?;
            self.tar.dir(path, &stat, &xattrs)?;
            self.lower.hide(path);
            if !hides {
                return Ok(());
            }
            let mut marker = path.clone();
            marker.push("/");
            marker.push(OsStr::from_bytes(whiteout::OPAQUE));
            return self.tar.marker(&marker, &stat);
        }
        if self.lower.has_same_dir(visited, &xattrs)? {
            self.unchanged.insert(path.clone(), (stat, xattrs));
            return Ok(());
        }
        self.write_parents(path)?;
        self.tar.dir(path, &stat, &xattrs)
    }

    /// Writes the directories above `path` that were held back, the topmost first.
    fn write_parents(&mut self, path: &OsStr) -> Result<(), DiffError> {
        if self.unchanged.is_empty() {
            return Ok(());
        }
        // A directory is written after all above it, so nothing is left to do above one that was.
        let mut held_back = Vec::new();
        let mut below = path;
        while let Some(parent) = parent_of(below) {
            let Some((stat, xattrs)) = self.unchanged.remove(parent) else { break };
            held_back.push((parent, stat, xattrs));
            below = parent;
        }
        held_back.iter().rev().try_for_each(|(parent, stat, xattrs)| self.tar.dir(parent, stat, xattrs))
    }

    fn cannot_read(&self, path: &OsStr, source: io::Error) -> DiffError {
        cannot_read(&self.object, path, source)
    }
}

/// The file system below a snapshot, looked into along the walk of the snapshot. Opened at the first look: a diff that is
/// empty needs none.
pub(crate) struct Lower<'a> {
    store: &'a Store,
    chain: Chain,
    /// What is compared, for messages.
    object: String,
    upper: BorrowedFd<'a>,
    /// How many names the files of the upper directory have there, of those with several links.
    names: Option<HashMap<(u64, u64), u32>>,
    /// The directories from the root to the one looked into last, with their paths: in each of the layers, the topmost
    /// first, as far as they are seen; empty where there is none.
    dirs: Vec<(OsString, Vec<OwnedFd>)>,
    /// Directories of the snapshot that hide what is below them.
    opaque: HashSet<OsString>,
}

impl<'a> Lower<'a> {
    /// What lies below `upper`.
    pub(crate) fn new(store: &'a Store, chain: Chain, object: String, upper: BorrowedFd<'a>) -> Self {
        Self { store, chain, object, upper, names: None, dirs: Vec::new(), opaque: HashSet::new() }
    }

    /// From now on there is nothing below the directory `path`.
    pub(crate) fn hide(&mut self, path: &OsStr) {
        self.opaque.insert(path.to_owned());
    }

    /// Whether there is a directory at the same path.
    pub(super) fn has_dir(&mut self, visited: &Visited) -> Result<bool, DiffError> {
        Ok(self.find(visited)?.is_some_and(|(_, below)| below.kind == FileKind::Dir))
    }

    /// Whether the directory at the same path is no other one, but for what is in it.
    pub(super) fn has_same_dir(&mut self, visited: &Visited, xattrs: &Xattrs) -> Result<bool, DiffError> {
        let (path, name, stat) = (&visited.path, &visited.entry.name, &visited.entry.stat);
        let object = self.object.clone();
        let Some((lower, below)) = self.find(visited)? else { return Ok(false) };
        if below.kind != FileKind::Dir || !same_owner_and_mode(stat, &below) {
            return Ok(false);
        }
        let below_xattrs = walk::xattrs_at(lower, name).map_err(|e| cannot_read(&object, path, e))?;
        Ok(same_xattrs(xattrs, &below_xattrs))
    }

    /// Whether the entry is a mere copy of what lies below, as overlayfs makes when a file is opened for writing and
    /// then left alone. Equal size and times prove nothing (`touch -r`), so the bytes are compared, too. A file with
    /// several names always counts: one of the names may be new.
    pub(crate) fn has_copy_of(&mut self, visited: &Visited) -> Result<bool, DiffError> {
        let (path, name, stat) = (&visited.path, &visited.entry.name, &visited.entry.stat);
        if matches!(stat.kind, FileKind::Dir | FileKind::Socket) {
            return Ok(false);
        }
        let object = self.object.clone();
        let Some((_, below)) = self.find(visited)? else { return Ok(false) };
        if stat.kind != below.kind
            || !same_owner_and_mode(stat, &below)
            || (stat.size, stat.mtime, stat.rdev) != (below.size, below.mtime, below.rdev)
        {
            return Ok(false);
        }
        if self.has_names(stat).map_err(|source| cannot_read(&object, path, source))? {
            return Ok(false);
        }
        let Some((lower, _)) = self.find(visited)? else { return Ok(false) };
        let upper = visited.dir.as_fd();
        let same = || -> io::Result<bool> {
            if !same_xattrs(&walk::xattrs_at(upper, name)?, &walk::xattrs_at(lower, name)?) {
                return Ok(false);
            }
            match stat.kind {
                FileKind::File => {
                    same_bytes(walk::open_file_at(upper, name)?, walk::open_file_at(lower, name)?)
                }
                FileKind::Symlink => Ok(walk::readlink_at(upper, name)? == walk::readlink_at(lower, name)?),
                _ => Ok(true),
            }
        };
        same().map_err(|source| cannot_read(&object, path, source))
    }

    /// Whether a file of the upper directory has several names there. Its links tell less: views and other processes may
    /// have names of it, too.
    fn has_names(&mut self, stat: &Stat) -> io::Result<bool> {
        if stat.nlink < 2 {
            return Ok(false);
        }
        if self.names.is_none() {
            let mut names = HashMap::new();
            for visited in Walk::new(self.upper, self.store.setup().ids)? {
                let stat = visited?.entry.stat;
                if stat.nlink > 1 && stat.kind != FileKind::Dir {
                    *names.entry((stat.dev, stat.ino)).or_insert(0) += 1;
                }
            }
            self.names = Some(names);
        }
        let names = self.names.as_ref().and_then(|names| names.get(&(stat.dev, stat.ino)));
        Ok(names.is_some_and(|names| *names > 1))
    }

    /// From now on there is nothing below.
    fn hide_all(&mut self) {
        self.chain = Chain::default();
        self.dirs.clear();
    }

    /// The entry at the same path, with the directory that holds it.
    pub(super) fn find(&mut self, visited: &Visited) -> Result<Option<(BorrowedFd<'_>, Stat)>, DiffError> {
        if self.chain.0.is_empty() {
            return Ok(None);
        }
        if self.dirs.is_empty() {
            let layers = self.store.snapshotter().layers(self.store, &self.chain)?;
            self.dirs.push((OsString::new(), layers));
        }
        let failed = |source| cannot_read("the layers below", &visited.path, source);
        // `dirs[n]` is where the first n components lead; what is open of this path stays, the rest is opened. Mostly
        // that is all of it or one directory less: looked for from the end, it costs nothing to be deep down.
        let mut missing = Vec::new();
        let mut dir = parent_of(&visited.path);
        for depth in (1..=visited.depth).rev() {
            let Some(path) = dir else { break };
            if self.dirs.get(depth).is_some_and(|(open, _)| open == path) {
                break;
            }
            missing.push(path);
            dir = parent_of(path);
        }
        self.dirs.truncate(visited.depth + 1 - missing.len());
        for dir in missing.into_iter().rev() {
            let name =
                OsStr::from_bytes(dir.as_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default());
            let opened = match self.dirs.last() {
                Some((_, parents)) if !self.opaque.contains(dir) => {
                    open_merged(parents, name).map_err(failed)?
                }
                _ => Vec::new(),
            };
            self.dirs.push((dir.to_owned(), opened));
        }
        let Some((_, layers)) = self.dirs.get(visited.depth) else { return Ok(None) };
        let ids = self.store.setup().ids;
        for dir in layers {
            if let Some(stat) =
                absent_as_none(ids.stat_at(dir.as_fd(), &visited.entry.name)).map_err(failed)?
            {
                return Ok((!stat.is_whiteout()).then_some((dir.as_fd(), stat)));
            }
        }
        Ok(None)
    }
}

/// The directories `name` of `parents`, the topmost first, as far as one is seen below the other.
fn open_merged(parents: &[OwnedFd], name: &OsStr) -> io::Result<Vec<OwnedFd>> {
    let mut merged = Vec::new();
    for (number, parent) in parents.iter().enumerate() {
        let dir = match walk::open_dir_at(parent.as_fd(), name) {
            Ok(dir) => dir,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT) => continue,
                // A file, or the mark of what is gone.
                Some(Errno::NOTDIR | Errno::LOOP) => break,
                _ => return Err(error),
            },
        };
        let is_last = number + 1 == parents.len();
        let closes = !is_last && is_opaque(&walk::xattrs_of(dir.as_fd())?);
        merged.push(dir);
        if closes {
            break;
        }
    }
    Ok(merged)
}

fn absent_as_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) => match Errno::from_io_error(&error) {
            // A file or symlink where a directory was looked for is an absent directory.
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            _ => Err(error),
        },
    }
}

fn same_owner_and_mode(a: &Stat, b: &Stat) -> bool {
    (a.mode, a.uid, a.gid) == (b.mode, b.uid, b.gid)
}

fn same_xattrs(a: &[(OsString, Vec<u8>)], b: &[(OsString, Vec<u8>)]) -> bool {
    let counted = |(name, _): &&(OsString, Vec<u8>)| is_content_xattr(name);
    a.iter().filter(counted).eq(b.iter().filter(counted))
}

fn same_bytes(mut a: File, mut b: File) -> io::Result<bool> {
    const BUFFER_BYTES: u64 = 256 * 1024;
    let (mut a_bytes, mut b_bytes) = (Vec::new(), Vec::new());
    loop {
        a_bytes.clear();
        b_bytes.clear();
        (&mut a).take(BUFFER_BYTES).read_to_end(&mut a_bytes)?;
        (&mut b).take(BUFFER_BYTES).read_to_end(&mut b_bytes)?;
        if a_bytes != b_bytes {
            return Ok(false);
        }
        if a_bytes.is_empty() {
            return Ok(true);
        }
    }
}

/// The directory a path is in; `None` for one in the root.
pub(super) fn parent_of(path: &OsStr) -> Option<&OsStr> {
    let slash = path.as_bytes().iter().rposition(|&byte| byte == b'/')?;
    Some(OsStr::from_bytes(&path.as_bytes()[..slash]))
}

/// The path with its last component replaced by the joined `name`.
fn beside(path: &OsStr, name: &[&[u8]]) -> OsString {
    let bytes = path.as_bytes();
    let parent = bytes.iter().rposition(|&byte| byte == b'/').map_or(&b""[..], |slash| &bytes[..=slash]);
    let mut sibling = OsStr::from_bytes(parent).to_owned();
    for part in name {
        sibling.push(OsStr::from_bytes(part));
    }
    sibling
}

pub(super) fn cannot_read(object: &str, path: &OsStr, source: io::Error) -> DiffError {
    DiffError::Read { object: format!("`{}` of {object}", path.display()), source }
}
