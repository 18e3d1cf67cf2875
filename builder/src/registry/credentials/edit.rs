//! Files of credentials, written: what `login` keeps and `logout` removes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde_json::{Map, Value, json};

use super::file::{ConfigFile, CredentialError, encode, read_bytes};
use super::{helper, host_of_key, key_for};

/// A file in which credentials are kept: Docker's `config.json`, or Podman's `auth.json`.
#[derive(Debug, Clone)]
pub struct CredentialFile {
    path: PathBuf,
}

/// Where a credential was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In the file, where whoever can read it can read the password.
    InFile(PathBuf),
    /// With this credential helper.
    WithHelper(String),
}

impl CredentialFile {
    /// The file at `path`, which need not be there.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Keeps name and password for a registry, with the helper that the file names for it, else in the file.
    pub fn keep(&self, registry: &str, username: &str, password: &str) -> Result<Kept, CredentialError> {
        let helper = self.read()?.helper_for(registry, "").map(str::to_owned);
        let key = key_for(registry);
        if let Some(name) = helper {
            helper::store(&name, key, username, password)?;
            // What the file may have of it is older.
            self.change(|auths| auths.retain(|key, _| !is_of(key, registry)))?;
            return Ok(Kept::WithHelper(name));
        }
        self.change(|auths| {
            auths.retain(|key, _| !is_of(key, registry));
            auths.insert(key.to_owned(), json!({ "auth": encode(username, password) }));
        })?;
        Ok(Kept::InFile(self.path.clone()))
    }

    /// Forgets the credential for a registry. Whether there was one in the file, or a helper was told.
    pub fn forget(&self, registry: &str) -> Result<bool, CredentialError> {
        let file = self.read()?;
        let helper = file.helper_for(registry, "");
        if let Some(name) = helper {
            helper::erase(name, &file.helper_key(registry))?;
        }
        let is_in_file = !file.keys_of(registry).is_empty();
        if is_in_file {
            self.change(|auths| auths.retain(|key, _| !is_of(key, registry)))?;
        }
        Ok(is_in_file || helper.is_some())
    }

    /// Forgets all credentials that the file, and the helpers that it names, have.
    pub fn forget_all(&self) -> Result<(), CredentialError> {
        for name in self.read()?.helpers() {
            for key in helper::list(name)? {
                helper::erase(name, &key)?;
            }
        }
        if self.path.exists() { self.change(Map::clear) } else { Ok(()) }
    }

    fn read(&self) -> Result<ConfigFile, CredentialError> {
        Ok(ConfigFile::read(&self.path)?.unwrap_or_default())
    }

    /// Changes `auths` of the file and leaves all else in it as it is. Whoever reads meanwhile sees it before or after.
    fn change(&self, change: impl FnOnce(&mut Map<String, Value>)) -> Result<(), CredentialError> {
        let failed = |source| CredentialError::Write { path: self.path.clone(), source };
        // It may be a link to where somebody keeps such files.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        // Two who log in at once do it one after the other.
        let lock = File::open(dir).map_err(failed)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        let malformed = |source| CredentialError::Json { path: path.clone(), source };
        let bytes = read_bytes(&path)?.unwrap_or_else(|| b"{}".to_vec());
        let mut file: Map<String, Value> = serde_json::from_slice(&bytes).map_err(malformed)?;
        let auths = file.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        if let Value::Object(auths) = auths {
            change(auths);
        }
        let mut text = serde_json::to_vec_pretty(&file).map_err(malformed)?;
        text.push(b'\n');
        if text == bytes {
            return Ok(());
        }
        replace(&path, dir, &text).map_err(failed)
    }
}

/// Whether `key` stands for the registry as a whole.
fn is_of(key: &str, registry: &str) -> bool {
    host_of_key(key) == registry && super::fit(key, registry, "").is_some()
}

/// Puts a file that only its owner can read in the place of another.
fn replace(path: &Path, dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let write = || {
        // Left by one that was killed and had the same number.
        if let Err(error) = fs::remove_file(&temporary)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}
