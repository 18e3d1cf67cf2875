//! The JSON form of arguments.

use super::{Mapped, Token};

/// What a text is, tried as a JSON array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JsonForm {
    /// No array, or a malformed one: the instruction's other form.
    No,
    /// An array of strings; each span holds its quotes.
    Strings(Vec<Token>),
    /// An array with something else in it.
    NotStrings,
}

/// Tries the JSON form.
pub(crate) fn parse(text: Mapped<'_>) -> JsonForm {
    let text = text.trim();
    if !text.text.starts_with('[') {
        return JsonForm::No;
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text.text) else {
        return JsonForm::No;
    };
    let mut strings = Vec::with_capacity(values.len());
    let mut at = 0;
    for value in values {
        let serde_json::Value::String(string) = value else { return JsonForm::NotStrings };
        let literal = literal(text.text, at);
        at = literal.end;
        strings.push(Token { text: string, span: text.slice(literal).span() });
    }
    JsonForm::Strings(strings)
}

/// The first string literal at or after `from` in an array of nothing but strings.
fn literal(json: &str, from: usize) -> std::ops::Range<usize> {
    let bytes = json.as_bytes();
    let start = bytes[from..].iter().position(|byte| *byte == b'"').map_or(bytes.len(), |at| from + at);
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    start..(at + 1).min(bytes.len())
}
