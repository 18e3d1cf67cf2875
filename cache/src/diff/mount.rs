//! A cache mount as one plain tar, and back: the root's own entry first, times, owners and hard links as they are.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::Mode;

use super::DiffError;
use super::root::{remove_at, write_error};
use super::tar_reader::TarReader;
use super::tar_writer::{TarWriter, WriteSink};
use super::unpack::{Rules, Unpacker};
use crate::Ids;
use crate::walk::{self, FileKind, Walk};

const OBJECT: &str = "the cache mount";

/// The most bytes that may follow the archive's end mark. What is written here has one block there.
const TRAILING_BYTES_MAX: u64 = 64 * 1024;

/// Writes `root` and all below it. Sockets and devices are left out: the first cannot be kept, the second no cache needs.
pub(crate) fn write_mount(root: BorrowedFd<'_>, ids: Ids, out: &mut dyn io::Write) -> Result<(), DiffError> {
    let failed = |source| DiffError::Read { object: OBJECT.to_owned(), source };
    let mut tar = TarWriter::new(WriteSink(out), None, OBJECT.to_owned());
    let dir = walk::open_dir_at(root, OsStr::new(".")).map_err(failed)?;
    let stat = ids.stat_of(dir.as_fd()).map_err(failed)?;
    tar.dir(OsStr::new(""), &stat, &walk::xattrs_of(dir.as_fd()).map_err(failed)?)?;
    for visited in Walk::new(root, ids).map_err(failed)? {
        let visited = visited.map_err(failed)?;
        if !matches!(visited.entry.stat.kind, FileKind::CharDevice | FileKind::BlockDevice) {
            tar.visited(&visited)?;
        }
    }
    let (mut sink, last) = tar.finish()?;
    sink.write(&last)
}

/// Unpacks what [`write_mount`] wrote, or what somebody says it did, into the empty directory `root`. Reads `archive` to
/// its end.
pub(crate) fn extract_mount(archive: impl Read, root: BorrowedFd<'_>, ids: Ids) -> Result<(), DiffError> {
    let mut tar = TarReader::new(archive);
    let mut unpacker = Unpacker::new(root, ids, Rules::Mount, OBJECT.to_owned())?;
    unpacker.unpack(None, &mut tar)?;
    tar.finish(TRAILING_BYTES_MAX).map_err(|source| DiffError::Read { object: OBJECT.to_owned(), source })?;
    unpacker.set_dir_times()
}

/// Takes away all that is below `root`, which becomes root's own directory again.
pub(crate) fn empty_dir(root: BorrowedFd<'_>, ids: Ids) -> Result<(), DiffError> {
    let empty = || -> io::Result<()> {
        let dir = walk::open_dir_at(root, OsStr::new("."))?;
        for entry in walk::read_dir(dir.as_fd())? {
            remove_at(dir.as_fd(), entry.name.as_bytes())?;
        }
        ids.set_owner_of(&dir, (0, 0))?;
        Ok(rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?)
    };
    empty().map_err(|source| write_error("empty", b".", OBJECT, source))
}
