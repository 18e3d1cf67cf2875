//! How two trees differ: file by file, read to the end where nothing else tells them apart.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use super::DiffError;
use crate::Ids;
use crate::contenthash::is_content_xattr;
use crate::walk::{self, FileKind, Visited, Walk};

/// Files are compared in pieces of this size.
const BUFFER_BYTES: usize = 256 * 1024;

/// A path at which two trees differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Relative to the roots.
    pub path: OsString,
    /// In what.
    pub kind: Kind,
    /// Size of the file in the first tree and in the second, where it is a regular file there.
    pub sizes: (Option<u64>, Option<u64>),
}

/// In what two trees differ at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Both have it; what is different: `type`, `mode`, `owner`, `content`, `target`, `device`, `attributes`.
    Changed(Vec<&'static str>),
}

/// Goes through two trees side by side and tells `found` of every difference, in the order of their paths. Times do not
/// count.
pub fn differences(
    first: BorrowedFd<'_>,
    second: BorrowedFd<'_>,
    ids: Ids,
    found: &mut dyn FnMut(Difference),
) -> Result<(), DiffError> {
    let failed = |source| DiffError::Read { object: "the file systems".to_owned(), source };
    let walk = |root| Walk::new(root, ids).map(|walk| walk.filter(is_shown)).map_err(failed);
    let (mut firsts, mut seconds) = (walk(first)?, walk(second)?);
    let mut buffers = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut next = (firsts.next().transpose().map_err(failed)?, seconds.next().transpose().map_err(failed)?);
    loop {
        let order = match &next {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.path.cmp(&b.path),
        };
        match (order, &next) {
            (Ordering::Less, (Some(a), _)) => {
                found(Difference { path: a.path.clone(), kind: Kind::Removed, sizes: (size(a), None) });
            }
            (Ordering::Greater, (_, Some(b))) => {
                found(Difference { path: b.path.clone(), kind: Kind::Added, sizes: (None, size(b)) });
            }
            (Ordering::Equal, (Some(a), Some(b))) => {
                let changed = compare(a, b, &mut buffers).map_err(|source| DiffError::Read {
                    object: format!("`{}`", a.path.display()),
                    source,
                })?;
                if !changed.is_empty() {
                    let (path, sizes) = (a.path.clone(), (size(a), size(b)));
                    found(Difference { path, kind: Kind::Changed(changed), sizes });
                }
            }
            _ => return Ok(()),
        }
        if order != Ordering::Greater {
            next.0 = firsts.next().transpose().map_err(failed)?;
        }
        if order != Ordering::Less {
            next.1 = seconds.next().transpose().map_err(failed)?;
        }
    }
}

/// A view of a single snapshot may show the marks that hide nothing.
fn is_shown(visited: &io::Result<Visited>) -> bool {
    visited.as_ref().map_or(true, |visited| !visited.entry.stat.is_whiteout())
}

fn size(visited: &Visited) -> Option<u64> {
    let stat = &visited.entry.stat;
    (stat.kind == FileKind::File).then_some(stat.size)
}

fn compare(a: &Visited, b: &Visited, buffers: &mut (Vec<u8>, Vec<u8>)) -> io::Result<Vec<&'static str>> {
    let (first, second) = (&a.entry.stat, &b.entry.stat);
    if first.kind != second.kind {
        return Ok(vec!["type"]);
    }
    let mut changed = Vec::new();
    if first.kind != FileKind::Symlink && first.mode != second.mode {
        changed.push("mode");
    }
    if (first.uid, first.gid) != (second.uid, second.gid) {
        changed.push("owner");
    }
    match first.kind {
        FileKind::File if first.size != second.size || !has_same_bytes(a, b, buffers)? => {
            changed.push("content");
        }
        FileKind::Symlink if target(a)? != target(b)? => changed.push("target"),
        FileKind::CharDevice | FileKind::BlockDevice if first.rdev != second.rdev => changed.push("device"),
        _ => {}
    }
    if attributes(a)? != attributes(b)? {
        changed.push("attributes");
    }
    Ok(changed)
}

fn target(visited: &Visited) -> io::Result<OsString> {
    walk::readlink_at(visited.dir.as_fd(), &visited.entry.name)
}

fn attributes(visited: &Visited) -> io::Result<walk::Xattrs> {
    let mut xattrs = walk::xattrs_at(visited.dir.as_fd(), &visited.entry.name)?;
    xattrs.retain(|(name, _)| is_content_xattr(name));
    Ok(xattrs)
}

fn has_same_bytes(a: &Visited, b: &Visited, buffers: &mut (Vec<u8>, Vec<u8>)) -> io::Result<bool> {
    let (first, second) = (&a.entry.stat, &b.entry.stat);
    if (first.dev, first.ino) == (second.dev, second.ino) {
        return Ok(true);
    }
    let mut first = walk::open_file_at(a.dir.as_fd(), &a.entry.name)?;
    let mut second = walk::open_file_at(b.dir.as_fd(), &b.entry.name)?;
    loop {
        let (one, other) = (fill(&mut first, &mut buffers.0)?, fill(&mut second, &mut buffers.1)?);
        if buffers.0[..one] != buffers.1[..other] {
            return Ok(false);
        }
        if one == 0 {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
pub(super) fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn every_difference_is_found_and_named() {
        let scratch = Scratch::new();
        for tree in ["a", "b"] {
            fs::create_dir_all(scratch.path(tree).join("dir")).unwrap();
            for name in ["same", "bytes", "size", "mode", "dir/type"] {
                fs::write(scratch.path(tree).join(name), "text").unwrap();
            }
            symlink(tree, scratch.path(tree).join("link")).unwrap();
        }
        let b = |name: &str| scratch.path("b").join(name);
        fs::write(scratch.path("a").join("gone"), "x").unwrap();
        fs::write(b("bytes"), "tex!").unwrap();
        fs::write(b("size"), "longer text").unwrap();
        fs::write(b("new"), "").unwrap();
        fs::set_permissions(b("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(b("dir/type")).unwrap();
        fs::create_dir(b("dir/type")).unwrap();
        let (first, second) =
            (File::open(scratch.path("a")).unwrap(), File::open(scratch.path("b")).unwrap());
        let mut seen = Vec::new();
        let mut note = |it: Difference| seen.push((it.path.into_string().unwrap(), it.kind));
        differences(first.as_fd(), second.as_fd(), Ids::Kernel, &mut note).unwrap();
        let changed = |name: &str, what| (name.to_owned(), Kind::Changed(vec![what]));
        let expected = [
            changed("bytes", "content"),
            changed("dir/type", "type"),
            ("gone".to_owned(), Kind::Removed),
            changed("link", "target"),
            changed("mode", "mode"),
            ("new".to_owned(), Kind::Added),
            changed("size", "content"),
        ];
        assert_eq!(seen, expected);
    }
}
