//! The mounts of a RUN where nothing can be mounted: things that the runtime puts into the step's directory and takes out
//! again.
//!
//! | type | what is put there |
//! |---|---|
//! | `bind` | a copy, thrown away after the step |
//! | `cache` | the cache itself, moved there and back; one step at a time has it |
//! | `tmpfs` | an empty directory, thrown away |
//! | `secret` | a placeholder; who opens it is given the bytes |
//! | `ssh` | a socket; this process answers at it |

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use wharf_cache::Store;
use wharf_cache::mounts::{CacheMount, MountName};
use wharf_runtime::Spec;
use wharf_runtime::chroot::{Content, Placement};
use wharf_solver::llb::{ActionInput, CopyAction, ExecOp, FileChange, Mount, MountKind};
use wharf_solver::op::ResultRef;
use wharf_solver::progress::Event;

use super::{MountError, Part, Worker, at, cache, in_order, target};
use crate::context::resolve;
use crate::ssh::{Agent, Serving};
use crate::worker::file::{self, Source};
use crate::worker::{Input, WorkerError, chain_of_mount, whole};

/// The mounts of a step, and what has to stay while it runs.
#[derive(Debug)]
pub(in crate::worker) struct Placed<'a> {
    /// In the order in which they are put in place.
    pub(in crate::worker) placements: Vec<Placement>,
    /// Secrets given as variables: name and value.
    pub(in crate::worker) variables: Vec<(String, String)>,
    scratch: Scratch<'a>,
    caches: BTreeMap<MountName, Arc<CacheMount>>,
    /// What of which cache is moved where.
    moved: Vec<(MountName, PathBuf, PathBuf)>,
    agents: Vec<Serving>,
}

/// A directory for one step beside its own, deleted in the end.
#[derive(Debug)]
struct Scratch<'a> {
    store: &'a Store,
    path: PathBuf,
    given: OwnedFd,
    made: usize,
}

impl Scratch<'_> {
    fn new(store: &Store) -> Result<Scratch<'_>, MountError> {
        let path = store.temp_dir()?;
        let open = || -> io::Result<OwnedFd> {
            std::fs::create_dir(path.join(ASIDE))?;
            std::fs::create_dir(path.join(GIVEN))?;
            Ok(File::open(path.join(GIVEN))?.into())
        };
        let given = open().map_err(MountError::io("prepare the mounts of a step"))?;
        Ok(Scratch { store, path, given, made: 0 })
    }

    /// Makes a directory that is thrown away after the step.
    fn make_dir(&mut self, mode: u32) -> io::Result<(OsString, OwnedFd)> {
        let name = self.name();
        rustix::fs::mkdirat(&self.given, &name, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.given, &name, flags, Mode::empty())?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode))?;
        Ok((name, dir))
    }

    fn name(&mut self) -> OsString {
        self.made += 1;
        self.made.to_string().into()
    }

    /// An entry of it as what is put in place.
    fn content(&self, name: OsString) -> Result<Content, MountError> {
        let from = self.given.try_clone().map_err(MountError::io("prepare a mount"))?;
        Ok(Content::Entry { from, name, returns: false })
    }
}

/// Where the runtime keeps what it sets aside, and where lies what is made for a step.
const ASIDE: &str = "aside";
const GIVEN: &str = "given";
const FILES: &str = "files";

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.store.remove_temp_dir(&self.path);
    }
}

impl Placed<'_> {
    /// An empty directory for the runtime.
    pub(in crate::worker) fn aside(&self) -> io::Result<OwnedFd> {
        Ok(File::open(self.scratch.path.join(ASIDE))?.into())
    }

    /// Adds the files of the host that are bound read-only, as copies.
    pub(in crate::worker) fn add_files(&mut self, spec: &Spec) -> Result<(), WorkerError> {
        let failed =
            |source| WorkerError::Prepare { operation: "copy a file of the host that a step sees", source };
        let files = copies_of_files(spec, &self.scratch.path).map_err(failed)?;
        // The step's own come after them and are seen in their place.
        self.placements.splice(0..0, files);
        Ok(())
    }

    /// When the step has ended: no file of a cache is at the same time one of the image.
    pub(in crate::worker) fn part_from_caches(&self) -> Result<(), WorkerError> {
        for (name, _, _) in &self.moved {
            let Some(cache) = self.caches.get(name) else { continue };
            cache.part().map_err(|source| WorkerError::Prepare {
                operation: "part a cache from the image",
                source,
            })?;
        }
        Ok(())
    }
}

impl Worker<'_> {
    /// Gets the mounts of an operation ready for a place without mounts; as [`Worker::mounts`].
    pub(in crate::worker) fn placements(
        &self,
        op: &ExecOp,
        inputs: &[ResultRef],
        root: BorrowedFd<'_>,
        fresh: bool,
    ) -> Result<Placed<'_>, WorkerError> {
        let order = in_order(op);
        let mut placed = Placed {
            placements: Vec::new(),
            variables: self.secret_variables(op)?,
            scratch: Scratch::new(self.store).map_err(|error| at(Part::Mount(0))(error))?,
            caches: self.take_caches(&order, inputs, fresh)?,
            moved: Vec::new(),
            agents: Vec::new(),
        };
        for (number, mount) in order {
            self.place(mount, inputs, root, &mut placed).map_err(at(Part::Mount(number)))?;
        }
        Ok(placed)
    }

    fn place(
        &self,
        mount: &Mount,
        inputs: &[ResultRef],
        root: BorrowedFd<'_>,
        placed: &mut Placed<'_>,
    ) -> Result<(), MountError> {
        let input = mount.input.map(|input| &inputs[input]);
        let io = MountError::io;
        let content = match &mount.kind {
            MountKind::Bind => self.copy_to_place(mount, input, &mut placed.scratch)?,
            MountKind::Cache { .. } => self.cache_to_place(mount, input, placed)?,
            MountKind::Tmpfs { size_bytes } => {
                if *size_bytes > 0 {
                    self.say_once(
                        "without mounts (sandbox chroot) a tmpfs is a directory of the store: its size is not limited",
                    );
                }
                let (name, _) = placed.scratch.make_dir(0o1777).map_err(io("make a directory"))?;
                placed.scratch.content(name)?
            }
            MountKind::Secret { id, uid, gid, mode, optional } => match self.secrets.get(id)? {
                Some(value) => Content::Secret { value: value.to_vec(), owner: (*uid, *gid), mode: *mode },
                None if *optional => return Ok(()),
                None => return Err(MountError::NoSecret { id: id.clone() }),
            },
            MountKind::Ssh { id, uid, gid, mode, optional } => match self.ssh.get(id) {
                Some(agent) => {
                    let (content, serving) = socket(agent, (*uid, *gid), *mode, &mut placed.scratch)?;
                    placed.agents.push(serving);
                    content
                }
                None if *optional => return Ok(()),
                None => return Err(MountError::NoAgent { id: id.clone() }),
            },
        };
        let before: Vec<&Path> =
            placed.placements.iter().map(|placement| placement.target.as_path()).collect();
        let target = PathBuf::from(&mount.target);
        target::check(root, &target, is_directory(&content).map_err(io("look at a mount"))?, &before)?;
        placed.placements.push(Placement { target, content });
        Ok(())
    }

    /// A copy of the files that a mount shows.
    fn copy_to_place(
        &self,
        mount: &Mount,
        input: Option<&ResultRef>,
        scratch: &mut Scratch<'_>,
    ) -> Result<Content, MountError> {
        let source = match input {
            Some(ResultRef::Local(vertex)) => Input::Local(self.local(vertex)?),
            _ => Input::View(self.store.view(&chain_of_mount(input)?)?, self.store.setup().ids),
        };
        self.copy_of(source.source(), mount, "the files that `from` names", scratch)
    }

    fn copy_of(
        &self,
        source: Source<'_>,
        mount: &Mount,
        place: &'static str,
        scratch: &mut Scratch<'_>,
    ) -> Result<Content, MountError> {
        const COPY: &str = "mounted";
        let ids = self.store.setup().ids;
        let failed = MountError::io("open the source of a mount");
        let root = source.tree.root;
        let model = match source.local {
            true => None,
            false => match resolve::resolve(root, Path::new(&mount.selector), true) {
                Ok(found) if found.stat.is_some() => Some(open_beneath(root, &found.path).map_err(failed)?),
                Ok(_) => return Err(MountError::NotFound { path: mount.selector.clone(), place }),
                Err(error) => return Err(failed(error)),
            },
        };
        let (_, dir) = scratch.make_dir(0o755).map_err(MountError::io("make a directory"))?;
        let action = whole(&mount.selector);
        let copy = CopyAction { from: Some(ActionInput::Input(0)), dest: format!("/{COPY}"), ..action };
        file::execute(&FileChange::Copy(copy), dir.as_fd(), ids, Some(source), None)
            .map_err(MountError::Copy)?;
        let look_like = || -> io::Result<()> {
            let copied = open_beneath(dir.as_fd(), Path::new(COPY))?;
            match &model {
                Some(model) if is_dir(model.as_fd())? => cache::look_like(copied.as_fd(), ids, model.as_fd()),
                _ => Ok(()),
            }
        };
        look_like().map_err(MountError::io("copy the files to mount"))?;
        Ok(Content::Entry { from: dir, name: COPY.into(), returns: false })
    }

    /// The part of a cache that a mount shows, to be moved; or a link to where it is moved already.
    fn cache_to_place(
        &self,
        mount: &Mount,
        input: Option<&ResultRef>,
        placed: &mut Placed<'_>,
    ) -> Result<Content, MountError> {
        let name = self.cache_name(mount, input)?;
        let cache = Arc::clone(placed.caches.get(&name).ok_or(MountError::Cancelled)?);
        let failed = |source| MountError::Io { operation: "open a cache", source };
        let found = resolve::resolve(cache.root(), Path::new(&mount.selector), true).map_err(failed)?;
        if found.stat.is_none() {
            return Err(MountError::NotInCache { id: name.id().to_owned(), path: mount.selector.clone() });
        }
        for (moved, part, to) in &placed.moved {
            if *moved != name {
                continue;
            }
            if let Ok(rest) = found.path.strip_prefix(part) {
                return Ok(Content::Link(if rest.as_os_str().is_empty() {
                    to.clone()
                } else {
                    to.join(rest)
                }));
            }
            if part.starts_with(&found.path) {
                return Err(MountError::Target {
                    target: PathBuf::from(&mount.target),
                    why: "a part of this cache is mounted elsewhere by the same step, which the sandbox chroot cannot do",
                });
            }
        }
        if mount.readonly {
            let tree = crate::context::Tree {
                root: cache.root(),
                ignore: None,
                without: None,
                ids: self.store.setup().ids,
            };
            let source = Source { tree, local: false };
            return self.copy_of(source, mount, "the cache", &mut placed.scratch);
        }
        placed.moved.push((name, found.path.clone(), PathBuf::from(&mount.target)));
        let (from, entry) = match found.path.file_name() {
            None => {
                let (dir, files) = cache.place();
                (dir.try_clone_to_owned().map_err(failed)?, files.into())
            }
            Some(last) => {
                let parent = found.path.parent().unwrap_or(Path::new(""));
                (open_beneath(cache.root(), parent).map_err(failed)?, last.to_owned())
            }
        };
        Ok(Content::Entry { from, name: entry, returns: true })
    }

    /// Warns of something that holds for many steps.
    pub(in crate::worker) fn say_once(&self, message: &'static str) {
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !said.contains(&message) {
            said.push(message);
            self.progress.send(Event::Warning { message: message.to_owned() });
        }
    }
}

/// Copies, made in `scratch`, of the files of the host that `spec` binds, as what is put in their places.
pub(crate) fn copies_of_files(spec: &Spec, scratch: &Path) -> io::Result<Vec<Placement>> {
    let files = scratch.join(FILES);
    std::fs::create_dir(&files)?;
    let mut placements = Vec::new();
    for (number, mount) in spec.mounts().iter().flatten().enumerate() {
        let source = mount.source().as_ref().filter(|_| mount.typ().as_deref() == Some("bind"));
        let Some(source) = source.filter(|source| source.is_file()) else { continue };
        let name = OsString::from(number.to_string());
        std::fs::copy(source, files.join(&name))?;
        let content = Content::Entry { from: File::open(&files)?.into(), name, returns: false };
        placements.push(Placement { target: mount.destination().clone(), content });
    }
    Ok(placements)
}

/// A socket at which `agent` answers.
fn socket(
    agent: &Arc<Agent>,
    (uid, gid): (u32, u32),
    mode: u32,
    scratch: &mut Scratch<'_>,
) -> Result<(Content, Serving), MountError> {
    let name = scratch.name();
    let make = || -> io::Result<Serving> {
        // A short path: a socket's may have 107 bytes.
        let path = format!("/proc/self/fd/{}/{}", scratch.given.as_raw_fd(), name.to_string_lossy());
        let serving = agent.serve(Path::new(&path))?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(&scratch.given, &name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::chmodat(&scratch.given, &name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        Ok(serving)
    };
    let serving = make().map_err(MountError::io("prepare the socket of an SSH agent"))?;
    Ok((scratch.content(name)?, serving))
}

fn is_directory(content: &Content) -> io::Result<bool> {
    match content {
        Content::Entry { from, name, .. } => {
            let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        }
        // A link stands for a part of a cache, and that is a directory nearly always; the runtime sees to the rest.
        Content::Link(_) => Ok(true),
        Content::Secret { .. } => Ok(false),
    }
}

fn is_dir(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

/// Opens what has been resolved below `root`.
fn open_beneath(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?)
}
