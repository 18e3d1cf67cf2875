//! What is known of the steps so far: the renderers' common memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use wharf_solver::llb::VertexDigest;
use wharf_solver::progress::{Event, LogStream, Outcome};

use super::log::{Lines, printable};

/// How many of a step's last lines are kept for error messages.
const TAIL_LINES_MAX: usize = 20;

/// All steps in the order in which they were first heard of.
#[derive(Debug, Default)]
pub(super) struct Steps {
    steps: Vec<Step>,
    index_of: HashMap<VertexDigest, usize>,
    warnings: Vec<String>,
}

/// A vertex, or an internal step.
#[derive(Debug)]
pub(super) struct Step {
    /// Display name, fit to be shown.
    pub(super) name: String,
    pub(super) started: Option<Duration>,
    pub(super) ended: Option<(Duration, Outcome)>,
    /// Transfers by id.
    pub(super) transfers: BTreeMap<String, Transfer>,
    tail: VecDeque<LogLine>,
    stdout: Lines,
    stderr: Lines,
}

/// A line that a step wrote, and how long after the step's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogLine {
    pub(super) at: Duration,
    pub(super) text: String,
}

/// How far a download or upload is.
#[derive(Debug, Clone)]
pub(super) struct Transfer {
    pub(super) started: Duration,
    pub(super) now: Duration,
    pub(super) current: u64,
    pub(super) total: Option<u64>,
    pub(super) done: bool,
}

/// What an event changed: which step, and how.
#[derive(Debug)]
pub(super) enum Change {
    Started(usize),
    Log(usize, Vec<LogLine>),
    Transfer(usize, String),
    /// Also the lines that ended only with the step.
    Completed(usize, Vec<LogLine>),
    Warning,
}

impl Steps {
    /// Takes an event.
    pub(super) fn apply(&mut self, at: Duration, event: Event) -> Change {
        match event {
            Event::Started { vertex, name } => {
                let index = self.index(vertex, &name);
                let step = &mut self.steps[index];
                // One that had ended begins again: the build is solved anew.
                if step.ended.take().is_some() {
                    step.started = None;
                }
                step.started.get_or_insert(at);
                Change::Started(index)
            }
            Event::Log { vertex, stream, data } => {
                let index = self.index(vertex, &vertex.to_string());
                let step = &mut self.steps[index];
                let lines = match stream {
                    LogStream::Stdout => step.stdout.feed(&data),
                    LogStream::Stderr => step.stderr.feed(&data),
                };
                Change::Log(index, step.keep(at, lines))
            }
            Event::Status { vertex, id, current, total, done } => {
                let index = self.index(vertex, &vertex.to_string());
                let id = printable(&id);
                let transfer = Transfer { started: at, now: at, current, total, done };
                self.steps[index]
                    .transfers
                    .entry(id.clone())
                    .and_modify(|known| *known = Transfer { started: known.started, ..transfer.clone() })
                    .or_insert(transfer);
                Change::Transfer(index, id)
            }
            Event::Completed { vertex, name, outcome } => {
                let index = self.index(vertex, &name);
                let step = &mut self.steps[index];
                let rest = [step.stdout.end(), step.stderr.end()].into_iter().flatten().collect();
                let lines = step.keep(at, rest);
                step.ended = Some((at, outcome));
                Change::Completed(index, lines)
            }
            Event::Warning { message } => {
                let message = printable_lines(&message);
                if !self.warnings.contains(&message) {
                    self.warnings.push(message);
                }
                Change::Warning
            }
        }
    }

    pub(super) fn all(&self) -> &[Step] {
        &self.steps
    }

    /// The last lines of a vertex.
    pub(super) fn tail(&self, vertex: &VertexDigest) -> Vec<String> {
        let lines = self.index_of.get(vertex).map(|&index| self.steps[index].tail());
        lines.into_iter().flatten().map(|line| line.text).collect()
    }

    /// The steps that failed and their last lines, as a block to end the output with.
    pub(super) fn failures(&self, out: &mut String) {
        for step in &self.steps {
            let Some((_, Outcome::Failed(_))) = step.ended else { continue };
            let lines = step.tail();
            if lines.is_empty() {
                continue;
            }
            out.push_str(&format!("------\n > {}:\n", step.name));
            for line in lines {
                out.push_str(&format!("{} {}\n", log_time(line.at), line.text));
            }
            out.push_str("------\n");
        }
    }

    /// The warnings, each once.
    pub(super) fn warnings(&self, out: &mut String) {
        if self.warnings.is_empty() {
            return;
        }
        let plural = if self.warnings.len() == 1 { "" } else { "s" };
        out.push_str(&format!("\n {} warning{plural} found:\n", self.warnings.len()));
        for warning in &self.warnings {
            out.push_str(&format!("{warning}\n"));
        }
    }

    fn index(&mut self, vertex: VertexDigest, name: &str) -> usize {
        *self.index_of.entry(vertex).or_insert_with(|| {
            self.steps.push(Step {
                name: one_line(name),
                started: None,
                ended: None,
                transfers: BTreeMap::new(),
                tail: VecDeque::new(),
                stdout: Lines::default(),
                stderr: Lines::default(),
            });
            self.steps.len() - 1
        })
    }
}

impl Step {
    pub(super) fn is_running(&self) -> bool {
        self.started.is_some() && self.ended.is_none()
    }

    /// How long it took, or has taken so far.
    pub(super) fn elapsed(&self, now: Duration) -> Duration {
        let end = self.ended.as_ref().map_or(now, |(at, _)| *at);
        self.started.map_or(Duration::ZERO, |started| end.saturating_sub(started))
    }

    /// The last lines, the unfinished ones too.
    pub(super) fn tail(&self) -> Vec<LogLine> {
        let at = self.tail.back().map_or(Duration::ZERO, |line| line.at);
        let partial = [self.stdout.partial(), self.stderr.partial()];
        let partial = partial.into_iter().flatten().map(|text| LogLine { at, text });
        self.tail.iter().cloned().chain(partial).collect()
    }

    fn keep(&mut self, at: Duration, lines: Vec<String>) -> Vec<LogLine> {
        let at = self.started.map_or(Duration::ZERO, |started| at.saturating_sub(started));
        let lines: Vec<LogLine> = lines.into_iter().map(|text| LogLine { at, text }).collect();
        self.tail.extend(lines.iter().rev().take(TAIL_LINES_MAX).rev().cloned());
        let surplus = self.tail.len().saturating_sub(TAIL_LINES_MAX);
        self.tail.drain(..surplus);
        lines
    }
}

/// Several lines as one, fit to be shown.
pub(super) fn one_line(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| printable(line).trim().to_owned()).collect();
    lines.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A text of several lines without control characters.
fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| printable(line).trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Seconds with four digits in all: `0.123`, `12.34`, `123.4`.
pub(super) fn log_time(at: Duration) -> String {
    let seconds = at.as_secs_f64();
    let decimals = match seconds {
        _ if seconds < 10.0 => 3,
        _ if seconds < 100.0 => 2,
        _ => 1,
    };
    format!("{seconds:.decimals$}")
}

/// `0.4s`.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

impl Transfer {
    /// ` 1.20MB / 3.40MB 0.5s done`, as far as it is known.
    pub(super) fn amounts(&self) -> String {
        let mut text = match self.total {
            Some(total) => format!(" {} / {}", bytes(self.current), bytes(total)),
            None if self.current > 0 => format!(" {}", bytes(self.current)),
            None => String::new(),
        };
        let elapsed = self.now.saturating_sub(self.started);
        if elapsed > Duration::from_millis(10) {
            text.push_str(&format!(" {}", seconds(elapsed)));
        }
        if self.done {
            text.push_str(" done");
        }
        text
    }
}

/// `31B`, `1.20MB`: decimal units, two digits after the point.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count}B");
    }
    let mut amount = count as f64 / 1000.0;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    format!("{amount:.2}{}", UNITS[unit])
}
