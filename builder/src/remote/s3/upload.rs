//! Uploading: small blobs in one request, large ones in parts, several at once.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Condvar, Mutex, PoisonError};

use reqwest::Method;
use reqwest::header::ETAG;
use wharf_cache::Digest;

use super::client::{Payload, Request, S3Client, S3Error, element, lock};
use crate::registry::OpenBlob;

/// What is larger is sent in parts of this size. The service wants at least 5 MiB; a part is in memory while it is sent.
const PART_BYTES: u64 = 8 << 20;
/// The most parts of one upload; a blob that needs more has larger ones.
const PARTS_MAX: u64 = 10_000;
/// The largest part that is kept in memory: blobs of up to 640 GB.
const PART_BYTES_MAX: u64 = 64 << 20;

/// How many requests may carry something at the same time: all uploads of a build share them, which also bounds memory.
#[derive(Debug)]
pub(super) struct Permits {
    free: Mutex<usize>,
    returned: Condvar,
}

/// One of them, until it is dropped.
struct Permit<'a>(&'a Permits);

impl Permits {
    pub(super) fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), returned: Condvar::new() }
    }

    fn take(&self) -> Permit<'_> {
        let mut free = lock(&self.free);
        while *free == 0 {
            free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.returned.notify_one();
    }
}

/// Stores a blob under `key`. The service compares the bytes that come with their digest.
pub(super) fn upload(
    client: &S3Client,
    permits: &Permits,
    key: &str,
    digest: Digest,
    size: u64,
    open: &OpenBlob<'_>,
) -> Result<(), S3Error> {
    if size > PART_BYTES {
        return Multipart::begin(client, key, size)?.run(permits, open);
    }
    let _permit = permits.take();
    let body = Payload::Stream { digest, size, open };
    let response = client.send(&Request { body, ..Request::new(Method::PUT, key) })?;
    client.answer(response).map(drop)
}

/// An upload in parts.
struct Multipart<'a> {
    client: &'a S3Client,
    key: &'a str,
    id: String,
    part_size: u64,
    parts: u64,
    size: u64,
}

/// What is left to be read, and what has been sent.
struct Progress {
    reader: Box<dyn Read + Send>,
    next: u64,
    /// The tags of the parts by their number.
    tags: BTreeMap<u64, String>,
    failure: Option<S3Error>,
}

impl<'a> Multipart<'a> {
    fn begin(client: &'a S3Client, key: &'a str, size: u64) -> Result<Self, S3Error> {
        let part_size = PART_BYTES.max(size.div_ceil(PARTS_MAX));
        if part_size > PART_BYTES_MAX {
            return Err(S3Error::Place(format!("a blob of {size} bytes is too large to be sent in parts")));
        }
        let query = vec![("uploads", String::new())];
        let response = client.send(&Request { query, ..Request::new(Method::POST, key) })?;
        let id = element(&client.answer(response)?, "UploadId").filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| client.protocol("it began an upload without an id"))?;
        Ok(Self { client, key, id, part_size, parts: size.div_ceil(part_size), size })
    }

    /// Sends the parts. An upload that does not come to its end is taken back: the service would keep its parts.
    fn run(self, permits: &Permits, open: &OpenBlob<'_>) -> Result<(), S3Error> {
        let outcome = self.send_all(permits, open).and_then(|tags| self.complete(&tags));
        if outcome.is_err() {
            let query = vec![("uploadId", self.id.clone())];
            // The first failure is the one to tell.
            let _ = self.client.send(&Request { query, ..Request::new(Method::DELETE, self.key) });
        }
        outcome
    }

    fn send_all(&self, permits: &Permits, open: &OpenBlob<'_>) -> Result<BTreeMap<u64, String>, S3Error> {
        let reader = open().map_err(S3Error::Upload)?;
        let progress = Mutex::new(Progress { reader, next: 0, tags: BTreeMap::new(), failure: None });
        let work = || {
            loop {
                let _permit = permits.take();
                let part = self.next_part(&mut lock(&progress));
                let sent = match part {
                    Ok(None) => return,
                    Ok(Some((number, bytes))) => self.send_part(number, &bytes).map(|tag| (number, tag)),
                    Err(error) => Err(error),
                };
                let mut progress = lock(&progress);
                match sent {
                    Ok((number, tag)) => {
                        progress.tags.insert(number, tag);
                    }
                    Err(error) => {
                        progress.failure.get_or_insert(error);
                    }
                }
            }
        };
        let threads = (self.client.place().upload_parallelism as u64).min(self.parts);
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Fewer threads than wished for are slower, no more.
                let _ = std::thread::Builder::new().name("s3-upload".to_owned()).spawn_scoped(scope, work);
            }
            work();
        });
        let progress = progress.into_inner().unwrap_or_else(PoisonError::into_inner);
        match progress.failure {
            Some(error) => Err(error),
            None => Ok(progress.tags),
        }
    }

    /// Reads the next part; `None` after the last, or after a failure.
    fn next_part(&self, progress: &mut Progress) -> Result<Option<(u64, Vec<u8>)>, S3Error> {
        if progress.next == self.parts || progress.failure.is_some() {
            return Ok(None);
        }
        let size = self.part_size.min(self.size - progress.next * self.part_size);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        progress.reader.read_exact(&mut bytes).map_err(S3Error::Upload)?;
        progress.next += 1;
        Ok(Some((progress.next, bytes)))
    }

    fn send_part(&self, number: u64, bytes: &[u8]) -> Result<String, S3Error> {
        let query = vec![("partNumber", number.to_string()), ("uploadId", self.id.clone())];
        let body = Payload::Bytes(bytes);
        let response = self.client.send(&Request { query, body, ..Request::new(Method::PUT, self.key) })?;
        let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        tag.ok_or_else(|| self.client.protocol("it took a part and gave no ETag for it"))
    }

    fn complete(&self, tags: &BTreeMap<u64, String>) -> Result<(), S3Error> {
        let mut xml =
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">".to_owned();
        for (number, tag) in tags {
            let tag =
                tag.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
            xml += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>");
        }
        xml += "</CompleteMultipartUpload>";
        // The answer begins with success before the service knows how it ends.
        self.client.repeat(|| {
            let query = vec![("uploadId", self.id.clone())];
            let body = Payload::Bytes(xml.as_bytes());
            let response =
                self.client.send(&Request { query, body, ..Request::new(Method::POST, self.key) })?;
            self.client.answer(response).map(drop)
        })
    }
}
