//! Patterns with special characters: parsed into parts and matched by following all ways through them at once, so that
//! the time is the product of the lengths whatever the pattern.

/// More parts than a path that a kernel takes has bytes.
const PARTS_MAX: usize = 16 << 10;

const MALFORMED: &str = "syntax error in pattern";

/// A pattern's elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Char(char),
    /// `?`
    AnyChar,
    /// `*`
    AnyChars,
    /// `**` or `**/`
    AnyPath,
    /// `[…]`
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Splits a pattern, with the syntax errors of Go's `filepath.Match`.
pub(super) fn parse(pattern: &str) -> Result<Vec<Part>, &'static str> {
    let mut parts = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        parts.push(match char {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                Part::AnyPath
            }
            '*' => Part::AnyChars,
            '?' => Part::AnyChar,
            '\\' => Part::Char(chars.next().ok_or(MALFORMED)?),
            '[' => class(&mut chars)?,
            char => Part::Char(char),
        });
    }
    Ok(parts)
}

/// A class after its `[`.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Part, &'static str> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Part::Class { negated, ranges });
        }
        let low = class_char(chars).ok_or(MALFORMED)?;
        let high = match chars.next_if_eq(&'-') {
            Some(_) => class_char(chars).ok_or(MALFORMED)?,
            None => low,
        };
        if low > high {
            return Err(MALFORMED);
        }
        ranges.push((low, high));
    }
}

/// A character of a class, perhaps escaped. `-` and `]` must be.
fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        char => Some(char),
    }
}

/// A pattern ready to match.
#[derive(Debug, Clone)]
pub(super) struct Glob {
    steps: Vec<Step>,
}

/// What may come next. Each step stands for one position in the pattern.
#[derive(Debug, Clone)]
enum Step {
    Char(char),
    AnyChar,
    /// Any number of characters of one component.
    Within,
    /// Begins `**/`: nothing at all, or what `UpToSlash` takes.
    Directories,
    /// Any characters, the last of them a slash.
    UpToSlash,
    /// `**` at the end.
    Rest,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    pub(super) fn new(parts: Vec<Part>) -> Result<Self, &'static str> {
        if parts.len() > PARTS_MAX {
            return Err("the pattern is too long");
        }
        let last = parts.len().saturating_sub(1);
        let mut steps = Vec::with_capacity(parts.len());
        for (index, part) in parts.into_iter().enumerate() {
            let step = match part {
                Part::Char(char) => Step::Char(char),
                Part::AnyChar => Step::AnyChar,
                Part::AnyChars => Step::Within,
                Part::AnyPath if index == last => Step::Rest,
                Part::AnyPath => {
                    steps.push(Step::Directories);
                    Step::UpToSlash
                }
                Part::Class { negated, ranges } => Step::Class { negated, ranges },
            };
            steps.push(step);
        }
        Ok(Self { steps })
    }

    /// Whether it matches the whole of `text`.
    pub(super) fn matches(&self, text: &str) -> bool {
        let count = self.steps.len();
        let mut here = vec![false; count + 1];
        let mut next = vec![false; count + 1];
        here[0] = true;
        self.pass_empty(&mut here);
        for char in text.chars() {
            next.fill(false);
            for (at, step) in self.steps.iter().enumerate().filter(|(at, _)| here[*at]) {
                match step {
                    Step::Char(wanted) => next[at + 1] |= char == *wanted,
                    Step::AnyChar => next[at + 1] |= char != '/',
                    Step::Within => next[at] |= char != '/',
                    Step::Directories => {}
                    Step::UpToSlash => {
                        next[at] |= char != '\n';
                        next[at + 1] |= char == '/';
                    }
                    Step::Rest => next[at] |= char != '\n',
                    Step::Class { negated, ranges } => {
                        let within = ranges.iter().any(|(low, high)| (*low..=*high).contains(&char));
                        next[at + 1] |= within != *negated;
                    }
                }
            }
            self.pass_empty(&mut next);
            std::mem::swap(&mut here, &mut next);
            if !here.contains(&true) {
                return false;
            }
        }
        here[count]
    }

    /// Goes on past the steps that may take nothing.
    fn pass_empty(&self, at: &mut [bool]) {
        for (index, step) in self.steps.iter().enumerate() {
            match step {
                Step::Within | Step::Rest => at[index + 1] |= at[index],
                Step::Directories => {
                    at[index + 1] |= at[index];
                    at[index + 2] |= at[index];
                }
                _ => {}
            }
        }
    }

    /// The longest text that every match holds; empty if there is none.
    pub(super) fn required_text(&self) -> String {
        let (mut longest, mut current) = (String::new(), String::new());
        for step in &self.steps {
            match step {
                Step::Char(char) => current.push(*char),
                _ => current.clear(),
            }
            if current.len() > longest.len() {
                longest.clone_from(&current);
            }
        }
        longest
    }
}
