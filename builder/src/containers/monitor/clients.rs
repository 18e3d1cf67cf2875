//! Whoever asks something of a monitor: one thread each.

use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wharf_cache::to_nanos;
use wharf_runtime::{Member, resize};

use super::orders::Order;
use super::others::{KINDS, MEMORY};
use super::output::{lock, now, read_small};
use super::run::{Alive, Within};
use super::{Life, Monitor, refusal};
use crate::containers::config::{ContainerConfig, NetworkUse};
use crate::containers::connect::{Connection, Frame};
use crate::containers::protocol::{Answer, FrameKind, Process, Reason, Request, Streams, Usage};
use crate::containers::state::Status;
use crate::error::{Failure, causes};
use crate::networks::protocol::Attached;

/// What is said to whoever wants something of a process that is not there.
pub(super) const NOT_RUNNING: &str = "it is not running";

/// How long somebody who kills a container waits for its end: Docker's.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl<'g> Monitor<'g> {
    /// Serves one client to the end.
    pub(super) fn serve(&self, connection: &Arc<Connection>) {
        let Ok(Some(request)) = connection.receive_request() else { return };
        // Who has hung up is not answered.
        let _ = match request {
            Request::Attach(streams) => return self.attach(connection, streams),
            Request::Exec(config) => return self.exec(connection, *config),
            Request::Root => self.give_root(connection),
            Request::Namespaces => self.give_namespaces(connection),
            request => connection.answer(&self.answer(request)),
        };
    }

    fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Signal(number) => self.send_signal(number),
            Request::Stop { timeout, signal, stays } => {
                if stays {
                    self.is_removed.store(false, Ordering::SeqCst);
                }
                self.orders.push(Order::Stop { timeout, signal });
                self.wait_for_rest();
                Answer::Done
            }
            Request::Finish => {
                self.orders.push(Order::Finish);
                Answer::Done
            }
            Request::Pause => self.pause(),
            Request::Unpause => self.go_on(),
            Request::Wait => Answer::Exited(self.wait_for_end()),
            Request::Stats => self.stats(),
            Request::Top => self.top(),
            Request::Renamed => self.renamed(),
            Request::Connect(attachment) => {
                let connected = lock(&self.network).connect(&attachment);
                self.changed_networks(connected.map(Some), |config| {
                    if let NetworkUse::Networks { attached } = &mut config.network {
                        attached.push(attachment);
                    }
                })
            }
            Request::Disconnect { network } => {
                let disconnected = lock(&self.network).disconnect(&network);
                self.changed_networks(disconnected.map(Some), |config| {
                    if let NetworkUse::Networks { attached } = &mut config.network {
                        attached.retain(|attachment| attachment.network != network);
                    }
                })
            }
            Request::Start { .. } => refused(Reason::WrongState, "it runs already".to_owned()),
            Request::Attach(_) | Request::Exec(_) | Request::Root | Request::Namespaces => {
                refused(Reason::Usage, "that is no question with one answer".to_owned())
            }
        }
    }

    /// Whoever kills it finds it ended, as with Docker; other signals it may take or leave.
    fn send_signal(&self, number: i32) -> Answer {
        if self.alive().is_none() {
            return not_running();
        }
        let before = lock(&self.life).ends;
        if let Err(message) = self.orders.signal(number) {
            return refused(Reason::WrongState, message);
        }
        if number == libc::SIGKILL {
            let lives = |life: &mut Life<'_>| life.ends == before && !life.rests;
            // That it has not ended by then is seen in its state.
            drop(self.changed.wait_timeout_while(lock(&self.life), KILL_PATIENCE, lives));
        }
        Answer::Done
    }

    fn attach(&self, connection: &Arc<Connection>, streams: Streams) {
        {
            // Whoever is there when it ends is told so.
            let life = lock(&self.life);
            let Some(alive) = &life.alive else {
                let _ = connection.answer(&not_running());
                return;
            };
            if connection.answer(&Answer::Started).is_err() {
                return;
            }
            self.resize(alive, streams.size);
            self.hub.add(Arc::clone(connection), streams);
        }
        self.stream(connection, streams);
    }

    /// Takes what comes from somebody who is attached, until they hang up.
    pub(super) fn stream(&self, connection: &Arc<Connection>, streams: Streams) {
        let ends_input = lock(&self.config).process.stdin_once;
        while let Ok(Some(Frame { kind, payload, .. })) = connection.receive() {
            let Some(alive) = self.alive() else { continue };
            match kind {
                // Somebody else may have more.
                FrameKind::Stdin if payload.is_empty() && !ends_input => {}
                FrameKind::Stdin => alive.write(&payload),
                FrameKind::Resize => self.resize(&alive, size(&payload)),
                FrameKind::Signal => {
                    if let [number] = payload[..] {
                        // One that cannot be sent is nobody's.
                        let _ = self.orders.signal(number.into());
                    }
                }
                FrameKind::Request | FrameKind::Answer | FrameKind::Stdout | FrameKind::Stderr => break,
            }
        }
        self.hub.remove(connection);
        if streams.stdin
            && ends_input
            && let Some(alive) = self.alive()
        {
            alive.write(&[]);
        }
    }

    fn resize(&self, alive: &Alive<'_>, size: Option<(u16, u16)>) {
        if let (Some(terminal), Some((rows, columns))) = (&alive.terminal, size) {
            // A terminal of another size is still a terminal.
            let _ = resize(terminal.as_fd(), rows, columns);
        }
    }

    fn pause(&self) -> Answer {
        let Some(alive) = self.alive() else { return not_running() };
        if alive.inside.members().is_paused() {
            return refused(Reason::WrongState, "it is paused already".to_owned());
        }
        match alive.inside.members().pause() {
            Ok(()) => {
                self.note_pause(&alive, Status::Running, Status::Paused);
                Answer::Done
            }
            Err(error) => refused(Reason::Environment, causes(&error)),
        }
    }

    fn go_on(&self) -> Answer {
        let Some(alive) = self.alive() else { return not_running() };
        if !alive.inside.members().is_paused() {
            return refused(Reason::WrongState, "it is not paused".to_owned());
        }
        match alive.inside.members().unpause() {
            Ok(()) => {
                self.note_pause(&alive, Status::Paused, Status::Running);
                Answer::Done
            }
            Err(error) => refused(Reason::Environment, causes(&error)),
        }
    }

    /// Writes that it stands still or goes on, unless it has ended meanwhile.
    fn note_pause(&self, alive: &Alive<'_>, before: Status, after: Status) {
        self.update(|state| {
            if state.pid == Some(alive.pid) && state.status == before {
                state.status = after;
            }
        });
    }

    /// Waits until it has ended once more; says how.
    fn wait_for_end(&self) -> u8 {
        let life = lock(&self.life);
        let before = life.ends;
        let waited = self.changed.wait_while(life, |life| life.ends == before && !life.rests);
        waited.map_or(crate::containers::directory::UNKNOWN, |life| life.last)
    }

    fn wait_for_rest(&self) {
        // Whoever panicked with the lock has not changed what is looked at.
        drop(self.changed.wait_while(lock(&self.life), |life| !life.rests));
    }

    fn stats(&self) -> Answer {
        let Some(alive) = self.alive() else { return not_running() };
        let stats = match alive.inside.members().stats() {
            Ok(stats) => stats,
            Err(error) => return refused(Reason::Environment, causes(&error)),
        };
        let has_own_network = matches!(self.config().network, NetworkUse::None | NetworkUse::Networks { .. });
        Answer::Stats(Usage {
            cpu: u64::try_from(stats.cpu.saturating_sub(alive.cpu_before).as_nanos()).unwrap_or(u64::MAX),
            memory: stats.memory,
            memory_limit: stats.memory_limit.or_else(memory_of_machine),
            pids: stats.pids,
            pids_limit: stats.pids_limit,
            block: stats.read.zip(stats.written),
            net: if has_own_network { network_bytes(alive.pid) } else { None },
        })
    }

    fn top(&self) -> Answer {
        let Some(alive) = self.alive() else { return not_running() };
        match alive.inside.members().list() {
            Ok(members) => {
                let booted = booted();
                Answer::Top(members.into_iter().map(|member| process(member, booted)).collect())
            }
            Err(error) => refused(Reason::Environment, causes(&error)),
        }
    }

    fn renamed(&self) -> Answer {
        let config = match self.held.directory().config() {
            Ok(config) => config,
            Err(failure) => return refusal(&failure),
        };
        let name = config.name.clone();
        let renamed = lock(&self.network).rename(&name);
        self.changed_networks(renamed, |config| config.name = name)
    }

    /// Keeps what has become of its networks.
    fn changed_networks(
        &self,
        attached: Result<Option<Attached>, Failure>,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Answer {
        match attached {
            Ok(attached) => {
                change(&mut lock(&self.config));
                if let Some(attached) = attached {
                    self.update(|state| {
                        state.endpoints = attached.endpoints;
                        state.ports = attached.ports;
                        state.warnings.extend(attached.notes);
                    });
                }
                Answer::Done
            }
            Err(failure) => refusal(&failure),
        }
    }

    fn give_root(&self, connection: &Connection) -> std::io::Result<()> {
        let alive = self.alive();
        let root = match alive.as_ref().map(|alive| &alive.inside) {
            Some(Within::Whole(inside)) => inside.root(),
            Some(Within::Confined(_)) | None => None,
        };
        connection.answer_with(&Answer::Done, &[root.unwrap_or_else(|| self.root())])
    }

    fn give_namespaces(&self, connection: &Connection) -> std::io::Result<()> {
        let Some(alive) = self.alive() else { return connection.answer(&not_running()) };
        let Within::Whole(inside) = &alive.inside else {
            let message = "the sandbox `chroot` has no namespaces".to_owned();
            return connection.answer(&refused(Reason::Environment, message));
        };
        let found = KINDS.iter().filter_map(|(name, kind)| Some((*name, inside.namespace(*kind)?)));
        let (mut names, mut descriptors): (Vec<&str>, Vec<BorrowedFd<'_>>) = found.unzip();
        // Whoever misses it says so.
        let memory = inside.mount_at(Path::new(MEMORY)).ok();
        if let Some(memory) = &memory {
            names.push(MEMORY);
            descriptors.push(memory.as_fd());
        }
        let names = names.into_iter().map(str::to_owned).collect();
        connection.answer_with(&Answer::Namespaces(names), &descriptors)
    }
}

impl Alive<'_> {
    /// Writes to its input; nothing at all ends it.
    fn write(&self, bytes: &[u8]) {
        let mut stdin = lock(&self.stdin);
        if bytes.is_empty() {
            // A terminal has no end.
            if self.terminal.is_none() {
                *stdin = None;
            }
        } else if let Some(open) = stdin.as_mut()
            && open.write_all(bytes).is_err()
        {
            // Nobody reads it any more.
            *stdin = None;
        }
    }
}

/// Rows and columns, as a frame has them.
pub(super) fn size(payload: &[u8]) -> Option<(u16, u16)> {
    let [one, two, three, four] = *payload else { return None };
    Some((u16::from_be_bytes([one, two]), u16::from_be_bytes([three, four])))
}

pub(super) fn not_running() -> Answer {
    refused(Reason::WrongState, NOT_RUNNING.to_owned())
}

pub(super) fn refused(reason: Reason, message: String) -> Answer {
    Answer::Failed { reason, message, hints: Vec::new() }
}

fn process(member: Member, booted: i64) -> Process {
    let nanos = |time: std::time::Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    let command = match member.arguments.is_empty() {
        true => format!("[{}]", member.name),
        false => member.arguments.join(" "),
    };
    Process {
        pid: member.pid,
        inside: member.inside,
        parent: member.parent,
        uid: member.uid,
        state: member.state,
        cpu: u64::try_from(member.cpu.as_nanos()).unwrap_or(u64::MAX),
        started: booted.saturating_add(nanos(member.started)),
        memory: member.memory,
        terminal: member.terminal,
        command,
    }
}

/// When the machine was started: nanoseconds since 1970.
fn booted() -> i64 {
    let since = read_small("/proc/stat").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
        line.trim().parse::<i64>().ok()
    });
    since.map_or_else(|| to_nanos(now()), |seconds| seconds.saturating_mul(1_000_000_000))
}

fn memory_of_machine() -> Option<u64> {
    let text = read_small("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024))
}

/// Bytes that a process's network has received and sent, without loopback.
fn network_bytes(pid: i32) -> Option<(u64, u64)> {
    let text = read_small(&format!("/proc/{pid}/net/dev"))?;
    let interfaces = text.lines().filter_map(|line| line.split_once(':'));
    let counts = interfaces.filter(|(name, _)| name.trim() != "lo").filter_map(|(_, counts)| {
        let counts: Vec<u64> = counts.split_whitespace().filter_map(|count| count.parse().ok()).collect();
        Some((*counts.first()?, *counts.get(8)?))
    });
    Some(counts.fold((0, 0), |sum: (u64, u64), (received, sent)| {
        (sum.0.saturating_add(received), sum.1.saturating_add(sent))
    }))
}
