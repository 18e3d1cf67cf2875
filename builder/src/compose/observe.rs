//! What there is of a project.

use std::collections::BTreeMap;

use super::labels;
use super::plan::{Observed, Seen};
use crate::containers::engine::{Container, Engine};
use crate::error::Failure;
use crate::networks::record::Networks;
use crate::volumes::Volumes;

/// The containers of a project, and all networks and volumes of the store.
pub fn observe(engine: &Engine, project: &str) -> Result<Observed, Failure> {
    let store = engine.store();
    let hash = |labels: &BTreeMap<String, String>| {
        let is_own = labels.get(labels::PROJECT).is_some_and(|name| name == project);
        is_own.then(|| labels.get(labels::CONFIG_HASH).cloned().unwrap_or_default())
    };
    let networks = Networks::of(store.root()).list()?;
    let volumes = Volumes::new(store).list()?;
    Ok(Observed {
        containers: containers(engine, project)?.iter().filter_map(seen).collect(),
        networks: networks.into_iter().map(|it| (it.name, hash(&it.labels))).collect(),
        volumes: volumes.into_iter().map(|it| (it.name, hash(&it.labels))).collect(),
    })
}

/// The containers of a project, by service and number, those of `run` among them.
pub fn containers(engine: &Engine, project: &str) -> Result<Vec<Container>, Failure> {
    let mut containers = engine.list()?;
    containers.retain(|it| it.config.labels.get(labels::PROJECT).is_some_and(|name| name == project));
    containers.sort_by_cached_key(|it| {
        (service(it).to_owned(), is_one_off(it), number(it), it.config.name.clone())
    });
    Ok(containers)
}

/// The service of a container.
pub fn service(container: &Container) -> &str {
    container.config.labels.get(labels::SERVICE).map_or("", String::as_str)
}

/// Which of its service's containers it is.
pub fn number(container: &Container) -> u32 {
    container.config.labels.get(labels::NUMBER).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Whether `run` made it.
pub fn is_one_off(container: &Container) -> bool {
    container.config.labels.get(labels::ONE_OFF).is_some_and(|it| it.eq_ignore_ascii_case("true"))
}

/// None of a container without a service.
fn seen(container: &Container) -> Option<Seen> {
    let labels = &container.config.labels;
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    Some(Seen {
        id: container.config.id.clone(),
        name: container.config.name.clone(),
        service: labels.get(labels::SERVICE)?.clone(),
        number: number(container),
        one_off: is_one_off(container),
        hash: label(labels::CONFIG_HASH),
        image: label(labels::IMAGE),
        status: container.state.status,
        depends_on: labels::parse_dependencies(&label(labels::DEPENDS_ON)),
    })
}
