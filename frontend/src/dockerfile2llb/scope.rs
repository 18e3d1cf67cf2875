//! Build arguments: the global scope above the first FROM, ARG inside a stage, and what `--build-arg` gives to both.

use std::collections::{BTreeMap, BTreeSet};

use super::env::Env;
use super::stage::{Stage, Step};
use super::{Converter, Options, epoch, history, platform, words};
use crate::Diagnostic;
use crate::instructions::{Arg, Dockerfile, InstructionKind};

/// Arguments that reach RUN without ARG, in upper and lower case, and stay out of key, config and history.
const PROXY_ARGS: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Arguments that speak to the builder rather than to the Dockerfile.
const BUILDER_ARGS: [&str; 10] = [
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SYNTAX",
    epoch::NAME,
    "DOCKER_BUILDKIT",
];

/// Arguments about the SBOM: declared like others, but never variables of a step.
const NON_ENV_ARGS: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// The global scope: the platform's arguments, then the file's own, each seeing those before it.
pub(super) fn globals(dockerfile: &Dockerfile, options: &Options, problems: &mut Vec<Diagnostic>) -> Env {
    let mut globals = Env::default();
    for (name, value) in predefined_args(dockerfile, options) {
        let value = options.build_args.get(name).cloned().unwrap_or(value);
        globals.set(name, &value);
    }
    for arg in &dockerfile.global_args {
        match global_value(arg, dockerfile.escape, options, &globals) {
            Ok(None) => {}
            Ok(Some((name, value))) => globals.set(&name, &value),
            Err(problem) => problems.push(problem),
        }
        if let Err(problem) = globals.check_size(&arg.name) {
            problems.push(problem);
            break;
        }
    }
    globals
}

/// Whether it is an argument that never is a variable.
pub(super) fn is_non_env(name: &str) -> bool {
    NON_ENV_ARGS.contains(&name)
}

/// `K=V` of the proxies for RUN, both spellings. Of several spellings that were given the last in order counts, which is
/// the one in lower case; an empty value is none.
pub(super) fn proxy_env(build_args: &BTreeMap<String, String>) -> Vec<String> {
    let mut env = Vec::new();
    for name in PROXY_ARGS {
        let given = build_args.iter().rfind(|(given, _)| given.eq_ignore_ascii_case(name));
        if let Some((_, value)) = given.filter(|(_, value)| !value.is_empty()) {
            env.push(format!("{name}={value}"));
            env.push(format!("{}={value}", name.to_lowercase()));
        }
    }
    env
}

/// Warns of each `--build-arg` that no ARG of the file (or of a trigger) declares.
pub(super) fn unused_build_args<'a>(
    dockerfile: &'a Dockerfile,
    triggers: impl Iterator<Item = &'a Arg>,
    options: &Options,
) -> Vec<Diagnostic> {
    let in_stages =
        dockerfile.stages.iter().flat_map(|stage| &stage.instructions).filter_map(|instruction| {
            match &instruction.kind {
                InstructionKind::Arg(args) => Some(args),
                _ => None,
            }
        });
    let declared: BTreeSet<&str> = dockerfile
        .global_args
        .iter()
        .chain(in_stages.flatten())
        .chain(triggers)
        .map(|arg| arg.name.text.as_str())
        .collect();
    let candidates: Vec<&str> = declared.iter().copied().collect();
    let predefined = |name: &str| {
        BUILDER_ARGS.contains(&name)
            || NON_ENV_ARGS.contains(&name)
            || PROXY_ARGS.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
            || predefined_args(dockerfile, options).iter().any(|(known, _)| *known == name)
    };
    options
        .build_args
        .keys()
        .filter(|name| !declared.contains(name.as_str()) && !predefined(name))
        .map(|name| {
            Diagnostic::warning(0..0, format!("build argument {name:?} has no effect: no ARG declares it"))
                .with_suggestion(name, &candidates)
        })
        .collect()
}

/// What every file can declare: both platforms, and the name of the stage that is built.
fn predefined_args(dockerfile: &Dockerfile, options: &Options) -> [(&'static str, String); 11] {
    let (build, target) = (&options.build_platform, &options.platform);
    let last = dockerfile.stages.last().and_then(|stage| stage.name.as_ref());
    let stage = match (options.target.as_str(), last) {
        ("", Some(last)) => &last.text,
        ("", None) => "default",
        (target, _) => target,
    };
    [
        ("BUILDPLATFORM", platform::format_all(build)),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", build.os_version.clone()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", build.variant.clone()),
        ("TARGETPLATFORM", platform::format_all(target)),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", target.os_version.clone()),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", target.variant.clone()),
        ("TARGETSTAGE", stage.to_owned()),
    ]
}

fn global_value(
    arg: &Arg,
    escape: char,
    options: &Options,
    globals: &Env,
) -> Result<Option<(String, String)>, Diagnostic> {
    let name = arg.name.text.clone();
    let value = match (options.build_args.get(&name), &arg.default) {
        (Some(given), _) => Some(given.clone()),
        (None, Some(default)) => Some(words::expand(default, escape, globals)?.text),
        (None, None) => None,
    };
    Ok(value.map(|value| (name, value)))
}

impl Converter<'_> {
    /// ARG: `--build-arg`, else the default (not looked at otherwise), else the global value. With a value it is a
    /// variable from here on, whatever ENV said before.
    pub(super) fn arg(&mut self, stage: &mut Stage, step: &Step<'_>, args: &[Arg]) -> Result<(), Diagnostic> {
        let mut created_by = "ARG".to_owned();
        for arg in args {
            // Unlike the names of ENV and LABEL it is not expanded.
            let name = arg.name.text.clone();
            let value = match (self.options.build_args.get(&name), &arg.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.expand(stage, step, default)?),
                (None, None) => self.globals.get(&name).map(str::to_owned),
            };
            created_by.push(' ');
            created_by.push_str(&name);
            if let Some(value) = &value {
                created_by.push('=');
                created_by.push_str(value);
                if !NON_ENV_ARGS.contains(&name.as_str()) {
                    stage.is_settled = false;
                    stage.env.set(&name, value);
                    stage.env.check_size(&arg.name)?;
                }
            }
            stage.declared.insert(name.clone());
            stage.args.push((name, value));
        }
        history::metadata(stage, created_by);
        Ok(())
    }
}
