//! `type=tmpfs`, `type=secret` and `type=ssh`: memory file systems that never have a place on the host.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};
use wharf_cache::Ids;

use super::MountError;
use super::files::open_tree;
use crate::secrets::SECRET_BYTES_MAX;
use crate::ssh::{Agent, Serving};

/// Name of the one file of a memory file system that holds a secret or a socket.
const NAME: &str = "it";

/// Size of such a file system: the largest secret, and room for what the kernel adds.
const SMALL_BYTES: u64 = 2 * SECRET_BYTES_MAX;

/// An empty memory file system of at most `size_bytes` (0: as much as the kernel gives).
pub(super) fn tmpfs(size_bytes: u64) -> Result<OwnedFd, MountError> {
    mount(size_bytes, "1777").map_err(MountError::io("make a memory file system"))
}

/// A file with these bytes.
pub(super) fn file(bytes: &[u8], ids: Ids, owner: (u32, u32), mode: u32) -> Result<OwnedFd, MountError> {
    let make = || -> io::Result<OwnedFd> {
        let root = mount(SMALL_BYTES, "0700")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&root, NAME, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(bytes)?;
        own(&root, ids, owner, mode)?;
        drop(file);
        open_tree(root.as_fd(), Path::new(NAME))
    };
    make().map_err(MountError::io("prepare a secret"))
}

/// A socket at which `agent` answers.
pub(super) fn socket(
    agent: &Arc<Agent>,
    ids: Ids,
    owner: (u32, u32),
    mode: u32,
) -> Result<(OwnedFd, Serving), MountError> {
    let make = || -> io::Result<(OwnedFd, Serving)> {
        let root = mount(SMALL_BYTES, "0700")?;
        // The only path it has, and a short one: a socket's may have 107 bytes.
        let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", root.as_raw_fd()));
        let serving = agent.serve(&path)?;
        own(&root, ids, owner, mode)?;
        Ok((open_tree(root.as_fd(), Path::new(NAME))?, serving))
    };
    make().map_err(MountError::io("prepare the socket of an SSH agent"))
}

fn own(root: &OwnedFd, ids: Ids, owner: (u32, u32), mode: u32) -> io::Result<()> {
    match ids.set_owner(root.as_fd(), OsStr::new(NAME), owner) {
        // Kernels before 6.6 cannot record an owner there. With a single id any owner may read it anyway.
        Err(error) if ids == Ids::Recorded && Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => {}
        owned => owned?,
    }
    Ok(rustix::fs::chmodat(root, NAME, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

/// A detached memory file system. Returns its root.
fn mount(size_bytes: u64, mode: &str) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "tmpfs")?;
    fsconfig_set_string(&context, "mode", mode)?;
    if size_bytes > 0 {
        fsconfig_set_string(&context, "size", size_bytes.to_string())?;
    }
    if size_bytes == SMALL_BYTES {
        // What is secret does not go to a disk. Where the kernel does not know the flag (before 6.4) it may.
        let _ = fsconfig_set_flag(&context, "noswap");
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
