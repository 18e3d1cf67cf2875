//! ENV, LABEL and ARG.

use super::{Arg, Reader};
use crate::Diagnostic;
use crate::parser::{Mapped, Node, Token, is_blank};

impl Reader {
    /// `name=value …`, or `name rest of the line`.
    pub(super) fn pairs(&mut self, node: &Node, instruction: &str) -> Option<Vec<(Token, Token)>> {
        self.no_flags(node)?;
        let args = node.mapped_args();
        let words = args.split_quoted(self.escape);
        let Some(first) = words.first() else {
            self.tell(Diagnostic::at_least_one_argument(node.name.span.clone(), instruction));
            return None;
        };
        if !first.text.contains('=') {
            return self.pair_without_equals_sign(node, instruction).map(|pair| vec![pair]);
        }
        let mut pairs = Vec::with_capacity(words.len());
        let told = self.diagnostics.len();
        for word in &words {
            match split_equals_sign(word) {
                (_, None) => self.tell(Diagnostic::no_equals_sign(word.span(), word.text)),
                (name, Some(_)) if name.text.is_empty() => {
                    self.tell(Diagnostic::blank_name(word.span(), instruction));
                }
                (name, Some(value)) => pairs.push((name, value)),
            }
        }
        (self.diagnostics.len() == told).then_some(pairs)
    }

    /// The legacy form: one pair, the value being everything after the first blank.
    fn pair_without_equals_sign(&mut self, node: &Node, instruction: &str) -> Option<(Token, Token)> {
        let args = node.mapped_args();
        let Some(name_end) = args.text.find(is_blank) else {
            self.tell(Diagnostic::two_arguments(node.args.span.clone(), instruction));
            return None;
        };
        let (name, rest) = (args.slice(0..name_end), args.slice(name_end..args.text.len()));
        Some((name.token(), rest.trim_blanks_start().token()))
    }

    pub(super) fn arg(&mut self, node: &Node) -> Option<Vec<Arg>> {
        self.warn_of_flags(node, "ARG");
        let words = node.mapped_args().split_quoted(self.escape);
        if words.is_empty() {
            self.tell(Diagnostic::at_least_one_argument(node.name.span.clone(), "ARG"));
            return None;
        }
        let mut args = Vec::with_capacity(words.len());
        let told = self.diagnostics.len();
        for word in &words {
            let (name, default) = split_equals_sign(word);
            if name.text.is_empty() {
                self.tell(Diagnostic::blank_name(word.span(), "ARG"));
            } else {
                args.push(Arg { name, default, span: node.span.clone() });
            }
        }
        (self.diagnostics.len() == told).then_some(args)
    }
}

fn split_equals_sign(word: &Mapped<'_>) -> (Token, Option<Token>) {
    match word.text.find('=') {
        Some(at) => (word.slice(0..at).token(), Some(word.slice(at + 1..word.text.len()).token())),
        None => (word.token(), None),
    }
}
