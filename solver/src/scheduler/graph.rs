//! The part of a definition that the goals need, by index: what never changes while it is solved.

use std::collections::HashMap;

use wharf_cache::Key;

use super::GraphError;
use crate::cache_map::{self, Reads};
use crate::llb::{Definition, Edge, Op, Vertex, VertexDigest};

/// Index of a reachable vertex; inputs have lower indices than the vertices that read them.
pub(super) type Index = usize;

/// The reachable vertices in topological order.
pub(super) struct Graph<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    /// The goals: vertex and output.
    pub(super) goals: Vec<(Index, u32)>,
}

/// One reachable vertex.
pub(super) struct Node<'a> {
    pub(super) digest: VertexDigest,
    pub(super) vertex: &'a Vertex,
    pub(super) kind: NodeKind,
    /// Where its inputs come from and what it reads from them, in the order of the vertex's inputs.
    pub(super) inputs: Vec<Input>,
    /// The vertices among its inputs and its readers, each once.
    pub(super) producers: Vec<Index>,
    pub(super) consumers: Vec<Index>,
    pub(super) op_key: Key,
    /// Which records may stand for it.
    pub(super) lookup: Lookup,
    /// The vertex because of which not all of them may: itself or one that it depends on.
    pub(super) ignored_by: Option<Index>,
    pub(super) is_goal: bool,
    /// How many outputs its readers and goals expect at least.
    pub(super) outputs: usize,
}

/// One input of a vertex.
pub(super) struct Input {
    pub(super) vertex: Index,
    pub(super) output: u32,
    pub(super) reads: Vec<Reads>,
    /// The key of each of them alone.
    pub(super) read_keys: Vec<Key>,
    /// The key of all together.
    pub(super) reads_key: Key,
}

/// How a vertex gets its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeKind {
    /// A local directory: is its own result.
    Local,
    /// An image: resolved from metadata, brought in only when a step needs its files.
    Image,
    /// Another source from the network: pinned first, then as a step.
    Pinned,
    /// Everything else: looked up or executed.
    Step,
}

/// Which records may stand for a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lookup {
    /// Those of its definition key and of its content key.
    Both,
    /// Those of its content key: something it depends on ignores the cache and may turn out different.
    ContentOnly,
    /// None: it ignores the cache.
    Neither,
}

impl<'a> Graph<'a> {
    /// Collects what `goals` need, in one pass from the goals down and one back up.
    ///
    /// # Panics
    /// If a goal is not in the definition.
    pub(super) fn reachable(definition: &'a Definition, goals: &[Edge]) -> Self {
        let mut index_of: HashMap<VertexDigest, Index> =
            goals.iter().map(|goal| (goal.vertex, Index::MAX)).collect();
        let mut order = Vec::new();
        for goal in goals {
            let _exists = definition.vertex(&goal.vertex);
        }
        for (digest, vertex) in definition.iter().rev() {
            if index_of.contains_key(digest) {
                order.push((*digest, vertex));
                index_of.extend(vertex.inputs.iter().map(|input| (input.vertex, Index::MAX)));
            }
        }
        let mut nodes: Vec<Node<'a>> = Vec::with_capacity(order.len());
        for (index, (digest, vertex)) in order.into_iter().rev().enumerate() {
            index_of.insert(digest, index);
            let node = Node::new(digest, vertex, &index_of, &nodes);
            for &producer in &node.producers {
                nodes[producer].consumers.push(index);
            }
            for input in &node.inputs {
                nodes[input.vertex].expect_output(input.output);
            }
            nodes.push(node);
        }
        let goals: Vec<_> = goals.iter().map(|goal| (index_of[&goal.vertex], goal.output)).collect();
        for &(goal, output) in &goals {
            nodes[goal].is_goal = true;
            nodes[goal].expect_output(output);
        }
        Self { nodes, goals }
    }
}

impl Input {
    fn new(vertex: Index, output: u32, reads: Vec<Reads>) -> Self {
        let reads_key = cache_map::reads_key(&reads);
        let read_keys = match &*reads {
            [_] => vec![reads_key],
            reads => reads.iter().map(|read| cache_map::reads_key(std::slice::from_ref(read))).collect(),
        };
        Self { vertex, output, reads, read_keys, reads_key }
    }

    /// Each selection with its key.
    pub(super) fn selections(&self) -> impl Iterator<Item = (&Reads, Key)> {
        self.reads.iter().zip(self.read_keys.iter().copied())
    }
}

impl<'a> Node<'a> {
    fn new(
        digest: VertexDigest,
        vertex: &'a Vertex,
        index_of: &HashMap<VertexDigest, Index>,
        earlier: &[Node<'_>],
    ) -> Self {
        let inputs: Vec<Input> = vertex
            .inputs
            .iter()
            .zip(cache_map::reads(vertex))
            .map(|(edge, reads)| Input::new(index_of[&edge.vertex], edge.output, reads))
            .collect();
        let mut producers: Vec<Index> = inputs.iter().map(|input| input.vertex).collect();
        producers.sort_unstable();
        producers.dedup();
        let kind = match &vertex.op {
            Op::Source(source) if source.is_local() => NodeKind::Local,
            Op::Source(source) if cache_map::is_image(source) => NodeKind::Image,
            Op::Source(source) if cache_map::is_pinned(source) => NodeKind::Pinned,
            _ => NodeKind::Step,
        };
        // A directory or an image has no record that could be ignored: reading it again is what happens anyway.
        let has_records = !matches!(kind, NodeKind::Local | NodeKind::Image);
        let (lookup, ignored_by) = if vertex.metadata.ignore_cache && has_records {
            (Lookup::Neither, Some(earlier.len()))
        } else if let Some(above) = producers.iter().find_map(|&producer| earlier[producer].ignored_by) {
            (Lookup::ContentOnly, Some(above))
        } else {
            (Lookup::Both, None)
        };
        Self {
            digest,
            vertex,
            kind,
            inputs,
            producers,
            consumers: Vec::new(),
            op_key: cache_map::op_key(vertex),
            lookup,
            ignored_by,
            is_goal: false,
            outputs: 0,
        }
    }

    fn expect_output(&mut self, output: u32) {
        self.outputs =
            self.outputs.max(usize::try_from(output).map_or(usize::MAX, |output| output.saturating_add(1)));
    }

    /// Checks that a result has the outputs that are read.
    pub(super) fn check_outputs(&self, outputs: usize) -> Result<(), GraphError> {
        if outputs >= self.outputs {
            return Ok(());
        }
        Err(GraphError::MissingOutput { name: self.name().to_owned(), outputs, wanted: self.outputs - 1 })
    }

    pub(super) fn name(&self) -> &'a str {
        &self.vertex.metadata.name
    }
}
