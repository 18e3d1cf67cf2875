//! `wharf compose ps`, `ls`, `images`, `top` and `port`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use serde_json::{Value, json};
use wharf_cache::{Digest, from_nanos};

use super::session::Cx;
use crate::build::call::table;
use crate::cli::container::stats::{StatsArgs, show};
use crate::cli::image::age;
use crate::cli::template::{Column, Format};
use crate::compose::{labels, observe};
use crate::containers::config::{NetworkUse, Protocol};
use crate::containers::engine::Container;
use crate::containers::state::{HealthStatus, Status};
use crate::error::{Failure, Kind};
use crate::progress::print_result;

#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// Those too that do not run, and those of `run`
    #[arg(short, long)]
    all: bool,
    /// Only those with this state: status=running
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Only those with this state; may be given several times
    #[arg(long, value_name = "STATUS")]
    status: Vec<String>,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Identifiers alone
    #[arg(short, long)]
    quiet: bool,
    /// Names of services alone
    #[arg(long)]
    services: bool,
    /// Show commands in full
    #[arg(long)]
    no_trunc: bool,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    only: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct LsArgs {
    /// Those too of which nothing runs
    #[arg(short, long)]
    all: bool,
    /// table or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names alone
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct ImagesArgs {
    /// table or json
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Identifiers alone
    #[arg(short, long)]
    quiet: bool,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct PortArgs {
    /// The number of the container [default: the first]
    #[arg(long, value_name = "N")]
    index: Option<u32>,
    /// tcp or udp
    #[arg(long, default_value = "tcp")]
    protocol: String,
    /// The service
    service: String,
    /// The port of its containers
    port: u16,
}

const PS: [Column; 17] = [
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("ExitCode", "EXIT CODE"),
    ("Health", "HEALTH"),
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Labels", "LABELS"),
    ("Name", "NAME"),
    ("Names", "NAMES"),
    ("Networks", "NETWORKS"),
    ("Ports", "PORTS"),
    ("Project", "PROJECT"),
    ("Publishers", "PUBLISHERS"),
    ("RunningFor", "CREATED"),
    ("Service", "SERVICE"),
    ("State", "STATE"),
    ("Status", "STATUS"),
];

/// Characters of a command that a line has room for.
const COMMAND_CHARS: usize = 20;

pub(super) fn ps(cx: &Cx<'_>, args: &PsArgs) -> Result<ExitCode, Failure> {
    let format = Format::parse(args.format.as_deref())?;
    format.require_fields(&PS)?;
    let mut states: Vec<&str> = args.status.iter().map(String::as_str).collect();
    for filter in &args.filter {
        match filter.split_once('=') {
            Some(("status", state)) => states.push(state),
            _ => {
                return Err(Failure::new(Kind::Usage, format!("--filter {filter} is not status=STATUS")));
            }
        }
    }
    cx.with_project(false, |session| {
        let mut containers = session.containers_of(&args.only)?;
        containers.retain(|it| {
            let is_up = it.state.status.is_up() || it.state.status == Status::Restarting;
            match states.as_slice() {
                [] => args.all || (is_up && !observe::is_one_off(it)),
                states => states.contains(&it.state.status.name()),
            }
        });
        if args.services {
            let mut names: Vec<&str> = containers.iter().map(observe::service).collect();
            names.dedup();
            return print_lines(&names);
        }
        if args.quiet {
            let ids: Vec<&str> = containers.iter().map(|it| it.config.id.0.as_str()).collect();
            return print_lines(&ids);
        }
        let rows: Vec<Value> = containers.iter().map(|it| row(session.name, it, args.no_trunc)).collect();
        let columns = ["Name", "Image", "Command", "Service", "RunningFor", "Status", "Ports"];
        format.print(&rows, &columns, &PS).map(|()| ExitCode::SUCCESS)
    })
}

fn print_lines(lines: &[&str]) -> Result<ExitCode, Failure> {
    if !lines.is_empty() {
        print_result(&lines.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(project: &str, container: &Container, in_full: bool) -> Value {
    let (config, state) = (&container.config, &container.state);
    let words = config.process.entrypoint.iter().chain(&config.process.command);
    let command = words.map(String::as_str).collect::<Vec<_>>().join(" ").replace(char::is_control, " ");
    let command = match in_full || command.chars().count() <= COMMAND_CHARS {
        true => command,
        false => command.chars().take(COMMAND_CHARS - 1).chain(['…']).collect(),
    };
    let health = state.health.as_ref().map_or("", |it| health_name(it.status));
    let labels: Vec<String> = config.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let networks: Vec<&str> = match &config.network {
        NetworkUse::Networks { attached } => attached.iter().map(|it| it.network.as_str()).collect(),
        _ => Vec::new(),
    };
    json!({
        "Command": format!("\"{command}\""),
        "CreatedAt": crate::exporter::rfc3339::format(from_nanos(config.created)),
        "ExitCode": state.exit_code,
        "Health": health,
        "ID": config.id.short(),
        "Image": config.image.name,
        "Name": config.name,
        "Labels": labels.join(","),
        "Names": config.name,
        "Networks": networks.join(","),
        "Ports": ports(container),
        "Project": project,
        "Publishers": publishers(container),
        "RunningFor": age(from_nanos(config.created)),
        "Service": observe::service(container),
        "State": state.status.name(),
        "Status": status(container),
    })
}

fn health_name(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

/// `Up 5 seconds (healthy)`, `Exited (0) 2 minutes ago`.
fn status(container: &Container) -> String {
    let state = &container.state;
    let since = |time: Option<i64>| age(time.map_or_else(SystemTime::now, from_nanos));
    let up = || since(state.started).trim_end_matches(" ago").to_owned();
    let health = state.health.as_ref().map_or_else(String::new, |it| match it.status {
        HealthStatus::Starting => " (health: starting)".to_owned(),
        other => format!(" ({})", health_name(other)),
    });
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => format!("Up {}{health}", up()),
        Status::Paused => format!("Up {} (Paused)", up()),
        Status::Restarting => format!("Restarting ({}) {}", state.exit_code, since(state.finished)),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Exited => format!("Exited ({}) {}", state.exit_code, since(state.finished)),
        Status::Dead => "Dead".to_owned(),
    }
}

/// `0.0.0.0:8080->80/tcp, 9000/tcp`.
fn ports(container: &Container) -> String {
    let mut texts: Vec<String> = Vec::new();
    for port in &container.state.ports {
        let text = format!("{}->{}/{}", address(port.address, port.host), port.container, port.protocol);
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let published: Vec<String> =
        container.state.ports.iter().map(|it| format!("{}/{}", it.container, it.protocol)).collect();
    texts.extend(container.config.exposed.iter().filter(|it| !published.contains(it)).cloned());
    texts.join(", ")
}

/// The same for programs; one that is exposed alone has the host's port 0.
fn publishers(container: &Container) -> Vec<Value> {
    let publisher = |url: String, target: u16, published: u16, protocol: &str| json!({ "URL": url, "TargetPort": target, "PublishedPort": published, "Protocol": protocol });
    let bound = &container.state.ports;
    let mut all: Vec<Value> = bound
        .iter()
        .map(|it| publisher(it.address.to_string(), it.container, it.host, &it.protocol.to_string()))
        .collect();
    for exposed in &container.config.exposed {
        let (port, protocol) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
        let is_bound =
            |port: u16| bound.iter().any(|it| it.container == port && it.protocol.to_string() == protocol);
        match port.parse() {
            Ok(port) if !is_bound(port) => all.push(publisher(String::new(), port, 0, protocol)),
            _ => {}
        }
    }
    all
}

fn address(address: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// `table` or `json`.
fn is_json(format: Option<&str>) -> Result<bool, Failure> {
    match format {
        None | Some("table") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(Failure::new(Kind::Usage, format!("--format {other} is neither table nor json"))),
    }
}

pub(super) fn ls(cx: &Cx<'_>, args: &LsArgs) -> Result<ExitCode, Failure> {
    let is_json = is_json(args.format.as_deref())?;
    cx.enter(false, None, "", |session| {
        let mut projects: BTreeMap<String, (BTreeMap<&'static str, usize>, String)> = BTreeMap::new();
        for container in session.engine.list()? {
            let labels = &container.config.labels;
            let Some(name) = labels.get(labels::PROJECT) else { continue };
            let (states, files) = projects.entry(name.clone()).or_default();
            *states.entry(container.state.status.name()).or_default() += 1;
            if let Some(of) = labels.get(labels::CONFIG_FILES) {
                files.clone_from(of);
            }
        }
        if !args.all {
            projects.retain(|_, (states, _)| states.contains_key("running"));
        }
        let status = |states: &BTreeMap<&str, usize>| {
            states.iter().map(|(name, count)| format!("{name}({count})")).collect::<Vec<_>>().join(", ")
        };
        if args.quiet {
            return print_lines(&projects.keys().map(String::as_str).collect::<Vec<_>>());
        }
        if is_json {
            let rows = projects.iter().map(|(name, (states, files))| {
                json!({ "Name": name, "Status": status(states), "ConfigFiles": files })
            });
            return print_result(&Value::Array(rows.collect()).to_string()).map(|()| ExitCode::SUCCESS);
        }
        let rows =
            projects.iter().map(|(name, (states, files))| vec![name.clone(), status(states), files.clone()]);
        print_table(&["NAME", "STATUS", "CONFIG FILES"], rows.collect())
    })
}

pub(super) fn images(cx: &Cx<'_>, args: &ImagesArgs) -> Result<ExitCode, Failure> {
    let is_json = is_json(args.format.as_deref())?;
    cx.with_project(false, |session| {
        let containers = session.containers_of(&args.services)?;
        let short = |text: &str| match text.parse::<Digest>() {
            Ok(digest) => digest.hex()[..12].to_owned(),
            Err(_) => text.to_owned(),
        };
        if args.quiet {
            let mut ids: Vec<String> = containers.iter().map(|it| short(&it.config.image.digest)).collect();
            ids.sort();
            ids.dedup();
            return print_lines(&ids.iter().map(String::as_str).collect::<Vec<_>>());
        }
        let split = |name: &str| match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository.to_owned(), tag.to_owned()),
            _ => (name.to_owned(), "latest".to_owned()),
        };
        let rows = containers.iter().map(|it| {
            let (repository, tag) = split(&it.config.image.name);
            vec![
                it.config.name.clone(),
                repository,
                tag,
                it.config.image.platform.clone(),
                short(&it.config.image.digest),
            ]
        });
        let rows: Vec<Vec<String>> = rows.collect();
        if is_json {
            let keys = ["ContainerName", "Repository", "Tag", "Platform", "ID"];
            let object = |row: &Vec<String>| {
                Value::Object(keys.iter().zip(row).map(|(key, it)| ((*key).to_owned(), json!(it))).collect())
            };
            let all = Value::Array(rows.iter().map(object).collect());
            return print_result(&all.to_string()).map(|()| ExitCode::SUCCESS);
        }
        print_table(&["CONTAINER", "REPOSITORY", "TAG", "PLATFORM", "IMAGE ID"], rows)
    })
}

fn print_table(headings: &[&str], rows: Vec<Vec<String>>) -> Result<ExitCode, Failure> {
    let headings: Vec<String> = headings.iter().map(|&it| it.to_owned()).collect();
    let all: Vec<Vec<String>> = std::iter::once(headings).chain(rows).collect();
    let cells: Vec<Vec<&str>> = all.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
    print_result(table(&cells, 3).trim_end()).map(|()| ExitCode::SUCCESS)
}

/// What containers of the named services, or of all, take.
pub(super) fn stats(cx: &Cx<'_>, args: &StatsArgs) -> Result<ExitCode, Failure> {
    cx.with_project(false, |session| {
        show(session.engine, args, &|| {
            let mut containers = session.containers_of(&args.containers)?;
            containers.retain(|it| args.all || it.state.status.is_up());
            Ok(containers)
        })
    })
}

pub(super) fn top(cx: &Cx<'_>, args: &TopArgs) -> Result<ExitCode, Failure> {
    cx.with_project(false, |session| {
        let mut text = String::new();
        for container in session.containers_of(&args.services)? {
            if !container.state.status.is_up() {
                continue;
            }
            let processes = session.engine.top(&container.config.id)?;
            let heading = ["UID", "PID", "PPID", "STATE", "CMD"].map(str::to_owned).to_vec();
            let rows = processes.into_iter().map(|it| {
                vec![
                    it.uid.to_string(),
                    it.pid.to_string(),
                    it.parent.to_string(),
                    it.state.to_string(),
                    it.command.replace(char::is_control, " "),
                ]
            });
            let all: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
            let cells: Vec<Vec<&str>> =
                all.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
            let _ = writeln!(text, "{}\n{}", container.config.name, table(&cells, 3).trim_end());
            text.push('\n');
        }
        if !text.is_empty() {
            print_result(text.trim_end())?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn port(cx: &Cx<'_>, args: &PortArgs) -> Result<ExitCode, Failure> {
    let protocol = match args.protocol.as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => return Err(Failure::new(Kind::Usage, format!("--protocol {other} is neither tcp nor udp"))),
    };
    cx.with_project(false, |session| {
        let container = session.container(&args.service, args.index)?;
        let mut bound = container.state.ports.iter();
        let found =
            bound.find(|it| it.container == args.port && it.protocol == protocol).ok_or_else(|| {
                let (port, name) = (args.port, &container.config.name);
                Failure::new(
                    Kind::Usage,
                    format!("no port {port}/{protocol} of container {name} is published"),
                )
            })?;
        print_result(&address(found.address, found.host)).map(|()| ExitCode::SUCCESS)
    })
}
