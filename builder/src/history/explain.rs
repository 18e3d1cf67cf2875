//! Why each step of a build ran: compared with the nearest earlier build of the same project, or with remote caches.

use std::collections::HashSet;

use serde::Serialize;
use wharf_cache::history::{BuildRow, BuildStatus};
use wharf_cache::{ContentDigest, Store};
use wharf_solver::explain::{
    FileChange, IgnoredBy, InputProvenance, Origin, Provenance, Reason, Selection, compare, upstream,
};
use wharf_solver::scheduler::{Ignored, KeyKind, KeyLookup, StepOutcome, StepReport, VertexOutcome};

use super::asked::Asked;
use super::matching::match_steps;
use super::past::{Earlier, Pasts};
use super::{ComparedWith, End, Graph, GraphStep, Outcome, SelectedFiles, Why, is_image};
use crate::context::files::{Change, differences};
use crate::exporter::rfc3339;
use crate::remote::imports::Unused;

/// Files that one step's reasons name; of more there is only the number.
const FILES_NAMED_MAX: usize = 100;

/// Whether a step was not taken from the cache.
pub(super) fn missed(report: &StepReport) -> bool {
    match report.outcome {
        StepOutcome::Done(VertexOutcome::Executed) => true,
        StepOutcome::Failed | StepOutcome::Cancelled => was_asked_for(report),
        StepOutcome::Done(_) | StepOutcome::NotNeeded | StepOutcome::NotReached => false,
    }
}

fn was_asked_for<O>(report: &StepReport<O>) -> bool {
    !report.lookups.is_empty() || report.ignored.is_some()
}

/// Finds out why steps of one build are not in the cache.
pub(super) struct Explainer<'a> {
    store: &'a Store,
    files: &'a SelectedFiles,
    pasts: &'a Pasts,
    graph: &'a Graph,
    /// For each of `pasts`, the step of it that each step of the graph stands for.
    matched: Vec<Vec<Option<usize>>>,
}

impl<'a> Explainer<'a> {
    /// For a build of `graph` that has read `files`.
    pub(super) fn new(
        store: &'a Store,
        files: &'a SelectedFiles,
        pasts: &'a Pasts,
        graph: &'a Graph,
    ) -> Self {
        let names = |steps: &'a [GraphStep]| -> Vec<&'a str> {
            steps.iter().map(|step| &*step.provenance.name).collect()
        };
        let now = names(&graph.steps);
        let matched = pasts.earlier.iter().map(|past| match_steps(&names(past.steps()), &now)).collect();
        Self { store, files, pasts, graph, matched }
    }

    /// Why the step with this report has to run.
    pub(super) fn why<O>(&self, index: usize, report: &StepReport<O>) -> Why {
        if report.ignored == Some(Ignored::Itself) {
            return Why {
                reasons: vec![Reason::CacheIgnored { by: self.ignored_by(index) }],
                ..Why::default()
            };
        }
        let now = &self.graph.steps[index].provenance;
        let nearest = self.nearest(index);
        let says_nothing =
            |reasons: &[Reason]| matches!(reasons, [] | [Reason::NeverSeen | Reason::ResultGone]);
        let Some((past, step, reasons)) = nearest else {
            // That the files of an image are brought in is no miss.
            let is_image = is_image(&self.graph.steps[index]);
            let reasons = match was_asked_for(report) {
                true => vec![Reason::NeverSeen],
                false if is_image => vec![Reason::ImageElsewhere],
                false => Vec::new(),
            };
            return Why { reasons, ..Why::default() };
        };
        if is_image(&self.graph.steps[index]) {
            return Why { reasons: vec![Reason::ImageElsewhere], ..Why::default() };
        }
        if says_nothing(&reasons) && !was_asked_for(report) {
            return Why::default();
        }
        let compared_with = Some(self.pasts.earlier[past].name());
        if let (Some(Ignored::Upstream(above)), true) = (report.ignored, says_nothing(&reasons)) {
            let step = self.graph.steps[above].provenance.name.clone();
            let reasons = vec![Reason::CacheIgnored { by: IgnoredBy::Upstream { step } }];
            return Why { reasons, more_files: 0, compared_with };
        }
        let before = &self.pasts.earlier[past].steps()[step].provenance;
        let reasons = self.look_upstream(past, before, now, reasons);
        let (reasons, more_files) = self.name_files(before, now, reasons);
        Why { reasons, more_files, compared_with }
    }

    /// How the step differs from the past one that it stands for: that one, the reasons (none if they are equal), and how
    /// many more files.
    pub(super) fn difference(&self, index: usize) -> Option<(usize, Vec<Reason>, usize)> {
        let (past, step, reasons) = self.nearest(index)?;
        if matches!(*reasons, [Reason::ResultGone | Reason::Unfinished]) {
            return Some((step, Vec::new(), 0));
        }
        let before = &self.pasts.earlier[past].steps()[step].provenance;
        let now = &self.graph.steps[index].provenance;
        let reasons = self.look_upstream(past, before, now, reasons);
        let (reasons, more_files) = self.name_files(before, now, reasons);
        Some((step, reasons, more_files))
    }

    /// How long the step took when it last ran.
    pub(super) fn predicted(&self, index: usize) -> Option<std::time::Duration> {
        let now = &self.graph.steps[index];
        self.matched.iter().enumerate().find_map(|(past, steps)| {
            let step = steps[index]?;
            // Another image says nothing of this one.
            let before = &self.pasts.earlier[past].steps()[step].provenance;
            if is_image(now) && before.parts != now.provenance.parts {
                return None;
            }
            self.pasts.took(past, step)
        })
    }

    /// The past step from which the least has changed; of equals the newest.
    fn nearest(&self, index: usize) -> Option<(usize, usize, Vec<Reason>)> {
        let now = &self.graph.steps[index].provenance;
        let mut nearest: Option<(usize, usize, Vec<Reason>)> = None;
        for (past, steps) in self.matched.iter().enumerate() {
            let Some(step) = steps[index] else { continue };
            let earlier: &Earlier = &self.pasts.earlier[past];
            let mut reasons = compare(&earlier.steps()[step].provenance, now);
            let same = matches!(reasons.as_slice(), [Reason::ResultGone]);
            if same && !earlier.has_result(step) {
                reasons = vec![Reason::Unfinished];
            }
            if nearest.as_ref().is_none_or(|(.., best)| reasons.len() < best.len()) {
                nearest = Some((past, step, reasons));
            }
        }
        nearest
    }

    fn ignored_by(&self, index: usize) -> IgnoredBy {
        let request = &self.graph.request;
        if request.no_cache {
            return IgnoredBy::NoCache;
        }
        let name = &self.graph.steps[index].provenance.name;
        let label = name.strip_prefix('[').and_then(|rest| rest.split_once(' '));
        let is_named = |stage: &&String| label.is_some_and(|(label, _)| label.eq_ignore_ascii_case(stage));
        // The only stage of a file is not in its names.
        let only = || request.no_cache_stages.first().filter(|_| request.no_cache_stages.len() == 1);
        match request.no_cache_stages.iter().find(is_named).or_else(only) {
            Some(stage) => IgnoredBy::Filter { stage: stage.clone() },
            None => IgnoredBy::Step,
        }
    }

    /// Where it is not known whether a step that it reads made the same files, says as much as that step tells.
    fn look_upstream(
        &self,
        past: usize,
        before: &Provenance,
        now: &Provenance,
        mut reasons: Vec<Reason>,
    ) -> Vec<Reason> {
        for reason in &mut reasons {
            let Reason::UpstreamUnknown { step } = reason else { continue };
            let mut inputs = before.inputs.iter().zip(&now.inputs);
            let Some((old, new)) = inputs.find(|(_, new)| new.step == *step) else { continue };
            let steps = (self.pasts.earlier[past].steps(), &*self.graph.steps);
            if let (Some(old), Some(new)) = (maker(steps.0, old), maker(steps.1, new)) {
                *reason = upstream(old, new);
            }
        }
        reasons
    }

    /// Puts in place of "the files changed" which of them did, where both lists are known.
    fn name_files(
        &self,
        before: &Provenance,
        now: &Provenance,
        reasons: Vec<Reason>,
    ) -> (Vec<Reason>, usize) {
        let mut named = Vec::new();
        let (mut count, mut more) = (0, 0);
        for reason in reasons {
            let changes = match &reason {
                Reason::LocalFiles { context } => self.changes(
                    before,
                    now,
                    |input| matches!(&input.origin, Origin::Local { context: of } if of == context),
                ),
                Reason::UpstreamFiles { step } => self.changes(before, now, |input| input.step == *step),
                _ => Vec::new(),
            };
            if changes.is_empty() || matches!(reason, Reason::UpstreamFiles { .. }) {
                named.push(reason.clone());
            }
            for (path, change) in changes {
                if count == FILES_NAMED_MAX {
                    more += 1;
                    continue;
                }
                count += 1;
                named.push(match &reason {
                    Reason::UpstreamFiles { step } => {
                        Reason::UpstreamFile { step: step.clone(), path, change }
                    }
                    Reason::LocalFiles { context } => {
                        Reason::LocalFile { context: context.clone(), path, change }
                    }
                    _ => unreachable!("nothing else has files"),
                });
            }
        }
        (named, more)
    }

    /// The files that differ in what is read of the inputs that `is_meant`, each once.
    fn changes(
        &self,
        before: &Provenance,
        now: &Provenance,
        is_meant: impl Fn(&InputProvenance) -> bool,
    ) -> Vec<(String, FileChange)> {
        let (mut found, mut known) = (Vec::new(), HashSet::new());
        for (before, now) in before.inputs.iter().zip(&now.inputs).filter(|(_, now)| is_meant(now)) {
            for (before, now) in before.selections.iter().zip(&now.selections) {
                for (path, change) in self.differences(before, now).unwrap_or_default() {
                    let path = match path.display().to_string() {
                        root if root.is_empty() => "/".to_owned(),
                        path => path,
                    };
                    let change = match change {
                        Change::Added => FileChange::Added,
                        Change::Removed => FileChange::Removed,
                        Change::Changed => FileChange::Changed,
                    };
                    if known.insert(path.clone()) {
                        found.push((path, change));
                    }
                }
            }
        }
        found
    }

    fn differences(&self, before: &Selection, now: &Selection) -> Option<Vec<(std::path::PathBuf, Change)>> {
        let (old, new) = (before.content?, now.content?);
        if old == new {
            return None;
        }
        differences(&self.list(&old)?, &self.list(&new)?)
    }

    fn list(&self, content: &ContentDigest) -> Option<Vec<u8>> {
        self.files.list(content).or_else(|| self.store.file_list(content).ok().flatten())
    }
}

/// The step among `steps` that makes an input.
fn maker<'a>(steps: &'a [GraphStep], input: &InputProvenance) -> Option<&'a Provenance> {
    let is_it =
        |step: &&Provenance| step.definition_key.is_some() && step.definition_key == input.definition_key;
    steps.iter().map(|step| &step.provenance).find(is_it)
}

/// A step of a build, as it is told.
#[derive(Debug, Clone, Serialize)]
pub struct Explained<O = End> {
    /// Its number, from 1.
    pub step: usize,
    /// Display name.
    pub name: String,
    /// How it ended, or would.
    pub outcome: O,
    /// When it began, since the solve did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<f64>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// How long it would take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_ms: Option<f64>,
    /// Why it was not taken from the cache.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Told>,
    /// Files that differ beyond those that `reasons` name.
    #[serde(skip_serializing_if = "super::is_zero")]
    pub more_files: usize,
    /// What it was compared with.
    #[serde(flatten)]
    pub compared_with: Option<ComparedWith>,
    /// What remote caches answered when they were asked for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<Asked>,
    /// Which keys were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lookups: Vec<Lookup>,
}

/// A reason, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    #[serde(flatten)]
    reason: Reason,
    text: String,
}

/// A key that was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Lookup {
    kind: &'static str,
    key: String,
    found: bool,
}

impl<O> Explained<O> {
    /// What a report, a comparison and remote caches say.
    pub(super) fn new<R>(
        index: usize,
        name: String,
        outcome: O,
        report: &StepReport<R>,
        why: Why,
        asked: Vec<Asked>,
    ) -> Self {
        let has_worked = report.started.is_some();
        Self {
            step: index + 1,
            name,
            outcome,
            started_ms: report.started.map(millis),
            duration_ms: has_worked.then(|| millis(report.took)),
            predicted_ms: None,
            reasons: told(&why.reasons),
            more_files: why.more_files,
            compared_with: why.compared_with,
            asked,
            lookups: report.lookups.iter().map(lookup).collect(),
        }
    }
}

impl Explained {
    pub(super) fn of_report(
        index: usize,
        name: String,
        end: End,
        report: &StepReport,
        why: Why,
        asked: Vec<Asked>,
    ) -> Self {
        Self::new(index, name, end, report, why, asked)
    }

    /// Of a build that was recorded.
    pub fn of_past(past: &super::Past, index: usize) -> Self {
        let work = past.work(index);
        let why = work.map(|work| work.why.clone()).unwrap_or_default();
        Self {
            step: index + 1,
            name: past.graph.steps.get(index).map(|step| step.provenance.name.clone()).unwrap_or_default(),
            outcome: past.end(index),
            started_ms: work.map(|work| work.started_us as f64 / 1000.0),
            duration_ms: work.map(|work| work.took_us as f64 / 1000.0),
            predicted_ms: None,
            reasons: told(&why.reasons),
            more_files: why.more_files,
            compared_with: why.compared_with,
            asked: past.asked(index).to_vec(),
            lookups: Vec::new(),
        }
    }
}

/// Reasons with their text.
pub fn told(reasons: &[Reason]) -> Vec<Told> {
    reasons.iter().map(|reason| Told { text: reason.to_string(), reason: reason.clone() }).collect()
}

impl Told {
    /// In words.
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn lookup(lookup: &KeyLookup) -> Lookup {
    let kind = match lookup.kind {
        KeyKind::Definition => "definition",
        KeyKind::Content => "content",
    };
    Lookup { kind, key: lookup.key.to_string(), found: lookup.found }
}

pub(super) fn millis(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// A build, as it is told.
#[derive(Debug, Clone, Serialize)]
pub struct ExplainedBuild {
    version: u32,
    /// Its id.
    pub build: String,
    started: String,
    duration_ms: f64,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// Its steps.
    pub steps: Vec<Explained>,
    /// Remote caches that were not asked, or not any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caches_not_used: Vec<Unused>,
}

impl ExplainedBuild {
    pub(super) fn new(row: &BuildRow, outcome: Outcome, steps: Vec<Explained>) -> Self {
        Self {
            version: super::VERSION,
            build: row.id.to_string(),
            started: rfc3339::format(row.started),
            duration_ms: millis(row.duration),
            status: status_word(row.status),
            error: outcome.error,
            image: outcome.image,
            steps,
            caches_not_used: outcome.caches_not_used,
        }
    }

    /// Of a build that was recorded.
    pub fn of_past(past: &super::Past) -> Self {
        Self {
            version: super::VERSION,
            build: past.id.to_string(),
            started: rfc3339::format(past.started),
            duration_ms: millis(past.duration),
            status: status_word(past.status),
            error: past.outcome.error.clone(),
            image: past.outcome.image.clone(),
            steps: (0..past.graph.steps.len()).map(|index| Explained::of_past(past, index)).collect(),
            caches_not_used: past.outcome.caches_not_used.clone(),
        }
    }
}

/// How a build ended, in a word.
pub fn status_word(status: BuildStatus) -> &'static str {
    match status {
        BuildStatus::Succeeded => "succeeded",
        BuildStatus::Failed => "failed",
        BuildStatus::Cancelled => "cancelled",
    }
}
