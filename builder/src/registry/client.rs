//! A registry that speaks the OCI distribution protocol.

use std::io::Read;
use std::sync::Arc;

use reqwest::blocking::Response;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode, Url};
use wharf_cache::Digest;
use wharf_cache::content::VerifyingReader;

use super::download::Download;
use super::error::RegistryError;
use super::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, MANIFEST_BYTES_MAX, OCI_INDEX, OCI_MANIFEST};
use super::reference::Reference;
use super::transport::{Call, CallBody, RegistryOptions, Transport, no_answer, protocol};
use super::{FetchedManifest, OpenBlob, Registry};
use crate::progress::print_note;

/// The header with which registries state a manifest's digest.
const DIGEST_HEADER: &str = "docker-content-digest";

/// Registries reached over HTTP. Opens no connection and starts no thread before it is asked for something.
#[derive(Debug)]
pub struct OciRegistry {
    transport: Arc<Transport>,
}

impl OciRegistry {
    /// A client with these options.
    pub fn new(options: RegistryOptions) -> Self {
        Self { transport: Arc::new(Transport::new(options)) }
    }
}

impl Registry for OciRegistry {
    fn manifest(&self, reference: &Reference) -> Result<FetchedManifest, RegistryError> {
        let found = self.transport.rules().places(reference).find(|place| self.own_manifest(place));
        found.map(|(_, manifest)| manifest)
    }

    fn blob(
        &self,
        name: &Reference,
        digest: &Digest,
        size: u64,
    ) -> Result<Box<dyn Read + Send>, RegistryError> {
        let places = self.transport.rules().places(name);
        let download = Download::start(Arc::clone(&self.transport), places, *digest, size)?;
        Ok(Box::new(VerifyingReader::new(download, *digest, size)))
    }

    fn has_blob(&self, name: &Reference, digest: &Digest) -> Result<bool, RegistryError> {
        let path = format!("{}/blobs/{digest}", name.repository());
        let call = Call {
            method: Method::HEAD,
            // Asked before a push: with its scope one token serves both.
            scopes: vec![scope(name.repository(), "pull,push")],
            ..self.transport.call(name.registry(), &path, "look for", blob_object(name, digest))?
        };
        self.transport.repeat(|| {
            let response = self.transport.send(&call)?;
            match response.status() {
                StatusCode::OK => Ok(true),
                StatusCode::NOT_FOUND => Ok(false),
                _ => Err(self.transport.refusal(&call, response)),
            }
        })
    }

    fn push_blob(
        &self,
        name: &Reference,
        digest: &Digest,
        size: u64,
        open: &OpenBlob<'_>,
        mount_from: Option<&str>,
    ) -> Result<(), RegistryError> {
        // Each try is a new upload: what a registry keeps of a broken one is not specified well enough to build on.
        self.transport.repeat(|| match self.upload(name, digest, size, open, mount_from) {
            // We may push here, but not read there: no reason to fail.
            Err(RegistryError::Unauthorized { .. }) if mount_from.is_some() => {
                self.upload(name, digest, size, open, None)
            }
            outcome => outcome,
        })
    }

    fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        // A tag is what the push is to set; the digest follows from the bytes.
        let selector = reference.tag().map_or_else(|| reference.manifest_selector(), str::to_owned);
        let path = format!("{}/manifests/{selector}", reference.repository());
        let call = Call {
            method: Method::PUT,
            scopes: vec![scope(reference.repository(), "pull,push")],
            headers: vec![(CONTENT_TYPE, media_type.to_owned())],
            body: CallBody::Bytes(bytes),
            ..self.transport.call(reference.registry(), &path, "push", manifest_object(reference))?
        };
        self.transport.repeat(|| {
            let response = self.transport.send(&call)?;
            if !response.status().is_success() {
                let refusal = self.transport.refusal(&call, response);
                let is_ignored = self.transport.rules().ignore_immutable_tags && refusal.is_immutable_tag();
                if !is_ignored {
                    return Err(refusal);
                }
                print_note(&format!("{refusal}: the tag is left as it is, as was asked for"));
                return Ok(());
            }
            check_digest(&call, response.headers().get(DIGEST_HEADER), Digest::of(bytes))
        })
    }
}

impl OciRegistry {
    /// The manifest that `reference`'s own registry has.
    fn own_manifest(&self, reference: &Reference) -> Result<FetchedManifest, RegistryError> {
        let path = format!("{}/manifests/{}", reference.repository(), reference.manifest_selector());
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
        let call = Call {
            scopes: vec![scope(reference.repository(), "pull")],
            headers: vec![(ACCEPT, accept)],
            ..self.transport.call(reference.registry(), &path, "fetch", manifest_object(reference))?
        };
        self.transport.repeat(|| {
            let response = self.transport.send(&call)?;
            match response.status() {
                StatusCode::OK => read_manifest(&call, reference, response),
                _ => Err(self.transport.refusal(&call, response)),
            }
        })
    }

    /// One upload: a session, which may end at once because the registry mounted the blob from another repository, then
    /// the bytes in a single PUT (the fastest way in the registry that was measured).
    fn upload(
        &self,
        name: &Reference,
        digest: &Digest,
        size: u64,
        open: &OpenBlob<'_>,
        mount_from: Option<&str>,
    ) -> Result<(), RegistryError> {
        let path = format!("{}/blobs/uploads/", name.repository());
        let mut begin = Call {
            method: Method::POST,
            scopes: vec![scope(name.repository(), "pull,push")],
            ..self.transport.call(name.registry(), &path, "push", blob_object(name, digest))?
        };
        if let Some(from) = mount_from.filter(|from| *from != name.repository()) {
            begin.scopes.push(scope(from, "pull"));
            begin.url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        }
        let response = self.transport.send(&begin)?;
        match response.status() {
            StatusCode::CREATED => return Ok(()),
            // Also the answer when there was nothing to mount.
            StatusCode::ACCEPTED => {}
            _ => return Err(self.transport.refusal(&begin, response)),
        }
        let mut url = upload_url(&begin, &response)?;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let finish = Call {
            method: Method::PUT,
            url,
            headers: vec![(CONTENT_TYPE, "application/octet-stream".to_owned())],
            body: CallBody::Stream { size, open },
            ..begin
        };
        let response = self.transport.send(&finish)?;
        if response.status().is_success() { Ok(()) } else { Err(self.transport.refusal(&finish, response)) }
    }
}

/// What a token must allow (token authentication specification, scope).
pub(super) fn scope(repository: &str, actions: &str) -> String {
    format!("repository:{repository}:{actions}")
}

/// How a blob is called in messages.
pub(super) fn blob_object(name: &Reference, digest: &Digest) -> String {
    format!("blob {digest} of {}/{}", name.registry(), name.repository())
}

fn manifest_object(reference: &Reference) -> String {
    format!("the manifest of {reference}")
}

/// Where an upload's bytes go: absolute, or relative to where it was begun.
fn upload_url(call: &Call<'_>, response: &Response) -> Result<Url, RegistryError> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| protocol(call, "it gave no location for the upload"))?;
    let url = response.url().join(location);
    let url = url.map_err(|error| protocol(call, &format!("the upload's location is no URL: {error}")))?;
    match (call.url.scheme(), url.scheme()) {
        (_, "https") | ("http", "http") => Ok(url),
        _ => Err(protocol(call, "it sends the upload from HTTPS to plain HTTP")),
    }
}

fn read_manifest(
    call: &Call<'_>,
    reference: &Reference,
    response: Response,
) -> Result<FetchedManifest, RegistryError> {
    let too_large = || RegistryError::TooLarge {
        registry: call.registry.to_owned(),
        object: call.object.clone(),
        max: MANIFEST_BYTES_MAX,
    };
    if response.content_length().is_some_and(|length| length > MANIFEST_BYTES_MAX) {
        return Err(too_large());
    }
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
    let stated = response.headers().get(DIGEST_HEADER).cloned();
    let mut bytes = Vec::new();
    let mut limited = response.take(MANIFEST_BYTES_MAX + 1);
    limited.read_to_end(&mut bytes).map_err(|error| no_answer(call, Box::new(error)))?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(too_large());
    }
    let digest = Digest::of(&bytes);
    if let Some(expected) = reference.digest() {
        expect_digest(call, expected, digest)?;
    }
    check_digest(call, stated.as_ref(), digest)?;
    Ok(FetchedManifest { bytes, media_type, digest })
}

/// Refuses an answer whose digest header contradicts `actual`. A digest of another algorithm is left alone.
fn check_digest(call: &Call<'_>, stated: Option<&HeaderValue>, actual: Digest) -> Result<(), RegistryError> {
    let stated = stated.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    stated.map_or(Ok(()), |stated| expect_digest(call, stated, actual))
}

fn expect_digest(call: &Call<'_>, expected: Digest, actual: Digest) -> Result<(), RegistryError> {
    if expected == actual {
        return Ok(());
    }
    let (registry, object) = (call.registry.to_owned(), call.object.clone());
    Err(RegistryError::WrongDigest { registry, object, expected, actual })
}
