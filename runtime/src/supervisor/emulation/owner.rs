//! Whom a file belongs to, and what follows from that for a process that is not root.

use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use super::credentials::{Credentials, Ids};
use super::{Emulation, Target};
use crate::supervisor::Answer;
use crate::supervisor::call::{Call, PERMISSIONS, errno};
use crate::supervisor::paths;

/// An id that is not to be changed.
const KEEP: u32 = u32::MAX;

/// File systems of what lasts no longer than processes: `/proc`, pipes and sockets.
const KERNELS_OWN: [libc::__fsword_t; 3] = [libc::PROC_SUPER_MAGIC, 0x5049_5045, 0x534f_434b];

impl Emulation<'_> {
    /// The owner that is recorded of `file`.
    pub(super) fn owner(&self, file: BorrowedFd<'_>) -> Result<(u32, u32), Errno> {
        Ok(self.ownership.get(file).map_err(errno)?.owner)
    }

    /// `chown` and its relations; user and group are the arguments from `first` on.
    pub(super) fn chown(&self, call: &Call<'_>, target: &Target, first: usize) -> Result<Answer, Errno> {
        let credentials = self.identities.of(call)?;
        let file = match target.open(call) {
            // A link of the kernel's own, which it has to follow itself.
            Err(Errno::LOOP) => return Ok(Answer::Continue),
            file => file?,
        };
        let old = self.owner(file.as_fd())?;
        let (user, group) = (call.word(first), call.word(first + 1));
        if !may_change_owner(&credentials, old, (user, group)) {
            return Err(Errno::PERM);
        }
        let new = (if user == KEEP { old.0 } else { user }, if group == KEEP { old.1 } else { group });
        call.still_waits()?;
        self.ownership.set(file.as_fd(), new).map_err(errno)?;
        Ok(Answer::Value(0))
    }

    /// `chmod` and its relations, with the mode in argument `index`: the kernel does it, if the file is the process's own.
    pub(super) fn chmod(&self, call: &Call<'_>, target: &Target, index: usize) -> Result<Answer, Errno> {
        let credentials = self.identities.of(call)?;
        if credentials.owns_all_files() {
            return Ok(Answer::Continue);
        }
        let Ok(file) = target.open(call) else { return Ok(Answer::Continue) };
        let (user, group) = self.owner(file.as_fd())?;
        if user != credentials.user.files {
            return Err(Errno::PERM);
        }
        let mode = call.word(index) & PERMISSIONS;
        let is_link = paths::kind(&rustix::fs::fstat(&file)?) == FileType::Symlink;
        if mode & libc::S_ISGID == 0 || credentials.in_group(group) || is_link {
            return Ok(Answer::Continue);
        }
        // Nobody makes programs for a group that is not theirs.
        call.still_waits()?;
        rustix::fs::chmod(paths::reopen_path(file.as_fd()), Mode::from_raw_mode(mode & !libc::S_ISGID))?;
        Ok(Answer::Value(0))
    }

    /// `access` and its relations. The kernel decides, unless the file's own mode forbids it to the process.
    pub(super) fn access(
        &self,
        call: &Call<'_>,
        target: &Target,
        wanted: usize,
        flags: u32,
    ) -> Result<Answer, Errno> {
        let mut asking = Credentials::clone(&*self.identities.of(call)?);
        // The question is mostly meant for the user who started a set-id program.
        let effective = AtFlags::from_bits_retain(flags).contains(AtFlags::EACCESS);
        let id = |ids: Ids| if effective { ids.effective } else { ids.real };
        (asking.user.files, asking.group.files) = (id(asking.user), id(asking.group));
        let wanted = call.word(wanted);
        if asking.owns_all_files() || wanted & 7 == 0 {
            return Ok(Answer::Continue);
        }
        let Ok(file) = target.open(call) else { return Ok(Answer::Continue) };
        self.require(&asking, file.as_fd(), wanted)?;
        Ok(Answer::Continue)
    }

    /// Fails unless the mode of `file` gives the process `wanted`.
    pub(super) fn require(
        &self,
        credentials: &Credentials,
        file: BorrowedFd<'_>,
        wanted: u32,
    ) -> Result<(), Errno> {
        if credentials.owns_all_files() {
            return Ok(());
        }
        let stat = rustix::fs::fstat(file)?;
        // What the step cannot own is not recorded: the kernel knows best.
        let is_device = matches!(paths::kind(&stat), FileType::CharacterDevice | FileType::BlockDevice);
        let foreign =
            stat.st_uid != 0 || is_device || KERNELS_OWN.contains(&rustix::fs::fstatfs(file)?.f_type);
        if foreign || credentials.may(wanted, self.owner(file)?, stat.st_mode) {
            Ok(())
        } else {
            Err(Errno::ACCESS)
        }
    }

    /// `utimensat` and its relations, with the times in argument `index`. The owner of what can have no attributes is kept
    /// in its access time, which therefore stays.
    pub(super) fn set_times(
        &self,
        call: &Call<'_>,
        target: &Target,
        index: usize,
        form: Times,
    ) -> Result<Answer, Errno> {
        let Ok(file) = target.open(call) else { return Ok(Answer::Continue) };
        if !is_kept_in_times(paths::kind(&rustix::fs::fstat(&file)?)) || self.owner(file.as_fd())? == (0, 0) {
            return Ok(Answer::Continue);
        }
        let last_modification = match call.argument(index) {
            0 => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
            address => form.modification(call, address)?,
        };
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access, last_modification };
        call.still_waits()?;
        rustix::fs::utimensat(&file, c"", &times, AtFlags::EMPTY_PATH)?;
        Ok(Answer::Value(0))
    }
}

/// How a call is told the times of access and modification, one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) enum Times {
    /// `time_t`.
    Seconds,
    /// `struct timeval`.
    Microseconds,
    /// `struct timespec`.
    Nanoseconds,
}

impl Times {
    /// The time of modification at `address`.
    fn modification(self, call: &Call<'_>, address: u64) -> Result<Timespec, Errno> {
        let word = |index: u64| {
            let mut bytes = [0; 8];
            call.read(address.checked_add(8 * index).ok_or(Errno::FAULT)?, &mut bytes)?;
            Ok::<_, Errno>(i64::from_ne_bytes(bytes))
        };
        let (tv_sec, tv_nsec) = match self {
            Self::Seconds => (word(1)?, 0),
            Self::Microseconds => match word(3)? {
                microseconds @ 0..1_000_000 => (word(2)?, microseconds * 1000),
                _ => return Err(Errno::INVAL),
            },
            Self::Nanoseconds => (word(2)?, word(3)?),
        };
        Ok(Timespec { tv_sec, tv_nsec })
    }
}

/// Whether the owner of something of this type is kept in its access time.
pub(super) fn is_kept_in_times(kind: FileType) -> bool {
    !matches!(kind, FileType::RegularFile | FileType::Directory)
}

/// The kernel's rule: root may do everything, the owner may give the file to another group of its own.
fn may_change_owner(credentials: &Credentials, old: (u32, u32), new: (u32, u32)) -> bool {
    if credentials.owns_all_files() {
        return true;
    }
    let is_owner = credentials.user.files == old.0;
    let user = new.0 == KEEP || is_owner && new.0 == old.0;
    let group = new.1 == KEEP || is_owner && (new.1 == old.1 || credentials.in_group(new.1));
    user && group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_give_files_to_their_own_groups() {
        let user = Credentials::new(5, 6, vec![7]);
        for (old, new, expected) in [
            ((5, 6), (KEEP, 7), true),
            ((5, 6), (5, 7), true),
            ((5, 6), (KEEP, 8), false),
            ((5, 6), (8, KEEP), false),
            ((0, 6), (KEEP, 7), false),
            ((0, 6), (KEEP, KEEP), true),
            ((5, 9), (5, 9), true),
        ] {
            assert_eq!(may_change_owner(&user, old, new), expected, "{old:?} to {new:?}");
            assert!(may_change_owner(&Credentials::default(), old, new));
        }
    }
}
