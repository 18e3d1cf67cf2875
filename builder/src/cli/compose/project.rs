//! The files of a project, read from this machine, and what is wrong with them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use wharf_frontend::Diagnostic;
use wharf_frontend::compose::limits::FILE_BYTES_MAX;
use wharf_frontend::compose::{
    Invocation, Loaded, Outside, Problem, Project, ReadError, Selection, Source, Sources, Written, open,
    profiles,
};

use super::ProjectArgs;
use crate::compose::convert::{Origin, warnings};
use crate::context::DirectoryId;
use crate::error::{Evidence, Failure, Kind, SourceText, render_warnings};
use crate::progress::{color, print_talk, print_warning};

/// A project with where it comes from.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) origin: Origin,
    pub(super) profiles: Vec<String>,
    /// What is not acted on: where it stands, and a sentence.
    unsupported: Vec<(String, String)>,
    /// What is wrong for those who make containers of a service.
    deferred: Vec<(String, Problem)>,
    sources: Sources,
}

/// This machine.
struct Machine;

impl Outside for Machine {
    fn read(&self, path: &str) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        // One more than is allowed tells too much from enough.
        let limit = FILE_BYTES_MAX as u64 + 1;
        let read = match path {
            "-" => std::io::stdin().lock().take(limit).read_to_end(&mut bytes),
            path => std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
        };
        match read {
            Ok(_) => Ok(bytes),
            Err(error) => Err(match error.kind() {
                std::io::ErrorKind::NotFound => ReadError::NotFound,
                std::io::ErrorKind::IsADirectory => ReadError::Directory,
                _ => ReadError::Other(error.to_string()),
            }),
        }
    }

    fn exists(&self, path: &str) -> bool {
        std::fs::metadata(path).is_ok_and(|found| found.is_file())
    }
}

impl Opened {
    /// Reads the project, tells warnings, and fails with everything that is wrong.
    pub(super) fn read(args: &ProjectArgs) -> Result<Self, Failure> {
        let (loaded, profiles) = load(args, false)?;
        tell(&loaded)?;
        let unsupported = loaded.unsupported.iter().map(|it| {
            let place = loaded.sources.locate(it.place);
            (it.path.clone(), format!("{place}: {} is not acted on: {}", it.path, it.why))
        });
        let unsupported = unsupported.collect();
        let Loaded { project, environment, directory, files, deferred, sources, .. } = loaded;
        let origin = Origin { project: project.unwrap_or_default(), environment, directory, files };
        Ok(Self { origin, profiles, unsupported, deferred, sources })
    }

    /// The services that a command is about, and what they use.
    pub(super) fn select(&self, services: &[String], with_dependencies: bool) -> Result<Project, Failure> {
        let selection =
            Selection { profiles: self.profiles.clone(), services: services.to_vec(), with_dependencies };
        let selected = self.origin.project.select(&selection).map_err(|problems| {
            let messages: Vec<&str> = problems.iter().map(|it| it.diagnostic.message.as_str()).collect();
            let failure = Failure::new(Kind::Usage, messages.join("; "));
            problems.iter().filter_map(|it| it.diagnostic.hint.clone()).fold(failure, Failure::hint)
        })?;
        let wrong = self.deferred.iter().filter(|(service, _)| selected.services.contains_key(service));
        let wrong: Vec<&Problem> = wrong.map(|(_, problem)| problem).collect();
        match wrong.is_empty() {
            true => Ok(selected),
            false => Err(failure(&self.sources, &wrong)),
        }
    }

    /// Tells what of these services, and of what they share, is not acted on.
    pub(super) fn warn(&self, project: &Project) {
        for (path, text) in &self.unsupported {
            let mut keys = path.split('.');
            let is_of = match (keys.next(), keys.next()) {
                (Some("services"), Some(name)) => project.services.contains_key(name),
                (Some("networks"), Some(name)) => project.networks.contains_key(name),
                (Some("volumes"), Some(name)) => project.volumes.contains_key(name),
                (Some("secrets"), Some(name)) => project.secrets.contains_key(name),
                (Some("configs"), Some(name)) => project.configs.contains_key(name),
                _ => true,
            };
            if is_of {
                print_warning(text);
            }
        }
        for (name, service) in &project.services {
            warnings(service).iter().for_each(|text| print_warning(&format!("services.{name}.{text}")));
        }
    }
}

/// The project with its variables as they are written.
pub(super) fn as_written(args: &ProjectArgs) -> Result<Written, Failure> {
    let (loaded, _) = load(args, true)?;
    tell(&loaded)?;
    Ok(loaded.written.unwrap_or_default())
}

/// Tells warnings, and fails with everything that is wrong.
fn tell(loaded: &Loaded) -> Result<(), Failure> {
    let (errors, warnings): (Vec<&Problem>, Vec<&Problem>) =
        loaded.problems.iter().partition(|problem| problem.diagnostic.is_error());
    for (source, diagnostics) in by_source(&warnings) {
        for text in render_warnings(&diagnostics, &text_of(&loaded.sources, source), color()) {
            print_talk(&format!("{text}\n"));
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(failure(&loaded.sources, &errors)),
    }
}

fn load(args: &ProjectArgs, as_written: bool) -> Result<(Loaded, Vec<String>), Failure> {
    let directory = current_directory().map_err(|error| {
        Failure::from_error(Kind::Environment, "cannot find the current directory", &error)
    })?;
    let Some(directory) = directory.to_str() else {
        let message = format!("the current directory `{}` is no text", directory.display());
        return Err(Failure::new(Kind::Usage, message));
    };
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let invocation = Invocation {
        directory: directory.to_owned(),
        files: args.file.clone(),
        project_directory: args.project_directory.clone(),
        project_name: args.project_name.clone(),
        env_files: args.env_file.clone(),
        environment,
        as_written,
    };
    let loaded = open(&invocation, &Machine);
    let profiles = profiles(&args.profile, &loaded.environment);
    Ok((loaded, profiles))
}

/// The current directory by the name that it was entered by: a link gives the project its own name.
fn current_directory() -> std::io::Result<PathBuf> {
    let real = std::env::current_dir()?;
    let Some(named) = std::env::var_os("PWD").map(PathBuf::from).filter(|it| it.is_absolute()) else {
        return Ok(real);
    };
    let place = |path: &Path| std::fs::metadata(path).map(|it| DirectoryId::of(&it));
    Ok(if place(&named).ok() == place(&real).ok() { named } else { real })
}

/// Problems by the file that they are in.
fn by_source(problems: &[&Problem]) -> Vec<(Option<usize>, Vec<Diagnostic>)> {
    let mut groups: Vec<(Option<usize>, Vec<Diagnostic>)> = Vec::new();
    for problem in problems {
        let source = problem.source.map(|source| source.index());
        match groups.iter_mut().find(|(known, _)| *known == source) {
            Some((_, group)) => group.push(problem.diagnostic.clone()),
            None => groups.push((source, vec![problem.diagnostic.clone()])),
        }
    }
    groups
}

fn text_of(sources: &Sources, source: Option<usize>) -> SourceText {
    let source = source.and_then(|index| sources.all().get(index));
    let (name, text) = source.map_or(("", ""), |Source { name, text }| (name, text));
    SourceText::new(name, text)
}

/// All that is wrong: what is in the last file is shown with the failure, what is in others before it.
fn failure(sources: &Sources, errors: &[&Problem]) -> Failure {
    let mut groups = by_source(errors);
    // What has no place is a sentence of its own.
    let general = groups.iter().position(|(source, _)| source.is_none()).map(|at| groups.remove(at).1);
    let general = general.unwrap_or_default();
    let mut message = match groups.last() {
        Some((source, _)) => format!("cannot read the project from `{}`", text_of(sources, *source).name),
        None => "cannot read the project".to_owned(),
    };
    if groups.is_empty() && !general.is_empty() {
        message = general.iter().map(|it| it.message.as_str()).collect::<Vec<_>>().join("; ");
    } else if !general.is_empty() {
        let all: Vec<&str> = general.iter().map(|it| it.message.as_str()).collect();
        message = format!("{message}: {}", all.join("; "));
    }
    let kind = if groups.is_empty() { Kind::Usage } else { Kind::Dockerfile };
    let last = groups.pop();
    for (source, places) in groups {
        let evidence = Evidence { source: text_of(sources, source), places, log_tail: Vec::new() };
        let mut shown = Failure::new(kind, "");
        shown.evidence = Some(Box::new(evidence));
        // Without the line that a failure ends with.
        let text = shown.render(color());
        print_talk(text.strip_suffix("ERROR: ").unwrap_or(&text));
    }
    let mut failure =
        general.into_iter().filter_map(|it| it.hint).fold(Failure::new(kind, message), Failure::hint);
    if let Some((source, places)) = last {
        let evidence = Evidence { source: text_of(sources, source), places, log_tail: Vec::new() };
        failure.evidence = Some(Box::new(evidence));
    }
    failure
}
