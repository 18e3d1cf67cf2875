//! The child: PID 1 of the container (or, without a pid namespace, the process that stands for it), and the command that it
//! starts.
//!
//! Nothing here may allocate, lock or panic: the caller of [`crate::run`] may have had other threads, and their locks
//! are in this copy of the memory, held for ever. There are only calls of [`crate::sys`] on what [`Container`] holds.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use super::descendants::Descendants;
use super::report::Report;
use super::step::Step;
use crate::sys::{self, Arguments, Arrived, Errno, StringArray};

/// All that the child needs.
pub(super) struct Container {
    pub(super) init: Init,
    pub(super) command: Command,
    /// What the command runs on until it executes its program.
    pub(super) stack: Vec<u8>,
}

/// PID 1.
pub(super) struct Init {
    /// Where reports go.
    pub(super) report: RawFd,
    /// A pidfd of the caller's process.
    pub(super) caller: RawFd,
    /// A pidfd of the process that this one ends with; the caller's again, if there is no other.
    pub(super) first: RawFd,
    /// Ranges of descriptors that are not the container's.
    pub(super) foreign: Vec<(RawFd, RawFd)>,
    /// The caller's command line and environment, of which this process has a copy.
    pub(super) caller_arguments: Arguments,
    /// Whether it leaves the caller's terminal.
    pub(super) new_session: bool,
    pub(super) trees: Vec<RawFd>,
    pub(super) setup: Vec<Step>,
    pub(super) rest: Rest,
}

/// What becomes of the other processes when this one ends.
pub(super) enum Rest {
    /// The kernel ends them: this is PID 1 of their namespace.
    Namespace,
    /// The command's process group ends with this one, if that is told to end or the command ends; nobody else can be
    /// told from what was there before.
    Session,
    /// The command's process group ends if this one is told to end. What the command has left when it ends by itself
    /// belongs to the container that it was executed in.
    Stays,
    /// This process ends them.
    Descendants(Descendants),
}

/// The process that becomes the command.
pub(super) struct Command {
    pub(super) report: RawFd,
    pub(super) launch: Vec<Step>,
    pub(super) candidates: Vec<CString>,
    pub(super) arguments: StringArray,
    pub(super) environment: StringArray,
}

/// The name of PID 1, as `ps` shows it.
const INIT_NAME: &std::ffi::CStr = c"wharf-init";

/// What PID 1 does, from `clone3` to its end. `group` is a control group that it is not in yet.
pub(super) fn run_init(container: &mut Container, group: Option<RawFd>) -> ! {
    let Container { init, command, stack } = container;
    let report = init.report;
    if let Some(Err(Errno(errno))) = group.map(sys::enter_group) {
        fail(Report::Init { errno }, report);
    }
    let signals = match enter(init) {
        Ok(signals) => signals,
        Err(Errno(errno)) => fail(Report::Init { errno }, report),
    };
    for (index, step) in init.setup.iter().enumerate() {
        if let Err(Errno(errno)) = step.run(&mut init.trees) {
            fail(Report::Setup { index: index as u32, errno }, report);
        }
    }
    if let Rest::Descendants(descendants) = &mut init.rest {
        descendants.make_sure();
    }
    match sys::vfork(stack, command, run_command) {
        Ok(pid) => {
            // What kept it from being executed has been reported before.
            Report::Running.send(report);
            watch(pid, signals, init)
        }
        Err(Errno(errno)) => fail(Report::Fork { errno }, report),
    }
}

/// Leaves the caller: its life, its descriptors, its signals, its session, its keys. Returns the descriptor that
/// signals arrive at.
fn enter(init: &Init) -> Result<RawFd, Errno> {
    match init.rest {
        // Its own death would be nobody else's.
        Rest::Descendants(_) => sys::adopt_orphans()?,
        _ => sys::die_with_parent()?,
    }
    // The caller may have died before that.
    if sys::readable([init.caller, init.first])? != [false, false] {
        sys::exit(1);
    }
    for &(first, last) in &init.foreign {
        sys::close_range(first, last)?;
    }
    sys::reset_signal_actions();
    sys::erase_arguments(init.caller_arguments, INIT_NAME.to_bytes());
    sys::set_name(INIT_NAME)?;
    sys::forbid_inspection()?;
    if init.new_session {
        sys::setsid()?;
    }
    // A kernel without keyrings, or a full quota, leaves the container without any key.
    let _ = sys::join_session_keyring();
    sys::signalfd()
}

/// What the command's process does until it is the command.
fn run_command(command: &mut Command) -> ! {
    for (index, step) in command.launch.iter().enumerate() {
        if let Err(Errno(errno)) = step.run(&mut []) {
            fail(Report::Launch { index: index as u32, errno }, command.report);
        }
    }
    let mut denied = false;
    for candidate in &command.candidates {
        match execute(candidate, command) {
            Errno(libc::ENOENT | libc::ENOTDIR) => {}
            // There may be another one further on.
            Errno(libc::EACCES) => denied = true,
            Errno(errno) => fail(Report::Exec { errno }, command.report),
        }
    }
    fail(Report::Exec { errno: if denied { libc::EACCES } else { libc::ENOENT } }, command.report)
}

/// How often a program is tried that somebody has open for writing.
const BUSY_ATTEMPTS_MAX: u32 = 100;

/// Pause before it is tried again.
const BUSY_PAUSE_NANOSECONDS: i64 = 10_000_000;

/// Becomes a program. What another thread of the caller has just written is open for writing for a moment more in whatever
/// was forked meanwhile, and cannot be executed until then where a container's root is a plain directory. (The files of an
/// overlay are others than those that were written.)
fn execute(program: &CStr, command: &Command) -> Errno {
    for _ in 0..BUSY_ATTEMPTS_MAX {
        match sys::execve(program, &command.arguments, &command.environment) {
            Errno(libc::ETXTBSY) => sys::pause(BUSY_PAUSE_NANOSECONDS),
            errno => return errno,
        }
    }
    Errno(libc::ETXTBSY)
}

/// Waits for the command, reaps what else ends, and passes signals on. Everything that is left ends with this process.
fn watch(command: i32, signals: RawFd, init: &mut Init) -> ! {
    close_all_but([init.report, init.caller, init.first, signals]);
    loop {
        while let Ok(Some((pid, status))) = sys::wait_any() {
            if pid == command {
                let end = init.end_rest(command, Reason::Ended);
                Report::Ended { status }.send(init.report);
                sys::exit(end)
            }
        }
        match sys::wait_readable([signals, init.caller, init.first]) {
            Ok([_, false, false]) => {}
            // The caller has died, or cannot be watched any more.
            Ok(_) | Err(_) => sys::exit(init.end_rest(command, Reason::Told)),
        }
        while let Ok(Arrived { signal, sent }) = sys::read_signal(signals) {
            if signal == END && !matches!(init.rest, Rest::Namespace) {
                sys::exit(init.end_rest(command, Reason::Told));
            }
            // What the terminal sends reaches the command anyway, and children that end are none of its business.
            if sent && signal != libc::SIGCHLD {
                let _ = sys::kill(command, signal);
            }
        }
    }
}

impl Init {
    /// Ends the other processes as far as that is to be done here. Returns the status to end with: by the reason, or
    /// [`LEFT`].
    fn end_rest(&mut self, command: i32, reason: Reason) -> i32 {
        let ended = match (&mut self.rest, reason) {
            (Rest::Descendants(descendants), _) => descendants.end(),
            (Rest::Session, _) | (Rest::Stays, Reason::Told) => {
                // It has a group of its own unless it stays in the caller's foreground.
                if sys::kill(-command, libc::SIGKILL).is_err() {
                    let _ = sys::kill(command, libc::SIGKILL);
                }
                if matches!(reason, Reason::Told) {
                    reap(command);
                }
                true
            }
            _ => true,
        };
        if !ended {
            return LEFT;
        }
        match reason {
            Reason::Ended => 0,
            Reason::Told => 1,
        }
    }
}

/// Waits until `command`, which has been killed, has ended. Whoever it came to instead may leave it as it is, and the pid
/// namespace that it is in would not end before.
fn reap(command: i32) {
    const PAUSE_NANOSECONDS: i64 = 1_000_000;
    loop {
        match sys::wait_any() {
            Ok(Some((pid, _))) if pid != command => {}
            Ok(None) => sys::pause(PAUSE_NANOSECONDS),
            Ok(Some(_)) | Err(_) => return,
        }
    }
}

/// Why it is over.
#[derive(Clone, Copy)]
enum Reason {
    /// The command has ended.
    Ended,
    /// Somebody wants it to end, or the caller has.
    Told,
}

/// What a process with [`Rest::Descendants`] ends with that could not end them all.
pub(super) const LEFT: i32 = 3;

/// Tells a process that is not PID 1 of its own namespace to end the others and itself.
pub(super) const END: i32 = libc::SIGPWR;

/// Keeps neither the container's streams nor anything else open.
fn close_all_but(mut kept: [RawFd; 4]) {
    kept.sort_unstable();
    let mut first = 0;
    for fd in kept {
        if fd > first {
            let _ = sys::close_range(first, fd.saturating_sub(1));
        }
        first = fd.saturating_add(1);
    }
    let _ = sys::close_range(first, RawFd::MAX);
}

fn fail(report: Report, fd: RawFd) -> ! {
    report.send(fd);
    sys::exit(127)
}
