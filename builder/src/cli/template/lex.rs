//! The text of a template in tokens: text between actions, and the words in them.

use serde_json::{Number, Value};

use super::Wrong;
use super::tree::Span;

/// A token, and where it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) span: Span,
    /// Whether there is space before it.
    pub(super) is_apart: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    LeftParen,
    RightParen,
    Bar,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    Dot,
    /// `.Name`, without the dot.
    Field(String),
    /// `$name`, or `$`.
    Variable(String),
    /// A function or a keyword.
    Word(String),
    /// A text, a number, `true` or `false`.
    Constant(Value),
    Nil,
    /// The end of the template.
    End,
}

/// What Go takes for space.
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// Reads all tokens; the last is [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Wrong> {
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new() };
    let mut trims = false;
    loop {
        let rest = lexer.rest();
        let before = rest.split("{{").next().unwrap_or_default();
        let opens = before.len() < rest.len();
        let starts_trimmed = opens && is_trim_marker(&rest[before.len() + 2..]);
        lexer.text(before, trims, starts_trimmed);
        if !opens {
            lexer.push(Kind::End, lexer.at);
            return Ok(lexer.tokens);
        }
        trims = lexer.action(starts_trimmed)?;
    }
}

/// `- ` after `{{`.
fn is_trim_marker(text: &str) -> bool {
    text.strip_prefix('-').is_some_and(|rest| rest.starts_with(SPACE))
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    tokens: Vec<Token>,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn push(&mut self, kind: Kind, start: usize) {
        let is_apart = self.text[..start].ends_with(SPACE);
        self.tokens.push(Token { kind, span: start..self.at, is_apart });
    }

    /// Text outside of actions, where `\t` and `\n` stand for what they stand for elsewhere.
    fn text(&mut self, text: &str, trims_start: bool, trims_end: bool) {
        let start = self.at;
        self.at += text.len();
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let text = if trims_start { text.trim_start_matches(SPACE) } else { &text };
        let text = if trims_end { text.trim_end_matches(SPACE) } else { text };
        if !text.is_empty() {
            self.push(Kind::Text(text.to_owned()), start);
        }
    }

    /// From `{{` to `}}`. Says whether the text behind is to be trimmed.
    fn action(&mut self, starts_trimmed: bool) -> Result<bool, Wrong> {
        let start = self.at;
        self.at += if starts_trimmed { 4 } else { 2 };
        if self.rest().starts_with("/*") {
            return self.comment(start);
        }
        self.push(Kind::Open, start);
        loop {
            let spaces = self.rest().len() - self.rest().trim_start_matches(SPACE).len();
            self.at += spaces;
            let here = self.at;
            let is_trimmed = spaces > 0 && self.rest().starts_with("-}}");
            if is_trimmed || self.rest().starts_with("}}") {
                self.at += if is_trimmed { 3 } else { 2 };
                self.push(Kind::Close, here);
                return Ok(is_trimmed);
            }
            if self.rest().is_empty() {
                return Err(Wrong::new("`{{` has no `}}`", start..start + 2));
            }
            let kind = self.token()?;
            self.push(kind, here);
        }
    }

    /// `{{/* … */}}`, which is nothing.
    fn comment(&mut self, start: usize) -> Result<bool, Wrong> {
        let wrong = |what: &str| Err(Wrong::new(what, start..start + 2));
        let Some((comment, after)) = self.rest().split_once("*/") else {
            return wrong("a comment has no `*/`");
        };
        self.at += comment.len() + 2;
        let is_trimmed = after.starts_with(SPACE) && after[1..].starts_with("-}}");
        if !is_trimmed && !after.starts_with("}}") {
            return wrong("a comment ends with `*/}}`, and has nothing beside it");
        }
        self.at += if is_trimmed { 4 } else { 2 };
        Ok(is_trimmed)
    }

    /// The token that begins here, which is neither space nor the end.
    fn token(&mut self) -> Result<Kind, Wrong> {
        let rest = self.rest();
        let simple = [
            ("(", Kind::LeftParen),
            (")", Kind::RightParen),
            ("|", Kind::Bar),
            (",", Kind::Comma),
            (":=", Kind::Declare),
            ("=", Kind::Assign),
        ];
        for (text, kind) in simple {
            if rest.starts_with(text) {
                self.at += text.len();
                return Ok(kind);
            }
        }
        let mut chars = rest.chars();
        let first = chars.next().unwrap_or_default();
        let is_digit_next = chars.next().is_some_and(|c| c.is_ascii_digit());
        match first {
            '"' | '\'' => self.quoted(first),
            '`' => self.raw(),
            '.' if is_digit_next => self.number(),
            '.' => match self.word(1) {
                "" => Ok(Kind::Dot),
                name => Ok(Kind::Field(name.to_owned())),
            },
            '$' => Ok(Kind::Variable(format!("${}", self.word(1)))),
            '+' | '-' => self.number(),
            _ if first.is_ascii_digit() => self.number(),
            _ if is_of_word(first) => Ok(match self.word(0) {
                "true" => Kind::Constant(true.into()),
                "false" => Kind::Constant(false.into()),
                "nil" => Kind::Nil,
                word => Kind::Word(word.to_owned()),
            }),
            _ => {
                let what = match first {
                    '{' | '}' => "an action ends with `}}`".to_owned(),
                    other => format!("`{}` makes no sense here", other.escape_debug()),
                };
                Err(Wrong::new(what, self.at..self.at + first.len_utf8()))
            }
        }
    }

    /// Letters and digits behind the first `skipped` bytes; both are consumed.
    fn word(&mut self, skipped: usize) -> &'t str {
        let rest = &self.rest()[skipped..];
        let word = &rest[..rest.find(|c| !is_of_word(c)).unwrap_or(rest.len())];
        self.at += skipped + word.len();
        word
    }

    fn raw(&mut self) -> Result<Kind, Wrong> {
        let Some(length) = self.rest()[1..].find('`') else {
            return Err(Wrong::new("a quote is not closed", self.at..self.at + 1));
        };
        let text = &self.rest()[1..=length];
        self.at += length + 2;
        Ok(Kind::Constant(text.into()))
    }

    /// A text in double quotes, or a character in single ones, which is a number.
    fn quoted(&mut self, quote: char) -> Result<Kind, Wrong> {
        let start = self.at;
        let mut is_escaped = false;
        let end = self.rest().char_indices().skip(1).find(|&(_, c)| {
            let ends = c == '\n' || c == quote && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            ends
        });
        let Some((length, _)) = end.filter(|(_, c)| *c == quote) else {
            return Err(Wrong::new("a quote is not closed", start..start + 1));
        };
        let inner = &self.rest()[1..length];
        self.at += length + 1;
        let text = unquoted(inner, quote).ok_or_else(|| {
            Wrong::new(format!("`{inner}` is no text that can be quoted so"), start..self.at)
        })?;
        if quote == '"' {
            return Ok(Kind::Constant(text.into()));
        }
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => Ok(Kind::Constant(u32::from(c).into())),
            _ => Err(Wrong::new("single quotes hold one character", start..self.at)
                .hint("texts are in double quotes, or in backquotes")),
        }
    }

    fn number(&mut self) -> Result<Kind, Wrong> {
        let start = self.at;
        let rest = self.rest();
        let mut before = ' ';
        let is_end = |c: char| {
            let is_sign = matches!(c, '+' | '-') && matches!(before, ' ' | 'e' | 'E');
            before = c;
            !is_sign && !is_of_word(c) && c != '.'
        };
        let text = &rest[..rest.find(is_end).unwrap_or(rest.len())];
        self.at += text.len();
        let number = number(text)
            .ok_or_else(|| Wrong::new(format!("`{text}` is no number that fits"), start..self.at))?;
        Ok(Kind::Constant(Value::Number(number)))
    }
}

fn is_of_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// A number as Go writes them: in decimal, `0x1f`, `0b11`, `0o17`, `017`, `1_000`, `1.5`, `1e3`.
fn number(text: &str) -> Option<Number> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c == '.' || c.is_ascii_digit()) || digits.ends_with('_') {
        return None;
    }
    let digits = digits.replace('_', "").to_ascii_lowercase();
    let prefixed = |(prefix, base)| digits.strip_prefix(prefix).map(|digits: &str| (digits, base));
    let (digits, base) = match [("0x", 16), ("0b", 2), ("0o", 8)].into_iter().find_map(prefixed) {
        Some(found) => found,
        None if digits.contains(['.', 'e']) => {
            let number: f64 = digits.parse().ok()?;
            return Number::from_f64(if is_negative { -number } else { number });
        }
        None if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
        None => (digits.as_str(), 10),
    };
    if !digits.starts_with(char::is_alphanumeric) {
        return None;
    }
    let number = i128::from_str_radix(digits, base).ok()?;
    i64::try_from(if is_negative { -number } else { number }).ok().map(Number::from)
}

/// What quotes hold, with its escapes resolved. `None` if there is an escape that there is not, or no UTF-8.
fn unquoted(text: &str, quote: char) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    let push = |bytes: &mut Vec<u8>, c: char| bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            push(&mut bytes, c);
            continue;
        }
        let escape = rest.chars().next()?;
        let digits = |skipped: usize, count: usize, base: u32| {
            let digits = rest.get(skipped..skipped + count)?;
            let is_plain = digits.chars().all(|c| c.is_digit(base));
            u32::from_str_radix(digits, base).ok().filter(|_| is_plain)
        };
        let taken = match escape {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' => {
                let controls = [
                    ('a', 7),
                    ('b', 8),
                    ('f', 12),
                    ('n', b'\n'),
                    ('r', b'\r'),
                    ('t', b'\t'),
                    ('v', 11),
                    ('\\', b'\\'),
                ];
                bytes.extend(controls.iter().find(|(name, _)| *name == escape).map(|(_, byte)| *byte));
                1
            }
            'x' => {
                bytes.push(u8::try_from(digits(1, 2, 16)?).ok()?);
                3
            }
            'u' | 'U' => {
                let count = if escape == 'u' { 4 } else { 8 };
                push(&mut bytes, char::from_u32(digits(1, count, 16)?)?);
                1 + count
            }
            '0'..='7' => {
                bytes.push(u8::try_from(digits(0, 3, 8)?).ok()?);
                3
            }
            _ if escape == quote => {
                push(&mut bytes, escape);
                1
            }
            _ => return None,
        };
        rest = &rest[taken..];
    }
    String::from_utf8(bytes).ok()
}
