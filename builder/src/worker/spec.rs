//! What a step changes in the runtime's default spec.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, MountBuilder, Spec, UserBuilder};
use rustix::mount::OpenTreeFlags;
use wharf_runtime::User;

/// Sets program, environment, working directory and ids.
pub(crate) fn set_process(
    spec: &mut Spec,
    args: &[String],
    env: &[String],
    cwd: &str,
    user: &User,
) -> Result<(), OciSpecError> {
    let ids = UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.additional_gids.clone())
        .build()?;
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(args.to_vec())).set_env(Some(env.to_vec())).set_cwd(cwd.into()).set_user(ids);
    spec.set_process(Some(process));
    Ok(())
}

/// Binds a file or directory of the host, read-only and without what could run or open devices.
pub(crate) fn bind_read_only(spec: &mut Spec, source: &Path, target: &str) -> Result<(), OciSpecError> {
    let options = ["rbind", "ro", "nosuid", "noexec", "nodev"].map(str::to_owned).to_vec();
    let mount =
        MountBuilder::default().typ("bind").source(source).destination(target).options(options).build()?;
    spec.mounts_mut().get_or_insert_default().push(mount);
    Ok(())
}

/// Adds a fresh memory file system of at most `size_bytes` (0: no limit).
pub(crate) fn add_tmpfs(spec: &mut Spec, target: &str, size_bytes: u64) -> Result<(), OciSpecError> {
    let mut options = vec!["nosuid".to_owned(), "nodev".to_owned()];
    if size_bytes > 0 {
        options.push(format!("size={size_bytes}"));
    }
    let mount =
        MountBuilder::default().typ("tmpfs").source("tmpfs").destination(target).options(options).build()?;
    spec.mounts_mut().get_or_insert_default().push(mount);
    Ok(())
}

/// Gives the process a network namespace of its own, with loopback alone.
pub(crate) fn isolate_network(spec: &mut Spec) -> Result<(), OciSpecError> {
    let mut linux = spec.linux().clone().unwrap_or_default();
    let network = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network).build()?;
    linux.namespaces_mut().get_or_insert_default().push(network);
    spec.set_linux(Some(linux));
    Ok(())
}

/// A detached mount of `path` below the directory `root`; an empty path is the directory itself.
pub(crate) fn subtree(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Ok(rustix::mount::open_tree(root, path, flags)?)
}
