//! Damaged databases, alone and with others around.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::time::SystemTime;

use super::*;
use crate::gc::{Goal, Item};
use crate::state::{Image, Record};
use crate::store::test_root::{TestRoot, write_at};
use crate::{Chain, Key, Store};

const KEY: Key = Key([7; 32]);

/// A store with an image, a snapshot and a record of it.
fn filled() -> TestRoot {
    let root = TestRoot::new();
    fill(&root.open());
    root
}

fn fill(store: &Store) -> Chain {
    let manifest = br#"{"layers":[]}"#;
    let digest = store.blobs().put(manifest).unwrap();
    let image = Image {
        name: Some("a:1".to_owned()),
        digest,
        size: manifest.len() as u64,
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        created: SystemTime::now(),
    };
    store.put_image(&image).unwrap();
    let mut active = store.prepare(&Chain::default()).unwrap();
    write_at(active.root().unwrap(), "file", "x");
    let chain = Chain(vec![active.commit(SystemTime::now()).unwrap().id]);
    store.put_record(&[KEY], &KEY, &Record { outputs: vec![chain.clone()] }).unwrap();
    chain
}

fn names(store: &Store) -> Vec<String> {
    store.images().unwrap().into_iter().filter_map(|image| image.name).collect()
}

/// What the database says of itself.
fn soundness(root: &TestRoot) -> String {
    let connection = Connection::open(root.path().join("state.db")).unwrap();
    connection.pragma_query_value(None, "integrity_check", |row| row.get(0)).unwrap()
}

/// Overwrites a part of every page of the database, but not what is read when it is opened.
fn scratch_pages(root: &TestRoot) {
    let path = root.path().join("state.db");
    let checkpointed = Connection::open(&path).unwrap();
    checkpointed.pragma_update_and_check(None, "wal_checkpoint", "truncate", |_| Ok(())).unwrap();
    drop(checkpointed);
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    for page in 1..file.metadata().unwrap().len() / 4096 {
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0x55; 64]).unwrap();
    }
}

type Harm = fn(&Path);

#[test]
fn a_damaged_database_is_set_aside_and_the_images_stay() {
    let harms: [(&str, Harm); 7] = [
        ("no database", |path| fs::write(path, "precious notes, and more of them").unwrap()),
        ("noise", |path| fs::write(path, [0xa5; 40_960]).unwrap()),
        ("its header only", |path| fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap()),
        ("half of it", |path| {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2 + 100).unwrap();
        }),
        ("a flipped header", |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[5] ^= 0xff;
            fs::write(path, bytes).unwrap();
        }),
        ("another's tables", |path| {
            fs::remove_file(path).unwrap();
            let other = Connection::open(path).unwrap();
            other.execute_batch("CREATE TABLE snapshots (a)").unwrap();
            other.pragma_update(None, "user_version", schema::VERSION).unwrap();
        }),
        ("tables without a version", |path| {
            let other = Connection::open(path).unwrap();
            other.pragma_update(None, "user_version", 0).unwrap();
        }),
    ];
    for (name, harm) in harms {
        let root = filled();
        harm(&root.path().join("state.db"));
        // Some damage is seen when a table is read, by whoever reads it; the next one has a new database.
        let store = root.open();
        let _ = (store.record(&KEY), store.images(), store.has_record_of(&KEY));
        let damages = store.take_damages();
        let expected = Damage::Database { set_aside: root.path().join("state.db.damaged") };
        assert_eq!(damages, [expected], "{name}");
        assert!(root.path().join("state.db.damaged").exists(), "{name}");
        assert_eq!(names(&store), ["a:1"], "{name}");
        assert_eq!(store.record(&KEY).unwrap(), None, "{name}");
        fill(&store);
        drop(store);
        let store = root.open();
        assert_eq!(store.take_damages(), [], "{name}");
        assert_eq!(root.names("snapshots").len(), 1, "{name}");
        assert!(store.record(&KEY).unwrap().is_some(), "{name}");
        drop(store);
        assert_eq!(root.names("tmp"), [""; 0], "{name}");
        assert_eq!(soundness(&root), "ok", "{name}");
    }
}

#[test]
fn an_empty_or_lost_database_is_begun_anew() {
    for harm in [(|path| fs::write(path, "").unwrap()) as Harm, |path| fs::remove_file(path).unwrap()] {
        let root = filled();
        harm(&root.path().join("state.db"));
        let store = root.open();
        assert_eq!(names(&store), ["a:1"]);
        assert_eq!(store.record(&KEY).unwrap(), None);
        assert_eq!(root.names("snapshots"), [""; 0]);
    }
}

#[test]
fn damage_that_is_met_midway_fails_once() {
    let root = filled();
    let store = root.open();
    scratch_pages(&root);
    let error = store.record(&KEY).unwrap_err();
    assert!(error.is_corrupt() && error.is_lost(), "{error:?}");
    assert_eq!(store.take_damages().len(), 1);
    assert_eq!(store.record(&KEY).unwrap(), None);
    let chain = fill(&store);
    store.view(&chain).unwrap();
    let database = fs::read_dir(root.path()).unwrap().flatten();
    let aside = database.filter(|entry| entry.file_name().to_string_lossy().starts_with("state.db.damaged"));
    assert!(aside.count() > 0);
    assert_eq!(soundness(&root), "ok");
}

/// Overwrites the root page of one table.
fn scratch_table(root: &TestRoot, table: &str) {
    let path = root.path().join("state.db");
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update_and_check(None, "wal_checkpoint", "truncate", |_| Ok(())).unwrap();
    let page: u32 = connection
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = ?1", [table], |row| row.get(0))
        .unwrap();
    drop(connection);
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(u64::from(page - 1) * 4096)).unwrap();
    file.write_all(&[0x55; 64]).unwrap();
}

#[test]
fn damage_that_is_met_while_openers_are_held_off_fails_once() {
    type Act = fn(&Store) -> Result<(), StoreError>;
    let collect: Act = |store| store.collect(Goal::Everything, &|_| true).map(drop);
    let remove: Act = |store| store.remove_image(&store.images()?[0]).map(drop);
    for (table, act) in [("records", collect), ("pins", remove)] {
        let root = filled();
        let store = root.open();
        scratch_table(&root, table);
        let error = act(&store).unwrap_err();
        assert!(error.is_corrupt(), "{table}: {error:?}");
        assert_eq!(store.take_damages().len(), 1, "{table}");
        fill(&store);
        act(&store).unwrap();
        drop(store);
        assert_eq!(soundness(&root), "ok", "{table}");
    }
}

#[test]
fn a_collector_goes_over_to_the_new_database() {
    let root = filled();
    let store = root.open();
    let lose = |_: &Item| {
        let _ = fs::rename(root.path().join("state.db"), root.path().join("state.db.damaged"));
        true
    };
    let error = store.collect(Goal::Everything, &lose).unwrap_err();
    assert!(matches!(error, StoreError::Replaced), "{error:?}");
    fill(&store);
    assert_eq!(names(&root.open()), ["a:1"]);
}

#[test]
fn others_go_over_to_the_new_database() {
    let root = filled();
    let (first, second) = (root.open(), root.open());
    let held = second.record(&KEY).unwrap().unwrap().outputs.remove(0);
    let view = second.view(&held).unwrap();
    first.replace_database(0).unwrap();
    let chain = fill(&first);

    // What the second has mounted is still there, but cannot be mounted again.
    let file = rustix::fs::openat(&view, "file", OFlags::RDONLY, Mode::empty());
    file.unwrap();
    let error = second.view(&held).unwrap_err();
    assert!(matches!(error, crate::snapshot::SnapshotError::Store(StoreError::Replaced)), "{error:?}");
    assert_eq!(second.record(&KEY).unwrap().unwrap().outputs, [chain]);
    assert_eq!(second.take_damages(), []);

    // A third that opens now deletes nothing that is mounted.
    let third = root.open();
    rustix::fs::openat(&view, "file", OFlags::RDONLY, Mode::empty()).unwrap();
    drop((view, first, second, third));
    drop(root.open());
    assert_eq!(root.names("tmp"), [""; 0]);
    assert_eq!(root.names("snapshots").len(), 1);
    assert_eq!(soundness(&root), "ok");
}

#[test]
fn what_is_written_to_a_replaced_database_is_not_taken_for_written() {
    let root = filled();
    let (first, second) = (root.open(), root.open());
    first.replace_database(0).unwrap();
    let active = second.prepare(&Chain::default()).unwrap();
    let error = active.commit(SystemTime::now()).unwrap_err();
    assert!(matches!(error, crate::snapshot::SnapshotError::Store(StoreError::Replaced)), "{error:?}");
    let chain = fill(&second);
    drop(second);
    // The second's last look at the old files has not touched the new ones.
    assert_eq!(first.record(&KEY).unwrap().unwrap().outputs, [chain]);
    assert_eq!(names(&first), ["a:1"]);
    drop(first);
    assert_eq!(soundness(&root), "ok");
}

#[test]
fn threads_that_meet_the_damage_together_begin_one_database() {
    let root = filled();
    let store = root.open();
    scratch_pages(&root);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..20 {
                    let _ = (store.record(&KEY), store.images());
                }
            });
        }
    });
    assert_eq!(store.take_damages().len(), 1);
    assert_eq!(names(&store), ["a:1"]);
}
