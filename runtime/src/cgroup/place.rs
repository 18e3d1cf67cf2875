//! Where the groups of steps can be made.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, FlockOperation, access, flock};

use super::hierarchy::{self, Hierarchy, Version};
use super::{Controller, Effort, PREFIX};

/// A group that groups with limits can be made in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) version: Version,
    /// Those that limit below it.
    pub(super) controllers: Vec<Controller>,
}

/// Why no groups can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoGroups {
    /// No hierarchy has the controller, or none can be seen.
    #[error("{}", if *mounted {
        format!("no control group file system with the controller `{controller}` is mounted")
    } else {
        "no control group file system is mounted".to_owned()
    })]
    NotMounted {
        /// What is missing.
        controller: &'static str,
        /// Whether there is any hierarchy at all.
        mounted: bool,
    },
    /// Groups below that one cannot have the controller.
    #[error("the control group `{}` gives the groups below it no controller `{controller}`", path.display())]
    NoController {
        /// Which group.
        path: PathBuf,
        /// What is missing.
        controller: &'static str,
    },
    /// Groups cannot be made there.
    #[error("no control group can be made in `{}`", path.display())]
    NotWritable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Under v2 a group has processes of its own, or groups with limits below it.
    #[error("the control group `{}` has other processes in it, and so can have no groups with limits below it", path.display())]
    Populated {
        /// Which group.
        path: PathBuf,
    },
    /// Steps in a group beside this one would escape limits.
    #[error("the control group `{}` has limits of its own, which steps in a group outside of it would escape", path.display())]
    Limited {
        /// Which group.
        path: PathBuf,
    },
    /// `/proc` does not say.
    #[error("cannot read `{path}`")]
    Unknown {
        /// What.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The parent is no path from the top.
    #[error(
        "`{parent}` is no path of a control group: want one from the top of the hierarchy such as /ci/builds, or the name of a slice"
    )]
    Parent {
        /// As it was given.
        parent: String,
    },
}

impl NoGroups {
    /// What to do.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotMounted { .. } => {
                "limits that hold for wharf itself hold for its steps: set them for its container or pod; or give that \
                 one a writable /sys/fs/cgroup"
            }
            Self::NoController { .. }
            | Self::NotWritable { .. }
            | Self::Populated { .. }
            | Self::Limited { .. } => {
                "give wharf a control group of its own: `systemd-run --scope -p Delegate=yes wharf build …` (with \
                 `--user` for an ordinary user), or name one by --cgroup-parent; limits that hold for wharf itself \
                 hold for its steps as well"
            }
            Self::Unknown { .. } => "mount /proc",
            Self::Parent { .. } => return None,
        })
    }
}

/// The places for groups with all of `controllers`.
pub(super) fn find(
    controllers: &[Controller],
    parent: Option<&str>,
    effort: Effort,
) -> Result<Vec<Place>, NoGroups> {
    let read = |path| fs::read_to_string(path).map_err(|source| NoGroups::Unknown { path, source });
    let hierarchies = hierarchy::parse(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?);
    let parent = parent.map(parent_path).transpose()?;
    find_in(&hierarchies, controllers, parent.as_deref(), effort)
}

fn find_in(
    hierarchies: &[Hierarchy],
    controllers: &[Controller],
    parent: Option<&Path>,
    effort: Effort,
) -> Result<Vec<Place>, NoGroups> {
    // Controllers that share a hierarchy share the group.
    let mut wanted: BTreeMap<usize, Vec<Controller>> = BTreeMap::new();
    for controller in controllers {
        let v1 = hierarchies.iter().position(|it| it.controllers.contains(controller));
        let v2 = hierarchies.iter().position(|it| it.version == Version::V2 && has(&it.top, *controller));
        // What every v2 group has is better there: what is frozen can be killed.
        let found = if controller.name_in_v2().is_none() { v2.or(v1) } else { v1.or(v2) };
        let index = found.ok_or_else(|| NoGroups::NotMounted {
            controller: controller.name(),
            mounted: !hierarchies.is_empty(),
        })?;
        wanted.entry(index).or_default().push(*controller);
    }
    let mut places = Vec::new();
    for (index, controllers) in wanted {
        let hierarchy = &hierarchies[index];
        let path = match (parent, hierarchy.version) {
            (Some(parent), version) => asked(hierarchy, parent, version, &controllers)?,
            (None, Version::V1) => {
                writable(&hierarchy.own)?;
                hierarchy.own.clone()
            }
            (None, Version::V2) => near(hierarchy, &controllers, effort)?,
        };
        places.push(Place { path, version: hierarchy.version, controllers });
    }
    Ok(places)
}

/// The group that was asked for by name, made where it is missing.
fn asked(
    hierarchy: &Hierarchy,
    parent: &Path,
    version: Version,
    controllers: &[Controller],
) -> Result<PathBuf, NoGroups> {
    let mut path = hierarchy.top.clone();
    for part in parent.components() {
        if version == Version::V2 {
            enable(&path, controllers)?;
        }
        path.push(part);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(NoGroups::NotWritable { path: parent_of(&path), source: error });
            }
            Ok(()) if version == Version::V1 => inherit_cpuset(&path, controllers),
            _ => {}
        }
    }
    if version == Version::V2 {
        enable(&path, controllers)?;
    }
    writable(&path)?;
    Ok(path)
}

/// A new v1 group has neither processors nor memory nodes: it gets those of the group above. Where that fails, so does
/// entering a group below, with the kernel's word for it.
fn inherit_cpuset(path: &Path, controllers: &[Controller]) {
    if controllers.contains(&Controller::Cpuset) {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let above = fs::read(parent_of(path).join(file)).unwrap_or_default();
            let _ = fs::write(path.join(file), above);
        }
    }
}

/// The nearest group upwards from this process's own in which groups can be limited, so that as much as possible of what
/// holds for this process holds for them.
fn near(hierarchy: &Hierarchy, controllers: &[Controller], effort: Effort) -> Result<PathBuf, NoGroups> {
    let own = &hierarchy.own;
    let mut reason = match in_own(own, controllers, effort) {
        Ok(()) => return Ok(own.clone()),
        Err(reason) => reason,
    };
    let above = own.ancestors().zip(own.ancestors().skip(1));
    for (left, group) in above.take_while(|(_, group)| group.starts_with(&hierarchy.top)) {
        if is_limited(left) {
            return Err(NoGroups::Limited { path: left.to_owned() });
        }
        // What others have made is not changed, but for the group of all, which anybody may who can.
        let is_root = !group.join("cgroup.type").exists();
        let enabled = match effort {
            Effort::Lasting if is_root => enable(group, controllers),
            _ => enabled(group, controllers),
        };
        match enabled.and_then(|()| writable(group)) {
            Ok(()) => return Ok(group.to_owned()),
            // The nearest group's reason is what can be changed best, unless there is no making groups at all.
            Err(error) => {
                if matches!(reason, NoGroups::NoController { .. }) {
                    reason = error;
                }
            }
        }
    }
    Err(reason)
}

/// Sees to it that groups with limits can be made in this process's own group.
fn in_own(own: &Path, controllers: &[Controller], effort: Effort) -> Result<(), NoGroups> {
    writable(own)?;
    if let Some(missing) = controllers.iter().find(|controller| !has(own, **controller)) {
        return Err(NoGroups::NoController { path: own.to_owned(), controller: missing.name() });
    }
    let refused = match (enabled(own, controllers), effort) {
        (Err(_), Effort::Lasting) => match enable(own, controllers) {
            Err(refused) => refused,
            done => return done,
        },
        (enabled, _) => return enabled,
    };
    let is_alone = fs::read_to_string(own.join("cgroup.procs"))
        .is_ok_and(|processes| processes.trim() == std::process::id().to_string());
    if !is_alone {
        return Err(refused);
    }
    // The group can have no process of its own then, not even this one.
    let leaf = own.join("wharf");
    let moved = fs::create_dir(&leaf)
        .or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
        .and_then(|()| fs::write(leaf.join("cgroup.procs"), "0"));
    moved.map_err(|source| NoGroups::NotWritable { path: own.to_owned(), source })?;
    enable(own, controllers)
}

/// Whether groups can be made in `group` and processes moved there.
fn writable(group: &Path) -> Result<(), NoGroups> {
    for path in [group.to_owned(), group.join("cgroup.procs")] {
        access(&path, Access::WRITE_OK)
            .map_err(|error| NoGroups::NotWritable { path: group.to_owned(), source: error.into() })?;
    }
    Ok(())
}

/// Whether the v2 group `group` has a controller.
fn has(group: &Path, controller: Controller) -> bool {
    lists(&group.join("cgroup.controllers"), controller)
}

/// Whether a file lists a controller, or need not.
fn lists(file: &Path, controller: Controller) -> bool {
    let Some(wanted) = controller.name_in_v2() else { return true };
    let names = fs::read_to_string(file).unwrap_or_default();
    names.split_ascii_whitespace().any(|name| name == wanted)
}

/// Whether the groups below the v2 group `group` have the controllers.
fn enabled(group: &Path, controllers: &[Controller]) -> Result<(), NoGroups> {
    match controllers.iter().find(|controller| !lists(&group.join("cgroup.subtree_control"), **controller)) {
        Some(missing) => Err(NoGroups::NoController { path: group.to_owned(), controller: missing.name() }),
        None => Ok(()),
    }
}

/// Gives the groups below the v2 group `group` the controllers.
fn enable(group: &Path, controllers: &[Controller]) -> Result<(), NoGroups> {
    let control = group.join("cgroup.subtree_control");
    for controller in controllers.iter().filter(|controller| !lists(&control, **controller)) {
        let name = controller.name_in_v2().unwrap_or_default();
        fs::write(&control, format!("+{name}")).map_err(|source| match source.kind() {
            io::ErrorKind::ResourceBusy => NoGroups::Populated { path: group.to_owned() },
            io::ErrorKind::NotFound => {
                NoGroups::NoController { path: group.to_owned(), controller: controller.name() }
            }
            _ => NoGroups::NotWritable { path: group.to_owned(), source },
        })?;
    }
    Ok(())
}

/// Whether the v2 group `group` has limits itself.
fn is_limited(group: &Path) -> bool {
    let amounts = ["memory.max", "memory.high", "memory.swap.max", "pids.max", "cpu.max"];
    // Empty where nothing was said.
    let lists = ["cpuset.cpus", "cpuset.mems", "io.max"];
    let read = |file: &&str| fs::read_to_string(group.join(file)).ok();
    amounts.iter().filter_map(read).any(|limit| !limit.trim_start().starts_with("max"))
        || lists.iter().filter_map(read).any(|list| !list.trim().is_empty())
}

fn parent_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

/// A path from the top of a hierarchy. A slice `a-b.slice` of systemd's is at `a.slice/a-b.slice`.
fn parent_path(text: &str) -> Result<PathBuf, NoGroups> {
    let wrong = || NoGroups::Parent { parent: text.to_owned() };
    if let Some(name) = text.strip_suffix(".slice").filter(|name| !name.contains('/')) {
        if name.split('-').any(str::is_empty) {
            return Err(wrong());
        }
        let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
        return Ok(ends.map(|end| format!("{}.slice", &name[..end])).collect());
    }
    let below = Path::new(text).strip_prefix("/").map_err(|_| wrong())?;
    let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    if is_plain && below.components().next().is_some() { Ok(below.to_owned()) } else { Err(wrong()) }
}

impl Place {
    /// Removes groups of builders that were killed. Those of living ones are locked, and those with processes in them
    /// cannot be removed.
    pub(super) fn remove_leftovers(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
            if !is_ours {
                continue;
            }
            if let Ok(group) = File::open(entry.path())
                && flock(&group, FlockOperation::NonBlockingLockExclusive).is_ok()
            {
                // Processes are still in it: the next one comes by.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_group_has_of_its_own_is_a_limit() {
        let dir = std::env::temp_dir().join(format!("wharf-limited-{}", std::process::id()));
        for (file, text, expected) in [
            ("memory.max", "max\n", false),
            ("memory.max", "1048576\n", true),
            ("cpu.max", "max 100000\n", false),
            ("cpu.max", "50000 100000\n", true),
            ("cpuset.cpus", "\n", false),
            ("cpuset.cpus", "0-1\n", true),
            ("cpuset.mems", "0\n", true),
            ("io.max", "", false),
            ("io.max", "8:0 rbps=1048576 wbps=max riops=max wiops=max\n", true),
        ] {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(file), text).unwrap();
            assert_eq!(is_limited(&dir), expected, "{file}: {text}");
            fs::remove_dir_all(&dir).unwrap();
        }
    }

    #[test]
    fn parents_are_paths_from_the_top() {
        for (text, expected) in [
            ("/a/b", Some("a/b")),
            ("/a.slice/b.slice", Some("a.slice/b.slice")),
            ("ci.slice", Some("ci.slice")),
            ("a-b-c.slice", Some("a.slice/a-b.slice/a-b-c.slice")),
            ("a--b.slice", None),
            ("-.slice", None),
            (".slice", None),
            ("/", None),
            ("", None),
            ("a/b", None),
            ("/a/../b", None),
            ("/a/./b", Some("a/b")),
        ] {
            assert_eq!(parent_path(text).ok(), expected.map(PathBuf::from), "{text}");
        }
    }

    /// A tree of files in place of a v2 hierarchy: what a group has, what the groups below it have, its limits.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, groups: &[(&str, &str, &str, &str)]) -> Self {
            let top = std::env::temp_dir().join(format!("wharf-groups-{}-{name}", std::process::id()));
            for (group, controllers, below, memory) in groups {
                let path = top.join(group);
                fs::create_dir_all(&path).unwrap();
                fs::write(path.join("cgroup.controllers"), controllers).unwrap();
                fs::write(path.join("cgroup.subtree_control"), below).unwrap();
                fs::write(path.join("cgroup.procs"), "").unwrap();
                if !group.is_empty() {
                    fs::write(path.join("cgroup.type"), "domain").unwrap();
                    fs::write(path.join("memory.max"), memory).unwrap();
                }
            }
            Self(top)
        }

        fn find(&self, own: &str) -> Result<String, String> {
            let own = self.0.join(own).components().collect();
            let hierarchy = Hierarchy { version: Version::V2, controllers: vec![], top: self.0.clone(), own };
            let controllers = [Controller::Memory, Controller::Pids];
            let top = self.0.display().to_string();
            match find_in(&[hierarchy], &controllers, None, Effort::Passing) {
                Ok(places) => Ok(places[0].path.display().to_string().replace(&top, "")),
                Err(error) => Err(error.to_string().replace(&top, "")),
            }
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_nearest_group_that_can_is_taken() {
        let all = "cpu memory pids";
        let tree = Tree::new(
            "nearest",
            &[
                ("", all, all, ""),
                ("delegated", all, all, "1000"),
                ("slice", all, "memory pids", "max"),
                ("slice/scope", "memory pids", "", "max"),
                ("slice/job", "memory pids", "", "1000"),
                ("bare", "cpu", "", "max"),
                ("bare/scope", "", "", "max"),
            ],
        );
        assert_eq!(tree.find("delegated"), Ok("/delegated".to_owned()));
        assert_eq!(tree.find("slice/scope"), Ok("/slice".to_owned()));
        let limited = "the control group `/slice/job` has limits of its own, which steps in a group outside of it would escape";
        assert_eq!(tree.find("slice/job"), Err(limited.to_owned()));
        assert_eq!(tree.find("bare/scope"), Ok(String::new()));
        assert_eq!(tree.find(""), Ok(String::new()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let tree = Tree::new("missing", &[("", "memory pids", "", ""), ("own", "memory", "", "max")]);
        let missing = "the control group `` gives the groups below it no controller `memory`";
        assert_eq!(tree.find("own"), Err(missing.to_owned()));
        let tree = Tree::new("none", &[("", "cpu", "cpu", "")]);
        let none = "no control group file system with the controller `memory` is mounted";
        assert_eq!(tree.find(""), Err(none.to_owned()));
        let error = find_in(&[], &[Controller::Pids], None, Effort::Passing).unwrap_err();
        assert_eq!(error.to_string(), "no control group file system is mounted");
    }
}
