//! Control groups of a test's own: what is made below them is the test's, whatever else runs on the machine, and nobody else
//! clears up what it leaves there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::wait_until;

/// A group in each hierarchy in which one can be made.
#[derive(Debug)]
pub(crate) struct Groups {
    /// They, and below each one of v2 the one for processes: a group that has some can have no limited ones below it.
    groups: Vec<(PathBuf, PathBuf)>,
}

impl Groups {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wharf-test-{}-{number}", std::process::id());
        let own = |(path, is_v2): (PathBuf, bool)| Some((make(&path.join(&name), is_v2)?, is_v2));
        let groups = hierarchies().into_iter().filter_map(own).map(|(group, is_v2)| {
            let processes = if is_v2 { group.join("processes") } else { group.clone() };
            (group, processes)
        });
        Self { groups: groups.collect() }
    }

    /// The file of each of them by which a process enters it that writes `0`.
    pub(crate) fn entries(&self) -> impl Iterator<Item = PathBuf> {
        self.groups.iter().map(|(_, processes)| processes.join("cgroup.procs"))
    }

    /// One of them.
    pub(crate) fn any(&self) -> Option<&Path> {
        self.groups.first().map(|(group, _)| group.as_path())
    }

    /// The groups that were made below them.
    pub(crate) fn made(&self) -> BTreeSet<String> {
        let mut all = Vec::new();
        for (group, _) in &self.groups {
            below(group, &mut all);
        }
        all.retain(|path| !self.groups.iter().any(|(_, processes)| path == processes));
        all.into_iter().map(|path| path.display().to_string()).collect()
    }
}

impl Drop for Groups {
    /// When their processes have ended.
    fn drop(&mut self) {
        for (group, _) in &self.groups {
            // The last processes may not be reaped yet.
            wait_until("the control groups are gone", || {
                let mut all = vec![group.clone()];
                below(group, &mut all);
                // The innermost first.
                all.iter().rev().all(|path| fs::remove_dir(path).is_ok())
            });
        }
    }
}

/// The directories below one, each before those below it.
fn below(directory: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.push(entry.path());
            below(&entry.path(), all);
        }
    }
}

/// Makes a group as its processes need it. `None` where it cannot be made.
fn make(group: &Path, is_v2: bool) -> Option<PathBuf> {
    fs::create_dir(group).ok()?;
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    if is_v2 {
        for controller in read(group.join("cgroup.controllers")).split_ascii_whitespace() {
            let _ = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        fs::create_dir(group.join("processes")).unwrap();
    }
    // A new one of v1 has no processors and no memory nodes.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !is_v2 && group.join(file).exists() {
            fs::write(group.join(file), read(group.with_file_name(file))).unwrap();
        }
    }
    Some(group.to_owned())
}

/// The group of this process in each hierarchy, and whether that is of v2.
fn hierarchies() -> Vec<(PathBuf, bool)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mut groups = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap(), fields.next().unwrap());
        let first = controllers.split(',').next().unwrap();
        let place = mounts.lines().find_map(|mount| {
            let (place, kind) = mount.split_once(" - ")?;
            let mut kind = kind.split(' ');
            let is_it = match kind.next()? {
                "cgroup2" => controllers.is_empty(),
                "cgroup" => kind.nth(1)?.split(',').any(|option| option == first),
                _ => false,
            };
            let mut place = place.split(' ').skip(3);
            let (root, target) = (place.next()?, place.next()?);
            is_it
                .then(|| Path::new(path).strip_prefix(root).ok().map(|below| Path::new(target).join(below)))?
        });
        groups.extend(place.map(|place| (place, controllers.is_empty())));
    }
    groups
}
