//! Answers for programs, in the form of BuildKit's sub-requests. Lines count from 1, characters from 0.

use std::cell::Cell;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use wharf_frontend::Diagnostic;
use wharf_frontend::dockerfile2llb::{Outline, Resource, Target};

use super::{REQUESTS, VERSION};
use crate::error::{Failure, SourceText};

pub(super) fn check(source: &SourceText, warnings: &[Diagnostic], failure: Option<&Failure>) -> String {
    let positions = Positions::new(&source.text);
    let warnings: Vec<Value> = warnings.iter().map(|it| warning(it, &positions)).collect();
    let file =
        json!({ "filename": source.name, "language": "Dockerfile", "data": STANDARD.encode(&source.text) });
    let mut result = json!({ "warnings": warnings, "sources": [file] });
    if let Some(failure) = failure {
        let places = failure.evidence.as_ref().map_or(&[][..], |evidence| &evidence.places);
        let messages: Vec<String> = places.iter().map(detail).collect();
        let message = if messages.is_empty() { failure.message.clone() } else { messages.join("\n") };
        let spans: Vec<&Range<usize>> = places.iter().filter_map(Diagnostic::place).collect();
        result["buildError"] = json!({ "message": message, "location": positions.location(&spans) });
    }
    pretty(&result)
}

fn warning(warning: &Diagnostic, positions: &Positions<'_>) -> Value {
    let mut value = Map::new();
    value.insert("ruleName".to_owned(), json!(warning.rule.map_or("", |rule| rule.name())));
    if let Some(rule) = warning.rule {
        value.insert("description".to_owned(), json!(rule.description()));
        if let Some(url) = rule.url() {
            value.insert("url".to_owned(), json!(url));
        }
    }
    value.insert("detail".to_owned(), json!(detail(warning)));
    value.insert("level".to_owned(), json!(1));
    value.insert("location".to_owned(), positions.location(&[&warning.span]));
    Value::Object(value)
}

/// BuildKit puts what may have been meant into the message.
fn detail(diagnostic: &Diagnostic) -> String {
    match &diagnostic.hint {
        Some(hint) if hint.starts_with("did you mean") => format!("{} ({hint})", diagnostic.message),
        _ => diagnostic.message.clone(),
    }
}

pub(super) fn outline(outline: &Outline, source: &SourceText) -> String {
    let positions = Positions::new(&source.text);
    let resource = |it: &Resource| {
        let mut value = object(&[("name", &it.id)]);
        if it.required {
            value.insert("required".to_owned(), json!(true));
        }
        value.insert("location".to_owned(), positions.location(&[&it.span]));
        Value::Object(value)
    };
    let args = outline.args.iter().map(|arg| {
        let mut value =
            object(&[("name", &arg.name), ("description", &arg.description), ("value", &arg.value)]);
        value.insert("location".to_owned(), positions.location(&[&arg.span]));
        Value::Object(value)
    });
    let caches = outline
        .caches
        .iter()
        .map(|cache| json!({ "ID": cache.id, "location": positions.location(&[&cache.span]) }));
    let mut result = object(&[("name", &outline.name), ("description", &outline.description)]);
    for (name, list) in [
        ("args", args.collect::<Vec<_>>()),
        ("secrets", outline.secrets.iter().map(resource).collect()),
        ("ssh", outline.ssh.iter().map(resource).collect()),
        ("cache", caches.collect()),
        ("sources", vec![json!(STANDARD.encode(&source.text))]),
    ] {
        if !list.is_empty() {
            result.insert(name.to_owned(), Value::Array(list));
        }
    }
    pretty(&Value::Object(result))
}

pub(super) fn targets(targets: &[Target], source: &SourceText) -> String {
    let positions = Positions::new(&source.text);
    let target = |target: &Target| {
        let mut value = object(&[("name", &target.name)]);
        if target.is_default {
            value.insert("default".to_owned(), json!(true));
        }
        value.extend(object(&[
            ("description", &target.description),
            ("base", &target.base),
            ("platform", &target.platform),
        ]));
        value.insert("location".to_owned(), positions.location(&[&target.span]));
        Value::Object(value)
    };
    let targets: Vec<Value> = targets.iter().map(target).collect();
    pretty(&json!({ "targets": targets, "sources": [STANDARD.encode(&source.text)] }))
}

pub(super) fn describe() -> String {
    let named = |name: &str| json!({ "name": name });
    let requests: Vec<Value> = REQUESTS
        .iter()
        .map(|(name, description, option, metadata)| {
            let mut value = object(&[
                ("name", name),
                ("version", VERSION),
                ("type", "rpc"),
                ("description", description),
            ]);
            if let Some((name, description)) = option {
                value.insert("opts".to_owned(), json!([{ "name": name, "description": description }]));
            }
            value.insert("metadata".to_owned(), metadata.iter().map(|name| named(name)).collect());
            Value::Object(value)
        })
        .collect();
    pretty(&Value::Array(requests))
}

/// The fields that have a value.
fn object(fields: &[(&str, &str)]) -> Map<String, Value> {
    let fields = fields.iter().filter(|(_, value)| !value.is_empty());
    fields.map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
}

/// A text that finds the line of an offset without reading it all again.
struct Positions<'t> {
    text: &'t str,
    line_starts: Vec<usize>,
    /// The last offset asked for and its column: most come in order, and a line may be long.
    last: Cell<(usize, usize)>,
}

impl<'t> Positions<'t> {
    fn new(text: &'t str) -> Self {
        let newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(newlines).collect();
        Self { text, line_starts, last: Cell::default() }
    }

    fn location(&self, spans: &[&Range<usize>]) -> Value {
        let range = |span: &&Range<usize>| json!({ "start": self.position(span.start), "end": self.position(span.end) });
        let ranges: Vec<Value> = spans.iter().map(range).collect();
        json!({ "ranges": ranges })
    }

    fn position(&self, at: usize) -> Value {
        let at = at.min(self.text.len());
        let line = self.line_starts.partition_point(|start| *start <= at);
        let line_start = self.line_starts[line - 1];
        let (start, column) = Some(self.last.get())
            .filter(|(last, _)| (line_start..=at).contains(last))
            .unwrap_or((line_start, 0));
        // A character begins at each byte that continues none.
        let begins = |byte: &&u8| !matches!(byte, 0x80..0xc0);
        let character = column + self.text.as_bytes()[start..at].iter().filter(begins).count();
        self.last.set((at, character));
        json!({ "line": line, "character": character })
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}
