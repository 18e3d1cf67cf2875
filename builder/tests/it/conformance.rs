//! What BuildKit's own tests of its frontend cover is covered here: `testdata/conformance/behaviours.txt` names each
//! behaviour, the tables beside it say which case holds it, or why none does.

use std::collections::BTreeMap;
use std::fs;

use crate::harness::repository;

/// What a table says of a behaviour.
#[derive(Debug, PartialEq, Eq)]
enum Covered<'a> {
    /// A file, `FILE::FUNCTION`, or `FILE#TEXT`: a row of the table in that file.
    Case(&'a str),
    /// Why there is no case.
    Reason(&'a str),
}

#[test]
fn every_behaviour_has_a_case_or_a_reason() {
    let folder = repository().join("testdata/conformance");
    let names = fs::read_to_string(folder.join("behaviours.txt")).unwrap();
    let names = names.lines().filter(|line| !line.starts_with('#'));
    let mut covered: BTreeMap<&str, Vec<Covered<'_>>> = names.map(|name| (name, Vec::new())).collect();
    assert!(covered.len() > 200, "only {} behaviours are named", covered.len());

    let tables: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "tsv"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for line in tables.iter().flat_map(|table| table.lines()) {
        let (name, says) = read(line);
        let entry = covered.get_mut(name).unwrap_or_else(|| panic!("{name} is no behaviour"));
        entry.push(says);
    }

    let mut wrong = Vec::new();
    for (name, says) in &covered {
        let has_case = says.iter().any(|it| matches!(it, Covered::Case(_)));
        let has_reason = says.iter().any(|it| matches!(it, Covered::Reason(_)));
        match (has_case, has_reason) {
            (false, false) => wrong.push(format!("{name}: neither a case nor a reason")),
            (true, true) => wrong.push(format!("{name}: a case, and a reason why there is none")),
            _ => {}
        }
        for says in says {
            match says {
                Covered::Case(case) if !exists(case) => wrong.push(format!("{name}: {case} is not there")),
                Covered::Reason(reason) if reason.len() < 20 => {
                    wrong.push(format!("{name}: `{reason}` is no reason"));
                }
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn read(line: &str) -> (&str, Covered<'_>) {
    match line.split('\t').collect::<Vec<_>>()[..] {
        [name, "case", case] => (name, Covered::Case(case)),
        [name, "reason", reason] => (name, Covered::Reason(reason)),
        _ => panic!("`{line}` is not NAME, case or reason, and which, with tabs between"),
    }
}

/// Whether a case is there: a path of the repository, and the test function or the text in it.
fn exists(case: &str) -> bool {
    let read = |path: &str| fs::read_to_string(repository().join(path)).unwrap_or_default();
    match (case.split_once('#'), case.split_once("::")) {
        (Some((path, text)), _) => read(path).contains(text),
        (None, Some((path, name))) => {
            let text = read(path);
            let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
            let is_it = |pair: &[&str]| pair[0] == "#[test]" && pair[1].starts_with(&format!("fn {name}("));
            lines.windows(2).any(is_it)
        }
        (None, None) => repository().join(case).exists(),
    }
}
