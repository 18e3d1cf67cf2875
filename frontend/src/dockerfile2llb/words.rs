//! Expansion of an instruction's words, with errors at the place in the word.

use std::ops::Range;

use super::Converter;
use super::env::Env;
use super::stage::{Stage, Step};
use crate::Diagnostic;
use crate::parser::Token;
use crate::shell::{ExpandError, Expanded, Lex};

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

/// The error of an expansion: from where it went wrong to the end of the word.
pub(super) fn at(token: &Token, error: &ExpandError) -> Diagnostic {
    let end = token.text.len();
    Diagnostic::error(part(token, error.at.min(end)..end), error.message.clone())
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
        // What a trigger expects from the file it runs in is not visible there.
        if step.is_trigger {
            return;
        }
        for name in &expanded.unset {
            if stage.args.iter().any(|(declared, _)| declared == name) {
                continue;
            }
            let known: Vec<&str> = stage.env.names().collect();
            let warning = Diagnostic::warning(
                token.span.clone(),
                format!("UndefinedVar: Usage of undefined variable '${name}'"),
            );
            self.problems.push(warning.with_suggestion(name, &known));
        }
    }
}
