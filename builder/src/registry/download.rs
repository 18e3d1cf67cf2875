//! A blob being downloaded, which goes on after the connection broke.

use std::io::{self, Read};
use std::sync::Arc;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, RANGE};
use wharf_cache::Digest;

use super::answer::{no_answer, protocol};
use super::client::{blob_object, scope};
use super::error::RegistryError;
use super::reference::Reference;
use super::rules::Places;
use super::transport::{Call, Transport};
use crate::awaited::Answer;

/// So much in one go means that the connection is good: failures before it are forgotten.
const PROGRESS_BYTES: u64 = 4 << 20;

/// What is done, for messages.
const OPERATION: &str = "download";

/// Reads a blob from a registry, or from its mirrors. Not verified here: whoever reads it must.
#[derive(Debug)]
pub(super) struct Download {
    transport: Arc<Transport>,
    /// Where it comes from now.
    name: Reference,
    /// Where the rest comes from if that fails.
    others: Places,
    digest: Digest,
    size: u64,
    position: u64,
    response: Answer,
    /// Breaks since the last good stretch, and where the last one was.
    breaks: u32,
    broke_at: u64,
}

impl Download {
    /// Asks for the blob; its bytes come with `read`.
    pub(super) fn start(
        transport: Arc<Transport>,
        mut places: Places,
        digest: Digest,
        size: u64,
    ) -> Result<Self, RegistryError> {
        let (name, response) =
            places.find(|place| transport.repeat(|| open_at(&transport, place, &digest, size, 0)))?;
        let others = places;
        Ok(Self { transport, name, others, digest, size, position: 0, response, breaks: 0, broke_at: 0 })
    }

    /// Where it comes from.
    pub(super) fn place(&self) -> &Reference {
        &self.name
    }

    /// Opens the rest after a break; elsewhere if there were too many.
    fn resume(&mut self, cause: io::Error) -> Result<(), RegistryError> {
        if self.position >= self.broke_at + PROGRESS_BYTES {
            self.breaks = 0;
        }
        self.breaks += 1;
        self.broke_at = self.position;
        let (transport, digest, size, position) = (&self.transport, self.digest, self.size, self.position);
        let open = |name: &Reference| transport.repeat(|| open_at(transport, name, &digest, size, position));
        let failure = if self.breaks >= transport.tries() {
            RegistryError::Unreachable {
                registry: self.name.registry().to_owned(),
                operation: OPERATION,
                object: blob_object(&self.name, &digest),
                source: Box::new(cause),
            }
        } else {
            transport.pause(self.breaks);
            match open(&self.name) {
                Ok(response) => {
                    self.response = response;
                    return Ok(());
                }
                Err(error) => error,
            }
        };
        self.others.fail(failure);
        (self.name, self.response) = self.others.find(open)?;
        self.breaks = 0;
        Ok(())
    }
}

impl Read for Download {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let complete = self.position >= self.size;
            let cause = match self.response.read(buf) {
                Ok(0) if complete => return Ok(0),
                Ok(0) => io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{} bytes of {} came", self.position, self.size),
                ),
                // More than was announced goes through as well: the verifying reader above refuses it.
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The connection broke after the last byte: nothing is missing.
                Err(_) if complete => return Ok(0),
                Err(error) => error,
            };
            self.resume(cause).map_err(io::Error::other)?;
        }
    }
}

/// Asks for the bytes of a blob from `position` on.
fn open_at(
    transport: &Transport,
    name: &Reference,
    digest: &Digest,
    size: u64,
    position: u64,
) -> Result<Answer, RegistryError> {
    let path = format!("{}/blobs/{digest}", name.repository());
    let mut call = Call {
        scopes: vec![scope(name.repository(), "pull")],
        ..transport.call(name, &path, OPERATION, blob_object(name, digest))?
    };
    if position > 0 {
        call.headers.push((RANGE, format!("bytes={position}-")));
    }
    let mut response = transport.send(&call)?;
    let missing = match response.status() {
        StatusCode::OK => size,
        StatusCode::PARTIAL_CONTENT if position > 0 => {
            let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
            if !range.is_some_and(|range| range.starts_with(&format!("bytes {position}-"))) {
                return Err(protocol(&call, "it sent another range than it was asked for"));
            }
            size - position
        }
        _ => return Err(transport.refusal(&call, response)),
    };
    if let Some(length) = response.content_length().filter(|length| *length != missing) {
        return Err(protocol(&call, &format!("it sends {length} bytes, expected {missing}")));
    }
    if response.status() == StatusCode::OK && position > 0 {
        // No ranges here: from the start again, and what is known already goes by.
        let skipped = io::copy(&mut response.by_ref().take(position), &mut io::sink());
        let skipped = skipped.map_err(|error| no_answer(&call, Box::new(error)))?;
        if skipped < position {
            return Err(no_answer(&call, Box::new(io::Error::from(io::ErrorKind::UnexpectedEof))));
        }
    }
    Ok(response)
}
