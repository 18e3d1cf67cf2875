//! `wharf compose config`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::project::{self, Opened};
use super::session::Cx;
use crate::compose::convert;
use crate::error::{Failure, Kind};
use crate::progress::print_result;

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// yaml or json
    #[arg(long, value_enum, default_value_t = Form::Yaml)]
    format: Form,
    /// Leave variables as they are written
    #[arg(
        long,
        conflicts_with_all = ["services", "volumes", "networks", "images", "profiles", "hash", "environment", "only"]
    )]
    no_interpolate: bool,
    /// Say only what is wrong
    #[arg(short, long)]
    quiet: bool,
    /// List the services
    #[arg(long)]
    services: bool,
    /// List the volumes
    #[arg(long)]
    volumes: bool,
    /// List the networks
    #[arg(long)]
    networks: bool,
    /// List the images
    #[arg(long)]
    images: bool,
    /// List the profiles
    #[arg(long)]
    profiles: bool,
    /// Print the hash of what services say: names with commas, or `*`
    #[arg(long, value_name = "SERVICE[,SERVICE]")]
    hash: Option<String>,
    /// Print the variables that the files see
    #[arg(long)]
    environment: bool,
    /// Write to a file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only these services, and what they depend on
    #[arg(value_name = "SERVICE")]
    only: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Yaml,
    Json,
}

pub(super) fn config(cx: &Cx<'_>, args: &ConfigArgs) -> Result<ExitCode, Failure> {
    let text = match args.no_interpolate {
        true => {
            let written = project::as_written(&cx.project)?;
            match args.format {
                Form::Yaml => written.to_yaml(),
                Form::Json => written.to_json(),
            }
        }
        false => interpolated(cx, args)?,
    };
    if args.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    let text = text.trim_end_matches('\n');
    match &args.output {
        Some(path) => std::fs::write(path, format!("{text}\n")).map_err(|error| {
            Failure::from_error(Kind::Environment, &format!("cannot write `{}`", path.display()), &error)
        })?,
        None if text.is_empty() => {}
        None => print_result(text)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is shown of a project with its variables replaced.
fn interpolated(cx: &Cx<'_>, args: &ConfigArgs) -> Result<String, Failure> {
    let opened = Opened::read(&cx.project)?;
    let project = opened.select(&args.only, true)?;
    let lines = |names: Vec<String>| names.join("\n");
    Ok(if args.profiles {
        lines(opened.origin.project.profiles().into_iter().map(str::to_owned).collect())
    } else if args.services {
        lines(project.start_order().into_iter().flatten().map(str::to_owned).collect())
    } else if args.volumes {
        lines(project.volumes.keys().cloned().collect())
    } else if args.networks {
        lines(project.networks.keys().cloned().collect())
    } else if args.images {
        lines(project.images())
    } else if args.environment {
        lines(opened.origin.environment.iter().map(|(name, value)| format!("{name}={value}")).collect())
    } else if let Some(names) = &args.hash {
        let names: Vec<&str> = match names.as_str() {
            "*" => project.services.keys().map(String::as_str).collect(),
            names => names.split(',').map(str::trim).collect(),
        };
        let mut text = String::new();
        for name in names {
            if !project.services.contains_key(name) {
                return Err(Failure::new(Kind::Usage, format!("there is no service {name}")));
            }
            // As it stands in the label of containers.
            let _ = writeln!(text, "{name} {}", convert::hash(&opened.origin, name)?);
        }
        text.trim_end().to_owned()
    } else {
        opened.warn(&project);
        match args.format {
            Form::Yaml => project.to_yaml(),
            Form::Json => project.to_json(),
        }
    })
}
