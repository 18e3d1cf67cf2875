//! `--check`, `--call`, and what a build says of warnings.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{Outcome, Scratch, Wharf, busybox_layout};

const WARNINGS: i32 = 1;
const USAGE: i32 = 2;
const DOCKERFILE: i32 = 3;
const SOURCE: i32 = 4;

/// Asks without any store to be had, and without being root having to do with it.
#[track_caller]
fn ask(dockerfile: &str, arguments: &[&str]) -> Outcome {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("context")).unwrap();
    fs::write(scratch.path("context/Dockerfile"), dockerfile).unwrap();
    fs::write(scratch.path("context/.dockerignore"), "secret\n").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.arg("--root").arg(scratch.path("store")).arg("build").args(arguments).arg("context");
    command.current_dir(scratch.path("")).stdin(std::process::Stdio::null());
    let outcome = Outcome::of(command);
    assert!(!scratch.path("store").exists(), "a store was made");
    outcome
}

#[test]
fn warnings_alone_end_with_status_1() {
    let outcome = ask("FROM debian as a\nMAINTAINER me\nCOPY secret /\n", &["--check"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(WARNINGS), ""));
    let text = outcome.text();
    for words in [
        "warning[FromAsCasing]",
        "context/Dockerfile:1:13",
        "MaintainerDeprecated",
        "CopyIgnoredFile",
        "\nCheck complete, 3 warnings",
    ] {
        assert!(text.contains(words), "`{words}` is not in:\n{text}");
    }
    let outcome = ask("FROM debian as a\n", &["--call=check,ignorestatus=true"]).success();
    assert!(outcome.text().ends_with("Check complete, 1 warning has been found!\n"));
}

#[test]
fn a_clean_file_ends_with_status_0() {
    let outcome = ask("# check=error=true\nFROM debian AS a\nUSER $perhaps\n", &["--check"]).success();
    assert_eq!(outcome.text(), "Check complete, no warnings found.\n");
}

#[test]
fn what_prevents_the_build_ends_with_status_3() {
    let outcome = ask("FROM scratch as a\nCOYP a b\n", &["--check"]);
    assert!(outcome.text().contains("FromAsCasing"));
    outcome.fails_with(DOCKERFILE, &["Dockerfile:2:1", "COYP", "did you mean COPY?"]);
    ask("# check=error=true\nFROM scratch as a\n", &["--check"])
        .fails_with(DOCKERFILE, &["lint violation found for rules: FromAsCasing"]);
    ask("# check=error=maybe\nFROM scratch\n", &["--check"])
        .fails_with(DOCKERFILE, &["maybe", "Dockerfile:1:15"]);
}

#[test]
fn a_target_that_is_not_there_is_a_mistake_of_the_command() {
    ask("FROM scratch\n", &["--check", "--target=x"]).fails_with(USAGE, &["\"x\" could not be found"]);
}

#[test]
fn without_a_target_every_stage_is_checked() {
    let text = "FROM debian AS a\nMAINTAINER me\nWORKDIR a\nFROM debian AS b\nWORKDIR b\n";
    let found = |arguments: &[&str]| ask(text, arguments).text().matches("WorkdirRelativePath").count();
    assert_eq!((found(&["--check"]), found(&["--check", "--target=b"])), (2, 1));
}

#[test]
fn what_nobody_reads_is_counted() {
    let text = "FROM debian\n".to_owned() + &"MAINTAINER me\nCMD me\n".repeat(20_000);
    let outcome = ask(&text, &["--check"]);
    assert_eq!(outcome.text().matches("\nwarning[").count(), 999);
    assert!(outcome.text().ends_with(
        "\nwarning: 58999 more warnings are not shown\n\nCheck complete, 59999 warnings have been found!\n"
    ));
    let json = ask(&text, &["--call=check,format=json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["warnings"].as_array().unwrap().len(), 59_999);
}

#[test]
fn json_is_for_programs() {
    let outcome = ask("FROM debian as a\nRUM x\n", &["--call=check,format=json", "--build-arg=X=1"]);
    let json: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(json["warnings"][0]["ruleName"], "FromAsCasing");
    assert_eq!(
        json["warnings"][0]["location"]["ranges"][0],
        serde_json::json!({"start": {"line": 1, "character": 12}, "end": {"line": 1, "character": 14}})
    );
    assert_eq!(json["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(json["sources"][0]["filename"], "context/Dockerfile");
    assert_eq!(outcome.code, Some(DOCKERFILE));

    let outcome = ask("# b is a stage\nFROM scratch AS b\n", &["--call=targets,format=json"]).success();
    let json: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(
        (&json["targets"][0]["name"], &json["targets"][0]["description"]),
        (&"b".into(), &"is a stage".into())
    );
    let outcome = ask("FROM scratch\nARG a=1\n", &["--call=outline,format=json"]).success();
    let json: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!((&json["args"][0]["name"], &json["args"][0]["value"]), (&"a".into(), &"1".into()));
    ask("", &["--call=subrequests.describe,format=json"]).success();
}

#[test]
fn wrong_calls_are_refused() {
    ask("FROM scratch\n", &["--call=chekc"]).fails_with(USAGE, &["chekc", "check"]);
    ask("FROM scratch\n", &["--check", "--call=check"]).fails_with(USAGE, &["--call"]);
    ask("FROM scratch\nRUM\n", &["--call=outline"]).fails_with(DOCKERFILE, &["RUM"]);
    ask("FROM scratch\nRUM\n", &["--call=targets"]).fails_with(DOCKERFILE, &["RUM"]);
}

#[test]
fn a_store_that_cannot_be_read_is_as_good_as_none() {
    let Some(wharf) = Wharf::new() else { return };
    wharf.dockerfile("FROM debian\nUSER $x\n");
    fs::create_dir(wharf.path("store")).unwrap();
    fs::write(wharf.path("store/state.db"), "this is no database").unwrap();
    fs::set_permissions(wharf.path("store"), fs::Permissions::from_mode(0o700)).unwrap();
    wharf.run(&["build", "--check", "context"]).success();
    let names: Vec<_> = fs::read_dir(wharf.path("store")).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn what_is_in_the_store_or_a_layout_is_known() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    // The layout needs no store.
    wharf.dockerfile("FROM busybox\nUSER $nothing\nCMD [\"$PATH\"]\n");
    let outcome = wharf.build(&["--check"]);
    assert!(outcome.text().contains("variable '$nothing'"), "{}", outcome.text());
    assert!(!wharf.path("store").exists());

    wharf.dockerfile("FROM busybox\nENV known=1\n").build(&["-t", "here"]).success();
    wharf.dockerfile("FROM here\nUSER $known\nUSER $unknown\n");
    let outcome = wharf.run(&["build", "--check", "context"]);
    assert_eq!(outcome.text().matches("UndefinedVar]").count(), 1, "{}", outcome.text());
    assert!(outcome.text().contains("'$unknown'"));
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}

#[test]
fn only_pull_asks_the_registry() {
    let Some(wharf) = Wharf::new() else { return };
    // Nothing listens on port 1 of the loopback interface.
    wharf.dockerfile("FROM 127.0.0.1:1/a\nUSER $x\n").run(&["build", "--check", "context"]).success();
    wharf.run(&["build", "--check", "--pull", "context"]).fails_with(SOURCE, &["127.0.0.1:1/a"]);
}

#[test]
fn a_violation_stops_the_build_before_it_runs() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("# check=error=true\nFROM busybox as base\nRUN echo it ran\n");
    let outcome = wharf.build(&["-t", "app"]).fails_with(
        DOCKERFILE,
        &["lint violation found for rules: FromAsCasing", "warning[FromAsCasing]", "Dockerfile:2:14"],
    );
    assert!(!outcome.stderr.contains("it ran"), "{}", outcome.stderr);
    wharf.build(&["-t", "app", "--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=FromAsCasing"]).success();
}

#[test]
fn a_build_says_each_warning_once_at_the_end() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let text = "FROM busybox as base\nUSER $x\nUSER root\nFROM base AS a\nRUN echo a\nFROM base AS b\nRUN echo b\nFROM scratch\nCOPY --from=a /bin/sh /a\nCOPY --from=b /bin/sh /b\n";
    let outcome = wharf.dockerfile(text).build(&[]).success();
    for words in ["warning[FromAsCasing]", "warning[UndefinedVar]", "2 warnings found"] {
        assert_eq!(outcome.stderr.matches(words).count(), 1, "{words} in:\n{}", outcome.stderr);
    }
    let (_, end) = outcome.stderr.rsplit_once("DONE").unwrap();
    assert!(end.contains("warnings found"), "{}", outcome.stderr);

    // A stage that is not needed is read but not judged.
    let outcome =
        wharf.dockerfile("FROM busybox AS unneeded\nWORKDIR x\nFROM busybox\n").build(&[]).success();
    assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);

    let outcome = wharf.dockerfile(text).build(&["--no-cache", "--quiet"]).success();
    assert_eq!(outcome.stderr, "");
}

#[test]
fn a_build_that_fails_says_its_warnings_before_the_error() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    for (text, code) in [
        ("FROM busybox as base\nRUN exit 7\n", WARNINGS),
        ("FROM busybox as base\nRUM exit\n", DOCKERFILE),
        ("FROM busybox as base\nCOPY --from=127.0.0.1:1/x /a /\n", SOURCE),
    ] {
        let outcome = wharf.dockerfile(text).build(&[]).fails_with(code, &["ERROR: "]);
        assert_eq!(outcome.stderr.matches("FromAsCasing]").count(), 1, "{}", outcome.stderr);
        let (warning, error) = (outcome.stderr.find("FromAsCasing]"), outcome.stderr.rfind("\nERROR: "));
        assert!(warning < error, "{}", outcome.stderr);
        let outcome = wharf.build(&["--quiet"]).failure();
        assert!(!outcome.stderr.contains("FromAsCasing"), "{}", outcome.stderr);
    }
}
