//! What is said of single registries: how far their TLS is trusted, whether it may be missing, where copies are.

use std::collections::{BTreeMap, BTreeSet};
use std::vec;

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
    /// Registries that may lack HTTPS: where none answers, plain HTTP is spoken.
    pub may_be_plain: Hosts,
    /// Registries whose certificates are not checked.
    pub unverified: Hosts,
    /// Further certificate authorities of single registries: PEM bundles.
    pub authorities: BTreeMap<String, Vec<u8>>,
    /// Who we are to single registries: a certificate and its key, in PEM.
    pub identities: BTreeMap<String, Vec<u8>>,
    /// Where images of single registries are looked for first, in this order.
    pub mirrors: BTreeMap<String, Vec<Mirror>>,
    /// Whether a registry that has mirrors is never asked itself.
    pub only_mirrors: bool,
    /// How often what failed for a passing reason is tried again at least.
    pub retries: u32,
    /// Whether it is as good as a push when a registry refuses to change a tag.
    pub ignore_immutable_tags: bool,
}

impl Rules {
    /// Whether its TLS differs from that of other registries.
    pub(super) fn has_own_tls(&self, registry: &str) -> bool {
        self.unverified.contains(registry)
            || self.authorities.contains_key(registry)
            || self.identities.contains_key(registry)
    }

    /// Whether something is said of the TLS of `registry` by its name: then it has some, even if it is on this machine.
    pub(super) fn names_tls_of(&self, registry: &str) -> bool {
        self.unverified.names(registry)
            || self.may_be_plain.names(registry)
            || self.authorities.contains_key(registry)
            || self.identities.contains_key(registry)
    }

    /// Where `name` is looked for: the mirrors of its registry in their order, then the registry itself.
    pub(super) fn places(&self, name: &Reference) -> Places {
        let mirrors = self.mirrors.get(name.registry()).map_or(&[][..], Vec::as_slice);
        let mut places: Vec<Reference> = mirrors.iter().filter_map(|mirror| mirror.place_of(name)).collect();
        if !self.only_mirrors || places.is_empty() {
            places.push(name.clone());
        }
        Places { left: places.into_iter(), failures: Vec::new() }
    }
}

/// Where something is looked for, one place after the other.
#[derive(Debug)]
pub(super) struct Places {
    left: vec::IntoIter<Reference>,
    failures: Vec<RegistryError>,
}

impl Places {
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
        rules.only_mirrors = true;
        assert_eq!(places(&rules, "busybox"), ["a.io", "b.io"]);
        assert_eq!(places(&rules, "c.io/x"), ["c.io"]);
    }
}
