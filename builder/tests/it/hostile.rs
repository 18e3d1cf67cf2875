//! Places and images that a build cannot trust: full disks, damaged and hostile sources, a store from the future.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use wharf_cache::Digest;

use crate::harness::{Registry, Step, Wharf, busybox_layout};

/// A file system of a few megabytes, unmounted with its value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, megabytes: u32) -> Self {
        fs::create_dir_all(&path).unwrap();
        let size = format!("size={megabytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "wharf-test"]).arg(&path);
        assert!(mount.status().unwrap().success());
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a test that failed may have left something open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A file that goes away with its value.
struct ShortName(PathBuf);

impl Drop for ShortName {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn a_full_disk_under_the_store_is_named() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    fs::write(wharf.context().join("fits"), noise(7 << 20)).unwrap();
    fs::write(wharf.context().join("large"), noise(20 << 20)).unwrap();
    let mut archive = tar::Builder::new(fs::File::create(wharf.context().join("large.tar")).unwrap());
    archive.append_path_with_name(wharf.context().join("large"), "in/large").unwrap();
    archive.finish().unwrap();
    for (dockerfile, code, words) in [
        // The files do not fit.
        (
            "FROM busybox\nCOPY large /\n",
            5,
            &["Dockerfile:2", "/large", "No space left", "hint: the disk is full"][..],
        ),
        (
            "FROM busybox\nADD large.tar /\n",
            5,
            &["Dockerfile:2", "in/large", "No space left", "hint: the disk is full"],
        ),
        // They do, but not their layer as well.
        ("FROM busybox\nCOPY fits /\n", 5, &["No space left", "hint: the disk is full"]),
        // It is the step's own program that finds the disk full.
        (
            "FROM busybox\nRUN dd if=/dev/zero of=/large bs=1M count=20\n",
            1,
            &["Dockerfile:2", "No space left"],
        ),
    ] {
        let _disk = SmallDisk::mount(wharf.path("store"), 12);
        wharf.dockerfile(dockerfile);
        wharf.build(&["-t", "app", "-o=type=image", "-o=type=oci,dest=out.tar"]).fails_with(code, words);
        assert!(!wharf.path("out.tar").exists());
        // The next build works.
        wharf.dockerfile("FROM busybox\nRUN echo small >/small\n").build(&["-t", "small"]).success();
        assert_eq!(wharf.run(&["run", "--rm", "small", "cat", "/small"]).success().text(), "small\n");
    }
}

#[test]
fn a_full_disk_under_the_output_is_named() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let disk = SmallDisk::mount(wharf.path("disk"), 2);
    fs::write(wharf.context().join("large"), noise(4 << 20)).unwrap();
    wharf.dockerfile("FROM busybox\nCOPY large /\n");
    for output in [
        "type=oci,dest=disk/out.tar",
        "type=docker,dest=disk/out.tar",
        "type=tar,dest=disk/out.tar",
        "type=oci,tar=false,dest=disk/layout",
        "type=local,dest=disk/out",
    ] {
        let failed = wharf
            .build(&["-t", "app", "-o", output])
            .fails_with(5, &["disk/", "hint: free some space there"]);
        assert!(failed.stderr.to_lowercase().contains("no space left"), "{}", failed.stderr);
        match output {
            // Files that are written one by one are there as far as it went; nothing else may be.
            "type=local,dest=disk/out" => fs::remove_dir_all(wharf.path("disk/out")).unwrap(),
            "type=oci,tar=false,dest=disk/layout" => {
                assert!(!wharf.path("disk/layout/index.json").exists(), "a half-written layout looks whole");
                fs::remove_dir_all(wharf.path("disk/layout")).unwrap();
            }
            _ => {}
        }
        assert_eq!(disk.names(), Vec::<String>::new(), "{output}");
        wharf.build(&["-t", "app", "-o", "type=oci,dest=out.tar"]).success();
    }
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\nRUN true\n").build(&["-t", "app"]).success();
    let path = wharf.path("store/state.db");
    let set_version = |version: [u8; 4]| {
        // SQLite file format: `user_version` is the big-endian number at 60.
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(60)).unwrap();
        file.write_all(&version).unwrap();
    };
    let before: [u8; 4] = fs::read(&path).unwrap()[60..64].try_into().unwrap();
    assert_ne!(before, [0; 4]);
    set_version([0, 0, 0x27, 0x0f]);
    let bytes = fs::read(&path).unwrap();
    for arguments in [&["images"][..], &["run", "app", "true"], &["rmi", "app"], &["build", "context"]] {
        let code = if arguments[0] == "run" { 125 } else { 5 };
        wharf.run(arguments).fails_with(code, &["version 9999", "store"]);
    }
    assert!(fs::read(&path).unwrap() == bytes, "a store that nobody understands was changed");
    set_version(before);
    wharf.build(&["-t", "app"]).success().steps().check_ran(&[]);
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let Some(wharf) = Wharf::new() else { return };
    let home = wharf.path("home");
    fs::create_dir_all(home.join("tmp/work")).unwrap();
    fs::write(home.join("tmp/work/file"), "precious").unwrap();
    fs::write(home.join("notes"), "").unwrap();
    wharf.run_in("home", &["images"]).fails_with(5, &["is not a wharf store", "home"]);
    assert_eq!(fs::read_to_string(home.join("tmp/work/file")).unwrap(), "precious");
    assert_eq!(fs::read_dir(&home).unwrap().count(), 2, "something was made there");
}

#[test]
fn a_damaged_registry_is_noticed() {
    let (Some(_), Some(wharf), Some(registry)) = (busybox_layout(), Wharf::new(), Registry::start()) else {
        return;
    };
    let name = format!("{}/app:v1", registry.address);
    wharf.file("here", "x").dockerfile("FROM busybox\nCOPY here /\n");
    wharf.build(&["-t", &name, "--push", "--metadata-file", "metadata"]).success();
    let read =
        |path: PathBuf| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let digest = read(wharf.path("metadata"))["containerimage.digest"].as_str().unwrap().to_owned();
    let manifest = read(registry.blob(&digest));
    let config = manifest["config"]["digest"].as_str().unwrap();
    let layer = manifest["layers"][1]["digest"].as_str().unwrap();
    wharf.dockerfile(&format!("FROM {}/app@{digest}\nRUN test -e /here\n", registry.address));

    for damaged in [&*digest, config, layer] {
        let path = registry.blob(damaged);
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for bad in [&flipped[..], &good[..good.len() - 1], b""] {
            fs::write(&path, bad).unwrap();
            let failed = wharf.build_in("other", &["-t", "copy", "-o", "type=oci,dest=out.tar"]);
            let failed = failed.fails_with(4, &["Dockerfile:1"]);
            assert!(!wharf.path("out.tar").exists());
            // Nothing of it is believed later.
            fs::write(&path, &good).unwrap();
            assert_eq!(failed.steps().that(Step::Ran), Vec::<&str>::new());
        }
    }
    wharf.build_in("other", &["-t", "copy"]).success();
    // A digest that is nobody's.
    let nobody = "0".repeat(64);
    wharf.dockerfile(&format!("FROM {}/app@sha256:{nobody}\n", registry.address));
    wharf.build_in("other", &[]).fails_with(4, &["Dockerfile:1", "is not in registry", &nobody]);
    wharf.dockerfile(&format!("FROM {}/nowhere:v9\n", registry.address));
    wharf.build_in("other", &[]).fails_with(4, &["Dockerfile:1", "is not in registry", "nowhere:v9"]);
}

/// One entry of a hand-made layer.
#[derive(Clone, Copy)]
enum Entry<'a> {
    File(&'a str),
    Directory(&'a str),
    Symlink(&'a str, &'a str),
    HardLink(&'a str, &'a str),
}

/// A tar whose names are whatever they are: no program would write it.
fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    const CONTENT: &[u8] = b"escaped";
    let mut bytes = Vec::new();
    for entry in entries {
        let (kind, name, target) = match *entry {
            Entry::File(name) => (tar::EntryType::Regular, name, ""),
            Entry::Directory(name) => (tar::EntryType::Directory, name, ""),
            Entry::Symlink(name, target) => (tar::EntryType::Symlink, name, target),
            Entry::HardLink(name, target) => (tar::EntryType::Link, name, target),
        };
        let mut header = tar::Header::new_ustar();
        let raw = header.as_ustar_mut().unwrap();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(if kind.is_file() { CONTENT.len() as u64 } else { 0 });
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        if kind.is_file() {
            bytes.extend_from_slice(CONTENT);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// An OCI layout with one image of these layers.
fn write_layout(path: &Path, layers: &[Vec<u8>]) {
    let blobs = path.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8], media_type: &str| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
    };
    let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    let config = put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let layers: Vec<_> =
        layers.iter().map(|layer| put(layer, "application/vnd.oci.image.layer.v1.tar")).collect();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
    let manifest = put(manifest.to_string().as_bytes(), media_type);
    fs::write(path.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string())
        .unwrap();
    fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Files below `directory` that are called `escaped`, but for those in a directory that a snapshot or the context has
/// to itself.
fn escaped(directory: &Path, snapshots: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if path.file_name().unwrap() == "escaped" {
            found.push(path);
        } else if kind.is_dir() && directory != snapshots {
            found.extend(escaped(&path, snapshots));
        }
    }
    found
}

#[test]
fn no_layer_writes_outside_its_root() {
    use Entry::{Directory, File, HardLink, Symlink};
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let outside = wharf.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    // A ustar name has 100 bytes; a test directory deeper than that is reached through a shorter name.
    let short = PathBuf::from(format!("/run/wharf-test-{}", std::process::id()));
    symlink(&outside, &short).unwrap();
    let _short = ShortName(short.clone());
    let short_file = format!("{}/escaped", short.display());
    let short_victim = format!("{}/victim", short.display());
    let short_directory = short.display().to_string();

    let hostile: [(&str, Vec<Vec<Entry<'_>>>); 10] = [
        ("a parent", vec![vec![File("../escaped")]]),
        ("many parents", vec![vec![File("a/../../../../../../escaped")]]),
        ("parents and a place", vec![vec![File("../../../../../../../../run/escaped")]]),
        ("an absolute name", vec![vec![File(&short_file)]]),
        ("through a symlink", vec![vec![Symlink("link", &short_directory), File("link/escaped")]]),
        (
            "through a symlink of an earlier layer",
            vec![vec![Symlink("link", &short_directory)], vec![File("link/escaped")]],
        ),
        (
            "through a relative symlink",
            vec![vec![Directory("d"), Symlink("d/link", "../../../../../.."), File("d/link/escaped")]],
        ),
        ("a hard link to the outside", vec![vec![HardLink("link", &short_victim), File("link")]]),
        (
            "a hard link through a symlink",
            vec![vec![Symlink("out", &short_directory), HardLink("link", "out/victim"), File("link")]],
        ),
        (
            "a whiteout of the outside",
            vec![vec![Symlink("link", &short_directory), File("link/.wh.victim"), File("link/.wh..wh..opq")]],
        ),
    ];
    wharf.file("here", "x").dockerfile("FROM hostile\nCOPY here /\nADD here /link/here\n");
    for (number, (what, layers)) in hostile.iter().enumerate() {
        let name = format!("layout{number}");
        let layers: Vec<_> = layers.iter().map(|entries| layer(entries)).collect();
        write_layout(&wharf.path(&name), &layers);
        let context = format!("hostile=oci-layout://{}", wharf.path(&name).display());
        let built = wharf.build(&["--build-context", &context, "-t", "app", "-o", &format!("files{number}")]);
        // The image may be refused, or the name mean a place within it, where ADD may find something in its way.
        match built.code {
            Some(0 | 1) => {}
            _ => drop(built.fails_with(4, &["Dockerfile:1"])),
        }
        assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "untouched", "{what}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{what}");
        assert!(!Path::new("/run/escaped").exists() && !Path::new("/escaped").exists(), "{what}");
        let _ = fs::remove_dir_all(wharf.path(&format!("files{number}")));
        assert_eq!(escaped(&wharf.path(""), &wharf.path("store/snapshots")), Vec::<PathBuf>::new(), "{what}");
    }
    wharf.dockerfile("FROM busybox\nRUN true\n").build(&["-t", "app"]).success();
}

#[test]
fn archives_for_add_cannot_write_outside_and_are_refused_when_they_lie() {
    use Entry::{Directory, File, HardLink, Symlink};
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let outside = wharf.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    let short = PathBuf::from(format!("/tmp/wharf-add-{}", std::process::id()));
    symlink(&outside, &short).unwrap();
    let _short = ShortName(short.clone());
    let victim = format!("{}/victim", short.display());
    let directory = short.display().to_string();
    // A header that promises more than there is.
    let mut lying = layer(&[File("big")]);
    lying[124..136].copy_from_slice(b"77777777777\0");
    let mut header = tar::Header::from_byte_slice(&lying[..512]).clone();
    header.set_cksum();
    lying[..512].copy_from_slice(header.as_bytes());
    let mut long = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    long.append_data(&mut header, "n/".repeat(50_000), &b""[..]).unwrap();
    let many: Vec<_> = (0..100_000).map(|_| Directory("same")).collect();

    let add = |what: &str, bytes: Vec<u8>, error: Option<&str>| {
        fs::write(wharf.context().join("a.tar"), bytes).unwrap();
        wharf.dockerfile("FROM busybox\nADD a.tar /n/m/\n");
        let built = wharf.build(&["-o", "type=oci,dest=out.tar"]);
        match error {
            Some(words) => drop(built.fails_with(1, &["Dockerfile:2", "cannot unpack", words])),
            None => drop(built.success()),
        }
        assert_eq!(wharf.path("out.tar").exists(), error.is_none(), "{what}");
        let _ = fs::remove_file(wharf.path("out.tar"));
        assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "untouched", "{what}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{what}");
        assert_eq!(escaped(&wharf.path(""), &wharf.path("store/snapshots")), Vec::<PathBuf>::new(), "{what}");
        assert_eq!(wharf.leftovers("store"), Vec::<String>::new(), "{what}");
    };
    add("a parent", layer(&[File("../escaped")]), Some("leads upward"));
    add("parents", layer(&[File("a/../../escaped")]), Some("leads upward"));
    add("an absolute name", layer(&[File("/abs/x")]), None);
    add("a symlink", layer(&[Symlink("l", &directory), File("l/escaped")]), None);
    add("symlinks", layer(&[Directory("d"), Symlink("d/l", "../../../.."), File("d/l/escaped")]), None);
    add("a hard link", layer(&[HardLink("l", &victim), File("l")]), Some("which does not exist"));
    add(
        "a hard link through a symlink",
        layer(&[Symlink("o", &directory), HardLink("l", "o/victim"), File("l")]),
        Some("which does not exist"),
    );
    add("a loop", layer(&[Symlink("l", "l"), File("l/x")]), Some("symbolic links"));
    add("a size that lies", lying, Some("a.tar"));
    add("a long name", long.into_inner().unwrap(), Some("more than 4096"));
    add("many entries", layer(&many), None);
}

/// Makes `depth` directories `d`, each in the one before.
fn nest(top: &Path, depth: usize) {
    let mut dir: std::os::fd::OwnedFd = fs::File::open(top).unwrap().into();
    for _ in 0..depth {
        rustix::fs::mkdirat(&dir, "d", 0o755.into()).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        dir = rustix::fs::openat(&dir, "d", flags, rustix::fs::Mode::empty()).unwrap();
    }
}

#[test]
fn paths_end_where_the_kernel_ends_them() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    fs::create_dir(wharf.context().join("deep")).unwrap();
    fs::create_dir(wharf.context().join("deeper")).unwrap();
    nest(&wharf.context().join("deep"), 1500);
    nest(&wharf.context().join("deeper"), 2100);
    wharf.file("f", "");
    let name = "n".repeat(256);
    for (instruction, words) in [
        (format!("COPY f /{name}"), "File name too long"),
        (format!("COPY f /{name}/"), "File name too long"),
        ("COPY deeper /d".to_owned(), "nested deeper than 2048"),
        (format!("COPY deep /{}", "d/".repeat(700)), "File name too long"),
    ] {
        wharf.dockerfile(&format!("FROM busybox\n{instruction}\n"));
        wharf.build(&["-o", "type=oci,dest=out.tar"]).fails_with(1, &["Dockerfile:2", words]);
        assert!(!wharf.path("out.tar").exists());
    }
    wharf
        .dockerfile("FROM busybox\nCOPY deep /d\nRUN test -d /d/d/d/d/d/d\n")
        .build(&["-t", "deep"])
        .success();
    // A step has the limit of open files that the build was started with, whatever the build itself takes.
    wharf.dockerfile("FROM busybox\nRUN test \"$(ulimit -n)\" = 700\n");
    let mut limited = Command::new("prlimit");
    let build = wharf.build_command("store", &["--no-cache"]);
    limited.arg("--nofile=700:4000").arg(build.get_program()).args(build.get_args());
    limited.current_dir(wharf.path("")).stdout(std::process::Stdio::piped());
    crate::harness::Outcome::of(limited).success();
}

#[test]
fn the_context_ends_where_it_ends() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    fs::write(wharf.path("secret"), "secret").unwrap();
    symlink("../secret", wharf.context().join("file")).unwrap();
    symlink("..", wharf.context().join("directory")).unwrap();
    symlink(wharf.path(""), wharf.context().join("absolute")).unwrap();
    fs::create_dir(wharf.context().join("inner")).unwrap();
    symlink("../../secret", wharf.context().join("inner/link")).unwrap();
    for source in
        ["../secret", "../../secret", "file", "directory/secret", "absolute/secret", "inner/../../secret"]
    {
        for instruction in ["COPY", "ADD"] {
            wharf.dockerfile(&format!(
                "FROM busybox\n{instruction} {source} /copied\nRUN ! grep -r secret /copied\n"
            ));
            wharf.build(&["-o", "type=oci,dest=out.tar"]).fails_with(1, &["Dockerfile:2", "not found"]);
            assert!(!wharf.path("out.tar").exists());
        }
    }
    // What a pattern finds may be nothing; here it must be.
    wharf
        .dockerfile("FROM busybox\nCOPY d*/secret ../*cret /copied/\nRUN test ! -e /copied/secret\n")
        .build(&[])
        .success();
    // Within a directory that is copied a link is a link.
    wharf.dockerfile("FROM scratch\nCOPY inner /inner\n").build(&["-o", "out"]).success();
    assert_eq!(fs::read_link(wharf.path("out/inner/link")).unwrap().to_str(), Some("../../secret"));
    wharf.dockerfile("FROM busybox\nCOPY . /all\nRUN ls -l /all\n").build(&[]).success();
}

#[test]
fn a_store_that_has_filled_its_disk_can_be_pruned() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let _disk = SmallDisk::mount(wharf.path("store"), 20);
    let small = "FROM busybox\nRUN echo ok >/ok\n";
    wharf.dockerfile(small).build(&["-t", "ok"]).success();
    wharf.dockerfile(
        "FROM busybox\n\
         RUN --mount=type=cache,target=/c cat /dev/zero >/c/y; while echo 1 >>/c/z; do :; done; true\n",
    );
    wharf.build(&["-t", "full"]).failure();
    wharf.run(&["prune", "--all", "--force"]).success();
    assert_eq!(wharf.run(&["run", "--rm", "ok", "cat", "/ok"]).success().text(), "ok\n");
    wharf.dockerfile(small).build(&["-t", "ok"]).success();
    wharf.run(&["rmi", "ok"]).success();
}
