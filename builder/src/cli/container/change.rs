//! `wharf start`, `stop`, `restart`, `kill`, `rm`, `rename`, `pause`, `unpause` and `wait`.

use std::process::ExitCode;
use std::thread;

use clap::Args;

use super::Session;
use crate::cli::config::Config;
use crate::cli::image::told;
use crate::cli::place::Wanted;
use crate::containers::config::ContainerId;
use crate::containers::engine::{Engine, Remove};
use crate::containers::signal;
use crate::error::{Failure, Kind};
use crate::progress::{print_result, print_warning};

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

pub(super) fn start(names: &[String], wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let start = |engine: &Engine, id: &ContainerId| engine.start(id, None).map(drop);
    change(names, &Session::to_start(wanted, config)?, Order::AfterWhatItNeeds, find, start)
}

pub(super) fn stop(args: &StopArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let signal = optional_signal(args.signal.as_deref())?;
    change(&args.containers, &Session::enter(wanted, config)?, Order::Any, find, |engine, id| {
        engine.stop(id, args.timeout, signal)
    })
}

pub(super) fn restart(args: &StopArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let signal = optional_signal(args.signal.as_deref())?;
    let session = Session::to_start(wanted, config)?;
    change(&args.containers, &session, Order::AfterWhatItNeeds, find, |engine, id| {
        engine.restart(id, args.timeout, signal)
    })
}

pub(super) fn kill(args: &KillArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let signal = a_signal(&args.signal)?;
    change(&args.containers, &Session::enter(wanted, config)?, Order::Any, find, |engine, id| {
        engine.kill(id, signal)
    })
}

pub(super) fn rm(args: &RmArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let how = Remove { force: args.force, volumes: args.volumes };
    // Whatever is wrong with what it is made of does not keep it from being removed.
    let find = |engine: &Engine, name: &str| match engine.resolve(name) {
        Err(failure) if args.force && failure.kind == Kind::Usage => {
            print_warning(&failure.message);
            Ok(None)
        }
        found => found.map(Some),
    };
    change(&args.containers, &Session::enter(wanted, config)?, Order::Any, find, |engine, id| {
        engine.remove(id, how)
    })
}

pub(super) fn pause(args: &NamesArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    change(&args.containers, &Session::enter(wanted, config)?, Order::Any, find, Engine::pause)
}

pub(super) fn unpause(args: &NamesArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    change(&args.containers, &Session::enter(wanted, config)?, Order::Any, find, Engine::unpause)
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

/// Which containers may be changed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// All.
    Any,
    /// One is changed after those that it needs and that are named before it.
    AfterWhatItNeeds,
}

/// Containers that are changed at once.
const AT_ONCE_MAX: usize = 32;

fn find(engine: &Engine, name: &str) -> Result<Option<ContainerId>, Failure> {
    engine.resolve(name).map(Some)
}

/// What a name stands for; nothing where it is passed over.
type FoundByName<'n> = (&'n String, Result<Option<ContainerId>, Failure>);

/// Does `work` for many containers at once, and prints their names as they were given, in that order. What fails is told in
/// the end, and keeps nothing else from being done.
fn change(
    names: &[String],
    session: &Session<'_>,
    order: Order,
    find: impl Fn(&Engine, &str) -> Result<Option<ContainerId>, Failure>,
    work: impl Fn(&Engine, &ContainerId) -> Result<(), Failure> + Sync,
) -> Result<ExitCode, Failure> {
    session.with_engine(|engine| {
        let mut failures = Vec::new();
        let mut together: Vec<FoundByName<'_>> = Vec::new();
        for name in names {
            let mut found = find(engine, name);
            if together.len() == AT_ONCE_MAX || waits(engine, &found, &together, order) {
                failures.extend(change_at_once(engine, std::mem::take(&mut together), &work));
                // What became of the others may have changed that.
                found = find(engine, name);
            }
            together.push((name, found));
        }
        failures.extend(change_at_once(engine, together, &work));
        told(failures).map(|()| ExitCode::SUCCESS)
    })
}

/// Whether a container is not to be changed before the others have been: it is one of them, or needs one.
fn waits(
    engine: &Engine,
    found: &Result<Option<ContainerId>, Failure>,
    others: &[FoundByName<'_>],
    order: Order,
) -> bool {
    let Ok(Some(id)) = found else { return false };
    let is_among =
        |id: &ContainerId| others.iter().any(|(_, other)| matches!(other, Ok(Some(it)) if it == id));
    let needs_one = || engine.get(id).is_ok_and(|container| container.config.needs().any(is_among));
    is_among(id) || order == Order::AfterWhatItNeeds && needs_one()
}

fn change_at_once(
    engine: &Engine,
    together: Vec<FoundByName<'_>>,
    work: &(impl Fn(&Engine, &ContainerId) -> Result<(), Failure> + Sync),
) -> Vec<Failure> {
    thread::scope(|scope| {
        let begin = |id: ContainerId| scope.spawn(move || work(engine, &id));
        let mut begun = Vec::new();
        for (name, found) in together {
            begun.push((name, found.map(|id| id.map(begin))));
        }
        let mut failures = Vec::new();
        for (name, begun) in begun {
            let done = begun.and_then(|thread| match thread {
                None => Ok(()),
                Some(thread) => thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                    .and_then(|()| print_result(name)),
            });
            failures.extend(done.err());
        }
        failures
    })
}

fn optional_signal(text: Option<&str>) -> Result<Option<i32>, Failure> {
    text.map(a_signal).transpose()
}

fn a_signal(text: &str) -> Result<i32, Failure> {
    signal::number(text)
        .ok_or_else(|| Failure::new(Kind::Usage, format!("--signal {text}: there is no such signal")))
}
