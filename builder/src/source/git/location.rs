//! The address of a repository: which forms are let through to git, and what is said of them.

use std::fmt;

use percent_encoding::percent_decode_str;

use super::GitError;

/// Longer addresses are no addresses.
const URL_BYTES_MAX: usize = 8192;

/// An address that is safe to hand to git: no other transport, no option, no credentials in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Location {
    /// As git gets it and as it may be shown. An SSH address keeps its user: it says who is asked.
    pub(super) url: String,
    pub(super) scheme: Scheme,
    /// `host[:port]`.
    pub(super) host: String,
    /// `user:password` that was written into an HTTP address.
    pub(super) credentials: Option<String>,
}

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scheme {
    Http,
    Https,
    Git,
    Ssh,
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Location {
    /// Reads `http://…`, `https://…`, `git://…`, `ssh://…` and `user@host:path`.
    pub(super) fn parse(text: &str) -> Result<Self, GitError> {
        let refused = |reason| GitError::Url { url: shown(text), reason };
        if text.len() > URL_BYTES_MAX {
            return Err(GitError::Url { url: text.chars().take(100).collect(), reason: "it is too long" });
        }
        if text.chars().any(char::is_control) {
            return Err(refused("it has control characters"));
        }
        let parsed = match text.split_once("://") {
            Some((scheme, rest)) => Self::parse_url(scheme, rest),
            None => Self::parse_scp(text),
        };
        parsed.map_err(refused)
    }

    fn parse_url(scheme: &str, rest: &str) -> Result<Self, &'static str> {
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "git" => Scheme::Git,
            "ssh" => Scheme::Ssh,
            _ => return Err("only http, https, git and ssh are spoken"),
        };
        let (authority, path) = rest.split_at(rest.find('/').ok_or("it has no path")?);
        let (user, host) =
            authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        if !is_host(host) {
            return Err("its host is none");
        }
        let name = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Git => "git",
            Scheme::Ssh => "ssh",
        };
        let mut location = Self {
            url: format!("{name}://{host}{path}"),
            scheme,
            host: host.to_ascii_lowercase(),
            credentials: None,
        };
        match (scheme, user) {
            (Scheme::Http | Scheme::Https, Some(user)) => {
                let (user, password) = user.split_once(':').unwrap_or((user, ""));
                location.credentials = Some(format!("{}:{}", decoded(user)?, decoded(password)?));
            }
            (Scheme::Ssh, Some(user)) => {
                // A password cannot be given to ssh.
                let user = user.split(':').next().unwrap_or_default();
                if !is_user(user) {
                    return Err("its user is none");
                }
                location.url = format!("ssh://{user}@{host}{path}");
            }
            _ => {}
        }
        Ok(location)
    }

    /// `user@host:path`. Without a user it could be a file of this machine, or git's `transport::address`.
    fn parse_scp(text: &str) -> Result<Self, &'static str> {
        let (user, rest) =
            text.split_once('@').ok_or("it has neither a scheme nor the form user@host:path")?;
        let (host, path) = rest.split_once(':').ok_or("it has no path")?;
        if !is_user(user) {
            return Err("its user is none");
        }
        if !is_host(host) || host.contains(':') {
            return Err("its host is none");
        }
        if path.is_empty() || path.starts_with(['-', ':']) {
            return Err("it has no path");
        }
        Ok(Self {
            url: text.to_owned(),
            scheme: Scheme::Ssh,
            host: host.to_ascii_lowercase(),
            credentials: None,
        })
    }

    /// The repository of a submodule: an address of its own, or one relative to this (`../other.git`).
    pub(super) fn submodule(&self, address: &str) -> Result<Self, GitError> {
        if !address.starts_with("./") && !address.starts_with("../") {
            return Self::parse(address);
        }
        let refused = || GitError::Url { url: shown(address), reason: "it leads out of its server" };
        let mut base = self.url.trim_end_matches('/');
        let root_len = match base.split_once("://") {
            Some((scheme, rest)) => scheme.len() + 3 + rest.find('/').unwrap_or(rest.len()),
            None => base.find(':').map_or(base.len(), |colon| colon + 1),
        };
        let mut rest = address;
        loop {
            if let Some(next) = rest.strip_prefix("./") {
                rest = next;
            } else if let Some(next) = rest.strip_prefix("../") {
                if base.len() <= root_len {
                    return Err(refused());
                }
                rest = next;
                base = match base.rfind('/') {
                    Some(slash) if slash >= root_len => &base[..slash],
                    _ => &base[..root_len],
                };
            } else {
                break;
            }
        }
        let separator = if base.ends_with(':') { "" } else { "/" };
        let mut location = Self::parse(&format!("{base}{separator}{rest}"))?;
        // The same server knows the same user.
        location.credentials.clone_from(&self.credentials);
        Ok(location)
    }

    /// Whether what one is told may be told to the other, too: the same server, reached no less safely.
    pub(super) fn trusts(&self, other: &Self) -> bool {
        self.host == other.host && self.scheme == other.scheme
    }
}

/// An address that is refused, without credentials.
pub(super) fn shown(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority_len = rest.find('/').unwrap_or(rest.len());
    let host = rest[..authority_len].rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{}", &rest[authority_len..])
}

/// `name`, `name:port`, `1.2.3.4`, `[::1]:22`; nothing that a program could take for an option.
fn is_host(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':') => {
                ("v6", port)
            }
            _ => return false,
        },
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port_is_good = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
    };
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(known) && port_is_good
}

fn is_user(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'+' | b'~');
    !text.is_empty() && !text.starts_with('-') && text.bytes().all(known)
}

/// User or password as it was before it was written into a URL.
fn decoded(text: &str) -> Result<String, &'static str> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| "its user or password is no text")?;
    if text.chars().any(char::is_control) {
        Err("its user or password is no text")
    } else {
        Ok(text.into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let actual = match Location::parse(text) {
            Ok(location) => {
                let credentials = location.credentials.map(|it| format!(" as {it}")).unwrap_or_default();
                format!("{} at {}{credentials}", location.url, location.host)
            }
            Err(error) => error.to_string(),
        };
        assert!(
            actual == expected || (expected.starts_with(':') && actual.ends_with(expected)),
            "{text}: {actual}"
        );
    }

    #[test]
    fn addresses() {
        check("https://h/o/r.git", "https://h/o/r.git at h");
        check("HTTPS://Host:8443/r", "https://Host:8443/r at host:8443");
        check("https://u:p%40x@h/r", "https://h/r at h as u:p@x");
        check("https://token@h/r", "https://h/r at h as token:");
        check("git://u@h/r", "git://h/r at h");
        check("ssh://git:pw@h:22/r", "ssh://git@h:22/r at h:22");
        check("ssh://[::1]:22/r", "ssh://[::1]:22/r at [::1]:22");
        check("git@h:o/r", "git@h:o/r at h");
        check("git@h:~/r", "git@h:~/r at h");
    }

    #[test]
    fn what_is_not_let_through() {
        for (text, reason) in [
            ("file:///etc", ": only http, https, git and ssh are spoken"),
            ("ext::sh -c touch% /tmp/x", ": it has neither a scheme nor the form user@host:path"),
            ("ext::sh -c a@b:c", ": its user is none"),
            ("fd::3", ": it has neither a scheme nor the form user@host:path"),
            ("/etc", ": it has neither a scheme nor the form user@host:path"),
            ("--upload-pack=x", ": it has neither a scheme nor the form user@host:path"),
            ("-u@h:x", ": its user is none"),
            ("git@-oProxyCommand=x:y", ": its host is none"),
            ("ssh://-oProxyCommand=x/y", ": its host is none"),
            ("ssh://-x@h/y", ": its user is none"),
            ("https://h", ": it has no path"),
            ("https:///x", ": its host is none"),
            ("https://h h/x", ": its host is none"),
            ("https://h:x/x", ": its host is none"),
            ("git@h:-x", ": it has no path"),
            ("git@h::x", ": it has no path"),
            ("https://h/a\nb", ": it has control characters"),
            ("https://u:p%0a@h/x", ": its user or password is no text"),
        ] {
            check(text, reason);
        }
        check(
            "ftp://u:p@h/x",
            "`ftp://h/x` is not the address of a git repository: only http, https, git and ssh are spoken",
        );
    }

    #[test]
    fn submodules_are_relative_to_their_parent() {
        for (base, address, expected) in [
            ("https://h/o/r.git", "../s.git", "https://h/o/s.git"),
            ("https://h/o/r.git/", "../../p/s", "https://h/p/s"),
            ("https://h/o/r.git", "./s", "https://h/o/r.git/s"),
            ("https://h/r", "../s", "https://h/s"),
            ("git@h:o/r", "../s", "git@h:o/s"),
            ("git@h:r", "../s", "git@h:s"),
            ("https://h/r", "ssh://g@k/s", "ssh://g@k/s"),
        ] {
            assert_eq!(Location::parse(base).unwrap().submodule(address).unwrap().url, expected);
        }
        for (base, address) in [
            ("https://h/r", "../../s"),
            ("git@h:r", "../../s"),
            ("https://h/r", "file:///etc"),
            ("https://h/r", "/etc"),
            ("https://h/r", "-x"),
        ] {
            assert!(Location::parse(base).unwrap().submodule(address).is_err(), "{base} {address}");
        }
    }
}
