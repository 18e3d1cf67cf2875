//! Who is attached to containers: stuck, with input that nobody reads, one after another; and who changes a container while
//! others do.

use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Outcome, Wharf, wait_until};
use crate::monitors::{begin, field, nothing_is_left, status, wharf};

/// A client that is stopped; it is killed when this is dropped.
struct Stuck(Child);

impl Stuck {
    /// `wharf ARGUMENTS`, stopped as soon as `is_there` says so.
    fn new(wharf: &Wharf, arguments: &[&str], is_there: impl Fn() -> bool) -> Self {
        let mut command = wharf.command("store", arguments);
        let client = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stuck = Self(client);
        wait_until("the client is there", is_there);
        kill_process(Pid::from_child(&stuck.0), Signal::STOP).unwrap();
        stuck
    }

    /// Lets it go on: its end, and what it says.
    fn go_on(mut self) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.0), Signal::CONT).unwrap();
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a container has made the file `name`.
fn has(wharf: &Wharf, container: &str, name: &str) -> bool {
    wharf.run(&["exec", container, "test", "-e", name]).code == Some(0)
}

#[test]
fn who_is_stuck_keeps_nobody_waiting_for_long() {
    /// Prints more than is held anywhere, as soon as it is told to.
    const SCRIPT: &str = "touch /there; until test -e /go; do sleep 0.05; done; timeout -s KILL 1 yes";
    let Some(wharf) = wharf() else { return };
    let run = |name: &str, policy: &str| {
        let arguments =
            ["run", "--network", "none", "--restart", policy, "--name", name, "bb", "sh", "-c", SCRIPT];
        Stuck::new(&wharf, &arguments, || has(&wharf, name, "/there"))
    };
    let [removed, started] = ["removed", "started"].map(|name| run(name, "no"));
    let again = run("again", "always");
    begin(&wharf, "entered", &[], "exec sleep 1000");
    let arguments = ["exec", "entered", "sh", "-c", &format!("{SCRIPT}; touch /done")];
    let entered = Stuck::new(&wharf, &arguments, || has(&wharf, "entered", "/there"));
    for name in ["removed", "started", "again", "entered"] {
        wharf.run(&["exec", name, "touch", "/go"]).success();
    }
    for name in ["removed", "started"] {
        wait_until("it has ended", || status(&wharf, name).starts_with("exited "));
    }
    wait_until("it has printed what it could", || has(&wharf, "entered", "/done"));
    thread::scope(|scope| {
        scope.spawn(|| wharf.run(&["rm", "removed"]).success());
        scope.spawn(|| wharf.run(&["rm", "-f", "entered"]).success());
        scope.spawn(|| {
            // What it is started for is there already.
            wharf.run(&["start", "started"]).success();
            wharf.run(&["rm", "-f", "started"]).success();
        });
        scope.spawn(|| {
            wait_until("it is started again", || field(&wharf, "again", "{{.RestartCount}}") != "0");
            wharf.run(&["rm", "-f", "again"]).success();
        });
    });
    for client in [removed, started, entered] {
        let (code, said) = client.go_on();
        assert!(code == Some(125) && said.contains("was not taken in time"), "{code:?}: {said}");
    }
    drop(again.go_on());
    nothing_is_left(&wharf, &[]);
}

#[test]
fn input_that_nobody_reads_is_not_in_the_way_of_signals() {
    let Some(wharf) = wharf() else { return };
    let script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done";
    let arguments = ["run", "--rm", "-i", "--network", "none", "--name", "deaf", "bb", "sh", "-c", script];
    let mut command = wharf.command("store", &arguments);
    let mut client = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    // More than all that is between holds.
    let writer = thread::spawn(move || input.write_all(&vec![b'x'; 8 << 20]));
    wait_until("it is up", || wharf.run(&["logs", "deaf"]).text() == "up\n");
    kill_process(Pid::from_child(&client), Signal::TERM).unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(7));
    // Nobody reads the rest.
    assert!(writer.join().unwrap().is_err());
    nothing_is_left(&wharf, &[]);
}

#[test]
fn input_ends_with_the_first_or_goes_on() {
    let Some(wharf) = wharf() else { return };
    let id = begin(&wharf, "many", &["-i"], "while read line; do echo got $line; done; echo over");
    assert_eq!(field(&wharf, "many", "{{.Config.StdinOnce}}"), "false");
    for word in ["one", "two"] {
        let mut command = wharf.command("store", &["attach", "--sig-proxy=false", "many"]);
        let mut client = command.stdin(Stdio::piped()).spawn().unwrap();
        writeln!(client.stdin.take().unwrap(), "{word}").unwrap();
        wait_until("it is read", || wharf.run(&["logs", "many"]).text().contains(&format!("got {word}\n")));
        client.kill().unwrap();
        client.wait().unwrap();
    }
    assert_eq!(status(&wharf, "many"), "running 0");
    wharf.run(&["rm", "-f", "many"]).success();
    // The input of one that was started in front of somebody ends with them, however they go.
    let arguments = ["run", "-i", "--network", "none", "--name", "one", "bb", "sh", "-c", "cat; exit 4"];
    let mut command = wharf.command("store", &arguments);
    let mut client = command.stdin(Stdio::piped()).spawn().unwrap();
    wait_until("it is there", || wharf.run(&["container", "inspect", "one"]).code == Some(0));
    wait_until("it runs", || status(&wharf, "one") == "running 0");
    client.kill().unwrap();
    client.wait().unwrap();
    wait_until("it has ended", || status(&wharf, "one") == "exited 4");
    wharf.run(&["rm", "one"]).success();
    nothing_is_left(&wharf, &[&id]);
}

#[test]
fn a_terminal_that_nobody_looks_at_does_not_stop_who_prints() {
    let Some(wharf) = wharf() else { return };
    let id = begin(&wharf, "host", &[], "exec sleep 1000");
    wharf.run(&["exec", "-d", "-t", "host", "sh", "-c", "yes | head -c 1000000; touch /done"]).success();
    wait_until("all of it is printed", || has(&wharf, "host", "/done"));
    wharf.run(&["rm", "-f", "host"]).success();
    nothing_is_left(&wharf, &[&id]);
}

#[test]
fn what_is_removed_at_its_end_is_not_when_it_is_restarted() {
    let Some(wharf) = wharf() else { return };
    let id = begin(&wharf, "short", &["--rm"], "echo up >> /file; exec sleep 1000");
    wait_until("it is up", || has(&wharf, "short", "/file"));
    let before = field(&wharf, "short", "{{.State.Pid}}");
    wharf.run(&["restart", "-t", "0", "short"]).success();
    assert_ne!(field(&wharf, "short", "{{.State.Pid}}"), before);
    let file = || wharf.run(&["exec", "short", "cat", "/file"]).text();
    wait_until("it is up again, with its files", || file() == "up\nup\n");
    wharf.run(&["stop", "-t", "0", "short"]).success();
    wait_until("it is removed", || wharf.run(&["container", "inspect", "short"]).code != Some(0));
    nothing_is_left(&wharf, &[&id]);
}

#[test]
fn one_that_is_just_started_can_be_killed_and_removed() {
    let Some(wharf) = wharf() else { return };
    for _ in 0..4 {
        let create = ["create", "--network", "none", "--name", "new", "bb", "sleep", "1000"];
        let id = wharf.run(&create).success().text().trim().to_owned();
        thread::scope(|scope| {
            // It may have been removed before.
            scope.spawn(|| wharf.run(&["start", "new"]));
            wharf.run(&["rm", "-f", "new"]).success();
        });
        nothing_is_left(&wharf, &[&id]);
    }
}

#[test]
fn what_is_refused_names_the_container() {
    let Some(wharf) = wharf() else { return };
    let id = begin(&wharf, "it", &[], "exec sleep 1000");
    let check = |arguments: &[&str], words: &str| {
        let said = wharf.run(arguments).failure().stderr;
        let expected = format!("the container {}: {words}", &id[..12]);
        assert!(said.contains(&expected), "{said}: {expected}");
    };
    check(&["unpause", "it"], "it is not paused");
    if wharf.run(&["pause", "it"]).code == Some(0) {
        check(&["pause", "it"], "it is paused already");
        wharf.run(&["unpause", "it"]).success();
    }
    // What cannot be executed has nothing to do with the place of the store.
    let said = wharf.run(&["exec", "it", "/etc/passwd"]).fails_with(126, &["cannot execute", "chmod +x"]);
    assert!(!said.stderr.contains("--root"), "{}", said.stderr);
    let mut command = wharf.command("store", &["exec", "it", "echo", "x"]);
    command.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let said = Outcome::from_output(&wharf.command("store", &[]), command.output().unwrap());
    let said = said.fails_with(125, &["what it prints cannot be written", "No space left"]);
    assert!(!said.stderr.contains("--root"), "{}", said.stderr);
    wharf.run(&["export", "nothing"]).fails_with(2, &["no container or image `nothing`"]);
    wharf.run(&["rm", "-f", "it"]).success();
    nothing_is_left(&wharf, &[&id]);
}

#[test]
fn what_is_committed_is_as_well_as_the_container() {
    let Some(wharf) = wharf() else { return };
    let flags = ["--health-cmd", "test -e /x", "--health-retries", "7", "--stop-signal", "INT", "-v", "/own"];
    wharf.run(&[&["create", "--name", "it"], &flags[..], &["bb"]].concat()).success();
    let test = r#"["CMD-SHELL","test -e /x"]"#;
    assert_eq!(field(&wharf, "it", "{{json .Config.Healthcheck.Test}}"), test);
    wharf.run(&["commit", "it", "made"]).success();
    let of_image = |template: &str| {
        wharf.run(&["image", "inspect", "-f", template, "made"]).success().text().trim().to_owned()
    };
    assert_eq!(of_image("{{json .Config.Healthcheck.Test}}"), test);
    assert_eq!(of_image("{{.Config.Healthcheck.Retries}} {{.Config.StopSignal}}"), "7 SIGINT");
    assert_eq!(of_image("{{json .Config.Volumes}}"), r#"{"/own":{}}"#);
    // What it does without, its image does, too.
    wharf.run(&["create", "--name", "other", "--no-healthcheck", "made"]).success();
    wharf.run(&["commit", "other", "made"]).success();
    assert_eq!(of_image("{{json .Config.Healthcheck.Test}}"), r#"["NONE"]"#);
    wharf.run(&["rm", "-v", "it", "other"]).success();
    nothing_is_left(&wharf, &[]);
}
