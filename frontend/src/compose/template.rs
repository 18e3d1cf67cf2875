//! `$NAME`, `${NAME}` and `${NAME:-default}` as Compose substitutes them.

use std::ops::Range;

use super::limits;
use crate::diagnostic::excerpt;

/// A variable that was not set, and where it stands in the template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unset {
    /// Its name.
    pub name: String,
    /// The bytes of the outermost reference that asked for it.
    pub at: Range<usize>,
}

/// Why a template has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// In words.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Which bytes of the template are meant.
    pub at: Range<usize>,
}

/// What became of a template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Substituted {
    /// The text.
    pub text: String,
    /// The variables that became an empty text because nobody set them.
    pub unset: Vec<Unset>,
}

/// Substitutes variables in `template` by what `lookup` says of them.
pub fn substitute(
    template: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Substituted, TemplateError> {
    let mut run = Run { lookup, unset: Vec::new(), size: 0 };
    let text = run.text(template, None, 0)?;
    Ok(Substituted { text, unset: run.unset })
}

struct Run<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    unset: Vec<Unset>,
    /// Bytes made so far.
    size: usize,
}

impl Run<'_> {
    /// Substitutes in `template`, which is within the outermost reference at `outer` if it is an operand.
    fn text(
        &mut self,
        template: &str,
        outer: Option<&Range<usize>>,
        depth: usize,
    ) -> Result<String, TemplateError> {
        let mut out = String::new();
        let mut rest = template;
        while let Some(dollar) = rest.find('$') {
            out.push_str(&rest[..dollar]);
            let start = template.len() - rest.len() + dollar;
            let after = &rest[dollar + 1..];
            let fail = |length: usize, message: String, hint: Option<&str>| TemplateError {
                message,
                hint: hint.map(str::to_owned),
                at: outer.cloned().unwrap_or(start..start + length),
            };
            if let Some(after) = after.strip_prefix('$') {
                out.push('$');
                rest = after;
                continue;
            }
            if let Some(inner) = after.strip_prefix('{') {
                let Some(end) = closing(inner) else {
                    let message = format!("${{ without its }} in \"{}\"", excerpt(template));
                    return Err(fail(2, message, Some(ESCAPE)));
                };
                let at = outer.cloned().unwrap_or(start..start + end + 3);
                if depth >= limits::SUBSTITUTION_DEPTH_MAX {
                    let message =
                        format!("variables nested deeper than {} levels", limits::SUBSTITUTION_DEPTH_MAX);
                    return Err(fail(end + 3, message, None));
                }
                let value = self.braced(&inner[..end], &at, depth)?;
                self.push(&mut out, &value, &at)?;
                rest = &inner[end + 1..];
                continue;
            }
            let length = name_length(after);
            if length == 0 {
                let message = format!("$ without a name in \"{}\"", excerpt(template));
                return Err(fail(1, message, Some(ESCAPE)));
            }
            let at = outer.cloned().unwrap_or(start..start + 1 + length);
            let value = self.plain(&after[..length], &at);
            self.push(&mut out, &value, &at)?;
            rest = &after[length..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn push(&mut self, out: &mut String, value: &str, at: &Range<usize>) -> Result<(), TemplateError> {
        self.size += value.len();
        if self.size > limits::SUBSTITUTION_BYTES_MAX {
            let message =
                format!("the value grows beyond {} bytes by its variables", limits::SUBSTITUTION_BYTES_MAX);
            return Err(TemplateError { message, hint: None, at: at.clone() });
        }
        out.push_str(value);
        Ok(())
    }

    fn plain(&mut self, name: &str, at: &Range<usize>) -> String {
        (self.lookup)(name).unwrap_or_else(|| {
            self.unset.push(Unset { name: name.to_owned(), at: at.clone() });
            String::new()
        })
    }

    /// What stands between the braces.
    fn braced(&mut self, inner: &str, at: &Range<usize>, depth: usize) -> Result<String, TemplateError> {
        let length = name_length(inner);
        let (name, rest) = inner.split_at(length);
        let fail = |message: String, hint: Option<&str>| TemplateError {
            message,
            hint: hint.map(str::to_owned),
            at: at.clone(),
        };
        if length == 0 {
            return Err(fail(format!("${{{}}} has no name", excerpt(inner)), Some(ESCAPE)));
        }
        if rest.is_empty() {
            return Ok(self.plain(name, at));
        }
        let (counts_empty, operator) = match rest.strip_prefix(':') {
            Some(operator) => (true, operator),
            None => (false, rest),
        };
        let mut chars = operator.chars();
        let kind = chars.next();
        let operand = chars.as_str();
        let value = (self.lookup)(name).filter(|value| !(counts_empty && value.is_empty()));
        match (kind, value) {
            (Some('-'), Some(value)) => Ok(value),
            (Some('-'), None) | (Some('+'), Some(_)) => self.text(operand, Some(at), depth + 1),
            (Some('+'), None) => Ok(String::new()),
            (Some('?'), Some(value)) => Ok(value),
            (Some('?'), None) => {
                let reason = self.text(operand, Some(at), depth + 1)?;
                let reason =
                    if reason.is_empty() { String::new() } else { format!(": {}", excerpt(&reason)) };
                Err(fail(
                    format!("required variable {name} is missing a value{reason}"),
                    Some("set it in the environment or in the .env file"),
                ))
            }
            _ => Err(fail(
                format!("${{{}}} is no substitution that is known", excerpt(inner)),
                Some("after the name comes one of - :- + :+ ? :?, and then a text"),
            )),
        }
    }
}

/// What helps when a `$` was not meant.
const ESCAPE: &str = "write $$ for a $ that is no variable";

fn name_length(text: &str) -> usize {
    let is_name = |(at, byte): &(usize, u8)| {
        byte.is_ascii_alphabetic() || *byte == b'_' || (*at > 0 && byte.is_ascii_digit())
    };
    text.bytes().enumerate().take_while(is_name).count()
}

/// Where the brace that was opened before `text` is closed.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'$' if bytes.get(at + 1) == Some(&b'$') => at += 1,
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                depth += 1;
                at += 1;
            }
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}
