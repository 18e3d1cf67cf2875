//! From the bytes a process writes to lines that may be shown.

/// A longer line is cut into several: a process that never ends its line must not fill the memory.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Assembles the lines of one stream, whose bytes come cut anywhere.
///
/// `\r\n` ends a line like `\n`. A lone `\r` goes back to the line's begin, so what follows replaces it, as on a
/// terminal: of a progress bar only the last state remains.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    /// The last byte was a `\r`: the next one decides what it means.
    returned: bool,
}

impl Lines {
    /// Takes bytes and returns the lines that they complete.
    pub fn feed(&mut self, data: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in data {
            match byte {
                b'\n' => {
                    self.returned = false;
                    lines.push(self.take());
                }
                b'\r' => self.returned = true,
                _ => {
                    if std::mem::take(&mut self.returned) {
                        self.partial.clear();
                    }
                    self.partial.push(byte);
                    if self.partial.len() >= LINE_BYTES_MAX {
                        lines.push(self.take());
                    }
                }
            }
        }
        lines
    }

    /// The line that no newline ended.
    pub fn end(&mut self) -> Option<String> {
        (!self.partial.is_empty()).then(|| self.take())
    }

    /// What the line holds so far.
    pub(super) fn partial(&self) -> Option<String> {
        (!self.partial.is_empty()).then(|| printable(&String::from_utf8_lossy(&self.partial)))
    }

    fn take(&mut self) -> String {
        let line = printable(&String::from_utf8_lossy(&self.partial));
        self.partial.clear();
        line
    }
}

/// Text without escape sequences, control characters (but tabs) and characters that turn the direction of writing:
/// nothing in it can move the cursor, name a window or hide what is beside it.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        match char {
            '\u{1b}' => skip_escape(&mut rest),
            '\u{9b}' => skip_control_sequence(&mut rest),
            '\t' => shown.push(char),
            _ if char.is_control() => {}
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            _ => shown.push(char),
        }
    }
    shown
}

/// After an ESC (ECMA-48, 5.2 and 5.3).
fn skip_escape(rest: &mut std::str::Chars<'_>) {
    match rest.next() {
        Some('[') => skip_control_sequence(rest),
        Some(']' | 'P' | 'X' | '^' | '_') => skip_control_string(rest),
        Some(' '..='/') => {
            // Intermediate bytes, then the final one.
            rest.by_ref().find(|char| !matches!(char, ' '..='/'));
        }
        Some(_) | None => {}
    }
}

/// Parameters and intermediate bytes up to a final byte.
fn skip_control_sequence(rest: &mut std::str::Chars<'_>) {
    rest.by_ref().find(|char| !matches!(char, ' '..='?'));
}

/// A title or other string up to BEL or ST; one that does not end takes the rest of the line.
fn skip_control_string(rest: &mut std::str::Chars<'_>) {
    while let Some(char) = rest.next() {
        match char {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' => {
                rest.next();
                return;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(chunks: &[&[u8]], expected: &[&str]) {
        let mut lines = Lines::default();
        let mut found: Vec<String> = chunks.iter().flat_map(|chunk| lines.feed(chunk)).collect();
        found.extend(lines.end());
        assert_eq!(found, expected);
    }

    #[test]
    fn lines_are_assembled_from_chunks() {
        check(&[b"one\ntw", b"o\n", b"three"], &["one", "two", "three"]);
        check(&[b"\n\na\n"], &["", "", "a"]);
        check(&[b"one\r", b"\ntwo\r\n"], &["one", "two"]);
    }

    #[test]
    fn a_carriage_return_starts_the_line_again() {
        check(&[b"10%\r50%", b"\r100%\n"], &["100%"]);
        check(&[b"10%\r"], &["10%"]);
        check(&[b"a\r\r\n"], &["a"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        check(&[b"\xffa\xc3", b"\xa9\n"], &["\u{fffd}a\u{e9}"]);
    }

    #[test]
    fn endless_lines_are_cut() {
        check(&[&vec![b'x'; LINE_BYTES_MAX + 1]], &[&"x".repeat(LINE_BYTES_MAX), "x"]);
    }

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        for (text, shown) in [
            ("plain \u{e9}\ttab", "plain \u{e9}\ttab"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}[2J\u{1b}[1;1Hx", "x"),
            ("\u{1b}]0;title\u{7}x", "x"),
            ("\u{1b}]8;;http://evil\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}]never ends", ""),
            ("\u{1b}(Bx\u{1b}7y\u{1b}", "xy"),
            ("\u{9b}31mx\u{85}y\u{7f}\u{8}z", "xyz"),
            ("a\u{202e}b", "ab"),
        ] {
            assert_eq!(printable(text), shown, "{text:?}");
        }
    }
}
