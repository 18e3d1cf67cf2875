//! The fault script: registries that fail, lie and mean no good, each as one row, through the binary.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use serde_json::{Value, json};

use crate::fault_fixture::FaultServer;
use crate::fault_rows::Ends::{Saying, Well};
use crate::fault_rows::{Row, fault, reading, writing};
use crate::harness::{Outcome, Wharf, busybox_layout};

/// Short limits, so that a row does not wait long.
pub(crate) const LIMITS: &str = "[transfers]\nconnect-timeout = '500ms'\nread-timeout = '700ms'\n";

/// A server that has the image `base:v1`, and a context whose image is made of it.
pub(crate) fn world() -> Option<(Wharf, FaultServer)> {
    let (_, wharf, server) = (busybox_layout()?, Wharf::new()?, FaultServer::start()?);
    fs::write(wharf.path("config.toml"), LIMITS).unwrap();
    wharf.file("x", "x").dockerfile("FROM busybox\nCOPY x /\n");
    let base = format!("{}/base:v1", server.host());
    build(&wharf, "first", &["-t", &base, "--push"]).success();
    wharf.dockerfile(&format!("FROM {base}\nCOPY x /y\n"));
    Some((wharf, server))
}

pub(crate) fn build(wharf: &Wharf, store: &str, arguments: &[&str]) -> Outcome {
    let config = wharf.path("config.toml").display().to_string();
    let mut all = vec!["--config", &config];
    all.extend(arguments);
    wharf.build_in(store, &all)
}

/// It ended with the status of a source, and said once what went wrong.
#[track_caller]
pub(crate) fn check_said(outcome: &Outcome, row: &str, words: &[&str]) {
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

#[test]
fn a_pull_survives_what_passes_and_names_what_does_not() {
    let Some((wharf, server)) = world() else { return };
    for (number, Row { name: row, faults, ends }) in reading().into_iter().enumerate() {
        let store = format!("pull-{number}");
        server.set(&faults);
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
    for (number, Row { name: row, faults, ends }) in writing().into_iter().enumerate() {
        let repository = format!("push-{number}");
        let name = format!("{}/{repository}:v1", server.host());
        server.set(&faults);
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
        ("layers", &["10000 layers", "more than 1000 layers"]),
        ("size-negative", &["the manifest is not valid", "-2"]),
        ("size-float", &["the manifest is not valid", "2.0"]),
        ("size-large", &["the manifest is not valid"]),
        ("size-text", &["the manifest is not valid"]),
        ("twice", &["the manifest is not valid", "duplicate field `layers`"]),
        ("no-config", &["not an image"]),
        ("no-layers", &["not an image"]),
        ("both", &["both layers and manifests"]),
        ("no-digest", &["the manifest is not valid", "digest"]),
        ("other-digest", &["the manifest is not valid"]),
        ("config-text", &["config"]),
        ("config-list", &["config"]),
        ("diff-id", &["diffID"]),
        ("no-manifests", &["no image for"]),
        ("schema-1", &["schema 1"]),
        ("list", &["the manifest is not valid: it is no JSON object"]),
        ("config-word", &["the manifest is not valid", "expected a descriptor"]),
    ] {
        wharf.dockerfile(&format!("FROM {}/bad:{tag}\nRUN true\n", server.host()));
        let outcome = build(&wharf, "store", &["-t", "app", "-o", "type=oci,dest=out.tar"]);
        check_said(&outcome, tag, words);
        check_said(&outcome, tag, &["Dockerfile:1"]);
    }
    // The store is as good as before.
    wharf.dockerfile(&format!("FROM {}/base:v1\nRUN test -e /x\n", server.host()));
    build(&wharf, "store", &["-t", "app"]).success();
    wharf.run(&["images"]).success();
}

/// Whatever takes it out of the store: an image whose config lies is no fault of the machine.
#[test]
fn who_meets_a_lie_about_layers_says_the_same() {
    let Some((wharf, server)) = world() else { return };
    let name = format!("{}/bad:diff-id", server.host());
    wharf.run(&["pull", "-q", &name]).success();
    wharf.run(&["export", "-q", "-o", "out.tar", &name]).fails_with(4, &["diffID"]);
    wharf.run(&["run", "--rm", &name, "true"]).fails_with(125, &["diffID", "cannot unpack the layers"]);
}

/// A repository that has nothing that could be pulled is told from one that has nothing.
#[test]
fn tags_that_are_none_are_told() {
    let Some((wharf, server)) = world() else { return };
    let tags = |tags: Value| {
        let body = json!({"name": "base", "tags": tags}).to_string();
        server.set(&json!([fault("GET .*/tags/", -1, json!({"do": "status", "status": 200, "body": body}))]));
        wharf.run(&["pull", "-q", "-a", &format!("{}/base", server.host())])
    };
    tags(json!(["a b", "-x", ""])).fails_with(4, &["none of the 3 tags that it lists is one", "`a b`"]);
    tags(json!([])).fails_with(4, &["has no tags"]);
    tags(json!(null)).fails_with(4, &["has no tags"]);
    tags(json!(["v1", "a b"])).success();
}

/// What unpacks to much is read as it comes.
#[test]
fn what_unpacks_to_much_takes_little() {
    let Some((wharf, server)) = world() else { return };
    for (tag, ends_well) in [("gzip-zeros", true), ("gzip-bomb", false), ("zstd-bomb", false)] {
        let name = format!("{}/bad:{tag}", server.host());
        // What is said of a layer's files is looked at when it is unpacked.
        let out = wharf.path(tag).with_extension("tar").display().to_string();
        for (arguments, ends_well) in
            [(vec!["pull", "-q", &name], true), (vec!["export", "-q", "-o", &out, &name], ends_well)]
        {
            let (code, peak) = peak_of(&wharf.command(tag, &arguments));
            assert_eq!(code == 0, ends_well, "{tag} {arguments:?}: {code}");
            assert!(peak < 150 << 20, "{tag} {arguments:?}: {peak} bytes");
        }
    }
}

/// How a command ends, and the most memory that it had.
fn peak_of(command: &Command) -> (i32, u64) {
    let script = "import resource, subprocess, sys\n\
                  code = subprocess.run(sys.argv[1:], capture_output=True).returncode\n\
                  print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let mut python = Command::new("python3");
    python.arg("-c").arg(script).arg(command.get_program()).args(command.get_args());
    let output = python.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (code, kib) = text.trim().split_once(' ').unwrap();
    (code.parse().unwrap(), kib.parse::<u64>().unwrap() << 10)
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
        (
            "a token of 10 MB",
            body(&format!(r#"{{"token":"{}"}}"#, "t".repeat(10 << 20))),
            &["cannot be read"],
        ),
        ("a token that is a number", body(r#"{"token":1}"#), &["cannot be read"]),
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
    // One that sends us in circles, and one that is none.
    let redirect = json!({"do": "redirect", "to": "PATH", "other": true});
    server.guard(&bearer, &json!([fault("GET /token", -1, redirect)]));
    check_said(&pull("token"), "a token server that redirects to itself", &["more than 10 redirects"]);
    for (row, realm, words) in [
        ("a realm that is no URL", "Bearer realm=\"none\"", &["does not let us"][..]),
        ("a realm of another kind", "Bearer realm=\"ftp://127.0.0.1/x\"", &["token server", "HTTPS"]),
        (
            "a realm that is a file",
            "Bearer realm=\"file:///etc/passwd\"",
            &["`file:///etc/passwd`, has no host"],
        ),
        (
            "a realm that is an address",
            "Bearer realm=\"mailto:a@b\"",
            &["token server, `mailto:a@b`, has no host"],
        ),
        ("a realm without a host", "Bearer realm=\"http:///\"", &["does not let us"]),
        ("a challenge of nobody", "Negotiate", &["does not let us"]),
        ("a realm that nobody answers", "Bearer realm=\"http://127.0.0.1:1/\"", &["cannot reach"]),
    ] {
        let auth = json!({"challenge": realm, "accept": "Bearer t", "token_for": "Basic bWU6c2VjcmV0"});
        server.guard(&auth, &json!([]));
        check_said(&pull("token"), row, words);
    }
    // Tokens that end in the middle of things: another one is got.
    let short = json!({"challenge": BEARER, "accept": "Bearer t", "token_for": "Basic bWU6c2VjcmV0", "ends_before": "PUT .*/uploads/"});
    server.guard(&short, &json!([]));
    pull("short").success();
    let name = format!("{}/short:v1", server.host());
    let config = wharf.path("config.toml").display().to_string();
    let mut command = wharf.build_command("short", &["--config", &config, "-t", &name, "--push"]);
    command.env("DOCKER_CONFIG", &docker);
    Outcome::of(command).success();
    assert!(server.asked("/v2/short/").iter().any(|it| it["authorization"] == "Bearer tx"));
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
