//! What commands say outside of a build's progress. Data goes to standard output, talk to standard error.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::error::{Failure, Kind};

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

/// Says several lines that end with a newline.
pub fn print_talk(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Says something that the user should know, and that does not end the command.
pub fn print_warning(warning: &str) {
    let _ = writeln!(std::io::stderr().lock(), "warning: {warning}");
}

/// Asks whoever sits at the terminal, and takes yes for an answer.
pub fn ask(question: &str) -> bool {
    print_talk(question);
    let mut answer = String::new();
    // Who cannot be asked has not said yes.
    let _ = io::stdin().read_line(&mut answer);
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// Asks whoever sits at the terminal for a line.
pub fn ask_line(question: &str) -> String {
    print_talk(question);
    let mut answer = String::new();
    // Who cannot be asked has said nothing.
    let _ = io::stdin().read_line(&mut answer);
    answer.trim().to_owned()
}

/// The same for what nobody else shall see: it is not echoed.
pub fn ask_secret(question: &str) -> io::Result<String> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    print_talk(question);
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let mut answer = String::new();
    let read = stdin.read_line(&mut answer);
    tcsetattr(&stdin, OptionalActions::Now, &before)?;
    print_talk("\n");
    read?;
    Ok(answer.trim_end_matches(['\n', '\r']).to_owned())
}

/// Prints a result that a script may read. What cannot be written is a failure: the script would take it for done.
pub fn print_result(line: &str) -> Result<(), Failure> {
    print_text(&format!("{line}\n"))
}

/// The same as it is, without a newline at its end.
pub fn print_text(text: &str) -> Result<(), Failure> {
    results().and_then(|mut out| out.write_all(text.as_bytes())).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::reader_gone(),
        _ => Failure::new(Kind::Environment, format!("cannot write to standard output: {error}")),
    })
}

/// Standard output as it is: `std`'s own passes over one that was closed, or that is not open for writing.
pub fn results() -> io::Result<File> {
    if wharf_runtime::stdout_was_closed() {
        return Err(io::Error::other("it is closed"));
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 0)?.into())
}
