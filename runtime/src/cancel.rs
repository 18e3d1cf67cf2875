//! Requests to stop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::RuntimeError;

/// A request to stop, usable from any thread; an eventfd underneath, so that it can be polled.
#[derive(Debug, Clone)]
pub struct Cancel {
    event: Arc<OwnedFd>,
}

impl Cancel {
    /// Not triggered yet.
    pub fn new() -> Result<Self, RuntimeError> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|source| {
            RuntimeError::Step { step: "make an event descriptor".to_owned(), source: source.into() }
        })?;
        Ok(Self { event: Arc::new(event) })
    }

    /// Triggers it; for ever, and for every clone.
    pub fn cancel(&self) {
        // Only a counter at its limit refuses, and that one is triggered.
        let _ = rustix::io::write(&*self.event, &1u64.to_ne_bytes());
    }

    /// Whether it was triggered.
    pub fn is_cancelled(&self) -> bool {
        let mut polled = [PollFd::new(&*self.event, PollFlags::IN)];
        loop {
            match poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                Err(error) if io::Error::from(error).kind() == io::ErrorKind::Interrupted => {}
                result => return result.is_ok_and(|count| count > 0),
            }
        }
    }

    /// Waits so long, or until it is triggered; whether it was.
    pub fn wait(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.is_cancelled() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            // What interrupts it or fails is seen by the look that follows.
            let _ = poll(&mut [PollFd::new(&*self.event, PollFlags::IN)], Some(&left));
        }
        true
    }

    /// Becomes readable when triggered.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clone_sees_it_for_ever() {
        let cancel = Cancel::new().unwrap();
        let other = cancel.clone();
        assert!(!cancel.is_cancelled() && !other.is_cancelled());
        std::thread::scope(|scope| scope.spawn(|| other.cancel()).join().unwrap());
        assert!(cancel.is_cancelled() && other.is_cancelled() && cancel.is_cancelled());
        assert!(
            cancel.wait(Duration::from_secs(3600)) && !Cancel::new().unwrap().wait(Duration::from_millis(1))
        );
    }
}
