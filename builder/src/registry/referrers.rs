//! What refers to a manifest (OCI distribution-spec, referrers): the registry's own list, or, where it has none, the index
//! under the tag `sha256-…`, which whoever pushes a referrer keeps.

use reqwest::header::ACCEPT;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use wharf_cache::Digest;

use super::client::{OciRegistry, scope};
use super::error::RegistryError;
use super::manifest::{MANIFEST_BYTES_MAX, OCI_INDEX};
use super::reference::Reference;
use super::transport::{Call, lock};
use super::{Referrer, Registry};

#[derive(Deserialize)]
struct Referrers {
    #[serde(default)]
    manifests: Option<Vec<Referrer>>,
}

/// What counts of a manifest that refers to another.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referring {
    #[serde(default)]
    subject: Option<Pointer>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Pointer>,
    #[serde(default)]
    annotations: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pointer {
    #[serde(default)]
    media_type: String,
    digest: Digest,
}

impl OciRegistry {
    pub(super) fn list_referrers(
        &self,
        name: &Reference,
        subject: &Digest,
    ) -> Result<Vec<Referrer>, RegistryError> {
        let path = format!("{}/referrers/{subject}", name.repository());
        let call = Call {
            scopes: vec![scope(name.repository(), "pull")],
            headers: vec![(ACCEPT, OCI_INDEX.to_owned())],
            ..self.transport.call(name, &path, "list", format!("what refers to {subject} of {name}"))?
        };
        match self.pages(call, |page: Referrers| page.manifests.unwrap_or_default()) {
            Err(RegistryError::NotFound { .. }) => self.referrers_by_tag(name, subject),
            listed => listed,
        }
    }

    fn referrers_by_tag(&self, name: &Reference, subject: &Digest) -> Result<Vec<Referrer>, RegistryError> {
        let tag = tag_of(name, subject);
        let index = match self.manifest(&tag) {
            Ok(index) => index,
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let referrers = serde_json::from_slice::<Referrers>(&index.bytes);
        Ok(referrers.map_err(|error| unreadable(&tag, &error))?.manifests.unwrap_or_default())
    }

    /// Adds the manifest `bytes`, which was pushed to the repository of `name`, to the index under the tag of what it
    /// refers to, if it refers to anything. Somebody who does the same at the same time may be lost: a registry without a
    /// list of its own cannot help it.
    pub(super) fn list_by_tag(
        &self,
        name: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let Ok(Referring { subject: Some(subject), artifact_type, config, annotations }) =
            serde_json::from_slice(bytes)
        else {
            return Ok(());
        };
        let tag = tag_of(name, &subject.digest);
        // Those of this process come one after the other.
        let _turn = lock(&self.listing);
        let mut entries = match self.manifest(&tag) {
            Ok(index) => {
                let index: Value =
                    serde_json::from_slice(&index.bytes).map_err(|error| unreadable(&tag, &error))?;
                index["manifests"].as_array().cloned().unwrap_or_default()
            }
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error),
        };
        let digest = Digest::of(bytes).to_string();
        if entries.iter().any(|entry| entry["digest"] == digest.as_str()) {
            return Ok(());
        }
        let artifact_type = artifact_type.or(config.map(|config| config.media_type)).unwrap_or_default();
        let mut entry = json!({
            "mediaType": media_type, "digest": digest, "size": bytes.len(), "artifactType": artifact_type,
        });
        if !annotations.is_empty() {
            entry["annotations"] = annotations.into();
        }
        entries.push(entry);
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        let index = index.to_string().into_bytes();
        if index.len() as u64 > MANIFEST_BYTES_MAX {
            let (registry, object) = (name.registry().to_owned(), format!("the index of {tag}"));
            return Err(RegistryError::TooLarge { registry, object, max: MANIFEST_BYTES_MAX });
        }
        self.put_manifest(&tag, OCI_INDEX, &index).map(drop)
    }
}

/// The name of the index that stands for the list of what refers to `subject` (OCI distribution-spec, referrers tag
/// schema).
fn tag_of(name: &Reference, subject: &Digest) -> Reference {
    let tag = subject.to_string().replace(':', "-");
    let text = format!("{}/{}:{tag}", name.registry(), name.repository());
    text.parse().expect("a name, and a tag of the letters that tags may have")
}

fn unreadable(tag: &Reference, error: &serde_json::Error) -> RegistryError {
    RegistryError::Protocol {
        registry: tag.registry().to_owned(),
        operation: "read",
        object: format!("what refers to an image, listed at {tag}"),
        reason: format!("the index under the tag cannot be read: {error}"),
    }
}
