//! `.env`, `env_file`, `label_file`, and names whose value comes from the environment.

use super::super::dotenv::{self, Format};
use super::super::interpolate::{Environment, too_much};
use super::super::node::{Map, Node, Value};
use super::super::source::{Place, SourceId};
use super::Loader;
use crate::diagnostic::Severity;

impl Loader<'_> {
    /// Gives `environment: [NAME]` and `build.args: [NAME]` their values, where there are any.
    pub(super) fn fill_in(&mut self, tree: &mut Node, environment: &Environment) -> Option<()> {
        let services = tree.as_map_mut().and_then(|map| map.get_mut("services")).and_then(Node::as_map_mut);
        for (_, service) in services.into_iter().flat_map(Map::iter_mut) {
            let Some(service) = service.value.as_map_mut() else { continue };
            self.fill(service.get_mut("environment"), environment)?;
            let build = service.get_mut("build").and_then(Node::as_map_mut);
            self.fill(build.and_then(|build| build.get_mut("args")), environment)?;
        }
        Some(())
    }

    fn fill(&mut self, pairs: Option<&mut Node>, environment: &Environment) -> Option<()> {
        for (name, entry) in pairs.and_then(Node::as_map_mut).into_iter().flat_map(Map::iter_mut) {
            if let Some(value) = environment.get(name).filter(|_| entry.value.is_null()) {
                self.grow(value.len(), entry.value.place)?;
                entry.value = Node::string(value, entry.value.place);
            }
        }
        Some(())
    }

    /// Takes note of bytes that variables make.
    fn grow(&mut self, bytes: usize, at: Place) -> Option<()> {
        match self.growth.checked_sub(bytes) {
            Some(left) => self.growth = left,
            None => return self.fail(Some(at), too_much()),
        }
        Some(())
    }

    /// Adds the variables of a file to those that are not yet there.
    pub(super) fn add_env_file(
        &mut self,
        source: SourceId,
        format: Format,
        environment: &mut Environment,
    ) -> Option<()> {
        for (name, value) in self.variables(source, format, environment)? {
            environment.entry(name).or_insert(value);
        }
        Some(())
    }

    /// Puts the variables of a file in the place of those that earlier files have `found`. `outer` is seen first.
    pub(super) fn add_env_file_over(
        &mut self,
        source: SourceId,
        outer: &Environment,
        found: &mut Environment,
    ) -> Option<()> {
        let mut seen = found.clone();
        seen.extend(outer.clone());
        found.extend(self.variables(source, Format::Compose, &seen)?);
        Some(())
    }

    fn variables(
        &mut self,
        source: SourceId,
        format: Format,
        environment: &Environment,
    ) -> Option<Environment> {
        let text = self.sources.get(source).map(|source| source.text.as_str()).unwrap_or_default();
        let (variables, problems) = dotenv::parse(text, format, environment);
        let mut good = true;
        for problem in problems {
            let place = Place { source, start: problem.span.start as u32, end: problem.span.end as u32 };
            let said = match problem.severity {
                Severity::Error => {
                    good = false;
                    self.problems.error(place, problem.message)
                }
                Severity::Warning => self.problems.warning(place, problem.message),
            };
            said.hint = problem.hint;
        }
        let bytes = variables.values().map(String::len).sum();
        self.grow(bytes, Place { source, start: 0, end: 0 })?;
        good.then_some(variables)
    }

    /// Puts what `env_file` and `label_file` of each service say below what the service says itself.
    pub(super) fn read_service_files(&mut self, tree: &mut Node, environment: &Environment) {
        let Some(services) =
            tree.as_map_mut().and_then(|map| map.get_mut("services")).and_then(Node::as_map_mut)
        else {
            return;
        };
        for (name, entry) in services.iter_mut() {
            let Some(service) = entry.value.as_map_mut() else { continue };
            // What is wrong with these is said to whoever uses the service.
            let before = std::mem::take(&mut self.problems);
            if let Some(files) = service.remove("env_file") {
                let below = self.env_files(&files, name, environment);
                put_below(service, "environment", below);
            }
            if let Some(files) = service.remove("label_file") {
                let below = self.label_files(&files, name);
                put_below(service, "labels", below);
            }
            let found = std::mem::replace(&mut self.problems, before);
            let (errors, warnings) = found.into_parts();
            self.deferred.extend(errors.into_iter().map(|problem| (name.clone(), problem)));
            self.problems.extend(warnings);
        }
    }

    fn env_files(&mut self, files: &Node, service: &str, environment: &Environment) -> Map {
        let mut found = Map::default();
        // A later file sees what an earlier one said.
        let mut seen = environment.clone();
        for file in files.as_list().unwrap_or_default() {
            let path = file.get("path").and_then(Node::as_str).unwrap_or_default();
            let place = file.get("path").map_or(file.place, |path| path.place);
            let what = format!("the env_file of {service}");
            let required = file.get("required").and_then(Node::as_bool).unwrap_or(true);
            let source = match required {
                true => self.read(path, &what, Some(place)),
                false => self.read_optional(path, &what, Some(place)),
            };
            let format = match file.get("format").and_then(Node::as_str) {
                Some("raw") => Format::Raw,
                _ => Format::Compose,
            };
            let variables = source.and_then(|source| self.variables(source, format, &seen));
            for (name, value) in variables.unwrap_or_default() {
                found.insert(name.clone(), place, Node::string(value.clone(), place));
                seen.entry(name).or_insert(value);
            }
        }
        found
    }

    fn label_files(&mut self, files: &Node, service: &str) -> Map {
        let mut found = Map::default();
        for file in files.as_list().unwrap_or_default() {
            let path = file.as_str().unwrap_or_default();
            let source = self.read(path, &format!("the label_file of {service}"), Some(file.place));
            let labels =
                source.and_then(|source| self.variables(source, Format::Compose, &Environment::new()));
            for (name, value) in labels.unwrap_or_default() {
                found.insert(name, file.place, Node::string(value, file.place));
            }
        }
        found
    }
}

fn put_below(service: &mut Map, key: &str, below: Map) {
    let mut merged = below;
    let mut at = None;
    if let Some(Node { value: Value::Map(own), place, .. }) = service.remove(key) {
        at = Some(place);
        for (name, entry) in own {
            merged.insert(name, entry.key, entry.value);
        }
    }
    let place = at.or_else(|| merged.iter().next().map(|(_, entry)| entry.key));
    if let Some(place) = place {
        service.insert(key, place, Node::new(Value::Map(merged), place));
    }
}
