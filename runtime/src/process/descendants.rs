//! Ending all descendants of a process that has no pid namespace to do it; or, when the process that does so was killed
//! itself, those that came to the builder as its children.
//!
//! Part of the child: what is said in [`super::child`] holds here.

use std::ffi::CStr;
use std::os::fd::RawFd;

use crate::sys::{self, Errno};

/// The highest process id that a kernel gives.
const PROCESS_ID_MAX: usize = 1 << 22;

/// What a directory is read with.
const BUFFER_BYTES: usize = 32 << 10;

/// How long a killed process may take before it is looked for again.
const PAUSE_NANOSECONDS: i64 = 1_000_000;

/// How long processes are looked for where new ones can come to be meanwhile: on a machine of many processors they may be
/// faster than one who stops them.
const LOOKING_SECONDS: i64 = 20;

/// What is read of a process's `status`.
const STATUS_BYTES_MAX: usize = 4096;

/// The descendants of this process, which adopts those whose parents end.
pub(super) struct Descendants {
    /// Whether a signal to all reaches them alone. Checked before it is believed.
    scoped: bool,
    /// Which children of this process they begin with.
    children: Children,
    /// A bit for each process id.
    known: Vec<u64>,
    buffer: Vec<u8>,
}

/// Which children of a process are meant.
enum Children {
    All,
    /// Those of a step, which are under more seccomp filters than this many.
    Filtered {
        more_than: u32,
    },
}

impl Descendants {
    /// Those that a step has left to this process when its watcher was killed.
    pub(super) fn left_behind() -> Self {
        let more_than = filters_of(sys::process_id()).unwrap_or(0);
        Self { children: Children::Filtered { more_than }, ..Self::new(false) }
    }

    /// `scoped`: this process comes to be under rules that let it signal nobody else.
    pub(super) fn new(scoped: bool) -> Self {
        let children = Children::All;
        Self { scoped, children, known: vec![0; PROCESS_ID_MAX / 64], buffer: vec![0; BUFFER_BYTES] }
    }

    /// Makes sure of the rules: could the process that made this one be signalled, so could everybody.
    pub(super) fn make_sure(&mut self) {
        let parent = sys::parent_process_id();
        self.scoped &= parent > 0 && sys::kill(parent, 0) == Err(Errno(libc::EPERM));
    }

    /// Kills and reaps them, those too that come to be meanwhile. Says whether nobody is left.
    pub(super) fn end(&mut self) -> bool {
        let last = sys::seconds().saturating_add(LOOKING_SECONDS);
        loop {
            let looked = if self.scoped { end_scoped().map(|()| true) } else { self.end_listed() };
            match (self.reap(), looked) {
                (Reaped::NoChild, _) => return true,
                (Reaped::Known, Ok(false)) => return true,
                // Who they are cannot be found out.
                (_, Err(_)) => return false,
                _ if !self.scoped && sys::seconds() > last => return false,
                _ => sys::pause(PAUSE_NANOSECONDS),
            }
        }
    }

    fn reap(&self) -> Reaped {
        match self.children {
            Children::All => loop {
                match sys::wait_any() {
                    Ok(Some(_)) => {}
                    Ok(None) => return Reaped::Some,
                    Err(_) => return Reaped::NoChild,
                }
            },
            // Others wait for the other children of this process.
            Children::Filtered { .. } => {
                for (word, bits) in self.known.iter().enumerate().filter(|(_, bits)| **bits != 0) {
                    for bit in (0..u64::BITS as usize).filter(|bit| bits >> bit & 1 == 1) {
                        sys::reap((word * 64 + bit) as i32);
                    }
                }
                Reaped::Known
            }
        }
    }

    /// Stops all of them, so that none can fork, until no new one is found; and then kills them. Says
    /// whether there was one.
    fn end_listed(&mut self) -> Result<bool, Errno> {
        self.known.fill(0);
        let proc = sys::open_to_read(c"/proc")?;
        let last = sys::seconds().saturating_add(LOOKING_SECONDS);
        let mut stopped = Ok(true);
        while stopped == Ok(true) && sys::seconds() <= last {
            stopped = self.signal_listed(proc, libc::SIGSTOP);
        }
        let killed = stopped.and_then(|_| self.signal_listed(proc, libc::SIGKILL));
        sys::close_range(proc, proc)?;
        killed
    }

    /// Signals descendants: to stop them, those that are not known yet; to kill them, those that are. Says whether there
    /// was one.
    fn signal_listed(&mut self, proc: RawFd, signal: i32) -> Result<bool, Errno> {
        let own = sys::process_id();
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut found = false;
        sys::rewind(proc)?;
        let read = loop {
            let length = match sys::read_directory(proc, &mut buffer) {
                Ok(0) => break Ok(()),
                Ok(length) => length,
                Err(error) => break Err(error),
            };
            let mut entries = buffer.get(..length).unwrap_or_default();
            while let Some((process, rest)) = next_process(entries) {
                entries = rest;
                let Some(process) = process else { continue };
                if self.is_known(process) != (signal == libc::SIGKILL) {
                    continue;
                }
                // Whatever has this number once it is open is what is looked at and signalled.
                let Ok(fd) = sys::open_process(process) else { continue };
                let is_ours = family_of(process).is_some_and(|Family { parent, .. }| {
                    self.is_known(parent) || parent == own && self.is_meant(process)
                });
                if is_ours && sys::signal_process(fd, signal).is_ok() {
                    self.note(process);
                    found = true;
                }
                sys::close_range(fd, fd)?;
            }
        };
        self.buffer = buffer;
        read.map(|()| found)
    }

    /// Whether a child of this process is one of those that are to end.
    fn is_meant(&self, child: i32) -> bool {
        match self.children {
            Children::All => true,
            Children::Filtered { more_than } => filters_of(child).is_some_and(|filters| filters > more_than),
        }
    }

    fn is_known(&self, process: i32) -> bool {
        let (word, bit) = place(process);
        self.known.get(word).is_some_and(|word| word >> bit & 1 == 1)
    }

    fn note(&mut self, process: i32) {
        let (word, bit) = place(process);
        if let Some(word) = self.known.get_mut(word) {
            *word |= 1 << bit;
        }
    }
}

/// What reaping saw.
enum Reaped {
    Some,
    /// Nobody is left.
    NoChild,
    /// What was known has been reaped as far as it has ended.
    Known,
}

/// Kills everybody in scope, which no fork can slip through.
fn end_scoped() -> Result<(), Errno> {
    match sys::kill_all(libc::SIGKILL) {
        // There is nobody, or only what has ended already.
        Err(Errno(libc::ESRCH | libc::EPERM)) => Ok(()),
        result => result,
    }
}

fn place(process: i32) -> (usize, u32) {
    let number = process.unsigned_abs();
    ((number / 64) as usize, number % 64)
}

/// The process that the first of these `struct linux_dirent64` is the directory of, if it is one, and the rest.
fn next_process(entries: &[u8]) -> Option<(Option<i32>, &[u8])> {
    const LENGTH_AT: usize = 16;
    const NAME_AT: usize = 19;
    let length = entries.get(LENGTH_AT..LENGTH_AT + 2)?;
    let length = usize::from(u16::from_ne_bytes(length.try_into().ok()?));
    let name = entries.get(NAME_AT..length)?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some((number(name), entries.get(length..)?))
}

/// Whom a process, or the one that a thread is of, belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) parent: i32,
    /// Its process group.
    pub(crate) group: i32,
}

/// The family of a process, from the fourth field of its `stat` on. The second one, the name, may hold anything but ends
/// with the last `)`.
pub(crate) fn family_of(process: i32) -> Option<Family> {
    let mut stat = [0; 256];
    let stat = read_of(process, b"/stat\0", &mut stat)?;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = stat.get(name_end + 1..)?.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    Some(Family { parent: fields.nth(1).and_then(number)?, group: fields.next().and_then(number)? })
}

/// How many seccomp filters a process is under.
fn filters_of(process: i32) -> Option<u32> {
    const KEY: &[u8] = b"Seccomp_filters:";
    let mut status = [0; STATUS_BYTES_MAX];
    let status = read_of(process, b"/status\0", &mut status)?;
    let value = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(KEY))?;
    number(value.trim_ascii()).map(i32::unsigned_abs)
}

/// The beginning of a file in a process's directory.
fn read_of<'a>(process: i32, file: &[u8], room: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut path = [0; 32];
    let fd = sys::open_to_read(path_of(process, file, &mut path)?).ok()?;
    let length = sys::read(fd, room);
    let _ = sys::close_range(fd, fd);
    room.get(..length.ok()?)
}

/// `/proc/<process>` and `file`, written into `room`.
fn path_of<'a>(process: i32, file: &[u8], room: &'a mut [u8; 32]) -> Option<&'a CStr> {
    let mut digits = [0; 10];
    let (mut rest, mut first) = (process.unsigned_abs(), digits.len());
    loop {
        first = first.checked_sub(1)?;
        *digits.get_mut(first)? = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let parts = [&b"/proc/"[..], digits.get(first..)?, file];
    for (to, from) in room.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    CStr::from_bytes_until_nul(room).ok()
}

fn number(digits: &[u8]) -> Option<i32> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_i32, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| i32::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_and_their_parents_are_read() {
        let own = sys::process_id();
        let group = rustix::process::getpgrp().as_raw_nonzero().get();
        assert_eq!(family_of(own), Some(Family { parent: sys::parent_process_id(), group }));
        assert_eq!(family_of(1).map(|family| family.parent), Some(0));
        assert!(filters_of(own).is_some());
        let mut room = [0; 32];
        assert_eq!(path_of(4_194_303, b"/status\0", &mut room), Some(c"/proc/4194303/status"));
        let check = |text: &str, expected| assert_eq!(number(text.as_bytes()), expected, "{text}");
        check("17", Some(17));
        check("", None);
        check("self", None);
        check("99999999999", None);
    }

    #[test]
    fn the_directory_of_processes_is_read() {
        let proc = sys::open_to_read(c"/proc").unwrap();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut found = Vec::new();
        loop {
            let length = sys::read_directory(proc, &mut buffer).unwrap();
            if length == 0 {
                break;
            }
            let mut entries = &buffer[..length];
            while let Some((process, rest)) = next_process(entries) {
                found.extend(process);
                entries = rest;
            }
        }
        assert!(found.contains(&1) && found.contains(&sys::process_id()), "{found:?}");
    }
}
