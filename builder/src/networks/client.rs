//! What commands and monitors ask the network process of a store: a connection to it, and the process itself, if there is
//! none yet.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use wharf_runtime::Sandbox;
use wharf_runtime::sandbox;

use super::protocol::{Answer, AttachRequest, Attached, Request};
use super::record::make_dir;
use crate::containers::config::Attachment;
use crate::containers::connect;
use crate::containers::protocol::{FrameKind, Reason};
use crate::error::{Failure, Kind};

/// The name of the socket in the directory of the networks.
pub(crate) const SOCKET_NAME: &str = "sock";

/// The command that is the network process.
pub const COMMAND: &str = "network-process";

/// How long a network process that is just ending, or just beginning, is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// Where a network process begins, if one has to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Outside of every sandbox, as this process is: it enters the one that was asked for, or the strongest there is.
    Outside(Option<Sandbox>),
    /// In the sandbox that this process has entered.
    Here(Sandbox),
}

/// The network process of a store. It ends some seconds after its last connection: an ordinary user's monitor keeps one for its
/// whole life, also for a container that is on no network, so that all containers are in one user namespace.
#[derive(Debug)]
pub struct Holder;

impl Holder {
    /// Connects to the network process of the store at `root`; starts it if there is none.
    ///
    /// An ordinary user's commands do this before they enter a sandbox, and then [`Connection::enter`] in its place.
    pub fn connect(root: &Path, start: Start) -> Result<Connection, Failure> {
        let failed = |doing: &str, error: io::Error| {
            Failure::from_error(Kind::Environment, &format!("cannot {doing} the network process"), &error)
        };
        let dir = root.join("networks");
        make_dir(&dir).map_err(|error| failed("make a directory for", error))?;
        let root = std::fs::canonicalize(root).map_err(|error| failed("find the store of", error))?;
        let end = Instant::now() + PATIENCE;
        loop {
            match Connection::open(&root.join("networks")) {
                Ok(connection) => return Ok(connection),
                Err(error) if Instant::now() >= end && error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(failed("reach", io::Error::other("it listens and does not answer"))
                        .hint("end it: another one is started, and gives the containers what they had"));
                }
                Err(error) if Instant::now() >= end => return Err(failed("reach", error)),
                Err(_) => {}
            }
            spawn(&root, start)?;
            // It may have found another one that was just ending.
            thread::sleep(PAUSE);
        }
    }
}

/// Has the network process of this directory of networks, if there is one, take those away whose records are gone: their
/// subnets can be had again.
pub(super) fn forget(dir: &Path) {
    // Who cannot be asked does so later, or ends.
    if let Ok(connection) = Connection::open(dir) {
        let _ = connection.ask(&Request::Forget, &[]);
    }
}

/// Starts a network process and waits until it listens, or finds another one that does.
fn spawn(root: &Path, start: Start) -> Result<(), Failure> {
    let cannot =
        |error: io::Error| Failure::from_error(Kind::Environment, "cannot start the network process", &error);
    let mut command = Command::new("/proc/self/exe");
    command.arg("--root").arg(root);
    match start {
        Start::Outside(None) => {}
        Start::Outside(Some(sandbox)) => _ = command.args(["--sandbox", sandbox.name()]),
        Start::Here(sandbox) => _ = command.args(["--sandbox", sandbox.name()]),
    }
    command.arg(COMMAND);
    if let Start::Here(_) = start {
        command.arg("--here");
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // It outlives this process, and keeps nothing of it open.
    let mut child = wharf_runtime::spawn_apart(&mut command, &[]).map_err(cannot)?;
    let mut said = String::new();
    // It goes on by itself; who was started ends at once.
    let read = child.stdout.take().map_or(Ok(0), |mut stdout| stdout.read_to_string(&mut said));
    let ended = match child.wait() {
        Ok(status) => status.to_string(),
        // Whoever ignores SIGCHLD hears of no end.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => "nobody knows how".to_owned(),
        Err(error) => return Err(cannot(error)),
    };
    read.map_err(cannot)?;
    match serde_json::from_str(&said) {
        Ok(Answer::Done) => Ok(()),
        Ok(Answer::Failed { reason, message, hints }) => Err(failure(reason, message, hints)),
        _ => Err(Failure::new(
            Kind::Environment,
            format!("cannot start the network process: it ended without a word ({ended})"),
        )),
    }
}

/// A connection to the network process. What it is asked for is there as long as the connection.
#[derive(Debug)]
pub struct Connection {
    connection: connect::Connection,
    sandbox: Sandbox,
    user_namespace: Option<OwnedFd>,
}

impl Connection {
    /// Connects to one that listens in this directory of networks.
    fn open(dir: &Path) -> io::Result<Self> {
        let dir = File::open(dir)?;
        let stream = UnixStream::connect(socket_path(&dir))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let connection = connect::Connection::from(stream.try_clone()?);
        let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
        let (answer, descriptors) = receive(&connection)?.ok_or_else(gone)?;
        stream.set_read_timeout(None)?;
        let Answer::Hello { sandbox } = answer else { return Err(io::ErrorKind::InvalidData.into()) };
        let sandbox = sandbox.parse().map_err(io::Error::other)?;
        Ok(Self { connection, sandbox, user_namespace: descriptors.into_iter().next() })
    }

    /// What the network process has entered.
    pub fn sandbox(&self) -> Sandbox {
        self.sandbox
    }

    /// Enters the sandbox of the network process: its user namespace, if it has one of its own. Only while this process has
    /// one thread, and in place of [`sandbox::enter`].
    pub fn enter(&self) -> Result<Sandbox, Failure> {
        match &self.user_namespace {
            Some(namespace) => sandbox::join(namespace.as_fd()).map_err(|error| {
                let doing = "cannot enter the user namespace of the network process";
                Failure::from_error(Kind::Environment, doing, &error)
            })?,
            None => {
                _ = sandbox::enter(Some(self.sandbox)).map_err(|error| {
                    Failure::new(Kind::Environment, error.to_string())
                        .hint("`wharf doctor` says what would have to change, and how")
                })?
            }
        }
        Ok(self.sandbox)
    }

    /// Puts a container on networks, in place of what this connection had before. `namespace` is its network namespace.
    pub fn attach(&self, request: &AttachRequest, namespace: BorrowedFd<'_>) -> Result<Attached, Failure> {
        let request = Request::Attach(Box::new(request.clone()));
        self.ask(&request, &[namespace]).and_then(attached)
    }

    /// Puts the container on one more network; says what it has then.
    pub fn connect(&self, attachment: &Attachment) -> Result<Attached, Failure> {
        self.ask(&Request::Connect(attachment.clone()), &[]).and_then(attached)
    }

    /// Takes the container off a network; says what it has then.
    pub fn disconnect(&self, network: &str) -> Result<Attached, Failure> {
        self.ask(&Request::Disconnect { network: network.to_owned() }, &[]).and_then(attached)
    }

    /// The container has another name now; says what it has then.
    pub fn rename(&self, name: &str) -> Result<Attached, Failure> {
        self.ask(&Request::Rename { name: name.to_owned() }, &[]).and_then(attached)
    }

    /// Takes the container off all networks.
    pub fn detach(&self) -> Result<(), Failure> {
        self.ask(&Request::Detach, &[]).map(drop)
    }

    fn ask(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<Answer, Failure> {
        let asked = serde_json::to_vec(request)
            .map_err(io::Error::from)
            .and_then(|bytes| self.connection.send_with(FrameKind::Request, &bytes, descriptors))
            .and_then(|()| receive(&self.connection))
            .and_then(|answer| answer.ok_or_else(|| io::ErrorKind::ConnectionReset.into()));
        match asked {
            Ok((Answer::Failed { reason, message, hints }, _)) => Err(failure(reason, message, hints)),
            Ok((answer, _)) => Ok(answer),
            Err(error) => {
                let doing = "the network process does not answer";
                Err(Failure::from_error(Kind::Environment, doing, &error))
            }
        }
    }
}

/// Readable without a request: the network process is gone ([`Holder::connect`] and [`Connection::attach`] anew).
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

fn attached(answer: Answer) -> Result<Attached, Failure> {
    match answer {
        Answer::Attached(attached) => Ok(*attached),
        _ => {
            Err(Failure::new(Kind::Environment, "the network process answers something else than was asked"))
        }
    }
}

/// The next answer; none when the other side has hung up.
fn receive(connection: &connect::Connection) -> io::Result<Option<(Answer, Vec<OwnedFd>)>> {
    let Some(frame) = connection.receive()? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&frame.payload)?, frame.descriptors)))
}

/// Through the descriptor, as the address of a socket has room for a hundred bytes.
pub(crate) fn socket_path(dir: &File) -> PathBuf {
    format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd()).into()
}

fn failure(reason: Reason, message: String, hints: Vec<String>) -> Failure {
    let kind = match reason {
        Reason::Usage | Reason::NotFound | Reason::WrongState => Kind::Usage,
        Reason::Environment | Reason::CommandNotFound | Reason::CommandNotExecutable => Kind::Environment,
    };
    hints.into_iter().fold(Failure::new(kind, message), Failure::hint)
}
