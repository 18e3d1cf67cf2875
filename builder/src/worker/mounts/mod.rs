//! What a RUN has mounted besides its root: everything becomes a detached mount, which the runtime binds.
//!
//! | type | what is bound |
//! |---|---|
//! | `bind` of a stage or image, read-only | a view of its snapshots |
//! | `bind` of a stage or image, writable | an overlay on its snapshots, thrown away after the step |
//! | `bind` of a directory of the host | that directory, read-only, where it is what the step should see; else a copy |
//! | `cache` | a directory of the store that stays, locked as its sharing says |
//! | `tmpfs` | a fresh memory file system |
//! | `secret` | a file in a memory file system of its own |
//! | `ssh` | a socket in a memory file system of its own; this process answers at it |
//!
//! Where nothing can be mounted, [`placed`] has the like of each.
//!
//! No step can write to a directory of the host or to a snapshot, whatever it does to its mounts.

mod cache;
mod files;
mod memory;
pub(crate) mod placed;
mod target;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wharf_cache::mounts::{CacheMount, MountName};
use wharf_cache::snapshot::{Active, SnapshotError};
use wharf_cache::{ContentDigest, StoreError};
use wharf_runtime::Bind;
use wharf_solver::llb::{ExecOp, Mount, MountKind};
use wharf_solver::op::ResultRef;

use super::file::FileError;
use super::{Worker, WorkerError};
use crate::context::digest::DigestError;
use crate::context::files::Files;
use crate::context::select::SelectError;
use crate::secrets::SecretError;
use crate::ssh::Serving;

/// The mounts of a step, and what has to stay while it runs.
#[derive(Debug, Default)]
pub(super) struct Mounted {
    /// In the order in which they are mounted.
    pub(super) binds: Vec<Bind>,
    /// Secrets given as variables: name and value.
    pub(super) variables: Vec<(String, String)>,
    caches: BTreeMap<MountName, Arc<CacheMount>>,
    scratch: Vec<Active>,
    agents: Vec<Serving>,
}

/// A part of a RUN that something is wrong with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The mount of this number in the operation.
    Mount(usize),
    /// The secret of this number that is a variable.
    SecretEnv(usize),
}

/// Why a mount could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum MountError {
    #[error("secret {id}: not found")]
    NoSecret { id: String },
    #[error("{0}")]
    Secret(#[from] SecretError),
    #[error("secret {id}: it cannot be the variable {name}, because it {why}")]
    NotText { id: String, name: String, why: &'static str },
    #[error("ssh {id}: not found")]
    NoAgent { id: String },
    #[error("\"{path}\": not found in {place}")]
    NotFound { path: String, place: &'static str },
    #[error("the cache {id:?} holds no {path:?}")]
    NotInCache { id: String, path: String },
    #[error("{0}")]
    Select(#[from] SelectError),
    #[error("failed to calculate checksum of the files to mount")]
    Digest(#[from] DigestError),
    #[error("cannot copy the files to mount")]
    Copy(#[source] FileError),
    #[error("cannot {operation}")]
    Io { operation: &'static str, source: io::Error },
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("cannot mount at {}: {why}", target.display())]
    Target { target: PathBuf, why: &'static str },
    #[error("cancelled")]
    Cancelled,
    #[error("{0}")]
    Worker(#[source] Box<WorkerError>),
}

impl MountError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoSecret { id } => {
                Some(format!("give it with `--secret id={id},src=FILE` or `--secret id={id},env=VARIABLE`"))
            }
            Self::NoAgent { id } if id == crate::ssh::DEFAULT_ID => {
                Some("forward your agent with `--ssh default`, or give a key with `--ssh default=FILE`".to_owned())
            }
            Self::NoAgent { id } => Some(format!("give it with `--ssh {id}=SOCKET` or `--ssh {id}=KEY`")),
            Self::NotInCache { .. } => {
                Some("`source=` names a directory that is in the cache already, from a step before or from `from=`".to_owned())
            }
            Self::Select(SelectError::NotFound { ignored: true, .. }) => {
                Some("the ignore file takes it out of the context".to_owned())
            }
            _ => None,
        }
    }

    /// Whether the machine or the store is to blame, and not the Dockerfile or the command line.
    pub fn is_environment(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Snapshot(_) | Self::Store(_))
    }

    fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}

/// What is wrong with `part`.
fn at(part: Part) -> impl FnOnce(MountError) -> WorkerError {
    move |error| WorkerError::Mount { part, error: Box::new(error) }
}

impl From<WorkerError> for MountError {
    fn from(error: WorkerError) -> Self {
        Self::Worker(Box::new(error))
    }
}

/// The mounts of an operation besides its root, in the order in which they are made, with their numbers there. What lies
/// below another mount comes after it. Of two at one place the later one is seen.
fn in_order(op: &ExecOp) -> Vec<(usize, &Mount)> {
    let mut order: Vec<(usize, &Mount)> =
        op.mounts.iter().enumerate().filter(|(_, mount)| mount.target != "/").collect();
    order.sort_by(|(_, a), (_, b)| Path::new(&a.target).cmp(Path::new(&b.target)));
    order
}

impl Worker<'_> {
    /// Gets the mounts of an operation ready, which will be mounted in `root`. `fresh`: nothing that earlier builds left
    /// in caches is to be seen.
    pub(super) fn mounts(
        &self,
        op: &ExecOp,
        inputs: &[ResultRef],
        root: BorrowedFd<'_>,
        fresh: bool,
    ) -> Result<Mounted, WorkerError> {
        let order = in_order(op);
        let mut mounted = Mounted { caches: self.take_caches(&order, inputs, fresh)?, ..Mounted::default() };
        for (number, mount) in order {
            self.mount(mount, op, inputs, root, &mut mounted).map_err(at(Part::Mount(number)))?;
        }
        mounted.variables = self.secret_variables(op)?;
        Ok(mounted)
    }

    /// Takes the caches that a step names.
    fn take_caches(
        &self,
        order: &[(usize, &Mount)],
        inputs: &[ResultRef],
        fresh: bool,
    ) -> Result<BTreeMap<MountName, Arc<CacheMount>>, WorkerError> {
        let mut caches = BTreeMap::new();
        // Locks are taken in one order by all steps, so that none waits for another in a circle.
        for (name, (number, sharing)) in self.caches(order, inputs)? {
            let (part, mount) = order[number];
            let cache = self.take_cache(&name, sharing, mount, inputs, fresh);
            caches.insert(name, Arc::new(cache.map_err(at(Part::Mount(part)))?));
        }
        Ok(caches)
    }

    fn secret_variables(&self, op: &ExecOp) -> Result<Vec<(String, String)>, WorkerError> {
        let mut variables = Vec::new();
        for (number, secret) in op.secret_env.iter().enumerate() {
            variables.extend(self.secret_variable(secret).map_err(at(Part::SecretEnv(number)))?);
        }
        Ok(variables)
    }

    fn mount(
        &self,
        mount: &Mount,
        op: &ExecOp,
        inputs: &[ResultRef],
        root: BorrowedFd<'_>,
        mounted: &mut Mounted,
    ) -> Result<(), MountError> {
        let input = mount.input.map(|input| &inputs[input]);
        let mut no_exec = false;
        let tree = match &mount.kind {
            MountKind::Bind => match input {
                Some(ResultRef::Local(vertex)) => {
                    self.bind_local(self.local(vertex)?, mount, op.security, &mut mounted.scratch)?
                }
                _ => {
                    let chain = super::chain_of_mount(input)?;
                    self.bind_snapshots(&chain, mount, op.security, &mut mounted.scratch)?
                }
            },
            MountKind::Cache { .. } => {
                let name = self.cache_name(mount, input)?;
                let cache = mounted.caches.get(&name).ok_or(MountError::Cancelled)?;
                cache::part(cache, &name, mount)?
            }
            MountKind::Tmpfs { size_bytes } => memory::tmpfs(*size_bytes)?,
            MountKind::Secret { id, uid, gid, mode, optional } => {
                no_exec = true;
                match self.secrets.get(id)? {
                    Some(value) => memory::file(&value, self.store.setup().ids, (*uid, *gid), *mode)?,
                    None if *optional => return Ok(()),
                    None => return Err(MountError::NoSecret { id: id.clone() }),
                }
            }
            MountKind::Ssh { id, uid, gid, mode, optional } => {
                no_exec = true;
                match self.ssh.get(id) {
                    Some(agent) => {
                        let (tree, serving) =
                            memory::socket(agent, self.store.setup().ids, (*uid, *gid), *mode)?;
                        mounted.agents.push(serving);
                        tree
                    }
                    None if *optional => return Ok(()),
                    None => return Err(MountError::NoAgent { id: id.clone() }),
                }
            }
        };
        let target = PathBuf::from(&mount.target);
        let before: Vec<&Path> = mounted.binds.iter().map(|bind| bind.target.as_path()).collect();
        target::check(root, &target, target::is_a_directory(tree.as_fd())?, &before)?;
        mounted.binds.push(Bind { target, tree, read_only: mount.readonly, no_exec });
        Ok(())
    }

    /// A secret as a variable; none where it may be missing and is.
    fn secret_variable(
        &self,
        secret: &wharf_solver::llb::SecretEnv,
    ) -> Result<Option<(String, String)>, MountError> {
        let Some(value) = self.secrets.get(&secret.id)? else {
            return if secret.optional {
                Ok(None)
            } else {
                Err(MountError::NoSecret { id: secret.id.clone() })
            };
        };
        let not_text = |why| MountError::NotText { id: secret.id.clone(), name: secret.name.clone(), why };
        if value.contains(&0) {
            return Err(not_text("holds a NUL byte"));
        }
        let value = String::from_utf8(value).map_err(|_| not_text("is not UTF-8"))?;
        Ok(Some((secret.name.clone(), value)))
    }

    /// Content digest of all that a mount reads from its input.
    fn seed_digest(&self, input: Option<&ResultRef>) -> Result<Option<ContentDigest>, MountError> {
        match input {
            None => Ok(None),
            Some(result) => Ok(Some(
                self.digest(result, &wharf_solver::cache_map::Reads::Whole, &mut Files::default())?.content,
            )),
        }
    }
}
