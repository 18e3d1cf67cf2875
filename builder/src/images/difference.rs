//! In what two images differ: layers, config, files.

use std::collections::BTreeMap;

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
        let mut config = Vec::new();
        let fields = |image: &StoredImage| {
            let mut fields = BTreeMap::new();
            flatten("", &serde_json::to_value(&image.config).unwrap_or_default(), 0, &mut fields);
            // These are the layers, which are told by themselves.
            fields.remove("rootfs.diff_ids");
            fields
        };
        let (mut old, new) = (fields(first), fields(second));
        for (path, value) in new {
            let before = old.remove(&path).unwrap_or(Value::Null);
            if before != value {
                config.push(Field { path, values: Sides { first: before, second: value } });
            }
        }
        let gone = old.into_iter();
        config.extend(gone.map(|(path, first)| Field { path, values: Sides { first, second: Value::Null } }));
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

fn flatten(path: &str, value: &Value, depth: usize, fields: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if depth < DEPTH_MAX => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, depth + 1, fields);
            }
        }
        value => {
            fields.insert(path.to_owned(), value.clone());
        }
    }
}
