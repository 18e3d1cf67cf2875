//! The end of a solve: results and reports.

use wharf_cache::{ContentDigest, Key};

use super::{Owner, Told};
use crate::cache_map::{self, InputKey};
use crate::op::ResultRef;
use crate::progress::Outcome;
use crate::scheduler::graph::{Index, Input, NodeKind};
use crate::scheduler::report::{Ignored, InputReport, StepOutcome, StepReport};
use crate::scheduler::state::VertexState;
use crate::scheduler::{SolveError, Solved, VertexOutcome};

impl Owner<'_, '_> {
    /// Collects results and reports, and completes the story for the progress sink.
    pub(super) fn finish(mut self) -> Solved {
        let steps = (0..self.vertices.len()).map(|index| self.report(index, self.outcome(index))).collect();
        for index in 0..self.vertices.len() {
            match (self.vertices[index].told, &self.cause) {
                (Told::Started | Told::Nothing, None) => self.tell_completed(index, Outcome::Cached),
                (Told::Started, Some(_)) => self.tell_completed(index, Outcome::Cancelled),
                _ => {}
            }
        }
        let result = |&(goal, output): &(Index, u32)| {
            let state = &self.vertices[goal].state;
            let outputs = state.outputs().unwrap_or_else(|| unreachable!("stuck: a goal is {state:?}"));
            outputs[usize::try_from(output).expect("outputs were counted")].clone()
        };
        let results = match self.cause.take() {
            Some(cause) => Err(cause),
            None => Ok(self.graph.goals.iter().map(result).collect()),
        };
        Solved { results, steps }
    }

    /// Everything that is known of a vertex.
    pub(super) fn report<O>(&self, index: Index, outcome: O) -> StepReport<O> {
        let (node, vertex) = (&self.graph.nodes[index], &self.vertices[index]);
        let inputs: Vec<InputReport> = node
            .inputs
            .iter()
            .enumerate()
            .map(|(number, input)| InputReport {
                step: input.vertex,
                output: input.output,
                content: match &vertex.read {
                    // Of a pinned source only the pin is read; it has no inputs.
                    Some(read) => read.content[number].iter().copied().map(Some).collect(),
                    None => self.known_content(input),
                },
            })
            .collect();
        StepReport {
            vertex: node.digest,
            outcome,
            outputs: vertex.state.outputs().map(<[ResultRef]>::to_vec).unwrap_or_default(),
            ignored: node
                .ignored_by
                .map(|by| if by == index { Ignored::Itself } else { Ignored::Upstream(by) }),
            lookups: vertex.lookups.clone(),
            op_key: node.op_key,
            definition_key: vertex.definition_key,
            content_key: match node.kind {
                NodeKind::Local | NodeKind::Image => None,
                NodeKind::Pinned => vertex.definition_key,
                NodeKind::Step => vertex
                    .read
                    .as_ref()
                    .map_or_else(|| content_key(&node.op_key, &inputs), |read| Some(read.content_key)),
            },
            pin: vertex.pin,
            inputs,
            started: vertex.work.started,
            took: vertex.work.took,
        }
    }

    fn outcome(&self, index: Index) -> StepOutcome {
        let (node, vertex) = (&self.graph.nodes[index], &self.vertices[index]);
        match (&vertex.state, &self.cause) {
            (VertexState::Done(finished), _) => StepOutcome::Done(finished.outcome),
            (VertexState::Lazy { .. }, _) => StepOutcome::Done(VertexOutcome::Lazy),
            (_, Some(SolveError::Vertex { vertex, .. })) if *vertex == node.digest => StepOutcome::Failed,
            (VertexState::Stopped, _) => StepOutcome::Cancelled,
            (_, Some(_)) if vertex.told == Told::Started => StepOutcome::Cancelled,
            (_, Some(_)) if vertex.undecided > 0 => StepOutcome::NotReached,
            _ => StepOutcome::NotNeeded,
        }
    }

    /// For each selection its content digest, if it is known.
    fn known_content(&self, input: &Input) -> Vec<Option<ContentDigest>> {
        let image = match self.vertices[input.vertex].state.outputs() {
            Some([ResultRef::Image { content, .. }, ..]) => Some(content),
            _ => None,
        };
        let known = |(read, key)| match image {
            Some(content) => Some(cache_map::image_selection(content, read)),
            None => self.digests.known(input.vertex, input.output, key),
        };
        input.selections().map(known).collect()
    }
}

/// The content key, if the content of every input is known.
fn content_key(op_key: &Key, inputs: &[InputReport]) -> Option<Key> {
    let part =
        |input: &InputReport| input.content.iter().copied().collect::<Option<_>>().map(InputKey::Content);
    let parts: Option<Vec<InputKey>> = inputs.iter().map(part).collect();
    Some(cache_map::key(op_key, &parts?))
}
