//! Values as Go prints them.

use std::fmt::{self, Write};

use serde_json::{Number, Value};

/// A value as an action shows it.
pub(super) fn show(out: &mut dyn Write, value: &Value) -> fmt::Result {
    match value {
        Value::Null => out.write_str("<no value>"),
        value => show_inner(out, value),
    }
}

/// A value as functions show what they are given, and what is in lists and maps.
pub(super) fn show_inner(out: &mut dyn Write, value: &Value) -> fmt::Result {
    match value {
        Value::Null => out.write_str("<nil>"),
        Value::Bool(it) => write!(out, "{it}"),
        Value::Number(number) => out.write_str(&number_text(number)),
        Value::String(text) => out.write_str(text),
        Value::Array(list) => {
            out.write_char('[')?;
            for (at, element) in list.iter().enumerate() {
                out.write_str(if at > 0 { " " } else { "" })?;
                show_inner(out, element)?;
            }
            out.write_char(']')
        }
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_unstable_by_key(|(key, _)| *key);
            out.write_str("map[")?;
            for (at, (key, value)) in pairs.into_iter().enumerate() {
                out.write_str(if at > 0 { " " } else { "" })?;
                write!(out, "{key}:")?;
                show_inner(out, value)?;
            }
            out.write_char(']')
        }
    }
}

/// Several values as `print` shows them: with spaces between those that are no texts.
pub(super) fn show_all(out: &mut dyn Write, values: &[&Value]) -> fmt::Result {
    for (at, value) in values.iter().enumerate() {
        if at > 0 && !value.is_string() && !values[at - 1].is_string() {
            out.write_char(' ')?;
        }
        show_inner(out, value)?;
    }
    Ok(())
}

fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => general(float, None),
        _ => number.to_string(),
    }
}

/// `%g`: the fewest digits that say which number it is, or so many; with an exponent where that is shorter.
pub(super) fn general(number: f64, precision: Option<usize>) -> String {
    let scientific = match precision {
        None => format!("{number:e}"),
        Some(precision) => format!("{number:.*e}", precision.max(1) - 1),
    };
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    let count = digits.chars().filter(char::is_ascii_digit).count();
    let most = match precision {
        None => 6,
        Some(precision) => i32::try_from(precision.max(1)).unwrap_or(i32::MAX),
    };
    if exponent < -4 || exponent >= most {
        return format!("{digits}{}", exponent_text(exponent));
    }
    let after_point = i32::try_from(count).unwrap_or(i32::MAX) - 1 - exponent;
    format!("{number:.*}", usize::try_from(after_point).unwrap_or_default())
}

/// `%e`.
pub(super) fn scientific(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{digits}{}", exponent_text(exponent.parse().unwrap_or_default()))
}

/// An exponent as C writes it: with a sign, and two digits at least.
fn exponent_text(exponent: i32) -> String {
    format!("e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.unsigned_abs())
}
