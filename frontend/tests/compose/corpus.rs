//! Other people's compose files: each loads, is the same when it is read again, and is valid by the schema.

use std::fmt::Write as _;

use wharf_frontend::compose::{Invocation, Outside, ReadError, open};

use crate::cases::check_again;
use crate::run::show_problem;
use crate::{schema, shared};

/// One compose file, and every env file that it may name.
struct Alone(Vec<u8>);

impl Outside for Alone {
    fn read(&self, path: &str) -> Result<Vec<u8>, ReadError> {
        match path {
            "/src/demo/compose.yaml" => Ok(self.0.clone()),
            _ if path.ends_with("env") && path != "/src/demo/.env" => Ok(b"NAMED=in a file\n".to_vec()),
            _ => Err(ReadError::NotFound),
        }
    }

    fn exists(&self, path: &str) -> bool {
        path == "/src/demo/compose.yaml"
    }
}

#[test]
fn other_peoples_files_load() {
    let Some(corpus) = shared::corpus() else { return };
    let mut paths: Vec<_> =
        std::fs::read_dir(corpus.join("compose")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut documents = Vec::new();
    for path in &paths {
        let invocation = Invocation { directory: "/src/demo".to_owned(), ..Invocation::default() };
        let loaded = open(&invocation, &Alone(std::fs::read(path).unwrap()));
        let mut said = String::new();
        loaded.problems.iter().for_each(|problem| show_problem(&mut said, problem, &loaded.sources));
        let Some(project) = loaded.project else { panic!("{}: {said}", path.display()) };
        check_again(&path.display().to_string(), &project.to_yaml());
        documents.push((path.display().to_string(), project.to_json()));
        for key in &loaded.unsupported {
            writeln!(said, "not acted on: {}", key.path).unwrap();
        }
    }
    assert_eq!(documents.len(), paths.len());
    assert!(documents.len() >= 40, "{}", documents.len());
    schema::check_all(&documents);
}
