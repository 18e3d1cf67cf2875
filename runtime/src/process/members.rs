//! All processes of a container together: stopped, counted, listed.
//!
//! What a control group counts is taken from there; what none counts, from `/proc`. The processes of a container are the
//! descendants of its first one and of those that were executed in it later, as the caller's `/proc` has them. That needs no
//! right to look into them, and holds in every sandbox.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::failed;
use crate::RuntimeError;
use crate::cgroup::{Group, Usage};

/// The processes of a container.
#[derive(Debug)]
pub struct Members<'a> {
    init: OwnedFd,
    pid: i32,
    group: Option<&'a Group>,
    /// The processes that watch over those that were executed later.
    executed: Mutex<Vec<i32>>,
}

/// Where numbers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// The control group: what has ended is counted too.
    Group,
    /// The processes that there are now.
    Processes,
}

/// What a container has taken of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Time of all processors since it began.
    pub cpu: Duration,
    /// Where that comes from.
    pub cpu_from: Measured,
    /// Bytes of memory, without files in the page cache that nobody uses.
    pub memory: u64,
    /// Where that comes from.
    pub memory_from: Measured,
    /// The most memory that it may have.
    pub memory_limit: Option<u64>,
    /// How many processes and threads there are.
    pub pids: u64,
    /// How many there may be.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices; none where nobody counts them.
    pub read: Option<u64>,
    /// Bytes written to them.
    pub written: Option<u64>,
}

/// One process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number for the caller.
    pub pid: i32,
    /// Its number in the container.
    pub inside: i32,
    /// Its parent's number for the caller.
    pub parent: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// As `ps` shows it: `R`, `S`, `D`, `T`, `Z` …
    pub state: char,
    /// The name of the program, at most 15 bytes.
    pub name: String,
    /// Its arguments; none of a process that has ended or hides them.
    pub arguments: Vec<String>,
    /// Processor time.
    pub cpu: Duration,
    /// When it began, after the machine did.
    pub started: Duration,
    /// Bytes of memory that it has in use.
    pub memory: u64,
    /// Its threads.
    pub threads: u64,
    /// The device number of the terminal that controls it, 0 for none.
    pub terminal: u32,
}

impl<'a> Members<'a> {
    pub(crate) fn new(
        init: BorrowedFd<'_>,
        pid: i32,
        group: Option<&'a Group>,
    ) -> Result<Self, RuntimeError> {
        let init = init.try_clone_to_owned().map_err(failed("open the container's process"))?;
        Ok(Self { init, pid, group, executed: Mutex::default() })
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.init.as_fd()
    }

    pub(crate) fn group(&self) -> Option<&'a Group> {
        self.group
    }

    /// One more process watches over one that was executed.
    pub(crate) fn note_executed(&self, watcher: i32) {
        let mut executed = self.executed.lock().unwrap_or_else(PoisonError::into_inner);
        let own = std::process::id().cast_signed();
        executed.retain(|&pid| super::family_of(pid).is_some_and(|family| family.parent == own));
        executed.push(watcher);
    }

    /// Whether something can be executed in the container now.
    pub(crate) fn require_running(&self) -> Result<(), RuntimeError> {
        let what = "execute a process in the container";
        if self.is_paused() {
            return Err(RuntimeError::Impossible { what, why: "it is paused; unpause it first".to_owned() });
        }
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut [PollFd::new(&self.init, PollFlags::IN)], Some(&now)) {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => Err(RuntimeError::Impossible { what, why: "it has ended".to_owned() }),
        }
    }

    /// Stops all processes where they are. Returns when all of them have stopped.
    pub fn pause(&self) -> Result<(), RuntimeError> {
        let what = "pause the container";
        match self.group.map(Group::freeze) {
            Some(Ok(true)) => Ok(()),
            Some(Err(error)) => Err(failed(what)(error)),
            Some(Ok(false)) | None => Err(RuntimeError::Impossible { what, why: NO_FREEZER.to_owned() }),
        }
    }

    /// Lets them go on.
    pub fn unpause(&self) -> Result<(), RuntimeError> {
        self.group.map_or(Ok(()), Group::thaw).map_err(failed("unpause the container"))
    }

    /// Whether they are stopped.
    pub fn is_paused(&self) -> bool {
        self.group.is_some_and(Group::is_frozen)
    }

    /// What they have taken so far.
    pub fn stats(&self) -> Result<Stats, RuntimeError> {
        let usage = self.group.map(Group::usage).unwrap_or_default();
        let is_complete = matches!(usage, Usage { cpu: Some(_), memory: Some(_), pids: Some(_), .. });
        let members = if is_complete { Vec::new() } else { self.list()? };
        let from = |known: bool| if known { Measured::Group } else { Measured::Processes };
        Ok(Stats {
            cpu: usage.cpu.unwrap_or_else(|| members.iter().map(|member| member.cpu).sum()),
            cpu_from: from(usage.cpu.is_some()),
            memory: usage.memory.unwrap_or_else(|| members.iter().map(|member| member.memory).sum()),
            memory_from: from(usage.memory.is_some()),
            memory_limit: usage.memory_limit,
            pids: usage.pids.unwrap_or_else(|| members.iter().map(|member| member.threads).sum()),
            pids_limit: usage.pids_limit,
            read: usage.read,
            written: usage.written,
        })
    }

    /// Them one by one, the first one first.
    pub fn list(&self) -> Result<Vec<Member>, RuntimeError> {
        let entries = fs::read_dir("/proc").map_err(failed("list the processes"))?;
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let parents: HashMap<i32, i32> =
            numbers.filter_map(|pid| Some((pid, super::family_of(pid)?.parent))).collect();
        let executed = self.executed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let own = std::process::id().cast_signed();
        let is_watcher = |pid: i32| executed.contains(&pid) && parents.get(&pid) == Some(&own);
        let is_member = |pid: i32| {
            let mut at = pid;
            // As many steps as there are processes; the lists of a moment could go round.
            for _ in 0..=parents.len() {
                if at == self.pid || at != pid && is_watcher(at) {
                    return true;
                }
                match parents.get(&at) {
                    Some(&parent) => at = parent,
                    None => return false,
                }
            }
            false
        };
        // How many numbers the first process has says which of the others' is the container's.
        let depth = Status::of(self.pid).map_or(1, |status| status.numbers.len());
        let mut pids: Vec<i32> = parents.keys().copied().filter(|&pid| is_member(pid)).collect();
        pids.sort_unstable_by_key(|&pid| (pid != self.pid, pid));
        // Those that have ended meanwhile are left out.
        Ok(pids.into_iter().filter_map(|pid| member(pid, depth)).collect())
    }
}

const NO_FREEZER: &str =
    "it has no control group with a freezer (that takes a /sys/fs/cgroup in which groups can be made)";

/// What the kernel counts processor time in when it tells programs (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// What `/proc` tells of a process; none when it has ended.
fn member(pid: i32, depth: usize) -> Option<Member> {
    let status = Status::of(pid)?;
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name may hold anything, but ends with the last bracket.
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    // The third field is the first one here.
    let field =
        |number: usize| fields.get(number - 3).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let ticks = |count: u64| Duration::from_millis(count.saturating_mul(1000 / TICKS_PER_SECOND));
    Some(Member {
        pid,
        inside: status.numbers.get(depth - 1).copied().unwrap_or(pid),
        parent: field(4) as i32,
        uid: status.uid,
        gid: status.gid,
        state: fields.first().and_then(|state| state.chars().next()).unwrap_or('?'),
        name,
        arguments: arguments(pid),
        cpu: ticks(field(14).saturating_add(field(15))),
        started: ticks(field(22)),
        memory: status.memory,
        threads: field(20).max(1),
        terminal: field(7) as u32,
    })
}

/// The most that is read of a process's arguments.
const ARGUMENTS_BYTES_MAX: u64 = 64 << 10;

fn arguments(pid: i32) -> Vec<String> {
    let mut text = Vec::new();
    let read = fs::File::open(format!("/proc/{pid}/cmdline"))
        .and_then(|file| file.take(ARGUMENTS_BYTES_MAX).read_to_end(&mut text));
    if read.is_err() || text.is_empty() {
        return Vec::new();
    }
    // The first process has overwritten what was there with zeros.
    let length = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let text = &text[..length];
    text.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

/// A part of a process's `status`.
struct Status {
    uid: u32,
    gid: u32,
    memory: u64,
    /// Its number in each pid namespace, the outermost first.
    numbers: Vec<i32>,
}

impl Status {
    fn of(pid: i32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/status")).ok()?;
        let text = String::from_utf8_lossy(&text);
        let fields = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        // The second one is the effective one.
        let id = |key: &str| fields(key).get(1).and_then(|id| id.parse().ok());
        let numbers = fields("NSpid:").iter().filter_map(|number| number.parse().ok()).collect();
        // In KiB; none of a process that has ended.
        let memory = fields("VmRSS:").first().and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
        Some(Self { uid: id("Uid:")?, gid: id("Gid:")?, memory: memory.saturating_mul(1024), numbers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described() {
        let own = std::process::id().cast_signed();
        let found = member(own, 1).unwrap();
        assert_eq!((found.pid, found.inside), (own, own));
        assert_eq!(found.arguments.first(), std::env::args().next().as_ref());
        assert!(found.memory > 0 && found.threads > 0, "{found:?}");
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
    }
}
