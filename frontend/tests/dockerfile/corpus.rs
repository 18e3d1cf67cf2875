//! Other people's Dockerfiles against BuildKit's own line parser, whose answers are stored beside them.

use serde_json::Value;
use wharf_frontend::Diagnostic;
use wharf_frontend::instructions::{self, CommandLine, InstructionKind};
use wharf_frontend::parser::{self, Ast, Node, Token};

#[test]
fn the_corpus_is_read_as_buildkit_reads_it() {
    let Some(corpus) = super::shared::corpus() else { return };
    let expected = std::fs::read_to_string(corpus.join("dockerfiles.parsed.json")).unwrap();
    let expected: serde_json::Map<String, Value> = serde_json::from_str(&expected).unwrap();
    let mut compared = 0;
    for (name, expected) in &expected {
        let source = std::fs::read_to_string(corpus.join("dockerfiles").join(name)).unwrap();
        let (ast, diagnostics) = parser::parse(&source);
        super::check_spans(&source, &ast, &diagnostics);
        assert!(!diagnostics.iter().any(Diagnostic::is_error), "{name}: {diagnostics:?}");
        let found: Vec<Value> = ast.nodes.iter().map(|node| describe(&source, &ast, node)).collect();
        let expected = expected.as_array().unwrap_or_else(|| panic!("{name}: the oracle has an error"));
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(found.len(), expected.len(), "{name}");
        compared += found.len();

        // The files called template are input of another program, which makes Dockerfiles of them.
        let (_, problems) = instructions::parse(&ast);
        let is_template = name.ends_with(".template");
        assert_eq!(problems.iter().any(Diagnostic::is_error), is_template, "{name}: {problems:?}");
    }
    assert!(compared > 0);
}

/// A node in the oracle's form.
fn describe(source: &str, ast: &Ast, node: &Node) -> Value {
    let (value, json) = values(ast, node);
    let flags: Vec<&str> = node.flags.iter().map(|flag| flag.text.as_str()).collect();
    serde_json::json!({
        "cmd": node.name.text,
        "start_line": first_line(source, ast.escape, node),
        "end_line": line_of(source, node.span.end),
        "flags": flags,
        "json": json,
        "value": value,
    })
}

/// To the oracle an instruction begins where its first line does, even if that line is nothing but an escape character.
fn first_line(source: &str, escape: char, node: &Node) -> usize {
    let mut first = line_of(source, node.span.start);
    for (index, line) in
        source[..node.span.start].lines().enumerate().take(first - 1).collect::<Vec<_>>().iter().rev()
    {
        let line = line.trim();
        if line == escape.to_string() {
            first = index + 1;
        } else if !line.is_empty() && !line.starts_with('#') {
            break;
        }
    }
    first
}

fn line_of(source: &str, offset: usize) -> usize {
    source[..offset].matches('\n').count() + 1
}

/// The instruction's arguments as the oracle lists them, and whether they are in JSON form.
pub(crate) fn values(ast: &Ast, node: &Node) -> (Vec<String>, bool) {
    let texts = |tokens: &[Token]| tokens.iter().map(|token| token.text.clone()).collect::<Vec<_>>();
    let in_json = node.args.text.starts_with('[');
    if node.name.text.eq_ignore_ascii_case("FROM") {
        return (node.args.text.split_whitespace().map(str::to_owned).collect(), false);
    }
    // Typed by itself, below some FROM.
    let (mut alone, _) = parser::parse("FROM x");
    alone.escape = ast.escape;
    alone.nodes.push(node.clone());
    let (dockerfile, _) = instructions::parse(&alone);
    let Some(instruction) = dockerfile.stages[0].instructions.first() else {
        // The oracle does not look at the arguments of instructions it does not know.
        assert!(!instructions::NAMES.contains(&node.name.text.to_uppercase().as_str()), "{node:?}");
        return (vec![String::new()], false);
    };
    let command = |command: &CommandLine| match command {
        CommandLine::Shell(text) => (vec![text.text.clone()], false),
        CommandLine::Exec(words) => (words.clone(), true),
    };
    match &instruction.kind {
        InstructionKind::Run(run) => command(&run.command),
        InstructionKind::Cmd(line) | InstructionKind::Entrypoint(line) => command(line),
        InstructionKind::Shell(words) => (words.clone(), true),
        InstructionKind::Copy(copy) => (
            texts(&copy.paths.sources).into_iter().chain(texts(copy.paths.dest.as_slice())).collect(),
            in_json,
        ),
        InstructionKind::Add(add) => {
            (texts(&add.paths.sources).into_iter().chain(texts(add.paths.dest.as_slice())).collect(), in_json)
        }
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
            (pairs.iter().flat_map(|(name, value)| [name.text.clone(), value.text.clone()]).collect(), false)
        }
        InstructionKind::Arg(args) => {
            let word = |arg: &instructions::Arg| match &arg.default {
                Some(default) => format!("{}={}", arg.name.text, default.text),
                None => arg.name.text.clone(),
            };
            (args.iter().map(word).collect(), false)
        }
        InstructionKind::Expose(words) => (texts(words), false),
        InstructionKind::Volume(words) => (texts(words), in_json),
        InstructionKind::Workdir(text)
        | InstructionKind::User(text)
        | InstructionKind::StopSignal(text)
        | InstructionKind::Maintainer(text) => (vec![text.text.clone()], false),
        InstructionKind::Healthcheck(_) | InstructionKind::OnBuild(_) => {
            panic!("the corpus has none of these: {node:?}")
        }
    }
}
