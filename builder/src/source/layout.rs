//! OCI image layouts as a source: a directory somebody else wrote, read only.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use wharf_cache::Digest;
use wharf_cache::content::VerifyingReader;

use super::SourceError;
use crate::context::open_at_once;
use crate::registry::FetchedManifest;
use crate::registry::manifest::{Descriptor, MANIFEST_BYTES_MAX, Manifest};
use crate::registry::reference::is_tag;

/// The name of an entry of `index.json` (OCI image-spec, annotations.md).
const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// An image in a layout: `PATH[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayoutReference {
    path: PathBuf,
    tag: Option<String>,
    pub(super) digest: Option<Digest>,
}

impl LayoutReference {
    /// The image with this tag, or this digest.
    pub(crate) fn new(path: PathBuf, tag: String, digest: Option<Digest>) -> Self {
        Self { path, tag: Some(tag), digest }
    }

    /// Reads what follows `oci-layout://`. A colon in the last path component begins a tag.
    pub(crate) fn parse(text: &str) -> Result<Self, SourceError> {
        let bad = |reason| SourceError::LayoutName { text: text.chars().take(300).collect(), reason };
        let (rest, digest) = match text.rsplit_once('@') {
            Some((rest, digest)) if digest.contains(':') => {
                let digest =
                    digest.parse().map_err(|_| bad("after `@` comes `sha256:` and 64 hex digits"))?;
                (rest, Some(digest))
            }
            _ => (text, None),
        };
        let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match rest[name_start..].rfind(':') {
            Some(colon) => {
                let (path, tag) = rest.split_at(name_start + colon);
                (path, Some(&tag[1..]))
            }
            None => (rest, None),
        };
        if path.is_empty() || path.contains('\0') {
            return Err(bad("it names no directory"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad("after the last `:` comes a tag"));
        }
        Ok(Self { path: path.into(), tag: tag.map(str::to_owned), digest })
    }

    /// `oci-layout://PATH@DIGEST`.
    pub(crate) fn identifier(&self, digest: &Digest) -> String {
        format!("oci-layout://{}@{digest}", self.path.display())
    }

    /// What the reference names: the blob with its digest, else the entry of `index.json` with its tag, else the only
    /// entry there is, else the one called `latest`.
    pub(crate) fn root(&self) -> Result<FetchedManifest, SourceError> {
        if let Some(digest) = &self.digest {
            return self.manifest(digest);
        }
        let path = self.path.join("index.json");
        let bytes = read_limited(&path, MANIFEST_BYTES_MAX).map_err(|source| SourceError::Layout {
            operation: "read",
            path: path.clone(),
            source,
        })?;
        let entries = match Manifest::parse(&bytes, "") {
            Ok(Manifest::Index(entries)) => entries,
            Ok(Manifest::Image { .. }) => {
                return Err(SourceError::LayoutName {
                    text: self.path.display().to_string(),
                    reason: "its index.json is not an index",
                });
            }
            Err(source) => return Err(SourceError::Manifest { object: path.display().to_string(), source }),
        };
        let entry = match (&self.tag, &entries[..]) {
            (None, [only]) => Some(only),
            (tag, entries) => {
                let tag = tag.as_deref().unwrap_or("latest");
                entries.iter().find(|entry| has_tag(entry, tag))
            }
        };
        let entry = entry.ok_or_else(|| SourceError::LayoutTag {
            path: self.path.clone(),
            tag: self.tag.clone().unwrap_or_else(|| "latest".to_owned()),
            available: entries.iter().filter_map(name_of).map(str::to_owned).collect(),
        })?;
        self.manifest(&entry.digest)
    }

    /// A manifest or index of the layout, verified.
    pub(crate) fn manifest(&self, digest: &Digest) -> Result<FetchedManifest, SourceError> {
        let path = self.blob_path(digest);
        let read = || {
            let (file, size) = open_regular(&path)?;
            if size > MANIFEST_BYTES_MAX {
                return Err(too_large(MANIFEST_BYTES_MAX));
            }
            let mut bytes = Vec::new();
            VerifyingReader::new(file, *digest, size).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(FetchedManifest { bytes, media_type: String::new(), digest: *digest }),
            Err(source) => Err(SourceError::Layout { operation: "read", path, source }),
        }
    }

    /// A blob of `size` bytes; reading fails if it is another one.
    pub(crate) fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, SourceError> {
        let path = self.blob_path(digest);
        match open_regular(&path) {
            Ok((file, _)) => Ok(Box::new(VerifyingReader::new(file, *digest, size))),
            Err(source) => Err(SourceError::Layout { operation: "open", path, source }),
        }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }
}

impl fmt::Display for LayoutReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci-layout://{}", self.path.display())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn name_of(entry: &Descriptor) -> Option<&str> {
    entry.annotations.as_ref()?.get(NAME_ANNOTATION).map(|name| &**name)
}

/// Some tools write the tag alone as the name, others the whole reference.
fn has_tag(entry: &Descriptor, tag: &str) -> bool {
    name_of(entry)
        .is_some_and(|name| name == tag || name.strip_suffix(tag).is_some_and(|rest| rest.ends_with(':')))
}

/// Opens a regular file. Links are followed (tools share blobs that way; the digest decides what is believed), but a
/// pipe or device must not hang or surprise us.
fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let (file, metadata) = open_at_once(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, metadata.len()))
}

/// All of a regular file that is no larger than that.
pub(crate) fn read_limited(path: &Path, size_bytes_max: u64) -> io::Result<Vec<u8>> {
    let (file, _) = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(size_bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > size_bytes_max { Err(too_large(size_bytes_max)) } else { Ok(bytes) }
}

fn too_large(size_bytes_max: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {size_bytes_max} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, Option<&str>, bool)>) {
        let text = text.replace("DIGEST", DIGEST);
        let actual = LayoutReference::parse(&text).ok();
        let actual =
            actual.as_ref().map(|r| (r.path.to_str().unwrap(), r.tag.as_deref(), r.digest.is_some()));
        assert_eq!(actual, expected);
    }

    #[test]
    fn names_are_split() {
        check("/a/b", Some(("/a/b", None, false)));
        check("a:v1", Some(("a", Some("v1"), false)));
        check("/a:b/c", Some(("/a:b/c", None, false)));
        check("/a@b/c", Some(("/a@b/c", None, false)));
        check("/a/b@DIGEST", Some(("/a/b", None, true)));
        check("/a/b:v1@DIGEST", Some(("/a/b", Some("v1"), true)));
        check("", None);
        check(":v1", None);
        check("/a:", None);
        check("/a@sha256:12", None);
    }
}
