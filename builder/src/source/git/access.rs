//! How git gets into a repository: tokens, headers, SSH. None of it is in arguments, logs, keys or the store.

use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::location::{Location, Scheme};
use super::{GitError, GitSource};
use crate::source::SecretLookup;
use crate::ssh::{Agent, Serving};

/// What a build has to get into repositories with.
#[derive(Clone)]
pub struct Access {
    /// Secrets by id.
    pub secrets: SecretLookup,
    /// The agent that SSH asks.
    pub ssh_agent: Option<Arc<Agent>>,
    /// The user's home: keys of servers are in `.ssh/known_hosts` there.
    pub home: Option<PathBuf>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("ssh_agent", &self.ssh_agent)
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

impl Default for Access {
    /// Nothing.
    fn default() -> Self {
        Self { secrets: Arc::new(|_| Ok(None)), ssh_agent: None, home: None }
    }
}

/// What one repository is asked with.
#[derive(Default)]
pub(super) struct Credentials {
    /// Configuration, handed over in the environment.
    pub(super) config: Vec<(String, String)>,
    /// Further variables.
    pub(super) env: Vec<(&'static str, String)>,
    /// What must not be seen in any output.
    pub(super) secrets: Vec<String>,
    /// The directory of the agent's socket, and who answers there, as long as somebody may ask.
    _agent: Option<(File, Serving)>,
}

impl Access {
    /// What to ask `location` with. It may be a submodule of the source's own repository; a secret without a host in its
    /// name is for that repository's server alone.
    /// Files that are needed for it go into `scratch`.
    pub(super) fn credentials(
        &self,
        source: &GitSource,
        location: &Location,
        scratch: &Path,
    ) -> Result<Credentials, GitError> {
        match location.scheme {
            Scheme::Git => Ok(Credentials::default()),
            Scheme::Http | Scheme::Https => self.header(source, location),
            Scheme::Ssh => self.ssh(source, scratch),
        }
    }

    fn header(&self, source: &GitSource, location: &Location) -> Result<Credentials, GitError> {
        let Some(value) = self.authorization(source, location)? else { return Ok(Credentials::default()) };
        let scheme = if location.scheme == Scheme::Http { "http" } else { "https" };
        let mut secrets = vec![value.clone()];
        secrets.extend(value.split_once(' ').map(|(_, token)| token.to_owned()));
        Ok(Credentials {
            config: vec![
                (
                    format!("http.{scheme}://{}/.extraHeader", location.host),
                    format!("Authorization: {value}"),
                ),
                // Git sends the header wherever a server redirects to.
                ("http.followRedirects".to_owned(), "false".to_owned()),
            ],
            secrets,
            ..Credentials::default()
        })
    }

    /// The value of the header, if there is something to say: what the address itself says, then secrets, those for
    /// this server first.
    fn authorization(&self, source: &GitSource, location: &Location) -> Result<Option<String>, GitError> {
        if let Some(credentials) = &location.credentials {
            return Ok(Some(format!("Basic {}", base64(credentials.as_bytes()))));
        }
        let own = |name: &Option<String>| name.as_ref().map(|name| format!("{name}.{}", location.host));
        let any = |name: &Option<String>| name.clone().filter(|_| source.location.trusts(location));
        let (header, token) = (&source.header_secret, &source.token_secret);
        let names = [(own(header), false), (own(token), true), (any(header), false), (any(token), true)];
        for (name, is_token) in names {
            let Some(name) = name else { continue };
            let failed = |source| GitError::Secret { name: name.clone(), source };
            let Some(value) = (self.secrets)(&name).map_err(failed)? else { continue };
            let text = String::from_utf8(value).map_err(|_| failed("it is not text".into()))?;
            // Files end in a newline.
            let text = text.trim_end_matches(['\r', '\n']);
            if text.chars().any(char::is_control) {
                return Err(failed("it has more than one line".into()));
            }
            let basic = || format!("Basic {}", base64(format!("x-access-token:{text}").as_bytes()));
            return Ok(Some(if is_token { basic() } else { text.to_owned() }));
        }
        Ok(None)
    }

    /// SSH without the user's configuration and keys: those of the agent, if one was given. A server is held to the key
    /// that the source or the user's `known_hosts` has for it; the key of any other is taken and not written down.
    fn ssh(&self, source: &GitSource, scratch: &Path) -> Result<Credentials, GitError> {
        let mut options = vec![
            "BatchMode=yes".to_owned(),
            "IdentityFile=none".to_owned(),
            "ControlPath=none".to_owned(),
            "GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts".to_owned(),
        ];
        match &source.known_hosts {
            Some(keys) => {
                let path = scratch.join("known_hosts");
                std::fs::write(&path, keys).map_err(|error| GitError::io("write", &path, error))?;
                options.push("StrictHostKeyChecking=yes".to_owned());
                options.push(format!("UserKnownHostsFile=\"{}\"", path.display()));
            }
            None => {
                // A key that is new is written to the first of the files.
                let mut files = "\"/dev/null\"".to_owned();
                let home =
                    self.home.as_ref().and_then(|home| home.to_str()).filter(|home| !home.contains('"'));
                if let Some(home) = home {
                    files.push_str(&format!(" \"{home}/.ssh/known_hosts\""));
                }
                options.push("StrictHostKeyChecking=accept-new".to_owned());
                options.push(format!("UserKnownHostsFile={files}"));
            }
        }
        let mut env = Vec::new();
        let mut serving = None;
        match &self.ssh_agent {
            Some(agent) => {
                let (socket, directory, served) = serve(agent, scratch)?;
                env.push(("SSH_AUTH_SOCK", socket));
                serving = Some((directory, served));
            }
            None => options.push("IdentityAgent=none".to_owned()),
        }
        let options: Vec<_> = options.iter().map(|option| format!(" -o {}", quoted(option))).collect();
        env.push(("GIT_SSH_COMMAND", format!("ssh -F /dev/null{}", options.concat())));
        env.push(("GIT_SSH_VARIANT", "ssh".to_owned()));
        Ok(Credentials { env, _agent: serving, ..Credentials::default() })
    }
}

/// Opens a socket for the agent. One that was opened before has its place in a directory of its own.
fn serve(agent: &Arc<Agent>, scratch: &Path) -> Result<(String, File, Serving), GitError> {
    let failed = |error| GitError::io("serve the SSH agent in", scratch, error);
    let number = std::fs::read_dir(scratch).map_err(failed)?.count();
    let directory = scratch.join(format!("agent{number}"));
    std::fs::create_dir(&directory).map_err(failed)?;
    let opened = File::open(&directory).map_err(failed)?;
    // The paths of sockets are short, that of the store need not be.
    let path = format!("/proc/{}/fd/{}/agent", std::process::id(), opened.as_raw_fd());
    let serving = agent.serve(Path::new(&path)).map_err(failed)?;
    Ok((path, opened, serving))
}

/// A word of a shell command.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_standard_one() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("u:p", "dTpw"),
            ("\u{ff}\u{fe}>", "w7/Dvj4="),
        ] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    /// The header that `url`, a source or a submodule of one at `https://h/r`, is asked with.
    #[track_caller]
    fn check(url: &str, secrets: &'static [(&str, &str)], expected: Result<Option<&str>, &str>) {
        let source = GitSource::parse("https://h/r").unwrap();
        let lookup = move |id: &str| {
            Ok(secrets.iter().find(|(name, _)| *name == id).map(|(_, value)| value.as_bytes().to_vec()))
        };
        let access = Access { secrets: Arc::new(lookup), ..Access::default() };
        let found = access.authorization(&source, &Location::parse(url).unwrap());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected, "{url}"),
            (Err(error), Err(words)) => assert!(crate::error::causes(&error).contains(words), "{error:?}"),
            (found, _) => panic!("{url}: {found:?}"),
        }
    }

    #[test]
    fn a_secret_goes_to_its_server_alone() {
        const TOKEN: &[(&str, &str)] = &[("GIT_AUTH_TOKEN", "t\n")];
        const BASIC: &str = "Basic eC1hY2Nlc3MtdG9rZW46dA==";
        check("https://h/r", &[], Ok(None));
        check("https://h/r", TOKEN, Ok(Some(BASIC)));
        check("https://h/other", TOKEN, Ok(Some(BASIC)));
        check("https://k/r", TOKEN, Ok(None));
        check("http://h/r", TOKEN, Ok(None));
        check("https://h:444/r", TOKEN, Ok(None));
        check("https://k/r", &[("GIT_AUTH_TOKEN.k", "t")], Ok(Some(BASIC)));
        check("https://h/r", &[("GIT_AUTH_TOKEN", "x"), ("GIT_AUTH_TOKEN.h", "t")], Ok(Some(BASIC)));
        check(
            "https://h/r",
            &[("GIT_AUTH_TOKEN.h", "x"), ("GIT_AUTH_HEADER.h", "Bearer t")],
            Ok(Some("Bearer t")),
        );
        check("https://h/r", &[("GIT_AUTH_HEADER", "a\nb: c")], Err("more than one line"));
        check("https://u:p@k/r", &[("GIT_AUTH_TOKEN.k", "t")], Ok(Some("Basic dTpw")));
    }
}
