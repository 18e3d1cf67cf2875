//! COPY and ADD: what the matrix of sources and destinations gives, seen by steps that look.

use std::fs;
use std::path::Path;

use crate::harness::{Wharf, busybox_layout};

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
