//! The fault script: registries that fail, lie and mean no good, each as one row, through the binary.

use std::fs;
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::fault_fixture::FaultServer;
use crate::harness::{Outcome, Wharf, busybox_layout};

/// Short limits, so that a row does not wait long.
const LIMITS: &str = "[transfers]\nconnect-timeout = '500ms'\nread-timeout = '700ms'\n";

/// A server that has the image `base:v1`, and a context whose image is made of it.
fn world() -> Option<(Wharf, FaultServer)> {
    let (_, wharf, server) = (busybox_layout()?, Wharf::new()?, FaultServer::start()?);
    fs::write(wharf.path("config.toml"), LIMITS).unwrap();
    wharf.file("x", "x").dockerfile("FROM busybox\nCOPY x /\n");
    let base = format!("{}/base:v1", server.host());
    build(&wharf, "first", &["-t", &base, "--push"]).success();
    wharf.dockerfile(&format!("FROM {base}\nCOPY x /y\n"));
    Some((wharf, server))
}

fn build(wharf: &Wharf, store: &str, arguments: &[&str]) -> Outcome {
    let config = wharf.path("config.toml").display().to_string();
    let mut all = vec!["--config", &config];
    all.extend(arguments);
    wharf.build_in(store, &all)
}

/// It ended with the status of a source, and said once what went wrong.
#[track_caller]
fn check_said(outcome: &Outcome, row: &str, words: &[&str]) {
    assert_eq!(outcome.code, Some(4), "{row}: {}", outcome.stderr);
    assert!(!outcome.stderr.contains("panicked"), "{row}: {}", outcome.stderr);
    // At the place in the Dockerfile and at the end.
    for word in ["error: ", "ERROR: "] {
        let count = outcome.stderr.lines().filter(|line| line.starts_with(word)).count();
        assert!(count <= 1, "{row}: {}", outcome.stderr);
    }
    for word in words {
        assert!(outcome.stderr.contains(word), "{row}: `{word}` is not in:\n{}", outcome.stderr);
    }
}

/// What a row leads to.
enum Ends {
    /// It succeeds all the same.
    Well,
    /// It fails, and this is said.
    Saying(&'static [&'static str]),
}
use Ends::{Saying, Well};

fn fault(on: &str, times: i32, action: Value) -> Value {
    let mut fault = action;
    fault["on"] = json!(on);
    fault["times"] = json!(times);
    fault
}

#[test]
fn a_pull_survives_what_passes_and_names_what_does_not() {
    let Some((wharf, server)) = world() else { return };
    let (manifest, blob) = ("GET .*/manifests/", "GET .*/blobs/sha256");
    let status = |status: u16| json!({"do": "status", "status": status});
    let throttled = |wait: &str| json!({"do": "status", "status": 429, "headers": {"Retry-After": wait}});
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let rows = [
        ("hangs up", manifest, 1, json!({"do": "reset"}), Well),
        ("hangs up for ever", manifest, -1, json!({"do": "reset"}), Saying(&["cannot reach registry"])),
        (
            "is silent",
            manifest,
            -1,
            json!({"do": "silence", "seconds": 3}),
            Saying(&["cannot reach registry", "time"]),
        ),
        ("stalls", blob, 1, json!({"do": "stall", "seconds": 3}), Well),
        ("drops midway", blob, 2, json!({"do": "cut", "at": 400_000}), Well),
        ("drops midway for ever", blob, -1, json!({"do": "cut", "at": 0}), Saying(&["blob", "cannot reach"])),
        ("drops at the last byte", blob, 1, json!({"do": "cut", "at": -1}), Well),
        ("403", manifest, -1, status(403), Saying(&["does not let us fetch", "wharf login"])),
        ("404 of the manifest", manifest, -1, status(404), Saying(&["is not in registry", "base:v1"])),
        ("404 of a blob", blob, -1, status(404), Saying(&["is not in registry", "blob"])),
        ("429 with a wait", manifest, 1, throttled("0"), Well),
        ("429 with a date", manifest, 1, throttled(date), Well),
        ("429 without", blob, 1, status(429), Well),
        (
            "429 with a day",
            manifest,
            -1,
            throttled("86400"),
            Saying(&["429", "limits the rate: wait 86400 s"]),
        ),
        ("429 for ever", manifest, -1, status(429), Saying(&["429", "limits the rate"])),
        ("500 once", manifest, 1, status(500), Well),
        ("502 once", blob, 1, status(502), Well),
        ("503 once", blob, 1, status(503), Well),
        ("500 for ever", blob, -1, status(500), Saying(&["answered 500"])),
        ("502 for ever", manifest, -1, status(502), Saying(&["answered 502"])),
        ("503 for ever", manifest, -1, status(503), Saying(&["answered 503", "try again later"])),
        ("another digest of the manifest", manifest, -1, json!({"do": "flip"}), Saying(&["manifest"])),
        ("another digest of a blob", blob, -1, json!({"do": "flip"}), Saying(&["digest"])),
        ("a short blob", blob, -1, json!({"do": "shorten"}), Saying(&["bytes, expected"])),
        ("a long blob", blob, -1, json!({"do": "lengthen"}), Saying(&["bytes, expected"])),
        ("a length too large", blob, -1, json!({"do": "length", "by": 7}), Saying(&["bytes, expected"])),
        ("a length too small", blob, -1, json!({"do": "length", "by": -7}), Saying(&["bytes, expected"])),
        (
            "a redirect loop",
            blob,
            -1,
            json!({"do": "redirect", "to": "PATH"}),
            Saying(&["more than 10 redirects"]),
        ),
        (
            "a redirect to a file",
            blob,
            -1,
            json!({"do": "redirect", "to": "file:///etc/passwd"}),
            Saying(&["leads to what is no URL"]),
        ),
    ];
    for (number, (row, on, times, action, ends)) in rows.into_iter().enumerate() {
        let store = format!("pull-{number}");
        server.set(&json!([fault(on, times, action)]));
        let output = ["-t", "app", "-o", "type=oci,dest=out.tar"];
        let outcome = build(&wharf, &store, &output);
        match ends {
            Well => {
                outcome.success();
            }
            Saying(words) => {
                check_said(&outcome, row, words);
                check_said(&outcome, row, &["Dockerfile:1"]);
                assert!(!wharf.path("out.tar").exists(), "{row}");
                // Nothing is lost, and nothing of it is believed later.
                server.set(&json!([]));
                build(&wharf, &store, &output).success();
            }
        }
        fs::remove_file(wharf.path("out.tar")).unwrap();
    }
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let Some((wharf, server)) = world() else { return };
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (row, host, words) in [
        ("connection refused", free.to_string(), &["cannot reach registry", "refused"][..]),
        ("no answer to connect", server.closed(), &["cannot reach registry", "(Connect)"]),
        ("no such host", "nowhere.invalid".to_owned(), &["cannot reach registry nowhere.invalid"]),
    ] {
        wharf.dockerfile(&format!("FROM {host}/base:v1\n"));
        check_said(&build(&wharf, "store", &[]), row, words);
        wharf.dockerfile("FROM busybox\nCOPY x /\n");
        let name = format!("{host}/app:v1");
        let outcome = build(&wharf, "store", &["-t", &name, "--push"]);
        check_said(&outcome, row, words);
        check_said(&outcome, row, &["cannot push"]);
    }
}

#[test]
fn a_push_is_whole_or_not_there() {
    let Some((wharf, server)) = world() else { return };
    build(&wharf, "store", &["-t", "app"]).success();
    let (post, put) = ("POST .*/uploads/", "PUT .*/uploads/");
    let (manifest, head) = ("PUT .*/manifests/", "HEAD ");
    let status = |status: u16| json!({"do": "status", "status": status});
    let rows = [
        ("hangs up", put, 1, json!({"do": "reset"}), Well),
        ("drops midway", put, 1, json!({"do": "reset", "after": 100}), Well),
        (
            "drops midway for ever",
            put,
            -1,
            json!({"do": "reset", "after": 100}),
            Saying(&["cannot push", "blob"]),
        ),
        ("is silent", put, -1, json!({"do": "silence", "seconds": 3}), Saying(&["cannot push", "time"])),
        ("403", post, -1, status(403), Saying(&["does not let us push"])),
        ("404", post, -1, status(404), Saying(&["is not in registry"])),
        ("429", post, 1, json!({"do": "status", "status": 429, "headers": {"Retry-After": "0"}}), Well),
        ("500 once", put, 1, status(500), Well),
        ("503 of HEAD once", head, 1, status(503), Well),
        ("503 for ever", put, -1, status(503), Saying(&["answered 503"])),
        ("502 of the manifest once", manifest, 1, status(502), Well),
        ("500 of the manifest for ever", manifest, -1, status(500), Saying(&["answered 500"])),
        ("413", put, -1, status(413), Saying(&["answered 413"])),
        ("a digest that it does not believe", put, -1, status(400), Saying(&["answered 400"])),
        (
            "a redirect",
            put,
            -1,
            json!({"do": "redirect", "to": "http://127.0.0.1:OTHER/PATH"}),
            Saying(&["redirects what is sent"]),
        ),
        (
            "a location that is none",
            post,
            -1,
            json!({"do": "location", "to": "http://["}),
            Saying(&["is no URL"]),
        ),
        (
            "a location of another kind",
            post,
            -1,
            json!({"do": "location", "to": "ftp://127.0.0.1/x"}),
            Saying(&["no URL of the web"]),
        ),
        (
            "a location on another host",
            post,
            -1,
            json!({"do": "location", "to": "http://127.0.0.1:OTHERPATH"}),
            Well,
        ),
    ];
    for (number, (row, on, times, action, ends)) in rows.into_iter().enumerate() {
        let repository = format!("push-{number}");
        let name = format!("{}/{repository}:v1", server.host());
        server.set(&json!([fault(on, times, action)]));
        let outcome = build(&wharf, "store", &["-t", &name, "--push"]);
        let is_tagged = server.tags().iter().any(|tag| *tag == format!("{repository}:v1"));
        match ends {
            Well => {
                outcome.success();
                assert!(is_tagged, "{row}");
            }
            Saying(words) => {
                check_said(&outcome, row, words);
                assert!(!is_tagged, "{row}: it is half pushed");
                server.set(&json!([]));
                build(&wharf, "store", &["-t", &name, "--push"]).success();
            }
        }
    }
}

#[test]
fn hostile_images_are_refused() {
    let Some((wharf, server)) = world() else { return };
    server.set(&json!([]));
    for (tag, words) in [
        ("more-ids", &["1 layers but its config names 10000"][..]),
        ("deep", &["index"]),
        ("itself", &["digest"]),
        ("giant", &["more than 4194304 bytes"]),
        ("nested", &["the manifest is not valid"]),
        ("config-short", &["bytes, expected 3"]),
        ("config-large", &["more than 8388608 bytes"]),
        ("config-nested", &["config"]),
        ("layer-large", &["bytes, expected 4611686018427387904"]),
        ("gzip-bomb", &["layer"]),
        ("zstd-bomb", &["layer"]),
        ("layer-type", &["application/x-unknown", "cannot be unpacked"]),
        ("config-type", &["helm", "not an image"]),
        ("artifact", &["not an image"]),
    ] {
        wharf.dockerfile(&format!("FROM {}/bad:{tag}\nRUN true\n", server.host()));
        let outcome = build(&wharf, "store", &["-t", "app", "-o", "type=oci,dest=out.tar"]);
        check_said(&outcome, tag, words);
        check_said(&outcome, tag, &["Dockerfile:1"]);
    }
    // Many layers are no crime.
    wharf.dockerfile(&format!("FROM {}/bad:layers\n", server.host()));
    let outcome = build(&wharf, "store", &["-t", "app"]);
    assert!(matches!(outcome.code, Some(0 | 4)), "{}", outcome.stderr);
    // The store is as good as before.
    wharf.dockerfile(&format!("FROM {}/base:v1\nRUN test -e /x\n", server.host()));
    build(&wharf, "store", &["-t", "app"]).success();
    wharf.run(&["images"]).success();
}

const BEARER: &str = "Bearer realm=\"http://127.0.0.1:OTHER/token\",service=\"it\"";

/// Docker's configuration with this in `auths`.
fn config_file(wharf: &Wharf, host: &str, entry: Value) -> String {
    let dir = wharf.path("docker");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("config.json"), json!({ "auths": { host: entry } }).to_string()).unwrap();
    dir.display().to_string()
}

#[test]
fn credentials_go_where_they_belong_and_nowhere_else() {
    let Some((wharf, server)) = world() else { return };
    let docker = config_file(&wharf, &server.host(), json!({"auth": "bWU6c2VjcmV0"}));
    let pull = |store: &str| {
        let config = wharf.path("config.toml").display().to_string();
        let output = ["--config", &config, "-t", "app", "-o", "type=oci,dest=out.tar"];
        let mut command = wharf.build_command(store, &output);
        command.env("DOCKER_CONFIG", &docker);
        Outcome::of(command)
    };
    let basic = json!({"challenge": "Basic realm=\"x\"", "accept": "Basic bWU6c2VjcmV0"});
    let bearer = json!({"challenge": BEARER, "accept": "Bearer t", "token_for": "Basic bWU6c2VjcmV0"});
    let elsewhere = json!({"do": "redirect", "to": "http://127.0.0.1:OTHERPATH"});
    for (number, auth) in [&basic, &bearer].into_iter().enumerate() {
        server.guard(auth, &json!([fault("GET .*/blobs/", -1, elsewhere.clone())]));
        pull(&format!("redirected-{number}")).success();
        let blobs: Vec<Value> =
            server.asked("/blobs/").into_iter().filter(|it| it["other"] == json!(true)).collect();
        assert!(!blobs.is_empty());
        assert!(blobs.iter().all(|it| it["authorization"].is_null()), "{blobs:?}");
    }
    // Whoever refuses whatever is shown.
    let never = json!({"challenge": "Basic realm=\"x\"", "accept": "Basic never"});
    server.guard(&never, &json!([]));
    check_said(&pull("loop"), "a 401 loop", &["does not let us", "the credentials for"]);
    assert!(server.state()["requests"].as_array().unwrap().len() <= 4);
    let never = json!({"challenge": BEARER, "accept": "Bearer t", "token_for": "Basic never"});
    server.guard(&never, &json!([]));
    check_said(&pull("token"), "a token server that refuses", &["does not let us", "incorrect username"]);
    // Token servers that lie.
    let token = |answer: Value| json!([fault("GET /token", -1, answer)]).as_array().unwrap()[0].clone();
    let body = |text: &str| json!({"do": "status", "status": 200, "body": text, "other": true});
    for (row, answer, words) in [
        ("no JSON", body("<html>"), &["token server's answer cannot be read"][..]),
        ("no token", body("{}"), &["no token"]),
        ("an empty token", body(r#"{"token":""}"#), &["no token"]),
        ("a token of lines", body(r#"{"token":"a\r\nX: y"}"#), &["no token"]),
        ("a token that is not taken", body(r#"{"token":"other"}"#), &["does not let us"]),
        ("a life below zero", body(r#"{"token":"t","expires_in":-1}"#), &["cannot be read"]),
        (
            "404",
            json!({"do": "status", "status": 404, "other": true}),
            &["there is no token server at 127.0.0.1"],
        ),
        (
            "500",
            json!({"do": "status", "status": 500, "other": true}),
            &["answered 500", "a token of 127.0.0.1"],
        ),
        ("silence", json!({"do": "silence", "seconds": 3, "other": true}), &["a token of 127.0.0.1"]),
    ] {
        server.guard(&bearer, &json!([token(answer)]));
        check_said(&pull("token"), row, words);
    }
    // A refresh token is not sent on.
    let refresh = json!({"challenge": BEARER, "accept": "Bearer t", "token_for": "x", "refresh": "r"});
    config_file(&wharf, &server.host(), json!({"identitytoken": "r"}));
    server.guard(&refresh, &json!([]));
    pull("refresh").success();
    let redirect = json!({"do": "redirect", "to": "http://127.0.0.1:OTHER/stolen", "other": true});
    server.guard(&refresh, &json!([fault("POST /token", -1, redirect)]));
    check_said(&pull("stolen"), "a token server that redirects", &["redirects what is sent"]);
    assert!(server.asked("/stolen").is_empty());
}
