//! What has not changed is not built again.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use crate::harness::{Registry, Step, Wharf, busybox_layout, gcc_layout};

/// Two stages that read different files, and one that joins them.
const DOCKERFILE: &str = "\
FROM busybox AS left
COPY left /left
RUN cat /left >/left.out
FROM busybox AS right
COPY right /right
RUN wc -c </right >/right.out
FROM busybox
COPY --from=left /left.out /
COPY --from=right /right.out /
RUN cat /left.out /right.out >/all
";

const STEPS: [&str; 7] = [
    "COPY --from=left /left.out /",
    "COPY --from=right /right.out /",
    "COPY left /left",
    "COPY right /right",
    "RUN cat /left >/left.out",
    "RUN cat /left.out /right.out >/all",
    "RUN wc -c </right >/right.out",
];

/// A context that was built once.
fn built() -> Option<Wharf> {
    busybox_layout()?;
    let wharf = Wharf::new()?;
    wharf.file("left", "left\n").file("right", "right\n").file("unread", "x").dockerfile(DOCKERFILE);
    wharf.build(&["-t", "app"]).success().steps().check_ran(&STEPS);
    Some(wharf)
}

#[test]
fn an_unchanged_rebuild_runs_nothing() {
    let Some(wharf) = built() else { return };
    let steps = wharf.build(&["-t", "app"]).success().steps();
    steps.check_ran(&[]);
    assert!(!steps.that(Step::Cached).is_empty(), "nothing was said to be cached");
    wharf.build(&["-t", "app", "--no-cache"]).success().steps().check_ran(&STEPS);
}

#[test]
fn times_change_nothing() {
    let Some(wharf) = built() else { return };
    for name in ["left", "right", "Dockerfile"] {
        let file = File::options().write(true).open(wharf.context().join(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    }
    wharf.build(&["-t", "app"]).success().steps().check_ran(&[]);
}

#[test]
fn one_byte_runs_what_reads_it_and_nothing_else() {
    let Some(wharf) = built() else { return };
    wharf.file("left", "Left\n");
    let steps = wharf.build(&["-t", "app"]).success().steps();
    steps.check_ran(&[
        "COPY --from=left /left.out /",
        // Nothing it copies is new, but what it is put upon is.
        "COPY --from=right /right.out /",
        "COPY left /left",
        "RUN cat /left >/left.out",
        "RUN cat /left.out /right.out >/all",
    ]);
    assert_eq!(wharf.run(&["run", "--rm", "app", "cat", "/all"]).success().text(), "Left\n6\n");

    wharf.file("unread", "y");
    wharf.build(&["-t", "app"]).success().steps().check_ran(&[]);
}

#[test]
fn a_step_that_makes_the_same_files_again_stops_the_rebuild() {
    let Some(wharf) = built() else { return };
    // As many bytes as before: `right.out` stays what it is.
    wharf.file("right", "RIGHT\n");
    let steps = wharf.build(&["-t", "app"]).success().steps();
    steps.check_ran(&["COPY right /right", "RUN wc -c </right >/right.out"]);
}

#[test]
fn a_file_with_another_mode_is_another_file() {
    let Some(wharf) = built() else { return };
    fs::set_permissions(wharf.context().join("left"), fs::Permissions::from_mode(0o755)).unwrap();
    let steps = wharf.build(&["-t", "app"]).success().steps();
    assert!(steps.that(Step::Ran).contains(&"COPY left /left"), "{steps:?}");
}

#[test]
fn a_renamed_file_is_another_match_of_a_wildcard() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("file1", "same").dockerfile("FROM busybox\nCOPY file* /files/\nRUN ls /files >/seen\n");
    wharf.build(&["-t", "app"]).success();
    fs::rename(wharf.context().join("file1"), wharf.context().join("file2")).unwrap();
    let steps = wharf.build(&["-t", "app"]).success().steps();
    steps.check_ran(&["COPY file* /files/", "RUN ls /files >/seen"]);
    assert_eq!(wharf.run(&["run", "--rm", "app", "cat", "/seen"]).success().text(), "file2\n");
}

#[test]
fn the_registry_is_not_asked_again() {
    let (Some(_), Some(wharf), Some(registry)) = (busybox_layout(), Wharf::new(), Registry::start()) else {
        return;
    };
    let base = format!("{}/base:v1", registry.address);
    wharf.dockerfile("FROM busybox\nCMD [\"true\"]\n").build(&["-t", &base, "--push"]).success();

    wharf.file("here", "x").dockerfile(&format!("FROM {base}\nCOPY here /\nRUN cat /here >/there\n"));
    wharf
        .build_in("other", &["-t", "app"])
        .success()
        .steps()
        .check_ran(&["COPY here /", "RUN cat /here >/there"]);
    registry.log();
    wharf.build_in("other", &["-t", "app"]).success().steps().check_ran(&[]);
    let log = registry.log();
    assert!(!log.contains("/v2/base"), "{log}");

    drop(registry);
    wharf.build_in("other", &["-t", "app"]).success().steps().check_ran(&[]);
    // What is new is built upon what is here.
    wharf.file("here", "y");
    wharf
        .build_in("other", &["-t", "app"])
        .success()
        .steps()
        .check_ran(&["COPY here /", "RUN cat /here >/there"]);
    let failed = wharf.build_in("other", &["-t", "app", "--pull"]);
    failed.fails_with(4, &["Dockerfile:1", &base]);
}

#[test]
fn a_build_argument_reruns_from_its_first_use() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile(
        "FROM busybox AS side\nRUN echo side >/side\n\
         FROM busybox\nRUN echo before >/before\nARG WORD=none\nCOPY --from=side /side /\nRUN echo $WORD >/word\n\
         RUN cat /word >/copy\n",
    );
    let build =
        |word: &str| wharf.build(&["-t", "app", &format!("--build-arg=WORD={word}")]).success().steps();
    assert_eq!(build("one").that(Step::Ran).len(), 5);
    build("one").check_ran(&[]);
    build("two").check_ran(&["RUN cat /word >/copy", "RUN echo two >/word"]);
    assert_eq!(wharf.run(&["run", "--rm", "app", "cat", "/copy"]).success().text(), "two\n");
    // What was built before is still known, and what nobody uses changes nothing.
    build("one").check_ran(&[]);
    wharf
        .build(&["-t", "app", "--build-arg=WORD=one", "--build-arg=UNUSED=x"])
        .success()
        .steps()
        .check_ran(&[]);
}

#[test]
fn metadata_at_the_end_runs_nothing() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let steps = "FROM busybox\nRUN echo one >/one\nRUN echo two >/two\n";
    wharf.dockerfile(steps).build(&["-t", "app"]).success();
    for metadata in [
        "LABEL a=b",
        "CMD [\"cat\", \"/two\"]",
        "ENV NAME=value",
        "ENTRYPOINT [\"cat\"]\nCMD [\"/one\"]\nEXPOSE 80\nUSER nobody\nVOLUME /data\nSTOPSIGNAL INT",
    ] {
        wharf.dockerfile(&format!("{steps}{metadata}\n"));
        wharf.build(&["-t", "app"]).success().steps().check_ran(&[]);
    }
    assert_eq!(wharf.run(&["run", "--rm", "app"]).success().text(), "one\n");
    // Comments and continued lines are no metadata either.
    wharf.dockerfile(
        "# syntax of one's own\nFROM busybox\n\nRUN echo one >/one\n# two\nRUN \\\n  echo two >/two\n",
    );
    wharf.build(&["-t", "app"]).success().steps().check_ran(&[]);
}

#[test]
fn what_is_ignored_changes_nothing() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("src/main", "x").file("src/log", "1").file("target/big", "1").file(".git/HEAD", "1");
    wharf.file(".dockerignore", "target\n**/log\n.*\nDockerfile\n");
    wharf.dockerfile("FROM busybox\nCOPY . /all\nRUN find /all -type f | sort >/list\n");
    wharf.build(&["-t", "app"]).success();
    assert_eq!(wharf.run(&["run", "--rm", "app", "cat", "/list"]).success().text(), "/all/src/main\n");
    wharf.file("src/log", "2").file("target/big", "2").file("target/new", "2").file(".git/HEAD", "2");
    wharf.build(&["-t", "app"]).success().steps().check_ran(&[]);
    wharf.file("src/new", "y");
    let steps = wharf.build(&["-t", "app"]).success().steps();
    steps.check_ran(&["COPY . /all", "RUN find /all -type f | sort >/list"]);
}

#[test]
fn only_the_stages_that_are_asked_for_run() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile(
        "FROM busybox AS broken\nRUN false\n\
         FROM broken AS below\nRUN echo below\n\
         FROM busybox AS test\nRUN echo test >/test\n\
         FROM busybox AS final\nRUN echo final >/final\n",
    );
    wharf.build(&[]).success().steps().check_ran(&["RUN echo final >/final"]);
    wharf.build(&["--target", "test"]).success().steps().check_ran(&["RUN echo test >/test"]);
    wharf.build(&["--target", "below"]).fails_with(1, &["Dockerfile:2"]);
}

#[test]
fn a_file_that_changes_while_the_build_runs_is_not_remembered_under_its_old_key() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf
        .file("f", "old")
        .dockerfile("FROM busybox\nRUN sleep 2\nCOPY f /f\nRUN cat f > /g\nCMD [\"cat\", \"/g\"]\n");
    // Whichever of the two is read, the old text must not lead to the new one later.
    std::thread::scope(|scope| {
        let first = scope.spawn(|| wharf.build(&["-t", "first"]).success());
        std::thread::sleep(std::time::Duration::from_secs(1));
        wharf.file("f", "new");
        first.join().unwrap();
    });
    wharf.file("f", "old").build(&["-t", "second"]).success();
    assert_eq!(wharf.run(&["run", "--rm", "second"]).success().text(), "old");
}

#[test]
fn a_comment_in_a_program_is_compiled_and_that_is_all() {
    let (Some(_), Some(_), Some(wharf)) = (busybox_layout(), gcc_layout(), Wharf::new()) else { return };
    let program = |comment: &str, text: &str| {
        format!("/* {comment} */\n#include <stdio.h>\nint main(void) {{ return puts(\"{text}\") < 0; }}\n")
    };
    let compile = "RUN [\"gcc\", \"-O2\", \"-static\", \"-o\", \"/program\", \"/src/main.c\"]";
    wharf.dockerfile(&format!(
        "FROM gcc AS build\nCOPY main.c /src/\n{compile}\n\
         FROM busybox\nCOPY --from=build /program /bin/\nRUN /bin/program >/said\n"
    ));
    let steps = ["COPY --from=build /program /bin/", "COPY main.c /src/", "RUN /bin/program >/said", compile];
    let build = |main: String, expected: &[&str]| {
        wharf.file("main.c", &main);
        wharf.build(&["-t", "app", "--iidfile", "id"]).success().steps().check_ran(expected);
        (
            fs::read_to_string(wharf.path("id")).unwrap(),
            wharf.run(&["run", "--rm", "app", "cat", "/said"]).text(),
        )
    };
    let first = build(program("What it does", "hello"), &steps);
    assert_eq!(first.1, "hello\n");
    let second = build(program("What it really does, at length", "hello"), &["COPY main.c /src/", compile]);
    assert_eq!(second, first, "another image, or other output");
    assert_eq!(build(program("What it really does, at length", "world"), &steps).1, "world\n");
}

#[test]
fn a_stage_can_be_built_anew() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile(
        "FROM busybox AS Base\nRUN echo base >/base\n\
         FROM busybox AS side\nRUN cat /proc/sys/kernel/random/uuid >/side\n\
         FROM base\nCOPY --from=side /side /\nRUN wc -c </side >/size\n",
    );
    let build = |arguments: &[&str]| wharf.build(&[arguments, &["-t", "app"]].concat()).success();
    build(&[]);
    let side = "RUN cat /proc/sys/kernel/random/uuid >/side";
    let rest = ["COPY --from=side /side /", side, "RUN wc -c </side >/size"];
    build(&["--no-cache-filter", "side"]).steps().check_ran(&[rest[0], rest[1], rest[2]]);
    build(&[]).steps().check_ran(&[]);
    // It comes out the same, so nothing follows from it.
    build(&["--no-cache-filter=BASE"]).steps().check_ran(&["RUN echo base >/base"]);
    build(&["--no-cache-filter=base,side", "--no-cache-filter", "nothing"])
        .fails_with(0, &["warning: `--no-cache-filter nothing` has no effect"])
        .steps()
        .check_ran(&[rest[0], rest[1], "RUN echo base >/base", rest[2]]);
    wharf.build(&["--no-cache-filter", ""]).fails_with(2, &["--no-cache-filter"]);
}
