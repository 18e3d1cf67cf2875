//! JSON's values as YAML, keys in order, readable by every YAML reader.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::node::Value as Plain;
use super::scalar;

/// The keys that come first at the top, in this order; the others follow by name.
const FIRST: [&str; 6] = ["name", "services", "networks", "volumes", "secrets", "configs"];

pub(in super::super) fn write(value: &Value) -> String {
    let mut out = String::new();
    let Value::Object(map) = value else {
        inline(&mut out, value);
        out.push('\n');
        return out;
    };
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort_by_key(|key| (FIRST.iter().position(|it| it == key).unwrap_or(FIRST.len()), *key));
    for key in keys {
        entry(&mut out, 0, key, &map[key]);
    }
    out
}

fn entry(out: &mut String, depth: usize, key: &str, value: &Value) {
    let _ = write!(out, "{:width$}{}:", "", text(key), width = depth * 2);
    below(out, depth, value);
}

/// What follows `key:` or `-`.
fn below(out: &mut String, depth: usize, value: &Value) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            keys.into_iter().for_each(|key| entry(out, depth + 1, key, &map[key]));
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            items.iter().for_each(|it| item(out, depth + 1, it));
        }
        _ => {
            out.push(' ');
            inline(out, value);
            out.push('\n');
        }
    }
}

fn item(out: &mut String, depth: usize, value: &Value) {
    let start = out.len();
    match value {
        // The first key stands on the line of the dash.
        Value::Object(map) if !map.is_empty() => {
            below(out, depth, value);
            let dash = format!("{:width$}-", "", width = depth * 2);
            let first_key = start + 1;
            out.replace_range(start..first_key + dash.len(), &dash);
        }
        _ => {
            let _ = write!(out, "{:width$}-", "", width = depth * 2);
            below(out, depth, value);
        }
    }
}

fn inline(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(value) => out.push_str(&text(value)),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

/// A text as it is where no reader takes it for something else, and in quotes elsewhere.
fn text(value: &str) -> String {
    if is_plain(value) {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for char in value.chars() {
        match char {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            char if char.is_control() || matches!(char, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(char));
            }
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

fn is_plain(value: &str) -> bool {
    /// What readers of YAML 1.1 take for booleans.
    const OLD_BOOLEANS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];
    let safe = |char: char| char.is_ascii_alphanumeric() || "_./-+=@,:~ ()$%*&!?<>^;'|{}[]".contains(char);
    let first = value.chars().next().unwrap_or(' ');
    // `1m30s` is no number; dates and what YAML 1.1 counts by sixties have no letters, or signs between.
    let starts = match first.is_ascii_digit() {
        true => value.chars().any(|char| char.is_ascii_alphabetic()) && !value.contains([':', '-']),
        false => first.is_ascii_alphabetic() || "/._$".contains(first),
    };
    starts
        && value.chars().all(safe)
        && !value.ends_with([' ', ':'])
        && !value.contains(": ")
        && !value.contains(" #")
        && !OLD_BOOLEANS.iter().any(|word| value.eq_ignore_ascii_case(word))
        && matches!(scalar::plain(value), Plain::String(_))
}
