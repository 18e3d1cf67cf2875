//! Requests for files: which client, and where redirects lead.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::blocking::{Client, ClientBuilder, Response};
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode, Url};
use wharf_runtime::Cancel;

use crate::awaited::{self, Answer, ask};
use crate::certificates;
use crate::registry::reference::is_loopback;

/// Time to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest silence while an answer is awaited or read.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 10;

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
        let clients = self.clone();
        ask(Some(cancel), move || clients.follow(request)).map_err(|why| match why {
            awaited::NoAnswer::Failed(why) => why,
            awaited::NoAnswer::Thread(error) => NoAnswer::Client(Box::new(error)),
            awaited::NoAnswer::Cancelled => NoAnswer::Cancelled,
        })
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
