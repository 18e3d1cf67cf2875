//! `wharf stop`, `restart`, `kill`, `rm`, `rename`, `pause`, `unpause` and `wait`.

use std::process::ExitCode;
use std::thread;

use clap::Args;

use super::{Session, each};
use crate::cli::config::Config;
use crate::cli::image::told;
use crate::cli::place::Wanted;
use crate::containers::config::ContainerId;
use crate::containers::engine::{Engine, Remove};
use crate::containers::signal;
use crate::error::{Failure, Kind};
use crate::progress::print_result;

#[derive(Debug, Args)]
pub(in crate::cli) struct StopArgs {
    /// Seconds until it is killed, -1 for ever [default: what the container says, or 10]
    #[arg(short = 't', long, visible_alias = "time", value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// In place of the container's own signal
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Names, or first digits of identifiers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KillArgs {
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// Names, or first digits of identifiers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RmArgs {
    /// Kill those that run, and pass over those that are not there
    #[arg(short, long)]
    force: bool,
    /// Remove the volumes too that were made for them alone
    #[arg(short, long)]
    volumes: bool,
    /// Names, or first digits of identifiers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct NamesArgs {
    /// Names, or first digits of identifiers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RenameArgs {
    /// Its name, or first digits of its identifier
    container: String,
    /// Its new name
    name: String,
}

pub(super) fn stop(args: &StopArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let signal = optional_signal(args.signal.as_deref())?;
    change(&args.containers, &Session::enter(wanted, config)?, |engine, id| {
        engine.stop(id, args.timeout, signal)
    })
}

pub(super) fn restart(args: &StopArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let signal = optional_signal(args.signal.as_deref())?;
    change(&args.containers, &Session::to_start(wanted, config)?, |engine, id| {
        engine.restart(id, args.timeout, signal)
    })
}

pub(super) fn kill(args: &KillArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let signal = a_signal(&args.signal)?;
    change(&args.containers, &Session::enter(wanted, config)?, |engine, id| engine.kill(id, signal))
}

pub(super) fn rm(args: &RmArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let how = Remove { force: args.force, volumes: args.volumes };
    Session::enter(wanted, config)?.with_engine(|engine| {
        each(&args.containers, |name| {
            // Whatever is wrong with what it is made of does not keep it from being removed.
            let id = match engine.resolve(name) {
                Err(failure) if args.force && failure.kind == Kind::Usage => {
                    crate::progress::print_warning(&failure.message);
                    return Ok(());
                }
                found => found?,
            };
            engine.remove(&id, how)?;
            print_result(name)
        })
    })
}

pub(super) fn pause(args: &NamesArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    change(&args.containers, &Session::enter(wanted, config)?, Engine::pause)
}

pub(super) fn unpause(args: &NamesArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    change(&args.containers, &Session::enter(wanted, config)?, Engine::unpause)
}

pub(super) fn rename(args: &RenameArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    Session::enter(wanted, config)?.with_engine(|engine| {
        let id = engine.resolve(&args.container)?;
        let name = args.name.strip_prefix('/').unwrap_or(&args.name);
        engine.rename(&id, name).map(|()| ExitCode::SUCCESS)
    })
}

/// All are waited for at once: one that is removed when it ends can be asked nothing afterwards.
pub(super) fn wait(args: &NamesArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    Session::enter(wanted, config)?.with_engine(|engine| {
        let wait = |name: &String| engine.wait(&engine.resolve(name)?);
        let ended: Vec<Result<u8, Failure>> = std::thread::scope(|scope| {
            let waiting: Vec<_> =
                args.containers.iter().map(|name| scope.spawn(move || wait(name))).collect();
            let panicked = || Failure::new(Kind::Environment, "a thread has panicked");
            waiting.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked()))).collect()
        });
        let mut failures = Vec::new();
        for ended in ended {
            match ended {
                Ok(status) => print_result(&status.to_string())?,
                Err(failure) => failures.push(failure),
            }
        }
        told(failures).map(|()| ExitCode::SUCCESS)
    })
}

/// Does `work` for each container, and prints its name as it was given.
fn change(
    names: &[String],
    session: &Session<'_>,
    work: impl Fn(&Engine, &ContainerId) -> Result<(), Failure> + Sync,
) -> Result<ExitCode, Failure> {
    let one = |engine: &Engine, name: &String| -> Result<(), Failure> {
        work(engine, &engine.resolve(name)?)?;
        print_result(name)
    };
    session.with_engine(|engine| {
        let mut failures = Vec::new();
        // They wait for one another's end no longer than for the slowest.
        for some in names.chunks(AT_ONCE_MAX) {
            thread::scope(|scope| {
                let threads: Vec<_> = some.iter().map(|name| scope.spawn(|| one(engine, name))).collect();
                for thread in threads {
                    let done = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                    failures.extend(done.err());
                }
            });
        }
        told(failures).map(|()| ExitCode::SUCCESS)
    })
}

/// Containers that are changed at once.
const AT_ONCE_MAX: usize = 32;

fn optional_signal(text: Option<&str>) -> Result<Option<i32>, Failure> {
    text.map(a_signal).transpose()
}

fn a_signal(text: &str) -> Result<i32, Failure> {
    signal::number(text)
        .ok_or_else(|| Failure::new(Kind::Usage, format!("--signal {text}: there is no such signal")))
}
