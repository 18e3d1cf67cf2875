//! What the place that this process was started in is like: who it is there and what it holds.

use std::fs;
use std::path::Path;

use oci_spec::runtime::Capability;
use rustix::thread::{
    CapabilitySet as ThreadCapabilities, SecureComputingMode, capabilities, capability_is_in_bounding_set,
    no_new_privs, secure_computing_mode,
};

use crate::capability::CapabilitySet;

/// A file of `/etc` is read up to this size.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// More ranges than this the kernel maps for nobody.
pub(super) const RANGES_MAX: usize = 340;

/// What the process is before it enters anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The name of the user in `/etc/passwd`.
    pub(super) user: Option<String>,
    pub(super) effective: CapabilitySet,
    pub(super) bounding: CapabilitySet,
    pub(super) no_new_privileges: bool,
    /// Whether a seccomp filter is on this process.
    pub(super) filtered: bool,
    pub(super) threads: u32,
    pub(super) has_proc: bool,
    pub(super) uid_map: Vec<Range>,
    pub(super) gid_map: Vec<Range>,
}

/// Consecutive ids of a user namespace and what they are outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) inside: u32,
    pub(super) outside: u32,
    pub(super) count: u32,
}

impl Place {
    /// Looks. Where there is no `/proc` nothing is known of threads and ids.
    pub(super) fn look() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = capabilities(None).map_or(0, |sets| sets.effective.bits());
        let is_bounding = |capability: &u64| {
            capability_is_in_bounding_set(ThreadCapabilities::from_bits_retain(*capability)) == Ok(true)
        };
        let bounding = (0..u64::BITS).map(|number| 1 << number).filter(is_bounding).sum();
        let threads = field(&status, "Threads").and_then(|number| number.parse().ok());
        let map = |path| parse_map(&fs::read_to_string(path).unwrap_or_default());
        Self {
            uid,
            gid: rustix::process::getegid().as_raw(),
            user: name_of(&read(Path::new("/etc/passwd")), uid),
            effective: CapabilitySet(effective),
            bounding: CapabilitySet(bounding),
            no_new_privileges: no_new_privs() == Ok(true),
            filtered: secure_computing_mode().is_ok_and(|mode| mode != SecureComputingMode::Disabled),
            threads: threads.unwrap_or(1),
            has_proc: has_proc(),
            uid_map: map("/proc/self/uid_map"),
            gid_map: map("/proc/self/gid_map"),
        }
    }

    /// The names of those of `wanted` that are not effective.
    pub(super) fn lacks(&self, wanted: &[Capability]) -> Vec<String> {
        missing(&self.effective, wanted)
    }

    /// The names of those of `wanted` that no process here can get.
    pub(super) fn leaves_out(&self, wanted: &[Capability]) -> Vec<String> {
        missing(&self.bounding, wanted)
    }

    /// The ranges of subordinate ids that a file (`/etc/subuid`, `/etc/subgid`) gives to this user.
    pub(super) fn subordinate(&self, path: &Path) -> Vec<Range> {
        subordinate(&read(path), self.uid, self.user.as_deref())
    }
}

/// Whether the kernel tells about processes where it usually does.
pub(super) fn has_proc() -> bool {
    rustix::fs::access("/proc/self/status", rustix::fs::Access::READ_OK).is_ok()
}

fn missing(held: &CapabilitySet, wanted: &[Capability]) -> Vec<String> {
    let missing = wanted.iter().filter(|capability| !held.contains(**capability));
    missing.map(|capability| format!("CAP_{}", capability.to_string().to_uppercase())).collect()
}

/// The text of a file, as far as there is one.
pub(super) fn read(path: &Path) -> String {
    match fs::metadata(path) {
        Ok(found) if found.is_file() && found.len() <= FILE_BYTES_MAX => {
            fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// A field of `/proc/self/status`.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

fn name_of(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        (id.parse() == Ok(uid) && !name.is_empty()).then(|| name.to_owned())
    })
}

/// Reads `/proc/<pid>/uid_map`.
pub(super) fn parse_map(text: &str) -> Vec<Range> {
    let range = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
        Some(Range { inside: numbers.next()??, outside: numbers.next()??, count: numbers.next()?? })
    };
    text.lines().filter_map(range).collect()
}

/// Reads `/etc/subuid`: a line `NAME-OR-UID:FIRST:COUNT` a range. `inside` counts on from 1, after the user's own id.
fn subordinate(text: &str, uid: u32, user: Option<&str>) -> Vec<Range> {
    let mut inside: u32 = 1;
    let mut ranges = Vec::new();
    for line in text.lines() {
        let mut fields = line.trim().split(':');
        let owner = fields.next().unwrap_or_default();
        let mut number = || fields.next().and_then(|number| number.parse::<u32>().ok());
        let (Some(outside), Some(count)) = (number(), number()) else { continue };
        let is_own = Some(owner) == user || owner.parse() == Ok(uid);
        let fits = inside.checked_add(count).is_some() && outside.checked_add(count).is_some();
        if is_own && count > 0 && fits && ranges.len() + 1 < RANGES_MAX {
            ranges.push(Range { inside, outside, count });
            inside += count;
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_names_and_maps_are_read() {
        let status = "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\nCapEff:\t00000000a80425fb\n";
        assert_eq!(field(status, "Seccomp"), Some("2"));
        assert_eq!(field(status, "CapBnd"), None);
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\n:x:7::\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_of(passwd, 1000).as_deref(), Some("ann"));
        assert_eq!((name_of(passwd, 7), name_of(passwd, 1)), (None, None));
        let range = |inside, outside, count| Range { inside, outside, count };
        assert_eq!(parse_map("         0          0 4294967295\n"), [range(0, 0, u32::MAX)]);
        assert_eq!(parse_map("0 1000 1\n1 100000 65536\nx\n"), [range(0, 1000, 1), range(1, 100_000, 65536)]);
    }

    #[track_caller]
    fn check_subordinate(text: &str, user: Option<&str>, expected: &[(u32, u32, u32)]) {
        let found = subordinate(text, 1000, user);
        let found: Vec<_> = found.iter().map(|range| (range.inside, range.outside, range.count)).collect();
        assert_eq!(found, expected, "{text:?} of {user:?}");
    }

    #[test]
    fn subordinate_ids_are_found_by_name_and_number() {
        check_subordinate("ann:100000:65536\nbob:1:2\n", Some("ann"), &[(1, 100_000, 65536)]);
        check_subordinate("ann:100000:10\n1000:5000:5\n", Some("ann"), &[(1, 100_000, 10), (11, 5000, 5)]);
        check_subordinate("ann:100000:65536\n", None, &[]);
        check_subordinate("ann:x:65536\nann:1\nann:1:0\nann:4294967295:5\n\n", Some("ann"), &[]);
        let many = "ann:1:1\n".repeat(2 * RANGES_MAX);
        assert_eq!(subordinate(&many, 1000, Some("ann")).len(), RANGES_MAX - 1);
    }
}
