//! What holds for the whole repository. Each check says how much it looked at, and fails when that is nothing.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::repository;

/// Which of our crates each of them may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("builder", &["cache", "frontend", "runtime", "solver"]),
    ("cache", &[]),
    ("frontend", &["solver"]),
    ("runtime", &[]),
    ("solver", &["cache"]),
];

#[test]
fn crates_depend_one_way() {
    let mut checked = 0;
    for (name, may) in ALLOWED {
        let manifest = fs::read_to_string(repository().join(name).join("Cargo.toml")).unwrap();
        for line in manifest.lines() {
            for (sibling, _) in ALLOWED.iter().filter(|(sibling, _)| sibling != name) {
                if line.split(['.', ' ', '=']).next() == Some(&format!("wharf-{sibling}")) {
                    assert!(may.contains(sibling), "{name} may not depend on {sibling}");
                    checked += 1;
                }
            }
        }
    }
    report("dependencies", checked);
}

#[test]
fn frontend_names_only_the_graph_of_the_solver() {
    let mut checked = 0;
    for (path, text) in sources_of(&["frontend"]) {
        for line in text.lines().filter(|line| line.contains("wharf_solver::")) {
            assert!(line.contains("wharf_solver::llb"), "{}: {line}", path.display());
        }
        checked += 1;
    }
    report("files of the frontend", checked);
}

#[test]
fn frontend_and_solver_do_no_input_or_output() {
    const OUTSIDE: [&str; 7] = [
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "std::env",
        "std::process::Command",
        "SystemTime::now",
        "Instant::now",
    ];
    let mut checked = 0;
    for (path, text) in sources_of(&["frontend/src", "solver/src"]) {
        if path.ends_with("tests.rs") || path.components().any(|it| it.as_os_str() == "tests") {
            continue;
        }
        // Tests stand last in a file, and may read what they compare with.
        let code = text.lines().take_while(|line| !line.contains("#[cfg(test)]"));
        for line in code.filter(|line| !line.trim_start().starts_with("//")) {
            let named = OUTSIDE.iter().find(|it| line.contains(**it));
            assert!(named.is_none(), "{}: {line}", path.display());
        }
        checked += 1;
    }
    report("pure files", checked);
}

#[test]
fn modules_say_what_they_are() {
    let mut checked = 0;
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{} does not open with a module doc", path.display());
        checked += 1;
    }
    report("modules", checked);
}

#[test]
fn sources_are_finished() {
    // Put together here, so that this file does not hold what it looks for.
    const UNFINISHED: [&str; 3] =
        [concat!("todo", "!("), concat!("unimpl", "emented!("), concat!("#[ig", "nore")];
    let mut checked = 0;
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= 1000, "{} has {lines} lines: one straight story, or several?", path.display());
        for word in UNFINISHED {
            assert!(!text.contains(word), "{} has `{word}`", path.display());
        }
        checked += 1;
    }
    report("sources", checked);
}

#[test]
fn paths_of_one_machine_are_nowhere() {
    const PLACES: [&str; 3] = [concat!("/wo", "rk/"), concat!("/fa", "rm/"), concat!("/tmp/bash", "_jobs")];
    let mut checked = 0;
    for path in files(repository()) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for place in PLACES {
            let at_start = |(at, _): (usize, &str)| !text[..at].ends_with(|it: char| it.is_alphanumeric());
            assert!(!text.match_indices(place).any(at_start), "{} has `{place}`", path.display());
        }
        checked += 1;
    }
    report("texts", checked);
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut checked = 0;
    for path in files(repository()).into_iter().filter(|path| path.extension().is_some_and(|it| it == "md")) {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link)) {
            let target = link.split_once('#').map_or(link, |(target, _)| target);
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let directory = path.parent().unwrap();
            assert!(directory.join(target).exists(), "{} links to {link}", path.display());
            checked += 1;
        }
    }
    report("links", checked);
}

#[test]
fn files_are_small() {
    let mut checked = 0;
    for path in files(repository()) {
        let size = fs::metadata(&path).unwrap().len();
        assert!(size <= 1 << 20, "{} has {size} bytes", path.display());
        checked += 1;
    }
    report("files", checked);
}

#[track_caller]
fn report(what: &str, checked: usize) {
    println!("checked {checked} {what}");
    assert_ne!(checked, 0, "nothing was checked: have the {what} moved?");
}

/// Every Rust source with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let rust = files(repository()).into_iter().filter(|path| path.extension().is_some_and(|it| it == "rs"));
    rust.map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

/// Those below one of `folders`.
fn sources_of(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let within = |path: &Path| folders.iter().any(|folder| path.starts_with(repository().join(folder)));
    sources().into_iter().filter(|(path, _)| within(path)).collect()
}

/// Every file of the repository, sorted, without what builds and tests leave.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !["target", ".git", ".cache"].iter().any(|skipped| name == *skipped) {
            found.extend(files(&entry.path()));
        } else if kind.is_file() && name != ".git" {
            found.push(entry.path());
        }
    }
    found
}
