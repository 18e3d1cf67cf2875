//! Builds that are ended in the middle of something.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Outcome, Wharf, busybox_layout, have, processes, tool, wait_until};

const KILLS: u32 = 20;

/// Steps of every kind, several at once. `MARK` is in the environment of all of them.
const DOCKERFILE: &str = "\
FROM busybox AS one
ARG MARK
COPY files /files
RUN for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/random$i bs=64k count=4 2>/dev/null; done
FROM busybox AS two
ARG MARK
RUN mkdir /two && rm /bin/vi && (sleep 0.05; echo $MARK >/two/mark) & sleep 0.1; wait
FROM busybox
ARG MARK
COPY --from=one / /one
COPY --from=two /two /two
RUN rm -r /one/files && echo $MARK >/mark
CMD [\"cat\", \"/mark\"]
";

/// A generator of random numbers (xorshift64) that starts at `seed`.
fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// `WHARF_TEST_SEED`, so that a failure can be seen again, or a new one.
fn seed() -> u64 {
    let given = std::env::var("WHARF_TEST_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into())
}

#[test]
fn a_killed_build_leaves_nothing_in_the_way() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    if !have(&["skopeo"]) {
        return;
    }
    let seed = seed();
    println!("WHARF_TEST_SEED={seed}");
    let mut next = numbers(seed);
    for number in 0..50 {
        wharf.file(&format!("files/{number}"), &number.to_string().repeat(500));
    }
    wharf.dockerfile(DOCKERFILE);
    let scratch = wharf.path("").display().to_string();
    let build = |round: u32| {
        let mark = format!("MARK={scratch}{round}");
        wharf.build_command(
            "store",
            &["-t", "app", "-o=type=image", "-o=type=oci,dest=out.tar", "--build-arg", &mark],
        )
    };
    let image = format!("oci:{}:docker.io/library/app:latest", wharf.path("store").display());

    // The first kill hits an empty store. How long a whole build takes says where the others can hit.
    let mut whole = Duration::from_millis(50);
    for round in 1..=KILLS {
        let mut child = build(round).spawn().unwrap();
        thread::sleep(whole.mul_f64((next() % 1000) as f64 / 1000.0));
        child.kill().unwrap();
        child.wait().unwrap();
        // The kernel ends the steps of a process that is dead; it need not be quicker than `wait`.
        wait_until("its processes are gone", || processes(&scratch).is_empty());

        let start = Instant::now();
        Outcome::of(build(round)).success();
        whole = whole.max(start.elapsed());
        assert_eq!(wharf.leftovers("store"), Vec::<String>::new(), "round {round}");
        tool("skopeo", &["inspect", &image]);
        let said = wharf.run(&["run", "--rm", "app"]).success().text();
        assert_eq!(said, format!("{scratch}{round}\n"));
    }
    for entry in std::fs::read_dir(wharf.path("")).unwrap() {
        // A killed process cannot take the file it was writing away; what it leaves must not look like the result.
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(["context", "store", "out.tar"].contains(&&*name) || name.starts_with(".wharf-"), "{name}");
    }
    // Everything is really in the store: layers can be read to their ends.
    tool("skopeo", &["copy", "-q", &image, &format!("oci:{}:app", wharf.path("copy").display())]);
}

/// Starts `command` and waits until it has said `word`.
pub(crate) fn start_until(mut command: Command, word: &str) -> (Child, BufReader<impl Read + use<>>) {
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended before it said `{word}`");
    }
    (child, said)
}

#[test]
fn an_interrupted_build_ends_its_steps() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let scratch = wharf.path("").display().to_string();
    // One step does not care about signals, the other has a child that does not.
    wharf.dockerfile(
        "FROM busybox AS one\nARG MARK\nRUN trap '' INT TERM HUP; sleep 1000 & sleep 1001; sleep 1002\n\
         FROM busybox\nARG MARK\nRUN echo ready; (trap '' INT TERM; sleep 1000) & sleep 1000\nCOPY --from=one / /one\n",
    );
    let mark = format!("MARK={scratch}");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let arguments = ["-t", "app", "-o", "type=oci,dest=out.tar", "--build-arg", &mark];
        let (mut child, mut said) = start_until(wharf.build_command("store", &arguments), " ready");
        kill_process(Pid::from_child(&child), signal).unwrap();
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal:?}: {rest}");
        assert!(rest.contains("interrupted"), "{rest}");
        wait_until("its processes are gone", || processes(&scratch).is_empty());
        assert!(!wharf.path("out.tar").exists());
        assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
    }
    wharf.dockerfile("FROM busybox\nRUN true\n").build(&["-t", "app"]).success();
}

#[test]
fn an_interrupted_container_ends() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let scratch = wharf.path("").display().to_string();
    wharf.dockerfile(&format!("FROM busybox\nENV MARK={scratch}\n")).build(&["-t", "app"]).success();
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let command = wharf
            .command("store", &["run", "--rm", "app", "sh", "-c", "echo ready >&2; sleep 1000 & sleep 1000"]);
        let (mut child, _said) = start_until(command, "ready");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), code);
        if signal == Signal::KILL {
            // A client that is killed can pass nothing on: the container is its monitor's.
            let id = wharf.run(&["ps", "-q"]).success().text();
            wharf.run(&["rm", "-f", id.trim()]).success();
        }
        wait_until("its processes are gone", || processes(&scratch).is_empty());
    }
    wharf.run(&["images"]).success();
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}
