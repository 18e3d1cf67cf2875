//! Secrets and configs of a service: files that are bound as they are, and contents that become files of a container.

use wharf_frontend::compose::model::{FileUse, Service};

use super::{Origin, wrong};
use crate::containers::ask::{FileAsk, MountAsk, MountKindAsk};
use crate::error::Failure;

/// A secret or config has fewer bytes than this.
const CONTENT_BYTES_MAX: u64 = 1 << 20;

/// Where the content of a secret or config comes from.
enum Content<'a> {
    File(&'a str),
    Variable(&'a str),
    Text(&'a str),
}

struct Used<'a> {
    file: &'a FileUse,
    /// `secrets.NAME`.
    name: String,
    content: Content<'a>,
}

impl Used<'_> {
    /// Whether it is bound as it is: a file about whose owner and mode nothing is said.
    fn bound(&self) -> Option<&str> {
        match self.content {
            Content::File(path)
                if self.file.uid.is_none() && self.file.gid.is_none() && self.file.mode.is_none() =>
            {
                Some(path)
            }
            _ => None,
        }
    }
}

fn used<'a>(origin: &'a Origin, service: &'a Service) -> Result<Vec<Used<'a>>, Failure> {
    let mut all = Vec::new();
    let project = &origin.project;
    for file in &service.secrets {
        let name = format!("secrets.{}", file.source);
        let secret = project.secrets.get(&file.source).ok_or_else(|| wrong(format!("there is no {name}")))?;
        let content = match (&secret.file, &secret.environment) {
            _ if secret.external => return Err(external(&name)),
            (Some(path), _) => Content::File(path),
            (None, Some(variable)) => Content::Variable(variable),
            (None, None) => return Err(wrong(format!("{name} says neither file nor environment"))),
        };
        all.push(Used { file, name, content });
    }
    for file in &service.configs {
        let name = format!("configs.{}", file.source);
        let config = project.configs.get(&file.source).ok_or_else(|| wrong(format!("there is no {name}")))?;
        let content = match (&config.file, &config.environment, &config.content) {
            _ if config.external => return Err(external(&name)),
            (Some(path), _, _) => Content::File(path),
            (_, Some(variable), _) => Content::Variable(variable),
            (_, _, Some(text)) => Content::Text(text),
            _ => return Err(wrong(format!("{name} says neither file, nor environment, nor content"))),
        };
        all.push(Used { file, name, content });
    }
    Ok(all)
}

fn external(name: &str) -> Failure {
    wrong(format!("{name} is external, and there is no store of secrets and configs here"))
        .hint("give it a file or a variable of the environment")
}

/// The mounts of those that are bound.
pub(super) fn bound(origin: &Origin, name: &str, service: &Service) -> Result<Vec<MountAsk>, Failure> {
    let mut mounts = Vec::new();
    for used in used(origin, service)? {
        let Some(path) = used.bound() else { continue };
        require_file(&used.name, path, name)?;
        let kind = MountKindAsk::Bind {
            source: path.into(),
            create: false,
            propagation: None,
            non_recursive: false,
        };
        mounts.push(MountAsk { kind, target: (&used.file.target).into(), read_only: true });
    }
    Ok(mounts)
}

fn require_file(name: &str, path: &str, service: &str) -> Result<(), Failure> {
    std::fs::metadata(path).map(drop).map_err(|error| {
        wrong(format!("cannot read {name} of services.{service}: `{path}`: {error}"))
            .hint("make the file, or name another one in the compose file")
    })
}

/// Those that become files of the container alone.
pub fn contents(origin: &Origin, service: &str) -> Result<Vec<FileAsk>, Failure> {
    let Some(said) = origin.project.services.get(service) else { return Ok(Vec::new()) };
    let mut contents = Vec::new();
    for used in used(origin, said)? {
        if used.bound().is_some() {
            continue;
        }
        let name = &used.name;
        let bytes = match used.content {
            Content::Text(text) => text.as_bytes().to_vec(),
            Content::Variable(variable) => match origin.environment.get(variable) {
                Some(value) => value.as_bytes().to_vec(),
                None => {
                    return Err(wrong(format!(
                        "{name} comes from the variable {variable}, which is not set"
                    ))
                    .hint("set it in the environment or in `.env`"));
                }
            },
            Content::File(path) => {
                require_file(name, path, service)?;
                let read = |path: &str| {
                    use std::io::Read as _;
                    let mut bytes = Vec::new();
                    std::fs::File::open(path)?.take(CONTENT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
                    std::io::Result::Ok(bytes)
                };
                read(path).map_err(|error| wrong(format!("cannot read {name}: `{path}`: {error}")))?
            }
        };
        if bytes.len() as u64 > CONTENT_BYTES_MAX {
            return Err(wrong(format!("{name} has more than {CONTENT_BYTES_MAX} bytes")));
        }
        let id = |text: &Option<String>, what: &str| match text.as_deref() {
            None => Ok(0),
            Some(text) => {
                text.parse::<u32>().map_err(|_| wrong(format!("{name}: {what} {text} is not a number")))
            }
        };
        contents.push(FileAsk {
            target: (&used.file.target).into(),
            bytes,
            owner: (id(&used.file.uid, "uid")?, id(&used.file.gid, "gid")?),
            mode: used.file.mode.map_or(0o444, |mode| mode.0 & 0o7777),
        });
    }
    Ok(contents)
}
