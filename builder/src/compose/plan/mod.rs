//! What has to be done, in an order that others can follow: steps, and for each those that come before it.

mod down;
mod life;
#[cfg(test)]
pub(super) mod tests;
mod up;

use std::collections::BTreeMap;
use std::fmt;

use wharf_frontend::compose::model::{Condition, Dependency, Project};

pub use down::{Down, down};
pub use life::{Life, life};
pub use up::{Recreate, Up, WantedService, up};

use crate::containers::config::ContainerId;
use crate::containers::state::Status;

use super::labels::condition_name;

/// What there is of a project.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Its containers.
    pub containers: Vec<Seen>,
    /// Its networks, and those of others that it names: name, and the hash of what it was made of, if it is its own.
    pub networks: BTreeMap<String, Option<String>>,
    /// Its volumes, and those of others that it names: the same.
    pub volumes: BTreeMap<String, Option<String>>,
}

/// A container that there is.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its identifier.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// Its service.
    pub service: String,
    /// Which of them.
    pub number: u32,
    /// Whether `run` made it.
    pub one_off: bool,
    /// What its service said when it was made.
    pub hash: String,
    /// The digest of its image.
    pub image: String,
    /// What it does.
    pub status: Status,
    /// What its service depended on when it was made.
    pub depends_on: BTreeMap<String, Dependency>,
}

impl Observed {
    /// The containers of a service that `run` has not made, by number.
    pub fn of_service(&self, service: &str) -> Vec<&Seen> {
        let mut found: Vec<&Seen> =
            self.containers.iter().filter(|it| it.service == service && !it.one_off).collect();
        found.sort_by(|a, b| (a.number, &a.name).cmp(&(b.number, &b.name)));
        found
    }
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Makes a network of the project.
    CreateNetwork {
        /// Its key.
        key: String,
    },
    /// Removes a network.
    RemoveNetwork {
        /// Its name.
        name: String,
    },
    /// Makes a volume of the project.
    CreateVolume {
        /// Its key.
        key: String,
    },
    /// Removes a volume.
    RemoveVolume {
        /// Its name.
        name: String,
    },
    /// Makes a container.
    Create {
        /// Of which service.
        service: String,
        /// Which of them.
        number: u32,
        /// Its name.
        name: String,
    },
    /// Makes a container in place of one.
    Recreate {
        /// Of which service.
        service: String,
        /// Which of them.
        number: u32,
        /// Its name.
        name: String,
        /// The one that goes.
        old: ContainerId,
    },
    /// Starts a container.
    Start {
        /// Of which service.
        service: String,
        /// Its name.
        name: String,
    },
    /// Waits until something has become of a service's containers.
    Await {
        /// Which service.
        service: String,
        /// What.
        condition: Condition,
        /// The names of its containers.
        names: Vec<String>,
        /// Whether it is a failure if that never happens.
        required: bool,
    },
    /// Stops a container.
    Stop {
        /// Of which service.
        service: String,
        /// Which.
        id: ContainerId,
        /// Its name.
        name: String,
    },
    /// Removes a container.
    Remove {
        /// Which.
        id: ContainerId,
        /// Its name.
        name: String,
    },
    /// Removes an image.
    RemoveImage {
        /// Its name.
        name: String,
    },
    /// Starts a container again.
    Restart {
        /// Of which service.
        service: String,
        /// Which.
        id: ContainerId,
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateNetwork { key } => write!(f, "create network {key}"),
            Self::RemoveNetwork { name } => write!(f, "remove network {name}"),
            Self::CreateVolume { key } => write!(f, "create volume {key}"),
            Self::RemoveVolume { name } => write!(f, "remove volume {name}"),
            Self::Create { name, .. } => write!(f, "create {name}"),
            Self::Recreate { name, old, .. } => write!(f, "recreate {name} for {}", old.short()),
            Self::Start { name, .. } => write!(f, "start {name}"),
            Self::Await { service, condition, names, required } => {
                let word = if *required { "await" } else { "await if possible" };
                write!(f, "{word} {service} {}: {}", condition_name(*condition), names.join(" "))
            }
            Self::Stop { name, .. } => write!(f, "stop {name}"),
            Self::Remove { name, .. } => write!(f, "remove {name}"),
            Self::RemoveImage { name } => write!(f, "remove image {name}"),
            Self::Restart { name, .. } => write!(f, "restart {name}"),
        }
    }
}

/// An action, and the steps that come before it, by their places in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// What is done before: each earlier in the list.
    pub after: Vec<usize>,
}

/// All that has to be done. What does not wait for one another may happen at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps(pub Vec<Step>);

impl Steps {
    /// Adds a step; returns its place.
    fn add(&mut self, action: Action, after: impl IntoIterator<Item = usize>) -> usize {
        let mut after: Vec<usize> = after.into_iter().collect();
        after.sort_unstable();
        after.dedup();
        self.0.push(Step { action, after });
        self.0.len() - 1
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, Step { action, after }) in self.0.iter().enumerate() {
            let after: Vec<String> = after.iter().map(usize::to_string).collect();
            match after.as_slice() {
                [] => writeln!(f, "{place} {action}")?,
                after => writeln!(f, "{place} {action} (after {})", after.join(" "))?,
            }
        }
        Ok(())
    }
}

/// Who depends on whom: as the files say, or where they say nothing of a service, as its containers do.
#[derive(Debug, Clone, Default)]
pub struct Services(pub BTreeMap<String, BTreeMap<String, Dependency>>);

impl Services {
    /// Those of a project, and those of which there are containers.
    pub fn new(project: Option<&Project>, observed: &Observed) -> Self {
        let mut services: BTreeMap<String, BTreeMap<String, Dependency>> = BTreeMap::new();
        for container in observed.containers.iter().filter(|it| !it.one_off) {
            services.entry(container.service.clone()).or_insert_with(|| container.depends_on.clone());
        }
        for (name, service) in project.iter().flat_map(|project| &project.services) {
            services.insert(name.clone(), service.depends_on.clone());
        }
        Self(services)
    }

    /// The services, each after those that it depends on. Where labels make a circle, it is broken somewhere.
    fn in_order(&self) -> Vec<&str> {
        let mut order = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        // Each with what is still to be looked at of its dependencies.
        for name in self.0.keys() {
            let mut stack = vec![(name.as_str(), false)];
            while let Some((name, is_done)) = stack.pop() {
                if is_done {
                    order.push(name);
                } else if seen.insert(name) {
                    stack.push((name, true));
                    let targets = self.0.get(name).into_iter().flat_map(BTreeMap::keys);
                    let targets = targets.filter_map(|target| self.0.get_key_value(target));
                    stack.extend(targets.map(|(target, _)| (target.as_str(), false)));
                }
            }
        }
        order
    }

    /// The services that depend on one.
    fn dependents<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a Dependency)> {
        self.0.iter().filter_map(move |(dependent, targets)| Some((dependent.as_str(), targets.get(name)?)))
    }
}
