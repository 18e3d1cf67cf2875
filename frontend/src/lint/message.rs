//! What each rule says of one place, in BuildKit's words.

use std::ops::Range;

use super::Rule;
use crate::Diagnostic;

impl Diagnostic {
    pub(crate) fn instruction_casing(span: Range<usize>, name: &str, majority: &str) -> Self {
        let message = format!("Command '{name}' should match the case of the command majority ({majority})");
        Self::lint(Rule::ConsistentInstructionCasing, span, message)
    }

    pub(crate) fn copy_of_ignored_file(span: Range<usize>, verb: &str, file: &str) -> Self {
        let message = format!("Attempting to {verb} file {file:?} that is excluded by .dockerignore");
        Self::lint(Rule::CopyIgnoredFile, span, message)
    }

    pub(crate) fn duplicate_stage_name(span: Range<usize>, name: &str, first: Range<usize>) -> Self {
        let message = format!("Duplicate stage name {name:?}, stage names should be unique");
        Self::lint(Rule::DuplicateStageName, span, message)
            .with_related(first, "the first stage of that name")
    }

    pub(crate) fn expose_mapping(span: Range<usize>, port: &str) -> Self {
        let message = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
        );
        Self::lint(Rule::ExposeInvalidFormat, span, message)
    }

    pub(crate) fn expose_casing(span: Range<usize>, port: &str) -> Self {
        let message = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
        Self::lint(Rule::ExposeProtoCasing, span, message)
    }

    pub(crate) fn as_casing(span: Range<usize>, r#as: &str, from: &str) -> Self {
        let message = format!("'{as}' and '{from}' keywords' casing do not match");
        Self::lint(Rule::FromAsCasing, span, message)
    }

    pub(crate) fn constant_platform(span: Range<usize>, platform: &str) -> Self {
        let message = format!("FROM --platform flag should not use constant value {platform:?}");
        Self::lint(Rule::FromPlatformFlagConstDisallowed, span, message)
    }

    pub(crate) fn base_platform(span: Range<usize>, image: &str, actual: &str, expected: &str) -> Self {
        let message = format!(
            "Base image {image} was pulled with platform {actual:?}, expected {expected:?} for current build"
        );
        Self::lint(Rule::InvalidBaseImagePlatform, span, message)
    }

    pub(crate) fn default_base_name(span: Range<usize>, base: &str) -> Self {
        let message = format!("Default value for ARG {base} results in empty or invalid base image name");
        Self::lint(Rule::InvalidDefaultArgInFrom, span, message)
    }

    pub(crate) fn definition_description(span: Range<usize>, instruction: &str, name: &str) -> Self {
        let message = format!("Comment for {instruction} should follow the format: `# {name} <description>`");
        Self::lint(Rule::InvalidDefinitionDescription, span, message)
    }

    pub(crate) fn shell_form(span: Range<usize>, instruction: &str) -> Self {
        let message = format!(
            "JSON arguments recommended for {instruction} to prevent unintended behavior related to OS signals"
        );
        Self::lint(Rule::JSONArgsRecommended, span, message)
    }

    pub(crate) fn legacy_key_value(span: Range<usize>, instruction: &str) -> Self {
        let message = format!(
            "\"{instruction} key=value\" should be used instead of legacy \"{instruction} key value\" format"
        );
        Self::lint(Rule::LegacyKeyValueFormat, span, message)
    }

    pub(crate) fn maintainer(span: Range<usize>) -> Self {
        let message = "Maintainer instruction is deprecated in favor of using label";
        Self::lint(Rule::MaintainerDeprecated, span, message)
    }

    pub(crate) fn instruction_again(span: Range<usize>, instruction: &str, last: Range<usize>) -> Self {
        let message = format!(
            "Multiple {instruction} instructions should not be used in the same stage because only the last one will be used"
        );
        Self::lint(Rule::MultipleInstructionsDisallowed, span, message)
            .with_related(last, "this one is used instead")
    }

    pub(crate) fn empty_continuation(span: Range<usize>) -> Self {
        Self::lint(Rule::NoEmptyContinuation, span, "Empty continuation line")
            .with_hint("remove the empty line, or put a comment there")
    }

    pub(crate) fn redundant_platform(span: Range<usize>, variable: &str) -> Self {
        let message = format!(
            "Setting platform to predefined {variable} in FROM is redundant as this is the default behavior"
        );
        Self::lint(Rule::RedundantTargetPlatform, span, message)
    }

    pub(crate) fn reserved_stage_name(span: Range<usize>, name: &str) -> Self {
        let message = format!("Stage name should not use the same name as reserved stage {name:?}");
        Self::lint(Rule::ReservedStageName, span, message)
    }

    pub(crate) fn secret_name(span: Range<usize>, instruction: &str, name: &str) -> Self {
        let message =
            format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})");
        Self::lint(Rule::SecretsUsedInArgOrEnv, span, message)
            .with_hint("give it to the steps that need it with RUN --mount=type=secret")
    }

    pub(crate) fn stage_name_casing(span: Range<usize>, name: &str) -> Self {
        Self::lint(Rule::StageNameCasing, span, format!("Stage name '{name}' should be lowercase"))
    }

    pub(crate) fn undeclared_arg_in_from(span: Range<usize>, name: &str) -> Self {
        Self::lint(Rule::UndefinedArgInFrom, span, format!("FROM argument '{name}' is not declared"))
    }

    pub(crate) fn undefined_variable(span: Range<usize>, name: &str) -> Self {
        Self::lint(Rule::UndefinedVar, span, format!("Usage of undefined variable '${name}'"))
    }

    pub(crate) fn relative_workdir(span: Range<usize>, directory: &str) -> Self {
        let message =
            format!("Relative workdir {directory:?} can have unexpected results if the base image changes");
        Self::lint(Rule::WorkdirRelativePath, span, message)
    }
}
