//! A text that knows where each of its bytes stands in the file.

use std::ops::Range;

use super::Token;

/// A piece of an instruction after its lines were joined.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mapped<'a> {
    pub(crate) text: &'a str,
    map: &'a [usize],
    /// Where an empty text stands.
    place: usize,
}

/// The white space that separates words.
pub(crate) fn is_blank(char: char) -> bool {
    matches!(char, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

impl<'a> Mapped<'a> {
    pub(crate) fn new(text: &'a str, map: &'a [usize], place: usize) -> Self {
        debug_assert_eq!(text.len(), map.len(), "every byte has an offset");
        Self { text, map, place }
    }

    pub(crate) fn map(&self) -> &'a [usize] {
        self.map
    }

    pub(crate) fn slice(&self, range: Range<usize>) -> Mapped<'a> {
        let place = match (self.map.get(range.start), self.map.last()) {
            (Some(offset), _) => *offset,
            (None, Some(last)) => last + 1,
            (None, None) => self.place,
        };
        Mapped { text: &self.text[range.clone()], map: &self.map[range], place }
    }

    pub(crate) fn trim(&self) -> Mapped<'a> {
        let start = self.text.len() - self.text.trim_start().len();
        self.slice(start..start + self.text.trim().len())
    }

    /// From the first byte to the last, with whatever stands between them in the file.
    pub(crate) fn span(&self) -> Range<usize> {
        match (self.map.first(), self.map.last()) {
            (Some(first), Some(last)) => *first..last + 1,
            _ => self.place..self.place,
        }
    }

    pub(crate) fn token(&self) -> Token {
        Token { text: self.text.to_owned(), span: self.span() }
    }

    /// The words between blanks.
    pub(crate) fn split_blanks(&self) -> Vec<Mapped<'a>> {
        let mut words = Vec::new();
        let mut start = None;
        for (at, char) in self.text.char_indices() {
            match (start, is_blank(char)) {
                (None, false) => start = Some(at),
                (Some(begin), true) => {
                    words.push(self.slice(begin..at));
                    start = None;
                }
                _ => {}
            }
        }
        words.extend(start.map(|begin| self.slice(begin..self.text.len())));
        words
    }

    /// The words of ENV, LABEL and ARG: quotes and escapes group, and stay in the word.
    pub(crate) fn split_quoted(&self, escape: char) -> Vec<Mapped<'a>> {
        let mut words = Vec::new();
        let mut start = None;
        let mut quote = None;
        let mut end = self.text.len();
        let mut chars = self.text.char_indices();
        while let Some((at, char)) = chars.next() {
            let Some(begin) = start else {
                if char.is_whitespace() {
                    continue;
                }
                start = Some(at);
                quote = matches!(char, '\'' | '"').then_some(char);
                if char == escape && chars.next().is_none() {
                    end = at;
                }
                continue;
            };
            match quote {
                None if char.is_whitespace() => {
                    words.push(self.slice(begin..at));
                    start = None;
                }
                None if matches!(char, '\'' | '"') => quote = Some(char),
                Some(open) if char == open => quote = None,
                Some('\'') => {}
                // An escape character that ends the text escapes nothing and is left out.
                _ if char == escape => end = chars.next().map_or(at, |_| end),
                _ => {}
            }
        }
        words.extend(start.filter(|begin| *begin < end).map(|begin| self.slice(begin..end)));
        words
    }
}
