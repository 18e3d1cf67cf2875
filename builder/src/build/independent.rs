//! Errors that the conversion finds in a file that could not be read in full: those that stay whatever the rest of it
//! was meant to say.

use std::collections::HashSet;
use std::ops::Range;

use wharf_frontend::Diagnostic;
use wharf_frontend::diagnostic::nearest;
use wharf_frontend::dockerfile2llb::{self, ImageMetaResolver, Options, ResolvedImage, TimeOf};
use wharf_frontend::instructions::{Dockerfile, NAMES};
use wharf_frontend::parser::{Ast, Node};
use wharf_solver::llb::Platform;

/// The errors of a conversion that follow from none of `problems`, which are those of reading the file.
pub(super) fn errors(
    ast: &Ast,
    dockerfile: &Dockerfile,
    problems: &[Diagnostic],
    options: &Options,
) -> Vec<Diagnostic> {
    let Some(damage) = Damage::of(ast, problems) else { return Vec::new() };
    // Which stages the target needs can no longer be told.
    if damage.stages && !options.every_stage || dockerfile.stages.is_empty() {
        return Vec::new();
    }
    let Err(error) = dockerfile2llb::convert(dockerfile, options, &mut Nobody) else { return Vec::new() };
    let is_independent = |error: &Diagnostic| {
        error.place().and_then(|place| node_at(ast, place)).is_some_and(|index| {
            let node = &ast.nodes[index];
            let depends = depends_on_variables(node) || damage.stages && depends_on_stages(node);
            !damage.nodes.contains(&index) && !depends
        })
    };
    let errors = error.diagnostics.into_iter().filter(Diagnostic::is_error);
    errors.filter(is_independent).collect()
}

/// What is not known of a file because parts of it could not be read.
#[derive(Default)]
struct Damage {
    /// The instructions that are wrong already, by number.
    nodes: HashSet<usize>,
    /// Where stages begin, or what they are called.
    stages: bool,
}

impl Damage {
    /// `None` if nothing can be relied on: how lines continue may be what is wrong.
    fn of(ast: &Ast, problems: &[Diagnostic]) -> Option<Self> {
        let mut damage = Self::default();
        let first_from = ast.nodes.iter().position(|node| node.name.text.eq_ignore_ascii_case("FROM"));
        for problem in problems.iter().filter(|problem| problem.is_error()) {
            // What stands nowhere is about the command line.
            let Some(place) = problem.place() else { continue };
            let Some(index) = node_at(ast, place) else {
                if is_about_checks(ast, place) {
                    continue;
                }
                return None;
            };
            let node = &ast.nodes[index];
            damage.nodes.insert(index);
            damage.stages |= may_begin_stage(node)
                || first_from.is_none_or(|first| index < first)
                // A heredoc without an end takes in all that follows.
                || node.heredocs.iter().any(|heredoc| heredoc.operator == *place);
        }
        Some(damage)
    }
}

/// The instruction in which a place is; above the first there is none.
fn node_at(ast: &Ast, place: &Range<usize>) -> Option<usize> {
    ast.nodes.partition_point(|node| node.span.start <= place.start).checked_sub(1)
}

/// Whether a place is in the `check` directive, which changes nothing of what the file means.
fn is_about_checks(ast: &Ast, place: &Range<usize>) -> bool {
    let mut checks = ast.directives.iter().filter(|(key, _)| key.text == "check");
    checks.any(|(key, value)| key.span.start <= place.start && place.end <= value.span.end)
}

fn may_begin_stage(node: &Node) -> bool {
    let name = node.name.text.as_str();
    if NAMES.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return name.eq_ignore_ascii_case("FROM");
    }
    // A word that is like nothing may have been meant as anything.
    nearest(name, &NAMES).is_none_or(|near| near == "FROM")
}

/// Any variable may come from an instruction that was not read or an image that nobody was asked about.
fn depends_on_variables(node: &Node) -> bool {
    let is_run = node.name.text.eq_ignore_ascii_case("RUN");
    let mut flags = node.flags.iter();
    let mut bodies = node.heredocs.iter();
    flags.any(|flag| flag.text.contains('$'))
        // Those of a RUN are the shell's.
        || !is_run && (node.args.text.contains('$') || bodies.any(|body| body.content.contains('$')))
}

fn depends_on_stages(node: &Node) -> bool {
    node.name.text.eq_ignore_ascii_case("FROM") || node.flags.iter().any(|flag| flag.text.contains("from"))
}

/// Knows no image.
struct Nobody;

impl ImageMetaResolver for Nobody {
    fn resolve(&mut self, _: &str, _: &Platform) -> Result<ResolvedImage, String> {
        Err("nobody was asked".to_owned())
    }

    fn is_optional(&self) -> bool {
        true
    }

    fn time(&mut self, _: &TimeOf) -> Result<Option<u64>, String> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::dockerfile::Parsed;
    use super::*;
    use crate::error::SourceText;

    /// The lines of the errors of a file, in order.
    #[track_caller]
    fn check(text: &str, expected: &[usize]) {
        check_with(text, true, expected);
    }

    #[track_caller]
    fn check_with(text: &str, every_stage: bool, expected: &[usize]) {
        let mut parsed = Parsed::read(&SourceText::new("Dockerfile", text), &BTreeMap::new());
        let options = Options { every_stage, ..Options::default() };
        assert!(parsed.convert(&options, &mut Nobody).is_none(), "{text}");
        let errors = parsed.report().errors;
        let line = |error: &Diagnostic| text[..error.span.start].matches('\n').count() + 1;
        assert_eq!(errors.iter().map(line).collect::<Vec<_>>(), expected, "{text}\n{errors:#?}");
    }

    #[test]
    fn all_errors_of_a_file_are_told() {
        check(
            "FROM busybox\nRUN --network=nine x\nRUN --mount=type=bidn,target=/x x\nSTOPSIGNAL SIGFO\nEXPOSE 99999\nWROKDIR x\n",
            &[2, 3, 4, 5, 6],
        );
        check("FROM busybox\nEXPOSE 80/xyz 70000 a\n", &[2, 2, 2]);
        check("FROM busybox\nRUM x\nRUN --mount=type=bidn,target=/x echo $x\n", &[2, 3]);
        check("# check=error=x\nFROM busybox\nSTOPSIGNAL x\n", &[1, 3]);
        check("FROM a\nRUM x\nSTOPSIGNAL x\nFROM b\nSTOPSIGNAL y\n", &[2, 3, 5]);
        check_with("FROM a\nRUM x\nSTOPSIGNAL x\nFROM b\nSTOPSIGNAL y\n", false, &[2, 5]);
        check("FROM a\nRUM x\nCOPY --from=b / /\nCOPY --from=7 / /\nFROM A/B\n", &[2, 4, 5]);
    }

    #[test]
    fn nothing_follows_from_an_error() {
        // A stage that was not read.
        check("FORM a AS b\nFROM c\nCOPY --from=b / /\nCOPY --from=1 / /\n", &[1]);
        check("FROM a AS 1b\nFROM C AS d\nCOPY --from=1 / /\nSTOPSIGNAL x\n", &[1, 4]);
        check("FROM c\nFROM --x a AS b\nRUN --mount=from=B/C:::,target=/x y\n", &[2]);
        check("FROM c\nCOPY --from=1 / /\nRUN <<E\nFROM d\n", &[3]);
        check("FOOO a\nSTOPSIGNAL x\nCOPY --from=3 / /\n", &[1, 2]);
        check_with("FROM a\nSTOPSIGNAL x\nFORM b\n", false, &[3]);
        // A variable that was not set.
        check("ARG\nFROM $x\n", &[1]);
        check("FROM a\nENV x\nSTOPSIGNAL $x\nEXPOSE $y\nUSER ${x:?}\nENV $x=1\n", &[2]);
        check("FROM a\nENVV x=9\nSTOPSIGNAL $x\n", &[2]);
        check("FROM a\nRUM x\nCOPY --chmod=$x a b\nRUN --mount=type=$x,target=/a b\n", &[2]);
        // An image that nobody was asked about may set it.
        check("FROM a\nRUM x\nSTOPSIGNAL $x\n", &[2]);
        // How lines continue.
        check("# escape=x\nFROM a\nSTOPSIGNAL x\n", &[1]);
        // One instruction, one error.
        check("FROM a\nCOPY --nope --from=7 a b\n", &[2]);
    }
}
