//! `wharf compose up`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;
use signal_hook::consts::SIGKILL;
use wharf_cache::to_nanos;

use super::create::{ConvergeArgs, Converged, More, converge};
use super::life::{await_all, stop_all};
use super::logs::speakers;
use super::project::Opened;
use super::session::{Cx, Session};
use crate::compose::follow::{Look, Printer, Speaker};
use crate::compose::observe;
use crate::containers::config::RestartPolicy;
use crate::containers::engine::Container;
use crate::containers::log::LogQuery;
use crate::error::{Failure, Kind};
use crate::progress::{color_of_results, print_error, print_talk};
use crate::signals::Listening;

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    #[command(flatten)]
    converge: ConvergeArgs,
    /// Leave the containers to themselves
    #[arg(short, long)]
    detach: bool,
    /// Stop all when one has ended
    #[arg(long, conflicts_with = "detach")]
    abort_on_container_exit: bool,
    /// Stop all when one has failed
    #[arg(long, conflicts_with = "detach")]
    abort_on_container_failure: bool,
    /// End with the exit status of this service's container; means --abort-on-container-exit
    #[arg(long, value_name = "SERVICE", conflicts_with = "detach")]
    exit_code_from: Option<String>,
    /// Make the containers anew too that these services depend on
    #[arg(long, conflicts_with = "no_recreate")]
    always_recreate_deps: bool,
    /// Show what these print alone; may be given several times
    #[arg(long, value_name = "SERVICE")]
    attach: Vec<String>,
    /// Do not show what these print; may be given several times
    #[arg(long, value_name = "SERVICE")]
    no_attach: Vec<String>,
    /// Show what the services print that the named ones depend on, too
    #[arg(long)]
    attach_dependencies: bool,
    /// Start nothing that the services depend on
    #[arg(long)]
    no_deps: bool,
    /// Make containers, and start none
    #[arg(long, conflicts_with = "wait")]
    no_start: bool,
    /// Make anonymous volumes anew
    #[arg(short = 'V', long)]
    renew_anon_volumes: bool,
    /// No colors
    #[arg(long)]
    no_color: bool,
    /// Do not begin lines with the name of their container
    #[arg(long)]
    no_log_prefix: bool,
    /// Begin lines with their time
    #[arg(long)]
    timestamps: bool,
    /// Seconds until containers are killed
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// Wait until all run, or are well; means --detach
    #[arg(long)]
    wait: bool,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECONDS")]
    wait_timeout: Option<u64>,
    /// Answer every question with yes: there are none
    #[arg(short = 'y', long, hide = true)]
    yes: bool,
    /// Only these services, and what they depend on
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

pub(super) fn up(cx: &Cx<'_>, args: &UpArgs) -> Result<ExitCode, Failure> {
    cx.with_files(true, |session, opened| {
        let all = args.attach.iter().chain(&args.no_attach).chain(&args.exit_code_from);
        let named: Vec<String> = all.cloned().collect();
        if !named.is_empty() {
            opened.select(&named, false)?;
        }
        let more = More {
            start: !args.no_start,
            no_deps: args.no_deps,
            always_recreate_deps: args.always_recreate_deps,
            renew_volumes: args.renew_anon_volumes,
            timeout: args.timeout,
        };
        let begun = to_nanos(std::time::SystemTime::now());
        let signals = session.until_signal()?;
        let converged = converge(session, opened, &args.services, &args.converge, &more, &signals);
        let is_foreground = !args.detach && !args.wait && !args.no_start;
        let converged = match converged {
            // What it has started goes on only with `--detach`.
            Err(failure) if is_foreground && signals.has_signal() => {
                drop(signals);
                return Err(failure).inspect_err(|_| stop_quietly(session, args));
            }
            converged => converged?,
        };
        if args.wait {
            let services: Vec<String> = converged.project.services.keys().cloned().collect();
            await_all(session, &services, args.wait_timeout)?;
        }
        if !is_foreground {
            return Ok(ExitCode::SUCCESS);
        }
        attend(session, opened, args, &converged, begun, &signals)
    })
}

fn stop_quietly(session: &Session<'_>, args: &UpArgs) {
    // The cancel that interrupted it would end this as well.
    if let Ok(cancel) = wharf_runtime::Cancel::new() {
        let session = Session { cancel: &cancel, ..*session };
        if let Err(failure) = stop_all(&session, args.timeout, &[]) {
            print_error(&failure);
        }
    }
}

/// What happens while containers are attended to.
enum Event {
    /// The container with this place in the list has ended for good.
    Ended(usize, u8),
    /// Somebody wants it to end.
    Signal,
    /// What was to be stopped is stopped.
    Stopped,
    /// Nobody reads what is printed any more, or it cannot be printed.
    Failed(Failure),
}

/// Shows what containers print until all have ended, or somebody interrupts it, or has done so while they were started: then
/// they are stopped; killed, at the second time.
fn attend(
    session: &Session<'_>,
    opened: &Opened,
    args: &UpArgs,
    converged: &Converged,
    begun: i64,
    signals: &Listening,
) -> Result<ExitCode, Failure> {
    let project = &converged.project;
    let mut containers = session.containers()?;
    containers.retain(|it| project.services.contains_key(observe::service(it)) && !observe::is_one_off(it));
    let shown = shown(args, opened, converged);
    let speakers = speakers(session.name, &containers);
    let look = Look {
        prefix: !args.no_log_prefix,
        color: !args.no_color && color_of_results(),
        timestamps: args.timestamps,
    };
    let labels = speakers.iter().zip(&containers).filter(|(_, it)| shown.contains(observe::service(it)));
    let printer = Printer::new(look, labels.map(|(speaker, _)| speaker.label.as_str()))?;
    let (events, inbox) = mpsc::channel();
    let is_over = AtomicBool::new(false);
    let of_signals = events.clone();
    // When nobody takes what happens any more all has ended.
    signals.hand_over(move || _ = of_signals.send(Event::Signal));
    thread::scope(|scope| {
        for (place, (container, speaker)) in containers.iter().zip(&speakers).enumerate() {
            let (events, printer, is_over) = (events.clone(), &printer, &is_over);
            let shows = shown.contains(observe::service(container));
            // What was there before is not told again.
            let was_up = converged
                .before
                .containers
                .iter()
                .any(|it| it.id == container.config.id && it.status.is_up());
            let since = if was_up { to_nanos(std::time::SystemTime::now()) } else { begun };
            scope.spawn(move || {
                let ended = watch(session, container, speaker, shows.then_some(printer), since, is_over);
                let _ = events.send(match ended {
                    Ok(status) => Event::Ended(place, status),
                    Err(failure) => Event::Failed(failure),
                });
            });
        }
        let stop = || {
            let events = events.clone();
            scope.spawn(move || {
                stop_quietly(session, args);
                let _ = events.send(Event::Stopped);
            });
        };
        let done = direct(session, args, &containers, &speakers, &inbox, &stop);
        is_over.store(true, Ordering::Relaxed);
        if done.is_err() {
            // Whoever follows ends with the containers.
            stop_quietly(session, args);
        }
        done
    })
}

/// Takes what happens, and decides.
fn direct(
    session: &Session<'_>,
    args: &UpArgs,
    containers: &[Container],
    speakers: &[Speaker],
    inbox: &mpsc::Receiver<Event>,
    stop: &dyn Fn(),
) -> Result<ExitCode, Failure> {
    let from = args.exit_code_from.as_deref();
    let aborts = args.abort_on_container_exit || from.is_some();
    let mut left = containers.len();
    let mut status = None;
    let mut interrupted = 0;
    let mut is_stopping = false;
    let mut stops = 0;
    while left > 0 || stops > 0 {
        let Ok(event) = inbox.recv() else { break };
        match event {
            Event::Ended(place, code) => {
                left -= 1;
                let service = observe::service(&containers[place]);
                print_talk(&format!("{} exited with code {code}\n", speakers[place].label));
                let ends_all = aborts || (args.abort_on_container_failure && code != 0);
                let counts = match from {
                    Some(from) => from == service,
                    None => ends_all,
                };
                if counts && status.is_none() && interrupted == 0 {
                    status = Some(code);
                }
                if ends_all && !is_stopping {
                    is_stopping = true;
                    stops += 1;
                    print_talk("Aborting on container exit...\n");
                    stop();
                }
            }
            Event::Signal => {
                interrupted += 1;
                match interrupted {
                    1 if !is_stopping => {
                        is_stopping = true;
                        stops += 1;
                        print_talk("Gracefully stopping... (press Ctrl+C again to force)\n");
                        stop();
                    }
                    _ => {
                        for container in containers {
                            // One that has ended cannot be killed, and need not be.
                            let _ = session.engine.kill(&container.config.id, SIGKILL);
                        }
                    }
                }
            }
            Event::Stopped => stops -= 1,
            Event::Failed(failure) => return Err(failure),
        }
    }
    let _ = std::io::stdout().flush();
    match (interrupted, status) {
        (0, status) => Ok(ExitCode::from(status.unwrap_or(0))),
        (_, _) => Ok(ExitCode::from(Kind::Cancelled.exit_code())),
    }
}

/// The services whose output is shown.
fn shown(args: &UpArgs, opened: &Opened, converged: &Converged) -> BTreeSet<String> {
    let services = converged.project.services.iter();
    services
        .filter(|(name, service)| {
            let is_named =
                args.services.is_empty() || args.attach_dependencies || args.services.contains(name);
            let attaches = opened.origin.project.services.get(*name).and_then(|it| it.attach) != Some(false);
            match (args.attach.is_empty(), args.no_attach.contains(name)) {
                (_, true) => false,
                (false, false) => args.attach.contains(name),
                (true, false) => is_named && attaches && service.provider.is_none(),
            }
        })
        .map(|(name, _)| name.clone())
        .collect()
}

/// How long a container that is about to be started again may look as if it had ended.
const SETTLING: Duration = Duration::from_millis(100);

/// Follows a container through all its restarts; gives its last exit status.
fn watch(
    session: &Session<'_>,
    container: &Container,
    speaker: &Speaker,
    printer: Option<&Printer>,
    since: i64,
    is_over: &AtomicBool,
) -> Result<u8, Failure> {
    let id = &container.config.id;
    let mut since = since;
    let restarts = container.config.restart != RestartPolicy::No;
    loop {
        match printer.filter(|_| !container.config.log.none) {
            Some(printer) => {
                let query = LogQuery { follow: true, since: Some(since), ..LogQuery::default() };
                let last = printer.follow(session.engine, speaker, &query)?;
                since = last.map_or(since, |last| last + 1);
            }
            None => drop(session.engine.wait(id)?),
        }
        if restarts {
            thread::sleep(SETTLING);
        }
        let Ok(now) = session.engine.get(id) else { return Ok(container.state.exit_code) };
        if !now.state.status.is_watched() || is_over.load(Ordering::Relaxed) {
            return Ok(now.state.exit_code);
        }
    }
}
