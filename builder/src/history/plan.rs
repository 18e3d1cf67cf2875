//! `--plan`: what a build would do, why, and for how long by what earlier builds took.

use std::time::Duration;

use serde::Serialize;
use wharf_cache::Store;
use wharf_solver::explain::Reason;
use wharf_solver::llb::{Definition, Op};
use wharf_solver::scheduler::{self, StepReport};

use super::asked::Answers;
use super::explain::{Explained, Explainer, millis};
use super::past::Pasts;
use super::recorder::{RequestSummary, describe};
use super::{Graph, SelectedFiles, VERSION, is_image};
use crate::remote::imports::{Imports, Unused};

/// What would become of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The cache has it, or a hit above it stands for it too.
    Cached,
    /// The cache has it by the content of what it reads.
    CachedByContent,
    /// A directory that is read in place, or an image of which no more than metadata is wanted.
    Read,
    /// An image whose files are in the store: there is nothing to do for it.
    Here,
    /// Another step of the build gives its result too.
    Equal,
    /// It would run; files of an image would be brought in.
    WouldRun,
    /// It depends on a step that would run: if that makes the files of before, it need not.
    MightRun,
}

impl Verdict {
    fn of(verdict: scheduler::Verdict) -> Self {
        use scheduler::{KeyKind, Verdict as V};
        match verdict {
            V::NotNeeded | V::NotReached | V::Hit(KeyKind::Definition) => Self::Cached,
            V::Hit(KeyKind::Content) => Self::CachedByContent,
            V::Source => Self::Read,
            V::Equal(_) => Self::Equal,
            V::WouldRun => Self::WouldRun,
            V::MightRun => Self::MightRun,
        }
    }

    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cached => "CACHED",
            Self::CachedByContent => "CACHED (same files)",
            Self::Read => "READ",
            Self::Here => "HERE",
            Self::Equal => "SAME AS ANOTHER",
            Self::WouldRun => "WOULD RUN",
            Self::MightRun => "MIGHT RUN",
        }
    }

    fn runs(self) -> bool {
        matches!(self, Self::WouldRun | Self::MightRun)
    }
}

/// What a build would do.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    version: u32,
    /// Every step, inputs first.
    pub steps: Vec<Explained<Verdict>>,
    /// Steps that would run.
    pub would_run: usize,
    /// Steps that might.
    pub might_run: usize,
    /// Those of both that never ran: how long they take is not known, and not in the times below.
    pub unknown: usize,
    /// How long the build would take if none of those that might run does, with as many processors as steps.
    pub least_ms: f64,
    /// The same if all of them do.
    pub most_ms: f64,
    /// Remote caches that were not asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caches_not_used: Vec<Unused>,
}

/// Compares what a plan found with earlier builds, or with remote caches. `is_here` knows the images whose files are in
/// the store.
pub fn explain(
    (store, summary, imports): (&Store, &RequestSummary, &Imports<'_>),
    files: &SelectedFiles,
    definition: &Definition,
    reports: &[StepReport<scheduler::Verdict>],
    is_here: &dyn Fn(&str) -> bool,
) -> Plan {
    let pasts = Pasts::load(store, &summary.project, imports);
    let graph =
        Graph { version: VERSION, request: summary.request.clone(), steps: describe(definition, reports) };
    let explainer = Explainer::new(store, files, &pasts, &graph);
    let answers = Answers::of(imports);
    let step = |(index, report): (usize, &StepReport<scheduler::Verdict>)| {
        let verdict = match (Verdict::of(report.outcome), &definition.vertex(&report.vertex).op) {
            (verdict, Op::Source(source))
                if verdict.runs() && is_image(&graph.steps[index]) && is_here(&source.identifier) =>
            {
                Verdict::Here
            }
            (verdict, _) => verdict,
        };
        let mut why = if verdict.runs() { explainer.why(index, report) } else { Default::default() };
        for reason in &mut why.reasons {
            // What another build had there is not the point: what this one will have is not known yet.
            if let Reason::UpstreamStep { step }
            | Reason::UpstreamUnknown { step }
            | Reason::UpstreamFiles { step } = reason
                && report.inputs.iter().any(|input| {
                    Verdict::of(reports[input.step].outcome).runs()
                        && graph.steps[input.step].provenance.name == *step
                })
            {
                *reason = Reason::UpstreamRuns { step: step.clone() };
            }
        }
        let name = graph.steps[index].provenance.name.clone();
        let mut step = Explained::new(index, name, verdict, report, why, answers.of_step(report));
        step.predicted_ms = explainer.predicted(index).filter(|_| verdict.runs()).map(millis);
        step
    };
    let steps: Vec<Explained<Verdict>> = reports.iter().enumerate().map(step).collect();
    let count = |verdict| steps.iter().filter(|step| step.outcome == verdict).count();
    let longest = |runs: &dyn Fn(Verdict) -> bool| longest(reports, &steps, runs);
    Plan {
        version: VERSION,
        would_run: count(Verdict::WouldRun),
        might_run: count(Verdict::MightRun),
        unknown: steps.iter().filter(|step| step.outcome.runs() && step.predicted_ms.is_none()).count(),
        least_ms: longest(&|verdict| verdict == Verdict::WouldRun),
        most_ms: longest(&Verdict::runs),
        caches_not_used: imports.unused(),
        steps,
    }
}

/// Milliseconds of the longest way through the steps that run.
fn longest(
    reports: &[StepReport<scheduler::Verdict>],
    steps: &[Explained<Verdict>],
    runs: &dyn Fn(Verdict) -> bool,
) -> f64 {
    let mut ends: Vec<f64> = Vec::with_capacity(steps.len());
    for (report, step) in reports.iter().zip(steps) {
        let begin = report.inputs.iter().map(|input| ends[input.step]).fold(0.0, f64::max);
        let took = step.predicted_ms.filter(|_| runs(step.outcome)).unwrap_or(0.0);
        ends.push(begin + took);
    }
    millis(Duration::from_secs_f64(ends.into_iter().fold(0.0, f64::max) / 1000.0))
}
