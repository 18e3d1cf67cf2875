//! Paths inside a tree that somebody else describes. Every step is one component, taken relative to a directory
//! descriptor and never through a symlink; symlinks are read and followed here, with the tree's root as `/`. So nothing
//! that a layer or archive says leads out of the tree.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::DiffError;
use crate::walk::{self, FileKind};

/// The kernel's limit on a path. Longer ones could be made step by step, but nothing could open them.
const PATH_BYTES_MAX: usize = 4096;
/// The limit of every Linux file system on a name.
const NAME_BYTES_MAX: usize = 255;
/// The kernel's limit on symlinks in one path.
const SYMLINK_FOLLOW_MAX: usize = 40;

/// The components of a path as an archive gives it, cleaned by its text: a leading `/`, empty ones and `.` do not count,
/// `..` takes the one before it back and cannot lead above the root.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    if path.len() > PATH_BYTES_MAX {
        return Err(format!("the path has {} bytes, more than {PATH_BYTES_MAX}", path.len()));
    }
    if path.contains(&0) {
        return Err("the path has a NUL byte in it".to_owned());
    }
    let mut components = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if components.pop().is_some() => {}
            b".." => return Err("the path leads upward (`..`)".to_owned()),
            name if name.len() > NAME_BYTES_MAX => {
                return Err(format!("a name has {} bytes, more than {NAME_BYTES_MAX}", name.len()));
            }
            name => components.push(name),
        }
    }
    Ok(components)
}

/// A directory below a root.
#[derive(Debug, Clone)]
pub(super) struct Dir {
    pub(super) fd: Arc<OwnedFd>,
    /// Its path from the root, without symlinks; empty for the root.
    pub(super) path: Vec<u8>,
}

impl Dir {
    /// Path of an entry of this directory.
    pub(super) fn join(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { name.to_vec() } else { [&self.path, &b"/"[..], name].concat() }
    }
}

/// What to do where a directory is wanted and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Fail.
    Fail,
    /// Make one, also in place of something else.
    Create,
    /// Make one where nothing is.
    Make,
}

/// A directory that had to be made on the way.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) path: Vec<u8>,
    /// Something else was in its place.
    pub(super) replaced: bool,
}

/// The root of a tree.
#[derive(Debug)]
pub(super) struct Root {
    fd: Arc<OwnedFd>,
    /// The directory asked for last, under the path it was asked by: archives mostly go on in the same one.
    last: Option<(Vec<u8>, Dir)>,
}

impl Root {
    pub(super) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { fd: Arc::new(walk::open_dir_at(fd, OsStr::new("."))?), last: None })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Must be called when a name that may have been a directory or symlink is taken away.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// The directory that `components` lead to, symlinks followed within the root; what had to be made is appended
    /// to `created`.
    pub(super) fn dir(
        &mut self,
        components: &[&[u8]],
        missing: Missing,
        created: &mut Vec<Created>,
    ) -> io::Result<Dir> {
        let key = components.join(&b'/');
        if let Some((path, dir)) = &self.last
            && *path == key
        {
            return Ok(dir.clone());
        }
        let dir = self.resolve(components, missing, created)?;
        self.last = Some((key, dir.clone()));
        Ok(dir)
    }

    fn resolve(
        &mut self,
        components: &[&[u8]],
        missing: Missing,
        created: &mut Vec<Created>,
    ) -> io::Result<Dir> {
        let mut ahead: VecDeque<Vec<u8>> = components.iter().map(|name| name.to_vec()).collect();
        // The directories passed through, so that `..` in a symlink's target leads back and never above the root.
        let mut passed = vec![Dir { fd: Arc::clone(&self.fd), path: Vec::new() }];
        let mut followed = 0;
        while let Some(name) = ahead.pop_front() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    passed.truncate(passed.len().saturating_sub(1).max(1));
                    continue;
                }
                _ => {}
            }
            let here = passed.last().expect("the root is never taken off").clone();
            let path = here.join(&name);
            if path.len() > PATH_BYTES_MAX {
                return Err(Errno::NAMETOOLONG.into());
            }
            let replaced = match open_path(here.fd.as_fd(), &name) {
                Ok(fd) => {
                    passed.push(Dir { fd: Arc::new(fd), path });
                    continue;
                }
                Err(Errno::NOENT) => false,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let os_name = OsStr::from_bytes(&name);
                    if walk::stat_at(here.fd.as_fd(), os_name)?.kind == FileKind::Symlink {
                        followed += 1;
                        if followed > SYMLINK_FOLLOW_MAX {
                            return Err(Errno::LOOP.into());
                        }
                        let target = walk::readlink_at(here.fd.as_fd(), os_name)?;
                        if target.as_bytes().starts_with(b"/") {
                            passed.truncate(1);
                        }
                        for part in target.as_bytes().split(|&byte| byte == b'/').rev() {
                            ahead.push_front(part.to_vec());
                        }
                        continue;
                    }
                    true
                }
                Err(errno) => return Err(errno.into()),
            };
            if missing == Missing::Fail {
                return Err(Errno::NOENT.into());
            }
            if replaced && missing == Missing::Make {
                return Err(Errno::NOTDIR.into());
            }
            if replaced {
                rustix::fs::unlinkat(&*here.fd, &name[..], AtFlags::empty())?;
                self.last = None;
            }
            rustix::fs::mkdirat(&*here.fd, &name[..], Mode::from_raw_mode(0o755))?;
            // The process's umask has no say. By a descriptor: who runs in the tree may have put a link there by now.
            let made = walk::open_dir_at(here.fd.as_fd(), OsStr::from_bytes(&name))?;
            rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
            let fd = made;
            created.push(Created { path: path.clone(), replaced });
            passed.push(Dir { fd: Arc::new(fd), path });
        }
        Ok(passed.pop().expect("the root is never taken off"))
    }
}

/// Opens the directory at `path`, which has no symlinks, for changing its metadata; `None` if there is none.
pub(crate) fn open_dir_below(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Option<OwnedFd>> {
    let mut dir = walk::open_dir_at(root, OsStr::new("."))?;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        dir = match walk::open_dir_at(dir.as_fd(), OsStr::from_bytes(name)) {
            Ok(dir) => dir,
            Err(error) => {
                return match Errno::from_io_error(&error) {
                    Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
                    _ => Err(error),
                };
            }
        };
    }
    Ok(Some(dir))
}

/// Removes `name`, with all that is in it if it is a directory. Nobody else is changing it.
pub(super) fn remove_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let inside = walk::open_dir_at(dir, OsStr::from_bytes(name))?;
    let names: Vec<CString> = rustix::fs::Dir::read_from(&inside)?
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
        .collect::<Result<_, _>>()?;
    for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        // Paths are limited, and so is the depth.
        remove_at(inside.as_fd(), name.to_bytes())?;
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

/// An error of a path in a tree.
pub(super) fn write_error(
    operation: &'static str,
    path: &[u8],
    object: &str,
    source: io::Error,
) -> DiffError {
    let path = String::from_utf8_lossy(path).into_owned();
    DiffError::Write { operation, path, object: object.to_owned(), source }
}

fn open_path(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn paths_are_cleaned_or_refused() {
        let check = |path: &str, names: &[&str]| {
            let cleaned: Vec<_> = components(path.as_bytes())
                .unwrap()
                .iter()
                .map(|name| str::from_utf8(name).unwrap())
                .collect();
            assert_eq!(cleaned, names, "{path}");
        };
        check("/abs//x/", &["abs", "x"]);
        check("./a/./b", &["a", "b"]);
        check("./", &[]);
        check("...", &["..."]);
        check("a/../b/c/..", &["b"]);
        for path in ["../x", "a/../../b", "..", "a\0b", &"n".repeat(256), &"a/".repeat(2049)] {
            assert!(components(path.as_bytes()).is_err(), "{path:?}");
        }
    }

    #[test]
    fn symlinks_stay_within_the_root() {
        let scratch = Scratch::new();
        let root = scratch.path("root");
        std::fs::create_dir_all(root.join("etc/deep")).unwrap();
        std::fs::create_dir_all(scratch.path("outside")).unwrap();
        symlink("/", root.join("abs")).unwrap();
        symlink("../../../outside", root.join("etc/up")).unwrap();
        symlink("etc/deep", root.join("in")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();

        let mut tree = Root::new(File::open(&root).unwrap().as_fd()).unwrap();
        let mut check = |path: &str, missing, found: Option<&str>, created: &[&str]| {
            let mut made = Vec::new();
            let names: Vec<_> = path.split('/').map(str::as_bytes).collect();
            let dir = tree.dir(&names, missing, &mut made).ok();
            assert_eq!(dir.map(|dir| String::from_utf8(dir.path).unwrap()).as_deref(), found, "{path}");
            let made: Vec<_> = made.iter().map(|made| str::from_utf8(&made.path).unwrap()).collect();
            assert_eq!(made, created, "{path}");
        };
        use Missing::{Create, Fail};
        check("etc/deep", Fail, Some("etc/deep"), &[]);
        check("in", Fail, Some("etc/deep"), &[]);
        check("abs/abs/etc", Fail, Some("etc"), &[]);
        check("etc/up", Fail, None, &[]);
        check("etc/up/x", Create, Some("outside/x"), &["outside", "outside/x"]);
        check("loop/x", Create, None, &[]);
        check("file/x", Fail, None, &[]);
        check("file/x", Create, Some("file/x"), &["file", "file/x"]);
        assert_eq!(std::fs::read_dir(scratch.path("outside")).unwrap().count(), 0);
    }
}
