//! Word expansion, case by case.

use super::*;

fn lookup(name: &str) -> Option<String> {
    let value = match name {
        "a" => "one",
        "empty" => "",
        "path" => "/usr/local/lib/libfoo.so.1",
        "sp" => "80 443/udp",
        "q" => "it's \"$a\"",
        "v" => "xaxbx",
        "star" => "a*b?c",
        "multi" => "l1\nl2",
        "ÜMLAUT" => "ü",
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
fn words_expand() {
    for (word, expected) in [
        // Plain forms.
        ("", ""),
        ("$a", "one"),
        ("${a}", "one"),
        ("x${a}y$a-z", "xoneyone-z"),
        ("$ab", ""),
        ("$a.b", "one.b"),
        ("$nope|", "|"),
        ("$", "$"),
        ("a$", "a$"),
        ("$ a", "$ a"),
        ("$.", "$."),
        ("$ÜMLAUT", "ü"),
        // Special parameters take one character or a whole number.
        ("$1x", "x"),
        ("$12x", "x"),
        ("$@|$*|$#|$?|$-|$$|$!|$0", "|||||||"),
        // Defaults and alternatives.
        ("${nope:-d}", "d"),
        ("${empty:-d}", "d"),
        ("${empty-d}", ""),
        ("${nope-d}", "d"),
        ("${a:-d}", "one"),
        ("${a:+alt}", "alt"),
        ("${empty:+alt}", ""),
        ("${empty+alt}", "alt"),
        ("${nope+alt}", ""),
        ("${nope:-}", ""),
        ("${nope:-${empty:-${a}}}", "one"),
        ("${nope:-\"}\"}", "}"),
        ("${nope:-\\}}", "}"),
        ("${nope:-'a b'}", "a b"),
        ("${a:?}", "one"),
        ("${nope:?}", "!0: nope: is not allowed to be unset"),
        ("${empty:?}", "!0: empty: is not allowed to be empty"),
        ("${empty?}", ""),
        ("x${nope?give me $a}", "!1: nope: give me one"),
        // Prefixes and suffixes.
        ("${path#*/}", "usr/local/lib/libfoo.so.1"),
        ("${path##*/}", "libfoo.so.1"),
        ("${path%/*}", "/usr/local/lib"),
        ("${path%%/*}", ""),
        ("${path%%.*}", "/usr/local/lib/libfoo"),
        ("${path%.?}", "/usr/local/lib/libfoo.so"),
        ("${path#nope}", "/usr/local/lib/libfoo.so.1"),
        ("${star#a\\*}", "b?c"),
        ("${star%\\?c}", "a*b"),
        ("${a#[o]}", "one"),
        ("${nope#x}", ""),
        ("${a#\\x}", "!0: invalid pattern (\\x) in substitution: invalid escape '\\x'"),
        ("${a:#x}", "!0: unsupported modifier (:#) in substitution"),
        ("${multi#*2}", "l1\nl2"),
        // Replacements.
        ("${v/x/y}", "yaxbx"),
        ("${v//x/y}", "yayby"),
        ("${v/a*b/-}", "x-x"),
        ("${v//?x/}", "x"),
        ("${path//\\//-}", "-usr-local-lib-libfoo.so.1"),
        ("${v/nope/y}", "xaxbx"),
        ("${v/x/${a}}", "oneaxbx"),
        ("${v/x/$nope}", "axbx"),
        ("${v/x}", "!0: syntax error: missing '/' in ${}"),
        ("${v/x/y", "!0: syntax error: missing '}'"),
        // Quotes and escapes.
        ("'$a'", "$a"),
        ("\"$a\"", "one"),
        ("\"${a}\"'$a'", "one$a"),
        ("\\$a", "$a"),
        ("a\\b", "ab"),
        ("a\\", "a"),
        ("\\\\", "\\"),
        ("\"\\$a \\\" \\\\ \\n\"", "$a \" \\ \\n"),
        ("'a\\'b", "a\\b"),
        ("$q", "it's \"$a\""),
        ("'", "!0: unexpected end of statement while looking for matching single-quote"),
        ("a\"b", "!1: unexpected end of statement while looking for matching double-quote"),
        // Errors.
        ("${}", "!0: syntax error: bad substitution"),
        ("${:x}", "!0: syntax error: bad substitution"),
        ("${{x}", "!0: syntax error: bad substitution"),
        ("${", "!0: syntax error: missing '}'"),
        ("${a", "!0: syntax error: missing '}'"),
        ("${a:", "!0: syntax error: missing '}'"),
        ("ab${nope:-${a}", "!2: syntax error: missing '}'"),
        ("${a^^}", "!0: unsupported modifier (^) in substitution"),
        ("${a:=b}", "!0: unsupported modifier (:=) in substitution"),
        ("${a b}", "!0: unsupported modifier ( ) in substitution"),
    ] {
        assert_eq!(expand('\\', word), expected, "{word}");
    }
}

#[test]
fn a_backtick_can_be_the_escape_character() {
    for (word, expected) in
        [("C:\\$a", "C:\\one"), ("`$a", "$a"), ("\"`\"\\\"", "\"\\"), ("a`", "a"), ("``", "`")]
    {
        assert_eq!(expand('`', word), expected, "{word}");
    }
}

#[test]
fn unset_names_are_told_unless_the_form_provides_for_it() {
    let expanded =
        (Lex { escape: '\\', lookup: &lookup }).word("$x ${y} $x ${z:-$w} ${o+1} $1 $@ $a ${p%x}").unwrap();
    assert_eq!(expanded.unset, ["x", "y", "w", "p"]);
}

#[test]
fn words_split_after_expansion() {
    let lex = Lex { escape: '\\', lookup: &lookup };
    for (text, expected) in [
        ("$sp", &["80", "443/udp"][..]),
        ("\"$sp\"", &["80 443/udp"]),
        ("1$sp", &["180", "443/udp"]),
        ("a\\ b 'c d'e", &["a b", "c de"]),
        (" $nope ", &[]),
        ("\"\"", &[]),
    ] {
        assert_eq!(lex.words(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn heredocs_keep_quotes() {
    let lex = Lex { escape: '`', lookup: &lookup };
    for (text, expected) in [
        ("\"$a\" it's\n", "\"one\" it's\n"),
        ("\\$a \\\\ \\\n", "$a \\ \n"),
        ("${a} `$a", "one `one"),
        ("${nope:-\"x\"}", "\"x\""),
    ] {
        assert_eq!(lex.heredoc(text).unwrap().text, expected, "{text}");
    }
}

#[test]
fn deep_nesting_and_growth_end_in_an_error() {
    let deep = "${x:-".repeat(1_000) + &"}".repeat(1_000);
    assert_eq!(expand('\\', &deep), "!1000: substitutions are nested more than 200 deep");
    let open = "${x:-".repeat(150);
    assert_eq!(expand('\\', &open), "!0: syntax error: missing '}'");

    let big = "x".repeat(9 << 20);
    let lookup = |_: &str| Some(big.clone());
    let lex = Lex { escape: '\\', lookup: &lookup };
    assert_eq!(lex.word("$a").unwrap().text.len(), 9 << 20);
    assert_eq!(lex.word("$a$a").unwrap_err().message, "the expanded text is too long");
    assert!(lex.word("${a//x/yyyyyyyy}").is_err());
}
