//! Why steps run, what would run, and what is kept of builds: one test for each kind of miss.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::add_url::Pages;
use crate::harness::{Outcome, Wharf, busybox_layout, tool, wait_until};

pub(crate) fn parse(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.text()))
}

/// The step whose name ends with `name`.
#[track_caller]
pub(crate) fn step<'a>(build: &'a Value, name: &str) -> &'a Value {
    let steps = build["steps"].as_array().unwrap();
    let found = steps.iter().find(|step| step["name"].as_str().unwrap().ends_with(name));
    found.unwrap_or_else(|| panic!("no step `{name}` in {build:#}"))
}

/// The reasons of a step, without their texts.
#[track_caller]
pub(crate) fn reasons(build: &Value, name: &str) -> Value {
    let mut reasons = step(build, name).get("reasons").cloned().unwrap_or(json!([]));
    for reason in reasons.as_array_mut().unwrap() {
        let text = reason.as_object_mut().unwrap().remove("text").unwrap();
        assert!(!text.as_str().unwrap().is_empty());
    }
    reasons
}

pub(crate) fn outcome(build: &Value, name: &str) -> String {
    step(build, name)["outcome"].as_str().unwrap().to_owned()
}

/// A base, a file and a directory of the context, a variable, a stage that another reads.
const DOCKERFILE: &str = "\
FROM busybox AS tools
COPY tool /tool
RUN wc -c </tool >/size
FROM busybox
ARG WORD=one
COPY src /src
RUN cat /src/* >/all
RUN --mount=type=bind,source=data,target=/data cat /data/* >/data.out
COPY --from=tools /size /
RUN echo last
";

fn built() -> Option<Wharf> {
    busybox_layout()?;
    let wharf = Wharf::new()?;
    wharf
        .file("tool", "tool")
        .file("src/a", "a")
        .file("src/b", "b")
        .file("data/d", "d")
        .dockerfile(DOCKERFILE);
    wharf.build(&["-t", "app"]).success();
    Some(wharf)
}

/// Plans, builds, and checks the reasons of a step: those of the build, and those of the plan if it said that the step runs.
#[track_caller]
fn check(wharf: &Wharf, arguments: &[&str], name: &str, expected: Value) -> Value {
    let with = |flag: &'static str| [&[flag], arguments].concat();
    let plan = parse(&wharf.build(&with("--plan=json")).success());
    let build = parse(&wharf.build(&with("--explain=json")).success());
    assert_eq!(reasons(&build, name), expected, "{build:#}");
    if outcome(&plan, name) == "would-run" {
        assert_eq!(reasons(&plan, name), expected, "{plan:#}");
    }
    // What the plan was sure of happened, and nothing that it ruled out.
    for (planned, done) in plan["steps"].as_array().unwrap().iter().zip(build["steps"].as_array().unwrap()) {
        assert_eq!(planned["name"], done["name"]);
        match planned["outcome"].as_str().unwrap() {
            "would-run" => assert_eq!(done["outcome"], "ran", "{done:#}"),
            "might-run" => {}
            _ => assert_ne!(done["outcome"], "ran", "{planned:#} {done:#}"),
        }
    }
    build
}

#[test]
fn a_step_that_no_build_had() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\nRUN echo one\n");
    check(&wharf, &[], "RUN echo one", json!([{"reason": "never-seen"}]));
    wharf.dockerfile("FROM busybox\nRUN echo one\nRUN echo two\n");
    let build = check(&wharf, &[], "RUN echo two", json!([{"reason": "never-seen"}]));
    assert_eq!(outcome(&build, "RUN echo one"), "cached");
    // Another context is another project.
    fs::rename(wharf.context(), wharf.path("moved")).unwrap();
    fs::create_dir(wharf.context()).unwrap();
    wharf.dockerfile("FROM busybox\nRUN echo one\nRUN echo three\n");
    fs::remove_dir_all(wharf.context()).unwrap();
    fs::rename(wharf.path("moved"), wharf.context()).unwrap();
}

#[test]
fn files_of_the_context() {
    let Some(wharf) = built() else { return };
    let file = |path: &str, change: &str| json!({"reason": "local-file", "context": "context", "path": path, "change": change});
    wharf.file("src/a", "A");
    let build = check(&wharf, &[], "COPY src /src", json!([file("src/a", "changed")]));
    assert_eq!(
        reasons(&build, "RUN cat /src/* >/all"),
        json!([{
            "reason": "upstream-files", "step": step(&build, "COPY src /src")["name"]
        }])
    );
    assert_eq!(outcome(&build, "RUN wc -c </tool >/size"), "cached");

    wharf.file("src/new", "n");
    fs::remove_file(wharf.context().join("src/b")).unwrap();
    check(&wharf, &[], "COPY src /src", json!([file("src/b", "removed"), file("src/new", "added")]));

    fs::set_permissions(wharf.context().join("src/a"), fs::Permissions::from_mode(0o700)).unwrap();
    check(&wharf, &[], "COPY src /src", json!([file("src/a", "changed")]));

    wharf.file("data/d", "D");
    let name = "RUN --mount=type=bind,source=data,target=/data cat /data/* >/data.out";
    let build = check(&wharf, &[], name, json!([file("data/d", "changed")]));
    assert_eq!(outcome(&build, "COPY src /src"), "cached");
}

#[test]
fn many_files_are_counted() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let write = |text: &str| {
        for number in 0..150 {
            wharf.file(&format!("src/{number}"), text);
        }
    };
    write("1");
    wharf.dockerfile("FROM busybox\nCOPY src /src\n").build(&[]).success();
    write("2");
    let build = parse(&wharf.build(&["--explain=json"]).success());
    let copy = step(&build, "COPY src /src");
    assert_eq!((copy["reasons"].as_array().unwrap().len(), &copy["more_files"]), (100, &json!(50)));
    write("3");
    let text = wharf.build(&["--explain"]).success().stderr;
    assert!(
        text.contains("`src/0` changed in the context `context`") && text.contains("… and 130 more"),
        "{text}"
    );
}

#[test]
fn a_list_that_the_store_has_is_compared_with() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    for number in 0..50 {
        wharf.file(&format!("src/{number}"), "1");
    }
    wharf.dockerfile("FROM busybox\nCOPY src /src\n").build(&[]).success();
    // Another graph with the same list.
    wharf.dockerfile("FROM busybox\nCOPY src /src\nENV A=1\nRUN echo\n").build(&[]).success();
    wharf.run(&["history", "rm", "^1"]).success();
    wharf.file("src/7", "2");
    let file = json!({"reason": "local-file", "context": "context", "path": "src/7", "change": "changed"});
    check(&wharf, &[], "COPY src /src", json!([file]));
    let compared = parse(&wharf.run(&["history", "compare", "--format=json"]).success());
    assert_eq!(step(&compared, "COPY src /src")["differences"][0]["path"], "src/7");
}

#[test]
fn arguments_variables_and_commands() {
    let Some(wharf) = built() else { return };
    let changed = |name: &str, old: &str, new: &str| json!({"reason": "part-changed", "name": name, "old": old, "new": new});
    let build = check(
        &wharf,
        &["--build-arg=WORD=two"],
        "RUN cat /src/* >/all",
        json!([changed("env.WORD", "one", "two")]),
    );
    assert_eq!(outcome(&build, "COPY src /src"), "cached");

    wharf.dockerfile(
        &DOCKERFILE.replace("RUN cat /src/* >/all", "ENV MORE=x\nWORKDIR /src\nRUN cat /src/* >/all"),
    );
    let build = parse(&wharf.build(&["--explain=json"]).success());
    let all = reasons(&build, "RUN cat /src/* >/all");
    let all: Vec<&Value> = all.as_array().unwrap().iter().collect();
    let added = json!({"reason": "part-added", "name": "env.MORE", "value": "x"});
    assert!(all.contains(&&added), "{all:#?}");
    assert!(
        all.iter().any(|it| it["name"].as_str().is_some_and(|name| name.contains("workdir"))),
        "{all:#?}"
    );
    wharf.dockerfile(DOCKERFILE).build(&[]).success();

    // An instruction that was edited is compared with what it was, also when another one was put before it.
    wharf.dockerfile(&DOCKERFILE.replace("RUN echo last", "RUN echo first\nRUN echo last && true"));
    let build = parse(&wharf.build(&["--explain=json"]).success());
    assert_eq!(outcome(&build, "COPY --from=tools /size /"), "cached");
    let edited = [reasons(&build, "RUN echo first"), reasons(&build, "RUN echo last && true")];
    assert!(edited.iter().any(|it| it[0]["reason"] == "part-changed"), "{edited:#?}");
}

#[test]
fn another_selection_of_files() {
    let Some(wharf) = built() else { return };
    wharf.dockerfile(&DOCKERFILE.replace("COPY src /src", "COPY src/a /src/"));
    let build = parse(&wharf.build(&["--explain=json"]).success());
    let reasons = reasons(&build, "COPY src/a /src/");
    assert!(!reasons.as_array().unwrap().is_empty(), "{build:#}");
    assert!(!reasons.to_string().contains("never-seen"), "{reasons:#}");
}

#[test]
fn the_digest_of_a_base() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let base = |text: &str| {
        fs::create_dir_all(wharf.path("base")).unwrap();
        fs::write(wharf.path("base/Dockerfile"), format!("FROM busybox\nRUN echo {text} >/base\n")).unwrap();
        let layout = busybox_layout().unwrap().display();
        let named = format!("busybox=oci-layout://{layout}");
        let out = format!("type=oci,tar=false,dest={}", wharf.path("layout").display());
        let _ = fs::remove_dir_all(wharf.path("layout"));
        let base = wharf.path("base").display().to_string();
        wharf.run_in("other", &["build", "-q", "--build-context", &named, "-o", &out, &base]).success();
    };
    base("one");
    let named = format!("--build-context=mine=oci-layout://{}", wharf.path("layout").display());
    wharf.dockerfile("FROM mine\nRUN cat /base\n").build(&[&named]).success();
    base("two");
    let build = parse(&wharf.build(&["--explain=json", &named]).success());
    let reasons = reasons(&build, "RUN cat /base");
    let reason = &reasons[0];
    assert_eq!(reason["reason"], "base-changed", "{build:#}");
    let digest = |side: &str| reason[side].as_str().unwrap().starts_with("sha256:");
    assert!(digest("old") && digest("new") && reason["old"] != reason["new"], "{reason:#}");
}

#[test]
fn what_another_step_made() {
    let Some(wharf) = built() else { return };
    // As many bytes as before: the step that counts them runs, and stops the rebuild.
    wharf.file("tool", "TOOL");
    let name = "RUN wc -c </tool >/size";
    let build = check(
        &wharf,
        &[],
        name,
        json!([{"reason": "upstream-files", "step": "[tools 2/3] COPY tool /tool"}]),
    );
    let copy = "COPY --from=tools /size /";
    assert_eq!((outcome(&build, copy), reasons(&build, copy)), ("cached-by-content".to_owned(), json!([])));
    assert_eq!(outcome(&build, "RUN echo last"), "cached-by-content");

    wharf.file("tool", "longer");
    let build = parse(&wharf.build(&["--explain=json"]).success());
    let maker = json!("[tools 3/3] RUN wc -c </tool >/size");
    assert_eq!(
        reasons(&build, copy),
        json!([
            {"reason": "upstream-files", "step": maker},
            {"reason": "upstream-file", "step": maker, "path": "size", "change": "changed"},
        ])
    );
}

/// The step above is the same one: it made other files, or nobody knows.
#[test]
fn a_step_below_one_that_did_not_change() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let dockerfile = "FROM busybox\nCOPY a /a\nRUN cat /a\n";
    let upstream = json!({"reason": "upstream-files", "step": "[2/3] COPY a /a"});
    wharf.file("a", "1").dockerfile(dockerfile).build(&[]).success();
    wharf.file("a", "2").dockerfile(&dockerfile.replace("RUN cat /a", "RUN cat /a; false"));
    let failed = parse(&wharf.build(&["--explain=json"]).failure());
    let told = reasons(&failed, "RUN cat /a; false");
    assert_eq!((&told[0]["reason"], &told[1]), (&json!("part-changed"), &upstream), "{failed:#}");
    // Also compared with a build that failed, and by the commands of the history.
    wharf.file("a", "3");
    let failed = parse(&wharf.build(&["--explain=json"]).failure());
    assert_eq!(reasons(&failed, "RUN cat /a; false"), json!([upstream]), "{failed:#}");
    let inspected = wharf.run(&["history", "inspect"]).success().text();
    assert!(inspected.contains("`[2/3] COPY a /a` made other files"), "{inspected}");
    // A build that is all cached knows no contents.
    wharf.file("a", "1").dockerfile(dockerfile).build(&[]).success();
    let compared = wharf.run(&["history", "compare"]).success().text();
    assert!(compared.contains("`[2/3] COPY a /a` made other files"), "{compared}");
    assert!(!compared.contains("another step"), "{compared}");
}

#[test]
fn an_image_whose_configuration_alone_changed() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let build = |label: u8| {
        wharf.dockerfile(&format!("FROM busybox\nLABEL a={label}\nRUN echo one\n"));
        wharf.build(&["-t", "app"]).success();
    };
    build(1);
    build(2);
    let compared = wharf.run(&["history", "compare"]).success().text();
    assert!(compared.contains("the image's configuration differs"), "{compared}");
    build(2);
    let compared = wharf.run(&["history", "compare"]).success().text();
    assert!(!compared.contains("configuration differs"), "{compared}");
}

#[test]
fn an_image_that_is_here_does_not_run() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let first = "[1/2] FROM";
    let of_from = |build: &Value| {
        let steps = build["steps"].as_array().unwrap();
        let found = steps.iter().find(|step| step["name"].as_str().unwrap().starts_with(first));
        found.unwrap_or_else(|| panic!("no {first} in {build:#}")).clone()
    };
    wharf.dockerfile("FROM busybox\nRUN echo one\n");
    for (command, word) in [("--plan=json", "would-run"), ("--explain=json", "ran")] {
        let told = of_from(&parse(&wharf.build(&[command]).success()));
        assert_eq!(
            (&told["outcome"], &told["reasons"][0]["reason"]),
            (&json!(word), &json!("image-elsewhere"))
        );
    }
    wharf.dockerfile("FROM busybox\nRUN echo two\n");
    let plan = parse(&wharf.build(&["--plan=json"]).success());
    assert_eq!((&plan["would_run"], &of_from(&plan)["predicted_ms"]), (&json!(1), &Value::Null), "{plan:#}");
    for build in [plan, parse(&wharf.build(&["--explain=json"]).success())] {
        let told = of_from(&build);
        assert_eq!((&told["outcome"], &told["reasons"]), (&json!("here"), &Value::Null), "{build:#}");
    }
}

#[test]
fn a_source_behind_a_url() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    let pages = Pages::default();
    pages.put("/f", &["ETag: \"1\""], "one");
    let web = pages.serve();
    let url = format!("http://{}/f", web.host());
    wharf.dockerfile(&format!("FROM busybox\nADD {url} /f\n")).build(&[]).success();
    pages.put("/f", &["ETag: \"2\""], "two");
    let build = parse(&wharf.build(&["--explain=json"]).success());
    let reasons = reasons(&build, &format!("ADD {url} /f"));
    assert_eq!(reasons[0]["reason"], "source-changed", "{build:#}");
    assert_ne!(reasons[0]["old"], reasons[0]["new"]);
}

#[test]
fn a_cache_that_is_not_asked() {
    let Some(wharf) = built() else { return };
    let ignored = |by: Value| json!([{"reason": "cache-ignored", "by": by}]);
    check(&wharf, &["--no-cache"], "RUN echo last", ignored(json!({"kind": "no-cache"})));
    let filter = json!({"kind": "filter", "stage": "tools"});
    let build = check(&wharf, &["--no-cache-filter=tools"], "RUN wc -c </tool >/size", ignored(filter));
    assert_eq!(outcome(&build, "COPY src /src"), "cached");
    assert_eq!(outcome(&build, "COPY --from=tools /size /"), "cached-by-content");
}

#[test]
fn a_result_that_is_gone() {
    let Some(wharf) = built() else { return };
    for snapshot in fs::read_dir(wharf.path("store/snapshots")).unwrap() {
        fs::remove_dir_all(snapshot.unwrap().path()).unwrap();
    }
    let build = parse(&wharf.build(&["--explain=json"]).success());
    assert_eq!(reasons(&build, "RUN echo last"), json!([{"reason": "result-gone"}]), "{build:#}");
}

#[test]
fn a_step_that_failed_before() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\nRUN echo out; echo err >&2; exit 3\nRUN echo after\n");
    let failed = wharf.build(&["--explain=json"]).failure();
    let build = parse(&failed);
    assert_eq!(build["status"], "failed");
    assert!(build["error"].as_str().unwrap().contains("exit code: 3"), "{build:#}");
    assert_eq!(outcome(&build, "exit 3"), "failed");
    assert_eq!(outcome(&build, "RUN echo after"), "not-reached");
    let again = parse(&wharf.build(&["--explain=json"]).failure());
    assert_eq!(reasons(&again, "exit 3"), json!([{"reason": "unfinished"}]), "{again:#}");
    // Both are in the history, with what they printed.
    let listed = parse(&wharf.run(&["history", "--format=json"]).success());
    assert_eq!(listed.as_array().unwrap().iter().filter(|build| build["status"] == "failed").count(), 2);
    assert_eq!(wharf.run(&["history", "logs", "^1", "exit 3"]).success().text(), "out\nerr\n");
}

#[test]
fn a_plan_does_nothing_and_knows_times() {
    let Some(wharf) = built() else { return };
    wharf.file("tool", "other");
    let before = parse(&wharf.run(&["history", "--format=json"]).success());
    let plan = parse(&wharf.build(&["--plan=json"]).success());
    assert_eq!(outcome(&plan, "COPY tool /tool"), "would-run");
    assert_eq!(outcome(&plan, "RUN wc -c </tool >/size"), "might-run");
    assert_eq!(
        reasons(&plan, "RUN wc -c </tool >/size"),
        json!([
            {"reason": "upstream-runs", "step": "[tools 2/3] COPY tool /tool"}
        ])
    );
    assert_eq!(outcome(&plan, "COPY src /src"), "cached");
    assert!(step(&plan, "COPY tool /tool")["predicted_ms"].as_f64().unwrap() > 0.0);
    assert!(plan["most_ms"].as_f64() > plan["least_ms"].as_f64(), "{plan:#}");
    let text = wharf.build(&["--plan", "-t", "unused"]).success();
    assert!(text.text().contains("`tool` changed in the context `context`"), "{}", text.text());
    assert!(text.text().contains("would run") && text.stderr.contains("no effect of --tag"), "{text:?}");
    // It left no trace, and the build does what it did before.
    assert_eq!(parse(&wharf.run(&["history", "--format=json"]).success()), before);
    wharf.build(&[]).success().steps().check_ran(&[
        "COPY --from=tools /size /",
        "COPY tool /tool",
        "RUN echo last",
        "RUN wc -c </tool >/size",
    ]);
    let plan = wharf.build(&["--plan"]).success().text();
    assert!(plan.contains("nothing would run"), "{plan}");
}

#[test]
fn nothing_but_data_goes_to_standard_output() {
    let Some(wharf) = built() else { return };
    const USAGE: i32 = 2;
    wharf.build(&["--explain=json", "-o", "-"]).fails_with(USAGE, &["standard output"]);
    wharf.build(&["--explain=json", "-q"]).fails_with(USAGE, &["--quiet"]);
    wharf.build(&["--explain", "--plan"]).fails_with(USAGE, &["--plan"]);
    let explained = wharf.build(&["--explain"]).success();
    assert!(explained.stdout.is_empty() && explained.stderr.contains("explain: build "), "{explained:?}");
}

#[test]
fn an_unchanged_build_adds_one_row() {
    let Some(wharf) = built() else { return };
    // What a cached build does not know it does not describe: its graph is another one, once.
    wharf.build(&["-t", "app"]).success();
    let rows = |table: &str| {
        let script = "import sqlite3, sys\nprint(sqlite3.connect(sys.argv[1]).execute('select count(*) from ' + sys.argv[2]).fetchone()[0])";
        let database = wharf.path("store/state.db").display().to_string();
        tool("python3", &["-c", script, &database, table]).trim().parse::<usize>().unwrap()
    };
    let count =
        || parse(&wharf.run(&["history", "--format=json", "-n", "99"]).success()).as_array().unwrap().len();
    let (graphs, lists, builds) = (rows("graphs"), rows("file_lists"), count());
    let logs = log_directories(&wharf);
    for _ in 0..3 {
        wharf.build(&["-t", "app"]).success();
    }
    // They wait in a file; whoever reads the history gives them their rows.
    assert_eq!(rows("builds"), builds);
    assert_eq!((count(), rows("builds")), (builds + 3, builds + 3));
    assert_eq!((rows("graphs"), rows("file_lists")), (graphs, lists));
    assert_eq!(log_directories(&wharf), logs);
    assert!(lists >= 3, "{lists} lists of files");
}

/// Builds that have logs.
fn log_directories(wharf: &Wharf) -> usize {
    let entries = fs::read_dir(wharf.path("store/history")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
}

#[test]
fn logs_are_kept_in_full() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\nRUN seq 200000\nRUN printf 'a\\033[31mb' && echo err >&2\n");
    wharf.build(&["-t", "app"]).success();
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    let printed = wharf.run(&["history", "logs", "^0", "seq"]).success();
    assert_eq!(printed.text().len(), expected.len());
    assert!(printed.text() == expected, "the log is not what was printed");
    let lines = wharf.run(&["history", "logs", "--format=json"]).success().text();
    let last: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|it: &Value| it["step"] == 3)
        .collect();
    assert!(last.iter().any(|it| it["stream"] == "stderr" && it["data"] == "err\n"), "{last:#?}");
    // An unchanged build printed nothing.
    wharf.build(&["-t", "app"]).success();
    assert_eq!(wharf.run(&["history", "logs"]).success().text(), "");
}

#[test]
fn builds_are_inspected_compared_and_forgotten() {
    let Some(wharf) = built() else { return };
    wharf.file("src/a", "A");
    wharf.build(&["-t", "app", "--build-arg=WORD=two", "--target="]).success();
    let listed = parse(&wharf.run(&["history", "ls", "--format=json"]).success());
    let id = |number: usize| listed[number]["build"].as_str().unwrap().to_owned();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[0]["names"], json!(["docker.io/library/app:latest"]));

    let inspected = parse(&wharf.run(&["history", "inspect", &id(0), "--format=json"]).success());
    assert_eq!(inspected["request"]["build_args"], json!({"WORD": "two"}));
    assert_eq!(outcome(&inspected, "COPY src /src"), "ran");
    assert!(inspected["image"].as_str().unwrap().starts_with("sha256:"));
    assert!(inspected["provenance"].as_array().unwrap().len() >= 9);
    let text = wharf.run(&["history", "inspect", &id(0)[..8]]).success().text();
    assert!(text.contains("argument        WORD=two") && text.contains("`src/a` changed in"), "{text}");

    let compared = parse(&wharf.run(&["history", "compare", &id(1), &id(0), "--format=json"]).success());
    assert_eq!(compared["request"], json!([{"what": "argument WORD", "now": "two"}]));
    assert_eq!(reasons_of(&compared, "COPY src /src"), ["local-file"]);
    assert!(compared["equal_steps"].as_u64().unwrap() >= 3);
    assert_eq!(
        wharf.run(&["history", "compare"]).success().text(),
        wharf.run(&["history", "compare", &id(1), &id(0)]).success().text()
    );

    const USAGE: i32 = 2;
    wharf.run(&["history", "inspect", "zz"]).fails_with(USAGE, &["no build `zz`"]);
    wharf.run(&["history", "inspect", "^7"]).fails_with(USAGE, &["only 2 builds"]);
    wharf.run(&["history", "logs", "^0", "99"]).fails_with(USAGE, &["no step 99"]);
    wharf.run(&["history", "logs", "^0", "RUN"]).fails_with(USAGE, &["several steps"]);
    wharf.run(&["history", "rm", &id(1)]).success();
    assert_eq!(parse(&wharf.run(&["history", "--format=json"]).success()).as_array().unwrap().len(), 1);
    wharf.run(&["history", "rm", "--all"]).success();
    assert_eq!(parse(&wharf.run(&["history", "--format=json"]).success()), json!([]));
    assert_eq!(log_directories(&wharf), 0);
    wharf.run(&["history", "inspect"]).fails_with(USAGE, &["there is no build in the history"]);
}

/// The kinds of a compared step's differences.
fn reasons_of(compared: &Value, name: &str) -> Vec<String> {
    let differences = step(compared, name)["differences"].as_array().unwrap();
    differences.iter().map(|it| it["reason"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn cancelled_builds_and_those_without_a_graph_are_recorded() {
    let (Some(_), Some(wharf)) = (busybox_layout(), Wharf::new()) else { return };
    wharf.dockerfile("FROM busybox\nRUN echo begun && sleep 60\n");
    let command = wharf.build_command("store", &["-t", "app"]);
    let mut command = command;
    let child = command.spawn().unwrap();
    let pid = Pid::from_child(&child);
    let marks = || {
        let tmp = fs::read_dir(wharf.path("store/tmp")).into_iter().flatten().flatten();
        tmp.flat_map(|process| fs::read_dir(process.path()).into_iter().flatten().flatten())
            .flat_map(|dir| fs::read_dir(dir.path()).into_iter().flatten().flatten())
            .any(|file| file.file_name().len() == 64)
    };
    wait_until("the step prints", marks);
    kill_process(pid, Signal::INT).unwrap();
    Outcome::from_output(&command, child.wait_with_output().unwrap()).failure();
    let build = parse(&wharf.run(&["history", "inspect", "--format=json"]).success());
    assert_eq!(
        (&build["status"], outcome(&build, "sleep 60")),
        (&json!("cancelled"), "cancelled".to_owned())
    );
    assert_eq!(wharf.run(&["history", "logs"]).success().text().lines().last(), Some("begun"));

    wharf.dockerfile("FROM busybox\nNONSENSE\n").build(&[]).failure();
    let build = parse(&wharf.run(&["history", "inspect", "--format=json"]).success());
    assert_eq!((&build["status"], &build["steps"]), (&json!("failed"), &json!([])));
    assert!(
        Duration::from_secs_f64(build["duration_ms"].as_f64().unwrap() / 1000.0) < Duration::from_secs(60)
    );
}
