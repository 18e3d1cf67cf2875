//! kaniko's names of contexts → `wharf build`'s.

use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::{Failure, Kind};

/// What stands unencoded in the user and password of a URL.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is said of the context of repositories.
#[derive(Debug, Default)]
pub(super) struct GitOptions {
    /// The branch or tag where the context names none.
    pub(super) branch: Option<String>,
    /// Whether submodules were asked for.
    pub(super) submodules: bool,
}

impl GitOptions {
    /// Reads `branch=NAME,single-branch=BOOL,depth=N,recurse-submodules=BOOL,insecure-skip-tls=BOOL`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for field in text.split(',').map(str::trim).filter(|field| !field.is_empty()) {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("`{field}` is not KEY=VALUE"))?;
            let boolean =
                || crate::csv::boolean(value).ok_or_else(|| format!("`{field}` is neither true nor false"));
            match key {
                "branch" => options.branch = Some(value.to_owned()).filter(|branch| !branch.is_empty()),
                "recurse-submodules" => options.submodules = boolean()?,
                // One commit is brought and nothing else, whatever is asked for.
                "single-branch" => drop(boolean()?),
                "depth" => drop(value.parse::<u32>().map_err(|_| format!("`{field}` is no number"))?),
                "insecure-skip-tls" if boolean()? => {
                    return Err("insecure-skip-tls: git servers have to prove who they are; \
                                give git their certificate with the variable GIT_SSL_CAINFO"
                        .to_owned());
                }
                "insecure-skip-tls" => {}
                _ => {
                    return Err(format!(
                        "there is no `{key}`; there are branch, single-branch, depth, recurse-submodules and \
                         insecure-skip-tls"
                    ));
                }
            }
        }
        Ok(options)
    }
}

/// The environment's word on repositories, as kaniko has it.
#[derive(Debug, Default)]
pub(super) struct GitAccess {
    /// Whether `GIT_PULL_METHOD` is `http`.
    pub(super) plain: bool,
    /// `GIT_USERNAME` and `GIT_PASSWORD`, or `GIT_TOKEN` alone.
    pub(super) credentials: Option<(String, String)>,
}

impl GitAccess {
    /// Reads it from variables.
    pub(super) fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let plain = variable("GIT_PULL_METHOD").is_some_and(|method| method == "http");
        let credentials = match variable("GIT_TOKEN") {
            Some(token) => Some((token, String::new())),
            None => match (variable("GIT_USERNAME"), variable("GIT_PASSWORD")) {
                (None, None) => None,
                (user, password) => Some((user.unwrap_or_default(), password.unwrap_or_default())),
            },
        };
        Self { plain, credentials }
    }

    fn url(&self, rest: &str) -> String {
        let scheme = if self.plain { "http" } else { "https" };
        let has_user = rest.split('/').next().is_some_and(|authority| authority.contains('@'));
        match &self.credentials {
            Some((user, password)) if !has_user => {
                let encode = |text| utf8_percent_encode(text, UNRESERVED);
                format!("{scheme}://{}:{}@{rest}", encode(user), encode(password))
            }
            _ => format!("{scheme}://{rest}"),
        }
    }
}

/// A context.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Context {
    /// What `wharf build` calls it.
    pub(super) name: PathBuf,
    /// Whether it is a repository, also where the name does not tell.
    pub(super) is_repository: bool,
}

/// What the context `text` is, of which `sub_path` is meant.
pub(super) fn translate(
    text: &str,
    sub_path: Option<&Path>,
    git: &GitOptions,
    access: &GitAccess,
) -> Result<Context, Failure> {
    let usage = |message: String| Failure::new(Kind::Usage, message);
    let (scheme, rest) = text.split_once("://").unwrap_or(("dir", text));
    let is_alone = |what: &str| match sub_path {
        Some(_) => Err(usage(format!("--context-sub-path: {what} has no directories to choose from"))
            .hint("it is for directories and repositories; make an archive of the directory itself")),
        None => Ok(()),
    };
    let is_repository = scheme == "git" || scheme == "https" && is_repository(rest);
    let name = match scheme {
        _ if is_repository => Ok(repository(rest, sub_path, git, access).into()),
        "dir" if rest.is_empty() => Err(usage(format!("--context {text}: the directory has no name"))),
        "dir" => Ok(below(rest, sub_path)),
        "tar" if rest == "stdin" => is_alone("standard input").map(|()| "-".into()),
        "tar" if rest.is_empty() => Err(usage(format!("--context {text}: the archive has no name"))),
        "tar" => is_alone("an archive").map(|()| below(rest, None)),
        "http" | "https" => is_alone("an archive").map(|()| text.into()),
        "gs" | "s3" => Err(usage(format!("--context: `{scheme}://` is not read by wharf"))
            .hint("give a signed https:// URL of the archive, or unpack it in an init container and give its directory")),
        _ => Err(usage(format!("--context: `{scheme}://` is no kind of context"))
            .hint("a context is dir://PATH, tar://PATH, tar://stdin, git://HOST/PATH or https://…")),
    }?;
    Ok(Context { name, is_repository })
}

/// A path as nothing but a path.
fn below(path: &str, sub_path: Option<&Path>) -> PathBuf {
    let path = if path.starts_with('/') { PathBuf::from(path) } else { Path::new(".").join(path) };
    match sub_path {
        // What begins with a slash is meant within the context, too.
        Some(sub_path) => path.join(sub_path.strip_prefix("/").unwrap_or(sub_path)),
        None => path,
    }
}

fn is_repository(rest: &str) -> bool {
    rest.split(['#', '?']).next().is_some_and(|path| path.trim_end_matches('/').ends_with(".git"))
}

/// `HOST/PATH[#REF[#COMMIT]]` → a URL with `#REF:DIRECTORY`.
fn repository(rest: &str, sub_path: Option<&Path>, git: &GitOptions, access: &GitAccess) -> String {
    let mut parts = rest.split('#');
    let place = parts.next().unwrap_or_default();
    let reference = parts.next().filter(|reference| !reference.is_empty());
    let commit = parts.next().filter(|commit| !commit.is_empty());
    let wanted = commit.or(git.branch.as_deref()).or(reference).unwrap_or_default();
    let mut url = access.url(place);
    let directory = sub_path.map(|path| path.to_string_lossy()).unwrap_or_default();
    let directory = directory.trim_matches('/');
    if !wanted.is_empty() || !directory.is_empty() {
        url.push('#');
        url.push_str(wanted);
    }
    if !directory.is_empty() {
        url.push(':');
        url.push_str(directory);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, sub_path: Option<&str>, expected: Result<&str, &str>) {
        let git = GitOptions::default();
        let found = translate(text, sub_path.map(Path::new), &git, &GitAccess::default());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.name.to_str(), Some(expected), "{text}"),
            (Err(error), Err(word)) => assert!(error.message.contains(word), "{error}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn contexts_are_translated() {
        for (text, sub_path, expected) in [
            ("/workspace/", None, Ok("/workspace/")),
            ("dir:///workspace", None, Ok("/workspace")),
            ("dir://src", Some("a"), Ok("./src/a")),
            ("dir:///src", Some("/a/b"), Ok("/src/a/b")),
            ("-", None, Ok("./-")),
            ("tar:///x.tar.gz", None, Ok("/x.tar.gz")),
            ("tar://stdin", None, Ok("-")),
            ("tar://x.tar", Some("a"), Err("no directories")),
            ("git://a.io/b/c", None, Ok("https://a.io/b/c")),
            ("git://a.io/b/c.git#refs/heads/x", None, Ok("https://a.io/b/c.git#refs/heads/x")),
            ("git://a.io/b/c.git#refs/heads/x#0123", Some("d/e/"), Ok("https://a.io/b/c.git#0123:d/e")),
            ("git://a.io/b/c.git", Some("d"), Ok("https://a.io/b/c.git#:d")),
            ("https://a.io/b.git#x", None, Ok("https://a.io/b.git#x")),
            ("https://a.io/b.tar.gz?c=d", None, Ok("https://a.io/b.tar.gz?c=d")),
            ("gs://bucket/x.tar.gz", None, Err("`gs://` is not read")),
            ("s3://bucket/x.tar.gz", None, Err("`s3://` is not read")),
            ("ftp://a.io/x", None, Err("no kind of context")),
            ("dir://", None, Err("has no name")),
        ] {
            check(text, sub_path, expected);
        }
    }

    #[test]
    fn a_branch_comes_after_a_commit_and_before_a_reference() {
        let git = GitOptions { branch: Some("main".to_owned()), submodules: false };
        for (text, expected) in [
            ("git://a.io/b.git", "https://a.io/b.git#main"),
            ("git://a.io/b.git#refs/heads/x", "https://a.io/b.git#main"),
            ("git://a.io/b.git#refs/heads/x#0123", "https://a.io/b.git#0123"),
        ] {
            let found = translate(text, None, &git, &GitAccess::default()).unwrap();
            assert_eq!(found.name.to_str(), Some(expected));
        }
    }

    #[test]
    fn credentials_come_from_the_environment() {
        let access = |variables: &[(&str, &str)]| {
            GitAccess::from_variables(&|name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        for (variables, text, expected) in [
            (
                &[("GIT_TOKEN", "a@b"), ("GIT_USERNAME", "x")][..],
                "git://a.io/b.git",
                "https://a%40b:@a.io/b.git",
            ),
            (
                &[("GIT_USERNAME", "u"), ("GIT_PASSWORD", "p/w")],
                "git://a.io/b.git",
                "https://u:p%2Fw@a.io/b.git",
            ),
            (&[("GIT_PULL_METHOD", "http")], "git://a.io/b.git", "http://a.io/b.git"),
            (&[("GIT_PULL_METHOD", "ftp")], "git://a.io/b.git", "https://a.io/b.git"),
            (&[("GIT_TOKEN", "t")], "git://u:p@a.io/b.git", "https://u:p@a.io/b.git"),
        ] {
            let found = translate(text, None, &GitOptions::default(), &access(variables)).unwrap();
            assert_eq!(found.name.to_str(), Some(expected), "{variables:?}");
        }
    }

    #[test]
    fn options_of_git_are_known() {
        let options =
            GitOptions::parse("branch=x,single-branch=true,depth=1,recurse-submodules=true").unwrap();
        assert_eq!((options.branch.as_deref(), options.submodules), (Some("x"), true));
        assert!(GitOptions::parse("insecure-skip-tls=false").is_ok());
        for wrong in ["branch", "tag=x", "single-branch=maybe", "insecure-skip-tls=true", "depth=x"] {
            assert!(GitOptions::parse(wrong).is_err(), "{wrong}");
        }
    }
}
