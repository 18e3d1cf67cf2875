//! Files → one tree: each is read, interpolated, checked and brought into its long form; `extends` and `include` are
//! followed; and later files are merged onto earlier ones.

mod environment;
mod extends;
mod include;
mod legacy;
mod open;

use std::collections::BTreeSet;

pub use open::{Invocation, Loaded, Outside, ReadError, open};

use super::canonical::{Cx, canonical};
use super::interpolate::{Environment, Interpolation};
use super::merge::{merge, settle};
use super::node::{Node, Path, Value};
use super::schema::{PROJECT, Shape};
use super::source::{Place, Problem, Problems, SourceId, Sources};
use super::{limits, yaml};

/// What a file is read within.
#[derive(Debug, Clone)]
struct Scope {
    /// The directory that relative paths start from.
    base: String,
    environment: Environment,
}

/// Everything that is read, and what is wrong with it.
struct Loader<'a> {
    outside: &'a dyn Outside,
    /// Whether variables stay as they are written.
    as_written: bool,
    sources: Sources,
    problems: Problems,
    /// Errors of services, for whoever uses these.
    deferred: Vec<(String, Problem)>,
    /// Variables of which was said that they are not set.
    said: BTreeSet<String>,
    bytes: usize,
    /// Bytes that variables may still make.
    growth: usize,
    /// How many ports there may still be.
    ports: usize,
    /// How many values services may still have by what they extend.
    extended: usize,
}

/// The shape of a whole file.
const FILE: Shape = Shape::Struct(&PROJECT);

impl<'a> Loader<'a> {
    fn new(outside: &'a dyn Outside, as_written: bool) -> Self {
        Self {
            outside,
            as_written,
            sources: Sources::default(),
            problems: Problems::default(),
            deferred: Vec::new(),
            said: BTreeSet::new(),
            bytes: 0,
            growth: limits::INTERPOLATED_BYTES_MAX,
            ports: limits::PORTS_MAX,
            extended: limits::EXTENDED_NODES_MAX,
        }
    }

    /// Says what is wrong: at the place that asked, if a file did.
    fn fail<T>(&mut self, at: Option<Place>, message: String) -> Option<T> {
        match at {
            Some(place) => self.problems.error(place, message),
            None => self.problems.general(message),
        };
        None
    }

    /// Reads a file that must be there.
    fn read(&mut self, path: &str, what: &str, at: Option<Place>) -> Option<SourceId> {
        match self.outside.read(path) {
            Ok(bytes) => self.accept(path, what, bytes, at),
            Err(ReadError::NotFound) => self.fail(at, format!("{what} {path} does not exist")),
            Err(reason) => self.fail(at, format!("cannot read {what} {path}: {reason}")),
        }
    }

    /// Reads a file that may be there.
    fn read_optional(&mut self, path: &str, what: &str, at: Option<Place>) -> Option<SourceId> {
        match self.outside.read(path) {
            Err(ReadError::NotFound) => None,
            Ok(bytes) => self.accept(path, what, bytes, at),
            Err(reason) => self.fail(at, format!("cannot read {what} {path}: {reason}")),
        }
    }

    /// Reads the `.env` at `path`, if there is one; a directory of that name is somebody else's.
    fn read_dotenv_file(&mut self, path: &str) -> Option<SourceId> {
        match self.outside.read(path) {
            Err(ReadError::Directory) => None,
            _ => self.read_optional(path, "the file", None),
        }
    }

    fn accept(&mut self, path: &str, what: &str, bytes: Vec<u8>, at: Option<Place>) -> Option<SourceId> {
        self.bytes = self.bytes.saturating_add(bytes.len());
        let too_much = if bytes.len() > limits::FILE_BYTES_MAX {
            Some(format!("{what} {path} has more than {} bytes", limits::FILE_BYTES_MAX))
        } else if self.bytes > limits::TOTAL_BYTES_MAX {
            Some(format!("the project's files have more than {} bytes together", limits::TOTAL_BYTES_MAX))
        } else if self.sources.all().len() >= limits::FILES_MAX {
            Some(format!("the project has more than {} files", limits::FILES_MAX))
        } else {
            None
        };
        if let Some(message) = too_much {
            return self.fail(at, message);
        }
        match String::from_utf8(bytes) {
            Ok(text) => Some(self.sources.add(path, text)),
            Err(error) => {
                let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
                    .iter()
                    .filter(|byte| **byte == b'\n')
                    .count();
                self.fail(at, format!("{what} {path} is no text: line {} is not UTF-8", line + 1))
            }
        }
    }

    /// The documents of a file as they are written.
    fn documents(&mut self, source: SourceId) -> Vec<Node> {
        let text = self.sources.get(source).map(|source| source.text.clone()).unwrap_or_default();
        yaml::read(&text, source, &mut self.problems)
    }

    /// A document with its variables replaced, in its long form. Neither extended nor with what it includes.
    fn long_form(&mut self, mut document: Node, scope: &Scope) -> Option<Node> {
        let Value::Map(_) = document.value else {
            if !document.is_null() {
                let message = format!("a compose file is a mapping, and this is {}", document.kind());
                self.problems.error(document.place, message);
            }
            return None;
        };
        legacy::modernise(&mut document, &mut self.problems);
        if let Some(version) = document.as_map().and_then(|map| map.entry("version")) {
            let message = "version means nothing any more: every file is of the specification's one format";
            self.problems.warning(version.key, message).hint = Some("leave it out".into());
        }
        if !self.as_written {
            let mut interpolation = Interpolation {
                environment: &scope.environment,
                sources: &self.sources,
                said: &mut self.said,
                problems: &mut self.problems,
                budget: &mut self.growth,
            };
            interpolation.node(&mut document, &Path::Root);
        }
        if self.problems.has_errors() {
            return None;
        }
        let home = scope.environment.get("HOME").map(String::as_str);
        let mut cx = Cx {
            base: &scope.base,
            home,
            as_written: self.as_written,
            ports: &mut self.ports,
            problems: &mut self.problems,
        };
        canonical(document, &FILE, &Path::Root, &mut cx)
    }

    /// Files, each merged onto those before it. `chain` is the files that include these.
    fn merged(&mut self, files: &[SourceId], scope: &Scope, chain: &[String]) -> Option<Node> {
        let mut whole: Option<Node> = None;
        for source in files {
            let name = self.sources.get(*source).map(|source| source.name.clone()).unwrap_or_default();
            for document in self.documents(*source) {
                let Some(mut layer) = self.long_form(document, scope) else { continue };
                self.extend_services(&mut layer, &name, scope);
                self.include(&mut layer, &name, scope, chain);
                whole = match whole {
                    Some(below) => merge(below, layer, &FILE),
                    None => settle(layer, &FILE),
                };
            }
        }
        if whole.is_none() && !self.problems.has_errors() {
            let name = files.first().and_then(|file| self.sources.get(*file)).map(|source| &source.name);
            let message = format!("there is nothing in {}", name.map_or("the file", String::as_str));
            return self.fail(None, message);
        }
        let mut whole = whole.filter(|_| !self.problems.has_errors())?;
        if !self.as_written {
            self.fill_in(&mut whole, &scope.environment)?;
        }
        Some(whole)
    }
}
