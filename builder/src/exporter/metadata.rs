//! What a build tells scripts: `--metadata-file` and `--iidfile`.

use std::io::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use wharf_frontend::Diagnostic;

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
    #[serde(rename = "wharf.layer.compressor", skip_serializing_if = "Option::is_none")]
    compressor: Option<&'a str>,
    #[serde(rename = "buildx.build.ref")]
    build: String,
    #[serde(rename = "buildx.build.warnings", skip_serializing_if = "Option::is_none")]
    warnings: Option<&'a [Warning]>,
}

/// What a check or the conversion says of the Dockerfile, as BuildKit's clients have it: texts in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    level: u8,
    short: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    detail: Vec<String>,
    source_info: SourceInfo,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    range: Vec<Range>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct SourceInfo {
    filename: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Position {
    line: usize,
    character: usize,
}

impl Warning {
    /// Of a diagnostic of the Dockerfile `text`, which is called `name`.
    pub fn of(diagnostic: &Diagnostic, name: &str, text: &str) -> Self {
        let rule = diagnostic.rule.map(|rule| format!("{}: ", rule.name())).unwrap_or_default();
        let position = |at: usize| {
            let before = text.get(..at).unwrap_or(text);
            let line = before.rfind('\n').map_or(0, |newline| newline + 1);
            Position { line: 1 + before.matches('\n').count(), character: before.len() - line }
        };
        let range =
            |span: &std::ops::Range<usize>| Range { start: position(span.start), end: position(span.end) };
        Self {
            level: 1,
            short: STANDARD.encode(format!("{rule}{}", diagnostic.message)),
            detail: diagnostic.hint.iter().map(|hint| STANDARD.encode(hint)).collect(),
            source_info: SourceInfo { filename: name.to_owned() },
            range: diagnostic.place().map(range).into_iter().collect(),
        }
    }
}

/// What the metadata file tells besides the image.
#[derive(Debug)]
pub struct About<'a> {
    /// All names of the image.
    pub names: &'a [String],
    /// The build, as `wharf history` knows it.
    pub build: String,
    /// What is to be said of the Dockerfile, if it was asked for.
    pub warnings: Option<&'a [Warning]>,
    /// What made the blobs of new layers: compression, level, library and its version.
    pub compressor: String,
}

/// Writes the metadata file: `containerimage.digest` (of the manifest or index), `containerimage.config.digest` (of a
/// single image), `containerimage.descriptor`, `image.name` (all names, separated by commas), `wharf.layer.compressor` (what
/// made the blobs of new layers, for who wants the same bytes again), `buildx.build.ref` and `buildx.build.warnings`. A
/// build that made no image has the last two.
pub fn write_metadata_file(
    path: &Path,
    artifact: Option<&Artifact>,
    about: &About<'_>,
) -> Result<(), ExportError> {
    let of_build = Metadata { build: about.build.clone(), warnings: about.warnings, ..Metadata::default() };
    let metadata = match artifact {
        None => of_build,
        Some(artifact) => Metadata {
            config_digest: artifact.only_image().map(|image| image.config_descriptor.digest.to_string()),
            descriptor: Some(artifact.descriptor()),
            digest: Some(artifact.descriptor().digest.to_string()),
            name: about.names.join(","),
            compressor: Some(&about.compressor),
            ..of_build
        },
    };
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
