//! Parting a cache from everything else: who had it moved into a directory of theirs may have made hard links between the
//! two. Whoever wrote to one of them later would change the other.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::DIRECTORY;
use crate::Ids;
use crate::diff::{copy_file, open_dir_below};
use crate::walk::{FileKind, Stat, Walk};

/// Names that are remembered to find out which belong together. What has more becomes a file of its own at each.
pub(super) const NAMES_MAX: usize = 1_000_000;

/// The name of a copy beside the files, until it is in its place.
const COPY: &str = "copy";

/// Devices are taken for what stands for them.
const IDS: Ids = Ids::KernelWithoutDevices;

/// Gives every file below `files` in `instance` that has names elsewhere a copy of its own there.
pub(super) fn part(instance: BorrowedFd<'_>, files: &str, names_max: usize) -> io::Result<()> {
    // A process that was killed may have left one.
    match rustix::fs::unlinkat(instance, COPY, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let root = rustix::fs::openat(instance, files, DIRECTORY, Mode::empty())?;
    let mut linked: HashMap<(u64, u64), (Stat, Vec<OsString>)> = HashMap::new();
    let mut names = 0;
    for visited in Walk::new(root.as_fd(), IDS)? {
        let visited = visited?;
        let (name, stat) = (&visited.entry.name, visited.entry.stat);
        if stat.kind == FileKind::Dir || stat.nlink < 2 {
            continue;
        }
        if names == names_max {
            replace(instance, visited.dir.as_fd(), name, &stat)?;
            continue;
        }
        names += 1;
        linked.entry((stat.dev, stat.ino)).or_insert_with(|| (stat, Vec::new())).1.push(visited.path);
    }
    for (stat, names) in linked.into_values() {
        if names.len() as u64 != u64::from(stat.nlink) {
            replace_all(instance, root.as_fd(), &names, &stat)?;
        }
    }
    Ok(())
}

/// Puts one copy in the place of all these names.
fn replace_all(
    instance: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
    names: &[OsString],
    stat: &Stat,
) -> io::Result<()> {
    let open = |path: &OsString| -> io::Result<_> {
        let path = path.as_bytes();
        let name = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let dir = open_dir_below(root, &path[..name])?.ok_or(io::ErrorKind::NotFound)?;
        Ok((dir, OsStr::from_bytes(&path[name..]).to_owned()))
    };
    let Some((first, others)) = names.split_first() else { return Ok(()) };
    let (first_dir, first) = open(first)?;
    replace(instance, first_dir.as_fd(), &first, stat)?;
    for other in others {
        let (dir, name) = open(other)?;
        rustix::fs::linkat(&first_dir, &first, instance, COPY, AtFlags::empty())?;
        rustix::fs::renameat(instance, COPY, dir, &name)?;
    }
    Ok(())
}

/// Puts a copy of the file `name` of `dir` in its place.
fn replace(instance: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<()> {
    copy_file(dir, name, stat, instance, OsStr::new(COPY), IDS)?;
    Ok(rustix::fs::renameat(instance, COPY, dir, name)?)
}
