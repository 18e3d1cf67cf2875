//! `.dockerignore` patterns exactly as moby's pattern matcher has them (image-builders §1.5), compiled for a walk that
//! prunes; the same patterns serve `COPY --exclude`.

/// A compiled list of patterns.
#[derive(Debug, Clone, Default)]
pub struct Matcher {}

/// A line that is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}: `{pattern}`")]
pub struct PatternError {
    /// 1-based line (or index of the pattern).
    pub line: usize,
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The patterns of an ignore file: comments and blanks dropped, BOM stripped, lines trimmed.
pub fn read(text: &str) -> Vec<String> {
    let _ = text;
    todo!()
}

impl Matcher {
    /// Compiles patterns in order; the last that matches wins, `!` re-includes.
    pub fn new(patterns: &[String]) -> Result<Self, PatternError> {
        let _ = patterns;
        todo!()
    }

    /// Whether there is nothing to match.
    pub fn is_empty(&self) -> bool {
        todo!()
    }

    /// Whether `path` (relative, `/`-separated, as raw bytes) is matched, given whether its parent directory was
    /// (`MatchesUsingParentResults`: a match of a parent counts for everything below it unless a later pattern says
    /// otherwise). Pass the returned value for the children of a directory.
    pub fn matches(&self, path: &[u8], parent: &Matched) -> Matched {
        let _ = (path, parent);
        todo!()
    }

    /// Whether something below the matched directory `path` could be re-included by a `!` pattern; if not, a walk
    /// need not enter it.
    pub fn may_reinclude_below(&self, path: &[u8]) -> bool {
        let _ = path;
        todo!()
    }
}

/// What a path matched; also the state its children start from. `default()` is the root's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    /// The verdict: matched (for an ignore file: excluded).
    pub matched: bool,
    /// For each pattern, whether it matched this path or a parent of it.
    pub by_pattern: Vec<bool>,
}
