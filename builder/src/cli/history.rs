//! `wharf history`.

use std::io::{BufWriter, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use wharf_cache::Store;
use wharf_cache::history::{BUILDS_MAX, BuildRow, LogChunk, LogStream};

use super::image::{age, find_all};
use super::place::{Place, Wanted};
use super::with_store;
use crate::build::call::table;
use crate::error::{Failure, Kind};
use crate::exporter::rfc3339;
use crate::history::explain::{ExplainedBuild, status_word};
use crate::history::{GraphStep, Past, Request, compare, read_past, text};
use crate::progress::{Lines, print_note, print_result, printable, results};

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List builds, the newest first
    Ls(ListArgs),
    /// Show what a build was of, what became of each step, and why
    Inspect {
        /// An id or its first digits; ^N is the Nth before the last
        #[arg(default_value = "^0", hide_default_value = true, value_name = "BUILD")]
        build: String,
        #[command(flatten)]
        format: Format,
    },
    /// Print what steps printed, in full
    Logs {
        /// An id or its first digits; ^N is the Nth before the last
        #[arg(default_value = "^0", hide_default_value = true, value_name = "BUILD")]
        build: String,
        /// A number, or a part of the name that no other step has [default: all steps]
        #[arg(value_name = "STEP")]
        step: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Say what of build B is other than it was in build A
    Compare {
        /// The earlier build [default: the one before B]
        #[arg(value_name = "A")]
        before: Option<String>,
        /// The later build [default: the last]
        #[arg(value_name = "B")]
        now: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Forget builds
    Rm {
        /// Ids or their first digits
        #[arg(value_name = "BUILD", required_unless_present = "all")]
        builds: Vec<String>,
        /// All of them
        #[arg(long, conflicts_with = "builds")]
        all: bool,
    },
    #[command(external_subcommand)]
    Unknown(Vec<String>),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// How many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
struct Format {
    /// For people or for programs
    #[arg(long = "format", value_enum, default_value_t = FormatKind::Text)]
    kind: FormatKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatKind {
    Text,
    Json,
}

pub(super) fn history(args: HistoryArgs, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let command = args.command.unwrap_or(Command::Ls(args.list));
    with_store(&Place::enter(wanted)?, |store| answer(store, command)).map(|()| ExitCode::SUCCESS)
}

fn answer(store: &Store, command: Command) -> Result<(), Failure> {
    match command {
        Command::Ls(list) => ls(store, &list)?,
        Command::Inspect { build, format } => inspect(store, &find(store, &build)?, format.kind)?,
        Command::Logs { build, step, format } => {
            logs(store, &find(store, &build)?, step.as_deref(), format.kind)?;
        }
        Command::Compare { before, now, format } => {
            compare_two(store, before.as_deref(), now.as_deref(), format.kind)?;
        }
        Command::Rm { builds, all } => {
            let ids = match all {
                true => rows(store)?.iter().map(|row| row.id).collect::<Vec<_>>(),
                false => {
                    builds.iter().map(|name| find(store, name).map(|row| row.id)).collect::<Result<_, _>>()?
                }
            };
            store.remove_builds(&ids).map_err(|error| failure("cannot forget builds", &error))?;
            let removed: Vec<String> = ids.iter().map(|id| format!("removed: {id}")).collect();
            if !removed.is_empty() {
                print_result(&removed.join("\n"))?;
            }
        }
        Command::Unknown(words) => return Err(unknown(store, &words.join(" "))),
    }
    Ok(())
}

/// What is no command may be the image whose history another builder's command of this name would show.
fn unknown(store: &Store, name: &str) -> Failure {
    let hint = match find_all(store, name) {
        Ok(_) => format!("how the image was made is shown by `wharf image history {name}`"),
        Err(_) => "`wharf history --help` lists them".to_owned(),
    };
    Failure::new(Kind::Usage, format!("`{name}` is no command of `wharf history`")).hint(hint)
}

fn failure(doing: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::from_error(Kind::Environment, doing, error)
}

fn rows(store: &Store) -> Result<Vec<BuildRow>, Failure> {
    store.builds(None, BUILDS_MAX * 2).map_err(|error| failure("cannot list the builds", &error))
}

/// The build that a user means.
fn find(store: &Store, name: &str) -> Result<BuildRow, Failure> {
    let builds = rows(store)?;
    let hint = "`wharf history` lists them";
    if let Some(back) = name.strip_prefix('^') {
        let back: usize = back.parse().map_err(|_| {
            Failure::new(Kind::Usage, format!("`{name}` names no build: ^N is the Nth before the last"))
        })?;
        let count = builds.len();
        return builds.into_iter().nth(back).ok_or_else(|| match count {
            0 => {
                Failure::new(Kind::Usage, "there is no build in the history").hint("`wharf build` makes one")
            }
            _ => {
                Failure::new(Kind::Usage, format!("there are only {count} builds in the history")).hint(hint)
            }
        });
    }
    let hits: Vec<&BuildRow> = builds.iter().filter(|row| row.id.to_string().starts_with(name)).collect();
    match hits.as_slice() {
        [row] => Ok((*row).clone()),
        [] => Err(Failure::new(Kind::Usage, format!("there is no build `{name}` in the history")).hint(hint)),
        _ => Err(Failure::new(Kind::Usage, format!("`{name}` is the beginning of several builds"))
            .hint("give more digits")),
    }
}

fn past_of(store: &Store, row: &BuildRow) -> Result<Past, Failure> {
    read_past(store, row).map_err(|error| failure(&format!("cannot read build {}", row.id), &error))
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let json = text::json(value).map_err(|error| failure("cannot write JSON", &error))?;
    print_result(&json)
}

/// A line of the list.
#[derive(Debug, Serialize)]
struct Listed {
    build: String,
    started: String,
    duration_ms: f64,
    status: &'static str,
    context: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dockerfile: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    target: String,
    names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    ran: usize,
    steps: usize,
    log_bytes: u64,
}

fn ls(store: &Store, args: &ListArgs) -> Result<(), Failure> {
    let builds = store.builds(None, args.limit).map_err(|error| failure("cannot list the builds", &error))?;
    let mut listed = Vec::new();
    for row in &builds {
        let past = past_of(store, row)?;
        let request = past.graph.request.clone();
        listed.push(Listed {
            build: row.id.to_string(),
            started: rfc3339::format(row.started),
            duration_ms: row.duration.as_secs_f64() * 1000.0,
            status: status_word(row.status),
            context: request.context,
            dockerfile: request.dockerfile,
            target: request.target,
            names: request.names,
            image: past.outcome.image.clone(),
            ran: past.outcome.ends.chars().filter(|end| *end == 'r').count(),
            steps: past.outcome.ends.chars().count(),
            log_bytes: row.log_bytes,
        });
    }
    if args.format.kind == FormatKind::Json {
        return print_json(&listed);
    }
    let mut lines = vec![["BUILD", "STATUS", "CREATED", "TIME", "RAN", "WHAT"].map(str::to_owned)];
    for (row, build) in builds.iter().zip(&listed) {
        let what = match build.names.first() {
            Some(name) => format!("{} from {}", name, build.context),
            None => build.context.clone(),
        };
        lines.push([
            build.build.clone(),
            build.status.to_owned(),
            age(row.started),
            text::duration(build.duration_ms),
            format!("{}/{}", build.ran, build.steps),
            printable(&what),
        ]);
    }
    let rows: Vec<Vec<&str>> = lines.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
    print_result(table(&rows, 3).trim_end())
}

#[derive(Serialize)]
struct Inspected<'a> {
    #[serde(flatten)]
    build: ExplainedBuild,
    request: &'a Request,
    log_bytes: u64,
    provenance: &'a [GraphStep],
}

fn inspect(store: &Store, row: &BuildRow, format: FormatKind) -> Result<(), Failure> {
    let past = past_of(store, row)?;
    let build = ExplainedBuild::of_past(&past);
    if format == FormatKind::Json {
        let (request, provenance) = (&past.graph.request, &*past.graph.steps);
        return print_json(&Inspected { build, request, log_bytes: row.log_bytes, provenance });
    }
    let request = &past.graph.request;
    let mut lines = vec![
        ("build", row.id.to_string()),
        ("status", status_word(row.status).to_owned()),
        ("started", format!("{} ({})", rfc3339::format(row.started), age(row.started))),
        ("duration", text::duration(row.duration.as_secs_f64() * 1000.0)),
        ("context", request.context.clone()),
    ];
    lines.extend(request.dockerfile.clone().map(|path| ("dockerfile", path)));
    lines.extend((!request.target.is_empty()).then(|| ("target", request.target.clone())));
    lines.push(("platform", request.platform.clone()));
    lines.extend(request.build_args.iter().map(|(name, value)| ("argument", format!("{name}={value}"))));
    lines.extend(request.contexts.iter().map(|(name, value)| ("further context", format!("{name}={value}"))));
    lines.extend(request.names.iter().map(|name| ("name", name.clone())));
    lines.extend(past.outcome.image.clone().map(|image| ("image", image)));
    lines.extend(past.outcome.error.clone().map(|error| ("error", error)));
    let mut shown: String =
        lines.iter().map(|(name, value)| format!("{name:16}{}\n", printable(value))).collect();
    if !build.steps.is_empty() {
        shown.push('\n');
        shown.push_str(&text::steps(&build));
    }
    print_result(shown.trim_end_matches('\n'))
}

/// The steps that a user means: a number, or part of a name.
fn steps_named(past: &Past, step: Option<&str>) -> Result<Vec<usize>, Failure> {
    let steps = &past.graph.steps;
    let Some(step) = step else { return Ok((0..steps.len()).collect()) };
    if let Ok(number) = step.parse::<usize>() {
        return match number.checked_sub(1).filter(|index| *index < steps.len()) {
            Some(index) => Ok(vec![index]),
            None => Err(Failure::new(Kind::Usage, format!("build {} has no step {number}", past.id))
                .hint("`wharf history inspect` numbers them")),
        };
    }
    let named = |index: &usize| steps[*index].provenance.name.contains(step);
    let hits: Vec<usize> = (0..steps.len()).filter(named).collect();
    match hits.len() {
        1 => Ok(hits),
        0 => Err(Failure::new(Kind::Usage, format!("build {} has no step `{step}`", past.id))
            .hint("`wharf history inspect` lists them")),
        _ => Err(Failure::new(Kind::Usage, format!("build {} has several steps `{step}`", past.id))
            .hint("give its number; `wharf history inspect` lists them")),
    }
}

fn logs(store: &Store, row: &BuildRow, step: Option<&str>, format: FormatKind) -> Result<(), Failure> {
    let past = past_of(store, row)?;
    let cannot_write = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::reader_gone(),
        _ => Failure::new(Kind::Environment, format!("cannot write to standard output: {error}")),
    };
    let mut out = BufWriter::new(results().map_err(cannot_write)?);
    let on_terminal = std::io::stdout().is_terminal();
    let is_one = step.is_some();
    for index in steps_named(&past, step)? {
        let this = &past.graph.steps[index];
        let log =
            store.step_log(row.id, &this.vertex).map_err(|error| failure("cannot read a log", &error))?;
        let Some(log) = log else { continue };
        if !is_one && format == FormatKind::Text {
            writeln!(out, "#{} {}", index + 1, printable(&this.provenance.name)).map_err(cannot_write)?;
        }
        let mut lines = [Lines::default(), Lines::default()];
        for chunk in log {
            match chunk.map_err(|error| failure("cannot read a log", &error))? {
                LogChunk::Cut => {
                    out.flush().map_err(cannot_write)?;
                    print_note("the rest of this log was not kept: it was too long");
                }
                LogChunk::Data { at, stream, data } => match format {
                    FormatKind::Json => {
                        let line = LogLine {
                            step: index + 1,
                            at_ms: at.as_secs_f64() * 1000.0,
                            stream: if stream == LogStream::Stdout { "stdout" } else { "stderr" },
                            data: String::from_utf8_lossy(&data).into_owned(),
                        };
                        let json = serde_json::to_string(&line)
                            .map_err(|error| failure("cannot write JSON", &error))?;
                        writeln!(out, "{json}").map_err(cannot_write)?;
                    }
                    // A terminal obeys what a step printed; a file keeps it as it was.
                    FormatKind::Text if on_terminal => {
                        for line in lines[usize::from(stream == LogStream::Stderr)].feed(&data) {
                            writeln!(out, "{line}").map_err(cannot_write)?;
                        }
                    }
                    FormatKind::Text => out.write_all(&data).map_err(cannot_write)?,
                },
            }
        }
        for line in lines.iter_mut().filter_map(Lines::end) {
            writeln!(out, "{line}").map_err(cannot_write)?;
        }
    }
    out.flush().map_err(cannot_write)
}

/// A piece of a log as JSON, one a line.
#[derive(Serialize)]
struct LogLine {
    step: usize,
    at_ms: f64,
    stream: &'static str,
    data: String,
}

fn compare_two(
    store: &Store,
    before: Option<&str>,
    now: Option<&str>,
    format: FormatKind,
) -> Result<(), Failure> {
    let now = find(store, now.unwrap_or("^0"))?;
    let before = match before {
        Some(name) => find(store, name)?,
        None => {
            let of_project = store
                .builds(Some(&now.project), BUILDS_MAX * 2)
                .map_err(|error| failure("cannot list the builds", &error))?;
            let mut older = of_project.into_iter().skip_while(|row| row.id != now.id).skip(1);
            older.next().ok_or_else(|| {
                Failure::new(Kind::Usage, format!("there is no build of the same before {}", now.id))
                    .hint("name two builds")
            })?
        }
    };
    let compared = compare::compare(store, &past_of(store, &before)?, &past_of(store, &now)?);
    match format {
        FormatKind::Json => print_json(&compared),
        FormatKind::Text => print_result(compared.text().trim_end_matches('\n')),
    }
}
