//! One call that waits for its answer, and what can be learnt of the process that made it.

use std::ffi::CString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::RuntimeError;
use crate::sys;
use crate::sys::notify::{self, Notification};

/// The longest string that the kernel takes as a path, with its end.
pub(crate) const PATH_BYTES_MAX: usize = 4096;

/// Memory is copied in parts that cross no page, because a page that is missing fails the whole part.
const PAGE_BYTES: u64 = 4096;

/// The most that is read of a process's `status`.
const STATUS_BYTES_MAX: u64 = 64 << 10;

/// The permissions of a mode.
pub(crate) const PERMISSIONS: u32 = 0o7777;

/// How `open` and its relations are to open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenHow {
    pub(crate) flags: OFlags,
    pub(crate) mode: u32,
    /// Ways that the path may not take.
    pub(crate) resolve: u64,
}

impl OpenHow {
    /// As `open` takes it.
    pub(crate) fn new(flags: u64, mode: u64) -> Self {
        let flags = OFlags::from_bits_retain((flags & 0xffff_ffff) as u32);
        Self { flags, mode: (mode & u64::from(PERMISSIONS)) as u32, resolve: 0 }
    }

    /// As `creat` takes it.
    pub(crate) fn creat(mode: u64) -> Self {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC;
        Self::new(flags.bits().into(), mode)
    }

    /// As `openat2` takes it.
    pub(crate) fn read(call: &Call<'_>, address: u64) -> Result<Self, Errno> {
        let mut bytes = [0; 24];
        call.read(address, &mut bytes)?;
        let (words, _) = bytes.as_chunks();
        let word = |at: usize| words.get(at).map_or(0, |word| u64::from_ne_bytes(*word));
        Ok(Self { resolve: word(2), ..Self::new(word(0), word(1)) })
    }
}

/// `/proc`, as it shows the processes that this one can see.
#[derive(Debug)]
pub(crate) struct Processes(OwnedFd);

impl Processes {
    /// Opens it and makes sure that its numbers are those that notifications carry.
    pub(crate) fn open() -> Result<Self, RuntimeError> {
        let failed = |source: std::io::Error| RuntimeError::Step {
            step:
                "look into the processes of a step: /proc is missing or that of other processes; mount the \
                   container's own there"
                    .to_owned(),
            source,
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::openat(CWD, c"/proc", flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let own = rustix::fs::readlinkat(&proc, c"self", Vec::new()).map_err(|e| failed(e.into()))?;
        if own.to_string_lossy() != std::process::id().to_string() {
            return Err(failed(Errno::SRCH.into()));
        }
        Ok(Self(proc))
    }
}

/// A system call of a step that waits for an answer.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    listener: BorrowedFd<'a>,
    notification: Notification,
    processes: &'a Processes,
    /// What it is called.
    pub(crate) name: &'static str,
}

impl<'a> Call<'a> {
    pub(super) fn new(
        listener: BorrowedFd<'a>,
        notification: Notification,
        name: &'static str,
        processes: &'a Processes,
    ) -> Self {
        Self { listener, notification, processes, name }
    }

    /// An argument as the register holds it; 0 beyond the last one.
    pub(crate) fn argument(&self, index: usize) -> u64 {
        self.notification.arguments.get(index).copied().unwrap_or(0)
    }

    /// An argument of 32 bits.
    pub(crate) fn word(&self, index: usize) -> u32 {
        (self.argument(index) & 0xffff_ffff) as u32
    }

    /// An argument of type `int`.
    pub(crate) fn int(&self, index: usize) -> i32 {
        self.word(index).cast_signed()
    }

    /// The thread that made the call. Its number belongs to another one as soon as the call no longer waits.
    pub(crate) fn thread(&self) -> i32 {
        self.notification.thread
    }

    /// Fails when the call no longer waits: then whatever was found out by the thread's number may be about somebody
    /// else. When this succeeds, everything found out before it was about the caller.
    pub(crate) fn still_waits(&self) -> Result<(), Errno> {
        if notify::is_waiting(self.listener, self.notification.id) { Ok(()) } else { Err(Errno::SRCH) }
    }

    /// The string at `address`, at most [`PATH_BYTES_MAX`] with its end.
    pub(crate) fn string(&self, address: u64) -> Result<CString, Errno> {
        let mut text = Vec::with_capacity(256);
        let mut at = address;
        while text.len() < PATH_BYTES_MAX {
            let known = text.len();
            // Most strings are short, and most pages are long enough.
            let part = if known == 0 { 256 } else { PAGE_BYTES };
            let part = part.min(PAGE_BYTES - at % PAGE_BYTES);
            text.resize(known + part as usize, 0);
            let count = self.read_part(at, &mut text[known..])?;
            text.truncate(known + count);
            if let Some(end) = text[known..].iter().position(|byte| *byte == 0) {
                text.truncate(known + end);
                self.still_waits()?;
                return CString::new(text).map_err(|_| Errno::INVAL);
            }
            at = at.checked_add(count as u64).ok_or(Errno::FAULT)?;
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Fills `buffer` from `address`.
    pub(crate) fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let (mut at, mut done) = (address, 0);
        while done < buffer.len() {
            let part = ((PAGE_BYTES - at % PAGE_BYTES) as usize).min(buffer.len() - done);
            done += self.read_part(at, &mut buffer[done..done + part])?;
            at = address.checked_add(done as u64).ok_or(Errno::FAULT)?;
        }
        self.still_waits()
    }

    fn read_part(&self, at: u64, part: &mut [u8]) -> Result<usize, Errno> {
        let count = match notify::read_memory(self.thread(), at, part).map_err(errno) {
            // Some engines' filters refuse this call, though not the file.
            Err(Errno::PERM | Errno::NOSYS) => {
                let memory = File::from(self.open(c"mem", OFlags::RDONLY)?);
                memory.read_at(part, at).map_err(|_| Errno::FAULT)?
            }
            read => read?,
        };
        if count == 0 { Err(Errno::FAULT) } else { Ok(count) }
    }

    /// Writes `bytes` at `address`.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        // Not by the thread's number: memory that was opened stays the caller's, even when the caller goes.
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let memory = File::from(self.open(c"mem", flags)?);
        memory.write_all_at(bytes, address).map_err(|_| Errno::FAULT)
    }

    /// Opens `name` in the process's directory of `/proc`. It is the caller's.
    pub(crate) fn open(&self, name: &std::ffi::CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = format!("{}/{}", self.thread(), name.to_string_lossy());
        let found = rustix::fs::openat(&self.processes.0, path, flags | OFlags::CLOEXEC, Mode::empty());
        self.still_waits()?;
        found
    }

    /// The soft limit `resource` of the process.
    pub(crate) fn limit(&self, resource: u32) -> Result<u64, Errno> {
        let (soft, _) = sys::limit_of(self.thread(), resource).map_err(|error| errno(error.into()))?;
        self.still_waits()?;
        Ok(soft)
    }

    /// Sets the soft limit `resource` of the process.
    pub(crate) fn set_limit(&self, resource: u32, soft: u64) -> Result<(), Errno> {
        let (_, hard) = sys::limit_of(self.thread(), resource).map_err(|error| errno(error.into()))?;
        self.still_waits()?;
        sys::set_limit_of(self.thread(), resource, soft, hard).map_err(|error| errno(error.into()))
    }

    /// A descriptor of its own for what the process's descriptor `fd` is.
    pub(crate) fn take(&self, fd: i32) -> Result<OwnedFd, Errno> {
        let process = self.status("Tgid")?.parse().ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        let process = pidfd_open(process, PidfdFlags::empty())?;
        self.still_waits()?;
        pidfd_getfd(&process, fd, PidfdGetfdFlags::empty())
    }

    /// The value of a line of the process's `status`, such as `Umask`.
    pub(crate) fn status(&self, key: &str) -> Result<String, Errno> {
        let mut text = String::new();
        let status = File::from(self.open(c"status", OFlags::RDONLY)?);
        status.take(STATUS_BYTES_MAX).read_to_string(&mut text).map_err(errno)?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned()).ok_or(Errno::NOENT)
    }

    /// The bits that the process takes from the mode of what it makes.
    pub(crate) fn umask(&self) -> Result<u32, Errno> {
        u32::from_str_radix(&self.status("Umask")?, 8).map_err(|_| Errno::INVAL)
    }
}

/// The error number of `error`.
pub(crate) fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
