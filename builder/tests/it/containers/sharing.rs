//! Containers that share namespaces with each other or with this host, of root and of an ordinary user.

use crate::harness::wait_until;
use crate::island::{Island, Who};

/// An island of each kind that can be made here, and `wharf ARGUMENTS` on it.
fn each_island(test: impl Fn(&Island, &dyn Fn(&str) -> String)) {
    for who in [Who::Root, Who::User] {
        let Some(island) = Island::new(who) else { continue };
        let wharf = |arguments: &str| {
            // A script is the last argument.
            let (words, script) = arguments.split_once(" sh -c ").unwrap_or((arguments, ""));
            let mut words: Vec<&str> = words.split(' ').collect();
            if !script.is_empty() {
                words.extend(["sh", "-c", script]);
            }
            island.wharf(&words).success().text().trim_end().to_owned()
        };
        test(&island, &wharf);
        island.check_nothing_left();
    }
}

#[test]
fn who_shares_memory_sees_what_is_in_it() {
    each_island(|island, wharf| {
        let run = "run -d --network none --name";
        wharf(&format!(
            "{run} one --ipc shareable --shm-size 1m bb sh -c echo of one >/dev/shm/file; sleep 1000"
        ));
        wharf(&format!("{run} two --ipc container:one bb sleep 1000"));
        let size = "df -k /dev/shm | tail -1 | awk '{print $2}'";
        for (arguments, expected) in [
            ("exec two sh -c until cat /dev/shm/file; do sleep 0.02; done 2>/dev/null", "of one"),
            // Who shares with one that shares itself.
            (
                "run --rm --network none --ipc container:two bb sh -c cat /dev/shm/file; echo x >/dev/shm/x",
                "of one",
            ),
            ("exec one cat /dev/shm/x", "x"),
            (&format!("exec two sh -c {size}"), "1024"),
            (
                "exec two sh -c cp /bin/busybox /dev/shm/sh 2>/dev/null; /dev/shm/sh 2>/dev/null || echo no",
                "no",
            ),
            // What was asked for goes before what is shared.
            ("run --rm --network none --ipc container:one --tmpfs /dev/shm bb ls /dev/shm", ""),
            ("run --rm --network none bb ls /dev/shm", ""),
            // It stays as long as somebody has it.
            ("rm -f one", "one"),
            ("exec two cat /dev/shm/x", "x"),
        ] {
            assert_eq!(wharf(arguments), expected, "{arguments}");
        }
        let none = ["run", "--rm", "--network", "none", "--ipc", "container:one", "bb", "true"];
        island.wharf(&none).fails_with(125, &["there is no container `one`"]);
        wharf("rm -f two");
    });
}

#[test]
fn who_is_among_the_hosts_processes_ends_with_all_of_its_own() {
    // Nobody else on the machine sleeps for as long.
    let sleep = &format!("sleep {}", 10_000_000 + std::process::id());
    // Two that nobody waits for, in sessions of their own.
    let many = &format!("setsid sh -c '{sleep} & {sleep}' & {sleep} & trap 'exit 4' TERM; wait");
    each_island(|island, wharf| {
        let sleeping = || island.shell(&format!("pgrep -xfc '{sleep}' || true")).trim().to_owned();
        let own = island.shell("readlink /proc/self/ns/pid");
        let seen =
            wharf("run --rm --network none --pid host bb sh -c readlink /proc/self/ns/pid; ls -d /proc/1");
        assert_eq!(seen, format!("{}\n/proc/1", own.trim()));
        let score = "run --rm --network none --pid host --oom-score-adj 500 bb cat /proc/self/oom_score_adj";
        assert_eq!(wharf(score), "500");
        wharf(&format!("create --network none --pid host --name many bb sh -c {many}"));
        assert_eq!(wharf("inspect -f {{.HostConfig.PidMode}} many"), "host");
        for (what, by_hand, code) in [
            ("stop", None, "4"),
            ("kill", None, "137"),
            ("its first process is killed", Some("{{.State.Pid}}"), "137"),
            ("its monitor is killed", Some("$(ps -o ppid= {{.State.Pid}})"), "137"),
        ] {
            wharf("start many");
            wait_until("all sleep", || sleeping() == "3");
            // What an exec leaves ends with it.
            wharf(&format!("exec many sh -c setsid {sleep} >/dev/null 2>&1 & sleep 0.1"));
            wharf(&format!("exec -d many sh -c setsid {sleep} & {sleep}"));
            wait_until("all sleep", || sleeping() == "5");
            let listed = wharf("top many");
            assert_eq!(
                listed.lines().filter(|line| line.ends_with(&format!("  {sleep}"))).count(),
                5,
                "{listed}"
            );
            match by_hand {
                None => _ = wharf(&format!("{what} many")),
                Some(of) => {
                    let pid = wharf("inspect -f {{.State.Pid}} many");
                    island.shell(&format!("kill -9 {}", of.replace("{{.State.Pid}}", &pid)));
                }
            }
            wait_until(what, || sleeping() == "0");
            assert_eq!(wharf("wait many"), code, "{what}");
        }
        wharf("rm many");
    });
}
