//! Volumes and mounts of containers, as `wharf run` and `wharf volume` have them.

use std::fs;
use std::os::unix::fs::symlink;

use crate::harness::{Outcome, Wharf, busybox_layout, processes, skip};

const USAGE: i32 = 2;

/// An image `app` with files at `/data`, which is a volume of it.
fn with_image() -> Option<Wharf> {
    let wharf = Wharf::new()?;
    if busybox_layout().is_none() {
        skip("the busybox base could not be made");
        return None;
    }
    wharf.dockerfile(
        "FROM busybox\nRUN mkdir -p /data/sub && echo of-the-image > /data/file && ln /data/file /data/sub/same \
         && chmod 2770 /data && chown 7:8 /data/file && ln -s / /data/out\nVOLUME /data\n",
    );
    wharf.build(&["-t", "app"]).success();
    Some(wharf)
}

fn run(wharf: &Wharf, arguments: &[&str], script: &str) -> Outcome {
    let mut all = vec!["run", "--rm", "--network", "none"];
    all.extend(arguments);
    all.extend(["app", "sh", "-c", script]);
    wharf.run(&all)
}

fn volumes(wharf: &Wharf) -> Vec<String> {
    wharf.run(&["volume", "ls", "-q"]).success().text().lines().map(str::to_owned).collect()
}

#[track_caller]
fn nothing_is_left(wharf: &Wharf) {
    let marker = wharf.path("store").display().to_string();
    assert_eq!(processes(&marker), [""; 0]);
    assert_eq!(wharf.leftovers("store"), [""; 0]);
}

#[test]
fn volumes_begin_as_the_image_and_stay() {
    let Some(wharf) = with_image() else { return };
    let looks = "stat -c '%a %u:%g %h' /data /data/file; cat /data/sub/same";
    let seen = run(&wharf, &["-v", "vol:/data"], looks).success().text();
    assert_eq!(seen, "2770 0:0 3\n640 7:8 2\nof-the-image\n".replace("640", "644"));
    run(&wharf, &["-v", "vol:/data"], "rm /data/file; echo kept > /data/own").success();
    let seen = run(&wharf, &["-v", "vol:/data:ro"], "ls /data; echo x > /data/new").failure();
    assert_eq!(seen.text(), "out\nown\nsub\n");
    assert!(seen.stderr.contains("Read-only"), "{}", seen.stderr);
    assert_eq!(volumes(&wharf), ["vol"], "an anonymous volume has outlived --rm");
    let seen = run(&wharf, &["--mount", "src=empty,dst=/data,volume-nocopy"], "ls /data").success();
    assert_eq!(seen.text(), "");
    nothing_is_left(&wharf);
}

#[test]
fn a_directory_that_cannot_be_written_is_not_filled() {
    let Some(wharf) = with_image() else { return };
    for (name, o, expected) in [("kept", "bind,ro", 0), ("filled", "bind", 3)] {
        let host = wharf.path(name);
        fs::create_dir(&host).unwrap();
        let device = format!("device={}", host.display());
        wharf
            .run(&["volume", "create", "-o", "type=none", "-o", &format!("o={o}"), "-o", &device, name])
            .success();
        run(&wharf, &["-v", &format!("{name}:/data")], "ls /data").success();
        assert_eq!(fs::read_dir(&host).unwrap().count(), expected, "{o}");
    }
    nothing_is_left(&wharf);
}

#[test]
fn parts_of_volumes_lead_nowhere_else() {
    let Some(wharf) = with_image() else { return };
    run(&wharf, &["-v", "vol:/data"], "ln -s /etc /data/etc; ln -s sub /data/link; ln -s ../.. /data/up")
        .success();
    let part = |subpath: &str| {
        let mount = format!("src=vol,dst=/part,volume-subpath={subpath}");
        run(&wharf, &["--mount", &mount], "ls /part")
    };
    assert_eq!(part("sub").success().text(), "same\n");
    assert_eq!(part("link").success().text(), "same\n");
    for (subpath, word) in [
        ("etc", "leads out"),
        ("up", "leads out"),
        ("nothing", "holds no `nothing`"),
        ("out/etc", "leads out"),
    ] {
        let told = part(subpath);
        assert_eq!(told.code, Some(125), "{subpath}: {}", told.stderr);
        assert!(told.stderr.contains(word), "{subpath}: {}", told.stderr);
    }
    nothing_is_left(&wharf);
}

#[test]
fn what_a_container_has_is_not_removed() {
    let Some(wharf) = with_image() else { return };
    wharf.run(&["create", "--name", "one", "-v", "db:/db", "app"]).success();
    wharf.run(&["volume", "rm", "db"]).fails_with(USAGE, &["in use by one"]);
    wharf.run(&["volume", "prune", "-f", "-a"]).success();
    assert_eq!(volumes(&wharf).len(), 2);
    wharf.run(&["rmi", "app"]).fails_with(USAGE, &["used by containers: one"]);
    wharf.run(&["rm", "-v", "one"]).success();
    assert_eq!(volumes(&wharf), ["db"]);
    wharf.run(&["volume", "prune", "-f"]).success();
    assert_eq!(volumes(&wharf), ["db"], "one with a name went");
    wharf.run(&["volume", "rm", "db"]).success();
    wharf.run(&["volume", "rm", "db"]).fails_with(USAGE, &["no volume `db`"]);
    wharf.run(&["volume", "rm", "-f", "db"]).success();
    wharf.run(&["volume", "create", "../x"]).fails_with(USAGE, &["no name of a volume"]);
    wharf.run(&["volume", "create", "-o", "size=1", "x1"]).fails_with(USAGE, &["no option `size`"]);
    wharf.run(&["create", "--name", "two", "app"]).success();
    wharf.run(&["create", "--name", "two", "app"]).failure();
    assert_eq!(volumes(&wharf).len(), 1, "a container that could not be made has left a volume");
    nothing_is_left(&wharf);
}

#[test]
fn directories_of_the_host_and_memory_are_mounted_as_asked() {
    let Some(wharf) = with_image() else { return };
    let host = wharf.path("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "of the host\n").unwrap();
    symlink("/etc/hostname", host.join("link")).unwrap();
    let made = wharf.path("made/here");
    let bind = format!("{}:/host:ro", host.display());
    assert_eq!(run(&wharf, &["-v", &bind], "cat /host/file").success().text(), "of the host\n");
    run(&wharf, &["-v", &bind], "echo x > /host/file").failure();
    run(&wharf, &["-v", &format!("{}:/made", made.display())], "echo x > /made/file").success();
    assert_eq!(fs::read_to_string(made.join("file")).unwrap(), "x\n");
    let missing = format!("type=bind,src={},dst=/x", wharf.path("missing").display());
    let told = run(&wharf, &["--mount", &missing], "true");
    assert!(told.code == Some(125) && told.stderr.contains("missing"), "{}", told.stderr);
    assert!(!wharf.path("missing").exists());
    let file = format!("type=bind,src={},dst=/one,readonly", host.join("file").display());
    assert_eq!(run(&wharf, &["--mount", &file], "cat /one").success().text(), "of the host\n");
    let seen =
        run(&wharf, &["--tmpfs", "/mem:size=64k,mode=0750"], "stat -c %a /mem; grep ' /mem ' /proc/mounts")
            .success();
    assert!(seen.text().starts_with("750\n") && seen.text().contains("size=64k"), "{}", seen.text());
    assert!(seen.text().contains("noexec"), "{}", seen.text());
    wharf
        .run(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,noexec", "mem"])
        .success();
    let seen = run(&wharf, &["-v", "mem:/mem"], "grep ' /mem ' /proc/mounts").success().text();
    assert!(seen.contains("tmpfs") && seen.contains("size=1024k") && seen.contains("noexec"), "{seen}");
    let device = format!("device={}", host.display());
    wharf.run(&["volume", "create", "-o", "type=none", "-o", &device, "-o", "o=bind", "bound"]).success();
    assert_eq!(run(&wharf, &["-v", "bound:/b"], "cat /b/file").success().text(), "of the host\n");
    nothing_is_left(&wharf);
}
