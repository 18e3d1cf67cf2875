//! What a template says, as a tree. Places are bytes of the template's text.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;

use super::functions::Function;

/// Bytes of the template's text.
pub(super) type Span = Range<usize>;

/// A template that was read, with those that it defines.
#[derive(Debug, PartialEq)]
pub(super) struct Tree {
    pub(super) body: Vec<Node>,
    pub(super) defined: BTreeMap<String, Vec<Node>>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    /// Shown, unless it gives its value to variables.
    Action(Pipeline),
    Branch(Branch),
    Range {
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// `{{template "name" .Field}}`
    Template {
        name: String,
        argument: Option<Pipeline>,
        span: Span,
    },
    Break,
    Continue,
}

/// `{{if}}` or `{{with}}`: the first case whose value is true.
#[derive(Debug, PartialEq)]
pub(super) struct Branch {
    /// Whether the value becomes the dot.
    pub(super) is_with: bool,
    pub(super) cases: Vec<(Pipeline, Vec<Node>)>,
    pub(super) otherwise: Vec<Node>,
}

/// Commands of which each is given what the one before has made.
#[derive(Debug, PartialEq)]
pub(super) struct Pipeline {
    pub(super) binding: Option<Binding>,
    pub(super) commands: Vec<Command>,
    pub(super) span: Span,
}

/// The variables that a pipeline gives its value to.
#[derive(Debug, PartialEq)]
pub(super) struct Binding {
    pub(super) names: Vec<String>,
    /// `:=`; else `=`.
    pub(super) is_new: bool,
}

#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Value(Operand),
    Call { function: Function, arguments: Vec<Operand>, span: Span },
}

#[derive(Debug, PartialEq)]
pub(super) enum Operand {
    Constant(Value),
    /// A function that is given nothing.
    Call {
        function: Function,
        span: Span,
    },
    /// A value, or what is in it.
    Path {
        start: Start,
        names: Vec<Name>,
    },
}

#[derive(Debug, PartialEq)]
pub(super) enum Start {
    Dot,
    /// With its `$`.
    Variable(String),
    /// In parentheses.
    Pipeline(Box<Pipeline>),
}

/// A field.
#[derive(Debug, PartialEq)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) span: Span,
}

impl Tree {
    /// The fields that it asks of the very value that it is given.
    pub(super) fn fields(&self) -> Vec<&Name> {
        let mut found = Vec::new();
        in_nodes(&self.body, true, &mut found);
        found
    }
}

/// `is_given` says whether the dot is the value that the template is given. Nesting is limited where the tree is made.
fn in_nodes<'a>(nodes: &'a [Node], is_given: bool, found: &mut Vec<&'a Name>) {
    for node in nodes {
        match node {
            Node::Text(_) | Node::Break | Node::Continue => {}
            Node::Action(pipeline) => in_pipeline(pipeline, is_given, found),
            Node::Branch(Branch { is_with, cases, otherwise }) => {
                for (condition, body) in cases {
                    in_pipeline(condition, is_given, found);
                    in_nodes(body, is_given && !is_with, found);
                }
                in_nodes(otherwise, is_given, found);
            }
            Node::Range { over, body, otherwise } => {
                in_pipeline(over, is_given, found);
                in_nodes(body, false, found);
                in_nodes(otherwise, is_given, found);
            }
            Node::Template { argument, .. } => {
                argument.iter().for_each(|argument| in_pipeline(argument, is_given, found));
            }
        }
    }
}

fn in_pipeline<'a>(pipeline: &'a Pipeline, is_given: bool, found: &mut Vec<&'a Name>) {
    for command in &pipeline.commands {
        let operands = match command {
            Command::Value(operand) => std::slice::from_ref(operand),
            Command::Call { arguments, .. } => arguments.as_slice(),
        };
        for operand in operands {
            let Operand::Path { start, names } = operand else { continue };
            let is_of_given = match start {
                Start::Dot => is_given,
                Start::Variable(name) => name == "$",
                Start::Pipeline(inner) => {
                    in_pipeline(inner, is_given, found);
                    false
                }
            };
            found.extend(names.first().filter(|_| is_of_given));
        }
    }
}
