//! The parser and the typed instructions, from data: `testdata/dockerfile` and, where it is present, a corpus of other
//! people's files with what BuildKit's own parser made of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod carets;
#[path = "dockerfile/corpus.rs"]
mod corpus;
#[path = "dockerfile/dump.rs"]
mod dump;
#[path = "dockerfile/oracles.rs"]
mod oracles;
#[expect(clippy::print_stdout, reason = "a test that skips says what is missing")]
mod shared;

use std::ops::Range;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use proptest::prelude::*;
use wharf_frontend::instructions::{self, Dockerfile, InstructionKind};
use wharf_frontend::parser::{self, Ast, Token};
use wharf_frontend::{Diagnostic, shell};

fn parse(source: &str) -> (Ast, Dockerfile, Vec<Diagnostic>) {
    let (ast, mut diagnostics) = parser::parse(source);
    let (dockerfile, more) = instructions::parse(&ast);
    diagnostics.extend(more);
    (ast, dockerfile, diagnostics)
}

fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/dockerfile").join(folder);
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "Dockerfile"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "{} holds no cases", folder.display());
    cases
}

#[test]
fn good_files() {
    for case in cases("ok") {
        let source = std::fs::read_to_string(&case).unwrap();
        let (ast, dockerfile, diagnostics) = parse(&source);
        assert!(!diagnostics.iter().any(Diagnostic::is_error), "{}: {diagnostics:#?}", case.display());
        let dump = dump::dockerfile(&source, &ast, &dockerfile, &diagnostics);
        expect_file![case.with_extension("ast")].assert_eq(&dump);
        check_spans(&source, &ast, &diagnostics);
    }
}

#[test]
fn bad_files() {
    for case in cases("err") {
        let source = std::fs::read_to_string(&case).unwrap();
        let (ast, _, diagnostics) = parse(&source);
        assert!(diagnostics.iter().any(Diagnostic::is_error), "{} has no error", case.display());
        expect_file![case.with_extension("diag")].assert_eq(&dump::diagnostics(&source, &diagnostics));
        check_spans(&source, &ast, &diagnostics);
    }
}

/// Every span is a place in the file, and the text of a token stands where its span says.
#[track_caller]
fn check_spans(source: &str, ast: &Ast, diagnostics: &[Diagnostic]) {
    let check_place = |span: &Range<usize>| {
        assert!(source.get(span.clone()).is_some(), "{span:?} is no place in {source:?}");
    };
    let check_token = |token: &Token| {
        check_place(&token.span);
        if token.span.len() == token.text.len() {
            assert!(source[token.span.clone()].eq_ignore_ascii_case(&token.text), "{token:?} in {source:?}");
        }
    };
    for (key, value) in &ast.directives {
        check_token(key);
        check_token(value);
    }
    for node in &ast.nodes {
        check_place(&node.span);
        check_token(&node.name);
        node.flags.iter().chain(&node.comments).for_each(check_token);
        check_token(&node.args);
        for (at, byte) in node.args.text.bytes().enumerate() {
            assert_eq!(source.as_bytes()[node.args_map.place(at)], byte, "{node:?}");
        }
        assert!(!node.display.contains('\n'), "{node:?}");
        node.heredocs.iter().for_each(|heredoc| check_place(&heredoc.span));
    }
    diagnostics.iter().for_each(|diagnostic| check_place(&diagnostic.span));
}

#[test]
fn triggers_are_read_as_they_stand_in_an_image() {
    for (trigger, expected) in [
        ("RUN make", Ok("RUN make")),
        ("copy . /src", Ok("COPY . /src")),
        ("RUN <<EOF\nmake\nEOF", Ok("RUN <<EOF")),
        (
            "ADD a",
            Err(
                "ADD requires at least two arguments, but only one was provided. Destination could not be determined",
            ),
        ),
        ("ONBUILD RUN x", Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
        ("FROM x", Err("FROM isn't allowed as an ONBUILD trigger")),
        ("MAINTAINER x", Err("MAINTAINER isn't allowed as an ONBUILD trigger")),
        ("", Err("the Dockerfile cannot be empty")),
        ("RUN a\nRUN b", Err("onbuild trigger should be a single expression")),
        ("RUN <<EOF\n", Err("unterminated heredoc")),
    ] {
        let result = instructions::parse_trigger(trigger);
        let result = result.as_ref().map(|instruction| &*instruction.display);
        assert_eq!(result.map_err(|problems| problems[0].message.as_str()), expected, "{trigger}");
    }
}

#[test]
fn a_stored_trigger_means_what_was_written() {
    let source = "FROM a\nONBUILD RUN --network=none <<-A cat && \\\n  <<'B' cat\n\t1\n\tA\n\t2\nB\nUSER x\n";
    let (_, dockerfile, diagnostics) = parse(source);
    assert_eq!(diagnostics, []);
    let InstructionKind::OnBuild(stored) = &dockerfile.stages[0].instructions[0].kind else { panic!() };
    let InstructionKind::Run(run) = instructions::parse_trigger(&stored.text).unwrap().kind else { panic!() };
    let bodies: Vec<_> = run.heredocs.iter().map(|heredoc| heredoc.content.as_str()).collect();
    assert_eq!(bodies, ["1\n", "\t2\n"]);
    assert_eq!(run.network.unwrap().text, "none");
}

#[test]
fn large_files_are_read_in_linear_time() {
    let many = "FROM a\n".to_owned() + &"RUN echo \"$x\" <<A\nbody\nA\n".repeat(100_000);
    let (ast, dockerfile, diagnostics) = parse(&many);
    assert_eq!((ast.nodes.len(), dockerfile.stages[0].instructions.len()), (100_001, 100_000));
    assert_eq!(diagnostics, []);

    for long in [
        format!("FROM a\nRUN echo {} << x", "a ".repeat(5_000_000)),
        format!("FROM a\nENV k=v {}", "a=\"b c\" ".repeat(100_000)),
        format!("FROM a\nRUN x{}", " \\\n y".repeat(100_000)),
        format!("FROM a\nCOPY [{}\"/\"]", "\"a\", ".repeat(100_000)),
        format!("FROM a\nRUN <<A\n{}\nA\n", "x".repeat(10_000_000)),
        format!("FROM a\nRUN cat {}", "<<A ".repeat(50_000)) + "\n" + &"A\n".repeat(50_000),
        format!("FROM a\nRUN {} x", "--mount=a ".repeat(100_000)),
    ] {
        let (_, dockerfile, diagnostics) = parse(&long);
        assert!(diagnostics.is_empty(), "{:?}", diagnostics[0]);
        assert_eq!(dockerfile.stages[0].instructions.len(), 1);
    }

    let wrong = "x".repeat(1_000) + "\n";
    assert_eq!(parse(&wrong.repeat(10_000)).2.len(), 10_000);
    let nested = format!("FROM a\nRUN {}{} <<A\n", "${x:-".repeat(2_000), "}".repeat(2_000));
    assert_eq!(parse(&nested).2, []);
}

/// Pieces that mean something to the parser, to be put together in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "FROM ",
        "a",
        " AS b",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ARG ",
        "LABEL ",
        "ONBUILD ",
        "HEALTHCHECK ",
        "CMD ",
        "SHELL ",
        "VOLUME ",
        "EXPOSE ",
        "--from=",
        "--mount=type=cache",
        "--interval=1s",
        "--",
        "NONE",
        "[",
        "]",
        "\"",
        "'",
        ",",
        "\\",
        "`",
        "\n",
        "\r\n",
        "\\\n",
        "`\n",
        "#",
        "# escape=`\n",
        "# syntax=x\n",
        " ",
        "\t",
        "<<",
        "<<-",
        "EOF",
        "<<EOF",
        "\nEOF\n",
        "3<<\"EOF\"",
        "$",
        "${",
        "}",
        "x:-",
        "=",
        "é",
        "\u{feff}",
        "\u{a0}",
        "\0",
        "/",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_ends_in_a_result(source in "(?s).{0,200}") {
        let (ast, _, diagnostics) = parse(&source);
        check_spans(&source, &ast, &diagnostics);
    }

    #[test]
    fn any_pieces_end_in_a_result(source in pieces()) {
        let (ast, _, diagnostics) = parse(&source);
        check_spans(&source, &ast, &diagnostics);
        let _ = instructions::parse_trigger(&source);
    }

    #[test]
    fn any_word_ends_in_a_result(word in pieces(), set in any::<bool>()) {
        for escape in ['\\', '`'] {
            let lookup = |name: &str| set.then(|| name.to_owned());
            let lex = shell::Lex { escape, lookup: &lookup };
            let _ = (lex.word(&word), lex.words(&word), lex.heredoc(&word));
        }
    }

    #[test]
    fn good_files_with_a_piece_cut_out_or_put_in(
        case in prop::sample::select(cases("ok")), at in any::<prop::sample::Index>(), cut in 0usize..30, put in pieces(),
    ) {
        let source = std::fs::read_to_string(case).unwrap();
        let mut chars: Vec<char> = source.chars().collect();
        let start = at.index(chars.len() + 1);
        let end = (start + cut).min(chars.len());
        chars.splice(start..end, put.chars());
        let source: String = chars.into_iter().collect();
        let (ast, _, diagnostics) = parse(&source);
        check_spans(&source, &ast, &diagnostics);
    }
}
