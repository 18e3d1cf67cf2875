//! A user namespace that is tried out in a process of its own before this process enters it.
//!
//! The *trial* is a fork that moves into the new namespaces, is given its id maps from outside (by this process, or by
//! `newuidmap` and `newgidmap`), and mounts something. What a place forbids shows there, and the trial goes; this
//! process has changed nothing of itself. When all is well it joins the trial's user namespace and makes itself a mount
//! namespace there.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::obstacle::{Call, HelperProblem, Obstacle};
use super::place::{Place, Range};
use crate::sys::{self, Errno};

/// The ids of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mapping {
    /// Every id of the place as itself, written by a process that may.
    All { uids: Vec<Range>, gids: Vec<Range> },
    /// The own id as 0 and subordinate ones, written by `newuidmap` and `newgidmap`.
    Subordinate { uids: Vec<Range>, gids: Vec<Range>, helpers: [PathBuf; 2] },
    /// The own id as 0 and no other.
    One,
}

/// The trial, in namespaces of its own.
#[derive(Debug)]
pub(super) struct Namespace {
    pid: i32,
    /// Closed, it lets the trial go.
    go: Option<File>,
    answers: File,
}

/// What a trial answers with, one a byte position: the call that it made last and its error number, or 0.
const ANSWER_BYTES: usize = 8;

impl Namespace {
    /// Makes the namespaces. Nothing is left of them when this fails.
    pub(super) fn make(place: &Place, mapping: &Mapping) -> Result<Self, Obstacle> {
        let broken = |error: io::Error| Obstacle::refused(Call::Fork, errno_of(&error), place);
        let (wait, go) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| broken(errno.into()))?;
        let (answers, answer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| broken(errno.into()))?;
        let ours = [go.as_raw_fd(), answers.as_raw_fd()];
        let pid = sys::fork(move || {
            for fd in ours {
                let _ = sys::close_range(fd, fd);
            }
            trial(wait, answer)
        })
        .map_err(broken)?;
        let mut namespace = Self { pid, go: Some(File::from(go)), answers: File::from(answers) };
        namespace.answer(place)?;
        namespace.map(place, mapping)?;
        namespace.proceed();
        namespace.answer(place)?;
        namespace.answer(place)?;
        Ok(namespace)
    }

    /// Moves this process into the user namespace and into a new mount namespace that belongs to it.
    pub(super) fn join(self, place: &Place) -> Result<(), Obstacle> {
        let refused = |call| move |errno: Errno| Obstacle::refused(call, errno.0, place);
        let pid = Pid::from_raw(self.pid).ok_or_else(|| Obstacle::refused(Call::Join, libc::ESRCH, place))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|errno| Obstacle::refused(Call::Join, errno.raw_os_error(), place))?;
        sys::setns(pidfd.as_raw_fd(), libc::CLONE_NEWUSER as u64).map_err(refused(Call::Join))?;
        sys::unshare(libc::CLONE_NEWNS).map_err(refused(Call::MountNamespace))?;
        // Programs of this user that are outside may not look into a process that has rights inside, nor may a step.
        sys::forbid_inspection().map_err(refused(Call::Join))
    }

    /// The next answer of the trial.
    fn answer(&mut self, place: &Place) -> Result<(), Obstacle> {
        let mut answer = [0; ANSWER_BYTES];
        if self.answers.read_exact(&mut answer).is_err() {
            // A filter may kill who makes a call.
            return Err(Obstacle::Killed);
        }
        let [call, _, _, _, errno @ ..] = answer;
        match i32::from_ne_bytes(errno) {
            0 => Ok(()),
            errno => Err(Obstacle::refused(Call::from_number(call), errno, place)),
        }
    }

    /// Lets the trial take its next step.
    fn proceed(&mut self) {
        // A trial that is gone is found out by its missing answer.
        if let Some(go) = &mut self.go {
            let _ = go.write_all(&[1]);
        }
    }

    fn map(&self, place: &Place, mapping: &Mapping) -> Result<(), Obstacle> {
        match mapping {
            Mapping::All { uids, gids } => {
                self.write("uid_map", &lines(uids), place)?;
                self.write("gid_map", &lines(gids), place)
            }
            Mapping::One => {
                self.write("uid_map", &format!("0 {} 1\n", place.uid), place)?;
                // Without it groups could be left that forbid something.
                self.write("setgroups", "deny", place)?;
                self.write("gid_map", &format!("0 {} 1\n", place.gid), place)
            }
            Mapping::Subordinate { uids, gids, helpers: [newuidmap, newgidmap] } => {
                let uids = self.start_helper(newuidmap, place.uid, uids)?;
                let gids = self.start_helper(newgidmap, place.gid, gids)?;
                uids.finish().and(gids.finish())
            }
        }
    }

    fn write(&self, name: &str, text: &str, place: &Place) -> Result<(), Obstacle> {
        let call = match name {
            "uid_map" => Call::UidMap,
            "gid_map" => Call::GidMap,
            _ => Call::Setgroups,
        };
        fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/{}/{name}", self.pid))
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| Obstacle::refused(call, errno_of(&error), place))
    }

    fn start_helper(&self, program: &Path, own: u32, ranges: &[Range]) -> Result<Helper, Obstacle> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let own = Range { inside: 0, outside: own, count: 1 };
        let numbers = [own].into_iter().chain(ranges.iter().copied());
        let numbers = numbers.flat_map(|Range { inside, outside, count }| [inside, outside, count]);
        let mut command = Command::new(program);
        command.arg(self.pid.to_string()).args(numbers.map(|number| number.to_string()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        match command.spawn() {
            Ok(child) => Ok(Helper { name, child }),
            Err(error) => {
                Err(Obstacle::Helper { program: name, problem: HelperProblem::Failed(error.to_string()) })
            }
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.go = None;
        sys::wait_for(self.pid);
    }
}

/// `newuidmap` or `newgidmap` at work.
struct Helper {
    name: String,
    child: std::process::Child,
}

impl Helper {
    fn finish(self) -> Result<(), Obstacle> {
        let problem = match self.child.wait_with_output() {
            Ok(done) if done.status.success() => return Ok(()),
            Ok(done) => {
                let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
                if said.is_empty() { done.status.to_string() } else { said }
            }
            Err(error) => error.to_string(),
        };
        Err(Obstacle::Helper { program: self.name, problem: HelperProblem::Failed(problem) })
    }
}

/// What the fork does: one call after the other, each with an answer. Ends when its originator does or lets it go.
fn trial(wait: OwnedFd, answer: OwnedFd) -> i32 {
    let (mut wait, mut answer) = (File::from(wait), File::from(answer));
    let mut tell = |call: Call, result: Result<(), Errno>| {
        let errno = result.err().map_or(0, |Errno(errno)| errno);
        let [a, b, c, d] = errno.to_ne_bytes();
        answer.write_all(&[call as u8, 0, 0, 0, a, b, c, d]).is_ok() && errno == 0
    };
    let mut go = [0];
    let done = tell(Call::UserNamespace, sys::unshare(libc::CLONE_NEWUSER))
        && wait.read_exact(&mut go).is_ok()
        && tell(Call::MountNamespace, sys::unshare(libc::CLONE_NEWNS))
        && tell(Call::Mount, mount_something());
    // Stays, so that the namespace can be joined.
    let _ = wait.read(&mut go);
    i32::from(!done)
}

fn mount_something() -> Result<(), Errno> {
    sys::mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    sys::mount(Some(c"tmpfs"), c"/", Some(c"tmpfs"), flags, Some(c"size=4k"))
}

fn lines(ranges: &[Range]) -> String {
    ranges.iter().map(|range| format!("{0} {0} {1}\n", range.inside, range.count)).collect()
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
