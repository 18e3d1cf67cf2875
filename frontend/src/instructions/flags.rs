//! The flags of an instruction, checked against those it knows.

use super::Reader;
use crate::Diagnostic;
use crate::parser::{Node, SourceMap, Token};

/// How a flag is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `--flag`, `--flag=true` or `--flag=false`.
    Bool,
    /// `--flag=value`, once.
    One,
    /// `--flag=value`, as often as wanted.
    List,
}

/// A flag an instruction knows.
pub(super) type Spec = (&'static str, Kind);

/// The flags that an instruction has.
#[derive(Debug, Default)]
pub(super) struct Flags {
    values: Vec<(&'static str, Token)>,
}

impl Flags {
    /// Reads all flags; `None` if one of them is wrong.
    pub(super) fn read(node: &Node, known: &[Spec], reader: &mut Reader) -> Option<Self> {
        let mut this = Self::default();
        let told = reader.diagnostics.len();
        for (flag, map) in node.flags.iter().zip(&node.flag_maps) {
            match this.flag(flag, map, known) {
                Ok(value) => this.values.push(value),
                Err(problem) => reader.tell(problem),
            }
        }
        (reader.diagnostics.len() == told).then_some(this)
    }

    /// The value of a flag that may be given once.
    pub(super) fn one(&self, name: &str) -> Option<Token> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    }

    /// The values of a flag that may be repeated.
    pub(super) fn list(&self, name: &str) -> Vec<Token> {
        self.values.iter().filter(|(known, _)| *known == name).map(|(_, value)| value.clone()).collect()
    }

    /// The value of a bool flag, if it is given.
    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        self.one(name).map(|value| value.text == "true")
    }

    fn flag(
        &self,
        flag: &Token,
        map: &SourceMap,
        known: &[Spec],
    ) -> Result<(&'static str, Token), Diagnostic> {
        let text = flag.text.strip_prefix("--").unwrap_or(&flag.text);
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let name_span = map.span(0.."--".len() + name.len());
        let Some((name, kind)) = known.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            return Err(Diagnostic::unknown_flag(name_span, name, &known));
        };
        if *kind != Kind::List && self.one(name).is_some() {
            return Err(Diagnostic::duplicate_flag(name_span, name));
        }
        let mut value = match (kind, value) {
            (Kind::Bool, None) => Token { text: "true".to_owned(), span: flag.span.clone() },
            (Kind::Bool, Some("")) | (_, None) => {
                return Err(Diagnostic::flag_without_value(name_span, name));
            }
            (_, Some(value)) => {
                let start = flag.text.len() - value.len();
                Token { text: value.to_owned(), span: map.span(start..flag.text.len()) }
            }
        };
        if *kind == Kind::Bool {
            value.text.make_ascii_lowercase();
            if value.text != "true" && value.text != "false" {
                return Err(Diagnostic::not_boolean(value.span, name, &value.text));
            }
        }
        Ok((name, value))
    }
}
