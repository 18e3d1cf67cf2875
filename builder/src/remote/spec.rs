//! `--cache-from SPEC` and `--cache-to SPEC`: text → [`CacheFrom`], [`CacheTo`]. Pure.
//!
//! Fields as in one line of CSV, with buildx's names. A text without `type=` is the name of an image:
//! `--cache-from app:cache` is `type=registry,ref=app:cache`.

use std::path::PathBuf;

use wharf_cache::Digest;

use super::mounts::{MountLimit, Wanted};
use super::s3::{self, S3Place};
use crate::csv;
use crate::exporter::spec::{hint, nearest};
use crate::registry::Reference;
use crate::registry::reference::is_tag;

/// Where a cache is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFrom {
    /// As it was given, without secrets.
    pub spec: String,
    /// The place.
    pub origin: Origin,
    /// Which cache mounts are brought when a step wants them.
    pub mounts: MountLimit,
}

/// A place that holds a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A registry: a cache manifest, or an image that carries its cache.
    Registry(Reference),
    /// An OCI layout.
    Local {
        /// The directory.
        src: PathBuf,
        /// Name of the entry of its index.
        tag: String,
        /// The manifest, instead of what the tag names.
        digest: Option<Digest>,
    },
    /// A bucket of an S3 service.
    S3(Box<S3Place>),
}

impl Origin {
    /// Whether it is asked over the network.
    pub fn is_network(&self) -> bool {
        match self {
            Self::Registry(_) | Self::S3(_) => true,
            Self::Local { .. } => false,
        }
    }
}

/// Where a cache is written to, and what of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTo {
    /// As it was given, without secrets.
    pub spec: String,
    /// The place.
    pub target: Target,
    /// Which cache mounts are taken along.
    pub mounts: MountLimit,
    /// Which steps.
    pub mode: Mode,
    /// How layers that are made for it are compressed.
    pub layers: LayerForm,
    /// Whether the build fails when the cache cannot be written. Only who says so with `ignore-error=false` has that: a
    /// cache makes a build faster, no more.
    pub required: bool,
}

/// A place that a cache is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Into the config of the image itself.
    Inline,
    /// A registry.
    Registry(Reference),
    /// An OCI layout.
    Local {
        /// The directory.
        dest: PathBuf,
        /// Name of the entry of its index.
        tag: String,
        /// Whether blobs that no entry names any more are deleted.
        reset: bool,
    },
    /// A bucket of an S3 service.
    S3(Box<S3Place>),
}

impl Target {
    /// Whether it is written to over the network.
    pub fn is_network(&self) -> bool {
        match self {
            Self::Registry(_) | Self::S3(_) => true,
            Self::Inline | Self::Local { .. } => false,
        }
    }
}

/// Which steps a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Those whose layers are the image's.
    #[default]
    Min,
    /// All.
    Max,
}

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerForm {
    /// The form that new layers get; as the image's if nothing was said.
    pub compression: Option<Compression>,
    /// The level, where the compression has levels.
    pub level: Option<u8>,
    /// Whether layers that are there in another form are made again.
    pub force: bool,
}

/// A compression by its name in a specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `uncompressed`.
    Uncompressed,
    /// `gzip`.
    Gzip,
    /// `estargz`.
    Estargz,
    /// `zstd`.
    Zstd,
}

impl Compression {
    const NAMES: [&'static str; 4] = ["uncompressed", "gzip", "estargz", "zstd"];

    fn parse(name: &str) -> Option<Self> {
        match name {
            "uncompressed" => Some(Self::Uncompressed),
            "gzip" => Some(Self::Gzip),
            "estargz" => Some(Self::Estargz),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The levels it has.
    fn levels(self) -> Option<(u8, u8)> {
        match self {
            Self::Uncompressed => None,
            Self::Gzip | Self::Estargz => Some((0, 9)),
            Self::Zstd => Some((1, 22)),
        }
    }
}

/// Why a `SPEC` is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} `{spec}`: {reason}")]
pub struct SpecError {
    /// The flag.
    pub flag: &'static str,
    /// What was given with it.
    pub spec: String,
    /// What is wrong.
    pub reason: String,
}

/// Looks an environment variable up.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

const FROM: &str = "--cache-from";
const TO: &str = "--cache-to";

/// Keys of layers that are made for a cache, besides those of the place.
const EXPORT_KEYS: [&str; 7] = [
    "mode",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "image-manifest",
    "ignore-error",
];

/// Keys of cache mounts.
const MOUNT_KEYS: [&str; 2] = ["mounts", "mounts-max-size"];

impl CacheFrom {
    /// Parses what was given with `--cache-from`.
    pub fn parse(spec: &str) -> Result<Self, SpecError> {
        parse_from(spec).map_err(|reason| SpecError { flag: FROM, spec: shown(spec), reason })
    }
}

impl CacheFrom {
    /// Fills in what the environment says of the place.
    pub fn with_environment(mut self, variable: Variables<'_>) -> Result<Self, SpecError> {
        if let Origin::S3(place) = &mut self.origin {
            let bucket = place.clone().with_environment(variable);
            **place = bucket.map_err(|reason| SpecError { flag: FROM, spec: self.spec.clone(), reason })?;
        }
        Ok(self)
    }
}

impl CacheTo {
    /// Fills in what the environment says of the place.
    pub fn with_environment(mut self, variable: Variables<'_>) -> Result<Self, SpecError> {
        if let Target::S3(place) = &mut self.target {
            let bucket = place.clone().with_environment(variable);
            **place = bucket.map_err(|reason| SpecError { flag: TO, spec: self.spec.clone(), reason })?;
        }
        Ok(self)
    }

    /// Parses what was given with `--cache-to`.
    pub fn parse(spec: &str) -> Result<Self, SpecError> {
        parse_to(spec).map_err(|reason| SpecError { flag: TO, spec: shown(spec), reason })
    }
}

/// Whether a name or URL says nothing before an `@` but a digest's.
fn has_no_password(text: &str) -> bool {
    !text.replace("@sha256:", "").contains('@')
}

/// A spec without what must not be shown: values are shown of keys that hold no secret, and of these none that may have a
/// password in it. A misspelt key may be that of a secret.
fn shown(spec: &str) -> String {
    const SHOWN_KEYS: [&str; 20] = [
        "type",
        "ref",
        "src",
        "dest",
        "tag",
        "digest",
        "mode",
        "reset",
        "ignore-error",
        "compression",
        "compression-level",
        "force-compression",
        "image-manifest",
        "oci-mediatypes",
        "mounts",
        "mounts-max-size",
        "bucket",
        "region",
        "name",
        "endpoint_url",
    ];
    let field = |(number, field): (usize, &str)| match field.split_once('=') {
        Some((key, value)) if SHOWN_KEYS.contains(&key.trim()) && has_no_password(value) => field.to_owned(),
        Some((key, _)) => format!("{key}=…"),
        // Alone it is the name of an image; after another field it may belong to that one's value.
        None if number == 0 && has_no_password(field) => field.to_owned(),
        None => "…".to_owned(),
    };
    spec.split(',').enumerate().map(field).collect::<Vec<_>>().join(",")
}

fn parse_from(spec: &str) -> Result<CacheFrom, String> {
    let mut fields = Fields::parse(spec)?;
    let kind = fields.kind(&["registry", "local", "s3"])?;
    let own: &[&'static str] = match kind {
        "registry" => &["ref"],
        "local" => &["src", "tag", "digest"],
        _ => &s3::KEYS,
    };
    let keys: Vec<&'static str> = [own, &MOUNT_KEYS].concat();
    fields.require_known(kind, &keys)?;
    let mounts = fields.mounts(Wanted::All)?;
    let origin = match kind {
        "registry" => Origin::Registry(fields.reference()?),
        "local" => {
            let digest = fields.take("digest").map(|text| text.parse::<Digest>());
            Origin::Local {
                src: fields.path("src")?,
                tag: fields.tag()?,
                digest: digest.transpose().map_err(|error| error.to_string())?,
            }
        }
        _ => Origin::S3(Box::new(S3Place::take(&mut fields)?)),
    };
    Ok(CacheFrom { spec: shown(spec), origin, mounts })
}

fn parse_to(spec: &str) -> Result<CacheTo, String> {
    let mut fields = Fields::parse(spec)?;
    let kind = fields.kind(&["inline", "registry", "local", "s3"])?;
    let own: &[&'static str] = match kind {
        "registry" => &["ref"],
        "local" => &["dest", "tag", "reset"],
        "s3" => &s3::KEYS,
        // The layers of an inline cache are the image's own.
        _ => &["mode", "ignore-error"],
    };
    let keys: Vec<&'static str> = match kind {
        "inline" => own.to_vec(),
        _ => [own, &EXPORT_KEYS, &MOUNT_KEYS].concat(),
    };
    fields.require_known(kind, &keys)?;
    let mode = fields.mode()?;
    if kind == "inline" && mode == Mode::Max {
        return Err(
            "an inline cache has the layers of the image alone: `mode=max` needs a place of its own, \
                    for example type=registry"
                .to_owned(),
        );
    }
    let target = match kind {
        "inline" => Target::Inline,
        "s3" => Target::S3(Box::new(S3Place::take(&mut fields)?)),
        "registry" => match fields.reference()? {
            reference if reference.digest().is_some() => {
                return Err(format!("`{reference}` has a digest: a cache is written under a tag"));
            }
            reference => Target::Registry(reference),
        },
        _ => Target::Local {
            dest: fields.path("dest")?,
            tag: fields.tag()?,
            reset: fields.flag("reset")?.unwrap_or(false),
        },
    };
    for key in ["oci-mediatypes", "image-manifest"] {
        if fields.flag(key)? == Some(false) {
            return Err(format!("`{key}=false` is not supported: a cache is an OCI image manifest"));
        }
    }
    Ok(CacheTo {
        spec: shown(spec),
        target,
        mounts: fields.mounts(Wanted::None)?,
        mode,
        layers: fields.layer_form()?,
        required: fields.flag("ignore-error")? == Some(false),
    })
}

/// The fields of a spec, each key once.
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn parse(spec: &str) -> Result<Self, String> {
        let fields = csv::split(spec).map_err(str::to_owned)?;
        if let [name] = fields.as_slice()
            && !name.contains('=')
            && !name.is_empty()
        {
            let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
            return Ok(Self(vec![pair("type", "registry"), pair("ref", name)]));
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for field in fields {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("`{field}` is not KEY=VALUE"))?;
            let key = key.trim().to_lowercase();
            if pairs.iter().any(|(other, _)| *other == key) {
                return Err(format!("key `{key}` is given twice"));
            }
            pairs.push((key, value.to_owned()));
        }
        Ok(Self(pairs))
    }

    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(it, _)| it == key)?;
        Some(self.0.remove(at).1)
    }

    /// The type, one of `known`.
    fn kind(&mut self, known: &[&'static str]) -> Result<&'static str, String> {
        let listed = known.join(", ");
        let kind = self.take("type").ok_or_else(|| format!("`type=` is missing; it is one of {listed}"))?;
        if let Some(known) = known.iter().find(|it| **it == kind) {
            return Ok(known);
        }
        let more = match &*kind {
            "inline" => "; an inline cache is read with type=registry,ref=IMAGE".to_owned(),
            _ => hint(&nearest(&kind, known)),
        };
        Err(format!("there is no type `{kind}` here; it is one of {listed}{more}"))
    }

    fn require_known(&self, kind: &str, keys: &[&'static str]) -> Result<(), String> {
        match self.0.iter().find(|(key, _)| !keys.contains(&&**key)) {
            Some((key, _)) => Err(format!("type `{kind}` has no key `{key}`{}", hint(&nearest(key, keys)))),
            None => Ok(()),
        }
    }

    fn reference(&mut self) -> Result<Reference, String> {
        let text = self.take("ref").filter(|text| !text.is_empty());
        let text = text.ok_or("type `registry` needs `ref=`")?;
        text.parse::<Reference>().map_err(|error| match has_no_password(&text) {
            true => error.to_string(),
            false => "`ref` is not an image reference: it has no user and no password in it".to_owned(),
        })
    }

    fn path(&mut self, key: &str) -> Result<PathBuf, String> {
        let path = self.take(key).filter(|path| !path.is_empty());
        path.map(PathBuf::from).ok_or_else(|| format!("type `local` needs `{key}=`"))
    }

    fn tag(&mut self) -> Result<String, String> {
        match self.take("tag") {
            None => Ok("latest".to_owned()),
            Some(tag) if is_tag(&tag) => Ok(tag),
            Some(tag) => Err(format!("`{tag}` is not a tag")),
        }
    }

    fn mode(&mut self) -> Result<Mode, String> {
        match self.take("mode").as_deref() {
            None | Some("min") => Ok(Mode::Min),
            Some("max") => Ok(Mode::Max),
            Some(other) => Err(format!("`mode={other}` is neither min nor max")),
        }
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<Option<bool>, String> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let known = csv::boolean(&value).ok_or_else(|| format!("`{key}={value}` is neither true nor false"));
        known.map(Some)
    }

    fn mounts(&mut self, default: Wanted) -> Result<MountLimit, String> {
        let wanted = self.take("mounts").map_or(Ok(default), |text| Wanted::parse(&text))?;
        let size_bytes_max = match self.take("mounts-max-size") {
            None => MountLimit::SIZE_BYTES_MAX,
            Some(text) => wharf_frontend::dockerfile2llb::parse_size(&text)
                .ok_or_else(|| format!("`mounts-max-size={text}` is not a size such as 500m or 5g"))?,
        };
        Ok(MountLimit { wanted, size_bytes_max })
    }

    fn layer_form(&mut self) -> Result<LayerForm, String> {
        let compression = match self.take("compression") {
            None => None,
            Some(name) => Some(Compression::parse(&name).ok_or_else(|| {
                let names = Compression::NAMES;
                format!(
                    "`compression={name}` is none of {}{}",
                    names.join(", "),
                    hint(&nearest(&name, &names))
                )
            })?),
        };
        let level = match self.take("compression-level") {
            None => None,
            Some(text) => {
                let levels = compression.unwrap_or(Compression::Gzip).levels();
                let (least, most) = levels.ok_or("what is not compressed has no `compression-level`")?;
                let level = text.parse::<u8>().ok().filter(|level| (least..=most).contains(level));
                Some(level.ok_or_else(|| {
                    format!("`compression-level={text}` is not a number from {least} to {most}")
                })?)
            }
        };
        Ok(LayerForm { compression, level, force: self.flag("force-compression")?.unwrap_or(false) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn from(spec: &str) -> String {
        match CacheFrom::parse(spec) {
            Ok(from) => format!("{:?}", from.origin),
            Err(error) => error.to_string(),
        }
    }

    #[track_caller]
    fn to(spec: &str) -> String {
        match CacheTo::parse(spec) {
            Ok(CacheTo { target, mode, layers, required, .. }) => {
                let form = format!("{:?} {:?} {}", layers.compression, layers.level, layers.force);
                format!("{target:?} {mode:?} {form} {required}")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn places_are_read() {
        assert_eq!(from("app:c"), from("type=registry,ref=app:c"));
        assert!(
            from("app:c").starts_with("Registry(Reference { registry: \"docker.io\""),
            "{}",
            from("app:c")
        );
        assert_eq!(from("type=local,src=/c"), r#"Local { src: "/c", tag: "latest", digest: None }"#);
        assert_eq!(from("src=c,type=local,tag=v1"), r#"Local { src: "c", tag: "v1", digest: None }"#);
        assert_eq!(to("type=inline"), "Inline Min None None false false");
        assert_eq!(to("app:c"), to("type=registry,ref=app:c,mode=min,image-manifest=true,oci-mediatypes=1"));
        assert_eq!(
            to(
                "type=local,dest=c,mode=max,compression=zstd,compression-level=19,force-compression=true,reset="
            ),
            r#"Local { dest: "c", tag: "latest", reset: true } Max Some(Zstd) Some(19) true false"#
        );
        assert!(to("type=local,dest=c,ignore-error=false").ends_with("true"));
        assert!(to("type=local,dest=c,ignore-error=true").ends_with("false"));
        let s3 = "type=s3,bucket=bbb,region=r,name=n";
        assert!(to(s3).starts_with("S3(S3Place { bucket: Some(\"bbb\")"), "{}", to(s3));
        assert!(from(s3).starts_with("S3(S3Place { bucket: Some(\"bbb\")"), "{}", from(s3));
    }

    #[test]
    fn cache_mounts_are_asked_for() {
        let from = |spec: &str| CacheFrom::parse(spec).map(|from| from.mounts).map_err(|error| error.reason);
        let to = |spec: &str| CacheTo::parse(spec).map(|to| to.mounts).map_err(|error| error.reason);
        let some = |wanted| Ok(MountLimit { wanted, size_bytes_max: MountLimit::SIZE_BYTES_MAX });
        let ids = |ids: &[&str]| some(Wanted::Ids(ids.iter().map(|&id| id.to_owned()).collect()));
        assert_eq!((from("app:c"), to("app:c")), (some(Wanted::All), some(Wanted::None)));
        assert_eq!(from("type=local,src=c,mounts=none"), some(Wanted::None));
        assert_eq!(to("type=local,dest=c,mounts=all"), some(Wanted::All));
        assert_eq!(to("type=local,dest=c,mounts=/root/.cache"), ids(&["/root/.cache"]));
        assert_eq!(to("type=local,dest=c,\"mounts=npm,go\""), ids(&["npm", "go"]));
        assert_eq!(to("type=local,dest=c,mounts=npm;go"), ids(&["npm", "go"]));
        let limited = to("type=local,dest=c,mounts=all,mounts-max-size=2g");
        assert_eq!(limited, Ok(MountLimit { wanted: Wanted::All, size_bytes_max: 2 << 30 }));
        for wrong in ["mounts=", "mounts=npm;", "mounts-max-size=much", "mounts-max-size=-1"] {
            assert!(to(&format!("type=local,dest=c,{wrong}")).is_err(), "{wrong}");
        }
        assert!(to("type=inline,mounts=all").is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let spec = "type=s3,bucket=bbb,access_key_id=id,Secret_Access_Key=hidden,session_token=hidden";
        let to = CacheTo::parse(spec).unwrap();
        assert_eq!(to.spec, "type=s3,bucket=bbb,access_key_id=…,Secret_Access_Key=…,session_token=…");
        let s3 = "type=s3,bucket=bbb,region=r,name=x";
        for wrong in [
            format!("{spec},x=y"),
            format!("{spec},\""),
            format!("\"session_token=hidden,{spec}\""),
            format!("{s3},secretAccessKey=hidden"),
            format!("{s3},password=hidden"),
            format!("{s3},endpoint_url=http://user:hidden@127.0.0.1:1/?x"),
            "type=registry,ref=user:hidden@127.0.0.1:1/x:y".to_owned(),
            "http://user:hidden@127.0.0.1:1/x:y".to_owned(),
        ] {
            let error = CacheFrom::parse(&wrong).unwrap_err();
            assert!(
                !error.to_string().contains("hidden") && !format!("{error:?}").contains("hidden"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, message) in [
            (from(""), "--cache-from ``: `` is not KEY=VALUE"),
            (from("ref=x"), "--cache-from `ref=x`: `type=` is missing; it is one of registry, local, s3"),
            (
                from("type=inline"),
                "--cache-from `type=inline`: there is no type `inline` here; it is one of registry, local, s3; an \
                 inline cache is read with type=registry,ref=IMAGE",
            ),
            (from("type=registry"), "--cache-from `type=registry`: type `registry` needs `ref=`"),
            (
                from("type=registry,ref=A"),
                "--cache-from `type=registry,ref=A`: `A` is not an image reference: the repository name has \
                 uppercase letters",
            ),
            (from("type=local"), "--cache-from `type=local`: type `local` needs `src=`"),
            (
                from("type=local,scr=c"),
                "--cache-from `type=local,scr=…`: type `local` has no key `scr` (did you mean `src`?)",
            ),
            (from("type=local,src=c,tag=-"), "--cache-from `type=local,src=c,tag=-`: `-` is not a tag"),
            (
                to("type=locl,dest=c"),
                "--cache-to `type=locl,dest=c`: there is no type `locl` here; it is one of inline, registry, \
                 local, s3 (did you mean `local`?)",
            ),
            (
                to("type=inline,mode=max"),
                "--cache-to `type=inline,mode=max`: an inline cache has the layers of the image alone: \
                 `mode=max` needs a place of its own, for example type=registry",
            ),
            (
                to("type=local,dest=c,mode=all"),
                "--cache-to `type=local,dest=c,mode=all`: `mode=all` is neither min nor max",
            ),
            (
                to("type=local,dest=c,compression=xz"),
                "--cache-to `type=local,dest=c,compression=xz`: `compression=xz` is none of uncompressed, gzip, \
                 estargz, zstd",
            ),
            (
                to("type=local,dest=c,compression-level=10"),
                "--cache-to `type=local,dest=c,compression-level=10`: `compression-level=10` is not a number \
                 from 0 to 9",
            ),
            (
                to("type=local,dest=c,image-manifest=false"),
                "--cache-to `type=local,dest=c,image-manifest=false`: `image-manifest=false` is not supported: \
                 a cache is an OCI image manifest",
            ),
            (
                to("type=local,dest=c,dest=d"),
                "--cache-to `type=local,dest=c,dest=d`: key `dest` is given twice",
            ),
            (
                to("type=local,dest=c,reset=maybe"),
                "--cache-to `type=local,dest=c,reset=maybe`: `reset=maybe` is neither true nor false",
            ),
        ] {
            assert_eq!(text, message);
        }
    }
}
