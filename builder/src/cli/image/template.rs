//! `--format` of commands that list or show: `json`, or a template in the form of Go's, as far as Docker's users write it:
//! fields, and the functions `json`, `upper`, `lower`, `join`, `len` and `index`.

use serde_json::Value;

use crate::build::call::table;
use crate::error::{Failure, Kind};
use crate::progress::print_result;

const FUNCTIONS: [&str; 6] = ["json", "upper", "lower", "join", "len", "index"];

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
pub(in crate::cli) struct Template(Vec<Part>);

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    /// The commands of a pipeline.
    Action(Vec<Command>),
}

/// A function, or none, and what it is given.
#[derive(Debug, PartialEq)]
struct Command {
    function: Option<&'static str>,
    arguments: Vec<Argument>,
}

#[derive(Debug, PartialEq)]
enum Argument {
    /// `.A.B`; empty is `.`.
    Field(Vec<String>),
    Text(String),
    Number(usize),
}

impl Format {
    /// Reads what was given with `--format`.
    pub(in crate::cli) fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let (text, with_headings) = match text {
            None | Some("table") => return Ok(Self::Table),
            Some("json") => return Ok(Self::Json),
            Some(text) => match text.strip_prefix("table ") {
                Some(template) => (template.trim_start(), true),
                None => (text, false),
            },
        };
        Ok(Self::Template { template: Template::parse(text)?, with_headings })
    }

    /// Refuses fields that no row has, before there is a row.
    pub(in crate::cli) fn require_fields(&self, known: &[Column]) -> Result<(), Failure> {
        let Self::Template { template: Template(parts), .. } = self else { return Ok(()) };
        let commands = parts.iter().flat_map(|part| match part {
            Part::Text(_) => &[][..],
            Part::Action(commands) => commands.as_slice(),
        });
        for argument in commands.flat_map(|command| &command.arguments) {
            if let Argument::Field(path) = argument
                && let Some(first) = path.first()
                && !known.iter().any(|(field, _)| field == first)
            {
                return Err(unknown(first, known.iter().map(|(field, _)| *field)));
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
                    let headings =
                        known.iter().map(|(field, heading)| ((*field).to_owned(), (*heading).into()));
                    lines.push(template.render(&Value::Object(headings.collect()))?);
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

impl Template {
    /// Reads a template. `\t` and `\n` may be written as such.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, Failure> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        let mut has_action = false;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after.split_once("}}").ok_or_else(|| wrong("`{{` has no `}}`"))?;
            let trimmed_before = action.strip_prefix("- ");
            let action = trimmed_before.unwrap_or(action);
            let before = if trimmed_before.is_some() { before.trim_end() } else { before };
            let trimmed_after = action.strip_suffix(" -");
            rest = if trimmed_after.is_some() { after.trim_start() } else { after };
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Action(pipeline(trimmed_after.unwrap_or(action))?));
            has_action = true;
        }
        if !has_action {
            return Err(wrong("it is `json`, `table`, or a template with `{{.Field}}`"));
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// The text for a value.
    pub(in crate::cli) fn render(&self, value: &Value) -> Result<String, Failure> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Action(commands) => {
                    let mut piped: Option<Value> = None;
                    for command in commands {
                        piped = Some(command.run(value, piped)?);
                    }
                    text.push_str(&shown(&piped.unwrap_or(Value::Null)));
                }
            }
        }
        Ok(text)
    }
}

impl Command {
    fn run(&self, value: &Value, piped: Option<Value>) -> Result<Value, Failure> {
        let given = self.arguments.iter().map(|argument| argument.value(value));
        let mut given = given.chain(piped.map(Ok)).collect::<Result<Vec<_>, _>>()?;
        let Some(function) = self.function else {
            return given.pop().ok_or_else(|| wrong("`{{}}` is empty"));
        };
        let count_is = |count: usize| match given.len() == count {
            true => Ok(()),
            false => Err(wrong(&format!("`{function}` takes {count} arguments, not {}", given.len()))),
        };
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            _ => Err(wrong(&format!("`{function}` takes a text, not {value}"))),
        };
        match function {
            "json" => count_is(1).map(|()| given[0].to_string().into()),
            "upper" => count_is(1).and_then(|()| Ok(text(&given[0])?.to_uppercase().into())),
            "lower" => count_is(1).and_then(|()| Ok(text(&given[0])?.to_lowercase().into())),
            "len" => count_is(1).and_then(|()| match &given[0] {
                Value::String(text) => Ok(text.len().into()),
                Value::Array(list) => Ok(list.len().into()),
                Value::Object(map) => Ok(map.len().into()),
                Value::Null => Ok(0.into()),
                other => Err(wrong(&format!("`len` takes a text, a list or a map, not {other}"))),
            }),
            "join" => {
                count_is(2)?;
                let between = text(&given[1])?;
                match &given[0] {
                    Value::Array(list) => {
                        Ok(list.iter().map(shown).collect::<Vec<_>>().join(&between).into())
                    }
                    Value::Null => Ok("".into()),
                    other => Err(wrong(&format!("`join` takes a list, not {other}"))),
                }
            }
            _ => {
                if given.is_empty() {
                    return Err(wrong("`index` takes a list or a map, and what to look up in it"));
                }
                let mut current = given.remove(0);
                for key in given {
                    current = look_up(&current, &key)?;
                }
                Ok(current)
            }
        }
    }
}

/// As Go's `index`: what a map has not is nothing, what a list has not is an error.
fn look_up(value: &Value, key: &Value) -> Result<Value, Failure> {
    match (value, key) {
        (Value::Object(map), Value::String(key)) => Ok(map.get(key).cloned().unwrap_or(Value::Null)),
        (Value::Null, Value::String(_)) => Ok(Value::Null),
        (Value::Array(list), Value::Number(number)) => {
            let at = number.as_u64().and_then(|at| usize::try_from(at).ok());
            let found = at.and_then(|at| list.get(at)).cloned();
            found.ok_or_else(|| wrong(&format!("`index` {number} of a list of {}", list.len())))
        }
        _ => Err(wrong(&format!("`index` cannot look {key} up in {value}"))),
    }
}

impl Argument {
    fn value(&self, root: &Value) -> Result<Value, Failure> {
        let path = match self {
            Self::Text(text) => return Ok(text.as_str().into()),
            Self::Number(number) => return Ok((*number).into()),
            Self::Field(path) => path,
        };
        let mut current = root;
        for name in path {
            current = match current {
                Value::Object(map) => {
                    map.get(name).ok_or_else(|| unknown(name, map.keys().map(String::as_str)))?
                }
                Value::Null => return Ok(Value::Null),
                _ => return Err(wrong(&format!("there is nothing with fields before `.{name}`"))),
            };
        }
        Ok(current.clone())
    }
}

fn pipeline(text: &str) -> Result<Vec<Command>, Failure> {
    let mut commands = vec![Command { function: None, arguments: Vec::new() }];
    for token in tokens(text)? {
        let last = commands.last_mut().expect("there is one from the start");
        let is_first = last.function.is_none() && last.arguments.is_empty();
        let argument = match token.as_str() {
            "|" if is_first => return Err(wrong("something is missing before `|`")),
            "|" => {
                commands.push(Command { function: None, arguments: Vec::new() });
                continue;
            }
            token => argument(token)?,
        };
        match argument {
            Ok(argument) if is_first || last.function.is_some() => last.arguments.push(argument),
            Err(function) if is_first => last.function = Some(function),
            _ => {
                return Err(wrong(&format!(
                    "`{text}` makes no sense: one field, or a function and its arguments"
                )));
            }
        }
    }
    let is_empty = |command: &Command| command.function.is_none() && command.arguments.is_empty();
    let is_field = |command: &Command| command.function.is_none();
    if commands.last().is_some_and(is_empty) || commands.iter().skip(1).any(is_field) {
        return Err(wrong(&format!("`{{{{{text}}}}}` makes no sense")));
    }
    Ok(commands)
}

/// An argument, or the name of a function.
fn argument(token: &str) -> Result<Result<Argument, &'static str>, Failure> {
    if let Some(path) = token.strip_prefix('.') {
        let names: Vec<String> = path.split('.').map(str::to_owned).collect();
        return match (path, names.iter().any(String::is_empty)) {
            ("", _) => Ok(Ok(Argument::Field(Vec::new()))),
            (_, true) => Err(wrong(&format!("`{token}` is no field"))),
            _ => Ok(Ok(Argument::Field(names))),
        };
    }
    if let Some(text) = token.strip_prefix('"') {
        return Ok(Ok(Argument::Text(text.to_owned())));
    }
    if let Ok(number) = token.parse() {
        return Ok(Ok(Argument::Number(number)));
    }
    match FUNCTIONS.iter().find(|name| **name == token) {
        Some(function) => Ok(Err(function)),
        None => {
            let known = FUNCTIONS.join(", ");
            Err(wrong(&format!("there is no function `{token}`; there are {known}")))
        }
    }
}

/// Words, bars and quoted texts; these begin with `"`.
fn tokens(text: &str) -> Result<Vec<String>, Failure> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => {}
            '|' => tokens.push("|".to_owned()),
            '"' | '`' => {
                let mut token = "\"".to_owned();
                loop {
                    match chars.next() {
                        None => return Err(wrong("a quote is not closed")),
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => token.extend(chars.next()),
                        Some(other) => token.push(other),
                    }
                }
                tokens.push(token);
            }
            _ => {
                let mut token = c.to_string();
                while let Some(next) = chars.next_if(|c| !c.is_whitespace() && *c != '|') {
                    token.push(next);
                }
                tokens.push(token);
            }
        }
    }
    Ok(tokens)
}

/// A value as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{key}:{}", shown(value)));
            format!("map[{}]", pairs.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    let known: Vec<&str> = known.take(100).collect();
    Failure::new(Kind::Usage, format!("--format: there is no field `{name}`"))
        .hint(format!("there are {}", known.join(", ")))
}

fn wrong(what: &str) -> Failure {
    Failure::new(Kind::Usage, format!("--format: {what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(template: &str, expected: Result<&str, &str>) {
        let value = json!({
            "ID": "0a1b", "Size": 12, "None": null,
            "Tags": ["a:1", "b:2"],
            "Config": { "Env": ["A=1"], "Labels": { "a.b": "c" } },
        });
        let rendered = Template::parse(template).and_then(|template| template.render(&value));
        match (rendered, expected) {
            (Ok(text), Ok(expected)) => assert_eq!(text, expected, "{template}"),
            (Err(error), Err(word)) => {
                let said = format!("{} {}", error.message, error.hints.join(" "));
                assert!(said.contains(word), "{template}: {said}");
            }
            (found, _) => panic!("{template}: {found:?}"),
        }
    }

    #[test]
    fn fields_and_functions_give_what_go_gives() {
        check("{{.ID}}", Ok("0a1b"));
        check("<{{ .ID }}>\\t{{.Size}}\\n", Ok("<0a1b>\t12\n"));
        check("{{json .Tags}}", Ok(r#"["a:1","b:2"]"#));
        check("{{.Tags}} {{.Config}}", Ok("[a:1 b:2] map[Env:[A=1] Labels:map[a.b:c]]"));
        check("{{json .Config.Env}}", Ok(r#"["A=1"]"#));
        check("{{upper .ID}}{{.ID | upper | lower}}", Ok("0A1B0a1b"));
        check("{{join .Tags \", \"}}", Ok("a:1, b:2"));
        check("{{len .Tags}}{{len .ID}}{{len .None}}", Ok("240"));
        check("{{index .Tags 1}}", Ok("b:2"));
        check("{{index .Config.Labels \"a.b\"}}", Ok("c"));
        check("{{index .Config.Labels `x`}}", Ok("<no value>"));
        check("{{.None}} {{.None.Deeper}}", Ok("<no value> <no value>"));
        check("a {{- .ID -}} b", Ok("a0a1bb"));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        check("ID", Err("json"));
        check("{{.ID", Err("}}"));
        check("{{}}", Err("makes no sense"));
        check("{{.Id}}", Err("there are Config, ID"));
        check("{{.Config.env}}", Err("there are Env, Labels"));
        check("{{.ID.X}}", Err("nothing with fields"));
        check("{{range .Tags}}", Err("no function `range`"));
        check("{{.ID .Size}}", Err("makes no sense"));
        check("{{.ID | .Size}}", Err("makes no sense"));
        check("{{| upper}}", Err("before `|`"));
        check("{{upper}}", Err("takes 1 arguments"));
        check("{{upper .Size}}", Err("takes a text"));
        check("{{join .ID \",\"}}", Err("takes a list"));
        check("{{index .Tags 2}}", Err("list of 2"));
        check("{{.ID \"}}", Err("not closed"));
        check("{{..ID}}", Err("is no field"));
    }
}
