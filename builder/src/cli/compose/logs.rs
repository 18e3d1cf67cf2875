//! `wharf compose logs`.

use std::process::ExitCode;
use std::thread;
use std::time::SystemTime;

use clap::Args;
use wharf_cache::to_nanos;
use wharf_frontend::instructions::parse_duration;

use super::session::{Cx, Session};
use crate::compose::follow::{Look, Printer, Speaker};
use crate::compose::observe;
use crate::containers::engine::Container;
use crate::containers::log::LogQuery;
use crate::error::{Failure, Kind};
use crate::exporter::rfc3339;
use crate::progress::color_of_results;

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Wait for more, until the containers have ended
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
    #[arg(short = 'n', long, value_name = "N", default_value = "all")]
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
        text => Some(text.parse().map_err(|_| {
            Failure::new(Kind::Usage, format!("--tail {text} is neither a number nor `all`"))
        })?),
    };
    let query = LogQuery {
        follow: args.follow,
        tail,
        since: args.since.as_deref().map(|text| time("--since", text)).transpose()?,
        until: args.until.as_deref().map(|text| time("--until", text)).transpose()?,
    };
    cx.with_project(false, |session| {
        let mut containers = session.containers_of(&args.services)?;
        containers.retain(|it| args.index.is_none_or(|index| observe::number(it) == index));
        containers.retain(|it| !it.config.log.none);
        let look = Look {
            prefix: !args.no_log_prefix,
            color: !args.no_color && color_of_results(),
            timestamps: args.timestamps,
        };
        show(session, &containers, look, &query)?;
        Ok(ExitCode::SUCCESS)
    })
}

fn show(
    session: &Session<'_>,
    containers: &[Container],
    look: Look,
    query: &LogQuery,
) -> Result<(), Failure> {
    let speakers = speakers(session.name, containers);
    let printer = Printer::new(look, speakers.iter().map(|it| it.label.as_str()))?;
    if !query.follow {
        return speakers.iter().try_for_each(|it| printer.follow(session.engine, it, query).map(drop));
    }
    thread::scope(|scope| {
        let threads: Vec<_> = speakers
            .iter()
            .map(|speaker| scope.spawn(|| printer.follow(session.engine, speaker, query).map(drop)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().try_for_each(join)
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

/// A time, or how long ago.
fn time(flag: &str, text: &str) -> Result<i64, Failure> {
    let now = to_nanos(SystemTime::now());
    if let Some(time) = rfc3339::parse(text) {
        return Ok(to_nanos(time));
    }
    if let Ok(seconds) = text.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, reason = "a time far off is as good as any")]
        let nanoseconds = (seconds * 1e9) as i64;
        return Ok(nanoseconds);
    }
    let ago = parse_duration(text).map_err(|_| {
        Failure::new(Kind::Usage, format!("{flag} {text} is neither a time nor how long ago"))
            .hint("write 2026-01-02T03:04:05Z, or 10m")
    })?;
    Ok(now.saturating_sub(ago))
}
