//! Files in memory, and what comes of them as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use wharf_frontend::Severity;
use wharf_frontend::compose::{Invocation, Loaded, Outside, Problem, Project, ReadError, Selection, Sources};

use crate::carets;

/// Files by absolute path.
#[derive(Debug, Default)]
pub(crate) struct Files(pub(crate) BTreeMap<String, Vec<u8>>);

impl Outside for Files {
    fn read(&self, path: &str) -> Result<Vec<u8>, ReadError> {
        self.0.get(path).cloned().ok_or(ReadError::NotFound)
    }

    fn exists(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }
}

/// Where the files of cases are.
pub(crate) const DIRECTORY: &str = "/src/demo";

/// The options of a case, as they are written in it.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) invocation: Invocation,
    pub(crate) selection: Option<Selection>,
    /// What is shown: the part of the project below these keys, or something `config` lists.
    pub(crate) show: String,
}

impl Options {
    pub(crate) fn parse(words: &str) -> Self {
        let mut this = Self::default();
        this.invocation.directory = DIRECTORY.to_owned();
        let mut words = words.split(' ').filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap().to_owned();
            match word {
                "-f" => this.invocation.files.push(value()),
                "-p" => this.invocation.project_name = Some(value()),
                "-C" => this.invocation.directory = value(),
                "--as-written" => this.invocation.as_written = true,
                "--project-directory" => this.invocation.project_directory = Some(value()),
                "--env-file" => this.invocation.env_files.push(value()),
                "--env" => {
                    let pair = value();
                    let (name, value) = pair.split_once('=').unwrap();
                    this.invocation.environment.insert(name.to_owned(), value.to_owned());
                }
                "--select" => {
                    this.selection = Some(Selection { with_dependencies: true, ..Selection::default() })
                }
                "--no-deps" => this.selection.as_mut().unwrap().with_dependencies = false,
                "--profile" => this.selection.as_mut().unwrap().profiles.push(value()),
                "--show" => this.show = value(),
                service => this.selection.as_mut().unwrap().services.push(service.to_owned()),
            }
        }
        this
    }
}

/// What is said and what comes out.
pub(crate) fn report(options: &Options, files: &Files) -> String {
    let loaded = wharf_frontend::compose::open(&options.invocation, files);
    let mut out = String::new();
    loaded.problems.iter().for_each(|problem| show_problem(&mut out, problem, &loaded.sources));
    for unsupported in &loaded.unsupported {
        writeln!(out, "not acted on: {}: {}", unsupported.path, unsupported.why).unwrap();
    }
    for (service, problem) in &loaded.deferred {
        write!(out, "to use {service}: ").unwrap();
        show_problem(&mut out, problem, &loaded.sources);
    }
    if let Some(written) = &loaded.written {
        out.push_str(&below(&written.to_yaml(), &options.show));
    }
    let Some(project) = &loaded.project else { return out };
    let selected = match &options.selection {
        None => project.clone(),
        Some(selection) => match project.select(selection) {
            Ok(project) => project,
            Err(problems) => {
                problems.iter().for_each(|problem| show_problem(&mut out, problem, &loaded.sources));
                return out;
            }
        },
    };
    out.push_str(&shown(&selected, &loaded, &options.show));
    out
}

pub(crate) fn show_problem(out: &mut String, problem: &Problem, sources: &Sources) {
    let diagnostic = &problem.diagnostic;
    let severity = match diagnostic.severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let source = problem.source.and_then(|source| sources.get(source));
    let at = source.zip(diagnostic.place());
    let name = at.map(|(source, place)| format!(" {}{}", source.name, carets::place(&source.text, place)));
    writeln!(out, "{severity}{} {}", name.unwrap_or_default(), diagnostic.message).unwrap();
    if let Some((source, place)) = at {
        out.push_str(&carets::excerpt(&source.text, place));
    }
    if let Some(hint) = &diagnostic.hint {
        writeln!(out, "  hint: {hint}").unwrap();
    }
}

fn shown(project: &Project, loaded: &Loaded, show: &str) -> String {
    match show {
        "services" => project.services.keys().fold(String::new(), |out, name| out + name + "\n"),
        "networks" => project.networks.keys().fold(String::new(), |out, name| out + name + "\n"),
        "images" => project.images().into_iter().fold(String::new(), |out, name| out + &name + "\n"),
        "profiles" => project.profiles().into_iter().fold(String::new(), |out, name| out + name + "\n"),
        "order" => {
            project.start_order().into_iter().fold(String::new(), |out, rank| out + &rank.join(" ") + "\n")
        }
        "files" => loaded.files.iter().fold(String::new(), |out, name| out + name + "\n"),
        "name" => project.name.clone() + "\n",
        _ => below(&project.to_yaml(), show),
    }
}

/// The part of a YAML text below a key (`services.web.ports`), by its indentation.
fn below(yaml: &str, path: &str) -> String {
    let mut lines: Vec<&str> = yaml.lines().collect();
    for key in path.split('.').filter(|key| !key.is_empty()) {
        let start = lines.iter().position(|line| line.trim_start().starts_with(&format!("{key}:")));
        let Some(start) = start else { return format!("(no {path})\n") };
        let depth = |line: &str| line.len() - line.trim_start().len();
        let own = depth(lines[start]);
        let length = lines[start + 1..].iter().take_while(|line| depth(line) > own).count();
        if length == 0 {
            return format!("{}\n", lines[start].trim_start());
        }
        lines = lines[start + 1..start + 1 + length].to_vec();
    }
    let indent = lines.iter().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    lines.iter().fold(String::new(), |out, line| out + &line[indent..] + "\n")
}
