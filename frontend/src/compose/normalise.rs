//! What the files need not say: defaults, the implicit network, dependencies that follow from other keys, names.

use super::canonical::short::dependency;
use super::node::{Map, Node, Value};
use super::source::Place;

/// Completes a merged tree.
pub(super) fn normalise(tree: &mut Node, project: &str, directory: &str) {
    let place = tree.place;
    let Some(root) = tree.as_map_mut() else { return };
    root.remove("version");
    root.set("name", Node::string(project, place));
    let mut uses_default = false;
    if let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) {
        for (_, entry) in services.iter_mut() {
            let at = entry.key;
            let Some(service) = entry.value.as_map_mut() else { continue };
            defaults(service, directory);
            imply_dependencies(service);
            uses_default |= attach(service, at);
        }
    }
    let declared = root.get("networks").and_then(Node::as_map).is_some_and(|map| map.contains("default"));
    if uses_default && !declared {
        if root.get("networks").and_then(Node::as_map).is_none() {
            root.set("networks", Node::new(Value::Map(Map::default()), place));
        }
        if let Some(networks) = root.get_mut("networks").and_then(Node::as_map_mut) {
            networks.set("default", Node::new(Value::Map(Map::default()), place));
        }
    }
    for section in ["networks", "volumes", "secrets", "configs"] {
        if let Some(resources) = root.get_mut(section).and_then(Node::as_map_mut) {
            name_resources(resources, project);
        }
    }
}

fn set_default(map: &mut Map, key: &str, value: impl FnOnce() -> Node) {
    if !map.contains(key) {
        map.set(key, value());
    }
}

fn defaults(service: &mut Map, directory: &str) {
    if let Some(build) = service.get_mut("build") {
        let place = build.place;
        if let Some(build) = build.as_map_mut() {
            set_default(build, "context", || Node::string(directory, place));
            if !build.contains("dockerfile_inline") {
                set_default(build, "dockerfile", || Node::string("Dockerfile", place));
            }
            each(build.get_mut("secrets"), |secret, place| file_target(secret, "", place));
        }
    }
    each(service.get_mut("ports"), |port, place| {
        set_default(port, "mode", || Node::string("ingress", place));
        set_default(port, "protocol", || Node::string("tcp", place));
    });
    each(service.get_mut("volumes"), |mount, place| {
        if mount.get("type").and_then(Node::as_str) == Some("bind") {
            set_default(mount, "bind", || Node::new(Value::Map(Map::default()), place));
            if let Some(bind) = mount.get_mut("bind").and_then(Node::as_map_mut) {
                set_default(bind, "create_host_path", || Node::bool(true, place));
            }
        }
    });
    each(service.get_mut("secrets"), |secret, place| file_target(secret, "/run/secrets/", place));
    each(service.get_mut("configs"), |config, place| file_target(config, "/", place));
    let devices = service
        .get_mut("deploy")
        .and_then(Node::as_map_mut)
        .and_then(|deploy| deploy.get_mut("resources"))
        .and_then(Node::as_map_mut)
        .and_then(|resources| resources.get_mut("reservations"))
        .and_then(Node::as_map_mut)
        .and_then(|reservations| reservations.get_mut("devices"));
    each(devices, all_devices);
    each(service.get_mut("gpus"), all_devices);
}

fn each(list: Option<&mut Node>, change: impl Fn(&mut Map, Place)) {
    let Some(Node { value: Value::List(items), .. }) = list else { return };
    for item in items {
        let place = item.place;
        if let Some(map) = item.as_map_mut() {
            change(map, place);
        }
    }
}

fn all_devices(request: &mut Map, place: Place) {
    if !request.contains("device_ids") {
        set_default(request, "count", || Node::integer(-1, place));
    }
}

/// Where a secret or a config is put.
fn file_target(file: &mut Map, directory: &str, place: Place) {
    let source = file.get("source").and_then(Node::as_str).unwrap_or_default().to_owned();
    match file.get("target").and_then(Node::as_str) {
        None => file.set("target", Node::string(format!("{directory}{source}"), place)),
        Some(target) if !directory.is_empty() && !target.starts_with('/') => {
            let target = format!("{directory}{target}");
            file.set("target", Node::string(target, place));
        }
        Some(_) => {}
    }
}

/// Joins a service that says nothing of networks to the default one; says whether it uses that.
fn attach(service: &mut Map, place: Place) -> bool {
    let named = service.get("networks").and_then(Node::as_map);
    if service.contains("network_mode") || service.contains("provider") {
        return named.is_some_and(|networks| networks.contains("default"));
    }
    if named.is_none_or(Map::is_empty) {
        let default = Node::map([("default", Node::new(Value::Null, place))], place);
        service.set("networks", default);
        return true;
    }
    named.is_some_and(|networks| networks.contains("default"))
}

/// What a service needs by `links`, namespaces it shares and volumes it takes over.
fn imply_dependencies(service: &mut Map) {
    let mut implied: Vec<(String, bool, Place)> = Vec::new();
    for link in service.get("links").and_then(Node::as_list).unwrap_or_default() {
        let target = link.as_str().unwrap_or_default().split(':').next().unwrap_or_default();
        implied.push((target.to_owned(), true, link.place));
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        let Some(node) = service.get(key) else { continue };
        if let Some(target) = node.as_str().and_then(|text| text.strip_prefix("service:")) {
            implied.push((target.to_owned(), true, node.place));
        }
    }
    for from in service.get("volumes_from").and_then(Node::as_list).unwrap_or_default() {
        let text = from.as_str().unwrap_or_default();
        if !text.starts_with("container:") {
            implied.push((text.split(':').next().unwrap_or_default().to_owned(), false, from.place));
        }
    }
    let Some((_, _, place)) = implied.first() else { return };
    let place = *place;
    set_default(service, "depends_on", || Node::new(Value::Map(Map::default()), place));
    let Some(depends_on) = service.get_mut("depends_on").and_then(Node::as_map_mut) else { return };
    for (target, restart, place) in implied {
        set_default(depends_on, &target, || dependency("service_started", restart, place));
    }
}

fn name_resources(resources: &mut Map, project: &str) {
    for (key, entry) in resources.iter_mut() {
        let place = entry.key;
        if entry.value.is_null() {
            entry.value = Node::new(Value::Map(Map::default()), place);
        }
        let Some(resource) = entry.value.as_map_mut() else { continue };
        let external = resource.get("external").and_then(Node::as_bool) == Some(true);
        set_default(resource, "name", || {
            let name = if external { key.clone() } else { format!("{project}_{key}") };
            Node::string(name, place)
        });
    }
}
