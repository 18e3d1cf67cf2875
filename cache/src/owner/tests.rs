//! Owners and devices that are recorded, on real files.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::scratch::Scratch;

const NODE_NULL: Node = Node { is_block: false, rdev: (1, 3) };

/// A directory with one file of each kind, and whether its file system has `user.` attributes.
fn sample() -> Option<(Scratch, OwnedFd)> {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("file"), "bytes").unwrap();
    std::fs::create_dir(scratch.path("dir")).unwrap();
    symlink("file", scratch.path("link")).unwrap();
    for (name, kind) in [("pipe", FileKind::Fifo), ("socket", FileKind::Socket)] {
        let dir = File::open(scratch.path("")).unwrap();
        Ids::Recorded.make_node(dir.as_fd(), OsStr::new(name), kind, (0, 0)).unwrap();
    }
    let dir = OwnedFd::from(File::open(scratch.path("")).unwrap());
    match keeps_records(dir.as_fd()) {
        Ok(true) => Some((scratch, dir)),
        kept => {
            println!("SKIP: the file system of the temporary directory keeps no records: {kept:?}");
            None
        }
    }
}

fn open_path(dir: &OwnedFd, name: &str) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).unwrap()
}

fn owner(dir: &OwnedFd, name: &str) -> Owner {
    let stat = Ids::Recorded.stat_at(dir.as_fd(), OsStr::new(name)).unwrap();
    assert_eq!((stat.uid, stat.gid), get(dir.as_fd(), OsStr::new(name)).unwrap().owner);
    (stat.uid, stat.gid)
}

const KINDS: [&str; 5] = ["file", "dir", "link", "pipe", "socket"];

#[test]
fn every_kind_of_file_has_an_owner_by_name_and_by_descriptor() {
    let Some((_scratch, dir)) = sample() else { return };
    for name in KINDS {
        let os_name = OsStr::new(name);
        let kernel = Ids::Kernel.stat_at(dir.as_fd(), os_name).unwrap();
        assert_eq!(owner(&dir, name), (0, 0), "{name}");
        for given in [(7, 8), (1000, 0), (0, LINK_ID_MAX), (LINK_ID_MAX, LINK_ID_MAX), (0, 0)] {
            set(dir.as_fd(), os_name, given).unwrap();
            assert_eq!(owner(&dir, name), given, "{name}");
            set(dir.as_fd(), os_name, (0, 0)).unwrap();
            assert_eq!(owner(&dir, name), (0, 0), "{name}");
            let path = open_path(&dir, name);
            set_of(path.as_fd(), given).unwrap();
            assert_eq!(get_of(path.as_fd()).unwrap().owner, given, "{name}");
            assert_eq!(owner(&dir, name), given, "{name}");
        }
        let after = Ids::Kernel.stat_at(dir.as_fd(), os_name).unwrap();
        assert_eq!(Stat { ctime: kernel.ctime, ..after }, kernel, "{name}: nothing else of it changes");
        assert_eq!(walk::xattrs_at(dir.as_fd(), os_name).unwrap(), [], "{name}: nothing is left");
    }
    let names: Vec<_> = Ids::Recorded.read_dir(dir.as_fd()).unwrap();
    assert_eq!(names.len(), KINDS.len());
}

#[test]
fn a_record_goes_where_the_file_goes() {
    let Some((scratch, dir)) = sample() else { return };
    for name in KINDS {
        set(dir.as_fd(), OsStr::new(name), (12, 34)).unwrap();
    }
    assert_eq!(std::fs::read_link(scratch.path("link")).unwrap(), Path::new("file"));
    for name in KINDS {
        rustix::fs::renameat(&dir, name, &dir, "renamed").unwrap();
        assert_eq!(owner(&dir, "renamed"), (12, 34), "{name}");
        if name == "dir" {
            std::fs::remove_dir(scratch.path("renamed")).unwrap();
        } else {
            rustix::fs::linkat(&dir, "renamed", &dir, name, AtFlags::empty()).unwrap();
            assert_eq!(owner(&dir, name), (12, 34), "{name}");
            std::fs::remove_file(scratch.path("renamed")).unwrap();
            std::fs::remove_file(scratch.path(name)).unwrap();
        }
    }
    symlink("elsewhere", scratch.path("link")).unwrap();
    assert_eq!(owner(&dir, "link"), (0, 0));
}

#[test]
fn devices_have_stand_ins() {
    let Some((scratch, dir)) = sample() else { return };
    let name = OsStr::new("null");
    make_node(dir.as_fd(), name, NODE_NULL, 0o4666).unwrap();
    let check = |owner, mode| {
        let stat = Ids::Recorded.stat_at(dir.as_fd(), name).unwrap();
        assert_eq!((stat.kind, stat.rdev, stat.mode), (FileKind::CharDevice, (1, 3), mode));
        assert_eq!((stat.uid, stat.gid), owner);
        assert_eq!(get(dir.as_fd(), name).unwrap(), Record { owner, node: Some(NODE_NULL) });
    };
    check((0, 0), 0o4666);
    set(dir.as_fd(), name, (5, 6)).unwrap();
    // As the kernel does it.
    check((5, 6), 0o666);
    set(dir.as_fd(), name, (0, 0)).unwrap();
    check((0, 0), 0o666);
    std::fs::set_permissions(scratch.path("null"), std::fs::Permissions::from_mode(0o600)).unwrap();
    check((0, 0), 0o600);
    // Who writes to it has not made it a file.
    std::fs::write(scratch.path("null"), "bytes").unwrap();
    check((0, 0), 0o600);
    let taken = make_node(dir.as_fd(), name, NODE_NULL, 0o666).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
    for rdev in [(0, 0), (MAJOR_MAX + 1, 0), (1, MINOR_MAX + 1)] {
        let node = Node { is_block: false, rdev };
        assert!(make_node(dir.as_fd(), OsStr::new("no"), node, 0o666).is_err(), "{rdev:?}");
    }
    assert!(!scratch.path("no").exists());
    Ids::Recorded.make_node(dir.as_fd(), OsStr::new("wh"), FileKind::CharDevice, (0, 0)).unwrap();
    assert!(Ids::Kernel.stat_at(dir.as_fd(), OsStr::new("wh")).unwrap().is_whiteout());
    assert!(Ids::Recorded.stat_at(dir.as_fd(), OsStr::new("wh")).unwrap().is_whiteout());
    // What is a device to the kernel is none of the image's.
    assert!(set(dir.as_fd(), OsStr::new("wh"), (4, 1)).is_err());
    assert_eq!(get(dir.as_fd(), OsStr::new("wh")).unwrap(), Record::default());
}

#[test]
fn devices_have_stand_ins_where_only_they_cannot_be_made() {
    let Some((scratch, dir)) = sample() else { return };
    let null = OsStr::new("null");
    make_node(dir.as_fd(), null, NODE_NULL, 0o666).unwrap();
    Ids::Kernel.set_owner(dir.as_fd(), null, (0, 0)).unwrap();
    let kind = |name: &str| Ids::Kernel.stat_at(dir.as_fd(), OsStr::new(name)).unwrap().kind;
    let stat = Ids::Kernel.stat_at(dir.as_fd(), null).unwrap();
    assert_eq!((stat.kind, stat.rdev, stat.mode & 0o777), (FileKind::CharDevice, (1, 3), 0o666));
    // With something in it, it is a file.
    std::fs::write(scratch.path("null"), "bytes").unwrap();
    assert_eq!(kind("null"), FileKind::File);
    assert_eq!(kind("file"), FileKind::File);
}

#[test]
fn devices_have_stand_ins_where_steps_could_open_them() {
    let Some((scratch, dir)) = sample() else { return };
    let (ids, name) = (Ids::KernelWithoutDevices, OsStr::new("disk"));
    ids.make_node(dir.as_fd(), name, FileKind::BlockDevice, (8, 0)).unwrap();
    assert!(std::fs::symlink_metadata(scratch.path("disk")).unwrap().is_file());
    let stat = ids.stat_at(dir.as_fd(), name).unwrap();
    assert_eq!((stat.kind, stat.rdev), (FileKind::BlockDevice, (8, 0)));
}

#[test]
fn what_is_no_record_counts_as_none() {
    let Some((scratch, dir)) = sample() else { return };
    let file = File::open(scratch.path("file")).unwrap();
    let put =
        |name: &str, value: &[u8]| rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty()).unwrap();
    let long = [b'1'; 4000];
    for value in [
        &b""[..],
        b":",
        b"1",
        b"1:",
        b":1",
        b"01:1",
        b"+1:1",
        b" 1:1",
        b"1:1\n",
        b"1:1:1",
        b"-1:0",
        b"4294967295:0",
        b"0:4294967295",
        b"4294967296:0",
        b"\xff:1",
        &long,
    ] {
        put(OWNER, value);
        assert_eq!(owner(&dir, "file"), (0, 0), "{value:?}");
    }
    put(OWNER, b"4294967294:1");
    assert_eq!(owner(&dir, "file"), (u32::MAX - 1, 1));
    for value in
        [&b""[..], b"c", b"c:1", b"c:0:0", b"x:1:3", b"c:1:3:", b"c:1:03", b"c:4096:0", b"b:1:1048576", &long]
    {
        put(NODE, value);
        assert_eq!(get(dir.as_fd(), OsStr::new("file")).unwrap().node, None, "{value:?}");
    }
    put(NODE, b"b:0:0");
    assert_eq!(
        get(dir.as_fd(), OsStr::new("file")).unwrap().node,
        Some(Node { is_block: true, rdev: (0, 0) })
    );
    for (seconds, nanoseconds) in
        [(0, 0), (LINK_EPOCH_S - 1, 0), (LINK_EPOCH_S, 1 << 29), (15_000_000_000, 1)]
    {
        Place::Entry(dir.as_fd(), OsStr::new("link")).set_access_time((seconds, nanoseconds)).unwrap();
        assert_eq!(owner(&dir, "link"), (0, 0), "{seconds}.{nanoseconds}");
    }
    for given in [(LINK_ID_MAX + 1, 0), (0, LINK_ID_MAX + 1), (u32::MAX, 0)] {
        assert!(set(dir.as_fd(), OsStr::new("link"), given).is_err(), "{given:?}");
    }
    assert!(set(dir.as_fd(), OsStr::new("file"), (u32::MAX, 0)).is_err());
}

proptest! {
    #[test]
    fn texts_and_times_are_read_as_they_were_written(
        uid in 0..=LINK_ID_MAX, gid in 0..=LINK_ID_MAX, major in 0..=MAJOR_MAX, minor in 1..=MINOR_MAX,
        seconds: i64, nanoseconds in 0..1_000_000_000_u32,
    ) {
        prop_assert_eq!(parse_owner(owner_text((uid, gid)).as_bytes()), Some((uid, gid)));
        let (at, nanos) = time_of_owner((uid, gid)).unwrap();
        prop_assert!(nanos < 1_000_000_000 && at < (1 << 34) - (1 << 31));
        prop_assert_eq!(owner_of_time(at, nanos), Some((uid, gid)));
        let node = Node { is_block: major % 2 == 0, rdev: (major, minor) };
        prop_assert_eq!(parse_node(node_text(node).as_bytes()), Some(node));
        if let Some(owner) = owner_of_time(seconds, nanoseconds) {
            prop_assert_eq!(time_of_owner(owner).unwrap(), (seconds, nanoseconds));
        }
    }
}
