//! `wharf run`, `create`, `start`, `exec` and `attach`: what has streams.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::flags::{Attached, CreateFlags, Pull};
use super::values::file_lines;
use super::{Session, change};
use crate::cli::config::Config;
use crate::cli::image;
use crate::cli::place::Wanted;
use crate::containers::ask::Ask;
use crate::containers::config::ContainerId;
use crate::containers::engine::{Container, Engine, Remove};
use crate::containers::protocol::{ExecConfig, Streams};
use crate::containers::state::ContainerState;
use crate::containers::state::Status;
use crate::containers::streams::{Collected, DetachKeys, Ended, Ends, Stream, terminal_size};
use crate::error::{Failure, Kind};
use crate::progress::{print_error, print_result, print_talk, print_warning, results};

#[derive(Debug, Args)]
pub(in crate::cli) struct RunArgs {
    /// Leave it to itself, and print its identifier
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    following: Following,
    #[command(flatten)]
    create: CreateFlags,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateArgs {
    #[command(flatten)]
    create: CreateFlags,
}

/// How a process is followed.
#[derive(Debug, Args)]
struct Following {
    /// Pass signals on to the process; `--sig-proxy=false` does not
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true")]
    sig_proxy: bool,
    /// Keys that leave the container to itself [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StartArgs {
    /// Attach to what it prints, and end as it ends
    #[arg(short, long)]
    attach: bool,
    /// Attach to its standard input
    #[arg(short, long)]
    interactive: bool,
    /// Keys that leave the container to itself [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Names, or first digits of identifiers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AttachArgs {
    /// Pass no input on
    #[arg(long)]
    no_stdin: bool,
    #[command(flatten)]
    following: Following,
    /// Its name, or first digits of its identifier
    container: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExecArgs {
    /// Leave the process to itself
    #[arg(short, long)]
    detach: bool,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// Environment variable; without a value, that of this process
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// File of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// User: name or number, and group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Every right that there is to give
    #[arg(long)]
    privileged: bool,
    /// Keys that leave the process to itself [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// The container, and the command with its arguments
    #[arg(required = true, trailing_var_arg = true, num_args = 2.., value_names = ["CONTAINER", "COMMAND"])]
    command: Vec<String>,
}

/// Which streams of a process are followed.
#[derive(Debug, Clone, Copy)]
struct Chosen {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

pub(super) fn run(args: &RunArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let flags = &args.create;
    if args.detach && !flags.attach.is_empty() {
        return Err(Failure::new(Kind::Usage, "--attach and --detach contradict each other"));
    }
    let mut ask = flags.ask(&current_dir()?)?;
    // Somebody may attach to it, and another one later.
    ask.stdin_once &= !args.detach;
    let keys = detach_keys(args.following.detach_keys.as_deref())?;
    let named = |stream| flags.attach.contains(&stream);
    let chosen = match flags.attach.is_empty() {
        true => Chosen { stdin: flags.interactive, stdout: true, stderr: true, tty: flags.tty },
        false => Chosen {
            stdin: flags.interactive && named(Attached::Stdin),
            stdout: named(Attached::Stdout),
            stderr: named(Attached::Stderr),
            tty: flags.tty,
        },
    };
    if !args.detach {
        require_terminal(chosen)?;
    }
    // From here on a signal is the container's.
    let signals = (!args.detach && args.following.sig_proxy).then(Collected::begin).transpose();
    let session = Session::to_start(wanted, config)?;
    session.with_engine(|engine| {
        let container = create_one(engine, flags, &ask, &session)?;
        let id = &container.config.id;
        if args.detach {
            started(engine, &container, engine.start(id, None))?;
            print_result(&id.0)?;
            return Ok(ExitCode::SUCCESS);
        }
        let signals = signals.map_err(cannot_follow)?;
        let stream = started(engine, &container, engine.start(id, Some(chosen.streams())))?;
        match stream {
            Some(stream) => follow(engine, id, stream, chosen, keys, signals),
            None => engine.wait(id).map(ExitCode::from),
        }
    })
}

/// A container that could not be started goes again if it was to be removed at its end.
fn started<T>(engine: &Engine, container: &Container, started: Result<T, Failure>) -> Result<T, Failure> {
    if started.is_err() && container.config.auto_remove {
        let how = Remove { force: true, volumes: true };
        // Its monitor may have removed it already.
        if let (Err(failure), true) =
            (engine.remove(&container.config.id, how), engine.get(&container.config.id).is_ok())
        {
            print_error(&failure);
        }
    }
    started
}

pub(super) fn create(args: &CreateArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let ask = args.create.ask(&current_dir()?)?;
    let session = Session::to_start(wanted, config)?;
    session.with_engine(|engine| {
        let container = create_one(engine, &args.create, &ask, &session)?;
        print_result(&container.config.id.0).map(|()| ExitCode::SUCCESS)
    })
}

/// Brings the image if it has to be, and makes the container.
fn create_one(
    engine: &Engine,
    flags: &CreateFlags,
    ask: &Ask,
    session: &Session<'_>,
) -> Result<Container, Failure> {
    if let Some(file) = flags.cidfile.as_deref().filter(|file| file.symlink_metadata().is_ok()) {
        return Err(Failure::new(Kind::Usage, format!("--cidfile {}: there is a file", file.display()))
            .hint("remove it, or give another name: it may be that of a container that runs"));
    }
    let is_wanted = match flags.pull {
        Pull::Always => true,
        Pull::Missing => image::find(engine.store(), &ask.image).is_err(),
        Pull::Never => false,
    };
    if is_wanted {
        session.bring(engine, &ask.image, flags.platform.as_deref(), flags.quiet)?;
    }
    let container = engine.create(ask)?;
    for warning in &container.state.warnings {
        print_warning(warning);
    }
    if let Some(file) = &flags.cidfile {
        write_new(file, &container.config.id.0).map_err(|error| {
            // Nobody would know of it.
            let _ = engine.remove(&container.config.id, Remove { force: false, volumes: true });
            let doing = format!("cannot write --cidfile {}", file.display());
            Failure::from_error(Kind::Environment, &doing, &error)
        })?;
    }
    Ok(container)
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    std::fs::File::options().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
}

pub(super) fn start(args: &StartArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let keys = detach_keys(args.detach_keys.as_deref())?;
    let follows = args.attach || args.interactive;
    let [name] = args.containers.as_slice() else {
        if follows {
            return Err(Failure::new(
                Kind::Usage,
                "with --attach or --interactive one container is started at a time",
            ));
        }
        return change::start(&args.containers, wanted, config);
    };
    if !follows {
        return change::start(&args.containers, wanted, config);
    }
    let signals = Collected::begin();
    let session = Session::to_start(wanted, config)?;
    session.with_engine(|engine| {
        let Container { config, .. } = engine.find(name)?;
        let stdin = args.interactive && config.process.open_stdin;
        let chosen = Chosen { stdin, stdout: true, stderr: true, tty: config.process.tty };
        require_terminal(chosen)?;
        match engine.start(&config.id, Some(chosen.streams()))? {
            Some(stream) => {
                follow(engine, &config.id, stream, chosen, keys, Some(signals.map_err(cannot_follow)?))
            }
            None => engine.wait(&config.id).map(ExitCode::from),
        }
    })
}

pub(super) fn attach(args: &AttachArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let keys = detach_keys(args.following.detach_keys.as_deref())?;
    let session = Session::enter(wanted, config)?;
    session.with_engine(|engine| {
        let Container { config, state } = engine.find(&args.container)?;
        if state.status == Status::Paused {
            return Err(Failure::new(
                Kind::Usage,
                format!("cannot attach to the container {}: it is paused", config.id.short()),
            )
            .hint(format!("`wharf unpause {}` lets it go on", args.container)));
        }
        let stdin = config.process.open_stdin && !args.no_stdin;
        let chosen = Chosen { stdin, stdout: true, stderr: true, tty: config.process.tty };
        require_terminal(chosen)?;
        let signals = (args.following.sig_proxy && !chosen.tty)
            .then(Collected::begin)
            .or_else(|| chosen.tty.then(Collected::sizes_alone));
        let signals = signals.transpose().map_err(cannot_follow)?;
        let stream = engine.attach(&config.id, chosen.streams())?;
        follow(engine, &config.id, stream, chosen, keys, signals)
    })
}

pub(super) fn exec(args: &ExecArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let keys = detach_keys(args.detach_keys.as_deref())?;
    let Some((name, command)) = args.command.split_first() else {
        return Err(Failure::new(Kind::Usage, "no container is given"));
    };
    let mut env = Vec::new();
    for file in &args.env_file {
        env.extend(file_lines("--env-file", file)?);
    }
    env.extend(args.env.iter().map(|text| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text.clone(), None),
    }));
    let variable = |(name, value): (String, Option<String>)| {
        let value = value.or_else(|| std::env::var(&name).ok())?;
        Some(format!("{name}={value}"))
    };
    let chosen = Chosen { stdin: args.interactive, stdout: true, stderr: true, tty: args.tty };
    if !args.detach {
        require_terminal(chosen)?;
    }
    let process = ExecConfig {
        args: command.to_vec(),
        env: env.into_iter().filter_map(variable).collect(),
        working_dir: args.workdir.clone(),
        user: args.user.clone(),
        tty: args.tty,
        privileged: args.privileged,
        streams: (!args.detach).then(|| chosen.streams()),
    };
    let session = Session::enter(wanted, config)?;
    session.with_engine(|engine| {
        let id = engine.find(name)?.config.id;
        match engine.exec(&id, process)? {
            None => Ok(ExitCode::SUCCESS),
            Some(stream) => {
                let signals = chosen.tty.then(Collected::sizes_alone).transpose().map_err(cannot_follow)?;
                follow(engine, &id, stream, chosen, keys, signals)
            }
        }
    })
}

impl Chosen {
    fn streams(self) -> Streams {
        let Self { stdin, stdout, stderr, tty } = self;
        Streams { stdin, stdout, stderr, size: tty.then(terminal_size).flatten() }
    }
}

/// Follows a process to its end, and ends as it ends.
fn follow(
    engine: &Engine,
    id: &ContainerId,
    stream: Stream,
    chosen: Chosen,
    detach: DetachKeys,
    signals: Option<Collected>,
) -> Result<ExitCode, Failure> {
    let stdin = chosen.stdin.then(|| rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 0));
    // A closed one is an empty one.
    let stdin: Option<OwnedFd> = stdin.transpose().or_else(|_| null()).map_err(cannot_follow)?;
    let mut stdout: Box<dyn Write> = match chosen.stdout {
        true => Box::new(results().map_err(cannot_follow)?),
        false => Box::new(io::sink()),
    };
    let mut stderr: Box<dyn Write> = Box::new(io::stderr());
    let ends = Ends { stdin, stdout: &mut *stdout, stderr: &mut *stderr, tty: chosen.tty, detach, signals };
    match stream.follow(ends)? {
        Ended::Exited(status) => Ok(ExitCode::from(status)),
        Ended::Detached => {
            print_talk("read escape sequence\n");
            Ok(ExitCode::SUCCESS)
        }
        Ended::HungUp => {
            let why = match engine.get(id).map(|container| container.state) {
                Ok(ContainerState { error: Some(error), .. }) => error,
                Ok(state) if state.status.is_up() => "its monitor has gone".to_owned(),
                // Who does not read for a while is not waited for.
                Ok(_) | Err(_) => "it has ended, and its last output was not taken in time".to_owned(),
            };
            let message = format!("the container {} cannot be followed any more: {why}", id.short());
            Err(Failure::new(Kind::Environment, message))
        }
    }
}

fn null() -> io::Result<Option<OwnedFd>> {
    Ok(Some(std::fs::File::open("/dev/null")?.into()))
}

fn cannot_follow(error: io::Error) -> Failure {
    Failure::from_error(Kind::Environment, "cannot follow the container", &error)
}

/// Whoever types at a terminal in the container has to have one here.
fn require_terminal(chosen: Chosen) -> Result<(), Failure> {
    if chosen.tty && chosen.stdin && !rustix::termios::isatty(rustix::stdio::stdin()) {
        return Err(Failure::new(Kind::Usage, "the input device is not a TTY")
            .hint("leave out `--tty` (`-t`), or type at a terminal"));
    }
    Ok(())
}

fn detach_keys(text: Option<&str>) -> Result<DetachKeys, Failure> {
    text.map_or_else(|| Ok(DetachKeys::default()), DetachKeys::parse)
}

fn current_dir() -> Result<PathBuf, Failure> {
    std::env::current_dir()
        .map_err(|error| Failure::from_error(Kind::Environment, "cannot find the current directory", &error))
}
