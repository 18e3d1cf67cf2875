//! Container commands: `wharf container …`, and the same without that word.

mod change;
pub(super) mod files;
mod filter;
mod flags;
mod inspect;
mod list;
pub(super) mod prune;
pub(super) mod range;
mod run;
mod show;
pub(super) mod stats;
mod values;
mod wanted;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::config::Config;
use super::image;
use super::place::{Place, Wanted};
use super::prune::settle;
use super::with_store;
use crate::containers::engine::Engine;
use crate::error::{Failure, Kind};
use crate::networks::client::Connection;
use crate::progress::print_error;

pub(super) use inspect::{InspectAnyArgs, inspect, neither};

/// What is a command by itself too.
#[derive(Debug, Subcommand)]
pub(super) enum Both {
    /// Run a command in a new container of an image
    #[command(disable_help_flag = true)]
    Run(Box<run::RunArgs>),
    /// Make a container without starting it
    #[command(disable_help_flag = true)]
    Create(Box<run::CreateArgs>),
    /// Start containers that do not run
    Start(run::StartArgs),
    /// Stop containers: they are asked to end, and killed when they do not
    Stop(change::StopArgs),
    /// Stop containers and start them
    Restart(change::StopArgs),
    /// Send containers a signal
    Kill(change::KillArgs),
    /// Remove containers
    Rm(change::RmArgs),
    /// Run a command in a container that runs
    Exec(run::ExecArgs),
    /// Attach to the streams of a container that runs
    Attach(run::AttachArgs),
    /// Show what containers have printed
    Logs(show::LogsArgs),
    /// Wait until containers have ended, and print how
    Wait(change::NamesArgs),
    /// Show the processes of a container
    Top(show::TopArgs),
    /// Show what containers take of the machine
    Stats(stats::StatsArgs),
    /// Show the ports of this host that lead to a container
    Port(show::PortArgs),
    /// Copy files between a container and this host
    Cp(files::CpArgs),
    /// Make an image of a container
    Commit(files::CommitArgs),
    /// Give a container another name
    Rename(change::RenameArgs),
    /// Stop all processes of containers in the middle
    Pause(change::NamesArgs),
    /// Let them go on
    Unpause(change::NamesArgs),
}

/// `wharf container …`.
#[derive(Debug, Subcommand)]
pub(super) enum ContainerCommand {
    /// List containers
    #[command(visible_aliases = ["ps", "list"])]
    Ls(list::ListArgs),
    /// Show everything about containers
    Inspect(inspect::ContainerInspectArgs),
    /// Show in what a container differs from its image: added, changed and deleted files
    Diff(OneArgs),
    /// Write the files of a container as a tar
    Export(ExportArgs),
    /// Remove the containers that do not run
    Prune(prune::PruneArgs),
    #[command(flatten)]
    Both(Both),
}

pub(super) use files::{diff, export};
pub(super) use list::ListArgs;

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// Its name, or the first digits of its identifier
    container: String,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Its name, or the first digits of its identifier
    container: String,
    /// The archive [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<std::path::PathBuf>,
}

pub(super) fn container(
    command: ContainerCommand,
    wanted: &Wanted,
    config: &Config,
) -> Result<ExitCode, Failure> {
    match command {
        ContainerCommand::Ls(args) => list::ps(&args, wanted, config),
        ContainerCommand::Diff(args) => diff(&args.container, wanted, config),
        ContainerCommand::Export(args) => files::export_alone(&args, wanted, config),
        ContainerCommand::Prune(args) => prune::prune(&args, wanted, config),
        ContainerCommand::Inspect(args) => inspect::inspect_containers(&args, wanted, config),
        ContainerCommand::Both(command) => both(command, wanted, config),
    }
}

pub(super) fn ps(args: &ListArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    list::ps(args, wanted, config)
}

pub(super) fn both(command: Both, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    match command {
        Both::Run(args) => as_status(run::run(&args, wanted, config)),
        Both::Create(args) => as_status(run::create(&args, wanted, config)),
        Both::Start(args) => as_status(run::start(&args, wanted, config)),
        Both::Exec(args) => as_status(run::exec(&args, wanted, config)),
        Both::Attach(args) => run::attach(&args, wanted, config),
        Both::Stop(args) => change::stop(&args, wanted, config),
        Both::Restart(args) => change::restart(&args, wanted, config),
        Both::Kill(args) => change::kill(&args, wanted, config),
        Both::Rm(args) => change::rm(&args, wanted, config),
        Both::Logs(args) => show::logs(&args, wanted, config),
        Both::Wait(args) => change::wait(&args, wanted, config),
        Both::Top(args) => show::top(&args, wanted, config),
        Both::Stats(args) => stats::stats(&args, wanted, config),
        Both::Port(args) => show::port(&args, wanted, config),
        Both::Cp(args) => files::cp(&args, wanted, config),
        Both::Commit(args) => files::commit(&args, wanted, config),
        Both::Rename(args) => change::rename(&args, wanted, config),
        Both::Pause(args) => change::pause(&args, wanted, config),
        Both::Unpause(args) => change::unpause(&args, wanted, config),
    }
}

/// The commands whose exit status is otherwise that of a process.
pub(super) const WITH_STATUS: [&str; 4] = ["run", "create", "start", "exec"];

/// The exit status of such a command when wharf itself failed.
pub(super) const FAILED: u8 = 125;

/// What fails there is told by a status of its own, so that it is not taken for the process's.
fn as_status(done: Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
    match done {
        Err(failure) if !keeps_status(failure.kind) => {
            print_error(&failure);
            Ok(ExitCode::from(FAILED))
        }
        done => done,
    }
}

fn keeps_status(kind: Kind) -> bool {
    matches!(kind, Kind::CommandNotFound | Kind::CommandNotExecutable | Kind::Cancelled | Kind::ReaderGone)
}

/// A command at work on containers.
#[derive(Debug)]
struct Session<'c> {
    place: Place,
    config: &'c Config,
    config_file: Option<std::path::PathBuf>,
    /// Whether the store may have grown.
    grows: bool,
    /// What keeps the user namespace of the containers until one of them does.
    _holder: Option<Connection>,
}

impl<'c> Session<'c> {
    /// For a command that starts nothing.
    fn enter(wanted: &Wanted, config: &'c Config) -> Result<Self, Failure> {
        let place = Place::enter(wanted)?;
        Ok(Self { place, config, config_file: wanted.config_file.clone(), grows: false, _holder: None })
    }

    /// For a command that starts monitors.
    fn to_start(wanted: &Wanted, config: &'c Config) -> Result<Self, Failure> {
        let (place, holder) = Place::enter_to_start(wanted)?;
        place.tell();
        Ok(Self { place, config, config_file: wanted.config_file.clone(), grows: true, _holder: holder })
    }

    /// Does `work` with the containers of the store.
    fn with_engine<T>(&self, work: impl FnOnce(&Engine) -> Result<T, Failure>) -> Result<T, Failure> {
        with_store(&self.place, |store| {
            let done = work(&Engine::new(store, self.place.sandbox, self.config_file.clone()));
            if self.grows {
                settle(store, self.config);
            }
            done
        })
    }

    /// Brings an image.
    fn bring(&self, engine: &Engine, name: &str, platform: Option<&str>, quiet: bool) -> Result<(), Failure> {
        image::bring(engine.store(), self.place.sandbox, name, platform, quiet, self.config)
    }
}
