//! ADD of URLs: what becomes of the answer, when it is asked for again, and what is said when there is none.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use wharf::source::HttpError;
use wharf::source::SecretLookup;
use wharf::source::http::{HttpOptions, HttpSources, UrlFile};
use wharf_cache::{Digest, Store};
use wharf_runtime::Cancel;

use crate::harness::{Outcome, Scratch, Wharf, have, tool};
use crate::registry_fixture::{Answer, Request, ScriptedRegistry};

const STEP: i32 = 1;
const DOCKERFILE: i32 = 3;
const SOURCE: i32 = 4;
const INTERRUPTED: i32 = 130;

/// A year after the beginning of 2020, as a web server says it.
const MODIFIED: &str = "Last-Modified: Fri, 01 Jan 2021 00:00:00 GMT";
const MODIFIED_S: &str = "1609459200";

/// Each entry of a tar: type, mode, owner, a file's time, name, contents or target. Read by Python.
pub(crate) fn listing(tar: &std::path::Path) -> Vec<String> {
    let script = "import sys, tarfile\n\
        t = tarfile.open(sys.argv[1])\n\
        for m in sorted(t.getmembers(), key=lambda m: m.name):\n\
        \x20   what = t.extractfile(m).read().decode() if m.isfile() else m.linkname\n\
        \x20   kind = 'file' if m.isfile() else 'dir' if m.isdir() else 'link' if m.issym() else 'other'\n\
        \x20   print(kind, '%o' % m.mode, '%d:%d' % (m.uid, m.gid), int(m.mtime) if m.isfile() else '-', m.name, repr(what))\n";
    tool("python3", &["-c", script, tar.to_str().unwrap()]).lines().map(str::to_owned).collect()
}

/// Web pages that say how old they are; what changes is put in by the test.
#[derive(Clone, Default)]
pub(crate) struct Pages(Arc<Mutex<BTreeMap<String, Page>>>);

/// Header lines and the body.
type Page = (Vec<String>, Vec<u8>);

impl Pages {
    pub(crate) fn put(&self, path: &str, headers: &[&str], body: impl Into<Vec<u8>>) -> &Self {
        let headers = headers.iter().map(|&header| header.to_owned()).collect();
        self.0.lock().unwrap().insert(path.to_owned(), (headers, body.into()));
        self
    }

    /// Serves them; a request that names what a page has (`ETag` or `Last-Modified`) is told so.
    pub(crate) fn serve(&self) -> ScriptedRegistry {
        let pages = self.clone();
        ScriptedRegistry::start(move |request, _| pages.answer(request))
    }

    fn answer(&self, request: &Request) -> Answer {
        let path = request.line.split(' ').nth(1).unwrap_or_default();
        let Some((headers, body)) = self.0.lock().unwrap().get(path).cloned() else {
            return Answer::status(404, &[]);
        };
        let has = |header: &str, asked: &str| {
            let value = headers.iter().find_map(|it| it.strip_prefix(header));
            value.is_some() && value.map(str::trim) == request.header(asked)
        };
        if has("ETag:", "if-none-match") || has("Last-Modified:", "if-modified-since") {
            let headers: Vec<&str> = headers.iter().map(|header| &**header).collect();
            return Answer::status(304, &headers);
        }
        let is_head = request.line.starts_with("HEAD ");
        Answer::Whole(200, headers, if is_head { Vec::new() } else { body })
    }
}

/// The methods and paths that were asked for since the last call.
fn asked(web: &ScriptedRegistry, seen: &mut usize) -> Vec<String> {
    let all = web.requests();
    let new = all[*seen..].iter().map(|request| request.line.clone()).collect();
    *seen = all.len();
    new
}

/// Builds `FROM scratch` and these lines, `HOST` in them replaced, and lists the files.
#[track_caller]
fn check(pages: &Pages, lines: &str, expected: &[&str]) {
    let Some(wharf) = Wharf::new() else { return };
    if !have(&["python3"]) {
        return;
    }
    let web = pages.serve();
    wharf.dockerfile(&format!("FROM scratch\n{}\n", lines.replace("HOST", &web.host())));
    wharf.build(&["-o", "type=tar,dest=out.tar"]).success();
    assert_eq!(listing(&wharf.path("out.tar")), expected, "{lines}");
}

#[test]
fn a_url_becomes_a_file() {
    let pages = Pages::default();
    pages.put("/d/a.txt", &[MODIFIED], "one").put("/none", &[], "two").put("/", &[], "three");
    pages.put("/a%20b?x=1", &["Content-Disposition: attachment; filename=other"], "four");
    let name = |rest: &str| format!("file 600 0:0 {rest}");
    check(&pages, "ADD http://HOST/d/a.txt /", &[&name(&format!("{MODIFIED_S} a.txt 'one'"))]);
    check(&pages, "ADD http://HOST/none /", &[&name("0 none 'two'")]);
    check(&pages, "ADD http://HOST/ /", &[&name("0 __unnamed__ 'three'")]);
    check(&pages, "ADD http://HOST /", &[&name("0 __unnamed__ 'three'")]);
    check(&pages, "ADD http://HOST/a%20b?x=1 /", &[&name("0 a b 'four'")]);
    check(&pages, "ADD http://HOST/none /x", &[&name("0 x 'two'")]);
    check(
        &pages,
        "WORKDIR /w\nADD --chown=1:2 --chmod=0751 http://HOST/none y/",
        &["dir 755 0:0 - w ''", "dir 751 1:2 - w/y ''", "file 751 1:2 0 w/y/none 'two'"].map(|line| line),
    );
    check(
        &pages,
        "ARG P=none\nADD http://HOST/$P http://HOST/d/a.txt /x/",
        &[
            "dir 755 0:0 - x ''",
            &format!("file 600 0:0 {MODIFIED_S} x/a.txt 'one'"),
            "file 600 0:0 0 x/none 'two'",
        ],
    );
}

/// A tar with a directory and a file, made by Python.
pub(crate) fn archive(scratch: &Scratch, mode: &str) -> Vec<u8> {
    let path = scratch.path(&format!("archive.{mode}"));
    let script = "import io, sys, tarfile\n\
        t = tarfile.open(sys.argv[1], 'w:' + sys.argv[2])\n\
        def add(name, data, kind=tarfile.REGTYPE, mtime=1000):\n\
        \x20   m = tarfile.TarInfo(name); m.size = len(data); m.type = kind; m.uid = 7; m.gid = 8\n\
        \x20   m.mode = 0o755 if kind == tarfile.DIRTYPE else 0o640; m.mtime = mtime\n\
        \x20   t.addfile(m, io.BytesIO(data))\n\
        add('d', b'', tarfile.DIRTYPE, mtime=3000)\n\
        add('d/f', b'file', mtime=2000)\n\
        add('Dockerfile', b'FROM scratch\\nCOPY d /x\\n')\n\
        t.close()\n";
    tool("python3", &["-c", script, path.to_str().unwrap(), mode]);
    fs::read(path).unwrap()
}

#[test]
fn an_archive_is_unpacked_when_asked() {
    if !have(&["python3"]) {
        return;
    }
    let scratch = Scratch::new();
    let pages = Pages::default();
    let packed = archive(&scratch, "gz");
    pages.put("/a.tgz", &[], packed.clone()).put("/text", &[], "text");
    let unpacked = [
        "file 640 0:0 1000 Dockerfile \"FROM scratch\\nCOPY d /x\\n\"",
        "dir 755 0:0 - d ''",
        "file 640 0:0 2000 d/f 'file'",
    ];
    let unpacked = unpacked.map(|line| line.replace('"', "'"));
    check(&pages, "ADD --unpack http://HOST/a.tgz /", &unpacked.each_ref().map(|line| &**line));
    check(&pages, "ADD --unpack=true http://HOST/text /", &["file 600 0:0 0 text 'text'"]);
    let Some(wharf) = Wharf::new() else { return };
    let web = pages.serve();
    wharf.dockerfile(&format!(
        "FROM scratch\nADD http://{0}/a.tgz /a\nADD --unpack=false http://{0}/a.tgz /b\n",
        web.host()
    ));
    wharf.build(&["-o", "out"]).success();
    for name in ["a", "b"] {
        assert_eq!(fs::read(wharf.path("out").join(name)).unwrap(), packed);
    }
}

#[test]
fn a_url_is_asked_for_again_only_when_it_changed() {
    let Some(wharf) = Wharf::new() else { return };
    let pages = Pages::default();
    let date = "Date: Sat, 02 Jan 2021 00:00:00 GMT";
    pages.put("/tag", &["ETag: W/\"1\""], "1").put("/date", &[MODIFIED, date], "1").put("/none", &[], "1");
    // So young that it may change again without its time showing it.
    pages.put("/young", &[MODIFIED, "Date: Fri, 01 Jan 2021 00:00:01 GMT"], "1");
    let web = pages.serve();
    let mut seen = 0;
    let build = |path: &str, ran: bool| {
        wharf.dockerfile(&format!("FROM scratch\nADD http://{}{path} /f\nCOPY f /g\n", web.host()));
        let outcome = wharf.file("f", "x").build(&["-o", "out"]).success();
        let copies = outcome.steps().that(crate::harness::Step::Ran).contains(&"COPY f /g");
        assert_eq!(copies, ran, "{path}:\n{}", outcome.stderr);
    };
    for (path, second) in [("/tag", "HEAD"), ("/date", "HEAD"), ("/none", "GET"), ("/young", "GET")] {
        // All have the same bytes.
        build(path, path == "/tag");
        assert_eq!(asked(&web, &mut seen), [format!("GET {path}")], "{path}");
        build(path, false);
        assert_eq!(asked(&web, &mut seen), [format!("{second} {path}")], "{path}");
    }
    pages.put("/tag", &["ETag: \"2\""], "2");
    build("/tag", true);
    assert_eq!(asked(&web, &mut seen), ["HEAD /tag", "GET /tag"]);
    assert_eq!(fs::read_to_string(wharf.path("out/f")).unwrap(), "2");
    // Other bytes, and then the first ones under another tag: they were built before.
    pages.put("/tag", &["ETag: \"3\""], "1");
    build("/tag", false);
    assert_eq!(fs::read_to_string(wharf.path("out/f")).unwrap(), "1");
}

#[test]
fn a_server_that_does_not_know_head_is_asked_with_get() {
    let Some(wharf) = Wharf::new() else { return };
    let web = ScriptedRegistry::start(|request, _| match request.header("if-none-match") {
        _ if request.line.starts_with("HEAD") => Answer::status(405, &[]),
        Some("\"1\"") => Answer::status(304, &[]),
        _ => Answer::Whole(200, vec!["ETag: \"1\"".to_owned()], b"one".to_vec()),
    });
    wharf.dockerfile(&format!("FROM scratch\nADD http://{}/a /\n", web.host()));
    for _ in 0..2 {
        wharf.build(&["-o", "out"]).success();
    }
    assert_eq!(asked(&web, &mut 0), ["GET /a", "HEAD /a", "GET /a"]);
    assert_eq!(fs::read_to_string(wharf.path("out/a")).unwrap(), "one");
}

#[test]
fn a_checksum_is_held_and_spares_the_network() {
    let Some(wharf) = Wharf::new() else { return };
    let pages = Pages::default();
    pages.put("/a", &[], "one");
    let web = pages.serve();
    let dockerfile = |sum: Digest| {
        wharf.dockerfile(&format!("FROM scratch\nADD --checksum={sum} http://{}/a /\n", web.host()));
    };
    dockerfile(Digest::of(b"one"));
    for _ in 0..2 {
        wharf.build(&["-o", "out"]).success();
    }
    assert_eq!(web.requests().len(), 1);
    dockerfile(Digest::of(b"two"));
    let words = ["Dockerfile:2", &Digest::of(b"one").to_string(), &Digest::of(b"two").to_string(), "hint"];
    for _ in 0..2 {
        wharf.build(&["-o", "out"]).fails_with(SOURCE, &words);
    }
    pages.put("/a", &[], "two");
    wharf.build(&["-o", "out"]).success();
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}

#[test]
fn redirects_are_followed_a_while() {
    let Some(wharf) = Wharf::new() else { return };
    let web = ScriptedRegistry::start(|request, _| match &*request.line {
        "GET /a" => Answer::status(302, &["Location: /b?c=d"]),
        "GET /b?c=d" => Answer::status(307, &["Location: c/../final"]),
        "GET /final" => Answer::ok("here"),
        "GET /loop" => Answer::status(301, &["Location: /loop"]),
        "GET /ftp" => Answer::status(301, &["Location: ftp://host/x"]),
        _ => Answer::status(301, &[]),
    });
    let dockerfile = |path: &str| {
        wharf.dockerfile(&format!("FROM scratch\nADD http://{}{path} /\n", web.host()));
    };
    dockerfile("/a");
    wharf.build(&["-o", "out"]).success();
    assert_eq!(fs::read_to_string(wharf.path("out/a")).unwrap(), "here");
    for (path, word) in [("/loop", "more than 10 redirects"), ("/ftp", "ftp://"), ("/nowhere", "location")] {
        dockerfile(path);
        wharf.build(&["-o", "out"]).fails_with(SOURCE, &["Dockerfile:2", path, word]);
    }
}

/// Builds an ADD of the page that is answered so; it must fail with these words, after so many requests.
#[track_caller]
fn check_failure(answer: Answer, requests: usize, words: &[&str]) {
    let Some(wharf) = Wharf::new() else { return };
    let web = ScriptedRegistry::with_answers(vec![answer]);
    let url = format!("http://user:pa55@{}/a?token=s3cret", web.host());
    wharf.dockerfile(&format!("FROM scratch\nADD {url} /\n"));
    let failed = wharf.build(&["-o", "out"]).fails_with(SOURCE, words);
    let error = failed.stderr.lines().find(|line| line.starts_with("ERROR")).unwrap();
    let (_, what) = error.split_once("s3cret: ").unwrap();
    assert!(!error.contains("pa55"), "{error}");
    assert!(what.contains("/a?token=") && !what.contains("pa55") && !what.contains("s3cret"), "{what}");
    assert_eq!(web.requests().len(), requests);
    assert!(!wharf.path("out").exists());
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}

#[test]
fn a_server_that_does_not_give_it_is_named() {
    // Part of a file, or none, although the whole was asked for.
    check_failure(
        Answer::Whole(206, Vec::new(), b"part".to_vec()),
        1,
        &["Dockerfile:2", "206 Partial Content"],
    );
    check_failure(Answer::status(204, &[]), 1, &["Dockerfile:2", "204 No Content"]);
    check_failure(Answer::status(404, &[]), 1, &["Dockerfile:2", "404 Not Found", "check the URL"]);
    check_failure(Answer::status(403, &[]), 1, &["403 Forbidden"]);
    check_failure(Answer::status(500, &[]), 3, &["500 Internal Server Error", "try again later"]);
    check_failure(Answer::Cut(1000, b"abc".to_vec()), 3, &["broke off"]);
    check_failure(
        Answer::Whole(200, vec![format!("Content-Length: {}", 1u64 << 40)], Vec::new()),
        1,
        &["more than"],
    );
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\nADD http://127.0.0.1:1/a /\n");
    wharf.build(&[]).fails_with(SOURCE, &["Dockerfile:2", "http://127.0.0.1:1/a", "refused", "hint"]);
    wharf.dockerfile("FROM scratch\nADD http://[::1/a /\n");
    wharf.build(&[]).fails_with(DOCKERFILE, &["Dockerfile:2:5", "not a URL"]);
    wharf.dockerfile("FROM scratch AS a\nRUN x\nFROM a\nADD Dockerfile http://h:99999/x /\n");
    wharf.build(&[]).fails_with(DOCKERFILE, &["Dockerfile:4:16", "not a URL: invalid port number"]);
    wharf.dockerfile(&format!("FROM scratch\nADD http://127.0.0.1:1/{} /\n", "x".repeat(300)));
    wharf.build(&[]).failure();
}

#[test]
fn a_download_can_be_stopped() {
    let Some(wharf) = Wharf::new() else { return };
    for answer in [Answer::Stalled(1 << 20, vec![b'x'; 1000]), Answer::Endless] {
        let web = ScriptedRegistry::with_answers(vec![answer]);
        wharf.dockerfile(&format!("FROM scratch\nADD http://{}/a /\n", web.host()));
        let mut command = wharf.build_command("store", &[]);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let started = lines.any(|line| line.unwrap().contains(" http://"));
        assert!(started);
        crate::harness::wait_until("the request came", || !web.requests().is_empty());
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        let output = child.wait_with_output().unwrap();
        let outcome = Outcome::from_output(&command, output);
        assert_eq!(outcome.code, Some(INTERRUPTED), "{rest:?}");
        assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
    }
}

#[test]
fn copy_of_a_url_is_refused() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\nCOPY http://127.0.0.1:1/a /\n");
    wharf.build(&[]).fails_with(3, &["Dockerfile:2", "use ADD"]);
    wharf.dockerfile("FROM scratch\nADD --checksum=md5:1 http://127.0.0.1:1/a /\n");
    wharf.build(&[]).fails_with(3, &["Dockerfile:2", "sha256"]);
    wharf.file("f", "x").dockerfile(&format!("FROM scratch\nADD --checksum={} f /\n", Digest::of(b"x")));
    wharf.build(&[]).fails_with(3, &["Dockerfile:2", "checksum"]);
    wharf.dockerfile("FROM scratch\nADD --chmod=999 http://127.0.0.1:1/a /\n");
    assert!(![0, STEP].contains(&wharf.build(&[]).failure().code.unwrap()));
}

/// A store of its own, and URLs with these secrets.
fn sources(scratch: &Scratch, secrets: &'static [(&str, &str)]) -> (Store, HttpSources) {
    let store = Store::open(&scratch.path("store")).unwrap();
    let lookup: SecretLookup = Arc::new(|id: &str| {
        let found = secrets.iter().find(|(known, _)| *known == id);
        Ok(found.map(|(_, value)| value.as_bytes().to_vec()))
    });
    let options = HttpOptions {
        silence_max: Duration::from_millis(300),
        retry_delay: Duration::ZERO,
        ..HttpOptions::default()
    };
    let http = HttpSources::new(store.clone(), Cancel::new().unwrap(), lookup, options);
    (store, http)
}

#[test]
fn secrets_go_to_their_host_alone() {
    let other = ScriptedRegistry::with_answers(vec![Answer::ok("there")]);
    let away = format!("Location: http://{}/x", other.host());
    let web = ScriptedRegistry::start(move |request, _| match &*request.line {
        "GET /away" => Answer::status(302, &[&away]),
        "GET /near" => Answer::status(302, &["Location: /x"]),
        _ => Answer::ok("here"),
    });
    let check =
        |secrets: &'static [(&str, &str)], path: &str, expected: &[Option<&str>], elsewhere: usize| {
            let scratch = Scratch::new();
            let (_, http) = sources(&scratch, secrets);
            let before = (web.requests().len(), other.requests().len());
            let file = UrlFile::new(&format!("http://{}{path}", web.host())).unwrap();
            http.fetch(&file, &|_, _| {}).unwrap();
            let requests = web.requests();
            let sent: Vec<_> =
                requests[before.0..].iter().map(|request| request.header("authorization")).collect();
            assert_eq!(sent, expected, "{path}");
            let there = other.requests();
            assert_eq!(there.len() - before.1, elsewhere);
            assert!(there.iter().all(|request| request.header("authorization").is_none()));
        };
    let token = "HTTP_AUTH_TOKEN_127.0.0.1";
    let header = "HTTP_AUTH_HEADER_127.0.0.1";
    const TOKEN: &[(&str, &str)] = &[("HTTP_AUTH_TOKEN_127.0.0.1", "t\n")];
    const HEADER: &[(&str, &str)] = &[("HTTP_AUTH_HEADER_127.0.0.1", "Basic x")];
    const BOTH: &[(&str, &str)] =
        &[("HTTP_AUTH_HEADER_127.0.0.1", "Basic x"), ("HTTP_AUTH_TOKEN_127.0.0.1", "t")];
    const FOREIGN: &[(&str, &str)] = &[("HTTP_AUTH_TOKEN_example.com", "t")];
    assert_eq!((TOKEN[0].0, HEADER[0].0), (token, header));
    check(TOKEN, "/x", &[Some("Bearer t")], 0);
    check(HEADER, "/x", &[Some("Basic x")], 0);
    check(BOTH, "/x", &[Some("Bearer t")], 0);
    check(FOREIGN, "/x", &[None], 0);
    check(TOKEN, "/near", &[Some("Bearer t"), Some("Bearer t")], 0);
    check(TOKEN, "/away", &[Some("Bearer t")], 1);

    let scratch = Scratch::new();
    let (_, http) = sources(&scratch, &[("HTTP_AUTH_TOKEN_127.0.0.1", "a\nb")]);
    let file = UrlFile::new(&format!("http://{}/x", web.host())).unwrap();
    assert!(matches!(http.fetch(&file, &|_, _| {}), Err(HttpError::Secret { .. })));
}

#[test]
fn silence_and_too_much_are_errors() {
    let check = |answer: Answer, expected: &str| {
        let scratch = Scratch::new();
        let (_, http) = sources(&scratch, &[]);
        let web = ScriptedRegistry::with_answers(vec![answer]);
        let file = UrlFile::new(&format!("http://{}/x", web.host())).unwrap().at_most(1 << 20);
        let error = http.fetch(&file, &|_, _| {}).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        let snapshots = fs::read_dir(scratch.path("store/snapshots")).unwrap().count();
        assert_eq!(snapshots, 0);
    };
    check(Answer::Stalled(10, b"x".to_vec()), "broke off");
    check(Answer::Endless, "more than 1048576 bytes");
    check(Answer::Whole(200, Vec::new(), vec![b'x'; (1 << 20) + 1]), "more than 1048576 bytes");
}

#[test]
fn the_time_of_a_url_is_the_servers_or_the_newest_files() {
    if !have(&["python3"]) {
        return;
    }
    let scratch = Scratch::new();
    let pages = Pages::default();
    pages.put("/a.tar", &[], archive(&scratch, "")).put("/f", &[MODIFIED], "x").put("/n", &[], "x");
    pages.put("/b.tar", &[MODIFIED], archive(&scratch, ""));
    let web = pages.serve();
    for (path, expected) in
        [("/a.tar", Some(2000)), ("/b.tar", Some(1_609_459_200)), ("/f", Some(1_609_459_200)), ("/n", None)]
    {
        let scratch = Scratch::new();
        let (_, http) = sources(&scratch, &[]);
        let file = UrlFile::new(&format!("http://{}{path}", web.host())).unwrap();
        assert_eq!(http.modified_s(&file, &|_, _| {}).unwrap(), expected);
    }
}
