//! Tests of collection: what is chosen, what leases keep, what is measured.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::choose::choose;
use super::inventory::{Node, What};
use super::*;
use crate::mounts::{MountName, MountRequest, Sharing};
use crate::snapshot::Layer;
use crate::state::{FileStamp, Image, Record, UrlRecord};
use crate::store::test_root::{TestRoot, write_at};
use crate::{Chain, ChainId, ContentDigest, DiffId, Digest, Key, SnapshotId, Store, StoreError};

/// Ten seconds ago, a minute ago …: all tests of choices are at the same instant.
fn ago(now: SystemTime, seconds: u64) -> SystemTime {
    now - Duration::from_secs(seconds)
}

/// What is said of an item: name, state, bytes, seconds since it was used, seconds to have it again, what it stands on
/// and the blobs made of it.
type Said<'a> = (&'a str, State, u64, u64, u64, &'a [&'a str], &'a [&'a str]);

/// Which of the items go, in which order, when so many bytes are too many.
#[track_caller]
fn check_choice(items: &[Said<'_>], excess: u64, expected: &str) {
    let now = SystemTime::now();
    let index: HashMap<&str, usize> = items.iter().enumerate().map(|(index, item)| (item.0, index)).collect();
    let mut nodes: Vec<Node> = items
        .iter()
        .map(|(name, state, bytes, idle, cost, below, blobs)| Node {
            item: Item {
                kind: Kind::Other,
                name: (*name).to_owned(),
                title: String::new(),
                bytes: *bytes,
                used: Some(ago(now, *idle)),
                cost: Duration::from_secs(*cost),
                images: Vec::new(),
                state: *state,
            },
            what: What::Fixed,
            below: below.iter().map(|name| index[name]).collect(),
            on_top: items.iter().filter(|item| item.5.contains(name)).count(),
            blobs: blobs.iter().map(|name| index[name]).collect(),
            only_for: Some(items.iter().filter(|item| item.6.contains(name)).count())
                .filter(|count| *count > 0),
        })
        .collect();
    let chosen = choose(&nodes, excess, now, &|item| !item.name.starts_with("refused"));
    let names: Vec<_> = chosen.iter().map(|index| std::mem::take(&mut nodes[*index].item.name)).collect();
    assert_eq!(names.join(" "), expected);
}

#[test]
fn the_most_dispensable_goes_first() {
    use State::{Cached, Dangling, Fixed, Garbage, InUse, Tagged};
    const NONE: &[&str] = &[];
    // Nothing but garbage goes when nothing has to.
    check_choice(&[("a", Cached, 9, 9, 9, NONE, NONE), ("b", Garbage, 1, 0, 9, NONE, NONE)], 0, "b");
    // Garbage, then what was not used for longest.
    check_choice(
        &[
            ("new", Cached, 10, 1, 1, NONE, NONE),
            ("old", Cached, 10, 100, 1, NONE, NONE),
            ("garbage", Garbage, 1, 0, 1, NONE, NONE),
        ],
        11,
        "garbage old",
    );
    // As old: what is cheaper to have again; the larger one.
    check_choice(
        &[("dear", Cached, 10, 9, 99, NONE, NONE), ("cheap", Cached, 10, 9, 1, NONE, NONE)],
        1,
        "cheap",
    );
    check_choice(
        &[("small", Cached, 10, 9, 1, NONE, NONE), ("large", Cached, 99, 9, 1, NONE, NONE)],
        1,
        "large",
    );
    // A little older does not outweigh what costs much more.
    check_choice(
        &[("dear", Cached, 10, 20, 99, NONE, NONE), ("cheap", Cached, 10, 9, 1, NONE, NONE)],
        1,
        "cheap",
    );
    // What stands on others goes before them, however dear.
    check_choice(
        &[("base", Cached, 99, 99, 1, NONE, NONE), ("top", Cached, 1, 99, 99, &["base"], NONE)],
        5,
        "top base",
    );
    // Nothing is gained by what takes no space: it goes with what it stands on.
    check_choice(
        &[
            ("base", Cached, 99, 99, 1, NONE, NONE),
            ("lazy", Cached, 0, 0, 99, &["base"], NONE),
            ("lazier", Cached, 0, 0, 99, &["lazy"], NONE),
            ("alone", Cached, 9, 9, 9, NONE, NONE),
        ],
        5,
        "lazier lazy base",
    );
    // Unless somebody uses it, or something stands on it that does take space.
    check_choice(
        &[
            ("base", Cached, 99, 99, 1, NONE, NONE),
            ("lazy", InUse, 0, 0, 99, &["base"], NONE),
            ("other base", Cached, 99, 99, 1, NONE, NONE),
            ("between", Cached, 0, 0, 99, &["other base"], NONE),
            ("refused", Cached, 9, 9, 9, &["between"], NONE),
            ("alone", Cached, 9, 9, 9, NONE, NONE),
        ],
        5,
        "alone",
    );
    // What a used one stands on stays.
    check_choice(
        &[("base", Cached, 99, 99, 1, NONE, NONE), ("top", InUse, 1, 99, 99, &["base"], NONE)],
        0,
        "",
    );
    // A blob goes with the last snapshot that leads to it.
    check_choice(
        &[
            ("one", Cached, 50, 99, 1, NONE, &["blob"]),
            ("two", Cached, 50, 9, 1, NONE, &["blob"]),
            ("blob", Cached, 1, 0, 99, NONE, NONE),
        ],
        51,
        "one two blob",
    );
    // Two that stand on each other.
    check_choice(&[("a", Cached, 5, 99, 1, &["b"], NONE), ("b", Cached, 5, 9, 1, &["a"], NONE)], 6, "a b");
    // What has to stay, and what is not to be looked at.
    check_choice(
        &[
            ("tagged", Tagged, 5, 99, 1, NONE, NONE),
            ("used", InUse, 5, 99, 1, NONE, NONE),
            ("fixed", Fixed, 5, 99, 1, NONE, NONE),
            ("refused", Cached, 5, 99, 1, NONE, NONE),
            ("refused garbage", Garbage, 5, 99, 1, NONE, NONE),
            ("dangling", Dangling, 5, 99, 1, NONE, NONE),
        ],
        99,
        "dangling",
    );
}

/// Commits a snapshot with a file of so many bytes.
fn snapshot(store: &Store, below: &Chain, text: &str) -> Chain {
    let active = store.prepare(below).unwrap();
    write_at(active.upper(), "file", text);
    below.with(active.commit(SystemTime::now()).unwrap().id)
}

fn record(store: &Store, key: u8, chain: &Chain) {
    let record = Record { outputs: vec![chain.clone()] };
    store.put_record(&[Key([key; 32])], &Key([0; 32]), &record).unwrap();
}

fn has_record(store: &Store, key: u8) -> bool {
    store.record(&Key([key; 32])).unwrap().is_some()
}

fn state_of(store: &Store, name: &str) -> State {
    store.items().unwrap().into_iter().find(|item| item.name == name).unwrap().state
}

fn collect_all(store: &Store) -> Collected {
    store.collect(Goal::Everything, &|_| true).unwrap()
}

fn names_in(root: &TestRoot, dir: &str) -> usize {
    root.names(dir).len()
}

#[test]
fn what_others_use_stays_until_they_end() {
    let root = TestRoot::new();
    let (user, collector) = (root.open(), root.open());
    let base = snapshot(&collector, &Chain::default(), "base");
    let top = snapshot(&collector, &base, "top");
    record(&collector, 1, &top);
    record(&collector, 2, &snapshot(&collector, &base, "other"));
    drop(collector);
    let collector = root.open();
    assert!(has_record(&user, 1));
    assert_eq!(state_of(&collector, &top.0[1].to_string()), State::InUse);
    collect_all(&collector);
    assert_eq!(root.names("snapshots"), {
        let mut names = top.0.iter().map(SnapshotId::to_string).collect::<Vec<_>>();
        names.sort();
        names
    });
    assert!(has_record(&user, 1));
    assert!(!has_record(&user, 2));
    // What it makes is its own from the start, also without a record.
    let made = snapshot(&user, &top, "made");
    let blob = user.blobs().put(b"made").unwrap();
    collect_all(&collector);
    assert_eq!((names_in(&root, "snapshots"), names_in(&root, "blobs/sha256")), (3, 1));
    assert_eq!(state_of(&collector, &made.0[2].to_string()), State::InUse);
    assert_eq!(state_of(&collector, &blob.to_string()), State::InUse);
    drop(user);
    collect_all(&collector);
    assert_eq!((names_in(&root, "snapshots"), names_in(&root, "blobs/sha256")), (0, 0));
}

#[test]
fn what_a_container_needs_stays_until_the_container_goes() {
    let root = TestRoot::new();
    let store = root.open();
    let layer = store.blobs().put(b"layer").unwrap();
    let manifest = format!(r#"{{"layers":[{{"digest":"{layer}"}}]}}"#);
    let digest = store.blobs().put(manifest.as_bytes()).unwrap();
    let image = Image {
        name: Some("a:1".to_owned()),
        digest,
        size: manifest.len() as u64,
        media_type: String::new(),
        created: SystemTime::now(),
    };
    store.put_image(&image).unwrap();
    let base = snapshot(&store, &Chain::default(), "base");
    let top = snapshot(&store, &base, "top");
    let other = snapshot(&store, &base, "other");
    let container = root.path().join("containers/c");
    std::fs::create_dir_all(container.join("upper")).unwrap();
    std::fs::create_dir_all(root.path().join("volumes/v/data")).unwrap();
    std::fs::write(root.path().join("volumes/v/data/file"), "kept").unwrap();
    std::fs::write(container.join("upper/file"), "x".repeat(10_000)).unwrap();
    let config = format!(r#"{{"chain":[{},{}],"image":{{"manifest":"{digest}"}}}}"#, top.0[0].0, top.0[1].0);
    std::fs::write(container.join("config.json"), config).unwrap();
    drop(store);
    let store = root.open();
    assert_eq!(state_of(&store, &top.0[1].to_string()), State::InUse);
    // Its image has lost its name, as `rmi --force` does, and its files are needed nevertheless.
    assert_eq!(store.remove_image(&image).unwrap(), []);
    let collected = collect_all(&store);
    let gone: Vec<_> = collected.removed.iter().map(|item| item.name.clone()).collect();
    assert_eq!(gone, [other.0[1].to_string()]);
    assert!(collected.in_use_bytes > 0);
    let kept =
        |kind| store.items().unwrap().iter().filter(|item| item.kind == kind).map(|item| item.bytes).sum();
    let (containers, volumes): (u64, u64) = (kept(Kind::Container), kept(Kind::Volume));
    assert!(containers >= 10_000 && volumes > 0, "{containers} {volumes}");
    store.blobs().read(&layer, 1000).unwrap();
    std::fs::remove_dir_all(container).unwrap();
    collect_all(&store);
    assert_eq!((names_in(&root, "snapshots"), names_in(&root, "blobs/sha256")), (0, 0));
    assert_eq!(std::fs::read(root.path().join("volumes/v/data/file")).unwrap(), b"kept");
}

#[test]
fn a_lease_keeps_all_below_a_manifest() {
    let root = TestRoot::new();
    let (user, collector) = (root.open(), root.open());
    let layer = collector.blobs().put(b"layer").unwrap();
    let config = collector.blobs().put(b"{}").unwrap();
    let manifest = format!(r#"{{"config":{{"digest":"{config}"}},"layers":[{{"digest":"{layer}"}}]}}"#);
    let manifest = collector.blobs().put(manifest.as_bytes()).unwrap();
    let pin = crate::state::Pin { target: manifest, manifest, config };
    collector.set_pin("a:1", "linux/amd64", &pin).unwrap();
    drop(collector);
    let collector = root.open();
    assert!(user.pin("a:1", "linux/amd64").unwrap().is_some());
    assert_eq!(state_of(&collector, &layer.to_string()), State::InUse);
    collect_all(&collector);
    assert_eq!(names_in(&root, "blobs/sha256"), 3);
    drop(user);
    assert_eq!(state_of(&collector, &layer.to_string()), State::Cached);
    collect_all(&collector);
    assert_eq!(names_in(&root, "blobs/sha256"), 0);
}

#[test]
fn images_with_names_stay_and_those_without_go() {
    let root = TestRoot::new();
    let store = root.open();
    let put = |name: Option<&str>, text: &str| {
        let layer = store.blobs().put(format!("layer {text}").as_bytes()).unwrap();
        let manifest = format!(r#"{{"layers":[{{"digest":"{layer}"}}]}}"#);
        let digest = store.blobs().put(manifest.as_bytes()).unwrap();
        let media_type = String::new();
        let created = SystemTime::now();
        let image =
            Image { name: name.map(str::to_owned), digest, size: manifest.len() as u64, media_type, created };
        store.put_image(&image).unwrap();
        (image, layer)
    };
    let (tagged, layer) = put(Some("a:1"), "tagged");
    put(None, "untagged");
    // A snapshot of a named image's layer is not garbage although no record leads to it; its files can be had again.
    let chain = snapshot(&store, &Chain::default(), "files");
    let row = Layer {
        diff_id: DiffId(layer),
        digest: layer,
        size: 1,
        media_type: String::new(),
        annotations: BTreeMap::new(),
    };
    store.set_layer(chain.0[0], "gzip", ChainId(layer), &row).unwrap();
    assert_eq!(state_of(&store, &chain.0[0].to_string()), State::Cached);
    assert_eq!(store.items().unwrap().iter().filter(|item| item.state == State::Dangling).count(), 2);
    let dangling = store.collect(Goal::Everything, &|item| item.state == State::Dangling).unwrap();
    assert_eq!(dangling.removed.len(), 2);
    assert_eq!(store.images().unwrap().len(), 1);
    let index = std::fs::read_to_string(root.path().join("index.json")).unwrap();
    assert_eq!(index.matches("sha256:").count(), 1, "{index}");
    let collected = collect_all(&store);
    assert_eq!(collected.removed.iter().map(|item| item.kind).collect::<Vec<_>>(), [Kind::Snapshot]);
    assert!(collected.tagged_bytes > 0);
    store.blobs().read(&tagged.digest, 1000).unwrap();
    store.blobs().read(&layer, 1000).unwrap();
}

#[test]
fn what_nobody_finds_is_garbage() {
    let root = TestRoot::new();
    let store = root.open();
    let (old, new) = (snapshot(&store, &Chain::default(), "1"), snapshot(&store, &Chain::default(), "2"));
    record(&store, 1, &old);
    record(&store, 1, &new);
    let url = snapshot(&store, &Chain::default(), "3");
    let of_url = UrlRecord {
        etag: String::new(),
        last_modified: String::new(),
        digest: Digest::of(b""),
        file_name: "f".to_owned(),
        modified_s: None,
        snapshot: url.0[0],
    };
    store.set_url(&Key([3; 32]), &of_url).unwrap();
    let unnamed = store.blobs().put(b"unnamed").unwrap();
    for (name, state) in [
        (old.0[0].to_string(), State::Garbage),
        (new.0[0].to_string(), State::Cached),
        (url.0[0].to_string(), State::Cached),
        (unnamed.to_string(), State::Garbage),
    ] {
        assert_eq!(state_of(&store, &name), state, "{name}");
    }
    store.collect(Goal::Everything, &|item| item.state == State::Garbage).unwrap();
    assert_eq!((names_in(&root, "snapshots"), names_in(&root, "blobs/sha256")), (2, 0));
    assert!(has_record(&store, 1));
    assert!(store.url(&Key([3; 32])).unwrap().is_some());
}

#[test]
fn use_counts_for_what_it_was_made_from() {
    let root = TestRoot::new();
    let store = root.open();
    let tools = snapshot(&store, &Chain::default(), "tools");
    let base = snapshot(&store, &Chain::default(), "base");
    let copied = snapshot(&store, &base, "copied from tools");
    let unrelated = snapshot(&store, &Chain::default(), "unrelated");
    for (key, chain) in [(1, &tools), (2, &copied), (3, &unrelated)] {
        record(&store, key, chain);
    }
    store.note_made(std::slice::from_ref(&copied), &[&base, &tools], Duration::from_secs(7)).unwrap();
    let long_ago = crate::store::to_nanos(SystemTime::now() - Duration::from_secs(24 * 60 * 60));
    store
        .write("age", |transaction| {
            transaction
                .execute("UPDATE uses SET used_ns = ?1", [long_ago])
                .map_err(StoreError::database("age"))
        })
        .unwrap();
    drop(store);
    let store = root.open();
    assert!(has_record(&store, 2));
    store.settle(u64::MAX).unwrap();
    let items = store.items().unwrap();
    let item =
        |chain: &Chain| items.iter().find(|item| item.name == chain.0.last().unwrap().to_string()).unwrap();
    let is_recent =
        |chain: &Chain| item(chain).used.unwrap().elapsed().unwrap() < Duration::from_secs(60 * 60);
    assert!(is_recent(&copied) && is_recent(&base) && is_recent(&tools));
    assert!(!is_recent(&unrelated));
    assert_eq!(item(&copied).cost, Duration::from_secs(7));
}

/// What `du` says, the database's own files aside: they change while they are looked at.
fn du(root: &Path) -> u64 {
    let output = Command::new("du")
        .args(["--summarize", "--block-size=1", "--exclude=state.db*", "--exclude=tmp"])
        .arg(root)
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn everything_in_the_root_counts() {
    let root = TestRoot::new();
    let store = root.open();
    let active = store.prepare(&Chain::default()).unwrap();
    write_at(active.upper(), "file", &"x".repeat(100_000));
    rustix::fs::linkat(active.upper(), "file", active.upper(), "link", rustix::fs::AtFlags::empty()).unwrap();
    for depth in 1..200 {
        rustix::fs::mkdirat(active.upper(), "d/".repeat(depth), rustix::fs::Mode::RWXU).unwrap();
    }
    record(&store, 1, &Chain(vec![active.commit(SystemTime::now()).unwrap().id]));
    store.blobs().put(&vec![7; 50_000]).unwrap();
    let name = MountName::new("pip", None, [None; 3]);
    let request = MountRequest { name: &name, sharing: Sharing::Shared, first: 0, fresh: false };
    let mount = || store.try_mount::<StoreError>(&request, &|_| Ok(())).unwrap().unwrap();
    write_at(mount().root(), "wheel", &"w".repeat(70_000));
    for (dir, file) in
        [("git/0000", "pack"), ("history", "log"), ("something/new", "file"), ("mounts", "stray")]
    {
        std::fs::create_dir_all(root.path().join(dir)).unwrap();
        std::fs::write(root.path().join(dir).join(file), "y".repeat(9000)).unwrap();
    }
    std::os::unix::fs::symlink("stray", root.path().join("mounts/link")).unwrap();
    let counted = || {
        let items = store.items().unwrap();
        items
            .iter()
            .filter(|item| !matches!(item.kind, Kind::Database | Kind::Running))
            .map(|item| item.bytes)
            .sum::<u64>()
    };
    // `du` leaves `tmp` out, with its own block.
    let tmp = std::fs::metadata(root.path().join("tmp")).unwrap().blocks() * 512;
    let check = || {
        let (counted, du) = (counted(), du(root.path()));
        assert!(counted.abs_diff(du) <= tmp, "{counted} {du}");
    };
    check();
    // A cache mount is measured again after it was used.
    write_at(mount().root(), "wheel", &"w".repeat(700_000));
    check();
    let kinds = |kind| store.items().unwrap().iter().filter(|item| item.kind == kind).count();
    assert_eq!([Kind::CacheMount, Kind::Repository, Kind::History].map(kinds), [1, 1, 1]);
}

#[test]
fn mounts_and_repositories_go_unless_they_are_used() {
    let root = TestRoot::new();
    let store = root.open();
    let take = |id: &str| {
        let name = MountName::new(id, None, [None; 3]);
        let request = MountRequest { name: &name, sharing: Sharing::Shared, first: 0, fresh: false };
        store.try_mount::<StoreError>(&request, &|_| Ok(())).unwrap().unwrap()
    };
    let used = take("used");
    drop(take("idle"));
    let keys = [Key([1; 32]), Key([2; 32])];
    for key in &keys {
        std::fs::create_dir(store.repository_path(key)).unwrap();
    }
    let lock = store.lock_key_unless(&keys[0], &|| false).unwrap();
    let collected = collect_all(&store);
    let titles: Vec<_> = collected.removed.iter().map(|item| item.title.as_str()).collect();
    assert_eq!(titles, ["idle", &keys[1].hex()]);
    assert_eq!((names_in(&root, "mounts"), names_in(&root, "git")), (1, 1));
    drop((used, lock));
    collect_all(&store);
    assert_eq!((names_in(&root, "mounts"), names_in(&root, "git")), (0, 0));
}

#[test]
fn nothing_would_be_removed_where_nothing_is() {
    let root = TestRoot::new();
    let store = root.open();
    record(&store, 1, &snapshot(&store, &Chain::default(), "x"));
    store.blobs().put(b"garbage").unwrap();
    let total = store.items().unwrap().iter().map(|item| item.bytes).sum::<u64>();
    // The database may grow a little meanwhile.
    for (max, is_enough) in [(total * 2, true), (total / 2, false)] {
        let would = store.collectable(Goal::AtMost(max), &|_| true).unwrap();
        let removed = store.collect(Goal::AtMost(max), &|_| true).unwrap().removed;
        assert_eq!((would.is_empty(), removed.is_empty()), (is_enough, is_enough), "{would:?} {removed:?}");
    }
}

#[test]
fn a_store_that_did_not_grow_is_not_measured() {
    let root = TestRoot::new();
    let store = root.open();
    record(&store, 1, &snapshot(&store, &Chain::default(), "x"));
    assert!(store.settle(0).unwrap().is_some());
    assert_eq!(names_in(&root, "snapshots"), 0);
    assert!(store.settle(0).unwrap().is_none(), "nothing was written since");
    store.blobs().put(b"x").unwrap();
    assert!(store.settle(u64::MAX).unwrap().is_none(), "it is under the limit");
}

#[test]
fn files_that_nobody_saw_are_forgotten() {
    let root = TestRoot::new();
    let store = root.open();
    let stamp = |ino| FileStamp { dev: 1, ino, size: 1, mtime_ns: 1, ctime_ns: 1 };
    let content = ContentDigest([1; 32]);
    store.stat_cache_put(&[(stamp(1), content), (stamp(2), content), (stamp(3), content)]).unwrap();
    let age = |days: i64, ino: u64| {
        let age = format!("UPDATE files SET seen_day = seen_day - {days} WHERE ino = {ino}");
        store
            .write("age", |transaction| transaction.execute_batch(&age).map_err(StoreError::database("age")))
            .unwrap();
    };
    age(40, 1);
    age(40, 2);
    age(20, 3);
    assert_eq!(store.stat_cache_get(&[stamp(2)]).unwrap(), [Some(content)]);
    collect_all(&store);
    assert_eq!(
        store.stat_cache_get(&[stamp(1), stamp(2), stamp(3)]).unwrap(),
        [None, Some(content), Some(content)]
    );
}
