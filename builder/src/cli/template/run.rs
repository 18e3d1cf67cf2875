//! A template's tree and a value become text.

use std::fmt::Write as _;

use serde_json::Value;

use super::functions::{Function, Problem, call};
use super::show::show;
use super::tree::{Binding, Branch, Command, Node, Operand, Pipeline, Span, Start, Tree};
use super::value::{Given, Room, is_true};
use super::{Wrong, is_record};

/// How deep lists of nodes, parentheses and templates may be in each other.
const DEPTH_MAX: usize = 200;

/// Nodes and operands that are looked at for one value.
const STEPS_MAX: usize = 1_000_000;

/// What a template makes of a value. For headings the values are the headings of fields, whatever is asked of them.
pub(super) fn run(tree: &Tree, value: &Value, is_heading: bool) -> Result<String, Wrong> {
    let mut run = Run {
        tree,
        variables: Vec::new(),
        room: Room::new(),
        steps: 0,
        depth: 0,
        text: String::new(),
        is_heading,
    };
    run.template(&tree.body, Given::Borrowed(value), &(0..0))?;
    Ok(run.text)
}

struct Run<'a> {
    tree: &'a Tree,
    /// The latest of a name is the one that is seen.
    variables: Vec<(&'a str, Given<'a>)>,
    room: Room,
    steps: usize,
    depth: usize,
    text: String,
    is_heading: bool,
}

/// How it goes on after a node.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl<'a> Run<'a> {
    /// One with `$` of its own. What a template sees of variables is known since it was read.
    fn template(&mut self, body: &'a [Node], dot: Given<'a>, span: &Span) -> Result<(), Wrong> {
        let outer = self.variables.len();
        self.variables.push(("$", dot.clone()));
        self.nodes(body, &dot, span)?;
        self.variables.truncate(outer);
        Ok(())
    }

    fn step(&mut self, span: &Span) -> Result<(), Wrong> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(Wrong::new(format!("the template takes more than {STEPS_MAX} steps"), span.clone()));
        }
        Ok(())
    }

    fn deeper(&mut self, span: &Span) -> Result<(), Wrong> {
        if self.depth == DEPTH_MAX {
            return Err(Wrong::new(format!("this is nested more than {DEPTH_MAX} deep"), span.clone()));
        }
        self.depth += 1;
        Ok(())
    }

    /// Nodes that are in something at `span`.
    fn nodes(&mut self, nodes: &'a [Node], dot: &Given<'a>, span: &Span) -> Result<Flow, Wrong> {
        self.deeper(span)?;
        let outer = self.variables.len();
        let mut flow = Flow::On;
        for node in nodes {
            self.step(span)?;
            flow = self.node(node, dot, span)?;
            if flow != Flow::On {
                break;
            }
        }
        // Variables of a body end with it; those of `define` and of the top end with their template.
        self.variables.truncate(outer);
        self.depth -= 1;
        Ok(flow)
    }

    fn node(&mut self, node: &'a Node, dot: &Given<'a>, span: &Span) -> Result<Flow, Wrong> {
        match node {
            Node::Text(text) => {
                let mut out = self.room.writer(&mut self.text);
                out.write_str(text).map_err(|error| Problem::from(error).at(span))?;
            }
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.binding.is_none() {
                    let mut out = self.room.writer(&mut self.text);
                    show(&mut out, &value).map_err(|error| Problem::from(error).at(&pipeline.span))?;
                }
            }
            Node::Branch(branch) => return self.branch(branch, dot),
            Node::Range { over, body, otherwise } => return self.range(over, body, otherwise, dot),
            Node::Template { name, argument, span } => {
                let given = match argument {
                    Some(argument) => self.pipeline(argument, dot)?,
                    None => Given::nothing(),
                };
                let body = self.tree.defined.get(name).map_or(&[][..], Vec::as_slice);
                self.template(body, given, span)?;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn branch(&mut self, branch: &'a Branch, dot: &Given<'a>) -> Result<Flow, Wrong> {
        let outer = self.variables.len();
        let mut span = &(0..0);
        for (condition, body) in &branch.cases {
            span = &condition.span;
            let value = self.pipeline(condition, dot)?;
            if is_true(&value) {
                let flow = self.nodes(body, if branch.is_with { &value } else { dot }, span)?;
                self.variables.truncate(outer);
                return Ok(flow);
            }
        }
        let flow = self.nodes(&branch.otherwise, dot, span)?;
        self.variables.truncate(outer);
        Ok(flow)
    }

    fn range(
        &mut self,
        over: &'a Pipeline,
        body: &'a [Node],
        otherwise: &'a [Node],
        dot: &Given<'a>,
    ) -> Result<Flow, Wrong> {
        let span = &over.span;
        let outer = self.variables.len();
        let value = self.pipeline(over, dot)?;
        let names = over.binding.as_ref().map_or(0, |binding| binding.names.len());
        let mut count = 0;
        let mut each = |this: &mut Self, key: Given<'a>, element: Given<'a>| {
            count += 1;
            this.step(span)?;
            match over.binding.as_ref().map(|binding| (binding, binding.names.as_slice())) {
                Some((binding, [element_name])) => this.bind(binding, outer, 0, element_name, &element),
                Some((binding, [key_name, element_name])) => {
                    this.bind(binding, outer, 0, key_name, &key);
                    this.bind(binding, outer, 1, element_name, &element);
                }
                _ => {}
            }
            this.nodes(body, &element, span).map(|flow| flow != Flow::Break)
        };
        match &*value {
            Value::Null => {}
            Value::Array(list) => {
                for at in 0..list.len() {
                    let element = value.part(|list| list.get(at)).unwrap_or_default();
                    if !each(self, Given::made(at), element)? {
                        break;
                    }
                }
            }
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort_unstable();
                for key in keys {
                    let element = value.part(|map| map.get(key)).unwrap_or_default();
                    if !each(self, Given::made(key.as_str()), element)? {
                        break;
                    }
                }
            }
            Value::Number(number) if names < 2 && number.is_i64() => {
                for number in 0..number.as_i64().unwrap_or_default() {
                    let number = Given::made(number);
                    if !each(self, number.clone(), number)? {
                        break;
                    }
                }
            }
            Value::Number(number) if number.is_i64() => {
                return Err(Wrong::new("`range` over a number has one variable", span.clone()));
            }
            Value::String(_) if self.is_heading => {
                each(self, Given::made(0), value.clone())?;
            }
            other => {
                let what = format!("`range` goes over a list, a map or a whole number, not over {other}");
                return Err(Wrong::new(what, span.clone()));
            }
        }
        let flow = if count == 0 { self.nodes(otherwise, dot, span)? } else { Flow::On };
        self.variables.truncate(outer);
        Ok(flow)
    }

    /// Gives a variable of a `{{range}}` what it has this time: the `at`th of those that were made at `outer`, or one
    /// that was there before.
    fn bind(&mut self, binding: &'a Binding, outer: usize, at: usize, name: &str, value: &Given<'a>) {
        match binding.is_new {
            true => self.variables[outer + at].1 = value.clone(),
            false => self.assign(name, value),
        }
    }

    fn assign(&mut self, name: &str, value: &Given<'a>) {
        if let Some((_, variable)) = self.variables.iter_mut().rfind(|(known, _)| *known == name) {
            *variable = value.clone();
        }
    }

    fn pipeline(&mut self, pipeline: &'a Pipeline, dot: &Given<'a>) -> Result<Given<'a>, Wrong> {
        let mut piped = None;
        for command in &pipeline.commands {
            piped = Some(match command {
                Command::Value(operand) => self.operand(operand, dot, &pipeline.span)?,
                Command::Call { function, arguments, span } => {
                    self.call(*function, arguments, piped.take(), dot, span)?
                }
            });
        }
        let value = piped.unwrap_or_default();
        if let Some(Binding { names, is_new }) = &pipeline.binding {
            for name in names {
                match is_new {
                    true => self.variables.push((name, value.clone())),
                    false => self.assign(name, &value),
                }
            }
        }
        Ok(value)
    }

    fn call(
        &mut self,
        function: Function,
        arguments: &'a [Operand],
        piped: Option<Given<'a>>,
        dot: &Given<'a>,
        span: &Span,
    ) -> Result<Given<'a>, Wrong> {
        let mut given = Vec::new();
        for argument in arguments {
            let value = self.operand(argument, dot, span)?;
            if function.is_decided_by(&value) {
                return Ok(value);
            }
            given.push(value);
        }
        given.extend(piped);
        call(function, &given, self.is_heading, &mut self.room).map_err(|problem| problem.at(span))
    }

    /// `span` is that of what the operand belongs to.
    fn operand(&mut self, operand: &'a Operand, dot: &Given<'a>, span: &Span) -> Result<Given<'a>, Wrong> {
        self.step(span)?;
        let (start, names) = match operand {
            Operand::Constant(value) => return Ok(Given::Borrowed(value)),
            Operand::Call { function, span } => return self.call(*function, &[], None, dot, span),
            Operand::Path { start, names } => (start, names),
        };
        let mut value = match start {
            Start::Dot => dot.clone(),
            Start::Variable(name) => {
                let found = self.variables.iter().rfind(|(known, _)| known == name);
                found.map(|(_, value)| value.clone()).unwrap_or_default()
            }
            Start::Pipeline(inner) => {
                self.deeper(&inner.span)?;
                let value = self.pipeline(inner, dot)?;
                self.depth -= 1;
                value
            }
        };
        for name in names {
            value = self.field(&value, &name.text).map_err(|problem| problem.at(&name.span))?;
        }
        Ok(value)
    }

    /// What a map has not is nothing, and nothing has no fields; what has fixed fields has only these.
    fn field(&self, value: &Given<'a>, name: &str) -> Result<Given<'a>, Problem> {
        if let Some(found) = value.part(|value| value.get(name)) {
            return Ok(found);
        }
        match &**value {
            Value::Null => Ok(Given::nothing()),
            Value::Object(map) if is_record(map) => {
                Err(Problem::unknown(name, map.keys().map(String::as_str)))
            }
            Value::Object(_) => Ok(Given::nothing()),
            Value::String(_) if self.is_heading => Ok(value.clone()),
            other => Err(Problem::new(format!("there is nothing with fields before `.{name}`, but {other}"))),
        }
    }
}
