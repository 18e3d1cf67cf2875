//! `wharf du`: what the store takes.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use serde::Serialize;
use wharf_cache::Store;
use wharf_cache::gc::Item;

use super::config::Config;
use super::image::familiar;
use super::place::{Place, Wanted};
use super::with_store;
use crate::build::call::table;
use crate::error::{Failure, Kind};
use crate::exporter::rfc3339;
use crate::history::text::json;
use crate::progress::{bytes, print_result};

#[derive(Debug, Args)]
pub(super) struct DuArgs {
    /// What is added up
    #[arg(long, value_enum, default_value_t = By::Kind)]
    by: By,
    /// Show every single thing, the largest first
    #[arg(short, long, conflicts_with = "by")]
    verbose: bool,
    /// How it is shown
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// What it is
    Kind,
    /// Whose it is
    Image,
    /// When it was used last
    Age,
    /// How long it would take to have it again
    Cost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// What `--format json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    root: String,
    bytes: u64,
    bytes_max: u64,
    collectable_bytes: u64,
    items: Vec<Entry<'a>>,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    kind: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    title: &'a str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used: Option<String>,
    cost_seconds: f64,
    state: &'static str,
    images: &'a [String],
}

pub(super) fn du(args: &DuArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    with_store(&Place::enter(wanted)?, |store| show(args, store, config)).map(|()| ExitCode::SUCCESS)
}

fn show(args: &DuArgs, store: &Store, config: &Config) -> Result<(), Failure> {
    let bytes_max = config.store_bytes_max(store.root())?;
    let mut items = store
        .items()
        .map_err(|error| Failure::from_error(Kind::Environment, "cannot look through the store", &error))?;
    items.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| (a.kind, &a.name).cmp(&(b.kind, &b.name))));
    let total = sum(&items, |_| true);
    let collectable = sum(&items, |item| item.state.is_collectable());
    if args.format == Format::Json {
        let report = Report {
            root: store.root().display().to_string(),
            bytes: total,
            bytes_max,
            collectable_bytes: collectable,
            items: items.iter().map(entry).collect(),
        };
        let json = json(&report)
            .map_err(|error| Failure::from_error(Kind::Environment, "cannot write JSON", &error))?;
        return print_result(&json);
    }
    let text = if args.verbose { list(&items) } else { groups(&items, args.by) };
    let collectable = bytes(collectable);
    let last = format!("{} of at most {}; {collectable} can be collected", bytes(total), bytes(bytes_max));
    print_result(&format!("{text}\n{last}"))
}

fn entry(item: &Item) -> Entry<'_> {
    Entry {
        kind: item.kind.name(),
        name: &item.name,
        title: &item.title,
        bytes: item.bytes,
        last_used: item.used.map(rfc3339::format),
        cost_seconds: item.cost.as_secs_f64(),
        state: item.state.name(),
        images: &item.images,
    }
}

/// A line for each item.
pub(super) fn list(items: &[Item]) -> String {
    let rows: Vec<[String; 7]> = items
        .iter()
        .map(|item| {
            let images: Vec<String> = item.images.iter().map(|name| familiar(name)).collect();
            [
                item.kind.to_string(),
                if item.title.is_empty() { short(&item.name) } else { item.title.clone() },
                bytes(item.bytes),
                item.used.map_or_else(|| "-".to_owned(), |used| format!("{} ago", rough(elapsed(used)))),
                rough(item.cost),
                item.state.name().to_owned(),
                images.join(" "),
            ]
        })
        .collect();
    render(&["KIND", "NAME", "SIZE", "LAST USED", "COST", "STATE", "IMAGES"], &rows)
}

/// A line for each group.
fn groups(items: &[Item], by: By) -> String {
    let mut names: Vec<(u64, String)> = items.iter().map(|item| group(item, by)).collect();
    names.sort_unstable();
    names.dedup();
    let rows: Vec<[String; 4]> = names
        .into_iter()
        .map(|name| {
            let of = |item: &Item| group(item, by) == name;
            let count = items.iter().filter(|item| of(item)).count();
            let freeable = sum(items, |item| of(item) && item.state.is_collectable());
            [name.1.clone(), count.to_string(), bytes(sum(items, of)), bytes(freeable)]
        })
        .collect();
    let title = match by {
        By::Kind => "KIND",
        By::Image => "IMAGE",
        By::Age => "LAST USED",
        By::Cost => "COST",
    };
    render(&[title, "COUNT", "SIZE", "COLLECTABLE"], &rows)
}

/// The group of an item: where it stands among the others, and its name.
fn group(item: &Item, by: By) -> (u64, String) {
    match by {
        By::Kind => (item.kind as u64, item.kind.to_string()),
        By::Image => match item.images.as_slice() {
            [] => (1, "(no image)".to_owned()),
            [image] => (0, familiar(image)),
            images => (0, images.iter().map(|image| familiar(image)).collect::<Vec<_>>().join(" + ")),
        },
        By::Age => match item.used {
            Some(used) => step(
                elapsed(used),
                &[
                    (HOUR, "the last hour"),
                    (DAY, "the last day"),
                    (7 * DAY, "the last week"),
                    (30 * DAY, "the last month"),
                ],
                "longer ago",
            ),
            None => (u64::MAX, "(not known)".to_owned()),
        },
        By::Cost => step(
            item.cost,
            &[
                (1, "under a second"),
                (10, "under 10 seconds"),
                (60, "under a minute"),
                (600, "under 10 minutes"),
            ],
            "more",
        ),
    }
}

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

/// The first step that a time is below.
fn step(time: Duration, steps: &[(u64, &str)], beyond: &str) -> (u64, String) {
    let found = steps.iter().enumerate().find(|(_, (seconds, _))| time < Duration::from_secs(*seconds));
    match found {
        Some((number, (_, name))) => (number as u64, (*name).to_owned()),
        None => (steps.len() as u64, beyond.to_owned()),
    }
}

fn sum(items: &[Item], of: impl Fn(&Item) -> bool) -> u64 {
    items.iter().filter(|item| of(item)).map(|item| item.bytes).sum()
}

fn render<const N: usize>(title: &[&str; N], rows: &[[String; N]]) -> String {
    let mut all = vec![title.to_vec()];
    all.extend(rows.iter().map(|row| row.iter().map(String::as_str).collect()));
    table(&all, 3).trim_end().to_owned()
}

/// A digest or directory as far as a user wants to see it.
fn short(name: &str) -> String {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    hex.chars().take(20).collect()
}

fn elapsed(since: SystemTime) -> Duration {
    since.elapsed().unwrap_or_default()
}

/// A time in its largest unit.
fn rough(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time.as_millis() == 0 => "0s".to_owned(),
        0 => format!("{}ms", time.as_millis()),
        1..60 => format!("{seconds}s"),
        60..HOUR => format!("{}m", seconds / 60),
        HOUR..DAY => format!("{}h", seconds / HOUR),
        _ => format!("{}d", seconds / DAY),
    }
}
