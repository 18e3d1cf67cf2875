//! Builds are kept, found, and go again with all that was theirs.

use super::*;
use crate::store::test_root::TestRoot;
use crate::{Damage, Store, StoreError};

fn row(number: u8) -> BuildRow {
    BuildRow {
        id: BuildId::random().unwrap(),
        project: Key([number % 2; 32]),
        started: SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(number)),
        duration: Duration::from_millis(5),
        status: BuildStatus::Succeeded,
        graph: Key([number; 32]),
        outcome: vec![number],
        log_bytes: 0,
    }
}

fn graph(number: u8) -> NewGraph {
    let list = ContentDigest([number / 2; 32]);
    NewGraph { bytes: vec![number; 100], lists: vec![list], new_lists: vec![(list, vec![number / 2; 50])] }
}

/// How much history there is, builds that wait for their rows included.
fn size(store: &Store) -> HistorySize {
    store.builds(None, 0).unwrap();
    store.read("measure the history", rows::history_size).unwrap()
}

fn record(store: &Store, number: u8) -> BuildRow {
    let row = row(number);
    let done = store.record_build(&row, Some(&graph(number)), BuildLogs::new(store)).unwrap();
    assert!(done.is_none());
    row
}

#[test]
fn builds_are_listed_newest_first() {
    let root = TestRoot::new();
    let store = root.open();
    let rows: Vec<BuildRow> = (0..5).map(|number| record(&store, number)).collect();
    let all = store.builds(None, 10).unwrap();
    assert_eq!(all, rows.iter().rev().cloned().collect::<Vec<_>>());
    assert_eq!(store.builds(None, 2).unwrap(), all[..2]);
    assert_eq!(store.builds(Some(&Key([1; 32])), 10).unwrap(), [rows[3].clone(), rows[1].clone()]);
    assert_eq!(store.build_graph(&Key([3; 32])).unwrap(), Some(vec![3; 100]));
    assert_eq!(store.file_list(&ContentDigest([1; 32])).unwrap(), Some(vec![1; 50]));
    assert_eq!(rows[0].id.to_string().parse(), Ok(rows[0].id));
}

#[test]
fn a_graph_is_given_once() {
    let root = TestRoot::new();
    let store = root.open();
    assert!(!store.has_build_graph(&Key([7; 32])).unwrap());
    record(&store, 7);
    assert!(store.has_build_graph(&Key([7; 32])).unwrap());
    store.record_build(&row(7), None, BuildLogs::new(&store)).unwrap();
    // Another process may have been quicker.
    record(&store, 7);
    assert_eq!(store.builds(None, 9).unwrap().len(), 3);
    assert_eq!(size(&store).builds, 3);
}

#[test]
fn what_only_a_removed_build_had_goes_with_it() {
    let root = TestRoot::new();
    let store = root.open();
    // 2 and 3 share a list.
    let rows = [record(&store, 2), record(&store, 3)];
    let list = ContentDigest([1; 32]);
    store.remove_builds(&[rows[0].id]).unwrap();
    assert_eq!(store.build_graph(&Key([2; 32])).unwrap(), None);
    assert!(store.has_file_list(&list).unwrap());
    store.remove_builds(&[rows[1].id, rows[0].id]).unwrap();
    assert!(!store.has_file_list(&list).unwrap());
    assert_eq!(size(&store), HistorySize::default());
}

#[test]
fn the_oldest_go_first_and_the_last_one_stays() {
    let root = TestRoot::new();
    let store = root.open();
    let rows: Vec<BuildRow> = (0..20).map(|number| record(&store, number)).collect();
    let ids = |builds: &[BuildRow]| builds.iter().rev().map(|build| build.id).collect::<Vec<_>>();
    store.trim_history(&HistoryLimits { builds_max: 12, bytes_max: u64::MAX }).unwrap();
    assert_eq!(ids(&store.builds(None, 99).unwrap()), ids(&rows[8..]).into_iter().rev().collect::<Vec<_>>());
    let before = size(&store);
    store.trim_history(&HistoryLimits { builds_max: 12, bytes_max: before.document_bytes / 2 }).unwrap();
    let left = store.builds(None, 99).unwrap();
    assert!(!left.is_empty() && left.len() <= 6 && left[0].id == rows[19].id, "{left:?}");
    assert!(size(&store).document_bytes <= before.document_bytes / 2);
}

#[test]
fn logs_are_kept_in_full_and_go_with_their_build() {
    let root = TestRoot::new();
    let store = root.open();
    let step = Key([5; 32]);
    let logs = BuildLogs::new(&store);
    let big = vec![b'x'; 3_000_000];
    for (at, stream, data) in
        [(1, LogStream::Stdout, &b"one\n"[..]), (2, LogStream::Stderr, b"two"), (3, LogStream::Stdout, &big)]
    {
        logs.append(&step, Duration::from_micros(at), stream, data);
        logs.close(&step);
    }
    let build = row(1);
    store.record_build(&build, Some(&graph(1)), logs).unwrap();
    let chunks: Vec<LogChunk> =
        store.step_log(build.id, &step).unwrap().unwrap().map(Result::unwrap).collect();
    let data =
        |at, stream, data: &[u8]| LogChunk::Data { at: Duration::from_micros(at), stream, data: data.into() };
    assert_eq!(chunks[..2], [data(1, LogStream::Stdout, b"one\n"), data(2, LogStream::Stderr, b"two")]);
    let total: usize =
        chunks[2..].iter().map(|it| if let LogChunk::Data { data, .. } = it { data.len() } else { 0 }).sum();
    assert_eq!(total, big.len());
    assert!(store.step_log(build.id, &Key([6; 32])).unwrap().is_none());
    assert!(store.builds(None, 1).unwrap()[0].log_bytes > 3_000_000);
    // What is at a new place is found there after a restart, and nothing is left after the removal.
    drop(store);
    let store = root.open();
    assert_eq!(root.names("history"), [build.id.to_string()]);
    store.remove_builds(&[build.id]).unwrap();
    assert_eq!(root.names("history"), Vec::<String>::new());
}

#[test]
fn every_log_that_is_not_whole_says_so() {
    let root = TestRoot::new();
    let store = root.open();
    let steps = [1, 2, 3].map(|number| Key([number; 32]));
    let logs = BuildLogs::up_to(&store, 100);
    logs.append(&steps[0], Duration::ZERO, LogStream::Stdout, &[b'x'; 60]);
    for _ in 0..3 {
        steps.iter().for_each(|step| logs.append(step, Duration::ZERO, LogStream::Stdout, &[b'y'; 60]));
        logs.close(&steps[1]);
    }
    let build = row(1);
    store.record_build(&build, Some(&graph(1)), logs).unwrap();
    for (step, data) in steps.iter().zip([1, 0, 0]) {
        let log: Vec<_> = store.step_log(build.id, step).unwrap().unwrap().map(Result::unwrap).collect();
        assert_eq!(log.len(), data + 1);
        assert_eq!(log.last(), Some(&LogChunk::Cut));
    }
    let file = |step: &Key| root.path().join("history").join(build.id.to_string()).join(step.to_string());
    assert_eq!(std::fs::metadata(file(&steps[1])).unwrap().len(), 13, "one mark is enough");
}

#[test]
fn a_build_that_begins_again_keeps_the_last_log_of_each_step() {
    let root = TestRoot::new();
    let store = root.open();
    let (once, twice) = (Key([1; 32]), Key([2; 32]));
    let logs = BuildLogs::new(&store);
    let append = |step, data| logs.append(step, Duration::ZERO, LogStream::Stdout, data);
    append(&once, b"once");
    append(&twice, b"the first time");
    logs.begin_again();
    append(&twice, b"the second");
    logs.close(&twice);
    append(&twice, b" time");
    let build = row(1);
    store.record_build(&build, Some(&graph(1)), logs).unwrap();
    for (step, expected) in [(once, "once"), (twice, "the second time")] {
        let data = store.step_log(build.id, &step).unwrap().unwrap().flat_map(|chunk| match chunk.unwrap() {
            LogChunk::Data { data, .. } => data,
            LogChunk::Cut => Vec::new(),
        });
        assert_eq!(String::from_utf8(data.collect()).unwrap(), expected);
    }
}

#[test]
fn damaged_logs_are_refused_and_torn_ones_end() {
    let root = TestRoot::new();
    let store = root.open();
    let (build, step) = (row(1), Key([5; 32]));
    let logs = BuildLogs::new(&store);
    logs.append(&step, Duration::ZERO, LogStream::Stdout, b"first");
    logs.append(&step, Duration::ZERO, LogStream::Stdout, b"second");
    store.record_build(&build, Some(&graph(1)), logs).unwrap();
    let path = root.path().join("history").join(build.id.to_string()).join(step.to_string());
    let whole = std::fs::read(&path).unwrap();
    let check = |bytes: &[u8], good: usize, fails: bool| {
        std::fs::write(&path, bytes).unwrap();
        let read: Vec<_> = store.step_log(build.id, &step).unwrap().unwrap().collect();
        assert_eq!(read.iter().filter(|chunk| chunk.is_ok()).count(), good);
        assert_eq!(read.iter().any(Result::is_err), fails);
    };
    check(&whole, 2, false);
    check(&whole[..whole.len() - 1], 1, false);
    check(&whole[..3], 0, false);
    check(&[&whole[..], &[0; 8], &[1], &u32::MAX.to_le_bytes()].concat(), 2, true);
    check(&[&whole[..], &[0; 8], &[9], &[0; 4]].concat(), 2, true);
}

#[test]
fn orphaned_logs_are_collected() {
    let root = TestRoot::new();
    let store = root.open();
    let kept = record(&store, 1);
    std::fs::create_dir(root.path().join("history").join(kept.id.to_string())).unwrap();
    std::fs::create_dir(root.path().join("history/00000000000000aa")).unwrap();
    std::fs::create_dir(root.path().join("tmp/00000000000000bb")).unwrap();
    let _second = root.open();
    assert_eq!(root.names("history"), [kept.id.to_string()]);
}

#[test]
fn a_damaged_document_is_dropped() {
    let root = TestRoot::new();
    let store = root.open();
    let bomb = zstd::bulk::compress(&vec![0; DOCUMENT_BYTES_MAX + 1], 3).unwrap();
    for bytes in [&b"no frame"[..], &bomb] {
        record(&store, 1);
        store
            .write("damage", |transaction| {
                transaction
                    .execute("UPDATE graphs SET bytes = ?1", [bytes])
                    .map_err(StoreError::database("damage"))
            })
            .unwrap();
        assert_eq!(store.build_graph(&Key([1; 32])).unwrap(), None);
        assert_eq!(store.take_damages(), [Damage::History(1)]);
    }
}

#[test]
fn builds_of_nothing_new_wait_for_the_next_change() {
    let root = TestRoot::new();
    let store = root.open();
    record(&store, 1);
    let pending = root.path().join("history/pending");
    let mut rows: Vec<BuildRow> =
        (2..6).map(|number| BuildRow { graph: Key([1; 32]), ..row(number) }).collect();
    for row in &rows[..3] {
        store.record_build(row, None, BuildLogs::new(&store)).unwrap();
    }
    let bytes = std::fs::read(&pending).unwrap();
    assert!(!bytes.is_empty());
    // Torn, and moved twice: as after a full disk, and after a kill before the file was emptied.
    std::fs::write(&pending, [&bytes[..bytes.len() / 2], &bytes[..], &bytes[..20]].concat()).unwrap();
    store.record_build(&rows[3], None, BuildLogs::new(&store)).unwrap();
    rows.reverse();
    assert_eq!(store.builds(None, 9).unwrap()[..4], rows);
    assert_eq!(std::fs::metadata(&pending).unwrap().len(), 0);
    std::fs::write(&pending, &bytes).unwrap();
    assert_eq!(store.builds(None, 9).unwrap().len(), 5);
}

#[test]
fn builds_of_many_processes_are_all_recorded() {
    let root = TestRoot::new();
    let stores = [root.open(), root.open(), root.open()];
    std::thread::scope(|scope| {
        for (thread, store) in stores.iter().enumerate() {
            scope.spawn(move || {
                for number in 0..60 {
                    let row = BuildRow { graph: Key([1; 32]), ..row(number) };
                    store.record_build(&row, None, BuildLogs::new(store)).unwrap();
                    if (usize::from(number) + thread) % 7 == 0 {
                        store.builds(None, 1).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(stores[0].builds(None, 999).unwrap().len(), 180);
}
