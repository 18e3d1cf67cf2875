//! Reads what a build starts from: the main context, the Dockerfile, the ignore file; and further contexts when it is known
//! which are needed.
//!
//! | context | `-f` names | ignore file |
//! |---|---|---|
//! | a directory | a file of this machine | the Dockerfile's own, else the context's |
//! | an archive, a repository, an image | a file in it, else one of this machine | none |
//! | a Dockerfile alone | nothing | none |

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use wharf_frontend::dockerignore::{self, Matcher};
use wharf_solver::llb::{Definition, Op};

use super::{BuildRequest, MAIN_CONTEXT};
use crate::context::open::{DOCKERFILE_BYTES_MAX, Opened, Opener, read_dockerfile};
use crate::context::spec::{ContextSpec, DockerfileSpec};
use crate::context::{Found, LocalContext, open_at_once, read_text};
use crate::error::{Failure, Kind, SourceText, causes};

/// Where the Dockerfile is looked for in the context.
const DOCKERFILE_NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// Where the ignore file is looked for in the context.
const IGNORE_NAMES: [&str; 2] = [".containerignore", ".dockerignore"];

/// What was read.
pub(super) struct Loaded {
    pub(super) source: SourceText,
    /// Whether the Dockerfile is a file of the context.
    pub(super) is_in_context: bool,
    pub(super) main: Opened,
    pub(super) ignore: Vec<String>,
}

/// Where a Dockerfile was found.
enum Place {
    /// In the context.
    Context(PathBuf),
    /// On this machine.
    Local(PathBuf),
    /// Somewhere without neighbours.
    Alone,
}

pub(super) fn load(request: &BuildRequest, opener: &Opener<'_>) -> Result<Loaded, Failure> {
    if (&request.context, &request.dockerfile) == (&ContextSpec::Stdin, &Some(DockerfileSpec::Stdin)) {
        let message = "both the context and the Dockerfile are to come from standard input";
        return Err(Failure::new(Kind::Usage, message)
            .hint("leave `-f -` out: a Dockerfile is found in an archive, and may also be all that comes"));
    }
    let mut main = opener.main(&request.context)?;
    let (source, place) = match main.dockerfile.take() {
        None => dockerfile(request, opener, &main.context)?,
        Some(_) if request.dockerfile.is_some() => {
            let message =
                format!("the context `{}` is a Dockerfile, and `-f` names another", request.context);
            return Err(Failure::new(Kind::Usage, message).hint("leave one of them out"));
        }
        Some(source) => (source, Place::Alone),
    };
    let ignore = if main.context.is_private() { None } else { ignore_file(&main.context, &place)? };
    let ignore = match ignore {
        None => Vec::new(),
        Some((file, path)) => {
            let read = || read_text(file, DOCKERFILE_BYTES_MAX).map_err(|error| cannot_read(&path, &error));
            let text = opener.progress.internal("[internal] load .dockerignore", read)?;
            let patterns = dockerignore::read(&text);
            main.context = main.context.ignoring(matcher(&patterns, &path)?);
            patterns
        }
    };
    let is_in_context = matches!(place, Place::Context(_));
    Ok(Loaded { source, is_in_context, main, ignore })
}

/// Opens the named contexts that the graph reads; those of this machine in any case, so that a mistake shows.
pub(super) fn named(
    request: &BuildRequest,
    definition: &Definition,
    opener: &Opener<'_>,
) -> Result<HashMap<String, LocalContext>, Failure> {
    let is_read = |name: &str| {
        definition.iter().any(|(_, vertex)| match &vertex.op {
            Op::Source(source) => source.is_local() && source.name() == name,
            _ => false,
        })
    };
    let mut contexts = HashMap::new();
    for (name, spec) in &request.contexts {
        let is_wanted = match spec {
            ContextSpec::Image(_) | ContextSpec::Stage(_) => false,
            // The name of the main context; no other can have it.
            _ if name == MAIN_CONTEXT => false,
            ContextSpec::Path(_) => true,
            ContextSpec::Stdin | ContextSpec::Http(_) | ContextSpec::Git(_) => is_read(name),
        };
        if !is_wanted {
            continue;
        }
        let mut context = opener.named(name, spec)?.context;
        if !context.is_private()
            && let Some((file, path)) = ignore_file(&context, &Place::Alone)?
        {
            let text = read_text(file, DOCKERFILE_BYTES_MAX).map_err(|error| cannot_read(&path, &error))?;
            context = context.ignoring(matcher(&dockerignore::read(&text), &path)?);
        }
        contexts.insert(name.clone(), context);
    }
    Ok(contexts)
}

/// Finds and reads the Dockerfile.
fn dockerfile(
    request: &BuildRequest,
    opener: &Opener<'_>,
    context: &LocalContext,
) -> Result<(SourceText, Place), Failure> {
    let (file, place): (Box<dyn io::Read>, Place) = match &request.dockerfile {
        Some(DockerfileSpec::Http(url)) => {
            return Ok((opener.dockerfile(url)?, Place::Alone));
        }
        Some(DockerfileSpec::Stdin) => (Box::new(opener.stoppable(io::stdin())), Place::Alone),
        Some(DockerfileSpec::Path(path)) if context.is_private() => match find(context, path)? {
            Some(file) => (Box::new(file), Place::Context(path.clone())),
            None if path.is_file() => {
                (Box::new(opener.stoppable(open_local(path, context)?)), Place::Local(path.clone()))
            }
            None => return Err(not_found(request, std::slice::from_ref(path))),
        },
        // It may be a pipe: what a shell makes of `-f <(…)`.
        Some(DockerfileSpec::Path(path)) => {
            (Box::new(opener.stoppable(open_local(path, context)?)), Place::Local(path.clone()))
        }
        None => {
            let names = DOCKERFILE_NAMES.map(PathBuf::from);
            let mut found = None;
            for name in &names {
                found = find(context, name)?.map(|file| (file, name.clone()));
                if found.is_some() {
                    break;
                }
            }
            let (file, name) = found.ok_or_else(|| not_found(request, &names))?;
            (Box::new(file), Place::Context(name))
        }
    };
    let (short, name) = match &place {
        Place::Alone => ("<standard input>".to_owned(), "<standard input>".to_owned()),
        Place::Local(path) => (file_name(path), path.display().to_string()),
        Place::Context(path) => (file_name(path), context.path().join(path).display().to_string()),
    };
    let source =
        opener.progress.internal(&format!("[internal] load build definition from {short}"), || {
            read_dockerfile(&name, file).map_err(|error| match opener.cancel.is_cancelled() {
                true => Failure::new(Kind::Cancelled, "the build was interrupted"),
                false => cannot_read(Path::new(&name), &error),
            })
        })?;
    Ok((source, place))
}

/// A Dockerfile in the context; `None` if there is nothing of that name.
fn find(context: &LocalContext, path: &Path) -> Result<Option<File>, Failure> {
    let shown = context.path().join(path.strip_prefix("/").unwrap_or(path));
    let usage = |message: String| Failure::new(Kind::Usage, message);
    match context.find(path) {
        Ok(Found::File(file)) => Ok(Some(file)),
        Ok(Found::Nothing) => Ok(None),
        Ok(Found::Dangling) => {
            let message = format!(
                "the Dockerfile `{}` is a symbolic link to nothing inside the context",
                shown.display()
            );
            Err(usage(message).hint("name the file that is meant with `-f FILE`"))
        }
        Ok(Found::NoFile) => Err(usage(format!("the Dockerfile `{}` is not a file", shown.display()))
            .hint("name the file with `-f FILE`")),
        Err(error) => Err(cannot_read(&shown, &error)),
    }
}

/// A Dockerfile of this machine.
fn open_local(path: &Path, context: &LocalContext) -> Result<File, Failure> {
    match open_at_once(path) {
        Ok((file, metadata)) if !metadata.is_dir() => Ok(file),
        Ok(_) => {
            let message = format!("the Dockerfile `{}` is a directory", path.display());
            Err(Failure::new(Kind::Usage, message).hint("name the file in it with `-f FILE`"))
        }
        Err(error) => {
            let failure = cannot_read(path, &error);
            let in_context = path.is_relative() && matches!(context.find(path), Ok(Found::File(_)));
            Err(match in_context {
                true => {
                    let there = context.path().join(path);
                    failure
                        .hint(format!("`-f` is not looked for in the context; say `-f {}`", there.display()))
                }
                false => failure,
            })
        }
    }
}

fn not_found(request: &BuildRequest, tried: &[PathBuf]) -> Failure {
    let names: Vec<String> = tried.iter().map(|path| format!("`{}`", path.display())).collect();
    let names = names.join(", ");
    match &request.dockerfile {
        None => Failure::new(Kind::Usage, format!("there is no Dockerfile in `{}`", request.context))
            .hint(format!("looked for {names}; name another with `-f FILE`")),
        Some(_) => Failure::new(
            Kind::Usage,
            format!(
                "the Dockerfile {names} is not in the context `{}`, nor on this machine",
                request.context
            ),
        ),
    }
}

/// The ignore file: the Dockerfile's own, else the context's.
fn ignore_file(context: &LocalContext, place: &Place) -> Result<Option<(File, PathBuf)>, Failure> {
    let own = |path: &Path| {
        let mut own = path.as_os_str().to_owned();
        own.push(".dockerignore");
        PathBuf::from(own)
    };
    let mut names: Vec<PathBuf> = IGNORE_NAMES.map(PathBuf::from).into();
    match place {
        Place::Context(path) => names.insert(0, own(path)),
        Place::Local(path) => {
            let path = own(path);
            match open_at_once(&path) {
                Ok((file, metadata)) if metadata.is_file() => return Ok(Some((file, path))),
                Err(error) if !is_absent(&error) => return Err(cannot_read(&path, &error)),
                _ => {}
            }
        }
        Place::Alone => {}
    }
    for name in names {
        let path = context.path().join(&name);
        match context.find(&name) {
            Ok(Found::File(file)) => return Ok(Some((file, path))),
            Ok(_) => {}
            Err(error) => return Err(cannot_read(&path, &error)),
        }
    }
    Ok(None)
}

fn matcher(patterns: &[String], path: &Path) -> Result<Matcher, Failure> {
    Matcher::new(patterns).map_err(|error| {
        Failure::new(Kind::Usage, format!("`{}`: pattern {}", path.display(), causes(&error)))
    })
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::from_error(Kind::Usage, &format!("cannot read `{}`", path.display()), error)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
