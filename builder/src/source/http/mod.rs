//! Files behind URLs: brought into the store as a snapshot with one file, and again only when they have changed.
//!
//! What a download gave is remembered under a key made of the URL and the file that it makes. The next time the server
//! is asked with what it said then (`ETag`, `Last-Modified`) whether that is still so: first with HEAD, because some
//! servers send everything again whatever a GET asks, then with GET. A file whose checksum the Dockerfile tells is not
//! asked for at all once it is here.

mod client;
mod error;
mod name;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{
    CONTENT_LENGTH, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED,
};
use reqwest::{Method, StatusCode, Url};
use rustix::fs::{Mode, OFlags, Timespec, Timestamps};
use sha2::{Digest as _, Sha256};
use wharf_cache::state::UrlRecord;
use wharf_cache::{Chain, ContentDigest, Digest, Key, Store};
use wharf_runtime::Cancel;
use wharf_solver::llb::SourceOp;

use crate::awaited::Answer;
use crate::context::spec::redacted;
use crate::source::SecretLookup;
use client::{Clients, NoAnswer, Request};
pub use error::HttpError;

/// The most bytes that are taken from a URL.
pub const DOWNLOAD_BYTES_MAX: u64 = 64 << 30;
/// A request is sent at most this often.
const TRIES: u32 = 3;
/// A date of last modification tells versions apart when it is at least this much older than the answer: a server knows
/// it to the second (RFC 9110, 8.8.2.2).
const VALIDATOR_AGE_MIN: Duration = Duration::from_secs(2);
/// Mode of the files, which belong to root.
const FILE_MODE: u32 = 0o600;
/// A report of progress comes after this many bytes.
const REPORT_EVERY_BYTES: u64 = 256 * 1024;
/// Ids of the secrets that are sent to a host, which follows.
const AUTH_HEADER_SECRET: &str = "HTTP_AUTH_HEADER_";
const AUTH_TOKEN_SECRET: &str = "HTTP_AUTH_TOKEN_";

/// Hears how many bytes are here, and how many there will be if that is known.
pub type HttpProgress<'a> = &'a dyn Fn(u64, Option<u64>);

/// A file behind a URL.
#[derive(Debug, Clone)]
pub struct UrlFile {
    url: Url,
    /// As written, for keys and messages.
    text: String,
    /// What it is to be called.
    file_name: Option<String>,
    checksum: Option<Digest>,
    bytes_max: u64,
}

/// A file that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its name in the root of the snapshot.
    pub file_name: String,
    /// `Last-Modified`, seconds since 1970.
    pub modified_s: Option<i64>,
    /// The snapshot.
    pub chain: Chain,
}

/// Times of requests.
#[derive(Debug, Clone, Copy)]
pub struct HttpOptions {
    /// Longest silence of a server.
    pub silence_max: Duration,
    /// Pause before the second try; each further pause is four times as long.
    pub retry_delay: Duration,
    /// Whether no server is asked: what a URL gave last is what it gives.
    pub offline: bool,
    /// Whether files are downloaded again that their servers say have not changed.
    pub fresh: bool,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            silence_max: client::SILENCE_MAX,
            retry_delay: Duration::from_millis(300),
            offline: false,
            fresh: false,
        }
    }
}

/// Brings files from URLs into one store.
pub struct HttpSources {
    store: Store,
    cancel: Cancel,
    secrets: SecretLookup,
    options: HttpOptions,
    clients: Clients,
    /// What was found out in this build: a URL is asked for once, so that all of a build sees the same.
    known: Mutex<HashMap<Key, Fetched>>,
}

impl fmt::Debug for HttpSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSources").field("store", &self.store).finish_non_exhaustive()
    }
}

impl UrlFile {
    /// The file at `url`, called as the URL or the server says.
    pub fn new(url: &str) -> Result<Self, HttpError> {
        let bad = |reason: String| HttpError::Url { url: redacted(url), reason };
        let parsed: Url =
            url.parse().map_err(|error: <Url as std::str::FromStr>::Err| bad(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(bad(format!("its scheme is {}, not http or https", parsed.scheme())));
        }
        let text = url.to_owned();
        Ok(Self { url: parsed, text, file_name: None, checksum: None, bytes_max: DOWNLOAD_BYTES_MAX })
    }

    /// The same, called `name`.
    #[must_use]
    pub fn called(self, name: &str) -> Self {
        Self { file_name: Some(name.to_owned()), ..self }
    }

    /// The same, with a limit.
    #[must_use]
    pub fn at_most(self, bytes_max: u64) -> Self {
        Self { bytes_max, ..self }
    }

    /// The file that a source of the graph names.
    pub fn of_source(source: &SourceOp) -> Result<Self, HttpError> {
        let mut file = Self::new(&source.identifier)?;
        file.file_name = source.attrs.get("http.filename").cloned();
        if let Some(checksum) = source.attrs.get("http.checksum") {
            let parsed = checksum.parse().map_err(|_| HttpError::Url {
                url: file.shown(),
                reason: format!("its checksum `{checksum}` is not sha256: and 64 digits"),
            })?;
            file.checksum = Some(parsed);
        }
        Ok(file)
    }

    /// The URL without what is secret in it.
    pub fn shown(&self) -> String {
        redacted(&self.text)
    }

    /// What the store remembers it under. A URL may hold a password, so only its digest leaves this place.
    fn key(&self) -> Key {
        let mut hasher = blake3::Hasher::new_derive_key("wharf file of a URL, version 1");
        for part in [Some(&self.text), self.file_name.as_ref()] {
            hasher.update(&[u8::from(part.is_some())]);
            let part = part.map_or("", |part| part);
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        Key(*hasher.finalize().as_bytes())
    }

    /// Whether a file with this digest is what is wanted.
    fn may_be(&self, digest: &Digest) -> bool {
        self.checksum.is_none_or(|expected| expected == *digest)
    }
}

impl Fetched {
    /// What stands for the file in keys: bytes, name and time (mode and owner are always the same).
    fn pin(&self) -> ContentDigest {
        pin(&self.digest, &self.file_name, self.modified_s)
    }

    /// Opens the file.
    pub fn open(&self, store: &Store, file: &UrlFile) -> Result<File, HttpError> {
        let root = store.view(&self.chain)?;
        let opened = wharf_cache::walk::open_file_at(root.as_fd(), self.file_name.as_ref());
        opened.map_err(|source| HttpError::Write { url: file.shown(), source })
    }
}

impl HttpSources {
    /// Sources that keep what they fetch in `store`; `secrets` finds what servers want to know.
    pub fn new(store: Store, cancel: Cancel, secrets: SecretLookup, options: HttpOptions) -> Self {
        let clients = Clients::new(options.silence_max);
        Self { store, cancel, secrets, options, clients, known: Mutex::default() }
    }

    /// What stands for a file in keys. With a checksum this needs no network.
    pub fn pin(&self, file: &UrlFile, progress: HttpProgress<'_>) -> Result<ContentDigest, HttpError> {
        match &file.checksum {
            Some(checksum) => {
                let name = name::file_name(file.file_name.as_deref(), &file.url, &HeaderMap::new());
                Ok(pin(checksum, &name, None))
            }
            None => Ok(self.fetch(file, progress)?.pin()),
        }
    }

    /// Brings a file into the store, or finds out that it is there.
    pub fn fetch(&self, file: &UrlFile, progress: HttpProgress<'_>) -> Result<Fetched, HttpError> {
        let key = file.key();
        let of_build = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let fetched = match of_build.filter(|fetched| file.may_be(&fetched.digest)) {
            Some(fetched) => fetched,
            None => {
                let fetched = self.fetch_again(file, &key, progress)?;
                self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, fetched.clone());
                fetched
            }
        };
        match &file.checksum {
            Some(expected) if *expected != fetched.digest => {
                Err(wrong_checksum(file, expected, fetched.digest))
            }
            _ => Ok(fetched),
        }
    }

    /// The time that a source stands for (`SOURCE_DATE_EPOCH` from a context or a stage): the server's `Last-Modified`,
    /// else of an archive its newest file's.
    pub fn modified_s(&self, file: &UrlFile, progress: HttpProgress<'_>) -> Result<Option<i64>, HttpError> {
        let fetched = self.fetch(file, progress)?;
        if fetched.modified_s.is_some() {
            return Ok(fetched.modified_s);
        }
        let mut opened = fetched.open(&self.store, file)?;
        wharf_cache::diff::newest_file(&mut opened)
            .map_err(|source| HttpError::Archive { url: file.shown(), source: Box::new(source) })
    }

    fn fetch_again(
        &self,
        file: &UrlFile,
        key: &Key,
        progress: HttpProgress<'_>,
    ) -> Result<Fetched, HttpError> {
        // What has another checksum than is wanted is not what the server has, whatever it says.
        let before = self.store.url(key)?.filter(|record| file.may_be(&record.digest));
        match &before {
            Some(record) if self.options.offline => return Ok(known(record)),
            None if self.options.offline => return Err(HttpError::Offline { url: file.shown() }),
            Some(record) if file.checksum == Some(record.digest) => return Ok(known(record)),
            Some(_) if self.options.fresh => {}
            Some(record) if self.is_unchanged(file, record)? => return Ok(known(record)),
            _ => {}
        }
        let mut attempt = 1;
        loop {
            match self.download(file, before.as_ref().filter(|_| !self.options.fresh), key, progress) {
                Err(error) if error.is_transient() && attempt < TRIES => {
                    let delay = self.options.retry_delay.saturating_mul(4u32.saturating_pow(attempt - 1));
                    if self.cancel.wait(delay) {
                        return Err(HttpError::Cancelled { url: file.shown() });
                    }
                }
                outcome => return outcome,
            }
            attempt += 1;
        }
    }

    /// Asks with HEAD whether a URL still has what was downloaded. Any other answer than a clear yes is a no.
    fn is_unchanged(&self, file: &UrlFile, record: &UrlRecord) -> Result<bool, HttpError> {
        if record.etag.is_empty() && record.last_modified.is_empty() {
            return Ok(false);
        }
        let mut request = self.request(file, Method::HEAD)?;
        request.headers = validators(Some(record));
        let answer = match self.clients.send(request, &self.cancel) {
            Ok(answer) => answer,
            Err(NoAnswer::Cancelled) => return Err(HttpError::Cancelled { url: file.shown() }),
            Err(_) => return Ok(false),
        };
        Ok(match answer.status() {
            StatusCode::NOT_MODIFIED => true,
            StatusCode::OK if !record.etag.is_empty() => etag(answer.headers()) == record.etag,
            StatusCode::OK => text(answer.headers(), LAST_MODIFIED) == record.last_modified,
            _ => false,
        })
    }

    fn download(
        &self,
        file: &UrlFile,
        before: Option<&UrlRecord>,
        key: &Key,
        progress: HttpProgress<'_>,
    ) -> Result<Fetched, HttpError> {
        let url = || file.shown();
        let mut request = self.request(file, Method::GET)?;
        request.headers = validators(before);
        let with_credentials = request.authorization.is_some() || file.url.password().is_some();
        let answer = self.clients.send(request, &self.cancel).map_err(|why| match why {
            NoAnswer::Unreachable(source) => HttpError::Unreachable { url: url(), source },
            NoAnswer::Redirect(reason) => HttpError::Redirect { url: url(), reason },
            NoAnswer::Client(source) => HttpError::Client { url: url(), source },
            NoAnswer::Cancelled => HttpError::Cancelled { url: url() },
        })?;
        match (answer.status(), before) {
            (StatusCode::NOT_MODIFIED, Some(record)) => Ok(known(record)),
            // Other answers of success carry no file, or a part of one that was not asked for.
            (StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION, _) => {
                self.keep(file, key, answer, progress)
            }
            (status, _) => Err(HttpError::Status {
                url: url(),
                status: status.to_string(),
                code: status.as_u16(),
                host: file.url.host_str().unwrap_or_default().to_owned(),
                with_credentials,
            }),
        }
    }

    /// A request with what the host wants to know. A token comes before a whole header.
    fn request(&self, file: &UrlFile, method: Method) -> Result<Request, HttpError> {
        let host = file.url.host_str().unwrap_or_default();
        let mut authorization = None;
        for (prefix, scheme) in [(AUTH_TOKEN_SECRET, "Bearer "), (AUTH_HEADER_SECRET, "")] {
            let id = format!("{prefix}{host}");
            let found = (self.secrets)(&id);
            let found = found.map_err(|source| HttpError::NoSecret { id: id.clone(), source })?;
            if let Some(secret) = found {
                let value = [scheme.as_bytes(), secret.trim_ascii_end()].concat();
                let mut value = HeaderValue::from_bytes(&value)
                    .map_err(|_| HttpError::Secret { id, host: host.to_owned() })?;
                value.set_sensitive(true);
                authorization = Some(value);
                break;
            }
        }
        Ok(Request { method, url: file.url.clone(), headers: Vec::new(), authorization })
    }

    /// Writes an answer's body into a snapshot of its own, and remembers it.
    fn keep(
        &self,
        file: &UrlFile,
        key: &Key,
        mut answer: Answer,
        progress: HttpProgress<'_>,
    ) -> Result<Fetched, HttpError> {
        let too_large = || HttpError::TooLarge { url: file.shown(), max: file.bytes_max };
        let total = text(answer.headers(), CONTENT_LENGTH).parse().ok();
        if total.is_some_and(|total: u64| total > file.bytes_max) {
            return Err(too_large());
        }
        let file_name = name::file_name(file.file_name.as_deref(), &file.url, answer.headers());
        let modified = httpdate::parse_http_date(&text(answer.headers(), LAST_MODIFIED)).ok();
        let modified_s = modified.and_then(seconds);
        let active = self.store.prepare(&Chain::default())?;
        let failed = |source: std::io::Error| HttpError::Write { url: file.shown(), source };
        let mut out = create(active.upper(), &file_name).map_err(failed)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 128 * 1024];
        let (mut size, mut reported) = (0u64, 0u64);
        progress(0, total);
        loop {
            let count = match answer.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(_) if self.cancel.is_cancelled() => {
                    return Err(HttpError::Cancelled { url: file.shown() });
                }
                Err(source) => return Err(HttpError::Broken { url: file.shown(), source }),
            };
            size += count as u64;
            if size > file.bytes_max {
                return Err(too_large());
            }
            hasher.update(&buffer[..count]);
            out.write_all(&buffer[..count]).map_err(failed)?;
            if size - reported >= REPORT_EVERY_BYTES {
                reported = size;
                progress(size, total);
            }
        }
        progress(size, Some(size));
        let digest = Digest::from_bytes(hasher.finalize().into());
        if let Some(expected) = file.checksum.filter(|expected| *expected != digest) {
            return Err(wrong_checksum(file, &expected, digest));
        }
        set_metadata(&out, modified_s.unwrap_or(0)).map_err(failed)?;
        drop(out);
        let snapshot = active.commit(SystemTime::now())?.id;
        let record = UrlRecord {
            etag: etag(answer.headers()),
            last_modified: validator(answer.headers(), modified),
            digest,
            file_name,
            modified_s,
            snapshot,
        };
        self.store.set_url(key, &record)?;
        Ok(known(&record))
    }
}

fn known(record: &UrlRecord) -> Fetched {
    Fetched {
        digest: record.digest,
        file_name: record.file_name.clone(),
        modified_s: record.modified_s,
        chain: Chain(vec![record.snapshot]),
    }
}

fn pin(digest: &Digest, file_name: &str, modified_s: Option<i64>) -> ContentDigest {
    let mut hasher = blake3::Hasher::new_derive_key("wharf pin of a URL, version 1");
    hasher.update(digest.as_bytes());
    hasher.update(&[u8::from(modified_s.is_some())]).update(&modified_s.unwrap_or(0).to_le_bytes());
    hasher.update(file_name.as_bytes());
    hasher.finalize().into()
}

fn wrong_checksum(file: &UrlFile, expected: &Digest, actual: Digest) -> HttpError {
    HttpError::Checksum { url: file.shown(), expected: *expected, actual }
}

/// Headers that ask for the file only if it has changed.
fn validators(record: Option<&UrlRecord>) -> Vec<(HeaderName, HeaderValue)> {
    let Some(record) = record else { return Vec::new() };
    [(IF_NONE_MATCH, &record.etag), (IF_MODIFIED_SINCE, &record.last_modified)]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(name, value)| Some((name, HeaderValue::from_str(value).ok()?)))
        // A date says less than a tag.
        .take(1)
        .collect()
}

/// The entity tag; a weak one is as good here.
fn etag(headers: &HeaderMap) -> String {
    let tag = text(headers, ETAG);
    tag.strip_prefix("W/").map_or(tag.clone(), str::to_owned)
}

/// `Last-Modified` as it came, if a change after it would show.
fn validator(headers: &HeaderMap, modified: Option<SystemTime>) -> String {
    let answered = httpdate::parse_http_date(&text(headers, DATE)).ok();
    let age = answered.zip(modified).and_then(|(answered, modified)| answered.duration_since(modified).ok());
    match age {
        Some(age) if age >= VALIDATOR_AGE_MIN => text(headers, LAST_MODIFIED),
        _ => String::new(),
    }
}

/// A header as text; empty if there is none.
fn text(headers: &HeaderMap, name: HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

fn seconds(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

fn create(dir: impl AsFd, name: &str) -> std::io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: OwnedFd = rustix::fs::openat(dir, Path::new(name), flags, Mode::from_raw_mode(FILE_MODE))?;
    Ok(file.into())
}

fn set_metadata(file: &File, modified_s: i64) -> std::io::Result<()> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(FILE_MODE))?;
    let time = Timespec { tv_sec: modified_s, tv_nsec: 0 };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?)
}
