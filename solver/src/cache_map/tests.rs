//! What enters a key, and what does not.

mod edits;

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::llb::{
    CacheSharing, ExecMeta, FileAction, MergeOp, Metadata, Owner, SecretEnv, UserRef, arbitrary, encode,
};
use crate::llb::{Edge, VertexDigest};

const PIN: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER_PIN: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn vertex(op: Op, inputs: u8) -> Vertex {
    let inputs = (0..inputs).map(|n| Edge { vertex: VertexDigest([n; 32]), output: 0 }).collect();
    Vertex { op, inputs, platform: None, metadata: Metadata::default() }
}

fn source(identifier: &str, attrs: &[(&str, &str)]) -> Vertex {
    let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    vertex(Op::Source(SourceOp { identifier: identifier.to_owned(), attrs }), 0)
}

fn copy_of(copy: CopyAction) -> Vertex {
    let action = FileAction { base: ActionInput::Input(0), change: FileChange::Copy(copy) };
    vertex(Op::File(FileOp { actions: vec![action] }), 2)
}

fn copy(src: &str) -> CopyAction {
    CopyAction {
        from: Some(ActionInput::Input(1)),
        src: src.into(),
        dest: "/dest/".into(),
        ..Default::default()
    }
}

fn bind(input: usize, selector: &str, target: &str) -> Mount {
    Mount {
        input: Some(input),
        selector: selector.into(),
        target: target.into(),
        output: None,
        readonly: true,
        kind: MountKind::Bind,
    }
}

fn root() -> Mount {
    Mount { output: Some(0), readonly: false, ..bind(0, "", "/") }
}

/// The definition key over inputs that all have the same definition key.
fn definition_key(vertex: &Vertex) -> Key {
    let input =
        |reads: Vec<Reads>| InputKey::Definition { key: Key([9; 32]), output: 0, reads: reads_key(&reads) };
    key(&op_key(vertex), &reads(vertex).into_iter().map(input).collect::<Vec<_>>())
}

#[track_caller]
fn check_same_op_key(one: &Vertex, other: &Vertex) {
    assert_eq!(op_key(one), op_key(other), "{one:?}\nand\n{other:?}");
}

#[track_caller]
fn check_different_op_key(one: &Vertex, other: &Vertex) {
    assert_ne!(op_key(one), op_key(other), "{one:?}\nand\n{other:?}");
}

#[test]
fn an_image_is_its_pinned_digest() {
    let image = |name: &str| source(&format!("docker-image://{name}@{PIN}"), &[]);
    check_same_op_key(&image("docker.io/library/busybox:latest"), &image("mirror.test/busybox:1"));
    check_same_op_key(&image("a"), &source(&format!("oci-layout://dir:tag@{PIN}"), &[("oci.store", "x")]));
    check_same_op_key(
        &image("a"),
        &source(&format!("docker-image://a@{PIN}"), &[("image.resolvemode", "pull")]),
    );
    check_different_op_key(&image("a"), &source(&format!("docker-image://a@{OTHER_PIN}"), &[]));
    check_different_op_key(
        &image("a"),
        &source(&format!("docker-image://a@{PIN}"), &[("image.layerlimit", "1")]),
    );
    check_same_op_key(
        &source(&format!("oci-layout://a@{PIN}"), &[("oci.layerlimit", "1")]),
        &source(&format!("docker-image://a@{PIN}"), &[("image.layerlimit", "1")]),
    );
    // What only looks like a digest pins nothing.
    check_different_op_key(
        &source("docker-image://a@host:1/x", &[]),
        &source("docker-image://b@host:1/x", &[]),
    );
}

#[test]
fn the_platform_chooses_among_an_index() {
    let on = |architecture: &str, mut vertex: Vertex| {
        vertex.platform =
            Some(Platform { os: "linux".into(), architecture: architecture.into(), ..Platform::default() });
        vertex
    };
    let image = source(&format!("docker-image://a@{PIN}"), &[]);
    check_different_op_key(&on("amd64", image.clone()), &on("arm64", image));
    let exec = vertex(Op::Exec(ExecOp::default()), 0);
    check_different_op_key(&on("amd64", exec.clone()), &on("arm64", exec));
    let files = copy_of(copy("a"));
    check_same_op_key(&on("amd64", files.clone()), &on("arm64", files));
}

#[test]
fn local_directories_are_their_content_alone() {
    check_same_op_key(&source("local://context", &[("local.session", "1")]), &source("local://other", &[]));
}

#[test]
fn a_repository_is_known_by_its_pin() {
    check_same_op_key(
        &source("git://host/repo#main", &[("git.fullurl", "https://token@host/repo")]),
        &source("git://mirror/repo#v1:sub", &[("git.keepgitdir", "true")]),
    );
    check_different_op_key(&source("git://host/repo", &[]), &source("https://host/repo", &[]));
}

#[test]
fn a_checksum_stands_for_the_url_but_not_for_the_file_name() {
    let url = |url: &str| source(url, &[("http.checksum", PIN)]);
    check_same_op_key(&url("https://host/v1/tool.tgz"), &url("http://mirror/x/tool.tgz?token=1"));
    check_same_op_key(&source("https://host/a/x", &[]), &url("https://host/b/y"));
    let named = |url: &str| source(url, &[("http.checksum", PIN), ("http.filename", "f")]);
    check_same_op_key(&named("https://host/a"), &named("https://host/b"));
    check_different_op_key(
        &source("https://host/a", &[("http.perm", "0600")]),
        &source("https://host/a", &[("http.perm", "0644")]),
    );
}

#[test]
fn the_directory_of_a_copy_counts_by_content_only() {
    let (old, new) = (copy_of(copy("/old/app.txt")), copy_of(copy("/new/app.txt")));
    check_same_op_key(&old, &new);
    assert_ne!(definition_key(&old), definition_key(&new), "the files may differ");
    let content = [InputKey::Content(vec![]), InputKey::Content(vec![ContentDigest([1; 32])])];
    assert_eq!(key(&op_key(&old), &content), key(&op_key(&new), &content));

    check_different_op_key(&copy_of(copy("/a/x")), &copy_of(copy("/a/y")));
    let parents = |src: &str| copy_of(CopyAction { parents: true, ..copy(src) });
    check_different_op_key(&parents("/old/app.txt"), &parents("/new/app.txt"));
    let from_action = |src: &str| copy_of(CopyAction { from: Some(ActionInput::Action(0)), ..copy(src) });
    check_different_op_key(&from_action("/old/app.txt"), &from_action("/new/app.txt"));
    let owned = |id: u32| {
        let owner = Some(Owner { user: UserRef::Id(id), group: None });
        copy_of(CopyAction { owner, ..copy("/a/x") })
    };
    check_different_op_key(&owned(0), &owned(1));
}

#[test]
fn what_a_process_cannot_depend_on_is_in_no_key() {
    let exec = |change: &dyn Fn(&mut ExecOp)| {
        let cache = Mount {
            kind: MountKind::Cache {
                id: "id".into(),
                sharing: CacheSharing::Shared,
                mode: None,
                uid: None,
                gid: None,
            },
            ..bind(0, "", "/cache")
        };
        let meta = ExecMeta { extra_hosts: vec![("db".into(), "10.0.0.1".into())], ..ExecMeta::default() };
        let mut exec =
            ExecOp { meta, mounts: vec![root(), cache, bind(1, "/src", "/mnt")], ..ExecOp::default() };
        change(&mut exec);
        vertex(Op::Exec(exec), 2)
    };
    let plain = exec(&|_| {});
    check_same_op_key(&plain, &exec(&|exec| exec.meta.proxy_env.push("http_proxy=p".into())));
    check_same_op_key(&plain, &exec(&|exec| exec.meta.extra_hosts[0].1 = "10.0.0.2".into()));
    check_same_op_key(
        &plain,
        &exec(&|exec| {
            exec.mounts[1].kind = MountKind::Cache {
                id: "another".into(),
                sharing: CacheSharing::Locked,
                mode: None,
                uid: None,
                gid: None,
            }
        }),
    );
    let moved = exec(&|exec| exec.mounts[2].selector = "/elsewhere".into());
    check_same_op_key(&plain, &moved);
    assert_ne!(definition_key(&plain), definition_key(&moved), "the files may differ");

    check_different_op_key(&plain, &exec(&|exec| exec.meta.extra_hosts[0].0 = "web".into()));
    check_different_op_key(&plain, &exec(&|exec| exec.meta.env.push("A=1".into())));
    check_different_op_key(&plain, &exec(&|exec| exec.mounts[2].target = "/other".into()));
    check_different_op_key(&plain, &exec(&|exec| exec.mounts[2].readonly = false));
    // The whole input is read, so the selector says what is mounted.
    let kept = |selector: &'static str| {
        exec(&move |exec| {
            exec.mounts[2] = Mount { output: Some(1), readonly: false, ..bind(1, selector, "/mnt") };
        })
    };
    check_different_op_key(&kept("/a"), &kept("/b"));
    let secret = SecretEnv { id: "s".into(), name: "S".into(), optional: false };
    check_different_op_key(&plain, &exec(&|exec| exec.secret_env.push(secret.clone())));
}

/// Which mount shows which of the selected files.
#[test]
fn mounts_of_one_input_are_not_confused() {
    let mounts = |selectors: [&str; 3]| {
        let binds = [bind(1, selectors[0], "/x"), bind(1, selectors[1], "/y"), bind(1, selectors[2], "/z")];
        let exec = ExecOp { mounts: [root()].into_iter().chain(binds).collect(), ..ExecOp::default() };
        vertex(Op::Exec(exec), 2)
    };
    let by_content = |vertex: &Vertex| {
        let digest = |read: &Reads| ContentDigest(reads_key(std::slice::from_ref(read)).0);
        let input = |reads: Vec<Reads>| InputKey::Content(reads.iter().map(digest).collect());
        key(&op_key(vertex), &reads(vertex).into_iter().map(input).collect::<Vec<_>>())
    };
    for (one, other) in [
        (["/a", "/a", "/b"], ["/a", "/b", "/b"]),
        (["/a", "", "/a"], ["/a", "/a", ""]),
        (["/a", "/b", "/a"], ["/a", "/b", "/b"]),
    ] {
        let (one, other) = (mounts(one), mounts(other));
        assert_ne!(definition_key(&one), definition_key(&other), "{one:?} and {other:?}");
        assert_ne!(by_content(&one), by_content(&other), "{one:?} and {other:?}");
    }
}

#[test]
fn reads_are_what_is_read() {
    let selecting = |src: &str| CopyAction { src: src.into(), ..CopyAction::default() };
    assert_eq!(
        reads(&copy_of(copy("/a/x"))),
        [vec![Reads::Whole], vec![Reads::Copies(vec![selecting("/a/x")])]]
    );
    let exec = ExecOp {
        mounts: vec![
            root(),
            bind(1, "/a", "/b"),
            bind(1, "/a", "/c"),
            bind(1, "/", "/d"),
            bind(7, "/a", "/e"),
        ],
        ..ExecOp::default()
    };
    assert_eq!(
        reads(&vertex(Op::Exec(exec), 3)),
        [vec![Reads::Whole], vec![Reads::Path("/a".into()), Reads::Path("/a".into()), Reads::Whole], vec![]]
    );
    assert_eq!(reads(&vertex(Op::Merge(MergeOp {}), 2)), [vec![Reads::Whole], vec![Reads::Whole]]);
}

#[test]
fn selections_of_an_image_differ_by_image_and_path() {
    let (one, other) = (ContentDigest([1; 32]), ContentDigest([2; 32]));
    let path = |path: &str| Reads::Path(path.into());
    assert_eq!(image_selection(&one, &Reads::Whole), one);
    assert_ne!(image_selection(&one, &path("/a")), image_selection(&one, &path("/b")));
    assert_ne!(image_selection(&one, &path("/a")), image_selection(&other, &path("/a")));
}

/// Everything by which two inputs of a key can differ, in small numbers, so that confusions of framing would show.
fn input_key() -> impl Strategy<Value = InputKey> {
    let digest = (0..2u8).prop_map(|byte| ContentDigest([byte; 32]));
    prop_oneof![
        (0..2u8, 0..2u32, 0..2u8).prop_map(|(key, output, reads)| InputKey::Definition {
            key: Key([key; 32]),
            output,
            reads: Key([reads; 32]),
        }),
        proptest::collection::vec(digest, 0..3).prop_map(InputKey::Content),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn different_parts_make_different_keys(
        one in proptest::collection::vec(input_key(), 0..3),
        other in proptest::collection::vec(input_key(), 0..3),
    ) {
        let op = Key([3; 32]);
        prop_assert_eq!(one == other, key(&op, &one) == key(&op, &other));
    }

    /// Over the same inputs, two vertices with one definition key differ at most in what the table leaves out.
    #[test]
    fn equal_definition_keys_mean_equal_reads_and_ops(one in arbitrary::vertex(), other in arbitrary::vertex()) {
        if definition_key(&one) == definition_key(&other) {
            prop_assert_eq!(reads(&one), reads(&other));
            prop_assert_eq!(keyed_op(&one.op), keyed_op(&other.op));
        }
    }
}

#[test]
fn no_two_vertices_of_a_crowd_share_a_key() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = HashMap::new();
    for _ in 0..20_000 {
        let vertex = arbitrary::vertex().new_tree(&mut runner).unwrap().current();
        let identity = (
            encode::op_bytes(&keyed_op(&vertex.op)),
            reads(&vertex),
            keyed_platform(&vertex).map(Cow::into_owned),
        );
        let earlier = seen.entry(definition_key(&vertex)).or_insert_with(|| identity.clone());
        assert_eq!(*earlier, identity);
    }
    assert!(seen.len() > 5_000, "the crowd has only {} members", seen.len());
}

/// What is stored under these keys stays findable only as long as they stay.
#[test]
fn keys_do_not_drift() {
    let keys: BTreeMap<&str, Key> = BTreeMap::from([
        ("copy", definition_key(&copy_of(copy("/a/x")))),
        ("exec", definition_key(&vertex(Op::Exec(ExecOp { mounts: vec![root()], ..ExecOp::default() }), 1))),
        ("image", definition_key(&source(&format!("docker-image://a@{PIN}"), &[]))),
        ("selection", Key(image_selection(&ContentDigest([1; 32]), &Reads::Path("/a".into())).0)),
    ]);
    let text: String = keys.iter().map(|(name, key)| format!("{name} {key}\n")).collect();
    expect_test::expect![[r#"
        copy ca8ca75baa44b6e779386afac8f31ff073e4d61c80bed31306e8496662ea3020
        exec a10696072acbb86812a6b90c9fded685c454a23c547dac110d2ea7e3eda74298
        image 422373cf986bcc6fe45249dcabb4e70a4e7e053c0f2181b6a93d8455214dcc73
        selection 0f128f893d8cc3166c4df845f5fe9612472ad43c4ee69327ec6ea835205836dc
    "#]]
    .assert_eq(&text);
}
