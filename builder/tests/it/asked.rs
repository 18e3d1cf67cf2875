//! What was asked of which remote cache, and why steps run on a machine that has built nothing yet.

use serde_json::{Value, json};

use crate::harness::{Outcome, Registry, Wharf, busybox_layout};
use crate::history::{outcome, parse, reasons, step};
use crate::remote::rewrite;

const DOCKERFILE: &str = "\
FROM busybox AS tools
COPY tool /tool
RUN wc -c </tool >/size
FROM busybox
ARG WORD=one
COPY src /src
RUN env >/word
COPY --from=tools /size /
";

const USAGE: i32 = 2;

/// A machine with the tree, and all steps of it in each of `caches`.
fn built(caches: &[&str]) -> Option<Wharf> {
    let wharf = tree()?;
    let to: Vec<String> = caches.iter().map(|to| format!("--cache-to={to},mode=max")).collect();
    let mut arguments = vec!["-t", "app"];
    arguments.extend(to.iter().map(String::as_str));
    wharf.build(&arguments).success();
    Some(wharf)
}

fn tree() -> Option<Wharf> {
    busybox_layout()?;
    let wharf = Wharf::new()?;
    wharf.file("tool", "tool").file("src/a", "a").file("src/b", "b").dockerfile(DOCKERFILE);
    Some(wharf)
}

/// A machine with all steps in the directory `cache` beside the context.
fn built_to_directory() -> Option<Wharf> {
    let wharf = tree()?;
    let to = format!("--cache-to=type=local,dest={},mode=max", wharf.path("cache").display());
    wharf.build(&["-t", "app", &to]).success();
    Some(wharf)
}

fn directory(wharf: &Wharf) -> String {
    format!("directory {}:latest", wharf.path("cache").display())
}

fn from_directory(wharf: &Wharf) -> String {
    format!("--cache-from=type=local,src={}", wharf.path("cache").display())
}

/// What was asked for a step: each place, and whether it had it.
#[track_caller]
fn asked(build: &Value, name: &str) -> Vec<(String, bool)> {
    let asked = step(build, name).get("asked").and_then(Value::as_array).cloned().unwrap_or_default();
    let asked = asked.iter().map(|it| (it["place"].as_str().unwrap().to_owned(), it["found"] == json!(true)));
    asked.collect()
}

/// The lines of a text below the step whose line ends with `name`.
#[track_caller]
fn below(text: &str, name: &str) -> Vec<String> {
    let mut lines = text.lines().skip_while(|line| line.starts_with('#') || !line.ends_with(name));
    assert!(lines.next().is_some(), "no `{name}` in {text}");
    lines.take_while(|line| line.starts_with("    ")).map(|line| line.trim().to_owned()).collect()
}

/// Plans and explains on the empty machines `store` and up, as JSON and as text.
#[track_caller]
fn check_last_step(wharf: &Wharf, arguments: &[&str], expected: &[(String, bool)], words: &str) {
    let name = "COPY --from=tools /size /";
    let run =
        |store: &str, flag: &'static str| wharf.build_in(store, &[&[flag], arguments].concat()).success();
    for (store, flag) in [("json", "--plan=json"), ("json", "--explain=json")] {
        let build = parse(&run(store, flag));
        assert_eq!(asked(&build, name), expected, "{flag}: {build:#}");
    }
    assert_eq!(below(&run("text", "--plan").text(), name)[0], words);
    assert_eq!(below(&run("text", "--explain").stderr, name)[0], words);
    // It is in the record.
    let inspected = wharf.run_in("json", &["history", "inspect", "--format=json"]).success();
    assert_eq!(asked(&parse(&inspected), name), expected);
    let inspected = wharf.run_in("json", &["history", "inspect"]).success();
    assert_eq!(below(&inspected.text(), name)[0], words);
}

#[test]
fn the_place_of_a_hit_is_named() {
    let Some(wharf) = built_to_directory() else { return };
    let place = directory(&wharf);
    let words = format!("hit in {place}");
    check_last_step(&wharf, &[&from_directory(&wharf)], &[(place, true)], &words);
    // What is here is asked of nobody.
    let build = parse(&wharf.build_in("json", &["--explain=json", &from_directory(&wharf)]).success());
    assert_eq!(asked(&build, "COPY --from=tools /size /"), []);
}

#[test]
fn places_that_do_not_have_it_are_named() {
    let Some(registry) = Registry::start() else { return };
    let ref_ = format!("{}/app:cache", registry.address);
    let cache = format!("type=registry,ref={ref_}");
    let Some(wharf) = built(&[&cache]) else { return };
    let place = format!("registry {ref_}");
    let from = format!("--cache-from={cache}");
    check_last_step(&wharf, &[&from], &[(place.clone(), true)], &format!("hit in {place}"));

    // A second place, which has another build.
    wharf.file("src/a", "A");
    let to = format!("--cache-to=type=local,dest={},mode=max", wharf.path("cache").display());
    wharf.build(&[&to]).success();
    wharf.file("src/a", "AA");
    let both = [&*from, &*from_directory(&wharf)];
    let build = parse(&wharf.build_in("third", &[&["--explain=json"], &both[..]].concat()).success());
    let nowhere = [(place.clone(), false), (directory(&wharf), false)];
    assert_eq!(asked(&build, "COPY src /src"), nowhere, "{build:#}");
    assert_eq!(outcome(&build, "COPY src /src"), "ran");
    let text = wharf.build_in("fourth", &[&["--explain"], &both[..]].concat()).success().stderr;
    let lines = below(&text, "COPY src /src");
    assert_eq!(lines[0], format!("not in {place}, {}", directory(&wharf)));
    assert_eq!(lines[1], "files of the context `context` changed");
}

/// On an empty machine: the reasons of a step, by what the cache says of what was built elsewhere.
#[track_caller]
fn check_reasons(wharf: &Wharf, store: &str, arguments: &[&str], name: &str, expected: Value) {
    let from = from_directory(wharf);
    for flag in ["--plan=json", "--explain=json"] {
        let build = parse(&wharf.build_in(store, &[&[flag, &from], arguments].concat()).success());
        assert_eq!(reasons(&build, name), expected, "{flag}: {build:#}");
        assert_eq!(step(&build, name)["compared_with_cache"], json!(directory(wharf)), "{build:#}");
    }
    let inspected = wharf.run_in(store, &["history", "inspect"]).success().text();
    assert!(
        inspected.ends_with(&format!("compared with the cache in {}\n", directory(wharf))),
        "{inspected}"
    );
}

#[test]
fn an_empty_machine_names_what_changed() {
    let Some(wharf) = built_to_directory() else { return };
    let changed = |old: &str, new: &str| json!([{"reason": "part-changed", "name": "env.WORD", "old": old, "new": new}]);
    check_reasons(&wharf, "argument", &["--build-arg=WORD=two"], "RUN env >/word", changed("one", "two"));

    wharf.file("src/a", "A");
    let files = json!([{"reason": "local-files", "context": "context"}]);
    check_reasons(&wharf, "files", &[], "COPY src /src", files);
    wharf.file("src/a", "a");

    wharf.dockerfile(&DOCKERFILE.replace("COPY src /src", "COPY src/a /src"));
    let build = parse(&wharf.build_in("selection", &["--explain=json", &from_directory(&wharf)]).success());
    let selection = reasons(&build, "COPY src/a /src").to_string();
    assert!(selection.contains("selection-changed"), "{selection}");

    // Once something was built here, that is what is compared with.
    let build = parse(
        &wharf
            .build_in("selection", &["--explain=json", &from_directory(&wharf), "--build-arg=WORD=three"])
            .success(),
    );
    assert_eq!(reasons(&build, "RUN env >/word"), changed("one", "three"));
    assert!(step(&build, "RUN env >/word")["compared_with"].is_string(), "{build:#}");
}

#[test]
fn an_empty_machine_names_the_base_and_the_step_that_changed() {
    let (Some(wharf), Some(registry)) = (tree(), Registry::start()) else { return };
    let base = format!("{}/base:v1", registry.address);
    let push = |text: &str| {
        wharf.dockerfile(&format!("FROM busybox\nRUN echo {text} >/base\n"));
        wharf.build(&["-t", &base, "--push"]).success();
    };
    push("one");
    let dockerfile = format!(
        "FROM {base} AS tools\nRUN cp /base /made\nFROM busybox\nRUN echo first\nCOPY --from=tools /made /\n"
    );
    wharf.dockerfile(&dockerfile);
    let to = format!("--cache-to=type=local,dest={},mode=max", wharf.path("cache").display());
    wharf.build(&["-t", "app", &to]).success();
    push("two");
    wharf.dockerfile(&dockerfile);
    let build = parse(&wharf.build_in("other", &["--explain=json", &from_directory(&wharf)]).success());
    let changed = reasons(&build, "RUN cp /base /made");
    assert_eq!(changed.as_array().unwrap().len(), 1, "{changed:#}");
    assert_eq!(changed[0]["reason"], "base-changed");
    assert_ne!(changed[0]["old"], changed[0]["new"]);
    assert!(changed[0]["image"].as_str().unwrap().contains("/base"), "{changed:#}");
    let upstream = reasons(&build, "COPY --from=tools /made /");
    assert_eq!(upstream[0]["step"], step(&build, "RUN cp /base /made")["name"], "{upstream:#}");
    assert_eq!(outcome(&build, "RUN echo first"), "cached");
}

#[test]
fn a_place_that_is_down_is_named_once() {
    let Some(wharf) = built_to_directory() else { return };
    // Nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let down = format!("{address}/app:cache");
    let arguments = [&*format!("--cache-from={down}"), &*from_directory(&wharf), "--build-arg=WORD=two"];
    let said = format!("the cache in registry {down} was not used: ");
    let once = |text: &str| {
        let lines: Vec<&str> =
            text.lines().filter(|line| line.contains(&down) && !line.starts_with('#')).collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert!(lines[0].starts_with(&said) && lines[0].contains("refused"), "{text}");
    };
    let plan = wharf.build_in("other", &[&["--plan"], &arguments[..]].concat()).success();
    once(&plan.text());
    assert_eq!(plan.stderr.matches(&format!("warning: {said}")).count(), 1, "{}", plan.stderr);
    let build = wharf.build_in("other", &[&["--explain"], &arguments[..]].concat()).success();
    once(build.stderr.split_once("explain: ").unwrap().1);
    assert_eq!(below(&build.stderr, "RUN env >/word")[0], format!("not in {}", directory(&wharf)));
    once(&wharf.run_in("other", &["history", "inspect"]).success().text());
    let build = parse(&wharf.run_in("other", &["history", "inspect", "--format=json"]).success());
    assert_eq!(build["caches_not_used"][0]["place"], json!(format!("registry {down}")));
    assert_eq!(build["caches_not_used"].as_array().unwrap().len(), 1);
    // A place where nothing is yet.
    let empty = format!("--cache-from=type=local,src={}", wharf.path("nowhere").display());
    let build = parse(&wharf.build_in("empty", &["--explain=json", &empty]).success());
    assert!(build["caches_not_used"][0]["reason"].is_string(), "{build:#}");
}

#[test]
fn what_a_cache_says_of_itself_is_only_words() {
    type Lie<'a> = &'a dyn Fn(&mut Value);
    let escape = "\u{1b}[2J\u{9b}31m\u{7}\u{7f}x";
    let lies: [(Lie<'_>, bool); 5] = [
        (
            &|said| {
                for part in said["parts"].as_array_mut().unwrap() {
                    part["value"] = json!(format!("{escape}\n{}", part["value"].as_str().unwrap()));
                }
            },
            true,
        ),
        (&|said| said["op"] = json!("00".repeat(32)), false),
        (&|said| *said = json!([1, {"parts": 7}]), false),
        (&|said| said["parts"] = json!("x".repeat(1 << 20)), false),
        (&|said| said["parts"][0]["value"] = json!("x".repeat(1 << 20)), false),
    ];
    for (number, (lie, is_compared)) in lies.into_iter().enumerate() {
        let Some(wharf) = built_to_directory() else { return };
        rewrite(&wharf, |config| {
            for record in config["records"].as_array_mut().unwrap() {
                lie(&mut record["provenance"]);
            }
        });
        let from = from_directory(&wharf);
        let arguments = |flag: &'static str| [flag, &*from, "--build-arg=WORD=two"];
        // The records are as good as before.
        let build = wharf.build_in("other", &arguments("--explain=json")).success();
        let parsed = parse(&build);
        assert_eq!(outcome(&parsed, "COPY src /src"), "cached", "{number}");
        let reasons = reasons(&parsed, "RUN env >/word");
        assert_eq!(reasons != json!([{"reason": "never-seen"}]), is_compared, "{number}: {reasons:#}");
        let text = wharf.build_in("third", &arguments("--explain")).success();
        let inspected = wharf.run_in("third", &["history", "inspect"]).success();
        for shown in [build.text(), text.stderr, inspected.text()] {
            assert!(shown.chars().all(|char| char == '\n' || !char.is_control()), "{number}: {shown:?}");
        }
    }
}

#[test]
fn a_plan_records_nothing() {
    let Some(wharf) = built_to_directory() else { return };
    let plan = parse(&wharf.build_in("other", &["--plan=json", &from_directory(&wharf)]).success());
    assert_eq!(plan["would_run"], json!(0), "{plan:#}");
    let steps = wharf.build_in("other", &["-t", "app"]).success().steps();
    steps.check_ran(&[
        "COPY --from=tools /size /",
        "COPY src /src",
        "COPY tool /tool",
        "RUN env >/word",
        "RUN wc -c </tool >/size",
    ]);
}

#[track_caller]
fn check_offline(outcome: &Outcome, left_out: &[&str]) {
    let told = "warning: the build is offline, so these caches are not asked: ";
    let lines: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("are not asked")).collect();
    let expected: &[String] = match left_out {
        [] => &[],
        _ => &[format!("{told}{}", left_out.join(", "))],
    };
    assert_eq!(lines, expected, "{}", outcome.stderr);
}

#[test]
fn offline_nobody_is_asked_and_directories_are_used() {
    let Some(registry) = Registry::start() else { return };
    let ref_ = format!("{}/app:cache", registry.address);
    let cache = format!("type=registry,ref={ref_}");
    let Some(wharf) = built(&[&cache]) else { return };
    let to = format!("--cache-to=type=local,dest={},mode=max", wharf.path("cache").display());
    check_offline(&wharf.build(&["-t", "app", "--offline", &to]).success(), &[]);
    registry.log();
    let places = [&*format!("--cache-from={cache}"), "--cache-from=type=s3,bucket=bucket,region=r"];
    let away = [&*format!("registry {ref_}"), "s3"];
    let outcome = wharf
        .build_in("other", &["--offline", "--explain=json", places[0], &from_directory(&wharf)])
        .success();
    check_offline(&outcome, &away[..1]);
    outcome.steps().check_ran(&[]);
    let build = parse(&outcome);
    let left_out = json!([{"place": away[0], "reason": "the build is offline"}]);
    assert_eq!(build["caches_not_used"], left_out, "{build:#}");
    assert_eq!(asked(&build, "COPY --from=tools /size /"), [(directory(&wharf), true)]);
    let outcome = wharf.build_in("third", &["--offline", places[0], places[1]]).success();
    let warnings: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("are not asked")).collect();
    assert_eq!(warnings.len(), 1, "{}", outcome.stderr);
    assert!(warnings[0].contains(away[0]) && warnings[0].contains(", s3://bucket/"), "{warnings:?}");
    let log = registry.log();
    assert!(!log.contains("/v2/app"), "{log}");
}

#[test]
fn offline_no_cache_is_written_over_the_network() {
    let Some(wharf) = tree() else { return };
    for to in ["type=registry,ref=127.0.0.1:9/app:cache", "type=s3,bucket=bucket,region=r"] {
        wharf.build(&["--offline", "--cache-to", to]).fails_with(
            USAGE,
            &["--offline", "--cache-to", "is written over the network", "leave one of them out"],
        );
    }
    wharf.build(&["--offline", "-t", "app", "--cache-to", "type=inline"]).success();
}
