//! What a step may do to processes: whatever the kernel lets it, with its own.
//!
//! A step that is root here may schedule, limit and, where Landlock has no scopes, signal every other process of root, the
//! builder and its neighbours among them. So the calls that name a process come here, and go on if it is one of the step:
//! if it descends from the process that watches over the step, and is not that one. What they name is in registers, which
//! nobody changes while a call waits. Where it is in memory, the call is refused.

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use super::Confinement;
use super::opens::{self, Caller};
use crate::process::{Family, family_of};
use crate::seccomp::notify::{self, Action, Programs, Rule};
use crate::seccomp::{Comparison, Condition, Filter, Width};
use crate::supervisor::Answer;
use crate::supervisor::call::{Call, errno};
use crate::{RuntimeError, sys};

/// How many parents are looked at. A process with more has no say over others.
const GENERATIONS_MAX: usize = 4096;

const fn is(argument: u32, value: u64) -> Condition {
    Condition { argument, width: Width::Word, comparison: Comparison::Equal(value) }
}

const fn is_not(argument: u32, value: u64) -> Condition {
    Condition { argument, width: Width::Word, comparison: Comparison::NotEqual(value) }
}

const fn ask(name: &'static str, any_of: &'static [Condition]) -> Rule {
    Rule { name, any_of, action: Action::Notify, programs: Programs::All }
}

const fn refuse(name: &'static str, any_of: &'static [Condition], errno: i32) -> Rule {
    Rule { name, any_of, action: Action::Refuse(errno), programs: Programs::All }
}

/// What a process does to itself is nobody else's business; it is named by 0.
const TO_ANOTHER: &[Condition] = &[is_not(0, 0)];

const PRIO_PROCESS: u64 = libc::PRIO_PROCESS as u64;
const IOPRIO_WHO_PROCESS: u64 = 1;

const SCHEDULING: &[Rule] = &[
    ask("sched_setaffinity", TO_ANOTHER),
    ask("sched_setattr", TO_ANOTHER),
    ask("sched_setparam", TO_ANOTHER),
    ask("sched_setscheduler", TO_ANOTHER),
    ask("prlimit64", TO_ANOTHER),
    ask("setpriority", &[is_not(0, PRIO_PROCESS), is_not(1, 0)]),
    ask("ioprio_set", &[is_not(0, IOPRIO_WHO_PROCESS), is_not(1, 0)]),
];

const OWNER: &[Condition] = &[is(1, libc::F_SETOWN as u64)];
const OWNER_IN_MEMORY: &[Condition] = &[is(1, F_SETOWN_EX)];
const F_SETOWN_EX: u64 = 15;
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;

/// Where Landlock does not scope signals.
const SIGNALS: &[Rule] = &[
    ask("kill", &[]),
    ask("tkill", &[]),
    ask("tgkill", &[]),
    ask("rt_sigqueueinfo", &[]),
    ask("rt_tgsigqueueinfo", &[]),
    // Which process a descriptor stands for can change while a call waits. Programs take their older way then.
    refuse("pidfd_send_signal", &[], libc::ENOSYS),
    // Who owns a file is signalled about it.
    ask("fcntl", OWNER),
    ask("fcntl64", OWNER),
    refuse("fcntl", OWNER_IN_MEMORY, libc::EINVAL),
    refuse("fcntl64", OWNER_IN_MEMORY, libc::EINVAL),
    refuse("ioctl", &[is(1, FIOSETOWN), is(1, SIOCSPGRP)], libc::EPERM),
];

/// All that the supervisor of a step is asked about.
pub(super) fn rules(confinement: Confinement) -> Vec<Rule> {
    let signals = if confinement.scopes_signals() { &[] } else { SIGNALS };
    [opens::RULES, SCHEDULING, signals].concat()
}

/// The filter for these [`rules`].
pub(super) fn filter(confinement: Confinement) -> Result<Arc<Filter>, RuntimeError> {
    static SCOPED: OnceLock<Arc<Filter>> = OnceLock::new();
    static UNSCOPED: OnceLock<Arc<Filter>> = OnceLock::new();
    let made = if confinement.scopes_signals() { &SCOPED } else { &UNSCOPED };
    notify::filter_once(made, &rules(confinement))
}

/// Answers a call on processes. `watcher` is remembered.
pub(super) fn answer(call: &Call<'_>, watcher: &mut Option<i32>) -> Result<Answer, Errno> {
    let watcher = match *watcher {
        Some(known) => known,
        None => {
            let found = origin(call.thread());
            // The number was the caller's only if it still waits.
            call.still_waits()?;
            *watcher.insert(found.ok_or(Errno::PERM)?)
        }
    };
    let step = Step { watcher, caller: call.thread() };
    let allowed = match call.name {
        "kill" if call.int(0) <= 0 => return step.signal_many(call).map(|()| Answer::Value(0)),
        "tgkill" | "rt_tgsigqueueinfo" => step.owns(call.int(1)),
        "setpriority" => step.owns_all(call.int(0) - libc::PRIO_PROCESS as i32, call.int(1)),
        "ioprio_set" => step.owns_all(call.int(0).wrapping_sub(1), call.int(1)),
        // Nobody, a group as a negative number, or a process.
        "fcntl" | "fcntl64" => match call.int(2) {
            0 => Ok(()),
            process @ 1.. => step.owns(process),
            group => step.owns_group(group.checked_neg().ok_or(Errno::INVAL)?),
        },
        _ => step.owns(call.int(0)),
    };
    call.still_waits()?;
    allowed.map(|()| Answer::Continue)
}

/// A step, and who of it asks.
struct Step {
    watcher: i32,
    caller: i32,
}

impl Step {
    /// Whether a process, or the one that a thread is of, is the step's.
    fn owns(&self, process: i32) -> Result<(), Errno> {
        family_of(process).ok_or(Errno::SRCH)?;
        let is_own = process != self.watcher && origin(process) == Some(self.watcher);
        if is_own { Ok(()) } else { Err(Errno::PERM) }
    }

    /// The same for what `setpriority` calls so: 0 is a process, 1 a group, and everything else too many.
    fn owns_all(&self, which: i32, who: i32) -> Result<(), Errno> {
        match (which, who) {
            (0, 0) => Ok(()),
            (0, process) => self.owns(process),
            (1, 0) => self.owns_group(self.own_group()?),
            (1, group) => self.owns_group(group),
            _ => Err(Errno::PERM),
        }
    }

    /// Whether a group consists of the step's processes alone. Others cannot join it: it is of the step's session then.
    fn owns_group(&self, group: i32) -> Result<(), Errno> {
        let members = processes(|_, family| family.group == group)?;
        if members.is_empty() {
            return Err(Errno::SRCH);
        }
        members.into_iter().try_for_each(|member| self.owns(member))
    }

    fn own_group(&self) -> Result<i32, Errno> {
        Ok(family_of(self.caller).ok_or(Errno::SRCH)?.group)
    }

    /// Signals a group, or everybody but the caller, as far as they are the step's.
    fn signal_many(&self, call: &Call<'_>) -> Result<(), Errno> {
        let signal = call.int(1);
        let group = match call.int(0) {
            0 => Some(self.own_group()?),
            -1 => None,
            group => Some(group.checked_neg().ok_or(Errno::SRCH)?),
        };
        let own = call.status("Tgid")?.parse::<i32>().map_err(|_| Errno::SRCH)?;
        let caller = Caller::of(call)?;
        let mut result = Err(Errno::SRCH);
        for member in
            processes(|process, family| group.map_or(process != own, |group| family.group == group))?
        {
            // Whatever has this number once it is open is what is looked at and signalled.
            let Some(Ok(opened)) = Pid::from_raw(member).map(|pid| pidfd_open(pid, PidfdFlags::empty()))
            else {
                continue;
            };
            let signalled = self.owns(member).and_then(|()| {
                let send = || sys::signal_process(opened.as_raw_fd(), signal);
                caller.look(|| send().map_err(|error| errno(io::Error::from(error))))
            });
            match signalled {
                Ok(()) => result = Ok(()),
                Err(error) if result.is_err() => result = Err(error),
                Err(_) => {}
            }
        }
        result
    }
}

/// The child of this process that a process descends from or is: that of a step is its watcher.
fn origin(process: i32) -> Option<i32> {
    let own = getpid().as_raw_nonzero().get();
    let mut at = process;
    for _ in 0..GENERATIONS_MAX {
        match family_of(at)?.parent {
            0 => return None,
            parent if parent == own => return Some(at),
            parent => at = parent,
        }
    }
    None
}

/// The processes of this place that are so.
fn processes(is: impl Fn(i32, Family) -> bool) -> Result<Vec<i32>, Errno> {
    let entries = std::fs::read_dir("/proc").map_err(errno)?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    Ok(numbers.filter(|&process| family_of(process).is_some_and(|family| is(process, family))).collect())
}
