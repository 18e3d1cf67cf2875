//! What was asked of which remote cache.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use wharf_cache::Key;
use wharf_solver::scheduler::{KeyLookup, StepReport};

use crate::remote::imports::{Answer, Imports};

/// What a place answered when it was asked for a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The place.
    pub place: String,
    /// Whether it had the step.
    pub found: bool,
}

/// What places answered for one step of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepAsked {
    /// Index of the step in its graph.
    pub step: usize,
    /// Each place that was asked, in order.
    pub places: Vec<Asked>,
}

/// All that the places of a build have answered.
#[derive(Debug)]
pub(super) struct Answers(HashMap<Key, Vec<Answer>>);

impl Answers {
    pub(super) fn of(imports: &Imports<'_>) -> Self {
        let mut by_key: HashMap<Key, Vec<Answer>> = HashMap::new();
        for answer in imports.answers() {
            by_key.entry(answer.key).or_default().push(answer);
        }
        Self(by_key)
    }

    /// What each place said to all keys of a step together.
    pub(super) fn of_step<O>(&self, report: &StepReport<O>) -> Vec<Asked> {
        let mut asked: Vec<Asked> = Vec::new();
        for KeyLookup { key, found, .. } in &report.lookups {
            // What was found and got lost again was not found.
            let answers = self.0.get(key).into_iter().flatten().filter(|answer| *found || !answer.found);
            for Answer { place, found, .. } in answers {
                match asked.iter_mut().find(|known| known.place == *place) {
                    Some(known) => known.found |= found,
                    None => asked.push(Asked { place: place.clone(), found: *found }),
                }
            }
        }
        asked
    }
}

/// In words; nothing if nobody was asked.
pub(super) fn words(asked: &[Asked]) -> Option<String> {
    if let Some(hit) = asked.iter().find(|asked| asked.found) {
        return Some(format!("hit in {}", hit.place));
    }
    let places: Vec<&str> = asked.iter().map(|asked| &*asked.place).collect();
    (!places.is_empty()).then(|| format!("not in {}", places.join(", ")))
}
