//! The checks. Each folder of `testdata/lint` is a rule: `fires.Dockerfile`, what is said of it in `fires.expect`
//! (`UPDATE_EXPECT=1` writes it), and `silent.Dockerfile`, of which the rule has nothing to say. That a directive and
//! a comment silence the rule is tried on the first. `options` has a `build-arg` or `ignore` a line.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod carets;
#[expect(clippy::print_stdout, reason = "a test that skips says what is missing")]
mod shared;

use std::fmt::Write as _;
use std::path::Path;

use expect_test::{Expect, expect, expect_file};
use proptest::prelude::*;
use wharf_frontend::dockerfile2llb::{self, ImageMetaResolver, Options, ResolvedImage, TimeOf};
use wharf_frontend::lint::{self, CHECK_ARG};
use wharf_frontend::{Diagnostic, Linter, Rule, instructions, parser};
use wharf_solver::llb::Platform;

/// Knows a few images, and takes the rest for images that nothing is known of.
struct Images;

impl ImageMetaResolver for Images {
    fn resolve(&mut self, reference: &str, _: &Platform) -> Result<ResolvedImage, String> {
        let (architecture, config) = match reference.split(':').next().unwrap() {
            "debian" => ("amd64", r#"{"Env": ["PATH=/bin", "LANG=C"], "WorkingDir": "/srv"}"#),
            "arm" => ("arm64", "{}"),
            "powershell" => ("amd64", r#"{"Shell": ["pwsh", "-Command"]}"#),
            _ => return Err("not here".to_owned()),
        };
        let config = format!(
            r#"{{"os": "linux", "architecture": "{architecture}", "config": {config},
                 "rootfs": {{"type": "layers", "diff_ids": ["sha256:00"]}}}}"#
        );
        Ok(ResolvedImage {
            identifier: format!("docker-image://{reference}@sha256:00"),
            config: config.into(),
        })
    }

    fn is_optional(&self) -> bool {
        true
    }

    fn time(&mut self, _: &TimeOf) -> Result<Option<u64>, String> {
        Ok(None)
    }
}

/// What the checks say of `text`, and why it would not be built.
fn check(text: &str, flags: &str) -> (Vec<Diagnostic>, Option<String>) {
    let amd64 = Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), ..Platform::default() };
    let mut options =
        Options { platform: amd64.clone(), build_platform: amd64, every_stage: true, ..Options::default() };
    for line in flags.lines() {
        match line.split_once(' ').unwrap() {
            ("ignore", pattern) => options.ignore.push(pattern.to_owned()),
            ("build-arg", arg) => {
                let (name, value) = arg.split_once('=').unwrap();
                options.build_args.insert(name.to_owned(), value.to_owned());
            }
            other => panic!("{other:?}"),
        }
    }
    let (ast, mut problems) = parser::parse(text);
    let (dockerfile, more) = instructions::parse(&ast);
    let (linter, wrong) = Linter::new(&ast, options.build_args.get(CHECK_ARG).map(String::as_str));
    problems.extend(more.into_iter().chain(wrong).chain(lint::file(&ast)));
    if !problems.iter().any(Diagnostic::is_error) {
        match dockerfile2llb::convert(&dockerfile, &options, &mut Images) {
            Ok(converted) => problems.extend(converted.warnings),
            Err(error) => problems.extend(error.diagnostics),
        }
    }
    let reported = linter.report(problems);
    let violation = linter.violation(&reported);
    (reported, violation)
}

/// Each diagnostic with its line and carets below it.
fn dump(text: &str, reported: &[Diagnostic]) -> String {
    let mut out = String::new();
    for it in reported {
        let severity = if it.is_error() { "error" } else { "warning" };
        let place = it.place().map(|place| format!("{} ", carets::place(text, place))).unwrap_or_default();
        writeln!(out, "{severity} {place}{}", it.headline()).unwrap();
        if let Some(place) = it.place() {
            out.push_str(&carets::excerpt(text, place));
        }
        if let Some(related) = &it.related {
            writeln!(out, "  {} {}", carets::place(text, &related.span), related.label).unwrap();
            out.push_str(&carets::excerpt(text, &related.span));
        }
        if let Some(hint) = &it.hint {
            writeln!(out, "  hint: {hint}").unwrap();
        }
    }
    out
}

fn with_rule(reported: &[Diagnostic], rule: Rule) -> usize {
    reported.iter().filter(|it| it.rule == Some(rule)).count()
}

#[test]
fn every_rule_fires_and_is_silenced() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/lint");
    for rule in Rule::ALL {
        let case = folder.join(rule.name());
        let read = |name: &str| std::fs::read_to_string(case.join(name));
        let options = read("options").unwrap_or_default();
        let fires = read("fires.Dockerfile").unwrap();

        let (reported, violation) = check(&fires, &options);
        assert_eq!(violation, None);
        expect_file![case.join("fires.expect")].assert_eq(&dump(&fires, &reported));
        let count = with_rule(&reported, rule);
        assert!(count > 0, "{rule} does not fire");
        assert!(!reported.iter().any(Diagnostic::is_error), "{rule}: {reported:#?}");

        let silent = read("silent.Dockerfile").unwrap();
        let (said, _) = check(&silent, &options);
        assert_eq!(with_rule(&said, rule), 0, "{}", dump(&silent, &said));
        assert!(!said.iter().any(Diagnostic::is_error), "{rule}: {said:#?}");

        let silenced = match fires.strip_prefix("# check=") {
            Some(rest) => format!("# check=skip={rule};{rest}"),
            None => format!("# check=skip={rule}\n{fires}"),
        };
        let (said, _) = check(&silenced, &options);
        assert_eq!(
            (with_rule(&said, rule), said.len()),
            (0, reported.len() - count),
            "{}",
            dump(&silenced, &said)
        );

        let (said, _) = check(&fires, &format!("{options}build-arg {CHECK_ARG}=skip={rule}\n"));
        assert_eq!(with_rule(&said, rule), 0, "{}", dump(&fires, &said));

        let commented = with_comments(&fires, &reported, rule);
        let (said, _) = check(&commented, &options);
        assert_eq!(
            (with_rule(&said, rule), said.len()),
            (0, reported.len() - count),
            "{}",
            dump(&commented, &said)
        );
    }
}

/// The text with a comment that silences `rule` above each instruction that it speaks of.
fn with_comments(text: &str, reported: &[Diagnostic], rule: Rule) -> String {
    let (ast, _) = parser::parse(text);
    let mut starts: Vec<usize> = Vec::new();
    for it in reported.iter().filter(|it| it.rule == Some(rule)) {
        let node = ast.nodes.iter().find(|node| it.span.start < node.span.end).unwrap();
        starts.push(node.span.start);
    }
    starts.sort_unstable();
    starts.dedup();
    let mut text = text.to_owned();
    for start in starts.into_iter().rev() {
        text.insert_str(start, &format!("# check = skip={rule}\n"));
    }
    text
}

#[track_caller]
fn check_dump(text: &str, flags: &str, expected: Expect) {
    let (reported, violation) = check(text, flags);
    let violation = violation.map_or(String::new(), |violation| format!("violation: {violation}\n"));
    expected.assert_eq(&(dump(text, &reported) + &violation));
}

#[test]
fn a_directive_may_stop_the_build() {
    check_dump(
        "# check=error=true\nFROM scratch as a\nMAINTAINER me\nMAINTAINER you\n",
        "",
        expect![[r#"
            warning @2:14-16 FromAsCasing: 'as' and 'FROM' keywords' casing do not match
              | FROM scratch as a
              |              ^^
            warning @3:1-11 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label
              | MAINTAINER me
              | ^^^^^^^^^^
            warning @4:1-11 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label
              | MAINTAINER you
              | ^^^^^^^^^^
            violation: lint violation found for rules: FromAsCasing, MaintainerDeprecated
        "#]],
    );
    check_dump("# check=error=true\nFROM scratch AS a\n", "", expect![""]);
    check_dump("# check=skip=all;error=true\nFROM scratch as a\n", "", expect![""]);
}

#[test]
fn the_build_argument_replaces_the_directive() {
    let text = "# check=error=true;skip=all\nFROM scratch as a\n";
    check_dump(
        text,
        &format!("build-arg {CHECK_ARG}=experimental=all"),
        expect![[r#"
            warning @2:14-16 FromAsCasing: 'as' and 'FROM' keywords' casing do not match
              | FROM scratch as a
              |              ^^
        "#]],
    );
    check_dump(
        text,
        &format!("build-arg {CHECK_ARG}=err=1"),
        expect![[r#"
            error BUILDKIT_DOCKERFILE_CHECK: invalid check option "err"
              hint: write skip=RULE,…;error=true;experimental=RULE,…
            warning @2:14-16 FromAsCasing: 'as' and 'FROM' keywords' casing do not match
              | FROM scratch as a
              |              ^^
        "#]],
    );
}

#[test]
fn a_comment_is_for_the_instruction_below_it() {
    check_dump(
        "FROM scratch\n# check=skip=all\n# a word\nMAINTAINER a\nMAINTAINER b\n# check=skip=MaintainerDeprecated\n\nMAINTAINER c\n",
        "",
        expect![[r#"
            warning @5:1-11 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label
              | MAINTAINER b
              | ^^^^^^^^^^
            warning @8:1-11 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label
              | MAINTAINER c
              | ^^^^^^^^^^
        "#]],
    );
    // What it says wrongly is no error: it could be prose.
    check_dump(
        "FROM scratch\n# check=this\nLABEL a=b\n# check=skip=Undefined\nUSER $x\n",
        "",
        expect![[r#"
            warning @2:9-13 invalid check option "this"
              | # check=this
              |         ^^^^
              hint: write skip=RULE,…;error=true;experimental=RULE,…
            warning @4:14-23 there is no check called "Undefined"
              | # check=skip=Undefined
              |              ^^^^^^^^^
              hint: did you mean UndefinedVar?
            warning @5:6-8 UndefinedVar: Usage of undefined variable '$x'
              | USER $x
              |      ^^
        "#]],
    );
    // The comment above the instruction that makes an earlier one pointless counts for both.
    check_dump(
        "FROM debian\nCMD [\"a\"]\n# check=skip=MultipleInstructionsDisallowed\nCMD [\"b\"]\n",
        "",
        expect![""],
    );
}

#[test]
fn wrong_options_of_the_directive_are_errors() {
    check_dump(
        "# check=error=maybe;skp=all;skip=CopyIgnoredFiles\nFROM scratch\n",
        "",
        expect![[r#"
            error @1:15-20 failed to parse check option "error=maybe": "maybe" is not true or false
              | # check=error=maybe;skp=all;skip=CopyIgnoredFiles
              |               ^^^^^
            error @1:21-24 invalid check option "skp"
              | # check=error=maybe;skp=all;skip=CopyIgnoredFiles
              |                     ^^^
              hint: did you mean skip?
            warning @1:34-50 there is no check called "CopyIgnoredFiles"
              | # check=error=maybe;skp=all;skip=CopyIgnoredFiles
              |                                  ^^^^^^^^^^^^^^^^
              hint: did you mean CopyIgnoredFile?
        "#]],
    );
}

#[test]
fn ignore_files_that_take_something_back_are_not_judged() {
    let text = "FROM scratch\nCOPY a/b /\n";
    assert_eq!(check(text, "ignore a").0.len(), 1);
    assert_eq!(check(text, "ignore a\nignore !a/b").0, []);
    assert_eq!(check("FROM scratch\nCOPY . /\nCOPY / /\n", "ignore *").0, []);
}

#[test]
fn real_dockerfiles_have_no_errors() {
    let Some(corpus) = shared::corpus() else { return };
    let mut count = 0;
    for entry in std::fs::read_dir(corpus.join("dockerfiles")).unwrap() {
        let path = entry.unwrap().path();
        // Templates are input of another program, which makes Dockerfiles of them.
        if path.extension().is_some_and(|extension| extension == "template") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let (reported, _) = check(&text, "");
        let errors: Vec<_> = reported.into_iter().filter(Diagnostic::is_error).collect();
        assert!(errors.is_empty(), "{}:\n{}", path.display(), dump(&text, &errors));
        count += 1;
    }
    assert!(count > 200, "{count} files");
}

proptest! {
    /// Whatever is cut out of a file and put into it, every place is one of it.
    #[test]
    fn places_are_in_the_file(rule in 0..Rule::ALL.len(), at in any::<prop::sample::Index>(), cut in 0usize..20, put in "(# check=)?[a-zA-Z$=:;,\\\\\\n /]{0,12}") {
        let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/lint").join(Rule::ALL[rule].name());
        let source = std::fs::read_to_string(case.join("fires.Dockerfile")).unwrap();
        let mut chars: Vec<char> = source.chars().collect();
        let start = at.index(chars.len() + 1);
        chars.splice(start..(start + cut).min(chars.len()), put.chars());
        let source: String = chars.into_iter().collect();
        for it in check(&source, "ignore a").0 {
            prop_assert!(source.get(it.span.clone()).is_some(), "{it:?}");
            prop_assert!(it.related.is_none_or(|related| source.get(related.span).is_some()));
        }
    }
}
