//! Image references, read with the rules of Docker's familiar names: `busybox` is
//! `docker.io/library/busybox:latest`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use wharf_cache::Digest;

/// Longest repository path (distribution's `NameTotalLengthMax`).
const REPOSITORY_BYTES_MAX: usize = 255;
/// Longest tag (OCI distribution-spec, pulling manifests).
const TAG_BYTES_MAX: usize = 128;
/// Longest registry host with port: a DNS name has at most 253 bytes.
const REGISTRY_BYTES_MAX: usize = 260;

/// The registry of names that give none.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// An image's full name. Always valid: every part was checked when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {reason}")]
pub struct ParseReferenceError {
    text: String,
    reason: &'static str,
}

impl ParseReferenceError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let lowercase = self.text.to_lowercase();
        (self.reason == UPPERCASE).then(|| format!("write it in lowercase: `{lowercase}`"))
    }
}

const UPPERCASE: &str = "the repository name has uppercase letters";

impl Reference {
    /// Host of the registry with its port, `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path of the repository within the registry, `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` where neither a tag nor a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest it is pinned to.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same name, pinned to `digest`.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// The same repository, named by `digest` alone.
    pub fn by_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), tag: None, ..self.clone() }
    }

    /// The short form people write: without `docker.io` and `library`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(path) = full.strip_prefix("docker.io/") else { return full };
        // `library/a/b` keeps its prefix: `a/b` would mean something else.
        let short = path.strip_prefix("library/").filter(|_| self.repository.matches('/').count() == 1);
        short.unwrap_or(path).to_owned()
    }

    /// What the registry's manifest endpoint is asked for: the digest if there is one, else the tag.
    pub(crate) fn manifest_selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| ParseReferenceError { text: text.chars().take(300).collect(), reason })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether a tag stands for the list of what refers to a manifest (OCI distribution-spec, referrers tag schema).
pub(crate) fn is_referrers_tag(tag: &str) -> bool {
    tag.strip_prefix("sha256-")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The host that answers for `registry`.
pub(super) fn api_host(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { "registry-1.docker.io" } else { registry }
}

/// Whether `registry` (host with optional port) is this machine.
pub fn is_loopback(registry: &str) -> bool {
    let host = host_of(registry);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The host without its port and without an IPv6 address' brackets.
fn host_of(registry: &str) -> &str {
    match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => registry.split_once(':').map_or(registry, |(host, _)| host),
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(digest.parse().map_err(|_| "after `@` comes `sha256:` and 64 lowercase hex digits")?))
        }
        None => (text, None),
    };
    let path_start = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[path_start..].find(':') {
        Some(colon) => (&rest[..path_start + colon], Some(&rest[path_start + colon + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(
            "a tag has 1 to 128 letters, digits, `_`, `.` and `-`, and starts with none of the last two",
        );
    }
    let (registry, repository) = split_registry(name)?;
    check_repository(&repository)?;
    let tag = match (tag, digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { registry, repository, tag, digest })
}

/// The first path component is a registry if nothing else looks like it: it has a dot, a colon or an uppercase
/// letter, or is `localhost`.
fn split_registry(name: &str) -> Result<(String, String), &'static str> {
    let (registry, path) = match name.split_once('/') {
        Some((first, path))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.contains(|c: char| c.is_ascii_uppercase()) =>
        {
            check_registry(first)?;
            (first.to_ascii_lowercase(), path)
        }
        _ => (DEFAULT_REGISTRY.to_owned(), name),
    };
    if registry != DEFAULT_REGISTRY && registry != "index.docker.io" {
        return Ok((registry, path.to_owned()));
    }
    if path.len() == 64 && path.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("64 hex digits are an image id, not a name");
    }
    let path = if path.contains('/') { path.to_owned() } else { format!("library/{path}") };
    Ok((DEFAULT_REGISTRY.to_owned(), path))
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    const REASON: &str = "the registry is not a host name or address with an optional port";
    if registry.len() > REGISTRY_BYTES_MAX {
        return Err("the registry's name is too long");
    }
    let port_of = |rest: &str| rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    if let Some(rest) = registry.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(REASON)?;
        let valid = address.parse::<std::net::Ipv6Addr>().is_ok() && (rest.is_empty() || port_of(rest));
        return if valid { Ok(()) } else { Err(REASON) };
    }
    let (host, port) = registry.split_at(registry.find(':').unwrap_or(registry.len()));
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let valid = host.split('.').all(is_label) && (port.is_empty() || port_of(port));
    if valid { Ok(()) } else { Err(REASON) }
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.len() > REPOSITORY_BYTES_MAX {
        return Err("the repository name has more than 255 bytes");
    }
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(UPPERCASE);
    }
    if repository.split('/').all(is_path_component) {
        return Ok(());
    }
    Err("each part of a repository name is lowercase letters and digits, joined by `.`, `_`, `__` or dashes")
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` (OCI distribution-spec, pulling manifests).
fn is_path_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    is_word(first)
        && is_word(last)
        && component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (OCI distribution-spec, pulling manifests).
pub(crate) fn is_tag(tag: &str) -> bool {
    !tag.is_empty()
        && tag.len() <= TAG_BYTES_MAX
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check(text: &str, full: &str, familiar: &str) {
        let reference: Reference = text.parse().unwrap();
        assert_eq!(reference.to_string(), full);
        assert_eq!(reference.familiar(), familiar);
        assert_eq!(full.parse::<Reference>().unwrap(), reference, "the full name means the same");
        assert_eq!(familiar.parse::<Reference>().unwrap(), reference, "the familiar name means the same");
    }

    #[test]
    fn names_are_completed() {
        check("busybox", "docker.io/library/busybox:latest", "busybox:latest");
        check("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36");
        check("user/app", "docker.io/user/app:latest", "user/app:latest");
        check("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest");
        check("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest");
        check("library/busybox", "docker.io/library/busybox:latest", "busybox:latest");
        check("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest");
        check("library/library", "docker.io/library/library:latest", "library:latest");
        check("localhost/x", "localhost/x:latest", "localhost/x:latest");
        check("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest");
        check("[::1]:5000/x:1", "[::1]:5000/x:1", "[::1]:5000/x:1");
        check("GHCR.io/a/b", "ghcr.io/a/b:latest", "ghcr.io/a/b:latest");
        check("r.io/a__b/c--d.e_f:T_1.x-y", "r.io/a__b/c--d.e_f:T_1.x-y", "r.io/a__b/c--d.e_f:T_1.x-y");
    }

    #[test]
    fn digests_pin_and_suppress_latest() {
        let bare = format!("busybox@{DIGEST}");
        check(&bare, &format!("docker.io/library/{bare}"), &bare);
        let tagged = format!("r.io:443/app:v1@{DIGEST}");
        check(&tagged, &tagged, &tagged);
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long_name = "a".repeat(256);
        let long_tag = format!("a:{}", "t".repeat(129));
        let image_id = "0123456789abcdef".repeat(4);
        let upper_digest = format!("a@{}", DIGEST.to_uppercase());
        for text in [
            "",
            ":",
            "@",
            "/",
            "a:",
            "a@",
            "Busybox",
            "a/Busybox",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a:b:c",
            "a:.t",
            "a:-t",
            "a@sha256:12",
            "a@sha512:12",
            "r.io:99999/a",
            "r_x.io/a",
            "-r.io/a",
            "r..io/a",
            "[::1/a",
            "[::zz]/a",
            "[::1]x/a",
            "https://r.io/a",
            "a\0b",
            "é",
            "r.io/../a",
            "a:t/../x",
            &long_name,
            &long_tag,
            &image_id,
            &upper_digest,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?} must be refused");
        }
        assert!("a".repeat(247).parse::<Reference>().is_ok(), "library/ counts, 255 is allowed");
    }

    #[test]
    fn uppercase_has_a_hint() {
        let error = "BusyBox".parse::<Reference>().unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("write it in lowercase: `busybox`"));
    }

    #[test]
    fn loopback_is_recognised() {
        for registry in ["localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:5000"] {
            assert!(is_loopback(registry), "{registry}");
        }
        for registry in
            ["docker.io", "localhost.evil.com", "128.0.0.1:5000", "[::2]:5000", "127.0.0.1.evil.com"]
        {
            assert!(!is_loopback(registry), "{registry}");
        }
    }
}
