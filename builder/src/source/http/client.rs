//! Requests that somebody may stop at any time: each runs on a thread of its own, which is left behind when the build is
//! cancelled while a server says nothing.

use std::error::Error;
use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use reqwest::blocking::{Client, ClientBuilder, Response};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode, Url};
use wharf_runtime::Cancel;

use crate::certificates;
use crate::registry::reference::is_loopback;

/// Time to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest silence while an answer is awaited or read.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 10;
/// A body comes in pieces of this size, and this many are fetched ahead of who reads them.
const PIECE_BYTES: usize = 128 * 1024;
const PIECES_AHEAD: usize = 4;
/// How often a wait looks whether it was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// A request; the answer may be behind redirects.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// For the host of `url` alone.
    pub(super) authorization: Option<HeaderValue>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The host was not reached, or said nothing.
    Unreachable(Box<dyn Error + Send + Sync>),
    /// A redirect leads nowhere.
    Redirect(String),
    /// The client could not be made.
    Client(Box<dyn Error + Send + Sync>),
    /// The build was cancelled.
    Cancelled,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

/// The clients. Nothing is started before the first request.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    silence_max: Duration,
    made: Arc<Mutex<[Option<Client>; 2]>>,
}

impl Clients {
    pub(super) fn new(silence_max: Duration) -> Self {
        Self { silence_max, made: Arc::default() }
    }

    /// Sends a request and waits for the head of the answer, until `cancel`.
    pub(super) fn send(&self, request: Request, cancel: &Cancel) -> Result<Answer, NoAnswer> {
        let (sender, pieces) = mpsc::sync_channel(PIECES_AHEAD);
        let clients = self.clone();
        let work = move || clients.serve(request, &sender);
        let spawned = thread::Builder::new().name("http".to_owned()).spawn(work);
        spawned.map_err(|error| NoAnswer::Client(Box::new(error)))?;
        match receive(&pieces, cancel) {
            Some(Piece::Head { status, headers }) => {
                let body = Body { pieces, cancel: cancel.clone(), piece: Vec::new(), at: 0 };
                Ok(Answer { status, headers, body })
            }
            Some(Piece::NoAnswer(why)) => Err(why),
            // The head comes first; without it the thread has panicked.
            Some(_) => Err(NoAnswer::Unreachable("the request ended without an answer".into())),
            None => Err(NoAnswer::Cancelled),
        }
    }

    /// The life of a request's thread. Nobody listens any more when sending fails.
    fn serve(&self, request: Request, pieces: &SyncSender<Piece>) {
        let mut response = match self.follow(request) {
            Ok(response) => response,
            Err(why) => {
                let _ = pieces.send(Piece::NoAnswer(why));
                return;
            }
        };
        let head = Piece::Head { status: response.status(), headers: response.headers().clone() };
        if pieces.send(head).is_err() {
            return;
        }
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let read = (&mut response).take(PIECE_BYTES as u64).read_to_end(&mut piece);
            let is_end = read.as_ref().is_ok_and(|count| *count == 0);
            let next = match read {
                Ok(_) if is_end => Piece::End,
                Ok(_) => Piece::Bytes(piece),
                Err(error) => Piece::Broken(error),
            };
            let is_last = matches!(next, Piece::End | Piece::Broken(_));
            if pieces.send(next).is_err() || is_last {
                return;
            }
        }
    }

    /// Sends a request, and again where redirects lead. Credentials stay with the host they are for.
    fn follow(&self, mut request: Request) -> Result<Response, NoAnswer> {
        for _ in 0..=REDIRECTS_MAX {
            let client = self.client(&request.url)?;
            let mut builder = client.request(request.method.clone(), request.url.clone());
            for (name, value) in &request.headers {
                builder = builder.header(name, value);
            }
            if let Some(authorization) = &request.authorization {
                builder = builder.header(AUTHORIZATION, authorization);
            }
            let response =
                builder.send().map_err(|error| NoAnswer::Unreachable(Box::new(error.without_url())))?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let next = redirect_target(&request.url, &response)?;
            if next.origin() != request.url.origin() {
                request.authorization = None;
            }
            request.url = next;
        }
        Err(NoAnswer::Redirect(format!("more than {REDIRECTS_MAX} redirects")))
    }

    fn client(&self, url: &Url) -> Result<Client, NoAnswer> {
        // No proxy knows the way to this machine.
        let near = url.host_str().is_some_and(is_loopback);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut made[usize::from(near)];
        if let Some(client) = slot {
            return Ok(client.clone());
        }
        let builder = || {
            let builder = self.builder();
            if near { builder.no_proxy() } else { builder }
        };
        let client = certificates::client(builder, &[]).map_err(|error| NoAnswer::Client(Box::new(error)))?;
        Ok(slot.insert(client).clone())
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder()
            .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT.min(self.silence_max))
            .timeout(self.silence_max)
            .redirect(Policy::none())
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn redirect_target(from: &Url, response: &Response) -> Result<Url, NoAnswer> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| NoAnswer::Redirect("a redirect without a location".to_owned()))?;
    match from.join(location) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
        Ok(url) => Err(NoAnswer::Redirect(format!("a redirect to {}://", url.scheme()))),
        Err(error) => Err(NoAnswer::Redirect(format!("a redirect to no URL ({error})"))),
    }
}

/// What a request's thread has to tell, in this order.
#[derive(Debug)]
enum Piece {
    NoAnswer(NoAnswer),
    Head { status: StatusCode, headers: HeaderMap },
    Bytes(Vec<u8>),
    Broken(io::Error),
    End,
}

/// The next piece; `None` when the build was cancelled first.
fn receive(pieces: &Receiver<Piece>, cancel: &Cancel) -> Option<Piece> {
    loop {
        match pieces.recv_timeout(CANCEL_POLL) {
            _ if cancel.is_cancelled() => return None,
            Ok(piece) => return Some(piece),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Some(Piece::Broken(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Body {
    pieces: Receiver<Piece>,
    cancel: Cancel,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            self.at = 0;
            self.piece = match receive(&self.pieces, &self.cancel) {
                Some(Piece::Bytes(piece)) => piece,
                Some(Piece::Broken(error)) => return Err(error),
                Some(_) => return Ok(0),
                None => return Err(io::Error::other("the transfer was stopped")),
            };
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Waits, unless the build is cancelled; says whether it was not.
pub(super) fn pause(time: Duration, cancel: &Cancel) -> bool {
    let mut left = time;
    while !left.is_zero() && !cancel.is_cancelled() {
        let step = left.min(CANCEL_POLL);
        thread::sleep(step);
        left -= step;
    }
    !cancel.is_cancelled()
}
