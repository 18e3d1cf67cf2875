//! What the source of a COPY or ADD names in a [`Tree`]: literal paths, wildcards, symlinks followed inside the root.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use wharf_cache::walk::{self as cwalk, FileKind, Stat};
use wharf_frontend::dockerignore::{Matched, Matcher};
use wharf_solver::llb::CopyAction;

use super::Tree;
use super::resolve::{open_dir, resolve};
use super::walk::{join, verdict};

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

impl Selected {
    /// Whether `--exclude` patterns, which are matched against paths below a source, take a file out by its name.
    pub fn is_excluded(&self, exclude: &Matcher) -> bool {
        self.stat.kind != FileKind::Dir
            && self
                .named
                .file_name()
                .is_some_and(|name| exclude.matches(name.as_bytes(), &Matched::default()).matched)
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
        reason: &'static str,
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
    /// What `copy`'s source names, in sorted order. A literal path that is missing is an error; a wildcard that
    /// matches nothing is not, unless the action says so.
    pub fn select(&self, copy: &CopyAction) -> Result<Vec<Selected>, SelectError> {
        let source = clean(&copy.src);
        if copy.allow_wildcard && has_wildcard(source.as_os_str().as_bytes()) {
            let found = self.expand(&source)?;
            if found.is_empty() && !copy.allow_empty_wildcard {
                return Err(SelectError::NotFound { path: source, ignored: false });
            }
            return found
                .into_iter()
                .filter_map(|path| self.locate(path, copy.follow_symlinks).transpose())
                .collect();
        }
        match self.locate(source.clone(), copy.follow_symlinks)? {
            Some(selected) => Ok(vec![selected]),
            None => {
                let bare = Tree { root: self.root, ignore: None };
                let ignored = bare.locate(source.clone(), copy.follow_symlinks)?.is_some();
                Err(SelectError::NotFound { path: source, ignored })
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
        Ok(match found.stat {
            Some(stat) if !self.takes_out(&found.path, stat.kind) => {
                Some(Selected { named, path: found.path, stat })
            }
            _ => None,
        })
    }

    /// Whether the ignore file takes `path` out (a directory that may hold something brought back stays).
    fn takes_out(&self, path: &Path, kind: FileKind) -> bool {
        let Some(ignore) = self.ignore else { return false };
        let verdict = verdict(ignore, path);
        verdict.matched && !(kind == FileKind::Dir && ignore.may_reinclude_below(path.as_os_str().as_bytes()))
    }

    /// Paths that a pattern matches, component by component, sorted.
    fn expand(&self, pattern: &Path) -> Result<Vec<PathBuf>, SelectError> {
        let mut found = vec![PathBuf::new()];
        for component in pattern.iter() {
            let bytes = component.as_bytes();
            let mut next = Vec::new();
            if !has_wildcard(bytes) {
                next.extend(found.into_iter().map(|path| path.join(component)));
                found = next;
                continue;
            }
            let check = matches(bytes, b"");
            check
                .map_err(|reason| SelectError::Pattern { pattern: pattern.display().to_string(), reason })?;
            for dir in found {
                let Some(at) = self.locate(dir.clone(), true)? else { continue };
                if at.stat.kind != FileKind::Dir {
                    continue;
                }
                let io = |source| SelectError::Io { path: dir.clone(), source };
                let opened = self.open_dir(&at.path).map_err(io)?;
                for entry in cwalk::read_dir(opened.as_fd()).map_err(io)? {
                    let hit = matches(bytes, entry.name.as_bytes()).unwrap_or(false);
                    if hit && !self.takes_out(&at.path.join(&entry.name), entry.stat.kind) {
                        next.push(dir.join(&entry.name));
                    }
                }
            }
            found = next;
        }
        Ok(found)
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

fn has_wildcard(pattern: &[u8]) -> bool {
    pattern.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
}

/// Go's `path.Match` on one component: `*`, `?`, `[class]`, `\` escapes.
pub fn matches(pattern: &[u8], name: &[u8]) -> Result<bool, &'static str> {
    let tokens = tokenize(pattern)?;
    let (mut token, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    let chars: Vec<char> = String::from_utf8_lossy(name).chars().collect();
    loop {
        let hit = match tokens.get(token) {
            None if at == chars.len() => return Ok(true),
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
            _ => return Ok(false),
        }
    }
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
        assert_eq!(
            matches(pattern.as_bytes(), name.as_bytes()).map_err(drop),
            expected,
            "{pattern} against {name}"
        );
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
    fn sources_cannot_leave_the_root() {
        for (source, expected) in
            [("../x", "x"), ("/a/../../b/", "b"), (".", ""), ("a//b/.", "a/b"), ("/", ""), ("a/../..", "")]
        {
            assert_eq!(clean(source), Path::new(expected), "{source}");
        }
    }
}
