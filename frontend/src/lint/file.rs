//! The rules that need nothing but the text.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::Diagnostic;
use crate::instructions::NAMES;
use crate::parser::{Ast, Mapped, Node};

/// Names of stages that mean something else.
const RESERVED: [&str; 2] = ["context", "scratch"];

/// What these rules say of a file. A file with errors is checked as far as it makes sense.
pub fn file(ast: &Ast) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let mut stages: BTreeMap<String, Range<usize>> = BTreeMap::new();
    for node in &ast.nodes {
        match node.name.text.to_ascii_uppercase().as_str() {
            "FROM" => from(ast, node, &mut stages, &mut problems),
            "ARG" => {
                let words = node.mapped_args().split_quoted(ast.escape);
                let names: Vec<&str> = words.iter().map(|word| until_equals_sign(word.text)).collect();
                description(ast, node, &names, &mut problems);
            }
            "MAINTAINER" => problems.push(Diagnostic::maintainer(node.name.span.clone())),
            _ => {}
        }
    }
    casing(ast, &mut problems);
    problems
}

/// The comments directly above an instruction that may describe it: those since the last empty one, without directives.
pub(crate) fn doc_comments<'a>(
    ast: &'a Ast,
    node: &'a Node,
) -> impl Iterator<Item = &'a crate::parser::Token> {
    let begin = node.comments.iter().rposition(|comment| comment.text.is_empty()).map_or(0, |at| at + 1);
    node.comments[begin..].iter().filter(|comment| {
        let is_directive = ast
            .directives
            .iter()
            .any(|(key, _)| comment.span.start <= key.span.start && key.span.end <= comment.span.end);
        !is_directive && super::check_comment(comment).is_none()
    })
}

fn until_equals_sign(word: &str) -> &str {
    word.split_once('=').map_or(word, |(name, _)| name)
}

fn from(ast: &Ast, node: &Node, stages: &mut BTreeMap<String, Range<usize>>, problems: &mut Vec<Diagnostic>) {
    let words = node.mapped_args().split_blanks();
    let [_, r#as, name] = words.as_slice() else { return };
    if !r#as.text.eq_ignore_ascii_case("as") {
        return;
    }
    let lower = name.text.to_lowercase();
    if lower != name.text {
        problems.push(Diagnostic::stage_name_casing(name.span(), name.text));
    }
    if !same_casing(node.name.text.as_str(), r#as) {
        problems.push(Diagnostic::as_casing(r#as.span(), r#as.text, &node.name.text));
    }
    if RESERVED.contains(&lower.as_str()) {
        problems.push(Diagnostic::reserved_stage_name(name.span(), &lower));
    }
    match stages.get(&lower) {
        Some(first) => problems.push(Diagnostic::duplicate_stage_name(name.span(), &lower, first.clone())),
        None => drop(stages.insert(lower.clone(), name.span())),
    }
    description(ast, node, &[&lower], problems);
}

/// A FROM in mixed case says nothing about AS.
fn same_casing(from: &str, r#as: &Mapped<'_>) -> bool {
    match casing_of(from) {
        Some(Casing::Lower) => r#as.text.chars().all(|char| !char.is_uppercase()),
        Some(Casing::Upper) => r#as.text.chars().all(|char| !char.is_lowercase()),
        None => true,
    }
}

/// A comment above a stage or an argument that is not about it.
fn description(ast: &Ast, node: &Node, names: &[&str], problems: &mut Vec<Diagnostic>) {
    let Some(comment) = doc_comments(ast, node).last() else { return };
    let first = comment.text.split(' ').next().unwrap_or_default();
    if names.is_empty() || names.contains(&first) {
        return;
    }
    let name = if let [name] = names { name } else { "<arg_key>" };
    let instruction = node.name.text.to_ascii_uppercase();
    problems.push(Diagnostic::definition_description(comment.span.clone(), &instruction, name));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Casing {
    Lower,
    Upper,
}

impl Casing {
    fn name(self) -> &'static str {
        match self {
            Self::Lower => "lowercase",
            Self::Upper => "uppercase",
        }
    }
}

fn casing_of(name: &str) -> Option<Casing> {
    if name.chars().all(|char| !char.is_uppercase()) {
        Some(Casing::Lower)
    } else if name.chars().all(|char| !char.is_lowercase()) {
        Some(Casing::Upper)
    } else {
        None
    }
}

/// All instructions from the first FROM on are written as most of them are; with as many of both kinds in capitals.
fn casing(ast: &Ast, problems: &mut Vec<Diagnostic>) {
    let is_from = |node: &Node| node.name.text.eq_ignore_ascii_case("FROM");
    // What is no instruction has been told already.
    let is_known = |node: &&Node| NAMES.iter().any(|name| node.name.text.eq_ignore_ascii_case(name));
    let names = || ast.nodes.iter().skip_while(|node| !is_from(node)).filter(is_known).map(|node| &node.name);
    let count = |casing| names().filter(|name| casing_of(&name.text) == Some(casing)).count();
    let majority = if count(Casing::Lower) > count(Casing::Upper) { Casing::Lower } else { Casing::Upper };
    for name in names().filter(|name| casing_of(&name.text) != Some(majority)) {
        problems.push(Diagnostic::instruction_casing(name.span.clone(), &name.text, majority.name()));
    }
}
