//! The command line: flags as typed, then as meant. The only reader of the environment and of `$HOME`.

mod build;
mod completion;
mod compose;
mod config;
mod container;
mod doctor;
mod du;
mod executor;
mod history;
mod image;
mod limits;
mod login;
mod monitor;
mod network;
mod place;
mod prune;
mod pruning;
mod registries;
mod size;
mod steps;
mod system;
mod template;
mod volume;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::error::{Failure, Kind};
use crate::progress::{color_of_results, print_error, print_result, print_warning};
use config::Config;
use place::{Place, Wanted};
use wharf_cache::Store;
use wharf_runtime::Sandbox;

/// Builds container images from a Dockerfile, without a daemon, and runs what it built.
#[derive(Debug, Parser)]
#[command(name = "wharf", version, disable_help_subcommand = true)]
struct Cli {
    /// Where images, caches and records are kept [default: /var/lib/wharf as root, else ~/.local/share/wharf]
    #[arg(long, global = true, env = "WHARF_ROOT", value_name = "DIR", hide_env = true)]
    root: Option<PathBuf>,
    /// Configuration file [default: ~/.config/wharf/config.toml, /etc/wharf/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What steps are confined with: root, rootless, rootless-single or chroot [default: the strongest that the place
    /// allows; `wharf doctor` says which]
    #[arg(long, global = true, env = "WHARF_SANDBOX", value_name = "NAME", hide_env = true)]
    sandbox: Option<Sandbox>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Build and push an image as kaniko's executor does, from the same flags
    Executor(Box<executor::ExecutorArgs>),
    #[command(flatten)]
    Containers(container::Both),
    /// List containers
    Ps(container::ListArgs),
    /// Work with containers
    Container {
        #[command(subcommand)]
        command: container::ContainerCommand,
    },
    /// Show everything about containers or images
    Inspect(container::InspectAnyArgs),
    /// List the images in the store
    Images(image::ListArgs),
    /// Remove images from the store
    Rmi(image::RmiArgs),
    /// Log in to a registry: its credentials are tried and kept
    Login(login::LoginArgs),
    /// Log out of a registry: its credentials are forgotten
    Logout(login::LogoutArgs),
    /// Work with images
    Image {
        #[command(subcommand)]
        command: image::ImageCommand,
    },
    #[command(flatten)]
    Both(image::Both),
    /// Put indexes of several images together
    Manifest {
        #[command(subcommand)]
        command: image::ManifestCommand,
    },
    /// Work with networks of containers
    Network {
        #[command(subcommand)]
        command: network::NetworkCommand,
    },
    /// Hold the networks of a store
    #[command(hide = true)]
    NetworkProcess(network::ProcessArgs),
    /// Work with volumes
    Volume {
        #[command(subcommand)]
        command: volume::VolumeCommand,
    },
    /// Show what is taken of the disk, and remove what is not used
    System {
        #[command(subcommand)]
        command: system::SystemCommand,
    },
    /// Show what the store takes
    Du(du::DuArgs),
    /// Remove what is not needed from the store
    Prune(prune::PruneArgs),
    /// Say which sandboxes this place allows, and what would unlock the others
    Doctor(doctor::DoctorArgs),
    /// Run what a compose file says: several containers, with their networks and volumes
    Compose(Box<compose::ComposeArgs>),
    /// Watch over a container: wharf starts this itself
    #[command(hide = true)]
    Monitor(monitor::MonitorArgs),
    /// Print what makes a shell complete commands, flags and names
    Completion(completion::CompletionArgs),
    /// What the shells ask
    #[command(hide = true)]
    Complete(completion::CompleteArgs),
    /// Show what was built before: list, inspect, logs of steps, compare two builds
    History(history::HistoryArgs),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    wharf_runtime::survive_long_files();
    let arguments = arguments(std::env::args_os());
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            // A closed terminal is no reason to fail twice.
            let _ = error.print();
            return ExitCode::from(match has_status_of_process(&arguments) {
                true => container::FAILED,
                false => Kind::Usage.exit_code(),
            });
        }
        Err(help) => return end(print_result(&help_text(&help)).map(|()| ExitCode::SUCCESS)),
    };
    end(run_command(cli))
}

/// What was typed. A link to this program called `executor` is its command `executor`.
fn arguments(typed: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = typed.into_iter().collect();
    let name = arguments.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| name == executor::NAME) {
        arguments.insert(1, executor::NAME.into());
    }
    arguments
}

/// Whether the command is one whose exit status is otherwise that of a process in a container.
fn has_status_of_process(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().skip(1).filter_map(|argument| argument.to_str());
    while let Some(word) = words.next() {
        match word {
            "--root" | "--config" | "--sandbox" => _ = words.next(),
            "container" => {}
            flag if flag.starts_with('-') => {}
            command => return container::WITH_STATUS.contains(&command),
        }
    }
    false
}

fn run_command(cli: Cli) -> Result<ExitCode, Failure> {
    let config = Config::load(cli.config.as_deref())?;
    let config_file = cli.config.as_deref().and_then(|file| std::path::absolute(file).ok());
    let wanted = Wanted { root: cli.root, sandbox: cli.sandbox.or(config.sandbox), config_file };
    match cli.command {
        Command::Build(args) => build::build(*args, &wanted, &config),
        Command::Executor(args) => executor::executor(*args, wanted, &config),
        Command::Containers(command) => container::both(command, &wanted, &config),
        Command::Ps(args) => container::ps(&args, &wanted, &config),
        Command::Container { command } => container::container(command, &wanted, &config),
        Command::Inspect(args) => container::inspect(&args, &wanted, &config),
        Command::Images(args) => image::images(&args, &wanted),
        Command::Image { command } => image::image(command, &wanted, &config),
        Command::Manifest { command } => image::manifest(command, &wanted, &config),
        Command::Both(command) => image::both(command, &wanted, &config),
        Command::Rmi(args) => image::rmi(&args, &wanted),
        Command::Login(args) => login::login(&args, &config),
        Command::Logout(args) => login::logout(&args),
        Command::Network { command } => network::network(command, &wanted),
        Command::NetworkProcess(args) => network::network_process(&args, &wanted),
        Command::Volume { command } => volume::volume(command, &wanted),
        Command::System { command } => system::system(command, &wanted, &config),
        Command::Du(args) => du::du(&args, &wanted, &config),
        Command::Prune(args) => prune::prune(&args, &wanted),
        Command::Doctor(args) => doctor::doctor(&args, &wanted, &config),
        Command::Compose(args) => compose::compose(*args, &wanted, &config),
        Command::Monitor(args) => monitor::monitor(args, &wanted, &config),
        Command::Completion(args) => completion::completion(&args),
        Command::Complete(args) => completion::complete(&args, Cli::command(), &wanted),
        Command::History(args) => history::history(args, &wanted),
    }
}

/// Says what is to be said at the end.
fn end(done: Result<ExitCode, Failure>) -> ExitCode {
    done.unwrap_or_else(|failure| {
        if failure.kind != Kind::ReaderGone {
            print_error(&failure);
        }
        ExitCode::from(failure.kind.exit_code())
    })
}

/// What `--help` and `--version` print.
fn help_text(help: &clap::Error) -> String {
    let text = help.render();
    let text = if color_of_results() { text.ansi().to_string() } else { text.to_string() };
    text.trim_end_matches('\n').to_owned()
}

/// Does `work` with the store of `place`. Says what was found damaged in it, before and meanwhile.
fn with_store<T>(place: &Place, work: impl FnOnce(&Store) -> Result<T, Failure>) -> Result<T, Failure> {
    let store = place.open_store()?;
    let done = work(&store);
    tell_damages(&store);
    done
}

fn tell_damages(store: &Store) {
    for damage in store.take_damages() {
        print_warning(&damage.to_string());
    }
}

/// Where QEMU may be: where the environment says, where the configuration says, and where other programs are.
fn qemu_places(config: &Config) -> Vec<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    let said = variable("WHARF_QEMU").map(PathBuf::from).into_iter().chain(config.qemu.clone());
    said.chain(std::env::split_paths(&path)).collect()
}

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
