//! `wharf compose logs`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use wharf_cache::to_nanos;

use super::session::{Cx, Session};
use crate::cli::image::list::until as point_in_time;
use crate::compose::follow::{Look, Printer, Speaker};
use crate::compose::observe;
use crate::containers::config::ContainerId;
use crate::containers::engine::Container;
use crate::containers::log::LogQuery;
use crate::containers::state::Status;
use crate::error::{Failure, Kind};
use crate::progress::color_of_results;

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Wait for more, until no container of the project runs
    #[arg(short, long)]
    follow: bool,
    /// Only the container with this number of its service
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// No colors
    #[arg(long)]
    no_color: bool,
    /// Do not begin lines with the name of their container
    #[arg(long)]
    no_log_prefix: bool,
    /// Only what came later: a time, or how long ago (10m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what came before: a time, or how long ago (10m)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only the last lines of each: a number or `all`
    #[arg(short = 'n', long, value_name = "N", default_value = "all", allow_hyphen_values = true)]
    tail: String,
    /// Begin lines with their time
    #[arg(short, long)]
    timestamps: bool,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(super) fn logs(cx: &Cx<'_>, args: &LogsArgs) -> Result<ExitCode, Failure> {
    let tail = match args.tail.as_str() {
        "all" => None,
        // A negative number is all, as it is for Docker.
        text => match text.parse::<i64>() {
            Ok(count) => u64::try_from(count).ok(),
            Err(_) => {
                return Err(Failure::new(
                    Kind::Usage,
                    format!("--tail {text} is neither a number nor `all`"),
                ));
            }
        },
    };
    let query = LogQuery {
        follow: args.follow,
        tail,
        since: args.since.as_deref().map(|text| time("--since", text)).transpose()?,
        until: args.until.as_deref().map(|text| time("--until", text)).transpose()?,
    };
    cx.with_project(false, |session| {
        let look = Look {
            prefix: !args.no_log_prefix,
            color: !args.no_color && color_of_results(),
            timestamps: args.timestamps,
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
                let runs = runs(container);
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
            let is_still = !known.values().any(|it| it.is_read) && !containers.iter().any(runs);
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

fn runs(container: &Container) -> bool {
    container.state.status.is_up() || container.state.status == Status::Restarting
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

/// A time, or how long ago.
fn time(flag: &str, text: &str) -> Result<i64, Failure> {
    point_in_time(text).map(to_nanos).ok_or_else(|| {
        Failure::new(Kind::Usage, format!("{flag} {text} is neither a time nor how long ago"))
            .hint("write 2026-01-02T03:04:05Z, seconds since 1970, or 10m")
    })
}
