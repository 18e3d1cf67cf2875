//! History entries; other tools parse `created_by`, so its forms are BuildKit's to the byte.

use std::collections::HashMap;

use super::stage::Stage;
use crate::image::History;

const COMMENT: &str = "buildkit.dockerfile.v0";

/// What an entry takes besides its text.
pub(super) const ENTRY_BYTES: usize = 128;

/// An instruction that changed the config only.
pub(super) fn metadata(stage: &mut Stage, created_by: String) {
    push(stage, created_by, true);
}

/// An instruction that made a layer, and says how it was built.
pub(super) fn layer(stage: &mut Stage, created_by: &str) {
    push(stage, format!("{created_by} # buildkit"), false);
}

/// WORKDIR: a layer without the suffix, none for `/`.
pub(super) fn workdir(stage: &mut Stage, directory: &str, empty_layer: bool) {
    push(stage, format!("WORKDIR {directory}"), empty_layer);
}

/// A layer that comes from no instruction.
pub(super) fn foreign_layer(stage: &mut Stage, description: &str) {
    stage.config.history.push(History {
        created_by: description.to_owned(),
        comment: "buildkit.exporter.image.v0".to_owned(),
        ..History::default()
    });
}

/// What RUN says: the number of declared arguments and their values, then the command.
pub(super) fn run_text(stage: &Stage, args: &[String]) -> String {
    let mut declared: Vec<(&str, &str)> = Vec::new();
    let mut place: HashMap<&str, usize> = HashMap::new();
    for (name, value) in &stage.args {
        let value = stage.env.get(name).or(value.as_deref()).unwrap_or_default();
        let known = *place.entry(name).or_insert(declared.len());
        match declared.get_mut(known) {
            Some(known) => known.1 = value,
            None => declared.push((name, value)),
        }
    }
    let mut words = vec!["RUN".to_owned()];
    if !declared.is_empty() {
        words.push(format!("|{}", declared.len()));
    }
    words.extend(declared.into_iter().map(|(name, value)| format!("{name}={value}")));
    words.extend(args.iter().cloned());
    words.join(" ")
}

fn push(stage: &mut Stage, created_by: String, empty_layer: bool) {
    stage.bytes += ENTRY_BYTES + created_by.len();
    stage.config.history.push(History {
        created_by,
        comment: COMMENT.to_owned(),
        empty_layer,
        ..History::default()
    });
}
