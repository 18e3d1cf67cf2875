//! Progress: one event stream, rendered as `tty`, `plain` or `quiet`.
//!
//! Senders hand events to one renderer thread and never wait for the terminal. A renderer is a function from what
//! happened, and when, to text; only the thread writes it. What steps put out is hostile: it reaches the terminal
//! without control characters.

mod clip;
mod internal;
mod log;
mod plain;
mod quiet;
mod say;
mod steps;
mod tty;

use std::io::{IsTerminal, Stderr, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use wharf_solver::llb::VertexDigest;
use wharf_solver::progress::{Event, LogStream, Sink};

pub use self::log::{Lines, printable};
pub use self::say::{
    ask, ask_line, ask_secret, color, color_of_results, print_error, print_note, print_result, print_talk,
    print_text, print_warning, results,
};

use self::clip::Clip;
use self::plain::Plain;
use self::quiet::Quiet;
pub use self::steps::bytes;
use self::steps::{Change, Steps};
use self::tty::{Size, Tty};

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// `Tty` on a terminal, `Plain` elsewhere.
    #[default]
    Auto,
    /// A region at the bottom of the terminal that is drawn again and again.
    Tty,
    /// Lines, as BuildKit writes them.
    Plain,
    /// Nothing but what failed, at the end.
    Quiet,
}

/// A running renderer: takes events from any thread until it is finished (or dropped).
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    messages: mpsc::Sender<Message>,
    renderer: Mutex<Renderer>,
    clip: Clip,
    /// What the names of its steps begin with, if it is a part of another one.
    part: Option<String>,
}

/// The renderer thread, and what is left of it.
#[derive(Debug)]
enum Renderer {
    Running(JoinHandle<Steps>),
    Finished(Steps),
    /// That of the progress that this is a part of.
    Elsewhere,
}

#[derive(Debug)]
enum Message {
    Event(Duration, Event),
    Tail(VertexDigest, mpsc::Sender<Vec<String>>),
    Finish,
}

impl Progress {
    /// Starts to show progress on standard error.
    pub fn start(mode: Mode, out: Stderr) -> Self {
        let view = match mode {
            Mode::Plain => View::Plain(Plain::default()),
            Mode::Quiet => View::Quiet(Quiet::default()),
            Mode::Auto if !out.is_terminal() => View::Plain(Plain::default()),
            Mode::Auto | Mode::Tty => View::Tty(Tty::default()),
        };
        Self::render(view, out, || terminal_size().unwrap_or_default())
    }

    fn render(
        view: View,
        out: impl Write + Send + 'static,
        size: impl Fn() -> Size + Send + 'static,
    ) -> Self {
        let start = Instant::now();
        let (messages, inbox) = mpsc::channel();
        let thread = thread::spawn(move || run(view, &inbox, start, out, size));
        Self {
            start,
            messages,
            renderer: Mutex::new(Renderer::Running(thread)),
            clip: Clip::default(),
            part: None,
        }
    }

    /// One of several builds that are shown together: its steps have names of their own, which begin with `name`, if that
    /// is not empty. It ends with the whole.
    pub fn part(&self, name: &str) -> Self {
        Self {
            start: self.start,
            messages: self.messages.clone(),
            renderer: Mutex::new(Renderer::Elsewhere),
            clip: Clip::default(),
            part: Some(name.to_owned()).filter(|name| !name.is_empty()),
        }
    }

    /// What a step is called by everybody who is shown.
    fn known_as(&self, vertex: VertexDigest) -> VertexDigest {
        match &self.part {
            None => vertex,
            Some(part) => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(part.as_bytes()).update(&vertex.0);
                VertexDigest(*hasher.finalize().as_bytes())
            }
        }
    }

    fn of_part(&self, event: Event) -> Event {
        let Some(part) = &self.part else { return event };
        let named = |name: String| match name.strip_prefix('[') {
            Some(rest) => format!("[{part} {rest}"),
            None => format!("[{part}] {name}"),
        };
        match event {
            Event::Started { vertex, name } => {
                Event::Started { vertex: self.known_as(vertex), name: named(name) }
            }
            Event::Log { vertex, stream, data } => Event::Log { vertex: self.known_as(vertex), stream, data },
            Event::Status { vertex, id, current, total, done } => {
                Event::Status { vertex: self.known_as(vertex), id, current, total, done }
            }
            Event::Completed { vertex, name, outcome } => {
                Event::Completed { vertex: self.known_as(vertex), name: named(name), outcome }
            }
            Event::Warning { message } => Event::Warning { message },
        }
    }

    /// The last lines that a vertex put out: what an error message shows of a failed step. Also after `finish`.
    pub fn tail(&self, vertex: &VertexDigest) -> Vec<String> {
        match &*self.renderer.lock().unwrap_or_else(PoisonError::into_inner) {
            Renderer::Finished(steps) => steps.tail(vertex),
            Renderer::Running(_) | Renderer::Elsewhere => {
                let (answer, answered) = mpsc::channel();
                // Only a renderer that panicked does not answer.
                let _sent = self.messages.send(Message::Tail(self.known_as(*vertex), answer));
                answered.recv().unwrap_or_default()
            }
        }
    }

    /// Shows what is still to be shown, leaves the terminal as it was, and waits until that is done. Events that
    /// come later are dropped.
    pub fn finish(&self) {
        let mut renderer = self.renderer.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*renderer, Renderer::Elsewhere) {
            return;
        }
        let last = std::mem::replace(&mut *renderer, Renderer::Finished(Steps::default()));
        let steps = match last {
            Renderer::Finished(steps) => steps,
            Renderer::Elsewhere => Steps::default(),
            Renderer::Running(thread) => {
                let _sent = self.messages.send(Message::Finish);
                // Progress is talk: a build does not fail because its renderer did.
                thread.join().unwrap_or_default()
            }
        };
        *renderer = Renderer::Finished(steps);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Sink for Progress {
    fn send(&self, event: Event) {
        // After `finish` nobody listens any more.
        let send = |event| {
            drop(self.messages.send(Message::Event(self.start.elapsed(), self.of_part(event))));
        };
        match &event {
            Event::Log { vertex, data, .. } if !self.clip.shows(vertex, data) => return,
            Event::Completed { vertex, .. } => {
                if let Some(data) = self.clip.end(vertex) {
                    send(Event::Log { vertex: *vertex, stream: LogStream::Stderr, data });
                }
            }
            _ => {}
        }
        send(event);
    }
}

/// The renderers. Each appends what is to be written to a string.
#[derive(Debug)]
enum View {
    Plain(Plain),
    Tty(Tty),
    Quiet(Quiet),
}

impl View {
    fn changed(&mut self, steps: &Steps, at: Duration, change: &Change, out: &mut String) {
        match self {
            Self::Plain(plain) => plain.changed(steps, at, change, out),
            // Both look at the steps when it is time to draw.
            Self::Tty(_) | Self::Quiet(_) => {}
        }
    }

    fn tick(&mut self, steps: &Steps, now: Duration, size: Size, out: &mut String) {
        match self {
            Self::Plain(plain) => plain.tick(steps, now, out),
            Self::Tty(tty) => tty.draw(steps, now, size, out),
            Self::Quiet(_) => {}
        }
    }

    fn finish(&mut self, steps: &Steps, now: Duration, size: Size, out: &mut String) {
        match self {
            Self::Plain(plain) => plain.finish(steps, out),
            Self::Tty(tty) => tty.finish(steps, now, size, out),
            Self::Quiet(quiet) => quiet.finish(steps, out),
        }
    }
}

/// Time between two looks at the clock: ten frames a second are smooth enough for a spinner-less display.
const TICK: Duration = Duration::from_millis(100);

/// No more than this waits to be written.
const WRITE_BYTES_MAX: usize = 16 * 1024;

/// The renderer thread's life.
fn run(
    mut view: View,
    inbox: &mpsc::Receiver<Message>,
    start: Instant,
    mut out: impl Write,
    size: impl Fn() -> Size,
) -> Steps {
    let mut steps = Steps::default();
    let mut next_tick = TICK;
    let mut text = String::new();
    loop {
        // What came together is written together.
        let message = match inbox.try_recv() {
            Ok(message) if text.len() < WRITE_BYTES_MAX => Ok(message),
            at_once => {
                if !text.is_empty() {
                    // Nobody can be told that the terminal is gone, and the build goes on without it.
                    let _written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                    text.clear();
                }
                match at_once {
                    Ok(message) => Ok(message),
                    Err(_) => inbox.recv_timeout(next_tick.saturating_sub(start.elapsed())),
                }
            }
        };
        let finished = matches!(message, Ok(Message::Finish) | Err(RecvTimeoutError::Disconnected));
        match message {
            Ok(Message::Event(at, event)) => {
                let change = steps.apply(at, event);
                view.changed(&steps, at, &change, &mut text);
            }
            Ok(Message::Tail(vertex, answer)) => {
                // Whoever asked and went away needs no answer.
                let _sent = answer.send(steps.tail(&vertex));
            }
            Ok(Message::Finish) | Err(_) => {}
        }
        let now = start.elapsed();
        if finished {
            view.finish(&steps, now, size(), &mut text);
        } else if now >= next_tick {
            view.tick(&steps, now, size(), &mut text);
            next_tick = now + TICK;
        }
        if finished {
            let _written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            return steps;
        }
    }
}

fn terminal_size() -> Option<Size> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stderr()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0)
        .then(|| Size { columns: usize::from(size.ws_col), rows: usize::from(size.ws_row) })
}

#[cfg(test)]
mod tests;
