//! `<<: *base` and `<<: [*one, *two]`: what the mapping does not say itself is taken from these.

use super::super::node::{Map, Node, Value};
use super::super::source::Problems;

/// The key under which a mapping keeps what it is to be merged with until its document is read.
const KEPT: &str = "<<";

/// Remembers what the mapping is to be merged with.
pub(super) fn keep(map: &mut Map, merges: Vec<Node>) {
    if let Some(place) = merges.first().map(|node| node.place) {
        map.insert(KEPT, place, Node::list(merges, place));
    }
}

/// Merges everywhere in the tree, the innermost first.
pub(super) fn apply(node: &mut Node, problems: &mut Problems) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| apply(item, problems)),
        Value::Map(map) => {
            map.iter_mut().for_each(|(_, entry)| apply(&mut entry.value, problems));
            let Some(Node { value: Value::List(merges), .. }) = map.remove(KEPT) else { return };
            merges.into_iter().for_each(|merged| merge(map, merged, problems));
        }
        _ => {}
    }
}

fn merge(into: &mut Map, from: Node, problems: &mut Problems) {
    match from.value {
        Value::Map(from) => {
            for (key, entry) in from {
                if !into.contains(&key) {
                    into.insert(key, entry.key, entry.value);
                }
            }
        }
        // The first of a list counts.
        Value::List(all) if all.iter().all(|node| matches!(node.value, Value::Map(_))) => {
            all.into_iter().for_each(|node| merge(into, node, problems));
        }
        Value::Null => {}
        _ => {
            problems.error(from.place, format!("<< takes a mapping or a list of them, not {}", from.kind()));
        }
    }
}
