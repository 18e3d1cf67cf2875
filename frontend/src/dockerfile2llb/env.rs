//! Variables: the ordered list a stage's steps see, and ENV.

use super::stage::{Stage, Step};
use super::{Converter, history};
use crate::Diagnostic;
use crate::parser::Token;

/// What a kernel takes at most for arguments and environment together (a quarter of the usual 8 MiB stack). Without a
/// limit `ENV a=$a$a` in every line would fill the memory.
const ENVIRONMENT_BYTES_MAX: usize = 2 << 20;

/// `PATH` of an image that sets none.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables in the order in which they were last set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Env {
    variables: Vec<(String, String)>,
    bytes: usize,
}

impl Env {
    /// The value, if it is set.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Sets a variable; it becomes the last of the list.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        if let Some(at) = self.variables.iter().position(|(key, _)| key == name) {
            let (key, value) = self.variables.remove(at);
            self.bytes -= key.len() + value.len();
        }
        self.variables.push((name.to_owned(), value.to_owned()));
        self.bytes += name.len() + value.len();
    }

    /// Names and values, in order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|(name, _)| name.as_str())
    }

    /// `K=V` for each.
    pub(super) fn to_list(&self) -> Vec<String> {
        self.variables.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Whether it is small enough to start a process with.
    pub(super) fn check_size(&self, at: &Token) -> Result<(), Diagnostic> {
        if self.bytes <= ENVIRONMENT_BYTES_MAX {
            return Ok(());
        }
        Err(Diagnostic::error(
            at.span.clone(),
            format!("the environment of {} bytes is larger than {ENVIRONMENT_BYTES_MAX}", self.bytes),
        ))
    }
}

/// A name and its value, expanded, and where the name stands.
type Pair<'p> = (&'p Token, (String, String));

/// Name and value of a `K=V`.
pub(super) fn split(variable: &str) -> (&str, &str) {
    variable.split_once('=').unwrap_or((variable, ""))
}

impl Converter<'_> {
    /// ENV. All values see the variables as they were before the instruction.
    pub(super) fn env(
        &mut self,
        stage: &mut Stage,
        step: &Step<'_>,
        pairs: &[(Token, Token)],
    ) -> Result<(), Diagnostic> {
        let pairs = self.pairs(stage, step, pairs, "ENV")?;
        for (at, (name, value)) in &pairs {
            stage.env.set(name, value);
            stage.env.check_size(at)?;
            let list = stage.config.config.env.get_or_insert_default();
            let variable = format!("{name}={value}");
            match list.iter_mut().find(|old| split(old).0 == name) {
                Some(old) => *old = variable,
                None => list.push(variable),
            }
        }
        history::metadata(stage, format!("ENV{}", pairs_text(&pairs)));
        Ok(())
    }

    /// LABEL.
    pub(super) fn label(
        &mut self,
        stage: &mut Stage,
        step: &Step<'_>,
        pairs: &[(Token, Token)],
    ) -> Result<(), Diagnostic> {
        let pairs = self.pairs(stage, step, pairs, "LABEL")?;
        history::metadata(stage, format!("LABEL{}", pairs_text(&pairs)));
        let labels = stage.config.config.labels.get_or_insert_default();
        labels.extend(pairs.into_iter().map(|(_, pair)| pair));
        Ok(())
    }

    fn pairs<'p>(
        &mut self,
        stage: &Stage,
        step: &Step<'_>,
        pairs: &'p [(Token, Token)],
        instruction: &str,
    ) -> Result<Vec<Pair<'p>>, Diagnostic> {
        pairs
            .iter()
            .map(|(name_token, value)| {
                let name = self.expand(stage, step, name_token)?;
                if name.is_empty() {
                    return Err(Diagnostic::error(
                        name_token.span.clone(),
                        format!("{instruction} names can not be blank"),
                    ));
                }
                Ok((name_token, (name, self.expand(stage, step, value)?)))
            })
            .collect()
    }
}

fn pairs_text(pairs: &[Pair<'_>]) -> String {
    pairs.iter().map(|(_, (name, value))| format!(" {name}={value}")).collect()
}
