//! `wharf stats`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::Session;
use crate::cli::config::Config;
use crate::cli::place::Wanted;
use crate::cli::template::{Column, Format};
use crate::containers::engine::{Container, Engine};
use crate::containers::protocol::Usage;
use crate::error::Failure;
use crate::progress::bytes;

#[derive(Debug, Args)]
pub(in crate::cli) struct StatsArgs {
    /// Show those too that do not run
    #[arg(short, long)]
    pub(in crate::cli) all: bool,
    /// table, json, or a template: `{{.Name}} {{.CPUPerc}}`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show it once, and end
    #[arg(long)]
    no_stream: bool,
    /// Show everything in full
    #[arg(long)]
    no_trunc: bool,
    /// Names, or first digits of identifiers [default: all that run]
    #[arg(value_name = "CONTAINER")]
    pub(in crate::cli) containers: Vec<String>,
}

/// The fields of a line, with their headings.
const COLUMNS: [Column; 9] = [
    ("BlockIO", "BLOCK I/O"),
    ("CPUPerc", "CPU %"),
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("MemPerc", "MEM %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("Name", "NAME"),
    ("NetIO", "NET I/O"),
    ("PIDs", "PIDS"),
];

/// What processors did is measured over this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// Clears a terminal, and goes to its begin.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) fn stats(args: &StatsArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    Session::enter(wanted, config)?.with_engine(|engine| show(engine, args, &|| chosen(engine, args)))
}

/// Shows what the containers take that `chosen` names each time.
pub(in crate::cli) fn show(
    engine: &Engine,
    args: &StatsArgs,
    chosen: &dyn Fn() -> Result<Vec<Container>, Failure>,
) -> Result<ExitCode, Failure> {
    let format = Format::parse(args.format.as_deref())?;
    format.require_fields(&COLUMNS)?;
    let clears = !args.no_stream && args.format.is_none() && std::io::stdout().is_terminal();
    loop {
        let rows = measure(engine, args, chosen()?);
        if clears {
            crate::progress::print_text(CLEAR)?;
        }
        let columns = ["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"];
        format.print(&rows, &columns, &COLUMNS)?;
        if args.no_stream {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// The containers that are asked for.
fn chosen(engine: &Engine, args: &StatsArgs) -> Result<Vec<Container>, Failure> {
    if args.containers.is_empty() {
        let mut all = engine.list()?;
        all.retain(|container| args.all || container.state.status.is_up());
        return Ok(all);
    }
    args.containers.iter().map(|name| engine.find(name)).collect()
}

/// A row a container, from two looks with some time between them.
fn measure(engine: &Engine, args: &StatsArgs, containers: Vec<Container>) -> Vec<Value> {
    // One that ends meanwhile takes nothing.
    let look = |container: &Container| match container.state.status.is_up() {
        true => engine.stats(&container.config.id).ok().map(|usage| (Instant::now(), usage)),
        false => None,
    };
    let before: Vec<Option<(Instant, Usage)>> = containers.iter().map(look).collect();
    thread::sleep(INTERVAL);
    let rows = containers.iter().zip(before).map(|(container, before)| {
        let after = look(container);
        row(
            container,
            args,
            before.zip(after).map(|((then, before), (now, after))| {
                let share =
                    after.cpu.saturating_sub(before.cpu) as f64 / (now - then).as_nanos().max(1) as f64;
                (share, after)
            }),
        )
    });
    rows.collect()
}

fn row(container: &Container, args: &StatsArgs, used: Option<(f64, Usage)>) -> Value {
    let id = if args.no_trunc { &container.config.id.0 } else { container.config.id.short() };
    let none = || "--".to_owned();
    let two = |pair: Option<(u64, u64)>| {
        pair.map_or_else(none, |(first, second)| format!("{} / {}", bytes(first), bytes(second)))
    };
    let share = |part: f64| format!("{:.2}%", part * 100.0);
    let (cpu, usage) = match &used {
        Some((cpu, usage)) => (share(*cpu), Some(usage)),
        None => (none(), None),
    };
    let limit = usage.and_then(|usage| usage.memory_limit).or_else(machine_memory);
    let memory = usage.map(|usage| usage.memory);
    json!({
        "BlockIO": two(usage.and_then(|usage| usage.block)),
        "CPUPerc": cpu,
        "Container": id,
        "ID": id,
        "MemPerc": memory.zip(limit).map_or_else(none, |(memory, limit)| share(memory as f64 / limit.max(1) as f64)),
        "MemUsage": two(memory.map(|memory| (memory, limit.unwrap_or(0)))),
        "Name": container.config.name,
        "NetIO": two(usage.and_then(|usage| usage.net)),
        "PIDs": usage.map_or_else(none, |usage| usage.pids.to_string()),
    })
}

/// Bytes of memory of this machine.
fn machine_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(total.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
