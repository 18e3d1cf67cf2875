//! The `local` exporter: the image's files, written into a directory.
//!
//! They belong to whoever runs the build, as BuildKit has it, and keep their modes, times, symlinks and hard links.
//! What is in the directory already stays, unless a file of the same name replaces it, or all that the result does not have
//! is to be deleted.
//!
//! Threat model: the image is hostile, and so may be what another user has put into the directory. Below `dest` every
//! name is looked up in the descriptor of its own directory without following a symlink, so nothing is written
//! elsewhere. A file is written under a temporary name and renamed, so one that is there is never written *through*.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    self as fd, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags,
};
use wharf_cache::Ids;
use wharf_cache::contenthash::is_content_xattr;
use wharf_cache::walk::{self, Entry, FileKind, Stat};

use super::ExportError;
use super::output::{create_directory, temporary_name};
use super::spec::LocalMode;
use super::tree::{Merged, Tree};

/// Deepest nesting of directories. Each level holds two descriptors open, and a process may have 1,024.
const DEPTH_MAX: usize = 256;

/// Most notes that are kept; the rest is only counted.
const NOTES_MAX: usize = 20;

/// What was written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Written {
    /// Entries of any kind.
    pub entries: u64,
    /// Bytes of regular files.
    pub size: u64,
    /// What could not be made and was left out, the first few by name.
    pub notes: Vec<String>,
}

/// Writes everything below the roots of `trees` into the directory `dest`, which is made when it is missing. Times later
/// than `source_date_epoch` become it.
pub fn write(
    trees: &[Tree],
    ids: Ids,
    source_date_epoch: Option<u64>,
    dest: &Path,
    mode: LocalMode,
) -> Result<Written, ExportError> {
    create_directory(dest)?;
    let mut merged = Merged::of(trees);
    let mut kept = Kept::default();
    let mut written = Written::default();
    for tree in trees {
        let dest = match &tree.below {
            Some(below) => {
                kept.0.entry(PathBuf::new()).or_default().insert(below.into());
                &make_below(dest, below)?
            }
            None => dest,
        };
        let directory = open_directory(dest)?;
        // A view may be a descriptor that names the directory without being able to read it (`O_PATH`).
        let root = walk::open_dir_at(tree.root(), OsStr::new(".")).map_err(ExportError::io("open", "/"))?;
        let mut writer = Writer {
            ids,
            dest,
            dest_fd: directory.as_fd(),
            source_date_epoch,
            temporary: temporary_name()?,
            links: HashMap::new(),
            left_out: 0,
            written,
            tree,
            merged: &mut merged,
            kept: (mode == LocalMode::Delete).then_some(&mut kept),
        };
        writer
            .directory(root.as_fd(), directory.as_fd(), Path::new(""), 0)
            .map_err(|error| error.name_full_disk(dest))?;
        let left_out = writer.left_out;
        written = writer.written;
        if left_out > NOTES_MAX {
            written.notes.push(format!("left out {} more", left_out - NOTES_MAX));
        }
    }
    if mode == LocalMode::Delete {
        kept.delete_others(open_directory(dest)?.as_fd(), dest, Path::new(""), 0)?;
    }
    Ok(written)
}

/// The directory of one platform. A link in its place would lead somewhere else.
fn make_below(dest: &Path, below: &str) -> Result<PathBuf, ExportError> {
    let path = dest.join(below);
    match std::fs::symlink_metadata(&path) {
        Ok(there) if !there.is_dir() => {
            return Err(ExportError::InTheWay { path, obstacle: "something that is no directory" });
        }
        _ => create_directory(&path)?,
    }
    Ok(path)
}

fn open_directory(path: &Path) -> Result<OwnedFd, ExportError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fd::open(path, flags, Mode::empty())
        .map_err(|error| ExportError::io("open", path.display())(error.into()))
}

/// What the result has, directory by directory.
#[derive(Debug, Default)]
struct Kept(HashMap<PathBuf, HashSet<OsString>>);

impl Kept {
    /// Deletes below `dir`, which is `path`, what the result does not have.
    fn delete_others(
        &self,
        dir: BorrowedFd<'_>,
        dest: &Path,
        path: &Path,
        depth: usize,
    ) -> Result<(), ExportError> {
        let place = dest.join(path);
        if depth > DEPTH_MAX {
            return Err(ExportError::TooDeep { path: place, max: DEPTH_MAX });
        }
        let Some(names) = self.0.get(path) else { return Ok(()) };
        for Entry { name, stat } in walk::read_dir(dir).map_err(ExportError::io("list", place.display()))? {
            let path = path.join(&name);
            let place = place.join(&name).display().to_string();
            let is_dir = stat.kind == FileKind::Dir;
            if names.contains(&name) {
                if is_dir {
                    let dir = walk::open_dir_at(dir, &name).map_err(ExportError::io("open", &place))?;
                    self.delete_others(dir.as_fd(), dest, &path, depth + 1)?;
                }
            } else if is_dir {
                remove_tree(dir, &name, &place, depth + 1)?;
            } else {
                fd::unlinkat(dir, &name, AtFlags::empty())
                    .map_err(|error| ExportError::io("delete", &place)(error.into()))?;
            }
        }
        Ok(())
    }
}

/// Deletes a directory and all in it; no link is followed.
fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr, place: &str, depth: usize) -> Result<(), ExportError> {
    if depth > DEPTH_MAX {
        return Err(ExportError::TooDeep { path: place.into(), max: DEPTH_MAX });
    }
    let dir = walk::open_dir_at(parent, name).map_err(ExportError::io("open", place))?;
    for Entry { name, stat } in walk::read_dir(dir.as_fd()).map_err(ExportError::io("list", place))? {
        let place = format!("{place}/{}", name.display());
        if stat.kind == FileKind::Dir {
            remove_tree(dir.as_fd(), &name, &place, depth + 1)?;
        } else {
            fd::unlinkat(&dir, &name, AtFlags::empty())
                .map_err(|error| ExportError::io("delete", &place)(error.into()))?;
        }
    }
    fd::unlinkat(parent, name, AtFlags::REMOVEDIR)
        .map_err(|error| ExportError::io("delete", place)(error.into()))
}

struct Writer<'a, 'm> {
    /// How the files of the view belong to users, and which of them stand for devices.
    ids: Ids,
    dest: &'a Path,
    dest_fd: BorrowedFd<'a>,
    source_date_epoch: Option<u64>,
    /// The name every entry has until it is complete. One at a time is enough.
    temporary: String,
    /// Where the first of several hard links to a file was written, by device and inode of the source.
    links: HashMap<(u64, u64), PathBuf>,
    left_out: usize,
    written: Written,
    /// What is being written.
    tree: &'m Tree,
    /// What other platforms have in the same place.
    merged: &'a mut Merged<'m>,
    /// What is not to be deleted, if the rest is.
    kept: Option<&'a mut Kept>,
}

impl Writer<'_, '_> {
    /// Writes what is in `from` into `to`, which are both the directory `path`.
    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        path: &Path,
        depth: usize,
    ) -> Result<(), ExportError> {
        if depth > DEPTH_MAX {
            return Err(ExportError::TooDeep { path: self.dest.join(path), max: DEPTH_MAX });
        }
        let entries =
            self.ids.read_dir(from).map_err(ExportError::io("list", format!("/{}", path.display())))?;
        let kept_path = match &self.tree.below {
            Some(below) => Path::new(below).join(path),
            None => path.to_owned(),
        };
        if let Some(kept) = self.kept.as_mut() {
            // An empty directory is known, too: what is in it is deleted.
            kept.0.entry(kept_path.clone()).or_default();
        }
        for Entry { name, stat } in entries {
            let path = path.join(&name);
            let is_nothing = stat.kind == FileKind::CharDevice && stat.rdev == (0, 0);
            if let Some(kept) = self.kept.as_mut().filter(|_| !is_nothing) {
                kept.0.entry(kept_path.clone()).or_default().insert(name.clone());
            }
            if !is_nothing {
                // A directory that two platforms have ends as the second has it.
                self.merged.add(self.tree, &path, stat.kind == FileKind::Dir)?;
            }
            match stat.kind {
                FileKind::Dir => self.sub_directory(from, to, &name, &stat, &path, depth)?,
                FileKind::CharDevice if stat.rdev == (0, 0) => continue, // overlayfs: there is nothing here
                _ => self.entry(from, to, &name, &stat, &path)?,
            }
        }
        Ok(())
    }

    fn sub_directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        path: &Path,
        depth: usize,
    ) -> Result<(), ExportError> {
        let source = walk::open_dir_at(from, name).map_err(read_error(path))?;
        let target = self.open_or_make_directory(to, name, path)?;
        self.directory(source.as_fd(), target.as_fd(), path, depth + 1)?;
        let xattrs = walk::xattrs_at(from, name).map_err(read_error(path))?;
        set_xattrs(target.as_fd(), &xattrs);
        fd::fchmod(&target, Mode::from_raw_mode(stat.mode)).map_err(self.cannot("set the mode of", path))?;
        fd::futimens(&target, &self.times(stat)).map_err(self.cannot("set the times of", path))?;
        self.written.entries += 1;
        Ok(())
    }

    /// The directory `name` of `to`, writable by its owner for now. A file or symlink of that name gives way.
    fn open_or_make_directory(
        &self,
        to: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<OwnedFd, ExportError> {
        let mode = Mode::RWXU;
        match fd::mkdirat(to, name, mode) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let there = walk::stat_at(to, name).map_err(ExportError::io("read", self.show(path)))?;
                if there.kind != FileKind::Dir {
                    fd::unlinkat(to, name, AtFlags::empty()).map_err(self.cannot("replace", path))?;
                    fd::mkdirat(to, name, mode).map_err(self.cannot("create directory", path))?;
                } else if there.mode & 0o700 != 0o700 {
                    // Another export may have left it read-only. Where this fails, so does the next step, and says so.
                    let _ = fd::chmodat(to, name, Mode::from_raw_mode(there.mode | 0o700), AtFlags::empty());
                }
            }
            Err(error) => return Err(self.cannot("create directory", path)(error)),
        }
        walk::open_dir_at(to, name).map_err(ExportError::io("open", self.show(path)))
    }

    /// Anything but a directory: made under the temporary name, then renamed.
    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        path: &Path,
    ) -> Result<(), ExportError> {
        let temporary = self.temporary.clone();
        let made = self.make(from, to, name, stat, path, &temporary).and_then(|made| {
            if made {
                self.rename(to, &temporary, name, path)?;
            }
            Ok(made)
        });
        // Nothing is left of an entry that failed. After a rename there is nothing to remove, unless both names were
        // the same file, which makes a rename do nothing.
        let _ = fd::unlinkat(to, &temporary, AtFlags::empty());
        if made? {
            self.written.entries += 1;
        }
        Ok(())
    }

    /// Makes the entry as `temporary`; says whether there is one.
    fn make(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        path: &Path,
        temporary: &str,
    ) -> Result<bool, ExportError> {
        if stat.nlink > 1 {
            if let Some(first) = self.links.get(&(stat.dev, stat.ino)) {
                self.link(first, to, temporary, path)?;
                return Ok(true);
            }
            self.links.insert((stat.dev, stat.ino), path.to_owned());
        }
        match stat.kind {
            FileKind::File => self.file(from, to, name, stat, path, temporary)?,
            FileKind::Symlink => {
                let target = walk::readlink_at(from, name).map_err(read_error(path))?;
                fd::symlinkat(&target, to, temporary).map_err(self.cannot("create symlink", path))?;
                let times = self.times(stat);
                fd::utimensat(to, temporary, &times, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(self.cannot("set the times of", path))?;
            }
            FileKind::CharDevice => return self.node(to, stat, path, temporary, FileType::CharacterDevice),
            FileKind::BlockDevice => return self.node(to, stat, path, temporary, FileType::BlockDevice),
            FileKind::Fifo => return self.node(to, stat, path, temporary, FileType::Fifo),
            FileKind::Socket => {
                self.leave_out(format!("left out the socket `{}`", path.display()), stat);
                return Ok(false);
            }
            FileKind::Dir => unreachable!("directories are not entries"),
        }
        Ok(true)
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        path: &Path,
        temporary: &str,
    ) -> Result<(), ExportError> {
        let mut source = walk::open_file_at(from, name).map_err(read_error(path))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target =
            fd::openat(to, temporary, flags, Mode::RUSR | Mode::WUSR).map_err(self.cannot("create", path))?;
        let mut target = File::from(target);
        let size = io::copy(&mut source, &mut target).map_err(ExportError::io("write", self.show(path)))?;
        set_xattrs(target.as_fd(), &walk::xattrs_at(from, name).map_err(read_error(path))?);
        fd::fchmod(&target, Mode::from_raw_mode(stat.mode)).map_err(self.cannot("set the mode of", path))?;
        fd::futimens(&target, &self.times(stat)).map_err(self.cannot("set the times of", path))?;
        self.written.size += size;
        Ok(())
    }

    /// A device or pipe, where this process may make one.
    fn node(
        &mut self,
        to: BorrowedFd<'_>,
        stat: &Stat,
        path: &Path,
        temporary: &str,
        kind: FileType,
    ) -> Result<bool, ExportError> {
        let device = fd::makedev(stat.rdev.0, stat.rdev.1);
        match fd::mknodat(to, temporary, kind, Mode::from_raw_mode(stat.mode), device) {
            Ok(()) => {}
            Err(rustix::io::Errno::PERM) => {
                let note = format!("left out the device `{}`: it needs more privileges", path.display());
                self.leave_out(note, stat);
                return Ok(false);
            }
            Err(error) => return Err(self.cannot("create device", path)(error)),
        }
        // Past the umask. The name is ours and no symlink: it was just made, with a name nobody else can guess.
        fd::chmodat(to, temporary, Mode::from_raw_mode(stat.mode), AtFlags::empty())
            .map_err(self.cannot("set the mode of", path))?;
        fd::utimensat(to, temporary, &self.times(stat), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.cannot("set the times of", path))?;
        Ok(true)
    }

    /// Links `temporary` to the file written as `first`, reached without following any symlink.
    fn link(
        &self,
        first: &Path,
        to: BorrowedFd<'_>,
        temporary: &str,
        path: &Path,
    ) -> Result<(), ExportError> {
        let name = first.file_name().expect("every entry has a name");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let parent = match first.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let parent = fd::openat2(self.dest_fd, parent, flags, Mode::empty(), resolve)
            .map_err(self.cannot("open the directory of", first))?;
        fd::linkat(&parent, name, to, temporary, AtFlags::empty())
            .map_err(self.cannot("create hard link", path))
    }

    fn rename(
        &self,
        to: BorrowedFd<'_>,
        temporary: &str,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), ExportError> {
        match fd::renameat(to, temporary, to, name) {
            Ok(()) => Ok(()),
            // An empty directory gives way, a full one is somebody's work.
            Err(rustix::io::Errno::ISDIR) => match fd::unlinkat(to, name, AtFlags::REMOVEDIR) {
                Ok(()) => fd::renameat(to, temporary, to, name).map_err(self.cannot("create", path)),
                Err(rustix::io::Errno::NOTEMPTY) => Err(ExportError::InTheWay {
                    path: self.dest.join(path),
                    obstacle: "a directory that is not empty",
                }),
                Err(error) => Err(self.cannot("replace", path)(error)),
            },
            Err(error) => Err(self.cannot("create", path)(error)),
        }
    }

    fn leave_out(&mut self, note: String, stat: &Stat) {
        self.links.remove(&(stat.dev, stat.ino));
        self.left_out += 1;
        if self.left_out <= NOTES_MAX {
            self.written.notes.push(note);
        }
    }

    fn times(&self, stat: &Stat) -> Timestamps {
        let (seconds, nanos) = match self.source_date_epoch.map(|it| i64::try_from(it).unwrap_or(i64::MAX)) {
            Some(epoch) if stat.mtime.0 >= epoch => (epoch, 0),
            _ => stat.mtime,
        };
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
        Timestamps { last_access: time, last_modification: time }
    }

    fn show(&self, path: &Path) -> String {
        self.dest.join(path).display().to_string()
    }

    fn cannot(&self, operation: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> ExportError {
        let object = self.show(path);
        move |error| ExportError::Io { operation, object, source: error.into() }
    }
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> ExportError {
    ExportError::io("read", format!("/{}", path.display()))
}

/// Sets what this process may and this file system can; the rest means nothing outside the image (`security.*` needs
/// privileges, some file systems have no attributes). The marks of overlayfs and of wharf are not the image's.
fn set_xattrs(file: BorrowedFd<'_>, xattrs: &[(OsString, Vec<u8>)]) {
    for (name, value) in xattrs.iter().filter(|(name, _)| is_content_xattr(name)) {
        if let Ok(name) = CString::new(name.as_bytes()) {
            let _ = fd::fsetxattr(file, &name, value, XattrFlags::empty());
        }
    }
}
