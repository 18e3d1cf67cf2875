//! Parser directives: `# key=value` comments at the very top.

use super::line::Physical;
use super::{Ast, Token};
use crate::Diagnostic;

const KNOWN: [&str; 3] = ["syntax", "escape", "check"];

/// Looks at each line until the first that is no directive.
#[derive(Default)]
pub(super) struct DirectiveParser {
    state: State,
}

#[derive(Default, PartialEq)]
enum State {
    #[default]
    FirstLine,
    Top,
    /// Below `#!`, where frontends still look for `syntax` and `check`, but the escape character is settled.
    BelowShebang,
    Done,
}

impl DirectiveParser {
    pub(super) fn line(&mut self, line: Physical<'_>, ast: &mut Ast, diagnostics: &mut Vec<Diagnostic>) {
        if self.state == State::Done {
            return;
        }
        if self.state == State::FirstLine {
            if line.text.starts_with("#!") {
                self.state = State::BelowShebang;
                return;
            }
            self.state = State::Top;
        }
        let Some((key, value)) = directive(line) else {
            self.state = State::Done;
            return;
        };
        if ast.directives.iter().any(|(known, _)| known.text == key.text) {
            diagnostics.push(Diagnostic::repeated_directive(key.span, &key.text));
            return;
        }
        if key.text == "escape" && self.state == State::Top {
            match value.text.as_str() {
                "\\" => ast.escape = '\\',
                "`" => ast.escape = '`',
                other => diagnostics.push(Diagnostic::invalid_escape(value.span.clone(), other)),
            }
        }
        ast.directives.push((key, value));
    }
}

/// `# key = value` with a known key.
fn directive(line: Physical<'_>) -> Option<(Token, Token)> {
    let (key, value) = line.text.strip_prefix('#')?.split_once('=')?;
    let token = |part: &str, before: usize| {
        let text = part.trim();
        let start = line.start + before + (part.len() - part.trim_start().len());
        Token { text: text.to_owned(), span: start..start + text.len() }
    };
    let value = token(value, 1 + key.len() + 1);
    let mut key = token(key, 1);
    key.text.make_ascii_lowercase();
    (KNOWN.contains(&key.text.as_str()) && !value.text.is_empty()).then_some((key, value))
}
