//! Lines → instructions: directives, comments, continuations, heredocs, flags. A span for every token.

use std::ops::Range;

use crate::Diagnostic;

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
    /// The rest of the instruction, continuation lines joined, comments inside removed, heredoc bodies not included.
    pub args: Token,
    /// For every byte of `args.text` the offset in the file it came from (same length as `args.text`), so that
    /// tokens split from it later get exact spans.
    pub args_map: Vec<usize>,
    /// Heredocs in order.
    pub heredocs: Vec<Heredoc>,
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
}

/// Parses a Dockerfile. Whatever the input, this ends; errors are in the list.
pub fn parse(source: &str) -> (Ast, Vec<Diagnostic>) {
    let _ = source;
    todo!()
}
