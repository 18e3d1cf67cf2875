//! Answers for people.

use wharf_frontend::Diagnostic;
use wharf_frontend::dockerfile2llb::{Outline, Resource, Target};

use super::{REQUESTS, VERSION};
use crate::error::{SourceText, render_warnings};

/// Each warning at its place, then how many there are. Where the build would fail somebody else says why.
pub(super) fn check(source: &SourceText, warnings: &[Diagnostic], is_failure: bool, color: bool) -> String {
    let mut text = String::new();
    for warning in render_warnings(warnings, source, color) {
        text.push_str(&warning);
        text.push_str("\n\n");
    }
    let state = if is_failure { "Check failed" } else { "Check complete" };
    text.push_str(&match warnings.len() {
        0 => format!("{state}, no warnings found."),
        1 => format!("{state}, 1 warning has been found!"),
        count => format!("{state}, {count} warnings have been found!"),
    });
    text
}

pub(super) fn outline(outline: &Outline) -> String {
    let mut text = String::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = if outline.name.is_empty() { "(default)" } else { &outline.name };
        let mut rows = vec![vec!["TARGET:", name]];
        if !outline.description.is_empty() {
            rows.push(vec!["DESCRIPTION:", &outline.description]);
        }
        text.push_str(&table(&rows, 1));
        text.push('\n');
    }
    if !outline.args.is_empty() {
        let mut rows = vec![vec!["BUILD ARG", "VALUE", "DESCRIPTION"]];
        rows.extend(outline.args.iter().map(|arg| vec![&*arg.name, &*arg.value, &*arg.description]));
        text.push_str(&table(&rows, 3));
        text.push('\n');
    }
    let required = |heading, list: &[Resource], text: &mut String| {
        if !list.is_empty() {
            let mut rows = vec![vec![heading, "REQUIRED"]];
            rows.extend(list.iter().map(|it| vec![&*it.id, if it.required { "true" } else { "" }]));
            text.push_str(&table(&rows, 3));
            text.push('\n');
        }
    };
    required("SECRET", &outline.secrets, &mut text);
    required("SSH", &outline.ssh, &mut text);
    if !outline.caches.is_empty() {
        let mut rows = vec![vec!["CACHE"]];
        rows.extend(outline.caches.iter().map(|cache| vec![&*cache.id]));
        text.push_str(&table(&rows, 3));
        text.push('\n');
    }
    text.trim_end().to_owned()
}

pub(super) fn targets(targets: &[Target]) -> String {
    let name = |target: &Target| match (target.name.as_str(), target.is_default) {
        ("", true) => "(default)".to_owned(),
        (name, true) => format!("{name} (default)"),
        (name, false) => name.to_owned(),
    };
    let names: Vec<String> = targets.iter().map(name).collect();
    let mut rows = vec![vec!["TARGET", "DESCRIPTION"]];
    rows.extend(names.iter().zip(targets).map(|(name, target)| vec![&**name, &*target.description]));
    table(&rows, 1).trim_end().to_owned()
}

pub(super) fn describe() -> String {
    let mut rows = vec![vec!["NAME", "VERSION", "DESCRIPTION"]];
    rows.extend(REQUESTS.iter().map(|(name, description, ..)| {
        vec![name.strip_prefix("frontend.").unwrap_or(name), VERSION, description]
    }));
    table(&rows, 1).trim_end().to_owned()
}

/// Columns with `gap` blanks between them. What comes from a Dockerfile is shown without control characters.
pub(crate) fn table(rows: &[Vec<&str>], gap: usize) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| cell.replace(char::is_control, " ")).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0) + gap).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            // Not by a format's width, which is limited.
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let long = "f".repeat(70_000);
        let text = table(&[vec!["A", "B"], vec![&long, "b"]], 1);
        assert_eq!(text, format!("A{}B\n{long} b\n", " ".repeat(70_000)));
    }
}
