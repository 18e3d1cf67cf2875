//! Here-documents: their operators on an instruction's line, and their bodies below it.

use super::json::{self, JsonForm};
use super::line::Lines;
use super::{Heredoc, Mapped, Node, trigger};
use crate::shell::{Lex, Mode};

/// The heredocs, still without their bodies, of `line`, which is the whole text of `node`. Their operators are found by
/// splitting the line as a shell would; a line that cannot be split so (an unclosed quote) has none.
pub(super) fn operators(node: &Node, line: Mapped<'_>) -> Vec<Heredoc> {
    if !line.text.contains("<<") || !may_hold_heredocs(node) {
        return Vec::new();
    }
    let mode = Mode { keep_quotes: true, keep_escapes: true, keep_unset: true, literal_quotes: false };
    let words = LEX.words_in(mode, line.text).unwrap_or_default();
    words
        .into_iter()
        .filter_map(|word| {
            let heredoc = heredoc_word(&word.text)?;
            Some(Heredoc { operator: line.slice(word.span).span(), ..heredoc })
        })
        .collect()
}

/// Reads a body: the lines up to the one that holds only the name. False if there is no such line.
pub(super) fn body(mut heredoc: Heredoc, lines: &mut Lines<'_>) -> (Heredoc, bool) {
    heredoc.span = lines.offset()..lines.offset();
    while let Some(line) = lines.next_raw() {
        let line = if heredoc.chomp { line.trim_start_matches('\t') } else { line };
        if line.trim_end_matches(['\r', '\n']) == heredoc.name {
            return (heredoc, true);
        }
        heredoc.content.push_str(line);
        heredoc.span.end = lines.offset();
    }
    (heredoc, false)
}

/// Reads a word as a heredoc operator: `[fd]<<[-]NAME`, the name perhaps quoted. The heredoc has no body yet. A RUN
/// whose whole command is such a word is "a single heredoc".
pub fn heredoc_word(word: &str) -> Option<Heredoc> {
    let digits = word.len() - word.trim_start_matches(|char: char| char.is_ascii_digit()).len();
    let (fd, rest) = word.split_at(digits);
    let rest = rest.strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let single = |mode| match LEX.words_in(mode, rest).ok()?.as_slice() {
        [word] => Some(word.text.clone()),
        _ => None,
    };
    let plain = Mode { keep_unset: true, ..Mode::default() };
    let name = single(plain)?;
    let raw = single(Mode { keep_quotes: true, keep_escapes: true, ..plain })?;
    Some(Heredoc {
        expand: name == raw,
        name,
        content: String::new(),
        chomp,
        fd: if fd.is_empty() { 0 } else { fd.parse().unwrap_or(u32::MAX) },
        span: 0..0,
        operator: 0..0,
    })
}

/// Knows no variable and escapes by backslash whatever the file says, as BuildKit does here.
const LEX: Lex<'static> = Lex { escape: '\\', lookup: &|_| None };

/// RUN, COPY and ADD unless in JSON form, also under ONBUILD.
fn may_hold_heredocs(node: &Node) -> bool {
    let holds = |node: &Node| {
        let name = node.name.text.to_ascii_uppercase();
        matches!(name.as_str(), "RUN" | "COPY" | "ADD") && json::parse(node.mapped_args()) == JsonForm::No
    };
    if node.name.text.eq_ignore_ascii_case("onbuild") {
        return trigger(node).is_some_and(|trigger| holds(&trigger));
    }
    holds(node)
}
