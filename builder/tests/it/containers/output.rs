//! What containers print: in front of the user, and in their logs.

use std::io::Read as _;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::World;
use crate::harness::{Outcome, wait_until};
use crate::interrupt::start_until;

const NONE: [&str; 2] = ["--network", "none"];

#[test]
fn streams_are_what_the_process_reads_and_prints() {
    let Some(world) = World::new() else { return };
    let run = |flags: &[&str], script: &str| {
        let command =
            world.command(&[&["run", "--rm"], &NONE[..], flags, &["app", "sh", "-c", script]].concat());
        Outcome::of_with_input(command, b"typed\n").success()
    };
    let check = |flags: &[&str], script: &str, out: &str, err: &str| {
        let outcome = run(flags, script);
        assert_eq!((outcome.text().as_str(), outcome.stderr.as_str()), (out, err), "{flags:?}");
    };
    check(&[], "cat; echo out; echo err >&2", "out\n", "err\n");
    check(&["-i"], "cat; echo err >&2", "typed\n", "err\n");
    check(&["-t"], "test -t 0 && test -t 1 && echo out; echo err >&2", "out\r\nerr\r\n", "");
    check(&["-a", "stdout"], "echo out; echo err >&2", "out\n", "");
    check(&["-a", "stderr"], "echo out; echo err >&2", "", "err\n");
    // Everything arrives before the status does.
    let much = run(&[], "dd if=/dev/zero bs=1000 count=5000 2>/dev/null");
    assert_eq!(much.stdout.len(), 5_000_000);
    // Nobody reads: the process ends as it would without a container.
    let mut child = world.spawn(&[&["run", "--rm"], &NONE[..], &["app", "yes"]].concat());
    child.stdout.take().unwrap().read_exact(&mut [0; 100]).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[test]
fn signals_are_the_processes() {
    let Some(world) = World::new() else { return };
    let script = "trap 'echo term >&2; exit 3' TERM; trap 'echo usr1 >&2' USR1; echo ready >&2; while :; do sleep 0.02; done";
    let run = |flags: &[&str]| {
        world.command(&[&["run", "--name", "it"], &NONE[..], flags, &["app", "sh", "-c", script]].concat())
    };
    let (mut child, mut said) = start_until(run(&["--rm"]), "ready");
    kill_process(Pid::from_child(&child), Signal::USR1).unwrap();
    wait_until("it has heard it", || world.run(&["logs", "it"]).stderr.contains("usr1"));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "usr1\nterm\n");
    assert_eq!(world.text(&["ps", "-aq"]), "");
    // Without that, only the client ends.
    let (mut child, _said) = start_until(run(&["--sig-proxy=false"]), "ready");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), None);
    assert_eq!(world.field("it", "{{.State.Status}}"), "running");
    // Attached to, it is followed to its end.
    let attached = world.spawn(&["attach", "it"]);
    wait_until("it is attached to", || {
        world.run(&["kill", "-s", "USR1", "it"]).success();
        world.run(&["logs", "it"]).stderr.contains("usr1")
    });
    world.run(&["stop", "it"]).success();
    let attached = attached.wait_with_output().unwrap();
    assert_eq!(attached.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&attached.stderr).contains("term"));
    // Started again in front of the user.
    let (mut child, _said) = start_until(world.command(&["start", "-a", "it"]), "ready");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    world.run(&["rm", "it"]).success();
}

#[test]
fn input_reaches_who_reads_it() {
    let Some(world) = World::new() else { return };
    world.run(&[&["create", "-i", "--name", "reader"], &NONE[..], &["app", "cat"]].concat()).success();
    let started = Outcome::of_with_input(world.command(&["start", "-ai", "reader"]), b"one\n");
    assert_eq!(started.success().text(), "one\n");
    world.run(&["start", "reader"]).success();
    let attached = Outcome::of_with_input(world.command(&["attach", "reader"]), b"two\n");
    assert_eq!(attached.success().text(), "two\n");
    assert_eq!(world.text(&["logs", "reader"]), "one\ntwo");
    world.run(&["rm", "reader"]).success();
}

#[test]
fn logs_are_kept_and_followed() {
    let Some(world) = World::new() else { return };
    let script = "for i in 1 2 3; do echo line $i; done; echo err >&2; until test -e /tmp/go; do sleep 0.05; done; echo last";
    world
        .run(&[&["run", "-d", "--name", "talker"], &NONE[..], &["app", "sh", "-c", script]].concat())
        .success();
    world.wait_for("talker", "err");
    let logs = world.run(&["logs", "talker"]).success();
    assert_eq!((logs.text().as_str(), logs.stderr.as_str()), ("line 1\nline 2\nline 3\n", "err\n"));
    // The order of the two streams is nobody's promise.
    let last = world.run(&["logs", "-n", "2", "talker"]).success();
    assert_eq!(last.text().lines().count() + last.stderr.lines().count(), 2);
    assert_eq!(world.text(&["logs", "--tail", "0", "talker"]), "");
    assert_eq!(world.text(&["logs", "--since", "1h", "talker"]).lines().count(), 3);
    assert_eq!(world.text(&["logs", "--until", "1h", "talker"]), "");
    let flags = ["--since", "2024-01-01", "--until", "9999-12-31T00:00", "--tail", ""];
    assert_eq!(world.text(&[&["logs"], &flags[..], &["talker"]].concat()).lines().count(), 3);
    assert_eq!(world.text(&["logs", "--since", "2999-12-31T00:00:00", "talker"]), "");
    let stamped = world.text(&["logs", "-t", "talker"]);
    let first = stamped.lines().next().unwrap();
    assert!(first.ends_with("Z line 1") && first.starts_with("20"), "{first}");
    let mut command = world.command(&["logs", "-f", "talker"]);
    let following = command.stderr(Stdio::null()).spawn().unwrap();
    world.run(&["exec", "talker", "touch", "/tmp/go"]).success();
    let followed = following.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&followed.stdout), "line 1\nline 2\nline 3\nlast\n");
    world
        .run(
            &[&["run", "--name", "silent", "--log-driver", "none"], &NONE[..], &["app", "echo", "x"]]
                .concat(),
        )
        .success();
    world.run(&["logs", "silent"]).fails_with(2, &["--log-driver none"]);
    world.run(&["rm", "talker", "silent"]).success();
}
