//! Executes an `ExecOp`: RUN.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use wharf_cache::Chain;
use wharf_runtime::cgroup::{Group, Refused};
use wharf_runtime::chroot::{self, ChrootRequest, Confinement, Ended};
use wharf_runtime::{ExitStatus, Qemu, Request, RuntimeError, Sandbox, Spec, Stdio, Stream, User};
use wharf_solver::llb::{
    ExecOp, Mount, MountKind, NetworkMode, Platform, SecurityMode, Vertex, VertexDigest,
};
use wharf_solver::op::ResultRef;
use wharf_solver::progress::{Event, LogStream};

use super::foreign::{Execution, architectures};
use super::sandbox_files::{self, HOSTNAME};
use super::{Worker, WorkerError, chain_of_mount, ownership, spec};

/// What is run where.
struct Run<'a> {
    op: &'a ExecOp,
    inputs: &'a [ResultRef],
    root: BorrowedFd<'a>,
    user: &'a User,
    group: Option<&'a Group>,
    execution: &'a Execution,
    /// Whether caches are to be found empty.
    fresh: bool,
}

impl Worker<'_> {
    /// Runs the process on its root and commits what it changed there: one chain for each output.
    pub(super) fn exec(
        &self,
        digest: &VertexDigest,
        vertex: &Vertex,
        op: &ExecOp,
        inputs: &[ResultRef],
    ) -> Result<Vec<Chain>, WorkerError> {
        let root_mount = op.mounts.iter().find(|mount| mount.target == "/");
        let base = chain_of_mount(root_mount.and_then(|mount| mount.input).map(|input| &inputs[input]))?;
        self.store.part_shared(&base)?;
        let mut active = self.store.prepare(&base)?;
        let root = active.root()?;
        let command = op.meta.args.join(" ");
        let platform = vertex.platform.as_ref().unwrap_or(self.platform);
        let execution = self.execution(digest, platform);
        let run_error = |source| match execution.blame(&source) {
            Some(why) => WorkerError::Foreign {
                command: command.clone(),
                platform: platform.to_string(),
                source: Box::new(why),
            },
            None => WorkerError::Run { command: command.clone(), source },
        };

        let user = wharf_runtime::resolve_user(root, &op.meta.user).map_err(run_error)?;
        let (mut complaint, mut lacks_proc) = (None, false);
        let mut log = |stream, data: &[u8]| {
            complaint = complaint.or_else(|| Complaint::of(self.sandbox, data));
            lacks_proc |= self.sandbox == Sandbox::Chroot && speaks_of_proc(data);
            let stream = match stream {
                Stream::Stdout => LogStream::Stdout,
                Stream::Stderr => LogStream::Stderr,
            };
            self.progress.send(Event::Log { vertex: *digest, stream, data: data.to_vec() });
        };
        let group = self.groups.make()?;
        let fresh = vertex.metadata.ignore_cache;
        let run = Run { op, inputs, root, user: &user, group: group.as_ref(), execution: &execution, fresh };
        let started = Instant::now();
        let kills = oom_kills();
        let Ended { status, missed } = match self.sandbox {
            Sandbox::Chroot => self.run_in_chroot(run, &mut log)?,
            Sandbox::Root | Sandbox::Rootless | Sandbox::RootlessSingle => {
                self.run_in_namespaces(run, &mut log)?
            }
        }
        .map_err(run_error)?;
        if matches!(execution, Execution::Emulated(_)) {
            self.foreign.spend(platform, started.elapsed());
        }
        let refused = group.as_ref().and_then(Group::refused);
        drop(group);
        let missed = missed.or_else(|| lacks_proc.then(|| PathBuf::from("/proc")));
        if !succeeded(op, status) {
            let is_kill = matches!(status, ExitStatus::Signaled(9) | ExitStatus::Exited(137));
            // Without a group that counts, a kill while the machine had to kill is as good as one of this step.
            let killed = (is_kill && oom_kills() > kills).then_some(Refused::Memory);
            let hint = what_is_missing(missed.as_deref(), complaint);
            return Err(WorkerError::Process { command, status, refused: refused.or(killed), hint });
        }
        if let Some(refused) = refused {
            let message = format!("{command:?} ended well, but something that it started did not: {refused}");
            self.progress.send(Event::Warning { message });
        }
        if let Some(missed) = missed {
            let message = format!(
                "{command:?} looked for `{}`, and the sandbox chroot has no `/proc`: what it made may differ from what it \
                 makes in a stronger sandbox (see `wharf doctor`)",
                missed.display()
            );
            self.progress.send(Event::Warning { message });
        }
        Ok(vec![base.with(self.finish(digest, active)?.id)])
    }

    /// How programs of `platform` run. That they are emulated is said in the step's output.
    fn execution(&self, digest: &VertexDigest, platform: &Platform) -> Execution {
        if platform.architecture == self.platform.architecture {
            return Execution::Native;
        }
        let all = architectures(self.definition);
        let execution = self.foreign.execution(platform, &all, &self.sandbox_dir);
        if let Some(told) = execution.told(platform, self.platform) {
            self.progress.send(Event::Log {
                vertex: *digest,
                stream: LogStream::Stderr,
                data: told.into_bytes(),
            });
        }
        execution
    }

    /// Runs the process of an operation on the mounts that it asks for.
    fn run_in_namespaces(
        &self,
        Run { op, inputs, root, user, group, execution, fresh }: Run<'_>,
        log: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Result<Ended, RuntimeError>, WorkerError> {
        let mut mounted = self.mounts(op, inputs, root, fresh)?;
        let mut spec = self.describe(op, user, &mounted.variables)?;
        spec::make_room(&mut spec, &mounted.binds);
        let request = Request {
            spec: &spec,
            root,
            binds: std::mem::take(&mut mounted.binds),
            stdio: Stdio::Captured(log),
            ownership: ownership::of(self.store),
            user_namespace: execution.qemu().and_then(Qemu::namespace),
            cancel: &self.cancel,
        };
        let status = wharf_runtime::run_in(request, group);
        Ok(status.map(|status| Ended { status, missed: None }))
    }

    /// The same in the directory `root`, with what stands for mounts.
    fn run_in_chroot(
        &self,
        Run { op, inputs, root, user, group, fresh, .. }: Run<'_>,
        log: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Result<Ended, RuntimeError>, WorkerError> {
        if op.security == SecurityMode::Insecure {
            return Err(WorkerError::NotHere(
                "`--security=insecure` cannot be had in the sandbox chroot, where it would be the run of the whole \
                 place; it takes the sandbox root (in Kubernetes a privileged pod)",
            ));
        }
        if op.meta.shm_size_bytes > 0 {
            self.say_once(
                "without mounts (sandbox chroot) `/dev/shm` is a directory of the store: its size is not limited",
            );
        }
        let mut placed = self.placements(op, inputs, root, fresh)?;
        let spec = self.describe(op, user, &placed.variables)?;
        placed.add_files(&spec)?;
        let prepare = |source| WorkerError::Prepare { operation: "prepare the mounts of a step", source };
        let aside = placed.aside().map_err(prepare)?;
        let ended = chroot::run(ChrootRequest {
            spec: &spec,
            root,
            aside: aside.as_fd(),
            devices: Some(&self.devices),
            group,
            placements: std::mem::take(&mut placed.placements),
            confinement: Confinement::probe(),
            network: match op.network {
                NetworkMode::None => chroot::Network::None,
                NetworkMode::Sandbox | NetworkMode::Host => chroot::Network::Host,
            },
            stdio: Stdio::Captured(log),
            cancel: &self.cancel,
        });
        // What a step that failed has left is thrown away, and its failure is what is told.
        if matches!(&ended, Ok(Ended { status, .. }) if succeeded(op, *status)) {
            placed.part_from_caches()?;
        }
        Ok(ended)
    }

    /// The spec of the process. `secrets` are variables that win over those of the operation.
    fn describe(
        &self,
        op: &ExecOp,
        user: &wharf_runtime::User,
        secrets: &[(String, String)],
    ) -> Result<Spec, WorkerError> {
        let meta = &op.meta;
        let mut spec = match op.security {
            SecurityMode::Sandbox => wharf_runtime::default_spec(),
            SecurityMode::Insecure => spec::insecure()?,
        };
        let tell = |message| self.progress.send(Event::Warning { message });
        let reach = self.network.reach(op.network, tell);
        spec::set_network(&mut spec, &reach)?;
        let is_secret = |variable: &&String| {
            let name = variable.split_once('=').map_or(variable.as_str(), |(name, _)| name);
            secrets.iter().any(|(secret, _)| secret == name)
        };
        let mut env: Vec<String> =
            meta.env.iter().chain(&meta.proxy_env).filter(|variable| !is_secret(variable)).cloned().collect();
        env.extend(secrets.iter().map(|(name, value)| format!("{name}={value}")));
        if !env.iter().any(|variable| variable.starts_with("HOME=")) {
            env.push(format!("HOME={}", user.home));
        }
        let cwd = if meta.cwd.is_empty() { "/" } else { &meta.cwd };
        spec::set_process(&mut spec, &meta.args, &env, cwd, user)?;
        self.open_files.restore_in(&mut spec)?;
        spec::set_limits(&mut spec, &meta.ulimits)?;
        spec::limit_core(&mut spec, !secrets.is_empty() || op.mounts.iter().any(is_secret_mount))?;
        if meta.shm_size_bytes > 0 {
            spec::set_shm_size(&mut spec, meta.shm_size_bytes);
        }
        let hostname = if meta.hostname.is_empty() { HOSTNAME } else { &meta.hostname };
        spec.set_hostname(Some(hostname.to_owned()));
        let mut names = hostname.to_owned();
        if self.sandbox == Sandbox::Chroot {
            // The name of the place is the step's, too.
            names = format!("{names} {}", rustix::system::uname().nodename().to_string_lossy());
        }
        sandbox_files::bind(&mut spec, &self.sandbox_dir, &names, &meta.extra_hosts, &reach)?;
        Ok(spec)
    }
}

fn succeeded(op: &ExecOp, status: ExitStatus) -> bool {
    match status {
        ExitStatus::Exited(code) if op.meta.valid_exit_codes.is_empty() => code == 0,
        ExitStatus::Exited(code) => op.meta.valid_exit_codes.contains(&code),
        ExitStatus::Signaled(_) => false,
    }
}

fn is_secret_mount(mount: &Mount) -> bool {
    matches!(mount.kind, MountKind::Secret { .. } | MountKind::Ssh { .. })
}

/// Something that a sandbox does not give, as programs complain of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Complaint {
    /// A device node could not be made.
    Node(Sandbox),
    /// A program could not become root.
    Privileges,
}

impl Complaint {
    fn of(sandbox: Sandbox, output: &[u8]) -> Option<Self> {
        if !matches!(sandbox, Sandbox::Chroot | Sandbox::Rootless) {
            return None;
        }
        let output = String::from_utf8_lossy(output);
        let speaks_of = |words: &[&str]| words.iter().any(|word| output.contains(word));
        if speaks_of(&["mknod"]) && speaks_of(&["Operation not permitted", "Permission denied"]) {
            return Some(Self::Node(sandbox));
        }
        const PRIVILEGES: &[&str] =
            &["no new privileges", "effective uid is not 0", "must be setuid root", "must be suid"];
        (sandbox == Sandbox::Chroot && speaks_of(PRIVILEGES)).then_some(Self::Privileges)
    }
}

/// What a step that failed may have failed for.
fn what_is_missing(missed: Option<&Path>, complaint: Option<Complaint>) -> Option<String> {
    if let Some(Complaint::Node(sandbox)) = complaint {
        return Some(format!(
            "in the sandbox {sandbox} no device nodes can be made, but in root and rootless-single; a step has those of its \
             `/dev`"
        ));
    }
    let missed = missed.map(|path| {
        format!(
            "it looked for `{}`, and the sandbox chroot has no `/proc`: `wharf doctor` says what a stronger one takes",
            path.display()
        )
    });
    missed.or_else(|| {
        (complaint == Some(Complaint::Privileges)).then(|| {
            "in the sandbox chroot no program gains privileges, so `sudo` and `su` work for root alone: leave `USER` for \
             after this step, or see `wharf doctor` for what a stronger sandbox takes"
                .to_owned()
        })
    })
}

/// Whether a program says that it wants `/proc` mounted, as systemd's do.
fn speaks_of_proc(output: &[u8]) -> bool {
    let output = String::from_utf8_lossy(output);
    ["/proc is not mounted", "/proc/ is not mounted", "/proc not mounted"]
        .iter()
        .any(|complaint| output.contains(complaint))
}

/// How many processes of the machine the kernel has killed for want of memory, where it says.
fn oom_kills() -> Option<u64> {
    parse_oom_kills(&std::fs::read_to_string("/proc/vmstat").ok()?)
}

fn parse_oom_kills(vmstat: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_lacked_is_named() {
        use Sandbox::{Chroot, Rootless, RootlessSingle};
        let privileges = Some(Complaint::Privileges);
        let hint = what_is_missing(Some(Path::new("/proc/cpuinfo")), privileges).unwrap_or_default();
        assert!(hint.contains("`/proc/cpuinfo`"), "{hint}");
        assert!(what_is_missing(None, privileges).is_some() && what_is_missing(None, None).is_none());
        let check = |sandbox, output: &str, expected| {
            assert_eq!(Complaint::of(sandbox, output.as_bytes()), expected, "{output} in {sandbox}");
        };
        let sudo = "sudo: The \"no new privileges\" flag is set, which prevents sudo from running as root.";
        check(Chroot, sudo, privileges);
        check(Chroot, "privileges", None);
        check(Rootless, sudo, None);
        let mknod = "mknod: /x: Operation not permitted";
        check(Rootless, mknod, Some(Complaint::Node(Rootless)));
        check(Chroot, "mknod: /x: Permission denied", Some(Complaint::Node(Chroot)));
        check(RootlessSingle, mknod, None);
        check(Rootless, "mknod: missing operand", None);
    }

    #[test]
    fn kills_for_want_of_memory_are_counted() {
        assert_eq!(parse_oom_kills("pgfault 1\noom_kill 12\noom_killer 3\n"), Some(12));
        assert_eq!(parse_oom_kills("pgfault 1\n"), None);
        assert_eq!(parse_oom_kills("oom_kill x\n"), None);
    }
}
