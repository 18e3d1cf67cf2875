//! A stage under construction: its file system, config and variables, and the names of its steps.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use wharf_solver::llb::{Edge, Metadata, Op, Platform, Vertex};

use super::checks::Seen;
use super::env::Env;
use super::{Converter, platform, remote};
use crate::image::ImageConfig;
use crate::instructions::{Instruction, InstructionKind};
use crate::parser::Token;
use crate::shell::{Lex, Mode};

/// An instruction to convert: the stage's own or a trigger of its base.
#[derive(Debug)]
pub(super) struct Step<'a> {
    /// The instruction. A trigger's spans are those of its own text: nothing but `location` may be shown.
    pub(super) instruction: Cow<'a, Instruction>,
    /// Whether it came with ONBUILD from the base.
    pub(super) is_trigger: bool,
    /// Where it stands; a trigger stands at the FROM that pulled it.
    pub(super) location: Range<usize>,
}

impl Step<'_> {
    /// Where to point at for a token of the instruction.
    pub(super) fn place(&self, token: &Token) -> Range<usize> {
        if self.is_trigger { self.location.clone() } else { token.span.clone() }
    }
}

/// What the instructions so far have made of a stage.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    /// Number of the stage in the file.
    pub(super) index: usize,
    /// What its steps run on.
    pub(super) platform: Platform,
    /// Its file system; `None` is empty.
    pub(super) head: Option<Edge>,
    /// The base image's source.
    pub(super) base: Option<Edge>,
    /// Number of layers of the base image.
    pub(super) base_layers: usize,
    /// Number of history entries of the base image.
    pub(super) base_history: usize,
    /// One edge for each layer on top of the base image.
    pub(super) layers: Vec<Edge>,
    /// The image's config.
    pub(super) config: ImageConfig,
    /// Variables of the next step: ENV and ARG.
    pub(super) env: Env,
    /// Declared arguments in order, those of the stages below it first.
    pub(super) args: Vec<(String, Option<String>)>,
    /// Their names.
    pub(super) declared: HashSet<String>,
    /// Whether this stage (not one below it) has had a CMD.
    pub(super) is_cmd_set: bool,
    /// What the checks remember.
    pub(super) seen: Seen,
    /// Its steps' names.
    pub(super) names: StepNames,
    /// Whether its steps ignore the cache.
    pub(super) ignore_cache: bool,
    /// Whether the variables of the config's list stand at the end of `env`, in its order.
    pub(super) is_settled: bool,
    /// About how many bytes its steps and their history take.
    pub(super) bytes: usize,
}

impl Stage {
    /// The working directory.
    pub(super) fn directory(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            directory => directory,
        }
    }

    /// The next step's name in front of what it does.
    pub(super) fn next_name(&mut self, is_trigger: bool, text: &str) -> String {
        let platforms = if self.names.with_platform {
            let arrow = self.env_platform().map(|target| platform::arrow(&self.platform, &target));
            format!("{}{} ", platform::format_all(&self.platform), arrow.unwrap_or_default())
        } else {
            String::new()
        };
        self.names.next(&platforms, is_trigger, text)
    }

    /// The platform that the declared TARGET arguments speak of.
    fn env_platform(&self) -> Option<Platform> {
        if let Some(target) = self.env.get("TARGETPLATFORM") {
            return platform::parse(target, &self.platform).ok();
        }
        let (os, architecture) = (self.env.get("TARGETOS"), self.env.get("TARGETARCH"));
        if os.is_none() && architecture.is_none() {
            return None;
        }
        Some(platform::normalise(&Platform {
            os: os.unwrap_or(&self.platform.os).to_owned(),
            architecture: architecture.unwrap_or(&self.platform.architecture).to_owned(),
            variant: self.env.get("TARGETVARIANT").unwrap_or_default().to_owned(),
            os_version: String::new(),
        }))
    }
}

/// `[build 2/5] `: counts the steps that do something to files.
#[derive(Debug, Clone, Default)]
pub(super) struct StepNames {
    /// The stage's name; empty where there is only one.
    pub(super) stage: String,
    /// Whether the platform is part of the name: several are built at once.
    pub(super) with_platform: bool,
    done: usize,
    total: usize,
}

impl StepNames {
    /// Names for the base (if it is an image) and these steps.
    pub(super) fn new(stage: String, with_platform: bool, has_image: bool, steps: &[Step<'_>]) -> Self {
        let counted = steps.iter().filter(|step| {
            use InstructionKind as K;
            matches!(step.instruction.kind, K::Run(_) | K::Copy(_) | K::Add(_) | K::Workdir(_))
        });
        Self { stage, with_platform, done: 0, total: counted.count() + usize::from(has_image) }
    }

    fn next(&mut self, platforms: &str, is_trigger: bool, text: &str) -> String {
        self.done += 1;
        let stage = if self.stage.is_empty() { String::new() } else { format!("{} ", self.stage) };
        let width = self.total.to_string().len();
        let trigger = if is_trigger { "ONBUILD " } else { "" };
        format!("[{platforms}{stage}{:>width$}/{}] {trigger}{text}", self.done, self.total)
    }
}

impl Converter<'_> {
    /// Puts a layer on the stage.
    pub(super) fn add_layer(&mut self, stage: &mut Stage, op: Op, inputs: Vec<Edge>, metadata: Metadata) {
        let edge = self.definition.add(Vertex { op, inputs, platform: None, metadata });
        stage.head = Some(edge);
        stage.layers.push(edge);
    }

    /// Name, place and cache use of a step; the words of its text as the step sees them.
    pub(super) fn step_metadata(&self, stage: &mut Stage, step: &Step<'_>) -> Metadata {
        let lookup = |name: &str| stage.env.get(name).map(str::to_owned);
        let lex = Lex { escape: self.dockerfile.escape, lookup: &lookup };
        let text = lex.word(&step.instruction.display).map(|expanded| expanded.text);
        let text = text.unwrap_or_else(|_| step.instruction.display.to_string());
        self.named_metadata(stage, step, &remote::without_credentials(&text))
    }

    /// The same for RUN: quotes stay, and so do variables that only the shell knows; secrets are masked.
    pub(super) fn run_metadata(
        &self,
        stage: &mut Stage,
        step: &Step<'_>,
        summary: &str,
        secrets: &HashSet<String>,
    ) -> Metadata {
        let lookup = |name: &str| {
            if secrets.contains(name) {
                Some("****".to_owned())
            } else {
                stage.env.get(name).map(str::to_owned)
            }
        };
        let lex = Lex { escape: self.dockerfile.escape, lookup: &lookup };
        let mode = Mode { keep_quotes: true, keep_escapes: true, keep_unset: true, ..Mode::default() };
        let text = lex.word_in(mode, &step.instruction.display);
        let mut text = text.unwrap_or_else(|_| step.instruction.display.to_string());
        text.push_str(summary);
        self.named_metadata(stage, step, &text)
    }

    fn named_metadata(&self, stage: &mut Stage, step: &Step<'_>, text: &str) -> Metadata {
        stage.bytes += text.len();
        Metadata {
            name: stage.next_name(step.is_trigger, text),
            location: Some(step.location.clone()),
            ignore_cache: stage.ignore_cache,
        }
    }
}
