//! The command line: flags as typed, then as meant. The only reader of the environment and of `$HOME`.

mod build;
mod config;
mod du;
mod executor;
mod history;
mod image;
mod prune;
mod run;
mod size;
mod steps;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Failure, Kind};
use crate::progress::{color_of_results, print_error, print_result, print_warning};
use config::Config;
use wharf_cache::Store;

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
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Build and push an image as kaniko's executor does, from the same flags
    Executor(Box<executor::ExecutorArgs>),
    /// Run a command in a new container of an image
    Run(run::RunArgs),
    /// List the images in the store
    Images,
    /// Remove images from the store
    Rmi(image::RmiArgs),
    /// Show what the store takes
    Du(du::DuArgs),
    /// Remove what is not needed from the store
    Prune(prune::PruneArgs),
    /// Show what was built before: list, inspect, logs of steps, compare two builds
    History(history::HistoryArgs),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(arguments(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            // A closed terminal is no reason to fail twice.
            let _ = error.print();
            return ExitCode::from(Kind::Usage.exit_code());
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

fn run_command(cli: Cli) -> Result<ExitCode, Failure> {
    let config = || Config::load(cli.config.as_deref());
    match cli.command {
        Command::Build(args) => build::build(*args, cli.root, &config()?),
        Command::Executor(args) => executor::executor(*args, cli.root, &config()?),
        Command::Run(args) => run::run(&args, cli.root, &config()?),
        Command::Images => image::images(cli.root),
        Command::Rmi(args) => image::rmi(&args, cli.root),
        Command::Du(args) => du::du(&args, cli.root, &config()?),
        Command::Prune(args) => prune::prune(&args, cli.root),
        Command::History(args) => history::history(args, cli.root),
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

/// Refuses what could only fail late: mounting and running take root's rights.
fn require_root() -> Result<(), Failure> {
    let user = rustix::process::geteuid();
    if !user.is_root() {
        let message = format!("building and running need root, and this is user {}", user.as_raw());
        return Err(Failure::new(Kind::Environment, message).hint("run wharf as root for now"));
    }
    // Where the kernel does not say, it will when the time comes.
    let lacks_it = rustix::thread::capabilities(None)
        .is_ok_and(|sets| !sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
    if lacks_it {
        let message =
            "building and running need the right to mount (CAP_SYS_ADMIN), and this process lacks it";
        return Err(Failure::new(Kind::Environment, message)
            .hint("run wharf as root for now; in a container, one that has CAP_SYS_ADMIN"));
    }
    Ok(())
}

/// Does `work` with the store at `root`. Says what was found damaged in it, before and meanwhile.
fn with_store<T>(
    root: Option<PathBuf>,
    work: impl FnOnce(&Store) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let store = open_store(root)?;
    let done = work(&store);
    tell_damages(&store);
    done
}

fn tell_damages(store: &Store) {
    for damage in store.take_damages() {
        print_warning(&damage.to_string());
    }
}

/// Opens the store at `root`, or where it is by default.
fn open_store(root: Option<PathBuf>) -> Result<Store, Failure> {
    let root = match root {
        Some(root) => root,
        None => default_root().ok_or_else(|| {
            Failure::new(
                Kind::Environment,
                "cannot tell where the store is: neither HOME nor XDG_DATA_HOME is set",
            )
            .hint("give `--root DIR`")
        })?,
    };
    Store::open(&root).inspect(tell_damages).map_err(|error| {
        let root = root.display();
        let doing = match error.is_read_only() {
            true => format!("the store `{root}` cannot be written"),
            false => format!("cannot open the store `{root}`"),
        };
        Failure::from_error(Kind::Environment, &doing, &error)
    })
}

/// The store at `root` if there is a whole one that this process may use.
fn existing_store(root: Option<PathBuf>) -> Option<Store> {
    let root = root.or_else(default_root)?;
    let is_whole = ["state.db", "oci-layout", "index.json"].iter().all(|name| root.join(name).is_file());
    if is_whole { Store::open(&root).ok() } else { None }
}

fn default_root() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/wharf"));
    }
    let data = variable("XDG_DATA_HOME").map(PathBuf::from);
    data.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/share")))
        .map(|data| data.join("wharf"))
}

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
