//! Which hierarchies of control groups there are, and where in them this process is.

use std::path::{Path, PathBuf};

use super::Controller;

/// The interface of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// A hierarchy that is mounted where this process can see its own group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// The controllers of a v1 hierarchy; those of the v2 one differ from group to group.
    pub(super) controllers: Vec<Controller>,
    /// The highest group that can be seen.
    pub(super) top: PathBuf,
    /// This process's group.
    pub(super) own: PathBuf,
}

/// The hierarchies, from `/proc/self/cgroup` and `/proc/self/mountinfo`.
pub(super) fn parse(groups: &str, mounts: &str) -> Vec<Hierarchy> {
    let mounts: Vec<Mount> = mounts.lines().filter_map(parse_mount).collect();
    let mut found = Vec::new();
    for (names, path) in groups.lines().filter_map(parse_group) {
        let version = if names.is_empty() { Version::V2 } else { Version::V1 };
        let is_it = |mount: &&Mount| match version {
            Version::V2 => mount.filesystem == "cgroup2",
            Version::V1 => {
                mount.filesystem == "cgroup"
                    && names.split(',').all(|name| mount.options.split(',').any(|option| option == name))
            }
        };
        // A later mount may lie over an earlier one.
        let mounts = mounts.iter().rev().filter(is_it);
        let mut seen = mounts.filter_map(|mount| {
            let below = Path::new(path).strip_prefix(&mount.root).ok()?;
            // A group above the root of the control group namespace.
            let is_above = below.components().any(|part| part.as_os_str() == "..");
            (!is_above).then(|| (mount.point.clone(), mount.point.join(below).components().collect()))
        });
        if let Some((top, own)) = seen.next() {
            let has = |controller: &Controller| names.split(',').any(|name| name == controller.name());
            let controllers = Controller::ALL.into_iter().filter(has).collect();
            found.push(Hierarchy { version, controllers, top, own });
        }
    }
    found
}

/// The controllers (none for v2) and the path of a line `4:cpu,cpuacct:/a`.
fn parse_group(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(':')?;
    rest.split_once(':')
}

/// A mounted file system.
struct Mount {
    /// Which part of it is mounted.
    root: PathBuf,
    point: PathBuf,
    filesystem: String,
    /// The options of the file system as a whole.
    options: String,
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (place, filesystem) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?, place.next()?);
    let mut filesystem = filesystem.split(' ');
    let (kind, options) = (filesystem.next()?, filesystem.nth(1)?);
    Some(Mount {
        root: unescape(root).into(),
        point: unescape(point).into(),
        filesystem: kind.to_owned(),
        options: options.to_owned(),
    })
}

/// The kernel writes blanks and backslashes as `\` and three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(groups: &str, mounts: &str, expected: &[(Version, &[Controller], &str, &str)]) {
        let found = parse(groups, mounts);
        let found: Vec<_> = found
            .iter()
            .map(|it| (it.version, &*it.controllers, it.top.to_str().unwrap(), it.own.to_str().unwrap()))
            .collect();
        assert_eq!(found, expected);
    }

    use Controller::{Cpu, CpuTime, Cpuset, Memory, Pids};

    #[test]
    fn v1_has_a_hierarchy_for_some_controllers_each() {
        check(
            "9:name=systemd:/\n8:pids:/\n4:memory:/job/1\n3:cpuset:/\n2:cpu,cpuacct:/x y\n0::/\n",
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n\
             35 31 0:32 /job /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
             39 31 0:36 / /sys/fs/cg\\040roup/pids rw,relatime - cgroup cgroup rw,pids\n",
            &[
                (Version::V1, &[Pids], "/sys/fs/cg roup/pids", "/sys/fs/cg roup/pids"),
                (Version::V1, &[Memory], "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/1"),
                (Version::V1, &[Cpuset], "/sys/fs/cgroup/cpuset", "/sys/fs/cgroup/cpuset"),
                (
                    Version::V1,
                    &[Cpu, CpuTime],
                    "/sys/fs/cgroup/cpu,cpuacct",
                    "/sys/fs/cgroup/cpu,cpuacct/x y",
                ),
            ],
        );
    }

    #[test]
    fn v2_has_one() {
        let mount = "30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let own = "/sys/fs/cgroup/user.slice/a.scope";
        check("0::/user.slice/a.scope\n", mount, &[(Version::V2, &[], "/sys/fs/cgroup", own)]);
        // The host's mount, seen from a namespace of control groups that is rooted lower.
        let mount = "30 23 0:26 /../.. /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
        check("0::/\n", mount, &[]);
        check("0::/../x\n", "30 23 0:26 / /cg ro - cgroup2 cgroup2 rw\n", &[]);
        check("0::/\n", "", &[]);
        check("nonsense\n::\n", "nonsense\n - \n", &[]);
    }
}
