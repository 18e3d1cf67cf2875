//! Interpolation and `.env` lines, a row each.

use wharf_frontend::Diagnostic;
use wharf_frontend::compose::{
    EnvFileFormat, Environment, Invocation, normalised_name, open, parse_env_file, substitute,
};

use crate::run::{DIRECTORY, Files};

fn environment() -> Environment {
    [("SET", "value"), ("EMPTY", ""), ("OTHER", "other"), ("DOLLAR", "a$b")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

#[test]
fn substitutions() {
    let environment = environment();
    for (template, expected) in [
        ("plain", Ok("plain")),
        ("$SET", Ok("value")),
        ("${SET}", Ok("value")),
        ("a${SET}b$OTHER.c", Ok("avaluebother.c")),
        ("$SETS", Ok("")),
        ("$UNSET", Ok("")),
        ("${UNSET}", Ok("")),
        ("$$SET", Ok("$SET")),
        ("$${SET}", Ok("${SET}")),
        ("$$$SET", Ok("$value")),
        ("$DOLLAR", Ok("a$b")),
        ("${SET:-d}", Ok("value")),
        ("${EMPTY:-d}", Ok("d")),
        ("${UNSET:-d}", Ok("d")),
        ("${SET-d}", Ok("value")),
        ("${EMPTY-d}", Ok("")),
        ("${UNSET-d}", Ok("d")),
        ("${UNSET:-}", Ok("")),
        ("${UNSET-}", Ok("")),
        ("${SET:+a}", Ok("a")),
        ("${EMPTY:+a}", Ok("")),
        ("${UNSET:+a}", Ok("")),
        ("${SET+a}", Ok("a")),
        ("${EMPTY+a}", Ok("a")),
        ("${UNSET+a}", Ok("")),
        ("${SET:?e}", Ok("value")),
        ("${SET?e}", Ok("value")),
        ("${EMPTY?e}", Ok("")),
        ("${EMPTY:?e}", Err("required variable EMPTY is missing a value: e")),
        ("${UNSET:?e}", Err("required variable UNSET is missing a value: e")),
        ("${UNSET?e}", Err("required variable UNSET is missing a value: e")),
        ("${UNSET:?}", Err("required variable UNSET is missing a value")),
        ("${UNSET:?set $OTHER}", Err("required variable UNSET is missing a value: set other")),
        ("${UNSET:-$SET}", Ok("value")),
        ("${UNSET:-${EMPTY:-x}}y", Ok("xy")),
        ("${UNSET-${OTHER}-${SET}}", Ok("other-value")),
        ("${SET:+${UNSET:-b}}", Ok("b")),
        ("${UNSET:-a:b/c}", Ok("a:b/c")),
        ("${UNSET:-{}}", Ok("{}")),
        ("${UNSET:-$$x}", Ok("$x")),
        ("é${SET}é", Ok("évalueé")),
        ("$", Err("$ without a name in \"$\"")),
        ("a $ b", Err("$ without a name in \"a $ b\"")),
        ("$1", Err("$ without a name in \"$1\"")),
        ("${", Err("${ without its } in \"${\"")),
        ("${SET", Err("${ without its } in \"${SET\"")),
        ("${}", Err("${} has no name")),
        ("${1}", Err("${1} has no name")),
        ("${SET!x}", Err("${SET!x} is no substitution that is known")),
        ("${SET:x}", Err("${SET:x} is no substitution that is known")),
        ("${SET:}", Err("${SET:} is no substitution that is known")),
        ("${a b}", Err("${a b} is no substitution that is known")),
    ] {
        let found = substitute(template, &|name| environment.get(name).cloned());
        let found = found.as_ref().map(|done| done.text.as_str()).map_err(|error| error.message.as_str());
        assert_eq!(found, expected, "{template}");
    }
}

#[test]
fn unset_variables_are_named_with_their_place() {
    for (template, expected) in [
        ("a $UNSET b", vec![("UNSET", 2..8)]),
        ("${ONE}${TWO}", vec![("ONE", 0..6), ("TWO", 6..12)]),
        ("x${ONE:-$TWO}", vec![("TWO", 1..13)]),
        ("${ONE-d}${SET}${ONE+a}", vec![]),
    ] {
        let environment = environment();
        let found = substitute(template, &|name| environment.get(name).cloned()).unwrap();
        let found: Vec<_> = found.unset.iter().map(|unset| (unset.name.as_str(), unset.at.clone())).collect();
        assert_eq!(found, expected, "{template}");
    }
}

#[test]
fn env_files() {
    let compose = EnvFileFormat::Compose;
    for (text, format, expected) in [
        ("A=1\nB=2\n", compose, "A=1 B=2"),
        ("A=1\r\nB=2\r\n", compose, "A=1 B=2"),
        ("\u{feff}A=1", compose, "A=1"),
        ("# c\n\n  A = 1  \n", compose, "A=1"),
        ("export A=1", compose, "A=1"),
        ("exported=1", compose, "exported=1"),
        ("A: 1", compose, "A=1"),
        ("A=", compose, "A="),
        ("A=x # c", compose, "A=x"),
        ("A=x#c", compose, "A=x#c"),
        ("A=#c # d", compose, "A=#c"),
        ("A= #c", compose, "A="),
        ("A='x # c' # d", compose, "A=x # c"),
        ("A=\"x # c\"", compose, "A=x # c"),
        ("A='$SET'", compose, "A=$SET"),
        ("A=\"$SET\"", compose, "A=value"),
        ("A=$SET-${UNSET:-d}", compose, "A=value-d"),
        ("A=1\nB=${A}2", compose, "A=1 B=12"),
        ("SET=mine\nB=$SET", compose, "B=value SET=mine"),
        ("A=\"a\\nb\\t\\\"c\\\" \\\\ \\$SET \\q\"", compose, "A=a\nb\t\"c\" \\ $SET \\q"),
        ("A='a\\nb'", compose, "A=a\\nb"),
        ("A=a\\nb", compose, "A=a\\nb"),
        ("A=\"one\ntwo\"\nB=3", compose, "A=one\ntwo B=3"),
        ("A=\"one\r\ntwo\"\r\nB=3\r\n", compose, "A=one\ntwo B=3"),
        ("A='one\ntwo'\nB=3", compose, "A=one\ntwo B=3"),
        ("A=it's", compose, "A=it's"),
        ("A=$$x", compose, "A=$x"),
        ("SET\nUNSET\n", compose, "SET=value"),
        ("A=1\nA=2", compose, "A=2"),
        ("a.b-c[0]=1", compose, "a.b-c[0]=1"),
        ("A=\"x\" y", compose, "! \"y\" after the closing quote"),
        ("A=\"x", compose, "! a quoted value without its closing quote"),
        ("A B=1\nC=3", compose, "C=3 ! ' ' cannot stand in the name of a variable: \"A B\""),
        ("=1", compose, "! a value without a name"),
        ("A=${X", compose, "! ${ without its } in \"${X\""),
        ("A=$UNSET", compose, "A= ? the variable UNSET is not set: an empty text takes its place"),
        ("A=\"x\" # $SET 'y\nB=1:2", EnvFileFormat::Raw, "A=\"x\" # $SET 'y B=1:2"),
    ] {
        let (found, problems) = parse_env_file(text, format, &environment());
        let mut parts: Vec<String> = found.iter().map(|(name, value)| format!("{name}={value}")).collect();
        parts.extend(problems.iter().map(|problem: &Diagnostic| {
            format!("{} {}", if problem.is_error() { '!' } else { '?' }, problem.message)
        }));
        assert_eq!(parts.join(" "), expected, "{text}");
    }
}

#[test]
fn names_of_projects() {
    for (directory, expected) in
        [("demo", "demo"), ("My App", "myapp"), ("_x", "x"), ("-9.a", "9a"), ("ÄB", "b"), ("..", "")]
    {
        assert_eq!(normalised_name(directory), expected, "{directory}");
    }
}

#[test]
fn a_hash_is_of_what_containers_are_made_of() {
    let hash = |service: &str| {
        let text = format!("services: {{a: {{image: x, {service}}}, b: {{image: y}}}}");
        let files = Files([(format!("{DIRECTORY}/compose.yaml"), text.into_bytes())].into());
        let invocation = Invocation { directory: DIRECTORY.to_owned(), ..Invocation::default() };
        open(&invocation, &files).project.unwrap().services["a"].config_hash()
    };
    let plain = hash("user: u");
    for same in [
        "scale: 3",
        "deploy: {replicas: 2}",
        "build: .",
        "depends_on: [b]",
        "profiles: [p]",
        "pull_policy: always",
    ] {
        assert_eq!(hash(&format!("user: u, {same}")), plain, "{same}");
    }
    for other in
        ["hostname: h", "environment: [A=1]", "ports: [80]", "deploy: {resources: {limits: {pids: 5}}}"]
    {
        assert_ne!(hash(&format!("user: u, {other}")), plain, "{other}");
    }
}
