//! A store that was damaged is noticed and built from again.

use std::fs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::git_fixture::GitServer;
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
fn a_damaged_database_is_begun_anew() {
    for harm in [
        "printf no > state.db",
        "truncate -s 5000 state.db",
        "dd if=/dev/urandom of=state.db bs=4096 count=50",
    ] {
        let Some(wharf) = built() else { return };
        tool("sh", &["-ec", &format!("cd {}; {harm} 2>/dev/null", wharf.path("store").display())]);
        let outcome = wharf.build(&["-t", "new"]).success();
        assert_eq!(
            outcome.stderr.matches("the database of the store was damaged").count(),
            1,
            "{}",
            outcome.stderr
        );
        assert_eq!(outcome.steps().that(Step::Ran), ["COPY f /", "RUN cat f > /g"], "{harm}");
        let images = wharf.run(&["images"]).success();
        assert!(images.stderr.is_empty(), "{}", images.stderr);
        for name in ["app", "new"] {
            assert!(images.text().contains(name), "{}", images.text());
            assert_eq!(wharf.run(&["run", "--rm", name]).success().stdout, b"text\n");
        }
        assert_eq!(wharf.build(&["-t", "new"]).success().steps().that(Step::Ran), [""; 0]);
        assert_eq!(wharf.leftovers("store"), [""; 0]);
    }
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

/// What is in memory of it is not asked for: every page is read from the log or from the file.
fn ruin_database(store: &Path) {
    for name in ["state.db-wal", "state.db"] {
        let path = store.join(name);
        let len = fs::metadata(&path).unwrap().len();
        fs::write(path, vec![0xa5; usize::try_from(len).unwrap()]).unwrap();
    }
}

/// Its name, whether the build has to notice it, and what does it to a store.
type Harm<'a> = (&'a str, bool, &'a dyn Fn(&Path));

#[test]
fn what_is_lost_while_a_build_runs_is_made_again() {
    // Whether this build must notice: what SQLite has in memory it does not read again.
    let harms: [Harm<'_>; 5] = [
        ("the database", false, &ruin_database),
        ("the database, and another process began a new one", true, &|store| {
            ruin_database(store);
            let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
            let output = command.arg("--root").arg(store).arg("images").output().unwrap();
            assert!(String::from_utf8_lossy(&output.stderr).contains("was damaged"), "{output:?}");
        }),
        ("all snapshots", true, &|store| {
            for entry in fs::read_dir(store.join("snapshots")).unwrap() {
                fs::remove_dir_all(entry.unwrap().path()).unwrap();
            }
        }),
        ("the files of all snapshots", true, &|store| {
            for entry in fs::read_dir(store.join("snapshots")).unwrap() {
                fs::remove_dir_all(entry.unwrap().path().join("fs")).unwrap();
            }
        }),
        ("all blobs", true, &|store| {
            for entry in fs::read_dir(store.join("blobs/sha256")).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }),
    ];
    for (name, is_noticed, harm) in harms {
        let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
        let outcome = build_and_harm(&wharf, &["-t", "app"], harm).success();
        assert!(
            !is_noticed || outcome.stderr.contains("warning"),
            "{name}: nothing was said\n{}",
            outcome.stderr
        );
        assert_eq!(wharf.run(&["run", "--rm", "app"]).success().stdout, b"text\ntext\ntext\n", "{name}");
        let steps = wharf.build(&["-t", "app"]).success().steps();
        assert!(!is_noticed || steps.that(Step::Ran).is_empty(), "{name}: {steps:?}");
        let store = wharf.path("store").display().to_string();
        wait_until("the network process has ended", || processes(&store).is_empty());
    }
}

/// A repository as the context has its files in the store too.
#[test]
fn a_context_that_is_lost_while_a_build_runs_is_brought_again() {
    let (Some(busybox), Some(server)) = (busybox_layout(), GitServer::start()) else { return };
    let dockerfile = "FROM busybox\n\
         RUN --mount=type=cache,target=/c touch /c/started && until [ -e /c/go ]; do sleep 0.01; done\n\
         COPY f g /\n\
         RUN cat f g > /all\n\
         CMD [\"cat\", \"/all\"]\n";
    server.sh(&format!(
        "git init -q -b main lost; cd lost; echo f >f; echo g >g; printf '%s' '{dockerfile}' >Dockerfile
         git add .; git commit -qm context; git clone -q --bare . ../lost.git"
    ));
    for dockerfile in [None, Some(dockerfile)] {
        let Some(wharf) = Wharf::new() else { return };
        let url = format!("{}#main", server.url("smart/lost.git"));
        let busybox = format!("busybox=oci-layout://{}", busybox.display());
        let mut arguments = vec!["build", "--progress=plain", "-t", "app", "--build-context", &busybox, &url];
        arguments.extend(dockerfile.map(|_| "--file=-"));
        let command = wharf.command("store", &arguments);
        let input = dockerfile.unwrap_or("").to_owned();
        let building = thread::spawn(move || Outcome::of_with_input(command, input.as_bytes()));
        let mounts = wharf.path("store/mounts");
        wait_until("the step runs", || find(&mounts, "fs/started").is_some() || building.is_finished());
        for entry in fs::read_dir(wharf.path("store/snapshots")).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        let started = find(&mounts, "fs/started");
        if let Some(started) = started {
            fs::write(started.with_file_name("go"), "").unwrap();
        }
        building.join().unwrap().success();
        assert_eq!(wharf.run(&["run", "--rm", "app"]).success().stdout, b"f\ng\n");
    }
}

#[test]
fn damage_that_a_command_meets_is_told() {
    let Some(wharf) = built() else { return };
    let script = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\ndb.execute('update graphs set bytes = zeroblob(1)')\ndb.commit()";
    tool("python3", &["-c", script, wharf.path("store/state.db").to_str().unwrap()]);
    let outcome = wharf.run(&["history", "inspect", "^0"]);
    assert_eq!(outcome.stderr.matches("warning: ").count(), 1, "{}", outcome.stderr);
    assert!(!wharf.run(&["history", "inspect", "^0"]).stderr.contains("warning"));
}
