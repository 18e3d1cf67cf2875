//! What is said on a monitor's socket: frames of a kind, a length (four bytes, big endian) and so many bytes.
//!
//! A connection carries one [`Request`], as the first frame, and one or more [`Answer`]s. After [`Answer::Started`] of an
//! `Attach`, `Start` or `Exec` it is a stream: input, sizes and signals one way, output the other way, until
//! [`Answer::Exited`], or until either side hangs up. Descriptors (of `Root` and `Namespaces`) travel with their answer's
//! first byte. The other side is the same program and the same user, but bounds are kept: [`FRAME_BYTES_MAX`].

use serde::{Deserialize, Serialize};

use super::config::Attachment;

/// Bytes of one frame at most.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A [`Request`] as JSON.
    Request = 1,
    /// An [`Answer`] as JSON.
    Answer = 2,
    /// Bytes for standard input; none at all is its end.
    Stdin = 3,
    /// Bytes of standard output; of the terminal, if there is one.
    Stdout = 4,
    /// Bytes of standard error.
    Stderr = 5,
    /// Rows and columns of the client's terminal, two bytes each, big endian.
    Resize = 6,
    /// A signal's number, one byte.
    Signal = 7,
}

impl FrameKind {
    /// The kind of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Request, Self::Answer, Self::Stdin, Self::Stdout, Self::Stderr, Self::Resize, Self::Signal]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// What is asked of a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Starts the container: only as the first request on the socket that the monitor was born with.
    Start {
        /// What to stream, if the asker stays.
        streams: Option<Streams>,
    },
    /// Streams of the first process.
    Attach(Streams),
    /// Runs a further process.
    Exec(Box<ExecConfig>),
    /// Sends the first process a signal; the exit status of who is killed by hand is not restarted for SIGKILL and the
    /// container's stop signal.
    Signal(i32),
    /// Asks it to end, and kills it when it does not. Answered when it has ended for good.
    Stop {
        /// Seconds until it is killed; `None` is what the container says; negative is for ever.
        timeout: Option<i64>,
        /// In place of the container's own signal.
        signal: Option<i32>,
        /// It is not removed at its end, even if it was to be: it is started again.
        stays: bool,
    },
    /// Of one that has ended, whose monitor is still there because somebody who is attached has not taken what it has
    /// printed: waits no longer for that than a while.
    Finish,
    /// Stops all processes in the middle.
    Pause,
    /// Lets them go on.
    Unpause,
    /// Answered with `Exited` when the process ends; with a restart policy, when it ends next.
    Wait,
    /// How much it takes: `Stats`.
    Stats,
    /// Its processes: `Top`.
    Top,
    /// Its root with all mounts, as a descriptor: `Done` and one descriptor.
    Root,
    /// Its namespaces, as descriptors: `Namespaces`.
    Namespaces,
    /// It has another name now.
    Renamed,
    /// Makes it part of a network.
    Connect(Attachment),
    /// Takes it out of one.
    Disconnect {
        /// The network's name.
        network: String,
    },
}

/// What of a process is streamed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Whether input will come.
    pub stdin: bool,
    /// Whether output is wanted.
    pub stdout: bool,
    /// Whether error output is wanted.
    pub stderr: bool,
    /// Rows and columns of the client's terminal.
    pub size: Option<(u16, u16)>,
}

/// A further process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecConfig {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Variables beyond the container's.
    pub env: Vec<String>,
    /// In place of the container's.
    pub working_dir: Option<String>,
    /// In place of the container's.
    pub user: Option<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it has every right.
    pub privileged: bool,
    /// What the asker streams. None: it is started and left alone.
    pub streams: Option<Streams>,
}

/// What a monitor says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done.
    Done,
    /// Before `Started` of a `Start`: what cannot be had here, in words.
    Warnings(Vec<String>),
    /// The process runs; the stream begins.
    Started,
    /// The process has ended: its exit status, or 128 and the signal.
    Exited(u8),
    /// It could not be done.
    Failed {
        /// What kind of failure.
        reason: Reason,
        /// What happened, outermost first.
        message: String,
        /// What to do about it.
        hints: Vec<String>,
    },
    /// What it takes.
    Stats(Usage),
    /// The processes.
    Top(Vec<Process>),
    /// The kinds of the descriptors that come along: `net`, `pid`, `ipc`, `uts`; and `/dev/shm`, a detached mount.
    Namespaces(Vec<String>),
}

/// Why something could not be done, as exit statuses tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The command is not there (127).
    CommandNotFound,
    /// The command cannot be executed (126).
    CommandNotExecutable,
    /// It does not stand so that this can be done: not running, paused, paused already.
    WrongState,
    /// What was named is not there: a user, a network, a container.
    NotFound,
    /// The request makes no sense.
    Usage,
    /// The machine: a port in use, rights, disk, kernel.
    Environment,
}

/// What a container takes of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Nanoseconds of all processors since it began.
    pub cpu: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// The most that it may have.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// How many there may be.
    pub pids_limit: Option<u64>,
    /// Bytes read from and written to block devices; none where nobody counts them.
    pub block: Option<(u64, u64)>,
    /// Bytes received and sent; none on a network that is not its own.
    pub net: Option<(u64, u64)>,
}

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number outside, its number inside, its parent's outside.
    pub pid: i32,
    /// In the container.
    pub inside: i32,
    /// Outside.
    pub parent: i32,
    /// User, as the container numbers them.
    pub uid: u32,
    /// `R`, `S`, `D` …
    pub state: char,
    /// Nanoseconds of processors.
    pub cpu: u64,
    /// When it began: nanoseconds since 1970.
    pub started: i64,
    /// Bytes of memory.
    pub memory: u64,
    /// The device number of its terminal, 0 for none.
    pub terminal: u32,
    /// Program and arguments.
    pub command: String,
}
