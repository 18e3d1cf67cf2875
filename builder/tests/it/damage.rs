//! A store that was damaged is noticed and built from again.

use std::fs;

use crate::harness::{Wharf, busybox_layout, have, tool};

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
