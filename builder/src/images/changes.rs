//! `--change`: instructions of a Dockerfile that set something of an image's config.

use wharf_frontend::Diagnostic;
use wharf_frontend::dockerfile2llb::{self, ImageMetaResolver, Options, ResolvedImage, TimeOf};
use wharf_frontend::image::ContainerConfig;
use wharf_frontend::instructions::{self, InstructionKind};
use wharf_solver::llb::Platform;

use super::ImagesError;

/// The config that `changes` make of an empty one.
pub(crate) fn apply(changes: &[String], platform: &Platform) -> Result<ContainerConfig, ImagesError> {
    let mut text = "FROM scratch\n".to_owned();
    for change in changes {
        // A second line would be another instruction.
        if change.contains(['\n', '\r']) {
            return Err(wrong(change, "it has several lines"));
        }
        let (_, one) = read(&format!("FROM scratch\n{change}\n")).map_err(|why| wrong(change, &why))?;
        let allowed = one.stages.len() == 1
            && matches!(
                one.stages[0].instructions.iter().map(|it| &it.kind).collect::<Vec<_>>().as_slice(),
                [InstructionKind::Env(_)
                    | InstructionKind::Label(_)
                    | InstructionKind::Workdir(_)
                    | InstructionKind::User(_)
                    | InstructionKind::Cmd(_)
                    | InstructionKind::Entrypoint(_)
                    | InstructionKind::Shell(_)
                    | InstructionKind::Expose(_)
                    | InstructionKind::Volume(_)
                    | InstructionKind::StopSignal(_)
                    | InstructionKind::Healthcheck(_)
                    | InstructionKind::OnBuild(_)]
            );
        if !allowed {
            return Err(wrong(
                change,
                "it is one of CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME \
                 and WORKDIR",
            ));
        }
        text.push_str(change);
        text.push('\n');
    }
    let (_, dockerfile) = read(&text).map_err(|why| wrong(&changes.join("; "), &why))?;
    let options =
        Options { platform: platform.clone(), build_platform: platform.clone(), ..Options::default() };
    match dockerfile2llb::convert(&dockerfile, &options, &mut Nothing) {
        Ok(converted) => {
            let mut config = converted.config.config;
            // A build says these of every image; an image of files alone says what was asked for.
            config.args_escaped = false;
            let set = || dockerfile.stages.iter().flat_map(|stage| &stage.instructions).map(|it| &it.kind);
            if !set().any(|kind| matches!(kind, InstructionKind::Workdir(_))) {
                config.working_dir.clear();
            }
            let sets_path = |kind: &InstructionKind| match kind {
                InstructionKind::Env(pairs) => pairs.iter().any(|(name, _)| name.text == "PATH"),
                _ => false,
            };
            if !set().any(sets_path) {
                config.env.iter_mut().for_each(|env| env.retain(|it| !it.starts_with("PATH=")));
            }
            Ok(config)
        }
        Err(error) => Err(wrong(&changes.join("; "), &first_error(&error.diagnostics))),
    }
}

fn read(text: &str) -> Result<(wharf_frontend::parser::Ast, instructions::Dockerfile), String> {
    let (ast, mut problems) = wharf_frontend::parser::parse(text);
    let (dockerfile, more) = instructions::parse(&ast);
    problems.extend(more);
    match problems.iter().any(Diagnostic::is_error) {
        true => Err(first_error(&problems)),
        false => Ok((ast, dockerfile)),
    }
}

fn first_error(problems: &[Diagnostic]) -> String {
    problems.iter().find(|it| it.is_error()).map_or_else(String::new, |it| it.message.clone())
}

fn wrong(change: &str, why: &str) -> ImagesError {
    let change: String = change.chars().take(200).collect();
    ImagesError::Usage(format!("--change `{change}`: {why}"))
}

/// There is nothing to be asked about `scratch`.
struct Nothing;

impl ImageMetaResolver for Nothing {
    fn resolve(&mut self, reference: &str, _: &Platform) -> Result<ResolvedImage, String> {
        Err(format!("`{reference}` is no part of a change"))
    }

    fn time(&mut self, _: &TimeOf) -> Result<Option<u64>, String> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux() -> Platform {
        Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), ..Platform::default() }
    }

    fn check(changes: &[&str], expected: Result<&str, &str>) {
        let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
        match (apply(&changes, &linux()), expected) {
            (Ok(config), Ok(json)) => assert_eq!(serde_json::to_string(&config).unwrap(), json),
            (Err(error), Err(word)) => assert!(error.to_string().contains(word), "{error}"),
            (found, _) => panic!("{changes:?}: {found:?}"),
        }
    }

    #[test]
    fn changes_set_the_config_and_nothing_else_does() {
        check(&[], Ok("{}"));
        check(&["CMD [\"a\"]", "USER me"], Ok(r#"{"User":"me","Cmd":["a"]}"#));
        check(&["ENV A=1 B=$A"], Ok(r#"{"Env":["A=1","B="]}"#));
        check(&["WORKDIR /a", "WORKDIR b"], Ok(r#"{"WorkingDir":"/a/b"}"#));
        check(&["RUN true"], Err("it is one of CMD"));
        check(&["COPY a b"], Err("it is one of CMD"));
        check(&["FROM x"], Err("it is one of CMD"));
        check(&["CMD a\nRUN b"], Err("several lines"));
        check(&["CDM a"], Err("CDM"));
        check(&[""], Err("it is one of CMD"));
        check(&["LABEL a.b=c"], Ok(r#"{"Labels":{"a.b":"c"}}"#));
    }
}
