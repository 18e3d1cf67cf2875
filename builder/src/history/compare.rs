//! What of one build is other than it was in another.

use std::collections::BTreeMap;

use serde::Serialize;
use wharf_cache::Store;
use wharf_solver::explain::Reason;

use super::explain::{Explainer, Told, millis, status_word, told};
use super::past::{Earlier, Past, Pasts};
use super::{End, Request, SelectedFiles, is_image, text};

/// Two builds side by side.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    before: Side,
    now: Side,
    same_image: bool,
    /// All steps gave what they gave before, and yet the image is another one: its configuration is.
    other_configuration: bool,
    /// What was asked for otherwise.
    request: Vec<Asked>,
    /// Steps that differ; those of `now` in order, then those that are no longer there.
    steps: Vec<ComparedStep>,
    /// How many do not.
    equal_steps: usize,
}

#[derive(Debug, Clone, Serialize)]
struct Side {
    build: String,
    status: &'static str,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
}

/// Something that was asked for otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Asked {
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct ComparedStep {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Ended>,
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<Ended>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differences: Vec<Told>,
    #[serde(skip_serializing_if = "super::is_zero")]
    more_files: usize,
}

#[derive(Debug, Clone, Serialize)]
struct Ended {
    step: usize,
    outcome: End,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<f64>,
}

/// Compares two builds, of one project or not.
pub fn compare(store: &Store, before: &Past, now: &Past) -> Compared {
    let mut both = Pasts::of(vec![before.clone(), now.clone()]);
    let now = match both.earlier.pop() {
        Some(Earlier::Build(now)) => *now,
        _ => now.clone(),
    };
    let no_files = SelectedFiles::default();
    let explainer = Explainer::new(store, &no_files, &both, &now.graph);
    let mut steps = Vec::new();
    let mut equal_steps = 0;
    let mut is_there = vec![false; before.graph.steps.len()];
    for (index, step) in now.graph.steps.iter().enumerate() {
        let (counterpart, reasons, more_files) = match explainer.difference(index) {
            Some((counterpart, reasons, more_files)) => (Some(counterpart), reasons, more_files),
            None => (None, vec![Reason::NeverSeen], 0),
        };
        if let Some(counterpart) = counterpart {
            is_there[counterpart] = true;
            if reasons.is_empty() {
                equal_steps += 1;
                continue;
            }
        }
        steps.push(ComparedStep {
            name: step.provenance.name.clone(),
            before: counterpart.map(|counterpart| ended(before, counterpart)),
            now: Some(ended(&now, index)),
            differences: if counterpart.is_some() { told(&reasons) } else { Vec::new() },
            more_files,
        });
    }
    for (index, step) in before.graph.steps.iter().enumerate().filter(|(index, _)| !is_there[*index]) {
        steps.push(ComparedStep {
            name: step.provenance.name.clone(),
            before: Some(ended(before, index)),
            now: None,
            differences: Vec::new(),
            more_files: 0,
        });
    }
    let images = (&before.outcome.image, &now.outcome.image);
    let differ = matches!(images, (Some(before), Some(now)) if before != now);
    // A step that ran again may have made other files.
    let ran_again =
        (0..now.graph.steps.len()).any(|step| now.end(step) == End::Ran && !is_image(&now.graph.steps[step]));
    Compared {
        other_configuration: differ && steps.is_empty() && !ran_again,
        same_image: before.outcome.image.is_some() && before.outcome.image == now.outcome.image,
        request: asked(&before.graph.request, &now.graph.request),
        before: side(before),
        now: side(&now),
        steps,
        equal_steps,
    }
}

fn side(past: &Past) -> Side {
    Side {
        build: past.id.to_string(),
        status: status_word(past.status),
        duration_ms: millis(past.duration),
        image: past.outcome.image.clone(),
    }
}

fn ended(past: &Past, step: usize) -> Ended {
    let duration_ms = past.work(step).map(|work| work.took_us as f64 / 1000.0);
    Ended { step: step + 1, outcome: past.end(step), duration_ms }
}

fn asked(before: &Request, now: &Request) -> Vec<Asked> {
    let flat = |request: &Request| {
        let Request {
            context,
            dockerfile,
            target,
            platform,
            build_args,
            contexts,
            names,
            no_cache,
            no_cache_stages,
        } = request;
        let mut all = BTreeMap::from([
            ("context".to_owned(), context.clone()),
            ("platform".to_owned(), platform.clone()),
        ]);
        all.extend(dockerfile.clone().map(|path| ("dockerfile".to_owned(), path)));
        all.extend((!target.is_empty()).then(|| ("target".to_owned(), target.clone())));
        all.extend(build_args.iter().map(|(name, value)| (format!("argument {name}"), value.clone())));
        all.extend(contexts.iter().map(|(name, value)| (format!("further context {name}"), value.clone())));
        all.extend((!names.is_empty()).then(|| ("names".to_owned(), names.join(", "))));
        all.extend(no_cache.then(|| ("no cache".to_owned(), "for all steps".to_owned())));
        all.extend(
            (!no_cache_stages.is_empty()).then(|| ("no cache".to_owned(), no_cache_stages.join(", "))),
        );
        all
    };
    let (before, mut now) = (flat(before), flat(now));
    let mut found = Vec::new();
    for (what, old) in before {
        let new = now.remove(&what);
        if new.as_ref() != Some(&old) {
            found.push(Asked { what, before: Some(old), now: new });
        }
    }
    found.extend(now.into_iter().map(|(what, new)| Asked { what, before: None, now: Some(new) }));
    found
}

impl Compared {
    /// For people.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        for (sign, side) in [('-', &self.before), ('+', &self.now)] {
            let image = side.image.as_deref().unwrap_or("no image");
            let took = text::duration(side.duration_ms);
            lines.push(format!("{sign} build {}: {} in {took}, {image}", side.build, side.status));
        }
        if self.same_image {
            lines.push("the same image".to_owned());
        }
        if self.other_configuration {
            lines.push("the image's configuration differs; its files are the same".to_owned());
        }
        for Asked { what, before, now } in &self.request {
            lines.push(match (before, now) {
                (Some(before), Some(now)) => format!("{what} changed from `{before}` to `{now}`"),
                (None, Some(now)) => format!("{what} is new: `{now}`"),
                (Some(before), None) => format!("{what} is gone: it was `{before}`"),
                (None, None) => continue,
            });
        }
        for step in &self.steps {
            let sign = match (&step.before, &step.now) {
                (None, _) => '+',
                (_, None) => '-',
                _ => '~',
            };
            let end = |side: &Option<Ended>| {
                let side = side.as_ref()?;
                let took =
                    side.duration_ms.map(|took| format!(" {}", text::duration(took))).unwrap_or_default();
                Some(format!("{}{took}", side.outcome.word()))
            };
            let ends = match (end(&step.before), end(&step.now)) {
                (Some(before), Some(now)) if before == now => now,
                (Some(before), Some(now)) => format!("{before} → {now}"),
                (before, now) => before.or(now).unwrap_or_default(),
            };
            lines.push(format!("{sign} {}  ({ends})", step.name));
            lines.extend(step.differences.iter().map(|told| format!("    {}", told.text())));
            if step.more_files > 0 {
                lines.push(format!("    … and {} more files", step.more_files));
            }
        }
        lines.push(format!("{} steps are equal", self.equal_steps));
        lines.iter().map(|line| format!("{}\n", text::line(line))).collect()
    }
}
