//! `--flag[=value]` words after an instruction's name.

use super::{Mapped, SourceMap, Token, is_blank};

/// Splits leading flags from the rest. Quotes group and are removed; a backslash takes the next character as it is,
/// whatever the file's escape character (so it is in BuildKit). A bare `--` ends the flags.
pub(super) fn split(text: Mapped<'_>) -> (Vec<Token>, Vec<SourceMap>, Mapped<'_>) {
    let mut flags = Vec::new();
    let mut maps = Vec::new();
    let mut at = 0;
    loop {
        let rest = &text.text[at..];
        // Other white space than ASCII's does not separate flags.
        let start = at + (rest.len() - rest.trim_start_matches(is_flag_blank).len());
        if !text.text[start..].starts_with("--") {
            return (flags, maps, text.slice(start..text.text.len()));
        }
        let (word, map, length) = word(text.slice(start..text.text.len()));
        at = start + length;
        if word == "--" {
            return (flags, maps, text.slice(at..text.text.len()));
        }
        flags.push(Token { text: word, span: text.slice(start..at).span() });
        maps.push(map);
    }
}

/// The word at the start of `text`, where its bytes stand, and how many bytes it takes.
fn word(text: Mapped<'_>) -> (String, SourceMap, usize) {
    // Most words are there as they are meant.
    let is_special = |char| is_flag_blank(char) || matches!(char, '\'' | '"' | '\\');
    let plain = text.text.find(is_special).unwrap_or(text.text.len());
    if text.text[plain..].chars().next().is_none_or(is_flag_blank) {
        let word = text.slice(0..plain);
        return (word.text.to_owned(), word.map(), plain);
    }
    quoted_word(text)
}

/// The same for a word with quotes or escapes.
fn quoted_word(text: Mapped<'_>) -> (String, SourceMap, usize) {
    let mut word = String::new();
    let mut next_place = text.place(0);
    let mut map = SourceMap::at(next_place);
    let mut quote = None;
    let mut chars = text.text.char_indices();
    while let Some((at, char)) = chars.next() {
        let taken = match (quote, char) {
            (None, char) if is_flag_blank(char) => return (word, map, at),
            (None, '\'' | '"') => {
                quote = Some(char);
                None
            }
            (Some(open), char) if char == open => {
                quote = None;
                None
            }
            (_, '\\') => chars.next(),
            (_, char) => Some((at, char)),
        };
        if let Some((at, char)) = taken {
            let place = text.place(at);
            if place != next_place {
                map.push(word.len(), place);
            }
            next_place = place + char.len_utf8();
            word.push(char);
        }
    }
    (word, map, text.text.len())
}

fn is_flag_blank(char: char) -> bool {
    is_blank(char) || char == '\n'
}
