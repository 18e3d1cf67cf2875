//! The process that watches over one container: it starts it, writes its state and its log, answers whoever asks, starts it
//! again, and clears up.
//!
//! It is this program once more, started by the engine with a socket. Its main thread does the starting, because a container
//! dies with the thread that started it; other threads read output, serve clients and look after the health. What lives as
//! long as the monitor (root file system, control group, network namespace) is [`Ground`]; what lives as long as one run is
//! [`run::Alive`]. A monitor that is killed takes the container along and leaves nothing but its directory.

mod clients;
mod describe;
mod exec;
mod files;
mod network;
mod orders;
mod others;
mod output;
mod probe;
mod run;

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use wharf_cache::snapshot::{Kept, Lasting, SnapshotError};
use wharf_cache::{Chain, SnapshotId, Store, to_nanos};
use wharf_runtime::cgroup::{Effort, Group, Limits, StepGroups};
use wharf_runtime::{Cancel, Sandbox};

use super::config::{ContainerConfig, ContainerId};
use super::connect::{self, Connection};
use super::directory::{Containers, Held, boot_id};
use super::health::Checks;
use super::log::LogWriter;
use super::protocol::{Answer, Reason, Request, Streams};
use super::restart::Pauses;
use super::state::{ContainerState, Status};
use crate::error::{Failure, Kind, causes};
use crate::volumes::Volumes;
use crate::worker::foreign::ForeignSteps;
use clients::NOT_RUNNING;
use network::OwnNetwork;
use orders::{Order, Orders};
use output::{Hub, lock, now};
use run::{Alive, PARTING_PATIENCE};

/// The exit status of a container that could not be started, if nothing more is known.
const NOT_STARTED: u8 = 128;

/// How often, and with which pause, the last state is written: the disk may be full.
const LAST_WORDS: u32 = 20;
const LAST_WORDS_PAUSE: Duration = Duration::from_millis(100);

/// What a monitor works with.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// The store that the container is in.
    pub store: &'a Store,
    /// What it is confined with.
    pub sandbox: Sandbox,
    /// What runs programs of other platforms.
    pub foreign: &'a ForeignSteps,
}

/// Watches over the container `id`, which whoever is at the other end of `socket` starts, until it has ended for good.
pub fn watch(task: &Task<'_>, id: &ContainerId, socket: UnixStream) -> Result<(), Failure> {
    let starter = Arc::new(Connection::from(socket));
    watch_for(task, id, &starter).inspect_err(|failure| {
        // Who has gone is not told.
        let _ = starter.answer(&refusal(failure));
    })
}

/// What becomes of a failure on the way to whoever asked.
pub fn refusal(failure: &Failure) -> Answer {
    let reason = match failure.kind {
        Kind::CommandNotFound => Reason::CommandNotFound,
        Kind::CommandNotExecutable => Reason::CommandNotExecutable,
        Kind::Usage => Reason::Usage,
        _ => Reason::Environment,
    };
    Answer::Failed { reason, message: failure.message.clone(), hints: failure.hints.clone() }
}

fn watch_for(task: &Task<'_>, id: &ContainerId, starter: &Arc<Connection>) -> Result<(), Failure> {
    let failed = |doing: &str, error: &(dyn std::error::Error + 'static)| {
        Failure::from_error(Kind::Environment, &format!("cannot {doing} the container {}", id.short()), error)
    };
    let containers = Containers::of(task.store.root());
    let gone = || Failure::new(Kind::Usage, format!("there is no container {} any more", id.short()));
    let directory = containers.get(id).ok_or_else(gone)?;
    let held = directory.hold()?.ok_or_else(|| {
        let message = format!("cannot start the container {}: another process is at work on it", id.short());
        Failure::new(Kind::Usage, message).hint("it may have been started meanwhile: `wharf ps` says so")
    })?;
    let config = directory.config()?;
    let place = File::open(directory.path()).map_err(|error| failed("open the directory of", &error))?;
    let listener = connect::listen(&place).map_err(|error| failed("listen for", &error))?;
    let request = starter.receive_request().map_err(|error| failed("be asked to start", &error))?;
    let Some(Request::Start { streams }) = request else {
        return Err(Failure::new(
            Kind::Environment,
            "a monitor was asked something else than to start its container",
        ));
    };

    let started = StartSteps { task, config: &config, held: &held };
    let ground = started.ground()?;
    let log =
        LogWriter::open(&directory.log(), &config.log).map_err(|error| failed("open the log of", &error))?;
    let orders = Orders::new().map_err(|error| failed("watch over", &error))?;
    let cancel = || Cancel::new().map_err(|error| failed("watch over", &error));
    let monitor = Monitor {
        task,
        ground: &ground,
        state: Mutex::new(directory.written_state()),
        held,
        is_removed: AtomicBool::new(config.auto_remove),
        config: Mutex::new(config),
        life: Mutex::default(),
        changed: Condvar::new(),
        hub: Hub::new(log),
        orders,
        network: Mutex::new(OwnNetwork::new(task)?),
        closing: cancel()?,
        clients: Mutex::default(),
    };
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM])
        .map_err(|error| failed("watch over", &error))?;
    let signals_end = signals.handle();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in signals.forever() {
                monitor.orders.push(Order::Stop { timeout: None, signal: None });
            }
        });
        let accepting = scope.spawn(|| monitor.accept(scope, &listener));
        monitor.live(scope, starter, streams);
        signals_end.close();
        monitor.closing.cancel();
        // It panics no more than it returns something.
        let _ = accepting.join();
        monitor.dismiss();
    });
    // Whoever comes now finds nobody, and does not wait.
    drop(listener);
    let (held, is_removed) = monitor.end();
    drop(ground);
    if is_removed {
        let config = held.directory().config();
        containers.remove(held, task.store)?;
        Volumes::new(task.store).remove_anonymous(id, &config?.mounts)?;
    }
    Ok(())
}

/// What a container stands on as long as its monitor lives.
#[derive(Debug)]
struct Ground {
    kept: Kept,
    /// In the sandbox `chroot`: an empty directory beside the root.
    aside: Option<File>,
    group: Option<Group>,
    /// What of the limits could not be done here.
    warnings: Vec<String>,
}

/// What [`Ground`] is made from.
struct StartSteps<'a> {
    task: &'a Task<'a>,
    config: &'a ContainerConfig,
    held: &'a Held,
}

impl StartSteps<'_> {
    fn ground(&self) -> Result<Ground, Failure> {
        let path = self.held.directory().path();
        let chain = Chain(self.config.chain.iter().map(|id| SnapshotId(*id)).collect());
        let lasting = if self.config.auto_remove { Lasting::No } else { Lasting::Yes };
        let kept = self.task.store.keep_in(&chain, path, lasting).map_err(|error: SnapshotError| {
            let doing =
                format!("cannot make the root file system of the container {}", self.config.id.short());
            Failure::from_error(Kind::Environment, &doing, &error)
        })?;
        let aside = match self.task.sandbox {
            Sandbox::Chroot => Some(make_aside(&path.join("aside")).map_err(|error| {
                Failure::from_error(Kind::Environment, "cannot prepare the container", &error)
            })?),
            _ => None,
        };
        let (group, warnings) = self.group()?;
        Ok(Ground { kept, aside, group, warnings })
    }

    /// The container's control group, if one can be had; and what of the limits could not.
    fn group(&self) -> Result<(Option<Group>, Vec<String>), Failure> {
        let limits = describe::limits(&self.config.resources);
        let parent = self.config.resources.cgroup_parent.as_deref();
        let is_asked = limits != Limits::default() || parent.is_some();
        let effort = if is_asked { Effort::Lasting } else { Effort::Passing };
        match StepGroups::find_observed(limits, parent, effort) {
            Ok(groups) => match groups.make() {
                Ok(group) => Ok((Some(group), Vec::new())),
                Err(error) if is_asked => {
                    Err(Failure::from_error(Kind::Usage, "cannot limit the container", &error))
                }
                Err(_) => Ok((None, Vec::new())),
            },
            Err(error) => {
                let warnings = Vec::from_iter(is_asked.then(|| {
                    format!("what the container may take of the machine is not limited: {}", causes(&error))
                }));
                let groups = StepGroups::find_observed(Limits::default(), None, Effort::Passing);
                Ok((groups.ok().and_then(|groups| groups.make().ok()), warnings))
            }
        }
    }
}

/// An empty directory for what a root has where something else is put for a time.
fn make_aside(path: &std::path::Path) -> io::Result<File> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir(path)?;
    File::open(path)
}

/// What the threads of a monitor share.
#[derive(Debug)]
struct Monitor<'g> {
    task: &'g Task<'g>,
    ground: &'g Ground,
    held: Held,
    /// Whether the container is removed when it has ended.
    is_removed: AtomicBool,
    config: Mutex<ContainerConfig>,
    state: Mutex<ContainerState>,
    life: Mutex<Life<'g>>,
    /// Told when `life` has changed.
    changed: Condvar,
    hub: Hub,
    orders: Orders,
    network: Mutex<OwnNetwork>,
    /// The end has come: no more clients.
    closing: Cancel,
    /// Those who have connected.
    clients: Mutex<Vec<Weak<Connection>>>,
}

/// How far it has come.
#[derive(Debug, Default)]
struct Life<'g> {
    /// While it runs.
    alive: Option<Arc<Alive<'g>>>,
    /// How often it has ended, and how the last time.
    ends: u64,
    last: u8,
    /// It is not started again.
    rests: bool,
    /// Threads that watch over further processes in it.
    executing: usize,
    /// Threads that serve clients.
    serving: usize,
}

/// That a client is served: the end of the monitor waits for it.
struct Serving<'m, 'g>(&'m Monitor<'g>);

impl<'m, 'g> Serving<'m, 'g> {
    fn begin(monitor: &'m Monitor<'g>) -> Self {
        lock(&monitor.life).serving += 1;
        Self(monitor)
    }
}

impl Drop for Serving<'_, '_> {
    fn drop(&mut self) {
        lock(&self.0.life).serving -= 1;
        self.0.changed.notify_all();
    }
}

impl<'g> Monitor<'g> {
    fn root(&self) -> BorrowedFd<'g> {
        self.ground.kept.root()
    }

    fn group(&self) -> Option<&'g Group> {
        self.ground.group.as_ref()
    }

    fn config(&self) -> ContainerConfig {
        lock(&self.config).clone()
    }

    /// The run that there is now.
    fn alive(&self) -> Option<Arc<Alive<'g>>> {
        lock(&self.life).alive.clone()
    }

    /// Changes the state, and writes it. What cannot be written now is with the next change.
    fn update(&self, change: impl FnOnce(&mut ContainerState)) -> bool {
        let mut state = lock(&self.state);
        change(&mut state);
        if let Some(why) = self.hub.take_broken() {
            let warning = format!("output is lost, because the log cannot be written: {why}");
            if !state.warnings.contains(&warning) {
                state.warnings.push(warning);
            }
        }
        self.held.write_state(&state).is_ok()
    }

    /// The same for what has to be known when nobody watches any more.
    fn update_at_last(&self, mut change: impl FnMut(&mut ContainerState)) {
        for _ in 0..LAST_WORDS {
            if self.update(&mut change) {
                return;
            }
            thread::sleep(LAST_WORDS_PAUSE);
        }
    }

    /// Starts the container, and again as its policy says, until it rests.
    fn live<'s, 'e>(
        &'e self,
        scope: &'s thread::Scope<'s, 'e>,
        starter: &Arc<Connection>,
        streams: Option<Streams>,
    ) where
        'g: 'e,
    {
        let mut first = Some((Arc::clone(starter), streams));
        let mut pauses = Pauses::default();
        let before = lock(&self.state).status;
        lock(&self.state).restarts = 0;
        loop {
            let ran = match self.run(scope, &mut first) {
                Ok(ran) => ran,
                Err(failure) => {
                    let code = match failure.kind {
                        Kind::CommandNotFound | Kind::CommandNotExecutable => failure.kind.exit_code(),
                        _ => NOT_STARTED,
                    };
                    self.update_at_last(|state| {
                        state.status = if before == Status::Created && state.started.is_none() {
                            Status::Created
                        } else {
                            Status::Exited
                        };
                        state.exit_code = code;
                        state.error = Some(failure.message.clone());
                        state.pid = None;
                    });
                    if let Some((starter, _)) = first.take() {
                        // Who has gone is not told.
                        let _ = starter.answer(&refusal(&failure));
                    }
                    break;
                }
            };
            if !ran.again || !self.rest_until(Instant::now() + pauses.after(ran.time)) {
                break;
            }
            lock(&self.state).restarts += 1;
        }
        lock(&self.life).rests = true;
        self.changed.notify_all();
    }

    /// Waits until the container is to be started again; false if somebody has stopped it meanwhile.
    fn rest_until(&self, until: Instant) -> bool {
        while Instant::now() < until {
            self.orders.wait(&[], Some(until));
            for order in self.orders.take() {
                match order {
                    Order::Signal { reply, .. } => {
                        // Who asked may have gone.
                        let _ = reply.send(Err(NOT_RUNNING.to_owned()));
                    }
                    Order::Stop { .. } => {
                        self.note_rest();
                        return false;
                    }
                    Order::Finish => {}
                }
            }
        }
        true
    }

    /// Writes that somebody does not want it to be started again.
    fn note_rest(&self) {
        self.update_at_last(|state| (state.status, state.stopped_by_hand) = (Status::Exited, true));
    }

    /// Serves whoever connects, until the end.
    fn accept<'s, 'e>(&'e self, scope: &'s thread::Scope<'s, 'e>, listener: &'e UnixListener)
    where
        'g: 'e,
    {
        loop {
            let mut polled = [
                PollFd::new(listener, PollFlags::IN),
                PollFd::from_borrowed_fd(self.closing.as_fd(), PollFlags::IN),
            ];
            if poll(&mut polled, None).is_err() {
                continue;
            }
            let is_last = !polled[1].revents().is_empty();
            // Whoever has come by now is served.
            if is_last && listener.set_nonblocking(true).is_err() {
                return;
            }
            match listener.accept() {
                Ok((socket, _)) => self.receive(scope, Connection::from(socket)),
                Err(_) if is_last => return,
                Err(_) => {}
            }
        }
    }

    /// Serves a client with a thread of its own.
    fn receive<'s, 'e>(&'e self, scope: &'s thread::Scope<'s, 'e>, connection: Connection)
    where
        'g: 'e,
    {
        let connection = Arc::new(connection);
        let mut clients = lock(&self.clients);
        clients.retain(|client| client.strong_count() > 0);
        clients.push(Arc::downgrade(&connection));
        drop(clients);
        let serving = Serving::begin(self);
        let thread = thread::Builder::new().name("client".to_owned());
        // Where there is no thread to be had, the client is hung up on.
        let _ = thread.spawn_scoped(scope, move || {
            let _serving = serving;
            self.serve(&connection);
        });
    }

    /// Answers those who have asked something; hangs up on those who have not, and on those who do not take the answer.
    fn dismiss(&self) {
        let clients: Vec<Weak<Connection>> = std::mem::take(&mut *lock(&self.clients));
        for client in clients.iter().filter_map(Weak::upgrade) {
            client.receive_no_more();
        }
        let life = lock(&self.life);
        drop(self.changed.wait_timeout_while(life, PARTING_PATIENCE, |life| life.serving > 0));
        for client in clients.iter().filter_map(Weak::upgrade) {
            client.hang_up();
        }
    }

    /// What is left to be done: whether the container is to be removed.
    fn end(self) -> (Held, bool) {
        (self.held, self.is_removed.into_inner())
    }

    /// What is true of a container that has just been started.
    fn note_start(&self, config: &ContainerConfig, alive: &Alive<'_>, warnings: Vec<String>) {
        let health = config.health.as_ref().map(|check| Checks::new(check).health().clone());
        self.update(|state| {
            *state = ContainerState {
                status: Status::Running,
                pid: Some(alive.pid),
                boot: boot_id(),
                started: Some(to_nanos(now())),
                finished: state.finished,
                restarts: state.restarts,
                endpoints: std::mem::take(&mut state.endpoints),
                ports: std::mem::take(&mut state.ports),
                warnings,
                health,
                ..ContainerState::default()
            };
        });
    }
}
