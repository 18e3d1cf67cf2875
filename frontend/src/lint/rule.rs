//! The rules: their names, what they say of themselves, and where their documentation is.

use std::fmt;

/// A rule of the checks, by BuildKit's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "`description` says what each is")]
pub enum Rule {
    ConsistentInstructionCasing,
    CopyIgnoredFile,
    DuplicateStageName,
    ExposeInvalidFormat,
    ExposeProtoCasing,
    FromAsCasing,
    FromPlatformFlagConstDisallowed,
    InvalidBaseImagePlatform,
    InvalidDefaultArgInFrom,
    InvalidDefinitionDescription,
    JSONArgsRecommended,
    LegacyKeyValueFormat,
    MaintainerDeprecated,
    MultipleInstructionsDisallowed,
    NoEmptyContinuation,
    RedundantTargetPlatform,
    ReservedStageName,
    SecretsUsedInArgOrEnv,
    StageNameCasing,
    UndefinedArgInFrom,
    UndefinedVar,
    WorkdirRelativePath,
}

/// Each rule with its name and what it asks for: sorted by name, as they are declared.
const RULES: [(Rule, &str, &str); 22] = [
    (
        Rule::ConsistentInstructionCasing,
        "ConsistentInstructionCasing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    (Rule::CopyIgnoredFile, "CopyIgnoredFile", "Attempting to Copy file that is excluded by .dockerignore"),
    (Rule::DuplicateStageName, "DuplicateStageName", "Stage names should be unique"),
    (
        Rule::ExposeInvalidFormat,
        "ExposeInvalidFormat",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    ),
    (Rule::ExposeProtoCasing, "ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase"),
    (Rule::FromAsCasing, "FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword"),
    (
        Rule::FromPlatformFlagConstDisallowed,
        "FromPlatformFlagConstDisallowed",
        "FROM --platform flag should not use a constant value",
    ),
    (
        Rule::InvalidBaseImagePlatform,
        "InvalidBaseImagePlatform",
        "Base image platform does not match expected target platform",
    ),
    (
        Rule::InvalidDefaultArgInFrom,
        "InvalidDefaultArgInFrom",
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    (
        Rule::InvalidDefinitionDescription,
        "InvalidDefinitionDescription",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    ),
    (
        Rule::JSONArgsRecommended,
        "JSONArgsRecommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    (
        Rule::LegacyKeyValueFormat,
        "LegacyKeyValueFormat",
        "Legacy key/value format with whitespace separator should not be used",
    ),
    (
        Rule::MaintainerDeprecated,
        "MaintainerDeprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    (
        Rule::MultipleInstructionsDisallowed,
        "MultipleInstructionsDisallowed",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    (
        Rule::NoEmptyContinuation,
        "NoEmptyContinuation",
        "Empty continuation lines will become errors in a future release",
    ),
    (
        Rule::RedundantTargetPlatform,
        "RedundantTargetPlatform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    (Rule::ReservedStageName, "ReservedStageName", "Reserved words should not be used as stage names"),
    (
        Rule::SecretsUsedInArgOrEnv,
        "SecretsUsedInArgOrEnv",
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    (Rule::StageNameCasing, "StageNameCasing", "Stage names should be lowercase"),
    (Rule::UndefinedArgInFrom, "UndefinedArgInFrom", "FROM command must use declared ARGs"),
    (Rule::UndefinedVar, "UndefinedVar", "Variables should be defined before their use"),
    (
        Rule::WorkdirRelativePath,
        "WorkdirRelativePath",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    ),
];

impl Rule {
    /// All of them, sorted by name.
    pub const ALL: [Self; RULES.len()] = {
        let mut all = [Self::ConsistentInstructionCasing; RULES.len()];
        let mut at = 0;
        while at < all.len() {
            all[at] = RULES[at].0;
            at += 1;
        }
        all
    };

    /// The rule of that name; case counts.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    /// The name that `check=skip=…` knows.
    pub fn name(self) -> &'static str {
        RULES[self as usize].1
    }

    /// What it asks for, in one sentence.
    pub fn description(self) -> &'static str {
        RULES[self as usize].2
    }

    /// Where it is explained; one rule is not.
    pub fn url(self) -> Option<String> {
        match self {
            Self::InvalidBaseImagePlatform => None,
            _ => Some(format!("https://docs.docker.com/go/dockerfile/rule/{}/", kebab(self.name()))),
        }
    }

    /// Whether it is off until `check=experimental=…` names it.
    pub fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `JSONArgsRecommended` → `json-args-recommended`.
fn kebab(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut kebab = String::with_capacity(name.len() + 4);
    for (at, byte) in bytes.iter().enumerate() {
        let begins_word = byte.is_ascii_uppercase()
            && at > 0
            && (bytes[at - 1].is_ascii_lowercase() || bytes.get(at + 1).is_some_and(u8::is_ascii_lowercase));
        if begins_word {
            kebab.push('-');
        }
        kebab.push(char::from(byte.to_ascii_lowercase()));
    }
    kebab
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_by_their_names() {
        for rule in Rule::ALL {
            assert_eq!(Rule::from_name(rule.name()), Some(rule));
            assert_eq!(format!("{rule:?}"), rule.name());
        }
        assert!(Rule::ALL.is_sorted_by_key(|rule| rule.name()));
        assert_eq!(Rule::from_name("undefinedvar"), None);
    }

    #[test]
    fn documentation_is_at_the_name_in_lower_case() {
        for (rule, page) in [
            (Rule::FromAsCasing, "from-as-casing"),
            (Rule::JSONArgsRecommended, "json-args-recommended"),
            (Rule::SecretsUsedInArgOrEnv, "secrets-used-in-arg-or-env"),
        ] {
            let url = format!("https://docs.docker.com/go/dockerfile/rule/{page}/");
            assert_eq!(rule.url(), Some(url));
        }
        assert_eq!(Rule::InvalidBaseImagePlatform.url(), None);
    }
}
