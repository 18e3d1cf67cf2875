//! What containers print, each line behind its container's name.

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::containers::config::ContainerId;
use crate::containers::engine::Engine;
use crate::containers::log::{Entry, LogQuery};
use crate::error::{Failure, Kind};
use crate::progress::results;

/// A line that never ends is shown in pieces of this size.
const LINE_BYTES_MAX: usize = 1 << 20;

/// How lines are shown.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Whether they stand behind a name.
    pub prefix: bool,
    /// Whether the name is coloured.
    pub color: bool,
    /// Whether the time comes first.
    pub timestamps: bool,
}

/// Shows lines of several containers.
#[derive(Debug)]
pub struct Printer {
    look: Look,
    /// Of the longest name so far.
    width: AtomicUsize,
    out: Mutex<std::fs::File>,
}

/// Who prints.
#[derive(Debug, Clone)]
pub struct Speaker {
    /// `web-1`.
    pub label: String,
    /// Which of the colours.
    pub color: usize,
    /// The container.
    pub id: ContainerId,
}

/// Of the terminal: cyan, yellow, green, magenta, blue, and the bright ones.
const COLORS: [u8; 10] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];

impl Printer {
    /// For these.
    pub fn new<'a>(look: Look, labels: impl Iterator<Item = &'a str>) -> Result<Self, Failure> {
        let out = results().map_err(|error| cannot_write(&error))?;
        let width = AtomicUsize::new(labels.map(str::len).max().unwrap_or(0));
        Ok(Self { look, width, out: Mutex::new(out) })
    }

    /// Makes room for another name.
    pub fn widen(&self, label: &str) {
        self.width.fetch_max(label.len(), Ordering::Relaxed);
    }

    /// Hands on what one has printed, and with `query.follow` what it prints, until it has ended. Gives the time of the last
    /// line.
    pub fn follow(
        &self,
        engine: &Engine,
        speaker: &Speaker,
        query: &LogQuery,
    ) -> Result<Option<i64>, Failure> {
        let mut line = String::new();
        let mut last = None;
        let done = engine.logs(&speaker.id, query, &mut |entry: Entry| {
            last = Some(entry.time);
            if line.is_empty() && self.look.timestamps {
                line.push_str(&entry.time_text());
                line.push(' ');
            }
            line.push_str(&entry.text);
            if line.ends_with('\n') || line.len() > LINE_BYTES_MAX {
                self.line(speaker, &line)?;
                line.clear();
            }
            Ok(true)
        });
        if !line.is_empty() {
            self.line(speaker, &line)?;
        }
        done.map(|()| last)
    }

    /// One line of a container, or something about it.
    pub fn line(&self, speaker: &Speaker, text: &str) -> Result<(), Failure> {
        let text = self.shown(speaker, text);
        let mut out = self.out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        out.write_all(text.as_bytes()).map_err(|error| cannot_write(&error))
    }

    fn shown(&self, speaker: &Speaker, text: &str) -> String {
        let text = text.strip_suffix('\n').unwrap_or(text);
        if !self.look.prefix {
            return format!("{text}\n");
        }
        let (label, width) = (&speaker.label, self.width.load(Ordering::Relaxed));
        if self.look.color {
            let color = COLORS[speaker.color % COLORS.len()];
            return format!("\x1b[{color}m{label:width$}  |\x1b[0m {text}\n");
        }
        format!("{label:width$}  | {text}\n")
    }
}

fn cannot_write(error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Failure::reader_gone(),
        _ => Failure::new(Kind::Environment, format!("cannot write to standard output: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_a_column() {
        let speaker =
            |label: &str| Speaker { label: label.to_owned(), color: 11, id: ContainerId(String::new()) };
        let look = Look { prefix: true, color: false, timestamps: false };
        let printer = Printer::new(look, ["web-1", "database-1"].into_iter()).unwrap();
        assert_eq!(printer.shown(&speaker("web-1"), "hello\n"), "web-1       | hello\n");
        assert_eq!(printer.shown(&speaker("database-1"), ""), "database-1  | \n");
        let colored = Printer { look: Look { color: true, ..look }, ..printer };
        assert_eq!(colored.shown(&speaker("web-1"), "x"), "\x1b[33mweb-1       |\x1b[0m x\n");
        let bare = Printer { look: Look { prefix: false, ..look }, ..colored };
        assert_eq!(bare.shown(&speaker("web-1"), "x"), "x\n");
    }
}
