//! What the child's reports mean.

use std::io;

use super::report::{REPORT_SIZE, Report};
use super::step::{self, Step};
use crate::{ExitStatus, RuntimeError, sys};

/// The most that the child can have reported: a failure, that it goes on, and the end.
pub(super) const REPORTS_BYTES_MAX: usize = 8 * REPORT_SIZE;

/// What the child was told to do, to say what of it failed.
pub(super) struct Told<'a> {
    pub(super) setup: &'a [Step],
    pub(super) launch: &'a [Step],
    pub(super) command: &'a str,
}

/// Why the command is not being executed, if a report says so.
pub(super) fn failure(report: Report, told: &Told<'_>) -> Option<RuntimeError> {
    let step = |steps: &[Step], index: u32| steps.get(index as usize).map(Step::to_string);
    let (step, errno) = match report {
        Report::Init { errno } => (Some("set up the container's first process".to_owned()), errno),
        Report::Setup { index, errno } => (step(told.setup, index), errno),
        Report::Fork { errno } => (Some("make the command's process".to_owned()), errno),
        Report::Launch { index, errno } => {
            let refused = told.launch.get(index as usize);
            if let (Some(&Step::Limit { resource, hard, .. }), libc::EPERM) = (refused, errno) {
                return Some(limit_too_high(resource, hard));
            }
            (step(told.launch, index), errno)
        }
        Report::Exec { errno } => {
            return Some(RuntimeError::Exec {
                command: told.command.to_owned(),
                not_found: matches!(errno, libc::ENOENT | libc::ENOTDIR),
                source: io::Error::from_raw_os_error(errno),
            });
        }
        Report::Running | Report::Ended { .. } => return None,
    };
    let step = step.unwrap_or_else(|| "set up the container".to_owned());
    Some(RuntimeError::Step { step, source: io::Error::from_raw_os_error(errno) })
}

/// How a command with this wait status ended. Without one PID 1 could not say anything any more: somebody killed it, and all
/// others with it.
pub(super) fn exit_status(status: Option<i32>) -> ExitStatus {
    match status {
        Some(status) if libc::WIFEXITED(status) => {
            ExitStatus::Exited((libc::WEXITSTATUS(status) & 0xff) as u8)
        }
        Some(status) => ExitStatus::Signaled(libc::WTERMSIG(status)),
        None => ExitStatus::Signaled(libc::SIGKILL),
    }
}

/// Why `resource` cannot be limited as high as `hard`.
fn limit_too_high(resource: u32, hard: u64) -> RuntimeError {
    const OPEN_FILES: &str = "/proc/sys/fs/nr_open";
    let own = || sys::limit_of(0, resource).map_or(0, |(_, hard)| hard);
    let of_machine = || std::fs::read_to_string(OPEN_FILES).ok()?.trim().parse::<u64>().ok();
    let why = match of_machine().filter(|&most| resource == libc::RLIMIT_NOFILE && hard > most) {
        Some(most) => format!("this machine allows {most} at most (sysctl fs.nr_open)"),
        None => format!(
            "wharf was started with a hard limit of {}, and to go above it takes CAP_SYS_RESOURCE, which a user namespace \
             does not give; ask for no more, or start wharf with a higher one",
            own()
        ),
    };
    RuntimeError::LimitTooHigh { name: step::limit_name(resource), hard, why }
}
