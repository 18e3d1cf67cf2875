//! The functions that templates know: Go's, and those that Docker adds.

use std::cmp::Ordering;
use std::fmt::{self, Write};

use serde_json::{Number, Value};

use super::Wrong;
use super::escape::{html, js, urlquery};
use super::printf::printf;
use super::show::{show_all, show_inner};
use super::tree::Span;
use super::value::{Given, MADE_BYTES_MAX, Room, fill, is_true};

/// What is wrong, where is not known yet.
#[derive(Debug)]
pub(super) struct Problem {
    message: String,
    hint: Option<String>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// A field that is not among those that there are.
    pub(super) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let known: Vec<String> =
            known.take(FIELDS_SHOWN_MAX).map(|name| name.escape_debug().to_string()).collect();
        Self {
            message: format!("there is no field `{name}`"),
            hint: Some(format!("there are {}", known.join(", "))),
        }
    }

    pub(super) fn at(self, span: &Span) -> Wrong {
        Wrong { message: self.message, hint: self.hint, span: span.clone() }
    }
}

/// What is written is limited, and nothing else makes writing fail.
impl From<fmt::Error> for Problem {
    fn from(_: fmt::Error) -> Self {
        Self::new(format!("the template makes more than {MADE_BYTES_MAX} bytes"))
    }
}

/// Names of fields in a hint.
const FIELDS_SHOWN_MAX: usize = 100;

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    And,
    Eq,
    Ge,
    Gt,
    Html,
    Index,
    Join,
    Js,
    Json,
    Le,
    Len,
    Lower,
    Lt,
    Ne,
    Not,
    Or,
    Pad,
    Print,
    Printf,
    Println,
    Slice,
    Split,
    Title,
    Truncate,
    Upper,
    Urlquery,
}

/// All functions, with their names and how much they are given: at least and at most.
const FUNCTIONS: [(&str, Function, usize, usize); 26] = [
    ("and", Function::And, 1, usize::MAX),
    ("eq", Function::Eq, 2, usize::MAX),
    ("ge", Function::Ge, 2, 2),
    ("gt", Function::Gt, 2, 2),
    ("html", Function::Html, 0, usize::MAX),
    ("index", Function::Index, 1, usize::MAX),
    ("join", Function::Join, 2, 2),
    ("js", Function::Js, 0, usize::MAX),
    ("json", Function::Json, 1, 1),
    ("le", Function::Le, 2, 2),
    ("len", Function::Len, 1, 1),
    ("lower", Function::Lower, 1, 1),
    ("lt", Function::Lt, 2, 2),
    ("ne", Function::Ne, 2, 2),
    ("not", Function::Not, 1, 1),
    ("or", Function::Or, 1, usize::MAX),
    ("pad", Function::Pad, 3, 3),
    ("print", Function::Print, 0, usize::MAX),
    ("printf", Function::Printf, 1, usize::MAX),
    ("println", Function::Println, 0, usize::MAX),
    ("slice", Function::Slice, 1, 4),
    ("split", Function::Split, 2, 2),
    ("title", Function::Title, 1, 1),
    ("truncate", Function::Truncate, 2, 2),
    ("upper", Function::Upper, 1, 1),
    ("urlquery", Function::Urlquery, 0, usize::MAX),
];

impl Function {
    pub(super) fn named(name: &str) -> Option<Self> {
        FUNCTIONS.iter().find(|it| it.0 == name).map(|it| it.1)
    }

    /// The names of all, for people.
    pub(super) fn names() -> String {
        FUNCTIONS.map(|it| it.0).join(", ")
    }

    fn name(self) -> &'static str {
        FUNCTIONS.iter().find(|it| it.1 == self).map_or("", |it| it.0)
    }

    pub(super) fn require_count(self, count: usize) -> Result<(), Problem> {
        let Some((name, _, least, most)) = FUNCTIONS.iter().find(|it| it.1 == self) else { return Ok(()) };
        if (*least..=*most).contains(&count) {
            return Ok(());
        }
        let arguments = |count: usize| if count == 1 { "argument" } else { "arguments" };
        Err(Problem::new(match (least, most) {
            (least, most) if least == most => {
                format!("`{name}` takes {least} {}, not {count}", arguments(*least))
            }
            (least, _) if count < *least => {
                format!("`{name}` takes {least} {} at least, not {count}", arguments(*least))
            }
            (_, most) => format!("`{name}` takes {most} arguments at most, not {count}"),
        }))
    }

    /// Whether what comes behind such an argument is not looked at any more.
    pub(super) fn is_decided_by(self, value: &Value) -> bool {
        match self {
            Self::And => !is_true(value),
            Self::Or => is_true(value),
            _ => false,
        }
    }

    fn text(self, value: &Value) -> Result<&str, Problem> {
        value.as_str().ok_or_else(|| self.wants("a text", value))
    }

    fn whole(self, value: &Value) -> Result<i64, Problem> {
        value.as_i64().ok_or_else(|| self.wants("a whole number", value))
    }

    fn wants(self, what: &str, value: &Value) -> Problem {
        Problem::new(format!("`{}` takes {what}, not {}", self.name(), brief(value)))
    }
}

/// A value in a message: the beginning of its JSON.
pub(super) fn brief(value: &Value) -> String {
    const CHARS_MAX: usize = 60;
    let text = match value {
        Value::Null => "nothing".to_owned(),
        value => value.to_string(),
    };
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// Calls a function with as much as it takes. In headings what Docker leaves as it is stays so: they are read by people.
pub(super) fn call<'a>(
    function: Function,
    given: &[Given<'a>],
    is_heading: bool,
    room: &mut Room,
) -> Result<Given<'a>, Problem> {
    use Function as F;
    let values: Vec<&Value> = given.iter().map(|value| &**value).collect();
    if is_heading
        && let Some(heading @ Value::String(_)) = values.first()
        && matches!(function, F::Json | F::Title | F::Lower | F::Upper | F::Truncate | F::Join)
    {
        return Ok(Given::made((*heading).clone()));
    }
    match (function, values.as_slice()) {
        (F::And | F::Or, _) => Ok(given.last().cloned().unwrap_or_default()),
        (F::Not, [value]) => Ok(Given::made(!is_true(value))),
        (F::Eq, [first, others @ ..]) => {
            let equal = others.iter().map(|other| is_equal(first, other, is_heading));
            let equal = equal.collect::<Result<Vec<bool>, _>>()?;
            Ok(Given::made(equal.contains(&true)))
        }
        (F::Ne, [left, right]) => is_equal(left, right, is_heading).map(|equal| Given::made(!equal)),
        (F::Lt, [left, right]) => ordered(function, left, right, is_heading, Ordering::is_lt),
        (F::Le, [left, right]) => ordered(function, left, right, is_heading, Ordering::is_le),
        (F::Gt, [left, right]) => ordered(function, left, right, is_heading, Ordering::is_gt),
        (F::Ge, [left, right]) => ordered(function, left, right, is_heading, Ordering::is_ge),
        (F::Index, _) => index(given),
        (F::Slice, [value, bounds @ ..]) => slice(value, bounds, room),
        (F::Len, [value]) => Ok(Given::made(match value {
            Value::Null => 0,
            Value::String(text) => text.len(),
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            other => return Err(function.wants("a text, a list or a map", other)),
        })),
        (F::Print, values) => room.text(|out| show_all(out, values)),
        (F::Println, values) => room.text(|out| {
            for (at, value) in values.iter().enumerate() {
                out.write_str(if at > 0 { " " } else { "" })?;
                show_inner(out, value)?;
            }
            out.write_char('\n')
        }),
        (F::Printf, [format, arguments @ ..]) => {
            let format = function.text(format)?;
            room.text(|out| printf(out, format, arguments))
        }
        (F::Json, [value]) => room.text(|out| write!(out, "{value}")),
        (F::Upper, [text]) => {
            let text = function.text(text)?;
            room.text(|out| text.chars().try_for_each(|c| out.write_char(alone(c, c.to_uppercase()))))
        }
        (F::Lower, [text]) => {
            let text = function.text(text)?;
            room.text(|out| text.chars().try_for_each(|c| out.write_char(alone(c, c.to_lowercase()))))
        }
        (F::Title, [text]) => {
            let text = function.text(text)?;
            room.text(|out| {
                let mut is_start = true;
                for c in text.chars() {
                    out.write_char(if is_start { alone(c, c.to_uppercase()) } else { c })?;
                    is_start = if c.is_ascii() { !is_of_word(c) } else { c.is_whitespace() };
                }
                Ok(())
            })
        }
        (F::Split, [text, between]) => {
            let (text, between) = (function.text(text)?, function.text(between)?);
            let parts: Vec<&str> = match between {
                "" => text.split("").filter(|part| !part.is_empty()).collect(),
                between => text.split(between).collect(),
            };
            room.take(text.len() + parts.len() * size_of::<Value>())?;
            Ok(Given::made(parts))
        }
        (F::Join, [list, between]) => {
            let between = function.text(between)?;
            let list = match list {
                Value::Array(list) => list.as_slice(),
                Value::Null => &[],
                other => return Err(function.wants("a list", other)),
            };
            room.text(|out| {
                for (at, element) in list.iter().enumerate() {
                    out.write_str(if at > 0 { between } else { "" })?;
                    show_inner(out, element)?;
                }
                Ok(())
            })
        }
        (F::Pad, [text, before, after]) => {
            let text = function.text(text)?;
            let count = |value: &Value| {
                let count = function.whole(value)?;
                usize::try_from(count).map_err(|_| Problem::new(format!("`pad` cannot add {count} spaces")))
            };
            let (before, after) = (count(before)?, count(after)?);
            room.text(|out| match text {
                "" => Ok(()),
                text => {
                    fill(out, ' ', before)?;
                    out.write_str(text)?;
                    fill(out, ' ', after)
                }
            })
        }
        (F::Truncate, [text, length]) => {
            let (text, length) = (function.text(text)?, function.whole(length)?);
            let length = usize::try_from(length)
                .map_err(|_| Problem::new(format!("`truncate` cannot leave {length} bytes")))?;
            let length = (0..=length.min(text.len())).rfind(|at| text.is_char_boundary(*at));
            room.text(|out| out.write_str(&text[..length.unwrap_or_default()]))
        }
        (F::Html, values) => escaped(values, room, html),
        (F::Js, values) => escaped(values, room, js),
        (F::Urlquery, values) => escaped(values, room, urlquery),
        // Not reached: how much a function is given is checked when the template is read.
        (_, values) => function.require_count(values.len()).map(|()| Given::nothing()),
    }
}

/// What `print` makes of values, made harmless. What is nothing is said as an action says it.
fn escaped<'a>(
    values: &[&Value],
    room: &mut Room,
    escape: fn(&mut dyn Write, &str) -> fmt::Result,
) -> Result<Given<'a>, Problem> {
    let nothing = Value::from("<no value>");
    let values: Vec<&Value> = values.iter().map(|it| if it.is_null() { &nothing } else { *it }).collect();
    let mut text = String::new();
    show_all(&mut room.writer(&mut text), &values)?;
    room.text(|out| escape(out, &text))
}

/// The other case of a character, where that is one character.
fn alone(c: char, mut other: impl Iterator<Item = char>) -> char {
    match (other.next(), other.next()) {
        (Some(other), None) => other,
        _ => c,
    }
}

fn is_of_word(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// As Go's `eq`, but that a number is a number, whole or not. Nothing is equal to nothing alone.
fn is_equal(left: &Value, right: &Value, is_heading: bool) -> Result<bool, Problem> {
    match (left, right) {
        (Value::Null, Value::Null) => Ok(true),
        (Value::Array(_) | Value::Object(_), Value::Array(_) | Value::Object(_)) => {
            Err(Problem::new("lists and maps cannot be compared"))
        }
        (Value::Null, _) | (_, Value::Null) => Ok(false),
        (Value::Bool(left), Value::Bool(right)) => Ok(left == right),
        (Value::String(left), Value::String(right)) => Ok(left == right),
        (Value::Number(left), Value::Number(right)) => Ok(compare(left, right).is_some_and(Ordering::is_eq)),
        _ if is_heading => Ok(false),
        _ => Err(incomparable(left, right)),
    }
}

fn ordered<'a>(
    function: Function,
    left: &Value,
    right: &Value,
    is_heading: bool,
    is: impl Fn(Ordering) -> bool,
) -> Result<Given<'a>, Problem> {
    let ordering = match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Number(left), Value::Number(right)) => compare(left, right),
        _ if is_heading => None,
        (Value::String(_) | Value::Number(_), Value::String(_) | Value::Number(_)) => {
            return Err(incomparable(left, right));
        }
        (Value::String(_) | Value::Number(_), other) | (other, _) => {
            return Err(function.wants("numbers or texts", other));
        }
    };
    Ok(Given::made(ordering.is_some_and(is)))
}

fn compare(left: &Number, right: &Number) -> Option<Ordering> {
    let whole = |number: &Number| number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

fn incomparable(left: &Value, right: &Value) -> Problem {
    Problem::new(format!(
        "{} and {} are of different kinds and cannot be compared",
        brief(left),
        brief(right)
    ))
}

/// What is found in a value under one key after the other.
fn index<'a>(given: &[Given<'a>]) -> Result<Given<'a>, Problem> {
    let Some((first, keys)) = given.split_first() else { return Ok(Given::nothing()) };
    let mut current = first.clone();
    for key in keys {
        current = look_up(&current, key)?;
    }
    Ok(current)
}

/// As Go's `index`: what a map has not is nothing, or no text in a map of texts; what a list has not is an error.
fn look_up<'a>(value: &Given<'a>, key: &Value) -> Result<Given<'a>, Problem> {
    let length = match (&**value, key) {
        (Value::Object(map), Value::String(key)) => {
            let is_of_texts = map.values().all(Value::is_string);
            let missing = || if is_of_texts { Given::made("") } else { Given::nothing() };
            return Ok(value.part(|map| map.get(key)).unwrap_or_else(missing));
        }
        // Where a map of labels has none.
        (Value::Null, Value::String(_)) => return Ok(Given::made("")),
        (Value::Array(list), Value::Number(_)) => list.len(),
        (Value::String(text), Value::Number(_)) => text.len(),
        (Value::Null, _) => return Err(Problem::new(format!("`index` cannot look up {key} in nothing"))),
        (value, key) => {
            return Err(Problem::new(format!("`index` cannot look up {} in {}", brief(key), brief(value))));
        }
    };
    let at = key.as_u64().and_then(|at| usize::try_from(at).ok()).filter(|at| *at < length);
    let at = at.ok_or_else(|| Problem::new(format!("`index` {key} of what has {length}")))?;
    if let Value::String(text) = &**value {
        return Ok(Given::made(text.as_bytes()[at]));
    }
    Ok(value.part(|list| list.get(at)).unwrap_or_default())
}

/// From one place of a list or a text to another.
fn slice<'a>(value: &Value, bounds: &[&Value], room: &mut Room) -> Result<Given<'a>, Problem> {
    let length = match value {
        Value::Array(list) => list.len(),
        Value::String(text) if bounds.len() < 3 => text.len(),
        Value::String(_) => return Err(Problem::new("`slice` of a text takes two places at most")),
        other => return Err(Function::Slice.wants("a list or a text", other)),
    };
    let mut places = Vec::new();
    for bound in bounds {
        let place = usize::try_from(Function::Slice.whole(bound)?).ok().filter(|place| *place <= length);
        let place = place.ok_or_else(|| Problem::new(format!("`slice` at {bound} of what has {length}")))?;
        places.push(place);
    }
    // The third place is how far the list could be made longer again, which nothing here does.
    let (start, end) = (places.first().copied().unwrap_or(0), places.get(1).copied().unwrap_or(length));
    if start > end || places.get(2).is_some_and(|most| *most < end) {
        return Err(Problem::new("the places of `slice` are not in order"));
    }
    match value {
        Value::Array(list) => {
            room.take((end - start) * size_of::<Value>())?;
            Ok(Given::made(list[start..end].to_vec()))
        }
        Value::String(text) => {
            let part = text.get(start..end);
            let part = part.ok_or_else(|| Problem::new("`slice` would cut a character in two"))?;
            room.text(|out| out.write_str(part))
        }
        _ => Ok(Given::nothing()),
    }
}
