//! Problems in a Dockerfile, as data with a span. One constructor for each kind; `builder` renders them.

use std::ops::Range;

use crate::lint::Rule;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The build goes on.
    Warning,
    /// There is no build.
    Error,
}

/// One problem, at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Byte range of the offending token in the Dockerfile; `0..0` where there is none ([`Self::place`]).
    pub span: Range<usize>,
    /// What is wrong, in BuildKit's words where it has some.
    pub message: String,
    /// What to do about it ("did you mean …").
    pub hint: Option<String>,
    /// The check that says so, if it is one.
    pub rule: Option<Rule>,
    /// Another place that has to do with it.
    pub related: Option<Related>,
}

/// A place that a diagnostic shows beside its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    /// Byte range in the Dockerfile.
    pub span: Range<usize>,
    /// What is there.
    pub label: &'static str,
}

impl Diagnostic {
    /// Whether it prevents the build.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// An error without a constructor of its own: for the conversion's many one-off messages.
    pub fn error(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            span,
            message: message.into(),
            hint: None,
            rule: None,
            related: None,
        }
    }

    /// A warning without a constructor of its own.
    pub fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// What a check says.
    pub fn lint(rule: Rule, span: Range<usize>, message: impl Into<String>) -> Self {
        Self { rule: Some(rule), ..Self::warning(span, message) }
    }

    /// The same, but the build goes on.
    #[must_use]
    pub(crate) fn into_warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }

    /// Shows another place as well.
    #[must_use]
    pub(crate) fn with_related(self, span: Range<usize>, label: &'static str) -> Self {
        Self { related: Some(Related { span, label }), ..self }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds "did you mean" if one of `candidates` is near `name`.
    #[must_use]
    pub fn with_suggestion(mut self, name: &str, candidates: &[&str]) -> Self {
        self.hint = nearest(name, candidates).map(|found| format!("did you mean {found}?"));
        self
    }

    /// Its place in the Dockerfile; what is about the command line has none.
    pub fn place(&self) -> Option<&Range<usize>> {
        Some(&self.span).filter(|span| **span != (0..0))
    }

    /// The message as checks are listed: `RULE: message`.
    pub fn headline(&self) -> String {
        match self.rule {
            Some(rule) => format!("{rule}: {}", self.message),
            None => self.message.clone(),
        }
    }

    // The file as a whole.

    pub(crate) fn empty_file() -> Self {
        Self::error(0..0, "the Dockerfile cannot be empty")
    }

    pub(crate) fn no_instructions() -> Self {
        Self::error(0..0, "file with no instructions")
    }

    pub(crate) fn no_stages(span: Range<usize>) -> Self {
        Self::error(span, "dockerfile contains no stages to build").with_hint("add a FROM instruction")
    }

    // Directives and lines.

    pub(crate) fn foreign_syntax(span: Range<usize>, frontend: &str) -> Self {
        Self::warning(span, format!("syntax {} is no frontend for Dockerfiles", excerpt(frontend)))
            .with_hint("the file is read as a Dockerfile all the same")
    }

    pub(crate) fn repeated_directive(span: Range<usize>, name: &str) -> Self {
        Self::error(span, format!("only one {name} parser directive can be used"))
    }

    pub(crate) fn invalid_escape(span: Range<usize>, value: &str) -> Self {
        Self::error(span, format!("invalid escape token '{}' does not match ` or \\", excerpt(value)))
    }

    pub(crate) fn unterminated_heredoc(span: Range<usize>, name: &str) -> Self {
        Self::error(span, "unterminated heredoc")
            .with_hint(format!("end it with a line that holds only {}", excerpt(name)))
    }

    // Instructions.

    pub(crate) fn unknown_instruction(span: Range<usize>, name: &str, known: &[&str]) -> Self {
        Self::error(span, format!("unknown instruction: {}", excerpt(name))).with_suggestion(name, known)
    }

    pub(crate) fn before_from(span: Range<usize>) -> Self {
        Self::error(span, "no build stage in current context")
            .with_hint("only ARG may come before the first FROM")
    }

    pub(crate) fn at_least_one_argument(span: Range<usize>, instruction: &str) -> Self {
        Self::error(span, format!("{instruction} requires at least one argument"))
    }

    pub(crate) fn exactly_one_argument(span: Range<usize>, instruction: &str) -> Self {
        Self::error(span, format!("{instruction} requires exactly one argument"))
    }

    pub(crate) fn not_json(span: Range<usize>, instruction: &str) -> Self {
        Self::error(span, format!("{instruction} requires the arguments to be in JSON form"))
    }

    pub(crate) fn json_not_strings(span: Range<usize>) -> Self {
        Self::error(span, "when using JSON array syntax, arrays must be comprised of strings only")
    }

    pub(crate) fn blank_name(span: Range<usize>, instruction: &str) -> Self {
        Self::error(span, format!("{instruction} names can not be blank"))
    }

    pub(crate) fn two_arguments(span: Range<usize>, instruction: &str) -> Self {
        Self::error(span, format!("{instruction} must have two arguments"))
    }

    pub(crate) fn no_equals_sign(span: Range<usize>, word: &str) -> Self {
        let word = excerpt(word);
        Self::error(
            span,
            format!("Syntax error - can't find = in \"{word}\". Must be of the form: name=value"),
        )
    }

    pub(crate) fn from_arguments(span: Range<usize>) -> Self {
        Self::error(span, "FROM requires either one or three arguments")
            .with_hint("write FROM IMAGE or FROM IMAGE AS NAME")
    }

    pub(crate) fn invalid_stage_name(span: Range<usize>, name: &str) -> Self {
        Self::error(
            span,
            format!(
                "invalid name for build stage: \"{}\", name can't start with a number or contain symbols",
                excerpt(name)
            ),
        )
    }

    pub(crate) fn no_destination(span: Range<usize>, instruction: &str) -> Self {
        Self::error(
            span,
            format!(
                "{instruction} requires at least two arguments, but only one was provided. Destination could not be determined"
            ),
        )
    }

    pub(crate) fn heredoc_destination(span: Range<usize>, instruction: &str) -> Self {
        Self::error(span, format!("{instruction} cannot accept a heredoc as a destination"))
    }

    pub(crate) fn variable_in_from_flag(span: Range<usize>) -> Self {
        Self::error(
            span,
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
        )
        .with_hint("add FROM ${…} AS alias above and use --from=alias")
    }

    pub(crate) fn empty_volume(span: Range<usize>) -> Self {
        Self::error(span, "VOLUME specified can not be an empty string")
    }

    pub(crate) fn chained_onbuild(span: Range<usize>) -> Self {
        Self::error(span, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    }

    pub(crate) fn forbidden_trigger(span: Range<usize>, instruction: &str) -> Self {
        Self::error(span, format!("{instruction} isn't allowed as an ONBUILD trigger"))
    }

    pub(crate) fn not_one_trigger() -> Self {
        Self::error(0..0, "onbuild trigger should be a single expression")
    }

    pub(crate) fn healthcheck_none_arguments(span: Range<usize>) -> Self {
        Self::error(span, "HEALTHCHECK NONE takes no arguments")
    }

    pub(crate) fn healthcheck_no_command(span: Range<usize>) -> Self {
        Self::error(span, "Missing command after HEALTHCHECK CMD")
    }

    pub(crate) fn healthcheck_unknown_type(span: Range<usize>, kind: &str) -> Self {
        Self::error(span, format!("Unknown type \"{}\" in HEALTHCHECK (try CMD)", excerpt(kind)))
    }

    // Flags.

    pub(crate) fn unknown_flag(span: Range<usize>, name: &str, known: &[&str]) -> Self {
        let mut this = Self::error(span, format!("unknown flag: --{}", excerpt(name)));
        this.hint = match nearest(name, known) {
            Some(found) => Some(format!("did you mean --{found}?")),
            None if known.is_empty() => Some("this instruction takes no flags".to_owned()),
            None => None,
        };
        this
    }

    pub(crate) fn flag_without_effect(span: Range<usize>, instruction: &str) -> Self {
        Self::warning(span, format!("{instruction} takes no flags: this one has no effect"))
    }

    pub(crate) fn duplicate_flag(span: Range<usize>, name: &str) -> Self {
        Self::error(span, format!("duplicate flag specified: --{name}"))
    }

    pub(crate) fn flag_without_value(span: Range<usize>, name: &str) -> Self {
        Self::error(span, format!("missing a value on flag: --{name}"))
    }

    pub(crate) fn not_boolean(span: Range<usize>, name: &str, value: &str) -> Self {
        Self::error(span, format!("expecting boolean value for flag --{name}, not: {}", excerpt(value)))
    }

    pub(crate) fn invalid_flag_value(span: Range<usize>, name: &str, reason: &str) -> Self {
        Self::error(span, format!("invalid value for --{name}: {reason}"))
    }

    pub(crate) fn interval_too_short(span: Range<usize>, name: &str) -> Self {
        Self::error(span, format!("Interval \"{name}\" cannot be less than 1ms"))
    }

    pub(crate) fn negative_retries(span: Range<usize>, value: i64) -> Self {
        Self::error(span, format!("--retries cannot be negative ({value})"))
    }
}

/// Of how many candidates the nearest is looked for: each costs the product of the lengths.
pub(crate) const CANDIDATES_MAX: usize = 1_000;

/// The candidate nearest to `name` without regard to case, if it is near enough to be a slip of the fingers.
pub fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    /// Longer names are no typo of anything, and the distance costs the product of the lengths.
    const NAME_CHARS_MAX: usize = 64;
    let name: Vec<char> = name.chars().take(NAME_CHARS_MAX + 1).flat_map(char::to_lowercase).collect();
    if name.is_empty() || name.len() > NAME_CHARS_MAX {
        return None;
    }
    let allowed = (name.len() / 3).clamp(1, 3);
    let near = |candidate: &&'a str| {
        let other: Vec<char> =
            candidate.chars().take(NAME_CHARS_MAX + allowed).flat_map(char::to_lowercase).collect();
        if other.len().abs_diff(name.len()) > allowed {
            return None;
        }
        let distance = edit_distance(&name, &other);
        // One of two letters replaced is another word.
        let is_slip = distance <= allowed && distance * 3 <= name.len().max(other.len());
        is_slip.then_some((distance, *candidate))
    };
    candidates
        .iter()
        .take(CANDIDATES_MAX)
        .filter_map(near)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment).
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// The text for a message: its beginning if it is long.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_fingers_are_found_and_nothing_else() {
        let known = ["FROM", "RUN", "COPY", "ENTRYPOINT", "ENV", "EXPOSE"];
        for (name, expected) in [
            ("FORM", Some("FROM")),
            ("form", Some("FROM")),
            ("ENTRYPONT", Some("ENTRYPOINT")),
            ("COPPY", Some("COPY")),
            ("EXPSOE", Some("EXPOSE")),
            ("apt-get", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
        for (name, known, expected) in [
            ("a", "b", None),
            ("a", "A", Some("A")),
            ("a", "ab", None),
            ("ro", "rw", None),
            ("or", "ro", None),
            ("sr", "src", Some("src")),
            ("scr", "src", Some("src")),
            ("a", "abc", None),
            ("gdi", "gid", Some("gid")),
            ("stage", "stage-final", None),
        ] {
            assert_eq!(nearest(name, &[known]), expected, "{name}");
        }
        assert_eq!(nearest(&"R".repeat(10_000), &known), None);
    }
}
