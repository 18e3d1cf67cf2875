//! A COPY that is made again shares files with the one before, and no step can tell.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::harness::{have, tool};
use crate::sandboxes::{Builder, ROOT, World};

/// On top of nothing and of something, with owners, modes, a source that replaces files of another, and a step that writes.
const DOCKERFILE: &str = "FROM scratch AS alone
COPY --chown=7:8 tree /tree
FROM busybox
COPY tree /tree
COPY --chmod=640 other tree /both/
RUN echo more >>/tree/f1 && chmod 600 /both/f2 && rm /tree/f3
COPY --from=alone /tree /alone
COPY tree /again
COPY other tree /last/
";

/// A step on top of copies.
const WRITING: &str = "RUN echo more >>/tree/f1 && chmod 600 /both/f2 && rm /tree/f3\n";

const FILES: usize = 150;

const SHARING: [Builder; 3] = [
    Builder { name: "rootless", user: None, forced: Some("rootless"), sandbox: "rootless" },
    Builder { name: "one id", user: None, forced: Some("rootless-single"), sandbox: "rootless-single" },
    Builder { name: "chroot", user: None, forced: Some("chroot"), sandbox: "chroot" },
];

/// Knows nothing of earlier builds.
const FRESH: Builder = Builder { name: "fresh", user: None, forced: None, sandbox: "fresh" };

/// A context with the files `f0`, `f1` … in two directories.
fn world() -> Option<World> {
    let world = World::new()?;
    if !have(&["python3"]) {
        return None;
    }
    for (dir, word) in [("tree", "text"), ("other", "word")] {
        let dir = world.path("context").join(dir);
        fs::create_dir_all(&dir).unwrap();
        for number in 0..FILES {
            fs::write(dir.join(format!("f{number}")), format!("{word} {number}\n")).unwrap();
        }
    }
    world.dockerfile(DOCKERFILE);
    change(&world, "true");
    Some(world)
}

/// Does something in `tree`. What is new is old all the same: the time of the build is in no layer.
fn change(world: &World, script: &str) {
    let context = world.path("context").to_str().unwrap().to_owned();
    let script =
        format!("cd $0/tree && {script} && find $0 -newermt 2001-01-01 -exec touch -hd 1999-05-06 {{}} +");
    tool("sh", &["-ec", &script, &context]);
}

/// The digest of the manifest.
fn build(world: &World, builder: &Builder) -> String {
    build_with(world, builder, &[])
}

fn build_with(world: &World, builder: &Builder, options: &[&str]) -> String {
    let base = format!("busybox=oci-layout://{}", world.path("busybox").display());
    let out = world.path("out/layout");
    let output = format!("type=oci,tar=false,dest={}", out.display());
    let fixed = ["build", "--progress", "plain", "--build-context", &base, "-o", &output, "context"];
    world.wharf(builder, &[&fixed[..], options].concat()).success();
    let index = fs::read_to_string(out.join("index.json")).unwrap();
    fs::remove_dir_all(out).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

fn build_fresh(world: &World) -> String {
    let digest = build(world, &FRESH);
    fs::remove_dir_all(world.path("store-fresh")).unwrap();
    digest
}

/// The files at `path` in the snapshots of a store.
fn in_snapshots(world: &World, builder: &Builder, path: &str) -> Vec<PathBuf> {
    let snapshots = fs::read_dir(world.path(&format!("store-{}/snapshots", builder.sandbox))).unwrap();
    let files = snapshots.map(|snapshot| snapshot.unwrap().path().join("fs").join(path));
    files.filter(|path| path.is_file()).collect()
}

fn inode(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

#[test]
fn a_copy_that_shares_files_gives_what_any_other_gives() {
    let Some(world) = world() else { return };
    let python = |line: &str| format!("python3 -c 'import os; {line}'");
    let changes = [
        "true".to_owned(),
        "echo changed >f1".to_owned(),
        "chmod 755 f2".to_owned(),
        // A time alone is no reason to copy.
        "touch -d 1998-01-01 f3 && echo again >f1".to_owned(),
        python("os.setxattr(\"f4\", \"user.k\", b\"v\")"),
        python("os.setxattr(\"f4\", \"user.k\", b\"w\")"),
        python("os.removexattr(\"f4\", \"user.k\")"),
        "rm f5 && ln -s f6 f5".to_owned(),
        "ln -f f6 f7".to_owned(),
        "cp -p f6 x && mv x f7".to_owned(),
        "cp -p f6 twin && cp -p f6 ../other/f6".to_owned(),
        "mv f8 g8 && rm f9 ../other/f9 && mkdir f9 && echo in >f9/f".to_owned(),
        "rm -r f9 && echo file >f9 && : >f10 && rm f11 && chown 5:6 f12".to_owned(),
        "mkdir below && mv f2? below/ && chmod 700 below".to_owned(),
    ];
    for script in changes {
        change(&world, &script);
        let expected = build_fresh(&world);
        for builder in [&ROOT].into_iter().chain(&SHARING) {
            assert_eq!(build(&world, builder), expected, "{} after {script}", builder.name);
        }
    }
    for builder in [&ROOT].into_iter().chain(&SHARING) {
        let inodes = |path: &str| {
            let files = in_snapshots(&world, builder, path);
            let original = |path: &PathBuf| fs::read_to_string(path).unwrap() == "text 100\n";
            assert!(files.iter().all(original), "{}: {files:?}", builder.name);
            (files.iter().map(|path| inode(path)).collect::<HashSet<u64>>().len(), files.len())
        };
        let (inodes_of_all, files) = inodes("again/f100");
        // Where snapshots are stacked by copying, what lies on top of something is not shared.
        let expected = if builder.sandbox == "chroot" { files } else { 1 };
        assert!(inodes_of_all == expected && files > 10, "{}: {inodes_of_all} of {files}", builder.name);
        // One of two lies below a step, and has nothing from others.
        let (inodes, files) = inodes("tree/f100");
        assert_eq!(inodes, files / 2 + 1, "{}: of {files}", builder.name);
    }
}

#[test]
fn a_step_that_writes_changes_no_earlier_copy() {
    let Some(world) = world() else { return };
    let copies = "FROM busybox\nCOPY tree /tree\nCOPY --chmod=640 other tree /both/\n";
    for builder in [&ROOT].into_iter().chain(&SHARING) {
        for number in 0..3 {
            change(&world, &format!("echo {number} >f0"));
            // They are shared, and then a step writes on top of them.
            build(world.dockerfile(copies), builder);
            build(world.dockerfile(&format!("{copies}{WRITING}")), builder);
        }
        let texts: Vec<_> = in_snapshots(&world, builder, "tree/f1")
            .iter()
            .map(|path| fs::read_to_string(path).unwrap())
            .collect();
        let count = |text: &str| texts.iter().filter(|it| *it == text).count();
        assert_eq!((count("text 1\n"), count("text 1\nmore\n")), (3, 3), "{}: {texts:?}", builder.name);
        let modes = in_snapshots(&world, builder, "both/f2");
        let modes: Vec<_> = modes.iter().map(|path| path.metadata().unwrap().mode() & 0o777).collect();
        let count = |mode: u32| modes.iter().filter(|it| **it == mode).count();
        assert_eq!((count(0o640), count(0o600)), (3, 3), "{}: {modes:?}", builder.name);
    }
}

#[test]
fn a_damaged_file_is_not_shared() {
    let Some(world) = world() else { return };
    build(&world, &ROOT);
    for path in in_snapshots(&world, &ROOT, "tree/f20") {
        let modified = path.metadata().unwrap().modified().unwrap();
        fs::write(&path, "TEXT 20\n").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    }
    for path in fs::read_dir(world.path("store-root/snapshots")).unwrap() {
        // Of one snapshot the list is damaged.
        let list = path.unwrap().path().join("files");
        if let Ok(mut bytes) = fs::read(&list) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&list, bytes).unwrap();
            break;
        }
    }
    change(&world, "echo changed >f1");
    assert_eq!(build(&world, &ROOT), build_fresh(&world));
}

/// Two copies in two stages, of which nobody has seen anything.
const UNSEEN: &str = "FROM scratch AS bound
COPY tree /tree
FROM busybox
COPY tree /tree
COPY --from=bound /tree/f1 /f1
";

/// Steps on top of the copies and beside them.
const SEEN: &str = "FROM scratch AS bound
COPY tree /tree
FROM busybox
COPY tree /tree
RUN ls -ln /tree/* >/list
RUN --mount=type=bind,from=bound,target=/bound ls -ln /bound/tree/* >/bound-list
RUN --mount=type=bind,from=bound,target=/bound,rw ls -ln /bound/tree/* >/written-list
";

#[test]
fn a_step_does_not_see_that_files_are_shared() {
    let Some(world) = world() else { return };
    let expected = build_fresh(world.dockerfile(SEEN));
    for builder in [&ROOT].into_iter().chain(&SHARING) {
        for number in 0..3 {
            for _ in 0..2 {
                build_with(world.dockerfile(UNSEEN), builder, &["--no-cache"]);
            }
            let shared = in_snapshots(&world, builder, "tree/f1");
            let is_shared = |path: &PathBuf| path.metadata().unwrap().nlink() > 1;
            assert!(shared.iter().any(is_shared), "{} {number}", builder.name);
            assert_eq!(build(world.dockerfile(SEEN), builder), expected, "{} {number}", builder.name);
        }
    }
}

#[test]
fn nor_in_an_image_that_is_the_context() {
    let Some(world) = world() else { return };
    world.dockerfile("FROM scratch\nCOPY tree /tree\nCOPY Dockerfile.steps /\n");
    let steps = "FROM busybox\nRUN --mount=type=bind,target=/bound ls -ln /bound/tree/* >/list\n";
    fs::write(world.path("context/Dockerfile.steps"), steps).unwrap();
    let build_on = |builder: &Builder| {
        for _ in 0..2 {
            let _ = fs::remove_dir_all(world.path("out/image"));
            build_with(&world, builder, &["--no-cache", "-o", "type=oci,tar=false,dest=out/image"]);
        }
        let base = format!("busybox=oci-layout://{}", world.path("busybox").display());
        let context = format!("oci-layout://{}", world.path("out/image").display());
        let steps =
            ["build", "--build-context", &base, "-f", "Dockerfile.steps", "-o", "out/files", &context];
        world.wharf(builder, &steps).success();
        let list = fs::read_to_string(world.path("out/files/list")).unwrap();
        fs::remove_dir_all(world.path("out/files")).unwrap();
        list
    };
    for builder in [&ROOT].into_iter().chain(&SHARING) {
        let list = build_on(builder);
        let counts: Vec<_> = list.lines().map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(counts, vec![Some("1"); FILES], "{}", builder.name);
    }
}

#[test]
fn what_is_read_while_it_is_parted_is_whole() {
    let Some(world) = world() else { return };
    let copies = "FROM busybox\nCOPY tree /tree\n";
    // The layer of the copy is written beside the step.
    let seen = format!("{copies}RUN true\n");
    for builder in [&ROOT].into_iter().chain(&SHARING) {
        build(world.dockerfile(copies), builder);
        let outputs = |name: &str| {
            let output = |kind| format!("type=oci,dest=out/{name}-{kind},tar=false,compression={kind}");
            let [gzip, zstd, none] = ["gzip", "zstd", "uncompressed"].map(output);
            build_with(&world, builder, &["-o", &gzip, "-o", &zstd, "-o", &none]);
            ["gzip", "zstd", "uncompressed"].map(|kind| diff_ids(&world.path(&format!("out/{name}-{kind}"))))
        };
        // Shared, and not yet written.
        world.dockerfile(copies);
        let layout = outputs("copies");
        let base = format!("busybox=oci-layout://{}", world.path("busybox").display());
        let options = ["build", "--no-cache", "--build-context", &base, "-o", "type=cacheonly", "context"];
        world.wharf(builder, &options).success();
        world.dockerfile(&seen);
        for written in outputs("seen") {
            assert_eq!(written[..layout[0].len()], layout[0], "{}", builder.name);
        }
        tool("sh", &["-ec", "rm -r $0/*", world.path("out").to_str().unwrap()]);
    }
}

/// Those of the image in a layout.
fn diff_ids(layout: &Path) -> Vec<serde_json::Value> {
    let read = |path: &Path| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    };
    let blob = |digest: &serde_json::Value| {
        read(&layout.join("blobs/sha256").join(digest.as_str().unwrap().strip_prefix("sha256:").unwrap()))
    };
    let manifest = blob(&read(&layout.join("index.json"))["manifests"][0]["digest"]);
    blob(&manifest["config"]["digest"])["rootfs"]["diff_ids"].as_array().unwrap().clone()
}
