//! The canonical encoding: version, type tag, length-framed fields in a fixed order, sorted maps. Digests and keys are
//! made from nothing else.
//!
//! Numbers are little-endian of fixed width; text, bytes and lists begin with their length as `u64`; an option or a
//! variant begins with a tag byte. So a reader that knows the types could take every value apart again, and no two
//! different values have the same bytes. Every struct is taken apart with all its fields named: a new field that is
//! not encoded does not compile.
//!
//! A change to anything here changes every digest and key: raise [`VERSION`] with it.

use std::collections::BTreeMap;

use super::{
    ActionInput, CacheSharing, CopyAction, DiffOp, Edge, ExecMeta, ExecOp, FileAction, FileChange, FileOp,
    MergeOp, Mode, Mount, MountKind, NetworkMode, Op, Owner, Platform, SecretEnv, SecurityMode, SourceOp,
    UserRef, Vertex, VertexDigest,
};

/// Version of the encoding: the first byte of everything that is encoded.
pub const VERSION: u8 = 1;

/// What an encoding is of: the second byte, so that no operation's bytes can be read as a vertex or a key.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(crate) enum Kind {
    Op = b'o',
    Vertex = b'v',
    OpKey = b'k',
    Reads = b'r',
    Key = b'K',
    Selection = b's',
}

/// Digest of a vertex: its operation, platform and inputs; not its metadata.
pub fn vertex_digest(vertex: &Vertex) -> VertexDigest {
    let Vertex { op, inputs, platform, metadata: _ } = vertex;
    let mut encoder = Encoder::new(Kind::Vertex);
    encoder.op(op);
    encoder.option(platform.as_ref(), Encoder::platform);
    encoder.list(inputs, |encoder, Edge { vertex, output }| {
        encoder.array(&vertex.0);
        encoder.u32(*output);
    });
    VertexDigest(encoder.digest().into())
}

/// Canonical bytes of an operation, everything included.
pub fn op_bytes(op: &Op) -> Vec<u8> {
    let mut encoder = Encoder::new(Kind::Op);
    encoder.op(op);
    encoder.bytes
}

/// Appends values to an encoding.
#[derive(Debug)]
pub(crate) struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(kind: Kind) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend([VERSION, kind as u8]);
        Self { bytes }
    }

    /// BLAKE3 of what was encoded.
    pub(crate) fn digest(&self) -> blake3::Hash {
        blake3::hash(&self.bytes)
    }

    pub(crate) fn tag(&mut self, tag: u8) {
        self.bytes.push(tag);
    }

    /// Bytes whose number the type fixes: not framed.
    pub(crate) fn array<const N: usize>(&mut self, array: &[u8; N]) {
        self.bytes.extend_from_slice(array);
    }

    pub(crate) fn u32(&mut self, number: u32) {
        self.array(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.array(&number.to_le_bytes());
    }

    fn i64(&mut self, number: i64) {
        self.array(&number.to_le_bytes());
    }

    /// A length or index.
    fn count(&mut self, count: usize) {
        self.u64(u64::try_from(count).expect("usize has at most 64 bits"));
    }

    fn bool(&mut self, value: bool) {
        self.tag(u8::from(value));
    }

    fn data(&mut self, data: &[u8]) {
        self.count(data.len());
        self.bytes.extend_from_slice(data);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.data(text.as_bytes());
    }

    pub(crate) fn option<T>(&mut self, value: Option<T>, encode: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.tag(0),
            Some(value) => {
                self.tag(1);
                encode(self, value);
            }
        }
    }

    pub(crate) fn list<T>(&mut self, items: &[T], encode: impl Fn(&mut Self, &T)) {
        self.count(items.len());
        for item in items {
            encode(self, item);
        }
    }

    fn texts(&mut self, texts: &[String]) {
        self.list(texts, |encoder, text| encoder.text(text));
    }

    fn text_map(&mut self, map: &BTreeMap<String, String>) {
        self.count(map.len());
        for (name, value) in map {
            self.text(name);
            self.text(value);
        }
    }

    pub(crate) fn op(&mut self, op: &Op) {
        match op {
            Op::Source(op) => {
                self.tag(1);
                self.source(op);
            }
            Op::Exec(op) => {
                self.tag(2);
                self.exec(op);
            }
            Op::File(FileOp { actions }) => {
                self.tag(3);
                self.list(actions, Self::file_action);
            }
            Op::Merge(MergeOp {}) => self.tag(4),
            Op::Diff(DiffOp {}) => self.tag(5),
        }
    }

    pub(crate) fn platform(&mut self, platform: &Platform) {
        let Platform { os, architecture, variant, os_version } = platform;
        for text in [os, architecture, variant, os_version] {
            self.text(text);
        }
    }

    fn source(&mut self, op: &SourceOp) {
        let SourceOp { identifier, attrs } = op;
        self.text(identifier);
        self.text_map(attrs);
    }

    fn exec(&mut self, op: &ExecOp) {
        let ExecOp { meta, mounts, network, security, secret_env, devices } = op;
        self.exec_meta(meta);
        self.list(mounts, Self::mount);
        self.tag(match network {
            NetworkMode::Sandbox => 0,
            NetworkMode::Host => 1,
            NetworkMode::None => 2,
        });
        self.tag(match security {
            SecurityMode::Sandbox => 0,
            SecurityMode::Insecure => 1,
        });
        self.list(secret_env, |encoder, SecretEnv { id, name, optional }| {
            encoder.text(id);
            encoder.text(name);
            encoder.bool(*optional);
        });
        self.texts(devices);
    }

    fn exec_meta(&mut self, meta: &ExecMeta) {
        let ExecMeta {
            args,
            env,
            cwd,
            user,
            hostname,
            proxy_env,
            extra_hosts,
            ulimits,
            cgroup_parent,
            shm_size_bytes,
            valid_exit_codes,
        } = meta;
        self.texts(args);
        self.texts(env);
        self.text(cwd);
        self.text(user);
        self.text(hostname);
        self.texts(proxy_env);
        self.list(extra_hosts, |encoder, (name, address)| {
            encoder.text(name);
            encoder.text(address);
        });
        self.list(ulimits, |encoder, (name, soft, hard)| {
            encoder.text(name);
            encoder.i64(*soft);
            encoder.i64(*hard);
        });
        self.text(cgroup_parent);
        self.u64(*shm_size_bytes);
        self.data(valid_exit_codes);
    }

    fn mount(&mut self, mount: &Mount) {
        let Mount { input, selector, target, output, readonly, kind } = mount;
        self.option(*input, Self::count);
        self.text(selector);
        self.text(target);
        self.option(*output, Self::u32);
        self.bool(*readonly);
        match kind {
            MountKind::Bind => self.tag(0),
            MountKind::Cache { id, sharing, mode, uid, gid } => {
                self.tag(1);
                self.text(id);
                self.tag(match sharing {
                    CacheSharing::Shared => 0,
                    CacheSharing::Private => 1,
                    CacheSharing::Locked => 2,
                });
                for number in [mode, uid, gid] {
                    self.option(*number, Self::u32);
                }
            }
            MountKind::Tmpfs { size_bytes } => {
                self.tag(2);
                self.u64(*size_bytes);
            }
            MountKind::Secret { id, uid, gid, mode, optional } => {
                self.tag(3);
                self.granted_file(id, [*uid, *gid, *mode], *optional);
            }
            MountKind::Ssh { id, uid, gid, mode, optional } => {
                self.tag(4);
                self.granted_file(id, [*uid, *gid, *mode], *optional);
            }
        }
    }

    /// What secret and SSH mounts have in common: id, then uid, gid and mode, then whether it may be missing.
    fn granted_file(&mut self, id: &str, numbers: [u32; 3], optional: bool) {
        self.text(id);
        numbers.into_iter().for_each(|number| self.u32(number));
        self.bool(optional);
    }

    fn file_action(&mut self, action: &FileAction) {
        let FileAction { base, change } = action;
        self.action_input(*base);
        match change {
            FileChange::Copy(copy) => {
                self.tag(1);
                self.copy(copy);
            }
            FileChange::MkFile { path, mode, data, owner } => {
                self.tag(2);
                self.text(path);
                self.u32(*mode);
                self.data(data);
                self.option(owner.as_ref(), Self::owner);
            }
            FileChange::MkDir { path, mode, make_parents, owner } => {
                self.tag(3);
                self.text(path);
                self.u32(*mode);
                self.bool(*make_parents);
                self.option(owner.as_ref(), Self::owner);
            }
            FileChange::Rm { path, allow_not_found, allow_wildcard } => {
                self.tag(4);
                self.text(path);
                self.bool(*allow_not_found);
                self.bool(*allow_wildcard);
            }
            FileChange::Symlink { path, target, owner } => {
                self.tag(5);
                self.text(path);
                self.text(target);
                self.option(owner.as_ref(), Self::owner);
            }
        }
    }

    fn action_input(&mut self, input: ActionInput) {
        match input {
            ActionInput::Scratch => self.tag(0),
            ActionInput::Input(index) => {
                self.tag(1);
                self.count(index);
            }
            ActionInput::Action(index) => {
                self.tag(2);
                self.count(index);
            }
        }
    }

    pub(crate) fn copy(&mut self, copy: &CopyAction) {
        let CopyAction {
            from,
            src,
            dest,
            owner,
            mode,
            follow_symlinks,
            dir_contents_only,
            unpack_archive,
            create_dest_path,
            allow_wildcard,
            allow_empty_wildcard,
            include,
            exclude,
            parents,
            timestamp_s,
        } = copy;
        self.option(*from, Self::action_input);
        self.text(src);
        self.text(dest);
        self.option(owner.as_ref(), Self::owner);
        self.option(mode.as_ref(), |encoder, mode| match mode {
            Mode::Octal(mode) => {
                encoder.tag(0);
                encoder.u32(*mode);
            }
            Mode::Symbolic(mode) => {
                encoder.tag(1);
                encoder.text(mode);
            }
        });
        for flag in [
            follow_symlinks,
            dir_contents_only,
            unpack_archive,
            create_dest_path,
            allow_wildcard,
            allow_empty_wildcard,
            parents,
        ] {
            self.bool(*flag);
        }
        self.texts(include);
        self.texts(exclude);
        self.option(*timestamp_s, Self::i64);
    }

    fn owner(&mut self, owner: &Owner) {
        let Owner { user, group } = owner;
        self.user(user);
        self.option(group.as_ref(), Self::user);
    }

    fn user(&mut self, user: &UserRef) {
        match user {
            UserRef::Name(name) => {
                self.tag(0);
                self.text(name);
            }
            UserRef::Id(id) => {
                self.tag(1);
                self.u32(*id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::llb::{Metadata, arbitrary};

    fn check(op: Op, inputs: Vec<Edge>, platform: Option<Platform>, digest: Expect) {
        let vertex = Vertex { op, inputs, platform, metadata: Metadata::default() };
        digest.assert_eq(&vertex_digest(&vertex).to_string());
    }

    /// What is stored under these digests stays findable only as long as they stay.
    #[test]
    fn digests_do_not_drift() {
        let edge = Edge { vertex: VertexDigest([7; 32]), output: 1 };
        let amd64 = Platform { os: "linux".into(), architecture: "amd64".into(), ..Platform::default() };
        let attrs = BTreeMap::from([("b".into(), "1".into()), ("a".into(), "2".into())]);
        let source = SourceOp { identifier: "docker-image://busybox".into(), attrs };
        check(
            Op::Source(source),
            vec![],
            Some(amd64.clone()),
            expect!["7932d08afd016486e9bc7266d6eeb6b9227d6fdfebace092fc9024c97c60c63a"],
        );
        let exec = ExecOp {
            meta: ExecMeta {
                args: vec!["/bin/sh".into(), "-c".into(), "make".into()],
                env: vec!["PATH=/bin".into()],
                cwd: "/src".into(),
                user: "me".into(),
                hostname: "h".into(),
                proxy_env: vec!["http_proxy=p".into()],
                extra_hosts: vec![("db".into(), "10.0.0.1".into())],
                ulimits: vec![("nofile".into(), 1, -1)],
                cgroup_parent: "c".into(),
                shm_size_bytes: 64,
                valid_exit_codes: vec![0, 3],
            },
            mounts: vec![
                Mount {
                    input: Some(0),
                    selector: String::new(),
                    target: "/".into(),
                    output: Some(0),
                    readonly: false,
                    kind: MountKind::Bind,
                },
                Mount {
                    input: None,
                    selector: String::new(),
                    target: "/cache".into(),
                    output: None,
                    readonly: false,
                    kind: MountKind::Cache {
                        id: "x".into(),
                        sharing: CacheSharing::Locked,
                        mode: Some(0o755),
                        uid: None,
                        gid: Some(5),
                    },
                },
            ],
            network: NetworkMode::None,
            security: SecurityMode::Insecure,
            secret_env: vec![SecretEnv { id: "s".into(), name: "TOKEN".into(), optional: true }],
            devices: vec!["vendor.com/gpu=0".into()],
        };
        check(
            Op::Exec(exec),
            vec![edge],
            Some(amd64),
            expect!["36a74fd177789282bfbe227f69d1ed55121f59232c2b6f6d0f17a1eb237b0d1b"],
        );
        let copy = CopyAction {
            from: Some(ActionInput::Input(1)),
            src: "/a/b".into(),
            dest: "/c/".into(),
            owner: Some(Owner { user: UserRef::Name("me".into()), group: Some(UserRef::Id(5)) }),
            mode: Some(Mode::Symbolic("u=rwX".into())),
            allow_wildcard: true,
            exclude: vec!["*.o".into()],
            timestamp_s: Some(-1),
            ..CopyAction::default()
        };
        let owner = Some(Owner { user: UserRef::Id(1), group: None });
        let changes = [
            FileChange::Copy(copy),
            FileChange::MkFile { path: "/f".into(), mode: 0o644, data: b"data".into(), owner: owner.clone() },
            FileChange::MkDir { path: "/d".into(), mode: 0o755, make_parents: true, owner: None },
            FileChange::Rm { path: "/r".into(), allow_not_found: true, allow_wildcard: false },
            FileChange::Symlink { path: "/l".into(), target: "f".into(), owner },
        ];
        let actions = changes
            .into_iter()
            .enumerate()
            .map(|(index, change)| FileAction {
                base: if index == 0 { ActionInput::Input(0) } else { ActionInput::Action(index - 1) },
                change,
            })
            .collect();
        check(
            Op::File(FileOp { actions }),
            vec![edge, edge],
            None,
            expect!["c00a963bbdff5436749f1bbba751a7f6b63d1217af3329472215f3f019d9d84b"],
        );
        check(
            Op::Merge(MergeOp {}),
            vec![edge, edge],
            None,
            expect!["3346ece2a528e7782c09e68ec1de698dedf85e1a794e33ec58a6ac44c8216e2b"],
        );
        check(
            Op::Diff(DiffOp {}),
            vec![edge, edge],
            None,
            expect!["9b44d9fb965f42bfa795b1900b08f7b7b0812d24856bef03aebe5fc6837ec93e"],
        );
    }

    #[test]
    fn metadata_is_outside_the_digest() {
        let metadata = Metadata { name: "RUN make".into(), location: Some(1..2), ignore_cache: true };
        let named = Vertex { op: Op::Merge(MergeOp {}), inputs: vec![], platform: None, metadata };
        let bare = Vertex { metadata: Metadata::default(), ..named.clone() };
        assert_eq!(vertex_digest(&named), vertex_digest(&bare));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// The texts of the generator are so few that equal operations and near misses both come up.
        #[test]
        fn only_equal_operations_have_equal_bytes(one in arbitrary::op(), other in arbitrary::op()) {
            prop_assert_eq!(one == other, op_bytes(&one) == op_bytes(&other));
            // No encoding begins another one: what follows an operation cannot be mistaken for part of it.
            prop_assert_eq!(one == other, op_bytes(&one).starts_with(&op_bytes(&other)));
        }

        #[test]
        fn only_equal_vertices_have_equal_digests(one in arbitrary::vertex(), other in arbitrary::vertex()) {
            prop_assert_eq!(one == other, vertex_digest(&one) == vertex_digest(&other));
        }

        /// A pair that differs in one field only, the hardest case.
        #[test]
        fn one_field_makes_a_difference(copy in arbitrary::copy(), other in arbitrary::copy(), field in 0..6u8) {
            let mut changed = copy.clone();
            match field {
                0 => changed.src = other.src,
                1 => changed.dest = other.dest,
                2 => changed.include = other.include,
                3 => changed.exclude = other.exclude,
                4 => changed.owner = other.owner,
                _ => changed.from = other.from,
            }
            let op = |copy: &CopyAction| {
                let change = FileChange::Copy(copy.clone());
                Op::File(FileOp { actions: vec![FileAction { base: ActionInput::Scratch, change }] })
            };
            prop_assert_eq!(copy == changed, op_bytes(&op(&copy)) == op_bytes(&op(&changed)));
        }
    }
}
