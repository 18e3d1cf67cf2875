//! One tree onto another: mappings by key, lists one behind the other, all else replaced. `!reset` and `!override` say
//! otherwise.

use std::collections::BTreeMap;

use super::node::{Map, Node, Tag, Value};
use super::schema::{List, Shape, Unique};

/// `over` onto `base`, both in their long form. Nothing is left where `over` takes it away.
pub(super) fn merge(base: Node, over: Node, shape: &Shape) -> Option<Node> {
    match over.tag {
        Tag::Reset => return None,
        Tag::Override => return settle(over, shape),
        Tag::None => {}
    }
    if over.is_null() {
        return Some(base);
    }
    let shape = inner(shape);
    if matches!(shape, Shape::Words | Shape::Test) {
        return settle(over, shape);
    }
    let Node { value, place, .. } = over;
    match (base.value, value) {
        (Value::Map(base), Value::Map(over)) => {
            // Options are a driver's own.
            let other_driver = base.contains("options")
                && matches!((base.get("driver"), over.get("driver")), (Some(a), Some(b)) if !a.same(b));
            let base = if other_driver { Map::default() } else { base };
            Some(Node::new(Value::Map(maps(base, over, shape)), place))
        }
        (Value::List(mut base), Value::List(over)) => {
            base.extend(over);
            settle(Node::list(base, place), shape)
        }
        (_, value) => settle(Node::new(value, place), shape),
    }
}

fn maps(mut base: Map, over: Map, shape: &Shape) -> Map {
    for (key, entry) in over {
        let shape = below(shape, &key);
        let merged = match base.remove(&key) {
            Some(under) => merge(under, entry.value, shape),
            None => settle(entry.value, shape),
        };
        if let Some(merged) = merged {
            base.insert(key, entry.key, merged);
        }
    }
    base
}

/// Takes out what resets nothing, and makes the items of lists unique.
pub(super) fn settle(node: Node, shape: &Shape) -> Option<Node> {
    if node.tag == Tag::Reset {
        return None;
    }
    let shape = inner(shape);
    let value = match node.value {
        Value::Map(map) => Value::Map(maps(Map::default(), map, shape)),
        Value::List(items) => {
            let item_shape = if let Shape::List(list) = shape { &list.item } else { &Shape::Any };
            let items = items.into_iter().filter_map(|item| settle(item, item_shape)).collect();
            match shape {
                Shape::List(list) => Value::List(unique(items, list)),
                _ => Value::List(items),
            }
        }
        other => other,
    };
    Some(Node::new(value, node.place))
}

/// A later item takes the place of the earlier one that it cannot stand beside.
fn unique(items: Vec<Node>, list: &List) -> Vec<Node> {
    let key = |item: &Node| match (&list.unique, item.as_map()) {
        (Unique::No, _) | (Unique::By(_) | Unique::MergedBy(_), None) => None,
        (Unique::Whole, _) => Some(item.to_json().to_string()),
        (Unique::By(key), Some(map)) => Some(key(map)),
        (Unique::MergedBy(key), Some(map)) => map.get(key).map(|value| value.to_json().to_string()),
    };
    let mut at = BTreeMap::new();
    let mut kept: Vec<Node> = Vec::with_capacity(items.len());
    for item in items {
        match key(&item).map(|key| *at.entry(key).or_insert(kept.len())) {
            Some(index) if index < kept.len() => {
                let place = kept[index].place;
                let under = std::mem::replace(&mut kept[index], Node::new(Value::Null, place));
                kept[index] = match list.unique {
                    Unique::MergedBy(_) => merge(under, item.clone(), &list.item).unwrap_or(item),
                    // What is said again in other words keeps its first place.
                    Unique::Whole => under,
                    _ => item,
                };
            }
            _ => kept.push(item),
        }
    }
    kept
}

/// The long form's shape.
fn inner(shape: &Shape) -> &Shape {
    match shape {
        Shape::Short(_, shape) | Shape::NullOr(shape) => inner(shape),
        other => other,
    }
}

fn below<'a>(shape: &'a Shape, key: &str) -> &'a Shape {
    match shape {
        Shape::Struct(keys) => keys.field(key).unwrap_or(&Shape::Any),
        Shape::Names(shape) => shape,
        _ => &Shape::Any,
    }
}
