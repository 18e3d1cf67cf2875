//! What of a layer can only be done when the layers below are there: its snapshot was unpacked without looking at them,
//! and now becomes what overlayfs would have made of the same changes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::AtFlags;

use super::DiffError;
use super::copy_up::{copy_file, set_dir};
use super::root::{self, Dir, Missing, Root, write_error};
use super::unpack::{Unpacker, is_absent};
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
    through_symlinks(unpacker, below)?;
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
    rustix::fs::fremovexattr(unpacker.root.fd(), whiteout::OPAQUE_XATTR)
        .map_err(|errno| failed(errno.into()))?;
    let root = walk::open_dir_at(below, OsStr::new(".")).map_err(failed)?;
    for entry in walk::read_dir(root.as_fd()).map_err(failed)? {
        let name = entry.name.as_bytes();
        match walk::stat_at(unpacker.root.fd(), &entry.name) {
            Ok(Stat { kind: FileKind::Dir, .. }) => unpacker.make_opaque(name)?,
            Ok(_) => {}
            Err(error) if is_absent(&error) => {
                whiteout::make_whiteout(unpacker.root.fd(), &entry.name).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Directories that the layer only implies and that are symlinks below: what is in them belongs where these lead.
fn through_symlinks(unpacker: &mut Unpacker, below: BorrowedFd<'_>) -> Result<(), DiffError> {
    let mut lower = Root::new(below).map_err(|source| unpacker.cannot("open", b"/", source))?;
    let mut candidates = unpacker.implied.clone();
    // From the top down: what is moved takes the candidates in it along.
    while let Some(path) = candidates.pop_first() {
        let components = split(&path);
        let is_hidden =
            (1..components.len()).any(|depth| unpacker.opaque.contains(&components[..depth].join(&b'/')));
        if components.is_empty() || is_hidden || !unpacker.implied.contains(&path) {
            continue;
        }
        let failed = |source| write_error("look up", &path, "the layers below", source);
        if !is_symlink(below, &components).map_err(failed)? {
            continue;
        }
        // A symlink that leads to no directory is replaced by the one that the layer implies.
        let Ok(target) = lower.dir(&components, Missing::Fail, &mut Vec::new()) else { continue };
        let implied_before: Vec<_> = unpacker.implied.iter().cloned().collect();
        unpacker.parent(&path, &split(&target.path))?;
        merge_into(unpacker, &path, &target.path)?;
        unpacker.rename(&path, &target.path);
        candidates.extend(unpacker.implied.iter().filter(|path| !implied_before.contains(path)).cloned());
    }
    Ok(())
}

/// Whether the last of `components` is a symlink and all before it are directories.
fn is_symlink(root: BorrowedFd<'_>, components: &[&[u8]]) -> io::Result<bool> {
    let Some((name, parents)) = components.split_last() else { return Ok(false) };
    let Some(dir) = root::open_dir_below(root, &parents.join(&b'/'))? else { return Ok(false) };
    match walk::stat_at(dir.as_fd(), OsStr::from_bytes(name)) {
        Ok(stat) => Ok(stat.kind == FileKind::Symlink),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves what is in the directory `from` of the layer into its directory `to`, and takes `from` away. What is known of
/// `from` is left to be renamed.
fn merge_into(unpacker: &mut Unpacker, from: &[u8], to: &[u8]) -> Result<(), DiffError> {
    if !unpacker.implied.contains(to) {
        unpacker.implied.remove(from);
    }
    if unpacker.dir_times.contains_key(to) {
        unpacker.dir_times.remove(from);
    }
    let open = |unpacker: &Unpacker, path: &[u8]| {
        let opened = root::open_dir_below(unpacker.root.fd(), path)
            .and_then(|dir| dir.ok_or_else(|| io::ErrorKind::NotFound.into()));
        opened.map_err(|source| unpacker.cannot("open", path, source))
    };
    let (source, dest) = (open(unpacker, from)?, open(unpacker, to)?);
    let entries = walk::read_dir(source.as_fd()).map_err(|error| unpacker.cannot("read", from, error))?;
    for entry in entries {
        let name = entry.name.as_bytes();
        let (old, new) = ([from, b"/", name].concat(), [to, b"/", name].concat());
        let there = match walk::stat_at(dest.as_fd(), &entry.name) {
            Ok(there) => Some(there.kind),
            Err(error) if is_absent(&error) => None,
            Err(error) => return Err(unpacker.cannot("look up", &new, error)),
        };
        if (there, entry.stat.kind) == (Some(FileKind::Dir), FileKind::Dir) {
            merge_into(unpacker, &old, &new)?;
            continue;
        }
        if there.is_some() {
            unpacker.forget(&new);
        }
        root::remove_at(dest.as_fd(), name)
            .and_then(|()| Ok(rustix::fs::renameat(&source, &entry.name, &dest, &entry.name)?))
            .map_err(|error| unpacker.cannot("move to where its directory leads", &old, error))?;
    }
    let components = split(from);
    let Some((name, parents)) = components.split_last() else { return Ok(()) };
    let parent = open(unpacker, &parents.join(&b'/'))?;
    rustix::fs::unlinkat(&parent, *name, AtFlags::REMOVEDIR)
        .map_err(|errno| unpacker.cannot("remove", from, errno.into()))
}

/// Hard links to files of lower layers: the file is copied up, as overlayfs does, and linked. What the layer itself
/// deletes or replaces lives on under the names it was linked to.
fn links(unpacker: &mut Unpacker, below: BorrowedFd<'_>) -> Result<(), DiffError> {
    let mut lower = Root::new(below).map_err(|source| unpacker.cannot("open", b"/", source))?;
    // Where each file is in this layer, by its path below.
    let mut copies: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
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
        let origin = from.join(name);
        let copy = match copies.get(&origin) {
            Some(copy) => copy.clone(),
            None => {
                let stays = is_untouched(unpacker, &origin)
                    .map_err(|source| unpacker.cannot("look up", &origin, source))?;
                let copy = if stays { origin.clone() } else { path.clone() };
                let (to, to_name) = place(unpacker, &path, &copy)?;
                let (name, to_name) = (OsStr::from_bytes(name), OsStr::from_bytes(&to_name));
                copy_file(from.fd.as_fd(), name, &stat, to.fd.as_fd(), to_name)
                    .map_err(|source| unpacker.cannot("copy up", &target, source))?;
                copies.insert(origin, copy.clone());
                copy
            }
        };
        if copy != path {
            let (copied, copied_name) = place(unpacker, &path, &copy)?;
            let (link, link_name) = place(unpacker, &path, &path)?;
            rustix::fs::linkat(&*copied.fd, &*copied_name, &*link.fd, &*link_name, AtFlags::empty())
                .map_err(|errno| unpacker.cannot("link", &path, errno.into()))?;
        }
    }
    Ok(())
}

/// The directory and the name of `path` in the layer, for the entry `of`.
fn place(unpacker: &mut Unpacker, of: &[u8], path: &[u8]) -> Result<(Dir, Vec<u8>), DiffError> {
    let components = split(path);
    let Some((name, parents)) = components.split_last() else {
        return Err(unpacker.refused(of, "a hard link to the root".to_owned()));
    };
    Ok((unpacker.parent(of, parents)?, name.to_vec()))
}

/// Whether the layer has nothing at `path`, and nothing above it that hides what is below.
fn is_untouched(unpacker: &Unpacker, path: &[u8]) -> io::Result<bool> {
    let components = split(path);
    let mut dir = walk::open_dir_at(unpacker.root.fd(), OsStr::new("."))?;
    for (depth, name) in components.iter().enumerate() {
        let name = OsStr::from_bytes(name);
        match walk::stat_at(dir.as_fd(), name) {
            Err(error) if is_absent(&error) => return Ok(true),
            Err(error) => return Err(error),
            Ok(stat) if stat.kind != FileKind::Dir => return Ok(false),
            Ok(_) if unpacker.opaque.contains(&components[..=depth].join(&b'/')) => return Ok(false),
            Ok(_) => dir = walk::open_dir_at(dir.as_fd(), name)?,
        }
    }
    Ok(false)
}

/// Directories that the layer does not list look as they do below.
fn implied(unpacker: &mut Unpacker, below: BorrowedFd<'_>) -> Result<(), DiffError> {
    for path in std::mem::take(&mut unpacker.implied) {
        let copy = || -> io::Result<Option<(i64, u32)>> {
            let Some(lower) = root::open_dir_below(below, &path)? else { return Ok(None) };
            let Some(dir) = root::open_dir_below(unpacker.root.fd(), &path)? else { return Ok(None) };
            let stat = walk::stat_of(lower.as_fd())?;
            let xattrs = walk::xattrs_of(lower.as_fd())?;
            set_dir(dir.as_fd(), &stat, &xattrs)?;
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
