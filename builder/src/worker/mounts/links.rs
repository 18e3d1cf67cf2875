//! Parting a cache from an image: a step that had a cache moved into its directory may have made hard links between the
//! two. Whoever wrote to one of them later would change the other.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use wharf_cache::Ids;
use wharf_cache::walk::{FileKind, read_dir};
use wharf_solver::llb::{ActionInput, CopyAction, FileChange};

use crate::context::Tree;
use crate::worker::file::{self, Source};
use crate::worker::whole;

/// Files of a cache that are looked at; what a cache has beyond is not parted.
const LINKED_MAX: usize = 1_000_000;

/// Gives every file of the directory `name` in `dir` that has names outside a copy of its own in it.
pub(super) fn part(dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let root = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
    for (number, names) in linked_outside(&root)?.into_iter().enumerate() {
        copy_over(&root, &names, &format!(".wharf-{number}"))?;
    }
    Ok(())
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The names of each file that has more names than there are below `root`.
fn linked_outside(root: &OwnedFd) -> io::Result<Vec<Vec<PathBuf>>> {
    let mut linked: HashMap<u64, (u64, Vec<PathBuf>)> = HashMap::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(path) = directories.pop() {
        let dir = open(root, &path)?;
        for entry in read_dir(dir.as_fd())? {
            let path = path.join(&entry.name);
            match entry.stat.kind {
                FileKind::Dir => directories.push(path),
                FileKind::File if entry.stat.nlink > 1 && linked.len() < LINKED_MAX => {
                    let (_, names) =
                        linked.entry(entry.stat.ino).or_insert((entry.stat.nlink.into(), Vec::new()));
                    names.push(path);
                }
                _ => {}
            }
        }
    }
    let outside = linked.into_values().filter(|(links, names)| names.len() as u64 != *links);
    Ok(outside.map(|(_, names)| names).collect())
}

/// Replaces the file that has these names by a copy.
fn copy_over(root: &OwnedFd, names: &[PathBuf], temporary: &str) -> io::Result<()> {
    let Some(first) = names.first() else { return Ok(()) };
    let copy = CopyAction {
        from: Some(ActionInput::Input(0)),
        dest: format!("/{temporary}"),
        ..whole(&format!("/{}", first.display()))
    };
    let tree = Tree { root: root.as_fd(), ignore: None, without: None, ids: Ids::Kernel };
    let copied = file::execute(
        &FileChange::Copy(copy),
        root.as_fd(),
        Ids::Kernel,
        Some(Source { tree, local: false }),
    );
    let replaced = copied.map_err(io::Error::other).and_then(|()| {
        for (number, name) in names.iter().enumerate() {
            let (parent, file) =
                (name.parent().unwrap_or(Path::new("")), name.file_name().unwrap_or_default());
            let parent = open(root, parent)?;
            let next = format!("{temporary}.{number}");
            rustix::fs::linkat(root, temporary, root, &next, AtFlags::empty())?;
            rustix::fs::renameat(root, &next, &parent, file)?;
        }
        Ok(())
    });
    let removed = rustix::fs::unlinkat(root, temporary, AtFlags::empty());
    replaced.and(removed.map_err(io::Error::from))
}

fn open(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), resolve)?)
}
