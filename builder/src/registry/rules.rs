//! What is said of single registries: how far their TLS is trusted, whether it may be missing, where copies are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, vec};

use super::error::RegistryError;
use super::reference::Reference;

/// Some registries, by host with port as in names of images, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hosts {
    /// Every registry.
    All,
    /// These.
    These(BTreeSet<String>),
}

impl Default for Hosts {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Hosts {
    /// Whether `registry` is one of them.
    pub fn contains(&self, registry: &str) -> bool {
        matches!(self, Self::All) || self.names(registry)
    }

    fn names(&self, registry: &str) -> bool {
        matches!(self, Self::These(hosts) if hosts.contains(registry))
    }

    /// One more.
    pub fn add(&mut self, registry: String) {
        if let Self::These(hosts) = self {
            hosts.insert(registry);
        }
    }

    /// Those of either.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::These(mut hosts), Self::These(others)) => {
                hosts.extend(others);
                Self::These(hosts)
            }
            _ => Self::All,
        }
    }
}

/// Another registry that has copies of the images of one: `HOST[:PORT][/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror(String);

/// Why a text is no mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no HOST[:PORT][/PREFIX] of a registry")]
pub struct NoMirror(String);

impl std::str::FromStr for Mirror {
    type Err = NoMirror;

    fn from_str(text: &str) -> Result<Self, NoMirror> {
        let place = text.trim_end_matches('/');
        let host = place.split('/').next().unwrap_or_default();
        // Without a dot, a port or `localhost` the first part of a name is no host.
        let is_place = format!("{place}/x").parse::<Reference>().is_ok_and(|it| it.registry() == host);
        if is_place { Ok(Self(place.to_owned())) } else { Err(NoMirror(text.to_owned())) }
    }
}

impl Mirror {
    /// What `name` is called there; nothing where that would be no name.
    fn place_of(&self, name: &Reference) -> Option<Reference> {
        let mut text = format!("{}/{}", self.0, name.repository());
        if let Some(tag) = name.tag() {
            text.push(':');
            text.push_str(tag);
        }
        let place = text.parse::<Reference>().ok()?;
        Some(match (name.digest(), name.tag()) {
            (Some(digest), None) => place.by_digest(digest),
            (Some(digest), Some(_)) => place.with_digest(digest),
            (None, _) => place,
        })
    }
}

/// What is said of single registries.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Registries spoken to in plain HTTP.
    pub plain: Hosts,
    /// Registries that may lack HTTPS: where none answers, plain HTTP is spoken.
    pub may_be_plain: Hosts,
    /// Registries whose certificates are not checked.
    pub unverified: Hosts,
    /// Further certificate authorities of single registries: PEM bundles.
    pub authorities: BTreeMap<String, Vec<u8>>,
    /// Who we are to single registries: a certificate and its key, in PEM.
    pub identities: BTreeMap<String, Vec<u8>>,
    /// Directories with authorities (`HOST/*.crt`) and with who we are (`HOST/*.cert` and `.key`). The first that has one
    /// for a host counts.
    pub certificate_dirs: Vec<PathBuf>,
    /// Where images of single registries are looked for first, in this order.
    pub mirrors: BTreeMap<String, Vec<Mirror>>,
    /// Registries that are never asked themselves if they have mirrors.
    pub only_mirrors: Hosts,
    /// Registries that take no more than so many bytes in one request of an upload.
    pub chunk_bytes: BTreeMap<String, u64>,
    /// How often what failed for a passing reason is tried again.
    pub retries: Option<u32>,
    /// What was tried for so long is not tried again.
    pub retry_time_max: Option<Duration>,
    /// Time to connect.
    pub connect_timeout: Option<Duration>,
    /// Longest silence while an answer is awaited or read.
    pub read_timeout: Option<Duration>,
    /// Whether it is as good as a push when a registry refuses to change a tag.
    pub ignore_immutable_tags: bool,
}

/// What is said of the TLS of one registry.
#[derive(Debug, Default)]
pub(super) struct HostTls {
    /// Further authorities: PEM bundles.
    pub(super) authorities: Vec<Vec<u8>>,
    /// Who we are: a certificate and its key, in PEM.
    pub(super) identity: Option<Vec<u8>>,
    /// Whether its certificate is not checked.
    pub(super) is_unverified: bool,
    /// Whether any of it was said by its name.
    pub(super) is_by_name: bool,
}

impl HostTls {
    /// Whether its TLS differs from that of other registries.
    pub(super) fn is_own(&self) -> bool {
        self.is_unverified || self.identity.is_some() || !self.authorities.is_empty()
    }
}

impl Rules {
    /// These, and where they say nothing those of `base`.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        fn maps<T>(own: BTreeMap<String, T>, mut base: BTreeMap<String, T>) -> BTreeMap<String, T> {
            base.extend(own);
            base
        }
        let certificate_dirs = match self.certificate_dirs.is_empty() {
            true => base.certificate_dirs,
            false => self.certificate_dirs,
        };
        Self {
            plain: self.plain.or(base.plain),
            may_be_plain: self.may_be_plain.or(base.may_be_plain),
            unverified: self.unverified.or(base.unverified),
            authorities: maps(self.authorities, base.authorities),
            identities: maps(self.identities, base.identities),
            certificate_dirs,
            mirrors: maps(self.mirrors, base.mirrors),
            only_mirrors: self.only_mirrors.or(base.only_mirrors),
            chunk_bytes: maps(self.chunk_bytes, base.chunk_bytes),
            retries: self.retries.or(base.retries),
            retry_time_max: self.retry_time_max.or(base.retry_time_max),
            connect_timeout: self.connect_timeout.or(base.connect_timeout),
            read_timeout: self.read_timeout.or(base.read_timeout),
            ignore_immutable_tags: self.ignore_immutable_tags || base.ignore_immutable_tags,
        }
    }

    /// These registries may lack TLS, and where they have it their certificates are not checked.
    pub fn allow_insecure(&mut self, registries: impl IntoIterator<Item = String>) {
        for registry in registries {
            self.unverified.add(registry.clone());
            self.may_be_plain.add(registry);
        }
    }

    /// Whether something is said here of the TLS of `registry` by its name.
    pub(super) fn names_tls_of(&self, registry: &str) -> bool {
        self.unverified.names(registry)
            || self.may_be_plain.names(registry)
            || self.authorities.contains_key(registry)
            || self.identities.contains_key(registry)
    }

    /// What is said of the TLS of `registry`, here and in the directories.
    pub(super) fn tls(&self, registry: &str) -> Result<HostTls, RegistryError> {
        let mut tls = HostTls {
            authorities: self.authorities.get(registry).cloned().into_iter().collect(),
            identity: self.identities.get(registry).cloned(),
            is_unverified: self.unverified.contains(registry),
            is_by_name: self.names_tls_of(registry),
        };
        // A host of an image's name is no path, but that is not for this place to rely on.
        if registry.contains('/') || registry.starts_with('.') {
            return Ok(tls);
        }
        for dir in &self.certificate_dirs {
            let dir = dir.join(registry);
            let found = tls.add_files(&dir).map_err(|source| RegistryError::Client {
                registry: registry.to_owned(),
                source: Box::new(CertificateFileError { path: dir, source }),
            })?;
            if found {
                tls.is_by_name = true;
                break;
            }
        }
        Ok(tls)
    }

    /// Whether there are copies of what `registry` has elsewhere.
    pub(super) fn has_mirrors(&self, registry: &str) -> bool {
        self.mirrors.get(registry).is_some_and(|mirrors| !mirrors.is_empty())
    }

    /// Where `name` is looked for: the mirrors of its registry in their order, then the registry itself.
    pub(super) fn places(&self, name: &Reference) -> Places {
        let mirrors = self.mirrors.get(name.registry()).map_or(&[][..], Vec::as_slice);
        let mut places: Vec<Reference> = mirrors.iter().filter_map(|mirror| mirror.place_of(name)).collect();
        if !self.only_mirrors.contains(name.registry()) || places.is_empty() {
            places.push(name.clone());
        }
        Places { left: places.into_iter(), failures: Vec::new() }
    }
}

/// Why a directory of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the certificates in `{}`", path.display())]
struct CertificateFileError {
    path: PathBuf,
    source: io::Error,
}

impl HostTls {
    /// Adds what is in a directory as Docker and Podman have them: `*.crt` are authorities, `*.cert` is who we are, with
    /// its key beside it. Whether there is such a directory.
    fn add_files(&mut self, dir: &Path) -> io::Result<bool> {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            // It may be in another user's home.
            Err(error) if matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.authorities.push(fs::read(&path)?),
                Some("cert") if self.identity.is_none() => {
                    let mut identity = fs::read(&path)?;
                    identity.push(b'\n');
                    let key = path.with_extension("key");
                    identity.extend(fs::read(&key).map_err(|error| {
                        io::Error::new(error.kind(), format!("`{}`: {error}", key.display()))
                    })?);
                    self.identity = Some(identity);
                }
                _ => {}
            }
        }
        Ok(true)
    }
}

/// Where something is looked for, one place after the other.
#[derive(Debug)]
pub(super) struct Places {
    left: vec::IntoIter<Reference>,
    failures: Vec<RegistryError>,
}

impl Places {
    /// One place.
    pub(super) fn alone(name: &Reference) -> Self {
        Self { left: vec![name.clone()].into_iter(), failures: Vec::new() }
    }

    /// Does `read` at the places that are left until one of them has it, and says which one. If none has, the error
    /// tells of all.
    pub(super) fn find<T>(
        &mut self,
        read: impl Fn(&Reference) -> Result<T, RegistryError>,
    ) -> Result<(Reference, T), RegistryError> {
        for place in self.left.by_ref() {
            match read(&place) {
                Ok(found) => return Ok((place, found)),
                Err(error) => self.failures.push(error),
            }
        }
        Err(RegistryError::of_places(std::mem::take(&mut self.failures)))
    }

    /// Notes that a place that had been found failed after all.
    pub(super) fn fail(&mut self, error: RegistryError) {
        self.failures.push(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_hosts_with_a_prefix() {
        for (text, name, place) in [
            ("mirror.gcr.io", "busybox", Some("mirror.gcr.io/library/busybox:latest")),
            ("a.io:5000/", "a/b:1", Some("a.io:5000/a/b:1")),
            ("localhost/hub/", "a/b:1", Some("localhost/hub/a/b:1")),
            ("a.io/x/y", "busybox", Some("a.io/x/y/library/busybox:latest")),
            ("mirror", "busybox", None),
            ("", "busybox", None),
            ("https://a.io", "busybox", None),
            ("a.io/Upper", "busybox", None),
            ("a.io?x=y", "busybox", None),
        ] {
            let found = text.parse::<Mirror>().ok().and_then(|it| it.place_of(&name.parse().unwrap()));
            assert_eq!(found.map(|it| it.to_string()).as_deref(), place, "{text}");
        }
    }

    #[test]
    fn a_digest_goes_with_the_name() {
        let digest = wharf_cache::Digest::of(b"x");
        let mirror = "a.io".parse::<Mirror>().unwrap();
        for name in [format!("b/c@{digest}"), format!("b/c:1@{digest}")] {
            let place = mirror.place_of(&name.parse().unwrap()).unwrap();
            assert_eq!(place.to_string(), format!("a.io/{name}"));
        }
    }

    #[test]
    fn mirrors_come_before_the_registry_or_instead_of_it() {
        let mirrors = ["a.io", "b.io"].map(|text| text.parse().unwrap()).to_vec();
        let mut rules = Rules { mirrors: [("docker.io".to_owned(), mirrors)].into(), ..Rules::default() };
        let places = |rules: &Rules, name: &str| {
            let places = rules.places(&name.parse().unwrap());
            places.left.map(|it| it.registry().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(places(&rules, "busybox"), ["a.io", "b.io", "docker.io"]);
        assert_eq!(places(&rules, "c.io/x"), ["c.io"]);
        rules.only_mirrors = Hosts::All;
        assert_eq!(places(&rules, "busybox"), ["a.io", "b.io"]);
        assert_eq!(places(&rules, "c.io/x"), ["c.io"]);
    }
}
