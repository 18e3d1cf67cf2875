//! `wharf volume`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use wharf_cache::{Store, from_nanos};

use super::image::{pretty, told};
use super::place::{Place, Wanted};
use super::pruning::{Filters, Pruned, confirm};
use super::template::{Column, Format, Template};
use super::with_store;
use crate::csv::boolean;
use crate::error::{Failure, Kind};
use crate::exporter::rfc3339;
use crate::progress::{bytes, print_result, print_warning};
use crate::volumes::{DRIVER, Volume, Volumes};

/// `wharf volume …`.
#[derive(Debug, Subcommand)]
pub(super) enum VolumeCommand {
    /// Make a volume
    Create(CreateArgs),
    /// Show everything about volumes
    Inspect(InspectArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Remove volumes that no container has
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove the volumes that no container has and that were given no name
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// What keeps it: local
    #[arg(short, long, value_name = "DRIVER", default_value = DRIVER)]
    driver: String,
    /// An option of its driver, as mount(8) has it: type=nfs, device=:/path, o=addr=…; may be given several times
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// A label; may be given several times
    #[arg(long = "label", value_name = "KEY[=VALUE]")]
    labels: Vec<String>,
    /// Its name [default: 64 digits]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
    /// json, or a template: `{{.Mountpoint}}`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only what is so: name=PART, driver=NAME, label=KEY[=VALUE], dangling=BOOL; may be given several times
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// table, json, or a template: `{{.Name}}`, `table {{.Name}}\t{{.Labels}}`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show names alone
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Pass over those that are not there
    #[arg(short, long)]
    force: bool,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Those too that were given a name
    #[arg(short, long)]
    all: bool,
    /// Only what is so: label=KEY[=VALUE], label!=KEY[=VALUE], all=BOOL; may be given several times
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// The fields of a line, with their headings.
const COLUMNS: [Column; 9] = [
    ("CreatedAt", "CREATED AT"),
    ("Driver", "DRIVER"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Name", "VOLUME NAME"),
    ("Options", "OPTIONS"),
    ("Scope", "SCOPE"),
    ("Size", "SIZE"),
];

pub(super) fn volume(command: VolumeCommand, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let format = match &command {
        VolumeCommand::Ls(args) => Format::parse(args.format.as_deref())?,
        VolumeCommand::Inspect(args) => Format::parse(args.format.as_deref())?,
        _ => Format::Table,
    };
    if matches!(command, VolumeCommand::Ls(_)) {
        format.require_fields(&COLUMNS)?;
    }
    with_store(&Place::enter(wanted)?, |store| match &command {
        VolumeCommand::Create(args) => create(args, store),
        VolumeCommand::Inspect(args) => inspect(args, &format, store),
        VolumeCommand::Ls(args) => list(args, &format, store),
        VolumeCommand::Rm(args) => remove(args, store),
        VolumeCommand::Prune(args) => prune(args, store),
    })
    .map(|()| ExitCode::SUCCESS)
}

fn create(args: &CreateArgs, store: &Store) -> Result<(), Failure> {
    let pairs = |texts: &[String]| -> BTreeMap<String, String> {
        let pair = |text: &String| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            (key.to_owned(), value.to_owned())
        };
        texts.iter().map(pair).collect()
    };
    let ask = Volume {
        name: args.name.clone().unwrap_or_default(),
        driver: args.driver.clone(),
        options: pairs(&args.options),
        labels: pairs(&args.labels),
        ..Volume::default()
    };
    let (volume, is_new) = Volumes::new(store).create(&ask)?;
    if !is_new && (volume.options != ask.options || volume.labels != ask.labels) {
        print_warning(&format!(
            "the volume `{}` was there already, and keeps its options and labels",
            volume.name
        ));
    }
    print_result(&volume.name)
}

fn list(args: &ListArgs, format: &Format, store: &Store) -> Result<(), Failure> {
    let filters = Filters::parse(&args.filter, &["name", "driver", "label", "dangling"])?;
    let dangling = filters.others.iter().filter(|(key, _)| key == "dangling");
    let dangling: Vec<bool> =
        dangling.map(|(_, value)| truth("dangling", value)).collect::<Result<_, _>>()?;
    let volumes = Volumes::new(store);
    let users = volumes.all_users()?;
    let mut listed = volumes.list()?;
    let any_of = |key: &str, is: &dyn Fn(&str) -> bool| {
        let mut of = filters.others.iter().filter(|(it, _)| it == key).peekable();
        of.peek().is_none() || of.any(|(_, value)| is(value))
    };
    listed.retain(|volume| {
        any_of("name", &|value| volume.name.contains(value))
            && any_of("driver", &|value| volume.driver == value)
            && filters.admits_labels(&volume.labels)
            && dangling.iter().all(|wanted| users.contains_key(&volume.name) != *wanted)
    });
    if args.quiet && args.format.is_none() {
        let names: Vec<&str> = listed.iter().map(|volume| volume.name.as_str()).collect();
        return if names.is_empty() { Ok(()) } else { print_result(&names.join("\n")) };
    }
    // Nobody waits for what is not shown.
    let sizes = if args.format.is_some() { volumes.sizes()? } else { BTreeMap::new() };
    let rows: Vec<Value> = listed
        .iter()
        .map(|volume| {
            let pairs = |map: &BTreeMap<String, String>| {
                let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}={value}")).collect();
                pairs.join(",")
            };
            json!({
                "CreatedAt": rfc3339::format(from_nanos(volume.created)),
                "Driver": volume.driver,
                "Labels": pairs(&volume.labels),
                "Links": users.get(&volume.name).map_or(0, Vec::len).to_string(),
                "Mountpoint": volumes.data(&volume.name).display().to_string(),
                "Name": volume.name,
                "Options": pairs(&volume.options),
                "Scope": "local",
                "Size": sizes.get(&volume.name).map_or_else(|| "N/A".to_owned(), |size| bytes(*size)),
            })
        })
        .collect();
    format.print(&rows, &["Driver", "Name"], &COLUMNS)
}

fn inspect(args: &InspectArgs, format: &Format, store: &Store) -> Result<(), Failure> {
    let volumes = Volumes::new(store);
    let (mut shown, mut failures) = (Vec::new(), Vec::new());
    for name in &args.volumes {
        match volumes.find(name) {
            Ok(volume) => shown.push(json!({
                "CreatedAt": rfc3339::format(from_nanos(volume.created)),
                "Driver": volume.driver,
                "Labels": volume.labels,
                "Mountpoint": volumes.data(&volume.name).display().to_string(),
                "Name": volume.name,
                "Options": volume.options,
                "Scope": "local",
            })),
            Err(failure) => failures.push(failure),
        }
    }
    match format {
        Format::Template { template, .. } => {
            shown.iter().try_for_each(|volume| print_result(&render(template, volume)?))?;
        }
        Format::Json => shown.iter().try_for_each(|volume| print_result(&volume.to_string()))?,
        Format::Table => print_result(&pretty(&Value::Array(shown)))?,
    }
    told(failures)
}

fn render(template: &Template, value: &Value) -> Result<String, Failure> {
    template.render(value)
}

fn remove(args: &RmArgs, store: &Store) -> Result<(), Failure> {
    let volumes = Volumes::new(store);
    let mut failures = Vec::new();
    for name in &args.volumes {
        if args.force && volumes.find(name).is_err() {
            continue;
        }
        failures.extend(volumes.remove(name).and_then(|()| print_result(name)).err());
    }
    told(failures)
}

fn prune(args: &PruneArgs, store: &Store) -> Result<(), Failure> {
    let filters = Filters::parse(&args.filter, &["label", "label!", "all"])?;
    let mut all = args.all;
    for (_, value) in &filters.others {
        all |= truth("all", value)?;
    }
    confirm(
        args.force,
        if all {
            "all volumes that no container has"
        } else {
            "all volumes that no container has and that were given no name"
        },
    )?;
    let Pruned { names: removed, bytes: freed, done } = prune_volumes(store, all, &filters)?;
    let deleted = removed.iter().map(|name| format!("\n{name}")).collect::<String>();
    let deleted = if removed.is_empty() { String::new() } else { format!("Deleted Volumes:{deleted}\n\n") };
    print_result(&format!("{deleted}Total reclaimed space: {}", bytes(freed)))?;
    done
}

/// Removes volumes that no container has.
pub(super) fn prune_volumes(store: &Store, all: bool, filters: &Filters) -> Result<Pruned, Failure> {
    let volumes = Volumes::new(store);
    let (users, sizes) = (volumes.all_users()?, volumes.sizes()?);
    let (mut removed, mut freed, mut failures) = (Vec::new(), 0, Vec::new());
    for volume in volumes.list()? {
        let is_wanted = (all || volume.anonymous) && filters.admits_labels(&volume.labels);
        if !is_wanted || users.contains_key(&volume.name) {
            continue;
        }
        match volumes.remove(&volume.name) {
            Ok(()) => {
                freed += sizes.get(&volume.name).copied().unwrap_or(0);
                removed.push(volume.name);
            }
            Err(failure) => failures.push(failure),
        }
    }
    Ok(Pruned { names: removed, bytes: freed, done: told(failures) })
}

fn truth(key: &str, value: &str) -> Result<bool, Failure> {
    let truth = boolean(value).filter(|_| !value.is_empty());
    truth.ok_or_else(|| Failure::new(Kind::Usage, format!("--filter `{key}={value}`: it is true or false")))
}
