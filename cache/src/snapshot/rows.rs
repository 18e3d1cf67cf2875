//! The rows of snapshots and layers.

use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, Transaction};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::{Chain, Layer, Snapshot, SnapshotId, missing};
use crate::diff::Variant;
use crate::gc::lease::Leased;
use crate::store::{Damage, from_nanos, to_nanos};
use crate::{ChainId, ContentDigest, DiffId, Digest, Store, StoreError, state};

impl Store {
    /// The rows of a chain's snapshots in order; an error if one is missing.
    pub fn snapshots(&self, chain: &Chain) -> Result<Vec<Snapshot>, StoreError> {
        if chain.0.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.read("look up snapshots", |transaction| {
            let mut select = transaction
                .prepare_cached("SELECT content, size, created_ns FROM snapshots WHERE id = ?1")?;
            let get = |id: &SnapshotId| {
                let row = select
                    .query_row([id.row_id()], |row| {
                        Ok(Snapshot {
                            id: *id,
                            content: ContentDigest(row.get(0)?),
                            size: row.get::<_, i64>(1)?.cast_unsigned(),
                            created: from_nanos(row.get(2)?),
                        })
                    })
                    .optional()?;
                Ok(row.ok_or_else(|| missing(*id)))
            };
            chain.0.iter().map(get).collect::<rusqlite::Result<Vec<_>>>()
        })?;
        rows.into_iter().collect()
    }

    /// The layers that were made of (or unpacked into) the snapshots `ids` in `variant` (see [`crate::diff::Variant`]),
    /// in the same order.
    pub fn layers(&self, ids: &[SnapshotId], variant: &str) -> Result<Vec<Option<Layer>>, StoreError> {
        self.read("look up layers", |transaction| {
            let mut select = transaction.prepare_cached(
                "SELECT diff_id, digest, size, media_type, annotations FROM layers WHERE snapshot = ?1 AND variant = ?2",
            )?;
            let layer = |row: &Row<'_>| {
                Ok(Layer {
                    diff_id: DiffId(Digest::from_bytes(row.get(0)?)),
                    digest: Digest::from_bytes(row.get(1)?),
                    size: row.get::<_, i64>(2)?.cast_unsigned(),
                    media_type: row.get(3)?,
                    // What is no JSON is as good as none: a layer can be used without its annotations.
                    annotations: row
                        .get::<_, Option<String>>(4)?
                        .and_then(|json| serde_json::from_str(&json).ok())
                        .unwrap_or_default(),
                })
            };
            ids.iter().map(|id| select.query_row((id.row_id(), variant), layer).optional()).collect()
        })
    }

    /// The variants in which a layer with this blob was made here, smallest first.
    pub fn variants_of(&self, digest: &Digest) -> Result<Vec<String>, StoreError> {
        self.read("look up how a layer was made", |transaction| {
            let mut select = transaction.prepare_cached(
                "SELECT DISTINCT variant FROM layers WHERE digest = ?1 AND variant <> ?2 ORDER BY variant",
            )?;
            select.query_map((digest.as_bytes(), Variant::PULLED), |row| row.get(0))?.collect()
        })
    }

    /// The layer of one snapshot.
    pub fn layer(&self, id: SnapshotId, variant: &str) -> Result<Option<Layer>, StoreError> {
        Ok(self.layers(&[id], variant)?.pop().flatten())
    }

    /// Remembers a layer of snapshot `id`; `chain_id` names the whole stack up to it.
    pub fn set_layer(
        &self,
        id: SnapshotId,
        variant: &str,
        chain_id: ChainId,
        layer: &Layer,
    ) -> Result<(), StoreError> {
        const OPERATION: &str = "store a layer";
        self.write(OPERATION, |transaction| {
            let put = insert_layer(transaction, id, variant, &chain_id, layer);
            if put.map_err(StoreError::database(OPERATION))? { Ok(()) } else { Err(missing(id)) }
        })
    }

    /// A snapshot whose layer completes the stack `chain_id`, if one is here with its files. A layer with times that were
    /// clamped (`gzip-4…@1700000000`) has other files than the snapshot that it was made of.
    pub fn snapshot_by_chain_id(&self, chain_id: &ChainId) -> Result<Option<SnapshotId>, StoreError> {
        let found =
            self.find_and_lease(|| self.find_by_chain_id(chain_id), |id| vec![Leased::Snapshot(*id)])?;
        self.will_note_use(found);
        Ok(found)
    }

    fn find_by_chain_id(&self, chain_id: &ChainId) -> Result<Option<SnapshotId>, StoreError> {
        let ids: Vec<i64> = self.read("look up a layer", |transaction| {
            transaction
                .prepare_cached(
                    "SELECT s.id FROM layers l JOIN snapshots s ON s.id = l.snapshot
                     WHERE l.chain_id = ?1 AND NOT s.lazy AND instr(l.variant, '@') = 0",
                )?
                .query_map([chain_id.0.as_bytes()], |row| row.get(0))?
                .collect()
        })?;
        for id in ids.into_iter().map(|id| SnapshotId(id.cast_unsigned())) {
            if self.has_snapshot_files(id)? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// An error unless the files of all these snapshots are there, but for those of lazy ones.
    pub fn require_files(&self, chain: &Chain) -> Result<(), StoreError> {
        for id in &chain.0 {
            if !self.is_lazy(*id)? && !self.has_snapshot_files(*id)? {
                return Err(missing(*id));
            }
        }
        Ok(())
    }

    /// Whether the files of a snapshot that has a row are there. One that somebody has deleted is forgotten, and all
    /// that was recorded with it, so that it is made again.
    pub(crate) fn has_snapshot_files(&self, id: SnapshotId) -> Result<bool, StoreError> {
        const OPERATION: &str = "look up a snapshot's files";
        match rustix::fs::statat(self.snapshots_dir(), format!("{id}/fs"), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(true),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.write(OPERATION, |transaction| {
                    delete(transaction, id).map_err(StoreError::database(OPERATION))
                })?;
                self.damages().note(Damage::Snapshots(vec![id]));
                Ok(false)
            }
            Err(errno) => {
                Err(StoreError::io(OPERATION, self.root().join("snapshots").join(id.to_string()), errno))
            }
        }
    }
}

/// Inserts a layer of snapshot `id`, unless there is no such snapshot.
pub(super) fn insert_layer(
    transaction: &Transaction<'_>,
    id: SnapshotId,
    variant: &str,
    chain_id: &ChainId,
    layer: &Layer,
) -> rusqlite::Result<bool> {
    let annotations = (!layer.annotations.is_empty())
        .then(|| serde_json::to_string(&layer.annotations).expect("annotations have string keys"));
    let inserted = transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO layers
             (snapshot, variant, diff_id, digest, size, media_type, chain_id, annotations)
             SELECT id, ?2, ?3, ?4, ?5, ?6, ?7, ?8 FROM snapshots WHERE id = ?1",
        )?
        .execute((
            id.row_id(),
            variant,
            layer.diff_id.0.as_bytes(),
            layer.digest.as_bytes(),
            layer.size.cast_signed(),
            &layer.media_type,
            chain_id.0.as_bytes(),
            annotations,
        ))?;
    Ok(inserted > 0)
}

/// Inserts the row of a new snapshot.
pub(super) fn insert(transaction: &Transaction<'_>, snapshot: &Snapshot) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO snapshots (id, content, size, created_ns) VALUES (?1, ?2, ?3, ?4)")?
        .execute((
            snapshot.id.row_id(),
            &snapshot.content.0,
            snapshot.size.cast_signed(),
            to_nanos(snapshot.created),
        ))?;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO uses (snapshot, used_ns) VALUES (?1, ?2)")?
        .execute((snapshot.id.row_id(), to_nanos(SystemTime::now())))
        .map(drop)
}

/// Deletes the row of snapshot `id`, its layers, and the records that name it.
pub(super) fn delete(transaction: &Transaction<'_>, id: SnapshotId) -> rusqlite::Result<()> {
    forget(transaction, id)?;
    state::delete_records_naming(transaction, |named| named == id)
}

/// Deletes the row of snapshot `id` and its layers, and leaves the records to the caller.
pub(crate) fn forget(transaction: &Transaction<'_>, id: SnapshotId) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM snapshots WHERE id = ?1")?.execute([id.row_id()])?;
    transaction.prepare_cached("DELETE FROM layers WHERE snapshot = ?1")?.execute([id.row_id()])?;
    transaction.prepare_cached("DELETE FROM uses WHERE snapshot = ?1")?.execute([id.row_id()]).map(drop)
}
