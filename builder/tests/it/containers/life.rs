//! From `create` to `rm`, and what is asked of a container meanwhile.

use std::thread;

use super::World;
use crate::harness::wait_until;

/// A command that ends when it is asked to, and says what it does.
const POLITE: &str =
    "trap 'echo asked; exit 5' TERM; trap 'echo poked' USR1; echo ready; while :; do sleep 0.05; done";

#[test]
fn a_container_is_made_started_stopped_and_removed() {
    let Some(world) = World::new() else { return };
    let id = world.text(&["create", "--name", "one", "--network", "none", "app", "sh", "-c", POLITE]);
    assert_eq!(id.len(), 64);
    assert_eq!(world.text(&["ps", "-q"]), "");
    assert_eq!(world.text(&["ps", "-aq"]), id[..12]);
    assert_eq!(world.text(&["start", "one"]), "one");
    world.wait_for("one", "ready");
    assert_eq!(
        world.field("one", "{{.State.Status}} {{.State.Running}} {{.State.ExitCode}}"),
        "running true 0"
    );
    world.run(&["start", "one"]).success();
    world.run(&["rm", "one"]).fails_with(2, &["it is running", "--force"]);
    assert_eq!(world.text(&["kill", "-s", "USR1", &id[..6]]), id[..6]);
    world.wait_for("one", "poked");
    assert_eq!(world.text(&["stop", "one"]), "one");
    world.wait_for("one", "asked");
    assert_eq!(world.field("one", "{{.State.Status}} {{.State.ExitCode}}"), "exited 5");
    assert_eq!(world.text(&["wait", "one"]), "5");

    world.run(&["restart", "-t", "1", "one"]).success();
    wait_until("it says so again", || world.text(&["logs", "one"]).matches("ready").count() == 2);
    world.run(&["pause", "one"]).success();
    assert_eq!(world.field("one", "{{.State.Status}} {{.State.Paused}}"), "paused true");
    assert!(world.text(&["ps"]).contains("(Paused)"));
    world.run(&["pause", "one"]).fails_with(2, &["paused"]);
    world.run(&["exec", "one", "true"]).fails_with(125, &["paused", "unpause"]);
    world.run(&["start", "one"]).fails_with(125, &["paused"]);
    world.run(&["unpause", "one"]).success();
    world.run(&["unpause", "one"]).fails_with(2, &["not paused"]);

    world.run(&["rename", "one", "uno"]).success();
    world.run(&["inspect", "one"]).fails_with(2, &["one"]);
    assert_eq!(world.field(&id, "{{.Name}}"), "/uno");
    let waiting = world.spawn(&["wait", "uno"]);
    world.run(&["kill", "uno"]).success();
    let waited = waiting.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&waited.stdout), "137\n");
    world.run(&["start", "uno"]).success();
    assert_eq!(world.text(&["rm", "-f", "uno"]), "uno");
    assert_eq!(world.text(&["ps", "-aq"]), "");
}

#[test]
fn what_is_removed_at_its_end_takes_its_volumes_along() {
    let Some(world) = World::new() else { return };
    let arguments = ["run", "--network", "none", "-v", "/anonymous", "-v", "kept:/kept"];
    world.run(&[&arguments[..], &["--rm", "app", "touch", "/anonymous/x"]].concat()).success();
    assert_eq!(world.text(&["ps", "-aq"]), "");
    assert_eq!(world.volumes(), ["kept"]);
    world.run(&[&arguments[..], &["--name", "stays", "app", "true"]].concat()).success();
    assert_eq!(world.volumes().len(), 2);
    world.run(&["rm", "-v", "stays"]).success();
    assert_eq!(world.volumes(), ["kept"]);
    // In the background too.
    let id = world.text(&[&arguments[..], &["-d", "--rm", "app", "sleep", "1000"]].concat());
    world.run(&["stop", "-t", "0", &id]).success();
    wait_until("it is gone", || world.text(&["ps", "-aq"]).is_empty());
    wait_until("its volume is gone", || world.volumes() == ["kept"]);
}

#[test]
fn of_two_that_want_one_name_one_gets_it() {
    let Some(world) = World::new() else { return };
    let all: Vec<_> = (0..6).map(|_| world.spawn(&["create", "--name", "same", "app"])).collect();
    let codes: Vec<_> =
        all.into_iter().map(|child| child.wait_with_output().unwrap().status.code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(125)).count(), 5, "{codes:?}");
    assert_eq!(world.text(&["ps", "-aq"]).lines().count(), 1);
}

#[test]
fn commands_run_in_a_container_that_runs() {
    let Some(world) = World::new() else { return };
    world
        .run(&[
            "run",
            "-d",
            "--name",
            "host",
            "-e",
            "OF=container",
            "--network",
            "none",
            "app",
            "sleep",
            "1000",
        ])
        .success();
    for (flags, command, expected) in [
        (&[][..], &["sh", "-c", "pwd; echo $OF $OF_IMAGE"][..], "/srv\ncontainer yes"),
        (&["-w", "/tmp"], &["pwd"], "/tmp"),
        (&["-u", "nobody"], &["id", "-un"], "nobody"),
        (&["-e", "OF=exec", "-e", "MORE=x"], &["sh", "-c", "echo $OF $MORE"], "exec x"),
        (&["--privileged"], &["sh", "-c", "mkdir /m && mount -t tmpfs none /m && echo mounted"], "mounted"),
        (&[], &["cat"], ""),
        (&["-t"], &["sh", "-c", "test -t 1 && echo terminal"], "terminal"),
    ] {
        let text = world.text(&[&["exec"], flags, &["host"], command].concat());
        assert_eq!(text.replace('\r', ""), expected, "{flags:?} {command:?}");
    }
    let both = world.run(&["exec", "host", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((both.code, both.text().as_str(), both.stderr.as_str()), (Some(3), "out\n", "err\n"));
    let input = crate::harness::Outcome::of_with_input(
        world.command(&["exec", "-i", "host", "wc", "-c"]),
        &[7; 100_000],
    );
    assert_eq!(input.success().text().trim(), "100000");
    world.run(&["exec", "host", "no-such-program"]).fails_with(127, &["no-such-program"]);
    world.run(&["exec", "host", "/etc/passwd"]).fails_with(126, &["/etc/passwd"]);
    world.run(&["exec", "-w", "/no/such", "host", "true"]).failure();
    assert_eq!(world.text(&["exec", "-d", "host", "sh", "-c", "echo done >/tmp/done; sleep 1000"]), "");
    wait_until("it has been done", || world.run(&["exec", "host", "cat", "/tmp/done"]).text() == "done\n");
    let top = world.text(&["top", "host"]);
    assert!(top.starts_with("UID") && top.contains("sleep 1000"), "{top}");
    assert!(top.lines().count() >= 3, "{top}");
    let pids = world.text(&["top", "host", "-o", "pid,comm"]);
    assert!(pids.starts_with("PID") && pids.contains("sleep"), "{pids}");
    let stats = world.text(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "host"]);
    assert!(stats.starts_with("host ") && stats != "host --", "{stats}");
    world.run(&["rm", "-f", "host"]).success();
}

#[test]
fn what_is_listed_is_what_is_asked_for() {
    let Some(world) = World::new() else { return };
    world.run(&["create", "--name", "made", "-l", "kind=a", "-p", "80:80", "app"]).success();
    world
        .run(&["run", "--name", "ended", "-l", "kind=b", "--network", "none", "app", "sh", "-c", "exit 3"])
        .fails_with(3, &[]);
    world
        .run(&[
            "run",
            "-d",
            "--name",
            "up",
            "-l",
            "kind=a",
            "-v",
            "data:/data",
            "--network",
            "none",
            "app",
            "sleep",
            "1000",
        ])
        .success();
    let names = |filters: &[&str]| {
        let flags: Vec<&str> = filters.iter().flat_map(|filter| ["-f", *filter]).collect();
        let text = world.text(&[&["ps", "-a", "--format", "{{.Names}}"], &flags[..]].concat());
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let check = |filters: &[&str], expected: &[&str]| assert_eq!(names(filters), expected, "{filters:?}");
    check(&[], &["up", "ended", "made"]);
    check(&["label=kind=a"], &["up", "made"]);
    check(&["label=kind"], &["up", "ended", "made"]);
    check(&["label=kind=a", "label=of=image", "status=created"], &["made"]);
    check(&["status=running"], &["up"]);
    check(&["status=exited", "status=created"], &["ended", "made"]);
    check(&["exited=3"], &["ended"]);
    check(&["exited=0"], &[]);
    check(&["name=^e"], &["ended"]);
    check(&["name=ed", "name=up"], &["up", "ended"]);
    check(&["ancestor=app"], &["up", "ended", "made"]);
    check(&["ancestor=other"], &[]);
    check(&["before=ended"], &["made"]);
    check(&["since=ended"], &["up"]);
    check(&["volume=data"], &["up"]);
    check(&["volume=/data"], &["up"]);
    check(&["network=none"], &["up", "ended"]);
    check(&["network=bridge"], &["made"]);
    check(&["publish=80"], &["made"]);
    check(&["expose=53/udp"], &["up", "ended", "made"]);
    check(&["health=none"], &["up", "ended", "made"]);
    assert_eq!(world.text(&["ps", "--format", "{{.Names}}"]), "up");
    assert_eq!(world.text(&["ps", "-l", "--format", "{{.Names}}"]), "up");
    assert_eq!(world.text(&["ps", "-n", "2", "--format", "{{.Names}}"]), "up\nended");
    let table = world.text(&["ps", "-a"]);
    assert!(table.starts_with("CONTAINER ID   IMAGE"), "{table}");
    assert!(table.contains("Exited (3) ") && table.contains("Created") && table.contains("Up "), "{table}");
    assert!(world.text(&["ps", "-as"]).lines().next().unwrap().ends_with("SIZE"));
    assert_eq!(world.text(&["ps", "-aq", "--no-trunc"]).lines().next().unwrap().len(), 64);
    let json: serde_json::Value =
        serde_json::from_str(world.text(&["ps", "--format", "json"]).lines().next().unwrap()).unwrap();
    assert_eq!((json["Names"].as_str(), json["State"].as_str()), (Some("up"), Some("running")));
    world.run(&["rm", "-f", "made", "ended", "up"]).success();
}

#[test]
fn many_run_side_by_side() {
    let Some(world) = World::new() else { return };
    thread::scope(|scope| {
        for number in 0..8 {
            let world = &world;
            scope.spawn(move || {
                let said = number.to_string();
                let text = world.text(&["run", "--rm", "--network", "none", "app", "echo", &said]);
                assert_eq!(text, said);
            });
        }
    });
}

#[test]
fn many_are_changed_at_once_and_told_of_in_order() {
    let Some(world) = World::new() else { return };
    let names: Vec<String> = (0..6).map(|number| format!("of{number}")).collect();
    for name in &names {
        world.text(&["create", "--name", name, "--network", "none", "app", "sleep", "1000"]);
    }
    // Who needs another one is started after it.
    let leans = ["create", "--name", "leans", "--network", "container:of5", "--ipc", "container:of0", "app"];
    world.text(&[&leans[..], &["sleep", "1000"]].concat());
    let all: Vec<&str> = names.iter().map(String::as_str).chain(["leans"]).collect();
    for (command, after) in [
        (&["start"][..], "running"),
        (&["restart", "-t", "0"], "running"),
        (&["pause"], "paused"),
        (&["unpause"], "running"),
        (&["kill"], "exited"),
        (&["start"], "running"),
    ] {
        assert_eq!(world.text(&[command, &all].concat()).lines().collect::<Vec<_>>(), all, "{command:?}");
        for name in &all {
            wait_until("all are so", || world.field(name, "{{.State.Status}}") == after);
        }
    }
    world.run(&["stop", "-t", "0", "of3"]).success();

    let removed = world.run(&["rm", "of1", "gone", "of3", "of3", "of2"]);
    assert_eq!(String::from_utf8_lossy(&removed.stdout), "of3\n");
    let told: Vec<&str> = removed.stderr.lines().filter(|line| line.starts_with("ERROR")).collect();
    for (line, expected) in told.iter().zip(["it is running", "`gone`", "`of3`", "it is running"]) {
        assert!(line.contains(expected), "{told:?}");
    }
    assert_eq!((told.len(), removed.code), (4, Some(2)));
    let removed = world.run(&["rm", "-f", "of5", "gone", "of4", "of4", "leans", "of0", "of1", "of2"]);
    assert_eq!(removed.success().text(), "of5\nof4\nleans\nof0\nof1\nof2\n");
    assert_eq!(world.text(&["ps", "-aq"]), "");
}
