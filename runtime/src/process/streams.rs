//! The standard streams: the parent's ends and the child's.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::prepare::Descriptors;
use super::step::Step;
use super::{failed, pipe, terminal};
use crate::spec::plan::ProcessPlan;
use crate::{RuntimeError, Stdio, Stream, sys};

/// Who takes captured output.
pub(super) type Sink<'a> = &'a mut dyn FnMut(Stream, &[u8]);

/// The parent's ends.
pub(super) struct Ends<'a> {
    /// Pipes of output that is captured.
    pub(super) output: Vec<(Stream, OwnedFd)>,
    pub(super) sink: Option<Sink<'a>>,
    /// Where signals to pass on are read.
    pub(super) signals: Option<BorrowedFd<'a>>,
    /// Whether the process is in the foreground of the caller's terminal.
    pub(super) foreground: bool,
    /// The caller's side of the process's own terminal.
    pub(super) terminal: Option<OwnedFd>,
}

/// The child's ends.
pub(super) enum Streams {
    /// The caller's own. `terminal`: they lead to its terminal, whose foreground the command stays in.
    Inherited { terminal: bool },
    /// Standard input, output and error.
    Given([OwnedFd; 3]),
    /// All three are a terminal, the one with this number of its devpts.
    Terminal { peer: OwnedFd, number: u32 },
}

/// Where a pseudo-terminal comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Terminals<'s> {
    /// The container's own devpts.
    Of(BorrowedFd<'s>),
    /// The place that this process is in.
    OfHost,
    /// There is no devpts in the container.
    None,
}

/// Makes both ends.
pub(super) fn connect<'a>(
    stdio: Stdio<'a>,
    terminals: Terminals<'_>,
) -> Result<(Ends<'a>, Streams), RuntimeError> {
    let mut ends = Ends { output: Vec::new(), sink: None, signals: None, foreground: false, terminal: None };
    let streams = match stdio {
        Stdio::Captured(sink) => {
            let (stdout, stdout_end) = pipe(PipeFlags::CLOEXEC)?;
            let (stderr, stderr_end) = pipe(PipeFlags::CLOEXEC)?;
            for end in [&stdout, &stderr] {
                rustix::fs::fcntl_setfl(end, OFlags::NONBLOCK).map_err(failed("set up an output pipe"))?;
            }
            ends.output = vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
            ends.sink = Some(sink);
            Streams::Given([null()?, stdout_end, stderr_end])
        }
        Stdio::Inherit { signals } => {
            ends.signals = signals;
            ends.foreground = terminal::is_terminal();
            Streams::Inherited { terminal: ends.foreground }
        }
        Stdio::Given { stdin, stdout, stderr } => {
            let or_null = |stream: Option<OwnedFd>| stream.map_or_else(null, Ok);
            Streams::Given([or_null(stdin)?, or_null(stdout)?, or_null(stderr)?])
        }
        Stdio::Terminal { rows, columns } => {
            let master = terminals.open()?;
            crate::resize(master.as_fd(), rows, columns).map_err(failed("set the size of the terminal"))?;
            let made = failed("make a terminal");
            let (peer, number) = (|| {
                sys::terminal::unlock(master.as_fd())?;
                Ok::<_, io::Error>((
                    sys::terminal::peer(master.as_fd())?,
                    sys::terminal::number(master.as_fd())?,
                ))
            })()
            .map_err(made)?;
            ends.terminal = Some(master);
            Streams::Terminal { peer, number }
        }
    };
    Ok((ends, streams))
}

impl Terminals<'_> {
    fn open(self) -> Result<OwnedFd, RuntimeError> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        match self {
            // Nothing that somebody in the container has mounted there is taken for it.
            Self::Of(devpts) => {
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
                rustix::fs::openat2(devpts, c"ptmx", flags, Mode::empty(), resolve)
                    .map_err(failed("make a terminal in the container's /dev/pts"))
            }
            Self::OfHost => match rustix::fs::open(c"/dev/ptmx", flags, Mode::empty()) {
                Err(errno @ (Errno::NOENT | Errno::NXIO | Errno::NODEV)) => Err(RuntimeError::Impossible {
                    what: "make a terminal",
                    why: format!(
                        "this place has no usable /dev/ptmx ({errno}), and in the sandbox `chroot` none can be mounted"
                    ),
                }),
                master => master.map_err(failed("make a terminal with /dev/ptmx")),
            },
            Self::None => Err(RuntimeError::Impossible {
                what: "make a terminal",
                why: "the container has no mount of type `devpts` at /dev/pts".to_owned(),
            }),
        }
    }
}

/// Gives the command its standard streams, and a session of its own unless it stays in the caller's foreground.
pub(super) fn stream_steps(
    streams: Streams,
    process: &ProcessPlan,
    descriptors: &mut Descriptors,
    launch: &mut Vec<Step>,
) -> Result<(), RuntimeError> {
    match streams {
        Streams::Inherited { terminal: true } => {}
        Streams::Inherited { terminal: false } => launch.push(Step::NewSession),
        Streams::Given(streams) => {
            for (to, stream) in (0..).zip(streams) {
                // So that `/dev/stdout` can be opened again. What has a name, and so others, keeps its owner.
                let is_pipe = is_nameless_pipe(&stream);
                let from = descriptors.keep(stream)?;
                if process.uid != 0 && is_pipe {
                    launch.push(Step::OwnStream { fd: from, uid: process.uid, gid: process.gid });
                }
                launch.push(Step::Stream { from, to });
            }
            launch.push(Step::NewSession);
        }
        Streams::Terminal { peer, .. } => {
            /// Leaves the group as it is.
            const SAME: u32 = u32::MAX;
            let from = descriptors.keep(peer)?;
            launch.extend([Step::NewSession, Step::ControllingTerminal(from)]);
            if process.uid != 0 {
                launch.push(Step::OwnStream { fd: from, uid: process.uid, gid: SAME });
            }
            launch.extend((0..3).map(|to: RawFd| Step::Stream { from, to }));
        }
    }
    Ok(())
}

fn is_nameless_pipe(stream: &OwnedFd) -> bool {
    const PIPEFS_MAGIC: i64 = 0x5049_5045;
    rustix::fs::fstatfs(stream).is_ok_and(|filesystem| filesystem.f_type == PIPEFS_MAGIC)
}

fn null() -> Result<OwnedFd, RuntimeError> {
    rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| RuntimeError::NoDevice { path: "/dev/null", source: errno.into() })
}
