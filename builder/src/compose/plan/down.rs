//! `down`: from what there is to nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Observed, Seen, Services, Steps};

/// How `down` goes.
#[derive(Debug, Clone, Default)]
pub struct Down {
    /// The services that were named; all, if none was. Then only containers are removed.
    pub named: Vec<String>,
    /// Whether containers of services that the project no longer has are removed.
    pub remove_orphans: bool,
    /// Services that the project has; none where there are no files, so that what is there is the project.
    pub known: Option<BTreeSet<String>>,
    /// Networks to remove, by name.
    pub networks: Vec<String>,
    /// Volumes to remove, by name.
    pub volumes: Vec<String>,
    /// Images to remove, by name.
    pub images: Vec<String>,
}

/// Plans `down`: who depends on others goes before them.
pub fn down(services: &Services, observed: &Observed, options: &Down) -> Steps {
    let mut steps = Steps::default();
    let mut removed = Vec::new();
    let is_meant = |container: &&Seen| {
        let is_known = options.known.as_ref().is_none_or(|known| known.contains(&container.service));
        match options.named.as_slice() {
            [] => is_known || options.remove_orphans || container.one_off,
            named => named.contains(&container.service),
        }
    };
    let mut remove = |steps: &mut Steps, container: &Seen, before: &[usize]| {
        let (id, name, service) = (container.id.clone(), container.name.clone(), container.service.clone());
        let stop = Action::Stop { service, id: id.clone(), name: name.clone() };
        let stopped = steps.add(stop, before.iter().copied());
        removed.push(steps.add(Action::Remove { id, name }, [stopped]));
        stopped
    };
    // Those of `run` use all others.
    let one_offs = observed.containers.iter().filter(|it| it.one_off).filter(is_meant);
    let one_offs: Vec<usize> = one_offs.map(|it| remove(&mut steps, it, &[])).collect();
    let mut stopped: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for name in services.in_order().into_iter().rev() {
        let dependents = services.dependents(name).filter_map(|(dependent, _)| stopped.get(dependent));
        let before: Vec<usize> = dependents.flatten().chain(&one_offs).copied().collect();
        let own = observed.of_service(name);
        let stops = own.into_iter().filter(is_meant).map(|it| remove(&mut steps, it, &before)).collect();
        stopped.insert(name, stops);
    }
    if options.named.is_empty() {
        let after = |steps: &mut Steps, action: Action| {
            steps.add(action, removed.iter().copied());
        };
        options
            .networks
            .iter()
            .for_each(|name| after(&mut steps, Action::RemoveNetwork { name: name.clone() }));
        options
            .volumes
            .iter()
            .for_each(|name| after(&mut steps, Action::RemoveVolume { name: name.clone() }));
        options.images.iter().for_each(|name| after(&mut steps, Action::RemoveImage { name: name.clone() }));
    }
    steps
}
