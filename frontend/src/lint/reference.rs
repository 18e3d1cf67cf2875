//! Whether a text could be the name of an image: `[DOMAIN/]PATH[:TAG][@DIGEST]`.

/// A name may be this long, its domain included.
const NAME_BYTES_MAX: usize = 255;

/// What comes before a short name counts as well.
const DEFAULT_DOMAIN: &str = "docker.io/library/";

/// Tags may be this long.
const TAG_BYTES_MAX: usize = 128;

/// Whether what keeps `text` from being a reference is that its repository is not in lower case.
pub(crate) fn is_reference_in_lowercase(text: &str) -> bool {
    let start =
        text.split_once('/').filter(|(domain, _)| is_domain_part(domain)).map_or(0, |(it, _)| it.len());
    let end = text[start..].find([':', '@']).map_or(text.len(), |end| start + end);
    let path = &text[start..end];
    is_reference(&format!("{}{}{}", &text[..start], path.to_ascii_lowercase(), &text[end..]))
}

/// Whether `text` is a reference, short (`debian`) or full.
pub(crate) fn is_reference(text: &str) -> bool {
    let is_identifier =
        text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_identifier {
        return false;
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let (domain, rest) = match rest.split_once('/') {
        Some((domain, path)) if is_domain_part(domain) => (Some(domain), path),
        _ => (None, rest),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    domain.is_none_or(is_domain)
        && domain.map_or(DEFAULT_DOMAIN.len(), |domain| domain.len() + 1) + path.len() <= NAME_BYTES_MAX
        && path.split('/').all(is_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest)
}

/// Whether what stands before the first slash is a registry and not the beginning of a path.
fn is_domain_part(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost" || text.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => {
            !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
        }
        None => host.split('.').all(is_label),
    };
    is_host && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Lower-case letters and digits, joined by `.`, `_`, `__` or hyphens.
fn is_component(text: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    is_alphanumeric(*first)
        && is_alphanumeric(*last)
        && bytes.split(|byte| is_alphanumeric(*byte)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
        })
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+.".contains(&byte))
            && hex.len() >= 32
            && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_in_capitals() {
        for (text, expected) in [
            ("BusyBox", true),
            ("Foo/Bar", true),
            ("a/B:V@sha256:1", false),
            ("a/B:V", true),
            ("busybox::X", false),
            ("A b", false),
            ("a:5000/B:x", true),
        ] {
            assert!(!is_reference(text), "{text}");
            assert_eq!(is_reference_in_lowercase(text), expected, "{text}");
        }
    }

    #[test]
    fn names_of_images() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for text in [
            "debian",
            "debian:12",
            "scratch",
            "a/b",
            "a/b/c:1-x_y.z",
            "localhost/a",
            "localhost:5000/a",
            "ghcr.io/o/r:v1",
            "a__b",
            "a---b",
            "a.b_c",
            "REG/a",
            "[::1]:5000/a",
            "alpine:latest",
            &digest,
        ] {
            assert!(is_reference(text), "{text}");
        }
        let long = "a".repeat(300);
        for text in [
            "",
            ":",
            ":latest",
            "debian:",
            "Debian",
            "a/B",
            "a//b",
            "/a",
            "a/",
            "a b",
            "-a",
            "a_",
            "a___b",
            "a..b",
            "a:b:c",
            "a@",
            "a@sha256:00",
            "a@x",
            "a:-",
            "example.com:x/a",
            "-x.y/a",
            "debian:$V",
            &long,
            &"0".repeat(64),
        ] {
            assert!(!is_reference(text), "{text}");
        }
    }
}
