//! `wharf compose down`, `start`, `stop`, `restart`, `kill`, `rm`, `pause`, `unpause` and `wait`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use wharf_frontend::compose::model::Condition;

use super::session::{Cx, Session};
use crate::compose::labels;
use crate::compose::observe;
use crate::compose::plan::{self, Action, Down, Life, Services, Step, Steps};
use crate::compose::work::Work;
use crate::containers::signal;
use crate::containers::state::Status;
use crate::error::{Failure, Kind};
use crate::networks::record::Networks;
use crate::progress::{ask, print_note, print_result, print_warning};
use crate::volumes::Volumes;

#[derive(Debug, Args)]
pub(super) struct DownArgs {
    /// Remove the volumes of the project too, with their files, and anonymous ones
    #[arg(short, long)]
    volumes: bool,
    /// Remove images too: all of the project's, or those that have no name of their own (local)
    #[arg(long, value_enum, value_name = "WHICH")]
    rmi: Option<Rmi>,
    /// Remove containers of services that the project no longer has
    #[arg(long)]
    remove_orphans: bool,
    /// Seconds until containers are killed
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// Only the containers of these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rmi {
    All,
    Local,
}

#[derive(Debug, Args)]
pub(super) struct ServicesArgs {
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// Wait until they run, or are well
    #[arg(long)]
    wait: bool,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECONDS")]
    wait_timeout: Option<u64>,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// Seconds until containers are killed
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct RestartArgs {
    /// Leave services alone that want to be restarted with these
    #[arg(long)]
    no_deps: bool,
    /// Seconds until containers are killed
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i64>,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct KillArgs {
    /// The signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGKILL")]
    signal: String,
    /// The containers of services that the project no longer has too
    #[arg(long)]
    remove_orphans: bool,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Stop them first
    #[arg(short, long)]
    stop: bool,
    /// Remove their anonymous volumes too
    #[arg(short, long)]
    volumes: bool,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// Bring the project down when the first container has ended
    #[arg(long)]
    down_project: bool,
    /// Which services
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

pub(super) fn down(cx: &Cx<'_>, args: &DownArgs) -> Result<ExitCode, Failure> {
    cx.with_project(false, |session| {
        let _signals = session.until_signal()?;
        bring_down(session, args).map(|()| ExitCode::SUCCESS)
    })
}

fn bring_down(session: &Session<'_>, args: &DownArgs) -> Result<(), Failure> {
    session.containers_of(&args.services)?;
    let _lock = session.lock()?;
    let observed = observe::observe(session.engine, session.name)?;
    let project = session.opened.map(|opened| &opened.origin.project);
    let services = Services::new(project, &observed);
    let store = session.engine.store();
    let is_own = |of: &std::collections::BTreeMap<String, String>| {
        of.get(labels::PROJECT).is_some_and(|name| name == session.name)
    };
    let networks = Networks::of(store.root()).list()?.into_iter().filter(|it| is_own(&it.labels));
    let networks: Vec<String> = networks.map(|it| it.name).collect();
    let volumes = Volumes::new(store).list()?.into_iter().filter(|it| args.volumes && is_own(&it.labels));
    let volumes: Vec<String> = volumes.map(|it| it.name).collect();
    let options = Down {
        named: args.services.clone(),
        remove_orphans: args.remove_orphans || session.says_yes("COMPOSE_REMOVE_ORPHANS"),
        known: project.map(|project| project.services.keys().cloned().collect()),
        images: images(session, args.rmi)?,
        networks,
        volumes,
    };
    let steps = plan::down(&services, &observed, &options);
    if steps.0.is_empty() {
        print_warning(&format!("there is nothing of the project {}", session.name));
        return Ok(());
    }
    let work = Work { timeout: args.timeout, remove_volumes: args.volumes, ..session.work() };
    session.perform(&work, &steps, true)
}

/// The images that `--rmi` names.
fn images(session: &Session<'_>, which: Option<Rmi>) -> Result<Vec<String>, Failure> {
    let Some(which) = which else { return Ok(Vec::new()) };
    let mut images = BTreeSet::new();
    match session.opened {
        Some(opened) => {
            let project = &opened.origin.project;
            for (name, service) in &project.services {
                if which == Rmi::All || (service.image.is_none() && service.build.is_some()) {
                    images.extend(project.image_of(name, service));
                }
            }
        }
        None => {
            let containers = session.containers()?.into_iter().filter(|it| {
                // What has no name of its own has that of the service.
                let of_service = format!("{}-{}", session.name, observe::service(it));
                which == Rmi::All || it.config.image.name == of_service
            });
            images.extend(containers.map(|it| it.config.image.name));
        }
    }
    Ok(images.into_iter().collect())
}

/// Stops what runs of the project, in order.
pub(super) fn stop_all(
    session: &Session<'_>,
    timeout: Option<i64>,
    services: &[String],
) -> Result<(), Failure> {
    lead(session, Life::Stop, timeout, services)
}

fn lead(session: &Session<'_>, what: Life, timeout: Option<i64>, services: &[String]) -> Result<(), Failure> {
    session.containers_of(services)?;
    let mut observed = observe::observe(session.engine, session.name)?;
    if what == Life::Stop {
        observed.containers.retain(|it| it.status.is_up() || it.status == Status::Restarting);
    }
    let project = session.opened.map(|opened| &opened.origin.project);
    let known = Services::new(project, &observed);
    let steps = plan::life(what, &known, services, &observed);
    let work = Work { timeout, ..session.work() };
    session.perform(&work, &steps, what == Life::Stop)
}

pub(super) fn start(cx: &Cx<'_>, args: &StartArgs) -> Result<ExitCode, Failure> {
    cx.with_project(true, |session| {
        let _signals = session.until_signal()?;
        let lock = session.lock()?;
        let containers = session.containers_of(&args.services)?;
        if containers.is_empty() {
            return Err(Failure::new(Kind::Usage, "there are no containers to start")
                .hint("`wharf compose up` makes them"));
        }
        lead(session, Life::Start, None, &args.services)?;
        drop(lock);
        if args.wait {
            let services: Vec<String> = containers.iter().map(|it| observe::service(it).to_owned()).collect();
            await_all(session, &services, args.wait_timeout)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// `--wait`: until all containers of these services run or are well, and those that others wait for have ended.
pub(super) fn await_all(
    session: &Session<'_>,
    services: &[String],
    timeout: Option<u64>,
) -> Result<(), Failure> {
    let until = timeout.filter(|it| *it > 0).map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let completes = |name: &str| {
        let all = session.opened.iter().flat_map(|opened| opened.origin.project.services.values());
        all.filter_map(|other| other.depends_on.get(name))
            .any(|dependency| dependency.condition == Condition::CompletedSuccessfully)
    };
    let work = session.work();
    for container in session.containers()? {
        let service = observe::service(&container);
        if observe::is_one_off(&container) || !services.iter().any(|name| name == service) {
            continue;
        }
        let condition =
            if completes(service) { Condition::CompletedSuccessfully } else { Condition::Started };
        let name = &container.config.name;
        session.talk.say("Container", name, "Waiting");
        match work.await_one(service, name, condition, until) {
            Ok(what) => session.talk.say("Container", name, if what == "Started" { "Running" } else { what }),
            Err(mut failure) => {
                session.talk.say("Container", name, "Error");
                // Nobody depends on it: it was waited for.
                failure.message = failure.message.replace("dependency failed to start: ", "");
                return Err(failure);
            }
        }
    }
    Ok(())
}

pub(super) fn stop(cx: &Cx<'_>, args: &StopArgs) -> Result<ExitCode, Failure> {
    cx.with_project(false, |session| {
        let _signals = session.until_signal()?;
        let _lock = session.lock()?;
        stop_all(session, args.timeout, &args.services).map(|()| ExitCode::SUCCESS)
    })
}

pub(super) fn restart(cx: &Cx<'_>, args: &RestartArgs) -> Result<ExitCode, Failure> {
    cx.with_project(true, |session| {
        let _signals = session.until_signal()?;
        let _lock = session.lock()?;
        lead(session, Life::Restart { dependents: !args.no_deps }, args.timeout, &args.services)?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn kill(cx: &Cx<'_>, args: &KillArgs) -> Result<ExitCode, Failure> {
    let Some(number) = signal::number(&args.signal) else {
        return Err(Failure::new(Kind::Usage, format!("--signal: `{}` is no signal", args.signal)));
    };
    cx.with_project(false, |session| {
        let known = session.opened.map(|opened| &opened.origin.project.services);
        for container in session.containers_of(&args.services)? {
            let is_orphan = known.is_some_and(|known| !known.contains_key(observe::service(&container)));
            if !container.state.status.is_up() || (is_orphan && !args.remove_orphans) {
                continue;
            }
            let names = ("Container", container.config.name.as_str());
            session
                .talk
                .around(names, ("Killing", "Killed"), || session.engine.kill(&container.config.id, number))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn rm(cx: &Cx<'_>, args: &RmArgs) -> Result<ExitCode, Failure> {
    cx.with_project(false, |session| {
        let _signals = session.until_signal()?;
        let _lock = session.lock()?;
        if args.stop {
            stop_all(session, None, &args.services)?;
        }
        let mut containers = session.containers_of(&args.services)?;
        containers.retain(|it| !it.state.status.is_up() && it.state.status != Status::Restarting);
        if containers.is_empty() {
            print_note("there are no stopped containers");
            return Ok(ExitCode::SUCCESS);
        }
        let names: Vec<&str> = containers.iter().map(|it| it.config.name.as_str()).collect();
        if !args.force && !ask(&format!("Going to remove {}\nAre you sure? [yN] ", names.join(", "))) {
            return Ok(ExitCode::SUCCESS);
        }
        let remove = |container: &crate::containers::engine::Container| Step {
            action: Action::Remove { id: container.config.id.clone(), name: container.config.name.clone() },
            after: Vec::new(),
        };
        let steps = Steps(containers.iter().map(remove).collect());
        let work = Work { remove_volumes: args.volumes, ..session.work() };
        session.perform(&work, &steps, true).map(|()| ExitCode::SUCCESS)
    })
}

pub(super) fn pause(cx: &Cx<'_>, args: &ServicesArgs, pauses: bool) -> Result<ExitCode, Failure> {
    cx.with_project(false, |session| {
        let wanted = if pauses { Status::Running } else { Status::Paused };
        for container in session.containers_of(&args.services)? {
            if container.state.status != wanted {
                continue;
            }
            let (id, name) = (&container.config.id, container.config.name.as_str());
            match pauses {
                true => session
                    .talk
                    .around(("Container", name), ("Pausing", "Paused"), || session.engine.pause(id)),
                false => session
                    .talk
                    .around(("Container", name), ("Unpausing", "Unpaused"), || session.engine.unpause(id)),
            }?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn wait(cx: &Cx<'_>, args: &WaitArgs) -> Result<ExitCode, Failure> {
    cx.with_project(false, |session| {
        let containers = session.containers_of(&args.services)?;
        if containers.is_empty() {
            return Err(Failure::new(Kind::Usage, "there are no containers to wait for"));
        }
        let mut last = 0;
        if args.down_project {
            let (ended, first) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                for container in &containers {
                    let ended = ended.clone();
                    scope.spawn(move || {
                        // Whoever comes later is not listened to.
                        let _ = ended.send(session.engine.wait(&container.config.id));
                    });
                }
                let status = first.recv().unwrap_or(Ok(0))?;
                last = status;
                print_result(&status.to_string())?;
                let all = DownArgs {
                    volumes: false,
                    rmi: None,
                    remove_orphans: false,
                    timeout: None,
                    services: Vec::new(),
                };
                bring_down(session, &all)
            })?;
            return Ok(ExitCode::from(last));
        }
        for container in &containers {
            last = session.engine.wait(&container.config.id)?;
            print_result(&last.to_string())?;
        }
        Ok(ExitCode::from(last))
    })
}
