//! The store stays under its limit, and nothing that is used goes.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command};

use serde_json::Value;

use crate::harness::{Outcome, Step, Wharf, busybox_layout, have, tool, wait_until};

/// What `du` says that a store takes, in bytes.
fn du(wharf: &Wharf) -> u64 {
    let path = wharf.path("store");
    let text = tool("du", &["--summarize", "--block-size=1", path.to_str().unwrap()]);
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Bytes that differ from build to build and do not compress.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..size.div_ceil(8)).flat_map(|_| next()).take(size).collect()
}

/// Writes a configuration and gives its path.
fn config(wharf: &Wharf, text: &str) -> String {
    let path = wharf.path("config.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn limit(wharf: &Wharf, bytes: u64) -> String {
    config(wharf, &format!("[store]\nmax-size = {bytes}\n"))
}

fn items(wharf: &Wharf) -> Value {
    serde_json::from_slice(&wharf.run(&["du", "--format", "json"]).success().stdout).unwrap()
}

/// The items that have this state.
fn in_state(wharf: &Wharf, state: &str) -> usize {
    items(wharf)["items"].as_array().unwrap().iter().filter(|item| item["state"] == state).count()
}

fn entries(wharf: &Wharf, dir: &str) -> usize {
    fs::read_dir(wharf.path("store").join(dir)).unwrap().count()
}

#[test]
fn two_hundred_builds_stay_under_the_limit() {
    const BYTES_MAX: u64 = 3_000_000;
    let Some(wharf) = Wharf::new() else { return };
    let config = limit(&wharf, BYTES_MAX);
    wharf.dockerfile("FROM scratch AS tools\nCOPY tools /tools\nFROM scratch\nCOPY --from=tools /tools /tools\nCOPY src /src\nCOPY last /last\n");
    let mut hits = 0;
    for number in 0..200_u64 {
        let files =
            [("tools/a", number / 40, 90_000), ("src/b", number / 3, 120_000), ("last", number, 40_000)];
        for (name, seed, size) in files {
            wharf.file(name, "");
            fs::write(wharf.context().join(name), noise(seed + 1, size)).unwrap();
        }
        let arguments = ["--config", &config, "-t", "app"];
        let built = wharf.build(if number % 2 == 0 { &arguments } else { &arguments[..2] }).success();
        assert!(!built.stderr.contains("max-size"), "{}", built.stderr);
        let taken = du(&wharf);
        assert!(taken <= BYTES_MAX, "build {number}: {taken}");
        hits += built.steps().that(Step::Cached).len();
    }
    // What did not change since the build before is still there, whatever else had to go.
    assert!(hits > 200, "{hits}");
    if have(&["skopeo"]) {
        let store = format!("oci:{}:docker.io/library/app:latest", wharf.path("store").display());
        let copy = format!("dir:{}", wharf.path("copy").display());
        tool("skopeo", &["copy", "--insecure-policy", &store, &copy]);
    }
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}

#[test]
fn eight_processes_build_while_others_collect() {
    const BYTES_MAX: u64 = 1_500_000;
    const ROUNDS: u64 = 10;
    let Some(wharf) = Wharf::new() else { return };
    let config = limit(&wharf, BYTES_MAX);
    let build = |process: u64, round: u64| -> Outcome {
        let context = wharf.path(&format!("context-{process}"));
        fs::create_dir_all(&context).unwrap();
        // Some of what they build is the same, so one collects what another has just found.
        fs::write(context.join("common"), noise(round / 2, 60_000)).unwrap();
        fs::write(context.join("own"), noise(1000 * process + round, 60_000)).unwrap();
        let text = "FROM scratch AS a\nCOPY common /common\nFROM scratch\nCOPY --from=a /common /common\nCOPY own /own\n";
        fs::write(context.join("Dockerfile"), text).unwrap();
        let (name, tar) = (format!("app-{process}"), format!("app-{process}.tar"));
        let output = format!("type=tar,dest={tar}");
        let context = context.to_str().unwrap();
        let arguments =
            ["build", "--config", &config, "-t", &name, "-o", "type=image", "-o", &output, context];
        let built = Outcome::of(wharf.command("store", &arguments)).success();
        for (file, seed) in [("common", round / 2), ("own", 1000 * process + round)] {
            let tar = wharf.path(&tar);
            let read = Command::new("tar").arg("-xOf").arg(tar).arg(file).output().unwrap();
            assert_eq!(read.stdout, noise(seed, 60_000), "{file} of {process} in {round}");
        }
        built
    };
    std::thread::scope(|scope| {
        for process in 0..8 {
            let build = &build;
            scope.spawn(move || (0..ROUNDS).for_each(|round| drop(build(process, round))));
        }
        for _ in 0..20 {
            wharf.run(&["prune", "--all", "--force"]).success();
        }
    });
    // The last ones may have left while others were still at work.
    build(0, ROUNDS);
    let taken = du(&wharf);
    assert!(taken <= BYTES_MAX, "{taken}");
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
    if have(&["skopeo"]) {
        for process in 0..8 {
            let store =
                format!("oci:{}:docker.io/library/app-{process}:latest", wharf.path("store").display());
            let copy = format!("dir:{}", wharf.path(&format!("copy-{process}")).display());
            tool("skopeo", &["copy", "--insecure-policy", &store, &copy]);
        }
    }
}

/// Starts a command and waits until it has leased that many snapshots.
fn start_and_wait(wharf: &Wharf, mut command: Command, snapshots: usize) -> (Command, Child) {
    let child = command.spawn().unwrap();
    let leases = |name: &str| {
        let path = wharf.path("store/tmp").join(name).join("lease");
        let lease = fs::read_to_string(path).unwrap_or_default();
        lease.lines().filter(|line| line.starts_with("s ")).count() >= snapshots
    };
    wait_until("the snapshots are leased", || {
        let Ok(found) = fs::read_dir(wharf.path("store/tmp")) else { return false };
        found.flatten().any(|entry| leases(&entry.file_name().to_string_lossy()))
    });
    (command, child)
}

#[test]
fn what_a_build_uses_stays_while_it_runs() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("f", "text").dockerfile(
        "FROM busybox AS one\nCOPY f /\nRUN cat f f > /g\nFROM busybox\nRUN sleep 1\nCOPY --from=one /g /\n\
         RUN --mount=type=cache,target=/c echo x > /c/x; cat /g > /h\n",
    );
    // The first stage is found in the cache and used only after everything else was collected.
    wharf.build(&["--target", "one"]).success();
    // The base's, and the two of the first stage.
    let (command, child) = start_and_wait(&wharf, wharf.build_command("store", &["-t", "app"]), 3);
    for _ in 0..5 {
        wharf.run(&["prune", "--all", "--force"]).success();
    }
    let built = Outcome::from_output(&command, child.wait_with_output().unwrap()).success();
    assert!(built.steps().that(Step::Cached).contains(&"COPY f /"), "{}", built.stderr);
    assert_eq!(wharf.run(&["run", "--rm", "app", "cat", "/h"]).success().text(), "texttext");
    assert_eq!(in_state(&wharf, "in-use"), 0);
}

#[test]
fn what_a_container_uses_stays_while_it_runs() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\nRUN echo text > /f\n");
    let id = wharf.build(&["-q"]).success().text();
    let script = "sleep 1; cat /f";
    let running = wharf.command("store", &["run", "--rm", id.trim(), "sh", "-c", script]);
    let (command, child) = start_and_wait(&wharf, running, 1);
    wharf.run(&["prune", "--all", "--force"]).success();
    let ran = Outcome::from_output(&command, child.wait_with_output().unwrap()).success();
    assert_eq!(ran.text(), "text\n");
    wharf.run(&["prune", "--all", "--force"]).success();
    assert_eq!((entries(&wharf, "snapshots"), entries(&wharf, "blobs/sha256")), (0, 0));
}

#[test]
fn a_lease_ends_with_its_holder() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\nRUN echo 1 > /f\nRUN sleep 1000\n");
    let (_, mut child) = start_and_wait(&wharf, wharf.build_command("store", &[]), 1);
    wait_until("the first step is done", || entries(&wharf, "snapshots") >= 2);
    wharf.run(&["prune", "--all", "--force"]).success();
    assert!(entries(&wharf, "snapshots") >= 2);
    child.kill().unwrap();
    child.wait().unwrap();
    // Its step dies a moment later.
    wait_until("nothing is kept any more", || {
        wharf.run(&["prune", "--all", "--force"]).success();
        (entries(&wharf, "snapshots"), entries(&wharf, "blobs/sha256")) == (0, 0)
    });
}

#[test]
fn images_with_names_stay_whatever_the_limit() {
    let Some(wharf) = Wharf::new() else { return };
    let config = limit(&wharf, 1_000_000);
    wharf.file("f", "").dockerfile("FROM scratch\nCOPY f /\n");
    fs::write(wharf.context().join("f"), noise(1, 1_500_000)).unwrap();
    let built = wharf.build(&["--config", &config, "-t", "app"]).success();
    assert_eq!(built.stderr.matches("more than its max-size of 1.00MB").count(), 1, "{}", built.stderr);
    assert!(built.stderr.contains("images with names need 1.5"), "{}", built.stderr);
    assert_eq!(entries(&wharf, "snapshots"), 0, "all the rest is gone");
    wharf.build(&["--config", &config, "-t", "app"]).success();
    wharf.run(&["rmi", "app"]).success();
    // Without the name it is like anything else.
    wharf.build(&["--config", &config, "-o", "type=image"]).success();
    assert!(du(&wharf) <= 1_000_000);
    assert_eq!(entries(&wharf, "blobs/sha256"), 2, "manifest and config go with the next collection");
    assert_eq!(in_state(&wharf, "garbage"), 2);
    assert!(wharf.run(&["images"]).success().text().lines().count() <= 1);
}

#[test]
fn a_limit_comes_from_the_nearest_configuration() {
    let Some(wharf) = Wharf::new() else { return };
    let place = wharf.path("xdg/wharf");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("config.toml"), "[store]\nmax-size = 1000\n").unwrap();
    fs::write(wharf.path("named.toml"), "[store]\nmax-size = 2000\n").unwrap();
    fs::write(wharf.path("given.toml"), "[store]\nmax-size = \"3k\"\n").unwrap();
    fs::write(wharf.path("part.toml"), "[store]\nmax-size = \"50%\"\n").unwrap();
    fs::write(wharf.path("bad.toml"), "[store]\nmax-sise = 1\n").unwrap();
    let du = |arguments: &[&str], named: Option<&str>| {
        let mut all = vec!["du", "--format", "json"];
        all.extend(arguments);
        let mut command = wharf.command("store", &all);
        command.env("XDG_CONFIG_HOME", wharf.path("xdg")).env_remove("WHARF_CONFIG");
        if let Some(name) = named {
            command.env("WHARF_CONFIG", wharf.path(name));
        }
        Outcome::of(command)
    };
    let bytes_max = |outcome: Outcome| {
        let json: Value = serde_json::from_slice(&outcome.success().stdout).unwrap();
        json["bytes_max"].as_u64().unwrap()
    };
    assert_eq!(bytes_max(du(&[], None)), 1000);
    assert_eq!(bytes_max(du(&[], Some("named.toml"))), 2000);
    assert_eq!(bytes_max(du(&["--config", "given.toml"], Some("named.toml"))), 3000);
    let text = tool("stat", &["--file-system", "--format=%b %S", wharf.path("store").to_str().unwrap()]);
    let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let size = numbers[0] * numbers[1];
    assert!(bytes_max(du(&["--config", "part.toml"], None)).abs_diff(size / 2) < 100);
    fs::remove_dir_all(place).unwrap();
    if !std::path::Path::new("/etc/wharf/config.toml").exists() {
        assert!(bytes_max(du(&[], None)).abs_diff((size / 5 * 3).min(100_000_000_000)) < 100);
    }
    du(&["--config", "nowhere.toml"], None).fails_with(2, &["nowhere.toml", "hint:"]);
    du(&["--config", "bad.toml"], None).fails_with(2, &["bad.toml", "line 2", "max-sise"]);
    du(&[], Some("bad.toml")).fails_with(2, &["bad.toml"]);
    du(&["--config", "."], None).fails_with(2, &["not a file"]);
}

#[test]
fn what_is_shown_is_what_is_there() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("f", "text").dockerfile(
        "FROM busybox\nRUN --mount=type=cache,id=pip,target=/c head -c 300000 /dev/zero > /c/x\nCOPY f /\n",
    );
    wharf.build(&["-t", "app"]).success();
    let report = items(&wharf);
    let sum: u64 =
        report["items"].as_array().unwrap().iter().map(|item| item["bytes"].as_u64().unwrap()).sum();
    assert_eq!(report["bytes"].as_u64(), Some(sum));
    // The database's files are smaller when nobody has them open.
    let taken = du(&wharf);
    assert!(sum >= taken && sum - taken < 1_000_000, "{sum} {taken}");
    let kinds: BTreeSet<&str> =
        report["items"].as_array().unwrap().iter().map(|item| item["kind"].as_str().unwrap()).collect();
    assert!(["blob", "cache-mount", "database", "other", "snapshot"].iter().all(|kind| kinds.contains(kind)));
    let text = |arguments: &[&str]| wharf.run(arguments).success().text();
    assert!(text(&["du"]).contains("cache-mount"));
    assert!(text(&["du", "--by", "image"]).contains("app"));
    assert!(text(&["du", "--by", "age"]).contains("the last hour"));
    assert!(text(&["du", "--by", "cost"]).contains("under a second"));
    let verbose = text(&["du", "--verbose"]);
    assert!(verbose.contains("pip") && verbose.contains("tagged"), "{verbose}");
}

#[test]
fn names_cannot_steer_a_terminal() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\nRUN --mount=type=cache,id=a\u{9b}2Jb,target=/c echo > /c/x\n");
    wharf.build(&[]).success();
    for arguments in [&["du", "--format=json"][..], &["du", "--verbose"], &["prune", "--all", "--dry-run"]] {
        let shown = wharf.run(arguments).success().text();
        assert!(shown.contains("2Jb") && !shown.contains('\u{9b}'), "{arguments:?}: {shown:?}");
    }
    let ids: Vec<Value> =
        items(&wharf)["items"].as_array().unwrap().iter().map(|it| it["title"].clone()).collect();
    assert!(ids.contains(&Value::from("a\u{9b}2Jb")), "{ids:?}");
    wharf.run(&["prune", "--filter", "a\u{1b}[2Jb"]).fails_with(2, &["--filter ab:"]);
}

#[test]
fn prune_removes_what_it_is_told_to() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("f", "1").dockerfile(
        "FROM busybox\nRUN --mount=type=cache,id=pip,target=/c echo x > /c/x\nRUN --mount=type=cache,id=npm,target=/c echo x > /c/x\nCOPY f /\n",
    );
    wharf.build(&["-t", "app"]).success();
    let (before, mounts) = (entries(&wharf, "snapshots"), entries(&wharf, "mounts"));
    assert_eq!(mounts, 2);
    wharf.run(&["prune"]).fails_with(2, &["--force", "--dry-run"]);
    wharf.run(&["prune", "-f", "--filter", "type=files"]).fails_with(2, &["cache-mount"]);
    wharf.run(&["prune", "-f", "--max-used-space", "much"]).fails_with(2, &["10GB"]);
    let shown = wharf.run(&["prune", "--all", "--dry-run"]).success().text();
    assert!(shown.contains("would be removed") && shown.contains("pip"), "{shown}");
    assert_eq!((entries(&wharf, "snapshots"), entries(&wharf, "mounts")), (before, 2));
    wharf.run(&["prune", "--all", "--force", "--filter", "until=1h"]).success();
    assert_eq!((entries(&wharf, "snapshots"), entries(&wharf, "mounts")), (before, 2), "nothing is so old");
    let removed = wharf.run(&["prune", "--all", "--force", "--filter", "id=pip"]).success().text();
    assert!(removed.contains("pip") && !removed.contains("npm"), "{removed}");
    assert_eq!(entries(&wharf, "mounts"), 1);
    // A build without a cache leaves the files that it replaced, and a new image leaves the old one without a name.
    wharf.file("f", "2").build(&["-t", "app", "--no-cache"]).success();
    assert!(in_state(&wharf, "garbage") > 0 && in_state(&wharf, "dangling") > 0);
    wharf.run(&["prune", "--force"]).success();
    assert_eq!((in_state(&wharf, "garbage"), in_state(&wharf, "dangling")), (0, 0));
    wharf.build(&["-t", "app"]).success().steps().check_ran(&[]);
    wharf.run(&["prune", "--force", "--max-used-space", "1"]).success();
    assert_eq!((entries(&wharf, "snapshots"), entries(&wharf, "mounts")), (0, 0));
    assert_eq!(in_state(&wharf, "cached"), 0);
    assert_eq!(wharf.run(&["run", "--rm", "app", "cat", "/f"]).success().text(), "2");
}
