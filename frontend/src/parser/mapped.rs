//! A text that knows where each of its bytes stands in the file.

use std::ops::Range;

use super::Token;

/// Where the bytes of a text stand in the file that it was joined from: one entry for each line of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceMap {
    /// Place of the first line.
    first: usize,
    /// Each other line: where it begins in the text and in the file.
    others: Vec<(usize, usize)>,
}

impl SourceMap {
    /// The map of a text that stands in the file as it is.
    pub(super) fn at(place: usize) -> Self {
        Self { first: place, others: Vec::new() }
    }

    /// From `text_offset` on the text stands at `place` and after it.
    pub(super) fn push(&mut self, text_offset: usize, place: usize) {
        self.others.push((text_offset, place));
    }

    /// Place of the byte at `text_offset`.
    pub fn place(&self, text_offset: usize) -> usize {
        let lines_before = self.others.partition_point(|(begin, _)| *begin <= text_offset);
        match lines_before.checked_sub(1) {
            None => self.first + text_offset,
            Some(line) => self.others[line].1 + (text_offset - self.others[line].0),
        }
    }

    /// From the first byte of a part of the text to its last; an empty part stands behind the byte before it.
    pub(crate) fn span(&self, part: Range<usize>) -> Range<usize> {
        match part.is_empty() {
            false => self.place(part.start)..self.place(part.end - 1) + 1,
            true => {
                let place = part.start.checked_sub(1).map_or(self.first, |before| self.place(before) + 1);
                place..place
            }
        }
    }

    /// The map of a part of the text.
    fn slice(&self, range: Range<usize>) -> Self {
        let inside = |begin: &usize| (range.start + 1..range.end).contains(begin);
        let others = self.others.iter().filter(|(begin, _)| inside(begin));
        Self {
            first: self.place(range.start),
            others: others.map(|(begin, place)| (begin - range.start, *place)).collect(),
        }
    }
}

/// Most instructions have no more words.
const WORDS_USUAL: usize = 4;

/// A piece of an instruction after its lines were joined.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mapped<'a> {
    pub(crate) text: &'a str,
    map: &'a SourceMap,
    /// Where the text begins in what the map is of.
    start: usize,
    /// Where an empty text stands.
    empty_place: usize,
}

/// The white space that separates words.
pub(crate) fn is_blank(char: char) -> bool {
    matches!(char, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

impl<'a> Mapped<'a> {
    /// The whole text of a map. An empty one stands at `empty_place`.
    pub(crate) fn new(text: &'a str, map: &'a SourceMap, empty_place: usize) -> Self {
        Self { text, map, start: 0, empty_place }
    }

    /// The map of this text alone.
    pub(crate) fn map(&self) -> SourceMap {
        if self.text.is_empty() {
            return SourceMap::at(self.empty_place);
        }
        self.map.slice(self.start..self.start + self.text.len())
    }

    pub(crate) fn slice(&self, range: Range<usize>) -> Mapped<'a> {
        let start = self.start + range.start;
        let empty_place = if !range.is_empty() {
            self.empty_place
        } else if range.start < self.text.len() {
            self.map.place(start)
        } else if self.text.is_empty() {
            self.empty_place
        } else {
            self.map.place(start - 1) + 1
        };
        Mapped { text: &self.text[range], map: self.map, start, empty_place }
    }

    pub(crate) fn trim(&self) -> Mapped<'a> {
        let start = self.text.len() - self.text.trim_start().len();
        self.slice(start..start + self.text.trim().len())
    }

    /// Without the blanks in front.
    pub(crate) fn trim_blanks_start(&self) -> Mapped<'a> {
        let start = self.text.len() - self.text.trim_start_matches(is_blank).len();
        self.slice(start..self.text.len())
    }

    /// From the first byte to the last, with whatever stands between them in the file.
    pub(crate) fn span(&self) -> Range<usize> {
        match self.text.len().checked_sub(1) {
            Some(last) => self.map.place(self.start)..self.map.place(self.start + last) + 1,
            None => self.empty_place..self.empty_place,
        }
    }

    /// Where the byte at an offset stands.
    pub(super) fn place(&self, offset: usize) -> usize {
        self.map.place(self.start + offset)
    }

    pub(crate) fn token(&self) -> Token {
        Token { text: self.text.to_owned(), span: self.span() }
    }

    /// The words between blanks.
    pub(crate) fn split_blanks(&self) -> Vec<Mapped<'a>> {
        let mut words = Vec::with_capacity(WORDS_USUAL);
        let mut start = None;
        // All blanks are ASCII: no byte within another character is one.
        for (at, byte) in self.text.bytes().enumerate() {
            match (start, is_blank(char::from(byte))) {
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
        let mut words = Vec::with_capacity(WORDS_USUAL);
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
