//! Parser directives: `# key=value` comments at the very top.

use super::line::{Lines, Physical};
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
        let Some((key, value)) = directive(line, "#") else {
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

/// A warning if `syntax` names a frontend that is none for Dockerfiles. BuildKit looks for it in more places than for the
/// other directives: behind `//` and in a JSON document, which then are input of that frontend.
pub(super) fn foreign_syntax(source: &str, ast: &Ast) -> Option<Diagnostic> {
    let named = ast.directives.iter().find(|(key, _)| key.text == "syntax").map(|(_, value)| value.clone());
    let syntax = named.or_else(|| syntax_behind_slashes(source)).or_else(|| syntax_in_json(source))?;
    let reference = syntax.text.split_whitespace().next()?;
    let name = reference.rsplit('/').next()?;
    if name.starts_with("dockerfile") {
        return None;
    }
    let span = syntax.span.start..syntax.span.start + reference.len();
    Some(Diagnostic::foreign_syntax(span, reference))
}

/// `// syntax=…` among such comments at the top, perhaps below `#!`.
fn syntax_behind_slashes(source: &str) -> Option<Token> {
    let mut lines = Lines::new(source);
    let mut line = lines.next()?;
    if line.text.starts_with("#!") {
        line = lines.next()?;
    }
    loop {
        let (key, value) = directive(line.trim_start(), "//")?;
        if key.text == "syntax" {
            return Some(value);
        }
        line = lines.next()?;
    }
}

/// The value of `"syntax"` if the file is one JSON object.
fn syntax_in_json(source: &str) -> Option<Token> {
    #[derive(serde::Deserialize)]
    struct Document {
        syntax: String,
    }
    if !source.trim_start_matches('\u{feff}').trim_start().starts_with('{') {
        return None;
    }
    let text = serde_json::from_str::<Document>(source.trim_start_matches('\u{feff}')).ok()?.syntax;
    let start = source.find(&text)?;
    Some(Token { span: start..start + text.len(), text })
}

/// `# key = value` with a known key.
fn directive(line: Physical<'_>, mark: &str) -> Option<(Token, Token)> {
    let (key, value) = line.text.strip_prefix(mark)?.split_once('=')?;
    let token = |part: &str, before: usize| {
        let text = part.trim();
        let start = line.start + before + (part.len() - part.trim_start().len());
        Token { text: text.to_owned(), span: start..start + text.len() }
    };
    let value = token(value, mark.len() + key.len() + 1);
    let mut key = token(key, mark.len());
    key.text.make_ascii_lowercase();
    (KNOWN.contains(&key.text.as_str()) && !value.text.is_empty()).then_some((key, value))
}
