//! Typed instructions, grouped in stages.

mod command;
mod duration;
mod files;
mod flags;
mod from;
mod healthcheck;
mod pairs;

use std::ops::Range;
use std::sync::Arc;

use crate::Diagnostic;
use crate::diagnostic::nearest;
use crate::parser::json::{self, JsonForm};
use crate::parser::{self, Ast, Heredoc, Mapped, Node, Token};
pub use duration::parse_duration;
use flags::Flags;

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
    /// Base: an image, an earlier stage or `scratch`; not expanded, never blank.
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
    /// Its name as written.
    pub name: Token,
    /// Its range in the file.
    pub span: Range<usize>,
    /// The instruction as written but for its name in capitals, continuation lines joined by one space: for step
    /// names.
    pub display: Arc<str>,
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
    /// `--device` values.
    pub devices: Vec<Token>,
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
    /// `--keep-git-dir`, if it is there.
    pub keep_git_dir: Option<bool>,
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

/// The names of all instructions.
pub const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Types the instructions of a file and groups them in stages. What cannot be understood is left out and told.
pub fn parse(ast: &Ast) -> (Dockerfile, Vec<Diagnostic>) {
    let mut dockerfile = Dockerfile { escape: ast.escape, ..Dockerfile::default() };
    let mut reader = Reader { escape: ast.escape, diagnostics: Vec::new() };
    // A FROM with errors, be it a misspelt one, still keeps what follows from being "before the first FROM".
    let mut seen_from = false;
    let mut told_before_from = false;
    for node in &ast.nodes {
        if node.name.text.eq_ignore_ascii_case("FROM") {
            seen_from = true;
            dockerfile.stages.extend(reader.from(node));
            continue;
        }
        let Some(kind) = reader.instruction(node) else {
            seen_from |= nearest(&node.name.text, &NAMES) == Some("FROM");
            continue;
        };
        match (kind, dockerfile.stages.last_mut()) {
            (InstructionKind::Arg(args), None) if !seen_from => dockerfile.global_args.extend(args),
            (kind, Some(stage)) => stage.instructions.push(Instruction {
                kind,
                name: node.name.clone(),
                span: node.span.clone(),
                display: node.display.clone(),
            }),
            (_, None) if !seen_from && !told_before_from => {
                told_before_from = true;
                reader.tell(Diagnostic::before_from(node.name.span.clone()));
            }
            (_, None) => {}
        }
    }
    if let Some(last) = ast.nodes.last()
        && !seen_from
        && reader.diagnostics.is_empty()
    {
        reader.tell(Diagnostic::no_stages(last.name.span.clone()));
    }
    reader.diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    (dockerfile, reader.diagnostics)
}

/// Parses one `ONBUILD` trigger as it stands in an image config. Its spans are places in `trigger`.
pub fn parse_trigger(trigger: &str) -> Result<Instruction, Vec<Diagnostic>> {
    let (ast, mut diagnostics) = parser::parse(trigger);
    let mut reader = Reader { escape: ast.escape, diagnostics: Vec::new() };
    let instruction = match ast.nodes.as_slice() {
        [node] => reader.triggered(node).map(|kind| Instruction {
            kind,
            name: node.name.clone(),
            span: node.span.clone(),
            display: node.display.clone(),
        }),
        [] => None,
        _ => {
            reader.tell(Diagnostic::not_one_trigger());
            None
        }
    };
    diagnostics.append(&mut reader.diagnostics);
    match instruction {
        Some(instruction) if !diagnostics.iter().any(Diagnostic::is_error) => Ok(instruction),
        _ => Err(diagnostics),
    }
}

/// The arguments; where there are none, the name of the instruction that lacks them.
fn blamed(node: &Node) -> Range<usize> {
    if node.args.text.is_empty() { node.name.span.clone() } else { node.args.span.clone() }
}

/// Types one instruction after the other. Methods return `None` once they have told why.
struct Reader {
    escape: char,
    diagnostics: Vec<Diagnostic>,
}

impl Reader {
    /// An instruction other than FROM.
    fn instruction(&mut self, node: &Node) -> Option<InstructionKind> {
        use InstructionKind as Kind;
        let known = NAMES.iter().find(|name| name.eq_ignore_ascii_case(&node.name.text));
        match known.copied().unwrap_or_default() {
            "ADD" => self.add(node).map(Kind::Add),
            "ARG" => self.arg(node).map(Kind::Arg),
            "CMD" => self.plain_command(node).map(Kind::Cmd),
            "COPY" => self.copy(node).map(Kind::Copy),
            "ENTRYPOINT" => self.plain_command(node).map(Kind::Entrypoint),
            "ENV" => self.pairs(node, "ENV").map(Kind::Env),
            "EXPOSE" => self.expose(node).map(Kind::Expose),
            "HEALTHCHECK" => self.healthcheck(node).map(Kind::Healthcheck),
            "LABEL" => self.pairs(node, "LABEL").map(Kind::Label),
            "MAINTAINER" => self.single(node, "MAINTAINER").map(Kind::Maintainer),
            "ONBUILD" => self.onbuild(node).map(Kind::OnBuild),
            "RUN" => self.run(node).map(Kind::Run),
            "SHELL" => self.shell(node).map(Kind::Shell),
            "STOPSIGNAL" => {
                self.warn_of_flags(node, "STOPSIGNAL");
                self.one_argument(node, "STOPSIGNAL").map(Kind::StopSignal)
            }
            "USER" => self.single(node, "USER").map(Kind::User),
            "VOLUME" => self.volume(node).map(Kind::Volume),
            "WORKDIR" => self.single(node, "WORKDIR").map(Kind::Workdir),
            _ => {
                self.tell(Diagnostic::unknown_instruction(node.name.span.clone(), &node.name.text, &NAMES));
                None
            }
        }
    }

    fn tell(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    fn no_flags(&mut self, node: &Node) -> Option<()> {
        Flags::read(node, &[], self).map(|_| ())
    }

    /// For ARG and STOPSIGNAL, whose flags BuildKit drops without a look at them.
    fn warn_of_flags(&mut self, node: &Node, instruction: &str) {
        for flag in &node.flags {
            self.tell(Diagnostic::flag_without_effect(flag.span.clone(), instruction));
        }
    }

    /// One raw string.
    fn single(&mut self, node: &Node, name: &str) -> Option<Token> {
        self.no_flags(node)?;
        self.one_argument(node, name)
    }

    fn one_argument(&mut self, node: &Node, name: &str) -> Option<Token> {
        if node.args.text.is_empty() {
            self.tell(Diagnostic::exactly_one_argument(node.name.span.clone(), name));
            return None;
        }
        Some(node.args.clone())
    }

    fn expose(&mut self, node: &Node) -> Option<Vec<Token>> {
        self.no_flags(node)?;
        let words = node.mapped_args().split_blanks();
        if words.is_empty() {
            self.tell(Diagnostic::at_least_one_argument(node.name.span.clone(), "EXPOSE"));
            return None;
        }
        Some(words.iter().map(Mapped::token).collect())
    }

    fn volume(&mut self, node: &Node) -> Option<Vec<Token>> {
        self.no_flags(node)?;
        let mut paths = self.list(node)?;
        if paths.is_empty() {
            self.tell(Diagnostic::at_least_one_argument(blamed(node), "VOLUME"));
            return None;
        }
        for path in &mut paths {
            path.text = path.text.trim().to_owned();
            if path.text.is_empty() {
                self.tell(Diagnostic::empty_volume(path.span.clone()));
                return None;
            }
        }
        Some(paths)
    }

    /// The strings of a JSON array, or the words between blanks.
    fn list(&mut self, node: &Node) -> Option<Vec<Token>> {
        match json::parse(node.mapped_args()) {
            JsonForm::Strings(strings) => Some(strings),
            JsonForm::NotStrings(place) => {
                self.tell(Diagnostic::json_not_strings(place));
                None
            }
            JsonForm::No => Some(node.mapped_args().split_blanks().iter().map(Mapped::token).collect()),
        }
    }

    /// The trigger's text, after a look at whether it could run. Its heredocs are part of the text.
    fn onbuild(&mut self, node: &Node) -> Option<Token> {
        self.no_flags(node)?;
        let Some(trigger) = parser::trigger(node) else {
            self.tell(Diagnostic::at_least_one_argument(node.name.span.clone(), "ONBUILD"));
            return None;
        };
        self.triggered(&trigger)?;
        let mut text = node.args.clone();
        for heredoc in &node.heredocs {
            text.text.push('\n');
            text.text.push_str(&heredoc.content);
            text.text.push_str(&heredoc.name);
        }
        Some(text)
    }

    /// An instruction that may stand in an ONBUILD.
    fn triggered(&mut self, node: &Node) -> Option<InstructionKind> {
        let span = node.name.span.clone();
        match node.name.text.to_ascii_uppercase().as_str() {
            "ONBUILD" => self.tell(Diagnostic::chained_onbuild(span)),
            name @ ("FROM" | "MAINTAINER") => self.tell(Diagnostic::forbidden_trigger(span, name)),
            _ => return self.instruction(node),
        }
        None
    }
}
