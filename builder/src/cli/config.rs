//! The configuration: TOML from `--config`, `$WHARF_CONFIG`, or the user's and the machine's places for it.
//!
//! ```toml
//! sandbox = "rootless"  # what `--sandbox` takes
//! qemu = "/opt/qemu"    # the directory of `qemu-aarch64-static` and its like, if it is not in PATH
//!
//! [store]
//! max-size = "50GB"   # or "40%" of the file system, or a number of bytes
//! ```
//!
//! and what [`registries`](super::registries) reads.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wharf_runtime::Sandbox;

use super::registries::{HostSettings, TransferSettings};
use super::{size, variable};
use crate::error::{Failure, Kind};
use crate::registry::Rules;
use crate::registry::credentials::registry_of;

/// Where the machine's configuration is.
const MACHINE: &str = "/etc/wharf/config.toml";

/// What a store may take where nobody says: so much, and no more than this part of its file system.
const SIZE_BYTES_DEFAULT: u64 = 100_000_000_000;
const PERCENT_DEFAULT: u64 = 60;

/// A configuration is read up to this size.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Config {
    /// What steps are confined with.
    pub(super) sandbox: Option<Sandbox>,
    /// Where QEMU is.
    pub(super) qemu: Option<PathBuf>,
    max_size: Option<MaxSize>,
    /// What is said of registries, by host, with the directory that paths start from.
    registries: BTreeMap<String, (HostSettings, PathBuf)>,
    transfers: TransferSettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MaxSize {
    Bytes(u64),
    /// Of the file system that the store is on.
    Percent(u64),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    sandbox: Option<String>,
    qemu: Option<PathBuf>,
    store: Store,
    registry: BTreeMap<String, HostSettings>,
    transfers: TransferSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Store {
    max_size: Option<Size>,
}

/// A number of bytes, or a text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

impl Config {
    /// Reads the file that was named, else the one of `WHARF_CONFIG`, else the user's, completed by the machine's.
    pub(super) fn load(named: Option<&Path>) -> Result<Self, Failure> {
        let from_environment = variable("WHARF_CONFIG").map(PathBuf::from);
        if let Some(path) = named.or(from_environment.as_deref()) {
            return Self::read(path)?.ok_or_else(|| {
                Failure::new(Kind::Usage, format!("there is no configuration file `{}`", path.display()))
                    .hint("it was named by `--config` or the variable WHARF_CONFIG")
            });
        }
        let home = || Some(PathBuf::from(variable("HOME")?).join(".config"));
        let users = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
        // HOME may be another user's, who lets nobody in.
        let is_closed = |path: &PathBuf| {
            fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        let users = users.map(|dir| dir.join("wharf/config.toml")).filter(|path| !is_closed(path));
        let mut config = Self::default();
        for path in [users, Some(PathBuf::from(MACHINE))] {
            if let Some(found) = path.map(|path| Self::read(&path)).transpose()?.flatten() {
                config.sandbox = config.sandbox.or(found.sandbox);
                config.qemu = config.qemu.or(found.qemu);
                config.max_size = config.max_size.or(found.max_size);
                for (host, settings) in found.registries {
                    config.registries.entry(host).or_insert(settings);
                }
                config.transfers = config.transfers.or(found.transfers);
            }
        }
        Ok(config)
    }

    fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let cannot_read = |error: &io::Error| {
            let doing = format!("cannot read the configuration `{}`", path.display());
            Failure::from_error(Kind::Usage, &doing, error)
        };
        let text = match fs::metadata(path) {
            Ok(found) if !found.is_file() => Err(io::Error::other("it is not a file")),
            Ok(found) if found.len() > FILE_BYTES_MAX => Err(io::Error::other("it is too large")),
            Ok(_) => fs::read_to_string(path),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => Err(error),
        };
        let text = text.map_err(|error| cannot_read(&error))?;
        let dir = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, dir).map(Some).map_err(|reason| {
            Failure::new(
                Kind::Usage,
                format!("the configuration `{}` makes no sense: {reason}", path.display()),
            )
            .hint("it has `[store]` with `max-size = \"50GB\"` or `\"40%\"`, and above that `sandbox = \"NAME\"` and `qemu = \"DIR\"`; \
                 `[registry.\"HOST\"]` and `[transfers]` are in the guide")
        })
    }

    /// What it says of registries. Certificates are read now.
    pub(super) fn rules(&self) -> Result<Rules, Failure> {
        let mut rules = Rules::default();
        for (host, (settings, dir)) in &self.registries {
            settings.add_to(&mut rules, host, dir)?;
        }
        self.transfers.add_to(&mut rules);
        Ok(rules)
    }

    fn parse(text: &str, dir: &Path) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let max_size = file.store.max_size.map(|size| match &size {
            Size::Bytes(bytes) => Ok(MaxSize::Bytes(*bytes)),
            Size::Text(text) => MaxSize::parse(text),
        });
        let sandbox = file.sandbox.map(|name| name.parse::<Sandbox>()).transpose();
        let sandbox = sandbox.map_err(|error| error.to_string())?;
        let mut registries = BTreeMap::new();
        for (text, settings) in file.registry {
            let host = registry_of(&text).ok_or_else(|| format!("registry.\"{text}\" is no HOST[:PORT]"))?;
            settings.check().map_err(|reason| format!("registry.\"{text}\": {reason}"))?;
            registries.insert(host, (settings, dir.to_owned()));
        }
        let transfers = file.transfers;
        transfers.check()?;
        let qemu = file.qemu.map(|place| dir.join(place));
        Ok(Self { sandbox, qemu, max_size: max_size.transpose()?, registries, transfers })
    }

    /// What the store at `root` may take, in bytes.
    pub(super) fn store_bytes_max(&self, root: &Path) -> Result<u64, Failure> {
        let part = |percent: u64| {
            let file_system = rustix::fs::statvfs(root).map_err(|errno| {
                let doing = format!("cannot tell how large the file system of `{}` is", root.display());
                Failure::from_error(Kind::Environment, &doing, &io::Error::from(errno))
            })?;
            // First divided: the product may have more than 64 bits.
            Ok(file_system.f_blocks.saturating_mul(file_system.f_frsize) / 100 * percent)
        };
        match self.max_size {
            Some(MaxSize::Bytes(bytes)) => Ok(bytes),
            Some(MaxSize::Percent(percent)) => part(percent),
            None => Ok(part(PERCENT_DEFAULT)?.min(SIZE_BYTES_DEFAULT)),
        }
    }
}

impl MaxSize {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.trim().strip_suffix('%') {
            return match percent.trim().parse() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                _ => Err(format!("max-size `{text}`: a part of the file system is 1% to 100%")),
            };
        }
        let no_size = || format!("max-size `{text}` is no size: `500MB`, `50GB`, `40%` are");
        size::parse(text.trim()).map(Self::Bytes).ok_or_else(no_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<Option<MaxSize>, &str>) {
        match (Config::parse(text, Path::new("/")), expected) {
            (Ok(config), Ok(max_size)) => assert_eq!(config.max_size, max_size, "{text}"),
            (Err(error), Err(word)) => assert!(error.contains(word), "{error}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn a_configuration_is_read_strictly() {
        check("", Ok(None));
        check("[store]\n", Ok(None));
        check("# nothing\n[store]\nmax-size = 1000\n", Ok(Some(MaxSize::Bytes(1000))));
        check("[store]\nmax-size = '2g'\n", Ok(Some(MaxSize::Bytes(2_000_000_000))));
        check("store.max-size = '1.5 MB'\n", Ok(Some(MaxSize::Bytes(1_500_000))));
        check("[store]\nmax-size = '40%'\n", Ok(Some(MaxSize::Percent(40))));
        for percent in ["0%", "101%", "-1%", "x%", "%"] {
            check(&format!("[store]\nmax-size = '{percent}'\n"), Err("1% to 100%"));
        }
        for size in ["", "many", "-1", "1 x", "99999999999g"] {
            check(&format!("[store]\nmax-size = '{size}'\n"), Err("is no size"));
        }
        check("[store]\nmax-size = -1\n", Err("max-size"));
        check("[store]\nmax_size = 1\n", Err("max_size"));
        check("[cache]\n", Err("cache"));
        check("[store\n", Err("line 1"));
        check("[registry.'a.io']\nmirrors = ['b.io/x']\nchunk-size = '5MB'\nca = ['a', 'b']\n", Ok(None));
        check("[registry.'a.io']\nca = 'x'\nkeypair = [{cert = 'a', key = 'b'}]\n", Ok(None));
        check("[registry.a]\n", Err("is no HOST"));
        check("[registry.'a.io']\nmirrors = ['https://b.io']\n", Err("is no HOST[:PORT][/PREFIX]"));
        check("[registry.'a.io']\nkeypair = [{cert = 'a'}]\n", Err("key"));
        check("[registry.'a.io']\nchunk-size = 'x'\n", Err("is no size"));
        check("[registry.'a.io']\nplain = true\n", Err("plain"));
        check("[registry.'a.io']\nhttp = true\ninsecure = true\n", Err("no certificates"));
        check("[registry.'a.io']\nonly-mirrors = true\n", Err("mirrors"));
        check("[transfers]\nconnect-timeout = '500ms'\nread-timeout = '2m'\nretries = 4\n", Ok(None));
        check("[transfers]\nretry-time = 'soon'\n", Err("is no time"));
        check("[transfers]\nread-timeout = '0s'\n", Err("is no time"));
        check("sandbox = 'docker'\n", Err("`docker` is no sandbox"));
        check("sandbox = 'chroot'\n[store]\n", Ok(None));
        assert_eq!(
            Config::parse("sandbox = 'rootless'", Path::new("/")).unwrap().sandbox,
            Some(Sandbox::Rootless)
        );
    }
}
