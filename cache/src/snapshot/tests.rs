//! Overlay semantics, commits and what a killed commit leaves.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FileType};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree};

use super::*;
use crate::store::test_root::{TestRoot, write_at};
use crate::{ChainId, Digest, Key, state::Record};

/// This module is there once for each.
fn stacking() -> Stacking {
    if module_path!().contains("copy_tests") { Stacking::Copy } else { Stacking::Overlay }
}

/// One thing done in a root.
#[derive(Debug, Clone, Copy)]
enum Change<'a> {
    Write(&'a str, &'a str),
    MakeDir(&'a str),
    Remove(&'a str),
    Rename(&'a str, &'a str),
    Chmod(&'a str, u32),
}

fn apply(root: BorrowedFd<'_>, change: Change<'_>) {
    let result = match change {
        Change::Write(path, text) => {
            write_at(root, path, text);
            Ok(())
        }
        Change::MakeDir(path) => rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o755)),
        Change::Remove(path) => match rustix::fs::unlinkat(root, path, AtFlags::empty()) {
            Err(rustix::io::Errno::ISDIR) => rustix::fs::unlinkat(root, path, AtFlags::REMOVEDIR),
            result => result,
        },
        Change::Rename(from, to) => rustix::fs::renameat(root, from, root, to),
        Change::Chmod(path, mode) => {
            rustix::fs::chmodat(root, path, Mode::from_raw_mode(mode), AtFlags::empty())
        }
    };
    result.unwrap_or_else(|errno| panic!("{change:?}: {errno}"));
}

fn commit(store: &Store, below: &Chain, changes: &[Change<'_>]) -> Chain {
    let mut active = store.prepare(below).unwrap();
    let root = active.root().unwrap();
    changes.iter().for_each(|change| apply(root, *change));
    below.with(active.commit(SystemTime::now()).unwrap().id)
}

/// A line for each file below `dir`: path, mode and content, sorted.
fn dump(dir: impl AsFd) -> String {
    fn visit(dir: BorrowedFd<'_>, prefix: &str, lines: &mut Vec<String>) {
        for entry in crate::walk::read_dir(dir).unwrap() {
            let path = format!("{prefix}{}", entry.name.display());
            let mode = entry.stat.mode;
            match entry.stat.kind {
                crate::walk::FileKind::Dir => {
                    lines.push(format!("{path}/ {mode:o}"));
                    let below = crate::walk::open_dir_at(dir, &entry.name).unwrap();
                    visit(below.as_fd(), &format!("{path}/"), lines);
                }
                crate::walk::FileKind::File => {
                    let file = crate::walk::open_file_at(dir, &entry.name).unwrap();
                    let text = io::read_to_string(file).unwrap();
                    lines.push(format!("{path} {mode:o} {text}"));
                }
                kind => lines.push(format!("{path} {kind:?} {:?}", entry.stat.rdev)),
            }
        }
    }
    let dir = rustix::fs::openat(dir, ".", DIRECTORY, Mode::empty()).unwrap();
    let mut lines = Vec::new();
    visit(dir.as_fd(), "", &mut lines);
    lines.join("\n")
}

#[test]
fn snapshots_stack() {
    use Change::{Chmod, MakeDir, Remove, Rename, Write};
    #[track_caller]
    fn check(diffs: &[&[Change<'_>]], merged: &str, top: &str) {
        let root = TestRoot::with(stacking());
        let store = root.open();
        let mut chain = Chain::default();
        for changes in diffs {
            chain = commit(&store, &chain, changes);
        }
        assert_eq!(dump(store.view(&chain).unwrap()), merged);
        if let Some(id) = chain.0.last() {
            assert_eq!(dump(store.open_snapshot(*id).unwrap()), top);
        }
        assert_eq!(
            fs::read_dir(store.process().path())
                .unwrap()
                .filter(|entry| { entry.as_ref().unwrap().path().join("snapshot").exists() })
                .count(),
            0
        );
    }
    check(&[], "", "");
    check(&[&[]], "", "");
    check(&[&[Write("a", "1")]], "a 644 1", "a 644 1");
    check(&[&[Write("a", "1"), Write("b", "1")], &[Write("b", "2")]], "a 644 1\nb 644 2", "b 644 2");
    // A whiteout hides, in the layer above and in all above that.
    let base: &[Change<'_>] = &[MakeDir("d"), Write("d/a", "1"), Write("d/b", "1")];
    check(&[base, &[Remove("d/a")]], "d/ 755\nd/b 644 1", "d/ 755\nd/a CharDevice (0, 0)");
    check(&[base, &[Remove("d/a")], &[Write("c", "3")]], "c 644 3\nd/ 755\nd/b 644 1", "c 644 3");
    check(
        &[base, &[Remove("d/a")], &[Write("d/a", "3")]],
        "d/ 755\nd/a 644 3\nd/b 644 1",
        "d/ 755\nd/a 644 3",
    );
    // A directory made anew is opaque.
    let anew: &[Change<'_>] = &[Remove("d/a"), Remove("d/b"), Remove("d"), MakeDir("d"), Write("d/c", "2")];
    check(&[base, anew], "d/ 755\nd/c 644 2", "d/ 755\nd/c 644 2");
    check(&[base, anew, &[Write("d/e", "3")]], "d/ 755\nd/c 644 2\nd/e 644 3", "d/ 755\nd/e 644 3");
    // A change of mode copies the whole file up: the diff can be read alone.
    check(&[base, &[Chmod("d/a", 0o600)]], "d/ 755\nd/a 600 1\nd/b 644 1", "d/ 755\nd/a 600 1");
    check(
        &[base, &[Rename("d/a", "x")]],
        "d/ 755\nd/b 644 1\nx 644 1",
        "d/ 755\nd/a CharDevice (0, 0)\nx 644 1",
    );
    // What is done and undone leaves nothing.
    check(&[base, &[Write("x", "2"), Remove("x")]], "d/ 755\nd/a 644 1\nd/b 644 1", "");
}

#[test]
fn a_directory_below_is_renamed_without_a_redirect() {
    let root = TestRoot::with(stacking());
    let store = root.open();
    let chain = commit(&store, &Chain::default(), &[Change::MakeDir("d"), Change::Write("d/a", "1")]);
    let mut active = store.prepare(&chain).unwrap();
    let merged = active.root().unwrap();
    let renamed = rustix::fs::renameat(merged, "d", merged, "e");
    match stacking() {
        // Programs fall back on a copy, as between two file systems.
        Stacking::Overlay => assert_eq!(renamed, Err(rustix::io::Errno::XDEV)),
        Stacking::Copy => {
            assert_eq!(renamed, Ok(()));
            let id = active.commit(SystemTime::now()).unwrap().id;
            assert_eq!(dump(store.open_snapshot(id).unwrap()), "d CharDevice (0, 0)\ne/ 755\ne/a 644 1");
        }
    }
}

#[test]
fn the_merged_root_keeps_its_mode_and_owner() {
    let root = TestRoot::with(stacking());
    let store = root.open();
    let mut active = store.prepare(&Chain::default()).unwrap();
    let look = |fd: BorrowedFd<'_>| {
        let stat = rustix::fs::fstat(fd).unwrap();
        (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid)
    };
    assert_eq!(look(active.root().unwrap()), (0o755, 0, 0));
    rustix::fs::fchown(
        active.upper(),
        Some(rustix::fs::Uid::from_raw(7)),
        Some(rustix::fs::Gid::from_raw(8)),
    )
    .unwrap();
    rustix::fs::fchmod(active.upper(), Mode::from_raw_mode(0o3711)).unwrap();
    let chain = Chain(vec![active.commit(SystemTime::now()).unwrap().id]);
    let mut active = store.prepare(&chain).unwrap();
    assert_eq!(look(active.root().unwrap()), (0o3711, 7, 8));
    let chain = chain.with(active.commit(SystemTime::now()).unwrap().id);
    assert_eq!(look(store.view(&chain).unwrap().as_fd()), (0o3711, 7, 8));
    assert_eq!(look(store.view(&Chain::default()).unwrap().as_fd()), (0o755, 0, 0));
}

#[test]
fn many_layers_stack() {
    let root = TestRoot::with(stacking());
    let store = root.open();
    // Each hides the file of the one below. Made by hand, because committing 1000 takes a second.
    let ids: Vec<_> = (1..=1000).map(SnapshotId).collect();
    store
        .write("insert", |transaction| {
            for id in &ids {
                let dir = store.snapshot_path(*id);
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join(id.to_string()), "x").unwrap();
                let below = dir.join(SnapshotId(id.0 - 1).to_string());
                rustix::fs::mknodat(CWD, below, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
                let content = ContentDigest([0; 32]);
                let row = Snapshot { id: *id, content, size: 1, created: UNIX_EPOCH };
                rows::insert(transaction, &row).map_err(StoreError::database("insert"))?;
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    for layers in [300, 500, 501, 999] {
        let chain = Chain(ids[..layers].to_vec());
        assert_eq!(dump(store.view(&chain).unwrap()), format!("{} 644 x", SnapshotId(layers as u64)));
        let top = commit(&store, &chain, &[Change::Remove(&SnapshotId(layers as u64).to_string())]);
        if layers < 999 {
            assert_eq!(dump(store.view(&top).unwrap()), "");
        }
    }
    let all = store.view(&Chain(ids));
    match stacking() {
        Stacking::Overlay => {
            let error = all.unwrap_err();
            assert!(matches!(error, SnapshotError::TooManyLayers { layers: 1000, max: 999 }), "{error}");
        }
        Stacking::Copy => assert_eq!(dump(all.unwrap()), format!("{} 644 x", SnapshotId(1000))),
    }
}

#[test]
fn a_snapshot_may_be_in_a_chain_twice() {
    let root = TestRoot::with(stacking());
    let store = root.open();
    let a = commit(&store, &Chain::default(), &[Change::Write("a", "1")]);
    let b = commit(&store, &a, &[Change::Remove("a"), Change::Write("b", "1")]);
    let view = store.view(&b.with(a.0[0])).unwrap();
    assert_eq!(dump(view), "a 644 1\nb 644 1");
}

#[test]
fn odd_root_paths_mount() {
    for name in ["with,comma:colon and space", "back\\slash", &"long".repeat(60)] {
        let root = TestRoot::with(stacking());
        let store = Store::open_with(&root.path().join(name), root.setup()).unwrap();
        let mut chain = Chain::default();
        for text in ["1", "2", "3"] {
            chain = commit(&store, &chain, &[Change::Write("a", text)]);
        }
        assert_eq!(dump(store.view(&chain).unwrap()), "a 644 3");
    }
}

#[test]
fn a_view_cannot_be_written() {
    // Where nothing is mounted, nobody can be held to it.
    if stacking() == Stacking::Copy {
        return;
    }
    let root = TestRoot::with(stacking());
    let store = root.open();
    let mut chain = Chain::default();
    for _ in 0..3 {
        let view = store.view(&chain).unwrap();
        let written = rustix::fs::mkdirat(&view, "x", Mode::RWXU);
        assert_eq!(written, Err(rustix::io::Errno::ROFS));
        chain = commit(&store, &chain, &[Change::Write("a", "1")]);
    }
}

#[test]
fn roots_and_views_can_be_moved_into_place() {
    let root = TestRoot::with(stacking());
    let store = root.open();
    let place = root.path().join("place");
    fs::create_dir(&place).unwrap();
    let mut chain = Chain::default();
    for depth in 0..3 {
        let mut active = store.prepare(&chain).unwrap();
        for (fd, is_active) in [(active.root().unwrap(), true), (store.view(&chain).unwrap().as_fd(), false)]
        {
            let mount = match stacking() {
                Stacking::Overlay => fd.try_clone_to_owned().unwrap(),
                Stacking::Copy => {
                    open_tree(fd, "", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH).unwrap()
                }
            };
            move_mount(mount, "", CWD, &place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
            if is_active {
                fs::write(place.join(format!("{depth}")), "x").unwrap();
            }
            rustix::mount::unmount(&place, UnmountFlags::DETACH).unwrap();
        }
        chain = chain.with(active.commit(SystemTime::now()).unwrap().id);
    }
    assert_eq!(dump(store.view(&chain).unwrap()), "0 644 x\n1 644 x\n2 644 x");
}

#[test]
fn a_dropped_diff_leaves_nothing() {
    let root = TestRoot::with(stacking());
    let store = root.open();
    let chain = commit(&store, &Chain::default(), &[Change::Write("a", "1")]);
    let mut active = store.prepare(&chain).unwrap();
    write_at(active.root().unwrap(), "b", "1");
    drop(active);
    let left = fs::read_dir(store.process().path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["lease"]);
    assert_eq!(root.names("snapshots").len(), 1);
}

#[test]
fn rows_tell_what_was_committed() {
    let root = TestRoot::with(stacking());
    let store = root.open();
    let created = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    let commit = |text: &str| {
        let active = store.prepare(&Chain::default()).unwrap();
        write_at(active.upper(), "a", text);
        active.commit(created).unwrap()
    };
    let (first, same, other) = (commit("one"), commit("one"), commit("two!"));
    assert_eq!((first.size, other.size, first.created), (3, 4, created));
    assert_eq!(first.content, same.content);
    assert_ne!(first.content, other.content);
    let chain = Chain(vec![other.id, first.id]);
    assert_eq!(store.snapshots(&chain).unwrap(), [other.clone(), first.clone()]);

    let content = |ids: &[SnapshotId]| store.chain_content(&Chain(ids.to_vec())).unwrap();
    assert_eq!(content(&[other.id, first.id]), content(&[other.id, same.id]));
    let all =
        [content(&[]), content(&[first.id]), content(&[first.id, other.id]), content(&[other.id, first.id])];
    for (number, one) in all.iter().enumerate() {
        assert!(!all[..number].contains(one));
    }
    let unknown = store.chain_content(&Chain(vec![SnapshotId(1)])).unwrap_err();
    assert!(matches!(unknown, SnapshotError::Store(StoreError::Lost { .. })));
}

#[test]
fn chain_digests_do_not_drift() {
    let root = TestRoot::with(stacking());
    let store = root.open();
    let snapshot = |id, byte| Snapshot {
        id: SnapshotId(id),
        content: ContentDigest([byte; 32]),
        size: 0,
        created: UNIX_EPOCH,
    };
    for (id, byte) in [(1, 1), (u64::MAX, 2)] {
        store
            .write("insert", |transaction| {
                rows::insert(transaction, &snapshot(id, byte)).map_err(StoreError::database("insert"))
            })
            .unwrap();
    }
    let digest = |ids: &[u64]| {
        let chain = Chain(ids.iter().copied().map(SnapshotId).collect());
        store.chain_content(&chain).unwrap().hex()[..16].to_owned()
    };
    expect_test::expect!["1c5dabc63ffc5cee 3a9aa7a1ac923b2c 22a65195be84211a"]
        .assert_eq(&[digest(&[]), digest(&[1]), digest(&[1, u64::MAX])].join(" "));
}

#[test]
fn layers_are_found_by_snapshot_and_by_chain() {
    let root = TestRoot::with(stacking());
    let store = root.open();
    let id = commit(&store, &Chain::default(), &[]).0[0];
    let diff_id = DiffId(Digest::of(b"tar"));
    let layer = Layer {
        diff_id,
        digest: Digest::of(b"gzip"),
        size: u64::from(u32::MAX) + 1,
        media_type: "m".into(),
        annotations: [("k".to_owned(), "v".to_owned())].into(),
    };
    let chain_id = ChainId::extend(None, diff_id);
    assert_eq!(store.layer(id, "gzip").unwrap(), None);
    assert_eq!(store.snapshot_by_chain_id(&chain_id).unwrap(), None);
    store.set_layer(id, "gzip", chain_id, &layer).unwrap();
    store.set_layer(id, "gzip", chain_id, &layer).unwrap();
    assert_eq!(store.layer(id, "gzip").unwrap(), Some(layer.clone()));
    assert_eq!(store.layer(id, "none").unwrap(), None);
    assert_eq!(store.snapshot_by_chain_id(&chain_id).unwrap(), Some(id));
    let unknown = store.set_layer(SnapshotId(1), "gzip", chain_id, &layer).unwrap_err();
    assert!(matches!(unknown, StoreError::Lost { .. }));
}

#[test]
fn a_lost_directory_is_reported_and_can_be_dropped() {
    let root = TestRoot::with(stacking());
    let store = root.open();
    let chain = commit(&store, &Chain::default(), &[Change::Write("a", "1")]);
    let upper = commit(&store, &chain, &[Change::Write("b", "1")]);
    let (lost, key, other) = (chain.0[0], Key([1; 32]), Key([2; 32]));
    store
        .put_record(&[key], &Key([3; 32]), &Record { outputs: vec![Chain::default(), upper.clone()] })
        .unwrap();
    store.put_record(&[other], &Key([4; 32]), &Record { outputs: vec![Chain::default()] }).unwrap();
    let layer = Layer {
        diff_id: DiffId(Digest::of(b"t")),
        digest: Digest::of(b"t"),
        size: 1,
        media_type: String::new(),
        annotations: BTreeMap::new(),
    };
    let chain_id = ChainId(Digest::of(b"c"));
    store.set_layer(lost, "gzip", chain_id, &layer).unwrap();

    fs::remove_dir_all(root.path().join(format!("snapshots/{lost}"))).unwrap();
    let is_missing = |error: SnapshotError| match error {
        SnapshotError::Store(StoreError::Lost { id }) => assert_eq!(id, lost),
        error => panic!("{error}"),
    };
    is_missing(store.view(&upper).unwrap_err());
    is_missing(store.prepare(&chain).unwrap_err());
    is_missing(store.prepare(&upper).unwrap_err());

    store.drop_snapshot(lost).unwrap();
    assert_eq!(store.record(&key).unwrap(), None);
    assert!(!store.has_record_of(&Key([3; 32])).unwrap());
    assert!(store.record(&other).unwrap().is_some());
    assert_eq!(store.snapshot_by_chain_id(&chain_id).unwrap(), None);
    is_missing(store.view(&upper).unwrap_err());
    store.drop_snapshot(upper.0[1]).unwrap();
    assert_eq!(root.names("snapshots"), [""; 0]);
}

#[test]
fn no_layer_is_made_of_a_changed_snapshot() {
    type Harm = fn(&std::path::Path);
    let harms: [(&str, Harm); 5] = [
        ("other bytes", |path| fs::write(path, "y").unwrap()),
        ("another length", |path| fs::write(path, "xx").unwrap()),
        ("another mode", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o4777)).unwrap()),
        ("a file less", |path| fs::remove_file(path).unwrap()),
        ("a file more", |path| fs::write(path.with_file_name("more"), "").unwrap()),
    ];
    for (name, harm) in harms {
        let root = TestRoot::with(stacking());
        let key = Key([1; 32]);
        let mut active = root.open().prepare(&Chain::default()).unwrap();
        write_at(active.root().unwrap(), "file", "x");
        let id = active.commit(SystemTime::now()).unwrap().id;
        let chain = Chain(vec![id]);
        let store = root.open();
        store.put_record(&[key], &key, &Record { outputs: vec![chain.clone()] }).unwrap();
        harm(&root.path().join(format!("snapshots/{id}/fs/file")));
        let error = crate::diff::make_layer(&store, &chain, None, Default::default()).unwrap_err();
        let causes: Vec<_> =
            std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source()).collect();
        let is_lost = causes.iter().any(|cause| cause.downcast_ref().is_some_and(StoreError::is_lost));
        assert!(is_lost, "{name}: {error:?}");
        assert_eq!(store.take_damages(), [crate::Damage::Snapshots(vec![id])], "{name}");
        assert_eq!(store.record(&key).unwrap(), None, "{name}");
        assert_eq!(root.names("snapshots"), [""; 0], "{name}");
        assert_eq!(root.names("blobs/sha256"), [""; 0], "{name}");
    }
}

#[test]
fn ids_have_one_name() {
    for (name, expected) in [
        ("00000000000000aa", Some(0xaa)),
        ("ffffffffffffffff", Some(u64::MAX)),
        ("aa", None),
        ("00000000000000AA", None),
        ("+0000000000000aa", None),
        ("", None),
    ] {
        assert_eq!(SnapshotId::from_name(name.as_bytes()), expected.map(SnapshotId), "{name}");
    }
}
