//! The checks: BuildKit's rules for what a Dockerfile may say and better would not.
//!
//! A rule speaks by making a [`Diagnostic`] that names it, in the parser, in [`file`] or in the conversion, whoever
//! has what it needs; none of them asks whether it may. [`Linter::report`] then leaves out what the file, a comment
//! above the instruction or the build has silenced.

mod config;
mod file;
mod message;
pub(crate) mod reference;
mod rule;

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use crate::Diagnostic;
use crate::parser::{Ast, Token};
use config::Config;
pub(crate) use file::doc_comments;
pub use file::file;
pub use rule::Rule;

/// The build argument that stands in for the file's `check` directive.
pub const CHECK_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// What of the rules' words is to be heard.
#[derive(Debug, Clone)]
pub struct Linter {
    config: Config,
    /// The instructions in order.
    places: Vec<Place>,
}

/// An instruction with the comments above it.
#[derive(Debug, Clone)]
struct Place {
    start: usize,
    /// What `# check=…` comments make of the file's configuration.
    config: Option<Config>,
}

impl Linter {
    /// Reads the file's configuration; `build_arg` (the value of [`CHECK_ARG`]) replaces its directive. What is wrong
    /// with it is in the list; an error there prevents the build.
    pub fn new(ast: &Ast, build_arg: Option<&str>) -> (Self, Vec<Diagnostic>) {
        let mut problems = Vec::new();
        let directive = ast.directives.iter().find(|(key, _)| key.text == "check");
        let config = match (build_arg, directive) {
            (Some(text), _) => {
                let config = Config::parse(&Token { text: text.to_owned(), span: 0..0 }, &mut problems);
                for problem in &mut problems {
                    problem.message = format!("{CHECK_ARG}: {}", problem.message);
                }
                config
            }
            (None, Some((_, value))) => Config::parse(value, &mut problems),
            (None, None) => Config::default(),
        };
        let is_directive =
            |comment: &Token| directive.is_some_and(|(key, _)| touches(&comment.span, &key.span));
        let places = ast.nodes.iter().map(|node| {
            let comments = node.comments.iter().filter(|comment| !is_directive(comment));
            let config = comments.filter_map(check_comment).fold(None, |merged: Option<Config>, value| {
                let mut wrong = Vec::new();
                let comment = Config::parse(&value, &mut wrong);
                problems.extend(wrong.into_iter().map(Diagnostic::into_warning));
                Some(merged.as_ref().unwrap_or(&config).merged(&comment))
            });
            let start = node.comments.first().map_or(node.span.start, |comment| comment.span.start);
            Place { start: start.min(node.span.start), config }
        });
        let places = places.collect();
        (Self { config, places }, problems)
    }

    /// What is left of the problems when the silenced rules are: in the order of the file, each once.
    pub fn report(&self, mut problems: Vec<Diagnostic>) -> Vec<Diagnostic> {
        problems.sort_by_key(|problem| problem.span.start);
        let mut seen = HashSet::new();
        let mut with_empty_lines = BTreeSet::new();
        problems.retain(|problem| {
            let is_heard = problem.rule.is_none_or(|rule| self.allows(rule, problem));
            // One empty line tells of all in the instruction.
            let is_first = !is_heard
                || problem.rule != Some(Rule::NoEmptyContinuation)
                || with_empty_lines.insert(self.place(problem.span.start));
            let Range { start, end } = problem.span;
            is_heard && is_first && seen.insert((problem.rule, start, end, problem.message.clone()))
        });
        problems
    }

    /// With `error=true`: why what is reported stops the build.
    pub fn violation(&self, reported: &[Diagnostic]) -> Option<String> {
        let rules: BTreeSet<&str> =
            reported.iter().filter_map(|problem| Some(problem.rule?.name())).collect();
        if !self.config.error || rules.is_empty() {
            return None;
        }
        let rules: Vec<&str> = rules.into_iter().collect();
        Some(format!("lint violation found for rules: {}", rules.join(", ")))
    }

    /// A comment silences what is said of its instruction, and what that instruction makes wrong of another.
    fn allows(&self, rule: Rule, problem: &Diagnostic) -> bool {
        let related = problem.related.as_ref().map(|related| related.span.start);
        std::iter::once(problem.span.start).chain(related).all(|at| {
            let own = self.place(at).and_then(|index| self.places[index].config.as_ref());
            own.unwrap_or(&self.config).allows(rule)
        })
    }

    /// The instruction that this offset belongs to.
    fn place(&self, at: usize) -> Option<usize> {
        self.places.partition_point(|place| place.start <= at).checked_sub(1)
    }
}

fn touches(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// The value of a comment `check=…`.
fn check_comment(comment: &Token) -> Option<Token> {
    let (key, value) = comment.text.split_once('=')?;
    if !key.trim().eq_ignore_ascii_case("check") {
        return None;
    }
    let start = comment.span.start + key.len() + 1 + (value.len() - value.trim_start().len());
    let value = value.trim();
    Some(Token { text: value.to_owned(), span: start..start + value.len() })
}
