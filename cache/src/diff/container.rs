//! What of a container's own files differs from the chain that it stands on: told, and made a snapshot of.
//!
//! The directory is one of [`Store::keep_in`]. It may be in use: its files are read as they are.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::compare::{Lower, parent_of};
use super::copy_up::{copy_file, set_dir, set_dir_time};
use super::trees::{Kind as DifferenceKind, differences};
use super::whiteout::{OPAQUE_XATTR, make_whiteout};
use super::{DiffError, root};
use crate::contenthash::is_opaque;
use crate::walk::{self, FileKind, Visited, Walk};
use crate::{Chain, Store};

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It is another one, or something in it changed.
    Changed,
    /// It is gone.
    Deleted,
}

/// Which paths, relative to the root, are no business of the container's if they are new: what is there to be mounted over.
pub type IsHidden<'a> = dyn Fn(&Path) -> bool + 'a;

/// What differs from `chain` in the container of `dir`, by path.
pub fn container_changes(
    store: &Store,
    chain: &Chain,
    dir: &Path,
    is_hidden: &IsHidden<'_>,
) -> Result<BTreeMap<PathBuf, Change>, DiffError> {
    let mut changes = BTreeMap::new();
    match files_of(dir).map_err(read_error)? {
        Files::None => {}
        Files::Upper(upper) => visit_upper(store, chain, &upper, is_hidden, &mut |visited, change| {
            changes.insert(PathBuf::from(&visited.path), change);
            Ok(())
        })?,
        Files::Whole(all) => {
            changes = whole_changes(store, chain, &all, is_hidden)?;
        }
    }
    for path in changes.keys().cloned().collect::<Vec<_>>() {
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            changes.entry(parent.to_owned()).or_insert(Change::Changed);
        }
    }
    Ok(changes)
}

/// Commits what differs as a snapshot. Gives the whole chain.
pub fn commit_container(
    store: &Store,
    chain: &Chain,
    dir: &Path,
    is_hidden: &IsHidden<'_>,
    created: SystemTime,
) -> Result<Chain, DiffError> {
    let active = store.prepare(chain)?;
    let mut copied = Copied { store, to: active.upper(), links: HashMap::new(), dirs: Vec::new() };
    match files_of(dir).map_err(read_error)? {
        Files::None => {}
        Files::Upper(upper) => {
            copied.root(upper.as_fd()).map_err(read_error)?;
            let add = &mut |visited: &Visited, change| copied.add(visited, upper.as_fd(), change);
            visit_upper(store, chain, &upper, is_hidden, add)?;
        }
        Files::Whole(all) => {
            copied.root(all.as_fd()).map_err(read_error)?;
            for (path, change) in whole_changes(store, chain, &all, is_hidden)? {
                copied.add_path(&path, all.as_fd(), change).map_err(read_error)?;
            }
        }
    }
    copied.set_times().map_err(read_error)?;
    let snapshot = active.commit(created)?;
    Ok(chain.with(snapshot.id))
}

/// How a container keeps its files.
enum Files {
    /// Nothing has changed yet.
    None,
    Upper(OwnedFd),
    Whole(OwnedFd),
}

fn files_of(dir: &Path) -> io::Result<Files> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for name in ["root", "upper"] {
        match rustix::fs::open(dir.join(name), flags, Mode::empty()) {
            Ok(found) if name == "root" => return Ok(Files::Whole(found)),
            Ok(found) => return Ok(Files::Upper(found)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Files::None)
}

/// Tells `found` of every entry of an upper directory that is a change against `chain`, in the order of their paths. A directory
/// that is there only because something in it changed is none.
fn visit_upper(
    store: &Store,
    chain: &Chain,
    upper: &OwnedFd,
    is_hidden: &IsHidden<'_>,
    found: &mut dyn FnMut(&Visited, Change) -> io::Result<()>,
) -> Result<(), DiffError> {
    let mut lower = Lower::new(store, chain.clone(), "the container".to_owned(), upper.as_fd());
    for visited in Walk::new(upper.as_fd(), store.setup().ids).map_err(read_error)? {
        let visited = match visited {
            // The container goes on meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            visited => visited.map_err(read_error)?,
        };
        let stat = visited.entry.stat;
        let is_below = lower.find(&visited)?.is_some();
        if !is_below && is_hidden(Path::new(&visited.path)) {
            continue;
        }
        let change = if stat.is_whiteout() {
            // One that hides nothing is the file system's own affair.
            if !is_below {
                continue;
            }
            Change::Deleted
        } else if stat.kind == FileKind::Dir {
            let xattrs = walk::xattrs_at(visited.dir.as_fd(), &visited.entry.name).map_err(read_error)?;
            let hides = is_opaque(&xattrs);
            let is_same = !hides && lower.has_same_dir(&visited, &xattrs)?;
            if hides {
                lower.hide(&visited.path);
            }
            match (is_below, is_same) {
                (true, true) => continue,
                (true, false) => Change::Changed,
                (false, _) => Change::Added,
            }
        } else {
            match is_below {
                true if lower.has_copy_of(&visited)? => continue,
                true => Change::Changed,
                false => Change::Added,
            }
        };
        found(&visited, change).map_err(read_error)?;
    }
    Ok(())
}

/// The same where the container has all files.
fn whole_changes(
    store: &Store,
    chain: &Chain,
    all: &OwnedFd,
    is_hidden: &IsHidden<'_>,
) -> Result<BTreeMap<PathBuf, Change>, DiffError> {
    let view = store.view(chain)?;
    let mut changes: BTreeMap<PathBuf, Change> = BTreeMap::new();
    differences(view.as_fd(), all.as_fd(), store.setup().ids, &mut |difference| {
        let path = PathBuf::from(difference.path);
        let change = match difference.kind {
            DifferenceKind::Added if is_hidden(&path) => return,
            DifferenceKind::Added => Change::Added,
            // What was in a directory that is gone is gone with it.
            DifferenceKind::Removed
                if path.ancestors().skip(1).any(|it| changes.get(it) == Some(&Change::Deleted)) =>
            {
                return;
            }
            DifferenceKind::Removed => Change::Deleted,
            DifferenceKind::Changed(_) => Change::Changed,
        };
        changes.insert(path, change);
    })?;
    Ok(changes)
}

/// Changes, written into the upper directory of a snapshot that is being made.
struct Copied<'a> {
    store: &'a Store,
    to: BorrowedFd<'a>,
    /// Where the first name of a file with several is.
    links: HashMap<(u64, u64), OsString>,
    /// Directories whose times are set in the end.
    dirs: Vec<(OsString, walk::Stat)>,
}

impl Copied<'_> {
    /// The root looks like that of `from`.
    fn root(&mut self, from: BorrowedFd<'_>) -> io::Result<()> {
        let ids = self.store.setup().ids;
        let (stat, xattrs) = (ids.stat_of(from)?, walk::xattrs_of(from)?);
        set_dir(self.to, &stat, &xattrs, ids)?;
        self.dirs.push((OsString::new(), stat));
        Ok(())
    }

    fn add(&mut self, visited: &Visited, from: BorrowedFd<'_>, change: Change) -> io::Result<()> {
        let Visited { path, dir, entry, .. } = visited;
        if entry.stat.is_socket() {
            return Ok(());
        }
        self.parents(path, from)?;
        let (parent, name) = (self.open_parent(path)?, &entry.name);
        if change == Change::Deleted {
            return make_whiteout(parent.as_fd(), name);
        }
        let ids = self.store.setup().ids;
        if entry.stat.kind == FileKind::Dir {
            return self.make_dir(parent.as_fd(), name, path, dir.as_fd());
        }
        let file = (entry.stat.dev, entry.stat.ino);
        if entry.stat.nlink > 1
            && let Some(first) = self.links.get(&file)
        {
            let first_parent = self.open_parent(first)?;
            let first_name = Path::new(first).file_name().unwrap_or_default();
            return Ok(rustix::fs::linkat(&first_parent, first_name, &parent, name, AtFlags::empty())?);
        }
        copy_file(dir.as_fd(), name, &entry.stat, parent.as_fd(), name, ids)?;
        if entry.stat.nlink > 1 {
            self.links.insert(file, path.clone());
        }
        Ok(())
    }

    fn add_path(&mut self, path: &Path, from: BorrowedFd<'_>, change: Change) -> io::Result<()> {
        let os_path = path.as_os_str().to_owned();
        let name = path.file_name().unwrap_or_default().to_owned();
        if change == Change::Deleted {
            self.parents(&os_path, from)?;
            return make_whiteout(self.open_parent(&os_path)?.as_fd(), &name);
        }
        let dir = open_parent(from, &os_path)?;
        let stat = self.store.setup().ids.stat_at(dir.as_fd(), &name)?;
        let depth = path.components().count().saturating_sub(1);
        let entry = walk::Entry { name, stat };
        self.add(&Visited { path: os_path, dir: dir.into(), depth, entry }, from, change)
    }

    /// Makes the directories above a path that are not there yet, as they are in `from`.
    fn parents(&mut self, path: &OsStr, from: BorrowedFd<'_>) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut above = parent_of(path);
        while let Some(parent) = above {
            if root::open_dir_below(self.to, parent.as_encoded_bytes())?.is_some() {
                break;
            }
            missing.push(parent);
            above = parent_of(parent);
        }
        for parent in missing.into_iter().rev() {
            let dir = open_parent(from, parent)?;
            let name = Path::new(parent).file_name().unwrap_or_default();
            self.make_dir(self.open_parent(parent)?.as_fd(), name, parent, dir.as_fd())?;
        }
        Ok(())
    }

    fn make_dir(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &OsStr,
        from: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let ids = self.store.setup().ids;
        let original = walk::open_dir_at(from, name)?;
        let (stat, xattrs) = (ids.stat_of(original.as_fd())?, walk::xattrs_of(original.as_fd())?);
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let made = walk::open_dir_at(parent, name)?;
        set_dir(made.as_fd(), &stat, &xattrs, ids)?;
        if is_opaque(&xattrs) {
            rustix::fs::fsetxattr(&made, OPAQUE_XATTR, b"y", XattrFlags::empty())?;
        }
        self.dirs.push((path.to_owned(), stat));
        Ok(())
    }

    fn open_parent(&self, path: &OsStr) -> io::Result<OwnedFd> {
        open_parent(self.to, path)
    }

    fn set_times(&self) -> io::Result<()> {
        for (path, stat) in self.dirs.iter().rev() {
            if let Some(dir) = root::open_dir_below(self.to, path.as_encoded_bytes())? {
                set_dir_time(dir.as_fd(), stat)?;
            }
        }
        Ok(())
    }
}

/// The directory that a path is in, which has no links.
fn open_parent(root: BorrowedFd<'_>, path: &OsStr) -> io::Result<OwnedFd> {
    let parent = parent_of(path).unwrap_or_default();
    root::open_dir_below(root, parent.as_encoded_bytes())?.ok_or_else(|| Errno::NOENT.into())
}

fn read_error(source: io::Error) -> DiffError {
    DiffError::Read { object: "the container's files".to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd as _;

    use super::*;
    use crate::Stacking;
    use crate::snapshot::Lasting;
    use crate::store::test_root::TestRoot;

    #[test]
    fn changes_are_told_and_become_a_snapshot() {
        for stacking in [Stacking::Overlay, Stacking::Copy] {
            let root = TestRoot::with(stacking);
            let store = root.open();
            let mut active = store.prepare(&Chain::default()).unwrap();
            let base = format!("/proc/self/fd/{}", active.root().unwrap().as_raw_fd());
            for dir in ["etc", "gone/deep", "same/deep", "new-file"] {
                fs::create_dir_all(format!("{base}/{dir}")).unwrap();
            }
            for file in ["etc/changed", "etc/removed", "gone/deep/file", "same/deep/file", "untouched"] {
                fs::write(format!("{base}/{file}"), "below").unwrap();
            }
            let chain = Chain(vec![active.commit(SystemTime::UNIX_EPOCH).unwrap().id]);
            let dir = root.path().join("container");
            fs::create_dir(&dir).unwrap();
            let none = container_changes(&store, &chain, &dir, &|_| false).unwrap();
            assert!(none.is_empty(), "{none:?}");
            let kept = store.keep_in(&chain, &dir, Lasting::Yes).unwrap();
            let at = |name: &str| format!("/proc/self/fd/{}/{name}", kept.root().as_raw_fd());
            fs::write(at("etc/changed"), "above").unwrap();
            fs::remove_file(at("etc/removed")).unwrap();
            fs::remove_dir_all(at("gone")).unwrap();
            fs::create_dir(at("added")).unwrap();
            fs::write(at("added/file"), "x").unwrap();
            fs::hard_link(at("added/file"), at("added/link")).unwrap();
            fs::remove_dir(at("new-file")).unwrap();
            fs::write(at("new-file"), "x").unwrap();
            fs::create_dir(at("stub")).unwrap();
            let is_hidden = |path: &Path| path == Path::new("stub");
            let changes = container_changes(&store, &chain, &dir, &is_hidden).unwrap();
            let told: Vec<String> = changes
                .iter()
                .map(|(path, change)| format!("{} {}", &format!("{change:?}")[..1], path.display()))
                .collect();
            let expected = [
                "A added",
                "A added/file",
                "A added/link",
                "C etc",
                "C etc/changed",
                "D etc/removed",
                "D gone",
                "C new-file",
            ];
            assert_eq!(told, expected, "{stacking:?}");
            let time = SystemTime::UNIX_EPOCH;
            let committed = commit_container(&store, &chain, &dir, &is_hidden, time).unwrap();
            assert_eq!(committed.0.len(), 2);
            let view = store.view(&committed).unwrap();
            fs::remove_dir(at("stub")).unwrap();
            let mut different = Vec::new();
            let ids = store.setup().ids;
            differences(kept.root(), view.as_fd(), ids, &mut |it| different.push(it)).unwrap();
            assert!(different.is_empty(), "{stacking:?}: {different:?}");
        }
    }
}
