//! `wharf system`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use wharf_cache::Store;
use wharf_cache::gc::{Goal, Item, Kind as What, State};

use super::config::Config;
use super::container::prune::prune_containers;
use super::image::told;
use super::place::{Place, Wanted};
use super::pruning::{Filters, confirm};
use super::template::{Column, Format};
use super::volume::prune_volumes;
use super::{du, with_store};
use crate::containers::engine::Engine;
use crate::containers::uses::{configs, is_of};
use crate::error::{Failure, Kind};
use crate::networks::record::Networks;
use crate::progress::{bytes, print_result};
use crate::volumes::Volumes;
use wharf_cache::from_nanos;

/// `wharf system …`.
#[derive(Debug, Subcommand)]
pub(super) enum SystemCommand {
    /// Show what images, containers, volumes and the build cache take of the disk
    Df(DfArgs),
    /// Remove what is not used: containers that do not run, networks, images, build cache
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
pub(super) struct DfArgs {
    /// Show every single thing
    #[arg(short, long)]
    verbose: bool,
    /// table, json, or a template: `{{.Type}} {{.Size}}`
    #[arg(long, value_name = "FORMAT", conflicts_with = "verbose")]
    format: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Remove all images that no container has, and the whole build cache
    #[arg(short, long)]
    all: bool,
    /// Remove volumes too that no container has and that were given no name
    #[arg(long)]
    volumes: bool,
    /// Only what is so: until=24h or TIME (made before), label=KEY[=VALUE], label!=KEY[=VALUE]; may be given several times
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

const COLUMNS: [Column; 5] = [
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

pub(super) fn system(command: SystemCommand, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    match command {
        SystemCommand::Df(args) => df(&args, wanted),
        SystemCommand::Prune(args) => prune(&args, wanted, config),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// How much of one kind there is.
struct Sum {
    name: &'static str,
    total: usize,
    active: usize,
    size: u64,
    reclaimable: u64,
}

fn df(args: &DfArgs, wanted: &Wanted) -> Result<(), Failure> {
    let format = Format::parse(args.format.as_deref())?;
    format.require_fields(&COLUMNS)?;
    let place = Place::enter(wanted)?;
    with_store(&place, |store| {
        let items = items(store)?;
        if args.verbose {
            return print_result(&du::list(&items));
        }
        let engine = Engine::new(store, place.sandbox, None);
        let rows: Vec<Value> = sums(store, &engine, &items)?.iter().map(row).collect();
        format.print(&rows, &COLUMNS.map(|(field, _)| field), &COLUMNS)
    })
}

fn items(store: &Store) -> Result<Vec<Item>, Failure> {
    store
        .items()
        .map_err(|error| Failure::from_error(Kind::Environment, "cannot look through the store", &error))
}

fn sums(store: &Store, engine: &Engine, items: &[Item]) -> Result<[Sum; 4], Failure> {
    let size = |of: &dyn Fn(&Item) -> bool| items.iter().filter(|item| of(item)).map(|item| item.bytes).sum();
    let images = store
        .images()
        .map_err(|error| Failure::from_error(Kind::Environment, "cannot list the images", &error))?;
    let containers = engine.list()?;
    let is_used = |image: &wharf_cache::state::Image| containers.iter().any(|it| is_of(&it.config, image));
    let digests: BTreeSet<_> = images.iter().map(|image| image.digest).collect();
    let used: BTreeSet<_> = images.iter().filter(|image| is_used(image)).map(|image| image.digest).collect();
    let used_names: BTreeSet<&str> =
        images.iter().filter(|image| is_used(image)).filter_map(|image| image.name.as_deref()).collect();
    let is_image =
        |item: &Item| item.kind == What::Blob && (!item.images.is_empty() || item.state == State::Dangling);
    let is_idle = |item: &Item| {
        is_image(item)
            && item.state != State::InUse
            && !item.images.iter().any(|name| used_names.contains(name.as_str()))
    };
    let up: BTreeSet<&str> = containers
        .iter()
        .filter(|container| container.state.status.is_up())
        .map(|container| container.config.id.0.as_str())
        .collect();
    let is_container = |item: &Item| item.kind == What::Container && item.name.len() == 64;
    let users = Volumes::new(store).all_users()?;
    let volumes = Volumes::new(store).list()?;
    let is_cache = |item: &Item| {
        matches!(item.kind, What::Snapshot | What::CacheMount | What::Repository)
            || item.kind == What::Blob && !is_image(item)
    };
    let count = |of: &dyn Fn(&Item) -> bool| items.iter().filter(|item| of(item)).count();
    Ok([
        Sum {
            name: "Images",
            total: digests.len(),
            active: used.len(),
            size: size(&is_image),
            reclaimable: size(&is_idle),
        },
        Sum {
            name: "Containers",
            total: containers.len(),
            active: up.len(),
            size: size(&is_container),
            reclaimable: size(&|item| is_container(item) && !up.contains(item.name.as_str())),
        },
        Sum {
            name: "Local Volumes",
            total: volumes.len(),
            active: volumes.iter().filter(|volume| users.contains_key(&volume.name)).count(),
            size: size(&|item| item.kind == What::Volume),
            reclaimable: size(&|item| item.kind == What::Volume && !users.contains_key(&item.name)),
        },
        Sum {
            name: "Build Cache",
            total: count(&is_cache),
            active: count(&|item| is_cache(item) && item.state == State::InUse),
            size: size(&is_cache),
            reclaimable: size(&|item| is_cache(item) && item.state.is_collectable()),
        },
    ])
}

fn row(sum: &Sum) -> Value {
    let share = sum.reclaimable.saturating_mul(100).checked_div(sum.size).unwrap_or(0);
    json!({
        "Type": sum.name,
        "TotalCount": sum.total.to_string(),
        "Active": sum.active.to_string(),
        "Size": bytes(sum.size),
        "Reclaimable": format!("{} ({share}%)", bytes(sum.reclaimable)),
    })
}

fn prune(args: &PruneArgs, wanted: &Wanted, _: &Config) -> Result<(), Failure> {
    let filters = Filters::parse(&args.filter, &["until", "label", "label!"])?;
    let place = Place::enter(wanted)?;
    with_store(&place, |store| {
        confirm(args.force, what_goes(args))?;
        let engine = Engine::new(store, place.sandbox, None);
        let before = total(store)?;
        let mut text = String::new();
        let mut failures = Vec::new();
        let mut section = |title: &str, names: &[String]| {
            if !names.is_empty() {
                text.push_str(&format!("Deleted {title}:\n{}\n\n", names.join("\n")));
            }
        };
        let pruned = prune_containers(&engine, &filters)?;
        section("Containers", &pruned.names);
        failures.extend(pruned.done.err());
        let (removed, done) = prune_networks(store, &filters)?;
        section("Networks", &removed);
        failures.extend(done.err());
        if args.volumes {
            let pruned = prune_volumes(store, false, &filters)?;
            section("Volumes", &pruned.names);
            failures.extend(pruned.done.err());
        }
        if args.all {
            let (removed, done) = prune_images(store, &filters)?;
            section("Images", &removed);
            failures.extend(done.err());
        }
        // What the build cache has has no labels.
        let collects = args.filter.iter().all(|filter| !filter.starts_with("label"));
        if collects {
            let admit = |item: &Item| {
                (args.all || matches!(item.state, State::Garbage | State::Dangling))
                    && item.used.is_none_or(|used| filters.admits_time(used))
            };
            let collected = store.collect(Goal::Everything, &admit);
            let collected = collected
                .map_err(|error| Failure::from_error(Kind::Environment, "cannot collect", &error))?;
            let names: Vec<String> = collected.removed.iter().map(|item| item.name.clone()).collect();
            section("Build Cache and Images Without a Name", &names);
        }
        let freed = before.saturating_sub(total(store)?);
        print_result(&format!("{text}Total reclaimed space: {}", bytes(freed)))?;
        told(failures)
    })
}

fn what_goes(args: &PruneArgs) -> &'static str {
    match (args.all, args.volumes) {
        (false, false) => {
            "all containers that do not run, all networks that none has, all images without a name, and what no build can use"
        }
        (false, true) => {
            "all containers that do not run, all networks and unnamed volumes that none has, all images without a name, and what \
             no build can use"
        }
        (true, false) => {
            "all containers that do not run, all networks and images that none has, and the whole build cache"
        }
        (true, true) => {
            "all containers that do not run, all networks, unnamed volumes and images that none has, and the whole build cache"
        }
    }
}

fn total(store: &Store) -> Result<u64, Failure> {
    Ok(items(store)?.iter().map(|item| item.bytes).sum())
}

fn prune_networks(store: &Store, filters: &Filters) -> Result<(Vec<String>, Result<(), Failure>), Failure> {
    use crate::containers::config::NetworkUse;
    let used: BTreeSet<String> = configs(store)?
        .into_iter()
        .flat_map(|config| match config.network {
            NetworkUse::Networks { attached } => attached.into_iter().map(|it| it.network).collect(),
            _ => Vec::new(),
        })
        .collect();
    let networks = Networks::of(store.root());
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for network in networks.list()? {
        if network.is_predefined()
            || used.contains(&network.name)
            || !filters.admits_labels(&network.labels)
            || !filters.admits_time(from_nanos(network.created))
        {
            continue;
        }
        match networks.remove(&network) {
            Ok(()) => removed.push(network.name),
            Err(failure) => failures.push(failure),
        }
    }
    Ok((removed, told(failures)))
}

/// Removes the names of all images that no container has.
fn prune_images(store: &Store, filters: &Filters) -> Result<(Vec<String>, Result<(), Failure>), Failure> {
    let configs = configs(store)?;
    let failed = |error: &wharf_cache::StoreError| {
        Failure::from_error(Kind::Environment, "cannot remove an image", error)
    };
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for image in store.images().map_err(|error| failed(&error))? {
        let is_used = configs.iter().any(|config| is_of(config, &image));
        let labels = labels_of(store, &image);
        if is_used || !filters.admits_labels(&labels) || !filters.admits_time(image.created) {
            continue;
        }
        match store.remove_image(&image) {
            Ok(_) => removed.push(image.name.unwrap_or_else(|| image.digest.to_string())),
            Err(error) => failures.push(failed(&error)),
        }
    }
    Ok((removed, told(failures)))
}

fn labels_of(store: &Store, image: &wharf_cache::state::Image) -> BTreeMap<String, String> {
    let stored = crate::images::stored::Stored::look(store, image.digest).ok();
    let images = stored.into_iter().flat_map(|stored| stored.images);
    images.filter_map(|image| image.config.config.labels).flatten().collect()
}
