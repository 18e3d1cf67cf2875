//! The files a project is made of, places in them, and what is wrong there.

use std::ops::Range;

use crate::diagnostic::{Diagnostic, Severity};

/// Which of the [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub(super) u32);

impl SourceId {
    /// Its place in [`Sources::all`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A range of bytes in one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which file.
    pub source: SourceId,
    /// Its first byte.
    pub start: u32,
    /// The byte after its last.
    pub end: u32,
}

impl Place {
    /// Its bytes.
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path, as it was asked for.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Every file that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(Vec<Source>);

impl Sources {
    pub(super) fn add(&mut self, name: &str, text: String) -> SourceId {
        // The number of files has a limit far below.
        let id = SourceId(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        self.0.push(Source { name: name.to_owned(), text });
        id
    }

    /// One of them.
    pub fn get(&self, id: SourceId) -> Option<&Source> {
        self.0.get(id.index())
    }

    /// All, in the order in which they were read.
    pub fn all(&self) -> &[Source] {
        &self.0
    }

    /// `file:line:column` of a place, counted from one.
    pub fn locate(&self, place: Place) -> String {
        let Some(source) = self.get(place.source) else { return String::new() };
        let before = source.text.get(..place.start as usize).unwrap_or(&source.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        format!("{}:{line}:{}", source.name, before[line_start..].chars().count() + 1)
    }
}

/// Something wrong with a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// In which file; none for what is about the command line, the environment or the project as a whole.
    pub source: Option<SourceId>,
    /// What, and where in the file.
    pub diagnostic: Diagnostic,
}

/// More of one kind help nobody.
const PROBLEMS_MAX: usize = 100;

/// Problems as they are found.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    /// Adds an error; what it returns can be given a hint.
    pub(super) fn error(&mut self, place: Place, message: impl Into<String>) -> &mut Diagnostic {
        self.add(Some(place), Diagnostic::error(place.range(), message))
    }

    pub(super) fn warning(&mut self, place: Place, message: impl Into<String>) -> &mut Diagnostic {
        self.add(Some(place), Diagnostic::warning(place.range(), message))
    }

    /// An error without a place in a file.
    pub(super) fn general(&mut self, message: impl Into<String>) -> &mut Diagnostic {
        self.add(None, Diagnostic::error(0..0, message))
    }

    fn add(&mut self, place: Option<Place>, diagnostic: Diagnostic) -> &mut Diagnostic {
        let problem = Problem { source: place.map(|place| place.source), diagnostic };
        let errors = self.0.iter().filter(|it| it.diagnostic.severity == problem.diagnostic.severity).count();
        // The same place is seen again when a service is extended by several others.
        let known = self.0.iter().position(|it| *it == problem);
        let at = match known {
            Some(at) => at,
            None if errors >= PROBLEMS_MAX => self.0.len() - 1,
            None => {
                self.0.push(problem);
                self.0.len() - 1
            }
        };
        &mut self.0[at].diagnostic
    }

    /// Errors and warnings.
    pub(super) fn into_parts(self) -> (Vec<Problem>, Vec<Problem>) {
        self.0.into_iter().partition(|problem| problem.diagnostic.is_error())
    }

    /// Adds what was found elsewhere.
    pub(super) fn extend(&mut self, found: Vec<Problem>) {
        for Problem { source, diagnostic } in found {
            let span = diagnostic.span.clone();
            let place = source.map(|source| Place { source, start: span.start as u32, end: span.end as u32 });
            self.add(place, diagnostic);
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        self.0.iter().any(|problem| problem.diagnostic.severity == Severity::Error)
    }

    /// All of them: errors first, each by file and place.
    pub(super) fn into_sorted(mut self) -> Vec<Problem> {
        self.0.sort_by_key(|problem| {
            let diagnostic = &problem.diagnostic;
            (std::cmp::Reverse(diagnostic.severity), problem.source, diagnostic.span.start)
        });
        self.0
    }
}
