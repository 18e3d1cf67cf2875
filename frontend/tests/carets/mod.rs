//! A place in a file as snapshots show it: line and columns, and the line with carets under the token.

use std::ops::Range;

/// `@line:column-column`, or `@line:column-line:column` if it ends on another line. The end is exclusive.
pub(crate) fn place(source: &str, span: &Range<usize>) -> String {
    let at = |offset: usize| {
        let before = &source[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    };
    match (at(span.start), at(span.end)) {
        ((line, start), (end_line, end)) if line == end_line => format!("@{line}:{start}-{end}"),
        ((line, start), (end_line, end)) => format!("@{line}:{start}-{end_line}:{end}"),
    }
}

/// Two lines: the source's and the carets'. A token of several lines is marked to the end of its first.
pub(crate) fn excerpt(source: &str, span: &Range<usize>) -> String {
    let start = source[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let end = source[span.start..].find('\n').map_or(source.len(), |at| span.start + at);
    let line = source[start..end].trim_end_matches('\r');
    let before = &source[start..span.start];
    let indent: String = before.chars().map(|char| if char == '\t' { '\t' } else { ' ' }).collect();
    let marked = source[span.start..span.end.min(end)].chars().count().max(1);
    let goes_on = if span.end > end { "…" } else { "" };
    format!("  | {line}\n  | {indent}{}{goes_on}\n", "^".repeat(marked))
}
