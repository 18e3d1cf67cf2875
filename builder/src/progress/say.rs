//! What commands say outside of a build's progress. Data goes to standard output, talk to standard error.

use std::io::{IsTerminal as _, Write as _};

use crate::error::Failure;

/// Says why a command failed.
pub fn print_error(failure: &Failure) {
    // When even this cannot be written nobody is listening.
    let _ = writeln!(std::io::stderr().lock(), "{}", failure.render(color()));
}

/// Whether what is said may be coloured: on a terminal, unless `NO_COLOR` is set.
pub fn color() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The same for results on standard output.
pub fn color_of_results() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Says something by the way.
pub fn print_note(note: &str) {
    let _ = writeln!(std::io::stderr().lock(), "note: {note}");
}

/// Prints a result that a script may read.
pub fn print_result(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
