//! Opening, recovery and versions.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use rusqlite::Connection;
use rustix::fs::{CWD, FileType};
use rustix::mount::{MountFlags, UnmountFlags};

use super::test_root::{TestRoot, write_at};
use super::*;
use crate::Digest;
use crate::snapshot::Chain;
use crate::state::Record;
use crate::{ContentDigest, Key};

fn commit_file(store: &Store, below: &Chain, text: &str) -> Chain {
    let mut active = store.prepare(below).unwrap();
    write_at(active.root().unwrap(), "file", text);
    below.with(active.commit(SystemTime::now()).unwrap().id)
}

#[test]
fn a_new_root_is_an_oci_layout_and_private() {
    let root = TestRoot::new();
    let inner = root.path().join("deep/store");
    let store = Store::open(&inner).unwrap();
    assert_eq!(store.root(), inner);
    let text = |name: &str| fs::read_to_string(inner.join(name)).unwrap();
    assert_eq!(text("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
    assert_eq!(
        text("index.json"),
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#
    );
    let mode = |name: &str| fs::metadata(inner.join(name)).unwrap().permissions().mode() & 0o777;
    for (name, expected) in
        [("", 0o700), ("snapshots", 0o700), ("tmp", 0o700), ("locks", 0o700), ("state.db", 0o600)]
    {
        assert_eq!(mode(name), expected, "{name}");
    }
}

#[test]
fn reopening_finds_everything() {
    let root = TestRoot::new();
    let key = Key([7; 32]);
    let chain = {
        let store = root.open();
        let chain = commit_file(&store, &Chain::default(), "one");
        store.put_record(&[key], &Key([1; 32]), &Record { outputs: vec![chain.clone()] }).unwrap();
        store.blobs().put(b"blob").unwrap();
        chain
    };
    assert_eq!(root.names("tmp"), [""; 0]);
    let store = root.open();
    assert_eq!(store.record(&key).unwrap().unwrap().outputs, std::slice::from_ref(&chain));
    assert_eq!(store.blobs().read(&Digest::of(b"blob"), 10).unwrap(), b"blob");
    assert_eq!(store.snapshots(&chain).unwrap().len(), 1);
}

#[test]
fn a_newer_version_is_left_alone() {
    let root = TestRoot::new();
    drop(root.open());
    let database = Connection::open(root.path().join("state.db")).unwrap();
    database.pragma_update(None, "user_version", 10).unwrap();
    drop(database);
    let error = Store::open(root.path()).unwrap_err();
    assert!(matches!(error, StoreError::NewerVersion { found: 10, .. }), "{error}");
}

#[test]
fn the_temporary_directory_goes_with_the_store() {
    let root = TestRoot::new();
    let store = root.open();
    let dir = store.temp_dir().unwrap();
    assert_ne!(dir, store.temp_dir().unwrap());
    fs::write(dir.join("file"), "x").unwrap();
    drop(store);
    assert!(!dir.exists());
}

#[test]
fn leftovers_of_the_dead_are_removed_and_those_of_the_living_are_not() {
    let root = TestRoot::new();
    let living = root.open();
    let kept = living.temp_dir().unwrap();
    let chain = commit_file(&living, &Chain::default(), "kept");
    let lock = living.lock_key_unless(&Key([1; 32]), &|| false).unwrap();

    let dead = root.path().join("tmp/00000000000000dd");
    let outside = root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "x").unwrap();
    fs::create_dir_all(dead.join("work/work")).unwrap();
    fs::write(dead.join("work/work/file"), "x").unwrap();
    fs::set_permissions(dead.join("work/work"), fs::Permissions::from_mode(0o0)).unwrap();
    std::os::unix::fs::symlink(&outside, dead.join("link")).unwrap();
    let whiteout = dead.join("whiteout");
    rustix::fs::mknodat(CWD, &whiteout, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let mut deep = dead.clone();
    for _ in 0..500 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "x").unwrap();
    fs::create_dir_all(root.path().join("snapshots/00000000000000aa/fs/dir")).unwrap();
    fs::write(root.path().join("locks").join(Key([2; 32]).hex()), "").unwrap();

    let store = root.open();
    assert_eq!(root.names("tmp").len(), 2, "{:?}", root.names("tmp"));
    assert!(kept.exists());
    assert!(outside.join("file").exists());
    assert_eq!(root.names("snapshots"), [chain.0[0].to_string()]);
    assert_eq!(root.names("locks"), [Key([1; 32]).hex()]);
    assert_eq!(fs::read_dir(store.process().path()).unwrap().count(), 0);
    drop(lock);
}

/// Where [`dies_when_told`] dies, and whether the snapshot is there afterwards.
const DEATHS: [(&str, bool); 5] = [
    ("while the step runs", false),
    ("after the rename", false),
    ("after the insert", false),
    ("after the commit", true),
    ("while a blob is written", false),
];

/// Not a test of its own: run by the next one in another process.
#[test]
fn dies_when_told() {
    let (Ok(root), Ok(death)) = (std::env::var("WHARF_TEST_ROOT"), std::env::var("WHARF_TEST_DEATH")) else {
        return;
    };
    let die_at = |point: &str| {
        if point == death {
            std::process::abort();
        }
    };
    let store = Store::open(Path::new(&root)).unwrap();
    let _lock = store.lock_key_unless(&Key([1; 32]), &|| false).unwrap();
    let mut active = store.prepare(&Chain::default()).unwrap();
    write_at(active.root().unwrap(), "file", "x");
    die_at("while the step runs");
    let mut writer = store.blobs().writer().unwrap();
    io::Write::write_all(&mut writer, &[0; 100_000]).unwrap();
    die_at("while a blob is written");
    let id = SnapshotId(0xaa);
    store
        .write("commit", |transaction| {
            active.publish(id).unwrap();
            die_at("after the rename");
            transaction
                .execute(
                    "INSERT INTO snapshots (id, content, size, created_ns) VALUES (170, zeroblob(32), 1, 1)",
                    [],
                )
                .unwrap();
            die_at("after the insert");
            Ok::<_, StoreError>(())
        })
        .unwrap();
    die_at("after the commit");
}

#[test]
fn a_kill_leaves_the_old_state_or_the_new() {
    for (death, is_committed) in DEATHS {
        let root = TestRoot::new();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::dies_when_told"])
            .env("WHARF_TEST_ROOT", root.path())
            .env("WHARF_TEST_DEATH", death)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success(), "{death}");
        assert_eq!(root.names("tmp").len(), 1, "{death}");
        let store = root.open();
        assert_eq!(root.names("tmp").len(), 1, "{death}");
        assert_eq!(fs::read_dir(store.process().path()).unwrap().count(), 0, "{death}");
        assert_eq!(root.names("blobs/sha256"), [""; 0], "{death}");
        assert_eq!(root.names("locks"), [""; 0], "{death}");
        let expected: &[&str] = if is_committed { &["00000000000000aa"] } else { &[] };
        assert_eq!(root.names("snapshots"), expected, "{death}");
        assert_eq!(store.snapshots(&Chain(vec![SnapshotId(0xaa)])).is_ok(), is_committed, "{death}");
    }
}

#[test]
fn a_failed_transaction_takes_the_snapshot_back() {
    let root = TestRoot::new();
    let store = root.open();
    let chain = commit_file(&store, &Chain::default(), "one");
    let forbid = "CREATE TRIGGER t BEFORE INSERT ON snapshots BEGIN SELECT RAISE(ABORT, 'no'); END";
    store.database().connection.execute_batch(forbid).unwrap();
    let active = store.prepare(&Chain::default()).unwrap();
    active.commit(SystemTime::now()).unwrap_err();
    assert_eq!(root.names("snapshots"), [chain.0[0].to_string()]);
}

#[test]
fn many_openers_and_committers_share_a_root() {
    let root = TestRoot::new();
    std::thread::scope(|scope| {
        for thread in 0..6_u8 {
            let root = &root;
            scope.spawn(move || {
                for round in 0..4_u8 {
                    let store = root.open();
                    let mut chain = Chain::default();
                    for step in 0..3_u8 {
                        chain = commit_file(&store, &chain, &format!("{thread} {round} {step}"));
                        store.blobs().put(&[round, step]).unwrap();
                    }
                    let key = Key([thread * 16 + round; 32]);
                    let outputs = vec![chain, Chain::default()];
                    store
                        .put_record(&[key], &Key([thread; 32]), &Record { outputs: outputs.clone() })
                        .unwrap();
                    assert_eq!(store.record(&key).unwrap().unwrap().outputs, outputs);
                    // Looks like a process that died, to whoever opens next.
                    fs::create_dir(root.path().join(format!("tmp/dead-{thread}-{round}"))).unwrap();
                }
            });
        }
    });
    let store = root.open();
    assert_eq!(root.names("snapshots").len(), 6 * 4 * 3);
    assert_eq!(root.names("blobs/sha256").len(), 4 * 3);
    for thread in 0..6_u8 {
        for round in 0..4_u8 {
            let record = store.record(&Key([thread * 16 + round; 32])).unwrap().unwrap();
            store.view(&record.outputs[0]).unwrap();
        }
    }
}

/// A small file system of its own, where there is the privilege to mount one.
struct SmallDisk(TestRoot);

impl SmallDisk {
    fn new() -> Option<Self> {
        let root = TestRoot::new();
        rustix::mount::mount("tmpfs", root.path(), "tmpfs", MountFlags::empty(), c"size=2m").ok()?;
        Some(Self(root))
    }

    /// Takes all space that is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("filler");
        let mut file = fs::File::create(&path).unwrap();
        while io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_leaves_the_old_state() {
    let Some(disk) = SmallDisk::new() else { return };
    let root = &disk.0;
    let store = root.open();
    let chain = commit_file(&store, &Chain::default(), "old");
    let mut active = store.prepare(&chain).unwrap();
    write_at(active.root().unwrap(), "file", "new");
    let filler = disk.fill();

    let mut writer = store.blobs().writer().unwrap();
    let written = io::Write::write_all(&mut writer, &[7; 200_000]);
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
    drop(writer);
    let error = store.blobs().put(&[7; 10]).unwrap_err();
    let ContentError::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    assert_eq!(root.names("blobs/sha256"), [""; 0]);

    // Large enough that the write-ahead log has to grow.
    let stamp = |ino| crate::state::FileStamp { dev: 1, ino, size: 1, mtime_ns: 1, ctime_ns: 1 };
    let entries: Vec<_> = (0..5000).map(|ino| (stamp(ino), ContentDigest([1; 32]))).collect();
    store.stat_cache_put(&entries).unwrap_err();
    assert_eq!(store.stat_cache_get(&[stamp(0)]).unwrap(), [None]);
    store.snapshots(&chain).unwrap();

    fs::remove_file(filler).unwrap();
    store.stat_cache_put(&entries).unwrap();
    let top = active.commit(SystemTime::now()).unwrap();
    assert_eq!(root.names("snapshots").len(), 2);
    drop(store);
    root.open().view(&chain.with(top.id)).unwrap();
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    for names in
        [&["tmp/mine", "etc/passwd"][..], &["oci-layout", "tmp/mine", "x"], &["snapshots/mine", "notes"]]
    {
        let dir = TestRoot::new();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "precious").unwrap();
        }
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::NotAStore { .. }), "{error}");
        for name in names {
            assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), "precious", "{name}");
        }
    }
}

#[test]
fn only_process_directories_are_collected_from_tmp() {
    let dir = TestRoot::new();
    drop(Store::open(dir.path()).unwrap());
    for name in ["tmp/mine", "tmp/0123456789abcdeg", "tmp/0123456789abcdef"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    drop(Store::open(dir.path()).unwrap());
    let left = |name: &str| dir.path().join(name).exists();
    assert!(left("tmp/mine") && left("tmp/0123456789abcdeg") && !left("tmp/0123456789abcdef"));
}
