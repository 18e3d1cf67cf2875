//! What the command line, the environment and the configuration say of registries.
//!
//! ```toml
//! [registry."docker.io"]
//! mirrors = ["mirror.example/hub"]   # asked first, in this order
//! only-mirrors = true                # and never the registry itself
//!
//! [registry."registry.example:5000"]
//! ca = ["ca.pem"]                    # trusted beside the machine's authorities
//! keypair = [{ cert = "me.pem", key = "me.key" }]
//! chunk-size = "50MB"                # no request of an upload is larger
//!
//! [registry."old.example"]
//! http = true                        # no TLS; or
//! insecure = true                    # TLS without a look at the certificate
//!
//! [transfers]
//! connect-timeout = "20s"
//! read-timeout = "60s"               # of silence
//! retries = 2
//! retry-time = "5m"                  # what was tried for so long is not tried again
//! ```

use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::config::Config;
use super::{size, variable};
use crate::error::{Failure, Kind};
use crate::registry::credentials::registry_of;
use crate::registry::{Credentials, Mirror, Reference, RegistryOptions, Rules};

/// Flags of commands that ask registries.
#[derive(Debug, Args)]
pub(super) struct RegistryArgs {
    /// Name and password for the registry of the image; `HOST=USER:PASSWORD` for another one
    #[arg(long, value_name = "[HOST=]USER:PASSWORD")]
    creds: Vec<String>,
    /// Speak plain HTTP to this registry (`host[:port]`); loopback needs no asking
    #[arg(long, value_name = "HOST")]
    insecure_registry: Vec<String>,
}

impl RegistryArgs {
    /// How registries are talked to by a command that was given these names.
    pub(super) fn options(&self, config: &Config, named: &[Reference]) -> Result<RegistryOptions, Failure> {
        self.insecure_registry.iter().try_for_each(|host| require_host(host))?;
        options(config, credentials(&self.creds, named)?, self.insecure_registry.clone())
    }
}

/// How registries are talked to.
pub(super) fn options(
    config: &Config,
    credentials: Credentials,
    insecure: Vec<String>,
) -> Result<RegistryOptions, Failure> {
    let rules = rules(config)?;
    Ok(RegistryOptions { insecure, credentials, rules, ..RegistryOptions::default() })
}

/// What the configuration says, and the places where Docker and Podman have certificates.
pub(super) fn rules(config: &Config) -> Result<Rules, Failure> {
    let users = config_home().map(|dir| [dir.join("containers/certs.d"), dir.join("docker/certs.d")]);
    let machines = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
    let certificate_dirs = users.into_iter().flatten().chain(machines).collect();
    Ok(Rules { certificate_dirs, ..config.rules()? })
}

/// The credentials of `--creds`, which are for the registries of `named` where they say no other, and those of files.
pub(super) fn credentials(texts: &[String], named: &[Reference]) -> Result<Credentials, Failure> {
    let mut credentials = Credentials::of_files(credential_files());
    for text in texts {
        let (host, pair) = split_host(text);
        // The password is not repeated in an error.
        let no_pair = || Failure::new(Kind::Usage, "--creds is not [HOST=]USER:PASSWORD");
        let (username, password) =
            pair.split_once(':').filter(|(name, _)| !name.is_empty()).ok_or_else(no_pair)?;
        match host {
            Some(host) => credentials.give(&host, username, password),
            None if named.is_empty() => {
                return Err(Failure::new(Kind::Usage, "--creds does not say which registry it is for")
                    .hint("`--creds HOST=USER:PASSWORD` names it"));
            }
            None => named.iter().for_each(|name| credentials.give(name.registry(), username, password)),
        }
    }
    Ok(credentials)
}

/// `HOST=USER:PASSWORD`, or all of it where what comes before the first `=` is no host, or what comes after it no pair.
fn split_host(text: &str) -> (Option<String>, &str) {
    let split = text.split_once('=').and_then(|(host, pair)| {
        let is_port = |port: &str| port.parse::<u16>().is_ok();
        let is_host = host.rsplit_once(':').is_none_or(|(_, port)| is_port(port) || port.ends_with(']'));
        let host = registry_of(host).filter(|_| is_host && pair.contains(':'))?;
        Some((Some(host), pair))
    });
    split.unwrap_or((None, text))
}

/// The files that credentials are looked for in: what variables name, else the usual places.
pub(super) fn credential_files() -> Vec<PathBuf> {
    let named: Vec<PathBuf> = [
        variable("REGISTRY_AUTH_FILE").map(PathBuf::from),
        variable("DOCKER_CONFIG").map(|dir| PathBuf::from(dir).join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !named.is_empty() {
        return named;
    }
    let dockers = variable("HOME").map(|home| PathBuf::from(home).join(".docker/config.json"));
    let runtime = variable("XDG_RUNTIME_DIR").map_or_else(
        || PathBuf::from(format!("/run/containers/{}", rustix::process::getuid().as_raw())),
        |dir| PathBuf::from(dir).join("containers"),
    );
    let users = config_home().map(|dir| dir.join("containers/auth.json"));
    let usual = [dockers, Some(runtime.join("auth.json")), users].into_iter().flatten();
    // HOME may be another user's, who lets nobody in.
    let is_closed = |path: &PathBuf| {
        fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    usual.filter(|path| !is_closed(path)).collect()
}

fn config_home() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(variable("HOME")?).join(".config"));
    variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home)
}

/// What the configuration says of one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct HostSettings {
    mirrors: Vec<String>,
    only_mirrors: bool,
    http: bool,
    insecure: bool,
    ca: OneOrMore,
    keypair: Vec<Keypair>,
    chunk_size: Option<String>,
}

/// What the configuration says of all transfers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct TransferSettings {
    connect_timeout: Option<String>,
    read_timeout: Option<String>,
    retries: Option<u16>,
    retry_time: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keypair {
    cert: PathBuf,
    key: PathBuf,
}

impl HostSettings {
    /// Refuses what cannot be meant.
    pub(super) fn check(&self) -> Result<(), String> {
        self.parse_mirrors()?;
        self.chunk_bytes()?;
        if self.only_mirrors && self.mirrors.is_empty() {
            return Err("only-mirrors needs mirrors".to_owned());
        }
        let has_certificates = self.insecure || !self.authorities().is_empty() || !self.keypair.is_empty();
        if self.http && has_certificates {
            return Err("http = true is plain HTTP, which has no certificates".to_owned());
        }
        if self.keypair.len() > 1 {
            return Err("keypair has one certificate with its key".to_owned());
        }
        Ok(())
    }

    /// Adds it to `rules`; paths start from `dir`.
    pub(super) fn add_to(&self, rules: &mut Rules, host: &str, dir: &Path) -> Result<(), Failure> {
        let wrong = |reason| Failure::new(Kind::Usage, format!("registry.\"{host}\": {reason}"));
        let read = |path: &PathBuf| {
            let path = dir.join(path);
            fs::read(&path).map_err(|error| {
                let doing =
                    format!("cannot read `{}`, which the configuration names for {host}", path.display());
                Failure::from_error(Kind::Usage, &doing, &error)
            })
        };
        if self.http {
            rules.plain.add(host.to_owned());
        }
        if self.insecure {
            rules.unverified.add(host.to_owned());
        }
        if self.only_mirrors {
            rules.only_mirrors.add(host.to_owned());
        }
        let mirrors = self.parse_mirrors().map_err(wrong)?;
        if !mirrors.is_empty() {
            rules.mirrors.insert(host.to_owned(), mirrors);
        }
        if let Some(bytes) = self.chunk_bytes().map_err(wrong)? {
            rules.chunk_bytes.insert(host.to_owned(), bytes);
        }
        for path in self.authorities() {
            let bundle = rules.authorities.entry(host.to_owned()).or_default();
            bundle.extend(read(path)?);
            bundle.push(b'\n');
        }
        if let Some(Keypair { cert, key }) = self.keypair.first() {
            let mut identity = read(cert)?;
            identity.push(b'\n');
            identity.extend(read(key)?);
            rules.identities.insert(host.to_owned(), identity);
        }
        Ok(())
    }

    fn authorities(&self) -> &[PathBuf] {
        match &self.ca {
            OneOrMore::One(path) => std::slice::from_ref(path),
            OneOrMore::More(paths) => paths,
        }
    }

    fn parse_mirrors(&self) -> Result<Vec<Mirror>, String> {
        self.mirrors.iter().map(|text| text.parse().map_err(|error| format!("mirrors: {error}"))).collect()
    }

    fn chunk_bytes(&self) -> Result<Option<u64>, String> {
        let Some(text) = &self.chunk_size else { return Ok(None) };
        match size::parse(text.trim()) {
            Some(bytes @ 1..) => Ok(Some(bytes)),
            _ => Err(format!("chunk-size `{text}` is no size: `5MB`, `50MiB` are")),
        }
    }
}

impl TransferSettings {
    /// Refuses what is no time.
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, text) in [
            ("connect-timeout", &self.connect_timeout),
            ("read-timeout", &self.read_timeout),
            ("retry-time", &self.retry_time),
        ] {
            if let Some(text) = text
                && duration(text).is_none()
            {
                return Err(format!("transfers: {name} `{text}` is no time: `500ms`, `20s`, `5m`, `1h` are"));
            }
        }
        Ok(())
    }

    /// These, and where they say nothing those of `base`.
    pub(super) fn or(self, base: Self) -> Self {
        Self {
            connect_timeout: self.connect_timeout.or(base.connect_timeout),
            read_timeout: self.read_timeout.or(base.read_timeout),
            retries: self.retries.or(base.retries),
            retry_time: self.retry_time.or(base.retry_time),
        }
    }

    pub(super) fn add_to(&self, rules: &mut Rules) {
        let time = |text: &Option<String>| text.as_deref().and_then(duration);
        rules.connect_timeout = time(&self.connect_timeout);
        rules.read_timeout = time(&self.read_timeout);
        rules.retry_time_max = time(&self.retry_time);
        rules.retries = self.retries.map(u32::from);
    }
}

/// `500ms`, `20s`, `5m`, `1h`; not nothing.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit.trim_start() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let time_ms = number.parse::<u64>().ok()?.checked_mul(unit_ms)?;
    (time_ms > 0).then(|| Duration::from_millis(time_ms))
}

/// `host[:port]`, as image names have it.
pub(super) fn require_host(text: &str) -> Result<(), Failure> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    if is_host && port.is_none_or(is_port) {
        return Ok(());
    }
    Err(Failure::new(Kind::Usage, format!("--insecure-registry `{text}` is no HOST[:PORT]"))
        .hint("as in the names of images: `registry.example:5000`, without scheme and path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_may_name_their_registry() {
        for (text, host, pair) in [
            ("me:x", None, "me:x"),
            ("me:x=y", None, "me:x=y"),
            ("me:1=y", None, "me:1=y"),
            ("a.io=me:x", Some("a.io"), "me:x"),
            ("a.io:5000=me:x=y", Some("a.io:5000"), "me:x=y"),
            ("localhost=me:x", Some("localhost"), "me:x"),
            ("a.io=x", None, "a.io=x"),
        ] {
            let (found, rest) = split_host(text);
            assert_eq!((found.as_deref(), rest), (host, pair), "{text}");
        }
        let error = credentials(&["secret".to_owned()], &[]).unwrap_err();
        assert!(!error.message.contains("secret"), "{error}");
        assert!(credentials(&["me:x".to_owned()], &[]).is_err());
    }

    #[test]
    fn times_have_a_unit() {
        for (text, ms) in
            [("1ms", Some(1)), (" 2 s", Some(2000)), ("5m", Some(300_000)), ("1h", Some(3_600_000))]
        {
            assert_eq!(duration(text), ms.map(Duration::from_millis), "{text}");
        }
        for text in ["", "1", "s", "-1s", "1.5s", "0s", "18446744073709551615h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
