//! Reads what a build starts from: Dockerfile, ignore file, local contexts.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use wharf_cache::Store;
use wharf_frontend::dockerignore::{self, Matcher};
use wharf_runtime::Cancel;

use super::{BuildRequest, MAIN_CONTEXT};
use crate::context::LocalContext;
use crate::context::git::{self, GitContext};
use crate::context::spec::{ContextSpec, DockerfileSpec, redacted};
use crate::error::{Failure, Kind, SourceText, causes};
use crate::progress::Progress;

/// A Dockerfile or ignore file is text that somebody wrote; more than this is something else.
const DOCKERFILE_BYTES_MAX: u64 = 64 << 20;

/// Where the Dockerfile is looked for in the context.
const DOCKERFILE_NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// Where the ignore file is looked for in the context.
const IGNORE_NAMES: [&str; 2] = [".containerignore", ".dockerignore"];

/// What was read.
pub(super) struct Loaded {
    pub(super) source: SourceText,
    pub(super) contexts: HashMap<String, LocalContext>,
    pub(super) ignore: Vec<String>,
}

pub(super) fn load(
    request: &BuildRequest,
    store: &Store,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<Loaded, Failure> {
    let context = &directory(&request.context, request, store, cancel)?;
    check_context(context)?;
    let dockerfile = dockerfile_path(request, context)?;
    let name = dockerfile.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = progress.internal(&format!("[internal] load build definition from {name}"), || {
        read_dockerfile(&dockerfile)
    })?;
    let ignore_path = ignore_path(context, &dockerfile);
    let ignore = match &ignore_path {
        None => Vec::new(),
        Some(path) => progress.internal("[internal] load .dockerignore", || {
            read_text(path).map(|text| dockerignore::read(&text)).map_err(|error| {
                Failure::from_error(Kind::Usage, &format!("cannot read `{}`", path.display()), &error)
            })
        })?,
    };
    let mut contexts = HashMap::new();
    let main = open_context(context, &ignore, ignore_path.as_deref())?;
    contexts.insert(MAIN_CONTEXT.to_owned(), main);
    for (name, spec) in &request.contexts {
        if !matches!(spec, ContextSpec::Image(_) | ContextSpec::Stage(_)) {
            contexts.insert(name.clone(), open_named(&directory(spec, request, store, cancel)?)?);
        }
    }
    let source = SourceText { name: display_name(&dockerfile), text };
    Ok(Loaded { source, contexts, ignore })
}

/// The directory that a context is.
fn directory(
    spec: &ContextSpec,
    request: &BuildRequest,
    store: &Store,
    cancel: &Cancel,
) -> Result<PathBuf, Failure> {
    match spec {
        ContextSpec::Path(path) => Ok(path.clone()),
        ContextSpec::Git(url) => {
            let scratch = store.temp_dir().map_err(|error| {
                Failure::from_error(Kind::Environment, "cannot prepare the build", &error)
            })?;
            let keep = request.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
            let keep_git_dir = keep.is_some_and(|value| matches!(&**value, "1" | "true"));
            let context = GitContext { url, keep_git_dir, scratch: &scratch, cancel };
            Ok(git::checkout(&context)?.directory)
        }
        _ => Err(Failure::new(Kind::Usage, format!("the context `{spec}` is not a directory"))
            .hint("contexts of this kind are not supported yet; give a directory")),
    }
}

fn check_context(context: &Path) -> Result<(), Failure> {
    let text = context.to_string_lossy();
    match std::fs::metadata(context) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Failure::new(Kind::Usage, format!("the context `{text}` is not a directory"))
            .hint("the Dockerfile is named with `-f`; the context is the directory that COPY reads from")),
        Err(error) => {
            Err(Failure::from_error(Kind::Usage, &format!("cannot read the context `{text}`"), &error))
        }
    }
}

fn dockerfile_path(request: &BuildRequest, context: &Path) -> Result<PathBuf, Failure> {
    match &request.dockerfile {
        None => {}
        Some(DockerfileSpec::Path(path)) => return Ok(path.clone()),
        Some(DockerfileSpec::Stdin) => return Ok(PathBuf::from("-")),
        Some(DockerfileSpec::Http(url)) => {
            let message = format!("the Dockerfile `{}` is a URL", redacted(url));
            return Err(Failure::new(Kind::Usage, message).hint("this is not supported yet"));
        }
    }
    let found = DOCKERFILE_NAMES.iter().map(|name| context.join(name)).find(|path| path.exists());
    found.ok_or_else(|| {
        Failure::new(Kind::Usage, format!("there is no Dockerfile in `{}`", context.display()))
            .hint("name it with `-f FILE`")
    })
}

fn read_dockerfile(path: &Path) -> Result<String, Failure> {
    let read = if path == Path::new("-") { limited(io::stdin().lock()) } else { read_text(path) };
    read.map_err(|error| {
        Failure::new(
            Kind::Usage,
            format!("cannot read the Dockerfile `{}`: {}", path.display(), causes(&error)),
        )
    })
}

fn read_text(path: &Path) -> io::Result<String> {
    limited(std::fs::File::open(path)?)
}

fn limited(reader: impl io::Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.take(DOCKERFILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > DOCKERFILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {DOCKERFILE_BYTES_MAX} bytes"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"))
    })
}

/// The ignore file: the Dockerfile's own, else the context's.
fn ignore_path(context: &Path, dockerfile: &Path) -> Option<PathBuf> {
    let mut own = dockerfile.as_os_str().to_owned();
    own.push(".dockerignore");
    std::iter::once(PathBuf::from(own))
        .chain(IGNORE_NAMES.map(|name| context.join(name)))
        .find(|path| path.is_file())
}

fn open_named(path: &Path) -> Result<LocalContext, Failure> {
    let ignore_path = IGNORE_NAMES.map(|name| path.join(name)).into_iter().find(|path| path.is_file());
    let ignore = match &ignore_path {
        None => Vec::new(),
        Some(path) => dockerignore::read(&read_text(path).map_err(|error| {
            Failure::from_error(Kind::Usage, &format!("cannot read `{}`", path.display()), &error)
        })?),
    };
    open_context(path, &ignore, ignore_path.as_deref())
}

fn open_context(path: &Path, ignore: &[String], ignore_path: Option<&Path>) -> Result<LocalContext, Failure> {
    let matcher = Matcher::new(ignore).map_err(|error| {
        let file = ignore_path.unwrap_or(Path::new(".dockerignore"));
        Failure::new(Kind::Usage, format!("`{}`: pattern {}", file.display(), causes(&error)))
    })?;
    LocalContext::open(path, matcher).map_err(|error| {
        Failure::from_error(Kind::Usage, &format!("cannot open the context `{}`", path.display()), &error)
    })
}

fn display_name(path: &Path) -> String {
    if path == Path::new("-") { "<standard input>".to_owned() } else { path.display().to_string() }
}
