//! Which files make a project, and what it is called when nobody says so.

use super::canonical::values::{absolute, parent};
use super::interpolate::Environment;
use super::load::{Invocation, Outside};

/// The names of a project's file, the first first.
pub const FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// The names of what is merged onto it, the first first.
pub const OVERRIDES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// The files that the command line names, or else `COMPOSE_FILE`, or else those of the nearest directory upwards.
pub(super) fn find(
    said: &Invocation,
    environment: &Environment,
    outside: &dyn Outside,
) -> Option<Vec<String>> {
    let path = |file: &str| match file {
        "-" => file.to_owned(),
        _ => absolute(&said.directory, None, file),
    };
    if !said.files.is_empty() {
        return Some(said.files.iter().map(|file| path(file)).collect());
    }
    if let Some(listed) = environment.get("COMPOSE_FILE").filter(|listed| !listed.is_empty()) {
        let separator = environment.get("COMPOSE_PATH_SEPARATOR").filter(|it| !it.is_empty());
        let separator = separator.map_or(":", String::as_str);
        return Some(listed.split(separator).filter(|file| !file.is_empty()).map(path).collect());
    }
    let start = match &said.project_directory {
        Some(directory) => absolute(&said.directory, None, directory),
        None => said.directory.clone(),
    };
    let mut directory = start;
    loop {
        let here = |names: &[&str]| {
            names.iter().map(|name| absolute(&directory, None, name)).find(|path| outside.exists(path))
        };
        if let Some(file) = here(&FILES) {
            return Some(std::iter::once(file).chain(here(&OVERRIDES)).collect());
        }
        let above = parent(&directory);
        if above == directory || above == "." {
            return None;
        }
        directory = above;
    }
}

/// A directory's name as a project's: lower case, without what a name cannot have.
pub fn normalised_name(directory: &str) -> String {
    let lower = directory.to_lowercase();
    let kept: String = lower
        .chars()
        .filter(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || "_-".contains(*char))
        .collect();
    kept.trim_start_matches(['_', '-']).to_owned()
}

/// The profiles that `COMPOSE_PROFILES` and the command line name.
pub fn profiles(flags: &[String], environment: &Environment) -> Vec<String> {
    let variable = environment.get("COMPOSE_PROFILES").map(String::as_str).unwrap_or_default();
    let named: Vec<String> = match flags {
        [] => variable.split(',').map(str::trim).map(str::to_owned).collect(),
        flags => flags.to_vec(),
    };
    named.into_iter().filter(|profile| !profile.is_empty()).collect()
}
