//! What is said about steps: outcomes, keys, times, plans, limits.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::explain::{self, Reason};

/// One line a vertex.
fn lines<O: std::fmt::Debug>(definition: &Definition, steps: &[StepReport<O>]) -> String {
    let line = |step: &StepReport<O>| {
        let name = &definition.vertex(&step.vertex).metadata.name;
        let asked = step.lookups.iter().map(|lookup| {
            format!(" {}{:?}", if lookup.found { "" } else { "no " }, lookup.kind).to_lowercase()
        });
        let ignored = match step.ignored {
            None => String::new(),
            Some(Ignored::Itself) => " ignoring".to_owned(),
            Some(Ignored::Upstream(by)) => {
                format!(" below {}", definition.vertex(&steps[by].vertex).metadata.name)
            }
        };
        format!("{name}: {:?}{ignored}{}\n", step.outcome, asked.collect::<String>())
    };
    steps.iter().map(line).collect()
}

#[track_caller]
fn check_solve(world: &World, (definition, goal): &(Definition, Edge), expected: Expect) {
    let solved = world.solve_reporting(definition, &[*goal]);
    expected.assert_eq(&lines(definition, &solved.steps));
}

#[track_caller]
fn check_plan(world: &World, (definition, goal): &(Definition, Edge), expected: Expect) {
    let planned = world.plan(definition, &[*goal]);
    expected.assert_eq(&lines(definition, &planned.steps));
}

#[test]
fn a_solve_reports_what_happened_to_every_step() {
    let mut world = world();
    let graph = definition(two_stages);
    check_plan(
        &world,
        &graph,
        expect![[r#"
        context: Source
        base: WouldRun
        install: WouldRun no definition
        copy src: WouldRun no definition
        make: WouldRun no definition
        copy app: WouldRun no definition
    "#]],
    );
    check_solve(
        &world,
        &graph,
        expect![[r#"
        context: Done(Lazy)
        base: Done(Executed)
        install: Done(Executed) no definition
        copy src: Done(Executed) no definition
        make: Done(Executed) no definition
        copy app: Done(Executed) no definition
    "#]],
    );
    check_solve(
        &world,
        &graph,
        expect![[r#"
        context: NotNeeded
        base: NotNeeded
        install: NotNeeded
        copy src: NotNeeded
        make: NotNeeded
        copy app: Done(DefinitionHit) definition
    "#]],
    );
    edit(&mut world, "/src/main", "2");
    check_plan(
        &world,
        &graph,
        expect![[r#"
        context: Source
        base: MightRun
        install: Hit(Definition) definition
        copy src: WouldRun no definition no content
        make: MightRun no definition
        copy app: MightRun no definition
    "#]],
    );
    check_solve(
        &world,
        &graph,
        expect![[r#"
        context: Done(Lazy)
        base: Done(Lazy)
        install: Done(DefinitionHit) definition
        copy src: Done(Executed) no definition no content
        make: Done(Executed) no definition no content
        copy app: Done(ContentHit) no definition content
    "#]],
    );
}

#[test]
fn a_failed_solve_reports_too() {
    let mut world = world();
    world.on_execute = Some(Box::new(|name| match name {
        "make" => Err(WorldError("exit status 1".into())),
        _ => Ok(()),
    }));
    let graph = definition(two_stages);
    check_solve(
        &world,
        &graph,
        expect![[r#"
        context: Done(Lazy)
        base: Done(Executed)
        install: Done(Executed) no definition
        copy src: Done(Executed) no definition
        make: Failed no definition
        copy app: NotReached no definition
    "#]],
    );
    world.cancelled.store(true, Ordering::SeqCst);
    check_solve(
        &world,
        &graph,
        expect![[r#"
        context: NotReached
        base: NotReached
        install: NotReached
        copy src: NotReached
        make: NotReached
        copy app: NotReached
    "#]],
    );
    check_plan(
        &world,
        &graph,
        expect![[r#"
        context: NotReached
        base: NotReached
        install: NotReached
        copy src: NotReached
        make: NotReached
        copy app: NotReached
    "#]],
    );
    assert!(matches!(world.plan(&graph.0, &[graph.1]).result, Err(SolveError::Cancelled)));
}

#[test]
fn what_cannot_be_read_is_the_same_failure_in_a_plan() {
    let world = world();
    let graph = definition(|builder| {
        let context = builder.local("context");
        let base = builder.image("base", PIN_A);
        builder.copy_existing("copy missing", base, context, "/missing")
    });
    let planned = world.plan(&graph.0, &[graph.1]);
    expect!["`/missing` not found"].assert_eq(&planned.result.unwrap_err().to_string());
    expect![[r#"
        context: started
        copy missing: started
        copy missing: failed: `/missing` not found
        context: done
    "#]]
    .assert_eq(&world.story());
}

#[test]
fn ignoring_the_cache_is_reported_with_the_step_that_does() {
    let world = world();
    let build = |ignore: bool| {
        definition(|builder| {
            let base = builder.image("base", PIN_A);
            builder.ignore_cache = ignore;
            let installed = builder.run("install", base, &["/installed", "1000"]);
            builder.ignore_cache = false;
            let made = builder.run("make", installed, &["/app", "2"]);
            builder.run("test", made, &["/tested", "2"])
        })
    };
    let (plain, goal) = build(false);
    world.solve(&plain, &[goal]).unwrap();
    let graph = build(true);
    check_plan(
        &world,
        &graph,
        expect![[r#"
        base: WouldRun
        install: WouldRun ignoring
        make: MightRun below install
        test: MightRun below install
    "#]],
    );
    check_solve(
        &world,
        &graph,
        expect![[r#"
        base: Done(Executed)
        install: Done(Executed) ignoring
        make: Done(ContentHit) below install content
        test: Done(ContentHit) below install content
    "#]],
    );
}

#[test]
fn equal_steps_are_planned_once() {
    let world = world();
    let graph = definition(|builder| {
        let image = builder.image("base", PIN_A);
        let layout = builder.layout("directory", PIN_A);
        let one = builder.run("one", image, &["/x", "1000"]);
        let same = builder.run("same", layout, &["/x", "1000"]);
        builder.merge("both", &[one, same])
    });
    check_plan(
        &world,
        &graph,
        expect![[r#"
        base: WouldRun
        directory: NotNeeded
        one: WouldRun no definition
        same: Equal(2) no definition
        both: WouldRun no definition
    "#]],
    );
}

#[test]
fn times_are_those_of_the_work() {
    let world = world();
    let (graph, goal) = definition(two_stages);
    let solved = world.solve(&graph, &[goal]).unwrap();
    // The clock goes on by one at every look at it: a task takes one.
    let times: Vec<_> = solved
        .steps
        .iter()
        .map(|step| (step.started.map(|started| started.as_millis()), step.took.as_millis()))
        .collect();
    assert_eq!(
        times,
        [(Some(0), 1), (Some(2), 2), (Some(6), 1), (Some(8), 1), (Some(10), 1), (Some(12), 1)],
        "an image is resolved and brought in"
    );
    let solved = world.solve(&graph, &[goal]).unwrap();
    let worked: Vec<_> = solved.steps.iter().map(|step| step.started.is_some()).collect();
    assert_eq!(worked, [true, false, false, false, false, false], "only the context was looked at");
}

/// Everything by which a step can be another one, as the solver sees it.
#[test]
fn each_kind_of_difference_is_named() {
    let mut world = world();
    let of = |pin: &'static str, src: &'static str, arg: &'static str| {
        definition(move |builder| {
            let context = builder.local("context");
            let base = builder.image("base", pin);
            let url = builder.url("file");
            let copied = builder.copy_existing("copy", base, context, src);
            let made = builder.run("make", copied, &[arg, "1000"]);
            builder.merge("all", &[made, url])
        })
    };
    world.images.insert(build::PIN_B.into(), BTreeMap::from([("/bin".into(), "new".into())]));
    world.remotes.insert("https://host/file".into(), BTreeMap::from([("/f".into(), "1".into())]));
    let provenances = |world: &World, (definition, goal): (Definition, Edge)| -> Vec<_> {
        let steps = world.solve(&definition, &[goal]).unwrap().steps;
        (0..steps.len()).map(|index| explain::provenance(&definition, &steps, index)).collect()
    };
    let before = provenances(&world, of(PIN_A, "/src", "/app"));
    let reasons = |now: Vec<explain::Provenance>| -> String {
        let mut text = String::new();
        for now in now {
            let before = before.iter().find(|before| before.name == now.name).unwrap();
            let reasons = explain::compare(before, &now);
            if reasons != [Reason::ResultGone] {
                let reasons: Vec<String> = reasons.iter().map(Reason::to_string).collect();
                text.push_str(&format!("{}: {}\n", now.name, reasons.join("; ")));
            }
        }
        text
    };
    expect![[r#""#]].assert_eq(&reasons(provenances(&world, of(PIN_A, "/src", "/app"))));
    expect![[r#"
        base: image changed from `sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa` to `sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb`
        copy: the image `docker-image://base` changed from sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa to sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
        make: `copy` made other files
        all: `make` made other files
    "#]].assert_eq(&reasons(provenances(&world, of(build::PIN_B, "/src", "/app"))));
    expect![[r#"
        copy: copy[0].src changed from `src` to `readme`; it reads `files /readme` of `context`, not `files /src`
        make: `copy` made other files
        all: `make` made other files
    "#]].assert_eq(&reasons(provenances(&world, of(PIN_A, "/readme", "/app"))));
    expect![[r#"
        make: args changed from `/app 1000` to `/other 1000`
        all: `make` made other files
    "#]]
    .assert_eq(&reasons(provenances(&world, of(PIN_A, "/src", "/other"))));
    edit(&mut world, "/src/main", "2");
    expect![[r#"
        copy: files of the context `context` changed
        make: `copy` made other files
        all: `make` made other files
    "#]]
    .assert_eq(&reasons(provenances(&world, of(PIN_A, "/src", "/app"))));
    edit(&mut world, "/src/main", "1");
    world.remotes.insert("https://host/file".into(), BTreeMap::from([("/f".into(), "2".into())]));
    expect![[r#"
        file: what `file` stands for changed from f4d0560e9dbd5bb46214116ac131203743641475abebeca9c141a18ef707e5f0 to 944c0f2bf58c2db49de21069f8a8099de980507fdca06151b482bbfcf07bedd2
        all: what `https://host/file` stands for changed from f4d0560e9dbd5bb46214116ac131203743641475abebeca9c141a18ef707e5f0 to 944c0f2bf58c2db49de21069f8a8099de980507fdca06151b482bbfcf07bedd2
    "#]].assert_eq(&reasons(provenances(&world, of(PIN_A, "/src", "/app"))));
}

/// Runs wide graphs and counts how many of a kind run together.
#[test]
fn each_resource_has_its_own_limit() {
    for (limits, most_steps, most_digests) in [
        (Limits { steps: 1, ..Limits::default() }, 1, 4),
        (Limits { hashing: 2, ..Limits::default() }, 4, 2),
        (Limits { steps: 2, transfers: 1, hashing: 1 }, 2, 1),
    ] {
        let mut world = world();
        world.jobs = 4;
        world.limits = limits;
        let most = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let (steps, digests) = (counting(&most, 0), counting(&most, 1));
        world.on_execute = Some(Box::new(move |_| {
            steps();
            Ok(())
        }));
        // What a step read is digested by the step itself when it has run.
        world.on_digest = Some(Box::new(move |name| {
            if name.starts_with("context") {
                digests();
            }
        }));
        let names: Vec<String> = (0..12).map(|number| format!("context {number}")).collect();
        for name in &names {
            world.locals.insert(name.clone(), BTreeMap::from([("/f".into(), name.clone())]));
        }
        let (graph, goal) = definition(|builder| {
            let scratch = builder.merge("scratch", &[]);
            let copies: Vec<Edge> = names
                .iter()
                .map(|name| {
                    let context = builder.local(name);
                    builder.copy_existing(name, scratch, context, "/f")
                })
                .collect();
            builder.merge("all", &copies)
        });
        world.solve(&graph, &[goal]).unwrap();
        assert!(most[0].load(Ordering::SeqCst) <= most_steps, "{limits:?}: {most:?}");
        assert!(most[1].load(Ordering::SeqCst) <= most_digests, "{limits:?}: {most:?}");
        assert_eq!(world.executed(&graph).len(), 14);
    }
}

/// Notes the most callers that are in it together.
fn counting(most: &Arc<[AtomicUsize; 2]>, which: usize) -> impl Fn() + Sync + use<> {
    let (most, now) = (Arc::clone(most), AtomicUsize::new(0));
    move || {
        let running = now.fetch_add(1, Ordering::SeqCst) + 1;
        most[which].fetch_max(running, Ordering::SeqCst);
        std::thread::yield_now();
        now.fetch_sub(1, Ordering::SeqCst);
    }
}
