//! What compose commands have in common: the project, the containers, and a way to be stopped.

use std::collections::BTreeMap;

use wharf_cache::Key;
use wharf_cache::state::KeyLock;
use wharf_frontend::compose::Project;
use wharf_runtime::Cancel;

use super::ProjectArgs;
use super::project::Opened;
use crate::cli::config::Config;
use crate::cli::place::{Place, Wanted};
use crate::cli::prune::settle;
use crate::cli::with_store;
use crate::compose::convert;
use crate::compose::observe;
use crate::compose::plan::{Steps, WantedService};
use crate::compose::run::{self, Pace};
use crate::compose::talk::Talk;
use crate::compose::work::{Work, interrupted};
use crate::containers::engine::{Container, Engine};
use crate::error::{Failure, Kind};
use crate::progress::print_note;
use crate::signals;

/// Containers of one service at most.
const CONTAINERS_MAX: u64 = 10_000;

/// The command line of every compose command.
#[derive(Debug)]
pub(super) struct Cx<'c> {
    pub(super) project: ProjectArgs,
    pub(super) wanted: &'c Wanted,
    pub(super) config: &'c Config,
}

/// A compose command at work.
#[derive(Debug)]
pub(super) struct Session<'s> {
    pub(super) cx: &'s Cx<'s>,
    pub(super) engine: &'s Engine,
    pub(super) place: &'s Place,
    /// The files; none where there are none and the project was named.
    pub(super) opened: Option<&'s Opened>,
    /// The project.
    pub(super) name: &'s str,
    pub(super) cancel: &'s Cancel,
    pub(super) talk: Talk,
}

impl Cx<'_> {
    /// The project of the files, which there have to be.
    pub(super) fn open(&self) -> Result<Opened, Failure> {
        Opened::read(&self.project)
    }

    /// The project of the files, or, if there are none and it was named, its name. The files here are not those of a project
    /// that the command line names, unless it names them too.
    fn open_or_name(&self) -> Result<(Option<Opened>, String), Failure> {
        let named = self.project.project_name.clone();
        let named = named.or_else(|| std::env::var("COMPOSE_PROJECT_NAME").ok().filter(|it| !it.is_empty()));
        let says_files = !self.project.file.is_empty() || std::env::var_os("COMPOSE_FILE").is_some();
        if let Some(name) = self.project.project_name.clone().filter(|_| !says_files) {
            return Ok((None, name));
        }
        match (Opened::read(&self.project), named) {
            (Ok(opened), _) => {
                let name = opened.origin.project.name.clone();
                Ok((Some(opened), name))
            }
            (Err(failure), Some(name)) if failure.kind == Kind::Usage && !says_files => Ok((None, name)),
            (Err(failure), _) => Err(failure),
        }
    }

    /// Does `work` on the project of the files. With `starts`, monitors may be started.
    pub(super) fn with_files<T>(
        &self,
        starts: bool,
        work: impl FnOnce(&Session<'_>, &Opened) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let opened = self.open()?;
        let name = opened.origin.project.name.clone();
        self.enter(starts, Some(&opened), &name, |session| work(session, &opened))
    }

    /// The same of a project that may be known by its containers alone.
    pub(super) fn with_project<T>(
        &self,
        starts: bool,
        work: impl FnOnce(&Session<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (opened, name) = self.open_or_name()?;
        self.enter(starts, opened.as_ref(), &name, work)
    }

    pub(super) fn enter<T>(
        &self,
        starts: bool,
        opened: Option<&Opened>,
        name: &str,
        work: impl FnOnce(&Session<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        // What keeps the user namespace of the containers until one of them does.
        let (place, _holder) = match starts {
            true => Place::enter_to_start(self.wanted)?,
            false => (Place::enter(self.wanted)?, None),
        };
        let cancel =
            Cancel::new().map_err(|error| Failure::from_error(Kind::Environment, "cannot start", &error))?;
        let talk = Talk(self.project.progress.style());
        with_store(&place, |store| {
            let engine = Engine::new(store, place.sandbox, self.wanted.config_file.clone());
            let session =
                Session { cx: self, engine: &engine, place: &place, opened, name, cancel: &cancel, talk };
            let done = work(&session);
            if starts {
                settle(store, self.config);
            }
            done
        })
    }
}

impl<'s> Session<'s> {
    /// Until this is dropped, signals end what is done.
    pub(super) fn until_signal(&self) -> Result<signals::Listening, Failure> {
        signals::cancel_on_termination(self.cancel)
            .map_err(|error| Failure::from_error(Kind::Environment, "cannot start", &error))
    }

    /// Keeps others from changing the project meanwhile; waits until nobody does.
    pub(super) fn lock(&self) -> Result<KeyLock, Failure> {
        let told = std::cell::Cell::new(false);
        let is_cancelled = || {
            if !told.replace(true) {
                print_note(&format!(
                    "another command is at work on the project {}: waiting for it",
                    self.name
                ));
            }
            self.cancel.is_cancelled()
        };
        self.lock_unless(&is_cancelled)?.ok_or_else(interrupted)
    }

    /// Whether another command is at work on the project.
    pub(super) fn is_worked_at(&self) -> Result<bool, Failure> {
        Ok(self.lock_unless(&|| true)?.is_none())
    }

    fn lock_unless(&self, is_cancelled: &dyn Fn() -> bool) -> Result<Option<KeyLock>, Failure> {
        let key = Key(*blake3::hash(format!("compose project {}", self.name).as_bytes()).as_bytes());
        self.engine
            .store()
            .lock_key_unless(&key, is_cancelled)
            .map_err(|error| Failure::from_error(Kind::Environment, "cannot lock the project", &error))
    }

    /// The project's containers.
    pub(super) fn containers(&self) -> Result<Vec<Container>, Failure> {
        observe::containers(self.engine, self.name)
    }

    /// Those of the named services, or of all of them. A name that is no service's is an error.
    pub(super) fn containers_of(&self, services: &[String]) -> Result<Vec<Container>, Failure> {
        let mut containers = self.containers()?;
        for name in services {
            let is_known = match self.opened {
                Some(opened) => opened.origin.project.services.contains_key(name),
                None => containers.iter().any(|it| observe::service(it) == name),
            };
            if !is_known {
                return match self.opened {
                    Some(opened) => opened.select(services, false).map(|_| Vec::new()),
                    None => Err(Failure::new(Kind::Usage, format!("there is no service {name}"))),
                };
            }
        }
        containers
            .retain(|it| services.is_empty() || services.iter().any(|name| name == observe::service(it)));
        Ok(containers)
    }

    /// The container of a service with a number.
    pub(super) fn container(&self, service: &str, index: Option<u32>) -> Result<Container, Failure> {
        let containers = self.containers_of(&[service.to_owned()])?;
        let mut own = containers.into_iter().filter(|it| !observe::is_one_off(it));
        let found = match index {
            Some(index) => own.find(|it| observe::number(it) == index),
            None => own.next(),
        };
        found.ok_or_else(|| {
            let which = index.map_or_else(String::new, |index| format!(" number {index}"));
            Failure::new(Kind::Usage, format!("the service {service} has no container{which}"))
                .hint(format!("`wharf compose up -d {service}` makes it"))
        })
    }

    /// What actions are done with.
    pub(super) fn work(&self) -> Work<'s> {
        Work {
            engine: self.engine,
            origin: self.opened.map(|opened| &opened.origin),
            project: self.name,
            talk: self.talk,
            cancel: self.cancel,
            images: BTreeMap::new(),
            hashes: BTreeMap::new(),
            timeout: None,
            renew_volumes: false,
            remove_volumes: false,
        }
    }

    /// A variable of the project's files, or of the environment where there are none.
    fn variable(&self, name: &str) -> Option<String> {
        match self.opened {
            Some(opened) => opened.origin.environment.get(name).cloned(),
            None => std::env::var(name).ok(),
        }
    }

    /// Whether a variable says yes.
    pub(super) fn says_yes(&self, name: &str) -> bool {
        self.variable(name)
            .is_some_and(|it| matches!(it.to_ascii_lowercase().as_str(), "1" | "t" | "true" | "yes" | "y"))
    }

    /// Does steps; with `goes_on`, all that can be done.
    pub(super) fn perform(&self, work: &Work<'_>, steps: &Steps, goes_on: bool) -> Result<(), Failure> {
        let by_flag = usize::try_from(self.cx.project.parallel).ok();
        let by_variable = || self.variable("COMPOSE_PARALLEL_LIMIT")?.parse().ok();
        let at_once = by_flag.or_else(by_variable).filter(|count| *count > 0);
        let pace = Pace { at_once: at_once.unwrap_or(run::AT_ONCE), goes_on };
        run::run(steps, pace, &|action| work.perform(action))
    }

    /// What the containers of these services are to be.
    pub(super) fn wanted(
        &self,
        opened: &Opened,
        project: &Project,
        images: &BTreeMap<String, String>,
        scale: &BTreeMap<String, u64>,
    ) -> Result<BTreeMap<String, WantedService>, Failure> {
        let mut wanted = BTreeMap::new();
        for (name, service) in &project.services {
            let count = scale.get(name).copied().unwrap_or_else(|| convert::count(service));
            if let Some(own) = service.container_name.as_ref().filter(|_| count > 1) {
                return Err(Failure::new(
                    Kind::Dockerfile,
                    format!("services.{name} has the container_name {own}, so that it cannot have {count} containers"),
                )
                .hint("leave container_name out, or scale it to 1"));
            }
            if count > CONTAINERS_MAX {
                let message =
                    format!("services.{name} wants {count} containers: {CONTAINERS_MAX} is the most");
                return Err(Failure::new(Kind::Usage, message));
            }
            let hash = convert::hash(&opened.origin, name)?;
            wanted.insert(name.clone(), WantedService { hash, image: images.get(name).cloned(), count });
        }
        Ok(wanted)
    }
}
