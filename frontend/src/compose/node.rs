//! A YAML tree that knows where each of its nodes was written.

use std::collections::BTreeMap;
use std::fmt;

use super::source::Place;

/// What a node says of how it is merged onto another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// As its kind is merged.
    None,
    /// `!reset`: it takes away what was there.
    Reset,
    /// `!override`: it stands in the place of what was there.
    Override,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
    pub(super) tag: Tag,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    List(Vec<Node>),
    Map(Map),
}

/// A number, and how it was written: where a text is wanted, `1.10` and `0644` stay what they are.
#[derive(Debug, Clone)]
pub(super) struct Number {
    pub(super) text: String,
    pub(super) float: f64,
    /// Where it is whole.
    pub(super) integer: Option<i64>,
}

impl Number {
    pub(super) fn integer(value: i64) -> Self {
        Self { text: value.to_string(), float: value as f64, integer: Some(value) }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Map(BTreeMap<String, Entry>);

#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Where its key is.
    pub(super) key: Place,
    pub(super) value: Node,
}

impl Map {
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.0.get(key).map(|entry| &entry.value)
    }

    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.0.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.0.get_mut(key).map(|entry| &mut entry.value)
    }

    pub(super) fn insert(&mut self, key: impl Into<String>, at: Place, value: Node) -> Option<Entry> {
        self.0.insert(key.into(), Entry { key: at, value })
    }

    /// Adds what was not written, in the place of what it follows from.
    pub(super) fn set(&mut self, key: &str, value: Node) {
        let at = self.0.get(key).map_or(value.place, |entry| entry.key);
        self.0.insert(key.to_owned(), Entry { key: at, value });
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Node> {
        self.0.remove(key).map(|entry| entry.value)
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut Entry)> {
        self.0.iter_mut()
    }
}

impl IntoIterator for Map {
    type Item = (String, Entry);
    type IntoIter = std::collections::btree_map::IntoIter<String, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Node {
    pub(super) fn new(value: Value, place: Place) -> Self {
        Self { value, place, tag: Tag::None }
    }

    pub(super) fn string(text: impl Into<String>, place: Place) -> Self {
        Self::new(Value::String(text.into()), place)
    }

    pub(super) fn bool(value: bool, place: Place) -> Self {
        Self::new(Value::Bool(value), place)
    }

    pub(super) fn integer(value: i64, place: Place) -> Self {
        Self::new(Value::Number(Number::integer(value)), place)
    }

    pub(super) fn list(items: Vec<Node>, place: Place) -> Self {
        Self::new(Value::List(items), place)
    }

    pub(super) fn map(entries: impl IntoIterator<Item = (&'static str, Node)>, place: Place) -> Self {
        let mut map = Map::default();
        entries.into_iter().for_each(|(key, value)| map.set(key, value));
        Self::new(Value::Map(map), place)
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn as_integer(&self) -> Option<i64> {
        match &self.value {
            Value::Number(number) => number.integer,
            _ => None,
        }
    }

    pub(super) fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(super) fn as_map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?.get(key)
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// How many nodes it is made of.
    pub(super) fn count(&self) -> usize {
        match &self.value {
            Value::List(items) => items.iter().map(Self::count).sum::<usize>() + 1,
            Value::Map(map) => map.iter().map(|(_, entry)| entry.value.count()).sum::<usize>() + 1,
            _ => 1,
        }
    }

    /// Whether both say the same, wherever they were written.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.to_json() == other.to_json()
    }

    /// The tree without its places.
    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::String(text) => Json::String(text.clone()),
            Value::Number(number) => match number.integer {
                Some(integer) => Json::from(integer),
                // JSON has no infinity: it stays as it was written.
                None => serde_json::Number::from_f64(number.float)
                    .map_or_else(|| Json::String(number.text.clone()), Json::Number),
            },
            Value::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(map) => {
                Json::Object(map.iter().map(|(key, entry)| (key.clone(), entry.value.to_json())).collect())
            }
        }
    }
}

/// Where in the model a node is: `services.web.ports[0]`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub(super) fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }

    pub(super) fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => f.write_str("the file"),
            Path::Key(Path::Root, key) => f.write_str(&crate::diagnostic::excerpt(key)),
            Path::Key(parent, key) => write!(f, "{parent}.{}", crate::diagnostic::excerpt(key)),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}
