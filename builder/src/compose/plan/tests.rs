//! Plans as text: a project, what there is of it, and what has to be done.

use std::collections::BTreeSet;

use expect_test::{Expect, expect};
use wharf_frontend::compose::{Invocation, Outside, Project, ReadError, Selection, open};

use super::super::labels::parse_dependencies;
use super::*;

struct OneFile(&'static str);

impl Outside for OneFile {
    fn read(&self, path: &str) -> Result<Vec<u8>, ReadError> {
        if self.exists(path) { Ok(self.0.into()) } else { Err(ReadError::NotFound) }
    }

    fn exists(&self, path: &str) -> bool {
        path == "/p/compose.yaml"
    }
}

pub(in crate::compose) fn project(text: &'static str) -> Project {
    let loaded = open(&Invocation { directory: "/p".to_owned(), ..Invocation::default() }, &OneFile(text));
    loaded.project.unwrap_or_else(|| panic!("{:#?}", loaded.problems))
}

/// `web-1 running`, `web-2 exited hash=other image=other`, `run-9 running oneoff`, `network p_default`, `volume p_data`,
/// each on a line. A name that begins with a service is one of its containers.
fn observed(text: &str) -> Observed {
    let mut observed = Observed::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)).map(str::to_owned);
        match words[0] {
            "network" => drop(observed.networks.insert(words[1].to_owned(), value("hash="))),
            "volume" => drop(observed.volumes.insert(words[1].to_owned(), value("hash="))),
            name => {
                let (service, number) = name.rsplit_once('-').unwrap();
                let status = match words[1] {
                    "running" => Status::Running,
                    "exited" => Status::Exited,
                    "created" => Status::Created,
                    "dead" => Status::Dead,
                    other => panic!("{other}"),
                };
                observed.containers.push(Seen {
                    id: ContainerId(format!("{service}{number}")),
                    name: format!("p-{name}"),
                    service: service.to_owned(),
                    number: number.parse().unwrap(),
                    one_off: words.contains(&"oneoff"),
                    hash: value("hash=").unwrap_or_else(|| "same".to_owned()),
                    image: value("image=").unwrap_or_else(|| "same".to_owned()),
                    status,
                    depends_on: parse_dependencies(&value("on=").unwrap_or_default()),
                });
            }
        }
    }
    observed
}

fn plan_up(text: &'static str, there: &str, named: &[&str], change: impl FnOnce(&mut Up)) -> Steps {
    let whole = project(text);
    let known: BTreeSet<String> = whole.services.keys().cloned().collect();
    let named: Vec<String> = named.iter().map(|&name| name.to_owned()).collect();
    let selection = Selection { services: named.clone(), with_dependencies: true, ..Selection::default() };
    let project = whole.select(&selection).unwrap();
    let wanted = project.services.iter().map(|(name, service)| {
        let count = service.scale.unwrap_or(1);
        let wanted = WantedService { hash: "same".to_owned(), image: Some("same".to_owned()), count };
        (name.clone(), wanted)
    });
    let networks = project.networks.keys().map(|key| (key.clone(), "same".to_owned())).collect();
    let mut options = Up { named, start: true, known, ..Up::default() };
    change(&mut options);
    up(&project, &wanted.collect(), &networks, &observed(there), &options)
}

#[track_caller]
fn check_up(text: &'static str, there: &str, named: &[&str], expected: &Expect) {
    expected.assert_eq(&plan_up(text, there, named, |_| {}).to_string());
}

const THREE: &str = "
services:
  web: {image: a, depends_on: {db: {condition: service_healthy}, init: {condition: service_completed_successfully}}}
  init: {image: a, depends_on: [db]}
  db: {image: a, volumes: ['data:/d']}
volumes: {data: }
";

#[test]
fn everything_is_made_and_then_started_in_order() {
    check_up(
        THREE,
        "",
        &[],
        &expect![[r#"
        0 create network default
        1 create volume data
        2 create p-db-1 (after 0 1)
        3 create p-init-1 (after 0 2)
        4 create p-web-1 (after 0 2 3)
        5 start p-db-1 (after 2)
        6 start p-init-1 (after 3 5)
        7 await db service_healthy: p-db-1 (after 5)
        8 await init service_completed_successfully: p-init-1 (after 6)
        9 start p-web-1 (after 4 7 8)
    "#]],
    );
}

#[test]
fn what_is_there_stays() {
    let there = "web-1 running\ninit-1 exited\ndb-1 running\nnetwork p_default hash=same\nvolume p_data";
    check_up(
        THREE,
        there,
        &[],
        &expect![[r#"
        0 start p-init-1
    "#]],
    );
}

#[test]
fn what_says_something_else_is_made_anew() {
    let there = "web-1 running\ninit-1 exited\ndb-1 running hash=old\nnetwork p_default\nvolume p_data";
    check_up(
        THREE,
        there,
        &["web"],
        &expect![[r#"
        0 recreate p-db-1 for db1
        1 start p-db-1 (after 0)
        2 start p-init-1 (after 1)
    "#]],
    );
    let there = "web-1 running image=old\ninit-1 exited\ndb-1 running\nnetwork p_default\nvolume p_data";
    check_up(THREE, there, &["db"], &expect![[r#""#]]);
    check_up(
        THREE,
        there,
        &["web"],
        &expect![[r#"
        0 recreate p-web-1 for web1
        1 start p-init-1
        2 await db service_healthy: p-db-1
        3 await init service_completed_successfully: p-init-1 (after 1)
        4 start p-web-1 (after 0 2 3)
    "#]],
    );
}

const SCALED: &str = "services: {web: {image: a, scale: 3, network_mode: none}}";

#[test]
fn containers_are_added_and_taken_away() {
    check_up(
        SCALED,
        "web-2 running",
        &[],
        &expect![[r#"
        0 create p-web-1
        1 create p-web-3
        2 start p-web-1 (after 0 1)
        3 start p-web-3 (after 0 1)
    "#]],
    );
    check_up(
        SCALED,
        "web-1 running hash=old\nweb-2 running\nweb-3 exited\nweb-4 running\nweb-5 running",
        &[],
        &expect![[r#"
            0 stop p-web-1
            1 remove p-web-1 (after 0)
            2 stop p-web-5
            3 remove p-web-5 (after 2)
            4 start p-web-3 (after 1 3)
        "#]],
    );
    check_up(
        "services: {web: {image: a, scale: 0, network_mode: none}}",
        "web-1 running",
        &[],
        &expect![[r#"
        0 stop p-web-1
        1 remove p-web-1 (after 0)
    "#]],
    );
}

#[test]
fn orphans_go_when_they_are_told_to() {
    let there = "old-1 running\nold-2 running oneoff\nweb-1 running";
    let text = "services: {web: {image: a, network_mode: none}}";
    check_up(text, there, &[], &expect![[r#""#]]);
    let steps = plan_up(text, there, &[], |options| options.remove_orphans = true);
    expect![[r#"
        0 stop p-old-1
        1 remove p-old-1 (after 0)
    "#]]
    .assert_eq(&steps.to_string());
}

const RESTARTED: &str = "
services:
  proxy: {image: a, network_mode: 'service:web'}
  web: {image: a, network_mode: none, depends_on: {db: {condition: service_started, restart: true}}}
  db: {image: a, network_mode: none}
";

#[test]
fn who_depends_on_what_is_made_anew_follows() {
    check_up(
        RESTARTED,
        "proxy-1 running\nweb-1 running\ndb-1 running hash=old",
        &[],
        &expect![[r#"
        0 stop p-web-1
        1 recreate p-db-1 for db1 (after 0)
        2 start p-db-1 (after 1)
        3 start p-web-1 (after 0 2)
    "#]],
    );
    check_up(
        RESTARTED,
        "proxy-1 running\nweb-1 running hash=old\ndb-1 running",
        &[],
        &expect![[r#"
        0 stop p-proxy-1
        1 recreate p-web-1 for web1 (after 0)
        2 recreate p-proxy-1 for proxy1 (after 1)
        3 start p-web-1 (after 1)
        4 start p-proxy-1 (after 0 2 3)
    "#]],
    );
}

#[test]
fn options_say_what_is_made_anew() {
    let there = "web-1 running\ninit-1 exited\ndb-1 running hash=old\nnetwork p_default\nvolume p_data";
    let check = |named: &[&str], recreate: Recreate, dependencies: Recreate, expected: &Expect| {
        let steps = plan_up(THREE, there, named, |options| {
            options.recreate = recreate;
            options.recreate_dependencies = dependencies;
            options.start = false;
        });
        expected.assert_eq(&steps.to_string());
    };
    check(
        &["web"],
        Recreate::Force,
        Recreate::Never,
        &expect![[r#"
        0 recreate p-web-1 for web1
    "#]],
    );
    check(&["web"], Recreate::Never, Recreate::Never, &expect![[r#""#]]);
    check(
        &["web"],
        Recreate::Diverged,
        Recreate::Force,
        &expect![[r#"
        0 recreate p-db-1 for db1
        1 recreate p-init-1 for init1 (after 0)
    "#]],
    );
}

#[test]
fn a_network_that_says_something_else_is_made_anew() {
    let text = "
services:
  web: {image: a, networks: [back]}
  other: {image: a, networks: [front]}
networks: {front: , back: , old: {external: true}}
";
    let there = "web-1 running\nother-1 running\nnetwork p_front hash=same\nnetwork p_back hash=old";
    check_up(
        text,
        there,
        &[],
        &expect![[r#"
        0 stop p-web-1
        1 remove p-web-1 (after 0)
        2 remove network p_back (after 1)
        3 create network back (after 2)
        4 create p-web-1 (after 3)
        5 start p-web-1 (after 4)
    "#]],
    );
}

#[test]
fn names_of_containers_are_kept() {
    check_up(
        "services: {web: {image: a, container_name: mine, network_mode: none}}",
        "",
        &[],
        &expect![[r#"
        0 create mine
        1 start mine (after 0)
    "#]],
    );
}

#[test]
fn dependencies_that_are_not_required_are_waited_for_all_the_same() {
    let text = "
services:
  web:
    image: a
    network_mode: none
    depends_on: {db: {condition: service_healthy, required: false}, none: {condition: service_healthy}}
  db: {image: a, network_mode: none}
  none: {image: a, network_mode: none, scale: 0}
";
    check_up(
        text,
        "",
        &[],
        &expect![[r#"
        0 create p-db-1
        1 create p-web-1 (after 0)
        2 start p-db-1 (after 0)
        3 await if possible db service_healthy: p-db-1 (after 2)
        4 start p-web-1 (after 1 3)
    "#]],
    );
}

#[test]
fn down_goes_backwards() {
    let there = "web-1 running\ninit-1 exited\ndb-1 running\ndb-2 running oneoff\nold-1 running";
    let observed = observed(there);
    let project = project(THREE);
    let services = Services::new(Some(&project), &observed);
    let options = Down {
        known: Some(project.services.keys().cloned().collect()),
        networks: vec!["p_default".to_owned()],
        volumes: vec!["p_data".to_owned()],
        images: vec!["p-web".to_owned()],
        ..Down::default()
    };
    expect![[r#"
        0 stop p-db-2
        1 remove p-db-2 (after 0)
        2 stop p-web-1 (after 0)
        3 remove p-web-1 (after 2)
        4 stop p-init-1 (after 0 2)
        5 remove p-init-1 (after 4)
        6 stop p-db-1 (after 0 2 4)
        7 remove p-db-1 (after 6)
        8 remove network p_default (after 1 3 5 7)
        9 remove volume p_data (after 1 3 5 7)
        10 remove image p-web (after 1 3 5 7)
    "#]]
    .assert_eq(&down(&services, &observed, &options).to_string());
    let options = Down { remove_orphans: true, ..options };
    expect![[r#"
        0 stop p-db-2
        1 remove p-db-2 (after 0)
        2 stop p-web-1 (after 0)
        3 remove p-web-1 (after 2)
        4 stop p-old-1 (after 0)
        5 remove p-old-1 (after 4)
        6 stop p-init-1 (after 0 2)
        7 remove p-init-1 (after 6)
        8 stop p-db-1 (after 0 2 6)
        9 remove p-db-1 (after 8)
        10 remove network p_default (after 1 3 5 7 9)
        11 remove volume p_data (after 1 3 5 7 9)
        12 remove image p-web (after 1 3 5 7 9)
    "#]]
    .assert_eq(&down(&services, &observed, &options).to_string());
    let options = Down { named: vec!["web".to_owned()], ..options };
    expect![[r#"
        0 stop p-web-1
        1 remove p-web-1 (after 0)
    "#]]
    .assert_eq(&down(&services, &observed, &options).to_string());
}

#[test]
fn labels_tell_the_order_where_there_are_no_files() {
    let observed =
        observed("a-1 running on=b:service_started:false\nb-1 running on=c:x:y,d\nc-1 running on=a:x:y");
    let services = Services::new(None, &observed);
    expect![[r#"
        0 stop p-a-1
        1 remove p-a-1 (after 0)
        2 stop p-b-1 (after 0)
        3 remove p-b-1 (after 2)
        4 stop p-c-1 (after 2)
        5 remove p-c-1 (after 4)
    "#]]
    .assert_eq(&down(&services, &observed, &Down::default()).to_string());
    expect![[r#"
        0 stop p-b-1
    "#]]
    .assert_eq(&life(Life::Stop, &services, &["b".to_owned()], &observed).to_string());
}

#[test]
fn what_is_there_is_started_stopped_and_restarted() {
    let check = |text, there: &str, what, named: &[&str], expected: &Expect| {
        let observed = observed(there);
        let services = Services::new(Some(&project(text)), &observed);
        let named: Vec<String> = named.iter().map(|&name| name.to_owned()).collect();
        expected.assert_eq(&life(what, &services, &named, &observed).to_string());
    };
    let there = "web-1 exited\nweb-2 exited\ninit-1 exited\ndb-1 running";
    check(
        THREE,
        there,
        Life::Start,
        &[],
        &expect![[r#"
        0 start p-init-1
        1 await db service_healthy: p-db-1
        2 await init service_completed_successfully: p-init-1 (after 0)
        3 start p-web-1 (after 1 2)
        4 start p-web-2 (after 1 2)
    "#]],
    );
    check(
        THREE,
        there,
        Life::Stop,
        &[],
        &expect![[r#"
        0 stop p-web-1
        1 stop p-web-2
        2 stop p-init-1 (after 0 1)
        3 stop p-db-1 (after 0 1 2)
    "#]],
    );
    check(
        THREE,
        there,
        Life::Restart { dependents: true },
        &[],
        &expect![[r#"
        0 restart p-db-1
        1 restart p-init-1 (after 0)
        2 restart p-web-1 (after 0 1)
        3 restart p-web-2 (after 0 1)
    "#]],
    );
    let there = "proxy-1 running\nweb-1 running\ndb-1 running";
    check(
        RESTARTED,
        there,
        Life::Restart { dependents: true },
        &["db"],
        &expect![[r#"
        0 restart p-db-1
        1 restart p-web-1 (after 0)
        2 restart p-proxy-1 (after 1)
    "#]],
    );
    check(
        RESTARTED,
        there,
        Life::Restart { dependents: false },
        &["db"],
        &expect![[r#"
        0 restart p-db-1
    "#]],
    );
}
