//! What enters a key, and what does not.
//!
//! A vertex has two keys, both made by [`key`] from its [`op_key`] and one part for each input. The *definition key*
//! names an input by the input's own definition key, the output and the selection that is read ([`reads`]); the
//! *content key* names it by the content digest of that selection. A local directory has no definition key: it enters
//! both by content. A source from the network that is no image has one key, of its operation and of what it was pinned to.
//!
//! | value | Exec | File | Source | left out because |
//! |---|---|---|---|---|
//! | arguments, environment, working directory, user, host name | yes | | | |
//! | limits the process can see (ulimits, cgroup parent, /dev/shm size) | yes | | | |
//! | accepted exit statuses, network and security mode, devices | yes | | | |
//! | names of extra hosts | yes | | | |
//! | addresses of extra hosts | no | | | they say where a service runs today, not what is built |
//! | proxy variables | no | | | they belong to the place the build runs in |
//! | cpu and memory limits | no | | | not part of an op at all; they change how long a step takes |
//! | mounts: target, kind, read-only, output, owner and mode | yes | | | |
//! | cache mounts: id, sharing | no | | | which cache and who shares it must not change the result |
//! | cache mounts: contents | no | | | a cache only makes a step faster |
//! | secrets and SSH: ids, paths, modes, variables | yes | | | |
//! | secrets and SSH: values, agents | no | | | a rotated token is no new build, and keys must not hold secrets |
//! | bind mounts: source path | by selection | | | the files count; the definition key holds the path as selection |
//! | platform | os, architecture, variant | no | of images | files are the same on every platform |
//! | copy: `src` | | last component | | the directory is not visible in the result; the selection holds it |
//! | copy: `src` of `--parents`, or read from another action | | yes | | the path shows in the result, or no selection does |
//! | copy: destination, owner, mode, flags, patterns, timestamp | | yes | | |
//! | mkfile, mkdir, rm, symlink: everything | | yes | | |
//! | base of a file operation | | by selection | | all of it, through the input |
//! | image: manifest digest, layer limit | | | yes | |
//! | image: registry, repository, tag, layout name | | | no | the digest says it all (an image that is not pinned has its name) |
//! | image: resolve mode, record type, checksum, session, store | | | no | they say how to find or check it |
//! | git and http: what the source was pinned to | | | yes, as content | |
//! | git: everything else | | | no | the pin holds the commit and what of it is wanted |
//! | http: file name, mode, owner, headers, auth secret | | | yes | |
//! | http: address, checksum | | | no | the pin says what the bytes are |
//! | local: name, patterns, session | | | no | only the content that is read counts |
//! | Merge and Diff | | | | nothing of their own: their inputs are the key |
//! | file times | no | no | no | they differ between two checkouts of one commit |
//! | display name, location, `ignore_cache` | no | no | no | metadata |

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use wharf_cache::{ContentDigest, Digest, Key};

use crate::llb::encode::{Encoder, Kind};
use crate::llb::{
    ActionInput, CopyAction, ExecOp, FileChange, FileOp, Mount, MountKind, Op, Platform, SourceOp, Vertex,
};

/// What a vertex reads from one of its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// The whole file system (the base of RUN and COPY).
    Whole,
    /// What these copies select (COPY's sources).
    ///
    /// The content digest must not depend on *where* the selected files are in the input, because the op's key holds
    /// only the last component of `src`. Hash for each copy, in order and framed, every match in the order in which
    /// they are copied:
    /// - a directory whose contents are copied (`dir_contents_only`): its entries by their path relative to it, itself
    ///   under the empty path;
    /// - anything else: under its own last component, entries below a directory by that component and their relative
    ///   path;
    /// - with `parents`: under the path that will show in the destination (what follows the `/./` pivot, or all).
    ///
    /// `include` and `exclude` are applied first, symlinks named by `src` are followed as the copy would, files of a
    /// build context count as owned by 0:0.
    ///
    /// Only the fields that select are filled; `from`, `dest`, `owner`, `mode` and the like are at their defaults, so
    /// that copies of the same files to different places are hashed once.
    Copies(Vec<CopyAction>),
    /// One path and all below it (a bind mount's source), hashed relative to that path.
    Path(String),
}

/// Digest of the operation as far as it belongs in a key, inputs not included.
pub fn op_key(vertex: &Vertex) -> Key {
    let mut encoder = Encoder::new(Kind::OpKey);
    encoder.op(&keyed_op(&vertex.op));
    encoder.option(keyed_platform(vertex), |encoder, platform| encoder.platform(&platform));
    encoder.digest().into()
}

/// What `vertex` reads from each of its inputs, in the order of its inputs. Input 0 of a COPY that only contributes
/// the base is `Whole`.
pub fn reads(vertex: &Vertex) -> Vec<Vec<Reads>> {
    let mut reads: Vec<Vec<Reads>> = vec![Vec::new(); vertex.inputs.len()];
    let mut add = |input: usize, read: Reads| {
        // An index beyond the inputs is an error that execution reports; it reads nothing.
        if let Some(of_input) = reads.get_mut(input)
            && !of_input.contains(&read)
        {
            of_input.push(read);
        }
    };
    match &vertex.op {
        Op::Source(_) => {}
        Op::Exec(exec) => {
            for mount in &exec.mounts {
                if let Some(input) = mount.input {
                    add(input, mount_reads(mount));
                }
            }
        }
        Op::File(file) => {
            for action in &file.actions {
                if let ActionInput::Input(input) = action.base {
                    add(input, Reads::Whole);
                }
            }
            for (input, copies) in copies_by_input(file, vertex.inputs.len()) {
                add(input, Reads::Copies(copies));
            }
        }
        Op::Merge(_) | Op::Diff(_) => (0..vertex.inputs.len()).for_each(|input| add(input, Reads::Whole)),
    }
    reads
}

/// Digest of what is read from an input: the part of a definition key that says which of its files.
pub fn reads_key(reads: &[Reads]) -> Key {
    let mut encoder = Encoder::new(Kind::Reads);
    encode_reads(&mut encoder, reads);
    encoder.digest().into()
}

/// Stands for what `read` selects from an image whose files need not be here: the image's content and the selection.
/// Coarser than hashing the selected files, but an image is never pulled only to learn a key.
pub fn image_selection(content: &ContentDigest, read: &Reads) -> ContentDigest {
    if *read == Reads::Whole {
        return *content;
    }
    let mut encoder = Encoder::new(Kind::Selection);
    encoder.array(&content.0);
    encode_reads(&mut encoder, std::slice::from_ref(read));
    encoder.digest().into()
}

/// The part of a key that stands for one input.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKey {
    /// By definition.
    Definition {
        /// The input's own definition key.
        key: Key,
        /// Which of its outputs.
        output: u32,
        /// What is read from it, as [`reads_key`]: two steps that read different files of one input are different,
        /// though their [`op_key`]s may be equal.
        reads: Key,
    },
    /// By content: digests of what is read, in the order of [`reads`].
    Content(Vec<ContentDigest>),
}

/// A key with what it was made of, so that anybody can make it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordKey {
    /// The key.
    pub key: Key,
    /// What stands for each input; of a source from the network what it was pinned to.
    pub inputs: Vec<InputKey>,
}

impl RecordKey {
    /// The key of an operation on these inputs.
    pub fn new(op: &Key, inputs: Vec<InputKey>) -> Self {
        Self { key: key(op, &inputs), inputs }
    }

    /// Whether it names its inputs by nothing but their content.
    pub fn is_by_content(&self) -> bool {
        self.inputs.iter().all(|input| matches!(input, InputKey::Content(_)))
    }
}

/// A definition or content key.
pub fn key(op: &Key, inputs: &[InputKey]) -> Key {
    let mut encoder = Encoder::new(Kind::Key);
    encoder.array(&op.0);
    encoder.list(inputs, |encoder, input| match input {
        InputKey::Definition { key, output, reads } => {
            encoder.tag(0);
            encoder.array(&key.0);
            encoder.u32(*output);
            encoder.array(&reads.0);
        }
        InputKey::Content(digests) => {
            encoder.tag(1);
            encoder.list(digests, |encoder, digest| encoder.array(&digest.0));
        }
    });
    encoder.digest().into()
}

fn encode_reads(encoder: &mut Encoder, reads: &[Reads]) {
    encoder.list(reads, |encoder, read| match read {
        Reads::Whole => encoder.tag(0),
        Reads::Copies(copies) => {
            encoder.tag(1);
            encoder.list(copies, Encoder::copy);
        }
        Reads::Path(path) => {
            encoder.tag(2);
            encoder.text(path);
        }
    });
}

pub(crate) fn keyed_platform(vertex: &Vertex) -> Option<Cow<'_, Platform>> {
    let platform = vertex.platform.as_ref()?;
    match &vertex.op {
        // The version of the operating system chooses among the manifests of an index; a process does not see it.
        Op::Source(source) if is_image(source) => Some(Cow::Borrowed(platform)),
        Op::Exec(_) => Some(Cow::Owned(Platform { os_version: String::new(), ..platform.clone() })),
        Op::Source(_) | Op::File(_) | Op::Merge(_) | Op::Diff(_) => None,
    }
}

/// The operation with everything that is not in its key taken out.
pub(crate) fn keyed_op(op: &Op) -> Cow<'_, Op> {
    match op {
        Op::Source(source) => Cow::Owned(Op::Source(keyed_source(source))),
        Op::Exec(exec) => Cow::Owned(Op::Exec(keyed_exec(exec))),
        Op::File(file) => keyed_file(file).map_or(Cow::Borrowed(op), |file| Cow::Owned(Op::File(file))),
        Op::Merge(_) | Op::Diff(_) => Cow::Borrowed(op),
    }
}

/// Whether a source is something else from the network: what [`crate::op::OpResolver::pin_source`] pins.
pub(crate) fn is_pinned(source: &SourceOp) -> bool {
    matches!(source.scheme(), "http" | "https" | "git")
}

/// Whether a source is an image, here or in a registry: what [`crate::op::OpResolver::resolve_source`] resolves.
pub(crate) fn is_image(source: &SourceOp) -> bool {
    matches!(source.scheme(), "docker-image" | "oci-layout")
}

fn keyed_source(source: &SourceOp) -> SourceOp {
    let mut keyed = source.clone();
    match source.scheme() {
        "docker-image" | "oci-layout" => {
            if let Some(digest) = source.pinned_digest().filter(|digest| digest.parse::<Digest>().is_ok()) {
                keyed.identifier = format!("image@{digest}");
            }
            const LEFT_OUT: [&str; 5] =
                ["image.resolvemode", "image.recordtype", "image.checksum", "oci.session", "oci.store"];
            keyed.attrs.retain(|name, _| !LEFT_OUT.contains(&&**name));
            if let Some(limit) = keyed.attrs.remove("oci.layerlimit") {
                keyed.attrs.insert("image.layerlimit".to_owned(), limit);
            }
        }
        "git" => keyed = SourceOp { identifier: "git://".to_owned(), attrs: Default::default() },
        "http" | "https" => {
            keyed.identifier = "https://".to_owned();
            keyed.attrs.remove("http.checksum");
        }
        "local" => keyed = SourceOp { identifier: "local://".to_owned(), attrs: Default::default() },
        _ => {}
    }
    keyed
}

fn keyed_exec(exec: &ExecOp) -> ExecOp {
    let mut keyed = exec.clone();
    keyed.meta.proxy_env.clear();
    for (_, address) in &mut keyed.meta.extra_hosts {
        address.clear();
    }
    for mount in &mut keyed.mounts {
        if matches!(mount_reads(mount), Reads::Path(_)) && mount.input.is_some() {
            mount.selector.clear();
        }
        if let MountKind::Cache { id, sharing, .. } = &mut mount.kind {
            id.clear();
            *sharing = Default::default();
        }
    }
    keyed
}

/// What a mount with an input reads of it: a mount whose files are kept shows all of them in its output.
fn mount_reads(mount: &Mount) -> Reads {
    let kept = mount.output.is_some() && !mount.readonly;
    if kept || mount.target == "/" || mount.selector.trim_matches('/').is_empty() {
        return Reads::Whole;
    }
    Reads::Path(mount.selector.clone())
}

/// A file operation with only the last component of the sources that a selection holds; `None` if there are none.
fn keyed_file(file: &FileOp) -> Option<FileOp> {
    let selected = |copy: &CopyAction| matches!(copy.from, Some(ActionInput::Input(_))) && !copy.parents;
    let any =
        file.actions.iter().any(|action| matches!(&action.change, FileChange::Copy(copy) if selected(copy)));
    any.then(|| {
        let mut keyed = file.clone();
        for action in &mut keyed.actions {
            if let FileChange::Copy(copy) = &mut action.change
                && selected(copy)
            {
                copy.src = last_component(&copy.src).to_owned();
            }
        }
        keyed
    })
}

/// The last component of a path; of a pattern too, where an escaped slash does not exist.
fn last_component(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit('/').next() {
        None | Some("." | "..") => "",
        Some(name) => name,
    }
}

/// The copies from each input that has any, in the order of the actions.
fn copies_by_input(file: &FileOp, inputs: usize) -> impl Iterator<Item = (usize, Vec<CopyAction>)> {
    let mut copies: Vec<Vec<CopyAction>> = vec![Vec::new(); inputs];
    for action in &file.actions {
        if let FileChange::Copy(copy) = &action.change
            && let Some(ActionInput::Input(input)) = copy.from
            && let Some(of_input) = copies.get_mut(input)
        {
            of_input.push(CopyAction {
                from: None,
                dest: String::new(),
                owner: None,
                mode: None,
                unpack_archive: false,
                create_dest_path: false,
                timestamp_s: None,
                ..copy.clone()
            });
        }
    }
    copies.into_iter().enumerate().filter(|(_, copies)| !copies.is_empty())
}

#[cfg(test)]
mod tests;
