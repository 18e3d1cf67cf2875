//! Why a step was not taken from the cache.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use wharf_cache::ContentDigest;

use super::{InputProvenance, Origin, Part, Provenance};

/// Why a step was not taken from the cache. Steps and contexts are named by their display names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// No earlier build is known that had this step.
    NeverSeen,
    /// The keys are those of an earlier build, but the result is no longer there.
    ResultGone,
    /// An earlier build began it and did not finish it.
    Unfinished,
    /// A value of the operation is another.
    PartChanged {
        /// Name of the part.
        name: String,
        /// Its value then.
        old: String,
        /// Its value now.
        new: String,
    },
    /// The operation has a value that it did not have.
    PartAdded {
        /// Name of the part.
        name: String,
        /// Its value.
        value: String,
    },
    /// The operation no longer has a value.
    PartRemoved {
        /// Name of the part.
        name: String,
        /// Its value then.
        value: String,
    },
    /// The operation has the same values in another order.
    PartsReordered,
    /// The operation reads the same, but its key was made by another version of wharf.
    KeyVersion,
    /// What is read of a local directory is other than it was; which files, the lists of files say.
    LocalFiles {
        /// Name of the context.
        context: String,
    },
    /// A file of a local directory changed.
    LocalFile {
        /// Name of the context.
        context: String,
        /// Path in it.
        path: String,
        /// What happened to it.
        change: FileChange,
    },
    /// An image is another.
    BaseChanged {
        /// Name of the image.
        image: String,
        /// Its digest then.
        old: Option<String>,
        /// Its digest now.
        new: Option<String>,
    },
    /// What is behind a URL or in a repository is other than it was.
    SourceChanged {
        /// The source.
        source: String,
        /// What it stood for.
        old: Option<ContentDigest>,
        /// What it stands for.
        new: Option<ContentDigest>,
    },
    /// A step that it reads made other files.
    UpstreamFiles {
        /// The step.
        step: String,
    },
    /// A file of what it reads of a step is another.
    UpstreamFile {
        /// The step.
        step: String,
        /// Path in what that step made.
        path: String,
        /// What happened to it.
        change: FileChange,
    },
    /// A step that it reads has another operation; what files it makes was not known in both builds.
    UpstreamStep {
        /// The step.
        step: String,
    },
    /// What goes into a step that it reads is not as before; what files that makes was not known in both builds.
    UpstreamUnknown {
        /// The step.
        step: String,
    },
    /// A step that it reads would run first: what that makes decides. Only in a plan.
    UpstreamRuns {
        /// The step.
        step: String,
    },
    /// It reads something else of a step.
    SelectionChanged {
        /// The step.
        step: String,
        /// What it read.
        old: Vec<String>,
        /// What it reads.
        new: Vec<String>,
    },
    /// It reads a step that it did not read.
    InputAdded {
        /// The step.
        step: String,
    },
    /// It no longer reads a step.
    InputRemoved {
        /// The step.
        step: String,
    },
    /// Files of an image are not in the store: they are pulled, or unpacked.
    ImageElsewhere,
    /// It was not to be looked for.
    CacheIgnored {
        /// Who said so.
        by: IgnoredBy,
    },
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileChange {
    /// It was not there.
    Added,
    /// It is no longer there.
    Removed,
    /// Its bytes, type, mode or attributes are other ones.
    Changed,
}

impl FileChange {
    fn words(self) -> &'static str {
        match self {
            Self::Added => "was added to",
            Self::Removed => "was removed from",
            Self::Changed => "changed in",
        }
    }
}

/// Who said that the cache is not to be used.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum IgnoredBy {
    /// The step itself, it is not known why.
    Step,
    /// `--no-cache`.
    NoCache,
    /// `--no-cache-filter`.
    Filter {
        /// The stage that was named.
        stage: String,
    },
    /// A step that it depends on: what that one makes now may be something else.
    Upstream {
        /// The step.
        step: String,
    },
}

/// Everything by which `now` differs from `before`; [`Reason::ResultGone`] if there is nothing.
pub fn compare(before: &Provenance, now: &Provenance) -> Vec<Reason> {
    let mut reasons = Vec::new();
    compare_parts(before, now, &mut reasons);
    if before.pin != now.pin {
        reasons.push(Reason::SourceChanged { source: now.name.clone(), old: before.pin, new: now.pin });
    }
    for (before, now) in before.inputs.iter().zip(&now.inputs) {
        reasons.extend(compare_input(before, now));
    }
    let common = before.inputs.len().min(now.inputs.len());
    let step = |input: &InputProvenance| input.step.clone();
    reasons.extend(before.inputs[common..].iter().map(|input| Reason::InputRemoved { step: step(input) }));
    reasons.extend(now.inputs[common..].iter().map(|input| Reason::InputAdded { step: step(input) }));
    // Two inputs from one source differ together.
    let mut seen = HashSet::new();
    reasons.retain(|reason| seen.insert(reason.clone()));
    if reasons.is_empty() {
        reasons.push(Reason::ResultGone);
    }
    reasons
}

/// What is said of a step that another one reads, by its provenance in two builds, where [`compare`] of the reader knows no
/// more than [`Reason::UpstreamUnknown`].
pub fn upstream(before: &Provenance, now: &Provenance) -> Reason {
    let step = now.name.clone();
    let differs = |(before, now): (&InputProvenance, &InputProvenance)| compare_input(before, now).is_some();
    let known_to_differ = |(before, now): (&InputProvenance, &InputProvenance)| {
        differs((before, now))
            && matches!((contents(before), contents(now)), (Some(old), Some(new)) if old != new)
    };
    let inputs = || before.inputs.iter().zip(&now.inputs);
    let is_file_operation = now.parts.first().is_some_and(|part| part.name == "kind" && part.value == "file");
    match () {
        () if before.parts != now.parts || before.inputs.len() != now.inputs.len() => {
            Reason::UpstreamStep { step }
        }
        // The same copies of other files: what they make is other than it was, unless what they go to is, too.
        () if is_file_operation
            && inputs().any(known_to_differ)
            && inputs().filter(|pair| differs(*pair)).count() == 1 =>
        {
            Reason::UpstreamFiles { step }
        }
        () => Reason::UpstreamUnknown { step },
    }
}

/// The contents of all that is read of an input, if they are known.
fn contents(input: &InputProvenance) -> Option<Vec<ContentDigest>> {
    input.selections.iter().map(|selection| selection.content).collect()
}

fn compare_parts(before: &Provenance, now: &Provenance, reasons: &mut Vec<Reason>) {
    let (old, new) = (numbered(&before.parts), numbered(&now.parts));
    let old_values: HashMap<_, &str> = old.iter().map(|(name, part)| (*name, &*part.value)).collect();
    let new_names: HashMap<_, &str> = new.iter().map(|(name, part)| (*name, &*part.value)).collect();
    let differences = reasons.len();
    // What is gone stands before what is new, and both in the order of the operation.
    for (name, part) in &old {
        if !new_names.contains_key(name) {
            reasons.push(Reason::PartRemoved { name: part.name.clone(), value: part.value.clone() });
        }
    }
    for (name, part) in &new {
        let (name_text, new) = (part.name.clone(), part.value.clone());
        match old_values.get(name) {
            None => reasons.push(Reason::PartAdded { name: name_text, value: new }),
            Some(old) if **old != *new => {
                reasons.push(Reason::PartChanged { name: name_text, old: (*old).to_owned(), new });
            }
            Some(_) => {}
        }
    }
    if reasons.len() > differences {
        return;
    }
    if before.parts != now.parts {
        reasons.push(Reason::PartsReordered);
    } else if before.op != now.op {
        reasons.push(Reason::KeyVersion);
    }
}

/// Parts by name and how many of the name came before.
fn numbered(parts: &[Part]) -> Vec<((&str, usize), &Part)> {
    let mut count: HashMap<&str, usize> = HashMap::new();
    let numbered = parts.iter().map(|part| {
        let count = count.entry(&part.name).or_default();
        *count += 1;
        ((&*part.name, *count), part)
    });
    numbered.collect()
}

fn compare_input(before: &InputProvenance, now: &InputProvenance) -> Option<Reason> {
    let reads = |input: &InputProvenance| -> Vec<String> {
        input.selections.iter().map(|selection| selection.reads.clone()).collect()
    };
    // Equal files are equal, wherever they come from and whatever they were selected by.
    let (old, new) = (contents(before), contents(now));
    let known = old.is_some() && new.is_some();
    if known && old == new {
        return None;
    }
    if before.reads != now.reads && reads(before) != reads(now) {
        return Some(Reason::SelectionChanged {
            step: now.step.clone(),
            old: reads(before),
            new: reads(now),
        });
    }
    let same_definition = before.definition_key == now.definition_key && before.output == now.output;
    if !known && same_definition && now.definition_key.is_some() && before.reads == now.reads {
        return None;
    }
    Some(match (&before.origin, &now.origin) {
        (_, Origin::Local { context }) => Reason::LocalFiles { context: context.clone() },
        (Origin::Image { digest: old, .. }, Origin::Image { image, digest: new }) => {
            Reason::BaseChanged { image: image.clone(), old: old.clone(), new: new.clone() }
        }
        (Origin::Pinned { pin: old, .. }, Origin::Pinned { source, pin: new }) => {
            Reason::SourceChanged { source: source.clone(), old: *old, new: *new }
        }
        _ if known => Reason::UpstreamFiles { step: now.step.clone() },
        _ => Reason::UpstreamUnknown { step: now.step.clone() },
    })
}

/// One line, without a full stop.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverSeen => f.write_str("no earlier build had this step"),
            Self::ResultGone => f.write_str("its result is no longer in the cache"),
            Self::Unfinished => f.write_str("an earlier build did not finish it"),
            Self::PartChanged { name, old, new } => {
                write!(f, "{name} changed from `{}` to `{}`", OneLine(old), OneLine(new))
            }
            Self::PartAdded { name, value } => write!(f, "{name} is new: `{}`", OneLine(value)),
            Self::PartRemoved { name, value } => write!(f, "{name} is gone: it was `{}`", OneLine(value)),
            Self::PartsReordered => f.write_str("its values are in another order"),
            Self::KeyVersion => f.write_str("its key was made by another version of wharf"),
            Self::LocalFiles { context } => write!(f, "files of the context `{context}` changed"),
            Self::LocalFile { context, path, change } => {
                write!(f, "`{path}` {} the context `{context}`", change.words())
            }
            Self::UpstreamFile { step, path, change } => {
                write!(f, "`{path}` {} what `{step}` made", change.words())
            }
            Self::BaseChanged { image, old, new } => {
                write!(f, "the image `{image}` changed")?;
                from_to(f, old.as_ref(), new.as_ref())
            }
            Self::SourceChanged { source, old, new } => {
                write!(f, "what `{source}` stands for changed")?;
                from_to(f, old.as_ref(), new.as_ref())
            }
            Self::UpstreamFiles { step } => write!(f, "`{step}` made other files"),
            Self::UpstreamStep { step } => write!(f, "`{step}` is another step than before"),
            Self::UpstreamUnknown { step } => {
                write!(f, "what it reads of `{step}` may differ: what goes into that step is not as before")
            }
            Self::UpstreamRuns { step } => write!(f, "`{step}` would run, and what it makes decides"),
            Self::SelectionChanged { step, old, new } => {
                write!(f, "it reads `{}` of `{step}`, not `{}`", new.join("`, `"), old.join("`, `"))
            }
            Self::InputAdded { step } => write!(f, "it now reads `{step}`"),
            Self::InputRemoved { step } => write!(f, "it no longer reads `{step}`"),
            Self::ImageElsewhere => {
                f.write_str("files of the image are not in the store: they are pulled or unpacked")
            }
            Self::CacheIgnored { by } => match by {
                IgnoredBy::Step => f.write_str("the cache was not to be used for it"),
                IgnoredBy::NoCache => f.write_str("the cache was not to be used (--no-cache)"),
                IgnoredBy::Filter { stage } => {
                    write!(f, "the cache was not to be used for the stage `{stage}` (--no-cache-filter)")
                }
                IgnoredBy::Upstream { step } => write!(f, "the cache was not to be used for `{step}`"),
            },
        }
    }
}

/// A value that may have several lines, on one.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character.is_control() {
            true => write!(f, "{}", character.escape_default()),
            false => write!(f, "{character}"),
        })
    }
}

fn from_to<T: fmt::Display>(f: &mut fmt::Formatter<'_>, old: Option<&T>, new: Option<&T>) -> fmt::Result {
    match (old, new) {
        (Some(old), Some(new)) if old.to_string() != new.to_string() => write!(f, " from {old} to {new}"),
        _ => Ok(()),
    }
}
