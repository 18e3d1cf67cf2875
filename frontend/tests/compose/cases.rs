//! `testdata/compose/*.txt`. A case is a title (`=== …`), its files (`--- file NAME`), perhaps options (`--- run …`), and
//! what comes of it (`--- gives`), which `UPDATE_EXPECT=1` writes.

use std::path::{Path, PathBuf};

use expect_test::expect_file;
use wharf_frontend::compose::{Invocation, open};

use crate::run::{DIRECTORY, Files, Options, report};
use crate::schema;

pub(crate) struct Case {
    pub(crate) title: String,
    options: String,
    files: Vec<(String, String)>,
}

impl Case {
    pub(crate) fn files(&self) -> Files {
        let absolute = |name: &str| match name.starts_with('/') || name == "-" {
            true => name.to_owned(),
            false => format!("{DIRECTORY}/{name}"),
        };
        Files(self.files.iter().map(|(name, text)| (absolute(name), text.clone().into_bytes())).collect())
    }

    pub(crate) fn options(&self) -> Options {
        Options::parse(&self.options)
    }
}

pub(crate) fn files_of_cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/compose");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

pub(crate) fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut into: Option<&mut String> = None;
    for line in text.split_inclusive('\n') {
        if let Some(title) = line.strip_prefix("=== ") {
            cases.push(Case { title: title.trim().to_owned(), options: String::new(), files: Vec::new() });
            into = None;
        } else if let Some(name) = line.strip_prefix("--- file ") {
            let files = &mut cases.last_mut().unwrap().files;
            files.push((name.trim().to_owned(), String::new()));
            into = files.last_mut().map(|(_, text)| text);
        } else if let Some(options) = line.strip_prefix("--- run ") {
            cases.last_mut().unwrap().options = options.trim().to_owned();
            into = None;
        } else if line.starts_with("--- gives") {
            into = None;
        } else if let Some(text) = &mut into {
            text.push_str(line);
        }
    }
    cases
}

#[test]
fn cases_give_what_they_say() {
    for path in files_of_cases() {
        let text = std::fs::read_to_string(&path).unwrap();
        let preamble = text.split_once("=== ").unwrap().0;
        let mut out = preamble.to_owned();
        for case in cases(&text) {
            out.push_str(&format!("=== {}\n", case.title));
            for (name, text) in &case.files {
                out.push_str(&format!("--- file {name}\n{text}"));
            }
            if !case.options.is_empty() {
                out.push_str(&format!("--- run {}\n", case.options));
            }
            out.push_str(&format!("--- gives\n{}\n", report(&case.options(), &case.files())));
        }
        let end = out.trim_end().len();
        out.truncate(end);
        out.push('\n');
        expect_file![path].assert_eq(&out);
    }
}

/// What `config` prints is a project that is the same, and that the specification's schema accepts.
#[test]
fn canonical_forms_are_read_again() {
    let mut documents = Vec::new();
    for path in files_of_cases() {
        for case in cases(&std::fs::read_to_string(&path).unwrap()) {
            let loaded = open(&case.options().invocation, &case.files());
            let Some(project) = loaded.project else { continue };
            let name = format!("{}: {}", path.display(), case.title);
            check_again(&name, &project.to_yaml());
            // Younger than the schema.
            if !project.to_yaml().contains("pre_start:") {
                documents.push((name, project.to_json()));
            }
        }
    }
    assert!(documents.len() > 50, "{}", documents.len());
    schema::check_all(&documents);
}

/// The canonical form of a canonical form is itself.
#[track_caller]
pub(crate) fn check_again(name: &str, yaml: &str) {
    let files = Files([("/elsewhere/compose.yaml".to_owned(), yaml.as_bytes().to_vec())].into());
    let invocation = Invocation { directory: "/elsewhere".to_owned(), ..Invocation::default() };
    let again = open(&invocation, &files);
    let Some(project) = again.project else { panic!("{name}: {:#?}\n{yaml}", again.problems) };
    assert_eq!(project.to_yaml(), yaml, "{name}");
}
