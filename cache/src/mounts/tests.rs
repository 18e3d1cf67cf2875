//! Who gets which instance of a cache, and what stays in it.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use super::*;
use crate::scratch::Scratch;

fn store(scratch: &Scratch) -> Store {
    Store::open(&scratch.path("store")).unwrap()
}

fn take(store: &Store, name: &MountName, sharing: Sharing, fresh: bool) -> Option<CacheMount> {
    let request = MountRequest { name, sharing, first: 0, fresh };
    store.try_mount::<StoreError>(&request, &|_| Ok(())).unwrap()
}

fn write(mount: &CacheMount, name: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let file = rustix::fs::openat(mount.root(), name, flags, Mode::RUSR).unwrap();
    File::from(file).write_all(b"x").unwrap();
}

fn has(mount: &CacheMount, name: &str) -> bool {
    rustix::fs::statat(mount.root(), name, AtFlags::empty()).is_ok()
}

fn instances(scratch: &Scratch) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(scratch.path("store/mounts")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Takes a cache with `held` while others are taken, and says which instance the next one with `wanted` gets.
#[track_caller]
fn check(held: &[Sharing], wanted: Sharing, number: Option<u32>) {
    let scratch = Scratch::new();
    let (one, other) = (store(&scratch), store(&scratch));
    let name = MountName::new("id", None, [None; 3]);
    let held: Vec<_> = held.iter().map(|sharing| take(&one, &name, *sharing, false).unwrap()).collect();
    for store in [&one, &other] {
        let taken = take(store, &name, wanted, false);
        assert_eq!(taken.map(|mount| mount.number()), number, "{held:?} {wanted:?}");
    }
    drop(held);
    assert_eq!(take(&other, &name, wanted, false).unwrap().number(), 0);
}

#[test]
fn sharing_says_who_gets_which_instance() {
    use Sharing::{Locked, Private, Shared};
    for wanted in [Shared, Private, Locked] {
        check(&[], wanted, Some(0));
    }
    check(&[Shared, Shared], Shared, Some(0));
    check(&[Shared], Private, Some(1));
    check(&[Shared], Locked, None);
    check(&[Private], Shared, Some(1));
    check(&[Private], Private, Some(1));
    check(&[Private, Private], Private, Some(2));
    check(&[Private], Locked, None);
    check(&[Locked], Shared, Some(1));
    check(&[Locked], Private, Some(1));
    check(&[Locked], Locked, None);
}

#[test]
fn names_tell_caches_apart() {
    let digest = ContentDigest([7; 32]);
    let names = [
        MountName::new("a", None, [None; 3]),
        MountName::new("b", None, [None; 3]),
        MountName::new("a", Some(&digest), [None; 3]),
        MountName::new("a", None, [Some(0o755), None, None]),
        MountName::new("a", None, [None, Some(0), None]),
        MountName::new("a", None, [None, None, Some(0)]),
    ];
    let distinct: std::collections::HashSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
}

#[test]
fn what_is_written_stays_until_it_is_wanted_fresh() {
    let scratch = Scratch::new();
    let store = store(&scratch);
    let name = MountName::new("../id\n", None, [None; 3]);
    write(&take(&store, &name, Sharing::Shared, false).unwrap(), "old");
    let again = take(&store, &name, Sharing::Locked, false).unwrap();
    assert!(has(&again, "old"));
    assert_eq!(std::fs::read(instances(&scratch)[0].join("id")).unwrap(), b"../id\n");
    drop(again);
    let fresh = take(&store, &name, Sharing::Shared, true).unwrap();
    assert!(!has(&fresh, "old"));
    write(&fresh, "new");
    // It is in use: who wants another fresh one gets another instance.
    assert_eq!(take(&store, &name, Sharing::Shared, true).unwrap().number(), 1);
    drop(fresh);
    assert!(has(&take(&store, &name, Sharing::Shared, false).unwrap(), "new"));
    assert_eq!(instances(&scratch).len(), 2);
    drop(store);
    assert_eq!(std::fs::read_dir(scratch.path("store/tmp")).unwrap().count(), 0);
}

#[test]
fn a_cache_that_cannot_be_filled_is_not_there() {
    let scratch = Scratch::new();
    let store = store(&scratch);
    let name = MountName::new("id", None, [None; 3]);
    let request = MountRequest { name: &name, sharing: Sharing::Shared, first: 0, fresh: false };
    let fail = |_: BorrowedFd<'_>| Err(StoreError::io("fill", "x", io::ErrorKind::Other));
    assert!(store.try_mount(&request, &fail).is_err());
    assert!(instances(&scratch).is_empty());
    let fill = |root: BorrowedFd<'_>| {
        rustix::fs::mkdirat(root, "seed", Mode::RWXU).map_err(|errno| StoreError::io("fill", "x", errno))
    };
    assert!(has(&store.try_mount(&request, &fill).unwrap().unwrap(), "seed"));
}

#[test]
fn files_that_are_elsewhere_too_are_parted() {
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, symlink};
    // How many names are remembered makes no difference to anybody else.
    for names_max in [links::NAMES_MAX, 4, 0] {
        let scratch = Scratch::new();
        let store = store(&scratch);
        let mount = take(&store, &MountName::new("x", None, [None; 3]), Sharing::Locked, false).unwrap();
        let inside = PathBuf::from(format!("/proc/self/fd/{}", mount.root().as_raw_fd()));
        let outside = scratch.path("outside");
        std::fs::create_dir(&outside).unwrap();
        let odd = inside.join(std::ffi::OsStr::from_bytes(b"\xff\xfe \n"));
        // Below more than a path can have.
        let mut deepest = mount.root().try_clone_to_owned().unwrap();
        for _ in 0..200 {
            let name = "a-directory-with-a-name";
            rustix::fs::mkdirat(&deepest, name, Mode::RWXU).unwrap();
            deepest = rustix::fs::openat(&deepest, name, DIRECTORY, Mode::empty()).unwrap();
        }
        let deep = PathBuf::from(format!("/proc/self/fd/{}", deepest.as_raw_fd()));
        for path in [odd.clone(), inside.join(".wharf-0"), inside.join("plain"), deep.join("file")] {
            std::fs::write(&path, "text").unwrap();
        }
        symlink("text", inside.join("link")).unwrap();
        std::fs::hard_link(&odd, outside.join("odd")).unwrap();
        std::fs::hard_link(inside.join(".wharf-0"), outside.join("0")).unwrap();
        std::fs::hard_link(inside.join(".wharf-0"), inside.join("another")).unwrap();
        std::fs::hard_link(inside.join("link"), outside.join("link")).unwrap();
        std::fs::hard_link(inside.join("plain"), inside.join("plain-2")).unwrap();
        std::fs::hard_link(deep.join("file"), outside.join("deep")).unwrap();
        let kept = std::fs::metadata(inside.join("plain")).unwrap().ino();
        links::part(mount.place().0, mount.place().1, names_max).unwrap();
        for name in ["odd", "0", "link", "deep"] {
            assert_eq!(std::fs::symlink_metadata(outside.join(name)).unwrap().nlink(), 1, "{name}");
        }
        for path in [odd, inside.join("another"), deep.join("file"), inside.join("plain-2")] {
            assert_eq!(std::fs::read(&path).unwrap(), b"text", "{path:?}");
        }
        assert_eq!(std::fs::read_link(inside.join("link")).unwrap(), PathBuf::from("text"));
        if names_max == links::NAMES_MAX {
            let ino = |name: &str| std::fs::metadata(inside.join(name)).unwrap().ino();
            assert_eq!((ino("plain"), ino("plain-2")), (kept, kept));
            assert_eq!(ino("another"), ino(".wharf-0"));
        }
        let beside = std::fs::read_dir(inside.join("..")).unwrap();
        let beside = beside.map(|entry| entry.unwrap().file_name()).filter(|name| name == "copy").count();
        assert_eq!(beside, 0);
    }
}

#[test]
fn many_threads_make_one_instance() {
    let scratch = Scratch::new();
    let store = store(&scratch);
    let name = MountName::new("id", None, [None; 3]);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| take(&store, &name, Sharing::Shared, false))).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap().unwrap().number(), 0);
        }
    });
    assert_eq!(instances(&scratch).len(), 1);
}

/// Bytes that no compressor finds anything in; others for another `seed`.
pub(crate) fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}
