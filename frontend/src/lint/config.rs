//! `check=skip=A,B;error=true;experimental=C`: which rules speak, and whether they stop the build.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Rule;
use crate::Diagnostic;
use crate::diagnostic::{excerpt, nearest};
use crate::parser::Token;

const KEYS: [&str; 3] = ["skip", "error", "experimental"];

/// The value of one `check` directive, comment or build argument.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Config {
    skip: Rules,
    experimental: Rules,
    /// Whether a violation stops the build.
    pub(super) error: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rules {
    all: bool,
    named: BTreeSet<Rule>,
}

impl Config {
    /// Reads a value. Where it is wrong there is an error; names of rules that are not known are only warned of.
    pub(super) fn parse(value: &Token, problems: &mut Vec<Diagnostic>) -> Self {
        let mut this = Self::default();
        if value.text.trim().is_empty() {
            return this;
        }
        for part in split(value, &(0..value.text.len()), ';') {
            let text = &value.text[part.clone()];
            let Some((key, setting)) = text.split_once('=') else {
                problems.push(invalid_option(value, &part));
                continue;
            };
            let setting = part.start + key.len() + 1..part.start + key.len() + 1 + setting.len();
            match key.trim() {
                "skip" => this.skip = Rules::parse(value, &setting, problems),
                "experimental" => this.experimental = Rules::parse(value, &setting, problems),
                "error" => match parse_bool(value.text[setting.clone()].trim()) {
                    Some(error) => this.error = error,
                    None => problems.push(invalid_bool(value, &part, &setting)),
                },
                _ => problems.push(invalid_option(value, &(part.start..part.start + key.len()))),
            }
        }
        this
    }

    /// Whether a rule speaks. An experimental one must have been asked for by name or with all of its kind, and is
    /// silenced by name only.
    pub(super) fn allows(&self, rule: Rule) -> bool {
        if self.skip.named.contains(&rule) {
            return false;
        }
        if rule.is_experimental() {
            return self.experimental.all || self.experimental.named.contains(&rule);
        }
        !self.skip.all
    }

    /// This one with what a comment above an instruction adds; `error` is for the whole file alone.
    pub(super) fn merged(&self, comment: &Self) -> Self {
        Self {
            skip: self.skip.merged(&comment.skip),
            experimental: self.experimental.merged(&comment.experimental),
            error: self.error,
        }
    }
}

impl Rules {
    fn parse(value: &Token, list: &Range<usize>, problems: &mut Vec<Diagnostic>) -> Self {
        let mut this = Self::default();
        if value.text[list.clone()].trim() == "all" {
            this.all = true;
            return this;
        }
        for name in split(value, list, ',') {
            let text = &value.text[name.clone()];
            match Rule::from_name(text) {
                Some(rule) => drop(this.named.insert(rule)),
                None if text.is_empty() => {}
                None => {
                    let names = Rule::ALL.map(Rule::name);
                    let message = format!("there is no check called {:?}", excerpt(text));
                    problems.push(
                        Diagnostic::warning(place(value, &name), message).with_suggestion(text, &names),
                    );
                }
            }
        }
        this
    }

    fn merged(&self, other: &Self) -> Self {
        Self { all: self.all || other.all, named: self.named.union(&other.named).copied().collect() }
    }
}

/// The parts of `range` between separators, trimmed.
fn split(value: &Token, range: &Range<usize>, separator: char) -> Vec<Range<usize>> {
    let mut start = range.start;
    let parts = value.text[range.clone()].split(separator).map(|part| {
        let trimmed = start + (part.len() - part.trim_start().len());
        start += part.len() + separator.len_utf8();
        trimmed..trimmed + part.trim().len()
    });
    parts.collect()
}

/// The place of a part of a value; the whole of it where its text is not what stands in the file.
fn place(value: &Token, part: &Range<usize>) -> Range<usize> {
    if value.span.len() == value.text.len() {
        value.span.start + part.start..value.span.start + part.end
    } else {
        value.span.clone()
    }
}

fn invalid_option(value: &Token, part: &Range<usize>) -> Diagnostic {
    let text = value.text[part.clone()].trim();
    let problem = Diagnostic::error(place(value, part), format!("invalid check option {:?}", excerpt(text)));
    match nearest(text, &KEYS) {
        Some(key) if key != text => problem.with_hint(format!("did you mean {key}?")),
        _ => problem.with_hint("write skip=RULE,…;error=true;experimental=RULE,…"),
    }
}

fn invalid_bool(value: &Token, part: &Range<usize>, setting: &Range<usize>) -> Diagnostic {
    let (option, text) = (&value.text[part.clone()], value.text[setting.clone()].trim());
    Diagnostic::error(
        place(value, setting),
        format!(
            "failed to parse check option {:?}: {:?} is not true or false",
            excerpt(option),
            excerpt(text)
        ),
    )
}

/// Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Config, Vec<(String, String)>) {
        let mut problems = Vec::new();
        let token = Token { text: text.to_owned(), span: 0..text.len() };
        let config = Config::parse(&token, &mut problems);
        let problems = problems.into_iter().map(|problem| {
            let severity = if problem.is_error() { "error" } else { "warning" };
            let hint = problem.hint.map_or(String::new(), |hint| format!(" ({hint})"));
            (text[problem.span].to_owned(), format!("{severity}: {}{hint}", problem.message))
        });
        (config, problems.collect())
    }

    #[track_caller]
    fn check(text: &str, silent: &[Rule], is_error: bool) {
        let (config, problems) = parse(text);
        assert_eq!(problems, [], "{text}");
        let found: Vec<Rule> = Rule::ALL.into_iter().filter(|rule| !config.allows(*rule)).collect();
        assert_eq!((&*found, config.error), (silent, is_error), "{text}");
    }

    #[test]
    fn options_choose_rules() {
        use Rule::{InvalidDefinitionDescription as Experimental, StageNameCasing, UndefinedVar};
        let all: Vec<Rule> = Rule::ALL.into_iter().filter(|rule| *rule != Experimental).collect();
        check("", &[Experimental], false);
        check("skip=UndefinedVar", &[Experimental, UndefinedVar], false);
        check(
            " skip = StageNameCasing , UndefinedVar ",
            &[Experimental, StageNameCasing, UndefinedVar],
            false,
        );
        check("skip=", &[Experimental], false);
        check("skip=all", &Rule::ALL, false);
        check("experimental=all", &[], false);
        check("experimental=InvalidDefinitionDescription", &[], false);
        check("skip=all;experimental=all;error=true", &all, true);
        check("skip=InvalidDefinitionDescription;experimental=all", &[Experimental], false);
        check("error=1", &[Experimental], true);
        check("error=true;error=F", &[Experimental], false);
    }

    #[test]
    fn wrong_options_are_told_where_they_stand() {
        for (text, place, message) in [
            (
                "skip",
                "skip",
                "error: invalid check option \"skip\" (write skip=RULE,…;error=true;experimental=RULE,…)",
            ),
            ("error=true; skpi=all", "skpi", "error: invalid check option \"skpi\" (did you mean skip?)"),
            (
                "error=maybe",
                "maybe",
                "error: failed to parse check option \"error=maybe\": \"maybe\" is not true or false",
            ),
            (
                "skip=UndefinedVars",
                "UndefinedVars",
                "warning: there is no check called \"UndefinedVars\" (did you mean UndefinedVar?)",
            ),
            ("skip=a, nothing", "a", "warning: there is no check called \"a\""),
        ] {
            let (_, problems) = parse(text);
            assert_eq!(problems.first(), Some(&(place.to_owned(), message.to_owned())), "{text}");
        }
    }
}
