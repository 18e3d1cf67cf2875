//! What a place allows, in full: each sandbox with what is in its way, and the facts behind it.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Capability;
use rustix::fs::StatVfsMountFlags;

use super::Sandbox;
use super::checks::Checks;
use super::choose::{Thoroughness, attempt};
use super::ids::in_user_namespace;
use super::obstacle::{Obstacle, errno_name};
use super::place::{Place, Range};
use crate::chroot::Confinement;
use crate::network::{self, NetworkError};
use crate::process::cgroup_version;
use crate::spec::plan::CgroupVersion;

/// What a place allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// All sandboxes, the strongest first.
    pub rungs: Vec<Rung>,
    /// What the place is like, as names and values.
    pub facts: Vec<Fact>,
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {
    /// Which.
    pub sandbox: Sandbox,
    /// What is in its way; nothing if it can be had.
    pub obstacles: Vec<Obstacle>,
}

/// Something that is so in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// A short name, with words joined by `-`.
    pub name: &'static str,
    /// How it is.
    pub value: String,
}

/// Tries every sandbox and looks around, without a lasting effect. The store is, or would be, at `store`; what is looked
/// at is how things are in `used`, or in the strongest sandbox there is. Only while the process has one thread.
pub fn examine(store: &Path, used: Option<Sandbox>) -> Report {
    let place = Place::look();
    let mut rungs = Vec::new();
    let mut checked = None;
    for sandbox in Sandbox::ALL {
        let obstacles = match attempt(sandbox, &place, Thoroughness::All) {
            Err(obstacles) => obstacles,
            Ok(namespace) => {
                if checked.is_none() && used.is_none_or(|used| used == sandbox) {
                    let checks = match sandbox {
                        Sandbox::Chroot => None,
                        _ => Checks::run(namespace, &place, store),
                    };
                    checked = Some((sandbox, checks));
                }
                Vec::new()
            }
        };
        rungs.push(Rung { sandbox, obstacles });
    }
    Report { rungs, facts: facts(&place, store, checked) }
}

fn facts(place: &Place, store: &Path, checked: Option<(Sandbox, Option<Checks>)>) -> Vec<Fact> {
    let pasta = pasta();
    let mut facts = Vec::new();
    let mut fact = |name, value: String| facts.push(Fact { name, value });
    fact("kernel", rustix::system::uname().release().to_string_lossy().into_owned());
    let user = place.user.as_deref().unwrap_or("no entry in /etc/passwd");
    fact("user", format!("uid {}, gid {} ({user})", place.uid, place.gid));
    fact("uid-map", map(&place.uid_map));
    fact("gid-map", map(&place.gid_map));
    let namespace =
        if in_user_namespace() { "not the machine's first one" } else { "the machine's first one" };
    fact("user-namespace", namespace.to_owned());
    fact("capabilities", format!("effective {:016x}, bounding {:016x}", place.effective.0, place.bounding.0));
    fact("no-new-privileges", if place.no_new_privileges { "set" } else { "not set" }.to_owned());
    fact("seccomp", if place.filtered { "a filter is on this process" } else { "no filter" }.to_owned());
    let profile = read_attribute("/proc/self/attr/apparmor/current");
    fact("apparmor", profile.unwrap_or_else(|| "none".to_owned()));
    fact("cgroup", cgroup());
    if let Some((sandbox, checks)) = checked {
        let (procfs, sysfs, network, stacking) = match (sandbox, checks) {
            (Sandbox::Chroot, _) => (
                "none".to_owned(),
                "none".to_owned(),
                "the host's".to_owned(),
                "copies of the files".to_owned(),
            ),
            (_, Some(checks)) => {
                let own = |result: Result<(), i32>| match result {
                    Ok(()) => "the step's own".to_owned(),
                    Err(errno) => {
                        format!("this place's, read-only (mount() of an own one gives {})", errno_name(errno))
                    }
                };
                // Root of the machine needs no pasta, unless it may not set up networks.
                let is_wired = sandbox == Sandbox::Root && place.effective.contains(Capability::NetAdmin);
                let network = match (checks.network, &pasta) {
                    (Ok(()), Err(why)) if !is_wired => {
                        format!("the host's, unless it is `none`: nothing leads out of a namespace ({why})")
                    }
                    (Ok(()), _) => "namespaces can be made".to_owned(),
                    (Err(errno), _) => {
                        format!("the host's (unshare(CLONE_NEWNET) gives {})", errno_name(errno))
                    }
                };
                let stacking = match checks.overlay {
                    Ok(()) => "overlayfs".to_owned(),
                    Err(errno) => {
                        format!("copies of the files (an overlay there gives {})", errno_name(errno))
                    }
                };
                (own(checks.procfs), own(checks.sysfs), network, stacking)
            }
            (_, None) => {
                let unknown = "it could not be found out".to_owned();
                (unknown.clone(), unknown.clone(), unknown.clone(), unknown)
            }
        };
        fact("procfs", procfs);
        fact("sysfs", sysfs);
        fact("network", network);
        fact("stacking", stacking);
        if sandbox == Sandbox::Chroot {
            let lacks = Confinement::probe().lacks();
            fact(
                "landlock",
                if lacks.is_empty() { "whole".to_owned() } else { format!("no {}", lacks.join("; no ")) },
            );
        }
    }
    fact("pasta", pasta.unwrap_or_else(|why| why));
    fact("store", store.display().to_string());
    fact("store-file-system", file_system(store));
    facts
}

fn map(ranges: &[Range]) -> String {
    let ranges: Vec<String> =
        ranges.iter().map(|range| format!("{}:{}:{}", range.inside, range.outside, range.count)).collect();
    if ranges.is_empty() { "unknown".to_owned() } else { ranges.join(" ") }
}

/// An attribute of this process; none where there is nothing in it.
fn read_attribute(path: &str) -> Option<String> {
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text).trim_end_matches(['\0', '\n']).to_owned();
    (!text.is_empty()).then_some(text)
}

/// The version of control groups, and whether the own group can have others below it.
fn cgroup() -> String {
    let version = match cgroup_version() {
        CgroupVersion::V2 => "v2",
        CgroupVersion::V1 => "v1",
        CgroupVersion::None => return "not mounted".to_owned(),
    };
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // `ID:CONTROLLERS:PATH`; of version 1 the one that counts is memory.
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        match version {
            "v2" => controllers.is_empty().then(|| PathBuf::from("/sys/fs/cgroup").join(path)),
            _ => controllers
                .split(',')
                .any(|controller| controller == "memory")
                .then(|| PathBuf::from("/sys/fs/cgroup/memory").join(path)),
        }
    });
    let is_writable = path.is_some_and(|path| {
        let access = rustix::fs::accessat(
            rustix::fs::CWD,
            &path,
            rustix::fs::Access::WRITE_OK,
            rustix::fs::AtFlags::EACCESS,
        );
        access.is_ok()
    });
    format!("{version}, {}", if is_writable { "writable" } else { "not writable" })
}

/// Where pasta is, or in words why it is of no use.
fn pasta() -> Result<String, String> {
    match network::look_for_pasta() {
        Ok(path) => Ok(path.display().to_string()),
        Err(NetworkError::NoPasta) => Err("not installed".to_owned()),
        Err(error) => Err(network::causes(&error)),
    }
}

/// The kind of file system that `path` is on, or would be.
fn file_system(path: &Path) -> String {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let Ok(found) = rustix::fs::statfs(existing) else { return "unknown".to_owned() };
    let name = FILE_SYSTEMS.iter().find(|(magic, _)| *magic == found.f_type);
    let name = name.map_or_else(|| format!("{:#x}", found.f_type), |(_, name)| (*name).to_owned());
    let read_only =
        rustix::fs::statvfs(existing).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    format!("{name}{}", if read_only { ", read-only" } else { "" })
}

/// File systems that stores are on.
const FILE_SYSTEMS: [(i64, &str); 12] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0xf2f5_2010, "f2fs"),
    (0x2fc1_2fc1, "zfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlayfs"),
    (0x6969, "nfs"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x7371_7368, "squashfs"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_and_maps_have_words() {
        assert!(file_system(Path::new("/proc/no/such")).starts_with("0x9fa0"));
        assert_eq!(map(&[]), "unknown");
        assert_eq!(map(&[Range { inside: 0, outside: 5, count: 2 }]), "0:5:2");
        assert_eq!(read_attribute("/no/such/attribute"), None);
    }
}
