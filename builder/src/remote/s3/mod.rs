//! A cache in a bucket of an S3 service.
//!
//! Blobs are objects `<prefix>blobs/<digest>`, the manifest is `<prefix>manifests/<name>`. Nothing is ever deleted: a rule
//! of the bucket that deletes what was not written for a while finds what is still used young, because it is written anew
//! (by a copy onto itself) when it is exported again.

mod client;
mod place;
mod sign;
mod upload;

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use reqwest::Method;
use reqwest::blocking::Response;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, LAST_MODIFIED};
use wharf_cache::Digest;
use wharf_cache::content::VerifyingReader;
use wharf_runtime::Cancel;

use super::manifest::Documents;
use super::{Backend, BackendError};
use crate::registry::OpenBlob;
use crate::registry::manifest::MANIFEST_BYTES_MAX;
use client::{Payload, Request, S3Client};
use upload::{Permits, upload};

pub use client::S3Error;
pub(super) use place::KEYS;
pub use place::{Credentials, RetryMode, S3Place};

/// The largest object that can be copied onto itself.
const COPY_BYTES_MAX: u64 = 5 << 30;
/// So much in one go means that the connection is good: failures before it are forgotten.
const PROGRESS_BYTES: u64 = 4 << 20;

/// A [`Backend`] in a bucket.
#[derive(Debug)]
pub struct S3 {
    client: Arc<S3Client>,
    permits: Permits,
    /// Whether the manifest was written longer ago than `touch_refresh`.
    is_old: AtomicBool,
}

impl S3 {
    /// Nothing is asked of the service yet.
    pub fn new(place: S3Place) -> Self {
        let permits = Permits::new(place.upload_parallelism);
        Self { client: Arc::new(S3Client::new(place)), permits, is_old: AtomicBool::new(false) }
    }

    /// The same for who gives up at once when `cancel` is triggered.
    pub fn cancelled_by(self, cancel: Cancel) -> Self {
        let client = S3Client::new(self.client.place().clone()).cancelled_by(cancel);
        Self { client: Arc::new(client), ..self }
    }

    fn blob_key(&self, digest: &Digest) -> String {
        format!("{}{digest}", self.client.place().blobs_prefix)
    }

    fn manifest_key(&self, name: &str) -> String {
        format!("{}{name}", self.client.place().manifests_prefix)
    }

    fn fetch_manifest(&self) -> Result<Option<Vec<u8>>, S3Error> {
        let key = self.manifest_key(&self.client.place().names[0]);
        let response = match self.client.send(&Request::new(Method::GET, &key)) {
            Ok(response) => response,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error),
        };
        self.is_old.store(self.is_due(&response), Ordering::Relaxed);
        let mut bytes = Vec::new();
        let read = response.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| self.client.no_answer(Box::new(error)))?;
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(self
                .client
                .protocol(format!("the manifest has more than {MANIFEST_BYTES_MAX} bytes")));
        }
        Ok(Some(bytes))
    }

    /// Whether an object is there with this size. One that has not been written for long is written anew.
    fn find(&self, key: &str, size: u64) -> Result<bool, S3Error> {
        let response = match self.client.send(&Request::new(Method::HEAD, key)) {
            Ok(response) => response,
            Err(error) if error.is_missing() => return Ok(false),
            Err(error) => return Err(error),
        };
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        if header(CONTENT_LENGTH).and_then(|length| length.parse().ok()) != Some(size) {
            return Ok(false);
        }
        if !self.is_due(&response) {
            return Ok(true);
        }
        // What is too large for that is sent again.
        if size > COPY_BYTES_MAX {
            return Ok(false);
        }
        let headers = vec![
            ("x-amz-copy-source", self.client.copy_source(key)),
            ("x-amz-metadata-directive", "REPLACE".to_owned()),
        ];
        let response = self.client.send(&Request { headers, ..Request::new(Method::PUT, key) })?;
        self.client.answer(response).map(|_| true)
    }

    /// Whether an object was written so long ago that it is to be written anew.
    fn is_due(&self, response: &Response) -> bool {
        let written = response.headers().get(LAST_MODIFIED).and_then(|time| time.to_str().ok());
        let written = written.and_then(|time| httpdate::parse_http_date(time).ok());
        let age = written.and_then(|written| SystemTime::now().duration_since(written).ok());
        age.unwrap_or(Duration::ZERO) > self.client.place().touch_refresh
    }

    fn store(&self, documents: &Documents) -> Result<(), S3Error> {
        let config = documents.config_descriptor();
        let key = self.blob_key(&config.digest);
        if !self.find(&key, config.size)? {
            let bytes = documents.config.clone();
            let open = move || Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>);
            upload(&self.client, &self.permits, &key, config.digest, config.size, &open)?;
        }
        for name in &self.client.place().names {
            let key = self.manifest_key(name);
            let body = Payload::Bytes(&documents.manifest);
            let response = self.client.send(&Request { body, ..Request::new(Method::PUT, &key) })?;
            self.client.answer(response)?;
        }
        Ok(())
    }
}

impl Backend for S3 {
    fn name(&self) -> String {
        self.client.place().shown()
    }

    fn manifest(&self) -> Result<Option<Vec<u8>>, BackendError> {
        self.fetch_manifest().map_err(BackendError::of("read", self.name()))
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, BackendError> {
        let download = Download::start(&self.client, self.blob_key(digest), size);
        let download =
            download.map_err(BackendError::of("download", format!("{digest} of {}", self.name())))?;
        Ok(Box::new(VerifyingReader::new(download, *digest, size)))
    }

    fn has(&self, digest: &Digest, size: u64) -> Result<bool, BackendError> {
        self.find(&self.blob_key(digest), size)
            .map_err(BackendError::of("look for", format!("{digest} in {}", self.name())))
    }

    fn put(&self, digest: &Digest, size: u64, open: &OpenBlob<'_>) -> Result<(), BackendError> {
        upload(&self.client, &self.permits, &self.blob_key(digest), *digest, size, open)
            .map_err(BackendError::of("upload", format!("{digest} to {}", self.name())))
    }

    fn commit(&self, documents: &Documents) -> Result<(), BackendError> {
        self.store(documents).map_err(BackendError::of("write", self.name()))
    }

    fn is_old(&self) -> bool {
        self.is_old.load(Ordering::Relaxed)
    }
}

/// An object being downloaded, which goes on after the connection broke. Not verified here.
struct Download {
    client: Arc<S3Client>,
    key: String,
    size: u64,
    position: u64,
    response: Response,
    /// Breaks since the last good stretch, and where the last one was.
    breaks: u32,
    broke_at: u64,
}

impl Download {
    fn start(client: &Arc<S3Client>, key: String, size: u64) -> Result<Self, S3Error> {
        let response = client.repeat(|| open_at(client, &key, size, 0))?;
        let client = Arc::clone(client);
        Ok(Self { client, key, size, position: 0, response, breaks: 0, broke_at: 0 })
    }

    /// Opens the rest after a break, unless there were too many.
    fn resume(&mut self, cause: io::Error) -> io::Result<()> {
        if self.position >= self.broke_at + PROGRESS_BYTES {
            self.breaks = 0;
        }
        self.breaks += 1;
        self.broke_at = self.position;
        if self.breaks >= self.client.place().attempts
            || self.client.wait(self.client.pause(self.breaks)).is_break()
        {
            return Err(cause);
        }
        let rest = self.client.repeat(|| open_at(&self.client, &self.key, self.size, self.position));
        self.response = rest.map_err(io::Error::other)?;
        Ok(())
    }
}

impl Read for Download {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let is_complete = self.position >= self.size;
            let cause = match self.response.read(buf) {
                Ok(0) if is_complete => return Ok(0),
                Ok(0) => io::ErrorKind::UnexpectedEof.into(),
                // More than was announced goes through as well: the verifying reader above refuses it.
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The connection broke after the last byte: nothing is missing.
                Err(_) if is_complete => return Ok(0),
                Err(error) => error,
            };
            self.resume(cause)?;
        }
    }
}

/// Asks for the bytes of an object from `position` on.
fn open_at(client: &S3Client, key: &str, size: u64, position: u64) -> Result<Response, S3Error> {
    let mut response = client.send(&Request { from: position, ..Request::new(Method::GET, key) })?;
    let is_rest = response.headers().get(CONTENT_RANGE).is_some();
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    if is_rest && !range.is_some_and(|range| range.starts_with(&format!("bytes {position}-"))) {
        return Err(client.protocol("it sent another range than it was asked for"));
    }
    let missing = if is_rest { size.saturating_sub(position) } else { size };
    if let Some(length) = response.content_length().filter(|length| *length != missing) {
        return Err(client.protocol(format!("it sends {length} bytes, expected {missing}")));
    }
    if !is_rest && position > 0 {
        // No ranges here: from the start again, and what is known already goes by.
        let skipped = io::copy(&mut response.by_ref().take(position), &mut io::sink());
        if skipped.map_err(|error| client.no_answer(Box::new(error)))? < position {
            return Err(client.no_answer(Box::new(io::Error::from(io::ErrorKind::UnexpectedEof))));
        }
    }
    Ok(response)
}
