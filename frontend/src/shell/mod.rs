//! Word expansion: `$VAR`, `${VAR:-word}` and the rest of it, quoting, word splitting.
//!
//! The rules are those of BuildKit's Dockerfile frontend, which are near a POSIX shell's but not the same: see the
//! table in this module's tests.

mod pattern;

use std::collections::HashSet;
use std::ops::Range;

use pattern::Pattern;

/// `${a:-${b:-${c…}}}` may go this deep. Each level is a few stack frames, half a megabyte for all of them.
const NESTING_MAX: usize = 1_000;

/// By how much an expansion may be longer than what it was made from: `ENV a=$a$a` in every line doubles each time.
const GROWTH_BYTES_MAX: usize = 16 << 20;

/// Looks variables up and expands words with one escape character.
#[expect(missing_debug_implementations, reason = "holds a closure")]
#[derive(Clone, Copy)]
pub struct Lex<'a> {
    /// Backslash or backtick.
    pub escape: char,
    /// Value of a variable, `None` when it is not set.
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
}

/// Result of expanding a word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Names that were asked for and not set, each once, in order. Forms that say what to do with an unset variable
    /// (`-`, `+`, `?`) do not count.
    pub unset: Vec<Unset>,
}

/// A reference to a variable that is not set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unset {
    /// The variable.
    pub name: String,
    /// Where in the word its first reference is, from the dollar sign to its end.
    pub at: Range<usize>,
}

/// Why a word cannot be expanded; `at` is a byte offset in the word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpandError {
    /// What is wrong, in BuildKit's words.
    pub message: String,
    /// Where in the word.
    pub at: usize,
}

impl Lex<'_> {
    /// Expands a word and removes quotes and escapes.
    pub fn word(&self, word: &str) -> Result<Expanded, ExpandError> {
        let mut scan = Scan::new(self, Mode::default(), word);
        let text = scan.until(None, false, &mut NoWords)?;
        Ok(Expanded { text, unset: scan.unset })
    }

    /// Expands, then splits at unquoted white space (EXPOSE).
    pub fn words(&self, text: &str) -> Result<Vec<String>, ExpandError> {
        let words = self.words_in(Mode::default(), text)?;
        Ok(words.into_iter().map(|word| word.text).collect())
    }

    /// Expands variables only; quotes are text (heredoc bodies of COPY and ADD). A backslash escapes whatever the
    /// file's escape character is.
    pub fn heredoc(&self, text: &str) -> Result<Expanded, ExpandError> {
        let lex = Lex { escape: '\\', lookup: self.lookup };
        let mut scan = Scan::new(&lex, Mode { literal_quotes: true, ..Mode::default() }, text);
        let text = scan.until(None, false, &mut NoWords)?;
        Ok(Expanded { text, unset: scan.unset })
    }

    /// Expands a word, keeping what `mode` says.
    pub(crate) fn word_in(&self, mode: Mode, word: &str) -> Result<String, ExpandError> {
        Scan::new(self, mode, word).until(None, mode.keep_escapes, &mut NoWords)
    }

    pub(crate) fn words_in(&self, mode: Mode, text: &str) -> Result<Vec<Word>, ExpandError> {
        let mut words = Words::default();
        Scan::new(self, mode, text).until(None, mode.keep_escapes, &mut words)?;
        words.flush(text.len());
        Ok(words.done)
    }
}

/// What a scan keeps as it is written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mode {
    /// Quotes group, but stay in the result.
    pub(crate) keep_quotes: bool,
    /// Escape characters escape, but stay in the result.
    pub(crate) keep_escapes: bool,
    /// References to variables that are not set stay in the result.
    pub(crate) keep_unset: bool,
    /// Quotes have no meaning.
    pub(crate) literal_quotes: bool,
}

/// A word of a split text and the range it was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) span: Range<usize>,
}

/// Gets what a scan produces, in order; `at..` says from where.
trait Sink {
    /// Text that splits words at its white space.
    fn split(&mut self, text: &str, source: &Range<usize>);
    /// Text that belongs to one word (quoted or escaped).
    fn keep(&mut self, text: &str, source: &Range<usize>);
}

struct NoWords;

impl Sink for NoWords {
    fn split(&mut self, _: &str, _: &Range<usize>) {}
    fn keep(&mut self, _: &str, _: &Range<usize>) {}
}

#[derive(Default)]
struct Words {
    done: Vec<Word>,
    text: String,
    start: usize,
}

impl Words {
    fn flush(&mut self, end: usize) {
        if !self.text.is_empty() {
            self.done.push(Word { text: std::mem::take(&mut self.text), span: self.start..end });
        }
    }
}

impl Sink for Words {
    fn split(&mut self, text: &str, source: &Range<usize>) {
        for char in text.chars() {
            if char.is_whitespace() {
                self.flush(source.start);
            } else {
                self.keep(char.encode_utf8(&mut [0; 4]), source);
            }
        }
    }

    fn keep(&mut self, text: &str, source: &Range<usize>) {
        if self.text.is_empty() {
            self.start = source.start;
        }
        self.text.push_str(text);
    }
}

/// One pass over a text.
struct Scan<'a> {
    lex: &'a Lex<'a>,
    mode: Mode,
    text: &'a str,
    at: usize,
    unset: Vec<Unset>,
    unset_seen: HashSet<&'a str>,
    nesting: usize,
    /// Bytes that expansions may still produce.
    budget: usize,
}

impl<'a> Scan<'a> {
    fn new(lex: &'a Lex<'a>, mode: Mode, text: &'a str) -> Self {
        let budget = text.len().saturating_add(GROWTH_BYTES_MAX);
        Self { lex, mode, text, at: 0, unset: Vec::new(), unset_seen: HashSet::new(), nesting: 0, budget }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.at += char.len_utf8();
        Some(char)
    }

    /// Reads up to `stop` and takes it; without `stop`, to the end.
    fn until(
        &mut self,
        stop: Option<char>,
        keep_escapes: bool,
        sink: &mut dyn Sink,
    ) -> Result<String, ExpandError> {
        let mut result = String::new();
        while let Some(char) = self.peek() {
            let start = self.at;
            if Some(char) == stop {
                self.next();
                return Ok(result);
            }
            match char {
                '$' => {
                    let value = self.dollar()?;
                    self.spend(value.len(), start)?;
                    sink.split(&value, &(start..self.at));
                    result.push_str(&value);
                }
                '\'' if !self.mode.literal_quotes => {
                    let value = self.single_quoted()?;
                    sink.keep(&value, &(start..self.at));
                    result.push_str(&value);
                }
                '"' if !self.mode.literal_quotes => {
                    let value = self.double_quoted(keep_escapes)?;
                    sink.keep(&value, &(start..self.at));
                    result.push_str(&value);
                }
                _ if char == self.lex.escape => {
                    self.next();
                    // At the end of the text an escape character escapes nothing and goes away.
                    let from = if keep_escapes { start } else { self.at };
                    self.next();
                    sink.keep(&self.text[from..self.at], &(start..self.at));
                    result.push_str(&self.text[from..self.at]);
                }
                _ => {
                    self.next();
                    sink.split(&self.text[start..self.at], &(start..self.at));
                    result.push(char);
                }
            }
        }
        match stop {
            None => Ok(result),
            Some(stop) => {
                Err(self.error(format!("unexpected end of statement while looking for matching {stop}")))
            }
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        let Some(length) = self.text[start + 1..].find('\'') else {
            let message = "unexpected end of statement while looking for matching single-quote";
            self.at = self.text.len();
            return Err(ExpandError { message: message.to_owned(), at: start });
        };
        self.at = start + 1 + length + 1;
        let range = if self.mode.keep_quotes { start..self.at } else { start + 1..self.at - 1 };
        Ok(self.text[range].to_owned())
    }

    fn double_quoted(&mut self, keep_escapes: bool) -> Result<String, ExpandError> {
        let start = self.at;
        let mut result = String::new();
        self.next();
        if self.mode.keep_quotes {
            result.push('"');
        }
        while let Some(char) = self.peek() {
            let at = self.at;
            match char {
                '"' => {
                    self.next();
                    if self.mode.keep_quotes {
                        result.push('"');
                    }
                    return Ok(result);
                }
                '$' => {
                    let value = self.dollar()?;
                    self.spend(value.len(), at)?;
                    result.push_str(&value);
                }
                _ if char == self.lex.escape => {
                    self.next();
                    if keep_escapes {
                        result.push(char);
                    }
                    // Only these can be escaped here; before all others the escape character is text.
                    match self.peek() {
                        Some(next) if next == '"' || next == '$' || next == self.lex.escape => {
                            self.next();
                            result.push(next);
                        }
                        Some(_) => result.push(char),
                        None => {}
                    }
                }
                _ => {
                    self.next();
                    result.push(char);
                }
            }
        }
        let message = "unexpected end of statement while looking for matching double-quote";
        Err(ExpandError { message: message.to_owned(), at: start })
    }

    /// What `$…` stands for.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match (self.lex.lookup)(name) {
                Some(value) => value,
                None => self.missing(name, start),
            });
        }
        if self.nesting == NESTING_MAX {
            let message = format!("substitutions are nested more than {NESTING_MAX} deep");
            return Err(ExpandError { message, at: start });
        }
        self.nesting += 1;
        let value = self.braces(start);
        self.nesting -= 1;
        value
    }

    /// `{name…}` after a dollar sign at `start`.
    fn braces(&mut self, start: usize) -> Result<String, ExpandError> {
        let fail = |message: String| Err(ExpandError { message, at: start });
        self.next();
        match self.peek() {
            None => return fail(MISSING_BRACE.to_owned()),
            Some('{' | '}' | ':') => return fail("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        let operator_start = self.at;
        match self.next() {
            None => fail(MISSING_BRACE.to_owned()),
            Some('}') => match (self.lex.lookup)(name) {
                Some(value) => Ok(value),
                None => Ok(self.missing(name, start)),
            },
            Some('/') => self.replace(start, name),
            Some(':') => {
                let operator = self.next();
                let shown = &self.text[operator_start..self.at];
                match operator {
                    None => fail(MISSING_BRACE.to_owned()),
                    Some(operator @ ('-' | '+' | '?')) => self.conditional(start, name, operator, true),
                    Some(_) => fail(format!("unsupported modifier ({shown}) in substitution")),
                }
            }
            Some(operator @ ('-' | '+' | '?')) => self.conditional(start, name, operator, false),
            Some(operator @ ('#' | '%')) => self.strip(start, name, operator),
            Some(other) => fail(format!("unsupported modifier ({other}) in substitution")),
        }
    }

    /// `-word}`, `+word}`, `?word}`; with `empty_is_unset` they were written with a colon.
    fn conditional(
        &mut self,
        start: usize,
        name: &str,
        operator: char,
        empty_is_unset: bool,
    ) -> Result<String, ExpandError> {
        let word = self.closed('}', false, start)?;
        let value = (self.lex.lookup)(name);
        if value.is_none() && self.mode.keep_unset {
            let colon = if empty_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let unset = value.is_none();
        let value = value.filter(|value| !(empty_is_unset && value.is_empty()));
        match (operator, value) {
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            (_, None) => {
                let reason = match word.as_str() {
                    "" if unset => "is not allowed to be unset",
                    "" => "is not allowed to be empty",
                    word => word,
                };
                Err(ExpandError { message: format!("{name}: {reason}"), at: start })
            }
        }
    }

    /// `#pattern}`, `##pattern}`, `%pattern}`, `%%pattern}`.
    fn strip(&mut self, start: usize, name: &'a str, operator: char) -> Result<String, ExpandError> {
        let word = self.closed('}', true, start)?;
        let value = (self.lex.lookup)(name);
        if value.is_none() && self.mode.keep_unset {
            return Ok(format!("${{{name}{operator}{word}}}"));
        }
        let (pattern, longest) = match word.strip_prefix(operator) {
            Some(rest) => (rest, true),
            None => (word.as_str(), false),
        };
        // A pattern that is none is an error even when there is nothing to match.
        let pattern = self.pattern(pattern, start)?;
        let Some(value) = value else { return Ok(self.missing(name, start)) };
        let rest = match operator {
            '#' => pattern.strip_prefix(&value, longest),
            _ => pattern.strip_suffix(&value, longest),
        };
        rest.map(str::to_owned).map_err(|reason| ExpandError { message: reason, at: start })
    }

    /// `pattern/replacement}`, with a second slash in front for all occurrences.
    fn replace(&mut self, start: usize, name: &'a str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.closed('/', true, start)?;
        let replacement = self.closed('}', true, start)?;
        let value = (self.lex.lookup)(name);
        if value.is_none() && self.mode.keep_unset {
            let slash = if all { "//" } else { "/" };
            return Ok(format!("${{{name}{slash}{pattern}/{replacement}}}"));
        }
        let pattern = self.pattern(&pattern, start)?;
        let Some(value) = value else { return Ok(self.missing(name, start)) };
        pattern
            .replace(&value, &replacement, all, self.budget)
            .map_err(|reason| ExpandError { message: reason, at: start })
    }

    /// Reads up to `stop`; that it is missing is told in terms of the whole substitution.
    fn closed(&mut self, stop: char, keep_escapes: bool, start: usize) -> Result<String, ExpandError> {
        self.until(Some(stop), keep_escapes, &mut NoWords).map_err(|error| {
            if self.at < self.text.len() {
                return error;
            }
            let message =
                if stop == '}' { MISSING_BRACE } else { "syntax error: missing '/' in ${}" }.to_owned();
            ExpandError { message, at: start }
        })
    }

    fn pattern(&self, pattern: &str, start: usize) -> Result<Pattern, ExpandError> {
        Pattern::new(pattern).map_err(|reason| ExpandError {
            message: format!("invalid pattern ({pattern}) in substitution: {reason}"),
            at: start,
        })
    }

    /// The longest name here: letters, digits and `_`, or a number, or one special parameter. May be empty.
    fn name(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let length = match rest.chars().next() {
            Some(first) if first.is_ascii_digit() => {
                rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len())
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(rest.len()),
        };
        self.at += length;
        &rest[..length]
    }

    /// What a variable that is not set stands for, when its reference is `start..` up to here.
    fn missing(&mut self, name: &'a str, start: usize) -> String {
        if self.mode.keep_unset {
            return self.text[start..self.at].to_owned();
        }
        let special = name.chars().all(|char| !char.is_alphabetic() && char != '_');
        if !special && self.unset_seen.insert(name) {
            self.unset.push(Unset { name: name.to_owned(), at: start..self.at });
        }
        String::new()
    }

    fn spend(&mut self, bytes: usize, at: usize) -> Result<(), ExpandError> {
        match self.budget.checked_sub(bytes) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(ExpandError { message: "the expanded text is too long".to_owned(), at }),
        }
    }

    fn error(&self, message: String) -> ExpandError {
        ExpandError { message, at: self.at }
    }
}

const MISSING_BRACE: &str = "syntax error: missing '}'";

#[cfg(test)]
mod tests;
