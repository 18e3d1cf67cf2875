//! Reads what a build starts from: Dockerfile, ignore file, local contexts.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use wharf_frontend::dockerignore::{self, Matcher};

use super::{BuildRequest, ContextSpec, MAIN_CONTEXT};
use crate::context::LocalContext;
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

pub(super) fn load(request: &BuildRequest, progress: &Progress) -> Result<Loaded, Failure> {
    let context = &request.context;
    check_context(context)?;
    let dockerfile = dockerfile_path(request)?;
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
        if let ContextSpec::Directory(path) = spec {
            contexts.insert(name.clone(), open_named(path)?);
        }
    }
    let source = SourceText { name: display_name(&dockerfile), text };
    Ok(Loaded { source, contexts, ignore })
}

fn check_context(context: &Path) -> Result<(), Failure> {
    let text = context.to_string_lossy();
    if text == "-" || text.contains("://") || text.starts_with("git@") {
        return Err(Failure::new(Kind::Usage, format!("the context `{text}` is not a directory"))
            .hint("contexts from standard input, git and URLs are not supported yet; give a directory"));
    }
    match std::fs::metadata(context) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Failure::new(Kind::Usage, format!("the context `{text}` is not a directory"))
            .hint("the Dockerfile is named with `-f`; the context is the directory that COPY reads from")),
        Err(error) => {
            Err(Failure::from_error(Kind::Usage, &format!("cannot read the context `{text}`"), &error))
        }
    }
}

fn dockerfile_path(request: &BuildRequest) -> Result<PathBuf, Failure> {
    if let Some(path) = &request.dockerfile {
        return Ok(path.clone());
    }
    let found = DOCKERFILE_NAMES.iter().map(|name| request.context.join(name)).find(|path| path.exists());
    found.ok_or_else(|| {
        Failure::new(Kind::Usage, format!("there is no Dockerfile in `{}`", request.context.display()))
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
