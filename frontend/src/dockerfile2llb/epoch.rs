//! `SOURCE_DATE_EPOCH`: a number of seconds, or the name of something whose age is meant.
//!
//! It comes from `--build-arg`, else from a global ARG. A name is `context`, a named context or a stage that is nothing
//! but one file or repository from the network, or `git`: the repository that the main context is part of. What time that is
//! only its source can say.

use std::ops::Range;

use wharf_solver::llb::SourceOp;

use super::contexts::Contexts;
use super::env::Env;
use super::{ImageMetaResolver, NamedContext, Options, copy, words};
use crate::Diagnostic;
use crate::instructions::{Add, Dockerfile, InstructionKind, Stage};
use crate::parser::Token;

/// Name of the argument.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// Name of the main context among the values.
const MAIN_CONTEXT: &str = "context";

/// Name of the repository that the main context is in.
const REPOSITORY: &str = "git";

/// What is said of values that are nothing of the kind.
const HINT: &str = "it is a number of seconds since 1970-01-01, `git`, `context`, a build context, or a stage that is FROM \
                    scratch with one ADD of a URL or repository";

/// Whose time is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeOf {
    /// A context that is no image: `context` is the main one, others have the name they were given under.
    Context(String),
    /// The last commit of the repository that the main context is (in). Without one there is an error, not a context
    /// without a time.
    Repository,
    /// A file or repository from the network.
    Source(SourceOp),
}

/// What a value means.
#[derive(Debug, PartialEq, Eq)]
enum Epoch {
    Seconds(u64),
    Of(TimeOf),
    /// Something that exists and has no time.
    Timeless,
}

/// Finds the time out, and replaces the argument's value by it, so that `ARG SOURCE_DATE_EPOCH` gives seconds. What has
/// no time leaves the argument unset.
pub(super) fn resolve(
    dockerfile: &Dockerfile,
    options: &mut Options,
    globals: &mut Env,
    resolver: &mut dyn ImageMetaResolver,
) -> Result<Option<u64>, Diagnostic> {
    let (value, place) = match options.build_args.get(NAME) {
        Some(value) => (value.clone(), 0..0),
        None => match globals.get(NAME) {
            Some(value) if !value.is_empty() => (value.to_owned(), place_of_default(dockerfile)),
            _ => return Ok(None),
        },
    };
    let epoch = match read(&value, &place, dockerfile, options, globals)? {
        Epoch::Seconds(seconds) => Some(seconds),
        Epoch::Timeless => None,
        Epoch::Of(source) => resolver.time(&source).map_err(|message| {
            Diagnostic::error(place, format!("cannot find the time of {NAME}={value}: {message}"))
        })?,
    };
    let is_given = options.build_args.remove(NAME).is_some();
    let is_global = globals.get(NAME).is_some();
    globals.remove(NAME);
    if let Some(seconds) = epoch {
        if is_given {
            options.build_args.insert(NAME.to_owned(), seconds.to_string());
        }
        if is_global {
            globals.set(NAME, &seconds.to_string());
        }
    }
    Ok(epoch)
}

fn read(
    value: &str,
    place: &Range<usize>,
    dockerfile: &Dockerfile,
    options: &Options,
    globals: &Env,
) -> Result<Epoch, Diagnostic> {
    if value.is_empty() {
        return Ok(Epoch::Timeless);
    }
    if let Ok(seconds) = value.parse() {
        return Ok(Epoch::Seconds(seconds));
    }
    if value == MAIN_CONTEXT {
        return Ok(Epoch::Of(TimeOf::Context(MAIN_CONTEXT.to_owned())));
    }
    let contexts = Contexts::new(&options.contexts, &options.build_platform);
    let stage = match contexts.get(value, &options.platform) {
        Some((name, NamedContext::Local)) => return Ok(Epoch::Of(TimeOf::Context(name.to_owned()))),
        Some((_, NamedContext::Image(_))) => return Ok(Epoch::Timeless),
        Some((_, NamedContext::Stage(stage))) => stage.as_str(),
        None => value,
    };
    let named =
        |known: &&Stage| known.name.as_ref().is_some_and(|name| name.text.eq_ignore_ascii_case(stage));
    if let Some(stage) = dockerfile.stages.iter().find(named) {
        let source = StageReader { dockerfile, options, env: globals.clone() }.source(stage)?;
        return Ok(Epoch::Of(TimeOf::Source(source)));
    }
    if value == REPOSITORY {
        return Ok(Epoch::Of(TimeOf::Repository));
    }
    let stages = dockerfile.stages.iter().filter_map(|stage| Some(stage.name.as_ref()?.text.as_str()));
    let known: Vec<&str> = stages.chain(contexts.names()).chain([MAIN_CONTEXT]).collect();
    let mut error = Diagnostic::error(place.clone(), format!("invalid {NAME}: {value}"));
    error = error.with_suggestion(value, &known);
    Err(if error.hint.is_some() { error } else { error.with_hint(HINT) })
}

fn place_of_default(dockerfile: &Dockerfile) -> Range<usize> {
    let arg = dockerfile.global_args.iter().rfind(|arg| arg.name.text == NAME && arg.default.is_some());
    arg.and_then(|arg| arg.default.as_ref()).map_or(0..0, |default| default.span.clone())
}

/// Reads the one source that a stage consists of. Its words see all global arguments.
struct StageReader<'a> {
    dockerfile: &'a Dockerfile,
    options: &'a Options,
    env: Env,
}

impl StageReader<'_> {
    fn source(mut self, stage: &Stage) -> Result<SourceOp, Diagnostic> {
        self.env.remove(NAME);
        if self.expand(&stage.base)?.text != "scratch" {
            let message = format!("{NAME} stage must use FROM scratch");
            return Err(Diagnostic::error(stage.base.span.clone(), message));
        }
        let one_add = format!("{NAME} stage must contain exactly one remote ADD");
        let mut source = None;
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::Arg(args) => {
                    for arg in args {
                        let given = self.options.build_args.get(&arg.name.text).cloned();
                        let value = match (given, &arg.default) {
                            (Some(given), _) => given,
                            (None, Some(default)) => self.expand(default)?.text,
                            (None, None) => continue,
                        };
                        self.env.set(&arg.name.text, &value);
                    }
                }
                InstructionKind::Add(_) if source.is_some() => {
                    return Err(Diagnostic::error(instruction.span.clone(), one_add));
                }
                InstructionKind::Add(add) => source = Some(self.add(add, &instruction.span)?),
                _ => {
                    let message = format!(
                        "{NAME} stage does not meet source-only requirements: it may have ARG and one ADD only"
                    );
                    return Err(Diagnostic::error(instruction.span.clone(), message));
                }
            }
        }
        source.ok_or_else(|| Diagnostic::error(stage.span.clone(), one_add))
    }

    fn add(&self, add: &Add, place: &Range<usize>) -> Result<SourceOp, Diagnostic> {
        let ([source], []) = (add.paths.sources.as_slice(), add.paths.heredocs.as_slice()) else {
            let message = format!("{NAME} stage must contain exactly one remote ADD source");
            return Err(Diagnostic::error(place.clone(), message));
        };
        let checksum = add.checksum.as_ref().map(|checksum| self.expand(checksum)).transpose()?;
        let checksum = checksum.filter(|checksum| !checksum.text.is_empty());
        copy::remote_source(&self.expand(source)?, add, checksum.as_ref())?.ok_or_else(|| {
            let message = format!("{NAME} stage source must be a single HTTP(S) or Git ADD");
            Diagnostic::error(source.span.clone(), message)
        })
    }

    fn expand(&self, token: &Token) -> Result<Token, Diagnostic> {
        let text = words::expand(token, self.dockerfile.escape, &self.env)?.text;
        Ok(Token { text, span: token.span.clone() })
    }
}
