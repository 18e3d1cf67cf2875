//! Deleting a directory tree that somebody else filled: any depth, any mode, any kind of file, no symlink followed.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Directories deeper than this are moved up before they are emptied, which bounds stack and descriptors.
const DEPTH_MAX: usize = 32;

/// Deletes `name` in `parent`, whatever it is; nothing there is fine. Goes on after a failure and reports the first.
/// Nobody else may be changing the tree, and no file in `parent` but `name` may begin with `name` and a dot.
pub(crate) fn remove_tree(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    let mut removal = Removal { parent, name, hoisted: 0, next: 0, first_error: None };
    removal.entry(parent, name, 0);
    while removal.next < removal.hoisted {
        let hoisted = removal.hoisted_name(removal.next);
        removal.next += 1;
        removal.entry(parent, &hoisted, 0);
    }
    // A directory that was moved up left its parents in place only until they had been emptied, so all is gone now.
    match removal.first_error {
        Some(errno) => Err(errno.into()),
        None => Ok(()),
    }
}

struct Removal<'a> {
    parent: &'a OwnedFd,
    name: &'a CStr,
    hoisted: u64,
    next: u64,
    first_error: Option<Errno>,
}

impl Removal<'_> {
    fn entry(&mut self, dir: impl AsFd, name: &CStr, depth: usize) {
        match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return,
            Err(Errno::ISDIR) => {}
            Err(errno) => return self.failed(errno),
        }
        match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return self.failed(errno),
        }
        if depth == DEPTH_MAX {
            return self.hoist(dir, name);
        }
        if let Err(errno) = self.empty(&dir, name, depth) {
            self.failed(errno);
        }
        match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => self.failed(errno),
        }
    }

    /// Deletes what is in the directory `name` of `dir`.
    fn empty(&mut self, dir: impl AsFd, name: &CStr, depth: usize) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&dir, name, flags, Mode::empty());
        let opened = open().or_else(|errno| match errno {
            // Its owner may have taken its own permission away (overlayfs makes `work/work` with mode 000).
            Errno::ACCESS => {
                rustix::fs::chmodat(&dir, name, Mode::RWXU, AtFlags::empty()).and_then(|()| open())
            }
            errno => Err(errno),
        })?;
        for entry in rustix::fs::Dir::read_from(&opened)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.entry(&opened, name, depth + 1);
        }
        Ok(())
    }

    fn hoist(&mut self, dir: impl AsFd, name: &CStr) {
        let hoisted = self.hoisted_name(self.hoisted);
        match rustix::fs::renameat(dir, name, self.parent, &hoisted) {
            Ok(()) => self.hoisted += 1,
            Err(errno) => self.failed(errno),
        }
    }

    fn hoisted_name(&self, number: u64) -> CString {
        let mut name = self.name.to_bytes().to_vec();
        name.extend_from_slice(format!(".{number}").as_bytes());
        CString::new(name).expect("a C string and digits hold no NUL byte")
    }

    fn failed(&mut self, errno: Errno) {
        self.first_error.get_or_insert(errno);
    }
}
