//! The tokens of a template become its tree.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Wrong;
use super::functions::Function;
use super::lex::{Kind, Token, tokens};
use super::tree::{Binding, Branch, Command, Name, Node, Operand, Pipeline, Span, Start, Tree};

/// How deep parentheses and `{{if}}`, `{{range}}`, `{{with}}` and the like may stand in each other.
const NESTING_MAX: usize = 100;

/// Bytes of a template.
const TEMPLATE_BYTES_MAX: usize = 64 << 10;

/// Reads a template.
pub(super) fn parse(text: &str) -> Result<Tree, Wrong> {
    if text.len() > TEMPLATE_BYTES_MAX {
        return Err(Wrong::new(format!("the template has more than {TEMPLATE_BYTES_MAX} bytes"), 0..0));
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
        variables: vec!["$".to_owned()],
        loops: 0,
        nesting: 0,
        defined: BTreeMap::new(),
        wanted: Vec::new(),
    };
    let (body, end) = parser.nodes()?;
    match end.what {
        EndOf::Template => {}
        EndOf::Block => return Err(Wrong::new("`{{end}}` ends nothing", end.span)),
        EndOf::Case => return Err(Wrong::new("`{{else}}` belongs to nothing", end.span)),
    }
    match parser.wanted.iter().find(|(name, _)| !parser.defined.contains_key(name)) {
        Some((name, span)) => Err(Wrong::new(format!("there is no template `{name}`"), span.clone())
            .hint("`{{define \"name\"}}…{{end}}` makes one")),
        None => Ok(Tree { body, defined: parser.defined }),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    /// Those that are known here, with their `$`.
    variables: Vec<String>,
    /// How many `{{range}}` are around.
    loops: usize,
    nesting: usize,
    defined: BTreeMap<String, Vec<Node>>,
    /// The templates that are called, and where.
    wanted: Vec<(String, Span)>,
}

/// What ended a list of nodes.
struct End {
    what: EndOf,
    span: Span,
}

#[derive(PartialEq)]
enum EndOf {
    /// There is no more.
    Template,
    /// `{{end}}`, which is consumed.
    Block,
    /// `{{else`, the rest of which is not consumed.
    Case,
}

impl Parser {
    /// The last token is [`Kind::End`], which is never passed.
    fn peek(&self) -> &Token {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> &Token {
        &self.tokens[(self.at + ahead).min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn is_next_word(&self, word: &str) -> bool {
        matches!(&self.peek().kind, Kind::Word(it) if it == word)
    }

    /// `}}` after what takes nothing more.
    fn close(&mut self, of: &str) -> Result<(), Wrong> {
        let token = self.next();
        match token.kind {
            Kind::Close => Ok(()),
            _ => Err(Wrong::new(format!("`}}}}` is expected after {of}"), token.span)),
        }
    }

    /// Does something a level deeper.
    fn nested<T>(
        &mut self,
        span: &Span,
        inner: impl FnOnce(&mut Self) -> Result<T, Wrong>,
    ) -> Result<T, Wrong> {
        if self.nesting == NESTING_MAX {
            return Err(Wrong::new(format!("this is nested more than {NESTING_MAX} deep"), span.clone()));
        }
        self.nesting += 1;
        let made = inner(self)?;
        self.nesting -= 1;
        Ok(made)
    }

    fn nodes(&mut self) -> Result<(Vec<Node>, End), Wrong> {
        let mut nodes = Vec::new();
        loop {
            let token = self.next();
            match token.kind {
                Kind::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Kind::Open => {}
                _ => return Ok((nodes, End { what: EndOf::Template, span: token.span })),
            }
            let Token { kind: Kind::Word(word), span, .. } = self.peek().clone() else {
                nodes.push(self.action()?);
                continue;
            };
            if !KEYWORDS.contains(&word.as_str()) {
                nodes.push(self.action()?);
                continue;
            }
            self.next();
            match word.as_str() {
                "end" => {
                    self.close("`end`")?;
                    return Ok((nodes, End { what: EndOf::Block, span }));
                }
                "else" => return Ok((nodes, End { what: EndOf::Case, span })),
                "define" => {
                    let name = self.template_name()?;
                    self.close("the name of a template")?;
                    self.define(name, &span)?;
                }
                _ => nodes.push(self.nested(&span, |this| this.block(&word, &span))?),
            }
        }
    }

    /// What a keyword that is neither `end`, `else` nor `define` begins.
    fn block(&mut self, keyword: &str, span: &Span) -> Result<Node, Wrong> {
        match keyword {
            "if" => self.branch(false, span),
            "with" => self.branch(true, span),
            "range" => self.range(span),
            "template" => self.call(),
            "block" => {
                let name = self.template_name()?;
                let argument = Some(self.condition("block")?);
                self.define(name.clone(), span)?;
                Ok(Node::Template { name, argument, span: span.clone() })
            }
            _ => {
                self.close(&format!("`{keyword}`"))?;
                match (self.loops, keyword) {
                    (0, _) => Err(Wrong::new(
                        format!("`{{{{{keyword}}}}}` is outside of a `{{{{range}}}}`"),
                        span.clone(),
                    )),
                    (_, "break") => Ok(Node::Break),
                    _ => Ok(Node::Continue),
                }
            }
        }
    }

    fn action(&mut self) -> Result<Node, Wrong> {
        let pipeline = self.pipeline(1)?;
        self.close("a pipeline")?;
        Ok(Node::Action(pipeline))
    }

    /// What `{{if`, `{{with` and `{{block "name"` go on with.
    fn condition(&mut self, keyword: &str) -> Result<Pipeline, Wrong> {
        let pipeline = self.pipeline(1)?;
        self.close(&format!("what `{keyword}` is given"))?;
        Ok(pipeline)
    }

    fn branch(&mut self, is_with: bool, opening: &Span) -> Result<Node, Wrong> {
        let keyword = if is_with { "with" } else { "if" };
        let outer = self.variables.len();
        let (mut cases, mut otherwise) = (Vec::new(), Vec::new());
        loop {
            let condition = self.condition(keyword)?;
            let (body, is_more) = self.body(keyword, opening)?;
            cases.push((condition, body));
            if !is_more {
                break;
            }
            if !self.is_next_word(keyword) {
                otherwise = self.otherwise(keyword, opening)?;
                break;
            }
            self.next();
        }
        self.variables.truncate(outer);
        Ok(Node::Branch(Branch { is_with, cases, otherwise }))
    }

    fn range(&mut self, opening: &Span) -> Result<Node, Wrong> {
        let outer = self.variables.len();
        let over = self.pipeline(2)?;
        self.close("what `range` is given")?;
        self.loops += 1;
        let (body, is_more) = self.body("range", opening)?;
        self.loops -= 1;
        let otherwise = if is_more { self.otherwise("range", opening)? } else { Vec::new() };
        self.variables.truncate(outer);
        Ok(Node::Range { over, body, otherwise })
    }

    /// The nodes up to `{{end}}` or `{{else`; says whether it is the latter.
    fn body(&mut self, keyword: &str, opening: &Span) -> Result<(Vec<Node>, bool), Wrong> {
        let outer = self.variables.len();
        let (nodes, end) = self.nodes()?;
        self.variables.truncate(outer);
        match end.what {
            EndOf::Template => {
                Err(Wrong::new(format!("`{{{{{keyword}}}}}` has no `{{{{end}}}}`"), opening.clone()))
            }
            what => Ok((nodes, what == EndOf::Case)),
        }
    }

    /// From behind `{{else` to `{{end}}`.
    fn otherwise(&mut self, keyword: &str, opening: &Span) -> Result<Vec<Node>, Wrong> {
        self.close("`else`")?;
        match self.body(keyword, opening)? {
            (nodes, false) => Ok(nodes),
            (_, true) => {
                let second = self.tokens[self.at - 1].span.clone();
                Err(Wrong::new(format!("`{{{{{keyword}}}}}` has a second `{{{{else}}}}`"), second))
            }
        }
    }

    fn template_name(&mut self) -> Result<String, Wrong> {
        let token = self.next();
        match token.kind {
            Kind::Constant(Value::String(name)) => Ok(name),
            _ => Err(Wrong::new("the name of a template, in quotes, is expected", token.span)),
        }
    }

    /// `{{template "name" pipeline}}`
    fn call(&mut self) -> Result<Node, Wrong> {
        let span = self.peek().span.clone();
        let name = self.template_name()?;
        let argument = match self.peek().kind {
            Kind::Close => None,
            _ => Some(self.pipeline(1)?),
        };
        self.close("what a template is given")?;
        self.wanted.push((name.clone(), span.clone()));
        Ok(Node::Template { name, argument, span })
    }

    /// The body of a template of its own, where nothing from outside is known.
    fn define(&mut self, name: String, opening: &Span) -> Result<(), Wrong> {
        if self.defined.contains_key(&name) {
            return Err(Wrong::new(format!("there are two templates `{name}`"), opening.clone()));
        }
        let variables = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let loops = std::mem::take(&mut self.loops);
        let (body, is_more) = self.nested(opening, |this| this.body("define", opening))?;
        if is_more {
            return Err(Wrong::new("`{{else}}` belongs to nothing", self.peek().span.clone()));
        }
        (self.variables, self.loops) = (variables, loops);
        self.defined.insert(name, body);
        Ok(())
    }

    /// Commands up to `}}` or `)`, which is not consumed.
    fn pipeline(&mut self, variables_max: usize) -> Result<Pipeline, Wrong> {
        let start = self.peek().span.start;
        let binding = self.binding(variables_max)?;
        let mut commands = vec![self.command(false)?];
        while self.peek().kind == Kind::Bar {
            self.next();
            commands.push(self.command(true)?);
        }
        if let Some(Binding { names, is_new: true }) = &binding {
            self.variables.extend(names.iter().cloned());
        }
        let end = self.tokens[self.at - 1].span.end;
        Ok(Pipeline { binding, commands, span: start..end })
    }

    /// `$x :=`, `$x =`, `$i, $x :=`, if that is what comes.
    fn binding(&mut self, variables_max: usize) -> Result<Option<Binding>, Wrong> {
        let mut names = Vec::new();
        let mut ahead = 0;
        let is_new = loop {
            let Kind::Variable(name) = &self.peek_at(ahead).kind else { return Ok(None) };
            names.push((name.clone(), self.peek_at(ahead).span.clone()));
            let follows = self.peek_at(ahead + 1);
            match follows.kind {
                Kind::Comma if names.len() == variables_max => {
                    let only = if variables_max == 1 { "one variable" } else { "two variables" };
                    return Err(Wrong::new(
                        format!("there can be {only} here, not more"),
                        follows.span.clone(),
                    ));
                }
                Kind::Comma => ahead += 2,
                Kind::Declare => break true,
                Kind::Assign => break false,
                _ if ahead > 0 => {
                    return Err(Wrong::new("`:=` or `=` is expected after variables", follows.span.clone()));
                }
                _ => return Ok(None),
            }
        };
        for (name, span) in &names {
            if name == "$" {
                return Err(Wrong::new("`$` is what the template is given, and stays so", span.clone()));
            }
            if !is_new {
                self.require_variable(name, span)?;
            }
        }
        self.at += ahead + 2;
        Ok(Some(Binding { names: names.into_iter().map(|(name, _)| name).collect(), is_new }))
    }

    fn require_variable(&self, name: &str, span: &Span) -> Result<(), Wrong> {
        if self.variables.iter().any(|known| known == name) {
            return Ok(());
        }
        let wrong = Wrong::new(format!("there is no variable `{name}`"), span.clone());
        Err(wrong
            .hint(format!("`{{{{{name} := .Field}}}}` makes one, up to the `{{{{end}}}}` of what it is in")))
    }

    /// Up to `|`, `}}` or `)`, which is not consumed.
    fn command(&mut self, is_piped: bool) -> Result<Command, Wrong> {
        let first = self.peek().clone();
        let first_operand = match &first.kind {
            Kind::Word(_) => {
                self.next();
                None
            }
            Kind::Nil => return Err(Wrong::new("`nil` alone is nothing to show", first.span)),
            _ => Some(self.operand()?),
        };
        let mut arguments = Vec::new();
        while !matches!(self.peek().kind, Kind::Bar | Kind::Close | Kind::RightParen | Kind::End) {
            let token = self.peek();
            if !token.is_apart {
                return Err(Wrong::new("a space, `|` or `}}` is expected here", token.span.clone()));
            }
            arguments.push(self.operand()?);
        }
        let span = first.span.start..self.tokens[self.at - 1].span.end;
        let Some(operand) = first_operand else {
            let Kind::Word(word) = &first.kind else {
                return Err(Wrong::new("a function is expected", span));
            };
            let function = function(word, &first.span)?;
            function.require_count(arguments.len() + usize::from(is_piped)).map_err(|it| it.at(&span))?;
            return Ok(Command::Call { function, arguments, span });
        };
        if is_piped {
            return Err(Wrong::new("only a function can be given what is before `|`", span));
        }
        if !arguments.is_empty() {
            let wrong = Wrong::new("only a function can be given something", span);
            return Err(wrong.hint("to show several things write several `{{…}}`, or `{{print .A .B}}`"));
        }
        Ok(Command::Value(operand))
    }

    fn operand(&mut self) -> Result<Operand, Wrong> {
        let Token { kind, span, .. } = self.next();
        let mut names = Vec::new();
        let start = match kind {
            Kind::Constant(value) => return Ok(Operand::Constant(value)),
            Kind::Nil => return Ok(Operand::Constant(Value::Null)),
            Kind::Word(word) => {
                let function = function(&word, &span)?;
                function.require_count(0).map_err(|it| it.at(&span))?;
                return Ok(Operand::Call { function, span });
            }
            Kind::Dot => return Ok(Operand::Path { start: Start::Dot, names }),
            Kind::Field(text) => {
                names.push(Name { text, span });
                Start::Dot
            }
            Kind::Variable(name) => {
                self.require_variable(&name, &span)?;
                Start::Variable(name)
            }
            Kind::LeftParen => {
                let inner = self.nested(&span, |this| this.pipeline(1))?;
                if self.next().kind != Kind::RightParen {
                    return Err(Wrong::new("`(` has no `)`", span));
                }
                Start::Pipeline(Box::new(inner))
            }
            Kind::RightParen => {
                return Err(Wrong::new("`)` without what it closes, or with nothing before it", span));
            }
            _ => return Err(Wrong::new("something is missing here: a field, a value or a function", span)),
        };
        while let Token { kind: Kind::Field(text), span, is_apart: false } = self.peek().clone() {
            self.next();
            names.push(Name { text, span });
        }
        Ok(Operand::Path { start, names })
    }
}

/// Words that are no functions.
const KEYWORDS: [&str; 10] =
    ["if", "else", "end", "range", "with", "define", "template", "block", "break", "continue"];

fn function(word: &str, span: &Span) -> Result<Function, Wrong> {
    if KEYWORDS.contains(&word) {
        return Err(Wrong::new(format!("`{word}` stands at the start of an action only"), span.clone()));
    }
    Function::named(word).ok_or_else(|| {
        Wrong::new(format!("there is no function `{word}`"), span.clone())
            .hint(format!("there are {}", Function::names()))
    })
}
