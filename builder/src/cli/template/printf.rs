//! Go's `printf`: verbs with flags, width, precision and numbered arguments. What does not fit is said in the text, as
//! Go says it.

use std::fmt::{self, Write};

use serde_json::{Number, Value};

use super::show::{general, scientific};
use super::value::fill;

/// The width and the precision that may be asked for.
const WIDTH_MAX: usize = 50_000;

/// What stands between `%` and the verb.
#[derive(Debug, Default, Clone)]
struct Flags {
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// The format as far as it is not yet read, and the arguments.
struct Reader<'f> {
    rest: &'f str,
    arguments: &'f [&'f Value],
    /// The argument that is next.
    next: usize,
    /// Whether arguments are numbered: then it may be that some are left.
    is_numbered: bool,
    /// Whether a number was none of an argument.
    is_bad_number: bool,
}

/// Writes the arguments as the format says.
pub(super) fn printf(out: &mut dyn Write, format: &str, arguments: &[&Value]) -> fmt::Result {
    let mut reader = Reader { rest: format, arguments, next: 0, is_numbered: false, is_bad_number: false };
    while let Some((text, rest)) = reader.rest.split_once('%') {
        out.write_str(text)?;
        reader.rest = rest;
        reader.verb(out)?;
    }
    out.write_str(reader.rest)?;
    if !reader.is_numbered && reader.next < arguments.len() {
        out.write_str("%!(EXTRA ")?;
        for (at, argument) in arguments[reader.next..].iter().enumerate() {
            out.write_str(if at > 0 { ", " } else { "" })?;
            typed(out, &Flags::default(), argument)?;
        }
        out.write_char(')')?;
    }
    Ok(())
}

impl<'f> Reader<'f> {
    /// From behind `%`.
    fn verb(&mut self, out: &mut dyn Write) -> fmt::Result {
        let mut flags = Flags::default();
        self.is_bad_number = false;
        while let Some(c) = self.rest.chars().next() {
            match c {
                '+' => flags.plus = true,
                '-' => flags.minus = true,
                '#' => flags.sharp = true,
                ' ' => flags.space = true,
                '0' => flags.zero = true,
                _ => break,
            }
            self.rest = &self.rest[1..];
        }
        self.number_of_argument();
        if self.takes('*') {
            match self.count() {
                Some(width) => {
                    flags.minus |= width < 0;
                    flags.width = usize::try_from(width.unsigned_abs()).unwrap_or_default();
                }
                None => out.write_str("%!(BADWIDTH)")?,
            }
        } else {
            match self.digits() {
                Some(width) if width <= WIDTH_MAX => flags.width = width,
                Some(_) => out.write_str("%!(BADWIDTH)")?,
                None => {}
            }
        }
        if self.takes('.') {
            self.number_of_argument();
            flags.precision = if self.takes('*') {
                self.count().and_then(|count| usize::try_from(count).ok())
            } else {
                Some(self.digits().unwrap_or_default()).filter(|digits| *digits <= WIDTH_MAX)
            };
            if flags.precision.is_none() {
                out.write_str("%!(BADPREC)")?;
            }
        }
        self.number_of_argument();
        let Some(verb) = self.rest.chars().next() else { return out.write_str("%!(NOVERB)") };
        self.rest = &self.rest[verb.len_utf8()..];
        if verb == '%' {
            return out.write_char('%');
        }
        if self.is_bad_number {
            return write!(out, "%!{verb}(BADINDEX)");
        }
        match self.arguments.get(self.next) {
            Some(argument) => {
                self.next += 1;
                // There it would name the fields of what has a type.
                flags.plus &= verb != 'v';
                value(out, &flags, verb, argument)
            }
            None => write!(out, "%!{verb}(MISSING)"),
        }
    }

    fn takes(&mut self, c: char) -> bool {
        let rest = self.rest.strip_prefix(c);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn digits(&mut self) -> Option<usize> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        // More than fits is more than is allowed.
        (!digits.is_empty()).then(|| digits.parse().unwrap_or(usize::MAX))
    }

    /// `[2]`: the next argument is the second.
    fn number_of_argument(&mut self) {
        let Some(inner) = self.rest.strip_prefix('[') else { return };
        self.is_numbered = true;
        let Some((number, rest)) = inner.split_once(']') else {
            self.is_bad_number = true;
            self.rest = inner;
            return;
        };
        self.rest = rest;
        match number.parse::<usize>() {
            Ok(number) if (1..=self.arguments.len()).contains(&number) => self.next = number - 1,
            _ => self.is_bad_number = true,
        }
    }

    /// An argument that is a width or a precision.
    fn count(&mut self) -> Option<i64> {
        let argument = self.arguments.get(self.next)?;
        self.next += 1;
        argument.as_i64().filter(|count| count.unsigned_abs() <= WIDTH_MAX as u64)
    }
}

/// A value by a verb; lists and maps have it applied to all that is in them.
fn value(out: &mut dyn Write, flags: &Flags, verb: char, it: &Value) -> fmt::Result {
    match (it, verb) {
        (_, 'T') => text(out, flags, type_of(it)),
        (Value::Null, 'v') => padded(out, flags, "<nil>"),
        (Value::Bool(it), 't' | 'v') => padded(out, flags, if *it { "true" } else { "false" }),
        (Value::Number(number), _) => match number.as_f64() {
            Some(float) if number.is_f64() => match verb {
                'e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'v' => self::float(out, flags, verb, float),
                _ => bad(out, flags, verb, it),
            },
            _ => match verb {
                'd' | 'v' | 'b' | 'o' | 'O' | 'x' | 'X' => integer(out, flags, verb, number),
                'c' | 'q' | 'U' => character(out, flags, verb, number),
                _ => bad(out, flags, verb, it),
            },
        },
        (Value::String(it), 'v') if flags.sharp => quoted(out, &Flags { sharp: false, ..flags.clone() }, it),
        (Value::String(it), 's' | 'v') => text(out, flags, it),
        (Value::String(it), 'q') => quoted(out, flags, it),
        (Value::String(it), 'x' | 'X') => hexadecimal(out, flags, verb, it),
        (Value::Array(list), _) => {
            let is_source = flags.sharp && verb == 'v';
            out.write_str(if is_source { "[]interface {}{" } else { "[" })?;
            for (at, element) in list.iter().enumerate() {
                out.write_str(between(at, is_source))?;
                inner(out, flags, verb, element)?;
            }
            out.write_char(if is_source { '}' } else { ']' })
        }
        (Value::Object(map), _) => {
            let is_source = flags.sharp && verb == 'v';
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_unstable_by_key(|(key, _)| *key);
            out.write_str(if is_source { "map[string]interface {}{" } else { "map[" })?;
            for (at, (key, element)) in pairs.into_iter().enumerate() {
                out.write_str(between(at, is_source))?;
                value(out, flags, verb, &Value::from(key.as_str()))?;
                out.write_char(':')?;
                inner(out, flags, verb, element)?;
            }
            out.write_char(if is_source { '}' } else { ']' })
        }
        _ => bad(out, flags, verb, it),
    }
}

/// What is in a list or a map, where nothing is shown as such whatever the verb is.
fn inner(out: &mut dyn Write, flags: &Flags, verb: char, it: &Value) -> fmt::Result {
    match it {
        Value::Null if flags.sharp && verb == 'v' => out.write_str("interface {}(nil)"),
        Value::Null => out.write_str("<nil>"),
        it => value(out, flags, verb, it),
    }
}

fn between(at: usize, is_source: bool) -> &'static str {
    match (at, is_source) {
        (0, _) => "",
        (_, true) => ", ",
        (_, false) => " ",
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// `type=value`
fn typed(out: &mut dyn Write, flags: &Flags, it: &Value) -> fmt::Result {
    if it.is_null() {
        return out.write_str("<nil>");
    }
    write!(out, "{}=", type_of(it))?;
    value(out, flags, 'v', it)
}

/// A verb that is none for such a value.
fn bad(out: &mut dyn Write, flags: &Flags, verb: char, it: &Value) -> fmt::Result {
    write!(out, "%!{verb}(")?;
    typed(out, flags, it)?;
    out.write_char(')')
}

/// A text, with what it has not of the width.
fn padded(out: &mut dyn Write, flags: &Flags, text: &str) -> fmt::Result {
    let missing = flags.width.saturating_sub(text.chars().count());
    match (flags.minus, flags.zero) {
        (true, _) => {
            out.write_str(text)?;
            fill(out, ' ', missing)
        }
        (false, is_zero) => {
            fill(out, if is_zero { '0' } else { ' ' }, missing)?;
            out.write_str(text)
        }
    }
}

/// As much of a text as the precision says.
fn cut<'t>(flags: &Flags, text: &'t str) -> &'t str {
    let end = flags.precision.and_then(|precision| text.char_indices().nth(precision));
    end.map_or(text, |(end, _)| &text[..end])
}

fn text(out: &mut dyn Write, flags: &Flags, text: &str) -> fmt::Result {
    padded(out, flags, cut(flags, text))
}

fn hexadecimal(out: &mut dyn Write, flags: &Flags, verb: char, text: &str) -> fmt::Result {
    let bytes = text.as_bytes();
    let bytes = &bytes[..flags.precision.unwrap_or(bytes.len()).min(bytes.len())];
    let prefix = match (flags.sharp, verb) {
        (false, _) => "",
        (true, 'x') => "0x",
        (true, _) => "0X",
    };
    let digits = |byte: &u8| if verb == 'x' { format!("{byte:02x}") } else { format!("{byte:02X}") };
    let digits: Vec<String> = bytes.iter().map(digits).collect();
    let text = match flags.space {
        true => digits.iter().map(|it| format!("{prefix}{it}")).collect::<Vec<_>>().join(" "),
        false if digits.is_empty() => String::new(),
        false => format!("{prefix}{}", digits.concat()),
    };
    padded(out, flags, &text)
}

/// In double quotes, or in backquotes if asked for and possible.
fn quoted(out: &mut dyn Write, flags: &Flags, text: &str) -> fmt::Result {
    let text = cut(flags, text);
    let is_plain = |c: char| c == '\t' || !c.is_control() && c != '`' && c != '\u{feff}';
    if flags.sharp && text.chars().all(is_plain) {
        return padded(out, flags, &format!("`{text}`"));
    }
    let mut quoted = String::from('"');
    text.chars().for_each(|c| escaped(&mut quoted, c, '"', flags.plus));
    quoted.push('"');
    padded(out, flags, &quoted)
}

fn escaped(text: &mut String, c: char, quote: char, is_ascii: bool) {
    let code = u32::from(c);
    let name = match c {
        '\u{7}' => Some('a'),
        '\u{8}' => Some('b'),
        '\u{c}' => Some('f'),
        '\n' => Some('n'),
        '\r' => Some('r'),
        '\t' => Some('t'),
        '\u{b}' => Some('v'),
        c if c == quote || c == '\\' => Some(c),
        _ => None,
    };
    let is_shown = (' '..='~').contains(&c) || !is_ascii && !c.is_ascii() && is_printable(c);
    match (name, is_shown) {
        (Some(name), _) => text.extend(['\\', name]),
        (None, true) => text.push(c),
        (None, false) if code < 0x80 => text.push_str(&format!("\\x{code:02x}")),
        (None, false) if code < 0x1_0000 => text.push_str(&format!("\\u{code:04x}")),
        (None, false) => text.push_str(&format!("\\U{code:08x}")),
    }
}

/// Whether it leaves a mark of its own; the only space that does is that of ASCII.
fn is_printable(c: char) -> bool {
    !c.is_control() && !c.is_whitespace() && !is_format(c)
}

/// Characters that say how others are shown, those of private use, and what stands for no character.
fn is_format(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{e000}'..='\u{f8ff}'
            | '\u{feff}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{fffe}'..='\u{ffff}'
            | '\u{e0000}'..='\u{e00ff}'
            | '\u{f0000}'..='\u{10ffff}'
    )
}

fn whole(number: &Number) -> i128 {
    number.as_i64().map(i128::from).or(number.as_u64().map(i128::from)).unwrap_or_default()
}

fn integer(out: &mut dyn Write, flags: &Flags, verb: char, number: &Number) -> fmt::Result {
    let number = whole(number);
    let size = number.unsigned_abs();
    let mut digits = match verb {
        'b' => format!("{size:b}"),
        'o' | 'O' => format!("{size:o}"),
        'x' => format!("{size:x}"),
        'X' => format!("{size:X}"),
        _ => size.to_string(),
    };
    let sign = match (number < 0, flags.plus, flags.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    };
    let least = match flags.precision {
        Some(0) if number == 0 => return fill(out, ' ', flags.width),
        Some(precision) => precision,
        None if flags.zero && !flags.minus => flags.width.saturating_sub(sign.len()),
        None => 0,
    };
    if digits.len() < least {
        digits.insert_str(0, &"0".repeat(least - digits.len()));
    }
    let prefix = match verb {
        'O' => "0o",
        'b' if flags.sharp => "0b",
        'o' if flags.sharp && !digits.starts_with('0') => "0",
        'x' if flags.sharp => "0x",
        'X' if flags.sharp => "0X",
        _ => "",
    };
    padded(out, &Flags { zero: false, ..flags.clone() }, &format!("{sign}{prefix}{digits}"))
}

fn character(out: &mut dyn Write, flags: &Flags, verb: char, number: &Number) -> fmt::Result {
    let number = whole(number);
    let code = u32::try_from(number).ok();
    let c = code.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
    match verb {
        'c' => padded(out, flags, c.encode_utf8(&mut [0; 4])),
        'q' => {
            let mut quoted = String::from('\'');
            escaped(&mut quoted, c, '\'', flags.plus);
            quoted.push('\'');
            padded(out, flags, &quoted)
        }
        _ => {
            let digits = flags.precision.unwrap_or_default().max(4);
            let mut text = format!("U+{:0digits$X}", u64::try_from(number).unwrap_or(u64::MAX));
            if flags.sharp && is_printable(c) {
                text.push_str(&format!(" '{c}'"));
            }
            padded(out, &Flags { zero: false, ..flags.clone() }, &text)
        }
    }
}

fn float(out: &mut dyn Write, flags: &Flags, verb: char, number: f64) -> fmt::Result {
    let size = number.abs();
    let text = match verb {
        'e' | 'E' => scientific(size, flags.precision.unwrap_or(6)),
        'f' | 'F' => format!("{size:.*}", flags.precision.unwrap_or(6)),
        _ => general(size, flags.precision),
    };
    let text = if matches!(verb, 'E' | 'G') { text.to_uppercase() } else { text };
    let sign = match (number.is_sign_negative(), flags.plus, flags.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    };
    if !flags.zero || flags.minus {
        return padded(out, &Flags { zero: false, ..flags.clone() }, &format!("{sign}{text}"));
    }
    out.write_str(sign)?;
    padded(out, &Flags { width: flags.width.saturating_sub(sign.len()), ..flags.clone() }, &text)
}
