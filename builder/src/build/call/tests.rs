//! What is answered, as text and as JSON, with lines and columns.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use wharf_frontend::dockerfile2llb::Options;

use super::*;

/// A file with something for every question.
const DOCKERFILE: &str = "\
# version is the release to build
ARG version=1.0
# image is made of it
ARG image=debian:${version}
ARG unused=x

# build compiles
FROM --platform=$BUILDPLATFORM ${image} AS build
ARG jobs=4
ARG version
RUN --mount=type=secret,id=token,required=true --mount=type=ssh --mount=type=cache,target=/root/.cache make -j$jobs
FROM unneeded AS skipped
ARG elsewhere
RUN --mount=type=secret,id=other true
FROM scratch
COPY --from=build /äö /$nowhere
CMD run it
";

fn parse(text: &str) -> (SourceText, Parsed, Options) {
    let amd64 = Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), ..Platform::default() };
    let options = Options {
        build_args: if text == DOCKERFILE {
            BTreeMap::from([("jobs".to_owned(), "8".to_owned())])
        } else {
            BTreeMap::new()
        },
        platform: amd64.clone(),
        build_platform: amd64,
        ..Options::default()
    };
    let source = SourceText::new("Dockerfile", text);
    let parsed = Parsed::read(&source, &options.build_args);
    (source, parsed, options)
}

fn unknown() -> Known<'static> {
    Known { open: &|| None, store: OnceCell::new() }
}

fn checked(text: &str) -> (SourceText, Report) {
    let (source, mut parsed, mut options) = parse(text);
    options.every_stage = true;
    parsed.convert(&options, &mut unknown());
    (source, parsed.report())
}

#[track_caller]
fn check_outline(text: &str, target: &str, as_text: Expect, as_json: Expect) {
    let (source, mut parsed, mut options) = parse(text);
    target.clone_into(&mut options.target);
    let converted = parsed.convert(&options, &mut unknown()).unwrap();
    let outline = dockerfile2llb::outline(&parsed.ast, &parsed.dockerfile, &options, &converted);
    as_text.assert_eq(&text::outline(&outline));
    as_json.assert_eq(&without_sources(&json::outline(&outline, &source)));
}

/// The text itself, in Base64, is left out.
fn without_sources(json: &str) -> String {
    let mut value: serde_json::Value = serde_json::from_str(json).unwrap();
    value["sources"].take();
    compact(&value)
}

/// A line for each element.
fn compact(value: &serde_json::Value) -> String {
    let mut text = String::new();
    let entries: Vec<(String, &serde_json::Value)> = match value {
        serde_json::Value::Object(map) => map.iter().map(|(key, value)| (format!("{key} "), value)).collect(),
        other => vec![(String::new(), other)],
    };
    for (key, value) in entries {
        match value {
            serde_json::Value::Array(list) => {
                list.iter().for_each(|it| text.push_str(&format!("{key}{it}\n")))
            }
            serde_json::Value::Null => {}
            other => text.push_str(&format!("{key}{other}\n")),
        }
    }
    text
}

#[test]
fn checks_are_shown_at_their_places() {
    let (source, report) = checked(DOCKERFILE);
    expect![[r#"
        warning[UndefinedVar]: Usage of undefined variable '$nowhere'
          --> Dockerfile:16:24
           |
        16 | COPY --from=build /äö /$nowhere
           |                        ^^^^^^^^
           |
           = note: https://docs.docker.com/go/dockerfile/rule/undefined-var/

        warning[JSONArgsRecommended]: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
          --> Dockerfile:17:5
           |
        17 | CMD run it
           |     ^^^^^^
           |
           = note: https://docs.docker.com/go/dockerfile/rule/json-args-recommended/

        Check complete, 2 warnings have been found!"#]].assert_eq(&text::check(&source, &report.warnings, false, false));
    expect![[r#"
        warnings {"description":"Variables should be defined before their use","detail":"Usage of undefined variable '$nowhere'","level":1,"location":{"ranges":[{"end":{"character":31,"line":16},"start":{"character":23,"line":16}}]},"ruleName":"UndefinedVar","url":"https://docs.docker.com/go/dockerfile/rule/undefined-var/"}
        warnings {"description":"JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals","detail":"JSON arguments recommended for CMD to prevent unintended behavior related to OS signals","level":1,"location":{"ranges":[{"end":{"character":10,"line":17},"start":{"character":4,"line":17}}]},"ruleName":"JSONArgsRecommended","url":"https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"}
    "#]].assert_eq(&without_sources(&json::check(&source, &report.warnings, None)));
    let (source, report) = checked("FROM scratch\n");
    expect!["Check complete, no warnings found."].assert_eq(&text::check(
        &source,
        &report.warnings,
        false,
        false,
    ));
    expect![[r#"
        {
          "sources": [
            {
              "data": "RlJPTSBzY3JhdGNoCg==",
              "filename": "Dockerfile",
              "language": "Dockerfile"
            }
          ],
          "warnings": []
        }"#]]
    .assert_eq(&json::check(&source, &report.warnings, None));
}

#[test]
fn what_prevents_the_build_is_part_of_the_result() {
    let (source, report) = checked("FROM scratch as a\nRUM x\nCOPY --form=a /b /\n");
    let failure = dockerfile_failure(report.kind, &source, report.errors);
    expect![[r#"
        buildError {"location":{"ranges":[{"end":{"character":3,"line":2},"start":{"character":0,"line":2}},{"end":{"character":11,"line":3},"start":{"character":5,"line":3}}]},"message":"unknown instruction: RUM (did you mean RUN?)\nunknown flag: --form (did you mean --from?)"}
        warnings {"description":"The 'as' keyword should match the case of the 'from' keyword","detail":"'as' and 'FROM' keywords' casing do not match","level":1,"location":{"ranges":[{"end":{"character":15,"line":1},"start":{"character":13,"line":1}}]},"ruleName":"FromAsCasing","url":"https://docs.docker.com/go/dockerfile/rule/from-as-casing/"}
    "#]].assert_eq(&without_sources(&json::check(&source, &report.warnings, Some(&failure))));

    let (source, report) = checked("# check=error=true\nFROM scratch as a\n");
    let failure = Failure::new(Kind::Dockerfile, report.violation.unwrap());
    expect![[r#"
        buildError {"location":{"ranges":[]},"message":"lint violation found for rules: FromAsCasing"}
        warnings {"description":"The 'as' keyword should match the case of the 'from' keyword","detail":"'as' and 'FROM' keywords' casing do not match","level":1,"location":{"ranges":[{"end":{"character":15,"line":2},"start":{"character":13,"line":2}}]},"ruleName":"FromAsCasing","url":"https://docs.docker.com/go/dockerfile/rule/from-as-casing/"}
    "#]].assert_eq(&without_sources(&json::check(&source, &report.warnings, Some(&failure))));
}

#[test]
fn an_outline_tells_what_a_target_takes() {
    check_outline(
        DOCKERFILE,
        "",
        expect![[r#"
        BUILD ARG   VALUE        DESCRIPTION
        version     1.0          is the release to build
        image       debian:1.0   is made of it
        jobs        8

        SECRET   REQUIRED
        token    true

        SSH       REQUIRED
        default

        CACHE
        /root/.cache"#]],
        expect![[r#"
        args {"description":"is the release to build","location":{"ranges":[{"end":{"character":15,"line":2},"start":{"character":0,"line":2}}]},"name":"version","value":"1.0"}
        args {"description":"is made of it","location":{"ranges":[{"end":{"character":27,"line":4},"start":{"character":0,"line":4}}]},"name":"image","value":"debian:1.0"}
        args {"location":{"ranges":[{"end":{"character":10,"line":9},"start":{"character":0,"line":9}}]},"name":"jobs","value":"8"}
        cache {"ID":"/root/.cache","location":{"ranges":[{"end":{"character":115,"line":11},"start":{"character":0,"line":11}}]}}
        secrets {"location":{"ranges":[{"end":{"character":115,"line":11},"start":{"character":0,"line":11}}]},"name":"token","required":true}
        ssh {"location":{"ranges":[{"end":{"character":115,"line":11},"start":{"character":0,"line":11}}]},"name":"default"}
    "#]],
    );
    check_outline(
        DOCKERFILE,
        "skipped",
        expect![[r#"
        TARGET: skipped

        BUILD ARG   VALUE   DESCRIPTION
        elsewhere

        SECRET   REQUIRED
        other"#]],
        expect![[r#"
        args {"location":{"ranges":[{"end":{"character":13,"line":13},"start":{"character":0,"line":13}}]},"name":"elsewhere"}
        name "skipped"
        secrets {"location":{"ranges":[{"end":{"character":37,"line":14},"start":{"character":0,"line":14}}]},"name":"other"}
    "#]],
    );
}

#[test]
fn an_outline_takes_the_declaration_nearest_to_the_target() {
    check_outline(
        "FROM a AS one\nARG x=1\nARG y=$x\nFROM one AS two\n# x of two\nARG x=2\nRUN true\n",
        "",
        expect![[r#"
            TARGET: two

            BUILD ARG   VALUE   DESCRIPTION
            y           1
            x           2       of two"#]],
        expect![[r#"
            args {"location":{"ranges":[{"end":{"character":8,"line":3},"start":{"character":0,"line":3}}]},"name":"y","value":"1"}
            args {"description":"of two","location":{"ranges":[{"end":{"character":7,"line":6},"start":{"character":0,"line":6}}]},"name":"x","value":"2"}
            name "two"
        "#]],
    );
}

#[test]
fn an_outline_lists_what_arguments_are_made_of() {
    check_outline(
        "ARG a=1\nARG unused=$a\nARG b=${a}2\n# c is third\nARG c=${b}3\nFROM x AS y\nARG c\nARG own=$c\n",
        "",
        expect![[r#"
            TARGET: y

            BUILD ARG   VALUE   DESCRIPTION
            a           1
            b           12
            c           123     is third
            own         123"#]],
        expect![[r#"
            args {"location":{"ranges":[{"end":{"character":7,"line":1},"start":{"character":0,"line":1}}]},"name":"a","value":"1"}
            args {"location":{"ranges":[{"end":{"character":11,"line":3},"start":{"character":0,"line":3}}]},"name":"b","value":"12"}
            args {"description":"is third","location":{"ranges":[{"end":{"character":11,"line":5},"start":{"character":0,"line":5}}]},"name":"c","value":"123"}
            args {"location":{"ranges":[{"end":{"character":10,"line":8},"start":{"character":0,"line":8}}]},"name":"own","value":"123"}
            name "y"
        "#]],
    );
}

#[test]
fn targets_are_listed() {
    let (source, parsed, _) = parse(DOCKERFILE);
    let targets = dockerfile2llb::targets(&parsed.ast, &parsed.dockerfile);
    expect![[r#"
        TARGET    DESCRIPTION
        build     compiles
        skipped
        (default)"#]]
    .assert_eq(&text::targets(&targets));
    expect![[r#"
        targets {"base":"${image}","description":"compiles","location":{"ranges":[{"end":{"character":48,"line":8},"start":{"character":0,"line":8}}]},"name":"build","platform":"$BUILDPLATFORM"}
        targets {"base":"unneeded","location":{"ranges":[{"end":{"character":24,"line":12},"start":{"character":0,"line":12}}]},"name":"skipped"}
        targets {"base":"scratch","default":true,"location":{"ranges":[{"end":{"character":12,"line":15},"start":{"character":0,"line":15}}]}}
    "#]].assert_eq(&without_sources(&json::targets(&targets, &source)));
}

#[test]
fn what_can_be_asked_is_listed() {
    expect![[r#"
        NAME                 VERSION DESCRIPTION
        outline              1.0.0   List all parameters current build target supports
        targets              1.0.0   List all targets current build supports
        lint                 1.0.0   Lint a Dockerfile
        subrequests.describe 1.0.0   List available subrequest types"#]]
    .assert_eq(&text::describe());
    let value: serde_json::Value = serde_json::from_str(&json::describe()).unwrap();
    expect![[r#"
        {"description":"List all parameters current build target supports","metadata":[{"name":"result.json"},{"name":"result.txt"}],"name":"frontend.outline","opts":[{"description":"Target build stage","name":"target"}],"type":"rpc","version":"1.0.0"}
        {"description":"List all targets current build supports","metadata":[{"name":"result.json"},{"name":"result.txt"}],"name":"frontend.targets","type":"rpc","version":"1.0.0"}
        {"description":"Lint a Dockerfile","metadata":[{"name":"result.json"},{"name":"result.txt"},{"name":"result.statuscode"}],"name":"frontend.lint","type":"rpc","version":"1.0.0"}
        {"description":"List available subrequest types","metadata":[{"name":"result.json"},{"name":"result.txt"}],"name":"frontend.subrequests.describe","type":"rpc","version":"1.0.0"}
    "#]]
        .assert_eq(&value.as_array().unwrap().iter().map(|it| format!("{it}\n")).collect::<String>());
}

#[test]
fn calls_are_parsed() {
    let call = |question, json, ignore_status| Ok(Call { question, json, ignore_status });
    for (text, expected) in [
        ("build", call(Question::Build, false, false)),
        ("check", call(Question::Check, false, false)),
        ("lint,format=json", call(Question::Check, true, false)),
        ("outline,format=json,format=text", call(Question::Outline, false, false)),
        ("check,ignorestatus=true", call(Question::Check, false, true)),
        ("subrequests.describe", call(Question::Describe, false, false)),
        (
            "chekc",
            Err("there is no `chekc` to call; there are build, check, lint, outline, targets, subrequests.describe"
                .to_owned()),
        ),
        ("check,format=xml", Err("format is `xml`; want text or json".to_owned())),
        ("check,ignorestatus=2", Err("ignorestatus is `2`; want true or false".to_owned())),
        ("check,x", Err("want format=… or ignorestatus=… after the comma, not `x`".to_owned())),
    ] {
        assert_eq!(text.parse::<Call>(), expected, "{text}");
    }
}
