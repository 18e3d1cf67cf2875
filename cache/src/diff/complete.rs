//! What of a layer can only be done when the layers below are there: its snapshot was unpacked without looking at them,
//! and now becomes what overlayfs would have made of the same changes.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode};

use super::DiffError;
use super::root::{self, Dir, Missing, Root, write_error};
use super::unpack::{
    Metadata, Unpacker, create_file, is_absent, make_node, make_symlink, set_metadata, timestamps,
};
use super::whiteout;
use crate::walk::{self, FileKind, Stat};
use crate::{Chain, Store};

/// Completes an unpacked layer that comes on top of `chain`.
pub(super) fn complete(unpacker: &mut Unpacker, store: &Store, chain: &Chain) -> Result<(), DiffError> {
    let Some(top) = chain.0.last() else { return complete_lowest(unpacker) };
    let only_root_implied = unpacker.implied.iter().all(Vec::is_empty);
    let hides_all = unpacker.opaque.contains(&b""[..]);
    if only_root_implied && unpacker.links.is_empty() && unpacker.whiteouts.is_empty() && !hides_all {
        // The merged root looks like its topmost layer's: nothing has to be mounted to see it.
        implied(unpacker, store.open_snapshot(*top)?.as_fd())?;
        return unpacker.set_dir_times();
    }
    let view = store.view(chain)?;
    let below = view.as_fd();
    if hides_all {
        hide_root(unpacker, below)?;
    }
    links(unpacker, below)?;
    implied(unpacker, below)?;
    whiteouts(unpacker, below)?;
    unpacker.set_dir_times()
}

/// Nothing is below: nothing can be linked to, nothing is hidden.
fn complete_lowest(unpacker: &mut Unpacker) -> Result<(), DiffError> {
    if let Some((path, target)) = unpacker.links.first_key_value() {
        return Err(link_to_nothing(unpacker, path, target));
    }
    for path in std::mem::take(&mut unpacker.whiteouts) {
        remove_whiteout(unpacker, &path)?;
    }
    unpacker.set_dir_times()
}

/// Overlayfs looks at no opaque mark of a layer's root, so what it hides is hidden name by name.
fn hide_root(unpacker: &mut Unpacker, below: BorrowedFd<'_>) -> Result<(), DiffError> {
    let object = unpacker.object.clone();
    let failed = |source| write_error("hide what is below", b"/", &object, source);
    for name in [whiteout::OPAQUE_XATTR, whiteout::OPAQUE_XATTR_USER] {
        // One of them was set.
        let _ = rustix::fs::fremovexattr(unpacker.root.fd(), name);
    }
    let root = walk::open_dir_at(below, OsStr::new(".")).map_err(failed)?;
    for entry in walk::read_dir(root.as_fd()).map_err(failed)? {
        let name = entry.name.as_bytes();
        match walk::stat_at(unpacker.root.fd(), &entry.name) {
            Ok(Stat { kind: FileKind::Dir, .. }) => unpacker.make_opaque(name)?,
            Ok(_) => {}
            Err(error) if is_absent(&error) => {
                rustix::fs::mknodat(unpacker.root.fd(), name, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(|errno| failed(errno.into()))?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Hard links to files of lower layers: the file is copied up, as overlayfs does, and linked.
fn links(unpacker: &mut Unpacker, below: BorrowedFd<'_>) -> Result<(), DiffError> {
    let mut lower = Root::new(below).map_err(|source| unpacker.cannot("open", b"/", source))?;
    for (path, target) in std::mem::take(&mut unpacker.links) {
        let components = root::components(&target).map_err(|reason| unpacker.refused(&path, reason))?;
        let Some((name, parents)) = components.split_last() else { continue };
        let found = lower.dir(parents, Missing::Fail, &mut Vec::new()).and_then(|dir| {
            let stat = walk::stat_at(dir.fd.as_fd(), OsStr::from_bytes(name))?;
            Ok((dir, stat))
        });
        let (from, stat) = match found {
            Ok((_, Stat { kind: FileKind::Dir, .. })) => {
                return Err(unpacker.refused(&path, "a hard link to a directory".to_owned()));
            }
            Ok(found) => found,
            Err(error) if is_absent(&error) => return Err(link_to_nothing(unpacker, &path, &target)),
            Err(source) => return Err(unpacker.cannot("look up", &target, source)),
        };
        let to = unpacker.parent(&path, &split(&from.path))?;
        copy_up(&from, &to, name, &stat).map_err(|source| unpacker.cannot("copy up", &target, source))?;
        let link = split(&path);
        let Some((link_name, link_parents)) = link.split_last() else { continue };
        let dir = unpacker.parent(&path, link_parents)?;
        rustix::fs::linkat(&*to.fd, *name, &*dir.fd, *link_name, AtFlags::empty())
            .map_err(|errno| unpacker.cannot("link", &path, errno.into()))?;
    }
    Ok(())
}

/// Copies a file with all its metadata, unless an earlier link needed it, too.
fn copy_up(from: &Dir, to: &Dir, name: &[u8], stat: &Stat) -> io::Result<()> {
    let (source, dest) = (from.fd.as_fd(), to.fd.as_fd());
    let os_name = OsStr::from_bytes(name);
    match walk::stat_at(dest, os_name) {
        Ok(_) => return Ok(()),
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(error),
    }
    let xattrs = walk::xattrs_at(source, os_name)?;
    let owner = (stat.uid, stat.gid);
    let metadata = Metadata { mode: stat.mode, owner, mtime: stat.mtime, xattrs: &xattrs };
    let kind = match stat.kind {
        FileKind::File => {
            let mut file = create_file(dest, name)?;
            io::copy(&mut walk::open_file_at(source, os_name)?, &mut file)?;
            set_metadata(file.as_fd(), &metadata)?;
            rustix::fs::futimens(&file, &timestamps(stat.mtime))?;
            return Ok(());
        }
        FileKind::Symlink => {
            let target = walk::readlink_at(source, os_name)?;
            return make_symlink(dest, name, target.as_bytes(), &metadata);
        }
        FileKind::CharDevice => FileType::CharacterDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Socket => FileType::Socket,
        FileKind::Fifo | FileKind::Dir => FileType::Fifo,
    };
    make_node(dest, name, kind, stat.rdev, &metadata)
}

/// Directories that the layer does not list look as they do below.
fn implied(unpacker: &mut Unpacker, below: BorrowedFd<'_>) -> Result<(), DiffError> {
    for path in std::mem::take(&mut unpacker.implied) {
        let copy = || -> io::Result<Option<(i64, u32)>> {
            let Some(lower) = root::open_dir_below(below, &path)? else { return Ok(None) };
            let Some(dir) = root::open_dir_below(unpacker.root.fd(), &path)? else { return Ok(None) };
            let stat = walk::stat_of(lower.as_fd())?;
            let xattrs = walk::xattrs_of(lower.as_fd())?;
            let owner = (stat.uid, stat.gid);
            let metadata = Metadata { mode: stat.mode, owner, mtime: stat.mtime, xattrs: &xattrs };
            set_metadata(dir.as_fd(), &metadata)?;
            Ok(Some(stat.mtime))
        };
        let mtime = copy().map_err(|source| unpacker.cannot("complete the directory", &path, source))?;
        if let Some(mtime) = mtime {
            unpacker.dir_times.entry(path).or_insert(mtime);
        }
    }
    Ok(())
}

/// Takes away the whiteouts that hide nothing. Overlayfs never makes such, and would show them as files in a directory
/// that only this layer has.
fn whiteouts(unpacker: &mut Unpacker, below: BorrowedFd<'_>) -> Result<(), DiffError> {
    for path in std::mem::take(&mut unpacker.whiteouts) {
        let components = split(&path);
        let Some((name, parents)) = components.split_last() else { continue };
        let hidden_already = (0..components.len())
            .any(|depth| depth > 0 && unpacker.opaque.contains(&components[..depth].join(&b'/')));
        let is_below = || -> io::Result<bool> {
            let Some(dir) = root::open_dir_below(below, &parents.join(&b'/'))? else { return Ok(false) };
            match walk::stat_at(dir.as_fd(), OsStr::from_bytes(name)) {
                Ok(_) => Ok(true),
                Err(error) if is_absent(&error) => Ok(false),
                Err(error) => Err(error),
            }
        };
        let needed = !hidden_already
            && is_below().map_err(|source| unpacker.cannot("look for what is deleted at", &path, source))?;
        if !needed {
            remove_whiteout(unpacker, &path)?;
        }
    }
    Ok(())
}

fn remove_whiteout(unpacker: &Unpacker, path: &[u8]) -> Result<(), DiffError> {
    let components = split(path);
    let Some((name, parents)) = components.split_last() else { return Ok(()) };
    let remove = || match root::open_dir_below(unpacker.root.fd(), &parents.join(&b'/'))? {
        Some(dir) => Ok(rustix::fs::unlinkat(&dir, *name, AtFlags::empty())?),
        None => Ok(()),
    };
    remove().map_err(|source: io::Error| unpacker.cannot("remove the whiteout", path, source))
}

fn link_to_nothing(unpacker: &Unpacker, path: &[u8], target: &[u8]) -> DiffError {
    let target = String::from_utf8_lossy(target);
    unpacker.refused(path, format!("a hard link to `{target}`, which does not exist"))
}

fn split(path: &[u8]) -> Vec<&[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect()
}
