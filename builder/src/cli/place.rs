//! Where a command works: its sandbox, its store, and how it works with that.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode};
use rustix::thread::CapabilitySet;
use wharf_cache::{IdMap, Ids, Setup, Stacking, Store, StoreError};
use wharf_runtime::Sandbox;
use wharf_runtime::chroot::Confinement;
use wharf_runtime::sandbox::{self, NoSandbox, try_overlay};

use super::{tell_damages, variable};
use crate::error::{Failure, Kind};
use crate::networks::client::{Connection, Holder, Start};
use crate::progress::print_note;

/// Where root's store is by default.
const ROOTS_STORE: &str = "/var/lib/wharf";

/// Where a store can be that has no better place. Everybody may write there.
const SHARED: [&str; 2] = ["/var/tmp", "/tmp"];

/// What the command line and the configuration say of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// `--root`.
    pub(super) root: Option<PathBuf>,
    /// `--sandbox`.
    pub(super) sandbox: Option<Sandbox>,
    /// `--config`; absolute.
    pub(super) config_file: Option<PathBuf>,
}

/// The place, entered.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// What steps are confined with.
    pub(super) sandbox: Sandbox,
    root: PathBuf,
    /// Whether the store is where everybody may write, in a directory of this user's alone that may not be there yet.
    is_shared: bool,
    setup: Setup,
    /// Who the ids here are outside.
    map: IdMap,
}

impl Wanted {
    /// Where the store is or would be, as far as that can be told without making it.
    pub(super) fn store_root(&self) -> PathBuf {
        let own = || own_root().filter(|own| can_be_written(own));
        let shared = || shared_roots().into_iter().find(|dir| can_be_private(dir));
        let found = self.root.clone().or_else(own).or_else(shared).or_else(own_root);
        found.unwrap_or_else(|| PathBuf::from(ROOTS_STORE))
    }
}

impl Place {
    /// Enters the sandbox that was asked for, or the strongest there is. Before the process has threads.
    pub(super) fn enter(wanted: &Wanted) -> Result<Self, Failure> {
        // Whose store it is goes by who this is outside.
        let (root, is_shared) = match &wanted.root {
            Some(root) => (root.clone(), false),
            None => default_root()?,
        };
        let sandbox = sandbox::enter(wanted.sandbox).map_err(|error| no_sandbox(&error))?;
        Self::of(root, is_shared, sandbox)
    }

    /// Enters the sandbox that the store's containers are in, if this process may not make networks where it is: they have
    /// to be in one user namespace. That lasts as long as somebody has a connection, such as the one that comes along.
    pub(super) fn enter_to_start(wanted: &Wanted) -> Result<(Self, Option<Connection>), Failure> {
        let is_root = wanted.sandbox.is_none_or(|it| it == Sandbox::Root) && is_administrator();
        if is_root || matches!(wanted.sandbox, Some(Sandbox::Root | Sandbox::Chroot)) {
            return Ok((Self::enter(wanted)?, None));
        }
        let (root, is_shared) = match &wanted.root {
            Some(root) => (root.clone(), false),
            None => default_root()?,
        };
        let connection = Holder::connect(&root, Start::Outside(wanted.sandbox))?;
        if let Some(sandbox) = wanted.sandbox.filter(|sandbox| *sandbox != connection.sandbox()) {
            let others = connection.sandbox();
            let message = format!("containers of this store are in the sandbox {others}, not in {sandbox}");
            return Err(
                Failure::new(Kind::Environment, message).hint("stop them first, or give another `--root`")
            );
        }
        let sandbox = connection.enter()?;
        Ok((Self::of(root, is_shared, sandbox)?, Some(connection)))
    }

    /// The place of whoever started this process, who has entered it.
    pub(super) fn inherited(wanted: &Wanted) -> Result<Self, Failure> {
        match (&wanted.root, wanted.sandbox) {
            (Some(root), Some(sandbox)) => Self::of(root.clone(), false, sandbox),
            _ => Err(Failure::new(
                Kind::Usage,
                "this command takes `--root` and `--sandbox`: wharf starts it itself",
            )),
        }
    }

    fn of(root: PathBuf, is_shared: bool, sandbox: Sandbox) -> Result<Self, Failure> {
        let ids = match sandbox {
            Sandbox::Root | Sandbox::Rootless => Ids::Kernel,
            Sandbox::Chroot => Ids::KernelWithoutDevices,
            Sandbox::RootlessSingle => Ids::Recorded,
        };
        let stacking = match sandbox {
            Sandbox::Chroot => Stacking::Copy,
            _ => stacking(&root),
        };
        let map = match sandbox {
            // A namespace that somebody else has made is the world: owners are what they are there.
            Sandbox::Root | Sandbox::Chroot => IdMap::identity(),
            Sandbox::Rootless | Sandbox::RootlessSingle => IdMap::of_this_process().map_err(|error| {
                Failure::new(
                    Kind::Environment,
                    format!("cannot read the map of user ids in /proc/self: {error}"),
                )
            })?,
        };
        Ok(Self { sandbox, root, is_shared, setup: Setup { ids, stacking }, map })
    }

    /// Says what makes work slower here than it could be, and what does not keep steps in as well as it could.
    pub(super) fn tell(&self) {
        let lacks = if self.sandbox == Sandbox::Chroot { Confinement::probe().lacks() } else { Vec::new() };
        if !lacks.is_empty() {
            print_note(&format!(
                "steps are confined by less than could be, as this kernel has no {}",
                lacks.join("; no ")
            ));
        }
        if self.sandbox != Sandbox::Chroot && self.setup.stacking == Stacking::Copy {
            let root = self.root.display();
            print_note(&format!(
                "overlayfs cannot stack what is in the store `{root}`, because of the file system that it is on: files are \
                 copied for each step; a `--root` on a volume (in Kubernetes an emptyDir) is faster"
            ));
        }
    }

    /// Opens the store.
    pub(super) fn open_store(&self) -> Result<Store, Failure> {
        if self.is_shared {
            make_private(&self.root).map_err(|error| {
                let doing = format!("cannot make the directory `{}` for the store", self.root.display());
                Failure::from_error(Kind::Environment, &doing, &error)
            })?;
        }
        self.open().inspect(tell_damages).map_err(|error| {
            let root = self.root.display();
            let doing = match error.is_read_only() {
                true => format!("the store `{root}` cannot be written"),
                false => format!("cannot open the store `{root}`"),
            };
            Failure::from_error(Kind::Environment, &doing, &error)
        })
    }

    fn open(&self) -> Result<Store, StoreError> {
        Store::open_mapped(&self.root, self.setup, &self.map)
    }

    /// The store if there is a whole one that this process may use.
    pub(super) fn existing_store(&self) -> Option<Store> {
        let is_whole =
            ["state.db", "oci-layout", "index.json"].iter().all(|name| self.root.join(name).is_file());
        if is_whole { self.open().ok() } else { None }
    }
}

/// Whether this is root with the right to set up networks and mounts.
fn is_administrator() -> bool {
    let has = |it: rustix::thread::CapabilitySets| it.effective.contains(CapabilitySet::SYS_ADMIN);
    rustix::process::geteuid().is_root() && rustix::thread::capabilities(None).is_ok_and(has)
}

fn no_sandbox(error: &NoSandbox) -> Failure {
    Failure::new(Kind::Environment, error.to_string())
        .hint("`wharf doctor` says what would have to change, and how")
}

/// How snapshots are stacked in a store at `root`. Overlays work on the usual file systems; on others one is tried.
fn stacking(root: &Path) -> Stacking {
    // ext4, xfs, btrfs, f2fs.
    const USUAL: [i64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];
    const TMPFS: i64 = 0x0102_1994;
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let is_usual = rustix::fs::statfs(existing)
        .is_ok_and(|on| USUAL.contains(&on.f_type) || on.f_type == TMPFS && kernel() >= TMPFS_HAS_ATTRIBUTES);
    // What may not be written will be said of the store.
    if is_usual || try_overlay(root).err().is_none_or(|error| is_closed(&error)) {
        return Stacking::Overlay;
    }
    Stacking::Copy
}

/// Since this version files of a tmpfs can have attributes of users.
const TMPFS_HAS_ATTRIBUTES: (u32, u32) = (6, 6);

/// The version of the kernel; 0.0 where it cannot be told.
fn kernel() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// The user's own place for data, or else, with a word about it, one that is this user's alone where all may write, and
/// whether it is such a one: there may be no home directory, or it may be read-only. Nothing is made yet.
fn default_root() -> Result<(PathBuf, bool), Failure> {
    let own = own_root();
    if let Some(own) = own.as_ref().filter(|own| can_be_written(own)) {
        return Ok((own.clone(), false));
    }
    let why = match &own {
        Some(own) => format!("`{}` cannot be written", own.display()),
        None => "neither HOME nor XDG_DATA_HOME is set".to_owned(),
    };
    for dir in shared_roots() {
        if can_be_private(&dir) {
            print_note(&format!("{why}: the store is `{}`; `--root` names another place", dir.display()));
            return Ok((dir, true));
        }
    }
    Err(Failure::new(Kind::Environment, format!("there is no place for the store: {why}"))
        .hint("give `--root DIR`, a directory that this user may write"))
}

/// The user's own place for data; none without a home.
fn own_root() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from(ROOTS_STORE));
    }
    let data = variable("XDG_DATA_HOME").map(PathBuf::from);
    data.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/share")))
        .map(|data| data.join("wharf"))
}

fn shared_roots() -> Vec<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    SHARED.iter().map(|dir| Path::new(dir).join(format!("wharf-{uid}"))).collect()
}

/// Whether `path` is there or can be made.
fn can_be_written(path: &Path) -> bool {
    let existing = path.ancestors().find(|path| path.symlink_metadata().is_ok());
    existing.is_some_and(|existing| {
        let may_write = || rustix::fs::accessat(CWD, existing, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
        existing == path || existing.is_dir() && may_write()
    })
}

/// Makes a directory of this user's alone. One that is there already has to be just that: others may have made it.
fn make_private(dir: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(dir, Mode::RWXU) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) if is_private(dir)? => Ok(()),
        Err(rustix::io::Errno::EXIST) => Err(io::ErrorKind::PermissionDenied.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether [`make_private`] would succeed.
fn can_be_private(dir: &Path) -> bool {
    match is_private(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => can_be_written(dir),
        found => found.unwrap_or(false),
    }
}

fn is_private(dir: &Path) -> io::Result<bool> {
    let found = rustix::fs::lstat(dir)?;
    Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory
        && found.st_uid == rustix::process::geteuid().as_raw()
        && found.st_mode & 0o077 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_directory_where_all_may_write_has_to_be_ones_own() {
        let dir = std::env::temp_dir().join(format!("wharf-place-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let private = dir.join("private");
        assert!(can_be_private(&private) && !private.exists());
        make_private(&private).unwrap();
        make_private(&private).unwrap();
        assert!(can_be_private(&private));
        symlink(&private, dir.join("link")).unwrap();
        assert!(make_private(&dir.join("link")).is_err() && !can_be_private(&dir.join("link")), "a link");
        std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o770)).unwrap();
        assert!(make_private(&private).is_err() && !can_be_private(&private), "open to a group");
        std::fs::write(dir.join("file"), "").unwrap();
        assert!(make_private(&dir.join("file")).is_err(), "a file");
        assert!(can_be_written(&dir.join("a/b")) && !can_be_written(&dir.join("file/b")));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
