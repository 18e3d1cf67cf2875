//! Expansion of an instruction's words, with errors at the place in the word.

use std::ops::Range;

use super::env::Env;
use super::stage::{Stage, Step};
use super::{Converter, scope};
use crate::Diagnostic;
use crate::diagnostic::{CANDIDATES_MAX, nearest};
use crate::parser::Token;
use crate::shell::{ExpandError, Expanded, Lex, Unset};

/// Nobody reads the hints of more problems, and each costs as much as there are names to look at.
const SUGGESTIONS_MAX: usize = 1_000;

/// Expands a word with these variables.
pub(super) fn expand(token: &Token, escape: char, env: &Env) -> Result<Expanded, Diagnostic> {
    let lookup = |name: &str| env.get(name).map(str::to_owned);
    Lex { escape, lookup: &lookup }.word(&token.text).map_err(|error| at(token, &error))
}

/// The place of a range of the token's text; the whole token where its text is not what stands in the file.
pub(super) fn part(token: &Token, range: Range<usize>) -> Range<usize> {
    if token.text.len() == token.span.len() && range.end <= token.text.len() {
        token.span.start + range.start..token.span.start + range.end
    } else {
        token.span.clone()
    }
}

/// The error of an expansion: the `${…}` that went wrong or, where it has no end, the rest of the word.
pub(super) fn at(token: &Token, error: &ExpandError) -> Diagnostic {
    let start = error.at.min(token.text.len());
    let rest = token.text.get(start..).unwrap_or_default();
    let end = start + reference_end(rest).unwrap_or(rest.len());
    Diagnostic::error(part(token, start..end), error.message.clone())
}

/// Where the `${…}` at the beginning of a text ends.
fn reference_end(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'$' if text[at + 1..].starts_with('{') => depth += 1,
            b'}' if depth == 1 => return Some(at + 1),
            b'}' => depth -= 1,
            _ if depth == 0 && at > 0 => return None,
            _ => {}
        }
    }
    None
}

impl Converter<'_> {
    /// Expands a word of a step with its stage's variables; those that are not set are warned of.
    pub(super) fn expand(
        &mut self,
        stage: &Stage,
        step: &Step<'_>,
        token: &Token,
    ) -> Result<String, Diagnostic> {
        let expanded = expand(token, self.dockerfile.escape, &stage.env)?;
        self.warn_unset(stage, step, token, &expanded);
        Ok(expanded.text)
    }

    /// Expands an optional word; an empty result counts as absent.
    pub(super) fn expand_flag(
        &mut self,
        stage: &Stage,
        step: &Step<'_>,
        flag: Option<&Token>,
    ) -> Result<Option<String>, Diagnostic> {
        let value = flag.map(|token| self.expand(stage, step, token)).transpose()?;
        Ok(value.filter(|value| !value.is_empty()))
    }

    /// Warns of variables that were used without being set.
    pub(super) fn warn_unset(&mut self, stage: &Stage, step: &Step<'_>, token: &Token, expanded: &Expanded) {
        // What a trigger expects from the file it runs in is not visible there; neither is what a base sets that is
        // not known.
        if step.is_trigger || stage.seen.unknown_base {
            return;
        }
        for Unset { name, at } in &expanded.unset {
            if stage.declared.contains(name) || scope::is_non_env(name) {
                continue;
            }
            let mut warning = Diagnostic::undefined_variable(part(token, at.clone()), name);
            if self.globals.get(name).is_some() {
                warning = warning.with_hint(format!(
                    "add ARG {name} to this stage: arguments above the first FROM are only for FROM"
                ));
            } else if self.may_suggest() {
                let known = stage.env.names().chain(self.globals.names());
                let known: Vec<&str> = known.take(CANDIDATES_MAX).collect();
                if let Some(found) = nearest(name, &known) {
                    warning = warning.with_hint(format!("did you mean ${found}?"));
                }
            }
            self.problems.push(warning);
        }
    }
    /// Whether it is still worth looking for what may have been meant.
    pub(super) fn may_suggest(&self) -> bool {
        self.problems.len() < SUGGESTIONS_MAX
    }
}
