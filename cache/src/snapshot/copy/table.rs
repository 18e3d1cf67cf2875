//! What a working tree looked like, and what has changed since.
//!
//! A file whose stat is the same is the same file: every change of a file, of its bytes, attributes, owner, mode or names,
//! moves its change time, which nobody can set. That holds from the moment when the clock of the file system has gone on
//! beyond the newest time in the table ([`Table::settle`]).

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::writer::split;
use crate::walk::{FileKind, Stat, Walk};

/// The clock is waited for in steps of this size, about its own.
const TICK: Duration = Duration::from_millis(1);

/// A time that is still ahead after so many steps was set by somebody: the clock has been put back.
const TICKS_MAX: u32 = 1500;

/// Stats by path, sorted by the bytes of the path.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<(OsString, Stat)>);

impl Table {
    /// Of everything below `root`.
    pub(super) fn read(root: BorrowedFd<'_>) -> io::Result<Self> {
        let entries = Walk::new(root)?.map(|visited| visited.map(|it| (it.path, it.entry.stat)));
        entries.collect::<io::Result<_>>().map(Self)
    }

    /// The newest change time.
    pub(super) fn newest(&self) -> (i64, u32) {
        self.0.iter().map(|(_, stat)| stat.ctime).max().unwrap_or_default()
    }

    /// Waits until what changes from now on gets a change time that is in no stat of the table.
    pub(super) fn settle(&self) {
        let newest = self.newest();
        // Some file systems count seconds.
        let coarse = self.0.iter().all(|(_, stat)| stat.ctime.1 == 0);
        for _ in 0..TICKS_MAX {
            let now = clock_gettime(ClockId::RealtimeCoarse);
            let nanoseconds = if coarse { 0 } else { u32::try_from(now.tv_nsec).unwrap_or(0) };
            if (now.tv_sec, nanoseconds) > newest {
                return;
            }
            std::thread::sleep(TICK);
        }
    }
}

/// What differs between two tables of one tree.
#[derive(Debug)]
pub(super) struct Changes<'a> {
    /// Sorted by path; a superset of what is different, as the names of a file that has changed are all in it.
    pub(super) list: Vec<Change<'a>>,
    /// Whether the changes say all about the tree: overlayfs would have split files that have several names, and hidden
    /// what looks like its own marks.
    pub(super) exact: bool,
}

/// A path that is not what it was.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) path: &'a OsStr,
    pub(super) now: Now<'a>,
}

/// What a path is now.
#[derive(Debug)]
pub(super) enum Now<'a> {
    /// Nothing.
    Gone,
    /// A directory; an opaque one has taken another's place.
    Dir { opaque: bool },
    /// A file.
    File { stat: &'a Stat, names: Names<'a> },
}

/// What a changed file is called besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names<'a> {
    /// Nothing.
    One,
    /// Something that is listed later.
    First,
    /// It has been listed before, by this name.
    Of(&'a OsStr),
}

/// Compares two tables. `is_made_since` says of a path of `now` whether the file was made after `before` was read: inode
/// numbers are used again.
pub(super) fn changes<'a>(
    before: &'a Table,
    now: &'a Table,
    is_made_since: &dyn Fn(&OsStr) -> io::Result<bool>,
) -> io::Result<Changes<'a>> {
    let mut comparison = Comparison {
        list: Vec::new(),
        severed: HashSet::new(),
        groups: HashMap::new(),
        exact: true,
        is_made_since,
    };
    let (mut before, mut now) = (before.0.iter().peekable(), now.0.iter().peekable());
    loop {
        let order = match (before.peek(), now.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((was, _)), Some((is, _))) => was.cmp(is),
        };
        let was = if order.is_le() { before.next() } else { None };
        let is = if order.is_ge() { now.next() } else { None };
        comparison.pair(was, is)?;
    }
    comparison.link_names();
    Ok(Changes { list: comparison.list, exact: comparison.exact })
}

struct Comparison<'a, 'f> {
    list: Vec<Change<'a>>,
    /// Directories of the table before that are not there any more.
    severed: HashSet<&'a OsStr>,
    /// Files with several names, by device and inode.
    groups: HashMap<(u64, u64), Group>,
    exact: bool,
    is_made_since: &'f dyn Fn(&OsStr) -> io::Result<bool>,
}

/// The names of a file that has several, or had.
#[derive(Debug, Default)]
struct Group {
    /// Positions in the list: names that it had before, and new ones.
    old: Vec<usize>,
    new: Vec<usize>,
    /// How many of the names before are gone.
    gone: usize,
}

type Entry = (OsString, Stat);

impl<'a> Comparison<'a, '_> {
    /// One path, as it was and as it is.
    fn pair(&mut self, was: Option<&'a Entry>, is: Option<&'a Entry>) -> io::Result<()> {
        let Some((path, _)) = was.or(is) else { return Ok(()) };
        // Nobody could make one on overlayfs.
        let is = is.map(|(_, stat)| stat).filter(|stat| {
            let is_mark = stat.is_whiteout();
            self.exact &= !is_mark;
            !is_mark
        });
        let is_severed = self.severed.contains(split(path).0);
        let stays = match (was, is) {
            (Some((_, was)), Some(is)) if !is_severed && is_same_file(was, is) => {
                was == is || !self.is_reused(path, is)?
            }
            _ => false,
        };
        if let (Some((path, was)), false) = (was, stays) {
            match was.kind {
                FileKind::Dir => {
                    self.severed.insert(path);
                }
                _ if was.nlink > 1 => self.groups.entry((was.dev, was.ino)).or_default().gone += 1,
                _ => {}
            }
        }
        let was = was.filter(|_| !is_severed).map(|(_, stat)| stat);
        let now = match is {
            None if was.is_none() => return Ok(()),
            None => Now::Gone,
            Some(is) if stays && was == Some(is) => return Ok(()),
            Some(stat) if stat.kind == FileKind::Dir => {
                let opaque = !stays && was.is_some_and(|was| was.kind == FileKind::Dir);
                Now::Dir { opaque }
            }
            Some(stat) => {
                if stat.nlink > 1 {
                    let group = self.groups.entry((stat.dev, stat.ino)).or_default();
                    let names = if stays { &mut group.old } else { &mut group.new };
                    names.push(self.list.len());
                }
                Now::File { stat, names: Names::One }
            }
        };
        self.list.push(Change { path, now });
        Ok(())
    }

    /// Whether the inode is another file's by now. Asked only where it makes a difference.
    fn is_reused(&self, path: &OsStr, stat: &Stat) -> io::Result<bool> {
        let matters = stat.kind == FileKind::Dir || stat.nlink > 1;
        if matters { (self.is_made_since)(path) } else { Ok(false) }
    }

    /// Overlayfs copies up a file under the name by which it is changed, and the copy has no other names. So the names of
    /// one file below become several files, and only new names are names of one.
    fn link_names(&mut self) {
        for group in self.groups.values() {
            let names = group.old.len() + group.new.len();
            let mut linked = group.new.clone();
            // Where none is gone, the new ones were made from one that is there; else it was probably renamed.
            if group.gone == 0 {
                linked.extend(group.old.first());
            }
            self.exact &= names < 2 || linked.len() == names;
            linked.sort_unstable();
            let Some((&first, others)) = linked.split_first() else { continue };
            if others.is_empty() {
                continue;
            }
            let of_first = Names::Of(self.list[first].path);
            for &name in &linked {
                if let Now::File { names, .. } = &mut self.list[name].now {
                    *names = if name == first { Names::First } else { of_first };
                }
            }
        }
    }
}

fn is_same_file(was: &Stat, is: &Stat) -> bool {
    (was.kind, was.dev, was.ino) == (is.kind, is.dev, is.ino)
}
