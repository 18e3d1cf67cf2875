//! Lines → instructions: directives, comments, continuations, heredocs, flags. A span for every token.
//!
//! A Dockerfile is read line by line, because the first lines decide how the others continue (`# escape=`) and an
//! instruction's operators decide how many lines follow it (here-documents). There is no limit on a line's length, and
//! every step takes time linear in its input.

mod directive;
mod flag;
mod heredoc;
pub(crate) mod json;
mod line;
mod mapped;

use std::ops::Range;
use std::sync::Arc;

use crate::Diagnostic;
use directive::DirectiveParser;
pub use heredoc::heredoc_word;
use line::{Lines, LogicalLine, display_with_capitals};
pub use mapped::SourceMap;
pub(crate) use mapped::{Mapped, is_blank};

/// A text together with where it stands. The text may differ from the source (continuations joined, quotes removed
/// in flags); the span covers what it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token {
    /// The text.
    pub text: String,
    /// Byte range in the Dockerfile.
    pub span: Range<usize>,
}

/// A parsed file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ast {
    /// Parser directives at the top (`syntax`, `escape`, `check`), names lower-cased.
    pub directives: Vec<(Token, Token)>,
    /// The escape character: backslash or backtick.
    pub escape: char,
    /// The instructions in order.
    pub nodes: Vec<Node>,
}

/// One instruction as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The instruction's name as written.
    pub name: Token,
    /// `--flag[=value]` words after the name, quotes stripped.
    pub flags: Vec<Token>,
    /// Where the bytes of each flag's text stand in the file.
    pub flag_maps: Vec<SourceMap>,
    /// The rest of the instruction, continuation lines joined, comments inside removed, heredoc bodies not included.
    pub args: Token,
    /// Where the bytes of `args.text` stand in the file, so that tokens split from it later get exact spans.
    pub args_map: SourceMap,
    /// Heredocs in order.
    pub heredocs: Vec<Heredoc>,
    /// Comment lines directly above the instruction, without `#`.
    pub comments: Vec<Token>,
    /// The instruction on one line for people: name in capitals, continuations joined by one space.
    pub display: Arc<str>,
    /// From the name to the end of the last line (heredoc bodies included).
    pub span: Range<usize>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// Delimiter word without quotes.
    pub name: String,
    /// The body, tabs already stripped for `<<-`.
    pub content: String,
    /// Whether variables in the body are expanded (no part of the word was quoted).
    pub expand: bool,
    /// `<<-`.
    pub chomp: bool,
    /// The number before `<<`, 0 if there is none.
    pub fd: u32,
    /// Byte range of the body in the file.
    pub span: Range<usize>,
    /// Byte range of the operator.
    pub operator: Range<usize>,
}

/// Parses a Dockerfile. Whatever the input, this ends; errors and warnings are in the list.
pub fn parse(source: &str) -> (Ast, Vec<Diagnostic>) {
    let mut parser = Parser {
        lines: Lines::new(source),
        directives: DirectiveParser::default(),
        comments: Vec::new(),
        ast: Ast { escape: '\\', ..Ast::default() },
        diagnostics: Vec::new(),
    };
    parser.file();
    parser.diagnostics.extend(directive::foreign_syntax(source, &parser.ast));
    if parser.ast.nodes.is_empty() {
        parser.diagnostics.push(match source {
            "" => Diagnostic::empty_file(),
            _ => Diagnostic::no_instructions(),
        });
    }
    (parser.ast, parser.diagnostics)
}

struct Parser<'a> {
    lines: Lines<'a>,
    directives: DirectiveParser,
    /// Comment lines since the last line that was none.
    comments: Vec<Token>,
    ast: Ast,
    diagnostics: Vec<Diagnostic>,
}

impl Parser<'_> {
    fn file(&mut self) {
        while let Some(physical) = self.lines.next() {
            let line = physical.trim_start();
            self.directives.line(line, &mut self.ast, &mut self.diagnostics);
            match line.text.strip_prefix('#') {
                Some(comment) => {
                    let start = line.start + 1 + (comment.len() - comment.trim_start().len());
                    let text = comment.trim();
                    self.comments.push(Token { text: text.to_owned(), span: start..start + text.len() });
                }
                None if line.text.is_empty() => self.comments.clear(),
                None => {
                    let logical =
                        LogicalLine::read(line, &mut self.lines, self.ast.escape, &mut self.diagnostics);
                    let comments = std::mem::take(&mut self.comments);
                    self.instruction(&logical, comments);
                }
            }
        }
    }

    fn instruction(&mut self, line: &LogicalLine, comments: Vec<Token>) {
        let text = line.mapped().trim();
        if text.text.is_empty() {
            // Nothing but escape characters at ends of lines.
            return;
        }
        let mut node = node(text, |name_bytes| line.display(name_bytes));
        node.comments = comments;
        node.span.end = node.span.end.max(line.end);
        for heredoc in heredoc::operators(&node, text) {
            let (body, terminated) = heredoc::body(heredoc, &mut self.lines);
            if !terminated {
                self.diagnostics.push(Diagnostic::unterminated_heredoc(body.operator.clone(), &body.name));
            }
            node.span.end = self.lines.end_of_last();
            node.heredocs.push(body);
        }
        self.ast.nodes.push(node);
    }
}

/// The instruction inside an ONBUILD, if there is any text.
pub(crate) fn trigger(onbuild: &Node) -> Option<Node> {
    let args = onbuild.mapped_args();
    if args.text.is_empty() {
        return None;
    }
    let (_, display) = onbuild.display.split_once(char::is_whitespace)?;
    let mut node = node(args, |name_bytes| display_with_capitals(display.trim(), name_bytes));
    node.heredocs.clone_from(&onbuild.heredocs);
    node.span.end = onbuild.span.end;
    Some(node)
}

impl Node {
    /// The arguments with the offset of each byte.
    pub(crate) fn mapped_args(&self) -> Mapped<'_> {
        Mapped::new(&self.args.text, &self.args_map, self.args.span.end)
    }
}

/// Splits one line, already trimmed, into name, flags and the rest.
fn node(line: Mapped<'_>, display: impl FnOnce(usize) -> String) -> Node {
    let name_end = line.text.find(is_blank).unwrap_or(line.text.len());
    let name = line.slice(0..name_end);
    let (flags, flag_maps, args) = flag::split(line.slice(name_end..line.text.len()));
    let args = args.trim();
    let span = line.span();
    Node {
        name: name.token(),
        flags,
        flag_maps,
        args: args.token(),
        args_map: args.map(),
        heredocs: Vec::new(),
        comments: Vec::new(),
        display: display(name.text.len()).into(),
        span,
    }
}
