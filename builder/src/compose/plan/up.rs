//! `up` and `create`: from what there is to what is wanted.

use std::collections::{BTreeMap, BTreeSet};

use wharf_frontend::compose::model::{Condition, Project, Service};

use super::{Action, Observed, Seen, Steps};
use crate::containers::state::Status;

/// When a container is made anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recreate {
    /// When its service says something else than when it was made, or its image is another one.
    #[default]
    Diverged,
    /// Always.
    Force,
    /// Never.
    Never,
}

/// How `up` goes.
#[derive(Debug, Clone, Default)]
pub struct Up {
    /// The services that were named; all, if none was.
    pub named: Vec<String>,
    /// When their containers are made anew.
    pub recreate: Recreate,
    /// The same of the services that these depend on.
    pub recreate_dependencies: Recreate,
    /// Whether containers of services that the project no longer has are removed.
    pub remove_orphans: bool,
    /// Whether containers are started.
    pub start: bool,
    /// Services that the project has, also those that are not selected.
    pub known: BTreeSet<String>,
}

/// What a service's containers are to be.
#[derive(Debug, Clone, Default)]
pub struct WantedService {
    /// What it says.
    pub hash: String,
    /// The digest of its image; none where it is not known.
    pub image: Option<String>,
    /// How many.
    pub count: u64,
}

/// Plans `up`: `project` has the services that are selected and no others. `networks` and `volumes` are hashes of what
/// these are to be.
pub fn up(
    project: &Project,
    wanted: &BTreeMap<String, WantedService>,
    networks: &BTreeMap<String, String>,
    observed: &Observed,
    options: &Up,
) -> Steps {
    let mut planner = Planner {
        project,
        wanted,
        observed,
        options,
        steps: Steps::default(),
        gone: BTreeSet::new(),
        of: BTreeMap::new(),
    };
    let removed = planner.removals();
    let shared = planner.shared(networks);
    let order: Vec<&str> = project.start_order().into_iter().flatten().collect();
    for name in &order {
        planner.converge(name, &shared);
    }
    if options.start {
        planner.start(&order, &removed);
    }
    planner.steps
}

struct Planner<'a> {
    project: &'a Project,
    wanted: &'a BTreeMap<String, WantedService>,
    observed: &'a Observed,
    options: &'a Up,
    steps: Steps,
    /// Containers that are removed, by name.
    gone: BTreeSet<&'a str>,
    of: BTreeMap<&'a str, Containers>,
}

/// What becomes of the containers of a service.
#[derive(Default)]
struct Containers {
    /// The steps that make some.
    made: Vec<usize>,
    /// All that will be there, and whether each is to be started.
    names: Vec<(String, bool)>,
    /// Whether one was made in place of another.
    recreated: bool,
    /// Steps that stop some of them, which are to be started again.
    stopped: Vec<usize>,
}

/// The networks and volumes that are made, by key.
#[derive(Default)]
struct Shared<'a> {
    networks: BTreeMap<&'a str, usize>,
    volumes: BTreeMap<&'a str, usize>,
}

impl<'a> Planner<'a> {
    /// What is in the way, or no longer wanted.
    fn removals(&mut self) -> Vec<usize> {
        let mut removed = Vec::new();
        let observed = self.observed;
        for container in &observed.containers {
            let is_orphan = !self.options.known.contains(&container.service) && !container.one_off;
            if is_orphan && self.options.remove_orphans {
                removed.push(self.remove(container));
            }
        }
        for name in self.project.services.keys() {
            let count = self.count(name);
            let surplus = observed.of_service(name).len().saturating_sub(count);
            for container in self.ranked(name).into_iter().rev().take(surplus) {
                removed.push(self.remove(container));
            }
        }
        removed
    }

    fn count(&self, service: &str) -> usize {
        self.wanted.get(service).map_or(0, |it| usize::try_from(it.count).unwrap_or(usize::MAX))
    }

    /// A service's containers, those that are kept first: as they are wanted before others, then by number.
    fn ranked(&self, service: &str) -> Vec<&'a Seen> {
        let mut containers = self.observed.of_service(service);
        containers.retain(|it| !self.gone.contains(it.name.as_str()));
        containers.sort_by_key(|it| self.has_diverged(it));
        containers
    }

    fn has_diverged(&self, container: &Seen) -> bool {
        self.wanted.get(&container.service).is_some_and(|wanted| {
            container.hash != wanted.hash
                || wanted.image.as_ref().is_some_and(|image| *image != container.image)
        })
    }

    fn remove(&mut self, container: &'a Seen) -> usize {
        self.gone.insert(&container.name);
        let (id, name, service) = (container.id.clone(), container.name.clone(), container.service.clone());
        let stop = self.steps.add(Action::Stop { service, id: id.clone(), name: name.clone() }, []);
        self.steps.add(Action::Remove { id, name }, [stop])
    }

    /// Networks and volumes that are not there. A network that says something else now is made anew, for which the
    /// containers on it have to go; a volume is kept: there are files in it.
    fn shared(&mut self, hashes: &BTreeMap<String, String>) -> Shared<'a> {
        let mut shared = Shared::default();
        let observed = self.observed;
        for (key, network) in &self.project.networks {
            let name = network.name.as_deref().unwrap_or(key);
            match observed.networks.get(name) {
                _ if network.external => {}
                None => {
                    let made = self.steps.add(Action::CreateNetwork { key: key.clone() }, []);
                    shared.networks.insert(key, made);
                }
                Some(Some(made_of)) if hashes.get(key).is_some_and(|hash| hash != made_of) => {
                    let on_it: Vec<&Seen> = observed
                        .containers
                        .iter()
                        .filter(|it| {
                            let service = self.project.services.get(&it.service);
                            service.is_none_or(|service| service.networks.contains_key(key))
                        })
                        .filter(|it| !self.gone.contains(it.name.as_str()))
                        .collect();
                    let removed: Vec<usize> = on_it.into_iter().map(|it| self.remove(it)).collect();
                    let removed = self.steps.add(Action::RemoveNetwork { name: name.to_owned() }, removed);
                    let made = self.steps.add(Action::CreateNetwork { key: key.clone() }, [removed]);
                    shared.networks.insert(key, made);
                }
                Some(_) => {}
            }
        }
        for (key, volume) in &self.project.volumes {
            let name = volume.name.as_deref().unwrap_or(key);
            if !volume.external && !observed.volumes.contains_key(name) {
                shared.volumes.insert(key, self.steps.add(Action::CreateVolume { key: key.clone() }, []));
            }
        }
        shared
    }

    /// Makes the containers of a service what they are to be. Those of services that it depends on are made already.
    fn converge(&mut self, name: &'a str, shared: &Shared<'a>) {
        let Some(service) = self.project.services.get(name) else { return };
        let mut before = needs(service, shared);
        before.extend(
            service.depends_on.keys().filter_map(|it| self.of.get(it.as_str())).flat_map(|it| &it.made),
        );
        let policy = match self.options.named.is_empty() || self.options.named.iter().any(|it| it == name) {
            true => self.options.recreate,
            false => self.options.recreate_dependencies,
        };
        // Whoever lives in another one's namespaces has to follow when that is made anew.
        let follows = borrowed(service).any(|target| self.of.get(target).is_some_and(|it| it.recreated));
        // What restarts with a service that it depends on is stopped for that already.
        let mut containers = self.of.remove(name).unwrap_or_default();
        let mut kept = self.ranked(name);
        kept.truncate(self.count(name));
        kept.sort_by_key(|it| it.number);
        let anew = |it: &Seen| match policy {
            Recreate::Force => true,
            Recreate::Never => false,
            Recreate::Diverged => {
                self.has_diverged(it) || follows || matches!(it.status, Status::Dead | Status::Removing)
            }
        };
        let anew: Vec<bool> = kept.iter().map(|it| anew(it)).collect();
        if anew.contains(&true) {
            // Whoever is restarted with it stops before it does.
            before.extend(self.stop_dependents(name));
        }
        for (container, anew) in kept.iter().zip(anew) {
            let own = self.container_name(name, service, container.number);
            if anew {
                let action = Action::Recreate {
                    service: name.to_owned(),
                    number: container.number,
                    name: own.clone(),
                    old: container.id.clone(),
                };
                containers.made.push(self.steps.add(action, before.iter().copied()));
                containers.names.push((own, true));
                containers.recreated = true;
            } else {
                let is_up = container.status.is_up() || container.status == Status::Restarting;
                containers.names.push((container.name.clone(), !is_up));
            }
        }
        let taken: BTreeSet<u32> = kept.iter().map(|it| it.number).collect();
        let missing = self.count(name) - kept.len();
        for number in (1..).filter(|number| !taken.contains(number)).take(missing) {
            let own = self.container_name(name, service, number);
            let action = Action::Create { service: name.to_owned(), number, name: own.clone() };
            containers.made.push(self.steps.add(action, before.iter().copied()));
            containers.names.push((own, true));
        }
        self.of.insert(name, containers);
    }

    /// Stops the running containers of services that want to be restarted with one.
    fn stop_dependents(&mut self, name: &str) -> Vec<usize> {
        let mut stopped = Vec::new();
        for (dependent, service) in &self.project.services {
            if !service.depends_on.get(name).is_some_and(|dependency| dependency.restart) {
                continue;
            }
            let own: Vec<usize> = self
                .observed
                .of_service(dependent)
                .into_iter()
                .filter(|it| it.status.is_up())
                .map(|it| {
                    let (id, name) = (it.id.clone(), it.name.clone());
                    self.steps.add(Action::Stop { service: dependent.clone(), id, name }, [])
                })
                .collect();
            stopped.extend(&own);
            if let Some((dependent, _)) = self.project.services.get_key_value(dependent) {
                self.of.entry(dependent).or_default().stopped.extend(own);
            }
        }
        stopped
    }

    fn container_name(&self, name: &str, service: &Service, number: u32) -> String {
        match &service.container_name {
            Some(name) => name.clone(),
            None => format!("{}-{name}-{number}", self.project.name),
        }
    }

    /// Starts what is not running, each service after what it depends on.
    fn start(&mut self, order: &[&'a str], removed: &[usize]) {
        let mut started: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut awaited: BTreeMap<(&str, Condition, bool), usize> = BTreeMap::new();
        for name in order {
            let Some(service) = self.project.services.get(*name) else { continue };
            let Some(containers) = self.of.get(name) else { continue };
            let was_stopped = !containers.stopped.is_empty();
            let names: Vec<String> = containers
                .names
                .iter()
                .filter(|(_, start)| *start || was_stopped)
                .map(|(name, _)| name.clone())
                .collect();
            if names.is_empty() {
                continue;
            }
            let mut before: Vec<usize> = removed.to_vec();
            before.extend(containers.made.iter().chain(&containers.stopped));
            for (target, dependency) in &service.depends_on {
                let Some(containers) = self.of.get(target.as_str()) else { continue };
                let starts = started.get(target.as_str()).cloned().unwrap_or_default();
                // There is nobody to wait for.
                if containers.names.is_empty() {
                    continue;
                }
                if dependency.condition == Condition::Started {
                    before.extend(starts);
                    continue;
                }
                let key = (target.as_str(), dependency.condition, dependency.required);
                let step = *awaited.entry(key).or_insert_with(|| {
                    let action = Action::Await {
                        service: target.clone(),
                        condition: dependency.condition,
                        names: containers.names.iter().map(|(name, _)| name.clone()).collect(),
                        required: dependency.required,
                    };
                    self.steps.add(action, starts)
                });
                before.push(step);
            }
            let starts = names.into_iter().map(|container| {
                let action = Action::Start { service: (*name).to_owned(), name: container };
                self.steps.add(action, before.iter().copied())
            });
            started.insert(name, starts.collect());
        }
    }
}

/// The steps that make what a service uses.
fn needs(service: &Service, shared: &Shared<'_>) -> Vec<usize> {
    let networks = service.networks.keys().filter_map(|key| shared.networks.get(key.as_str()));
    let sources = service.volumes.iter().filter_map(|mount| mount.source.as_deref());
    let volumes = sources.filter_map(|key| shared.volumes.get(key));
    networks.chain(volumes).copied().collect()
}

/// The services whose namespaces or mounts a service has.
pub(super) fn borrowed(service: &Service) -> impl Iterator<Item = &str> {
    let modes = [&service.network_mode, &service.ipc, &service.pid, &service.uts];
    let namespaces = modes.into_iter().flatten().filter_map(|mode| mode.strip_prefix("service:"));
    let mounts = service.volumes_from.iter().filter(|from| !from.starts_with("container:"));
    namespaces.chain(mounts.filter_map(|from| from.split(':').next()))
}
