//! The `docker` exporter: what `docker load` takes. An OCI layout in a tar with Docker's own `manifest.json` beside
//! it, whose paths lead to the layout's blobs.

use std::io::Write;

use serde::Serialize;
use wharf_cache::{Digest, Store};

use super::{Artifact, BuiltImage, ExportError, oci};

/// An image of Docker's `manifest.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Item {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

impl Item {
    /// The image with these blobs, under full names with tag.
    pub(crate) fn new<'a>(
        config: &Digest,
        layers: impl Iterator<Item = &'a Digest>,
        names: impl Iterator<Item = &'a str>,
    ) -> Self {
        Self {
            config: oci::blob_path(config),
            repo_tags: names.map(|name| familiar(name).to_owned()).collect(),
            layers: layers.map(oci::blob_path).collect(),
        }
    }
}

/// Writes the image as one tar, under each of `names` (full names with tag).
pub fn write_archive(
    store: &Store,
    artifact: &Artifact,
    names: &[String],
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    // What reads this file alone knows nothing of platforms: it gets the first image.
    let image: &BuiltImage = &artifact.images()[0];
    let layers = image.layers.iter().map(|layer| &layer.digest);
    let item = Item::new(&image.config_descriptor.digest, layers, names.iter().map(String::as_str));
    oci::write_archive_with(store, artifact, names, Some(&[item]), out)
}

/// `docker.io/library/app:1` as people write it: `app:1`.
fn familiar(name: &str) -> &str {
    match name.strip_prefix("docker.io/") {
        None => name,
        Some(path) => match path.strip_prefix("library/") {
            Some(official) if !official.contains('/') => official,
            _ => path,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_familiar() {
        for (full, short) in [
            ("docker.io/library/app:1", "app:1"),
            ("docker.io/team/app:1", "team/app:1"),
            ("docker.io/library/team/app:1", "library/team/app:1"),
            ("localhost:5000/library/app:1", "localhost:5000/library/app:1"),
        ] {
            assert_eq!(familiar(full), short);
        }
    }
}
