//! The values that a template works with, and the room that what it makes may take.

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use serde_json::Value;

use super::functions::Problem;

/// Bytes that a template may make for one value: what it prints, and the texts on the way there.
pub(super) const MADE_BYTES_MAX: usize = 16 << 20;

static NOTHING: Value = Value::Null;

/// A value, or a part of one, that is not copied when it is handed on.
#[derive(Debug, Clone)]
pub(super) enum Given<'a> {
    /// Of what was given, or of the template.
    Borrowed(&'a Value),
    /// Made by a function.
    Made(Rc<Value>),
}

impl Default for Given<'_> {
    fn default() -> Self {
        Self::nothing()
    }
}

impl Deref for Given<'_> {
    type Target = Value;

    fn deref(&self) -> &Value {
        match self {
            Self::Borrowed(value) => value,
            Self::Made(value) => value,
        }
    }
}

impl Given<'_> {
    pub(super) fn nothing() -> Self {
        Self::Borrowed(&NOTHING)
    }

    pub(super) fn made(value: impl Into<Value>) -> Self {
        Self::Made(Rc::new(value.into()))
    }

    /// What is found in it.
    pub(super) fn part(&self, find: impl for<'v> FnOnce(&'v Value) -> Option<&'v Value>) -> Option<Self> {
        match self {
            Self::Borrowed(value) => find(value).map(Self::Borrowed),
            Self::Made(value) => find(value).map(|found| Self::made(found.clone())),
        }
    }
}

/// Whether a value is taken for true: what is nothing, zero or empty is not.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(it) => *it,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// The bytes that may still be made.
#[derive(Debug)]
pub(super) struct Room {
    left: usize,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { left: MADE_BYTES_MAX }
    }

    /// Takes room, if there is so much.
    pub(super) fn take(&mut self, bytes: usize) -> fmt::Result {
        self.left = self.left.checked_sub(bytes).ok_or(fmt::Error)?;
        Ok(())
    }

    /// Writes at the end of a text while there is room.
    pub(super) fn writer<'w>(&'w mut self, text: &'w mut String) -> Writer<'w> {
        Writer { text, room: self }
    }

    /// The text that `write` writes.
    pub(super) fn text<'a>(
        &mut self,
        write: impl FnOnce(&mut Writer<'_>) -> fmt::Result,
    ) -> Result<Given<'a>, Problem> {
        let mut text = String::new();
        write(&mut self.writer(&mut text))?;
        Ok(Given::made(text))
    }
}

/// Fails with what would be more than there is room for.
#[derive(Debug)]
pub(super) struct Writer<'w> {
    text: &'w mut String,
    room: &'w mut Room,
}

impl fmt::Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.room.take(text.len())?;
        self.text.push_str(text);
        Ok(())
    }
}

/// Writes a character many times.
pub(super) fn fill(out: &mut dyn fmt::Write, c: char, count: usize) -> fmt::Result {
    const AT_ONCE: usize = 1024;
    let many = c.to_string().repeat(count.min(AT_ONCE));
    for _ in 0..count / AT_ONCE {
        out.write_str(&many)?;
    }
    out.write_str(&many[..c.len_utf8() * (count % AT_ONCE)])
}
