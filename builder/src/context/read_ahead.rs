//! Reads directories before a walk comes to them, by other threads.
//!
//! The walk announces which directories it will enter as soon as it knows. Whoever is idle reads the one that is due
//! first; one that nobody has begun when the walk comes to it, the walk reads itself. So what is read is exactly what a
//! walk alone would read, unless that breaks off.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope};

use wharf_cache::Ids;
use wharf_cache::walk::{self, Entry};

/// A walk that has seen fewer entries goes alone: starting a thread takes as long as looking at some fifty.
const ALONE_ENTRIES_MAX: usize = 512;

/// Directories that are read, and held open, before the walk comes to them.
const AHEAD_MAX: usize = 64;

/// Threads beside the walk's own: more only wait for each other in the kernel.
const THREADS_MAX: usize = 7;

/// A directory that was opened and read.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) fd: Arc<OwnedFd>,
    /// Sorted by name.
    pub(super) entries: Vec<Entry>,
}

impl Directory {
    pub(super) fn read(parent: &OwnedFd, name: &OsStr, ids: Ids) -> io::Result<Self> {
        let fd = walk::open_dir_at(parent.as_fd(), name)?;
        let entries = ids.read_dir(fd.as_fd())?;
        Ok(Self { fd: Arc::new(fd), entries })
    }
}

/// The threads of one walk, and what they are to do. They end with it.
pub(super) struct ReadAhead<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    shared: Arc<Shared>,
    ids: Ids,
    entries_seen: usize,
    started: bool,
}

#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    /// Something was announced, or taken, or it is over.
    changed: Condvar,
    /// Something was read.
    read: Condvar,
}

#[derive(Default)]
struct Work {
    /// What was announced and not entered yet, the one that is due first at the end.
    due: Vec<Due>,
    is_over: bool,
}

struct Due {
    parent: Arc<OwnedFd>,
    name: OsString,
    state: State,
}

enum State {
    Waiting,
    Reading,
    Done(io::Result<Directory>),
}

impl Due {
    fn is(&self, parent: &Arc<OwnedFd>, name: &OsStr) -> bool {
        Arc::ptr_eq(&self.parent, parent) && self.name == name
    }
}

impl<'scope, 'env> ReadAhead<'scope, 'env> {
    pub(super) fn new(scope: &'scope Scope<'scope, 'env>, ids: Ids) -> Self {
        Self { scope, shared: Arc::default(), ids, entries_seen: 0, started: false }
    }

    /// The walk has read a directory with this many entries, and will enter those of `names`, in this order, before
    /// anything that was announced earlier.
    pub(super) fn announce(&mut self, parent: &Arc<OwnedFd>, entries: usize, names: Vec<OsString>) {
        self.entries_seen += entries;
        let is_news = !names.is_empty();
        let due = |name| Due { parent: Arc::clone(parent), name, state: State::Waiting };
        let mut work = self.shared.lock();
        work.due.extend(names.into_iter().rev().map(due));
        let is_worth_it = self.entries_seen > ALONE_ENTRIES_MAX && !work.due.is_empty();
        drop(work);
        if is_worth_it && !self.started {
            self.started = true;
            self.start();
        } else if is_news {
            self.shared.changed.notify_all();
        }
    }

    fn start(&self) {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 1..processors.min(THREADS_MAX + 1) {
            let (shared, ids) = (Arc::clone(&self.shared), self.ids);
            // Where there is no thread to be had, the walk reads everything.
            let _ = Builder::new().name("walk".to_owned()).spawn_scoped(self.scope, move || shared.work(ids));
        }
    }

    /// The directory `name` of `parent`, announced or not.
    pub(super) fn enter(&self, parent: &Arc<OwnedFd>, name: &OsStr) -> io::Result<Directory> {
        let mut work = self.shared.lock();
        while let Some(due) = work.due.pop_if(|due| due.is(parent, name)) {
            match due.state {
                State::Done(read) => {
                    self.shared.changed.notify_one();
                    return read;
                }
                State::Waiting => break,
                State::Reading => {
                    work.due.push(due);
                    work = self.shared.read.wait(work).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        drop(work);
        Directory::read(parent, name, self.ids)
    }
}

impl Drop for ReadAhead<'_, '_> {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
    fn work(&self, ids: Ids) {
        let mut work = self.lock();
        while !work.is_over {
            let soon = work.due.iter_mut().rev().take(AHEAD_MAX);
            let Some(due) = soon.into_iter().find(|due| matches!(due.state, State::Waiting)) else {
                work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            due.state = State::Reading;
            let (parent, name) = (Arc::clone(&due.parent), due.name.clone());
            drop(work);
            let read = Directory::read(&parent, &name, ids);
            work = self.lock();
            // The walk waits for what is being read, but not when it broke off.
            if let Some(due) = work.due.iter_mut().rev().find(|due| due.is(&parent, &name)) {
                due.state = State::Done(read);
            }
            self.read.notify_one();
        }
    }
}
