//! What holds for any file: no panic, equal graphs for equal inputs, and no trace of the target platform where a step does
//! not depend on it.

use proptest::prelude::*;
use wharf_solver::llb::VertexDigest;

use super::tests::{Registry, options, run};
use super::*;
use crate::{instructions, parser};

#[test]
fn nothing_of_a_broken_file_panics() {
    let whole = "ARG A=1\nARG SOURCE_DATE_EPOCH=x\nFROM debian:${A} AS x\nRUN --mount=type=cache,target=/a,id=$A <<E\nb\nE\n\
                 FROM x\nONBUILD COPY <<F /x\n$A\nF\nCOPY --from=x a b\nFROM scratch AS y\nADD https://h/x#$A /\n";
    for end in 0..whole.len() {
        run(&whole[..end], "build-arg A=2\ncontext x=target:y");
    }
    let (mut dockerfile, _) = instructions::parse(&parser::parse(whole).0);
    dockerfile.stages.clear();
    convert(&dockerfile, &Options::default(), &mut Registry::default()).unwrap_err();
}

proptest! {
    /// Lines in any order and number, with words that mean something in one place or another.
    #[test]
    fn no_file_panics_and_equal_files_give_equal_graphs(
        lines in lines(&INSTRUCTIONS),
        flags in prop::collection::vec(prop::sample::select(&FLAGS[..]), 0..5),
    ) {
        let text = format!("ARG V=1\nFROM debian AS a\n{lines}");
        let flags = flags.join("\n");
        let first = run(&text, &flags);
        prop_assert_eq!(first, run(&text, &flags));
    }

    /// A stage that runs on the builder's platform and declares no TARGET argument is the same for every target.
    #[test]
    fn the_target_platform_stays_out_of_steps_that_do_not_depend_on_it(lines in prop::collection::vec(prop::sample::select(&INDEPENDENT[..]), 0..8)) {
        let lines = lines.join("\n");
        let text = format!("FROM --platform=$BUILDPLATFORM debian AS build\n{lines}\nFROM scratch\nCOPY --from=build / /\n");
        let amd64 = digests(&text, "platform linux/amd64").expect("every line is right");
        let arm = digests(&text, "platform linux/arm/v6\nmulti-platform");
        prop_assert_eq!(Some(&amd64), arm.as_ref());
        let dependent = text.replace("AS build", "AS build\nARG TARGETARCH\nRUN x");
        let dependent = (digests(&dependent, "platform linux/amd64"), digests(&dependent, "platform linux/arm64"));
        prop_assert!(dependent.0.is_some());
        prop_assert_ne!(dependent.0, dependent.1);
    }
}

/// Lines made of these beginnings and up to three words each.
fn lines(beginnings: &'static [&'static str]) -> impl Strategy<Value = String> {
    let words = prop::collection::vec(prop::sample::select(&WORDS[..]), 0..4);
    let line = (prop::sample::select(beginnings), words)
        .prop_map(|(beginning, words)| format!("{beginning} {}\n", words.join(" ")));
    prop::collection::vec(line, 0..8).prop_map(|lines| lines.concat())
}

/// The graph, if the file has one.
fn digests(text: &str, flags: &str) -> Option<Vec<VertexDigest>> {
    let (dockerfile, problems) = instructions::parse(&parser::parse(text).0);
    if problems.iter().any(Diagnostic::is_error) {
        return None;
    }
    let converted = convert(&dockerfile, &options(flags), &mut Registry::default()).ok()?;
    Some(converted.definition.iter().map(|(digest, _)| *digest).collect())
}

const INSTRUCTIONS: [&str; 31] = [
    "FROM",
    "FROM trigger",
    "FROM everything",
    "FROM a",
    "FROM --platform=$V a",
    "FROM scratch AS source\nADD https://h/",
    "RUN",
    "RUN --mount=type=cache,target=$V",
    "RUN --mount=from=a,target=",
    "RUN --mount=",
    "COPY",
    "COPY --from=0",
    "COPY --from=a --link",
    "COPY --parents --chmod=$V --chown=$V",
    "ADD",
    "ADD --checksum=$V",
    "ENV",
    "ARG",
    "LABEL",
    "USER",
    "WORKDIR",
    "EXPOSE",
    "STOPSIGNAL",
    "ONBUILD RUN",
    "ONBUILD COPY --from=a",
    "ONBUILD ARG",
    "HEALTHCHECK",
    "VOLUME",
    "SHELL",
    "CMD",
    "ENTRYPOINT",
];

/// What may stand in a stage that says nothing of the target.
const INDEPENDENT: [&str; 12] = [
    "RUN x",
    "RUN --mount=type=cache,target=/c x",
    "RUN --mount=target=/context x",
    "COPY a b",
    "COPY --link a b",
    "COPY --from=scratch a b",
    "ADD https://h/x /",
    "ENV K=v",
    "ARG V=1",
    "WORKDIR /w",
    "USER u",
    "COPY <<E /e\n$V\nE",
];

const WORDS: [&str; 23] = [
    "a",
    "AS b",
    "$V",
    "${V",
    "${V:?x}",
    "${V%\u{e9}}}",
    "\"",
    "[\"a\"]",
    "<<E",
    "E",
    "\u{e9}/..",
    "http://",
    "git@:",
    "https://h/r.git#:",
    "*[",
    "80-90",
    "A=$A$A",
    "SOURCE_DATE_EPOCH=1",
    "=",
    "--mount=type=secret,env=V",
    "NONE",
    "\\",
    "\n",
];

const FLAGS: [&str; 13] = [
    "build-arg V=\u{e9}",
    "build-arg V=",
    "build-arg SOURCE_DATE_EPOCH=source",
    "build-arg SOURCE_DATE_EPOCH=a",
    "build-arg SOURCE_DATE_EPOCH=7",
    "context a=target:b",
    "context b=target:a",
    "context debian::linux/amd64=scratch",
    "context a=local",
    "target b",
    "platform windows(1)/amd64",
    "implicit-platform",
    "ignore a*",
];
