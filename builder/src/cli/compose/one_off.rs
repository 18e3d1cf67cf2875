//! `wharf compose run`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use wharf_frontend::compose::model::Condition;

use super::build::{When, prepare};
use super::create::{ConvergeArgs, More, PullWhen, converge, shared_only};
use super::inside::{cannot_follow, follow, has_terminal};
use super::session::Cx;
use crate::compose::convert;
use crate::compose::observe;
use crate::compose::work::{Work, interrupted};
use crate::containers::ask::NetworkAsk;
use crate::containers::config::{PortUse, Protocol, RestartPolicy};
use crate::containers::engine::Remove;
use crate::containers::protocol::Streams;
use crate::containers::streams::{Collected, DetachKeys, terminal_size};
use crate::error::{Failure, Kind};
use crate::progress::print_result;
use crate::volumes::spec::parse_volume;

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Build the image first
    #[arg(long)]
    build: bool,
    /// Leave the container to itself, and print its name
    #[arg(short, long)]
    detach: bool,
    /// In place of the service's entrypoint
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Set a variable; without a value it is that of the environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Keep its standard input open, which it is anyway
    #[arg(short, long)]
    interactive: bool,
    /// A further label
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Name of the container
    #[arg(long)]
    name: Option<String>,
    /// Give it no terminal [default: it has one if there is one here]
    #[arg(short = 'T', long = "no-TTY", alias = "no-tty")]
    no_tty: bool,
    /// Start nothing that the service depends on
    #[arg(long)]
    no_deps: bool,
    /// Publish a port: [ADDRESS:][PORT:]PORT[/udp]
    #[arg(short, long, value_name = "PORTS")]
    publish: Vec<String>,
    /// When images are brought
    #[arg(long, value_enum, default_value_t = PullWhen::Policy)]
    pull: PullWhen,
    /// Show no progress of what is brought
    #[arg(long)]
    quiet_pull: bool,
    /// Remove containers of services that the project no longer has
    #[arg(long)]
    remove_orphans: bool,
    /// Remove the container when it ends
    #[arg(long)]
    rm: bool,
    /// Publish the ports of the service
    #[arg(short = 'P', long)]
    service_ports: bool,
    /// Let others find it by the names of the service
    #[arg(long)]
    use_aliases: bool,
    /// Who runs it
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Mount something: SOURCE:TARGET[:OPTIONS]
    #[arg(short, long, value_name = "MOUNT")]
    volume: Vec<String>,
    /// Where it starts
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The service
    service: String,
    /// Command and arguments in place of the service's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(cx: &Cx<'_>, args: &RunArgs) -> Result<ExitCode, Failure> {
    cx.with_files(true, |session, opened| {
        let signals = session.until_signal()?;
        let project = opened.select(std::slice::from_ref(&args.service), false)?;
        let Some(service) = project.services.get(&args.service) else {
            return Err(Failure::new(Kind::Usage, format!("there is no service {}", args.service)));
        };
        let all = ConvergeArgs {
            remove_orphans: args.remove_orphans,
            ..ConvergeArgs::plain(args.pull, args.quiet_pull)
        };
        // Without those that it can do without and that are not active.
        let needed = match args.no_deps {
            true => BTreeMap::new(),
            false => opened
                .select(std::slice::from_ref(&args.service), true)?
                .services
                .remove(&args.service)
                .map(|service| service.depends_on)
                .unwrap_or_default(),
        };
        let dependencies: Vec<String> = needed.keys().cloned().collect();
        if !dependencies.is_empty() {
            let more = More { start: true, ..More::default() };
            converge(session, opened, &dependencies, &all, &more, &signals)?;
        }
        let when = When { build: args.build, no_build: false, pull: args.pull, quiet: args.quiet_pull };
        let images = prepare(session, opened, &project, when, &signals)?;
        // The networks and volumes of the service itself, and nobody's containers.
        shared_only(session, &project)?;
        let work = Work {
            images,
            hashes: [(args.service.clone(), convert::hash(&opened.origin, &args.service)?)].into(),
            ..session.work()
        };
        for (target, dependency) in needed.iter().filter(|(_, it)| it.condition != Condition::Started) {
            let containers = session.containers_of(std::slice::from_ref(target))?;
            let own = containers.into_iter().filter(|it| !observe::is_one_off(it));
            let names: Vec<String> = own.map(|it| it.config.name).collect();
            work.await_dependency(target, dependency.condition, &names, dependency.required)?;
        }
        let mut random = [0; 6];
        getrandom::fill(&mut random)
            .map_err(|error| Failure::new(Kind::Environment, format!("cannot make up a name: {error}")))?;
        let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let name =
            args.name.clone().unwrap_or_else(|| format!("{}-{}-run-{digits}", session.name, args.service));
        let mut ask = work.ask_for(&args.service, 1, &name, true)?;
        let tty = !args.no_tty && !args.detach && has_terminal();
        (ask.tty, ask.open_stdin) = (tty || (args.detach && service.tty), !args.detach || service.stdin_open);
        ask.stdin_once = !args.detach;
        (ask.restart, ask.auto_remove) = (RestartPolicy::No, args.rm);
        if !args.service_ports {
            ask.ports.clear();
        }
        for text in &args.publish {
            ask.ports.push(published(text)?);
        }
        if let Some(entrypoint) = &args.entrypoint {
            let words = wharf_frontend::compose::words(entrypoint);
            let wrong = |reason| Failure::new(Kind::Usage, format!("--entrypoint {entrypoint}: it {reason}"));
            ask.entrypoint = Some(words.map_err(wrong)?);
            ask.command = Some(Vec::new());
        }
        if !args.command.is_empty() {
            ask.command = Some(args.command.clone());
        }
        ask.env.extend(args.env.iter().map(|text| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (text.clone(), None),
        }));
        for text in &args.label {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            ask.labels.insert(name.to_owned(), value.to_owned());
        }
        ask.user = args.user.clone().or(ask.user);
        ask.working_dir = args.workdir.clone().or(ask.working_dir);
        let base = PathBuf::from(&opened.origin.directory);
        for text in &args.volume {
            let mount = parse_volume(text, &base)?;
            ask.mounts.retain(|other| other.target != mount.target);
            ask.mounts.push(mount);
        }
        if args.use_aliases
            && let NetworkAsk::Networks(attachments) = &mut ask.network
        {
            attachments.iter_mut().for_each(|it| it.aliases.push(args.service.clone()));
        }
        let container = session.engine.create(&ask)?;
        let id = &container.config.id;
        let undo = |failure: Failure| {
            // Why it could not be started says more.
            if args.rm {
                let _ = session.engine.remove(id, Remove { force: true, volumes: true });
            }
            failure
        };
        // From here on signals are for the container.
        let collected = Collected::begin().map_err(|error| undo(cannot_follow(&error)))?;
        if signals.has_signal() {
            return Err(undo(interrupted()));
        }
        drop(signals);
        if args.detach {
            session.engine.start(id, None).map_err(undo)?;
            return print_result(&name).map(|()| ExitCode::SUCCESS);
        }
        let streams =
            Streams { stdin: true, stdout: true, stderr: true, size: tty.then(terminal_size).flatten() };
        match session.engine.start(id, Some(streams)).map_err(undo)? {
            Some(stream) => follow(stream, tty, true, DetachKeys::default(), collected),
            None => session.engine.wait(id).map(ExitCode::from),
        }
    })
}

/// `[ADDRESS:][PORT:]PORT[/udp]`.
fn published(text: &str) -> Result<PortUse, Failure> {
    let wrong = || Failure::new(Kind::Usage, format!("--publish {text} is not [ADDRESS:][PORT:]PORT[/udp]"));
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some(_) => return Err(wrong()),
        None => (text, Protocol::Tcp),
    };
    let mut parts: Vec<&str> = ports.rsplitn(3, ':').collect();
    parts.resize(3, "");
    let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    let host = if parts[1].is_empty() { 0 } else { number(parts[1])? };
    let bare = parts[2].trim_start_matches('[').trim_end_matches(']');
    let address = if bare.is_empty() { None } else { Some(bare.parse().map_err(|_| wrong())?) };
    Ok(PortUse { container: number(parts[0])?, protocol, address, host, host_last: host })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        let check = |text: &str, expected: Option<(u16, u16, Option<&str>, Protocol)>| {
            let port = published(text).ok();
            let port =
                port.map(|it| (it.container, it.host, it.address.map(|it| it.to_string()), it.protocol));
            let expected = expected.map(|(c, h, a, p)| (c, h, a.map(str::to_owned), p));
            assert_eq!(port, expected, "{text}");
        };
        check("80", Some((80, 0, None, Protocol::Tcp)));
        check("8080:80/udp", Some((80, 8080, None, Protocol::Udp)));
        check("127.0.0.1:8080:80", Some((80, 8080, Some("127.0.0.1"), Protocol::Tcp)));
        check("[::1]:8080:80", Some((80, 8080, Some("::1"), Protocol::Tcp)));
        for text in ["", "x", "80/icmp", "70000", "host:1:2"] {
            check(text, None);
        }
    }
}
