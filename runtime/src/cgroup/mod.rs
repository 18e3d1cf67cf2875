//! Control groups: what the processes of a step may take of the machine, and what they died of.
//!
//! [`StepGroups`] says where groups can be made: below the group that this process is in, under cgroup v1 in each
//! hierarchy that a limit needs, under v2 in the nearest group that may have groups with limits below it. What holds for
//! the builder so holds for its steps. Where nothing can be made there is a sentence that says why.
//!
//! A [`Group`] lives as long as its step and is removed with its value. What a killed builder leaves is recognized by
//! nobody holding its lock, and removed by the next one that makes groups there, or by [`StepGroups::clear`].

mod hierarchy;
mod observe;
mod place;
mod values;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use self::hierarchy::Version;
pub(crate) use self::observe::Usage;
pub use self::place::NoGroups;
use self::place::Place;
use self::values::Value;

/// What the processes of a step may take together. What is not given is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together. Where it is not given, twice the memory.
    pub memory_swap: Option<Swap>,
    /// Microseconds in which the processor's time is counted.
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time in each period.
    pub cpu_quota: Option<u64>,
    /// Share of the processor when it is contended, where 1024 is usual.
    pub cpu_shares: Option<u64>,
    /// The processors to run on: `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// The memory nodes to take memory from: `0-1`.
    pub cpuset_mems: Option<String>,
    /// How many processes and threads there may be at once.
    pub pids: Option<u64>,
}

/// A limit of memory and swap together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// Bytes.
    Bytes(u64),
    /// As much swap as there is.
    Unlimited,
}

/// A part of the kernel that limits, counts or stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Controller {
    Memory,
    Cpu,
    Cpuset,
    Pids,
    Freezer,
    /// Counts processor time.
    CpuTime,
    BlockIo,
}

impl Controller {
    const ALL: [Self; 7] =
        [Self::Memory, Self::Cpu, Self::Cpuset, Self::Pids, Self::Freezer, Self::CpuTime, Self::BlockIo];

    /// What a container that is looked at has besides what its limits need, the most important first.
    const OBSERVING: [Self; 5] = [Self::Freezer, Self::CpuTime, Self::Memory, Self::Pids, Self::BlockIo];

    /// The name in the v2 hierarchy; none of what every group has there.
    fn name_in_v2(self) -> Option<&'static str> {
        match self {
            Self::Freezer | Self::CpuTime => None,
            Self::BlockIo => Some("io"),
            other => Some(other.name()),
        }
    }

    /// The name of its v1 hierarchy.
    fn name(self) -> &'static str {
        match self {
            Self::Freezer => "freezer",
            Self::CpuTime => "cpuacct",
            Self::BlockIo => "blkio",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
        }
    }
}

impl Limits {
    /// What has to be there for them, sorted.
    fn controllers(&self) -> Vec<Controller> {
        let needed = |controller: &Controller| match controller {
            Controller::Memory => self.memory.is_some() || self.memory_swap.is_some(),
            Controller::Cpu => {
                self.cpu_period.is_some() || self.cpu_quota.is_some() || self.cpu_shares.is_some()
            }
            Controller::Cpuset => self.cpuset_cpus.is_some() || self.cpuset_mems.is_some(),
            Controller::Pids => self.pids.is_some(),
            Controller::Freezer | Controller::CpuTime | Controller::BlockIo => false,
        };
        Controller::ALL.into_iter().filter(needed).collect()
    }
}

/// How much may be changed to be able to limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Nothing that stays.
    Passing,
    /// This process may move into a group of its own below the one that it is in, and controllers may be switched on for
    /// groups below that one. Both stay until the group is removed by whoever made it.
    Lasting,
}

/// Where the groups of steps are made.
#[derive(Debug)]
pub struct StepGroups {
    places: Vec<Place>,
    limits: Limits,
}

/// Why a group could not be made or was refused a limit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The directory of the group.
    #[error("cannot make the control group `{}`", path.display())]
    Make {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not take a limit.
    #[error("cannot limit {what}: the kernel does not take `{value}` for `{}`", path.display())]
    Limit {
        /// What was to be limited.
        what: &'static str,
        /// The file of the limit.
        path: PathBuf,
        /// What was written.
        value: String,
        /// Why.
        source: io::Error,
    },
}

/// The name of a step's group begins with this.
const PREFIX: &str = "wharf-step-";

/// How often a name is tried before it is given up: each time somebody takes the new group for a leftover.
const ATTEMPTS_MAX: u32 = 8;

impl StepGroups {
    /// Finds where groups with `limits` can be made: below `parent` (a path from the top of the hierarchies, made where it
    /// is missing), else below the group of this process.
    pub fn find(limits: Limits, parent: Option<&str>, effort: Effort) -> Result<Self, NoGroups> {
        let places = place::find(&limits.controllers(), parent, effort)?;
        for place in &places {
            place.remove_leftovers();
        }
        Ok(Self { places, limits })
    }

    /// The same for a container that is to be paused and measured, as far as that can be had here. Where no group can be
    /// made at all and `limits` needs none, its groups are empty.
    pub fn find_observed(limits: Limits, parent: Option<&str>, effort: Effort) -> Result<Self, NoGroups> {
        let mut controllers = limits.controllers();
        let mut places = place::find(&controllers, parent, effort)?;
        for controller in Controller::OBSERVING {
            let mut more = controllers.clone();
            more.push(controller);
            more.sort_unstable();
            more.dedup();
            if let Ok(found) = place::find(&more, parent, effort) {
                (controllers, places) = (more, found);
            }
        }
        for place in &places {
            place.remove_leftovers();
        }
        Ok(Self { places, limits })
    }

    /// Removes what killed processes have left where groups would be made.
    pub fn clear(parent: Option<&str>) {
        // Where no groups can be made there are none.
        let _ = Self::find_observed(Limits::default(), parent, Effort::Passing);
    }

    /// The limits that every group gets.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Makes the group of a step.
    pub fn make(&self) -> Result<Group, GroupError> {
        let mut group = Group { parts: Vec::new(), memory: self.limits.memory, pids: self.limits.pids };
        for place in &self.places {
            let part = Part::make(place)?;
            let directory = part.path.clone();
            group.parts.push(part);
            for value in values::values(&self.limits, place) {
                value.write(&directory)?;
            }
            if let Some(part) = group.parts.last_mut() {
                part.open_entry()?;
            }
        }
        Ok(group)
    }
}

/// The control group of one step: in each hierarchy that takes part, a directory. Dropping it ends what is left in it and
/// removes it.
#[derive(Debug)]
pub struct Group {
    parts: Vec<Part>,
    memory: Option<u64>,
    pids: Option<u64>,
}

/// What a group's processes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The kernel's OOM killer ended processes, because the group's limit of so many bytes was reached.
    MemoryLimit(u64),
    /// The kernel's OOM killer ended processes, because memory ran out around the group.
    Memory,
    /// A process or thread could not be made, because there were so many.
    ProcessLimit(u64),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MemoryLimit(bytes) => {
                write!(f, "the memory limit of {} was reached (the kernel's OOM killer)", Size(*bytes))
            }
            Self::Memory => f.write_str("memory ran out (the kernel's OOM killer)"),
            Self::ProcessLimit(count) => write!(f, "the limit of {count} processes was reached"),
        }
    }
}

/// What the kernel charges at once, so that a group that is refused memory may have that much less than its limit.
const CHARGE_BYTES: u64 = 256 << 10;

/// A size in the largest binary unit that leaves no rest.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.into_iter().find(|(unit, _)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

impl Group {
    /// What its processes were refused so far, the worst first. To be asked before it is dropped.
    pub fn refused(&self) -> Option<Refused> {
        if self.oom_kills() > 0 {
            let reached = |limit: &u64| {
                // The counts of failures of v1 miss those of memory and swap together.
                let most = self.count("memory.max_usage_in_bytes", "");
                self.count("memory.events", "oom") > 0 || most.saturating_add(CHARGE_BYTES) >= *limit
            };
            return Some(self.memory.filter(reached).map_or(Refused::Memory, Refused::MemoryLimit));
        }
        self.pids.filter(|_| self.count("pids.events", "max") > 0).map(Refused::ProcessLimit)
    }

    /// How many of its processes the kernel's OOM killer has ended.
    pub fn oom_kills(&self) -> u64 {
        self.count("memory.events", "oom_kill").max(self.count("memory.oom_control", "oom_kill"))
    }

    /// What is counted in a file of any of its directories; see [`Part::count`].
    fn count(&self, file: &str, name: &str) -> u64 {
        self.parts.iter().map(|part| part.count(file, name)).max().unwrap_or(0)
    }

    /// Sends SIGKILL to every process in it, those that are being made included.
    pub fn kill(&self) {
        self.parts.iter().for_each(Part::kill);
    }

    /// The descriptor of the v2 group, for `CLONE_INTO_CGROUP`.
    pub(crate) fn v2_entry(&self) -> Option<RawFd> {
        self.parts.iter().find(|part| part.version == Version::V2).map(|part| part.lock.as_raw_fd())
    }

    /// The files of the v1 groups that a process of one thread enters by writing `0`.
    pub(crate) fn v1_entries(&self) -> impl Iterator<Item = &File> {
        self.parts.iter().filter_map(|part| part.entry.as_ref())
    }
}

/// A directory in one hierarchy.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    version: Version,
    /// The directory, locked for as long as the group is needed.
    lock: File,
    entry: Option<File>,
}

impl Part {
    fn make(place: &Place) -> Result<Self, GroupError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut last = None;
        for _ in 0..ATTEMPTS_MAX {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = place.path.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match try_make(&path) {
                Ok(lock) => return Ok(Self { path, version: place.version, lock, entry: None }),
                // Another process with this number (of another pid namespace), or one that collects leftovers.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) =>
                {
                    last = Some((path, error));
                }
                Err(source) => return Err(GroupError::Make { path, source }),
            }
        }
        let (path, source) = last.unwrap_or_else(|| (place.path.clone(), io::ErrorKind::NotFound.into()));
        Err(GroupError::Make { path, source })
    }

    /// Opened last: a v1 group may be entered only once its processors and memory nodes are set.
    fn open_entry(&mut self) -> Result<(), GroupError> {
        if self.version == Version::V1 {
            let path = self.path.join("tasks");
            let opened = File::options().write(true).open(&path);
            self.entry = Some(opened.map_err(|source| GroupError::Make { path, source })?);
        }
        Ok(())
    }

    /// The number behind `name` in one of the group's files of counts, or the only number where `name` is empty; 0 where
    /// there is no such count.
    fn count(&self, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        parse_count(&text, name).unwrap_or(0)
    }

    fn kill(&self) {
        if fs::write(self.path.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        // Without that file the processes are told one by one; new ones are seen the next time.
        let processes = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines().filter_map(|line| line.parse().ok()) {
            // 0 is a process that cannot be seen from here.
            if let Some(process) = rustix::process::Pid::from_raw(process) {
                let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            }
        }
        self.let_go();
    }
}

/// How long the last processes of a group are waited for, and how often they are looked at.
const REMOVAL_PAUSE: Duration = Duration::from_millis(1);
const REMOVAL_ATTEMPTS: u32 = 2000;

impl Drop for Part {
    fn drop(&mut self) {
        for _ in 0..REMOVAL_ATTEMPTS {
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    self.kill();
                    thread::sleep(REMOVAL_PAUSE);
                }
                // Whatever else is in the way, the next one that makes groups here comes by.
                _ => return,
            }
        }
    }
}

fn try_make(path: &Path) -> io::Result<File> {
    fs::create_dir(path)?;
    let directory = File::open(path)?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        // Somebody is about to remove it.
        rustix::io::Errno::WOULDBLOCK => io::ErrorKind::NotFound.into(),
        error => io::Error::from(error),
    })?;
    // It may have been removed before it was locked.
    fs::symlink_metadata(path)?;
    Ok(directory)
}

fn parse_count(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.rsplit_once(' ').unwrap_or(("", line));
        (key == name).then(|| value.trim().parse().ok()).flatten()
    })
}

impl Value {
    fn write(&self, directory: &Path) -> Result<(), GroupError> {
        let path = directory.join(self.file);
        match fs::write(&path, &self.text) {
            Err(_) if self.optional => Ok(()),
            result => result.map_err(|source| GroupError::Limit {
                what: self.what,
                path,
                value: self.text.clone(),
                source,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read() {
        let events = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 0\n";
        for (text, name, expected) in [
            (events, "oom_kill", Some(3)),
            (events, "oom", Some(1)),
            (events, "kill", None),
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "oom_kill", Some(2)),
            ("17\n", "", Some(17)),
            ("", "", None),
            ("x\n", "", None),
        ] {
            assert_eq!(parse_count(text, name), expected, "{name} of {text:?}");
        }
    }

    #[test]
    fn refusals_are_sentences() {
        for (refused, expected) in [
            (
                Refused::MemoryLimit(64 << 20),
                "the memory limit of 64 MiB was reached (the kernel's OOM killer)",
            ),
            (
                Refused::MemoryLimit(3 << 30),
                "the memory limit of 3 GiB was reached (the kernel's OOM killer)",
            ),
            (
                Refused::MemoryLimit(7_000_001),
                "the memory limit of 7000001 bytes was reached (the kernel's OOM killer)",
            ),
            (Refused::ProcessLimit(20), "the limit of 20 processes was reached"),
        ] {
            assert_eq!(refused.to_string(), expected);
        }
    }

    #[test]
    fn what_is_limited_says_what_is_needed() {
        assert_eq!(Limits::default().controllers(), []);
        let limits = Limits { pids: Some(3), memory_swap: Some(Swap::Unlimited), ..Limits::default() };
        assert_eq!(limits.controllers(), [Controller::Memory, Controller::Pids]);
    }
}
