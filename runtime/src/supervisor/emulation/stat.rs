//! `stat` and its relations: owners and devices as they are recorded.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::owner::is_kept_in_times;
use super::{Emulation, Target};
use crate::supervisor::Answer;
use crate::supervisor::call::{Call, errno};
use crate::supervisor::ownership::Recorded;
use crate::supervisor::paths;
use crate::sys::notify as sys;

/// What the kernel shows for an id that is not in the namespace (`/proc/sys/kernel/overflowuid`).
const UNMAPPED: u32 = 65534;

/// What a call has to be told about a file that is not as the kernel sees it.
struct Shown {
    file: OwnedFd,
    recorded: Recorded,
    kind: FileType,
}

impl Shown {
    /// Type and permissions.
    fn mode(&self, mode: u32) -> u32 {
        match self.recorded.device {
            Some(device) if device.is_block => libc::S_IFBLK | mode & 0o7777,
            Some(_) => libc::S_IFCHR | mode & 0o7777,
            None => mode,
        }
    }

    /// Whether the access time is no time.
    fn hides_access_time(&self) -> bool {
        is_kept_in_times(self.kind) && self.recorded.owner != (0, 0)
    }
}

impl Emulation<'_> {
    /// `stat`, `lstat`, `fstat`, `newfstatat`; argument `index` says where the answer goes.
    pub(super) fn stat(&self, call: &Call<'_>, target: &Target, index: usize) -> Result<Answer, Errno> {
        let Some(shown) = self.shown(call, target)? else { return Ok(Answer::Continue) };
        let bytes = sys::status(shown.file.as_fd(), |stat| {
            (stat.st_uid, stat.st_gid) = shown.recorded.owner;
            stat.st_mode = shown.mode(stat.st_mode);
            if let Some(device) = shown.recorded.device {
                stat.st_rdev = libc::makedev(device.number.0, device.number.1);
                (stat.st_size, stat.st_blocks) = (0, 0);
            }
            if shown.hides_access_time() {
                (stat.st_atime, stat.st_atime_nsec) = (stat.st_mtime, stat.st_mtime_nsec);
            }
        });
        call.write(call.argument(index), &bytes.map_err(errno)?)?;
        Ok(Answer::Value(0))
    }

    /// `statx`.
    pub(super) fn statx(&self, call: &Call<'_>, target: &Target) -> Result<Answer, Errno> {
        let Some(shown) = self.shown(call, target)? else { return Ok(Answer::Continue) };
        let bytes = sys::extended_status(shown.file.as_fd(), call.word(2), call.word(3), |stat| {
            (stat.stx_uid, stat.stx_gid) = shown.recorded.owner;
            stat.stx_mode = (shown.mode(stat.stx_mode.into()) & 0xffff) as u16;
            if let Some(device) = shown.recorded.device {
                (stat.stx_rdev_major, stat.stx_rdev_minor) = device.number;
                (stat.stx_size, stat.stx_blocks) = (0, 0);
            }
            if shown.hides_access_time() {
                stat.stx_atime = stat.stx_mtime;
            }
        });
        call.write(call.argument(4), &bytes.map_err(errno)?)?;
        Ok(Answer::Value(0))
    }

    /// None when the kernel's own answer is right, which it mostly is.
    fn shown(&self, call: &Call<'_>, target: &Target) -> Result<Option<Shown>, Errno> {
        let Ok(file) = target.open(call) else { return Ok(None) };
        let Ok(recorded) = self.ownership.get(file.as_fd()) else { return Ok(None) };
        let stat = rustix::fs::fstat(&file)?;
        if recorded == Recorded::default() && stat.st_uid != UNMAPPED && stat.st_gid != UNMAPPED {
            return Ok(None);
        }
        Ok(Some(Shown { file, recorded, kind: paths::kind(&stat) }))
    }
}
