//! The scheduler: states by events, graphs against a naive twin.

mod build;
mod random;
mod reports;
mod world;

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, Condvar, Mutex};

use expect_test::{Expect, expect};

use self::build::{Builder, PIN_A};
use self::world::{World, WorldError, naive};
use super::*;
use crate::llb::Edge;

/// A world with one context and one image.
fn world() -> World {
    let mut world = World::default();
    world.locals.insert(
        "context".into(),
        BTreeMap::from([("/src/main".into(), "1".into()), ("/readme".into(), "1".into())]),
    );
    world.images.insert(PIN_A.into(), BTreeMap::from([("/bin".into(), "sh".into())]));
    world
}

/// `FROM base`, `RUN install`, `COPY src`, `RUN make`, and a second stage that takes a file of the first.
fn two_stages(builder: &mut Builder) -> Edge {
    let context = builder.local("context");
    let base = builder.image("base", PIN_A);
    let installed = builder.run("install", base, &["/installed", "1000"]);
    let copied = builder.copy_existing("copy src", installed, context, "/src");
    let made = builder.run("make", copied, &["/app", "2"]);
    builder.copy_existing("copy app", base, made, "/app")
}

fn definition(build: impl FnOnce(&mut Builder) -> Edge) -> (Definition, Edge) {
    let mut builder = Builder::default();
    let goal = build(&mut builder);
    (builder.definition, goal)
}

/// Solves and compares the story; the results must be the naive twin's.
#[track_caller]
fn check(world: &World, definition: &Definition, goal: Edge, story: Expect) {
    let solved = world.solve(definition, &[goal]).unwrap();
    assert_eq!(world.files(definition, &solved.results[0]), naive(world, definition, goal));
    story.assert_eq(&world.story());
}

fn outcome(steps: &[StepReport], edge: Edge) -> StepOutcome {
    steps.iter().find(|step| step.vertex == edge.vertex).unwrap().outcome
}

fn edit(world: &mut World, path: &str, content: &str) {
    world.locals.get_mut("context").unwrap().insert(path.into(), content.into());
}

#[test]
fn a_first_build_runs_everything_and_a_second_nothing() {
    let world = world();
    let (definition, goal) = definition(two_stages);
    check(
        &world,
        &definition,
        goal,
        expect![[r#"
        context: started
        context: done
        base: started
        base: done
        install: started
        install: done
        copy src: started
        copy src: done
        make: started
        make: done
        copy app: started
        copy app: done
    "#]],
    );
    check(
        &world,
        &definition,
        goal,
        expect![[r#"
        context: started
        context: done
        base: cached
        install: cached
        copy src: cached
        make: cached
        copy app: cached
    "#]],
    );
    let journal = world.journal.lock().unwrap();
    assert_eq!((journal.digests, journal.lookups, journal.resolved), (1, 1, 0), "only the goal is looked up");
}

#[test]
fn an_edited_leaf_reruns_only_what_depends_on_it() {
    let mut world = world();
    let (definition, goal) = definition(two_stages);
    world.solve(&definition, &[goal]).unwrap();
    edit(&mut world, "/readme", "2");
    check(
        &world,
        &definition,
        goal,
        expect![[r#"
        context: started
        context: done
        base: cached
        install: cached
        copy src: cached
        make: cached
        copy app: cached
    "#]],
    );
    edit(&mut world, "/src/main", "2");
    check(
        &world,
        &definition,
        goal,
        expect![[r#"
        context: started
        context: done
        install: cached
        copy src: started
        copy src: done
        make: started
        make: done
        base: cached
        copy app: cached
    "#]],
    );
}

#[test]
fn a_step_that_gives_the_same_files_stops_the_rebuild() {
    let mut world = world();
    let (definition, goal) = definition(|builder| {
        let context = builder.local("context");
        let base = builder.image("base", PIN_A);
        let copied = builder.copy_existing("copy src", base, context, "/src");
        let made = builder.run("make", copied, &["/app", "1"]);
        let app = builder.copy_existing("copy app", base, made, "/app");
        builder.run("test", app, &["/tested", "1000"])
    });
    world.solve(&definition, &[goal]).unwrap();
    edit(&mut world, "/src/main", "2");
    check(
        &world,
        &definition,
        goal,
        expect![[r#"
        context: started
        context: done
        base: started
        base: done
        copy src: started
        copy src: done
        make: started
        make: done
        copy app: cached
        test: cached
    "#]],
    );
    // And the new definitions are remembered.
    check(
        &world,
        &definition,
        goal,
        expect![[r#"
        context: started
        context: done
        base: cached
        copy src: cached
        make: cached
        copy app: cached
        test: cached
    "#]],
    );
    assert_eq!(world.journal.lock().unwrap().lookups, 1);
}

#[test]
fn an_image_is_brought_in_only_for_a_step_that_runs() {
    let world = world();
    let (alone, image) = definition(|builder| builder.image("base", PIN_A));
    check(
        &world,
        &alone,
        image,
        expect![[r#"
        base: cached
    "#]],
    );
    let (definition, goal) = definition(two_stages);
    let solved = world.solve(&definition, &[image, goal]).unwrap();
    assert!(matches!(solved.results[0], ResultRef::Image { .. }), "also when its files are here");
    assert_eq!(outcome(&solved.steps, image), StepOutcome::Done(VertexOutcome::Executed));
    let solved = world.solve(&definition, &[image, goal]).unwrap();
    assert_eq!(outcome(&solved.steps, image), StepOutcome::Done(VertexOutcome::Lazy));
}

#[test]
fn one_image_under_two_names_runs_its_steps_once() {
    let world = world();
    let (definition, goal) = definition(|builder| {
        let image = builder.image("base", PIN_A);
        let layout = builder.layout("directory", PIN_A);
        let one = builder.run("one", image, &["/x", "1000"]);
        let same = builder.run("same", layout, &["/x", "1000"]);
        builder.merge("both", &[one, same])
    });
    check(
        &world,
        &definition,
        goal,
        expect![[r#"
        base: started
        base: done
        one: started
        one: done
        directory: cached
        same: cached
        both: started
        both: done
    "#]],
    );
}

/// That both read the same is known only when they run. The next solve finds of each what it gave.
#[test]
fn what_an_equal_step_gave_meanwhile_is_not_replaced() {
    let mut world = world();
    world.jobs = 1;
    let mut builder = Builder::default();
    let context = builder.local("context");
    let merged = builder.merge("merge", &[context, context]);
    let goals = [("on the merge", merged), ("on the context", context)]
        .map(|(name, input)| builder.run(name, input, &["/out", "2"]));
    let solved = world.solve(&builder.definition, &goals).unwrap();
    assert_eq!(world.executed(&builder.definition), ["merge", "on the context", "on the merge"]);
    assert_ne!(solved.results[0], solved.results[1]);
    let again = world.solve(&builder.definition, &goals).unwrap();
    assert_eq!(world.executed(&builder.definition), [""; 0]);
    assert_eq!(again.results, solved.results);
}

#[test]
fn sources_without_metadata_are_run_and_kept() {
    let world = world();
    let (definition, goal) = definition(|builder| builder.url("file"));
    check(
        &world,
        &definition,
        goal,
        expect![[r#"
        file: started
        file: done
    "#]],
    );
    check(
        &world,
        &definition,
        goal,
        expect![[r#"
            file: started
            file: cached
        "#]],
    );
}

#[test]
fn what_ignores_the_cache_runs_and_what_follows_is_compared_by_content() {
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
    let (ignoring, goal) = build(true);
    check(
        &world,
        &ignoring,
        goal,
        expect![[r#"
        base: started
        base: done
        install: started
        install: done
        make: cached
        test: cached
    "#]],
    );
}

#[test]
fn independent_steps_run_at_the_same_time() {
    let mut world = world();
    world.jobs = 8;
    let together = Arc::new(Barrier::new(8));
    world.on_execute = Some(Box::new(move |name| {
        if name.starts_with("part") {
            together.wait();
        }
        Ok(())
    }));
    let (definition, goal) = definition(|builder| {
        let base = builder.image("base", PIN_A);
        let parts: Vec<Edge> = (0..8)
            .map(|part| builder.run(&format!("part {part}"), base, &[&format!("/{part}"), "1000"]))
            .collect();
        builder.merge("all", &parts)
    });
    let solved = world.solve(&definition, &[goal]).unwrap();
    assert_eq!(world.files(&definition, &solved.results[0]), naive(&world, &definition, goal));
    assert_eq!(world.executed(&definition).len(), 9);
}

#[test]
fn no_more_jobs_than_allowed_run_at_once() {
    let mut world = world();
    world.jobs = 3;
    let running = Arc::new(Mutex::new((0, 0)));
    let seen = Arc::clone(&running);
    world.on_execute = Some(Box::new(move |_| {
        {
            let mut running = running.lock().unwrap();
            running.0 += 1;
            running.1 = running.0.max(running.1);
        }
        std::thread::yield_now();
        running.lock().unwrap().0 -= 1;
        Ok(())
    }));
    let (definition, goal) = definition(|builder| {
        let base = builder.image("base", PIN_A);
        let parts: Vec<Edge> =
            (0..20).map(|part| builder.run("part", base, &[&format!("/{part}"), "1000"])).collect();
        builder.merge("all", &parts)
    });
    world.solve(&definition, &[goal]).unwrap();
    assert!(seen.lock().unwrap().1 <= 3);
}

/// The base image of the last stage is fetched while the first stage is still being made.
#[test]
fn an_image_is_fetched_early_for_a_step_that_must_run() {
    let mut world = world();
    world.images.insert(build::PIN_B.into(), BTreeMap::from([("/etc".into(), "x".into())]));
    world.jobs = 2;
    let both = Arc::new(Barrier::new(2));
    world.on_execute = Some(Box::new(move |name| {
        if name == "make" || name == "runtime" {
            both.wait();
        }
        Ok(())
    }));
    let (definition, goal) = definition(|builder| {
        let runtime = builder.image("runtime", build::PIN_B);
        let base = builder.image("base", PIN_A);
        let made = builder.run("make", base, &["/app", "1000"]);
        builder.copy_existing("copy app", runtime, made, "/app")
    });
    world.solve(&definition, &[goal]).unwrap();
    assert_eq!(world.executed(&definition), ["make", "copy app"]);
}

#[test]
fn local_directories_are_digested_in_parallel_and_each_selection_once() {
    let mut world = world();
    world.jobs = 2;
    world.locals.insert("second".into(), BTreeMap::from([("/src/x".into(), "1".into())]));
    let both = Arc::new(Barrier::new(2));
    world.on_digest = Some(Box::new(move |name| {
        if matches!(name, "context" | "second") {
            both.wait();
        }
    }));
    let (definition, goal) = definition(|builder| {
        let (context, second) = (builder.local("context"), builder.local("second"));
        let base = builder.image("base", PIN_A);
        let one = builder.copy_existing("one", base, context, "/src");
        let two = builder.copy_existing("two", one, second, "/src");
        builder.copy_existing("three", two, context, "/src")
    });
    world.solve(&definition, &[goal]).unwrap();
}

#[test]
fn the_first_failure_is_the_cause_and_nothing_of_it_is_kept() {
    let mut world = world();
    world.jobs = 2;
    world.on_execute = Some(Box::new(|name| match name {
        "bad" => Err(WorldError("exit status 1".into())),
        _ => Ok(()),
    }));
    let (graph, goal) = definition(|builder| {
        let base = builder.url("base");
        let bad = builder.run("bad", base, &["/bad", "1000"]);
        let after = builder.run("after", bad, &["/after", "1000"]);
        builder.merge("all", &[after])
    });
    let error = world.solve(&graph, &[goal]).unwrap_err();
    let bad = graph.iter().find(|(_, vertex)| vertex.metadata.name == "bad").unwrap().0;
    match error {
        SolveError::Vertex { vertex, error } => {
            assert_eq!(vertex, *bad);
            assert_eq!(error.to_string(), "exit status 1");
        }
        SolveError::Cancelled => panic!("a failure is not a cancellation"),
    }
    expect![[r#"
        base: started
        base: done
        bad: started
        bad: failed: exit status 1
    "#]]
    .assert_eq(&world.story());
    assert_eq!(world.journal.lock().unwrap().cancels, 1);
    // What was not cut short is kept.
    world.on_execute = None;
    check(
        &world,
        &graph,
        goal,
        expect![[r#"
            base: started
            base: cached
            bad: started
            bad: done
            after: started
            after: done
            all: started
            all: done
        "#]],
    );
}

#[test]
fn what_runs_while_another_fails_is_cancelled_and_not_kept() {
    let mut world = world();
    world.jobs = 2;
    let both_run = Arc::new(Barrier::new(2));
    let cancelled = Arc::new((Mutex::new(false), Condvar::new()));
    let wait = Arc::clone(&cancelled);
    world.on_execute = Some(Box::new(move |name| {
        if name == "scratch" {
            return Ok(());
        }
        both_run.wait();
        if name == "bad" {
            return Err(WorldError("exit status 1".into()));
        }
        // Ends as if all were well, but only after it was told to stop.
        let mut told = wait.0.lock().unwrap();
        while !*told {
            told = wait.1.wait(told).unwrap();
        }
        Ok(())
    }));
    let (graph, goal) = definition(|builder| {
        let scratch = builder.merge("scratch", &[]);
        let bad = builder.run("bad", scratch, &["/bad", "1000"]);
        let long = builder.run("long", scratch, &["/long", "1000"]);
        builder.merge("all", &[bad, long])
    });
    let cancels = Mutex::new(0);
    let result = solve(&Solve {
        definition: &graph,
        goals: &[goal],
        resolver: &world,
        cache: &world,
        progress: &world,
        completed: &|_, _| {},
        cancelled: &|| false,
        cancel: &|| {
            *cancels.lock().unwrap() += 1;
            *cancelled.0.lock().unwrap() = true;
            cancelled.1.notify_all();
        },
        jobs: 2,
        limits: Limits::default(),
        clock: &Duration::default,
    });
    assert!(matches!(result.results, Err(SolveError::Vertex { .. })));
    assert_eq!(*cancels.lock().unwrap(), 1);
    let story = world.story();
    assert!(story.contains("bad: failed: exit status 1\n") && story.contains("long: cancelled\n"), "{story}");
    world.on_execute = None;
    world.solve(&graph, &[goal]).unwrap();
    assert_eq!(world.executed(&graph).len(), 3, "bad, long and all run; scratch was kept");
}

#[test]
fn a_missing_file_is_the_fault_of_the_step_that_reads_it() {
    let world = world();
    let (graph, goal) = definition(|builder| {
        let context = builder.local("context");
        let base = builder.image("base", PIN_A);
        let installed = builder.run("install", base, &["/installed", "1000"]);
        builder.copy_existing("copy missing", installed, context, "/missing")
    });
    let error = world.solve(&graph, &[goal]).unwrap_err();
    assert!(matches!(error, SolveError::Vertex { vertex, .. } if vertex == goal.vertex));
    expect![[r#"
        context: started
        copy missing: started
        copy missing: failed: `/missing` not found
        context: done
    "#]]
    .assert_eq(&world.story());
}

#[test]
fn a_cancelled_build_starts_nothing_more() {
    let mut world = world();
    world.cancelled.store(true, Ordering::SeqCst);
    let (graph, goal) = definition(two_stages);
    assert!(matches!(world.solve(&graph, &[goal]), Err(SolveError::Cancelled)));
    expect![[r#""#]].assert_eq(&world.story());

    // Cancelled while a step runs, which then fails because of it.
    world.cancelled.store(false, Ordering::SeqCst);
    let flag = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let set = Arc::clone(&flag);
    world.on_execute = Some(Box::new(move |name| match name {
        "install" => {
            set.store(true, Ordering::SeqCst);
            Err(WorldError("killed".into()))
        }
        _ => Ok(()),
    }));
    let result = solve(&Solve {
        definition: &graph,
        goals: &[goal],
        resolver: &world,
        cache: &world,
        progress: &world,
        completed: &|_, _| {},
        cancelled: &|| flag.load(Ordering::SeqCst),
        cancel: &|| {},
        jobs: 1,
        limits: Limits::default(),
        clock: &Duration::default,
    });
    assert!(matches!(result.results, Err(SolveError::Cancelled)));
    expect![[r#"
        context: started
        context: done
        base: started
        base: done
        install: started
        install: cancelled
    "#]]
    .assert_eq(&world.story());
}

#[test]
fn an_output_that_does_not_exist_is_an_error() {
    let world = world();
    let (graph, goal) = definition(|builder| {
        let base = builder.image("base", PIN_A);
        let step = builder.run("step", base, &["/x", "1"]);
        builder.merge("all", &[Edge { output: 3, ..step }])
    });
    let error = world.solve(&graph, &[goal]).unwrap_err();
    expect!["output 3 of `step` is wanted, but it has 1"].assert_eq(&error.to_string());
    let image = Edge { output: 1, ..definition(|builder| builder.image("base", PIN_A)).1 };
    assert!(world.solve(&graph, &[image]).is_err());
    assert!(world.plan(&graph, &[image]).result.is_err());
    // Also when an equal vertex, of which less is wanted, comes first, follows or is done.
    for jobs in [1, 2] {
        for swapped in [false, true] {
            let mut world = super::tests::world();
            world.jobs = jobs;
            let (graph, goal) = definition(|builder| {
                let (image, layout) = (builder.image("base", PIN_A), builder.layout("directory", PIN_A));
                let one = builder.run("one", image, &["/x", "1000"]);
                let same = builder.run("same", layout, &["/x", "1000"]);
                let wanted = [one, Edge { output: 3, ..same }];
                builder.merge("both", &if swapped { [wanted[1], wanted[0]] } else { wanted })
            });
            for _ in 0..2 {
                let error = world.solve(&graph, &[goal]).unwrap_err().to_string();
                assert!(error.ends_with("is wanted, but it has 1"), "{error}");
                world.plan(&graph, &[goal]);
            }
        }
    }
}

#[test]
fn a_panic_of_the_resolver_reaches_the_caller() {
    for jobs in [1, 2] {
        let mut world = world();
        world.jobs = jobs;
        world.on_execute = Some(Box::new(|name| match name {
            "one" => panic!("a bug"),
            _ => Ok(()),
        }));
        let (graph, goal) = definition(|builder| {
            let base = builder.merge("scratch", &[]);
            let one = builder.run("one", base, &["/1", "1000"]);
            let two = builder.run("two", base, &["/2", "1000"]);
            builder.merge("all", &[one, two])
        });
        let result = panic::catch_unwind(AssertUnwindSafe(|| world.solve(&graph, &[goal]).map(drop)));
        assert_eq!(result.unwrap_err().downcast_ref(), Some(&"a bug"));
    }
}

#[test]
fn a_deep_graph_needs_no_deep_stack() {
    const DEPTH: usize = 100_000;
    let mut builder = Builder::default();
    let mut edge = builder.merge("bottom", &[]);
    for level in 0..DEPTH {
        edge = builder.mkfile("level", edge, &level.to_string());
    }
    let world = world();
    world.solve(&builder.definition, &[edge]).unwrap();
    assert_eq!(world.journal.lock().unwrap().executed.len(), DEPTH + 1);
    world.solve(&builder.definition, &[edge]).unwrap();
    assert_eq!(world.journal.lock().unwrap().lookups, 1);
}

#[test]
fn completed_is_told_of_every_operation_that_was_looked_at() {
    let mut world = world();
    let (graph, goal) = definition(two_stages);
    world.solve(&graph, &[goal]).unwrap();
    let names = |world: &World| -> Vec<String> {
        let journal = world.journal.lock().unwrap();
        journal.completed.iter().map(|digest| graph.vertex(digest).metadata.name.clone()).collect()
    };
    assert_eq!(names(&world), ["install", "copy src", "make", "copy app"]);
    edit(&mut world, "/src/main", "2");
    world.solve(&graph, &[goal]).unwrap();
    assert_eq!(names(&world), ["install", "copy src", "make", "copy app"]);
    world.solve(&graph, &[goal]).unwrap();
    assert_eq!(names(&world), ["copy app"]);
}

#[test]
fn a_source_from_the_network_counts_by_what_it_is_now() {
    let mut world = world();
    let remote = |content: &str| BTreeMap::from([("/f".to_owned(), content.to_owned())]);
    let of = |name: &'static str| {
        definition(move |builder| {
            let base = builder.image("base", PIN_A);
            let url = builder.url(name);
            let copied = builder.copy_existing("copy", base, url, "/f");
            builder.run("run", copied, &["/ran", "1000"])
        })
    };
    let (definition, goal) = of("a");
    world.remotes.insert("https://host/a".into(), remote("1"));
    let all = "a: started\na: done\nbase: started\nbase: done\ncopy: started\ncopy: done\nrun: started\nrun: done\n";
    let sorted = |story: String| {
        let mut lines: Vec<String> = story.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let check = |world: &World, definition: &Definition, goal: Edge, story: &str| {
        let solved = world.solve(definition, &[goal]).unwrap();
        assert_eq!(world.files(definition, &solved.results[0]), naive(world, definition, goal));
        assert_eq!(sorted(world.story()), sorted(story.to_owned()));
    };
    check(&world, &definition, goal, all);
    let hit = "a: started\na: cached\nbase: cached\ncopy: cached\nrun: cached\n";
    check(&world, &definition, goal, hit);
    world.remotes.insert("https://host/a".into(), remote("2"));
    check(&world, &definition, goal, all);
    world.remotes.insert("https://host/a".into(), remote("1"));
    check(&world, &definition, goal, hit);

    // The same bytes from elsewhere.
    let (moved, goal) = of("b");
    world.remotes.insert("https://host/b".into(), remote("2"));
    check(&world, &moved, goal, &hit.replace("a:", "b:"));

    world.remotes.insert("https://host/b".into(), BTreeMap::from([("/gone".to_owned(), String::new())]));
    assert!(world.solve(&moved, &[goal]).is_err());
    assert_eq!(world.story(), "b: started\nb: failed: the source is gone\n");
}
