//! The first format of all: services at the top, without `services`.

use super::super::node::{Map, Node, Value};
use super::super::schema::PROJECT;
use super::super::source::Problems;
use crate::diagnostic::nearest;

/// What keys of services were called.
const RENAMED: [(&str, &str); 2] = [("net", "network_mode"), ("extra_host", "extra_hosts")];

/// Brings a file of the first format into today's.
pub(super) fn modernise(document: &mut Node, problems: &mut Problems) {
    let place = document.place;
    let Value::Map(map) = &mut document.value else { return };
    if !is_first_format(map) {
        return;
    }
    problems.warning(place, "this file is of the first format: its keys are read as services").hint =
        Some("put them below a key services".into());
    let mut services = std::mem::take(map);
    for (_, entry) in services.iter_mut() {
        let Some(service) = entry.value.as_map_mut() else { continue };
        for (old, new) in RENAMED {
            if service.contains(new) {
                continue;
            }
            if let Some(value) = service.remove(old) {
                service.insert(new, value.place, value);
            }
        }
        // `dockerfile` stood beside `build`.
        if let Some(dockerfile) = service.remove("dockerfile") {
            let place = dockerfile.place;
            let context = service.remove("build").unwrap_or_else(|| Node::string(".", place));
            service.set("build", Node::map([("context", context), ("dockerfile", dockerfile)], place));
        }
    }
    map.insert("services", place, Node::new(Value::Map(services), place));
}

/// Every key holds what only a service can be, and none is a key of today's or a slip of the fingers for one.
fn is_first_format(map: &Map) -> bool {
    let known: Vec<&str> = PROJECT.fields.iter().map(|(name, _)| *name).collect();
    let is_service = |node: &Node| {
        node.as_map().is_some_and(|service| service.contains("image") || service.contains("build"))
    };
    !map.is_empty()
        && map.iter().all(|(key, entry)| {
            !known.contains(&key.as_str()) && nearest(key, &known).is_none() && is_service(&entry.value)
        })
}
