//! `-o`, `--output SPEC`: text → [`Output`]. Pure.
//!
//! `type=oci,dest=app.tar`: fields as in one line of CSV, so that a field with commas is quoted
//! (`type=image,"name=a,b"`). `-o DIR` is short for `type=local,dest=DIR`, and `-o -` for a tar on standard output.

use std::path::{Path, PathBuf};

use wharf_cache::diff::Compression;

use super::Destination;
use super::annotations::{self, Annotation, AnnotationError, Annotations};
use super::form::{ImageForm, MediaTypes, Times};
use super::load::Engine;
use crate::csv;
use crate::registry::Reference;

/// What one `--output` asks for. Names are as they were given; making them full is the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `image` and `registry`: into the store, and to the registry the name says.
    Image(ImageOutput),
    /// `oci`: an OCI layout in a tar.
    OciArchive(ImageSpec, Destination),
    /// `oci,tar=false`: an OCI layout in a directory.
    OciDirectory(ImageSpec, PathBuf),
    /// `docker`: what `docker load` takes.
    DockerArchive(ImageSpec, Destination),
    /// `--load`: into the Docker or containerd that runs here.
    Load(ImageSpec, Engine),
    /// `tar`: the file system as a tar.
    Tar(FilesSpec, Destination),
    /// `local`: the files themselves.
    Local(FilesSpec, PathBuf, LocalMode),
    /// `cacheonly`: nothing; the steps are in the cache.
    CacheOnly,
}

/// What an image is called, and what it is like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageSpec {
    /// Its names.
    pub names: Vec<String>,
    /// Its form.
    pub form: ImageForm,
}

/// What becomes of an image that is no archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOutput {
    /// Names and form.
    pub image: ImageSpec,
    /// Whether and how it is pushed.
    pub push: Push,
    /// Whether it is remembered in the store.
    pub store: bool,
    /// Whether its files are unpacked, too.
    pub unpack: bool,
    /// Whether it also has its names with its digest.
    pub canonical_names: bool,
    /// What comes before the digest in the name of an image without a name.
    pub dangling_prefix: Option<String>,
    /// Whether the registries of its names may speak plain HTTP.
    pub insecure: bool,
}

/// Whether and how an image is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// Not at all.
    No,
    /// Under each name.
    ByName,
    /// Under its digest alone.
    ByDigest,
}

/// How the files of several platforms are told apart, and their times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilesSpec {
    /// Whether each platform has a directory; if nothing is said, where there are several.
    pub split: Option<bool>,
    /// What becomes of times.
    pub times: Times,
}

/// What becomes of the files that are in the directory already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LocalMode {
    /// They stay, unless one of the same name replaces them.
    #[default]
    Copy,
    /// Those that the result does not have are deleted.
    Delete,
}

/// Why a `SPEC` is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SpecError {
    #[error("output `{spec}`: {reason}")]
    Csv { spec: String, reason: &'static str },
    #[error("output `{spec}`: `{field}` is not KEY=VALUE")]
    Field { spec: String, field: String },
    #[error("output `{spec}`: key `{key}` is given twice")]
    Twice { spec: String, key: String },
    #[error("output `{spec}`: `type=` is missing; it is one of {}", TYPES.join(", "))]
    NoType { spec: String },
    #[error("output `{spec}`: there is no type `{kind}`; it is one of {}{}", TYPES.join(", "), hint(suggestion))]
    Type { spec: String, kind: String, suggestion: Option<&'static str> },
    #[error("output `{spec}`: type `{kind}` has no key `{key}`{}", hint(suggestion))]
    Key { spec: String, kind: &'static str, key: String, suggestion: Option<&'static str> },
    #[error("output `{spec}`: `{key}`: {reason}")]
    Senseless { spec: String, key: String, reason: &'static str },
    #[error("output `{spec}`: `{key}={value}` is neither true nor false")]
    Bool { spec: String, key: &'static str, value: String },
    #[error("output `{spec}`: `{key}={value}` is not {expected}")]
    Value { spec: String, key: &'static str, value: String, expected: String },
    #[error("output `{spec}`: {source}")]
    Annotation { spec: String, source: AnnotationError },
    #[error("output `{spec}`: {reason}")]
    Together { spec: String, reason: &'static str },
    #[error("output `{spec}`: type `{kind}` needs `dest=`, and it cannot be standard output")]
    NoDest { spec: String, kind: &'static str },
    #[error("output `{spec}`: `dest=` is empty")]
    EmptyDest { spec: String },
    #[error("output `{spec}`: a name in `name=` is empty")]
    EmptyName { spec: String },
    #[error("output `{spec}`: `push=true` needs `name=`, or a tag")]
    NoName { spec: String },
    #[error("output `{spec}`: `{name}` has a tag or a digest, and is to be pushed by digest alone")]
    Tagged { spec: String, name: String },
}

const TYPES: [&str; 7] = ["image", "registry", "oci", "docker", "tar", "local", "cacheonly"];

/// The keys of each of [`TYPES`], besides `type`, annotations, and for images [`FORM_KEYS`].
fn keys_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "image" | "registry" => &[
            "name",
            "push",
            "push-by-digest",
            "registry.insecure",
            "unpack",
            "store",
            "dangling-name-prefix",
            "name-canonical",
        ],
        "oci" => &["dest", "name", "tar"],
        "docker" => &["dest", "name"],
        "tar" => &["dest", "platform-split", "source-date-epoch", "rewrite-timestamp"],
        "local" => &["dest", "mode", "platform-split", "source-date-epoch", "rewrite-timestamp"],
        _ => &[],
    }
}

/// The keys that say what an image is like.
const FORM_KEYS: [&str; 7] = [
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    "rewrite-timestamp",
    "source-date-epoch",
    "prefer-nondist-layers",
];

/// Keys of other builders, and why they have no meaning here.
const SENSELESS: [(&str, &str); 8] = [
    ("attestation-inline", NO_ATTESTATIONS),
    ("attestation-prefix", NO_ATTESTATIONS),
    ("oci-artifact", NO_ATTESTATIONS),
    ("danging-name-empty-only", "an image that has a name never gets a dangling one"),
    ("dangling-name-empty-only", "an image that has a name never gets a dangling one"),
    ("context", "wharf knows no Docker contexts; DOCKER_HOST says where `--load` goes"),
    ("compatibility-version", "wharf makes images in one way"),
    ("buildinfo", "images have no build info any more"),
];
const NO_ATTESTATIONS: &str = "wharf makes no attestations";

impl Output {
    /// Parses `spec`. `tags` are the names given beside it (`-t`): an image output without a `name=` has those.
    pub fn parse(spec: &str, tags: &[String]) -> Result<Self, SpecError> {
        let fields = csv::split(spec).map_err(|reason| SpecError::Csv { spec: spec.to_owned(), reason })?;
        if let [field] = fields.as_slice()
            && field == spec
            && !spec.starts_with("type=")
        {
            return match spec {
                "" => Err(SpecError::NoType { spec: spec.to_owned() }),
                "-" => Ok(Self::Tar(FilesSpec::default(), Destination::Stdout)),
                dir => Ok(Self::Local(FilesSpec::default(), dir.into(), LocalMode::Copy)),
            };
        }
        Attributes::parse(spec, &fields)?.into_output(tags)
    }

    /// Whether it takes an image, and not the files alone.
    pub fn needs_image(&self) -> bool {
        self.image().is_some()
    }

    /// Whether it is pushed.
    pub fn is_pushed(&self) -> bool {
        matches!(self, Self::Image(ImageOutput { push: Push::ByName | Push::ByDigest, .. }))
    }

    /// Whether it is written to standard output.
    pub fn takes_stdout(&self) -> bool {
        matches!(
            self,
            Self::OciArchive(_, Destination::Stdout)
                | Self::DockerArchive(_, Destination::Stdout)
                | Self::Tar(_, Destination::Stdout)
        )
    }

    /// The file or directory that it is written to, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::OciArchive(_, Destination::File(path))
            | Self::DockerArchive(_, Destination::File(path))
            | Self::Tar(_, Destination::File(path))
            | Self::OciDirectory(_, path)
            | Self::Local(_, path, _) => Some(path),
            _ => None,
        }
    }

    /// Names and form of its image.
    pub fn image(&self) -> Option<&ImageSpec> {
        match self {
            Self::Image(ImageOutput { image, .. })
            | Self::OciArchive(image, _)
            | Self::OciDirectory(image, _)
            | Self::DockerArchive(image, _)
            | Self::Load(image, _) => Some(image),
            Self::Tar(..) | Self::Local(..) | Self::CacheOnly => None,
        }
    }

    /// [`Self::image`], to be changed.
    pub fn image_mut(&mut self) -> Option<&mut ImageSpec> {
        match self {
            Self::Image(ImageOutput { image, .. })
            | Self::OciArchive(image, _)
            | Self::OciDirectory(image, _)
            | Self::DockerArchive(image, _)
            | Self::Load(image, _) => Some(image),
            Self::Tar(..) | Self::Local(..) | Self::CacheOnly => None,
        }
    }

    /// What becomes of its times.
    pub fn times(&self) -> Times {
        match self {
            Self::Tar(files, _) | Self::Local(files, ..) => files.times,
            _ => self.image().map(|image| image.form.times).unwrap_or_default(),
        }
    }

    /// [`Self::times`], to be changed; nothing where there are none.
    pub fn times_mut(&mut self) -> Option<&mut Times> {
        match self {
            Self::Tar(files, _) | Self::Local(files, ..) => Some(&mut files.times),
            _ => self.image_mut().map(|image| &mut image.form.times),
        }
    }

    /// The names the image gets.
    pub fn names(&self) -> &[String] {
        self.image().map_or(&[], |image| &image.names)
    }
}

impl ImageOutput {
    /// An image in the store.
    pub fn stored(image: ImageSpec) -> Self {
        Self {
            image,
            push: Push::No,
            store: true,
            unpack: false,
            canonical_names: false,
            dangling_prefix: None,
            insecure: false,
        }
    }
}

/// The fields of a spec whose type is known and which has only keys that the type knows, each once.
struct Attributes<'a> {
    spec: &'a str,
    kind: &'static str,
    values: Vec<(&'static str, String)>,
    annotations: Vec<Annotation>,
}

impl<'a> Attributes<'a> {
    fn parse(spec: &'a str, fields: &[String]) -> Result<Self, SpecError> {
        let owned = || spec.to_owned();
        let mut pairs: Vec<(String, String)> = Vec::new();
        for field in fields {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| SpecError::Field { spec: owned(), field: field.clone() })?;
            let key = key.trim();
            // The name of an annotation is the user's own.
            let key = match annotations::parse_key(key, "") {
                Some(_) => key.to_owned(),
                None => key.to_lowercase(),
            };
            if pairs.iter().any(|(other, _)| *other == key) {
                return Err(SpecError::Twice { spec: owned(), key });
            }
            pairs.push((key, value.to_owned()));
        }

        let kind = pairs.iter().find(|(key, _)| key == "type").map(|(_, kind)| kind.clone());
        let kind = kind.ok_or_else(|| SpecError::NoType { spec: owned() })?;
        let known = TYPES.into_iter().find(|it| *it == kind).ok_or_else(|| {
            let suggestion = nearest(&kind, &TYPES);
            SpecError::Type { spec: owned(), kind, suggestion }
        })?;

        let mut attributes = Self { spec, kind: known, values: Vec::new(), annotations: Vec::new() };
        for (key, value) in pairs.into_iter().filter(|(key, _)| key != "type") {
            attributes.add(key, value)?;
        }
        Ok(attributes)
    }

    fn add(&mut self, key: String, value: String) -> Result<(), SpecError> {
        let (spec, kind) = (self.spec.to_owned(), self.kind);
        let is_image = matches!(kind, "image" | "registry" | "oci" | "docker");
        if is_image && let Some(annotation) = annotations::parse_key(&key, &value) {
            self.annotations.push(annotation.map_err(|source| SpecError::Annotation { spec, source })?);
            return Ok(());
        }
        let form_keys = if is_image { &FORM_KEYS[..] } else { &[] };
        let keys = [keys_of(kind), form_keys].concat();
        if let Some(known) = keys.iter().find(|it| **it == key) {
            self.values.push((known, value));
            return Ok(());
        }
        Err(match SENSELESS.iter().find(|(it, _)| *it == key) {
            Some((_, reason)) => SpecError::Senseless { spec, key, reason },
            None => {
                let suggestion = nearest(&key, &keys);
                SpecError::Key { spec, kind, key, suggestion }
            }
        })
    }

    fn into_output(self, tags: &[String]) -> Result<Output, SpecError> {
        match self.kind {
            "image" | "registry" => Ok(Output::Image(self.image_output(tags)?)),
            "oci" if !self.flag("tar", true)? => {
                Ok(Output::OciDirectory(self.image(tags)?, self.directory()?))
            }
            "oci" => Ok(Output::OciArchive(self.image(tags)?, self.destination()?)),
            "docker" => Ok(Output::DockerArchive(self.image(tags)?, self.destination()?)),
            "tar" => Ok(Output::Tar(self.files()?, self.destination()?)),
            "local" => Ok(Output::Local(self.files()?, self.directory()?, self.mode()?)),
            _ => Ok(Output::CacheOnly),
        }
    }

    fn image_output(&self, tags: &[String]) -> Result<ImageOutput, SpecError> {
        let image = self.image(tags)?;
        let by_digest = self.flag("push-by-digest", false)?;
        let push = match (self.flag("push", self.kind == "registry")?, by_digest) {
            (false, false) => Push::No,
            (true, false) => Push::ByName,
            (true, true) => Push::ByDigest,
            (false, true) => return Err(self.together("`push-by-digest=true` needs `push=true`")),
        };
        if push != Push::No && image.names.is_empty() {
            return Err(SpecError::NoName { spec: self.spec.to_owned() });
        }
        if push == Push::ByDigest {
            self.require_untagged(&image.names)?;
        }
        let dangling_prefix = self.value("dangling-name-prefix").filter(|prefix| !prefix.is_empty());
        if let Some(prefix) = dangling_prefix
            && prefix.parse::<Reference>().is_err()
        {
            return Err(self.value_error("dangling-name-prefix", prefix, "the name of an image"));
        }
        let insecure = self.flag("registry.insecure", false)?;
        if insecure && push == Push::No {
            return Err(self.together("`registry.insecure=true` is about a push, and nothing is pushed"));
        }
        let store = self.flag("store", true)?;
        let canonical_names = self.flag("name-canonical", false)?;
        if !store && (canonical_names || dangling_prefix.is_some()) {
            return Err(self.together("`store=false` leaves no names in the store to be made"));
        }
        Ok(ImageOutput {
            image,
            push,
            store,
            unpack: self.flag("unpack", false)?,
            canonical_names,
            dangling_prefix: dangling_prefix.map(str::to_owned),
            insecure,
        })
    }

    /// A digest says which image it is, and a tag beside it would be moved.
    fn require_untagged(&self, names: &[String]) -> Result<(), SpecError> {
        let is_tagged = |name: &&String| {
            let last = name.rsplit_once('/').map_or(name.as_str(), |(_, last)| last);
            last.contains([':', '@'])
        };
        match names.iter().find(is_tagged) {
            Some(name) => Err(SpecError::Tagged { spec: self.spec.to_owned(), name: name.clone() }),
            None => Ok(()),
        }
    }

    fn image(&self, tags: &[String]) -> Result<ImageSpec, SpecError> {
        if self.flag("prefer-nondist-layers", false)? {
            let reason = "there are none: base images with layers that nobody may distribute are refused";
            let key = "prefer-nondist-layers".to_owned();
            return Err(SpecError::Senseless { spec: self.spec.to_owned(), key, reason });
        }
        let form = ImageForm {
            compression: self.compression()?,
            force_compression: self.flag("force-compression", false)?,
            types: match self.flag("oci-mediatypes", true)? {
                true => MediaTypes::Oci,
                false => MediaTypes::Docker,
            },
            annotations: Annotations(self.annotations.clone()),
            times: self.times()?,
        };
        if let Some(reason) = form.contradiction() {
            return Err(self.together(reason));
        }
        Ok(ImageSpec { names: self.names(tags)?, form })
    }

    fn compression(&self) -> Result<Compression, SpecError> {
        let name = self.value("compression").unwrap_or("gzip");
        let level = |max: u8| {
            let Some(text) = self.value("compression-level") else { return Ok(None) };
            let level = text.parse::<u8>().ok().filter(|level| *level <= max);
            let expected = format!("a number from 0 to {max}");
            level.map(Some).ok_or_else(|| self.value_error("compression-level", text, &expected))
        };
        match name {
            "gzip" => Ok(Compression::Gzip { level: level(9)? }),
            "estargz" => Ok(Compression::Estargz { level: level(9)? }),
            // 0 is what the library calls its default.
            "zstd" => Ok(Compression::Zstd { level: level(22)?.filter(|level| *level > 0) }),
            "uncompressed" if self.value("compression-level").is_some() => {
                Err(self.together("what is not compressed has no `compression-level`"))
            }
            "uncompressed" => Ok(Compression::None),
            other => Err(self.value_error("compression", other, "one of gzip, zstd, estargz, uncompressed")),
        }
    }

    fn times(&self) -> Result<Times, SpecError> {
        let epoch = match self.value("source-date-epoch") {
            None | Some("") => None,
            Some(text) => Some(text.parse().map_err(|_| {
                self.value_error("source-date-epoch", text, "a number of seconds since 1970")
            })?),
        };
        let rewrite = match self.value("rewrite-timestamp") {
            None => None,
            Some(_) => Some(self.flag("rewrite-timestamp", true)?),
        };
        Ok(Times { epoch, rewrite })
    }

    fn files(&self) -> Result<FilesSpec, SpecError> {
        let split = match self.value("platform-split") {
            None => None,
            Some(_) => Some(self.flag("platform-split", true)?),
        };
        Ok(FilesSpec { split, times: self.times()? })
    }

    fn mode(&self) -> Result<LocalMode, SpecError> {
        match self.value("mode") {
            None | Some("copy") => Ok(LocalMode::Copy),
            Some("delete") => Ok(LocalMode::Delete),
            Some(other) => Err(self.value_error("mode", other, "copy or delete")),
        }
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(it, _)| *it == key).map(|(_, value)| value.as_str())
    }

    fn names(&self, tags: &[String]) -> Result<Vec<String>, SpecError> {
        let Some(given) = self.value("name") else { return Ok(tags.to_vec()) };
        let names: Vec<_> = given.split(',').map(|name| name.trim().to_owned()).collect();
        match names.iter().any(String::is_empty) {
            true => Err(SpecError::EmptyName { spec: self.spec.to_owned() }),
            false => Ok(names),
        }
    }

    fn flag(&self, key: &'static str, default: bool) -> Result<bool, SpecError> {
        let Some(value) = self.value(key) else { return Ok(default) };
        csv::boolean(value).ok_or_else(|| SpecError::Bool {
            spec: self.spec.to_owned(),
            key,
            value: value.to_owned(),
        })
    }

    fn value_error(&self, key: &'static str, value: &str, expected: &str) -> SpecError {
        let (spec, value, expected) = (self.spec.to_owned(), value.to_owned(), expected.to_owned());
        SpecError::Value { spec, key, value, expected }
    }

    fn together(&self, reason: &'static str) -> SpecError {
        SpecError::Together { spec: self.spec.to_owned(), reason }
    }

    fn destination(&self) -> Result<Destination, SpecError> {
        match self.value("dest") {
            None | Some("-") => Ok(Destination::Stdout),
            Some("") => Err(SpecError::EmptyDest { spec: self.spec.to_owned() }),
            Some(path) => Ok(Destination::File(path.into())),
        }
    }

    fn directory(&self) -> Result<PathBuf, SpecError> {
        match self.destination()? {
            Destination::File(path) => Ok(path),
            Destination::Stdout => Err(SpecError::NoDest { spec: self.spec.to_owned(), kind: self.kind }),
        }
    }
}

/// The known word at most two edits (and fewer than its length) away from `word`.
pub(crate) fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    let distances = known.iter().map(|it| (edits(word, it), *it));
    distances.filter(|(edits, it)| *edits <= 2 && *edits < it.len()).min().map(|(_, it)| it)
}

/// Levenshtein distance; words far longer than any key are simply far.
fn edits(a: &str, b: &str) -> usize {
    const WORD_CHARS_MAX: usize = 64;
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > WORD_CHARS_MAX || b.len() > WORD_CHARS_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

pub(crate) fn hint(suggestion: &Option<&'static str>) -> String {
    suggestion.map_or_else(String::new, |it| format!(" (did you mean `{it}`?)"))
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
