//! Lazy snapshots: rows that describe what somebody else has built, while the files are still elsewhere.
//!
//! Keys and images need only the rows. When files are read, the layer is brought and unpacked, and has to give what the row
//! says ([`crate::diff::fill`]).

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::time::SystemTime;

use rusqlite::{OptionalExtension, Transaction};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::{Active, Chain, Layer, Snapshot, SnapshotError, SnapshotId, rows};
use crate::diff::LayerSource;
use crate::gc::lease::Leased;
use crate::{ChainId, ContentDigest, DiffId, Digest, Store, StoreError, contenthash, store};

/// A layer that somebody else made, and the snapshot that it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LazyLayer {
    /// The layer.
    pub layer: Layer,
    /// What its bytes depend on besides the files: the key of its row ([`crate::diff::Variant`]).
    pub variant: String,
    /// Content digest of the snapshot.
    pub content: ContentDigest,
    /// Sum of the regular files' sizes in bytes.
    pub size: u64,
    /// When the snapshot was made.
    pub created: SystemTime,
}

/// A snapshot whose files are to be brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) id: SnapshotId,
    /// How many snapshots of the chain lie below it.
    pub(crate) position: usize,
    pub(crate) content: ContentDigest,
    pub(crate) source: LayerSource,
}

impl Store {
    /// The chain that `layers` (lowest first) describe: of snapshots that are here or described already where these are
    /// stacked in the same way, of new rows otherwise.
    pub fn describe_chain(&self, layers: &[LazyLayer]) -> Result<Chain, StoreError> {
        let failed = |source| StoreError::io("lease", self.root(), source);
        // Some are found and some are made: none may be collected before it is leased.
        let _guard = self.process().leases().keep_collectors_off().map_err(failed)?;
        let chain = self.insert_chain(layers)?;
        self.process().lease(chain.0.iter().copied().map(Leased::Snapshot)).map_err(failed)?;
        Ok(chain)
    }

    fn insert_chain(&self, layers: &[LazyLayer]) -> Result<Chain, StoreError> {
        const OPERATION: &str = "describe snapshots";
        self.write(OPERATION, |transaction| {
            let mut chain = Chain::default();
            let mut parent = None;
            for described in layers {
                let chain_id = ChainId::extend(parent, described.layer.diff_id);
                parent = Some(chain_id);
                let known = self
                    .known(transaction, &chain_id, &described.content)
                    .map_err(StoreError::database(OPERATION))?;
                let id = match known {
                    Some(id) => id,
                    None => self.insert_lazy(transaction, described, &chain_id)?,
                };
                chain.0.push(id);
            }
            Ok(chain)
        })
    }

    /// The layers whose blobs have to be had before the files of `chain` can be read.
    pub fn lazy_layers(&self, chain: &Chain) -> Result<Vec<(SnapshotId, LayerSource)>, StoreError> {
        Ok(self.missing(chain)?.into_iter().map(|missing| (missing.id, missing.source)).collect())
    }

    /// Forgets a lazy snapshot that cannot be had, with the records that name it; one whose files have come meanwhile stays.
    pub fn drop_lazy_snapshot(&self, id: SnapshotId) -> Result<(), StoreError> {
        const OPERATION: &str = "drop a lazy snapshot";
        self.write(OPERATION, |transaction| {
            let drop = || {
                let mut select =
                    transaction.prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1 AND lazy")?;
                if select.exists([id.row_id()])? { rows::delete(transaction, id) } else { Ok(()) }
            };
            drop().map_err(StoreError::database(OPERATION))
        })
    }

    /// Whether the files of snapshot `id` are still elsewhere.
    pub fn is_lazy(&self, id: SnapshotId) -> Result<bool, StoreError> {
        self.read("look up a snapshot", |transaction| {
            transaction
                .prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1 AND lazy")?
                .exists([id.row_id()])
        })
    }

    /// A layer of snapshot `id` with its row key: the one with the digest `digest`.
    pub fn layer_variant(&self, id: SnapshotId, digest: &Digest) -> Result<Option<String>, StoreError> {
        self.read("look up a layer", |transaction| {
            transaction
                .prepare_cached(
                    "SELECT variant FROM layers WHERE snapshot = ?1 AND digest = ?2 ORDER BY variant",
                )?
                .query_row((id.row_id(), digest.as_bytes()), |row| row.get(0))
                .optional()
        })
    }

    /// The lazy snapshots of a chain, each once.
    pub(crate) fn missing(&self, chain: &Chain) -> Result<Vec<Missing>, StoreError> {
        // Every look-up of a record asks, and hardly any has a lazy snapshot.
        if chain.0.is_empty() {
            return Ok(Vec::new());
        }
        self.read("look up snapshots", |transaction| {
            let mut select = transaction.prepare_cached(
                "SELECT s.content, l.digest, l.size, l.media_type, l.diff_id
                 FROM snapshots s JOIN layers l ON l.snapshot = s.id
                 WHERE s.id = ?1 AND s.lazy ORDER BY l.variant",
            )?;
            let mut seen = HashSet::new();
            let mut missing = Vec::new();
            for (position, id) in chain.0.iter().enumerate().filter(|(_, id)| seen.insert(**id)) {
                let row = select.query_row([id.row_id()], |row| {
                    Ok(Missing {
                        id: *id,
                        position,
                        content: ContentDigest(row.get(0)?),
                        source: LayerSource {
                            digest: Digest::from_bytes(row.get(1)?),
                            size: row.get::<_, i64>(2)?.cast_unsigned(),
                            media_type: row.get(3)?,
                            diff_id: DiffId(Digest::from_bytes(row.get(4)?)),
                        },
                    })
                });
                missing.extend(row.optional()?);
            }
            Ok(missing)
        })
    }

    /// A lazy snapshot that is the topmost of the stack `chain_id`.
    pub(crate) fn lazy_by_chain_id(
        &self,
        chain_id: &ChainId,
    ) -> Result<Option<(SnapshotId, ContentDigest)>, StoreError> {
        self.read("look up a layer", |transaction| {
            transaction
                .prepare_cached(
                    "SELECT s.id, s.content FROM layers l JOIN snapshots s ON s.id = l.snapshot
                     WHERE l.chain_id = ?1 AND s.lazy",
                )?
                .query_row([chain_id.0.as_bytes()], |row| {
                    Ok((SnapshotId(row.get::<_, i64>(0)?.cast_unsigned()), ContentDigest(row.get(1)?)))
                })
                .optional()
        })
    }

    /// A snapshot with this content that is the topmost of this stack; one whose files are here if there is one.
    fn known(
        &self,
        transaction: &Transaction<'_>,
        chain_id: &ChainId,
        content: &ContentDigest,
    ) -> rusqlite::Result<Option<SnapshotId>> {
        let mut select = transaction.prepare_cached(
            "SELECT s.id, s.lazy FROM layers l JOIN snapshots s ON s.id = l.snapshot
             WHERE l.chain_id = ?1 AND s.content = ?2 ORDER BY s.lazy",
        )?;
        let mut rows = select.query((chain_id.0.as_bytes(), &content.0))?;
        while let Some(row) = rows.next()? {
            let id = SnapshotId(row.get::<_, i64>(0)?.cast_unsigned());
            let is_here =
                rustix::fs::statat(self.snapshots_dir(), format!("{id}/fs"), AtFlags::SYMLINK_NOFOLLOW);
            if row.get::<_, bool>(1)? || is_here.is_ok() {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn insert_lazy(
        &self,
        transaction: &Transaction<'_>,
        described: &LazyLayer,
        chain_id: &ChainId,
    ) -> Result<SnapshotId, StoreError> {
        const OPERATION: &str = "describe a snapshot";
        let id = store::random_u64()
            .map_err(|source| StoreError::io("name a snapshot in", self.root(), source))?;
        let LazyLayer { layer, variant, content, size, created } = described;
        let snapshot = Snapshot { id: SnapshotId(id), content: *content, size: *size, created: *created };
        let insert = || {
            rows::insert(transaction, &snapshot)?;
            transaction
                .prepare_cached("UPDATE snapshots SET lazy = 1 WHERE id = ?1")?
                .execute([snapshot.id.row_id()])?;
            rows::insert_layer(transaction, snapshot.id, variant, chain_id, layer)
        };
        insert().map_err(StoreError::database(OPERATION))?;
        Ok(snapshot.id)
    }
}

impl Active {
    /// Content digest of what was unpacked so far.
    pub(crate) fn content(&self) -> Result<ContentDigest, SnapshotError> {
        let hashed = contenthash::hash_tree(self.upper.as_fd(), self.store.setup().ids);
        hashed.map(|(content, _)| content).map_err(|source| self.error("hash", source))
    }

    /// Makes the diff the files of the lazy snapshot `id`, which was described with this content digest.
    pub(crate) fn commit_as(self, id: SnapshotId) -> Result<(), SnapshotError> {
        self.store.process().leases().note_growth();
        let leased = self.store.process().lease([Leased::Snapshot(id)]);
        leased.map_err(|source| self.error("lease", source))?;
        let aside = self.store.write("bring a snapshot", |transaction| {
            let failed = StoreError::database("bring a snapshot");
            let is_lazy: Option<bool> = transaction
                .prepare_cached("SELECT lazy FROM snapshots WHERE id = ?1")
                .and_then(|mut select| select.query_row([id.row_id()], |row| row.get(0)).optional())
                .map_err(&failed)?;
            match is_lazy {
                None => return Err(super::missing(id).into()),
                // Somebody else was faster.
                Some(false) => return Ok(None),
                Some(true) => {}
            }
            let aside = self.clear_place(id)?;
            self.publish(id)?;
            let mut update =
                transaction.prepare_cached("UPDATE snapshots SET lazy = 0 WHERE id = ?1").map_err(&failed)?;
            update.execute([id.row_id()]).map_err(&failed)?;
            Ok::<_, SnapshotError>(aside)
        })?;
        if let Some(aside) = aside {
            self.store.discard(&aside);
        }
        Ok(())
    }

    /// Moves what a process that died before its transaction ended has left in the snapshot's place into this one's
    /// directory; its name there.
    fn clear_place(&self, id: SnapshotId) -> Result<Option<String>, SnapshotError> {
        let aside = self.store.process().unique_name();
        match rustix::fs::renameat(
            self.store.snapshots_dir(),
            id.to_string(),
            self.store.process().fd(),
            &aside,
        ) {
            Ok(()) => Ok(Some(aside)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error("clear the place of", errno.into())),
        }
    }
}
