//! `setuid` and its relations, `getuid` and its, and what a set-id program does to them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::credentials::{Credentials, GROUPS_MAX, Ids, Refused};
use super::{Emulation, Target};
use crate::rootfs::identity;
use crate::supervisor::Answer;
use crate::supervisor::call::Call;
use crate::supervisor::paths;

impl From<Refused> for Errno {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotPermitted => Self::PERM,
            Refused::Invalid => Self::INVAL,
        }
    }
}

/// To execute something.
const EXECUTE: u32 = 1;

/// So many threads are remembered that may become a set-id program: each makes another call soon, or is gone.
const EXECUTIONS_MAX: usize = 1024;

/// The auxiliary vector of a process is read up to this size.
const VECTOR_BYTES_MAX: usize = 4096;

/// A thread is about to become a set-id program, which may fail.
#[derive(Debug)]
pub(super) struct Execution {
    /// Device and inode.
    program: (u64, u64),
    /// What the kernel gave to the program that it is now. Another one, also the emulator of another architecture's, is
    /// given something else: addresses that the kernel draws by lot.
    vector: Vec<u8>,
    old: Arc<Credentials>,
    new: Credentials,
}

fn auxiliary_vector(call: &Call<'_>) -> Result<Vec<u8>, Errno> {
    let file = call.open(c"auxv", OFlags::RDONLY)?;
    let mut vector = vec![0; VECTOR_BYTES_MAX];
    let length = rustix::io::read(&file, &mut vector)?;
    vector.truncate(length);
    Ok(vector)
}

impl Emulation<'_> {
    /// Answers a call about the ids of the process that makes it.
    pub(super) fn ids(&mut self, call: &Call<'_>) -> Result<Answer, Errno> {
        let old = self.identities.of(call)?;
        let told = |id: u32| Ok(Answer::Value(id.into()));
        match call.name {
            "getuid" => return told(old.user.real),
            "geteuid" => return told(old.user.effective),
            "getgid" => return told(old.group.real),
            "getegid" => return told(old.group.effective),
            "getresuid" => return tell_three(call, old.user),
            "getresgid" => return tell_three(call, old.group),
            "getgroups" => return tell_groups(call, &old.groups),
            "prlimit64" => return tell_limit(call, call.argument(3)),
            "getrlimit" => return tell_limit(call, call.argument(1)),
            // Nothing follows from this limit.
            "setrlimit" => return Ok(Answer::Value(0)),
            _ => {}
        }
        let mut new = Credentials::clone(&old);
        let privileged = old.may_change_ids();
        let (first, second, third) = (call.word(0), call.word(1), call.word(2));
        let (mut value, mut user) = (0, old.user);
        match call.name {
            "setuid" => user.set(first, privileged)?,
            "setgid" => new.group.set(first, privileged)?,
            "setreuid" => user.set_two(first, second, privileged)?,
            "setregid" => new.group.set_two(first, second, privileged)?,
            "setresuid" => user.set_three([first, second, third], privileged)?,
            "setresgid" => new.group.set_three([first, second, third], privileged)?,
            "setfsuid" => value = user.set_files(first, privileged).into(),
            "setfsgid" => value = new.group.set_files(first, privileged).into(),
            "setgroups" => {
                if !privileged {
                    return Err(Errno::PERM);
                }
                new.set_groups(read_groups(call)?)?;
            }
            "prctl" => new.keep = second == 1,
            _ => return Ok(Answer::Continue),
        }
        new.set_user(user);
        if new != *old {
            self.identities.set(call, new)?;
        }
        // The kernel keeps the capabilities that the process really has.
        Ok(if call.name == "prctl" { Answer::Continue } else { Answer::Value(value) })
    }

    /// A process executes a program: one with a set-id bit brings the ids of its owner along.
    pub(super) fn execute(&mut self, call: &Call<'_>, program: &Target) -> Result<Answer, Errno> {
        let old = self.identities.of(call)?;
        let mut new = Credentials::clone(&old);
        let (mut brought, mut file) = ((None, None), None);
        match program.open(call) {
            Ok(found) => {
                self.require(&old, found.as_fd(), EXECUTE)?;
                brought = self.brings(call, &found).unwrap_or_default();
                file = Some(identity(&rustix::fs::fstat(&found)?));
            }
            Err(Errno::NOENT) => return Ok(Answer::Continue),
            // What cannot be looked at is the kernel's to refuse.
            Err(_) => {}
        }
        new.execute(brought.0, brought.1);
        if new == *old {
            return Ok(Answer::Continue);
        }
        self.identities.set(call, new.clone())?;
        if let Some(program) = file.filter(|_| brought != (None, None)) {
            if self.executions.len() >= EXECUTIONS_MAX {
                self.executions.clear();
            }
            let vector = auxiliary_vector(call).unwrap_or_default();
            self.executions.insert(call.thread(), Execution { program, vector, old, new });
        }
        Ok(Answer::Continue)
    }

    /// Takes the ids that a set-id program was to bring away again, if the thread that makes `call` has not become that
    /// program.
    pub(super) fn settle(&mut self, call: &Call<'_>) -> Result<(), Errno> {
        let Some(Execution { program, vector, old, new }) = self.executions.remove(&call.thread()) else {
            return Ok(());
        };
        let runs = call.open(c"exe", OFlags::PATH).and_then(|file| rustix::fs::fstat(&file));
        // What runs may be the emulator that was started for the program.
        let is_as_before = || auxiliary_vector(call).is_ok_and(|now| now == vector);
        let failed = runs.is_ok_and(|runs| identity(&runs) != program && is_as_before());
        if failed && *self.identities.of(call)? == new {
            self.identities.set(call, Credentials::clone(&old))?;
        }
        Ok(())
    }

    /// User and group that a program brings.
    fn brings(&self, call: &Call<'_>, file: &OwnedFd) -> Result<(Option<u32>, Option<u32>), Errno> {
        let stat = rustix::fs::fstat(file)?;
        let mode = stat.st_mode;
        let sets_user = mode & libc::S_ISUID != 0;
        let sets_group = mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP;
        if !(sets_user || sets_group) || mode & 0o111 == 0 || paths::kind(&stat) != FileType::RegularFile {
            return Ok((None, None));
        }
        let no_set_id = rustix::fs::fstatfs(file)?.f_flags as u64 & libc::ST_NOSUID != 0;
        if no_set_id || is_script(file)? || call.status("NoNewPrivs")? != "0" {
            return Ok((None, None));
        }
        let (user, group) = self.ownership.get(file.as_fd()).map_err(crate::supervisor::call::errno)?.owner;
        Ok((sets_user.then_some(user), sets_group.then_some(group)))
    }
}

/// Set-id bits of scripts count for nothing.
fn is_script(file: &OwnedFd) -> Result<bool, Errno> {
    let file = paths::reopen(file.as_fd(), OFlags::RDONLY | OFlags::NONBLOCK)?;
    let mut start = [0; 2];
    Ok(rustix::io::read(file, &mut start)? == 2 && start == *b"#!")
}

fn tell_three(call: &Call<'_>, ids: Ids) -> Result<Answer, Errno> {
    for (index, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
        call.write(call.argument(index), &id.to_ne_bytes())?;
    }
    Ok(Answer::Value(0))
}

fn tell_groups(call: &Call<'_>, groups: &[u32]) -> Result<Answer, Errno> {
    let room = usize::try_from(call.int(0)).map_err(|_| Errno::INVAL)?;
    if room != 0 {
        if room < groups.len() {
            return Err(Errno::INVAL);
        }
        let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
        call.write(call.argument(1), &bytes)?;
    }
    Ok(Answer::Value(groups.len() as i64))
}

fn read_groups(call: &Call<'_>) -> Result<Vec<u32>, Errno> {
    let count = usize::try_from(call.int(0)).ok().filter(|count| *count <= GROUPS_MAX);
    let mut bytes = vec![0; count.ok_or(Errno::INVAL)? * 4];
    call.read(call.argument(1), &mut bytes)?;
    let (groups, _) = bytes.as_chunks();
    Ok(groups.iter().map(|group| u32::from_ne_bytes(*group)).collect())
}

/// Nobody limits the number of file locks.
fn tell_limit(call: &Call<'_>, address: u64) -> Result<Answer, Errno> {
    if address != 0 {
        call.write(address, &[0xff; 16])?;
    }
    Ok(Answer::Value(0))
}
