//! One file with all that it has, once more in another directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, SeekFrom};
use rustix::io::Errno;

use super::unpack::{Metadata, create_file, make_node, make_symlink, set_metadata, timestamps};
use crate::Ids;
use crate::walk::{self, FileKind, Stat, Xattrs};

/// Copies the file `name` of `from`, which is no directory, as `new` of `to`: bytes with their holes, owner, mode,
/// attributes and time. The file system shares the blocks where it can.
pub(crate) fn copy_file(
    from: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
    to: BorrowedFd<'_>,
    new: &OsStr,
    ids: Ids,
) -> io::Result<()> {
    let new = new.as_bytes();
    let owner = Some((stat.uid, stat.gid));
    let of = |xattrs| Metadata { ids, mode: stat.mode, owner, mtime: stat.mtime, xattrs };
    match stat.kind {
        FileKind::File => {
            let source = walk::open_file_at(from, name)?;
            let xattrs = walk::xattrs_of(source.as_fd())?;
            let file = create_file(to, new)?;
            copy_bytes(&source, &file, stat.size)?;
            set_metadata(file.as_fd(), &of(&xattrs))?;
            Ok(rustix::fs::futimens(&file, &timestamps(stat.mtime))?)
        }
        FileKind::Symlink => {
            let target = walk::readlink_at(from, name)?;
            make_symlink(to, new, target.as_bytes(), &of(&walk::xattrs_at(from, name)?))
        }
        FileKind::Dir => Err(Errno::ISDIR.into()),
        kind => make_node(to, new, kind, stat.rdev, &of(&walk::xattrs_at(from, name)?)),
    }
}

/// Gives a directory the owner, mode and attributes of another.
pub(crate) fn set_dir(dir: BorrowedFd<'_>, stat: &Stat, xattrs: &Xattrs, ids: Ids) -> io::Result<()> {
    let owner = Some((stat.uid, stat.gid));
    set_metadata(dir, &Metadata { ids, mode: stat.mode, owner, mtime: stat.mtime, xattrs })
}

/// Gives a directory in which nothing changes any more the time of another.
pub(crate) fn set_dir_time(dir: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    Ok(rustix::fs::futimens(dir, &timestamps(stat.mtime))?)
}

/// The same for what is no directory, and may be nothing that can be opened.
pub(crate) fn set_time_at(dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<()> {
    Ok(rustix::fs::utimensat(dir, name, &timestamps(stat.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Fills the empty file `to`.
fn copy_bytes(from: &File, to: &File, size: u64) -> io::Result<()> {
    if size == 0 || rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut end = 0;
    while let Some(start) = seek_to(from, SeekFrom::Data(end))?.filter(|start| *start < size) {
        end = seek_to(from, SeekFrom::Hole(start))?.unwrap_or(size).min(size);
        copy_range(from, to, start, end)?;
    }
    // What ends in a hole.
    if end < size {
        to.set_len(size)?;
    }
    Ok(())
}

/// `None` when there is nothing more.
fn seek_to(file: &File, to: SeekFrom) -> io::Result<Option<u64>> {
    match (rustix::fs::seek(file, to), to) {
        (Ok(offset), _) => Ok(Some(offset)),
        (Err(Errno::NXIO), _) => Ok(None),
        // The file system knows no holes.
        (Err(Errno::INVAL), SeekFrom::Data(offset)) => Ok(Some(offset)),
        (Err(Errno::INVAL), _) => Ok(None),
        (Err(errno), _) => Err(errno.into()),
    }
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let length = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length) {
            // The file is shorter than it was.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::PERM) => {
                return copy_by_hand(from, to, read_at, end);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(mut from: &File, mut to: &File, start: u64, end: u64) -> io::Result<()> {
    rustix::fs::seek(from, SeekFrom::Start(start))?;
    rustix::fs::seek(to, SeekFrom::Start(start))?;
    let copied = io::copy(&mut (&mut from).take(end - start), &mut to)?;
    to.flush()?;
    if copied == end - start { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn bytes_and_holes_stay() {
        const HOLE: u64 = 1 << 20;
        let scratch = Scratch::new();
        type Case = (&'static str, &'static [(u64, &'static str)], u64);
        let cases: [Case; 5] = [
            ("empty", &[], 0),
            ("short", &[(0, "abc")], 3),
            ("hole first", &[(HOLE, "abc")], HOLE + 3),
            ("hole last", &[(0, "abc")], HOLE),
            ("only a hole", &[], HOLE),
        ];
        for (name, parts, size) in cases {
            let file = File::create(scratch.path(name)).unwrap();
            for (offset, text) in parts {
                std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), *offset).unwrap();
            }
            file.set_len(size).unwrap();
            let dir = File::open(scratch.path("")).unwrap();
            for by_hand in [false, true] {
                let copy = format!("{name} {by_hand}");
                if by_hand {
                    let (from, to) =
                        (File::open(scratch.path(name)).unwrap(), File::create(scratch.path(&copy)).unwrap());
                    copy_by_hand(&from, &to, 0, size).unwrap();
                } else {
                    let stat = walk::stat_at(dir.as_fd(), OsStr::new(name)).unwrap();
                    copy_file(
                        dir.as_fd(),
                        OsStr::new(name),
                        &stat,
                        dir.as_fd(),
                        OsStr::new(&copy),
                        Ids::Kernel,
                    )
                    .unwrap();
                    let blocks = |name: &str| std::fs::metadata(scratch.path(name)).unwrap().blocks();
                    assert!(blocks(&copy) <= blocks(name), "{name}");
                }
                let bytes = |name: &str| std::fs::read(scratch.path(name)).unwrap();
                assert!(bytes(&copy) == bytes(name), "{copy}");
            }
        }
    }
}
