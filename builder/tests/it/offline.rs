//! `--offline`: nobody is asked; what names stood for last, they stand for.

use std::fs;

use crate::add_url::Pages;
use crate::git_fixture::GitServer;
use crate::harness::{Registry, Wharf, busybox_layout};

const USAGE: i32 = 2;
const SOURCE: i32 = 4;

/// What `/said` says in the image `app`.
#[track_caller]
fn said(wharf: &Wharf, store: &str) -> String {
    wharf.run_in(store, &["run", "--rm", "app", "cat", "/said"]).success().text()
}

#[test]
fn an_image_is_what_it_was_pinned_to() {
    let (Some(_), Some(wharf), Some(registry)) = (busybox_layout(), Wharf::new(), Registry::start()) else {
        return;
    };
    let base = format!("{}/base:v1", registry.address);
    let push = |text: &str| {
        let dockerfile = format!("FROM busybox\nRUN echo {text} >/base\n");
        wharf.dockerfile(&dockerfile).build(&["-t", &base, "--push"]).success();
    };
    push("one");
    wharf.dockerfile(&format!("FROM {base}\nRUN cat /base >/said\n"));
    wharf
        .build_in("other", &["--offline", "-t", "app"])
        .fails_with(SOURCE, &["Dockerfile:1", &base, "the build is offline", "without `--offline`"]);
    wharf.build_in("other", &["-t", "app"]).success();
    push("two");
    wharf.dockerfile(&format!("FROM {base}\nRUN cat /base >/said; echo more >>/said\n"));
    registry.log();
    wharf.build_in("other", &["--offline", "-t", "app"]).success();
    assert_eq!(said(&wharf, "other"), "one\nmore\n");
    let log = registry.log();
    assert!(!log.contains("/v2/base"), "{log}");

    // It is still what it was when nothing is said, and the new one from when that is asked for.
    wharf.build_in("other", &["-t", "app"]).success().steps().check_ran(&[]);
    let step = "RUN cat /base >/said; echo more >>/said";
    wharf.build_in("other", &["--pull", "-t", "app"]).success().steps().check_ran(&[step]);
    assert_eq!(said(&wharf, "other"), "two\nmore\n");
    wharf.build_in("other", &["--pull", "-t", "app"]).success().steps().check_ran(&[]);
    wharf.build_in("other", &["--offline", "-t", "app"]).success().steps().check_ran(&[]);
    assert_eq!(said(&wharf, "other"), "two\nmore\n");
}

#[test]
fn layers_that_are_not_here_are_not_fetched() {
    let (Some(_), Some(wharf), Some(registry)) = (busybox_layout(), Wharf::new(), Registry::start()) else {
        return;
    };
    let base = format!("{}/base:v1", registry.address);
    wharf.dockerfile("FROM busybox\nCMD [\"true\"]\n").build(&["-t", &base, "--push"]).success();
    // Its config is known from then on, and none of its files.
    wharf.dockerfile(&format!("FROM {base} AS unused\nFROM {base}\n"));
    wharf.build_in("other", &["--call=outline", "--pull"]).success();
    wharf.dockerfile(&format!("FROM {base}\nRUN true\n"));
    wharf.build_in("other", &["--offline"]).fails_with(SOURCE, &["cannot unpack", "the build is offline"]);
}

#[test]
fn a_url_gives_what_it_gave() {
    let Some(wharf) = Wharf::new() else { return };
    let pages = Pages::default();
    pages.put("/f", &["ETag: \"1\""], "one").put("/new", &[], "x");
    let web = pages.serve();
    wharf.dockerfile(&format!("FROM scratch\nADD http://{}/f /f\n", web.host()));
    let built = |arguments: &[&str]| {
        wharf.build(&[arguments, &["-o", "out"]].concat()).success();
        fs::read_to_string(wharf.path("out/f")).unwrap()
    };
    assert_eq!(built(&[]), "one");
    pages.put("/f", &["ETag: \"2\""], "two");
    let before = web.requests().len();
    assert_eq!(built(&["--offline"]), "one");
    assert_eq!(built(&["--offline", "--no-cache"]), "one");
    assert_eq!(web.requests().len(), before);
    assert_eq!(built(&[]), "two");
    assert_eq!(built(&["--offline"]), "two");
    wharf.dockerfile(&format!("FROM scratch\nADD http://{}/new /f\n", web.host()));
    wharf.build(&["--offline"]).fails_with(SOURCE, &["/new was never downloaded", "without `--offline`"]);
}

#[test]
fn a_branch_is_the_commit_that_it_was() {
    let (Some(wharf), Some(server)) = (Wharf::new(), GitServer::start()) else { return };
    server.sh("git init -q -b main r.git; cd r.git; echo one >f; git add .; git commit -qm one");
    let url = server.url("smart/r.git/.git");
    let built = |source: &str, arguments: &[&str]| {
        wharf.dockerfile(&format!("FROM scratch\nADD {source} /\n"));
        wharf.build(&[arguments, &["-o", "out"]].concat()).success();
        fs::read_to_string(wharf.path("out/f")).unwrap()
    };
    let branch = format!("{url}#main");
    assert_eq!(built(&branch, &[]), "one\n");
    server.sh("cd r.git; echo two >f; git commit -qam two");
    let second = server.sh("git -C r.git rev-parse HEAD");
    server.requests();
    assert_eq!(built(&branch, &["--offline"]), "one\n");
    // Here, but not checked out like this.
    let deep = built(
        &format!("--keep-git-dir=true {url}#{}", server.sh("git -C r.git rev-parse HEAD~")),
        &["--offline"],
    );
    assert_eq!(deep, "one\n");
    for (source, words) in
        [(format!("{url}#other"), "what commit other"), (format!("{url}#{second}"), "cannot fetch from")]
    {
        wharf.dockerfile(&format!("FROM scratch\nADD {source} /\n"));
        wharf
            .build(&["--offline"])
            .fails_with(SOURCE, &[words, "the build is offline", "without `--offline`"]);
    }
    assert_eq!(server.requests(), Vec::<String>::new());
    assert_eq!(built(&branch, &[]), "two\n");
    assert_eq!(built(&branch, &["--offline"]), "two\n");
}

#[test]
fn what_needs_the_network_is_refused_at_once() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    wharf.build(&["--offline", "--pull"]).fails_with(USAGE, &["--pull"]);
    wharf.build(&["--offline", "--push", "-t", "x"]).fails_with(USAGE, &["--push"]);
    let pushed = wharf.build(&["--offline", "-o", "type=image,name=127.0.0.1:9/x,push=true"]);
    pushed.fails_with(USAGE, &["--offline", "is to be pushed"]);
    wharf.build(&["--offline"]).success();
}
