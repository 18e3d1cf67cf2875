//! Named contexts: which of them stands in for a name of the Dockerfile.

use std::collections::BTreeMap;

use wharf_solver::llb::Platform;

use super::{NamedContext, platform};
use crate::Diagnostic;

/// Names with a meaning of their own, which no context can replace.
const RESERVED: [&str; 2] = ["scratch", "context"];

/// Separates the name of a context from the platform it is for.
const PLATFORM_SEPARATOR: &str = "::";

/// The contexts by the name under which they are looked up.
pub(super) struct Contexts<'a> {
    known: BTreeMap<String, (&'a str, &'a NamedContext)>,
}

impl<'a> Contexts<'a> {
    /// The contexts as they were given.
    pub(super) fn new(given: &'a BTreeMap<String, NamedContext>, default: &Platform) -> Self {
        let mut known = BTreeMap::new();
        for (name, context) in given {
            known.entry(key(name, default)).or_insert((name.as_str(), context));
        }
        Self { known }
    }

    /// What stands in for `name` on a platform, and the name it was given under: `name::PLATFORM` before `name`.
    pub(super) fn get(&self, name: &str, platform: &Platform) -> Option<(&'a str, &'a NamedContext)> {
        if self.known.is_empty() {
            return None;
        }
        let name = familiar(name);
        if RESERVED.contains(&name.as_str()) {
            return None;
        }
        let with_platform = format!("{name}{PLATFORM_SEPARATOR}{}", platform::format_all(platform));
        self.known.get(&with_platform).or_else(|| self.known.get(&name)).copied()
    }

    /// The names, for suggestions.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.known.values().map(|(name, _)| *name)
    }

    /// Warns of the contexts that nothing can refer to.
    pub(super) fn warn_reserved(&self) -> impl Iterator<Item = Diagnostic> {
        RESERVED.iter().filter_map(|name| self.known.get(*name)).map(|(name, _)| {
            let message = format!("build context {name:?} has no effect: the name has a meaning of its own");
            Diagnostic::warning(0..0, message)
        })
    }
}

fn key(name: &str, default: &Platform) -> String {
    let Some((name, specifier)) = name.split_once(PLATFORM_SEPARATOR) else { return familiar(name) };
    let specifier = match platform::parse(specifier, default) {
        Ok(platform) => platform::format_all(&platform::normalise(&platform)),
        Err(_) => specifier.to_owned(),
    };
    format!("{}{PLATFORM_SEPARATOR}{specifier}", familiar(name))
}

/// The short form of an image name: `docker.io/library/alpine:latest` is `alpine`. Names of stages have one form.
fn familiar(name: &str) -> String {
    let name = name.to_lowercase();
    let short = ["docker.io/", "index.docker.io/"].iter().find_map(|host| name.strip_prefix(host));
    let short = short.unwrap_or(&name);
    let short = match short.strip_prefix("library/") {
        Some(rest) if !rest.contains('/') => rest,
        _ => short,
    };
    short.strip_suffix(":latest").unwrap_or(short).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_have_one_form() {
        for (name, expected) in [
            ("alpine", "alpine"),
            ("Alpine:latest", "alpine"),
            ("docker.io/library/alpine", "alpine"),
            ("docker.io/library/alpine:latest", "alpine"),
            ("index.docker.io/library/alpine", "alpine"),
            ("docker.io/alpine", "alpine"),
            ("library/alpine:3", "alpine:3"),
            ("docker.io/team/app", "team/app"),
            ("library/a/b", "library/a/b"),
            ("localhost:5000/app:latest", "localhost:5000/app"),
            ("alpine@sha256:0", "alpine@sha256:0"),
        ] {
            assert_eq!(familiar(name), expected, "{name}");
        }
    }

    #[test]
    fn a_context_is_found_by_name_and_platform() {
        let amd64 =
            Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), ..Platform::default() };
        let arm64 = Platform { architecture: "arm64".to_owned(), ..amd64.clone() };
        let given = ["docker.io/library/a", "b::linux/aarch64", "b", "scratch", "c::nonsense/"];
        let given = given.map(|name| (name.to_owned(), NamedContext::Local)).into();
        let contexts = Contexts::new(&given, &amd64);
        for (name, platform, expected) in [
            ("a", &amd64, Some("docker.io/library/a")),
            ("A:latest", &arm64, Some("docker.io/library/a")),
            ("a:1", &amd64, None),
            ("b", &amd64, Some("b")),
            ("b", &arm64, Some("b::linux/aarch64")),
            ("scratch", &amd64, None),
            ("Context", &amd64, None),
            ("c", &amd64, None),
        ] {
            assert_eq!(contexts.get(name, platform).map(|(name, _)| name), expected, "{name}");
        }
        assert_eq!(contexts.warn_reserved().count(), 1);
    }
}
