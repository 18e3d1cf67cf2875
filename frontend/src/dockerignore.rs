//! `.dockerignore` patterns exactly as moby's pattern matcher has them, compiled for a walk that prunes; the same
//! patterns serve `COPY --exclude`.
//!
//! They look like other tools' globs and are not: a pattern is anchored at the root, `**` crosses `/` wherever it
//! stands (`a**b`), a leading `**` is a plain suffix test (`**foo` matches `xfoo`), classes are negated by `^` only,
//! braces mean nothing, the last match wins. `docs/decisions/0004-ignore-patterns.md` says what follows from that.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};

/// A compiled list of patterns.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    patterns: Vec<Pattern>,
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
    /// For each pattern, whether it matched this path or a parent of it.
    pub by_pattern: Vec<bool>,
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
        Ok(Self { patterns: compiled })
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
        let subject = Subject::new(path);
        let parent_known = parent.by_pattern.len() == self.patterns.len();
        let mut result = Matched { matched: false, by_pattern: vec![false; self.patterns.len()] };
        for (index, pattern) in self.patterns.iter().enumerate() {
            let mut matched = parent_known && parent.by_pattern[index];
            if !matched {
                // A pattern that could not change the verdict is not asked, and counts as not matched below as well.
                if pattern.reincludes != result.matched {
                    continue;
                }
                matched = pattern.matches(&subject) || (!parent_known && pattern.matches_parent_of(path));
            }
            result.by_pattern[index] = matched;
            if matched {
                result.matched = !pattern.reincludes;
            }
        }
        result
    }

    /// Whether something below the matched directory `path` could be re-included by a `!` pattern; if not, a walk
    /// need not enter it.
    pub fn may_reinclude_below(&self, path: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| pattern.reincludes && pattern.may_match_below(path))
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
    Regex(Regex),
}

/// A path, and as text when a regular expression wants it.
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
        let parts = parse(&text)?;
        let test = Test::new(&text, &parts)?;
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
            Test::Regex(regex) => regex.is_match(&path.text),
        }
    }

    fn matches_parent_of(&self, path: &[u8]) -> bool {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        slashes.into_iter().any(|(at, _)| self.matches(&Subject::new(&path[..at])))
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

/// A pattern's elements.
enum Part {
    Char(char),
    /// `?`
    AnyChar,
    /// `*`
    AnyChars,
    /// `**` or `**/`
    AnyPath,
    /// `[…]`
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Splits a pattern, with the syntax errors of Go's `filepath.Match`.
fn parse(pattern: &str) -> Result<Vec<Part>, &'static str> {
    const MALFORMED: &str = "syntax error in pattern";
    let mut parts = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        parts.push(match char {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                Part::AnyPath
            }
            '*' => Part::AnyChars,
            '?' => Part::AnyChar,
            '\\' => Part::Char(chars.next().ok_or(MALFORMED)?),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
                        break;
                    }
                    let low = class_char(&mut chars).ok_or(MALFORMED)?;
                    let high = match chars.next_if_eq(&'-') {
                        Some(_) => class_char(&mut chars).ok_or(MALFORMED)?,
                        None => low,
                    };
                    if low > high {
                        return Err(MALFORMED);
                    }
                    ranges.push((low, high));
                }
                Part::Class { negated, ranges }
            }
            char => Part::Char(char),
        });
    }
    Ok(parts)
}

/// A character of a class, perhaps escaped. `-` and `]` must be.
fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        char => Some(char),
    }
}

impl Test {
    fn new(text: &str, parts: &[Part]) -> Result<Self, &'static str> {
        let literal = |parts: &[Part]| parts.iter().all(|part| matches!(part, Part::Char(_)));
        // An escape makes the text differ from what it matches.
        let escaped = text.contains('\\');
        match parts {
            _ if escaped => Self::regex(parts),
            [Part::AnyPath] => Ok(Self::Suffix(String::new())),
            [Part::AnyPath, rest @ ..] if literal(rest) => Ok(Self::Suffix(text["**".len()..].to_owned())),
            [rest @ .., Part::AnyPath] if literal(rest) => {
                Ok(Self::Prefix(text.trim_end_matches('*').to_owned()))
            }
            parts if literal(parts) => Ok(Self::Equal),
            parts => Self::regex(parts),
        }
    }

    fn regex(parts: &[Part]) -> Result<Self, &'static str> {
        const COMPILED_BYTES_MAX: usize = 1 << 20;
        let mut regex = "^".to_owned();
        for (index, part) in parts.iter().enumerate() {
            match part {
                Part::Char(char) => regex.push_str(&regex::escape(char.encode_utf8(&mut [0; 4]))),
                Part::AnyChar => regex.push_str("[^/]"),
                Part::AnyChars => regex.push_str("[^/]*"),
                Part::AnyPath if index + 1 == parts.len() => regex.push_str(".*"),
                Part::AnyPath => regex.push_str("(?:.*/)?"),
                Part::Class { negated, ranges } => {
                    regex.push_str(if *negated { "[^" } else { "[" });
                    for (low, high) in ranges {
                        let (low, high) = (u32::from(*low), u32::from(*high));
                        regex.push_str(&format!("\\x{{{low:x}}}-\\x{{{high:x}}}"));
                    }
                    regex.push(']');
                }
            }
        }
        regex.push('$');
        RegexBuilder::new(&regex)
            .size_limit(COMPILED_BYTES_MAX)
            .build()
            .map(Self::Regex)
            .map_err(|_| "the pattern is too long")
    }
}

/// The shortest path that means the same, as Go's `filepath.Clean` has it.
fn clean(path: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn matcher(patterns: &[&str]) -> Matcher {
        let lines = patterns.join("\n");
        Matcher::new(&read(&lines)).unwrap()
    }

    /// Walks down to the path as a walk of a tree does.
    #[track_caller]
    fn ignored(patterns: &[&str], path: &str) -> bool {
        let matcher = matcher(patterns);
        let mut matched = Matched::default();
        for (at, _) in path.match_indices('/') {
            matched = matcher.matches(&path.as_bytes()[..at], &matched);
        }
        let walked = matcher.matches(path.as_bytes(), &matched).matched;
        let direct = matcher.matches(path.as_bytes(), &Matched::default()).matched;
        assert_eq!(walked, direct, "{patterns:?} {path}: walking down and asking at once differ");
        walked
    }

    #[test]
    fn single_patterns() {
        for (pattern, path, expected) in [
            // Anchored at the root, whole components.
            ("foo", "foo", true),
            ("foo", "a/foo", false),
            ("foo", "foobar", false),
            ("foo", "foo/bar", true),
            ("foo/bar", "foo", false),
            ("a/b/c", "a/b/c/d/e", true),
            // One component.
            ("*", "a", true),
            ("*", "a/b", true),
            ("*.go", "x.go", true),
            ("*.go", "d/x.go", false),
            ("*/x.go", "d/x.go", true),
            ("*/x.go", "d/e/x.go", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("a?c", "aéc", true),
            ("f*", "f", true),
            // Any number of components.
            ("**", "a/b/c", true),
            ("**/foo", "foo", true),
            ("**/foo", "a/b/foo", true),
            ("**/foo", "a/xfoo", false),
            ("**foo", "xfoo", true),
            ("**file", "dir/file", true),
            ("**file", "dir/afile", true),
            ("**/*.txt", "a/b/c.txt", true),
            ("**/*.txt", "c.txt", true),
            ("a/**", "a/b", true),
            ("a/**", "a", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a**b", "a/x/b", true),
            ("a**b", "axb", false),
            ("a**b", "ab", true),
            ("abc**", "abcdef/g", true),
            ("abc**", "abc", true),
            ("abc**", "abd", false),
            ("a**/*b", "a/x/zb", true),
            ("**/a/**", "x/a/y", true),
            ("**/**", "a", true),
            // Classes.
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[^a-c]x", "dx", true),
            ("[^a-c]x", "ax", false),
            ("[!x]", "!", true),
            ("[!x]", "x", true),
            ("[!x]", "y", false),
            ("a[\\]]b", "a]b", true),
            ("a[&&b]", "a&", true),
            ("[[]x", "[x", true),
            ("a[*?]b", "a*b", true),
            // Escapes and everything that is literal.
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("\\!x", "!x", true),
            ("\\d", "d", true),
            ("{a,b}", "a", false),
            ("{a,b}", "{a,b}", true),
            ("a.b", "axb", false),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            ("a^b*", "a^bc", true),
            ("*.a+", "x.a+", true),
            ("a]", "a]", true),
            ("é*", "éa", true),
            // Cleaned.
            ("/foo", "foo", true),
            ("foo/", "foo", true),
            ("./foo", "foo", true),
            ("foo/../bar", "bar", true),
            ("foo//bar/.", "foo/bar", true),
            ("../foo", "foo", false),
            ("/", "foo", false),
            (".", "foo", false),
            ("  foo\t", "foo", true),
            (" #foo", "#foo", true),
            ("#foo", "#foo", false),
        ] {
            assert_eq!(ignored(&[pattern], path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_match_wins() {
        for (patterns, path, expected) in [
            (&["*", "!a"][..], "a", false),
            (&["*", "!a"], "b", true),
            (&["!a", "*"], "a", true),
            (&["*", "!a/b"], "a", true),
            (&["*", "!a/b"], "a/b", false),
            (&["*", "!a/b"], "a/b/c", false),
            (&["*", "!a/b"], "a/c", true),
            (&["docs", "!docs/README.md"], "docs/README.md", false),
            (&["docs", "!docs/README.md"], "docs/x", true),
            (&["docs", "!docs/*.md", "docs/README.md"], "docs/README.md", true),
            (&["docs", "!docs/*.md", "docs/README.md"], "docs/a.md", false),
            (&["**/*.md", "!README.md"], "a/README.md", true),
            (&["**", "!**/keep"], "a/b/keep", false),
            (&["**", "!**/keep"], "a/b/drop", true),
            (&["a", "! b", "!a/x"], "a/x/y", false),
            (&["a", "!a", "a/b"], "a/b/c", true),
            (&["a", "!a", "a/b"], "a/c", false),
            (&["*", "!/src", "**/target"], "src/target/x", true),
            (&["\u{feff}a"], "a", true),
            (&["# c", "", "a\r"], "a", true),
        ] {
            assert_eq!(ignored(patterns, path), expected, "{patterns:?} {path}");
        }
    }

    #[test]
    fn names_need_not_be_text() {
        for (pattern, path, expected) in [
            ("a*b", &b"a\xff\xfeb"[..], true),
            ("a?b", b"a\xffb", true),
            ("a??b", b"a\xe2\x82b", true),
            ("a?b", b"a\xe2\x82b", false),
            ("**/b", b"\xff/b", true),
            ("a/**", b"a/\xff", true),
            ("a", b"a/\xff", true),
            ("a\u{fffd}", b"a\xff", false),
        ] {
            let matched = matcher(&[pattern]).matches(path, &Matched::default()).matched;
            assert_eq!(matched, expected, "{pattern} {path:?}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors() {
        for pattern in ["!", "! ", "[", "a[", "[]", "[]a]", "[^]", "[-a]", "[a-]", "[z-a]", "a\\", "[a\\"] {
            let patterns = ["x".to_owned(), pattern.to_owned()];
            let error = Matcher::new(&patterns).unwrap_err();
            assert_eq!((error.line, error.pattern.as_str()), (2, pattern));
        }
        let long = vec!["[a-z]*?".repeat(100_000)];
        assert_eq!(Matcher::new(&long).unwrap_err().reason, "the pattern is too long");
    }

    #[test]
    fn a_walk_enters_only_where_something_may_come_back() {
        for (patterns, directory, expected) in [
            (&["a"][..], "a", false),
            (&["*", "!a/b"], "a", true),
            (&["*", "!a/b"], "c", false),
            (&["*", "!a/b"], "a/b", false),
            (&["*", "!a/b"], "a/c", false),
            (&["*", "!*/b"], "c", true),
            (&["*", "!*/b"], "c/d", false),
            (&["*", "!**/b"], "c/d", true),
            (&["*", "!a/**/b"], "a/x/y", true),
            (&["*", "!a/**/b"], "c", false),
            (&["*", "!a[^x]b"], "c", true),
            (&["*", "!abc**"], "abcd", true),
        ] {
            let matcher = matcher(patterns);
            assert_eq!(
                matcher.may_reinclude_below(directory.as_bytes()),
                expected,
                "{patterns:?} {directory}"
            );
        }
    }

    #[test]
    fn a_file_is_read_as_lines() {
        let text = "\u{feff}# comment\n\n  a \r\n !  /b/../c \n#d\n e\n!\n/\n";
        assert_eq!(read(text), ["a", "!c", "e", "!", "/"]);
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(patterns in proptest::collection::vec("\\PC{0,12}|[-*?!/\\[\\]^a\\\\.]{0,10}", 0..4),
                          path in proptest::collection::vec(0u8..=255, 0..20)) {
            if let Ok(matcher) = Matcher::new(&read(&patterns.join("\n"))) {
                let parent = matcher.matches(&path, &Matched::default());
                matcher.matches(&path, &parent);
                matcher.may_reinclude_below(&path);
            }
        }

        #[test]
        fn pruning_never_hides_what_is_reincluded(
            patterns in proptest::collection::vec("!?[ab*?]{1,3}(/[ab*]{1,3}){0,2}", 1..5),
            path in "[ab]{1,2}(/[ab]{1,2}){1,3}",
        ) {
            let matcher = Matcher::new(&patterns).unwrap();
            let mut matched = Matched::default();
            let mut pruned = false;
            for (at, _) in path.match_indices('/') {
                let directory = &path.as_bytes()[..at];
                matched = matcher.matches(directory, &matched);
                pruned |= matched.matched && !matcher.may_reinclude_below(directory);
            }
            let included = !matcher.matches(path.as_bytes(), &matched).matched;
            proptest::prop_assert!(!(pruned && included), "{patterns:?} {path}");
        }
    }
}
