//! What goes wrong with containers and projects: each has an answer that says what, a status, and leaves nothing behind: no process,
//! mount, interface, rule or file. Everything for root and for an ordinary user.

use std::thread;

use crate::harness::{Outcome, wait_until};
use crate::island::{Island, Who};

const BOTH: [Who; 2] = [Who::Root, Who::User];

/// What a service does that does not end by itself, but at once when it is asked to.
const SERVICE: &str = "[sh, -c, \"trap 'exit 0' TERM; while :; do sleep 1000 & wait; done\"]";

/// One thing that goes wrong.
#[derive(Debug)]
struct Mishap {
    /// What must succeed before it.
    before: &'static [&'static [&'static str]],
    /// What goes wrong, its status, and what of the words.
    command: &'static [&'static str],
    status: i32,
    words: &'static [&'static str],
    /// What must succeed after it, so that nothing is left.
    after: &'static [&'static [&'static str]],
}

/// Makes it go wrong in the island, in which there are these files.
#[track_caller]
fn check(who: Who, files: &[(&str, &str)], mishap: &Mishap) {
    let Some(island) = Island::new(who) else { return };
    island.context("project", files);
    let island = island.started();
    for command in mishap.before {
        island.wharf(command).success();
    }
    island.wharf(mishap.command).fails_with(mishap.status, mishap.words);
    for command in mishap.after {
        island.wharf(command).success();
    }
    island.check_nothing_left();
}

#[test]
fn a_port_in_use() {
    let mishap = Mishap {
        before: &[&["run", "-d", "--name", "one", "-p", "127.0.0.1:8080:80", "bb", "sleep", "1000"]],
        command: &["run", "--rm", "--name", "two", "-p", "127.0.0.1:8080:80", "bb", "true"],
        status: 125,
        words: &["127.0.0.1:8080/tcp is in use"],
        after: &[&["rm", "-f", "one"]],
    };
    for who in BOTH {
        check(who, &[], &mishap);
    }
}

#[test]
fn an_image_that_is_nowhere() {
    let text = "services: {a: {image: '127.0.0.1:1/none'}, b: {image: bb, command: [sleep, '1000']}}\n";
    let mishap = Mishap {
        before: &[],
        command: &["compose", "-f", "project/compose.yaml", "up", "-d"],
        status: 4,
        words: &["127.0.0.1:1/none"],
        after: &[&["compose", "-f", "project/compose.yaml", "down"]],
    };
    for who in BOTH {
        check(who, &[("compose.yaml", text)], &mishap);
    }
}

#[test]
fn projects_that_cannot_be_read() {
    for (text, words) in [
        (
            "services:\n  a: {image: bb, depends_on: [b]}\n  b: {image: bb, depends_on: [c]}\n  c: {image: bb, depends_on: [a]}\n",
            &["in a circle: a → b → c → a"][..],
        ),
        (
            "services:\n  a: {image: bb, comand: [true]}\n",
            &["comand", "did you mean", "command", "compose.yaml:2"],
        ),
        ("services:\n  a: {image: 'bb${NEEDED:?say which}'}\n", &["NEEDED", "say which"]),
    ] {
        let mishap = Mishap {
            before: &[],
            command: &["compose", "-f", "project/compose.yaml", "up", "-d"],
            status: 3,
            words: Box::leak(words.to_vec().into_boxed_slice()),
            after: &[],
        };
        check(Who::User, &[("compose.yaml", text)], &mishap);
    }
}

#[test]
fn a_port_in_use_in_a_project() {
    let text = format!(
        "services:
  a: {{image: bb, command: {SERVICE}, ports: ['127.0.0.1:8080:80']}}
  b: {{image: bb, command: {SERVICE}, ports: ['127.0.0.1:8080:80'], depends_on: [a]}}
"
    );
    let mishap = Mishap {
        before: &[],
        command: &["compose", "-f", "project/compose.yaml", "up", "-d"],
        status: 5,
        words: &["127.0.0.1:8080/tcp is in use"],
        after: &[&["compose", "-f", "project/compose.yaml", "down"]],
    };
    for who in BOTH {
        check(who, &[("compose.yaml", &text)], &mishap);
    }
}

#[test]
fn a_health_check_that_never_passes() {
    let text = format!(
        "services:
  never: {{image: bb, command: {SERVICE}, healthcheck: {{test: [CMD, 'false'], interval: 100ms, timeout: 1s, retries: 2}}}}
  after: {{image: bb, command: {SERVICE}, depends_on: {{never: {{condition: service_healthy}}}}}}
"
    );
    let mishap = Mishap {
        before: &[],
        command: &["compose", "-f", "project/compose.yaml", "up", "-d", "--wait"],
        status: 1,
        words: &["never", "unhealthy"],
        after: &[&["compose", "-f", "project/compose.yaml", "down"]],
    };
    for who in BOTH {
        check(who, &[("compose.yaml", &text)], &mishap);
    }
}

#[test]
fn a_container_that_does_not_want_to_end() {
    for who in BOTH {
        let Some(island) = Island::new(who) else { continue };
        let script = "trap '' TERM; echo up; while :; do sleep 1; done";
        island.wharf(&["run", "-d", "--name", "stubborn", "bb", "sh", "-c", script]).success();
        wait_until("it ignores the signal", || island.wharf(&["logs", "stubborn"]).text() == "up\n");
        island.wharf(&["stop", "-t", "1", "stubborn"]).success();
        assert_eq!(field(&island, "stubborn", "{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
        island.wharf(&["rm", "stubborn"]).success();
        island.check_nothing_left();
    }
}

/// A field of a container.
#[track_caller]
fn field(island: &Island, name: &str, template: &str) -> String {
    island.wharf(&["inspect", "-f", template, name]).success().text().trim_end().to_owned()
}

#[test]
fn a_monitor_that_is_killed() {
    for who in BOTH {
        let Some(island) = Island::new(who) else { continue };
        island.wharf(&["network", "create", "net"]).success();
        let run = [
            "run",
            "-d",
            "--name",
            "served",
            "--network",
            "net",
            "-p",
            "127.0.0.1:8080:80",
            "-v",
            "vol:/vol",
        ];
        let httpd = ["bb", "sh", "-c", "echo served >/vol/file; exec httpd -f -p 80 -h /vol"];
        island.wharf(&[&run[..], &httpd].concat()).success();
        wait_until("it is served", || {
            island.get("http://127.0.0.1:8080/file").as_deref() == Some("served\n")
        });
        let id = field(&island, "served", "{{.Id}}");
        island.shell(&format!(
            "kill -9 $(ps -e -o pid=,args= | awk '/monitor {id}/ && !/awk/ {{ print $1 }}')"
        ));
        // What was its goes with it, before anybody looks.
        wait_until("nothing of it runs", || !island.shell("ps -e -o args=").contains("httpd"));
        wait_until("nobody listens", || island.get("http://127.0.0.1:8080/file").is_none());
        assert_eq!(
            field(&island, "served", "{{.State.Status}} {{.State.ExitCode}} {{.State.Running}}"),
            "exited 137 false"
        );
        let told = field(&island, "served", "{{.State.Error}}");
        assert!(told.contains("monitor") && told.contains("killed"), "{told}");
        // It can be started again, where it was.
        island.wharf(&["start", "served"]).success();
        wait_until("it is served again", || island.get("http://127.0.0.1:8080/file").is_some());
        island.wharf(&["rm", "-f", "served"]).success();
        island.wharf(&["volume", "rm", "vol"]).success();
        island.wharf(&["network", "rm", "net"]).success();
        island.check_nothing_left();
    }
}

#[test]
fn a_full_disk_for_logs() {
    let Some(island) = Island::new(Who::Root) else { return };
    let script = "echo lost; until test -e /go; do sleep 0.1; done; echo kept; exec sleep 1000";
    island.wharf(&["create", "--name", "talks", "bb", "sh", "-c", script]).success();
    let id = field(&island, "talks", "{{.Id}}");
    let log = format!("{}/containers/{id}/log", island.store().display());
    island.shell(&format!("mkdir -p {log}; mount -t tmpfs -o size=4m none {log}; yes >{log}/full || true"));
    island.wharf(&["start", "talks"]).success();
    wait_until("it is past its first line", || island.shell("ps -e -o args=").contains("sleep 0.1"));
    // It has gone on; once there is room again, what is lost is told.
    island.shell(&format!("rm {log}/full"));
    island.wharf(&["exec", "talks", "touch", "/go"]).success();
    wait_until("it is heard again", || island.wharf(&["logs", "talks"]).text().contains("kept\n"));
    let logs = island.wharf(&["logs", "talks"]).success();
    let told = "wharf: 5 bytes of output are missing here: they could not be written\n";
    assert!(logs.stderr.contains(told) || logs.text().contains(told), "{}{}", logs.text(), logs.stderr);
    assert!(!logs.text().contains("lost"), "{}", logs.text());
    island.wharf(&["stop", "-t", "0", "talks"]).success();
    island.shell(&format!("umount {log}"));
    island.wharf(&["rm", "talks"]).success();
    island.check_nothing_left();
}

#[test]
fn a_full_disk_for_names() {
    let Some(island) = Island::new(Who::Root) else { return };
    let place = format!("{}/containers", island.store().display());
    island.shell(&format!("mkdir -p {place}; mount -t tmpfs -o size=1m none {place}"));
    island.wharf(&["create", "--name", "first", "bb"]).success();
    let names = || island.shell(&format!("ls {place}/names")).trim().to_owned();
    // The name fits on the disk or does not, and so does what it is the name of.
    let mut renamed = Vec::new();
    for pages in 0..6 {
        island.shell(&format!("yes >{place}/full 2>/dev/null || truncate -s -{} {place}/full", pages << 12));
        renamed.push(island.wharf(&["rename", "first", "second"]).code == Some(0));
        let now = if renamed[pages] { "second" } else { "first" };
        assert_eq!((names().as_str(), field(&island, now, "{{.Name}}")), (now, format!("/{now}")), "{pages}");
        if !renamed[pages] {
            // That takes more.
            assert_ne!(island.wharf(&["create", "--name", "other", "bb"]).code, Some(0), "{pages}");
            assert_eq!(names(), "first", "{pages}");
        }
        island.shell(&format!("rm {place}/full"));
        if renamed[pages] {
            island.wharf(&["rename", "second", "first"]).success();
        }
        assert_eq!(names(), "first", "{pages}");
    }
    assert_eq!((renamed[0], renamed[1], renamed[5]), (false, false, true), "{renamed:?}");
    island.shell(&format!("umount {place}"));
    island.check_nothing_left();
}

#[test]
fn two_ups_at_once() {
    let text = format!(
        "services:
  a: {{image: bb, command: {SERVICE}, volumes: ['data:/data'], ports: ['127.0.0.1::80']}}
  b: {{image: bb, command: {SERVICE}, depends_on: [a]}}
volumes: {{data: {{}}}}
"
    );
    for who in BOTH {
        let Some(island) = Island::new(who) else { continue };
        island.context("project", &[("compose.yaml", &text)]);
        let island = island.started();
        let up = || island.wharf(&["compose", "-f", "project/compose.yaml", "up", "-d"]);
        let outcomes: Vec<Outcome> = thread::scope(|scope| {
            let both = [scope.spawn(up), scope.spawn(up)];
            both.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for outcome in outcomes {
            outcome.success();
        }
        let ps = island.wharf(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]).success().text();
        let mut lines: Vec<_> = ps.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["project-a-1 running", "project-b-1 running"]);
        island.wharf(&["compose", "-f", "project/compose.yaml", "down", "-v"]).success();
        island.check_nothing_left();
    }
}
