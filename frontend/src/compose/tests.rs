//! The table of keys, the types and the specification's schema have the same keys.

use std::collections::BTreeSet;

use serde_json::Value;

use super::load::{Invocation, Outside, ReadError, open};
use super::schema::{PROJECT, Shape, Struct};
use super::yaml;

/// A project that uses every key of the table.
const FULL: &str = include_str!("../../../testdata/compose/full.yaml");

struct Full;

impl Outside for Full {
    fn read(&self, path: &str) -> Result<Vec<u8>, ReadError> {
        if self.exists(path) { Ok(FULL.into()) } else { Err(ReadError::NotFound) }
    }

    fn exists(&self, path: &str) -> bool {
        path == "/full/compose.yaml"
    }
}

/// Every key that the file has comes out again: no type has forgotten one.
#[test]
fn no_key_is_lost() {
    let loaded = open(&Invocation { directory: "/full".to_owned(), ..Invocation::default() }, &Full);
    let project = loaded.project.unwrap_or_else(|| panic!("{:#?}", loaded.problems));
    let mut problems = super::source::Problems::default();
    let mut sources = super::source::Sources::default();
    let source = sources.add("full.yaml", FULL.to_owned());
    let written = yaml::read(FULL, source, &mut problems).remove(0).to_json();
    let printed = serde_json::to_value(&project).unwrap();
    let (mut before, mut after) = (BTreeSet::new(), BTreeSet::new());
    keys(&written, String::new(), &mut before);
    keys(&printed, String::new(), &mut after);
    let lost: Vec<_> = before.difference(&after).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let added: Vec<_> = after.difference(&before).filter(|path| path.starts_with(".services.a.")).collect();
    assert!(added.is_empty(), "{added:?}");
}

fn keys(value: &Value, path: String, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| keys(value, format!("{path}.{key}"), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| keys(item, format!("{path}.{index}"), found));
        }
        _ => {}
    }
    found.insert(path);
}

/// The file really has every key of the table.
#[test]
fn every_key_is_tried() {
    let mut checked = 0;
    check_fields(&PROJECT, &mut checked);
    assert!(checked > 200, "{checked}");
}

fn check_fields(keys: &Struct, checked: &mut usize) {
    // What is read away before there is a project, and what excludes another key of the same mapping.
    const ELSEWHERE: [&str; 10] = [
        "version",
        "include",
        "extends",
        "env_file",
        "label_file",
        "network_mode",
        "dockerfile_inline",
        "disable",
        "format",
        "project_directory",
    ];
    for (name, shape) in keys.fields {
        *checked += 1;
        let there = FULL.contains(&format!("{name}:"));
        assert!(there || ELSEWHERE.contains(name), "testdata/compose/full.yaml has no {name}");
        check_shape(shape, checked);
    }
}

fn check_shape(shape: &Shape, checked: &mut usize) {
    match shape {
        Shape::Struct(keys) => check_fields(keys, checked),
        Shape::Names(shape) | Shape::NullOr(shape) | Shape::Short(_, shape) => check_shape(shape, checked),
        Shape::List(list) => check_shape(&list.item, checked),
        _ => {}
    }
}

/// The schema's keys, where it is present, are those of the table.
#[test]
fn the_table_has_the_keys_of_the_schema() {
    let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("WHARF_SHARED").map(std::path::PathBuf::from);
    let beside = ["../../shared", "../../../shared"].map(|path| manifest.join(path));
    let mut paths = named.into_iter().chain(beside).map(|it| it.join("schemas/compose/compose-spec.json"));
    let Some(text) = paths.find_map(|path| std::fs::read_to_string(path).ok()) else { return };
    let schema: Value = serde_json::from_str(&text).unwrap();
    let mut checked = 0;
    compare(&Shape::Struct(&PROJECT), &schema, &schema, "", &mut checked);
    assert!(checked > 30, "{checked}");
}

/// What the table has before the schema does.
const YOUNGER: [&str; 1] = [".services.*.pre_start"];

fn compare(shape: &Shape, schema: &Value, root: &Value, path: &str, checked: &mut usize) {
    let schema = match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => &root["definitions"][reference.rsplit('/').next().unwrap()],
        None => schema,
    };
    if let Some(forms) = schema.get("oneOf").and_then(Value::as_array) {
        let wanted = |form: &&Value| match shape {
            Shape::Short(_, Shape::List(_)) | Shape::List(_) => {
                form.get("items").is_some() || form.get("$ref").is_some()
            }
            _ => {
                form.get("properties").is_some()
                    || form.get("patternProperties").is_some()
                    || form.get("$ref").is_some()
            }
        };
        if let Some(form) = forms.iter().find(wanted) {
            compare(shape, form, root, path, checked);
        }
        return;
    }
    match shape {
        Shape::Struct(keys) => {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
            let theirs: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
            let ours: BTreeSet<&str> = keys
                .fields
                .iter()
                .map(|(name, _)| *name)
                .filter(|name| !YOUNGER.contains(&format!("{path}.{name}").as_str()))
                .collect();
            assert_eq!(ours, theirs, "{path}");
            *checked += 1;
            for (name, shape) in keys.fields {
                if let Some(schema) = properties.get(*name) {
                    compare(shape, schema, root, &format!("{path}.{name}"), checked);
                }
            }
        }
        Shape::Names(inner) => {
            let patterns = schema.get("patternProperties").and_then(Value::as_object);
            if let Some(schema) = patterns.and_then(|patterns| patterns.values().next()) {
                compare(inner, schema, root, &format!("{path}.*"), checked);
            }
        }
        Shape::Short(_, inner) | Shape::NullOr(inner) => compare(inner, schema, root, path, checked),
        Shape::List(list) => {
            if let Some(schema) = schema.get("items") {
                compare(&list.item, schema, root, &format!("{path}[]"), checked);
            }
        }
        _ => {}
    }
}
