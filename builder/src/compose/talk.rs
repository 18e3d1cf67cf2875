//! What is said while things are done: a line for each thing that begins and for each that is done, on standard error.

use crate::progress::{color, print_talk};

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Style {
    /// Lines, coloured on a terminal.
    #[default]
    Lines,
    /// An object of JSON a line.
    Json,
    /// Not at all.
    Quiet,
}

/// Says what happens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Talk(pub Style);

impl Talk {
    /// ` Container p-web-1  Started`.
    pub fn say(&self, kind: &str, name: &str, what: &str) {
        let is_end = !what.ends_with("ing");
        match self.0 {
            Style::Quiet => {}
            Style::Json => {
                let line = serde_json::json!({ "id": format!("{kind} {name}"), "status": what });
                print_talk(&format!("{line}\n"));
            }
            Style::Lines if is_end && color() => {
                print_talk(&format!(" {kind} {name}  \x1b[32m{what}\x1b[0m\n"))
            }
            Style::Lines => print_talk(&format!(" {kind} {name}  {what}\n")),
        }
    }

    /// Says what begins, does it, and says that it is done.
    pub fn around<T, E>(
        &self,
        (kind, name): (&str, &str),
        (begins, done): (&str, &str),
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.say(kind, name, begins);
        let ended = work();
        self.say(kind, name, if ended.is_ok() { done } else { "Error" });
        ended
    }
}
