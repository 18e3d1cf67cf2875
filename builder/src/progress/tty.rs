//! The `tty` renderer: a region at the bottom of the terminal, drawn again and again; at the end all steps, once.

use std::time::Duration;

use wharf_solver::progress::Outcome;

use super::steps::{Step, Steps, seconds};

const HIDE_CURSOR: &str = "\u{1b}[?25l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";
const ERASE_LINE_REST: &str = "\u{1b}[K";
const ERASE_BELOW: &str = "\u{1b}[J";

/// At most this many lines of output are shown of each running step.
const DETAIL_ROWS_MAX: usize = 6;

/// Size of the terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

impl Default for Size {
    /// What terminals that do not tell are taken for.
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}

#[derive(Debug, Default)]
pub(super) struct Tty {
    /// Rows of the region that is on the screen; the cursor is below the last one.
    drawn: Option<usize>,
}

impl Tty {
    /// Draws the region over the one before.
    pub(super) fn draw(&mut self, steps: &Steps, now: Duration, size: Size, out: &mut String) {
        if steps.all().is_empty() {
            return;
        }
        if self.drawn.is_none() {
            out.push_str(HIDE_CURSOR);
        }
        self.back_to_begin(out);
        let rows = region(steps, now, size);
        for row in &rows {
            out.push_str(row);
            out.push_str(ERASE_LINE_REST);
            out.push('\n');
        }
        out.push_str(ERASE_BELOW);
        self.drawn = Some(rows.len());
    }

    /// Replaces the region by every step, once, and what has to be said at the end.
    pub(super) fn finish(&mut self, steps: &Steps, now: Duration, size: Size, out: &mut String) {
        self.back_to_begin(out);
        if self.drawn.is_some() {
            out.push_str(ERASE_BELOW);
        }
        if !steps.all().is_empty() {
            out.push_str(&header(steps, now));
            out.push_str(" FINISHED\n");
            for step in steps.all() {
                out.push_str(&step_row(step, now, size.columns));
                out.push('\n');
            }
        }
        steps.failures(out);
        steps.warnings(out);
        if self.drawn.take().is_some() {
            out.push_str(SHOW_CURSOR);
        }
    }

    fn back_to_begin(&self, out: &mut String) {
        match self.drawn {
            None | Some(0) => {}
            // To the begin of the line that many lines up.
            Some(rows) => out.push_str(&format!("\u{1b}[{rows}F")),
        }
    }
}

/// The rows of the region: a header, then the steps. What runs comes before what is finished when not all fits, and
/// output of running steps fills what is left.
fn region(steps: &Steps, now: Duration, size: Size) -> Vec<String> {
    // One row is the header, one is the cursor's.
    let room = size.rows.saturating_sub(2).max(1);
    let (ended, unended): (Vec<&Step>, Vec<&Step>) =
        steps.all().iter().partition(|step| step.ended.is_some());
    let running: Vec<&Step> = unended.into_iter().filter(|step| step.is_running()).collect();
    let mut rows = vec![clip(&header(steps, now), size.columns)];

    let running_rows = if running.len() > room { room - 1 } else { running.len() };
    let ended_room = room - running_rows.min(room);
    let folded = if ended.len() > ended_room { ended.len() - ended_room.saturating_sub(1) } else { 0 };
    if folded > 0 && ended_room > 0 {
        let cached = ended[..folded].iter().filter(|step| matches!(step.ended, Some((_, Outcome::Cached))));
        let row = format!(" => {folded} more steps finished, {} of them cached", cached.count());
        rows.push(clip(&row, size.columns));
    }
    rows.extend(ended[folded..].iter().map(|step| step_row(step, now, size.columns)));

    let left = (room + 1).saturating_sub(rows.len() + running_rows);
    let detail_rows = left.checked_div(running_rows).unwrap_or(0).min(DETAIL_ROWS_MAX);
    for step in &running[..running_rows] {
        rows.push(step_row(step, now, size.columns));
        rows.extend(details(step, detail_rows).into_iter().map(|row| clip(&row, size.columns)));
    }
    if running.len() > running_rows {
        rows.push(clip(&format!(" => {} more steps running", running.len() - running_rows), size.columns));
    }
    rows
}

fn header(steps: &Steps, now: Duration) -> String {
    let ended = steps.all().iter().filter(|step| step.ended.is_some()).count();
    format!("[+] Building {} ({ended}/{})", seconds(now), steps.all().len())
}

/// ` => CACHED [build 1/4] WORKDIR /src          0.0s`
fn step_row(step: &Step, now: Duration, columns: usize) -> String {
    let prefix = match &step.ended {
        None | Some((_, Outcome::Done)) => "",
        Some((_, Outcome::Cached)) => "CACHED ",
        Some((_, Outcome::Cancelled)) => "CANCELED ",
        Some((_, Outcome::Failed(_))) => "ERROR ",
    };
    let time = seconds(step.elapsed(now));
    let left = clip(&format!(" => {prefix}{}", step.name), columns.saturating_sub(time.len() + 2));
    let gap = columns.saturating_sub(width(&left) + time.len() + 1).max(1);
    clip(&format!("{left}{}{time}", " ".repeat(gap)), columns)
}

/// What a running step is doing: its unfinished transfers, then its last lines.
fn details(step: &Step, rows: usize) -> Vec<String> {
    let transfers = step.transfers.iter().filter(|(_, transfer)| !transfer.done);
    let transfers = transfers.map(|(id, transfer)| format!(" => => {}{}", short(id), transfer.amounts()));
    let mut details: Vec<String> = transfers.take(rows).collect();
    let tail = step.tail();
    let lines = tail.iter().rev().filter(|line| !line.text.trim().is_empty()).take(rows - details.len());
    let mut lines: Vec<String> = lines.map(|line| format!(" => => # {}", line.text)).collect();
    lines.reverse();
    details.append(&mut lines);
    details
}

/// A digest's algorithm and first digits; other ids as they are.
fn short(id: &str) -> &str {
    const DIGITS: usize = 12;
    match id.strip_prefix("sha256:") {
        Some(hex) if hex.len() > DIGITS && hex.is_ascii() => &id[.."sha256:".len() + DIGITS],
        _ => id,
    }
}

/// As much of a text as fits into a row with one column to spare, so that no terminal wraps it; tabs as spaces.
fn clip(text: &str, columns: usize) -> String {
    let room = columns.saturating_sub(1);
    let mut clipped = String::with_capacity(text.len());
    let mut used = 0;
    for char in text.chars() {
        let (char, times) = if char == '\t' { (' ', 8 - used % 8) } else { (char, 1) };
        let char_width = char_width(char);
        for _ in 0..times {
            if used + char_width > room {
                return clipped;
            }
            clipped.push(char);
            used += char_width;
        }
    }
    clipped
}

fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// Columns of a character: nearly what terminals do (Unicode Standard Annex 11), by block instead of by table.
fn char_width(char: char) -> usize {
    match u32::from(char) {
        0x300..=0x36f | 0x200b..=0x200f | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xfe20..=0xfe2f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}
