//! Further processes in a container, and containers that share namespaces.

use std::fs;
use std::os::fd::AsRawFd as _;

use oci_spec::runtime::LinuxNamespaceType;
use serde_json::{Value, json};
use wharf_runtime::{Cancel, ExecRequest, ExitStatus, RuntimeError, Stdio};

use crate::everywhere;
use crate::world::{Changes, World, end, exec, marker, processes_with, shell, until, words};

#[test]
fn what_is_executed_is_in_the_container() {
    everywhere("inside::what_is_executed_is_in_the_container", || {
        let Some(world) = World::new() else { return };
        let cancel = Cancel::new().unwrap();
        let changes = [
            ("/mounts/-", json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs"})),
            ("/linux/namespaces/-", json!({"type": "network"})),
        ];
        let spec = shell(
            "echo here >/data/file; for n in mnt pid ipc uts net cgroup user; do readlink /proc/self/ns/$n; done >/data/ns; sleep 1000",
            &changes,
        );
        let container = world.sleeping(&spec, None, &cancel);
        let inside = &container.inside;
        assert!(until(|| exec(inside, "test -s /data/ns", &[]).0 == "Exited(0)"));
        let user = ("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [44]}));
        let cases: Vec<(&str, Changes<'_>, &str, &str)> = vec![
            ("cat /data/file", vec![], "Exited(0)", "here\n"),
            ("hostname; exit 9", vec![], "Exited(9)", "box\n"),
            (
                "for n in mnt pid ipc uts net cgroup user; do readlink /proc/self/ns/$n; done >/tmp/ns; cat /data/ns | while read l; do grep -c -x -F $l /tmp/ns; done | sort | tr -d '\\n'",
                vec![],
                "Exited(0)",
                "1111111",
            ),
            ("ps -o args | grep -c 'sleep 1000$'; cat /proc/1/comm", vec![], "Exited(0)", "1\nwharf-init\n"),
            ("kill -9 $$", vec![], "Signaled(9)", ""),
            ("id -u; id -g; id -G", vec![user.clone()], "Exited(0)", "1000\n1001\n1001 44\n"),
            ("pwd", vec![("/process/cwd", json!("/data"))], "Exited(0)", "/data\n"),
            ("echo $A", vec![("/process/env", json!(["A=b c", "PATH=/bin"]))], "Exited(0)", "b c\n"),
            (
                "ulimit -n",
                vec![("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}]))],
                "Exited(0)",
                "77\n",
            ),
            (
                "cat /proc/self/oom_score_adj",
                vec![("/process/oomScoreAdj", json!(500))],
                "Exited(0)",
                "500\n",
            ),
            (
                "grep NoNewPrivs: /proc/self/status | tr '\\t' ' '",
                vec![("/process/noNewPrivileges", json!(true))],
                "Exited(0)",
                "NoNewPrivs: 1\n",
            ),
            (
                "grep CapBnd /proc/self/status | tr '\\t' ' '",
                vec![("/process/capabilities/bounding", json!(["CAP_KILL"]))],
                "Exited(0)",
                "CapBnd: 0000000000000020\n",
            ),
            ("unshare -m true 2>/dev/null; echo $?", vec![], "Exited(0)", "1\n"),
            ("cat", vec![], "Exited(0)", ""),
            ("ls /proc/self/fd | tr '\\n' ' '", vec![], "Exited(0)", "0 1 2 3 "),
            ("umask", vec![], "Exited(0)", "0022\n"),
            (
                "",
                vec![("/process/args", json!(["missing"]))],
                "cannot execute `missing`: No such file or directory (os error 2)",
                "",
            ),
            (
                "",
                vec![("/process/args", json!(["plain"]))],
                "cannot execute `plain`: Permission denied (os error 13)",
                "",
            ),
            (
                "true",
                vec![("/process/cwd", json!("/missing"))],
                "cannot enter the working directory /missing: No such file or directory (os error 2)",
                "",
            ),
        ];
        for (script, changes, status, printed) in cases {
            assert_eq!(
                exec(inside, script, &changes),
                (status.to_owned(), printed.to_owned()),
                "{script} {changes:?}"
            );
        }
        let root = inside.root().unwrap();
        let file =
            rustix::fs::openat(root, "data/file", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
                .unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(file), &mut text).unwrap();
        assert_eq!(text, "here\n");
    });
}

#[test]
fn owners_are_the_same_for_all() {
    everywhere("inside::owners_are_the_same_for_all", || {
        let Some(world) = World::new() else { return };
        let (spec, cancel) =
            (shell("touch /tmp/f; chown 33:44 /tmp/f; sleep 1000", &[]), Cancel::new().unwrap());
        let container = world.sleeping(&spec, None, &cancel);
        let look = || exec(&container.inside, "stat -c %u:%g /tmp/f", &[]).1;
        assert!(until(|| look() == "33:44\n"), "{}", look());
        assert_eq!(exec(&container.inside, "chown 5 /tmp/f; stat -c %u:%g /tmp/f", &[]).1, "5:44\n");
    });
}

#[test]
fn what_is_executed_ends_with_the_container_or_when_it_is_told() {
    everywhere("inside::what_is_executed_ends_with_the_container_or_when_it_is_told", || {
        let Some(world) = World::new() else { return };
        let (spec, cancel) = (shell("sleep 1000", &[]), Cancel::new().unwrap());
        let mut container = world.sleeping(&spec, None, &cancel);
        let marker = marker();
        let spec = shell(&format!("trap '' TERM; sleep {marker} & sleep {marker}; sleep {marker}"), &[]);
        let request = |cancel| ExecRequest {
            process: spec.process().as_ref().unwrap(),
            seccomp: None,
            stdio: Stdio::Given { stdin: None, stdout: None, stderr: None },
            cancel,
        };
        let stop = Cancel::new().unwrap();
        let mut process = container.inside.exec(request(&stop)).unwrap();
        assert!(until(|| processes_with(&marker) == 2));
        stop.cancel();
        assert!(matches!(process.wait(), Err(RuntimeError::Cancelled)));
        assert!(until(|| processes_with(&marker) == 0));
        drop(container.inside.exec(request(&cancel)).unwrap());
        assert!(until(|| processes_with(&marker) == 0));

        let mut process = container.inside.exec(request(&cancel)).unwrap();
        assert!(until(|| processes_with(&marker) == 2));
        container.process.kill();
        assert_eq!(end(&mut container.process), ExitStatus::Signaled(9));
        assert_eq!(processes_with(&marker), 0);
        assert_eq!(end(&mut process), ExitStatus::Signaled(9));
        let Err(error) = container.inside.exec(request(&cancel)) else { panic!("it has ended") };
        assert_eq!(words(&error), "cannot execute a process in the container: it has ended");
    });
}

#[test]
fn any_thread_can_execute_and_what_it_leaves_stays() {
    everywhere("inside::any_thread_can_execute_and_what_it_leaves_stays", || {
        let Some(world) = World::new() else { return };
        let (spec, cancel) = (shell("sleep 1000", &[]), Cancel::new().unwrap());
        let container = world.sleeping(&spec, None, &cancel);
        let marker = marker();
        let script = format!("setsid sleep {marker} & echo $$");
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| assert_eq!(exec(&container.inside, &script, &[]).0, "Exited(0)"));
            }
        });
        assert!(until(|| processes_with(&marker) == 3));
        drop(container);
        assert!(until(|| processes_with(&marker) == 0));
    });
}

#[test]
fn namespaces_of_another_container_are_joined() {
    everywhere("inside::namespaces_of_another_container_are_joined", || {
        let Some(world) = World::new() else { return };
        let Some(sidecar_world) = World::new() else { return };
        let (cancel, marker, own) = (Cancel::new().unwrap(), marker(), crate::marker());
        let spec =
            shell(&format!("exec sleep {marker}"), &[("/linux/namespaces/-", json!({"type": "network"}))]);
        let mut first = world.sleeping(&spec, None, &cancel);
        let kinds = [
            ("pid", LinuxNamespaceType::Pid),
            ("ipc", LinuxNamespaceType::Ipc),
            ("uts", LinuxNamespaceType::Uts),
            ("network", LinuxNamespaceType::Network),
        ];
        let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
        for (name, kind) in kinds {
            let fd = first.inside.namespace(kind).unwrap().as_raw_fd();
            namespaces.push(json!({"type": name, "path": format!("/proc/self/fd/{fd}")}));
        }
        let script = format!(
            "for n in pid ipc uts net; do readlink /proc/self/ns/$n; done; ps -o args | grep -c 'sleep {marker}$'; setsid sleep {own} & exec sleep {own}"
        );
        let changes = [("/linux/namespaces", json!(namespaces)), ("/hostname", Value::Null)];
        let (mut output, stdout) = crate::pipe();
        let spec = shell(&script, &changes);
        let stdio = Stdio::Given { stdin: None, stdout: Some(stdout), stderr: None };
        let mut sidecar = sidecar_world
            .start(&spec, stdio, None, &cancel)
            .unwrap_or_else(|error| panic!("{}", words(&error)));
        let text = crate::read_until(&mut output, "\n1\n");
        let links: String = ["pid", "ipc", "uts", "net"]
            .map(|name| exec(&first.inside, &format!("readlink /proc/self/ns/{name}"), &[]).1)
            .concat();
        assert_eq!(text, format!("{links}1\n"));
        assert!(until(|| processes_with(&own) == 2));
        // Its own processes are known, and those of the other container are not among them.
        let listed = sidecar.inside.members.list().unwrap();
        assert!(listed.iter().all(|member| !member.arguments.contains(&marker)), "{listed:?}");
        assert_eq!(exec(&sidecar.inside, "exit 6", &[]).0, "Exited(6)");
        // It ends with the other one.
        first.process.kill();
        assert_eq!(end(&mut sidecar.process), ExitStatus::Signaled(9));
        end(&mut first.process);
        assert!(until(|| processes_with(&own) == 0));
        let Err(error) = sidecar_world.start(
            &spec,
            Stdio::Given { stdin: None, stdout: None, stderr: None },
            None,
            &cancel,
        ) else {
            panic!("there is nothing to join")
        };
        let expected =
            "cannot make a process in the pid namespace to join: the container that it belongs to has ended";
        assert_eq!(words(&error), expected);
    });
}

#[test]
fn a_container_in_anothers_pid_namespace_ends_alone() {
    everywhere("inside::a_container_in_anothers_pid_namespace_ends_alone", || {
        let (Some(world), Some(sidecar_world)) = (World::new(), World::new()) else { return };
        let (cancel, marker, own) = (Cancel::new().unwrap(), marker(), crate::marker());
        let spec = shell(&format!("sleep {marker}"), &[]);
        let first = world.sleeping(&spec, None, &cancel);
        let fd = first.inside.namespace(LinuxNamespaceType::Pid).unwrap().as_raw_fd();
        let namespaces = json!([
            {"type": "mount"}, {"type": "ipc"}, {"type": "pid", "path": format!("/proc/self/fd/{fd}")}
        ]);
        let changes = [("/linux/namespaces", namespaces), ("/hostname", Value::Null)];
        let spec = shell(&format!("trap 'exit 3' TERM; sleep {own} & sleep {own} & wait"), &changes);
        for kill in [false, true] {
            let mut sidecar = sidecar_world.sleeping(&spec, None, &cancel);
            assert!(until(|| processes_with(&own) == 2));
            if kill {
                sidecar.process.kill();
                assert_eq!(end(&mut sidecar.process), ExitStatus::Signaled(9));
            } else {
                sidecar.process.signal(libc::SIGTERM).unwrap();
                assert_eq!(end(&mut sidecar.process), ExitStatus::Exited(3));
            }
            assert!(until(|| processes_with(&own) == 0), "{kill}");
            assert_eq!(processes_with(&marker), 1);
        }
    });
}

#[test]
fn the_machines_pid_namespace_can_be_shared() {
    everywhere("inside::the_machines_pid_namespace_can_be_shared", || {
        let Some(world) = World::new() else { return };
        let (cancel, own) = (Cancel::new().unwrap(), marker());
        let namespaces =
            json!([{"type": "mount"}, {"type": "ipc"}, {"type": "pid", "path": "/proc/self/ns/pid"}]);
        let changes = [("/linux/namespaces", namespaces), ("/hostname", Value::Null)];
        let spec = shell(&format!("readlink /proc/self/ns/pid; sleep {own} & sleep {own}"), &changes);
        let (mut output, stdout) = crate::pipe();
        let stdio = Stdio::Given { stdin: None, stdout: Some(stdout), stderr: None };
        let container =
            world.start(&spec, stdio, None, &cancel).unwrap_or_else(|error| panic!("{}", words(&error)));
        let link = fs::read_link("/proc/self/ns/pid").unwrap();
        assert_eq!(crate::read_until(&mut output, "\n").trim(), link.to_str().unwrap());
        assert!(until(|| processes_with(&own) == 2));
        drop(container);
        assert!(until(|| processes_with(&own) == 0));
    });
}
