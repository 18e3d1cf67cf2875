//! `wharf compose` over the real binary: what people type every day, and what goes wrong.

use std::fs;
use std::process::Command;
use std::thread;

use crate::harness::{Outcome, Wharf, busybox_layout, processes, wait_until};

/// A project in a store of its own, with the image `bb`.
struct Project {
    wharf: Wharf,
}

impl Project {
    /// `None`, and a line that says so, where it cannot be.
    fn new(compose: &str) -> Option<Self> {
        busybox_layout()?;
        let wharf = Wharf::new()?;
        wharf.dockerfile("FROM busybox\nCMD [\"sh\"]\n");
        wharf.build(&["-q", "-t", "bb"]).success();
        let project = Self { wharf };
        project.write(compose);
        Some(project)
    }

    fn write(&self, compose: &str) {
        fs::create_dir_all(self.wharf.path("p")).unwrap();
        fs::write(self.wharf.path("p/compose.yaml"), compose).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let all: Vec<&str> = ["compose"].into_iter().chain(arguments.iter().copied()).collect();
        let mut command = self.wharf.command("store", &all);
        command.current_dir(self.wharf.path("p")).env("TOKEN", "of-the-environment");
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments))
    }

    /// `NAME STATE` of each container, sorted.
    fn states(&self) -> Vec<String> {
        let text = self.run(&["ps", "-a", "--format", "{{.Name}} {{.State}}"]).success().text();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[track_caller]
    fn check_states(&self, expected: &[&str]) {
        assert_eq!(self.states(), expected);
    }

    fn id(&self, name: &str) -> String {
        self.run(&["ps", "-a", "--format", "{{.Name}} {{.ID}}"])
            .success()
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")).map(str::to_owned))
            .unwrap_or_default()
    }

    /// Brings everything down, and sees that nothing is left.
    #[track_caller]
    fn end(self) {
        self.run(&["down", "-v", "--remove-orphans", "-t", "0"]).success();
        self.check_states(&[]);
        let store = self.wharf.path("store");
        let entries = |name: &str| -> Vec<String> {
            let entries = fs::read_dir(store.join(name)).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        assert!(entries("volumes").is_empty(), "{:?}", entries("volumes"));
        assert!(!entries("networks").iter().any(|name| name.starts_with("p_")), "{:?}", entries("networks"));
        assert!(entries("containers").iter().all(|name| name.len() != 64), "{:?}", entries("containers"));
        let mark = store.display().to_string();
        // The network process ends some seconds after its last container, and takes all that it has made with it.
        wait_until("its processes have ended", || processes(&mark).is_empty());
        assert_eq!(self.wharf.leftovers("store"), Vec::<String>::new());
    }
}

/// Not on a network: these are tests of what compose does.
const CHAIN: &str = "
services:
  web:
    image: bb
    network_mode: none
    command: sh -c 'echo web; exec sleep 1000'
    stop_grace_period: 0s
    depends_on: {db: {condition: service_healthy}, init: {condition: service_completed_successfully}}
  init: {image: bb, network_mode: none, command: echo initialised, depends_on: [db]}
  db:
    image: bb
    network_mode: none
    command: sh -c 'touch /ok; exec sleep 1000'
    stop_grace_period: 0s
    healthcheck: {test: test -f /ok, interval: 100ms}
    volumes: ['data:/d', /anonymous]
volumes: {data: }
";

#[test]
fn up_waits_changes_what_has_changed_and_down_leaves_nothing() {
    let Some(project) = Project::new(CHAIN) else { return };
    project.run(&["up", "-d", "--wait"]).success();
    project.check_states(&["p-db-1 running", "p-init-1 exited", "p-web-1 running"]);
    let logs = project.run(&["logs"]).success().text();
    assert_eq!(logs, "init-1  | initialised\nweb-1   | web\n");
    let (web, db) = (project.id("p-web-1"), project.id("p-db-1"));

    // Nothing has changed.
    project.run(&["up", "-d"]).success();
    assert_eq!((project.id("p-web-1"), project.id("p-db-1")), (web.clone(), db.clone()));

    // Files of a volume, also of one without a name, stay with a container that is made anew.
    project.run(&["exec", "-T", "db", "sh", "-c", "echo kept > /d/x; echo kept > /anonymous/x"]).success();
    project.write(&CHAIN.replace("touch /ok", "touch /ok /changed"));
    project.run(&["up", "-d", "--wait"]).success();
    assert_eq!(project.id("p-web-1"), web);
    assert_ne!(project.id("p-db-1"), db);
    let text = project.run(&["exec", "-T", "db", "cat", "/d/x", "/anonymous/x"]).success().text();
    assert_eq!(text, "kept\nkept\n");
    project.run(&["up", "-d", "-V", "--force-recreate", "--no-deps", "db"]).success();
    project.run(&["exec", "-T", "db", "test", "!", "-e", "/anonymous/x"]).success();

    // Up and down in numbers.
    project.run(&["up", "-d", "--no-recreate", "--scale", "web=3"]).success();
    let up = ["p-db-1 running", "p-init-1 exited", "p-web-1 running", "p-web-2 running", "p-web-3 running"];
    wait_until("init has ended", || project.states() == up);
    project.run(&["up", "-d", "--scale", "web=1", "--no-deps", "web"]).success();
    project.check_states(&["p-db-1 running", "p-init-1 exited", "p-web-1 running"]);

    // The life of what is there.
    project.run(&["stop"]).success();
    project.check_states(&["p-db-1 exited", "p-init-1 exited", "p-web-1 exited"]);
    project.run(&["start", "--wait"]).success();
    project.run(&["kill", "web"]).success();
    project.check_states(&["p-db-1 running", "p-init-1 exited", "p-web-1 exited"]);
    project.run(&["restart", "web"]).success();
    project.run(&["pause", "web"]).success();
    project.check_states(&["p-db-1 running", "p-init-1 exited", "p-web-1 paused"]);
    project.run(&["unpause", "web"]).success();
    assert!(project.run(&["top", "web"]).success().text().contains("sleep 1000"));
    assert!(project.run(&["ls"]).success().text().contains("p      exited(1), running(2)"));
    project.run(&["rm", "-f", "init"]).success();
    project.check_states(&["p-db-1 running", "p-web-1 running"]);

    // A service that the project no longer has.
    project.write("services: {other: {image: bb, network_mode: none, command: 'true'}}");
    let told = project.run(&["up", "-d"]).success();
    assert!(told.stderr.contains("--remove-orphans"), "{}", told.stderr);
    project.run(&["down", "-v", "--remove-orphans"]).success();
    project.check_states(&[]);
    project.end();
}

#[test]
fn who_wants_to_be_restarted_with_another_runs_again() {
    let text = "
services:
  web: {image: bb, network_mode: none, command: sleep 1000, stop_grace_period: 0s, depends_on: {db: {condition: service_started, restart: true}}}
  db: {image: bb, network_mode: none, command: sleep 1000, stop_grace_period: 0s, labels: {version: first}}
";
    let Some(project) = Project::new(text) else { return };
    project.run(&["up", "-d"]).success();
    let (web, db) = (project.id("p-web-1"), project.id("p-db-1"));
    project.write(&text.replace("first", "second"));
    project.run(&["up", "-d"]).success();
    project.check_states(&["p-db-1 running", "p-web-1 running"]);
    assert_eq!(project.id("p-web-1"), web);
    assert_ne!(project.id("p-db-1"), db);
    project.end();
}

#[test]
fn logs_are_followed_until_nothing_runs() {
    let text = "services: {a: {image: bb, network_mode: none, command: \"sh -c 'echo up; sleep 1000'\", stop_grace_period: 0s}}";
    let Some(project) = Project::new(text) else { return };
    project.run(&["up", "-d"]).success();
    let path = project.wharf.path("followed");
    let lines = || fs::read_to_string(&path).unwrap_or_default();
    wait_until("it has printed", || project.run(&["logs"]).text() == "a-1  | up\n");
    let mut child =
        project.command(&["logs", "-f"]).stdout(fs::File::create(&path).unwrap()).spawn().unwrap();
    wait_until("what was printed before is shown", || lines() == "a-1  | up\n");
    // All that it follows stands still for a moment.
    project.run(&["restart"]).success();
    wait_until("it goes on after a restart", || lines() == "a-1  | up\n".repeat(2));
    project.run(&["up", "-d", "--force-recreate"]).success();
    wait_until("it goes on with what is made anew", || lines() == "a-1  | up\n".repeat(3));
    project.run(&["up", "-d", "--scale", "a=2"]).success();
    wait_until("it goes on with another", || lines() == "a-1  | up\n".repeat(3) + "a-2  | up\n");
    project.run(&["scale", "a=3"]).success();
    wait_until("and with a third", || lines() == "a-1  | up\n".repeat(3) + "a-2  | up\na-3  | up\n");
    project.run(&["scale", "a=2"]).success();
    project.check_states(&["p-a-1 running", "p-a-2 running"]);
    project.run(&["scale", "a"]).fails_with(2, &["a is not SERVICE=N"]);
    project.run(&["stop"]).success();
    assert!(child.wait().unwrap().success());
    assert_eq!(lines().lines().count(), 5);
    // Nothing runs: there is nothing to wait for.
    let ended = project.run(&["logs", "-f", "--tail", "1", "a"]).success().text();
    assert_eq!(ended.lines().count(), 2, "{ended}");
    let none = project.run(&["logs", "--since", "4000000000.5"]).success().text();
    assert_eq!(none, "");
    project.end();
}

#[test]
fn run_goes_on_without_what_it_can_do_without() {
    let text = "
services:
  main: {image: bb, network_mode: none, command: echo done, depends_on: {broken: {condition: service_completed_successfully, required: false}, other: {condition: service_started, required: false}}}
  broken: {image: bb, network_mode: none, command: 'false'}
  other: {image: bb, network_mode: none, profiles: [p], env_file: nowhere.env}
";
    let Some(project) = Project::new(text) else { return };
    let ran = project.run(&["run", "--rm", "-T", "main"]).success();
    assert_eq!(ran.text(), "done\n");
    assert!(ran.stderr.contains("an optional dependency did not come up"), "{}", ran.stderr);
    project.check_states(&["p-broken-1 exited"]);
    project.run(&["up", "other"]).fails_with(3, &["the env_file of other", "nowhere.env does not exist"]);
    project.end();
}

#[test]
fn a_project_is_known_by_its_labels() {
    let Some(project) = Project::new(CHAIN) else { return };
    project.run(&["up", "-d"]).success();
    fs::remove_file(project.wharf.path("p/compose.yaml")).unwrap();
    project.run(&["-p", "p", "stop", "-t", "0"]).success();
    project.run(&["-p", "p", "down", "-v"]).success();
    project.write(CHAIN);
    project.end();
}

#[test]
fn the_files_here_are_not_those_of_another_project() {
    let here = "services: {a: {image: bb, network_mode: none, command: sleep 1000, stop_grace_period: 0s}}";
    let Some(project) = Project::new(here) else { return };
    fs::write(project.wharf.path("p/other.yaml"), here.replace("a:", "b:")).unwrap();
    project.run(&["-f", "other.yaml", "-p", "other", "up", "-d"]).success();
    let listed = ["-p", "other", "ps", "-a", "--format", "{{.Name}}"];
    assert_eq!(project.run(&listed).success().text(), "other-b-1\n");
    project.run(&["-p", "other", "down"]).success();
    assert_eq!(project.run(&listed).success().text(), "");

    // What ends containers needs no file of variables.
    project.run(&["up", "-d"]).success();
    project.write(&here.replace("command", "env_file: gone.env, command"));
    project.run(&["up", "-d"]).fails_with(3, &["the env_file of a", "gone.env does not exist", "^^^^^^^^"]);
    project.run(&["stop"]).success();
    project.run(&["run", "--entrypoint", "sh -c 'x", "a"]).fails_with(3, &["gone.env does not exist"]);
    project.run(&["down"]).success();

    // The name of a directory is that by which it was entered; and a directory of the name `.env` is no file of variables.
    project.write(here);
    std::os::unix::fs::symlink("p", project.wharf.path("linked")).unwrap();
    fs::create_dir(project.wharf.path("p/.env")).unwrap();
    let check = |pwd: &str, name: &str| {
        let mut command = project.command(&["config"]);
        let told = Outcome::of({
            command.env("PWD", project.wharf.path(pwd));
            command
        });
        assert!(told.success().text().starts_with(&format!("name: {name}\n")), "{pwd}");
    };
    check("linked", "linked");
    check("p", "p");
    check("elsewhere", "p");
    let ran = project.run(&["run", "--rm", "-T", "--entrypoint", "sh -c 'echo \"$0 and\" more'", "a"]);
    assert_eq!(ran.success().text(), "sh and more\n");
    project.run(&["run", "--entrypoint", "sh -c 'x", "a"]).fails_with(2, &["has a ' that is not closed"]);
    project.end();
}

#[test]
fn what_ends_with_a_container() {
    let text = "
services:
  fails: {image: bb, network_mode: none, command: \"sh -c 'echo one; exit 7'\"}
  stays: {image: bb, network_mode: none, command: sleep 1000, stop_grace_period: 0s}
";
    let Some(project) = Project::new(text) else { return };
    for flags in [
        &["--abort-on-container-exit"][..],
        &["--abort-on-container-failure"],
        &["--exit-code-from", "fails"],
    ] {
        let all: Vec<&str> = ["up"].iter().chain(flags).copied().collect();
        let ended = project.run(&all);
        assert_eq!(ended.code, Some(7), "{flags:?}: {}", ended.stderr);
        assert_eq!(ended.text(), "fails-1  | one\n");
        project.check_states(&["p-fails-1 exited", "p-stays-1 exited"]);
    }
    let only = project.run(&["up", "--no-log-prefix", "--no-deps", "fails"]).success();
    assert_eq!(only.text(), "one\n");
    project.run(&["up", "-d", "stays"]).success();
    assert_eq!(project.run(&["wait", "fails"]).code, Some(7));
    project.end();
}

#[test]
fn an_interrupt_stops_what_is_in_the_foreground() {
    // At any time; and while the last hook is still at work, after which there is nothing that could be left out.
    for hook in ["", "post_start: [{command: sleep 3}], "] {
        let text = format!(
            "services: {{a: {{image: bb, network_mode: none, command: sleep 1000, {hook}stop_grace_period: 0s}}}}"
        );
        let Some(project) = Project::new(&text) else { return };
        let child = project.command(&["up"]).spawn().unwrap();
        wait_until("it runs", || project.states() == ["p-a-1 running"]);
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{hook}: {}", String::from_utf8_lossy(&output.stderr));
        project.check_states(&["p-a-1 exited"]);
        project.end();
    }
}

#[test]
fn what_a_service_is_given() {
    let text = "
services:
  a:
    image: bb
    network_mode: none
    command: sleep 1000
    stop_grace_period: 0s
    environment: {SET: here}
    secrets: [t, {source: t, target: mine, uid: '5', gid: '6', mode: 0400}, {source: f}]
    configs: [c]
    post_start: [{command: [sh, -c, 'echo $$SET $$X > /post'], environment: {X: hook}}]
    pre_stop: [{command: [sh, -c, 'echo stopping > /d/pre']}]
    pre_start: [{command: [sh, -c, 'echo first > /d/first']}]
    volumes: ['d:/d']
  extra: {image: bb, network_mode: none, profiles: [more], command: sleep 1000, stop_grace_period: 0s}
secrets: {t: {environment: TOKEN}, f: {file: ./file}}
configs: {c: {content: configured}}
volumes: {d: }
";
    let Some(project) = Project::new(text) else { return };
    fs::write(project.wharf.path("p/file"), "of a file").unwrap();
    project.run(&["up", "-d"]).success();
    project.check_states(&["p-a-1 running"]);
    let inside = |command: &str| project.run(&["exec", "-T", "a", "sh", "-c", command]).success().text();
    assert_eq!(inside("cat /run/secrets/t"), "of-the-environment");
    assert_eq!(inside("stat -c '%u %g %a' /run/secrets/mine"), "5 6 400\n");
    assert_eq!(inside("cat /run/secrets/f; cat /c"), "of a fileconfigured");
    assert_eq!(inside("cat /post /d/first"), "here hook\nfirst\n");
    project.run(&["exec", "-T", "a", "sh", "-c", "echo x > /c"]).failure();
    project.run(&["stop"]).success();
    let text = project.run(&["run", "--rm", "-T", "a", "cat", "/d/pre"]).success().text();
    assert_eq!(text, "stopping\n");
    let ran = project.run(&["run", "--rm", "-T", "-e", "SET=other", "a", "sh", "-c", "echo $SET; exit 4"]);
    assert_eq!((ran.code, ran.text().as_str()), (Some(4), "other\n"), "{}", ran.stderr);
    project.check_states(&["p-a-1 exited"]);
    project.run(&["--profile", "more", "up", "-d"]).success();
    project.check_states(&["p-a-1 running", "p-extra-1 running"]);
    project.run(&["--profile", "more", "down", "-v"]).success();
    project.end();
}

#[test]
fn images_are_built_together_one_from_the_other() {
    let text = "
services:
  base: {network_mode: none, build: {context: ., dockerfile_inline: \"FROM bb\\nRUN echo made > /made\\n\"}, command: cat /made}
  app:
    network_mode: none
    build: {context: ., dockerfile_inline: \"FROM base\\nARG A\\nRUN echo $$A >> /made\\n\", args: {A: arg}, additional_contexts: {base: 'service:base'}}
    command: cat /made
";
    let Some(project) = Project::new(text) else { return };
    let built = project.run(&["--progress", "plain", "build"]).success();
    assert!(built.stderr.contains("[app 2/2] RUN echo arg >> /made"), "{}", built.stderr);
    let ran = project.run(&["up", "--no-build", "--no-log-prefix", "app"]).success();
    assert_eq!(ran.text(), "made\narg\n", "{}", ran.stderr);
    project.end();
}

#[test]
fn variables_of_the_project_are_not_only_those_of_the_shell() {
    let text = "
services:
  a: {build: {context: ., secrets: [t]}, network_mode: none}
  gone: {image: bb, network_mode: none, command: 'true'}
secrets: {t: {environment: OF_THE_FILE}}
";
    let Some(project) = Project::new(text) else { return };
    let write = |name: &str, text: &str| fs::write(project.wharf.path("p").join(name), text).unwrap();
    write("Dockerfile", "FROM bb\nRUN --mount=type=secret,id=t cat /run/secrets/t >/got\nCMD cat /got\n");
    write(".env", "OF_THE_FILE=secret\nCOMPOSE_REMOVE_ORPHANS=true\n");
    let up = project.run(&["up", "--attach", "a"]).success();
    assert_eq!(up.text(), "a-1  | secret\n");
    project.write(&text.lines().filter(|line| !line.contains("gone")).collect::<Vec<_>>().join("\n"));
    project.run(&["up", "-d"]).success();
    project.check_states(&["p-a-1 exited"]);
    write(".env", "");
    project.run(&["build"]).fails_with(3, &["variable OF_THE_FILE, which is not set"]);
    project.end();
}

#[test]
fn what_two_builds_have_in_common_runs_once() {
    let Some(project) = Project::new(
        "
services:
  one: {build: {dockerfile_inline: \"FROM bb\\nRUN sleep 1; cat /proc/sys/kernel/random/uuid > /id\"}}
  two: {build: {dockerfile_inline: \"FROM bb\\nRUN sleep 1; cat /proc/sys/kernel/random/uuid > /id\"}}
",
    ) else {
        return;
    };
    project.run(&["build"]).success();
    let id = |service: &str| project.wharf.run(&["run", "--rm", service, "cat", "/id"]).success().text();
    assert_eq!(id("p-one"), id("p-two"));
    project.end();
}

#[test]
fn the_first_build_that_fails_ends_the_others_and_nothing_else() {
    let Some(project) = Project::new(
        "
services:
  runs: {image: bb, network_mode: none, command: sleep 1000, stop_grace_period: 0s}
  fails: {build: {dockerfile_inline: \"FROM bb\\nRUN exit 3\\n\"}}
  lasts: {build: {dockerfile_inline: \"FROM bb\\nRUN sleep 1000\\n\"}}
",
    ) else {
        return;
    };
    project.run(&["up", "-d", "runs"]).success();
    let built = project.run(&["up"]).fails_with(1, &["fails: [2/2] RUN exit 3", "exit code: 3"]);
    assert!(!built.stderr.contains("stopping"), "nobody has interrupted it: {}", built.stderr);
    project.check_states(&["p-runs-1 running"]);
    project.end();
}

#[test]
fn files_are_copied_and_use_is_shown_by_service() {
    let Some(project) = Project::new(CHAIN) else { return };
    project.run(&["up", "-d", "--wait"]).success();
    fs::write(project.wharf.path("p/here"), "from here").unwrap();
    project.run(&["cp", "here", "web:/there"]).success();
    assert_eq!(project.run(&["exec", "-T", "web", "cat", "/there"]).success().text(), "from here");
    project.run(&["cp", "web:/there", "back"]).success();
    assert_eq!(fs::read_to_string(project.wharf.path("p/back")).unwrap(), "from here");
    project.run(&["cp", "--index", "2", "web:/there", "back"]).fails_with(2, &["no container number 2"]);
    project.run(&["cp", "here", "wbe:/there"]).fails_with(2, &["wbe"]);
    let shown = project.run(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]).success().text();
    let mut shown: Vec<&str> = shown.lines().collect();
    shown.sort_unstable();
    assert!(
        shown.len() == 2 && shown[0].starts_with("p-db-1 ") && shown[1].starts_with("p-web-1 "),
        "{shown:?}"
    );
    project.end();
}

#[test]
fn two_ups_at_once_make_one_project() {
    let Some(project) = Project::new(CHAIN) else { return };
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| project.run(&["up", "-d", "--wait"]))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for outcome in outcomes {
        outcome.success();
    }
    project.check_states(&["p-db-1 running", "p-init-1 exited", "p-web-1 running"]);
    project.end();
}

#[test]
fn a_killed_service_comes_back() {
    let text = "services: {a: {image: bb, network_mode: none, restart: always, command: sleep 1000, stop_grace_period: 0s}}";
    let Some(project) = Project::new(text) else { return };
    project.run(&["up", "-d", "--wait"]).success();
    let pid = || -> String {
        let top = project.run(&["top"]).text();
        let line = top.lines().find(|line| line.contains("sleep 1000")).unwrap_or_default().to_owned();
        line.split_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    let before = pid();
    let number = rustix::process::Pid::from_raw(before.parse().unwrap()).unwrap();
    rustix::process::kill_process(number, rustix::process::Signal::KILL).unwrap();
    wait_until("it runs again", || !["", before.as_str()].contains(&pid().as_str()));
    project.end();
}

#[test]
fn what_is_wrong_is_said() {
    let Some(project) = Project::new(CHAIN) else { return };
    let check = |text: &str, arguments: &[&str], code: i32, words: &[&str]| {
        project.write(text);
        project.run(arguments).fails_with(code, words);
    };
    let up = &["up", "-d"][..];
    check(
        "services: {a: {imagee: bb}}",
        up,
        3,
        &["services.a has no key imagee", "^^^^^^", "did you mean image?"],
    );
    check("services: {a: {image: '${V:?give it}'}}", up, 3, &["required variable V", "give it", "^^^"]);
    let circle = "services: {a: {image: bb, depends_on: [b]}, b: {image: bb, depends_on: [a]}}";
    check(circle, up, 3, &["in a circle: a → b → a"]);
    let one = "services: {web: {image: bb, network_mode: none, command: sleep 1000}}";
    check(one, &["up", "-d", "wep"], 2, &["there is no service wep", "did you mean web?"]);
    check(one, &["exec", "-T", "web", "true"], 2, &["has no container", "wharf compose up -d web"]);
    check(one, &["up", "-d", "--scale", "web"], 2, &["--scale web is not SERVICE=N"]);
    check(
        one,
        &["up", "-d", "--scale", "web=20000"],
        2,
        &["web wants 20000 containers", "10000 is the most"],
    );
    check(
        &one.replace("command", "pid: hosts, command"),
        up,
        3,
        &["services.web.pid: hosts is none of host"],
    );
    check("services: {a: {image: nowhere, pull_policy: never}}", up, 2, &["`nowhere`", "wharf pull nowhere"]);
    let external = "{services: {a: {image: bb, secrets: [s]}}, secrets: {s: {external: true}}}";
    check(external, up, 3, &["secrets.s is external"]);
    let named = "services: {a: {image: bb, network_mode: none, container_name: mine, scale: 2}}";
    check(named, up, 3, &["container_name, which only one container can have"]);
    let sick = "
services:
  sick: {image: bb, network_mode: none, stop_grace_period: 0s, command: sleep 1000, healthcheck: {test: 'echo not well; false', interval: 100ms, retries: 2}}
  after: {image: bb, network_mode: none, command: sleep 1000, depends_on: {sick: {condition: service_healthy}}}
";
    check(sick, up, 1, &["container p-sick-1 is unhealthy", "its last check printed: not well"]);
    project.check_states(&["p-after-1 created", "p-sick-1 running"]);
    check(
        &sick.replace("false', interval: 100ms", "false', interval: 1h"),
        &["up", "-d", "--wait", "--wait-timeout", "1", "sick"],
        1,
        &["the time is over"],
    );
    project.end();

    let Some(project) =
        Project::new("services: {a: {image: bb, network_mode: none, cpu_count: 2, command: 'true'}}")
    else {
        return;
    };
    let told = project.run(&["up", "-d"]).success();
    assert!(
        told.stderr.contains("compose.yaml:1:47: services.a.cpu_count is not acted on: it is for Windows"),
        "{}",
        told.stderr
    );
    project.end();
}

#[test]
fn services_find_one_another_and_are_found() {
    let text = "
services:
  web: {image: bb, command: \"sh -c 'echo hello > index.html; exec httpd -f -p 80'\", ports: ['127.0.0.1::80'], stop_grace_period: 0s}
  other: {image: bb, command: sleep 1000, networks: [apart], stop_grace_period: 0s}
networks: {default: , apart: }
";
    let Some(project) = Project::new(text) else { return };
    project.run(&["up", "-d", "--scale", "other=2"]).success();
    let get = ["run", "--rm", "-T", "web", "sh", "-c", "timeout 60 wget -q -O - http://web/"];
    wait_until("the server answers", || project.run(&get).text() == "hello\n");
    let apart = ["exec", "-T", "other", "sh", "-c", "timeout 5 nslookup web"];
    project.run(&apart).failure();
    project.run(&["exec", "-T", "other", "sh", "-c", "timeout 60 nslookup other"]).success();
    let address = project.run(&["port", "web", "80"]).success().text();
    let address = address.trim().to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let listed = project.run(&["ps", "web", "--format", "json"]).success().text();
    let port = &address["127.0.0.1:".len()..];
    let publisher =
        format!(r#"{{"Protocol":"tcp","PublishedPort":{port},"TargetPort":80,"URL":"127.0.0.1"}}"#);
    assert!(listed.contains(&publisher), "{listed}");
    // Who asks for a port that is in use is told, and the others stay.
    let taken = format!(
        "services: {{again: {{image: bb, command: sleep 1000, ports: ['{address}:80'], stop_grace_period: 0s}}}}"
    );
    fs::write(project.wharf.path("p/again.yaml"), taken).unwrap();
    let refused = project.run(&["-f", "again.yaml", "-p", "again", "up", "-d"]).failure();
    assert!(refused.stderr.contains(&address[10..]), "{}", refused.stderr);
    project.run(&["-f", "again.yaml", "-p", "again", "down", "-t", "0"]).success();
    project.end();
}
