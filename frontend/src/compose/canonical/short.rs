//! The short forms that are made long, and what is done when a mapping is complete.

use super::super::node::{Map, Node, Path, Value};
use super::{Cx, scalar};
use crate::diagnostic::excerpt;

/// `build: DIRECTORY`.
pub(in super::super) fn build(node: Node, _: &Path<'_>, _: &mut Cx<'_>) -> Option<Node> {
    Some(wrapped(node, "context"))
}

/// `extends: SERVICE`.
pub(in super::super) fn extends(node: Node, _: &Path<'_>, _: &mut Cx<'_>) -> Option<Node> {
    Some(wrapped(node, "service"))
}

/// `include: [FILE]`.
pub(in super::super) fn include(node: Node, _: &Path<'_>, _: &mut Cx<'_>) -> Option<Node> {
    Some(wrapped(node, "path"))
}

/// `secrets: [NAME]` and `configs: [NAME]`.
pub(in super::super) fn file_use(node: Node, _: &Path<'_>, _: &mut Cx<'_>) -> Option<Node> {
    Some(wrapped(node, "source"))
}

fn wrapped(node: Node, key: &'static str) -> Node {
    match node.value {
        Value::String(_) => {
            let place = node.place;
            Node::map([(key, node)], place)
        }
        _ => node,
    }
}

/// `env_file: [FILE]`.
pub(in super::super) fn env_file(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let mut node = wrapped(node, "path");
    let place = node.place;
    match node.as_map_mut() {
        Some(map) if !map.contains("required") => map.set("required", Node::bool(true, place)),
        Some(_) => {}
        None => return cx.refuse(place, path, &format!("must be a path or a mapping, not {}", node.kind())),
    }
    Some(node)
}

/// `depends_on: [SERVICE]`, and what a long form does not say.
pub(in super::super) fn depends_on(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let place = node.place;
    let mut map = Map::default();
    match node.value {
        Value::List(items) => {
            for (index, item) in items.into_iter().enumerate() {
                let place = item.place;
                let item = super::text(item, &path.index(index), cx)?;
                map.insert(item.as_str()?, place, dependency("service_started", false, place));
            }
        }
        Value::Map(written) => map = written,
        _ => {
            let message = format!("must be a list of services or a mapping, and this is {}", node.kind());
            return cx.refuse(place, path, &message);
        }
    }
    for (_, entry) in map.iter_mut() {
        let place = entry.key;
        if let Some(map) = entry.value.as_map_mut().filter(|map| !map.contains("required")) {
            map.set("required", Node::bool(true, place));
        }
    }
    Some(Node::new(Value::Map(map), place))
}

/// One dependency in its long form.
pub(in super::super) fn dependency(
    condition: &str,
    restart: bool,
    place: super::super::source::Place,
) -> Node {
    let mut entries =
        vec![("condition", Node::string(condition, place)), ("required", Node::bool(true, place))];
    if restart {
        entries.push(("restart", Node::bool(true, place)));
    }
    Node::map(entries, place)
}

/// `networks: [NAME]`.
pub(in super::super) fn networks(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    named(node, path, cx, |place| Node::new(Value::Null, place))
}

/// `models: [NAME]`.
pub(in super::super) fn models(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    named(node, path, cx, |place| Node::new(Value::Map(Map::default()), place))
}

fn named(
    node: Node,
    path: &Path<'_>,
    cx: &mut Cx<'_>,
    value: fn(super::super::source::Place) -> Node,
) -> Option<Node> {
    let Value::List(items) = node.value else { return Some(node) };
    let mut map = Map::default();
    for (index, item) in items.into_iter().enumerate() {
        let item = super::text(item, &path.index(index), cx)?;
        map.insert(item.as_str()?, item.place, value(item.place));
    }
    Some(Node::new(Value::Map(map), node.place))
}

/// `HOST: ADDRESS`, `HOST=ADDRESS`, `HOST:ADDRESS`: becomes a list of `HOST=ADDRESS`.
pub(in super::super) fn extra_hosts(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let place = node.place;
    let mut hosts = Vec::new();
    match node.value {
        Value::Map(map) => {
            for (host, entry) in map {
                let path = path.key(&host);
                let addresses = match entry.value.value {
                    Value::List(addresses) => addresses,
                    _ => vec![entry.value],
                };
                for address in addresses {
                    hosts.push(host_line(&host, address, &path, cx)?);
                }
            }
        }
        Value::List(items) => {
            for (index, item) in items.into_iter().enumerate() {
                let path = path.index(index);
                let item = super::text(item, &path, cx)?;
                let text = item.as_str()?;
                let Some((host, address)) = text.split_once('=').or_else(|| text.split_once(':')) else {
                    let message = format!("must be HOST=ADDRESS, not \"{}\"", excerpt(text));
                    return cx.refuse(item.place, &path, &message);
                };
                hosts.push(host_line(host, Node::string(address, item.place), &path, cx)?);
            }
        }
        _ => {
            return cx.refuse(
                place,
                path,
                &format!("must be a mapping or a list, and this is {}", node.kind()),
            );
        }
    }
    hosts.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    Some(Node::list(hosts, place))
}

fn host_line(host: &str, address: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let address = super::text(address, path, cx)?;
    let text = address.as_str()?.trim();
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if host.is_empty() || host.contains(char::is_whitespace) {
        return cx.refuse(address.place, path, "has no name of a host");
    }
    if text != "host-gateway" && text.parse::<std::net::IpAddr>().is_err() {
        let message = format!("must be an address or host-gateway, not \"{}\"", excerpt(text));
        return cx.refuse(address.place, path, &message);
    }
    Some(Node::string(format!("{host}={text}"), address.place))
}

/// `gpus: all`.
pub(in super::super) fn gpus(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let place = node.place;
    match &node.value {
        Value::String(text) if text == "all" => {
            Some(Node::list(vec![Node::map([("count", Node::integer(-1, place))], place)], place))
        }
        Value::List(_) => Some(node),
        _ => cx.refuse(place, path, "must be all or a list of requests"),
    }
}

/// `count: all`.
pub(in super::super) fn count(node: Node, _: &Path<'_>, _: &mut Cx<'_>) -> Option<Node> {
    match node.as_str() {
        Some("all") => Some(Node::integer(-1, node.place)),
        _ => Some(node),
    }
}

/// `nofile: 1024` for both limits.
pub(in super::super) fn ulimit(node: Node, _: &Path<'_>, _: &mut Cx<'_>) -> Option<Node> {
    match node.value {
        Value::Number(_) | Value::String(_) => {
            let place = node.place;
            Some(Node::map([("soft", node.clone()), ("hard", node)], place))
        }
        _ => Some(node),
    }
}

/// `SOURCE[:TARGET[:PERMISSIONS]]`.
pub(in super::super) fn device(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let place = node.place;
    let Value::String(text) = &node.value else {
        let mut node = node;
        if let Some(map) = node.as_map_mut() {
            if let Some(source) = map.get("source").filter(|_| !map.contains("target")).cloned() {
                map.set("target", source);
            }
            if !map.contains("permissions") {
                map.set("permissions", Node::string("rwm", place));
            }
        }
        return Some(node);
    };
    let parts: Vec<&str> = text.split(':').collect();
    let is_permissions = |text: &str| !text.is_empty() && text.chars().all(|char| "rwm".contains(char));
    let (source, target, permissions) = match parts.as_slice() {
        // A device of the container device interface: `vendor.com/class=name`.
        [source] => (*source, *source, "rwm"),
        [source, last] if is_permissions(last) => (*source, *source, *last),
        [source, target] => (*source, *target, "rwm"),
        [source, target, permissions] if is_permissions(permissions) => (*source, *target, *permissions),
        _ => {
            let message = format!("must be SOURCE[:TARGET[:rwm]], not \"{}\"", excerpt(text));
            return cx.refuse(place, path, &message);
        }
    };
    let entries = [("source", source), ("target", target), ("permissions", permissions)];
    Some(Node::map(entries.map(|(key, text)| (key, Node::string(text, place))), place))
}

/// A mode of a file: digits are octal, with or without a zero before them; becomes `"0440"`.
pub(in super::super) fn mode(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let place = node.place;
    // `mode: 0440` and `mode: 288` are the same number; in quotes the digits are octal.
    let bits = match (&node.value, node.as_integer()) {
        (Value::String(text), _) => i64::from_str_radix(text.trim_start_matches("0o"), 8).ok(),
        (_, integer) => integer,
    };
    match bits {
        Some(bits) if (0..=0o7777).contains(&bits) => Some(Node::string(format!("0{bits:03o}"), place)),
        _ => cx.refuse(place, path, "must be the mode of a file, such as 0440"),
    }
}

/// `external: true`, or `external: {name: …}` of old.
pub(in super::super) fn external(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    match node.value {
        Value::Map(_) => Some(node),
        _ => super::boolean(node, path, cx),
    }
}

/// Moves the name of an external resource to where it belongs.
pub(in super::super) fn external_name(map: &mut Map, path: &Path<'_>, cx: &mut Cx<'_>) {
    let Some(external) = map.get("external").cloned() else { return };
    let Value::Map(written) = &external.value else { return };
    let place = external.place;
    match written.get("name") {
        Some(name) if map.get("name").is_some_and(|other| !other.same(name)) => {
            cx.refuse::<()>(name.place, path, "has two names, name and external.name");
        }
        Some(name) => {
            if let Some(name) = scalar(name.clone(), &path.key("external"), cx) {
                map.set("name", name);
            }
        }
        None => {}
    }
    if let Some((key, entry)) = written.iter().find(|(key, _)| *key != "name") {
        cx.refuse::<()>(entry.key, path, &format!("has no key {} in external", excerpt(key)));
    }
    map.set("external", Node::bool(true, place));
}

/// A volume of the local driver that binds a directory has a path of this machine.
pub(in super::super) fn volume(map: &mut Map, path: &Path<'_>, cx: &mut Cx<'_>) {
    external_name(map, path, cx);
    let local = map.get("driver").and_then(Node::as_str).is_none_or(|driver| driver == "local");
    let Some(options) = map.get_mut("driver_opts").and_then(Node::as_map_mut) else { return };
    let binds = options
        .get("o")
        .and_then(Node::as_str)
        .is_some_and(|options| options.split(',').any(|option| option == "bind" || option == "rbind"));
    if let Some(device) = options.get("device").filter(|_| local && binds) {
        let device = Node::string(cx.absolute(device.as_str().unwrap_or_default()), device.place);
        options.set("device", device);
    }
}

/// Contexts that are directories become absolute.
pub(in super::super) fn build_paths(map: &mut Map, path: &Path<'_>, cx: &mut Cx<'_>) {
    if let Some(context) = map.get("context") {
        let text = context.as_str().unwrap_or_default();
        if !is_remote(text) {
            let context = Node::string(cx.absolute(text), context.place);
            map.set("context", context);
        }
    }
    if let Some(contexts) = map.get_mut("additional_contexts").and_then(Node::as_map_mut) {
        for (_, entry) in contexts.iter_mut() {
            let text = entry.value.as_str().unwrap_or_default();
            if !text.contains("://") && !text.starts_with("service:") && !is_remote(text) && !text.is_empty()
            {
                entry.value = Node::string(cx.absolute(text), entry.value.place);
            }
        }
    }
    if let (Some(_), Some(inline)) = (map.get("dockerfile"), map.entry("dockerfile_inline")) {
        cx.refuse::<()>(inline.key, path, "has both dockerfile and dockerfile_inline");
    }
}

/// Whether a context is fetched rather than read from this machine.
fn is_remote(context: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@", "github.com/", "oci-layout://", "docker-image://"]
        .iter()
        .any(|prefix| context.starts_with(prefix))
}
