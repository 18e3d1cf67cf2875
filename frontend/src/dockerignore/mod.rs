//! `.dockerignore` patterns exactly as moby's pattern matcher has them, compiled for a walk that prunes; the same
//! patterns serve `COPY --exclude`.
//!
//! They look like other tools' globs and are not: a pattern is anchored at the root, `**` crosses `/` wherever it
//! stands (`a**b`), a leading `**` is a plain suffix test (`**foo` matches `xfoo`), classes are negated by `^` only,
//! braces mean nothing, the last match wins. `docs/decisions/0004-ignore-patterns.md` says what follows from that.

mod glob;
mod index;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;

use glob::{Glob, Part};
use index::Index;

/// A compiled list of patterns.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    patterns: Vec<Pattern>,
    index: Index,
    reincluding: Reincluding,
}

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

/// What a path matched; also the state its children start from. `default()` is the root's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    /// The verdict: matched (for an ignore file: excluded).
    pub matched: bool,
    /// The patterns that matched this path or a parent of it, in order; `None` if nobody looked yet.
    by_pattern: Option<Vec<usize>>,
}

/// The patterns of an ignore file: comments and blanks dropped, BOM stripped, lines trimmed.
pub fn read(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // A comment begins in the first column; ` #x` is the pattern `#x`.
    text.lines().filter(|line| !line.starts_with('#')).filter_map(pattern_of_line).collect()
}

fn pattern_of_line(line: &str) -> Option<String> {
    let line = line.trim();
    if line.is_empty() {
        return None;
    }
    let (mark, rest) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if rest.is_empty() {
        return Some(mark.to_owned());
    }
    let cleaned = clean(rest);
    let anchored = match cleaned.strip_prefix('/') {
        Some(below_root) if !below_root.is_empty() => below_root,
        _ => &cleaned,
    };
    Some(format!("{mark}{anchored}"))
}

impl Matcher {
    /// Compiles patterns in order; the last that matches wins, `!` re-includes.
    pub fn new(patterns: &[String]) -> Result<Self, PatternError> {
        let mut compiled = Vec::with_capacity(patterns.len());
        for (index, pattern) in patterns.iter().enumerate() {
            let trimmed = pattern.trim();
            if trimmed.is_empty() {
                continue;
            }
            compiled.push(Pattern::new(trimmed).map_err(|reason| PatternError {
                line: index + 1,
                pattern: pattern.clone(),
                reason: reason.to_owned(),
            })?);
        }
        let index = Index::new(&compiled).map_err(|reason| PatternError {
            line: patterns.len(),
            pattern: patterns.last().cloned().unwrap_or_default(),
            reason: reason.to_owned(),
        })?;
        let reincluding = Reincluding::new(&compiled);
        Ok(Self { patterns: compiled, index, reincluding })
    }

    /// Whether there is nothing to match.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether `path` (relative, `/`-separated, as raw bytes) is matched, given whether its parent directory was
    /// (`MatchesUsingParentResults`: a match of a parent counts for everything below it unless a later pattern says
    /// otherwise). Pass the returned value for the children of a directory. With the root's value for a path deeper
    /// down, its parents are looked at here.
    pub fn matches(&self, path: &[u8], parent: &Matched) -> Matched {
        let above = match (&parent.by_pattern, path.iter().rposition(|byte| *byte == b'/')) {
            (None, Some(slash)) => &self.walk_to(&path[..slash]),
            _ => parent,
        };
        let inherited = above.by_pattern.as_deref().unwrap_or_default();
        let mut found = Vec::new();
        self.index.matching(&self.patterns, path, &mut found);
        // Patterns that neither match nor did above change nothing.
        let mut to_ask: Vec<(usize, bool)> = found.into_iter().map(|index| (index, false)).collect();
        to_ask.extend(inherited.iter().map(|index| (*index, true)));
        to_ask.sort_unstable_by_key(|(index, inherited)| (*index, !inherited));
        to_ask.dedup_by_key(|(index, _)| *index);
        let mut matched = false;
        let mut by_pattern = Vec::with_capacity(to_ask.len());
        for (index, is_inherited) in to_ask {
            let reincludes = self.patterns[index].reincludes;
            // A pattern that could not change the verdict is not asked, and counts as not matched below as well.
            if is_inherited || reincludes == matched {
                by_pattern.push(index);
                matched = !reincludes;
            }
        }
        Matched { matched, by_pattern: Some(by_pattern) }
    }

    /// What a walk from the root knows of a directory.
    fn walk_to(&self, directory: &[u8]) -> Matched {
        let slashes = directory.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let root = Matched { matched: false, by_pattern: Some(Vec::new()) };
        slashes.chain([directory.len()]).fold(root, |above, end| self.matches(&directory[..end], &above))
    }

    /// Whether something below the matched directory `path` could be re-included by a `!` pattern; if not, a walk
    /// need not enter it.
    pub fn may_reinclude_below(&self, path: &[u8]) -> bool {
        let may = |index: &usize| self.patterns[*index].may_match_below(path);
        self.reincluding.candidates(path).any(may)
    }
}

/// The `!` patterns by the first component of their paths.
#[derive(Debug, Clone, Default)]
struct Reincluding {
    by_first: HashMap<String, Vec<usize>>,
    /// Those whose first component has special characters.
    anywhere: Vec<usize>,
}

impl Reincluding {
    fn new(patterns: &[Pattern]) -> Self {
        let mut this = Self::default();
        for (index, pattern) in patterns.iter().enumerate().filter(|(_, pattern)| pattern.reincludes) {
            let first = pattern.text.split('/').next().unwrap_or_default();
            if first.contains(['*', '?', '[', ']', '\\']) {
                this.anywhere.push(index);
            } else {
                this.by_first.entry(first.to_owned()).or_default().push(index);
            }
        }
        this
    }

    /// The patterns that may match something below `path`.
    fn candidates(&self, path: &[u8]) -> impl Iterator<Item = &usize> {
        let first = path.split(|byte| *byte == b'/').next().unwrap_or_default();
        let named = std::str::from_utf8(first).ok().and_then(|first| self.by_first.get(first));
        named.into_iter().flatten().chain(&self.anywhere)
    }
}

#[derive(Debug, Clone)]
struct Pattern {
    /// Written with `!`.
    reincludes: bool,
    /// Without `!`, cleaned.
    text: String,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    /// No special characters.
    Equal,
    /// `text**`: begins so.
    Prefix(String),
    /// `**text`: ends so; `**/text` is also `text` itself.
    Suffix(String),
    /// Anything else.
    Glob(Glob),
}

/// A path, and as text for the patterns that are about characters.
struct Subject<'a> {
    bytes: &'a [u8],
    text: Cow<'a, str>,
}

impl<'a> Subject<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, text: text_of(bytes) }
    }
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, &'static str> {
        let cleaned = clean(pattern);
        let (reincludes, text) = match cleaned.strip_prefix('!') {
            Some("") => return Err("illegal exclusion pattern: \"!\""),
            Some(rest) => (true, rest.to_owned()),
            None => (false, cleaned),
        };
        let test = Test::new(&text, glob::parse(&text)?)?;
        Ok(Self { reincludes, text, test })
    }

    fn matches(&self, path: &Subject<'_>) -> bool {
        match &self.test {
            Test::Equal => path.bytes == self.text.as_bytes(),
            Test::Prefix(prefix) => path.bytes.starts_with(prefix.as_bytes()),
            Test::Suffix(suffix) => {
                path.bytes.ends_with(suffix.as_bytes())
                    || suffix.strip_prefix('/').is_some_and(|whole| path.bytes == whole.as_bytes())
            }
            Test::Glob(glob) => glob.matches(&path.text),
        }
    }

    /// Whether the pattern could match something below `path`. Errs towards yes: components with special characters
    /// count as matching, and those that can match `/` as matching anything.
    fn may_match_below(&self, path: &[u8]) -> bool {
        let mut components = self.text.split('/');
        for part in path.split(|byte| *byte == b'/') {
            match components.next() {
                None => return false,
                Some(component) if component.contains("**") || component.contains(['[', ']', '\\']) => {
                    return true;
                }
                Some(component) if component.contains(['*', '?']) => {}
                Some(component) if component.as_bytes() == part => {}
                Some(_) => return false,
            }
        }
        components.next().is_some()
    }
}

impl Test {
    fn new(text: &str, parts: Vec<Part>) -> Result<Self, &'static str> {
        let literal = |parts: &[Part]| parts.iter().all(|part| matches!(part, Part::Char(_)));
        match parts.as_slice() {
            // An escape makes the text differ from what it matches; a `]`, even alone, keeps `**` from being taken for a
            // plain prefix or suffix.
            _ if text.contains('\\') => Glob::new(parts).map(Self::Glob),
            [Part::AnyPath] => Ok(Self::Suffix(String::new())),
            [Part::AnyPath, rest @ ..] if literal(rest) && !text.contains(']') => {
                Ok(Self::Suffix(text["**".len()..].to_owned()))
            }
            [rest @ .., Part::AnyPath] if literal(rest) && !text.contains(']') => {
                Ok(Self::Prefix(text.trim_end_matches('*').to_owned()))
            }
            literals if literal(literals) => Ok(Self::Equal),
            _ => Glob::new(parts).map(Self::Glob),
        }
    }
}

/// The shortest path that means the same, as Go's `filepath.Clean` has it.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut components: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." if components.last().is_some_and(|last| *last != "..") => {
                components.pop();
            }
            ".." if rooted => {}
            component => components.push(component),
        }
    }
    let joined = components.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// A path as text: each byte that is not UTF-8 becomes one replacement character, so `?` matches one of them.
fn text_of(path: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(path) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(text)
}
