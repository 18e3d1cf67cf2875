//! `wharf ps`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::{Value, json};
use wharf_cache::from_nanos;

use super::Session;
use super::filter::{Filters, health_name, networks};
use crate::cli::config::Config;
use crate::cli::image::list::at;
use crate::cli::place::Wanted;
use crate::cli::template::{Column, Format};
use crate::containers::config::{MountKind, Protocol};
use crate::containers::engine::{Container, Engine};
use crate::containers::state::{ContainerState, HealthStatus, Status};
use crate::error::Failure;
use crate::progress::{bytes, print_result};

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// Show those too that do not run
    #[arg(short, long)]
    all: bool,
    /// Only what is so: id, name, label, status, exited, health, ancestor, before, since, volume, network, publish or
    /// expose=VALUE; may be given several times
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// table, json, or a template: `{{.Names}}`, `table {{.ID}}\t{{.Status}}`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show the last N that were made, whatever they do
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    last: Option<i64>,
    /// Show the last one that was made, whatever it does
    #[arg(short, long)]
    latest: bool,
    /// Show everything in full
    #[arg(long)]
    no_trunc: bool,
    /// Show identifiers alone
    #[arg(short, long)]
    quiet: bool,
    /// Show what they take of the disk
    #[arg(short, long)]
    size: bool,
}

/// The fields of a line, with their headings.
const COLUMNS: [Column; 16] = [
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Names", "NAMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
    ("Ports", "PORTS"),
    ("RunningFor", "CREATED"),
    ("Size", "SIZE"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("ExitCode", "EXIT CODE"),
];

/// Characters of a command that a line has room for.
const COMMAND_CHARS: usize = 20;

/// Characters of a mount that a line has room for.
const MOUNT_CHARS: usize = 15;

pub(super) fn ps(args: &ListArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let format = Format::parse(args.format.as_deref())?;
    format.require_fields(&COLUMNS)?;
    Session::enter(wanted, config)?.with_engine(|engine| show(args, &format, engine))?;
    Ok(ExitCode::SUCCESS)
}

fn show(args: &ListArgs, format: &Format, engine: &Engine) -> Result<(), Failure> {
    let filters = Filters::parse(&args.filter, engine)?;
    let last = match args.latest {
        true => Some(1),
        false => args.last.and_then(|last| usize::try_from(last).ok()),
    };
    let shows_all = args.all || last.is_some() || filters.names_a_state();
    let mut containers = engine.list()?;
    containers.retain(|container| {
        let is_up = container.state.status.is_up() || container.state.status == Status::Restarting;
        (shows_all || is_up) && filters.admit(container)
    });
    containers.truncate(last.unwrap_or(usize::MAX));
    let id = |container: &Container| match args.no_trunc {
        true => container.config.id.0.clone(),
        false => container.config.id.short().to_owned(),
    };
    if args.quiet && args.format.is_none() {
        let ids: Vec<String> = containers.iter().map(id).collect();
        return if ids.is_empty() { Ok(()) } else { print_result(&ids.join("\n")) };
    }
    let needs_size =
        args.size || args.format.as_deref().is_some_and(|text| text.contains("Size") || text == "json");
    let sizes = if needs_size { engine.own_bytes()? } else { BTreeMap::new() };
    let now = SystemTime::now();
    let rows = containers.iter().map(|container| {
        let size = sizes.get(&container.config.id.0).map(|size| bytes(*size));
        row(container, args, id(container), size.unwrap_or_default(), now)
    });
    let rows: Vec<Value> = rows.collect();
    let mut columns = vec!["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"];
    if args.size {
        columns.push("Size");
    }
    format.print(&rows, &columns, &COLUMNS)
}

fn row(container: &Container, args: &ListArgs, id: String, size: String, now: SystemTime) -> Value {
    let Container { config, state } = container;
    let command = config.process.entrypoint.iter().chain(&config.process.command);
    let command = command.map(String::as_str).collect::<Vec<_>>().join(" ").replace(char::is_control, " ");
    let clip = |text: &str, most: usize| match args.no_trunc || text.chars().count() <= most {
        true => text.to_owned(),
        false => text.chars().take(most - 1).chain(['…']).collect(),
    };
    let labels: Vec<String> = config.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mounts = config.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Volume { name, .. } => Some(clip(name, MOUNT_CHARS)),
        MountKind::Bind { source, .. } => Some(clip(&source.to_string_lossy(), MOUNT_CHARS)),
        MountKind::Tmpfs { .. } => None,
    });
    let volumes = config.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Volume { .. }));
    let created = from_nanos(config.created);
    json!({
        "Command": format!("\"{}\"", clip(&command, COMMAND_CHARS)),
        "CreatedAt": at(created),
        "ExitCode": state.exit_code,
        "ID": id,
        "Image": config.image.name,
        "Labels": labels.join(","),
        "LocalVolumes": volumes.count().to_string(),
        "Mounts": mounts.collect::<Vec<_>>().join(","),
        "Names": config.name,
        "Networks": networks(container).collect::<Vec<_>>().join(","),
        "Platform": config.image.platform,
        "Ports": ports(container),
        "RunningFor": format!("{} ago", span(since(created, now))),
        "Size": size,
        "State": state.status.name(),
        "Status": status(state, now),
    })
}

/// `Up 5 minutes (healthy)`, `Exited (0) 2 hours ago`.
pub(in crate::cli) fn status(state: &ContainerState, now: SystemTime) -> String {
    let ago = |time: Option<i64>| {
        time.map_or_else(|| "some time".to_owned(), |time| span(since(from_nanos(time), now)))
    };
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Paused => format!("Up {} (Paused)", ago(state.started)),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ago(state.finished)),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, ago(state.finished)),
        Status::Running => {
            let health = match state.health.as_ref().map(|health| health.status) {
                None => String::new(),
                Some(HealthStatus::Starting) => " (health: starting)".to_owned(),
                Some(status) => format!(" ({})", health_name(status)),
            };
            format!("Up {}{health}", ago(state.started))
        }
    }
}

fn since(time: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(time).unwrap_or_default()
}

/// How long something is, in words.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, ..48) => format!("{hours} hours"),
        (_, _, ..336) => format!("{} days", hours / 24),
        (_, _, ..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, ..17_520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// `0.0.0.0:8080->80/tcp, 443/tcp`.
fn ports(container: &Container) -> String {
    let Container { config, state } = container;
    if !state.status.is_up() {
        return String::new();
    }
    let mut shown: Vec<String> = Vec::new();
    for port in &state.ports {
        let address = std::net::SocketAddr::new(port.address, port.host);
        shown.push(format!("{address}->{}/{}", port.container, port.protocol));
    }
    for text in &config.exposed {
        let is_published = state.ports.iter().any(|port| *text == port_text(port.container, port.protocol));
        if !is_published {
            shown.push(text.clone());
        }
    }
    shown.join(", ")
}

/// `80/tcp`.
pub(super) fn port_text(port: u16, protocol: Protocol) -> String {
    format!("{port}/{protocol}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_what_docker_says() {
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3600 * 47, "47 hours"),
            (3600 * 48, "2 days"),
            (86400 * 20, "2 weeks"),
            (86400 * 90, "3 months"),
            (86400 * 800, "2 years"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn statuses_are_what_docker_says() {
        let now = from_nanos(100_000_000_000);
        let state = |status| ContainerState {
            status,
            started: Some(95_000_000_000),
            finished: Some(98_000_000_000),
            exit_code: 3,
            ..ContainerState::default()
        };
        for (status_, expected) in [
            (Status::Created, "Created"),
            (Status::Running, "Up 5 seconds"),
            (Status::Paused, "Up 5 seconds (Paused)"),
            (Status::Restarting, "Restarting (3) 2 seconds ago"),
            (Status::Exited, "Exited (3) 2 seconds ago"),
        ] {
            assert_eq!(status(&state(status_), now), expected);
        }
    }
}
