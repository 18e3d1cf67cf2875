//! COPY and ADD: what the matrix of sources and destinations gives, seen by steps that look.

use std::fs;
use std::path::Path;

use crate::harness::{Step, Wharf, busybox_layout};

/// Makes a context with `prepare`, builds busybox with `copies` and then a step that fails unless `holds` does.
#[track_caller]
fn check(prepare: impl Fn(&Path), copies: &str, holds: &str) {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile(&format!("FROM busybox\n{copies}\nRUN {holds}\n"));
    prepare(&wharf.context());
    wharf.build(&[]).success();
}

fn write(context: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = context.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn hard_links_are_kept_within_a_source_and_not_between_sources() {
    let tree = |context: &Path| {
        write(context, &[("d/a", "I"), ("x/a", "J"), ("y/k", "K")]);
        fs::hard_link(context.join("d/a"), context.join("d/b")).unwrap();
        fs::hard_link(context.join("d/a"), context.join("y/c")).unwrap();
    };
    check(tree, "COPY ? /o/", "test $(cat /o/a) = J && test $(cat /o/b) = I && test $(cat /o/c) = I");
    check(tree, "COPY d /o/", "test /o/a -ef /o/b");
    check(tree, "COPY */a /o/", "test $(cat /o/a) = J");
}

#[test]
fn exclude_takes_files_out_that_are_named_themselves() {
    let tree = |context: &Path| {
        write(context, &[("home.txt", "t"), ("home.md", "m"), ("d/in.txt", "t"), ("d/in.md", "m")])
    };
    check(
        tree,
        "COPY --exclude=*.txt hom* d /o/",
        "ls /o > /l; test \"$(cat /l)\" = \"$(printf 'home.md\\nin.md')\"",
    );
}

#[test]
fn owners_are_found_below_and_are_numbers_that_exist() {
    let tree = |context: &Path| write(context, &[("f", "x")]);
    check(tree, "COPY --link --chown=nobody f /o", "test $(stat -c %u /o) = 65534");
    check(tree, "COPY --chown=7 f /o", "test $(stat -c %u:%g /o) = 7:7");
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("f", "x").dockerfile("FROM busybox\nCOPY --chown=4294967295 f /\n");
    assert!(wharf.build(&[]).failure().stderr.contains("4294967295"));
}

#[test]
fn an_empty_stage_is_a_source() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM scratch AS a\nFROM busybox\nCOPY --from=a / /x/\nRUN test -z \"$(ls /x)\"\n");
    wharf.build(&[]).success();
}

/// Builds, changes the context and builds again: whether the COPY ran again.
#[track_caller]
fn check_reruns(copy: &str, change: impl Fn(&Path), expected: bool) {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    write(&wharf.context(), &[("foo1", "1"), ("foo2", "2"), ("bar", "b"), ("d/in", "i"), ("d/out", "o")]);
    wharf.dockerfile(&format!("FROM busybox\n{copy}\n")).build(&["-t", "one"]).success();
    change(&wharf.context());
    let steps = wharf.build(&["-t", "two"]).success().steps();
    assert_eq!(!steps.that(Step::Ran).is_empty(), expected, "{copy}: {steps:?}");
}

#[test]
fn a_copy_depends_on_what_it_finds_and_on_nothing_else() {
    let add = |name: &'static str| move |context: &Path| fs::write(context.join(name), "new").unwrap();
    let rename = |from: &'static str, to: &'static str| {
        move |context: &Path| fs::rename(context.join(from), context.join(to)).unwrap()
    };
    check_reruns("COPY foo* /o/", add("bar"), false);
    check_reruns("COPY foo* /o/", add("foo2"), true);
    check_reruns("COPY foo* /o/", add("foo3"), true);
    check_reruns("COPY foo* /o/", rename("foo1", "foo3"), true);
    check_reruns("COPY d* /o/", rename("d", "dd"), false);
    check_reruns("COPY d /o/", rename("d/in", "d/other"), true);
    check_reruns("COPY none* foo1 /o/", add("nothing"), false);
    check_reruns("COPY none* foo1 /o/", add("none"), true);
    check_reruns("COPY --exclude=out d /o/", add("d/out"), false);
    check_reruns("COPY --exclude=out d /o/", add("d/in"), true);
    check_reruns("COPY --parents d/./i* /o/", add("d/out"), false);
    check_reruns("COPY --parents d/./i* /o/", add("d/in"), true);
    check_reruns("COPY --parents d/**/in /o/", rename("d/in", "d/n"), true);
    // A directory that becomes a file.
    let replace = |context: &Path| {
        fs::remove_dir_all(context.join("d")).unwrap();
        fs::write(context.join("d"), "file").unwrap();
    };
    check_reruns("COPY d /o", replace, true);
    // Two names of one file are no two files.
    let link = |context: &Path| {
        fs::write(context.join("d/in"), "o").unwrap();
        fs::remove_file(context.join("d/out")).unwrap();
        fs::hard_link(context.join("d/in"), context.join("d/out")).unwrap();
    };
    check_reruns("COPY d /o/", link, true);
}
