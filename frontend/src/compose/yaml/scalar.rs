//! What a plain scalar means: YAML 1.2's core schema, with 1.1's octal `0644` and `1_000`.

use super::super::node::{Number, Value};

pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    let first = text.bytes().next()?;
    if !(first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.')) {
        return None;
    }
    if let Some(integer) = integer(text) {
        return Some(Number { text: text.to_owned(), float: integer as f64, integer: Some(integer) });
    }
    let float = match text.trim_start_matches(['+', '-']) {
        ".inf" | ".Inf" | ".INF" if text.len() <= 5 => {
            if first == b'-' {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            }
        }
        ".nan" | ".NaN" | ".NAN" => f64::NAN,
        digits => {
            let is_float = digits.bytes().any(|byte| byte.is_ascii_digit())
                && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
            if !is_float {
                return None;
            }
            text.parse().ok()?
        }
    };
    Some(Number { text: text.to_owned(), float, integer: None })
}

fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] if digits.bytes().all(|byte| matches!(byte, b'0'..=b'7' | b'_')) => (8, &digits[1..]),
        // `0989` is no octal number; it is read as a decimal fraction is.
        [b'0', b'0'..=b'9', ..] => return None,
        _ => (10, digits),
    };
    let allowed = |char: char| char == '_' || char.is_digit(radix);
    if digits.is_empty() || digits.starts_with('_') || digits.ends_with('_') || !digits.chars().all(allowed) {
        return None;
    }
    let digits = digits.replace('_', "");
    let sign = if negative { "-" } else { "" };
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_what_compose_takes_them_for() {
        for (text, expected) in [
            ("", "Null"),
            ("~", "Null"),
            ("null", "Null"),
            ("True", "Bool(true)"),
            ("yes", "String(\"yes\")"),
            ("on", "String(\"on\")"),
            ("0", "0"),
            ("-12", "-12"),
            ("+5", "5"),
            ("0644", "420"),
            ("0o644", "420"),
            ("0989", "989 as 0989"),
            ("0x10", "16"),
            ("1_000", "1000"),
            ("22:22", "String(\"22:22\")"),
            ("3.8", "3.8 as 3.8"),
            ("1.10", "1.1 as 1.10"),
            (".5", "0.5 as .5"),
            ("1e3", "1000 as 1e3"),
            ("1e", "String(\"1e\")"),
            (".inf", "inf as .inf"),
            ("-", "String(\"-\")"),
            ("1.2.3", "String(\"1.2.3\")"),
            ("2001-01-01", "String(\"2001-01-01\")"),
            ("99999999999999999999", "100000000000000000000 as 99999999999999999999"),
        ] {
            let found = match plain(text) {
                Value::Number(Number { integer: Some(integer), .. }) => integer.to_string(),
                Value::Number(number) => format!("{} as {}", number.float, number.text),
                other => format!("{other:?}"),
            };
            assert_eq!(found, expected, "{text}");
        }
    }
}
