//! Where a command works: its sandbox, its store, and how it works with that.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode};
use wharf_cache::{Ids, Setup, Stacking, Store};
use wharf_runtime::Sandbox;
use wharf_runtime::sandbox::{self, NoSandbox};

use super::{tell_damages, variable};
use crate::error::{Failure, Kind};
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
}

/// The place, entered.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// What steps are confined with.
    pub(super) sandbox: Sandbox,
    root: PathBuf,
    setup: Setup,
}

impl Place {
    /// Enters the sandbox that was asked for, or the strongest there is. Before the process has threads.
    pub(super) fn enter(wanted: &Wanted) -> Result<Self, Failure> {
        // Whose store it is goes by who this is outside.
        let root = match &wanted.root {
            Some(root) => root.clone(),
            None => default_root()?,
        };
        let sandbox = sandbox::enter(wanted.sandbox).map_err(|error| no_sandbox(&error))?;
        let ids = match sandbox {
            Sandbox::Root | Sandbox::Rootless | Sandbox::Chroot => Ids::Kernel,
            Sandbox::RootlessSingle => Ids::Recorded,
        };
        let stacking = match sandbox {
            Sandbox::Chroot => Stacking::Copy,
            _ if is_on_overlay(&root) => Stacking::Copy,
            _ => Stacking::Overlay,
        };
        Ok(Self { sandbox, root, setup: Setup { ids, stacking } })
    }

    /// Says what makes work slower here than it could be.
    pub(super) fn tell(&self) {
        if self.sandbox != Sandbox::Chroot && self.setup.stacking == Stacking::Copy {
            let root = self.root.display();
            print_note(&format!(
                "the store `{root}` is on an overlayfs, which cannot be stacked again: files are copied for each step; \
                 a `--root` on a volume (in Kubernetes an emptyDir) is faster"
            ));
        }
    }

    /// Opens the store.
    pub(super) fn open_store(&self) -> Result<Store, Failure> {
        Store::open_with(&self.root, self.setup).inspect(tell_damages).map_err(|error| {
            let root = self.root.display();
            let doing = match error.is_read_only() {
                true => format!("the store `{root}` cannot be written"),
                false => format!("cannot open the store `{root}`"),
            };
            Failure::from_error(Kind::Environment, &doing, &error)
        })
    }

    /// The store if there is a whole one that this process may use.
    pub(super) fn existing_store(&self) -> Option<Store> {
        let is_whole =
            ["state.db", "oci-layout", "index.json"].iter().all(|name| self.root.join(name).is_file());
        if is_whole { Store::open_with(&self.root, self.setup).ok() } else { None }
    }
}

fn no_sandbox(error: &NoSandbox) -> Failure {
    Failure::new(Kind::Environment, error.to_string())
        .hint("`wharf doctor` says what would have to change, and how")
}

/// Whether the store is, or would be made, on a file system that cannot be the upper part of an overlay.
fn is_on_overlay(root: &Path) -> bool {
    const OVERLAYFS_MAGIC: i64 = 0x794c_7630;
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    rustix::fs::statfs(existing).is_ok_and(|on| on.f_type == OVERLAYFS_MAGIC)
}

/// The user's own place for data, or else, with a word about it, one that this user has made for itself where all may
/// write: there may be no home directory, or it may be read-only.
fn default_root() -> Result<PathBuf, Failure> {
    let uid = rustix::process::geteuid();
    let own = if uid.is_root() {
        Some(PathBuf::from(ROOTS_STORE))
    } else {
        let data = variable("XDG_DATA_HOME").map(PathBuf::from);
        let data = data.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/share")));
        data.map(|data| data.join("wharf"))
    };
    if let Some(own) = own.as_ref().filter(|own| can_be_written(own)) {
        return Ok(own.clone());
    }
    let why = match &own {
        Some(own) => format!("`{}` cannot be written", own.display()),
        None => "neither HOME nor XDG_DATA_HOME is set".to_owned(),
    };
    let shared = SHARED.iter().map(|dir| Path::new(dir).join(format!("wharf-{}", uid.as_raw())));
    for dir in shared {
        if make_private(&dir).is_ok() {
            print_note(&format!("{why}: the store is `{}`; `--root` names another place", dir.display()));
            return Ok(dir);
        }
    }
    Err(Failure::new(Kind::Environment, format!("there is no place for the store: {why}"))
        .hint("give `--root DIR`, a directory that this user may write"))
}

/// Whether `path` is there or can be made.
fn can_be_written(path: &Path) -> bool {
    let existing = path.ancestors().find(|path| path.symlink_metadata().is_ok());
    existing.is_some_and(|existing| {
        existing == path || rustix::fs::accessat(CWD, existing, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
    })
}

/// Makes a directory of this user's alone. One that is there already has to be just that: others may have made it.
fn make_private(dir: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(dir, Mode::RWXU) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let found = rustix::fs::lstat(dir)?;
    let is_own = FileType::from_raw_mode(found.st_mode) == FileType::Directory
        && found.st_uid == rustix::process::geteuid().as_raw()
        && found.st_mode & 0o077 == 0;
    if is_own { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
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
        make_private(&private).unwrap();
        make_private(&private).unwrap();
        symlink(&private, dir.join("link")).unwrap();
        assert!(make_private(&dir.join("link")).is_err(), "a link");
        std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o770)).unwrap();
        assert!(make_private(&private).is_err(), "open to a group");
        std::fs::write(dir.join("file"), "").unwrap();
        assert!(make_private(&dir.join("file")).is_err(), "a file");
        assert!(can_be_written(&dir.join("a/b")) && !can_be_written(Path::new("/proc/a/b")));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
