//! What can be set from outside: a target's build arguments, secrets, SSH agents and caches; a file's targets.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use wharf_solver::llb::{MountKind, Op};

use super::{Converted, Options, StageArgs};
use crate::instructions::{Arg, Dockerfile, InstructionKind};
use crate::lint::doc_comments;
use crate::parser::{Ast, Token};
use crate::shell::Lex;

/// What a target takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target's name, empty if it has none.
    pub name: String,
    /// What the comment above it says.
    pub description: String,
    /// Build arguments, in the order of the file.
    pub args: Vec<OutlineArg>,
    /// Secrets.
    pub secrets: Vec<Resource>,
    /// SSH agents.
    pub ssh: Vec<Resource>,
    /// Cache mounts.
    pub caches: Vec<Resource>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArg {
    /// Name.
    pub name: String,
    /// What the comment above it says.
    pub description: String,
    /// The value it has in this build.
    pub value: String,
    /// Range of the ARG instruction.
    pub span: Range<usize>,
}

/// Something that a RUN mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its id.
    pub id: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// Range of the first RUN that asks for it.
    pub span: Range<usize>,
}

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name, empty if it has none.
    pub name: String,
    /// Whether it is built when none is named.
    pub is_default: bool,
    /// What the comment above it says.
    pub description: String,
    /// What its FROM names, as written.
    pub base: String,
    /// Its `--platform`, as written.
    pub platform: String,
    /// Range of its FROM.
    pub span: Range<usize>,
}

/// The stages in order.
pub fn targets(ast: &Ast, dockerfile: &Dockerfile) -> Vec<Target> {
    let text = |token: Option<&Token>| token.map(|token| token.text.clone()).unwrap_or_default();
    let last = dockerfile.stages.len().saturating_sub(1);
    let target = |(index, stage): (usize, &crate::instructions::Stage)| {
        let name = text(stage.name.as_ref());
        Target {
            is_default: index == last,
            description: description(ast, &stage.span, &name),
            name,
            base: stage.base.text.clone(),
            platform: text(stage.platform.as_ref()),
            span: stage.span.clone(),
        }
    };
    dockerfile.stages.iter().enumerate().map(target).collect()
}

/// What the stages that were converted take.
pub fn outline(ast: &Ast, dockerfile: &Dockerfile, options: &Options, converted: &Converted) -> Outline {
    let mut outline = Outline::default();
    if let Some(target) = converted.args.stages.last() {
        let stage = &dockerfile.stages[target.stage];
        outline.name = stage.name.as_ref().map(|name| name.text.clone()).unwrap_or_default();
        outline.description = description(ast, &stage.span, &outline.name);
    }
    outline.args = args(ast, dockerfile, options, converted);
    for (_, vertex) in converted.definition.iter() {
        let Op::Exec(exec) = &vertex.op else { continue };
        let span = vertex.metadata.location.clone().unwrap_or_default();
        for secret in &exec.secret_env {
            add(&mut outline.secrets, &secret.id, !secret.optional, &span);
        }
        for mount in &exec.mounts {
            match &mount.kind {
                MountKind::Secret { id, optional, .. } => add(&mut outline.secrets, id, !optional, &span),
                MountKind::Ssh { id, optional, .. } => add(&mut outline.ssh, id, !optional, &span),
                MountKind::Cache { id, .. } => add(&mut outline.caches, id, false, &span),
                _ => {}
            }
        }
    }
    for list in [&mut outline.secrets, &mut outline.ssh, &mut outline.caches] {
        list.sort_by_key(|resource| resource.span.start);
    }
    outline
}

fn add(list: &mut Vec<Resource>, id: &str, required: bool, span: &Range<usize>) {
    match list.iter_mut().find(|known| known.id == id) {
        Some(known) => {
            known.required |= required;
            if span.start < known.span.start {
                known.span = span.clone();
            }
        }
        None => list.push(Resource { id: id.to_owned(), required, span: span.clone() }),
    }
}

/// The arguments of the stages, those of the global scope that they or their FROMs use, and what those are made of.
/// Where two stages declare the same, the one nearer to the target counts.
fn args(ast: &Ast, dockerfile: &Dockerfile, options: &Options, converted: &Converted) -> Vec<OutlineArg> {
    let is_global: BTreeSet<&str> = dockerfile.global_args.iter().map(|arg| &*arg.name.text).collect();
    let mut args: Vec<OutlineArg> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut wanted = BTreeSet::new();
    for StageArgs { stage, values } in converted.args.stages.iter().rev() {
        let stage = &dockerfile.stages[*stage];
        for token in stage.platform.iter().chain([&stage.base]) {
            wanted.extend(names_in(token, dockerfile.escape));
        }
        let values: BTreeMap<&str, &Option<String>> =
            values.iter().map(|(name, value)| (name.as_str(), value)).collect();
        let declared = stage.instructions.iter().filter_map(|instruction| match &instruction.kind {
            InstructionKind::Arg(args) => Some(args),
            _ => None,
        });
        for arg in declared.flatten() {
            let name = arg.name.text.as_str();
            let is_imported =
                arg.default.is_none() && is_global.contains(name) && !options.build_args.contains_key(name);
            if is_imported {
                wanted.insert(name.to_owned());
            } else if seen.insert(name) {
                args.push(outline_arg(ast, arg, values.get(name).copied().cloned().flatten()));
            }
        }
    }
    // From the last to the first: each default sees those above it only.
    let values: BTreeMap<&str, &str> =
        converted.args.global.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for arg in dockerfile.global_args.iter().rev() {
        let name = arg.name.text.as_str();
        if !wanted.contains(name) {
            continue;
        }
        if let Some(default) = &arg.default
            && !options.build_args.contains_key(name)
        {
            wanted.extend(names_in(default, dockerfile.escape));
        }
        if seen.insert(name) {
            args.push(outline_arg(ast, arg, values.get(name).map(|value| (*value).to_owned())));
        }
    }
    args.sort_by_key(|arg| arg.span.start);
    args
}

fn outline_arg(ast: &Ast, arg: &Arg, value: Option<String>) -> OutlineArg {
    let name = arg.name.text.clone();
    let description = description(ast, &arg.span, &name);
    OutlineArg { name, description, value: value.unwrap_or_default(), span: arg.span.clone() }
}

/// The names of the variables in a word.
fn names_in(token: &Token, escape: char) -> Vec<String> {
    let names = RefCell::new(Vec::new());
    let lookup = |name: &str| {
        names.borrow_mut().push(name.to_owned());
        None
    };
    // Names before an error count.
    let _ = Lex { escape, lookup: &lookup }.word(&token.text);
    names.into_inner()
}

/// What `# NAME text` directly above the instruction at `span` says.
fn description(ast: &Ast, span: &Range<usize>, name: &str) -> String {
    let Ok(at) = ast.nodes.binary_search_by_key(&span.start, |node| node.span.start) else {
        return String::new();
    };
    if name.is_empty() {
        return String::new();
    }
    let described = doc_comments(ast, &ast.nodes[at])
        .find_map(|comment| comment.text.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    described.unwrap_or_default()
}
