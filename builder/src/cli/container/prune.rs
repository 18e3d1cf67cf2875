//! `wharf container prune`.

use std::process::ExitCode;

use clap::Args;
use wharf_cache::from_nanos;

use super::Session;
use crate::cli::config::Config;
use crate::cli::image::told;
use crate::cli::place::Wanted;
use crate::cli::pruning::{Filters, Pruned, confirm};
use crate::containers::engine::{Engine, Remove};
use crate::containers::state::Status;
use crate::error::Failure;
use crate::progress::{bytes, print_result};

#[derive(Debug, Args)]
pub(in crate::cli) struct PruneArgs {
    /// Only what is so: until=24h or TIME (made before), label=KEY[=VALUE], label!=KEY[=VALUE]; may be given several times
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(super) fn prune(args: &PruneArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let filters = Filters::parse(&args.filter, &["until", "label", "label!"])?;
    Session::enter(wanted, config)?
        .with_engine(|engine| {
            confirm(args.force, "all containers that do not run")?;
            let Pruned { names: removed, bytes: freed, done } = prune_containers(engine, &filters)?;
            let deleted = removed.iter().map(|id| format!("\n{id}")).collect::<String>();
            let deleted =
                if removed.is_empty() { String::new() } else { format!("Deleted Containers:{deleted}\n\n") };
            print_result(&format!("{deleted}Total reclaimed space: {}", bytes(freed)))?;
            done
        })
        .map(|()| ExitCode::SUCCESS)
}

/// Removes containers that do not run.
pub(in crate::cli) fn prune_containers(engine: &Engine, filters: &Filters) -> Result<Pruned, Failure> {
    let items = engine.store().items().map_err(|error| {
        Failure::from_error(crate::error::Kind::Environment, "cannot look through the store", &error)
    })?;
    let (mut removed, mut freed, mut failures) = (Vec::new(), 0, Vec::new());
    for container in engine.list()? {
        let (config, status) = (&container.config, container.state.status);
        if !matches!(status, Status::Created | Status::Exited | Status::Dead)
            || !filters.admits_labels(&config.labels)
            || !filters.admits_time(from_nanos(config.created))
        {
            continue;
        }
        match engine.remove(&config.id, Remove { force: false, volumes: false }) {
            Ok(()) => {
                freed +=
                    items.iter().filter(|item| item.name == config.id.0).map(|item| item.bytes).sum::<u64>();
                removed.push(config.id.0.clone());
            }
            Err(failure) => failures.push(failure),
        }
    }
    Ok(Pruned { names: removed, bytes: freed, done: told(failures) })
}
