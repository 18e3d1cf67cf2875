//! The JSON form of arguments.

use std::ops::Range;

use super::{Mapped, Token};

/// What a text is, tried as a JSON array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JsonForm {
    /// No array, or a malformed one: the instruction's other form.
    No,
    /// An array of strings; each span holds its quotes.
    Strings(Vec<Token>),
    /// An array with something else in it, the first of which stands there.
    NotStrings(Range<usize>),
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
    let mut at = 1;
    for value in values {
        let place = element(text.text, at);
        at = place.end;
        let span = text.slice(place).span();
        match value {
            serde_json::Value::String(string) => strings.push(Token { text: string, span }),
            _ => return JsonForm::NotStrings(span),
        }
    }
    JsonForm::Strings(strings)
}

/// The next element of a well-formed array at or after `from`, without the comma and the blanks before it.
fn element(json: &str, from: usize) -> Range<usize> {
    let bytes = json.as_bytes();
    let separates = |byte: &u8| byte.is_ascii_whitespace() || *byte == b',';
    let start = from + bytes[from..].iter().take_while(|byte| separates(byte)).count();
    let mut at = start;
    let mut depth = 0_usize;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = string_end(bytes, at),
            b'[' | b'{' => depth += 1,
            b',' | b']' if depth == 0 => break,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    start..start + json[start..at.min(json.len())].trim_end().len()
}

/// The closing quote of the string that opens at `open`.
fn string_end(bytes: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at
}
