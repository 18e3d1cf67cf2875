//! Whether the parts of a merged project fit together.

use std::collections::BTreeMap;

use super::node::{Map, Node};
use super::source::{Place, Problems};
use crate::diagnostic::{CANDIDATES_MAX, excerpt, nearest};

/// Says what does not.
pub(super) fn check(tree: &Node, problems: &mut Problems) {
    let Some(root) = tree.as_map() else { return };
    let Some(services) = root.get("services").and_then(Node::as_map).filter(|map| !map.is_empty()) else {
        problems.general("the project has no services").hint = Some("it needs a key services".into());
        return;
    };
    let checks = Checks { root, services };
    for (name, entry) in services.iter() {
        if let Some(service) = entry.value.as_map() {
            checks.service(name, entry.key, service, problems);
        }
    }
    for kind in ["secrets", "configs"] {
        for (name, entry) in section(root, kind).into_iter().flat_map(Map::iter) {
            check_file_resource(kind, name, entry.key, &entry.value, problems);
        }
    }
    for kind in ["networks", "volumes"] {
        for (name, entry) in section(root, kind).into_iter().flat_map(Map::iter) {
            check_external(kind, name, &entry.value, problems);
        }
    }
    check_cycles(services, problems);
    check_container_names(services, problems);
}

fn section<'a>(root: &'a Map, name: &str) -> Option<&'a Map> {
    root.get(name).and_then(Node::as_map)
}

fn suggestion<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<String> {
    let known: Vec<&str> = known.take(CANDIDATES_MAX).map(String::as_str).collect();
    nearest(name, &known).map(|near| format!("did you mean {near}?"))
}

struct Checks<'a> {
    root: &'a Map,
    services: &'a Map,
}

impl Checks<'_> {
    fn service(&self, name: &str, at: Place, service: &Map, problems: &mut Problems) {
        if !["image", "build", "provider"].iter().any(|key| service.contains(key)) {
            problems.error(at, format!("services.{name} has neither an image nor a build")).hint =
                Some("say image: NAME, or build: DIRECTORY".into());
        }
        self.references(name, service, problems);
        self.conflicts(name, service, problems);
    }

    /// Everything that a service names must be there.
    fn references(&self, name: &str, service: &Map, problems: &mut Problems) {
        for (target, entry) in
            service.get("depends_on").and_then(Node::as_map).into_iter().flat_map(Map::iter)
        {
            let required = entry.value.get("required").and_then(Node::as_bool).unwrap_or(true);
            if !self.services.contains(target) && required {
                self.undefined(name, "service", target, entry.key, self.services, problems);
            }
        }
        let empty = Map::default();
        let networks = section(self.root, "networks").unwrap_or(&empty);
        for (network, entry) in service.get("networks").and_then(Node::as_map).into_iter().flat_map(Map::iter)
        {
            if !networks.contains(network) {
                self.undefined(name, "network", network, entry.key, networks, problems);
            }
        }
        let volumes = section(self.root, "volumes").unwrap_or(&empty);
        for mount in service.get("volumes").and_then(Node::as_list).unwrap_or_default() {
            let is_volume = mount.get("type").and_then(Node::as_str) == Some("volume");
            let source = mount.get("source").filter(|_| is_volume);
            if let Some((source, place)) = source.and_then(|node| Some((node.as_str()?, node.place)))
                && !volumes.contains(source)
            {
                self.undefined(name, "volume", source, place, volumes, problems);
            }
        }
        for kind in ["secrets", "configs"] {
            let known = section(self.root, kind).unwrap_or(&empty);
            let of_build = service.get("build").and_then(|build| build.get(kind));
            for list in [service.get(kind), of_build].into_iter().flatten() {
                for file in list.as_list().unwrap_or_default() {
                    let source = file.get("source").and_then(|node| Some((node.as_str()?, node.place)));
                    if let Some((source, place)) = source.filter(|(source, _)| !known.contains(source)) {
                        self.undefined(name, kind.trim_end_matches('s'), source, place, known, problems);
                    }
                }
            }
        }
        let contexts = service.get("build").and_then(|build| build.get("additional_contexts"));
        for (_, entry) in contexts.and_then(Node::as_map).into_iter().flat_map(Map::iter) {
            let target = entry.value.as_str().and_then(|text| text.strip_prefix("service:"));
            if let Some(target) = target.filter(|target| !self.services.contains(target)) {
                self.undefined(name, "service", target, entry.value.place, self.services, problems);
            }
        }
    }

    fn undefined(
        &self,
        service: &str,
        kind: &str,
        name: &str,
        place: Place,
        known: &Map,
        problems: &mut Problems,
    ) {
        let message = format!("services.{service} names the {kind} {}, which is not there", excerpt(name));
        let near = suggestion(name, known.keys());
        problems.error(place, message).hint = near.or_else(|| match kind {
            "service" => None,
            _ => Some(format!("declare it below the key {kind}s at the top")),
        });
    }

    /// Keys that cannot stand beside each other.
    fn conflicts(&self, name: &str, service: &Map, problems: &mut Problems) {
        let mut refuse = |place: Place, message: &str| {
            problems.error(place, format!("services.{name} {message}"));
        };
        let mode = service.get("network_mode").and_then(Node::as_str);
        if let (Some(_), Some(networks)) = (mode, service.entry("networks")) {
            refuse(networks.key, "has both networks and network_mode");
        }
        if let (Some(mode), Some(ports)) = (mode, service.entry("ports"))
            && (mode == "host" || mode.starts_with("service:") || mode.starts_with("container:"))
        {
            match mode {
                "host" => {
                    problems.warning(
                        ports.key,
                        format!(
                            "services.{name} publishes ports in network_mode host: they are open as they are"
                        ),
                    );
                }
                _ => refuse(
                    ports.key,
                    &format!("publishes ports and has network_mode {mode}: publish them there"),
                ),
            }
        }
        let mut refuse = |place: Place, message: &str| {
            problems.error(place, format!("services.{name} {message}"));
        };
        let deploy = service.get("deploy");
        let replicas = deploy.and_then(|deploy| deploy.get("replicas")).and_then(Node::as_integer);
        let scale = service.get("scale").and_then(Node::as_integer);
        if let (Some(scale), Some(replicas), Some(at)) = (scale, replicas, service.entry("scale"))
            && scale != replicas
        {
            refuse(at.key, "has a scale and deploy.replicas that differ");
        }
        if let Some(container_name) = service.entry("container_name")
            && scale.or(replicas).is_some_and(|count| count > 1)
        {
            refuse(
                container_name.key,
                "has a container_name, which only one container can have, and several replicas",
            );
        }
        let limits = deploy.and_then(|deploy| deploy.get("resources")).and_then(|it| it.get("limits"));
        let reserved =
            deploy.and_then(|deploy| deploy.get("resources")).and_then(|it| it.get("reservations"));
        for (key, section, of, other) in [
            ("mem_limit", "limits", limits, "memory"),
            ("cpus", "limits", limits, "cpus"),
            ("pids_limit", "limits", limits, "pids"),
            ("mem_reservation", "reservations", reserved, "memory"),
        ] {
            if let (Some(entry), Some(theirs)) = (service.entry(key), of.and_then(|of| of.get(other)))
                && !entry.value.same(theirs)
            {
                refuse(entry.key, &format!("has a {key} and deploy.resources.{section}.{other} that differ"));
            }
        }
        if let Some(healthcheck) = service.get("healthcheck").and_then(Node::as_map)
            && healthcheck.get("disable").and_then(Node::as_bool) == Some(true)
            && let Some(test) = healthcheck.entry("test")
            && test.value.as_list().is_some_and(|words| words.first().and_then(Node::as_str) != Some("NONE"))
        {
            refuse(test.key, "has a healthcheck with a test that is disabled");
        }
    }
}

/// A secret or a config has one source.
fn check_file_resource(kind: &str, name: &str, at: Place, node: &Node, problems: &mut Problems) {
    let Some(map) = node.as_map() else { return };
    let sources: Vec<&str> = ["file", "environment", "content", "external", "driver", "template_driver"]
        .into_iter()
        .filter(|key| match *key {
            "external" => map.get(key).and_then(Node::as_bool) == Some(true),
            // These only say how another source is used.
            "driver" | "template_driver" => false,
            _ => map.contains(key),
        })
        .collect();
    let allowed = if kind == "secrets" { "file or environment" } else { "file, environment or content" };
    match sources.as_slice() {
        [] if !map.contains("driver") => {
            problems.error(at, format!("{kind}.{name} comes from nowhere")).hint =
                Some(format!("say {allowed}, or external: true"));
        }
        [] | [_] => {}
        several => {
            problems.error(at, format!("{kind}.{name} comes from {}", several.join(" and ")));
        }
    }
}

/// What is made elsewhere has a name and nothing else.
fn check_external(kind: &str, name: &str, node: &Node, problems: &mut Problems) {
    let Some(map) = node.as_map().filter(|map| map.get("external").and_then(Node::as_bool) == Some(true))
    else {
        return;
    };
    let other =
        map.iter().find(|(key, _)| !matches!(key.as_str(), "external" | "name") && !key.starts_with("x-"));
    if let Some((key, entry)) = other {
        problems.error(entry.key, format!("{kind}.{name} is external and cannot have the key {key}"));
    }
}

/// Services that wait for each other would wait for ever.
fn check_cycles(services: &Map, problems: &mut Problems) {
    let edges: BTreeMap<&str, Vec<(&str, Place)>> =
        services.iter().map(|(name, entry)| (name.as_str(), dependencies(&entry.value, services))).collect();
    let mut state: BTreeMap<&str, Mark> = BTreeMap::new();
    for start in edges.keys() {
        if state.contains_key(start) {
            continue;
        }
        // A walk in depth whose stack is a list: chains may be long.
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        state.insert(start, Mark::OnPath);
        while let Some((name, next)) = path.last_mut() {
            let Some((target, place)) = edges.get(name).and_then(|all| all.get(*next)).copied() else {
                state.insert(name, Mark::Done);
                path.pop();
                continue;
            };
            *next += 1;
            match state.get(target) {
                None => {
                    state.insert(target, Mark::OnPath);
                    path.push((target, 0));
                }
                Some(Mark::OnPath) => {
                    let circle: Vec<&str> =
                        path.iter().map(|(name, _)| *name).skip_while(|name| *name != target).collect();
                    let message = format!(
                        "services depend on each other in a circle: {} → {target}",
                        circle.join(" → ")
                    );
                    problems.error(place, message);
                    return;
                }
                Some(Mark::Done) => {}
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Mark {
    OnPath,
    Done,
}

/// What a service must wait for: what it depends on, and whose image it is built from.
fn dependencies<'a>(service: &'a Node, services: &'a Map) -> Vec<(&'a str, Place)> {
    let named = service.get("depends_on").and_then(Node::as_map).into_iter().flat_map(Map::iter);
    let contexts = service.get("build").and_then(|build| build.get("additional_contexts"));
    let built_from =
        contexts.and_then(Node::as_map).into_iter().flat_map(Map::iter).filter_map(|(_, entry)| {
            let target = entry.value.as_str()?.strip_prefix("service:")?;
            Some((target, entry.value.place))
        });
    named
        .map(|(target, entry)| (target.as_str(), entry.key))
        .chain(built_from)
        .filter(|(target, _)| services.contains(target))
        .collect()
}

fn check_container_names(services: &Map, problems: &mut Problems) {
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, entry) in services.iter() {
        let Some(service) = entry.value.as_map() else { continue };
        let Some(container) = service.entry("container_name") else { continue };
        let text = container.value.as_str().unwrap_or_default();
        if let Some(other) = taken.insert(text, name) {
            let message = format!("services.{name} has the container_name of services.{other}");
            problems.error(container.key, message);
        }
    }
}
