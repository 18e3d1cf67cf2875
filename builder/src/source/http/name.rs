//! What the file of a URL is called.

use std::borrow::Cow;
use std::path::Path;

use percent_encoding::percent_decode_str;
use reqwest::Url;
use reqwest::header::{CONTENT_DISPOSITION, HeaderMap};

/// Name of a file that the URL does not name.
const UNNAMED: &str = "__unnamed__";

/// The name that was asked for, else what the answer suggests, else the last element of the URL's path. Always a name
/// of one component.
pub(super) fn file_name(asked: Option<&str>, url: &Url, headers: &HeaderMap) -> String {
    let suggested = || {
        let header = headers.get(CONTENT_DISPOSITION)?;
        suggested(&String::from_utf8_lossy(header.as_bytes()))
    };
    let in_path = || Some(decode(url.path_segments()?.rfind(|segment| !segment.is_empty())?));
    let chosen = asked.map(str::to_owned).or_else(suggested).or_else(in_path);
    chosen.and_then(|name| component(&name)).unwrap_or_else(|| UNNAMED.to_owned())
}

/// The last component of a path, if it can name a file.
fn component(name: &str) -> Option<String> {
    let last = Path::new(name).file_name()?.to_str()?;
    (!last.contains('\0')).then(|| last.to_owned())
}

/// The `filename` of a `Content-Disposition` (RFC 6266); `filename*`, which can hold any character, comes first.
fn suggested(header: &str) -> Option<String> {
    let mut plain = None;
    let mut extended = None;
    for (name, value) in parameters(header) {
        match name.to_ascii_lowercase().as_str() {
            "filename" => plain = Some(value),
            "filename*" => {
                let mut parts = value.splitn(3, '\'');
                let charset = parts.next().unwrap_or_default();
                if charset.eq_ignore_ascii_case("utf-8") {
                    extended = parts.nth(1).map(decode);
                }
            }
            _ => {}
        }
    }
    extended.or(plain).filter(|name| !name.is_empty() && !name.ends_with('/'))
}

/// The parameters after the first `;`, quotes taken off.
fn parameters(header: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let Some((_, mut rest)) = header.split_once(';') else { return found };
    while let Some((name, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let (value, tail) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim_end().to_owned(), &after[end..])
            }
        };
        found.push((name.trim().trim_start_matches(';').trim().to_owned(), value));
        rest = tail.trim_start().trim_start_matches(';');
    }
    found
}

/// A quoted string from after its opening quote, and what follows it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    (value, "")
}

/// `%41` → `A`; all of it as it was if that gives no text.
fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(asked: Option<&str>, url: &str, disposition: &str, expected: &str) {
        let mut headers = HeaderMap::new();
        if !disposition.is_empty() {
            headers.insert(CONTENT_DISPOSITION, disposition.parse().unwrap());
        }
        assert_eq!(file_name(asked, &url.parse().unwrap(), &headers), expected, "{url} {disposition}");
    }

    #[test]
    fn names() {
        check(None, "http://h/a/b.tgz?x=1", "", "b.tgz");
        check(None, "http://h/a/b/", "", "b");
        check(None, "http://h/a%20b", "", "a b");
        check(None, "http://h/%ff", "", "%ff");
        check(None, "http://h/a%2f..%2fb", "", "b");
        check(None, "http://h/%2e%2e", "", "__unnamed__");
        check(None, "http://h/", "", "__unnamed__");
        check(None, "http://h", "", "__unnamed__");
        check(Some("f"), "http://h/a", "attachment; filename=g", "f");
        check(Some("../f"), "http://h/a", "", "f");
        check(Some(".."), "http://h/a", "", "__unnamed__");
        check(None, "http://h/a", "attachment; filename=g.txt", "g.txt");
        check(None, "http://h/a", "attachment; filename=\"a \\\"b\\\"; c\"; x=y", "a \"b\"; c");
        check(None, "http://h/a", "attachment; filename=x; filename*=UTF-8''%e2%82%ac", "€");
        check(None, "http://h/a", "attachment; filename=\"../../etc/passwd\"", "passwd");
        check(None, "http://h/a", "attachment; filename=\"x/\"", "a");
        check(None, "http://h/a", "attachment; filename=\"", "a");
        check(None, "http://h/a", "inline", "a");
    }
}
