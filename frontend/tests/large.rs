//! Files so large that whatever is done for each pair of their lines would never end. How long each takes is printed.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and shows its times"
)]

use std::fmt::Write as _;
use std::time::Instant;

use wharf_frontend::dockerfile2llb::{self, ImageMetaResolver, Options, ResolvedImage, TimeOf};
use wharf_frontend::dockerignore::{Matched, Matcher};
use wharf_frontend::{Diagnostic, Linter, instructions, lint, parser};
use wharf_solver::llb::Platform;

/// Has a few images.
struct Images;

impl ImageMetaResolver for Images {
    fn resolve(&mut self, reference: &str, _: &Platform) -> Result<ResolvedImage, String> {
        if reference.starts_with("none") {
            return Err("not here".to_owned());
        }
        let config = r#"{"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": ["sha256:00"]}}"#;
        Ok(ResolvedImage {
            identifier: format!("docker-image://{reference}@sha256:00"),
            config: config.into(),
        })
    }

    fn time(&mut self, _: &TimeOf) -> Result<Option<u64>, String> {
        Ok(None)
    }
}

/// Everything that is done with a file before it is built: all problems, errors included.
fn all(text: &str, options: &Options) -> Vec<Diagnostic> {
    let (ast, mut problems) = parser::parse(text);
    let (dockerfile, more) = instructions::parse(&ast);
    let (linter, wrong) = Linter::new(&ast, None);
    problems.extend(more.into_iter().chain(wrong).chain(lint::file(&ast)));
    match dockerfile2llb::convert(&dockerfile, options, &mut Images) {
        Ok(converted) => problems.extend(converted.warnings),
        Err(error) => problems.extend(error.diagnostics),
    }
    linter.report(problems)
}

/// `from a`, then `line` for each number, each `#` replaced by it.
fn lines(count: usize, line: &str) -> String {
    let mut text = "FROM debian AS first\n".to_owned();
    for number in 0..count {
        text.push_str(&line.replace('#', &number.to_string()));
        text.push('\n');
    }
    text
}

/// One instruction with all of these words.
fn words(instruction: &str, count: usize, word: &str, end: &str) -> String {
    let mut text = format!("FROM debian AS first\n{instruction}");
    for number in 0..count {
        write!(text, " {}", word.replace('#', &number.to_string())).unwrap();
    }
    text + end + "\n"
}

const MANY: usize = 20_000;

/// Runs all of these files; the first error of each (if it has one) must be the one expected.
#[track_caller]
fn check(files: &[(&str, String, &str)], options: &Options) {
    let mut wrong = Vec::new();
    for (name, text, expected) in files {
        let start = Instant::now();
        let problems = all(text, options);
        println!("{name}: {:?}, {} problems", start.elapsed(), problems.len());
        let error = problems.iter().find(|problem| problem.is_error()).map_or("", |error| &error.message);
        if error.is_empty() != expected.is_empty() || !error.starts_with(expected) {
            wrong.push(format!("{name}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn amd64() -> Options {
    let platform =
        Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), ..Platform::default() };
    Options { platform: platform.clone(), build_platform: platform, ..Options::default() }
}

#[test]
fn many_lines() {
    let globals = lines(MANY, "ARG a#=1").replacen("FROM debian AS first\n", "", 1) + "FROM a$a1$a19999$b";
    let ignoring = Options { ignore: (0..5_000).map(|number| format!("x{number}*")).collect(), ..amd64() };
    let files = [
        ("ENV", lines(MANY, "ENV a#=1"), ""),
        ("ENV of one name", lines(MANY, "ENV a=#"), ""),
        ("ENV using the one before", lines(MANY, "ENV a=1$a#"), ""),
        ("ARG", lines(MANY, "ARG a#"), ""),
        ("ARG with a value", lines(MANY, "ARG a#=1"), ""),
        ("ARG used", lines(MANY, "ARG a#") + "USER $a1$a19999\nRUN x", ""),
        ("global ARG", globals, ""),
        ("LABEL", lines(MANY, "LABEL a#=1"), ""),
        ("COPY", lines(MANY, "COPY a# /"), ""),
        ("COPY from an image", lines(MANY, "COPY --from=a# / /"), ""),
        ("COPY from no image", lines(MANY, "COPY --from=none# / /"), "none0"),
        ("COPY of heredocs", lines(MANY, "COPY <<a <<b /\na\nb"), ""),
        ("ADD", lines(MANY, "ADD https://h/# /"), ""),
        ("RUN", lines(MANY, "RUN echo # && \\\n\n true"), ""),
        ("EXPOSE", lines(MANY, "EXPOSE 1#"), "invalid containerPort"),
        ("VOLUME", lines(MANY, "VOLUME /#"), ""),
        ("CMD", lines(MANY, "CMD #"), ""),
        ("ONBUILD", lines(MANY, "ONBUILD RUN #") + "FROM first", ""),
        ("ONBUILD ARG", lines(MANY, "ONBUILD ARG a#=$b") + "FROM first", ""),
        ("unknown instructions", lines(MANY, "RUNN #"), "unknown instruction"),
        ("undefined variables", lines(1_000, "ENV abc#=1") + &lines(MANY, "USER $abx#")[21..], ""),
        ("comments", format!("FROM debian\n{}RUN x\n", "# check=skip=all\n".repeat(MANY)), ""),
    ];
    check(&files, &amd64());
    check(&[("COPY of ignored files", lines(MANY, "COPY x# /"), "")], &ignoring);
}

#[test]
fn many_stages() {
    let chain = |count: usize, more: &str| {
        (0..count).fold("FROM debian AS s\n".to_owned(), |text, number| {
            let below = if number == 0 { "s".to_owned() } else { format!("s{}", number - 1) };
            text + &more.replace('@', &below).replace('#', &number.to_string())
        })
    };
    let too_many = "more than 20000 stages";
    check(&[("too many", "FROM scratch\n".repeat(20_001), too_many)], &amd64());
    let every = Options { every_stage: true, ..amd64() };
    let shapes = [
        ("each FROM the one before", "FROM @ AS s#\n"),
        ("each FROM the one before with an ENV", "FROM @ AS s#\nENV a#=1\n"),
        ("each copied from the one before", "FROM scratch AS s#\nCOPY --from=@ / /\n"),
        ("all FROM scratch", "FROM scratch AS s#\n"),
        ("all of one name", "FROM scratch AS s\n"),
        ("all from images that are not there", "FROM none# AS s#\n"),
    ];
    for (name, shape) in shapes {
        let expected = if name.ends_with("not there") { "none" } else { "" };
        check(&[(name, chain(10_000, shape), expected)], &every);
    }
}

/// What each step repeats of those before it is limited.
#[test]
fn steps_that_repeat_what_was_before() {
    let too_much = "the steps up to here and their history take more than";
    let files = [
        (
            "RUN with one more ARG each",
            lines(MANY, &format!("ARG a#={}\nRUN $a#", "x".repeat(200))),
            too_much,
        ),
        ("WORKDIR below the one before", lines(MANY, "WORKDIR a_directory_of_some_length"), too_much),
        ("all ports", lines(500, "EXPOSE 1-65535"), too_much),
        (
            "a long text in each step",
            lines(MANY, "COPY $a /").replacen('\n', &format!("\nENV a={}\n", "x".repeat(9_999)), 1),
            too_much,
        ),
    ];
    check(&files, &amd64());
    let stages = lines(MANY, "ENV a#=1") + &"FROM first\n".repeat(100);
    check(&[("stages from a large one", stages, too_much)], &Options { every_stage: true, ..amd64() });
}

#[test]
fn long_instructions() {
    let nested =
        |count: usize| format!("FROM debian\nUSER {}x{}\n", "${a:-".repeat(count), "}".repeat(count));
    let numbers = 0..MANY;
    let unset = numbers.fold("FROM debian\nUSER ".to_owned(), |text, number| text + &format!("$a{number}"));
    let heredocs = words("RUN cat", MANY, "<<a#", "\n")
        + &(0..MANY).fold(String::new(), |text, number| text + &format!("a{number}\n"));
    let json = words("COPY [", MANY * 5, "\"a file of some name\",", "\"/\"]");
    let files = [
        ("ENV", words("ENV", MANY, "a#=1", ""), ""),
        ("ARG", words("ARG", MANY, "a#=1", ""), ""),
        ("LABEL", words("LABEL", MANY, "a#=1", ""), ""),
        ("mounts", words("RUN", MANY, "--mount=type=cache,target=/a#", " x"), ""),
        ("mounts of images", words("RUN", MANY, "--mount=from=a#,target=/a#", " x"), ""),
        ("mounts of agents", words("RUN", MANY, "--mount=type=ssh,id=#", " x"), ""),
        ("mounts of secrets", words("RUN", MANY, "--mount=type=secret,id=a#,env=a#", " $a1 $a2"), ""),
        (
            "one mount of many keys",
            format!("FROM debian\nRUN --mount=target=/a{} x\n", ",id=1".repeat(MANY)),
            "",
        ),
        ("wrong flags", words("RUN", MANY, "--a#", " x"), "unknown flag"),
        ("heredocs", heredocs, ""),
        ("sources", words("COPY", MANY, "a#", " /"), ""),
        ("URLs", words("ADD", MANY, "https://h/a#", " /"), ""),
        ("ports", words("EXPOSE", MANY, "80", ""), ""),
        ("one line of 10 MB", format!("FROM debian\nRUN {}\n", "x".repeat(10 << 20)), ""),
        ("one line of 10 MB of words", format!("FROM debian\nRUN {}\n", "x ".repeat(5 << 20)), ""),
        ("10 MB in quotes", format!("FROM debian\nENV a=\"{}\"\n", "x ".repeat(5 << 20)), "the environment"),
        ("a JSON array of 2 MB", json, ""),
        ("a JSON array of brackets", format!("FROM debian\nCMD {}\n", "[".repeat(2 << 20)), ""),
        ("variables in one word", unset, ""),
        (
            "variables that are set",
            words("ENV", MANY, "a#=1", &format!("\nUSER {}", "$a1$a19999".repeat(MANY))),
            "",
        ),
        (
            "references in patterns",
            format!("FROM debian\nENV a={}\nUSER ${{a//x*y/z}}\n", "x".repeat(MANY)),
            "",
        ),
        ("nested 1,000 deep", nested(1_000), ""),
        ("nested deep", nested(5 * MANY), "substitutions are nested more than 1000 deep"),
        ("never closed", format!("FROM debian\nUSER {}\n", "${a:-".repeat(MANY)), "substitutions are nested"),
        ("continued lines", format!("FROM debian\nRUN x{}\n", " \\\n y".repeat(MANY)), ""),
        ("continued empty lines", format!("FROM debian\nRUN x \\\n{} y\n", "\n".repeat(MANY)), ""),
        (
            "continued flags",
            format!("FROM debian\nRUN {} x\n", "--mount=type=cache,\\\ntarget=/a \\\n".repeat(MANY)),
            "",
        ),
        ("quotes", format!("FROM debian\nRUN {}\n", "'\"".repeat(MANY)), ""),
    ];
    check(&files, &amd64());
}

#[test]
fn many_ignored_paths() {
    let patterns: Vec<String> = (0..20_000).map(|number| format!("*/a{number}*/**/b?")).collect();
    let matcher = Matcher::new(&patterns).unwrap();
    let start = Instant::now();
    let mut matched = 0;
    for number in 0..20_000 {
        let directory = matcher.matches(b"x", &Matched::default());
        let path = format!("x/a{number}y");
        let inside = matcher.matches(path.as_bytes(), &directory);
        matched += usize::from(matcher.matches(format!("{path}/bc").as_bytes(), &inside).matched);
    }
    println!("ignored paths: {:?}", start.elapsed());
    assert_eq!(matched, 20_000);
}
