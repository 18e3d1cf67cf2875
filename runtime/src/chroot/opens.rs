//! What is answered when a step opens something that is only a placeholder.
//!
//! Devices that cannot be made, the descriptors below `/dev/fd` (there is no `/proc` that they could lead to) and secrets
//! are ordinary files in the step's directory. A step's `open` calls come here, and who opens one of these files is
//! given a descriptor of what it stands for. Everything else the kernel does itself.
//!
//! Who asks may be another user than the builder, which is root without the right to look into others (CAP_SYS_PTRACE):
//! then this thread becomes that user to look. What stays hidden, programs that have changed their user and not yet
//! executed another, see the placeholders: empty files.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    CWD, Gid, MemfdFlags, Mode, OFlags, SealFlags, Stat, Uid, fcntl_add_seals, fcntl_setfl, memfd_create,
};
use rustix::io::Errno;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::others;
use crate::rootfs::identity;
use crate::seccomp::notify::{Action, Programs, Rule};
use crate::seccomp::{Comparison, Condition, Width};
use crate::supervisor::call::{Call, OpenHow};
use crate::supervisor::paths::{self, Links};
use crate::supervisor::{Answer, Handler};
use crate::sys;

/// What a placeholder stands for.
#[derive(Debug)]
pub(super) enum Served {
    /// The device that this place has there.
    Device(&'static CStr),
    /// The terminal of the step, if it has one.
    Terminal,
    /// What the process's own descriptor of this number leads to.
    Descriptor(u32),
    /// The file that holds a secret, and what its owner and permissions look like.
    Secret(OwnedFd, Box<Stat>),
}

/// What libraries look for in every program that uses them (SELinux, cryptography, `sysconf`, audit), and do well without.
const PROBES: [&str; 9] = [
    "/proc/filesystems",
    "/proc/mounts",
    "/proc/self/attr/",
    "/proc/thread-self/attr/",
    "/proc/self/loginuid",
    "/proc/sys/crypto/",
    "/proc/sys/kernel/cap_last_cap",
    "/proc/sys/kernel/ngroups_max",
    "/proc/sys/vm/overcommit_memory",
];

/// Opening a directory never opens a placeholder.
const UNLESS_DIRECTORY: Comparison = Comparison::MaskedEqual { mask: libc::O_DIRECTORY as u64, value: 0 };

/// The calls that are asked about.
pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "open",
        any_of: &[Condition { argument: 1, width: Width::Word, comparison: UNLESS_DIRECTORY }],
        action: Action::Notify,
        programs: Programs::Native,
    },
    Rule {
        name: "openat",
        any_of: &[Condition { argument: 2, width: Width::Word, comparison: UNLESS_DIRECTORY }],
        action: Action::Notify,
        programs: Programs::Native,
    },
    Rule { name: "openat2", any_of: &[], action: Action::Notify, programs: Programs::Native },
    Rule { name: "creat", any_of: &[], action: Action::Notify, programs: Programs::Native },
];

/// A file that holds `value` in memory, and that nobody can write to any more.
pub(super) fn secret_file(value: &[u8], (uid, gid): (u32, u32), mode: u32) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match memfd_create("secret", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => memfd_create("secret", flags)?,
        result => result?,
    };
    let mut file = File::from(file);
    file.write_all(value)?;
    rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    // Nothing in memory is a program.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o666))?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

/// Answers the calls of one step.
pub(super) struct Opens {
    /// The placeholders, by device and inode.
    pub(super) served: Arc<HashMap<(u64, u64), Served>>,
    pub(super) terminal: Terminal,
    /// The first path below `/proc` that the step has looked for, [`PROBES`] aside.
    pub(super) missed: Arc<Mutex<Option<PathBuf>>>,
    /// The process that watches over the step, once it is known.
    pub(super) watcher: Option<i32>,
}

/// The terminal of a step.
#[derive(Debug)]
pub(super) enum Terminal {
    None,
    /// This process's, in whose foreground the step is.
    OfThisProcess,
    /// The one whose other side this is.
    Own(OwnedFd),
}

impl Handler for Opens {
    fn makes_files(&self) -> bool {
        false
    }

    fn answer(&mut self, call: &Call<'_>) -> Result<Answer, Errno> {
        let (fd, path, how) = match call.name {
            "open" => (libc::AT_FDCWD, 0, OpenHow::new(call.argument(1), 0)),
            "creat" => (libc::AT_FDCWD, 0, OpenHow::creat(0)),
            "openat" => (call.int(0), 1, OpenHow::new(call.argument(2), 0)),
            "openat2" => (call.int(0), 1, OpenHow::read(call, call.argument(2))?),
            _ => return others::answer(call, &mut self.watcher),
        };
        let flags = how.flags;
        // What wants its path resolved in an unusual way is none of ours.
        if how.resolve != 0 {
            return Ok(Answer::Continue);
        }
        if flags.contains(OFlags::DIRECTORY) || flags.contains(OFlags::CREATE | OFlags::EXCL) {
            return Ok(Answer::Continue);
        }
        let links = if flags.contains(OFlags::NOFOLLOW) { Links::Keep } else { Links::Follow };
        let caller = Caller::of(call)?;
        let found = caller.look(|| {
            let path = call.string(call.argument(path))?;
            self.note_missed(&path);
            if flags.contains(OFlags::PATH) {
                return Err(Errno::NOENT);
            }
            if let (Some(number), Links::Follow) = (paths::own_descriptor(&path), links) {
                return Ok(Found::Descriptor(number));
            }
            let place = paths::resolve(call, fd, &path, links, 0)?;
            Ok(Found::File(identity(&rustix::fs::fstat(&place)?)))
        });
        let file = match found {
            Ok(Found::Descriptor(number)) => own_descriptor(call, &caller, number, flags)?,
            Ok(Found::File(found)) => match self.served.get(&found) {
                Some(served) => self.open(call, &caller, served, flags)?,
                None => return Ok(Answer::Continue),
            },
            // What the kernel finds there, or what it finds wrong, it says itself.
            Err(_) => return Ok(Answer::Continue),
        };
        Ok(Answer::Descriptor { file, close_on_exec: flags.contains(OFlags::CLOEXEC) })
    }
}

/// What a path leads to.
enum Found {
    Descriptor(u32),
    File((u64, u64)),
}

impl Opens {
    fn open(
        &self,
        call: &Call<'_>,
        caller: &Caller,
        served: &Served,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        match served {
            Served::Device(path) => open_here(path, flags),
            Served::Terminal => match &self.terminal {
                Terminal::OfThisProcess => open_here(c"/dev/tty", flags),
                Terminal::Own(master) => sys::terminal::peer(master.as_fd())
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)),
                Terminal::None => Err(Errno::NXIO),
            },
            Served::Descriptor(number) => own_descriptor(call, caller, *number, flags),
            Served::Secret(..) if !is_for_reading(flags) => Err(Errno::ROFS),
            Served::Secret(file, seen) => {
                if !caller.may_read(call, seen)? {
                    return Err(Errno::ACCESS);
                }
                // Each with a position of its own.
                paths::reopen(file.as_fd(), OFlags::RDONLY | flags & OFlags::CLOEXEC)
            }
        }
    }

    fn note_missed(&self, path: &CStr) {
        let path = path.to_bytes();
        let is_probe = PROBES.iter().any(|probe| path.starts_with(probe.as_bytes()));
        if path.starts_with(b"/proc/") && !is_probe {
            let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
            missed.get_or_insert_with(|| PathBuf::from(std::ffi::OsStr::from_bytes(path)));
        }
    }
}

fn is_for_reading(flags: OFlags) -> bool {
    flags & OFlags::RWMODE == OFlags::RDONLY && !flags.contains(OFlags::TRUNC)
}

/// Opens what a descriptor of the caller leads to once more, as the link in `/proc` would.
fn own_descriptor(call: &Call<'_>, caller: &Caller, number: u32, flags: OFlags) -> Result<OwnedFd, Errno> {
    let name = CString::new(format!("fd/{number}")).map_err(|_| Errno::INVAL)?;
    let kept = OFlags::RWMODE | OFlags::APPEND | OFlags::TRUNC | OFlags::NONBLOCK;
    // Nobody waits here for the other end of a pipe.
    let opened = caller.look(|| call.open(&name, flags & kept | OFlags::NONBLOCK | OFlags::NOCTTY))?;
    if !flags.contains(OFlags::NONBLOCK) {
        fcntl_setfl(&opened, flags & (OFlags::APPEND | OFlags::NONBLOCK))?;
    }
    Ok(opened)
}

fn open_here(path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let kept = OFlags::RWMODE | OFlags::APPEND | OFlags::NONBLOCK;
    rustix::fs::openat(CWD, path, flags & kept | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

/// Who makes a call.
pub(super) struct Caller {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Caller {
    pub(super) fn of(call: &Call<'_>) -> Result<Self, Errno> {
        // The last of four is the one for files.
        let last = |key: &str| {
            let numbers = call.status(key)?;
            numbers.split_ascii_whitespace().nth(3).and_then(|id| id.parse().ok()).ok_or(Errno::INVAL)
        };
        let uid = last("Uid")?;
        if uid == 0 {
            return Ok(Self { uid, gid: 0, groups: Vec::new() });
        }
        let groups = call.status("Groups")?;
        let groups = groups.split_ascii_whitespace().filter_map(|group| group.parse().ok()).collect();
        Ok(Self { uid, gid: last("Gid")?, groups })
    }

    /// Does `looking` with the caller's rights, which let this thread look into the caller's processes, and nowhere that
    /// the caller could not.
    pub(super) fn look<T>(&self, looking: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        if self.uid == 0 {
            return looking();
        }
        let (root, group) = (Uid::ROOT, Gid::ROOT);
        let own = rustix::process::getgroups()?;
        let groups: Vec<Gid> = self.groups.iter().map(|&group| Gid::from_raw(group)).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let become_caller = || {
            set_thread_groups(&groups)?;
            set_thread_res_gid(gid, gid, group)?;
            set_thread_res_uid(uid, uid, root)
        };
        let result = become_caller().and_then(|()| looking());
        // The saved ids are root's, so nothing refuses the way back.
        set_thread_res_uid(root, root, root)?;
        set_thread_res_gid(group, group, group)?;
        set_thread_groups(&own)?;
        result
    }

    /// Whether the caller may read a file that looks like `seen`.
    fn may_read(&self, call: &Call<'_>, seen: &Stat) -> Result<bool, Errno> {
        /// CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
        const READS_ALL: u64 = 1 << 1 | 1 << 2;
        let capabilities = u64::from_str_radix(&call.status("CapEff")?, 16).map_err(|_| Errno::INVAL)?;
        if capabilities & READS_ALL != 0 {
            return Ok(true);
        }
        let shift = if self.uid == seen.st_uid {
            6
        } else if self.gid == seen.st_gid || self.groups.contains(&seen.st_gid) {
            3
        } else {
            0
        };
        Ok(seen.st_mode >> shift & 4 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_cannot_be_written_to() {
        let file = secret_file(b"hush", (0, 0), 0o644).unwrap();
        assert_eq!(rustix::io::pwrite(&file, b"x", 0), Err(Errno::PERM));
        let mut read = [0; 8];
        assert_eq!(rustix::io::pread(&file, &mut read, 0), Ok(4));
    }
}
