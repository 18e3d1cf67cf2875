//! The command line: flags as typed, then as meant. The only reader of the environment and of `$HOME`.

mod build;
mod image;
mod run;
mod steps;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Failure, Kind};
use crate::progress::print_error;
use wharf_cache::Store;

/// Builds container images from a Dockerfile, without a daemon, and runs what it built.
#[derive(Debug, Parser)]
#[command(name = "wharf", version, disable_help_subcommand = true)]
struct Cli {
    /// Where images, caches and records are kept [default: /var/lib/wharf as root, else ~/.local/share/wharf]
    #[arg(long, global = true, env = "WHARF_ROOT", value_name = "DIR", hide_env = true)]
    root: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Run a command in a new container of an image
    Run(run::RunArgs),
    /// List the images in the store
    Images,
    /// Remove images from the store
    Rmi(image::RmiArgs),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Kind::Usage.exit_code() } else { 0 };
            // A closed terminal is no reason to fail twice.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let done = match cli.command {
        Command::Build(args) => build::build(*args, cli.root),
        Command::Run(args) => run::run(&args, cli.root),
        Command::Images => image::images(cli.root),
        Command::Rmi(args) => image::rmi(&args, cli.root),
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            print_error(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
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
    Store::open(&root).map_err(|error| {
        Failure::from_error(Kind::Environment, &format!("cannot open the store `{}`", root.display()), &error)
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
