//! Each folder of `testdata/llb` is a case: a `Dockerfile`, perhaps `options` (a flag a line), and in `expect.llb` what
//! comes of them: the graph, the config, or the diagnostics. `UPDATE_EXPECT=1` writes them anew.

#[path = "../../tests/carets/mod.rs"]
mod carets;
#[path = "../../tests/shared/mod.rs"]
mod shared;

use std::fmt::Write as _;
use std::path::Path;

use expect_test::expect_file;
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
    let Some(corpus) = shared::corpus() else { return };
    let (mut all, mut converted) = (0, 0);
    for entry in std::fs::read_dir(corpus.join("dockerfiles")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let registry = Registry { has_everything: true, ..Registry::default() };
        let dump = run_with(&String::from_utf8_lossy(&bytes), "", registry);
        all += 1;
        converted += usize::from(dump.contains("\nconfig "));
    }
    assert!(converted * 10 > all * 9, "{converted} of {all}");
}

/// A few images and sources with times, and what was asked for.
#[derive(Default)]
pub(super) struct Registry {
    asked: Vec<String>,
    has_everything: bool,
    context_time: Option<u64>,
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
            "full" => ("full:latest@sha256:f0", FULL),
            "windows" => ("windows:latest@sha256:30", WINDOWS),
            "everything" => ("everything:latest@sha256:72", EVERYTHING),
            "broken" => ("broken:latest@sha256:ff", "{"),
            _ if self.has_everything => (reference, BUSYBOX),
            _ => return Err("not found".to_owned()),
        };
        Ok(ResolvedImage {
            identifier: format!("docker-image://docker.io/library/{name}"),
            config: config.as_bytes().to_vec(),
        })
    }

    fn time(&mut self, of: &TimeOf) -> Result<Option<u64>, String> {
        let (question, time) = match of {
            TimeOf::Context(name) if name.eq_ignore_ascii_case("dated") => {
                (format!("time of {name}"), Ok(Some(111)))
            }
            TimeOf::Context(name) if name == "gone" => {
                (format!("time of {name}"), Err("not found".to_owned()))
            }
            TimeOf::Context(name) if name == "context" => (format!("time of {name}"), Ok(self.context_time)),
            TimeOf::Context(name) => (format!("time of {name}"), Ok(None)),
            TimeOf::Repository => ("time of the repository".to_owned(), Ok(Some(333))),
            TimeOf::Source(source) => {
                (format!("time of {} {:?}", source.identifier, source.attrs), Ok(Some(222)))
            }
        };
        self.asked.push(question);
        time
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

/// Everything that a config can have and a few things that are left out of the next one.
const FULL: &str = r#"{"architecture": "amd64", "variant": "v1", "os": "linux", "author": "base", "docker_version": "20",
    "created": "2024-01-01T00:00:00Z", "container_config": {"Cmd": ["x"]},
    "config": {"User": "app", "ExposedPorts": {"80/tcp": {}}, "Env": ["B=1", "A"], "Entrypoint": ["e"], "Cmd": ["c"],
               "Volumes": {"/v": {}}, "WorkingDir": "/w", "Labels": {"l": "base", "m": "base"}, "StopSignal": "SIGINT",
               "ArgsEscaped": true, "Healthcheck": {"Test": ["CMD", "h"], "Interval": 1000000000, "Retries": 3},
               "OnBuild": null, "Shell": ["/bin/bash", "-c"], "Hostname": "x"},
    "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "a", "author": "base", "comment": "theirs"},
                {"created_by": "b", "empty_layer": true}],
    "rootfs": {"type": null, "diff_ids": ["sha256:6666"]}}"#;

const WINDOWS: &str = r#"{"architecture": "amd64", "os": "windows", "os.version": "10.0.20348.1",
    "os.features": ["win32k"], "config": {"Env": ["X=1"]}, "history": [{"created_by": "x"}],
    "rootfs": {"type": "layers", "diff_ids": ["sha256:7777"]}}"#;

/// A trigger of every kind.
const EVERYTHING: &str = r##"{"architecture": "amd64", "os": "linux",
    "config": {"Cmd": ["inherited"], "OnBuild": [
        "ARG GIVEN DEFAULT=d", "ENV E=$GIVEN", "LABEL l=$E", "USER app", "WORKDIR /w", "EXPOSE 80", "VOLUME /v",
        "STOPSIGNAL 9", "SHELL [\"/bin/bash\", \"-c\"]", "RUN --mount=type=cache,target=c --mount=from=tools,target=/t a",
        "RUN <<E\nin bash\nE", "run <<E\n#!/bin/x\nE", "COPY --from=tools --chown=1:1 /x y", "COPY <<F /f\n$E\nF",
        "ADD https://h/x /", "COPY . .", "HEALTHCHECK CMD h", "ENTRYPOINT e", "CMD [\"c\"]"]},
    "history": [{"created_by": "x"}], "rootfs": {"type": "layers", "diff_ids": ["sha256:3333"]}}"##;

const BAD_TRIGGER: &str = r#"{"architecture": "amd64", "os": "linux",
    "config": {"OnBuild": ["FROM x", "RUN --mount=type=bnd,target=/x y"]},
    "history": [{"created_by": "x"}], "rootfs": {"type": "layers", "diff_ids": ["sha256:3333"]}}"#;

const NULLS: &str = r#"{"os": null, "created": null, "history": null, "rootfs": {"type": "layers", "diff_ids": ["sha256:4444"]},
    "config": {"User": "app", "Cmd": null, "Env": null, "Labels": null, "Volumes": null, "OnBuild": null, "WorkingDir": null}}"#;

const EMPTY: &str = r#"{"architecture": "amd64", "os": "linux", "config": {"Env": ["A=1"]},
    "history": [{"created_by": "ENV A=1", "empty_layer": true}], "rootfs": {"type": "layers", "diff_ids": null}}"#;

const ARM: &str = r#"{"architecture": "arm64", "variant": "v8", "os": "linux", "config": {},
    "history": [{"created_by": "x"}], "rootfs": {"type": "layers", "diff_ids": ["sha256:5555"]}}"#;

pub(super) fn run(text: &str, flags: &str) -> String {
    run_with(text, flags, Registry::default())
}

fn run_with(text: &str, flags: &str, mut registry: Registry) -> String {
    let (ast, mut diagnostics) = parser::parse(text);
    let (dockerfile, more) = instructions::parse(&ast);
    diagnostics.extend(more);
    let options = options(flags);
    registry.context_time = flags.lines().find_map(|line| line.strip_prefix("context-time ")?.parse().ok());
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

pub(super) fn options(flags: &str) -> Options {
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
                let context = match pair.1.strip_prefix("target:") {
                    Some(stage) => NamedContext::Stage(stage.to_owned()),
                    None if pair.1 == "local" => NamedContext::Local,
                    None => NamedContext::Image(pair.1),
                };
                options.contexts.insert(pair.0, context);
            }
            "label" => drop(options.labels.insert(pair.0, pair.1)),
            "ignore" => options.ignore.push(value.to_owned()),
            "no-cache" => options.no_cache = true,
            "no-cache-stage" => options.no_cache_stages.push(value.to_owned()),
            "network" => options.run.network = NetworkMode::None,
            "ulimit" => {
                let (soft, hard) = pair.1.split_once('=').unwrap();
                options.run.ulimits.push((pair.0, soft.parse().unwrap(), hard.parse().unwrap()));
            }
            "shm" => options.run.shm_size_bytes = value.parse().unwrap(),
            "cgroup" => options.run.cgroup_parent = value.to_owned(),
            // What the registry answers.
            "context-time" => {}
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
    if let Some(seconds) = converted.source_date_epoch {
        writeln!(out, "epoch {seconds}").unwrap();
    }
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
    if !meta.ulimits.is_empty() || meta.shm_size_bytes != 0 || !meta.cgroup_parent.is_empty() {
        writeln!(
            out,
            "    ulimits {:?} shm {} cgroup {:?}",
            meta.ulimits, meta.shm_size_bytes, meta.cgroup_parent
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
        let severity = if diagnostic.is_error() { "error" } else { "warning" };
        let place = diagnostic.place().map(|place| format!("{} ", carets::place(text, place)));
        writeln!(out, "{title}: {severity} {}{}", place.unwrap_or_default(), diagnostic.headline()).unwrap();
        if let Some(place) = diagnostic.place() {
            out.push_str(&carets::excerpt(text, place));
        }
        if let Some(hint) = &diagnostic.hint {
            writeln!(out, "  hint: {hint}").unwrap();
        }
    }
}

/// Line, column and the text itself.
fn place(text: &str, span: &std::ops::Range<usize>) -> String {
    let before = &text[..span.start];
    let line = before.matches('\n').count() + 1;
    let column = before.len() - before.rfind('\n').map_or(0, |newline| newline + 1) + 1;
    format!("{line}:{column} {:?}", &text[span.clone()])
}
