//! The user's credentials: given with a command, in files as Docker and Podman keep them, or with credential helpers.

mod edit;
mod file;
mod helper;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub use edit::{CredentialFile, Kept};
pub use file::CredentialError;

use super::error::RegistryError;
use super::reference::{DEFAULT_REGISTRY, Reference};
use file::ConfigFile;

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
    /// A token that the registry itself takes.
    RegistryToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// Whom a credential names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// A user.
    Named(String),
    /// Nobody: it is a token.
    Token,
}

/// Where credentials come from: those that were given, then the files in their order.
#[derive(Clone, Default)]
pub struct Credentials {
    given: HashMap<String, Credential>,
    files: Vec<PathBuf>,
    /// What helpers have answered: they may be slow, or ask the user.
    answers: Arc<Mutex<Answers>>,
}

/// By helper and key.
type Answers = HashMap<(String, String), Option<Credential>>;

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given: Vec<_> = self.given.keys().collect();
        f.debug_struct("Credentials")
            .field("given", &given)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Those of these files (Docker's `config.json`, Podman's `auth.json`); they need not be there.
    pub fn of_files(files: Vec<PathBuf>) -> Self {
        Self { files, ..Self::default() }
    }

    /// Name and password for one registry, which win over those of files.
    pub fn give(&mut self, registry: &str, username: &str, password: &str) {
        let credential =
            Credential::Password { username: username.to_owned(), password: password.to_owned() };
        self.given.insert(registry.to_owned(), credential);
    }

    /// Whose credential there is for a repository.
    pub fn user_of(&self, registry: &str, repository: &str) -> Result<Option<User>, RegistryError> {
        Ok(self.find(registry, repository)?.map(|credential| match credential {
            Credential::Password { username, .. } => User::Named(username),
            Credential::IdentityToken(_) | Credential::RegistryToken(_) => User::Token,
        }))
    }

    /// The credential for a repository; may run a credential helper. `None` if nothing is known of it.
    pub(super) fn find(&self, registry: &str, repository: &str) -> Result<Option<Credential>, RegistryError> {
        if let Some(given) = self.given.get(registry) {
            return Ok(Some(given.clone()));
        }
        let find = || {
            for path in &self.files {
                let Some(file) = ConfigFile::read(path)? else { continue };
                if let Some(found) = self.of_file(&file, registry, repository)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        };
        find().map_err(|source: CredentialError| RegistryError::Credentials {
            registry: registry.to_owned(),
            source: Box::new(source),
        })
    }

    /// A helper comes before what the file itself has, as with Docker.
    fn of_file(
        &self,
        file: &ConfigFile,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        if let Some(name) = file.helper_for(registry, repository) {
            let question = (name.to_owned(), file.helper_key(registry));
            // Held meanwhile: whoever waits here wants to know the same.
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = match answers.get(&question) {
                Some(answer) => answer.clone(),
                None => {
                    let answer = helper::get(&question.0, &question.1)?;
                    answers.insert(question, answer.clone());
                    answer
                }
            };
            if answer.is_some() {
                return Ok(answer);
            }
        }
        file.entry_for(registry, repository).map_or(Ok(None), |(key, entry)| entry.credential(key))
    }
}

/// The host of a key of `config.json`, which may have a scheme and a path, as names of images have it.
fn host_of_key(key: &str) -> &str {
    let bare = without_scheme(key);
    match bare.split_once('/').map_or(bare, |(host, _)| host) {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
        host => host,
    }
}

fn without_scheme(key: &str) -> &str {
    key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key)
}

/// How well a key fits `registry/repository`: the bytes of the path it names, which is none where it names the whole
/// registry. `None` if it does not fit.
fn fit(key: &str, registry: &str, repository: &str) -> Option<usize> {
    if host_of_key(key) != registry {
        return None;
    }
    let bare = without_scheme(key);
    let path = bare.split_once('/').map_or("", |(_, path)| path).trim_end_matches('/');
    // With a scheme it is the URL of an API and names no repository.
    if path.is_empty() || bare.len() < key.len() || matches!(path, "v1" | "v2") {
        return Some(0);
    }
    let rest = repository.strip_prefix(path)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(path.len())
}

/// The key under which a credential for `registry` is kept.
fn key_for(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { DOCKER_HUB_KEY } else { registry }
}

/// The host that `text` names a registry with: `HOST[:PORT]`, perhaps with a scheme and a path as people copy them.
/// Nothing where that is none.
pub fn registry_of(text: &str) -> Option<String> {
    let host = host_of_key(text.trim());
    let is_host = host == "localhost" || host.contains(['.', ':']);
    let name = format!("{host}/x").parse::<Reference>().ok()?;
    (is_host && name.registry() == host).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_key_that_fits_wins() {
        for (key, name, expected) in [
            ("https://index.docker.io/v1/", "docker.io/library/x", Some(0)),
            ("docker.io", "docker.io/library/x", Some(0)),
            ("docker.io/library", "docker.io/library/x", Some(7)),
            ("https://a.io/v2/", "a.io/b", Some(0)),
            ("a.io/v1/", "a.io/b", Some(0)),
            ("a.io/b", "a.io/b", Some(1)),
            ("a.io/b/", "a.io/b/c", Some(1)),
            ("a.io/b/c", "a.io/b/c", Some(3)),
            ("a.io/b", "a.io/bc", None),
            ("a.io/b", "a.io/c", None),
            ("a.io:5000", "a.io/c", None),
            ("a.io", "a.io:5000/c", None),
        ] {
            let (registry, repository) = name.split_once('/').unwrap();
            assert_eq!(fit(key, registry, repository), expected, "{key} {name}");
        }
    }

    #[test]
    fn a_missing_file_is_no_credential() {
        let credentials = Credentials::of_files(vec!["/nonexistent/config.json".into()]);
        assert_eq!(credentials.find("a.io", "x").unwrap(), None);
    }

    #[test]
    fn what_is_given_wins() {
        let mut credentials = Credentials::default();
        credentials.give("a.io", "me", "secret");
        assert!(credentials.find("a.io", "x").unwrap().is_some());
        assert_eq!(credentials.find("b.io", "x").unwrap(), None);
        let shown = format!("{credentials:?} {:?}", credentials.find("a.io", "x"));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn registries_are_named_by_host() {
        for (text, host) in [
            ("docker.io", Some("docker.io")),
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("a.io:5000", Some("a.io:5000")),
            ("https://a.io/v2/", Some("a.io")),
            ("localhost", Some("localhost")),
            ("me", None),
            ("", None),
            ("a b.io", None),
        ] {
            assert_eq!(registry_of(text).as_deref(), host, "{text}");
        }
    }
}
