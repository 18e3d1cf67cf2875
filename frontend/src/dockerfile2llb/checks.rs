//! The checks that need the conversion's scopes: what a word is once expanded, what a stage has seen so far.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use super::env::Env;
use super::stage::{Stage, Step};
use super::{Converter, Options, expose, platform, scope, words};
use crate::Diagnostic;
use crate::diagnostic::CANDIDATES_MAX;
use crate::instructions::{CommandLine, InstructionKind};
use crate::lint::reference::is_reference;
use crate::parser::Token;
use crate::shell::{Lex, Unset};

/// Words in a name that tell a secret.
const SECRET_WORDS: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];

/// Words in a name that tell it is none after all.
const PUBLIC_WORDS: [&str; 3] = ["public", "file", "version"];

/// What the checks remember of a stage.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    cmd: Option<Range<usize>>,
    entrypoint: Option<Range<usize>>,
    healthcheck: Option<Range<usize>>,
    /// A first WORKDIR was there, here or in a stage below: it has been judged.
    workdir: bool,
    /// Nothing is known of the image at the bottom: it may set any variable.
    pub(super) unknown_base: bool,
}

impl Seen {
    /// What a stage on top of this one begins with.
    pub(super) fn inherited(&self) -> Self {
        Self { workdir: self.workdir, unknown_base: self.unknown_base, ..Self::default() }
    }
}

/// A word expanded, and the variables in it.
struct Looked {
    text: String,
    /// Names that were set.
    found: Vec<String>,
    /// Whether there was any variable.
    any: bool,
    /// Names that were not.
    unset: Vec<Unset>,
}

fn look(token: &Token, escape: char, env: &Env) -> Option<Looked> {
    let found = RefCell::new(Vec::new());
    let any = RefCell::new(false);
    let lookup = |name: &str| {
        any.replace(true);
        let value = env.get(name)?;
        found.borrow_mut().push(name.to_owned());
        Some(value.to_owned())
    };
    let expanded = Lex { escape, lookup: &lookup }.word(&token.text).ok()?;
    Some(Looked {
        text: expanded.text,
        unset: expanded.unset,
        found: found.into_inner(),
        any: any.into_inner(),
    })
}

impl Converter<'_> {
    /// The FROMs of the whole file, needed or not.
    pub(super) fn check_bases(&mut self) {
        let dockerfile = self.dockerfile;
        let escape = dockerfile.escape;
        let defaults = self.default_globals();
        let mut problems = Vec::new();
        for stage in &dockerfile.stages {
            for token in stage.platform.iter().chain([&stage.base]) {
                let unset = look(token, escape, &self.globals).map(|looked| looked.unset).unwrap_or_default();
                problems.extend(unset.iter().filter_map(|unset| self.undeclared(token, unset)));
            }
            if let Some(token) = &stage.platform {
                let name = stage.name.as_ref().map_or("", |name| name.text.as_str());
                problems.extend(self.platform_flag(token, name));
            }
            let with_defaults = defaults.as_ref().and_then(|env| look(&stage.base, escape, env));
            if with_defaults.is_some_and(|looked| looked.any && !is_reference(&looked.text)) {
                problems.push(Diagnostic::default_base_name(stage.base.span.clone(), &stage.base.text));
            }
        }
        self.problems.append(&mut problems);
    }

    /// Global arguments as they are without any `--build-arg`.
    fn default_globals(&self) -> Option<Env> {
        let options = Options { build_args: BTreeMap::new(), ..self.options.clone() };
        let mut problems = Vec::new();
        let globals = scope::globals(self.dockerfile, &options, &mut problems);
        problems.is_empty().then_some(globals)
    }

    fn undeclared(&self, token: &Token, unset: &Unset) -> Option<Diagnostic> {
        let name = unset.name.as_str();
        // Declared without a value: it is for `--build-arg` to give one.
        if self.dockerfile.global_args.iter().any(|arg| arg.name.text == name) {
            return None;
        }
        let declared = self.dockerfile.global_args.iter().map(|arg| arg.name.text.as_str());
        let known: Vec<&str> = declared.chain(self.globals.names()).take(CANDIDATES_MAX).collect();
        let place = words::part(token, unset.at.clone());
        Some(Diagnostic::undeclared_arg_in_from(place, name).with_suggestion(name, &known))
    }

    fn platform_flag(&self, token: &Token, stage: &str) -> Option<Diagnostic> {
        let looked = look(token, self.dockerfile.escape, &self.globals)?;
        if !looked.any {
            let platform = platform::parse(&looked.text, &self.options.build_platform).ok()?;
            let is_in_name = |part: &str| !part.is_empty() && stage.contains(part);
            let is_named = is_in_name(&platform.os) || is_in_name(&platform.architecture);
            return (!is_named).then(|| Diagnostic::constant_platform(token.span.clone(), &looked.text));
        }
        let is_target = looked.unset.is_empty()
            && looked.found == ["TARGETPLATFORM"]
            && self.globals.get("TARGETPLATFORM") == Some(&*looked.text);
        is_target.then(|| Diagnostic::redundant_platform(token.span.clone(), &token.text))
    }

    /// An instruction before it is converted.
    pub(super) fn check_step(&mut self, stage: &mut Stage, step: &Step<'_>) {
        use InstructionKind as K;
        if step.is_trigger {
            // It stands in another file; what it does to this one still counts.
            stage.seen.workdir |= matches!(step.instruction.kind, K::Workdir(_));
            return;
        }
        let name = &step.instruction.name;
        match &step.instruction.kind {
            K::Cmd(command) => {
                self.used_once(stage.seen.cmd.replace(name.span.clone()), name);
                self.json_args(stage, name, command);
            }
            K::Entrypoint(command) => {
                self.used_once(stage.seen.entrypoint.replace(name.span.clone()), name);
                self.json_args(stage, name, command);
            }
            K::Healthcheck(_) => self.used_once(stage.seen.healthcheck.replace(name.span.clone()), name),
            K::Workdir(token) => {
                let directory = look(token, self.dockerfile.escape, &stage.env);
                if let Some(directory) = directory
                    && !std::mem::replace(&mut stage.seen.workdir, true)
                    && !is_absolute(&directory.text, &stage.platform.os)
                {
                    self.problems.push(Diagnostic::relative_workdir(token.span.clone(), &directory.text));
                }
            }
            K::Env(pairs) => {
                self.legacy_format(step, pairs);
                for (key, _) in pairs {
                    self.secret(stage, "ENV", key);
                }
            }
            K::Label(pairs) => self.legacy_format(step, pairs),
            K::Arg(args) => args.iter().for_each(|arg| self.secret(stage, "ARG", &arg.name)),
            K::Expose(tokens) => tokens.iter().for_each(|token| self.ports(stage, token)),
            _ => {}
        }
    }

    fn used_once(&mut self, earlier: Option<Range<usize>>, name: &Token) {
        if let Some(earlier) = earlier {
            self.problems.push(Diagnostic::instruction_again(earlier, &name.text, name.span.clone()));
        }
    }

    fn json_args(&mut self, stage: &Stage, name: &Token, command: &CommandLine) {
        let has_shell = stage.config.config.shell.as_ref().is_some_and(|shell| !shell.is_empty());
        if let CommandLine::Shell(token) = command
            && !has_shell
        {
            self.problems.push(Diagnostic::shell_form(token.span.clone(), &name.text));
        }
    }

    fn legacy_format(&mut self, step: &Step<'_>, pairs: &[(Token, Token)]) {
        if let [(key, value)] = pairs
            && is_legacy(&step.instruction.display, &key.text)
        {
            let span = key.span.start..value.span.end.max(key.span.end);
            self.problems.push(Diagnostic::legacy_key_value(span, &step.instruction.name.text));
        }
    }

    fn secret(&mut self, stage: &Stage, instruction: &str, key: &Token) {
        let Some(name) = look(key, self.dockerfile.escape, &stage.env) else { return };
        if is_secret_name(&name.text) {
            self.problems.push(Diagnostic::secret_name(key.span.clone(), instruction, &name.text));
        }
    }

    fn ports(&mut self, stage: &Stage, token: &Token) {
        let lookup = |name: &str| stage.env.get(name).map(str::to_owned);
        let lex = Lex { escape: self.dockerfile.escape, lookup: &lookup };
        for word in lex.words(&token.text).unwrap_or_default() {
            let (address, host, container) = expose::split(&word);
            if container.split_once('/').is_some_and(|(_, protocol)| protocol.chars().any(char::is_uppercase))
            {
                self.problems.push(Diagnostic::expose_casing(token.span.clone(), &word));
            }
            if !address.is_empty() || !host.is_empty() {
                self.problems.push(Diagnostic::expose_mapping(token.span.clone(), &word));
            }
        }
    }
}

fn is_absolute(path: &str, os: &str) -> bool {
    let has_drive = || path.as_bytes().get(1) == Some(&b':') && path.as_bytes()[0].is_ascii_alphabetic();
    path.starts_with('/') || os == "windows" && (path.starts_with('\\') || has_drive())
}

/// Whether an ENV or LABEL of one pair is `NAME value` and not `NAME=value`.
fn is_legacy(display: &str, key: &str) -> bool {
    let args = display.split_once(char::is_whitespace).map_or("", |(_, args)| args.trim_start());
    args.strip_prefix(key).is_some_and(|rest| rest.starts_with(char::is_whitespace))
}

/// `API_KEY` and `password` but not `KEYBOARD`, nor `PUBLIC_KEY`.
fn is_secret_name(name: &str) -> bool {
    let has =
        |words: &[&str]| name.split('_').any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)));
    has(&SECRET_WORDS) && !has(&PUBLIC_WORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_by_the_words_in_a_name() {
        for name in ["password", "API_KEY", "APIKEY", "GITHUB_TOKEN", "secret_message", "AUTH", "a_Passwd_b"]
        {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["", "KEYBOARD", "tokens", "PUBLIC_KEY", "PASSWORD_FILE", "TOKEN_VERSION", "author"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn the_legacy_format_has_no_equals_sign_after_the_name() {
        for (display, key, expected) in [
            ("ENV a b", "a", true),
            ("ENV a=b", "a", false),
            ("ENV   a   b=c d", "a", true),
            ("ENV \"a b\"=c", "\"a b\"", false),
            ("LABEL a =b", "a", true),
            ("ENV a=", "a", false),
        ] {
            assert_eq!(is_legacy(display, key), expected, "{display}");
        }
    }

    #[test]
    fn absolute_paths_depend_on_the_system() {
        for (path, linux, windows) in [
            ("/a", true, true),
            ("a", false, false),
            ("c:/a", false, true),
            ("\\a", false, true),
            ("", false, false),
        ] {
            assert_eq!(
                (is_absolute(path, "linux"), is_absolute(path, "windows")),
                (linux, windows),
                "{path}"
            );
        }
    }
}
