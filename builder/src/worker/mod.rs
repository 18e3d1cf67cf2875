//! Executes vertices: the only place where the store meets the runtime.

mod exec;
pub mod file;
pub(crate) mod foreign;
pub mod groups;
pub mod mounts;
pub mod network;
pub(crate) mod ownership;
pub(crate) mod sandbox_files;
pub(crate) mod spec;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use wharf_cache::mounts::MountName;
use wharf_cache::snapshot::{Active, Sharing, Snapshot, SnapshotError};
use wharf_cache::state::Record;
use wharf_cache::{Chain, ContentDigest, Digest, Ids, Key, Store, StoreError};
use wharf_runtime::cgroup::{GroupError, Refused};
use wharf_runtime::chroot::Devices;
use wharf_runtime::{Cancel, EmulationError, ExitStatus, RuntimeError, Sandbox};
use wharf_solver::cache_map::{self, Reads, RecordKey};
use wharf_solver::llb::{
    ActionInput, CopyAction, Definition, FileChange, FileOp, Op, Platform, SourceOp, Vertex, VertexDigest,
};
use wharf_solver::op::{CacheManager, OpError, OpResolver, ResultRef};
use wharf_solver::progress::{Event, LogStream, Sink};

use crate::context::digest::{DigestError, Seen, TreeKind, content_digest, stamps};
use crate::context::files::{Files, KnownFiles};
use crate::context::{LocalContext, Tree};
use crate::history::SelectedFiles;
use crate::limits::OpenFiles;
use crate::remote::imports::{ImportError, Imports};
use crate::remote::mounts::UsedMounts;
use crate::secrets::Secrets;
use crate::source::git::{GitSource, Pinned};
use crate::source::http::{Fetched, UrlFile};
use crate::source::{
    GitError, GitSources, HttpError, HttpSources, ImageSources, SourceError, transfer_events,
};
use crate::ssh::SshAgents;
use file::{FileError, Shared, Source};
use foreign::ForeignSteps;
use groups::Groups;
use mounts::{MountError, Part};
use network::StepNetwork;

/// Does the work of one build.
#[expect(missing_debug_implementations, reason = "holds trait objects")]
pub struct Worker<'a> {
    /// The graph that is being solved.
    pub definition: &'a Definition,
    /// Where results go.
    pub store: &'a Store,
    /// What steps are confined with. This process is in it.
    pub sandbox: Sandbox,
    /// Has the files of what was built elsewhere.
    pub imports: &'a Imports<'a>,
    /// Where base images come from.
    pub images: &'a ImageSources,
    /// Where files behind URLs come from.
    pub http: &'a HttpSources,
    /// Where repositories come from.
    pub repositories: &'a GitSources,
    /// Local directories by name.
    pub contexts: &'a HashMap<String, LocalContext>,
    /// Hears what steps print.
    pub progress: &'a dyn Sink,
    /// Stops running steps.
    pub cancel: Cancel,
    /// What was read of local directories when keys were made.
    pub local_digests: Mutex<Vec<(VertexDigest, Reads, Seen)>>,
    /// What the files hold that were read of local directories then.
    pub known_files: KnownFiles,
    /// The files that were read when keys were made.
    pub files: &'a SelectedFiles,
    /// Set when a local directory changed after that: what is built from then on is not what its keys say, and is not
    /// recorded.
    pub stale: &'a AtomicBool,
    /// Told of an image that has been brought because a step reads it.
    pub brought: &'a (dyn Fn(&VertexDigest, &Chain) + Sync),
    /// The limit of open files that steps get.
    pub open_files: OpenFiles,
    /// The network that steps share.
    pub network: &'a StepNetwork,
    /// What runs the steps of other platforms.
    pub foreign: &'a ForeignSteps,
    /// The machine's platform.
    pub platform: &'a Platform,
    /// The control groups that steps run in.
    pub groups: Groups<'a>,
    /// Where files that steps have bound (hosts, resolv.conf) are kept.
    pub sandbox_dir: PathBuf,
    /// What steps without mounts have as `/dev`.
    pub devices: Devices,
    /// What `--secret` gave.
    pub secrets: &'a Secrets,
    /// What `--ssh` gave.
    pub ssh: &'a SshAgents,
    /// The caches that steps used.
    pub used_mounts: &'a UsedMounts,
    /// The caches that this build has begun anew, and which instance of each.
    pub emptied_caches: Mutex<HashMap<MountName, u32>>,
    /// The warnings that have been given.
    pub said: Mutex<Vec<&'static str>>,
}

/// Why a vertex failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The process of a RUN ended badly.
    #[error("process {command:?} did not complete successfully: {}", describe(*status, *refused))]
    Process {
        /// The command, arguments joined by spaces.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What the kernel refused its processes before.
        refused: Option<Refused>,
        /// What may help.
        hint: Option<String>,
    },
    /// The control group of a RUN could not be made.
    #[error("{0}")]
    Group(#[from] GroupError),
    /// The process could not be run.
    #[error("cannot run {command:?}")]
    Run {
        /// The command, arguments joined by spaces.
        command: String,
        /// Why.
        source: RuntimeError,
    },
    /// The process is for another platform, whose programs do not run here.
    #[error("cannot run {command:?}, a step for {platform}")]
    Foreign {
        /// The command, arguments joined by spaces.
        command: String,
        /// The platform that it is for.
        platform: String,
        /// Why its programs do not run.
        source: Box<EmulationError>,
    },
    /// A mount of a RUN could not be had.
    #[error("{error}")]
    Mount {
        /// Which.
        part: Part,
        /// Why.
        #[source]
        error: Box<MountError>,
    },
    /// Files could not be copied or made.
    #[error("{0}")]
    File(#[from] FileError),
    /// What a copy reads could not be hashed.
    #[error("failed to calculate checksum of the files to copy")]
    Digest(#[from] DigestError),
    /// A base image could not be brought.
    #[error("{0}")]
    Source(#[from] SourceError),
    /// What was built elsewhere could not be brought.
    #[error("{0}")]
    Import(#[from] ImportError),
    /// The snapshotter failed.
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    /// The database failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The files that a sandbox needs could not be prepared.
    #[error("cannot {operation}")]
    Prepare {
        /// What was being done.
        operation: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The runtime spec could not be made.
    #[error("cannot describe the process")]
    Spec(#[from] oci_spec::OciSpecError),
    /// A local context that was not given.
    #[error("there is no build context named `{0}`")]
    NoContext(String),
    /// The build was stopped while this waited for another process.
    #[error("cancelled")]
    Cancelled,
    /// Something that this place forbids.
    #[error("{0}")]
    NotHere(&'static str),
    /// An operation this version does not do.
    #[error("{0} is not supported")]
    Unsupported(String),
}

fn describe(status: ExitStatus, refused: Option<Refused>) -> String {
    let why = refused.map(|refused| format!(", after {refused}")).unwrap_or_default();
    match status {
        ExitStatus::Exited(code) => format!("exit code: {code}{why}"),
        ExitStatus::Signaled(signal) => {
            format!("killed by signal {signal} (exit code: {}){why}", 128 + signal)
        }
    }
}

impl OpResolver for Worker<'_> {
    fn resolve_source(&self, digest: &VertexDigest, vertex: &Vertex) -> Result<ResultRef, OpError> {
        let source = source_op(vertex)?;
        let content = self
            .images
            .content(&source.identifier)
            .map_err(|error| OpError::new(WorkerError::from(error)))?;
        Ok(ResultRef::Image { vertex: *digest, content })
    }

    fn pin_source(&self, digest: &VertexDigest, vertex: &Vertex) -> Result<ContentDigest, OpError> {
        let source = source_op(vertex)?;
        match source.scheme() {
            "http" | "https" => self.pin_url(digest, source).map_err(|error| OpError::new(from_http(error))),
            "git" => self.commit(digest, source, |pinned, _| Ok(pinned.content())).map_err(OpError::new),
            other => Err(OpError::new(WorkerError::Unsupported(format!("reading from {other}://")))),
        }
    }

    fn content_digest(
        &self,
        _vertex: &Vertex,
        result: &ResultRef,
        reads: &Reads,
    ) -> Result<ContentDigest, OpError> {
        let mut files = Files::default();
        let seen = self.digest(result, reads, &mut files).map_err(OpError::new)?;
        self.files.keep(self.store, seen.content, &files);
        if let ResultRef::Local(vertex) = result {
            self.known_files.add(&files);
            let mut known = self.local_digests.lock().unwrap_or_else(PoisonError::into_inner);
            known.push((*vertex, reads.clone(), seen));
        }
        Ok(seen.content)
    }

    fn materialize(
        &self,
        digest: &VertexDigest,
        vertex: &Vertex,
        _result: &ResultRef,
    ) -> Result<Chain, OpError> {
        self.network.begin(self.definition);
        let source = source_op(vertex)?;
        let report = transfer_events(*digest, self.progress);
        let pulled = self.images.pull(&source.identifier, &report);
        let chain = pulled.map_err(|error| OpError::new(WorkerError::from(error)))?;
        (self.brought)(digest, &chain);
        Ok(chain)
    }

    fn execute(
        &self,
        digest: &VertexDigest,
        vertex: &Vertex,
        inputs: &[ResultRef],
    ) -> Result<Vec<Chain>, OpError> {
        self.network.begin(self.definition);
        if !matches!(vertex.op, Op::Merge(_)) {
            self.bring_files(inputs).map_err(OpError::new)?;
        }
        let started = Instant::now();
        let done = match &vertex.op {
            Op::Exec(exec) => self.exec(digest, vertex, exec, inputs).and_then(|chains| {
                self.compare_with_key(vertex, inputs)?;
                Ok(chains)
            }),
            Op::File(file) => self.file(digest, vertex, file, inputs).and_then(|chain| {
                self.compare_with_key(vertex, inputs)?;
                Ok(vec![chain])
            }),
            Op::Merge(_) => merge(inputs).map(|chain| vec![chain]),
            Op::Diff(_) => Err(WorkerError::Unsupported("the difference of two file systems".to_owned())),
            Op::Source(source) => match source.scheme() {
                "http" | "https" => {
                    self.fetch_url(digest, source).map(|file| vec![file.chain]).map_err(from_http)
                }
                "git" => self
                    .commit(digest, source, |pinned, log| self.repositories.checkout(pinned, log))
                    .map(|chain| vec![chain]),
                other => Err(WorkerError::Unsupported(format!("reading from {other}://"))),
            },
        };
        let done = done.and_then(|made| {
            let chains = inputs.iter().filter_map(|input| match input {
                ResultRef::Snapshots(chain) => Some(chain),
                ResultRef::Local(_) | ResultRef::Image { .. } => None,
            });
            let inputs: Vec<&Chain> = chains.collect();
            self.store.note_made(&made, &inputs, started.elapsed())?;
            Ok(made)
        });
        // What became of files that vanished while they were read is neither a result nor a failure of the step.
        self.require_files(inputs).and(done).map_err(OpError::new)
    }
}

impl Worker<'_> {
    /// Brings what of the inputs is still elsewhere.
    fn bring_files(&self, inputs: &[ResultRef]) -> Result<(), WorkerError> {
        for input in inputs {
            if let ResultRef::Snapshots(chain) = input {
                self.imports.bring_files(chain, &self.cancel)?;
            }
        }
        Ok(())
    }

    /// Makes sure that the snapshots of inputs are still here.
    fn require_files(&self, inputs: &[ResultRef]) -> Result<(), WorkerError> {
        for input in inputs {
            if let ResultRef::Snapshots(chain) = input {
                self.store.require_files(chain)?;
            }
        }
        Ok(())
    }

    /// Does something with the commit that a repository's source stands for. What git says is the vertex's output.
    fn commit<T>(
        &self,
        vertex: &VertexDigest,
        source: &SourceOp,
        work: impl FnOnce(&Pinned, &dyn Fn(&[u8])) -> Result<T, GitError>,
    ) -> Result<T, WorkerError> {
        let log = |data: &[u8]| {
            let (vertex, data) = (*vertex, data.to_vec());
            self.progress.send(Event::Log { vertex, stream: LogStream::Stderr, data });
        };
        let work = || {
            let source = GitSource::from_op(source)?;
            let pinned = self.repositories.resolve(&source, &log)?;
            work(&pinned, &log)
        };
        work().map_err(|error| WorkerError::Source(error.into()))
    }

    fn pin_url(&self, vertex: &VertexDigest, source: &SourceOp) -> Result<ContentDigest, HttpError> {
        let file = UrlFile::of_source(source)?;
        self.http.pin(&file, &self.url_events(vertex, &file))
    }

    fn fetch_url(&self, vertex: &VertexDigest, source: &SourceOp) -> Result<Fetched, HttpError> {
        let file = UrlFile::of_source(source)?;
        self.http.fetch(&file, &self.url_events(vertex, &file))
    }

    /// Reports a download as progress of a vertex.
    fn url_events(&self, vertex: &VertexDigest, file: &UrlFile) -> impl Fn(u64, Option<u64>) {
        let (vertex, id) = (*vertex, file.shown());
        move |current, total| {
            let done = total == Some(current);
            self.progress.send(Event::Status { vertex, id: id.clone(), current, total, done });
        }
    }

    fn digest(&self, result: &ResultRef, reads: &Reads, files: &mut Files) -> Result<Seen, WorkerError> {
        match (result, reads) {
            (ResultRef::Snapshots(chain), Reads::Whole) => {
                Ok(Seen { content: self.store.chain_content(chain)?, stamps: None })
            }
            _ => self.digest_copies(result, &copies_of(reads), files),
        }
    }

    fn digest_copies(
        &self,
        result: &ResultRef,
        copies: &[CopyAction],
        files: &mut Files,
    ) -> Result<Seen, WorkerError> {
        let input = self.open(result)?;
        // What is in a private tree was made for this build: its stamps say nothing to the next one.
        let kind = match &input {
            Input::Local(context) if !context.is_private() => TreeKind::Local(self.store),
            _ => TreeKind::Snapshot,
        };
        let mut content = blake3::Hasher::new();
        let mut stamps = Some(blake3::Hasher::new());
        for copy in copies {
            let seen = content_digest(&input.tree(), kind, copy, files)?;
            content.update(&seen.content.0);
            stamps = add_stamps(stamps, seen.stamps);
        }
        let stamps = stamps.map(|stamps| stamps.finalize().into());
        Ok(Seen { content: content.finalize().into(), stamps })
    }

    /// The stamps of what is read now, as [`Self::digest`] gives them.
    fn stamps(&self, result: &ResultRef, reads: &Reads) -> Result<Option<ContentDigest>, WorkerError> {
        let input = self.open(result)?;
        let mut all = Some(blake3::Hasher::new());
        for copy in copies_of(reads).iter() {
            all = add_stamps(all, stamps(&input.tree(), copy)?);
        }
        Ok(all.map(|all| all.finalize().into()))
    }

    /// Looks once more at what a step read of local directories. Files may change while a build runs; the step then has
    /// the new ones, but its key speaks of the old.
    fn compare_with_key(&self, vertex: &Vertex, inputs: &[ResultRef]) -> Result<(), WorkerError> {
        for (result, reads) in inputs.iter().zip(cache_map::reads(vertex)) {
            let ResultRef::Local(local) = result else { continue };
            if self.local(local).is_ok_and(LocalContext::is_private) {
                continue;
            }
            for read in reads {
                let known = self.local_digests.lock().unwrap_or_else(PoisonError::into_inner);
                let before = known.iter().find(|(vertex, of, _)| vertex == local && *of == read);
                let before = before.map(|(_, _, seen)| *seen);
                drop(known);
                if !self.is_unchanged(result, &read, before) && !self.stale.swap(true, Ordering::SeqCst) {
                    let message = "files of the build context changed while the build ran: the image has what was \
                                   copied, and nothing built from there on is kept in the cache";
                    self.progress.send(Event::Warning { message: message.to_owned() });
                }
            }
        }
        Ok(())
    }

    /// The local directory of a source.
    fn local(&self, vertex: &VertexDigest) -> Result<&LocalContext, WorkerError> {
        let name = match &self.definition.vertex(vertex).op {
            Op::Source(source) => source.name(),
            _ => "",
        };
        self.contexts.get(name).ok_or_else(|| WorkerError::NoContext(name.to_owned()))
    }

    /// Whether what is read is what it was. Files that can no longer be found or read are not.
    fn is_unchanged(&self, result: &ResultRef, reads: &Reads, before: Option<Seen>) -> bool {
        let Some(before) = before else { return false };
        if before.stamps.is_some() && matches!(self.stamps(result, reads), Ok(now) if now == before.stamps) {
            return true;
        }
        matches!(self.digest(result, reads, &mut Files::default()), Ok(now) if now.content == before.content)
    }

    /// Opens an input for reading.
    fn open(&self, result: &ResultRef) -> Result<Input<'_>, WorkerError> {
        match result {
            ResultRef::Local(vertex) => self.local(vertex).map(Input::Local),
            ResultRef::Snapshots(chain) => {
                self.imports.bring_files(chain, &self.cancel)?;
                Ok(Input::View(self.store.view(chain)?, self.store.setup().ids))
            }
            ResultRef::Image { .. } => {
                Err(WorkerError::Unsupported("reading an image that was not pulled".to_owned()))
            }
        }
    }

    /// Does the actions of a file operation, each on the file system it names, and commits the last one's.
    fn file(
        &self,
        digest: &VertexDigest,
        vertex: &Vertex,
        op: &FileOp,
        inputs: &[ResultRef],
    ) -> Result<Chain, WorkerError> {
        let mut changing = Changing::default();
        for (number, action) in op.actions.iter().enumerate() {
            let system = match action.base {
                ActionInput::Action(previous) => changing.of_action[previous],
                ActionInput::Input(input) => changing.begin(self.store, chain_of(&inputs[input])?)?,
                ActionInput::Scratch => changing.begin(self.store, Chain::default())?,
            };
            let source = match &action.change {
                FileChange::Copy(copy) => Some(match copy.from {
                    Some(ActionInput::Input(input)) => self.open(&inputs[input])?,
                    Some(ActionInput::Action(from)) => {
                        changing.read(self.store, changing.of_action[from], system)?
                    }
                    Some(ActionInput::Scratch) | None => {
                        Input::View(self.store.view(&Chain::default())?, self.store.setup().ids)
                    }
                }),
                _ => None,
            };
            let (_, active) = &mut changing.systems[system];
            // Later actions could not see, and would write to, files that are shared.
            let is_last = number + 1 == op.actions.len();
            let mut sharing = match &source {
                Some(source) if is_last => self.sharing(digest, vertex, active, source)?,
                _ => None,
            };
            let shared = sharing.as_mut().map(|sharing| Shared { sharing, known: &self.known_files });
            let source = source.as_ref().map(Input::source);
            file::execute(&action.change, active.root()?, self.store.setup().ids, source, shared)?;
            if let Some(sharing) = sharing {
                active.shares(sharing);
            }
            changing.of_action.push(system);
        }
        let last =
            *changing.of_action.last().ok_or(FileError::Unsupported("a file operation without actions"))?;
        let (chain, active) = changing.systems.swap_remove(last);
        Ok(chain.with(self.finish(digest, active)?.id))
    }

    /// What a copy of files of the host can share with the snapshot that it gave before: nothing where that would be parted
    /// again at once.
    fn sharing(
        &self,
        digest: &VertexDigest,
        vertex: &Vertex,
        active: &Active,
        source: &Input<'_>,
    ) -> Result<Option<Sharing>, WorkerError> {
        let Input::Local(context) = source else { return Ok(None) };
        if context.is_private() || self.is_shown(digest) {
            return Ok(None);
        }
        let stat = wharf_cache::walk::stat_at(context.tree().root, OsStr::new("."));
        let stat =
            stat.map_err(|source| WorkerError::Prepare { operation: "look at a build context", source })?;
        let place: Key = {
            let mut hasher = blake3::Hasher::new_derive_key("wharf place of a context, version 1");
            hasher.update(&stat.dev.to_le_bytes()).update(&stat.ino.to_le_bytes());
            Key(hasher.finalize().into())
        };
        Ok(active.sharing(&cache_map::op_key(vertex), &place)?)
    }

    /// Commits what a vertex has made.
    fn finish(&self, digest: &VertexDigest, mut active: Active) -> Result<Snapshot, SnapshotError> {
        if !self.is_built_on(digest) {
            active.ends_here();
        }
        active.commit(SystemTime::now())
    }

    /// Whether another vertex changes the files that this one gives.
    fn is_built_on(&self, digest: &VertexDigest) -> bool {
        self.definition.iter().any(|(_, vertex)| {
            let is_it = |input: usize| vertex.inputs.get(input).is_some_and(|edge| edge.vertex == *digest);
            match &vertex.op {
                Op::Exec(exec) => {
                    exec.mounts.iter().any(|mount| mount.target == "/" && mount.input.is_some_and(is_it))
                }
                Op::File(file) => changes(file, is_it),
                Op::Source(_) | Op::Merge(_) | Op::Diff(_) => false,
            }
        })
    }

    /// Whether a process is shown the files that this vertex gives, as they are or with others on top of them.
    fn is_shown(&self, digest: &VertexDigest) -> bool {
        let mut with_them = HashSet::from([*digest]);
        for (other, vertex) in self.definition.iter() {
            let has =
                |input: usize| vertex.inputs.get(input).is_some_and(|edge| with_them.contains(&edge.vertex));
            let is_with_them = match &vertex.op {
                Op::Exec(exec) if exec.mounts.iter().any(|mount| mount.input.is_some_and(has)) => {
                    return true;
                }
                Op::File(file) => changes(file, has),
                Op::Merge(_) | Op::Diff(_) => (0..vertex.inputs.len()).any(has),
                Op::Source(_) | Op::Exec(_) => false,
            };
            if is_with_them {
                with_them.insert(*other);
            }
        }
        false
    }
}

/// The file systems that a file operation changes.
#[derive(Default)]
struct Changing {
    /// What each began as, and how it is now.
    systems: Vec<(Chain, Active)>,
    /// For each action done, the file system that holds its result.
    of_action: Vec<usize>,
}

impl Changing {
    fn begin(&mut self, store: &Store, chain: Chain) -> Result<usize, WorkerError> {
        let active = store.prepare(&chain)?;
        self.systems.push((chain, active));
        Ok(self.systems.len() - 1)
    }

    /// Opens one for reading while `other` is changed.
    fn read(&mut self, store: &Store, system: usize, other: usize) -> Result<Input<'static>, WorkerError> {
        if system == other {
            return Err(FileError::Unsupported("copying a file system into itself").into());
        }
        let root = self.systems[system].1.root()?.try_clone_to_owned();
        let operation = "open what an earlier action made";
        root.map(|root| Input::View(root, store.setup().ids))
            .map_err(|source| WorkerError::Prepare { operation, source })
    }
}

/// An input opened for reading.
enum Input<'a> {
    Local(&'a LocalContext),
    /// Files of the store, and how they belong to users.
    View(OwnedFd, Ids),
}

impl Input<'_> {
    fn tree(&self) -> Tree<'_> {
        match self {
            Self::Local(context) => context.tree(),
            Self::View(fd, ids) => Tree { root: fd.as_fd(), ids: *ids, ignore: None, without: None },
        }
    }

    fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    fn source(&self) -> Source<'_> {
        Source { tree: self.tree(), local: self.is_local() }
    }
}

/// Whether an operation changes one of these inputs.
fn changes(file: &FileOp, is_it: impl Fn(usize) -> bool) -> bool {
    file.actions.iter().any(|action| matches!(action.base, ActionInput::Input(input) if is_it(input)))
}

fn merge(inputs: &[ResultRef]) -> Result<Chain, WorkerError> {
    let mut merged = Chain::default();
    for input in inputs {
        merged.0.extend(chain_of(input)?.0);
    }
    Ok(merged)
}

fn chain_of(result: &ResultRef) -> Result<Chain, WorkerError> {
    match result {
        ResultRef::Snapshots(chain) => Ok(chain.clone()),
        _ => Err(WorkerError::Unsupported("changing a build context".to_owned())),
    }
}

fn from_http(error: HttpError) -> WorkerError {
    WorkerError::Source(error.into())
}

/// The snapshots that a mount reads; without an input an empty file system.
fn chain_of_mount(input: Option<&ResultRef>) -> Result<Chain, WorkerError> {
    input.map_or_else(|| Ok(Chain::default()), chain_of)
}

fn source_op(vertex: &Vertex) -> Result<&SourceOp, OpError> {
    match &vertex.op {
        Op::Source(source) => Ok(source),
        _ => Err(OpError::new(WorkerError::Unsupported("pulling something that is no source".to_owned()))),
    }
}

/// A selection as the copies that would read it.
fn copies_of(reads: &Reads) -> Cow<'_, [CopyAction]> {
    match reads {
        Reads::Whole => Cow::Owned(vec![whole("/")]),
        Reads::Path(path) => Cow::Owned(vec![whole(path)]),
        Reads::Copies(copies) => Cow::Borrowed(copies),
    }
}

/// Stamps of several selections prove something only if those of each do.
fn add_stamps(all: Option<blake3::Hasher>, stamps: Option<ContentDigest>) -> Option<blake3::Hasher> {
    let mut all = all?;
    all.update(&stamps?.0);
    Some(all)
}

/// A path and everything below it, as a copy reads it.
fn whole(path: &str) -> CopyAction {
    CopyAction {
        src: path.to_owned(),
        follow_symlinks: true,
        dir_contents_only: true,
        ..CopyAction::default()
    }
}

/// The store as the solver's memory.
#[derive(Debug, Clone, Copy)]
pub struct StoreCache<'a> {
    /// The store.
    pub store: &'a Store,
    /// Asked for what the store does not have.
    pub imports: &'a Imports<'a>,
    /// Ends the wait for a lock.
    pub cancel: &'a Cancel,
    /// Whether results no longer are what their keys say.
    pub stale: &'a AtomicBool,
}

impl CacheManager for StoreCache<'_> {
    fn lookup(&self, key: &Key) -> Result<Option<Vec<Chain>>, OpError> {
        let offers = |digest: &Digest, size| self.imports.offers(digest, size);
        match self.store.record_unless_lost(key, &offers).map_err(OpError::new)? {
            Some(record) => Ok(Some(record.outputs)),
            None => self.imports.lookup(key).map_err(OpError::new),
        }
    }

    fn knows_op(&self, op: &Key) -> Result<bool, OpError> {
        Ok(self.store.has_record_of(op).map_err(OpError::new)? || self.imports.knows_op(op))
    }

    fn store(&self, keys: &[RecordKey], op: &Key, outputs: &[Chain]) -> Result<(), OpError> {
        if self.stale.load(Ordering::SeqCst) {
            return Ok(());
        }
        let keys: Vec<_> =
            keys.iter().map(|RecordKey { key, inputs }| (*key, serde_json::to_vec(inputs).ok())).collect();
        self.store.put_record_made_of(&keys, op, &Record { outputs: outputs.to_vec() }).map_err(OpError::new)
    }

    fn lock(&self, key: &Key) -> Result<Box<dyn Send>, OpError> {
        let lock = self.store.lock_key_unless(key, &|| self.cancel.is_cancelled()).map_err(OpError::new)?;
        Ok(Box::new(lock.ok_or_else(|| OpError::new(WorkerError::Cancelled))?))
    }
}
