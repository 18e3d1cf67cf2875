//! Sources of ADD that are not in the context: URLs and git repositories.

use std::borrow::Cow;
use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use wharf_solver::llb::SourceOp;

use super::path;

/// File name of a URL whose path has none.
const UNNAMED: &str = "__unnamed__";

/// A source from the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Remote {
    /// A file.
    Http { url: String, file_name: String },
    /// A repository.
    Git(Git),
}

/// A repository and what of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Git {
    /// As written, without query and fragment.
    url: String,
    /// Branch, tag or commit; empty: the default branch.
    reference: String,
    /// Directory in it.
    subdirectory: String,
    /// Commit (prefix) it must be.
    pub(super) checksum: Option<String>,
    /// Whether `.git` stays.
    pub(super) keep_git_dir: Option<bool>,
    skip_submodules: bool,
    modified: Option<String>,
    fetch_by_commit: bool,
}

/// Reads a source; `None` is a path.
pub(super) fn parse(text: &str) -> Result<Option<Remote>, String> {
    let is_http = text.starts_with("http://") || text.starts_with("https://");
    let is_git = text.starts_with("git://") || text.starts_with("ssh://") || text.starts_with("git@");
    if !is_http && !is_git {
        return Ok(None);
    }
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (url, query) = rest.split_once('?').unwrap_or((rest, ""));
    if is_git || url.trim_end_matches('/').ends_with(".git") {
        let git = parse_git(url, query, fragment)?;
        require_url(url)?;
        return Ok(Some(Remote::Git(git)));
    }
    let after_scheme = url.split_once("://").map_or("", |(_, rest)| rest);
    let (host, path) = after_scheme.split_once('/').unwrap_or((after_scheme, ""));
    if host.is_empty() {
        return Err(format!("URL {text:?} has no host"));
    }
    require_url(text)?;
    let name = path::base_name(&percent_decode(path));
    let file_name = if name.is_empty() { UNNAMED.to_owned() } else { name };
    Ok(Some(Remote::Http { url: text.to_owned(), file_name }))
}

/// Refuses what has a scheme and is no URL all the same: a host or a port that cannot be. `git@HOST:PATH` has none.
fn require_url(text: &str) -> Result<(), String> {
    match url::Url::parse(text) {
        Err(error) if text.contains("://") => {
            Err(format!("{:?} is not a URL: {error}", without_credentials(text)))
        }
        _ => Ok(()),
    }
}

/// The source of a build context: what ADD takes for a repository, or `github.com/OWNER/REPOSITORY`, which is one in
/// this place only. `keep_git_dir` holds unless the address says otherwise.
pub fn git_context(text: &str, keep_git_dir: bool) -> Result<SourceOp, String> {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (url, query) = rest.split_once('?').unwrap_or((rest, ""));
    let url = if url.starts_with("github.com/") { format!("https://{url}") } else { url.to_owned() };
    let mut git = parse_git(&url, query, fragment)?;
    git.keep_git_dir = git.keep_git_dir.or(Some(keep_git_dir));
    Ok(git.source())
}

/// A text without the names and passwords in its URLs: step names and history are for everybody to read. `git@` says who
/// is asked, not who asks.
pub(super) fn without_credentials(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (scheme, after) = rest.split_at(at + "://".len());
        shown.push_str(scheme);
        let end = after.find(|c: char| "/?#\"'".contains(c) || c.is_whitespace()).unwrap_or(after.len());
        shown.push_str(&authority_without_credentials(&after[..end]));
        rest = &after[end..];
    }
    shown + rest
}

/// The same of what stands between `://` and the path of one URL.
pub fn authority_without_credentials(authority: &str) -> Cow<'_, str> {
    match authority.rsplit_once('@') {
        None | Some(("git", _)) => authority.into(),
        Some((user, host)) if user.contains(':') => format!("xxxxx:xxxxx@{host}").into(),
        Some((_, host)) => format!("xxxxx@{host}").into(),
    }
}

impl Git {
    /// The source: `git://HOST/PATH#REF:SUBDIR`, the URL itself in an attribute.
    pub(super) fn source(&self) -> SourceOp {
        let mut identifier = format!("git://{}", self.location());
        if !self.reference.is_empty() || !self.subdirectory.is_empty() {
            identifier.push('#');
            identifier.push_str(&self.reference);
        }
        if !self.subdirectory.is_empty() {
            identifier.push(':');
            identifier.push_str(&self.subdirectory);
        }
        let mut attrs = BTreeMap::new();
        let mut set = |name: &str, value: &str| attrs.insert(format!("git.{name}"), value.to_owned());
        set("fullurl", &self.url);
        if self.url.starts_with("http") {
            set("authtokensecret", "GIT_AUTH_TOKEN");
            set("authheadersecret", "GIT_AUTH_HEADER");
        } else if !self.url.starts_with("git://") {
            set("mountsshsock", "default");
        }
        if self.keep_git_dir == Some(true) {
            set("keepgitdir", "true");
        }
        if let Some(checksum) = &self.checksum {
            set("checksum", checksum);
        }
        if self.skip_submodules {
            set("skipsubmodules", "true");
        }
        if let Some(modified) = &self.modified {
            set("mtime", modified);
        }
        if self.fetch_by_commit {
            set("fetchbycommit", "true");
        }
        SourceOp { identifier, attrs }
    }

    /// Host and path, without scheme and credentials.
    fn location(&self) -> String {
        match self.url.split_once("://") {
            Some((_, rest)) => {
                let host_end = rest.find('/').unwrap_or(rest.len());
                let start = rest[..host_end].rfind('@').map_or(0, |at| at + 1);
                rest[start..].to_owned()
            }
            None => {
                let location = self.url.split_once('@').map_or(self.url.as_str(), |(_, rest)| rest);
                location.replacen(':', "/", 1)
            }
        }
    }
}

fn parse_git(url: &str, query: &str, fragment: &str) -> Result<Git, String> {
    let (reference, subdirectory) = fragment.split_once(':').unwrap_or((fragment, ""));
    let mut git = Git {
        url: url.to_owned(),
        reference: reference.to_owned(),
        subdirectory: subdirectory.to_owned(),
        ..Git::default()
    };
    if git.location().trim_matches('/').is_empty() {
        return Err(format!("git URL {url:?} has no host"));
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode(value);
        match key {
            "ref" => set_once(&mut git.reference, value, "ref")?,
            "tag" => set_once(&mut git.reference, format!("refs/tags/{value}"), "ref")?,
            "branch" => set_once(&mut git.reference, format!("refs/heads/{value}"), "ref")?,
            "subdir" => set_once(&mut git.subdirectory, value, "subdir")?,
            "checksum" | "commit" => match &git.checksum {
                Some(checksum) if *checksum != value => {
                    return Err("conflicting checksum and commit".to_owned());
                }
                _ => git.checksum = Some(value),
            },
            "keep-git-dir" => git.keep_git_dir = Some(parse_bool(key, &value)?),
            "submodules" => git.skip_submodules = !parse_bool(key, &value)?,
            "fetch-by-commit" => git.fetch_by_commit = parse_bool(key, &value)?,
            "mtime" if value == "checkout" || value == "commit" => git.modified = Some(value),
            "mtime" => return Err(format!("invalid mtime {value:?} in git URL: it is checkout or commit")),
            other => return Err(format!("unexpected query {other:?} in git URL")),
        }
    }
    Ok(git)
}

fn set_once(field: &mut String, value: String, what: &str) -> Result<(), String> {
    if field.is_empty() {
        *field = value;
        return Ok(());
    }
    if *field == value { Ok(()) } else { Err(format!("{what} conflicts: {field:?} and {value:?}")) }
}

/// A flag without a value is set.
fn parse_bool(key: &str, value: &str) -> Result<bool, String> {
    match value.to_lowercase().as_str() {
        "" | "1" | "t" | "true" => Ok(true),
        "0" | "f" | "false" => Ok(false),
        _ => Err(format!("invalid {key} value {value:?} in git URL: it is true or false")),
    }
}

/// `%41` → `A`; what is no escape stays, as does everything if the result would not be text.
fn percent_decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let actual = match parse(text) {
            Ok(None) => "path".to_owned(),
            Ok(Some(Remote::Http { url, file_name })) => format!("{url} as {file_name}"),
            Ok(Some(Remote::Git(git))) => {
                let source = git.source();
                let attrs: Vec<String> = source
                    .attrs
                    .iter()
                    .filter(|(name, _)| !name.starts_with("git.auth"))
                    .map(|(name, value)| format!(" {name}={value}"))
                    .collect();
                format!("{}{}", source.identifier, attrs.concat())
            }
            Err(message) => message,
        };
        assert_eq!(actual, expected, "{text}");
    }

    #[test]
    fn credentials_are_not_shown() {
        for (text, expected) in [
            ("ADD https://me:pass@h/a?b@c /x", "ADD https://xxxxx:xxxxx@h/a?b@c /x"),
            ("ADD [\"http://token@h/a\", \"/x@y\"]", "ADD [\"http://xxxxx@h/a\", \"/x@y\"]"),
            ("https://a:p@ss@h ssh://git@h/r://u:p@h", "https://xxxxx:xxxxx@h ssh://git@h/r://xxxxx:xxxxx@h"),
            ("git@h:o/r.git a@b", "git@h:o/r.git a@b"),
            ("://", "://"),
        ] {
            assert_eq!(without_credentials(text), expected, "{text}");
        }
    }

    #[test]
    fn urls_are_told_from_repositories() {
        check("a/b.git", "path");
        check("github.com/o/r.git", "path");
        check("https://h/a/b.tgz?x=1#f", "https://h/a/b.tgz?x=1#f as b.tgz");
        check("https://h/a%20b", "https://h/a%20b as a b");
        check("https://h/a%2fb%zz", "https://h/a%2fb%zz as b%zz");
        check("http://h", "http://h as __unnamed__");
        check("http://h/..", "http://h/.. as __unnamed__");
        check("http:///x", "URL \"http:///x\" has no host");
        check("http://[::1/x", "\"http://[::1/x\" is not a URL: invalid IPv6 address");
        check("http://[::1]:80/x", "http://[::1]:80/x as x");
        check("http://u:p@h:99999/x", "\"http://xxxxx:xxxxx@h:99999/x\" is not a URL: invalid port number");
        check("https://h:x/r.git", "\"https://h:x/r.git\" is not a URL: invalid port number");
        check("http://my_host/a b?c=d e#é", "http://my_host/a b?c=d e#é as a b");
        check("https://h/o/r.git", "git://h/o/r.git git.fullurl=https://h/o/r.git");
        check("https://u:p@h/o/r.git#v1:sub", "git://h/o/r.git#v1:sub git.fullurl=https://u:p@h/o/r.git");
        check(
            "git@h:o/r.git#main",
            "git://h/o/r.git#main git.fullurl=git@h:o/r.git git.mountsshsock=default",
        );
        check("git://h/o/r", "git://h/o/r git.fullurl=git://h/o/r");
        check(
            "https://h/r.git?branch=a%2Fb&subdir=s&commit=abc&keep-git-dir&submodules=false&mtime=commit",
            "git://h/r.git#refs/heads/a/b:s git.checksum=abc git.fullurl=https://h/r.git git.keepgitdir=true git.mtime=commit git.skipsubmodules=true",
        );
        check("https://h/r.git?ref=a#b", "ref conflicts: \"b\" and \"a\"");
        check("https://h/r.git?what=a", "unexpected query \"what\" in git URL");
        check("https://h/r.git?mtime=now", "invalid mtime \"now\" in git URL: it is checkout or commit");
        check("git@", "git URL \"git@\" has no host");
    }
}
