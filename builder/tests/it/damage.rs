//! A store that was damaged is noticed and built from again.

use std::fs;

use std::path::{Path, PathBuf};
use std::thread;

use crate::harness::{Outcome, Step, Wharf, busybox_layout, have, processes, tool, wait_until};

fn built() -> Option<Wharf> {
    busybox_layout()?;
    let wharf = Wharf::new()?;
    wharf.file("f", "text\n").dockerfile("FROM busybox\nCOPY f /\nRUN cat f > /g\nCMD [\"cat\", \"/g\"]\n");
    wharf.build(&["-t", "app"]).success();
    Some(wharf)
}

#[test]
fn snapshots_that_somebody_deleted_are_made_again() {
    for arguments in [&["-t", "app"][..], &["-t", "app", "--no-cache"]] {
        let Some(wharf) = built() else { return };
        for entry in fs::read_dir(wharf.path("store/snapshots")).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        wharf.build(arguments).success();
        assert_eq!(wharf.run(&["run", "--rm", "app"]).success().stdout, b"text\n");
    }
}

#[test]
fn an_image_runs_although_its_snapshots_are_gone() {
    let Some(wharf) = built() else { return };
    fs::remove_dir_all(wharf.path("store/snapshots")).unwrap();
    assert_eq!(wharf.run(&["run", "--rm", "app"]).success().stdout, b"text\n");
}

#[test]
fn damaged_blobs_are_noticed_and_replaced() {
    let Some(wharf) = built() else { return };
    if !have(&["skopeo"]) {
        return;
    }
    for entry in fs::read_dir(wharf.path("store/blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    // Every try finds and drops what it reads; there are few blobs.
    let output = ["-t", "app", "-o", "type=oci,dest=app.tar", "-o", "type=image"];
    let tries = (0..8).map(|_| wharf.build(&output)).find(|outcome| outcome.code == Some(0));
    assert!(tries.is_some(), "{}", wharf.build(&output).stderr);
    let store = format!("oci:{}:docker.io/library/app:latest", wharf.path("store").display());
    let copy = format!("dir:{}", wharf.path("copy").display());
    tool("skopeo", &["copy", "--insecure-policy", &store, &copy]);
}

#[test]
fn a_lost_index_is_written_again() {
    let Some(wharf) = built() else { return };
    let index = wharf.path("store/index.json");
    let before = fs::read(&index).unwrap();
    fs::remove_file(&index).unwrap();
    wharf.run(&["images"]).success();
    assert_eq!(fs::read(&index).unwrap(), before);
}

/// The only entry of a directory below `parent` that has `name`.
fn find(parent: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().join(name)).find(|path| path.exists())
}

/// Builds; `harm` is done to the store while a step in the middle runs.
fn build_and_harm(wharf: &Wharf, arguments: &[&str], harm: impl FnOnce(&Path)) -> Outcome {
    wharf.file("f", "text\n").dockerfile(
        "FROM busybox AS first\nCOPY f /\nRUN cat f > /g\n\
         FROM first\n\
         RUN --mount=type=cache,target=/c touch /c/started && until [ -e /c/go ]; do sleep 0.01; done; cat g > /h\n\
         RUN cat f g h > /all\n\
         COPY --from=first /g /i\n\
         CMD [\"cat\", \"/all\"]\n",
    );
    let command = wharf.build_command("store", arguments);
    let building = thread::spawn(|| Outcome::of(command));
    let mounts = wharf.path("store/mounts");
    wait_until("the step runs", || find(&mounts, "fs/started").is_some() || building.is_finished());
    harm(&wharf.path("store"));
    fs::write(find(&mounts, "fs/started").unwrap().with_file_name("go"), "").unwrap();
    building.join().unwrap()
}

#[test]
fn what_is_lost_while_a_build_runs_is_made_again() {
    let harms: [(&str, &dyn Fn(&Path)); 3] = [
        ("all snapshots", &|store| {
            for entry in fs::read_dir(store.join("snapshots")).unwrap() {
                fs::remove_dir_all(entry.unwrap().path()).unwrap();
            }
        }),
        ("the files of all snapshots", &|store| {
            for entry in fs::read_dir(store.join("snapshots")).unwrap() {
                fs::remove_dir_all(entry.unwrap().path().join("fs")).unwrap();
            }
        }),
        ("all blobs", &|store| {
            for entry in fs::read_dir(store.join("blobs/sha256")).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }),
    ];
    for (name, harm) in harms {
        let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
        let outcome = build_and_harm(&wharf, &["-t", "app"], harm).success();
        assert!(outcome.stderr.contains("warning"), "{name}: nothing was said\n{}", outcome.stderr);
        assert_eq!(wharf.run(&["run", "--rm", "app"]).success().stdout, b"text\ntext\ntext\n", "{name}");
        let steps = wharf.build(&["-t", "app"]).success().steps();
        assert_eq!(steps.that(Step::Ran), [""; 0], "{name}");
        assert_eq!(processes(&wharf.path("store").display().to_string()), [""; 0], "{name}");
    }
}
