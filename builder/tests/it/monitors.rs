//! What watches over containers: killed, slow to be read, out of disk, started twice; containers that do not want to end, are
//! not well, or end all the time.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::harness::{Outcome, Wharf, busybox_layout, kill_at_once, processes, skip, wait_until};

/// A store with an image `bb`.
pub(crate) fn wharf() -> Option<Wharf> {
    let layout = busybox_layout()?;
    let wharf = Wharf::new()?;
    fill(&wharf, layout);
    Some(wharf)
}

fn fill(wharf: &Wharf, layout: &Path) {
    let context = format!("bb=oci-layout://{}", layout.display());
    wharf.dockerfile("FROM bb\nCMD [\"sh\"]\n");
    wharf.run(&["build", "-q", "-t", "bb", "--build-context", &context, "context"]).success();
}

/// `wharf run -d --network none FLAGS bb sh -c SCRIPT`: its identifier.
#[track_caller]
pub(crate) fn begin(wharf: &Wharf, name: &str, flags: &[&str], script: &str) -> String {
    let mut arguments = vec!["run", "-d", "--network", "none", "--name", name];
    arguments.extend(flags);
    arguments.extend(["bb", "sh", "-c", script]);
    wharf.run(&arguments).success().text().trim().to_owned()
}

/// A field of `wharf inspect`, as a template has it.
#[track_caller]
pub(crate) fn field(wharf: &Wharf, name: &str, template: &str) -> String {
    wharf.run(&["container", "inspect", "--format", template, name]).success().text().trim().to_owned()
}

pub(crate) fn status(wharf: &Wharf, name: &str) -> String {
    field(wharf, name, "{{.State.Status}} {{.State.ExitCode}}")
}

/// The monitor of the container with this identifier.
#[track_caller]
fn monitor_of(id: &str) -> String {
    let all = processes(id);
    assert_eq!(all.len(), 1, "{all:?}");
    let path = all[0].split(':').next().unwrap_or_default();
    path.trim_start_matches("/proc/").to_owned()
}

/// Nobody watches over anything any more, and the store holds no container.
#[track_caller]
pub(crate) fn nothing_is_left(wharf: &Wharf, ids: &[&str]) {
    for id in ids {
        wait_until("the monitor has ended", || processes(id).is_empty());
    }
    let left: Vec<_> = fs::read_dir(wharf.path("store/containers")).unwrap().flatten().collect();
    assert_eq!(left.len(), 2, "names and the lock: {left:?}");
    assert_eq!(fs::read_dir(wharf.path("store/containers/names")).unwrap().count(), 0);
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}

#[test]
fn who_follows_a_log_is_given_all_of_it() {
    let Some(wharf) = wharf() else { return };
    let script = "timeout -s KILL 1 yes; exit 3";
    let arguments = ["run", "--network", "none", "--name", "talker", "bb", "sh", "-c", script];
    // Whoever is attached does not read, so that a pipe is full when it ends.
    let mut attached = wharf.command("store", &arguments).spawn().unwrap();
    wait_until("it runs", || wharf.run(&["container", "inspect", "talker"]).code == Some(0));
    wait_until("it runs", || status(&wharf, "talker") == "running 0");
    let pid = field(&wharf, "talker", "{{.State.Pid}}");
    let log = fs::File::create(wharf.path("log")).unwrap();
    let mut follower = wharf.command("store", &["logs", "-f", "talker"]).stdout(log).spawn().unwrap();
    wait_until("it has ended", || !Path::new("/proc").join(&pid).exists());
    // Whoever follows has time to believe it.
    thread::sleep(Duration::from_millis(300));
    let mut printed = Vec::new();
    attached.stdout.take().unwrap().read_to_end(&mut printed).unwrap();
    assert!(follower.wait().unwrap().success());
    assert_eq!(fs::metadata(wharf.path("log")).unwrap().len(), printed.len() as u64);
    assert_eq!(attached.wait().unwrap().code(), Some(3));
    let id = field(&wharf, "talker", "{{.Id}}");
    wharf.run(&["rm", "talker"]).success();
    nothing_is_left(&wharf, &[&id]);
}

#[test]
fn a_killed_monitor_leaves_nothing_and_is_told_of() {
    let Some(wharf) = wharf() else { return };
    let marker = format!("wharf-killed-{}", std::process::id());
    let script = format!("echo kept > /file; echo up; exec sleep 1000 # {marker}");
    let id = begin(&wharf, "one", &["--restart", "always", "-e", &format!("MARKER={marker}")], &script);
    wait_until("it is up", || wharf.run(&["logs", "one"]).text() == "up\n");
    kill_at_once(&monitor_of(&id));
    wait_until("all of it has ended", || processes(&marker).is_empty());
    assert_eq!(status(&wharf, "one"), "exited 137");
    let error = field(&wharf, "one", "{{.State.Error}}");
    assert!(error.contains("monitor was killed"), "{error}");
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
    wharf.run(&["exec", "one", "true"]).fails_with(125, &["not running"]);
    // It can be started again, with the files that it had.
    wharf.run(&["start", "one"]).success();
    assert_eq!(wharf.run(&["exec", "one", "cat", "/file"]).success().text(), "kept\n");
    kill_at_once(&monitor_of(&id));
    wait_until("all of it has ended", || processes(&marker).is_empty());
    wharf.run(&["rm", "one"]).success();
    nothing_is_left(&wharf, &[&id]);
}

#[test]
fn who_does_not_want_to_end_is_killed() {
    let Some(wharf) = wharf() else { return };
    let deaf = begin(&wharf, "deaf", &[], "trap '' TERM; echo up; while :; do sleep 0.1; done");
    let polite = begin(&wharf, "polite", &[], "trap 'exit 4' TERM; echo up; while :; do sleep 0.1; done");
    for name in ["deaf", "polite"] {
        wait_until("it is up", || wharf.run(&["logs", name]).text() == "up\n");
        wharf.run(&["stop", "-t", "1", name]).success();
    }
    assert_eq!(status(&wharf, "deaf"), "exited 137");
    assert_eq!(status(&wharf, "polite"), "exited 4");
    wharf.run(&["rm", "deaf", "polite"]).success();
    nothing_is_left(&wharf, &[&deaf, &polite]);
}

#[test]
fn a_check_that_never_passes_makes_it_unhealthy() {
    let Some(wharf) = wharf() else { return };
    let flags = ["--health-interval", "50ms", "--health-retries", "2", "--health-timeout", "200ms"];
    let check = |name: &str, command: &str, word: &str, exit_code: i32| {
        let flags = [&flags[..], &["--health-cmd", command]].concat();
        let id = begin(&wharf, name, &flags, "exec sleep 1000");
        let health = || field(&wharf, name, "{{.State.Health.Status}}");
        wait_until("it is known how it is", || health() == word);
        let log: Vec<serde_json::Value> =
            serde_json::from_str(&field(&wharf, name, "{{json .State.Health.Log}}")).unwrap();
        assert!(log.iter().all(|probe| probe["ExitCode"] == exit_code), "{name}: {log:?}");
        assert!((1..=5).contains(&log.len()), "{name}: {log:?}");
        wharf.run(&["rm", "-f", name]).success();
        id
    };
    let ids = [
        check("sick", "echo sick; exit 3", "unhealthy", 3),
        check("well", "true", "healthy", 0),
        check("slow", "sleep 1000", "unhealthy", -1),
    ];
    nothing_is_left(&wharf, &ids.each_ref().map(String::as_str));
}

#[test]
fn what_fails_is_started_again_as_often_as_was_said() {
    let Some(wharf) = wharf() else { return };
    let failing = begin(&wharf, "failing", &["--restart", "on-failure:2"], "echo again; exit 3");
    wait_until("it is given up", || status(&wharf, "failing") == "exited 3");
    assert_eq!(field(&wharf, "failing", "{{.RestartCount}}"), "2");
    assert_eq!(wharf.run(&["logs", "failing"]).text(), "again\n".repeat(3));
    // One that is always started again ends when somebody stops it, also between two runs.
    let always = begin(&wharf, "always", &["--restart", "always"], "exit 0");
    wait_until("it has been started again", || {
        field(&wharf, "always", "{{.RestartCount}}").parse::<u32>().is_ok_and(|count| count >= 3)
    });
    wharf.run(&["stop", "always"]).success();
    assert_eq!(status(&wharf, "always"), "exited 0");
    wharf.run(&["rm", "failing", "always"]).success();
    nothing_is_left(&wharf, &[&failing, &always]);
}

#[test]
fn logs_are_ended_at_their_size() {
    let Some(wharf) = wharf() else { return };
    let flags = ["--log-opt", "max-size=4k", "--log-opt", "max-file=3"];
    let id = begin(&wharf, "talker", &flags, "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done");
    wait_until("it has ended", || status(&wharf, "talker") == "exited 0");
    let files = fs::read_dir(wharf.path(&format!("store/containers/{id}/log"))).unwrap().count();
    assert_eq!(files, 3);
    let text = wharf.run(&["logs", "talker"]).success().text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() > 50 && lines.len() < 300, "{}", lines.len());
    assert_eq!(lines.last(), Some(&"line 499"));
    let last = wharf.run(&["logs", "-n", "2", "talker"]).success().text();
    assert_eq!(last, "line 498\nline 499\n");
    wharf.run(&["rm", "talker"]).success();
    nothing_is_left(&wharf, &[&id]);
}

/// A memory file system, unmounted when this is dropped.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_costs_output_and_not_the_container() {
    let Some(layout) = busybox_layout() else { return };
    let Some(wharf) = Wharf::new() else { return };
    let store = wharf.path("store");
    fs::create_dir(&store).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(&store);
    if !mount.status().is_ok_and(|status| status.success()) {
        return skip("no tmpfs can be mounted");
    }
    let _mounted = Mounted(store);
    fill(&wharf, layout);
    let script = "yes 0123456789 | head -c 30000000; echo up > /dev/shm/done; exec sleep 1000";
    let id = begin(&wharf, "talker", &[], script);
    let exec = |command: &[&str]| wharf.run(&[&["exec", "talker"], command].concat());
    wait_until("all of it is printed", || exec(&["test", "-e", "/dev/shm/done"]).code == Some(0));
    let warnings = field(&wharf, "talker", "{{json .Warnings}}");
    assert!(warnings.contains("output is lost") && warnings.contains("No space left"), "{warnings}");
    assert_eq!(status(&wharf, "talker"), "running 0");
    assert!(wharf.run(&["logs", "talker"]).success().text().starts_with("0123456789\n"));
    wharf.run(&["kill", "talker"]).success();
    wait_until("it has ended", || status(&wharf, "talker") == "exited 137");
    wharf.run(&["rm", "talker"]).success();
    wait_until("the monitor has ended", || processes(&id).is_empty());
}

#[test]
fn a_slow_reader_gets_everything() {
    const LINES: usize = 2_000_000;
    let Some(wharf) = wharf() else { return };
    let script = format!("yes 0123456789012345678901234567890123456789012345678 | head -n {LINES}");
    let arguments = ["run", "--rm", "--network", "none", "--log-driver", "none", "bb", "sh", "-c", &script];
    let mut child = wharf.command("store", &arguments).stderr(Stdio::inherit()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let (mut buffer, mut total, mut wrong) = (vec![0; 1 << 20], 0, 0);
    let expected = b"0123456789012345678901234567890123456789012345678\n";
    let mut reads = 0;
    loop {
        let count = output.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        wrong += buffer[..count].iter().zip(total..).filter(|(byte, at)| **byte != expected[at % 50]).count();
        total += count;
        reads += 1;
        // All that is between waits, again and again.
        if reads % 200 == 0 {
            thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!((total, wrong), (LINES * 50, 0));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    nothing_is_left(&wharf, &[]);
}

#[test]
fn two_who_start_the_same_start_it_once() {
    let Some(wharf) = wharf() else { return };
    let created =
        wharf.run(&["create", "--network", "none", "--name", "one", "bb", "sleep", "1000"]).success();
    let id = created.text().trim().to_owned();
    for _ in 0..3 {
        let outcomes: Vec<Outcome> = thread::scope(|scope| {
            let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| wharf.run(&["start", "one"]))).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        for outcome in outcomes {
            outcome.success();
        }
        monitor_of(&id);
        assert_eq!(status(&wharf, "one"), "running 0");
        wharf.run(&["kill", "one"]).success();
        wait_until("it has ended", || status(&wharf, "one") == "exited 137");
    }
    wharf.run(&["rm", "-f", "one"]).success();
    nothing_is_left(&wharf, &[&id]);
}
