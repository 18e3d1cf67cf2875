//! No text makes the model panic, and each limit has its message.

use proptest::prelude::*;
use wharf_frontend::compose::{
    EnvFileFormat, Environment, Invocation, Loaded, limits, open, parse_env_file, substitute,
};

use crate::cases::{cases, files_of_cases};
use crate::run::Files;

fn load(text: &[u8]) -> Loaded {
    let files = Files([("/src/demo/compose.yaml".to_owned(), text.to_vec())].into());
    open(&Invocation { directory: "/src/demo".to_owned(), ..Invocation::default() }, &files)
}

/// Opens, and looks at everything that comes of it.
fn exercise(text: &[u8]) {
    let loaded = load(text);
    for problem in &loaded.problems {
        let Some(source) = problem.source.and_then(|source| loaded.sources.get(source)) else { continue };
        let span = problem.diagnostic.span.clone();
        assert!(source.text.get(span.clone()).is_some(), "{span:?} is no place: {problem:?}");
    }
    let errors = loaded.problems.iter().any(|problem| problem.diagnostic.is_error());
    assert_eq!(loaded.project.is_none(), errors, "{:?}", loaded.problems);
    if let Some(project) = &loaded.project {
        project.to_yaml();
        project.start_order();
        project.services.values().for_each(|service| assert_eq!(service.config_hash().len(), 64));
    }
}

#[track_caller]
fn check_refused(text: &str, expected: &str) {
    let loaded = load(text.as_bytes());
    assert!(loaded.project.is_none());
    let messages: Vec<&str> = loaded.problems.iter().map(|it| it.diagnostic.message.as_str()).collect();
    assert!(messages.iter().any(|message| message.contains(expected)), "{messages:?}");
}

#[test]
fn limits_are_named() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    check_refused(&bomb, "more than 200000 values");
    check_refused(&format!("x-a: {}{}", "[".repeat(1_000), "]".repeat(1_000)), "");
    check_refused(&format!("x-a:\n{}", (1..200).map(|it| format!("{:it$}a:\n", "")).collect::<String>()), "");
    check_refused(
        &format!("x-a: {}", "${A:-".repeat(100) + &"}".repeat(100)),
        "nested deeper than 32 levels",
    );
    check_refused(&"#".repeat(limits::FILE_BYTES_MAX + 1), "has more than");
    check_refused("&a [*a]", "");
    check_refused("services: {a: {image: x, ports: ['1-65535:80-81']}}", "ranges of different lengths");
}

#[test]
fn files_that_multiply_are_refused() {
    // Each includes the next twice over.
    let mut files = Files::default();
    for level in 0..60 {
        let text = format!("include: [f{0}.yaml, f{0}.yaml]\n", level + 1);
        files.0.insert(format!("/src/demo/f{level}.yaml"), text.into_bytes());
    }
    files.0.insert("/src/demo/f60.yaml".to_owned(), b"services: {a: {image: x}}".to_vec());
    files.0.insert("/src/demo/compose.yaml".to_owned(), b"include: [f0.yaml]".to_vec());
    let loaded = open(&Invocation { directory: "/src/demo".to_owned(), ..Invocation::default() }, &files);
    let messages: Vec<&str> = loaded.problems.iter().map(|it| it.diagnostic.message.as_str()).collect();
    assert!(messages.iter().any(|message| message.contains("more than 500 files")), "{messages:?}");
}

#[test]
fn variables_that_multiply_are_refused() {
    let environment: Environment = [("A".to_owned(), "x".repeat(1 << 16))].into();
    let files = Files(
        [("/src/demo/compose.yaml".to_owned(), format!("x-a: '{}'", "$A".repeat(100)).into_bytes())].into(),
    );
    let loaded =
        open(&Invocation { directory: "/src/demo".to_owned(), environment, ..Invocation::default() }, &files);
    assert!(loaded.problems[0].diagnostic.message.contains("grows beyond"), "{:?}", loaded.problems);
}

#[test]
fn services_that_multiply_are_refused() {
    let ports = "services: {a: {image: x, ports: [1-40000, 1-40000/udp]}}";
    check_refused(ports, "more than 65536 ports");
    let ports: String = (0..100).map(|it| format!("  s{it}: {{image: x, ports: [1-1000]}}\n")).collect();
    check_refused(&format!("services:\n{ports}"), "more than 65536 ports");
    let variables: String = (0..1_000).map(|it| format!("A{it}, ")).collect();
    let extending: String = (0..600).map(|it| format!("  s{it}: {{extends: base}}\n")).collect();
    let text = format!("services:\n  base: {{image: x, environment: [{variables}]}}\n{extending}");
    check_refused(&text, "services extend others by more than 500000 values");
}

#[test]
fn variables_of_files_that_multiply_are_refused() {
    let large = "x".repeat(1 << 20);
    let again: String = (0..70).map(|it| format!("A{it}=$A\n")).collect();
    let files = Files(
        [
            ("/src/demo/compose.yaml".to_owned(), b"services: {a: {image: x, env_file: e.env}}".to_vec()),
            ("/src/demo/e.env".to_owned(), format!("A={large}\n{again}").into_bytes()),
        ]
        .into(),
    );
    let loaded = open(&Invocation { directory: "/src/demo".to_owned(), ..Invocation::default() }, &files);
    assert!(loaded.deferred[0].1.diagnostic.message.contains("variables make more than"));

    let services: String = (0..70).map(|it| format!("  s{it}: {{image: x, environment: [A]}}\n")).collect();
    let files =
        Files([("/src/demo/compose.yaml".to_owned(), format!("services:\n{services}").into_bytes())].into());
    let environment = [("A".to_owned(), large)].into();
    let loaded =
        open(&Invocation { directory: "/src/demo".to_owned(), environment, ..Invocation::default() }, &files);
    assert!(loaded.problems[0].diagnostic.message.contains("variables make more than"));
}

/// The compose files of all cases.
fn seeds() -> Vec<String> {
    let texts = files_of_cases().into_iter().map(|path| std::fs::read_to_string(path).unwrap());
    texts
        .flat_map(|text| cases(&text))
        .flat_map(|case| case.files().0.into_values())
        .map(|bytes| String::from_utf8(bytes).unwrap())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        exercise(&bytes);
    }

    #[test]
    fn yaml_like_texts_never_panic(text in "([a-z]{1,3}: |- |\\[|\\]|\\{|\\}|&a |\\*a|<<: |!reset |!override |\"|'|\\$\\{A:-|\\}|\n|\n  |services|image|:|,|\\||>|#|0|-){0,60}") {
        exercise(text.as_bytes());
    }

    #[test]
    fn changed_files_never_panic(
        seed in any::<prop::sample::Index>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[a-z0-9:${}\\[\\]&*!<'\" \n-]{0,6}"), 1..8),
    ) {
        let seeds = seeds();
        let mut text: Vec<char> = seed.get(&seeds).chars().collect();
        for (at, removed, added) in edits {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, added.chars());
        }
        exercise(text.into_iter().collect::<String>().as_bytes());
    }

    #[test]
    fn templates_never_panic(text in "(\\$|\\{|\\}|:|-|\\+|\\?|A|é|\\$\\{A){0,30}") {
        let _ = substitute(&text, &|name| (name == "A").then(|| "$B".to_owned()));
    }

    #[test]
    fn env_files_never_panic(text in "(A|=|:|\"|'|\\\\|\\$|\\{|\\}|#| |\n|\r|export |é){0,40}", raw in any::<bool>()) {
        let format = if raw { EnvFileFormat::Raw } else { EnvFileFormat::Compose };
        for problem in parse_env_file(&text, format, &Environment::new()).1 {
            assert!(text.get(problem.span.clone()).is_some(), "{problem:?}");
        }
    }
}
