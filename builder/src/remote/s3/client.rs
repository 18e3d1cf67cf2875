//! Requests to an S3 service: signed, sent, sent again after failures that may pass, refusals put into words.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use reqwest::blocking::{Body, Client, Response};
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode, Url};
use wharf_cache::Digest;
use wharf_runtime::Cancel;

use super::place::{RetryMode, S3Place};
use super::sign::{Signer, encode_path, encode_query};
use crate::certificates::{self, CertificateError};
use crate::progress::printable;
use crate::registry::OpenBlob;

/// Time to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest silence while an answer is awaited or read.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// An upload slower than this is given up.
const UPLOAD_BYTES_PER_S_MIN: u64 = 16 * 1024;
/// The pause before the second try; each further one is twice as long.
const RETRY_DELAY: Duration = Duration::from_millis(300);
/// Pause between two looks whether the build was stopped.
const CANCEL_POLL: Duration = Duration::from_millis(50);
/// No pause is longer.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(20);
/// How much of a short answer is read, and how much of a message is shown.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
const MESSAGE_CHARS_MAX: usize = 300;

/// Why a service did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum S3Error {
    #[error("{0}")]
    Place(String),
    #[error("cannot set up the connection to {host}")]
    Client { host: String, source: CertificateError },
    #[error("no answer from {host}")]
    NoAnswer { host: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{host} answered {status}{}", words(code, message, region.as_deref()))]
    Refused { host: String, status: u16, code: String, message: String, region: Option<String> },
    #[error("{host} broke the protocol: {reason}")]
    Protocol { host: String, reason: String },
    #[error("cannot read what is to be uploaded")]
    Upload(#[source] io::Error),
}

fn words(code: &str, message: &str, region: Option<&str>) -> String {
    let mut text = String::new();
    for part in [code, message].iter().filter(|part| !part.is_empty()) {
        text += &format!(": {part}");
    }
    if let Some(region) = region {
        text += &format!(" (the bucket is in region {region}: say `region={region}`)");
    }
    text
}

impl S3Error {
    /// Whether there is no such object.
    pub(super) fn is_missing(&self) -> bool {
        // A bucket that is not there is a mistake and no empty cache.
        matches!(self, Self::Refused { status: 404, code, .. } if code != "NoSuchBucket")
    }

    /// Whether the service wants fewer requests.
    fn is_throttled(&self) -> bool {
        match self {
            Self::Refused { status: 429, .. } => true,
            Self::Refused { code, .. } => {
                matches!(&**code, "SlowDown" | "Throttling" | "RequestLimitExceeded")
            }
            _ => false,
        }
    }

    /// Whether the same request may succeed a moment later.
    fn is_transient(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => true,
            Self::Refused { status, code, .. } => {
                matches!(status, 429 | 500 | 502 | 503 | 504) || code == "RequestTimeout"
            }
            _ => false,
        }
    }
}

/// A request for an object, or for the bucket where `key` is empty.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) key: &'a str,
    pub(super) query: Vec<(&'static str, String)>,
    /// `x-amz-…`: these are signed.
    pub(super) headers: Vec<(&'static str, String)>,
    /// The first byte that is wanted, where that is not the first of all.
    pub(super) from: u64,
    pub(super) body: Payload<'a>,
}

/// What a request carries.
pub(super) enum Payload<'a> {
    Empty,
    Bytes(&'a [u8]),
    Stream { digest: Digest, size: u64, open: &'a OpenBlob<'a> },
}

impl std::fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.size())
    }
}

impl Payload<'_> {
    fn size(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Stream { size, .. } => *size,
        }
    }

    fn digest(&self) -> Digest {
        match self {
            Self::Empty => Digest::of(b""),
            Self::Bytes(bytes) => Digest::of(bytes),
            Self::Stream { digest, .. } => *digest,
        }
    }
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, key: &'a str) -> Self {
        Self { method, key, query: Vec::new(), headers: Vec::new(), from: 0, body: Payload::Empty }
    }
}

/// A bucket, talked to by one build.
#[derive(Debug)]
pub(super) struct S3Client {
    place: S3Place,
    /// Where the bucket is, or why it is nowhere.
    base: Result<Url, String>,
    /// Made when it is needed first.
    http: Mutex<Option<Client>>,
    /// Nothing is sent before, because the service asked for patience.
    patience: Mutex<Option<Instant>>,
    retry_delay: Duration,
    /// What ends all waiting.
    cancel: Option<Cancel>,
}

impl S3Client {
    pub(super) fn new(place: S3Place) -> Self {
        let base = place.base();
        let (http, patience) = Default::default();
        Self { place, base, http, patience, retry_delay: RETRY_DELAY, cancel: None }
    }

    /// The same; nothing is tried again after `cancel` was triggered.
    pub(super) fn cancelled_by(self, cancel: Cancel) -> Self {
        Self { cancel: Some(cancel), ..self }
    }

    #[cfg(test)]
    pub(super) fn without_pauses(mut self) -> Self {
        self.retry_delay = Duration::ZERO;
        self
    }

    pub(super) fn place(&self) -> &S3Place {
        &self.place
    }

    pub(super) fn host(&self) -> String {
        self.base.iter().filter_map(Url::host_str).collect()
    }

    /// The path of an object with its bucket, as a copy wants it.
    pub(super) fn copy_source(&self, key: &str) -> String {
        format!("/{}/{}", self.place.bucket.as_deref().unwrap_or_default(), encode_path(key))
    }

    /// Sends a request, again after failures that may pass. Any answer but success is an error.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Response, S3Error> {
        self.repeat(|| self.send_once(request))
    }

    /// Does `work`, again after failures that may pass. It must be something that can be repeated as a whole.
    pub(super) fn repeat<T>(&self, mut work: impl FnMut() -> Result<T, S3Error>) -> Result<T, S3Error> {
        let mut attempt = 1;
        loop {
            self.wait_for_patience();
            match work() {
                Err(error) if error.is_transient() && attempt < self.place.attempts => {
                    let mut pause = self.pause(attempt);
                    if self.place.retry_mode == RetryMode::Adaptive && error.is_throttled() {
                        *lock(&self.patience) = Some(Instant::now() + pause);
                        pause = Duration::ZERO;
                    }
                    if self.wait(pause).is_break() {
                        return Err(error);
                    }
                }
                outcome => return outcome,
            }
            attempt += 1;
        }
    }

    /// The pause after try number `attempt`: random between half and all of it, so that many clients do not come back
    /// together.
    pub(super) fn pause(&self, attempt: u32) -> Duration {
        let whole = self.retry_delay.saturating_mul(2_u32.saturating_pow(attempt - 1)).min(RETRY_DELAY_MAX);
        let random = getrandom::u32().unwrap_or(u32::MAX);
        whole / 2 + (whole / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    fn wait_for_patience(&self) {
        let until = *lock(&self.patience);
        if let Some(pause) = until.and_then(|until| until.checked_duration_since(Instant::now())) {
            // Who was stopped notices after the next try.
            let _ = self.wait(pause);
        }
    }

    /// Lets time pass; breaks off when nothing more is wanted.
    pub(super) fn wait(&self, pause: Duration) -> ControlFlow<()> {
        let Some(cancel) = &self.cancel else {
            std::thread::sleep(pause);
            return ControlFlow::Continue(());
        };
        let end = Instant::now() + pause;
        loop {
            if cancel.is_cancelled() {
                return ControlFlow::Break(());
            }
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return ControlFlow::Continue(());
            }
            std::thread::sleep(rest.min(CANCEL_POLL));
        }
    }

    fn send_once(&self, request: &Request<'_>) -> Result<Response, S3Error> {
        let mut url = self.base.clone().map_err(S3Error::Place)?;
        url.set_path(&format!("{}{}", url.path(), encode_path(request.key)));
        if !request.query.is_empty() {
            url.set_query(Some(&encode_query(&request.query)));
        }
        let mut built = self.client(&url)?.request(request.method.clone(), url.clone());
        let mut headers = request.headers.clone();
        if let Some(credentials) = &self.place.credentials {
            let signer = Signer { credentials, region: self.place.region(), now: SystemTime::now() };
            headers.extend(signer.headers(&request.method, &url, &request.headers, &request.body.digest()));
        }
        for (name, value) in headers {
            built = built.header(name, value);
        }
        if request.from > 0 {
            built = built.header(reqwest::header::RANGE, format!("bytes={}-", request.from));
        }
        let failure = Arc::new(Mutex::new(None));
        built = match &request.body {
            Payload::Empty if request.method == Method::GET || request.method == Method::HEAD => built,
            Payload::Empty => built.body(""),
            Payload::Bytes(bytes) => built.body(bytes.to_vec()),
            Payload::Stream { size, open, .. } => {
                let inner = open().map_err(S3Error::Upload)?;
                built.body(Body::sized(Watched { inner, failure: Arc::clone(&failure) }, *size))
            }
        };
        let slowest = Duration::from_secs(request.body.size() / UPLOAD_BYTES_PER_S_MIN);
        let response =
            built.timeout(READ_TIMEOUT + slowest).send().map_err(|error| match lock(&failure).take() {
                Some(source) => S3Error::Upload(source),
                None => self.no_answer(Box::new(error.without_url())),
            })?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::NO_CONTENT => Ok(response),
            _ => Err(self.refusal(response)),
        }
    }

    pub(super) fn no_answer(&self, source: Box<dyn std::error::Error + Send + Sync>) -> S3Error {
        S3Error::NoAnswer { host: self.host(), source }
    }

    pub(super) fn protocol(&self, reason: impl Into<String>) -> S3Error {
        S3Error::Protocol { host: self.host(), reason: reason.into() }
    }

    fn refusal(&self, response: Response) -> S3Error {
        let status = response.status().as_u16();
        let region = response.headers().get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
        let region = region.filter(|region| *region != self.place.region()).map(excerpt);
        let text = read_answer(response).unwrap_or_default();
        let field = |name| element(&text, name).map(|text| excerpt(&text)).unwrap_or_default();
        let (code, message) = (field("Code"), field("Message"));
        S3Error::Refused { host: self.host(), status, code, message, region }
    }

    /// A short answer: its text, unless it says that something failed after all.
    pub(super) fn answer(&self, response: Response) -> Result<String, S3Error> {
        let status = response.status().as_u16();
        let text = read_answer(response).map_err(|error| self.no_answer(Box::new(error)))?;
        let field = |name| element(&text, name).map(|text| excerpt(&text)).unwrap_or_default();
        if text.contains("<Error>") {
            let (host, code, message) = (self.host(), field("Code"), field("Message"));
            // Said so late, it is the service's own trouble: what is documented to be tried again.
            let status = if code == "InternalError" { 500 } else { status };
            return Err(S3Error::Refused { host, status, code, message, region: None });
        }
        Ok(text)
    }

    fn client(&self, url: &Url) -> Result<Client, S3Error> {
        let mut slot = lock(&self.http);
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let is_near = url.host_str().is_some_and(crate::registry::reference::is_loopback);
        let builder = || {
            let builder = Client::builder()
                .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(READ_TIMEOUT)
                // A signature is for one host.
                .redirect(Policy::none());
            if is_near { builder.no_proxy() } else { builder }
        };
        let client = certificates::client(builder, &[])
            .map_err(|source| S3Error::Client { host: self.host(), source })?;
        Ok(slot.insert(client).clone())
    }
}

/// Keeps the error of a reader whose own user would hide it.
struct Watched {
    inner: Box<dyn Read + Send>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Read for Watched {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                *lock(&self.failure) = Some(error);
            }
            kind.into()
        })
    }
}

fn read_answer(response: Response) -> io::Result<String> {
    let mut bytes = Vec::new();
    response.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The text of the first element of this name: enough of XML for answers that hold one thing.
pub(super) fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let mut text = text.to_owned();
    for (entity, character) in
        [("&quot;", "\""), ("&#34;", "\""), ("&apos;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")]
    {
        text = text.replace(entity, character);
    }
    Some(text)
}

/// Foreign text, short enough and without anything that could steer a terminal.
fn excerpt(text: &str) -> String {
    printable(text).chars().take(MESSAGE_CHARS_MAX).collect()
}

/// A lock whose data stays usable after a panic elsewhere: every change under it is a single assignment.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_answers() {
        let xml =
            "<?xml version=\"1.0\"?>\n<R xmlns=\"x\"><UploadId>a&amp;b&lt;</UploadId><Empty></Empty></R>";
        assert_eq!(element(xml, "UploadId").as_deref(), Some("a&b<"));
        assert_eq!(element(xml, "Empty").as_deref(), Some(""));
        assert_eq!(element(xml, "Missing"), None);
        assert_eq!(element("<UploadId>unclosed", "UploadId"), None);
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let place = S3Place::take(&mut crate::remote::spec::Fields::parse("bucket=bbb").unwrap()).unwrap();
        let check = |mode: RetryMode, status: u16, code: &str, tries: u32| {
            let place = S3Place { retry_mode: mode, attempts: 4, ..place.clone() };
            let client = S3Client::new(place).without_pauses();
            let mut tried = 0;
            let outcome = client.repeat(|| {
                tried += 1;
                let (host, code) = (String::new(), code.to_owned());
                Err::<(), _>(S3Error::Refused { host, status, code, message: String::new(), region: None })
            });
            assert!(outcome.is_err());
            assert_eq!(tried, tries, "{status} {code}");
        };
        for mode in [RetryMode::Standard, RetryMode::Adaptive] {
            check(mode, 503, "SlowDown", 4);
            check(mode, 500, "InternalError", 4);
            check(mode, 400, "RequestTimeout", 4);
            check(mode, 429, "", 4);
            check(mode, 403, "AccessDenied", 1);
            check(mode, 404, "NoSuchKey", 1);
            check(mode, 301, "PermanentRedirect", 1);
        }
    }
}
