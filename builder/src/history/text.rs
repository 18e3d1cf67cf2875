//! Steps and their reasons as text.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::asked::words;
use super::explain::{Explained, ExplainedBuild};
use super::plan::{Plan, Verdict};
use super::{ComparedWith, End};
use crate::progress::printable;
use crate::remote::imports::Unused;

/// Reasons that are shown of one step; JSON has all.
const REASONS_SHOWN_MAX: usize = 20;

/// A longer value is cut in the middle of a line; JSON has all of it.
const REASON_CHARS_MAX: usize = 400;

/// `--explain`: every step, and why it ran.
pub fn build(build: &ExplainedBuild) -> String {
    let mut text = format!("explain: build {}\n", build.build);
    text.push_str(&steps(build));
    text
}

/// The steps of a build.
pub fn steps(build: &ExplainedBuild) -> String {
    let end = |step: &Explained| match (step.outcome, step.duration_ms) {
        (End::Ran | End::Failed | End::Cancelled, Some(took)) => {
            format!("{} {}", step.outcome.word(), duration(took))
        }
        _ => step.outcome.word().to_owned(),
    };
    table(&build.steps, end) + &not_used(&build.caches_not_used)
}

/// `--plan`: every step, and why it would run.
pub fn plan(plan: &Plan) -> String {
    let verdict = |step: &Explained<Verdict>| {
        let word = step.outcome.word();
        match step.predicted_ms {
            Some(took) => format!("{word} ~{}", duration(took)),
            None => word.to_owned(),
        }
    };
    let mut text = table(&plan.steps, verdict) + &not_used(&plan.caches_not_used);
    let _ = match (plan.would_run, plan.might_run) {
        (0, 0) => writeln!(text, "nothing would run"),
        (sure, 0) => writeln!(text, "{} would run{}", count(sure), total(plan)),
        (0, maybe) => writeln!(text, "{} might run{}", count(maybe), total(plan)),
        (sure, maybe) => writeln!(text, "{} would run, {maybe} more might{}", count(sure), total(plan)),
    };
    text
}

/// The remote caches that nobody could be asked for.
fn not_used(caches: &[Unused]) -> String {
    let cache = |Unused { place, reason }: &Unused| {
        format!("{}\n", line(&format!("the cache in {place} was not used: {reason}")))
    };
    caches.iter().map(cache).collect()
}

fn count(steps: usize) -> String {
    format!("{steps} step{}", if steps == 1 { "" } else { "s" })
}

fn total(plan: &Plan) -> String {
    let unknown = match plan.unknown {
        0 => String::new(),
        steps => format!(", and {} that never ran", count(steps)),
    };
    let (least, most) = (duration(plan.least_ms), duration(plan.most_ms));
    match least == most {
        true => format!(": about {least}{unknown}"),
        false => format!(": about {least} to {most}{unknown}"),
    }
}

/// Numbers, what becomes of each step, names; below each its reasons.
fn table<O>(steps: &[Explained<O>], end: impl Fn(&Explained<O>) -> String) -> String {
    let ends: Vec<String> = steps.iter().map(end).collect();
    let end_width = ends.iter().map(|end| end.chars().count()).max().unwrap_or(0);
    let number_width = steps.len().to_string().len();
    let common: Option<&ComparedWith> = steps.iter().find_map(|step| step.compared_with.as_ref());
    let mut text = String::new();
    for (step, end) in steps.iter().zip(&ends) {
        let _ = writeln!(text, "{:>number_width$}  {end:end_width$}  {}", step.step, line(&step.name));
        let indent = " ".repeat(number_width + 2 + end_width + 4);
        if let Some(asked) = words(&step.asked) {
            let _ = writeln!(text, "{indent}{}", line(&asked));
        }
        for reason in step.reasons.iter().take(REASONS_SHOWN_MAX) {
            let _ = writeln!(text, "{indent}{}", line(reason.text()));
        }
        match step.reasons.len().saturating_sub(REASONS_SHOWN_MAX) + step.more_files {
            0 => {}
            more => {
                let _ = writeln!(text, "{indent}… and {more} more");
            }
        }
        if let Some(with) = step.compared_with.as_ref().filter(|with| Some(*with) != common) {
            let _ = writeln!(text, "{indent}(compared with {with})");
        }
    }
    if let Some(common) = common {
        let _ = writeln!(text, "compared with {common}");
    }
    text
}

/// As JSON, fit to be shown: serde escapes no more control characters than JSON wants.
pub fn json(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let json = serde_json::to_string_pretty(value)?;
    let mut shown = String::with_capacity(json.len());
    for char in json.chars() {
        match char.is_control() && char != '\n' {
            // It is in a string: nowhere else JSON has one.
            true => _ = write!(shown, "\\u{:04x}", u32::from(char)),
            false => shown.push(char),
        }
    }
    Ok(shown)
}

/// One line, fit to be shown.
pub(super) fn line(text: &str) -> String {
    let shown: String = text.lines().map(printable).collect::<Vec<_>>().join(" ");
    let count = shown.chars().count();
    if count <= REASON_CHARS_MAX {
        return shown;
    }
    let first: String = shown.chars().take(REASON_CHARS_MAX / 2).collect();
    let last: String = shown.chars().skip(count - REASON_CHARS_MAX / 2).collect();
    format!("{first} … {last}")
}

/// Milliseconds as `0.1s`, `12.3s`, `3m05s`.
pub fn duration(ms: f64) -> String {
    let time = Duration::from_secs_f64((ms / 1000.0).max(0.0));
    let seconds = time.as_secs();
    match seconds {
        0 if ms < 100.0 => format!("{}ms", ms.max(0.0).round()),
        0..60 => format!("{:.1}s", time.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (ms, expected) in [
            (0.4, "0ms"),
            (12.6, "13ms"),
            (120.0, "0.1s"),
            (59_900.0, "59.9s"),
            (185_000.0, "3m05s"),
            (3_700_000.0, "1h01m"),
            (-1.0, "0ms"),
        ] {
            assert_eq!(duration(ms), expected);
        }
    }

    #[test]
    fn lines_are_fit_to_be_shown() {
        assert_eq!(line("a\nb\u{1b}[31mc"), "a bc");
        assert!(line(&"x".repeat(10_000)).chars().count() < REASON_CHARS_MAX + 10);
    }
}
