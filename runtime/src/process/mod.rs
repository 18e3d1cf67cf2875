//! The parent: prepares the container, clones it, watches it, clears up after it.

mod child;
mod chroot;
mod descendants;
mod orphans;
mod prepare;
pub(crate) mod program;
mod report;
mod step;
mod terminal;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

pub(crate) use self::chroot::Confined;
pub(crate) use self::descendants::{Family, family_of};
use self::orphans::Orphans;
use self::prepare::{Parts, Prepared, Streams};
pub(crate) use self::prepare::{Supervised, cgroup_version};
use self::report::{REPORT_SIZE, Report};
use crate::cgroup::Group;
use crate::rootfs::MountPoints;
use crate::spec::plan::{Host, Plan};
use crate::supervisor::emulation::{Emulation, RULES};
use crate::{Cancel, ExitStatus, Request, RuntimeError, Stdio, Stream, seccomp, supervisor, sys};

/// How much output is handed on at once; what a pipe holds.
const CHUNK_BYTES: usize = 64 << 10;

/// The most that the child can have reported: a failure and the end.
const REPORTS_BYTES_MAX: usize = 8 * REPORT_SIZE;

/// Runs the process to its end. Mount points that are missing in the root are made first and removed again
/// afterwards, unless the command changed them. Every process of the container has ended when this returns.
pub fn run(request: Request<'_>) -> Result<ExitStatus, RuntimeError> {
    run_in(request, None)
}

/// The same in a control group.
pub fn run_in(request: Request<'_>, group: Option<&Group>) -> Result<ExitStatus, RuntimeError> {
    if request.cancel.is_cancelled() {
        return Err(RuntimeError::Cancelled);
    }
    let host = prepare::host()?;
    let mut plan = Plan::new(request.spec, &host)?;
    let Some(ownership) = request.ownership else { return run_plan(plan, host, group, None, request) };
    let (socket, step_socket) = supervisor::channel()?;
    let supervised = Supervised { filter: supervisor::emulation::filter()?, socket: step_socket };
    let handler = Emulation::new(ownership, plan.process.emulate_ids());
    supervisor::beside(socket, RULES, handler, || run_plan(plan, host, group, Some(supervised), request))?
}

/// Runs what was planned.
fn run_plan(
    plan: Plan,
    host: Host,
    group: Option<&Group>,
    supervised: Option<Supervised>,
    request: Request<'_>,
) -> Result<ExitStatus, RuntimeError> {
    let filter = request.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = filter.map(seccomp::compile).transpose()?;
    let command = plan.process.command.clone();

    let mut points = MountPoints::default();
    let (report, report_end) = pipe(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let (output, streams) = streams(&request.stdio)?;
    let terminal = matches!(streams, Streams::Inherited { terminal: true });
    let Request { root, binds, user_namespace, .. } = request;
    let parts =
        Parts { root, binds, group, user_namespace, filter, supervised, streams, report: report_end, host };
    let prepared = prepare::prepare(plan, parts, &mut points)?;
    let result = execute(prepared, None, &report, output, request.stdio, terminal, request.cancel, command);
    match (result, points.remove()) {
        // Nobody may take the root for what the command left.
        (Ok(ExitStatus::Exited(0)), Err(error)) => Err(error),
        (result, _) => result,
    }
}

/// Runs a process without namespaces to its end, and that of all its descendants.
pub(crate) fn run_confined(
    confined: Confined<'_>,
    stdio: Stdio<'_>,
    cancel: &Cancel,
) -> Result<ExitStatus, RuntimeError> {
    if cancel.is_cancelled() {
        return Err(RuntimeError::Cancelled);
    }
    let (report, report_end) = pipe(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let (output, streams) = streams(&stdio)?;
    let terminal = matches!(streams, Streams::Inherited { terminal: true });
    let command = confined.process.command.clone();
    let orphans = Orphans::adopt(confined.group)?;
    let prepared = chroot::prepare(confined, streams, report_end)?;
    execute(prepared, Some(orphans), &report, output, stdio, terminal, cancel, command)
}

/// Starts what is prepared and waits for its end.
#[expect(clippy::too_many_arguments, reason = "each is a part of one execution")]
fn execute(
    mut prepared: Prepared,
    orphans: Option<Orphans<'_>>,
    report: &OwnedFd,
    output: Output,
    stdio: Stdio<'_>,
    terminal: bool,
    cancel: &Cancel,
    command: String,
) -> Result<ExitStatus, RuntimeError> {
    let foreground = if terminal { Some(terminal::Foreground::lend()?) } else { None };
    let mut init = Init::start(&mut prepared, orphans)?;
    let ended = init.watch(output, stdio, cancel)?;
    drop(foreground);
    match ended {
        Ended::Cancelled => Err(RuntimeError::Cancelled),
        Ended::ByItself => outcome(report, &prepared.container, command),
    }
}

/// Whether a process with these streams is in the foreground of the caller's terminal.
pub(crate) fn is_at_terminal(stdio: &Stdio<'_>) -> bool {
    matches!(stdio, Stdio::Inherit { .. }) && terminal::is_terminal()
}

/// What this place lets a container be made of.
pub(crate) fn host() -> Result<Host, RuntimeError> {
    prepare::host()
}

/// The parent's ends of the output pipes.
type Output = Vec<(Stream, OwnedFd)>;

fn streams(stdio: &Stdio<'_>) -> Result<(Output, Streams), RuntimeError> {
    if matches!(stdio, Stdio::Inherit { .. }) {
        return Ok((Output::new(), Streams::Inherited { terminal: terminal::is_terminal() }));
    }
    let null = rustix::fs::open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| RuntimeError::NoDevice { path: "/dev/null", source: errno.into() })?;
    let (stdout, stdout_end) = pipe(PipeFlags::CLOEXEC)?;
    let (stderr, stderr_end) = pipe(PipeFlags::CLOEXEC)?;
    for end in [&stdout, &stderr] {
        rustix::fs::fcntl_setfl(end, OFlags::NONBLOCK).map_err(failed("set up an output pipe"))?;
    }
    let output = vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
    Ok((output, Streams::Given([null, stdout_end, stderr_end])))
}

fn pipe(flags: PipeFlags) -> Result<(OwnedFd, OwnedFd), RuntimeError> {
    pipe_with(flags).map_err(failed("make a pipe"))
}

/// The container while it runs. Dropping it kills it.
struct Init<'a> {
    pidfd: OwnedFd,
    ended: bool,
    /// What it may leave, where it is not the kernel that ends all processes with it.
    orphans: Option<Orphans<'a>>,
    /// What ends it and everything in it.
    end: Signal,
}

/// Why the container is no more.
enum Ended {
    ByItself,
    Cancelled,
}

impl<'a> Init<'a> {
    /// Clones the child and lets go of what is only for it.
    fn start(prepared: &mut Prepared, orphans: Option<Orphans<'a>>) -> Result<Self, RuntimeError> {
        let pidfd = sys::clone_container(
            prepared.namespaces,
            prepared.group,
            &mut prepared.container,
            child::run_init,
        )
        .map_err(failed("make the container's process"))?;
        prepared.release();
        let end = if prepared.container.init.descendants.is_some() { child::END } else { Signal::KILL };
        Ok(Self { pidfd, ended: false, orphans, end })
    }

    /// Hands on output until the container has ended, and ends it when `cancel` says so.
    fn watch(
        &mut self,
        mut output: Output,
        stdio: Stdio<'_>,
        cancel: &Cancel,
    ) -> Result<Ended, RuntimeError> {
        let mut sink: &mut dyn FnMut(Stream, &[u8]) = &mut |_, _| {};
        let signals = match stdio {
            Stdio::Captured(captured) => {
                sink = captured;
                None
            }
            Stdio::Inherit { signals } => signals,
        };
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut ended = Ended::ByItself;
        loop {
            let cancelled = matches!(ended, Ended::Cancelled);
            let cancel_fd = (!cancelled).then(|| cancel.as_fd());
            let ready = wait(self.pidfd.as_fd(), cancel_fd, signals, &output)
                .map_err(failed("wait for the container"))?;
            if ready.ended {
                break;
            }
            if ready.cancelled {
                ended = Ended::Cancelled;
                self.kill();
            }
            if let (true, Some(signals)) = (ready.signals, signals) {
                self.pass_on(signals, &mut buffer);
            }
            let mut ready = ready.output.into_iter();
            let mut result = Ok(());
            output.retain(|(stream, fd)| {
                !ready.next().unwrap_or(false) || result.is_err() || {
                    match read(fd, &mut buffer) {
                        Ok(Chunk::Data(length)) => {
                            sink(*stream, &buffer[..length]);
                            true
                        }
                        Ok(Chunk::Nothing) => true,
                        Ok(Chunk::End) => false,
                        Err(error) => {
                            result = Err(error);
                            false
                        }
                    }
                }
            });
            result.map_err(failed("read the output of the command"))?;
        }
        let all_ended = self.wait();
        // Nobody is left to write more. If somebody is, what is there now is enough.
        for (stream, fd) in &output {
            let mut left = ioctl_fionread(fd).map_err(failed("read the output of the command"))?;
            while left > 0
                && let Chunk::Data(length) =
                    read(fd, &mut buffer).map_err(failed("read the output of the command"))?
            {
                sink(*stream, &buffer[..length]);
                left = left.saturating_sub(length as u64);
            }
        }
        all_ended?;
        Ok(ended)
    }

    fn kill(&self) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&self.pidfd, self.end);
    }

    /// Sends PID 1, which passes them on, the signals whose numbers can be read from a descriptor.
    fn pass_on(&self, signals: BorrowedFd<'_>, buffer: &mut [u8]) {
        // What cannot be read is not sent, and a container that has ended needs no signal.
        let count = rustix::io::read(signals, &mut *buffer).unwrap_or(0);
        for signal in buffer[..count].iter().filter_map(|number| Signal::from_named_raw(i32::from(*number))) {
            let _ = pidfd_send_signal(&self.pidfd, signal);
        }
    }

    /// Waits for PID 1; the kernel has then ended all other processes of its namespace, or it has done so itself. If it
    /// could not, that is done here.
    fn wait(&mut self) -> Result<(), RuntimeError> {
        self.ended = true;
        let status = loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(Errno::INTR) => {}
                // The caller ignores SIGCHLD, so the kernel has reaped it.
                Err(Errno::CHILD) => break None,
                status => break status.map_err(failed("wait for the container"))?,
            }
        };
        let has_ended_them =
            status.is_some_and(|status| status.exit_status().is_some_and(|status| status != child::LEFT));
        match &self.orphans {
            Some(orphans) if !has_ended_them => orphans.end(),
            _ => Ok(()),
        }
    }
}

impl Drop for Init<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
            let _ = self.wait();
        }
    }
}

/// What [`wait`] saw.
struct Ready {
    ended: bool,
    cancelled: bool,
    signals: bool,
    /// For each stream of the output whether there is something to read.
    output: Vec<bool>,
}

fn wait(
    pidfd: BorrowedFd<'_>,
    cancel: Option<BorrowedFd<'_>>,
    signals: Option<BorrowedFd<'_>>,
    output: &Output,
) -> io::Result<Ready> {
    let streams = output.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::IN));
    let mut polled: Vec<PollFd<'_>> = streams.collect();
    polled.push(PollFd::from_borrowed_fd(pidfd, PollFlags::IN));
    // A descriptor that is not there is polled for nothing.
    let optional = |fd: Option<_>| PollFd::from_borrowed_fd(fd.unwrap_or(pidfd), PollFlags::IN);
    polled.extend([optional(cancel), optional(signals)]);
    loop {
        match poll(&mut polled, None) {
            Err(Errno::INTR) => {}
            result => {
                result?;
                break;
            }
        }
    }
    let mut ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
    let rest = ready.split_off(output.len());
    let at = |index: usize| rest.get(index).copied().unwrap_or(false);
    Ok(Ready {
        ended: at(0),
        cancelled: cancel.is_some() && at(1),
        signals: signals.is_some() && at(2),
        output: ready,
    })
}

/// What reading a pipe gave.
enum Chunk {
    Data(usize),
    Nothing,
    End,
}

fn read(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Chunk> {
    loop {
        return match rustix::io::read(fd, &mut *buffer) {
            Ok(0) => Ok(Chunk::End),
            Ok(length) => Ok(Chunk::Data(length)),
            Err(Errno::AGAIN) => Ok(Chunk::Nothing),
            Err(Errno::INTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// What came of it, as the child's reports tell.
fn outcome(
    report: &OwnedFd,
    container: &child::Container,
    command: String,
) -> Result<ExitStatus, RuntimeError> {
    let mut bytes = [0; REPORTS_BYTES_MAX];
    let length = match read(report, &mut bytes).map_err(failed("read the report of the container"))? {
        Chunk::Data(length) => length,
        Chunk::Nothing | Chunk::End => 0,
    };
    let mut status = None;
    for record in bytes[..length].chunks(REPORT_SIZE) {
        let step = |steps: &[step::Step], index: u32| steps.get(index as usize).map(step::Step::to_string);
        let (step, errno) = match Report::decode(record) {
            Some(Report::Init { errno }) => (Some("set up the container's first process".to_owned()), errno),
            Some(Report::Setup { index, errno }) => (step(&container.init.setup, index), errno),
            Some(Report::Fork { errno }) => (Some("make the command's process".to_owned()), errno),
            Some(Report::Launch { index, errno }) => {
                let refused = container.command.launch.get(index as usize);
                if let (Some(&step::Step::Limit { resource, hard, .. }), libc::EPERM) = (refused, errno) {
                    return Err(limit_too_high(resource, hard));
                }
                (step(&container.command.launch, index), errno)
            }
            Some(Report::Exec { errno }) => {
                let not_found = matches!(errno, libc::ENOENT | libc::ENOTDIR);
                return Err(RuntimeError::Exec {
                    command,
                    not_found,
                    source: io::Error::from_raw_os_error(errno),
                });
            }
            Some(Report::Ended { status: raw }) => {
                status = Some(raw);
                continue;
            }
            None => continue,
        };
        let step = step.unwrap_or_else(|| "set up the container".to_owned());
        return Err(RuntimeError::Step { step, source: io::Error::from_raw_os_error(errno) });
    }
    Ok(match status {
        Some(status) if libc::WIFEXITED(status) => {
            ExitStatus::Exited((libc::WEXITSTATUS(status) & 0xff) as u8)
        }
        Some(status) => ExitStatus::Signaled(libc::WTERMSIG(status)),
        // PID 1 could not say anything any more: somebody killed it, and all others with it.
        None => ExitStatus::Signaled(libc::SIGKILL),
    })
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

fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> RuntimeError {
    move |source| RuntimeError::Step { step: step.to_owned(), source: source.into() }
}
