//! Secrets that are given to a build: `--secret id=ID[,src=PATH|env=NAME][,type=file|env]`.
//!
//! A value is read when the first step asks for it, and kept as it was then. It is shown nowhere: not by `Debug`, not in
//! an error.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::csv;

/// Bytes that a secret may have, as in BuildKit. More is hardly a password, and each lives in memory.
pub const SECRET_BYTES_MAX: u64 = 500 * 1024;

/// Looks a variable of the caller's environment up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The secrets of a build by id.
#[derive(Debug, Default)]
pub struct Secrets(BTreeMap<String, Secret>);

/// Where a secret is.
struct Secret(Mutex<Place>);

enum Place {
    /// In a file that was not read yet.
    File(PathBuf),
    /// Here.
    Value(Vec<u8>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(****)")
    }
}

/// Why secrets cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SecretError {
    #[error("--secret {spec}: {reason}")]
    Csv { spec: String, reason: &'static str },
    #[error("--secret {spec}: `{field}` is not KEY=VALUE")]
    Field { spec: String, field: String },
    #[error("--secret {spec}: there is no key `{key}`; there are id, src, source, env and type")]
    Key { spec: String, key: String },
    #[error("--secret {spec}: `{key}=` is given twice")]
    Repeated { spec: String, key: &'static str },
    #[error("--secret {spec}: there is no type `{kind}`; it is file or env")]
    Type { spec: String, kind: String },
    #[error("--secret {spec}: `id=` is missing")]
    NoId { spec: String },
    #[error("--secret {spec}: {reason}")]
    Conflict { spec: String, reason: &'static str },
    #[error("the secret `{id}` is given twice")]
    Twice { id: String },
    #[error("--secret {spec}: the environment has no variable `{name}`")]
    NoVariable { spec: String, name: String },
    #[error("cannot read the secret `{id}` from `{}`", path.display())]
    Read { id: String, path: PathBuf, source: io::Error },
    #[error("the secret `{id}` is larger than {} KiB", SECRET_BYTES_MAX / 1024)]
    TooBig { id: String },
}

/// The keys of one `--secret`.
#[derive(Default)]
struct Fields {
    id: Option<String>,
    source: Option<String>,
    env: Option<String>,
    kind: Option<Kind>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Env,
}

impl Secrets {
    /// Parses what `--secret` was given. Variables are taken now; files have to be there, and are read later.
    pub fn parse(specs: &[String], environment: Environment<'_>) -> Result<Self, SecretError> {
        let mut secrets = BTreeMap::new();
        for spec in specs {
            let (id, place) = parse(spec, environment)?;
            match &place {
                Place::Value(value) if value.len() as u64 > SECRET_BYTES_MAX => {
                    return Err(SecretError::TooBig { id });
                }
                Place::Value(_) => {}
                Place::File(path) => check_file(&id, path)?,
            }
            if secrets.insert(id.clone(), Secret(Mutex::new(place))).is_some() {
                return Err(SecretError::Twice { id });
            }
        }
        Ok(Self(secrets))
    }

    /// The secret `id`; `None` when it was not given.
    pub fn get(&self, id: &str) -> Result<Option<Vec<u8>>, SecretError> {
        let Some(Secret(place)) = self.0.get(id) else { return Ok(None) };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        let value = match &*place {
            Place::Value(value) => return Ok(Some(value.clone())),
            Place::File(path) => read(id, path)?,
        };
        *place = Place::Value(value.clone());
        Ok(Some(value))
    }

    /// Adds a secret that is known already.
    pub fn add(&mut self, id: &str, value: Vec<u8>) -> Result<(), SecretError> {
        let id = id.to_owned();
        if value.len() as u64 > SECRET_BYTES_MAX {
            return Err(SecretError::TooBig { id });
        }
        match self.0.insert(id.clone(), Secret(Mutex::new(Place::Value(value)))) {
            Some(_) => Err(SecretError::Twice { id }),
            None => Ok(()),
        }
    }

    /// The ids, sorted.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

fn parse(spec: &str, environment: Environment<'_>) -> Result<(String, Place), SecretError> {
    let Fields { id, mut source, mut env, kind } = fields(spec)?;
    let owned = || spec.to_owned();
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| SecretError::NoId { spec: owned() })?;
    let conflict = |reason| Err(SecretError::Conflict { spec: owned(), reason });
    match kind {
        // With this type `src` names a variable.
        Some(Kind::Env) if given(&env) && given(&source) => {
            return conflict("with type=env a variable is named by `env=` or by `src=`, not by both");
        }
        Some(Kind::Env) if !given(&env) => env = source.take().or_else(|| Some(id.clone())),
        Some(Kind::File) if given(&env) => return conflict("`env=` does not go with type=file"),
        None if given(&env) && given(&source) => {
            return conflict("a secret is a file (`src=`) or a variable (`env=`), not both");
        }
        None if !given(&env) && !given(&source) && environment(&id).is_some() => env = Some(id.clone()),
        _ => {}
    }
    let place = match env.filter(|name| !name.is_empty()) {
        Some(name) => match environment(&name) {
            Some(value) => Place::Value(value.into_vec()),
            None => return Err(SecretError::NoVariable { spec: owned(), name }),
        },
        None => Place::File(source.filter(|path| !path.is_empty()).unwrap_or_else(|| id.clone()).into()),
    };
    Ok((id, place))
}

fn fields(spec: &str) -> Result<Fields, SecretError> {
    let owned = || spec.to_owned();
    let mut fields = Fields::default();
    for field in csv::split(spec).map_err(|reason| SecretError::Csv { spec: owned(), reason })? {
        let Some((key, value)) = field.split_once('=') else {
            return Err(SecretError::Field { spec: owned(), field });
        };
        let set = |place: &mut Option<String>, key| match place.replace(value.to_owned()) {
            None => Ok(()),
            Some(_) => Err(SecretError::Repeated { spec: owned(), key }),
        };
        match key.to_lowercase().as_str() {
            "id" => set(&mut fields.id, "id")?,
            "src" | "source" => set(&mut fields.source, "src")?,
            "env" => set(&mut fields.env, "env")?,
            "type" => match value {
                "file" => fields.kind = Some(Kind::File),
                "env" => fields.kind = Some(Kind::Env),
                kind => return Err(SecretError::Type { spec: owned(), kind: kind.to_owned() }),
            },
            _ => return Err(SecretError::Key { spec: owned(), key: key.to_owned() }),
        }
    }
    Ok(fields)
}

/// A mistyped path is better heard of before the build than in the middle of it.
fn check_file(id: &str, path: &Path) -> Result<(), SecretError> {
    let failed = |source| SecretError::Read { id: id.to_owned(), path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    if metadata.len() > SECRET_BYTES_MAX {
        return Err(SecretError::TooBig { id: id.to_owned() });
    }
    Ok(())
}

fn read(id: &str, path: &Path) -> Result<Vec<u8>, SecretError> {
    let failed = |source| SecretError::Read { id: id.to_owned(), path: path.to_owned(), source };
    let mut value = Vec::new();
    // It may be a pipe, or have grown since it was looked at.
    File::open(path).map_err(failed)?.take(SECRET_BYTES_MAX + 1).read_to_end(&mut value).map_err(failed)?;
    if value.len() as u64 > SECRET_BYTES_MAX {
        return Err(SecretError::TooBig { id: id.to_owned() });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<OsString> {
        match name {
            "TOKEN" => Some("from the environment".into()),
            "big" => Some("x".repeat(SECRET_BYTES_MAX as usize + 1).into()),
            _ => None,
        }
    }

    /// A directory of this test alone: tests run side by side.
    fn directory() -> std::path::PathBuf {
        let name = format!("wharf-secrets-{}-{:?}", std::process::id(), std::thread::current().id());
        std::env::temp_dir().join(name)
    }

    #[track_caller]
    fn check(spec: &str, expected: Result<(&str, &[u8]), &str>) {
        let directory = directory();
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("file"), "from the file").unwrap();
        std::fs::write(directory.join("large"), vec![0; SECRET_BYTES_MAX as usize + 1]).unwrap();
        std::fs::write(directory.join("exact"), vec![b'x'; SECRET_BYTES_MAX as usize]).unwrap();
        let spec = spec.replace("DIR", &directory.to_string_lossy());
        let found = Secrets::parse(std::slice::from_ref(&spec), &environment).and_then(|secrets| {
            let id = secrets.ids().next().unwrap().to_owned();
            let value = secrets.get(&id)?.unwrap();
            assert_eq!(secrets.get(&id)?.as_ref(), Some(&value), "asked again");
            assert_eq!(secrets.get("another")?, None);
            let shown = format!("{secrets:?}");
            assert!(!shown.contains("environment") && !shown.contains("from"), "{shown}");
            Ok((id, value))
        });
        match (found, expected) {
            (Ok((id, value)), Ok(expected)) => {
                assert_eq!((id.as_str(), value.as_slice()), expected, "{spec}")
            }
            (Err(error), Err(words)) => {
                let text = crate::error::causes(&error);
                assert!(text.contains(words), "{spec}: {text}");
            }
            (found, expected) => panic!("{spec}: {found:?} and not {expected:?}"),
        }
    }

    #[test]
    fn secrets_come_from_files_and_variables() {
        check("id=a,src=DIR/file", Ok(("a", b"from the file")));
        check("id=a,source=DIR/file", Ok(("a", b"from the file")));
        check("\"id=a,b\",src=DIR/file", Ok(("a,b", b"from the file")));
        check("src=DIR/file,ID=a", Ok(("a", b"from the file")));
        check("id=DIR/file", Ok((&directory().join("file").to_string_lossy(), b"from the file")));
        check("id=TOKEN", Ok(("TOKEN", b"from the environment")));
        check("id=TOKEN,src=DIR/file", Ok(("TOKEN", b"from the file")));
        check("id=TOKEN,type=file,src=DIR/file", Ok(("TOKEN", b"from the file")));
        check("id=TOKEN,type=file", Err("cannot read the secret `TOKEN` from `TOKEN`: No such file"));
        check("id=a,env=TOKEN", Ok(("a", b"from the environment")));
        check("id=a,env=TOKEN,type=env", Ok(("a", b"from the environment")));
        check("id=a,src=TOKEN,type=env", Ok(("a", b"from the environment")));
        check("id=TOKEN,type=env", Ok(("TOKEN", b"from the environment")));
        check("id=a,src=DIR/exact", Ok(("a", &vec![b'x'; SECRET_BYTES_MAX as usize])));
    }

    #[test]
    fn wrong_secrets_say_why() {
        check("", Err("is not KEY=VALUE"));
        check("a", Err("`a` is not KEY=VALUE"));
        check("src=DIR/file", Err("`id=` is missing"));
        check("id=,src=DIR/file", Err("`id=` is missing"));
        check("id=a,id=b", Err("`id=` is given twice"));
        check("id=a,dst=b", Err("no key `dst`"));
        check("id=a,type=x", Err("no type `x`"));
        check("id=a,env=NONE", Err("has no variable `NONE`"));
        check("id=a,type=env", Err("has no variable `a`"));
        check("id=a,src=x,env=TOKEN", Err("not both"));
        check("id=a,src=x,env=TOKEN,type=env", Err("not by both"));
        check("id=a,env=TOKEN,type=file", Err("does not go with type=file"));
        check("id=a,src=DIR/none", Err("No such file"));
        check("id=a,src=DIR", Err("directory"));
        check("id=a,src=DIR/large", Err("larger than 500 KiB"));
        check("id=big", Err("larger than 500 KiB"));
        check("id=a,src=\"x", Err("quote"));
    }

    #[test]
    fn a_secret_is_given_once() {
        let specs = ["id=a,env=TOKEN".to_owned(), "id=a,env=TOKEN".to_owned()];
        assert!(matches!(Secrets::parse(&specs, &environment), Err(SecretError::Twice { id }) if id == "a"));
    }
}
