//! Random graphs and random edits, solved by the scheduler and by the naive twin.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use wharf_cache::Key;

use super::build::{Builder, PIN_A, PIN_B};
use super::world::{Files, World, apply, digest_of, naive, reachable, select};
use crate::cache_map::{self, InputKey, Reads};
use crate::explain::{self, Provenance, Reason};
use crate::llb::{ActionInput, Definition, Edge, FileChange, Op, Vertex, VertexDigest};
use crate::progress::{Event, Outcome};
use crate::scheduler::{KeyKind, StepOutcome, StepReport, Verdict, VertexOutcome};
use std::time::Duration;

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

/// Keys and what they stand for, as far as the twin can tell: neither may have two of the other.
#[derive(Default)]
struct Crowd {
    by_key: HashMap<Key, [u8; 32]>,
    by_identity: HashMap<[u8; 32], Key>,
}

impl Crowd {
    #[track_caller]
    fn meet(&mut self, key: Key, identity: &str) {
        let identity = *blake3::hash(identity.as_bytes()).as_bytes();
        assert_eq!(*self.by_key.entry(key).or_insert(identity), identity, "two steps share a key");
        assert_eq!(*self.by_identity.entry(identity).or_insert(key), key, "one step has two keys");
    }
}

/// All that was met: definition keys and content keys.
#[derive(Default)]
struct Crowds {
    definitions: Crowd,
    contents: Crowd,
}

impl Crowds {
    /// Takes all keys of a solve. What they stand for is spelled out from the table, without the code that makes keys.
    fn meet(&mut self, world: &World, definition: &Definition, steps: &[StepReport]) {
        let mut identities: HashMap<VertexDigest, String> = HashMap::new();
        let mut files: HashMap<VertexDigest, Files> = HashMap::new();
        for step in steps {
            let vertex = definition.vertex(&step.vertex);
            let inputs: Vec<Files> = vertex.inputs.iter().map(|input| files[&input.vertex].clone()).collect();
            let made = world.source(vertex).unwrap_or_else(|| apply(vertex, &inputs).unwrap().remove(0));
            let of = |edge: &Edge| &identities[&edge.vertex];
            let identity = match &vertex.op {
                Op::Source(source) => source.pinned_digest().unwrap_or_default().to_owned(),
                _ => spell(definition, vertex, &inputs, false, &of),
            };
            if let Some(key) = step.definition_key {
                self.definitions.meet(key, &identity);
            }
            if let Some(key) = step.content_key {
                self.contents.meet(key, &spell(definition, vertex, &inputs, true, &of));
            }
            identities.insert(step.vertex, blake3::hash(identity.as_bytes()).to_string());
            files.insert(step.vertex, made);
        }
    }
}

/// An operation and what it reads. Of a directory, and `by_content` of every step, the selected files count and not their
/// place; of an image all its files, and the place if only some of them are read.
fn spell<'a>(
    definition: &Definition,
    vertex: &Vertex,
    inputs: &[Files],
    by_content: bool,
    identity: &dyn Fn(&Edge) -> &'a String,
) -> String {
    let mut op = vertex.op.clone();
    let mut text = String::new();
    for (index, (edge, reads)) in vertex.inputs.iter().zip(cache_map::reads(vertex)).enumerate() {
        let producer = &definition.vertex(&edge.vertex).op;
        let is_local = matches!(producer, Op::Source(source) if source.is_local());
        let is_image = matches!(producer, Op::Source(source) if cache_map::is_image(source));
        if is_local || by_content {
            for read in &reads {
                let files = match is_image && *read != Reads::Whole {
                    true => &inputs[index],
                    false => &select(&inputs[index], read).unwrap(),
                };
                text.push_str(&format!("{files:?}\n"));
            }
            if !is_image {
                forget_place(&mut op, index);
            }
        } else {
            text.push_str(&format!("step {} {}\n", identity(edge), edge.output));
        }
    }
    format!("{op:?}\n{text}")
}

/// Where the files of an input are is not visible in the result; a copied file's name is.
fn forget_place(op: &mut Op, input: usize) {
    match op {
        Op::Exec(exec) => {
            for mount in exec.mounts.iter_mut().filter(|mount| mount.input == Some(input)) {
                mount.selector.clear();
            }
        }
        Op::File(file) => {
            for action in &mut file.actions {
                if let FileChange::Copy(copy) = &mut action.change
                    && copy.from == Some(ActionInput::Input(input))
                {
                    copy.src = copy.src.rsplit('/').next().unwrap_or_default().to_owned();
                }
            }
        }
        Op::Source(_) | Op::Merge(_) | Op::Diff(_) => {}
    }
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

/// What the plan says is what the solve then does. Which of several equal vertices does the work is left to chance, and so is
/// which of two operations comes first that turn out to read the same.
fn check_plan(definition: &Definition, planned: &[StepReport<Verdict>], solved: &[StepReport]) {
    let same = |report: &StepReport<Verdict>| report.definition_key.map(|key| (key, report.op_key));
    for (plan, step) in planned.iter().zip(solved) {
        assert_eq!(
            (plan.vertex, plan.definition_key, plan.pin),
            (step.vertex, step.definition_key, step.pin)
        );
        let equals: Vec<_> = planned
            .iter()
            .zip(solved)
            .filter(|(other, _)| {
                other.vertex == plan.vertex || (same(plan).is_some() && same(other) == same(plan))
            })
            .collect();
        let name = &definition.vertex(&plan.vertex).metadata.name;
        let told = || format!("{name} is planned as {:?} and was {:?}", plan.outcome, step.outcome);
        let ran = |step: &StepReport| step.outcome == StepOutcome::Done(VertexOutcome::Executed);
        let executed = equals.iter().any(|(_, step)| ran(step));
        let may_run =
            equals.iter().any(|(plan, _)| matches!(plan.outcome, Verdict::WouldRun | Verdict::MightRun));
        match plan.outcome {
            Verdict::NotNeeded | Verdict::Hit(_) | Verdict::Source => {
                assert!(!executed || may_run, "{}", told());
            }
            Verdict::WouldRun => {
                let ran_equal = || solved.iter().any(|other| other.op_key == plan.op_key && ran(other));
                // Its reader may have been spared so.
                let is_image = matches!(&definition.vertex(&plan.vertex).op, Op::Source(source) if cache_map::is_image(source));
                assert!(executed || ran_equal() || is_image, "{}", told());
            }
            Verdict::MightRun => {
                assert!(
                    equals.iter().any(|(_, step)| matches!(step.outcome, StepOutcome::Done(_))),
                    "{}",
                    told()
                )
            }
            Verdict::Equal(first) => {
                let (first, itself) = (&planned[first], plan);
                assert_eq!(same(first), same(itself));
                assert!(matches!(first.outcome, Verdict::WouldRun | Verdict::MightRun), "{}", told());
            }
            Verdict::NotReached => panic!("{}", told()),
        }
        if plan.outcome == Verdict::Hit(KeyKind::Definition) {
            assert_ne!(step.outcome, StepOutcome::Done(VertexOutcome::ContentHit), "{}", told());
        }
    }
}

/// Keys follow from what the provenances say, and digests in them are those of the twin's files.
fn check_provenances(world: &World, definition: &Definition, steps: &[StepReport]) -> Vec<Provenance> {
    let mut made = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let provenance = explain::provenance(definition, steps, index);
        assert_eq!(provenance.definition_key, step.definition_key);
        if step.definition_key.is_some() {
            assert_eq!(provenance.made_definition_key(), step.definition_key);
        }
        if let Some(key) = step.content_key {
            assert_eq!(provenance.made_content_key(), Some(key));
            assert_eq!(content_key(world, definition, &step.vertex), key, "{}", provenance.name);
        }
        if step.outcome == StepOutcome::Done(VertexOutcome::Executed) && !provenance.inputs.is_empty() {
            assert!(step.content_key.is_some(), "of what ran it is known what it read");
            assert!(step.started.is_some() && step.took > Duration::ZERO);
        }
        made.push(provenance);
    }
    made
}

/// Nothing is ever lost here, so what runs differs from what ran under the name before; and what has the same key does not.
fn check_reasons(before: &HashMap<String, Provenance>, now: &[Provenance], steps: &[StepReport]) {
    for (now, step) in now.iter().zip(steps) {
        let Some(before) = before.get(&now.name) else { continue };
        let reasons = explain::compare(before, now);
        let gone = reasons == [Reason::ResultGone];
        let is_step = !now.inputs.is_empty();
        if is_step && step.outcome == StepOutcome::Done(VertexOutcome::Executed) {
            assert!(!gone, "{} ran for no reason", now.name);
        }
        if now.definition_key.is_some() && now.definition_key == before.definition_key {
            assert!(gone, "{}: {reasons:?}", now.name);
        }
    }
}

fn check(specs: &[Spec], edits: &[Edit], jobs: usize, crowds: &mut Crowds) {
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
    let mut provenances = HashMap::new();
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

        let planned = world.plan(&definition, &goals);
        assert!(planned.result.is_ok());
        let solved = world.solve(&definition, &goals).unwrap();
        check_plan(&definition, &planned.steps, &solved.steps);
        crowds.meet(&world, &definition, &solved.steps);
        let made = check_provenances(&world, &definition, &solved.steps);
        if !ignoring {
            check_reasons(&provenances, &made, &solved.steps);
        }
        provenances.extend(made.into_iter().map(|made| (made.name.clone(), made)));

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
        check(&specs, &edits, jobs, &mut Crowds::default());
    }

    #[test]
    fn equals_the_naive_twin_when_some_ignore_the_cache(
        specs in vec(spec(true), 1..14),
        edits in vec(edit(), 0..5),
        jobs in prop::sample::select(vec![1usize, 1, 3]),
    ) {
        check(&specs, &edits, jobs, &mut Crowds::default());
    }
}

/// Thousands of graphs beside one another: whatever was met in one of them must fit to all others.
#[test]
fn no_two_steps_of_a_crowd_of_graphs_share_a_key() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut crowds = Crowds::default();
    let graphs = (vec(spec(false), 1..14), vec(edit(), 0..5));
    for _ in 0..3000 {
        let (specs, edits) = graphs.new_tree(&mut runner).unwrap().current();
        check(&specs, &edits, 1, &mut crowds);
    }
    let (definitions, contents) = (crowds.definitions.by_key.len(), crowds.contents.by_key.len());
    assert!(definitions > 3_000 && contents > 2_000, "{definitions} definitions, {contents} contents");
}
