//! Which items go: a pure function.

use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, SystemTime};

use super::Item;
use super::State;
use super::inventory::Node;

/// Nothing is free to make again: the least that anything is taken to cost.
const COST_MIN: Duration = Duration::from_millis(50);

/// The items that are to go, by their index, in the order in which they were chosen: garbage first, then the others by
/// how [`dispensable`] they are, a snapshot after all that stand on it, or with those of them that take no space, until
/// `excess` bytes are free. What `admit` does not like stays.
pub(super) fn choose(
    nodes: &[Node],
    excess: u64,
    now: SystemTime,
    admit: &dyn Fn(&Item) -> bool,
) -> Vec<usize> {
    let mut choice = Choice {
        nodes,
        on_top: nodes.iter().map(|node| node.on_top).collect(),
        only_for: nodes.iter().map(|node| node.only_for).collect(),
        is_light: vec![false; nodes.len()],
        light_on: HashMap::new(),
        is_gone: vec![false; nodes.len()],
        gone: Vec::new(),
        bytes: 0,
    };
    let mut candidates = Vec::new();
    for (index, node) in nodes.iter().enumerate().filter(|(_, node)| admit(&node.item)) {
        match node.item.state {
            State::Garbage => choice.take(index),
            State::Cached | State::Dangling => candidates.push(index),
            State::Tagged | State::InUse | State::Fixed => {}
        }
    }
    let mut is_candidate = vec![false; nodes.len()];
    candidates.iter().for_each(|&index| is_candidate[index] = true);
    choice.find_light(&candidates, &is_candidate);
    let rank = |index: usize| Ranked { score: dispensable(&nodes[index].item, now), index };
    let mut heap: BinaryHeap<Ranked> =
        candidates.iter().filter(|&&index| choice.on_top[index] == 0).map(|&index| rank(index)).collect();
    while choice.bytes < excess {
        let Some(Ranked { index, .. }) = heap.pop() else { break };
        choice.take(index);
        for &below in &nodes[index].below {
            if choice.on_top[below] == 0 && is_candidate[below] && !choice.is_gone[below] {
                heap.push(rank(below));
            }
        }
    }
    // Snapshots that stand on each other, in different chains, have no end to begin with.
    for index in candidates {
        if choice.bytes < excess {
            choice.take(index);
        }
    }
    choice.gone
}

/// How well an item can be done without: the longer it was not used, the larger it is and the less it costs to have it
/// again, the better.
fn dispensable(item: &Item, now: SystemTime) -> f64 {
    let idle = item.used.map_or(Duration::ZERO, |used| now.duration_since(used).unwrap_or_default());
    (1.0 + idle.as_secs_f64()) * item.bytes as f64 / (item.cost + COST_MIN).as_secs_f64()
}

struct Choice<'a> {
    nodes: &'a [Node],
    /// What is left of the nodes' own counts.
    on_top: Vec<usize>,
    only_for: Vec<Option<usize>>,
    /// Those that go with what they stand on; `on_top` leaves them out.
    is_light: Vec<bool>,
    /// By what they stand on.
    light_on: HashMap<usize, Vec<usize>>,
    is_gone: Vec<bool>,
    gone: Vec<usize>,
    bytes: u64,
}

impl Choice<'_> {
    /// Candidates that take no space, like snapshots whose files are elsewhere, do not keep what they stand on: there is
    /// nothing to be had by taking them first.
    fn find_light(&mut self, candidates: &[usize], is_candidate: &[bool]) {
        let is_light = |choice: &Self, index: usize| {
            is_candidate[index] && choice.nodes[index].item.bytes == 0 && choice.on_top[index] == 0
        };
        let mut light: Vec<usize> =
            candidates.iter().copied().filter(|&index| is_light(self, index)).collect();
        while let Some(index) = light.pop() {
            self.is_light[index] = true;
            for &below in &self.nodes[index].below {
                self.light_on.entry(below).or_default().push(index);
                self.on_top[below] -= 1;
                if is_light(self, below) {
                    light.push(below);
                }
            }
        }
    }

    fn take(&mut self, index: usize) {
        if std::mem::replace(&mut self.is_gone[index], true) {
            return;
        }
        let light = self.light_on.remove(&index).unwrap_or_default();
        light.into_iter().for_each(|above| self.take(above));
        let node = &self.nodes[index];
        self.gone.push(index);
        self.bytes += node.item.bytes;
        if !self.is_light[index] {
            node.below.iter().for_each(|&below| self.on_top[below] -= 1);
        }
        for &blob in &node.blobs {
            if let Some(count) = &mut self.only_for[blob] {
                *count -= 1;
                // Nobody would find it any more.
                if *count == 0 && matches!(self.nodes[blob].item.state, State::Cached) {
                    self.take(blob);
                }
            }
        }
    }
}

/// The greatest goes first.
struct Ranked {
    score: f64,
    index: usize,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.index.cmp(&self.index))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}
