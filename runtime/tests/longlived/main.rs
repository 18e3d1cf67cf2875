//! Containers that run for longer: started, watched by a loop of the caller's own, entered, paused, measured.
//!
//! Most tests run as root and once more in a user namespace with a single id, which `unshare` makes. Needs a static busybox;
//! says so and passes where something is missing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

mod chroot;
mod groups;
mod inside;
#[path = "../supervised/records.rs"]
mod records;
mod specs;
mod terminals;
mod world;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::process::Command;

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use wharf_runtime::{Cancel, ExitStatus, RuntimeError, Stdio};

use world::{OK, World, end, marker, pipe, processes_with, read_until, shell, until, words};

/// Set for the run in a user namespace.
const INSIDE: &str = "WHARF_TEST_LONGLIVED_SINGLE";

/// Does `body` as root and, in a process of its own that runs the test `name` alone, in a user namespace with one id.
fn everywhere(name: &str, body: impl FnOnce()) {
    body();
    if std::env::var_os(INSIDE).is_some() {
        return;
    }
    let unshare = ["--user", "--map-root-user", "--mount"];
    if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|status| status.success()) {
        println!("SKIP: unshare cannot make a user namespace");
        return;
    }
    let output = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "in a user namespace: {}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[test]
fn a_container_is_watched_by_the_callers_own_loop() {
    everywhere("a_container_is_watched_by_the_callers_own_loop", || {
        let Some(world) = World::new() else { return };
        let (cancel, (mut output, stdout)) = (Cancel::new().unwrap(), pipe());
        let spec = shell("trap 'echo told; exit 5' TERM; echo ready; sleep 1000 & wait", &[]);
        let stdio = Stdio::Given { stdin: None, stdout: Some(stdout), stderr: None };
        let mut container = world.start(&spec, stdio, None, &cancel).unwrap();
        read_until(&mut output, "ready\n");
        let process = &mut container.process;
        assert_eq!(process.try_wait().unwrap(), None);
        let comm = fs::read_to_string(format!("/proc/{}/comm", process.pid())).unwrap();
        assert_eq!(comm, "wharf-init\n");
        process.signal(libc::SIGTERM).unwrap();
        read_until(&mut output, "told\n");
        let mut polled = [PollFd::from_borrowed_fd(process.pidfd(), PollFlags::IN)];
        poll(&mut polled, None).unwrap();
        assert_eq!(process.try_wait().unwrap(), Some(ExitStatus::Exited(5)));
        assert_eq!(process.wait().unwrap(), ExitStatus::Exited(5));
        process.signal(libc::SIGTERM).unwrap();
        assert!(!world.directory.join("proc").exists(), "a mount point is left");
    });
}

#[test]
fn what_cannot_be_started_is_known_at_once() {
    everywhere("what_cannot_be_started_is_known_at_once", || {
        let Some(world) = World::new() else { return };
        for (args, changes, expected) in [
            (json!(["missing"]), vec![], "cannot execute `missing`: No such file or directory (os error 2)"),
            (json!(["plain"]), vec![], "cannot execute `plain`: Permission denied (os error 13)"),
            (
                json!(["true"]),
                vec![("/process/cwd", json!("/bin/plain"))],
                "cannot enter the working directory /bin/plain: Not a directory (os error 20)",
            ),
            (
                json!(["true"]),
                vec![("/mounts/-", json!({"destination": "/x", "type": "nofs", "source": "x"}))],
                "cannot mount nofs at /x: No such device (os error 19)",
            ),
        ] {
            let mut changes: Vec<(&str, Value)> = changes;
            changes.push(("/process/args", args.clone()));
            let (spec, cancel) = (shell("", &changes), Cancel::new().unwrap());
            let stdio = Stdio::Given { stdin: None, stdout: None, stderr: None };
            match world.start(&spec, stdio, None, &cancel) {
                Err(error) => assert_eq!(words(&error), expected),
                Ok(_) => panic!("{args} was started"),
            }
            assert!(!world.directory.join("proc").exists(), "a mount point is left");
        }
    });
}

#[test]
fn streams_are_those_that_are_given() {
    everywhere("streams_are_those_that_are_given", || {
        let Some(world) = World::new() else { return };
        let cancel = Cancel::new().unwrap();
        let path = world.directory.join("tmp/log");
        let (stdin, mut input) = pipe_to();
        let log = File::create(&path).unwrap();
        let spec = shell("cat; echo error >&2; readlink /proc/self/fd/1", &[]);
        let stdio = Stdio::Given { stdin: Some(stdin), stdout: Some(log.into()), stderr: None };
        let mut container = world.start(&spec, stdio, None, &cancel).unwrap();
        input.write_all(b"given\n").unwrap();
        drop(input);
        assert_eq!(end(&mut container.process), OK);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("given\n") && text.ends_with("/tmp/log\n"), "{text}");

        // A user who is not root can open a pipe again, and owns no file by having been given it.
        let spec = shell(
            "echo x >/dev/stdout; echo y >/dev/stderr",
            &[("/process/user", json!({"uid": 1000, "gid": 1000}))],
        );
        let (mut output, stdout) = pipe();
        let log = File::create(&path).unwrap();
        let stdio = Stdio::Given { stdin: None, stdout: Some(stdout), stderr: Some(log.into()) };
        let mut container = world.start(&spec, stdio, None, &cancel).unwrap();
        end(&mut container.process);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x\n");
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&path).unwrap());
        assert_eq!(owner, 0);
    });
}

/// A pipe whose second end writes.
fn pipe_to() -> (std::os::fd::OwnedFd, File) {
    let (read, write) = pipe();
    (read.into(), write.into())
}

#[test]
fn signals_reach_the_command() {
    everywhere("signals_reach_the_command", || {
        let Some(world) = World::new() else { return };
        // By number: names of real-time signals differ. SIGPWR ends nothing here.
        for signal in [1, 2, 3, 10, 12, 15, 18, 23, 28, 30, 37, 64] {
            let (cancel, (mut output, stdout)) = (Cancel::new().unwrap(), pipe());
            let spec = shell(&format!("trap 'exit 7' {signal}; echo ready; sleep 1000 & wait"), &[]);
            let stdio = Stdio::Given { stdin: None, stdout: Some(stdout), stderr: None };
            let mut container = world.start(&spec, stdio, None, &cancel).unwrap();
            read_until(&mut output, "ready\n");
            container.process.signal(signal).unwrap();
            assert_eq!(end(&mut container.process), ExitStatus::Exited(7), "signal {signal}");
        }
        let (spec, cancel) = (shell("sleep 1000", &[]), Cancel::new().unwrap());
        let mut container = world.sleeping(&spec, None, &cancel);
        let refused = words(&container.process.signal(libc::SIGSTOP).unwrap_err());
        assert!(refused.contains("pause the container instead"), "{refused}");
        container.process.signal(libc::SIGKILL).unwrap();
        assert_eq!(end(&mut container.process), ExitStatus::Signaled(9));
    });
}

#[test]
fn nothing_outlives_its_value() {
    everywhere("nothing_outlives_its_value", || {
        let Some(world) = World::new() else { return };
        let (cancel, marker) = (Cancel::new().unwrap(), marker());
        let spec = shell(&format!("trap '' TERM HUP; setsid sleep {marker} & sleep {marker}"), &[]);
        let container = world.sleeping(&spec, None, &cancel);
        assert!(until(|| processes_with(&marker) == 2));
        drop(container);
        assert_eq!(processes_with(&marker), 0);
        assert!(!world.directory.join("proc").exists(), "a mount point is left");

        let mut container = world.sleeping(&spec, None, &cancel);
        let other = cancel.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || other.cancel());
            assert!(matches!(container.process.wait(), Err(RuntimeError::Cancelled)));
        });
        assert_eq!(processes_with(&marker), 0);
        assert!(matches!(container.process.try_wait(), Err(RuntimeError::Cancelled)));
    });
}
