//! The user's credentials, as Docker keeps them: `config.json` and credential helpers.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde::Deserialize;

use super::error::RegistryError;

/// Largest `config.json` that is read.
const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;
/// The key under which Docker keeps the credentials of its own registry.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What proves who we are.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// Name and password.
    Password {
        /// Name.
        username: String,
        /// Password or access token.
        password: String,
    },
    /// An OAuth refresh token.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// The keys of `config.json` under which something is known of a registry.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    auths: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
    cred_helpers: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
}

/// Looks up the credential for `registry` in the file `config` (Docker's `config.json`); may run a credential helper.
/// `None` if the file is not there or knows nothing of the registry.
pub(super) fn find(config: &Path, registry: &str) -> Result<Option<Credential>, RegistryError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| RegistryError::Credentials {
        registry: registry.to_owned(),
        source,
    };
    let Some(bytes) = read_config(config).map_err(|error| failed(Box::new(error)))? else { return Ok(None) };
    let keys: Keys = serde_json::from_slice(&bytes).map_err(|error| failed(Box::new(error)))?;
    match docker_credential::get_credential_from_reader(&*bytes, &key_of(&keys, registry)) {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Ok(Some(Credential::Password { username, password }))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credential::IdentityToken(token))),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        // The helpers' agreed way to say that there is nothing (docker-credential-helpers, credentials/error.go).
        Err(CredentialRetrievalError::HelperFailure { stdout, .. })
            if stdout.contains("credentials not found in native keychain") =>
        {
            Ok(None)
        }
        Err(error) => Err(failed(Box::new(error))),
    }
}

fn read_config(config: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(config) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(CONFIG_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CONFIG_FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "config.json is larger than 1 MiB"));
    }
    Ok(Some(bytes))
}

/// The key to ask for: as it stands in the file (which may have a scheme and a path), so that one look-up, and at
/// most one run of a helper, is enough.
fn key_of(keys: &Keys, registry: &str) -> String {
    let known = keys.cred_helpers.keys().chain(keys.auths.keys()).find(|key| host_of_key(key) == registry);
    match known {
        Some(key) => key.clone(),
        None if registry == super::reference::DEFAULT_REGISTRY => DOCKER_HUB_KEY.to_owned(),
        None => registry.to_owned(),
    }
}

fn host_of_key(key: &str) -> &str {
    let host = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    match host.split_once('/').map_or(host, |(host, _)| host) {
        "index.docker.io" | "registry-1.docker.io" => super::reference::DEFAULT_REGISTRY,
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_with_or_without_scheme_and_path() {
        let keys: Keys = serde_json::from_str(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"eDp5"},"https://a.io/v2/":{},"b.io:5000":{}},
                "credHelpers":{"c.io":"x"},"credsStore":"y"}"#,
        )
        .unwrap();
        for (registry, key) in [
            ("docker.io", "https://index.docker.io/v1/"),
            ("a.io", "https://a.io/v2/"),
            ("b.io:5000", "b.io:5000"),
            ("b.io", "b.io"),
            ("c.io", "c.io"),
            ("d.io", "d.io"),
        ] {
            assert_eq!(key_of(&keys, registry), key);
        }
        assert_eq!(key_of(&Keys::default(), "docker.io"), DOCKER_HUB_KEY);
    }

    #[test]
    fn a_missing_file_is_no_credential() {
        assert_eq!(find(Path::new("/nonexistent/config.json"), "a.io").unwrap(), None);
    }

    #[test]
    fn a_credential_is_not_shown() {
        let credential = Credential::IdentityToken("secret".to_owned());
        assert!(!format!("{credential:?}").contains("secret"));
    }
}
