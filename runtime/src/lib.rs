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

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

pub use oci_spec::runtime::Spec;

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
    /// The caller's own three streams. Job-control and termination signals reach the process.
    Inherit,
}

/// One process to run.
#[expect(missing_debug_implementations, reason = "holds a closure")]
pub struct Request<'a> {
    /// What to run and how: process, mounts (bind sources are host paths), namespaces, capabilities, seccomp, masked
    /// and read-only paths, hostname. `spec.root.path` is ignored in favour of `root`.
    pub spec: &'a Spec,
    /// Root of a (detached) mount that becomes `/`.
    pub root: BorrowedFd<'a>,
    /// Further trees to bind, as descriptors of detached mounts or directories: target path and fd.
    pub binds: Vec<(PathBuf, OwnedFd)>,
    /// Standard streams.
    pub stdio: Stdio<'a>,
    /// Ends the process when triggered.
    pub cancel: &'a Cancel,
}

/// A request to stop, usable from any thread; an eventfd underneath, so that it can be polled.
#[derive(Debug, Clone)]
pub struct Cancel {}

impl Cancel {
    /// Not triggered yet.
    pub fn new() -> Result<Self, RuntimeError> {
        todo!()
    }

    /// Triggers it; for ever, and for every clone.
    pub fn cancel(&self) {
        todo!()
    }

    /// Whether it was triggered.
    pub fn is_cancelled(&self) -> bool {
        todo!()
    }

    /// Becomes readable when triggered.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        todo!()
    }
}

/// Runs the process to its end. Mount points that are missing in the root are made first and removed again
/// afterwards, unless the command changed them. Every process of the container has ended when this returns.
pub fn run(request: Request<'_>) -> Result<ExitStatus, RuntimeError> {
    let _ = request;
    todo!()
}

/// The default [`Spec`] of a build step or container: BuildKit's mounts, capabilities, masked and read-only paths and
/// seccomp profile. Args, env, cwd, user, hostname and binds are the caller's to set.
pub fn default_spec() -> Spec {
    todo!()
}

/// A user as a Dockerfile's `USER` names it, resolved in a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub additional_gids: Vec<u32>,
    /// Home directory from `passwd` (`/` when there is none, `/root` for uid 0 without an entry).
    pub home: String,
}

/// Resolves `name[:group]` or `uid[:gid]` against `/etc/passwd` and `/etc/group` below `root` (read through the
/// descriptor, symlinks confined to it).
pub fn resolve_user(root: BorrowedFd<'_>, user: &str) -> Result<User, RuntimeError> {
    let _ = (root, user);
    todo!()
}

/// Why a process could not be run. That it ran and failed is an [`ExitStatus`], not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// A system call of the parent or the child failed; `step` says what it was for.
    #[error("cannot {step}")]
    Step { step: String, source: std::io::Error },
    /// The command does not exist in the container or cannot be executed (shell convention 127 and 126).
    #[error("cannot execute `{command}`")]
    Exec { command: String, not_found: bool, source: std::io::Error },
    /// The spec asks for something this runtime does not do.
    #[error("unsupported in the runtime spec: {what}")]
    Unsupported { what: String },
    /// The user does not exist in the root file system.
    #[error("unable to find user {user}: no matching entries in passwd file")]
    UnknownUser { user: String },
    /// The group does not exist in the root file system.
    #[error("unable to find group {group}: no matching entries in group file")]
    UnknownGroup { group: String },
    /// [`Cancel`] was triggered.
    #[error("cancelled")]
    Cancelled,
}
