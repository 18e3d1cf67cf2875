//! In what two images differ: layers, config, files.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use wharf_cache::diff::{Difference, DifferenceKind};

use super::stored::StoredImage;

/// Differences of two images. Each list is sorted.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Differences {
    /// Layers that both begin with.
    pub(crate) shared_layers: usize,
    /// Digests of what the layers of one unpack to, from where the two part.
    pub(crate) layers: Sides<Vec<String>>,
    /// Fields of the config.
    pub(crate) config: Vec<Field>,
    /// Paths.
    pub(crate) files: Vec<File>,
}

/// What the first image has, and the second.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Sides<T> {
    pub(crate) first: T,
    pub(crate) second: T,
}

/// A field of the config that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Field {
    /// `config.Env`, `created`, …
    pub(crate) path: String,
    /// Null where it is not set.
    #[serde(flatten)]
    pub(crate) values: Sides<Value>,
}

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct File {
    /// With a slash before it. What is not UTF-8 is replaced.
    pub(crate) path: String,
    /// `added`, `removed` or `changed`.
    pub(crate) kind: &'static str,
    /// In what it has changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) changed: Vec<&'static str>,
    /// Bytes, where it is a regular file.
    pub(crate) size: Sides<Option<u64>>,
}

impl Differences {
    /// Compares what can be compared without any files.
    pub(crate) fn of(first: &StoredImage, second: &StoredImage) -> Self {
        let (a, b) = (&first.config.rootfs.diff_ids, &second.config.rootfs.diff_ids);
        let shared = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let config_of = |image: &StoredImage| {
            let mut config = serde_json::to_value(&image.config).unwrap_or_default();
            // These are the layers, which are told by themselves.
            if let Some(rootfs) = config.get_mut("rootfs").and_then(Value::as_object_mut) {
                rootfs.remove("diff_ids");
            }
            config
        };
        let into = |value: &Value, depth: usize| value.is_object() && depth < DEPTH_MAX;
        let mut config: Vec<Field> = json_differences(&config_of(first), &config_of(second), &into)
            .into_iter()
            .map(|(path, values)| Field { path: path.join("."), values })
            .collect();
        config.sort_by(|a, b| a.path.cmp(&b.path));
        let layers = Sides { first: a[shared..].to_vec(), second: b[shared..].to_vec() };
        Self { shared_layers: shared, layers, config, files: Vec::new() }
    }

    /// Whether the layers are the same, and so the files.
    pub(crate) fn has_same_layers(&self) -> bool {
        self.layers == Sides::default()
    }

    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.has_same_layers() && self.config.is_empty() && self.files.is_empty()
    }

    /// Adds a path.
    pub(crate) fn add(&mut self, difference: &Difference) {
        let (kind, changed) = match &difference.kind {
            DifferenceKind::Added => ("added", Vec::new()),
            DifferenceKind::Removed => ("removed", Vec::new()),
            DifferenceKind::Changed(what) => ("changed", what.clone()),
        };
        self.files.push(File {
            path: format!("/{}", difference.path.to_string_lossy()),
            kind,
            changed,
            size: Sides { first: difference.sizes.0, second: difference.sizes.1 },
        });
    }
}

/// Levels of a config that are looked into: what lies deeper is compared as a whole.
const DEPTH_MAX: usize = 3;

/// In what two JSON values differ: the way to each, and both values; null where there is none. What `into` says no to is
/// compared as a whole; its second argument is how deep the value lies.
pub(crate) fn json_differences(
    first: &Value,
    second: &Value,
    into: &dyn Fn(&Value, usize) -> bool,
) -> Vec<(Vec<String>, Sides<Value>)> {
    let mut found = Vec::new();
    collect(&mut Vec::new(), first, second, into, &mut found);
    found
}

fn collect(
    path: &mut Vec<String>,
    first: &Value,
    second: &Value,
    into: &dyn Fn(&Value, usize) -> bool,
    found: &mut Vec<(Vec<String>, Sides<Value>)>,
) {
    if first == second {
        return;
    }
    let is_entered = |value: &Value| value.is_null() || into(value, path.len());
    let keys = match (first, second) {
        _ if !is_entered(first) || !is_entered(second) => None,
        (Value::Object(_) | Value::Null, Value::Object(_) | Value::Null) => {
            let keys = [first, second].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys());
            Some(keys.cloned().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>())
        }
        (Value::Array(_) | Value::Null, Value::Array(_) | Value::Null) => {
            let length = [first, second].into_iter().filter_map(Value::as_array).map(Vec::len).max();
            Some((0..length.unwrap_or(0)).map(|number| number.to_string()).collect())
        }
        _ => None,
    };
    let Some(keys) = keys else {
        let values = Sides { first: first.clone(), second: second.clone() };
        found.push((path.clone(), values));
        return;
    };
    for key in keys {
        let of = |value: &Value| match value {
            Value::Array(values) => key.parse().ok().and_then(|number: usize| values.get(number)).cloned(),
            value => value.get(&key).cloned(),
        };
        let (first, second) = (of(first).unwrap_or(Value::Null), of(second).unwrap_or(Value::Null));
        path.push(key);
        collect(path, &first, &second, into, found);
        path.pop();
    }
}
