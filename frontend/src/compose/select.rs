//! Which services a command is about: profiles, names, and what these depend on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::model::{Project, Service};
use super::source::Problem;
use crate::diagnostic::{CANDIDATES_MAX, Diagnostic, excerpt, nearest};

/// What a command names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Active profiles; `*` is all of them.
    pub profiles: Vec<String>,
    /// Services; all active ones, if there are none.
    pub services: Vec<String>,
    /// Whether what the services depend on comes with them.
    pub with_dependencies: bool,
}

impl Service {
    /// Whether the service is active with these profiles.
    pub fn is_active(&self, profiles: &[String]) -> bool {
        self.profiles.is_empty()
            || profiles.iter().any(|active| active == "*" || self.profiles.contains(active))
    }
}

impl Project {
    /// The project with the services that are selected and what they use, and with no other.
    ///
    /// A service that is named is active whatever its profiles are. What an active service depends on must be active too.
    pub fn select(&self, selection: &Selection) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        for name in &selection.services {
            if !self.services.contains_key(name) {
                problems.push(self.no_such_service(name));
            }
        }
        // The profiles of a named service are active for its dependencies as well.
        let mut profiles = selection.profiles.clone();
        for name in &selection.services {
            profiles.extend(self.services.get(name).map(|it| it.profiles.clone()).unwrap_or_default());
        }
        let mut chosen: BTreeSet<&str> = BTreeSet::new();
        let mut queue: VecDeque<&str> = match selection.services.as_slice() {
            [] => self
                .services
                .iter()
                .filter(|(_, it)| it.is_active(&profiles))
                .map(|(name, _)| name.as_str())
                .collect(),
            names => {
                names.iter().map(String::as_str).filter(|name| self.services.contains_key(*name)).collect()
            }
        };
        let follow = selection.with_dependencies || selection.services.is_empty();
        while let Some(name) = queue.pop_front() {
            if !chosen.insert(name) || !follow {
                continue;
            }
            for (target, dependency) in &self.services[name].depends_on {
                match self.services.get_key_value(target) {
                    Some((target, service)) if service.is_active(&profiles) => queue.push_back(target),
                    Some((target, service)) if dependency.required => {
                        problems.push(inactive(name, target, service));
                    }
                    _ => {}
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(self.with_only(&chosen))
    }

    fn no_such_service(&self, name: &str) -> Problem {
        let known: Vec<&str> = self.services.keys().take(CANDIDATES_MAX).map(String::as_str).collect();
        let mut diagnostic = Diagnostic::error(0..0, format!("there is no service {}", excerpt(name)));
        diagnostic.hint = Some(match nearest(name, &known) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there are {}", excerpt(&known.join(", "))),
        });
        Problem { source: None, diagnostic }
    }

    fn with_only(&self, chosen: &BTreeSet<&str>) -> Self {
        let mut project = self.clone();
        project.services.retain(|name, _| chosen.contains(name.as_str()));
        for service in project.services.values_mut() {
            service.depends_on.retain(|target, _| chosen.contains(target.as_str()));
        }
        let services = &project.services;
        let uses = |section: fn(&Service) -> Vec<&str>| -> BTreeSet<String> {
            services.values().flat_map(section).map(str::to_owned).collect()
        };
        let networks = uses(|service| service.networks.keys().map(String::as_str).collect());
        let volumes =
            uses(|service| service.volumes.iter().filter_map(|mount| mount.source.as_deref()).collect());
        let secrets = uses(|service| {
            let of_build = service.build.iter().flat_map(|build| &build.secrets);
            service.secrets.iter().chain(of_build).map(|secret| secret.source.as_str()).collect()
        });
        let configs = uses(|service| service.configs.iter().map(|config| config.source.as_str()).collect());
        project.networks.retain(|key, _| networks.contains(key));
        project.volumes.retain(|key, _| volumes.contains(key));
        project.secrets.retain(|key, _| secrets.contains(key));
        project.configs.retain(|key, _| configs.contains(key));
        project
    }

    /// The services in the order in which they start: each after what it depends on, in ranks that may start together.
    pub fn start_order(&self) -> Vec<Vec<&str>> {
        let mut waits: BTreeMap<&str, usize> = BTreeMap::new();
        let mut followers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, service) in &self.services {
            let targets = service.depends_on.keys().filter(|target| self.services.contains_key(*target));
            let count = targets.map(|target| followers.entry(target).or_default().push(name)).count();
            waits.insert(name, count);
        }
        let mut ranks = Vec::new();
        let mut rank: Vec<&str> =
            waits.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
        while !rank.is_empty() {
            let mut next = BTreeSet::new();
            for follower in rank.iter().flat_map(|name| followers.get(name).into_iter().flatten()) {
                let Some(count) = waits.get_mut(follower) else { continue };
                *count -= 1;
                if *count == 0 {
                    next.insert(*follower);
                }
            }
            ranks.push(std::mem::replace(&mut rank, next.into_iter().collect()));
        }
        ranks
    }
}

fn inactive(name: &str, target: &str, service: &Service) -> Problem {
    let message = format!("services.{name} depends on {target}, which is not active");
    let hint = format!("activate it with --profile {}", service.profiles.join(" or --profile "));
    Problem { source: None, diagnostic: Diagnostic::error(0..0, message).with_hint(hint) }
}
