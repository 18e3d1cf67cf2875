//! `.env` and `env_file`: `NAME=value` lines as Compose reads them.

use std::ops::Range;

use super::interpolate::{self, Environment};
use super::limits;
use super::template::{self, Unset};
use crate::diagnostic::{Diagnostic, excerpt};

/// How the file is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Quotes, escapes, comments, variables.
    Compose,
    /// What follows `=` is the value, to the end of the line (`format: raw`).
    Raw,
}

/// The variables of `text`, and what is not understood of it. `outer` are those that are set already: they are seen by
/// `${NAME}` before the file's own, and a line that is a name alone takes its value from there.
pub fn parse(text: &str, format: Format, outer: &Environment) -> (Environment, Vec<Diagnostic>) {
    let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut reader = Reader {
        text,
        at: start,
        format,
        outer,
        found: Environment::new(),
        problems: Vec::new(),
        budget: limits::INTERPOLATED_BYTES_MAX,
    };
    while reader.skip_to_statement() {
        if let Err(problem) = reader.statement() {
            reader.problems.push(problem);
            if reader.problems.len() >= PROBLEMS_MAX {
                break;
            }
            reader.at = reader.line_end();
        }
    }
    (reader.found, reader.problems)
}

/// A binary file taken for one of variables has a problem a line.
const PROBLEMS_MAX: usize = 20;

struct Reader<'a> {
    text: &'a str,
    at: usize,
    format: Format,
    outer: &'a Environment,
    found: Environment,
    problems: Vec<Diagnostic>,
    /// Bytes that values may still have.
    budget: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn line_end(&self) -> usize {
        self.rest().find('\n').map_or(self.text.len(), |at| self.at + at)
    }

    fn skip_to_statement(&mut self) -> bool {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start().len();
            if !self.rest().starts_with('#') {
                return self.at < self.text.len();
            }
            self.at = self.line_end();
        }
    }

    fn statement(&mut self) -> Result<(), Diagnostic> {
        let start = self.at;
        let end = self.line_end();
        let line = &self.text[start..end];
        let exported = line.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t']));
        let body = exported.unwrap_or(line).trim_start();
        let name_start = end - body.len();
        let raw = self.format == Format::Raw;
        let name_end = body.find(if raw { &['='][..] } else { &['=', ':'][..] });
        let name = body[..name_end.unwrap_or(body.len())].trim_end();
        let name_at = name_start..name_start + name.len();
        if name.is_empty() {
            let problem = Diagnostic::error(start..end, "a value without a name");
            return Err(problem.with_hint("write NAME=value"));
        }
        check_name(name, name_at)?;
        let Some(name_end) = name_end else {
            // A name alone: from outside, if it is there.
            if let Some(value) = self.outer.get(name) {
                self.found.insert(name.to_owned(), value.clone());
            }
            self.at = end;
            return Ok(());
        };
        let name = name.to_owned();
        self.at = name_start + name_end + 1;
        let value = match self.format {
            Format::Raw => {
                let value = self.text[self.at..end].trim_end_matches('\r').to_owned();
                self.at = end;
                value
            }
            Format::Compose => self.value(end)?,
        };
        let Some(left) = self.budget.checked_sub(value.len()) else {
            // Nothing after it is read.
            self.text = &self.text[..end];
            return Err(Diagnostic::error(start..end, interpolate::too_much()));
        };
        self.budget = left;
        self.found.insert(name, value);
        Ok(())
    }

    fn value(&mut self, line_end: usize) -> Result<String, Diagnostic> {
        let line = &self.text[self.at..line_end];
        let body = line.trim_start();
        self.at = line_end - body.len();
        match body.chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote),
            _ => {
                let from = self.at;
                // A `#` right behind the `=` is a value: a color.
                let bare = body.len() == line.len();
                let value = without_comment(body, bare).trim_end().to_owned();
                self.at = line_end;
                self.expand(&value, from..from + value.len())
            }
        }
    }

    /// What is between quotes, over several lines if need be.
    fn quoted(&mut self, quote: char) -> Result<String, Diagnostic> {
        let start = self.at;
        let inner = &self.text[start + 1..];
        let mut escaped = false;
        let end = inner.char_indices().find_map(|(at, char)| {
            let ends = char == quote && !escaped;
            escaped = char == '\\' && !escaped;
            ends.then_some(at)
        });
        let Some(end) = end else {
            let line_end = self.line_end();
            return Err(Diagnostic::error(start..line_end, "a quoted value without its closing quote"));
        };
        // Lines end alike, whoever wrote the file.
        let inner = inner[..end].replace("\r\n", "\n");
        self.at = start + 1 + end + 1;
        let line_end = self.line_end();
        let after = self.text[self.at..line_end].trim();
        if !after.is_empty() && !after.starts_with('#') {
            let message = format!("\"{}\" after the closing quote", excerpt(after));
            return Err(Diagnostic::error(self.at..line_end, message));
        }
        self.at = line_end;
        match quote {
            '"' => self.expand(&unescape(&inner), start..start + end + 2),
            _ => Ok(inner),
        }
    }

    fn expand(&mut self, value: &str, at: Range<usize>) -> Result<String, Diagnostic> {
        let lookup = |name: &str| self.outer.get(name).or_else(|| self.found.get(name)).cloned();
        match template::substitute(value, &lookup) {
            Ok(done) => {
                for Unset { name, .. } in done.unset {
                    let message = format!("the variable {name} is not set: an empty text takes its place");
                    self.problems.push(Diagnostic::warning(at.clone(), message));
                }
                Ok(done.text)
            }
            Err(error) => Err(Diagnostic { hint: error.hint, ..Diagnostic::error(at, error.message) }),
        }
    }
}

fn check_name(name: &str, at: Range<usize>) -> Result<(), Diagnostic> {
    let bad = name.chars().find(|char| !(char.is_alphanumeric() || "_.-[]".contains(*char)));
    match bad {
        None => Ok(()),
        Some(char) => {
            let message = format!("{char:?} cannot stand in the name of a variable: \"{}\"", excerpt(name));
            Err(Diagnostic::error(at, message).with_hint("write NAME=value"))
        }
    }
}

/// A value without quotes ends at ` #`. With `bare` it stands right behind the `=`.
fn without_comment(value: &str, bare: bool) -> &str {
    if value.starts_with('#') && !bare {
        return "";
    }
    let comment = value
        .match_indices('#')
        .find(|(at, _)| value[..*at].ends_with([' ', '\t']))
        .map_or(value.len(), |(at, _)| at);
    &value[..comment]
}

/// Escapes in double quotes; `\$` is a `$` that is no variable.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            out.push(char);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('a') => out.push('\u{7}'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('v') => out.push('\u{b}'),
            Some('$') => out.push_str("$$"),
            Some(quoted @ ('"' | '\\' | '\'')) => out.push(quoted),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}
