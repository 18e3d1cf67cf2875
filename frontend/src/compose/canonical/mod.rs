//! Checks a tree against the table of keys and brings every short form into its long one.

pub(super) mod mounts;
pub(super) mod ports;
pub(super) mod short;
pub(super) mod values;
pub(super) mod words;

use super::limits;
use super::node::{Entry, Map, Node, Number, Path, Tag, Value};
use super::schema::{Absent, List, Shape, Struct};
use super::source::{Place, Problems};
use crate::diagnostic::{excerpt, nearest};

/// What relative paths start from, and where to say what is wrong.
pub(super) struct Cx<'a> {
    /// The directory of the project, or of the file that is extended or included.
    pub(super) base: &'a str,
    /// What `~` stands for.
    pub(super) home: Option<&'a str>,
    /// Whether variables are there still, of which nobody knows what they stand for.
    pub(super) as_written: bool,
    /// How many ports the project may still have.
    pub(super) ports: &'a mut usize,
    pub(super) problems: &'a mut Problems,
}

impl Cx<'_> {
    /// Says what is wrong with a value; there is none then.
    pub(super) fn refuse<T>(&mut self, place: Place, path: &Path<'_>, message: &str) -> Option<T> {
        self.problems.error(place, format!("{path} {message}"));
        None
    }

    fn refuse_with_hint<T>(
        &mut self,
        place: Place,
        path: &Path<'_>,
        message: &str,
        hint: String,
    ) -> Option<T> {
        self.problems.error(place, format!("{path} {message}")).hint = Some(hint);
        None
    }

    /// Whether a value is not known yet.
    fn is_open(&self, node: &Node) -> bool {
        self.as_written && node.as_str().is_some_and(|text| text.contains('$'))
    }

    /// The absolute form of a path on this machine.
    pub(super) fn absolute(&self, path: &str) -> String {
        values::absolute(self.base, self.home, path)
    }
}

/// The long form of `node`. What is wrong is said, and then there is none.
pub(super) fn canonical(node: Node, shape: &Shape, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    if node.tag == Tag::Reset || cx.is_open(&node) {
        return Some(node);
    }
    let tag = node.tag;
    let node = shaped(node, shape, path, cx)?;
    Some(Node { tag, ..node })
}

fn shaped(node: Node, shape: &Shape, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let place = node.place;
    match shape {
        Shape::Any => Some(node),
        Shape::NullOr(_) if node.is_null() => Some(node),
        Shape::NullOr(shape) => shaped(node, shape, path, cx),
        Shape::Short(expand, shape) => {
            let node = expand(node, path, cx)?;
            shaped(node, shape, path, cx)
        }
        Shape::Text => text(node, path, cx),
        Shape::Scalar => scalar(node, path, cx),
        Shape::Bool => boolean(node, path, cx),
        Shape::Integer(min, max) => integer(node, *min, *max, path, cx),
        Shape::Decimal => decimal(node, path, cx),
        Shape::Bytes => {
            let node = scalar(node, path, cx)?;
            checked(node, values::bytes, path, cx)
        }
        Shape::Duration => duration(node, path, cx),
        Shape::OneOf(allowed) => one_of(node, allowed, path, cx),
        Shape::Checked(check) => {
            let node = scalar(node, path, cx)?;
            checked(node, *check, path, cx)
        }
        Shape::Path => {
            let node = text(node, path, cx)?;
            let absolute = cx.absolute(node.as_str().unwrap_or_default());
            Some(Node::string(absolute, place))
        }
        Shape::Words => words::words(node, path, cx),
        Shape::Test => words::test(node, path, cx),
        Shape::Pairs(absent) => pairs(node, *absent, path, cx),
        Shape::List(list) => items(node, list, path, cx),
        Shape::Names(shape) => names(node, shape, path, cx),
        Shape::Struct(keys) => known_keys(node, keys, path, cx),
    }
}

fn text(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    match &node.value {
        Value::String(_) => Some(node),
        Value::Number(Number { text, .. }) => {
            let hint = format!("write it in quotes: \"{}\"", excerpt(text));
            cx.refuse_with_hint(node.place, path, "must be a string, and this is a number", hint)
        }
        Value::Bool(value) => {
            let hint = format!("write it in quotes: \"{value}\"");
            cx.refuse_with_hint(node.place, path, "must be a string, and this is a boolean", hint)
        }
        _ => cx.refuse(node.place, path, &format!("must be a string, and this is {}", node.kind())),
    }
}

fn scalar(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    match &node.value {
        Value::String(_) => Some(node),
        Value::Number(number) => Some(Node::string(number.text.clone(), node.place)),
        Value::Bool(value) => Some(Node::string(value.to_string(), node.place)),
        _ => cx.refuse(node.place, path, &format!("must be a string, and this is {}", node.kind())),
    }
}

fn boolean(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let meant = match &node.value {
        Value::Bool(_) => return Some(node),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
            "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    };
    match meant {
        Some(value) => Some(Node::bool(value, node.place)),
        None => cx.refuse(node.place, path, &format!("must be true or false, not {}", shown(&node))),
    }
}

fn integer(node: Node, min: i64, max: i64, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let value = match &node.value {
        Value::Number(number) => number.integer.or_else(|| whole(number.float)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match value {
        Some(value) if (min..=max).contains(&value) => Some(Node::integer(value, node.place)),
        Some(_) if max == i64::MAX => {
            cx.refuse(node.place, path, &format!("must be {min} or more, not {}", shown(&node)))
        }
        Some(_) => cx.refuse(node.place, path, &format!("must be from {min} to {max}, not {}", shown(&node))),
        None => cx.refuse(node.place, path, &format!("must be a whole number, not {}", shown(&node))),
    }
}

/// `2.0` and `1e3` are whole numbers too.
fn whole(float: f64) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    (float.fract() == 0.0 && float.abs() < EXACT_MAX).then_some(float as i64)
}

fn decimal(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let value = match &node.value {
        Value::Number(number) => Some(number.float),
        Value::String(text) => text.trim().parse::<f64>().ok(),
        _ => None,
    };
    match value {
        Some(value) if value.is_finite() && value >= 0.0 => {
            // `-0` is no other number than `0`.
            let value = value.abs();
            let number = Number { text: value.to_string(), float: value, integer: whole(value) };
            Some(Node::new(Value::Number(number), node.place))
        }
        _ => cx.refuse(node.place, path, &format!("must be a number of 0 or more, not {}", shown(&node))),
    }
}

fn duration(node: Node, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    if let Value::Number(number) = &node.value {
        let hint = format!("write it with a unit: {}s", excerpt(&number.text));
        return cx.refuse_with_hint(node.place, path, "must be a duration, and this is a number", hint);
    }
    let node = text(node, path, cx)?;
    checked(node, values::duration, path, cx)
}

fn one_of(node: Node, allowed: &[&str], path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let node = text(node, path, cx)?;
    let value = node.as_str().unwrap_or_default();
    if allowed.contains(&value) {
        return Some(node);
    }
    let message = format!("must be one of {}, not \"{}\"", allowed.join(", "), excerpt(value));
    match nearest(value, allowed) {
        Some(near) => cx.refuse_with_hint(node.place, path, &message, format!("did you mean {near}?")),
        None => cx.refuse(node.place, path, &message),
    }
}

fn checked(
    node: Node,
    check: fn(&str) -> Result<String, String>,
    path: &Path<'_>,
    cx: &mut Cx<'_>,
) -> Option<Node> {
    match check(node.as_str().unwrap_or_default()) {
        Ok(value) => Some(Node::string(value, node.place)),
        Err(message) => cx.refuse(node.place, path, &message),
    }
}

fn pairs(node: Node, absent: Absent, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let mut map = Map::default();
    match node.value {
        Value::Map(written) => {
            for (key, entry) in written {
                if entry.value.tag == Tag::Reset {
                    map.insert(key, entry.key, entry.value);
                    continue;
                }
                let place = entry.value.place;
                let value = match (&entry.value.value, absent) {
                    (Value::Null, Absent::FromEnvironment) => Some(entry.value),
                    (Value::Null, Absent::Empty) => Some(Node::string("", place)),
                    _ => scalar(entry.value, &path.key(&key), cx),
                };
                if let Some(value) = value {
                    map.insert(key, entry.key, value);
                }
            }
        }
        Value::List(items) => {
            for (index, item) in items.into_iter().enumerate() {
                let place = item.place;
                let Some(item) = scalar(item, &path.index(index), cx) else { continue };
                let text = item.as_str().unwrap_or_default();
                let (key, value) = match (text.split_once('='), absent) {
                    (Some((key, value)), _) => (key, Node::string(value, place)),
                    (None, Absent::Empty) => (text, Node::string("", place)),
                    (None, Absent::FromEnvironment) => (text, Node::new(Value::Null, place)),
                };
                if key.is_empty() {
                    cx.refuse::<()>(place, &path.index(index), "has no name before its =");
                    continue;
                }
                map.insert(key, place, value);
            }
        }
        // One alone, as `ssh: default`.
        Value::String(text) if !text.is_empty() && !text.contains(['=', ' ']) => {
            map.insert(text, node.place, Node::new(Value::Null, node.place));
        }
        _ => {
            let message = format!("must be a mapping or a list of NAME=value, and this is {}", node.kind());
            return cx.refuse(node.place, path, &message);
        }
    }
    Some(Node::new(Value::Map(map), node.place))
}

fn items(node: Node, list: &List, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let place = node.place;
    let written = match node.value {
        Value::List(items) => items,
        Value::Null | Value::Map(_) | Value::Bool(_) if !list.or_one => {
            return cx.refuse(place, path, &format!("must be a list, and this is {}", node.kind()));
        }
        _ if list.or_one => vec![node],
        _ => return cx.refuse(place, path, &format!("must be a list, and this is {}", node.kind())),
    };
    let mut done = Vec::new();
    for (index, item) in written.into_iter().enumerate() {
        let path = path.index(index);
        let spread = match list.spread {
            _ if item.tag == Tag::Reset || cx.is_open(&item) => vec![item],
            Some(spread) => {
                let at = item.place;
                let several = spread(item, &path, cx);
                let Some(left) = cx.ports.checked_sub(several.len()) else {
                    let message = format!("more than {} ports, those of ranges counted", limits::PORTS_MAX);
                    return cx.refuse(at, &path, &message);
                };
                *cx.ports = left;
                several
            }
            None => vec![item],
        };
        done.extend(spread.into_iter().filter_map(|item| canonical(item, &list.item, &path, cx)));
    }
    Some(Node::list(done, place))
}

fn names(node: Node, shape: &Shape, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let Value::Map(written) = node.value else {
        return cx.refuse(node.place, path, &format!("must be a mapping, and this is {}", node.kind()));
    };
    let mut map = Map::default();
    for (name, Entry { key, value }) in written {
        // Names of resources are parts of names of containers; options of drivers are anything.
        let allowed = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
        let strict = matches!(shape, Shape::Struct(_) | Shape::NullOr(_));
        if strict && (name.is_empty() || !name.chars().all(allowed)) {
            if name.starts_with("x-") {
                continue;
            }
            let message = format!("{path} has the name \"{}\"", excerpt(&name));
            cx.problems.error(key, message).hint =
                Some("names are made of letters, digits, . _ and -".into());
            continue;
        }
        if let Some(value) = canonical(value, shape, &path.key(&name), cx) {
            map.insert(name, key, value);
        }
    }
    Some(Node::new(Value::Map(map), node.place))
}

fn known_keys(node: Node, keys: &Struct, path: &Path<'_>, cx: &mut Cx<'_>) -> Option<Node> {
    let place = node.place;
    let Value::Map(written) = node.value else {
        return cx.refuse(place, path, &format!("must be a mapping, and this is {}", node.kind()));
    };
    if let Some(missing) = keys.required.iter().find(|name| !written.contains(name)) {
        return cx.refuse(place, path, &format!("needs the key {missing}"));
    }
    let mut map = Map::default();
    for (name, Entry { key, value }) in written {
        if name.starts_with("x-") {
            map.insert(name, key, value);
            continue;
        }
        let Some(shape) = keys.field(&name) else {
            unknown_key(&name, key, keys, path, cx);
            continue;
        };
        // A key with nothing behind it says nothing, where nothing is no value of its own.
        let empty = value.is_null() && value.tag == Tag::None && !matches!(shape, Shape::NullOr(_));
        if empty && !matches!(shape, Shape::Names(_)) {
            if !matches!(shape, Shape::Words) {
                cx.problems.warning(key, format!("{} has no value", path.key(&name)));
            }
            continue;
        }
        if empty {
            continue;
        }
        if let Some(value) = canonical(value, shape, &path.key(&name), cx) {
            map.insert(name, key, value);
        }
    }
    if let Some(finish) = keys.finish {
        finish(&mut map, path, cx);
    }
    Some(Node::new(Value::Map(map), place))
}

fn unknown_key(name: &str, key: Place, keys: &Struct, path: &Path<'_>, cx: &mut Cx<'_>) {
    let known: Vec<&str> = keys.fields.iter().map(|(name, _)| *name).collect();
    let message = format!("{path} has no key {}", excerpt(name));
    cx.problems.error(key, message).hint = Some(match nearest(name, &known) {
        Some(near) => format!("did you mean {near}?"),
        None if known.len() <= 12 => format!("it has {}; keys of one's own begin with x-", known.join(", ")),
        None => "keys of one's own begin with x-".to_owned(),
    });
}

/// A value for a message.
fn shown(node: &Node) -> String {
    match &node.value {
        Value::String(text) => format!("\"{}\"", excerpt(text)),
        Value::Number(number) => excerpt(&number.text),
        Value::Bool(value) => value.to_string(),
        _ => node.kind().to_owned(),
    }
}
