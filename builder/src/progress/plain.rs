//! The `plain` renderer: lines in BuildKit's shapes, for logs and for programs that read them.
//!
//! Lines of one step stay together: while it is shown, what others write is held back until it ends or has been
//! shown for a while. When output leaves a step that still runs, `#N ...` says so.

use std::collections::HashMap;
use std::time::Duration;

use wharf_solver::progress::Outcome;

use super::steps::{Change, LogLine, Steps, log_time, one_line, seconds};

/// How long a running step keeps the output to itself while others have something to say.
const SWITCH_AFTER: Duration = Duration::from_secs(1);

/// How often an unfinished transfer is shown.
const TRANSFER_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Plain {
    /// Numbers of the steps that were shown.
    numbers: HashMap<usize, usize>,
    /// The running step whose lines are being shown, and since when.
    current: Option<(usize, Duration)>,
    /// What other steps have to say, the longest waiting first.
    held: Vec<Said>,
    /// When each unfinished transfer was last shown.
    transfers_shown: HashMap<(usize, String), Duration>,
}

/// Lines of a step, without their number.
#[derive(Debug)]
struct Said {
    step: usize,
    lines: Vec<String>,
    /// The step says nothing more.
    last: bool,
}

impl Plain {
    pub(super) fn changed(&mut self, steps: &Steps, at: Duration, change: &Change, out: &mut String) {
        let log = |lines: &[LogLine]| -> Vec<String> {
            lines.iter().map(|line| format!("{} {}", log_time(line.at), line.text)).collect()
        };
        let said = match change {
            Change::Started(step) => Said { step: *step, lines: vec![], last: false },
            Change::Log(_, lines) if lines.is_empty() => return,
            Change::Log(step, lines) => Said { step: *step, lines: log(lines), last: false },
            Change::Transfer(step, id) => {
                let Some(line) = self.transfer(steps, at, *step, id) else { return };
                Said { step: *step, lines: vec![line], last: false }
            }
            Change::Completed(step, lines) => {
                let mut lines = log(lines);
                lines.extend(ending(steps, *step));
                Said { step: *step, lines, last: true }
            }
            Change::Warning => return,
        };
        self.say(steps, at, said, out);
        self.tick(steps, at, out);
    }

    /// Gives others their turn.
    pub(super) fn tick(&mut self, steps: &Steps, now: Duration, out: &mut String) {
        if let Some((step, since)) = self.current
            && !self.held.is_empty()
            && now.saturating_sub(since) >= SWITCH_AFTER
        {
            self.leave(step, out);
            self.say_held(steps, now, out);
        }
    }

    pub(super) fn finish(&mut self, steps: &Steps, out: &mut String) {
        while !self.held.is_empty() {
            if let Some((step, _)) = self.current {
                self.leave(step, out);
            }
            self.say_held(steps, Duration::ZERO, out);
        }
        steps.warnings(out);
    }

    fn say(&mut self, steps: &Steps, at: Duration, said: Said, out: &mut String) {
        match self.current {
            Some((step, _)) if step != said.step => {
                match self.held.iter_mut().find(|held| held.step == said.step) {
                    Some(held) => {
                        held.lines.extend(said.lines);
                        held.last |= said.last;
                    }
                    None => self.held.push(said),
                }
            }
            _ => {
                self.write(steps, at, said, out);
                self.say_held(steps, at, out);
            }
        }
    }

    /// Shows what was held back, up to the first step that has more to say.
    fn say_held(&mut self, steps: &Steps, at: Duration, out: &mut String) {
        while self.current.is_none() && !self.held.is_empty() {
            let said = self.held.remove(0);
            self.write(steps, at, said, out);
        }
    }

    fn write(&mut self, steps: &Steps, at: Duration, said: Said, out: &mut String) {
        let first_of_all = self.numbers.is_empty();
        let next = self.numbers.len() + 1;
        let number = *self.numbers.entry(said.step).or_insert(next);
        if self.current.is_none() {
            if !first_of_all {
                out.push('\n');
            }
            out.push_str(&format!("#{number} {}\n", steps.all()[said.step].name));
            self.current = Some((said.step, at));
        }
        for line in said.lines {
            out.push_str(&format!("#{number} {line}\n"));
        }
        if said.last {
            self.current = None;
        }
    }

    fn leave(&mut self, step: usize, out: &mut String) {
        out.push_str(&format!("#{} ...\n", self.numbers[&step]));
        self.current = None;
    }

    /// The line of a transfer, if it is time to show it.
    fn transfer(&mut self, steps: &Steps, at: Duration, step: usize, id: &str) -> Option<String> {
        let transfer = steps.all()[step].transfers.get(id)?;
        let shown = self.transfers_shown.get(&(step, id.to_owned()));
        let due = shown.is_none_or(|shown| at.saturating_sub(*shown) >= TRANSFER_INTERVAL);
        if !due && !transfer.done {
            return None;
        }
        self.transfers_shown.insert((step, id.to_owned()), at);
        Some(format!("{id}{}", transfer.amounts()))
    }
}

fn ending(steps: &Steps, step: usize) -> Option<String> {
    let step = &steps.all()[step];
    let (at, outcome) = step.ended.as_ref()?;
    Some(match outcome {
        Outcome::Done => format!("DONE {}", seconds(step.elapsed(*at))),
        Outcome::Cached => "CACHED".to_owned(),
        Outcome::Cancelled => "CANCELED".to_owned(),
        Outcome::Failed(why) => format!("ERROR: {}", one_line(why)),
    })
}
