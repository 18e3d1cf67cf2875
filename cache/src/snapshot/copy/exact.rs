//! The directory of a snapshot once more, with the marks in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::writer::Writer;
use crate::Ids;
use crate::contenthash::{HardLinks, is_opaque};
use crate::walk::{self, FileKind, Walk};

/// Copies the directory `from` of a snapshot into the empty directory `to`. Names of one file are names of one copy.
pub(in crate::snapshot) fn copy_exactly(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    ids: Ids,
) -> io::Result<()> {
    let mut writer = Writer::new(to, ids)?;
    let xattrs = walk::xattrs_of(from)?;
    writer.root(&ids.stat_of(from)?, &xattrs)?;
    if is_opaque(&xattrs) {
        writer.opaque("".as_ref())?;
    }
    let mut links = HardLinks::default();
    for visited in Walk::new(from, ids)? {
        let visited = visited?;
        let (path, dir, stat) = (&visited.path, visited.dir.as_fd(), &visited.entry.stat);
        if stat.kind == FileKind::Dir {
            let xattrs = walk::xattrs_at(dir, &visited.entry.name)?;
            writer.dir(path, stat, &xattrs)?;
            if is_opaque(&xattrs) {
                writer.opaque(path)?;
            }
        } else if stat.is_whiteout() {
            writer.whiteout(path)?;
            // It has one in layers.
            writer.time(path, stat)?;
        } else if let Some(first) = links.first_path(&visited) {
            writer.link(&first, path)?;
        } else {
            writer.copy(path, dir, &visited.entry.name, stat)?;
        }
    }
    writer.finish()
}
