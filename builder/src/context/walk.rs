//! Walking a part of a [`Tree`] in sorted order, pruned by ignore and exclude patterns.
//!
//! A directory that a pattern takes out is entered only if a later `!` pattern may bring something below it back; it is
//! then part of the walk as soon as the first such entry is met, before that entry.

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wharf_cache::Ids;
use wharf_cache::walk::{self, FileKind, Stat};
use wharf_frontend::dockerignore::{Matched, Matcher};

use super::LeftOut;
use super::read_ahead::{Directory, ReadAhead};

/// Directories nested deeper than this are refused: every level holds a descriptor open, and the kernel takes no path
/// of more than 4096 bytes, which has no more components.
pub const DEPTH_MAX: usize = 2048;

/// An entry of a walk.
#[derive(Debug, Clone, Copy)]
pub struct Visit<'a> {
    /// The directory it is in.
    pub parent: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a OsStr,
    /// Its path below the directory the walk began at.
    pub path: &'a Path,
    /// Its stat.
    pub stat: &'a Stat,
}

/// A filter of the walk: patterns, and how the paths they are matched against begin.
#[derive(Debug)]
pub struct Filter<'a> {
    matcher: &'a Matcher,
    prefix: Vec<u8>,
    /// Verdict on the directory the walk begins at.
    start: Matched,
}

impl<'a> Filter<'a> {
    /// Patterns that are matched against paths below the walk's own start.
    pub fn relative(matcher: &'a Matcher) -> Self {
        Self { matcher, prefix: Vec::new(), start: Matched::default() }
    }

    /// Patterns that are matched against paths from a root of which the walk begins at `start`.
    pub fn rooted(matcher: &'a Matcher, start: &Path) -> Self {
        let prefix = start.as_os_str().as_bytes().to_vec();
        Self { matcher, prefix, start: verdict(matcher, start) }
    }

    /// Whether this filter can take nothing out.
    pub fn is_idle(&self) -> bool {
        self.matcher.is_empty()
    }

    fn path(&self, below: &Path) -> Vec<u8> {
        let mut path = self.prefix.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(below.as_os_str().as_bytes());
        path
    }
}

/// What patterns say of a clean relative path: what they say of the directories above it counts.
pub fn verdict(matcher: &Matcher, path: &Path) -> Matched {
    let path = path.as_os_str().as_bytes();
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let last = (!path.is_empty()).then_some(path.len());
    ends.chain(last).fold(Matched::default(), |above, end| matcher.matches(&path[..end], &above))
}

struct Level {
    dir: Arc<OwnedFd>,
    entries: std::vec::IntoIter<walk::Entry>,
    verdicts: Vec<Matched>,
    /// The directory's own entry when it has not been visited yet because a pattern takes it out.
    pending: Option<(OsString, Stat)>,
}

/// What a walk leaves out, and how it looks at the rest.
#[derive(Debug, Default)]
pub struct Filters<'a> {
    /// What one of these takes out.
    pub patterns: Vec<Filter<'a>>,
    /// This directory and all in it.
    pub without: Option<&'a LeftOut>,
    /// How the files belong to users.
    pub ids: Ids,
}

/// Visits everything below the directory `dir` (itself not included) that no filter takes out. `visit` may break off.
pub fn walk(
    dir: BorrowedFd<'_>,
    filters: &Filters<'_>,
    visit: &mut dyn FnMut(Visit<'_>) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    std::thread::scope(|scope| walk_with(dir, filters, visit, ReadAhead::new(scope, filters.ids)))
}

fn walk_with(
    dir: BorrowedFd<'_>,
    filters: &Filters<'_>,
    visit: &mut dyn FnMut(Visit<'_>) -> io::Result<ControlFlow<()>>,
    mut ahead: ReadAhead<'_, '_>,
) -> io::Result<()> {
    let mut path = PathBuf::new();
    let entries = filters.ids.read_dir(dir)?;
    let dir = Arc::new(dir.try_clone_to_owned()?);
    let verdicts: Vec<Matched> = filters.patterns.iter().map(|filter| filter.start.clone()).collect();
    ahead.announce(&dir, entries.len(), filters.certain(&path, &entries, &verdicts));
    let mut levels = vec![Level { dir, entries: entries.into_iter(), verdicts, pending: None }];
    let all = filters;
    let Filters { patterns: filters, without, .. } = all;
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.next() else {
            levels.pop();
            path.pop();
            continue;
        };
        path.push(&entry.name);
        let verdicts: Vec<Matched> = filters
            .iter()
            .zip(&level.verdicts)
            .map(|(filter, parent)| filter.matcher.matches(&filter.path(&path), parent))
            .collect();
        let taken_out = verdicts.iter().any(|verdict| verdict.matched);
        let is_dir = entry.stat.kind == FileKind::Dir;
        if taken_out && !(is_dir && may_come_back(filters, &verdicts, &path)) {
            path.pop();
            continue;
        }
        if without.is_some_and(|without| without.is(&entry.stat)) {
            path.pop();
            continue;
        }
        if !taken_out {
            if visit_pending(&mut levels, &path, visit)?.is_break() {
                return Ok(());
            }
            let parent = levels.last().expect("a level is being read").dir.as_fd();
            let seen = Visit { parent, name: &entry.name, path: &path, stat: &entry.stat };
            if visit(seen)?.is_break() {
                return Ok(());
            }
        }
        if !is_dir {
            path.pop();
            continue;
        }
        if levels.len() == DEPTH_MAX {
            let message = format!("`{}`: directories are nested deeper than {DEPTH_MAX}", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let parent = &levels.last().expect("a level is being read").dir;
        let Directory { fd: dir, entries } = ahead.enter(parent, &entry.name)?;
        ahead.announce(&dir, entries.len(), all.certain(&path, &entries, &verdicts));
        let pending = taken_out.then_some((entry.name, entry.stat));
        levels.push(Level { dir, entries: entries.into_iter(), verdicts, pending });
    }
    Ok(())
}

impl Filters<'_> {
    /// The directories among the entries of one (at `path`, with these verdicts) that a walk will enter whatever it meets
    /// before, in order.
    fn certain(&self, path: &Path, entries: &[walk::Entry], above: &[Matched]) -> Vec<OsString> {
        let is_certain = |entry: &&walk::Entry| {
            if entry.stat.kind != FileKind::Dir {
                return false;
            }
            let path = path.join(&entry.name);
            let mut filters = self.patterns.iter().zip(above);
            // What a pattern takes out is not asked whether it is the store: that would count as having met it.
            !filters.any(|(filter, above)| filter.matcher.matches(&filter.path(&path), above).matched)
                && !self.without.is_some_and(|without| without.is(&entry.stat))
        };
        entries.iter().filter(is_certain).map(|entry| entry.name.clone()).collect()
    }
}

/// Whether every filter that takes a directory out could bring something below it back.
fn may_come_back(filters: &[Filter<'_>], verdicts: &[Matched], path: &Path) -> bool {
    filters
        .iter()
        .zip(verdicts)
        .all(|(filter, verdict)| !verdict.matched || filter.matcher.may_reinclude_below(&filter.path(path)))
}

/// Visits the directories above `path` that were taken out and have now turned out to be needed.
fn visit_pending(
    levels: &mut [Level],
    path: &Path,
    visit: &mut dyn FnMut(Visit<'_>) -> io::Result<ControlFlow<()>>,
) -> io::Result<ControlFlow<()>> {
    for depth in 1..levels.len() {
        let Some((name, stat)) = levels[depth].pending.take() else { continue };
        let above: PathBuf = path.iter().take(depth).collect();
        let parent = levels[depth - 1].dir.as_fd();
        if visit(Visit { parent, name: &name, path: &above, stat: &stat })?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Joins path components without touching `..` or symlinks.
pub fn join(components: &[OsString]) -> PathBuf {
    PathBuf::from(OsString::from_vec(
        components.iter().map(|name| name.as_bytes()).collect::<Vec<_>>().join(&b'/'),
    ))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    /// A directory that goes away with its value.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("wharf-walk-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Paths of a walk with these patterns.
    fn walked(root: &Path, patterns: &[&str]) -> Vec<PathBuf> {
        let root = File::open(root).unwrap();
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        let matcher = Matcher::new(&patterns).unwrap();
        let mut patterns = vec![Filter::relative(&matcher)];
        patterns.retain(|filter| !filter.is_idle());
        let mut paths = Vec::new();
        walk(root.as_fd(), &Filters { patterns, ..Filters::default() }, &mut |seen| {
            paths.push(seen.path.to_owned());
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        paths
    }

    /// What `walked` is to give, the plain way: directories one after the other, by path.
    fn expected(dir: &Path, below: &Path, keep: &dyn Fn(&Path) -> bool, paths: &mut Vec<PathBuf>) {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            let path = below.join(&name);
            if keep(&path) {
                paths.push(path.clone());
                if dir.join(&name).is_dir() {
                    expected(&dir.join(&name), &path, keep, paths);
                }
            }
        }
    }

    #[test]
    fn threads_change_nothing_of_a_large_walk() {
        let scratch = Scratch::new("large");
        for directory in 0..120 {
            let path = scratch.0.join(format!("{}/{directory}/deep", directory % 7));
            fs::create_dir_all(&path).unwrap();
            for file in 0..10 {
                fs::write(path.join(format!("{file}")), "").unwrap();
                fs::write(path.join(format!("../{file}.log")), "").unwrap();
            }
        }
        let check = |patterns: &[&str], keep: &dyn Fn(&Path) -> bool| {
            let mut paths = Vec::new();
            expected(&scratch.0, Path::new(""), keep, &mut paths);
            assert!(paths.len() > 1000, "{}", paths.len());
            assert_eq!(walked(&scratch.0, patterns), paths, "{patterns:?}");
        };
        check(&[], &|_| true);
        check(&["**/*.log", "3"], &|path| {
            path.extension().is_none() && path.iter().next().is_some_and(|first| first != "3")
        });
        // What is brought back shows the directories above it.
        check(&["*", "!*/*/deep"], &|path| {
            path.iter().count() < 3 || path.iter().nth(2).is_some_and(|third| third == "deep")
        });
    }

    #[test]
    fn a_walk_that_breaks_off_ends_at_once() {
        let scratch = Scratch::new("broken-off");
        for directory in 0..100 {
            let path = scratch.0.join(format!("{directory}"));
            fs::create_dir(&path).unwrap();
            (0..20).for_each(|file| fs::write(path.join(format!("{file}")), "").unwrap());
        }
        let root = File::open(&scratch.0).unwrap();
        let mut seen = 0;
        let mut visit = |_: Visit<'_>| {
            seen += 1;
            Ok(if seen == 1000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        walk(root.as_fd(), &Filters::default(), &mut visit).unwrap();
        let mut fail = |_: Visit<'_>| match fs::remove_dir_all(scratch.0.join("99")) {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(_) => Err(io::Error::other("enough")),
        };
        let error = walk(root.as_fd(), &Filters::default(), &mut fail).unwrap_err();
        assert!(error.to_string() == "enough" || error.kind() == io::ErrorKind::NotFound, "{error}");
        assert_eq!(seen, 1000);
    }
}
