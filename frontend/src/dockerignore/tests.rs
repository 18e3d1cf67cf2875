//! Ignore patterns, case by case; the table is `testdata/dockerignore/cases.tsv`.

use std::path::Path;

use super::*;

#[track_caller]
fn matcher(patterns: &[&str]) -> Matcher {
    let lines = patterns.join("\n");
    Matcher::new(&read(&lines)).unwrap()
}

/// Walks down to the path as a walk of a tree does.
#[track_caller]
fn ignored(matcher: &Matcher, path: &str) -> bool {
    let mut matched = Matched::default();
    for (at, _) in path.match_indices('/') {
        matched = matcher.matches(&path.as_bytes()[..at], &matched);
    }
    let walked = matcher.matches(path.as_bytes(), &matched).matched;
    let direct = matcher.matches(path.as_bytes(), &Matched::default()).matched;
    assert_eq!(walked, direct, "{path}: walking down and asking at once differ");
    walked
}

#[test]
fn every_row_of_the_table_holds() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/dockerignore/cases.tsv");
    let table = std::fs::read_to_string(path).unwrap();
    let (mut rows, mut wrong) = (0, Vec::new());
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let [lines, path, expected] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let lines: Vec<String> = serde_json::from_str(lines).unwrap();
        let found = match Matcher::new(&read(&lines.join("\n"))) {
            Err(_) => "error",
            Ok(matcher) if ignored(&matcher, path) => "excluded",
            Ok(_) => "included",
        };
        rows += 1;
        if found != expected {
            wrong.push(format!("{line}\n    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {rows} rows:\n{}", wrong.len(), wrong.join("\n"));
    assert!(rows >= 150);
}

/// On purpose not as moby's matcher, which hands these to its regular expressions unread.
#[test]
fn what_looks_like_a_regular_expression_is_none() {
    for (pattern, path, expected) in [
        ("^*", "a", false),
        ("^*", "^a", true),
        ("a^b*", "a^bc", true),
        ("\\d", "d", true),
        ("\\d", "1", false),
        ("a[*?]b", "a*b", true),
        ("a[&&b]", "a&", true),
        ("[[]x", "[x", true),
        ("*|x", "a|x", true),
        ("*|x", "a", false),
        ("a{2}?", "aab", false),
        ("a{2}?", "a{2}b", true),
    ] {
        assert_eq!(ignored(&matcher(&[pattern]), path), expected, "{pattern} {path}");
    }
}

/// Everything is compared with asking each pattern about each path.
#[test]
fn the_index_forgets_nothing() {
    let patterns: Vec<String> = (0..300)
        .map(|n| match n % 6 {
            0 => format!("d{n}/*.o"),
            1 => format!("**/f{n}"),
            2 => format!("!d{}/x{n}.o", n - 2),
            3 => format!("x{n}**"),
            4 => format!("*{n}*"),
            _ => format!("!f{}", n - 4),
        })
        .collect();
    let matcher = Matcher::new(&patterns).unwrap();
    for path in (0..300).flat_map(|n| [format!("d{n}/x{}.o", n + 2), format!("f{n}"), format!("x{n}y")]) {
        let mut found = Vec::new();
        matcher.index.matching(&matcher.patterns, path.as_bytes(), &mut found);
        found.sort_unstable();
        let subject = Subject::new(path.as_bytes());
        let asked: Vec<usize> =
            (0..patterns.len()).filter(|index| matcher.patterns[*index].matches(&subject)).collect();
        assert_eq!(found, asked, "{path}");
    }
}

#[test]
fn names_need_not_be_text() {
    for (pattern, path, expected) in [
        ("a*b", &b"a\xff\xfeb"[..], true),
        ("a?b", b"a\xffb", true),
        ("a??b", b"a\xe2\x82b", true),
        ("a?b", b"a\xe2\x82b", false),
        ("**/b", b"\xff/b", true),
        ("a/**", b"a/\xff", true),
        ("a", b"a/\xff", true),
        ("a\u{fffd}", b"a\xff", false),
    ] {
        let matched = matcher(&[pattern]).matches(path, &Matched::default()).matched;
        assert_eq!(matched, expected, "{pattern} {path:?}");
    }
}

#[test]
fn malformed_patterns_are_errors() {
    for pattern in ["!", "! ", "[", "a[", "[]", "[]a]", "[^]", "[-a]", "[a-]", "[z-a]", "a\\", "[a\\"] {
        let patterns = ["x".to_owned(), pattern.to_owned()];
        let error = Matcher::new(&patterns).unwrap_err();
        assert_eq!((error.line, error.pattern.as_str()), (2, pattern));
    }
    let long = vec!["[a-z]*?".repeat(100_000)];
    assert_eq!(Matcher::new(&long).unwrap_err().reason, "the pattern is too long");
}

#[test]
fn a_walk_enters_only_where_something_may_come_back() {
    for (patterns, directory, expected) in [
        (&["a"][..], "a", false),
        (&["*", "!a/b"], "a", true),
        (&["*", "!a/b"], "c", false),
        (&["*", "!a/b"], "a/b", false),
        (&["*", "!a/b"], "a/c", false),
        (&["*", "!*/b"], "c", true),
        (&["*", "!*/b"], "c/d", false),
        (&["*", "!**/b"], "c/d", true),
        (&["*", "!a/**/b"], "a/x/y", true),
        (&["*", "!a/**/b"], "c", false),
        (&["*", "!a[^x]b"], "c", true),
        (&["*", "!abc**"], "abcd", true),
    ] {
        let matcher = matcher(patterns);
        assert_eq!(matcher.may_reinclude_below(directory.as_bytes()), expected, "{patterns:?} {directory}");
    }
}

#[test]
fn a_file_is_read_as_lines() {
    let text = "\u{feff}# comment\n\n  a \r\n !  /b/../c \n#d\n e\n!\n/\n";
    assert_eq!(read(text), ["a", "!c", "e", "!", "/"]);
}

proptest::proptest! {
    #[test]
    fn nothing_panics(patterns in proptest::collection::vec("\\PC{0,12}|[-*?!/\\[\\]^a\\\\.]{0,10}", 0..4),
                      path in proptest::collection::vec(0u8..=255, 0..20)) {
        if let Ok(matcher) = Matcher::new(&read(&patterns.join("\n"))) {
            let parent = matcher.matches(&path, &Matched::default());
            matcher.matches(&path, &parent);
            matcher.may_reinclude_below(&path);
        }
    }

    #[test]
    fn pruning_never_hides_what_is_reincluded(
        patterns in proptest::collection::vec("!?[ab*?]{1,3}(/[ab*]{1,3}){0,2}", 1..5),
        path in "[ab]{1,2}(/[ab]{1,2}){1,3}",
    ) {
        let matcher = Matcher::new(&patterns).unwrap();
        let mut matched = Matched::default();
        let mut pruned = false;
        for (at, _) in path.match_indices('/') {
            let directory = &path.as_bytes()[..at];
            matched = matcher.matches(directory, &matched);
            pruned |= matched.matched && !matcher.may_reinclude_below(directory);
        }
        let included = !matcher.matches(path.as_bytes(), &matched).matched;
        proptest::prop_assert!(!(pruned && included), "{patterns:?} {path}");
    }
}

#[test]
fn relative_paths_stay_relative() {
    for (path, cleaned) in [
        ("", "."),
        ("a/..", "."),
        ("a/", "a"),
        ("./a//b/../c", "a/c"),
        ("../../a", "../../a"),
        ("a/../../b", "../b"),
        ("/a/../../b/", "/b"),
    ] {
        assert_eq!(clean(path), cleaned, "{path}");
    }
}
