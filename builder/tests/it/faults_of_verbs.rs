//! The fault script for each command that asks registries: every row ends as it should, nothing is half pushed under a tag,
//! what was there before is untouched, and nothing is lost.

use std::fs;
use std::path::Path;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::fault_fixture::FaultServer;
use crate::fault_rows::Ends::{Saying, Well};
use crate::fault_rows::{Row, reading, writing};
use crate::faults::{build, check_said, world};
use crate::harness::{Outcome, Wharf};

fn run(wharf: &Wharf, store: &str, arguments: &[&str]) -> Outcome {
    let config = wharf.path("config.toml").display().to_string();
    wharf.run_in(store, &[arguments, &["--config", &config]].concat())
}

#[track_caller]
fn run_quietly(wharf: &Wharf, store: &str, arguments: &[&str]) {
    self::run(wharf, store, arguments).success();
}

/// What a store has under names.
fn images(wharf: &Wharf, store: &str) -> String {
    wharf.run_in(store, &["images", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}"]).success().text()
}

/// Every blob of a store, or of a layout, is what it is called.
#[track_caller]
fn check_blobs(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            check_blobs(&path);
        } else if name.len() == 64 && path.components().any(|it| it.as_os_str() == "blobs") {
            let hex: String =
                Sha256::digest(fs::read(&path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, name, "{}", path.display());
        }
    }
}

/// Runs every row of what is read through `verb`, which gets a number of its own each time and says what it left.
fn check_reading(verb: &str, run: impl Fn(&Wharf, &str, usize) -> (Outcome, bool)) {
    let Some((wharf, server)) = world() else { return };
    let base = format!("{}/base:v1", server.host());
    for (number, Row { name, faults, ends }) in reading().into_iter().enumerate() {
        let row = format!("{verb}: {name}");
        server.set(&faults);
        let (outcome, left_something) = run(&wharf, &base, number);
        match ends {
            Well => {
                outcome.success();
                assert!(left_something, "{row}");
            }
            Saying(words) => {
                check_said(&outcome, &row, words);
                assert!(!left_something, "{row}");
                // Nothing is lost, and nothing of it is believed later.
                server.set(&json!([]));
                let (outcome, left_something) = run(&wharf, &base, number);
                outcome.success();
                assert!(left_something, "{row}");
            }
        }
    }
    let entries = fs::read_dir(wharf.path("")).unwrap().map(Result::unwrap);
    entries.for_each(|entry| check_blobs(&entry.path()));
}

#[test]
fn pull() {
    check_reading("pull", |wharf, base, number| {
        let store = format!("pull-{number}");
        let outcome = run(wharf, &store, &["pull", "-q", base]);
        assert_eq!(wharf.leftovers(&store), [""; 0]);
        (outcome, images(wharf, &store).contains("base"))
    });
}

#[test]
fn copy_to_a_layout() {
    check_reading("copy", |wharf, base, number| {
        let (dir, store) = (format!("layout-{number}"), format!("copy-{number}"));
        let (from, to) = (format!("docker://{base}"), format!("oci:{dir}:v1"));
        let outcome = run(wharf, &store, &["copy", "-q", &from, &to]);
        assert_eq!(wharf.leftovers(&store), [""; 0]);
        (outcome, wharf.path(&dir).join("index.json").exists())
    });
}

/// A push that goes through `verb` to the name it is given, of which there is another image before.
fn check_writing(verb: &str, run: impl Fn(&Wharf, &FaultServer, &str) -> Outcome) {
    let Some((wharf, server)) = world() else { return };
    build(&wharf, "store", &["-t", "app"]).success();
    run_quietly(&wharf, "store", &["copy", "-q", "app", "oci:app-layout"]);
    run_quietly(&wharf, "store", &["manifest", "create", "index", "app"]);
    let before = images(&wharf, "store");
    for (number, Row { name, faults, ends }) in writing().into_iter().enumerate() {
        let row = format!("{verb}: {name}");
        let repository = format!("push-{number}");
        let image = format!("{}/{repository}:v1", server.host());
        // What the name stood for before.
        server.set(&json!([]));
        let source = format!("docker://{}/base:v1", server.host());
        run_quietly(&wharf, "other", &["copy", "-q", &source, &format!("docker://{image}")]);
        let digest = |server: &FaultServer| server.state()["digests"][format!("{repository}:v1")].clone();
        let old = digest(&server);
        assert!(old.is_string(), "{row}");
        server.set(&faults);
        let outcome = run(&wharf, &server, &image);
        match ends {
            Well => {
                outcome.success();
                assert_ne!(digest(&server), old, "{row}");
            }
            Saying(words) => {
                let words: Vec<_> = words.iter().copied().filter(|word| *word != "cannot push").collect();
                check_said(&outcome, &row, &words);
                assert_eq!(digest(&server), old, "{row}: the old image is gone");
                server.set(&json!([]));
                run(&wharf, &server, &image).success();
                assert_ne!(digest(&server), old, "{row}");
            }
        }
        assert_eq!(images(&wharf, "store"), before, "{row}");
        assert_eq!(wharf.leftovers("store"), [""; 0], "{row}");
    }
    check_blobs(&wharf.path("store"));
}

#[test]
fn copy_to_a_registry() {
    check_writing("copy", |wharf, _, image| {
        run(wharf, "store", &["copy", "-q", "app", &format!("docker://{image}")])
    });
}

#[test]
fn push() {
    // Its name in the store is where it goes: a store of its own for each.
    check_writing("push", |wharf, _, image| {
        run_quietly(wharf, "named", &["copy", "-q", "oci:app-layout", image]);
        run(wharf, "named", &["push", "-q", image])
    });
}

#[test]
fn push_of_an_index() {
    check_writing("manifest push", |wharf, _, image| {
        run(wharf, "store", &["manifest", "push", "index", &format!("docker://{image}")])
    });
}

#[test]
fn copy_between_registries() {
    let Some(other) = FaultServer::start() else { return };
    let source = format!("docker://{}/app:v1", other.host());
    check_writing("copy between registries", |wharf, _, image| {
        if other.tags().iter().all(|tag| tag != "app:v1") {
            run_quietly(wharf, "store", &["copy", "-q", "app", &source]);
        }
        run(wharf, "third", &["copy", "-q", &source, &format!("docker://{image}")])
    });
}

/// A cache is never why a build fails.
#[test]
fn cache_from() {
    let Some((wharf, server)) = world() else { return };
    let cache = format!("type=registry,ref={}/cache:v1", server.host());
    wharf.dockerfile("FROM busybox\nCOPY x /z\n");
    build(&wharf, "first", &["--cache-to", &cache]).success();
    for (number, Row { name, faults, .. }) in reading().into_iter().enumerate() {
        server.set(&faults);
        let store = format!("cached-{number}");
        let outcome = build(&wharf, &store, &["-t", "app", "--cache-from", &cache]);
        assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("panicked"), "{name}: {}", outcome.stderr);
        assert_eq!(wharf.leftovers(&store), [""; 0], "{name}");
        check_blobs(&wharf.path(&store));
    }
}

#[test]
fn cache_to() {
    let Some((wharf, server)) = world() else { return };
    wharf.dockerfile("FROM busybox\nCOPY x /z\n");
    for (number, Row { name, faults, ends }) in writing().into_iter().enumerate() {
        let tag = format!("cache-{number}:v1");
        let cache = format!("type=registry,ref={}/{tag}", server.host());
        server.set(&faults);
        let outcome = build(&wharf, "store", &["-t", "app", "--cache-to", &cache]);
        let is_tagged = server.tags().contains(&tag);
        match ends {
            Well => {
                outcome.success();
                assert!(is_tagged, "{name}");
            }
            Saying(_) => {
                // The image is what was asked for, and is there.
                assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.stderr);
                assert!(outcome.stderr.contains("was not written"), "{name}: {}", outcome.stderr);
                assert!(!is_tagged, "{name}");
            }
        }
    }
}
