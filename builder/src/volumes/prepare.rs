//! What a container has mounted, for whoever starts it: volumes found and filled, directories of this host opened, memory made.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use wharf_cache::diff::{Copying, Original, Owners, copy};
use wharf_cache::walk::{open_dir_at, read_dir};
use wharf_runtime::{Bind, Sandbox};

use super::{Volume, Volumes, local};
use crate::containers::config::{MountConfig, MountKind};
use crate::error::{Failure, Kind};

/// Marks a volume that is being filled.
const FILLING: &str = "filling";

/// Where the mounts are to be.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What the container is confined with.
    pub sandbox: Sandbox,
    /// The mounts, in their order.
    pub mounts: &'a [MountConfig],
    /// The root of the container, without any mounts.
    pub root: BorrowedFd<'a>,
    /// Whether the container is started for the first time: only then is an empty volume filled with what the image has at its
    /// place.
    pub is_first: bool,
}

/// The mounts of a container.
#[derive(Debug, Default)]
pub struct Prepared {
    /// For the runtime, after the mounts of its specification.
    pub binds: Vec<Bind>,
    /// For the specification: directories of the host from which mounts are passed on.
    pub mounts: Vec<Mount>,
    /// What could not be done as it was asked.
    pub warnings: Vec<String>,
}

/// Why there is no such mount in the sandbox `chroot`, and what does instead.
fn not_in_chroot(mount: &MountConfig) -> Failure {
    let target = mount.target.display();
    let (what, instead) = match &mount.kind {
        MountKind::Bind { source, .. } => {
            let source = source.display();
            let instead = format!(
                "copy it: `COPY` in the Dockerfile, or `wharf create`, `wharf cp {source} CONTAINER:{target}` and \
                 `wharf start`"
            );
            (format!("`{source}` cannot be bound at `{target}`"), instead)
        }
        MountKind::Volume { name, .. } => {
            let instead = format!(
                "without it `{target}` is part of the container: `wharf cp` copies what is there out of it, and into the next one"
            );
            (format!("the volume `{name}` cannot be mounted at `{target}`"), instead)
        }
        MountKind::Tmpfs { .. } => {
            let instead = format!("without it `{target}` is part of the container, on the disk");
            (format!("no memory file system can be mounted at `{target}`"), instead)
        }
    };
    Failure::new(Kind::Environment, format!("{what}: the sandbox `chroot` has no mounts"))
        .hint(instead)
        .hint("`wharf doctor` says what would unlock the other sandboxes")
}

impl Volumes<'_> {
    /// Gets the mounts of a container ready.
    pub fn prepare(&self, request: &Request<'_>) -> Result<Prepared, Failure> {
        let mut prepared = Prepared::default();
        if let (Sandbox::Chroot, Some(mount)) = (request.sandbox, request.mounts.first()) {
            return Err(not_in_chroot(mount));
        }
        for mount in request.mounts {
            self.prepare_one(mount, request, &mut prepared).map_err(|mut failure| {
                failure.message = format!("the mount at `{}`: {}", mount.target.display(), failure.message);
                failure
            })?;
        }
        Ok(prepared)
    }

    fn prepare_one(
        &self,
        mount: &MountConfig,
        request: &Request<'_>,
        prepared: &mut Prepared,
    ) -> Result<(), Failure> {
        let mut read_only = mount.read_only;
        let tree = match &mount.kind {
            MountKind::Bind { source, create, propagation, non_recursive } => {
                let found = open_source(source, *create)?;
                match self.propagation(propagation.as_deref(), request.sandbox, mount, prepared) {
                    Some(propagation) => {
                        let bind = if *non_recursive { "bind" } else { "rbind" };
                        prepared.mounts.push(passed_on(mount, source, [bind, propagation])?);
                        return Ok(());
                    }
                    None => local::open(&found, !non_recursive)
                        .map_err(|error| failed(&format!("cannot bind `{}`", source.display()), &error))?,
                }
            }
            MountKind::Volume { name, subpath, anonymous, no_copy } => {
                let volume = self.again(name, *anonymous)?;
                let (root, is_read_only) = self.open(&volume)?;
                read_only |= is_read_only;
                match subpath {
                    Some(subpath) => open_below(&root, subpath, name)?,
                    None => {
                        // What its options say cannot be written is not filled either.
                        if request.is_first && !no_copy && !is_read_only {
                            self.fill(&volume, &root, request.root, &mount.target)?;
                        }
                        root
                    }
                }
            }
            MountKind::Tmpfs { size, mode, options } => {
                // Docker's, where nothing else is said.
                let defaults = MountAttrFlags::MOUNT_ATTR_NOSUID
                    | MountAttrFlags::MOUNT_ATTR_NODEV
                    | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                let known = options.iter().map(String::as_str).filter(|option| !is_propagation(option));
                let mut parsed = local::Options::parse(known).with_defaults(defaults, options);
                if let Some(size) = size.filter(|size| *size > 0) {
                    parsed.add("size", size.to_string());
                }
                parsed.add("mode", format!("{:o}", mode.unwrap_or(0o1777)));
                local::new("tmpfs", "tmpfs", &parsed)
                    .map_err(|error| failed("cannot make a memory file system", &error))?
            }
        };
        prepared.binds.push(Bind { target: mount.target.clone(), tree, read_only, no_exec: false });
        Ok(())
    }

    /// How mounts are to be passed on, if they can be.
    fn propagation<'p>(
        &self,
        asked: Option<&'p str>,
        sandbox: Sandbox,
        mount: &MountConfig,
        prepared: &mut Prepared,
    ) -> Option<&'p str> {
        let asked = asked.filter(|propagation| !matches!(*propagation, "private" | "rprivate"))?;
        if sandbox == Sandbox::Root {
            return Some(asked);
        }
        prepared.warnings.push(format!(
            "mounts are not passed on at `{}` (`{asked}`): a user namespace has mounts of its own",
            mount.target.display()
        ));
        None
    }

    /// The root of a volume, as a mount, and whether its options say that it cannot be written.
    fn open(&self, volume: &Volume) -> Result<(OwnedFd, bool), Failure> {
        let failed = |error: io::Error| {
            let failure = failed(&format!("cannot mount the volume `{}`", volume.name), &error);
            match error.kind() {
                io::ErrorKind::PermissionDenied if volume.options.contains_key("type") => {
                    failure.hint("the kernel mounts most file systems for root alone: run wharf as root")
                }
                _ => failure,
            }
        };
        if let Some(root) = local::mount(&volume.options).map_err(failed)? {
            return Ok(root);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let data = rustix::fs::open(self.data(&volume.name), flags, Mode::empty());
        let data = data.map_err(|errno| failed(errno.into()))?;
        Ok((local::open(&data, true).map_err(failed)?, false))
    }

    /// Copies what the image has at `target` into a volume with nothing in it: files, and the look of the directory itself.
    fn fill(
        &self,
        volume: &Volume,
        to: &OwnedFd,
        root: BorrowedFd<'_>,
        target: &Path,
    ) -> Result<(), Failure> {
        let fill = || -> io::Result<()> {
            let dir = File::open(self.dir(&volume.name))?;
            // Others that are started with the same volume wait, and find it filled.
            rustix::io::retry_on_intr(|| rustix::fs::flock(&dir, FlockOperation::LockExclusive))?;
            let to = open_dir_at(to.as_fd(), OsStr::new("."))?;
            // One that was killed over it has left a part: what the image has comes once more.
            let was_begun = rustix::fs::statat(&dir, FILLING, AtFlags::SYMLINK_NOFOLLOW).is_ok();
            if !was_begun && !read_dir(to.as_fd())?.is_empty() {
                return Ok(());
            }
            let Some(from) = open_in_image(root, target)? else { return Ok(()) };
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            drop(rustix::fs::openat(&dir, FILLING, flags, Mode::RUSR | Mode::WUSR)?);
            let ids = self.store.setup().ids;
            let copying = Copying { owners: Owners::AsTheyWere, devices: true, root: true };
            let original = Original { dir: from.as_fd(), names: None, ids };
            copy(&original, to.as_fd(), ids, copying).map_err(io::Error::other)?;
            Ok(rustix::fs::unlinkat(&dir, FILLING, AtFlags::empty())?)
        };
        fill().map_err(|error| {
            let target = target.display();
            failed(
                &format!("cannot fill the volume `{}` with what the image has at `{target}`", volume.name),
                &error,
            )
        })
    }
}

/// What the image has at a place, if that is a directory.
fn open_in_image(root: BorrowedFd<'_>, target: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, target, flags, Mode::empty(), resolve) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A directory or file of a volume, as a mount. No link leads out of the volume, whoever changes it meanwhile.
fn open_below(volume: &OwnedFd, subpath: &Path, name: &str) -> Result<OwnedFd, Failure> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let found = loop {
        match rustix::fs::openat2(volume, subpath, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            found => break found,
        }
    };
    let open = found.map_err(io::Error::from).and_then(|found| local::open(&found, true));
    open.map_err(|error| {
        let path = subpath.display();
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR) => {
                Failure::new(Kind::Usage, format!("the volume `{name}` holds no `{path}`"))
            }
            Some(Errno::XDEV) => {
                Failure::new(Kind::Usage, format!("`{path}` leads out of the volume `{name}`"))
            }
            _ => failed(&format!("cannot open `{path}` of the volume `{name}`"), &error),
        }
    })
}

/// Something of this host. A missing directory is made if that was asked for.
fn open_source(source: &Path, create: bool) -> Result<OwnedFd, Failure> {
    let open = || rustix::fs::openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let path = source.display();
    let found = match open() {
        Err(Errno::NOENT) if create => {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(source)
                .map_err(|error| failed(&format!("cannot make the directory `{path}`"), &error))?;
            open()
        }
        found => found,
    };
    let found = found.map_err(|errno| match errno {
        Errno::NOENT => Failure::new(Kind::Usage, format!("there is no `{path}` on this host"))
            .hint("`--mount` binds what is there; `-v` makes a directory where nothing is"),
        errno => failed(&format!("cannot open `{path}`"), &io::Error::from(errno)),
    })?;
    let stat = rustix::fs::fstat(&found)
        .map_err(|errno| failed(&format!("cannot look at `{path}`"), &io::Error::from(errno)))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => Err(Failure::new(Kind::Usage, format!("`{path}` is a link that leads nowhere"))),
        _ => Ok(found),
    }
}

/// A bind whose mounts are passed on: the specification says how.
fn passed_on(mount: &MountConfig, source: &Path, options: [&str; 2]) -> Result<Mount, Failure> {
    let mut options: Vec<String> = options.map(str::to_owned).to_vec();
    if mount.read_only {
        options.push("ro".to_owned());
    }
    MountBuilder::default()
        .typ("bind")
        .source(PathBuf::from(source))
        .destination(mount.target.clone())
        .options(options)
        .build()
        .map_err(|error| Failure::from_error(Kind::Environment, "cannot describe the mount", &error))
}

fn is_propagation(option: &str) -> bool {
    ["private", "shared", "slave"].contains(&option.strip_prefix('r').unwrap_or(option))
        || matches!(option, "bind" | "rbind")
}

fn failed(doing: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::from_error(Kind::Environment, doing, error)
}
