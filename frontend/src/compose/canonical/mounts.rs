//! `[source:]target[:options]`.

use super::super::node::{Map, Node, Path, Value};
use super::Cx;
use crate::diagnostic::{excerpt, nearest};

/// The long form of a short one.
pub(in super::super) fn expand(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let Value::String(text) = &node.value else { return Some(node) };
    let place = node.place;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return cx.refuse(place, path, &format!("has too many colons: \"{}\"", excerpt(text))),
    };
    // What a variable that is not set leaves.
    let source = source.filter(|source| {
        if source.is_empty() {
            let message = format!("{path} has no source: an anonymous volume takes its place");
            cx.problems.warning(place, message);
        }
        !source.is_empty()
    });
    if target.is_empty() {
        return cx.refuse(place, path, &format!("has an empty part: \"{}\"", excerpt(text)));
    }
    let is_bind = source.is_some_and(|source| source.starts_with(['/', '.', '~']));
    let mut map = Map::default();
    map.set("type", Node::string(if is_bind { "bind" } else { "volume" }, place));
    map.set("target", Node::string(target, place));
    if let Some(source) = source {
        map.set("source", Node::string(source, place));
    }
    let mut bind = Map::default();
    if is_bind {
        bind.set("create_host_path", Node::bool(true, place));
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        apply(option, is_bind, &mut map, &mut bind, &node, path, cx)?;
    }
    if !bind.is_empty() {
        map.set("bind", Node::new(Value::Map(bind), place));
    }
    Some(Node::new(Value::Map(map), place))
}

fn apply(
    option: &str,
    is_bind: bool,
    map: &mut Map,
    bind: &mut Map,
    written: &Node,
    path: &Path<'_>,
    cx: &mut Cx<'_>,
) -> Option<()> {
    const KNOWN: [&str; 14] = [
        "ro",
        "rw",
        "z",
        "Z",
        "nocopy",
        "cached",
        "delegated",
        "consistent",
        "private",
        "rprivate",
        "shared",
        "rshared",
        "slave",
        "rslave",
    ];
    let place = written.place;
    match option {
        "ro" => map.set("read_only", Node::bool(true, place)),
        "rw" => {}
        "nocopy" if !is_bind => {
            map.set("volume", Node::map([("nocopy", Node::bool(true, place))], place));
        }
        "cached" | "delegated" | "consistent" => map.set("consistency", Node::string(option, place)),
        "z" | "Z" if is_bind => bind.set("selinux", Node::string(option, place)),
        // Volumes have the right label already.
        "z" | "Z" => {}
        "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" if is_bind => {
            bind.set("propagation", Node::string(option, place));
        }
        _ if KNOWN.contains(&option) => {
            let kind = if is_bind { "a bind mount" } else { "a volume" };
            return cx.refuse(place, path, &format!("has the option {option}, which {kind} does not take"));
        }
        _ => {
            let message = format!("{path} has the unknown option \"{}\"", excerpt(option));
            cx.problems.error(place, message).hint =
                nearest(option, &KNOWN).map(|near| format!("did you mean {near}?"));
            return None;
        }
    }
    Some(())
}

/// Paths become absolute, and what the kinds cannot have is refused.
pub(in super::super) fn finish(map: &mut Map, path: &Path<'_>, cx: &mut Cx<'_>) {
    let kind = map.get("type").and_then(Node::as_str).unwrap_or_default().to_owned();
    for other in ["bind", "volume", "tmpfs", "image"] {
        if other != kind && map.contains(other) {
            let place = map.entry(other).map(|entry| entry.key);
            if let Some(place) = place {
                cx.refuse::<()>(place, path, &format!("is of type {kind} and cannot have the key {other}"));
            }
        }
    }
    if let Some(target) = map.get("target") {
        let text = target.as_str().unwrap_or_default();
        // Windows' own are nothing that this could check.
        if !text.starts_with('/') && kind != "npipe" {
            let message = format!("must have an absolute path as its target, not \"{}\"", excerpt(text));
            cx.refuse::<()>(target.place, path, &message);
        }
    }
    match map.get("source") {
        Some(source) if kind == "bind" => {
            let absolute = cx.absolute(source.as_str().unwrap_or_default());
            let source = Node::string(absolute, source.place);
            map.set("source", source);
        }
        Some(source) if kind == "tmpfs" => {
            cx.refuse::<()>(source.place, path, "is of type tmpfs and has no source");
        }
        None if kind == "bind" || kind == "image" => {
            if let Some(place) = map.get("type").map(|node| node.place) {
                cx.refuse::<()>(place, path, &format!("is of type {kind} and needs a source"));
            }
        }
        _ => {}
    }
}
