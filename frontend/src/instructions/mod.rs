//! Typed instructions, grouped in stages.

use std::ops::Range;

use crate::Diagnostic;
use crate::parser::{Ast, Heredoc, Token};

/// A whole Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dockerfile {
    /// `ARG`s before the first `FROM`.
    pub global_args: Vec<Arg>,
    /// Stages in order.
    pub stages: Vec<Stage>,
    /// The escape character (needed to expand words later).
    pub escape: char,
}

/// `FROM` and what follows up to the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Base: an image, an earlier stage or `scratch`; not expanded.
    pub base: Token,
    /// `AS name`, lower-cased.
    pub name: Option<Token>,
    /// `--platform`, not expanded.
    pub platform: Option<Token>,
    /// Range of the FROM instruction.
    pub span: Range<usize>,
    /// The instructions below it.
    pub instructions: Vec<Instruction>,
}

/// One instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// What it is.
    pub kind: InstructionKind,
    /// Its range in the file.
    pub span: Range<usize>,
    /// The instruction as written, continuation lines joined by one space: for step names.
    pub display: String,
}

/// The instructions. Words are not yet expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstructionKind {
    /// RUN.
    Run(Run),
    /// COPY.
    Copy(Copy),
    /// ADD.
    Add(Add),
    /// ENV: pairs in order.
    Env(Vec<(Token, Token)>),
    /// ARG: one or several.
    Arg(Vec<Arg>),
    /// LABEL: pairs in order.
    Label(Vec<(Token, Token)>),
    /// WORKDIR.
    Workdir(Token),
    /// USER.
    User(Token),
    /// CMD.
    Cmd(CommandLine),
    /// ENTRYPOINT.
    Entrypoint(CommandLine),
    /// SHELL.
    Shell(Vec<String>),
    /// EXPOSE: words, not expanded.
    Expose(Vec<Token>),
    /// VOLUME: paths, not expanded.
    Volume(Vec<Token>),
    /// STOPSIGNAL.
    StopSignal(Token),
    /// HEALTHCHECK.
    Healthcheck(Healthcheck),
    /// ONBUILD: the trigger as text (kept in the image) and, parsed, for its diagnostics.
    OnBuild(Token),
    /// MAINTAINER.
    Maintainer(Token),
}

/// A command in shell or exec form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// A string for the shell.
    Shell(Token),
    /// JSON form.
    Exec(Vec<String>),
}

/// RUN with its flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command. With heredocs it holds the text as written; the bodies are in `heredocs`.
    pub command: CommandLine,
    /// `--mount` values, not parsed further and not expanded.
    pub mounts: Vec<Token>,
    /// `--network`.
    pub network: Option<Token>,
    /// `--security`.
    pub security: Option<Token>,
    /// Heredocs of the command.
    pub heredocs: Vec<Heredoc>,
}

/// Sources and destination of COPY and ADD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// Paths and patterns, not expanded.
    pub sources: Vec<Token>,
    /// Heredoc sources.
    pub heredocs: Vec<Heredoc>,
    /// The destination, not expanded.
    pub dest: Option<Token>,
    /// `--chown`, not expanded.
    pub chown: Option<Token>,
    /// `--chmod`, not expanded.
    pub chmod: Option<Token>,
    /// `--link`.
    pub link: bool,
    /// `--exclude`s.
    pub exclude: Vec<Token>,
}

/// COPY.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy {
    /// What and where to.
    pub paths: Paths,
    /// `--from`.
    pub from: Option<Token>,
    /// `--parents`.
    pub parents: bool,
}

/// ADD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Add {
    /// What and where to.
    pub paths: Paths,
    /// `--checksum`.
    pub checksum: Option<Token>,
    /// `--keep-git-dir`.
    pub keep_git_dir: bool,
    /// `--unpack`: `None` is the default (local archives yes, URLs no).
    pub unpack: Option<bool>,
}

/// One `NAME[=default]` of ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// Name.
    pub name: Token,
    /// Default, not expanded.
    pub default: Option<Token>,
    /// Range of the ARG instruction.
    pub span: Range<usize>,
}

/// HEALTHCHECK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `NONE`.
    None,
    /// `CMD …`. Durations in nanoseconds, 0: inherit.
    Cmd {
        /// The probe.
        command: CommandLine,
        /// `--interval`.
        interval_ns: i64,
        /// `--timeout`.
        timeout_ns: i64,
        /// `--start-period`.
        start_period_ns: i64,
        /// `--start-interval`.
        start_interval_ns: i64,
        /// `--retries`.
        retries: i64,
    },
}

/// Types the instructions of a file and groups them in stages.
pub fn parse(ast: &Ast) -> (Dockerfile, Vec<Diagnostic>) {
    let _ = ast;
    todo!()
}

/// Parses one `ONBUILD` trigger as it stands in an image config.
pub fn parse_trigger(trigger: &str) -> Result<Instruction, Vec<Diagnostic>> {
    let _ = trigger;
    todo!()
}
