//! One run of the container: from the network that it is put on to what is written of its end.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxSeccomp, Process, Spec};
use wharf_cache::to_nanos;
use wharf_runtime::chroot::{
    self, ChrootContainer, ChrootInside, ChrootRequest, Confinement, Content, Placement,
};
use wharf_runtime::{
    Bind, Cancel, Container, ExecRequest, ExitStatus, Inside, Members, Qemu, Request, Running, RuntimeError,
    Sandbox, Stdio, Stream,
};
use wharf_solver::llb::Platform;

use super::clients::NOT_RUNNING;
use super::describe;
use super::files::{self, Surroundings};
use super::network::OwnNetwork;
use super::orders::Order;
use super::output::{lock, now, pipe_from, pipe_to};
use super::{Monitor, others};
use crate::build::host_platform;
use crate::containers::config::{ContainerConfig, MountConfig, MountKind, NamespaceUse, NetworkUse};
use crate::containers::connect::Connection;
use crate::containers::directory::Directory;
use crate::containers::protocol::{Answer, Streams};
use crate::containers::restart::starts_again;
use crate::containers::state::Status;
use crate::error::{Failure, Kind};
use crate::networks::protocol::Attached;
use crate::volumes::Volumes;
use crate::volumes::prepare::{Prepared, Request as Mounts};
use crate::worker::foreign::Execution;
use crate::worker::{ownership, spec};

/// How long the end of a container is not told of, because those who are attached have not taken what it has printed: Docker's.
const TELLING_PATIENCE: Duration = Duration::from_secs(2);

/// How long they have when they keep somebody waiting.
pub(super) const PARTING_PATIENCE: Duration = Duration::from_secs(10);

/// A container that runs.
#[derive(Debug)]
pub(super) struct Alive<'g> {
    pub(super) inside: Within<'g>,
    /// Its first process, which further ones are made after.
    pub(super) process: Process,
    pub(super) seccomp: Option<LinuxSeccomp>,
    pub(super) hostname: String,
    pub(super) pid: i32,
    /// Its input, if that is open.
    pub(super) stdin: Mutex<Option<File>>,
    /// This side of its terminal.
    pub(super) terminal: Option<OwnedFd>,
    /// What its control group had counted before it began.
    pub(super) cpu_before: Duration,
}

/// A container from inside.
#[derive(Clone)]
pub(super) enum Within<'g> {
    Whole(Arc<Inside<'g>>),
    Confined(Arc<ChrootInside<'g>>),
}

impl std::fmt::Debug for Within<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Within")
    }
}

impl<'g> Within<'g> {
    pub(super) fn members(&self) -> &Members<'g> {
        match self {
            Self::Whole(inside) => &inside.members,
            Self::Confined(inside) => &inside.members,
        }
    }

    pub(super) fn exec<'b>(&self, request: ExecRequest<'b>) -> Result<Running<'b>, RuntimeError> {
        match self {
            Self::Whole(inside) => inside.exec(request),
            Self::Confined(inside) => inside.exec(request),
        }
    }
}

/// What was started.
#[expect(clippy::large_enum_variant, reason = "there is one, on the stack of the thread that waits for it")]
enum Started<'a, 'g> {
    Whole(Container<'a, 'g>),
    Confined(ChrootContainer<'a, 'g>),
}

impl<'a, 'g> Started<'a, 'g> {
    fn process(&mut self) -> &mut Running<'a> {
        match self {
            Self::Whole(container) => &mut container.process,
            Self::Confined(container) => &mut container.process,
        }
    }

    fn within(&self) -> Within<'g> {
        match self {
            Self::Whole(container) => Within::Whole(Arc::clone(&container.inside)),
            Self::Confined(container) => Within::Confined(Arc::clone(&container.inside)),
        }
    }

    /// Takes away what was put into its root.
    fn finish(self) -> Result<(), RuntimeError> {
        match self {
            Self::Whole(_) => Ok(()),
            Self::Confined(container) => container.finish().map(drop),
        }
    }
}

/// This side of the standard streams.
struct Ends {
    stdin: Option<File>,
    output: Vec<(Stream, OwnedFd)>,
}

/// A run that has ended.
pub(super) struct Ran {
    pub(super) time: Duration,
    /// Whether the container is started again.
    pub(super) again: bool,
}

/// What a container is started from.
struct Outline {
    spec: Spec,
    binds: Vec<Bind>,
    hostname: String,
    warnings: Vec<String>,
    execution: Execution,
    /// Descriptors that the spec names.
    _shared: describe::Shared,
}

impl<'g> Monitor<'g> {
    /// Starts the container and waits for its end. Whoever asked for it first is told that it has begun.
    pub(super) fn run<'s, 'e>(
        &'e self,
        scope: &'s thread::Scope<'s, 'e>,
        first: &mut Option<(Arc<Connection>, Option<Streams>)>,
    ) -> Result<Ran, Failure>
    where
        'g: 'e,
    {
        let config = self.config();
        let attached = lock(&self.network).attach(self.task, &config)?;
        let ran = self.run_attached(scope, first, &config, attached);
        if ran.is_err() {
            self.leave_networks();
        }
        ran
    }

    fn leave_networks(&self) {
        lock(&self.network).detach();
        let mut state = lock(&self.state);
        state.endpoints.clear();
        state.ports.clear();
    }

    fn run_attached<'s, 'e>(
        &'e self,
        scope: &'s thread::Scope<'s, 'e>,
        first: &mut Option<(Arc<Connection>, Option<Streams>)>,
        config: &ContainerConfig,
        attached: Option<Attached>,
    ) -> Result<Ran, Failure>
    where
        'g: 'e,
    {
        let attached = attached.unwrap_or_default();
        let prepared = self.prepare(config, &attached)?;
        let oom_before = self.group().map_or(0, wharf_runtime::cgroup::Group::oom_kills);
        let cancel = Cancel::new().map_err(|error| self.failed("prepare", &error))?;
        let (stdio, mut ends) = self.streams(config, first)?;
        let Outline { spec, binds, hostname, warnings, execution, .. } = &mut { prepared };
        let started = self.start(spec, std::mem::take(binds), stdio, execution, &cancel);
        let mut started = started.map_err(|error| self.not_started(config, execution, error))?;
        let begun = Instant::now();
        let inside = started.within();
        let terminal = started.process().take_terminal();
        let stdin = match &terminal {
            Some(terminal) => terminal.try_clone().ok().map(File::from),
            None => ends.stdin.take(),
        };
        if let Some(terminal) = &terminal {
            let terminal =
                terminal.try_clone().map_err(|error| self.failed("read the terminal of", &error))?;
            ends.output.push((Stream::Stdout, terminal));
        }
        let cpu_before = inside.members().stats().map(|stats| stats.cpu).unwrap_or_default();
        let alive = Arc::new(Alive {
            cpu_before: if lock(&self.life).ends == 0 { Duration::ZERO } else { cpu_before },
            inside,
            process: spec.process().clone().unwrap_or_default(),
            seccomp: spec.linux().as_ref().and_then(|linux| linux.seccomp().clone()),
            hostname: std::mem::take(hostname),
            pid: started.process().pid(),
            stdin: Mutex::new(stdin),
            terminal,
        });
        {
            let mut state = lock(&self.state);
            state.endpoints.clone_from(&attached.endpoints);
            state.ports.clone_from(&attached.ports);
        }
        self.note_start(config, &alive, std::mem::take(warnings));
        lock(&self.life).alive = Some(Arc::clone(&alive));
        self.changed.notify_all();
        if let Some((starter, streams)) = first.take() {
            self.greet(scope, starter, streams);
        }
        let status = self.until_end(config, started.process(), &alive, ends, begun, oom_before);
        drop(alive);
        self.wait_for_execs();
        let finished = started.finish();
        let again = status?;
        finished.map_err(|error| self.failed("clear up after", &error))?;
        Ok(Ran { time: begun.elapsed(), again })
    }

    /// Tells who asked that it has begun, and lets them stay if they want to.
    fn greet<'s, 'e>(
        &'e self,
        scope: &'s thread::Scope<'s, 'e>,
        starter: Arc<Connection>,
        streams: Option<Streams>,
    ) where
        'g: 'e,
    {
        let warnings = lock(&self.state).warnings.clone();
        // Who has gone meanwhile is no reason to end it.
        let warned = warnings.is_empty() || starter.answer(&Answer::Warnings(warnings)).is_ok();
        let told = warned && starter.answer(&Answer::Started).is_ok();
        let Some(streams) = streams.filter(|_| told) else { return starter.hang_up() };
        self.hub.add(Arc::clone(&starter), streams);
        let thread = thread::Builder::new().name("client".to_owned());
        let _ = thread.spawn_scoped(scope, move || self.stream(&starter, streams));
    }

    /// Reads what it prints and does what is ordered until it has ended; writes what became of it. Says whether it is started
    /// again.
    fn until_end(
        &self,
        config: &ContainerConfig,
        process: &mut Running<'_>,
        alive: &Arc<Alive<'g>>,
        ends: Ends,
        begun: Instant,
        oom_before: u64,
    ) -> Result<bool, Failure> {
        let over = Cancel::new().map_err(|error| self.failed("watch over", &error))?;
        let drained = Cancel::new().map_err(|error| self.failed("watch over", &error))?;
        let told = Cancel::new().map_err(|error| self.failed("watch over", &error))?;
        let (drained, told) = (&drained, &told);
        let (end, its_end) = mpsc::channel();
        let again = thread::scope(|scope| {
            scope.spawn(move || {
                thread::scope(|scope| {
                    for (stream, from) in &ends.output {
                        scope.spawn(|| self.hub.pump(*stream, from, &|| _ = self.update(|_| {})));
                    }
                });
                drained.cancel();
                // Nobody sends anything only if there was a panic.
                if let Ok(code) = its_end.recv() {
                    self.hub.end(code);
                }
                told.cancel();
            });
            if let Some(check) = &config.health {
                scope.spawn(|| self.look_after(alive, check, begun, &over));
            }
            let status = self.supervise(config, process, alive);
            over.cancel();
            // Who hears of the end finds everything in the log.
            drained.wait(TELLING_PATIENCE);
            let (code, again) = self.note_end(config, status, oom_before);
            // It is received unless there was a panic.
            let _ = end.send(code);
            self.part(again, told)
        });
        // Whether the log was written to the end.
        self.update(|_| {});
        Ok(again)
    }

    /// Waits until those who are attached have taken what it has printed and know how it has ended. Whoever keeps others
    /// waiting with that is hung up on after a while. Says whether it is started again, as was to be if `again`.
    fn part(&self, mut again: bool, told: &Cancel) -> bool {
        let is_awaited = again || lock(&self.state).stopped_by_hand;
        let mut until = is_awaited.then(|| Instant::now() + PARTING_PATIENCE);
        while !told.is_cancelled() {
            self.orders.wait(&[told.as_fd()], until);
            for order in self.orders.take() {
                match order {
                    Order::Signal { reply, .. } => {
                        // Who asked may have gone.
                        let _ = reply.send(Err(NOT_RUNNING.to_owned()));
                        continue;
                    }
                    Order::Stop { .. } if again => {
                        self.note_rest();
                        again = false;
                    }
                    Order::Stop { .. } | Order::Finish => {}
                }
                until = until.or_else(|| Some(Instant::now() + PARTING_PATIENCE));
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                self.hub.hang_up();
                break;
            }
        }
        again
    }

    /// Waits for the end of the first process, and does what is ordered meanwhile.
    fn supervise(
        &self,
        config: &ContainerConfig,
        process: &mut Running<'_>,
        alive: &Alive<'_>,
    ) -> Result<ExitStatus, RuntimeError> {
        let mut kill_at: Option<Instant> = None;
        loop {
            let network = lock(&self.network).watched().and_then(|fd| fd.try_clone_to_owned().ok());
            let mut watched = vec![process.pidfd()];
            watched.extend(network.as_ref().map(|fd| fd.as_fd()));
            self.orders.wait(&watched, kill_at);
            if let Some(status) = process.try_wait()? {
                return Ok(status);
            }
            for order in self.orders.take() {
                match order {
                    Order::Signal { number, reply } => {
                        let sent = self.signal(config, process, alive, number);
                        // Who asked may have gone.
                        let _ = reply.send(sent.map_err(|error| crate::error::causes(&error)));
                    }
                    Order::Stop { timeout, signal } => {
                        self.update(|state| state.stopped_by_hand = true);
                        self.unpause(alive);
                        let number = signal.unwrap_or(config.stop_signal);
                        if process.signal(number).is_err() {
                            process.kill();
                        }
                        let patience = match timeout {
                            Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
                            None => config.stop_timeout,
                        };
                        let until = patience.and_then(|patience| Instant::now().checked_add(patience));
                        // Who asks a second time does not lengthen it.
                        kill_at = match (kill_at, until) {
                            (Some(before), Some(until)) => Some(before.min(until)),
                            (before, until) => before.or(until),
                        };
                    }
                    // It has not ended.
                    Order::Finish => {}
                }
            }
            if kill_at.is_some_and(|kill_at| Instant::now() >= kill_at) {
                // Somebody may have paused it meanwhile.
                self.unpause(alive);
                process.kill();
                kill_at = None;
            }
            if lock(&self.network).has_gone() {
                self.find_network_again(config);
            }
        }
    }

    fn signal(
        &self,
        config: &ContainerConfig,
        process: &Running<'_>,
        alive: &Alive<'_>,
        number: i32,
    ) -> Result<(), RuntimeError> {
        let ends_it = number == libc::SIGKILL || number == config.stop_signal;
        process.signal(number)?;
        if ends_it {
            self.update(|state| state.stopped_by_hand = true);
            self.unpause(alive);
        }
        Ok(())
    }

    /// Who is paused does not end.
    fn unpause(&self, alive: &Alive<'_>) {
        if alive.inside.members().is_paused() && alive.inside.members().unpause().is_ok() {
            self.update(|state| state.status = Status::Running);
        }
    }

    /// The network process was killed; another one is started, and gives the container what it had.
    fn find_network_again(&self, config: &ContainerConfig) {
        let attached = lock(&self.network).attach(self.task, config);
        self.update(|state| match attached {
            Ok(None) => {}
            Ok(Some(attached)) => {
                state.endpoints = attached.endpoints;
                state.ports = attached.ports;
                state.warnings.extend(attached.notes);
            }
            Err(failure) => {
                state.endpoints.clear();
                state.ports.clear();
                state.warnings.push(format!("the container has lost its networks: {}", failure.message));
            }
        });
        if lock(&self.network).has_gone() {
            // It is not asked over and over.
            *lock(&self.network) = OwnNetwork::default();
        }
    }

    /// Writes what became of it: its exit status, and whether it is started again.
    fn note_end(
        &self,
        config: &ContainerConfig,
        status: Result<ExitStatus, RuntimeError>,
        oom_before: u64,
    ) -> (u8, bool) {
        // From now on nobody finds it running.
        lock(&self.life).alive = None;
        self.leave_networks();
        for order in self.orders.take() {
            if matches!(order, Order::Stop { .. }) {
                lock(&self.state).stopped_by_hand = true;
            }
        }
        let (code, error) = match &status {
            Ok(ExitStatus::Exited(code)) => (*code, None),
            Ok(ExitStatus::Signaled(signal)) => (u8::try_from(128 + signal).unwrap_or(u8::MAX), None),
            Err(error) => {
                (crate::containers::directory::UNKNOWN, Some(self.failed("watch over", error).message))
            }
        };
        let oom_killed = self.group().is_some_and(|group| group.oom_kills() > oom_before);
        let again = {
            let state = lock(&self.state);
            error.is_none() && starts_again(config.restart, code, state.restarts, state.stopped_by_hand)
        };
        self.update_at_last(|state| {
            state.status = if again { Status::Restarting } else { Status::Exited };
            state.pid = None;
            state.finished = Some(to_nanos(now()));
            state.exit_code = code;
            state.oom_killed = oom_killed;
            state.error.clone_from(&error);
        });
        let mut life = lock(&self.life);
        life.ends += 1;
        life.last = code;
        self.changed.notify_all();
        (code, again)
    }

    /// Decides everything that a start needs.
    fn prepare(&self, config: &ContainerConfig, attached: &Attached) -> Result<Outline, Failure> {
        let directory = self.held.directory();
        let own_network = lock(&self.network).namespace()?;
        let (mut shared, not_shared) = others::join(self.task, config, own_network)?;
        let hostname = hostname(config);
        let surroundings =
            Surroundings { endpoints: &attached.endpoints, dns: &attached.dns, host: attached.host };
        files::write(&directory.path().join("files"), config, &hostname, &surroundings)
            .map_err(|error| self.failed("write the files of", &error))?;
        let mut warnings = self.ground.warnings.clone();
        warnings.extend(not_shared);
        warnings.extend(attached.notes.iter().cloned());
        if !config.ports.is_empty() && !matches!(config.network, NetworkUse::Networks { .. }) {
            warnings.push("ports are not published: the container is on no network of its own".to_owned());
        }
        let mounts = self.mounts(config, &mut warnings)?;
        let Prepared { mut binds, mounts, warnings: more } = mounts;
        warnings.extend(more);
        let memory = shared.memory.take();
        binds.extend(memory.map(|tree| Bind {
            target: others::MEMORY.into(),
            tree,
            read_only: false,
            no_exec: true,
        }));
        let mut all = describe::spec(config, self.root(), &hostname, &shared)?;
        spec::make_room(&mut all, &binds);
        if self.task.sandbox == Sandbox::Chroot {
            warnings.extend(self.lacks_in_chroot(config));
        } else {
            let files = self.file_directory(config)?;
            for (name, target) in files::FILES {
                let source = files.path().join("files").join(name);
                let bound = describe::bind(&source, target, &["rbind", "nosuid", "noexec", "nodev"]);
                let bound = bound.map_err(|error| self.failed("describe", &error))?;
                all.mounts_mut().get_or_insert_default().push(bound);
            }
        }
        all.mounts_mut().get_or_insert_default().extend(mounts);
        let execution = self.execution(config);
        Ok(Outline { spec: all, binds, hostname, warnings, execution, _shared: shared })
    }

    /// Whose files it has: who shares a network shares names.
    fn file_directory(&self, config: &ContainerConfig) -> Result<Directory, Failure> {
        match &config.network {
            NetworkUse::Container { id } => others::directory(self.task, id),
            _ => Ok(self.held.directory().clone()),
        }
    }

    fn mounts(&self, config: &ContainerConfig, warnings: &mut Vec<String>) -> Result<Prepared, Failure> {
        let mut mounts: Vec<MountConfig> = config.mounts.clone();
        if self.task.sandbox == Sandbox::Chroot {
            let is_own =
                |mount: &MountConfig| matches!(mount.kind, MountKind::Volume { anonymous: true, .. });
            for mount in mounts.iter().filter(|mount| is_own(mount)) {
                warnings.push(format!(
                    "what is in `{}` is no volume but part of the container: the sandbox `chroot` has no mounts",
                    mount.target.display()
                ));
            }
            mounts.retain(|mount| !is_own(mount));
        }
        let is_first = lock(&self.state).started.is_none();
        let request = Mounts { sandbox: self.task.sandbox, mounts: &mounts, root: self.root(), is_first };
        Volumes::new(self.task.store).prepare(&request)
    }

    /// What cannot be had without mounts and namespaces, in words.
    fn lacks_in_chroot(&self, config: &ContainerConfig) -> Vec<String> {
        let (rights, resources) = (&config.rights, &config.resources);
        let lacks = [
            (rights.read_only, "its root can be written (`--read-only`)"),
            (rights.privileged, "it has no more rights than others (`--privileged`)"),
            (!rights.cap_add.is_empty(), "it has only the usual capabilities (`--cap-add`)"),
            (!rights.devices.is_empty(), "it has no further devices (`--device`)"),
            (!rights.sysctls.is_empty(), "the kernel's settings are those of this place (`--sysctl`)"),
            (resources.shm_size.is_some(), "it has no /dev/shm of its own (`--shm-size`)"),
            (
                config.uts == NamespaceUse::Private && config.hostname.is_some(),
                "its host name is that of this place",
            ),
        ];
        let asked = lacks.iter().filter(|(asked, _)| *asked);
        asked.map(|(_, what)| format!("in the sandbox `chroot` {what}")).collect()
    }

    fn execution(&self, config: &ContainerConfig) -> Execution {
        let (of_image, machine) = (platform(config), host_platform());
        if of_image.architecture == machine.architecture || of_image.architecture.is_empty() {
            Execution::Native
        } else {
            self.task.foreign.execution(&of_image, &[], self.held.directory().path())
        }
    }

    /// Both sides of the standard streams.
    fn streams<'a>(
        &self,
        config: &ContainerConfig,
        first: &Option<(Arc<Connection>, Option<Streams>)>,
    ) -> Result<(Stdio<'a>, Ends), Failure> {
        if config.process.tty {
            let streams = first.as_ref().and_then(|(_, streams)| *streams);
            let (rows, columns) = streams.and_then(|streams| streams.size).unwrap_or((0, 0));
            return Ok((Stdio::Terminal { rows, columns }, Ends { stdin: None, output: Vec::new() }));
        }
        let make = || {
            let (stdin, its_stdin) = if config.process.open_stdin { Some(pipe_to()?) } else { None }.unzip();
            let (stdout, its_stdout) = pipe_from()?;
            let (stderr, its_stderr) = pipe_from()?;
            let stdio = Stdio::Given { stdin: its_stdin, stdout: Some(its_stdout), stderr: Some(its_stderr) };
            Ok((stdio, Ends { stdin, output: vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)] }))
        };
        make().map_err(|error: std::io::Error| self.failed("make the streams of", &error))
    }

    fn start<'a>(
        &self,
        spec: &'a Spec,
        binds: Vec<Bind>,
        stdio: Stdio<'a>,
        execution: &'a Execution,
        cancel: &'a Cancel,
    ) -> Result<Started<'a, 'g>, RuntimeError>
    where
        'g: 'a,
    {
        let group = self.group();
        if let (Sandbox::Chroot, Some(aside)) = (self.task.sandbox, &self.ground.aside) {
            let request = ChrootRequest {
                spec,
                root: self.root(),
                aside: aside.as_fd(),
                devices: None,
                group,
                placements: self.placements()?,
                confinement: Confinement::probe(),
                network: match self.config().network {
                    NetworkUse::None => chroot::Network::None,
                    _ => chroot::Network::Host,
                },
                stdio,
                cancel,
            };
            return chroot::start(request).map(Started::Confined);
        }
        let request = Request {
            spec,
            root: self.root(),
            binds,
            stdio,
            ownership: ownership::of(self.task.store),
            user_namespace: execution.qemu().and_then(Qemu::namespace),
            cancel,
        };
        wharf_runtime::start(request, group).map(Started::Whole)
    }

    /// The files of the container, where they cannot be mounted.
    fn placements(&self) -> Result<Vec<Placement>, RuntimeError> {
        let files = File::open(self.held.directory().path().join("files"));
        let failed =
            |source| RuntimeError::Step { step: "open the files of the container".to_owned(), source };
        let files = OwnedFd::from(files.map_err(failed)?);
        files::FILES
            .into_iter()
            .map(|(name, target)| {
                let from = files.try_clone().map_err(failed)?;
                Ok(Placement {
                    target: target.into(),
                    content: Content::Entry { from, name: name.into(), returns: true },
                })
            })
            .collect()
    }

    fn not_started(&self, config: &ContainerConfig, execution: &Execution, error: RuntimeError) -> Failure {
        if let Some(why) = execution.blame(&error) {
            let doing = format!(
                "cannot start the container {}, of an image for {}",
                config.id.short(),
                platform(config)
            );
            return Failure::from_error(Kind::Environment, &doing, &why).hint(why.help());
        }
        let mut failure = self.failed("start", &error);
        failure.kind = match error {
            RuntimeError::Exec { not_found: true, .. } => Kind::CommandNotFound,
            RuntimeError::Exec { not_found: false, .. } => Kind::CommandNotExecutable,
            RuntimeError::Unsupported { .. } => Kind::Usage,
            _ => Kind::Environment,
        };
        failure
    }

    pub(super) fn failed(&self, doing: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
        let id = self.held.directory().id().short();
        Failure::from_error(Kind::Environment, &format!("cannot {doing} the container {id}"), error)
    }
}

/// What the container is called in its own world.
fn hostname(config: &ContainerConfig) -> String {
    let own = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    match &config.hostname {
        Some(name) if !name.is_empty() => name.clone(),
        _ if config.uts == NamespaceUse::Host || config.network == NetworkUse::Host => own(),
        _ => config.id.short().to_owned(),
    }
}

/// The platform of the image.
fn platform(config: &ContainerConfig) -> Platform {
    let mut parts = config.image.platform.split('/').map(str::to_owned);
    Platform {
        os: parts.next().unwrap_or_default(),
        architecture: parts.next().unwrap_or_default(),
        ..Platform::default()
    }
}
