//! SSH agents that are given to a build: `--ssh default|ID[=SOCKET|KEY[,KEY…]]`.
//!
//! Steps (and the git source) never meet the agent itself: [`Agent::serve`] listens at a socket of its own and passes on
//! only what lists identities and what signs. Keys that are named by file are held by an agent in this process.

mod keys;
mod protocol;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::secrets::Environment;
use keys::Identity;
pub use keys::KeyError;

/// Connections that one served socket has at once; a step that wants more waits for none and is refused.
const CONNECTIONS_MAX: usize = 64;

/// Pause after a connection could not be taken (no descriptors left), so that trying again is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The id of a `--ssh` and a mount without one.
pub const DEFAULT_ID: &str = "default";

/// The agents of a build by id.
#[derive(Debug, Default)]
pub struct SshAgents(BTreeMap<String, Arc<Agent>>);

/// Where signatures come from.
#[derive(Debug)]
pub enum Agent {
    /// An agent that listens at this socket.
    Socket(PathBuf),
    /// Keys held here.
    Keys(Vec<Identity>),
}

/// Why an agent cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SshError {
    #[error("--ssh {spec}: there is no agent: SSH_AUTH_SOCK is not set")]
    NoAgent { spec: String },
    #[error("--ssh {spec}: cannot read `{}`", path.display())]
    Read { spec: String, path: PathBuf, source: io::Error },
    #[error("--ssh {spec}: a socket cannot be given together with other sockets or keys")]
    SocketAmongOthers { spec: String },
    #[error("--ssh {spec}: cannot use the key `{}`", path.display())]
    Key { spec: String, path: PathBuf, source: KeyError },
    #[error("--ssh: `{id}` is given twice")]
    Twice { id: String },
}

impl SshAgents {
    /// Parses what `--ssh` was given, and loads the keys.
    pub fn parse(specs: &[String], environment: Environment<'_>) -> Result<Self, SshError> {
        let mut agents = BTreeMap::new();
        for spec in specs {
            let (id, paths) = spec.split_once('=').unwrap_or((spec, ""));
            let id = if id.is_empty() { DEFAULT_ID } else { id };
            let agent = Arc::new(Agent::parse(spec, paths, environment)?);
            if agents.insert(id.to_owned(), agent).is_some() {
                return Err(SshError::Twice { id: id.to_owned() });
            }
        }
        Ok(Self(agents))
    }

    /// The agent `id`, if it was given.
    pub fn get(&self, id: &str) -> Option<&Arc<Agent>> {
        self.0.get(id)
    }
}

impl Agent {
    fn parse(spec: &str, paths: &str, environment: Environment<'_>) -> Result<Self, SshError> {
        let spec = || spec.to_owned();
        if paths.is_empty() {
            let socket = environment("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
            let socket = PathBuf::from(socket.ok_or_else(|| SshError::NoAgent { spec: spec() })?);
            std::fs::metadata(&socket).map_err(|source| SshError::Read {
                spec: spec(),
                path: socket.clone(),
                source,
            })?;
            return Ok(Self::Socket(socket));
        }
        let paths: Vec<PathBuf> = paths.split(',').map(PathBuf::from).collect();
        let mut identities = Vec::new();
        for path in &paths {
            let metadata = std::fs::metadata(path).map_err(|source| SshError::Read {
                spec: spec(),
                path: path.clone(),
                source,
            })?;
            if metadata.file_type().is_socket() {
                return match paths.as_slice() {
                    [socket] => Ok(Self::Socket(socket.clone())),
                    _ => Err(SshError::SocketAmongOthers { spec: spec() }),
                };
            }
            let identity = Identity::read(path);
            identities.push(identity.map_err(|source| SshError::Key {
                spec: spec(),
                path: path.clone(),
                source,
            })?);
        }
        Ok(Self::Keys(identities))
    }

    /// Listens at the new socket `path` until the answer is dropped.
    pub fn serve(self: &Arc<Self>, path: &Path) -> io::Result<Serving> {
        let listener = UnixListener::bind(path)?;
        let state = Arc::new(State {
            agent: Arc::clone(self),
            listener,
            is_over: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&state);
        let thread =
            std::thread::Builder::new().name("ssh-agent".to_owned()).spawn(move || accepting.accept_all())?;
        Ok(Serving { state, thread: Some(thread) })
    }
}

/// A socket at which an agent is reached; nobody reaches it any more when this is dropped.
#[derive(Debug)]
pub struct Serving {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    agent: Arc<Agent>,
    listener: UnixListener,
    is_over: AtomicBool,
    /// The open connections, by number.
    connections: Mutex<HashMap<u64, UnixStream>>,
}

impl State {
    fn connections(&self) -> MutexGuard<'_, HashMap<u64, UnixStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept_all(self: &Arc<Self>) {
        for number in 0.. {
            let accepted = self.listener.accept();
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            match accepted {
                Ok((stream, _)) => self.answer(number, stream),
                Err(_) => std::thread::sleep(ACCEPT_PAUSE),
            }
        }
    }

    /// Answers one client on a thread of its own. Without one, or with too many clients, it is hung up on.
    fn answer(self: &Arc<Self>, number: u64, stream: UnixStream) {
        let Ok(ours) = stream.try_clone() else { return };
        {
            let mut connections = self.connections();
            if connections.len() == CONNECTIONS_MAX {
                return;
            }
            connections.insert(number, ours);
        }
        let state = Arc::clone(self);
        let thread = std::thread::Builder::new().name("ssh-client".to_owned());
        let spawned = thread.spawn(move || {
            // A client that breaks the protocol or hangs up has ended its connection; nobody waits for more.
            let _ = protocol::serve(&stream, &state.agent);
            state.connections().remove(&number);
        });
        if spawned.is_err() {
            self.connections().remove(&number);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = rustix::net::shutdown(&self.state.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for stream in self.state.connections().values() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests;
