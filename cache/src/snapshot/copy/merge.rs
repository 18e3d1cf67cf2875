//! What a stack of snapshots is when it is looked at as one file system: the rules of overlayfs, by paths.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::super::{SnapshotError, SnapshotId};
use super::writer::{Writer, split};
use crate::contenthash::{HardLinks, is_opaque};
use crate::walk::{self, FileKind, Visited, Walk};

/// How the files come into the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// As copies.
    Copied,
    /// As further names of the same files.
    Shared,
}

/// Writes into the empty directory `root` what `layers` give, the topmost first. Each is opened when it is its turn.
pub(super) fn merge(
    layers: &[SnapshotId],
    open: &dyn Fn(SnapshotId) -> Result<OwnedFd, SnapshotError>,
    root: BorrowedFd<'_>,
    files: Files,
) -> Result<(), SnapshotError> {
    let failed = |operation, id: Option<&SnapshotId>| {
        let object = id.map_or("(empty)".to_owned(), SnapshotId::to_string);
        move |source| SnapshotError::Io { operation, object, source }
    };
    let writer = Writer::new(root).map_err(failed("open", layers.first()))?;
    let mut merging = Merging { writer, files, taken: HashMap::new() };
    for (number, id) in layers.iter().enumerate() {
        merging.layer(number, open(*id)?.as_fd()).map_err(failed("copy", Some(id)))?;
    }
    merging.writer.finish().map_err(failed("copy", layers.first()))
}

struct Merging {
    writer: Writer,
    files: Files,
    taken: HashMap<OsString, Taken>,
}

/// What a path is by the layers seen so far.
#[derive(Debug, Clone, Copy)]
enum Taken {
    /// A file, or nothing: whatever is further below is hidden.
    Leaf,
    /// A directory; from the layer with the number on that hides what is below it, nothing shines through.
    Dir { closed_by: Option<usize> },
}

impl Merging {
    fn layer(&mut self, number: usize, layer: BorrowedFd<'_>) -> io::Result<()> {
        let root = walk::open_dir_at(layer, OsStr::new("."))?;
        let xattrs = walk::xattrs_of(root.as_fd())?;
        if number == 0 {
            self.writer.root(&walk::stat_of(root.as_fd())?, &xattrs)?;
            self.taken.insert(OsString::new(), Taken::Dir { closed_by: None });
        }
        if self.is_closed(OsStr::new(""), number) {
            return Ok(());
        }
        self.close(OsStr::new(""), is_opaque(&xattrs).then_some(number));
        // Directories of this layer of which nothing is seen.
        let mut hidden = HashSet::new();
        let mut links = HardLinks::default();
        for visited in Walk::new(layer)? {
            let visited = visited?;
            let is_dir = visited.entry.stat.kind == FileKind::Dir;
            if hidden.contains(split(&visited.path).0) || !self.visit(number, &visited, &mut links)? {
                if is_dir {
                    hidden.insert(visited.path);
                }
            }
        }
        Ok(())
    }

    /// Takes an entry unless something above hides it. Says whether what is in it may be seen.
    fn visit(&mut self, number: usize, visited: &Visited, links: &mut HardLinks) -> io::Result<bool> {
        let (path, stat) = (&visited.path, &visited.entry.stat);
        let is_dir = stat.kind == FileKind::Dir;
        match self.taken.get(path) {
            Some(Taken::Leaf) => return Ok(false),
            Some(Taken::Dir { .. }) if self.is_closed(path, number) => return Ok(false),
            Some(Taken::Dir { .. }) if !is_dir => {
                // The directory has replaced it, and all below it.
                self.close(path, Some(number));
                return Ok(false);
            }
            _ => {}
        }
        if !is_dir {
            self.taken.insert(path.clone(), Taken::Leaf);
            if !stat.is_whiteout() {
                self.file(visited, links)?;
            }
            return Ok(false);
        }
        let xattrs = walk::xattrs_at(visited.dir.as_fd(), &visited.entry.name)?;
        if !self.taken.contains_key(path) {
            self.writer.dir(path, stat, &xattrs)?;
            self.taken.insert(path.clone(), Taken::Dir { closed_by: None });
        }
        self.close(path, is_opaque(&xattrs).then_some(number));
        Ok(true)
    }

    fn file(&mut self, visited: &Visited, links: &mut HardLinks) -> io::Result<()> {
        let Visited { path, dir, entry, .. } = visited;
        if self.files == Files::Shared {
            match self.writer.share(path, dir.as_fd(), &entry.name) {
                Ok(()) => return Ok(()),
                // Too many names, or somebody else's file where that is not allowed.
                Err(rustix::io::Errno::MLINK | rustix::io::Errno::PERM) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        // Only what is seen is asked: the first name may be hidden.
        match links.first_path(visited) {
            Some(first) => self.writer.link(&first, path),
            None => self.writer.copy(path, dir.as_fd(), &entry.name, &entry.stat),
        }
    }

    fn is_closed(&self, path: &OsStr, number: usize) -> bool {
        matches!(self.taken.get(path), Some(Taken::Dir { closed_by: Some(by) }) if *by < number)
    }

    fn close(&mut self, path: &OsStr, by: Option<usize>) {
        if let (Some(Taken::Dir { closed_by }), Some(_)) = (self.taken.get_mut(path), by)
            && closed_by.is_none()
        {
            *closed_by = by;
        }
    }
}
