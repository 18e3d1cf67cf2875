//! A plain dump: one line an instruction, one line a part of it, each token with its place.

use std::fmt::Write as _;
use std::ops::Range;

use crate::carets;
use wharf_frontend::instructions::{Arg, CommandLine, Dockerfile, Healthcheck, InstructionKind, Paths};
use wharf_frontend::parser::{Ast, Heredoc, Token};
use wharf_frontend::{Diagnostic, Severity};

pub(crate) fn dockerfile(
    source: &str,
    ast: &Ast,
    dockerfile: &Dockerfile,
    diagnostics: &[Diagnostic],
) -> String {
    let mut dump = Dump { source, out: String::new() };
    dump.line(0, &format!("escape {}", ast.escape));
    for (key, value) in &ast.directives {
        dump.line(0, &format!("directive {} {}", dump.token(key), dump.token(value)));
    }
    for arg in &dockerfile.global_args {
        dump.arg(0, arg);
    }
    for stage in &dockerfile.stages {
        dump.line(0, &format!("stage {} {}", dump.token(&stage.base), dump.place(&stage.span)));
        dump.option(1, "as", stage.name.as_ref());
        dump.option(1, "platform", stage.platform.as_ref());
        for instruction in &stage.instructions {
            let place = dump.place(&instruction.span);
            dump.line(1, &format!("{} {place}", instruction.display.escape_debug()));
            dump.kind(&instruction.kind);
        }
    }
    dump.out + &self::diagnostics(source, diagnostics)
}

/// Each with the line it is about and carets under the token.
pub(crate) fn diagnostics(source: &str, diagnostics: &[Diagnostic]) -> String {
    let mut dump = Dump { source, out: String::new() };
    for diagnostic in diagnostics {
        let severity = match diagnostic.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let place = diagnostic.place().map(|place| format!(" {}", dump.place(place))).unwrap_or_default();
        dump.line(0, &format!("{severity}{place} {}", diagnostic.headline()));
        if let Some(place) = diagnostic.place() {
            dump.out.push_str(&carets::excerpt(source, place));
        }
        if let Some(hint) = &diagnostic.hint {
            dump.line(1, &format!("hint: {hint}"));
        }
    }
    dump.out
}

struct Dump<'a> {
    source: &'a str,
    out: String,
}

impl Dump<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        writeln!(self.out, "{:depth$}{text}", "", depth = depth * 2).unwrap();
    }

    fn place(&self, span: &Range<usize>) -> String {
        carets::place(self.source, span)
    }

    fn token(&self, token: &Token) -> String {
        format!("\"{}\"{}", token.text.escape_debug(), self.place(&token.span))
    }

    fn option(&mut self, depth: usize, name: &str, token: Option<&Token>) {
        if let Some(token) = token {
            self.line(depth, &format!("{name} {}", self.token(token)));
        }
    }

    fn tokens(&mut self, name: &str, tokens: &[Token]) {
        for token in tokens {
            self.option(2, name, Some(token));
        }
    }

    fn arg(&mut self, depth: usize, arg: &Arg) {
        let name = self.token(&arg.name);
        match &arg.default {
            Some(default) => self.line(depth, &format!("arg {name} = {}", self.token(default))),
            None => self.line(depth, &format!("arg {name}")),
        }
    }

    fn command(&mut self, command: &CommandLine) {
        match command {
            CommandLine::Shell(text) => self.option(2, "shell", Some(text)),
            CommandLine::Exec(words) => self.line(2, &format!("exec {words:?}")),
        }
    }

    fn heredocs(&mut self, heredocs: &[Heredoc]) {
        for heredoc in heredocs {
            let mut line = format!("heredoc {:?}", heredoc.name);
            if heredoc.fd != 0 {
                write!(line, " fd {}", heredoc.fd).unwrap();
            }
            if heredoc.chomp {
                line.push_str(" chomp");
            }
            if !heredoc.expand {
                line.push_str(" raw");
            }
            write!(line, " {:?} {}", heredoc.content, self.place(&heredoc.span)).unwrap();
            self.line(2, &line);
        }
    }

    fn paths(&mut self, paths: &Paths) {
        self.tokens("source", &paths.sources);
        self.heredocs(&paths.heredocs);
        self.option(2, "dest", paths.dest.as_ref());
        self.option(2, "chown", paths.chown.as_ref());
        self.option(2, "chmod", paths.chmod.as_ref());
        if paths.link {
            self.line(2, "link");
        }
        self.tokens("exclude", &paths.exclude);
    }

    fn kind(&mut self, kind: &InstructionKind) {
        match kind {
            InstructionKind::Run(run) => {
                self.command(&run.command);
                self.tokens("mount", &run.mounts);
                self.option(2, "network", run.network.as_ref());
                self.option(2, "security", run.security.as_ref());
                self.tokens("device", &run.devices);
                self.heredocs(&run.heredocs);
            }
            InstructionKind::Copy(copy) => {
                self.paths(&copy.paths);
                self.option(2, "from", copy.from.as_ref());
                if copy.parents {
                    self.line(2, "parents");
                }
            }
            InstructionKind::Add(add) => {
                self.paths(&add.paths);
                self.option(2, "checksum", add.checksum.as_ref());
                if add.keep_git_dir == Some(true) {
                    self.line(2, "keep-git-dir");
                }
                if let Some(unpack) = add.unpack {
                    self.line(2, &format!("unpack {unpack}"));
                }
            }
            InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
                for (name, value) in pairs {
                    self.line(2, &format!("{} = {}", self.token(name), self.token(value)));
                }
            }
            InstructionKind::Arg(args) => args.iter().for_each(|arg| self.arg(2, arg)),
            InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => self.command(command),
            InstructionKind::Shell(words) => self.line(2, &format!("exec {words:?}")),
            InstructionKind::Expose(words) | InstructionKind::Volume(words) => self.tokens("word", words),
            InstructionKind::Workdir(text)
            | InstructionKind::User(text)
            | InstructionKind::StopSignal(text)
            | InstructionKind::OnBuild(text)
            | InstructionKind::Maintainer(text) => self.option(2, "text", Some(text)),
            InstructionKind::Healthcheck(Healthcheck::None) => self.line(2, "none"),
            InstructionKind::Healthcheck(Healthcheck::Cmd {
                command,
                interval_ns,
                timeout_ns,
                start_period_ns,
                start_interval_ns,
                retries,
            }) => {
                self.command(command);
                self.line(2, &format!("interval {interval_ns} timeout {timeout_ns} retries {retries}"));
                self.line(2, &format!("start period {start_period_ns} interval {start_interval_ns}"));
            }
        }
    }
}
