//! Several builds use one store at the same time.

use std::process::{Child, Command};

use crate::harness::{Outcome, Step, Wharf, busybox_layout};

/// Starts all `builds` before it waits for the first.
fn at_once(wharf: &Wharf, builds: &[&[&str]]) -> Vec<Outcome> {
    let start = |arguments: &&[&str]| {
        let mut command = wharf.build_command("store", arguments);
        let child = command.spawn().unwrap();
        (command, child)
    };
    let started: Vec<_> = builds.iter().map(start).collect();
    let end = |(command, child): (Command, Child)| {
        Outcome::from_output(&command, child.wait_with_output().unwrap()).success()
    };
    started.into_iter().map(end).collect()
}

#[test]
fn equal_builds_run_each_step_once() {
    check_together(&["a", "b"]);
    check_together(&["a", "b", "c", "d", "e", "f", "g", "h"]);
}

/// Builds the same tree under these names at the same time, on an empty store.
#[track_caller]
fn check_together(names: &[&str]) {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.file("here", "x").dockerfile(
        "FROM busybox AS one\nCOPY here /\nRUN sleep 0.3; cat /proc/sys/kernel/random/uuid >/one\n\
         FROM busybox AS two\nRUN sleep 0.2; cat /proc/sys/kernel/random/uuid >/two\n\
         FROM busybox\nCOPY --from=one /one /\nCOPY --from=two /two /\nRUN cat /one /two >/all\n",
    );
    let arguments: Vec<[&str; 2]> = names.iter().map(|name| ["-t", name]).collect();
    let builds = at_once(&wharf, &arguments.iter().map(|it| &it[..]).collect::<Vec<_>>());
    let mut ran: Vec<_> = builds
        .iter()
        .flat_map(|build| {
            build.steps().that(Step::Ran).join("\n").lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    ran.sort();
    assert_eq!(
        ran,
        [
            "COPY --from=one /one /",
            "COPY --from=two /two /",
            "COPY here /",
            "RUN cat /one /two >/all",
            "RUN sleep 0.2; cat /proc/sys/kernel/random/uuid >/two",
            "RUN sleep 0.3; cat /proc/sys/kernel/random/uuid >/one",
        ]
    );
    let said = |name: &&str| wharf.run(&["run", "--rm", name, "cat", "/all"]).success().text();
    let all: Vec<_> = names.iter().map(said).collect();
    assert!(all.iter().all(|text| *text == all[0] && text.lines().count() == 2), "{all:?}");
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}

#[test]
fn different_builds_do_not_disturb_each_other() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile(
        "FROM busybox\nARG WORD\nRUN sleep 0.1; echo $WORD >/word\nRUN cat /word /word >/words\n",
    );
    let words = ["a", "b", "c", "d"];
    let arguments = words.map(|word| ["-t".to_owned(), word.to_owned(), format!("--build-arg=WORD={word}")]);
    let arguments = arguments.each_ref().map(|it| it.each_ref().map(String::as_str));
    at_once(&wharf, &arguments.each_ref().map(|it| it.as_slice()));
    for word in words {
        let said = wharf.run(&["run", "--rm", word, "cat", "/words"]).success().text();
        assert_eq!(said, format!("{word}\n{word}\n"));
    }
    assert_eq!(wharf.leftovers("store"), Vec::<String>::new());
}

#[test]
fn a_build_that_waits_for_one_that_fails_runs_the_step_itself() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\nRUN sleep 0.3; exit 3\n");
    let mut children = [0, 1].map(|_| wharf.build_command("store", &[]).spawn().unwrap());
    for child in &mut children {
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }
}
