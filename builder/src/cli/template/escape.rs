//! Texts made harmless for where they are put: HTML, JavaScript, a URL's query.

use std::fmt::{self, Write};

pub(super) fn html(out: &mut dyn Write, text: &str) -> fmt::Result {
    for c in text.chars() {
        match c {
            '"' => out.write_str("&#34;"),
            '\'' => out.write_str("&#39;"),
            '&' => out.write_str("&amp;"),
            '<' => out.write_str("&lt;"),
            '>' => out.write_str("&gt;"),
            '\0' => out.write_char(char::REPLACEMENT_CHARACTER),
            other => out.write_char(other),
        }?;
    }
    Ok(())
}

pub(super) fn js(out: &mut dyn Write, text: &str) -> fmt::Result {
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => write!(out, "\\{c}"),
            '<' | '>' | '&' | '=' => write!(out, "\\u{:04X}", u32::from(c)),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                write!(out, "\\u{:04X}", u32::from(c))
            }
            other => out.write_char(other),
        }?;
    }
    Ok(())
}

pub(super) fn urlquery(out: &mut dyn Write, text: &str) -> fmt::Result {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.write_char(char::from(byte))
            }
            b' ' => out.write_char('+'),
            other => write!(out, "%{other:02X}"),
        }?;
    }
    Ok(())
}
