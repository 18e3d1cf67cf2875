//! `wharf compose exec`, `attach` and `cp`.

use std::io::{IsTerminal as _, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use clap::Args;

use super::session::Cx;
use crate::cli::container::files;
use crate::containers::protocol::{ExecConfig, Streams};
use crate::containers::streams::{Collected, DetachKeys, Ended, Ends, Stream, terminal_size};
use crate::error::{Failure, Kind};
use crate::progress::{print_note, results};

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Leave the process to itself
    #[arg(short, long)]
    detach: bool,
    /// Set a variable; without a value it is that of the environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// The number of the container [default: the first]
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// Give it every right
    #[arg(long)]
    privileged: bool,
    /// Give it no terminal [default: it has one if there is one here]
    #[arg(short = 'T', long = "no-TTY", alias = "no-tty")]
    no_tty: bool,
    /// Keep its standard input open, which it is anyway
    #[arg(short, long, hide = true)]
    interactive: bool,
    /// Give it a terminal, which it has anyway if there is one here
    #[arg(short, long, hide = true)]
    tty: bool,
    /// Who runs it
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Where it starts
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The service
    service: String,
    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct CopyArgs {
    /// The number of the container [default: the first]
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    #[command(flatten)]
    copy: files::CpArgs,
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// The number of the container [default: the first]
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// Send it no input
    #[arg(long)]
    no_stdin: bool,
    /// Keys that leave it to itself [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// The service
    service: String,
}

pub(super) fn exec(cx: &Cx<'_>, args: &ExecArgs) -> Result<ExitCode, Failure> {
    let tty = !args.no_tty && has_terminal();
    let streams =
        Streams { stdin: true, stdout: true, stderr: true, size: tty.then(terminal_size).flatten() };
    let process = ExecConfig {
        args: args.command.clone(),
        env: args.env.iter().filter_map(|text| variable(text)).collect(),
        working_dir: args.workdir.clone(),
        user: args.user.clone(),
        tty,
        privileged: args.privileged,
        streams: (!args.detach).then_some(streams),
    };
    cx.with_project(false, |session| {
        let container = session.container(&args.service, args.index)?;
        match session.engine.exec(&container.config.id, process)? {
            None => Ok(ExitCode::SUCCESS),
            Some(stream) => follow(stream, tty, true, DetachKeys::none(), collect(tty)?),
        }
    })
}

pub(super) fn cp(cx: &Cx<'_>, args: &CopyArgs) -> Result<ExitCode, Failure> {
    cx.with_project(false, |session| {
        files::copy(&args.copy, session.engine, &|service| session.container(service, args.index))
    })
}

pub(super) fn attach(cx: &Cx<'_>, args: &AttachArgs) -> Result<ExitCode, Failure> {
    let keys = args.detach_keys.as_deref().map_or_else(|| Ok(DetachKeys::default()), DetachKeys::parse)?;
    cx.with_project(false, |session| {
        let container = session.container(&args.service, args.index)?;
        let (tty, stdin) =
            (container.config.process.tty, container.config.process.open_stdin && !args.no_stdin);
        let streams = Streams { stdin, stdout: true, stderr: true, size: tty.then(terminal_size).flatten() };
        let stream = session.engine.attach(&container.config.id, streams)?;
        follow(stream, tty, stdin, keys, collect(tty)?)
    })
}

/// Whether somebody types here.
pub(super) fn has_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// `NAME=VALUE`, or `NAME` with the value that it has here.
pub(super) fn variable(text: &str) -> Option<String> {
    match text.split_once('=') {
        Some(_) => Some(text.to_owned()),
        None => Some(format!("{text}={}", std::env::var(text).ok()?)),
    }
}

/// Begins to collect the signals for a process: where it has a terminal, keys reach it by themselves.
fn collect(tty: bool) -> Result<Collected, Failure> {
    let signals = if tty { Collected::sizes_alone() } else { Collected::begin() };
    signals.map_err(|error| cannot_follow(&error))
}

pub(super) fn cannot_follow(error: &std::io::Error) -> Failure {
    Failure::from_error(Kind::Environment, "cannot follow the process", error)
}

/// Follows a process to its end, and ends as it ends.
pub(super) fn follow(
    stream: Stream,
    tty: bool,
    stdin: bool,
    detach: DetachKeys,
    signals: Collected,
) -> Result<ExitCode, Failure> {
    let stdin: Option<OwnedFd> =
        if stdin { rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 0).ok() } else { None };
    let mut stdout = results().map_err(|error| cannot_follow(&error))?;
    let mut stderr = std::io::stderr();
    let ends = Ends {
        stdin,
        stdout: &mut stdout as &mut dyn Write,
        stderr: &mut stderr,
        tty,
        detach,
        signals: Some(signals),
    };
    match stream.follow(ends)? {
        Ended::Exited(status) => Ok(ExitCode::from(status)),
        Ended::Detached => {
            print_note("the process goes on by itself");
            Ok(ExitCode::SUCCESS)
        }
        Ended::HungUp => Err(Failure::new(Kind::Environment, "the container's monitor is gone")
            .hint("`wharf compose ps -a` says what became of it")),
    }
}
