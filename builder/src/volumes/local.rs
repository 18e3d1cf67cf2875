//! The options of volumes that are more than a directory: what mount(8) would be told.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};
use wharf_cache::snapshot::explain_mount;

/// Options of mount(8) that say what may be done with the files: to set and to clear.
const ATTRIBUTES: [(&str, MountAttrFlags, bool); 15] = [
    ("ro", MountAttrFlags::MOUNT_ATTR_RDONLY, true),
    ("rw", MountAttrFlags::MOUNT_ATTR_RDONLY, false),
    ("nosuid", MountAttrFlags::MOUNT_ATTR_NOSUID, true),
    ("suid", MountAttrFlags::MOUNT_ATTR_NOSUID, false),
    ("nodev", MountAttrFlags::MOUNT_ATTR_NODEV, true),
    ("dev", MountAttrFlags::MOUNT_ATTR_NODEV, false),
    ("noexec", MountAttrFlags::MOUNT_ATTR_NOEXEC, true),
    ("exec", MountAttrFlags::MOUNT_ATTR_NOEXEC, false),
    ("noatime", MountAttrFlags::MOUNT_ATTR_NOATIME, true),
    ("atime", MountAttrFlags::MOUNT_ATTR_NOATIME, false),
    ("strictatime", MountAttrFlags::MOUNT_ATTR_STRICTATIME, true),
    ("nostrictatime", MountAttrFlags::MOUNT_ATTR_STRICTATIME, false),
    ("nodiratime", MountAttrFlags::MOUNT_ATTR_NODIRATIME, true),
    ("diratime", MountAttrFlags::MOUNT_ATTR_NODIRATIME, false),
    ("relatime", MountAttrFlags::MOUNT_ATTR_NOATIME, false),
];

/// Options that say what is so anyway.
const NO_OPTIONS: [&str; 9] =
    ["defaults", "async", "auto", "_netdev", "nomand", "norelatime", "private", "rprivate", "nofail"];

/// Refuses options that the driver `local` has not.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<(), String> {
    for key in options.keys() {
        if !["type", "device", "o"].contains(&key.as_str()) {
            return Err(format!("the driver `local` has no option `{key}`; it has type, device and o"));
        }
    }
    let has = |key: &str| options.contains_key(key);
    for (given, needed) in [("device", "type"), ("type", "device"), ("o", "type")] {
        if has(given) && !has(needed) {
            return Err(format!("with the option `{given}` goes `{needed}`"));
        }
    }
    Ok(())
}

/// What `o=` of a volume, or the options of a tmpfs, say: attributes, whether a directory is bound and with the mounts below it,
/// and what only the file system knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    attributes: MountAttrFlagsOr,
    bind: Option<bool>,
    data: Vec<(String, Option<String>)>,
}

/// Attributes that begin as none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MountAttrFlagsOr(MountAttrFlags);

impl Default for MountAttrFlagsOr {
    fn default() -> Self {
        Self(MountAttrFlags::empty())
    }
}

impl Options {
    pub(super) fn parse<'o>(options: impl IntoIterator<Item = &'o str>) -> Self {
        let mut parsed = Self::default();
        for option in options.into_iter().filter(|option| !option.is_empty()) {
            if let Some((_, flag, set)) = ATTRIBUTES.iter().find(|(name, ..)| *name == option) {
                parsed.attributes.0.set(*flag, *set);
            } else if option == "bind" || option == "rbind" {
                parsed.bind = Some(option == "rbind");
            } else if !NO_OPTIONS.contains(&option) {
                let (key, value) = match option.split_once('=') {
                    Some((key, value)) => (key, Some(value.to_owned())),
                    None => (option, None),
                };
                parsed.data.push((key.to_owned(), value));
            }
        }
        parsed
    }

    /// Attributes that hold unless the options say otherwise.
    pub(super) fn with_defaults(mut self, defaults: MountAttrFlags, said: &[String]) -> Self {
        for (name, flag, set) in ATTRIBUTES {
            if set && defaults.contains(flag) && !said.iter().any(|option| option == &name[2..]) {
                self.attributes.0.insert(flag);
            }
        }
        self
    }

    pub(super) fn add(&mut self, key: &str, value: String) {
        self.data.push((key.to_owned(), Some(value)));
    }
}

/// Mounts what a volume's options say, nowhere. Returns the root, and whether it is not to be written; `None` for a volume that
/// is only a directory.
pub(super) fn mount(options: &BTreeMap<String, String>) -> io::Result<Option<(OwnedFd, bool)>> {
    let Some(kind) = options.get("type") else { return Ok(None) };
    let device = options.get("device").map_or("", String::as_str);
    let mut parsed = Options::parse(options.get("o").map_or("", String::as_str).split(','));
    let read_only = parsed.attributes.0.contains(MountAttrFlags::MOUNT_ATTR_RDONLY);
    if let Some(recursive) = parsed.bind {
        parsed.attributes.0.remove(MountAttrFlags::MOUNT_ATTR_RDONLY);
        if !parsed.attributes.0.is_empty() {
            let message =
                "a directory of the host that is a volume can be read-only, and has no other options";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        return Ok(Some((bind(Path::new(device), recursive)?, read_only)));
    }
    if kind.starts_with("nfs") || kind == "cifs" {
        resolve_address(&mut parsed)?;
    }
    Ok(Some((new(kind, device, &parsed)?, read_only)))
}

/// A directory of the host, as a mount of its own.
fn bind(source: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let found = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("{error}: `{}`", source.display()))
    })?;
    open(&found, recursive)
}

/// A copy of what is mounted at `found`.
pub(super) fn open(found: &OwnedFd, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    Ok(open_tree(found, "", flags)?)
}

/// A new file system, mounted nowhere.
pub(super) fn new(kind: &str, source: &str, options: &Options) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| {
        let error = io::Error::from(errno);
        match errno {
            rustix::io::Errno::NODEV => {
                io::Error::new(io::ErrorKind::Unsupported, format!("this kernel has no file system `{kind}`"))
            }
            _ => error,
        }
    })?;
    let make = || -> io::Result<OwnedFd> {
        fsconfig_set_string(&context, "source", source)?;
        for (key, value) in &options.data {
            match value {
                Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()),
                None => fsconfig_set_flag(&context, key.as_str()),
            }
            .map_err(|errno| {
                let error = io::Error::from(errno);
                io::Error::new(error.kind(), format!("the option `{key}`: {error}"))
            })?;
        }
        if options.attributes.0.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) && kind != "tmpfs" {
            fsconfig_set_flag(&context, "ro")?;
        }
        fsconfig_create(&context)?;
        // A tmpfs that cannot be written would have no mount points for what lies in it.
        let mut attributes = options.attributes.0;
        attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, false);
        Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    };
    make().map_err(|error| explain_mount(&context, error))
}

/// NFS wants the address of its server as a number, and people write names.
fn resolve_address(options: &mut Options) -> io::Result<()> {
    for (key, value) in &mut options.data {
        let Some(name) = value.as_mut().filter(|_| key == "addr") else { continue };
        if name.parse::<IpAddr>().is_err() {
            let found = (name.as_str(), 0).to_socket_addrs()?.next();
            let found = found.ok_or_else(|| io::Error::other(format!("`{name}` has no address")))?;
            *name = found.ip().to_string();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked_when_a_volume_is_made() {
        for (given, word) in [
            ("", ""),
            ("type=tmpfs device=tmpfs o=size=1m", ""),
            ("type=nfs device=:/x o=addr=1.2.3.4", ""),
            ("size=3", "no option `size`"),
            ("device=/x", "goes `type`"),
            ("type=nfs", "goes `device`"),
            ("o=ro", "goes `type`"),
        ] {
            let options = given.split_whitespace().filter_map(|it| it.split_once('='));
            let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            let told = check(&options).err().unwrap_or_default();
            assert!(if word.is_empty() { told.is_empty() } else { told.contains(word) }, "{given}: {told}");
        }
    }

    #[test]
    fn attributes_are_told_from_what_the_file_system_is_told() {
        let options = Options::parse("rw,nosuid,size=5m,soft,defaults,exec,noexec,ro".split(','));
        let expected = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_RDONLY;
        assert_eq!(options.attributes.0, expected);
        assert_eq!(options.data, [("size".to_owned(), Some("5m".to_owned())), ("soft".to_owned(), None)]);
        let all = MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_NOSUID;
        let exec = Options::parse(["exec"]).with_defaults(all, &["exec".to_owned()]);
        assert_eq!(exec.attributes.0, MountAttrFlags::MOUNT_ATTR_NOSUID);
    }
}
