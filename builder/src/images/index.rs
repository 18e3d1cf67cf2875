//! Indexes put together by hand: `wharf manifest`.

use serde_json::{Map, Value, json};
use wharf_cache::{Digest, Store};

use super::places::entry_of;
use super::stored::Stored;
use super::{INDEX_ENTRIES_MAX, ImagesError};
use crate::exporter::image::{INDEX_TYPE, Platform};
use crate::registry::manifest::{DOCKER_INDEX, MANIFEST_BYTES_MAX};

/// An index whose fields nobody here knows all of.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    name: String,
    value: Map<String, Value>,
}

/// What `annotate` sets of an entry; what is empty stays as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Annotation {
    pub(crate) os: Option<String>,
    pub(crate) architecture: Option<String>,
    pub(crate) variant: Option<String>,
    pub(crate) os_version: Option<String>,
    pub(crate) os_features: Vec<String>,
    pub(crate) annotations: Vec<(String, String)>,
}

impl Index {
    /// An index without entries.
    pub(crate) fn new(name: &str) -> Self {
        let value = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [] });
        let value = value.as_object().cloned().unwrap_or_default();
        Self { name: name.to_owned(), value }
    }

    /// Reads an index of the store.
    pub(crate) fn read(store: &Store, name: &str, digest: &Digest) -> Result<Self, ImagesError> {
        let bytes = store.blobs().read(digest, MANIFEST_BYTES_MAX)?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(value)) if value.get("manifests").is_some_and(Value::is_array) => {
                Ok(Self { name: name.to_owned(), value })
            }
            _ => Err(ImagesError::Usage(format!("`{name}` is one image, not an index of several"))),
        }
    }

    /// Its bytes.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, ImagesError> {
        let bytes = serde_json::to_vec_pretty(&self.value).unwrap_or_default();
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            let (object, max) = (self.name.clone(), MANIFEST_BYTES_MAX as usize);
            return Err(ImagesError::TooMany { object, what: "bytes", max });
        }
        Ok(bytes)
    }

    /// Its media type.
    pub(crate) fn media_type(&self) -> &str {
        match self.value.get("mediaType").and_then(Value::as_str) {
            Some(DOCKER_INDEX) => DOCKER_INDEX,
            _ => INDEX_TYPE,
        }
    }

    /// Adds the image, or the images of the index, in place of what it has of the same digests.
    pub(crate) fn add(&mut self, stored: &Stored) -> Result<(), ImagesError> {
        let mut entries = Vec::new();
        match &stored.entries {
            Some(there) => entries.extend(there.iter().map(entry_of)),
            None => {
                for image in &stored.images {
                    let mut entry = entry_of(&image.descriptor);
                    entry.platform = Some(Platform::from(&image.platform()));
                    entries.push(entry);
                }
            }
        }
        let name = self.name.clone();
        let list = self.entries()?;
        for entry in entries {
            let digest = entry.digest.to_string();
            list.retain(|old| old["digest"] != digest.as_str());
            list.push(serde_json::to_value(entry).unwrap_or_default());
        }
        if list.len() > INDEX_ENTRIES_MAX {
            return Err(ImagesError::TooMany { object: name, what: "entries", max: INDEX_ENTRIES_MAX });
        }
        Ok(())
    }

    /// Sets fields of the entry with this digest.
    pub(crate) fn annotate(&mut self, digest: &Digest, annotation: &Annotation) -> Result<(), ImagesError> {
        let missing = ImagesError::Usage(format!("`{}` has no entry {digest}", self.name));
        let text = digest.to_string();
        let entry = self.entries()?.iter_mut().find(|entry| entry["digest"] == text.as_str());
        let Some(Value::Object(entry)) = entry else { return Err(missing) };
        let fields = [
            ("os", &annotation.os),
            ("architecture", &annotation.architecture),
            ("variant", &annotation.variant),
            ("os.version", &annotation.os_version),
        ];
        let platform = entry.entry("platform").or_insert_with(|| json!({}));
        if let Value::Object(platform) = platform {
            for (field, value) in fields {
                if let Some(value) = value {
                    platform.insert(field.to_owned(), value.as_str().into());
                }
            }
            if !annotation.os_features.is_empty() {
                platform.insert("os.features".to_owned(), annotation.os_features.clone().into());
            }
        }
        if !annotation.annotations.is_empty() {
            let notes = entry.entry("annotations").or_insert_with(|| json!({}));
            if let Value::Object(notes) = notes {
                let given = annotation.annotations.iter();
                notes.extend(given.map(|(key, value)| (key.clone(), value.as_str().into())));
            }
        }
        Ok(())
    }

    /// Takes the entry with this digest away.
    pub(crate) fn remove(&mut self, digest: &Digest) -> Result<(), ImagesError> {
        let missing = ImagesError::Usage(format!("`{}` has no entry {digest}", self.name));
        let text = digest.to_string();
        let list = self.entries()?;
        let before = list.len();
        list.retain(|entry| entry["digest"] != text.as_str());
        if list.len() == before { Err(missing) } else { Ok(()) }
    }

    fn entries(&mut self) -> Result<&mut Vec<Value>, ImagesError> {
        let wrong = ImagesError::Usage(format!("`{}` has no list of manifests", self.name));
        self.value.get_mut("manifests").and_then(Value::as_array_mut).ok_or(wrong)
    }
}
