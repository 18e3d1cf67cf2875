//! The graph: vertices that are content-addressed operations, edges that are their outputs.
//!
//! Field for field an [`Op`] can carry what BuildKit's LLB can. [`encode`] gives the one canonical byte encoding.

#[cfg(test)]
pub(crate) mod arbitrary;
pub mod encode;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;

/// BLAKE3 digest of a vertex's canonical encoding, inputs included: its identity in the graph.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexDigest(pub [u8; 32]);

impl fmt::Display for VertexDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for VertexDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One output of a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// The vertex.
    pub vertex: VertexDigest,
    /// Which of its outputs; 0 for all but multi-output ops.
    pub output: u32,
}

/// An operation and where its inputs come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vertex {
    /// What to do.
    pub op: Op,
    /// Outputs of other vertices it reads; ops name them by index into this list.
    pub inputs: Vec<Edge>,
    /// The platform it runs for, where that matters (sources of images, exec).
    pub platform: Option<Platform>,
    /// What is said about it; outside the digest.
    pub metadata: Metadata,
}

/// Things about a vertex that change neither its result nor its digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Display name, `[build 2/5] RUN make`.
    pub name: String,
    /// Byte range of the instruction in the Dockerfile it came from.
    pub location: Option<Range<usize>>,
    /// Do not look in the cache (`--no-cache`).
    pub ignore_cache: bool,
}

/// Operating system and processor (OCI image-spec, image-index.md#platform-object).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7` of `arm`; empty where there is none.
    pub variant: String,
    /// `os.version`; empty where there is none.
    pub os_version: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// The operations.
#[expect(clippy::large_enum_variant, reason = "most vertices of a graph are the largest variant, Exec")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Files from outside the graph.
    Source(SourceOp),
    /// A process.
    Exec(ExecOp),
    /// Changes to files without a process.
    File(FileOp),
    /// Inputs stacked on one another.
    Merge(MergeOp),
    /// What the upper input has over the lower one.
    Diff(DiffOp),
}

/// Files from outside the graph, named by a URL-like identifier:
/// `docker-image://docker.io/library/busybox:latest@sha256:…`, `oci-layout://NAME[:TAG]@sha256:…`, `local://NAME`,
/// `git://…`, `https://…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOp {
    /// Scheme and name.
    pub identifier: String,
    /// Attributes, named as in BuildKit (`local.includepattern`, `local.excludepatterns` as JSON lists, …).
    pub attrs: BTreeMap<String, String>,
}

impl SourceOp {
    /// The scheme before `://`.
    pub fn scheme(&self) -> &str {
        self.identifier.split_once("://").map_or("", |(scheme, _)| scheme)
    }

    /// What follows `://`.
    pub fn name(&self) -> &str {
        self.identifier.split_once("://").map_or(&*self.identifier, |(_, name)| name)
    }

    /// Whether this is a local directory: it has no key of its own, only the content that is read from it.
    pub fn is_local(&self) -> bool {
        self.scheme() == "local"
    }

    /// The digest an image or layout identifier is pinned to.
    pub fn pinned_digest(&self) -> Option<&str> {
        self.identifier.rsplit_once('@').map(|(_, digest)| digest)
    }
}

/// A process run on a root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOp {
    /// The process.
    pub meta: ExecMeta,
    /// What is mounted where; the mount with target `/` is the root. Outputs are those of the mounts that have one.
    pub mounts: Vec<Mount>,
    /// Its network.
    pub network: NetworkMode,
    /// Its security mode.
    pub security: SecurityMode,
    /// Secrets given as variables.
    pub secret_env: Vec<SecretEnv>,
    /// CDI devices.
    pub devices: Vec<String>,
}

/// The process of an [`ExecOp`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecMeta {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `K=V`, in order.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub cwd: String,
    /// `USER` as written; empty is root.
    pub user: String,
    /// Host name; empty is the default.
    pub hostname: String,
    /// Proxy variables for the process, `K=V`; never in a key.
    pub proxy_env: Vec<String>,
    /// Further `/etc/hosts` lines: name and address. Only the names are in the key.
    pub extra_hosts: Vec<(String, String)>,
    /// Resource limits: name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
    /// Parent cgroup.
    pub cgroup_parent: String,
    /// Size of /dev/shm in bytes; 0 is the default.
    pub shm_size_bytes: u64,
    /// Exit statuses that count as success; empty means 0.
    pub valid_exit_codes: Vec<u8>,
}

/// A mount of an [`ExecOp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Index into the vertex's inputs; `None` is an empty file system.
    pub input: Option<usize>,
    /// Sub-path of the input.
    pub selector: String,
    /// Absolute path in the container.
    pub target: String,
    /// Number of the output that holds what the process wrote here, if that is kept.
    pub output: Option<u32>,
    /// Whether writing is refused.
    pub readonly: bool,
    /// The kind and its options.
    pub kind: MountKind,
}

/// Kinds of mount (`RUN --mount=type=…`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the input.
    Bind,
    /// A directory that stays between builds.
    Cache {
        /// Which.
        id: String,
        /// How concurrent steps share it.
        sharing: CacheSharing,
        /// Permission bits.
        mode: Option<u32>,
        /// Owner.
        uid: Option<u32>,
        /// Group.
        gid: Option<u32>,
    },
    /// A fresh memory file system of at most this many bytes (0: unlimited).
    Tmpfs {
        /// Most bytes it may hold.
        size_bytes: u64,
    },
    /// A secret as a file.
    Secret {
        /// Which.
        id: String,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Permission bits.
        mode: u32,
        /// Whether it may be missing.
        optional: bool,
    },
    /// An SSH agent socket.
    Ssh {
        /// Which.
        id: String,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Permission bits.
        mode: u32,
        /// Whether it may be missing.
        optional: bool,
    },
}

/// How concurrent steps share a cache mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheSharing {
    /// All at once.
    #[default]
    Shared,
    /// A new one for each concurrent writer.
    Private,
    /// One after the other.
    Locked,
}

/// A secret given as an environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretEnv {
    /// Secret id.
    pub id: String,
    /// Variable.
    pub name: String,
    /// Whether it may be missing.
    pub optional: bool,
}

/// `RUN --network`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// The build's own.
    #[default]
    Sandbox,
    /// The host's.
    Host,
    /// Loopback only.
    None,
}

/// `RUN --security`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SecurityMode {
    /// Default capabilities and filters.
    #[default]
    Sandbox,
    /// All of them.
    Insecure,
}

/// Changes to files: actions done in order, later ones on the results of earlier ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileOp {
    /// The actions. The last action's result is output 0.
    pub actions: Vec<FileAction>,
}

/// Where an action starts from or reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActionInput {
    /// An empty file system.
    Scratch,
    /// Input `n` of the vertex.
    Input(usize),
    /// The result of action `n`.
    Action(usize),
}

/// One change of a [`FileOp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileAction {
    /// The file system that is changed.
    pub base: ActionInput,
    /// The change.
    pub change: FileChange,
}

/// Kinds of change. Paths are absolute, `/`-separated, in the changed file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileChange {
    /// Copies from another file system (COPY, ADD).
    Copy(CopyAction),
    /// Makes a file with this content (COPY and ADD heredocs).
    MkFile {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Content.
        data: Vec<u8>,
        /// Who owns it; `None` is root.
        owner: Option<Owner>,
    },
    /// Makes a directory; existing ones are left as they are (WORKDIR).
    MkDir {
        /// Where.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Make the directories above it.
        make_parents: bool,
        /// Who owns it; `None` is root.
        owner: Option<Owner>,
    },
    /// Removes a path.
    Rm {
        /// Where.
        path: String,
        /// Nothing there is no error.
        allow_not_found: bool,
        /// `path` may hold wildcards.
        allow_wildcard: bool,
    },
    /// Makes a symlink.
    Symlink {
        /// Where.
        path: String,
        /// What it points to.
        target: String,
        /// Who owns it; `None` is root.
        owner: Option<Owner>,
    },
}

/// A copy, with the options of BuildKit's `FileActionCopy`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyAction {
    /// File system that is read.
    pub from: Option<ActionInput>,
    /// Path or pattern in it.
    pub src: String,
    /// Path in the changed file system; a trailing slash means a directory.
    pub dest: String,
    /// Who owns the copies; `None` keeps the source's owner (root for a build context).
    pub owner: Option<Owner>,
    /// Mode of the copies.
    pub mode: Option<Mode>,
    /// Follow a symlink named by `src`.
    pub follow_symlinks: bool,
    /// A directory's contents are copied, not the directory.
    pub dir_contents_only: bool,
    /// Unpack `src` if it is an archive (ADD).
    pub unpack_archive: bool,
    /// Make the directories above `dest`.
    pub create_dest_path: bool,
    /// `src` may hold wildcards.
    pub allow_wildcard: bool,
    /// A wildcard may match nothing.
    pub allow_empty_wildcard: bool,
    /// Patterns of paths to copy, relative to the copied root; empty is everything.
    pub include: Vec<String>,
    /// Patterns of paths to leave out (`--exclude`).
    pub exclude: Vec<String>,
    /// Keep the directory structure of `src` (`--parents`).
    pub parents: bool,
    /// Time of the copies, seconds since the epoch; `None` keeps theirs.
    pub timestamp_s: Option<i64>,
}

/// `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Octal.
    Octal(u32),
    /// Symbolic, `u=rwX,go=rX`.
    Symbolic(String),
}

/// `--chown`: names are looked up in the changed file system's passwd and group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub user: UserRef,
    /// Group; `None`: the user's primary group for a name, the same number for a number.
    pub group: Option<UserRef>,
}

/// A user or group by name or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserRef {
    /// By name.
    Name(String),
    /// By number.
    Id(u32),
}

/// Inputs stacked on one another, all of the vertex's inputs in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergeOp {}

/// What the upper input (1) has over the lower one (0).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiffOp {}

/// A graph under construction or complete: vertices in an order in which inputs come first, each digest once.
#[derive(Debug, Clone, Default)]
pub struct Definition {
    order: Vec<VertexDigest>,
    vertices: HashMap<VertexDigest, Vertex>,
}

impl Definition {
    /// Adds a vertex whose inputs are already there and returns output 0 of it; an equal vertex is kept once.
    ///
    /// # Panics
    /// If an input is not in the definition: edges come from earlier `add`s.
    pub fn add(&mut self, vertex: Vertex) -> Edge {
        for input in &vertex.inputs {
            assert!(self.vertices.contains_key(&input.vertex), "input {} was never added", input.vertex);
        }
        let digest = encode::vertex_digest(&vertex);
        if !self.vertices.contains_key(&digest) {
            self.order.push(digest);
            self.vertices.insert(digest, vertex);
        }
        Edge { vertex: digest, output: 0 }
    }

    /// Adds the vertices of `other`. Of equal ones the first stays, with what is said about it.
    pub fn extend(&mut self, other: &Self) {
        for (digest, vertex) in other.iter() {
            if !self.vertices.contains_key(digest) {
                self.order.push(*digest);
                self.vertices.insert(*digest, vertex.clone());
            }
        }
    }

    /// The vertex with this digest.
    ///
    /// # Panics
    /// If it is not in the definition.
    pub fn vertex(&self, digest: &VertexDigest) -> &Vertex {
        &self.vertices[digest]
    }

    /// All vertices, inputs before the vertices that read them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&VertexDigest, &Vertex)> {
        self.order.iter().map(|digest| (digest, &self.vertices[digest]))
    }

    /// Number of vertices.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}
