//! Word expansion, case by case: the table is `testdata/expansion/cases.tsv`.

use std::collections::HashMap;
use std::path::Path;

use super::*;

fn lookup(name: &str) -> Option<String> {
    let value = match name {
        "a" => "one",
        "empty" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

fn expand(escape: char, word: &str) -> String {
    match (Lex { escape, lookup: &lookup }).word(word) {
        Ok(expanded) => expanded.text,
        Err(error) => format!("!{}: {}", error.at, error.message),
    }
}

#[test]
fn every_row_of_the_table_holds() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/expansion/cases.tsv");
    let table = std::fs::read_to_string(path).unwrap();
    let text = |json: &str| serde_json::from_str::<String>(json).unwrap();
    let mut variables: HashMap<&str, String> = HashMap::new();
    let (mut rows, mut wrong) = (0, Vec::new());
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let cells: Vec<&str> = line.split('\t').collect();
        if let ["set", name, value] = cells[..] {
            variables.insert(name, text(value));
            continue;
        }
        let [how, escape, word, expected] = cells[..] else { panic!("{line}") };
        let lookup = |name: &str| variables.get(name).cloned();
        let lex = Lex { escape: escape.chars().next().unwrap(), lookup: &lookup };
        let word = text(word);
        let json = |result: Result<serde_json::Value, ExpandError>| match result {
            Ok(value) => serde_json::to_string(&value).unwrap(),
            Err(error) => format!("error: {}", error.message.replace('\n', "\\n")),
        };
        let found = json(match how {
            "word" => lex.word(&word).map(|expanded| expanded.text.into()),
            "heredoc" => lex.heredoc(&word).map(|expanded| expanded.text.into()),
            "words" => lex.words(&word).map(Into::into),
            other => panic!("{other}"),
        });
        // The table may have blanks between the elements of an array.
        let expected = match serde_json::from_str::<serde_json::Value>(expected) {
            Ok(value) => serde_json::to_string(&value).unwrap(),
            Err(_) => expected.to_owned(),
        };
        rows += 1;
        if found != expected {
            wrong.push(format!("{line}\n    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {rows} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert!(rows >= 200);
}

#[test]
fn an_error_is_at_its_substitution() {
    for (word, expected) in [
        ("x${nope?give me $a}", "!1: nope: give me one"),
        ("ab${nope:-${a}", "!2: syntax error: missing '}'"),
        ("ab${nope:-${}}", "!10: syntax error: bad substitution"),
        ("a\"b", "!1: unexpected end of statement while looking for matching double-quote"),
        ("é${a^^}", "!2: unsupported modifier (^) in substitution"),
    ] {
        assert_eq!(expand('\\', word), expected, "{word}");
    }
}

#[test]
fn unset_names_are_told_unless_the_form_provides_for_it() {
    let expanded =
        (Lex { escape: '\\', lookup: &lookup }).word("$x ${y} $x ${z:-$w} ${o+1} $1 $@ $a ${p%x}").unwrap();
    let unset =
        expanded.unset.iter().map(|unset| (unset.name.as_str(), unset.at.clone())).collect::<Vec<_>>();
    assert_eq!(unset, [("x", 0..2), ("y", 3..7), ("w", 16..18), ("p", 36..42)]);
}

#[test]
fn deep_nesting_and_growth_end_in_an_error() {
    let deep = "${x:-".repeat(2_000) + &"}".repeat(2_000);
    assert_eq!(expand('\\', &deep), "!5000: substitutions are nested more than 1000 deep");
    let open = "${x:-".repeat(150);
    assert_eq!(expand('\\', &open), "!0: syntax error: missing '}'");

    let big = "x".repeat(9 << 20);
    let lookup = |_: &str| Some(big.clone());
    let lex = Lex { escape: '\\', lookup: &lookup };
    assert_eq!(lex.word("$a").unwrap().text.len(), 9 << 20);
    assert_eq!(lex.word("$a$a").unwrap_err().message, "the expanded text is too long");
    assert!(lex.word("${a//x/yyyyyyyy}").is_err());
}

/// The program's own stack has eight times as much.
#[test]
fn deep_nesting_needs_little_stack() {
    for (open, close) in
        [("${a:-", "}"), ("${a#", "}"), ("${a//x/", "}"), ("\"${a:-", "}\""), ("\"${a//x/", "}\"")]
    {
        let text = open.repeat(NESTING_MAX) + "x" + &close.repeat(NESTING_MAX);
        let expand = move || Lex { escape: '\\', lookup: &|_| None }.word(&text).is_ok();
        let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(expand).unwrap();
        assert!(thread.join().unwrap(), "{open}");
    }
}
