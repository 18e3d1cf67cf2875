//! A further process in a container that runs.
//!
//! It begins as the first one of a container does, but enters what is there: the control group, and the namespaces, whose
//! descriptors the container's own first process has sent, since nobody else may look them up where user namespaces are
//! nested. The process that watches over it stays outside of the pid namespace, where nobody in the container can see or
//! end it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use oci_spec::runtime::{LinuxNamespaceType, LinuxSeccomp, Process};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::child::{Container, Init, Rest};
use super::descendants::Descendants;
use super::launch;
use super::members::Members;
use super::prepare::{self, Descriptors, Prepared, Supervised};
use super::running::{Launch, Running};
use super::step::{NAMESPACES, ROOT, Step};
use super::streams::{self, Streams, Terminals, stream_steps};
use super::{PipeFlags, failed, pipe, supervise};
use crate::rootfs::{self, MountPoints};
use crate::seccomp::{self, Filter};
use crate::spec::plan::{self, Host, ProcessPlan};
use crate::supervisor::Supervisor;
use crate::{Cancel, Ownership, RuntimeError, Stdio, supervisor, sys};

/// A process for a container that runs.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct ExecRequest<'a> {
    /// Arguments, environment, directory (which has to exist), user, capabilities, limits. In the sandbox `chroot` the
    /// capabilities are at most the usual ones.
    pub process: &'a Process,
    /// The seccomp profile: [`crate::default_seccomp`] of the bounding set, or none for a privileged one. In the sandbox
    /// `chroot` it is not looked at.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// Standard streams.
    pub stdio: Stdio<'a>,
    /// Ends the process when triggered.
    pub cancel: &'a Cancel,
}

/// A container from inside, for as long as it runs.
#[expect(missing_debug_implementations, reason = "holds a trait object")]
pub struct Inside<'a> {
    /// Its processes.
    pub members: Members<'a>,
    /// By their places in [`NAMESPACES`].
    namespaces: [Option<OwnedFd>; NAMESPACES.len()],
    root: Option<OwnedFd>,
    terminals: Option<OwnedFd>,
    user_namespace: Option<OwnedFd>,
    ownership: Option<&'static dyn Ownership>,
    /// Those of what was executed: what it leaves when it ends still asks them. Each ends when nobody can ask it any more.
    supervisors: Mutex<Vec<Supervisor>>,
}

impl<'a> Inside<'a> {
    /// Takes what the container has sent over `socket`.
    pub(super) fn new(
        members: Members<'a>,
        socket: &OwnedFd,
        terminals: Option<OwnedFd>,
        user_namespace: Option<OwnedFd>,
        ownership: Option<&'static dyn Ownership>,
    ) -> Result<Self, RuntimeError> {
        let (mut namespaces, mut root) = ([const { None }; NAMESPACES.len()], None);
        loop {
            match supervisor::receive_descriptor(socket.as_fd(), RecvFlags::DONTWAIT) {
                Ok(Some((ROOT, fd))) => root = Some(fd),
                Ok(Some((index, fd))) => {
                    if let Some(slot) = namespaces.get_mut(usize::from(index)) {
                        *slot = Some(fd);
                    }
                }
                Ok(None) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(Errno::CONNRESET.raw_os_error()) => break,
                Err(error) => return Err(failed("open the container's namespaces")(error)),
            }
        }
        let supervisors = Mutex::default();
        Ok(Self { members, namespaces, root, terminals, user_namespace, ownership, supervisors })
    }

    /// Starts a process in the container and returns when its command is being executed. What it leaves when it ends
    /// stays, as part of the container; when its [`Cancel`] ends it, so do those in its process group. In a container that
    /// shares this process's pid namespace nothing stays.
    ///
    /// What [`Running`] says of threads holds for the one that calls this.
    pub fn exec<'b>(&self, request: ExecRequest<'b>) -> Result<Running<'b>, RuntimeError> {
        let ExecRequest { process, seccomp, stdio, cancel } = request;
        if cancel.is_cancelled() {
            return Err(RuntimeError::Cancelled);
        }
        self.members.require_running()?;
        let host = prepare::host()?;
        let mut process = plan::plan_process(process, &host)?;
        let (supervised, supervisor) = supervise(self.ownership, &mut process)?;
        let filter = seccomp.map(seccomp::compile).transpose()?;
        let command = process.command.clone();
        let available =
            self.terminals.as_ref().map_or(Terminals::None, |devpts| Terminals::Of(devpts.as_fd()));
        let (report, report_end) = pipe(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let (ends, streams) = streams::connect(stdio, available)?;
        let parts = Parts { process, host, filter, supervised, streams, report: report_end };
        let prepared = self.prepare(parts)?;
        let running = Running::start(Launch {
            prepared,
            report,
            ends,
            command,
            cancel: cancel.clone(),
            points: MountPoints::default(),
            supervisor: None,
            group: None,
            orphans: None,
        })?;
        let mut supervisors = self.supervisors.lock().unwrap_or_else(PoisonError::into_inner);
        supervisors.retain(|supervisor| !supervisor.has_ended());
        supervisors.extend(supervisor);
        self.members.note_executed(running.pid());
        Ok(running)
    }

    /// The container's namespace of this kind. Sent to the monitor of another container, which names it as
    /// `/proc/self/fd/N` in its spec, it is what the two share.
    pub fn namespace(&self, kind: LinuxNamespaceType) -> Option<BorrowedFd<'_>> {
        let index = NAMESPACES.iter().position(|(_, known)| *known == kind as u64)?;
        self.namespaces.get(index)?.as_ref().map(OwnedFd::as_fd)
    }

    /// The container's root with everything that is mounted there (`O_PATH`). Paths below it are the container's, and lead
    /// out of it unless they are opened with `RESOLVE_IN_ROOT`.
    pub fn root(&self) -> Option<BorrowedFd<'_>> {
        self.root.as_ref().map(OwnedFd::as_fd)
    }

    /// A detached mount of what the container has at `path`, a directory without links on the way, to be bound in another
    /// container.
    pub fn mount_at(&self, path: &Path) -> Result<OwnedFd, RuntimeError> {
        let step = || format!("share {} of the container", path.display());
        let (Some(root), Some(namespace)) = (&self.root, self.namespace(LinuxNamespaceType::Mount)) else {
            return Err(failed(step())(io::Error::from(io::ErrorKind::NotFound)));
        };
        let clone = || {
            // A mount is copied only by who is in its namespace, which takes a thread that shares no directory with others.
            sys::unshare(libc::CLONE_FS)?;
            sys::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS as u64)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
            let place = openat2(root, path, flags, Mode::empty(), resolve)?;
            sys::open_tree(place.as_fd(), c"", false)
        };
        let cloned = thread::scope(|scope| {
            let thread = thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, clone)?;
            thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        });
        cloned.map_err(failed(step()))
    }

    fn prepare(&self, parts: Parts) -> Result<Prepared, RuntimeError> {
        let Parts { process, host, filter, supervised, streams, report } = parts;
        let mut descriptors = Descriptors::default();
        let report = descriptors.keep(report)?;
        let caller = descriptors.keep(prepare::own_pidfd()?)?;
        let first = descriptors.keep(duplicate(self.members.pidfd())?)?;
        let group = self.members.group();
        let mut setup =
            group.map_or_else(|| Ok(Vec::new()), |group| prepare::enter_group(group, &mut descriptors))?;
        let mut rest = Rest::Stays;
        for (namespace, (path, kind)) in self.namespaces.iter().zip(NAMESPACES) {
            let Some(namespace) = namespace else { continue };
            if !is_own(namespace, path)? {
                let fd = descriptors.keep(duplicate(namespace.as_fd())?)?;
                setup.push(Step::EnterNamespace { fd, kind });
            } else if kind == LinuxNamespaceType::Pid as u64 {
                // Nobody else would end what it leaves.
                rest = Rest::Descendants(Descendants::new(false));
            }
        }

        let new_session = !matches!(streams, Streams::Inherited { terminal: true });
        let mut launch = Vec::new();
        stream_steps(streams, &process, &mut descriptors, &mut launch)?;
        let filters = launch::filters(supervised, filter, &mut descriptors)?;
        let enter =
            launch::enter_user_namespace(self.user_namespace.as_ref().map(OwnedFd::as_fd), &mut descriptors)?;
        launch::launch_steps(&process, filters, enter, host.user_namespace.as_ref(), &mut launch)?;

        let init = Init {
            report,
            caller,
            first,
            foreign: descriptors.gaps(),
            caller_arguments: prepare::own_arguments(),
            new_session,
            trees: Vec::new(),
            setup,
            rest,
        };
        let command = prepare::command(process, launch, report);
        Ok(Prepared {
            container: Container { init, command, stack: prepare::command_stack() },
            namespaces: 0,
            pid_namespace: None,
            group: group.and_then(crate::cgroup::Group::v2_entry),
            descriptors,
        })
    }
}

/// What a further process is made of.
struct Parts {
    process: ProcessPlan,
    host: Host,
    filter: Option<Arc<Filter>>,
    supervised: Option<Supervised>,
    streams: Streams,
    report: OwnedFd,
}

/// Whether this process is in a namespace already, `path` being its own one of that kind. What is not the container's own it
/// may have no right to enter.
fn is_own(namespace: &OwnedFd, path: &CStr) -> Result<bool, RuntimeError> {
    let look = || Ok::<_, Errno>((rustix::fs::fstat(namespace)?, rustix::fs::stat(path)?));
    let (one, own) = look().map_err(failed("look at the container's namespaces"))?;
    Ok(rootfs::identity(&one) == rootfs::identity(&own))
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, RuntimeError> {
    fd.try_clone_to_owned().map_err(failed("duplicate a descriptor"))
}
