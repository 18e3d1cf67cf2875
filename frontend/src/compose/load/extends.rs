//! `extends`: a service on top of another, of this file or of one that is read for it.

use std::collections::BTreeMap;

use super::super::canonical::values::parent;
use super::super::limits;
use super::super::merge::{merge, settle};
use super::super::node::{Map, Node, Tag, Value};
use super::super::schema::{PROJECT, Shape};
use super::super::source::Place;
use super::{FILE, Loader, Scope};
use crate::diagnostic::{CANDIDATES_MAX, nearest};

/// What was read and extended so far for one file.
struct Extending<'a> {
    scope: &'a Scope,
    /// Files by path, in their long form; nothing if they are no good.
    files: BTreeMap<String, Option<Map>>,
    /// Services by file and name, each with all it extends.
    done: BTreeMap<(String, String), Node>,
}

impl Loader<'_> {
    /// Extends every service of a file that asks for it.
    pub(super) fn extend_services(&mut self, layer: &mut Node, file: &str, scope: &Scope) {
        let Some(services) = layer.get("services").and_then(Node::as_map).cloned() else { return };
        let extending: Vec<String> = services
            .iter()
            .filter(|(_, entry)| entry.value.get("extends").is_some())
            .map(|(name, _)| name.clone())
            .collect();
        let mut state = Extending { scope, files: BTreeMap::new(), done: BTreeMap::new() };
        state.files.insert(file.to_owned(), Some(services));
        for name in extending {
            // Every service of a circle would say the same.
            let Some(service) = self.extended(file, &name, &mut Vec::new(), &mut state) else { return };
            let services =
                layer.as_map_mut().and_then(|map| map.get_mut("services")).and_then(Node::as_map_mut);
            if let Some(slot) = services.and_then(|services| services.get_mut(&name)) {
                *slot = service;
            }
        }
    }

    /// The service `name` of `file` with all it extends. `chain` is what extends it.
    fn extended(
        &mut self,
        file: &str,
        name: &str,
        chain: &mut Vec<(String, String)>,
        state: &mut Extending<'_>,
    ) -> Option<Node> {
        let id = (file.to_owned(), name.to_owned());
        if let Some(done) = state.done.get(&id) {
            return Some(done.clone());
        }
        let mut service = state.files.get(file)?.as_ref()?.get(name)?.clone();
        let tag = service.tag;
        let Some(extends) = service.as_map_mut().and_then(|map| map.remove("extends")) else {
            return Some(service);
        };
        if extends.tag == Tag::Reset {
            return Some(service);
        }
        chain.push(id.clone());
        let place = extends.place;
        let base_name = extends.get("service").and_then(Node::as_str)?.to_owned();
        let base_file = match extends.get("file") {
            Some(path) => path.as_str()?.to_owned(),
            None => file.to_owned(),
        };
        self.check_chain(chain, &base_file, &base_name, place)?;
        if !state.files.contains_key(&base_file) {
            let services = self.base_file(&base_file, state.scope, place);
            state.files.insert(base_file.clone(), services);
        }
        let services = state.files.get(&base_file)?.as_ref()?;
        if !services.contains(&base_name) {
            let known: Vec<&str> = services.keys().take(CANDIDATES_MAX).map(String::as_str).collect();
            let hint = nearest(&base_name, &known).map(|near| format!("did you mean {near}?"));
            let place = extends.get("service").map_or(place, |node| node.place);
            let message = format!("services.{name} extends {base_name}, which {base_file} does not have");
            self.problems.error(place, message).hint = hint;
            return None;
        }
        let base = self.extended(&base_file, &base_name, chain, state)?;
        chain.pop();
        let merged = merge(base, Node { tag: Tag::None, ..service }, service_shape())?;
        let merged = Node { tag, ..merged };
        let Some(left) = self.extended.checked_sub(merged.count()) else {
            let message =
                format!("services extend others by more than {} values", limits::EXTENDED_NODES_MAX);
            return self.fail(Some(place), message);
        };
        self.extended = left;
        state.done.insert(id, merged.clone());
        Some(merged)
    }

    fn check_chain(
        &mut self,
        chain: &[(String, String)],
        file: &str,
        name: &str,
        place: Place,
    ) -> Option<()> {
        let seen = chain.iter().position(|(seen_file, seen)| seen_file == file && seen == name);
        let message = match seen {
            Some(start) => {
                let several = chain.iter().any(|(other, _)| other != file);
                let shown = |(file, name): &(String, String)| match several {
                    true => format!("{name} ({file})"),
                    false => name.clone(),
                };
                let mut steps: Vec<String> = chain[start..].iter().map(shown).collect();
                steps.push(shown(&(file.to_owned(), name.to_owned())));
                format!("services extend each other in a circle: {}", steps.join(" → "))
            }
            None if chain.len() >= limits::CHAIN_MAX => {
                format!("services extend each other more than {} times", limits::CHAIN_MAX)
            }
            None => return Some(()),
        };
        self.fail(Some(place), message)
    }

    /// The services of a file that is read to extend them. Its relative paths start from its own directory.
    fn base_file(&mut self, path: &str, scope: &Scope, place: Place) -> Option<Map> {
        let source = self.read(path, "the extended file", Some(place))?;
        let scope = Scope { base: parent(path), environment: scope.environment.clone() };
        let mut whole: Option<Node> = None;
        for document in self.documents(source) {
            let layer = self.long_form(document, &scope)?;
            whole = match whole {
                Some(below) => merge(below, layer, &FILE),
                None => settle(layer, &FILE),
            };
        }
        let services = whole.and_then(|node| node.as_map().and_then(|map| map.get("services")).cloned());
        match services.map(|services| services.value) {
            Some(Value::Map(services)) => Some(services),
            _ => Some(Map::default()),
        }
    }
}

/// The shape of one service.
fn service_shape() -> &'static Shape {
    match PROJECT.field("services") {
        Some(Shape::Names(service)) => service,
        _ => &Shape::Any,
    }
}
