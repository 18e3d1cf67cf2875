//! Errors in words: what was being done, to what, why it failed, what to do; the source line where there is source.

use std::error::Error;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use wharf_cache::StoreError;
use wharf_cache::content::ContentError;
use wharf_frontend::{Diagnostic, Rule, Severity};
use wharf_runtime::RuntimeError;

use crate::exporter::ExportError;
use crate::registry::push::PushError;

/// What went wrong, as the exit status says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A step of the build failed.
    Step,
    /// The command line makes no sense.
    Usage,
    /// The Dockerfile makes no sense.
    Dockerfile,
    /// A registry, an image, a layout, a URL or an archive did not give what was asked.
    Source,
    /// The machine or the store: permissions, disk, kernel.
    Environment,
    /// A step of a rebuild failed, of a command whose status 1 says something else.
    Rebuild,
    /// The command of a container is not there.
    CommandNotFound,
    /// The command of a container cannot be executed.
    CommandNotExecutable,
    /// Interrupted.
    Cancelled,
    /// Nobody reads standard output any more: nothing is said.
    ReaderGone,
}

impl Kind {
    /// The exit status of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Step => 1,
            Self::Usage => 2,
            Self::Dockerfile => 3,
            Self::Source => 4,
            Self::Environment => 5,
            Self::Rebuild => 6,
            Self::CommandNotExecutable => 126,
            Self::CommandNotFound => 127,
            Self::Cancelled => 130,
            // What a shell says of a program that SIGPIPE ended.
            Self::ReaderGone => 141,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// A text that errors point into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceText {
    /// Its name as the user knows it.
    pub name: String,
    /// Its text; U+FFFD stands for what is not UTF-8.
    pub text: String,
    /// Where it does.
    pub undecoded: Vec<Range<usize>>,
}

impl SourceText {
    /// A text that was text from the start.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), undecoded: Vec::new() }
    }

    /// Reads bytes as UTF-8, as far as they are. `None` if they are not in more places than a text has.
    pub fn decode(name: impl Into<String>, bytes: Vec<u8>) -> Option<Self> {
        let bytes = match String::from_utf8(bytes) {
            Ok(text) => return Some(Self::new(name, text)),
            Err(error) => error.into_bytes(),
        };
        let mut this = Self::new(name, "");
        for chunk in bytes.utf8_chunks() {
            this.text.push_str(chunk.valid());
            if chunk.invalid().is_empty() {
                continue;
            }
            let start = this.text.len();
            this.text.push(char::REPLACEMENT_CHARACTER);
            let end = this.text.len();
            let count = this.undecoded.len();
            match this.undecoded.last_mut() {
                Some(before) if before.end == start => before.end = end,
                _ if count == UNDECODED_MAX => return None,
                _ => this.undecoded.push(start..end),
            }
        }
        Some(this)
    }
}

/// Places that are not UTF-8 in a file that is taken for text.
const UNDECODED_MAX: usize = 100_000;

/// Why a command failed, ready to be shown.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What kind of failure.
    pub kind: Kind,
    /// What happened, outermost first, joined by `: `.
    pub message: String,
    /// What to do about it.
    pub hints: Vec<String>,
    /// Where in the Dockerfile, if it is there.
    pub evidence: Option<Box<Evidence>>,
    /// Whether something that was in the store no longer is: by now it is forgotten, and the next attempt makes or
    /// brings it anew.
    pub lost: bool,
}

/// What a failure can be seen by.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The text of the places.
    pub source: SourceText,
    /// Places in it; each is shown with its own message.
    pub places: Vec<Diagnostic>,
    /// The last lines that the failed step printed.
    pub log_tail: Vec<String>,
}

impl Failure {
    /// A failure without a place.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hints: Vec::new(), evidence: None, lost: false }
    }

    /// A failure described by an error and its causes.
    pub fn from_error(kind: Kind, doing: &str, error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(kind, format!("{doing}: {}", causes(error)));
        failure.lost = is_lost(error);
        // What is refused inside a step says nothing of wharf's own rights.
        if kind != Kind::Step {
            failure.hints.extend(hint(error));
        }
        failure
    }

    /// Whoever read standard output has closed it.
    pub fn reader_gone() -> Self {
        Self::new(Kind::ReaderGone, "nobody reads standard output any more")
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The text for the terminal, without a newline at the end.
    pub fn render(&self, color: bool) -> String {
        let mut text = String::new();
        if let Some(evidence) = &self.evidence {
            for place in render_some(&evidence.places, &evidence.source, color, "error") {
                let _ = writeln!(text, "{place}");
            }
            if !evidence.log_tail.is_empty() {
                text.push_str("the step's last output:\n");
            }
            for line in &evidence.log_tail {
                let _ = writeln!(text, "  | {line}");
            }
        }
        let _ = write!(text, "ERROR: {}", self.message);
        for hint in &self.hints {
            let _ = write!(text, "\nhint: {hint}");
        }
        text
    }
}

/// More diagnostics than this are counted and not shown: nobody reads them.
const SHOWN_MAX: usize = 1_000;

/// So much of a text is shown around all of its diagnostics: a line may be as long as the file.
const SHOWN_BYTES_MAX: usize = 16 << 20;

/// Shows warnings, each a text of its own.
pub fn render_warnings(warnings: &[Diagnostic], source: &SourceText, color: bool) -> Vec<String> {
    render_some(warnings, source, color, "warning")
}

/// Shows the first of these, and says how many more there are.
fn render_some(diagnostics: &[Diagnostic], source: &SourceText, color: bool, level: &str) -> Vec<String> {
    let excerpts = Excerpts::new(source, color);
    let mut bytes = 0;
    let mut texts = Vec::new();
    for diagnostic in diagnostics.iter().take(SHOWN_MAX) {
        bytes += excerpts.window(diagnostic).map_or(0, |window| window.len());
        if bytes > SHOWN_BYTES_MAX && !texts.is_empty() {
            break;
        }
        texts.push(excerpts.render(diagnostic));
    }
    let more = diagnostics.len() - texts.len();
    if more > 0 {
        texts.push(format!("{level}: {more} more {level}s are not shown"));
    }
    texts
}

/// Shows diagnostics of one text, whose lines are counted once.
struct Excerpts<'s> {
    source: &'s SourceText,
    newlines: Vec<usize>,
    renderer: Renderer,
}

impl<'s> Excerpts<'s> {
    fn new(source: &'s SourceText, color: bool) -> Self {
        let newlines = source.text.match_indices('\n').map(|(at, _)| at).collect();
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        Self { source, newlines, renderer }
    }

    /// A diagnostic with its line and a caret under the token.
    fn render(&self, diagnostic: &Diagnostic) -> String {
        let level = match diagnostic.severity {
            Severity::Warning => Level::WARNING,
            Severity::Error => Level::ERROR,
        };
        let mut title = level.primary_title(&diagnostic.message);
        if let Some(rule) = diagnostic.rule {
            title = title.id(rule.name());
        }
        let mut group = Group::with_title(title);
        if let Some((span, window)) = diagnostic.place().zip(self.window(diagnostic)) {
            let within = |span: &Range<usize>| {
                let span = clamp(span, &self.source.text);
                span.start - window.start..span.end - window.start
            };
            let related = diagnostic.related.as_ref();
            let snippet =
                Snippet::source(&self.source.text[window.clone()])
                    .line_start(1 + self.newlines.partition_point(|newline| *newline < window.start))
                    .path(&self.source.name)
                    .annotation(AnnotationKind::Primary.span(within(span)))
                    .annotations(related.map(|related| {
                        AnnotationKind::Context.span(within(&related.span)).label(related.label)
                    }));
            group = group.element(snippet);
        }
        if let Some(hint) = &diagnostic.hint {
            group = group.element(Level::HELP.message(hint));
        }
        if let Some(url) = diagnostic.rule.and_then(Rule::url) {
            group = group.element(Level::NOTE.message(url));
        }
        self.renderer.render(&[group])
    }

    /// What of the text is shown with a diagnostic.
    fn window(&self, diagnostic: &Diagnostic) -> Option<Range<usize>> {
        let text = &self.source.text;
        let related = diagnostic.related.as_ref().map(|related| clamp(&related.span, text));
        Some(lines_of(text, &clamp(diagnostic.place()?, text), related.as_ref()))
    }
}

/// The whole lines that hold these places: all that a renderer needs of a file that may be large.
fn lines_of(text: &str, span: &Range<usize>, related: Option<&Range<usize>>) -> Range<usize> {
    let (mut start, mut end) = (span.start, span.end);
    if let Some(related) = related {
        (start, end) = (start.min(related.start), end.max(related.end));
    }
    let start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    start..text[end..].find('\n').map_or(text.len(), |newline| end + newline + 1)
}

/// A span that lies within the text, on character borders.
fn clamp(span: &Range<usize>, text: &str) -> Range<usize> {
    let border = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = border(span.start);
    start..border(span.end).max(start)
}

/// An error and what caused it, outermost first.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // A transparent wrapper says the same as what it wraps.
        if !text.ends_with(&words) {
            let _ = write!(text, ": {words}");
        }
        cause = error.source();
    }
    text
}

/// What to do about an error, where some cause of it tells.
fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    let hint = if chain(error).any(|it| matches!(it.downcast_ref(), Some(ExportError::NoSpace { .. }))) {
        "free some space there, or name another place for the output"
    } else if chain(error).any(|it| matches!(it.downcast_ref(), Some(ExportError::Io { .. }))) {
        return None;
    } else if is_disk_full(error) {
        "the disk is full: free some space (`wharf rmi` removes images) or give another `--root`"
    } else if chain(error).filter_map(<dyn Error>::downcast_ref).any(StoreError::is_disk) {
        "the disk of the store is full, or fails: free some space there"
    } else if io_errors(error).any(is_too_many_open_files) {
        "let wharf open more files: `ulimit -n 4096`"
    } else if chain(error).filter_map(<dyn Error>::downcast_ref).any(StoreError::is_read_only) {
        "its file system is mounted read-only, or its rights forbid it: mend that, or give another `--root`"
    } else if chain(error).any(|it| matches!(it.downcast_ref(), Some(StoreError::NotAStore { .. }))) {
        "give `--root` an empty directory, or one that does not exist yet"
    } else if is_lost(error) {
        "try again: what was lost or damaged is brought or made anew"
    } else if !io_kinds(error).any(|kind| kind == ErrorKind::PermissionDenied) {
        return None;
    } else if chain(error).any(|it| matches!(it.downcast_ref(), Some(RuntimeError::Exec { .. }))) {
        "the file has to be a program that its user may execute: `chmod +x` makes it one"
    } else if chain(error).any(|it| it.downcast_ref::<RuntimeError>().is_some()) {
        "`wharf doctor` says what this place allows"
    } else {
        "give a `--root` that this user may write; `wharf doctor` says what this place allows"
    };
    Some(hint.to_owned())
}

/// Whether an error comes from a disk without space: then it is nobody's but the machine's.
pub fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    io_kinds(error).any(|kind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

/// Whether an error is nobody's but the machine's: it has no room left, on its disk, in memory, or for open files.
pub fn is_of_machine(error: &(dyn Error + 'static)) -> bool {
    is_disk_full(error) || io_errors(error).any(is_out_of_room)
}

/// Whether something that a process needs was used up.
fn is_out_of_room(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::OutOfMemory || is_too_many_open_files(error)
}

fn is_too_many_open_files(error: &std::io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

/// Whether an error says that something of the store is no longer there, or no longer what it was.
pub fn is_lost(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| {
        error.downcast_ref().is_some_and(ContentError::is_lost)
            || error.downcast_ref().is_some_and(StoreError::is_lost)
            || matches!(error.downcast_ref(), Some(PushError::Incomplete { .. }))
    })
}

/// An error and its causes, also those that travelled through readers inside an `io::Error`.
pub(crate) fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}

/// What the operating system said among them.
pub(crate) fn io_kinds<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = ErrorKind> + 'a {
    io_errors(error).map(std::io::Error::kind)
}

fn io_errors<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a std::io::Error> + 'a {
    chain(error).filter_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_shown_with_a_caret() {
        let source = SourceText::new("Dockerfile", "FROM a\nRUM true\n");
        let mut failure = Failure::new(Kind::Dockerfile, "the Dockerfile has an error");
        let place = Diagnostic::error(7..10, "unknown instruction: RUM").with_hint("did you mean RUN?");
        let log_tail = vec!["the last line".to_owned()];
        failure.evidence = Some(Box::new(Evidence { source, places: vec![place], log_tail }));
        expect_test::expect![[r#"
            error: unknown instruction: RUM
             --> Dockerfile:2:1
              |
            2 | RUM true
              | ^^^
              |
              = help: did you mean RUN?
            the step's last output:
              | the last line
            ERROR: the Dockerfile has an error"#]]
        .assert_eq(&failure.render(false));
    }

    #[test]
    fn checks_are_named_and_explained() {
        let text = "FROM scratch\nCMD [\"a\"]\nCMD [\"b\"]\n";
        let source = SourceText::new("Dockerfile", text);
        let related = wharf_frontend::Related { span: 23..26, label: "this one" };
        let mut diagnostic = Diagnostic::lint(Rule::MultipleInstructionsDisallowed, 13..16, "again");
        diagnostic.related = Some(related);
        expect_test::expect![[r#"
            warning[MultipleInstructionsDisallowed]: again
             --> Dockerfile:2:1
              |
            2 | CMD ["a"]
              | ^^^
            3 | CMD ["b"]
              | --- this one
              |
              = note: https://docs.docker.com/go/dockerfile/rule/multiple-instructions-disallowed/"#]]
        .assert_eq(&Excerpts::new(&source, false).render(&diagnostic));
        let placeless = Diagnostic::warning(0..0, "about the command line").with_hint("change it");
        expect_test::expect![[r#"
            warning: about the command line
             |
             = help: change it"#]]
        .assert_eq(&Excerpts::new(&source, false).render(&placeless));
    }

    #[test]
    fn spans_outside_the_text_are_harmless() {
        let source = SourceText::new("Dockerfile", "FROM ä");
        for (start, end) in [(0, 100), (50, 60), (6, 7), (100, 2)] {
            let span = Range { start, end };
            let diagnostic = Diagnostic::error(span, "x");
            assert!(Excerpts::new(&source, false).render(&diagnostic).contains("error: x"));
        }
    }

    #[test]
    fn of_many_problems_some_are_shown() {
        let shown = |text: &str, count: usize| {
            let source = SourceText::new("Dockerfile", text);
            let mut failure = Failure::new(Kind::Dockerfile, "errors");
            let places = vec![Diagnostic::error(1..2, "x"); count];
            failure.evidence = Some(Box::new(Evidence { source, places, log_tail: Vec::new() }));
            let text = failure.render(false);
            (text.matches("error: x").count(), text.contains("more errors are not shown"))
        };
        assert_eq!(shown("FOOO a\n", SHOWN_MAX), (SHOWN_MAX, false));
        assert_eq!(shown("FOOO a\n", SHOWN_MAX + 1), (SHOWN_MAX, true));
        assert_eq!(shown(&"x".repeat(SHOWN_BYTES_MAX / 2), 3), (2, true));
        assert_eq!(shown(&"x".repeat(SHOWN_BYTES_MAX + 1), 2), (1, true), "at least one");
    }
}
