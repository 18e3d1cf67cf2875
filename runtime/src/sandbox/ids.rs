//! The user namespace that this process is in.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::place::{Range, parse_map};

/// The inode number that the kernel gives the first user namespace, always (`PROC_USER_INIT_INO`).
const INITIAL: u64 = 0xefff_fffd;

/// A user namespace that is not the machine's first one: device nodes cannot be made there, and only some ids exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserNamespace {
    pub(super) uids: Vec<Range>,
    pub(super) gids: Vec<Range>,
    /// Whether supplementary groups can be changed.
    pub(crate) setgroups: bool,
}

/// Whether this process is in a user namespace that is not the machine's first one.
pub fn in_user_namespace() -> bool {
    fs::metadata("/proc/self/ns/user").is_ok_and(|namespace| namespace.ino() != INITIAL)
}

impl UserNamespace {
    /// The one that this process is in; none for the machine's first one.
    pub(crate) fn of_this_process() -> Option<Self> {
        let text = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        in_user_namespace().then(|| Self {
            uids: parse_map(&text("uid_map")),
            gids: parse_map(&text("gid_map")),
            setgroups: text("setgroups").trim() != "deny",
        })
    }

    /// Whether there is such a user here.
    pub(crate) fn has_user(&self, uid: u32) -> bool {
        has(&self.uids, uid)
    }

    /// Whether there is such a group here.
    pub(crate) fn has_group(&self, gid: u32) -> bool {
        has(&self.gids, gid)
    }
}

fn has(ranges: &[Range], id: u32) -> bool {
    ranges.iter().any(|range| id.checked_sub(range.inside).is_some_and(|offset| offset < range.count))
}

#[cfg(test)]
impl UserNamespace {
    /// One with these ids, each list from 0 on.
    pub(crate) fn with(users: u32, groups: u32, setgroups: bool) -> Self {
        let ids = |count| vec![Range { inside: 0, outside: 100_000, count }];
        Self { uids: ids(users), gids: ids(groups), setgroups }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mapped_ids_are_there() {
        let range = |inside, count| Range { inside, outside: 0, count };
        let ranges = [range(0, 1), range(10, 5), range(u32::MAX, 1)];
        for (id, expected) in
            [(0, true), (1, false), (9, false), (10, true), (14, true), (15, false), (u32::MAX, true)]
        {
            assert_eq!(has(&ranges, id), expected, "{id}");
        }
    }
}
