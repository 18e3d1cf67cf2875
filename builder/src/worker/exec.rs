//! Executes an `ExecOp`: RUN.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::SystemTime;

use wharf_cache::Chain;
use wharf_runtime::{ExitStatus, Request, Spec, Stdio, Stream};
use wharf_solver::llb::{ExecOp, Mount, MountKind, NetworkMode, SecurityMode, VertexDigest};
use wharf_solver::op::ResultRef;
use wharf_solver::progress::{Event, LogStream};

use super::sandbox_files::{self, HOSTNAME};
use super::{Input, Worker, WorkerError, chain_of, spec};
use crate::context::resolve;

impl Worker<'_> {
    /// Runs the process on its root and commits what it changed there: one chain for each output.
    pub(super) fn exec(
        &self,
        digest: &VertexDigest,
        op: &ExecOp,
        inputs: &[ResultRef],
    ) -> Result<Vec<Chain>, WorkerError> {
        let root_mount = op.mounts.iter().find(|mount| mount.target == "/");
        let base = match root_mount.and_then(|mount| mount.input) {
            Some(input) => chain_of(&inputs[input])?,
            None => Chain::default(),
        };
        let mut active = self.store.prepare(&base)?;
        let root = active.root()?;
        let command = op.meta.args.join(" ");
        let run_error = |source| WorkerError::Run { command: command.clone(), source };

        let user = wharf_runtime::resolve_user(root, &op.meta.user).map_err(run_error)?;
        let mut spec = wharf_runtime::default_spec();
        self.describe(op, &user, &mut spec)?;
        let mut binds = Vec::new();
        for mount in op.mounts.iter().filter(|mount| mount.target != "/") {
            binds.extend(self.bind(mount, inputs)?);
        }
        let mut log = |stream, data: &[u8]| {
            let stream = match stream {
                Stream::Stdout => LogStream::Stdout,
                Stream::Stderr => LogStream::Stderr,
            };
            self.progress.send(Event::Log { vertex: *digest, stream, data: data.to_vec() });
        };
        let request =
            Request { spec: &spec, root, binds, stdio: Stdio::Captured(&mut log), cancel: &self.cancel };
        let status = wharf_runtime::run(request).map_err(run_error)?;
        let succeeded = match status {
            ExitStatus::Exited(code) if op.meta.valid_exit_codes.is_empty() => code == 0,
            ExitStatus::Exited(code) => op.meta.valid_exit_codes.contains(&code),
            ExitStatus::Signaled(_) => false,
        };
        if !succeeded {
            return Err(WorkerError::Process { command, status });
        }
        Ok(vec![base.with(active.commit(SystemTime::now())?.id)])
    }

    /// Fills the default spec in with what the operation says.
    fn describe(&self, op: &ExecOp, user: &wharf_runtime::User, spec: &mut Spec) -> Result<(), WorkerError> {
        let meta = &op.meta;
        if op.network == NetworkMode::None {
            spec::isolate_network(spec)?;
        }
        if op.security == SecurityMode::Insecure {
            return Err(WorkerError::Unsupported("RUN --security=insecure".to_owned()));
        }
        let mut env: Vec<String> = meta.env.iter().chain(&meta.proxy_env).cloned().collect();
        if !env.iter().any(|variable| variable.starts_with("HOME=")) {
            env.push(format!("HOME={}", user.home));
        }
        let cwd = if meta.cwd.is_empty() { "/" } else { &meta.cwd };
        spec::set_process(spec, &meta.args, &env, cwd, user)?;
        self.open_files.restore_in(spec)?;
        let hostname = if meta.hostname.is_empty() { HOSTNAME } else { &meta.hostname };
        spec.set_hostname(Some(hostname.to_owned()));
        sandbox_files::bind(spec, &self.sandbox_dir, hostname, &meta.extra_hosts)?;
        for mount in &op.mounts {
            if let MountKind::Tmpfs { size_bytes } = mount.kind {
                spec::add_tmpfs(spec, &mount.target, size_bytes)?;
            }
        }
        Ok(())
    }

    /// The tree that a further mount binds, if it is one that binds something.
    fn bind(
        &self,
        mount: &Mount,
        inputs: &[ResultRef],
    ) -> Result<Option<(PathBuf, std::os::fd::OwnedFd)>, WorkerError> {
        let kind = match mount.kind {
            MountKind::Bind if mount.readonly => match mount.input.map(|input| &inputs[input]) {
                Some(input @ ResultRef::Snapshots(_)) => {
                    let Input::View(view) = self.open(input)? else { return Ok(None) };
                    let prepare =
                        |source| WorkerError::Prepare { operation: "open the source of a mount", source };
                    let found =
                        resolve::resolve(view.as_fd(), mount.selector.as_ref(), true).map_err(prepare)?;
                    let fd = spec::subtree(view.as_fd(), &found.path).map_err(prepare)?;
                    return Ok(Some((PathBuf::from(&mount.target), fd)));
                }
                _ => "RUN --mount=type=bind from a build context",
            },
            MountKind::Tmpfs { .. } => return Ok(None),
            MountKind::Bind => "a writable RUN --mount=type=bind",
            MountKind::Cache { .. } => "RUN --mount=type=cache",
            MountKind::Secret { .. } => "RUN --mount=type=secret",
            MountKind::Ssh { .. } => "RUN --mount=type=ssh",
        };
        Err(WorkerError::Unsupported(kind.to_owned()))
    }
}
