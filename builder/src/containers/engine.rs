//! What commands and compose ask of containers: directories are read here, monitors are started and asked.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use wharf_cache::{Store, to_nanos};
use wharf_runtime::Sandbox;

use super::ask::Ask;
use super::config::{Attachment, ContainerConfig, ContainerId, MountConfig, MountKind, NetworkUse};
use super::connect::Connection;
use super::create::{self, Found};
use super::directory::{Containers, Directory, Held, new_id};
use super::given;
use super::image;
use super::log::{self, Entry, LogQuery};
use super::protocol::{Answer, ExecConfig, Process, Reason, Request, Streams, Usage};
use super::state::{ContainerState, Status};
use super::streams::Stream;
use crate::error::{Failure, Kind};
use crate::volumes::Volumes;

/// How long somebody who holds a container's lock, and neither listens nor lets go, is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is tried meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// A container as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// What it is made of.
    pub config: ContainerConfig,
    /// How it stands with it.
    pub state: ContainerState,
}

/// How a container is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remove {
    /// It is killed first, if it runs.
    pub force: bool,
    /// The volumes that were made for it alone go with it.
    pub volumes: bool,
}

/// The containers of a store.
#[derive(Debug)]
pub struct Engine {
    pub(super) store: Store,
    pub(super) sandbox: Sandbox,
    containers: Containers,
    /// What the command line of every monitor begins with.
    pub(super) monitor_arguments: Vec<OsString>,
}

impl Engine {
    /// The containers of `store`, in the sandbox that this process is in. `config` is the configuration file that monitors
    /// read, if it is not where it usually is.
    pub fn new(store: &Store, sandbox: Sandbox, config: Option<PathBuf>) -> Self {
        let mut monitor_arguments = vec!["--root".into(), store.root().into()];
        monitor_arguments.extend(["--sandbox".into(), sandbox.name().into()]);
        monitor_arguments.extend(config.into_iter().flat_map(|file| ["--config".into(), file.into()]));
        let containers = Containers::of(store.root());
        Self { store: store.clone(), sandbox, containers, monitor_arguments }
    }

    /// All containers, the newest first. One whose directory cannot be read is left out, with a warning.
    pub fn list(&self) -> Result<Vec<Container>, Failure> {
        let mut containers = Vec::new();
        for id in self.containers.ids()? {
            let Some(directory) = self.containers.get(&id) else { continue };
            match directory.config() {
                Ok(config) => containers.push(Container { config, state: directory.state() }),
                // It was removed meanwhile.
                Err(_) if self.containers.get(&id).is_none() => {}
                Err(failure) => crate::progress::print_warning(&failure.message),
            }
        }
        containers.sort_by_key(|container| std::cmp::Reverse(container.config.created));
        Ok(containers)
    }

    /// The container that is called so, or whose identifier begins so.
    pub fn find(&self, name_or_digits: &str) -> Result<Container, Failure> {
        let directory = self.containers.find(name_or_digits)?;
        Ok(Container { config: directory.config()?, state: directory.state() })
    }

    /// The identifier of the container that is called so, or whose identifier begins so, whatever is wrong with it.
    pub fn resolve(&self, name_or_digits: &str) -> Result<ContainerId, Failure> {
        Ok(self.containers.find(name_or_digits)?.id().clone())
    }

    /// Bytes that each container takes of the disk beyond its image, by its identifier.
    pub fn own_bytes(&self) -> Result<BTreeMap<String, u64>, Failure> {
        let items = self.store.items().map_err(|error| {
            Failure::from_error(Kind::Environment, "cannot look through the store", &error)
        })?;
        let containers = items.into_iter().filter(|item| item.kind == wharf_cache::gc::Kind::Container);
        Ok(containers.map(|item| (item.name, item.bytes)).collect())
    }

    /// The container with this identifier.
    pub fn get(&self, id: &ContainerId) -> Result<Container, Failure> {
        let directory = self.directory(id)?;
        Ok(Container { config: directory.config()?, state: directory.state() })
    }

    /// The store that they are in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What containers are confined with.
    pub fn sandbox(&self) -> Sandbox {
        self.sandbox
    }

    /// Where the container's files are.
    pub fn directory(&self, id: &ContainerId) -> Result<Directory, Failure> {
        self.containers.get(id).ok_or_else(|| {
            Failure::new(Kind::Usage, format!("there is no container {} any more", id.short()))
        })
    }

    /// Makes a container; nothing runs yet.
    pub fn create(&self, ask: &Ask) -> Result<Container, Failure> {
        let base = image::base(&self.store, &ask.image, ask.platform.as_ref())?;
        let cannot =
            |error: io::Error| Failure::from_error(Kind::Environment, "cannot make up an identifier", &error);
        let volumes_from = ask.volumes_from.iter().map(|(name, read_only)| {
            let mounts: Vec<MountConfig> = self.find(name)?.config.mounts;
            Ok((mounts, *read_only))
        });
        let found = Found {
            id: new_id().map_err(cannot)?,
            created: now(),
            has_networks: self.sandbox != Sandbox::Chroot,
            find: &|name| Ok(self.containers.find(name)?.id().clone()),
            volumes_from: volumes_from.collect::<Result<_, Failure>>()?,
            volume_name: &|| Ok(new_id().map_err(cannot)?.0),
            variable: &|name| std::env::var(name).ok(),
        };
        let mut config = create::configure(ask, base, &found)?;
        self.prepare_mounts(ask, &config)?;
        given::add(ask, &mut config, self.store.root());
        let change = self.containers.change()?;
        if config.name.is_empty() {
            config.name = change.free_name()?;
        }
        let held = change.create(&config).inspect_err(|_| {
            // A name in use is the usual reason, and says more than a volume that stays.
            let _ = Volumes::new(&self.store).remove_anonymous(&config.id, &config.mounts);
        })?;
        if let Err(failure) = given::write(ask, held.directory().path()) {
            // Why they could not be written says more.
            drop(change);
            let _ = self.containers.remove(held, &self.store);
            let _ = Volumes::new(&self.store).remove_anonymous(&config.id, &config.mounts);
            return Err(failure);
        }
        let state = held.directory().state();
        Ok(Container { config, state })
    }

    /// Starts a container. With `streams`, what it prints is there from the first byte on, and input gets to it. None for
    /// one that runs already, or without `streams`.
    pub fn start(&self, id: &ContainerId, streams: Option<Streams>) -> Result<Option<Stream>, Failure> {
        let directory = self.directory(id)?;
        match directory.state().status {
            Status::Running | Status::Restarting => {
                return streams.map(|streams| self.attach(id, streams)).transpose();
            }
            Status::Paused => {
                return Err(wrong_state("start", id, "it is paused")
                    .hint(format!("`wharf unpause {}` lets it go on", id.short())));
            }
            Status::Created | Status::Exited | Status::Dead | Status::Removing => {}
        }
        // Whoever held it a moment ago may still be at its end.
        if self.is_started(&directory)? {
            return streams.map(|streams| self.attach(id, streams)).transpose();
        }
        match self.launch(&directory, streams) {
            // Somebody else was quicker.
            Err(_) if self.is_started(&directory)? => {
                streams.map(|streams| self.attach(id, streams)).transpose()
            }
            launched => launched,
        }
    }

    /// Waits until nobody is at work on a container any more, or somebody watches over it; says whether that is so.
    fn is_started(&self, directory: &Directory) -> Result<bool, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            if directory.state().status.is_watched() {
                return Ok(true);
            }
            if !directory.is_held() {
                return Ok(false);
            }
            hurry(directory);
            if Instant::now() > until {
                return Err(wrong_state("start", directory.id(), "another process is at work on it"));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Asks a container to end, and kills it when it does not: after `timeout` seconds, or what it says itself; never if
    /// that is negative. Nothing happens to one that does not run.
    pub fn stop(&self, id: &ContainerId, timeout: Option<i64>, signal: Option<i32>) -> Result<(), Failure> {
        let directory = self.directory(id)?;
        self.stop_in(&directory, timeout, signal, false)
    }

    fn stop_in(
        &self,
        directory: &Directory,
        timeout: Option<i64>,
        signal: Option<i32>,
        stays: bool,
    ) -> Result<(), Failure> {
        match self.ask(directory, "stop", &Request::Stop { timeout, signal, stays }) {
            Err(_) if !directory.state().status.is_watched() => Ok(()),
            answered => answered.map(drop),
        }
    }

    /// Sends the first process of a container a signal.
    pub fn kill(&self, id: &ContainerId, signal: i32) -> Result<(), Failure> {
        self.ask(&self.directory(id)?, "send a signal to", &Request::Signal(signal)).map(drop)
    }

    /// Stops a container, as [`Self::stop`] does, and starts it. One that is removed at its end is not meanwhile.
    pub fn restart(
        &self,
        id: &ContainerId,
        timeout: Option<i64>,
        signal: Option<i32>,
    ) -> Result<(), Failure> {
        self.stop_in(&self.directory(id)?, timeout, signal, true)?;
        self.start(id, None).map(drop)
    }

    /// Stops all processes of a container in the middle.
    pub fn pause(&self, id: &ContainerId) -> Result<(), Failure> {
        self.ask(&self.directory(id)?, "pause", &Request::Pause).map(drop)
    }

    /// Lets them go on.
    pub fn unpause(&self, id: &ContainerId) -> Result<(), Failure> {
        self.ask(&self.directory(id)?, "unpause", &Request::Unpause).map(drop)
    }

    /// Waits until a container has ended, or ends next, and says how. At once for one that does not run.
    pub fn wait(&self, id: &ContainerId) -> Result<u8, Failure> {
        let directory = self.directory(id)?;
        if directory.state().status.is_watched()
            && let Some(connection) = self.connect(&directory)?
        {
            match exchange(&connection, &Request::Wait) {
                Ok(Some((Answer::Exited(status), _))) => return Ok(status),
                Ok(Some((answer, _))) => return Err(refused("wait for", id, answer)),
                // It ended while it was asked, or was killed.
                Ok(None) | Err(_) => {}
            }
        }
        let status = directory.state().exit_code;
        // Nobody knows how one has ended that is not there any more.
        self.directory(id).map(|_| status)
    }

    /// Removes a container.
    pub fn remove(&self, id: &ContainerId, how: Remove) -> Result<(), Failure> {
        let directory = self.directory(id)?;
        let state = directory.state();
        if state.status.is_watched() {
            if !how.force {
                let status = state.status.name();
                return Err(wrong_state("remove", id, &format!("it is {status}"))
                    .hint("stop it first, or use `--force`, which kills it"));
            }
            self.kill_for_good(&directory)?;
        }
        let held = match self.hold_after(&directory, "remove", how.force) {
            Ok(held) => held,
            // It was to be removed at its end.
            Err(_) if self.containers.get(id).is_none() => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let volumes = match (how.volumes, directory.config()) {
            (true, Ok(config)) => anonymous_volumes(&config),
            _ => Vec::new(),
        };
        self.containers.remove(held, &self.store)?;
        self.remove_volumes(&volumes)
    }

    fn kill_for_good(&self, directory: &Directory) -> Result<(), Failure> {
        self.stop_in(directory, Some(0), Some(signal_hook::consts::SIGKILL), false)
    }

    /// Gives a container another name.
    pub fn rename(&self, id: &ContainerId, name: &str) -> Result<(), Failure> {
        let directory = self.directory(id)?;
        self.containers.change()?.rename(&directory, name)?;
        self.tell(&directory, &Request::Renamed)
    }

    /// Runs a further process in a container; its streams, if it is to have some here.
    pub fn exec(&self, id: &ContainerId, process: ExecConfig) -> Result<Option<Stream>, Failure> {
        let directory = self.directory(id)?;
        if directory.state().status == Status::Paused {
            return Err(wrong_state("run anything in", id, "it is paused")
                .hint(format!("`wharf unpause {}` lets it go on", id.short())));
        }
        let streams = process.streams;
        let connection = self.require_monitor(&directory, "run anything in")?;
        self.begin(&connection, &directory, "run anything in", &Request::Exec(Box::new(process)))?;
        Ok(streams.map(|_| Stream::of_further(connection)))
    }

    /// Streams of a container's first process from now on.
    pub fn attach(&self, id: &ContainerId, streams: Streams) -> Result<Stream, Failure> {
        let directory = self.directory(id)?;
        let connection = self.require_monitor(&directory, "attach to")?;
        self.begin(&connection, &directory, "attach to", &Request::Attach(streams))?;
        Ok(Stream::of_first(connection, &directory, None))
    }

    /// Hands on what a container has printed, entry by entry, until `sink` has had enough or there is no more; with `follow`,
    /// until it has ended.
    pub fn logs(
        &self,
        id: &ContainerId,
        query: &LogQuery,
        sink: &mut dyn FnMut(Entry) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let directory = self.directory(id)?;
        if directory.config()?.log.none {
            return Err(Failure::new(
                Kind::Usage,
                format!("the container {} keeps no log (`--log-driver none`)", id.short()),
            ));
        }
        /// Why reading ends.
        enum Broken {
            Read(io::Error),
            Sink(Failure),
        }
        impl From<io::Error> for Broken {
            fn from(error: io::Error) -> Self {
                Self::Read(error)
            }
        }
        let mut is_alive = || directory.state().status.is_watched();
        let mut sink = |entry| sink(entry).map_err(Broken::Sink);
        log::read(&directory.log(), query, &mut is_alive, &mut sink).map_err(|broken| match broken {
            Broken::Read(error) => {
                let doing = format!("cannot read the log of the container {}", id.short());
                Failure::from_error(Kind::Environment, &doing, &error)
            }
            Broken::Sink(failure) => failure,
        })
    }

    /// What a container takes of the machine.
    pub fn stats(&self, id: &ContainerId) -> Result<Usage, Failure> {
        match self.ask(&self.directory(id)?, "measure", &Request::Stats)? {
            (Answer::Stats(usage), _) => Ok(usage),
            (answer, _) => Err(refused("measure", id, answer)),
        }
    }

    /// The processes of a container.
    pub fn top(&self, id: &ContainerId) -> Result<Vec<Process>, Failure> {
        match self.ask(&self.directory(id)?, "list the processes of", &Request::Top)? {
            (Answer::Top(processes), _) => Ok(processes),
            (answer, _) => Err(refused("list the processes of", id, answer)),
        }
    }

    /// Makes a container part of a network: at once if it runs, and when it starts next.
    pub fn connect_network(&self, id: &ContainerId, attachment: Attachment) -> Result<(), Failure> {
        create::check_attachment(&attachment)?;
        let directory = self.directory(id)?;
        let config = directory.config()?;
        let NetworkUse::Networks { attached } = &config.network else {
            return Err(wrong_state(
                "connect",
                id,
                "it is not in networks but in that of the host or of another container, or in none",
            ));
        };
        let network = attachment.network.clone();
        if attached.iter().any(|other| other.network == network) {
            return Err(wrong_state("connect", id, &format!("it is in the network `{network}` already")));
        }
        self.tell(&directory, &Request::Connect(attachment.clone()))?;
        self.containers.change()?.change_config(&directory, |config| {
            if let NetworkUse::Networks { attached } = &mut config.network
                && attached.iter().all(|other| other.network != network)
            {
                attached.push(attachment);
            }
        })
    }

    /// Takes a container out of a network.
    pub fn disconnect_network(&self, id: &ContainerId, network: &str) -> Result<(), Failure> {
        let directory = self.directory(id)?;
        let is_in = match &directory.config()?.network {
            NetworkUse::Networks { attached } => attached.iter().any(|it| it.network == network),
            _ => false,
        };
        if !is_in {
            return Err(wrong_state("disconnect", id, &format!("it is not in the network `{network}`")));
        }
        self.tell(&directory, &Request::Disconnect { network: network.to_owned() })?;
        self.containers.change()?.change_config(&directory, |config| {
            if let NetworkUse::Networks { attached } = &mut config.network {
                attached.retain(|attachment| attachment.network != network);
            }
        })
    }

    /// The root of a container that runs, with all that is mounted in it; none of one that does not.
    pub fn root(&self, id: &ContainerId) -> Result<Option<OwnedFd>, Failure> {
        let directory = self.directory(id)?;
        let Some(connection) = self.connect(&directory)? else { return Ok(None) };
        match exchange(&connection, &Request::Root) {
            Ok(Some((Answer::Done, mut descriptors))) if descriptors.len() == 1 => Ok(descriptors.pop()),
            Ok(Some((answer, _))) => Err(refused("look into", id, answer)),
            Ok(None) | Err(_) if !directory.state().status.is_watched() => Ok(None),
            Ok(None) => Err(hung_up("look into", id)),
            Err(error) => Err(unanswered("look into", id, &error)),
        }
    }

    /// The lock of a container that nobody watches over; whoever has just stopped doing so is waited for.
    pub fn hold(&self, directory: &Directory, doing: &str) -> Result<Held, Failure> {
        self.hold_after(directory, doing, false)
    }

    /// The same; if `force`, one that was started meanwhile is killed.
    fn hold_after(&self, directory: &Directory, doing: &str, force: bool) -> Result<Held, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(held) = directory.hold()? {
                return Ok(held);
            }
            match directory.state().status.is_watched() {
                true if force => self.kill_for_good(directory)?,
                true => {}
                false => hurry(directory),
            }
            if Instant::now() > until {
                let why = match directory.state().status {
                    status if status.is_watched() => format!("it is {}", status.name()),
                    _ => "another process is at work on it".to_owned(),
                };
                return Err(wrong_state(doing, directory.id(), &why));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Asks the monitor of a container something that is answered once.
    fn ask(
        &self,
        directory: &Directory,
        doing: &str,
        request: &Request,
    ) -> Result<(Answer, Vec<OwnedFd>), Failure> {
        let connection = self.require_monitor(directory, doing)?;
        match exchange(&connection, request) {
            Ok(Some((answer @ (Answer::Failed { .. } | Answer::Started), _))) => {
                Err(refused(doing, directory.id(), answer))
            }
            Ok(Some(answered)) => Ok(answered),
            Ok(None) => Err(self.left(directory, hung_up(doing, directory.id()), doing)),
            Err(error) => Err(self.left(directory, unanswered(doing, directory.id(), &error), doing)),
        }
    }

    /// What is said of a container whose monitor has left: `failure`, unless it has ended in good order.
    fn left(&self, directory: &Directory, failure: Failure, doing: &str) -> Failure {
        match self.containers.get(directory.id()) {
            Some(_) if !directory.state().status.is_watched() => {
                wrong_state(doing, directory.id(), "it is not running")
            }
            _ => failure,
        }
    }

    /// The same of one that has to know only if it is there.
    fn tell(&self, directory: &Directory, request: &Request) -> Result<(), Failure> {
        match self.connect(directory)? {
            None => Ok(()),
            Some(_) => self.ask(directory, "change", request).map(drop),
        }
    }

    /// Asks for a stream, and waits until it begins.
    fn begin(
        &self,
        connection: &Connection,
        directory: &Directory,
        doing: &str,
        request: &Request,
    ) -> Result<(), Failure> {
        match exchange(connection, request) {
            Ok(Some((Answer::Started, _))) => Ok(()),
            Ok(Some((answer, _))) => Err(refused(doing, directory.id(), answer)),
            Ok(None) => Err(self.left(directory, hung_up(doing, directory.id()), doing)),
            Err(error) => Err(self.left(directory, unanswered(doing, directory.id(), &error), doing)),
        }
    }

    fn require_monitor(&self, directory: &Directory, doing: &str) -> Result<Connection, Failure> {
        self.connect(directory)?.ok_or_else(|| wrong_state(doing, directory.id(), "it is not running"))
    }

    /// A connection to the monitor of a container; none if nobody watches over it.
    fn connect(&self, directory: &Directory) -> Result<Option<Connection>, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            let opened = File::open(directory.path()).and_then(|directory| Connection::open(&directory));
            let error = match opened {
                Ok(connection) => return Ok(Some(connection)),
                Err(error) => error,
            };
            if !directory.is_held() || !directory.state().status.is_watched() {
                return Ok(None);
            }
            // A monitor that has just begun, or that is about to end.
            if Instant::now() > until {
                return Err(unanswered("ask the monitor of", directory.id(), &error));
            }
            thread::sleep(PAUSE);
        }
    }
}

/// The volumes that were made for a container alone.
fn anonymous_volumes(config: &ContainerConfig) -> Vec<String> {
    let volumes = config.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Volume { name, anonymous: true, .. } => Some(name.clone()),
        _ => None,
    });
    volumes.collect()
}

/// Asks the monitor of a container that has ended, if there is still one, to let go.
fn hurry(directory: &Directory) {
    let asked = File::open(directory.path()).and_then(|directory| Connection::open(&directory));
    // One that does not answer has gone, or is about to.
    let _ = asked.and_then(|connection| exchange(&connection, &Request::Finish));
}

fn exchange(connection: &Connection, request: &Request) -> io::Result<Option<(Answer, Vec<OwnedFd>)>> {
    connection.request(request)?;
    connection.receive_answer()
}

/// What a monitor's refusal is to the user.
pub(super) fn refused(doing: &str, id: &ContainerId, answer: Answer) -> Failure {
    let Answer::Failed { reason, message, hints } = answer else {
        let message = format!("cannot {doing} the container {}: its monitor gave another answer", id.short());
        return Failure::new(Kind::Environment, message);
    };
    let kind = match reason {
        Reason::CommandNotFound => Kind::CommandNotFound,
        Reason::CommandNotExecutable => Kind::CommandNotExecutable,
        Reason::WrongState | Reason::NotFound | Reason::Usage => Kind::Usage,
        Reason::Environment => Kind::Environment,
    };
    let message = match reason {
        Reason::WrongState => format!("cannot {doing} the container {}: {message}", id.short()),
        // Its words say it all.
        _ => message,
    };
    Failure { hints, ..Failure::new(kind, message) }
}

fn wrong_state(doing: &str, id: &ContainerId, why: &str) -> Failure {
    Failure::new(Kind::Usage, format!("cannot {doing} the container {}: {why}", id.short()))
}

pub(super) fn hung_up(doing: &str, id: &ContainerId) -> Failure {
    let message = format!("cannot {doing} the container {}: its monitor has gone", id.short());
    Failure::new(Kind::Environment, message)
}

pub(super) fn unanswered(doing: &str, id: &ContainerId, error: &io::Error) -> Failure {
    let doing = format!("cannot {doing} the container {}: its monitor does not answer", id.short());
    Failure::from_error(Kind::Environment, &doing, error)
}

fn now() -> i64 {
    to_nanos(SystemTime::now())
}
