//! Looking again, and disks that are full.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use super::*;
use crate::scratch::Scratch;
use crate::store::test_root::TestRoot;
use crate::{Ids, Stacking};

fn open(scratch: &Scratch, path: &str) -> OwnedFd {
    fs::File::open(scratch.path(path)).unwrap().into()
}

/// Makes the changes in a tree of some thousand files and looks again.
#[track_caller]
fn check(change: &dyn Fn(&Scratch)) {
    let scratch = Scratch::new();
    for dir in ["a", "a-b", "a/c", "a/c/d", "m", "z/y"] {
        fs::create_dir_all(scratch.path("root").join(dir)).unwrap();
        for number in 0..400 {
            fs::write(scratch.path("root").join(dir).join(format!("{number}")), "").unwrap();
        }
    }
    let (root, probe) = (open(&scratch, "root"), open(&scratch, ""));
    let before = Table::read(root.as_fd(), Ids::Kernel).unwrap();
    let settled = before.settle(probe.as_fd()).unwrap();
    change(&scratch);
    let again = before.again(root.as_fd(), settled).unwrap();
    let read = Table::read(root.as_fd(), Ids::Kernel).unwrap();
    assert!(again.iter().eq(read.iter()), "what is seen again is not what is there");
}

#[test]
fn looking_again_sees_what_is_there() {
    let remove = |path: PathBuf| fs::remove_dir_all(path).unwrap();
    check(&|_| {});
    check(&|it| fs::write(it.path("root/a/c/d/399"), "x").unwrap());
    check(&|it| fs::write(it.path("root/new"), "").unwrap());
    check(&|it| fs::create_dir_all(it.path("root/a/c.d/e/f")).unwrap());
    check(&|it| remove(it.path("root/a")));
    check(&|it| {
        remove(it.path("root/a/c"));
        fs::write(it.path("root/a/c"), "").unwrap();
        fs::remove_file(it.path("root/m/7")).unwrap();
        fs::create_dir_all(it.path("root/m/7/x/y")).unwrap();
    });
    check(&|it| {
        remove(it.path("root/z"));
        symlink("a", it.path("root/z")).unwrap();
    });
    check(&|it| {
        fs::rename(it.path("root/a/c"), it.path("root/kept")).unwrap();
        remove(it.path("root/a"));
        fs::create_dir(it.path("root/a")).unwrap();
        fs::rename(it.path("root/kept"), it.path("root/a/c")).unwrap();
        fs::rename(it.path("root/m"), it.path("root/a/m")).unwrap();
    });
}

#[test]
fn what_a_clock_that_went_back_may_hide_is_looked_at() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("dir")).unwrap();
    fs::write(scratch.path("dir/file"), "").unwrap();
    let root = open(&scratch, "");
    let table = Table::read(root.as_fd(), Ids::Kernel).unwrap();
    let listed = |settled| changes(&table, &table, settled, &|_| Ok(false)).unwrap().list.len();
    assert_eq!(listed(table.settle(root.as_fd()).unwrap()), 0);
    assert_eq!(listed((0, 0)), 2);
    // Not even the names are believed then.
    fs::write(scratch.path("dir/other"), "").unwrap();
    let again = table.again(root.as_fd(), (0, 0)).unwrap();
    assert_eq!(again.iter().count(), 3);
}

fn write(root: BorrowedFd<'_>, name: &str, bytes: usize) -> io::Result<()> {
    fs::write(format!("/proc/self/fd/{}/{name}", root.as_raw_fd()), vec![1; bytes])
}

/// Commits a step that writes a file, on top of a chain.
fn step(store: &Store, below: &Chain, name: &str, bytes: usize) -> Result<Chain, SnapshotError> {
    let mut active = store.prepare(below)?;
    write(active.root()?, name, bytes).unwrap();
    Ok(below.with(active.commit(SystemTime::UNIX_EPOCH)?.id))
}

fn entries(store: &Store) -> usize {
    fs::read_dir(store.process().path()).unwrap().count()
}

#[test]
fn what_cannot_be_committed_leaves_nothing() {
    let root = TestRoot::with(Stacking::Copy);
    let store = root.open();
    let base = step(&store, &Chain::default(), "base", 10).unwrap();
    let before = entries(&store);
    let mut active = store.prepare(&base).unwrap();
    write(active.root().unwrap(), "file", 10).unwrap();
    fs::remove_dir_all(store.process().path().join(&active.name).join("snapshot")).unwrap();
    active.commit(SystemTime::UNIX_EPOCH).unwrap_err();
    assert_eq!(entries(&store), before);
    // Nor does a tree that nothing is built on.
    let mut active = store.prepare(&base).unwrap();
    write(active.root().unwrap(), "file", 10).unwrap();
    active.ends_here();
    active.commit(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(entries(&store), before);
    step(&store, &base, "file", 10).unwrap();
    assert_eq!(entries(&store), before + 1);
}

/// In a file system of 32 MiB that only this test sees.
#[test]
fn a_full_disk_takes_the_kept_trees() {
    const INSIDE: &str = "WHARF_TEST_SMALL_DISK";
    const MIB: usize = 1 << 20;
    if std::env::var_os(INSIDE).is_none() {
        let scratch = Scratch::new();
        let (_, test) =
            concat!(module_path!(), "::a_full_disk_takes_the_kept_trees").split_once("::").unwrap();
        let run = Command::new("unshare")
            .args(["--mount", "sh", "-ec", r#"mount -t tmpfs -o size=32m none "$TMPDIR"; exec "$@""#, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(INSIDE, "1")
            .env("TMPDIR", scratch.path(""))
            .output();
        let output = match run {
            Ok(output) => output,
            Err(error) => return println!("SKIP: unshare cannot be run: {error}"),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        if !text.contains("running 1 test") {
            return println!("SKIP: no file system can be mounted here");
        }
        return assert!(output.status.success(), "{text}");
    }
    let root = TestRoot::with(Stacking::Copy);
    let store = root.open();
    let empty = Chain::default();
    let large = step(&store, &empty, "large", 5 * MIB).unwrap();
    let small = step(&store, &empty, "small", 10).unwrap();
    let before = entries(&store);
    step(&store, &large, "more", 10).unwrap();
    assert_eq!(entries(&store), before + 1, "the tree is kept");
    // Twelve in the tree, and twelve in the snapshot.
    let other = step(&store, &small, "other", 12 * MIB).unwrap();
    assert!(entries(&store) <= before + 1, "no tree that is larger than what is free is kept");
    // A commit that cannot be leaves nothing.
    let free = rustix::fs::fstatvfs(store.process().fd()).unwrap();
    let free = usize::try_from(free.f_bavail * free.f_frsize).unwrap() - 12 * MIB;
    step(&store, &other, "too large", free * 6 / 10).unwrap_err();
    assert_eq!(entries(&store), before);
    step(&store, &small, "fits", MIB).unwrap();
}
