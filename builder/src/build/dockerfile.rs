//! Dockerfile text → graph, with what the checks say of it.

use std::collections::BTreeMap;

use wharf_frontend::dockerfile2llb::{self, Converted, ImageMetaResolver, NamedContext, Options};
use wharf_frontend::instructions::Dockerfile;
use wharf_frontend::lint::{self, CHECK_ARG};
use wharf_frontend::parser::Ast;
use wharf_frontend::{Diagnostic, Linter};
use wharf_solver::llb::Platform;

use super::{BuildRequest, independent};
use crate::context::ContextSpec;
use crate::error::Kind;

/// A Dockerfile that was read.
pub(super) struct Parsed {
    pub(super) ast: Ast,
    pub(super) dockerfile: Dockerfile,
    linter: Linter,
    problems: Vec<Diagnostic>,
}

impl Parsed {
    pub(super) fn read(text: &str, build_args: &BTreeMap<String, String>) -> Self {
        let (ast, mut problems) = wharf_frontend::parser::parse(text);
        let (dockerfile, more) = wharf_frontend::instructions::parse(&ast);
        let (linter, wrong) = Linter::new(&ast, build_args.get(CHECK_ARG).map(String::as_str));
        problems.extend(more);
        problems.extend(wrong);
        problems.extend(lint::file(&ast));
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
pub(super) fn options(request: &BuildRequest, ignore: &[String], platform: &Platform) -> Options {
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
        build_platform: platform.clone(),
        contexts: request.contexts.iter().map(|(name, spec)| (name.clone(), named(spec))).collect(),
        ignore: ignore.to_vec(),
        labels: request.labels.clone(),
        no_cache: request.no_cache,
        implicit_platform: true,
        run: request.run.clone(),
        ..Options::default()
    }
}
