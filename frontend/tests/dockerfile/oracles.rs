//! The good files and other people's against two other parsers. They read less than BuildKit does, and some of it differently:
//! `testdata/dockerfile/oracles.tsv` says of each disagreement why it is one, and has no line for anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dockerfile_parser::{Instruction as Pest, ShellOrExecExpr};
use parse_dockerfile::{Command, HealthcheckArguments, Instruction as Hand, JsonOrStringArray, Source};
use wharf_frontend::parser::{self, Ast, Node};

/// An instruction as one of the parsers gives it; `None` where it has no such thing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    name: String,
    line: usize,
    flags: Option<Vec<String>>,
    values: Option<Values>,
}

/// The arguments, as far as they are taken apart.
#[derive(Debug, PartialEq, Eq)]
enum Values {
    /// Word by word: of JSON, paths, names and values.
    Words(Vec<String>),
    /// The same, quotes around a whole word removed.
    Unquoted(Vec<String>),
    /// The joined text of all arguments.
    Text(String),
    /// The text of all arguments as it stands in the file.
    Raw(String),
}

/// What is compared.
const ASPECTS: [&str; 4] = ["file", "instructions", "flags", "values"];

#[test]
fn other_parsers_agree_or_it_is_known_why_not() {
    let mut paths = super::cases("ok");
    if let Some(corpus) = super::shared::corpus() {
        let files = std::fs::read_dir(corpus.join("dockerfiles")).unwrap();
        paths.extend(files.map(|entry| entry.unwrap().path()));
    }
    let files: BTreeSet<String> = paths.iter().map(|path| name_of(path)).collect();
    let mut found: BTreeMap<(String, &str, &str), String> = BTreeMap::new();
    let mut compared = 0;
    for path in &paths {
        let file = name_of(path);
        let source = std::fs::read_to_string(path).unwrap();
        let (ast, _) = parser::parse(&source);
        for (crate_name, theirs) in
            [("dockerfile-parser", pest(&source)), ("parse-dockerfile", hand(&source))]
        {
            match theirs {
                Ok(theirs) => {
                    compared += theirs.len();
                    for (aspect, example) in disagreements(&source, &ast, &theirs) {
                        found.entry((file.clone(), crate_name, aspect)).or_insert(example);
                    }
                }
                Err(reason) => drop(found.insert((file.clone(), crate_name, "file"), reason)),
            }
        }
    }
    assert!(compared > 0);
    let mut explained = explained();
    // Nothing is known of files that are not there.
    explained.retain(|(file, ..)| files.contains(file));
    let found_keys: BTreeSet<_> =
        found.keys().map(|(file, name, aspect)| (file.as_str(), *name, *aspect)).collect();
    let explained_keys: BTreeSet<_> =
        explained.iter().map(|(file, name, aspect)| (&**file, &**name, &**aspect)).collect();
    let mut problems = String::new();
    for (file, name, aspect) in found_keys.difference(&explained_keys) {
        let example = &found[&((*file).to_owned(), *name, *aspect)];
        problems += &format!("unexplained: {file}\t{name}\t{aspect}\t{example}\n");
    }
    for (file, name, aspect) in explained_keys.difference(&found_keys) {
        problems += &format!("no disagreement: {file}\t{name}\t{aspect}\n");
    }
    assert!(problems.is_empty(), "{problems}");
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The table's keys; its reasons are those of its legend.
fn explained() -> BTreeSet<(String, String, String)> {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/dockerfile/oracles.tsv");
    let table = std::fs::read_to_string(table).unwrap();
    let legend: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("# ")?.split_once(": "))
        .map(|(reason, _)| reason)
        .collect();
    let mut used = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let [file, name, aspect, reason] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line:?}")
        };
        assert!(ASPECTS.contains(&aspect), "{line}");
        assert!(legend.contains(reason), "{line}: the legend does not know the reason");
        used.insert(reason);
        assert!(keys.insert((file.to_owned(), name.to_owned(), aspect.to_owned())), "{line} is there twice");
    }
    assert_eq!(legend, used, "the legend has reasons that no line has");
    keys
}

/// Each aspect in which another parser differs from ours, with an example.
fn disagreements(source: &str, ast: &Ast, theirs: &[Seen]) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let ours: Vec<(String, usize)> = ast
        .nodes
        .iter()
        .map(|node| (node.name.text.to_uppercase(), line_of(source, node.name.span.start)))
        .collect();
    let there: Vec<(String, usize)> = theirs.iter().map(|seen| (seen.name.clone(), seen.line)).collect();
    if ours != there {
        let at = ours.iter().zip(&there).position(|(a, b)| a != b).unwrap_or(ours.len().min(there.len()));
        found.push(("instructions", format!("{:?} {:?}", ours.get(at), there.get(at))));
    }
    for (node, key) in ast.nodes.iter().zip(&ours) {
        let Some(at) = there.iter().position(|other| other == key) else { continue };
        let seen = &theirs[at];
        let flags: Vec<String> = node.flags.iter().map(|flag| flag.text.clone()).collect();
        if let Some(other) = seen.flags.as_ref().filter(|other| **other != flags) {
            found.push(("flags", format!("line {} {flags:?} {other:?}", key.1)));
        }
        let values = seen.values.as_ref().map(|other| (of_the_same_form(source, ast, node, other), other));
        if let Some((ours, other)) = values.filter(|(ours, other)| ours != *other) {
            found.push(("values", format!("line {} {ours:?} {other:?}", key.1)));
        }
    }
    found
}

fn of_the_same_form(source: &str, ast: &Ast, node: &Node, other: &Values) -> Values {
    match other {
        Values::Words(_) => {
            let (words, _) = super::corpus::values(ast, node);
            Values::Words(words.iter().map(|word| as_keyword(node, word)).collect())
        }
        Values::Unquoted(_) => {
            let (words, _) = super::corpus::values(ast, node);
            Values::Unquoted(words.iter().map(|word| unquoted(word)).collect())
        }
        Values::Text(_) => Values::Text(node.args.text.clone()),
        Values::Raw(_) => Values::Raw(source[node.args.span.clone()].to_owned()),
    }
}

/// One parser does not tell how `AS` is written.
fn as_keyword(node: &Node, word: &str) -> String {
    let is_as = node.name.text.eq_ignore_ascii_case("FROM") && word.eq_ignore_ascii_case("as");
    if is_as { "AS".to_owned() } else { word.to_owned() }
}

fn unquoted(word: &str) -> String {
    let inner = ['"', '\''].iter().find_map(|quote| word.strip_prefix(*quote)?.strip_suffix(*quote));
    inner.unwrap_or(word).to_owned()
}

fn line_of(source: &str, offset: usize) -> usize {
    source[..offset].matches('\n').count() + 1
}

fn flag(name: &str, value: Option<&str>) -> String {
    value.map_or_else(|| format!("--{name}"), |value| format!("--{name}={value}"))
}

/// A grammar for pest. It has no flags but those of FROM and COPY.
fn pest(source: &str) -> Result<Vec<Seen>, String> {
    let parsed =
        dockerfile_parser::Dockerfile::parse(source).map_err(|error| error.to_string().replace('\n', " "))?;
    let command = |expr: &ShellOrExecExpr| match expr {
        ShellOrExecExpr::Shell(text) => Values::Text(text.to_string()),
        ShellOrExecExpr::Exec(words) => {
            Values::Words(words.elements.iter().map(|word| word.content.clone()).collect())
        }
    };
    let seen = |instruction: &Pest| {
        let (name, flags, values) = match instruction {
            Pest::From(from) => {
                let alias = from.alias.iter().flat_map(|alias| ["AS", &alias.content]);
                let words =
                    [from.image.content.as_str()].into_iter().chain(alias).map(str::to_owned).collect();
                let flags =
                    from.flags.iter().map(|it| flag(&it.name.content, Some(&it.value.content))).collect();
                ("FROM", Some(flags), Values::Words(words))
            }
            Pest::Arg(arg) => {
                let value = arg.value.as_ref().map(|value| format!("={}", value.content)).unwrap_or_default();
                ("ARG", None, Values::Words(vec![arg.name.content.clone() + &value]))
            }
            Pest::Label(label) => {
                let words =
                    label.labels.iter().flat_map(|it| [it.name.content.clone(), it.value.content.clone()]);
                ("LABEL", None, Values::Unquoted(words.collect()))
            }
            Pest::Run(run) => ("RUN", None, command(&run.expr)),
            Pest::Entrypoint(entrypoint) => ("ENTRYPOINT", None, command(&entrypoint.expr)),
            Pest::Cmd(cmd) => ("CMD", None, command(&cmd.expr)),
            Pest::Copy(copy) => {
                let words = copy.sources.iter().chain([&copy.destination]).map(|path| path.content.clone());
                let flags =
                    copy.flags.iter().map(|it| flag(&it.name.content, Some(&it.value.content))).collect();
                ("COPY", Some(flags), Values::Words(words.collect()))
            }
            Pest::Env(env) => {
                let words = env.vars.iter().flat_map(|it| [it.key.content.clone(), it.value.to_string()]);
                ("ENV", None, Values::Unquoted(words.collect()))
            }
            Pest::Misc(other) => (
                other.instruction.content.as_str(),
                None,
                Values::Text(other.arguments.to_string().trim().to_owned()),
            ),
        };
        let line = line_of(source, instruction.span().start);
        Seen { name: name.to_uppercase(), line, flags, values: Some(values) }
    };
    Ok(parsed.instructions.iter().map(seen).collect())
}

/// A parser written by hand.
fn hand(source: &str) -> Result<Vec<Seen>, String> {
    let parsed = parse_dockerfile::parse(source).map_err(|error| error.to_string().replace('\n', " "))?;
    let text = |text: &parse_dockerfile::UnescapedString<'_>| Values::Text(text.value.clone().into_owned());
    let command = |command: &Command<'_>| match command {
        Command::Exec(words) => {
            Values::Words(words.value.iter().map(|word| word.value.clone().into_owned()).collect())
        }
        Command::Shell(text) => Values::Raw(text.value.to_owned()),
        _ => unreachable!("there are two forms"),
    };
    let flags = |flags: &[parse_dockerfile::Flag<'_>]| {
        Some(
            flags
                .iter()
                .map(|it| flag(&it.name.value, it.value.as_ref().map(|value| &*value.value)))
                .collect(),
        )
    };
    let paths = |sources: &[Source<'_>], dest: &parse_dockerfile::UnescapedString<'_>| {
        let sources = sources.iter().filter_map(|source| match source {
            Source::Path(path) => Some(path.value.clone().into_owned()),
            _ => None,
        });
        Some(Values::Words(sources.chain([dest.value.clone().into_owned()]).collect()))
    };
    let seen = |instruction: &Hand<'_>| {
        let (name, keyword, flags, values) = match instruction {
            Hand::Add(it) => ("ADD", &it.add, flags(&it.options), paths(&it.src, &it.dest)),
            Hand::Arg(it) => ("ARG", &it.arg, None, Some(text(&it.arguments))),
            Hand::Cmd(it) => ("CMD", &it.cmd, None, Some(command(&it.arguments))),
            Hand::Copy(it) => ("COPY", &it.copy, flags(&it.options), paths(&it.src, &it.dest)),
            Hand::Entrypoint(it) => ("ENTRYPOINT", &it.entrypoint, None, Some(command(&it.arguments))),
            Hand::Env(it) => ("ENV", &it.env, None, Some(text(&it.arguments))),
            Hand::Expose(it) => {
                let words = it.arguments.iter().map(|word| word.value.clone().into_owned()).collect();
                ("EXPOSE", &it.expose, None, Some(Values::Words(words)))
            }
            Hand::From(it) => {
                let alias = it.as_.iter().flat_map(|(_, name)| ["AS", &*name.value]);
                let words = [&*it.image.value].into_iter().chain(alias).map(str::to_owned).collect();
                ("FROM", &it.from, flags(&it.options), Some(Values::Words(words)))
            }
            Hand::Healthcheck(it) => {
                let values = match &it.arguments {
                    HealthcheckArguments::Cmd { arguments: Command::Shell(text), cmd, .. } => {
                        Some(Values::Raw(source[cmd.span.start..text.span.end].to_owned()))
                    }
                    _ => None,
                };
                ("HEALTHCHECK", &it.healthcheck, flags(&it.options), values)
            }
            Hand::Label(it) => ("LABEL", &it.label, None, Some(text(&it.arguments))),
            Hand::Maintainer(it) => ("MAINTAINER", &it.maintainer, None, Some(text(&it.name))),
            Hand::Onbuild(it) => ("ONBUILD", &it.onbuild, None, None),
            Hand::Run(it) => ("RUN", &it.run, flags(&it.options), Some(command(&it.arguments))),
            Hand::Shell(it) => {
                let words = it.arguments.iter().map(|word| word.value.clone().into_owned()).collect();
                ("SHELL", &it.shell, None, Some(Values::Words(words)))
            }
            Hand::Stopsignal(it) => ("STOPSIGNAL", &it.stopsignal, None, Some(text(&it.arguments))),
            Hand::User(it) => ("USER", &it.user, None, Some(text(&it.arguments))),
            Hand::Volume(it) => {
                let words = match &it.arguments {
                    JsonOrStringArray::Json(words) => {
                        words.value.iter().map(|word| word.value.clone()).collect()
                    }
                    JsonOrStringArray::String(words) => {
                        words.iter().map(|word| word.value.clone()).collect::<Vec<_>>()
                    }
                };
                let words = words.into_iter().map(std::borrow::Cow::into_owned).collect();
                ("VOLUME", &it.volume, None, Some(Values::Words(words)))
            }
            Hand::Workdir(it) => ("WORKDIR", &it.workdir, None, Some(text(&it.arguments))),
            _ => unreachable!("these are all instructions"),
        };
        Seen { name: name.to_owned(), line: line_of(source, keyword.span.start), flags, values }
    };
    Ok(parsed.instructions.iter().map(seen).collect())
}
