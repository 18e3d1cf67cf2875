//! `--load` into a Docker that a script plays, and into a containerd whose program is one.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use crate::harness::{Outcome, Wharf, have, install_script, tool};

fn context() -> Option<Wharf> {
    let wharf = Wharf::new()?;
    wharf.file("hello", "hello\n").dockerfile("FROM scratch\nCOPY hello /\nCMD [\"/hello\"]\n");
    Some(wharf)
}

/// What one request brought: its head, and the bytes of its chunks.
struct Request {
    head: String,
    body: Vec<u8>,
    /// Whether it came to its end.
    is_whole: bool,
}

/// Answers one request. Of the body at most `patience` chunks are read before that.
fn docker(socket: &Path, patience: usize, answer: &'static str) -> JoinHandle<Request> {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = line_until(&mut stream, "\r\n\r\n");
        let mut request = Request { head, body: Vec::new(), is_whole: false };
        for _ in 0..patience {
            let size = usize::from_str_radix(line_until(&mut stream, "\r\n").trim(), 16).unwrap();
            if size == 0 {
                request.is_whole = true;
                break;
            }
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).unwrap();
            request.body.extend(&chunk[..size]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        request
    })
}

fn line_until(stream: &mut UnixStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            break;
        }
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

fn load(wharf: &Wharf, socket: &str, arguments: &[&str]) -> Outcome {
    let mut command = wharf.build_command("store", &[&["--load", "-t", "app:v1"], arguments].concat());
    command.env("DOCKER_HOST", format!("unix://{}", wharf.path(socket).display()));
    Outcome::of(command)
}

const ALL: usize = usize::MAX;

#[test]
fn an_image_is_streamed_into_docker() {
    let Some(wharf) = context() else { return };
    if !have(&["skopeo"]) {
        return;
    }
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
                  20\r\n{\"stream\":\"Loaded image: app:v1\\n\r\n3\r\n\"}\n\r\n0\r\n\r\n";
    let server = docker(&wharf.path("docker.sock"), ALL, answer);
    load(&wharf, "docker.sock", &[]).success();
    let request = server.join().unwrap();
    assert!(request.head.starts_with("POST /images/load?quiet=1 HTTP/1.1\r\n"), "{}", request.head);
    assert!(request.is_whole);
    fs::write(wharf.path("loaded.tar"), &request.body).unwrap();
    let reference = format!("docker-archive:{}:docker.io/library/app:v1", wharf.path("loaded.tar").display());
    assert!(tool("skopeo", &["inspect", "--config", &reference]).contains("/hello"));
    // It is in the store as well.
    assert!(wharf.run(&["images"]).success().text().contains("app"));
}

#[test]
fn what_docker_says_against_it_is_told() {
    let Some(wharf) = context() else { return };
    let large = (0..400_000).map(|n: u32| format!("{:x}", n.wrapping_mul(2_654_435_761))).collect::<String>();
    wharf.file("hello", &large);
    for (number, patience, answer, message) in [
        (
            1,
            ALL,
            "HTTP/1.1 200 OK\r\n\r\n{\"errorDetail\":{\"message\":\"no space left\"},\"error\":\"no space left\"}",
            "no space left",
        ),
        (2, ALL, "HTTP/1.1 500 Internal\r\n\r\n{\"message\":\"it broke\"}", "it broke"),
        // Before it has all.
        (3, 1, "HTTP/1.1 403 Forbidden\r\n\r\n{\"message\":\"not you\"}", "not you"),
        (4, 1, "", "cannot write to Docker at"),
        (5, ALL, "", "cannot read the answer of Docker at"),
        (6, ALL, "SSH-2.0-nothing\r\n\r\n", "its answer is no HTTP"),
    ] {
        let socket = format!("docker{number}.sock");
        let server = docker(&wharf.path(&socket), patience, answer);
        let failed = load(&wharf, &socket, &[]).failure();
        assert!(failed.stderr.contains(message), "{number}: {}", failed.stderr);
        server.join().unwrap();
    }
}

#[test]
fn without_an_engine_it_is_said_what_is_missing() {
    let Some(wharf) = context() else { return };
    load(&wharf, "nobody.sock", &[]).fails_with(5, &["cannot reach Docker at"]);
    load(&wharf, "nobody.sock", &["--platform=linux/amd64,linux/arm64"])
        .fails_with(2, &["`--load` takes one platform"]);
    let elsewhere = |host: &str| {
        let mut command = wharf.build_command("store", &["--load"]);
        command.env("DOCKER_HOST", host);
        Outcome::of(command)
    };
    elsewhere("tcp://docker.example:2375")
        .fails_with(5, &["through a socket on this machine", "type=docker,dest=FILE"]);
    elsewhere("ssh://docker.example").failure();

    if Path::new("/var/run/docker.sock").exists() {
        return crate::harness::skip("a Docker runs here");
    }
    let containerd = |address: &str, path: &str| {
        let mut command = wharf.build_command("store", &["--load", "-t", "app:v1"]);
        command.env_remove("DOCKER_HOST").env("CONTAINERD_ADDRESS", wharf.path(address)).env("PATH", path);
        Outcome::of(command)
    };
    containerd("nobody.sock", "/nowhere").fails_with(5, &["no Docker and no containerd runs here"]);
    let _listener = UnixListener::bind(wharf.path("containerd.sock")).unwrap();
    containerd("containerd.sock", "/nowhere").fails_with(5, &["neither `nerdctl` nor `ctr`"]);

    // A program that keeps what it is given.
    let bin = wharf.path("bin");
    fs::create_dir(&bin).unwrap();
    let program = |text: &str| install_script(&bin.join("ctr"), text);
    let path = format!("{}:/usr/bin:/bin", bin.display());
    program(&format!("#!/bin/sh\necho \"$@\" >{0}/said; cat >{0}/given.tar\n", bin.display()));
    containerd("containerd.sock", &path).success();
    let said = fs::read_to_string(bin.join("said")).unwrap();
    assert_eq!(said.trim(), format!("--address {} images import -", wharf.path("containerd.sock").display()));
    assert!(tool("tar", &["-tf", &bin.join("given.tar").display().to_string()]).contains("manifest.json"));
    program("#!/bin/sh\necho 'ctr: unpacking failed' >&2\nexit 3\n");
    containerd("containerd.sock", &path).fails_with(5, &["unpacking failed"]);
}
