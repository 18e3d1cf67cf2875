//! Records, images, pins, the stat cache and the locks.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use expect_test::expect;

use super::*;
use crate::snapshot::{Layer, SnapshotId};
use crate::store::test_root::TestRoot;
use crate::{ChainId, ContentDigest, DiffId, Key, Store, StoreError};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn snapshot(store: &Store) -> SnapshotId {
    store.prepare(&Chain::default()).unwrap().commit(SystemTime::now()).unwrap().id
}

#[test]
fn a_record_needs_its_snapshots() {
    let root = TestRoot::new();
    let store = root.open();
    let (a, b) = (snapshot(&store), snapshot(&store));
    let (key, op) = (Key([1; 32]), Key([9; 32]));
    assert_eq!(store.record(&key).unwrap(), None);
    assert!(!store.has_record_of(&op).unwrap());
    for outputs in [vec![], vec![Chain::default()], vec![Chain(vec![a, b]), Chain::default(), Chain(vec![a])]]
    {
        let record = Record { outputs };
        store.put_record(&[key, Key([2; 32])], &op, &record).unwrap();
        assert_eq!(store.record(&key).unwrap(), Some(record.clone()));
        assert_eq!(store.record(&Key([2; 32])).unwrap(), Some(record));
    }
    assert!(store.has_record_of(&op).unwrap());
    let unknown = Record { outputs: vec![Chain(vec![a]), Chain(vec![SnapshotId(1)])] };
    store.put_record(&[key], &op, &unknown).unwrap();
    assert_eq!(store.record(&key).unwrap(), None);
}

#[test]
fn a_key_is_locked_once() {
    let root = TestRoot::new();
    let stores = [root.open(), root.open()];
    let holders = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (stores, holders) = (&stores, &holders);
            scope.spawn(move || {
                for _ in 0..50 {
                    let lock = stores[thread % 2].lock_key_unless(&Key([1; 32]), &|| false).unwrap();
                    assert_eq!(holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    drop(lock);
                }
            });
        }
    });
    let first = stores[0].lock_key_unless(&Key([1; 32]), &|| false).unwrap();
    let second = stores[0].lock_key_unless(&Key([2; 32]), &|| false).unwrap();
    assert_eq!(root.names("locks").len(), 2);
    drop((first, second));
    assert_eq!(root.names("locks"), [""; 0]);
}

#[test]
fn pins_are_by_reference_and_platform() {
    let root = TestRoot::new();
    let store = root.open();
    let pin = |byte: u8| Pin {
        target: Digest::of(&[byte]),
        manifest: Digest::of(&[byte, 1]),
        config: Digest::of(&[byte, 2]),
    };
    store.set_pin("a:1", "linux/amd64", &pin(1)).unwrap();
    store.set_pin("a:1", "linux/arm64", &pin(2)).unwrap();
    store.set_pin("a:1", "linux/amd64", &pin(3)).unwrap();
    assert_eq!(store.pin("a:1", "linux/amd64").unwrap(), Some(pin(3)));
    assert_eq!(store.pin("a:1", "linux/arm64").unwrap(), Some(pin(2)));
    assert_eq!(store.pin("a:2", "linux/amd64").unwrap(), None);
}

#[test]
fn the_stat_cache_knows_only_the_exact_stamp() {
    let root = TestRoot::new();
    let store = root.open();
    let stamp = FileStamp { dev: u64::MAX, ino: 1 << 63, size: 3, mtime_ns: -4, ctime_ns: 5 };
    let content = ContentDigest([1; 32]);
    store.stat_cache_put(&[(stamp, ContentDigest([9; 32]))]).unwrap();
    store.stat_cache_put(&[(stamp, content)]).unwrap();
    let others = [
        FileStamp { dev: 1, ..stamp },
        FileStamp { ino: 1, ..stamp },
        FileStamp { size: 1, ..stamp },
        FileStamp { mtime_ns: 1, ..stamp },
        FileStamp { ctime_ns: 1, ..stamp },
    ];
    let stamps: Vec<_> = others.into_iter().chain([stamp]).collect();
    let expected: Vec<_> = others.map(|_| None).into_iter().chain([Some(content)]).collect();
    assert_eq!(store.stat_cache_get(&stamps).unwrap(), expected);
    assert_eq!(store.stat_cache_get(&[]).unwrap(), []);
    store.stat_cache_put(&[]).unwrap();
}

/// Stores an image of two layers; what differs between two images is `text`.
fn image(store: &Store, name: Option<&str>, text: &str) -> Image {
    let descriptor = |media_type: &str, bytes: &str| {
        let digest = store.blobs().put(bytes.as_bytes()).unwrap();
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, bytes.len())
    };
    let config = descriptor("application/vnd.oci.image.config.v1+json", &format!(r#"{{"x":"{text}"}}"#));
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar", &format!("layer of {text}"));
    let shared = descriptor("application/vnd.oci.image.layer.v1.tar", "shared layer");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[{shared},{layer}]}}"#
    );
    Image {
        name: name.map(str::to_owned),
        digest: store.blobs().put(manifest.as_bytes()).unwrap(),
        size: manifest.len() as u64,
        media_type: MANIFEST.to_owned(),
        created: SystemTime::now(),
    }
}

fn put(store: &Store, name: Option<&str>, text: &str) -> Image {
    let image = image(store, name, text);
    store.put_image(&image).unwrap();
    image
}

#[test]
fn names_move_and_leave_untagged_images() {
    // What is put, as name and content; then all images, oldest first.
    #[track_caller]
    fn check(puts: &[(Option<&str>, &str)], expected: &str) {
        let root = TestRoot::new();
        let store = root.open();
        let mut contents = Vec::new();
        for (name, text) in puts {
            contents.push((put(&store, *name, text).digest, *text));
        }
        let images = store.images().unwrap();
        let text = |digest| contents.iter().find(|content| content.0 == digest).unwrap().1;
        let lines: Vec<_> = images
            .iter()
            .rev()
            .map(|image| format!("{}={}", image.name.as_deref().unwrap_or("<none>"), text(image.digest)))
            .collect();
        assert_eq!(lines.join(" "), expected);
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(root.path().join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), images.len());
    }
    let (a, b) = (Some("a:1"), Some("b:1"));
    check(&[(a, "1")], "a:1=1");
    check(&[(a, "1"), (a, "1")], "a:1=1");
    check(&[(a, "1"), (b, "1")], "a:1=1 b:1=1");
    check(&[(a, "1"), (a, "2")], "<none>=1 a:1=2");
    check(&[(a, "1"), (b, "1"), (a, "2")], "b:1=1 a:1=2");
    check(&[(a, "1"), (a, "2"), (a, "1")], "<none>=2 a:1=1");
    check(&[(None, "1"), (None, "1")], "<none>=1");
    check(&[(None, "1"), (a, "1")], "a:1=1");
    check(&[(a, "1"), (None, "1")], "a:1=1");
}

#[test]
fn the_index_names_images_for_other_tools() {
    let root = TestRoot::new();
    let store = root.open();
    put(&store, Some("docker.io/library/app:latest"), "1");
    put(&store, Some("docker.io/library/app:latest"), "2");
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root.path().join("index.json")).unwrap()).unwrap();
    expect![[r#"
        {
          "manifests": [
            {
              "digest": "sha256:90e20c20a648512f7e6b5a573a6e5847adc1aab8d911eaffb5962203b1264c2f",
              "mediaType": "application/vnd.oci.image.manifest.v1+json",
              "size": 541
            },
            {
              "annotations": {
                "org.opencontainers.image.ref.name": "docker.io/library/app:latest"
              },
              "digest": "sha256:e972c5ac7de217709b5d10ef2f72c39df856a2f4f0202193ba62508fbffc8367",
              "mediaType": "application/vnd.oci.image.manifest.v1+json",
              "size": 541
            }
          ],
          "mediaType": "application/vnd.oci.image.index.v1+json",
          "schemaVersion": 2
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&index).unwrap());
}

#[test]
fn an_image_without_its_manifest_is_refused() {
    let root = TestRoot::new();
    let store = root.open();
    let image = Image { digest: Digest::of(b"nowhere"), ..image(&store, Some("a:1"), "1") };
    assert!(matches!(store.put_image(&image), Err(StoreError::Missing { kind: "blob", .. })));
    assert_eq!(store.images().unwrap(), []);
}

#[test]
fn a_lost_database_takes_its_images_from_the_index() {
    let root = TestRoot::new();
    let store = root.open();
    let image = put(&store, Some("a:1"), "1");
    snapshot(&store);
    drop(store);
    for name in root.names("").iter().filter(|name| name.starts_with("state.db")) {
        std::fs::remove_file(root.path().join(name)).unwrap();
    }
    let store = root.open();
    let images = store.images().unwrap();
    assert_eq!((images.len(), &images[0].name, images[0].digest), (1, &image.name, image.digest));
    assert_eq!(root.names("snapshots"), [""; 0]);
}

#[test]
fn removing_an_image_deletes_what_only_it_needs() {
    let root = TestRoot::new();
    let store = root.open();
    let (a, b) = (put(&store, Some("a:1"), "1"), put(&store, Some("b:1"), "2"));
    let also_a = Image { name: Some("c:1".to_owned()), ..a.clone() };
    store.put_image(&also_a).unwrap();
    let unnamed = store.blobs().put(b"just written, to be named in a moment").unwrap();

    let missing = store.remove_image(&Image { name: Some("b:1".to_owned()), ..a.clone() }).unwrap_err();
    assert!(matches!(missing, StoreError::Missing { kind: "image", .. }));
    assert_eq!(store.remove_image(&a).unwrap(), [], "it has another name");
    assert_eq!(store.remove_image(&also_a).unwrap().len(), 3, "manifest, config and its own layer");
    assert_eq!(store.images().unwrap().len(), 1);
    assert_eq!(store.remove_image(&b).unwrap().len(), 4, "the shared layer too");
    assert_eq!(store.blobs().list().unwrap(), [unnamed]);
}

#[test]
fn what_others_need_stays() {
    let root = TestRoot::new();
    let store = root.open();
    let layer_of = |text: &str| Digest::of(format!("layer of {text}").as_bytes());

    let image_1 = put(&store, Some("a:1"), "1");
    let id = snapshot(&store);
    let layer = Layer {
        diff_id: DiffId(layer_of("1")),
        digest: layer_of("1"),
        size: 1,
        media_type: String::new(),
        annotations: BTreeMap::new(),
    };
    store.set_layer(id, "none", ChainId(layer_of("1")), &layer).unwrap();
    let deleted = store.remove_image(&image_1).unwrap();
    assert!(!deleted.contains(&layer_of("1")), "a layer row names it");

    let image_2 = put(&store, Some("a:1"), "2");
    let pin = Pin { target: image_2.digest, manifest: image_2.digest, config: Digest::of(b"elsewhere") };
    store.set_pin("a:1", "linux/amd64", &pin).unwrap();
    assert_eq!(store.remove_image(&image_2).unwrap(), [], "a pin reaches all of it");

    // A builder has made the same image again and is about to name it.
    put(&store, Some("a:1"), "3");
    let image_3 = image(&store, Some("b:1"), "3");
    store.remove_image(&Image { name: Some("a:1".to_owned()), ..image_3.clone() }).unwrap();
    store.put_image(&image_3).unwrap();
    store.blobs().read(&layer_of("3"), 100).unwrap();
}

#[test]
fn an_index_reaches_the_manifests_that_are_here() {
    let root = TestRoot::new();
    let store = root.open();
    let other = put(&store, Some("b:1"), "2");
    let inner = image(&store, None, "1");
    let absent = Digest::of(b"another platform");
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}"}},{{"digest":"{absent}"}}]}}"#,
        inner.digest
    );
    let digest = store.blobs().put(index.as_bytes()).unwrap();
    let index = Image { name: Some("a:1".to_owned()), digest, ..inner.clone() };
    let odd = [&b"not JSON"[..], b"{}", b"[1]", br#"{"layers":[{"digest":"sha256:zz"}]}"#, b""];
    for (number, bytes) in odd.into_iter().enumerate() {
        let digest = store.blobs().put(bytes).unwrap();
        store.put_image(&Image { name: Some(format!("odd:{number}")), digest, ..inner.clone() }).unwrap();
    }
    store.put_image(&index).unwrap();
    assert_eq!(store.remove_image(&other).unwrap().len(), 3, "the shared layer stays");
    assert_eq!(store.remove_image(&index).unwrap().len(), 5);
}

#[test]
fn old_unnamed_blobs_go_with_the_next_image() {
    let root = TestRoot::new();
    let store = root.open();
    let old = store.blobs().put(b"old").unwrap();
    let young = store.blobs().put(b"young").unwrap();
    let path = root.path().join("blobs/sha256").join(old.hex());
    let written = SystemTime::now() - Duration::from_secs(25 * 60 * 60);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(written).unwrap();
    let image = put(&store, Some("a:1"), "1");
    let deleted = store.remove_image(&image).unwrap();
    assert!(deleted.contains(&old));
    assert!(!deleted.contains(&young));
}

#[test]
fn what_was_written_again_long_ago_goes() {
    let root = TestRoot::new();
    let store = root.open();
    let older = put(&store, Some("a:1"), "1");
    let newer = put(&store, Some("b:1"), "2");
    let shared = Digest::of(b"shared layer");
    assert!(!store.remove_image(&newer).unwrap().contains(&shared), "the other image needs it");
    let ago = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 60 * 60);
    let age = format!("UPDATE images SET recorded_ns = {}", crate::store::to_nanos(ago(3)));
    store
        .write("age", |transaction| transaction.execute_batch(&age).map_err(StoreError::database("age")))
        .unwrap();
    for digest in store.blobs().list().unwrap() {
        let path = root.path().join("blobs/sha256").join(digest.hex());
        std::fs::File::options().write(true).open(path).unwrap().set_modified(ago(2)).unwrap();
    }
    assert!(store.remove_image(&older).unwrap().contains(&shared));
}
