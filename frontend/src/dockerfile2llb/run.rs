//! RUN.

use std::collections::HashSet;

use wharf_solver::llb::{
    ActionInput, ExecMeta, ExecOp, FileAction, FileChange, FileOp, Mount, MountKind, NetworkMode, Op,
    SecurityMode, Vertex,
};

use super::inputs::Inputs;
use super::stage::{Stage, Step};
use super::{Converter, RunPlaces, history, owner, path, scope};
use crate::Diagnostic;
use crate::instructions::{CommandLine, Run};
use crate::parser::{Heredoc, Token, heredoc_word};

/// Where a heredoc that is a script of its own is seen by the step.
const SCRIPT_DIRECTORY: &str = "/dev/pipes";

/// A process and the vertex's inputs that its mounts name.
#[derive(Debug, Default)]
pub(super) struct Exec {
    pub(super) op: ExecOp,
    pub(super) inputs: Inputs,
    /// How many SSH mounts there are so far.
    pub(super) ssh_mounts: usize,
    places: RunPlaces,
}

/// What a RUN's text comes to.
struct Command {
    args: Vec<String>,
    /// A heredoc that is run as a file.
    script: Option<Mount>,
    /// What its name says of a heredoc.
    summary: String,
}

impl Converter<'_> {
    /// RUN: always a layer, even if nothing changes.
    pub(super) fn run(&mut self, stage: &mut Stage, step: &Step<'_>, run: &Run) -> Result<(), Diagnostic> {
        let mut exec = Exec::default();
        let root = Mount {
            input: stage.head.map(|head| exec.inputs.number(head)),
            selector: String::new(),
            target: "/".to_owned(),
            output: Some(0),
            readonly: false,
            kind: MountKind::Bind,
        };
        exec.op.mounts.push(root);
        exec.places = RunPlaces {
            mounts: vec![step.location.clone()],
            secret_env: Vec::new(),
            network: run.network.as_ref().map(|token| step.place(token)),
            security: run.security.as_ref().map(|token| step.place(token)),
            devices: run.devices.iter().map(|token| step.place(token)).collect(),
        };
        exec.op.network = self.network(run.network.as_ref());
        exec.op.security = security(run.security.as_ref());
        exec.op.devices = run.devices.iter().map(|device| device.text.clone()).collect();
        let command = self.command(stage, run, &mut exec)?;
        exec.op.meta = self.process(stage, command.args);
        stage.bytes += stage.env.list_bytes();
        for token in &run.mounts {
            self.mount(stage, step, token, &mut exec)?;
            let place = step.place(token);
            exec.places.mounts.resize(exec.op.mounts.len(), place.clone());
            exec.places.secret_env.resize(exec.op.secret_env.len(), place);
        }
        exec.op.mounts.extend(command.script);
        let created_by = history::run_text(stage, &exec.op.meta.args);
        let secrets: HashSet<String> = exec.op.secret_env.iter().map(|secret| secret.name.clone()).collect();
        let metadata = self.run_metadata(stage, step, &command.summary, &secrets);
        let vertex = Vertex {
            op: Op::Exec(exec.op),
            inputs: exec.inputs.edges,
            platform: Some(stage.platform.clone()),
            metadata,
        };
        let edge = self.definition.add(vertex);
        self.run_places.entry(edge.vertex).or_insert(exec.places);
        stage.head = Some(edge);
        stage.layers.push(edge);
        history::layer(stage, &created_by);
        Ok(())
    }

    fn process(&self, stage: &Stage, args: Vec<String>) -> ExecMeta {
        let options = &self.options.run;
        ExecMeta {
            args,
            env: stage.env.to_list(),
            cwd: stage.directory().to_owned(),
            user: stage.config.config.user.clone(),
            hostname: self.options.build_args.get("BUILDKIT_SANDBOX_HOSTNAME").cloned().unwrap_or_default(),
            proxy_env: scope::proxy_env(&self.options.build_args),
            extra_hosts: options.extra_hosts.clone(),
            ulimits: options.ulimits.clone(),
            cgroup_parent: options.cgroup_parent.clone(),
            shm_size_bytes: options.shm_size_bytes,
            valid_exit_codes: Vec::new(),
        }
    }

    /// The parser lets no other word through.
    fn network(&self, flag: Option<&Token>) -> NetworkMode {
        match flag.map(|token| token.text.as_str()) {
            Some("none") => NetworkMode::None,
            Some("host") => NetworkMode::Host,
            _ => self.options.run.network,
        }
    }

    /// Shell form, exec form, and the three uses of heredocs.
    fn command(&mut self, stage: &Stage, run: &Run, exec: &mut Exec) -> Result<Command, Diagnostic> {
        let text = match &run.command {
            CommandLine::Exec(args) => {
                return Ok(Command { args: args.clone(), script: None, summary: String::new() });
            }
            CommandLine::Shell(token) => &token.text,
        };
        let plain = |text: &str, summary| Command { args: stage.with_shell(text), script: None, summary };
        let [heredoc, others @ ..] = run.heredocs.as_slice() else {
            return Ok(plain(text, String::new()));
        };
        if !others.is_empty() || heredoc_word(text.trim()).is_none() {
            // The shell reads them itself.
            let mut text = text.clone();
            for heredoc in &run.heredocs {
                text.push('\n');
                text.push_str(&heredoc.content);
                text.push_str(&heredoc.name);
            }
            return Ok(plain(&text, String::new()));
        }
        let summary = summary(&heredoc.content);
        if stage.platform.os == "windows" || !heredoc.content.starts_with("#!") {
            return Ok(plain(&heredoc.content, summary));
        }
        let script = self.script(heredoc, exec)?;
        Ok(Command { args: stage.with_shell(&script.target), script: Some(script), summary })
    }

    /// A heredoc as a file that the step sees and the layer does not.
    fn script(&mut self, heredoc: &Heredoc, exec: &mut Exec) -> Result<Mount, Diagnostic> {
        let name = path::base_name(&heredoc.name);
        if name.is_empty() {
            let message = format!("heredoc name {:?} is no file name", heredoc.name);
            return Err(Diagnostic::error(heredoc.operator.clone(), message));
        }
        let selector = format!("/{name}");
        let change = FileChange::MkFile {
            path: selector.clone(),
            mode: 0o755,
            data: heredoc.content.clone().into_bytes(),
            owner: Some(owner::root()),
        };
        let op = Op::File(FileOp { actions: vec![FileAction { base: ActionInput::Scratch, change }] });
        let edge = self.add_internal(op, "[internal] preparing inline document".to_owned());
        Ok(Mount {
            input: Some(exec.inputs.number(edge)),
            selector,
            target: format!("{SCRIPT_DIRECTORY}/{name}"),
            output: None,
            readonly: true,
            kind: MountKind::Bind,
        })
    }
}

fn security(flag: Option<&Token>) -> SecurityMode {
    match flag.map(|token| token.text.as_str()) {
        Some("insecure") => SecurityMode::Insecure,
        _ => SecurityMode::Sandbox,
    }
}

/// ` (first line...)`.
fn summary(content: &str) -> String {
    let mut lines = content.trim().lines();
    let first = lines.next().unwrap_or_default();
    let more = if lines.next().is_some() { "..." } else { "" };
    format!(" ({first}{more})")
}
