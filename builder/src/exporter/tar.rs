//! The `tar` exporter: the files of an image, or of one for each of several platforms, as one tar.

use std::io::Write;

use wharf_cache::Ids;
use wharf_cache::diff::TreeWriter;

use super::ExportError;
use super::tree::{Merged, Tree};

/// Writes everything below the roots of `trees` as one plain tar; times later than `source_date_epoch` become it.
pub fn write(
    trees: &[Tree],
    ids: Ids,
    source_date_epoch: Option<u64>,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let mut tar = TreeWriter::new(out, source_date_epoch);
    let mut merged = Merged::of(trees);
    for tree in trees {
        let mut conflict = None;
        tar.add(tree.root(), ids, tree.below.as_deref(), &mut |path, is_dir| match merged.add(
            tree,
            path.as_ref(),
            is_dir,
        ) {
            Ok(is_new) => is_new,
            Err(error) => {
                conflict.get_or_insert(error);
                false
            }
        })?;
        if let Some(error) = conflict {
            return Err(error);
        }
    }
    Ok(tar.finish()?)
}
