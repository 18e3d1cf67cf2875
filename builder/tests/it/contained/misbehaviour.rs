//! Steps that behave badly: they are ended, cleared away, and cost others nothing.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{in_each_sandbox, limits, listing};
use crate::harness::{Outcome, processes, wait_until};
use crate::interrupt::start_until;

#[test]
fn a_step_that_forks_for_ever_is_ended() {
    in_each_sandbox(|place| {
        if !limits::work(place) {
            return;
        }
        let mark = format!("MARK={}", place.mark());
        // With one process that is left and need not fork, and with one that waits.
        for (script, code) in
            [("b() { b | b & }; b; exec sleep 1", Some(0)), ("b() { b | b & }; b; sleep 1; exit 3", Some(1))]
        {
            let lines = format!("ARG MARK\nRUN {script}\n");
            let outcome = place.build(&["--pids-limit", "64", "--build-arg", &mark], &lines);
            assert_eq!(outcome.code, code, "{}: {}", place.sandbox, outcome.stderr);
            if code != Some(0) {
                outcome.fails_with(1, &["after the limit of 64 processes was reached"]);
            }
            assert_eq!(processes(&mark), Vec::<String>::new(), "{}", place.sandbox);
        }
        place.is_sound();
    });
}

/// Where processes cannot be limited, they end with their step all the same, however many there are.
#[test]
fn a_step_that_forks_much_leaves_nothing() {
    in_each_sandbox(|place| {
        let mark = format!("MARK={}", place.mark());
        // Half of them are still forking when the step ends.
        let lines = "ARG MARK\nRUN b() { [ $1 = 0 ] || { setsid sh -c \"trap '' TERM; sleep 1000\" & b $(($1-1)) & b $(($1-1)) & }; }; b 8; exit 3\n";
        place.build(&["--build-arg", &mark], lines).fails_with(1, &["exit code: 3"]);
        assert_eq!(processes(&mark), Vec::<String>::new(), "{}", place.sandbox);
        place.is_sound();
    });
}

#[test]
fn what_a_step_leaves_running_ends_with_it() {
    in_each_sandbox(|place| {
        let mark = format!("MARK={}", place.mark());
        for script in [
            "(trap '' TERM INT HUP QUIT; sleep 1000 & sleep 1001) & true",
            "setsid sh -c 'trap \"\" TERM HUP; setsid sleep 1000 & sleep 1000' & true",
            "nohup sleep 1000 >/dev/null 2>&1 & true",
            "(setsid sh -c '(setsid sleep 1000 <&- >&- 2>&- &) &' &); true",
            // Streams that are kept open do not keep the step.
            "sleep 1000 & true",
            "(while :; do sleep 0.01 & wait; done) & true",
        ] {
            place.build(&["--build-arg", &mark], &format!("ARG MARK\nRUN {script}\n")).success();
            assert_eq!(processes(&mark), Vec::<String>::new(), "{script} in {}", place.sandbox);
        }
    });
}

#[test]
fn a_step_that_ignores_signals_ends_with_the_build() {
    in_each_sandbox(|place| {
        if !place.is_one_process() {
            return;
        }
        let mark = format!("MARK={}", place.mark());
        place.wharf.dockerfile(
            "FROM busybox\nARG MARK\n\
             RUN trap '' TERM INT HUP QUIT; setsid sh -c 'trap \"\" TERM; sleep 1000; sleep 1000' & echo step $((40+2)); \
             sleep 1000; sleep 1000\n",
        );
        for (signal, code) in [(Signal::INT, Some(130)), (Signal::TERM, Some(130)), (Signal::KILL, None)] {
            let command = place.command(&["--no-cache", "--build-arg", &mark]);
            let (mut child, mut said) = start_until(command, "step 42");
            kill_process(Pid::from_child(&child), signal).unwrap();
            let mut rest = String::new();
            said.read_to_string(&mut rest).unwrap();
            assert_eq!(child.wait().unwrap().code(), code, "{signal:?} in {}: {rest}", place.sandbox);
            wait_until("its processes are gone", || processes(&mark).is_empty());
        }
        place.is_sound();
    });
}

#[test]
fn output_without_end_fills_nothing() {
    in_each_sandbox(|place| {
        let lines = "RUN timeout 2 yes out; timeout 1 yes err >&2; echo the last word; exit 3\n";
        place.wharf.dockerfile(&format!("FROM busybox\n{lines}"));
        let build = place.command(&[]);
        // More memory than this would be needed to keep what it prints.
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v 4000000 && exec \"$0\" \"$@\""]);
        command.arg(build.get_program()).args(build.get_args()).current_dir(place.path(""));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let outcome = Outcome::of(command);
        let length = outcome.stderr.len();
        assert!(length < 200 << 20, "{length} bytes in {}", place.sandbox);
        let end = &outcome.stderr[length.saturating_sub(3000)..];
        assert_eq!(outcome.code, Some(1), "{}: {end}", place.sandbox);
        assert!(end.contains("the last word") && end.contains("exit code: 3"), "{end}");
        assert!(outcome.stderr.contains("of output are not shown]"));
        place.is_sound();
    });
}

#[test]
fn a_step_may_close_its_streams() {
    in_each_sandbox(|place| {
        place.build(&[], "RUN exec <&- >&- 2>&-; echo lost; exit 0\n").success();
        place.build(&[], "RUN exec <&- >&- 2>&-; sleep 0.1; exit 7\n").fails_with(1, &["exit code: 7"]);
        place.build(&[], "RUN exec >&- 2>&-; (sleep 0.2; exit 0) & wait\n").success();
    });
}

#[test]
fn a_step_may_remove_all_that_it_sees() {
    in_each_sandbox(|place| {
        place.wharf.file("f", "of the context").file("d/g", "of the context");
        let before = listing(&place.wharf.context().join("d"));
        fs::write(place.path("secret"), "secret").unwrap();
        let mounts = "--mount=target=/context --mount=target=/context2,rw --mount=type=cache,target=/cache \
                      --mount=type=tmpfs,target=/t --mount=type=secret,id=s --mount=from=busybox,target=/other";
        let lines = format!(
            "RUN {mounts} touch /cache/x; rm -rf /* /.[a-z]* 2>/dev/null; true\nFROM busybox\nCOPY --from=0 / /rest\n"
        );
        place.build(&["--secret", "id=s,src=secret"], &lines).success();
        assert_eq!(listing(&place.wharf.context().join("d")), before);
        assert_eq!(fs::read(place.path("secret")).unwrap(), b"secret");
        for device in ["null", "zero", "random", "tty"] {
            let kind = fs::metadata(format!("/dev/{device}")).unwrap().file_type();
            assert!(kind.is_char_device(), "/dev/{device} after {}", place.sandbox);
        }
        place.is_sound();
        // The root itself cannot go.
        place
            .build(
                &[],
                "RUN ! rmdir / 2>/dev/null; ! mv / /x 2>/dev/null; rm -rf /proc/1 2>/dev/null; true\n",
            )
            .success();
        place.is_sound();
    });
}

#[test]
fn a_step_that_fills_the_disk_fails_alone() {
    in_each_sandbox(|place| {
        place.wharf.dockerfile("FROM busybox\nRUN dd if=/dev/zero of=/x bs=1M count=100\n");
        let full = place.command(&[]);
        let mut command = Command::new("unshare");
        let script = "mkdir -p store && mount -t tmpfs -o size=24m wharf-test store || { echo SKIP >&2; exit 9; }; chown --reference . store; \
                      \"$0\" \"$@\"; code=$?; printf 'FROM busybox\\nRUN echo small >/small\\n' >context/Dockerfile; \
                      \"$0\" \"$@\" >/dev/null 2>&1 || echo the next build failed >&2; exit $code";
        command.args(["-m", "sh", "-c", script]).arg(full.get_program()).args(full.get_args());
        command.current_dir(place.path(""));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let outcome = Outcome::of(command);
        if outcome.code == Some(9) {
            return crate::harness::skip("cannot mount");
        }
        let outcome = outcome.fails_with(1, &["Dockerfile:2", "No space left"]);
        assert!(!outcome.stderr.contains("the next build failed"), "{}: {}", place.sandbox, outcome.stderr);
    });
}
