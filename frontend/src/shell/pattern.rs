//! Patterns of `${v#p}` and `${v/p/r}`: `*` and `?`, no classes.

use regex::{Regex, RegexBuilder};

/// A parsed pattern.
pub(super) struct Pattern {
    parts: Vec<Part>,
}

enum Part {
    Star,
    AnyChar,
    Char(char),
}

impl Pattern {
    /// Reads a pattern; only `*`, `?`, `\`, `}` and `/` can be escaped, always by a backslash.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            parts.push(match char {
                '*' => Part::Star,
                '?' => Part::AnyChar,
                '\\' => match chars.next() {
                    Some(next @ ('*' | '?' | '\\' | '}' | '/')) => Part::Char(next),
                    Some(other) => return Err(format!("invalid escape '\\{other}'")),
                    None => return Err("invalid escape at its end".to_owned()),
                },
                other => Part::Char(other),
            });
        }
        Ok(Self { parts })
    }

    /// `value` without its shortest or longest prefix that matches.
    pub(super) fn strip_prefix<'v>(&self, value: &'v str, longest: bool) -> Result<&'v str, String> {
        let regex = compile(&format!("^{}", self.regex(longest, false)))?;
        Ok(regex.find(value).map_or(value, |found| &value[found.end()..]))
    }

    /// `value` without its shortest or longest suffix that matches: the same on the text read backwards.
    pub(super) fn strip_suffix<'v>(&self, value: &'v str, longest: bool) -> Result<&'v str, String> {
        let regex = compile(&format!("^{}", self.regex(longest, true)))?;
        let backwards: String = value.chars().rev().collect();
        Ok(regex.find(&backwards).map_or(value, |found| &value[..value.len() - found.end()]))
    }

    /// `value` with the first or every longest match replaced.
    pub(super) fn replace(
        &self,
        value: &str,
        replacement: &str,
        all: bool,
        bytes_max: usize,
    ) -> Result<String, String> {
        let regex = compile(&self.regex(true, false))?;
        let mut result = String::new();
        let mut done = 0;
        for found in regex.captures_iter(value).take(if all { usize::MAX } else { 1 }) {
            let place = found.get_match();
            result.push_str(&value[done..place.start()]);
            if all {
                // `$0` in the replacement is the match and `$name` nothing, as BuildKit has it for `//` alone.
                found.expand(replacement, &mut result);
            } else {
                result.push_str(replacement);
            }
            done = place.end();
            if result.len() > bytes_max {
                return Err("the expanded text is too long".to_owned());
            }
        }
        result.push_str(&value[done..]);
        Ok(result)
    }

    fn regex(&self, longest: bool, backwards: bool) -> String {
        let mut regex = String::new();
        let mut push = |part: &Part| match part {
            Part::Star if longest => regex.push_str(".*"),
            Part::Star => regex.push_str(".*?"),
            Part::AnyChar => regex.push('.'),
            Part::Char(char) => regex.push_str(&regex::escape(char.encode_utf8(&mut [0; 4]))),
        };
        if backwards {
            self.parts.iter().rev().for_each(&mut push);
        } else {
            self.parts.iter().for_each(&mut push);
        }
        regex
    }
}

fn compile(regex: &str) -> Result<Regex, String> {
    const COMPILED_BYTES_MAX: usize = 1 << 20;
    RegexBuilder::new(regex)
        .size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|_| "the pattern of a substitution is too long".to_owned())
}
