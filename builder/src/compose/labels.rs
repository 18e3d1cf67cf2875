//! By which labels the parts of a project are known.

use std::collections::BTreeMap;

use wharf_frontend::compose::model::{Condition, Dependency};

/// The project.
pub const PROJECT: &str = "com.docker.compose.project";
/// The service of a container.
pub const SERVICE: &str = "com.docker.compose.service";
/// Which of its service's containers one is, from 1.
pub const NUMBER: &str = "com.docker.compose.container-number";
/// What its service said when it was made.
pub const CONFIG_HASH: &str = "com.docker.compose.config-hash";
/// `True` for a container of `compose run`.
pub const ONE_OFF: &str = "com.docker.compose.oneoff";
/// The directory of the project.
pub const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
/// Its files, with commas.
pub const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
/// What a service depends on: `NAME:CONDITION:RESTART`, with commas.
pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";
/// The digest of the image.
pub const IMAGE: &str = "com.docker.compose.image";
/// Who made it.
pub const VERSION: &str = "com.docker.compose.version";
/// The key of a network in the project.
pub const NETWORK: &str = "com.docker.compose.network";
/// The key of a volume in the project.
pub const VOLUME: &str = "com.docker.compose.volume";
/// The container that this one stands in for.
pub const REPLACE: &str = "com.docker.compose.replace";

/// The words of a condition in files and labels.
pub fn condition_name(condition: Condition) -> &'static str {
    match condition {
        Condition::Started => "service_started",
        Condition::Healthy => "service_healthy",
        Condition::CompletedSuccessfully => "service_completed_successfully",
    }
}

/// The value of [`DEPENDS_ON`].
pub fn dependencies(depends_on: &BTreeMap<String, Dependency>) -> String {
    let one = |(name, it): (&String, &Dependency)| {
        format!("{name}:{}:{}", condition_name(it.condition), it.restart)
    };
    depends_on.iter().map(one).collect::<Vec<_>>().join(",")
}

/// The dependencies that a container's label names.
pub fn parse_dependencies(label: &str) -> BTreeMap<String, Dependency> {
    let parse = |text: &str| {
        let mut parts = text.split(':');
        let name = parts.next().filter(|name| !name.is_empty())?.to_owned();
        let condition = match parts.next() {
            Some("service_healthy") => Condition::Healthy,
            Some("service_completed_successfully") => Condition::CompletedSuccessfully,
            _ => Condition::Started,
        };
        let restart = parts.next() == Some("true");
        Some((name, Dependency { condition, restart, required: true, extensions: BTreeMap::new() }))
    };
    label.split(',').filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_as_they_are_written() {
        for text in
            ["", "db:service_healthy:true", "a:service_started:false,b:service_completed_successfully:true"]
        {
            assert_eq!(dependencies(&parse_dependencies(text)), text);
        }
        assert_eq!(dependencies(&parse_dependencies("db")), "db:service_started:false", "of older programs");
    }
}
