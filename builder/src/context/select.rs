//! What the source of a COPY or ADD names in a [`Tree`]: literal paths, wildcards, symlinks followed inside the root.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use wharf_cache::Ids;
use wharf_cache::walk::{FileKind, Stat};
use wharf_frontend::dockerignore::{Matched, Matcher};
use wharf_solver::llb::CopyAction;

use super::Tree;
use super::resolve::{self, open_dir, resolve};
use super::walk::{Filter, Filters, join, verdict};

/// Something a source path or pattern names.
#[derive(Debug)]
pub struct Selected {
    /// The path that named it, below the root: its last component names the copy.
    pub named: PathBuf,
    /// Where it really is, symlinks resolved.
    pub path: PathBuf,
    /// What it is (never a symlink, unless symlinks are not followed).
    pub stat: Stat,
}

/// Which of the files below a source a copy takes.
#[derive(Debug)]
pub struct Patterns {
    /// What `--exclude` takes out.
    exclude: Matcher,
    /// What `--parents` takes out: all but what its pattern finds.
    not_included: Matcher,
}

impl Patterns {
    /// Reads the patterns of a copy.
    pub fn of(copy: &CopyAction) -> Result<Self, SelectError> {
        let compile = |patterns: &[String]| {
            Matcher::new(patterns)
                .map_err(|error| SelectError::Pattern { pattern: error.pattern, reason: error.reason })
        };
        // No pattern, or one that is nothing but the directory itself, includes everything.
        let included: Vec<_> = copy.include.iter().filter(|pattern| !pattern.is_empty()).collect();
        let not_included = match included.is_empty() {
            true => Vec::new(),
            false => {
                let back = included.iter().map(|pattern| format!("!{pattern}"));
                std::iter::once("**".to_owned()).chain(back).collect()
            }
        };
        Ok(Self { exclude: compile(&copy.exclude)?, not_included: compile(&not_included)? })
    }

    /// Whether `--exclude` patterns, which are matched against paths below a source, take a file out by its name.
    pub fn exclude_named(&self, selected: &Selected) -> bool {
        selected.stat.kind != FileKind::Dir
            && selected
                .named
                .file_name()
                .is_some_and(|name| self.exclude.matches(name.as_bytes(), &Matched::default()).matched)
    }

    /// The filters of a walk of the directory `start` of a tree: the copy's and the tree's own. Patterns that can take
    /// nothing out are not asked.
    pub fn filters<'a>(&'a self, tree: &Tree<'a>, start: &Path) -> Filters<'a> {
        let mut filters = vec![Filter::relative(&self.exclude), Filter::relative(&self.not_included)];
        filters.extend(tree.ignore.map(|ignore| Filter::rooted(ignore, start)));
        filters.retain(|filter| !filter.is_idle());
        Filters { patterns: filters, without: tree.without, ids: tree.ids }
    }
}

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A literal path that is not there (or is ignored).
    #[error("\"/{}\": not found{}", path.display(), if *ignored { " (the ignore file takes it out of the context)" } else { "" })]
    NotFound {
        /// The path.
        path: PathBuf,
        /// Whether it exists but the ignore file takes it out.
        ignored: bool,
    },
    /// A pattern that is none.
    #[error("`{pattern}` is not a pattern: {reason}")]
    Pattern {
        /// As written.
        pattern: String,
        /// What is wrong.
        reason: String,
    },
    /// The file system refused.
    #[error("cannot read \"/{}\"", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Tree<'_> {
    /// What `copy`'s source names, in sorted order; with `--parents` the directories that paths are kept below. A literal
    /// path that is missing is an error; a wildcard that matches nothing is not, unless the action says so.
    pub fn select(&self, copy: &CopyAction) -> Result<Vec<Selected>, SelectError> {
        let source = clean(&copy.src);
        let is_pattern = copy.allow_wildcard && has_wildcard(source.as_os_str().as_bytes());
        let named = match is_pattern {
            true => self.expand(&source)?,
            false => vec![source.clone()],
        };
        if named.is_empty() && !copy.allow_empty_wildcard {
            return Err(SelectError::NotFound { path: source, ignored: false });
        }
        if copy.parents && !is_pattern {
            let literal = |pattern: &&String| !has_wildcard(pattern.as_bytes());
            for path in copy.include.iter().filter(literal) {
                self.existing(source.join(path), copy.follow_symlinks)?;
            }
        }
        named.into_iter().map(|path| self.existing(path, copy.follow_symlinks)).collect()
    }

    /// What is at a path that must be there.
    fn existing(&self, path: PathBuf, follow: bool) -> Result<Selected, SelectError> {
        match self.locate(path.clone(), follow)? {
            Some(selected) => Ok(selected),
            None => {
                let bare = Tree { ignore: None, ..*self };
                let ignored = bare.locate(path.clone(), follow)?.is_some();
                Err(SelectError::NotFound { path, ignored })
            }
        }
    }

    /// Opens a directory of the tree whose path has been resolved.
    pub fn open_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        open_dir(self.root, path)
    }

    /// Follows `path` inside the root. `None` when it is not there or taken out.
    fn locate(&self, named: PathBuf, follow: bool) -> Result<Option<Selected>, SelectError> {
        let found = resolve(self.root, &named, follow);
        let found = found.map_err(|source| SelectError::Io { path: named.clone(), source })?;
        let is_left_out = self.is_left_out(&found.path);
        let is_left_out = is_left_out.map_err(|source| SelectError::Io { path: named.clone(), source })?;
        let stat = match (found.stat, self.ids) {
            (Some(_), Ids::Recorded) => Some(
                self.recorded_stat(&found.path)
                    .map_err(|source| SelectError::Io { path: named.clone(), source })?,
            ),
            (stat, _) => stat,
        };
        Ok(match stat {
            Some(stat) if !is_left_out && !self.takes_out(&found.path, stat.kind) => {
                Some(Selected { named, path: found.path, stat })
            }
            _ => None,
        })
    }

    /// Stat of a resolved path, with the owner that is recorded.
    fn recorded_stat(&self, path: &Path) -> io::Result<Stat> {
        match path.file_name() {
            None => self.ids.stat_at(self.root, OsStr::new(".")),
            Some(name) => self.ids.stat_at(resolve::dir(self.root, resolve::parent(path))?.as_fd(), name),
        }
    }

    /// Whether a resolved path is, or is in, the directory that is no part of the tree.
    fn is_left_out(&self, path: &Path) -> io::Result<bool> {
        let Some(without) = self.without else { return Ok(false) };
        for directory in path.ancestors() {
            match resolve::stat(self.root, directory) {
                Ok(stat) if without.is(&stat) => return Ok(true),
                Ok(_) => {}
                Err(error) if resolve::is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether the ignore file takes `path` out (a directory that may hold something brought back stays).
    fn takes_out(&self, path: &Path, kind: FileKind) -> bool {
        let Some(ignore) = self.ignore else { return false };
        let verdict = verdict(ignore, path);
        verdict.matched && !(kind == FileKind::Dir && ignore.may_reinclude_below(path.as_os_str().as_bytes()))
    }

    /// Paths that a pattern matches, component by component, sorted. Symlinks are followed up to the first component
    /// with a wildcard and not from there on.
    fn expand(&self, pattern: &Path) -> Result<Vec<PathBuf>, SelectError> {
        let malformed = |component: &[u8], reason: &str| SelectError::Pattern {
            pattern: String::from_utf8_lossy(component).into_owned(),
            reason: reason.to_owned(),
        };
        let mut components = pattern.iter().peekable();
        let mut start = PathBuf::new();
        while let Some(literal) = components.next_if(|component| !has_wildcard(component.as_bytes())) {
            start.push(literal);
        }
        let mut found = match self.locate(start.clone(), true)? {
            Some(at) if at.stat.kind == FileKind::Dir => vec![(start, at.path)],
            _ => Vec::new(),
        };
        while let Some(component) = components.next() {
            let component = component.as_bytes();
            let glob = tokenize(component).map_err(|reason| malformed(component, reason))?;
            let is_last = components.peek().is_none();
            let mut next = Vec::new();
            for (named, path) in found {
                let io = |source| SelectError::Io { path: named.clone(), source };
                let opened = self.open_dir(&path).map_err(io)?;
                for entry in self.ids.read_dir(opened.as_fd()).map_err(io)? {
                    let at = path.join(&entry.name);
                    let leads_on = is_last || entry.stat.kind == FileKind::Dir;
                    if leads_on
                        && glob_matches(&glob, entry.name.as_bytes())
                        && !self.takes_out(&at, entry.stat.kind)
                        && !self.without.is_some_and(|without| without.is(&entry.stat))
                    {
                        next.push((named.join(&entry.name), at));
                    }
                }
            }
            found = next;
        }
        Ok(found.into_iter().map(|(named, _)| named).collect())
    }
}

/// Cleans a source path against the root: `..` cannot leave it, empty and `.` components vanish.
fn clean(source: &str) -> PathBuf {
    let mut components: Vec<OsString> = Vec::new();
    for component in source.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            name => components.push(name.into()),
        }
    }
    join(&components)
}

/// Whether a path has a `*`, `?` or `[` that no `\` takes the meaning of. One without is not unescaped either.
fn has_wildcard(path: &[u8]) -> bool {
    let mut escaped = false;
    path.iter().any(|byte| {
        let is_wildcard = !escaped && matches!(byte, b'*' | b'?' | b'[');
        escaped = !escaped && *byte == b'\\';
        is_wildcard
    })
}

/// Go's `path.Match` on one component: `*`, `?`, `[class]`, `\` escapes.
fn glob_matches(tokens: &[Glob], name: &[u8]) -> bool {
    let (mut token, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    let chars = chars_of(name);
    loop {
        let hit = match tokens.get(token) {
            None if at == chars.len() => return true,
            Some(Glob::Star) => {
                star = Some((token, at));
                token += 1;
                continue;
            }
            Some(glob) if at < chars.len() => glob.accepts(chars[at]),
            _ => false,
        };
        if hit {
            token += 1;
            at += 1;
            continue;
        }
        match star {
            Some((star_token, star_at)) if star_at < chars.len() => {
                star = Some((star_token, star_at + 1));
                token = star_token + 1;
                at = star_at + 1;
            }
            _ => return false,
        }
    }
}

/// The characters of a name, where each byte that is not UTF-8 is one.
fn chars_of(name: &[u8]) -> Vec<char> {
    let mut chars = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        chars.extend(chunk.valid().chars());
        chars.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    chars
}

enum Glob {
    Star,
    Any,
    Char(char),
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Glob {
    fn accepts(&self, ch: char) -> bool {
        match self {
            Self::Star => false,
            Self::Any => true,
            Self::Char(want) => *want == ch,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&ch)) != *negated
            }
        }
    }
}

fn tokenize(pattern: &[u8]) -> Result<Vec<Glob>, &'static str> {
    let text = String::from_utf8_lossy(pattern);
    let mut chars = text.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(ch) = chars.next() {
        tokens.push(match ch {
            '*' => Glob::Star,
            '?' => Glob::Any,
            '\\' => Glob::Char(chars.next().ok_or("it ends in a backslash")?),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    if chars.peek() == Some(&']') && !ranges.is_empty() {
                        chars.next();
                        break;
                    }
                    let low = class_char(&mut chars)?;
                    let high = if chars.next_if_eq(&'-').is_some() { class_char(&mut chars)? } else { low };
                    ranges.push((low, high));
                }
                Glob::Class { negated, ranges }
            }
            ch => Glob::Char(ch),
        });
    }
    Ok(tokens)
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, &'static str> {
    match chars.next() {
        None => Err("a `[` has no `]`"),
        Some('-' | ']') => Err("a character class is malformed"),
        Some('\\') => chars.next().ok_or("it ends in a backslash"),
        Some(ch) => Ok(ch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: Result<bool, ()>) {
        let matched = tokenize(pattern.as_bytes()).map(|glob| glob_matches(&glob, name.as_bytes()));
        assert_eq!(matched.map_err(drop), expected, "{pattern} against {name}");
    }

    #[test]
    fn patterns_match_as_go_has_them() {
        check("*.txt", "a.txt", Ok(true));
        check("*.txt", "a.text", Ok(false));
        check("*", "", Ok(true));
        check("a*b*c", "axxbyyc", Ok(true));
        check("a*b*c", "axxbyy", Ok(false));
        check("?", "ä", Ok(true));
        check("[a-c]x", "bx", Ok(true));
        check("[^a-c]x", "bx", Ok(false));
        check("[!a]x", "!x", Ok(true));
        check("foo.tx[t]", "foo.txt", Ok(true));
        check("\\*", "*", Ok(true));
        check("\\*", "a", Ok(false));
        check("[", "a", Err(()));
        check("[a", "a", Err(()));
        check("[]a]", "a", Err(()));
        check("a\\", "a", Err(()));
        check("***a", "bba", Ok(true));
    }

    #[test]
    fn each_byte_that_is_no_text_is_a_character() {
        let matched = |pattern: &str| glob_matches(&tokenize(pattern.as_bytes()).unwrap(), b"a\xe2\x82z");
        assert!(matched("a??z") && !matched("a?z") && matched("a*z"));
    }

    #[test]
    fn escaped_wildcards_are_none() {
        for (path, expected) in
            [("a*", true), (r"a\*", false), (r"a\\*", true), ("a[b]", true), (r"a\b", false)]
        {
            assert_eq!(has_wildcard(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn sources_cannot_leave_the_root() {
        for (source, expected) in
            [("../x", "x"), ("/a/../../b/", "b"), (".", ""), ("a//b/.", "a/b"), ("/", ""), ("a/../..", "")]
        {
            assert_eq!(clean(source), Path::new(expected), "{source}");
        }
    }
}
