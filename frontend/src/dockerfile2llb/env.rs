//! Variables: the ordered list a stage's steps see, and ENV.

use std::collections::{BTreeMap, HashMap};

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
    /// Name and value by when they were set.
    variables: BTreeMap<u64, (String, String)>,
    /// When each name was set.
    set_at: HashMap<String, u64>,
    settings: u64,
    bytes: usize,
    /// Where in the config's list each name stands that ENV put there or met there.
    listed: HashMap<String, usize>,
}

impl Env {
    /// The value, if it is set.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(self.set_at.get(name)?).map(|(_, value)| value.as_str())
    }

    /// Sets a variable; it becomes the last of the list.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.settings += 1;
        self.set_at.insert(name.to_owned(), self.settings);
        self.variables.insert(self.settings, (name.to_owned(), value.to_owned()));
        self.bytes += name.len() + value.len();
    }

    /// Takes a variable away.
    pub(super) fn remove(&mut self, name: &str) {
        let set_at = self.set_at.remove(name);
        if let Some((key, value)) = set_at.and_then(|set_at| self.variables.remove(&set_at)) {
            self.bytes -= key.len() + value.len();
        }
    }

    /// Puts a variable into the config's list: in the place that it has there, else at the end.
    fn list_in(&mut self, list: &mut Vec<String>, name: &str, value: &str) {
        let stands_at = |at: &usize| list.get(*at).is_some_and(|old| split(old).0 == name);
        let known = self.listed.get(name).copied().filter(stands_at);
        let found = known.or_else(|| {
            if self.listed.len() == list.len() {
                return None;
            }
            // Others have put something there. Of a name that stands there twice the first counts.
            self.listed.clear();
            for (at, old) in list.iter().enumerate() {
                self.listed.entry(split(old).0.to_owned()).or_insert(at);
            }
            self.listed.get(name).copied()
        });
        let variable = format!("{name}={value}");
        match found {
            Some(at) => list[at] = variable,
            None => list.push(variable),
        }
        let at = found.unwrap_or(list.len() - 1);
        self.listed.insert(name.to_owned(), at);
    }

    /// Names and values, in order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.values().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.values().map(|(name, _)| name.as_str())
    }

    /// `K=V` for each.
    pub(super) fn to_list(&self) -> Vec<String> {
        self.variables.values().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// About how many bytes [`Self::to_list`] takes.
    pub(super) fn list_bytes(&self) -> usize {
        /// Of a string besides its text.
        const STRING_BYTES: usize = 40;
        self.bytes + self.variables.len() * STRING_BYTES
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
            stage.is_settled &= stage.env.get(name).is_none();
            stage.env.set(name, value);
            stage.env.check_size(at)?;
            let list = stage.config.config.env.get_or_insert_default();
            stage.env.list_in(list, name, value);
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
