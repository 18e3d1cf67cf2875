//! A registry that speaks the OCI distribution protocol.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::io::Read;
use std::sync::{Arc, Mutex};

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use wharf_cache::Digest;
use wharf_cache::content::VerifyingReader;
use wharf_runtime::Cancel;

use super::download::Download;
use super::error::RegistryError;
use super::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use super::reference::Reference;
use super::rules::Places;
use super::transfer::{Slots, TRANSFERS_AT_ONCE};
use super::transport::{Call, CallBody, RegistryOptions, Transport, lock};
use super::upload::Upload;
use super::{FetchedManifest, Login, OpenBlob, Referrer, Registry};
use crate::awaited::Answer;
use crate::progress::print_note;

/// The header with which registries state a manifest's digest.
const DIGEST_HEADER: &str = "docker-content-digest";

/// Registries reached over HTTP. Opens no connection and starts no thread before it is asked for something.
#[derive(Debug)]
pub struct OciRegistry {
    pub(super) transport: Arc<Transport>,
    /// Blobs by registry, and a repository that has each: from there others of the same registry take them over.
    known: Mutex<HashMap<(String, Digest), String>>,
    /// Held while an index of what refers to something is changed.
    pub(super) listing: Mutex<()>,
    /// Registries whose mirrors have served something else than they should.
    distrusted: Mutex<HashSet<String>>,
    /// Whoever uploads, together they do not do more at once than one would.
    uploads: Slots,
}

/// The header with which registries say that they list a manifest as one that refers to another.
const SUBJECT_HEADER: &str = "oci-subject";

/// Who lists a manifest with what it refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    ByTheRegistry,
    ByNobody,
}

/// More blobs than that are not kept in mind.
const KNOWN_MAX: usize = 100_000;

impl OciRegistry {
    /// A client with these options.
    pub fn new(options: RegistryOptions) -> Self {
        Self {
            transport: Arc::new(Transport::new(options)),
            known: Mutex::default(),
            listing: Mutex::default(),
            distrusted: Mutex::default(),
            uploads: Slots::new(TRANSFERS_AT_ONCE),
        }
    }
}

impl OciRegistry {
    /// From now on all that waits ends soon after `cancel` is triggered, and no longer after what was given before.
    pub fn redirect(&self, cancel: &Cancel) {
        self.transport.redirect(cancel);
    }

    /// Tries whether the registry of `name` takes our credentials for it.
    pub fn login(&self, name: &Reference) -> Result<Login, RegistryError> {
        let call = self.transport.call(name, "", "log in", "there".to_owned())?;
        let response = self.transport.repeat(|| self.transport.send(&call))?;
        match response.status() {
            StatusCode::OK if self.transport.has_asked(name.registry()) => Ok(Login::Accepted),
            StatusCode::OK => Ok(Login::NotAsked),
            _ => Err(self.transport.refusal(&call, response)),
        }
    }
}

impl Registry for OciRegistry {
    fn manifest(&self, reference: &Reference) -> Result<FetchedManifest, RegistryError> {
        let found = self.places(reference).find(|place| self.own_manifest(place));
        found.map(|(_, manifest)| manifest)
    }

    fn blob(
        &self,
        name: &Reference,
        digest: &Digest,
        size: u64,
    ) -> Result<Box<dyn Read + Send>, RegistryError> {
        let places = self.places(name);
        let download = Download::start(Arc::clone(&self.transport), places, *digest, size)?;
        self.remember(download.place(), digest);
        Ok(Box::new(VerifyingReader::new(download, *digest, size)))
    }

    fn distrust_mirrors(&self, name: &Reference, why: &dyn Error) -> bool {
        let rules = self.transport.rules();
        let can_do_without =
            rules.has_mirrors(name.registry()) && !rules.only_mirrors.contains(name.registry());
        let is_new = can_do_without && lock(&self.distrusted).insert(name.registry().to_owned());
        if is_new {
            let registry = name.registry();
            print_note(&format!(
                "what came from a mirror of {registry} is wrong, so that {registry} itself is asked: {why}"
            ));
        }
        is_new
    }

    fn has_blob(&self, name: &Reference, digest: &Digest) -> Result<bool, RegistryError> {
        let path = format!("{}/blobs/{digest}", name.repository());
        let call = Call {
            method: Method::HEAD,
            // Asked before a push: with its scope one token serves both.
            scopes: vec![scope(name.repository(), "pull,push")],
            ..self.transport.call(name, &path, "look for", blob_object(name, digest))?
        };
        self.transport.repeat(|| {
            let response = self.transport.send(&call)?;
            match response.status() {
                StatusCode::OK => {
                    self.remember(name, digest);
                    Ok(true)
                }
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
        let known = self.whereabouts(name, digest);
        let mount_from = mount_from.map(str::to_owned).or(known).filter(|from| from != name.repository());
        let mount_from = mount_from.as_deref();
        let transport = &self.transport;
        let upload = Upload { transport, name, digest, size, open, mount_from };
        self.uploads.within(|| upload.run())?;
        self.remember(name, digest);
        Ok(())
    }

    fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        match self.put_manifest(reference, media_type, bytes)? {
            Listed::ByTheRegistry => Ok(()),
            Listed::ByNobody => self.list_by_tag(reference, media_type, bytes),
        }
    }

    fn tags(&self, name: &Reference) -> Result<Vec<String>, RegistryError> {
        self.list_tags(name)
    }

    fn delete(&self, reference: &Reference) -> Result<(), RegistryError> {
        self.delete_manifest(reference)
    }

    fn referrers(&self, name: &Reference, subject: &Digest) -> Result<Vec<Referrer>, RegistryError> {
        self.list_referrers(name, subject)
    }
}

impl OciRegistry {
    /// Where `name` is looked for.
    fn places(&self, name: &Reference) -> Places {
        match lock(&self.distrusted).contains(name.registry()) {
            true => Places::alone(name),
            false => self.transport.rules().places(name),
        }
    }

    /// The manifest that `reference`'s own registry has.
    fn own_manifest(&self, reference: &Reference) -> Result<FetchedManifest, RegistryError> {
        let path = format!("{}/manifests/{}", reference.repository(), reference.manifest_selector());
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
        let call = Call {
            scopes: vec![scope(reference.repository(), "pull")],
            headers: vec![(ACCEPT, accept)],
            ..self.transport.call(reference, &path, "fetch", manifest_object(reference))?
        };
        self.transport.repeat(|| {
            let response = self.transport.send(&call)?;
            match response.status() {
                StatusCode::OK => self.read_manifest(&call, reference, response),
                _ => Err(self.transport.refusal(&call, response)),
            }
        })
    }

    fn read_manifest(
        &self,
        call: &Call<'_>,
        reference: &Reference,
        response: Answer,
    ) -> Result<FetchedManifest, RegistryError> {
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
        let media_type = media_type.trim().to_owned();
        let stated = response.headers().get(DIGEST_HEADER).cloned();
        let bytes = self.transport.read_document(call, response)?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = reference.digest() {
            expect_digest(call, expected, digest)?;
        }
        check_digest(call, stated.as_ref(), digest)?;
        Ok(FetchedManifest { bytes, media_type, digest })
    }

    /// Stores a manifest; whether the registry lists it by itself, if it refers to another.
    pub(super) fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Listed, RegistryError> {
        // A tag is what the push is to set; the digest follows from the bytes.
        let selector = reference.tag().map_or_else(|| reference.manifest_selector(), str::to_owned);
        let path = format!("{}/manifests/{selector}", reference.repository());
        let call = Call {
            method: Method::PUT,
            scopes: vec![scope(reference.repository(), "pull,push")],
            headers: vec![(CONTENT_TYPE, media_type.to_owned())],
            body: CallBody::Bytes(bytes),
            ..self.transport.call(reference, &path, "push", manifest_object(reference))?
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
                // What it was meant to be called was not changed, nor is anything else.
                return Ok(Listed::ByTheRegistry);
            }
            check_digest(&call, response.headers().get(DIGEST_HEADER), Digest::of(bytes))?;
            Ok(match response.headers().contains_key(SUBJECT_HEADER) {
                true => Listed::ByTheRegistry,
                false => Listed::ByNobody,
            })
        })
    }

    /// Notes that a repository has a blob, or very likely has: others of its registry try to take it over from there.
    pub fn remember(&self, name: &Reference, digest: &Digest) {
        let mut known = lock(&self.known);
        if known.len() < KNOWN_MAX {
            known.insert((name.registry().to_owned(), *digest), name.repository().to_owned());
        }
    }

    /// A repository of the registry of `name` that has a blob, as far as is known.
    fn whereabouts(&self, name: &Reference, digest: &Digest) -> Option<String> {
        lock(&self.known).get(&(name.registry().to_owned(), *digest)).cloned()
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

pub(super) fn manifest_object(reference: &Reference) -> String {
    format!("the manifest of {reference}")
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
