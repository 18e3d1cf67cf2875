//! The child: PID 1 of the container (or, without a pid namespace, the process that stands for it), and the command that it
//! starts.
//!
//! Nothing here may allocate, lock or panic: the caller of [`crate::run`] may have had other threads, and their locks
//! are in this copy of the memory, held for ever. There are only calls of [`crate::sys`] on what [`Container`] holds.

use std::ffi::CString;
use std::os::fd::RawFd;

use rustix::process::Signal;

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
    /// Ranges of descriptors that are not the container's.
    pub(super) foreign: Vec<(RawFd, RawFd)>,
    /// The caller's command line and environment, of which this process has a copy.
    pub(super) caller_arguments: Arguments,
    /// Whether it leaves the caller's terminal.
    pub(super) new_session: bool,
    pub(super) trees: Vec<RawFd>,
    pub(super) setup: Vec<Step>,
    /// The processes that end with this one, where it is not the kernel that sees to it because this is PID 1.
    pub(super) descendants: Option<Descendants>,
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
    if let Some(descendants) = &mut init.descendants {
        descendants.make_sure();
    }
    match sys::vfork(stack, command, run_command) {
        Ok(pid) => watch(pid, signals, init),
        Err(Errno(errno)) => fail(Report::Fork { errno }, report),
    }
}

/// Leaves the caller: its life, its descriptors, its signals, its session, its keys. Returns the descriptor that
/// signals arrive at.
fn enter(init: &Init) -> Result<RawFd, Errno> {
    match init.descendants {
        None => sys::die_with_parent()?,
        // Its own death would be nobody else's.
        Some(_) => sys::adopt_orphans()?,
    }
    // The caller may have died before that.
    if sys::readable([init.caller, init.caller])? != [false, false] {
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
        match sys::execve(candidate, &command.arguments, &command.environment) {
            Errno(libc::ENOENT | libc::ENOTDIR) => {}
            // There may be another one further on.
            Errno(libc::EACCES) => denied = true,
            Errno(errno) => fail(Report::Exec { errno }, command.report),
        }
    }
    fail(Report::Exec { errno: if denied { libc::EACCES } else { libc::ENOENT } }, command.report)
}

/// Waits for the command, reaps what else ends, and passes signals on. Everything that is left ends with this process.
fn watch(command: i32, signals: RawFd, init: &mut Init) -> ! {
    close_all_but([init.report, init.caller, signals]);
    loop {
        while let Ok(Some((pid, status))) = sys::wait_any() {
            if pid == command {
                let end = init.end_descendants(0);
                Report::Ended { status }.send(init.report);
                sys::exit(end)
            }
        }
        match sys::wait_readable([signals, init.caller]) {
            Ok([_, false]) => {}
            // The caller has died, or cannot be watched any more.
            Ok([_, true]) | Err(_) => sys::exit(init.end_descendants(1)),
        }
        while let Ok(Arrived { signal, sent }) = sys::read_signal(signals) {
            if signal == END.as_raw() && init.descendants.is_some() {
                sys::exit(init.end_descendants(1));
            }
            // What the terminal sends reaches the command anyway.
            if sent && FORWARDED.contains(&signal) {
                let _ = sys::kill(command, signal);
            }
        }
    }
}

impl Init {
    /// The status to end with: `status`, or [`LEFT`].
    fn end_descendants(&mut self, status: i32) -> i32 {
        match &mut self.descendants {
            None => status,
            Some(descendants) => {
                if descendants.end() {
                    status
                } else {
                    LEFT
                }
            }
        }
    }
}

/// What a process with [`Init::descendants`] ends with that could not end them all.
pub(super) const LEFT: i32 = 3;

/// Tells a process with [`Init::descendants`] to end them and itself.
pub(super) const END: Signal = Signal::POWER;

/// What PID 1 passes on to the command.
const FORWARDED: [i32; 7] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];

/// Keeps neither the container's streams nor anything else open.
fn close_all_but(mut kept: [RawFd; 3]) {
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
