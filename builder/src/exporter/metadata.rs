//! What a build tells scripts: `--metadata-file` and `--iidfile`.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::output::OutputFile;
use super::{Artifact, Descriptor, ExportError};

#[derive(Default, Serialize)]
struct Metadata<'a> {
    #[serde(rename = "containerimage.config.digest", skip_serializing_if = "Option::is_none")]
    config_digest: Option<String>,
    #[serde(rename = "containerimage.descriptor", skip_serializing_if = "Option::is_none")]
    descriptor: Option<&'a Descriptor>,
    #[serde(rename = "containerimage.digest", skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(rename = "image.name", skip_serializing_if = "String::is_empty")]
    name: String,
}

/// Writes the metadata file: `containerimage.digest` (of the manifest or index), `containerimage.config.digest` (of a
/// single image), `containerimage.descriptor` and `image.name` (all names, separated by commas). A build that made no
/// image has an empty object.
pub fn write_metadata_file(
    path: &Path,
    artifact: Option<&Artifact>,
    names: &[String],
) -> Result<(), ExportError> {
    let metadata = artifact.map_or_else(Metadata::default, |artifact| Metadata {
        config_digest: artifact.only_image().map(|image| image.config_descriptor.digest.to_string()),
        descriptor: Some(artifact.descriptor()),
        digest: Some(artifact.descriptor().digest.to_string()),
        name: names.join(","),
    });
    write_whole(path, &serde_json::to_vec_pretty(&metadata).expect("metadata has string keys only"))
}

/// Writes the image id: the digest of the image *config*, `sha256:…` without a newline, as Docker's own store has it.
/// (Docker's containerd store writes the manifest's digest instead; that one is in the metadata file.) Of several
/// platforms it is the digest of the index.
pub fn write_iidfile(path: &Path, artifact: &Artifact) -> Result<(), ExportError> {
    write_whole(path, artifact.id().to_string().as_bytes())
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let write = || {
        let mut file = OutputFile::create(path)?;
        file.write_all(bytes).map_err(ExportError::io("write", path.display()))?;
        file.commit()
    };
    write().map_err(|error: ExportError| error.name_full_disk(path))
}
