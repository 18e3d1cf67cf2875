//! Registries that say nothing, or never come to an end: one interrupt is enough.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fault_fixture::FaultServer;
use crate::fault_rows::fault;
use crate::faults::{build, check_said, world};
use crate::harness::{Outcome, Wharf, wait_until};

/// A command that is about to wait for ever.
struct Row {
    name: &'static str,
    faults: Value,
    command: Command,
}

/// Interrupts `row` when its fault has been met; all ends then, and says why.
#[track_caller]
fn check(server: &FaultServer, row: Row, signal: Signal) {
    let Row { name, faults, mut command } = row;
    let met = faults[0]["on"].as_str().unwrap().rsplit("/").next().unwrap().to_owned();
    let met = met.trim_matches(['$', '.', '*']).to_owned();
    server.set(&faults);
    let mut child = command.spawn().unwrap();
    wait_until(&format!("{name}: it waits"), || {
        assert!(child.try_wait().unwrap().is_none(), "{name}: it has ended");
        !server.asked(&met).is_empty()
    });
    kill_process(Pid::from_child(&child), signal).unwrap();
    wait_until(&format!("{name}: it ends"), || child.try_wait().unwrap().is_some());
    let outcome = Outcome::from_output(&command, child.wait_with_output().unwrap());
    assert_eq!(outcome.code, Some(130), "{name}: {}", outcome.stderr);
    assert!(outcome.stderr.contains("interrupted"), "{name}: {}", outcome.stderr);
    assert!(!outcome.stderr.contains("panicked"), "{name}: {}", outcome.stderr);
}

/// A server that has `base:v1` and a store that has it too, with limits that no test lives to see.
fn patient_world() -> Option<(Wharf, FaultServer)> {
    let (wharf, server) = world()?;
    fs::write(wharf.path("patient.toml"), "[transfers]\nconnect-timeout = '1h'\nread-timeout = '1h'\n")
        .unwrap();
    Some((wharf, server))
}

fn silence(on: &str) -> Value {
    json!([fault(on, -1, json!({"do": "silence", "seconds": 1000}))])
}

#[test]
fn one_interrupt_ends_every_wait() {
    let Some((wharf, server)) = patient_world() else { return };
    let host = server.host();
    let base = format!("{host}/base:v1");
    let other = format!("docker://{host}/other:v1");
    wharf.run(&["pull", "-q", &base]).success();
    wharf.run(&["manifest", "create", "index", &base]).success();
    let drip = |on: &str| json!([fault(on, -1, json!({"do": "drip", "seconds": 0.02}))]);
    let (manifest, blob) = ("GET .*/manifests/", "GET .*/blobs/sha256");
    let (upload, put) = ("PUT .*/blobs/uploads/", "PUT .*/manifests/");
    let stall = json!([fault(blob, -1, json!({"do": "stall", "seconds": 1000}))]);
    let endless = json!([fault("GET .*/tags/", -1, json!({"do": "endless", "tags": 1}))]);
    let config = wharf.path("patient.toml").display().to_string();
    let new = |arguments: &[&str]| wharf.command("new", &[arguments, &["--config", &config]].concat());
    let old = |arguments: &[&str]| wharf.command("store", &[arguments, &["--config", &config]].concat());
    let source = format!("docker://{base}");
    let login = || {
        let mut command = new(&["login", "-u", "me", "-p", "secret", &host]);
        command.env("DOCKER_CONFIG", wharf.path("docker"));
        command
    };
    let build = || wharf.build_command("built", &["--config", &config, "-t", "app"]);
    for (number, (name, faults, command)) in [
        ("pull: silence", silence(manifest), new(&["pull", "-q", &base])),
        ("pull: a manifest in drops", drip(manifest), new(&["pull", "-q", &base])),
        ("pull: silence at a blob", silence(blob), new(&["pull", "-q", &base])),
        ("pull: a blob that stops", stall.clone(), new(&["pull", "-q", &base])),
        ("pull -a: silence", silence("GET .*/tags/"), new(&["pull", "-q", "-a", &format!("{host}/base")])),
        ("pull -a: no end", endless, new(&["pull", "-q", "-a", &format!("{host}/base")])),
        ("copy: silence", silence(manifest), new(&["copy", "-q", &source, "oci:layout"])),
        ("copy: a blob that stops", stall, new(&["copy", "-q", &source, "oci:layout"])),
        ("copy: silence at an upload", silence(upload), old(&["copy", "-q", &base, &other])),
        ("push: silence at HEAD", silence("HEAD .*/blobs/"), old(&["push", "-q", &base])),
        ("push: silence at the manifest", silence(put), old(&["push", "-q", &base])),
        ("manifest push: silence", silence(put), old(&["manifest", "push", "index", &other])),
        ("manifest inspect: silence", silence(manifest), new(&["manifest", "inspect", &base])),
        ("verify: silence", silence(manifest), new(&["verify", "-q", &source, "context"])),
        ("login: silence", silence("GET /v2/$"), login()),
        ("build: silence", silence(manifest), build()),
        ("build: a manifest in drops", drip(manifest), build()),
        ("build: silence at a blob", silence(blob), build()),
    ]
    .into_iter()
    .enumerate()
    {
        let signal = if number % 2 == 0 { Signal::INT } else { Signal::TERM };
        check(&server, Row { name, faults, command }, signal);
    }
    for store in ["new", "store", "built"] {
        assert_eq!(wharf.leftovers(store), [""; 0], "{store}");
    }
    assert!(!wharf.path("docker").join("config.json").exists());
    assert!(server.tags().iter().all(|tag| !tag.starts_with("other")));
}

/// Who says something all the time comes to an end, too.
#[test]
fn documents_have_limits() {
    let Some((wharf, server)) = world() else { return };
    let config = wharf.path("config.toml").display().to_string();
    let base = format!("{}/base:v1", server.host());
    let pull = |arguments: &[&str]| {
        let all = [&["pull", "-q", "--config", &config], arguments].concat();
        wharf.run_in("new", &all)
    };
    let drip = json!({"do": "drip", "seconds": 0.02});
    server.set(&json!([fault("GET .*/manifests/", -1, drip.clone())]));
    check_said(&pull(&[&base]), "a manifest in drops", &["cannot reach registry", "not come as a whole"]);
    let repository = format!("{}/base", server.host());
    server.set(&json!([fault("GET .*/tags/", -1, drip.clone())]));
    check_said(&pull(&["-a", &repository]), "a list in drops", &["the tags of", "not come as a whole"]);
    let endless = json!({"do": "endless", "tags": 300_000});
    server.set(&json!([fault("GET .*/tags/", -1, endless)]));
    check_said(&pull(&["-a", &repository]), "a list without end", &["more than 1000000 entries"]);
    let token = "Bearer realm=\"http://127.0.0.1:PORT/token\"";
    server.guard(&json!({"challenge": token, "accept": "Bearer t"}), &json!([fault("GET /token", -1, drip)]));
    check_said(&pull(&[&base]), "a token in drops", &["a token of 127.0.0.1", "not come as a whole"]);
    server.set(&json!([]));
    pull(&[&base]).success();
    build(&wharf, "new", &["-t", "app"]).success();
}

/// What a step's failure ends is not only steps.
#[test]
fn a_failed_build_waits_for_no_registry() {
    let Some((wharf, server)) = patient_world() else { return };
    let config = wharf.path("patient.toml").display().to_string();
    for (number, on) in
        ["HEAD .*/blobs/", "POST .*/blobs/uploads/", "PUT .*/blobs/uploads/"].into_iter().enumerate()
    {
        server.set(&silence(on));
        let asked = on.split(' ').next().unwrap();
        wharf.dockerfile(&format!(
            "FROM busybox\nCOPY x /\nRUN --network=host until wget -qO- http://{}/_state | grep -q '{asked} /v2/app-{number}'; \
             do sleep 0.1; done; exit 3\n",
            server.host()
        ));
        let name = format!("type=registry,name={}/app-{number}:v1", server.host());
        let mut command = wharf.build_command(
            "built",
            &["--config", &config, "--allow", "network.host", "--no-cache", "-o", &name],
        );
        let mut child = command.spawn().unwrap();
        wait_until(&format!("{on}: it ends"), || child.try_wait().unwrap().is_some());
        let outcome = Outcome::from_output(&command, child.wait_with_output().unwrap());
        outcome.fails_with(1, &["exit code: 3"]);
        assert_eq!(wharf.leftovers("built"), [""; 0], "{on}");
    }
}
