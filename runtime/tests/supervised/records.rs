//! Owners and devices, kept with the files in the plainest way.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use wharf_runtime::{Device, Ownership, Recorded};

const OWNER: &str = "user.wharf.owner";
const NODE: &str = "user.wharf.node";

/// Access times from here on are owners of links, pipes and sockets.
const LINK_EPOCH_S: i64 = 1 << 32;

pub(crate) struct Records;

impl Ownership for Records {
    fn get(&self, file: BorrowedFd<'_>) -> io::Result<Recorded> {
        let stat = rustix::fs::fstat(file)?;
        if has_attributes(stat.st_mode) {
            let owner = numbers(file, OWNER)?.map_or((0, 0), |n| (n[0], n[1]));
            let device = numbers(file, NODE)?.map(|n| Device { is_block: n[0] == 1, number: (n[1], n[2]) });
            return Ok(Recorded { owner, device });
        }
        if is_device(stat.st_mode) {
            return Ok(Recorded { owner: (0, 0), device: None });
        }
        let user = u32::try_from(stat.st_atime - LINK_EPOCH_S);
        let owner = user.map_or((0, 0), |user| (user, u32::try_from(stat.st_atime_nsec).unwrap()));
        Ok(Recorded { owner, device: None })
    }

    fn set(&self, file: BorrowedFd<'_>, owner: (u32, u32)) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
        if is_device(rustix::fs::fstat(file)?.st_mode) {
            return Err(rustix::io::Errno::PERM.into());
        }
        rustix::fs::chownat(file, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        if has_attributes(rustix::fs::fstat(file)?.st_mode) {
            let text = format!("{}:{}", owner.0, owner.1);
            return Ok(rustix::fs::setxattr(path(file), OWNER, text.as_bytes(), XattrFlags::empty())?);
        }
        let last_access = Timespec { tv_sec: LINK_EPOCH_S + i64::from(owner.0), tv_nsec: owner.1.into() };
        let last_modification = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access, last_modification };
        Ok(rustix::fs::utimensat(file, c"", &times, AtFlags::EMPTY_PATH)?)
    }

    fn make_device(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        device: Device,
        mode: u32,
    ) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        let text = format!("{}:{}:{}", u8::from(device.is_block), device.number.0, device.number.1);
        rustix::fs::setxattr(path(file.as_fd()), NODE, text.as_bytes(), XattrFlags::empty())?;
        Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
    }

    fn hides(&self, name: &[u8]) -> bool {
        name.starts_with(b"user.wharf.")
    }
}

/// Of the machine: those of images are regular files.
fn is_device(mode: u32) -> bool {
    matches!(FileType::from_raw_mode(mode), FileType::CharacterDevice | FileType::BlockDevice)
}

fn has_attributes(mode: u32) -> bool {
    matches!(FileType::from_raw_mode(mode), FileType::RegularFile | FileType::Directory)
}

fn numbers(file: BorrowedFd<'_>, name: &str) -> io::Result<Option<Vec<u32>>> {
    let mut value = [0; 64];
    match rustix::fs::getxattr(path(file), name, &mut value) {
        Ok(length) => {
            let text = String::from_utf8_lossy(&value[..length]).into_owned();
            Ok(Some(text.split(':').map(|number| number.parse().unwrap()).collect()))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}
