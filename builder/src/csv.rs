//! How flags with several `KEY=VALUE` fields are written.

use wharf_frontend::csv::{self, Problem};

/// The fields of `line`. A field with commas or quotes is quoted; `""` in it is a quote.
pub fn split(line: &str) -> Result<Vec<String>, &'static str> {
    match csv::split(line) {
        Ok(fields) => Ok(fields.into_iter().map(|(field, _)| field).collect()),
        Err((Problem::Unclosed, _)) => Err("a quote is not closed"),
        Err((Problem::Bare, _)) => Err("a quote stands inside a field that does not begin with one"),
        Err((Problem::Trailing, _)) => Err("something other than a comma follows a closing quote"),
    }
}

/// A Boolean as Go reads it; an empty value is true. `None` is neither.
pub fn boolean(value: &str) -> Option<bool> {
    match value {
        "" | "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}
