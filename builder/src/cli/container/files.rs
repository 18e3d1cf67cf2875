//! `wharf cp`, `commit`, `diff` and `export` of a container.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgAction, Args};
use wharf_cache::diff::{Change, Copied};
use wharf_runtime::{Cancel, Sandbox};

use super::{ExportArgs, Session};
use crate::cli::config::Config;
use crate::cli::image::{destination, name_with_tag};
use crate::cli::place::Wanted;
use crate::containers::commit::Commit;
use crate::containers::copy::{self, How};
use crate::containers::engine::{Container, Engine};
use crate::error::{Failure, Kind};
use crate::exporter::{self, tar};
use crate::progress::{print_result, print_warning, printable, results};

#[derive(Debug, Args)]
pub(in crate::cli) struct CpArgs {
    /// Keep owners [default: copies are root's in a container, and the user's own here]
    #[arg(short, long)]
    archive: bool,
    /// Copy what the link SOURCE leads to, and not the link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Say nothing of what was copied, as is done anyway: for scripts written for docker
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, a path here, or `-` for a tar from standard input; `PATH/.` is what is in a directory
    source: String,
    /// The same, with `-` for a tar to standard output
    dest: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CommitArgs {
    /// Who made the image
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    author: String,
    /// An instruction that sets something of the image: `CMD ["/bin/sh"]`; may be given several times
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What the image's history says
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// Stop the container's processes in the middle meanwhile
    #[arg(short, long, value_name = "BOOL", default_value_t = true, default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    pause: bool,
    /// Its name, or the first digits of its identifier
    container: String,
    /// The name of the image
    name: Option<String>,
}

/// One side of `cp`.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Stream,
    Here(&'a Path),
    In(&'a str, &'a Path),
}

impl<'a> Side<'a> {
    /// A colon before the first slash names a container, unless the path says that it is one of this host.
    fn parse(text: &'a str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        match text.split_once(':') {
            Some((container, path))
                if !container.is_empty() && !text.starts_with(['/', '.']) && !container.contains('/') =>
            {
                Self::In(container, Path::new(path))
            }
            _ => Self::Here(Path::new(text)),
        }
    }
}

pub(in crate::cli) fn cp(args: &CpArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let session = Session::enter(wanted, config)?;
    session.with_engine(|engine| copy(args, engine, &|name| engine.find(name)))
}

/// Copies between a container, which `find` knows by what stands before the colon, and this host.
pub(in crate::cli) fn copy(
    args: &CpArgs,
    engine: &Engine,
    find: &dyn Fn(&str) -> Result<Container, Failure>,
) -> Result<ExitCode, Failure> {
    let base = std::env::current_dir().map_err(|error| {
        Failure::from_error(Kind::Environment, "cannot find the current directory", &error)
    })?;
    let how = How {
        archive: args.archive,
        follow: args.follow_link,
        host_devices: engine.sandbox() == Sandbox::Root,
    };
    let open = |name: &str| engine.open_files(&find(name)?);
    let copied = match (Side::parse(&args.source), Side::parse(&args.dest)) {
        (Side::In(name, path), Side::Here(to)) => {
            require_path(path)?;
            copy::out(&open(name)?, path, to, &base, how)?
        }
        (Side::In(name, path), Side::Stream) => {
            require_path(path)?;
            let mut out = std::io::BufWriter::new(results().map_err(|error| {
                Failure::from_error(Kind::Environment, "cannot write to standard output", &error)
            })?);
            let copied = copy::out_as_tar(&open(name)?, path, args.follow_link, &mut out)?;
            out.flush().map_err(|error| {
                Failure::from_error(Kind::Environment, "cannot write to standard output", &error)
            })?;
            copied
        }
        (Side::Here(from), Side::In(name, path)) => {
            require_path(path)?;
            copy::into(&open(name)?, from, &base, path, how)?
        }
        (Side::Stream, Side::In(name, path)) => {
            require_path(path)?;
            copy::into_from_tar(&open(name)?, std::io::stdin().lock(), path)?
        }
        (Side::In(..), Side::In(..)) => {
            return Err(Failure::new(Kind::Usage, "nothing is copied from one container to another")
                .hint("`wharf cp ONE:PATH - | wharf cp - OTHER:PATH` does it"));
        }
        _ => {
            return Err(Failure::new(Kind::Usage, "one side is to be in a container: CONTAINER:PATH"));
        }
    };
    tell(&copied);
    Ok(ExitCode::SUCCESS)
}

fn require_path(path: &Path) -> Result<(), Failure> {
    match path.as_os_str().is_empty() {
        true => Err(Failure::new(Kind::Usage, "no path follows the name of the container: CONTAINER:PATH")),
        false => Ok(()),
    }
}

fn tell(copied: &Copied) {
    for path in &copied.left_out {
        let path = printable(&path.display().to_string());
        print_warning(&format!(
            "`{path}` was left out: it is a socket, or a device that cannot be made here"
        ));
    }
}

pub(in crate::cli) fn commit(
    args: &CommitArgs,
    wanted: &Wanted,
    config: &Config,
) -> Result<ExitCode, Failure> {
    let name = args.name.as_deref().map(name_with_tag).transpose()?;
    let mut session = Session::enter(wanted, config)?;
    session.grows = true;
    session.with_engine(|engine| {
        let commit = Commit {
            name,
            author: args.author.clone(),
            message: args.message.clone(),
            changes: args.change.clone(),
            pause: args.pause,
        };
        let id = engine.commit(&engine.find(&args.container)?, &commit)?;
        print_result(&id.to_string()).map(|()| ExitCode::SUCCESS)
    })
}

/// Prints what differs in a container from its image.
pub(in crate::cli) fn diff(name: &str, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    Session::enter(wanted, config)?
        .with_engine(|engine| {
            let changes = engine.changes(&engine.find(name)?)?;
            let lines: Vec<String> = changes
                .iter()
                .map(|(path, change)| {
                    let letter = match change {
                        Change::Added => 'A',
                        Change::Changed => 'C',
                        Change::Deleted => 'D',
                    };
                    format!("{letter} /{}", printable(&path.display().to_string()))
                })
                .collect();
            if lines.is_empty() { Ok(()) } else { print_result(&lines.join("\n")) }
        })
        .map(|()| ExitCode::SUCCESS)
}

/// Writes the files of a container as a tar. Says whether there is one that is called so.
pub(in crate::cli) fn export(
    engine: &Engine,
    name: &str,
    output: Option<&Path>,
    cancel: &Cancel,
) -> Result<bool, Failure> {
    if engine.resolve(name).is_err() {
        return Ok(false);
    }
    let container = engine.find(name)?;
    let dest = destination(output)?;
    let cannot = |error: &(dyn std::error::Error + 'static)| {
        Failure::from_error(Kind::Environment, &format!("cannot export the container `{name}`"), error)
    };
    let root = engine.view(&container)?;
    let files = exporter::Tree { root, platform: String::new(), below: None };
    let ids = engine.store().setup().ids;
    dest.write(cancel, |out| tar::write(&[files], ids, None, out)).map_err(|error| cannot(&error))?;
    Ok(true)
}

pub(super) fn export_alone(args: &ExportArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let cancel =
        Cancel::new().map_err(|error| Failure::from_error(Kind::Environment, "cannot start", &error))?;
    let name = &args.container;
    Session::enter(wanted, config)?.with_engine(|engine| {
        match export(engine, name, args.output.as_deref(), &cancel)? {
            true => Ok(ExitCode::SUCCESS),
            false => Err(Failure::new(Kind::Usage, format!("there is no container `{name}`"))
                .hint("`wharf ps -a` lists all containers")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        for (text, expected) in [
            ("-", Side::Stream),
            ("web:/etc/x", Side::In("web", Path::new("/etc/x"))),
            ("web:x:y", Side::In("web", Path::new("x:y"))),
            ("web:", Side::In("web", Path::new(""))),
            ("./a:b", Side::Here(Path::new("./a:b"))),
            ("/a:b", Side::Here(Path::new("/a:b"))),
            ("dir/a:b", Side::Here(Path::new("dir/a:b"))),
            (":b", Side::Here(Path::new(":b"))),
            ("plain", Side::Here(Path::new("plain"))),
        ] {
            assert_eq!(Side::parse(text), expected, "{text}");
        }
    }
}
