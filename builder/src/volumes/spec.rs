//! How mounts are written on the command line: `-v`, `--mount` and `--tmpfs`, by Docker's rules.
//!
//! What z and Z ask for is SELinux's: whoever mounts says so where there is SELinux. `cached`, `delegated` and `consistent`
//! mean nothing on Linux, there as here.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use wharf_frontend::dockerfile2llb::parse_size;

use crate::containers::ask::{MountAsk, MountKindAsk};
use crate::csv;
use crate::error::{Failure, Kind};

/// How mounts can be passed on.
const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// What says when the two sides of a mount agree, where that is a question.
const CONSISTENCIES: [&str; 4] = ["consistent", "cached", "delegated", "default"];

/// Keys of `--mount`.
const KEYS: [&str; 20] = [
    "type",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "consistency",
    "bind-propagation",
    "bind-nonrecursive",
    "bind-recursive",
    "bind-create-src",
    "volume-subpath",
    "volume-nocopy",
    "volume-label",
    "volume-driver",
    "volume-opt",
    "tmpfs-size",
    "tmpfs-mode",
];

/// What `-v` says: `[SOURCE:]TARGET[:OPTIONS]`. A source that begins with `.` is relative to `base`.
pub fn parse_volume(text: &str, base: &Path) -> Result<MountAsk, Failure> {
    let bad = |why: String| Failure::new(Kind::Usage, format!("--volume {text}: {why}"));
    let fields: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match fields[..] {
        [target] => (None, target, ""),
        [_, options] if !options.is_empty() && options.split(',').all(is_volume_option) => {
            return Err(bad(format!(
                "`{options}` is no place in the container, which is to follow the first colon"
            )));
        }
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => {
            return Err(bad("it is [SOURCE:]TARGET[:OPTIONS]".to_owned())
                .hint("where a path holds a colon: `--mount type=bind,source=…,target=…`"));
        }
    };
    if fields.len() == 3 && options.is_empty() {
        return Err(bad("nothing follows the last colon".to_owned()));
    }
    let target = target_of(target).map_err(&bad)?;
    let named = VolumeOptions::parse(options).map_err(&bad)?;
    let kind = match source {
        Some("") => return Err(bad("nothing stands before the colon".to_owned())),
        Some(source) if source.starts_with(['/', '.']) => {
            if named.no_copy {
                return Err(bad("`nocopy` is for volumes, and this is a directory of the host".to_owned()));
            }
            MountKindAsk::Bind {
                source: host_path(source, base),
                create: true,
                propagation: named.propagation,
                non_recursive: false,
            }
        }
        name => {
            if let Some(name) = name {
                check_name(name).map_err(|why| {
                    bad(why)
                        .hint("a directory of the host is given by its absolute path, or begins with `./`")
                })?;
            }
            if let Some(propagation) = named.propagation {
                return Err(bad(format!(
                    "`{propagation}` is for directories of the host, and this is a volume"
                )));
            }
            MountKindAsk::Volume {
                name: name.map(str::to_owned),
                subpath: None,
                no_copy: named.no_copy,
                driver: None,
                options: BTreeMap::new(),
                labels: BTreeMap::new(),
            }
        }
    };
    Ok(MountAsk { kind, target, read_only: named.read_only })
}

/// The third field of `-v`.
#[derive(Debug, Default)]
struct VolumeOptions {
    read_only: bool,
    no_copy: bool,
    propagation: Option<String>,
}

impl VolumeOptions {
    fn parse(text: &str) -> Result<Self, String> {
        let mut this = Self::default();
        // Of each kind there is one word.
        let mut seen: Vec<&str> = Vec::new();
        for option in text.split(',').filter(|_| !text.is_empty()) {
            let kind = match option {
                "ro" | "rw" => "ro or rw",
                "z" | "Z" => "z or Z",
                "nocopy" => "nocopy",
                _ if PROPAGATIONS.contains(&option) => "a propagation",
                _ if CONSISTENCIES.contains(&option) => "a consistency",
                "" => return Err("an option is empty".to_owned()),
                _ => {
                    return Err(format!(
                        "there is no option `{option}`; there are ro, rw, z, Z, nocopy, {}",
                        PROPAGATIONS.join(", ")
                    ));
                }
            };
            if seen.contains(&kind) {
                return Err(format!("{kind} is said twice"));
            }
            seen.push(kind);
            match kind {
                "ro or rw" => this.read_only = option == "ro",
                "nocopy" => this.no_copy = true,
                "a propagation" => this.propagation = Some(option.to_owned()),
                _ => {}
            }
        }
        Ok(this)
    }
}

fn is_volume_option(word: &str) -> bool {
    matches!(word, "ro" | "rw" | "z" | "Z" | "nocopy")
        || PROPAGATIONS.contains(&word)
        || CONSISTENCIES.contains(&word)
}

/// What `--mount` says: `type=bind|volume|tmpfs,KEY=VALUE,…`. A source that begins with `.` is relative to `base`.
pub fn parse_mount(text: &str, base: &Path) -> Result<MountAsk, Failure> {
    let bad = |why: String| Failure::new(Kind::Usage, format!("--mount {text}: {why}"));
    let fields = csv::split(text).map_err(|why| bad(why.to_owned()))?;
    let mount = MountFields::read(&fields).map_err(&bad)?;
    mount.decide(base).map_err(bad)
}

/// What the fields of `--mount` say.
#[derive(Debug, Default)]
struct MountFields {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    propagation: Option<String>,
    non_recursive: bool,
    /// `bind-recursive=readonly` needs the mount to be one that cannot be written.
    needs_read_only: bool,
    create: bool,
    subpath: Option<PathBuf>,
    no_copy: bool,
    labels: BTreeMap<String, String>,
    driver: Option<String>,
    options: BTreeMap<String, String>,
    size: Option<u64>,
    mode: Option<u32>,
    /// The first key of each kind of mount that was given.
    particular: BTreeMap<&'static str, String>,
}

impl MountFields {
    fn read(fields: &[String]) -> Result<Self, String> {
        let mut this = Self::default();
        for field in fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value)),
                None => (field.trim().to_ascii_lowercase(), None),
            };
            this.set(&key, value)?;
            for kind in ["bind", "volume", "tmpfs"] {
                if key.strip_prefix(kind).is_some_and(|rest| rest.starts_with('-')) {
                    this.particular.entry(kind).or_insert_with(|| key.clone());
                }
            }
        }
        Ok(this)
    }

    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        let flag = || {
            csv::boolean(value.unwrap_or_default())
                .ok_or_else(|| format!("`{key}` is true or false, and not `{}`", value.unwrap_or_default()))
        };
        // What stands without a value is true.
        match key {
            "readonly" | "ro" => self.read_only = flag()?,
            "bind-nonrecursive" => self.non_recursive = flag()?,
            "bind-create-src" => self.create = flag()?,
            "volume-nocopy" => self.no_copy = flag()?,
            _ => {
                let Some(value) = value else {
                    return Err(match KEYS.contains(&key) {
                        true => format!("`{key}` needs a value: {key}=…"),
                        false => unknown_key(key),
                    });
                };
                self.set_value(key, value)?;
            }
        }
        Ok(())
    }

    fn set_value(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "type" => self.kind = Some(value.to_ascii_lowercase()),
            "source" | "src" => self.source = Some(value.to_owned()),
            "target" | "dst" | "destination" => self.target = Some(value.to_owned()),
            "consistency" if CONSISTENCIES.contains(&value) => {}
            "consistency" => {
                return Err(format!(
                    "there is no consistency `{value}`; there are {}",
                    CONSISTENCIES.join(", ")
                ));
            }
            "bind-propagation" if PROPAGATIONS.contains(&value) => self.propagation = Some(value.to_owned()),
            "bind-propagation" => {
                return Err(format!(
                    "there is no propagation `{value}`; there are {}",
                    PROPAGATIONS.join(", ")
                ));
            }
            "bind-recursive" => match value {
                "enabled" | "writable" => self.non_recursive = false,
                "disabled" => self.non_recursive = true,
                "readonly" => self.needs_read_only = true,
                _ => {
                    return Err(format!(
                        "`bind-recursive` is enabled, disabled, writable or readonly, and not `{value}`"
                    ));
                }
            },
            "volume-subpath" => self.subpath = Some(subpath(value)?),
            "volume-driver" => self.driver = Some(value.to_owned()),
            "volume-label" => insert(&mut self.labels, value),
            "volume-opt" => insert(&mut self.options, value),
            "tmpfs-size" => {
                let size = memory_size(value);
                self.size = Some(size.ok_or_else(|| format!("`{value}` is no size, as 64m or 1g is"))?);
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
                self.mode = Some(mode.ok_or_else(|| format!("`{value}` is no mode, as 1777 is"))?);
            }
            _ => return Err(unknown_key(key)),
        }
        Ok(())
    }

    fn decide(self, base: &Path) -> Result<MountAsk, String> {
        let kind = self.kind.as_deref().unwrap_or("volume");
        if !["bind", "volume", "tmpfs"].contains(&kind) {
            return Err(format!("there is no mount of type `{kind}` here; there are bind, volume and tmpfs"));
        }
        if let Some((_, key)) = self.particular.iter().find(|(of, _)| **of != kind) {
            return Err(format!("`{key}` is not for mounts of type {kind}"));
        }
        let target = self.target.as_deref().ok_or("`target=` is missing")?;
        let target = target_of(target)?;
        let source = self.source.filter(|source| !source.is_empty());
        if self.needs_read_only && !self.read_only {
            return Err("`bind-recursive=readonly` goes with `readonly`".to_owned());
        }
        let kind = match (kind, source) {
            ("bind", None) => return Err("`source=` is missing".to_owned()),
            ("bind", Some(source)) => {
                if !source.starts_with(['/', '.']) {
                    return Err(format!("the source `{source}` is neither absolute nor begins with `./`"));
                }
                MountKindAsk::Bind {
                    source: host_path(&source, base),
                    create: self.create,
                    propagation: self.propagation,
                    non_recursive: self.non_recursive,
                }
            }
            ("tmpfs", Some(_)) => return Err("memory has no `source=`".to_owned()),
            ("tmpfs", None) => MountKindAsk::Tmpfs { size: self.size, mode: self.mode, options: Vec::new() },
            (_, name) => {
                if let Some(name) = &name {
                    check_name(name)?;
                }
                MountKindAsk::Volume {
                    name,
                    subpath: self.subpath,
                    no_copy: self.no_copy,
                    driver: self.driver,
                    options: self.options,
                    labels: self.labels,
                }
            }
        };
        Ok(MountAsk { kind, target, read_only: self.read_only })
    }
}

fn unknown_key(key: &str) -> String {
    if key == "image-subpath" {
        return "there are no mounts of type image here".to_owned();
    }
    format!("there is no key `{key}`; there are {}", KEYS.join(", "))
}

/// What `--tmpfs` says: `TARGET[:OPTIONS]`, with the options of mount(8).
pub fn parse_tmpfs(text: &str) -> Result<MountAsk, Failure> {
    let bad = |why: String| Failure::new(Kind::Usage, format!("--tmpfs {text}: {why}"));
    let (target, given) = text.split_once(':').unwrap_or((text, ""));
    let target = target_of(target).map_err(&bad)?;
    let (mut size, mut mode, mut options, mut read_only) = (None, None, Vec::new(), false);
    for option in given.split(',').filter(|_| !given.is_empty()) {
        match option.split_once('=') {
            // A share of the memory is the kernel's to count.
            Some(("size", value)) if value.ends_with('%') => options.push(option.to_owned()),
            Some(("size", value)) => {
                let bytes = memory_size(value);
                size = Some(bytes.ok_or_else(|| bad(format!("`{value}` is no size, as 64m or 1g is")))?);
            }
            Some(("mode", value)) => {
                let bits = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
                mode = Some(bits.ok_or_else(|| bad(format!("`{value}` is no mode, as 1777 is")))?);
            }
            Some(("uid" | "gid" | "nr_inodes" | "nr_blocks" | "mpol" | "huge", value))
                if !value.is_empty() =>
            {
                options.push(option.to_owned());
            }
            None if option == "ro" => read_only = true,
            None if option == "rw" => read_only = false,
            None if TMPFS_FLAGS.contains(&option) || PROPAGATIONS.contains(&option) => {
                options.push(option.to_owned());
            }
            _ => {
                return Err(bad(format!("there is no option `{option}` of a memory file system"))
                    .hint("there are size=, mode=, uid=, gid=, nr_inodes=, ro, rw, exec, noexec and others of mount(8)"));
            }
        }
    }
    Ok(MountAsk { kind: MountKindAsk::Tmpfs { size, mode, options }, target, read_only })
}

/// Flags that a memory file system may have.
const TMPFS_FLAGS: [&str; 22] = [
    "defaults",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "async",
    "sync",
    "dirsync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "mand",
    "nomand",
    "bind",
    "rbind",
];

/// A place in a container: absolute, without `.`, `..` and further slashes, and not its root.
pub fn target_of(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("it says no place in the container".to_owned());
    }
    if !text.starts_with('/') {
        return Err(format!("`{text}` is to be a place in the container, and is not absolute"));
    }
    if text.contains('\0') {
        return Err("a path holds a NUL byte".to_owned());
    }
    let target = cleaned(Path::new(text));
    if target == Path::new("/") {
        return Err("nothing can be mounted over the root of a container".to_owned());
    }
    Ok(target)
}

/// A path of the host, absolute and clean.
fn host_path(source: &str, base: &Path) -> PathBuf {
    cleaned(&base.join(source))
}

/// An absolute path without `.`, `..` and further slashes, as its words say: links are not looked at.
fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// Bytes that the name of a volume has at most: it is the name of a directory.
pub const NAME_BYTES_MAX: usize = 255;

/// Checks that a volume may have this name: at least two of `a-zA-Z0-9_.-`, the first a letter or digit.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("a volume's name has at most {NAME_BYTES_MAX} bytes"));
    }
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_known) && name.len() > 1 {
        return Ok(());
    }
    Err(format!(
        "`{name}` is no name of a volume: two or more of a-zA-Z0-9_.-, the first one a letter or digit"
    ))
}

/// A directory of a volume: relative, and never upwards.
fn subpath(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if text.is_empty() || path.is_absolute() || text.contains('\0') {
        return Err(format!("`volume-subpath={text}` is no path below the volume"));
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(format!("`volume-subpath={text}` leads out of the volume"));
    }
    Ok(path.components().filter(|component| matches!(component, Component::Normal(_))).collect())
}

/// `KEY=VALUE`, or `KEY` alone with an empty value.
fn insert(map: &mut BTreeMap<String, String>, text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    map.insert(key.to_owned(), value.to_owned());
}

/// Bytes of memory as Docker reads them: units are powers of 1024, with or without `b` or `ib`.
pub fn memory_size(text: &str) -> Option<u64> {
    parse_size(text.trim())
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
