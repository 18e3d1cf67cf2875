//! The parent: prepares the container, clones it, watches it, clears up after it.

mod child;
mod chroot;
mod descendants;
mod exec;
mod launch;
mod members;
mod orphans;
mod outcome;
mod prepare;
pub(crate) mod program;
mod report;
mod running;
mod step;
mod streams;
mod terminal;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::pipe::{PipeFlags, pipe_with};

use self::child::Rest;
pub(crate) use self::chroot::Confined;
pub(crate) use self::descendants::{Family, family_of};
pub use self::exec::{ExecRequest, Inside};
pub use self::members::{Measured, Member, Members, Stats};
use self::orphans::Orphans;
use self::prepare::Parts;
pub(crate) use self::prepare::{Supervised, cgroup_version};
use self::running::Launch;
pub use self::running::Running;
use self::streams::Terminals;
use crate::cgroup::Group;
use crate::rootfs::MountPoints;
use crate::spec::plan::{Host, Plan, ProcessPlan};
use crate::supervisor::Supervisor;
use crate::supervisor::emulation::{Emulation, RULES};
use crate::{ExitStatus, Ownership, Request, RuntimeError, Stdio, seccomp, supervisor};

/// Runs the process to its end. Mount points that are missing in the root are made first and removed again
/// afterwards, unless the command changed them. Every process of the container has ended when this returns.
pub fn run(request: Request<'_>) -> Result<ExitStatus, RuntimeError> {
    run_in(request, None)
}

/// The same in a control group.
pub fn run_in<'a>(request: Request<'a>, group: Option<&'a Group>) -> Result<ExitStatus, RuntimeError> {
    launch(request, group, None)?.process.wait()
}

/// A container that runs.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct Container<'a, 'g> {
    /// Its first process, and with it all of them.
    pub process: Running<'a>,
    /// What can be done in it meanwhile, from any thread. It needs nothing of the request but the control group.
    pub inside: Arc<Inside<'g>>,
}

/// Starts the process of `request` and returns when its command is being executed; that it cannot be is an error, as for
/// [`run`]. `group` is the container's alone. What [`Running`] says of threads holds for the one that calls this.
///
/// A container that joins another one's pid namespace ends with that one, which is waited for in vain until this one has been
/// waited for: who holds both begins with this one.
pub fn start<'a, 'g: 'a>(
    request: Request<'a>,
    group: Option<&'g Group>,
) -> Result<Container<'a, 'g>, RuntimeError> {
    let user_namespace = request.user_namespace.map(|namespace| namespace.try_clone_to_owned()).transpose();
    let user_namespace = user_namespace.map_err(failed("open the user namespace"))?;
    let ownership = request.ownership;
    let (socket, view) = supervisor::channel()?;
    let Launched { process, terminals } = launch(request, group, Some(view))?;
    let members = Members::new(process.pidfd(), process.pid(), group)?;
    let inside = Inside::new(members, &socket, terminals, user_namespace, ownership)?;
    Ok(Container { process, inside: Arc::new(inside) })
}

/// A container that runs, and the devpts that its terminals are in.
struct Launched<'a> {
    process: Running<'a>,
    terminals: Option<OwnedFd>,
}

/// Starts the process of `request`. The container's namespaces and root are sent to `view`.
fn launch<'a>(
    request: Request<'a>,
    group: Option<&'a Group>,
    view: Option<OwnedFd>,
) -> Result<Launched<'a>, RuntimeError> {
    let Request { spec, root, binds, stdio, ownership, user_namespace, cancel } = request;
    if cancel.is_cancelled() {
        return Err(RuntimeError::Cancelled);
    }
    let host = prepare::host()?;
    let mut plan = Plan::new(spec, &host)?;
    let wants_terminal = spec.process().as_ref().is_some_and(|process| process.terminal() == Some(true));
    if wants_terminal && !matches!(stdio, Stdio::Terminal { .. } | Stdio::Inherit { .. }) {
        let what = "a terminal for a process whose streams are none".to_owned();
        return Err(RuntimeError::Unsupported { what });
    }
    let (supervised, supervisor) = supervise(ownership, &mut plan.process)?;
    let filter = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = filter.map(seccomp::compile).transpose()?;
    let command = plan.process.command.clone();
    let terminals = prepare::new_devpts(&plan)?;
    let available = terminals.as_ref().map_or(Terminals::None, |devpts| Terminals::Of(devpts.as_fd()));

    let mut points = MountPoints::default();
    let (report, report_end) = pipe(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let (ends, streams) = streams::connect(stdio, available)?;
    let devpts = terminals.as_ref();
    let parts = Parts {
        root,
        binds,
        group,
        user_namespace,
        filter,
        supervised,
        streams,
        report: report_end,
        view,
        devpts,
        host,
    };
    let prepared = prepare::prepare(plan, parts, &mut points)?;
    let ends_them = matches!(prepared.container.init.rest, Rest::Descendants(_));
    let orphans = ends_them.then(|| Orphans::adopt(group)).transpose()?;
    let cancel = cancel.clone();
    let launch = Launch { prepared, report, ends, command, cancel, points, supervisor, group, orphans };
    Ok(Launched { process: Running::start(launch)?, terminals })
}

/// Makes the supervisor of a process whose ids are emulated.
fn supervise(
    ownership: Option<&'static dyn Ownership>,
    process: &mut ProcessPlan,
) -> Result<(Option<Supervised>, Option<Supervisor>), RuntimeError> {
    let Some(ownership) = ownership else { return Ok((None, None)) };
    let (socket, step_socket) = supervisor::channel()?;
    let supervised = Supervised { filter: supervisor::emulation::filter()?, socket: step_socket };
    let handler = Emulation::new(ownership, process.emulate_ids());
    Ok((Some(supervised), Some(Supervisor::start(socket, RULES, handler)?)))
}

/// Starts a process without namespaces, which ends all its descendants when it ends. `group` is the process's alone.
pub(crate) fn start_confined<'a>(
    confined: Confined<'_>,
    group: Option<&'a Group>,
    stdio: Stdio<'a>,
    cancel: &crate::Cancel,
    supervisor: impl FnOnce(Option<&OwnedFd>) -> Result<Supervisor, RuntimeError>,
) -> Result<Running<'a>, RuntimeError> {
    if cancel.is_cancelled() {
        return Err(RuntimeError::Cancelled);
    }
    let (report, report_end) = pipe(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let (ends, streams) = streams::connect(stdio, Terminals::OfHost)?;
    let command = confined.process.command.clone();
    let supervisor = Some(supervisor(ends.terminal.as_ref())?);
    let orphans = Some(Orphans::adopt(group)?);
    let prepared = chroot::prepare(confined, streams, report_end)?;
    let (cancel, points) = (cancel.clone(), MountPoints::default());
    Running::start(Launch { prepared, report, ends, command, cancel, points, supervisor, group, orphans })
}

/// Whether a process with these streams is in the foreground of the caller's terminal.
pub(crate) fn is_at_terminal(stdio: &Stdio<'_>) -> bool {
    matches!(stdio, Stdio::Inherit { .. }) && terminal::is_terminal()
}

/// What this place lets a container be made of.
pub(crate) fn host() -> Result<Host, RuntimeError> {
    prepare::host()
}

fn pipe(flags: PipeFlags) -> Result<(OwnedFd, OwnedFd), RuntimeError> {
    pipe_with(flags).map_err(failed("make a pipe"))
}

fn failed<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> RuntimeError {
    move |source| RuntimeError::Step { step: step.into(), source: source.into() }
}
