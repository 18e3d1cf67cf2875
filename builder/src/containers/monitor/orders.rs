//! What is asked of a process whose thread waits for its end.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};

use super::output::lock;

/// How long a process that is about to end is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Sends a signal, and says whether that could be done.
    Signal { number: i32, reply: mpsc::Sender<Result<(), String>> },
    /// Ends it: as [`crate::containers::protocol::Request::Stop`] says.
    Stop { timeout: Option<i64>, signal: Option<i32> },
    /// Of one that has ended: waits no longer for those who do not take what it has printed.
    Finish,
}

/// Orders that wait to be carried out.
#[derive(Debug)]
pub(super) struct Orders {
    queue: Mutex<VecDeque<Order>>,
    bell: PipeReader,
    rope: PipeWriter,
}

impl Orders {
    pub(super) fn new() -> io::Result<Self> {
        let (bell, rope) = io::pipe()?;
        fcntl_setfl(&bell, OFlags::NONBLOCK)?;
        fcntl_setfl(&rope, OFlags::NONBLOCK)?;
        Ok(Self { queue: Mutex::default(), bell, rope })
    }

    /// Gives an order.
    pub(super) fn push(&self, order: Order) {
        lock(&self.queue).push_back(order);
        // A full pipe rings as well.
        let _ = (&self.rope).write(&[0]);
    }

    /// Sends a signal and waits for what becomes of it.
    pub(super) fn signal(&self, number: i32) -> Result<(), String> {
        let (reply, answer) = mpsc::channel();
        self.push(Order::Signal { number, reply });
        // Nobody takes orders for one that is just ending.
        answer.recv_timeout(PATIENCE).unwrap_or_else(|_| Err("it has ended".to_owned()))
    }

    /// What was ordered since the last time.
    pub(super) fn take(&self) -> Vec<Order> {
        let mut rings = [0; 512];
        while (&self.bell).read(&mut rings).is_ok_and(|count| count == rings.len()) {}
        lock(&self.queue).drain(..).collect()
    }

    /// Waits until there is an order, one of `others` is readable, or it is `until`.
    pub(super) fn wait(&self, others: &[BorrowedFd<'_>], until: Option<Instant>) {
        let mut polled = vec![PollFd::new(&self.bell, PollFlags::IN)];
        polled.extend(others.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(|left: Duration| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        // Whatever interrupts it, the caller looks again.
        let _ = poll(&mut polled, left.as_ref());
    }
}

/// Whether something can be read there now, or nobody is at the other end any more.
pub(super) fn is_ready(fd: impl AsFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)).is_ok_and(|count| count > 0)
}
