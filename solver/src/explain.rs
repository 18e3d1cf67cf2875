//! What a step's keys are made of, as data that can be kept, and why it had to run: the difference of two of them.

mod parts;
mod reason;

use serde::{Deserialize, Serialize};
use wharf_cache::{ContentDigest, Key};

use crate::cache_map::{self, InputKey, Reads};
use crate::llb::{Definition, Op, Vertex};
use crate::scheduler::StepReport;

pub use parts::{op_parts, reads_text};
pub use reason::{FileChange, IgnoredBy, Reason, compare, upstream};

/// What the keys of a vertex are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Display name of the step.
    pub name: String,
    /// Key of the operation without its inputs.
    pub op: Key,
    /// The keyed operation, part by part: two operations have equal keys exactly when they have equal parts.
    pub parts: Vec<Part>,
    /// What it reads, in the order of its inputs.
    pub inputs: Vec<InputProvenance>,
    /// What a source from the network that is no image stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<ContentDigest>,
    /// `None` for a local directory, and where the solve ended before keys were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition_key: Option<Key>,
    /// `None` where the content of some input is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_key: Option<Key>,
}

/// A value of an operation that is in its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is: `args`, `env.PATH`, `workdir`, `mount /src readonly`, `copy[0].dest`. Several parts may have one name.
    pub name: String,
    /// Its value as text.
    pub value: String,
}

/// What a step reads from one of its inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputProvenance {
    /// Display name of the step that makes it.
    pub step: String,
    /// What that step is.
    pub origin: Origin,
    /// Which of its outputs.
    pub output: u32,
    /// Definition key of that step; `None` for a local directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition_key: Option<Key>,
    /// Key of all selections together, the part of a definition key.
    pub reads: Key,
    /// What of its files is read.
    pub selections: Vec<Selection>,
}

/// What an input comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Origin {
    /// A local directory.
    Local {
        /// Name of the context.
        context: String,
    },
    /// An image.
    Image {
        /// Its identifier without the digest.
        image: String,
        /// The digest it is pinned to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
    /// Another source from the network.
    Pinned {
        /// Its identifier.
        source: String,
        /// What it stands for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pin: Option<ContentDigest>,
    },
    /// A step.
    Step,
}

/// Files of an input that are read together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Which, as text: different selections have different texts.
    pub reads: String,
    /// Their content digest, if somebody had to know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentDigest>,
}

/// What the keys of `steps[index]` are made of. `steps` are all reports of a solve or a plan of `definition`.
///
/// # Panics
/// If there is no such report, or the reports are of another definition.
pub fn provenance<O>(definition: &Definition, steps: &[StepReport<O>], index: usize) -> Provenance {
    let report = &steps[index];
    let vertex = definition.vertex(&report.vertex);
    let inputs = report.inputs.iter().zip(cache_map::reads(vertex)).map(|(input, reads)| {
        let producer = &steps[input.step];
        let made_by = definition.vertex(&producer.vertex);
        InputProvenance {
            step: made_by.metadata.name.clone(),
            origin: origin(made_by, producer.pin),
            output: input.output,
            definition_key: producer.definition_key,
            reads: cache_map::reads_key(&reads),
            selections: selections(&reads, &input.content),
        }
    });
    Provenance {
        name: vertex.metadata.name.clone(),
        op: report.op_key,
        parts: op_parts(vertex),
        inputs: inputs.collect(),
        pin: report.pin,
        definition_key: report.definition_key,
        content_key: report.content_key,
    }
}

impl Provenance {
    /// The definition key as it follows from operation, pin and inputs; `None` if something it needs is not known. Tests
    /// hold that provenances say what keys are made of by it; caches of other places are checked by their own records.
    pub fn made_definition_key(&self) -> Option<Key> {
        let input = |input: &InputProvenance| match input.definition_key {
            Some(key) => Some(InputKey::Definition { key, output: input.output, reads: input.reads }),
            None => input.content(),
        };
        self.made_key(input)
    }

    /// The content key as it follows from operation, pin and inputs; `None` if some content is not known.
    pub fn made_content_key(&self) -> Option<Key> {
        self.made_key(InputProvenance::content)
    }

    fn made_key(&self, of_input: impl Fn(&InputProvenance) -> Option<InputKey>) -> Option<Key> {
        let pin = self.pin.map(|pin| Some(InputKey::Content(vec![pin])));
        let parts: Option<Vec<InputKey>> = pin.into_iter().chain(self.inputs.iter().map(of_input)).collect();
        Some(cache_map::key(&self.op, &parts?))
    }
}

impl InputProvenance {
    /// What is read, by content.
    fn content(&self) -> Option<InputKey> {
        self.selections
            .iter()
            .map(|selection| selection.content)
            .collect::<Option<_>>()
            .map(InputKey::Content)
    }
}

fn selections(reads: &[Reads], content: &[Option<ContentDigest>]) -> Vec<Selection> {
    let selection = |(read, content): (&Reads, &Option<ContentDigest>)| Selection {
        reads: reads_text(read),
        content: *content,
    };
    reads.iter().zip(content).map(selection).collect()
}

fn origin(vertex: &Vertex, pin: Option<ContentDigest>) -> Origin {
    match &vertex.op {
        Op::Source(source) if source.is_local() => Origin::Local { context: source.name().to_owned() },
        Op::Source(source) if cache_map::is_image(source) => {
            let digest = source.pinned_digest().map(str::to_owned);
            let image = source.identifier.rsplit_once('@').map_or(&*source.identifier, |(image, _)| image);
            Origin::Image { image: image.to_owned(), digest }
        }
        Op::Source(source) if cache_map::is_pinned(source) => {
            Origin::Pinned { source: source.identifier.clone(), pin }
        }
        _ => Origin::Step,
    }
}

#[cfg(test)]
mod tests;
