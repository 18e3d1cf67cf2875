//! What is done to a store while something goes wrong.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::mem::forget;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};
use wharf_cache::gc::Goal;
use wharf_cache::history::{BuildId, BuildLogs, BuildRow, BuildStatus, LogStream, NewGraph};
use wharf_cache::mounts::{MountName, MountRequest, Sharing};
use wharf_cache::snapshot::{Layer, Wanted};
use wharf_cache::state::{FileStamp, Image, Pin, Record};
use wharf_cache::{Chain, ChainId, ContentDigest, DiffId, Digest, Key, Store, StoreError};

type Done = Result<(), Box<dyn Error>>;

/// One change of a store.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Makes what is there before.
    pub(crate) prepare: fn(&Path),
    /// Opens the store and changes it; doing it twice is like doing it once.
    pub(crate) act: fn(&Path) -> Done,
    /// Whether it begins like `open` does.
    pub(crate) after_opening: bool,
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "begin", prepare: |_| {}, act: open, after_opening: false },
    Scenario {
        name: "open",
        prepare: fill,
        act: |root| {
            forget(Store::open(root)?);
            Ok(())
        },
        after_opening: false,
    },
    Scenario { name: "collect", prepare: leave_leftovers, act: open, after_opening: false },
    Scenario { name: "take-over-a-layout", prepare: lose_database, act: open, after_opening: false },
    Scenario { name: "replace-database", prepare: ruin_database, act: open, after_opening: false },
    Scenario { name: "close", prepare: fill, act: open, after_opening: true },
    Scenario { name: "write-blob", prepare: fill, act: write_blob, after_opening: true },
    Scenario { name: "commit-snapshot", prepare: fill, act: commit_snapshot, after_opening: true },
    Scenario { name: "record", prepare: fill, act: record, after_opening: true },
    Scenario { name: "set-layer", prepare: fill, act: set_layer, after_opening: true },
    Scenario { name: "pin", prepare: fill, act: pin, after_opening: true },
    Scenario { name: "remember-files", prepare: fill, act: remember_files, after_opening: true },
    Scenario {
        name: "tag",
        prepare: fill,
        act: |root| tag(&Store::open(root)?, "new:1"),
        after_opening: true,
    },
    Scenario {
        name: "retag",
        prepare: fill,
        act: |root| tag(&Store::open(root)?, "a:1"),
        after_opening: true,
    },
    Scenario { name: "remove-image", prepare: fill, act: remove_image, after_opening: true },
    Scenario { name: "collect-all", prepare: fill_dispensable, act: collect_all, after_opening: true },
    Scenario { name: "remove-builds", prepare: fill_builds, act: remove_builds, after_opening: true },
    Scenario { name: "drop-snapshot", prepare: fill, act: drop_snapshot, after_opening: true },
    Scenario { name: "part-files", prepare: share_files, act: part_files, after_opening: true },
    Scenario { name: "lock", prepare: fill, act: lock, after_opening: true },
    Scenario { name: "make-cache-mount", prepare: fill, act: |root| mount(root, false), after_opening: true },
    Scenario {
        name: "empty-cache-mount",
        prepare: fill_mount,
        act: |root| mount(root, true),
        after_opening: true,
    },
];

/// The keys that are recorded.
pub(crate) const KEYS: [Key; 2] = [Key([1; 32]), Key([2; 32])];

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A store with two images, a record of a chain of two snapshots, and blobs long unnamed.
fn fill(root: &Path) {
    let store = Store::open(root).unwrap();
    let lower = snapshot(&store, "lower").unwrap();
    let upper = snapshot(&store, "upper").unwrap();
    let outputs = vec![Chain(vec![lower, upper])];
    store.put_record(&[KEYS[0]], &KEYS[0], &Record { outputs }).unwrap();
    tag_as(&store, "a:1", "a").unwrap();
    tag_as(&store, "b:1", "b").unwrap();
    let unnamed = store.blobs().put(b"unnamed").unwrap();
    let old = SystemTime::now() - Duration::from_secs(48 * 60 * 60);
    let path = root.join("blobs/sha256").join(unnamed.hex());
    fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
}

fn fill_mount(root: &Path) {
    fill(root);
    mount(root, false).unwrap();
}

fn snapshot(store: &Store, text: &str) -> Result<wharf_cache::SnapshotId, Box<dyn Error>> {
    let active = store.prepare(&Chain::default())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(active.upper(), "file", flags, Mode::from_raw_mode(0o644))?;
    fs::File::from(file).write_all(text.as_bytes())?;
    Ok(active.commit(SystemTime::UNIX_EPOCH)?.id)
}

fn open(root: &Path) -> Done {
    drop(Store::open(root)?);
    Ok(())
}

fn write_blob(root: &Path) -> Done {
    let store = Store::open(root)?;
    let mut writer = store.blobs().writer()?;
    for _ in 0..3 {
        writer.write_all(&[7; 50_000])?;
    }
    writer.commit()?;
    Ok(())
}

/// Snapshots have names of their own each time: the second is left out when the first is there.
fn commit_snapshot(root: &Path) -> Done {
    let store = Store::open(root)?;
    let is_there = fs::read_dir(root.join("snapshots"))?.any(|entry| {
        entry.is_ok_and(|entry| fs::read(entry.path().join("fs/file")).is_ok_and(|it| it == b"new"))
    });
    if !is_there {
        snapshot(&store, "new")?;
    }
    Ok(())
}

fn record(root: &Path) -> Done {
    let store = Store::open(root)?;
    let known = store.record(&KEYS[0])?.ok_or("the first record is gone")?;
    store.put_record(&[KEYS[1]], &KEYS[1], &known)?;
    Ok(())
}

fn set_layer(root: &Path) -> Done {
    let store = Store::open(root)?;
    let known = store.record(&KEYS[0])?.ok_or("the record is gone")?;
    let digest = store.blobs().put(b"layer")?;
    let layer = Layer {
        diff_id: DiffId(digest),
        digest,
        size: 5,
        media_type: "tar".to_owned(),
        annotations: Default::default(),
    };
    Ok(store.set_layer(known.outputs[0].0[0], "none", ChainId(digest), &layer)?)
}

fn pin(root: &Path) -> Done {
    let digest = Digest::of(b"pinned");
    let pin = Pin { target: digest, manifest: digest, config: digest };
    Ok(Store::open(root)?.set_pin("a:1", "linux/amd64", &pin)?)
}

fn remember_files(root: &Path) -> Done {
    let stamp = |ino| FileStamp { dev: 1, ino, size: 1, mtime_ns: 1, ctime_ns: 1 };
    let entries: Vec<_> = (0..200).map(|ino| (stamp(ino), ContentDigest([1; 32]))).collect();
    Ok(Store::open(root)?.stat_cache_put(&entries)?)
}

fn tag(store: &Store, name: &str) -> Done {
    tag_as(store, name, "new")
}

fn tag_as(store: &Store, name: &str, text: &str) -> Done {
    let config = store.blobs().put(text.as_bytes())?;
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":{}}},"layers":[]}}"#,
        text.len()
    );
    Ok(store.put_image(&Image {
        name: Some(name.to_owned()),
        digest: store.blobs().put(manifest.as_bytes())?,
        size: manifest.len() as u64,
        media_type: MANIFEST.to_owned(),
        created: SystemTime::UNIX_EPOCH,
    })?)
}

fn remove_image(root: &Path) -> Done {
    let store = Store::open(root)?;
    let images = store.images()?;
    if let Some(image) = images.iter().find(|image| image.name.as_deref() == Some("a:1")) {
        store.remove_image(image)?;
    }
    Ok(())
}

fn fill_dispensable(root: &Path) {
    fill(root);
    let store = Store::open(root).unwrap();
    // What had the name before has none now.
    tag(&store, "a:1").unwrap();
}

fn collect_all(root: &Path) -> Done {
    Store::open(root)?.collect(Goal::Everything, &|_| true)?;
    Ok(())
}

/// Two builds with logs.
fn fill_builds(root: &Path) {
    fill(root);
    let store = Store::open(root).unwrap();
    for number in 0..2 {
        let build = BuildRow {
            id: BuildId::random().unwrap(),
            project: Key([0; 32]),
            started: SystemTime::UNIX_EPOCH,
            duration: Duration::from_secs(number),
            status: BuildStatus::Succeeded,
            graph: Key([3; 32]),
            outcome: Vec::new(),
            log_bytes: 0,
        };
        let logs = BuildLogs::new(&store);
        logs.append(&KEYS[0], Duration::ZERO, LogStream::Stdout, b"said");
        let graph = NewGraph { bytes: b"graph".to_vec(), lists: Vec::new(), new_lists: Vec::new() };
        assert!(store.record_build(&build, Some(&graph), logs).unwrap().is_none());
    }
}

fn remove_builds(root: &Path) -> Done {
    let store = Store::open(root)?;
    let builds: Vec<_> = store.builds(None, 9)?.into_iter().map(|build| build.id).collect();
    Ok(store.remove_builds(&builds)?)
}

fn drop_snapshot(root: &Path) -> Done {
    let store = Store::open(root)?;
    if let Some(known) = store.record(&KEYS[0])? {
        store.drop_snapshot(known.outputs[0].0[1])?;
    }
    Ok(())
}

/// Two snapshots that have a file in common; the second is recorded.
fn share_files(root: &Path) {
    fill(root);
    let store = Store::open(root).unwrap();
    for (key, files) in [(Key([8; 32]), 70), (KEYS[1], 1)] {
        let mut active = store.prepare(&Chain::default()).unwrap();
        let mut sharing = active.sharing(&Key([9; 32]), &Key([9; 32])).unwrap().unwrap();
        for number in 0..files {
            let name = if number == 0 { "file".to_owned() } else { number.to_string() };
            let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            let content = blake3::hash(name.as_bytes()).into();
            let size = name.len() as u64;
            let wanted = Wanted { content, size, mode: 0o600, owner, mtime: (1000, 0) };
            if !sharing.share(Path::new(&name), &wanted) {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
                let file =
                    rustix::fs::openat(active.upper(), &*name, flags, Mode::RUSR | Mode::WUSR).unwrap();
                let mut file = fs::File::from(file);
                file.write_all(name.as_bytes()).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
            }
        }
        active.shares(sharing);
        let outputs = vec![Chain(vec![active.commit(SystemTime::UNIX_EPOCH).unwrap().id])];
        store.put_record(&[key], &Key([9; 32]), &Record { outputs }).unwrap();
    }
}

fn part_files(root: &Path) -> Done {
    let store = Store::open(root)?;
    let known = store.record(&KEYS[1])?.ok_or("the record is gone")?;
    Ok(store.part_shared(&known.outputs[0])?)
}

fn lock(root: &Path) -> Done {
    let store = Store::open(root)?;
    drop(store.lock_key_unless(&KEYS[0], &|| false)?);
    Ok(())
}

fn mount(root: &Path, fresh: bool) -> Done {
    let store = Store::open(root)?;
    let name = MountName::new("go", None, [None; 3]);
    let request = MountRequest { name: &name, sharing: Sharing::Locked, first: 0, fresh };
    let fill = |dir: std::os::fd::BorrowedFd<'_>| {
        let made = rustix::fs::mkdirat(dir.as_fd(), "seed", Mode::RWXU);
        made.map_err(|errno| StoreError::Io { operation: "make", path: "seed".into(), source: errno.into() })
    };
    store.try_mount::<StoreError>(&request, &fill)?.ok_or("somebody uses the cache")?;
    Ok(())
}

/// What processes that died have left.
fn leave_leftovers(root: &Path) {
    fill(root);
    for number in 0..3 {
        let dead = root.join(format!("tmp/00000000000000{number:02}"));
        fs::create_dir_all(dead.join("0/snapshot/fs/deep/er")).unwrap();
        fs::write(dead.join("1"), "a blob").unwrap();
        fs::create_dir_all(root.join(format!("snapshots/00000000000000{number:02}/fs"))).unwrap();
        fs::write(root.join(format!("locks/{}", KEYS[number % 2].hex())), "").unwrap();
    }
    fs::write(root.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
}

fn lose_database(root: &Path) {
    fill(root);
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = fs::remove_file(root.join(name));
    }
}

fn ruin_database(root: &Path) {
    fill(root);
    fs::write(root.join("state.db"), [0xa5; 20_000]).unwrap();
}
