//! A blob being uploaded: taken over from another repository, sent in one request, or in pieces.
//!
//! One request is the fastest and what every registry takes, so it comes first. Pieces are for registries (or what is in
//! front of them) that limit a request, by configuration or by the status 413, and for large blobs whose first try broke: of
//! those the registry keeps what has come, and tells how much that is.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};
use wharf_cache::Digest;

use super::OpenBlob;
use super::answer::protocol;
use super::client::{blob_object, scope};
use super::error::RegistryError;
use super::reference::Reference;
use super::transport::{Call, CallBody, Transport, lock};
use crate::awaited::Answer;

/// The pieces that a blob is sent in, where nobody says otherwise. Large enough for those that want large ones (5 MiB).
const CHUNK_BYTES: u64 = 16 << 20;
/// The least that a registry takes in one piece (OCI distribution-spec, pushing a blob in chunks).
const CHUNK_MIN_HEADER: &str = "oci-chunk-min-length";

/// What is done, for messages.
const OPERATION: &str = "push";

/// One blob to be uploaded.
pub(super) struct Upload<'a> {
    pub(super) transport: &'a Transport,
    pub(super) name: &'a Reference,
    pub(super) digest: &'a Digest,
    pub(super) size: u64,
    pub(super) open: &'a OpenBlob<'a>,
    /// A repository that may have it.
    pub(super) mount_from: Option<&'a str>,
}

/// How the registry answered the beginning.
enum Begun {
    /// It has the blob from another repository.
    Mounted,
    /// It waits for bytes at this place, and takes pieces of no less than this.
    At(Url, u64),
}

/// How the bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Whole,
    Pieces(u64),
}

impl Upload<'_> {
    /// Uploads it, with as many tries as there are.
    pub(super) fn run(&self) -> Result<(), RegistryError> {
        let limit = self.transport.rules().chunk_bytes.get(self.name.registry()).copied();
        let mut way = match limit {
            Some(limit) if self.size > limit => Way::Pieces(limit),
            _ => Way::Whole,
        };
        let mut mount_from = self.mount_from;
        self.transport.repeat(|| {
            loop {
                let outcome = self.begin(mount_from).and_then(|begun| self.send(begun, way));
                let error = match outcome {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                };
                match &error {
                    // We may push here, but not read there: no reason to fail.
                    RegistryError::Unauthorized { .. } if mount_from.is_some() => mount_from = None,
                    RegistryError::Refused { status: 413, .. }
                        if way == Way::Whole && self.size > CHUNK_BYTES =>
                    {
                        way = Way::Pieces(CHUNK_BYTES);
                    }
                    _ => {
                        if error.is_transient() && way == Way::Whole && self.size > CHUNK_BYTES {
                            way = Way::Pieces(CHUNK_BYTES);
                        } else if is_about_pieces(&error) && way != Way::Whole && limit.is_none() {
                            way = Way::Whole;
                            continue;
                        }
                        return Err(error);
                    }
                }
            }
        })
    }

    fn begin(&self, mount_from: Option<&str>) -> Result<Begun, RegistryError> {
        let path = format!("{}/blobs/uploads/", self.name.repository());
        let mut call =
            Call { method: Method::POST, ..self.call(self.transport.url(self.name.registry(), &path)?)? };
        if let Some(from) = mount_from {
            call.scopes.push(scope(from, "pull"));
            let digest = self.digest.to_string();
            call.url.query_pairs_mut().append_pair("mount", &digest).append_pair("from", from);
        }
        let response = self.transport.send(&call)?;
        match response.status() {
            StatusCode::CREATED => Ok(Begun::Mounted),
            // Also the answer when there was nothing to mount.
            StatusCode::ACCEPTED => {
                let least = number(response.headers(), CHUNK_MIN_HEADER).unwrap_or(0);
                let at = upload_url(&call, &call.url, response.headers())?;
                let at = at.ok_or_else(|| protocol(&call, "it gave no location for the upload"))?;
                Ok(Begun::At(at, least))
            }
            _ => Err(self.transport.refusal(&call, response)),
        }
    }

    fn send(&self, begun: Begun, way: Way) -> Result<(), RegistryError> {
        match (begun, way) {
            (Begun::Mounted, _) => Ok(()),
            (Begun::At(url, _), Way::Whole) => {
                self.finish(url, CallBody::Stream { size: self.size, open: self.open })
            }
            (Begun::At(url, least), Way::Pieces(bytes)) => {
                let url = self.pieces(url, bytes.max(least))?;
                self.finish(url, CallBody::Empty)
            }
        }
    }

    /// Ends the upload with what `body` has, which may be all of it.
    fn finish(&self, mut url: Url, body: CallBody<'_>) -> Result<(), RegistryError> {
        url.query_pairs_mut().append_pair("digest", &self.digest.to_string());
        let headers = vec![(CONTENT_TYPE, "application/octet-stream".to_owned())];
        let call = Call { method: Method::PUT, headers, body, ..self.call(url)? };
        let response = self.transport.send(&call)?;
        if response.status().is_success() { Ok(()) } else { Err(self.transport.refusal(&call, response)) }
    }

    /// Sends all bytes in pieces of so many; where to end the upload.
    fn pieces(&self, mut url: Url, bytes: u64) -> Result<Url, RegistryError> {
        let source = Source { open: self.open, parked: Arc::default() };
        let (mut at, mut breaks) = (0, 0);
        while at < self.size {
            let length = bytes.min(self.size - at);
            let failure = match self.piece(&url, &source, at, length) {
                Ok(response) => {
                    let next = upload_url(&self.call(url.clone())?, &url, response.headers())?;
                    let known = self.known_to(response.headers(), at)?;
                    at = known.filter(|known| *known > at).unwrap_or(at + length);
                    url = next.unwrap_or(url);
                    breaks = 0;
                    continue;
                }
                Err(error) => error,
            };
            let is_out_of_step = matches!(failure, RegistryError::Refused { status: 416, .. });
            breaks += 1;
            if !(failure.is_transient() || is_out_of_step) || breaks >= self.transport.tries() {
                return Err(failure);
            }
            self.transport.pause(breaks);
            (url, at) = self.status(&url)?.ok_or(failure)?;
        }
        Ok(url)
    }

    fn piece(&self, url: &Url, source: &Source<'_>, at: u64, length: u64) -> Result<Answer, RegistryError> {
        let open = || source.range(at, length);
        let headers = vec![
            (CONTENT_TYPE, "application/octet-stream".to_owned()),
            (CONTENT_RANGE, format!("{at}-{}", at + length - 1)),
        ];
        let body = CallBody::Stream { size: length, open: &open };
        let call = Call { method: Method::PATCH, headers, body, ..self.call(url.clone())? };
        let response = self.transport.send(&call)?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(self.transport.refusal(&call, response)),
        }
    }

    /// Where the upload at `url` goes on, and how much of it has come. Nothing if the registry no longer knows of it.
    fn status(&self, url: &Url) -> Result<Option<(Url, u64)>, RegistryError> {
        let call = self.call(url.clone())?;
        let response = self.transport.repeat(|| self.transport.send(&call))?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let next = upload_url(&call, url, response.headers())?.unwrap_or_else(|| url.clone());
        Ok(Some((next, self.known_to(response.headers(), 0)?.unwrap_or(0))))
    }

    /// How many bytes the registry says it has: `Range: 0-LAST`. Of none some say `0-0`, which is one byte's as well: it is
    /// taken for none.
    fn known_to(&self, headers: &HeaderMap, at: u64) -> Result<Option<u64>, RegistryError> {
        let Some(range) = headers.get(RANGE).and_then(|value| value.to_str().ok()) else { return Ok(None) };
        let range = range.strip_prefix("bytes=").unwrap_or(range);
        let last = range.strip_prefix("0-").and_then(|last| last.parse::<u64>().ok());
        match last.map(|last| if last == 0 { 0 } else { last + 1 }) {
            Some(known) if known <= self.size => Ok(Some(known.max(at))),
            _ => {
                let call = self.call(self.transport.url(self.name.registry(), "")?)?;
                Err(protocol(&call, "it says that more has come of the upload than there is"))
            }
        }
    }

    fn call(&self, url: Url) -> Result<Call<'_>, RegistryError> {
        Ok(Call {
            url,
            scopes: vec![scope(self.name.repository(), "pull,push")],
            ..self.transport.call(self.name, "", OPERATION, blob_object(self.name, self.digest))?
        })
    }
}

/// Whether a registry (or what is in front of it) refused because it knows no pieces.
fn is_about_pieces(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Refused { status: 400 | 405 | 415 | 416 | 501, .. })
        || matches!(error, RegistryError::NotFound { .. })
}

/// Where an upload goes on: absolute, or relative to where it was. `None` if the answer does not say.
fn upload_url(call: &Call<'_>, from: &Url, headers: &HeaderMap) -> Result<Option<Url>, RegistryError> {
    let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else { return Ok(None) };
    let url = from.join(location);
    let url = url.map_err(|error| protocol(call, &format!("the upload's location is no URL: {error}")))?;
    match (from.scheme(), url.scheme()) {
        (_, "https") | ("http", "http") => Ok(Some(url)),
        ("https", "http") => Err(protocol(call, "it sends the upload from HTTPS to plain HTTP")),
        _ => Err(protocol(call, "the upload's location is no URL of the web")),
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// The bytes of a blob, piece after piece, from one reader as long as they come in turn.
struct Source<'a> {
    open: &'a OpenBlob<'a>,
    parked: Parked,
}

/// A reader and its position, while nobody reads.
type Parked = Arc<Mutex<Option<(Box<dyn Read + Send>, u64)>>>;

impl Source<'_> {
    fn range(&self, from: u64, length: u64) -> io::Result<Box<dyn Read + Send>> {
        let parked = lock(&self.parked).take().filter(|(_, at)| *at == from);
        let reader = match parked {
            Some((reader, _)) => reader,
            None => {
                let mut reader = (self.open)()?;
                let skipped = io::copy(&mut reader.by_ref().take(from), &mut io::sink())?;
                if skipped < from {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                reader
            }
        };
        Ok(Box::new(Piece {
            reader: Some(reader),
            at: from,
            end: from + length,
            home: Arc::clone(&self.parked),
        }))
    }
}

/// One piece; the reader goes back when it is done.
struct Piece {
    reader: Option<Box<dyn Read + Send>>,
    at: u64,
    end: u64,
    home: Parked,
}

impl Read for Piece {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(reader) = &mut self.reader else { return Ok(0) };
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buf.len());
        let count = reader.read(&mut buf[..left])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            *lock(&self.home) = Some((reader, self.at));
        }
    }
}
