//! Answers to HTTP requests that nobody has to wait for: each request runs on a thread of its own, which is left behind when
//! whoever asked is cancelled while a server says nothing.

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::blocking::Response;
use reqwest::header::HeaderMap;
use wharf_runtime::Cancel;

/// A body comes in pieces of this size, and this many are fetched ahead of who reads them.
const PIECE_BYTES: usize = 128 * 1024;
const PIECES_AHEAD: usize = 4;
/// How often a wait looks whether it was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer<E> {
    /// What the request ended with.
    Failed(E),
    /// There is no thread for it, or no more.
    Thread(io::Error),
    /// Whoever asked was cancelled.
    Cancelled,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    content_length: Option<u64>,
    body: Body,
}

/// Sends a request and waits for the head of the answer, until `cancel`.
pub(crate) fn ask<E: Send + 'static>(
    cancel: Option<&Cancel>,
    request: impl FnOnce() -> Result<Response, E> + Send + 'static,
) -> Result<Answer, NoAnswer<E>> {
    let (sender, pieces) = mpsc::sync_channel(PIECES_AHEAD);
    let body =
        Body { pieces, cancel: cancel.cloned(), until: None, piece: Vec::new(), at: 0, is_over: false };
    let head = wait(cancel, move |heads| {
        let (head, response) = match request() {
            Ok(response) => {
                let head = (response.status(), response.headers().clone(), response.content_length());
                (Ok(head), Some(response))
            }
            Err(error) => (Err(error), None),
        };
        // Nobody listens any more when sending fails.
        if let (Ok(()), Some(response)) = (heads.send(head), response) {
            pass_on(response, &sender);
        }
    })?;
    let (status, headers, content_length) = head.map_err(NoAnswer::Failed)?;
    Ok(Answer { status, headers, content_length, body })
}

/// Does `work` and waits for what comes of it, until `cancel`. `None` if it does not come.
pub(crate) fn unless<T: Send + 'static>(
    cancel: Option<&Cancel>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let work = move |done: SyncSender<T>| {
        let _ = done.send(work());
    };
    wait::<T, ()>(cancel, work).ok()
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// How long the body is, where that was said.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// Its body, which is broken off unless all of it has come within `time`.
    pub(crate) fn within(self, time: Duration) -> impl Read {
        Body { until: Some((Instant::now() + time, time)), ..self.body }
    }
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer)
    }
}

/// The body of an answer.
#[derive(Debug)]
struct Body {
    /// An empty one is the end.
    pieces: Receiver<io::Result<Vec<u8>>>,
    cancel: Option<Cancel>,
    /// When it must have come as a whole, and how long that is.
    until: Option<(Instant, Duration)>,
    piece: Vec<u8>,
    at: usize,
    is_over: bool,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() && !self.is_over {
            self.at = 0;
            self.piece = self.next()?;
            self.is_over = self.piece.is_empty();
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

impl Body {
    fn next(&self) -> io::Result<Vec<u8>> {
        match receive(&self.pieces, self.cancel.as_ref(), self.until.map(|(until, _)| until)) {
            Ok(piece) => piece,
            Err(Silence::Cancelled) => Err(io::Error::other("the transfer was stopped")),
            Err(Silence::TooLong) => {
                let time = self.until.map_or(Duration::ZERO, |(_, time)| time);
                let message = format!("it has not come as a whole within {} s", time.as_secs_f32());
                Err(io::Error::new(io::ErrorKind::TimedOut, message))
            }
            // Without an end: the thread has panicked.
            Err(Silence::ForEver) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Hands the body on as it comes.
fn pass_on(mut response: Response, pieces: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let read = (&mut response).take(PIECE_BYTES as u64).read_to_end(&mut piece);
        let is_end = piece.is_empty() && read.is_ok();
        // What came before a break counts.
        if (is_end || !piece.is_empty()) && pieces.send(Ok(piece)).is_err() {
            return;
        }
        if let Err(error) = read {
            let _ = pieces.send(Err(error));
            return;
        }
        if is_end {
            return;
        }
    }
}

/// What `work`, on a thread of its own, sends first.
fn wait<T: Send + 'static, E>(
    cancel: Option<&Cancel>,
    work: impl FnOnce(SyncSender<T>) + Send + 'static,
) -> Result<T, NoAnswer<E>> {
    if cancel.is_some_and(Cancel::is_cancelled) {
        return Err(NoAnswer::Cancelled);
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name("http".to_owned());
    thread.spawn(move || work(sender)).map_err(NoAnswer::Thread)?;
    receive(&receiver, cancel, None).map_err(|silence| match silence {
        Silence::Cancelled => NoAnswer::Cancelled,
        // It has panicked.
        _ => NoAnswer::Thread(io::Error::other("the request ended without an answer")),
    })
}

/// Why nothing comes.
enum Silence {
    Cancelled,
    TooLong,
    ForEver,
}

fn receive<T>(from: &Receiver<T>, cancel: Option<&Cancel>, until: Option<Instant>) -> Result<T, Silence> {
    loop {
        let received = from.recv_timeout(CANCEL_POLL);
        if cancel.is_some_and(Cancel::is_cancelled) {
            return Err(Silence::Cancelled);
        }
        match received {
            _ if until.is_some_and(|until| Instant::now() > until) => return Err(Silence::TooLong),
            Ok(received) => return Ok(received),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Silence::ForEver),
        }
    }
}
