//! What steps may take of the machine.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Place, Who, in_each_sandbox};
use crate::harness::{Outcome, skip, wait_until};
use crate::interrupt::start_until;

/// Whether steps can be limited in a place; says why not.
pub(super) fn work(place: &Place) -> bool {
    let outcome = place.build(&["--pids-limit", "1000", "--memory", "1g"], "RUN true\n");
    if outcome.code != Some(0) {
        let why = outcome.stderr.lines().find(|line| line.contains("steps cannot be limited"));
        skip(format_args!("no limits in {}: {}", place.sandbox, why.unwrap_or(&outcome.stderr)));
    }
    outcome.code == Some(0)
}

/// The groups of steps of the process `builder`.
fn groups(builder: u32) -> Vec<PathBuf> {
    let name = format!("wharf-step-{builder}-");
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(&name) {
                    found.push(entry.path());
                }
                directories.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn a_step_that_takes_too_much_memory_is_told_the_limit() {
    in_each_sandbox(|place| {
        if !work(place) {
            return;
        }
        let limit = "after the memory limit of 48 MiB was reached (the kernel's OOM killer)";
        for (script, how) in [
            ("exec tail /dev/zero", "exit code: 137"),
            // A process of the step is killed, and the step makes something else of it.
            ("tail /dev/zero || exit 3", "exit code: 3"),
            ("sh -c 'tail /dev/zero & wait $!'; exit 1", "exit code: 1"),
        ] {
            place
                .build(&["--memory", "48m", "--memory-swap", "48m"], &format!("RUN {script}\n"))
                .fails_with(1, &[limit, how, "Dockerfile:2"]);
        }
        // Nor does it go by where the step goes on without that process.
        let fine = place
            .build(&["--memory", "48m", "--memory-swap", "48m"], "RUN tail /dev/zero & wait; touch /made\n");
        let word =
            "ended well, but something that it started did not: the memory limit of 48 MiB was reached";
        let fine = fine.success();
        assert!(fine.stderr.contains(word), "{}", fine.stderr);
        // No word of it where nothing failed for it.
        let fine = place.build(&["--memory", "48m"], "RUN exit 4\n").fails_with(1, &["exit code: 4"]);
        assert!(!fine.stderr.contains("memory"), "{}", fine.stderr);
        place.is_sound();
    });
}

#[test]
fn limits_hold_and_are_no_part_of_a_key() {
    in_each_sandbox(|place| {
        if !work(place) {
            return;
        }
        let cpus = fs::read_to_string("/proc/self/status").unwrap();
        let cpus = cpus.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).unwrap();
        let last = cpus.rsplit([',', '-']).next().unwrap();
        let line =
            format!("RUN [ ! -e /proc/self ] || grep -q '^Cpus_allowed_list:\t{last}$' /proc/self/status");
        let limited = [
            "--memory=64m",
            "--memory-swap=-1",
            "--cpu-period=50000",
            "--cpu-quota=40000",
            "--cpu-shares=512",
            "--cpuset-cpus",
            last,
            "--cpuset-mems=0",
            "--pids-limit=50",
        ];
        place.build(&limited, &format!("{line}\n")).success().steps().check_ran(&[&line]);
        place.build(&["--pids-limit=-1"], &format!("{line}\n")).success().steps().check_ran(&[]);
        place.build(&[], &format!("{line}\n")).success().steps().check_ran(&[]);
    });
}

#[test]
fn what_cannot_be_limited_so_is_refused_before_anything_runs() {
    in_each_sandbox(|place| {
        if !work(place) {
            return;
        }
        let outcome = place.build(&["--cpuset-cpus", "4000"], "RUN true\n");
        let outcome = outcome.fails_with(5, &["steps cannot be limited as asked", "does not take `4000`"]);
        assert!(!outcome.stderr.contains("RUN true"), "{}", outcome.stderr);
    });
}

#[test]
fn groups_go_with_their_steps() {
    in_each_sandbox(|place| {
        if !place.is_one_process() || !work(place) {
            return;
        }
        let arguments = ["--no-cache", "--pids-limit=100", "--memory=100m"];
        place.wharf.dockerfile("FROM busybox\nRUN echo step $((40+2)); sleep 1000\n");
        let (mut child, said) = start_until(place.command(&arguments), "step 42");
        let builder = child.id();
        assert!(!groups(builder).is_empty(), "{}", place.sandbox);
        child.kill().unwrap();
        child.wait().unwrap();
        drop(said);
        // Whoever makes groups there next takes away what a killed builder left, once its processes are gone.
        wait_until("its groups are gone", || {
            place.build(&arguments, "RUN true\n").success();
            groups(builder).is_empty()
        });
        let child = place.command(&arguments).spawn().unwrap();
        let builder = child.id();
        assert!(child.wait_with_output().unwrap().status.success());
        assert_eq!(groups(builder), Vec::<PathBuf>::new(), "{}", place.sandbox);
    });
}

#[test]
fn limits_that_cannot_be_had_are_told() {
    in_each_sandbox(|place| {
        if !work(place) {
            return;
        }
        place.wharf.dockerfile("FROM busybox\nRUN true\n");
        let within = |script: &str, arguments: &[&str]| {
            let build = place.command(arguments);
            let mut command = Command::new("unshare");
            let script = format!("{script} && exec \"$0\" \"$@\"");
            command.args(["-m", "sh", "-c", &script]).arg(build.get_program()).args(build.get_args());
            command.current_dir(place.path(""));
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            Outcome::of(command)
        };
        let hidden = "umount -l /sys/fs/cgroup";
        let read_only = "for m in $(grep ' - cgroup' /proc/self/mountinfo | cut -d' ' -f5); do mount -o remount,bind,ro $m; done";
        for (script, words) in [
            (
                hidden,
                &["no control group file system is mounted", "hint: limits that hold for wharf itself"][..],
            ),
            (
                read_only,
                &[
                    "no control group can be made in `/",
                    "Read-only file system",
                    "hint: give wharf a control group",
                ],
            ),
        ] {
            within(script, &["--memory=64m"])
                .fails_with(5, &["steps cannot be limited as asked"])
                .fails_with(5, words);
            // Who asks for nothing gets what there is.
            within(script, &["--no-cache"]).success();
        }
        within("true", &["--cgroup-parent", "a/b"]).fails_with(5, &["`a/b` is no path of a control group"]);
    });
}

/// Nobody gets more than the machine gives; who asks for more is told how much that is.
#[test]
fn resource_limits_are_set_or_refused_in_words() {
    in_each_sandbox(|place| {
        let line = "RUN [ \"$(ulimit -Sn):$(ulimit -Hn)\" = 100:200 ] && [ \"$(ulimit -Hc)\" = 0 ]\n";
        place.build(&["--ulimit", "nofile=100:200", "--ulimit", "core=0"], line).success();
        let outcome = place.build(&["--ulimit", "nofile=4000000000"], "RUN true\n");
        outcome
            .fails_with(1, &["the limit `nofile` cannot be 4000000000: this machine allows", "fs.nr_open"]);
        if place.who == (Who::User { subordinate_ids: true }) {
            let within = |arguments: &[&str]| {
                let build = place.command(arguments);
                let mut command = Command::new("sh");
                command.args(["-c", "ulimit -n 5000 && exec \"$0\" \"$@\""]).arg(build.get_program());
                command.args(build.get_args()).current_dir(place.path("")).stdin(Stdio::null());
                Outcome::of(command)
            };
            within(&["--ulimit", "nofile=5000"]).success();
            let words = [
                "the limit `nofile` cannot be 5001: wharf was started with a hard limit of 5000",
                "CAP_SYS_RESOURCE",
            ];
            within(&["--ulimit", "nofile=5001"]).fails_with(1, &words);
        }
    });
}
