//! Every kind of diagnostic that has a constructor is in a snapshot, where its caret can be seen.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

/// Where the constructors are.
const SOURCES: [&str; 2] = ["src/diagnostic.rs", "src/lint/message.rs"];

/// Where the snapshots are; the last also holds what has no place in a file.
const SNAPSHOTS: [&str; 4] =
    ["../testdata/dockerfile", "../testdata/llb", "../testdata/lint", "tests/dockerfile.rs"];

#[test]
fn every_constructor_has_a_case() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut snapshots = String::new();
    SNAPSHOTS.iter().for_each(|path| read_all(&root.join(path), &mut snapshots));
    let mut constructors = 0;
    for source in SOURCES {
        let source = std::fs::read_to_string(root.join(source)).unwrap();
        let functions = source.split("\n    pub(crate) fn ").skip(1);
        // The others add to a diagnostic, and have no message of their own.
        for function in
            functions.filter(|function| function.contains("span: Range<usize>") || function.contains("0..0"))
        {
            let name = function.split('(').next().unwrap();
            let Some(message) = first_string(function) else { continue };
            constructors += 1;
            assert!(
                snapshots.lines().any(|line| is_made_from(line, &message)),
                "no snapshot has {name}: {message}"
            );
        }
    }
    assert!(constructors > 50, "{constructors}");
}

fn read_all(path: &Path, text: &mut String) {
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| read_all(&entry.unwrap().path(), text));
    } else if !path.to_str().unwrap().ends_with("Dockerfile") {
        text.push_str(&std::fs::read_to_string(path).unwrap());
    }
}

/// The first string literal of a function, unescaped: the message.
fn first_string(function: &str) -> Option<String> {
    let body = &function[..function.find("\n    }\n")?];
    let mut chars = body[body.find('"')? + 1..].chars();
    let mut string = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(string),
            '\\' => string.push(chars.next()?),
            char => string.push(char),
        }
    }
}

/// Whether a line holds the message with something in the place of each `{…}`.
fn is_made_from(line: &str, message: &str) -> bool {
    let mut rest = line;
    let mut pieces = message.split('{').enumerate().map(|(number, piece)| match number {
        0 => piece,
        _ => piece.split_once('}').map_or(piece, |(_, after)| after),
    });
    pieces.all(|piece| match rest.split_once(piece) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}
