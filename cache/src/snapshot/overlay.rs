//! Stacking by the kernel: detached overlay mounts, made with the new mount API.
//!
//! Overlay mounts are *detached* (`fsmount` without `move_mount`): they have no place in any mount namespace, live as long
//! as their descriptor, and so disappear with the process however it dies.
//!
//! What is written goes to the upper directory in a form that can be read without the layers below: no metacopy, no
//! redirects, no index. Redirects that somebody put into a layer are not followed either. The marks are attributes of users
//! (`userxattr`), which can be written in every user namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};

use super::copy::Tree;
use super::snapshotter::{InPlace, Place, Snapshotter, Working, topmost_first};
use super::{Chain, SnapshotError, SnapshotId, missing};
use crate::{Store, StoreError};

/// Lower layers one overlay can have (`OVL_MAX_STACK` of the kernel).
const STACK_MAX: usize = 500;

/// Lower layers that [`mount`] can stack: the lowest 500 as an overlay of their own below 499 others.
const LAYERS_MAX: usize = 2 * STACK_MAX - 1;

/// The kernel takes parameter values of at most 255 bytes.
const VALUE_BYTES_MAX: usize = 255;

/// The kernel reports this many messages of one mount at most.
const MESSAGES_MAX: usize = 8;

/// Snapshots stacked by overlayfs.
#[derive(Debug)]
pub(super) struct Overlay;

impl Snapshotter for Overlay {
    fn begin(
        &self,
        store: &Store,
        chain: &Chain,
        place: Place<'_>,
    ) -> Result<Box<dyn Working>, SnapshotError> {
        let dir = store.process().path().join(place.name);
        let failed = |operation| {
            let object = dir.display().to_string();
            move |source| SnapshotError::Io { operation, object, source }
        };
        if chain.0.is_empty() {
            let root = bind(place.upper).map_err(failed("bind"))?;
            return Ok(Box::new(InPlace(root)));
        }
        let work = format!("{}/work", place.name);
        rustix::fs::mkdirat(store.process().fd(), &work, Mode::RWXU)
            .map_err(|errno| failed("create")(errno.into()))?;
        // Nothing is synced when the mount ends: what becomes of it is read again before it is kept.
        let upper = Upper { upper: dir.join("snapshot/fs"), work: dir.join("work"), volatile: true };
        Ok(Box::new(InPlace(mount_chain(store, chain, Some(&upper))?)))
    }

    fn view(&self, store: &Store, chain: &Chain) -> Result<OwnedFd, SnapshotError> {
        mount_chain(store, chain, None)
    }

    fn layers(&self, store: &Store, chain: &Chain) -> Result<Vec<OwnedFd>, SnapshotError> {
        Ok(vec![store.view(chain)?])
    }

    fn keep(&self, _: &Store, _: Chain, _: Tree) {}

    fn make_room(&self, _: &Store) -> bool {
        false
    }
}

/// The files of `chain` with those in `upper`, which is in `dir`, to be changed.
pub(super) fn mount_kept(
    store: &Store,
    chain: &Chain,
    upper: BorrowedFd<'_>,
    dir: &Path,
    lasts: bool,
) -> Result<OwnedFd, SnapshotError> {
    if chain.0.is_empty() {
        let object = dir.display().to_string();
        return bind(upper).map_err(|source| SnapshotError::Io { operation: "bind", object, source });
    }
    let upper = Upper { upper: dir.join("upper"), work: dir.join("work"), volatile: !lasts };
    mount_chain(store, chain, Some(&upper))
}

/// The files of `chain` with those in `upper`, which is in `dir`, to be read. What somebody changes meanwhile is seen or not.
pub(super) fn view_kept(store: &Store, chain: &Chain, dir: &Path) -> Result<OwnedFd, SnapshotError> {
    mount_lowers(store, chain, vec![dir.join("upper")], None)
}

fn mount_chain(store: &Store, chain: &Chain, upper: Option<&Upper>) -> Result<OwnedFd, SnapshotError> {
    mount_lowers(store, chain, Vec::new(), upper)
}

/// The files of `chain` below other directories.
fn mount_lowers(
    store: &Store,
    chain: &Chain,
    mut lowers: Vec<PathBuf>,
    upper: Option<&Upper>,
) -> Result<OwnedFd, SnapshotError> {
    // Overlayfs refuses to stack a directory on itself.
    let topmost_first = topmost_first(chain);
    if topmost_first.len() > LAYERS_MAX {
        return Err(SnapshotError::TooManyLayers { layers: topmost_first.len(), max: LAYERS_MAX });
    }
    lowers.extend(topmost_first.iter().map(|id| store.snapshot_path(*id)));
    if upper.is_none() {
        // An overlay without an upper directory needs two lower ones.
        for number in lowers.len()..2 {
            lowers.push(store.empty_dir(number)?);
        }
    }
    mount(&lowers, upper).map_err(|source| {
        // One whose files are gone is forgotten by looking; all are when another process has begun anew.
        match store.is_replaced() {
            Ok(false) => {}
            Ok(true) => return StoreError::Replaced.into(),
            Err(error) => return error.into(),
        }
        let lost = topmost_first.iter().find(|id| !store.has_snapshot_files(**id).unwrap_or(true));
        if let Some(id) = lost {
            return missing(*id).into();
        }
        let object = topmost_first.first().map_or("(empty)".to_owned(), SnapshotId::to_string);
        SnapshotError::Io { operation: "mount", object, source }
    })
}

/// The writable part of an overlay: two directories of one file system.
#[derive(Debug)]
struct Upper {
    upper: PathBuf,
    work: PathBuf,
    /// Whether nothing has to be on the disk when somebody asks for it, or in the end.
    volatile: bool,
}

/// Mounts `lowers`, topmost first (at least one below an `upper`, at least two without), nowhere. Returns the root.
fn mount(lowers: &[PathBuf], upper: Option<&Upper>) -> io::Result<OwnedFd> {
    if lowers.len() <= STACK_MAX {
        return mount_stack(lowers, None, upper);
    }
    // Only the lowest layers can be merged apart: whiteouts are swallowed by the overlay they are in.
    let (top, bottom) = lowers.split_at(lowers.len() - STACK_MAX);
    let bottom = mount_stack(bottom, None, None)?;
    mount_stack(top, Some(&bottom), upper)
}

/// The root of a new detached mount of the directory `dir` itself.
fn bind(dir: impl AsFd) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(dir, "", flags)?)
}

fn mount_stack(lowers: &[PathBuf], bottom: Option<&OwnedFd>, upper: Option<&Upper>) -> io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure(&context, lowers, bottom, upper)
        .and_then(|()| {
            let attributes =
                if upper.is_some() { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(io::Error::from)
        })
        .map_err(|error| explain_mount(&context, error))
}

fn configure(
    context: &OwnedFd,
    lowers: &[PathBuf],
    bottom: Option<&OwnedFd>,
    upper: Option<&Upper>,
) -> io::Result<()> {
    fsconfig_set_string(context, "source", "overlay")?;
    for (key, value) in [("metacopy", "off"), ("redirect_dir", "nofollow"), ("index", "off"), ("xino", "off")]
    {
        fsconfig_set_string(context, key, value)?;
    }
    fsconfig_set_flag(context, "userxattr")?;
    // Without it the kernel marks the upper directory with an id of the mount. Newer than the others.
    let _ = fsconfig_set_string(context, "uuid", "null");
    let mut held = Vec::new();
    for lower in lowers {
        set_path(context, "lowerdir+", lower, &mut held)?;
    }
    if let Some(bottom) = bottom {
        fsconfig_set_string(context, "lowerdir+", fd_path(bottom))?;
    }
    if let Some(Upper { upper, work, volatile }) = upper {
        set_path(context, "upperdir", upper, &mut held)?;
        set_path(context, "workdir", work, &mut held)?;
        if *volatile {
            // A flag, not a string; where it is not known the mount is only slower.
            let _ = fsconfig_set_flag(context, "volatile");
        }
    }
    Ok(fsconfig_create(context)?)
}

/// Sets a directory by its path, or through a descriptor if the kernel could not take the path as it is. The
/// descriptor must stay open until the mount is made.
fn set_path(context: &OwnedFd, key: &str, path: &Path, held: &mut Vec<OwnedFd>) -> io::Result<()> {
    let bytes = path.as_os_str().as_bytes();
    let result = if bytes.len() <= VALUE_BYTES_MAX && !bytes.contains(&b'\\') {
        fsconfig_set_string(context, key, bytes)
    } else {
        let fd =
            rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let result = fsconfig_set_string(context, key, fd_path(&fd));
        held.push(fd);
        result
    };
    result.map_err(|errno: Errno| match errno {
        Errno::NOENT => io::Error::new(io::ErrorKind::NotFound, format!("`{}` is not there", path.display())),
        errno => errno.into(),
    })
}

fn fd_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Adds what the kernel has to say of a mount that was being made in a file system context (fsopen(2)): overlayfs answers nearly
/// everything with `EINVAL`, and others do no better.
pub fn explain_mount(context: &OwnedFd, error: io::Error) -> io::Error {
    let mut messages = Vec::new();
    let mut buffer = [0; 1024];
    while messages.len() < MESSAGES_MAX {
        let Ok(length) = rustix::io::read(context, &mut buffer) else { break };
        messages.push(String::from_utf8_lossy(&buffer[..length]).trim().to_owned());
    }
    if messages.is_empty() {
        return error;
    }
    io::Error::new(error.kind(), format!("{error}: {}", messages.join("; ")))
}
