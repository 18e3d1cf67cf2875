//! Eight processes share a store and are killed at random: it stays consistent, and what was said to be done is.

use std::path::Path;

use std::thread;
use std::time::Duration;

use crate::harness::{Step, Wharf, busybox_layout, have, processes, tool, wait_until};

const PROCESSES: u64 = 8;
const ROUNDS: u64 = 6;

/// What must hold of a store that nobody uses, read by nobody's code but Python's and SQLite's: every line is something
/// that does not.
const CHECK: &str = r#"
import hashlib, json, os, sqlite3, struct, sys
root = sys.argv[1]
db = sqlite3.connect(os.path.join(root, 'state.db'))
sound = db.execute('PRAGMA integrity_check').fetchone()[0]
if sound != 'ok': print(sound)
rows = {f'{id % 2**64:016x}' for id, in db.execute('SELECT id FROM snapshots')}
dirs = set(os.listdir(os.path.join(root, 'snapshots')))
for name in rows ^ dirs: print('snapshot', name, 'has no', 'row' if name in dirs else 'directory')
for name in rows & dirs:
    if not os.path.isdir(os.path.join(root, 'snapshots', name, 'fs')): print('snapshot', name, 'is not whole')
blobs = os.listdir(os.path.join(root, 'blobs/sha256'))
for name in blobs:
    with open(os.path.join(root, 'blobs/sha256', name), 'rb') as blob:
        if hashlib.sha256(blob.read()).hexdigest() != name: print('blob', name, 'has other bytes')
index = {(entry['digest'][7:], entry.get('annotations', {}).get('org.opencontainers.image.ref.name'))
         for entry in json.load(open(os.path.join(root, 'index.json')))['manifests']}
images = {(digest.hex(), name) for digest, name in db.execute('SELECT digest, name FROM images')}
if index != images: print('index.json differs from the images:', index ^ images)
for digest, name in images:
    manifest = json.load(open(os.path.join(root, 'blobs/sha256', digest)))
    for named in [manifest['config'], *manifest['layers']]:
        if named['digest'][7:] not in blobs: print(name, 'lacks', named['digest'])
for key, outputs in db.execute('SELECT key, outputs FROM records'):
    at = 0
    while at < len(outputs):
        (count,) = struct.unpack_from('<I', outputs, at)
        at += 4 + 8 * count
    if at != len(outputs): print('record', key.hex(), 'is torn')
for directory in ['tmp', 'locks']:
    for name in os.listdir(os.path.join(root, directory)): print('left in', directory, name)
"#;

/// Numbers that are the same in every run.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Builds, tags, removes and is killed, again and again. Gives the names that are there and those that may be.
fn live(wharf: &Wharf, number: u64) -> Vec<String> {
    let mut seed = number;
    let mut sure = Vec::new();
    for round in 0..ROUNDS {
        // Some steps are common to all, some to two, some nobody's but this one's.
        let (name, pair) = (format!("n{number}r{round}"), number / 2);
        let arguments = [
            "-t",
            &name,
            "--build-arg",
            &format!("PAIR={pair}-{round}"),
            "--build-arg",
            &format!("ONE={name}"),
        ];
        let mut child = wharf.build_command("store", &arguments).spawn().unwrap();
        // Every third build lives; the others die while they open the store, run a step, or commit.
        if !random(&mut seed).is_multiple_of(3) {
            thread::sleep(Duration::from_millis(random(&mut seed) % 400));
            let _ = child.kill();
        }
        if child.wait_with_output().unwrap().status.success() {
            sure.push(name);
        }
        if sure.len() > 1 {
            let name = sure.remove(0);
            let mut child = wharf.command("store", &["rmi", &name]).spawn().unwrap();
            thread::sleep(Duration::from_millis(random(&mut seed) % 30));
            let _ = child.kill();
            child.wait_with_output().unwrap();
        }
    }
    sure
}

#[test]
fn eight_processes_that_are_killed_leave_a_store_that_holds_together() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    if !have(&["python3"]) {
        return;
    }
    wharf.file("f", "f\n").dockerfile(
        "FROM busybox AS common\nCOPY f /\nRUN cat f > /g\n\
         FROM common\nARG PAIR\nRUN --mount=type=cache,target=/c echo $PAIR | tee -a /c/log > /pair\n\
         ARG ONE\nRUN echo $ONE > /one\nCMD [\"cat\", \"/f\", \"/g\", \"/pair\", \"/one\"]\n",
    );
    let sure: Vec<Vec<String>> = thread::scope(|scope| {
        let running: Vec<_> = (0..PROCESSES)
            .map(|number| {
                let wharf = &wharf;
                scope.spawn(move || live(wharf, number))
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // The next opener puts right what the dead have left.
    wharf.run(&["images"]).success();
    check(&wharf.path("store"));
    for (number, names) in sure.iter().enumerate() {
        for name in names {
            let round = name.rsplit_once('r').unwrap().1;
            let expected = format!("f\nf\n{}-{round}\n{name}\n", number / 2);
            assert_eq!(wharf.run(&["run", "--rm", name]).success().text(), expected);
        }
    }
    let last = ["-t", "last", "--build-arg", "PAIR=last", "--build-arg", "ONE=last"];
    wharf.build(&last).success();
    assert_eq!(wharf.build(&last).success().steps().that(Step::Ran), [""; 0]);
    assert_eq!(wharf.run(&["run", "--rm", "last"]).success().text(), "f\nf\nlast\nlast\n");
    check(&wharf.path("store"));
    let store = wharf.path("store").display().to_string();
    wait_until("the network process has ended", || processes(&store).is_empty());
}

#[track_caller]
fn check(store: &Path) {
    assert_eq!(tool("python3", &["-c", CHECK, &store.display().to_string()]), "");
}
