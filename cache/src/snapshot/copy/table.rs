//! What a working tree looked like, and what has changed since.
//!
//! A file whose stat is the same is the same file: every change of a file, of its bytes, attributes, owner, mode or names,
//! moves its change time, which nobody can set; and a directory with the same stat has the same names in it. That holds
//! from the moment when the clock of the file system has gone on beyond the newest time in the table ([`Table::settle`]).
//! So looking again is one `statx` a file, and only directories that have changed are listed.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::fs::{Mode, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::PATH;
use super::writer::split;
use crate::Ids;
use crate::walk::{self, FileKind, Stat, Walk};

/// Seconds and nanoseconds since the epoch.
pub(super) type Time = (i64, u32);

/// The clock is waited for in steps of this size, about its own.
const TICK: Duration = Duration::from_millis(1);

/// A time that is still ahead after so many steps was set by somebody: the clock has been put back.
const TICKS_MAX: u32 = 1500;

/// Below this many files a second thread costs more (about 50 µs) than it saves.
const PARALLEL_MIN: usize = 1000;

/// Stats by path, sorted by the bytes of the path.
#[derive(Debug)]
pub(super) struct Table {
    ids: Ids,
    root: Stat,
    /// The paths, one after the other.
    paths: Vec<u8>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    /// Where its path ends. It begins where the one before ends.
    end: usize,
    stat: Stat,
}

impl Table {
    /// Of everything below `root`.
    pub(super) fn read(root: BorrowedFd<'_>, ids: Ids) -> io::Result<Self> {
        let mut table = Self { ids, root: walk::stat_of(root)?, paths: Vec::new(), rows: Vec::new() };
        for visited in Walk::new(root, ids)? {
            let visited = visited?;
            table.push(&visited.path, visited.entry.stat);
        }
        Ok(table)
    }

    /// The same some time later, when all that has changed since the time `settled` has a change time that is not before.
    pub(super) fn again(&self, root: BorrowedFd<'_>, settled: Time) -> io::Result<Self> {
        let root_stat = walk::stat_of(root)?;
        let stats = self.stats_again(root)?;
        let mut added = Vec::new();
        if !is_unchanged(&self.root, &root_stat, settled) {
            self.list(root, OsStr::new(""), &mut added)?;
        }
        for ((path, was), is) in self.iter().zip(&stats) {
            let Some(is) = is.filter(|is| is.kind == FileKind::Dir) else { continue };
            if was.kind == FileKind::Dir && is_unchanged(was, &is, settled) {
                continue;
            }
            let Some(dir) = open_below(root, path)? else { continue };
            if was.kind == FileKind::Dir {
                self.list(dir.as_fd(), path, &mut added)?;
            } else {
                self.walk(dir.as_fd(), path, &mut added)?;
            }
        }
        added.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut table = Self {
            ids: self.ids,
            root: root_stat,
            paths: Vec::with_capacity(self.paths.len()),
            rows: Vec::with_capacity(self.rows.len() + added.len()),
        };
        let mut added = added.into_iter().peekable();
        for ((path, _), stat) in self.iter().zip(stats) {
            while let Some((path, stat)) = added.next_if(|(new, _)| new.as_os_str() < path) {
                table.push(&path, stat);
            }
            if let Some(stat) = stat {
                table.push(path, stat);
            }
        }
        added.for_each(|(path, stat)| table.push(&path, stat));
        Ok(table)
    }

    fn push(&mut self, path: &OsStr, stat: Stat) {
        self.paths.extend(path.as_bytes());
        self.rows.push(Row { end: self.paths.len(), stat });
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn path(&self, row: usize) -> &OsStr {
        let start = row.checked_sub(1).map_or(0, |before| self.rows[before].end);
        OsStr::from_bytes(&self.paths[start..self.rows[row].end])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.rows.iter().enumerate().map(|(number, row)| (self.path(number), &row.stat))
    }

    /// Whether there is a row of the file `name` in the directory `dir`.
    fn has(&self, dir: &OsStr, name: &OsStr) -> bool {
        let (mut low, mut high) = (0, self.len());
        let wanted = join(dir, name);
        while low < high {
            let middle = low.midpoint(high);
            match self.path(middle).cmp(&wanted) {
                Ordering::Equal => return true,
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        false
    }

    /// The newest change time.
    fn newest(&self) -> Time {
        let times = self.rows.iter().map(|row| row.stat.ctime);
        times.chain([self.root.ctime]).max().unwrap_or_default()
    }

    /// The bytes of all files.
    pub(super) fn size(&self) -> u64 {
        let files = self.rows.iter().filter(|row| row.stat.kind == FileKind::File);
        files.map(|row| row.stat.size).fold(0, u64::saturating_add)
    }

    /// Waits until what changes from now on gets a change time that is in no stat of the table, and returns the earliest
    /// one that it can get. `probe` is a directory of the same file system.
    pub(super) fn settle(&self, probe: BorrowedFd<'_>) -> io::Result<Time> {
        let newest = self.newest();
        let mut now = clock(probe)?;
        for tick in 0..TICKS_MAX {
            if now > newest {
                break;
            }
            // Where times are as fine as they need to be, looking once more is enough.
            if tick > 0 {
                std::thread::sleep(TICK);
            }
            now = clock(probe)?;
        }
        Ok(now)
    }

    /// What is now at the paths of the table.
    fn stats_again(&self, root: BorrowedFd<'_>) -> io::Result<Vec<Option<Stat>>> {
        if self.len() < PARALLEL_MIN {
            return self.stats_of(root, 0..self.len());
        }
        let middle = self.len() / 2;
        std::thread::scope(|scope| {
            let second = scope.spawn(|| self.stats_of(root, middle..self.len()));
            let mut stats = self.stats_of(root, 0..middle)?;
            stats.extend(second.join().map_err(|_| io::Error::other("a thread has died"))??);
            Ok(stats)
        })
    }

    fn stats_of(&self, root: BorrowedFd<'_>, rows: Range<usize>) -> io::Result<Vec<Option<Stat>>> {
        let mut dirs = Descent { root, open: Vec::new() };
        let mut stats = Vec::with_capacity(rows.len());
        for number in rows {
            let (dir, name) = split(self.path(number));
            let stat = match dirs.go(dir)? {
                Some(dir) => self.stat(dir, name, &self.rows[number].stat)?,
                None => None,
            };
            stats.push(stat);
        }
        Ok(stats)
    }

    /// What is now at a path at which `was` was.
    fn stat(&self, dir: BorrowedFd<'_>, name: &OsStr, was: &Stat) -> io::Result<Option<Stat>> {
        let is = match walk::stat_at(dir, name) {
            Ok(is) => is,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // What is recorded of it moves the change time too, but for that of files that have no attributes.
        let has_attributes = matches!(is.kind, FileKind::File | FileKind::Dir);
        let is_recorded = self.ids == Ids::Recorded && !has_attributes;
        let is_same = (is.dev, is.ino, is.ctime, is.mtime) == (was.dev, was.ino, was.ctime, was.mtime)
            && (is.size, is.mode, is.nlink) == (was.size, was.mode, was.nlink);
        if is_same && !is_recorded { Ok(Some(*was)) } else { self.ids.stat_at(dir, name).map(Some) }
    }

    /// Adds what is in the directory `path` and in no row.
    fn list(&self, dir: BorrowedFd<'_>, path: &OsStr, added: &mut Vec<(OsString, Stat)>) -> io::Result<()> {
        let dir = walk::open_dir_at(dir, OsStr::new("."))?;
        for name in walk::names_in(dir.as_fd())? {
            if self.has(path, &name) {
                continue;
            }
            let stat = self.ids.stat_at(dir.as_fd(), &name)?;
            let path = join(path, &name);
            if stat.kind == FileKind::Dir {
                self.walk(walk::open_dir_at(dir.as_fd(), &name)?.as_fd(), &path, added)?;
            }
            added.push((path, stat));
        }
        Ok(())
    }

    /// Adds everything below a directory that was not there.
    fn walk(&self, dir: BorrowedFd<'_>, path: &OsStr, added: &mut Vec<(OsString, Stat)>) -> io::Result<()> {
        for visited in Walk::new(dir, self.ids)? {
            let visited = visited?;
            added.push((join(path, &visited.path), visited.entry.stat));
        }
        Ok(())
    }
}

/// Whether a directory is sure to be what it was: nobody has changed it since the time `settled`.
fn is_unchanged(was: &Stat, is: &Stat, settled: Time) -> bool {
    was == is && is.ctime < settled
}

/// The way from the root down to a directory, kept open. Paths in order share most of it.
struct Descent<'a> {
    root: BorrowedFd<'a>,
    /// Paths of directories, each in the one before; none where there is no such directory any more.
    open: Vec<(Vec<u8>, Option<OwnedFd>)>,
}

impl Descent<'_> {
    /// Opens the directory `path`.
    fn go(&mut self, path: &OsStr) -> io::Result<Option<BorrowedFd<'_>>> {
        let path = path.as_bytes();
        while self.open.last().is_some_and(|(open, _)| !is_at_or_below(path, open)) {
            self.open.pop();
        }
        loop {
            let reached = self.open.last().map_or(0, |(open, _)| open.len());
            if reached == path.len() {
                break;
            }
            let start = if reached == 0 { 0 } else { reached + 1 };
            let end = path[start..].iter().position(|&byte| byte == b'/').map_or(path.len(), |at| start + at);
            let above = match self.open.last() {
                Some((_, dir)) => dir.as_ref().map(OwnedFd::as_fd),
                None => Some(self.root),
            };
            let dir = match above {
                Some(above) => open_at(above, OsStr::from_bytes(&path[start..end]))?,
                None => None,
            };
            self.open.push((path[..end].to_owned(), dir));
        }
        Ok(match self.open.last() {
            Some((_, dir)) => dir.as_ref().map(OwnedFd::as_fd),
            None => Some(self.root),
        })
    }
}

fn is_at_or_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The directory `name` of `dir`, only as a path; none if there is none.
fn open_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    match rustix::fs::openat(dir, name, PATH, Mode::empty()) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn open_below(root: BorrowedFd<'_>, path: &OsStr) -> io::Result<Option<OwnedFd>> {
    crate::diff::open_dir_below(root, path.as_bytes())
}

/// The time that the file system gives to a change made now.
fn clock(probe: BorrowedFd<'_>) -> io::Result<Time> {
    let (tv_sec, tv_nsec) = walk::stat_of(probe)?.mtime;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec, tv_nsec: tv_nsec.into() },
    };
    rustix::fs::futimens(probe, &times)?;
    Ok(walk::stat_of(probe)?.ctime)
}

fn join(dir: &OsStr, name: &OsStr) -> OsString {
    let mut path = OsString::with_capacity(dir.len() + 1 + name.len());
    if !dir.is_empty() {
        path.push(dir);
        path.push("/");
    }
    path.push(name);
    path
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

/// Compares two tables, of which the first was what it is until `settled`. `is_made_since` says of a path of `now` whether
/// the file was made after that: inode numbers are used again.
pub(super) fn changes<'a>(
    before: &'a Table,
    now: &'a Table,
    settled: Time,
    is_made_since: &dyn Fn(&OsStr) -> io::Result<bool>,
) -> io::Result<Changes<'a>> {
    let mut comparison = Comparison {
        settled,
        list: Vec::new(),
        severed: HashSet::new(),
        groups: HashMap::new(),
        exact: true,
        is_made_since,
    };
    let (mut before, mut now) = (before.iter().peekable(), now.iter().peekable());
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
    settled: Time,
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

/// A path with its stat.
pub(super) type Entry<'a> = (&'a OsStr, &'a Stat);

impl<'a> Comparison<'a, '_> {
    /// One path, as it was and as it is.
    fn pair(&mut self, was: Option<Entry<'a>>, is: Option<Entry<'a>>) -> io::Result<()> {
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
            // A file that claims to have changed after now may have done so and look the same.
            Some(is) if stays && was == Some(is) && is.ctime < self.settled => return Ok(()),
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
