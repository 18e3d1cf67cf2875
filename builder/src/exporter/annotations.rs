//! Annotations of an image's manifest, of the index above it, and of what points to them: text → where they go. Pure.

use std::collections::BTreeMap;

use wharf_frontend::dockerfile2llb::platform;
use wharf_solver::llb::Platform;

use crate::build::host_platform;

/// What is annotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The manifest of an image.
    Manifest,
    /// The index above the images.
    Index,
    /// What points to a manifest: its entry in an index, or in that of a layout.
    ManifestDescriptor,
    /// What points to the index: its entry in that of a layout.
    IndexDescriptor,
}

impl Level {
    const ALL: [(&'static str, Self); 4] = [
        ("manifest", Self::Manifest),
        ("index", Self::Index),
        ("manifest-descriptor", Self::ManifestDescriptor),
        ("index-descriptor", Self::IndexDescriptor),
    ];

    /// Whether it is there only where there is an index.
    pub fn needs_index(self) -> bool {
        matches!(self, Self::Index | Self::IndexDescriptor)
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, level)| *level == self).map_or("", |(name, _)| name)
    }
}

/// Where an annotation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What is annotated.
    pub level: Level,
    /// Of the image for which platform; of all if `None`.
    pub platform: Option<Platform>,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.platform {
            None => f.write_str(self.level.name()),
            Some(platform) => write!(f, "{}[{platform}]", self.level.name()),
        }
    }
}

/// One annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// Where it goes.
    pub target: Target,
    /// Its name.
    pub key: String,
    /// What it says.
    pub value: String,
}

/// All that an output is given; of several for the same key the last counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations(pub Vec<Annotation>);

impl Annotations {
    /// Those at `level` of the image for `platform`.
    pub fn of(&self, level: Level, platform: &Platform) -> BTreeMap<String, String> {
        let is_meant = |target: &Target| {
            target.level == level && target.platform.as_ref().is_none_or(|wanted| wanted == platform)
        };
        let meant = self.0.iter().filter(|annotation| is_meant(&annotation.target));
        meant.map(|annotation| (annotation.key.clone(), annotation.value.clone())).collect()
    }

    /// Those at `level` of the index.
    pub fn of_index(&self, level: Level) -> BTreeMap<String, String> {
        let meant = self.0.iter().filter(|annotation| annotation.target.level == level);
        meant.map(|annotation| (annotation.key.clone(), annotation.value.clone())).collect()
    }
}

/// Why a text says no annotation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum AnnotationError {
    #[error("`{0}` is not [TYPE[,TYPE]:]NAME=VALUE")]
    Form(String),
    #[error("`{0}` is not manifest, index, manifest-descriptor or index-descriptor")]
    Level(String),
    #[error("`{0}`: an index is not for one platform")]
    Platform(String),
    #[error("{0}")]
    UnknownPlatform(String),
    #[error("an annotation has no name")]
    NoName,
}

/// `--annotation [TYPE[PLATFORM][,TYPE[PLATFORM]]:]NAME=VALUE`: one for each type.
pub fn parse_flag(text: &str) -> Result<Vec<Annotation>, AnnotationError> {
    let form = || AnnotationError::Form(text.to_owned());
    let (left, value) = text.split_once('=').ok_or_else(form)?;
    let (targets, key) = match left.split_once(':') {
        None => (vec![Target { level: Level::Manifest, platform: None }], left),
        Some((targets, key)) => {
            (targets.split(',').map(|it| parse_target(it.trim())).collect::<Result<_, _>>()?, key)
        }
    };
    if key.is_empty() {
        return Err(form());
    }
    let annotation = |target: Target| Annotation { target, key: key.to_owned(), value: value.to_owned() };
    Ok(targets.into_iter().map(annotation).collect())
}

/// `annotation.NAME` or `annotation-TYPE[PLATFORM].NAME`, a key of an output; `None` if it is another key.
pub fn parse_key(key: &str, value: &str) -> Option<Result<Annotation, AnnotationError>> {
    let (prefix, rest) = key.split_at_checked(PREFIX.len())?;
    if !prefix.eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    let parsed = || {
        let (target, key) = match rest.strip_prefix('-') {
            None => (Target { level: Level::Manifest, platform: None }, rest.strip_prefix('.')),
            Some(rest) => {
                // A platform may have dots of its own.
                let end = match rest.find('[') {
                    Some(_) => rest.find(']').map(|end| end + 1),
                    None => rest.find('.'),
                };
                let (target, key) = rest.split_at(end.unwrap_or(rest.len()));
                (parse_target(target)?, key.strip_prefix('.'))
            }
        };
        match key {
            Some(key) if !key.is_empty() => {
                Ok(Annotation { target, key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err(AnnotationError::NoName),
        }
    };
    // `annotations` is no such key.
    rest.starts_with(['.', '-']).then(parsed)
}

const PREFIX: &str = "annotation";

fn parse_target(text: &str) -> Result<Target, AnnotationError> {
    let (name, platform) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((name, platform)) => (name, Some(platform)),
        None => (text, None),
    };
    let level = Level::ALL.iter().find(|(known, _)| *known == name).map(|(_, level)| *level);
    let level = level.ok_or_else(|| AnnotationError::Level(text.to_owned()))?;
    if platform.is_some() && level.needs_index() {
        return Err(AnnotationError::Platform(text.to_owned()));
    }
    let platform = platform.map(|platform| platform::parse(platform, &host_platform())).transpose();
    Ok(Target { level, platform: platform.map_err(AnnotationError::UnknownPlatform)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(annotations: &[Annotation]) -> String {
        let show = |it: &Annotation| format!("{} {}={}", it.target, it.key, it.value);
        annotations.iter().map(show).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn the_flag_says_where() {
        for (text, expected) in [
            ("a=b", "manifest a=b"),
            ("a=b:c=d", "manifest a=b:c=d"),
            ("org.x/url=http://h:1/", "manifest org.x/url=http://h:1/"),
            ("index:a=", "index a="),
            ("index,manifest:a=b", "index a=b; manifest a=b"),
            ("manifest[linux/arm64/v8]:a=b", "manifest[linux/arm64] a=b"),
            (
                "manifest-descriptor[linux/arm], index-descriptor:A=b",
                "manifest-descriptor[linux/arm/v7] A=b; index-descriptor A=b",
            ),
            ("a", "`a` is not [TYPE[,TYPE]:]NAME=VALUE"),
            ("=b", "`=b` is not [TYPE[,TYPE]:]NAME=VALUE"),
            ("index:=b", "`index:=b` is not [TYPE[,TYPE]:]NAME=VALUE"),
            ("layer:a=b", "`layer` is not manifest, index, manifest-descriptor or index-descriptor"),
            ("index[linux/arm64]:a=b", "`index[linux/arm64]`: an index is not for one platform"),
        ] {
            let parsed = parse_flag(text).map_or_else(|error| error.to_string(), |it| show(&it));
            assert_eq!(parsed, expected, "{text}");
        }
    }

    #[test]
    fn keys_of_outputs_say_where() {
        for (key, expected) in [
            ("annotation.a", Some("manifest a=v")),
            ("annotation.org.Example.Key", Some("manifest org.Example.Key=v")),
            ("annotation-index.a.b", Some("index a.b=v")),
            ("annotation-manifest[linux/amd64].a.b", Some("manifest[linux/amd64] a.b=v")),
            ("annotation-manifest-descriptor.a", Some("manifest-descriptor a=v")),
            (
                "annotation-manifest[linux/amd64",
                Some(
                    "`manifest[linux/amd64` is not manifest, index, manifest-descriptor or index-descriptor",
                ),
            ),
            ("annotation.", Some("an annotation has no name")),
            ("annotation-index", Some("an annotation has no name")),
            (
                "annotation-config.a",
                Some("`config` is not manifest, index, manifest-descriptor or index-descriptor"),
            ),
            ("annotations", None),
            ("name", None),
        ] {
            let parsed = parse_key(key, "v");
            let parsed = parsed.map(|it| it.map_or_else(|error| error.to_string(), |it| show(&[it])));
            assert_eq!(parsed.as_deref(), expected, "{key}");
        }
    }
}
