//! One container process, from an OCI runtime `Spec` to its exit status.
//!
//! In: a [`Spec`], the root file system as a descriptor, where output goes. Out: an [`ExitStatus`]. This crate never
//! reads images, caches or Dockerfiles, and knows nothing of layers. All `unsafe` is in `sys`.
//!
//! The caller may be threaded, so the child makes only raw system calls on memory prepared beforehand until `exec`.
//! PID 1 of the container is a tiny init (the cloned child itself) that starts the command as its child, reaps, and
//! ends when the command ends; the pid namespace then kills what is left. The init dies with the thread that called
//! [`run`] (`PR_SET_PDEATHSIG`), so killing the builder leaves no processes; mounts are made in the child's own
//! mount namespace and vanish with it.
//!
//! What confines a container, besides the namespaces: the capabilities and the seccomp filter of its spec, masked and
//! read-only paths, and that device nodes can be opened nowhere but those of its own `/dev` (unless the last rule of
//! `linux.resources.devices` allows all). What it may take of the machine is said by a control group ([`cgroup`]) that the
//! caller makes; a spec that asks for something that is not done here is refused with [`RuntimeError::Unsupported`], never
//! run with less.
//!
//! Needs uid 0 with CAP_SYS_ADMIN, which [`sandbox::enter`] gives where it is not there from the start, and Linux 5.12.

mod cancel;
mod capability;
pub mod cgroup;
pub mod chroot;
mod emulation;
mod host;
mod network;
mod process;
mod rootfs;
pub mod sandbox;
mod seccomp;
mod spec;
mod supervisor;
mod sys;
#[cfg(test)]
mod testing;
mod user;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

pub use cancel::Cancel;
pub use emulation::{Emulation, EmulationError, Foreseen, Qemu, Runs};
pub use host::{
    Lifeline, in_background, spawn_apart, spawn_on_host, stdout_was_closed, survive_long_files,
    take_given_descriptor,
};
pub use network::{
    Bridge, Forward, Known, NameServer, Names, Network, NetworkError, NetworkNamespace, Plug, Published,
    Router, Servers, destinations, enter as enter_network, make_within, name_server, remove_interfaces,
    remove_wire, set_gateways,
};
pub use oci_spec::runtime::Spec;
pub use process::{
    Container, ExecRequest, Inside, Measured, Member, Members, Running, Stats, run, run_in, start,
};
pub use sandbox::{Sandbox, UnknownSandbox};
pub use spec::{default_seccomp, default_spec, host_device, host_devices, insecure_spec};
pub use supervisor::ownership::{Device, Ownership, Recorded};
pub use sys::packet::{Local, Packet, receive_packet, send_packet, tell_where_packets_arrive};
pub use user::{User, resolve_user};

/// Which of the process's streams some output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It called `exit` with this status.
    Exited(u8),
    /// A signal ended it.
    Signaled(i32),
}

/// Where the process's standard streams lead.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub enum Stdio<'a> {
    /// stdin is /dev/null; every chunk of output goes to the closure as it arrives.
    Captured(&'a mut dyn FnMut(Stream, &[u8])),
    /// The caller's own three streams. When stdin is a terminal, the process stays in the caller's foreground process
    /// group: the terminal's keys reach it, and SIGINT and SIGQUIT are ignored by the whole calling process until
    /// [`run`] returns. Else it has a session of its own.
    Inherit {
        /// Signals whose numbers (a byte each) can be read here are sent to the process.
        signals: Option<BorrowedFd<'a>>,
    },
    /// These; `/dev/null` where none is given. The process has a session of its own.
    Given {
        /// Standard input.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: Option<OwnedFd>,
        /// Standard error.
        stderr: Option<OwnedFd>,
    },
    /// A new terminal of the container's own (`/dev/pts/0` and `/dev/console`), which controls the process's session. The
    /// caller's side of it is [`Running::take_terminal`].
    Terminal {
        /// Its height in characters, or 0 for unknown; [`resize`] changes both.
        rows: u16,
        /// Its width.
        columns: u16,
    },
}

/// Gives the terminal whose other side this is a size; its foreground process group is told (SIGWINCH) if that is new.
pub fn resize(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> std::io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// A tree that is bound into the container.
#[derive(Debug)]
pub struct Bind {
    /// Where, as the container sees it.
    pub target: PathBuf,
    /// A detached mount, or any directory or file.
    pub tree: OwnedFd,
    /// Whether writing to it is refused.
    pub read_only: bool,
    /// Whether it is data alone: nothing in it can be executed.
    pub no_exec: bool,
}

/// One process to run.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct Request<'a> {
    /// What to run and how: process, mounts (bind sources are host paths), namespaces, capabilities, seccomp, masked
    /// and read-only paths, hostname. `spec.root.path` is ignored in favour of `root`.
    pub spec: &'a Spec,
    /// Root of a (detached) mount that becomes `/`, or any directory. It stays usable afterwards; only before Linux
    /// 6.15 a detached mount is used up.
    pub root: BorrowedFd<'a>,
    /// Further trees to bind. They are mounted after the mounts of the spec, in this order.
    pub binds: Vec<Bind>,
    /// Standard streams.
    pub stdio: Stdio<'a>,
    /// Where the kernel knows one user and group alone: remembers the others. The process's own ids are then emulated too.
    pub ownership: Option<&'static dyn Ownership>,
    /// A user namespace, in which ids are what they are here, that the command enters when everything else is made.
    pub user_namespace: Option<BorrowedFd<'a>>,
    /// Ends the process when triggered.
    pub cancel: &'a Cancel,
}

/// Why a process could not be run. That it ran and failed is an [`ExitStatus`], not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// A system call of the parent or the child failed; `step` says what it was for.
    #[error("cannot {step}")]
    Step {
        /// What was to be done.
        step: String,
        /// Why it could not be.
        source: std::io::Error,
    },
    /// This machine lacks a device that every process needs.
    #[error("cannot open {path} of this machine")]
    NoDevice {
        /// Which.
        path: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The command does not exist in the container or cannot be executed (shell convention 127 and 126).
    #[error("cannot execute `{command}`")]
    Exec {
        /// The command as the spec names it.
        command: String,
        /// Whether it does not exist.
        not_found: bool,
        /// Why it cannot be executed.
        source: std::io::Error,
    },
    /// The spec asks for something this runtime does not do.
    #[error("unsupported in the runtime spec: {what}")]
    Unsupported {
        /// What it asks for.
        what: String,
    },
    /// The user does not exist in the root file system.
    #[error("unable to find user {user}: no matching entries in passwd file")]
    UnknownUser {
        /// The user.
        user: String,
    },
    /// The group does not exist in the root file system.
    #[error("unable to find group {group}: no matching entries in group file")]
    UnknownGroup {
        /// The group.
        group: String,
    },
    /// The process should be somebody who does not exist in the user namespace.
    #[error("{kind} {id} does not exist in the user namespace of this sandbox")]
    NoSuchId {
        /// `user` or `group`.
        kind: &'static str,
        /// Which.
        id: u32,
    },
    /// The process should have a resource limit above what can be given here.
    #[error("the limit `{name}` cannot be {}: {why}", if *hard == u64::MAX { "lifted".into() } else { hard.to_string() })]
    LimitTooHigh {
        /// As `ulimit` names it.
        name: &'static str,
        /// The hard limit that it should have.
        hard: u64,
        /// How high it can be, and who decides.
        why: String,
    },
    /// Something that cannot be done with a container here or now.
    #[error("cannot {what}: {why}")]
    Impossible {
        /// What was to be done.
        what: &'static str,
        /// Why it cannot be.
        why: String,
    },
    /// [`Cancel`] was triggered.
    #[error("cancelled")]
    Cancelled,
}
