//! Variables in the values of a tree. Keys stay as they are written.

use std::collections::{BTreeMap, BTreeSet};

use super::limits;
use super::node::{Node, Path, Value};
use super::source::{Place, Problems, Sources};
use super::template::{self, TemplateError};

/// Variables by name: the shell's, those of `.env` files, those of `env_file`.
pub type Environment = BTreeMap<String, String>;

pub(super) struct Interpolation<'a> {
    pub(super) environment: &'a Environment,
    pub(super) sources: &'a Sources,
    /// Variables of which was said already that they are not set.
    pub(super) said: &'a mut BTreeSet<String>,
    pub(super) problems: &'a mut Problems,
    /// Bytes that variables may still make.
    pub(super) budget: &'a mut usize,
}

impl Interpolation<'_> {
    pub(super) fn node(&mut self, node: &mut Node, path: &Path<'_>) {
        match &mut node.value {
            Value::String(text) if text.contains('$') => self.string(text, node.place, path),
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.node(item, &path.index(index));
                }
            }
            Value::Map(map) => {
                for (key, entry) in map.iter_mut() {
                    self.node(&mut entry.value, &path.key(key));
                }
            }
            _ => {}
        }
    }

    fn string(&mut self, text: &mut String, place: Place, path: &Path<'_>) {
        match template::substitute(text, &|name| self.environment.get(name).cloned()) {
            Ok(done) => {
                for unset in done.unset {
                    let written = text.get(unset.at).unwrap_or_default();
                    if self.said.insert(unset.name.clone()) {
                        let message =
                            format!("the variable {} is not set: an empty text takes its place", unset.name);
                        self.problems.warning(self.narrow(place, written), message).hint.replace(
                            "set it in the environment or in .env, or write ${NAME:-default}".into(),
                        );
                    }
                }
                let growth = done.text.len();
                let Some(left) = self.budget.checked_sub(growth) else {
                    self.problems.error(place, too_much());
                    text.clear();
                    return;
                };
                *self.budget = left;
                *text = done.text;
            }
            Err(TemplateError { message, hint, at }) => {
                let written = text.get(at).unwrap_or_default();
                let place = self.narrow(place, written);
                self.problems.error(place, format!("{path}: {message}")).hint = hint;
            }
        }
    }

    /// The place of `written` within the scalar at `place`, if it stands there as it is.
    fn narrow(&self, place: Place, written: &str) -> Place {
        let slice = self.sources.get(place.source).and_then(|source| source.text.get(place.range()));
        match slice.and_then(|slice| slice.find(written)) {
            Some(at) if !written.is_empty() => {
                let start = place.start + at as u32;
                Place { start, end: start + written.len() as u32, ..place }
            }
            _ => place,
        }
    }
}

/// What is said when variables make too much.
pub(super) fn too_much() -> String {
    format!("variables make more than {} bytes of the project", limits::INTERPOLATED_BYTES_MAX)
}
