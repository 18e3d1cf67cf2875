//! Each folder of `testdata/llb` is a case: a `Dockerfile`, perhaps `options` (a flag a line), and in `expect.llb` what
//! comes of them: the graph, the config, or the diagnostics. `UPDATE_EXPECT=1` writes them anew.

use std::fmt::Write as _;
use std::path::Path;

use expect_test::expect_file;
use proptest::prelude::*;
use wharf_solver::llb::{
    ActionInput, CopyAction, Definition, ExecOp, FileChange, FileOp, Mount, MountKind, Op, Owner, UserRef,
    Vertex,
};

use super::*;
use crate::{instructions, parser};

#[test]
fn dockerfiles_convert() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/llb");
    let mut cases: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(!cases.is_empty());
    for case in cases {
        let text = std::fs::read_to_string(case.join("Dockerfile")).unwrap();
        let options = std::fs::read_to_string(case.join("options")).unwrap_or_default();
        expect_file![case.join("expect.llb")].assert_eq(&run(&text, &options));
    }
}

#[test]
fn every_real_dockerfile_converts_or_says_why() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/dockerfiles");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        return eprint_skipped("no corpus of Dockerfiles beside the workspace");
    };
    let (mut all, mut converted) = (0, 0);
    for entry in entries {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let registry = Registry { has_everything: true, ..Registry::default() };
        let dump = run_with(&String::from_utf8_lossy(&bytes), "", registry);
        all += 1;
        converted += usize::from(dump.contains("\nconfig "));
    }
    assert!(converted * 10 > all * 9, "{converted} of {all}");
}

#[test]
fn nothing_of_a_broken_file_panics() {
    let whole = "ARG A=1\nFROM debian:${A} AS x\nRUN --mount=type=cache,target=/a,id=$A <<E\nb\nE\nFROM x\nCOPY --from=x a b\n";
    for end in 0..whole.len() {
        run(&whole[..end], "build-arg A=2");
    }
    let (mut dockerfile, _) = instructions::parse(&parser::parse(whole).0);
    dockerfile.stages.clear();
    convert(&dockerfile, &Options::default(), &mut Registry::default()).unwrap_err();
}

proptest! {
    /// Lines in any order and number, with words that mean something in one place or another.
    #[test]
    fn no_combination_of_instructions_panics(lines in prop::collection::vec((0..INSTRUCTIONS.len(), prop::collection::vec(0..WORDS.len(), 0..4)), 0..8)) {
        let mut text = "ARG V=1\nFROM debian AS a\n".to_owned();
        for (instruction, words) in lines {
            text.push_str(INSTRUCTIONS[instruction]);
            for word in words {
                text.push(' ');
                text.push_str(WORDS[word]);
            }
            text.push('\n');
        }
        run(&text, "build-arg V=\u{e9}");
    }
}

const INSTRUCTIONS: [&str; 20] = [
    "FROM",
    "FROM trigger",
    "FROM a",
    "RUN",
    "RUN --mount=type=cache,target=$V",
    "RUN --mount=",
    "COPY",
    "COPY --from=0",
    "COPY --from=a --link",
    "ADD",
    "ADD --checksum=$V",
    "ENV",
    "ARG",
    "LABEL",
    "WORKDIR",
    "EXPOSE",
    "STOPSIGNAL",
    "ONBUILD RUN",
    "HEALTHCHECK",
    "VOLUME",
];

const WORDS: [&str; 20] = [
    "a",
    "AS b",
    "$V",
    "${V",
    "${V:?x}",
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
    "=",
    "--mount=type=secret,env=V",
    "NONE",
    "\\",
];

fn eprint_skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// A few images, and what was asked for.
#[derive(Default)]
struct Registry {
    asked: Vec<String>,
    has_everything: bool,
}

impl ImageMetaResolver for Registry {
    fn resolve(&mut self, reference: &str, platform: &Platform) -> Result<ResolvedImage, String> {
        let question = format!("{reference} {platform}");
        assert!(!self.asked.contains(&question), "{question} was asked for twice");
        self.asked.push(question);
        let (name, config) = match reference.split(':').next().unwrap() {
            "busybox" => ("busybox:latest@sha256:b0", BUSYBOX),
            "debian" => ("debian:12@sha256:d0", DEBIAN),
            "trigger" => ("trigger:latest@sha256:70", TRIGGER),
            "badtrigger" => ("badtrigger:latest@sha256:71", BAD_TRIGGER),
            "nulls" => ("nulls:latest@sha256:90", NULLS),
            "empty" => ("empty:latest@sha256:e0", EMPTY),
            "arm" => ("arm:latest@sha256:a0", ARM),
            "broken" => ("broken:latest@sha256:ff", "{"),
            _ if self.has_everything => (reference, BUSYBOX),
            _ => return Err("not found".to_owned()),
        };
        Ok(ResolvedImage {
            identifier: format!("docker-image://docker.io/library/{name}"),
            config: config.as_bytes().to_vec(),
        })
    }
}

const BUSYBOX: &str = r#"{"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]}, "created": "2024-01-01T00:00:00Z",
    "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "BusyBox 1.37"}],
    "rootfs": {"type": "layers", "diff_ids": ["sha256:1111"]}}"#;

const DEBIAN: &str = r#"{"architecture": "amd64", "os": "linux", "author": "somebody", "docker_version": "20",
    "config": {"Env": ["PATH=/usr/sbin:/usr/bin", "LANG=C"], "Cmd": ["bash"], "Entrypoint": null, "WorkingDir": "srv/../srv",
               "User": "", "Labels": {"from": "base"}, "ExposedPorts": {"1/tcp": {}}, "StopSignal": "SIGINT"},
    "history": [{"created_by": "ADD rootfs"}, {"created_by": "CMD [\"bash\"]", "empty_layer": true}],
    "rootfs": {"type": "layers", "diff_ids": ["sha256:2222"]}}"#;

const TRIGGER: &str = r#"{"architecture": "amd64", "os": "linux",
    "config": {"OnBuild": ["ARG FLAVOUR=plain", "COPY --from=assets /in /out", "RUN echo $FLAVOUR $UNKNOWN", "WORKDIR /app"]},
    "history": [{"created_by": "x"}], "rootfs": {"type": "layers", "diff_ids": ["sha256:3333"]}}"#;

const BAD_TRIGGER: &str = r#"{"architecture": "amd64", "os": "linux",
    "config": {"OnBuild": ["FROM x", "RUN --mount=type=bnd,target=/x y"]},
    "history": [{"created_by": "x"}], "rootfs": {"type": "layers", "diff_ids": ["sha256:3333"]}}"#;

const NULLS: &str = r#"{"os": null, "created": null, "history": null, "rootfs": {"type": "layers", "diff_ids": ["sha256:4444"]},
    "config": {"User": "app", "Cmd": null, "Env": null, "Labels": null, "Volumes": null, "OnBuild": null, "WorkingDir": null}}"#;

const EMPTY: &str = r#"{"architecture": "amd64", "os": "linux", "config": {"Env": ["A=1"]},
    "history": [{"created_by": "ENV A=1", "empty_layer": true}], "rootfs": {"type": "layers", "diff_ids": null}}"#;

const ARM: &str = r#"{"architecture": "arm64", "variant": "v8", "os": "linux", "config": {},
    "history": [{"created_by": "x"}], "rootfs": {"type": "layers", "diff_ids": ["sha256:5555"]}}"#;

fn run(text: &str, flags: &str) -> String {
    run_with(text, flags, Registry::default())
}

fn run_with(text: &str, flags: &str, mut registry: Registry) -> String {
    let (ast, mut diagnostics) = parser::parse(text);
    let (dockerfile, more) = instructions::parse(&ast);
    diagnostics.extend(more);
    let options = options(flags);
    let mut out = String::new();
    dump_diagnostics("parse", &diagnostics, text, &mut out);
    match convert(&dockerfile, &options, &mut registry) {
        Ok(converted) => {
            dump_converted(&converted, text, &mut out);
            dump_diagnostics("warnings", &converted.warnings, text, &mut out);
        }
        Err(error) => dump_diagnostics("errors", &error.diagnostics, text, &mut out),
    }
    writeln!(out, "asked {:?}", registry.asked).unwrap();
    out
}

fn options(flags: &str) -> Options {
    let amd64 = Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), ..Platform::default() };
    let mut options =
        Options { platform: amd64.clone(), build_platform: amd64.clone(), ..Options::default() };
    for line in flags.lines() {
        let (flag, value) = line.split_once(' ').unwrap_or((line, ""));
        let pair = value.split_once('=').unwrap_or((value, ""));
        let pair = (pair.0.to_owned(), pair.1.to_owned());
        match flag {
            "build-arg" => drop(options.build_args.insert(pair.0, pair.1)),
            "target" => options.target = value.to_owned(),
            "platform" => options.platform = platform::parse(value, &amd64).unwrap(),
            "implicit-platform" => options.implicit_platform = true,
            "multi-platform" => options.multi_platform = true,
            "context" => {
                let context =
                    if pair.1 == "local" { NamedContext::Local } else { NamedContext::Image(pair.1) };
                options.contexts.insert(pair.0, context);
            }
            "ignore" => options.ignore.push(value.to_owned()),
            "no-cache" => options.no_cache = true,
            "no-cache-stage" => options.no_cache_stages.push(value.to_owned()),
            "network" => options.run.network = NetworkMode::None,
            "add-host" => options.run.extra_hosts.push(pair),
            other => panic!("{other}"),
        }
    }
    options
}

fn dump_converted(converted: &Converted, text: &str, out: &mut String) {
    let definition = &converted.definition;
    let numbers: BTreeMap<_, _> =
        definition.iter().enumerate().map(|(number, (digest, _))| (*digest, number)).collect();
    for (number, (_, vertex)) in definition.iter().enumerate() {
        let inputs: Vec<usize> = vertex.inputs.iter().map(|edge| numbers[&edge.vertex]).collect();
        dump_vertex(number, vertex, &inputs, text, out);
    }
    let number = |edge: &Edge| numbers[&edge.vertex];
    let layers: Vec<usize> = converted.layers.iter().map(number).collect();
    writeln!(
        out,
        "head {:?} layers {layers:?} platform {}",
        converted.head.as_ref().map(number),
        converted.platform
    )
    .unwrap();
    let base = converted.base.as_ref().map(number);
    writeln!(out, "base {base:?} layers {} history {}", converted.base_layers, converted.base_history)
        .unwrap();
    let new_layers =
        converted.config.history[converted.base_history..].iter().filter(|entry| !entry.empty_layer);
    assert_eq!(new_layers.count(), layers.len(), "history and layers");
    assert_eq!(Definition::len(definition), numbers.len());
    writeln!(out, "config {}", serde_json::to_string_pretty(&converted.config).unwrap()).unwrap();
}

fn dump_vertex(number: usize, vertex: &Vertex, inputs: &[usize], text: &str, out: &mut String) {
    let platform = vertex.platform.as_ref().map_or(String::new(), |platform| format!(" {platform}"));
    let ignore = if vertex.metadata.ignore_cache { " no-cache" } else { "" };
    writeln!(out, "#{number} {:?} inputs {inputs:?}{platform}{ignore}", vertex.metadata.name).unwrap();
    if let Some(location) = &vertex.metadata.location {
        writeln!(out, "  at {}", place(text, location)).unwrap();
    }
    match &vertex.op {
        Op::Source(source) => {
            writeln!(out, "  source {}", source.identifier).unwrap();
            for (name, value) in &source.attrs {
                writeln!(out, "    {name}={value}").unwrap();
            }
        }
        Op::Exec(exec) => dump_exec(exec, out),
        Op::File(file) => dump_file(file, out),
        Op::Merge(_) => out.push_str("  merge\n"),
        Op::Diff(_) => out.push_str("  diff\n"),
    }
}

fn dump_exec(exec: &ExecOp, out: &mut String) {
    let meta = &exec.meta;
    writeln!(out, "  exec {:?}", meta.args).unwrap();
    writeln!(out, "    cwd {} user {:?} env {:?}", meta.cwd, meta.user, meta.env).unwrap();
    if !meta.proxy_env.is_empty() || !meta.hostname.is_empty() || !meta.extra_hosts.is_empty() {
        writeln!(
            out,
            "    proxy {:?} hostname {:?} hosts {:?}",
            meta.proxy_env, meta.hostname, meta.extra_hosts
        )
        .unwrap();
    }
    if (exec.network, exec.security) != Default::default() || !exec.devices.is_empty() {
        writeln!(
            out,
            "    network {:?} security {:?} devices {:?}",
            exec.network, exec.security, exec.devices
        )
        .unwrap();
    }
    for secret in &exec.secret_env {
        writeln!(out, "    secret env {}={} optional {}", secret.name, secret.id, secret.optional).unwrap();
    }
    for Mount { input, selector, target, output, readonly, kind } in &exec.mounts {
        let access = if *readonly { "ro" } else { "rw" };
        let kind = match kind {
            MountKind::Bind => "bind".to_owned(),
            other => format!("{other:?}"),
        };
        writeln!(
            out,
            "    mount {target} {access} input {input:?} selector {selector:?} output {output:?} {kind}"
        )
        .unwrap();
    }
}

fn dump_file(file: &FileOp, out: &mut String) {
    for (number, action) in file.actions.iter().enumerate() {
        let base = input(action.base);
        let change = match &action.change {
            FileChange::Copy(copy) => copy_text(copy),
            FileChange::MkFile { path, mode, data, owner } => {
                format!(
                    "mkfile {path} mode {mode:o}{} {:?}",
                    owner_text(owner),
                    String::from_utf8_lossy(data)
                )
            }
            FileChange::MkDir { path, mode, make_parents, owner } => {
                format!("mkdir {path} mode {mode:o} parents {make_parents}{}", owner_text(owner))
            }
            other => format!("{other:?}"),
        };
        writeln!(out, "  {number}: on {base} {change}").unwrap();
    }
}

fn copy_text(copy: &CopyAction) -> String {
    let from = copy.from.map_or("nothing".to_owned(), input);
    let mut text = format!("copy {from}:{} {}{}", copy.src, copy.dest, owner_text(&copy.owner));
    if let Some(mode) = &copy.mode {
        write!(text, " mode {mode:?}").unwrap();
    }
    for (name, value) in [
        ("follow", copy.follow_symlinks),
        ("contents", copy.dir_contents_only),
        ("unpack", copy.unpack_archive),
        ("mkdirs", copy.create_dest_path),
        ("wildcard", copy.allow_wildcard),
        ("may-be-empty", copy.allow_empty_wildcard),
        ("parents", copy.parents),
    ] {
        if value {
            write!(text, " {name}").unwrap();
        }
    }
    for (name, list) in [("include", &copy.include), ("exclude", &copy.exclude)] {
        if !list.is_empty() {
            write!(text, " {name} {list:?}").unwrap();
        }
    }
    text
}

fn owner_text(owner: &Option<Owner>) -> String {
    let reference = |user: &UserRef| match user {
        UserRef::Name(name) => format!("{name:?}"),
        UserRef::Id(id) => id.to_string(),
    };
    match owner {
        None => String::new(),
        Some(Owner { user, group: None }) => format!(" owner {}", reference(user)),
        Some(Owner { user, group: Some(group) }) => {
            format!(" owner {}:{}", reference(user), reference(group))
        }
    }
}

fn input(input: ActionInput) -> String {
    match input {
        ActionInput::Scratch => "scratch".to_owned(),
        ActionInput::Input(number) => format!("input{number}"),
        ActionInput::Action(number) => format!("action{number}"),
    }
}

/// Checks that are not about names and scopes have tests of their own.
fn dump_diagnostics(title: &str, diagnostics: &[Diagnostic], text: &str, out: &mut String) {
    use crate::Rule::{CopyIgnoredFile, InvalidBaseImagePlatform, UndefinedArgInFrom, UndefinedVar};
    let scopes = [CopyIgnoredFile, InvalidBaseImagePlatform, UndefinedArgInFrom, UndefinedVar];
    for diagnostic in diagnostics.iter().filter(|it| it.rule.is_none_or(|rule| scopes.contains(&rule))) {
        let hint = diagnostic.hint.as_ref().map_or(String::new(), |hint| format!(" ({hint})"));
        let severity = if diagnostic.is_error() { "error" } else { "warning" };
        writeln!(
            out,
            "{title}: {severity} {}: {}{hint}",
            place(text, &diagnostic.span),
            diagnostic.headline()
        )
        .unwrap();
    }
}

/// Line, column and the text itself.
fn place(text: &str, span: &std::ops::Range<usize>) -> String {
    let before = &text[..span.start];
    let line = before.matches('\n').count() + 1;
    let column = before.len() - before.rfind('\n').map_or(0, |newline| newline + 1) + 1;
    format!("{line}:{column} {:?}", &text[span.clone()])
}
