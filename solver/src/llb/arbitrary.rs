//! Random operations for tests. Texts come from a few short ones that are prefixes and suffixes of one another, so that
//! values that differ only in where one field ends are frequent.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "a", "b", "aa", "ab", "a\0", "\u{1}\0"]).prop_map(str::to_owned)
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..3)
}

fn source() -> impl Strategy<Value = Op> {
    let scheme = prop::sample::select(vec!["docker-image", "git", "https", "local"]);
    let attrs = prop::collection::btree_map(text(), text(), 0..3);
    (scheme, text(), attrs).prop_map(|(scheme, name, attrs)| {
        Op::Source(SourceOp { identifier: format!("{scheme}://{name}"), attrs })
    })
}

fn mount_kind() -> impl Strategy<Value = MountKind> {
    let sharing =
        prop::sample::select(vec![CacheSharing::Shared, CacheSharing::Private, CacheSharing::Locked]);
    let granted = (text(), 0..2u32, 0..2u32, 0..2u32, any::<bool>(), any::<bool>());
    prop_oneof![
        Just(MountKind::Bind),
        (text(), sharing, option::of(0..2u32), option::of(0..2u32), option::of(0..2u32))
            .prop_map(|(id, sharing, mode, uid, gid)| MountKind::Cache { id, sharing, mode, uid, gid }),
        (0..2u64).prop_map(|size_bytes| MountKind::Tmpfs { size_bytes }),
        granted.prop_map(|(id, uid, gid, mode, optional, secret)| match secret {
            true => MountKind::Secret { id, uid, gid, mode, optional },
            false => MountKind::Ssh { id, uid, gid, mode, optional },
        }),
    ]
}

fn mount() -> impl Strategy<Value = Mount> {
    let target = prop_oneof![1 => Just("/".to_owned()), 3 => text()];
    (option::of(0..2usize), text(), target, option::of(0..2u32), any::<bool>(), mount_kind()).prop_map(
        |(input, selector, target, output, readonly, kind)| Mount {
            input,
            selector,
            target,
            output,
            readonly,
            kind,
        },
    )
}

fn exec() -> impl Strategy<Value = Op> {
    let names = (text(), text(), text(), text());
    let lists = (texts(), texts(), texts(), vec((text(), text()), 0..2), texts());
    let limits = (vec((text(), 0..2i64, -1..1i64), 0..2), 0..2u64, vec(0..2u8, 0..2));
    let secrets = vec(
        (text(), text(), any::<bool>()).prop_map(|(id, name, optional)| SecretEnv { id, name, optional }),
        0..2,
    );
    let network = prop::sample::select(vec![NetworkMode::Sandbox, NetworkMode::Host, NetworkMode::None]);
    let security = prop::sample::select(vec![SecurityMode::Sandbox, SecurityMode::Insecure]);
    (names, lists, limits, vec(mount(), 0..5), secrets, network, security).prop_map(
        |(
            (cwd, user, hostname, cgroup_parent),
            (args, env, proxy_env, extra_hosts, devices),
            (ulimits, shm_size_bytes, valid_exit_codes),
            mounts,
            secret_env,
            network,
            security,
        )| {
            Op::Exec(ExecOp {
                meta: ExecMeta {
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
                },
                mounts,
                network,
                security,
                secret_env,
                devices,
            })
        },
    )
}

fn user() -> impl Strategy<Value = UserRef> {
    prop_oneof![text().prop_map(UserRef::Name), (0..2u32).prop_map(UserRef::Id)]
}

fn owner() -> impl Strategy<Value = Option<Owner>> {
    option::of((user(), option::of(user())).prop_map(|(user, group)| Owner { user, group }))
}

fn action_input() -> impl Strategy<Value = ActionInput> {
    prop_oneof![
        Just(ActionInput::Scratch),
        (0..2usize).prop_map(ActionInput::Input),
        (0..2usize).prop_map(ActionInput::Action),
    ]
}

pub(crate) fn copy() -> impl Strategy<Value = CopyAction> {
    let mode = option::of(prop_oneof![(0..2u32).prop_map(Mode::Octal), text().prop_map(Mode::Symbolic)]);
    let places = (option::of(action_input()), text(), text(), owner(), mode);
    (places, any::<[bool; 7]>(), texts(), texts(), option::of(-1..1i64)).prop_map(
        |((from, src, dest, owner, mode), flags, include, exclude, timestamp_s)| CopyAction {
            from,
            src,
            dest,
            owner,
            mode,
            follow_symlinks: flags[0],
            dir_contents_only: flags[1],
            unpack_archive: flags[2],
            create_dest_path: flags[3],
            allow_wildcard: flags[4],
            allow_empty_wildcard: flags[5],
            parents: flags[6],
            include,
            exclude,
            timestamp_s,
        },
    )
}

fn change() -> impl Strategy<Value = FileChange> {
    prop_oneof![
        copy().prop_map(FileChange::Copy),
        (text(), 0..2u32, text(), owner()).prop_map(|(path, mode, data, owner)| FileChange::MkFile {
            path,
            mode,
            data: data.into_bytes(),
            owner,
        }),
        (text(), 0..2u32, any::<bool>(), owner()).prop_map(|(path, mode, make_parents, owner)| {
            FileChange::MkDir { path, mode, make_parents, owner }
        }),
        (text(), any::<bool>(), any::<bool>()).prop_map(|(path, allow_not_found, allow_wildcard)| {
            FileChange::Rm { path, allow_not_found, allow_wildcard }
        }),
        (text(), text(), owner()).prop_map(|(path, target, owner)| FileChange::Symlink {
            path,
            target,
            owner
        }),
    ]
}

/// An operation of any kind.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    let action = (action_input(), change()).prop_map(|(base, change)| FileAction { base, change });
    prop_oneof![
        2 => source(),
        4 => exec(),
        4 => vec(action, 0..3).prop_map(|actions| Op::File(FileOp { actions })),
        1 => Just(Op::Merge(MergeOp {})),
        1 => Just(Op::Diff(DiffOp {})),
    ]
}

/// Two processes.
pub(crate) fn exec_pair() -> impl Strategy<Value = (Op, Op)> {
    (exec(), exec())
}

/// Two file operations.
pub(crate) fn file_pair() -> impl Strategy<Value = (Op, Op)> {
    let file = || {
        let action = (action_input(), change()).prop_map(|(base, change)| FileAction { base, change });
        vec(action, 1..3).prop_map(|actions| Op::File(FileOp { actions }))
    };
    (file(), file())
}

/// Two operations of any kind.
pub(crate) fn op_pair() -> impl Strategy<Value = (Op, Op)> {
    (op(), op())
}

/// A vertex of any kind, over two imagined inputs.
pub(crate) fn vertex() -> impl Strategy<Value = Vertex> {
    let edge =
        (0..2u8, 0..2u32).prop_map(|(vertex, output)| Edge { vertex: VertexDigest([vertex; 32]), output });
    let platform = (text(), text(), text(), text()).prop_map(|(os, architecture, variant, os_version)| {
        Platform { os, architecture, variant, os_version }
    });
    (op(), vec(edge, 0..3), option::of(platform)).prop_map(|(op, inputs, platform)| Vertex {
        op,
        inputs,
        platform,
        metadata: Metadata::default(),
    })
}
