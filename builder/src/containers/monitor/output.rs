//! What a container prints: to its log, and to whoever is attached.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionread};
use wharf_runtime::{Cancel, Stream};

use crate::containers::connect::Connection;
use crate::containers::log::{Lines, LogWriter};
use crate::containers::protocol::{Answer, FrameKind, Streams};

/// What is read at once: what a pipe holds.
const CHUNK_BYTES: usize = 64 << 10;

/// Where output goes.
#[derive(Debug)]
pub(super) struct Hub {
    log: Mutex<Option<LogWriter>>,
    listeners: Mutex<Vec<Listener>>,
    /// Why the log could not be written the first time, until somebody is told.
    broken: Mutex<Option<String>>,
    is_broken: AtomicBool,
}

/// Somebody who is attached.
#[derive(Debug, Clone)]
struct Listener {
    connection: Arc<Connection>,
    streams: Streams,
}

impl Hub {
    pub(super) fn new(log: Option<LogWriter>) -> Self {
        Self {
            log: Mutex::new(log),
            listeners: Mutex::default(),
            broken: Mutex::default(),
            is_broken: AtomicBool::new(false),
        }
    }

    /// From now on what is printed is sent there too.
    pub(super) fn add(&self, connection: Arc<Connection>, streams: Streams) {
        lock(&self.listeners).push(Listener { connection, streams });
    }

    pub(super) fn remove(&self, connection: &Arc<Connection>) {
        lock(&self.listeners).retain(|listener| !Arc::ptr_eq(&listener.connection, connection));
    }

    /// Why the log cannot be written, if that is news.
    pub(super) fn take_broken(&self) -> Option<String> {
        lock(&self.broken).take()
    }

    /// Reads a stream to its end; `tell` is called when there is something new in [`Self::take_broken`]. Whoever is attached and slow slows the container; whoever hangs up does not.
    pub(super) fn pump(&self, stream: Stream, from: &OwnedFd, tell: &dyn Fn()) {
        let mut lines = Lines::default();
        pump(from, None, &mut |chunk| {
            let time = now();
            lines.push(chunk, |line| self.write(stream, time, line));
            if lock(&self.broken).is_some() {
                tell();
            }
            self.send(stream, chunk);
        });
        let time = now();
        lines.end(|line| self.write(stream, time, line));
    }

    fn write(&self, stream: Stream, time: SystemTime, line: &[u8]) {
        let mut log = lock(&self.log);
        let Some(log) = log.as_mut() else { return };
        if let Err(error) = log.write(stream, time, line)
            && !self.is_broken.swap(true, Ordering::SeqCst)
        {
            *lock(&self.broken) = Some(error.to_string());
        }
    }

    fn send(&self, stream: Stream, chunk: &[u8]) {
        let listeners = lock(&self.listeners).clone();
        for Listener { connection, streams } in listeners {
            let (wanted, kind) = match stream {
                Stream::Stdout => (streams.stdout, FrameKind::Stdout),
                Stream::Stderr => (streams.stderr, FrameKind::Stderr),
            };
            if wanted && connection.send(kind, chunk).is_err() {
                self.remove(&connection);
            }
        }
    }

    /// Tells everybody who is attached that the process has ended. Whoever does not listen keeps this waiting, but not the
    /// others, until [`Self::hang_up`].
    pub(super) fn end(&self, status: u8) {
        let listeners = lock(&self.listeners).clone();
        thread::scope(|scope| {
            for Listener { connection, .. } in &listeners {
                scope.spawn(move || {
                    // Who has hung up is not told.
                    let _ = connection.answer(&Answer::Exited(status));
                    connection.hang_up();
                });
            }
        });
        lock(&self.listeners).clear();
    }

    /// Hangs up on everybody who is attached.
    pub(super) fn hang_up(&self) {
        for Listener { connection, .. } in lock(&self.listeners).iter() {
            connection.hang_up();
        }
    }
}

/// Hands on what can be read from a pipe or terminal until its end; once `ended` is triggered, what is there then.
pub(super) fn pump(from: &OwnedFd, ended: Option<&Cancel>, sink: &mut dyn FnMut(&[u8])) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        if let Some(ended) = ended {
            let mut polled =
                [PollFd::new(from, PollFlags::IN), PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN)];
            match poll(&mut polled, None) {
                Err(Errno::INTR) => continue,
                Err(_) => return,
                Ok(_) => {}
            }
            // Somebody whom the process has left behind may keep the pipe open.
            if polled[0].revents().is_empty() || !polled[1].revents().is_empty() && left(from) == 0 {
                return;
            }
        }
        match rustix::io::read(from, &mut *buffer) {
            Ok(0) => return,
            Ok(length) => sink(&buffer[..length]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A terminal that nobody has open any more.
            Err(_) => return,
        }
    }
}

fn left(from: &OwnedFd) -> u64 {
    ioctl_fionread(from).unwrap_or(0)
}

/// The end of a pipe that a process has, and this one's.
pub(super) fn pipe_from() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, its) = io::pipe()?;
    Ok((ours.into(), its.into()))
}

/// The same for its input: this process's end comes first.
pub(super) fn pipe_to() -> io::Result<(File, OwnedFd)> {
    let (its, ours) = io::pipe()?;
    Ok((File::from(OwnedFd::from(ours)), its.into()))
}

pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

/// Locks what is whole between any two statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads what a small file says, if it can be read.
pub(super) fn read_small(path: &str) -> Option<String> {
    const BYTES_MAX: u64 = 1 << 20;
    let mut text = Vec::new();
    File::open(path).ok()?.take(BYTES_MAX).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}
