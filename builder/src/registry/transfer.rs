//! How far a transfer is, and several transfers at once.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use wharf_cache::Digest;

/// Transfers that run at the same time: enough to fill a line, few enough for registries that limit connections.
pub(crate) const TRANSFERS_AT_ONCE: usize = 4;
/// A report comes after every this many bytes.
const REPORT_EVERY_BYTES: u64 = 256 * 1024;

/// How far the transfer of one blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// The blob.
    pub digest: Digest,
    /// Bytes so far; smaller than before when the transfer had to start again.
    pub current: u64,
    /// All bytes.
    pub total: u64,
    /// Whether nothing more will come.
    pub done: bool,
}

/// Where reports go. Called from one thread at a time.
pub type Progress<'a> = &'a (dyn Fn(Transfer) + Sync);

/// Sends reports. Readers that outlive the caller's borrow (they are handed to other threads as `'static`) hold
/// one, while the caller's callback stays where it is.
#[derive(Debug, Clone)]
pub(crate) struct Meter(mpsc::Sender<Option<Transfer>>);

impl Meter {
    /// Runs `work` with a meter whose reports reach `progress` while it runs.
    pub(crate) fn run<T>(progress: Progress<'_>, work: impl FnOnce(Self) -> T) -> T {
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || receiver.into_iter().map_while(|report| report).for_each(progress));
            let _ending = Ending(sender.clone());
            work(Self(sender))
        })
    }

    /// Reports a blob that needs no transfer, or whose transfer has ended.
    pub(crate) fn done(&self, digest: Digest, total: u64) {
        self.send(Transfer { digest, current: total, total, done: true });
    }

    /// Reports what is read through the returned reader.
    pub(crate) fn wrap<R: Read>(&self, reader: R, digest: Digest, total: u64) -> Metered<R> {
        self.send(Transfer { digest, current: 0, total, done: false });
        Metered { inner: reader, meter: self.clone(), digest, total, current: 0, reported: 0, ending: false }
    }

    fn send(&self, transfer: Transfer) {
        // The receiver is gone only when the caller unwinds: nobody is left to be told.
        let _ = self.0.send(Some(transfer));
    }
}

/// Ends the reports when dropped, whoever may still hold a meter: a request that nobody waits for any more does.
struct Ending(mpsc::Sender<Option<Transfer>>);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.send(None);
    }
}

/// A reader that reports how much went through it.
#[derive(Debug)]
pub(crate) struct Metered<R> {
    inner: R,
    meter: Meter,
    digest: Digest,
    total: u64,
    current: u64,
    reported: u64,
    ending: bool,
}

impl<R> Metered<R> {
    /// The transfer is done when the reader is at its end. (An upload is only done when the registry says so.)
    pub(crate) fn ending(mut self) -> Self {
        self.ending = true;
        self
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.current += count as u64;
        if self.ending && count == 0 && !buf.is_empty() {
            self.ending = false;
            self.meter.done(self.digest, self.total);
        } else if self.current >= self.reported + REPORT_EVERY_BYTES {
            self.reported = self.current;
            let current = self.current.min(self.total);
            self.meter.send(Transfer { digest: self.digest, current, total: self.total, done: false });
        }
        Ok(count)
    }
}

/// So many may do something at once; others wait.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Slots {
    pub(crate) fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), freed: Condvar::new() }
    }

    /// Does `work` when there is a slot.
    pub(crate) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        drop(free);
        let _slot = Slot(self);
        work()
    }
}

/// A slot that is given back.
struct Slot<'a>(&'a Slots);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

/// Does `work` for every item, a few at a time. After the first failure nothing new is begun, and that failure is
/// returned.
pub(crate) fn each_at_once<T: Sync, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(item) {
                next.store(items.len(), Ordering::Relaxed);
                failure.lock().unwrap_or_else(|poison| poison.into_inner()).get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        // The calling thread is one of the workers.
        for _ in 1..TRANSFERS_AT_ONCE.min(items.len()) {
            scope.spawn(run);
        }
        run();
    });
    match failure.into_inner().unwrap_or_else(|poison| poison.into_inner()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_end_with_the_whole() {
        let seen = Mutex::new(Vec::new());
        let digest = Digest::of(b"");
        Meter::run(&|transfer| seen.lock().unwrap().push((transfer.current, transfer.done)), |meter| {
            let mut reader = meter.wrap(&[0; 600_000][..], digest, 600_000).ending();
            io::copy(&mut reader, &mut io::sink()).unwrap();
        });
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen.first(), Some(&(0, false)));
        assert_eq!(seen.last(), Some(&(600_000, true)));
        assert!(seen.is_sorted());
        assert_eq!(seen.iter().filter(|(_, done)| *done).count(), 1);
    }

    #[test]
    fn every_item_is_worked_on_until_one_fails() {
        let count = AtomicUsize::new(0);
        let items: Vec<usize> = (0..100).collect();
        let work = |_: &usize| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<(), ()>(())
        };
        assert_eq!(each_at_once(&items, work), Ok(()));
        assert_eq!(count.load(Ordering::Relaxed), 100);
        assert_eq!(each_at_once(&items, |item| if *item == 7 { Err(*item) } else { Ok(()) }), Err(7));
        assert_eq!(each_at_once(&[] as &[usize], |item| Err(*item)), Ok(()));
    }
}
