//! `--format` of commands that list or show: `json`, `table`, or a template in the language of Go's `text/template` with
//! the functions that Docker has in it. A template's text becomes tokens ([`lex`]), these a [`tree`] ([`parse`]), and
//! this with a JSON value text ([`run`]).

mod escape;
mod functions;
mod lex;
mod parse;
mod printf;
mod run;
mod show;
#[cfg(test)]
mod tests;
mod tree;
mod value;

use serde_json::{Map, Value};
use wharf_frontend::Diagnostic;

use crate::build::call::table;
use crate::error::{Evidence, Failure, Kind, SourceText};
use crate::progress::print_result;
use functions::Problem;
use tree::{Span, Tree};

/// A field for machines and its heading for people.
pub(in crate::cli) type Column = (&'static str, &'static str);

/// How rows are shown.
#[derive(Debug)]
pub(in crate::cli) enum Format {
    /// Columns with headings: the command's own.
    Table,
    /// An object a line.
    Json,
    /// A template, under headings or not.
    Template { template: Template, with_headings: bool },
}

/// A template that was read.
#[derive(Debug, PartialEq)]
pub(in crate::cli) struct Template {
    text: String,
    tree: Tree,
}

impl Format {
    /// Reads what was given with `--format`.
    pub(in crate::cli) fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let (text, with_headings) = match text {
            None | Some("table") => return Ok(Self::Table),
            Some("json") => return Ok(Self::Json),
            Some(text) => match text.strip_prefix("table") {
                Some(template) if template.starts_with([' ', '{']) => (template.trim_start(), true),
                _ => (text, false),
            },
        };
        Ok(Self::Template { template: Template::parse(text)?, with_headings })
    }

    /// Refuses fields that no row has, before there is a row.
    pub(in crate::cli) fn require_fields(&self, known: &[Column]) -> Result<(), Failure> {
        let Self::Template { template, .. } = self else { return Ok(()) };
        for name in template.tree.fields() {
            if !known.iter().any(|(field, _)| *field == name.text) {
                let problem = Problem::unknown(&name.text, known.iter().map(|(field, _)| *field));
                return Err(problem.at(&name.span).in_template(&template.text));
            }
        }
        Ok(())
    }

    /// Prints rows. `columns` are those of the command's own table, `known` all there are.
    pub(in crate::cli) fn print(
        &self,
        rows: &[Value],
        columns: &[&str],
        known: &[Column],
    ) -> Result<(), Failure> {
        let lines: Vec<String> = match self {
            Self::Json => rows.iter().map(Value::to_string).collect(),
            Self::Table => {
                let heading = |field: &&str| known.iter().find(|(it, _)| it == field).map_or("", |it| it.1);
                let mut cells: Vec<Vec<String>> =
                    vec![columns.iter().map(|field| heading(field).to_owned()).collect()];
                cells.extend(rows.iter().map(|row| columns.iter().map(|it| shown(&row[*it])).collect()));
                return print_cells(&cells);
            }
            Self::Template { template, with_headings } => {
                let mut lines = Vec::new();
                if *with_headings {
                    lines.push(template.headings(known)?);
                }
                for row in rows {
                    lines.push(template.render(row)?);
                }
                if *with_headings {
                    let cells: Vec<Vec<String>> =
                        lines.iter().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
                    return print_cells(&cells);
                }
                lines
            }
        };
        if lines.is_empty() { Ok(()) } else { print_result(&lines.join("\n")) }
    }
}

fn print_cells(cells: &[Vec<String>]) -> Result<(), Failure> {
    let rows: Vec<Vec<&str>> = cells.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
    print_result(table(&rows, 3).trim_end())
}

/// A value in a column.
fn shown(value: &Value) -> String {
    let mut text = String::new();
    // A `String` takes all that is written.
    let _ = show::show(&mut text, value);
    text
}

impl Template {
    /// Reads a template. `\t` and `\n` may be written as such outside of actions too.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, Failure> {
        if !text.contains("{{") {
            let what = "--format: it is `json`, `table`, or a template with `{{.Field}}`";
            return Err(Failure::new(Kind::Usage, what));
        }
        let tree = parse::parse(text).map_err(|wrong| wrong.in_template(text))?;
        Ok(Self { text: text.to_owned(), tree })
    }

    /// The text for a value.
    pub(in crate::cli) fn render(&self, value: &Value) -> Result<String, Failure> {
        run::run(&self.tree, value, false).map_err(|wrong| wrong.in_template(&self.text))
    }

    /// What stands above the texts of rows.
    fn headings(&self, known: &[Column]) -> Result<String, Failure> {
        let headings = known.iter().map(|(field, heading)| ((*field).to_owned(), (*heading).into()));
        let headings = Value::Object(headings.collect());
        run::run(&self.tree, &headings, true).map_err(|wrong| wrong.in_template(&self.text))
    }
}

/// What is wrong with a template, and where.
#[derive(Debug)]
struct Wrong {
    message: String,
    hint: Option<String>,
    span: Span,
}

impl Wrong {
    fn new(message: impl Into<String>, span: Span) -> Self {
        Self { message: message.into(), hint: None, span }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the place of the template shown.
    fn in_template(self, text: &str) -> Failure {
        let mut failure = Failure::new(Kind::Usage, format!("--format: {}", self.message));
        failure.hints.extend(self.hint);
        if !self.span.is_empty() {
            failure.evidence = Some(Box::new(Evidence {
                source: SourceText::new("--format", text),
                places: vec![Diagnostic::error(self.span, "the template fails here")],
                log_tail: Vec::new(),
            }));
        }
        failure
    }
}

/// Whether an object has fixed fields, as Docker's descriptions have: their names begin with capital letters. What is
/// keyed by what users name (labels, networks, ports) is a map, where anything may be missing.
fn is_record(map: &Map<String, Value>) -> bool {
    !map.is_empty() && map.keys().all(|key| key.starts_with(|c: char| c.is_ascii_uppercase()))
}
