//! What can be mounted in a sandbox, tried without a lasting effect.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};
use rustix::pipe::{PipeFlags, pipe_with};

use super::namespace::Namespace;
use super::place::Place;
use crate::sys::{self, Errno};

/// What came of each trial: nothing, or an error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checks {
    /// A procfs in a pid namespace of its own.
    pub(super) procfs: Result<(), i32>,
    /// A sysfs in a network namespace of its own.
    pub(super) sysfs: Result<(), i32>,
    /// A network namespace.
    pub(super) network: Result<(), i32>,
    /// An overlay on the file system of the store.
    pub(super) overlay: Result<(), i32>,
}

const CHECKS: usize = 4;

impl Checks {
    /// Tries them in a process of its own, in `namespace` or where this process is. None where that process could not
    /// be made or was killed.
    pub(super) fn run(namespace: Option<Namespace>, place: &Place, store: &Path) -> Option<Self> {
        let (result, answer) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        let child = || {
            let answers = try_all(namespace.as_ref(), place, store);
            let bytes: Vec<u8> = answers.iter().flat_map(|answer| answer.to_ne_bytes()).collect();
            i32::from(File::from(answer).write_all(&bytes).is_err())
        };
        let pid = sys::fork(child).ok()?;
        let mut bytes = [0; CHECKS * 4];
        let read = File::from(result).read_exact(&mut bytes);
        sys::wait_for(pid);
        read.ok()?;
        let answer = |at: usize| {
            let number = bytes.get(at * 4..at * 4 + 4)?.try_into().ok().map(i32::from_ne_bytes)?;
            Some(if number == 0 { Ok(()) } else { Err(number) })
        };
        Some(Self { procfs: answer(0)?, sysfs: answer(1)?, network: answer(2)?, overlay: answer(3)? })
    }
}

/// The error numbers of all trials.
fn try_all(namespace: Option<&Namespace>, place: &Place, store: &Path) -> [i32; CHECKS] {
    let entered = match namespace {
        Some(namespace) => namespace.enter(place).map_err(|obstacle| obstacle.errno().unwrap_or(libc::EPERM)),
        None => sys::unshare(libc::CLONE_NEWNS).map_err(|Errno(errno)| errno),
    };
    if let Err(errno) = entered {
        return [errno; CHECKS];
    }
    let number = |result: Result<(), Errno>| result.err().map_or(0, |Errno(errno)| errno);
    let private = sys::mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None);
    let overlay = try_overlay(store).err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
    let procfs = private.and_then(|()| try_procfs());
    let network = sys::unshare(libc::CLONE_NEWNET);
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_RDONLY;
    let sysfs = network.and_then(|()| sys::mount(Some(c"sysfs"), c"/sys", Some(c"sysfs"), flags, None));
    [number(procfs), number(sysfs), number(network), overlay]
}

fn try_procfs() -> Result<(), Errno> {
    sys::unshare(libc::CLONE_NEWPID)?;
    let (result, answer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Errno(errno.raw_os_error()))?;
    // Only a child is in the new pid namespace.
    let child = || {
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let mounted = sys::mount(Some(c"proc"), c"/proc", Some(c"proc"), flags, None);
        let errno = mounted.err().map_or(0, |Errno(errno)| errno);
        i32::from(File::from(answer).write_all(&errno.to_ne_bytes()).is_err())
    };
    let pid = sys::fork(child).map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EAGAIN)))?;
    let mut errno = [0; 4];
    let read = File::from(result).read_exact(&mut errno);
    sys::wait_for(pid);
    match (read, i32::from_ne_bytes(errno)) {
        (Ok(()), 0) => Ok(()),
        (Ok(()), errno) => Err(Errno(errno)),
        (Err(_), _) => Err(Errno(libc::EPERM)),
    }
}

/// Whether directories below `dir` can be the upper part of an overlay: mounts one nowhere, and takes all away again.
/// `dir` may be missing; then it is what there is of the path to it that counts.
pub fn try_overlay(dir: &Path) -> io::Result<()> {
    let scratch = Scratch::at(dir)?;
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| scratch.path().join(name));
    for dir in [&lower, &upper, &work] {
        fs::create_dir(dir)?;
    }
    // Without these attributes a directory that was made anew cannot be told from one that was changed.
    rustix::fs::setxattr(&upper, c"user.overlay.opaque", b"n", XattrFlags::empty())?;
    mount_overlay(&lower, &upper, &work).map(drop)
}

fn mount_overlay(lower: &Path, upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    fsconfig_set_flag(&context, "userxattr")?;
    for (key, path) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        fsconfig_set_string(&context, key, path.as_os_str().as_encoded_bytes())?;
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// So many names are tried for a directory to try something in.
const SCRATCHES_MAX: u32 = 1000;

/// A directory that goes when this does.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// On the file system of `dir`, which may be missing: then it is what there is of the path to it that counts.
    pub(crate) fn at(dir: &Path) -> io::Result<Self> {
        let existing = dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."));
        Self::make(if existing.as_os_str().is_empty() { Path::new(".") } else { existing })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn make(dir: &Path) -> io::Result<Self> {
        let dir = std::path::absolute(dir)?;
        // Containers that share the place have each a process 1, and one that was killed has left its directory.
        let mut number = 0;
        loop {
            let path = dir.join(format!(".wharf-trial-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < SCRATCHES_MAX => {
                    number += 1;
                }
                made => return made.map(|()| Self(path)),
            }
        }
    }
}

#[cfg(test)]
#[test]
fn a_directory_that_is_there_already_is_another_ones() {
    let dir = std::env::temp_dir();
    let (one, two) = (Scratch::make(&dir).unwrap(), Scratch::make(&dir).unwrap());
    assert_ne!(one.0, two.0);
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The kernel's own directory in `work` may not be entered.
        let _ = fs::remove_dir(self.0.join("work/work"));
        let _ = fs::remove_dir_all(&self.0);
    }
}
