//! `include`: other projects' resources, each read within its own directory and environment.

use super::super::canonical::values::parent;
use super::super::dotenv::Format;
use super::super::limits;
use super::super::node::{Map, Node, Value};
use super::{Loader, Scope};

/// What an included file brings.
const SECTIONS: [&str; 6] = ["services", "networks", "volumes", "secrets", "configs", "models"];

impl Loader<'_> {
    /// Adds to `layer`, which is `file`, what it includes. `chain` is the files that include it.
    pub(super) fn include(&mut self, layer: &mut Node, file: &str, scope: &Scope, chain: &[String]) {
        let Some(Node { value: Value::List(includes), .. }) =
            layer.as_map_mut().and_then(|map| map.remove("include"))
        else {
            return;
        };
        let mut chain = chain.to_vec();
        chain.push(file.to_owned());
        for include in includes {
            if let (Some(included), Some(layer)) =
                (self.included(&include, scope, &chain), layer.as_map_mut())
            {
                self.import(layer, included);
            }
        }
    }

    fn included(&mut self, include: &Node, scope: &Scope, chain: &[String]) -> Option<Node> {
        let paths = include.get("path").and_then(Node::as_list)?;
        let first = paths.first().and_then(Node::as_str)?;
        let base = match include.get("project_directory").and_then(Node::as_str) {
            Some(directory) => directory.to_owned(),
            None => parent(first),
        };
        let mut files = Vec::new();
        for path in paths {
            let (place, path) = (path.place, path.as_str()?);
            if chain.iter().any(|seen| seen == path) {
                let mut steps: Vec<&str> =
                    chain.iter().map(String::as_str).skip_while(|seen| *seen != path).collect();
                steps.push(path);
                let message = format!("files include each other in a circle: {}", steps.join(" → "));
                return self.fail(Some(place), message);
            }
            if chain.len() >= limits::CHAIN_MAX {
                let message = format!("files include each other more than {} times", limits::CHAIN_MAX);
                return self.fail(Some(place), message);
            }
            files.push(self.read(path, "the included file", Some(place))?);
        }
        let mut inner = Scope { environment: scope.environment.clone(), base };
        match include.get("env_file").and_then(Node::as_list) {
            Some(env_files) => {
                // Of several, the later counts; of all, what is set already.
                let mut found = super::Environment::new();
                for env_file in env_files {
                    let source = self.read(env_file.as_str()?, "the env_file", Some(env_file.place))?;
                    self.add_env_file_over(source, &inner.environment, &mut found)?;
                }
                found.into_iter().for_each(|(name, value)| {
                    inner.environment.entry(name).or_insert(value);
                });
            }
            None => {
                let path = format!("{}/.env", inner.base.trim_end_matches('/'));
                if let Some(source) = self.read_dotenv_file(&path) {
                    self.add_env_file(source, Format::Compose, &mut inner.environment)?;
                }
            }
        }
        self.merged(&files, &inner, chain)
    }

    /// Resources of the same name must be the same.
    fn import(&mut self, layer: &mut Map, included: Node) {
        let Value::Map(mut included) = included.value else { return };
        for section in SECTIONS {
            let Some(Node { value: Value::Map(theirs), place, .. }) = included.remove(section) else {
                continue;
            };
            if !layer.contains(section) {
                layer.set(section, Node::new(Value::Map(Map::default()), place));
            }
            let Some(ours) = layer.get_mut(section).and_then(Node::as_map_mut) else { continue };
            for (name, entry) in theirs {
                match ours.entry(&name) {
                    None => {
                        ours.insert(name, entry.key, entry.value);
                    }
                    Some(own) if own.value.same(&entry.value) => {}
                    Some(own) => {
                        let message = format!(
                            "{section}.{name} is also in what is included at {}, and differs",
                            self.sources.locate(entry.key)
                        );
                        self.problems.error(own.key, message).hint = Some(
                            "give it another name, or change the included one in a compose.override.yaml"
                                .into(),
                        );
                    }
                }
            }
        }
    }
}
