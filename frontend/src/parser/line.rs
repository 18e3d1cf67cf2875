//! Physical lines, and the logical lines that continuations make of them.

use super::Mapped;
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
pub(super) struct LogicalLine {
    text: String,
    map: Vec<usize>,
    pub(super) display: String,
    /// Where its last line ends.
    pub(super) end: usize,
}

impl LogicalLine {
    /// Joins `first` with the lines that continue it. Comment lines and empty lines between them are dropped; a
    /// continuation line keeps its white space in front.
    pub(super) fn read(
        first: Physical<'_>,
        lines: &mut Lines<'_>,
        escape: char,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut this =
            Self { text: String::new(), map: Vec::new(), display: String::new(), end: first.end() };
        let mut line = first;
        'joining: loop {
            this.end = line.end();
            let Some(continued) = without_continuation(line.text, escape) else {
                this.push(Physical { text: line.text, start: line.start });
                break;
            };
            this.push(Physical { text: continued, start: line.start });
            loop {
                let Some(next) = lines.next() else { break 'joining };
                let content = next.text.trim_start();
                if content.is_empty() {
                    diagnostics.push(Diagnostic::empty_continuation(next.start..next.end()));
                } else if !content.starts_with('#') {
                    line = next;
                    break;
                }
            }
        }
        this
    }

    pub(super) fn mapped(&self) -> Mapped<'_> {
        Mapped::new(&self.text, &self.map, self.end)
    }

    fn push(&mut self, line: Physical<'_>) {
        let blank_between =
            self.display.ends_with(char::is_whitespace) || line.text.starts_with(char::is_whitespace);
        if blank_between {
            self.display.truncate(self.display.trim_end().len());
            self.display.push(' ');
            self.display.push_str(line.text.trim_start());
        } else {
            self.display.push_str(line.text);
        }
        self.text.push_str(line.text);
        self.map.extend(line.start..line.end());
    }
}

/// The line without the escape character that makes the next one continue it: the last of the line but for blanks, and
/// not itself after an escape character.
fn without_continuation(line: &str, escape: char) -> Option<&str> {
    let rest = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!rest.ends_with(escape)).then_some(rest)
}
