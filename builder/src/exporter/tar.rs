//! The `tar` exporter: the image's file system as one tar.

use std::io::Write;
use std::os::fd::BorrowedFd;

use wharf_cache::{Ids, diff};

use super::ExportError;

/// Writes everything below `root` (a view of the file system) as one plain tar; times later than
/// `source_date_epoch` become it.
pub fn write(
    root: BorrowedFd<'_>,
    ids: Ids,
    source_date_epoch: Option<u64>,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    Ok(diff::write_tree(root, ids, source_date_epoch, out)?)
}
