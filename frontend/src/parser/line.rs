//! Physical lines, and the logical lines that continuations make of them.

use std::borrow::Cow;

use super::{Mapped, SourceMap};
use crate::Diagnostic;

/// A part of one physical line, its end of line not included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Physical<'a> {
    pub(super) text: &'a str,
    /// Offset of the text.
    pub(super) start: usize,
}

impl<'a> Physical<'a> {
    pub(super) fn trim_start(&self) -> Physical<'a> {
        let text = self.text.trim_start();
        Physical { text, start: self.start + (self.text.len() - text.len()) }
    }

    fn end(&self) -> usize {
        self.start + self.text.len()
    }
}

/// Gives out the lines of a file.
pub(super) struct Lines<'a> {
    source: &'a str,
    at: usize,
    end_of_last: usize,
}

impl<'a> Lines<'a> {
    /// A byte order mark in front is not part of the first line.
    pub(super) fn new(source: &'a str) -> Self {
        let at = if source.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { source, at, end_of_last: at }
    }

    pub(super) fn next(&mut self) -> Option<Physical<'a>> {
        let start = self.at;
        let text = self.next_raw()?.trim_end_matches(['\r', '\n']);
        Some(Physical { text, start })
    }

    /// The next line with its end of line.
    pub(super) fn next_raw(&mut self) -> Option<&'a str> {
        let rest = &self.source[self.at..];
        if rest.is_empty() {
            return None;
        }
        let line = match rest.find('\n') {
            Some(end) => &rest[..=end],
            None => rest,
        };
        self.at += line.len();
        self.end_of_last = self.at - (line.len() - line.trim_end_matches(['\r', '\n']).len());
        Some(line)
    }

    /// Offset of the next line.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// Where the last line given out ends, its end of line not included.
    pub(super) fn end_of_last(&self) -> usize {
        self.end_of_last
    }
}

/// An instruction's lines joined.
pub(super) struct LogicalLine<'a> {
    text: Cow<'a, str>,
    map: SourceMap,
    display: Cow<'a, str>,
    /// Where its last line ends.
    pub(super) end: usize,
}

impl<'a> LogicalLine<'a> {
    /// Joins `first` with the lines that continue it. Comment lines and empty lines between them are dropped; a
    /// continuation line keeps its white space in front.
    pub(super) fn read(
        first: Physical<'a>,
        lines: &mut Lines<'a>,
        escape: char,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Self {
        let continued = without_continuation(first.text, escape);
        let text = Cow::Borrowed(continued.unwrap_or(first.text));
        let map = SourceMap::at(first.start);
        let mut this = Self { display: text.clone(), text, map, end: first.end() };
        if continued.is_some() {
            this.read_others(lines, escape, diagnostics);
        }
        this
    }

    fn read_others(&mut self, lines: &mut Lines<'a>, escape: char, diagnostics: &mut Vec<Diagnostic>) {
        while let Some(line) = lines.next() {
            let content = line.text.trim_start();
            if content.is_empty() {
                diagnostics.push(Diagnostic::empty_continuation(line.start..line.end()));
                continue;
            }
            if content.starts_with('#') {
                continue;
            }
            self.end = line.end();
            match without_continuation(line.text, escape) {
                Some(continued) => self.push(continued, line.start),
                None => return self.push(line.text, line.start),
            }
        }
    }

    pub(super) fn mapped(&self) -> Mapped<'_> {
        Mapped::new(&self.text, &self.map, self.end)
    }

    /// The instruction on one line, its name (of so many bytes) in capitals.
    pub(super) fn display(&self, name_bytes: usize) -> String {
        display_with_capitals(self.display.trim(), name_bytes)
    }

    fn push(&mut self, line: &str, place: usize) {
        let display = self.display.to_mut();
        if display.ends_with(char::is_whitespace) || line.starts_with(char::is_whitespace) {
            display.truncate(display.trim_end().len());
            display.push(' ');
            display.push_str(line.trim_start());
        } else {
            display.push_str(line);
        }
        if !line.is_empty() {
            self.map.push(self.text.len(), place);
            self.text.to_mut().push_str(line);
        }
    }
}

/// A line whose first word is an instruction's name.
pub(super) fn display_with_capitals(line: &str, name_bytes: usize) -> String {
    let Some((name, rest)) = line.split_at_checked(name_bytes) else { return line.to_owned() };
    let mut display = String::with_capacity(line.len());
    if name.is_ascii() {
        display.push_str(name);
        display.make_ascii_uppercase();
    } else {
        display.extend(name.chars().flat_map(char::to_uppercase));
    }
    display.push_str(rest);
    display
}

/// The line without the escape character that makes the next one continue it: the last of the line but for blanks, and
/// not itself after an escape character.
fn without_continuation(line: &str, escape: char) -> Option<&str> {
    let rest = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!rest.ends_with(escape)).then_some(rest)
}
