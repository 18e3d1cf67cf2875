//! `-o`, `--output SPEC`: text → [`Output`]. Pure.
//!
//! `type=oci,dest=app.tar`: fields as in one line of CSV, so that a field with commas is quoted
//! (`type=image,"name=a,b"`). `-o DIR` is short for `type=local,dest=DIR`, and `-o -` for a tar on standard output.

use std::path::{Path, PathBuf};

use super::Destination;
use crate::csv;

/// What one `--output` asks for. Names are as they were given; making them full is the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the keys of a SPEC")]
pub enum Output {
    /// `image` and `registry`: into the store, and to the registry the name says when `push`.
    Image { names: Vec<String>, push: bool },
    /// `oci`: an OCI layout in a tar.
    OciArchive { names: Vec<String>, dest: Destination },
    /// `oci,tar=false`: an OCI layout in a directory.
    OciDirectory { names: Vec<String>, dest: PathBuf },
    /// `docker`: what `docker load` takes.
    DockerArchive { names: Vec<String>, dest: Destination },
    /// `tar`: the file system as a tar.
    Tar { dest: Destination },
    /// `local`: the files themselves.
    Local { dest: PathBuf },
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
    #[error("output `{spec}`: `{key}={value}` is neither true nor false")]
    Bool { spec: String, key: &'static str, value: String },
    #[error("output `{spec}`: type `{kind}` needs `dest=`, and it cannot be standard output")]
    NoDest { spec: String, kind: &'static str },
    #[error("output `{spec}`: `dest=` is empty")]
    EmptyDest { spec: String },
    #[error("output `{spec}`: `push=true` needs `name=`, or a tag")]
    NoName { spec: String },
}

const TYPES: [&str; 6] = ["image", "registry", "oci", "docker", "tar", "local"];

/// The keys of each of [`TYPES`], besides `type`.
fn keys_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "image" | "registry" => &["name", "push"],
        "oci" => &["dest", "name", "tar"],
        "docker" => &["dest", "name"],
        _ => &["dest"],
    }
}

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
                "-" => Ok(Self::Tar { dest: Destination::Stdout }),
                dir => Ok(Self::Local { dest: dir.into() }),
            };
        }
        Attributes::parse(spec, &fields)?.into_output(tags)
    }
}

impl Output {
    /// Whether it takes an image, and not the files alone.
    pub fn needs_image(&self) -> bool {
        !matches!(self, Self::Tar { .. } | Self::Local { .. })
    }

    /// Whether it is written to standard output.
    pub fn takes_stdout(&self) -> bool {
        matches!(
            self,
            Self::OciArchive { dest: Destination::Stdout, .. }
                | Self::DockerArchive { dest: Destination::Stdout, .. }
                | Self::Tar { dest: Destination::Stdout }
        )
    }

    /// The file or directory that it is written to, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::OciArchive { dest: Destination::File(path), .. }
            | Self::DockerArchive { dest: Destination::File(path), .. }
            | Self::Tar { dest: Destination::File(path) }
            | Self::OciDirectory { dest: path, .. }
            | Self::Local { dest: path } => Some(path),
            _ => None,
        }
    }

    /// The names the image gets.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Image { names, .. }
            | Self::OciArchive { names, .. }
            | Self::OciDirectory { names, .. }
            | Self::DockerArchive { names, .. } => names,
            Self::Tar { .. } | Self::Local { .. } => &[],
        }
    }
}

/// The fields of a spec whose type is known and which has only keys that the type knows, each once.
struct Attributes<'a> {
    spec: &'a str,
    kind: &'static str,
    values: Vec<(&'static str, String)>,
}

impl<'a> Attributes<'a> {
    fn parse(spec: &'a str, fields: &[String]) -> Result<Self, SpecError> {
        let owned = || spec.to_owned();
        let mut pairs: Vec<(String, String)> = Vec::new();
        for field in fields {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| SpecError::Field { spec: owned(), field: field.clone() })?;
            let key = key.trim().to_lowercase();
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

        let mut values = Vec::new();
        for (key, value) in pairs.into_iter().filter(|(key, _)| key != "type") {
            let keys = keys_of(known);
            let Some(&key) = keys.iter().find(|it| **it == key) else {
                let suggestion = nearest(&key, keys);
                return Err(SpecError::Key { spec: owned(), kind: known, key, suggestion });
            };
            values.push((key, value));
        }
        Ok(Self { spec, kind: known, values })
    }

    fn into_output(self, tags: &[String]) -> Result<Output, SpecError> {
        match self.kind {
            "image" | "registry" => {
                let names = self.names(tags);
                let push = self.flag("push", self.kind == "registry")?;
                if push && names.is_empty() {
                    return Err(SpecError::NoName { spec: self.spec.to_owned() });
                }
                Ok(Output::Image { names, push })
            }
            "oci" if !self.flag("tar", true)? => {
                Ok(Output::OciDirectory { names: self.names(tags), dest: self.directory()? })
            }
            "oci" => Ok(Output::OciArchive { names: self.names(tags), dest: self.destination()? }),
            "docker" => Ok(Output::DockerArchive { names: self.names(tags), dest: self.destination()? }),
            "tar" => Ok(Output::Tar { dest: self.destination()? }),
            _ => Ok(Output::Local { dest: self.directory()? }),
        }
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(it, _)| *it == key).map(|(_, value)| value.as_str())
    }

    fn names(&self, tags: &[String]) -> Vec<String> {
        let given = self.value("name").unwrap_or("").split(',').map(str::trim);
        let names: Vec<_> = given.filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if names.is_empty() { tags.to_vec() } else { names }
    }

    fn flag(&self, key: &'static str, default: bool) -> Result<bool, SpecError> {
        let Some(value) = self.value(key) else { return Ok(default) };
        csv::boolean(value).ok_or_else(|| SpecError::Bool {
            spec: self.spec.to_owned(),
            key,
            value: value.to_owned(),
        })
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
mod tests {
    use super::*;

    fn file(path: &str) -> Destination {
        Destination::File(path.into())
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn specs_say_what_docker_build_understands() {
        use Output as O;
        let tags = names(&["tag"]);
        for (spec, expected) in [
            ("out", O::Local { dest: "out".into() }),
            ("a=b", O::Local { dest: "a=b".into() }),
            ("-", O::Tar { dest: Destination::Stdout }),
            ("type=local,dest=out/dir", O::Local { dest: "out/dir".into() }),
            ("type=tar", O::Tar { dest: Destination::Stdout }),
            ("type=tar,dest=-", O::Tar { dest: Destination::Stdout }),
            ("type=tar,dest=x.tar", O::Tar { dest: file("x.tar") }),
            ("dest=x.tar,type=oci", O::OciArchive { names: tags.clone(), dest: file("x.tar") }),
            ("type=oci,dest=d,tar=false", O::OciDirectory { names: tags.clone(), dest: "d".into() }),
            ("type=oci,dest=d,tar=1,name=", O::OciArchive { names: tags.clone(), dest: file("d") }),
            ("type=docker", O::DockerArchive { names: tags.clone(), dest: Destination::Stdout }),
            ("type=docker,name=x:1,dest=d", O::DockerArchive { names: names(&["x:1"]), dest: file("d") }),
            ("type=image", O::Image { names: tags.clone(), push: false }),
            ("type=image,push=true", O::Image { names: tags.clone(), push: true }),
            ("type=image,push=", O::Image { names: tags.clone(), push: true }),
            ("type=registry", O::Image { names: tags.clone(), push: true }),
            ("type=registry,push=false", O::Image { names: tags.clone(), push: false }),
            (r#"type=image,"name=a, b""#, O::Image { names: names(&["a", "b"]), push: false }),
            (r#"TYPE=tar,"dest=say ""hi"",x""#, O::Tar { dest: file("say \"hi\",x") }),
        ] {
            assert_eq!(Output::parse(spec, &tags), Ok(expected), "{spec}");
        }
    }

    #[test]
    fn wrong_specs_say_why() {
        for (spec, message) in [
            ("", "output ``: `type=` is missing; it is one of image, registry, oci, docker, tar, local"),
            (
                "dest=x,name=y",
                "output `dest=x,name=y`: `type=` is missing; it is one of image, registry, oci, docker, tar, local",
            ),
            (
                "type=locl",
                "output `type=locl`: there is no type `locl`; it is one of image, registry, oci, docker, tar, local \
                 (did you mean `local`?)",
            ),
            (
                "type=vhd,dest=x",
                "output `type=vhd,dest=x`: there is no type `vhd`; it is one of image, registry, oci, docker, tar, \
                 local",
            ),
            ("type=oci,dst=x", "output `type=oci,dst=x`: type `oci` has no key `dst` (did you mean `dest`?)"),
            ("type=local,push=true", "output `type=local,push=true`: type `local` has no key `push`"),
            ("type=tar,dest", "output `type=tar,dest`: `dest` is not KEY=VALUE"),
            ("type=tar,dest=", "output `type=tar,dest=`: `dest=` is empty"),
            ("type=tar,", "output `type=tar,`: `` is not KEY=VALUE"),
            ("type=tar,type=oci", "output `type=tar,type=oci`: key `type` is given twice"),
            ("type=image,push=yes", "output `type=image,push=yes`: `push=yes` is neither true nor false"),
            ("type=registry", "output `type=registry`: `push=true` needs `name=`, or a tag"),
            (
                "type=local",
                "output `type=local`: type `local` needs `dest=`, and it cannot be standard output",
            ),
            (
                "type=oci,tar=false,dest=-",
                "output `type=oci,tar=false,dest=-`: type `oci` needs `dest=`, and it cannot be standard output",
            ),
            ("type=tar,\"dest=x", "output `type=tar,\"dest=x`: a quote is not closed"),
            (
                "type=tar,\"dest=x\"y",
                "output `type=tar,\"dest=x\"y`: something other than a comma follows a closing quote",
            ),
            (
                "type=tar,de\"st=x",
                "output `type=tar,de\"st=x`: a quote stands inside a field that does not begin with one",
            ),
        ] {
            assert_eq!(Output::parse(spec, &[]).unwrap_err().to_string(), message, "{spec}");
        }
    }
}
