//! What a build context or a Dockerfile was given as on the command line.

use std::fmt;
use std::path::{Path, PathBuf};

use wharf_frontend::dockerfile2llb::authority_without_credentials;

/// The forms a context may have, for messages.
const FORMS: &str = "a context is a directory, a tar archive, `-`, a URL, a git repository, `docker-image://IMAGE` or \
                     `oci-layout://PATH[:TAG][@DIGEST]`";

/// What a context is. Nothing has been looked at yet but whether a directory of that name exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSpec {
    /// A directory or a tar archive of this machine.
    Path(PathBuf),
    /// Standard input: an archive, or a Dockerfile alone.
    Stdin,
    /// An archive or a Dockerfile behind an HTTP(S) URL.
    Http(String),
    /// A git repository, as written: `https://….git#REF:DIR`, `git://…`, `ssh://…`, `git@HOST:PATH`,
    /// `github.com/ORGANISATION/REPOSITORY`.
    Git(String),
    /// The file system of an image: an image reference or `oci-layout://PATH[:TAG][@DIGEST]`.
    Image(String),
    /// A stage of the same Dockerfile (`target:STAGE`); named contexts only.
    Stage(String),
}

/// Why a context is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// Nothing was given.
    #[error("the context is empty")]
    Empty,
    /// There is no context of that scheme.
    #[error("`{0}` is no kind of context")]
    Scheme(String),
    /// The form is understood, but what it should name is missing.
    #[error("{form} needs {what}")]
    Incomplete {
        /// The form.
        form: &'static str,
        /// What is missing.
        what: &'static str,
    },
    /// A form that only a named context may have.
    #[error("`{0}` can only be a named context")]
    NamedOnly(String),
    /// A form that only the main context may have.
    #[error("standard input can only be the main context")]
    MainOnly,
    /// Not `NAME=CONTEXT`.
    #[error("it has no name: it is NAME=CONTEXT")]
    NoName,
}

impl ContextError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Empty => Some("`.` is the current directory"),
            Self::Scheme(_) => Some(FORMS),
            Self::NamedOnly(_) => Some("give it with `--build-context NAME=…`"),
            Self::Incomplete { .. } | Self::MainOnly | Self::NoName => None,
        }
    }
}

impl ContextSpec {
    /// Reads the main context. `is_dir` says whether a path is a directory: one that is there is meant before anything
    /// else that looks like it.
    pub fn main(text: &str, is_dir: &dyn Fn(&Path) -> bool) -> Result<Self, ContextError> {
        match Self::parse(text, is_dir)? {
            Self::Stage(_) => Err(ContextError::NamedOnly(text.to_owned())),
            spec => Ok(spec),
        }
    }

    /// Reads `NAME=CONTEXT` of `--build-context`. The name comes back as the frontend looks it up: lower case, and of
    /// an image in the shortest form.
    pub fn named(text: &str, is_dir: &dyn Fn(&Path) -> bool) -> Result<(String, Self), ContextError> {
        let (name, value) = text.split_once('=').ok_or(ContextError::NoName)?;
        if name.is_empty() {
            return Err(ContextError::NoName);
        }
        match Self::parse(value, is_dir)? {
            Self::Stdin => Err(ContextError::MainOnly),
            spec => Ok((short_name(name), spec)),
        }
    }

    fn parse(text: &str, is_dir: &dyn Fn(&Path) -> bool) -> Result<Self, ContextError> {
        if text.is_empty() {
            return Err(ContextError::Empty);
        }
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if is_dir(Path::new(text)) {
            return Ok(Self::Path(text.into()));
        }
        if let Some(stage) = text.strip_prefix("target:") {
            return required(stage, "`target:`", "the name of a stage").map(Self::Stage);
        }
        if text.starts_with("git@") || text.starts_with("github.com/") {
            return Ok(Self::Git(text.to_owned()));
        }
        let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
            return Ok(Self::Path(text.into()));
        };
        match scheme {
            "http" | "https" if is_repository(rest) => Ok(Self::Git(text.to_owned())),
            "http" | "https" => required(rest, "a URL", "a host").map(|_| Self::Http(text.to_owned())),
            "git" | "ssh" => required(rest, "a git URL", "a host").map(|_| Self::Git(text.to_owned())),
            "docker-image" => required(rest, "`docker-image://`", "an image reference").map(Self::Image),
            "oci-layout" => required(rest, "`oci-layout://`", "a path").map(|_| Self::Image(text.to_owned())),
            _ => Err(ContextError::Scheme(format!("{scheme}://"))),
        }
    }
}

impl fmt::Display for ContextSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Stdin => f.write_str("-"),
            Self::Http(url) | Self::Git(url) => f.write_str(&redacted(url)),
            Self::Image(reference) => f.write_str(reference),
            Self::Stage(stage) => write!(f, "target:{stage}"),
        }
    }
}

/// Where the Dockerfile is (`-f`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerfileSpec {
    /// Standard input.
    Stdin,
    /// Behind an HTTP(S) URL.
    Http(String),
    /// A path: of this machine, or in a context that is not a directory of this machine.
    Path(PathBuf),
}

impl DockerfileSpec {
    /// Reads the value of `-f`.
    pub fn parse(path: PathBuf) -> Self {
        match path.to_str() {
            Some("-") => Self::Stdin,
            Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                Self::Http(url.to_owned())
            }
            _ => Self::Path(path),
        }
    }
}

/// A URL without what nobody else may read: password, user, and the values of the query.
pub fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority_len = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_len);
    let host = authority_without_credentials(authority);
    let (path, fragment) = path.split_once('#').map_or((path, None), |(path, rest)| (path, Some(rest)));
    let mut text = format!("{scheme}://{host}");
    match path.split_once('?') {
        None => text.push_str(path),
        Some((path, query)) => {
            text.push_str(path);
            let hidden = query.split('&').map(|pair| match pair.split_once('=') {
                Some((name, _)) => format!("{name}=xxxxx"),
                None => "xxxxx".to_owned(),
            });
            text.push('?');
            text.push_str(&hidden.collect::<Vec<_>>().join("&"));
        }
    }
    if let Some(fragment) = fragment {
        text.push('#');
        text.push_str(fragment);
    }
    text
}

fn required(text: &str, form: &'static str, what: &'static str) -> Result<String, ContextError> {
    let host_len = text.find(['/', '?', '#']).unwrap_or(text.len());
    let is_missing = text.is_empty() || (what == "a host" && host_len == 0);
    if is_missing { Err(ContextError::Incomplete { form, what }) } else { Ok(text.to_owned()) }
}

/// Whether the path of a URL (after `://`) ends in `.git`, whatever its query and fragment are.
fn is_repository(rest: &str) -> bool {
    let path = rest.split(['#', '?']).next().unwrap_or_default();
    path.trim_end_matches('/').ends_with(".git")
}

fn is_scheme(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// `docker.io/library/Alpine:latest` → `alpine`; what follows `::` (a platform) stays.
fn short_name(name: &str) -> String {
    let name = name.to_lowercase();
    let (image, platform) = name.split_once("::").map_or((&*name, None), |(image, rest)| (image, Some(rest)));
    let short =
        image.strip_prefix("docker.io/").map_or(image, |rest| rest.strip_prefix("library/").unwrap_or(rest));
    let short = short.strip_suffix(":latest").filter(|short| !short.is_empty()).unwrap_or(short);
    platform.map_or_else(|| short.to_owned(), |platform| format!("{short}::{platform}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_dir(path: &Path) -> bool {
        path == Path::new("here") || path == Path::new("github.com/o/here")
    }

    fn describe(spec: Result<ContextSpec, ContextError>) -> String {
        match spec {
            Ok(ContextSpec::Path(path)) => format!("path {}", path.display()),
            Ok(ContextSpec::Stdin) => "stdin".to_owned(),
            Ok(ContextSpec::Http(url)) => format!("http {url}"),
            Ok(ContextSpec::Git(url)) => format!("git {url}"),
            Ok(ContextSpec::Image(reference)) => format!("image {reference}"),
            Ok(ContextSpec::Stage(stage)) => format!("stage {stage}"),
            Err(error) => format!("error: {error}"),
        }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(describe(ContextSpec::main(text, &is_dir)), expected, "{text}");
    }

    #[test]
    fn main_contexts() {
        check(".", "path .");
        check("-", "stdin");
        check("here", "path here");
        check("not/here.tar", "path not/here.tar");
        check("", "error: the context is empty");
        check("https://h/a.tar.gz", "http https://h/a.tar.gz");
        check("http://h/Dockerfile?x=.git", "http http://h/Dockerfile?x=.git");
        check("https://h/o/r.git", "git https://h/o/r.git");
        check("https://h/o/r.git#v1:sub", "git https://h/o/r.git#v1:sub");
        check("https://h/o/r.git?ref=v1", "git https://h/o/r.git?ref=v1");
        check("https://h/o/r.git/", "git https://h/o/r.git/");
        check("git://h/o/r", "git git://h/o/r");
        check("ssh://git@h:22/o/r", "git ssh://git@h:22/o/r");
        check("git@h:o/r.git#main", "git git@h:o/r.git#main");
        check("github.com/o/r", "git github.com/o/r");
        check("github.com/o/here", "path github.com/o/here");
        check("gitlab.com/o/r", "path gitlab.com/o/r");
        check("docker-image://alpine:3", "image alpine:3");
        check("docker-image://", "error: `docker-image://` needs an image reference");
        check("oci-layout://a/b:v1", "image oci-layout://a/b:v1");
        check("oci-layout://", "error: `oci-layout://` needs a path");
        check("ftp://h/x", "error: `ftp://` is no kind of context");
        check("http://", "error: a URL needs a host");
        check("http:///x", "error: a URL needs a host");
        check("a b://c", "path a b://c");
        check("target:build", "error: `target:build` can only be a named context");
    }

    #[track_caller]
    fn check_named(text: &str, expected_name: &str, expected: &str) {
        let (name, spec) = match ContextSpec::named(text, &is_dir) {
            Ok((name, spec)) => (name, Ok(spec)),
            Err(error) => (String::new(), Err(error)),
        };
        assert_eq!((&*name, &*describe(spec)), (expected_name, expected), "{text}");
    }

    #[test]
    fn named_contexts() {
        check_named("A=here", "a", "path here");
        check_named("a=x=y", "a", "path x=y");
        check_named("docker.io/library/Alpine:latest=here", "alpine", "path here");
        check_named("docker.io/o/r:v1=here", "o/r:v1", "path here");
        check_named("alpine::linux/amd64=docker-image://x", "alpine::linux/amd64", "image x");
        check_named("a=target:build", "a", "stage build");
        check_named("a=target:", "", "error: `target:` needs the name of a stage");
        check_named("a=-", "", "error: standard input can only be the main context");
        check_named("a=", "", "error: the context is empty");
        check_named("=x", "", "error: it has no name: it is NAME=CONTEXT");
        check_named("x", "", "error: it has no name: it is NAME=CONTEXT");
    }

    #[test]
    fn secrets_of_urls_are_not_shown() {
        for (url, expected) in [
            ("https://h/a", "https://h/a"),
            ("https://u:p@h/a@b", "https://xxxxx:xxxxx@h/a@b"),
            ("https://h/a?token=1&x#f", "https://h/a?token=xxxxx&xxxxx#f"),
            ("https://h?t=1", "https://h?t=xxxxx"),
            ("ssh://git@h/a", "ssh://git@h/a"),
            ("https://p@ss@h/a", "https://xxxxx@h/a"),
            ("git@h:a/b", "git@h:a/b"),
        ] {
            assert_eq!(redacted(url), expected);
        }
    }

    #[test]
    fn dockerfiles() {
        for (path, expected) in [
            ("-", DockerfileSpec::Stdin),
            ("https://h/Dockerfile", DockerfileSpec::Http("https://h/Dockerfile".to_owned())),
            ("a/Dockerfile", DockerfileSpec::Path("a/Dockerfile".into())),
        ] {
            assert_eq!(DockerfileSpec::parse(path.into()), expected);
        }
    }
}
