//! `wharf compose logs`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::session::{Cx, Session};
use crate::cli::container::range::LogRange;
use crate::compose::follow::{Look, Printer, Speaker};
use crate::compose::observe;
use crate::containers::config::ContainerId;
use crate::containers::engine::Container;
use crate::containers::log::LogQuery;
use crate::error::Failure;
use crate::progress::color_of_results;

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    range: LogRange,
    /// Only the container with this number of its service
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// No colors
    #[arg(long)]
    no_color: bool,
    /// Do not begin lines with the name of their container
    #[arg(long)]
    no_log_prefix: bool,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(super) fn logs(cx: &Cx<'_>, args: &LogsArgs) -> Result<ExitCode, Failure> {
    let query = args.range.query()?;
    cx.with_project(false, |session| {
        let look = Look {
            prefix: !args.no_log_prefix,
            color: !args.no_color && color_of_results(),
            timestamps: args.range.timestamps,
        };
        show(session, args, look, &query)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The containers whose lines are shown.
fn speaking(session: &Session<'_>, args: &LogsArgs) -> Result<Vec<Container>, Failure> {
    let mut containers = session.containers_of(&args.services)?;
    containers.retain(|it| args.index.is_none_or(|index| observe::number(it) == index));
    containers.retain(|it| !it.config.log.none);
    Ok(containers)
}

fn show(session: &Session<'_>, args: &LogsArgs, look: Look, query: &LogQuery) -> Result<(), Failure> {
    let containers = speaking(session, args)?;
    let speakers = speakers(session.name, &containers);
    let printer = Printer::new(look, speakers.iter().map(|it| it.label.as_str()))?;
    match query.follow {
        false => speakers.iter().try_for_each(|it| printer.follow(session.engine, it, query).map(drop)),
        true => follow(session, args, &printer, query, containers),
    }
}

/// How often it is looked who has been started meanwhile.
const LOOKING: Duration = Duration::from_millis(200);

/// How long nothing may run before it is over: what is started again stands still for a moment.
const STILL: Duration = Duration::from_millis(500);

/// What is known of a container that is followed.
#[derive(Debug, Default)]
struct Followed {
    /// Whether it is followed just now.
    is_read: bool,
    /// The time of the last line that was shown.
    last: Option<i64>,
}

/// Follows containers, those too that are made or started meanwhile, until none of them runs.
fn follow(
    session: &Session<'_>,
    args: &LogsArgs,
    printer: &Printer,
    query: &LogQuery,
    mut containers: Vec<Container>,
) -> Result<(), Failure> {
    let (ends, ended) = mpsc::channel();
    let mut known: BTreeMap<ContainerId, Followed> = BTreeMap::new();
    let mut colors = 0;
    let mut has_run = false;
    let mut still_since = None;
    thread::scope(|scope| {
        let mut is_first = true;
        loop {
            for (container, mut speaker) in containers.iter().zip(speakers(session.name, &containers)) {
                let id = &container.config.id;
                let runs = container.state.status.is_watched();
                has_run |= runs;
                let is_new = !known.contains_key(id);
                if !is_first && !runs || known.get(id).is_some_and(|it| it.is_read) {
                    continue;
                }
                if is_new {
                    speaker.color = colors;
                    colors += 1;
                    printer.widen(&speaker.label);
                }
                let followed = known.entry(id.clone()).or_default();
                followed.is_read = true;
                let since = followed.last.map(|last| last + 1).or(query.since);
                // What it printed before is counted once.
                let tail = query.tail.filter(|_| is_first);
                let query = LogQuery { since, tail, ..query.clone() };
                let ends = ends.clone();
                scope.spawn(move || {
                    let done = printer.follow(session.engine, &speaker, &query);
                    // The receiver outlives this.
                    let _ = ends.send((speaker.id, done));
                });
            }
            is_first = false;
            if let Ok((id, done)) = ended.recv_timeout(LOOKING) {
                let followed = known.entry(id.clone()).or_default();
                followed.is_read = false;
                match done {
                    Ok(last) => followed.last = last.or(followed.last),
                    // It was removed meanwhile.
                    Err(_) if session.engine.get(&id).is_err() => {}
                    Err(failure) => return Err(failure),
                }
            }
            containers = speaking(session, args)?;
            let is_still = !known.values().any(|it| it.is_read)
                && !containers.iter().any(|it| it.state.status.is_watched());
            if !is_still {
                still_since = None;
                continue;
            }
            let since = *still_since.get_or_insert_with(Instant::now);
            if !has_run || (since.elapsed() >= STILL && !session.is_worked_at()?) {
                return Ok(());
            }
        }
    })
}

/// What lines of these containers stand behind: their names without the project's.
pub(super) fn speakers(project: &str, containers: &[Container]) -> Vec<Speaker> {
    let speaker = |(color, container): (usize, &Container)| {
        let name = &container.config.name;
        let own = name.strip_prefix(project).and_then(|rest| rest.strip_prefix('-'));
        Speaker { label: own.unwrap_or(name).to_owned(), color, id: container.config.id.clone() }
    };
    containers.iter().enumerate().map(speaker).collect()
}
