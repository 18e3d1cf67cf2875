//! One record of CSV (RFC 4180): how mounts, and flags of the command line, hold several `KEY=VALUE` fields.

use std::ops::Range;

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// A quoted field has no closing quote.
    Unclosed,
    /// A quote stands inside a field that does not begin with one.
    Bare,
    /// Something other than a comma follows a closing quote.
    Trailing,
}

/// What is wrong, and where.
pub type Misplaced = (Problem, Range<usize>);

/// The fields of a record and where each stands in it, quotes included; else what is wrong, and where. `"` quotes a whole
/// field; `""` in it is a quote.
pub fn split(record: &str) -> Result<Vec<(String, Range<usize>)>, Misplaced> {
    let mut fields = Vec::new();
    let mut start = 0;
    loop {
        let (field, end) = match record[start..].strip_prefix('"') {
            Some(_) => quoted(record, start)?,
            None => plain(record, start)?,
        };
        fields.push((field, start..end));
        match record[end..].chars().next() {
            None => return Ok(fields),
            Some(',') => start = end + 1,
            Some(other) => return Err((Problem::Trailing, end..end + other.len_utf8())),
        }
    }
}

/// The field whose opening quote is at `start`, and where it ends.
fn quoted(record: &str, start: usize) -> Result<(String, usize), Misplaced> {
    let mut field = String::new();
    let mut at = start + 1;
    loop {
        let Some(length) = record[at..].find('"') else {
            return Err((Problem::Unclosed, start..record.len()));
        };
        field.push_str(&record[at..at + length]);
        at += length + 1;
        if !record[at..].starts_with('"') {
            return Ok((field, at));
        }
        field.push('"');
        at += 1;
    }
}

/// The field without quotes that begins at `start`, and where it ends.
fn plain(record: &str, start: usize) -> Result<(String, usize), Misplaced> {
    let end = record[start..].find(',').map_or(record.len(), |comma| start + comma);
    match record[start..end].find('"') {
        Some(quote) => Err((Problem::Bare, start + quote..start + quote + 1)),
        None => Ok((record[start..end].to_owned(), end)),
    }
}
