//! The table, field by field: every field of every operation is edited alone, and the keys must do what the table says.
//!
//! Every struct is taken apart with all its fields named: a new field that has no case here does not compile.

use proptest::collection::vec;

use super::*;
use crate::explain;
use crate::llb::Edge;

/// What an edit of one field does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// The operation has another key, and so has everything made of it.
    Operation,
    /// The step has another definition key; by content it may still be the same.
    Definition,
    /// It is not in any key.
    Nothing,
}

use Effect::{Definition, Nothing, Operation};

/// Copies of a value with one field taken from another value.
struct Edits<T> {
    edits: Vec<(&'static str, T, Effect)>,
}

impl<T: Clone + PartialEq> Edits<T> {
    fn new() -> Self {
        Self { edits: Vec::new() }
    }

    /// Adds what `change` makes of `one`, if that is something else.
    fn edit(&mut self, field: &'static str, one: &T, effect: Effect, change: impl FnOnce(&mut T)) {
        let mut edited = one.clone();
        change(&mut edited);
        if edited != *one {
            self.edits.push((field, edited, effect));
        }
    }

    /// Adds edits of a part of `one`.
    fn within<U>(&mut self, one: &T, edits: Edits<U>, put: impl Fn(&mut T, U)) {
        for (field, part, effect) in edits.edits {
            let mut edited = one.clone();
            put(&mut edited, part);
            self.edits.push((field, edited, effect));
        }
    }
}

fn exec_edits(one: &ExecOp, other: &ExecOp, inputs: usize) -> Edits<ExecOp> {
    let ExecOp { meta, mounts, network, security, secret_env, devices } = other.clone();
    let mut edits = Edits::new();
    edits.within(one, meta_edits(&one.meta, meta), |exec, meta| exec.meta = meta);
    edits.edit("network", one, Operation, |exec| exec.network = network);
    edits.edit("security", one, Operation, |exec| exec.security = security);
    edits.edit("devices", one, Operation, |exec| exec.devices = devices);
    edits
        .edit("secret_env added", one, Operation, |exec| exec.secret_env.extend(secret_env.first().cloned()));
    if let (Some(first), Some(SecretEnv { id, name, optional })) =
        (one.secret_env.first(), secret_env.first())
    {
        let mut of_secret = Edits::new();
        of_secret.edit("secret_env.id", first, Operation, |secret| secret.id.clone_from(id));
        of_secret.edit("secret_env.name", first, Operation, |secret| secret.name.clone_from(name));
        of_secret.edit("secret_env.optional", first, Operation, |secret| secret.optional = *optional);
        edits.within(one, of_secret, |exec, secret| exec.secret_env[0] = secret);
    }
    edits.edit("mounts added", one, Operation, |exec| exec.mounts.extend(mounts.first().cloned()));
    edits.edit("mounts removed", one, Operation, |exec| drop(exec.mounts.pop()));
    for (index, (mount, other)) in one.mounts.iter().zip(&mounts).enumerate() {
        edits.within(one, mount_edits(mount, other, inputs), |exec, mount| exec.mounts[index] = mount);
    }
    edits
}

fn meta_edits(one: &ExecMeta, other: ExecMeta) -> Edits<ExecMeta> {
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
    } = other;
    let mut edits = Edits::new();
    edits.edit("args", one, Operation, |meta| meta.args = args);
    edits.edit("env", one, Operation, |meta| meta.env = env);
    edits.edit("cwd", one, Operation, |meta| meta.cwd = cwd);
    edits.edit("user", one, Operation, |meta| meta.user = user);
    edits.edit("hostname", one, Operation, |meta| meta.hostname = hostname);
    edits.edit("proxy_env", one, Nothing, |meta| meta.proxy_env = proxy_env);
    edits.edit("ulimits", one, Operation, |meta| meta.ulimits = ulimits);
    edits.edit("cgroup_parent", one, Operation, |meta| meta.cgroup_parent = cgroup_parent);
    edits.edit("shm_size_bytes", one, Operation, |meta| meta.shm_size_bytes = shm_size_bytes);
    edits.edit("valid_exit_codes", one, Operation, |meta| meta.valid_exit_codes = valid_exit_codes);
    if let (Some(_), Some((name, address))) = (one.extra_hosts.first(), extra_hosts.first()) {
        edits.edit("extra_hosts name", one, Operation, |meta| meta.extra_hosts[0].0.clone_from(name));
        edits.edit("extra_hosts address", one, Nothing, |meta| meta.extra_hosts[0].1.clone_from(address));
    }
    edits.edit("extra_hosts added", one, Operation, |meta| meta.extra_hosts.extend(extra_hosts));
    edits
}

fn mount_edits(one: &Mount, other: &Mount, inputs: usize) -> Edits<Mount> {
    let Mount { input, selector, target, output, readonly, kind } = other.clone();
    let mut edits = Edits::new();
    edits.edit("mount.input", one, Operation, |mount| mount.input = input);
    // An input that is not there is an error when it runs; nothing is read of it.
    if one.input.is_none_or(|input| input < inputs) {
        let effect = if one.input.is_some() { Definition } else { Operation };
        edits.edit("mount.selector", one, effect, |mount| mount.selector = selector);
    }
    edits.edit("mount.target", one, Operation, |mount| mount.target = target);
    edits.edit("mount.output", one, Operation, |mount| mount.output = output);
    edits.edit("mount.readonly", one, Operation, |mount| mount.readonly = readonly);
    if std::mem::discriminant(&one.kind) == std::mem::discriminant(&kind) {
        edits.within(one, kind_edits(&one.kind, kind), |mount, kind| mount.kind = kind);
    } else {
        edits.edit("mount.kind", one, Operation, |mount| mount.kind = kind);
    }
    edits
}

fn kind_edits(one: &MountKind, other: MountKind) -> Edits<MountKind> {
    let mut edits = Edits::new();
    match other {
        MountKind::Bind => {}
        MountKind::Cache { id: new_id, sharing: new_sharing, mode: new_mode, uid: new_uid, gid: new_gid } => {
            let mut edit = |field, effect, change: &dyn Fn(&mut MountKind)| {
                edits.edit(field, one, effect, change);
            };
            edit("cache.id", Nothing, &|kind| {
                if let MountKind::Cache { id, .. } = kind {
                    id.clone_from(&new_id);
                }
            });
            edit("cache.sharing", Nothing, &|kind| {
                if let MountKind::Cache { sharing, .. } = kind {
                    *sharing = new_sharing;
                }
            });
            edit("cache.mode", Operation, &|kind| {
                if let MountKind::Cache { mode, .. } = kind {
                    *mode = new_mode;
                }
            });
            edit("cache.uid", Operation, &|kind| {
                if let MountKind::Cache { uid, .. } = kind {
                    *uid = new_uid;
                }
            });
            edit("cache.gid", Operation, &|kind| {
                if let MountKind::Cache { gid, .. } = kind {
                    *gid = new_gid;
                }
            });
        }
        MountKind::Tmpfs { size_bytes } => {
            edits.edit("tmpfs.size", one, Operation, |kind| *kind = MountKind::Tmpfs { size_bytes });
        }
        MountKind::Secret { id, uid, gid, mode, optional }
        | MountKind::Ssh { id, uid, gid, mode, optional } => {
            let mut edit = |field, number: usize| {
                edits.edit(field, one, Operation, |kind| {
                    let (MountKind::Secret { id: i, uid: u, gid: g, mode: m, optional: o }
                    | MountKind::Ssh { id: i, uid: u, gid: g, mode: m, optional: o }) = kind
                    else {
                        return;
                    };
                    match number {
                        0 => i.clone_from(&id),
                        1 => *u = uid,
                        2 => *g = gid,
                        3 => *m = mode,
                        _ => *o = optional,
                    }
                });
            };
            for (number, field) in ["id", "uid", "gid", "mode", "optional"].into_iter().enumerate() {
                edit(field, number);
            }
        }
    }
    edits
}

fn file_edits(one: &FileOp, other: &FileOp, inputs: usize) -> Edits<FileOp> {
    let FileOp { actions } = other;
    let mut edits = Edits::new();
    edits.edit("actions added", one, Operation, |file| file.actions.extend(actions.first().cloned()));
    edits.edit("actions removed", one, Operation, |file| drop(file.actions.pop()));
    for (index, (action, FileAction { base, change })) in one.actions.iter().zip(actions).enumerate() {
        edits.edit("base", one, Operation, |file| file.actions[index].base = *base);
        if std::mem::discriminant(&action.change) == std::mem::discriminant(change) {
            edits.within(one, change_edits(&action.change, change, inputs), |file, change| {
                file.actions[index].change = change;
            });
        } else {
            edits.edit("change", one, Operation, |file| file.actions[index].change = change.clone());
        }
    }
    edits
}

fn change_edits(one: &FileChange, other: &FileChange, inputs: usize) -> Edits<FileChange> {
    let mut edits = Edits::new();
    match (one, other.clone()) {
        (FileChange::Copy(copy), FileChange::Copy(other)) => {
            edits.within(one, copy_edits(copy, other, inputs), |change, copy| {
                *change = FileChange::Copy(copy)
            });
        }
        (
            FileChange::MkFile { path, mode, data, owner },
            FileChange::MkFile { path: path2, mode: mode2, data: data2, owner: owner2 },
        ) => {
            let make = |path: &str, mode: &u32, data: &[u8], owner: &Option<Owner>| FileChange::MkFile {
                path: path.into(),
                mode: *mode,
                data: data.into(),
                owner: owner.clone(),
            };
            edits.edit("mkfile.path", one, Operation, |it| *it = make(&path2, mode, data, owner));
            edits.edit("mkfile.mode", one, Operation, |it| *it = make(path, &mode2, data, owner));
            edits.edit("mkfile.data", one, Operation, |it| *it = make(path, mode, &data2, owner));
            edits.edit("mkfile.owner", one, Operation, |it| *it = make(path, mode, data, &owner2));
        }
        (
            FileChange::MkDir { path, mode, make_parents, owner },
            FileChange::MkDir { path: path2, mode: mode2, make_parents: parents2, owner: owner2 },
        ) => {
            let make = |path: &str, mode: &u32, parents: &bool, owner: &Option<Owner>| FileChange::MkDir {
                path: path.into(),
                mode: *mode,
                make_parents: *parents,
                owner: owner.clone(),
            };
            edits.edit("mkdir.path", one, Operation, |it| *it = make(&path2, mode, make_parents, owner));
            edits.edit("mkdir.mode", one, Operation, |it| *it = make(path, &mode2, make_parents, owner));
            edits.edit("mkdir.parents", one, Operation, |it| *it = make(path, mode, &parents2, owner));
            edits.edit("mkdir.owner", one, Operation, |it| *it = make(path, mode, make_parents, &owner2));
        }
        (
            FileChange::Rm { path, allow_not_found, allow_wildcard },
            FileChange::Rm { path: path2, allow_not_found: not_found2, allow_wildcard: wildcard2 },
        ) => {
            let make = |path: &str, allow_not_found: bool, allow_wildcard: bool| FileChange::Rm {
                path: path.into(),
                allow_not_found,
                allow_wildcard,
            };
            edits.edit("rm.path", one, Operation, |it| *it = make(&path2, *allow_not_found, *allow_wildcard));
            edits.edit("rm.not_found", one, Operation, |it| *it = make(path, not_found2, *allow_wildcard));
            edits.edit("rm.wildcard", one, Operation, |it| *it = make(path, *allow_not_found, wildcard2));
        }
        (
            FileChange::Symlink { path, target, owner },
            FileChange::Symlink { path: path2, target: target2, owner: owner2 },
        ) => {
            let make = |path: &str, target: &str, owner: &Option<Owner>| FileChange::Symlink {
                path: path.into(),
                target: target.into(),
                owner: owner.clone(),
            };
            edits.edit("symlink.path", one, Operation, |it| *it = make(&path2, target, owner));
            edits.edit("symlink.target", one, Operation, |it| *it = make(path, &target2, owner));
            edits.edit("symlink.owner", one, Operation, |it| *it = make(path, target, &owner2));
        }
        _ => unreachable!("called with changes of one kind"),
    }
    edits
}

fn copy_edits(one: &CopyAction, other: CopyAction, inputs: usize) -> Edits<CopyAction> {
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
    } = other;
    let mut edits = Edits::new();
    edits.edit("copy.from", one, Operation, |copy| copy.from = from);
    let selected = matches!(one.from, Some(ActionInput::Input(_))) && !one.parents;
    if !selected || matches!(one.from, Some(ActionInput::Input(input)) if input < inputs) {
        edits.edit("copy.src", one, if selected { Definition } else { Operation }, |copy| copy.src = src);
    }
    edits.edit("copy.dest", one, Operation, |copy| copy.dest = dest);
    edits.edit("copy.owner", one, Operation, |copy| copy.owner = owner);
    edits.edit("copy.mode", one, Operation, |copy| copy.mode = mode);
    edits.edit("copy.follow", one, Operation, |copy| copy.follow_symlinks = follow_symlinks);
    edits.edit("copy.contents", one, Operation, |copy| copy.dir_contents_only = dir_contents_only);
    edits.edit("copy.unpack", one, Operation, |copy| copy.unpack_archive = unpack_archive);
    edits.edit("copy.create", one, Operation, |copy| copy.create_dest_path = create_dest_path);
    edits.edit("copy.wildcard", one, Operation, |copy| copy.allow_wildcard = allow_wildcard);
    edits.edit("copy.empty", one, Operation, |copy| copy.allow_empty_wildcard = allow_empty_wildcard);
    edits.edit("copy.include", one, Operation, |copy| copy.include = include);
    edits.edit("copy.exclude", one, Operation, |copy| copy.exclude = exclude);
    edits.edit("copy.parents", one, Operation, |copy| copy.parents = parents);
    edits.edit("copy.timestamp", one, Operation, |copy| copy.timestamp_s = timestamp_s);
    edits
}

fn source_edits(one: &SourceOp, other: &SourceOp) -> Edits<SourceOp> {
    let SourceOp { identifier, attrs } = other;
    let mut edits = Edits::new();
    let image = is_image(one);
    if one.scheme() == other.scheme() {
        // An image that is not pinned has its name.
        let effect = if image { Operation } else { Nothing };
        edits.edit("identifier", one, effect, |source| source.identifier.clone_from(identifier));
    }
    let named = attrs.keys().map(|name| &**name);
    for name in named.chain(["image.resolvemode", "image.layerlimit", "http.checksum", "oci.store"]) {
        let effect = match (one.scheme(), name) {
            ("git" | "local", _) | ("https", "http.checksum") => Nothing,
            ("docker-image", "image.resolvemode" | "oci.store") => Nothing,
            _ => Operation,
        };
        edits.edit("attribute", one, effect, |source| {
            source.attrs.insert(name.to_owned(), "an edit".to_owned());
        });
    }
    edits
}

fn platform_edits(op: &Op, one: &Platform, other: &Platform) -> Edits<Platform> {
    let Platform { os, architecture, variant, os_version } = other.clone();
    let (seen, chosen) = match op {
        Op::Exec(_) => (Operation, Nothing),
        Op::Source(source) if is_image(source) => (Operation, Operation),
        _ => (Nothing, Nothing),
    };
    let mut edits = Edits::new();
    edits.edit("platform.os", one, seen, |platform| platform.os = os);
    edits.edit("platform.architecture", one, seen, |platform| platform.architecture = architecture);
    edits.edit("platform.variant", one, seen, |platform| platform.variant = variant);
    edits.edit("platform.os_version", one, chosen, |platform| platform.os_version = os_version);
    edits
}

fn vertex_edits(one: &Vertex, other: &Vertex) -> Edits<Vertex> {
    let Vertex { op, inputs, platform, metadata } = other;
    let count = one.inputs.len();
    let mut edits = Edits::new();
    match (&one.op, op) {
        (Op::Exec(exec), Op::Exec(other)) => {
            edits.within(one, exec_edits(exec, other, count), |vertex, exec| vertex.op = Op::Exec(exec));
        }
        (Op::File(file), Op::File(other)) => {
            edits.within(one, file_edits(file, other, count), |vertex, file| vertex.op = Op::File(file));
        }
        (Op::Source(source), Op::Source(other)) => {
            edits.within(one, source_edits(source, other), |vertex, source| vertex.op = Op::Source(source));
        }
        (Op::Merge(_), Op::Merge(_)) | (Op::Diff(_), Op::Diff(_)) => {}
        _ => edits.edit("op", one, Operation, |vertex| vertex.op = op.clone()),
    }
    if let (Some(platform), Some(other)) = (&one.platform, platform) {
        edits.within(one, platform_edits(&one.op, platform, other), |vertex, platform| {
            vertex.platform = Some(platform);
        });
    }
    edits.edit("inputs", one, Definition, |vertex| vertex.inputs.clone_from(inputs));
    edits.edit("metadata", one, Nothing, |vertex| {
        vertex.metadata = Metadata { name: "renamed".into(), location: Some(1..2), ..metadata.clone() };
    });
    edits.edit("ignore_cache", one, Nothing, |vertex| vertex.metadata.ignore_cache ^= true);
    edits
}

/// The definition key over inputs whose keys are as different as the edges.
fn definition_key(vertex: &Vertex) -> Key {
    let inputs: Vec<InputKey> = vertex
        .inputs
        .iter()
        .zip(reads(vertex))
        .map(|(Edge { vertex, output }, reads)| InputKey::Definition {
            key: Key(vertex.0),
            output: *output,
            reads: reads_key(&reads),
        })
        .collect();
    key(&op_key(vertex), &inputs)
}

/// Two vertices of one kind, as often as of two.
fn pair() -> impl Strategy<Value = (Vertex, Vertex)> {
    let vertices = vec(arbitrary::vertex(), 2);
    (vertices, prop_oneof![arbitrary::exec_pair(), arbitrary::file_pair(), arbitrary::op_pair()]).prop_map(
        |(mut vertices, (one, other))| {
            vertices[0].op = one;
            vertices[1].op = other;
            let other = vertices.pop().expect("there are two");
            (vertices.pop().expect("there are two"), other)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, max_shrink_iters: 5000, ..ProptestConfig::default() })]

    /// Some 100,000 edits.
    #[test]
    fn every_field_does_to_the_keys_what_the_table_says((one, other) in pair()) {
        for (field, edited, effect) in vertex_edits(&one, &other).edits {
            let same_op = op_key(&one) == op_key(&edited);
            let same_definition = definition_key(&one) == definition_key(&edited);
            match effect {
                Operation => prop_assert!(!same_op && !same_definition, "{} is not in the key", field),
                Definition => prop_assert!(!same_definition, "{} is not in the definition key", field),
                Nothing => prop_assert!(same_op && same_definition, "{} is in a key", field),
            }
            let same_parts = explain::op_parts(&one) == explain::op_parts(&edited);
            prop_assert_eq!(same_parts, same_op, "the text of {} says otherwise than the key", field);
        }
    }

    /// What is shown of an operation is equal exactly when its key is; of a selection too.
    #[test]
    fn parts_are_equal_exactly_when_keys_are((one, other) in pair()) {
        let same_parts = explain::op_parts(&one) == explain::op_parts(&other);
        prop_assert_eq!(same_parts, op_key(&one) == op_key(&other));
        for (one, other) in reads(&one).iter().flatten().zip(reads(&other).iter().flatten()) {
            prop_assert_eq!(one == other, explain::reads_text(one) == explain::reads_text(other));
            let keys = [one, other].map(|read| reads_key(std::slice::from_ref(read)));
            prop_assert_eq!(one == other, keys[0] == keys[1]);
        }
    }

    /// What the table leaves out may differ in any way at once.
    #[test]
    fn equal_inputs_always_share(one in arbitrary::vertex(), other in arbitrary::vertex()) {
        let mut same = one.clone();
        same.metadata = other.metadata.clone();
        if let Op::Exec(exec) = &mut same.op {
            exec.meta.proxy_env = vec!["http_proxy=p".into()];
            for (number, (_, address)) in exec.meta.extra_hosts.iter_mut().enumerate() {
                *address = number.to_string();
            }
            for mount in &mut exec.mounts {
                if let MountKind::Cache { id, sharing, .. } = &mut mount.kind {
                    (*id, *sharing) = ("another".into(), CacheSharing::Locked);
                }
            }
            if let Some(platform) = &mut same.platform {
                platform.os_version = "10".into();
            }
        }
        if let Op::File(_) = &same.op {
            same.platform = other.platform.clone();
        }
        prop_assert_eq!(op_key(&one), op_key(&same));
        prop_assert_eq!(definition_key(&one), definition_key(&same));
    }
}
