//! Ignore patterns, case by case; the table is `testdata/dockerignore/cases`.

use super::*;

#[track_caller]
fn matcher(patterns: &[&str]) -> Matcher {
    let lines = patterns.join("\n");
    Matcher::new(&read(&lines)).unwrap()
}

/// Walks down to the path as a walk of a tree does.
#[track_caller]
fn ignored(patterns: &[&str], path: &str) -> bool {
    let matcher = matcher(patterns);
    let mut matched = Matched::default();
    for (at, _) in path.match_indices('/') {
        matched = matcher.matches(&path.as_bytes()[..at], &matched);
    }
    let walked = matcher.matches(path.as_bytes(), &matched).matched;
    let direct = matcher.matches(path.as_bytes(), &Matched::default()).matched;
    assert_eq!(walked, direct, "{patterns:?} {path}: walking down and asking at once differ");
    walked
}

#[test]
fn single_patterns() {
    for (pattern, path, expected) in [
        // Anchored at the root, whole components.
        ("foo", "foo", true),
        ("foo", "a/foo", false),
        ("foo", "foobar", false),
        ("foo", "foo/bar", true),
        ("foo/bar", "foo", false),
        ("a/b/c", "a/b/c/d/e", true),
        // One component.
        ("*", "a", true),
        ("*", "a/b", true),
        ("*.go", "x.go", true),
        ("*.go", "d/x.go", false),
        ("*/x.go", "d/x.go", true),
        ("*/x.go", "d/e/x.go", false),
        ("a?c", "abc", true),
        ("a?c", "a/c", false),
        ("a?c", "aéc", true),
        ("f*", "f", true),
        // Any number of components.
        ("**", "a/b/c", true),
        ("**/foo", "foo", true),
        ("**/foo", "a/b/foo", true),
        ("**/foo", "a/xfoo", false),
        ("**foo", "xfoo", true),
        ("**file", "dir/file", true),
        ("**file", "dir/afile", true),
        ("**/*.txt", "a/b/c.txt", true),
        ("**/*.txt", "c.txt", true),
        ("a/**", "a/b", true),
        ("a/**", "a", false),
        ("a/**/b", "a/b", true),
        ("a/**/b", "a/x/y/b", true),
        ("a**b", "a/x/b", true),
        ("a**b", "axb", false),
        ("a**b", "ab", true),
        ("abc**", "abcdef/g", true),
        ("abc**", "abc", true),
        ("abc**", "abd", false),
        ("a**/*b", "a/x/zb", true),
        ("**/a/**", "x/a/y", true),
        ("**/**", "a", true),
        // Classes.
        ("[a-c]x", "bx", true),
        ("[a-c]x", "dx", false),
        ("[^a-c]x", "dx", true),
        ("[^a-c]x", "ax", false),
        ("[!x]", "!", true),
        ("[!x]", "x", true),
        ("[!x]", "y", false),
        ("a[\\]]b", "a]b", true),
        ("a[&&b]", "a&", true),
        ("[[]x", "[x", true),
        ("a[*?]b", "a*b", true),
        // Escapes and everything that is literal.
        ("a\\*b", "a*b", true),
        ("a\\*b", "axb", false),
        ("\\!x", "!x", true),
        ("\\d", "d", true),
        ("{a,b}", "a", false),
        ("{a,b}", "{a,b}", true),
        ("a.b", "axb", false),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        ("a^b*", "a^bc", true),
        ("*.a+", "x.a+", true),
        ("a]", "a]", true),
        ("é*", "éa", true),
        // Cleaned.
        ("/foo", "foo", true),
        ("foo/", "foo", true),
        ("./foo", "foo", true),
        ("foo/../bar", "bar", true),
        ("foo//bar/.", "foo/bar", true),
        ("../foo", "foo", false),
        ("/", "foo", false),
        (".", "foo", false),
        ("  foo\t", "foo", true),
        (" #foo", "#foo", true),
        ("#foo", "#foo", false),
    ] {
        assert_eq!(ignored(&[pattern], path), expected, "{pattern} {path}");
    }
}

#[test]
fn the_last_match_wins() {
    for (patterns, path, expected) in [
        (&["*", "!a"][..], "a", false),
        (&["*", "!a"], "b", true),
        (&["!a", "*"], "a", true),
        (&["*", "!a/b"], "a", true),
        (&["*", "!a/b"], "a/b", false),
        (&["*", "!a/b"], "a/b/c", false),
        (&["*", "!a/b"], "a/c", true),
        (&["docs", "!docs/README.md"], "docs/README.md", false),
        (&["docs", "!docs/README.md"], "docs/x", true),
        (&["docs", "!docs/*.md", "docs/README.md"], "docs/README.md", true),
        (&["docs", "!docs/*.md", "docs/README.md"], "docs/a.md", false),
        (&["**/*.md", "!README.md"], "a/README.md", true),
        (&["**", "!**/keep"], "a/b/keep", false),
        (&["**", "!**/keep"], "a/b/drop", true),
        (&["a", "! b", "!a/x"], "a/x/y", false),
        (&["a", "!a", "a/b"], "a/b/c", true),
        (&["a", "!a", "a/b"], "a/c", false),
        (&["*", "!/src", "**/target"], "src/target/x", true),
        (&["\u{feff}a"], "a", true),
        (&["# c", "", "a\r"], "a", true),
    ] {
        assert_eq!(ignored(patterns, path), expected, "{patterns:?} {path}");
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
