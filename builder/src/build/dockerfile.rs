//! Dockerfile text → graph, with what the checks say of it.

use std::collections::BTreeMap;
use std::ops::Range;

use wharf_frontend::dockerfile2llb::{self, Converted, ImageMetaResolver, NamedContext, Options};
use wharf_frontend::instructions::Dockerfile;
use wharf_frontend::lint::{self, CHECK_ARG};
use wharf_frontend::parser::Ast;
use wharf_frontend::{Diagnostic, Linter};
use wharf_solver::llb::Platform;

use super::{BuildRequest, independent};
use crate::context::ContextSpec;
use crate::error::{Kind, SourceText};

/// A Dockerfile that was read.
pub(super) struct Parsed {
    pub(super) ast: Ast,
    pub(super) dockerfile: Dockerfile,
    linter: Linter,
    problems: Vec<Diagnostic>,
}

impl Parsed {
    pub(super) fn read(source: &SourceText, build_args: &BTreeMap<String, String>) -> Self {
        let (ast, mut problems) = wharf_frontend::parser::parse(&source.text);
        let (dockerfile, more) = wharf_frontend::instructions::parse(&ast);
        let (linter, wrong) = Linter::new(&ast, build_args.get(CHECK_ARG).map(String::as_str));
        problems.extend(more);
        problems.extend(wrong);
        problems.extend(lint::file(&ast));
        let no_text = undecoded(&ast, source);
        // What else is said of these places is said of U+FFFD.
        problems.retain(|problem| {
            let span = &problem.span;
            !no_text.iter().any(|it| it.span.start < span.end && span.start < it.span.end)
        });
        problems.extend(no_text);
        Self { ast, dockerfile, linter, problems }
    }

    /// The graph, or nothing where there are errors: see [`Self::report`]. What could not be read is converted all the
    /// same, for the errors in the rest of it.
    pub(super) fn convert(
        &mut self,
        options: &Options,
        resolver: &mut dyn ImageMetaResolver,
    ) -> Option<Converted> {
        if self.problems.iter().any(Diagnostic::is_error) {
            let more = independent::errors(&self.ast, &self.dockerfile, &self.problems, options);
            self.problems.extend(more);
            return None;
        }
        match dockerfile2llb::convert(&self.dockerfile, options, resolver) {
            Ok(mut converted) => {
                self.problems.append(&mut converted.warnings);
                Some(converted)
            }
            Err(error) => {
                self.problems.extend(error.diagnostics);
                None
            }
        }
    }

    /// Those of `names` that no stage has.
    pub(super) fn without_stage<'n>(&self, names: &'n [String]) -> impl Iterator<Item = &'n String> {
        names.iter().filter(|name| {
            let mut stages = self.dockerfile.stages.iter().filter_map(|stage| stage.name.as_ref());
            !stages.any(|stage| stage.text.to_lowercase() == name.to_lowercase())
        })
    }

    /// What there is to say so far.
    pub(super) fn report(&self) -> Report {
        let reported = self.linter.report(self.problems.clone());
        let violation = self.linter.violation(&reported);
        let (errors, warnings): (Vec<_>, _) = reported.into_iter().partition(Diagnostic::is_error);
        // In a file that has something to build, what stands nowhere was asked for on the command line.
        let is_usage = !self.dockerfile.stages.is_empty()
            && !errors.is_empty()
            && errors.iter().all(|error| error.place().is_none());
        Report { errors, warnings, violation, kind: if is_usage { Kind::Usage } else { Kind::Dockerfile } }
    }
}

/// What is not UTF-8 in the instructions; comments may hold any bytes.
fn undecoded(ast: &Ast, source: &SourceText) -> Vec<Diagnostic> {
    let in_instruction = |place: &&Range<usize>| {
        let before = ast.nodes.partition_point(|node| node.span.start <= place.start);
        let Some(node) = before.checked_sub(1).map(|index| &ast.nodes[index]) else { return false };
        let in_heredoc = node.heredocs.iter().any(|heredoc| heredoc.span.contains(&place.start));
        let line = source.text[..place.start].rfind('\n').map_or(0, |newline| newline + 1);
        // Between the lines of an instruction too.
        let is_comment = source.text[line..].trim_start().starts_with('#');
        node.span.contains(&place.start) && (in_heredoc || !is_comment)
    };
    let places = source.undecoded.iter().filter(in_instruction).take(UNDECODED_SHOWN_MAX);
    let error = |place: &Range<usize>| {
        Diagnostic::error(place.clone(), "this is not UTF-8")
            .with_hint("save the file as UTF-8; only comments may hold other bytes")
    };
    places.map(error).collect()
}

/// More places are not shown: nobody reads them.
const UNDECODED_SHOWN_MAX: usize = 100;

/// What is wrong with a Dockerfile, in its order.
#[derive(Debug)]
pub(super) struct Report {
    /// What prevents the build.
    pub(super) errors: Vec<Diagnostic>,
    /// What does not.
    pub(super) warnings: Vec<Diagnostic>,
    /// Why it is prevented by warnings after all (`check=error=true`).
    pub(super) violation: Option<String>,
    /// What the errors are about.
    pub(super) kind: Kind,
}

/// What the conversion depends on besides the file.
pub(super) fn options(
    request: &BuildRequest,
    ignore: &[String],
    platform: &Platform,
    build_platform: &Platform,
) -> Options {
    let named = |spec: &ContextSpec| match spec {
        ContextSpec::Image(reference) => NamedContext::Image(reference.clone()),
        ContextSpec::Stage(stage) => NamedContext::Stage(stage.clone()),
        ContextSpec::Path(_) | ContextSpec::Stdin | ContextSpec::Http(_) | ContextSpec::Git(_) => {
            NamedContext::Local
        }
    };
    Options {
        build_args: request.build_args.clone(),
        target: request.target.clone(),
        platform: platform.clone(),
        build_platform: build_platform.clone(),
        contexts: request.contexts.iter().map(|(name, spec)| (name.clone(), named(spec))).collect(),
        ignore: ignore.to_vec(),
        labels: request.labels.clone(),
        no_cache: request.no_cache,
        no_cache_stages: request.no_cache_stages.clone(),
        implicit_platform: request.platforms.is_empty(),
        multi_platform: request.platforms.len() > 1,
        run: request.run.clone(),
        ..Options::default()
    }
}
