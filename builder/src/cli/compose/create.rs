//! `wharf compose create`, and what `up` and `run` have in common with it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use wharf_frontend::compose::Project;

use super::build::{self, When};
use super::project::Opened;
use super::session::{Cx, Session};
use crate::compose::convert;
use crate::compose::observe;
use crate::compose::plan::{self, Observed, Recreate, Up};
use crate::compose::work::Work;
use crate::error::{Failure, Kind};
use crate::progress::print_warning;
use crate::signals::Listening;

/// Flags of `up` and `create`.
#[derive(Debug, Args)]
pub(super) struct ConvergeArgs {
    /// Build images before containers are made
    #[arg(long)]
    pub(super) build: bool,
    /// Build no image, even if it is not there
    #[arg(long, conflicts_with = "build")]
    pub(super) no_build: bool,
    /// When images are brought: always, missing, never, build or policy (as the files say)
    #[arg(long, value_enum, default_value_t = PullWhen::Policy)]
    pub(super) pull: PullWhen,
    /// Show no progress of what is brought
    #[arg(long)]
    pub(super) quiet_pull: bool,
    /// Make containers anew even if nothing has changed
    #[arg(long)]
    pub(super) force_recreate: bool,
    /// Leave containers that are there as they are
    #[arg(long, conflicts_with = "force_recreate")]
    pub(super) no_recreate: bool,
    /// Remove containers of services that the project no longer has
    #[arg(long)]
    pub(super) remove_orphans: bool,
    /// How many containers a service has; may be given several times
    #[arg(long, value_name = "SERVICE=N")]
    pub(super) scale: Vec<String>,
}

impl ConvergeArgs {
    /// Nothing but when images are brought.
    pub(super) fn plain(pull: PullWhen, quiet_pull: bool) -> Self {
        Self {
            build: false,
            no_build: false,
            pull,
            quiet_pull,
            force_recreate: false,
            no_recreate: false,
            remove_orphans: false,
            scale: Vec::new(),
        }
    }
}

/// When images are brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PullWhen {
    Always,
    Missing,
    Never,
    Build,
    Policy,
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    converge: ConvergeArgs,
    /// Only these services, and what they depend on
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ScaleArgs {
    /// Start nothing that the services depend on
    #[arg(long)]
    no_deps: bool,
    /// How many containers each service has
    #[arg(required = true, value_name = "SERVICE=N")]
    services: Vec<String>,
}

/// What else `up` says.
#[derive(Debug, Default)]
pub(super) struct More {
    pub(super) start: bool,
    pub(super) no_deps: bool,
    pub(super) always_recreate_deps: bool,
    pub(super) renew_volumes: bool,
    pub(super) timeout: Option<i64>,
}

pub(super) fn create(cx: &Cx<'_>, args: &CreateArgs) -> Result<ExitCode, Failure> {
    cx.with_files(true, |session, opened| {
        let signals = session.until_signal()?;
        converge(session, opened, &args.services, &args.converge, &More::default(), &signals)?;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn scale_services(cx: &Cx<'_>, args: &ScaleArgs) -> Result<ExitCode, Failure> {
    cx.with_files(true, |session, opened| {
        let signals = session.until_signal()?;
        let named = args.services.iter().map(|text| text.split_once('=').map_or(text.as_str(), |it| it.0));
        let named: Vec<String> = named.map(str::to_owned).collect();
        let scaled = ConvergeArgs {
            // What is there stays as it is.
            no_recreate: true,
            scale: args.services.clone(),
            ..ConvergeArgs::plain(PullWhen::Policy, false)
        };
        let more = More { start: true, no_deps: args.no_deps, ..More::default() };
        converge(session, opened, &named, &scaled, &more, &signals)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What [`converge`] found and made.
#[derive(Debug)]
pub(super) struct Converged {
    /// The services that it was about.
    pub(super) project: Project,
    /// What there was.
    pub(super) before: Observed,
}

/// Makes what there is what is wanted.
pub(super) fn converge(
    session: &Session<'_>,
    opened: &Opened,
    services: &[String],
    args: &ConvergeArgs,
    more: &More,
    signals: &Listening,
) -> Result<Converged, Failure> {
    let project = opened.select(services, !more.no_deps)?;
    opened.warn(&project);
    let scale = scale(&args.scale, &project)?;
    require_external(session, &project)?;
    let _lock = session.lock()?;
    let when = When { build: args.build, no_build: args.no_build, pull: args.pull, quiet: args.quiet_pull };
    let images = build::prepare(session, opened, &project, when, signals)?;
    let wanted = session.wanted(opened, &project, &images, &scale)?;
    let networks = project.networks.iter().map(|(key, it)| (key.clone(), convert::hash_of(it))).collect();
    let before = observe::observe(session.engine, session.name)?;
    let known: BTreeSet<String> = opened.origin.project.services.keys().cloned().collect();
    let remove_orphans = args.remove_orphans || session.says_yes("COMPOSE_REMOVE_ORPHANS");
    tell_orphans(&before, &known, remove_orphans || session.says_yes("COMPOSE_IGNORE_ORPHANS"));
    tell_volumes(&before, &project);
    let recreate = match (args.force_recreate, args.no_recreate) {
        (true, _) => Recreate::Force,
        (_, true) => Recreate::Never,
        _ => Recreate::Diverged,
    };
    let recreate_dependencies = match (more.always_recreate_deps, args.no_recreate) {
        (true, _) => Recreate::Force,
        (_, true) => Recreate::Never,
        _ => Recreate::Diverged,
    };
    let options = Up {
        named: services.to_vec(),
        recreate,
        recreate_dependencies,
        remove_orphans,
        start: more.start,
        known,
    };
    let steps = plan::up(&project, &wanted, &networks, &before, &options);
    let work = Work {
        hashes: wanted.into_iter().map(|(name, it)| (name, it.hash)).collect(),
        images,
        timeout: more.timeout,
        renew_volumes: more.renew_volumes,
        ..session.work()
    };
    session.perform(&work, &steps, false)?;
    Ok(Converged { project, before })
}

/// Makes the networks and volumes of services alone.
pub(super) fn shared_only(session: &Session<'_>, project: &Project) -> Result<(), Failure> {
    require_external(session, project)?;
    let _lock = session.lock()?;
    let observed = observe::observe(session.engine, session.name)?;
    let mut alone = project.clone();
    alone.services.clear();
    let steps = plan::up(&alone, &BTreeMap::new(), &BTreeMap::new(), &observed, &Up::default());
    session.perform(&session.work(), &steps, false)
}

/// `--scale`.
fn scale(texts: &[String], project: &Project) -> Result<BTreeMap<String, u64>, Failure> {
    let mut scale = BTreeMap::new();
    for text in texts {
        let parsed = text.split_once('=').and_then(|(name, count)| Some((name, count.parse().ok()?)));
        let Some((name, count)) = parsed else {
            return Err(Failure::new(Kind::Usage, format!("--scale {text} is not SERVICE=N")));
        };
        if !project.services.contains_key(name) {
            return Err(Failure::new(
                Kind::Usage,
                format!("--scale {text}: the service {name} is not among those that this is about"),
            ));
        }
        scale.insert(name.to_owned(), count);
    }
    Ok(scale)
}

/// Networks and volumes of others have to be there.
fn require_external(session: &Session<'_>, project: &Project) -> Result<(), Failure> {
    let observed = observe::observe(session.engine, session.name)?;
    for (key, network) in project.networks.iter().filter(|(_, it)| it.external) {
        let name = network.name.as_deref().unwrap_or(key);
        if !observed.networks.contains_key(name) {
            let message = format!("networks.{key} is external, and there is no network `{name}`");
            return Err(
                Failure::new(Kind::Usage, message).hint(format!("`wharf network create {name}` makes it"))
            );
        }
    }
    for (key, volume) in project.volumes.iter().filter(|(_, it)| it.external) {
        let name = volume.name.as_deref().unwrap_or(key);
        if !observed.volumes.contains_key(name) {
            let message = format!("volumes.{key} is external, and there is no volume `{name}`");
            return Err(
                Failure::new(Kind::Usage, message).hint(format!("`wharf volume create {name}` makes it"))
            );
        }
    }
    Ok(())
}

fn tell_orphans(observed: &Observed, known: &BTreeSet<String>, silent: bool) {
    let orphans = observed.containers.iter().filter(|it| !known.contains(&it.service) && !it.one_off);
    let names: Vec<&str> = orphans.map(|it| it.name.as_str()).collect();
    if !names.is_empty() && !silent {
        print_warning(&format!(
            "the project has no services for the containers {}; --remove-orphans removes them",
            names.join(", ")
        ));
    }
}

/// Volumes that say something else now are not made anew: there are files in them.
fn tell_volumes(observed: &Observed, project: &Project) {
    for (key, volume) in project.volumes.iter().filter(|(_, it)| !it.external) {
        let name = volume.name.as_deref().unwrap_or(key);
        match observed.volumes.get(name) {
            Some(Some(hash)) if *hash != convert::hash_of(volume) => print_warning(&format!(
                "the volume {name} was made with other options than volumes.{key} says now, and stays as it is; \
                 `wharf compose down` and `wharf volume rm {name}` remove it with all its files"
            )),
            Some(None) => print_warning(&format!(
                "the volume {name} is there and was not made by this project; say `external: true` of volumes.{key}"
            )),
            _ => {}
        }
    }
}
