//! The inputs of a vertex, each once.

use std::collections::HashMap;

use wharf_solver::llb::Edge;

/// Inputs in the order in which they were first asked for.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) edges: Vec<Edge>,
    numbers: HashMap<Edge, usize>,
}

impl Inputs {
    /// The number of an input.
    pub(super) fn number(&mut self, edge: Edge) -> usize {
        *self.numbers.entry(edge).or_insert_with(|| {
            self.edges.push(edge);
            self.edges.len() - 1
        })
    }
}
