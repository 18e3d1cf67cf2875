//! Which stages are needed, and where each name leads: a stage, a named context, or an image.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use wharf_solver::llb::Platform;

use super::images::BaseImage;
use super::stage::Step;
use super::{Converter, NamedContext, mounts, platform, words};
use crate::Diagnostic;
use crate::diagnostic::excerpt;
use crate::instructions::{self, Copy, Dockerfile, Instruction, InstructionKind};
use crate::lint::reference::{is_reference, is_reference_in_lowercase};
use crate::parser::Token;

/// The base name that means no files at all.
const SCRATCH: &str = "scratch";

/// Each stage holds a state of its own, so their number is limited; generated files have hundreds.
const STAGES_MAX: usize = 20_000;

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
            let error = Diagnostic::error(0..0, format!("target stage {target:?} could not be found"));
            match target.parse::<usize>() {
                Ok(_) => error.with_hint("a stage has no number here: name it with FROM … AS name"),
                Err(_) => error.with_suggestion(target, &self.stage_names()),
            }
        })
    }

    /// The stages the target needs, by number. Going down, every stage that can need another comes before it, whatever
    /// triggers its base image brings. Of the others only what is wrong with them is told.
    pub(super) fn plan(&mut self, target: usize) -> Vec<Option<Plan<'a>>> {
        for index in target + 1..self.dockerfile.stages.len() {
            self.check_unneeded(index);
        }
        let mut needed = vec![self.options.every_stage; target + 1];
        needed[target] = true;
        let mut plans: Vec<Option<Plan<'a>>> = Vec::new();
        for index in (0..=target).rev() {
            if needed[index] {
                let plan = self.plan_stage(index);
                self.mark_needed(&plan, &mut needed);
                plans.push(Some(plan));
            } else {
                self.check_unneeded(index);
                plans.push(None);
            }
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
        self.stage_name(index)
    }

    fn stage_name(&self, index: usize) -> String {
        let name = self.dockerfile.stages[index].name.as_ref();
        name.map_or_else(|| format!("stage-{index}"), |name| name.text.clone())
    }

    /// Where the `--from` of a COPY in stage `index` leads; it may count stages.
    pub(super) fn copy_from(&self, token: &Token, index: usize) -> Result<Origin, Diagnostic> {
        self.origin(token, index, self.copied_stage(token)?, "copy")
    }

    /// The stage that the `--from` of a COPY counts or names.
    fn copied_stage(&self, token: &Token) -> Result<Option<usize>, Diagnostic> {
        let stages = self.dockerfile.stages.len();
        match token.text.parse::<i64>().map(usize::try_from) {
            Ok(Ok(number)) if number < stages => Ok(Some(number)),
            Ok(_) => {
                let message = format!("invalid stage index {}", token.text);
                Err(Diagnostic::error(token.span.clone(), message))
            }
            Err(_) => Ok(self.stage_named(&token.text, stages)),
        }
    }

    /// Where the `from` of a mount in stage `index` leads; a number is no name.
    pub(super) fn mount_from(&self, token: &Token, index: usize) -> Result<Origin, Diagnostic> {
        if token.text.parse::<usize>().is_ok() {
            let error =
                Diagnostic::error(token.span.clone(), "a mount's from can't be the number of a stage");
            return Err(error.with_hint("name the stage: FROM … AS name"));
        }
        self.origin(token, index, self.stage_named(&token.text, self.dockerfile.stages.len()), "mount")
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
            return Err(mounts::variable_in_from(token));
        }
        match found {
            Some(found) if found < index => Ok(Origin::Stage(found)),
            Some(found) if found == index => Err(circular(token)),
            Some(_) => {
                let problem = error(format!(
                    "cannot {verb} from stage {name:?}, it needs to be defined before current stage {:?}",
                    self.stage_name(index)
                ));
                match self.stage_named(name, index) {
                    Some(_) => {
                        Err(problem.with_hint("several stages have that name, and the last of them is meant"))
                    }
                    None => Err(problem),
                }
            }
            None => self.outside(name, &self.options.platform, index, &token.span),
        }
    }

    /// Says which image could not be had, and what may have been meant.
    pub(super) fn image_error(&self, span: Range<usize>, reference: &str, message: &str) -> Diagnostic {
        let error = Diagnostic::error(span, format!("{reference}: {message}"));
        if !self.may_suggest() {
            return error;
        }
        let mut candidates = COMMON_IMAGES.to_vec();
        candidates.extend(self.stage_names());
        candidates.retain(|candidate| *candidate != reference);
        error.with_suggestion(reference, &candidates)
    }

    fn stage_names(&self) -> Vec<&str> {
        self.dockerfile.stages.iter().filter_map(|stage| Some(stage.name.as_ref()?.text.as_str())).collect()
    }

    /// The last stage before `end` with this name, whatever its case.
    fn stage_named(&self, name: &str, end: usize) -> Option<usize> {
        let numbers = self.stage_numbers.get(name.to_lowercase().as_str())?;
        numbers[..numbers.partition_point(|number| *number < end)].last().copied()
    }

    /// What a name that is no stage leads to from stage `index`.
    fn outside(
        &self,
        name: &str,
        platform: &Platform,
        index: usize,
        place: &Range<usize>,
    ) -> Result<Origin, Diagnostic> {
        match (self.contexts.get(name, platform), name) {
            (Some((given, context)), _) => self.context_origin(given, context, index, place),
            (None, SCRATCH) => Ok(Origin::Scratch),
            (None, name) => {
                check_reference(name, place)?;
                Ok(Origin::Image(name.to_owned()))
            }
        }
    }

    /// An error if a name leads nowhere at all: neither to a stage (`found`) or a named context nor to an image.
    fn check_unneeded_name(&mut self, name: &str, found: Option<usize>, index: usize, place: &Range<usize>) {
        let is_context = self.contexts.get(name, &self.options.platform).is_some();
        if found.is_some() || is_context || name == SCRATCH || self.replacement(index).is_some() {
            return;
        }
        self.problems.extend(check_reference(name, place).err());
    }

    /// What a named context leads to from stage `index`.
    fn context_origin(
        &self,
        given: &str,
        context: &NamedContext,
        index: usize,
        place: &Range<usize>,
    ) -> Result<Origin, Diagnostic> {
        let stage = match context {
            NamedContext::Local => return Ok(Origin::Local(given.to_owned())),
            NamedContext::Image(reference) if reference == SCRATCH => return Ok(Origin::Scratch),
            NamedContext::Image(reference) => return Ok(Origin::Image(reference.clone())),
            NamedContext::Stage(stage) => stage,
        };
        match self.stage_named(stage, self.dockerfile.stages.len()) {
            Some(found) if found < index => Ok(Origin::Stage(found)),
            Some(_) => Err(Diagnostic::error(
                place.clone(),
                format!(
                    "build context {given:?} is stage {stage:?}, it needs to be defined before current stage {:?}",
                    self.stage_name(index)
                ),
            )),
            None => Err(Diagnostic::error(
                0..0,
                format!("build context {given:?}: target stage {stage:?} could not be found"),
            )
            .with_suggestion(stage, &self.stage_names())),
        }
    }

    /// What stands in for the whole stage: a named context with the stage's name.
    fn replacement(&self, index: usize) -> Option<Result<Origin, Diagnostic>> {
        let stage = &self.dockerfile.stages[index];
        let name = stage.name.as_ref()?;
        let platform = stage.platform.as_ref().and_then(|token| {
            let expanded = words::expand(token, self.dockerfile.escape, &self.globals).ok()?;
            platform::parse(&expanded.text, &self.options.build_platform).ok()
        });
        let platform = platform.as_ref().unwrap_or(&self.options.platform);
        let (given, context) = self.contexts.get(&name.text, platform)?;
        Some(self.context_origin(given, context, index, &name.span))
    }

    fn plan_stage(&mut self, index: usize) -> Plan<'a> {
        let dockerfile = self.dockerfile;
        let stage = &dockerfile.stages[index];
        let base_name = self.base_name(&stage.base);
        let explicit = stage.platform.as_ref().and_then(|token| self.stage_platform(token));
        let platform = match (&explicit, base_name.as_deref()) {
            // What has no files runs on what the image is for.
            (Some(platform), Some(name)) if name != SCRATCH => platform.clone(),
            _ => self.options.platform.clone(),
        };
        let replacement = self.replacement(index);
        let is_replaced = replacement.is_some();
        let origin = match (replacement, base_name) {
            (Some(origin), _) => origin,
            (None, Some(name)) => match self.stage_named(&name, index) {
                Some(below) => Ok(Origin::Stage(below)),
                None => self.outside(&name, &platform, index, &stage.base.span),
            },
            (None, None) => Ok(Origin::Scratch),
        };
        let origin = origin.unwrap_or_else(|problem| {
            self.problems.push(problem);
            Origin::Scratch
        });
        let mut plan = Plan { index, base: Base::Scratch, platform, steps: Vec::new() };
        match origin {
            Origin::Scratch => {}
            Origin::Local(name) => plan.base = Base::Local(name),
            Origin::Stage(below) => {
                plan.base = Base::Stage(below);
                if !is_replaced && self.replacement(below).is_none() {
                    plan.steps = self.triggers(index, triggers_of(&dockerfile.stages[below].instructions));
                }
            }
            Origin::Image(reference) => match self.images.get(&reference, &plan.platform) {
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
            let error = Diagnostic::error(token.span.clone(), message);
            self.problems
                .push(error.with_hint("give the argument a value, or use $BUILDPLATFORM or $TARGETPLATFORM"));
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
        let stage = &self.dockerfile.stages[index];
        let mut steps = Vec::new();
        for trigger in triggers {
            match instructions::parse_trigger(trigger) {
                Ok(instruction) => steps.push(Step {
                    instruction: Cow::Owned(instruction),
                    is_trigger: true,
                    location: stage.span.clone(),
                }),
                Err(problems) => {
                    self.problems
                        .extend(problems.into_iter().map(|problem| at_trigger(problem, &stage.base.span)));
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

    /// What is wrong with a stage whatever it is needed for: its FROM, and what its instructions read from.
    fn check_unneeded(&mut self, index: usize) {
        let stage = &self.dockerfile.stages[index];
        if let Some(name) = self.base_name(&stage.base) {
            self.check_unneeded_name(&name, self.stage_named(&name, index), index, &stage.base.span);
        }
        if let Some(token) = &stage.platform {
            self.stage_platform(token);
        }
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::Copy(Copy { from: Some(from), .. }) => match self.copied_stage(from) {
                    Ok(Some(found)) if found == index => self.problems.push(circular(from)),
                    Ok(found) => self.check_unneeded_name(&from.text, found, index, &from.span),
                    Err(problem) => self.problems.push(problem),
                },
                InstructionKind::Run(run) => {
                    self.problems.extend(run.mounts.iter().filter_map(mounts::syntax_error));
                }
                _ => {}
            }
        }
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

/// The error of a name that no image can have.
fn check_reference(name: &str, place: &Range<usize>) -> Result<(), Diagnostic> {
    if is_reference(name) {
        return Ok(());
    }
    let message = format!("failed to parse image name {:?}: invalid reference format", excerpt(name));
    let error = Diagnostic::error(place.clone(), message);
    if is_reference_in_lowercase(name) {
        let hint = format!("repository name must be lowercase: {}", excerpt(&name.to_lowercase()));
        return Err(error.with_hint(hint));
    }
    Err(error.with_hint("write [REGISTRY/]NAME[:TAG][@DIGEST]"))
}

fn circular(from: &Token) -> Diagnostic {
    Diagnostic::error(from.span.clone(), format!("circular dependency detected on stage: {}", from.text))
}

/// The numbers of the stages of each name, in order.
pub(super) fn numbers(dockerfile: &Dockerfile) -> HashMap<&str, Vec<usize>> {
    let mut numbers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (number, stage) in dockerfile.stages.iter().enumerate() {
        if let Some(name) = &stage.name {
            numbers.entry(&name.text).or_default().push(number);
        }
    }
    numbers
}

/// How many of the stages start from each.
pub(super) fn uses_as_base(plans: &[Option<Plan<'_>>]) -> Vec<usize> {
    let mut uses = vec![0; plans.len()];
    for plan in plans.iter().flatten() {
        if let Base::Stage(below) = plan.base {
            uses[below] += 1;
        }
    }
    uses
}

/// A problem in a trigger, at the base that brought it.
pub(super) fn at_trigger(problem: Diagnostic, base: &Range<usize>) -> Diagnostic {
    Diagnostic { span: base.clone(), message: format!("ONBUILD trigger: {}", problem.message), ..problem }
}

fn triggers_of(instructions: &[Instruction]) -> impl Iterator<Item = &str> {
    instructions.iter().filter_map(|instruction| match &instruction.kind {
        InstructionKind::OnBuild(trigger) => Some(trigger.text.as_str()),
        _ => None,
    })
}
