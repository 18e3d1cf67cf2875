//! What `compose config` prints.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::model::{Project, Service};
use super::yaml;

/// Files in one, in which variables stand as they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written(pub(super) Value);

impl Written {
    /// As YAML. It can be read again.
    pub fn to_yaml(&self) -> String {
        yaml::write(&self.0)
    }

    /// The same as JSON.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.0).unwrap_or_default();
        text.push('\n');
        text
    }
}

impl Project {
    /// The project in its canonical form, as YAML. It can be read again: a `$` is written `$$`.
    pub fn to_yaml(&self) -> String {
        yaml::write(&self.to_value())
    }

    /// The same as JSON.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.to_value()).unwrap_or_default();
        text.push('\n');
        text
    }

    fn to_value(&self) -> Value {
        // Its keys are strings and its numbers finite: it cannot fail.
        let mut value = serde_json::to_value(self).unwrap_or_default();
        escape(&mut value);
        value
    }

    /// The images that its services run, each once, in order.
    pub fn images(&self) -> Vec<String> {
        let images: BTreeSet<String> =
            self.services.iter().filter_map(|(name, service)| self.image_of(name, service)).collect();
        images.into_iter().collect()
    }

    /// The image that a service runs: what it says, or what its build is called.
    pub fn image_of(&self, name: &str, service: &Service) -> Option<String> {
        match (&service.image, &service.build) {
            (Some(image), _) => Some(image.clone()),
            (None, Some(_)) => Some(format!("{}-{name}", self.name)),
            (None, None) => None,
        }
    }

    /// The profiles that its services name, each once, in order.
    pub fn profiles(&self) -> Vec<&str> {
        let profiles: BTreeSet<&str> =
            self.services.values().flat_map(|service| &service.profiles).map(String::as_str).collect();
        profiles.into_iter().collect()
    }
}

impl Service {
    /// A digest of what its containers are made of: another one, and they are made anew. How the image is built and
    /// fetched, how many containers there are and what is started before them are no part of it.
    pub fn config_hash(&self) -> String {
        let mut relevant = self.clone();
        relevant.build = None;
        relevant.pull_policy = None;
        relevant.pull_refresh_after = None;
        relevant.scale = None;
        relevant.depends_on.clear();
        relevant.profiles.clear();
        relevant.develop = None;
        relevant.attach = None;
        if let Some(deploy) = &mut relevant.deploy {
            deploy.replicas = None;
        }
        // A deploy that says nothing else is none.
        relevant.deploy = relevant.deploy.filter(|deploy| *deploy != super::model::Deploy::default());
        let mut value = serde_json::to_value(&relevant).unwrap_or_default();
        value.sort_all_objects();
        let digest = Sha256::digest(value.to_string().as_bytes());
        digest.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// What is read again is interpolated again.
fn escape(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('$') => *text = text.replace('$', "$$"),
        Value::Array(items) => items.iter_mut().for_each(escape),
        Value::Object(map) => map.values_mut().for_each(escape),
        _ => {}
    }
}
