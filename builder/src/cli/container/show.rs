//! `wharf logs`, `top` and `port`.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use wharf_cache::to_nanos;
use wharf_runtime::Stream;

use super::Session;
use super::list::port_text;
use super::range::LogRange;
use crate::build::call::table;
use crate::cli::config::Config;
use crate::cli::place::Wanted;
use crate::containers::engine::Engine;
use crate::containers::log::LogQuery;
use crate::containers::protocol::Process;
use crate::error::{Failure, Kind};
use crate::progress::{print_result, results};

#[derive(Debug, Args)]
pub(in crate::cli) struct LogsArgs {
    #[command(flatten)]
    range: LogRange,
    /// Its name, or first digits of its identifier
    container: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TopArgs {
    /// Its name, or first digits of its identifier
    container: String,
    /// Columns in place of the usual ones: `-o pid,comm`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PortArgs {
    /// Its name, or first digits of its identifier
    container: String,
    /// A port of the container alone: 80 or 53/udp
    port: Option<String>,
}

pub(super) fn logs(args: &LogsArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let query = args.range.query()?;
    Session::enter(wanted, config)?.with_engine(|engine| print_logs(engine, args, &query))
}

fn print_logs(engine: &Engine, args: &LogsArgs, query: &LogQuery) -> Result<ExitCode, Failure> {
    let container = engine.find(&args.container)?;
    let cannot_write = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::reader_gone(),
        _ => Failure::new(Kind::Environment, format!("cannot write to standard output: {error}")),
    };
    let mut stdout = results().map_err(cannot_write)?;
    engine.logs(&container.config.id, query, &mut |entry| {
        let text = match args.range.timestamps {
            true => format!("{} {}", entry.time_text(), entry.text),
            false => entry.text,
        };
        match entry.stream {
            Stream::Stdout => stdout.write_all(text.as_bytes()).map_err(cannot_write)?,
            Stream::Stderr => crate::progress::print_talk(&text),
        }
        Ok(true)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The columns of `top`, by what `-o` calls them.
const COLUMNS: [(&str, &str); 14] = [
    ("uid", "UID"),
    ("user", "USER"),
    ("pid", "PID"),
    ("ppid", "PPID"),
    ("c", "C"),
    ("stime", "STIME"),
    ("tty", "TTY"),
    ("time", "TIME"),
    ("cmd", "CMD"),
    ("args", "COMMAND"),
    ("comm", "COMMAND"),
    ("s", "S"),
    ("rss", "RSS"),
    ("etime", "ELAPSED"),
];

/// Those that are shown when nothing is said: `ps -ef`.
const USUAL: [&str; 8] = ["uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd"];

pub(super) fn top(args: &TopArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let columns = top_columns(&args.options)?;
    Session::enter(wanted, config)?.with_engine(|engine| {
        let id = engine.resolve(&args.container)?;
        let processes = engine.top(&id)?;
        let heading = |column: &str| COLUMNS.iter().find(|(name, _)| *name == column).map_or("", |it| it.1);
        let now = to_nanos(SystemTime::now());
        let mut rows: Vec<Vec<String>> =
            vec![columns.iter().map(|column| heading(column).to_owned()).collect()];
        rows.extend(processes.iter().map(|process| {
            columns.iter().map(|column| top_cell(process, column, now)).collect::<Vec<String>>()
        }));
        let rows: Vec<Vec<&str>> = rows.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
        print_result(table(&rows, 3).trim_end()).map(|()| ExitCode::SUCCESS)
    })
}

/// What `ps` options mean here: `-ef` and the like are the usual columns, `-o` names some.
fn top_columns(options: &[String]) -> Result<Vec<String>, Failure> {
    let options: Vec<&str> = options.iter().flat_map(|text| text.split_whitespace()).collect();
    let named = match options[..] {
        [] | ["-ef" | "-eF" | "ef" | "aux" | "-e" | "-f"] => return Ok(USUAL.map(str::to_owned).to_vec()),
        ["-o" | "-eo", named] => named,
        [one] if one.starts_with("-o") => &one[2..],
        _ => {
            return Err(Failure::new(Kind::Usage, format!("`{}` is not known here", options.join(" ")))
                .hint(
                    "processes are listed by wharf itself: `-o` and names of columns with commas between",
                ));
        }
    };
    let known = |name: &str| match COLUMNS.iter().any(|(known, _)| *known == name) {
        true => Ok(name.to_owned()),
        false => {
            let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
            Err(Failure::new(Kind::Usage, format!("there is no column `{name}`"))
                .hint(format!("there are {}", names.join(", "))))
        }
    };
    named.split(',').map(known).collect()
}

fn top_cell(process: &Process, column: &str, now: i64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let age = Duration::from_nanos(u64::try_from(now - process.started).unwrap_or(0));
    let clock = |seconds: u64| format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    match column {
        "uid" | "user" if process.uid == 0 => "root".to_owned(),
        "uid" | "user" => process.uid.to_string(),
        "pid" => process.pid.to_string(),
        "ppid" => process.parent.to_string(),
        "c" => {
            let share = process.cpu.checked_mul(100).and_then(|cpu| cpu.checked_div(age.as_nanos() as u64));
            share.unwrap_or(0).min(99).to_string()
        }
        "stime" => {
            let started = crate::exporter::rfc3339::format(wharf_cache::from_nanos(process.started));
            started.get(11..16).unwrap_or_default().to_owned()
        }
        // The kernel's numbers of terminals: 136 to 143 are those of /dev/pts.
        "tty" => match (process.terminal, process.terminal >> 8 & 0xfff) {
            (0, _) => "?".to_owned(),
            (number, 136..=143) => format!("pts/{}", number & 0xff),
            (number, major) => format!("{major}/{}", number & 0xff),
        },
        "time" => clock(process.cpu / SECOND),
        "etime" => clock(age.as_secs()),
        "comm" => {
            let program = process.command.split(' ').next().unwrap_or_default();
            program.rsplit('/').next().unwrap_or_default().to_owned()
        }
        "s" => process.state.to_string(),
        "rss" => (process.memory / 1024).to_string(),
        _ => process.command.replace(char::is_control, " "),
    }
}

pub(super) fn port(args: &PortArgs, wanted: &Wanted, config: &Config) -> Result<ExitCode, Failure> {
    let wanted_port = args.port.as_ref().map(|port| match port.contains('/') {
        true => port.clone(),
        false => format!("{port}/tcp"),
    });
    Session::enter(wanted, config)?.with_engine(|engine| {
        let container = engine.find(&args.container)?;
        let mut found = false;
        for port in &container.state.ports {
            let text = port_text(port.container, port.protocol);
            let address = std::net::SocketAddr::new(port.address, port.host);
            match &wanted_port {
                None => print_result(&format!("{text} -> {address}"))?,
                Some(wanted) if *wanted == text => {
                    found = true;
                    print_result(&address.to_string())?;
                }
                Some(_) => {}
            }
        }
        match wanted_port {
            Some(port) if !found => Err(Failure::new(
                Kind::Usage,
                format!("no port of this host leads to {port} of the container `{}`", args.container),
            )),
            _ => Ok(ExitCode::SUCCESS),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_top() {
        let columns =
            |options: &[&str]| top_columns(&options.iter().map(|&it| it.to_owned()).collect::<Vec<_>>()).ok();
        assert_eq!(columns(&[]).map(|columns| columns.len()), Some(8));
        assert_eq!(columns(&["-ef"]), columns(&[]));
        assert_eq!(columns(&["-o", "pid,comm"]), Some(vec!["pid".to_owned(), "comm".to_owned()]));
        assert_eq!(columns(&["-opid"]), Some(vec!["pid".to_owned()]));
        assert_eq!(columns(&["-o", "pid,x"]), None);
        assert_eq!(columns(&["-Z"]), None);
    }
}
