//! Further processes in the container, each watched by the thread of whoever asked for it.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;

use oci_spec::runtime::Process;
use wharf_runtime::{Cancel, ExecRequest, ExitStatus, Running, RuntimeError, Stdio, resize};

use super::clients::{not_running, refused, size};
use super::orders::{Order, Orders};
use super::output::{lock, pipe_from, pipe_to, pump};
use super::run::Alive;
use super::{Monitor, describe, refusal};
use crate::containers::connect::{Connection, Frame};
use crate::containers::protocol::{Answer, ExecConfig, FrameKind, Reason, Streams};
use crate::error::{Failure, Kind, causes};

/// A process and this side of its streams.
struct Executed<'a> {
    process: Running<'a>,
    stdin: Option<File>,
    terminal: Option<OwnedFd>,
    output: Vec<(FrameKind, OwnedFd)>,
}

/// That a process is being executed: the container's end waits for it.
struct Executing<'m, 'g>(&'m Monitor<'g>);

impl Drop for Executing<'_, '_> {
    fn drop(&mut self) {
        lock(&self.0.life).executing -= 1;
        self.0.changed.notify_all();
    }
}

impl<'g> Monitor<'g> {
    /// Runs a process in the container for whoever asked, who may leave.
    pub(super) fn exec(&self, connection: &Arc<Connection>, config: ExecConfig) {
        // Who has hung up is not told; what was started for them goes on.
        let Some((alive, executing)) = self.begin_executing() else {
            let _ = connection.answer(&not_running());
            return;
        };
        let orders = match Orders::new() {
            Ok(orders) => orders,
            Err(error) => {
                let _ = connection.answer(&refused(Reason::Environment, error.to_string()));
                return;
            }
        };
        let cancels = Cancel::new().and_then(|cancel| Ok((cancel, Cancel::new()?)));
        let (cancel, ended) = match cancels {
            Ok(cancels) => cancels,
            Err(error) => {
                let _ = connection.answer(&refused(Reason::Environment, causes(&error)));
                return;
            }
        };
        let process = match self.further(&alive, &config) {
            Ok(process) => process,
            Err(failure) => {
                let _ = connection.answer(&refusal(&failure));
                return;
            }
        };
        let mut executed = match self.execute(&alive, &config, &process, &cancel) {
            Ok(executed) => executed,
            Err(failure) => {
                let _ = connection.answer(&refusal(&failure));
                return;
            }
        };
        let _ = connection.answer(&Answer::Started);
        if config.streams.is_none() {
            connection.hang_up();
        }
        let streams = config.streams.unwrap_or_default();
        let output = std::mem::take(&mut executed.output);
        let stdin = Mutex::new(executed.stdin.take());
        let terminal = executed.terminal.take();
        let status = thread::scope(|scope| {
            let pumps: Vec<_> = output
                .iter()
                .map(|(kind, from)| scope.spawn(|| hand_on(connection, *kind, from, streams, &ended)))
                .collect();
            scope.spawn(|| take_in(connection, &stdin, terminal.as_ref(), &orders));
            let status = watch(&mut executed.process, &orders);
            ended.cancel();
            // The container may end now; what was printed is still handed on.
            drop(executing);
            for pump in pumps {
                // It panics no more than it returns something.
                let _ = pump.join();
            }
            let _ = connection.answer(&Answer::Exited(exit_code(&status)));
            connection.hang_up();
            status
        });
        drop(status);
    }

    /// The container, which does not end completely before this has ended.
    fn begin_executing(&self) -> Option<(Arc<Alive<'g>>, Executing<'_, 'g>)> {
        let mut life = lock(&self.life);
        let alive = life.alive.clone()?;
        life.executing += 1;
        Some((alive, Executing(self)))
    }

    /// Waits until nobody watches over a further process any more. All of them have been ended.
    pub(super) fn wait_for_execs(&self) {
        drop(self.changed.wait_while(lock(&self.life), |life| life.executing > 0));
    }

    fn further(&self, alive: &Alive<'g>, config: &ExecConfig) -> Result<Process, Failure> {
        let own = self.config();
        let name = config.user.as_deref().unwrap_or(&own.process.user);
        let groups = if config.user.is_some() { &[][..] } else { &own.process.group_add[..] };
        let user = describe::user(self.root(), name, groups)?;
        let mut said = own.process.env.clone();
        said.extend_from_slice(&config.env);
        let env = describe::environment(&own.process, &said, &alive.hostname, &user, config.tty);
        let dir = config.working_dir.as_deref();
        let process = describe::further(&alive.process, &user, env, config.args.clone(), dir, config.tty);
        let mut process = process.map_err(|error| self.failed("describe a process of", &error))?;
        if config.privileged {
            describe::privilege(&mut process);
        }
        Ok(process)
    }

    fn execute<'a>(
        &self,
        alive: &'a Alive<'g>,
        config: &ExecConfig,
        process: &'a Process,
        cancel: &'a Cancel,
    ) -> Result<Executed<'a>, Failure> {
        let seccomp = alive.seccomp.as_ref().filter(|_| !config.privileged);
        let streams = config.streams.unwrap_or_default();
        let (stdio, stdin, output) = self.exec_streams(config.tty, streams)?;
        let request = ExecRequest { process, seccomp, stdio, cancel };
        let mut running = alive.inside.exec(request).map_err(|error| self.not_executed(error))?;
        let mut executed = Executed { terminal: running.take_terminal(), process: running, stdin, output };
        if let Some(terminal) = &executed.terminal {
            let cloned = || Ok::<_, std::io::Error>((terminal.try_clone()?, terminal.try_clone()?));
            let (to, from) = cloned().map_err(|error| self.failed("open a terminal of", &error))?;
            executed.stdin = Some(File::from(to));
            executed.output.push((FrameKind::Stdout, from));
        }
        Ok(executed)
    }

    #[expect(clippy::type_complexity, reason = "both sides of three streams")]
    fn exec_streams<'a>(
        &self,
        tty: bool,
        streams: Streams,
    ) -> Result<(Stdio<'a>, Option<File>, Vec<(FrameKind, OwnedFd)>), Failure> {
        if tty {
            let (rows, columns) = streams.size.unwrap_or((0, 0));
            return Ok((Stdio::Terminal { rows, columns }, None, Vec::new()));
        }
        let make = || {
            let (stdin, its_stdin) = if streams.stdin { Some(pipe_to()?) } else { None }.unzip();
            let mut output = Vec::new();
            let mut end = |wanted: bool, kind| -> std::io::Result<Option<OwnedFd>> {
                if !wanted {
                    return Ok(None);
                }
                let (ours, its) = pipe_from()?;
                output.push((kind, ours));
                Ok(Some(its))
            };
            let stdout = end(streams.stdout, FrameKind::Stdout)?;
            let stderr = end(streams.stderr, FrameKind::Stderr)?;
            Ok((Stdio::Given { stdin: its_stdin, stdout, stderr }, stdin, output))
        };
        make().map_err(|error: std::io::Error| self.failed("make the streams of a process of", &error))
    }

    fn not_executed(&self, error: RuntimeError) -> Failure {
        let mut failure = self.failed("run a process in", &error);
        failure.kind = match error {
            RuntimeError::Exec { not_found: true, .. } => Kind::CommandNotFound,
            RuntimeError::Exec { not_found: false, .. } => Kind::CommandNotExecutable,
            RuntimeError::Impossible { .. } | RuntimeError::Unsupported { .. } => Kind::Usage,
            // As with Docker: the directory is part of what cannot be executed.
            RuntimeError::Step { ref step, .. } if step.contains("working directory") => {
                Kind::CommandNotExecutable
            }
            _ => Kind::Environment,
        };
        failure
    }
}

/// Hands output on until there is no more. When nobody wants it any more it is read all the same.
fn hand_on(connection: &Connection, kind: FrameKind, from: &OwnedFd, streams: Streams, ended: &Cancel) {
    let wanted = if kind == FrameKind::Stdout { streams.stdout } else { streams.stderr };
    let mut is_wanted = wanted;
    pump(from, Some(ended), &mut |chunk| is_wanted = is_wanted && connection.send(kind, chunk).is_ok());
}

/// Takes what comes from the client until it hangs up.
fn take_in(
    connection: &Connection,
    stdin: &Mutex<Option<File>>,
    terminal: Option<&OwnedFd>,
    orders: &Orders,
) {
    while let Ok(Some(Frame { kind, payload, .. })) = connection.receive() {
        match kind {
            FrameKind::Stdin => {
                let mut stdin = lock(stdin);
                if payload.is_empty() && terminal.is_none() {
                    *stdin = None;
                } else if let Some(open) = stdin.as_mut()
                    && open.write_all(&payload).is_err()
                {
                    // Nobody reads it any more.
                    *stdin = None;
                }
            }
            FrameKind::Resize => {
                if let (Some(terminal), Some((rows, columns))) = (terminal, size(&payload)) {
                    // A terminal of another size is still a terminal.
                    let _ = resize(terminal.as_fd(), rows, columns);
                }
            }
            FrameKind::Signal => {
                if let [number] = payload[..] {
                    // One that cannot be sent is nobody's.
                    let _ = orders.signal(number.into());
                }
            }
            FrameKind::Request | FrameKind::Answer | FrameKind::Stdout | FrameKind::Stderr => break,
        }
    }
    // Input that nobody will give any more has ended.
    if terminal.is_none() {
        *lock(stdin) = None;
    }
}

/// Waits for the end, and sends signals meanwhile.
fn watch(process: &mut Running<'_>, orders: &Orders) -> Result<ExitStatus, RuntimeError> {
    loop {
        orders.wait(&[process.pidfd()], None);
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        for order in orders.take() {
            match order {
                Order::Signal { number, reply } => {
                    let sent = process.signal(number).map_err(|error| causes(&error));
                    // Who asked may have gone.
                    let _ = reply.send(sent);
                }
                Order::Stop { .. } => process.kill(),
                Order::Finish => {}
            }
        }
    }
}

pub(super) fn exit_code(status: &Result<ExitStatus, RuntimeError>) -> u8 {
    match status {
        Ok(ExitStatus::Exited(code)) => *code,
        Ok(ExitStatus::Signaled(signal)) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        Err(_) => crate::containers::directory::UNKNOWN,
    }
}
