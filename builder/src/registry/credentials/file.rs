//! `config.json` of Docker and `auth.json` of Podman, Buildah and Skopeo, read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::{Credential, fit, host_of_key, key_for};

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// With padding or without: both are found in files.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why credentials could not be read, kept or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CredentialError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("`{}` is no file of credentials", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("what is kept for `{key}` is not `NAME:PASSWORD` in Base64")]
    Encoding { key: String },
    #[error("`{name}` is no name of a credential helper")]
    HelperName { name: String },
    #[error("cannot run the credential helper `docker-credential-{name}`")]
    NoHelper { name: String, source: io::Error },
    #[error("the credential helper `docker-credential-{name}` gave no answer within {} s", limit.as_secs())]
    HelperSilent { name: String, limit: Duration },
    #[error("the credential helper `docker-credential-{name}` failed to {operation}: {message}")]
    HelperFailed { name: String, operation: &'static str, message: String },
    #[error("the answer of the credential helper `docker-credential-{name}` cannot be read")]
    HelperAnswer { name: String, source: serde_json::Error },
}

impl CredentialError {
    /// What the user can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Read { .. } | Self::Json { .. } | Self::Encoding { .. } => {
                "mend or remove the file of credentials; `wharf login` writes it anew".to_owned()
            }
            Self::Write { .. } => "DOCKER_CONFIG names another directory for it".to_owned(),
            Self::NoHelper { name, .. } => format!(
                "install `docker-credential-{name}` where PATH finds it, or take it out of `credsStore` or \
                 `credHelpers`"
            ),
            Self::HelperName { .. }
            | Self::HelperSilent { .. }
            | Self::HelperFailed { .. }
            | Self::HelperAnswer { .. } => {
                "`credsStore` and `credHelpers` in the file of credentials say which helper is asked"
                    .to_owned()
            }
        }
    }
}

/// What is read of a file. Everything else in it is Docker's own.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ConfigFile {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

/// What is kept of one registry or repository.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl ConfigFile {
    /// `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, CredentialError> {
        let Some(bytes) = read_bytes(path)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|source| CredentialError::Json { path: path.to_owned(), source })
    }

    /// The helper that is asked for a repository.
    pub(super) fn helper_for(&self, registry: &str, repository: &str) -> Option<&str> {
        let own = best(&self.cred_helpers, registry, repository).map(|(_, name)| name);
        own.or(Some(&self.creds_store)).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// What a helper is asked for: the key as it stands in the file, if it is there, so that one question is enough.
    pub(super) fn helper_key(&self, registry: &str) -> String {
        let known = self.auths.keys().find(|key| fit(key, registry, "") == Some(0));
        known.map_or_else(|| key_for(registry).to_owned(), Clone::clone)
    }

    /// What the file itself has for a repository.
    pub(super) fn entry_for(&self, registry: &str, repository: &str) -> Option<(&String, &Entry)> {
        best(&self.auths, registry, repository)
    }

    /// All helpers, each once.
    pub(super) fn helpers(&self) -> std::collections::BTreeSet<&str> {
        let all = self.cred_helpers.values().chain([&self.creds_store]);
        all.map(String::as_str).filter(|name| !name.is_empty()).collect()
    }

    /// The keys under which something of `registry` as a whole is kept.
    pub(super) fn keys_of(&self, registry: &str) -> Vec<&str> {
        let keys = self.auths.keys().map(String::as_str);
        keys.filter(|key| host_of_key(key) == registry && fit(key, registry, "").is_some()).collect()
    }
}

/// The entry whose key fits best.
fn best<'a, T>(
    entries: &'a BTreeMap<String, T>,
    registry: &str,
    repository: &str,
) -> Option<(&'a String, &'a T)> {
    let fitting = entries.iter().filter_map(|it| Some((fit(it.0, registry, repository)?, it)));
    fitting.max_by_key(|(length, _)| *length).map(|(_, entry)| entry)
}

impl Entry {
    /// Nothing where the entry only says that a helper has it.
    pub(super) fn credential(&self, key: &str) -> Result<Option<Credential>, CredentialError> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::RegistryToken(self.registrytoken.clone())));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(self.identitytoken.clone())));
        }
        let (username, password) = match self.auth.is_empty() {
            true => (self.username.clone(), self.password.clone()),
            false => decode(&self.auth).ok_or_else(|| CredentialError::Encoding { key: key.to_owned() })?,
        };
        if username.is_empty() && password.is_empty() {
            return Ok(None);
        }
        Ok(Some(Credential::Password { username, password }))
    }
}

/// `NAME:PASSWORD` in Base64. Old versions of Docker padded the password with zero bytes.
fn decode(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(BASE64.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// `NAME:PASSWORD` in Base64.
pub(super) fn encode(username: &str, password: &str) -> String {
    BASE64.encode(format!("{username}:{password}"))
}

/// The bytes of a file; `None` if there is none.
pub(super) fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>, CredentialError> {
    let failed = |source| CredentialError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB")));
    }
    // A file that was made and never written to says nothing.
    let is_blank = bytes.iter().all(u8::is_ascii_whitespace);
    Ok(Some(if is_blank { b"{}".to_vec() } else { bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> ConfigFile {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn keys_match_with_or_without_scheme_and_path() {
        let file = file(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"eDp5"},"https://a.io/v2/":{},"b.io:5000":{},
                "e.io/team/app":{"auth":"YTpi"},"e.io/team":{"auth":"Yzpk"}},
                "credHelpers":{"c.io":"x"},"credsStore":"y","HttpHeaders":{"x":"y"}}"#,
        );
        for (registry, key) in [
            ("docker.io", "https://index.docker.io/v1/"),
            ("a.io", "https://a.io/v2/"),
            ("b.io:5000", "b.io:5000"),
            ("b.io", "b.io"),
            ("c.io", "c.io"),
            ("d.io", "d.io"),
        ] {
            assert_eq!(file.helper_key(registry), key);
        }
        assert_eq!(ConfigFile::default().helper_key("docker.io"), super::super::DOCKER_HUB_KEY);
        assert_eq!(file.helper_for("c.io", "x"), Some("x"));
        assert_eq!(file.helper_for("d.io", "x"), Some("y"));
        assert_eq!(ConfigFile::default().helper_for("d.io", "x"), None);
        let key = |repository| file.entry_for("e.io", repository).map(|(key, _)| key.as_str());
        assert_eq!(key("team/app"), Some("e.io/team/app"));
        assert_eq!(key("team/app2"), Some("e.io/team"));
        assert_eq!(key("other"), None);
    }

    #[track_caller]
    fn check(entry: &str, expected: Result<Option<&str>, ()>) {
        let entry: Entry = serde_json::from_str(entry).unwrap();
        let found = entry.credential("k").map_err(drop).map(|found| {
            found.map(|it| match it {
                Credential::Password { username, password } => format!("{username} {password}"),
                Credential::IdentityToken(token) => format!("identity {token}"),
                Credential::RegistryToken(token) => format!("registry {token}"),
            })
        });
        assert_eq!(found.as_ref().ok().map(Option::as_deref), expected.ok());
    }

    #[test]
    fn entries_are_read() {
        check("{}", Ok(None));
        check(r#"{"auth":"eDp5"}"#, Ok(Some("x y")));
        check(r#"{"auth":"eDp5Onk"}"#, Ok(Some("x y:y")));
        check(r#"{"auth":"eDp5Onk="}"#, Ok(Some("x y:y")));
        check(r#"{"username":"x","password":"y"}"#, Ok(Some("x y")));
        check(r#"{"auth":"eDp5","identitytoken":"t"}"#, Ok(Some("identity t")));
        check(r#"{"registrytoken":"t"}"#, Ok(Some("registry t")));
        check(r#"{"auth":"eA=="}"#, Err(()));
        check(r#"{"auth":"%"}"#, Err(()));
        assert_eq!(decode(&encode("a", "b:c")), Some(("a".to_owned(), "b:c".to_owned())));
    }
}
