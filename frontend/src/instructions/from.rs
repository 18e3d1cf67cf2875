//! FROM.

use super::flags::{Flags, Kind};
use super::{Reader, Stage};
use crate::Diagnostic;
use crate::parser::Node;

impl Reader {
    pub(super) fn from(&mut self, node: &Node) -> Option<Stage> {
        let flags = Flags::read(node, &[("platform", Kind::One)], self);
        let words = node.mapped_args().split_blanks();
        let name = match words.as_slice() {
            [_] => None,
            [_, r#as, name] if r#as.text.eq_ignore_ascii_case("as") => {
                let mut name = name.token();
                name.text = name.text.to_lowercase();
                if !is_stage_name(&name.text) {
                    self.tell(Diagnostic::invalid_stage_name(name.span, words[2].text));
                    return None;
                }
                Some(name)
            }
            words => {
                // What stands where `AS NAME` should, or the name where there is no image.
                let excess = words.get(1).zip(words.last());
                let place = excess.map(|(first, last)| first.span().start..last.span().end);
                self.tell(Diagnostic::from_arguments(place.unwrap_or_else(|| node.name.span.clone())));
                return None;
            }
        };
        Some(Stage {
            base: words[0].token(),
            name,
            platform: flags?.one("platform"),
            span: node.span.clone(),
            instructions: Vec::new(),
        })
    }
}

/// `^[a-z][a-z0-9-_.]*$`
fn is_stage_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
        })
}
