//! Problems in a Dockerfile, as data with a span. One constructor for each kind; `builder` renders them.

use std::ops::Range;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The build goes on.
    Warning,
    /// There is no build.
    Error,
}

/// One problem, at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Byte range of the offending token in the Dockerfile.
    pub span: Range<usize>,
    /// What is wrong, in BuildKit's words where it has some.
    pub message: String,
    /// What to do about it ("did you mean …").
    pub hint: Option<String>,
}
