//! `--call`: questions about a Dockerfile that need no build. Nothing is run, nothing is asked of a registry (but with
//! `--pull`), and the store is only looked at if it is there.

mod json;
mod text;

pub(crate) use text::table;

use std::cell::OnceCell;
use std::str::FromStr;

use wharf_cache::Store;
use wharf_frontend::dockerfile2llb::{self, ImageMetaResolver, ResolvedImage, TimeOf};
use wharf_runtime::Cancel;
use wharf_solver::llb::Platform;

use super::dockerfile::{Parsed, Report, options};
use super::{BuildRequest, dockerfile_failure, host_platform, load, meta};
use crate::context::open::{Opener, Reach};
use crate::error::{Failure, Kind, SourceText, causes, render_warnings};
use crate::progress::{self, Mode, Progress, print_result};
use crate::source;

/// `NAME[,format=text|json][,ignorestatus=BOOL]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What is asked.
    pub question: Question,
    /// Whether the answer is JSON.
    pub json: bool,
    /// Whether warnings leave the exit status alone.
    pub ignore_status: bool,
}

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// No question: build.
    Build,
    /// What the checks say.
    Check,
    /// What the target takes.
    Outline,
    /// Which targets there are.
    Targets,
    /// What can be asked.
    Describe,
}

/// The questions by their names.
const QUESTIONS: [(&str, Question); 6] = [
    ("build", Question::Build),
    ("check", Question::Check),
    ("lint", Question::Check),
    ("outline", Question::Outline),
    ("targets", Question::Targets),
    ("subrequests.describe", Question::Describe),
];

impl Call {
    /// The checks, as text.
    pub fn check() -> Self {
        Self { question: Question::Check, json: false, ignore_status: false }
    }
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let known = QUESTIONS.iter().find(|(known, _)| *known == name);
        let (_, question) = known.ok_or_else(|| {
            let names = QUESTIONS.map(|(name, _)| name);
            format!("there is no `{name}` to call; there are {}", names.join(", "))
        })?;
        if *question == Question::Build && text != name {
            return Err("`build` has no answer that could have a form; give it alone".to_owned());
        }
        let mut call = Self { question: *question, json: false, ignore_status: false };
        for part in parts {
            match part.split_once('=') {
                Some(("format", "json")) => call.json = true,
                Some(("format", "text")) => call.json = false,
                Some(("ignorestatus", "true" | "1")) => call.ignore_status = true,
                Some(("ignorestatus", "false" | "0")) => call.ignore_status = false,
                Some(("format", value)) => return Err(format!("format is `{value}`; want text or json")),
                Some(("ignorestatus", value)) => {
                    return Err(format!("ignorestatus is `{value}`; want true or false"));
                }
                _ => return Err(format!("want format=… or ignorestatus=… after the comma, not `{part}`")),
            }
        }
        Ok(call)
    }
}

/// The stores of answers.
#[expect(missing_debug_implementations, reason = "holds closures")]
pub struct Stores<'a> {
    /// The store if it is there, to look images up.
    pub existing: &'a dyn Fn() -> Option<Store>,
    /// The store, made if need be, for contexts that are no directories and for `--pull`.
    pub open: &'a dyn Fn() -> Result<Store, Failure>,
}

/// Answers. True if there is nothing to complain of.
pub fn call(request: &BuildRequest, call: &Call, stores: &Stores<'_>) -> Result<bool, Failure> {
    if call.question == Question::Describe {
        print_result(&if call.json { json::describe() } else { text::describe() })?;
        return Ok(true);
    }
    let progress = Progress::start(Mode::Quiet, std::io::stderr());
    let cancel =
        Cancel::new().map_err(|error| Failure::from_error(Kind::Environment, "cannot start", &error))?;
    let opener = Opener {
        sources: Reach::OnDemand {
            opened: &OnceCell::new(),
            open: &|| Ok(super::sources(&(stores.open)()?, request, &cancel)),
        },
        platform: &host_platform(),
        pull: request.pull,
        keep_git_dir: super::keeps_git_dir(request),
        progress: &progress,
        cancel: &cancel,
    };
    let loaded = load::load(request, &opener)?;
    let mut parsed = Parsed::read(&loaded.source, &request.build_args);
    // What is said of one platform holds for the others, but for their base images.
    let platform = request.platforms.first().unwrap_or(opener.platform);
    let mut options = options(request, &loaded.ignore, platform, opener.platform);
    options.every_stage = call.question == Question::Check && request.target.is_empty();
    let answer = Answer { call, source: &loaded.source };
    if call.question == Question::Targets {
        return answer.targets(&parsed);
    }
    let (converted, source_failed) = if request.pull {
        let mut resolver = meta::Resolver::new(opener, request, loaded.main.modified_s);
        (parsed.convert(&options, &mut resolver), resolver.failed())
    } else {
        let mut resolver = Known { open: stores.existing, store: OnceCell::new() };
        (parsed.convert(&options, &mut resolver), false)
    };
    let answered = match (call.question, converted) {
        (Question::Check, _) => answer.check(parsed.report()),
        (_, Some(converted)) => {
            let outline = dockerfile2llb::outline(&parsed.ast, &parsed.dockerfile, &options, &converted);
            answer.outline(&outline).map(|()| true)
        }
        (_, None) => {
            let report = parsed.report();
            Err(dockerfile_failure(report.kind, answer.source, report.errors))
        }
    };
    answered.map_err(|mut failure| {
        if source_failed {
            failure.kind = Kind::Source;
        }
        failure
    })
}

/// What is known of images without asking for them.
struct Known<'a> {
    open: &'a dyn Fn() -> Option<Store>,
    store: OnceCell<Option<Store>>,
}

impl ImageMetaResolver for Known<'_> {
    fn resolve(&mut self, reference: &str, platform: &Platform) -> Result<ResolvedImage, String> {
        let store = || self.store.get_or_init(self.open).as_ref();
        match source::known(store, reference, platform) {
            Ok(Some(image)) => Ok(ResolvedImage { identifier: image.identifier, config: image.config }),
            Ok(None) => Err("it is not in the store".to_owned()),
            Err(error) => Err(causes(&error)),
        }
    }

    fn is_optional(&self) -> bool {
        true
    }

    /// No check depends on it.
    fn time(&mut self, _: &TimeOf) -> Result<Option<u64>, String> {
        Ok(None)
    }
}

/// Puts answers in words.
struct Answer<'a> {
    call: &'a Call,
    source: &'a SourceText,
}

impl Answer<'_> {
    fn check(&self, mut report: Report) -> Result<bool, Failure> {
        let failure = match (report.errors.is_empty(), &report.violation) {
            (false, _) => {
                Some(dockerfile_failure(report.kind, self.source, std::mem::take(&mut report.errors)))
            }
            (true, Some(violation)) => Some(Failure::new(Kind::Dockerfile, violation)),
            (true, None) => None,
        };
        let color = progress::color_of_results();
        let printed = if self.call.json {
            // Not about the file's text but about the command: no part of the result.
            let (checks, others): (Vec<_>, Vec<_>) =
                report.warnings.iter().cloned().partition(|warning| warning.rule.is_some());
            for other in render_warnings(&others, self.source, false) {
                progress::print_note(&other);
            }
            print_result(&json::check(self.source, &checks, failure.as_ref()))
        } else {
            print_result(&text::check(self.source, &report.warnings, failure.is_some(), color))
        };
        match failure {
            Some(failure) => Err(failure),
            None => {
                printed?;
                let is_clean = report.warnings.iter().all(|warning| warning.rule.is_none());
                Ok(is_clean || self.call.ignore_status)
            }
        }
    }

    fn outline(&self, outline: &dockerfile2llb::Outline) -> Result<(), Failure> {
        let text = if self.call.json { json::outline(outline, self.source) } else { text::outline(outline) };
        print_result(&text)
    }

    fn targets(&self, parsed: &Parsed) -> Result<bool, Failure> {
        let report = parsed.report();
        if !report.errors.is_empty() {
            return Err(dockerfile_failure(report.kind, self.source, report.errors));
        }
        let targets = dockerfile2llb::targets(&parsed.ast, &parsed.dockerfile);
        let text =
            if self.call.json { json::targets(&targets, self.source) } else { text::targets(&targets) };
        print_result(&text).map(|()| true)
    }
}

/// The requests that a front end answers: name, what it does, its option, and the forms of its result.
type Described = (&'static str, &'static str, Option<(&'static str, &'static str)>, &'static [&'static str]);

const REQUESTS: [Described; 4] = [
    (
        "frontend.outline",
        "List all parameters current build target supports",
        Some(("target", "Target build stage")),
        &["result.json", "result.txt"],
    ),
    ("frontend.targets", "List all targets current build supports", None, &["result.json", "result.txt"]),
    ("frontend.lint", "Lint a Dockerfile", None, &["result.json", "result.txt", "result.statuscode"]),
    (
        "frontend.subrequests.describe",
        "List available subrequest types",
        None,
        &["result.json", "result.txt"],
    ),
];

/// Version of the requests and of the form of their results.
const VERSION: &str = "1.0.0";

#[cfg(test)]
mod tests;
