//! `--flag[=value]` words after an instruction's name.

use super::{Mapped, Token, is_blank};

/// Splits leading flags from the rest. Quotes group and are removed; a backslash takes the next character as it is,
/// whatever the file's escape character (so it is in BuildKit). A bare `--` ends the flags.
pub(super) fn split(text: Mapped<'_>) -> (Vec<Token>, Mapped<'_>) {
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        let rest = &text.text[at..];
        // Other white space than ASCII's does not separate flags.
        let start = at + (rest.len() - rest.trim_start_matches(is_flag_blank).len());
        if !text.text[start..].starts_with("--") {
            return (flags, text.slice(start..text.text.len()));
        }
        let (word, length) = word(&text.text[start..]);
        at = start + length;
        if word == "--" {
            return (flags, text.slice(at..text.text.len()));
        }
        flags.push(Token { text: word, span: text.slice(start..at).span() });
    }
}

/// The word at the start of `text`, and how many bytes it takes.
fn word(text: &str) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match (quote, char) {
            (None, char) if is_flag_blank(char) => return (word, at),
            (None, '\'' | '"') => quote = Some(char),
            (Some(open), char) if char == open => quote = None,
            (_, '\\') => word.extend(chars.next().map(|(_, escaped)| escaped)),
            (_, char) => word.push(char),
        }
    }
    (word, text.len())
}

fn is_flag_blank(char: char) -> bool {
    is_blank(char) || char == '\n'
}
