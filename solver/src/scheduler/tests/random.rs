//! Random graphs and random edits, solved by the scheduler and by the naive twin.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::collection::vec;
use proptest::prelude::*;
use wharf_cache::Key;

use super::build::{Builder, PIN_A, PIN_B};
use super::world::{World, digest_of, naive, reachable, select};
use crate::cache_map::{self, InputKey};
use crate::llb::{Definition, Edge, Op, VertexDigest};
use crate::progress::{Event, Outcome};
use crate::scheduler::{StepOutcome, StepReport, VertexOutcome};

/// One vertex to be: a kind, two earlier vertices as inputs, a number that makes it different.
#[derive(Debug, Clone, Copy)]
struct Spec {
    kind: u8,
    inputs: [u16; 2],
    number: u8,
    ignore_cache: bool,
}

/// A change between two solves.
#[derive(Debug, Clone, Copy)]
enum Edit {
    Nothing,
    /// A context file gets other content.
    File {
        path: u8,
        content: u8,
    },
    /// An operation is written differently.
    Step {
        step: u16,
        number: u8,
    },
    /// An image's tag moves.
    Image {
        number: u8,
    },
    /// Other goals are asked for.
    Goals {
        first: u16,
        second: u16,
    },
}

fn spec(ignore: bool) -> impl Strategy<Value = Spec> {
    let ignore_cache = if ignore { prop::bool::weighted(0.15).boxed() } else { Just(false).boxed() };
    (0..9u8, any::<[u16; 2]>(), 0..3u8, ignore_cache).prop_map(|(kind, inputs, number, ignore_cache)| Spec {
        kind,
        inputs,
        number,
        ignore_cache,
    })
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        1 => Just(Edit::Nothing),
        4 => (0..3u8, 0..3u8).prop_map(|(path, content)| Edit::File { path, content }),
        3 => (any::<u16>(), 0..3u8).prop_map(|(step, number)| Edit::Step { step, number }),
        1 => (0..3u8).prop_map(|number| Edit::Image { number }),
        1 => any::<[u16; 2]>().prop_map(|[first, second]| Edit::Goals { first, second }),
    ]
}

const PATHS: [&str; 3] = ["/dir/a", "/dir/b", "/alt/a"];

fn build(specs: &[Spec], image_pin: &str) -> (Definition, Vec<Edge>) {
    let mut builder = Builder::default();
    let mut edges = vec![
        builder.local("context"),
        builder.image("base", image_pin),
        builder.layout("same", image_pin),
        builder.image("other", PIN_B),
    ];
    for (index, spec) in specs.iter().enumerate() {
        let pick = |input: u16| edges[usize::from(input) % edges.len()];
        let (one, other) = (pick(spec.inputs[0]), pick(spec.inputs[1]));
        let text = spec.number.to_string();
        let name = format!("step {index}");
        builder.ignore_cache = spec.ignore_cache;
        edges.push(match spec.kind {
            0 => builder.run(&name, one, &[&format!("/out{text}"), "1000"]),
            1 => builder.run(&name, one, &["/out", "1"]),
            2 => builder.run(&name, one, &["/out", "2"]),
            3 => builder.run_with_bind(&name, one, other, "/dir", &["/bound", "3"]),
            4 | 5 => builder.copy(&name, one, other, ["/dir", "/dir/a", "/alt/a"][usize::from(spec.number)]),
            6 => builder.mkfile(&name, one, &text),
            7 => builder.merge(&name, &[one, other]),
            _ => builder.diff(&name, one, other),
        });
    }
    (builder.definition, edges)
}

/// Which content each step has run on, as far as the twin can tell: a second run on the same would be a missed cutoff.
fn content_key(world: &World, definition: &Definition, vertex: &VertexDigest) -> Key {
    let vertex = definition.vertex(vertex);
    let parts: Vec<InputKey> = vertex
        .inputs
        .iter()
        .zip(cache_map::reads(vertex))
        .map(|(edge, reads)| {
            let producer = definition.vertex(&edge.vertex);
            let files = naive(world, definition, *edge);
            let is_image = matches!(&producer.op, Op::Source(source) if cache_map::is_image(source));
            let digest = |read| match is_image {
                true => cache_map::image_selection(&digest_of(&files), read),
                false => digest_of(&select(&files, read).unwrap()),
            };
            InputKey::Content(reads.iter().map(digest).collect())
        })
        .collect();
    cache_map::key(&cache_map::op_key(vertex), &parts)
}

/// Every reachable vertex is reported completed once, started at most once and before that, and nothing else is.
fn check_events(definition: &Definition, goals: &[Edge], events: &[Event], steps: &[StepReport]) {
    let mut started = HashSet::new();
    let mut completed = HashMap::new();
    for event in events {
        match event {
            Event::Started { vertex, .. } => {
                assert!(!completed.contains_key(vertex), "started after it was completed");
                assert!(started.insert(*vertex), "started twice");
            }
            Event::Completed { vertex, outcome, .. } => {
                assert!(completed.insert(*vertex, outcome.clone()).is_none(), "completed twice");
            }
            other => panic!("{other:?}"),
        }
    }
    let reachable = reachable(definition, goals);
    assert!(completed.keys().all(|vertex| reachable.contains(vertex)), "something unreachable was reported");
    assert_eq!(completed.len(), reachable.len(), "something was not reported");
    assert!(
        steps
            .iter()
            .map(|step| step.vertex)
            .eq(definition.iter().map(|(vertex, _)| *vertex).filter(|vertex| reachable.contains(vertex)))
    );
    for step in steps {
        let (vertex, outcome) = (step.vertex, completed[&step.vertex].clone());
        let executed = step.outcome == StepOutcome::Done(VertexOutcome::Executed);
        let is_local = matches!(&definition.vertex(&vertex).op, Op::Source(source) if source.is_local());
        assert_eq!(outcome == Outcome::Done, executed || (is_local && started.contains(&vertex)));
    }
}

fn check(specs: &[Spec], edits: &[Edit], jobs: usize) {
    let mut specs = specs.to_vec();
    let mut image_number = 0;
    let mut picks = [u16::MAX, 0];
    let mut world = World::default();
    world.jobs = jobs;
    let ignoring = specs.iter().any(|spec| spec.ignore_cache);
    world.locals.insert("context".into(), PATHS.iter().map(|path| ((*path).into(), "0".into())).collect());
    world.images.insert(
        PIN_B.into(),
        BTreeMap::from([("/dir/a".into(), "other".into()), ("/alt/a".into(), "o".into())]),
    );
    let mut locked: HashSet<Key> = HashSet::new();
    let mut ran_on: HashSet<Key> = HashSet::new();
    for edit in std::iter::once(&Edit::Nothing).chain(edits) {
        match *edit {
            Edit::Nothing => {}
            Edit::File { path, content } => {
                let context = world.locals.get_mut("context").unwrap();
                context.insert(PATHS[usize::from(path)].into(), content.to_string());
            }
            Edit::Step { step, number } => {
                let step = usize::from(step) % specs.len();
                specs[step].number = number;
            }
            Edit::Image { number } => image_number = number,
            Edit::Goals { first, second } => picks = [first, second],
        }
        let image_pin = format!("{}{image_number}", &PIN_A[..PIN_A.len() - 1]);
        let image = [("/bin", "b"), ("/dir/a", "img"), ("/alt/a", "img")];
        let image = image.map(|(path, content)| (path.into(), format!("{content}{}", image_number % 2)));
        world.images.insert(image_pin.clone(), BTreeMap::from(image));
        let (definition, edges) = build(&specs, &image_pin);
        let goals = picks.map(|pick| edges[edges.len() - 1 - usize::from(pick) % edges.len()]);

        let solved = world.solve(&definition, &goals).unwrap();

        for (goal, result) in goals.iter().zip(&solved.results) {
            assert_eq!(world.files(&definition, result), naive(&world, &definition, *goal));
        }
        let journal = world.journal.lock().unwrap();
        check_events(&definition, &goals, &journal.events, &solved.steps);
        let reachable = reachable(&definition, &goals);
        assert!(
            journal.executed.iter().all(|vertex| reachable.contains(vertex)),
            "something unreachable ran"
        );
        let images: HashSet<_> = journal.materialized.iter().collect();
        assert_eq!(images.len(), journal.materialized.len(), "an image was brought in twice");
        if !ignoring {
            for key in &journal.locked {
                assert!(locked.insert(*key), "a key was run twice");
            }
            let keys: Vec<Key> =
                journal.executed.iter().map(|vertex| content_key(&world, &definition, vertex)).collect();
            for (key, vertex) in keys.iter().zip(&journal.executed) {
                let name = &definition.vertex(vertex).metadata.name;
                assert!(!ran_on.contains(key), "{name} ran although nothing that it reads has changed");
            }
            ran_on.extend(keys);
        }
        drop(journal);

        // Nothing changed: nothing runs but what ignores the cache.
        let again = world.solve(&definition, &goals).unwrap();
        if !ignoring {
            assert_eq!(world.executed(&definition), Vec::<String>::new());
            assert_eq!(again.results, solved.results);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_naive_twin(
        specs in vec(spec(false), 1..14),
        edits in vec(edit(), 0..5),
        jobs in prop::sample::select(vec![1usize, 1, 3]),
    ) {
        check(&specs, &edits, jobs);
    }

    #[test]
    fn equals_the_naive_twin_when_some_ignore_the_cache(
        specs in vec(spec(true), 1..14),
        edits in vec(edit(), 0..5),
        jobs in prop::sample::select(vec![1usize, 1, 3]),
    ) {
        check(&specs, &edits, jobs);
    }
}
