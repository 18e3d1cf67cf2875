//! Device nodes: those of a container, and those that this machine has.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType, LinuxResources};

use super::plan::{Host, Mount, MountKind, absolute, unsupported};
use crate::RuntimeError;

/// One device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) path: PathBuf,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`, with the permissions.
    pub(crate) mode: u32,
    pub(crate) device: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whether the spec names it, so that it may not be missing.
    pub(crate) is_asked: bool,
}

/// The most device nodes.
const DEVICES_MAX: usize = 256;
const DEVICES_MAX_MADE: usize = 8192;

/// The device at `path` of this machine, as an entry of a spec's `linux.devices` that is at `target` in the container.
pub fn host_device(path: &Path, target: &Path) -> io::Result<LinuxDevice> {
    let metadata = fs::metadata(path)?;
    let kind = metadata.file_type();
    let kind = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => LinuxDeviceType::C,
        (_, true) => LinuxDeviceType::B,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is not a device")),
    };
    let number = metadata.rdev();
    LinuxDeviceBuilder::default()
        .path(target)
        .typ(kind)
        .major(i64::from(libc::major(number)))
        .minor(i64::from(libc::minor(number)))
        .file_mode(metadata.mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .map_err(io::Error::other)
}

/// All devices in this machine's `/dev`, for a privileged container: without terminals and what else a container has of its
/// own.
pub fn host_devices() -> io::Result<Vec<LinuxDevice>> {
    let own = [
        "/dev/pts",
        "/dev/shm",
        "/dev/fd",
        "/dev/mqueue",
        "/dev/console",
        "/dev/ptmx",
        "/dev/.lxc",
        "/dev/.udev",
    ];
    let (mut found, mut directories) = (Vec::new(), vec![PathBuf::from("/dev")]);
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            // It was removed meanwhile, or is none of ours.
            Err(_) if !found.is_empty() => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if own.iter().any(|own| path == Path::new(own)) {
                continue;
            }
            if kind.is_dir() {
                directories.push(path);
            } else if (kind.is_char_device() || kind.is_block_device())
                && let Ok(device) = host_device(&path, &path)
            {
                found.push(device);
            }
        }
    }
    found.sort_by(|one, other| one.path().cmp(other.path()));
    Ok(found)
}

/// The place in `/dev` that the kernel has for a device.
pub(crate) fn place_of(device: &Device) -> Option<PathBuf> {
    let kind = if device.mode & libc::S_IFMT == libc::S_IFBLK { "block" } else { "char" };
    let (major, minor) = (libc::major(device.device), libc::minor(device.device));
    let text = fs::read_to_string(format!("/sys/dev/{kind}/{major}:{minor}/uevent")).ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(Path::new("/dev").join(name))
}

/// Whether the rules end in one that allows everything, as for a privileged container.
pub(super) fn allows_all(resources: Option<&LinuxResources>) -> bool {
    let rules = resources.and_then(|resources| resources.devices().as_ref());
    rules.and_then(|rules| rules.last()).is_some_and(|rule| {
        let everything = matches!(rule.typ(), None | Some(LinuxDeviceType::A));
        let any = |number: Option<i64>| number.is_none_or(|number| number < 0);
        rule.allow() && everything && any(rule.major()) && any(rule.minor())
    })
}

/// What is to be in a new `/dev`.
pub(super) fn plan(
    linux: &Linux,
    mounts: &[Mount],
    host: &Host,
    all_devices: bool,
) -> Result<Option<Vec<Device>>, RuntimeError> {
    let asked = linux.devices().as_deref().unwrap_or_default();
    let new_dev = mounts
        .iter()
        .any(|mount| mount.target == Path::new("/dev") && matches!(mount.kind, MountKind::New { .. }));
    if !new_dev {
        return if asked.is_empty() { Ok(None) } else { Err(unsupported("devices without a new /dev")) };
    }
    let mut devices: Vec<Device> = DEFAULT_DEVICES
        .iter()
        .map(|&(path, major, minor)| Device {
            path: PathBuf::from(path),
            mode: libc::S_IFCHR | 0o666,
            device: libc::makedev(major, minor),
            uid: 0,
            gid: 0,
            is_asked: false,
        })
        .collect();
    for device in asked {
        let path = absolute(device.path());
        if path.parent().is_none_or(|parent| !parent.starts_with("/dev")) {
            return Err(unsupported(format!("the device `{}` outside /dev", path.display())));
        }
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::P => libc::S_IFIFO,
            LinuxDeviceType::A => {
                return Err(unsupported(format!("the type of the device `{}`", path.display())));
            }
        };
        let number = |number: i64| {
            u32::try_from(number)
                .map_err(|_| unsupported(format!("the number of the device `{}`", path.display())))
        };
        let node = Device {
            mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
            device: libc::makedev(number(device.major())?, number(device.minor())?),
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
            is_asked: true,
            path,
        };
        devices.retain(|known| known.path != node.path);
        devices.push(node);
    }
    // Each costs a descriptor unless it is made where it stays.
    let most = if all_devices && host.user_namespace.is_none() { DEVICES_MAX_MADE } else { DEVICES_MAX };
    if devices.len() > most {
        return Err(unsupported(format!("more than {most} devices")));
    }
    Ok(Some(devices))
}

const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_devices_are_found() {
        let null = host_device(Path::new("/dev/null"), Path::new("/dev/nothing")).unwrap();
        assert_eq!((null.path().to_str(), null.major(), null.minor()), (Some("/dev/nothing"), 1, 3));
        assert!(host_device(Path::new("/dev"), Path::new("/dev")).is_err());
        let all = host_devices().unwrap();
        assert!(all.iter().any(|device| device.path() == Path::new("/dev/null")), "{all:?}");
        assert!(!all.iter().any(|device| device.path().starts_with("/dev/pts")), "{all:?}");
    }
}
