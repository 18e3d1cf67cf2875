//! What is said about a step, and what makes it differ.

use expect_test::{Expect, expect};

use super::*;
use crate::llb::{
    ActionInput, CacheSharing, CopyAction, ExecMeta, ExecOp, FileAction, FileOp, Metadata, Mode, Mount,
    MountKind, Owner, Platform, SecretEnv, SourceOp, UserRef,
};

#[track_caller]
fn check_parts(op: Op, platform: Option<Platform>, expected: Expect) {
    let vertex = Vertex { op, inputs: Vec::new(), platform, metadata: Metadata::default() };
    let lines: String =
        op_parts(&vertex).iter().map(|part| format!("{}: {}\n", part.name, part.value)).collect();
    expected.assert_eq(&lines);
}

#[test]
fn a_process_is_told_part_by_part() {
    let mount = |target: &str, kind| Mount {
        input: None,
        selector: String::new(),
        target: target.into(),
        output: None,
        readonly: false,
        kind,
    };
    let exec = ExecOp {
        meta: ExecMeta {
            args: vec!["/bin/sh".into(), "-c".into(), "make all\necho \"done\"".into()],
            env: vec!["PATH=/bin:/usr/bin".into(), "EMPTY=".into(), "odd".into()],
            cwd: "/src".into(),
            user: "me".into(),
            proxy_env: vec!["http_proxy=p".into()],
            extra_hosts: vec![("db".into(), "10.0.0.1".into())],
            ulimits: vec![("nofile".into(), 1, -1)],
            shm_size_bytes: 64,
            valid_exit_codes: vec![0, 3],
            ..ExecMeta::default()
        },
        mounts: vec![
            Mount { input: Some(0), output: Some(0), ..mount("/", MountKind::Bind) },
            Mount {
                input: Some(1),
                selector: "/kept in the input".into(),
                readonly: true,
                ..mount("/a b", MountKind::Bind)
            },
            mount(
                "/cache",
                MountKind::Cache {
                    id: "x".into(),
                    sharing: CacheSharing::Locked,
                    mode: Some(0o755),
                    uid: None,
                    gid: Some(5),
                },
            ),
            mount("/tmp", MountKind::Tmpfs { size_bytes: 0 }),
            mount(
                "/s",
                MountKind::Secret { id: "token".into(), uid: 0, gid: 0, mode: 0o400, optional: true },
            ),
        ],
        secret_env: vec![SecretEnv { id: "s".into(), name: "TOKEN".into(), optional: true }],
        devices: vec!["vendor.com/gpu=0".into()],
        ..ExecOp::default()
    };
    let platform = Platform {
        os: "linux".into(),
        architecture: "arm".into(),
        variant: "v7".into(),
        os_version: "not seen".into(),
    };
    check_parts(
        Op::Exec(exec),
        Some(platform),
        expect![[r#"
        kind: exec
        args: /bin/sh -c "make all\necho \"done\""
        env.PATH: /bin:/usr/bin
        env.EMPTY: 
        env: odd
        workdir: /src
        user: me
        extra host: db
        ulimit nofile: 1:-1
        shm size: 64
        exit codes: 0 3
        mount / kind: bind
        mount / input: 0
        mount / output: 0
        mount "/a b" kind: bind
        mount "/a b" input: 1
        mount "/a b" readonly: yes
        mount /cache kind: cache
        mount /cache mode: 0755
        mount /cache gid: 5
        mount /tmp kind: tmpfs
        mount /s kind: secret
        mount /s id: token
        mount /s owner: 0:0
        mount /s mode: 0400
        mount /s optional: yes
        secret variable TOKEN: s optional
        device: vendor.com/gpu=0
        platform: linux/arm/v7
    "#]],
    );
}

#[test]
fn changes_of_files_are_told_by_number() {
    let copy = CopyAction {
        from: Some(ActionInput::Input(1)),
        src: "/only/the/last.txt".into(),
        dest: "/c/".into(),
        owner: Some(Owner { user: UserRef::Name("5".into()), group: Some(UserRef::Id(5)) }),
        mode: Some(Mode::Symbolic("u=rwX".into())),
        allow_wildcard: true,
        exclude: vec!["*.o".into(), "a b".into()],
        timestamp_s: Some(-1),
        ..CopyAction::default()
    };
    let file = |data: &[u8]| crate::llb::FileChange::MkFile {
        path: "/f".into(),
        mode: 0o644,
        data: data.into(),
        owner: None,
    };
    let changes = [crate::llb::FileChange::Copy(copy), file(b"two\nlines"), file(&[0xff; 3])];
    let actions = changes.into_iter().enumerate().map(|(index, change)| FileAction {
        base: if index == 0 { ActionInput::Input(0) } else { ActionInput::Action(index - 1) },
        change,
    });
    check_parts(
        Op::File(FileOp { actions: actions.collect() }),
        None,
        expect![[r#"
        kind: file
        copy[0].base: input 0
        copy[0].from: input 1
        copy[0].src: last.txt
        copy[0].dest: /c/
        copy[0].owner: "5":5
        copy[0].mode: symbolic u=rwX
        copy[0].allow-wildcard: yes
        copy[0].exclude: *.o "a b"
        copy[0].timestamp: -1
        mkfile[1].base: action 0
        mkfile[1].path: /f
        mkfile[1].mode: 0644
        mkfile[1].text: two
        lines
        mkfile[2].base: action 1
        mkfile[2].path: /f
        mkfile[2].mode: 0644
        mkfile[2].data: 3 bytes, blake3 f08564b45e732d9070278e95715661ed02165ca35ea3cf94e71ff568a173b240
    "#]],
    );
}

#[test]
fn sources_are_told_by_what_counts() {
    let source = |identifier: &str, attrs: &[(&str, &str)]| {
        let attrs = attrs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Op::Source(SourceOp { identifier: identifier.into(), attrs })
    };
    let digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let resolve = ("image.resolvemode", "pull");
    check_parts(
        source(&format!("docker-image://a@{digest}"), &[resolve]),
        None,
        expect![[r#"
        kind: source
        image: sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    "#]],
    );
    check_parts(
        source("docker-image://a:1", &[("image.layerlimit", "2")]),
        None,
        expect![[r#"
        kind: source
        source: docker-image://a:1
        attribute image.layerlimit: 2
    "#]],
    );
    check_parts(
        source("https://host/x", &[("http.perm", "0600"), ("http.checksum", "c")]),
        None,
        expect![[r#"
            kind: source
            source: https://
            attribute http.perm: 0600
        "#]],
    );
    check_parts(
        source("local://context", &[("local.session", "1")]),
        None,
        expect![[r#"
        kind: source
        source: local://
    "#]],
    );
}

#[test]
fn selections_are_told_as_they_are_written() {
    let copy = |src: &str| CopyAction { src: src.into(), ..CopyAction::default() };
    let one = CopyAction { exclude: vec!["*.o".into()], follow_symlinks: true, ..copy("/a b") };
    expect![[r#"files "/a b" (follow-symlinks yes; exclude *.o), /c"#]]
        .assert_eq(&reads_text(&Reads::Copies(vec![one, copy("/c")])));
    expect!["path /x"].assert_eq(&reads_text(&Reads::Path("/x".into())));
    expect!["everything"].assert_eq(&reads_text(&Reads::Whole));
}

fn digest(byte: u8) -> Option<ContentDigest> {
    Some(ContentDigest([byte; 32]))
}

/// A step over one directory and one step.
fn step() -> Provenance {
    let selection = |reads: &str, byte| Selection { reads: reads.into(), content: digest(byte) };
    let part = |name: &str, value: &str| Part { name: name.into(), value: value.into() };
    let input = |step: &str, origin, definition_key, selections| InputProvenance {
        step: step.into(),
        origin,
        output: 0,
        definition_key,
        reads: Key([4; 32]),
        selections,
    };
    Provenance {
        name: "RUN make".into(),
        op: Key([1; 32]),
        parts: vec![part("kind", "exec"), part("args", "make"), part("device", "a"), part("device", "b")],
        inputs: vec![
            input("base", Origin::Step, Some(Key([2; 32])), vec![selection("everything", 2)]),
            input(
                "context",
                Origin::Local { context: "context".into() },
                None,
                vec![selection("path /src", 3)],
            ),
        ],
        pin: None,
        definition_key: Some(Key([5; 32])),
        content_key: Some(Key([6; 32])),
    }
}

/// The reasons after `change`, one a line. What is kept as JSON is the same.
#[track_caller]
fn check_reasons(change: impl FnOnce(&mut Provenance), expected: Expect) {
    let mut now = step();
    change(&mut now);
    let kept: Provenance = serde_json::from_str(&serde_json::to_string(&now).unwrap()).unwrap();
    assert_eq!(kept, now);
    let reasons = compare(&step(), &now);
    let kept: Vec<Reason> = serde_json::from_str(&serde_json::to_string(&reasons).unwrap()).unwrap();
    assert_eq!(kept, reasons);
    expected.assert_eq(&reasons.iter().map(|reason| format!("{reason}\n")).collect::<String>());
}

#[test]
fn all_that_differs_is_named() {
    check_reasons(
        |_| {},
        expect![[r#"
        its result is no longer in the cache
    "#]],
    );
    check_reasons(
        |now| now.parts[1].value = "make all".into(),
        expect![[r#"
        args changed from `make` to `make all`
    "#]],
    );
    check_reasons(
        |now| {
            now.parts.remove(1);
            now.parts.push(Part { name: "env.A".into(), value: "1".into() });
        },
        expect![[r#"
            args is gone: it was `make`
            env.A is new: `1`
        "#]],
    );
    check_reasons(
        |now| now.parts[3].value = "c".into(),
        expect![[r#"
        device changed from `b` to `c`
    "#]],
    );
    check_reasons(
        |now| now.parts[1].value = "make\n\tall".into(),
        expect![[r#"
        args changed from `make` to `make\n\tall`
    "#]],
    );
    check_reasons(
        |now| now.parts.swap(0, 1),
        expect![[r#"
        its values are in another order
    "#]],
    );
    check_reasons(
        |now| now.op = Key([9; 32]),
        expect![[r#"
        its key was made by another version of wharf
    "#]],
    );
    check_reasons(
        |now| now.inputs[0].selections[0].content = digest(9),
        expect![[r#"
        `base` made other files
    "#]],
    );
    check_reasons(
        |now| now.inputs[1].selections[0].content = digest(9),
        expect![[r#"
        files of the context `context` changed
    "#]],
    );
    check_reasons(
        |now| now.pin = digest(9),
        expect![[r#"
        what `RUN make` stands for changed
    "#]],
    );
    check_reasons(
        |now| drop(now.inputs.pop()),
        expect![[r#"
        it no longer reads `context`
    "#]],
    );
    check_reasons(
        |now| now.inputs.push(now.inputs[0].clone()),
        expect![[r#"
        it now reads `base`
    "#]],
    );
    check_reasons(
        |now| {
            now.inputs[1].reads = Key([9; 32]);
            now.inputs[1].selections[0] = Selection { reads: "path /other".into(), content: digest(9) };
        },
        expect![[r#"
            it reads `path /other` of `context`, not `path /src`
        "#]],
    );
    // The definition is another, but it is known that the files are the same.
    check_reasons(
        |now| now.inputs[0].definition_key = Some(Key([9; 32])),
        expect![[r#"
        its result is no longer in the cache
    "#]],
    );
    // That it is not known what the files are is no difference as long as the definition is the same.
    check_reasons(
        |now| now.inputs[0].selections[0].content = None,
        expect![[r#"
        its result is no longer in the cache
    "#]],
    );
    check_reasons(
        |now| {
            now.inputs[0].selections[0].content = None;
            now.inputs[0].definition_key = Some(Key([9; 32]));
        },
        expect![[r#"
            what it reads of `base` may differ: what goes into that step is not as before
        "#]],
    );
    check_reasons(
        |now| {
            now.parts[1].value = "make all".into();
            now.inputs[0].selections[0].content = digest(9);
            now.inputs[1].selections[0].content = digest(9);
        },
        expect![[r#"
            args changed from `make` to `make all`
            `base` made other files
            files of the context `context` changed
        "#]],
    );
}

/// "Another step" is said only where the operation of the upstream step differs.
#[test]
fn a_step_that_is_read_is_compared_itself() {
    #[track_caller]
    fn check(kind: &str, change: impl FnOnce(&mut Provenance), expected: &str) {
        let mut before = step();
        before.parts[0].value = kind.into();
        let mut now = before.clone();
        change(&mut now);
        assert_eq!(upstream(&before, &now).to_string(), expected);
    }
    let local = |now: &mut Provenance| now.inputs[1].selections[0].content = digest(9);
    check("file", local, "`RUN make` made other files");
    let unknown = "what it reads of `RUN make` may differ: what goes into that step is not as before";
    check("exec", local, unknown);
    let definition = |now: &mut Provenance| {
        now.inputs[0].selections[0].content = None;
        now.inputs[0].definition_key = Some(Key([9; 32]));
    };
    check("file", definition, unknown);
    check(
        "file",
        |now| {
            local(now);
            definition(now);
        },
        unknown,
    );
    check("exec", |now| now.parts[1].value = "make all".into(), "`RUN make` is another step than before");
}

/// A key that does not follow from what is said to be its parts is not believed.
#[test]
fn keys_are_made_of_what_is_told() {
    let step = step();
    assert_ne!(step.made_definition_key(), step.definition_key);
    let mut other = step.clone();
    assert_eq!(other.made_content_key(), step.made_content_key());
    other.inputs[0].definition_key = None;
    assert_ne!(other.made_definition_key(), step.made_definition_key());
    assert_eq!(other.made_content_key(), step.made_content_key());
    other.inputs[1].selections[0].content = None;
    assert_eq!((other.made_definition_key(), other.made_content_key()), (None, None));
}
