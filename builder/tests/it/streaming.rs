//! Layers reach the registry while later steps run: a step waits for that to happen, so there is nothing to be timed.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fault_fixture::FaultServer;
use crate::harness::{Outcome, Wharf, busybox_layout, wait_until};

/// What of a step waits until the server's state has `count` different texts like `pattern`.
fn until(server: &FaultServer, count: usize, pattern: &str) -> String {
    format!(
        "for i in $(seq 600); do \
         [ $(wget -qO- http://{}/_state | grep -o '{pattern}' | sort -u | wc -l) -ge {count} ] && break; \
         [ $i -lt 600 ] || exit 9; sleep 0.1; done",
        server.host()
    )
}

/// The blobs of a repository, one text each.
fn blobs_of(repository: &str) -> String {
    format!("\"{repository}@sha256:[0-9a-f]*")
}

fn world() -> Option<(Wharf, FaultServer)> {
    let (_, wharf, server) = (busybox_layout()?, Wharf::new()?, FaultServer::start()?);
    fs::write(wharf.path("config.toml"), "[transfers]\nconnect-timeout = '2s'\nread-timeout = '5s'\n")
        .unwrap();
    wharf.file("x", "x");
    Some((wharf, server))
}

fn command(wharf: &Wharf, store: &str, output: &str) -> Command {
    let config = wharf.path("config.toml").display().to_string();
    let all = ["--config", &config, "--allow", "network.host", "-o", output];
    wharf.build_command(store, &all)
}

fn build(wharf: &Wharf, store: &str, output: &str) -> Outcome {
    Outcome::of(command(wharf, store, output))
}

fn output(server: &FaultServer, repository: &str, more: &str) -> String {
    format!("type=registry,name={}/{repository}:v1{more}", server.host())
}

/// The lines of the requests to a repository.
fn requests(server: &FaultServer, repository: &str) -> Vec<String> {
    let asked = server.asked(&format!("/v2/{repository}/"));
    asked.iter().map(|it| it["line"].as_str().unwrap().to_owned()).collect()
}

fn is_tagged(server: &FaultServer, repository: &str) -> bool {
    server.tags().contains(&format!("{repository}:v1"))
}

fn count(lines: &[String], start: &str, word: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(start) && line.contains(word)).count()
}

#[test]
fn layers_are_there_before_the_last_step_ends() {
    let Some((wharf, server)) = world() else { return };
    for (number, form) in
        ["", ",compression=zstd", ",compression=zstd,force-compression=true", ",compression=estargz"]
            .into_iter()
            .enumerate()
    {
        let (repository, store) = (format!("app-{number}"), format!("store-{number}"));
        wharf.dockerfile(&format!(
            "FROM busybox AS other\nRUN echo {number} >/made && echo unwanted >/unwanted\n\
             FROM busybox\nCOPY --from=other /made /\nRUN --network=host {}; echo end >/end\n",
            until(&server, 2, &blobs_of(&repository))
        ));
        server.set(&json!([]));
        let first = build(&wharf, &store, &output(&server, &repository, form)).success();
        assert!(first.stderr.contains("pushing layers"), "{}", first.stderr);
        let lines = requests(&server, &repository);
        // The base, two layers and a config; nothing of the stage that is only read from; nothing twice.
        for (start, word, times) in [
            ("HEAD ", "/blobs/sha256", 4),
            ("POST ", "/blobs/uploads", 4),
            ("PUT ", "/blobs/uploads", 4),
            ("PUT ", "/manifests/", 1),
        ] {
            assert_eq!(count(&lines, start, word), times, "{form}: {start}{word}: {lines:#?}");
        }
        assert!(lines.last().unwrap().starts_with("PUT ") && lines.last().unwrap().contains("/manifests/v1"));

        // Nothing is sent that is there, and nothing is asked more than once.
        server.set(&json!([]));
        let again = build(&wharf, &store, &output(&server, &repository, form)).success();
        again.steps().check_ran(&[]);
        assert!(!again.stderr.contains("pushing layers"), "{}", again.stderr);
        let lines = requests(&server, &repository);
        assert_eq!(
            (count(&lines, "HEAD ", ""), count(&lines, "PUT ", "/manifests/"), lines.len()),
            (4, 1, 5)
        );
    }
}

#[test]
fn the_base_goes_ahead_of_the_first_step() {
    let Some((wharf, server)) = world() else { return };
    let waits = until(&server, 1, &blobs_of("app"));
    wharf.dockerfile(&format!("FROM busybox\nRUN --network=host {waits}\n"));
    build(&wharf, "store", &output(&server, "app", "")).success();
    assert!(is_tagged(&server, "app"));
}

#[test]
fn the_base_is_taken_over_from_its_repository() {
    let Some((wharf, server)) = world() else { return };
    wharf.dockerfile("FROM busybox\n");
    build(&wharf, "store", &output(&server, "team/base", "")).success();
    let from = format!("FROM {}/team/base:v1\n", server.host());
    // The base is here before, so that nothing but its name tells where its layers are.
    wharf.dockerfile(&format!("{from}RUN true\n"));
    build(&wharf, "other", "type=cacheonly").success();
    server.set(&json!([]));
    let waits = until(&server, 1, &blobs_of("team/app"));
    wharf.dockerfile(&format!("{from}RUN true\nRUN --network=host {waits}\n"));
    build(&wharf, "other", &output(&server, "team/app", "")).success();
    let lines = requests(&server, "team/app");
    assert_eq!(count(&lines, "POST ", "from=team%2Fbase"), 1, "{lines:#?}");
    // The layer of both steps, which is empty, and a config.
    assert_eq!(count(&lines, "PUT ", "/blobs/uploads"), 2, "{lines:#?}");
}

#[test]
fn a_build_that_fails_later_pushes_no_image() {
    let Some((wharf, server)) = world() else { return };
    let waits = until(&server, 2, &blobs_of("app"));
    wharf.dockerfile(&format!("FROM busybox\nCOPY x /\nRUN --network=host {waits}; exit 3\n"));
    let failed = build(&wharf, "store", &output(&server, "app", "")).fails_with(1, &["exit code: 3"]);
    assert!(!failed.stderr.contains("cannot push"), "{}", failed.stderr);
    assert!(!is_tagged(&server, "app"));
    assert_eq!(count(&requests(&server, "app"), "PUT ", "/manifests/"), 0);
    assert_eq!(wharf.leftovers("store"), [""; 0]);
}

#[test]
fn what_fails_ahead_is_tried_again_and_told_by_the_push() {
    let Some((wharf, server)) = world() else { return };
    let fault = |on: &str, times: i32, status: u16| json!([{"on": on, "times": times, "do": "status", "status": status}]);
    let (post, put) = ("POST .*/uploads/", "PUT .*/uploads/");
    let rows: [(&str, Value, Option<&str>); 5] = [
        ("every try of one upload", fault(put, 3, 503), None),
        ("refused once", fault(post, 1, 403), None),
        ("a blob is lost after it was sent", fault("PUT .*/manifests/", 1, 400), None),
        ("for ever", fault(put, -1, 503), Some("answered 503")),
        ("not allowed", fault(post, -1, 403), Some("does not let us push")),
    ];
    for (number, (row, faults, ends)) in rows.into_iter().enumerate() {
        let (repository, store) = (format!("app-{number}"), format!("store-{number}"));
        let waits = until(&server, 1, &format!("P[OSTU]* /v2/{repository}/blobs/uploads"));
        wharf.dockerfile(&format!("FROM busybox\nCOPY x /\nRUN --network=host {waits}; echo end >/end\n"));
        server.set(&faults);
        let outcome = build(&wharf, &store, &output(&server, &repository, ""));
        let is_tagged = is_tagged(&server, &repository);
        match ends {
            None => {
                outcome.success();
                assert!(is_tagged, "{row}");
            }
            Some(words) => {
                let outcome = outcome.fails_with(4, &["cannot push", words]);
                let (step, told) = (outcome.stderr.find("DONE"), outcome.stderr.find(words));
                assert!(step < told, "{row}: {}", outcome.stderr);
                for word in ["error: ", "ERROR: "] {
                    let count = outcome.stderr.lines().filter(|line| line.starts_with(word)).count();
                    assert!(count <= 1, "{row}: {}", outcome.stderr);
                }
                assert!(!is_tagged, "{row}");
            }
        }
    }
}

#[test]
fn an_interrupted_build_stops_what_goes_ahead() {
    let Some((wharf, server)) = world() else { return };
    server.set(&json!([{"on": "POST .*/uploads/", "times": -1, "do": "status", "status": 429,
                        "headers": {"Retry-After": "50"}}]));
    wharf.dockerfile("FROM busybox\nCOPY x /\nRUN sleep 100\n");
    let mut command = command(&wharf, "store", &output(&server, "app", ""));
    let child = command.spawn().unwrap();
    wait_until("a layer is offered", || count(&requests(&server, "app"), "POST ", "") > 0);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let outcome = Outcome::from_output(&command, child.wait_with_output().unwrap());
    outcome.fails_with(130, &["the build was interrupted"]);
    assert!(!is_tagged(&server, "app"));
    assert_eq!(wharf.leftovers("store"), [""; 0]);
}
