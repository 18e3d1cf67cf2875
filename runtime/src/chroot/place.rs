//! Putting things into a step's directory for the time that it runs: what mounts do elsewhere.
//!
//! A thing is moved in by `rename`, what was there is kept outside meanwhile, and both are moved back afterwards. Before
//! and after, no process works in the directory; in between, a hostile one does. So everything is found again by
//! descriptor, wherever it was moved to, and what has come to be in its place goes out as well: no trace is left.
//! Directories that looked the same before and after keep their times.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::RuntimeError;
use crate::rootfs::{MountPoints, Place, TargetKind, identity, modified};

/// What is in its place while a step runs. [`Self::take_away`] undoes everything, as dropping it does.
pub(super) struct Places<'a> {
    root: BorrowedFd<'a>,
    /// Where things are kept.
    aside: BorrowedFd<'a>,
    points: MountPoints,
    /// In the order in which they were put there.
    placed: Vec<Placed>,
    touched: Vec<Touched>,
    is_settled: bool,
    names: u32,
}

/// One thing.
struct Placed {
    target: PathBuf,
    place: Place,
    object: OwnedFd,
    identity: (u64, u64),
    is_directory: bool,
    /// Where it came from and goes back to; what has no home stays aside.
    home: Option<Place>,
    /// The name under which what was in its place is kept aside.
    covered: OsString,
}

/// A directory in which something was put.
struct Touched {
    directory: OwnedFd,
    identity: (u64, u64),
    before: Timespec,
    /// When everything was in place.
    placed: Timespec,
}

impl<'a> Places<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, aside: BorrowedFd<'a>) -> Self {
        let points = MountPoints::default();
        Self { root, aside, points, placed: Vec::new(), touched: Vec::new(), is_settled: false, names: 0 }
    }

    /// Moves the entry `name` of `from` to `target`. Afterwards it goes back if it `returns`; if the step has deleted it
    /// and it is a directory, an empty one or what the step has put there does.
    pub(super) fn put(
        &mut self,
        target: &Path,
        from: BorrowedFd<'_>,
        name: &OsStr,
        returns: bool,
    ) -> Result<(), RuntimeError> {
        self.put_entry(target, from, name, returns).map_err(|source| {
            failed(format!("put what is mounted at {} in place", target.display()), source)
        })?
    }

    fn put_entry(
        &mut self,
        target: &Path,
        from: BorrowedFd<'_>,
        name: &OsStr,
        returns: bool,
    ) -> io::Result<Result<(), RuntimeError>> {
        let object = rustix::fs::openat(from, name, ENTRY, Mode::empty())?;
        let stat = rustix::fs::fstat(&object)?;
        let is_directory = is_directory(&stat);
        let kind = if is_directory { TargetKind::Directory } else { TargetKind::File };
        let made = match self.points.place(self.root, target, kind) {
            Ok(place) => place,
            Err(error) => return Ok(Err(error)),
        };
        self.touch(made.parent.as_fd())?;
        let covered = self.move_aside(&made)?;
        if let Err(errno) = rustix::fs::renameat(from, name, &made.parent, &made.name) {
            rustix::fs::renameat(self.aside, &covered, &made.parent, &made.name)?;
            return Err(errno.into());
        }
        let home = match returns {
            true => Some(Place { parent: from.try_clone_to_owned()?, name: name.to_owned() }),
            false => None,
        };
        self.placed.push(Placed {
            target: target.to_owned(),
            place: made,
            object,
            identity: identity(&stat),
            is_directory,
            home,
            covered,
        });
        Ok(Ok(()))
    }

    /// Everything is in place: remembers what the directories look like.
    pub(super) fn settle(&mut self) -> Result<(), RuntimeError> {
        self.is_settled = true;
        let look = |source: Errno| failed("look at a directory of the step", source.into());
        // Earlier times are known of those in which mount points were made.
        for (directory, before) in self.points.parents() {
            let stat = rustix::fs::fstat(directory).map_err(look)?;
            match self.touched.iter_mut().find(|touched| touched.identity == identity(&stat)) {
                Some(touched) => touched.before = earlier(touched.before, before),
                None => self.touched.push(Touched {
                    directory: directory
                        .try_clone_to_owned()
                        .map_err(|source| failed("look at a directory of the step", source))?,
                    identity: identity(&stat),
                    before,
                    placed: before,
                }),
            }
        }
        for touched in &mut self.touched {
            touched.placed = modified(&rustix::fs::fstat(&touched.directory).map_err(look)?);
        }
        Ok(())
    }

    /// Takes everything out again and puts back what was there. Goes on after a failure and returns the first one.
    pub(super) fn take_away(mut self) -> Result<(), RuntimeError> {
        self.take_away_all()
    }

    fn take_away_all(&mut self) -> Result<(), RuntimeError> {
        let mut result = if self.is_settled { Ok(()) } else { self.settle() };
        // What the directories look like now is the step's doing, or ours from before.
        let left: Vec<io::Result<Timespec>> = self
            .touched
            .iter()
            .map(|touched| Ok(modified(&rustix::fs::fstat(&touched.directory)?)))
            .collect();
        while let Some(placed) = self.placed.pop() {
            let taken = self.take(&placed).map_err(|source| {
                failed(format!("take away what was mounted at {}", placed.target.display()), source)
            });
            result = result.and(taken);
        }
        result = result.and(std::mem::take(&mut self.points).remove());
        for (touched, left) in self.touched.drain(..).zip(left) {
            let restored = left.and_then(|left| {
                let time = if left == touched.placed { touched.before } else { left };
                let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
                let times = Timestamps { last_access: omit, last_modification: time };
                Ok(rustix::fs::utimensat(&touched.directory, c".", &times, AtFlags::empty())?)
            });
            result = result.and(
                restored.map_err(|source| failed("restore the time of a directory of the step", source)),
            );
        }
        result
    }

    fn take(&mut self, placed: &Placed) -> io::Result<()> {
        let mut came_home = false;
        if let Some(place) = self.find(placed)? {
            came_home = placed.home.is_some();
            self.move_out(&place, placed.home.as_ref())?;
        }
        let is_in_place = rustix::fs::fstat(&placed.place.parent)?.st_nlink > 0;
        let place = if is_in_place { Some(placed.place.again()?) } else { self.seek(&placed.target)? };
        // Something else in its place was made in what the step took for a mount, and goes where that goes.
        if let Some(place) = &place
            && let Some(stat) = look(place)?
        {
            let takes_its_place = !came_home && placed.is_directory && is_directory(&stat);
            let home = placed.home.as_ref().filter(|_| takes_its_place);
            came_home |= home.is_some();
            self.move_out(place, home)?;
        }
        if let (false, true, Some(home)) = (came_home, placed.is_directory, &placed.home) {
            rustix::fs::mkdirat(&home.parent, &home.name, Mode::from_raw_mode(0o755))?;
        }
        match place {
            Some(place) if is_in_place => {
                Ok(rustix::fs::renameat(self.aside, &placed.covered, &place.parent, &place.name)?)
            }
            // The step has deleted the directory, and so what was in it.
            _ => Ok(()),
        }
    }

    /// Where a thing is now, if it is anywhere.
    fn find(&self, placed: &Placed) -> io::Result<Option<Place>> {
        if is_at(&placed.place, placed.identity)? {
            return placed.place.again().map(Some);
        }
        // The kernel knows; what it says is only a hint, because names may hold anything.
        let (Some(root), Some(path)) = (path_of(self.root), path_of(placed.object.as_fd())) else {
            return Ok(None);
        };
        let Ok(inside) = path.strip_prefix(&root) else { return Ok(None) };
        let (Some(parent), Some(name)) = (inside.parent(), inside.file_name()) else { return Ok(None) };
        let Some(parent) = open_inside(self.root, parent)? else { return Ok(None) };
        let place = Place { parent, name: name.to_owned() };
        Ok(is_at(&place, placed.identity)?.then_some(place))
    }

    /// The place that `target` leads to now.
    fn seek(&self, target: &Path) -> io::Result<Option<Place>> {
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else { return Ok(None) };
        let parent = open2(self.root, parent, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?;
        Ok(parent.map(|parent| Place { parent, name: name.to_owned() }))
    }

    /// Moves something out of the root: home, or aside.
    fn move_out(&mut self, place: &Place, home: Option<&Place>) -> io::Result<()> {
        match home {
            Some(home) => Ok(rustix::fs::renameat(&place.parent, &place.name, &home.parent, &home.name)?),
            None => self.move_aside(place).map(drop),
        }
    }

    fn move_aside(&mut self, place: &Place) -> io::Result<OsString> {
        let name = OsString::from(format!("aside-{}", self.names));
        self.names += 1;
        rustix::fs::renameat(&place.parent, &place.name, self.aside, &name)?;
        Ok(name)
    }

    /// Remembers a directory in which something is going to be put.
    fn touch(&mut self, directory: BorrowedFd<'_>) -> io::Result<()> {
        let stat = rustix::fs::fstat(directory)?;
        if !self.touched.iter().any(|touched| touched.identity == identity(&stat)) {
            let time = modified(&stat);
            self.touched.push(Touched {
                directory: directory.try_clone_to_owned()?,
                identity: identity(&stat),
                before: time,
                placed: time,
            });
        }
        Ok(())
    }
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        // Whoever drops this has an error to report already.
        let _ = self.take_away_all();
    }
}

/// Opens an entry as it is, links included.
const ENTRY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn look(place: &Place) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(&place.parent, &place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_at(place: &Place, expected: (u64, u64)) -> io::Result<bool> {
    Ok(look(place)?.is_some_and(|stat| identity(&stat) == expected))
}

/// Where something is, as this process sees it.
fn path_of(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = rustix::fs::readlinkat(rustix::fs::CWD, link, Vec::new()).ok()?;
    Some(PathBuf::from(OsString::from_vec(path.into_bytes())))
}

/// The directory `path` below `root`, if it is one, without following anything.
fn open_inside(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    open2(root, path, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn open2(root: BorrowedFd<'_>, path: &Path, resolve: ResolveFlags) -> io::Result<Option<OwnedFd>> {
    let path = if path.as_os_str().as_bytes().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn earlier(a: Timespec, b: Timespec) -> Timespec {
    if (b.tv_sec, b.tv_nsec) < (a.tv_sec, a.tv_nsec) { b } else { a }
}

fn failed(step: impl Into<String>, source: io::Error) -> RuntimeError {
    RuntimeError::Step { step: step.into(), source }
}
