//! Which stages are needed, and where each name leads: an earlier stage, a named context, or an image.

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;

use wharf_solver::llb::Platform;

use super::images::BaseImage;
use super::stage::Step;
use super::{Converter, NamedContext, mounts, platform, words};
use crate::Diagnostic;
use crate::instructions::{self, Instruction, InstructionKind};
use crate::parser::Token;

/// The base name that means no files at all.
const SCRATCH: &str = "scratch";

/// Each stage holds a state of its own, so their number is limited; generated files have hundreds.
const STAGES_MAX: usize = 2_000;

/// Images people mean when they mistype one.
const COMMON_IMAGES: [&str; 10] =
    ["alpine", "busybox", "centos", "debian", "fedora", "golang", "nginx", "node", "python", "ubuntu"];

/// Where a name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// No files.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// A local directory given as a named context.
    Local(String),
    /// An image, by the reference to ask for.
    Image(String),
}

/// What a stage starts from.
#[derive(Debug)]
pub(super) enum Base {
    /// No files, or a base that could not be had and was reported.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// A local directory.
    Local(String),
    /// An image.
    Image(Rc<BaseImage>),
}

impl Base {
    /// Whether everything is known of it.
    pub(super) fn is_known(&self) -> bool {
        match self {
            Self::Image(image) => image.is_known,
            Self::Scratch | Self::Stage(_) | Self::Local(_) => true,
        }
    }
}

/// A stage that is needed, looked through once: its base is known and so are all of its steps.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// Number of the stage in the file.
    pub(super) index: usize,
    /// What it starts from.
    pub(super) base: Base,
    /// What it runs on; a stage on a stage runs on the same.
    pub(super) platform: Platform,
    /// Triggers of the base, then its own instructions.
    pub(super) steps: Vec<Step<'a>>,
}

impl<'a> Converter<'a> {
    /// The stage to build.
    pub(super) fn target(&self) -> Result<usize, Diagnostic> {
        let stages = &self.dockerfile.stages;
        let target = &self.options.target;
        if stages.len() > STAGES_MAX {
            let message = format!("more than {STAGES_MAX} stages");
            return Err(Diagnostic::error(stages[STAGES_MAX].span.clone(), message));
        }
        if target.is_empty() {
            return stages
                .len()
                .checked_sub(1)
                .ok_or_else(|| Diagnostic::error(0..0, "dockerfile contains no stages to build"));
        }
        self.stage_named(target, stages.len()).ok_or_else(|| {
            Diagnostic::error(0..0, format!("target stage {target:?} could not be found"))
                .with_suggestion(target, &self.stage_names())
        })
    }

    /// The stages the target needs, by number. Going down, every stage that can need another comes before it, whatever
    /// triggers its base image brings.
    pub(super) fn plan(&mut self, target: usize) -> Vec<Option<Plan<'a>>> {
        let mut needed = vec![self.options.every_stage; target + 1];
        needed[target] = true;
        let mut plans: Vec<Option<Plan<'a>>> = Vec::new();
        for index in (0..=target).rev() {
            let plan = needed[index].then(|| self.plan_stage(index));
            if let Some(plan) = &plan {
                self.mark_needed(plan, &mut needed);
            }
            plans.push(plan);
        }
        plans.reverse();
        plans
    }

    /// The name a stage has in step names: none if there is nothing else to tell it from.
    pub(super) fn display_name(&self, index: usize) -> String {
        let stages = &self.dockerfile.stages;
        if stages.len() == 1 && !self.has_implicit_stages() {
            return String::new();
        }
        stages[index].name.as_ref().map_or_else(|| format!("stage-{index}"), |name| name.text.clone())
    }

    /// Where the `--from` of a COPY in stage `index` leads; it may count stages.
    pub(super) fn copy_from(&self, token: &Token, index: usize) -> Result<Origin, Diagnostic> {
        let found = match token.text.parse::<usize>() {
            Ok(number) if number >= self.dockerfile.stages.len() => {
                return Err(Diagnostic::error(token.span.clone(), format!("invalid stage index {number}")));
            }
            Ok(number) => Some(number),
            Err(_) => self.nearest_stage(&token.text, index),
        };
        self.origin(token, index, found, "copy")
    }

    /// Where the `from` of a mount in stage `index` leads; a number is no name.
    pub(super) fn mount_from(&self, token: &Token, index: usize) -> Result<Origin, Diagnostic> {
        if token.text.parse::<usize>().is_ok() {
            let error =
                Diagnostic::error(token.span.clone(), "a mount's from can't be the number of a stage");
            return Err(error.with_hint("name the stage: FROM … AS name"));
        }
        self.origin(token, index, self.nearest_stage(&token.text, index), "mount")
    }

    fn origin(
        &self,
        token: &Token,
        index: usize,
        found: Option<usize>,
        verb: &str,
    ) -> Result<Origin, Diagnostic> {
        let name = token.text.as_str();
        let error = |message: String| Diagnostic::error(token.span.clone(), message);
        if name.contains('$') {
            let error =
                error("'from' doesn't support variable expansion, define alias stage instead".to_owned());
            return Err(error.with_hint("add FROM ${…} AS alias above and use the alias"));
        }
        match found {
            Some(found) if found < index => Ok(Origin::Stage(found)),
            Some(found) if found == index => {
                Err(error(format!("circular dependency detected on stage: {name}")))
            }
            Some(_) => {
                let message =
                    format!("cannot {verb} from stage {name:?}, it needs to be defined before current stage");
                Err(error(message))
            }
            None => Ok(self.outside(name, &self.options.platform)),
        }
    }

    /// The stage of that name that is meant in stage `index`: the last one before it, else (in error) one after it.
    fn nearest_stage(&self, name: &str, index: usize) -> Option<usize> {
        self.stage_named(name, index).or_else(|| self.stage_named(name, self.dockerfile.stages.len()))
    }

    /// Says which image could not be had, and what may have been meant.
    pub(super) fn image_error(&self, span: Range<usize>, reference: &str, message: &str) -> Diagnostic {
        let mut candidates = self.stage_names();
        candidates.extend(COMMON_IMAGES);
        candidates.retain(|candidate| *candidate != reference);
        Diagnostic::error(span, format!("{reference}: {message}")).with_suggestion(reference, &candidates)
    }

    fn stage_names(&self) -> Vec<&str> {
        self.dockerfile.stages.iter().filter_map(|stage| Some(stage.name.as_ref()?.text.as_str())).collect()
    }

    /// The last stage before `end` with this name, whatever its case.
    fn stage_named(&self, name: &str, end: usize) -> Option<usize> {
        let name = name.to_lowercase();
        self.dockerfile.stages[..end]
            .iter()
            .rposition(|stage| stage.name.as_ref().is_some_and(|token| token.text == name))
    }

    /// A name that is no stage.
    fn outside(&self, name: &str, platform: &Platform) -> Origin {
        if let Some((name, context)) = self.named_context(name, platform) {
            return match context {
                NamedContext::Local => Origin::Local(name),
                NamedContext::Image(reference) => Origin::Image(reference.clone()),
            };
        }
        match name {
            SCRATCH => Origin::Scratch,
            name => Origin::Image(name.to_owned()),
        }
    }

    /// `name::PLATFORM` before `name`; an image may be named in short or in full.
    fn named_context(&self, name: &str, platform: &Platform) -> Option<(String, &'a NamedContext)> {
        let name = name.to_lowercase();
        let short = name
            .strip_prefix("docker.io/")
            .map_or(name.as_str(), |rest| rest.strip_prefix("library/").unwrap_or(rest));
        let short = short.strip_suffix(":latest").unwrap_or(short);
        let contexts = &self.options.contexts;
        [format!("{name}::{platform}"), name.clone(), format!("{short}::{platform}"), short.to_owned()]
            .into_iter()
            .find_map(|key| contexts.get(&key).map(|context| (key, context)))
    }

    fn plan_stage(&mut self, index: usize) -> Plan<'a> {
        let dockerfile = self.dockerfile;
        let stage = &dockerfile.stages[index];
        let explicit = stage.platform.as_ref().and_then(|token| self.stage_platform(token));
        let platform = explicit.clone().unwrap_or_else(|| self.options.platform.clone());
        let replaced = stage.name.as_ref().and_then(|name| self.named_context(&name.text, &platform));
        let is_replaced = replaced.is_some();
        let origin = match replaced {
            Some((name, NamedContext::Local)) => Some(Origin::Local(name)),
            Some((_, NamedContext::Image(reference))) => Some(Origin::Image(reference.clone())),
            None => self.base_name(&stage.base).map(|name| match self.stage_named(&name, index) {
                Some(below) => Origin::Stage(below),
                None => self.outside(&name, &platform),
            }),
        };
        let mut plan = Plan { index, base: Base::Scratch, platform, steps: Vec::new() };
        match origin {
            None | Some(Origin::Scratch) => plan.platform = self.options.platform.clone(),
            Some(Origin::Local(name)) => plan.base = Base::Local(name),
            Some(Origin::Stage(below)) => {
                plan.base = Base::Stage(below);
                if !self.is_replaced(below) {
                    plan.steps = self.triggers(index, triggers_of(&dockerfile.stages[below].instructions));
                }
            }
            Some(Origin::Image(reference)) => match self.images.get(&reference, &plan.platform) {
                Ok(image) => {
                    if explicit.is_none() && self.options.implicit_platform {
                        plan.platform = image.platform(&plan.platform);
                    }
                    self.warn_platform(&stage.base, &image, &plan.platform);
                    let triggers = image.config.config.on_build.as_deref().unwrap_or_default();
                    if !is_replaced {
                        plan.steps = self.triggers(index, triggers.iter().map(String::as_str));
                    }
                    plan.base = Base::Image(image);
                }
                Err(message) => {
                    let error = self.image_error(stage.base.span.clone(), &reference, &message);
                    self.problems.push(error);
                }
            },
        }
        if !is_replaced {
            plan.steps.extend(stage.instructions.iter().map(|instruction| Step {
                instruction: Cow::Borrowed(instruction),
                is_trigger: false,
                location: instruction.span.clone(),
            }));
        }
        plan
    }

    /// The base's name, expanded with the global arguments.
    fn base_name(&mut self, token: &Token) -> Option<String> {
        let text = self.expand_global(token)?;
        if text.is_empty() {
            let error = Diagnostic::error(
                token.span.clone(),
                format!("base name ({}) should not be blank", token.text),
            );
            self.problems
                .push(error.with_hint("declare the argument above the first FROM and give it a default"));
            return None;
        }
        Some(text)
    }

    fn stage_platform(&mut self, token: &Token) -> Option<Platform> {
        let text = self.expand_global(token)?;
        if text.is_empty() {
            let message = format!("empty platform value from expression {}", token.text);
            self.problems.push(Diagnostic::error(token.span.clone(), message));
            return None;
        }
        match platform::parse(&text, &self.options.build_platform) {
            Ok(platform) => Some(platform),
            Err(message) => {
                let message = format!("failed to parse platform {}: {message}", token.text);
                self.problems.push(Diagnostic::error(token.span.clone(), message));
                None
            }
        }
    }

    fn expand_global(&mut self, token: &Token) -> Option<String> {
        match words::expand(token, self.dockerfile.escape, &self.globals) {
            Ok(expanded) => Some(expanded.text),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    fn warn_platform(&mut self, base: &Token, image: &BaseImage, expected: &Platform) {
        let actual = image.platform(expected);
        if (&actual.os, &actual.architecture) != (&expected.os, &expected.architecture) {
            let (actual, expected) = (platform::format_all(&actual), platform::format_all(expected));
            self.problems.push(Diagnostic::base_platform(base.span.clone(), &base.text, &actual, &expected));
        }
    }

    /// Parses the triggers that stage `index` gets from its base; what is wrong with them is said of its FROM.
    fn triggers<'t>(&mut self, index: usize, triggers: impl Iterator<Item = &'t str>) -> Vec<Step<'a>> {
        let location = self.dockerfile.stages[index].span.clone();
        let mut steps = Vec::new();
        for trigger in triggers {
            match instructions::parse_trigger(trigger) {
                Ok(instruction) => steps.push(Step {
                    instruction: Cow::Owned(instruction),
                    is_trigger: true,
                    location: location.clone(),
                }),
                Err(problems) => {
                    self.problems.extend(problems.into_iter().map(|problem| at_trigger(problem, &location)));
                }
            }
        }
        steps
    }

    fn mark_needed(&self, plan: &Plan<'a>, needed: &mut [bool]) {
        if let Base::Stage(below) = plan.base {
            needed[below] = true;
        }
        let mut need = |origin| {
            if let Ok(Origin::Stage(below)) = origin {
                needed[below] = true;
            }
        };
        for step in &plan.steps {
            match &step.instruction.kind {
                InstructionKind::Copy(copy) => {
                    copy.from.iter().for_each(|from| need(self.copy_from(from, plan.index)));
                }
                InstructionKind::Run(run) => run
                    .mounts
                    .iter()
                    .filter_map(mounts::from_name)
                    .for_each(|from| need(self.mount_from(&from, plan.index))),
                _ => {}
            }
        }
    }

    /// Whether a named context stands in for the whole stage.
    fn is_replaced(&self, index: usize) -> bool {
        let name = self.dockerfile.stages[index].name.as_ref();
        name.is_some_and(|name| self.named_context(&name.text, &self.options.platform).is_some())
    }

    /// Whether an instruction names something that is no stage: BuildKit makes a stage of it.
    fn has_implicit_stages(&self) -> bool {
        let is_outside = |name: &str| self.stage_named(name, self.dockerfile.stages.len()).is_none();
        self.dockerfile.stages.iter().flat_map(|stage| &stage.instructions).any(|instruction| {
            match &instruction.kind {
                InstructionKind::Copy(copy) => copy
                    .from
                    .as_ref()
                    .is_some_and(|from| from.text.parse::<usize>().is_err() && is_outside(&from.text)),
                InstructionKind::Run(run) => run.mounts.iter().any(|mount| match mounts::from_name(mount) {
                    Some(from) => is_outside(&from.text),
                    None => mounts::is_cache(mount),
                }),
                _ => false,
            }
        })
    }
}

/// A problem in a trigger, at the FROM that pulled it.
pub(super) fn at_trigger(problem: Diagnostic, location: &Range<usize>) -> Diagnostic {
    Diagnostic { span: location.clone(), message: format!("ONBUILD trigger: {}", problem.message), ..problem }
}

fn triggers_of(instructions: &[Instruction]) -> impl Iterator<Item = &str> {
    instructions.iter().filter_map(|instruction| match &instruction.kind {
        InstructionKind::OnBuild(trigger) => Some(trigger.text.as_str()),
        _ => None,
    })
}
