//! What a solve would do, as far as can be said without running a step or bringing in an image.
//!
//! Keys are made as for a solve. Then one way down from the goals looks up definition keys and finds what has to be looked at, and
//! one way up looks up content keys: where the content of an input is not known because the step that makes it would have to run,
//! only a record's absence is certain.

use std::collections::HashMap;

use super::{Owner, Told};
use crate::op::{OpError, ResultRef};
use crate::progress::Outcome;
use crate::scheduler::digests::Asked;
use crate::scheduler::graph::{Index, Lookup, NodeKind};
use crate::scheduler::report::{KeyKind, StepReport};
use crate::scheduler::state::{Finished, VertexState};
use crate::scheduler::worker::{Selection, snapshots};
use crate::scheduler::{Planned, SolveError, Verdict, VertexOutcome};

/// Where a plan stops: at a vertex that failed, or because the build was cancelled.
enum Stop {
    Failed(Index, OpError),
    Cancelled,
}

impl Owner<'_, '_> {
    pub(in crate::scheduler) fn plan(mut self) -> Planned {
        self.make_keys();
        let mut verdicts = vec![Verdict::NotNeeded; self.vertices.len()];
        if self.cause.is_none() {
            let judged =
                self.look_from_goals(&mut verdicts).and_then(|missed| self.judge(&missed, &mut verdicts));
            match judged {
                Ok(()) => self.judge_images(&mut verdicts),
                Err(Stop::Failed(index, error)) => self.fail(index, error),
                Err(Stop::Cancelled) => self.stop(SolveError::Cancelled),
            }
        }
        let result = match self.cause.take() {
            Some(cause) => {
                verdicts.fill(Verdict::NotReached);
                Err(cause)
            }
            None => Ok(()),
        };
        for index in 0..self.vertices.len() {
            if self.vertices[index].told == Told::Started {
                self.tell_completed(index, if result.is_ok() { Outcome::Cached } else { Outcome::Cancelled });
            }
        }
        let report = |(index, verdict)| self.report(index, verdict);
        let steps: Vec<StepReport<Verdict>> = verdicts.into_iter().enumerate().map(report).collect();
        Planned { result, steps }
    }

    /// From the goals down: looks up definition keys and returns, for each vertex, whether it was missed and is the one
    /// of its equals that would be worked on.
    fn look_from_goals(&mut self, verdicts: &mut [Verdict]) -> Result<Vec<bool>, Stop> {
        let first_equals = self.first_equals();
        let mut missed = vec![false; self.vertices.len()];
        let mut demanded = vec![false; self.vertices.len()];
        for &(goal, _) in &self.graph.goals {
            demanded[goal] = true;
        }
        for index in (0..self.vertices.len()).rev() {
            if !demanded[index] {
                continue;
            }
            self.check_cancelled()?;
            let failed = |error| Stop::Failed(index, error);
            let node = &self.graph.nodes[index];
            match node.kind {
                NodeKind::Local | NodeKind::Image => {
                    node.check_outputs(1).map_err(|error| failed(OpError::new(error)))?;
                    self.see_source(index).map_err(failed)?;
                    verdicts[index] = Verdict::Source;
                }
                NodeKind::Step | NodeKind::Pinned => {
                    let key = self.definition_key(index);
                    if node.lookup == Lookup::Both
                        && let Some(chains) = self.look_up(index, key, KeyKind::Definition).map_err(failed)?
                    {
                        self.see(index, VertexOutcome::DefinitionHit, snapshots(chains));
                        verdicts[index] = Verdict::Hit(KeyKind::Definition);
                        continue;
                    }
                    // Equal vertices come to one result; the first one stands below all that read any of them.
                    let first = first_equals.get(&(key, node.lookup)).copied().unwrap_or(index);
                    if first != index {
                        verdicts[index] = Verdict::Equal(first);
                        demanded[first] = true;
                        continue;
                    }
                    missed[index] = true;
                    for &producer in &node.producers {
                        demanded[producer] = true;
                    }
                }
            }
        }
        Ok(missed)
    }

    /// For each definition key the first vertex that has it.
    fn first_equals(&self) -> HashMap<(wharf_cache::Key, Lookup), Index> {
        let mut first = HashMap::new();
        for (index, node) in self.graph.nodes.iter().enumerate() {
            if let (NodeKind::Step | NodeKind::Pinned, Some(key)) =
                (node.kind, self.vertices[index].definition_key)
            {
                first.entry((key, node.lookup)).or_insert(index);
            }
        }
        first
    }

    /// From the sources up: what becomes of the vertices whose definition keys were missed.
    fn judge(&mut self, missed: &[bool], verdicts: &mut [Verdict]) -> Result<(), Stop> {
        for index in 0..self.vertices.len() {
            let failed = |error| Stop::Failed(index, error);
            if let Verdict::Equal(first) = verdicts[index] {
                if let VertexState::Done(finished) = &self.vertices[first].state {
                    let (outcome, outputs) = (finished.outcome, finished.outputs.clone());
                    let enough = self.graph.nodes[index].check_outputs(outputs.len());
                    enough.map_err(|error| failed(OpError::new(error)))?;
                    self.see(index, outcome, outputs);
                    verdicts[index] = verdicts[first];
                }
            } else if missed[index] {
                self.check_cancelled()?;
                verdicts[index] = self.judge_one(index).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// A vertex whose inputs have been judged.
    fn judge_one(&mut self, index: Index) -> Result<Verdict, OpError> {
        if !self.may_hit_by_content(index)? {
            return Ok(Verdict::WouldRun);
        }
        let node = &self.graph.nodes[index];
        if node.producers.iter().any(|&producer| self.vertices[producer].state.outputs().is_none()) {
            return Ok(Verdict::MightRun);
        }
        for input in &node.inputs {
            let result = self.result(input).clone();
            if matches!(result, ResultRef::Image { .. }) {
                continue;
            }
            for (read, key) in input.selections() {
                if let Asked::New(request) = self.digests.ask(index, input.vertex, input.output, key) {
                    let selection =
                        Selection { producer: input.vertex, result: result.clone(), reads: read.clone() };
                    let digest = self.worker.digest(&selection)?;
                    self.digests.learn(request, digest);
                }
            }
        }
        Ok(match self.recorded_by_content(index)? {
            Some(chains) => {
                self.see(index, VertexOutcome::ContentHit, snapshots(chains));
                Verdict::Hit(KeyKind::Content)
            }
            None => Verdict::WouldRun,
        })
    }

    /// Images are brought in for the steps that run.
    fn judge_images(&self, verdicts: &mut [Verdict]) {
        for (index, node) in self.graph.nodes.iter().enumerate() {
            if node.kind != NodeKind::Image || verdicts[index] != Verdict::Source {
                continue;
            }
            let readers = node.consumers.iter().map(|&consumer| verdicts[consumer]);
            for reader in readers.collect::<Vec<_>>() {
                match reader {
                    Verdict::WouldRun => verdicts[index] = Verdict::WouldRun,
                    Verdict::MightRun if verdicts[index] == Verdict::Source => {
                        verdicts[index] = Verdict::MightRun
                    }
                    _ => {}
                }
            }
        }
    }

    /// A directory is there; an image's metadata is asked for.
    fn see_source(&mut self, index: Index) -> Result<(), OpError> {
        let node = &self.graph.nodes[index];
        let result = match node.kind {
            NodeKind::Local => ResultRef::Local(node.digest),
            _ => self.solve.resolver.resolve_source(&node.digest, node.vertex)?,
        };
        self.see(index, VertexOutcome::Lazy, vec![result]);
        Ok(())
    }

    /// A vertex has its result. Nothing waits for it: a plan has an order of its own.
    fn see(&mut self, index: Index, outcome: VertexOutcome, outputs: Vec<ResultRef>) {
        self.vertices[index].state = VertexState::Done(Finished { outcome, outputs, files: None });
    }

    fn check_cancelled(&self) -> Result<(), Stop> {
        if (self.solve.cancelled)() { Err(Stop::Cancelled) } else { Ok(()) }
    }
}
