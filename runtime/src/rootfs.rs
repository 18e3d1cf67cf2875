//! The container's root file system as the parent sees it: paths are resolved inside it, whatever links say.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::RuntimeError;

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

/// Opens `path` inside `root`.
pub(crate) fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// The contents of the regular file `path` inside `root`, if there is one, at most `limit` bytes.
pub(crate) fn read_file(root: BorrowedFd<'_>, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    // Not blocking: a hostile root may have a pipe there.
    let file = match open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(file) => File::from(file),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(bytes))
}

/// What something is mounted over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetKind {
    Directory,
    File,
}

impl TargetKind {
    /// A directory can be mounted only over a directory, anything else only over something else.
    fn goes_over(self, found: &OwnedFd, path: &Path) -> Result<(), RuntimeError> {
        let stat = rustix::fs::fstat(found)
            .map_err(|errno| step(format!("look at the mount point {}", path.display()), errno.into()))?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let (what, source) = match self {
            Self::Directory if !is_directory => ("directory", io::ErrorKind::NotADirectory),
            Self::File if is_directory => ("file", io::ErrorKind::IsADirectory),
            _ => return Ok(()),
        };
        Err(step(format!("mount a {what} over {}", path.display()), source.into()))
    }
}

/// The mount points that were missing and have been made. They are removed again by [`Self::remove`], or when this is
/// dropped, unless the container changed them.
#[derive(Debug, Default)]
pub(crate) struct MountPoints {
    /// In the order in which they were made.
    stubs: Vec<Stub>,
}

#[derive(Debug)]
struct Stub {
    parent: OwnedFd,
    name: OsString,
    path: PathBuf,
    kind: TargetKind,
    identity: (u64, u64),
    /// The parent's modification time before and after this was made.
    parent_times: (Timespec, Timespec),
}

impl MountPoints {
    /// Makes `path` inside `root` when it does not exist, and the directories above it.
    pub(crate) fn ensure(
        &mut self,
        root: BorrowedFd<'_>,
        path: &Path,
        kind: TargetKind,
    ) -> Result<(), RuntimeError> {
        match open(root, path, OFlags::PATH) {
            Ok(found) => return kind.goes_over(&found, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(step(format!("look for the mount point {}", path.display()), source)),
        }
        self.make(root, path, kind)
            .map_err(|source| step(format!("make the mount point {}", path.display()), source))
    }

    /// Removes what is still as it was made. Goes on after a failure and returns the first one.
    pub(crate) fn remove(mut self) -> Result<(), RuntimeError> {
        self.remove_all()
    }

    fn remove_all(&mut self) -> Result<(), RuntimeError> {
        let mut result = Ok(());
        for stub in self.stubs.drain(..).rev() {
            if let Err(source) = stub.remove() {
                let failed = step(format!("remove the mount point {}", stub.path.display()), source);
                result = result.and(Err(failed));
            }
        }
        result
    }

    /// Makes `path` inside `root` as [`Self::ensure`] does and returns where it is: links have been followed.
    pub(crate) fn place(
        &mut self,
        root: BorrowedFd<'_>,
        path: &Path,
        kind: TargetKind,
    ) -> Result<Place, RuntimeError> {
        self.ensure(root, path, kind)?;
        let found = walk(root, path, &mut |_, _, _| Err(Errno::NOENT.into()));
        found
            .and_then(|place| place.ok_or_else(|| Errno::BUSY.into()))
            .map_err(|source| step(format!("find the mount point {}", path.display()), source))
    }

    /// The directories in which something was made, and when they were changed last before that.
    pub(crate) fn parents(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Timespec)> {
        self.stubs.iter().map(|stub| (stub.parent.as_fd(), stub.parent_times.0))
    }

    /// Makes what is missing on the way to `path`.
    fn make(&mut self, root: BorrowedFd<'_>, path: &Path, kind: TargetKind) -> io::Result<()> {
        let mut make = |directory: BorrowedFd<'_>, name: &OsStr, is_last: bool| {
            match Stub::make(directory, name, path, if is_last { kind } else { TargetKind::Directory }) {
                Ok(stub) => self.stubs.push(stub),
                // Somebody else made it meanwhile, and it is theirs.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            Ok(())
        };
        walk(root, path, &mut make).map(drop)
    }
}

/// An entry of a directory.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) parent: OwnedFd,
    pub(crate) name: OsString,
}

impl Place {
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(Self { parent: self.parent.try_clone()?, name: self.name.clone() })
    }
}

/// Makes an entry that is missing, in a directory, under a name, the last one or not.
type Make<'a> = &'a mut dyn FnMut(BorrowedFd<'_>, &OsStr, bool) -> io::Result<()>;

/// Walks to `path` one name at a time, as the kernel would with `root` as its root, and calls `make` for what is missing.
/// Returns where it ends; that is nowhere for the root itself.
fn walk(root: BorrowedFd<'_>, path: &Path, make: Make<'_>) -> io::Result<Option<Place>> {
    let mut names = names(path);
    // Each with its name in the one before.
    let mut directories: Vec<(OwnedFd, OsString)> = Vec::new();
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        if name == ".." {
            directories.pop();
            continue;
        }
        let directory = directories.last().map_or(root, |(directory, _)| directory.as_fd());
        let entry = match rustix::fs::openat(directory, &name, O_ENTRY, Mode::empty()) {
            Ok(entry) => entry,
            Err(Errno::NOENT) => {
                make(directory, &name, names.is_empty())?;
                rustix::fs::openat(directory, &name, O_ENTRY, Mode::empty())?
            }
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(rustix::fs::fstat(&entry)?.st_mode) {
            FileType::Directory => directories.push((entry, name)),
            FileType::Symlink => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&entry, c"", Vec::new())?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    directories.clear();
                }
                let mut rest = self::names(&target);
                rest.append(&mut names);
                names = rest;
            }
            _ if names.is_empty() => {
                return Ok(Some(Place { parent: directory.try_clone_to_owned()?, name }));
            }
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    let Some((_, name)) = directories.pop() else { return Ok(None) };
    let parent = match directories.pop() {
        Some((parent, _)) => parent,
        None => root.try_clone_to_owned()?,
    };
    Ok(Some(Place { parent, name }))
}

impl Drop for MountPoints {
    fn drop(&mut self) {
        // Whoever drops this has an error to report already.
        let _ = self.remove_all();
    }
}

impl Stub {
    fn make(directory: BorrowedFd<'_>, name: &OsStr, path: &Path, kind: TargetKind) -> io::Result<Self> {
        let before = modified(&rustix::fs::fstat(directory)?);
        let mode = match kind {
            TargetKind::Directory => {
                let mode = Mode::from_raw_mode(0o755);
                rustix::fs::mkdirat(directory, name, mode)?;
                mode
            }
            TargetKind::File => {
                let mode = Mode::from_raw_mode(0o644);
                rustix::fs::mknodat(directory, name, FileType::RegularFile, mode, 0)?;
                mode
            }
        };
        // The caller's umask is not the container's.
        rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
        let made = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Self {
            parent: directory.try_clone_to_owned()?,
            name: name.to_owned(),
            path: path.to_owned(),
            kind,
            identity: identity(&made),
            parent_times: (before, modified(&rustix::fs::fstat(directory)?)),
        })
    }

    /// Removes it if it is the same and empty, and then gives the parent directory its time back if nothing else
    /// happened there.
    fn remove(&self) -> io::Result<()> {
        let found = match rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            result => result?,
        };
        let parent = modified(&rustix::fs::fstat(&self.parent)?);
        if identity(&found) != self.identity {
            return Ok(());
        }
        match self.kind {
            TargetKind::File if found.st_size != 0 || found.st_nlink != 1 => return Ok(()),
            TargetKind::File => rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::empty())?,
            TargetKind::Directory => match rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR)
            {
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(()),
                result => result?,
            },
        }
        if parent == self.parent_times.1 {
            let times = Timestamps {
                last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                last_modification: self.parent_times.0,
            };
            rustix::fs::utimensat(&self.parent, c".", &times, AtFlags::empty())?;
        }
        Ok(())
    }
}

/// Opens an entry as it is, links included.
const O_ENTRY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .filter(|name| !name.as_bytes().is_empty())
        .collect()
}

pub(crate) fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

pub(crate) fn modified(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ }
}

fn step(step: String, source: io::Error) -> RuntimeError {
    RuntimeError::Step { step, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn root(directory: &TempDir) -> OwnedFd {
        OwnedFd::from(File::open(directory.path()).unwrap())
    }

    #[track_caller]
    fn check(target: &str, kind: TargetKind, made: &[&str]) {
        let directory = TempDir::new();
        let base = directory.path();
        fs::create_dir_all(base.join("etc")).unwrap();
        fs::create_dir_all(base.join("usr/run")).unwrap();
        symlink("../run/resolve/stub.conf", base.join("etc/resolv.conf")).unwrap();
        symlink("/../../usr/run", base.join("run")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        let old = fs::metadata(base.join("etc")).unwrap().mtime_nsec();
        let root = root(&directory);
        let mut points = MountPoints::default();
        points.ensure(root.as_fd(), Path::new(target), kind).unwrap();
        for path in made {
            assert!(fs::symlink_metadata(base.join(path)).is_ok(), "{path} was not made for {target}");
        }
        assert_eq!(points.stubs.len(), made.len(), "{target}");
        points.ensure(root.as_fd(), Path::new(target), kind).unwrap();
        assert_eq!(points.stubs.len(), made.len(), "{target} was made twice");
        points.remove().unwrap();
        for path in made {
            assert!(fs::symlink_metadata(base.join(path)).is_err(), "{path} is left of {target}");
        }
        assert_eq!(fs::metadata(base.join("etc")).unwrap().mtime_nsec(), old, "the time of /etc");
    }

    #[test]
    fn missing_targets_are_made_inside_the_root_and_removed() {
        use TargetKind::{Directory, File};
        check("/etc", Directory, &[]);
        check("/etc/hosts", File, &["etc/hosts"]);
        check("/a/b/c", Directory, &["a", "a/b", "a/b/c"]);
        check("/a/b/c", File, &["a", "a/b", "a/b/c"]);
        check("/etc/resolv.conf", File, &["usr/run/resolve", "usr/run/resolve/stub.conf"]);
        check("/../../etc/x", File, &["etc/x"]);
    }

    #[test]
    fn directories_and_files_do_not_go_over_each_other() {
        let directory = TempDir::new();
        fs::write(directory.path().join("file"), "").unwrap();
        let root = root(&directory);
        let mut points = MountPoints::default();
        let mut ensure = |path: &str, kind| points.ensure(root.as_fd(), Path::new(path), kind).is_ok();
        assert!(ensure("/", TargetKind::Directory) && ensure("/file", TargetKind::File));
        assert!(!ensure("/", TargetKind::File) && !ensure("/file", TargetKind::Directory));
    }

    #[test]
    fn links_cannot_go_round_for_ever_and_files_are_no_directories() {
        let directory = TempDir::new();
        symlink("loop", directory.path().join("loop")).unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        let root = root(&directory);
        for target in ["/loop", "/loop/x", "/file/x"] {
            let mut points = MountPoints::default();
            assert!(points.ensure(root.as_fd(), Path::new(target), TargetKind::File).is_err(), "{target}");
        }
    }

    #[test]
    fn what_the_container_changed_stays() {
        let directory = TempDir::new();
        let base = directory.path();
        let root = root(&directory);
        let mut points = MountPoints::default();
        for (target, kind) in [
            ("/written", TargetKind::File),
            ("/filled", TargetKind::Directory),
            ("/replaced", TargetKind::File),
            ("/gone", TargetKind::File),
        ] {
            points.ensure(root.as_fd(), Path::new(target), kind).unwrap();
        }
        fs::write(base.join("written"), "x").unwrap();
        fs::write(base.join("filled/x"), "").unwrap();
        fs::rename(base.join("gone"), base.join("elsewhere")).unwrap();
        fs::write(base.join("new"), "").unwrap();
        fs::rename(base.join("new"), base.join("replaced")).unwrap();
        let changed = fs::metadata(base).unwrap().mtime_nsec();
        points.remove().unwrap();
        for path in ["written", "filled/x", "replaced", "elsewhere"] {
            assert!(base.join(path).exists(), "{path}");
        }
        assert_eq!(fs::metadata(base).unwrap().mtime_nsec(), changed);
    }

    #[test]
    fn files_are_read_inside_the_root_and_up_to_a_limit() {
        let directory = TempDir::new();
        let base = directory.path();
        fs::write(base.join("five"), "12345").unwrap();
        symlink("/five", base.join("link")).unwrap();
        symlink("/etc/passwd", base.join("outside")).unwrap();
        let root = root(&directory);
        let read = |path: &str, limit| read_file(root.as_fd(), Path::new(path), limit);
        assert_eq!(read("five", 5).unwrap().as_deref(), Some(&b"12345"[..]));
        assert_eq!(read("link", 5).unwrap().as_deref(), Some(&b"12345"[..]));
        assert_eq!(read("five", 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read("outside", 5).unwrap(), None);
        assert!(read("/", 5).is_err());
    }
}
