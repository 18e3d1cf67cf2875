//! The `docker` exporter: what `docker load` takes. An OCI layout in a tar with Docker's own `manifest.json` beside
//! it, whose paths lead to the layout's blobs.

use std::io::Write;

use serde::Serialize;
use wharf_cache::Store;

use super::{Artifact, BuiltImage, ExportError, oci};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item<'a> {
    config: String,
    repo_tags: Vec<&'a str>,
    layers: Vec<String>,
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
    let manifest = [Item {
        config: oci::blob_path(&image.config_descriptor.digest),
        repo_tags: names.iter().map(|name| familiar(name)).collect(),
        layers: image.layers.iter().map(|layer| oci::blob_path(&layer.digest)).collect(),
    }];
    let manifest = serde_json::to_vec(&manifest).expect("docker's manifest has string keys only");
    oci::write_archive_with(store, artifact, names, Some(&manifest), out)
}

/// `docker.io/library/app:1` as people write it: `app:1`.
pub(crate) fn familiar(name: &str) -> &str {
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
