//! How the files of a store belong to users: said by its file `owners`, so that no process gives files owners that another
//! one reads differently.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::process_dir::OpenLock;
use super::{StoreError, open_dir};
use crate::{Ids, owner};

/// The file.
pub(super) const NAME: &str = "owners";

/// What is written to it where the kernel keeps the owners, and they are no others outside.
const KERNEL: &str = "kernel";
/// And where one id is all there is.
const RECORDED: &str = "recorded";

/// The kernel takes 340 ranges for users and as many for groups, of three numbers each.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Which ids outside of the user namespace that wharf has made for itself those inside are: the owners on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdMap {
    users: Vec<Range>,
    groups: Vec<Range>,
}

/// Some ids that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    count: u32,
}

impl IdMap {
    /// No namespace, or one in which all ids are those outside.
    pub fn identity() -> Self {
        Self::default()
    }

    /// The map of this process's user namespace. A process in a namespace that somebody else made has no business with that:
    /// the owners it sees are those that it gives.
    pub fn of_this_process() -> io::Result<Self> {
        let read = |path| fs::read_to_string(path).and_then(|text| ranges(&text));
        Ok(Self { users: read("/proc/self/uid_map")?, groups: read("/proc/self/gid_map")? })
    }

    fn is_identity(&self) -> bool {
        self.users.iter().chain(&self.groups).all(|range| range.inside == range.outside)
    }
}

/// The lines of a map file: first id inside, first id outside, how many.
fn ranges(text: &str) -> io::Result<Vec<Range>> {
    let range = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Range { inside: next()?, outside: next()?, count: next()? })
    };
    text.lines()
        .map(|line| range(line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no id map")))
        .collect()
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, ranges: &[Range]| {
            ranges
                .iter()
                .try_for_each(|Range { inside, outside, count }| write!(f, " {inside}:{outside}:{count}"))
        };
        f.write_str("map")?;
        list(f, &self.users)?;
        if self.groups != self.users {
            f.write_str(" groups")?;
            list(f, &self.groups)?;
        }
        Ok(())
    }
}

/// What the file of a store says that is opened in this way.
fn mark(ids: Ids, map: &IdMap) -> String {
    match ids {
        Ids::Recorded => RECORDED.to_owned(),
        Ids::Kernel | Ids::KernelWithoutDevices if map.is_identity() => KERNEL.to_owned(),
        Ids::Kernel | Ids::KernelWithoutDevices => map.to_string(),
    }
}

/// What a mark means, for people.
pub(super) fn meaning(mark: &str) -> String {
    match mark.split_once(' ') {
        _ if mark == KERNEL => "as the kernel has them (`--sandbox root` or `chroot`)".to_owned(),
        _ if mark == RECORDED => "recorded with the files (`--sandbox rootless-single`)".to_owned(),
        Some(("map", map)) => format!("shifted by the id map {map} (`--sandbox rootless`)"),
        _ => format!("in a way that this wharf does not know (`{mark}`)"),
    }
}

/// Makes sure that the store at `root` has its owners in this way. A new one has them so from now on; one from before
/// there was the file has what the kernel says.
pub(super) fn claim(
    root: &Path,
    root_fd: &OwnedFd,
    ids: Ids,
    map: &IdMap,
    _opening: &OpenLock,
) -> Result<(), StoreError> {
    let wanted = mark(ids, map);
    let refuse = |found: &str| {
        let (found, wanted) = (meaning(found), meaning(&wanted));
        Err(StoreError::OtherOwners { root: root.to_owned(), found, wanted })
    };
    match read(root_fd).map_err(|source| StoreError::io("read", root.join(NAME), source))? {
        Some(found) if found == wanted => return Ok(()),
        Some(found) => return refuse(&found),
        None => {}
    }
    let is_old = match rustix::fs::statat(root_fd, "state.db", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => true,
        Err(Errno::NOENT) => false,
        Err(errno) => return Err(StoreError::io("look up", root.join("state.db"), errno)),
    };
    if is_old && wanted != KERNEL {
        return refuse(KERNEL);
    }
    if ids == Ids::Recorded {
        let tmp = open_dir(&root.join("tmp"))?;
        let kept = owner::keeps_records(tmp.as_fd());
        if !kept.map_err(|source| StoreError::io("try to record the owner of a file in", root, source))? {
            return Err(StoreError::NoRecords { root: root.to_owned() });
        }
    }
    write(root_fd, &wanted).map_err(|source| StoreError::io("write", root.join(NAME), source))
}

/// The mark; `None` if there is none, or one that was not written to its end.
fn read(root_fd: &OwnedFd) -> io::Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(root_fd, NAME, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.strip_suffix('\n').map(str::to_owned))
}

fn write(root_fd: &OwnedFd, mark: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(root_fd, NAME, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(format!("{mark}\n").as_bytes())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_root::TestRoot;
    use crate::{Setup, Store};

    const ROOTLESS: &str = "         0       1000          1\n         1     100000      65536\n";
    const GROUPS: &str = "0 100 1\n1 100000 65536\n";

    fn map(users: &str, groups: &str) -> IdMap {
        IdMap { users: ranges(users).unwrap(), groups: ranges(groups).unwrap() }
    }

    #[test]
    fn marks() {
        let check = |ids, map: &IdMap, expected: &str| assert_eq!(mark(ids, map), expected);
        check(Ids::Kernel, &IdMap::identity(), "kernel");
        check(Ids::Kernel, &map("0 0 4294967295", "0 0 4294967295"), "kernel");
        check(Ids::Kernel, &map("0 0 1\n5 5 9", "0 0 1"), "kernel");
        check(Ids::Kernel, &map(ROOTLESS, ROOTLESS), "map 0:1000:1 1:100000:65536");
        check(
            Ids::Kernel,
            &map(ROOTLESS, GROUPS),
            "map 0:1000:1 1:100000:65536 groups 0:100:1 1:100000:65536",
        );
        check(Ids::Recorded, &map("0 1000 1", "0 1000 1"), "recorded");
        assert!(ranges("0 1000").is_err());
        assert!(ranges("0 1000 x").is_err());
        assert!(IdMap::of_this_process().is_ok());
    }

    fn open(root: &TestRoot, ids: Ids, map: &IdMap) -> Result<Store, StoreError> {
        Store::open_mapped(root.path(), Setup { ids, ..Setup::default() }, map)
    }

    #[test]
    fn a_store_is_opened_as_it_was_made() {
        let ways = [
            (Ids::Kernel, IdMap::identity()),
            (Ids::Kernel, map(ROOTLESS, ROOTLESS)),
            (Ids::Kernel, map(ROOTLESS, GROUPS)),
            (Ids::Recorded, map("0 1000 1", "0 1000 1")),
        ];
        for (made, way) in ways.iter().enumerate() {
            let root = TestRoot::new();
            for _ in 0..2 {
                drop(open(&root, way.0, &way.1).unwrap());
            }
            for (other, way) in ways.iter().enumerate().filter(|(other, _)| *other != made) {
                let error = open(&root, way.0, &way.1).unwrap_err();
                assert!(matches!(error, StoreError::OtherOwners { .. }), "{made} {other}: {error}");
            }
        }
    }

    #[test]
    fn the_refusal_names_both_ways_and_what_to_do() {
        let root = TestRoot::new();
        drop(open(&root, Ids::Recorded, &IdMap::identity()).unwrap());
        let error = open(&root, Ids::Kernel, &map(ROOTLESS, ROOTLESS)).unwrap_err().to_string();
        let expected = format!(
            "the owners of files in store `{}` are recorded with the files (`--sandbox rootless-single`), and this process \
             would have them shifted by the id map 0:1000:1 1:100000:65536 (`--sandbox rootless`): give another --root, or \
             the sandbox that the store was made in",
            root.path().display()
        );
        assert_eq!(error, expected);
    }

    #[test]
    fn a_store_without_the_file_is_the_kernels() {
        let check = |text: Option<&str>, ids, opens: bool| {
            let root = TestRoot::new();
            drop(open(&root, Ids::Kernel, &IdMap::identity()).unwrap());
            match text {
                Some(text) => fs::write(root.path().join(NAME), text).unwrap(),
                None => fs::remove_file(root.path().join(NAME)).unwrap(),
            }
            let opened = open(&root, ids, &IdMap::identity());
            assert_eq!(opened.is_ok(), opens, "{text:?} {ids:?}: {opened:?}");
            if opens {
                assert_eq!(fs::read_to_string(root.path().join(NAME)).unwrap(), "kernel\n");
            }
        };
        for text in [None, Some(""), Some("kern"), Some("recorded")] {
            check(text, Ids::Kernel, true);
            check(text, Ids::Recorded, false);
        }
        for text in ["recorded\n", "something else\n", "\n", "kernel\nkernel\n"] {
            check(Some(text), Ids::Kernel, false);
        }
    }
}
