//! Tar entries → files below a root: what unpacking a layer and extracting an archive share.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;

use super::DiffError;
use super::copying::{Copying, Owners};
use super::estargz;
use super::root::{self, Created, Dir, Missing, Root, write_error};
use super::tar_header::TypeFlag;
use super::tar_reader::{Entry, TarReader};
use super::whiteout::{self, Name};
use crate::Ids;
use crate::contenthash::is_content_xattr;
use crate::walk::{self, FileKind, Stat};

/// The most entries of a layer or archive. The largest images have about a million; each costs memory here.
const ENTRIES_MAX: u64 = 10_000_000;

/// What the entries mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// A layer, unpacked into a bare upper directory: whiteouts, what lies below is not there yet.
    Layer,
    /// An archive for `ADD`: all belongs to this owner, names that mark deleted files are names like others.
    Archive { owner: (u32, u32) },
    /// A cache mount: everything as it was, but no devices, which no cache needs.
    Mount,
    /// A copy into a tree that is in use: a directory never takes the place of something else, nor the other way round.
    Copy(Copying),
}

/// Unpacks a tar below a root. What only can be done when the layers below are there is kept in the fields, see
/// [`super::complete`].
#[derive(Debug)]
pub(super) struct Unpacker {
    pub(super) root: Root,
    pub(super) ids: Ids,
    rules: Rules,
    /// What the tar is called in errors.
    pub(super) object: String,
    entries: u64,
    /// Whether it is a layer with a table of contents, which is no file of the image.
    is_estargz: bool,
    /// Directories that were made because something is in them; the root, too, until it is listed.
    pub(super) implied: BTreeSet<Vec<u8>>,
    /// Hard links to what this layer does not have: path and target.
    pub(super) links: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) whiteouts: BTreeSet<Vec<u8>>,
    pub(super) opaque: BTreeSet<Vec<u8>>,
    /// The times of directories, which are set when nothing in them changes any more.
    pub(super) dir_times: BTreeMap<Vec<u8>, (i64, u32)>,
    /// Devices that were not to be made.
    pub(super) left_out: Vec<Vec<u8>>,
}

/// Owner, mode, attributes and times of a file to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata<'a> {
    pub(super) ids: Ids,
    pub(super) mode: u32,
    /// `None` leaves it whoever made it.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: &'a [(std::ffi::OsString, Vec<u8>)],
}

/// What was at a name before an entry took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// A directory, which stays.
    Dir,
    /// Something that was removed.
    Removed,
}

impl Unpacker {
    pub(super) fn new(fd: BorrowedFd<'_>, ids: Ids, rules: Rules, object: String) -> Result<Self, DiffError> {
        let root = Root::new(fd).map_err(|source| write_error("open", b".", &object, source))?;
        let implied = match rules {
            Rules::Layer => BTreeSet::from([Vec::new()]),
            Rules::Archive { .. } | Rules::Mount | Rules::Copy(_) => BTreeSet::new(),
        };
        Ok(Self {
            root,
            ids,
            rules,
            object,
            entries: 0,
            is_estargz: false,
            implied,
            links: BTreeMap::new(),
            whiteouts: BTreeSet::new(),
            opaque: BTreeSet::new(),
            dir_times: BTreeMap::new(),
            left_out: Vec::new(),
        })
    }

    /// Unpacks all entries; `first` was read before.
    pub(super) fn unpack<R: Read>(
        &mut self,
        first: Option<Entry>,
        tar: &mut TarReader<R>,
    ) -> Result<(), DiffError> {
        let mut next = first;
        loop {
            let entry = match next.take() {
                Some(entry) => entry,
                None => match tar.next().map_err(|source| self.cannot_read(source))? {
                    Some(entry) => entry,
                    None => return Ok(()),
                },
            };
            self.entries += 1;
            if self.is_of_estargz(&entry) {
                continue;
            }
            if self.entries > ENTRIES_MAX {
                return Err(self.refused(&entry.path, format!("more than {ENTRIES_MAX} entries")));
            }
            self.entry(&entry, tar)?;
        }
    }

    /// Whether an entry is there for the layer's form alone: it begins with a landmark, and then it has a table.
    fn is_of_estargz(&mut self, entry: &Entry) -> bool {
        if self.rules != Rules::Layer || entry.kind != TypeFlag::File {
            return false;
        }
        let path = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        if self.entries == 1 && path == estargz::LANDMARK_NAME && entry.size == estargz::LANDMARK.len() as u64
        {
            self.is_estargz = true;
            return true;
        }
        self.is_estargz && path == estargz::TABLE_NAME
    }

    /// Sets the times that were put off. The last thing to be done.
    pub(super) fn set_dir_times(&mut self) -> Result<(), DiffError> {
        for (path, mtime) in std::mem::take(&mut self.dir_times) {
            let set = || match root::open_dir_below(self.root.fd(), &path)? {
                Some(dir) => Ok(rustix::fs::futimens(&dir, &timestamps(mtime))?),
                None => Ok(()),
            };
            set().map_err(|source| self.cannot("set the times of", &path, source))?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), DiffError> {
        let components = root::components(&entry.path).map_err(|reason| self.refused(&entry.path, reason))?;
        let Some((name, parents)) = components.split_last() else { return self.root_entry(entry) };
        let meaning = match self.rules {
            Rules::Layer => {
                if parents.iter().any(|parent| parent.starts_with(whiteout::PREFIX)) {
                    // aufs kept its hard links in `.wh..wh.plnk/`.
                    return Ok(());
                }
                Name::parse(name)
            }
            Rules::Archive { .. } | Rules::Mount | Rules::Copy(_) => Name::Plain,
        };
        if meaning == Name::Ignored {
            return Ok(());
        }
        let parent = self.parent(&entry.path, parents)?;
        match meaning {
            Name::Whiteout(gone) => self.whiteout(&parent, gone),
            Name::Opaque => self.make_opaque(&parent.path.clone()),
            _ => self.plain(entry, &parent, name, data),
        }
    }

    /// The directory itself: a layer's says how the root looks, an archive's is not asked.
    fn root_entry(&mut self, entry: &Entry) -> Result<(), DiffError> {
        match (self.rules, entry.kind) {
            (Rules::Archive { .. } | Rules::Copy(Copying { root: false, .. }), _) => Ok(()),
            (Rules::Layer | Rules::Mount | Rules::Copy(_), TypeFlag::Dir) => {
                let metadata = self.metadata(entry);
                set_metadata(self.root.fd(), &metadata)
                    .map_err(|source| self.cannot("change", b"", source))?;
                self.implied.remove(&b""[..]);
                self.dir_times.insert(Vec::new(), entry.mtime);
                Ok(())
            }
            (Rules::Layer | Rules::Mount | Rules::Copy(_), _) => {
                Err(self.refused(&entry.path, "the root must be a directory".to_owned()))
            }
        }
    }

    /// The directory at `parents`, made where it is missing.
    pub(super) fn parent(&mut self, path: &[u8], parents: &[&[u8]]) -> Result<Dir, DiffError> {
        let mut created = Vec::new();
        let missing = if matches!(self.rules, Rules::Copy(_)) { Missing::Make } else { Missing::Create };
        let dir = self.root.dir(parents, missing, &mut created);
        for Created { path, replaced } in created {
            match self.rules {
                Rules::Layer if replaced => {
                    self.forget(&path);
                    self.make_opaque(&path)?;
                }
                Rules::Layer => {
                    self.implied.insert(path);
                }
                Rules::Mount | Rules::Copy(Copying { owners: Owners::Own | Owners::AsTheyWere, .. }) => {}
                Rules::Archive { owner } => self.own(&path, owner)?,
                Rules::Copy(Copying { owners: Owners::All(uid, gid), .. }) => self.own(&path, (uid, gid))?,
            }
        }
        dir.map_err(|source| self.cannot("make the directories above", path, source))
    }

    fn own(&self, path: &[u8], owner: (u32, u32)) -> Result<(), DiffError> {
        let fd = root::open_dir_below(self.root.fd(), path);
        let own = fd.and_then(|fd| fd.map_or(Ok(()), |fd| self.ids.set_owner_of(&fd, owner)));
        own.map_err(|source| self.cannot("change the owner of", path, source))
    }

    fn plain(
        &mut self,
        entry: &Entry,
        parent: &Dir,
        name: &[u8],
        data: &mut impl Read,
    ) -> Result<(), DiffError> {
        let path = parent.join(name);
        let metadata = self.metadata(entry);
        match entry.kind {
            TypeFlag::Dir => return self.dir_entry(parent, name, &path, &metadata),
            TypeFlag::HardLink => return self.link_entry(entry, parent, name, &path),
            _ => {}
        }
        let is_device = matches!(entry.kind, TypeFlag::CharDevice | TypeFlag::BlockDevice);
        if is_device && self.rules == Rules::Mount {
            return Err(self.refused(&entry.path, "a device in a cache mount".to_owned()));
        }
        if is_device && matches!(self.rules, Rules::Copy(Copying { devices: false, .. })) {
            self.left_out.push(path);
            return Ok(());
        }
        if entry.kind == TypeFlag::CharDevice && entry.rdev == (0, 0) && self.rules != Rules::Layer {
            let reason = "a character device 0:0 marks what is deleted in an overlay file system and cannot be a file of it";
            return Err(self.refused(&entry.path, reason.to_owned()));
        }
        self.clear(parent, name, &path)?;
        let dir = parent.fd.as_fd();
        match entry.kind {
            TypeFlag::File => {
                let file = create_file(dir, name).map_err(|source| self.cannot("create", &path, source))?;
                self.contents(entry, &file, data, &path)?;
                set_metadata(file.as_fd(), &metadata)
                    .and_then(|()| Ok(rustix::fs::futimens(&file, &timestamps(metadata.mtime))?))
            }
            TypeFlag::Symlink => make_symlink(dir, name, &entry.link, &metadata),
            _ => {
                let kind = match entry.kind {
                    TypeFlag::CharDevice => FileKind::CharDevice,
                    TypeFlag::BlockDevice => FileKind::BlockDevice,
                    _ => FileKind::Fifo,
                };
                make_node(dir, name, kind, entry.rdev, &metadata)
            }
        }
        .map_err(|source| self.cannot("create", &path, source))
    }

    fn dir_entry(
        &mut self,
        parent: &Dir,
        name: &[u8],
        path: &[u8],
        metadata: &Metadata<'_>,
    ) -> Result<(), DiffError> {
        let before = self.clear_for_dir(parent, name, path)?;
        if before != Before::Dir {
            rustix::fs::mkdirat(&*parent.fd, name, Mode::RWXU)
                .map_err(|errno| self.cannot("create", path, errno.into()))?;
        }
        walk::open_dir_at(parent.fd.as_fd(), OsStr::from_bytes(name))
            .and_then(|fd| set_metadata(fd.as_fd(), metadata))
            .map_err(|source| self.cannot("change", path, source))?;
        if before == Before::Removed && self.rules == Rules::Layer {
            // What was removed had hidden a directory of this name below.
            self.make_opaque(path)?;
        }
        self.implied.remove(path);
        self.dir_times.insert(path.to_vec(), metadata.mtime);
        Ok(())
    }

    fn link_entry(&mut self, entry: &Entry, parent: &Dir, name: &[u8], path: &[u8]) -> Result<(), DiffError> {
        let refused = |reason: String| self.refused(&entry.path, reason);
        let components = root::components(&entry.link).map_err(refused)?;
        let Some((target_name, target_parents)) = components.split_last() else {
            return Err(self.refused(&entry.path, "a hard link to the root".to_owned()));
        };
        let mut target = components.join(&b'/');
        let mut found = None;
        match self.root.dir(target_parents, Missing::Fail, &mut Vec::new()) {
            Ok(dir) => {
                target = dir.join(target_name);
                match walk::stat_at(dir.fd.as_fd(), OsStr::from_bytes(target_name)) {
                    Ok(stat) => found = Some((dir, stat)),
                    Err(error) if is_absent(&error) => {}
                    Err(source) => return Err(self.cannot("look up", &entry.link, source)),
                }
            }
            Err(error) if is_absent(&error) => {}
            Err(source) => return Err(self.cannot("look up", &entry.link, source)),
        }
        if target == path {
            return Err(self.refused(&entry.path, "a hard link to itself".to_owned()));
        }
        let link = String::from_utf8_lossy(&entry.link).into_owned();
        match found {
            Some((_, stat)) if stat.kind == FileKind::Dir => {
                Err(self.refused(&entry.path, format!("a hard link to the directory `{link}`")))
            }
            Some((_, stat)) if self.rules == Rules::Layer && stat.is_whiteout() => {
                Err(self.refused(&entry.path, format!("a hard link to `{link}`, which is deleted")))
            }
            Some((dir, _)) => {
                self.clear(parent, name, path)?;
                rustix::fs::linkat(&*dir.fd, *target_name, &*parent.fd, name, AtFlags::empty())
                    .map_err(|errno| self.cannot("link", path, errno.into()))
            }
            None if self.rules == Rules::Layer => {
                // A link to what is itself a link into a lower layer leads to the same file.
                let target = self.links.get(&target).cloned().unwrap_or_else(|| entry.link.clone());
                self.clear(parent, name, path)?;
                self.links.insert(path.to_vec(), target);
                Ok(())
            }
            None => Err(self.refused(&entry.path, format!("a hard link to `{link}`, which does not exist"))),
        }
    }

    fn whiteout(&mut self, parent: &Dir, name: &[u8]) -> Result<(), DiffError> {
        let path = parent.join(name);
        self.clear(parent, name, &path)?;
        whiteout::make_whiteout(parent.fd.as_fd(), OsStr::from_bytes(name))
            .map_err(|source| self.cannot("whiteout", &path, source))?;
        self.whiteouts.insert(path);
        Ok(())
    }

    /// Nothing from below shines through a directory any more.
    pub(super) fn make_opaque(&mut self, path: &[u8]) -> Result<(), DiffError> {
        let mark = || {
            let Some(dir) = root::open_dir_below(self.root.fd(), path)? else { return Ok(()) };
            Ok(rustix::fs::fsetxattr(&dir, whiteout::OPAQUE_XATTR, b"y", XattrFlags::empty())?)
        };
        mark().map_err(|source| self.cannot("make opaque", path, source))?;
        self.opaque.insert(path.to_vec());
        Ok(())
    }

    /// Makes a name free.
    fn clear(&mut self, parent: &Dir, name: &[u8], path: &[u8]) -> Result<Before, DiffError> {
        match self.before(parent, name, path)? {
            Before::Nothing => {
                self.links.remove(path);
                return Ok(Before::Nothing);
            }
            Before::Dir if matches!(self.rules, Rules::Copy(_)) => {
                return Err(self.refused(path, "a directory is there, and what comes is none".to_owned()));
            }
            _ => {}
        }
        root::remove_at(parent.fd.as_fd(), name).map_err(|source| self.cannot("replace", path, source))?;
        self.forget(path);
        Ok(Before::Removed)
    }

    /// Makes a name free unless it is a directory's.
    fn clear_for_dir(&mut self, parent: &Dir, name: &[u8], path: &[u8]) -> Result<Before, DiffError> {
        match self.before(parent, name, path)? {
            Before::Dir => Ok(Before::Dir),
            Before::Removed if matches!(self.rules, Rules::Copy(_)) => {
                Err(self.refused(path, "a directory comes, and what is there is none".to_owned()))
            }
            _ => self.clear(parent, name, path),
        }
    }

    fn before(&self, parent: &Dir, name: &[u8], path: &[u8]) -> Result<Before, DiffError> {
        match walk::stat_at(parent.fd.as_fd(), OsStr::from_bytes(name)) {
            Ok(Stat { kind: FileKind::Dir, .. }) => Ok(Before::Dir),
            Ok(_) => Ok(Before::Removed),
            Err(error) if is_absent(&error) => Ok(Before::Nothing),
            Err(source) => Err(self.cannot("look up", path, source)),
        }
    }

    /// What is known of `from` and all below it holds for `to` from now on.
    pub(super) fn rename(&mut self, from: &[u8], to: &[u8]) {
        fn renamed(path: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
            let rest = path.strip_prefix(from).filter(|rest| rest.is_empty() || rest[0] == b'/')?;
            Some([to, rest].concat())
        }
        fn rename_keys<V>(map: &mut BTreeMap<Vec<u8>, V>, from: &[u8], to: &[u8]) {
            let entries = std::mem::take(map).into_iter();
            map.extend(entries.map(|(path, value)| (renamed(&path, from, to).unwrap_or(path), value)));
        }
        self.root.forget();
        for set in [&mut self.implied, &mut self.whiteouts, &mut self.opaque] {
            let paths = std::mem::take(set).into_iter();
            set.extend(paths.map(|path| renamed(&path, from, to).unwrap_or(path)));
        }
        rename_keys(&mut self.links, from, to);
        rename_keys(&mut self.dir_times, from, to);
    }

    /// Takes back what is known of `path` and all below it.
    pub(super) fn forget(&mut self, path: &[u8]) {
        self.root.forget();
        for set in [&mut self.implied, &mut self.whiteouts, &mut self.opaque] {
            set.remove(path);
            for known in below(path, set.range(below_bound(path)..)) {
                set.remove(&known);
            }
        }
        self.links.remove(path);
        for known in below(path, self.links.range(below_bound(path)..).map(|(known, _)| known)) {
            self.links.remove(&known);
        }
        self.dir_times.remove(path);
        for known in below(path, self.dir_times.range(below_bound(path)..).map(|(known, _)| known)) {
            self.dir_times.remove(&known);
        }
    }

    fn contents(
        &self,
        entry: &Entry,
        file: &File,
        data: &mut impl Read,
        path: &[u8],
    ) -> Result<(), DiffError> {
        let whole = 0..entry.size;
        let ranges = entry.sparse.as_deref().unwrap_or(std::slice::from_ref(&whole));
        let mut out = file;
        let mut buffer = vec![0; COPY_BUFFER_BYTES.min(usize::try_from(entry.size).unwrap_or(usize::MAX))];
        for range in ranges {
            if entry.sparse.is_some() {
                out.seek(SeekFrom::Start(range.start)).map_err(|e| self.cannot("write", path, e))?;
            }
            let mut left = range.end - range.start;
            while left > 0 {
                let len = left.min(buffer.len() as u64) as usize;
                data.read_exact(&mut buffer[..len]).map_err(|source| self.cannot_read(source))?;
                out.write_all(&buffer[..len]).map_err(|e| self.cannot("write", path, e))?;
                left -= len as u64;
            }
        }
        if entry.sparse.is_some() {
            file.set_len(entry.size).map_err(|source| self.cannot("write", path, source))?;
        }
        Ok(())
    }

    fn metadata<'a>(&self, entry: &'a Entry) -> Metadata<'a> {
        let owner = match self.rules {
            Rules::Layer | Rules::Mount => Some((entry.uid, entry.gid)),
            Rules::Archive { owner } => Some(owner),
            Rules::Copy(Copying { owners, .. }) => match owners {
                Owners::AsTheyWere => Some((entry.uid, entry.gid)),
                Owners::All(uid, gid) => Some((uid, gid)),
                Owners::Own => None,
            },
        };
        Metadata { ids: self.ids, mode: entry.mode, owner, mtime: entry.mtime, xattrs: &entry.xattrs }
    }

    pub(super) fn cannot(&self, operation: &'static str, path: &[u8], source: io::Error) -> DiffError {
        write_error(operation, path, &self.object, source)
    }

    fn cannot_read(&self, source: io::Error) -> DiffError {
        DiffError::Read { object: self.object.clone(), source }
    }

    pub(super) fn refused(&self, path: &[u8], reason: String) -> DiffError {
        let path: String = String::from_utf8_lossy(path).chars().take(PATH_SHOWN_CHARS).collect();
        DiffError::Entry { object: self.object.clone(), path, reason }
    }
}

/// The first path that can be below `path`.
fn below_bound(path: &[u8]) -> Vec<u8> {
    [path, b"/"].concat()
}

/// Those of the sorted paths from [`below_bound`] on that are below `path`.
fn below<'a>(path: &[u8], sorted: impl Iterator<Item = &'a Vec<u8>>) -> Vec<Vec<u8>> {
    let bound = below_bound(path);
    sorted.take_while(|known| known.starts_with(&bound)).cloned().collect()
}

/// How much of a hostile path an error shows.
const PATH_SHOWN_CHARS: usize = 200;

const COPY_BUFFER_BYTES: usize = 128 * 1024;

pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR))
}

/// A new regular file; its mode is set when it has its owner.
pub(super) fn create_file(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

pub(super) fn make_symlink(
    dir: BorrowedFd<'_>,
    name: &[u8],
    target: &[u8],
    metadata: &Metadata<'_>,
) -> io::Result<()> {
    rustix::fs::symlinkat(target, dir, name)?;
    finish_unopened(dir, name, metadata)
}

pub(super) fn make_node(
    dir: BorrowedFd<'_>,
    name: &[u8],
    kind: FileKind,
    rdev: (u32, u32),
    metadata: &Metadata<'_>,
) -> io::Result<()> {
    metadata.ids.make_node(dir, OsStr::from_bytes(name), kind, rdev)?;
    finish_unopened(dir, name, metadata)?;
    // After the owner, because a change of owner takes the setuid bit away. The name was no symlink, but who runs in the tree
    // may have put one there.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    rustix::fs::chmod(walk::fd_path(node.as_fd()), Mode::from_raw_mode(metadata.mode))?;
    rustix::fs::utimensat(dir, name, &timestamps(metadata.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// Owner, mode and attributes of an open file or directory. The mode comes after the owner, whose change takes setuid
/// bits away, and the attributes after both, since a change of owner drops capabilities.
pub(super) fn set_metadata(fd: BorrowedFd<'_>, metadata: &Metadata<'_>) -> io::Result<()> {
    if let Some(owner) = metadata.owner {
        metadata.ids.set_owner_of(fd, owner)?;
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(metadata.mode))?;
    for (name, value) in metadata.xattrs.iter().filter(|(name, _)| is_content_xattr(name)) {
        tolerate_unsupported(rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()))?;
    }
    Ok(())
}

/// A modification time; the access time stays.
pub(super) fn timestamps(mtime: (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.into() },
    }
}

/// Owner, attributes and time of a file that cannot be opened. The kernel gives such files no `user.` attributes, and nor
/// does the stand-in of a device get any.
fn finish_unopened(dir: BorrowedFd<'_>, name: &[u8], metadata: &Metadata<'_>) -> io::Result<()> {
    if let Some(owner) = metadata.owner {
        metadata.ids.set_owner(dir, OsStr::from_bytes(name), owner)?;
    }
    let path = walk::proc_path(dir, OsStr::from_bytes(name));
    let may_have = |name: &OsStr| is_content_xattr(name) && !name.as_bytes().starts_with(b"user.");
    for (attribute, value) in metadata.xattrs.iter().filter(|(name, _)| may_have(name)) {
        tolerate_unsupported(rustix::fs::lsetxattr(&*path, attribute, value, XattrFlags::empty()))?;
    }
    rustix::fs::utimensat(dir, name, &timestamps(metadata.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// Attributes are left out where the file system, the kind of file or the missing privilege does not allow them.
fn tolerate_unsupported(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
