//! A process that has been started: watched, signalled, ended, cleared up after.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::mpsc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::child::{self, Rest};
use super::failed;
use super::orphans::Orphans;
use super::outcome::{self, REPORTS_BYTES_MAX, Told};
use super::prepare::Prepared;
use super::report::{REPORT_SIZE, Report};
use super::streams::{Ends, Sink};
use super::terminal::Foreground;
use crate::cgroup::Group;
use crate::rootfs::MountPoints;
use crate::supervisor::Supervisor;
use crate::{Cancel, ExitStatus, RuntimeError, Stream, sys};

/// How much output is handed on at once; what a pipe holds.
const CHUNK_BYTES: usize = 64 << 10;

/// What is started, and what it needs around it.
pub(super) struct Launch<'a> {
    pub(super) prepared: Prepared,
    /// Where the child's reports arrive.
    pub(super) report: OwnedFd,
    pub(super) ends: Ends<'a>,
    /// The command as the spec names it.
    pub(super) command: String,
    pub(super) cancel: Cancel,
    /// What is taken away again when it has ended.
    pub(super) points: MountPoints,
    pub(super) supervisor: Option<Supervisor>,
    /// The control group that is the process's alone.
    pub(super) group: Option<&'a Group>,
    /// What it may leave, where it is not the kernel that ends all processes with it.
    pub(super) orphans: Option<Orphans<'a>>,
}

/// A process that runs. Dropping it kills it and waits for its end.
///
/// It dies with the thread that started it (`PR_SET_PDEATHSIG`): that one has to live as long.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct Running<'a> {
    pidfd: OwnedFd,
    pid: i32,
    state: State,
    /// What ends it and everything in it.
    end: i32,
    /// Whether the kernel ends all its processes with the first one.
    rest_ends: bool,
    report: OwnedFd,
    ends: Ends<'a>,
    cancel: Cancel,
    group: Option<&'a Group>,
    orphans: Option<Orphans<'a>>,
    foreground: Option<Foreground>,
    supervisor: Option<Supervisor>,
    points: Option<MountPoints>,
    /// The thread that it dies with, if it is not the caller's.
    _origin: Option<Origin>,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Runs,
    /// It was told to end because of the [`Cancel`].
    Cancelled,
    Ended(ExitStatus),
    EndedByCancel,
}

impl<'a> Running<'a> {
    /// Starts it and waits until its command is being executed.
    pub(super) fn start(launch: Launch<'a>) -> Result<Self, RuntimeError> {
        let Launch { prepared, report, ends, command, cancel, points, supervisor, group, orphans } = launch;
        let foreground = if ends.foreground { Some(Foreground::lend()?) } else { None };
        let end = match prepared.container.init.rest {
            Rest::Namespace => libc::SIGKILL,
            _ => child::END,
        };
        let rest_ends = !matches!(prepared.container.init.rest, Rest::Session | Rest::Descendants(_));
        let Cloned { prepared, pidfd, pid, origin } = clone(prepared)?;
        let mut running = Self {
            pidfd,
            pid,
            state: State::Runs,
            end,
            rest_ends,
            report,
            ends,
            cancel,
            group,
            orphans,
            foreground,
            supervisor,
            points: Some(points),
            _origin: origin,
            buffer: Vec::new(),
        };
        let container = &prepared.container;
        running.begin(&Told {
            setup: &container.init.setup,
            launch: &container.command.launch,
            command: &command,
        })?;
        Ok(running)
    }

    /// Waits for the first report.
    fn begin(&mut self, told: &Told<'_>) -> Result<(), RuntimeError> {
        let mut record = [0; REPORT_SIZE];
        loop {
            match read(&self.report, &mut record).map_err(failed("read the report of the container"))? {
                Chunk::Data(length) => {
                    let failure =
                        Report::decode(&record[..length]).and_then(|report| outcome::failure(report, told));
                    let Some(failure) = failure else { return Ok(()) };
                    return Err(failure);
                }
                // It was killed, which its end tells.
                Chunk::End => return Ok(()),
                Chunk::Nothing => {}
            }
            let [_, ended, cancelled] =
                ready([self.report.as_fd(), self.pidfd.as_fd(), self.cancel.as_fd()], None)
                    .map_err(failed("wait for the container"))?;
            if cancelled {
                return Err(RuntimeError::Cancelled);
            }
            // What it reported before its end is still to be read.
            let left = ioctl_fionread(&self.report).map_err(failed("read the report of the container"))?;
            if ended && left == 0 {
                return Ok(());
            }
        }
    }

    /// Becomes readable when the process has ended; for the caller's own `poll`. [`Self::try_wait`] says more.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The number of the first process, as the caller sees it. Only while the process has not been waited for does it mean
    /// anything.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The caller's side of the process's terminal ([`crate::Stdio::Terminal`]), once. When it is closed the process is told
    /// (SIGHUP).
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.ends.terminal.take()
    }

    /// Sends a signal. The first process passes on to the command whatever can be passed on; SIGKILL ends all, and
    /// SIGSTOP, which nobody can pass on, is refused: [`crate::Members::pause`] stops all of them.
    pub fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        match signal {
            libc::SIGKILL => {
                self.kill();
                return Ok(());
            }
            libc::SIGSTOP => {
                return Err(RuntimeError::Impossible {
                    what: "send SIGSTOP to the container",
                    why: "no process can pass it on; pause the container instead".to_owned(),
                });
            }
            child::END if self.end == child::END => {
                return Err(RuntimeError::Impossible {
                    what: "send SIGPWR",
                    why: "it ends a process without a pid namespace of its own".to_owned(),
                });
            }
            _ => {}
        }
        match sys::signal_process(self.pidfd.as_raw_fd(), signal) {
            // It has ended.
            Ok(()) | Err(sys::Errno(libc::ESRCH)) => Ok(()),
            Err(error) => Err(failed(format!("send the signal {signal}"))(error)),
        }
    }

    /// Ends it and everything in it, also while it is paused.
    pub fn kill(&self) {
        // It may have ended by itself.
        let _ = sys::signal_process(self.pidfd.as_raw_fd(), self.end);
        if let Some(group) = self.group {
            group.let_go();
        }
    }

    /// Waits for its end, hands on output until then, and ends it when its [`Cancel`] says so.
    pub fn wait(&mut self) -> Result<ExitStatus, RuntimeError> {
        loop {
            if let Some(status) = self.turn(None)? {
                return Ok(status);
            }
        }
    }

    /// The same without waiting: its status, if it has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, RuntimeError> {
        self.turn(Some(Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    /// Does what there is to do, after waiting for it at most so long.
    fn turn(&mut self, patience: Option<Timespec>) -> Result<Option<ExitStatus>, RuntimeError> {
        let cancelled = match self.state {
            State::Ended(status) => return Ok(Some(status)),
            State::EndedByCancel => return Err(RuntimeError::Cancelled),
            State::Cancelled => true,
            State::Runs => false,
        };
        // What is not there is polled for nothing.
        let pidfd = self.pidfd.as_fd();
        let cancel = if cancelled { pidfd } else { self.cancel.as_fd() };
        let signals = self.ends.signals.unwrap_or(pidfd);
        let mut polled = vec![pidfd, cancel, signals];
        polled.extend(self.ends.output.iter().map(|(_, fd)| fd.as_fd()));
        let ready = poll_all(&polled, patience.as_ref()).map_err(failed("wait for the container"))?;
        let is = |index: usize| ready.get(index).copied().unwrap_or(false);
        if is(0) {
            return self.finish().map(Some);
        }
        if is(1) {
            self.state = State::Cancelled;
            self.kill();
        }
        self.buffer.resize(CHUNK_BYTES, 0);
        if is(2) {
            self.pass_on_signals();
        }
        self.hand_on(ready.get(3..).unwrap_or_default())?;
        Ok(None)
    }

    /// Hands on what can be read from each stream that is `ready`.
    fn hand_on(&mut self, ready: &[bool]) -> Result<(), RuntimeError> {
        let Self { ends: Ends { output, sink, .. }, buffer, .. } = self;
        let mut ready = ready.iter().copied();
        let mut result = Ok(());
        output.retain(|(stream, fd)| {
            !ready.next().unwrap_or(false) || result.is_err() || {
                match read(fd, buffer) {
                    Ok(Chunk::Data(length)) => {
                        give(sink, *stream, &buffer[..length]);
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
        result.map_err(failed("read the output of the command"))
    }

    /// Sends PID 1, which passes them on, the signals whose numbers can be read from a descriptor.
    fn pass_on_signals(&mut self) {
        let Some(signals) = self.ends.signals else { return };
        // What cannot be read is not sent, and a container that has ended needs no signal.
        let count = rustix::io::read(signals, &mut *self.buffer).unwrap_or(0);
        for &signal in &self.buffer[..count] {
            let _ = sys::signal_process(self.pidfd.as_raw_fd(), i32::from(signal));
        }
    }

    /// Clears up after the end.
    fn finish(&mut self) -> Result<ExitStatus, RuntimeError> {
        let was_cancelled = self.state == State::Cancelled;
        let all_ended = self.reap();
        let drained = self.drain();
        self.foreground = None;
        self.supervisor = None;
        all_ended?;
        drained?;
        let status = self.status();
        let removed = self.points.take().map_or(Ok(()), MountPoints::remove);
        let status = status?;
        if was_cancelled {
            self.state = State::EndedByCancel;
            return Err(RuntimeError::Cancelled);
        }
        self.state = State::Ended(status);
        // Nobody may take the root for what the command left.
        if status == ExitStatus::Exited(0) {
            removed?;
        }
        Ok(status)
    }

    /// Nobody is left to write more. If somebody is, what is there now is enough.
    fn drain(&mut self) -> Result<(), RuntimeError> {
        let Self { ends: Ends { output, sink, .. }, buffer, .. } = self;
        buffer.resize(CHUNK_BYTES, 0);
        for (stream, fd) in output {
            let mut left = ioctl_fionread(&*fd).map_err(failed("read the output of the command"))?;
            while left > 0
                && let Chunk::Data(length) =
                    read(fd, buffer).map_err(failed("read the output of the command"))?
            {
                give(sink, *stream, &buffer[..length]);
                left = left.saturating_sub(length as u64);
            }
        }
        Ok(())
    }

    /// How the command ended, as PID 1 has reported.
    fn status(&self) -> Result<ExitStatus, RuntimeError> {
        let mut bytes = [0; REPORTS_BYTES_MAX];
        let length =
            match read(&self.report, &mut bytes).map_err(failed("read the report of the container"))? {
                Chunk::Data(length) => length,
                Chunk::Nothing | Chunk::End => 0,
            };
        let ended = bytes[..length].chunks(REPORT_SIZE).filter_map(Report::decode);
        let mut status = ended.filter_map(|report| match report {
            Report::Ended { status } => Some(status),
            _ => None,
        });
        Ok(outcome::exit_status(status.next_back()))
    }

    /// Waits for PID 1; the kernel has then ended all other processes of its namespace, or it has done so itself. If it
    /// could not, that is done here.
    fn reap(&mut self) -> Result<(), RuntimeError> {
        self.state = State::Ended(ExitStatus::Signaled(libc::SIGKILL));
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
        if let Some(group) = self.group {
            if !self.rest_ends {
                group.kill();
            }
            // Whoever killed it while it was paused.
            group.let_go();
        }
        match &self.orphans {
            Some(orphans) if !has_ended_them => orphans.end(),
            _ => Ok(()),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if matches!(self.state, State::Runs | State::Cancelled) {
            self.kill();
            let _ = self.reap();
        }
    }
}

/// What [`clone`] made.
struct Cloned {
    prepared: Prepared,
    pidfd: OwnedFd,
    pid: i32,
    origin: Option<Origin>,
}

/// Clones the child and lets go of what is only for it.
fn clone(mut prepared: Prepared) -> Result<Cloned, RuntimeError> {
    let Some(namespace) = prepared.pid_namespace.take() else {
        let (pidfd, pid) = clone_here(&mut prepared).map_err(failed("make the container's process"))?;
        prepared.release();
        return Ok(Cloned { prepared, pidfd, pid, origin: None });
    };
    let thread = std::thread::Builder::new().name("container".to_owned());
    let (made, result) = mpsc::sync_channel(1);
    let (origin, ended) = mpsc::sync_channel::<()>(0);
    let work = move || {
        let clone = sys::setns(namespace.as_raw_fd(), libc::CLONE_NEWPID as u64)
            .map_err(failed("join the pid namespace"))
            .and_then(|()| clone_here(&mut prepared).map_err(no_init));
        // The other end waits for it.
        let _ = made.send((prepared, clone));
        // Nothing is ever sent: it ends with the process.
        let _ = ended.recv();
    };
    thread.spawn(work).map_err(failed("start a thread for the container"))?;
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    let (mut prepared, clone) = result.recv().map_err(|_| failed("make the container's process")(gone()))?;
    prepared.release();
    let (pidfd, pid) = clone?;
    Ok(Cloned { prepared, pidfd, pid, origin: Some(Origin { _open: origin }) })
}

fn clone_here(prepared: &mut Prepared) -> io::Result<(OwnedFd, i32)> {
    sys::clone_container(prepared.namespaces, prepared.group, &mut prepared.container, child::run_init)
}

/// A pid namespace whose first process has ended takes no others.
fn no_init(error: io::Error) -> RuntimeError {
    let step = "make a process in the pid namespace to join";
    match error.raw_os_error() {
        Some(libc::ENOMEM) => failed(step)(io::Error::other("the container that it belongs to has ended")),
        _ => failed(step)(error),
    }
}

/// A thread that a process was cloned in: only a thread that has joined a pid namespace has children there, and none comes
/// back from there everywhere. It ends with this.
#[derive(Debug)]
struct Origin {
    _open: mpsc::SyncSender<()>,
}

fn give(sink: &mut Option<Sink<'_>>, stream: Stream, bytes: &[u8]) {
    if let Some(sink) = sink {
        sink(stream, bytes);
    }
}

/// Which of these are readable, once one is.
fn ready<const N: usize>(fds: [BorrowedFd<'_>; N], patience: Option<&Timespec>) -> io::Result<[bool; N]> {
    let ready = poll_all(&fds, patience)?;
    let mut each = [false; N];
    each.iter_mut().zip(ready).for_each(|(to, from)| *to = from);
    Ok(each)
}

fn poll_all(fds: &[BorrowedFd<'_>], patience: Option<&Timespec>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    loop {
        match poll(&mut polled, patience) {
            Err(Errno::INTR) => {}
            result => {
                result?;
                return Ok(polled.iter().map(|polled| !polled.revents().is_empty()).collect());
            }
        }
    }
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
