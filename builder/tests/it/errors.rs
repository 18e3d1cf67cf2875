//! What goes wrong is said clearly, leaves nothing half done, and the next build works.

use std::fs;

use crate::harness::{Step, Wharf, busybox_layout};

const STEP: i32 = 1;
const USAGE: i32 = 2;
const DOCKERFILE: i32 = 3;
const SOURCE: i32 = 4;

/// Builds `dockerfile`, which must end with the status `code` and all of `words` in what it says, and a good one after
/// it.
#[track_caller]
fn check(dockerfile: &str, arguments: &[&str], code: i32, words: &[&str]) {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("here", "x").dockerfile(dockerfile);
    let mut all = vec!["-t", "app", "-o", "type=oci,dest=out.tar"];
    all.extend(arguments);
    wharf.build(&all).fails_with(code, words);
    let entries = fs::read_dir(wharf.path("")).unwrap();
    let mut left: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.retain(|name| name != "context" && name != "store");
    assert!(left.is_empty(), "left behind: {left:?}");

    wharf.dockerfile("FROM busybox\nCOPY here /\nRUN test -e /here\n").build(&["-t", "app"]).success();
}

#[test]
fn an_unknown_instruction_is_named_with_its_line() {
    check("FROM busybox\nRUN true\nCOYP here /\n", &[], DOCKERFILE, &["Dockerfile:3", "COYP", "COPY"]);
}

#[test]
fn every_error_is_shown_at_once() {
    check(
        "FROM busybox\nCOYP here /\nRUM true\nCOPY here\nENV\nEXPOSE 80\nWORKDIR /a /b\n",
        &[],
        DOCKERFILE,
        &["Dockerfile:2", "did you mean", "Dockerfile:3", "Dockerfile:4", "Dockerfile:5", "errors"],
    );
}

#[test]
fn a_dockerfile_without_a_stage_is_refused() {
    for dockerfile in ["", "# nothing\n", "RUN true\n", "ARG A=1\n"] {
        check(dockerfile, &[], DOCKERFILE, &["Dockerfile"]);
    }
}

#[test]
fn a_missing_file_is_named() {
    check("FROM busybox\nCOPY nowhere /\n", &[], STEP, &["Dockerfile:2", "nowhere", "not found"]);
}

#[test]
fn what_no_layer_can_hold_is_shown_where_it_was_copied() {
    for copy in ["COPY here /.wh.here", "COPY --link here /.wh.here", "RUN cp /bin/busybox /.wh.here"] {
        let dockerfile = format!("FROM busybox\n{copy}\nRUN true\n");
        check(&dockerfile, &[], STEP, &["Dockerfile:2", copy, "^^^", "begin with `.wh.`"]);
    }
}

#[test]
fn a_file_outside_the_context_is_not_there() {
    check("FROM busybox\nCOPY ../../../../etc/hostname /\n", &[], STEP, &["Dockerfile:2", "not found"]);
}

#[test]
fn a_missing_stage_is_named() {
    check(
        "FROM busybox AS build\nFROM busybox\nCOPY --from=127.0.0.1:1/biuld /x /\n",
        &[],
        SOURCE,
        &["biuld"],
    );
    check("FROM busybox AS build\n", &["--target", "biuld"], USAGE, &["biuld", "build"]);
    check("FROM busybox\nFROM busybox\n", &["--target", "0"], USAGE, &["no number"]);
}

#[test]
fn an_unreachable_registry_is_named() {
    // Nothing listens on port 1 of the loopback interface.
    check("FROM 127.0.0.1:1/team/app:v1\n", &[], SOURCE, &["Dockerfile:1", "127.0.0.1:1/team/app:v1"]);
}

#[test]
fn a_failing_step_shows_its_output_command_and_status() {
    check(
        "FROM busybox\nRUN true\nRUN echo before the end; exit 42\n",
        &[],
        STEP,
        &["before the end", "Dockerfile:3", "3 | RUN echo", "^^^^", "exit code: 42"],
    );
}

#[test]
fn a_failed_step_is_not_remembered() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\nRUN echo good\nRUN false\n");
    for _ in 0..2 {
        assert_eq!(wharf.build(&[]).failure().steps().that(Step::Failed), ["RUN false"]);
    }
}

#[test]
fn wrong_usage_is_refused_before_anything_runs() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\nRUN false\n");
    for (arguments, word) in [
        (&["-o", "type=locl,dest=x"][..], "did you mean `local`"),
        (&["-o", "type=oci,dst=x"], "did you mean `dest`"),
        (&["--no-such-flag"], "--no-such-flag"),
        (&["-f", "Nofile"], "Nofile"),
        (&["-t", "UPPER CASE"], "UPPER CASE"),
    ] {
        let failed = wharf.build(arguments).fails_with(USAGE, &[word]);
        assert_eq!(failed.steps().that(Step::Failed), Vec::<&str>::new());
    }
}

#[test]
fn flags_that_mean_nothing_are_refused() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\n");
    for (arguments, words) in [
        (&["--build-arg", ""][..], &["--build-arg", "no name"][..]),
        (&["--build-arg", "=x"], &["--build-arg `=x`", "no name"]),
        (&["--label", ""], &["--label", "no name"]),
        (&["--label", "=x"], &["--label `=x`", "no name"]),
        (&["--insecure-registry", "a b/c"], &["`a b/c`", "HOST[:PORT]"]),
        (&["--insecure-registry", ""], &["HOST[:PORT]"]),
        (&["--insecure-registry", "http://h"], &["`http://h`"]),
        (&["--insecure-registry", "h:x"], &["`h:x`"]),
        (&["--insecure-registry", "h:0"], &["`h:0`"]),
        (&["--insecure-registry", "[::1"], &["`[::1`"]),
        (&["--call=build,format=json"], &["`build`", "alone"]),
        (&["--call=build,ignorestatus=true"], &["`build`", "alone"]),
        (&["--allow", "network"], &["--allow network", "network.host", "security.insecure"]),
        (&["--network", "bridge"], &["--network", "bridge", "default, none, host"]),
        (&["--ulimit", "nofile"], &["--ulimit nofile", "NAME=SOFT[:HARD]"]),
        (&["--ulimit", "files=1"], &["--ulimit files=1", "nofile"]),
        (&["--shm-size", "big"], &["--shm-size big", "128m"]),
        (&["--add-host", "h"], &["--add-host h", "NAME:ADDRESS"]),
        (&["--add-host", "h:x"], &["--add-host h:x", "`x` is no IP address", "NAME:ADDRESS"]),
        (&["-o", "/"], &["--output /", "root directory"]),
        (&["-o", "type=local,dest=/tmp/.."], &["dest=/tmp/..", "root directory"]),
    ] {
        wharf.build(arguments).fails_with(USAGE, words);
    }
    for host in ["registry.example", "h:5000", "[::1]:5000", "10.0.0.1"] {
        wharf.build(&["--insecure-registry", host]).success();
    }
}

#[test]
fn outputs_over_each_other_are_refused() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.file("here", "x").dockerfile("FROM scratch\nCOPY here /\n");
    fs::create_dir(wharf.path("dir")).unwrap();
    std::os::unix::fs::symlink("dir", wharf.path("link")).unwrap();
    for (arguments, words) in [
        (
            &["--iidfile", "a", "--metadata-file", "./a"][..],
            &["`--iidfile a`", "`--metadata-file ./a`", "over each other"][..],
        ),
        (&["-o", "dir", "-o", "type=local,dest=link/"], &["`--output dir`", "dest=link/`"]),
        (
            &["-o", "type=tar,dest=x", "-o", "type=oci,dest=dir/../x"],
            &["`--output type=tar,dest=x`", "type=oci"],
        ),
        (&["-o", "-", "-o", "type=docker"], &["`--output -`", "`--output type=docker`"]),
        (&["-o", "type=oci,dest=x", "--iidfile", "x"], &["`--iidfile x`", "type=oci,dest=x"]),
    ] {
        wharf.build(arguments).fails_with(USAGE, words);
    }
    wharf.build(&["--iidfile", "/dev/null", "--metadata-file", "/dev/null"]).success();
    wharf.build(&["-o", "type=tar,dest=x", "-o", "type=oci,dest=y", "--iidfile", "z", "-o", "dir"]).success();
}

#[test]
fn where_nothing_is_built_the_flags_of_a_build_are_named() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM scratch\n");
    let flags = ["-t", "a", "-o", "type=image", "--push", "--iidfile", "i", "--metadata-file", "m"];
    for call in ["--check", "--call=targets"] {
        let outcome = wharf.build(&[&flags[..], &[call]].concat()).success();
        let note = "note: nothing is built, so there is no effect of --iidfile, --metadata-file, --output, --push, \
                    --tag\n";
        assert_eq!(outcome.stderr, note);
        assert!(!["i", "m"].iter().any(|name| wharf.path(name).exists()));
    }
}
