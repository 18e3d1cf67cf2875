//! Control groups of containers: the freezer, counts, lists.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wharf_runtime::cgroup::{Effort, Limits, StepGroups};
use wharf_runtime::{Cancel, ExitStatus, Measured};

use crate::everywhere;
use crate::world::{World, end, exec, shell, until, words};

/// Set for the run without a v2 hierarchy.
const V1: &str = "WHARF_TEST_LONGLIVED_V1";

#[test]
fn a_container_is_paused_and_goes_on() {
    let Some(world) = World::new() else { return };
    let groups = match StepGroups::find_observed(Limits::default(), None, Effort::Passing) {
        Ok(groups) => groups,
        Err(error) => return println!("SKIP: {error}"),
    };
    let (group, cancel) = (groups.make().unwrap(), Cancel::new().unwrap());
    let spec = shell("while usleep 1000; do echo >>/tmp/beats; done", &[]);
    let mut container = world.sleeping(&spec, Some(&group), &cancel);
    let members = &container.inside.members;
    let beats = || std::fs::read(world.directory.join("tmp/beats")).unwrap_or_default().len();
    assert!(until(|| beats() > 3));
    if let Err(error) = members.pause() {
        return println!("SKIP: {}", words(&error));
    }
    assert!(members.is_paused());
    let stopped = beats();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(beats(), stopped);
    let refused = exec(&container.inside, "true", &[]).0;
    assert_eq!(refused, "cannot execute a process in the container: it is paused; unpause it first");
    members.unpause().unwrap();
    assert!(!members.is_paused() && until(|| beats() > stopped));
    // What is executed is stopped with the rest.
    assert_eq!(exec(&container.inside, "true", &[]).0, "Exited(0)");
    // Whoever stops it while somebody lets it go on is told so, and does not wait.
    let is_over = AtomicBool::new(false);
    let other = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                let _ = members.unpause();
            }
        });
        let said = (0..100).filter_map(|_| members.pause().err()).map(|error| words(&error));
        let other = { said }.find(|said| !said.contains("meanwhile"));
        is_over.store(true, Ordering::SeqCst);
        other
    });
    assert_eq!(other, None);
    // It can be killed while it is stopped.
    members.pause().unwrap();
    container.process.kill();
    assert_eq!(end(&mut container.process), ExitStatus::Signaled(9));

    let container = world.sleeping(&spec, Some(&group), &cancel);
    container.inside.members.pause().unwrap();
    drop(container);

    if std::env::var_os(V1).is_none() {
        // The same with what v1 has, where this machine has both.
        let script = "umount /sys/fs/cgroup/unified && exec \"$0\" --exact groups::a_container_is_paused_and_goes_on --nocapture";
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .env(V1, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if text.contains("umount") {
            return println!("SKIP: no v2 hierarchy beside v1 ones");
        }
        assert!(output.status.success(), "with v1: {text}");
    }
}

#[test]
fn without_a_group_it_cannot_be_paused() {
    everywhere("groups::without_a_group_it_cannot_be_paused", || {
        let Some(world) = World::new() else { return };
        let (spec, cancel) = (shell("sleep 1000", &[]), Cancel::new().unwrap());
        let container = world.sleeping(&spec, None, &cancel);
        let refused = words(&container.inside.members.pause().unwrap_err());
        assert!(refused.starts_with("cannot pause the container: it has no control group"), "{refused}");
        container.inside.members.unpause().unwrap();
    });
}

#[test]
fn what_it_takes_is_counted() {
    everywhere("groups::what_it_takes_is_counted", || {
        let Some(world) = World::new() else { return };
        let limits = || Limits { memory: Some(256 << 20), pids: Some(50), ..Limits::default() };
        let groups = StepGroups::find_observed(limits(), None, Effort::Passing);
        let group = groups.ok().and_then(|groups| groups.make().ok());
        let cancel = Cancel::new().unwrap();
        let spec = shell(
            "i=0; while test $i -lt 100000; do i=$((i+1)); done; echo >/tmp/done; sleep 1000 & wait",
            &[],
        );
        for group in [None, group.as_ref()] {
            let _ = std::fs::remove_file(world.directory.join("tmp/done"));
            let container = world.sleeping(&spec, group, &cancel);
            assert!(until(|| world.directory.join("tmp/done").exists()));
            let members = &container.inside.members;
            assert!(until(|| members.list().unwrap().len() == 3));
            let stats = members.stats().unwrap();
            assert!(stats.cpu > Duration::ZERO && stats.memory > 0, "{stats:?}");
            assert_eq!(stats.pids, 3, "{stats:?}");
            match group {
                Some(_) => {
                    assert_eq!(
                        (stats.memory_limit, stats.pids_limit),
                        (Some(256 << 20), Some(50)),
                        "{stats:?}"
                    );
                    assert_eq!((stats.cpu_from, stats.memory_from), (Measured::Group, Measured::Group));
                }
                None => assert_eq!(
                    (stats.cpu_from, stats.memory_from, stats.memory_limit, stats.read),
                    (Measured::Processes, Measured::Processes, None, None)
                ),
            }
        }
        if group.is_none() {
            println!("SKIP: no control group with limits");
        }
    });
}

#[test]
fn processes_are_listed_with_their_numbers() {
    everywhere("groups::processes_are_listed_with_their_numbers", || {
        let Some(world) = World::new() else { return };
        let (spec, cancel) = (shell("sleep 1001 & echo; exec sleep 1002", &[]), Cancel::new().unwrap());
        let container = world.sleeping(&spec, None, &cancel);
        let spec = shell("exec sleep 1003", &[]);
        let request = wharf_runtime::ExecRequest {
            process: spec.process().as_ref().unwrap(),
            seccomp: None,
            stdio: wharf_runtime::Stdio::Given { stdin: None, stdout: None, stderr: None },
            cancel: &cancel,
        };
        let _executed = container.inside.exec(request).unwrap();
        let list = || container.inside.members.list().unwrap();
        let described = || {
            let mut lines: Vec<String> = list()
                .iter()
                .map(|it| format!("{} {} {}", it.name, it.uid, it.arguments.join(" ")))
                .collect();
            lines[1..].sort();
            lines
        };
        let expected =
            ["wharf-init 0 wharf-init", "sleep 0 sleep 1001", "sleep 0 sleep 1002", "sleep 0 sleep 1003"];
        assert!(until(|| described() == expected), "{:?}", described());
        assert!(until(|| list().iter().all(|member| member.state == 'S')), "{:?}", list());
        let list = list();
        assert_eq!((list[0].pid, list[0].inside), (container.process.pid(), 1));
        let mut inside: Vec<i32> = list.iter().map(|member| member.inside).collect();
        inside.sort_unstable();
        assert_eq!(inside[..3], [1, 2, 3]);
        assert!(list.iter().all(|member| member.started > Duration::ZERO), "{list:?}");
    });
}
