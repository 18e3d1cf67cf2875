//! What comes to be belongs to whoever makes it, or to the group of its directory if that has the set-group-id bit.
//!
//! For root in a directory without that bit, which is nearly always, the kernel does it. Else it is made here, with the
//! process's umask, recorded, and handed over.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::net::sockopt::socket_domain;
use rustix::net::{AddressFamily, SocketAddrUnix};

use super::Emulation;
use super::change::without_slashes;
use super::credentials::Credentials;
use crate::supervisor::Answer;
use crate::supervisor::call::{Call, OpenHow, PERMISSIONS, errno};
use crate::supervisor::ownership::Device;
use crate::supervisor::paths::{self, Entry};

const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// To write to a directory and to enter it: what it takes to make something there.
pub(super) const WRITE_AND_SEARCH: u32 = 3;

impl OpenHow {
    /// Whether a file without a name is made.
    fn is_temporary(self) -> bool {
        self.flags.contains(OFlags::TMPFILE)
    }

    /// Whether something may come to be.
    fn creates(self) -> bool {
        let not = OFlags::PATH | OFlags::DIRECTORY;
        self.is_temporary() || self.flags.contains(OFlags::CREATE) && !self.flags.intersects(not)
    }

    /// What of the file's permissions it takes to open it.
    fn wanted(self) -> u32 {
        let wanted = match self.flags & OFlags::ACCMODE {
            OFlags::RDONLY => 4,
            OFlags::WRONLY => 2,
            _ => 6,
        };
        if self.flags.contains(OFlags::TRUNC) { wanted | 2 } else { wanted }
    }
}

impl Emulation<'_> {
    /// `open` and its relations, of the path that argument `index` points to.
    pub(super) fn open(&self, call: &Call<'_>, fd: i32, index: usize, how: OpenHow) -> Result<Answer, Errno> {
        // What the kernel does not know, or has no patience for, it refuses itself.
        let Some(ways) =
            ResolveFlags::from_bits(how.resolve).filter(|ways| !ways.contains(ResolveFlags::CACHED))
        else {
            return Ok(Answer::Continue);
        };
        let credentials = self.identities.of(call)?;
        if how.flags.contains(OFlags::PATH) || !how.creates() && credentials.owns_all_files() {
            return Ok(Answer::Continue);
        }
        let path = call.string(call.argument(index))?;
        if how.is_temporary() {
            return self.open_temporary(call, &credentials, (fd, ways), &path, how);
        }
        let Some(entry) = self.missing_entry(call, &credentials, (fd, ways), &path, how)? else {
            return Ok(Answer::Continue);
        };
        let Some(owner) = self.maker(&credentials, entry.directory.as_fd())? else {
            return Ok(Answer::Continue);
        };
        let mode = how.mode & !call.umask()?;
        let flags = how.flags | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
        call.still_waits()?;
        let file = match rustix::fs::openat(&entry.directory, &entry.name, flags, Mode::from_raw_mode(mode)) {
            // Somebody else was faster.
            Err(Errno::EXIST) => return Ok(Answer::Continue),
            file => file?,
        };
        self.hand_over(&entry, file.as_fd(), owner, mode)?;
        Ok(Answer::Descriptor { file, close_on_exec: how.flags.contains(OFlags::CLOEXEC) })
    }

    /// Where a file is to be made by `open`; none where the kernel opens what is there, or finds out why it cannot. Fails
    /// when the process may not open what is there.
    fn missing_entry(
        &self,
        call: &Call<'_>,
        credentials: &Credentials,
        (fd, ways): (i32, ResolveFlags),
        path: &CStr,
        how: OpenHow,
    ) -> Result<Option<Entry>, Errno> {
        if how.creates() {
            let Ok(entry) = paths::entry(call, fd, path, ways) else { return Ok(None) };
            match entry.stat() {
                Err(Errno::NOENT) => return Ok(Some(entry)),
                Ok(stat) if !how.flags.contains(OFlags::EXCL) => {
                    let follows = !how.flags.contains(OFlags::NOFOLLOW);
                    let is_link = paths::kind(&stat) == FileType::Symlink && follows;
                    if is_link && paths::followed(call, fd, path, ways).err() == Some(Errno::NOENT) {
                        let entry = paths::entry_behind(call, fd, entry, ways).ok();
                        return Ok(entry.filter(|entry| entry.stat().err() == Some(Errno::NOENT)));
                    }
                }
                _ => return Ok(None),
            }
        }
        if !credentials.owns_all_files()
            && let Ok(file) = paths::followed(call, fd, path, ways)
        {
            self.require(credentials, file.as_fd(), how.wanted())?;
        }
        Ok(None)
    }

    fn open_temporary(
        &self,
        call: &Call<'_>,
        credentials: &Credentials,
        (fd, ways): (i32, ResolveFlags),
        path: &CStr,
        how: OpenHow,
    ) -> Result<Answer, Errno> {
        let Ok(directory) = paths::followed(call, fd, path, ways) else {
            return Ok(Answer::Continue);
        };
        let Some(owner) = self.maker(credentials, directory.as_fd())? else { return Ok(Answer::Continue) };
        let mode = how.mode & !call.umask()?;
        call.still_waits()?;
        let flags = how.flags | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, c".", flags, Mode::from_raw_mode(mode))?;
        self.record(file.as_fd(), owner, mode)?;
        Ok(Answer::Descriptor { file, close_on_exec: how.flags.contains(OFlags::CLOEXEC) })
    }

    /// `mkdir` of the path that argument `index` points to; the mode comes after it.
    pub(super) fn mkdir(&self, call: &Call<'_>, fd: i32, index: usize) -> Result<Answer, Errno> {
        let path = without_slashes(call.string(call.argument(index))?)?;
        self.make(call, fd, &path, |entry| {
            let mode = call.word(index + 1) & 0o1777 & !call.umask()?;
            rustix::fs::mkdirat(&entry.directory, &entry.name, Mode::from_raw_mode(mode))
        })
    }

    /// `symlink` at the path that argument `index` points to, to what the first one does.
    pub(super) fn symlink(&self, call: &Call<'_>, fd: i32, index: usize) -> Result<Answer, Errno> {
        let path = call.string(call.argument(index))?;
        self.make(call, fd, &path, |entry| {
            let target = call.string(call.argument(0))?;
            rustix::fs::symlinkat(&target, &entry.directory, &entry.name)
        })
    }

    /// `mknod` of the path that argument `index` points to; mode and device come after it.
    pub(super) fn mknod(&self, call: &Call<'_>, fd: i32, index: usize) -> Result<Answer, Errno> {
        let path = call.string(call.argument(index))?;
        let (mode, number) = (call.word(index + 1), u64::from(call.word(index + 2)));
        let kind = match mode & libc::S_IFMT {
            0 => FileType::RegularFile,
            kind => FileType::from_raw_mode(kind),
        };
        let number = (libc::major(number), libc::minor(number));
        // The kernel lets anybody make this one, and overlayfs lets nobody.
        let is_whiteout = kind == FileType::CharacterDevice && number == (0, 0);
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if is_device && !is_whiteout {
            let device = Device { is_block: kind == FileType::BlockDevice, number };
            return self.make_device(call, fd, &path, device, mode);
        }
        self.make(call, fd, &path, |entry| {
            let permissions = Mode::from_raw_mode(mode & PERMISSIONS & !call.umask()?);
            rustix::fs::mknodat(&entry.directory, &entry.name, kind, permissions, 0)
        })
    }

    /// `bind` of a local socket to a path.
    pub(super) fn bind(&self, call: &Call<'_>) -> Result<Answer, Errno> {
        let length = usize::try_from(call.int(2)).map_err(|_| Errno::INVAL)?;
        let mut address = vec![0; length.min(size_of::<libc::sockaddr_un>())];
        call.read(call.argument(1), &mut address)?;
        let Some((family, name)) = address.split_first_chunk() else { return Ok(Answer::Continue) };
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if i32::from(u16::from_ne_bytes(*family)) != libc::AF_UNIX || name.is_empty() {
            return Ok(Answer::Continue);
        }
        let path = CString::new(name).map_err(|_| Errno::INVAL)?;
        // What is no such socket, or may not be had, the kernel binds or refuses.
        let Ok(socket) = call.take(call.int(0)) else { return Ok(Answer::Continue) };
        if socket_domain(&socket) != Ok(AddressFamily::UNIX) {
            return Ok(Answer::Continue);
        }
        self.make(call, libc::AT_FDCWD, &path, |entry| {
            let address = SocketAddrUnix::new(&entry.name)?;
            let umask = call.umask()?;
            call.still_waits()?;
            // A path from the root on might be too long for an address. This thread has both for itself.
            rustix::process::fchdir(&entry.directory)?;
            rustix::process::umask(Mode::from_raw_mode(umask));
            let bound = rustix::net::bind(&socket, &address);
            rustix::process::umask(Mode::empty());
            rustix::process::chdir(c"/").and(bound)
        })
    }

    fn make_device(
        &self,
        call: &Call<'_>,
        fd: i32,
        path: &CStr,
        device: Device,
        mode: u32,
    ) -> Result<Answer, Errno> {
        let credentials = self.identities.of(call)?;
        let Ok(entry) = paths::entry(call, fd, path, ResolveFlags::empty()) else {
            return Ok(Answer::Continue);
        };
        if entry.stat().is_ok() {
            return Err(Errno::EXIST);
        }
        if !credentials.owns_all_files() {
            return Err(Errno::PERM);
        }
        let mode = mode & PERMISSIONS & !call.umask()?;
        let owner = self.maker(&credentials, entry.directory.as_fd())?;
        call.still_waits()?;
        let made = self.ownership.make_device(entry.directory.as_fd(), &entry.name, device, mode);
        made.map_err(errno)?;
        if let Some(owner) = owner {
            self.hand_over(&entry, entry.open()?.as_fd(), owner, mode)?;
        }
        Ok(Answer::Value(0))
    }

    /// Makes something new at `path` with `make`, unless the kernel can do it as well.
    fn make(
        &self,
        call: &Call<'_>,
        fd: i32,
        path: &CStr,
        make: impl FnOnce(&Entry) -> Result<(), Errno>,
    ) -> Result<Answer, Errno> {
        let credentials = self.identities.of(call)?;
        // What is wrong with the path, or is there already, the kernel says itself.
        let Ok(entry) = paths::entry(call, fd, path, ResolveFlags::empty()) else {
            return Ok(Answer::Continue);
        };
        if !matches!(entry.stat(), Err(Errno::NOENT)) {
            return Ok(Answer::Continue);
        }
        let Some(owner) = self.maker(&credentials, entry.directory.as_fd())? else {
            return Ok(Answer::Continue);
        };
        call.still_waits()?;
        make(&entry)?;
        let made: OwnedFd = entry.open()?;
        let mode = rustix::fs::fstat(&made)?.st_mode;
        self.hand_over(&entry, made.as_fd(), owner, mode & PERMISSIONS)?;
        Ok(Answer::Value(0))
    }

    /// Whom something new in `directory` belongs to; none when that is what the kernel makes of it. Fails when the process
    /// may not make anything there.
    fn maker(
        &self,
        credentials: &Credentials,
        directory: BorrowedFd<'_>,
    ) -> Result<Option<(u32, u32)>, Errno> {
        self.require(credentials, directory, WRITE_AND_SEARCH)?;
        let inherits = rustix::fs::fstat(directory)?.st_mode & libc::S_ISGID != 0;
        let group = if inherits { self.owner(directory)?.1 } else { credentials.group.files };
        let owner = (credentials.user.files, group);
        Ok(Some(owner).filter(|owner| *owner != (0, 0)))
    }

    /// Records the owner of what was made at `entry`; what cannot be recorded is not made.
    fn hand_over(
        &self,
        entry: &Entry,
        made: BorrowedFd<'_>,
        owner: (u32, u32),
        mode: u32,
    ) -> Result<(), Errno> {
        self.record(made, owner, mode).inspect_err(|_| {
            let _ = rustix::fs::unlinkat(&entry.directory, &entry.name, AtFlags::empty())
                .or_else(|_| rustix::fs::unlinkat(&entry.directory, &entry.name, AtFlags::REMOVEDIR));
        })
    }

    fn record(&self, made: BorrowedFd<'_>, owner: (u32, u32), mode: u32) -> Result<(), Errno> {
        match self.ownership.set(made, owner).map_err(errno) {
            // Not a place for files that last, such as `/proc`.
            Err(Errno::OPNOTSUPP) => return Ok(()),
            result => result?,
        }
        // A change of owner takes these away, but this was none.
        if mode & SET_ID != 0 && paths::kind(&rustix::fs::fstat(made)?) == FileType::RegularFile {
            let path = paths::reopen_path(made);
            rustix::fs::chmod(path, Mode::from_raw_mode(mode & PERMISSIONS))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_open_say_what_is_made_and_wanted() {
        let how = |flags: OFlags| OpenHow::new(flags.bits().into(), 0o107_777);
        assert_eq!(how(OFlags::CREATE).mode, 0o7777);
        for (flags, creates, wanted) in [
            (OFlags::CREATE, true, 4),
            (OFlags::CREATE | OFlags::WRONLY, true, 2),
            (OFlags::CREATE | OFlags::RDWR | OFlags::EXCL, true, 6),
            (OFlags::CREATE | OFlags::PATH, false, 4),
            (OFlags::CREATE | OFlags::DIRECTORY, false, 4),
            (OFlags::TMPFILE | OFlags::RDWR, true, 6),
            (OFlags::DIRECTORY, false, 4),
            (OFlags::TRUNC, false, 6),
        ] {
            assert_eq!((how(flags).creates(), how(flags).wanted()), (creates, wanted), "{flags:?}");
        }
        assert!(OpenHow::creat(0).creates() && OpenHow::creat(0).wanted() == 2);
    }
}
