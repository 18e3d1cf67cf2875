//! From a command line to a project.

use std::fmt;

use super::super::canonical::values;
use super::super::config::Written;
use super::super::dotenv::Format;
use super::super::interpolate::Environment;
use super::super::model::Project;
use super::super::node::Node;
use super::super::source::{Place, Problem, Problems, SourceId, Sources};
use super::super::unsupported::{self, Unsupported};
use super::super::{check, discovery, normalise, template};
use super::{Loader, Scope};

/// What a project needs of the outside.
pub trait Outside {
    /// The bytes of a file; `-` is standard input.
    fn read(&self, path: &str) -> Result<Vec<u8>, ReadError>;

    /// Whether there is such a file.
    fn exists(&self, path: &str) -> bool;
}

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// There is none.
    NotFound,
    /// It is a directory.
    Directory,
    /// Anything else, in words.
    Other(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such file"),
            Self::Directory => f.write_str("it is a directory"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Invocation {
    /// Where the command was typed: absolute.
    pub directory: String,
    /// `-f`, each; absolute or from `directory`. `-` is standard input.
    pub files: Vec<String>,
    /// `--project-directory`.
    pub project_directory: Option<String>,
    /// `-p`.
    pub project_name: Option<String>,
    /// `--env-file`, each.
    pub env_files: Vec<String>,
    /// The environment of the shell.
    pub environment: Environment,
    /// Whether variables stay as they are written: then there is no project, and what is written is [`Loaded::written`].
    pub as_written: bool,
}

/// What came of a project's files.
#[derive(Debug)]
pub struct Loaded {
    /// The project with all its services, unless there are errors.
    pub project: Option<Project>,
    /// Its files in one, where variables were to stay as they are written.
    pub written: Option<Written>,
    /// Errors and warnings, in order.
    pub problems: Vec<Problem>,
    /// Errors that matter to whoever makes containers of a service: the service, and what is wrong with a file of its
    /// variables or labels.
    pub deferred: Vec<(String, Problem)>,
    /// What is valid and not acted on.
    pub unsupported: Vec<Unsupported>,
    /// The files that were read; problems point into them.
    pub sources: Sources,
    /// The variables that the files saw: the shell's and those of `.env`.
    pub environment: Environment,
    /// The files that make the project, without those they name.
    pub files: Vec<String>,
    /// The directory that relative paths of the project start from.
    pub directory: String,
    tree: Option<Node>,
}

impl Loaded {
    /// Where the value at `path` (`services.web.image`) was written.
    pub fn place(&self, path: &[&str]) -> Option<Place> {
        let mut node = self.tree.as_ref()?;
        let mut place = node.place;
        for key in path {
            let entry = node.as_map()?.entry(key)?;
            place = entry.key;
            node = &entry.value;
        }
        Some(place)
    }
}

/// Finds, reads, merges and checks the files of a project.
pub fn open(invocation: &Invocation, outside: &dyn Outside) -> Loaded {
    let mut loader = Loader::new(outside, invocation.as_written);
    let mut environment = invocation.environment.clone();
    let opened = loader.project(invocation, &mut environment);
    let Loader { sources, mut problems, deferred, .. } = loader;
    let (files, directory, tree) = match opened {
        Some((files, directory, tree)) => (files, directory, Some(tree)),
        None => (Vec::new(), invocation.directory.clone(), None),
    };
    let tree = tree.filter(|_| !problems.has_errors());
    let (project, written) = match &tree {
        Some(tree) if invocation.as_written => (None, Some(Written(tree.to_json()))),
        Some(tree) => (decode(tree, &mut problems), None),
        None => (None, None),
    };
    let unsupported = tree.as_ref().map(unsupported::of).unwrap_or_default();
    let problems = problems.into_sorted();
    Loaded { project, written, problems, deferred, unsupported, sources, environment, files, directory, tree }
}

/// The typed project. The tree has been checked, so what fails here is a key that the types do not have.
fn decode(tree: &Node, problems: &mut Problems) -> Option<Project> {
    match serde_json::from_value(tree.to_json()) {
        Ok(project) => Some(project),
        Err(error) => {
            problems.general(format!("the project has a value that is not understood: {error}"));
            None
        }
    }
}

impl Loader<'_> {
    /// The files, the directory and the tree of a project.
    fn project(
        &mut self,
        said: &Invocation,
        environment: &mut Environment,
    ) -> Option<(Vec<String>, String, Node)> {
        let at = |path: &str| values::absolute(&said.directory, None, path);
        let named = said.project_directory.as_deref().map(at);
        let first = said.files.first().filter(|file| *file != "-").map(|file| values::parent(&at(file)));
        let early = named.clone().or(first).unwrap_or_else(|| said.directory.clone());
        self.read_dotenv(said, &early, environment)?;
        let found = discovery::find(said, environment, self.outside);
        let Some(files) = found else {
            let hint = "name one with -f, or change to the directory of one";
            let names = discovery::FILES.join(", ");
            self.problems.general(format!("no compose file here or above: looked for {names}")).hint =
                Some(hint.into());
            return None;
        };
        let directory = match (named, files.first().map(String::as_str)) {
            (Some(named), _) => named,
            (None, Some("-") | None) => said.directory.clone(),
            (None, Some(file)) => values::parent(file),
        };
        if directory != early && said.env_files.is_empty() {
            self.read_dotenv(said, &directory, environment)?;
        }
        let mut sources = Vec::new();
        for file in &files {
            sources.push(self.read(file, "the file", None)?);
        }
        let name = self.name(said, &sources, &directory, environment)?;
        environment.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
        let scope = Scope { base: directory, environment: environment.clone() };
        let mut tree = self.merged(&sources, &scope, &[])?;
        if !self.as_written {
            self.read_service_files(&mut tree, environment);
        }
        if self.problems.has_errors() {
            return None;
        }
        normalise::normalise(&mut tree, &name, &scope.base);
        // What a variable stands for cannot be checked.
        if !self.as_written {
            check::check(&tree, &mut self.problems);
        }
        Some((files, scope.base, tree))
    }

    /// `--env-file`, or else `.env` of the project, unless that is not wanted.
    fn read_dotenv(
        &mut self,
        said: &Invocation,
        directory: &str,
        environment: &mut Environment,
    ) -> Option<()> {
        let disabled = environment
            .get("COMPOSE_DISABLE_ENV_FILE")
            .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes"));
        let listed: Vec<String> = match environment.get("COMPOSE_ENV_FILES") {
            Some(files) if said.env_files.is_empty() => {
                files.split(',').filter(|file| !file.is_empty()).map(str::to_owned).collect()
            }
            _ => said.env_files.clone(),
        };
        // Of several files the later counts, of all of them what the shell says.
        let mut found = Environment::new();
        for file in &listed {
            let source = self.read(&values::absolute(&said.directory, None, file), "the env file", None)?;
            self.add_env_file_over(source, environment, &mut found)?;
        }
        found.into_iter().for_each(|(name, value)| {
            environment.entry(name).or_insert(value);
        });
        if listed.is_empty() && !disabled {
            let path = values::absolute(directory, None, ".env");
            if let Some(source) = self.read_dotenv_file(&path) {
                self.add_env_file(source, Format::Compose, environment)?;
            }
        }
        Some(())
    }

    /// The name of the project, by who says it first: `-p`, the environment, the files, the directory.
    fn name(
        &mut self,
        said: &Invocation,
        sources: &[SourceId],
        directory: &str,
        environment: &Environment,
    ) -> Option<String> {
        let given = said
            .project_name
            .clone()
            .or_else(|| environment.get("COMPOSE_PROJECT_NAME").filter(|name| !name.is_empty()).cloned());
        if let Some(given) = given {
            return match values::project_name(&given) {
                Ok(name) => Some(name),
                Err(reason) => self.fail(None, format!("the name of the project {reason}")),
            };
        }
        let mut written = None;
        for source in sources {
            for document in self.documents(*source) {
                written = document.get("name").cloned().or(written);
            }
        }
        if self.problems.has_errors() {
            return None;
        }
        // What is wrong with a name that is written is said when its file is checked.
        let written = written.and_then(|name| {
            template::substitute(name.as_str()?, &|name| environment.get(name).cloned()).ok()
        });
        if let Some(name) = written.filter(|name| !name.text.is_empty()) {
            return Some(name.text);
        }
        let name = discovery::normalised_name(directory.rsplit('/').next().unwrap_or_default());
        if name.is_empty() {
            let message = format!("the directory {directory} gives the project no name");
            self.problems.general(message).hint = Some("name it with -p, or with a key name".into());
            return None;
        }
        Some(name)
    }
}
