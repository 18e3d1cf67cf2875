//! What has not changed is not built again.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use crate::harness::{Step, Wharf, busybox_layout};

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
